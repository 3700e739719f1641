//! Who may read what: upstream decides, and its yes is remembered for a while.
//!
//! Knows repos, tokens (by keyed hash only) and verdicts; never HTTP responses. Enter by [`Access::check`].

use crate::config::Config;
use crate::hub::{HubError, RepoFacts, RepoId, parse_info};
use crate::mirror::{KEPT_PATIENCE, MirrorError, Names, refused};
use crate::source::{Origin, SourceError, Token};
use crate::store::Store;
use http::Method;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Verdicts remembered; the oldest are asked again beyond this.
const VERDICTS_MAX: u64 = 100_000;

/// What is to be kept about a repo.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    /// It is there, for some.
    Closed,
    /// Nobody without a token may read it, or it does not exist.
    Refused,
}

/// How long a no is remembered: those who ask for access and get it do not want to wait.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// Why a caller may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Anybody may: no token is needed.
    Open,
    /// Upstream accepted this caller.
    Caller,
}

/// Remembers what upstream said about callers and repos.
pub struct Access {
    origin: Arc<Origin>,
    store: Arc<Store>,
    names: Arc<Names>,
    offline: bool,
    /// How old what was kept may be.
    stale: Duration,
    /// Whether anybody may read a repo.
    open: moka::future::Cache<RepoId, bool>,
    /// Callers whom upstream let read a repo.
    accepted: moka::future::Cache<(RepoId, [u8; 32]), ()>,
    /// Callers whom it did not, for a moment: one download asks for many files.
    refused: moka::future::Cache<(RepoId, [u8; 32]), HubError>,
}

impl Access {
    pub(crate) fn new(config: &Config, origin: Arc<Origin>, store: Arc<Store>, names: Arc<Names>) -> Access {
        let ttl = config.freshness.access;
        Access {
            origin,
            store,
            names,
            offline: config.upstream.offline,
            stale: config.freshness.stale,
            open: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            accepted: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            refused: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl.min(REFUSED_FOR)).build(),
        }
    }

    /// Lets a caller read a repo's files, or says upstream's no. Asked once for many callers at a time.
    pub async fn check(&self, repo: &RepoId, token: Option<&Token>) -> Result<Admission, HubError> {
        if self.is_open(repo).await? {
            return Ok(Admission::Open);
        }
        let key = (repo.clone(), Token::fingerprint(token));
        if let Some(refusal) = self.refused.get(&key).await {
            return Err(refusal);
        }
        let asked = self.accepted.try_get_with(key.clone(), async {
            match self.ask(repo, token, Duration::MAX).await {
                Ok(()) => {
                    // From now on something of it may be kept, which this guards, whoever is upstream later.
                    self.keep(repo, Verdict::Closed).await;
                    Ok(())
                }
                Err(error) => Err(error.to_hub()),
            }
        });
        match asked.await {
            Ok(()) => Ok(Admission::Caller),
            Err(error) => {
                if matches!(error.status, 401 | 403 | 404) {
                    self.refused.insert(key, (*error).clone()).await;
                }
                Err((*error).clone())
            }
        }
    }

    /// Forgets what upstream said about a caller, and whether the repo is open: it has just said otherwise.
    pub async fn doubt(&self, repo: &RepoId, token: Option<&Token>) {
        self.accepted.invalidate(&(repo.clone(), Token::fingerprint(token))).await;
        self.open.invalidate(repo).await;
    }

    /// Whether anybody may read the repo. When upstream cannot tell, or not soon, what it said last counts.
    pub async fn is_open(&self, repo: &RepoId) -> Result<bool, HubError> {
        let asked = self.open.try_get_with(repo.clone(), async {
            let kept = self.kept(repo).await;
            let patience = kept.map_or(Duration::MAX, |_| KEPT_PATIENCE);
            match (self.ask(repo, None, patience).await, kept) {
                (Ok(()), _) => {
                    self.keep(repo, Verdict::Open).await;
                    Ok(true)
                }
                (Err(MirrorError::Source(SourceError::Refused { .. })), _) => {
                    self.keep(repo, Verdict::Refused).await;
                    Ok(false)
                }
                (Err(_), Some(open)) => Ok(open),
                // Upstream never spoke of this repo, so nothing of it was ever fetched with a token: a fallback's yes
                // opens what the fallback itself gives to all, for a while, and is not written down.
                (Err(_), None) if self.fallbacks_open(repo).await => Ok(true),
                (Err(error), None) => Err(error.to_hub()),
            }
        });
        asked.await.map_err(|error| (*error).clone())
    }

    async fn fallbacks_open(&self, repo: &RepoId) -> bool {
        if self.offline || !self.origin.has_fallbacks() {
            return false;
        }
        // A record that cannot be read may have said no.
        let (store, of) = (self.store.clone(), repo.clone());
        let unknown = tokio::task::spawn_blocking(move || matches!(store.refs().get_access(&of), Ok(None))).await;
        if !matches!(unknown, Ok(true)) {
            return false;
        }
        let target = format!("{}/auth-check", repo.api_path());
        self.origin.of_fallbacks().ask(&Method::GET, &target, None, None).await.is_ok_and(|reply| reply.status < 300)
    }

    /// Takes what an answer of upstream's says about the repo itself, which saves asking.
    pub async fn learn(&self, repo: &RepoId, facts: &RepoFacts) {
        let (Some(private), Some(gated)) = (facts.private, facts.gated) else { return };
        let open = !private && !gated && !facts.disabled.unwrap_or(false);
        if self.open.get(repo).await != Some(open) {
            self.keep(repo, if open { Verdict::Open } else { Verdict::Closed }).await;
        }
        self.open.insert(repo.clone(), open).await;
    }

    async fn ask(&self, repo: &RepoId, token: Option<&Token>, patience: Duration) -> Result<(), MirrorError> {
        if self.offline {
            return Err(MirrorError::Offline);
        }
        let asking = self.origin.within(patience);
        let target = format!("{}/auth-check", repo.api_path());
        let mut reply = asking.ask(&Method::GET, &target, token, None).await?;
        self.names.learn(repo, &reply).await;
        if reply.status == 404 && !reply.headers.contains_key("x-error-code") {
            // Some mirrors do not know that question. What they say of the repo tells, unless it is gated: all may see that.
            reply = asking.ask(&Method::GET, &repo.api_path(), token, None).await?;
            if reply.status == 200 && reply.authoritative {
                let facts = parse_info(&reply.body).unwrap_or_default();
                let is_shown = token.is_some() || facts.private == Some(false);
                if facts.gated == Some(false) && !facts.disabled.unwrap_or(false) && is_shown {
                    return Ok(());
                }
                let host = self.origin.base();
                let message = "the mirror's upstream cannot tell who may read this repo".to_owned();
                let code = Some("GatedRepo".to_owned());
                return Err(SourceError::Refused { host, status: 403, code, message, commit: None }.into());
            }
        }
        if reply.status < 300 {
            return Ok(());
        }
        let text = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok());
        let host = self.origin.base();
        if reply.status >= 500 || reply.status == 429 {
            return Err(SourceError::Busy {
                host,
                status: reply.status,
                retry_after: crate::source::retry_after(&reply.headers),
            }
            .into());
        }
        let error = refused(reply.status, text("x-error-code"), text("x-error-message").unwrap_or(""), None);
        Err(SourceError::Refused {
            host,
            status: error.status,
            code: error.code.map(str::to_owned),
            message: error.message,
            commit: None,
        }
        .into())
    }

    async fn keep(&self, repo: &RepoId, verdict: Verdict) {
        // Whoever asked by an old name has just been told the present one, under which all is kept.
        let (store, repo) = (self.store.clone(), self.names.present(repo).await);
        let put = tokio::task::spawn_blocking(move || match verdict {
            // There is nothing to guard, and anybody may ask for any number of names that do not exist.
            Verdict::Refused if !store.refs().knows(&repo) => Ok(()),
            _ => store.refs().put_access(&repo, verdict == Verdict::Open, SystemTime::now()),
        });
        if let Ok(Err(e)) = put.await {
            log::warn!("cannot keep who may read a repo: {e}");
        }
    }

    async fn kept(&self, repo: &RepoId) -> Option<bool> {
        let (store, repo) = (self.store.clone(), repo.clone());
        let kept = tokio::task::spawn_blocking(move || store.refs().get_access(&repo)).await;
        let kept = kept.ok()?.ok()??;
        let age = SystemTime::now().duration_since(kept.at).unwrap_or_default();
        // Without an upstream there is nobody who could say otherwise, however old it is.
        (self.offline || age < self.stale).then_some(kept.open)
    }
}
