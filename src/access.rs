//! Who may read what: upstream decides, and its yes is remembered for a while.
//!
//! Knows repos, tokens (by keyed hash only) and verdicts; never HTTP responses. Enter by [`Access::check`].

mod holder;

use crate::config::{Config, Pattern, WhenUpstreamIsDown};
use crate::hub::{FilePath, HubError, RepoFacts, RepoId, parse_info};
use crate::mirror::{KEPT_PATIENCE, MirrorError, Names, refused};
use crate::source::{Origin, SourceError, Token};
use crate::store::{Refs, Store, StoreError, age};
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
/// How long a yes holds that was only remembered, because upstream could not be asked; then it is tried again.
const GRACED_FOR: Duration = Duration::from_secs(10);

/// Why a caller may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Anybody may: no token is needed.
    Open,
    /// Upstream accepted this caller.
    Caller,
    /// Upstream accepted the operator, who shares the repo with every caller; see [`Access::acting`].
    Operator,
}

/// Remembers what upstream said about callers and repos.
///
/// In memory for `freshness.access`, by a hash of this process's own. On disk for when upstream cannot be asked: whether a
/// repo is open, and when which callers were accepted, by a hash with the directory's secret.
pub struct Access {
    origin: Arc<Origin>,
    store: Arc<Store>,
    /// The directory's secret, read when it is first needed; none when that fails, and then nobody is remembered.
    secret: tokio::sync::OnceCell<Option<[u8; 32]>>,
    names: Arc<Names>,
    offline: bool,
    /// How old what was kept of open repos may be.
    stale: Duration,
    /// How long ago a caller may have been accepted to be let in while upstream cannot be asked; none for never.
    grace: Option<Duration>,
    /// Repos that the operator's token opens to all.
    operators: Vec<Pattern>,
    /// Whether anybody may read a repo.
    open: moka::future::Cache<RepoId, bool>,
    /// Callers whom upstream let read a repo.
    accepted: moka::future::Cache<(RepoId, [u8; 32]), ()>,
    /// Callers whom it had accepted lately, when it could not be asked.
    graced: moka::future::Cache<(RepoId, [u8; 32]), ()>,
    /// Callers whom it did not, for a moment: one download asks for many files.
    refused: moka::future::Cache<(RepoId, [u8; 32]), HubError>,
}

impl Access {
    pub(crate) fn new(config: &Config, origin: Arc<Origin>, store: Arc<Store>, names: Arc<Names>) -> Access {
        let ttl = config.freshness.access;
        let operators = config.access.operator_repos.clone();
        if !operators.is_empty() && !origin.has_operator_token() {
            log::warn!("access.operator_repos names repos, but there is no upstream.token that could open them");
        }
        Access {
            origin,
            store,
            secret: tokio::sync::OnceCell::new(),
            names,
            offline: config.upstream.offline,
            stale: config.freshness.stale,
            grace: match (config.access.when_upstream_is_down, config.upstream.offline) {
                (WhenUpstreamIsDown::Deny, _) => None,
                // Nobody could renew a yes; a bound would only say when the whole directory goes dark.
                (WhenUpstreamIsDown::Accepted, true) => Some(Duration::MAX),
                (WhenUpstreamIsDown::Accepted, false) => Some(config.access.grace),
            },
            operators,
            open: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            accepted: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            graced: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl.min(GRACED_FOR)).build(),
            refused: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl.min(REFUSED_FOR)).build(),
        }
    }

    /// Lets a caller read a repo's files, or says upstream's no. Asked once for many callers at a time.
    pub async fn check(&self, repo: &RepoId, token: Option<&Token>) -> Result<Admission, HubError> {
        if self.is_open(repo).await? {
            return Ok(Admission::Open);
        }
        Box::pin(self.check_closed(repo, token)).await
    }

    async fn check_closed(&self, repo: &RepoId, token: Option<&Token>) -> Result<Admission, HubError> {
        if let Some(operator) = self.operator_of(repo)
            && self.is_accepted(repo, Some(operator)).await.is_ok()
        {
            return Ok(Admission::Operator);
        }
        self.is_accepted(repo, token).await.map(|()| Admission::Caller)
    }

    /// The token under which an admitted caller's questions go upstream: its own, or the operator's.
    pub fn acting(&self, repo: &RepoId, admission: Admission, token: Option<&Token>) -> Option<Token> {
        match admission {
            Admission::Operator => self.operator_of(repo).cloned(),
            Admission::Open | Admission::Caller => token.cloned(),
        }
    }

    /// Whether the operator shares this repo with all callers, if upstream lets the operator.
    pub fn is_operators(&self, repo: &RepoId) -> bool {
        self.operator_of(repo).is_some()
    }

    fn operator_of(&self, repo: &RepoId) -> Option<&Token> {
        let is_listed = || {
            let name = repo.to_string();
            self.operators.iter().any(|pattern| pattern.matches(&name))
        };
        self.origin.operator_token().filter(|_| is_listed())
    }

    async fn is_accepted(&self, repo: &RepoId, token: Option<&Token>) -> Result<(), HubError> {
        let key = (repo.clone(), Token::fingerprint(token));
        if let Some(refusal) = self.refused.get(&key).await {
            return Err(refusal);
        }
        if self.graced.contains_key(&key) {
            return Ok(());
        }
        let asked = self.accepted.try_get_with(key.clone(), async {
            let is_remembered = self.is_remembered(repo, token).await;
            let patience = if is_remembered { KEPT_PATIENCE } else { Duration::MAX };
            match self.ask(repo, token, patience).await {
                Ok(()) => {
                    // From now on something of it may be kept, which this guards, whoever is upstream later.
                    self.keep(repo, Verdict::Closed).await;
                    self.remember(repo, token).await;
                    Ok(())
                }
                Err(MirrorError::Source(error @ SourceError::Refused { .. })) => {
                    self.forget(repo, token).await;
                    Err(No { error: error.to_hub(), graced: false })
                }
                Err(error) => Err(No { error: cannot_ask(repo, &error), graced: is_remembered }),
            }
        });
        match asked.await {
            Ok(()) => Ok(()),
            Err(no) if no.graced => {
                log::info!("let in repo={repo} although upstream cannot be asked, which accepted this caller lately");
                self.graced.insert(key, ()).await;
                Ok(())
            }
            Err(no) => {
                if matches!(no.error.status, 401 | 403 | 404) {
                    self.refused.insert(key, no.error.clone()).await;
                }
                Err(no.error.clone())
            }
        }
    }

    /// Whether a file is of those that the Hub shows of a gated repo to all. A cheap first look, so that a caller who was
    /// refused does not have every file asked for: upstream's word on the file decides.
    pub fn may_be_shown(refusal: &HubError, path: &FilePath) -> bool {
        let name = path.file_name();
        let is_shown = name.starts_with(".git") || name.ends_with(".md") || name.starts_with("LICENSE");
        refusal.code == Some("GatedRepo") && is_shown
    }

    /// Forgets what upstream said about a caller, and whether the repo is open: it has just said otherwise.
    pub async fn doubt(&self, repo: &RepoId, token: Option<&Token>) {
        let key = (repo.clone(), Token::fingerprint(token));
        self.accepted.invalidate(&key).await;
        self.graced.invalidate(&key).await;
        self.open.invalidate(repo).await;
    }

    /// Forgets in memory who may read what: something on the disk says otherwise now.
    pub(crate) fn forget_all(&self) {
        self.open.invalidate_all();
        self.refused.invalidate_all();
    }

    /// Whether anybody may read the repo. When upstream cannot tell, or not soon, what it said last counts.
    pub async fn is_open(&self, repo: &RepoId) -> Result<bool, HubError> {
        match self.open.get(repo).await {
            Some(open) => Ok(open),
            None => Box::pin(self.ask_open(repo)).await,
        }
    }

    async fn ask_open(&self, repo: &RepoId) -> Result<bool, HubError> {
        let asked = self.open.try_get_with(repo.clone(), async {
            let kept = self.kept(repo).await;
            let patience = kept.map_or(Duration::MAX, |_| KEPT_PATIENCE);
            match (self.ask(repo, None, patience).await, kept) {
                (Ok(()), _) => {
                    self.keep(repo, Verdict::Open).await;
                    Ok(true)
                }
                (Err(MirrorError::Source(error @ SourceError::Refused { .. })), _) => {
                    self.keep(repo, Verdict::Refused).await;
                    // The same question as a caller without a token has.
                    let key = (repo.clone(), Token::fingerprint(None));
                    let refusal = error.to_hub();
                    if matches!(refusal.status, 401 | 403 | 404) {
                        self.refused.insert(key, refusal).await;
                    }
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

    /// Whether upstream accepted the caller lately enough to do without it now.
    async fn is_remembered(&self, repo: &RepoId, token: Option<&Token>) -> bool {
        let (Some(grace), Some(mark)) = (self.grace, self.mark(&repo.to_string(), token).await) else { return false };
        let (store, repo) = (self.store.clone(), repo.clone());
        let at = tokio::task::spawn_blocking(move || store.refs().get_accepted(&repo, &mark)).await;
        let Ok(Ok(Some(at))) = at else { return false };
        age(at) < grace
    }

    async fn remember(&self, repo: &RepoId, token: Option<&Token>) {
        self.change(repo, token, |refs, repo, mark| refs.put_accepted(repo, mark, SystemTime::now())).await;
    }

    async fn forget(&self, repo: &RepoId, token: Option<&Token>) {
        self.change(repo, token, Refs::remove_accepted).await;
    }

    async fn change(
        &self,
        repo: &RepoId,
        token: Option<&Token>,
        change: impl FnOnce(&Refs, &RepoId, &str) -> Result<(), StoreError> + Send + 'static,
    ) {
        let Some(mark) = self.mark(&repo.to_string(), token).await else { return };
        let (store, repo) = (self.store.clone(), repo.clone());
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || change(store.refs(), &repo, &mark)).await {
            log::warn!("cannot keep who was accepted: {e}");
        }
    }

    /// What stands for a caller on disk; nothing for one without a token, whom nobody could tell from others.
    async fn mark(&self, context: &str, token: Option<&Token>) -> Option<String> {
        let token = token?;
        let store = self.store.clone();
        let load = || async move {
            let secret = tokio::task::spawn_blocking(move || store.secret()).await.ok()?;
            secret.inspect_err(|e| log::error!("no caller can be remembered: {e}")).ok()
        };
        let secret = (*self.secret.get_or_init(load).await)?;
        Some(token.mark(&secret, context))
    }

    async fn kept(&self, repo: &RepoId) -> Option<bool> {
        let (store, repo) = (self.store.clone(), repo.clone());
        let kept = tokio::task::spawn_blocking(move || store.refs().get_access(&repo)).await;
        let kept = kept.ok()?.ok()??;
        let age = age(kept.at);
        // Without an upstream there is nobody who could say otherwise, however old it is.
        (self.offline || age < self.stale).then_some(kept.open)
    }
}

/// Why a caller is not let in by upstream's word of now.
struct No {
    error: HubError,
    /// Upstream could not be asked, and had accepted the caller lately.
    graced: bool,
}

/// Upstream's trouble, in words that say what it keeps from whom.
fn cannot_ask(repo: &RepoId, error: &MirrorError) -> HubError {
    let error = error.to_hub();
    let message = format!("{}; so nobody can tell whether this caller may read {repo}", error.message);
    match error.status >= 500 {
        true => HubError { message, ..error },
        false => error,
    }
}
