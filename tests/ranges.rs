//! An upstream that ignores ranges, as some proxies and plain file servers do: each request gets the whole from its start. Large
//! files come all the same, and what upstream sends stays a small multiple of the file.

use std::sync::Arc;
use std::time::Duration;

use fake_hub::{Call, Content, FakeHub, Listener};

use crate::harness::{Mirror, Response, limit_file_size};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB + 77;
const FILE: &str = "/acme/large/resolve/main/w.bin";

struct Setup {
    hub: FakeHub,
    content: Arc<dyn Content>,
    oid: String,
}

async fn setup() -> Setup {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/large").synthetic("w.bin", SIZE, 3).commit("first");
    let (content, oid) = (repo.content("w.bin"), repo.oid("w.bin"));
    hub.fault("w.bin").on_cdn().ignore_range();
    Setup { hub, content, oid }
}

impl Setup {
    fn bytes(&self, start: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            bytes.extend_from_slice(&self.content.read(start + bytes.len() as u64, (len as usize) - bytes.len()));
        }
        bytes
    }

    #[track_caller]
    fn assert_part(&self, answer: &Response, start: u64, len: u64) {
        let said = answer.header("x-error-message").unwrap_or_default();
        assert!(answer.status == 206 && answer.whole, "{} {said}", answer.status);
        assert!(answer.body == self.bytes(start, len), "other bytes at {start}");
    }

    async fn part(&self, mirror: &Mirror, start: u64, len: u64) {
        let answer = mirror.get_range(FILE, &format!("bytes={start}-{}", start + len - 1)).await;
        self.assert_part(&answer, start, len);
    }

    /// What the CDN has sent, in sizes of the file.
    async fn sent(&self) -> f64 {
        self.hub.wait_idle().await;
        self.hub.cdn_bytes() as f64 / SIZE as f64
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_comes_as_one_stream() {
    let s = setup().await;
    let mirror = Arc::new(Mirror::start(&s.hub).await);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mirror = mirror.clone();
        clients.spawn(async move { mirror.sum(FILE, &[]).await });
    }
    while let Some(sum) = clients.join_next().await {
        let sum = sum.expect("no panic");
        assert!(sum.status == 200 && sum.whole && sum.len == SIZE && sum.sha256 == s.oid, "{sum:?}");
    }
    // The first couriers find out at the same time; all but one hang up at once.
    let sent = s.sent().await;
    assert!(sent < 1.5, "{sent} files");
    assert_eq!(mirror.metrics().await.of("dingospeed_objects_verified_total"), 1.0);
    s.hub.clear_log();
    assert_eq!(mirror.sum(FILE, &[]).await.sha256, s.oid);
    assert_eq!(s.hub.cdn_bytes(), 0, "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_far_inside_keeps_what_it_passes() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    s.part(&mirror, 70 * MIB + 5, 3 * MIB).await;
    let sent = s.sent().await;
    assert!(sent < 1.5, "{sent} files");
    // What lies before is here now, and is no reason to ask again.
    s.hub.clear_log();
    s.part(&mirror, 11 * MIB + 1, 20 * MIB).await;
    assert_eq!(s.hub.cdn_bytes(), 0, "passed, and not kept");
    assert_eq!(mirror.sum(FILE, &[]).await.sha256, s.oid);
    let sent = s.sent().await;
    assert!(sent < 1.5, "{sent} files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_ranges_cost_a_few_files_and_one_not_the_whole() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    s.part(&mirror, 10, 100).await;
    let sent = s.sent().await;
    assert!(sent < 0.3, "{sent} files for 100 bytes at the start");
    for start in (0..SIZE - MIB).step_by(2 * MIB as usize) {
        s.part(&mirror, start, 1000).await;
    }
    let sent = s.sent().await;
    assert!(sent < 4.0, "{sent} files for ranges in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_goes_on_where_it_was() {
    let s = setup().await;
    s.hub.fault("w.bin").on_cdn().times(6).cut_after(80 * MIB + 5);
    let mirror = Mirror::start(&s.hub).await;
    let sum = mirror.sum(FILE, &[]).await;
    assert!(sum.whole && sum.sha256 == s.oid, "{sum:?}");
}

/// A courier that hears late that ranges are ignored leaves its run behind the stream, which has passed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_behind_the_stream_waits_for_its_end() {
    let s = setup().await;
    let (near, far) = (s.hub.fault("w.bin").on_cdn().times(1), s.hub.fault("w.bin").on_cdn().times(1));
    let (near, far) = (near.hold_after(40 * MIB), far.hold_after(90 * MIB));
    let late = s.hub.fault("w.bin").on_cdn().after(1).times(1).hold();
    let mirror = Mirror::of(&s.hub).set("fetch.connections_per_object", "2").set("upstream.read_timeout", "1m").start().await;
    let mirror = Arc::new(mirror);
    let reader = mirror.clone();
    let client = tokio::spawn(async move { reader.sum(FILE, &[]).await });
    late.wait_reached().await;
    near.wait_reached().await;
    late.release();
    let is_over = |calls: &[Call]| calls.iter().any(|call| call.listener == Listener::Cdn && call.finished);
    s.hub.wait_calls("the late one's end", is_over).await;
    near.release();
    let sum = client.await.expect("no panic");
    assert!(sum.whole && sum.sha256 == s.oid, "{sum:?}");
    assert_eq!(far.reached(), 0, "the stream went on to its end");
    assert_eq!(s.hub.cdn_calls().len(), 3);
}

/// Each try brings the same half of a block anew, which is no progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_always_breaks_at_the_same_place_is_given_up() {
    let s = setup().await;
    s.hub.fault("w.bin").on_cdn().always().cut_after(2 * MIB + 300_000);
    let mirror = Mirror::of(&s.hub).set("upstream.patience", "2s").start().await;
    let sum = tokio::time::timeout(Duration::from_secs(60), mirror.sum(FILE, &[])).await;
    let sum = sum.expect("an end");
    assert!(!sum.whole, "{sum:?}");
    mirror.wait_log("failed fill object=").await;
    s.hub.wait_idle().await;
    let calls = s.hub.cdn_calls().len();
    assert!(calls < 100, "{calls} tries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_work_again_are_used_again() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    s.part(&mirror, 0, 100).await;
    s.hub.wait_idle().await;
    s.hub.clear_faults();
    s.hub.clear_log();
    s.part(&mirror, 90 * MIB, 100).await;
    s.hub.wait_idle().await;
    assert!(s.hub.cdn_bytes() <= 2 * MIB, "{} bytes for one block", s.hub.cdn_bytes());
    s.hub.fault("w.bin").on_cdn().rate(24 * MIB);
    assert_eq!(mirror.sum(FILE, &[]).await.sha256, s.oid);
    assert!(s.hub.cdn_running_max() > 1, "again by several connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_does_not_hide_the_middle() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    limit_file_size(&mirror, MIB);
    s.part(&mirror, 70 * MIB + 5, MIB).await;
    let sum = mirror.sum(FILE, &[]).await;
    assert!(sum.whole && sum.sha256 == s.oid, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_too_small_for_the_file_serves_all_of_it() {
    let s = setup().await;
    let mirror = Mirror::of(&s.hub).set("eviction.max_size", "20MiB").start().await;
    s.part(&mirror, 70 * MIB + 5, MIB).await;
    let sum = mirror.sum(FILE, &[]).await;
    assert!(sum.whole && sum.sha256 == s.oid, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_for_what_is_only_passed() {
    const OTHER: &str = "/acme/other/resolve/main/o.bin";
    let s = setup().await;
    s.hub.model("acme/other").synthetic("o.bin", 8 * MIB, 4).commit("first");
    let mirror = Mirror::of(&s.hub).set("eviction.max_size", "40MiB").start().await;
    assert!(mirror.sum(OTHER, &[]).await.whole);
    s.part(&mirror, 70 * MIB + 5, 3 * MIB).await;
    s.hub.wait_idle().await;
    s.hub.clear_log();
    assert!(mirror.sum(OTHER, &[]).await.whole);
    assert_eq!(s.hub.cdn_bytes(), 0, "it has gone");
    // Where there was room, what was passed is kept.
    s.part(&mirror, 11 * MIB + 1, 9 * MIB).await;
    assert_eq!(s.hub.cdn_bytes(), 0, "passed, and not kept");
}

/// A mirror whose disk is known to take nothing.
async fn with_full_disk(s: &Setup, patience: &str) -> Mirror {
    let mirror = Mirror::of(&s.hub).set("upstream.patience", patience).start().await;
    limit_file_size(&mirror, MIB);
    s.part(&mirror, 3 * MIB, 1000).await;
    s.hub.wait_idle().await;
    s.hub.clear_log();
    mirror
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_disk_the_way_to_the_middle_is_gone_once() {
    let s = setup().await;
    let mirror = with_full_disk(&s, "60s").await;
    let gate = s.hub.fault("w.bin").on_cdn().hold_after(20 * MIB);
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[&format!("Range: bytes={}-{}", 70 * MIB, 70 * MIB + 999)]).await;
    gate.wait_reached().await;
    // The head comes after some seconds without bytes, and must not cost those that were passed by then.
    assert_eq!(connection.head("GET").await.expect("an answer").0, 206);
    gate.release();
    let mut got = Vec::new();
    while let Some(piece) = connection.piece().await.expect("no cut") {
        got.extend_from_slice(&piece);
    }
    assert!(got == s.bytes(70 * MIB, 1000), "other bytes");
    assert_eq!(s.hub.cdn_calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_disk_the_way_to_the_middle_has_an_end() {
    let s = setup().await;
    let mirror = with_full_disk(&s, "2s").await;
    let _gate = s.hub.fault("w.bin").on_cdn().hold_after(20 * MIB);
    let answer = mirror.get_range(FILE, &format!("bytes={}-{}", 70 * MIB, 70 * MIB + 999)).await;
    let said = answer.header("x-error-message").unwrap_or_default();
    assert!(answer.status == 504 && said.contains("ignores ranges"), "{} {said}", answer.status);
    assert_eq!(s.hub.cdn_calls().len(), 1);
}
