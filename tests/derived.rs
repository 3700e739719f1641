//! What follows from what was asked before about the same commit, and so is answered while the Hub is down.

use fake_hub::{FakeHub, noise};

use crate::harness::Mirror;

/// The Hub's repo, and a mirror that was asked these and has seen the Hub go since.
async fn asked(targets: &[&str]) -> (FakeHub, Mirror, String) {
    let hub = FakeHub::start().await;
    let repo = hub.dataset("acme/set").file("README.md", "# A set\n").file("train/a/rows.json", "[]").commit("first");
    let sha = repo.sha();
    let mut mirror = Mirror::start(&hub).await;
    for target in targets {
        assert_eq!(mirror.get(&target.replace("SHA", &sha)).await.status, 200, "{target}");
    }
    hub.down().await;
    mirror.restart().await;
    (hub, mirror, sha)
}

#[tokio::test]
async fn a_directory_that_its_parent_does_not_name_is_absent() {
    let (_hub, mirror, sha) = asked(&[
        "/api/datasets/acme/set/tree/SHA?recursive=false&expand=false",
        "/api/datasets/acme/set/tree/SHA/train?recursive=false&expand=false",
    ])
    .await;
    let tree =
        async |path: &str| mirror.get(&format!("/api/datasets/acme/set/tree/{sha}/{path}?recursive=False&expand=False")).await;
    for absent in ["data", "data/deep", "README.md", "train%2Fb", "train/a/b/c"] {
        let answer = tree(absent).await;
        let wanted = if absent == "train/a/b/c" { (503, None) } else { (404, Some("EntryNotFound")) };
        assert_eq!((answer.status, answer.header("x-error-code")), wanted, "{absent}: {}", answer.text());
    }
    // It is there, only nobody has asked what it holds.
    assert_eq!(tree("train/a").await.status, 503);
    assert_eq!(tree("train").await.status, 200);
}

#[tokio::test]
async fn the_facts_of_a_branch_are_those_of_its_commit() {
    let (_hub, mirror, sha) = asked(&["/api/datasets/acme/set/revision/main", "/api/datasets/acme/set?blobs=true"]).await;
    for query in ["", "?blobs=true"] {
        let answer = mirror.get(&format!("/api/datasets/acme/set/revision/{sha}{query}")).await;
        assert_eq!((answer.status, answer.json()["sha"].as_str()), (200, Some(&*sha)), "{query}");
    }
    let answer = mirror.get(&format!("/api/datasets/acme/set/revision/{}", "0".repeat(40))).await;
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn a_closed_repo_gives_nothing_away() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/closed").file("a.txt", "a").commit("first").private();
    repo.grant("hf_owner");
    let mirror = Mirror::start(&hub).await;
    let owner = ["Authorization: Bearer hf_owner"];
    let tree = format!("/api/models/acme/closed/tree/{}", repo.sha());
    assert_eq!(mirror.ask("GET", &tree, &owner).await.status, 200);
    assert_eq!(mirror.ask("GET", &format!("{tree}/data"), &owner).await.status, 404);
    let answer = mirror.get(&format!("{tree}/data")).await;
    assert_eq!((answer.status, answer.header("x-error-code")), (401, Some("RepoNotFound")));
}

#[tokio::test]
async fn raw_files_are_there_without_the_hub() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").file("a b.json", "{}").file("empty", "").lfs("w.bin", noise(1, 70_000)).commit("first");
    let mut mirror = Mirror::start(&hub).await;
    // Fetched as files, never as raw; of the large one only the head.
    for path in ["a%20b.json", "empty"] {
        assert_eq!(mirror.get(&format!("/acme/m/resolve/main/{path}")).await.status, 200);
    }
    assert_eq!(mirror.head("/acme/m/resolve/main/w.bin").await.status, 200);
    mirror.stop().await;
    hub.down().await;
    hub.clear_log();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 70000\n", repo.oid("w.bin"));
    let repos = mirror.repos();
    for offline in [true, false] {
        let mirror = Mirror::of(&hub).repos(&repos).set("upstream.offline", offline).start().await;
        for revision in ["main".to_owned(), repo.sha()] {
            for (path, wanted) in [("a%20b.json", "{}"), ("empty", ""), ("w.bin", &*pointer)] {
                let answer = mirror.get(&format!("/acme/m/raw/{revision}/{path}")).await;
                assert_eq!((answer.status, answer.text().as_str()), (200, wanted), "{revision} {path}");
                assert_eq!(answer.header("x-repo-commit"), Some(&*repo.sha()));
            }
        }
    }
}
