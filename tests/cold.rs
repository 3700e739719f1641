//! A large file that the mirror does not have yet: it comes from upstream once, however many ask and whoever leaves.

use std::sync::Arc;
use std::time::Duration;

use fake_hub::{FakeHub, noise};
use tokio::sync::Barrier;

use crate::harness::{Mirror, Sum};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 200 * MIB;
const FILE: &str = "/acme/large/resolve/main/weights.safetensors";

/// Starts a Hub with one 200 MiB file; returns it with the file's sha256.
async fn hub_with_one_large_file() -> (FakeHub, String) {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/large").synthetic("weights.safetensors", SIZE, 1);
    (hub, repo.commit("weights").oid("weights.safetensors"))
}

fn assert_whole(sum: &Sum, sha256: &str) {
    assert!(sum.whole, "the body was cut after {} bytes", sum.len);
    assert_eq!((sum.status, sum.len, sum.sha256.as_str()), (200, SIZE, sha256));
}

/// Asserts that the CDN sent no more than this many times the file.
fn assert_upstream_at_most(hub: &FakeHub, times: f64) {
    let sent = hub.cdn_bytes();
    let most = (SIZE as f64 * times) as u64;
    assert!(sent <= most, "the CDN sent {sent} bytes for a file of {SIZE}: more than {times} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_at_once_cost_upstream_one_file() {
    let (hub, sha256) = hub_with_one_large_file().await;
    let mirror = Arc::new(Mirror::start(&hub).await);

    let together = Arc::new(Barrier::new(16));
    let clients = (0..16).map(|_| {
        let (mirror, together) = (mirror.clone(), together.clone());
        tokio::spawn(async move {
            let mut connection = mirror.connect().await;
            together.wait().await;
            connection.ask("GET", FILE, &[]).await;
            connection.sum("GET").await
        })
    });
    for client in clients.collect::<Vec<_>>() {
        assert_whole(&client.await.expect("a client that did not panic"), &sha256);
    }

    assert_upstream_at_most(&hub, 1.02);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_killed_at_30_percent_leaves_the_rest_to_fetch() {
    let (hub, sha256) = hub_with_one_large_file().await;
    let mirror = Mirror::start(&hub).await;

    leave_after(&mirror, SIZE * 3 / 10).await;
    assert_whole(&mirror.sum(FILE, &[]).await, &sha256);

    assert_upstream_at_most(&hub, 1.05);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resumes_gets_the_rest_and_nothing_twice() {
    let (hub, _) = hub_with_one_large_file().await;
    let mirror = Mirror::start(&hub).await;
    let start = SIZE * 3 / 10 + 17;

    leave_after(&mirror, start).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[&format!("Range: bytes={start}-")]).await;
    let (status, headers) = connection.head("GET").await.expect("an answer");
    assert_eq!(status, 206);
    assert_eq!(headers["content-range"], format!("bytes {start}-{}/{SIZE}", SIZE - 1));
    assert_eq!(connection.read_body(SIZE).await, SIZE - start);

    assert_upstream_at_most(&hub, 1.05);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_stopped_at_30_percent_goes_on_from_its_disk() {
    let (hub, sha256) = hub_with_one_large_file().await;
    let mut mirror = Mirror::start(&hub).await;

    leave_after(&mirror, SIZE * 3 / 10).await;
    let status = mirror.stop().await;
    assert!(status.success(), "SIGTERM is an orderly end, not {status}");
    mirror.restart().await;
    assert_whole(&mirror.sum(FILE, &[]).await, &sha256);

    assert_upstream_at_most(&hub, 1.05);
}

/// Downloads this much and closes the connection.
async fn leave_after(mirror: &Mirror, len: u64) {
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    let (status, _) = connection.head("GET").await.expect("an answer");
    assert_eq!(status, 200);
    assert!(connection.read_body(len).await >= len);
}

#[tokio::test]
async fn the_first_byte_does_not_wait_for_the_file() {
    // At this rate the file takes more than three minutes, so whoever waits for all of it fails.
    let hub = FakeHub::builder().cdn_rate(MIB).start().await.expect("two free ports");
    hub.model("acme/large").synthetic("weights.safetensors", SIZE, 1).commit("weights");
    let mirror = Mirror::start(&hub).await;

    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    let first = async {
        connection.head("GET").await.expect("an answer");
        connection.piece().await.expect("a first piece")
    };
    let piece = tokio::time::timeout(Duration::from_secs(10), first).await;
    assert!(piece.is_ok_and(|piece| piece.is_some()), "no byte within 10 s");
}

#[tokio::test]
async fn what_has_come_is_passed_on_while_upstream_is_silent() {
    let hub = FakeHub::start().await;
    let bytes = noise(77, 3 * MIB as usize);
    hub.model("acme/large").lfs("weights.safetensors", &bytes).commit("weights");
    // Ends neither a block nor a piece.
    let gate = hub.fault("weights").on_cdn().times(1).hold_after(1_700_000);
    let mirror = Mirror::of(&hub).set("upstream.read_timeout", "60s").set("fetch.connections_per_object", 1).start().await;

    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    let mut body = Vec::new();
    while body.len() < 1_700_000 {
        let piece = tokio::time::timeout(Duration::from_secs(10), connection.piece()).await;
        body.extend_from_slice(&piece.expect("a client would have given up").expect("no cut").expect("no end"));
    }
    gate.release();
    while let Some(piece) = connection.piece().await.expect("no cut") {
        body.extend_from_slice(&piece);
    }
    assert!(body == bytes);
}

/// What upstream sends of a long file after its one client left early, once all is quiet.
async fn sent_after_leaving(policy: &str) -> u64 {
    let hub = FakeHub::start().await;
    hub.model("acme/large").synthetic("weights.safetensors", 40 * MIB, 1).commit("weights");
    // Slow enough that the client leaves long before the end.
    hub.fault("weights").on_cdn().rate(2 * MIB);
    let mirror = Mirror::of(&hub).set("fetch.when_client_leaves", policy).set("fetch.connections_per_object", 2).start().await;
    leave_after(&mirror, MIB).await;
    hub.wait_idle().await;
    // Idle between two runs is not the end; the next one begins at once.
    loop {
        let before = hub.cdn_bytes();
        tokio::time::sleep(Duration::from_millis(500)).await;
        hub.wait_idle().await;
        if hub.cdn_bytes() == before {
            return before;
        }
    }
}

#[tokio::test]
async fn what_becomes_of_a_fetch_without_clients_is_the_admins_choice() {
    assert_eq!(sent_after_leaving("finish_request").await, 40 * MIB);
    let some = 1..30 * MIB;
    for policy in ["finish_block", "stop"] {
        let sent = sent_after_leaving(policy).await;
        assert!(some.contains(&sent), "{policy}: {sent} bytes");
    }
}
