//! The process ends while it works, in order or by force, and another goes on where it stopped.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, noise};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::{Connection, Mirror};

const MIB: usize = 1 << 20;
const BLOCK: u64 = 1 << 20;
/// Fills of one object run on so many connections.
const CONNECTIONS_PER_OBJECT: u64 = 4;
/// Slow readers are slow for so long: longer than a drain.
const SLOW_FOR: Duration = Duration::from_secs(4);
/// What a killed process had received and not yet written, and what lay in sockets, per connection.
const UNWRITTEN_MAX: u64 = 2 * BLOCK;

struct File {
    target: String,
    bytes: Vec<u8>,
    oid: String,
}

/// A Hub whose CDN sends each connection this many bytes a second, with a few files.
async fn hub_with_files(rate: u64, sizes: &[usize]) -> (FakeHub, Vec<File>) {
    let hub = FakeHub::builder().cdn_rate(rate).start().await.expect("two free ports");
    let mut files = Vec::new();
    for (index, &size) in sizes.iter().enumerate() {
        let bytes = noise(40 + index as u64, size).to_vec();
        let repo = hub.model(&format!("acme/m{index}")).lfs("w.bin", &bytes).commit("first");
        files.push(File { target: format!("/acme/m{index}/resolve/main/w.bin"), bytes, oid: repo.oid("w.bin") });
    }
    (hub, files)
}

/// Reads a body to its end, pausing after each piece; asserts that all of it is right, and tells whether it was whole.
async fn read_slowly(mut connection: Connection, bytes: &[u8], pause: Duration) -> bool {
    let (status, headers) = connection.head("GET").await.expect("an answer");
    assert_eq!(status, 200);
    assert_eq!(headers["content-length"], bytes.len().to_string().as_str());
    let began = Instant::now();
    let mut read = 0;
    loop {
        match connection.piece().await {
            Ok(Some(piece)) => {
                assert!(bytes[read..].starts_with(&piece), "other bytes from {read} on");
                read += piece.len();
            }
            Ok(None) => {
                assert_eq!(read, bytes.len(), "a short body that ends as if it were whole");
                return true;
            }
            Err(_) => return false,
        }
        // What lies in sockets is read quickly once the mirror is gone.
        if !pause.is_zero() && began.elapsed() < SLOW_FOR {
            tokio::time::sleep(pause).await;
        }
    }
}

fn blob(mirror: &Mirror, file: &File) -> PathBuf {
    mirror.repos().join("blobs").join(&file.oid[..2]).join(&file.oid)
}

/// Counts the bytes of the blocks that are marked present in a block file.
fn kept_len(mirror: &Mirror, file: &File) -> u64 {
    let size = file.bytes.len() as u64;
    let Ok(opened) = std::fs::File::open(blob(mirror, file)) else { return 0 };
    let mut mask = [0; 64];
    opened.read_exact_at(&mut mask, 36).expect("a mask after the header");
    let blocks = 0..size.div_ceil(BLOCK);
    let present = blocks.filter(|index| mask[*index as usize / 8] & (1 << (index % 8)) != 0);
    present.map(|index| (size - index * BLOCK).min(BLOCK)).sum()
}

#[tokio::test]
async fn sigterm_under_load_cuts_or_completes() {
    const SIZES: [usize; 3] = [12 * MIB + 5, 9 * MIB, 3 * MIB + 1];
    let (hub, files) = hub_with_files(MIB as u64, &SIZES).await;
    // Short runs, so that all connections of an object are used.
    let options = Mirror::of(&hub).set("server.drain_timeout", "1500ms").set("fetch.run_size", "1MiB");
    let mut mirror = options.set("fetch.connections_per_object", CONNECTIONS_PER_OBJECT).start().await;

    // The smallest is cached, and read so slowly that the drain ends first for some; the others are on their way.
    assert_eq!(mirror.get(&files[2].target).await.body, files[2].bytes);
    let mut readers = Vec::new();
    for (index, file) in files.iter().enumerate() {
        for pause in [Duration::ZERO, Duration::from_millis(30), Duration::from_secs(1)] {
            let mut connection = mirror.connect().await;
            connection.ask("GET", &file.target, &[]).await;
            let bytes = file.bytes.clone();
            readers.push((index, tokio::spawn(async move { read_slowly(connection, &bytes, pause).await })));
        }
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    let began = Instant::now();
    mirror.signal(libc::SIGTERM);
    assert_eq!(mirror.ended().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let (mut whole, mut cut) = (0, 0);
    for (_, reader) in readers {
        if reader.await.expect("a reader sees right bytes") { whole += 1 } else { cut += 1 }
    }
    assert!(whole > 0 && cut > 0, "{whole} whole, {cut} cut: the end was to strike in the middle");

    hub.wait_idle().await;
    let kept: u64 = files.iter().map(|file| kept_len(&mirror, file)).sum();
    let before = hub.cdn_bytes();
    assert!(kept + 2 * CONNECTIONS_PER_OBJECT * UNWRITTEN_MAX >= before, "{before} bytes came and {kept} were kept");
    mirror.restart().await;
    for file in &files {
        let got = mirror.get(&file.target).await;
        assert!(got.whole && got.body == file.bytes, "{}", file.target);
    }
    hub.wait_idle().await;
    let total: u64 = files.iter().map(|file| file.bytes.len() as u64).sum();
    assert_eq!(hub.cdn_bytes() - before, total - kept, "what was kept is not fetched again");
}

#[tokio::test]
async fn a_killed_process_loses_no_whole_block() {
    const SIZES: [usize; 4] = [20 * MIB + 5, 16 * MIB, 11 * MIB + 77, 2 * MIB];
    let seed = std::env::var("CRASH_SEED").ok().map_or(7, |text| text.parse().expect("CRASH_SEED is a number"));
    let mut random = StdRng::seed_from_u64(seed);
    let (hub, files) = hub_with_files(3 * MIB as u64, &SIZES).await;
    let mut mirror = Mirror::of(&hub).set("fetch.connections_per_object", CONNECTIONS_PER_OBJECT).start().await;
    let mut kept_before = 0;
    for round in 0..5 {
        let mut readers = Vec::new();
        for file in &files {
            for _ in 0..2 {
                let mut connection = mirror.connect().await;
                // Some want the whole, some begin in the middle.
                let first = if random.random_bool(0.5) { 0 } else { random.random_range(0..file.bytes.len()) };
                connection.ask("GET", &file.target, &[&format!("Range: bytes={first}-")]).await;
                let bytes = file.bytes[first..].to_vec();
                readers.push(tokio::spawn(async move {
                    // Killed before the answer is a cut as well.
                    let Some((status, _)) = connection.head("GET").await else { return };
                    assert_eq!(status, 206);
                    let mut read = 0;
                    while let Ok(Some(piece)) = connection.piece().await {
                        assert!(bytes[read..].starts_with(&piece), "other bytes from {read} on");
                        read += piece.len();
                    }
                }));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(20..700))).await;
        mirror.kill().await;
        for reader in readers {
            reader.await.unwrap_or_else(|error| panic!("round {round} of CRASH_SEED={seed}: {error}"));
        }
        let kept: u64 = files.iter().map(|file| kept_len(&mirror, file)).sum();
        assert!(kept >= kept_before, "round {round} of CRASH_SEED={seed}: {kept} bytes kept after {kept_before}");
        kept_before = kept;
        let began = Instant::now();
        mirror.restart().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?} to start again", began.elapsed());
    }
    hub.wait_idle().await;
    let before = hub.cdn_bytes();
    for file in &files {
        let got = mirror.get(&file.target).await;
        assert!(got.whole && got.body == file.bytes, "CRASH_SEED={seed}: {}", file.target);
    }
    hub.wait_idle().await;
    let total: u64 = SIZES.iter().map(|size| *size as u64).sum();
    assert_eq!(hub.cdn_bytes() - before, total - kept_before, "CRASH_SEED={seed}: what was kept is not fetched again");
    let lost = hub.cdn_bytes() - total;
    let lost_max = 5 * SIZES.len() as u64 * CONNECTIONS_PER_OBJECT * UNWRITTEN_MAX;
    assert!(lost <= lost_max, "CRASH_SEED={seed}: {lost} bytes came in vain");
    assert_eq!(mirror.metrics().await.of("dingospeed_objects_broken_total"), 0.0);
}

#[tokio::test]
async fn the_start_does_not_depend_on_what_is_kept() {
    const OBJECTS: usize = 3000;
    let (hub, files) = hub_with_files(100 * MIB as u64, &[MIB + 1]).await;
    let mut mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get(&files[0].target).await.body, files[0].bytes);
    // After a kill every file that was open is suspect, and foreign ones are hashed whole before they are used: at the
    // first request for each, not at the start.
    mirror.kill().await;
    let mut header = b"OLAH".to_vec();
    for field in [8_u64, 8 * BLOCK, 1 << 30, 128] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header.extend_from_slice(&[0xff; 16]);
    for index in 0..OBJECTS {
        let oid = format!("{index:064x}");
        let folder = mirror.repos().join("blobs").join(&oid[..2]);
        std::fs::create_dir_all(&folder).expect("a directory");
        let blob = std::fs::File::create(folder.join(&oid)).expect("a file");
        blob.write_all_at(&header, 0).expect("a header");
        blob.set_len((1 << 30) + 52).expect("a length");
    }
    let began = Instant::now();
    mirror.restart().await;
    assert_eq!(mirror.get(&files[0].target).await.body, files[0].bytes);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?} for {OBJECTS} objects of 1 GiB", began.elapsed());
}
