//! Who may read what: upstream decides, and its word is remembered for a while.
//!
//! Knows repos, tokens (by keyed hash only) and verdicts; never HTTP responses. Enter by [`Access::check`].
//!
//! A repo is open to all, or closed and read by those whom upstream accepts. Who gets a yes depends on what upstream is:
//!
//! | upstream | a repo that was open when last asked | a caller accepted for a closed repo | anybody else |
//! |---|---|---|---|
//! | well | its word, which counts for `freshness.access` | the same | its no, which counts for 10 s |
//! | busy (429) | its word on another kind of question; else yes | the same; else a yes up to twice `freshness.access` old | 429 |
//! | replaced by a portal, a proxy's page | yes | a yes up to twice `freshness.access` old | 502 |
//! | hanging, failing (5xx), not there | yes | a yes up to `access.grace` old | 503, 504 |
//! | not asked (`upstream.offline`) | yes | yes | 503 |
//!
//! With `access.when_upstream_is_down: deny` the third column is empty but in the first row. A yes that only stands in for
//! upstream's is tried again after 10 s, and never lends the operator's token to anybody: it opens what is kept, no more.
//! "Was open" is as old as `freshness.stale` at most. What stands in is bounded by who can bring it about: anybody can use
//! up a limit, be stopped by a firewall, or know a question that the Hub is slow at; few can take the Hub down. Therefore these
//! questions go out although upstream fails or hangs at others, until one of them proves that it hangs at all, and past the mirror's
//! own pacing when a yes stands ready that their answer might withdraw. Silence to one that others left no time for is no proof, and
//! counts as the third row.
//!
//! A name may become another repo's: the first is removed and made anew, or its place taken by one that is renamed. What is kept is
//! the first one's readers' alone. So a caller who was never let in before is so only when upstream says which repo it is, by the Hub's
//! own id, and a change of that forgets what was known.
//!
//! Those who get no yes are told upstream's no, or upstream's trouble in the words in which they would be told it of a repo that does not
//! exist: nothing says what is kept here.

mod holder;
mod word;

use crate::config::{Config, Pattern, WhenUpstreamIsDown};
use crate::hub::{FilePath, HubError, RepoFacts, RepoId};
use crate::mirror::{Forgetter, Names};
use crate::source::{Origin, Token};
use crate::store::{KeptAccess, Refs, Store, StoreError, age};
use http::Method;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use word::{Cause, Trouble, Upstream, Word};

/// Verdicts remembered; the oldest are asked again beyond this.
const VERDICTS_MAX: u64 = 100_000;
/// What a caller's hash on disk is bound to: not to the repo's name, which may change.
const ACCEPTED: &str = "accepted";
/// How long a no is remembered: those who ask for access and get it do not want to wait.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a yes holds that was only remembered, because upstream gave no word; then it is tried again.
const STANDS_IN_FOR: Duration = Duration::from_secs(10);

/// What is to be kept about a repo.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    /// It is there, for some.
    Closed,
    /// Nobody without a token may read it, or it does not exist.
    Refused,
}

/// Why a caller may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Anybody may: no token is needed, and the operator's may stand in for none.
    Open,
    /// Anybody might when upstream, or only a fallback, was asked last; upstream gives no word now.
    Presumed,
    /// Upstream accepted this caller.
    Caller,
    /// Upstream accepted the operator, who shares the repo with every caller; see [`Access::acting`].
    Operator,
}

/// Whether anybody may read a repo, by upstream's word.
#[derive(Clone)]
enum Public {
    Yes,
    /// And what those are told who come without a token, unless only the facts said it.
    No(Option<HubError>),
}

/// Whether anybody may read a repo.
enum Openness {
    Open,
    Presumed,
    Closed(Option<HubError>),
    Unknown(Trouble),
}

/// Why it is not known now whether a repo is open.
enum Unsure {
    Presumed,
    Unknown(Trouble),
}

/// Remembers what upstream said about callers and repos.
///
/// In memory for `freshness.access`, by a hash of this process's own. On disk for when upstream cannot be asked: whether a
/// repo is open, and when which callers were accepted, by a hash with the directory's secret.
pub struct Access {
    origin: Arc<Origin>,
    upstream: Upstream,
    store: Arc<Store>,
    /// The directory's secret, read when it is first needed; none when that fails, and then nobody is remembered.
    secret: tokio::sync::OnceCell<Option<[u8; 32]>>,
    names: Arc<Names>,
    offline: bool,
    /// How old what was kept of open repos may be.
    stale: Duration,
    /// How long upstream's word counts.
    ttl: Duration,
    /// How long ago a caller may have been accepted to be let in while there is no upstream; none for never.
    grace: Option<Duration>,
    /// Repos that the operator's token opens to all.
    operators: Vec<Pattern>,
    /// Upstream's word on everybody.
    open: moka::future::Cache<RepoId, Public>,
    /// Repos that anybody might read, when it gave no word.
    presumed: moka::future::Cache<RepoId, ()>,
    /// Callers whom upstream let read a repo.
    accepted: moka::future::Cache<(RepoId, [u8; 32]), ()>,
    /// Callers whom it had accepted lately, when it gave no word.
    graced: moka::future::Cache<(RepoId, [u8; 32]), ()>,
    /// Callers whom it did not, for a moment: one download asks for many files.
    refused: moka::future::Cache<(RepoId, [u8; 32]), HubError>,
    /// Which repo a name was lately, by the Hub's own id.
    identities: moka::future::Cache<RepoId, String>,
    /// Forgets what is known of a repo in memory; what it is on disk is forgotten here.
    forgetter: Arc<Forgetter>,
}

impl Access {
    pub(crate) fn new(
        config: &Config,
        origin: Arc<Origin>,
        store: Arc<Store>,
        names: Arc<Names>,
        forgetter: Arc<Forgetter>,
    ) -> Access {
        let ttl = config.freshness.access;
        let operators = config.access.operator_repos.clone();
        if !operators.is_empty() && !origin.has_operator_token() {
            log::warn!("access.operator_repos names repos, but there is no upstream.token that could open them");
        }
        let offline = config.upstream.offline;
        let verdicts = |time: Duration| moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(time).build();
        let access = Access {
            upstream: Upstream { origin: origin.clone(), names: names.clone(), offline },
            origin,
            store,
            secret: tokio::sync::OnceCell::new(),
            names,
            offline,
            stale: config.freshness.stale,
            ttl,
            grace: match (config.access.when_upstream_is_down, offline) {
                (WhenUpstreamIsDown::Deny, _) => None,
                // Nobody could renew a yes; a bound would only say when the whole directory goes dark.
                (WhenUpstreamIsDown::Accepted, true) => Some(Duration::MAX),
                (WhenUpstreamIsDown::Accepted, false) => Some(config.access.grace),
            },
            operators,
            open: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            presumed: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl.min(STANDS_IN_FOR)).build(),
            accepted: verdicts(ttl),
            graced: verdicts(ttl.min(STANDS_IN_FOR)),
            refused: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl.min(REFUSED_FOR)).build(),
            identities: moka::future::Cache::builder().max_capacity(VERDICTS_MAX).time_to_live(ttl).build(),
            forgetter,
        };
        let (open, presumed, identities) = (access.open.clone(), access.presumed.clone(), access.identities.clone());
        let (accepted, graced) = (access.accepted.clone(), access.graced.clone());
        access.forgetter.also(move || {
            open.invalidate_all();
            presumed.invalidate_all();
            identities.invalidate_all();
            accepted.invalidate_all();
            graced.invalidate_all();
        });
        access
    }

    /// Whether everybody may read the repo, by upstream's word that stands. Asks nobody.
    pub async fn is_known_open(&self, repo: &RepoId) -> bool {
        matches!(self.open.get(repo).await, Some(Public::Yes))
    }

    /// Lets a caller read a repo's files, or says upstream's no. Asked once for many callers at a time.
    pub async fn check(&self, repo: &RepoId, token: Option<&Token>) -> Result<Admission, HubError> {
        match self.open.get(repo).await {
            Some(Public::Yes) => Ok(Admission::Open),
            _ => Box::pin(self.check_closed(repo, token)).await,
        }
    }

    async fn check_closed(&self, repo: &RepoId, token: Option<&Token>) -> Result<Admission, HubError> {
        let operator = self.operator_of(repo);
        // Who is known to be accepted needs no word on everybody else.
        if operator.is_some() && self.is_known(repo, operator) {
            return Ok(Admission::Operator);
        }
        if self.is_known(repo, token) {
            return Ok(Admission::Caller);
        }
        let anybody = (repo.clone(), Token::fingerprint(None));
        let remembered = if token.is_none() { self.refused.get(&anybody).await } else { None };
        if token.is_none() && remembered.is_none() {
            // The no to them is as short as any other, so those who come without a token ask for everybody anew.
            self.open.invalidate(repo).await;
        }
        let (refusal, trouble) = match self.openness(repo).await {
            Openness::Open => return Ok(Admission::Open),
            Openness::Presumed => return Ok(Admission::Presumed),
            Openness::Closed(refusal) => (refusal, None),
            Openness::Unknown(trouble) => (None, Some(trouble)),
        };
        if let Some(operator) = operator
            && self.is_accepted(repo, operator, trouble.as_ref()).await.is_ok()
        {
            return Ok(Admission::Operator);
        }
        match (token, trouble) {
            (Some(token), trouble) => self.is_accepted(repo, token, trouble.as_ref()).await.map(|()| Admission::Caller),
            (None, Some(trouble)) => Err(trouble.error),
            (None, None) => Err(remembered.or(refusal).unwrap_or_else(|| HubError::repo_not_found(false))),
        }
    }

    /// The token under which an admitted caller's questions go upstream: its own, or the operator's.
    pub fn acting(&self, repo: &RepoId, admission: Admission, token: Option<&Token>) -> Option<Token> {
        match admission {
            Admission::Operator => self.operator_of(repo).cloned(),
            Admission::Open | Admission::Presumed | Admission::Caller => token.cloned(),
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

    fn is_known(&self, repo: &RepoId, token: Option<&Token>) -> bool {
        let key = (repo.clone(), Token::fingerprint(token));
        self.accepted.contains_key(&key) || self.graced.contains_key(&key)
    }

    /// Whether upstream accepts the caller. `trouble` is why it gave no word on everybody just now.
    async fn is_accepted(&self, repo: &RepoId, token: &Token, trouble: Option<&Trouble>) -> Result<(), HubError> {
        let token = Some(token);
        let key = (repo.clone(), Token::fingerprint(token));
        if let Some(refusal) = self.refused.get(&key).await {
            return Err(refusal);
        }
        let asked = self.accepted.try_get_with(key.clone(), async {
            let accepted_ago = self.accepted_ago(repo, token).await;
            let is_within = |bound: Duration| accepted_ago.is_some_and(|ago| ago < bound);
            let word = match trouble {
                // Where nobody answers, nobody would now.
                Some(trouble) if trouble.cause == Cause::Absent => Word::Trouble(trouble.clone()),
                _ => self.upstream.ask(repo, token, is_within(self.grace(Cause::Absent))).await,
            };
            match word {
                Word::Yes => {
                    // Who was let in before may have what is kept; to anybody else it may be of another repo that had the name.
                    let identity = match accepted_ago {
                        Some(_) => None,
                        None => self.identified(repo, token).await.map_err(|error| No { error, stands_in: false })?,
                    };
                    // From now on something of it may be kept, which this guards, whoever is upstream later.
                    self.keep(repo, Verdict::Closed, identity).await;
                    self.remember(repo, token).await;
                    Ok(())
                }
                Word::No(error) => {
                    self.forget(repo, token).await;
                    Err(No { error, stands_in: false })
                }
                Word::Trouble(trouble) => Err(No { stands_in: is_within(self.grace(trouble.cause)), error: trouble.error }),
            }
        });
        match asked.await {
            Ok(()) => Ok(()),
            Err(no) if no.stands_in => {
                log::info!("let in repo={repo} although upstream gives no word, since it accepted this caller lately");
                self.graced.insert(key, ()).await;
                Ok(())
            }
            Err(no) => {
                if no.error.is_refusal() {
                    self.refused.insert(key, no.error.clone()).await;
                }
                Err(no.error.clone())
            }
        }
    }

    /// Which repo a caller who may read it reads, where upstream tells. An error if it was told before and cannot be told now.
    async fn identified(&self, repo: &RepoId, token: Option<&Token>) -> Result<Option<String>, HubError> {
        if let Some(identity) = self.identities.get(repo).await {
            return Ok(Some(identity));
        }
        match self.upstream.identity(repo, token).await {
            Ok(identity) => Ok(identity),
            Err(error) if self.kept(repo).await.is_some_and(|kept| kept.identity.is_some()) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// How long ago upstream may have accepted a caller when it gives no word now.
    fn grace(&self, cause: Cause) -> Duration {
        let grace = self.grace.unwrap_or(Duration::ZERO);
        match cause {
            Cause::Absent => grace,
            // The Hub's windows are as long as the default: who was let in before one began reads until it ends.
            Cause::Unclear => grace.min(2 * self.ttl),
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
        self.presumed.invalidate(repo).await;
        self.open.invalidate(repo).await;
    }

    /// Forgets in memory who may read what: something on the disk says otherwise now.
    pub(crate) fn forget_all(&self) {
        self.open.invalidate_all();
        self.presumed.invalidate_all();
        self.refused.invalidate_all();
    }

    /// Whether anybody may read the repo, as far as can be told: also by what upstream said last, if it gives no word.
    pub(crate) async fn may_be_open(&self, repo: &RepoId) -> bool {
        matches!(Box::pin(self.openness(repo)).await, Openness::Open | Openness::Presumed)
    }

    /// Whether anybody may read the repo, by upstream's own word within `freshness.access`: what the operator's token may stand in for.
    pub async fn is_open(&self, repo: &RepoId) -> bool {
        match self.open.get(repo).await {
            Some(word) => matches!(word, Public::Yes),
            None => matches!(Box::pin(self.openness(repo)).await, Openness::Open),
        }
    }

    async fn openness(&self, repo: &RepoId) -> Openness {
        if self.presumed.contains_key(repo) {
            return Openness::Presumed;
        }
        let asked = self.open.try_get_with(repo.clone(), async {
            let kept = self.kept(repo).await;
            // Without an upstream there is nobody who could say otherwise, however old it is.
            let was_open = kept.as_ref().is_some_and(|kept| kept.open && (self.offline || age(kept.at) < self.stale));
            match self.upstream.ask(repo, None, was_open).await {
                Word::Yes => {
                    // A repo that was closed, or another one with its name?
                    let was_closed = kept.as_ref().is_some_and(is_told_closed);
                    let identity = if was_closed { self.upstream.identity(repo, None).await.ok().flatten() } else { None };
                    self.keep(repo, Verdict::Open, identity).await;
                    Ok(Public::Yes)
                }
                Word::No(refusal) => {
                    self.keep(repo, Verdict::Refused, None).await;
                    // The same question as a caller without a token has.
                    self.refused.insert((repo.clone(), Token::fingerprint(None)), refusal.clone()).await;
                    Ok(Public::No(Some(refusal)))
                }
                // Upstream never spoke of this repo, so nothing of it was ever fetched with a token: a fallback's yes
                // opens what the fallback itself gives to all, and is not written down.
                Word::Trouble(_) if was_open || self.fallbacks_open(repo).await => {
                    self.presumed.insert(repo.clone(), ()).await;
                    Err(Unsure::Presumed)
                }
                Word::Trouble(trouble) => Err(Unsure::Unknown(trouble)),
            }
        });
        match asked.await {
            Ok(Public::Yes) => Openness::Open,
            Ok(Public::No(refusal)) => Openness::Closed(refusal),
            Err(unsure) => match &*unsure {
                Unsure::Presumed => Openness::Presumed,
                Unsure::Unknown(trouble) => Openness::Unknown(trouble.clone()),
            },
        }
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

    /// How often something known of a repo was forgotten since the start. What was read from the disk before a caller was let in counts only if
    /// this is still the same.
    pub fn forgotten(&self) -> u64 {
        self.forgetter.count()
    }

    /// Takes what an answer of upstream's says about the repo itself, which saves asking.
    pub async fn learn(&self, repo: &RepoId, facts: &RepoFacts) {
        // A client may have asked for some of the fields only.
        let (Some(private), Some(gated), Some(disabled)) = (facts.private, facts.gated, facts.disabled) else { return };
        let open = !private && !gated && !disabled;
        let is_known = facts.identity.is_none() || self.identities.get(repo).await == facts.identity;
        let (word, is_news) = match self.open.get(repo).await {
            Some(known) if matches!(known, Public::Yes) == open => (known, false),
            _ if open => (Public::Yes, true),
            _ => (Public::No(None), true),
        };
        if is_news || !is_known {
            self.keep(repo, if open { Verdict::Open } else { Verdict::Closed }, facts.identity.clone()).await;
        }
        self.open.insert(repo.clone(), word).await;
    }

    /// Writes down what upstream said of a repo. Where another repo has got its name, what is known of the first goes: nobody has
    /// said who may read that now. So it does when a closed repo opens and its identity cannot be told.
    async fn keep(&self, repo: &RepoId, verdict: Verdict, identity: Option<String>) {
        // Whoever asked by an old name has just been told the present one, under which all is kept.
        let (store, repo) = (self.store.clone(), self.names.present(repo).await);
        let (of, told) = (repo.clone(), identity.clone());
        let put = tokio::task::spawn_blocking(move || {
            let refs = store.refs();
            // There is nothing to guard, and anybody may ask for any number of names that do not exist.
            if verdict == Verdict::Refused && !refs.knows(&of) {
                return false;
            }
            let open = verdict == Verdict::Open;
            // What cannot be read now may be readable later, and say less than upstream does now.
            let kept = refs.get_access(&of).inspect_err(|e| log::warn!("cannot read who may read repo={of}: {e}")).ok().flatten();
            let (was_closed, known) = kept.map_or((false, None), |kept| (is_told_closed(&kept), kept.identity));
            let is_another = match (&known, &told) {
                (Some(known), Some(told)) => known != told,
                _ => was_closed && open,
            };
            if is_another {
                refs.forget(&of);
            }
            let identity = told.or(known.filter(|_| !is_another));
            if let Err(e) = refs.put_access(&of, open, identity.as_deref(), SystemTime::now()) {
                log::warn!("cannot keep who may read a repo: {e}");
            }
            is_another
        });
        match put.await {
            Ok(true) => {
                log::info!("forgot what was known of repo={repo}, which is another one now or may be");
                self.forgetter.forget(&repo);
            }
            Ok(false) => {}
            Err(e) => log::error!("cannot keep who may read a repo: {e}"),
        }
        if let Some(identity) = identity {
            self.identities.insert(repo, identity).await;
        }
    }

    /// How long ago upstream accepted the caller, if it is remembered.
    async fn accepted_ago(&self, repo: &RepoId, token: Option<&Token>) -> Option<Duration> {
        let mark = self.mark(ACCEPTED, token).await?;
        let (store, repo) = (self.store.clone(), repo.clone());
        let at = tokio::task::spawn_blocking(move || store.refs().get_accepted(&repo, &mark)).await;
        at.ok()?.ok()?.map(age)
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
        let Some(mark) = self.mark(ACCEPTED, token).await else { return };
        let (store, repo) = (self.store.clone(), self.names.present(repo).await);
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

    /// Whether anybody might read the repo when upstream was asked last.
    async fn kept(&self, repo: &RepoId) -> Option<KeptAccess> {
        let (store, repo) = (self.store.clone(), repo.clone());
        tokio::task::spawn_blocking(move || store.refs().get_access(&repo)).await.ok()?.ok()?
    }
}

/// Whether upstream has said that not everybody may read the repo. What was imported without a word of upstream's is closed until then, too.
fn is_told_closed(kept: &KeptAccess) -> bool {
    !kept.open && kept.at > SystemTime::UNIX_EPOCH
}

/// Why a caller is not let in by upstream's word of now.
struct No {
    error: HubError,
    /// Upstream gave no word, and had accepted the caller lately.
    stands_in: bool,
}
