//! Gates, private repos, tokens and the words of each refusal (10.4, 10.5).

use fake_hub::FakeHub;

use crate::client::{Reply, ask, get};

const MASK: &str = "****************************************************************";

async fn with_token(token: &str, url: &str) -> Reply {
    ask("GET", url, &[&format!("authorization: Bearer {token}")]).await
}

#[track_caller]
fn check(reply: &Reply, status: u16, code: Option<&str>, message: &str) {
    assert_eq!((reply.status, reply.header("x-error-code"), reply.the("x-error-message")), (status, code, message));
    assert!(reply.the("etag").starts_with("W/\""), "bodies of text have weak tags");
}

#[tokio::test]
async fn what_is_missing_or_private_looks_the_same() {
    let hub = FakeHub::start().await;
    let token = hub.token("hf_other");
    hub.model("acme/secret").file("x", "y").private().grant("hf_owner").commit("first");
    for id in ["acme/none", "acme/secret"] {
        for path in [format!("/api/models/{id}"), format!("/{id}/resolve/main/x")] {
            let url = format!("{}{path}", hub.url());
            let reply = get(&url).await;
            check(&reply, 401, None, "Invalid username or password.");
            assert_eq!(reply.the("www-authenticate"), "Bearer realm=\"Authentication required\", charset=\"UTF-8\"");
            let json = "{\"error\":\"Invalid username or password.\"}";
            assert_eq!(reply.text(), if path.starts_with("/api") { json } else { "Invalid username or password." });
            check(&with_token(&token, &url).await, 404, Some("RepoNotFound"), "Repository not found");
            check(&with_token("hf_wrong", &url).await, 401, None, "Invalid username or password.");
        }
    }
    assert_eq!(with_token("hf_owner", &format!("{}/api/models/acme/secret", hub.url())).await.json()["private"], true);
    let moved = with_token("hf_owner", &format!("{}/acme/secret/resolve/main/x", hub.url())).await;
    assert_eq!(moved.status, 307);
    let cached = format!("{}{}", hub.url(), moved.the("location"));
    assert_eq!((get(&cached).await.status, with_token("hf_owner", &cached).await.status), (401, 200));
    // A name in another case must not tell that a private repo is there.
    assert_eq!(get(&format!("{}/api/models/ACME/Secret", hub.url())).await.status, 401);
}

#[tokio::test]
async fn unknown_revisions_files_and_paths() {
    let hub = FakeHub::start().await;
    let sha = hub.model("acme/tiny").file("d/x", "y").commit("first").sha();
    let url = hub.url();
    let reply = get(&format!("{url}/acme/tiny/resolve/nope/x")).await;
    check(&reply, 404, Some("RevisionNotFound"), "Invalid rev id: nope");
    let reply = get(&format!("{url}/api/models/acme/tiny/revision/nope")).await;
    check(&reply, 404, Some("RevisionNotFound"), "Invalid rev id: nope");
    assert_eq!(reply.text(), "{\"error\":\"Invalid rev id: nope\"}");
    let reply = get(&format!("{url}/acme/tiny/resolve/main/nope")).await;
    check(&reply, 404, Some("EntryNotFound"), "Entry not found");
    assert_eq!((reply.the("x-repo-commit"), reply.text().as_str()), (sha.as_str(), "Entry not found"));
    assert!(reply.the("etag").starts_with("W/\"f-mY2V"), "{}", reply.the("etag"));
    for path in ["nope", "d%2Fx"] {
        let reply = get(&format!("{url}/api/models/acme/tiny/tree/main/{path}")).await;
        let name = path.replace("%2F", "/");
        check(&reply, 404, Some("EntryNotFound"), &format!("{name} does not exist on \"main\""));
    }
}

#[tokio::test]
async fn a_gate_hides_files_and_masks_hashes() {
    let hub = FakeHub::start().await;
    let other = hub.token("hf_other");
    let repo = hub.model("acme/gated").file("config.json", "{}").file("README.md", "hi").lfs("w.bin", "weights");
    repo.gated().grant("hf_good").commit("first");
    let url = hub.url();
    let anonymous =
        "Access to model acme/gated is restricted. You must have access to it and be authenticated to access it. Please log in.";
    let refused = "Access to model acme/gated is restricted and you are not in the authorized list. \
                   Visit https://huggingface.co/acme/gated to ask for access.";
    // The gate stands before the revision and the file.
    for path in ["resolve/main/w.bin", "resolve/main/config.json", "resolve/nope/x", "resolve/main/nope"] {
        let file = format!("{url}/acme/gated/{path}");
        check(&get(&file).await, 401, Some("GatedRepo"), anonymous);
        check(&with_token(&other, &file).await, 403, Some("GatedRepo"), refused);
    }
    let readme = get(&format!("{url}/acme/gated/resolve/main/README.md")).await;
    assert_eq!((readme.status, readme.text().as_str()), (200, "hi"), "small files of gated repos come directly");
    assert_eq!(with_token("hf_good", &format!("{url}/acme/gated/resolve/main/config.json")).await.status, 200);
    assert_eq!(with_token("hf_good", &format!("{url}/acme/gated/resolve/main/w.bin")).await.status, 302);

    let tree = format!("{url}/api/models/acme/gated/tree/main");
    let masked = get(&tree).await.json();
    assert_eq!((masked[2]["lfs"]["oid"].as_str(), masked[2]["xetHash"].as_str()), (Some(MASK), Some(MASK)));
    let clear = with_token("hf_good", &tree).await.json();
    assert_eq!(clear[2]["lfs"]["oid"].as_str(), Some(repo.oid("w.bin").as_str()));
    assert_eq!(get(&format!("{url}/api/models/acme/gated")).await.json()["gated"], "auto");

    let door = format!("{url}/api/models/acme/gated/auth-check");
    assert_eq!((get(&door).await.status, with_token(&other, &door).await.status), (401, 403));
    assert_eq!(with_token("hf_good", &door).await.text(), "OK");
    repo.revoke("hf_good");
    assert_eq!(with_token("hf_good", &door).await.status, 403);
}

#[tokio::test]
async fn disabled_repos_and_spent_quotas() {
    let hub = FakeHub::start().await;
    hub.model("acme/gone").file("x", "y").disabled();
    let reply = get(&format!("{}/acme/gone/resolve/main/x", hub.url())).await;
    check(&reply, 403, None, "Access to this resource is disabled.");
    hub.quota("api", 1);
    assert_eq!(get(&format!("{}/api/agent-harnesses", hub.url())).await.status, 200);
    let reply = get(&format!("{}/api/agent-harnesses", hub.url())).await;
    assert_eq!((reply.status, reply.the("content-type")), (429, "text/html; charset=utf-8"));
    assert!(reply.text().contains("<h1>429</h1><p>We had to rate limit you"));
    assert_eq!(reply.the("ratelimit"), "\"api\";r=0;t=258");
    assert_eq!(get(&format!("{}/acme/gone/resolve/main/x", hub.url())).await.status, 403, "another class has its own count");
}

#[tokio::test]
async fn who_am_i() {
    let hub = FakeHub::start().await;
    let url = format!("{}/api/whoami-v2", hub.url());
    check(&get(&url).await, 401, None, "Invalid username or password.");
    let me = with_token(&hub.token("hf_alice"), &url).await.json();
    assert_eq!((me["name"].as_str(), me["auth"]["accessToken"]["role"].as_str()), (Some("alice"), Some("read")));
    hub.revoke("hf_alice");
    assert_eq!(with_token("hf_alice", &url).await.status, 401);
    assert!(hub.calls().iter().filter(|call| call.token.is_some()).count() == 2);
}
