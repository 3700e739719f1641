//! Eviction in a running mirror: each strategy takes what it names, what is pinned or in use stays, and what went comes again.

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fake_hub::{FakeHub, noise};

use crate::harness::{Mirror, MirrorOptions, dingospeed};

const MIB: usize = 1 << 20;

/// Three repos with a file each.
struct Setup {
    hub: FakeHub,
    files: Vec<(String, Vec<u8>, String)>,
    folder: tempfile::TempDir,
}

async fn setup(mib: [usize; 3]) -> Setup {
    let hub = FakeHub::start().await;
    let mut files = Vec::new();
    for (seed, (name, mib)) in (40..).zip(["a", "b", "c"].into_iter().zip(mib)) {
        let bytes = noise(seed, mib * MIB).to_vec();
        let repo = hub.model(&format!("acme/{name}")).lfs("w.bin", &bytes).commit("first");
        files.push((format!("/acme/{name}/resolve/main/w.bin"), bytes, repo.oid("w.bin")));
    }
    Setup { hub, files, folder: tempfile::tempdir().expect("a temporary directory") }
}

impl Setup {
    fn repos(&self) -> PathBuf {
        self.folder.path().join("repos")
    }

    fn blob(&self, index: usize) -> PathBuf {
        let oid = &self.files[index].2;
        self.repos().join("blobs").join(&oid[..2]).join(oid)
    }

    fn there(&self) -> Vec<bool> {
        (0..self.files.len()).map(|index| self.blob(index).exists()).collect()
    }

    async fn get(&self, mirror: &Mirror, index: usize) {
        let (target, bytes, _) = &self.files[index];
        let response = mirror.get(target).await;
        assert!(response.status == 200 && response.whole && response.body == *bytes, "{target}: {}", response.status);
    }

    /// Fetches all files through a mirror without limits, which is gone afterwards.
    async fn fill(&self) {
        let mut mirror = Mirror::of(&self.hub).repos(&self.repos()).start().await;
        for index in 0..self.files.len() {
            self.get(&mirror, index).await;
        }
        mirror.stop().await;
    }

    /// Makes it so many hours since a file was read and written. The next mirror looks at each file, as after a change by hand.
    fn age(&self, index: usize, read_hours: u64, written_hours: u64) {
        let _ = std::fs::remove_file(self.repos().join("ledger"));
        let ago = |hours| SystemTime::now() - Duration::from_secs(3600 * hours);
        let times = FileTimes::new().set_accessed(ago(read_hours)).set_modified(ago(written_hours));
        File::options().write(true).open(self.blob(index)).expect("a kept file").set_times(times).expect("its times are set");
    }
}

fn limited(hub: &FakeHub, repos: &Path, mib: usize) -> MirrorOptions {
    // What an object takes beside its content is a few KiB.
    let max_size = mib * MIB + MIB / 2;
    Mirror::of(hub).repos(repos).set("eviction.max_size", max_size).set("eviction.low_water", 100).set("eviction.interval", "1s")
}

async fn takes(strategy: &str, expected: [bool; 3]) {
    let setup = setup([2, 1, 3]).await;
    setup.fill().await;
    setup.age(0, 9, 2);
    setup.age(1, 2, 9);
    setup.age(2, 3, 3);
    let mirror = limited(&setup.hub, &setup.repos(), 5).set("eviction.strategy", strategy).start().await;
    mirror.wait_log("evicted objects=1 ").await;
    mirror.wait_log("removed links=1 ").await;
    assert_eq!(setup.there(), expected, "{strategy}");
    let metrics = mirror.metrics().await;
    assert_eq!(metrics.of("dingospeed_evicted_objects_total{reason=\"max_size\"}"), 1.0);
    assert!(metrics.of("dingospeed_evicted_bytes_total{reason=\"max_size\"}") >= MIB as f64);

    // What went is fetched again; what stayed is not.
    let (fetched, lost) = (setup.hub.cdn_bytes(), expected.iter().position(|there| !there).expect("one went"));
    for index in (0..3).filter(|index| *index != lost) {
        setup.get(&mirror, index).await;
    }
    assert_eq!(setup.hub.cdn_bytes(), fetched);
    setup.get(&mirror, lost).await;
    assert_eq!(setup.hub.cdn_bytes(), fetched + setup.files[lost].1.len() as u64);
    assert!(setup.hub.leaks().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lru_takes_what_was_read_longest_ago() {
    takes("lru", [false, true, true]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifo_takes_what_arrived_first() {
    takes("fifo", [true, false, true]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_first_takes_the_largest() {
    takes("large_first", [true, true, false]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_read_survives_the_restart_and_a_head_is_none() {
    let setup = setup([1, 1, 1]).await;
    setup.fill().await;
    (0..3).for_each(|index| setup.age(index, 9 - index as u64, 9));
    let mut mirror = Mirror::of(&setup.hub).repos(&setup.repos()).start().await;
    setup.get(&mirror, 0).await;
    assert_eq!(mirror.head(&setup.files[1].0).await.status, 200);
    mirror.stop().await;
    let mirror = limited(&setup.hub, &setup.repos(), 2).start().await;
    mirror.wait_log("evicted objects=1 ").await;
    assert_eq!(setup.there(), [true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_read_stays_until_it_was_read() {
    let setup = setup([40, 1, 1]).await;
    let mut mirror = limited(&setup.hub, &setup.repos(), 40).start().await;
    // More than the buffers of a connection hold.
    let (target, bytes, _) = &setup.files[0];
    let mut connection = mirror.connect().await;
    connection.ask("GET", target, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    let mut body = connection.piece().await.expect("not cut").expect("a first piece").to_vec();
    let mut tries = 0;
    while mirror.metrics().await.of("dingospeed_blocks_filled_total") < 40.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tries += 1;
        assert!(tries < 400, "all of it is fetched, though its client waits");
    }
    // Another one would need its room.
    setup.get(&mirror, 1).await;
    mirror.wait_log("all else is pinned or in use").await;
    assert!(setup.blob(0).exists());
    while let Some(piece) = connection.piece().await.expect("not cut") {
        body.extend_from_slice(&piece);
    }
    assert!(body == *bytes, "{} bytes", body.len());
    drop(connection);
    mirror.stop().await;

    let mirror = limited(&setup.hub, &setup.repos(), 0).start().await;
    let mut tries = 0;
    while setup.blob(0).exists() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tries += 1;
        assert!(tries < 200, "nobody reads it any more");
    }
    setup.get(&mirror, 0).await;
    setup.get(&mirror, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_until_it_is_unpinned() {
    let setup = setup([1, 1, 1]).await;
    setup.fill().await;
    let repos = setup.repos().display().to_string();
    let (code, stderr, stdout) = dingospeed(&["pin", "acme/a", "acme/b", "--repos", &repos], &[]).await;
    assert_eq!((code, stdout.as_str()), (Some(0), "pinned models/acme/a\npinned models/acme/b\n"), "{stderr}");
    let mirror = limited(&setup.hub, &setup.repos(), 0).start().await;
    mirror.wait_log("evicted objects=1 ").await;
    mirror.wait_log("pinned=2 ").await;
    assert_eq!(setup.there(), [true, true, false]);

    // Beside the running server, which looks again before each pass.
    let (code, stderr, _) = dingospeed(&["unpin", "acme/b", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    mirror.wait_log("pinned=1 ").await;
    assert_eq!(setup.there(), [true, false, false]);
    let (code, stderr, _) = dingospeed(&["unpin", "acme/b", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("models/acme/b is not pinned"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_nothing_is_evicted() {
    let setup = setup([1, 1, 1]).await;
    setup.fill().await;
    let mirror = limited(&setup.hub, &setup.repos(), 0).arg("--offline").start().await;
    let repos = setup.repos().display().to_string();
    let (code, stderr, stdout) = dingospeed(&["gc", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("no limit is passed"), "{stdout}");
    assert_eq!(setup.there(), [true, true, true]);
    setup.get(&mirror, 2).await;
}

/// More is asked for than fits, by many at once, while passes run as fast as they can: everybody gets the right bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_too_small_serves_right_bytes() {
    const FILES: u64 = 8;
    let hub = FakeHub::start().await;
    let mut files = Vec::new();
    for n in 0..FILES {
        let bytes = noise(70 + n, 2 * MIB + n as usize * 1000).to_vec();
        hub.model(&format!("acme/m{n}")).lfs("w.bin", &bytes).commit("first");
        files.push((format!("/acme/m{n}/resolve/main/w.bin"), bytes));
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mirror = limited(&hub, folder.path(), 5).start().await;
    let repos = folder.path().display().to_string();
    let (mirror, files) = (&mirror, &files);
    let client = |seed: u64| async move {
        // A walk of its own through the files, by a step that has no factor in common with their number.
        for step in 0..20 {
            let n = (seed + step * (2 * seed + 1)) % FILES;
            let (target, bytes) = &files[n as usize];
            let response = mirror.get(target).await;
            assert!(response.status == 200 && response.whole && response.body == *bytes, "{target}: {}", response.status);
        }
    };
    let keeper = async {
        for _ in 0..15 {
            let (_, stderr, stdout) = dingospeed(&["gc", "--repos", &repos], &[]).await;
            assert!(stdout.starts_with("evicted "), "{stderr}");
        }
    };
    tokio::join!(client(0), client(1), client(2), client(3), keeper);
    assert!(mirror.metrics().await.sum("dingospeed_evicted_objects_total") > 0.0);
    let (code, stderr, stdout) = dingospeed(&["verify", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}{stdout}");
}

#[tokio::test]
async fn what_does_not_fit_is_served_past_the_disk() {
    let s = setup([2, 20, 1]).await;
    let mirror = limited(&s.hub, &s.repos(), 6).start().await;
    s.get(&mirror, 0).await;
    // The whole of it arrives, and of what is kept nothing goes for it: it would not fit into all of the room.
    s.get(&mirror, 1).await;
    let kept = std::fs::metadata(s.blob(1)).map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512);
    assert!(kept < MIB as u64, "{kept} bytes of it are kept");
    let metrics = mirror.metrics().await;
    assert!(metrics.of("dingospeed_served_through_total") >= 1.0);
    assert_eq!((metrics.sum("dingospeed_evicted_objects_total"), metrics.of("dingospeed_disk_short")), (0.0, 0.0));
    // And the small ones are kept as before.
    s.get(&mirror, 2).await;
    s.hub.clear_log();
    s.get(&mirror, 2).await;
    s.get(&mirror, 0).await;
    assert_eq!(s.hub.cdn_bytes(), 0);
}

#[tokio::test]
async fn what_fits_is_kept_however_it_is_asked_for() {
    let s = setup([24, 1, 1]).await;
    let mirror = limited(&s.hub, &s.repos(), 30).start().await;
    let both = mirror.get_range(&s.files[0].0, "bytes=0-16777215,16777216-25165823").await;
    assert!(both.status == 206 && both.whole, "{}", both.status);
    s.hub.clear_log();
    s.get(&mirror, 0).await;
    assert_eq!((s.hub.cdn_bytes(), mirror.metrics().await.of("dingospeed_served_through_total")), (0, 0.0));
}

#[tokio::test]
async fn nothing_goes_for_what_upstream_does_not_give() {
    let s = setup([4, 4, 1]).await;
    let mirror = limited(&s.hub, &s.repos(), 6).start().await;
    s.get(&mirror, 0).await;
    let hangs = s.hub.fault("acme/b").on_cdn().hang_before_head();
    let mut connection = mirror.connect().await;
    connection.ask("GET", &s.files[1].0, &[]).await;
    while hangs.hits() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let metrics = mirror.metrics().await;
    assert_eq!((metrics.sum("dingospeed_evicted_objects_total"), metrics.of("dingospeed_disk_short")), (0.0, 0.0));
    assert!(s.there()[0]);
}

#[tokio::test]
async fn parts_of_what_does_not_fit_are_kept_where_there_is_room() {
    let s = setup([3, 20, 1]).await;
    let mirror = limited(&s.hub, &s.repos(), 6).start().await;
    s.get(&mirror, 0).await;
    let part = async |mib: usize| {
        let answer = mirror.get_range(&s.files[1].0, &format!("bytes={}-{}", mib * MIB, (mib + 1) * MIB - 1)).await;
        assert!(answer.status == 206 && answer.whole && answer.body.len() == MIB, "{mib}: {}", answer.status);
    };
    part(15).await;
    s.hub.clear_log();
    part(15).await;
    assert_eq!(s.hub.cdn_bytes(), 0);
    // What does not fit any more is passed on, and pushes nothing out.
    for mib in [2, 5, 7, 9, 11, 13] {
        part(mib).await;
    }
    s.hub.clear_log();
    s.get(&mirror, 0).await;
    assert_eq!(s.hub.cdn_bytes(), 0);
    assert_eq!(mirror.metrics().await.sum("dingospeed_evicted_objects_total"), 0.0);
}

#[tokio::test]
async fn a_file_larger_than_the_cache_is_no_shortage() {
    let s = setup([8, 8, 8]).await;
    // Less than a block, so that none of it is ever kept.
    let mirror = limited(&s.hub, &s.repos(), 0).start().await;
    s.get(&mirror, 0).await;
    let metrics = mirror.metrics().await;
    assert!(metrics.of("dingospeed_served_through_total") >= 1.0);
    assert_eq!((metrics.of("dingospeed_disk_short"), metrics.of("dingospeed_disk_errors_total")), (0.0, 0.0));
}

#[tokio::test]
async fn cold_parts_of_what_is_read_all_the_time_go_alone() {
    let hub = FakeHub::start().await;
    let (large, other) = (noise(60, 64 * MIB), noise(61, 14 * MIB));
    hub.model("acme/large").lfs("w.bin", &large).commit("first");
    hub.model("acme/other").lfs("w.bin", &other).commit("first");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mirror = limited(&hub, &folder.path().join("repos"), 32).start().await;
    let target = "/acme/large/resolve/main/w.bin";
    let read = async |span: std::ops::Range<usize>| {
        let part = mirror.get_range(target, &format!("bytes={}-{}", span.start, span.end - 1)).await;
        assert!(part.status == 206 && part.whole && part.body == large[span.clone()], "{span:?}: {}", part.status);
    };
    read(0..20 * MIB).await;
    read(50 * MIB..54 * MIB).await;
    // Somebody keeps reading the end; for what comes now the start has to go, and nothing else.
    let came = mirror.get("/acme/other/resolve/main/w.bin").await;
    assert!(came.whole && came.body == other, "{}", came.status);
    mirror.wait_log("evicted objects=0 parts=").await;
    hub.clear_log();
    read(50 * MIB..54 * MIB).await;
    let came = mirror.get("/acme/other/resolve/main/w.bin").await;
    assert!(came.whole && came.body == other, "{}", came.status);
    assert_eq!(hub.cdn_bytes(), 0, "what is read stays");
    // What went is absent, and comes again right.
    read(0..2 * MIB).await;
    assert!(hub.cdn_bytes() > 0);
    read(0..20 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_asks_the_server_and_tells_of_parts() {
    let hub = FakeHub::start().await;
    let large = noise(62, 64 * MIB);
    hub.model("acme/large").lfs("w.bin", &large).commit("first");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let root = folder.path().join("repos");
    let mirror = limited(&hub, &root, 32).set("eviction.interval", "1d").start().await;
    let target = "/acme/large/resolve/main/w.bin";
    for span in [0..20 * MIB, 50 * MIB..54 * MIB] {
        let part = mirror.get_range(target, &format!("bytes={}-{}", span.start, span.end - 1)).await;
        assert!(part.status == 206 && part.whole && part.body == large[span.clone()], "{span:?}: {}", part.status);
    }
    // What nobody knows of until somebody looks.
    let by_hand = root.join("blobs/ff").join("f".repeat(64));
    std::fs::create_dir_all(by_hand.parent().expect("a directory")).expect("its directory");
    std::fs::write(&by_hand, noise(63, 16 * MIB)).expect("a file that was put there");
    let repos = root.display().to_string();
    let gc = async |dry_run: bool| {
        let arguments = ["gc", "--json", "--repos", &repos, "--dry-run"];
        let (code, stderr, stdout) = dingospeed(&arguments[..if dry_run { 5 } else { 4 }], &[]).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let told: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        told[if dry_run { "would_evict" } else { "evicted" }].clone()
    };
    let mut would = gc(true).await;
    // The mirror lets go of what was read a moment after its client has it all.
    for _ in 0..200 {
        if would["objects_in_use"] == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        would = gc(true).await;
    }
    assert!(would["objects"] == 0 && would["parts"].as_u64() >= Some(8), "{would}");
    let done = gc(false).await;
    for key in ["reason", "objects", "parts", "bytes", "objects_in_use", "kept_objects"] {
        assert_eq!(done[key], would[key], "{key}: {done} {would}");
    }
    // Some file systems count what a file takes beside its content only as it is written back.
    let kept_len = |told: &serde_json::Value| told["kept_bytes"].as_u64().expect("a number");
    assert!(kept_len(&done).abs_diff(kept_len(&would)) <= 64 << 10, "{done} {would}");
    assert!(by_hand.exists());
    let part = mirror.get_range(target, "bytes=0-4194303").await;
    assert!(part.status == 206 && part.body == large[..4 * MIB], "what went comes again");
}

/// What passes know is handed on by a process that ends in good order, to one.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_what_is_known_and_a_crash_does_not() {
    let setup = setup([1, 2, 1]).await;
    setup.fill().await;
    let ledger = setup.repos().join("ledger");
    let mut mirror = Mirror::of(&setup.hub).repos(&setup.repos()).start().await;
    let taken_up = |mirror: &Mirror| mirror.log().matches("took up the ledger ").count();
    // At first the directories have changed a moment ago, and are looked at again.
    let mut starts = 1;
    while !mirror.log().contains("took up the ledger objects=3 looked_at=0") {
        mirror.wait_log("took up the ledger ").await;
        assert!(!ledger.exists(), "it is used once");
        assert_eq!(mirror.stop().await.code(), Some(0));
        assert!(ledger.exists());
        mirror.restart().await;
        starts += 1;
        while taken_up(&mirror) < starts {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(starts < 200, "{}", mirror.log());
    }
    assert!(mirror.metrics().await.of("dingospeed_disk_used_bytes") >= 4.0 * MIB as f64);
    // What goes is not counted any more by the next one, and what comes is.
    let repos = setup.repos().display().to_string();
    let (code, stderr, _) = dingospeed(&["rm", "acme/b", "--yes", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    mirror.restart().await;
    setup.get(&mirror, 1).await;
    mirror.restart().await;
    while mirror.metrics().await.of("dingospeed_blobs") < 3.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let starts = taken_up(&mirror);
    mirror.kill().await;
    assert!(!ledger.exists());
    mirror.restart().await;
    while mirror.metrics().await.of("dingospeed_blobs") < 3.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(taken_up(&mirror), starts, "all is looked at");
    // Ctrl-C ends at once, and writes nothing down.
    mirror.signal(libc::SIGINT);
    mirror.ended().await;
    assert!(!ledger.exists());
}
