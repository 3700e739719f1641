//! What the API says: kept answers while they are fresh, upstream's otherwise, kept ones again when upstream fails.
//!
//! Answers are read whole (bounded) before they go out: Xet fields must be cut from their JSON, and what they say of
//! files, revisions and access is learned. `pingora-cache` keeps objects only; this is simpler for answers, since
//! upstream's redirects are followed inside and one question of many clients is one question upstream.

use super::{KEPT_PATIENCE, Mirror, MirrorError, on_worker, refused};
use crate::hub::{ApiTarget, Commit, HubError, ListingError, RepoId, Revision, Route, parse_info, parse_tree, rewrite};
use crate::source::{Reply, SourceError, Token, retry_after};
use crate::store::{ObjectHasher, Record, RecordKey};
use bytes::Bytes;
use http::Method;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What a commit says never changes.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The Hub's list of agents; clients keep it as long themselves.
const AGENTS_TTL: Duration = Duration::from_secs(24 * 3600);
/// Identical questions within this time are one.
const COALESCED_FOR: Duration = Duration::from_secs(1);
/// Bytes of answers on their way; only to share them.
const COALESCED_LEN_MAX: u64 = 128 << 20;
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

/// A question of the API.
pub struct Question {
    pub route: Route,
    pub method: Method,
    pub target: ApiTarget,
    pub token: Option<Token>,
    /// Content type and body of a POST.
    pub form: Option<(String, Bytes)>,
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

/// Whether and for how long an answer may be kept.
pub(super) struct Keep {
    key: RecordKey,
    fresh_for: Duration,
}

impl Mirror {
    /// Answers a question. Whatever upstream said is `Ok`, also its no; `Err` is the mirror's own trouble.
    pub async fn answer(&self, question: &Question) -> Result<Arc<Answer>, HubError> {
        let target = question.target.upstream_path_and_query();
        let keep = self.keep(&question.route, &target, question.target.query());
        let (keep, open) = match (keep, question.route.repo()) {
            (Some(keep), Some(repo)) => match self.kept_answer(&keep).await {
                // An answer is shared only between callers of a repo that is open to all.
                Some(record) if self.access.is_open(repo).await.unwrap_or(false) => (Some(keep), Some(record)),
                _ => (Some(keep), None),
            },
            (Some(keep), None) => {
                let record = self.kept_answer(&keep).await;
                (Some(keep), record)
            }
            (None, _) => (None, None),
        };
        if let Some(record) = &open
            && is_fresh(record)
        {
            return Ok(Arc::new(answer_of(record, "store")));
        }
        if open.is_none()
            && let Some(refusal) = self.absent_directory(question).await
        {
            return Err(refusal);
        }
        let error = if self.config.upstream.offline {
            MirrorError::Offline
        } else {
            let key = (target.clone(), Token::fingerprint(question.token.as_ref()));
            let patience = open.as_ref().filter(|record| is_usable(record)).map_or(Duration::MAX, |_| KEPT_PATIENCE);
            let asked = async { self.ask_upstream(question, &target, keep.as_ref(), patience).await.map(Arc::new) };
            let outcome = match question.method == Method::POST {
                true => asked.await,
                false => self.answers.try_get_with(key, asked).await.map_err(|e| (*e).clone()),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            }
        };
        match open {
            Some(record) if self.config.upstream.offline => Ok(Arc::new(answer_of(&record, "stale"))),
            Some(record) if is_usable(&record) => {
                log::warn!("upstream fails for {target}, the kept answer is used: {error}");
                Ok(Arc::new(answer_of(&record, "stale")))
            }
            _ => Err(error.to_hub()),
        }
    }

    pub(super) fn keep(&self, route: &Route, target: &str, query: &str) -> Option<Keep> {
        let by_revision = |revision: Option<&Revision>| match revision.and_then(Revision::as_commit) {
            Some(_) => FOREVER,
            None => self.config.freshness.revision,
        };
        if !query.split('&').all(|pair| pair.is_empty() || is_kept(pair)) {
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

    pub(super) async fn kept_answer(&self, keep: &Keep) -> Option<Record> {
        let (store, key) = (self.store.clone(), keep.key.clone());
        match tokio::task::spawn_blocking(move || store.records().get(&key)).await.ok()? {
            Ok(record) => record,
            Err(e) => {
                log::warn!("cannot read a kept answer: {e}");
                None
            }
        }
    }

    async fn ask_upstream(
        &self,
        question: &Question,
        target: &str,
        keep: Option<&Keep>,
        patience: Duration,
    ) -> Result<Answer, MirrorError> {
        // The operator's token may stand in for no token, but only on what is open to all.
        let may_stand_in = self.origin.has_operator_token() && question.token.is_none();
        let is_open = match question.route.repo().filter(|_| may_stand_in) {
            Some(repo) => self.access.is_open(repo).await.unwrap_or(false),
            None => false,
        };
        let form = question.form.as_ref().map(|(content_type, bytes)| (content_type.as_str(), bytes.clone()));
        // A HEAD is asked as a GET: its answer may be kept, and says the same.
        let method = if question.method == Method::POST { Method::POST } else { Method::GET };
        let reply = self.origin.within(patience).of_repo(is_open).ask(&method, target, question.token.as_ref(), form).await?;
        if reply.status == 429 || reply.status >= 500 {
            let host = self.origin.base();
            return Err(SourceError::Busy { host, status: reply.status, retry_after: retry_after(&reply.headers) }.into());
        }
        let authoritative = reply.authoritative;
        let route = question.route.clone();
        let len = reply.body.len();
        let answer = on_worker(len, move || clean(reply, &route)).await?.map_err(|cause| {
            let cause = format!("{target}: {cause}");
            SourceError::Broken { host: self.origin.base(), cause }
        })?;
        let masked = answer.status == 200 && self.learn(question, &answer, authoritative).await? == Learned::Masked;
        let shareable = match question.route.repo() {
            // A masked answer is one caller's; the repo may have been closed since it was last found open.
            Some(repo) => answer.status == 200 && !masked && keep.is_some() && self.access.is_open(repo).await.unwrap_or(false),
            None => answer.status == 200,
        };
        if let Some(keep) = keep.filter(|_| shareable) {
            self.keep_answer(keep, &answer).await;
            if let Some(keep) = self.keep_at_commit(question, &answer).await? {
                self.keep_answer(&keep, &answer).await;
            }
        }
        Ok(answer)
    }

    async fn keep_answer(&self, keep: &Keep, answer: &Answer) {
        let record = Record {
            status: answer.status,
            headers: answer.headers.clone(),
            fetched_at: SystemTime::now(),
            fresh_for: keep.fresh_for,
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
                let files = match on_worker(body.len(), move || parse_tree(&body)).await? {
                    Ok(files) => files,
                    // It teaches nothing: its ids are not the content's.
                    Err(ListingError::Masked { .. }) => return Ok(Learned::Masked),
                    Err(_) => return Ok(Learned::Nothing),
                };
                let has_next = answer.headers.iter().any(|(name, _)| name == "link");
                let is_whole = path.is_none() && question.target.value("recursive").as_deref() == Some("true");
                let is_first = question.target.value("cursor").is_none();
                self.learn_tree(repo, commit, &files, is_whole && is_first && !has_next).await;
            }
            _ => {}
        }
        Ok(Learned::Nothing)
    }
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

fn commit_of(answer: &Answer) -> Option<Commit> {
    answer.headers.iter().find(|(name, _)| name == "x-repo-commit").and_then(|(_, value)| Commit::parse(value))
}

fn age(record: &Record) -> Duration {
    SystemTime::now().duration_since(record.fetched_at).unwrap_or_default()
}

fn is_fresh(record: &Record) -> bool {
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
                // The tag was of other bytes.
                headers.retain(|(name, _)| name != "etag");
                Bytes::from(stripped)
            }
            Err(error) => return Err(format!("its JSON cannot be read: {error}")),
        },
        false => reply.body.clone(),
    };
    // Agent harnesses must be an object, or clients crash and remember it for a day.
    if matches!(route, Route::AgentHarnesses) && !(reply.status == 200 && body.trim_ascii_start().starts_with(b"{")) {
        let error = HubError::no_such_page();
        return Ok(Answer { status: error.status, headers: Vec::new(), body: error.body().into(), from: "upstream" });
    }
    if reply.status == 401 && text("x-error-code").is_none() && route.repo().is_some() {
        let error = refused(401, None, text("x-error-message").unwrap_or(""), None);
        if let Some(code) = error.code {
            headers.push(("x-error-code".into(), code.into()));
        }
    }
    Ok(Answer { status: reply.status, headers, body, from: "upstream" })
}
