//! The Hub as the origin: questions, redirects, and ranges of bytes.

use super::dialer::Dialer;
use super::{SourceError, Token, Url};
use crate::config;
use crate::hub::{Commit, Oid, content_range};
use crate::metrics::metrics;
use bytes::Bytes;
use http::{HeaderMap, Method};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v1::Connector;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The Hub needs two hops at the most; more is a loop.
const REDIRECTS_MAX: usize = 6;
/// Idle connections are given up before the usual 60 s of a CDN, so that a request rarely meets a closed one.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bodies that are read whole: API answers. Beyond this an answer is refused, not truncated.
pub(crate) const WHOLE_LEN_MAX: usize = 64 << 20;
/// Between tries of a question; together well below the 10 s after which clients give up on a HEAD.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// Hosts the Hub itself redirects to.
const HUB_HOSTS: [&str; 5] = ["huggingface.co", "hf.co", ".huggingface.co", ".hf.co", ".xethub.hf.co"];

/// Asks the Hub and its CDN. Cheap to share; every call may be dropped at any point, which closes its connection.
pub struct Origin {
    base: Url,
    allowed_hosts: Vec<String>,
    connect_timeout: Duration,
    read_timeout: Duration,
    connector: Arc<Connector>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What a HEAD of a file tells, and where its bytes lie.
#[derive(Clone, Debug)]
pub struct Located {
    pub commit: Commit,
    pub oid: Oid,
    pub size: u64,
    /// Where the bytes are; signed for about an hour when it is the CDN's.
    pub url: Url,
}

/// An answer whose body is being read.
pub struct Body {
    session: HttpSession,
    peer: HttpPeer,
    connector: Arc<Connector>,
    host: String,
    pub status: u16,
    pub headers: HeaderMap,
}

impl Origin {
    /// Fails when `upstream.url` is not a URL, which the configuration has checked before.
    pub fn new(config: &config::Upstream) -> Option<Origin> {
        let options = ConnectorOptions::new(256);
        Some(Origin {
            base: Url::parse(&config.url)?,
            allowed_hosts: config.allowed_hosts.clone(),
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            connector: Arc::new(Connector::new(Some(options))),
        })
    }

    /// `scheme://host[:port]` of upstream, as its own links name it.
    pub fn base(&self) -> String {
        self.base.origin()
    }

    /// Finds a file: its commit, content id, size, and where its bytes lie. Follows upstream's own redirects.
    pub async fn locate(&self, target: &str, token: Option<&Token>) -> Result<Located, SourceError> {
        self.patiently(|| self.locate_once(target, token)).await
    }

    /// Tries again what fails in passing and at once. Not a dead or silent host (that is the next request's matter), nor a
    /// 429, which wants a longer wait than a client has patience for.
    async fn patiently<T, F: Future<Output = Result<T, SourceError>>>(&self, ask: impl Fn() -> F) -> Result<T, SourceError> {
        for wait in RETRY_WAITS {
            match ask().await {
                Err(SourceError::Busy { status, .. }) if status != 429 => {}
                Err(SourceError::Broken { .. }) => {}
                outcome => return outcome,
            }
            tokio::time::sleep(wait).await;
        }
        ask().await
    }

    async fn locate_once(&self, target: &str, token: Option<&Token>) -> Result<Located, SourceError> {
        let mut url = self.base.with_target(target);
        let mut commit = None;
        let mut linked = (None, None);
        for _ in 0..REDIRECTS_MAX {
            let body = self.send(&Method::HEAD, &url, token, None, None, "head").await?;
            let text = |name: &str| body.headers.get(name).and_then(|v| v.to_str().ok());
            commit = commit.or_else(|| text("x-repo-commit").and_then(Commit::parse));
            linked.0 = linked.0.or_else(|| text("x-linked-etag").and_then(Oid::from_etag));
            linked.1 = linked.1.or_else(|| text("x-linked-size").and_then(|v| v.parse::<u64>().ok()));
            let host = url.authority();
            let wrong = |cause: &str| SourceError::Broken { host: host.clone(), cause: format!("HEAD {url}: {cause}") };
            if (300..400).contains(&body.status) {
                let next = text("location").and_then(|v| url.join(v)).ok_or_else(|| wrong("a redirect without a place"))?;
                self.check_host(&next)?;
                if let (Some(commit), Some(oid), Some(size)) = (commit, linked.0, linked.1) {
                    body.release().await;
                    return Ok(Located { commit, oid, size, url: next });
                }
                body.release().await;
                url = next;
                continue;
            }
            if body.status >= 400 {
                return Err(body.refusal(&url));
            }
            let oid = linked
                .0
                .or_else(|| text("etag").and_then(Oid::from_etag))
                .ok_or_else(|| wrong("no ETag that is a content id"))?;
            let own_len = text("content-length").and_then(|v| v.parse::<u64>().ok());
            let size = linked.1.or(own_len).ok_or_else(|| wrong("no size"))?;
            let commit = commit.ok_or_else(|| wrong("no X-Repo-Commit"))?;
            body.release().await;
            return Ok(Located { commit, oid, size, url });
        }
        Err(SourceError::Broken { host: url.authority(), cause: format!("more than {REDIRECTS_MAX} redirects from {target}") })
    }

    /// Asks a question of the API and reads the whole answer, at most [`WHOLE_LEN_MAX`] bytes. Any status is an answer,
    /// except redirects, which are followed on upstream's own host, and 5xx, which are errors.
    pub async fn ask(
        &self,
        method: &Method,
        target: &str,
        token: Option<&Token>,
        form: Option<(&str, Bytes)>,
    ) -> Result<Reply, SourceError> {
        self.patiently(|| async {
            let reply = self.ask_once(method, target, token, form.clone()).await?;
            if reply.status >= 500 {
                let retry_after = retry_after(&reply.headers);
                return Err(SourceError::Busy { host: self.base.authority(), status: reply.status, retry_after });
            }
            Ok(reply)
        })
        .await
    }

    async fn ask_once(
        &self,
        method: &Method,
        target: &str,
        token: Option<&Token>,
        form: Option<(&str, Bytes)>,
    ) -> Result<Reply, SourceError> {
        let mut url = self.base.with_target(target);
        for _ in 0..REDIRECTS_MAX {
            let mut body = self.send(method, &url, token, None, form.clone(), "api").await?;
            if matches!(body.status, 301 | 302 | 303 | 307 | 308) {
                let next = body.headers.get("location").and_then(|v| v.to_str().ok()).and_then(|v| url.join(v));
                if let Some(next) = next.filter(|next| next.host == self.base.host) {
                    body.release().await;
                    url = next;
                    continue;
                }
            }
            let whole = body.read_whole().await?;
            let reply = Reply { status: body.status, headers: std::mem::take(&mut body.headers), body: whole };
            body.release().await;
            return Ok(reply);
        }
        Err(SourceError::Broken { host: url.authority(), cause: format!("more than {REDIRECTS_MAX} redirects from {target}") })
    }

    /// Opens the bytes `span` of a file of `size` bytes at `url`. The body starts at the returned offset, which is
    /// `span.start`, or 0 where upstream ignores ranges; its length is the caller's to hold it to.
    pub async fn open(&self, url: &Url, token: Option<&Token>, span: Range<u64>, size: u64) -> Result<(Body, u64), SourceError> {
        let mut url = url.clone();
        for _ in 0..REDIRECTS_MAX {
            let body = self.send(&Method::GET, &url, token, Some(span.clone()), None, "block").await?;
            let text = |name: &str| body.headers.get(name).and_then(|v| v.to_str().ok());
            let host = url.authority();
            let wrong = |cause: String| SourceError::Broken { host: host.clone(), cause: format!("GET {url}: {cause}") };
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
                    return Ok((body, 0));
                }
                300..=399 => {
                    let next =
                        text("location").and_then(|v| url.join(v)).ok_or_else(|| wrong("a redirect without a place".into()))?;
                    self.check_host(&next)?;
                    body.release().await;
                    url = next;
                }
                _ => return Err(body.refusal(&url)),
            }
        }
        Err(SourceError::Broken { host: url.authority(), cause: format!("more than {REDIRECTS_MAX} redirects") })
    }

    /// Sends one request and reads the head of its answer.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        token: Option<&Token>,
        span: Option<Range<u64>>,
        form: Option<(&str, Bytes)>,
        kind: &'static str,
    ) -> Result<Body, SourceError> {
        let peer = self.peer(url);
        let failed = |e: Box<Error>| self.failure(url, &e);
        // A kept connection may have been closed meanwhile: then the request is sent once more on a new one.
        for attempt in 0..2 {
            let (mut session, reused) = self.connector.get_http_session(&peer).await.map_err(failed)?;
            session.read_timeout = Some(self.read_timeout);
            session.write_timeout = Some(self.read_timeout);
            let head = self.request(method, url, token, span.clone(), &form)?;
            let sent = async {
                session.write_request_header(Box::new(head)).await?;
                if let Some((_, bytes)) = &form {
                    session.write_body(bytes).await?;
                }
                session.finish_body().await?;
                session.read_response().await
            };
            match sent.await {
                Ok(_) => {}
                Err(e) if reused && attempt == 0 && !matches!(e.etype(), ErrorType::ReadTimedout) => continue,
                Err(e) => return Err(failed(e)),
            }
            let status = session.get_status().map_or(0, |s| s.as_u16());
            metrics().asked_upstream(kind, &format!("{}xx", status / 100));
            let headers = session.resp_header().map(|h| h.headers.clone()).unwrap_or_default();
            return Ok(Body { session, peer, connector: self.connector.clone(), host: url.authority(), status, headers });
        }
        Err(SourceError::Unreachable { host: url.authority(), cause: "kept connections are closed again and again".into() })
    }

    fn request(
        &self,
        method: &Method,
        url: &Url,
        token: Option<&Token>,
        span: Option<Range<u64>>,
        form: &Option<(&str, Bytes)>,
    ) -> Result<RequestHeader, SourceError> {
        let build = || -> Result<RequestHeader, Box<Error>> {
            let mut head = RequestHeader::build(method.clone(), url.target.as_bytes(), Some(8))?;
            head.insert_header("Host", url.authority())?;
            head.insert_header("User-Agent", concat!("dingospeed/", env!("CARGO_PKG_VERSION")))?;
            // Never the client's own: a compressed or negotiated body is not the file.
            head.insert_header("Accept", "*/*")?;
            head.insert_header("Accept-Encoding", "identity")?;
            if let Some(token) = token.filter(|_| self.is_hub(url)) {
                head.insert_header("Authorization", token.header())?;
            }
            if let Some(span) = &span {
                head.insert_header("Range", format!("bytes={}-{}", span.start, span.end.saturating_sub(1)))?;
            }
            if let Some((content_type, bytes)) = form {
                head.insert_header("Content-Type", *content_type)?;
                head.insert_header("Content-Length", bytes.len())?;
            }
            Ok(head)
        };
        build().map_err(|e| SourceError::Broken { host: url.authority(), cause: format!("cannot ask {url}: {e}") })
    }

    fn peer(&self, url: &Url) -> HttpPeer {
        // 0.0.0.0 stands for "whatever the dialer finds"; pingora's pool then does not compare addresses.
        let sni = if url.tls { url.host.clone() } else { String::new() };
        let mut peer = HttpPeer::new((Ipv4Addr::UNSPECIFIED, url.port), url.tls, sni);
        let mut hasher = DefaultHasher::new();
        (url.tls, &url.host, url.port).hash(&mut hasher);
        peer.group_key = hasher.finish();
        peer.options.total_connection_timeout = Some(self.connect_timeout + Duration::from_secs(5));
        peer.options.read_timeout = Some(self.read_timeout);
        peer.options.write_timeout = Some(self.read_timeout);
        peer.options.idle_timeout = Some(IDLE_MAX);
        peer.options.custom_l4 =
            Some(Arc::new(Dialer { host: url.host.clone(), port: url.port, connect_timeout: self.connect_timeout }));
        peer
    }

    /// Whether the token may go there: upstream itself, same port too, since a CDN may be a neighbour.
    fn is_hub(&self, url: &Url) -> bool {
        url.tls == self.base.tls && url.host == self.base.host && url.port == self.base.port
    }

    fn check_host(&self, url: &Url) -> Result<(), SourceError> {
        let is_below = |pattern: &str| match pattern.strip_prefix('*').unwrap_or(pattern) {
            suffix if suffix.starts_with('.') => url.host.ends_with(suffix),
            exact => url.host == exact,
        };
        let configured = self.allowed_hosts.iter().any(|pattern| is_below(pattern));
        // A plain-text detour off an encrypted upstream would let the network choose the bytes.
        let downgraded = self.base.tls && !url.tls;
        let allowed = url.host == self.base.host || HUB_HOSTS.iter().any(|h| is_below(h)) || configured;
        if allowed && (!downgraded || configured) { Ok(()) } else { Err(SourceError::Forbidden { host: url.authority() }) }
    }

    fn failure(&self, url: &Url, e: &Error) -> SourceError {
        failure(&url.authority(), e)
    }
}

fn failure(host: &str, e: &Error) -> SourceError {
    let (host, cause) = (host.to_owned(), e.to_string());
    match e.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => SourceError::Timeout { host, cause },
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::SocketError
        | ErrorType::BindError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert => SourceError::Unreachable { host, cause },
        _ => SourceError::Broken { host, cause },
    }
}

impl Body {
    /// The next bytes, borrowed from the connection's own buffer; `None` at the promised end, an error at any other.
    pub async fn chunk(&mut self) -> Result<Option<&[u8]>, SourceError> {
        match self.session.read_body_ref().await {
            Ok(chunk) => Ok(chunk),
            Err(e) => Err(failure(&self.host, &e)),
        }
    }

    async fn read_whole(&mut self) -> Result<Bytes, SourceError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > WHOLE_LEN_MAX {
                let cause = format!("the answer is longer than {WHOLE_LEN_MAX} bytes");
                return Err(SourceError::Broken { host: self.host.clone(), cause });
            }
            whole.extend_from_slice(chunk);
        }
        metrics().received("api", whole.len() as u64);
        Ok(whole.into())
    }

    /// Gives the connection back for reuse, if the whole body was read.
    pub async fn release(mut self) {
        // A short body (a redirect's text) is worth reading for the connection; a long one is not.
        let mut left = 16 << 10;
        while let Ok(Some(chunk)) = self.session.read_body_ref().await {
            match usize::checked_sub(left, chunk.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
        self.connector.release_http_session(self.session, &self.peer, Some(IDLE_MAX)).await;
    }

    /// This answer as an error.
    fn refusal(&self, url: &Url) -> SourceError {
        let text = |name: &str| self.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let host = url.authority();
        if self.status == 429 || self.status >= 500 || self.status == 408 {
            return SourceError::Busy { host, status: self.status, retry_after: retry_after(&self.headers) };
        }
        SourceError::Refused {
            host,
            status: self.status,
            code: text("x-error-code"),
            message: text("x-error-message").unwrap_or_default(),
            commit: text("x-repo-commit").as_deref().and_then(Commit::parse),
        }
    }
}

/// How long upstream asks to wait: `Retry-After` in seconds, or the `t` of an exhausted `RateLimit`.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let seconds = text("retry-after").and_then(|v| v.trim().parse::<u64>().ok()).or_else(|| {
        let parts: Vec<&str> = text("ratelimit")?.split(';').map(str::trim).collect();
        parts.contains(&"r=0").then(|| parts.iter().find_map(|p| p.strip_prefix("t=")?.parse().ok())).flatten()
    });
    seconds.map(Duration::from_secs)
}
