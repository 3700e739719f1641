//! A disk that is full or refuses: clients are served all the same, and caching goes on once it recovers.

use fake_hub::{FakeHub, noise};

use crate::harness::Mirror;

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
