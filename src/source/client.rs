//! One request and the head of its answer, over pingora's connectors: pools, proxies, breakers, budgets, deadlines.

use super::body::{Body, IDLE_MAX};
use super::breaker::{Failure, Subject};
use super::budget::{Account, Budget, retry_after};
use super::dialer::Dialer;
use super::hosts::Hosts;
use super::origin::subject;
use super::tunnel::Proxies;
use super::{SourceError, Token, Url};
use crate::config;
use crate::metrics::metrics;
use bytes::Bytes;
use http::Method;
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Idle connections kept for all hosts together.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// Heads with 1xx before the answer's own; a server that sends more never comes to the point.
const INFORMATIONAL_MAX: usize = 8;
/// A connection that takes so long in vain speaks for the whole host (see [`Failure::Silent`]), and a question that was given up
/// after so long for a part of it ([`Failure::Impatient`]); shorter if questions may only take little longer.
const SILENT_MIN: Duration = Duration::from_secs(2);

/// A request for bytes waits so long for a host that is down to come back; with the tries of a fetch well below the 10 s
/// after which clients give up on a first byte.
const BYTES_WAIT: Duration = Duration::from_millis(500);

const USER_AGENT: &str = concat!("dingospeed/", env!("CARGO_PKG_VERSION"));

/// Sends requests. Knows hosts, not what upstreams are.
pub(super) struct Client {
    connector: Arc<Connector>,
    connect_timeout: Duration,
    read_timeout: Duration,
    silent_min: Duration,
    /// A question over a standing connection that waited in vain for so long, which is most of what it may take.
    silent_max: Duration,
    proxies: Proxies,
    pub(super) hosts: Hosts,
}

/// One request.
pub(super) struct Ask<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a Url,
    /// Already known to be for this host.
    pub(super) token: Option<&'a Token>,
    pub(super) span: Option<Range<u64>>,
    pub(super) form: Option<(&'a str, Bytes)>,
    /// The tag of what is known already: an answer that has it may be a 304.
    pub(super) unless: Option<&'a str>,
    /// For the metrics: `api`, `head` or `block`.
    pub(super) kind: &'static str,
    /// What a question is about; `None` for bytes.
    pub(super) subject: Option<Subject>,
    /// The head must have come by then; without one the timeouts of connections alone hold.
    pub(super) deadline: Option<Instant>,
    /// 5xx to other questions do not hold it back.
    pub(super) deciding: bool,
    /// Our own pacing does not.
    pub(super) urgent: bool,
    /// The budget that pays for it, with the Hub's name of its kind; hosts other than upstreams have none.
    pub(super) budget: Option<(&'static str, Arc<Mutex<Budget>>)>,
}

impl Ask<'_> {
    /// What a 503 may be about, where it need not be the host as a whole; see [`Holds`](super::hold::Holds).
    fn thing(&self) -> u64 {
        match self.budget {
            // Upstreams are those that have one.
            Some(_) => self.subject.unwrap_or_else(|| subject(self.method, &self.url.target)).repo,
            None => object_at(self.url),
        }
    }
}

impl Client {
    pub(super) fn new(config: &config::Upstream, upstreams: &[Url]) -> Client {
        let share = config.question_timeout / upstreams.len().max(1) as u32;
        Client {
            connector: Arc::new(Connector::new(Some(ConnectorOptions::new(IDLE_CONNECTIONS_MAX)))),
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            silent_min: SILENT_MIN.min(share / 2),
            silent_max: share * 3 / 4,
            proxies: Proxies::new(config.proxy.expose(), |name| std::env::var(name).ok()),
            hosts: Hosts::new(upstreams.iter()),
        }
    }

    /// Sends one request and reads the head of its answer. Fails at once while the host is down, wants to be left alone, or the
    /// budget is spent.
    pub(super) async fn send(&self, ask: Ask<'_>) -> Result<Body, SourceError> {
        if !ask.deciding
            && let Err(held) = self.hosts.check_hold(ask.url, ask.thing())
        {
            metrics().upstream_paced(ask.budget.as_ref().map_or("cdn", |(kind, _)| kind), "refused");
            return Err(held);
        }
        let mut pass = match self.hosts.admit(ask.url, ask.subject, ask.deciding) {
            // Couriers have a few tries each and come in groups, of which one gets the probe: the others would use up theirs
            // while they are turned away.
            Err(_) if ask.subject.is_none() => {
                tokio::time::sleep(BYTES_WAIT).await;
                self.hosts.admit(ask.url, ask.subject, ask.deciding)?
            }
            admitted => admitted?,
        };
        wait_for_turn(&ask).await?;
        pass.sent();
        let connected = AtomicBool::new(false);
        let outcome = match ask.deadline {
            None => self.exchange(&ask, &connected).await,
            Some(deadline) => match timeout_at(deadline.into(), self.exchange(&ask, &connected)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    // What was asked is nobody's business but the asker's, and the cause is told to all while the host is down.
                    let waited = pass.waited().as_secs_f64();
                    log::info!("no answer to {} {} in {waited:.1} s", ask.method, ask.url);
                    let cause = format!("no answer in {waited:.1} s");
                    Err(SourceError::Timeout { host: ask.url.authority(), cause })
                }
            },
        };
        match &outcome {
            Ok(body) => {
                metrics().asked_upstream(ask.kind, Some(body.status), pass.waited());
                if let Some((kind, budget)) = &ask.budget {
                    let account = Account::read(kind, body.status, &body.headers);
                    if let Some(hold) = account.hold {
                        log::warn!("limited upstream={} kind={kind} seconds={}", ask.url.authority(), hold.as_secs());
                    }
                    budget.lock().unwrap_or_else(|e| e.into_inner()).learn(&account, Instant::now());
                }
                // Of an upstream's 429 the budget of that kind and account knows.
                if (body.status == 429 && ask.budget.is_none()) || body.status == 503 {
                    let asked = retry_after(&body.headers);
                    asked.into_iter().for_each(|asked| pass.hold(body.status, asked, ask.thing()));
                }
                pass.answered(body.status);
            }
            Err(error) => {
                metrics().asked_upstream(ask.kind, None, pass.waited());
                let (waited, connected) = (pass.waited(), connected.into_inner());
                let is_long = waited >= self.silent_min;
                match error {
                    SourceError::Unreachable { cause, .. } if is_long => pass.failed(Failure::Silent, false, cause),
                    // A block may be slow while the CDN fetches it, so its silence alone is a weaker sign.
                    SourceError::Timeout { cause, .. } if ask.subject.is_none() => pass.failed(Failure::Quick, connected, cause),
                    SourceError::Timeout { cause, .. } if waited >= self.silent_max || (is_long && !connected) => {
                        pass.failed(Failure::Silent, connected, cause);
                    }
                    SourceError::Timeout { cause, .. } if is_long => pass.failed(Failure::Impatient, connected, cause),
                    SourceError::Unreachable { cause, .. } => pass.failed(Failure::Quick, false, cause),
                    // Given up before it could be slow; or something is there and speaks nonsense. The pass is given back as if
                    // it had not been used.
                    _ => {}
                }
            }
        }
        outcome
    }

    /// `connected` is set once a connection stands.
    pub(super) async fn exchange(&self, ask: &Ask<'_>, connected: &AtomicBool) -> Result<Body, SourceError> {
        let host = || ask.url.authority();
        let peer = self.peer(ask.url);
        let failed = |e: Box<Error>| failure(&host(), &e);
        // A kept connection may have been closed meanwhile: then the request is sent once more on a new one.
        for attempt in 0..2 {
            let (mut session, reused) = self.connector.get_http_session(&peer).await.map_err(failed)?;
            connected.store(true, Ordering::Relaxed);
            session.read_timeout = Some(self.read_timeout);
            session.write_timeout = Some(self.read_timeout);
            let head = request(ask)?;
            let sent = async {
                session.write_request_header(Box::new(head)).await?;
                if let Some((_, bytes)) = &ask.form {
                    session.write_body(bytes).await?;
                }
                session.finish_body().await?;
                read_final_head(&mut session).await
            };
            match sent.await {
                Ok(Some(status)) => {
                    let headers = session.resp_header().map(|h| h.headers.clone()).unwrap_or_default();
                    let connector = self.connector.clone();
                    return Ok(Body { session, peer, connector, host: host(), status, headers });
                }
                Ok(None) => {
                    let cause = "informational answers (1xx) and never a final one".to_owned();
                    return Err(SourceError::Broken { host: host(), cause });
                }
                Err(e) if reused && attempt == 0 && !matches!(e.etype(), ErrorType::ReadTimedout) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Err(SourceError::Unreachable { host: host(), cause: "kept connections are closed again and again".into() })
    }

    pub(super) fn peer(&self, url: &Url) -> HttpPeer {
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
        peer.options.custom_l4 = Some(Arc::new(Dialer {
            host: url.host.clone(),
            port: url.port,
            connect_timeout: self.connect_timeout,
            proxy: self.proxies.of(url.tls, &url.host, url.port),
        }));
        peer
    }
}

/// What a host of bytes has at this URL; signatures change with each question.
pub(super) fn object_at(url: &Url) -> u64 {
    let mut hasher = DefaultHasher::new();
    url.target.split('?').next().hash(&mut hasher);
    hasher.finish()
}

/// Reads heads until one is final. `None` when there is none in [`INFORMATIONAL_MAX`], or the server changes protocols,
/// which nobody asked for.
async fn read_final_head(session: &mut HttpSession) -> Result<Option<u16>, Box<Error>> {
    for _ in 0..=INFORMATIONAL_MAX {
        session.read_response().await?;
        match session.get_status().map_or(0, |status| status.as_u16()) {
            101 => return Ok(None),
            100..=199 => {}
            status => return Ok(Some(status)),
        }
    }
    Ok(None)
}

/// Takes the request's worth from its budget, and waits if it is soon to come. Never longer than the deadline.
async fn wait_for_turn(ask: &Ask<'_>) -> Result<(), SourceError> {
    let Some((kind, budget)) = &ask.budget else { return Ok(()) };
    let taken = {
        let mut budget = budget.lock().unwrap_or_else(|e| e.into_inner());
        if ask.urgent { budget.take_now(Instant::now()) } else { budget.take(Instant::now()) }
    };
    let time_left = ask.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
    let refused = match taken {
        Ok(Duration::ZERO) => return Ok(()),
        Ok(wait) if wait < time_left => {
            metrics().upstream_paced(kind, "delayed");
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        Ok(wait) | Err(wait) => wait,
    };
    metrics().upstream_paced(kind, "refused");
    // As upstream would say it, and for the same reason; it is spared the question.
    Err(SourceError::Busy { host: ask.url.authority(), status: 429, retry_after: Some(refused.max(Duration::from_secs(1))) })
}

fn request(ask: &Ask<'_>) -> Result<RequestHeader, SourceError> {
    let build = || -> Result<RequestHeader, Box<Error>> {
        let mut head = RequestHeader::build(ask.method.clone(), ask.url.target.as_bytes(), Some(8))?;
        head.insert_header("Host", ask.url.authority())?;
        // Only to this name does the Hub tell which file of the repo a manifest is made of.
        let is_registry = ask.url.target.starts_with("/v2/");
        head.insert_header("User-Agent", if is_registry { "llama-cpp" } else { USER_AGENT })?;
        // Never the client's own: a compressed or negotiated body is not the file.
        head.insert_header("Accept", "*/*")?;
        head.insert_header("Accept-Encoding", "identity")?;
        if let Some(token) = ask.token {
            head.insert_header("Authorization", token.header())?;
        }
        if let Some(span) = &ask.span {
            head.insert_header("Range", format!("bytes={}-{}", span.start, span.end.saturating_sub(1)))?;
        }
        if let Some(etag) = ask.unless {
            head.insert_header("If-None-Match", etag)?;
        }
        if let Some((content_type, bytes)) = &ask.form {
            head.insert_header("Content-Type", *content_type)?;
            head.insert_header("Content-Length", bytes.len())?;
        }
        Ok(head)
    };
    build().map_err(|e| SourceError::Broken { host: ask.url.authority(), cause: format!("cannot be asked: {e}") })
}

pub(super) fn failure(host: &str, e: &Error) -> SourceError {
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
