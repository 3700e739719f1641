//! The desk: speaks HTTP with clients, through pingora's hooks.
//!
//! A request is parsed once ([`Route`]), let through or refused (`access`), and answered: API answers are written here,
//! objects go out as hits of pingora's cache, whose storage ([`storage`]) reads blocks. Statuses and headers are chosen in
//! this room only. It never computes blocks.

mod api;
mod connection;
mod file;
mod front;
mod head;
mod panel;
mod range;
mod raw;
mod respond;
mod storage;
mod write;

pub use front::Front;
pub use head::fuzz_head;

use crate::access::{Access, Admission};
use crate::config::Config;
use crate::hub::{ApiTarget, FilePath, HubError, Oid, Own, RangeAsk, RepoId, Revision, Route};
use crate::limits::{Client, Limits, Ticket};
use crate::metrics::{Answered, metrics};
use crate::mirror::{FileInfo, Mirror, MirrorError, Reader};
use crate::panel::{Door, Panel};
use crate::source::{SourceError, Token, deadline};
use async_trait::async_trait;
use bytes::Bytes;
use connection::Connection;
use file::Found;
use http::{Method, header};
use pingora_cache::{CacheKey, CacheMeta, NoCacheReason};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Handle, OBJECTS};

/// How long what is left of a request's body is read, so that its connection can be used again.
const UNREAD_BODY_MAX: Duration = Duration::from_secs(5);
/// A client over its limit is told to try again after so many seconds.
const RETRY_AFTER: u64 = 5;
/// Where `datasets` looks for the data set viewer: before the name of the endpoint.
const VIEWER: &str = "datasets-server.";
/// Bytes of a request's path that are logged.
const LOGGED_PATH_MAX: usize = 512;

/// The proxy for clients; behind the admin's door the panel alone.
pub struct HubProxy {
    door: Door,
    mirror: Arc<Mirror>,
    limits: Arc<Limits>,
    panel: Arc<Panel>,
    public_url: String,
    keepalive_timeout: Duration,
}

/// What one request carries from hook to hook.
pub struct Ctx {
    started: Instant,
    /// From there to the first byte of the body.
    first_byte: Option<Duration>,
    /// Bytes of the body that the metrics know of.
    counted_len: u64,
    label: &'static str,
    file: Option<FileInfo>,
    /// The request itself goes upstream.
    passes: bool,
    /// Taken by the cache's storage when the object is looked up.
    reader: Option<Reader>,
    ask: RangeAsk,
    /// Where a layer is, for who takes that from the answer.
    location: Option<String>,
    /// For the log: where the answer came from.
    from: &'static str,
    client: Client,
    /// The client's place among the requests it may have running.
    ticket: Option<Ticket>,
    _client: Counted,
}

/// One running request, counted in the metrics while it lives.
struct Counted;

impl Counted {
    fn new() -> Counted {
        metrics().clients.inc();
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics().clients.dec();
    }
}

impl HubProxy {
    pub fn new(config: &Config, mirror: Arc<Mirror>, limits: Arc<Limits>, panel: Arc<Panel>, door: Door) -> HubProxy {
        let server = &config.server;
        let (public_url, keepalive_timeout) = (server.public_url.clone(), server.keepalive_timeout);
        HubProxy { door, mirror, limits, panel, public_url, keepalive_timeout }
    }

    /// Says for whom the request is.
    fn client(&self, session: &Session) -> Client {
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let forwarded = session.req_header().headers.get_all("x-forwarded-for");
        self.limits.client(peer, forwarded.iter().map(|value| value.as_bytes()))
    }

    /// Takes the client's place for a request that costs something.
    async fn enter(&self, client: Client) -> Result<Ticket, Refusal> {
        let limit = &self.limits.requests;
        limit.enter(client).await.map_err(|_| {
            metrics().refused(limit.key);
            HubError::limited(limit.key, limit.most, RETRY_AFTER).into_refusal()
        })
    }

    /// Answers all but files; `Ok(None)` means that the cache goes on with `ctx.file`.
    async fn answer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Option<()>, Refusal> {
        let head = session.req_header();
        if let Some(fault) = head::fault(&session.to_h1_raw(), head.version) {
            // Where the next request begins is anybody's guess.
            session.set_keepalive(None);
            return Err(HubError::bad_request(format!("the request's head cannot be trusted: {fault}")).into_refusal());
        }
        let method = head.method.clone();
        let raw_target = head.raw_path().to_vec();
        let route = Route::parse(&method, &raw_target).map_err(|e| HubError::from(e).into_refusal())?;
        ctx.label = route.label();
        let token = Token::from_header(head.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()));
        if head_text(head, header::HOST).is_some_and(|host| host.starts_with(VIEWER)) {
            return Err(HubError::no_viewer().into_refusal());
        }
        if self.door == Door::Admin || matches!(route, Route::Panel | Route::Own(Own::Info | Own::Repos)) {
            Box::pin(self.panel(session, ctx, route)).await?;
            return Ok(Some(()));
        }
        if matches!(route, Route::Write | Route::GitPush { .. }) {
            self.may_write()?;
            if let Some(repo) = Route::written_repo(&raw_target) {
                self.mirror.known_name(&repo).await.map_err(HubError::into_refusal)?;
            }
        }
        if !matches!(route, Route::Own(_) | Route::Preflight | Route::Telemetry | Route::Unknown) {
            ctx.ticket = Some(self.enter(ctx.client).await?);
        }
        let route = match route.repo() {
            Some(name) => {
                let repo = self.mirror.present_name(name, token.as_ref()).await.map_err(HubError::into_refusal)?;
                route.of(repo)
            }
            None => route,
        };
        match route {
            Route::Resolve { repo, revision, path } => {
                let found = self.find(session, ctx, repo, revision, path, token.as_ref()).await?;
                self.prepare(session, ctx, found).await?;
                Ok(None)
            }
            Route::Raw { repo, revision, path } => {
                let found = self.find(session, ctx, repo, revision, path, token.as_ref()).await?;
                if found.file.oid.is_sha256() {
                    Box::pin(self.pointer(session, &found.file)).await?;
                    return Ok(Some(()));
                }
                self.prepare(session, ctx, found).await?;
                Ok(None)
            }
            Route::Own(own) => {
                Box::pin(self.own(session, own)).await?;
                Ok(Some(()))
            }
            Route::Preflight => {
                Box::pin(respond::preflight(session)).await?;
                Ok(Some(()))
            }
            Route::Telemetry => {
                Box::pin(respond::empty(session, 204)).await?;
                Ok(Some(()))
            }
            Route::Write | Route::GitPush { .. } => {
                ctx.passes = true;
                ctx.from = "upstream";
                Ok(None)
            }
            Route::Git { .. } => {
                self.may_pass()?;
                ctx.passes = true;
                ctx.from = "upstream";
                Ok(None)
            }
            Route::GitLfs { .. } if self.may_write().is_ok() => {
                ctx.passes = true;
                ctx.from = "upstream";
                Ok(None)
            }
            Route::GitLfs { repo } => Err(HubError::no_git_lfs(&repo).into_refusal()),
            Route::Layer { repo, oid } => Box::pin(self.layer(session, ctx, &raw_target, repo, oid, token)).await,
            Route::Bucket => Err(HubError::no_buckets().into_refusal()),
            Route::Panel | Route::Unknown => Err(HubError::no_such_page().into_refusal()),
            route => {
                let target = ApiTarget::new(&route, &raw_target);
                ctx.from = Box::pin(self.api(session, route, method, target, token)).await?;
                Ok(Some(()))
            }
        }
    }

    /// Answers with a layer of a registry's manifest, most often a file of the repo.
    ///
    /// Ollama asks with a plain GET first and takes from its `Location` where to get the ranges; a 200 with a `Location` is as good to
    /// it as a redirect, and others pay no heed to it. So no second host name is needed, and nobody is sent anywhere.
    async fn layer(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        raw_target: &[u8],
        repo: RepoId,
        oid: Oid,
        token: Option<Token>,
    ) -> Result<Option<()>, Refusal> {
        let admission = self.mirror.access.check(&repo, token.as_ref()).await.map_err(HubError::into_refusal)?;
        let route = Route::Layer { repo: repo.clone(), oid };
        let target = ApiTarget::new(&route, raw_target);
        ctx.location = Some(target.path().to_owned());
        let acting = self.mirror.access.acting(&repo, admission, token.as_ref());
        let file = self.mirror.file_of(&repo, &oid, acting.as_ref(), admission).await.map_err(HubError::into_refusal)?;
        match file {
            Some(file) => {
                self.prepare(session, ctx, Found { file, admission, token: acting }).await?;
                Ok(None)
            }
            // The template, the parameters: the Hub makes them, the repo has no such file.
            None => {
                let method = session.req_header().method.clone();
                ctx.from = self.api(session, route, method, target, token).await?;
                Ok(Some(()))
            }
        }
    }

    /// Lets the caller read the file, or says no. Some files of a gated repo are open to all, which only upstream knows.
    async fn admit(
        &self,
        repo: &RepoId,
        revision: &Revision,
        path: &FilePath,
        token: Option<&Token>,
    ) -> Result<Admission, Refusal> {
        let refusal = match self.mirror.access.check(repo, token).await {
            Ok(admission) => return Ok(admission),
            Err(refusal) => refusal,
        };
        if !Access::may_be_shown(&refusal, path) {
            return Err(refusal.into_refusal());
        }
        Box::pin(self.admit_if_shown(refusal, repo, revision, path, token)).await
    }

    async fn admit_if_shown(
        &self,
        refusal: HubError,
        repo: &RepoId,
        revision: &Revision,
        path: &FilePath,
        token: Option<&Token>,
    ) -> Result<Admission, Refusal> {
        let target = ApiTarget::resolve(repo, revision, path).upstream_path_and_query();
        match self.mirror.origin.locate(&target, token).await {
            // A fallback gives what it likes to everybody, which opens nothing here.
            Ok(found) if found.authoritative => Ok(Admission::Caller),
            Ok(_) => Err(refusal.into_refusal()),
            Err(error) => Err(error.to_hub().into_refusal()),
        }
    }

    /// Says why a file that was let through cannot be had. A no from upstream may have met another caller's question, so this
    /// caller's own is asked.
    async fn explain(&self, error: MirrorError, file: &FileInfo, token: Option<&Token>) -> Refusal {
        let MirrorError::Source(SourceError::Refused { .. }) = error else { return error.to_hub().into_refusal() };
        self.mirror.access.doubt(&file.repo, token).await;
        let target = ApiTarget::resolve(&file.repo, &file.commit.into(), &file.path).upstream_path_and_query();
        match self.mirror.origin.locate(&target, token).await {
            Ok(_) => HubError::upstream_unavailable("upstream refused these bytes a moment ago", 1).into_refusal(),
            Err(error) => error.to_hub().into_refusal(),
        }
    }

    /// Waits for the first byte of what is asked, so that trouble still has a status of its own.
    async fn prepare(&self, session: &Session, ctx: &mut Ctx, found: Found) -> Result<(), Refusal> {
        let Found { file, admission, token } = found;
        let token = token.as_ref();
        let request = session.req_header();
        ctx.ask = range::asked(request, &file);
        let first = match &ctx.ask {
            RangeAsk::Whole | RangeAsk::AllOfNothing => Some(0..file.size),
            RangeAsk::One(span) => Some(span.clone()),
            RangeAsk::Many(spans) => spans.first().cloned(),
            RangeAsk::Unsatisfiable => None,
        };
        let sends_body = request.method == Method::GET && !range::not_modified(request, &file);
        // Without a body to send, the object is not even opened: clients ask the heads of many files they never fetch.
        if let Some(span) = first.filter(|_| sends_body) {
            let prepared = async {
                let mut reader = self.mirror.read(&file, token, admission).await?;
                if respond::is_tls(session) {
                    reader.copy();
                }
                reader.prepare(span).await.map(|()| reader)
            };
            ctx.reader = match prepared.await {
                Ok(reader) => {
                    if !reader.is_ready() {
                        Connection::hurry(session);
                    }
                    Some(reader)
                }
                Err(error) => return Err(Box::pin(self.explain(error, &file, token)).await),
            };
        }
        ctx.file = Some(file);
        Ok(())
    }

    async fn own(&self, session: &mut Session, own: Own) -> Result<(), Refusal> {
        match own {
            Own::Metrics if self.mirror.config.metrics.enabled => {
                respond::bytes(session, 200, "text/plain; version=0.0.4", metrics().encode()).await?;
                Ok(())
            }
            Own::Health | Own::Ready => {
                let read_only = if self.mirror.store.read_only().is_some() { ",\"read_only\":true" } else { "" };
                // Alive to its last moment, or whoever looks after it would end it in the middle of its drain.
                let (status, word) =
                    if matches!(own, Own::Ready) && self.panel.is_ending() { (503, "ending") } else { (200, "ok") };
                let body = format!("{{\"status\":\"{word}\",\"version\":\"{}\"{read_only}}}\n", env!("CARGO_PKG_VERSION"));
                respond::bytes(session, status, "application/json", body.into_bytes()).await?;
                Ok(())
            }
            Own::Index => {
                let base = respond::base(session, &self.public_url);
                let text = format!(
                    "DingoSpeed {}: a mirror of {}.\nPoint clients here: export HF_ENDPOINT={base}\nWhat is kept: {base}/repos\n",
                    env!("CARGO_PKG_VERSION"),
                    self.mirror.origin.base()
                );
                respond::bytes(session, 200, "text/plain; charset=utf-8", text.into_bytes()).await?;
                Ok(())
            }
            _ => Err(HubError::no_such_page().into_refusal()),
        }
    }
}

/// Why a request ends here: an answer to be written, or a connection that cannot be written to.
pub(crate) enum Refusal {
    Hub(Box<HubError>),
    Pingora(Box<Error>),
}

impl From<Box<Error>> for Refusal {
    fn from(error: Box<Error>) -> Refusal {
        Refusal::Pingora(error)
    }
}

impl HubError {
    pub(crate) fn into_refusal(self) -> Refusal {
        Refusal::Hub(Box::new(self))
    }
}

#[async_trait]
impl ProxyHttp for HubProxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx {
            started: Instant::now(),
            first_byte: None,
            counted_len: 0,
            label: "unknown",
            file: None,
            passes: false,
            reader: None,
            ask: RangeAsk::Whole,
            location: None,
            from: "mirror",
            client: Client::Local,
            ticket: None,
            _client: Counted::new(),
        }
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        Connection::head_is_read(session);
        ctx.client = self.client(session);
        session.set_total_drain_timeout(Some(UNREAD_BODY_MAX));
        // Only where the request left the connection open.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(self.keepalive_timeout.as_secs().max(1)));
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if session.req_header().method != Method::POST && !session.is_body_empty() {
            // Nobody will read it, and what is unread would be taken for the next request.
            session.set_keepalive(None);
        }
        // Clients give up on a head after 10 s, so all that is asked for it together has one time to end.
        let time = self.mirror.config.upstream.question_timeout;
        match deadline::within(time, self.answer(session, ctx)).await {
            Ok(Some(())) => Ok(true),
            Ok(None) => self.answer_at_once(session, ctx).await,
            Err(Refusal::Hub(error)) => {
                let request = session.req_header();
                let error = match matches!(ctx.label, "resolve" | "raw") {
                    true => file::told_to(*error, &request.method, head_text(request, header::USER_AGENT)),
                    false => *error,
                };
                Box::pin(respond::refuse(session, &error, ctx.label)).await?;
                Ok(true)
            }
            Err(Refusal::Pingora(error)) => Err(error),
        }
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        if ctx.file.is_some() {
            session.cache.enable(&OBJECTS, None, None, None, None);
        }
        Ok(())
    }

    fn cache_key_callback(&self, _session: &Session, ctx: &mut Ctx) -> Result<CacheKey> {
        let Some(file) = &ctx.file else {
            return Error::e_explain(ErrorType::InternalError, "no object to look up");
        };
        let mut key = CacheKey::new(file.oid.as_str(), "");
        key.extensions.insert(Handle::new(ctx.reader.take(), file));
        Ok(key)
    }

    fn cache_not_modified_filter(&self, session: &Session, _resp: &ResponseHeader, ctx: &mut Ctx) -> Result<bool> {
        Ok(ctx.file.as_ref().is_some_and(|file| range::not_modified(session.req_header(), file)))
    }

    fn range_header_filter(&self, _session: &mut Session, resp: &mut ResponseHeader, ctx: &mut Ctx) -> pingora_proxy::RangeType {
        range::apply(resp, &ctx.ask, ctx.file.as_ref())
    }

    async fn response_filter(&self, session: &mut Session, resp: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        resp.remove_header(&header::AGE);
        if ctx.passes {
            return self.write_answer(session, resp);
        }
        if let Some(file) = &ctx.file {
            ctx.from = "object";
            file::name(resp, file, ctx.location.as_deref())?;
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        if ctx.first_byte.is_none() && body.as_ref().is_some_and(|bytes| !bytes.is_empty()) {
            ctx.first_byte = Some(ctx.started.elapsed());
        }
        // A large body takes hours, and shows in the metrics as it goes.
        let sent_len = session.body_bytes_sent() as u64;
        if sent_len > ctx.counted_len {
            metrics().sent(ctx.label, sent_len - ctx.counted_len);
            ctx.counted_len = sent_len;
        }
        Ok(None)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        if ctx.passes {
            return Ok(Box::new(self.write_peer()));
        }
        // Every answer is the mirror's own; nothing is passed on as it is.
        session.cache.disable(NoCacheReason::InternalError);
        Error::e_explain(ErrorType::InternalError, "a request fell through to the proxy")
    }

    async fn upstream_request_filter(&self, _session: &mut Session, request: &mut RequestHeader, ctx: &mut Ctx) -> Result<()> {
        if ctx.passes { self.write_head(request) } else { Ok(()) }
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        _ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        let mut e = e.more_context(format!("Peer: {peer}"));
        // A write that got no answer may have been done. A read that met a connection which upstream had closed was not.
        match session.req_header().method == Method::GET {
            true => e.retry.decide_reuse(client_reused && !session.as_ref().retry_buffer_truncated()),
            false => e.retry = false.into(),
        }
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        let error_code = match e.etype() {
            ErrorType::HTTPStatus(code) => *code,
            _ if *e.esource() == pingora_core::ErrorSource::Downstream => 0,
            _ => 500,
        };
        if error_code > 0 && session.response_written().is_none() {
            let error = match ctx.passes {
                true => HubError::upstream_unavailable(e.etype().as_str(), RETRY_AFTER),
                false => {
                    let error = HubError::internal("the request could not be handled; see the mirror's log");
                    HubError { status: error_code, ..error }
                }
            };
            // The connection is given up next, whatever becomes of this.
            let _ = respond::refuse(session, &error, ctx.label).await;
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        #[cfg(unix)] _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        _ctx: &mut Ctx,
    ) -> Result<()> {
        Ok(())
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Ctx) {
        let status = session.response_written().map_or(0, |r| r.status.as_u16());
        let sent = session.body_bytes_sent() as u64;
        let took = ctx.started.elapsed();
        // The mirror's own answers are written at once, head and body.
        let first_byte = ctx.first_byte.unwrap_or(took);
        metrics().answered(&Answered {
            route: ctx.label,
            status,
            sent_len: sent,
            counted_len: ctx.counted_len,
            first_byte,
            took,
        });
        let head = session.req_header();
        let path = head.raw_path().split(|&byte| byte == b'?').next().unwrap_or_default();
        let path = String::from_utf8_lossy(&path[..path.len().min(LOGGED_PATH_MAX)]);
        let error = e.map(|e| format!(" error={:?}", e.to_string())).unwrap_or_default();
        log::info!(
            "served client={} method={} path={path:?} route={} status={status} sent={sent} from={} ms={}{error}",
            ctx.client,
            head.method,
            ctx.label,
            ctx.from,
            took.as_millis()
        );
        ctx.ticket = None;
        Connection::request_is_done(session);
    }
}

fn head_text(request: &RequestHeader, name: header::HeaderName) -> Option<&str> {
    request.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Meta of an object as pingora's cache wants it; what belongs to the request is added on the way out.
fn object_meta(file: &FileInfo) -> Result<CacheMeta> {
    let head = file::head(file)?;
    let now = std::time::SystemTime::now();
    Ok(CacheMeta::new(now + Duration::from_secs(3600), now, 0, 0, head))
}
