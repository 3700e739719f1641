//! Decides: what a file is, what to fetch next, what is kept and for how long.
//!
//! The mirror knows freshness, flights and readers. It never sees an HTTP response to a client. Enter by [`Mirror`]:
//! [`Mirror::file`] finds what a path is, [`Mirror::read`] its bytes, [`Mirror::answer`] what the API says.

mod answers;
mod catalog;
mod courier;
mod error;
mod fill;
mod reader;
mod sources;

pub use answers::{Answer, Question};
pub use catalog::FileInfo;
pub use error::MirrorError;
pub(crate) use error::refused;
pub use reader::Reader;

use crate::access::Access;
use crate::config::Config;
use crate::hub::{ApiTarget, Oid};
use crate::source::{Origin, Token};
use crate::store::{Loan, Store};
use catalog::Catalog;
use fill::{Fill, Limits};
use sources::{Place, Sources};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Objects used lately stay open, with their marks of what was checked.
const WARM_OBJECTS_MAX: u64 = 1024;
const WARM_FOR: Duration = Duration::from_secs(600);
/// Links remembered as made; more are only looked at again.
const LINKED_MAX: u64 = 100_000;
/// The map of live fills is swept of dead ones when it has grown by this many.
const SWEEP_AT: usize = 4096;

/// The heart: one per process.
pub struct Mirror {
    pub(crate) store: Arc<Store>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) access: Access,
    pub(crate) config: Config,
    catalog: Catalog,
    answers: answers::Coalesced,
    limits: Arc<Limits>,
    /// Exactly one fill per live object, or two would fetch the same block.
    fills: Mutex<HashMap<Oid, Weak<Fill>>>,
    warm: moka::sync::Cache<Oid, Arc<Fill>>,
    /// Files whose link is known to stand.
    linked: moka::sync::Cache<FileInfo, ()>,
}

impl Mirror {
    /// Builds the mirror of a checked configuration over an open store. Needs no runtime yet.
    pub fn new(config: &Config, store: Arc<Store>) -> Arc<Mirror> {
        let origin = Origin::new(&config.upstream).expect("Config accepts only URLs as upstream.url");
        let origin = Arc::new(origin);
        let limits = Limits {
            connections: Arc::new(Semaphore::new(config.fetch.connections as usize)),
            connections_per_object: config.fetch.connections_per_object as usize,
            run_size: config.fetch.run_size,
            attempts: config.upstream.attempts,
            when_client_leaves: config.fetch.when_client_leaves,
        };
        Arc::new(Mirror {
            access: Access::new(config, origin.clone(), store.clone()),
            catalog: Catalog::new(config, origin.clone(), store.clone()),
            answers: answers::coalesced(),
            config: config.clone(),
            store,
            origin,
            limits: Arc::new(limits),
            fills: Mutex::default(),
            warm: moka::sync::Cache::builder().max_capacity(WARM_OBJECTS_MAX).time_to_idle(WARM_FOR).build(),
            linked: moka::sync::Cache::new(LINKED_MAX),
        })
    }

    /// Opens a file's bytes. `token` is one that upstream lets read the file; it may be used for fetching.
    pub async fn read(self: &Arc<Self>, file: &FileInfo, token: Option<&Token>) -> Result<Reader, MirrorError> {
        self.store.touch(&file.oid);
        let fill = match self.live(&file.oid) {
            Some(fill) => fill,
            None => self.open(file).await?,
        };
        if !self.config.upstream.offline {
            let target = ApiTarget::resolve(&file.repo, &file.commit.into(), &file.path).upstream_path_and_query();
            fill.sources.add(Place { target, token: token.cloned() });
        }
        self.link(file);
        Ok(Reader::new(fill))
    }

    /// Makes the link by which people find the file with `ls`, in the background: serving does not depend on it.
    fn link(&self, file: &FileInfo) {
        if self.linked.contains_key(file) {
            return;
        }
        self.linked.insert(file.clone(), ());
        let (store, file) = (self.store.clone(), file.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(e) = store.link(&file.repo, &file.commit, &file.path, &file.oid) {
                log::warn!("no link for {}/{}: {e}", file.repo, file.path.as_str());
            }
        });
    }

    fn live(&self, oid: &Oid) -> Option<Arc<Fill>> {
        if let Some(fill) = self.warm.get(oid) {
            if !fill.is_broken() {
                return Some(fill);
            }
            self.warm.invalidate(oid);
        }
        let fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        fills.get(oid)?.upgrade().filter(|fill| !fill.is_broken())
    }

    async fn open(self: &Arc<Self>, file: &FileInfo) -> Result<Arc<Fill>, MirrorError> {
        let (mirror, file) = (self.clone(), file.clone());
        let opened = tokio::task::spawn_blocking(move || mirror.open_blocking(&file));
        opened.await.map_err(|e| MirrorError::Store(e.to_string()))?
    }

    fn open_blocking(&self, file: &FileInfo) -> Result<Arc<Fill>, MirrorError> {
        let object = self.store.object(&file.oid, file.size).map_err(|e| MirrorError::Store(e.to_string()))?;
        let mut fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        // Somebody else may have opened it meanwhile; the first one stays.
        if let Some(fill) = fills.get(&file.oid).and_then(Weak::upgrade).filter(|fill| !fill.is_broken()) {
            return Ok(fill);
        }
        let sources = Sources::new(self.origin.clone(), file.oid);
        let fill = Fill::new(object, self.store.clone(), sources, self.limits.clone());
        if fills.len() >= SWEEP_AT {
            fills.retain(|_, fill| fill.strong_count() > 0);
        }
        fills.insert(file.oid, Arc::downgrade(&fill));
        self.warm.insert(file.oid, fill.clone());
        Ok(fill)
    }

    /// Lets go of an object that is only kept warm, so that it can be evicted; not of one that is read or filled.
    pub fn let_go(&self, oid: &Oid) -> Loan {
        // With this lock and the store's nobody new comes to the fill, save through `warm`; hence the second look.
        let mut fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        let Some(fill) = fills.get(oid).and_then(Weak::upgrade) else { return Loan::None };
        let users = |warm: bool| Arc::strong_count(&fill) > 1 + usize::from(warm);
        if users(self.warm.contains_key(oid)) {
            // The cache drops what it has thrown out when it is told to.
            self.warm.run_pending_tasks();
            if users(self.warm.contains_key(oid)) {
                return Loan::InUse;
            }
        }
        self.warm.invalidate(oid);
        // Whoever took it meanwhile reads on from a file without a name, if it comes to that: bytes that were proven.
        fills.remove(oid);
        Loan::Idle
    }

    /// Forgets an object whose file is gone: who reads it reads on, the next one opens it anew.
    pub fn forget(&self, oid: &Oid) {
        let mut fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        self.warm.invalidate(oid);
        fills.remove(oid);
    }

    /// Links were removed: which ones stand must be looked at again.
    pub fn forget_links(&self) {
        self.linked.invalidate_all();
    }
}
