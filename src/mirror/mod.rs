//! Decides: what a file is, what to fetch next, what is kept and for how long.
//!
//! The mirror knows freshness, flights and readers. It never sees an HTTP response to a client. Enter by [`Mirror`]:
//! [`Mirror::file`] finds what a path is, [`Mirror::read`] its bytes, [`Mirror::answer`] what the API says.

mod absent;
mod activity;
mod answers;
mod broken;
mod catalog;
mod courier;
mod derived;
mod error;
mod feed;
mod fill;
mod flights;
mod forgetter;
mod hits;
mod layer;
mod limits;
mod names;
mod pace;
mod promises;
mod reader;
mod rules;
mod second_hand;
mod sources;
mod through;

pub use activity::Flight;
pub use answers::{Answer, HEADERS_OWN, Question};
pub use catalog::FileInfo;
pub use error::MirrorError;
pub(crate) use error::refused;
pub(crate) use forgetter::Forgetter;
pub(crate) use names::Names;
pub use pace::Pace;
pub use promises::{Asker, Part};
pub use reader::Reader;

use crate::access::{Access, Admission};
use crate::config::{Config, WhenClientLeaves};
use crate::hub::{Commit, Oid, RepoId};
use crate::source::{Origin, SourceError, Token, deadline};
use crate::store::{Blocks, Loan, Store, StoreError};
use broken::Broken;
use catalog::Catalog;
use fill::Fill;
use limits::{Disk, Limits, Turns};
use promises::Promises;
use second_hand::{Claim, Voucher};
use sources::Sources;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use through::Through;

/// For [`flights`], which is also compiled with other locks.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

/// Objects used lately stay open, with their marks of what was checked; each is an open file.
const WARM_OBJECTS_MAX: u64 = 1024;
/// Nor more than this part of the files that may be open.
const WARM_PART: u64 = 4;
const WARM_FOR: Duration = Duration::from_secs(600);
/// Links remembered as made; more are only looked at again.
const LINKED_MAX: u64 = 100_000;
/// How long upstream may take where something kept would do: several such questions of one request stay below the 10 s
/// after which clients give up.
pub(crate) const KEPT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a client waits for a file to be opened; one that others wrote is hashed first.
const OPEN_PATIENCE: Duration = Duration::from_secs(8);
/// What takes longer than parsing so much JSON leaves the event loop.
const INLINE_LEN_MAX: usize = 256 << 10;
/// The map of live fills is swept of dead ones when it has grown by this many.
const SWEEP_AT: usize = 4096;

/// The heart: one per process.
pub struct Mirror {
    pub(crate) store: Arc<Store>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) access: Access,
    pub(crate) config: Config,
    names: Arc<Names>,
    /// Repos that other names of theirs let be kept, or not.
    cacheable: moka::sync::Cache<RepoId, bool>,
    promises: Promises,
    catalog: Catalog,
    answers: answers::Coalesced,
    /// Targets of pages that an answer's `Link` has led to.
    led_to: moka::sync::Cache<String, ()>,
    searches: answers::Searches,
    missing: answers::Missing,
    limits: Arc<Limits>,
    /// Exactly one fill per live object, or two would fetch the same block.
    fills: Mutex<HashMap<Oid, Weak<Fill>>>,
    warm: moka::sync::Cache<Oid, Arc<Fill>>,
    /// Objects being opened, once for all who want them.
    opening: moka::future::Cache<Oid, Weak<Fill>>,
    broken: Broken,
    /// Files whose link is known to stand.
    linked: moka::sync::Cache<FileInfo, ()>,
    hits: hits::Hits,
}

impl Mirror {
    /// Builds the mirror of a checked configuration over an open store. Needs no runtime yet.
    pub fn new(config: &Config, store: Arc<Store>) -> Arc<Mirror> {
        let origin = Origin::new(&config.upstream).expect("Config accepts only URLs as upstream.url");
        let origin = Arc::new(origin);
        let limits = Limits {
            turns: Turns::new(config.fetch.connections as usize),
            turns_through: Turns::new(config.fetch.connections as usize),
            parked: Mutex::default(),
            disk: Disk::new(store.read_only()),
            couriers_max: config.fetch.connections_per_object as usize,
            run_size: config.fetch.run_size,
            patience: config.upstream.patience,
            when_client_leaves: config.fetch.when_client_leaves,
        };
        let catalog = Catalog::new(config, origin.clone(), store.clone());
        let forgetter = Arc::new(Forgetter::new(catalog.forgetter()));
        let names = Arc::new(Names::new(config, origin.clone(), store.clone(), forgetter.clone()));
        Arc::new(Mirror {
            access: Access::new(config, origin.clone(), store.clone(), names.clone(), forgetter),
            names,
            promises: Promises::new(),
            cacheable: moka::sync::Cache::new(rules::NAMED_MAX),
            catalog,
            answers: answers::coalesced(),
            led_to: answers::led_to(),
            searches: answers::searches(),
            missing: answers::missing(config.freshness.missing),
            config: config.clone(),
            hits: hits::Hits::load(&store),
            broken: Broken::new(store.clone()),
            store,
            origin,
            limits: Arc::new(limits),
            fills: Mutex::default(),
            opening: moka::future::Cache::builder().max_capacity(LINKED_MAX).time_to_live(OPEN_PATIENCE).build(),
            warm: moka::sync::Cache::builder().max_capacity(warm_objects_max()).time_to_idle(WARM_FOR).build(),
            linked: moka::sync::Cache::new(LINKED_MAX),
        })
    }

    /// Opens a file's bytes for a caller whom [`Access`] let through; its token may be used for fetching.
    pub async fn read(
        self: &Arc<Self>,
        file: &FileInfo,
        token: Option<&Token>,
        admission: Admission,
    ) -> Result<Reader, MirrorError> {
        if !self.may_cache(&file.repo) {
            return self.read_uncached(file, token, admission);
        }
        if self.broken.is_stuck(&file.oid) {
            let (broken, oid) = (self.broken.clone(), file.oid);
            if !Box::pin(blocking(move || Ok(broken.unstick(&oid)))).await? {
                return self.read_uncached(file, token, admission);
            }
        }
        self.store.touch(&file.oid);
        let opened = match self.live(file) {
            Some(fill) => Ok(fill),
            // Boxed, as all that is seldom needed: the future of every request is moved about with room for it.
            None => Box::pin(self.open(file)).await,
        };
        let fill = match opened {
            Ok(fill) => fill,
            Err(MirrorError::Store(error)) => return self.read_through(file, token, admission, error),
            Err(error) => return Err(error),
        };
        if fill.object.size() != file.size {
            // Opened at the same time for another announcement.
            let (oid, kept, asked) = (file.oid.to_string(), fill.object.size(), file.size);
            let error = match fill.object.is_verified() {
                true => StoreError::SizeMismatch { oid, kept, asked },
                false => StoreError::SizeUnclear { oid, kept, asked },
            };
            return self.read_through(file, token, admission, error);
        }
        self.broken.is_clear(&file.oid);
        let claim = match file.second_hand {
            true => Box::pin(self.claim(file, token, admission, &fill)).await?,
            false => Claim::Proven,
        };
        let voucher = match claim {
            Claim::Proven => None,
            Claim::Own => Some(Voucher::new(self.clone(), file.clone(), fill.clone())),
            Claim::Doubtful => return self.read_uncached(file, token, admission),
        };
        if !self.config.upstream.offline {
            fill.sources.add(file, token, admission);
        }
        self.link(file);
        self.hits.count(&file.repo, fill.object.is_complete());
        Ok(Reader::new(fill, voucher))
    }

    /// Reads past the disk, which cannot hold the object.
    fn read_through(
        &self,
        file: &FileInfo,
        token: Option<&Token>,
        admission: Admission,
        error: StoreError,
    ) -> Result<Reader, MirrorError> {
        match &error {
            StoreError::SizeMismatch { .. } => {
                // The next request asks anew.
                self.catalog.doubts().about(file);
                return Err(SourceError::Broken { host: self.origin.base(), cause: error.to_string() }.into());
            }
            // What others fetch is left alone, and so is this one's: the hash of a whole will tell who was right.
            StoreError::SizeUnclear { .. } if self.config.upstream.offline => {
                return Err(SourceError::Broken { host: self.origin.base(), cause: error.to_string() }.into());
            }
            StoreError::SizeUnclear { .. } => {
                log::warn!("serves past the store repo={} path={}: {error}", file.repo, file.path.as_str());
                // One word on the size was wrong; should it be this one, the next request gets another.
                self.catalog.doubts().about(file);
                return Ok(Reader::through(self.through(file, token, admission).telling(self.broken.clone())));
            }
            _ => self.limits.disk.failed(&error),
        }
        if self.config.upstream.offline {
            return Err(match error {
                StoreError::ReadOnly { .. } => MirrorError::Offline,
                error => error.into(),
            });
        }
        Ok(Reader::through(self.through(file, token, admission)))
    }

    fn read_uncached(&self, file: &FileInfo, token: Option<&Token>, admission: Admission) -> Result<Reader, MirrorError> {
        if self.config.upstream.offline {
            return Err(MirrorError::Offline);
        }
        Ok(Reader::through(self.through(file, token, admission)))
    }

    fn through(&self, file: &FileInfo, token: Option<&Token>, admission: Admission) -> Through {
        let sources = Sources::new(self.origin.clone(), file.oid, &self.catalog);
        sources.add(file, token, admission);
        Through::new(file.oid, file.size, Arc::new(sources), self.limits.clone())
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

    /// The fill of the object, if it is open and counts.
    fn live(&self, file: &FileInfo) -> Option<Arc<Fill>> {
        let fill = self.warm.get(&file.oid)?;
        // Readers of a broken one were told; who comes now gets a new try. One of a size that was never proven is the store's to
        // decide about.
        if fill.is_broken() || (fill.object.size() != file.size && !fill.object.is_verified()) {
            drop(fill);
            self.warm.invalidate(&file.oid);
            // The cache drops what it has thrown out when it is told to; then only those who use it keep it alive.
            self.warm.run_pending_tasks();
            return None;
        }
        Some(fill)
    }

    /// Opens the object, once for all who want it. A client that leaves does not end it, so that opening what takes long
    /// (hashing a file of another program's) is done when it comes back.
    async fn open(self: &Arc<Self>, file: &FileInfo) -> Result<Arc<Fill>, MirrorError> {
        let (mirror, file) = (self.clone(), file.clone());
        let oid = file.oid;
        if self.broken.is_hopeless(&oid) {
            return Err(MirrorError::Mismatch { oid, found: "something else, time after time".into() });
        }
        let opened = tokio::spawn(async move {
            let opener = mirror.clone();
            let open = async move { blocking(move || opener.open_blocking(&file).map(|fill| Arc::downgrade(&fill))).await };
            let opened = mirror.opening.try_get_with(oid, open).await;
            // Only to open it once for many: from now on it is found among the warm ones.
            mirror.opening.invalidate(&oid).await;
            // Thrown out of the warm ones already, under very many others: the next try opens it again.
            opened.map_err(|error| (*error).clone())?.upgrade().ok_or(MirrorError::Unverified { oid })
        });
        match tokio::time::timeout(deadline::at_most(OPEN_PATIENCE), opened).await {
            Ok(opened) => opened?,
            Err(_) => Err(MirrorError::Unverified { oid }),
        }
    }

    fn open_blocking(&self, file: &FileInfo) -> Result<Arc<Fill>, MirrorError> {
        let object = self.store.object(&file.oid, file.size)?;
        let mut fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        // Somebody else may have opened it meanwhile; the first one stays, unless the store has begun anew since.
        let known = fills.get(&file.oid).and_then(Weak::upgrade);
        if let Some(fill) = known.filter(|fill| !fill.is_broken() && Arc::ptr_eq(&fill.object, &object)) {
            self.warm.insert(file.oid, fill.clone());
            return Ok(fill);
        }
        let sources = Arc::new(Sources::new(self.origin.clone(), file.oid, &self.catalog));
        let fill = Fill::new(object, self.store.clone(), sources, self.limits.clone(), self.broken.clone());
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
        let loan = self.loan_of(&fills, oid);
        if loan == Loan::Idle {
            self.warm.invalidate(oid);
            // Or it would count as in use for what can only be done to what nobody has.
            self.warm.run_pending_tasks();
            // Whoever took it meanwhile reads on from a file without a name, if it comes to that, which is still judged as a whole.
            fills.remove(oid);
        }
        loan
    }

    /// What let_go would return, which is not done.
    pub fn loan(&self, oid: &Oid) -> Loan {
        self.loan_of(&self.fills.lock().unwrap_or_else(|e| e.into_inner()), oid)
    }

    fn loan_of(&self, fills: &HashMap<Oid, Weak<Fill>>, oid: &Oid) -> Loan {
        let Some(fill) = fills.get(oid).and_then(Weak::upgrade) else { return Loan::None };
        let has_users = || Arc::strong_count(&fill) > 1 + usize::from(self.warm.contains_key(oid));
        if !has_users() {
            return Loan::Idle;
        }
        // The cache drops what it has thrown out when it is told to.
        self.warm.run_pending_tasks();
        if has_users() { Loan::InUse } else { Loan::Idle }
    }

    /// Forgets an object whose file is gone: who reads it reads on, the next one opens it anew.
    pub fn forget(&self, oid: &Oid) {
        let mut fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        self.warm.invalidate(oid);
        fills.remove(oid);
    }

    /// Lets go of what has been idle for long, also while nobody asks for anything.
    pub fn tidy(&self) {
        self.warm.run_pending_tasks();
        let mut fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
        fills.retain(|_, fill| fill.strong_count() > 0);
    }

    /// Something of a commit was learned past this room: what is remembered of it is read from the disk again.
    pub fn forget_commit(&self, repo: &RepoId, commit: &Commit, access: bool) {
        self.catalog.forget_commit(repo, commit);
        self.linked.invalidate_all();
        if access {
            self.access.forget_all();
        }
    }

    /// Links were removed: which ones stand must be looked at again.
    pub fn forget_links(&self) {
        self.linked.invalidate_all();
    }
}

/// How many objects stay open that nobody reads at the moment.
pub(crate) fn warm_objects_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call takes a pointer to the struct above, which outlives it.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if known { WARM_OBJECTS_MAX.min(limit.rlim_cur / WARM_PART) } else { WARM_OBJECTS_MAX }
}

/// Runs what may wait for the disk, where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, MirrorError> + Send + 'static) -> Result<T, MirrorError> {
    tokio::task::spawn_blocking(work).await?
}

/// Runs work on `len` bytes: here when they are few, else where it holds nobody up.
async fn on_worker<T: Send + 'static>(len: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, MirrorError> {
    if len <= INLINE_LEN_MAX {
        return Ok(work());
    }
    Ok(tokio::task::spawn_blocking(work).await?)
}
