//! The Hub's API through the mirror: listings by pages, small answers, refusals, and who may read what.

use fake_hub::{FakeHub, noise};
use serde_json::Value;

use crate::harness::{Mirror, Response};

#[track_caller]
fn assert_ok(response: &Response) {
    assert_eq!(response.status, 200, "{:?} {}", response.headers, response.text());
    assert!(response.whole);
}

/// Asserts a refusal as the Hub's clients read it.
#[track_caller]
fn assert_says_no(response: &Response, status: u16, code: Option<&str>) {
    assert_eq!((response.status, response.header("x-error-code")), (status, code), "{}", response.text());
    assert!(
        response.header("x-error-message").is_some_and(|said| !said.is_empty()),
        "no X-Error-Message: {:?}",
        response.headers
    );
}

/// Finds a key at any depth.
fn mentions(value: &Value, key: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| mentions(item, key)),
        Value::Object(fields) => fields.contains_key(key) || fields.values().any(|field| mentions(field, key)),
        _ => false,
    }
}

#[tokio::test]
async fn pages_of_a_tree_lead_back_to_the_mirror() {
    let hub = FakeHub::builder().page_len(3, 2).start().await.expect("two free ports");
    let repo = hub.model("acme/many");
    for n in 0..10 {
        repo.lfs(&format!("d/w{n}.bin"), noise(n, 100));
    }
    repo.file("a b.txt", "x").commit("first");
    let mirror = Mirror::start(&hub).await;

    for (query, pages_min) in [("recursive=true", 4), ("recursive=true&expand=true", 6)] {
        for host in ["mirror.test", "other.test:8090"] {
            let mut target = format!("/api/models/acme/many/tree/main?{query}");
            let (mut paths, mut pages) = (Vec::new(), 0);
            loop {
                let mut connection = mirror.connect().await;
                connection.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
                let page = connection.response("GET").await;
                assert_ok(&page);
                assert!(!page.text().contains("xetHash"), "{}", page.text());
                for item in page.json().as_array().expect("a list") {
                    paths.push(item["path"].as_str().expect("a path").to_owned());
                }
                pages += 1;
                let Some(link) = page.header("link") else { break };
                let base = format!("<http://{host}/");
                assert!(link.starts_with(&base) && link.contains("rel=\"next\""), "{link}");
                assert!(!link.contains(&hub.hub_address().to_string()), "{link}");
                target = link[base.len() - 1..link.find('>').expect("a whole link")].to_owned();
                assert!(pages < 50, "the pages never end");
            }
            assert!(pages >= pages_min, "{query}: {pages} pages");
            paths.sort();
            let mut expected: Vec<String> = (0..10).map(|n| format!("d/w{n}.bin")).collect();
            expected.extend(["a b.txt".to_owned(), "d".to_owned()]);
            expected.sort();
            assert_eq!(paths, expected, "{query}");
        }
    }
}

#[tokio::test]
async fn xet_is_hidden_from_every_listing() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").lfs("d/w.bin", noise(1, 1000)).file("x.txt", "x").commit("first");
    repo.tag("v1");
    let sha = repo.sha();
    let mirror = Mirror::start(&hub).await;
    for target in [
        "/api/models/acme/m".to_owned(),
        "/api/models/acme/m?blobs=true".to_owned(),
        "/api/models/acme/m?expand=xetEnabled&expand=sha".to_owned(),
        "/api/models/acme/m/revision/main".to_owned(),
        format!("/api/models/acme/m/revision/{sha}?blobs=true"),
        "/api/models/acme/m/tree/main?recursive=true".to_owned(),
        "/api/models/acme/m/tree/v1/d".to_owned(),
        "/api/models/acme/m/refs".to_owned(),
        "/api/models/acme/m/commits/main".to_owned(),
        "/api/models?search=acme".to_owned(),
    ] {
        let answer = mirror.get(&target).await;
        assert_ok(&answer);
        let json = answer.json();
        assert!(!mentions(&json, "xetHash"), "{target}: {json}");
        assert!(!answer.text().contains("\"xetEnabled\":true"), "{target}: {json}");
        assert_eq!(answer.header("content-encoding"), None, "{target}: nobody asked for it");
        let head = mirror.head(&target).await;
        assert_eq!(head.status, 200, "HEAD {target}");
    }
    let info = mirror.get("/api/models/acme/m/revision/main").await.json();
    assert_eq!(info["sha"], *sha);
    let refs = mirror.get("/api/models/acme/m/refs").await.json();
    assert_eq!(refs["branches"][0]["targetCommit"], *sha);
    assert_eq!(refs["tags"][0]["name"], "v1");
    let commits = mirror.get("/api/models/acme/m/commits/main").await.json();
    assert_eq!(commits[0]["id"], *sha);
}

#[tokio::test]
async fn paths_info_takes_a_form_and_json() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").lfs("d/w.bin", noise(1, 1000)).file("x y.txt", "x").commit("first");
    let mirror = Mirror::start(&hub).await;
    let target = "/api/models/acme/m/paths-info/main";
    for (kind, body) in [
        ("application/x-www-form-urlencoded", "paths=d%2Fw.bin&paths=x+y.txt&paths=absent&expand=False"),
        ("application/json", r#"{"paths":["d/w.bin","x y.txt","absent"],"expand":false}"#),
    ] {
        for _ in 0..2 {
            let answer = mirror.post(target, kind, body).await;
            assert_ok(&answer);
            let json = answer.json();
            assert_eq!(json.as_array().map(Vec::len), Some(2), "{kind}: {json}");
            assert_eq!(json[0]["lfs"]["oid"], *repo.oid("d/w.bin"), "{json}");
            assert!(!mentions(&json, "xetHash"), "{json}");
        }
    }
    // Another question is another answer.
    let one = mirror.post(target, "application/json", r#"{"paths":["d"]}"#).await;
    assert_eq!(one.json()[0]["type"], "directory");
}

#[tokio::test]
async fn small_endpoints_answer_as_the_hub_does() {
    let hub = FakeHub::start().await;
    hub.token("hf_alice");
    let repo = hub.model("acme/m").lfs("w.bin", noise(1, 1000)).commit("first");
    let mirror = Mirror::start(&hub).await;
    let alice = ["Authorization: Bearer hf_alice"];

    let who = mirror.ask("GET", "/api/whoami-v2", &alice).await;
    assert_ok(&who);
    assert_eq!(who.json()["name"], "alice");
    assert_eq!(mirror.get("/api/whoami-v2").await.status, 401);
    let bad = ["Authorization: Bearer hf_wrong"];
    assert_eq!(mirror.ask("GET", "/api/whoami-v2", &bad).await.status, 401);
    assert_ok(&mirror.get("/api/models/acme/m/auth-check").await);
    assert_ok(&mirror.get("/api/agent-harnesses").await);

    let target = format!("/api/models/acme/m/xet-read-token/{}", repo.sha());
    let token = mirror.get(&target).await;
    assert_ok(&token);
    let json = token.json();
    for (header, field) in [("x-xet-cas-url", "casUrl"), ("x-xet-access-token", "accessToken"), ("x-xet-token-expiration", "exp")]
    {
        let value = token.header(header).unwrap_or_default();
        let expected = json[field].as_str().map_or(json[field].to_string(), str::to_owned);
        assert_eq!(value, expected, "{header}");
        assert!(!value.is_empty(), "{header}");
    }
}

#[tokio::test]
async fn writes_and_unknown_paths_are_refused_here() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").file("x.txt", "x").commit("first");
    let mirror = Mirror::start(&hub).await;
    for target in ["/api/models/acme/m/preupload/main", "/api/models/acme/m/commit/main", "/api/repos/create"] {
        let answer = mirror.post(target, "application/json", "{}").await;
        assert_says_no(&answer, 403, None);
    }
    for target in ["/bogus", "/api/bogus", "/v2/acme/m/tags/list", "/a/b/c/d/e"] {
        assert_says_no(&mirror.get(target).await, 404, None);
    }
    assert!(hub.writes().is_empty());
}

#[tokio::test]
async fn refusals_have_the_codes_that_clients_read() {
    let hub = FakeHub::start().await;
    hub.token("hf_alice");
    let commit = hub.model("acme/m").file("x.txt", "x").commit("first").sha();
    hub.model("acme/off").file("x.txt", "x").commit("first").disabled();
    let mirror = Mirror::start(&hub).await;
    let alice = ["Authorization: Bearer hf_alice"];
    let bad = ["Authorization: Bearer hf_wrong"];
    // Twice: from upstream and from what is remembered.
    for _ in 0..2 {
        for target in ["/acme/none/resolve/main/x", "/api/models/acme/none"] {
            assert_says_no(&mirror.get(target).await, 401, Some("RepoNotFound"));
            let known = mirror.ask("GET", target, &alice).await;
            assert_says_no(&known, 404, Some("RepoNotFound"));
        }
        for target in ["/acme/m/resolve/none/x.txt", "/api/models/acme/m/revision/none", "/api/models/acme/m/tree/none"] {
            assert_says_no(&mirror.get(target).await, 404, Some("RevisionNotFound"));
        }
        let absent = mirror.get("/acme/m/resolve/main/absent").await;
        assert_says_no(&absent, 404, Some("EntryNotFound"));
        assert_eq!(absent.header("x-repo-commit"), Some(&*commit));
        let absent = mirror.get("/api/models/acme/m/tree/main/absent").await;
        assert_says_no(&absent, 404, Some("EntryNotFound"));
        let off = mirror.get("/acme/off/resolve/main/x.txt").await;
        assert_says_no(&off, 403, None);
        assert_eq!(off.header("x-error-message"), Some("Access to this resource is disabled."));
        let unknown = mirror.ask("GET", "/acme/m/resolve/main/x.txt", &bad).await;
        assert_eq!(unknown.status, 401, "{}", unknown.text());
        // HEAD tells the same by its headers alone.
        let head = mirror.head("/acme/m/resolve/main/absent").await;
        assert_says_no(&head, 404, Some("EntryNotFound"));
    }
}

#[tokio::test]
async fn a_gate_holds_before_and_after_the_file_is_kept() {
    let hub = FakeHub::start().await;
    hub.token("hf_other");
    let repo = hub
        .model("acme/gated")
        .lfs("w.bin", noise(1, 1000))
        .file("config.json", "{}")
        .file("README.md", "read me")
        .commit("first")
        .gated()
        .grant("hf_friend");
    let commit = repo.sha();
    let mirror = Mirror::start(&hub).await;
    let friend = ["Authorization: Bearer hf_friend"];
    let other = ["Authorization: Bearer hf_other"];
    for round in 0..3 {
        for file in ["w.bin", "config.json"] {
            for revision in ["main", &commit] {
                let target = format!("/acme/gated/resolve/{revision}/{file}");
                for method in ["HEAD", "GET"] {
                    let anonymous = mirror.ask(method, &target, &[]).await;
                    assert_says_no(&anonymous, 401, Some("GatedRepo"));
                    let ungranted = mirror.ask(method, &target, &other).await;
                    assert_says_no(&ungranted, 403, Some("GatedRepo"));
                    let granted = mirror.ask(method, &target, &friend).await;
                    assert_eq!(granted.status, 200, "round {round} {method} {target}");
                }
            }
        }
        for headers in [&[][..], &other, &friend] {
            let readme = mirror.ask("GET", "/acme/gated/resolve/main/README.md", headers).await;
            assert_ok(&readme);
            assert_eq!(readme.text(), "read me");
        }
        let check = "/api/models/acme/gated/auth-check";
        assert_eq!(mirror.get(check).await.status, 401);
        assert_eq!(mirror.ask("GET", check, &other).await.status, 403);
        assert_ok(&mirror.ask("GET", check, &friend).await);
    }
    assert!(hub.leaks().is_empty());
}

#[tokio::test]
async fn asking_at_a_commit_does_not_make_the_branch_younger() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/moving").file("a", "old").file("b", "b").commit("first");
    let first = repo.sha();
    let mirror = Mirror::of(&hub).set("freshness.revision", "3s").start().await;
    let a = "/acme/moving/resolve/main/a";
    assert_eq!(mirror.get(a).await.body, "old".as_bytes());
    repo.file("a", "new").commit("second");

    // Within its time the branch is the first commit, also for a file that has to be asked for.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let b = mirror.get("/acme/moving/resolve/main/b").await;
    assert_eq!(b.status, 200);
    let at = b.header("x-repo-commit").expect("a commit").to_owned();
    assert!(at == first || at == repo.sha(), "{at}");

    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(mirror.get(a).await.body, "new".as_bytes(), "its time is over");
}

#[tokio::test]
async fn links_to_another_name_of_upstream_lead_here_too() {
    let builder = FakeHub::builder().page_len(2, 2).public_url("https://hub.example.org");
    let hub = builder.start().await.expect("two free ports");
    let repo = hub.model("acme/many");
    for n in 0..5 {
        repo.file(&format!("f{n}"), "x");
    }
    repo.commit("first");
    let mirror = Mirror::start(&hub).await;
    let page = mirror.get("/api/models/acme/many/tree/main?recursive=true").await;
    let link = page.header("link").expect("a next page");
    assert!(link.starts_with("<http://mirror.test/api/models/acme/many/tree/"), "{link}");
}

#[tokio::test]
async fn invented_parameters_fill_no_disk() {
    let hub = FakeHub::start().await;
    hub.model("acme/tiny").file("a", "x").commit("first");
    let mirror = Mirror::start(&hub).await;
    let count = || walk(&mirror.repos().join("api"));
    mirror.get("/api/models/acme/tiny/tree/main?recursive=true").await;
    mirror.get("/api/models/acme/tiny/revision/main?blobs=true").await;
    let before = count();
    for n in 2..22 {
        for target in ["tree/main?recursive=true&limit=", "tree/main?x=", "revision/main?blobs="] {
            mirror.get(&format!("/api/models/acme/tiny/{target}{n}")).await;
        }
    }
    assert_eq!(count(), before);
}

fn walk(dir: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 1 };
    entries.map(|entry| walk(&entry.expect("an entry").path())).sum()
}

#[tokio::test]
async fn an_answer_the_client_has_is_not_sent_again() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").file("x.txt", "x").commit("first");
    hub.fault("/api/models/acme/m/refs").status(200, &[("ETag", "\"abc\""), ("Content-Type", "application/json")]);
    let mirror = Mirror::start(&hub).await;
    let target = "/api/models/acme/m/refs";
    let mut connection = mirror.connect().await;
    for (condition, status) in [
        ("X-None: 1", 200),
        ("If-None-Match: \"abc\"", 304),
        ("If-None-Match: W/\"abc\", \"x\"", 304),
        ("If-None-Match: \"x\"", 200),
    ] {
        connection.ask("GET", target, &[condition]).await;
        let answer = connection.response("GET").await;
        assert_eq!(answer.status, status, "{condition}");
        assert_eq!(answer.header("etag"), Some("\"abc\""), "{condition}");
        assert_eq!(answer.body.is_empty(), status == 304, "{condition}");
    }
}
