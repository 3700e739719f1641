//! All that one fake Hub is: its repos and tokens behind one mutex, its switches, its log and its rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::gate::Gate;
use crate::log::Log;
use crate::repo::{Kind, RepoState};
use crate::rules::Rules;

/// What is set once, before the start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) public_url: Option<String>,
    pub(crate) page_len: usize,
    pub(crate) expanded_page_len: usize,
    pub(crate) signature_life: Duration,
    pub(crate) latency: Duration,
    pub(crate) cdn_rate: Option<u64>,
    pub(crate) linked_etag_on_307: bool,
    pub(crate) resolve_cache: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            public_url: None,
            page_len: 1000,
            expanded_page_len: 50,
            signature_life: Duration::from_secs(3600),
            latency: Duration::ZERO,
            cdn_rate: None,
            linked_etag_on_307: true,
            resolve_cache: true,
        }
    }
}

/// Who asks, by the `Authorization` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    Known(String),
    Bad,
}

/// How many requests of each rate-limit class were made, and how many are allowed.
#[derive(Default)]
pub(crate) struct Quota {
    pub(crate) used: u64,
    pub(crate) max: Option<u64>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) repos: BTreeMap<(Kind, String), RepoState>,
    /// How many repos had a name and have it no more.
    pub(crate) gone: HashMap<(Kind, String), u64>,
    /// Old names, in lower case, to new ones.
    pub(crate) renamed: HashMap<String, String>,
    pub(crate) tokens: BTreeSet<String>,
    pub(crate) answer_all: Option<u16>,
    pub(crate) quotas: HashMap<&'static str, Quota>,
    /// How far the fake's clock runs ahead of the machine's.
    pub(crate) ahead: Duration,
    pub(crate) signature_life: Duration,
}

/// What a name leads to.
pub(crate) enum Found<'a> {
    Repo(&'a mut RepoState),
    /// The canonical id is another.
    Moved(String),
    Nothing,
}

impl State {
    pub(crate) fn caller(&self, authorization: Option<&str>) -> Caller {
        let Some(value) = authorization else {
            return Caller::Anonymous;
        };
        match value.strip_prefix("Bearer ") {
            Some(token) if self.tokens.contains(token.trim()) => Caller::Known(token.trim().to_owned()),
            _ => Caller::Bad,
        }
    }

    /// Returns the repo, made if there is none.
    pub(crate) fn repo(&mut self, kind: Kind, id: &str) -> &mut RepoState {
        let key = (kind, id.to_owned());
        let before = self.gone.get(&key).copied().unwrap_or(0);
        self.repos.entry(key).or_insert_with(|| RepoState::new(kind, id, before))
    }

    pub(crate) fn find(&mut self, kind: Kind, id: &str) -> Found<'_> {
        let key = (kind, id.to_owned());
        if self.repos.contains_key(&key) {
            return self.repos.get_mut(&key).map_or(Found::Nothing, Found::Repo);
        }
        let same_but_case = self.repos.keys().find(|(of, name)| *of == kind && name.eq_ignore_ascii_case(id));
        if let Some((_, name)) = same_but_case {
            return Found::Moved(name.clone());
        }
        match self.renamed.get(&id.to_lowercase()) {
            Some(name) if self.repos.contains_key(&(kind, name.clone())) => Found::Moved(name.clone()),
            _ => Found::Nothing,
        }
    }

    pub(crate) fn knows(&self, kind: Kind, id: &str) -> bool {
        self.repos.keys().any(|(of, name)| *of == kind && name.eq_ignore_ascii_case(id))
            || self.renamed.contains_key(&id.to_lowercase())
    }

    /// Returns the time in Unix seconds, as the fake sees it.
    pub(crate) fn now(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (now + self.ahead).as_secs()
    }
}

impl RepoState {
    /// Tells whether the caller may know that the repo exists.
    pub(crate) fn is_seen_by(&self, caller: &Caller) -> bool {
        !self.private || self.grants_to(caller)
    }

    /// Tells whether the caller may read the files, supposing the repo is seen.
    pub(crate) fn is_read_by(&self, caller: &Caller) -> bool {
        !self.gated || self.grants_to(caller)
    }

    fn grants_to(&self, caller: &Caller) -> bool {
        matches!(caller, Caller::Known(token) if self.grants.contains(token))
    }
}

pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) settings: Settings,
    pub(crate) hub_address: SocketAddr,
    pub(crate) cdn_address: SocketAddr,
    pub(crate) log: Arc<Log>,
    pub(crate) rules: Arc<Rules>,
    /// Open connections by number; a connection takes itself out when it ends.
    pub(crate) connections: Mutex<HashMap<u64, JoinHandle<()>>>,
    /// Gates made over HTTP, by name.
    pub(crate) gates: Mutex<HashMap<String, Gate>>,
    /// What the handlers died of; the handle's drop hands it to the test.
    pub(crate) panics: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A handler that panicked is told of by `panics`; the state it leaves is whole enough to go on.
        self.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    pub(crate) fn hub_url(&self) -> String {
        self.settings.public_url.clone().unwrap_or_else(|| format!("http://{}", self.hub_address))
    }

    pub(crate) fn cdn_url(&self) -> String {
        format!("http://{}", self.cdn_address)
    }
}
