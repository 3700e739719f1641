//! The mirror as a process: one per directory, an orderly end and a quick one, its log and its numbers.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, noise};

use crate::harness::{Mirror, dingospeed, program};

const MIB: usize = 1 << 20;
const FILE: &str = "/acme/large/resolve/main/w.bin";

#[tokio::test]
async fn a_directory_serves_one_process_at_a_time() {
    let hub = FakeHub::start().await;
    let mut first = Mirror::start(&hub).await;
    let folder = first.repos();
    let second = Mirror::of(&hub).repos(&folder).try_start().await;
    let said = second.err().expect("the second one is refused");
    assert!(said.contains("exit status: 1"), "{said}");
    assert!(said.contains(&*folder.to_string_lossy()), "names the directory: {said}");
    assert!(
        said.contains("use") && said.contains(&first.pid().to_string()),
        "says that another process uses it, and which: {said}"
    );
    assert!(!said.contains("panicked"), "{said}");

    assert_eq!(first.get("/healthz").await.status, 200);
    // A crash leaves no lock behind.
    first.kill().await;
    let again = Mirror::of(&hub).repos(&folder).start().await;
    assert_eq!(again.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_taken_port_is_a_plain_error() {
    let hub = FakeHub::start().await;
    let mirror = Mirror::start(&hub).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let address = mirror.address().to_string();
    let repos = folder.path().to_string_lossy().into_owned();
    let url = hub.url();
    let began = Instant::now();
    let (code, stderr, _) = dingospeed(&["serve", "--listen", &address, "--repos", &repos, "--upstream", &url], &[]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&address) && stderr.contains("--listen"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_token_file_that_cannot_be_read_may_be_there_later() {
    let hub = FakeHub::start().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("token");
    let shown = file.display().to_string();
    let repos = folder.path().join("repos").display().to_string();
    let (upstream, admin) = (format!("upstream.token_file={shown}"), format!("admin.token_file={shown}"));
    let tried = async |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let serve = dingospeed(&[&["serve", "--listen", "127.0.0.1:0", "--repos", &repos][..], &sets].concat(), &[]).await;
        let check = dingospeed(&[&["check"][..], &sets].concat(), &[]).await;
        assert_eq!((serve.0, &serve.1), (check.0, &check.1), "a check says what serving would");
        (serve.0, serve.1)
    };
    // The open door is no mistake: its token is only not here yet.
    let (code, stderr) = tried(&[&upstream, &admin, "admin.listen=0.0.0.0:0"]).await;
    assert_eq!((code, stderr.matches(&shown).count()), (Some(1), 2), "{stderr}");
    // What else is wrong stays so.
    let (code, stderr) = tried(&[&upstream, "server.threads=many"]).await;
    assert!(code == Some(2) && stderr.contains(&shown), "{stderr}");
    for content in [&b"\n"[..], b"hush hush", b"\xff\xfe"] {
        std::fs::write(&file, content).expect("a written file");
        let (code, stderr) = tried(&[&upstream]).await;
        assert!(code == Some(2) && stderr.contains("upstream.token"), "{content:?}: {stderr}");
    }
    std::fs::write(&file, "hf_abc\n").expect("a written file");
    Mirror::of(&hub).set("upstream.token_file", &shown).start().await;
}

/// A Hub whose CDN needs about three seconds for the file.
async fn slow_hub() -> (FakeHub, Vec<u8>) {
    let hub = FakeHub::builder().cdn_rate(MIB as u64).start().await.expect("two free ports");
    let bytes = noise(5, 3 * MIB).to_vec();
    hub.model("acme/large").lfs("w.bin", &bytes).commit("first");
    (hub, bytes)
}

#[tokio::test]
async fn sigterm_completes_what_runs() {
    let (hub, bytes) = slow_hub().await;
    let mut mirror = Mirror::start(&hub).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    let (status, _) = connection.head("GET").await.expect("an answer");
    assert_eq!(status, 200);
    let first = connection.piece().await.expect("a piece").expect("a first piece");
    let address = mirror.address();
    mirror.signal(libc::SIGTERM);

    let mut body = first.to_vec();
    while let Some(piece) = connection.piece().await.expect("not cut by SIGTERM") {
        body.extend_from_slice(&piece);
    }
    assert!(body == bytes, "{} bytes", body.len());
    let status = mirror.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_mirror_that_is_to_end_says_so_and_serves_on_for_the_drain_delay() {
    let (hub, bytes) = slow_hub().await;
    let mut mirror = Mirror::of(&hub).set("server.drain_delay", "1h").start().await;
    assert_eq!((mirror.get("/readyz").await.status, mirror.get("/healthz").await.status), (200, 200));
    mirror.signal(libc::SIGTERM);
    let ending = async {
        while mirror.get("/readyz").await.status == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ending).await.expect("told in time");
    let told = mirror.get("/readyz").await;
    assert_eq!((told.status, told.json()["status"].as_str()), (503, Some("ending")));
    // New connections, all of them.
    assert_eq!(mirror.get("/healthz").await.status, 200, "it is alive");
    assert!(mirror.get(FILE).await.body == bytes);
    mirror.signal(libc::SIGINT);
    assert_eq!(mirror.ended().await.code(), Some(130), "whoever is in a hurry need not wait");
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_end() {
    let hub = FakeHub::start().await;
    let mut mirror = Mirror::start(&hub).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", "/healthz", &[]).await;
    assert_eq!(connection.response("GET").await.status, 200);
    let began = Instant::now();
    assert_eq!(mirror.stop().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn sigint_ends_at_once() {
    let (hub, _) = slow_hub().await;
    let mut mirror = Mirror::start(&hub).await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    connection.head("GET").await.expect("an answer");
    let began = Instant::now();
    mirror.signal(libc::SIGINT);
    let status = mirror.ended().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(130), "{status}");
    let cut = loop {
        match connection.piece().await {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "the client sees the cut");
}

#[tokio::test]
async fn the_numbers_are_there_and_their_labels_bounded() {
    let hub = FakeHub::start().await;
    hub.model("acme/large").lfs("w.bin", noise(3, 2 * MIB)).commit("first");
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get(FILE).await.status, 200);
    assert_eq!(mirror.get(FILE).await.status, 200);
    let before = mirror.metrics().await;
    for name in [
        "requests_total",
        "sent_bytes_total",
        "request_seconds_count",
        "upstream_requests_total",
        "upstream_bytes_total",
        "blocks_hit_total",
        "blocks_filled_total",
        "objects_verified_total",
        "clients",
        "disk_free_bytes",
        "build_info",
    ] {
        assert!(before.sum(&format!("dingospeed_{name}")) > 0.0, "{name} is missing or zero");
    }
    for name in ["first_byte_seconds_count", "bytes_per_second_count", "upstream_seconds_count", "disk_size_bytes"] {
        assert!(before.sum(&format!("dingospeed_{name}")) > 0.0, "{name} is missing or zero");
    }
    let count = |name: &str| before.of(&format!("dingospeed_{name}_count{{route=\"resolve\"}}"));
    assert_eq!((count("request_seconds"), count("first_byte_seconds"), count("bytes_per_second")), (2.0, 2.0, 2.0));
    for name in ["blocks_joined_total", "objects_broken_total", "blocks_broken_total", "flights", "disk_used_bytes", "blobs"] {
        let name = format!("dingospeed_{name}");
        assert!(before.samples().any(|(sample, _)| sample == name), "{name} is missing");
    }
    assert_eq!(before.of("dingospeed_blocks_filled_total"), 2.0);

    for n in 0..60 {
        for target in [
            format!("/bogus{n}"),
            format!("/api/bogus{n}/x"),
            format!("/a{n}/b{n}/resolve/main/c{n}"),
            format!("/v2/x{n}"),
            format!("/%2e%2e/{n}"),
        ] {
            let answer = mirror.get(&target).await;
            assert!((400..500).contains(&answer.status), "{target}");
        }
    }
    let after = mirror.metrics().await;
    for (sample, _) in after.samples() {
        for foreign in ["bogus", "/a1", "b59", "acme", "127.0.0.1"] {
            assert!(!sample.contains(foreign), "{sample}");
        }
    }
    let routes: BTreeSet<&str> =
        after.samples().filter_map(|(sample, _)| sample.split_once("route=\"")?.1.split('"').next()).collect();
    assert!(routes.len() <= 24, "{routes:?}");
}

#[tokio::test]
async fn the_log_has_one_line_per_request_and_no_secret() {
    let hub = FakeHub::start().await;
    hub.token("hf_secret");
    hub.model("acme/m").file("x.txt", "x").commit("first");
    let mirror = Mirror::start(&hub).await;
    for _ in 0..3 {
        mirror.ask("GET", "/acme/m/resolve/main/x.txt?token=alsosecret", &["Authorization: Bearer hf_secret"]).await;
    }
    mirror.head("/acme/m/resolve/main/absent.txt").await;
    mirror.get("/forged%0Aserved%20client=me").await;
    mirror.get("/bogus").await;
    // A line is written after its answer, so the order of two connections is not that of their answers.
    let began = std::time::Instant::now();
    while mirror.log().matches(" served client=").count() < 6 && began.elapsed().as_secs() < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let log = mirror.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" served client=")).collect();
    assert_eq!(lines.len(), 6, "{log}");
    let of_x = |line: &&&str| line.contains("/acme/m/resolve/main/x.txt");
    assert_eq!(lines.iter().filter(of_x).count(), 3, "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn the_log_as_json_has_an_object_per_line_and_no_secret() {
    let hub = FakeHub::start().await;
    hub.token("hf_secret");
    hub.model("acme/m").file("x y.txt", "x").commit("first");
    let mut mirror = Mirror::of(&hub).set("log.format", "json").set("admin.listen", "127.0.0.1:0").start().await;
    let target = "/acme/m/resolve/main/x%20y.txt?token=alsosecret";
    assert_eq!(mirror.ask("GET", target, &["Authorization: Bearer hf_secret"]).await.status, 200);
    mirror.get("/forged%22%0A%7B%22level%22:%22error%22%7D").await;
    mirror.get("/quote%22%20status=999").await;
    hub.down().await;
    mirror.get("/acme/other/resolve/main/absent.txt").await;
    // After its end everything has been written.
    assert_eq!(mirror.stop().await.code(), Some(0));
    let log = mirror.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        assert!(line["time"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let served: Vec<_> = lines.iter().filter(|line| line["message"] == "served").collect();
    assert_eq!(served.len(), 4, "{log}");
    let first = served.iter().find(|line| line["path"] == "/acme/m/resolve/main/x%20y.txt").expect("the request's line");
    for (key, value) in [("method", "GET"), ("route", "resolve"), ("from", "object"), ("level", "info")] {
        assert_eq!(first[key], value, "{first}");
    }
    assert!(first["status"] == 200 && first["sent"] == 1 && first["ms"].is_u64() && first["client"].is_string(), "{first}");
    assert!(served.iter().all(|line| line["status"] != 999), "{log}");
    assert!(lines.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains("HF_ENDPOINT="))), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test]
async fn a_check_tells_scripts_what_is_wrong() {
    let wrong = ["--set", "log.level=loud", "--set", "server.threds=4"];
    let check = async |words: &[&str]| dingospeed(&[&["check"], words].concat(), &[]).await;
    assert_eq!(check(&[]).await, (Some(0), String::new(), "ok\n".to_owned()));
    assert_eq!(check(&["--json"]).await, (Some(0), String::new(), "{\"ok\":true,\"mistakes\":[]}\n".to_owned()));
    assert_eq!(check(&["-q"]).await, (Some(0), String::new(), String::new()));
    let (code, stderr, stdout) = check(&[&wrong[..], &["--json"]].concat()).await;
    assert_eq!((code, stderr.as_str()), (Some(2), ""));
    let told: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    let mistakes = told["mistakes"].as_array().expect("mistakes");
    assert!(
        told["ok"] == false && mistakes.len() == 2 && mistakes[0].as_str().is_some_and(|one| one.contains("log.level")),
        "{told}"
    );
    for words in [&wrong[..], &[&wrong[..], &["-q"]].concat()] {
        let (code, stderr, stdout) = check(words).await;
        assert!(
            code == Some(2) && stdout.is_empty() && stderr.lines().count() == 2 && stderr.contains("server.threads"),
            "{stderr}"
        );
    }
}

/// Runs `serve` until it listens, with a warning on the way, and stderr in a file that systemd might have named as its journal.
async fn logged(is_journal: bool, format: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("stderr");
    let file = std::fs::File::create(&path).expect("a file");
    let facts = file.metadata().expect("its facts");
    let stream = format!("{}:{}", facts.dev(), facts.ino() + u64::from(!is_journal));
    let mut command = tokio::process::Command::new(program());
    command.args(["serve", "--listen", "127.0.0.1:0", "--offline", "--set", "access.operator_repos=[models/acme/x]", "--set"]);
    command.arg(format!("log.format={format}")).arg("--repos").arg(folder.path().join("repos"));
    command.env("JOURNAL_STREAM", stream).stderr(file).kill_on_drop(true);
    let _child = command.spawn().expect("the binary starts");
    let began = Instant::now();
    loop {
        let log = std::fs::read_to_string(&path).expect("its stderr");
        if log.contains("HF_ENDPOINT=") && log.ends_with('\n') {
            return log;
        }
        assert!(began.elapsed().as_secs() < 60, "{log}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_journal_is_told_the_level_of_each_line() {
    let line = |log: &str, word: &str| log.lines().find(|line| line.contains(word)).expect("a line").to_owned();
    let log = logged(true, "text").await;
    assert!(line(&log, "no upstream.token").starts_with("<4>WARN  access.operator_repos "), "{log}");
    assert!(line(&log, "HF_ENDPOINT=").starts_with("<6>dingospeed "), "{log}");
    let log = logged(true, "json").await;
    assert!(line(&log, "no upstream.token").starts_with("<4>{\"time\":"), "{log}");
    assert!(line(&log, "HF_ENDPOINT=").starts_with("<6>{\"time\":"), "{log}");
    // A file or pipe that stderr was turned into is none.
    let log = logged(false, "text").await;
    assert!(line(&log, "no upstream.token").contains("Z WARN ] access.operator_repos "), "{log}");
    assert!(line(&log, "HF_ENDPOINT=").starts_with("dingospeed "), "{log}");
}

#[tokio::test]
async fn a_drain_ends_in_time_whatever_still_runs() {
    let (hub, _) = slow_hub().await;
    let gate = hub.fault("w.bin").on_cdn().hold_after(1 << 20);
    let mut mirror = Mirror::of(&hub).set("server.drain_timeout", "1s").start().await;
    let mut connection = mirror.connect().await;
    connection.ask("GET", FILE, &[]).await;
    assert_eq!(connection.head("GET").await.expect("an answer").0, 200);
    gate.wait_reached().await;
    // A response that cannot end by itself.
    let status = tokio::time::timeout(Duration::from_secs(20), mirror.stop()).await.expect("an end, in time");
    assert!(status.success(), "{status}");
    assert!(mirror.log().contains("server.drain_timeout has passed"), "{}", mirror.log());
    assert!(connection.is_cut().await, "a short body never ends cleanly");
    assert!(!mirror.repos().join("ledger").exists(), "who is cut may still have been writing");
}

#[tokio::test]
async fn blocks_are_counted_as_what_they_were() {
    let hub = FakeHub::start().await;
    let bytes = noise(23, 5 << 20).to_vec();
    hub.model("acme/m").lfs("w.bin", &bytes).commit("first");
    let mirror = Mirror::start(&hub).await;
    let target = "/acme/m/resolve/main/w.bin";
    let count = async |name: &str| mirror.metrics().await.of(&format!("dingospeed_blocks_{name}_total"));

    assert!(mirror.get(target).await.whole);
    assert_eq!((count("hit").await, count("filled").await, count("joined").await), (0.0, 5.0, 0.0));
    assert!(mirror.get(target).await.whole);
    assert_eq!((count("hit").await, count("filled").await, count("joined").await), (5.0, 5.0, 0.0));
    // Nobody else wants these.
    for n in 1..4 {
        mirror.get_range(target, &format!("bytes={}-{}", n << 20, (n << 20) + 9)).await;
    }
    assert_eq!((count("hit").await, count("joined").await), (8.0, 0.0));
}

#[tokio::test]
async fn blocks_that_come_before_a_slow_client_takes_them_are_no_hits() {
    let hub = FakeHub::start().await;
    let bytes = noise(24, 24 << 20).to_vec();
    hub.model("acme/m").lfs("w.bin", &bytes).commit("first");
    let mirror = Mirror::start(&hub).await;
    let count = async |name: &str| mirror.metrics().await.of(&format!("dingospeed_blocks_{name}_total"));
    let filled = async |blocks: f64| {
        while count("filled").await < blocks {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let target = "/acme/m/resolve/main/w.bin";
    assert_eq!(mirror.get_range(target, "bytes=16777216-16777225").await.status, 206);
    filled(1.0).await;

    let mut connection = mirror.connect().await;
    connection.ask("GET", target, &[]).await;
    // More than the sockets hold.
    filled(24.0).await;
    // What is on its way counts before it has come.
    let sent = async || mirror.metrics().await.of("dingospeed_sent_bytes_total{route=\"resolve\"}");
    while sent().await <= 10.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sent().await < bytes.len() as f64);
    assert!(connection.response("GET").await.body == bytes);
    while sent().await < (bytes.len() + 10) as f64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sent().await, (bytes.len() + 10) as f64, "and once only");
    // But the one that was there is.
    assert_eq!((count("hit").await, count("filled").await, count("joined").await), (1.0, 24.0, 0.0));
}
