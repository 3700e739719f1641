//! A disk that is full or refuses: clients are served all the same, and caching goes on once it recovers.

use fake_hub::{FakeHub, noise};

use crate::harness::{Mirror, dingospeed};

const MIB: usize = 1 << 20;
const SIZE: usize = 20 * MIB + 333;
const FILE: &str = "/acme/large/resolve/main/w.bin";
const SMALL: &str = "/acme/large/resolve/main/config.json";

async fn hub() -> (FakeHub, Vec<u8>) {
    let hub = FakeHub::start().await;
    let bytes = noise(31, SIZE).to_vec();
    hub.model("acme/large").lfs("w.bin", &bytes).file("config.json", "{}").file("empty", "").commit("first");
    (hub, bytes)
}

/// Bounds the size of the files that the mirror may write: a full disk, as far as it can tell.
fn limit_file_size(mirror: &Mirror, len: u64) {
    let limit = libc::rlimit { rlim_cur: len, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a plain system call on our own child; the kernel reads `limit` and writes nothing.
    let status = unsafe { libc::prlimit(mirror.pid() as libc::pid_t, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

#[tokio::test]
async fn what_cannot_be_created_is_served_through() {
    let (hub, bytes) = hub().await;
    let mirror = Mirror::start(&hub).await;
    let blobs = mirror.repos().join("blobs");
    std::fs::remove_dir_all(&blobs).expect("no objects yet");
    std::fs::write(&blobs, "in the way").expect("a file in place of the directory");

    for _ in 0..2 {
        let answer = mirror.get(FILE).await;
        assert!(answer.status == 200 && answer.whole && answer.body == bytes, "{answer:.0?}");
        assert_eq!(mirror.get(SMALL).await.body, "{}".as_bytes());
        assert_eq!(mirror.get("/acme/large/resolve/main/empty").await.status, 200);
        let part = mirror.get_range(FILE, "bytes=7000000-7000009,-5").await;
        assert_eq!(part.status, 206);
        let parts = String::from_utf8_lossy(&part.body);
        assert!(parts.contains(&format!("bytes 7000000-7000009/{SIZE}")), "{parts}");
    }
    assert!(mirror.metrics().await.of("dingospeed_served_through_total") > 0.0);
    assert!(mirror.log().contains("served past the disk"), "{}", mirror.log());

    std::fs::remove_file(&blobs).expect("out of the way");
    assert!(mirror.get(FILE).await.body == bytes);
    hub.clear_log();
    assert!(mirror.get(FILE).await.body == bytes);
    assert_eq!(hub.cdn_bytes(), 0, "kept again");
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_is_left_behind() {
    let (hub, bytes) = hub().await;
    let gate = hub.fault("w.bin").on_cdn().hold_after(2 * MIB as u64);
    let mut mirror = Mirror::start(&hub).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    gate.wait_reached().await;
    limit_file_size(&mirror, 3 * MIB as u64);
    gate.release();
    let mut got = Vec::new();
    while let Some(piece) = connection.piece().await.expect("no cut") {
        got.extend_from_slice(&piece);
    }
    assert!(got == bytes, "{} bytes", got.len());

    // The next one is spared the try.
    let answer = mirror.get(FILE).await;
    assert!(answer.whole && answer.body == bytes);
    let through = mirror.metrics().await.of("dingospeed_served_through_total");
    assert!(through >= 2.0, "{through}");

    // Nothing half-written counts, neither now nor after a restart.
    limit_file_size(&mirror, libc::RLIM_INFINITY);
    mirror.restart().await;
    assert!(mirror.get(FILE).await.body == bytes);
    hub.clear_log();
    assert!(mirror.get(FILE).await.body == bytes);
    assert_eq!(hub.cdn_bytes(), 0, "room came back, so it is kept");
}

#[tokio::test]
async fn wrong_bytes_do_not_slip_past_a_full_disk() {
    let (hub, bytes) = hub().await;
    hub.fault("w.bin").on_cdn().times(1).flip(17_000_000);
    let mirror = Mirror::start(&hub).await;
    limit_file_size(&mirror, MIB as u64);
    let answer = mirror.get(FILE).await;
    assert!(!answer.whole, "a complete wrong file");
    let answer = mirror.get(FILE).await;
    assert!(answer.whole && answer.body == bytes);
}

/// A file as DingoSpeed writes it: version 8, a mask of one bit per block in a fixed 128 KiB, then the blocks.
fn dingospeed_file(block_size: u64, content: &[u8]) -> Vec<u8> {
    let mut file = b"OLAH".to_vec();
    for word in [8, block_size, content.len() as u64, 0x10_0000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    let mut mask = vec![0; 0x10_0000 / 8];
    for block in 0..content.len().div_ceil(block_size as usize) {
        mask[block / 8] |= 1 << (block % 8);
    }
    file.extend_from_slice(&mask);
    file.extend_from_slice(content);
    // Its last block is as long as the others.
    let padding = content.len().next_multiple_of(block_size as usize) - content.len();
    file.resize(file.len() + padding, 0);
    file
}

#[tokio::test]
async fn a_file_of_dingospeeds_is_served_once_it_is_proven() {
    let (hub, bytes) = hub().await;
    let oid = hub.model("acme/large").oid("w.bin");
    for (damaged, fetched) in [(false, 0), (true, SIZE as u64)] {
        let mut kept = dingospeed_file(8 << 20, &bytes);
        if damaged {
            let at = kept.len() / 2;
            kept[at] ^= 1;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        let dir = folder.path().join("blobs").join(&oid[..2]);
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join(&oid), kept).expect("a file");
        let mirror = Mirror::of(&hub).repos(folder.path()).start().await;
        hub.clear_log();
        // Many at once: it is hashed once for all.
        let answers = four_at_once(&mirror).await;
        for answer in answers {
            assert!(answer.status == 200 && answer.whole && answer.body == bytes, "{answer:.0?}");
        }
        assert_eq!(hub.cdn_bytes(), fetched);
        assert_eq!(folder.path().join("quarantine").read_dir().expect("a directory").count() > 0, damaged);
    }
}

async fn four_at_once(mirror: &Mirror) -> [crate::harness::Response; 4] {
    let (a, b, c, d) = tokio::join!(mirror.get(FILE), mirror.get(FILE), mirror.get(FILE), mirror.get(FILE));
    [a, b, c, d]
}

#[tokio::test]
async fn wrong_bytes_do_not_slip_past_a_limit_in_the_middle() {
    let (hub, bytes) = hub().await;
    // Kept before the limit is reached, and never fetched again.
    let flip = hub.fault("w.bin").on_cdn().times(1).flip(1_000_000);
    let mirror = Mirror::of(&hub).set("eviction.max_size", "9MiB").start().await;
    let answer = mirror.get(FILE).await;
    assert_eq!(flip.hits(), 1);
    assert!(!answer.whole, "a complete wrong file");
    let answer = mirror.get(FILE).await;
    assert!(answer.whole && answer.body == bytes, "the wrong blocks went");
}

#[tokio::test]
async fn what_is_removed_while_it_is_read_is_read_to_its_end() {
    let (hub, bytes) = hub().await;
    let slow = hub.fault("w.bin").on_cdn().rate(4 << 20);
    let mirror = Mirror::start(&hub).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    let mut got = connection.piece().await.expect("no cut").expect("a first piece").to_vec();
    let repos = mirror.repos().display().to_string();
    let (code, stderr, _) = dingospeed(&["rm", "acme/large", "--yes", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    slow.lift();
    let rest = async {
        while let Some(piece) = connection.piece().await.expect("no cut") {
            got.extend_from_slice(&piece);
        }
        got
    };
    let got = tokio::time::timeout(std::time::Duration::from_secs(40), rest).await.expect("an end");
    assert!(got == bytes);
}

#[tokio::test]
async fn slow_readers_past_the_disk_leave_turns_to_others() {
    let (hub, bytes) = hub().await;
    let mirror = Mirror::of(&hub).set("fetch.connections", 2).start().await;
    limit_file_size(&mirror, MIB as u64);
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut connection = mirror.connect().await;
        connection.ask("GET", FILE, &[]).await;
        slow.push(connection);
    }
    while mirror.metrics().await.of("dingospeed_served_through_total") < 4.0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let answer = tokio::time::timeout(std::time::Duration::from_secs(60), mirror.get(FILE)).await.expect("an end");
    assert!(answer.whole && answer.body == bytes, "{answer:.0?}");
    // And those who were slow get theirs.
    let mut first = slow.swap_remove(0);
    let first = first.response("GET").await;
    assert!(first.whole && first.body == bytes, "{first:.0?}");
}

#[tokio::test]
async fn a_file_that_was_cut_short_is_found_and_mended() {
    let (hub, bytes) = hub().await;
    let oid = hub.model("acme/large").oid("w.bin");
    let mut mirror = Mirror::start(&hub).await;
    assert!(mirror.get(FILE).await.body == bytes);
    mirror.stop().await;
    let blob = mirror.repos().join("blobs").join(&oid[..2]).join(&oid);
    std::fs::File::options().write(true).open(&blob).expect("the file").set_len(5 * MIB as u64).expect("cut short");
    let repos = mirror.repos().display().to_string();
    let (code, stderr, stdout) = dingospeed(&["verify", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(1), "{stderr}{stdout}");
    mirror.restart().await;
    assert!(mirror.get(FILE).await.body == bytes);
    hub.clear_log();
    assert!(mirror.get(FILE).await.body == bytes);
    assert_eq!(hub.cdn_bytes(), 0, "kept again");
    let (code, stderr, stdout) = dingospeed(&["verify", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}{stdout}");
}

#[tokio::test]
async fn few_descriptors_are_enough() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/many");
    for n in 0..300 {
        repo.file(&format!("f{n}"), format!("content {n}"));
    }
    repo.commit("first");
    let mirror = Mirror::start(&hub).await;
    // The soft limit as the mirror found it is what it divides; so it is told at the start.
    let mut limited = Mirror::of(&hub).few_files(300).start().await;
    drop(mirror);
    for n in 0..300 {
        let answer = limited.get(&format!("/acme/many/resolve/main/f{n}")).await;
        assert_eq!((answer.status, answer.text()), (200, format!("content {n}")));
    }
    assert_eq!(limited.get("/metrics").await.status, 200);
    limited.stop().await;
}
