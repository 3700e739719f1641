//! The literal sequence of a download in the Hub's own manner (14), as huggingface_hub 0.36 makes it.

use fake_hub::FakeHub;

use crate::client::{ask, get, head};

#[tokio::test]
async fn a_snapshot_is_downloaded() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/tiny").file("config.json", "{}").lfs("sub dir/model.safetensors", "weights");
    repo.grant("hf_alice").private().commit("first");
    let (url, token) = (hub.url(), "authorization: Bearer hf_alice");

    let info = ask("GET", &format!("{url}/api/models/acme/tiny/revision/main"), &[token]).await.json();
    let sha = info["sha"].as_str().unwrap();
    assert_eq!(sha, repo.sha());

    let small = format!("{url}/acme/tiny/resolve/{sha}/config.json");
    let moved = ask("HEAD", &small, &[token, "accept-encoding: identity"]).await;
    assert!(moved.status == 307 && moved.the("location").starts_with("/api/resolve-cache/models/acme/tiny/"));
    // Clients before 1.30 drop the query of the location.
    let there = format!("{url}{}", moved.the("location").split_once('?').unwrap().0);
    let facts = ask("HEAD", &there, &[token, "accept-encoding: identity"]).await;
    assert_eq!((facts.status, facts.the("x-repo-commit"), facts.the("content-length")), (200, sha, "2"));
    assert_eq!(ask("GET", &there, &[token]).await.text(), "{}");

    let large = format!("{url}/acme/tiny/resolve/{sha}/sub%20dir/model.safetensors");
    let found = ask("HEAD", &large, &[token]).await;
    assert_eq!((found.status, found.the("x-linked-size")), (302, "7"));
    assert_eq!(get(found.the("location")).await.text(), "weights");
    assert_eq!(head(found.the("location")).await.the("content-length"), "7");

    let told: Vec<(u16, bool)> = hub.calls().iter().map(|call| (call.status, call.token.is_some())).collect();
    assert_eq!(told, [(200, true), (307, true), (200, true), (200, true), (302, true), (200, false), (200, false)]);
    assert!(hub.leaks().is_empty() && hub.cas_calls().is_empty());
}
