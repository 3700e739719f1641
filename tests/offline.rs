//! The Hub is gone, hangs, or refuses everybody: what was downloaded once still downloads, for each generation of clients,
//! by users with empty homes, from a mirror that was restarted; and what is not there is told as trouble, not as absence.

use std::time::{Duration, Instant};

use fake_hub::{FakeHub, Kind, Repo, sha256_of};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mirror, Python, Relay, dingospeed};

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

/// One request may take less than this, or clients give up.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// What libraries look for in repos that lack it.
const LOOKED_FOR: [&str; 3] = ["added_tokens.json", "chat_template.jinja", "deep/none.txt"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_has_everything_without_the_hub() {
    survives(V0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_0_36_2_with_hf_transfer_has_everything_without_the_hub() {
    survives(V0_TRANSFER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_1_33_0_has_everything_without_the_hub() {
    survives(V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_2_4_0_has_everything_without_the_hub() {
    survives(V2).await;
}

async fn survives(client: Client) {
    // Pages of two entries, so that listings have several; links are written as the Hub writes them.
    let builder = FakeHub::builder().page_len(2, 2).public_url("https://huggingface.co");
    let hub = builder.start().await.expect("two free ports");
    let repos = repos(&hub, client);
    let relay = Relay::start(hub.hub_address()).await;
    let folder = TempDir::new().expect("a temporary directory");
    let of = |upstream: &str| Mirror::of_url(upstream).repos(&folder.path().join("repos"));
    let mut mirror = of(&hub.url()).start().await;
    let asked = json!({
        "repos": repos.iter().map(|repo| json!([repo.kind, repo.id, "main"])).collect::<Vec<_>>(),
        "absent": LOOKED_FOR.map(|path| json!(["model", "acme/tiny", path])),
        "unknown": [["model", "acme/unknown"]],
    });
    let only_repos = json!({ "repos": asked["repos"] });
    let told = client.run(&mirror, &folder, "first", &only_repos).await;
    assert_all_arrived(&told, &repos, "the first user");
    hub.wait_idle().await;

    for trouble in ["gone", "silent", "503", "429", "offline"] {
        mirror.stop().await;
        mirror = match trouble {
            "silent" => of(&relay.url()).start().await,
            "offline" => of(&hub.url()).arg("--offline").start().await,
            _ => of(&hub.url()).start().await,
        };
        match trouble {
            "gone" => hub.down().await,
            "silent" => relay.fall_silent(),
            "503" => hub.answer_all(503),
            "429" => hub.answer_all(429),
            _ => {}
        }
        hub.clear_log();
        let told = client.run(&mirror, &folder, trouble, &asked).await;
        assert_all_arrived(&told, &repos, trouble);
        for path in LOOKED_FOR {
            let absent = &told["absent"][format!("acme/tiny/{path}")];
            assert!(is(absent, "EntryNotFoundError") && !is(absent, "LocalEntryNotFoundError"), "{trouble}: {path}: {absent:#}");
        }
        // What transformers asks of every model.
        let directory = mirror.get("/api/models/acme/tiny/tree/main/additional_chat_templates?recursive=false").await;
        assert_eq!((directory.status, directory.header("x-error-code")), (404, Some("EntryNotFound")), "{trouble}");
        assert_is_trouble(&told["unknown"]["acme/unknown"], trouble);
        assert_says_so(&mirror, trouble).await;
        assert_no_client_waited_too_long(&mirror, trouble);
        if trouble == "offline" {
            assert!(hub.calls().is_empty(), "offline, the Hub was asked");
        }
        hub.up().await;
        relay.carry();
        hub.answer_normally();
    }
    assert!(hub.leaks().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pulled_is_complete_for_hub_0_36_2() {
    pulled(V0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pulled_is_complete_for_hub_1_33_0() {
    pulled(V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pulled_is_complete_for_hub_2_4_0() {
    pulled(V2).await;
}

async fn pulled(client: Client) {
    let hub = FakeHub::builder().page_len(2, 2).start().await.expect("two free ports");
    let repos = repos(&hub, client);
    let folder = TempDir::new().expect("a temporary directory");
    let kept = folder.path().join("repos");
    for repo in &repos {
        let (url, kept) = (hub.url(), kept.display().to_string());
        let arguments = ["pull", &repo.id, "--type", repo.kind, "--repos", &kept, "--upstream", &url, "--token", "hf_member"];
        let (code, stderr, _) = dingospeed(&arguments, &[]).await;
        assert_eq!(code, Some(0), "{stderr}");
    }
    hub.clear_log();
    hub.down().await;
    let mirror = Mirror::of(&hub).repos(&kept).arg("--offline").start().await;
    let asked = json!({
        "repos": repos.iter().map(|repo| json!([repo.kind, repo.id, "main"])).collect::<Vec<_>>(),
        "probes": repos.iter().map(|repo| json!([repo.kind, repo.id])).collect::<Vec<_>>(),
        "absent": LOOKED_FOR.map(|path| json!(["model", "acme/tiny", path])),
        "unknown": [["dataset", "acme/unknown"]],
    });
    let told = client.run(&mirror, &folder, "offline", &asked).await;
    assert_all_arrived(&told, &repos, "after pull");
    for repo in &repos {
        let probes = &told["probes"][&repo.id];
        let all: Vec<&str> = repo.files.as_object().expect("files").keys().map(String::as_str).collect();
        assert_eq!(probes["info"], json!({ "sha": repo.commit, "files": all }), "{}", repo.id);
        assert_eq!(probes["below"], json!(["deep/er", "deep/w.bin"]), "{}", repo.id);
        assert_eq!(probes["paths"], json!({ "deep": null, "deep/w.bin": repo.files["deep/w.bin"]["size"] }), "{}", repo.id);
        for path in &all {
            assert_eq!(probes["sizes"][path], repo.files[path]["size"], "{path} of {}", repo.id);
            assert!(probes["whole"].as_array().is_some_and(|listed| listed.contains(&json!(path))), "{path} of {}", repo.id);
        }
        assert_eq!(probes["exists"], true);
    }
    for path in LOOKED_FOR {
        let absent = &told["absent"][format!("acme/tiny/{path}")];
        assert!(is(absent, "EntryNotFoundError") && !is(absent, "LocalEntryNotFoundError"), "{path}: {absent:#}");
    }
    assert_is_trouble(&told["unknown"]["acme/unknown"], "after pull");
    assert!(hub.calls().is_empty());
}

impl Client {
    async fn run(self, mirror: &Mirror, folder: &TempDir, name: &str, asked: &Value) -> Value {
        let mut user = Python::new(self.venv, mirror.url(), &folder.path().join(name)).env("HF_TOKEN", "hf_member");
        if self.hf_transfer {
            user = user.env("HF_HUB_ENABLE_HF_TRANSFER", "1");
        }
        let cache = user.home().join("cache").to_string_lossy().into_owned();
        user.json("offline.py", &[&cache, &asked.to_string()]).await
    }
}

fn assert_all_arrived(told: &Value, repos: &[Expected], when: &str) {
    for repo in repos {
        assert_eq!(told["repos"][&repo.id], json!({ "commit": repo.commit, "files": repo.files }), "{when}: {}", repo.id);
    }
}

fn is(failure: &Value, class: &str) -> bool {
    failure["is"].as_array().is_some_and(|classes| classes.iter().any(|one| one == class))
}

/// Nobody may conclude that the repo does not exist.
fn assert_is_trouble(failure: &Value, when: &str) {
    assert_ne!(failure["error"], Value::Null, "{when}: {failure:#}");
    for class in ["RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "DisabledRepoError"] {
        assert!(!is(failure, class), "{when}: {failure:#}");
    }
    // LocalEntryNotFoundError, "check your connection", is an EntryNotFoundError of its own kind.
    assert!(!is(failure, "EntryNotFoundError") || is(failure, "LocalEntryNotFoundError"), "{when}: {failure:#}");
}

/// What is not there: at once (whoever found out has waited before), truly 5xx (429 if that is what the Hub says), in words.
async fn assert_says_so(mirror: &Mirror, trouble: &str) {
    for target in ["/acme/unknown/resolve/main/w.bin", "/api/models/acme/unknown/revision/main", "/api/whoami-v2"] {
        let began = Instant::now();
        let answer = mirror.ask("GET", target, &["Authorization: Bearer hf_member"]).await;
        let is_trouble = answer.status >= 500 || (trouble == "429" && answer.status == 429);
        assert!(is_trouble, "{trouble}: {target}: {}", answer.status);
        assert_eq!(answer.header("x-error-code"), None, "{trouble}: {target}");
        let said = answer.header("x-error-message").unwrap_or_default();
        assert!(said.contains("mirror") || trouble == "429", "{trouble}: {target}: {said}");
        assert!(began.elapsed() < CLIENT_TIMEOUT, "{trouble}: {target}: {:?}", began.elapsed());
    }
}

/// Clients have no time-out for some questions, so the mirror's own word on each request counts.
fn assert_no_client_waited_too_long(mirror: &Mirror, trouble: &str) {
    let log = mirror.log();
    let times = log.lines().filter_map(|line| line.rsplit_once(" ms=")?.1.parse::<u64>().ok());
    let longest = times.max().expect("requests were logged");
    assert!(u128::from(longest) < CLIENT_TIMEOUT.as_millis(), "{trouble}: a request took {longest} ms");
    assert!(!log.contains("hf_member"), "{trouble}: the log tells a token");
}

/// A repo's state, as `snapshot.py` and `offline.py` tell it.
struct Expected {
    kind: &'static str,
    id: String,
    commit: String,
    files: Value,
}

/// A model, a data set and a space that all may read, and a model that `hf_member` may.
fn repos(hub: &FakeHub, client: Client) -> Vec<Expected> {
    // hf_transfer begins beyond 50 MiB.
    let large = if client.hf_transfer { 52 << 20 } else { 3 << 20 };
    let fill = |repo: Repo, kind: Kind, seed: u64| {
        repo.file("README.md", format!("# {seed}"))
            .file("config.json", "{}")
            .file("empty.txt", "")
            .file("deep/er/a name.txt", "x")
            .synthetic("deep/w.bin", large + seed, seed)
            .commit("first");
        let mut files = serde_json::Map::new();
        for path in ["README.md", "config.json", "deep/er/a name.txt", "deep/w.bin", "empty.txt"] {
            let content = repo.content(path);
            let facts = json!({ "sha256": sha256_of(&*content), "size": content.size(), "blob": repo.oid(path) });
            files.insert(path.to_owned(), facts);
        }
        let kind = match kind {
            Kind::Dataset => "dataset",
            Kind::Space => "space",
            _ => "model",
        };
        Expected { kind, id: repo.id().to_owned(), commit: repo.sha(), files: Value::Object(files) }
    };
    vec![
        fill(hub.model("acme/tiny"), Kind::Model, 1),
        fill(hub.dataset("acme/rows"), Kind::Dataset, 2),
        fill(hub.space("acme/app"), Kind::Space, 3),
        fill(hub.model("acme/closed").gated().grant("hf_member"), Kind::Model, 4),
    ]
}
