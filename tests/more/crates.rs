//! Rust's hf-hub, as candle, TEI and mistral.rs have it. The programs in `tests/clients/rust-*` are built here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_hub::Repo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Mirror, root, run_within};
use crate::sample::{self, PATHS};

/// hf-hub 1.0 brings all of Xet, which is three hundred crates.
const BUILD_MAX: Duration = Duration::from_secs(1800);

/// Builds a client from its lock file, beside this build's own files; returns the program.
async fn built(name: &str) -> PathBuf {
    let target = root().join("target/clients").join(name);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--locked", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(root().join("tests/clients").join(name));
    let ran = run_within(BUILD_MAX, cargo, &format!("cargo build of tests/clients/{name}")).await;
    assert!(ran.ok, "tests/clients/{name} could not be built; it needs crates.io, or its mirror:\n{}", ran.stderr);
    target.join("debug/client")
}

async fn download(program: &Path, mirror: &Mirror, home: &Path, kind: &str, revision: &str) -> Value {
    let mut command = crate::client(program, home);
    command.env("HF_HOME", home).env("HF_ENDPOINT", mirror.url());
    command.args([kind, sample::ID, revision]).args(PATHS);
    crate::json(command, &format!("{} {kind}", program.display())).await
}

/// What hf-hub 0.4 must print.
fn check_0_4(got: &Value, repo: &Repo) {
    assert_eq!(got["commit"], repo.sha());
    assert_eq!(got["blocking"], sample::files(repo));
    assert_eq!(got["async"], sample::files(repo));
    let mut listed: Vec<String> = serde_json::from_value(got["listed"].clone()).expect("names");
    listed.sort();
    assert_eq!(listed, sample::listed());
    assert!(got["absent"].as_str().is_some_and(|said| said.contains("404")), "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hf_hub_0_4_downloads_and_costs_upstream_once() {
    let program = built("rust-0.4").await;
    let hub = sample::hub().await;
    let (model, dataset) = (hub.model(sample::ID), hub.dataset(sample::ID));
    sample::fill(&model);
    sample::fill(&dataset);
    let proposal = model.on("proposal").file("config.json", "{\"proposed\": true}").commit("proposed").pr(1);
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let home = |name: &str| folder.path().join(name);

    check_0_4(&download(&program, &mirror, &home("first"), "model", "main").await, &model);
    check_0_4(&download(&program, &mirror, &home("set"), "dataset", "main").await, &dataset);
    sample::check_upstream(&hub, 2 * sample::LFS_LEN);
    hub.wait_idle().await;
    let before = hub.calls().len();
    check_0_4(&download(&program, &mirror, &home("second"), "model", "main").await, &model);
    sample::check_second(&hub, before);
    check_0_4(&download(&program, &mirror, &home("proposal"), "model", "refs/pr/1").await, &proposal);
    // And without the Hub.
    hub.down().await;
    check_0_4(&download(&program, &mirror, &home("third"), "model", &model.sha()).await, &model);
}

/// What hf-hub 1.0 must print.
fn check_1_0(got: &Value, repo: &Repo) {
    assert_eq!(got["commit"], repo.sha());
    assert_eq!(got["files"], sample::files(repo));
    assert_eq!(got["bytes 10 to 99"], sample::parts(repo));
    let listed = got["listed"].as_object().expect("a tree");
    let mut paths: Vec<&String> = listed.keys().collect();
    paths.sort();
    let mut wanted = sample::listed();
    wanted.push("z/empty.txt".into());
    wanted.sort();
    assert_eq!(paths, wanted.iter().collect::<Vec<_>>());
    for path in PATHS {
        let shown = &listed[path];
        let is_lfs = repo.oid(path).len() == 64;
        assert_eq!((&shown["size"], &shown["lfs"]), (&json!(repo.content(path).size()), &json!(is_lfs)), "{path}");
        assert!(is_lfs || shown["oid"] == repo.oid(path), "{path}: {shown}");
        assert_eq!(&got["chosen"][path], shown, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hf_hub_1_0_downloads_and_costs_upstream_once() {
    let program = built("rust-1.0").await;
    let hub = sample::hub().await;
    let (model, dataset) = (hub.model(sample::ID), hub.dataset(sample::ID));
    sample::fill(&model);
    sample::fill(&dataset);
    for repo in [&model, &dataset] {
        repo.file("z/empty.txt", "").commit("an empty file, which hf-hub 0.4 cannot download");
    }
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let home = |name: &str| folder.path().join(name);

    check_1_0(&download(&program, &mirror, &home("first"), "model", "main").await, &model);
    check_1_0(&download(&program, &mirror, &home("set"), "dataset", "main").await, &dataset);
    sample::check_upstream(&hub, 2 * sample::LFS_LEN);
    hub.wait_idle().await;
    let before = hub.calls().len();
    check_1_0(&download(&program, &mirror, &home("second"), "model", "main").await, &model);
    sample::check_second(&hub, before);
}
