//! The webhook: what it is told, when, and what happens while it is away.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_hub::{FakeHub, noise};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::{Mirror, MirrorOptions};

/// How long a message may take to come; it is late only when something is wrong.
const TOLD_MAX: Duration = Duration::from_secs(60);

/// A receiver of alarms. It answers with the statuses it was given, then with 200.
struct Receiver {
    address: SocketAddr,
    told: mpsc::UnboundedReceiver<Value>,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let statuses = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(attend(stream, statuses.clone(), tell.clone()));
            }
        });
        Receiver { address, told }
    }

    fn mirror(&self, hub: &FakeHub) -> MirrorOptions {
        Mirror::of(hub).set("alerts.webhook", format!("http://{}/hooks/hush?key=hush", self.address))
    }

    async fn next(&mut self) -> Value {
        tokio::time::timeout(TOLD_MAX, self.told.recv()).await.expect("an alarm in time").expect("the receiver runs")
    }
}

/// Takes one POST per connection.
async fn attend(mut stream: TcpStream, statuses: Arc<Mutex<VecDeque<u16>>>, tell: mpsc::UnboundedSender<Value>) {
    let mut bytes = Vec::new();
    let body = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /hooks/hush?key=hush http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
        let len = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a length");
        if body.len() == len.parse::<usize>().expect("a number") {
            break body.to_owned();
        }
    };
    let status = statuses.lock().expect("no panic holds it").pop_front().unwrap_or(200);
    if status == 200 {
        tell.send(serde_json::from_str(&body).expect("JSON")).expect("the test listens");
    }
    let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.expect("an answer that is read");
}

#[tokio::test]
async fn an_upstream_that_goes_down_is_told_once() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").file("x.txt", "x").commit("first");
    let mut receiver = Receiver::start(&[]).await;
    let mirror = receiver.mirror(&hub).start().await;
    assert_eq!(mirror.get("/acme/m/resolve/main/x.txt").await.status, 200);
    hub.down().await;
    for n in 0..20 {
        mirror.get(&format!("/acme/m{n}/resolve/main/x.txt")).await;
    }
    let told = receiver.next().await;
    assert_eq!((told["alarm"].as_str(), told["state"].as_str()), (Some("upstream"), Some("firing")), "{told}");
    assert!(told["text"].as_str().is_some_and(|text| text.contains("is down")), "{told}");
    assert!(told["subject"].as_str().is_some_and(|host| hub.url().ends_with(host)), "{told}");
    assert!(told["time"].is_string() && told["version"].is_string(), "{told}");
    for n in 20..40 {
        mirror.get(&format!("/acme/m{n}/resolve/main/x.txt")).await;
    }
    assert!(receiver.told.try_recv().is_err(), "the same is not told again");
    assert_eq!(mirror.metrics().await.of("dingospeed_alarms_total{outcome=\"told\"}"), 1.0);
    assert!(!mirror.log().contains("hush"), "its address is a secret: {}", mirror.log());
}

#[tokio::test]
async fn wrong_bytes_are_told_and_a_receiver_that_fails_is_told_again() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").lfs("w.bin", noise(9, 3 << 20)).commit("first");
    hub.fault("w.bin").on_cdn().times(1).flip(1 << 20);
    let mut receiver = Receiver::start(&[500, 503]).await;
    let mirror = receiver.mirror(&hub).start().await;
    mirror.get("/acme/m/resolve/main/w.bin").await;
    let told = receiver.next().await;
    assert_eq!((told["alarm"].as_str(), told["state"].as_str()), (Some("corruption"), Some("firing")), "{told}");
    assert!(told["text"].as_str().is_some_and(|text| text.contains("wrong bytes")), "{told}");
}

#[tokio::test]
async fn a_disk_that_cannot_be_kept_within_its_limit_is_told() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").lfs("w.bin", noise(10, 4 << 20)).commit("first");
    hub.model("acme/n").lfs("w.bin", noise(12, 4 << 20)).commit("first");
    let mut receiver = Receiver::start(&[]).await;
    let options = receiver.mirror(&hub).set("eviction.max_size", "6MiB").set("eviction.interval", "1s");
    let mirror = options.start().await;
    // What is pinned stays, so nothing can be freed for another that would fit alone.
    let repos = mirror.repos().display().to_string();
    let (code, stderr, _) = crate::harness::dingospeed(&["pin", "acme/m", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    for repo in ["m", "n"] {
        assert!(mirror.get(&format!("/acme/{repo}/resolve/main/w.bin")).await.whole);
    }
    let told = receiver.next().await;
    assert_eq!((told["alarm"].as_str(), told["state"].as_str()), (Some("disk"), Some("firing")), "{told}");
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_nobody_up() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").lfs("w.bin", noise(11, 3 << 20)).commit("first");
    // Accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let mut mirror = Mirror::of(&hub).set("alerts.webhook", &url).start().await;
    assert!(mirror.get("/acme/m/resolve/main/w.bin").await.whole);
    hub.down().await;
    for n in 0..20 {
        mirror.get(&format!("/acme/m{n}/resolve/main/x.txt")).await;
    }
    let (_held, _) = tokio::time::timeout(TOLD_MAX, silent.accept()).await.expect("a try in time").expect("a connection");
    assert!(mirror.get("/acme/m/resolve/main/w.bin").await.whole);
    assert_eq!(mirror.stop().await.code(), Some(0), "nor the end");
}
