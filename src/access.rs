//! Who may read what: upstream decides, and its yes is remembered for a while.
//!
//! Knows repos, tokens (by keyed hash only) and verdicts; never HTTP responses. Enter by [`Access::check`].

use crate::config::Config;
use crate::hub::{HubError, RepoFacts, RepoId};
use crate::mirror::{MirrorError, refused};
use crate::source::{Origin, SourceError, Token};
use crate::store::Store;
use http::Method;
use std::sync::Arc;
use std::time::SystemTime;

/// Verdicts remembered; the oldest are asked again beyond this.
const VERDICTS_MAX: u64 = 100_000;

/// Remembers what upstream said about callers and repos.
pub struct Access {
    origin: Arc<Origin>,
    store: Arc<Store>,
    offline: bool,
    /// Whether anybody may read a repo.
    open: moka::future::Cache<RepoId, bool>,
    /// Callers whom upstream let read a repo.
    accepted: moka::future::Cache<(RepoId, [u8; 32]), ()>,
}

impl Access {
    pub(crate) fn new(config: &Config, origin: Arc<Origin>, store: Arc<Store>) -> Access {
        let ttl = config.freshness.access;
        Access {
            origin,
            store,
            offline: config.upstream.offline,
            open: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            accepted: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
        }
    }

    /// Lets a caller read a repo's files, or says upstream's no. Asked once for many callers at a time.
    pub async fn check(&self, repo: &RepoId, token: Option<&Token>) -> Result<(), HubError> {
        if self.is_open(repo).await? {
            return Ok(());
        }
        let key = (repo.clone(), Token::fingerprint(token));
        let asked = self.accepted.try_get_with(key, async {
            match self.ask(repo, token).await {
                Ok(()) => Ok(()),
                Err(error) => Err(error.to_hub()),
            }
        });
        asked.await.map_err(|error| (*error).clone())
    }

    /// Whether anybody may read the repo. When upstream cannot tell, what it said last counts.
    pub async fn is_open(&self, repo: &RepoId) -> Result<bool, HubError> {
        let asked = self.open.try_get_with(repo.clone(), async {
            match self.ask(repo, None).await {
                Ok(()) => {
                    self.keep(repo, true).await;
                    Ok(true)
                }
                Err(MirrorError::Source(SourceError::Refused { .. })) => {
                    self.keep(repo, false).await;
                    Ok(false)
                }
                Err(error) => match self.kept(repo).await {
                    Some(open) => Ok(open),
                    // Upstream never spoke of this repo, so nothing of it was ever fetched with a token: a fallback's yes
                    // opens what the fallback itself gives to all, for a while, and is not written down.
                    None if self.fallbacks_open(repo).await => Ok(true),
                    None => Err(error.to_hub()),
                },
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
            self.keep(repo, open).await;
        }
        self.open.insert(repo.clone(), open).await;
    }

    async fn ask(&self, repo: &RepoId, token: Option<&Token>) -> Result<(), MirrorError> {
        if self.offline {
            return Err(MirrorError::Offline);
        }
        let target = format!("{}/auth-check", repo.api_path());
        let reply = self.origin.ask(&Method::GET, &target, token, None).await?;
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

    async fn keep(&self, repo: &RepoId, open: bool) {
        let (store, repo) = (self.store.clone(), repo.clone());
        let put = tokio::task::spawn_blocking(move || store.refs().put_access(&repo, open, SystemTime::now()));
        if let Ok(Err(e)) = put.await {
            log::warn!("cannot keep who may read a repo: {e}");
        }
    }

    async fn kept(&self, repo: &RepoId) -> Option<bool> {
        let (store, repo) = (self.store.clone(), repo.clone());
        let kept = tokio::task::spawn_blocking(move || store.refs().get_access(&repo)).await;
        kept.ok()?.ok()?.map(|kept| kept.open)
    }
}
