//! A disk that is full or refuses: clients are served all the same, and caching goes on once it recovers.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, noise};

use crate::harness::{CallFault, Mirror, ReadOnly, dingospeed, limit_file_size};

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
    let all_served = async {
        while mirror.metrics().await.of("dingospeed_served_through_total") < 4.0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), all_served).await.expect("all four are served past the disk");
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

/// All paths below a directory, with their lengths.
fn tree(root: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root).expect("a directory").flatten() {
        let meta = entry.metadata().expect("an entry's facts");
        found.insert((entry.path(), if meta.is_file() { meta.len() } else { 0 }));
        if meta.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

fn set_writable(root: &Path, writable: bool) {
    for (path, _) in tree(root).into_iter().chain([(root.to_owned(), 0)]) {
        let meta = std::fs::symlink_metadata(&path).expect("an entry's facts");
        if !meta.is_symlink() {
            let mode = if meta.is_dir() { 0o555 } else { 0o444 } | if writable { 0o200 } else { 0 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        }
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_served_from() {
    for how in [ReadOnly::Mode, ReadOnly::Mount] {
        if let Some(why) = how.obstacle().await {
            println!("NOT TRIED: a read-only {how:?} is not possible on this machine: {why}");
            assert_ne!(how, ReadOnly::Mode, "a mode can always be set");
            continue;
        }
        let (hub, bytes) = hub().await;
        let partly = noise(32, SIZE).to_vec();
        hub.model("acme/large").lfs("partly.bin", &partly).lfs("cold.bin", noise(33, 3 * MIB)).commit("more");
        let folder = tempfile::tempdir().expect("a temporary directory");
        let partly_at = "/acme/large/resolve/main/partly.bin";
        let mut mirror = Mirror::of(&hub).repos(folder.path()).start().await;
        assert!(mirror.get(FILE).await.body == bytes);
        assert_eq!(mirror.get(SMALL).await.status, 200);
        assert_eq!(mirror.get_range(partly_at, "bytes=0-99").await.status, 206);
        mirror.stop().await;
        if how == ReadOnly::Mode {
            set_writable(folder.path(), false);
        }
        let before = tree(folder.path());
        let read_only = Mirror::of(&hub).repos(folder.path()).read_only(how);
        let mut mirror = read_only.clone().start().await;
        assert!(mirror.log().contains("serves read-only"), "{}", mirror.log());
        assert_eq!(mirror.metrics().await.of("dingospeed_read_only"), 1.0);
        assert_eq!(mirror.get("/healthz").await.json()["read_only"], true);
        // A second one may read it as well.
        let second = read_only.clone().start().await;
        assert_eq!(second.get(SMALL).await.body, "{}".as_bytes());
        drop(second);

        hub.clear_log();
        assert!(mirror.get(FILE).await.body == bytes);
        assert_eq!(hub.cdn_bytes(), 0, "{how:?}: what is kept is served");
        for _ in 0..2 {
            let cold = mirror.get("/acme/large/resolve/main/cold.bin").await;
            assert!(cold.whole && cold.body == noise(33, 3 * MIB), "{cold:.0?}");
            let part = mirror.get(partly_at).await;
            assert!(part.whole && part.body == partly, "{part:.0?}");
            assert_eq!(mirror.get("/api/models/acme/large").await.status, 200);
        }
        assert!(mirror.metrics().await.of("dingospeed_served_through_total") >= 4.0);
        hub.down().await;
        assert!(mirror.get(FILE).await.body == bytes);
        let cold = mirror.get("/acme/large/resolve/main/cold.bin").await;
        assert!((500..600).contains(&cold.status), "{}", cold.status);
        hub.up().await;
        assert!(mirror.stop().await.success());
        assert_eq!(tree(folder.path()), before, "{how:?}: nothing was written");
        let complaints = mirror.log().matches(" WARN ").count() + mirror.log().matches(" ERROR").count();
        assert!(complaints < 12, "{how:?}: one loud word and not one for each request:\n{}", mirror.log());

        if how == ReadOnly::Mode {
            set_writable(folder.path(), true);
        }
        let mirror = Mirror::of(&hub).repos(folder.path()).start().await;
        assert_eq!(mirror.metrics().await.of("dingospeed_read_only"), 0.0);
        assert_eq!(mirror.get("/acme/large/resolve/main/cold.bin").await.status, 200);
        hub.clear_log();
        assert_eq!(mirror.get("/acme/large/resolve/main/cold.bin").await.status, 200);
        assert_eq!(hub.cdn_bytes(), 0, "kept again");
    }
}

/// Where the lock cannot be had, another process may have it: nothing is written.
#[tokio::test]
async fn what_is_read_without_the_lock_is_not_written() {
    let (hub, bytes) = hub().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut mirror = Mirror::of(&hub).repos(folder.path()).start().await;
    assert!(mirror.get(FILE).await.body == bytes);
    mirror.stop().await;
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    let options = Mirror::of(&hub).repos(folder.path()).read_only(ReadOnly::Mode);
    let lock = folder.path().join("lock");
    mode(&lock, 0o444);
    let said = options.clone().try_start().await.err().expect("it is refused");
    assert!(said.contains(&lock.display().to_string()) && said.contains("read-only"), "{said}");

    // Files that could be written, in directories that cannot.
    set_writable(folder.path(), false);
    let is_blob = |path: &PathBuf| path.starts_with(folder.path().join("blobs")) && path.is_file();
    let blobs: Vec<PathBuf> = tree(folder.path()).into_iter().map(|(path, _)| path).filter(is_blob).collect();
    let large = blobs.iter().find(|path| path.metadata().expect("its facts").len() > SIZE as u64).expect("the large file");
    blobs.iter().for_each(|path| mode(path, 0o644));
    let mut kept = std::fs::read(large).expect("a block file");
    // In the middle of the content.
    let at = kept.len() - SIZE / 2;
    kept[at] ^= 1;
    std::fs::write(large, &kept).expect("a block rots");
    let before = tree(folder.path());
    let mirror = options.start().await;
    for _ in 0..2 {
        let answer = mirror.get(FILE).await;
        assert!(answer.status != 200 || !answer.whole || answer.body == bytes, "{answer:.0?}");
    }
    let answer = mirror.get(FILE).await;
    assert!(answer.whole && answer.body == bytes, "{answer:.0?}");
    assert!(std::fs::read(large).expect("a block file") == kept, "it was written to");
    assert_eq!(tree(folder.path()), before);
    drop(mirror);
    set_writable(folder.path(), true);
}

/// What the Hub takes back holds while it is gone, also where that could not be written down.
#[tokio::test]
async fn a_no_holds_on_a_disk_that_cannot_be_written() {
    const OPEN: &str = "/acme/open/resolve/main/w.bin";
    const GATED: &str = "/acme/gated/resolve/main/w.bin";
    const MEMBER: &[&str] = &["Authorization: Bearer hf_member"];
    for how in ["read-only", "full"] {
        let hub = FakeHub::start().await;
        let open = hub.model("acme/open").lfs("w.bin", noise(41, 90_000)).commit("first");
        let gated = hub.model("acme/gated").lfs("w.bin", noise(42, 90_000)).commit("first").gated().grant("hf_member");
        let folder = tempfile::tempdir().expect("a temporary directory");
        let options = Mirror::of(&hub).repos(folder.path()).set("freshness.access", "0s");
        let mut mirror = options.clone().start().await;
        assert_eq!(mirror.get(OPEN).await.status, 200);
        assert_eq!(mirror.ask("GET", GATED, MEMBER).await.status, 200);
        mirror.stop().await;
        match how {
            "full" => {
                mirror.fail_calls(&CallFault::on_create(libc::ENOSPC));
                mirror.restart().await;
            }
            _ => {
                set_writable(folder.path(), false);
                mirror = options.clone().read_only(ReadOnly::Mode).start().await;
            }
        }
        hub.down().await;
        assert_eq!(mirror.get(OPEN).await.status, 200, "{how}: the Hub's last word was a yes");
        assert_eq!(mirror.ask("GET", GATED, MEMBER).await.status, 200, "{how}");
        hub.up().await;
        open.private();
        gated.revoke("hf_member");
        until(&mirror, OPEN, &[], 401).await;
        until(&mirror, GATED, MEMBER, 403).await;
        hub.down().await;
        let refused = [mirror.get(OPEN).await, mirror.ask("GET", GATED, MEMBER).await];
        for answer in refused {
            assert!(answer.status >= 400, "{how}: {}", answer.status);
        }
        if how == "full" {
            mirror.fail_calls(&[]);
            mirror.restart().await;
            let refused = [mirror.get(OPEN).await, mirror.ask("GET", GATED, MEMBER).await];
            for answer in refused {
                assert!(answer.status >= 400, "after a restart: {}", answer.status);
            }
        }
        set_writable(folder.path(), true);
    }
}

/// Asks until the mirror has noticed that the Hub is back.
async fn until(mirror: &Mirror, target: &str, headers: &[&str], status: u16) {
    let began = Instant::now();
    loop {
        let answer = mirror.ask("GET", target, headers).await;
        if answer.status == status {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{target} is still {}, not {status}", answer.status);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_read_only_directory_that_holds_no_store_is_a_mistake() {
    let (hub, _) = hub().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let repos = folder.path().join("repos");
    std::fs::create_dir(&repos).expect("a directory");
    set_writable(&repos, false);
    let said = Mirror::of(&hub).repos(&repos).read_only(ReadOnly::Mode).try_start().await.err().expect("it is refused");
    assert!(said.contains(&repos.display().to_string()) && !said.contains("panicked"), "{said}");
}

/// What each failing system call stands for.
fn broken_disks() -> Vec<(&'static str, Vec<CallFault>)> {
    vec![
        ("no inodes", CallFault::on_create(libc::ENOSPC)),
        ("a quota on files", CallFault::on_create(libc::EDQUOT)),
        ("a full disk", vec![CallFault::on_write(libc::ENOSPC)]),
        ("a quota on bytes", vec![CallFault::on_write(libc::EDQUOT)]),
        ("EIO on write", vec![CallFault::on_write(libc::EIO)]),
        ("EIO on create", CallFault::on_create(libc::EIO)),
    ]
}

#[tokio::test]
async fn whatever_refuses_to_be_written_is_served_past() {
    for (what, faults) in broken_disks() {
        let (hub, bytes) = hub().await;
        let oid = hub.model("acme/large").oid("w.bin");
        let mut mirror = Mirror::start(&hub).await;
        assert_eq!(mirror.get(SMALL).await.status, 200);
        mirror.fail_calls(&faults);
        mirror.restart().await;
        for _ in 0..2 {
            let answer = mirror.get(FILE).await;
            assert!(answer.status == 200 && answer.whole && answer.body == bytes, "{what}: {answer:.0?}");
            let part = mirror.get_range(FILE, "bytes=7000000-7000009").await;
            assert!(part.status == 206 && part.body == bytes[7_000_000..7_000_010], "{what}: {part:.0?}");
            assert_eq!(mirror.get("/api/models/acme/large/tree/main").await.status, 200, "{what}");
        }
        let numbers = mirror.metrics().await;
        assert!(numbers.of("dingospeed_served_through_total") > 0.0, "{what}");
        assert!(numbers.of("dingospeed_disk_errors_total") > 0.0, "{what}");
        // At once: the next pass is minutes away.
        assert_eq!(numbers.of("dingospeed_disk_short") > 0.0, !what.starts_with("EIO"), "{what}");
        assert!(mirror.log().contains("served past the disk"), "{what}: {}", mirror.log());
        mirror.stop().await;
        let blob = mirror.repos().join("blobs").join(&oid[..2]).join(&oid);
        if let Ok(file) = std::fs::File::open(&blob) {
            let opened = dingospeed::store::BlockFile::open(file, &dingospeed::hub::Oid::parse(&oid).expect("an oid"));
            match opened {
                Ok(dingospeed::store::block_file::Opened::Ours(file)) => assert_eq!(file.present_count(), 0, "{what}"),
                Ok(_) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        // The room comes back.
        mirror.fail_calls(&[]);
        mirror.restart().await;
        assert!(mirror.get(FILE).await.body == bytes, "{what}");
        hub.clear_log();
        assert!(mirror.get(FILE).await.body == bytes, "{what}");
        assert_eq!(hub.cdn_bytes(), 0, "{what}: kept again");
    }
}

#[tokio::test]
async fn what_cannot_be_read_comes_from_upstream_or_is_an_error() {
    // The map of blocks already, and only the blocks.
    for len in [2000, 32 << 10] {
        let (hub, bytes) = hub().await;
        let mut mirror = Mirror::start(&hub).await;
        assert!(mirror.get(FILE).await.body == bytes);
        mirror.fail_calls(&[CallFault::on_read(libc::EIO, len)]);
        mirror.restart().await;
        let answer = mirror.get(FILE).await;
        assert!(answer.status == 200 && answer.whole && answer.body == bytes, "{len}: {answer:.0?}");
        let part = mirror.get_range(FILE, "bytes=7000000-7000009").await;
        assert!(part.status == 206 && part.body == bytes[7_000_000..7_000_010], "{len}: {part:.0?}");
        assert!(mirror.metrics().await.of("dingospeed_disk_errors_total") > 0.0);
        hub.down().await;
        let answer = mirror.get(FILE).await;
        assert!(answer.status >= 500 || !answer.whole, "{len}: {answer:.0?}");
        hub.up().await;
        mirror.fail_calls(&[]);
        mirror.restart().await;
        hub.clear_log();
        assert!(mirror.get(FILE).await.body == bytes);
        assert_eq!(hub.cdn_bytes(), 0, "{len}: it was there all the time");
    }
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
