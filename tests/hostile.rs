//! Clients that mean harm, or are as broken as if they did: a clean 4xx or a closed connection, and no effect on others.

#![allow(clippy::unwrap_used, reason = "helpers of tests as well")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Connection, Mirror, MirrorOptions};

const MIB: usize = 1 << 20;
const FILE: &str = "/acme/m/resolve/main/w.bin";
const SIZE: usize = 2 * MIB + 77;
/// How long any single thing in these tests may take.
const TEST_MAX: Duration = Duration::from_secs(30);

struct Setup {
    hub: FakeHub,
    bytes: Vec<u8>,
}

async fn setup() -> Setup {
    let hub = FakeHub::start().await;
    let bytes = noise(21, SIZE).to_vec();
    hub.model("acme/m").lfs("w.bin", &bytes).file("config.json", "{}").commit("first");
    Setup { hub, bytes }
}

/// A mirror to which loopback is a stranger like any other.
fn wary(hub: &FakeHub) -> MirrorOptions {
    Mirror::of(hub).set("server.trusted_proxies", "[]")
}

/// Asserts that a client who means well is served rightly.
#[track_caller]
fn assert_right(answer: &crate::harness::Response, bytes: &[u8]) {
    assert_eq!(answer.status, 200, "{:?}", answer.header("x-error-message"));
    assert!(answer.whole && answer.body == bytes, "{} bytes", answer.body.len());
}

/// Sends bytes and reads all that comes until the mirror closes; the flag tells whether it did.
async fn raw(address: SocketAddr, request: impl AsRef<[u8]>) -> (String, bool) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The mirror may close before it has read all.
    let _ = stream.write_all(request.as_ref()).await;
    read_all(&mut stream, Duration::from_secs(3)).await
}

async fn read_all(stream: &mut TcpStream, time: Duration) -> (String, bool) {
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(time, async {
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..len]);
        }
    });
    let closed = closed.await.is_ok();
    (String::from_utf8_lossy(&answer).into_owned(), closed)
}

/// Returns the statuses of all answers in what was read.
fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// Returns the process's resident memory in bytes.
fn resident(mirror: &Mirror) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mirror.pid())).expect("the mirror runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn open_files(mirror: &Mirror) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", mirror.pid())).expect("the mirror runs").count()
}

/// Returns every path below a directory.
fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            found.push(entry.path().to_string_lossy().into_owned());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Waits until it holds; panics after [`TEST_MAX`].
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < TEST_MAX, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn refused(mirror: &Mirror, limit: &str) -> f64 {
    mirror.metrics().await.of(&format!("dingospeed_refused_total{{limit=\"{limit}\"}}"))
}

// ---- slow ----

#[tokio::test]
async fn a_head_that_trickles_is_ended() {
    let s = setup().await;
    let mirror = Mirror::of(&s.hub).set("server.head_timeout", "1s").start().await;
    for kept_alive in [false, true] {
        let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
        if kept_alive {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = [0; 4096];
            assert!(stream.read(&mut answer).await.unwrap() > 0);
            // Longer than a head may take: a connection at rest is another matter.
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        let began = Instant::now();
        let (mut from, mut to) = stream.split();
        let trickle = async {
            to.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ").await?;
            loop {
                to.write_all(b"a").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            #[allow(unreachable_code, reason = "gives the block its type")]
            Ok::<(), std::io::Error>(())
        };
        let answer = async {
            let mut answer = Vec::new();
            // An error is a reset, which may follow the answer since we go on sending.
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut piece).await {
                answer.extend_from_slice(&piece[..len]);
            }
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = tokio::select! {
            answer = answer => answer,
            broken = trickle => panic!("{broken:?} before the answer"),
            () = tokio::time::sleep(TEST_MAX) => panic!("a trickling head is never ended"),
        };
        assert_eq!(statuses(&answer), [408], "{answer}");
        assert!(answer.contains("server.head_timeout"), "{answer}");
        assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
    // One that never says a word gets none.
    let mut silent = TcpStream::connect(mirror.address()).await.unwrap();
    assert_eq!(read_all(&mut silent, TEST_MAX).await, (String::new(), true));
    assert_eq!(refused(&mirror, "server.head_timeout").await, 3.0);
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let s = setup().await;
    let mirror = Mirror::of(&s.hub).set("server.keepalive_timeout", "1s").start().await;
    let mut connection = mirror.connect().await;
    for _ in 0..3 {
        connection.ask("GET", FILE, &[]).await;
        assert_right(&connection.response("GET").await, &s.bytes);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert!(connection.closes_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_reader_that_stops_is_dropped_and_a_slow_one_is_not() {
    const LARGE: usize = 24 * MIB;
    let s = setup().await;
    let large = noise(22, LARGE).to_vec();
    s.hub.model("acme/large").lfs("w.bin", &large).commit("first");
    let target = "/acme/large/resolve/main/w.bin";
    let mirror = Mirror::of(&s.hub).set("server.send_timeout", "2s").start().await;
    assert_right(&mirror.get(target).await, &large);

    // A small window, so that what is not read stays with the mirror.
    let open = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut stream = socket.connect(mirror.address()).await.unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        stream
    };
    let stopped = async {
        let mut stream = open().await;
        let mut piece = vec![0; 64 << 10];
        let began = Instant::now();
        let mut len = stream.read(&mut piece).await.unwrap();
        eventually("a stopped reader is dropped", async || refused(&mirror, "server.send_timeout").await == 1.0).await;
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            len += read;
        }
        assert!(len < LARGE, "the rest is gone, as a cut");
    };
    let slow = async {
        let mut stream = open().await;
        let mut body = Vec::new();
        let mut piece = vec![0; 8 << 10];
        let began = Instant::now();
        // So slow that the socket is not writable for seconds on end, though something is taken all the time.
        while began.elapsed() < Duration::from_secs(10) {
            let len = stream.read(&mut piece).await.expect("a slow reader is not cut");
            body.extend_from_slice(&piece[..len]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let head_end = body.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        while body.len() < head_end + LARGE {
            let len = stream.read_buf(&mut body).await.expect("a slow reader is not cut");
            assert!(len > 0, "cut at {}", body.len());
        }
        assert!(body[head_end..] == large, "other bytes");
    };
    tokio::join!(stopped, slow);
    assert_eq!(refused(&mirror, "server.send_timeout").await, 1.0);
}

#[tokio::test]
async fn a_stopped_reader_of_a_cold_file_holds_up_nobody() {
    let s = setup().await;
    let large = noise(23, 16 * MIB).to_vec();
    s.hub.model("acme/large").lfs("w.bin", &large).commit("first");
    let mirror = Mirror::start(&s.hub).await;
    let mut stopped = mirror.connect().await;
    stopped.ask("GET", "/acme/large/resolve/main/w.bin", &[]).await;
    stopped.head("GET").await.unwrap();
    let got = tokio::time::timeout(TEST_MAX, mirror.get("/acme/large/resolve/main/w.bin")).await.expect("in time");
    assert_right(&got, &large);
}

#[tokio::test]
async fn a_body_that_trickles_or_does_not_end_is_refused() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let head = "POST /api/models/acme/m/paths-info/main HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let (answer, closed) = raw(mirror.address(), format!("{head}Content-Length: 999999999\r\n\r\n{}", "a".repeat(5 * MIB))).await;
    assert!(closed && statuses(&answer).iter().all(|status| *status == 400), "{answer}");
    for chunks in [
        "zz\r\n",
        "-1\r\n",
        "+5\r\n",
        "0x5\r\n",
        "fffffffffffffffff\r\n",
        "ffffffffffffffff\r\n",
        "5\nhello\n0\n\n",
        "5;\0\r\n",
        "5\r\nhelloworld\r\n",
    ] {
        let (answer, closed) = raw(
            mirror.address(),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        )
        .await;
        let statuses = statuses(&answer);
        assert!(
            closed && statuses.len() <= 1 && statuses.iter().all(|status| (400..500).contains(status)),
            "{chunks:?}: {answer}"
        );
    }
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

// ---- many ----

#[tokio::test]
async fn a_thousand_idle_connections_take_little() {
    const MANY: usize = 1000;
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    let (memory, files) = (resident(&mirror), open_files(&mirror));
    let mut idle = Vec::new();
    for index in 0..MANY {
        let mut connection = mirror.connect().await;
        // Half of them have been used, half have never said a word.
        if index % 2 == 0 {
            connection.ask("GET", "/acme/m/resolve/main/config.json", &[]).await;
            assert_eq!(connection.response("GET").await.status, 200);
        }
        idle.push(connection);
    }
    assert_right(&mirror.get(FILE).await, &s.bytes);
    let grown = resident(&mirror).saturating_sub(memory);
    eprintln!("{} KiB per idle connection", grown / MANY / 1024);
    assert!(grown < 64 * MIB, "{} KiB per idle connection", grown / MANY / 1024);
    let opened = open_files(&mirror).saturating_sub(files);
    assert!((MANY..MANY + 50).contains(&opened), "{opened} files for {MANY} connections");
    drop(idle);
    eventually("closed connections give back their descriptors", async || open_files(&mirror) < files + 50).await;
    assert!(mirror.metrics().await.of("dingospeed_connections") < 10.0);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let s = setup().await;
    let mirror = Mirror::of(&s.hub).set("server.connections", 16).start().await;
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut connection = mirror.connect().await;
        connection.ask("GET", "/healthz", &[]).await;
        assert_eq!(connection.response("GET").await.status, 200);
        open.push(connection);
    }
    let answer = mirror.get(FILE).await;
    assert_eq!(answer.status, 503);
    assert!(answer.whole && answer.header("retry-after").is_some(), "{answer:?}");
    assert!(answer.header("x-error-message").is_some_and(|said| said.contains("server.connections")), "{answer:?}");
    // Those inside do not notice.
    open[0].ask("GET", FILE, &[]).await;
    assert_right(&open[0].response("GET").await, &s.bytes);
    drop(open);
    eventually("there is room again", async || mirror.get(FILE).await.status == 200).await;
}

/// A connection from another address of this machine.
async fn connect_from(client: &str, mirror: &Mirror) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
    socket.connect(mirror.address()).await.unwrap()
}

async fn ask_from(client: &str, mirror: &Mirror, target: &str, headers: &str) -> String {
    let mut stream = connect_from(client, mirror).await;
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (answer, closed) = read_all(&mut stream, TEST_MAX).await;
    assert!(closed);
    answer
}

#[tokio::test]
async fn connections_of_one_client_are_limited() {
    let s = setup().await;
    let options = wary(&s.hub).set("server.connections_per_client", 2).set("server.queue_timeout", "500ms");
    let mirror = options.start().await;
    let inside = async || {
        let mut stream = connect_from("127.0.0.2", &mirror).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream
    };
    let (first, _second) = (inside().await, inside().await);
    let began = Instant::now();
    let answer = ask_from("127.0.0.2", &mirror, "/healthz", "").await;
    assert_eq!(statuses(&answer), [429], "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(450), "it waits for its turn first");
    assert!(answer.contains("Retry-After: ") && answer.contains("server.connections_per_client"), "{answer}");
    assert_eq!(statuses(&ask_from("127.0.0.3", &mirror, "/healthz", "").await), [200], "another client");
    let frees = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(first);
    };
    let (answer, ()) = tokio::join!(ask_from("127.0.0.2", &mirror, "/healthz", ""), frees);
    assert_eq!(statuses(&answer), [200], "who waits gets the next place: {answer}");
    let answer = ask_from("127.0.0.3", &mirror, "/metrics", "").await;
    assert!(answer.contains("dingospeed_refused_total{limit=\"server.connections_per_client\"} 1"), "{answer}");
}

#[tokio::test]
async fn requests_of_one_client_are_limited() {
    let s = setup().await;
    let gate = s.hub.fault("w.bin").on_cdn().times(1).hold_after(1000);
    let options = wary(&s.hub).set("server.requests_per_client", 1).set("server.queue_timeout", "300ms");
    let mirror = options.start().await;
    let mut busy = connect_from("127.0.0.2", &mirror).await;
    busy.write_all(format!("GET {FILE} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    gate.wait_reached().await;

    let config = "/acme/m/resolve/main/config.json";
    let answer = ask_from("127.0.0.2", &mirror, config, "").await;
    assert_eq!(statuses(&answer), [429], "{answer}");
    assert!(answer.contains("Retry-After: ") && answer.contains("server.requests_per_client"), "{answer}");
    // Nobody untrusted speaks for others, or each of its requests would be a new client.
    let answer = ask_from("127.0.0.2", &mirror, config, "X-Forwarded-For: 192.0.2.7\r\n").await;
    assert_eq!(statuses(&answer), [429], "{answer}");
    assert_eq!(statuses(&ask_from("127.0.0.2", &mirror, "/healthz", "").await), [200], "what costs nothing is free");
    assert_eq!(statuses(&ask_from("127.0.0.3", &mirror, config, "").await), [200], "another client");
    let opens = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.release();
        let mut body = vec![0; SIZE];
        busy.read_exact(&mut body).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask_from("127.0.0.2", &mirror, config, ""), opens);
    assert!(matches!(statuses(&answer)[..], [200] | [429]), "{answer}");
    eventually("the place is free again", async || statuses(&ask_from("127.0.0.2", &mirror, config, "").await) == [200]).await;
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_its_clients() {
    let s = setup().await;
    let gate = s.hub.fault("w.bin").on_cdn().times(1).hold_after(1000);
    let options = Mirror::of(&s.hub).set("server.requests_per_client", 1).set("server.queue_timeout", "0s");
    let mirror = options.set("server.connections_per_client", 1).start().await;
    let mut busy = mirror.connect().await;
    busy.ask("GET", FILE, &["X-Forwarded-For: 192.0.2.7"]).await;
    gate.wait_reached().await;

    let ask = async |forwarded: &str| mirror.ask("GET", FILE, &[forwarded, "Range: bytes=0-9"]).await.status;
    assert_eq!(ask("X-Forwarded-For: 192.0.2.7").await, 429);
    assert_eq!(ask("X-Forwarded-For: 203.0.113.1, 192.0.2.7, 127.0.0.9").await, 429);
    assert_eq!(ask("X-Forwarded-For: 192.0.2.8").await, 206);
    assert_eq!(ask("X-Other: the machine itself").await, 206);
    gate.release();
    assert_right(&busy.response("GET").await, &s.bytes);
}

#[tokio::test]
async fn thousands_of_bogus_paths_leave_nothing_behind() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    let mut connection = mirror.connect().await;
    let ask_all = async |connection: &mut Connection, round: usize| {
        for n in 0..700 {
            let deep = "d/".repeat(n % 50);
            for target in [
                format!("/bogus{round}x{n}/{deep}page"),
                format!("/no-{round}-{n}/such-repo/resolve/main/{deep}w.bin"),
                format!("/api/models/no-{round}-{n}/such-repo/tree/main?recursive=true"),
                format!("/acme/m/resolve/main/{deep}absent-{round}-{n}.bin"),
                format!("/acme/m/resolve/no-branch-{round}-{n}/w.bin"),
            ] {
                connection.ask("GET", &target, &[]).await;
                let answer = connection.response("GET").await;
                assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
            }
        }
    };
    ask_all(&mut connection, 0).await;
    let before = tree(&mirror.repos());
    let memory = resident(&mirror);
    ask_all(&mut connection, 1).await;
    let grown = resident(&mirror).saturating_sub(memory);
    assert!(grown < 24 * MIB, "{} KiB for 3,500 bogus requests", grown / 1024);
    let after = tree(&mirror.repos());
    let new: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    assert!(new.is_empty(), "{} new paths, such as {:?}", new.len(), new.first());
    let bogus: Vec<_> = after.iter().filter(|path| path.contains("no-") || path.contains("bogus")).collect();
    assert!(bogus.is_empty(), "{} paths of what is not there, such as {:?}", bogus.len(), bogus.first());
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn made_up_queries_fill_no_disk() {
    const MANY: usize = 500;
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    assert_eq!(mirror.get("/api/models/acme/m/tree/main?recursive=true").await.status, 200);
    let before = tree(&mirror.repos()).len();
    let mut connection = mirror.connect().await;
    for n in 0..MANY {
        connection.ask("GET", &format!("/api/models/acme/m/tree/main?recursive=true&junk={n}"), &[]).await;
        assert!(connection.response("GET").await.status < 500);
    }
    let new = tree(&mirror.repos()).len() - before;
    assert!(new < MANY / 10, "{new} files for {MANY} made-up queries");
}

// ---- malformed ----

#[tokio::test]
async fn giant_heads_are_refused() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let memory = resident(&mirror);
    let long = "a".repeat(100_000);
    let many: String = (0..300).map(|n| format!("X-{n}: y\r\n")).collect();
    let endless = "a: b\r\n".repeat(2_000_000);
    for (what, request) in [
        ("a long header", format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("a long method", format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("many headers", format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        ("no end", format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{endless}")),
    ] {
        let (answer, closed) = raw(mirror.address(), request).await;
        let statuses = statuses(&answer);
        assert!(closed, "{what}: {answer}");
        // Whoever goes on sending may see a reset in place of the answer.
        assert!(matches!(statuses[..], [] | [400] | [431]), "{what}: {answer}");
    }
    let polite = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(66_000));
    let (answer, closed) = raw(mirror.address(), polite).await;
    assert!(closed && statuses(&answer) == [431] && answer.contains("X-Error-Message: "), "{answer}");
    // What a client may well send.
    let (answer, _) = raw(
        mirror.address(),
        format!("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "a".repeat(30_000)),
    )
    .await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert!(resident(&mirror) < memory + 32 * MIB);
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

/// What pingora itself cannot read is refused in our words, too, and leaves a line in the log.
#[tokio::test]
async fn what_is_no_request_is_told_and_logged() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    for (request, status, said) in [
        ("GET / HTP/1.1\r\n\r\n", 400, "no HTTP/1.1 request"),
        ("nonsense\r\n\r\n", 400, "no HTTP/1.1 request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "no HTTP/1.1 request"),
        ("CONNECT huggingface.co:443 HTTP/1.1\r\nHost: huggingface.co:443\r\n\r\n", 405, "HF_ENDPOINT"),
    ] {
        let (answer, closed) = raw(mirror.address(), request).await;
        assert!(closed && statuses(&answer) == [status], "{request:?}: {answer}");
        let (head, body) = answer.rsplit_once("\r\n\r\n").expect("a head and a body");
        let message = head.lines().rev().find_map(|line| line.strip_prefix("X-Error-Message: ")).expect("a message");
        assert!(message.contains(said), "{message}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"], message);
    }
    // The second one on its connection.
    let mut connection = mirror.connect().await;
    connection.ask("GET", "/healthz", &[]).await;
    assert_eq!(connection.response("GET").await.status, 200);
    connection.send("nonsense\r\n\r\n").await;
    let refused = connection.response("GET").await;
    assert!(refused.status == 400 && refused.whole && refused.header("x-error-message").is_some(), "{}", refused.text());
    let lines = mirror.log().lines().filter(|line| line.contains("refused client=127.0.0.1") && line.contains(" error=")).count();
    assert_eq!(lines, 5, "{}", mirror.log());
    assert_eq!(mirror.metrics().await.of("dingospeed_requests_total{route=\"unreadable\",status=\"4xx\"}"), 5.0);
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn ambiguous_requests_end_the_connection() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let smuggled = "GET /acme/m/resolve/main/config.json HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 99999999999999999999999999\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: a\0b\r\n",
        "Host: b\r\n",
        "no colon\r\n",
        ": no name\r\n",
        "X y: space\r\n",
    ] {
        for method in ["GET /healthz", "POST /api/models/acme/m/paths-info/main"] {
            let (answer, closed) =
                raw(mirror.address(), format!("{method} HTTP/1.1\r\nHost: a\r\n{head}\r\n{chunked}{smuggled}")).await;
            assert!(closed, "{method} {head:?} stays open: {answer}");
            assert_eq!(statuses(&answer), [400], "{method} {head:?}: {answer}");
            assert!(answer.contains("X-Error-Message: "), "{method} {head:?}: {answer}");
        }
    }
    for request in [
        "GET /healthz HTTP/1.1\nHost: a\n\n",
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let (answer, closed) = raw(mirror.address(), request).await;
        assert!(closed && statuses(&answer) == [400], "{request:?}: {answer}");
        assert!(answer.contains("X-Error-Message: "), "{request:?}: {answer}");
    }
    // A body where none belongs: the answer is given, and what follows is not taken for a request.
    for request in [
        format!("GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("GET {FILE} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{smuggled}"),
    ] {
        let (answer, closed) = raw(mirror.address(), &request).await;
        assert!(closed && matches!(statuses(&answer)[..], [200 | 206]), "{request}: {answer}");
    }
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn garbage_is_refused() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let mut requests: Vec<Vec<u8>> = [
        "\r\n\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "get / http/1.1\r\nHost: a\r\n\r\n",
        "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT huggingface.co:443 HTTP/1.1\r\nHost: huggingface.co:443\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET http://[::1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET ://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a@b\r\nConnection: close\r\n\r\n",
    ]
    .map(|request| request.as_bytes().to_vec())
    .into();
    // The first bytes of a TLS handshake, of SSH, and of nothing at all.
    requests.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(8));
    requests.push(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec());
    requests.push(noise(3, 4096).to_vec());
    requests.push(vec![0xff; 4096]);
    requests.push(b"GET /\xff\xfe\xc0\xaf HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec());
    for request in &requests {
        let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
        let _ = stream.write_all(request).await;
        // The end of what is sent, so that a head which never comes is not waited for.
        let _ = stream.shutdown().await;
        let (answer, closed) = read_all(&mut stream, TEST_MAX).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(80)]).into_owned();
        assert!(closed, "{shown:?}: {answer}");
        assert!(statuses(&answer).iter().all(|status| (200..500).contains(status)), "{shown:?}: {answer}");
        assert!(statuses(&answer).len() <= 1, "{shown:?}: {answer}");
    }
    assert!(!mirror.log().contains("panicked"), "{}", mirror.log());
    assert_right(&mirror.get(FILE).await, &s.bytes);
}

#[tokio::test]
async fn no_spelling_leads_out_of_the_directory() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    let file = mirror.get(FILE).await;
    assert_right(&file, &s.bytes);
    let commit = file.header("x-repo-commit").unwrap_or_default();
    mirror.wait_link(&format!("models/acme/m/resolve/{commit}/w.bin")).await;
    // Once a second file is asked for the mirror lists the commit by itself, which is kept.
    for absent in ["one", "two"] {
        assert_eq!(mirror.get(&format!("/acme/m/resolve/main/{absent}")).await.status, 404);
    }
    let before = tree(&mirror.repos());
    let secret = mirror.repos().parent().expect("a folder around it").join("secret.txt");
    std::fs::write(&secret, "the secret").unwrap();
    let asked = s.hub.calls().len();
    let dots = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252e",
        "..%00",
        "..%2f",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "%c0%ae%c0%ae",
        "%uff0e",
        "..;",
        "....//",
        ".%00.",
        "%2e%2e%2f%2e%2e%2f",
        "%00",
        "..%ef%bc%8f",
    ];
    for dots in dots {
        for target in [
            format!("/{dots}/{dots}/secret.txt"),
            format!("/acme/m/resolve/main/{dots}/{dots}/{dots}/{dots}/secret.txt"),
            format!("/acme/{dots}/resolve/main/secret.txt"),
            format!("/{dots}/m/resolve/main/secret.txt"),
            format!("/acme/m/resolve/{dots}/secret.txt"),
            format!("/api/models/{dots}/{dots}/tree/main"),
            format!("/api/models/acme/m/tree/main/{dots}"),
            format!("/api/models/acme/m/revision/{dots}"),
            format!("/datasets/{dots}/{dots}/resolve/main/secret.txt"),
            format!("http://a/{dots}/{dots}/secret.txt"),
        ] {
            let (answer, closed) =
                raw(mirror.address(), format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
            assert!(closed && matches!(statuses(&answer)[..], [400..500]), "{target}: {answer}");
            assert!(!answer.contains("the secret"), "{target}");
        }
    }
    let after = tree(&mirror.repos());
    let new: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    assert!(new.is_empty(), "{new:?}");
    for call in &s.hub.calls()[asked..] {
        let plain = percent_encoding::percent_decode_str(&call.target()).decode_utf8_lossy().into_owned();
        assert!(!plain.split('/').any(|segment| segment == ".." || segment == "."), "upstream was asked {}", call.target());
    }
}

#[tokio::test]
async fn absurd_ranges_get_right_bytes_or_a_416() {
    let s = setup().await;
    let mirror = Mirror::start(&s.hub).await;
    assert_right(&mirror.get(FILE).await, &s.bytes);
    let memory = resident(&mirror);
    let list =
        |count: usize, range: &dyn Fn(usize) -> String| format!("bytes={}", (0..count).map(range).collect::<Vec<_>>().join(","));
    for (what, range, expected) in [
        ("thousands", list(4000, &|n| format!("{}-{}", n * 2, n * 2)), 200),
        ("the same again and again", list(1000, &|_| "0-".into()), 200),
        ("overlapping", list(100, &|_| "0-2000000".into()), 200),
        ("descending", list(50, &|n| format!("{}-{}", 1000 - n * 2, 1000 - n * 2)), 200),
        ("many", list(150, &|n| format!("{}-{}", n * 10_000, n * 10_000 + 9)), 206),
        ("past 64 bits", "bytes=99999999999999999999999-".into(), 416),
        ("to past 64 bits", "bytes=5-99999999999999999999999".into(), 206),
        ("the last of all", "bytes=18446744073709551615-18446744073709551615".into(), 416),
        ("a last too long", "bytes=-99999999999999999999999".into(), 206),
        ("none", "bytes=-0".into(), 416),
        ("backwards", "bytes=9-5".into(), 200),
        ("another unit", "lines=1-2".into(), 200),
        ("no numbers", "bytes=--,-,a-b".into(), 200),
        ("long", format!("bytes={}0-1", " ".repeat(20_000)), 200),
        ("twice", "bytes=0-1\r\nRange: bytes=4-5".into(), 206),
    ] {
        let answer = mirror.get_range(FILE, &range).await;
        assert_eq!(answer.status, expected, "{what}");
        assert!(answer.whole, "{what}");
        if expected == 200 {
            assert!(answer.body == s.bytes, "{what}");
        }
        if let Some(content_range) = answer.header("content-range").filter(|_| expected == 206) {
            let (first, rest) = content_range.strip_prefix("bytes ").unwrap().split_once('-').unwrap();
            let first: usize = first.parse().unwrap();
            let last: usize = rest.split('/').next().unwrap().parse().unwrap();
            assert!(answer.body == s.bytes[first..=last], "{what}: {content_range}");
        }
    }
    let grown = resident(&mirror).saturating_sub(memory);
    assert!(grown < 32 * MIB, "{} KiB", grown / 1024);
}
