//! The Hub's own Python clients in front of the mirror: whole repos arrive byte for byte, a second user costs upstream
//! nothing, errors are the ones that users catch, and nobody ever sees Xet.

use fake_hub::{Call, FakeHub, Kind, Listener, Memory, Repo, noise, sha256_of};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mirror, Python};

/// A release of huggingface_hub, as a user runs it.
#[derive(Clone, Copy)]
struct Client {
    venv: &'static str,
    hf_transfer: bool,
}

const V0: Client = Client { venv: "hub-0.36.2", hf_transfer: false };
const V0_TRANSFER: Client = Client { venv: "hub-0.36.2", hf_transfer: true };
const V1: Client = Client { venv: "hub-1.33.0", hf_transfer: false };
const V2: Client = Client { venv: "hub-2.4.0", hf_transfer: false };

impl Client {
    /// A user with an empty home below `folder`.
    fn user(self, mirror: &Mirror, folder: &TempDir, name: &str) -> Python {
        let user = Python::new(self.venv, mirror.url(), &folder.path().join(name));
        match self.hf_transfer {
            true => user.env("HF_HUB_ENABLE_HF_TRANSFER", "1"),
            false => user,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_downloads_whole_repos_and_costs_upstream_once() {
    whole_repos(V0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_with_hf_transfer_downloads_whole_repos_and_costs_upstream_once() {
    whole_repos(V0_TRANSFER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_1_33_0_downloads_whole_repos_and_costs_upstream_once() {
    whole_repos(V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_2_4_0_downloads_whole_repos_and_costs_upstream_once() {
    whole_repos(V2).await;
}

async fn whole_repos(client: Client) {
    let hub = FakeHub::start().await;
    let repos = [model(&hub), dataset(&hub), space(&hub)];
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");

    for repo in &repos {
        twice(&hub, &mirror, client, &folder, repo, "main").await;
    }
    assert!(hub.asked("/api/agent-harnesses") <= 1);
    assert_all_was_plain_http(&hub);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_downloads_branches_tags_and_pull_requests() {
    revisions(V0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_1_33_0_downloads_branches_tags_and_pull_requests() {
    revisions(V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_2_4_0_downloads_branches_tags_and_pull_requests() {
    revisions(V2).await;
}

async fn revisions(client: Client) {
    let hub = FakeHub::start().await;
    // Four different states, so that an answer for the wrong one is seen.
    let main = hub.model("acme/versions").file("config.json", "1").lfs("w.bin", noise(1, 3_000_000));
    main.commit("first").tag("v1.0");
    let tagged = Expected::of(&main, Kind::Model, &["config.json", "w.bin"]);
    main.file("config.json", "2").commit("second");
    let branch = main.on("feature/new").lfs("w.bin", noise(2, 2_500_000)).commit("on a branch");
    let on_branch = Expected::of(&branch, Kind::Model, &["config.json", "w.bin"]);
    let proposal = main.on("proposal").file("extra.txt", "please take this").commit("proposed").pr(1);
    let proposed = Expected::of(&proposal, Kind::Model, &["config.json", "w.bin", "extra.txt"]);
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");

    twice(&hub, &mirror, client, &folder, &tagged, "v1.0").await;
    twice(&hub, &mirror, client, &folder, &on_branch, "feature/new").await;
    twice(&hub, &mirror, client, &folder, &proposed, "refs/pr/1").await;
    twice(&hub, &mirror, client, &folder, &proposed, &proposed.commit).await;
    assert_all_was_plain_http(&hub);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_raises_the_errors_users_catch() {
    errors(V0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_1_33_0_raises_the_errors_users_catch() {
    errors(V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_2_4_0_raises_the_errors_users_catch() {
    errors(V2).await;
}

async fn errors(client: Client) {
    let hub = FakeHub::start().await;
    hub.model("acme/open").file("config.json", "{}").commit("first");
    let gated = hub.model("acme/gated").lfs("w.bin", noise(3, 1_000)).commit("first").gated();
    hub.model("acme/private").file("config.json", "{}").commit("first").private();
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let user = client.user(&mirror, &folder, "anonymous");

    check(&user, "acme/nothing", "main", "config.json", "RepositoryNotFoundError").await;
    check(&user, "acme/private", "main", "config.json", "RepositoryNotFoundError").await;
    check(&user, "acme/open", "nowhere", "config.json", "RevisionNotFoundError").await;
    check(&user, "acme/open", "main", "nothing.json", "EntryNotFoundError").await;
    check(&user, "acme/gated", "main", "w.bin", "GatedRepoError").await;

    // Who was let in gets the file, and the next who was not still does not: now that the mirror has the bytes.
    gated.grant("hf_member");
    hub.token("hf_stranger");
    let member = client.user(&mirror, &folder, "member").env("HF_TOKEN", "hf_member");
    let got = single(&member, "acme/gated", "main", "w.bin").await;
    assert_eq!(got["sha256"], gated.oid("w.bin"), "{got}");
    let stranger = client.user(&mirror, &folder, "stranger").env("HF_TOKEN", "hf_stranger");
    check(&stranger, "acme/gated", "main", "w.bin", "GatedRepoError").await;
    let anonymous = client.user(&mirror, &folder, "anonymous again");
    check(&anonymous, "acme/gated", "main", "w.bin", "GatedRepoError").await;
    assert_all_was_plain_http(&hub);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_reads_a_repo_as_a_file_system() {
    file_system(V0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_1_33_0_reads_a_repo_as_a_file_system() {
    file_system(V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_2_4_0_reads_a_repo_as_a_file_system() {
    file_system(V2).await;
}

/// HfFileSystem: listings, globs, seeks and ranges, as pandas and `datasets` read.
async fn file_system(client: Client) {
    let hub = FakeHub::start().await;
    let bytes = noise(11, 2_600_000);
    hub.dataset("acme/tiny-set")
        .file("README.md", "# A set\n")
        .file("info.json", "{}")
        .file("data/part.json", "[]")
        .lfs("data/rows.bin", &bytes)
        .commit("rows");
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let user = client.user(&mirror, &folder, "user");
    let got = user.json("filesystem.py", &["datasets/acme/tiny-set", "main", "data/rows.bin"]).await;

    let sum = |range: std::ops::Range<usize>| json!(sha256_of(&*Memory::holding(bytes[range].to_vec())));
    let size = bytes.len();
    assert_eq!(got["ls"], json!(["README.md", "data", "info.json"]));
    assert_eq!(got["find"], json!(["README.md", "data/part.json", "data/rows.bin", "info.json"]));
    assert_eq!(got["glob"], json!(["data/part.json", "info.json"]));
    assert_eq!((&got["size"], &got["end"]), (&json!(size), &json!(0)));
    for start in [0, 1, size / 2, size - 100, size - 1] {
        assert_eq!(got["parts"][start.to_string()], sum(start..size.min(start + 100)), "at {start}");
    }
    assert_eq!((&got["whole"], &got["streamed"], &got["range"]), (&sum(0..size), &sum(0..size), &sum(10..1000)));
    assert_eq!(got["exists"], json!([true, false, true, true]));
    assert_eq!(got["absent"], "FileNotFoundError");
    assert!(hub.cdn_bytes() <= size as u64, "a block came twice: {} bytes", hub.cdn_bytes());
    assert_all_was_plain_http(&hub);
}

/// Asks for one file and expects an exception of this class.
async fn check(user: &Python, repo: &str, revision: &str, path: &str, expected: &str) {
    let got = single(user, repo, revision, path).await;
    let classes: Vec<&str> = got["is"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(classes.contains(&expected), "{path} of {repo} at {revision}: wanted {expected}, got {got:#}");
    // A gated repo is also "not found" to some releases, but one that is not found must not be called gated.
    let called_gated = classes.contains(&"GatedRepoError");
    assert_eq!(called_gated, expected == "GatedRepoError", "{path} of {repo} at {revision}: {got:#}");
}

async fn single(user: &Python, repo: &str, revision: &str, path: &str) -> Value {
    let cache = user.home().join("cache").to_string_lossy().into_owned();
    user.json("single.py", &["model", repo, revision, path, &cache]).await
}

/// Downloads a revision as two users with empty homes: both get all, and the second costs one question at most.
async fn twice(hub: &FakeHub, mirror: &Mirror, client: Client, folder: &TempDir, repo: &Expected, revision: &str) {
    let name = |which: &str| format!("{which} {} {}", repo.kind, revision.replace('/', "-"));
    let first = client.user(mirror, folder, &name("first"));
    assert_eq!(snapshot(&first, repo, revision).await, repo.as_json(), "the first user of {}", repo.id);

    hub.wait_idle().await;
    let (calls_before, bytes_before) = (hub.calls().len(), hub.cdn_bytes());
    let second = client.user(mirror, folder, &name("second"));
    assert_eq!(snapshot(&second, repo, revision).await, repo.as_json(), "the second user of {}", repo.id);

    let calls = hub.calls().split_off(calls_before);
    let told: Vec<String> = calls.iter().map(|call| format!("{} {}", call.method, call.target())).collect();
    let is_revision = |call: &Call| call.listener == Listener::Hub && call.path.contains("/revision/");
    assert_eq!(hub.cdn_bytes(), bytes_before, "a second user took bytes of the CDN: {told:#?}");
    assert!(calls.len() <= 1 && calls.iter().all(is_revision), "a second user cost upstream {told:#?}");
}

async fn snapshot(user: &Python, repo: &Expected, revision: &str) -> Value {
    let cache = user.home().join("cache").to_string_lossy().into_owned();
    user.json("snapshot.py", &[repo.kind, &repo.id, revision, &cache]).await
}

/// Asserts that no client saw a Xet signal, and that no token left the Hub.
fn assert_all_was_plain_http(hub: &FakeHub) {
    assert_eq!(hub.asked("xet-read-token"), 0, "a client asked for a Xet token");
    assert!(hub.cas_calls().is_empty(), "a client spoke to the CAS");
    assert!(hub.leaks().is_empty(), "a token went to the CDN");
    assert!(hub.writes().is_empty());
}

/// What `snapshot.py` must print for a state of a repo.
struct Expected {
    kind: &'static str,
    id: String,
    commit: String,
    files: Value,
}

impl Expected {
    /// Takes the state that the handle's branch has now.
    fn of(repo: &Repo, kind: Kind, paths: &[&str]) -> Expected {
        let mut files = serde_json::Map::new();
        for path in paths {
            let content = repo.content(path);
            // The client names its copy after the ETag: the sha256 in LFS, git's id otherwise.
            let facts = json!({ "sha256": sha256_of(&*content), "size": content.size(), "blob": repo.oid(path) });
            files.insert((*path).to_owned(), facts);
        }
        let kind = match kind {
            Kind::Dataset => "dataset",
            Kind::Space => "space",
            _ => "model",
        };
        Expected { kind, id: repo.id().to_owned(), commit: repo.sha(), files: Value::Object(files) }
    }

    fn as_json(&self) -> Value {
        json!({ "commit": self.commit, "files": self.files })
    }
}

const MIB: u64 = 1 << 20;

/// Every kind of name and size: one file beyond the 50 MiB where hf_transfer begins, some of a few blocks, one empty.
fn model(hub: &FakeHub) -> Expected {
    let repo = hub
        .model("acme/tiny-model")
        .file(".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        .file("README.md", "---\nlicense: apache-2.0\n---\n# Tiny\n")
        .file("config.json", "{\"model_type\": \"tiny\"}\n")
        .file("empty.txt", "")
        .file("a name with spaces.txt", "spaces\n")
        .file("ünïcode/模型 卡.md", "names are bytes\n")
        .file("signs/a+b%41#c&d=e;f'g.txt", "not a query\n")
        .file("deep/er/and/deep/er/vocab.txt", noise(4, 300_000))
        .synthetic("model.safetensors", 54 * MIB + 12_345, 5)
        .lfs("pytorch_model.bin", noise(6, 3 * MIB as usize + 777))
        .lfs("onnx/one block.onnx", noise(7, MIB as usize))
        .lfs("onnx/one byte.bin", "1")
        .lfs("a copy of it.bin", noise(7, MIB as usize))
        .commit("all of it");
    let paths = [
        ".gitattributes",
        "README.md",
        "config.json",
        "empty.txt",
        "a name with spaces.txt",
        "ünïcode/模型 卡.md",
        "signs/a+b%41#c&d=e;f'g.txt",
        "deep/er/and/deep/er/vocab.txt",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/one block.onnx",
        "onnx/one byte.bin",
        "a copy of it.bin",
    ];
    Expected::of(&repo, Kind::Model, &paths)
}

fn dataset(hub: &FakeHub) -> Expected {
    let repo = hub
        .dataset("acme/tiny-set")
        .file("README.md", "# A set\n")
        .file("data/über.csv", "a,b\n1,2\n")
        .lfs("data/train-00000-of-00002.parquet", noise(8, 2_500_000))
        .lfs("data/train-00001-of-00002.parquet", noise(9, 1_048_577))
        .commit("rows");
    let paths = ["README.md", "data/über.csv", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
    Expected::of(&repo, Kind::Dataset, &paths)
}

fn space(hub: &FakeHub) -> Expected {
    let repo = hub
        .space("acme/tiny-space")
        .file("app.py", "print('hello')\n")
        .file("requirements.txt", "gradio\n")
        .lfs("assets/logo.png", noise(10, 70_000))
        .commit("app");
    Expected::of(&repo, Kind::Space, &["app.py", "requirements.txt", "assets/logo.png"])
}
