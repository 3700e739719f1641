//! Which repo a name leads to: old, short and misspelt names redirect upstream, and all is kept under the present one.
//!
//! Nothing is asked for this as long as all is well: that a name leads elsewhere is seen when upstream redirects a question
//! that had to be asked anyway. From then on the name stands for the other one, until its time is over and upstream is asked
//! again; when that cannot be asked, for as long as it takes.

use super::{Forgetter, KEPT_PATIENCE};
use crate::config::Config;
use crate::hub::{RepoId, Route};
use crate::source::{Origin, Reply, Token};
use crate::store::{KeptAlias, Store, StoreError};
use http::Method;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Renamed again and again; more is a loop.
const HOPS_MAX: usize = 4;
/// Names remembered, those that lead nowhere else among them.
const NAMES_MAX: u64 = 100_000;
/// A name whose time is over is asked for once in so long, whatever comes of it.
const ASKED_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Names {
    origin: Arc<Origin>,
    store: Arc<Store>,
    forgetter: Arc<Forgetter>,
    offline: bool,
    ttl: Duration,
    /// By the name in lower case, as on the disk.
    known: moka::future::Cache<RepoId, Option<KeptAlias>>,
    asked: moka::future::Cache<(RepoId, [u8; 32]), ()>,
}

impl Names {
    pub(super) fn new(config: &Config, origin: Arc<Origin>, store: Arc<Store>, forgetter: Arc<Forgetter>) -> Names {
        let ttl = config.freshness.alias;
        Names {
            origin,
            store,
            forgetter,
            offline: config.upstream.offline,
            ttl,
            known: moka::future::Cache::builder().max_capacity(NAMES_MAX).build(),
            asked: moka::future::Cache::builder().max_capacity(NAMES_MAX).time_to_live(ASKED_EVERY.min(ttl)).build(),
        }
    }

    /// The repo that a name leads to, by all that is known. Asks nobody.
    pub(crate) async fn present(&self, name: &RepoId) -> RepoId {
        let mut repo = name.clone();
        for _ in 0..HOPS_MAX {
            match self.alias(&repo).await {
                Some(alias) if alias.repo != repo => repo = alias.repo,
                _ => break,
            }
        }
        repo
    }

    /// As [`Names::present`], but what is known for too long is asked again, in the name of this caller: only who may read
    /// a repo is told where it is now.
    pub(super) async fn confirmed(&self, name: &RepoId, token: Option<&Token>) -> RepoId {
        let mut repo = name.clone();
        for _ in 0..HOPS_MAX {
            let Some(alias) = self.alias(&repo).await.filter(|alias| alias.repo != repo) else { break };
            let age = crate::store::age(alias.at);
            if age >= self.ttl && !self.offline {
                let key = (repo.folded(), Token::fingerprint(token));
                Box::pin(self.asked.get_with(key, self.ask(&repo, token))).await;
            }
            match self.alias(&repo).await {
                Some(alias) => repo = alias.repo,
                None => break,
            }
        }
        repo
    }

    /// As [`Names::confirmed`], for a name that nothing is known of and that alone may not be had.
    pub(super) async fn discovered(&self, name: &RepoId, token: Option<&Token>) -> RepoId {
        if !self.offline {
            Box::pin(self.asked.get_with((name.folded(), Token::fingerprint(token)), self.ask(name, token))).await;
        }
        self.present(name).await
    }

    async fn ask(&self, name: &RepoId, token: Option<&Token>) {
        let target = format!("{}/auth-check", name.api_path());
        if let Ok(reply) = self.origin.within(KEPT_PATIENCE).ask(&Method::GET, &target, token, None).await {
            self.learn(name, &reply).await;
        }
    }

    /// Takes from an answer which repo the name in its question leads to. Only the Hub's own word counts.
    pub(crate) async fn learn(&self, asked: &RepoId, reply: &Reply) {
        let route = Route::parse(&Method::GET, &reply.target).ok();
        let Some(repo) = route.as_ref().and_then(Route::repo) else { return };
        if !reply.authoritative || repo.kind() != asked.kind() {
            return;
        }
        let known = self.alias(asked).await;
        if repo != asked {
            let is_news = known.as_ref().is_none_or(|alias| alias.repo != *repo);
            self.keep(asked, repo, is_news).await;
        } else if reply.status < 300 && known.is_some_and(|alias| alias.repo != *asked) {
            log::info!("name={asked} is a repo of its own again");
            self.known.invalidate(&asked.folded()).await;
            let (store, name) = (self.store.clone(), asked.clone());
            self.on_disk(move || store.refs().remove_alias(&name)).await;
        }
    }

    async fn alias(&self, name: &RepoId) -> Option<KeptAlias> {
        let folded = name.folded();
        if let Some(known) = self.known.get(&folded).await {
            return known;
        }
        let load = async {
            let (store, name) = (self.store.clone(), folded.clone());
            self.on_disk(move || store.refs().get_alias(&name)).await.flatten()
        };
        Box::pin(self.known.get_with(folded.clone(), load)).await
    }

    async fn keep(&self, name: &RepoId, repo: &RepoId, is_news: bool) {
        let alias = KeptAlias { repo: repo.clone(), at: SystemTime::now() };
        self.known.insert(name.folded(), Some(alias.clone())).await;
        if is_news {
            log::info!("name={name} leads to repo={repo}");
        }
        let (store, forgetter, name) = (self.store.clone(), self.forgetter.clone(), name.clone());
        self.on_disk(move || {
            // Not only when it is news: what was asked by the old name meanwhile may have been kept there.
            if name.folded() != alias.repo.folded() {
                store.rename_repo(&name, &alias.repo, || forgetter.forget(&alias.repo))?;
            }
            store.refs().put_alias(&name, &alias.repo, alias.at)
        })
        .await;
    }

    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Option<T> {
        match tokio::task::spawn_blocking(work).await.ok()? {
            Ok(done) => Some(done),
            Err(e) => {
                log::warn!("cannot keep or read where a name leads: {e}");
                None
            }
        }
    }
}
