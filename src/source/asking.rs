//! Questions: of the first upstream that answers, within a deadline, tried again where that helps.
//!
//! # Several upstreams
//!
//! The first upstream is the Hub, and what it says is final, its no as well: a 401, 403 or 404 is never asked elsewhere.
//! When it is down, busy, or answers nonsense, the next one is asked, and the first again as soon as its breaker lets a
//! probe through. What a fallback says is taken with care:
//!
//! - Its no is not the Hub's no. A mirror may lack a repo, or not be logged in: that is a passing error, never a 404.
//! - It sees no token unless it is in `upstream.trusted_fallbacks`; a mirror is another party, and a token opens all that
//!   its owner may read.
//! - Untrusted, it does not decide access. A mirror that answers 200 to everybody would open, to callers without a
//!   token, what is kept here of gated repos. So `auth-check` and `whoami` are not asked of it (but see
//!   [`Asking::of_fallbacks`]), and its answers are marked as not [`Reply::authoritative`], so that nothing about access is
//!   learned from them.
//! - What it redirects to is asked without a token as well, and may not be an upstream that sees tokens: it could choose
//!   what of a caller's private repos is fetched under the name of an open one.
//! - It is believed about content: which commit a branch is, and which oids and sizes a commit has. Whoever lists a fallback
//!   trusts it that far. Bytes are held to the oid wherever they come from.

use super::body::Patience;
use super::client::object_at;
use super::origin::{Located, Origin, Question, REDIRECTS_MAX, Reply, Upstream, subject};
use super::{SourceError, Token, Url, deadline};
use crate::hub::{ApiTarget, Commit, Oid, Route, is_hubs_no, rewrite};
use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, Method};
use std::time::{Duration, Instant};

/// Between tries of a question of the last upstream there is; together well below the 10 s after which clients give up on
/// a HEAD. Where there is another one to ask, only the first wait is worth it.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// How long an answer that may go on past the deadline ([`Asking::to_its_end`]) may pause (and never longer than a question),
/// and how long the whole may take.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// A registry's layers lie on the CDN, as files do, even where they are a few words.
const REGISTRY: &str = "/v2/";
/// What stands in a listing instead of an id for those who may not read the repo: 64 of them.
const MASK: &[u8] = b"****************";

/// How questions are asked; begin one at [`Origin`]. The conditions may be combined: `origin.within(d).of_open_repo().locate(..)`.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    origin: &'a Origin,
    timeout: Duration,
    open_repo: bool,
    for_bytes: bool,
    of_fallbacks: bool,
    deciding: bool,
    urgent: bool,
    to_its_end: bool,
    unless: Option<&'a str>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(origin: &'a Origin) -> Asking<'a> {
        let timeout = origin.question_timeout;
        Asking {
            origin,
            timeout,
            open_repo: false,
            for_bytes: false,
            of_fallbacks: false,
            deciding: false,
            urgent: false,
            to_its_end: false,
            unless: None,
        }
    }

    /// Asks whether what is known by this tag still holds: the reply may then be a 304 without a body.
    #[must_use]
    pub fn unless(self, etag: Option<&'a str>) -> Asking<'a> {
        Asking { unless: etag, ..self }
    }

    /// Gives up after this time, or after `upstream.question_timeout` if that is shorter.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Asking<'a> {
        Asking { timeout: timeout.min(self.timeout), ..self }
    }

    /// Promises that the repo is open to all, by upstream's latest word to a caller without a token. A question without a
    /// token is then asked with the operator's, for its higher limits. Never to be promised on anything else: the
    /// operator's token may open repos that the caller must not see.
    #[must_use]
    pub fn of_open_repo(self) -> Asking<'a> {
        Asking { open_repo: true, ..self }
    }

    /// As [`Asking::of_open_repo`] if it is one.
    #[must_use]
    pub fn of_repo(self, open: bool) -> Asking<'a> {
        Asking { open_repo: self.open_repo || open, ..self }
    }

    /// The bytes matter more than who says where they are: when the host they lie on is down, the next upstream is asked.
    #[must_use]
    pub fn for_bytes(self) -> Asking<'a> {
        Asking { for_bytes: true, ..self }
    }

    /// Lets untrusted fallbacks answer `auth-check`. Only for repos of which nothing is known and nothing kept: then
    /// their yes opens no more than they themselves give to everybody. Not to be written down.
    #[must_use]
    pub fn of_fallbacks(self) -> Asking<'a> {
        Asking { of_fallbacks: true, ..self }
    }

    /// Asks although upstream answers 5xx to other questions: what a caller makes it fail at must not decide what the caller may read.
    #[must_use]
    pub fn deciding(self) -> Asking<'a> {
        Asking { deciding: true, ..self }
    }

    /// Asks although the mirror's own pacing would rather wait: for a question whose answer may take away what is given without
    /// one. Upstream's own 429 still holds it back.
    #[must_use]
    pub fn urgent(self) -> Asking<'a> {
        Asking { urgent: true, ..self }
    }

    /// Lets an answer that has begun go on past the deadline while it keeps coming, as listings of large repos on a thin line
    /// do. For answers that are passed on: who asks the API waits, who asks for a head does not. Without effect on who has less
    /// patience ([`Asking::within`]).
    #[must_use]
    pub fn to_its_end(self) -> Asking<'a> {
        Asking { to_its_end: true, ..self }
    }

    /// See [`Origin::locate`].
    pub async fn locate(self, target: &str, token: Option<&Token>) -> Result<Located, SourceError> {
        let mut spare = None;
        let found = self
            .of_each(
                true,
                |upstream, deadline| self.locate_at(upstream, target, token, deadline),
                |located| {
                    if !self.for_bytes || !self.origin.has_fallbacks() {
                        return Ok(located);
                    }
                    let hosts = &self.origin.client.hosts;
                    let error = match hosts.is_down(&located.url) {
                        true => {
                            let cause = "the host of the bytes is down".into();
                            SourceError::Unreachable { host: located.url.authority(), cause }
                        }
                        false => match hosts.check_hold(&located.url, object_at(&located.url)) {
                            Ok(()) => return Ok(located),
                            Err(held) => held,
                        },
                    };
                    spare.get_or_insert(located);
                    Err(error)
                },
            )
            .await;
        // Better a place that is down than none: its breaker says what is wrong with it.
        found.or_else(|error| spare.ok_or(error))
    }

    /// See [`Origin::ask`].
    pub async fn ask(
        self,
        method: &Method,
        target: &str,
        token: Option<&Token>,
        form: Option<(&str, Bytes)>,
    ) -> Result<Reply, SourceError> {
        let decides_access =
            matches!(Route::parse(method, target.as_bytes()), Ok(Route::AuthCheck { .. } | Route::WhoAmI)) && !self.of_fallbacks;
        let once = |upstream, deadline| self.ask_at(upstream, method, target, token, form.clone(), deadline);
        self.of_each(!decides_access, once, Ok).await
    }

    /// Asks one upstream after the other until `accept` takes an answer. Each gets its share of the time that is left.
    async fn of_each<T, F: Future<Output = Result<T, SourceError>>>(
        self,
        may_be_untrusted: bool,
        once: impl Fn(&'a Upstream, Instant) -> F,
        mut accept: impl FnMut(T) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let candidates: Vec<&Upstream> = self.origin.upstreams.iter().filter(|u| u.trusted || may_be_untrusted).collect();
        let time_left = deadline::time_left();
        if time_left.is_zero() {
            let cause = "other questions of this request took all the time".to_owned();
            return Err(SourceError::Timeout { host: self.origin.upstreams[0].base.authority(), cause });
        }
        let end = Instant::now() + self.timeout.min(time_left);
        let mut first_error = None;
        for (index, upstream) in candidates.iter().enumerate() {
            let is_up = |upstream: &&&Upstream| !self.origin.client.hosts.is_down(&upstream.base);
            let others = candidates[index + 1..].iter().filter(is_up).count();
            let now = Instant::now();
            let deadline = now + end.saturating_duration_since(now) / (others as u32 + 1);
            let waits = if others == 0 { &RETRY_WAITS[..] } else { &RETRY_WAITS[..1] };
            let error = match patiently(waits, deadline, || once(upstream, deadline)).await.and_then(&mut accept) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if index == 0 && !error.is_passing() {
                return Err(error);
            }
            if candidates.len() > 1 {
                log::debug!("passed over upstream={} error={:?}", upstream.base.authority(), error.to_string());
            }
            // The Hub's own trouble is what the client is told; a fallback's no would be read as the Hub's.
            first_error.get_or_insert(error);
        }
        Err(first_error.expect("the first upstream is always a candidate"))
    }

    /// The token that goes along, also over redirects, and whether it is the operator's.
    fn token<'t>(&self, upstream: &Upstream, token: Option<&'t Token>) -> (Option<&'t Token>, bool)
    where
        'a: 't,
    {
        if !upstream.trusted {
            return (None, false);
        }
        match (token, self.origin.operator_token()) {
            (None, Some(operator)) if self.open_repo => (Some(operator), true),
            _ => (token, false),
        }
    }

    async fn locate_at(
        self,
        upstream: &Upstream,
        target: &str,
        token: Option<&Token>,
        deadline: Instant,
    ) -> Result<Located, SourceError> {
        let (token, is_operators) = self.token(upstream, token);
        match self.locate_with(upstream, target, token, deadline).await {
            Err(SourceError::Refused { status, .. }) if is_operators && is_about_tokens(status) => {
                let located = self.locate_with(upstream, target, None, deadline).await;
                if located.is_ok() {
                    self.origin.rest_operator_token(status);
                }
                located
            }
            other => other,
        }
    }

    async fn locate_with(
        self,
        upstream: &Upstream,
        target: &str,
        token: Option<&Token>,
        deadline: Instant,
    ) -> Result<Located, SourceError> {
        let question =
            Question { subject: subject(&Method::HEAD, target), deadline, deciding: self.deciding, urgent: self.urgent };
        let authoritative = upstream.trusted;
        let mut url = upstream.base.with_target(target);
        let mut commit = None;
        let mut linked = (None, None);
        for _ in 0..REDIRECTS_MAX {
            let body = self.origin.send(&Method::HEAD, &url, token, None, None, "head", Some(question), None).await?;
            let text = |name: &str| body.headers.get(name).and_then(|v| v.to_str().ok());
            commit = commit.or_else(|| text("x-repo-commit").and_then(Commit::parse));
            linked.0 = linked.0.or_else(|| text("x-linked-etag").and_then(Oid::from_etag));
            linked.1 = linked.1.or_else(|| text("x-linked-size").and_then(|v| v.parse::<u64>().ok()));
            let host = url.authority();
            let wrong = |cause: &str| {
                log::info!("wrong answer to HEAD {url}: {cause}");
                SourceError::Broken { host: host.clone(), cause: cause.to_owned() }
            };
            if (300..400).contains(&body.status) {
                let next = text("location").and_then(|v| self.origin.next_hop(upstream, &url, v));
                let next = next.ok_or_else(|| wrong("a redirect without a place"))?;
                self.check_hop(upstream, &url, &next)?;
                body.release().await;
                if let (Some(commit), Some(oid), Some(size)) = (commit, linked.0, linked.1) {
                    return Ok(Located { commit, oid, size, url: next, authoritative });
                }
                url = next;
                continue;
            }
            if body.status >= 400 {
                return Err(match body.refusal(&url) {
                    SourceError::Refused { status, .. } if !is_hubs_no(status, &body.headers) => {
                        wrong(&format!("a {status} that is not the Hub's; is there a portal or a proxy between?"))
                    }
                    refusal => refusal,
                });
            }
            let oid = linked
                .0
                .or_else(|| text("etag").and_then(Oid::from_etag))
                .ok_or_else(|| wrong("no ETag that is a content id"))?;
            let own_len = text("content-length").and_then(|v| v.parse::<u64>().ok());
            let size = linked.1.or(own_len).ok_or_else(|| wrong("no size"))?;
            let commit = commit.ok_or_else(|| wrong("no X-Repo-Commit"))?;
            body.release().await;
            return Ok(Located { commit, oid, size, url, authoritative });
        }
        Err(SourceError::Broken { host: url.authority(), cause: format!("more than {REDIRECTS_MAX} redirects") })
    }

    async fn ask_at(
        self,
        upstream: &Upstream,
        method: &Method,
        target: &str,
        token: Option<&Token>,
        form: Option<(&str, Bytes)>,
        deadline: Instant,
    ) -> Result<Reply, SourceError> {
        let (sent, is_operators) = self.token(upstream, token);
        let mut reply = self.ask_with(upstream, method, target, sent, form.clone(), deadline).await?;
        if is_operators && is_about_tokens(reply.status) {
            let status = reply.status;
            reply = self.ask_with(upstream, method, target, None, form, deadline).await?;
            if reply.status < 300 {
                self.origin.rest_operator_token(status);
            }
        }
        let host = || upstream.base.authority();
        if reply.status >= 500 || reply.status == 429 {
            let retry_after = super::retry_after(&reply.headers);
            return Err(SourceError::Busy { host: host(), status: reply.status, retry_after });
        }
        if std::ptr::eq(upstream, &self.origin.upstreams[0]) {
            return Ok(reply);
        }
        if reply.status >= 400 {
            let message = "a fallback's no, which is not the Hub's".to_owned();
            return Err(SourceError::Refused { host: host(), status: reply.status, code: None, message, commit: None });
        }
        // Asked without the caller's token, it shows what everybody may see, which is less than the caller may.
        if token.is_some() && !upstream.trusted && reply.body.windows(MASK.len()).any(|w| w == MASK) {
            let cause = "the listing is masked for those without a token".to_owned();
            return Err(SourceError::Broken { host: host(), cause });
        }
        reply_of_first(&mut reply.headers, &upstream.base.origin(), &self.origin.base());
        Ok(reply)
    }

    /// How long the rest of an answer may take: a caller with something else to give has no more time than it said.
    fn patience(&self, deadline: Instant) -> Patience {
        let own = self.origin.question_timeout;
        match self.to_its_end && self.timeout >= own {
            true => Patience { pause: PAUSE_MAX.min(own), end: deadline + ANSWER_TIME_MAX },
            false => Patience { pause: self.timeout, end: deadline },
        }
    }

    fn check_hop(&self, upstream: &Upstream, from: &Url, to: &Url) -> Result<(), SourceError> {
        self.origin.check_redirect(from, to)?;
        if !upstream.trusted && self.origin.may_see_tokens(to) {
            let cause = format!("it leads to {}, which is asked for itself", to.authority());
            return Err(SourceError::Broken { host: from.authority(), cause });
        }
        Ok(())
    }

    async fn ask_with(
        self,
        upstream: &Upstream,
        method: &Method,
        target: &str,
        token: Option<&Token>,
        form: Option<(&str, Bytes)>,
        deadline: Instant,
    ) -> Result<Reply, SourceError> {
        let question =
            Some(Question { subject: subject(method, target), deadline, deciding: self.deciding, urgent: self.urgent });
        let mut url = upstream.base.with_target(target);
        for _ in 0..REDIRECTS_MAX {
            let mut body = self.origin.send(method, &url, token, None, form.clone(), "api", question, self.unless).await?;
            let reply = |status: u16, headers: HeaderMap, body: Bytes| {
                let second_hand = !std::ptr::eq(upstream, &self.origin.upstreams[0]);
                let (target, authoritative) = (url.target.clone(), upstream.trusted);
                Reply { status, headers, body, target, authoritative, second_hand }
            };
            if matches!(body.status, 301 | 302 | 303 | 307 | 308) {
                let wrong = |cause: &str| SourceError::Broken { host: url.authority(), cause: cause.to_owned() };
                let location = body.headers.get("location").and_then(|v| v.to_str().ok());
                let next = location.and_then(|v| self.origin.next_hop(upstream, &url, v));
                let next = next.ok_or_else(|| wrong("a redirect without a place"))?;
                let is_registry = target.starts_with(REGISTRY);
                if next.host != upstream.base.host && !is_registry {
                    // Where it leads may be for those alone who may ask, and is often signed: nobody is told.
                    return Err(wrong("a question of the API is redirected to another host"));
                }
                if let Some(place) = file_at(&next).filter(|_| !is_registry) {
                    body.release().await;
                    let mut headers = HeaderMap::new();
                    headers.insert(LOCATION, HeaderValue::from_str(&place).map_err(|_| wrong("a redirect to no place"))?);
                    return Ok(reply(307, headers, Bytes::new()));
                }
                self.check_hop(upstream, &url, &next)?;
                body.release().await;
                url = next;
                continue;
            }
            let whole = body.read_whole(self.patience(deadline)).await?;
            let reply = reply(body.status, std::mem::take(&mut body.headers), whole);
            body.release().await;
            return Ok(reply);
        }
        Err(SourceError::Broken { host: url.authority(), cause: format!("more than {REDIRECTS_MAX} redirects") })
    }
}

/// Tries again what fails in passing and at once. Not a dead or silent host (that is the breaker's matter), nor a 429, which
/// wants a longer wait than a client has patience for.
async fn patiently<T, F: Future<Output = Result<T, SourceError>>>(
    waits: &[Duration],
    deadline: Instant,
    ask: impl Fn() -> F,
) -> Result<T, SourceError> {
    for wait in waits {
        let outcome = ask().await;
        let worth_another = match &outcome {
            Err(SourceError::Busy { status, .. }) => *status != 429,
            Err(SourceError::Broken { .. }) => true,
            _ => false,
        };
        if !worth_another || Instant::now() + *wait >= deadline {
            return outcome;
        }
        tokio::time::sleep(*wait).await;
    }
    ask().await
}

/// A repo that was closed to all a moment ago looks as if the token were wrong; so it is asked without, too.
fn is_about_tokens(status: u16) -> bool {
    matches!(status, 401 | 403)
}

/// The path of a file, where an address of the API leads to one. Who asked is sent there: files are judged, kept and given in
/// ranges by their own way.
fn file_at(url: &Url) -> Option<String> {
    let route = Route::parse(&Method::GET, &url.target).ok()?;
    matches!(route, Route::Resolve { .. }).then(|| ApiTarget::new(&route, &url.target).path().to_owned())
}

/// Makes a fallback's answer look as if the first upstream had given it, for those who know only that one: the next page is
/// asked there first again.
fn reply_of_first(headers: &mut HeaderMap, fallback: &str, first: &str) {
    let links: Vec<String> = headers.get_all("link").iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    headers.remove("link");
    for link in links.iter().filter_map(|link| rewrite::link_header(link, &[fallback], first)) {
        if let Ok(value) = HeaderValue::from_str(&link) {
            headers.append("link", value);
        }
    }
}
