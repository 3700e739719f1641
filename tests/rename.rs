//! The Hub renames a repo: what is kept of it, and pins, follow; there is one repo here, by whatever name it is asked for.

use std::fs;

use fake_hub::{FakeHub, Repo, noise};
use serde_json::Value;

use crate::harness::{Mirror, dingospeed};

const MIB: usize = 1 << 20;

fn fill(repo: Repo) -> Repo {
    repo.file("config.json", "{}").file("deep/a b.txt", "x").lfs("w.bin", noise(1, MIB + 7)).commit("first")
}

/// Downloads a model by a name, and waits until it is on the disk under another.
async fn download(mirror: &Mirror, name: &str, kept_as: &str, repo: &Repo) {
    let sha = repo.sha();
    for target in [
        format!("/api/models/{name}/revision/main"),
        format!("/api/models/{name}/tree/{sha}?recursive=true&expand=false"),
        format!("/api/models/{name}/refs"),
    ] {
        assert_eq!(mirror.get(&target).await.status, 200, "{target}");
    }
    for path in ["config.json", "deep/a%20b.txt", "w.bin"] {
        assert_eq!(mirror.get(&format!("/{name}/resolve/main/{path}")).await.status, 200, "{path}");
    }
    for path in ["config.json", "deep/a b.txt", "w.bin"] {
        mirror.wait_link(&format!("models/{kept_as}/resolve/{sha}/{path}")).await;
    }
}

async fn run(mirror: &Mirror, arguments: &[&str]) -> (Option<i32>, String, String) {
    let repos = mirror.repos().display().to_string();
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--repos", &repos]).collect();
    dingospeed(&arguments, &[]).await
}

async fn ok(mirror: &Mirror, arguments: &[&str]) -> String {
    let (code, stderr, stdout) = run(mirror, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    stdout
}

async fn listed(mirror: &Mirror) -> Value {
    serde_json::from_str(&ok(mirror, &["ls", "--files", "--format", "json"]).await).expect("JSON")
}

/// That there is one repo, of this name, with all three files, pinned or not.
async fn assert_one(mirror: &Mirror, name: &str, pinned: bool) {
    let listed = listed(mirror).await;
    let repos = listed.as_array().expect("a list");
    assert_eq!(repos.len(), 1, "{listed:#}");
    assert_eq!((&repos[0]["name"], &repos[0]["pinned"]), (&name.into(), &pinned.into()), "{listed:#}");
    let files = repos[0]["revisions"][0]["files"].as_array().expect("files");
    assert_eq!(files.len(), 3, "{listed:#}");
    assert!(files.iter().all(|file| file["complete"] == true), "the links lead to the objects: {listed:#}");
}

#[tokio::test]
async fn a_renamed_repo_is_one_repo_and_stays_pinned() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/old"));
    let sha = repo.sha();
    let mut mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    download(&mirror, "acme/old", "acme/old", &repo).await;
    ok(&mirror, &["pin", "acme/old"]).await;
    assert_one(&mirror, "acme/old", true).await;

    hub.rename("acme/old", "acme/new");
    // The next question that has to be asked upstream tells.
    assert_eq!(mirror.get("/api/models/acme/old").await.json()["id"], "acme/new");
    assert_one(&mirror, "acme/new", true).await;
    assert_eq!(fs::read_to_string(mirror.repos().join("pins")).expect("pins"), "models/acme/new\n");
    for name in ["acme/old", "acme/new"] {
        let (code, stderr, _) = run(&mirror, &["rm", name, "--yes"]).await;
        assert!(code == Some(1) && stderr.contains("pinned"), "{name}: {stderr}");
    }
    let bytes = hub.cdn_bytes();
    // All of it is still here, by either name, also when the Hub is gone.
    hub.down().await;
    mirror.restart().await;
    for name in ["acme/new", "acme/old"] {
        for target in [
            format!("/{name}/resolve/main/config.json"),
            format!("/{name}/resolve/{sha}/w.bin"),
            format!("/{name}/raw/main/w.bin"),
            format!("/api/models/{name}/revision/main"),
            format!("/api/models/{name}/revision/{sha}"),
            format!("/api/models/{name}/tree/{sha}?recursive=true&expand=false"),
            format!("/api/models/{name}/refs"),
        ] {
            let answer = mirror.get(&target).await;
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        }
    }
    assert_eq!(hub.cdn_bytes(), bytes);
    assert!(!mirror.repos().join("api/models/acme/old").exists(), "nothing is left at the old name");

    // By its old name it is unpinned and removed.
    assert_eq!(ok(&mirror, &["unpin", "acme/old"]).await, "unpinned models/acme/new\n");
    assert_one(&mirror, "acme/new", false).await;
    ok(&mirror, &["verify", "acme/old"]).await;
    ok(&mirror, &["rm", "acme/old", "--yes"]).await;
    assert_eq!(listed(&mirror).await, Value::Array(Vec::new()));
}

#[tokio::test]
async fn what_both_names_had_comes_together() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/old"));
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    download(&mirror, "acme/old", "acme/old", &repo).await;
    ok(&mirror, &["pin", "acme/old", "--revision", "main"]).await;
    hub.rename("acme/old", "acme/new");
    // Somebody comes by the new name before the mirror knows that it is the same repo.
    assert_eq!(mirror.get("/acme/new/resolve/main/config.json").await.status, 200);
    mirror.wait_link(&format!("models/acme/new/resolve/{}/config.json", hub.model("acme/new").sha())).await;
    assert_eq!(mirror.get("/api/models/acme/old").await.status, 200);
    assert_one(&mirror, "acme/new", true).await;
}

/// Links go up as far as their name is deep, and a name gets deeper.
#[tokio::test]
async fn an_old_one_word_name_gets_an_owner() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("gpt2"));
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    download(&mirror, "gpt2", "gpt2", &repo).await;
    // A repo whose directory lies in the other's.
    let inner = hub.model("gpt2/small").file("a", "a").commit("first");
    assert_eq!(mirror.get("/gpt2/small/resolve/main/a").await.text(), "a");
    mirror.wait_link(&format!("models/gpt2/small/resolve/{}/a", inner.sha())).await;
    hub.rename("gpt2", "openai-community/gpt2");
    assert_eq!(mirror.get("/api/models/gpt2").await.status, 200);
    let listed = listed(&mirror).await;
    let names: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|repo| repo["name"].as_str()).collect();
    assert_eq!(names, ["gpt2/small", "openai-community/gpt2"]);
    assert!(listed[1]["revisions"][0]["files"].as_array().is_some_and(|files| files.iter().all(|file| file["complete"] == true)));
    assert_eq!(mirror.get("/gpt2/small/resolve/main/a").await.text(), "a");
}

#[tokio::test]
async fn a_pin_by_any_name_holds() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("New-Org/Thing"));
    hub.rename("thing", "New-Org/Thing");
    let mirror = Mirror::start(&hub).await;
    download(&mirror, "thing", "New-Org/Thing", &repo).await;
    // By the command, and as a line that somebody wrote.
    assert_eq!(ok(&mirror, &["pin", "thing"]).await, "pinned models/New-Org/Thing\n");
    assert_one(&mirror, "New-Org/Thing", true).await;
    fs::write(mirror.repos().join("pins"), "# ours\nmodels/thing@main\n").expect("pins");
    assert_one(&mirror, "New-Org/Thing", true).await;
    let (code, stderr, _) = run(&mirror, &["rm", "New-Org/Thing", "--yes"]).await;
    assert!(code == Some(1) && stderr.contains("pinned"), "{stderr}");
    ok(&mirror, &["unpin", "New-Org/Thing", "--revision", "main"]).await;
    assert_eq!(fs::read_to_string(mirror.repos().join("pins")).expect("pins"), "# ours\n");
}
