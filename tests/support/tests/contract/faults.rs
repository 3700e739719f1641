//! What goes wrong on purpose, and what the log says of it.

use std::time::{Duration, Instant};

use fake_hub::{FakeHub, Listener, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{ask, get, head, try_send};

const LEN: usize = 900_000;

/// A Hub with one large file, its bytes and its CDN address.
async fn large() -> (FakeHub, Vec<u8>, String) {
    let hub = FakeHub::start().await;
    let bytes = noise(5, LEN);
    hub.model("acme/tiny").lfs("w.bin", &bytes).file("config.json", "{\"a\": 1}").commit("first");
    let cdn = head(&format!("{}/acme/tiny/resolve/main/w.bin", hub.url())).await.the("location").to_owned();
    hub.clear_log();
    (hub, bytes, cdn)
}

#[tokio::test]
async fn a_cut_leaves_exactly_the_promised_part() {
    let (hub, bytes, cdn) = large().await;
    for cut in [0, 1, 300_000, LEN - 1] {
        let fault = hub.fault("w.bin").on_cdn().times(1).cut_after(cut as u64);
        let reply = get(&cdn).await;
        assert_eq!((reply.the("content-length"), reply.whole), ("900000", false));
        assert!(reply.body == bytes[..cut], "{} of {cut}", reply.body.len());
        assert_eq!(fault.hits(), 1);
        assert!(get(&cdn).await.body == bytes);
    }
    let sent: Vec<u64> = hub.calls().iter().step_by(2).map(|call| call.body_bytes).collect();
    assert_eq!(sent, [0, 1, 300_000, LEN as u64 - 1]);
    hub.fault("w.bin").times(1).reset_after(1000);
    let reset = try_send("GET", &cdn, &[], b"").await;
    assert!(reset.is_err() || !reset.is_ok_and(|reply| reply.whole));
}

#[tokio::test]
async fn ends_that_look_clean() {
    let (hub, bytes, cdn) = large().await;
    let once = || hub.fault("w.bin").on_cdn().times(1);
    once().short(1234);
    let short = get(&cdn).await;
    assert!(short.whole && short.the("content-length") == "1234" && short.body == bytes[..1234]);
    once().short_chunked(1234);
    let chunked = get(&cdn).await;
    assert!(chunked.whole && chunked.header("content-length").is_none() && chunked.body == bytes[..1234]);
    once().longer(10);
    let longer = get(&cdn).await;
    assert!(longer.whole && longer.body.len() == LEN + 10 && longer.body.starts_with(&bytes));
    once().flip(700_000);
    assert!(ask("GET", &cdn, &["range: bytes=0-99"]).await.body == bytes[..100], "a flip waits for a body that holds its byte");
    let flipped = ask("GET", &cdn, &["range: bytes=699000-700999"]).await.body;
    let wrong: Vec<usize> = (0..flipped.len()).filter(|at| flipped[*at] != bytes[699_000 + at]).collect();
    assert_eq!(wrong, [1000]);
    assert_eq!(flipped[1000] ^ 1, bytes[700_000]);
}

#[tokio::test]
async fn headers_that_lie() {
    let (hub, bytes, cdn) = large().await;
    let ranged = async |_name: &str| ask("GET", &cdn, &["range: bytes=10-19"]).await;
    hub.fault("w.bin").on_cdn().times(1).ignore_range();
    let whole = ranged("ignore_range").await;
    assert!(whole.status == 200 && whole.body == bytes);
    hub.fault("w.bin").on_cdn().times(1).wrong_content_range();
    let shifted = ranged("wrong_content_range").await;
    assert!(shifted.the("content-range") == "bytes 11-20/900000" && shifted.body == bytes[10..20]);
    hub.fault("w.bin").on_cdn().times(1).wrong_total();
    assert_eq!(ranged("wrong_total").await.the("content-range"), "bytes 10-19/900001");
    let honest = ranged("none").await;
    hub.fault("w.bin").on_cdn().times(1).changed_etag();
    let changed = ranged("changed_etag").await;
    assert_ne!(changed.the("etag"), honest.the("etag"));
    assert_eq!(changed.the("etag").len(), honest.the("etag").len());
}

#[tokio::test]
async fn statuses_redirects_and_conditions() {
    let (hub, _, _) = large().await;
    let url = format!("{}/acme/tiny/resolve/main/config.json", hub.url());
    let fault = hub.fault("config.json").on_hub().method("GET").after(1).times(2).status(503, &[("retry-after", "7")]);
    assert_eq!(head(&url).await.status, 307);
    assert_eq!(get(&url).await.status, 307);
    let reply = get(&url).await;
    assert_eq!((reply.status, reply.the("retry-after")), (503, "7"));
    assert_eq!((get(&url).await.status, get(&url).await.status, fault.hits()), (503, 307, 2));
    let looping = hub.fault("config.json").redirect_loop();
    assert_eq!(get(&format!("{url}?a=b")).await.the("location"), "/acme/tiny/resolve/main/config.json?a=b");
    looping.lift();
    hub.fault("config.json").redirect_to("http://evil.example/x");
    assert_eq!((get(&url).await.status, get(&url).await.the("location")), (302, "http://evil.example/x"));
    hub.clear_faults();
    hub.answer_all(503);
    assert_eq!((get(&url).await.status, get(&format!("{}/x", hub.cdn_url())).await.status), (503, 503));
    hub.answer_normally();
    assert_eq!(get(&url).await.status, 307);
    assert_eq!(hub.asked("config.json"), 10);

    let dice = async |seed| {
        let fault = hub.fault("config.json").chance(0.5, seed).status(500, &[]);
        let mut fell = String::new();
        for _ in 0..16 {
            fell.push(if get(&url).await.status == 500 { 'x' } else { '.' });
        }
        fault.lift();
        fell
    };
    let first = dice(7).await;
    assert!(first.contains('x') && first.contains('.'));
    assert_eq!(first, dice(7).await, "the same seed falls the same");
}

#[tokio::test]
async fn gates_hold_before_the_head_and_within_the_body() {
    let (hub, bytes, cdn) = large().await;
    let gate = hub.fault("w.bin").on_cdn().hold();
    let held = tokio::spawn({
        let cdn = cdn.clone();
        async move { get(&cdn).await }
    });
    gate.wait_reached().await;
    assert!(!held.is_finished() && hub.running(Listener::Cdn) == 1);
    let second = tokio::spawn({
        let cdn = cdn.clone();
        async move { get(&cdn).await }
    });
    gate.wait_reached_by(2).await;
    assert_eq!(hub.cdn_running_max(), 2);
    gate.release();
    assert!(held.await.unwrap().body == bytes && second.await.unwrap().body == bytes);

    let gate = hub.fault("w.bin").on_cdn().hold_after(400_000);
    let mut stream = TcpStream::connect(hub.cdn_address()).await.unwrap();
    let path = cdn.strip_prefix(&hub.cdn_url()).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut raw = Vec::new();
    // The first 400,000 bytes come although the rest is held.
    while raw.len() < 400_000 {
        assert!(stream.read_buf(&mut raw).await.unwrap() > 0);
    }
    gate.wait_reached().await;
    hub.wait_calls("400,000 bytes", |calls| calls.last().unwrap().body_bytes == 400_000).await;
    drop(gate);
    stream.read_to_end(&mut raw).await.unwrap();
    assert!(raw.ends_with(&bytes));
    hub.wait_idle().await;
    assert!(hub.calls().iter().all(|call| call.finished));
}

#[tokio::test]
async fn silence_and_slowness() {
    let (hub, bytes, cdn) = large().await;
    let (before, after) = (hub.fault("w.bin").on_cdn().times(1), hub.fault("w.bin").on_cdn().times(1));
    let before = before.hang_before_head();
    let asking = || {
        let cdn = cdn.clone();
        tokio::spawn(async move { get(&cdn).await })
    };
    let silent = asking();
    hub.wait_calls("a request", |calls| calls.len() == 1).await;
    let after = after.hang_after(1000);
    let stuck = asking();
    hub.wait_calls("1000 bytes", |calls| calls.iter().any(|call| call.body_bytes == 1000)).await;
    assert_eq!((before.hits(), after.hits(), hub.running(Listener::Cdn)), (1, 1, 2));
    assert!(!silent.is_finished() && !stuck.is_finished());
    silent.abort();
    stuck.abort();
    hub.wait_idle().await;
    hub.clear_faults();

    let part = ["range: bytes=0-99999"];
    let brakes = [
        |hub: &FakeHub| hub.fault("w.bin").on_cdn().rate(1_000_000),
        |hub: &FakeHub| hub.fault("w.bin").on_cdn().latency(Duration::from_millis(80)),
    ];
    for brake in brakes {
        let rule = brake(&hub);
        let begun = Instant::now();
        assert!(ask("GET", &cdn, &part).await.body == bytes[..100_000]);
        // The first fiftieth of a second's bytes goes at once.
        assert!(begun.elapsed() >= Duration::from_millis(75), "{:?}", begun.elapsed());
        rule.lift();
    }
}
