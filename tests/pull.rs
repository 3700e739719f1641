//! `dingospeed pull`: fills the cache from the command line, by itself or through a running server.

use crate::harness::{Mirror, dingospeed};
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
