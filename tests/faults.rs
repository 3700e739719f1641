//! What goes wrong upstream and on disk: a client gets right bytes, a plain refusal, or a cut; never wrong bytes as if right.

use std::path::PathBuf;
use std::time::Duration;

use fake_hub::{Call, FakeHub, noise};

use crate::harness::{Mirror, Response};

const MIB: usize = 1 << 20;
const SIZE: usize = 6 * MIB + 12_345;
const FILE: &str = "/acme/large/resolve/main/w.bin";

struct Setup {
    hub: FakeHub,
    bytes: Vec<u8>,
    oid: String,
}

async fn setup() -> Setup {
    let hub = FakeHub::start().await;
    let bytes = noise(11, SIZE).to_vec();
    let repo = hub.model("acme/large").lfs("w.bin", &bytes).file("config.json", "{}").commit("first");
    let oid = repo.oid("w.bin");
    Setup { hub, bytes, oid }
}

#[track_caller]
fn assert_right(response: &Response, bytes: &[u8]) {
    assert_eq!(response.status, 200, "{}", message(response));
    assert!(response.whole, "the body was cut after {} bytes", response.body.len());
    assert!(response.body == bytes, "other bytes");
}

/// Asserts a refusal before the first byte, with words for the user; returns those.
#[track_caller]
fn assert_refused(response: &Response) -> String {
    let said = message(response);
    assert!((500..600).contains(&response.status), "{} instead of a 5xx: {said}", response.status);
    assert!(!said.is_empty(), "no X-Error-Message");
    assert_eq!(response.header("x-error-code"), None, "a 5xx has no code");
    said
}

fn message(response: &Response) -> String {
    response.header("x-error-message").unwrap_or_default().to_owned()
}

/// The CDN's calls for the file that carried bytes, by the first byte they asked for.
fn starts(hub: &FakeHub) -> Vec<u64> {
    let start = |call: Call| {
        let range = call.header("range")?.strip_prefix("bytes=")?.to_owned();
        range.split('-').next()?.parse().ok()
    };
    hub.cdn_calls().into_iter().filter_map(start).collect()
}

fn in_quarantine(mirror: &Mirror) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(mirror.repos().join("quarantine")) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("an entry of a directory").path())
        .filter(|path| path.extension().is_some_and(|end| end == "blob"))
        .collect()
}

#[tokio::test]
async fn a_cut_inside_a_block_is_resumed_where_it_was() {
    let s = setup().await;
    let cut = (MIB + 300_000) as u64;
    s.hub.fault("w.bin").on_cdn().times(1).cut_after(cut);
    let mirror = Mirror::start(&s.hub).await;

    assert_right(&mirror.get(FILE).await, &s.bytes);

    s.hub.wait_idle().await;
    let sent = s.hub.cdn_bytes();
    assert_eq!(sent, SIZE as u64, "no byte comes twice; the ranges began at {:?}", starts(&s.hub));
    assert!(starts(&s.hub).contains(&cut), "{:?}", starts(&s.hub));
}

#[tokio::test]
async fn bodies_that_break_off_are_completed() {
    type Break = fn(fake_hub::FaultBuilder) -> fake_hub::Fault;
    let breaks: [(&str, Break); 5] = [
        ("cut at once", |fault| fault.cut_after(0)),
        ("reset", |fault| fault.reset_after(2_000_000)),
        ("short", |fault| fault.short(1_500_001)),
        ("short and chunked", |fault| fault.short_chunked(1_500_001)),
        ("longer", |fault| fault.longer(100)),
    ];
    for (what, strike) in breaks {
        let s = setup().await;
        let fault = strike(s.hub.fault("w.bin").on_cdn().times(1));
        let mirror = Mirror::start(&s.hub).await;
        let answer = mirror.get(FILE).await;
        assert!(answer.whole && answer.body == s.bytes, "{what}: {answer:.0?}");
        assert_eq!(fault.hits(), 1, "{what}");
        assert!(in_quarantine(&mirror).is_empty(), "{what}");
    }
}

#[tokio::test]
async fn lying_heads_never_reach_a_client() {
    type Lie = fn(fake_hub::FaultBuilder) -> fake_hub::Fault;
    let lies: [(&str, Lie); 3] = [
        ("200 for a range", |fault| fault.ignore_range()),
        ("wrong Content-Range", |fault| fault.wrong_content_range()),
        ("wrong total", |fault| fault.wrong_total()),
    ];
    for (what, lie) in lies {
        let s = setup().await;
        lie(s.hub.fault("w.bin").on_cdn().times(1));
        let mirror = Mirror::start(&s.hub).await;
        // In the middle, so that the bytes of a 200 are not those that were asked for.
        let span = 3 * MIB + 5..3 * MIB + 1005;
        let range = format!("bytes={}-{}", span.start, span.end - 1);
        let part = mirror.get_range(FILE, &range).await;
        if part.status == 206 && part.whole {
            assert!(part.body == s.bytes[span.clone()], "{what}: other bytes");
        } else {
            assert!(!part.whole || part.status >= 500, "{what}: {}", part.status);
        }
        let again = mirror.get(FILE).await;
        assert!(again.whole && again.body == s.bytes, "{what}: the next request");
        assert!(in_quarantine(&mirror).is_empty(), "{what}");
    }
}

#[tokio::test]
async fn a_wrong_bit_never_makes_a_whole_file() {
    for offset in [5, 3 * MIB + 7, SIZE - 1] {
        let s = setup().await;
        s.hub.fault("w.bin").on_cdn().times(1).flip(offset as u64);
        let mirror = Mirror::start(&s.hub).await;

        let first = mirror.get(FILE).await;
        assert!(
            !first.whole || first.status >= 500 || first.body == s.bytes,
            "bit at {offset}: a complete wrong file ({}, {} bytes)",
            first.status,
            first.body.len()
        );
        assert_eq!(in_quarantine(&mirror).len(), 1, "bit at {offset}");
        assert_eq!(mirror.metrics().await.of("dingospeed_objects_broken_total"), 1.0);
        assert_right(&mirror.get(FILE).await, &s.bytes);
        assert_eq!(in_quarantine(&mirror).len(), 1, "bit at {offset}");
    }
}

#[tokio::test]
async fn expired_signatures_are_asked_for_anew() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let head = mirror.get_range(FILE, "bytes=0-9").await;
    assert_eq!(head.status, 206);

    s.hub.expire_signatures();
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn a_503_from_the_cdn_or_the_hub_is_tried_again() {
    let s = setup().await;
    let cdn = s.hub.fault("w.bin").on_cdn().times(1).status(503, &[]);
    let hub = s.hub.fault("/resolve/main/w.bin").on_hub().times(1).status(503, &[]);
    let mirror = Mirror::start(&s.hub).await;

    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!((cdn.hits(), hub.hits()), (1, 1));
}

#[tokio::test]
async fn silence_counts_as_a_break() {
    for after in [None, Some(1_700_000)] {
        let s = setup().await;
        let fault = s.hub.fault("w.bin").on_cdn().times(1);
        match after {
            None => fault.hang_before_head(),
            Some(bytes) => fault.hang_after(bytes),
        };
        let mirror = Mirror::of(&s.hub).set("upstream.read_timeout", "1s").start().await;
        let answer = tokio::time::timeout(Duration::from_secs(20), mirror.get(FILE)).await;
        assert_right(&answer.expect("an end within 20 s"), &s.bytes);
    }
}

#[tokio::test]
async fn a_redirect_to_a_foreign_host_is_not_followed() {
    let s = setup().await;
    s.hub.fault("/resolve/main/w.bin").on_hub().redirect_to("https://evil.example.com/w.bin");
    let mirror = Mirror::start(&s.hub).await;
    let answer = mirror.get(FILE).await;
    let said = assert_refused(&answer);
    assert_eq!(answer.status, 501, "{said}");
    assert!(said.contains("upstream.allowed_hosts") && said.contains("evil.example.com"), "{said}");
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let s = setup().await;
    s.hub.fault("/resolve/main/w.bin").on_hub().redirect_loop();
    let mirror = Mirror::start(&s.hub).await;
    assert_refused(&mirror.get(FILE).await);
    assert!(s.hub.resolver_calls().len() < 50, "bounded");
}

#[tokio::test]
async fn without_upstream_a_cold_file_is_a_true_5xx() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    s.hub.down().await;
    for answer in [mirror.get(FILE).await, mirror.head(FILE).await] {
        assert_refused(&answer);
    }
    s.hub.up().await;
    assert_right(&mirror.get(FILE).await, &s.bytes);

    // What is whole is served without upstream.
    s.hub.down().await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn a_cdn_that_is_down_before_the_first_byte_is_a_true_5xx() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    s.hub.cdn_down().await;
    assert_eq!(mirror.head(FILE).await.status, 200, "the Hub still answers");
    assert_refused(&mirror.get(FILE).await);
}

#[tokio::test]
async fn an_upstream_that_goes_mid_body_cuts_the_client() {
    let s = setup().await;
    let gate = s.hub.fault("w.bin").on_cdn().hold_after((MIB + MIB / 2) as u64);
    let mirror = Mirror::start(&s.hub).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    let (status, headers) = connection.head("GET").await.expect("an answer");
    assert_eq!(status, 200);
    assert_eq!(headers["content-length"], SIZE.to_string());
    assert!(connection.read_body(MIB as u64).await >= MIB as u64);
    gate.wait_reached().await;
    s.hub.down().await;
    assert!(connection.is_cut().await, "the body must not end cleanly");
}

#[tokio::test]
async fn a_block_that_rotted_on_disk_is_fetched_again() {
    let s = setup().await;
    let mut mirror = Mirror::start(&s.hub).await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    mirror.stop().await;

    let blob = mirror.repos().join("blobs").join(&s.oid[..2]).join(&s.oid);
    let mut kept = std::fs::read(&blob).expect("the block file");
    let (mark, in_file) = (&s.bytes[3 * MIB + 100..3 * MIB + 132], kept.clone());
    let at = in_file.windows(32).position(|window| window == mark).expect("the payload is stored as it is");
    kept[at] ^= 1;
    std::fs::write(&blob, kept).expect("write the block file");

    s.hub.clear_log();
    mirror.restart().await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!(s.hub.cdn_bytes(), MIB as u64, "one block, no more");
    let broken = mirror.metrics().await.of("dingospeed_blocks_broken_total");
    assert_eq!(broken, 1.0);
    s.hub.down().await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

/// Upstream's words for a file in a HEAD, with the size and id that we choose.
fn announce(hub: &FakeHub, target: &str, oid: &str, size: usize, commit: &str) {
    let (etag, size) = (format!("\"{oid}\""), size.to_string());
    let location = format!("{}/nowhere", hub.cdn_url());
    let headers = [
        ("X-Linked-Etag", etag.as_str()),
        ("X-Linked-Size", size.as_str()),
        ("X-Repo-Commit", commit),
        ("Location", location.as_str()),
    ];
    hub.fault(target).on_hub().status(302, &headers);
}

#[tokio::test]
async fn another_size_for_a_known_object_is_refused_and_not_cut_to_fit() {
    let s = setup().await;
    let other = s.hub.model("acme/other").lfs("w.bin", &s.bytes).commit("the same content");
    for size in [SIZE - MIB, SIZE + MIB, 0] {
        announce(&s.hub, "/acme/other/resolve/main/w.bin", &s.oid, size, &other.sha());
        let mirror = Mirror::start(&s.hub).await;
        assert_right(&mirror.get(FILE).await, &s.bytes);

        let answer = mirror.get("/acme/other/resolve/main/w.bin").await;
        assert_refused(&answer);
        assert_right(&mirror.get(FILE).await, &s.bytes);
        s.hub.clear_faults();
        // Nor does it stand for ever.
        becomes_right(&mirror, "/acme/other/resolve/main/w.bin", &s.bytes).await;
    }
}

/// Upstream's last answers are used for two seconds.
async fn becomes_right(mirror: &Mirror, target: &str, bytes: &[u8]) {
    let mut answer = mirror.get(target).await;
    for _ in 0..30 {
        if answer.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        answer = mirror.get(target).await;
    }
    assert_right(&answer, bytes);
}

#[tokio::test]
async fn one_lie_about_a_file_does_not_lose_the_truth() {
    let s = setup().await;
    let commit = s.hub.model("acme/large").sha();
    let mirror = Mirror::of(&s.hub).set("upstream.patience", "1s").start().await;
    let before = mirror.head(FILE).await;
    assert_eq!(before.status, 200);
    // Where the bytes are asked for, which is at the commit, once the URL that came with the first answer is of no use.
    s.hub.expire_signatures();
    announce(&s.hub, &format!("/acme/large/resolve/{commit}/w.bin"), &"ab".repeat(32), SIZE, &commit);
    let answer = mirror.get(FILE).await;
    assert!(answer.status >= 500 || !answer.whole, "{answer:.0?}");
    assert!(mirror.log().contains("doubts what"), "{}", mirror.log());
    s.hub.clear_faults();
    // The truth still serves when there is nobody to ask.
    s.hub.down().await;
    let after = mirror.head(FILE).await;
    assert_eq!((after.status, after.header("x-linked-etag")), (200, before.header("x-linked-etag")), "{}", mirror.log());
    s.hub.up().await;
    becomes_right(&mirror, FILE, &s.bytes).await;
}

#[tokio::test]
async fn a_second_size_does_not_disturb_what_is_being_fetched() {
    let s = setup().await;
    let gate = s.hub.fault("w.bin").on_cdn().times(1).hold_after((2 * MIB) as u64);
    let mirror = Mirror::of(&s.hub).set("upstream.patience", "2s").start().await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    let mut got = connection.piece().await.expect("no cut").expect("a first piece").to_vec();
    gate.wait_reached().await;
    for (name, size) in [("shorter", SIZE - MIB), ("longer", SIZE + MIB)] {
        let other = s.hub.model(&format!("acme/{name}")).lfs("w.bin", &s.bytes).commit("the same content");
        let target = format!("/acme/{name}/resolve/main/w.bin");
        announce(&s.hub, &target, &s.oid, size, &other.sha());
        assert_refused(&mirror.get(&target).await);
    }
    gate.release();
    while let Some(piece) = connection.piece().await.expect("no cut") {
        got.extend_from_slice(&piece);
    }
    assert!(got == s.bytes, "{} bytes", got.len());
    assert!(in_quarantine(&mirror).is_empty());
    let wasted = s.hub.cdn_bytes() - SIZE as u64;
    assert!(wasted < MIB as u64, "{wasted} bytes came twice");
    s.hub.clear_log();
    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!(s.hub.cdn_bytes(), 0, "kept");
}

/// A part of the object, kept at some size: the first bytes are right, and so is each checksum.
fn keep_a_block(s: &Setup, folder: &std::path::Path, size: usize) {
    let options = dingospeed::store::StoreOptions { block_size: MIB as u64 };
    let store = dingospeed::store::Store::open(folder, options).expect("a store");
    let object = store.object(&dingospeed::hub::Oid::parse(&s.oid).expect("an oid"), size as u64).expect("a new object");
    object.write(0, &s.bytes[..MIB]).expect("a write");
    object.publish(0, crc32c::crc32c(&s.bytes[..MIB])).expect("a block");
}

#[tokio::test]
async fn a_wrong_size_that_came_first_gives_way_to_parts_that_come_again_and_again() {
    let s = setup().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    keep_a_block(&s, folder.path(), SIZE + 2 * MIB);
    let mirror = Mirror::of(&s.hub).repos(folder.path()).start().await;
    for _ in 0..3 {
        let part = mirror.get_range(FILE, "bytes=3000000-3000999").await;
        assert!(part.status == 206 && part.whole && part.body == s.bytes[3_000_000..3_001_000], "{part:.0?}");
    }
    mirror.wait_log("set aside file=").await;
    assert_eq!(mirror.get_range(FILE, "bytes=3000000-3000999").await.body, s.bytes[3_000_000..3_001_000]);
    s.hub.clear_log();
    assert_eq!(mirror.get_range(FILE, "bytes=3000000-3000999").await.body, s.bytes[3_000_000..3_001_000]);
    assert_eq!(s.hub.cdn_bytes(), 0, "kept");
}

/// Or whoever can announce a size could throw away what others fetched.
#[tokio::test]
async fn what_is_kept_in_part_does_not_give_way_to_a_size_that_is_only_announced() {
    let s = setup().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    keep_a_block(&s, folder.path(), SIZE);
    let other = s.hub.model("acme/other").lfs("w.bin", &s.bytes).commit("the same content");
    announce(&s.hub, "/acme/other/resolve/", &s.oid, SIZE + MIB, &other.sha());
    let mirror = Mirror::of(&s.hub).repos(folder.path()).set("upstream.patience", "0s").start().await;
    for _ in 0..5 {
        // Refused, until the lie is found out elsewhere.
        let part = mirror.get_range("/acme/other/resolve/main/w.bin", "bytes=3000000-3000999").await;
        assert!(part.status >= 500 || part.body == s.bytes[3_000_000..3_001_000], "{part:.0?}");
    }
    assert!(in_quarantine(&mirror).is_empty());
    s.hub.clear_log();
    assert_eq!(mirror.get_range(FILE, "bytes=100-199").await.body, s.bytes[100..200]);
    assert_eq!(s.hub.cdn_bytes(), 0, "kept");
}

#[tokio::test]
async fn what_is_wrong_and_cannot_be_set_aside_is_served_past_the_disk() {
    let s = setup().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    {
        // Wrong as a whole, though each block is as it was written.
        let options = dingospeed::store::StoreOptions { block_size: MIB as u64 };
        let store = dingospeed::store::Store::open(folder.path(), options).expect("a store");
        let object = store.object(&dingospeed::hub::Oid::parse(&s.oid).expect("an oid"), SIZE as u64).expect("a new object");
        for (block, bytes) in s.bytes.chunks(MIB).enumerate() {
            let mut bytes = bytes.to_vec();
            bytes[7] ^= u8::from(block == 2);
            object.write((block * MIB) as u64, &bytes).expect("a write");
            object.publish(block as u64, crc32c::crc32c(&bytes)).expect("a block");
        }
    }
    let mirror = Mirror::of(&s.hub).repos(folder.path()).start().await;
    let quarantine = folder.path().join("quarantine");
    std::fs::remove_dir(&quarantine).expect("an empty directory");
    std::fs::write(&quarantine, "in the way").expect("a file");
    let first = mirror.get(FILE).await;
    assert!(first.status >= 500 || !first.whole, "a complete wrong file");
    // Not only as often as an upstream may be wrong.
    for _ in 0..5 {
        assert_right(&mirror.get(FILE).await, &s.bytes);
        let part = mirror.get_range(FILE, "bytes=2097152-2097200").await;
        assert_eq!(part.body, s.bytes[2 * MIB..2 * MIB + 49]);
    }
    // Once it can be set aside, all is as ever.
    std::fs::remove_file(&quarantine).expect("a file");
    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!(in_quarantine(&mirror).len(), 1);
    s.hub.clear_log();
    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!(s.hub.cdn_bytes(), 0, "kept");
}

#[tokio::test]
async fn a_wrong_size_that_came_first_gives_way_to_the_proven_one() {
    let s = setup().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    keep_a_block(&s, folder.path(), SIZE + 2 * MIB);
    let mirror = Mirror::of(&s.hub).repos(folder.path()).start().await;
    // Which of the two is right is not known yet, so nothing is thrown away for a part.
    let part = mirror.get_range(FILE, "bytes=3000000-3000999").await;
    assert!(part.status == 206 && part.whole && part.body == s.bytes[3_000_000..3_001_000], "{part:.0?}");
    let set_aside = || folder.path().join("quarantine").read_dir().expect("a directory").count();
    assert_eq!(set_aside(), 0);
    assert_right(&mirror.get(FILE).await, &s.bytes);
    // Proven: what claimed to be longer goes, in the background, and the next one is kept.
    mirror.wait_log("set aside file=").await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    s.hub.clear_log();
    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!(s.hub.cdn_bytes(), 0, "kept");
}

#[tokio::test]
async fn a_lie_about_a_file_is_forgotten_when_its_bytes_contradict_it() {
    let s = setup().await;
    let commit = s.hub.model("acme/large").sha();
    let lies = [(s.oid.clone(), SIZE - MIB), (s.oid.clone(), SIZE + MIB), ("ab".repeat(32), SIZE)];
    for (oid, size) in lies {
        // Told once, and then no more: no listing and no later HEAD says so.
        announce(&s.hub, FILE, &oid, size, &commit);
        let mirror = Mirror::of(&s.hub).set("upstream.patience", "1s").start().await;
        assert_eq!(mirror.head(FILE).await.status, 200);
        s.hub.clear_faults();
        let first = mirror.get(FILE).await;
        assert!(first.status >= 500 || !first.whole || first.body == s.bytes, "a wrong file ({oid}, {size})");
        becomes_right(&mirror, FILE, &s.bytes).await;
    }
}

#[tokio::test]
async fn a_file_announced_as_empty_is_not_believed() {
    let s = setup().await;
    let commit = s.hub.model("acme/large").sha();
    announce(&s.hub, FILE, &s.oid, 0, &commit);
    let mirror = Mirror::start(&s.hub).await;
    assert_refused(&mirror.head(FILE).await);
    assert_refused(&mirror.get(FILE).await);
    s.hub.clear_faults();
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn an_upstream_that_always_lies_is_given_up_and_fills_no_disk() {
    let s = setup().await;
    s.hub.fault("w.bin").on_cdn().flip(4_000_000);
    let mirror = Mirror::start(&s.hub).await;
    for _ in 0..4 {
        let answer = mirror.get(FILE).await;
        assert!(!answer.whole || answer.status >= 500, "a complete wrong file");
    }
    assert_eq!(in_quarantine(&mirror).len(), 1, "one copy is evidence enough");
    let fetched = s.hub.cdn_bytes();
    let answer = mirror.get(FILE).await;
    let said = assert_refused(&answer);
    assert!(said.contains(&s.oid), "{said}");
    assert_eq!(s.hub.cdn_bytes(), fetched, "not fetched again for a while");
}

#[tokio::test]
async fn an_unjudged_object_is_judged_before_it_ends() {
    let s = setup().await;
    let mut mirror = Mirror::start(&s.hub).await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    mirror.stop().await;

    // What a process leaves that ends between the last block and the verdict: all blocks, without the mark.
    let blob = mirror.repos().join("blobs").join(&s.oid[..2]).join(&s.oid);
    let mut kept = std::fs::read(&blob).expect("the block file");
    let opened = dingospeed::store::BlockFile::open(
        std::fs::File::open(&blob).expect("the block file"),
        &dingospeed::hub::Oid::parse(&s.oid).expect("an oid"),
    );
    let header = match opened.expect("a block file") {
        dingospeed::store::block_file::Opened::Ours(file) => *file.header(),
        _ => panic!("not ours"),
    };
    let flags = header.flags_offset() as usize;
    kept[flags..flags + 8].fill(0);
    std::fs::write(&blob, kept).expect("write the block file");

    s.hub.clear_log();
    mirror.restart().await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    assert_eq!(s.hub.cdn_bytes(), 0);
    assert_eq!(mirror.metrics().await.of("dingospeed_objects_verified_total"), 1.0);
}

#[tokio::test]
async fn a_silent_hub_does_not_hold_up_what_is_kept() {
    let s = setup().await;
    let mut mirror = Mirror::of(&s.hub)
        .set("freshness.revision", "0s")
        .set("freshness.access", "0s")
        .set("upstream.read_timeout", "60s")
        .start()
        .await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    let info = mirror.get("/api/models/acme/large").await;
    assert_eq!(info.status, 200);
    for _ in 0..2 {
        s.hub.fault("acme/large").on_hub().hang_before_head();
        for target in [FILE, "/api/models/acme/large"] {
            // Clients give up after 10 s without a byte.
            let answer = tokio::time::timeout(Duration::from_secs(10), mirror.get(target)).await;
            let answer = answer.unwrap_or_else(|_| panic!("{target} took more than 10 s"));
            assert_eq!(answer.status, 200, "{}", message(&answer));
        }
        // And again after a restart, from the disk alone.
        s.hub.clear_faults();
        mirror.restart().await;
    }
}

#[tokio::test]
async fn a_long_fill_leaves_turns_to_others() {
    let s = setup().await;
    s.hub.model("acme/long").synthetic("long.bin", 24 * MIB as u64, 5).commit("first");
    s.hub.fault("long.bin").on_cdn().rate(1 << 20);
    let mirror = Mirror::of(&s.hub).set("fetch.connections", 2).set("fetch.run_size", "1MiB").start().await;
    let mut slow = mirror.connect().await;
    slow.ask("GET", "/acme/long/resolve/main/long.bin", &[]).await;
    assert_eq!(slow.head("GET").await.expect("an answer").0, 200);

    assert_right(&mirror.get(FILE).await, &s.bytes);

    let runs = s.hub.fetched("long.bin");
    assert!(runs < 20, "the long file came first: {runs} of its 24 runs");
}

/// Damages a byte of the kept object, and drops it from the page cache.
fn rot(mirror: &Mirror, oid: &str, content: &[u8], offset: usize) {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    let blob = mirror.repos().join("blobs").join(&oid[..2]).join(oid);
    let kept = std::fs::read(&blob).expect("the block file");
    let mark = &content[offset..offset + 32];
    let at = kept.windows(32).position(|window| window == mark).expect("the payload is stored as it is");
    let file = std::fs::File::options().write(true).open(&blob).expect("the block file");
    file.write_all_at(&[kept[at] ^ 1], at as u64).expect("a write");
    file.sync_all().expect("a sync");
    // SAFETY: takes an open descriptor and no pointer.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Has a mirror that ends what was wished for fetch 16 MiB. Blocks that are proven and hashed as they come, and that no client
/// reads: a page that is in use would not leave the memory.
async fn fill_unread(mirror: &Mirror) {
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[&format!("Range: bytes=0-{}", 16 * MIB - 1)]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 206);
    drop(connection);
    let mut tries = 0;
    while mirror.metrics().await.of("dingospeed_blocks_filled_total") < 16.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tries += 1;
        assert!(tries < 400, "the wish of a client that left is fulfilled");
    }
}

#[tokio::test]
async fn what_is_fetched_again_for_rot_is_in_the_verdict() {
    let hub = FakeHub::start().await;
    let bytes = noise(17, 24 * MIB);
    let oid = hub.model("acme/large").lfs("w.bin", &bytes).commit("first").oid("w.bin");
    let mirror = Mirror::of(&hub).set("fetch.when_client_leaves", "finish_request").start().await;
    fill_unread(&mirror).await;
    rot(&mirror, &oid, &bytes, 14 * MIB + 100);

    // It comes again, wrong.
    let flip = hub.fault("w.bin").on_cdn().times(1).flip(14 * MIB as u64 + 5);
    let answer = mirror.get(FILE).await;
    assert_eq!(flip.hits(), 1, "the rotten block was fetched again");
    assert!(!answer.whole || answer.body == bytes, "a complete wrong file");
    let answer = mirror.get(FILE).await;
    assert_right(&answer, &bytes);
}

#[tokio::test]
async fn what_verify_brings_back_into_memory_is_not_taken_for_proven() {
    let hub = FakeHub::start().await;
    let bytes = noise(19, 24 * MIB);
    let oid = hub.model("acme/large").lfs("w.bin", &bytes).commit("first").oid("w.bin");
    let mirror = Mirror::of(&hub).set("fetch.when_client_leaves", "finish_request").start().await;
    fill_unread(&mirror).await;
    // One block alone: the first that is found broken makes the mirror doubt all.
    rot(&mirror, &oid, &bytes, 15 * MIB + 9);
    let repos = mirror.repos().display().to_string();
    let (code, _, said) = crate::harness::dingospeed(&["verify", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(1), "it finds it: {said}");
    let part = mirror.get_range(FILE, &format!("bytes={}-{}", 15 * MIB, 16 * MIB - 1)).await;
    assert!(part.status == 206 && part.whole && part.body == bytes[15 * MIB..16 * MIB], "{}", part.status);
}

#[tokio::test]
async fn rot_that_the_verdict_finds_ahead_of_a_reader_is_fetched_for_it() {
    let hub = FakeHub::start().await;
    let bytes = noise(18, 48 * MIB);
    let oid = hub.model("acme/large").lfs("w.bin", &bytes).commit("first").oid("w.bin");
    let mut mirror = Mirror::start(&hub).await;
    assert_right(&mirror.get(FILE).await, &bytes);
    mirror.stop().await;
    rot(&mirror, &oid, &bytes, 2 * MIB + 100);
    rot(&mirror, &oid, &bytes, 45 * MIB + 100);
    mirror.restart().await;
    // Far more than what lies between the mirror and a client that does not read on.
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    let mut tries = 0;
    while mirror.metrics().await.of("dingospeed_blocks_broken_total") < 2.0 {
        assert!(tries < 400, "what was fetched again asks for a new verdict on the whole");
        connection.read_body(MIB as u64 / 64).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        tries += 1;
    }
    assert!(!connection.is_cut().await, "and all of it comes");
    assert_right(&mirror.get(FILE).await, &bytes);
}

#[tokio::test]
async fn a_file_that_was_cut_gives_no_zeros() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let blob = mirror.repos().join("blobs").join(&s.oid[..2]).join(&s.oid);
    for len in [0, 4096, MIB + 77, 3 * MIB, SIZE - 5] {
        assert_right(&mirror.get(FILE).await, &s.bytes);
        let file = std::fs::File::options().write(true).open(&blob).expect("the block file");
        file.set_len(len as u64).expect("a shorter file");
        // In parts as short as one page and from the end backwards, beside a whole.
        let whole = mirror.get(FILE);
        let parts = async {
            for start in (0..SIZE).step_by(MIB / 4 + 4096).rev() {
                let end = (start + 4095).min(SIZE - 1);
                let part = mirror.get_range(FILE, &format!("bytes={start}-{end}")).await;
                assert!(part.status == 206 || part.status >= 500, "{}", part.status);
                assert!(!part.whole || part.status >= 500 || part.body == s.bytes[start..=end], "cut to {len}, wrong at {start}");
            }
        };
        let (whole, ()) = tokio::join!(whole, parts);
        assert!(!whole.whole || whole.status >= 500 || whole.body == s.bytes, "cut to {len}: {}", whole.status);
        file.sync_all().expect("a sync");
    }
}

#[tokio::test]
async fn one_callers_bad_token_is_not_the_others_trouble() {
    let s = setup().await;
    let mirror = std::sync::Arc::new(Mirror::start(&s.hub).await);
    // Its facts are known and the repo is known to be open; its bytes are not here.
    assert_eq!(mirror.head(FILE).await.status, 200);
    s.hub.fault("/resolve/").on_hub().latency(Duration::from_millis(400));
    let bad = {
        let mirror = mirror.clone();
        tokio::spawn(async move { mirror.ask("GET", FILE, &["Authorization: Bearer expired"]).await })
    };
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    let bad = bad.await.expect("no panic");
    assert_right(&bad, &s.bytes);
}

#[tokio::test]
async fn a_short_outage_is_only_a_pause() {
    let s = setup().await;
    s.hub.fault("w.bin").on_cdn().rate(2 << 20);
    let mirror = Mirror::of(&s.hub).set("fetch.connections_per_object", 2).start().await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    let mut got = connection.piece().await.expect("bytes").expect("bytes").to_vec();
    s.hub.clear_faults();
    let outage = s.hub.fault("w.bin").on_cdn().status(503, &[]);
    s.hub.fault("w.bin").on_cdn().cut_after(0);
    let lift = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        s.hub.clear_faults();
    };
    let read = async {
        while let Some(piece) = connection.piece().await.expect("no cut") {
            got.extend_from_slice(&piece);
        }
        got
    };
    let (got, ()) = tokio::join!(read, lift);
    assert!(got == s.bytes, "{} bytes", got.len());
    let _ = outage;
}

#[tokio::test]
async fn a_hung_flight_does_not_keep_others_of_its_object_waiting() {
    let s = setup().await;
    s.hub.model("acme/other").synthetic("slow.bin", 4 * MIB as u64, 9).commit("first");
    let mirror =
        std::sync::Arc::new(Mirror::of(&s.hub).set("fetch.connections", 2).set("upstream.read_timeout", "30s").start().await);
    assert_eq!(mirror.head(FILE).await.status, 200);
    let hang = s.hub.fault("w.bin").on_cdn().times(1).hang_after(10);
    s.hub.fault("slow.bin").on_cdn().rate(1 << 20);
    let hung = {
        let mirror = mirror.clone();
        tokio::spawn(async move { mirror.get_range(FILE, "bytes=0-1000").await })
    };
    while hang.hits() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let slow = {
        let mirror = mirror.clone();
        tokio::spawn(async move { mirror.get("/acme/other/resolve/main/slow.bin").await })
    };
    s.hub
        .wait_calls("the slow file", |calls| calls.iter().any(|call| call.file.as_deref().is_some_and(|f| f.contains("slow"))))
        .await;
    // Both turns are taken; the next one that comes free is this one's, long before the hung one gives up.
    let began = std::time::Instant::now();
    let range = format!("bytes={}-{}", 5 * MIB, 5 * MIB + 99);
    let part = mirror.get_range(FILE, &range).await;
    assert!(part.status == 206 && part.body == s.bytes[5 * MIB..5 * MIB + 100], "{part:.0?}");
    assert!(began.elapsed() < Duration::from_secs(25), "it waited for the hung one");
    assert!(slow.await.expect("no panic").whole);
    hung.abort();
}

#[tokio::test]
async fn the_head_does_not_wait_for_a_slow_first_byte() {
    let s = setup().await;
    let gate = s.hub.fault("w.bin").on_cdn().hold();
    let mirror = Mirror::of(&s.hub).set("upstream.read_timeout", "60s").start().await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    // Clients give up after 10 s without a byte.
    let head = tokio::time::timeout(Duration::from_secs(10), connection.head("GET")).await.expect("a head within 10 s");
    assert_eq!(head.expect("an answer").0, 200);
    gate.release();
    assert_eq!(connection.read_body(u64::MAX).await, SIZE as u64);
}
