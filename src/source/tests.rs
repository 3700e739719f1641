//! The origin against small scripted servers: what a fake Hub cannot do.

use super::*;
use crate::config::Config;
use http::Method;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ENTRY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// A server that answers every request with the same text (nothing at all if empty).
struct Server {
    url: String,
    dials: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Into<String>) -> Server {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { url, dials: Arc::default(), heads: Arc::default() };
        let (dials, heads) = (server.dials.clone(), server.heads.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                dials.fetch_add(1, Ordering::Relaxed);
                let (answer, heads) = (answer.clone(), heads.clone());
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while let Ok(len @ 1..) = stream.read(&mut request).await {
                        heads.lock().unwrap().push(String::from_utf8_lossy(&request[..len]).into_owned());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    /// The tokens that came, one per request.
    fn tokens(&self) -> Vec<Option<String>> {
        let token = |head: &String| head.lines().find_map(|line| Some(line.strip_prefix("Authorization: ")?.to_owned()));
        self.heads.lock().unwrap().iter().map(token).collect()
    }
}

fn origin(settings: &[(&str, &str)]) -> Origin {
    let mut config = Config::default();
    config.apply("upstream.proxy", "none").unwrap();
    for (key, value) in settings {
        config.apply(key, value).unwrap();
    }
    Origin::new(&config.upstream).unwrap()
}

async fn ask(origin: &Origin, target: &str) -> Result<Reply, SourceError> {
    origin.ask(&Method::GET, target, None, None).await
}

#[tokio::test]
async fn heads_that_are_not_final_are_read_over() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let server = Server::start(format!("{hints}{ENTRY}")).await;
    let origin = origin(&[("upstream.url", &server.url)]);
    for _ in 0..3 {
        let reply = ask(&origin, "/api/x").await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &b"{}"[..]));
        assert!(!reply.headers.contains_key("link"), "of the final head only");
    }
    assert_eq!(server.dials(), 1, "the connection is kept");
}

#[tokio::test]
async fn heads_without_end_are_broken() {
    for answer in ["HTTP/1.1 102 Processing\r\n\r\n".repeat(50), "HTTP/1.1 101 Switching Protocols\r\n\r\n".into()] {
        let server = Server::start(answer).await;
        let answer = ask(&origin(&[("upstream.url", &server.url)]), "/api/x").await;
        assert!(matches!(answer, Err(SourceError::Broken { .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_is_noticed_once() {
    let server = Server::start("").await;
    let origin = origin(&[("upstream.url", &server.url), ("upstream.question_timeout", "600ms")]);
    let answer = ask(&origin, "/api/x").await;
    assert!(matches!(answer, Err(SourceError::Timeout { .. })), "{answer:?}");
    // A slow machine may come to a probe or two in between.
    let mut told = 0;
    for _ in 0..20 {
        if let Err(SourceError::Unreachable { cause, .. }) = ask(&origin, "/api/y").await {
            assert!(cause.contains("asked again in"), "{cause}");
            told += 1;
        }
    }
    assert!(told >= 15 && server.dials() <= 6, "{told} of 20, {} dials", server.dials());
}

#[tokio::test]
async fn a_caller_may_be_less_patient() {
    let server = Server::start("").await;
    let origin = origin(&[("upstream.url", &server.url)]);
    let began = Instant::now();
    let answer = origin.within(Duration::from_millis(200)).ask(&Method::GET, "/api/x", None, None).await;
    assert!(matches!(answer, Err(SourceError::Timeout { .. })), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_slow_body_is_bound_by_the_deadline_too() {
    let server = Server::start("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{").await;
    let origin = origin(&[("upstream.url", &server.url), ("upstream.question_timeout", "300ms")]);
    let answer = ask(&origin, "/api/x").await;
    assert!(matches!(answer, Err(SourceError::Timeout { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_budget_refuses_as_the_hub_would() {
    let server = Server::start(ENTRY).await;
    let origin = origin(&[("upstream.url", &server.url), ("upstream.api_calls", "4")]);
    ask(&origin, "/api/x").await.unwrap();
    ask(&origin, "/api/x").await.unwrap();
    let answer = ask(&origin, "/api/x").await;
    let Err(SourceError::Busy { status: 429, retry_after: Some(wait), .. }) = answer else { panic!("{answer:?}") };
    assert!(wait > Duration::from_secs(30), "{wait:?}");
    // Files and accounts are counted apart.
    ask(&origin, "/o/m/resolve/main/x").await.unwrap();
    let token = Token::from_header(Some("Bearer hf_x"));
    origin.ask(&Method::GET, "/api/x", token.as_ref(), None).await.unwrap();
}

#[tokio::test]
async fn an_operators_token_is_used_only_for_what_is_open() {
    let server = Server::start(ENTRY).await;
    let origin = origin(&[("upstream.url", &server.url), ("upstream.token", "hf_operator")]);
    let callers = Token::from_header(Some("Bearer hf_caller"));
    let second = Duration::from_secs(5);
    for (asking, token) in [
        (origin.within(second), None),
        (origin.within(second), callers.as_ref()),
        (origin.of_open_repo(), None),
        (origin.of_open_repo(), callers.as_ref()),
    ] {
        asking.ask(&Method::GET, "/api/models/o/m", token, None).await.unwrap();
    }
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(server.tokens(), [None, bearer("hf_caller"), bearer("hf_operator"), bearer("hf_caller")]);
}

#[tokio::test]
async fn an_operators_token_that_is_refused_costs_no_answer() {
    let server =
        Server::start("HTTP/1.1 401 Unauthorized\r\nX-Error-Message: Invalid username or password.\r\nContent-Length: 0\r\n\r\n")
            .await;
    let origin = origin(&[("upstream.url", &server.url), ("upstream.token", "hf_operator")]);
    let reply = origin.of_open_repo().ask(&Method::GET, "/api/models/o/m", None, None).await.unwrap();
    assert_eq!(reply.status, 401);
    let located = origin.of_open_repo().locate("/o/m/resolve/main/x", None).await;
    assert!(matches!(located, Err(SourceError::Refused { status: 401, .. })), "{located:?}");
    let operators = Some("Bearer hf_operator".to_owned());
    assert_eq!(server.tokens(), [operators.clone(), None, operators, None]);
}

#[tokio::test]
async fn an_operators_token_that_has_expired_is_left_alone() {
    let hub = fake_hub::FakeHub::start().await;
    hub.model("o/m").file("x", "y").commit("first");
    let origin = origin(&[("upstream.url", &hub.url()), ("upstream.token", "hf_expired")]);
    for _ in 0..5 {
        origin.of_open_repo().ask(&Method::GET, "/api/models/o/m", None, None).await.unwrap();
        origin.of_open_repo().locate("/o/m/resolve/main/x", None).await.unwrap();
    }
    let with_token = hub.calls().iter().filter(|call| call.token.is_some()).count();
    assert_eq!(with_token, 1);
}

/// A port at which nothing listens.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_fallback_sees_no_token_and_its_links_become_the_firsts() {
    let first = closed().await;
    let link = "Link: </api/models/o/m/tree/main?cursor=x>; rel=\"next\"";
    let second = Server::start(format!("HTTP/1.1 200 OK\r\n{link}\r\nContent-Length: 2\r\n\r\n[]")).await;
    let origin = origin(&[("upstream.url", &first), ("upstream.fallbacks", &second.url), ("upstream.token", "hf_operator")]);
    let callers = Token::from_header(Some("Bearer hf_caller"));
    let target = "/api/models/o/m/tree/main";
    let reply = origin.ask(&Method::GET, target, callers.as_ref(), None).await.unwrap();
    assert!(!reply.authoritative);
    assert_eq!(reply.headers["link"], format!("<{first}{target}?cursor=x>; rel=\"next\""));
    origin.of_open_repo().ask(&Method::GET, target, None, None).await.unwrap();
    assert_eq!(second.tokens(), [None, None]);
}

#[tokio::test]
async fn an_untrusted_fallback_does_not_decide_access() {
    let first = closed().await;
    let second = Server::start(ENTRY).await;
    let settings = [("upstream.url", first.as_str()), ("upstream.fallbacks", &second.url)];
    let (target, method) = ("/api/models/o/m/auth-check", Method::GET);
    let untrusted = origin(&settings);
    for target in [target, "/api/whoami-v2"] {
        let answer = untrusted.ask(&method, target, None, None).await;
        assert!(matches!(answer, Err(SourceError::Unreachable { .. })), "{answer:?}");
    }
    assert_eq!(second.dials(), 0);
    assert!(!untrusted.of_fallbacks().ask(&method, target, None, None).await.unwrap().authoritative);

    let trusted = origin(&[settings[0], settings[1], ("upstream.trusted_fallbacks", &second.url)]);
    assert!(trusted.ask(&method, target, None, None).await.unwrap().authoritative);
}

#[tokio::test]
async fn a_masked_listing_of_a_fallback_is_no_answer_to_a_token() {
    let first = closed().await;
    let masked = format!("[{{\"oid\":\"{}\"}}]", "*".repeat(64));
    let second = Server::start(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{masked}", masked.len())).await;
    let origin = origin(&[("upstream.url", &first), ("upstream.fallbacks", &second.url)]);
    let token = Token::from_header(Some("Bearer hf_caller"));
    let target = "/api/models/o/m/tree/main";
    assert!(origin.ask(&Method::GET, target, token.as_ref(), None).await.is_err());
    assert!(origin.ask(&Method::GET, target, None, None).await.is_ok());
}

#[tokio::test]
async fn a_fallback_cannot_lead_a_token_to_the_first() {
    let first = Server::start("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    let place = format!("{}/private/repo/resolve/main/x", first.url);
    let second = Server::start(format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n")).await;
    let origin = origin(&[("upstream.url", &first.url), ("upstream.fallbacks", &second.url)]);
    let token = Token::from_header(Some("Bearer hf_caller"));
    let located = origin.locate("/o/m/resolve/main/x", token.as_ref()).await;
    assert!(matches!(located, Err(SourceError::Busy { status: 503, .. })), "{located:?}");
    assert!(second.dials() > 0);
    assert!(!first.heads.lock().unwrap().iter().any(|head| head.contains("private")));
    assert!(second.tokens().iter().all(Option::is_none));
}

#[tokio::test]
async fn a_proxy_that_talks_nonsense_is_named() {
    for (reply, expected) in [
        ("HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(20_000), "has no end"),
        ("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".into(), "before the tunnel"),
        ("220 smtp ready\r\n\r\n".into(), "no HTTP proxy"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n".into(), "502"),
        (String::new(), "no reply to CONNECT in time"),
    ] {
        let proxy = Server::start(reply).await;
        let settings = [("upstream.proxy", proxy.url.as_str()), ("upstream.connect_timeout", "500ms")];
        let answer = ask(&origin(&settings), "/api/x").await;
        let Err(SourceError::Unreachable { cause, .. }) = answer else { panic!("{expected}: {answer:?}") };
        let address = proxy.url.trim_start_matches("http://");
        assert!(cause.contains(expected) && cause.contains(address), "{expected}: {cause}");
        assert!(proxy.heads.lock().unwrap()[0].starts_with("CONNECT huggingface.co:443 HTTP/1.1\r\n"));
    }
}

/// A server whose certificate nobody has signed. With its port, and how many requests it could read.
async fn unsigned_tls_server() -> (u16, Arc<AtomicUsize>) {
    use tokio_rustls::rustls::{self, pki_types::PrivatePkcs8KeyDer};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let read: Arc<AtomicUsize> = Arc::default();
    let counted = read.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if let Ok(1..) = stream.read(&mut [0; 4096]).await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.write_all(ENTRY.as_bytes()).await;
                }
            });
        }
    });
    (port, read)
}

#[tokio::test]
async fn a_certificate_that_nobody_signed_is_not_believed() {
    let (port, read) = unsigned_tls_server().await;
    let origin = origin(&[("upstream.url", &format!("https://localhost:{port}"))]);
    let answer = ask(&origin, "/api/x").await;
    assert!(matches!(&answer, Err(SourceError::Unreachable { host, .. }) if host.contains("localhost")), "{answer:?}");
    let url = Url::parse(&format!("https://localhost:{port}/x")).unwrap();
    let body = origin.open(&url, None, 0..2, 2).await.map(|_| ());
    assert!(matches!(body, Err(SourceError::Unreachable { .. })), "{body:?}");
    assert_eq!(read.load(Ordering::Relaxed), 0, "nothing was asked of it, and no token shown");
}

#[tokio::test]
async fn bytes_without_length_and_etag_may_be_anything() {
    let page = "Transfer-Encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n";
    for (head, taken) in [("", false), ("ETag: \"x\"\r\n", true)] {
        let server = Server::start(format!("HTTP/1.1 200 OK\r\n{head}{page}")).await;
        let origin = origin(&[("upstream.url", &server.url)]);
        let url = Url::parse(&format!("{}/a/b/resolve/main/w", server.url)).unwrap();
        for span in [0..100, 100..200] {
            let body = origin.open(&url, None, span, 5000).await.map(|(_, starts_at)| starts_at);
            match taken {
                true => assert_eq!(body.ok(), Some(0)),
                false => assert!(matches!(body, Err(SourceError::Broken { .. })), "{body:?}"),
            }
        }
    }
}
