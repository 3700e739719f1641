//! The Hub as the origin: its addresses, in order, and who may see what.
//!
//! `upstream.url` is the Hub; `upstream.fallbacks` are asked only while it does not answer. Only the Hub's word is final,
//! and only the Hub (and fallbacks the operator trusts) sees tokens and says who may read what; see [`Asking`].

use super::asking::Asking;
use super::body::Body;
use super::breaker::Subject;
use super::budget::Budget;
use super::client::{Ask, Client};
use super::{SourceError, Token, Url};
use crate::config;
use crate::hub::{Commit, Oid, Route, content_range};
use bytes::Bytes;
use http::{HeaderMap, Method};
use pingora_core::upstreams::peer::HttpPeer;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The Hub needs two hops at the most; more is a loop.
pub(super) const REDIRECTS_MAX: usize = 6;
/// Hosts the Hub itself redirects to.
const HUB_HOSTS: [&str; 5] = ["huggingface.co", "hf.co", ".huggingface.co", ".hf.co", ".xethub.hf.co"];
/// Those of them that are the Hub itself.
const HUB_SITES: [&str; 2] = ["huggingface.co", "hf.co"];
/// Tokens whose budgets are kept apart; the Hub counts by account. The least used one begins anew.
const ACCOUNTS_MAX: u64 = 1000;
/// Tokens remembered as accepted, and how long.
const ACCEPTED_MAX: u64 = 100_000;
const ACCEPTED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The budget of all tokens that were not accepted yet: anybody can make up any number of them.
const STRANGERS: [u8; 32] = [0xff; 32];
/// The Hub's windows are shorter, so a forgotten account has nothing on it.
const ACCOUNT_IDLE_MAX: Duration = Duration::from_secs(600);

/// How long a refused operator's token is left alone.
const OPERATOR_REST: Duration = Duration::from_secs(600);

/// An upstream that lacks a route of the Hub's is tried again after so long: it may have been brought up to date.
const LACKING_FOR: Duration = Duration::from_secs(3600);

/// How often it is seen whether an upstream that is down is to be asked again; how often that is, its breaker says.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// An upstream whose breaker learned nothing from the question (it wants to be asked less, or speaks no HTTP) rests for so long.
const WATCH_REST: Duration = Duration::from_secs(30);
/// What it is asked then: of the Hub itself and not of what stands before it, answered by a word, and open to all. Any answer but a
/// 5xx will do, also that there is no such repo.
const WATCH_QUESTION: &str = "/api/models/openai-community/gpt2/auth-check";

/// Asks the Hub and its CDN. Cheap to share; every call may be dropped at any point, which closes its connection.
pub struct Origin {
    pub(super) upstreams: Vec<Upstream>,
    pub(super) client: Client,
    pub(super) question_timeout: Duration,
    operator: Option<Token>,
    /// Until then the operator's token is not used. Guarded by itself, held for moments.
    operator_rests: Mutex<Option<Instant>>,
    /// Until then the first upstream counts as one without `/api/resolve-cache`. Guarded by itself, held for moments.
    lacks_resolve_cache: Mutex<Option<Instant>>,
    allowed_hosts: Vec<String>,
}

/// What makes a request a question rather than a fetch of bytes.
#[derive(Clone, Copy)]
pub(super) struct Question {
    pub(super) subject: Subject,
    pub(super) deadline: Instant,
    /// See [`Asking::deciding`].
    pub(super) deciding: bool,
    /// See [`Asking::urgent`].
    pub(super) urgent: bool,
}

/// One configured upstream.
pub(super) struct Upstream {
    pub(super) base: Url,
    /// Whether it may see tokens, and its word on access counts: the first one, and fallbacks named by the operator.
    pub(super) trusted: bool,
    /// Requests per window for the mirror's address, by kind; 0 is no limit.
    api_calls: u64,
    resolver_calls: u64,
    budgets: moka::sync::Cache<(&'static str, [u8; 32]), Arc<Mutex<Budget>>>,
    /// Tokens with which a question was answered well. The others share a budget, lest made-up ones have one each; and not
    /// the anonymous one, which those without a token use up, while accounts have limits of their own.
    accepted: moka::sync::Cache<[u8; 32], ()>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What was asked in the end, after redirects: another repo's, where that is what the name leads to.
    pub target: String,
    /// Whether the Hub, or a fallback that is trusted like it, has said this. If not, nothing about access may be learned.
    pub authoritative: bool,
    /// Whether another upstream than the first has said this: what it leaves out, the Hub may have.
    pub second_hand: bool,
}

/// What a HEAD of a file tells, and where its bytes lie.
#[derive(Clone, Debug)]
pub struct Located {
    pub commit: Commit,
    pub oid: Oid,
    pub size: u64,
    /// Where the bytes are, as the upstream that was asked says; signed for about an hour when it is the CDN's.
    pub url: Url,
    /// As in [`Reply`].
    pub authoritative: bool,
}

impl Origin {
    /// Fails when an upstream is not a URL, which the configuration has checked before.
    pub fn new(config: &config::Upstream) -> Option<Origin> {
        let bases: Vec<Url> =
            [&config.url].into_iter().chain(&config.fallbacks).map(|url| Url::parse(url)).collect::<Option<_>>()?;
        let trusted: Vec<String> = config.trusted_fallbacks.iter().filter_map(|url| Some(Url::parse(url)?.origin())).collect();
        for url in &trusted {
            if !bases.iter().skip(1).any(|base| base.origin() == *url) {
                log::warn!("upstream.trusted_fallbacks names {url}, which is not in upstream.fallbacks");
            }
        }
        let client = Client::new(config, &bases);
        let upstream = |(index, base): (usize, Url)| Upstream {
            trusted: index == 0 || trusted.contains(&base.origin()),
            base,
            api_calls: config.api_calls,
            resolver_calls: config.resolver_calls,
            budgets: moka::sync::Cache::builder().max_capacity(ACCOUNTS_MAX).time_to_idle(ACCOUNT_IDLE_MAX).build(),
            accepted: moka::sync::Cache::builder().max_capacity(ACCEPTED_MAX).time_to_idle(ACCEPTED_FOR).build(),
        };
        let operator = Token::from_header(Some(config.token.expose()).filter(|t| !t.is_empty()).map(bearer).as_deref());
        let upstreams: Vec<Upstream> = bases.into_iter().enumerate().map(upstream).collect();
        // Nobody has made it up.
        if operator.is_some() {
            upstreams.iter().for_each(|upstream| upstream.accepted.insert(Token::fingerprint(operator.as_ref()), ()));
        }
        Some(Origin {
            upstreams,
            client,
            question_timeout: config.question_timeout,
            operator,
            operator_rests: Mutex::default(),
            lacks_resolve_cache: Mutex::default(),
            allowed_hosts: config.allowed_hosts.clone(),
        })
    }

    /// `scheme://host[:port]` of the first upstream. Links in every answer name it, whichever upstream gave the answer.
    pub fn base(&self) -> String {
        self.upstreams[0].base.origin()
    }

    /// Returns each configured upstream, and for how long it has been down if it is.
    pub fn health(&self) -> Vec<(String, Option<Duration>)> {
        let health = |upstream: &Upstream| {
            let since = self.client.hosts.down_since(&upstream.base);
            (upstream.base.origin(), since.map(|since| since.elapsed()))
        };
        self.upstreams.iter().map(health).collect()
    }

    /// Asks each upstream that is down whether it is back, for ever, so that this shows though nobody else asks: one small question
    /// without a token whenever its breaker lets a probe through, which is every 30 s in the end. Of one that is up nothing is asked.
    pub async fn watch(&self) {
        let mut rests = vec![None; self.upstreams.len()];
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            for (upstream, rest) in self.upstreams.iter().zip(&mut rests) {
                let is_due = || self.client.hosts.is_due(&upstream.base);
                if !is_due() || rest.is_some_and(|until| Instant::now() < until) {
                    continue;
                }
                let url = upstream.base.with_target(WATCH_QUESTION);
                let deadline = Instant::now() + self.question_timeout;
                let subject = subject(&Method::HEAD, WATCH_QUESTION);
                let question = Question { subject, deadline, deciding: false, urgent: false };
                // The breaker has learned from it, whatever came.
                if let Ok(body) = self.send(&Method::HEAD, &url, None, None, None, "api", Some(question), None).await {
                    body.release().await;
                }
                *rest = is_due().then(|| Instant::now() + WATCH_REST);
            }
        }
    }

    /// Whether bytes may be had elsewhere when the first upstream or its CDN is down.
    pub fn has_fallbacks(&self) -> bool {
        self.upstreams.len() > 1
    }

    /// Finds a file: its commit, content id, size, and where its bytes lie. Follows upstream's own redirects.
    pub async fn locate(&self, target: &str, token: Option<&Token>) -> Result<Located, SourceError> {
        Asking::new(self).locate(target, token).await
    }

    /// Asks a question of the API and reads the whole answer. Any status is an answer, except redirects, which are
    /// followed on upstream's own host, and 429 and 5xx, which are errors.
    pub async fn ask(
        &self,
        method: &Method,
        target: &str,
        token: Option<&Token>,
        form: Option<(&str, Bytes)>,
    ) -> Result<Reply, SourceError> {
        Asking::new(self).ask(method, target, token, form).await
    }

    /// Asks with less patience than `upstream.question_timeout`: for callers that have something kept to give instead.
    pub fn within(&self, timeout: Duration) -> Asking<'_> {
        Asking::new(self).within(timeout)
    }

    /// The longest that a question may take.
    pub fn question_timeout(&self) -> Duration {
        self.question_timeout
    }

    /// Whether the operator gave a token of their own.
    pub fn has_operator_token(&self) -> bool {
        self.operator.is_some()
    }

    /// Asks whether what is known by this tag still holds; see [`Asking::unless`].
    pub fn unless<'a>(&'a self, etag: Option<&'a str>) -> Asking<'a> {
        Asking::new(self).unless(etag)
    }

    /// Whether the first upstream is known to be unreachable.
    pub fn is_down(&self) -> bool {
        self.client.hosts.is_down(&self.upstreams[0].base)
    }

    /// The same, and not only because it left one question without an answer.
    pub fn is_gone(&self) -> bool {
        self.client.hosts.is_gone(&self.upstreams[0].base)
    }

    /// The first upstream, for a request that is passed on as it is, and the `Host` it is known by.
    pub fn peer(&self) -> (HttpPeer, String) {
        let base = &self.upstreams[0].base;
        (self.client.peer(base), base.authority())
    }

    /// Asks about a repo that the caller knows to be open to all; see [`Asking::of_open_repo`].
    pub fn of_open_repo(&self) -> Asking<'_> {
        Asking::new(self).of_open_repo()
    }

    /// Looks for bytes rather than facts; see [`Asking::for_bytes`].
    pub fn for_bytes(&self) -> Asking<'_> {
        Asking::new(self).for_bytes()
    }

    /// Lets fallbacks say who may read what; see [`Asking::of_fallbacks`].
    pub fn of_fallbacks(&self) -> Asking<'_> {
        Asking::new(self).of_fallbacks()
    }

    /// The operator's own token, for what is known to be open to all, since it earns higher rate limits, and for repos that
    /// the operator shares. None while it rests.
    pub fn operator_token(&self) -> Option<&Token> {
        let rests = self.operator_rests.lock().unwrap_or_else(|e| e.into_inner());
        self.operator.as_ref().filter(|_| rests.is_none_or(|until| Instant::now() >= until))
    }

    /// Upstream has refused with the operator's token what it then gave to nobody in particular: the token has expired or
    /// was withdrawn, and would cost every question twice.
    pub(super) fn rest_operator_token(&self, status: u16) {
        log::warn!("upstream.token is refused with {status}; upstream is asked without it for {OPERATOR_REST:?}");
        *self.operator_rests.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now() + OPERATOR_REST);
    }

    /// Where the Hub has a small file at a commit, which then need not be found first: `target` is of `/api/resolve-cache`. None
    /// while the first upstream is down or known to lack that route. Nothing was asked, so the answer is to be held to the oid.
    pub fn place_at_commit(&self, target: &str) -> Option<Url> {
        let base = &self.upstreams[0].base;
        let lacks = self.lacks_resolve_cache.lock().unwrap_or_else(|e| e.into_inner());
        let may_have = lacks.is_none_or(|until| Instant::now() >= until);
        (may_have && !self.client.hosts.is_down(base)).then(|| base.with_target(target))
    }

    /// The first upstream has no `/api/resolve-cache`: an older Hub, or another mirror.
    pub fn lacks_resolve_cache(&self) {
        log::info!("upstream={} has no /api/resolve-cache; small files cost it more questions", self.base());
        *self.lacks_resolve_cache.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now() + LACKING_FOR);
    }

    /// Opens the bytes `span` of a file of `size` bytes at `url`. The body starts at the returned offset, which is
    /// `span.start`, or 0 where upstream ignores ranges; its length is the caller's to hold it to.
    pub async fn open(&self, url: &Url, token: Option<&Token>, span: Range<u64>, size: u64) -> Result<(Body, u64), SourceError> {
        let (mut url, mut token) = (url.clone(), token);
        for _ in 0..REDIRECTS_MAX {
            // Whoever may not see the token may not choose what it opens either, by a redirect back.
            token = token.filter(|_| self.may_see_tokens(&url));
            let body = self.send(&Method::GET, &url, token, Some(span.clone()), None, "block", None, None).await?;
            let text = |name: &str| body.headers.get(name).and_then(|v| v.to_str().ok());
            let host = url.authority();
            let wrong = |cause: String| {
                log::info!("wrong answer to GET {url}: {cause}");
                SourceError::Broken { host: host.clone(), cause }
            };
            if text("content-encoding").is_some_and(|v| v != "identity") {
                return Err(wrong("the bytes are compressed although identity was asked".into()));
            }
            match body.status {
                206 => {
                    let found = text("content-range").and_then(content_range::parse);
                    let right = found.as_ref().is_some_and(|(got, total)| {
                        got.start == span.start && got.end <= span.end && total.is_none_or(|total| total == size)
                    });
                    if !right {
                        let got = text("content-range").unwrap_or("nothing").to_owned();
                        return Err(wrong(format!("asked for bytes {}-{}/{size}, got {got}", span.start, span.end - 1)));
                    }
                    return Ok((body, span.start));
                }
                200 => {
                    let len = text("content-length").and_then(|v| v.parse::<u64>().ok());
                    if len.is_some_and(|len| len != size) {
                        return Err(wrong(format!("expected {size} bytes, the answer has {}", len.unwrap_or(0))));
                    }
                    // A page of a firewall's is as long as it likes, and would pass for the file's start.
                    if len.is_none() && text("etag").is_none() {
                        return Err(wrong("the answer has neither a Content-Length nor an ETag".into()));
                    }
                    return Ok((body, 0));
                }
                300..=399 => {
                    let next =
                        text("location").and_then(|v| url.join(v)).ok_or_else(|| wrong("a redirect without a place".into()))?;
                    self.check_redirect(&url, &next)?;
                    body.release().await;
                    url = next;
                }
                _ => return Err(body.refusal(&url)),
            }
        }
        Err(SourceError::Broken { host: url.authority(), cause: format!("more than {REDIRECTS_MAX} redirects") })
    }

    /// Sends one request. The token goes along only to upstreams that may see it; a question has a deadline, bytes have none.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, at its only narrow place")]
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &Url,
        token: Option<&Token>,
        span: Option<Range<u64>>,
        form: Option<(&str, Bytes)>,
        kind: &'static str,
        question: Option<Question>,
        unless: Option<&str>,
    ) -> Result<Body, SourceError> {
        let token = token.filter(|_| self.may_see_tokens(url));
        let upstream = self.upstreams.iter().find(|upstream| upstream.base.is_same_host(url));
        let answer = self
            .client
            .send(Ask {
                method,
                url,
                token,
                span,
                form,
                unless,
                kind,
                subject: question.map(|question| question.subject),
                deadline: question.map(|question| question.deadline),
                deciding: question.is_some_and(|question| question.deciding),
                urgent: question.is_some_and(|question| question.urgent),
                budget: upstream.map(|upstream| upstream.budget(url, token)),
            })
            .await?;
        if let (Some(upstream), Some(_)) = (upstream, token)
            && answer.status < 400
        {
            upstream.accepted.insert(Token::fingerprint(token), ());
        }
        Ok(answer)
    }

    /// Where a redirect leads. An upstream that is another mirror may say the Hub's name where it means itself.
    pub(super) fn next_hop(&self, upstream: &Upstream, from: &Url, location: &str) -> Option<Url> {
        let next = from.join(location)?;
        let is_site = |url: &Url| HUB_SITES.contains(&url.host.as_str());
        let own = upstream.base.with_target(&next.target);
        let is_of_repo = || Route::parse(&Method::GET, &next.target).is_ok_and(|route| route.repo().is_some());
        let means_itself = is_site(&next) && !is_site(&upstream.base) && own != *from && is_of_repo();
        Some(if means_itself { own } else { next })
    }

    /// Only upstreams that are trusted, same port too, since a CDN may be a neighbour.
    pub(super) fn may_see_tokens(&self, url: &Url) -> bool {
        self.upstreams.iter().any(|upstream| upstream.trusted && upstream.base.is_same_host(url))
    }

    /// Whether a redirect from one place to another may be followed.
    pub(super) fn check_redirect(&self, from: &Url, to: &Url) -> Result<(), SourceError> {
        let is_below = |pattern: &str| match pattern.strip_prefix('*').unwrap_or(pattern) {
            suffix if suffix.starts_with('.') => to.host.ends_with(suffix),
            exact => to.host == exact,
        };
        let configured = self.allowed_hosts.iter().any(|pattern| is_below(pattern));
        // A plain-text detour off an encrypted upstream would let the network choose the bytes.
        let downgraded = from.tls && !to.tls;
        let is_upstream = self.upstreams.iter().any(|upstream| upstream.base.host == to.host);
        let allowed = is_upstream || HUB_HOSTS.iter().any(|h| is_below(h)) || configured;
        if allowed && (!downgraded || configured) { Ok(()) } else { Err(SourceError::Forbidden { host: to.authority() }) }
    }
}

impl Upstream {
    /// The budget that a request is paid from. The Hub counts anonymous requests by address and others by account.
    fn budget(&self, url: &Url, token: Option<&Token>) -> (&'static str, Arc<Mutex<Budget>>) {
        let is_api = url.target.starts_with("/api/") && !url.target.starts_with("/api/resolve-cache/");
        let (kind, calls) = if is_api { ("api", self.api_calls) } else { ("resolvers", self.resolver_calls) };
        let own = Token::fingerprint(token);
        let new = |follows: bool, learns: bool| Arc::new(Mutex::new(Budget::new(calls, follows, learns, Instant::now())));
        if token.is_some() && self.accepted.get(&own).is_none() {
            // What the Hub says to one of them is about that one's account.
            return (kind, self.budgets.get_with((kind, STRANGERS), || new(false, false)));
        }
        // An account's limits are its own; ours are a guess until the Hub names them.
        (kind, self.budgets.get_with((kind, own), || new(token.is_some(), true)))
    }
}

/// What a question is about, so that one broken file or repo is not taken for a broken Hub.
pub(super) fn subject(method: &Method, target: &str) -> Subject {
    let hash = |what: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        what(&mut hasher);
        hasher.finish()
    };
    let path = target.split('?').next().unwrap_or("");
    let route = Route::parse(method, target.as_bytes()).ok();
    let repo = match route.as_ref().and_then(Route::repo) {
        Some(repo) => hash(&|hasher| repo.hash(hasher)),
        None => hash(&|hasher| path.hash(hasher)),
    };
    Subject { repo, question: hash(&|hasher| path.hash(hasher)) }
}

/// A bare token as a header's value; a value that has its scheme is left as it is.
fn bearer(token: &str) -> String {
    if token.contains(' ') { token.to_owned() } else { format!("Bearer {token}") }
}
