//! Everything at once, at random, against a model of the truth: clients of all kinds, faults upstream, kills, restarts, rot on
//! disk, evictions, a branch that moves, a gated repo.
//!
//! A few seconds in `make test`; `make soak` goes on for minutes. The seed is printed; `SOAK_SEED=n make soak` plays the same
//! choices again (what the scheduler makes of them differs). The rule: an answer that ends cleanly is right.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, Repo, noise};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Mirror, dingospeed};

const MIB: usize = 1 << 20;
const CLIENTS: u64 = 8;
const ANSWER_MAX: Duration = Duration::from_secs(60);
const TOKEN: &str = "Authorization: Bearer hf_granted";

/// What the Hub holds, and what it held: the truth that answers are held to.
struct World {
    hub: FakeHub,
    /// Target, content, and whether it needs the token.
    files: Vec<(String, Vec<u8>, bool)>,
    moving: Repo,
    /// Content of `acme/moving`'s file by commit.
    versions: Mutex<HashMap<String, Vec<u8>>>,
    /// Whether bits flip upstream in this run: then parts of files are not held to anything.
    flips: bool,
    /// Where the mirror listens; changes at every restart.
    address: Mutex<Option<SocketAddr>>,
    /// How often which refusal was heard, by its first words.
    said: Mutex<HashMap<String, u64>>,
    right: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

impl World {
    async fn new(flips: bool) -> World {
        let hub = FakeHub::start().await;
        let lens = [0, 1, 1000, MIB - 1, MIB, MIB + 1, 3 * MIB + 333, 9 * MIB, 14 * MIB + 5];
        let mut files = Vec::new();
        let open = hub.model("acme/open");
        let data = hub.dataset("acme/data");
        hub.token("hf_granted");
        let closed = hub.model("acme/closed");
        for (n, len) in lens.into_iter().enumerate() {
            let bytes = noise(100 + n as u64, len).to_vec();
            let name = format!("f{n}.bin");
            if len < MIB {
                open.file(&name, &bytes);
            } else {
                open.lfs(&name, &bytes);
            }
            // The same content elsewhere, and something of its own.
            data.lfs(&name, &bytes);
            let own = noise(200 + n as u64, len / 2 + 7).to_vec();
            closed.lfs(&name, &own);
            files.push((format!("/acme/open/resolve/main/{name}"), bytes.clone(), false));
            files.push((format!("/datasets/acme/data/resolve/main/{name}"), bytes, false));
            files.push((format!("/acme/closed/resolve/main/{name}"), own, true));
        }
        open.commit("all");
        data.commit("all");
        closed.commit("all").gated().grant("hf_granted");
        let moving = hub.model("acme/moving").file("state.txt", "version 0").commit("0");
        let versions = Mutex::new(HashMap::from([(moving.sha(), b"version 0".to_vec())]));
        let zero = || AtomicU64::new(0);
        World {
            hub,
            files,
            moving,
            versions,
            flips,
            address: Mutex::default(),
            said: Mutex::default(),
            right: zero(),
            refused: zero(),
            cut: zero(),
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        *self.address.lock().expect("no panic")
    }

    fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Ended as promised.
    whole: bool,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// One request on a connection of its own; `None` when the mirror is not there or ends before it answers.
async fn ask(address: SocketAddr, request: &str, read_max: usize, pause: Option<Duration>) -> Option<Answer> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        while bytes.len() < read_max {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer { status, head, body: bytes.split_off(end + 4), whole: false };
        let len = answer.header("content-length").and_then(|len| len.parse().ok());
        let bare = request.starts_with("HEAD") || status == 304;
        answer.whole = bare || len == Some(answer.body.len());
        Some(answer)
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(answer) => answer,
        Err(_) => panic!("no end within {ANSWER_MAX:?} of {request:?}"),
    }
}

async fn client(world: Arc<World>, seed: u64, until: Instant) {
    let mut random = StdRng::seed_from_u64(seed);
    while Instant::now() < until {
        let Some(address) = world.address() else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if random.random_bool(0.15) {
            look_at_what_moves(&world, address).await;
            continue;
        }
        let (target, content, closed) = &world.files[random.random_range(0..world.files.len())];
        let with_token = random.random_bool(0.6);
        let start = random.random_range(0..content.len().max(1));
        let end = random.random_range(start..content.len().max(1));
        let ranged = random.random_bool(0.4) && !content.is_empty();
        let method = if random.random_bool(0.1) { "HEAD" } else { "GET" };
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n");
        if with_token {
            request += &format!("{TOKEN}\r\n");
        }
        if ranged {
            request += &format!("Range: bytes={start}-{end}\r\n");
        }
        request += "\r\n";
        let leaves = random.random_bool(0.15);
        let read_max = if leaves { random.random_range(1..2 * MIB) } else { usize::MAX };
        let pause = random.random_bool(0.1).then(|| Duration::from_millis(random.random_range(1..20)));
        let Some(answer) = ask(address, &request, read_max, pause).await else { continue };

        let allowed = !closed || with_token;
        let wanted = if ranged && method == "GET" { &content[start..=end] } else { &content[..] };
        match answer.status {
            200 | 206 => {
                assert!(allowed, "the gate stood open: {request}\n{}", answer.head);
                assert_eq!(answer.status == 206, ranged && method == "GET", "{request}\n{}", answer.head);
                if method == "HEAD" {
                    assert_eq!(answer.header("content-length"), Some(content.len().to_string().as_str()), "{request}");
                    world.count(&world.right);
                } else if answer.whole {
                    let is_whole_file = wanted.len() == content.len();
                    assert!(answer.body == wanted || (world.flips && !is_whole_file), "other bytes: {request}\n{}", answer.head);
                    world.count(&world.right);
                } else {
                    assert!(world.flips || wanted.starts_with(&answer.body), "a cut body began otherwise: {request}");
                    world.count(&world.cut);
                }
            }
            401 | 403 => {
                assert!(*closed && !with_token, "{request}\n{}", answer.head);
                world.count(&world.right);
            }
            429 | 500..=599 => {
                let said = answer.header("x-error-message").unwrap_or_default();
                assert!(!said.is_empty(), "{request}\n{}", answer.head);
                let words: String = said.split_ascii_whitespace().take(9).collect::<Vec<_>>().join(" ");
                *world.said.lock().expect("no panic").entry(format!("{} {words}", answer.status)).or_default() += 1;
                assert_eq!(answer.header("x-error-code"), None, "{request}\n{}", answer.head);
                world.count(&world.refused);
            }
            _ => panic!("{request}\n{}", answer.head),
        }
    }
}

async fn look_at_what_moves(world: &World, address: SocketAddr) {
    let request = "GET /acme/moving/resolve/main/state.txt HTTP/1.1\r\nHost: mirror.test\r\nConnection: close\r\n\r\n";
    let Some(answer) = ask(address, request, usize::MAX, None).await else { return };
    if answer.status != 200 || !answer.whole {
        return;
    }
    let commit = answer.header("x-repo-commit").expect("a commit").to_owned();
    let versions = world.versions.lock().expect("no panic");
    assert_eq!(versions.get(&commit), Some(&answer.body), "the content of another commit than {commit}");
    world.count(&world.right);
}

/// Makes upstream fail in some way for a while, again and again; and moves the branch.
async fn trouble(world: Arc<World>, seed: u64, until: Instant) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut version = 0;
    while Instant::now() < until {
        let name = format!("f{}.bin", random.random_range(0..9));
        let aim = world.hub.fault(&name).times(random.random_range(1..4));
        let bytes = random.random_range(0..3 * MIB as u64);
        let kinds = if world.flips { 12 } else { 11 };
        match random.random_range(0..kinds) {
            0 => aim.on_cdn().cut_after(bytes),
            1 => aim.on_cdn().reset_after(bytes),
            2 => aim.on_cdn().short(bytes),
            3 => aim.on_cdn().longer(50),
            4 => aim.on_cdn().ignore_range(),
            5 => aim.on_cdn().wrong_content_range(),
            6 => aim.on_cdn().hang_after(bytes),
            7 => aim.status(503, &[]),
            8 => aim.on_cdn().status(403, &[]),
            9 => aim.status(429, &[("Retry-After", "1")]),
            10 => aim.on_cdn().rate(2 << 20),
            _ => aim.on_cdn().flip(bytes / 2),
        };
        if random.random_bool(0.2) {
            world.hub.expire_signatures();
        }
        if random.random_bool(0.05) {
            world.hub.down().await;
            tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
            world.hub.up().await;
        }
        if random.random_bool(0.3) {
            version += 1;
            let text = format!("version {version}");
            // Held while the branch moves, so that nobody meets a commit that the truth does not know yet.
            let mut versions = world.versions.lock().expect("no panic");
            let commit = world.moving.file("state.txt", &text).commit(&version.to_string()).sha();
            versions.insert(commit, text.into_bytes());
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(20..300))).await;
    }
    world.hub.clear_faults();
}

/// Ends the mirror now and then, kindly or not, spoils a byte of what it has kept, and starts it again.
async fn killer(world: Arc<World>, mirror: &mut Mirror, seed: u64, until: Instant) {
    let mut random = StdRng::seed_from_u64(seed);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(random.random_range(800..3000))).await;
        if random.random_bool(0.7) {
            mirror.kill().await;
        } else {
            mirror.stop().await;
        }
        *world.address.lock().expect("no panic") = None;
        if random.random_bool(0.5) {
            spoil(mirror, &mut random);
        }
        mirror.restart().await;
        *world.address.lock().expect("no panic") = Some(mirror.address());
    }
}

fn spoil(mirror: &Mirror, random: &mut StdRng) {
    let mut blobs = Vec::new();
    for dir in std::fs::read_dir(mirror.repos().join("blobs")).expect("blobs").flatten() {
        blobs.extend(std::fs::read_dir(dir.path()).expect("a directory of blobs").flatten().map(|entry| entry.path()));
    }
    if blobs.is_empty() {
        return;
    }
    blobs.sort();
    let path = &blobs[random.random_range(0..blobs.len())];
    let mut bytes = std::fs::read(path).expect("a blob");
    if !bytes.is_empty() {
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        std::fs::write(path, bytes).expect("a write");
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_random_for_a_while() {
    let seconds = from_env("SOAK_SECONDS").unwrap_or(8);
    let seed = from_env("SOAK_SEED").unwrap_or_else(rand::random);
    println!("SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut random = StdRng::seed_from_u64(seed);
    let world = Arc::new(World::new(random.random_bool(0.5)).await);
    let policy = ["finish_block", "finish_request", "stop"][random.random_range(0..3)];
    let mut mirror = Mirror::of(&world.hub)
        .set("fetch.when_client_leaves", policy)
        .set("fetch.connections", random.random_range(1..12))
        .set("fetch.run_size", ["1MiB", "3MiB", "8MiB"][random.random_range(0..3)])
        .set("eviction.max_size", "24MiB")
        .set("eviction.strategy", ["lru", "fifo", "large_first"][random.random_range(0..3)])
        .set("freshness.revision", "1s")
        .set("upstream.read_timeout", "2s")
        // Trouble goes on meanwhile, and a request may last as long as `upstream.patience`.
        .set("server.drain_timeout", "5s")
        .set("upstream.api_calls", 0)
        .set("upstream.resolver_calls", 0)
        .start()
        .await;
    *world.address.lock().expect("no panic") = Some(mirror.address());

    let mut actors = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        actors.spawn(client(world.clone(), random.random::<u64>() ^ n, until));
    }
    actors.spawn(trouble(world.clone(), random.random(), until));
    killer(world.clone(), &mut mirror, random.random(), until).await;
    while let Some(actor) = actors.join_next().await {
        if let Err(panicked) = actor {
            println!("SOAK_SEED={seed}; the mirror's log ends:\n{}", last_lines(&mirror.log(), 40));
            std::panic::resume_unwind(panicked.into_panic());
        }
    }

    // The trouble is over: everything is right again, without help.
    world.hub.clear_faults();
    for (target, content, _) in &world.files {
        let mut tries = 0;
        loop {
            let answer = mirror.ask("GET", target, &[TOKEN]).await;
            if answer.status == 200 && answer.whole {
                assert!(answer.body == *content, "SOAK_SEED={seed}: {target}");
                break;
            }
            tries += 1;
            assert!(tries < 60, "SOAK_SEED={seed}: {target}: {} {:?}", answer.status, answer.headers);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    assert!(!mirror.log().contains("panicked"), "SOAK_SEED={seed}:\n{}", mirror.log());
    assert!(world.hub.leaks().is_empty(), "SOAK_SEED={seed}");
    // What is on disk is right as well, or is found and mended.
    let repos = mirror.repos().display().to_string();
    dingospeed(&["verify", "--repair", "--repos", &repos], &[]).await;
    let (code, stderr, stdout) = dingospeed(&["verify", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "SOAK_SEED={seed}: {stderr}{stdout}");
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("{} right, {} refused, {} cut", of(&world.right), of(&world.refused), of(&world.cut));
    let mut said: Vec<_> = world.said.lock().expect("no panic").clone().into_iter().collect();
    said.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    said.iter().take(8).for_each(|(words, count)| println!("{count:6} x {words}"));
    assert!(of(&world.right) > 20, "SOAK_SEED={seed}: hardly anything was answered");
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
