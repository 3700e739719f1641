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
async fn what_is_not_kept_was_not_pulled() {
    let hub = FakeHub::start().await;
    hub.model("acme/huge").synthetic("w.bin", 12 << 20, 3).file("config.json", "{}").commit("first");
    let dir = tempfile::tempdir().unwrap();
    let url = hub.url();
    let pull = async |store: &str, more: &[&str]| {
        let repos = dir.path().join(store).display().to_string();
        let args = ["pull", "acme/huge", "--json", "--repos", &repos, "--upstream", &url];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        let (code, stderr, stdout) = dingospeed(&args, &[]).await;
        let told: serde_json::Value = serde_json::from_str(&stdout).expect("one value");
        (code, stderr, told)
    };
    // One block at a time: it stops at the limit.
    let small = ["eviction.max_size=2MiB", "fetch.connections_per_object=1", "fetch.run_size=1MiB"];
    let sets: Vec<&str> = small.iter().flat_map(|set| ["--set", set]).collect();
    let (code, stderr, told) = pull("limited", &sets).await;
    assert_eq!((code, &told["pulled"]["repos"]), (Some(1), &0.into()), "{stderr}");
    assert!(stderr.contains("w.bin: ") && stderr.contains("larger than eviction.max_size, 2.00 MiB"), "{stderr}");
    let failed = &told["repos"][0]["failed"];
    assert!(failed.as_array().is_some_and(|failed| failed.iter().any(|file| file["path"] == "w.bin")), "{told}");

    let (code, stderr, told) = pull("ruled", &["--set", "rules.cache_deny=[models/acme/huge]"]).await;
    assert_eq!((code, told["repos"][0]["failed"].as_array().map(Vec::len)), (Some(1), Some(2)), "{told}");
    assert!(stderr.contains("2 of 2 files failed") && stderr.contains("rules.cache_deny"), "{stderr}");

    let (code, stderr, told) = pull("ruled", &[]).await;
    assert_eq!(
        (code, &told["pulled"]["files"], &told["repos"][0]["failed"]),
        (Some(0), &2.into(), &serde_json::json!([])),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_while_the_others_were_pulled_is_told() {
    let hub = FakeHub::start().await;
    hub.model("acme/first").lfs("a.bin", noise(3, 70_000)).commit("first");
    hub.model("acme/second").lfs("b.bin", noise(4, 70_000)).commit("first");
    let gate = hub.fault("b.bin").hold();
    let dir = tempfile::tempdir().unwrap();
    let (repos, url) = (dir.path().display().to_string(), hub.url());
    let args = ["pull", "acme/first", "acme/second", "--repos", &repos, "--upstream", &url, "-q"];
    let removed = async {
        gate.wait_reached().await;
        let (code, stderr, _) = dingospeed(&["rm", "acme/first", "--yes", "--repos", &repos], &[]).await;
        assert_eq!(code, Some(0), "{stderr}");
        gate.release();
    };
    let ((code, stderr, stdout), ()) = tokio::join!(dingospeed(&args, &[]), removed);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("1 of 1 file not kept any more") && stderr.contains("a.bin: "), "{stderr}");
    assert!(stderr.contains("not pulled: models/acme/first@main\n"), "{stderr}");
    assert!(stdout.starts_with("models/acme/second@") && stdout.lines().count() == 1, "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_kept_is_told_and_no_repo_is_complete_without_it() {
    let hub = FakeHub::start().await;
    let odd = "new\nline\u{1b}[31m.txt";
    let commit = hub.model("acme/odd").file("a.txt", "abc").file(odd, "de").commit("first").sha();
    let dir = tempfile::tempdir().unwrap();
    let (repos, url) = (dir.path().display().to_string(), hub.url());
    let args = ["pull", "acme/odd", "--json", "--repos", &repos, "--upstream", &url];
    let (code, stderr, stdout) = dingospeed(&args, &[]).await;
    let told: serde_json::Value = serde_json::from_str(&stdout).expect("one value");
    assert_eq!((code, &told["repos"][0]["files"]), (Some(1), &2.into()), "{stderr}");
    assert_eq!(told["repos"][0]["failed"][0]["path"], odd, "{told}");
    assert!(stderr.contains("new\\nline\\u{1b}[31m.txt: ") && stderr.contains("control character"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'), "{stderr}");
    let ls = async |more: &[&str]| {
        let args: Vec<&str> = ["ls", "--repos", &repos].iter().chain(more).copied().collect();
        dingospeed(&args, &[]).await.2
    };
    assert!(!ls(&[]).await.contains("complete"), "{}", ls(&[]).await);
    assert_eq!(ls(&["-q", "-f", "complete=false"]).await, "models/acme/odd\n");
    // Nor where a tar of it is loaded.
    let (tar, there) = (dir.path().join("odd.tar").display().to_string(), dir.path().join("there").display().to_string());
    for args in [["export", "acme/odd", "-o", &tar, "--repos", &repos].as_slice(), &["load", &tar, "--repos", &there]] {
        assert_eq!(dingospeed(args, &[]).await.0, Some(0), "{args:?}");
    }
    assert!(dingospeed(&["ls", "-q", "-f", "complete=true", "--repos", &there], &[]).await.2.is_empty());

    // Who leaves it out has all that was wanted.
    let without: Vec<&str> = args.iter().copied().chain(["--exclude", "new*"]).filter(|word| *word != "--json").collect();
    let (code, stderr, stdout) = dingospeed(&without, &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains(&format!("pulled acme/odd@{commit}: 1 file")), "{stdout}");
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
