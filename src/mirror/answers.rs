//! What the API says: kept answers while they are fresh, upstream's otherwise, kept ones again when upstream fails.
//!
//! Answers are read whole (bounded) before they go out: Xet fields must be cut from their JSON, and what they say of
//! files, revisions and access is learned. `pingora-cache` keeps objects only; this is simpler for answers, since
//! upstream's redirects are followed inside and one question of many clients is one question upstream.

use super::{KEPT_PATIENCE, Mirror, MirrorError, on_worker, refused};
use crate::hub::{ApiTarget, Commit, FilePath, HubError, ListingError, RepoId, Revision, Route, header_safe, is_hubs_no};
use crate::hub::{parse_info, parse_tree, rewrite};
use crate::source::{Reply, SourceError, Token, deadline, retry_after};
use crate::store::{ObjectHasher, Record, RecordKey};
use bytes::Bytes;
use http::Method;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What a commit says never changes.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The Hub's list of agents; clients keep it as long themselves.
const AGENTS_TTL: Duration = Duration::from_secs(24 * 3600);
/// Identical questions within this time are one.
const COALESCED_FOR: Duration = Duration::from_secs(1);
/// Bytes of targets remembered as those that a `Link` led to.
const LED_TO_LEN_MAX: u64 = 16 << 20;
/// Bytes of answers on their way; only to share them.
const COALESCED_LEN_MAX: u64 = 128 << 20;
/// Answers to searches, in memory only: what may be searched for has no end. Of one caller each.
const SEARCHES_LEN_MAX: u64 = 64 << 20;
/// Bytes of answers that something is not there.
const MISSING_LEN_MAX: u64 = 16 << 20;
/// Switches whose answers are kept, besides pages (`cursor`, `p`).
const SWITCHES_KEPT: [&str; 6] = ["blobs", "expand", "formatted", "include_prs", "recursive", "securityStatus"];
/// Longest mark of a page; the Hub's have about 200 characters.
const CURSOR_LEN_MAX: usize = 1000;
/// Upstream's headers that mean something to clients. `Link` is rewritten on the way out.
const HEADERS_KEPT: [&str; 13] = [
    "content-type",
    "link",
    "etag",
    "x-repo-commit",
    "x-total-count",
    "x-error-code",
    "x-error-message",
    "x-revision",
    "docker-content-digest",
    "x-xet-cas-url",
    "x-xet-access-token",
    "x-xet-token-expiration",
    "www-authenticate",
];

/// Pages of a listing that are taken on our own account: 1000 files each.
pub(super) const LISTED_PAGES_MAX: usize = 10;

/// What upstream's tag is kept as, where the bytes that go out are no longer those it was of.
const UPSTREAM_ETAG: &str = "x-upstream-etag";
/// Marks the answer of another upstream than the first. It may leave out what the Hub has, so it is asked again before long,
/// and no listing is complete by it.
const SECOND_HAND: &str = "x-second-hand";
/// Headers of an answer that are not for clients.
pub const HEADERS_OWN: [&str; 2] = [UPSTREAM_ETAG, SECOND_HAND];

/// A question of the API.
#[derive(Clone)]
pub struct Question {
    pub route: Route,
    pub method: Method,
    pub target: ApiTarget,
    pub token: Option<Token>,
    /// Content type and body of a POST.
    pub form: Option<(String, Bytes)>,
}

impl Question {
    /// The same of another repo.
    fn of(&self, repo: RepoId) -> Question {
        let route = self.route.clone().of(repo);
        let target = ApiTarget::new(&route, self.target.upstream_path_and_query());
        Question { route, target, ..self.clone() }
    }
}

/// An answer as it may go to the client, but for its `Link`.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// For the log: `upstream`, `store` or `stale`.
    pub from: &'static str,
}

pub(super) type Coalesced = moka::future::Cache<(String, [u8; 32]), Arc<Answer>>;

pub(super) fn coalesced() -> Coalesced {
    let weigh = |_: &(String, [u8; 32]), answer: &Arc<Answer>| u32::try_from(answer.body.len()).unwrap_or(u32::MAX).max(1);
    moka::future::Cache::builder().weigher(weigh).max_capacity(COALESCED_LEN_MAX).time_to_live(COALESCED_FOR).build()
}

pub(super) fn led_to() -> moka::sync::Cache<String, ()> {
    let weigh = |target: &String, (): &()| u32::try_from(target.len()).unwrap_or(u32::MAX).max(100);
    moka::sync::Cache::builder().weigher(weigh).max_capacity(LED_TO_LEN_MAX).build()
}

pub(super) type Searches = moka::sync::Cache<(String, [u8; 32]), (Arc<Answer>, Instant)>;

pub(super) fn searches() -> Searches {
    let weigh = |key: &(String, [u8; 32]), (answer, _): &(Arc<Answer>, Instant)| {
        u32::try_from(key.0.len() + answer.body.len()).unwrap_or(u32::MAX).max(1)
    };
    moka::sync::Cache::builder().weigher(weigh).max_capacity(SEARCHES_LEN_MAX).build()
}

pub(super) type Missing = moka::sync::Cache<(String, [u8; 32]), Arc<Answer>>;

/// Upstream's words on revisions and directories that are not there, in memory, to the caller who was told them.
pub(super) fn missing(ttl: Duration) -> Missing {
    let weigh = |key: &(String, [u8; 32]), answer: &Arc<Answer>| {
        u32::try_from(key.0.len() + answer.body.len()).unwrap_or(u32::MAX).max(1)
    };
    moka::sync::Cache::builder().weigher(weigh).max_capacity(MISSING_LEN_MAX).time_to_live(ttl).build()
}

/// Whether and for how long an answer may be kept.
struct Keep {
    key: RecordKey,
    fresh_for: Duration,
}

impl Mirror {
    /// Answers a question. Whatever upstream said is `Ok`, also its no; `Err` is the mirror's own trouble.
    ///
    /// What is kept of a repo is what those who may read it see: never masked, and given only to callers whom [`crate::access`]
    /// lets in. So all of them share one copy, and callers who are not let in have upstream asked for themselves.
    pub async fn answer(&self, question: &Question) -> Result<Arc<Answer>, HubError> {
        let answer = self.answer_once(question).await?;
        if let Some(next) = next_of(&answer.headers, &question.route) {
            self.led_to.insert(next, ());
        }
        Ok(answer)
    }

    async fn answer_once(&self, question: &Question) -> Result<Arc<Answer>, HubError> {
        if let Route::Search { .. } = question.route {
            return self.search(question).await;
        }
        let target = question.target.upstream_path_and_query();
        let keep = self.keep(question);
        let forgotten = self.access.forgotten();
        let mut kept = match &keep {
            Some(keep) => self.kept_answer(&keep.key).await,
            None => None,
        };
        let (mut admission, mut refusal) = (None, None);
        if let Some(repo) = question.route.repo()
            && (kept.is_some() || (is_shared(&question.route) && self.access.is_operators(repo)))
        {
            match self.access.check(repo, question.token.as_ref()).await {
                Ok(admitted) => admission = Some(admitted),
                Err(error) => (kept, refusal) = (None, Some(error)),
            }
            if self.access.forgotten() != forgotten {
                // It may have been another repo's.
                kept = None;
            }
        }
        if let Some(record) = &kept
            && is_fresh(record)
        {
            return Ok(Arc::new(answer_of(record, "store")));
        }
        // At a commit nothing changes, so what follows from its listing need not be asked.
        if kept.is_none()
            && let Some(answer) = self.derived_at_commit(question).await
            && self.access.forgotten() == forgotten
        {
            return Ok(Arc::new(answer));
        }
        let error = if self.config.upstream.offline {
            MirrorError::Offline
        } else {
            let token = match (question.route.repo(), admission) {
                (Some(repo), Some(admission)) if is_shared(&question.route) => {
                    self.access.acting(repo, admission, question.token.as_ref())
                }
                _ => question.token.clone(),
            };
            let key = (target.clone(), Token::fingerprint(token.as_ref()));
            if let Some(missing) = self.missing.get(&key).filter(|_| question.method != Method::POST) {
                return Ok(Arc::new(Answer { from: "memory", ..(*missing).clone() }));
            }
            let asked = async { self.ask_upstream(question, token.as_ref(), keep, kept.as_ref()).await.map(Arc::new) };
            let outcome = match question.method == Method::POST {
                true => asked.await,
                false => self.answers.try_get_with(key.clone(), asked).await.map_err(|e| (*e).clone()),
            };
            match outcome {
                Ok(answer) => {
                    self.note_holder(question, &answer).await;
                    if question.method != Method::POST && is_missing(&answer) {
                        self.missing.insert(key, answer.clone());
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            }
        };
        match kept {
            Some(record) if self.config.upstream.offline || is_usable(&record) => {
                log::warn!("upstream fails for {target}, the kept answer is used: {error}");
                Ok(Arc::new(answer_of(&record, "stale")))
            }
            // The question may have taken all the time, and who may have the answer is still to be asked.
            _ => {
                match deadline::with_rest(self.derived_anyhow(question)).await.filter(|_| self.access.forgotten() == forgotten) {
                    Some(Ok(answer)) => Ok(Arc::new(answer)),
                    // What is kept is not for this caller, if upstream says so. If it gives no word, the caller is told what it would be
                    // told of a repo that does not exist.
                    told => {
                        let refusal = told.and_then(Result::err).or(refusal);
                        Err(refusal.filter(HubError::is_refusal).unwrap_or_else(|| error.to_hub()))
                    }
                }
            }
        }
    }

    /// Notes whose a token is, or that it is nobody's any more. Only upstreams that may decide access are asked that.
    async fn note_holder(&self, question: &Question, answer: &Answer) {
        let (Route::WhoAmI, Some(token)) = (&question.route, &question.token) else { return };
        match answer.status {
            200 => self.access.remember_holder(token, &answer.body).await,
            401 | 403 => self.access.forget_holder(token).await,
            _ => {}
        }
    }

    /// Answers a search: what one caller was told is told to that caller again, for a while, and longer while upstream is down.
    async fn search(&self, question: &Question) -> Result<Arc<Answer>, HubError> {
        let key = (question.target.upstream_path_and_query(), Token::fingerprint(question.token.as_ref()));
        let kept = self.searches.get(&key);
        if let Some((answer, at)) = &kept
            && at.elapsed() < self.config.freshness.revision
        {
            return Ok(Arc::new(Answer { from: "memory", ..(**answer).clone() }));
        }
        // What a token could see, it can see no longer than a yes to it counts.
        let stale = if question.token.is_none() { self.config.freshness.stale } else { self.config.freshness.access };
        let kept = kept.filter(|(_, at)| at.elapsed() < stale);
        let asked = async {
            match self.config.upstream.offline {
                true => Err(MirrorError::Offline),
                false => {
                    let patience = if kept.is_some() { KEPT_PATIENCE } else { Duration::MAX };
                    let token = question.token.as_ref();
                    let reply = self.origin.within(patience).to_its_end().ask(&Method::GET, &key.0, token, None).await?;
                    let answer = self.cleaned(reply, &question.route, &key.0, false).await?;
                    self.without_ruled_out(&question.route, answer).await.map(Arc::new)
                }
            }
        };
        match (self.answers.try_get_with(key.clone(), asked).await, kept) {
            (Ok(answer), _) => {
                if answer.status == 200 {
                    self.searches.insert(key, (answer.clone(), Instant::now()));
                }
                Ok(answer)
            }
            (Err(_), Some((answer, _))) => Ok(Arc::new(Answer { from: "stale", ..(*answer).clone() })),
            (Err(error), None) => Err(error.to_hub()),
        }
    }

    fn keep(&self, question: &Question) -> Option<Keep> {
        let (route, query) = (&question.route, question.target.query());
        let target = &question.target.upstream_path_and_query();
        let by_revision = |revision: Option<&Revision>| match revision.and_then(Revision::as_commit) {
            Some(_) => FOREVER,
            None => self.config.freshness.revision,
        };
        // The Hub's links name a page's length too. A client could invent any number of them.
        let is_led_to = || self.led_to.contains_key(target);
        if !query.split('&').all(|pair| pair.is_empty() || is_kept(pair)) && !is_led_to() {
            return None;
        }
        if route.repo().is_some_and(|repo| !self.may_cache(repo)) {
            return None;
        }
        let of = |repo: &RepoId, name: &str, fresh_for| Some(Keep { key: RecordKey::of_repo(repo, name, target), fresh_for });
        match route {
            Route::RepoInfo { repo, revision } => of(repo, "info", by_revision(revision.as_ref())),
            Route::Tree { repo, revision, .. } => of(repo, &format!("tree-{}", revision.as_str()), by_revision(Some(revision))),
            Route::Commits { repo, revision } => of(repo, "commits", by_revision(Some(revision))),
            // A tag names a quantization, and whatever file of `main` has it now.
            Route::Manifest { repo, .. } => of(repo, "manifest", self.config.freshness.revision),
            // Named by its hash.
            Route::Layer { repo, .. } => of(repo, "layer", FOREVER),
            Route::Refs { repo } => of(repo, "refs", self.config.freshness.revision),
            Route::AgentHarnesses => Some(Keep { key: RecordKey::of_site("agent-harnesses", target), fresh_for: AGENTS_TTL }),
            _ => None,
        }
    }

    /// What is kept of an answer to exactly this question, for whoever may have it.
    pub(super) async fn kept(&self, question: &Question) -> Option<Record> {
        self.kept_answer(&self.keep(question)?.key).await
    }

    pub(super) async fn kept_answer(&self, key: &RecordKey) -> Option<Record> {
        let (store, key) = (self.store.clone(), key.clone());
        match tokio::task::spawn_blocking(move || store.records().get(&key)).await.ok()? {
            Ok(record) => record,
            Err(e) => {
                log::warn!("cannot read a kept answer: {e}");
                None
            }
        }
    }

    /// `known` is what is kept: upstream may say that it still holds, and has less time to say so. So it has for what can be told
    /// without it: time must be left for the question who may be told.
    async fn ask_upstream(
        &self,
        question: &Question,
        token: Option<&Token>,
        keep: Option<Keep>,
        known: Option<&Record>,
    ) -> Result<Answer, MirrorError> {
        let target = question.target.upstream_path_and_query();
        let patience = match known.is_some_and(is_usable) {
            true => KEPT_PATIENCE,
            // Of what is open to all that question is answered.
            false if self.asks_who(question).await && self.may_be_derived(question).await => {
                KEPT_PATIENCE.min(self.config.upstream.question_timeout * 2 / 5)
            }
            false => Duration::MAX,
        };
        // The operator's token may stand in for no token, but only on what is open to all: a repo's content. Below the same path
        // lie its settings, its requests for access and tokens for its store.
        let may_stand_in = self.origin.has_operator_token() && token.is_none() && is_content(&question.route);
        let is_open = match question.route.repo().filter(|_| may_stand_in) {
            Some(repo) => self.access.is_open(repo).await,
            None => false,
        };
        let form = question.form.as_ref().map(|(content_type, bytes)| (content_type.as_str(), bytes.clone()));
        // A HEAD is asked as a GET: its answer may be kept, and says the same.
        let method = if question.method == Method::POST { Method::POST } else { Method::GET };
        let asking = self.origin.within(patience).to_its_end().of_repo(is_open).unless(known.and_then(etag_of));
        let reply = asking.ask(&method, &target, token, form).await?;
        let authoritative = reply.authoritative;
        if reply.status == 304 {
            let (Some(record), Some(keep)) = (known, keep) else {
                let cause = "a 304 that was not asked for".to_owned();
                return Err(SourceError::Broken { host: self.origin.base(), cause }.into());
            };
            let answer = answer_of(record, "confirmed");
            self.learn(question, &answer, authoritative).await?;
            self.touch_answer(keep).await;
            return Ok(answer);
        }
        let (moved, keep) = match question.route.repo() {
            Some(repo) => {
                self.names.learn(repo, &reply).await;
                let present = self.known_name(repo).await.map_err(|error| MirrorError::Ruled(error.into()))?;
                match present == *repo {
                    true => (None, keep),
                    false => {
                        let moved = question.of(present);
                        let keep = self.keep(&moved);
                        (Some(moved), keep)
                    }
                }
            }
            None => (None, keep),
        };
        // From here on it is about the repo that has the name now: all is kept under that.
        let question = moved.as_ref().unwrap_or(question);
        let answer = self.cleaned(reply, &question.route, &target, known.is_some()).await?;
        // Looked for in all that may be kept: a listing of a branch, or files in an info, teach nothing and may be masked.
        let learned = if answer.status == 200 { self.learn(question, &answer, authoritative).await? } else { Learned::Nothing };
        let masked = learned == Learned::Masked || (keep.is_some() && is_masked(&answer.body));
        let shareable = match question.route.repo() {
            Some(repo) => {
                let is_whole = answer.status == 200 && !masked && keep.is_some();
                is_whole && deadline::with_rest(self.is_reader(repo, token)).await
            }
            None => answer.status == 200,
        };
        if let Some(keep) = keep.filter(|_| shareable) {
            self.keep_answer(&keep, &answer).await;
        }
        Ok(answer)
    }

    /// Whether an answer to this caller is what all readers of the repo see. Asked after the answer, which may have told that
    /// the repo was closed since it was last found open.
    async fn is_reader(&self, repo: &RepoId, token: Option<&Token>) -> bool {
        self.access.is_open(repo).await || (token.is_some() && self.access.check(repo, token).await.is_ok())
    }

    /// Whether upstream may have to be asked who may read.
    async fn asks_who(&self, question: &Question) -> bool {
        match question.route.repo() {
            Some(repo) => !self.access.is_known_open(repo).await,
            None => false,
        }
    }

    /// `was_there` when something is kept that a no would be about.
    async fn cleaned(&self, reply: Reply, route: &Route, target: &str, was_there: bool) -> Result<Answer, MirrorError> {
        if reply.status == 429 || reply.status >= 500 {
            let host = self.origin.base();
            return Err(SourceError::Busy { host, status: reply.status, retry_after: retry_after(&reply.headers) }.into());
        }
        if let Some(cause) = foreign(&reply, route, was_there) {
            let cause = format!("{cause}; is there a portal or a proxy between?");
            return Err(SourceError::Broken { host: self.origin.base(), cause }.into());
        }
        let (len, route, second_hand) = (reply.body.len(), route.clone(), reply.second_hand);
        let cleaned = on_worker(len, move || clean(reply, &route)).await?;
        let mut answer = cleaned.map_err(|cause| {
            log::warn!("{target}: {cause}");
            SourceError::Broken { host: self.origin.base(), cause }
        })?;
        if second_hand {
            answer.headers.push((SECOND_HAND.to_owned(), "1".to_owned()));
        }
        Ok(answer)
    }

    async fn touch_answer(&self, keep: Keep) {
        let store = self.store.clone();
        let touched = tokio::task::spawn_blocking(move || store.records().touch(&keep.key, SystemTime::now()));
        if let Ok(Err(e)) = touched.await {
            log::warn!("cannot note that a kept answer still holds: {e}");
        }
    }

    /// Learns what all files of a commit are, page by page, so that none of them has to be asked for. Best effort.
    pub(super) async fn list(&self, repo: &RepoId, commit: Commit, token: Option<&Token>) {
        let revision = Revision::from(commit);
        let route = Route::Tree { repo: repo.clone(), revision: revision.clone(), path: None::<FilePath> };
        let mut target = ApiTarget::whole_tree(repo, &revision);
        let upstream = self.origin.base();
        let mut lacks_some = false;
        for _ in 0..LISTED_PAGES_MAX {
            let (method, token) = (Method::GET, token.cloned());
            let question = Question { route: route.clone(), method, target: target.clone(), token, form: None };
            let Ok(answer) = self.answer(&question).await else { return };
            if answer.status != 200 {
                return;
            }
            // Taught already if it came from upstream just now, not if it was kept. A masked page teaches nothing, and then the
            // listing is not complete.
            let body = answer.body.clone();
            let Ok(Ok(tree)) = on_worker(body.len(), move || parse_tree(&body)).await else { return };
            let second_hand = is_second_hand(&answer.headers);
            self.learn_left_out(repo, commit, &tree, second_hand).await;
            self.learn_tree(repo, commit, &tree.files, false, second_hand).await;
            lacks_some |= second_hand;
            let next = answer.headers.iter().find(|(name, _)| name == "link").map(|(_, link)| link);
            let Some(next) = next else {
                self.learn_tree(repo, commit, &[], true, lacks_some).await;
                return;
            };
            let Some(query) = next_query(next, &[&upstream, "https://huggingface.co"]) else { return };
            target = ApiTarget::new(&route, format!("?{query}"));
        }
    }

    async fn keep_answer(&self, keep: &Keep, answer: &Answer) {
        let record = Record {
            status: answer.status,
            headers: answer.headers.clone(),
            fetched_at: SystemTime::now(),
            fresh_for: match is_second_hand(&answer.headers) {
                true => keep.fresh_for.min(self.config.freshness.revision),
                false => keep.fresh_for,
            },
            stale_for: self.config.freshness.stale,
            target: keep.key.target().to_owned(),
            body: answer.body.clone(),
        };
        let (store, key) = (self.store.clone(), keep.key.clone());
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || store.records().put(&key, &record)).await {
            log::warn!("cannot keep an answer: {e}");
        }
    }

    /// Takes from an answer what saves asking later. A fallback's word on who may read a repo does not count.
    async fn learn(&self, question: &Question, answer: &Answer, authoritative: bool) -> Result<Learned, MirrorError> {
        let body = answer.body.clone();
        match &question.route {
            Route::RepoInfo { repo, revision } => {
                let Ok(facts) = on_worker(body.len(), move || parse_info(&body)).await? else { return Ok(Learned::Nothing) };
                if authoritative {
                    self.access.learn(repo, &facts).await;
                }
                if let (Some(sha), Some(revision)) = (facts.sha, revision) {
                    self.learn_revision(repo, revision, sha).await;
                }
            }
            Route::Tree { repo, revision, path } => {
                let Some(commit) = revision.as_commit().or_else(|| commit_of(answer)) else { return Ok(Learned::Nothing) };
                let tree = match on_worker(body.len(), move || parse_tree(&body)).await? {
                    Ok(tree) => tree,
                    // It teaches nothing: its ids are not the content's.
                    Err(ListingError::Masked { .. }) => return Ok(Learned::Masked),
                    Err(_) => return Ok(Learned::Nothing),
                };
                let has_next = answer.headers.iter().any(|(name, _)| name == "link");
                let is_whole = path.is_none() && question.target.value("recursive").as_deref() == Some("true");
                let is_first = question.target.value("cursor").is_none();
                let second_hand = is_second_hand(&answer.headers);
                self.learn_left_out(repo, commit, &tree, second_hand).await;
                self.learn_tree(repo, commit, &tree.files, is_whole && is_first && !has_next, second_hand).await;
            }
            _ => {}
        }
        Ok(Learned::Nothing)
    }
}

/// Questions about what a repo holds.
fn is_content(route: &Route) -> bool {
    matches!(
        route,
        Route::RepoInfo { .. }
            | Route::Tree { .. }
            | Route::PathsInfo { .. }
            | Route::Refs { .. }
            | Route::Commits { .. }
            | Route::Raw { .. }
            | Route::Manifest { .. }
            | Route::Layer { .. }
    )
}

/// Questions which a caller may have answered under the operator's name.
fn is_shared(route: &Route) -> bool {
    is_content(route) || matches!(route, Route::AuthCheck { .. })
}

/// Why an answer cannot be the Hub's but must be that of something in between: a portal, a proxy, a firewall.
fn foreign(reply: &Reply, route: &Route, was_there: bool) -> Option<String> {
    let content_type = reply.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("");
    let is_json = content_type.contains("json") || matches!(reply.body.trim_ascii_start().first(), Some(b'{' | b'['));
    let status = reply.status;
    match status {
        // Whatever it says, it becomes an answer of ours.
        _ if matches!(route, Route::AgentHarnesses) => None,
        // Those that stay with the Hub were followed, and those to files lead back here.
        300..=399 if leads_to_file(reply) => None,
        300..=399 => Some(format!("a redirect ({status}) that leads elsewhere")),
        // Of what the Hub has no page for, it says so in JSON alone.
        400..=499 if is_hubs_no(status, &reply.headers) || (is_json && !was_there && !matches!(status, 401 | 403)) => None,
        400..=499 => Some(format!("a {status} that is not the Hub's")),
        _ if is_told_in_json(route) && !is_json => Some(format!("a page ({content_type}) in the place of JSON")),
        _ => None,
    }
}

fn leads_to_file(reply: &Reply) -> bool {
    let location = reply.headers.get("location").and_then(|v| v.to_str().ok()).filter(|to| to.starts_with('/'));
    location.is_some_and(|to| matches!(Route::parse(&Method::GET, to), Ok(Route::Resolve { .. })))
}

fn is_told_in_json(route: &Route) -> bool {
    matches!(route, Route::Search { .. } | Route::WhoAmI) || (is_content(route) && !matches!(route, Route::Layer { .. }))
}

/// Whether ids are hidden in an answer.
fn is_masked(body: &[u8]) -> bool {
    const MASK: &[u8] = b"\"****************************************************************\"";
    body.windows(MASK.len()).any(|window| window == MASK)
}

/// What an answer taught that bears on its keeping.
#[derive(PartialEq, Eq)]
enum Learned {
    Nothing,
    /// Its ids are hidden from this caller.
    Masked,
}

/// Whether an answer to a question with this parameter is kept. What takes any value is not: or whoever invents values would
/// make us keep a copy for each.
fn is_kept(pair: &str) -> bool {
    let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
    match key {
        // A cursor that upstream did not make gets no 200.
        "cursor" => value.len() <= CURSOR_LEN_MAX,
        "p" => value.len() <= 4 && value.bytes().all(|b| b.is_ascii_digit()),
        _ => SWITCHES_KEPT.contains(&key) && matches!(value, "true" | "false" | "1" | "0"),
    }
}

/// The target of the page after the one with these headers.
pub(super) fn next_of(headers: &[(String, String)], route: &Route) -> Option<String> {
    let (_, link) = headers.iter().find(|(name, value)| name == "link" && value.contains("rel=\"next\""))?;
    let url = link.split_once('<')?.1.split_once('>')?.0;
    Some(ApiTarget::new(route, url).upstream_path_and_query())
}

/// What upstream's no says in its body, for those who read headers only.
fn said(status: u16, body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let error = json.as_ref().and_then(|json| json.get("error")).and_then(|error| error.as_str());
    error.map_or_else(|| format!("The Hub answered {status}."), str::to_owned)
}

/// The query of the next page, which is asked of the same path.
fn next_query(link: &str, upstreams: &[&str]) -> Option<String> {
    let link = rewrite::link_header(link, upstreams, "http://here")?;
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = next.split_once('<')?.1.split_once('>')?.0;
    url.split_once('?').map(|(_, query)| query.to_owned())
}

pub(super) fn is_second_hand(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, _)| name == SECOND_HAND)
}

/// Whether upstream says that what was asked about is not in the repo.
fn is_missing(answer: &Answer) -> bool {
    let code = answer.headers.iter().find(|(name, _)| name == "x-error-code").map(|(_, code)| code.as_str());
    answer.status == 404 && matches!(code, Some("RevisionNotFound" | "EntryNotFound"))
}

fn etag_of(record: &Record) -> Option<&str> {
    // What a fallback left out would be confirmed by the tag of what it was left out of.
    if is_second_hand(&record.headers) {
        return None;
    }
    let of = |wanted: &str| record.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    of(UPSTREAM_ETAG).or_else(|| of("etag"))
}

fn commit_of(answer: &Answer) -> Option<Commit> {
    answer.headers.iter().find(|(name, _)| name == "x-repo-commit").and_then(|(_, value)| Commit::parse(value))
}

fn age(record: &Record) -> Duration {
    crate::store::age(record.fetched_at)
}

pub(super) fn is_fresh(record: &Record) -> bool {
    age(record) < record.fresh_for
}

fn is_usable(record: &Record) -> bool {
    age(record) < record.fresh_for.saturating_add(record.stale_for)
}

fn answer_of(record: &Record, from: &'static str) -> Answer {
    Answer { status: record.status, headers: record.headers.clone(), body: record.body.clone(), from }
}

/// Upstream's answer without what must not reach clients or the disk: Xet signals, cookies, hop-by-hop headers. The error
/// says why it cannot be cleaned.
fn clean(reply: Reply, route: &Route) -> Result<Answer, String> {
    let text = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok());
    if reply.status == 307 {
        // To a file, see `Asking`; nothing else of a redirect is for clients.
        let place = text("location").ok_or("a redirect without a place")?;
        let headers = vec![("location".to_owned(), place.to_owned())];
        return Ok(Answer { status: 307, headers, body: Bytes::new(), from: "upstream" });
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for name in HEADERS_KEPT {
        for value in reply.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()) {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    if let Route::Layer { oid, .. } = route
        && reply.status == 200
    {
        // It is kept by its hash, and passed on letter by letter.
        let mut hasher = ObjectHasher::new(oid, reply.body.len() as u64);
        hasher.update(&reply.body);
        hasher.matches().map_err(|found| format!("it has the hash {found}"))?;
        return Ok(Answer { status: 200, headers, body: reply.body.clone(), from: "upstream" });
    }
    let is_json = text("content-type").is_some_and(|v| v.contains("json"));
    let body = match is_json && !matches!(route, Route::XetReadToken { .. }) {
        true => match rewrite::strip_xet(&reply.body) {
            Ok(Cow::Borrowed(_)) => reply.body.clone(),
            Ok(Cow::Owned(stripped)) => {
                // The tag was of other bytes; it still says whether upstream's have changed.
                for (name, _) in headers.iter_mut().filter(|(name, _)| name == "etag") {
                    *name = UPSTREAM_ETAG.to_owned();
                }
                Bytes::from(stripped)
            }
            Err(error) => return Err(format!("its JSON cannot be read: {error}")),
        },
        false => reply.body.clone(),
    };
    // Agent harnesses must be an object, or clients crash and remember it for a day.
    if matches!(route, Route::AgentHarnesses) && !(reply.status == 200 && body.trim_ascii_start().starts_with(b"{")) {
        let error = HubError::no_such_page();
        let mut headers = vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())];
        headers.extend(error.headers().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)));
        return Ok(Answer { status: error.status, headers, body: error.body().into(), from: "upstream" });
    }
    if reply.status >= 400 && text("x-error-message").is_none_or(str::is_empty) {
        headers.retain(|(name, _)| name != "x-error-message");
        headers.push(("x-error-message".into(), header_safe(&said(reply.status, &body))));
    }
    if reply.status == 401 && text("x-error-code").is_none() && route.repo().is_some() {
        let error = refused(401, None, text("x-error-message").unwrap_or(""), None);
        if let Some(code) = error.code {
            headers.push(("x-error-code".into(), code.into()));
        }
    }
    Ok(Answer { status: reply.status, headers, body, from: "upstream" })
}
