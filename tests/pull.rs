//! `dingospeed pull`: fills the cache from the command line, by itself or through a running server.

use crate::harness::{Mirror, dingospeed, program};
use fake_hub::{FakeHub, noise};

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_repo_needs_no_upstream_bytes() {
    let hub = FakeHub::start().await;
    let weights = noise(7, 5 << 20);
    hub.model("acme/pulled")
        .file("config.json", b"{}")
        .file("empty.txt", b"")
        .lfs("deep/weights.bin", &weights)
        .lfs("skipped.onnx", noise(8, 3 << 20))
        .commit("first");
    let dir = tempfile::tempdir().unwrap();
    let repos = dir.path().join("repos");
    let (repos_text, url) = (repos.display().to_string(), hub.url());
    let args = ["pull", "acme/pulled", "--include", "*.bin", "--include", "*.json", "--include", "*.txt"];
    let args: Vec<&str> = args.iter().copied().chain(["--repos", &repos_text, "--upstream", &url]).collect();

    let (code, stderr, stdout) = dingospeed(&args, &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("3 files"), "{stdout}");
    assert!(hub.cdn_bytes() >= weights.len() as u64);
    assert_eq!(hub.asked("skipped.onnx"), 0);

    // Again: nothing more comes from upstream's files.
    let before = hub.cdn_bytes();
    assert_eq!(dingospeed(&args, &[]).await.0, Some(0));
    assert_eq!(hub.cdn_bytes(), before);

    // Beside a running server the same command goes through it.
    let mirror = Mirror::of(&hub).repos(&repos).start().await;
    assert_eq!(dingospeed(&args, &[]).await.0, Some(0));
    assert_eq!(mirror.get("/acme/pulled/resolve/main/deep/weights.bin").await.body, weights);
    assert_eq!(hub.cdn_bytes(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repo_that_is_not_there_is_told_with_exit_code_1() {
    let hub = FakeHub::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (repos, url) = (dir.path().display().to_string(), hub.url());
    let (code, stderr, _) = dingospeed(&["pull", "acme/none", "--repos", &repos, "--upstream", &url], &[]).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("acme/none"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_repos_are_pulled_and_one_that_fails_does_not_stop_the_others() {
    let hub = FakeHub::start().await;
    for name in ["acme/one", "acme/two"] {
        hub.model(name).file("config.json", name).commit("first");
    }
    hub.dataset("acme/data").lfs("d.bin", noise(9, 70_000)).commit("first").tag("v1");
    let dir = tempfile::tempdir().unwrap();
    let (repos, url, list) = (dir.path().join("repos"), hub.url(), dir.path().join("list"));
    std::fs::write(&list, "# each week\nacme/two\ndatasets/acme/data@v1   # the tag\nacme/one\n").unwrap();
    let (repos_text, list_text) = (repos.display().to_string(), list.display().to_string());
    let args = ["pull", "acme/none", "acme/one", "--list", &list_text, "--repos", &repos_text, "--upstream", &url];
    let (code, stderr, stdout) = dingospeed(&args, &[]).await;
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("not pulled: models/acme/none@main"), "{stderr}");
    assert!(stdout.contains("pulled 3 of 4 repos: 3 files"), "{stdout}");
    let (_, _, listed) = dingospeed(&["ls", "--quiet", "--repos", &repos_text], &[]).await;
    assert_eq!(listed, "models/acme/one\nmodels/acme/two\ndatasets/acme/data\n");
    let (code, _, stdout) = dingospeed(&["pull", "--list", &list_text, "--repos", &repos_text, "--upstream", &url], &[]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("pulled 3 of 3 repos"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_told_to_scripts() {
    let hub = FakeHub::start().await;
    let one = hub.model("acme/one").file("a.txt", "abc").commit("first");
    let two = hub.dataset("acme/two").file("b.txt", "de").lfs("bad.bin", noise(4, 40_000)).commit("first");
    hub.fault("bad.bin").on_hub().status(403, &[("X-Error-Code", "GatedRepo"), ("X-Error-Message", "not you")]);
    let dir = tempfile::tempdir().unwrap();
    let (repos, url) = (dir.path().display().to_string(), hub.url());
    let pull = async |more: &[&str]| {
        let args = ["pull", "acme/one", "datasets/acme/two@main", "acme/none", "--repos", &repos, "--upstream", &url];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        let (code, stderr, stdout) = dingospeed(&args, &[]).await;
        assert_eq!(code, Some(1), "{stderr}");
        (stderr, stdout)
    };
    let (stderr, stdout) = pull(&["--json"]).await;
    let told: serde_json::Value = serde_json::from_str(&stdout).expect("one value");
    assert_eq!((&told["pulled"]["repos"], &told["pulled"]["files"], &told["pulled"]["bytes"]), (&1.into(), &1.into(), &3.into()));
    let repos_told = told["repos"].as_array().expect("repos");
    assert_eq!(repos_told.len(), 3, "{told}");
    let first = &repos_told[0];
    assert_eq!((&first["id"], &first["revision"]), (&"models/acme/one".into(), &"main".into()), "{first}");
    assert_eq!(
        (first["commit"].as_str(), first["files"].as_u64(), first["bytes"].as_u64()),
        (Some(&*one.sha()), Some(1), Some(3))
    );
    assert!(first["failed"] == serde_json::json!([]) && first["error"].is_null() && first["seconds"].is_f64(), "{first}");
    let second = &repos_told[1];
    assert_eq!((&second["id"], second["commit"].as_str()), (&"datasets/acme/two".into(), Some(&*two.sha())), "{second}");
    assert_eq!((&second["files"], &second["failed"][0]["path"]), (&2.into(), &"bad.bin".into()), "{second}");
    assert!(second["failed"][0]["error"].as_str().is_some_and(|error| error.contains("not you")), "{second}");
    let third = &repos_told[2];
    assert!(third["commit"].is_null() && third["files"] == 0 && third["error"].is_string(), "{third}");
    assert!(stderr.contains("not pulled: datasets/acme/two@main, models/acme/none@main"), "{stderr}");

    // Names alone are those of what is here now, for the next command.
    let (stderr, stdout) = pull(&["-q"]).await;
    assert_eq!(stdout, format!("models/acme/one@{}\n", one.sha()));
    assert!(!stderr.contains("a.txt") && stderr.contains("bad.bin"), "{stderr}");
    let (code, stderr, _) = dingospeed(&["pin", stdout.trim_end(), "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_broken_off_goes_on_where_it_was() {
    const SIZE: u64 = 24 << 20;
    let hub = FakeHub::start().await;
    hub.model("acme/long").synthetic("w.bin", SIZE, 3).commit("first");
    let slow = hub.fault("w.bin").on_cdn().rate(2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(program());
    command.args(["pull", "acme/long", "--upstream", &hub.url(), "--repos"]).arg(dir.path());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("the binary starts");
    let mut tries = 0;
    while hub.cdn_bytes() < SIZE / 3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        tries += 1;
        assert!(tries < 400, "a third of it comes");
    }
    child.kill().await.expect("killed");
    slow.lift();
    hub.wait_idle().await;

    let repos = dir.path().display().to_string();
    let (code, stderr, _) = dingospeed(&["pull", "acme/long", "--repos", &repos, "--upstream", &hub.url()], &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    // What was on its way in each of the connections is lost, and what upstream had sent into them.
    let lost = hub.cdn_bytes() - SIZE;
    assert!(lost < 12 << 20, "{lost} bytes came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_sees_a_bar() {
    let hub = FakeHub::start().await;
    hub.model("acme/bar").synthetic("w.bin", 2 << 20, 3).commit("first");
    hub.fault("w.bin").on_cdn().rate(1 << 20);
    let dir = tempfile::tempdir().unwrap();
    // Python's standard library has a terminal to offer.
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut command = tokio::process::Command::new("python3");
    command.args(["-c", script]).arg(program()).args(["pull", "acme/bar", "--upstream", &hub.url(), "--repos"]).arg(dir.path());
    let shown = command.stdin(std::process::Stdio::null()).output().await.expect("python3 runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{text}");
    for word in ["iB/s", "eta", "w.bin", "pulled acme/bar@"] {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}
