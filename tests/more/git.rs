//! git itself, in front of the mirror and of git's own server: a clone and a fetch pass, a push is refused or passes.

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{Mirror, Ran, root, run_within};

const PUSHED: &str = "acme/m";

fn git(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = crate::client("git", folder);
    command.args(["-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"]);
    command.args(arguments).env("GIT_TERMINAL_PROMPT", "0");
    command
}

async fn ok(folder: &Path, arguments: &[&str]) -> Ran {
    crate::run(git(folder, arguments), &format!("git {}", arguments.join(" "))).await
}

/// git's own server, over HTTP. It ends with this.
struct Server {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Server {
    async fn start(folder: &Path) -> Server {
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        let mut command = crate::client(python, folder);
        command.arg(root().join("tests/clients/git_hub.py")).arg(folder).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("Python runs");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let url = lines.next_line().await.expect("its output").expect("its URL");
        Server { _child: child, lines, url }
    }

    /// The next request that came.
    async fn request(&mut self) -> String {
        self.lines.next_line().await.expect("its output").expect("a request")
    }
}

/// A repository of two files, and of one commit.
async fn publish(folder: &Path) {
    let work = folder.join("work");
    ok(folder, &["init", "-q", "work"]).await;
    std::fs::write(work.join("config.json"), "{}").expect("a file");
    std::fs::write(work.join("noise.bin"), fake_hub::noise(7, 3 << 20)).expect("a file");
    ok(&work, &["add", "."]).await;
    ok(&work, &["commit", "-q", "-m", "first"]).await;
    ok(folder, &["clone", "-q", "--bare", "work", &format!("{PUSHED}.git")]).await;
    ok(folder, &["-C", &format!("{PUSHED}.git"), "config", "http.receivepack", "true"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones_and_fetches_through_the_mirror() {
    let folder = TempDir::new().expect("a temporary directory");
    publish(folder.path()).await;
    let mut server = Server::start(folder.path()).await;
    let mirror = Mirror::of_url(&server.url).start().await;
    let user = folder.path().join("user");
    std::fs::create_dir(&user).expect("a home");
    // With a token, as users write it, and without.
    let with_token = mirror.url().replace("://", "://user:hf_alice@");
    for (name, url, options) in [
        ("one", format!("{with_token}/{PUSHED}"), &["--quiet"][..]),
        ("two", format!("{}/{PUSHED}.git", mirror.url()), &["--depth=1"]),
    ] {
        let arguments: Vec<&str> = ["clone"].iter().chain(options).copied().chain([url.as_str(), name]).collect();
        ok(&user, &arguments).await;
        let copy = std::fs::read(user.join(name).join("noise.bin")).expect("a file of the clone");
        assert!(copy == fake_hub::noise(7, 3 << 20), "{name}");
    }
    assert!(server.request().await.starts_with(&format!("GET /{PUSHED}/info/refs?service=git-upload-pack ")));
    let work = folder.path().join("work");
    std::fs::write(work.join("new.txt"), "new").expect("a file");
    ok(&work, &["add", "."]).await;
    ok(&work, &["commit", "-q", "-m", "second"]).await;
    ok(&work, &["push", "-q", &format!("../{PUSHED}.git"), "main"]).await;
    ok(&user.join("one"), &["pull", "-q"]).await;
    assert_eq!(std::fs::read_to_string(user.join("one/new.txt")).expect("what was fetched"), "new");
    assert!(!mirror.log().contains("hf_alice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_pushes_only_where_writes_pass() {
    let folder = TempDir::new().expect("a temporary directory");
    publish(folder.path()).await;
    let server = Server::start(folder.path()).await;
    for (writes, works) in [("refuse", false), ("pass", true)] {
        let mirror = Mirror::of_url(&server.url).set("upstream.writes", writes).start().await;
        let user = folder.path().join(writes);
        std::fs::create_dir(&user).expect("a home");
        ok(&user, &["clone", "-q", &format!("{}/{PUSHED}", mirror.url()), "copy"]).await;
        let copy = user.join("copy");
        std::fs::write(copy.join(writes), "changed").expect("a file");
        ok(&copy, &["add", "."]).await;
        ok(&copy, &["commit", "-q", "-m", writes]).await;
        let pushed = run_within(crate::RUN_MAX, git(&copy, &["push", "-q", "origin", "main"]), "git push").await;
        assert_eq!(pushed.ok, works, "{writes}: {}", pushed.stderr);
        assert!(works || pushed.stderr.contains("read-only mirror"), "git tells why: {}", pushed.stderr);
    }
}
