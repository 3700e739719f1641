//! The Hub's wire contract, row by row. The numbers are those of the contract's sections: 4 endpoints, 8 and 10.4 errors, 10.3
//! names, 13 what broke other mirrors. What other modules show already (`api`, `files`, `clients`) is not shown again.

use std::time::{Duration, Instant};

use fake_hub::{FakeHub, Kind, Repo, noise};

use crate::harness::{Mirror, Python, Response};

/// What many ask at a time is asked once, and for two seconds those who come late are told the same.
const NO_LONGER_SHARED: Duration = Duration::from_millis(2100);

const ALICE: &str = "Authorization: Bearer hf_alice";

#[track_caller]
fn assert_ok(what: &str, response: &Response) {
    assert_eq!(response.status, 200, "{what}: {:?} {}", response.headers, response.text());
    assert!(response.whole, "{what}");
}

/// Asserts a refusal as the Hub's clients read it: by headers, the same on HEAD and GET.
#[track_caller]
fn assert_says_no(what: &str, response: &Response, status: u16, code: Option<&str>) {
    assert_eq!((response.status, response.header("x-error-code")), (status, code), "{what}: {}", response.text());
    assert!(response.header("x-error-message").is_some_and(|said| !said.is_empty()), "{what}: {:?}", response.headers);
}

/// The path of a repo's files.
fn page(kind: Kind, id: &str) -> String {
    match kind {
        Kind::Model => format!("/{id}"),
        kind => format!("/{}/{id}", plural(kind)),
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Model => "models",
        Kind::Dataset => "datasets",
        Kind::Space => "spaces",
        Kind::Kernel => "kernels",
    }
}

fn fill(repo: Repo) -> Repo {
    repo.file("config.json", "{}").lfs("sub dir/w.bin", noise(1, 5000)).file("empty", "").commit("first").tag("v1")
}

/// Asks all that a read client asks of a repo, by this name, and checks what comes. Returns how many questions that were.
async fn ask_all(mirror: &Mirror, kind: Kind, name: &str, repo: &Repo) {
    let (sha, api, files) = (repo.sha(), format!("/api/{}/{name}", plural(kind)), page(kind, name));
    // 4.1
    for target in [
        "",
        "/revision/main",
        "/revision/v1",
        &format!("/revision/{sha}"),
        "?blobs=True",
        "?expand=sha&expand=siblings",
        "?expand[]=sha",
        "?securityStatus=true",
    ] {
        let target = format!("{api}{target}");
        let answer = mirror.get(&target).await;
        assert_ok(&target, &answer);
        assert_eq!(answer.json()["sha"], *sha, "{target}");
        assert_eq!(answer.header("x-hf-warning"), None, "the Hub's words to whoever asks it are for the mirror");
        assert_ok(&target, &mirror.head(&target).await);
    }
    // 4.2
    for target in ["/tree/main", &format!("/tree/{sha}?recursive=true&expand=false"), "/tree/main/sub%20dir"] {
        let answer = mirror.get(&format!("{api}{target}")).await;
        assert_ok(target, &answer);
        let items = answer.json();
        let items = items.as_array().expect("a list");
        assert!(!items.is_empty() && items.iter().all(|item| item["path"].is_string() && item["oid"].is_string()));
        assert!(!answer.text().contains("xetHash"), "{target}");
    }
    // 4.3
    let form = "application/x-www-form-urlencoded";
    let info = mirror.post(&format!("{api}/paths-info/main"), form, "paths=config.json&paths=none&expand=false").await;
    assert_ok("paths-info", &info);
    assert_eq!(info.json().as_array().map(Vec::len), Some(1));
    // 4.4, 4.5
    let refs = mirror.get(&format!("{api}/refs?include_prs=1")).await;
    assert_ok("refs", &refs);
    assert!(["branches", "converts", "tags", "pullRequests"].iter().all(|key| refs.json()[*key].is_array()));
    assert_ok("commits", &mirror.get(&format!("{api}/commits/main")).await);
    // 4.8, 4.12
    assert_ok("auth-check", &mirror.get(&format!("{api}/auth-check")).await);
    assert_ok("auth-check/write", &mirror.get(&format!("{api}/auth-check/write")).await);
    assert_ok("xet-read-token", &mirror.get(&format!("{api}/xet-read-token/{sha}")).await);
    // 4.10, 4.11, and 13.1, 13.3, 13.9
    let paths = [
        ("config.json", format!("{files}/resolve/main/config.json?download=true")),
        ("sub dir/w.bin", format!("{files}/resolve/{sha}/sub%20dir/w.bin")),
        ("sub dir/w.bin", format!("/api/resolve-cache/{}/{name}/{sha}/sub%20dir%2Fw.bin?x=1&etag=%22y%22", plural(kind))),
        ("empty", format!("{files}/resolve/main/empty")),
    ];
    for (path, target) in paths {
        let content = repo.content(path).read(0, 10_000);
        let etag = format!("\"{}\"", repo.oid(path));
        for method in ["HEAD", "GET"] {
            let answer = mirror.ask(method, &target, &["Accept-Encoding: gzip, deflate"]).await;
            assert_ok(&target, &answer);
            let size = content.len().to_string();
            for (name, value) in [
                ("x-repo-commit", &sha),
                ("etag", &etag),
                ("x-linked-etag", &etag),
                ("content-length", &size),
                ("x-linked-size", &size),
                ("accept-ranges", &"bytes".to_owned()),
                ("access-control-allow-origin", &"*".to_owned()),
            ] {
                assert_eq!(answer.header(name), Some(value.as_str()), "{method} {target}: {name}");
            }
            for absent in ["x-xet-hash", "x-xet-refresh-route", "link", "location", "content-encoding", "transfer-encoding"] {
                assert_eq!(answer.header(absent), None, "{method} {target}");
            }
            assert!(answer.header("access-control-expose-headers").is_some_and(|names| names.contains("X-Linked-ETag")));
        }
        assert_eq!(mirror.get(&target).await.body, content, "{target}");
        if !content.is_empty() {
            let part = mirror.get_range(&target, "bytes=0-0").await;
            assert_eq!((part.status, part.header("content-range")), (206, Some(&*format!("bytes 0-0/{}", content.len()))));
        }
    }
    // 4.20
    let raw = mirror.get(&format!("{files}/raw/main/sub%20dir/w.bin")).await;
    assert_ok("raw", &raw);
    assert!(raw.text().starts_with("version https://git-lfs.github.com/spec/v1\noid sha256:"), "{}", raw.text());
    assert_eq!(mirror.get(&format!("{files}/raw/main/config.json")).await.text(), "{}");
}

// 4.1 to 4.5, 4.8, 4.10 to 4.12, 4.16, 4.20
#[tokio::test]
async fn every_kind_has_every_endpoint() {
    let hub = FakeHub::start().await;
    let mirror = Mirror::start(&hub).await;
    for kind in [Kind::Model, Kind::Dataset, Kind::Space, Kind::Kernel] {
        let repo = fill(hub.repo(kind, "acme/thing"));
        ask_all(&mirror, kind, "acme/thing", &repo).await;
    }
    assert!(hub.leaks().is_empty());
}

/// Every directory and file below the mirror's directory, as text.
fn kept(mirror: &Mirror) -> Vec<String> {
    fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            found.push(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    for part in ["api", "files"] {
        walk(&mirror.repos().join(part), &mut found);
    }
    found
}

// 10.3, 13.4 (olah#57)
#[tokio::test]
async fn every_name_of_a_repo_is_the_same_repo() {
    for kind in [Kind::Model, Kind::Dataset] {
        let hub = FakeHub::start().await;
        let repo = fill(hub.repo(kind, "New-Org/Thing"));
        hub.rename("thing", "New-Org/Thing");
        hub.rename("old-org/name", "New-Org/Thing");
        let mut mirror = Mirror::start(&hub).await;
        for name in ["thing", "old-org/name", "new-org/THING", "New-Org/Thing"] {
            ask_all(&mirror, kind, name, &repo).await;
        }
        assert_eq!(hub.fetched("w.bin"), 1, "the object was fetched once for all names");
        let wrong: Vec<String> = kept(&mirror)
            .into_iter()
            .filter(|path| !path.contains("/aliases"))
            .filter(|path| path.ends_with("/thing") || path.contains("old-org") || path.contains("new-org"))
            .collect();
        assert!(wrong.is_empty(), "kept under another name: {wrong:?}");

        // Nobody is asked where a name leads that is known, nor what was learned under another one.
        hub.clear_log();
        let sha = repo.sha();
        for name in ["thing", "old-org/name", "new-org/THING"] {
            assert_ok(name, &mirror.get(&format!("{}/resolve/{sha}/config.json", page(kind, name))).await);
            assert_ok(name, &mirror.get(&format!("/api/{}/{name}/revision/{sha}", plural(kind))).await);
        }
        assert_eq!(hub.calls().len(), 0, "{:?}", hub.calls());

        // And offline, after a restart, by each name.
        hub.down().await;
        mirror.restart().await;
        for name in ["thing", "old-org/name", "new-org/THING", "New-Org/Thing"] {
            assert_ok(name, &mirror.get(&format!("{}/resolve/main/config.json", page(kind, name))).await);
            assert_ok(name, &mirror.get(&format!("/api/{}/{name}/revision/main", plural(kind))).await);
        }
    }
}

// 10.3: the name leads to a repo that says itself who may read it.
#[tokio::test]
async fn an_old_name_opens_no_closed_repo() {
    let hub = FakeHub::start().await;
    hub.token("hf_other");
    let repo = fill(hub.model("acme/secret")).private().grant("hf_alice");
    hub.rename("acme/former", "acme/secret");
    let gated = fill(hub.model("acme/gated")).gated().grant("hf_alice");
    hub.rename("acme/ungated", "acme/gated");
    let mirror = Mirror::start(&hub).await;
    let other = ["Authorization: Bearer hf_other"];
    for round in 0..2 {
        for (name, id, code) in [("former", &repo, "RepoNotFound"), ("ungated", &gated, "GatedRepo")] {
            let file = format!("/acme/{name}/resolve/main/config.json");
            let what = format!("{name} in round {round}");
            assert_says_no(&what, &mirror.get(&file).await, 401, Some(code));
            let status = if code == "GatedRepo" { 403 } else { 404 };
            assert_says_no(&what, &mirror.ask("GET", &file, &other).await, status, Some(code));
            let answer = mirror.ask("GET", &file, &[ALICE]).await;
            assert_ok(&what, &answer);
            assert_eq!(answer.header("x-repo-commit"), Some(&*id.sha()));
        }
        let info = "/api/models/acme/former";
        assert_says_no(info, &mirror.get(info).await, 401, Some("RepoNotFound"));
        assert_ok(info, &mirror.ask("GET", info, &[ALICE]).await);
        let raw = "/acme/former/raw/main/sub%20dir/w.bin";
        assert_says_no(raw, &mirror.get(raw).await, 401, Some("RepoNotFound"));
        assert_ok(raw, &mirror.ask("GET", raw, &[ALICE]).await);
    }
}

// 10.3: names change hands.
#[tokio::test]
async fn a_name_is_asked_again_after_its_time() {
    let hub = FakeHub::start().await;
    let moved = hub.model("acme/new").file("a", "of the moved repo").commit("first");
    hub.rename("acme/old", "acme/new");
    let mirror = Mirror::of(&hub).set("freshness.alias", "0s").set("freshness.revision", "0s").start().await;
    let target = "/acme/old/resolve/main/a";
    assert_eq!(mirror.get(target).await.text(), "of the moved repo");
    // Somebody takes the name.
    hub.model("acme/old").file("a", "of another repo").commit("first");
    assert_eq!(mirror.get(target).await.text(), "of another repo");
    assert_eq!(mirror.get("/acme/new/resolve/main/a").await.header("x-repo-commit"), Some(&*moved.sha()));
}

// 4.1, M11: one question in any spelling is one question upstream.
#[tokio::test]
async fn queries_and_paths_have_one_spelling() {
    let hub = FakeHub::start().await;
    let sha = fill(hub.model("acme/m")).sha();
    let mirror = Mirror::start(&hub).await;
    for target in [
        format!("/api/models/acme/m/tree/{sha}?recursive=true&expand=false"),
        format!("/api/models/acme/m/tree/{sha}?recursive=True&expand=False"),
        format!("/api/models/acme/m/tree/{sha}?expand=false&recursive=true"),
        format!("//api//models/acme/m/tree/{sha}/?expand=false&recursive=true"),
        format!("http://mirror.test/api/models/acme/m/tree/{sha}?recursive=true&expand=false"),
        format!("http://mirror.test//api/models/acme/m/tree/{sha}?recursive=true&expand=false"),
    ] {
        assert_ok(&target, &mirror.get(&target).await);
    }
    assert_eq!(hub.asked("/tree/"), 1);
    for target in ["//acme/m//resolve/main/config.json", "http://mirror.test/acme/m/resolve/main/config.json?download=true"] {
        assert_eq!(mirror.get(target).await.text(), "{}", "{target}");
    }
}

// 10.3: a commit may be named by its beginning
#[tokio::test]
async fn the_beginning_of_a_commit_names_it() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/m"));
    let (sha, mut mirror) = (repo.sha(), Mirror::start(&hub).await);
    let short = &sha[..7];
    for down in [false, true] {
        for path in ["config.json", "sub%20dir/w.bin"] {
            for method in ["HEAD", "GET"] {
                let target = format!("/acme/m/resolve/{short}/{path}");
                let answer = mirror.ask(method, &target, &[]).await;
                assert_ok(&target, &answer);
                assert_eq!(answer.header("x-repo-commit"), Some(&*sha), "{target}");
            }
        }
        let info = mirror.get(&format!("/api/models/acme/m/revision/{short}")).await;
        assert_ok("revision", &info);
        assert_eq!(info.json()["sha"], *sha);
        assert_ok("tree", &mirror.get(&format!("/api/models/acme/m/tree/{short}?recursive=true&expand=false")).await);
        let absent = mirror.get(&format!("/acme/m/resolve/{short}/absent.txt")).await;
        assert_says_no("absent", &absent, 404, Some("EntryNotFound"));
        if !down {
            hub.down().await;
            mirror.restart().await;
        }
    }
}

// M11: what a client accepts is no business of upstream's, which would give JSON instead of the file
#[tokio::test]
async fn a_file_is_a_file_whatever_a_client_accepts() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    for path in ["sub%20dir/w.bin", "config.json"] {
        let target = format!("/acme/m/resolve/main/{path}");
        let answer = mirror.ask("GET", &target, &["Accept: application/vnd.xet-fileinfo+json, */*", "Range: bytes=0-0"]).await;
        let path = path.replace("%20", " ");
        let content = repo.content(&path).read(0, 10_000);
        assert_eq!((answer.status, &answer.body[..]), (206, &content[..1]), "{target}");
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes 0-0/{}", content.len())));
        assert_eq!(answer.header("x-linked-etag"), Some(&*format!("\"{}\"", repo.oid(&path))));
    }
    assert!(hub.calls().iter().all(|call| call.header("accept") == Some("*/*")));
}

// 4.5, 4.6
#[tokio::test]
async fn pages_of_commits_and_searches_lead_on_through_the_mirror() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m");
    for n in 0..7 {
        repo.file("a", format!("{n}")).commit(&format!("commit {n}"));
    }
    for n in 0..5 {
        hub.model(&format!("many/s{n}")).file("a", "a").commit("first");
    }
    let mirror = Mirror::start(&hub).await;
    for (first, total) in
        [("/api/models/acme/m/commits/main?limit=3&expand[]=formatted", 7), ("/api/models?search=many&limit=2", 5)]
    {
        let (mut target, mut found) = (first.to_owned(), Vec::new());
        loop {
            let page = mirror.get(&target).await;
            assert_ok(&target, &page);
            if target.contains("/commits/") {
                assert_eq!(page.header("x-total-count"), Some("7"));
            }
            found.extend(page.json().as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("an id").to_owned()));
            let Some(link) = page.header("link") else { break };
            let next = link.strip_prefix("<http://mirror.test").and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
            target = next.unwrap_or_else(|| panic!("{link} leads past the mirror")).to_owned();
            assert!(found.len() < 20, "the pages never end");
        }
        found.sort();
        found.dedup();
        assert_eq!(found.len(), total, "{first}");
    }
}

// 4.19: what `hf cache verify` compares a download with is in the listing, unmasked and unchanged
#[tokio::test]
async fn a_listing_has_the_ids_of_contents() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    let tree = mirror.get("/api/models/acme/m/tree/main?recursive=true&expand=false").await.json();
    let of = |path: &str| tree.as_array().expect("a list").iter().find(|entry| entry["path"] == path).expect("the file").clone();
    assert_eq!((&of("config.json")["oid"], &of("config.json")["size"]), (&repo.oid("config.json").into(), &2.into()));
    let large = of("sub dir/w.bin");
    assert_eq!((&large["lfs"]["oid"], &large["lfs"]["size"]), (&repo.oid("sub dir/w.bin").into(), &5000.into()));
    assert!(large["lfs"]["pointerSize"].is_number() && large["oid"] != large["lfs"]["oid"]);
}

// 13.4 (olah#47, #49): an upstream, or a box before it, that compresses although nobody asked
#[tokio::test]
async fn compressed_bodies_are_not_taken_for_the_file() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").file("a.txt", "right").lfs("w.bin", noise(1, 300_000)).commit("first");
    let mirror = Mirror::of(&hub).set("upstream.patience", "1s").start().await;
    let sha = repo.sha();
    assert_ok("tree", &mirror.get(&format!("/api/models/acme/m/tree/{sha}?recursive=true&expand=false")).await);
    hub.fault("").method("GET").status(200, &[("Content-Encoding", "br"), ("ETag", &format!("\"{}\"", repo.oid("a.txt")))]);
    for path in ["a.txt", "w.bin"] {
        let answer = mirror.get(&format!("/acme/m/resolve/{sha}/{path}")).await;
        assert!(answer.status >= 500 || !answer.whole, "{path}: {} {}", answer.status, answer.text());
    }
    hub.clear_faults();
    let began = std::time::Instant::now();
    while mirror.get(&format!("/acme/m/resolve/{sha}/a.txt")).await.text() != "right" {
        assert!(began.elapsed() < Duration::from_secs(60), "what came compressed is remembered");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(hub.calls().iter().all(|call| call.header("accept-encoding") == Some("identity")));
}

// 13.4 (olah#50, #60, #71): more than 50 GB, and more than 32 bits
#[tokio::test]
async fn a_file_of_sixty_gigabytes_has_its_ends() {
    const SIZE: u64 = 60_000_000_123;
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/huge").synthetic_unhashed("w.bin", SIZE, 9).commit("first");
    let mirror = Mirror::start(&hub).await;
    let target = "/acme/huge/resolve/main/w.bin";
    let head = mirror.head(target).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("60000000123")));
    for (range, start) in [("bytes=0-99", 0), ("bytes=50000000000-50000000099", 50_000_000_000), ("bytes=-100", SIZE - 100)] {
        let part = mirror.get_range(target, range).await;
        assert_eq!((part.status, part.header("content-range")), (206, Some(&*format!("bytes {start}-{}/{SIZE}", start + 99))));
        assert_eq!(part.body, repo.content("w.bin").read(start, 100), "{range}");
    }
    assert!(hub.cdn_bytes() < 64 << 20, "{}", hub.cdn_bytes());
}

// 4.6
#[tokio::test]
async fn searches_are_each_callers_own_and_outlive_upstream() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/open"));
    fill(hub.model("acme/hidden")).private().grant("hf_alice");
    let mirror = Mirror::start(&hub).await;
    let target = "/api/models?search=acme&filter=a&filter=b&limit=5&full=True";
    let plain = "/api/models?search=acme";
    for _ in 0..3 {
        assert_eq!(mirror.get(plain).await.json().as_array().map(Vec::len), Some(1));
        assert_eq!(mirror.ask("GET", plain, &[ALICE]).await.json().as_array().map(Vec::len), Some(2));
        assert_eq!(mirror.get(target).await.json().as_array().map(Vec::len), Some(0));
    }
    assert_eq!(hub.asked("/api/models"), 3, "each asked once");
    hub.down().await;
    assert_eq!(mirror.get(plain).await.json().as_array().map(Vec::len), Some(1));
    assert_eq!(mirror.ask("GET", plain, &[ALICE]).await.json().as_array().map(Vec::len), Some(2));
    assert_says_no("another search", &mirror.get("/api/models?search=x").await, 503, None);
    // Nothing of what was searched for is on the disk.
    assert!(kept(&mirror).iter().all(|path| !path.contains("site")), "{:?}", kept(&mirror));
}

#[tokio::test]
async fn a_search_is_old_after_a_while_and_serves_when_upstream_is_down() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/one"));
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    let target = "/api/models?search=acme";
    assert_eq!(mirror.get(target).await.json().as_array().map(Vec::len), Some(1));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    fill(hub.model("acme/two"));
    assert_eq!(mirror.get(target).await.json().as_array().map(Vec::len), Some(2));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    hub.answer_all(503);
    assert_eq!(mirror.get(target).await.json().as_array().map(Vec::len), Some(2));
}

// 4.7, 4.9, 4.14, 4.15, and what the contract does not know
#[tokio::test]
async fn endpoints_without_a_repo() {
    let hub = FakeHub::start().await;
    hub.token("hf_alice");
    hub.token("hf_bob");
    let mirror = Mirror::start(&hub).await;
    for (token, name) in [("hf_alice", "alice"), ("hf_bob", "bob")] {
        let header = format!("Authorization: Bearer {token}");
        assert_eq!(mirror.ask("GET", "/api/whoami-v2", &[&header]).await.json()["name"], name);
    }
    for method in ["HEAD", "GET", "POST"] {
        let answer = mirror.ask(method, "/api/telemetry/transformers/x", &["Content-Length: 0"]).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{method}");
    }
    assert_eq!(hub.asked("telemetry"), 0);
    for target in ["/api/buckets/acme/b", "/buckets/acme/b/resolve/x"] {
        for method in ["HEAD", "GET"] {
            let answer = mirror.ask(method, target, &[]).await;
            assert_says_no(target, &answer, 404, None);
            assert!(answer.header("x-error-message").is_some_and(|said| said.contains("Xet")), "{target}");
        }
    }
    // Other reads of the API are upstream's to answer, with its status.
    assert_says_no("collections", &mirror.get("/api/collections/acme/x").await, 404, None);
    assert_eq!(hub.asked("/api/collections/acme/x"), 1);
    let options = mirror.ask("OPTIONS", "/acme/m/resolve/main/x", &["Origin: https://a.example"]).await;
    assert_eq!(options.status, 204);
    assert!(options.header("access-control-allow-methods").is_some_and(|methods| methods.contains("HEAD")));
}

// 4.9, 13.7
#[tokio::test]
async fn agent_harnesses_are_an_object_or_a_404() {
    let hub = FakeHub::start().await;
    let mirror = Mirror::start(&hub).await;
    for content_type in ["application/json", "text/html"] {
        hub.fault("agent-harnesses").status(200, &[("Content-Type", content_type)]);
        assert_says_no(content_type, &mirror.get("/api/agent-harnesses").await, 404, None);
        hub.clear_faults();
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    let list = mirror.get("/api/agent-harnesses").await;
    assert_ok("harnesses", &list);
    assert!(list.json().is_object());
    hub.down().await;
    assert_ok("kept harnesses", &mirror.get("/api/agent-harnesses").await);
}

// 4.17
#[tokio::test]
async fn writes_are_refused_with_a_word_on_what_to_do() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    for (method, target) in [
        ("POST", "/api/models/acme/m/preupload/main"),
        ("POST", "/api/models/acme/m/commit/main"),
        ("GET", "/api/models/acme/m/xet-write-token/main"),
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("POST", "/api/repos/move"),
        ("POST", "/api/models/acme/m/discussions"),
        ("PUT", "/api/models/acme/m/settings"),
        ("POST", "/api/validate-yaml"),
        ("POST", "/acme/m.git/git-receive-pack"),
    ] {
        let answer = mirror.ask(method, target, &["Content-Length: 0"]).await;
        assert_says_no(target, &answer, 403, None);
        let said = answer.header("x-error-message").unwrap_or_default();
        assert!(said.contains("mirror") && said.contains("upstream.writes"), "{said}");
        match target.contains("git-receive-pack") {
            true => assert_eq!(answer.text(), format!("{said}\n"), "git shows a plain text"),
            false => assert_eq!(answer.json()["error"], said, "{target}"),
        }
    }
    assert!(hub.writes().is_empty());
}

// 4.17, passed on
#[tokio::test]
async fn writes_pass_when_configured() {
    let hub = FakeHub::start().await;
    hub.token("hf_alice");
    fill(hub.model("acme/m"));
    hub.fault("/commit/main").status(200, &[("Content-Type", "application/json"), ("X-Thing", "kept")]);
    hub.fault("/repos/move").status(307, &[("Location", "https://huggingface.co/api/repos/other")]);
    let mirror = Mirror::of(&hub).set("upstream.writes", "pass").start().await;
    // Longer than any buffer on the way.
    let body = "x".repeat(20 << 20);
    let mut connection = mirror.connect().await;
    connection
        .send(format!(
            "POST http://mirror.test/api/models/acme/m/commit/main?create_pr=1 HTTP/1.1\r\nHost: mirror.test\r\n{ALICE}\r\n\
             Content-Type: application/x-ndjson\r\nProxy-Authorization: secret\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
    connection.send(&body).await;
    let answer = connection.response("POST").await;
    assert_ok("commit", &answer);
    assert_eq!(answer.header("x-thing"), Some("kept"));
    // Chunked, on the same connection.
    connection
        .send("POST /api/models/acme/m/preupload/main HTTP/1.1\r\nHost: mirror.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    assert_eq!(connection.response("POST").await.status, 404, "the fake hub's own answer");
    let moved = mirror.post("/api/repos/move", "application/json", "{}").await;
    let location = moved.header("location").expect("a place");
    assert!(location.starts_with("http://mirror.test/"), "{location}");

    let writes = hub.writes();
    assert_eq!(writes.len(), 3, "{writes:?}");
    let commit = &writes[0];
    assert_eq!((&*commit.path, &*commit.query), ("/api/models/acme/m/commit/main", "create_pr=1"));
    assert_eq!(commit.body.len(), body.len());
    assert_eq!(commit.token.as_deref(), Some("hf_alice"));
    assert!(!commit.headers.contains_key("proxy-authorization"));
    assert_eq!(commit.headers["host"], hub.hub_address().to_string());
    assert_eq!(&writes[1].body[..], b"abc");
    assert!(writes[1].token.is_none());

    hub.down().await;
    let answer = mirror.post("/api/models/acme/m/commit/main", "application/json", "{}").await;
    assert_says_no("upstream is down", &answer, 503, None);
    assert!(hub.leaks().is_empty());
}

// 4.20
#[tokio::test]
async fn raw_is_what_git_holds() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/m"));
    let gated = fill(hub.model("acme/gated")).gated().grant("hf_alice");
    let mirror = Mirror::start(&hub).await;
    for revision in ["main".to_owned(), repo.sha()] {
        let target = format!("/acme/m/raw/{revision}/sub%20dir/w.bin");
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 5000\n", repo.oid("sub dir/w.bin"));
        let answer = mirror.get(&target).await;
        assert_ok(&target, &answer);
        assert_eq!(answer.text(), pointer);
        assert_eq!(answer.header("x-repo-commit"), Some(&*repo.sha()));
        let etag = answer.header("etag").expect("a tag").to_owned();
        let head = mirror.head(&target).await;
        assert_eq!((head.header("etag"), head.header("content-length")), (Some(&*etag), Some(&*pointer.len().to_string())));
        assert_eq!(mirror.ask("GET", &target, &[&format!("If-None-Match: {etag}")]).await.status, 304);
        let plain = mirror.get(&format!("/acme/m/raw/{revision}/config.json")).await;
        assert_eq!((plain.text().as_str(), plain.header("etag")), ("{}", Some(&*format!("\"{}\"", repo.oid("config.json")))));
    }
    let absent = mirror.get("/acme/m/raw/main/absent").await;
    assert_says_no("absent", &absent, 404, Some("EntryNotFound"));
    let target = format!("/acme/gated/raw/{}/sub%20dir/w.bin", gated.sha());
    for _ in 0..2 {
        assert_says_no("gated", &mirror.get(&target).await, 401, Some("GatedRepo"));
        assert_ok("gated", &mirror.ask("GET", &target, &[ALICE]).await);
    }
    hub.down().await;
    assert_ok("upstream is down", &mirror.get(&format!("/acme/m/raw/{}/sub%20dir/w.bin", repo.sha())).await);
    assert_eq!(hub.fetched("w.bin"), 0, "a pointer needs no content");
}

// 10.4 and 8.1: every row on HEAD and GET, for files and the API
#[tokio::test]
async fn refusals_are_the_hubs_word_for_word() {
    let hub = FakeHub::start().await;
    hub.token("hf_other");
    let sha = fill(hub.model("acme/m")).sha();
    fill(hub.model("acme/private")).private().grant("hf_alice");
    fill(hub.model("acme/gated")).gated().grant("hf_alice");
    fill(hub.model("acme/off")).disabled();
    let mirror = Mirror::start(&hub).await;
    let other = "Authorization: Bearer hf_other";
    let bad = "Authorization: Bearer hf_bad";
    let none = "X-Nothing: 1";
    let gate = "Access to model acme/gated is restricted";
    let rows: [(&str, &str, u16, Option<&str>, &str); 22] = [
        ("/acme/none/resolve/main/x", none, 401, Some("RepoNotFound"), "Invalid username or password."),
        ("/api/models/acme/none", none, 401, Some("RepoNotFound"), "Invalid username or password."),
        ("/acme/private/resolve/main/x", none, 401, Some("RepoNotFound"), "Invalid username or password."),
        ("/acme/none/resolve/main/x", other, 404, Some("RepoNotFound"), "Repository not found"),
        ("/api/models/acme/none/revision/main", other, 404, Some("RepoNotFound"), "Repository not found"),
        ("/acme/private/resolve/main/config.json", other, 404, Some("RepoNotFound"), "Repository not found"),
        ("/acme/m/resolve/nope/config.json", none, 404, Some("RevisionNotFound"), "Invalid rev id: nope"),
        ("/acme/m/raw/nope/config.json", none, 404, Some("RevisionNotFound"), "Invalid rev id: nope"),
        ("/api/models/acme/m/revision/nope", none, 404, Some("RevisionNotFound"), "Invalid rev id: nope"),
        ("/api/models/acme/m/tree/nope", none, 404, Some("RevisionNotFound"), "Invalid rev id: nope"),
        ("/acme/m/resolve/main/nope", none, 404, Some("EntryNotFound"), "Entry not found"),
        ("/acme/m/raw/main/nope", none, 404, Some("EntryNotFound"), "Entry not found"),
        ("/api/models/acme/m/tree/main/nope", none, 404, Some("EntryNotFound"), "nope does not exist on \"main\""),
        ("/api/models/acme/m/tree/main/config.json", none, 404, Some("EntryNotFound"), ""),
        ("/acme/gated/resolve/main/config.json", none, 401, Some("GatedRepo"), gate),
        ("/acme/gated/resolve/nope/nope", none, 401, Some("GatedRepo"), gate),
        ("/acme/gated/resolve/main/config.json", other, 403, Some("GatedRepo"), gate),
        ("/api/models/acme/gated/auth-check", other, 403, Some("GatedRepo"), gate),
        ("/acme/off/resolve/main/config.json", none, 403, None, "Access to this resource is disabled."),
        ("/api/models/acme/off", none, 403, None, "Access to this resource is disabled."),
        ("/acme/m/resolve/main/config.json", bad, 401, Some("RepoNotFound"), "Invalid username or password."),
        ("/api/whoami-v2", none, 401, None, "Invalid username or password."),
    ];
    for round in 0..2 {
        for (target, header, status, code, message) in rows {
            // An open repo is read whatever the token is worth.
            if header == bad && target.contains("/m/") {
                continue;
            }
            for method in ["HEAD", "GET"] {
                let answer = mirror.ask(method, target, &[header]).await;
                let what = format!("{method} {target} with {header} in round {round}");
                assert_says_no(&what, &answer, status, code);
                let said = answer.header("x-error-message").unwrap_or_default();
                assert!(said.starts_with(message), "{what}: {said}");
                if code == Some("EntryNotFound") && !target.starts_with("/api/") {
                    assert_eq!(answer.header("x-repo-commit"), Some(&*sha), "{what}");
                }
                if status == 401 {
                    assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer realm=")), "{what}");
                }
            }
        }
    }
}

// 8.4, 13.4 (olah#62, #77), 13.8: trouble is trouble, never 401 or 404, and is not remembered
#[tokio::test]
async fn upstream_trouble_is_never_a_refusal() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    let targets = ["/acme/m/resolve/main/config.json", "/api/models/acme/m/revision/main", "/api/models/acme/m/refs"];
    for (upstream, expected) in [(500, 503), (502, 503), (503, 503), (504, 503), (429, 429)] {
        hub.answer_all(upstream);
        for target in targets {
            for method in ["HEAD", "GET"] {
                let answer = mirror.ask(method, target, &[]).await;
                let what = format!("{method} {target} with {upstream}");
                assert!(answer.status == expected || answer.status == 503, "{what}: {}", answer.status);
                assert_says_no(&what, &answer, answer.status, None);
                assert!(answer.header("retry-after").is_some(), "{what}");
                assert!(answer.header("x-error-message").is_some_and(|said| said.contains("mirror") || answer.status == 429));
            }
        }
        hub.answer_normally();
    }
    let began = std::time::Instant::now();
    while mirror.get(targets[0]).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(60), "upstream's trouble is remembered");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(mirror.get(targets[0]).await.header("x-repo-commit"), Some(&*repo.sha()));
}

// 8.4: a GET of a file fails in the word that the client tries again
#[tokio::test]
async fn trouble_with_a_file_is_told_as_each_client_retries_it() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    hub.down().await;
    let file = "/acme/m/resolve/main/config.json";
    for (client, status) in [("0.36.2", 503), ("0.34.6", 429), ("1.33.0", 429), ("2.4.0", 429)] {
        let agent = format!("User-Agent: unknown/None; hf_hub/{client}; python/3.11.7");
        let answer = mirror.ask("GET", file, &[&agent]).await;
        assert_says_no(client, &answer, status, None);
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok_and(|s| s > 0)), "{client}");
        assert_eq!(mirror.ask("HEAD", file, &[&agent]).await.status, 503, "HEADs have a round of their own: {client}");
        assert_eq!(mirror.ask("GET", "/api/models/acme/m", &[&agent]).await.status, 503, "{client}");
    }
    assert_eq!(mirror.get(file).await.status, 503);
}

// 8.4: offline, the remedy is named
#[tokio::test]
async fn an_offline_mirror_says_what_can_be_done() {
    let hub = FakeHub::start().await;
    let mirror = Mirror::of(&hub).arg("--offline").start().await;
    for target in ["/acme/m/resolve/main/config.json", "/api/models/acme/m", "/api/models?search=x"] {
        let answer = mirror.ask("GET", target, &["User-Agent: x; hf_hub/1.33.0"]).await;
        assert_says_no(target, &answer, 503, None);
        assert!(answer.header("x-error-message").is_some_and(|said| said.contains("dingospeed pull")), "{:?}", answer.headers);
        assert_eq!(answer.header("retry-after"), None, "it will not pass");
    }
    assert_eq!(hub.calls().len(), 0);
}

// Every error has a message, also the rare ones.
#[tokio::test]
async fn every_error_has_a_message() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    hub.fault("/api/models/acme/m/discussions").status(418, &[]);
    hub.fault("/api/models/acme/m/refs").status(400, &[]);
    let mirror = Mirror::start(&hub).await;
    for target in [
        "/acme/m",
        "/acme/m/blob/main/config.json",
        "/",
        "/nowhere",
        "/api",
        "/acme/m/resolve/main",
        "/a%2Fb/c/resolve/main/x",
        "/acme/m/resolve/../x",
    ] {
        let answer = mirror.get(target).await;
        assert!(answer.status == 200 || answer.header("x-error-message").is_some_and(|said| !said.is_empty()), "{target}");
    }
    for target in ["/api/models/acme/m/discussions", "/api/models/acme/m/refs"] {
        assert!(mirror.get(target).await.header("x-error-message").is_some_and(|said| !said.is_empty()), "{target}");
    }
    let past = mirror.get_range("/acme/m/resolve/main/config.json", "bytes=10-").await;
    assert_eq!((past.status, past.header("content-range")), (416, Some("bytes */2")));
    assert!(past.header("x-error-message").is_some());
}

// Item 3: what a branch said is confirmed by its tag
#[tokio::test]
async fn a_kept_answer_is_confirmed_without_a_body() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/m"));
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    for target in ["/api/models/acme/m/revision/main", "/api/models/acme/m/tree/main?recursive=true", "/api/models/acme/m/refs"] {
        let first = mirror.get(target).await;
        assert_ok(target, &first);
        assert_eq!(first.header("x-upstream-etag"), None);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        hub.clear_log();
        let again = mirror.get(target).await;
        assert_eq!(again.body, first.body, "{target}");
        let calls: Vec<_> = hub.api_calls().into_iter().filter(|call| !call.path.ends_with("auth-check")).collect();
        assert_eq!(calls.len(), 1, "{target}: {calls:?}");
        assert_eq!((calls[0].status, calls[0].body_bytes), (304, 0), "{target}");
    }
    repo.file("config.json", "{\"new\":1}").commit("second");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let moved = mirror.get("/api/models/acme/m/revision/main").await;
    assert_eq!(moved.json()["sha"], *repo.sha(), "another state has another tag");
    // After a confirmation the branch is fresh knowledge for files, too.
    assert_eq!(mirror.get("/acme/m/resolve/main/config.json").await.text(), "{\"new\":1}");
}

// 13.10
#[tokio::test]
async fn a_head_and_the_get_after_it_agree() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").file("a", "old").lfs("w.bin", noise(1, 300_000)).commit("first");
    let first = repo.sha();
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    let (a, w) = ("/acme/m/resolve/main/a", "/acme/m/resolve/main/w.bin");
    let told = mirror.head(a).await;
    assert_eq!(told.header("x-repo-commit"), Some(&*first));
    mirror.head(w).await;
    repo.file("a", "new!").lfs("w.bin", noise(2, 300_000)).commit("second");
    tokio::time::sleep(NO_LONGER_SHARED).await;

    // The client that was told, in every way it may go on.
    assert_eq!(mirror.get(a).await.text(), "old");
    let rest = mirror.get_range(w, "bytes=100000-").await;
    assert_eq!((rest.status, rest.header("x-repo-commit")), (206, Some(&*first)));
    assert_eq!(rest.body, &noise(1, 300_000)[100_000..]);
    assert_eq!(mirror.get_range(w, "bytes=0-9").await.header("x-repo-commit"), Some(&*first));
    // Another client, and the same one once it asks again, see the branch as it is.
    let forwarded = "X-Forwarded-For: 192.0.2.7";
    assert_eq!(mirror.ask("GET", a, &[forwarded]).await.text(), "new!");
    assert_eq!(mirror.head(a).await.header("x-repo-commit"), Some(&*repo.sha()));
    assert_eq!(mirror.get(a).await.text(), "new!");
    // Who never asked first is held to nothing, but may resume what it began.
    let plain = ["X-Forwarded-For: 192.0.2.8"];
    assert_eq!(mirror.ask("GET", a, &plain).await.text(), "new!");
    repo.file("a", "newer").commit("third");
    tokio::time::sleep(NO_LONGER_SHARED).await;
    assert_eq!(mirror.ask("GET", a, &[plain[0], "Range: bytes=2-"]).await.text(), "w!");
    assert_eq!(mirror.ask("GET", a, &plain).await.text(), "newer");
}

// Item 3: one listing of a commit answers for all of its files
#[tokio::test]
async fn a_listed_commit_needs_no_metadata() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/many");
    for n in 0..50 {
        repo.file(&format!("f{n}"), format!("content {n}"));
    }
    let sha = repo.lfs("w.bin", noise(1, 9000)).commit("first").sha();
    let mirror = Mirror::start(&hub).await;
    mirror.get(&format!("/api/models/acme/many/tree/{sha}?recursive=true&expand=false")).await;
    hub.clear_log();
    for n in 0..50 {
        assert_ok("head", &mirror.head(&format!("/acme/many/resolve/{sha}/f{n}")).await);
    }
    for absent in ["adapter_config.json", "model_index.json", "nope/x"] {
        let answer = mirror.head(&format!("/acme/many/resolve/{sha}/{absent}")).await;
        assert_says_no(absent, &answer, 404, Some("EntryNotFound"));
        assert_eq!(answer.header("x-repo-commit"), Some(&*sha));
    }
    assert_eq!(hub.calls().len(), 0, "{:?}", hub.calls());
    assert_ok("get", &mirror.get(&format!("/acme/many/resolve/{sha}/w.bin")).await);
    assert_eq!(hub.api_calls().len(), 0);
    hub.clear_log();
    assert_ok("get", &mirror.get(&format!("/acme/many/resolve/{sha}/w.bin")).await);
    assert_eq!(hub.calls().len(), 0);
}

// Item 3: clients that list by `siblings` ask for every file; the mirror asks for the listing
#[tokio::test]
async fn files_asked_one_by_one_are_listed_once() {
    let hub = FakeHub::builder().page_len(20, 20).start().await.expect("two free ports");
    let repo = hub.model("acme/many");
    for n in 0..50 {
        repo.file(&format!("f{n:02}"), format!("content {n}"));
    }
    let sha = repo.commit("first").sha();
    let mirror = Mirror::start(&hub).await;
    for n in 0..50 {
        assert_ok("head", &mirror.head(&format!("/acme/many/resolve/{sha}/f{n:02}")).await);
    }
    assert_eq!(hub.asked("/tree/"), 3, "three pages");
    assert!(hub.resolver_calls().len() <= 2, "{:?}", hub.resolver_calls());
    hub.clear_log();
    let absent = mirror.head(&format!("/acme/many/resolve/{sha}/absent")).await;
    assert_says_no("absent", &absent, 404, Some("EntryNotFound"));
    assert_eq!(hub.calls().len(), 0, "the pages together are all there is");
}

// The answer on what a file is names its URL as well, so nobody asks twice.
#[tokio::test]
async fn an_lfs_file_is_asked_about_once() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    for method in ["HEAD", "GET"] {
        let answer = mirror.ask(method, "/acme/m/resolve/main/sub%20dir/w.bin", &[]).await;
        assert_eq!(answer.status, 200);
        assert!(method == "HEAD" || answer.body == noise(1, 5000));
    }
    assert_eq!(hub.resolver_calls().len(), 1, "{:#?}", hub.resolver_calls());
}

#[tokio::test]
async fn a_url_that_came_with_the_answer_and_has_expired_is_asked_for_anew() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.head("/acme/m/resolve/main/sub%20dir/w.bin").await.status, 200);
    hub.expire_signatures();
    assert_eq!(mirror.get("/acme/m/resolve/main/sub%20dir/w.bin").await.body, noise(1, 5000));
    assert_eq!(hub.resolver_calls().len(), 2, "{:#?}", hub.resolver_calls());
}

#[tokio::test]
async fn a_url_that_one_caller_was_given_is_not_anothers() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m")).private().grant("hf_first").grant("hf_second");
    let mirror = Mirror::start(&hub).await;
    let path = "/acme/m/resolve/main/sub%20dir/w.bin";
    assert_eq!(mirror.ask("HEAD", path, &["Authorization: Bearer hf_first"]).await.status, 200);
    let answer = mirror.ask("GET", path, &["Authorization: Bearer hf_second"]).await;
    assert_eq!((answer.status, answer.body), (200, noise(1, 5000)));
    let asked_by: Vec<_> = hub.resolver_calls().into_iter().filter_map(|call| call.token).collect();
    assert_eq!(asked_by, ["hf_first", "hf_second"]);
}

// Item 3: absent files are remembered
#[tokio::test]
async fn an_absent_file_is_asked_for_once() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    let mirror = Mirror::start(&hub).await;
    for _ in 0..5 {
        for method in ["HEAD", "GET"] {
            let answer = mirror.ask(method, "/acme/m/resolve/main/adapter_config.json", &[]).await;
            assert_says_no("absent", &answer, 404, Some("EntryNotFound"));
        }
    }
    assert_eq!(hub.resolver_calls().len(), 1, "{:?}", hub.resolver_calls());
}

// A masked listing makes no file absent.
#[tokio::test]
async fn a_masked_listing_teaches_nothing() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/gated")).gated().grant("hf_alice");
    let mirror = Mirror::start(&hub).await;
    let sha = repo.sha();
    for _ in 0..2 {
        let tree = mirror.get(&format!("/api/models/acme/gated/tree/{sha}?recursive=true&expand=false")).await;
        assert!(tree.text().contains("****"), "{}", tree.text());
        for path in ["config.json", "empty", "sub%20dir/w.bin"] {
            let head = mirror.ask("HEAD", &format!("/acme/gated/resolve/{sha}/{path}"), &[ALICE]).await;
            assert_ok(path, &head);
        }
    }
}

// Item 7
#[tokio::test]
async fn rules_say_what_may_be_had() {
    let hub = FakeHub::start().await;
    for id in ["acme/good", "acme/bad", "other/x", "New/Bad-Repo"] {
        fill(hub.model(id));
    }
    fill(hub.dataset("acme/good"));
    hub.rename("acme/alias", "New/Bad-Repo");
    hub.rename("former/good", "acme/good");
    let mirror = Mirror::of(&hub)
        .set("rules.fetch_allow", "models/acme/*,datasets/*,models/new/*")
        .set("rules.fetch_deny", "models/*/bad*")
        .start()
        .await;
    for (name, key) in [
        ("acme/good", None),
        // Only its present name is allowed.
        ("former/good", None),
        ("acme/bad", Some("rules.fetch_deny")),
        ("ACME/Bad", Some("rules.fetch_deny")),
        ("other/x", Some("rules.fetch_allow")),
        // By its old name nothing is known against it; by the one it has now there is.
        ("acme/alias", Some("rules.fetch_deny")),
    ] {
        for round in 0..2 {
            for target in [
                format!("/api/models/{name}"),
                format!("/{name}/resolve/main/config.json"),
                format!("/{name}/raw/main/config.json"),
                format!("/api/models/{name}/tree/main"),
            ] {
                for method in ["HEAD", "GET"] {
                    let answer = mirror.ask(method, &target, &[]).await;
                    match key {
                        None => assert_ok(&format!("{target} in round {round}"), &answer),
                        Some(key) => {
                            assert_says_no(&format!("{target} in round {round}"), &answer, 403, None);
                            let said = answer.header("x-error-message").unwrap_or_default();
                            assert!(said.contains(key) && said.contains("administrator"), "{said}");
                        }
                    }
                }
            }
        }
    }
    assert_ok("datasets", &mirror.get("/datasets/acme/good/resolve/main/config.json").await);
    assert_eq!(hub.asked("acme/bad"), 0, "what is denied is not asked for");
    let other: Vec<_> = hub.calls().into_iter().filter(|call| call.path.contains("other/x")).collect();
    assert!(other.len() == 1 && other[0].path.ends_with("/auth-check"), "only whether it has another name: {other:?}");
}

// Item 7
#[tokio::test]
async fn what_may_not_be_kept_is_served_through() {
    let hub = FakeHub::start().await;
    let repo = fill(hub.model("acme/fleeting"));
    fill(hub.model("acme/kept"));
    hub.rename("acme/former", "acme/renamed-fleeting");
    let renamed = fill(hub.model("acme/renamed-fleeting"));
    let mirror = Mirror::of(&hub)
        .set("rules.cache_allow", "models/*")
        .set("rules.cache_deny", "models/acme/fleeting,models/acme/former")
        .start()
        .await;
    ask_all(&mirror, Kind::Model, "acme/fleeting", &repo).await;
    ask_all(&mirror, Kind::Model, "acme/former", &renamed).await;
    let dataset = fill(hub.dataset("acme/d"));
    ask_all(&mirror, Kind::Dataset, "acme/d", &dataset).await;
    let before = hub.fetched("fleeting/sub dir/w.bin");
    assert!(before >= 2, "each download comes from upstream");
    let kept_of = |name: &str| -> Vec<String> {
        let is_of = |path: &String| path.contains(name) && !path.contains("aliases");
        // That it is open is noted: it guards, and is no answer.
        kept(&mirror)
            .into_iter()
            .filter(is_of)
            .filter(|path| {
                path.ends_with(".rec") || path.ends_with(".jsonl") || path.contains("/refs/") || path.contains("/files/")
            })
            .collect()
    };
    for name in ["fleeting", "datasets"] {
        assert!(kept_of(name).is_empty(), "{:?}", kept_of(name));
    }
    let blobs = std::fs::read_dir(mirror.repos().join("blobs")).into_iter().flatten().flatten();
    let files: usize = blobs.map(|dir| std::fs::read_dir(dir.path()).map_or(0, Iterator::count)).sum();
    assert_eq!(files, 0, "no bytes are kept");
    assert_ok("kept", &mirror.get("/acme/kept/resolve/main/config.json").await);
    assert!(!kept_of("acme/kept").is_empty());
    // The same bytes may be kept for a repo that may be; and who may not keep still gets the right ones.
    let part = mirror.get_range("/acme/fleeting/resolve/main/sub%20dir/w.bin", "bytes=100-199").await;
    assert_eq!(part.body, &noise(1, 5000)[100..200]);
    hub.down().await;
    assert_eq!(mirror.get("/acme/fleeting/resolve/main/sub%20dir/w.bin").await.status / 100, 5);
    assert_eq!(mirror.get("/api/models/acme/fleeting").await.status / 100, 5);
}

// Item 3: what a listing has told is fetched from where the Hub has it, without asking for that first
#[tokio::test]
async fn a_listed_small_file_costs_one_call() {
    let hub = FakeHub::start().await;
    for id in ["acme/many", "acme/gated"] {
        let repo = hub.model(id);
        for n in 0..20 {
            repo.file(&format!("deep er/f{n}.json"), format!("content {n} of {id}"));
        }
        repo.commit("first");
    }
    hub.model("acme/gated").gated().grant("hf_alice");
    let mirror = Mirror::start(&hub).await;
    for (id, header) in [("acme/many", "X-Nothing: 1"), ("acme/gated", ALICE)] {
        let sha = hub.model(id).sha();
        assert_ok(id, &mirror.ask("GET", &format!("/api/models/{id}/tree/{sha}?recursive=true&expand=false"), &[header]).await);
        hub.clear_log();
        for n in 0..20 {
            let file = mirror.ask("GET", &format!("/{id}/resolve/{sha}/deep%20er/f{n}.json"), &[header]).await;
            assert_eq!((file.status, file.text()), (200, format!("content {n} of {id}")));
        }
        let calls = hub.resolver_calls();
        assert_eq!(calls.len(), 20, "{calls:#?}");
        assert!(
            calls.iter().all(|call| call.method == "GET" && call.path.starts_with("/api/resolve-cache/models/")),
            "{calls:#?}"
        );
    }
    // It is on the disk now, and its gate is where it was.
    let closed = format!("/acme/gated/resolve/{}/deep%20er/f0.json", hub.model("acme/gated").sha());
    assert_says_no("gated", &mirror.get(&closed).await, 401, Some("GatedRepo"));
    assert!(hub.leaks().is_empty());
}

#[tokio::test]
async fn an_upstream_without_that_address_serves_small_files_too() {
    let hub = FakeHub::builder().without_resolve_cache().start().await.expect("two free ports");
    let repo = hub.model("acme/many");
    for n in 0..10 {
        repo.file(&format!("f{n}"), format!("content {n}"));
    }
    let sha = repo.commit("first").sha();
    let mirror = Mirror::start(&hub).await;
    assert_ok("tree", &mirror.get(&format!("/api/models/acme/many/tree/{sha}?recursive=true&expand=false")).await);
    for n in 0..10 {
        assert_eq!(mirror.get(&format!("/acme/many/resolve/{sha}/f{n}")).await.text(), format!("content {n}"));
    }
    assert_eq!(hub.asked("/api/resolve-cache/"), 1, "it was tried once");
}

#[tokio::test]
async fn a_small_file_elsewhere_than_thought_is_asked_for() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").file("a", "one").file("b", "two").file("c", "three").file("d", "four").commit("first");
    let sha = repo.sha();
    let mirror = Mirror::start(&hub).await;
    assert_ok("tree", &mirror.get(&format!("/api/models/acme/m/tree/{sha}?recursive=true&expand=false")).await);
    let first = || hub.fault("/api/resolve-cache/").method("GET").times(1);
    let get = async |path: &str| mirror.get(&format!("/acme/m/resolve/{sha}/{path}")).await.text();
    first().changed_etag();
    assert_eq!(get("a").await, "one", "what lies there says that it is something else");
    first().status(403, &[]);
    assert_eq!(get("b").await, "two");
    first().redirect_to("http://elsewhere.example/");
    assert_eq!(get("c").await, "three");
    first().status(502, &[]);
    assert_eq!(get("d").await, "four");
}

// 4.13: `datasets` takes the viewer's host from the endpoint's, and does without when there is a no
#[tokio::test]
async fn the_data_set_viewer_is_a_clear_no() {
    let hub = FakeHub::start().await;
    fill(hub.dataset("acme/d"));
    let mirror = Mirror::start(&hub).await;
    for target in ["/parquet?dataset=acme/d", "/info?dataset=acme/d", "/is-valid?dataset=acme/d", "/splits?dataset=acme/d", "/"] {
        let mut connection = mirror.connect().await;
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: datasets-server.mirror.test:8090\r\n\r\n")).await;
        let answer = connection.response("GET").await;
        assert_says_no(target, &answer, 404, None);
        assert!(answer.header("x-error-message").is_some_and(|said| said.contains("refs/convert/parquet")), "{target}");
    }
    assert!(hub.calls().is_empty());
}

// 4.20: git's own reads are upstream's to answer; nothing of them is kept
#[tokio::test]
async fn git_reads_pass_and_say_what_does_not() {
    let hub = FakeHub::start().await;
    fill(hub.model("acme/m"));
    fill(hub.model("acme/private")).private().grant("hf_alice");
    let kind = [("Content-Type", "application/x-git-upload-pack-advertisement"), ("Cache-Control", "no-cache")];
    hub.fault("acme/m/info/refs").status(200, &kind);
    hub.fault("/git-upload-pack").status(200, &[("Content-Type", "application/x-git-upload-pack-result")]);
    let mirror = Mirror::of(&hub).set("rules.fetch_deny", "models/acme/denied").start().await;
    let refs = "/acme/m/info/refs?service=git-upload-pack";
    // user:hf_alice
    let basic = "Authorization: Basic dXNlcjpoZl9hbGljZQ==";
    for _ in 0..2 {
        let answer = mirror.ask("GET", refs, &[basic, "Git-Protocol: version=2", "Cookie: session=mine"]).await;
        assert_ok(refs, &answer);
        assert_eq!(answer.header("content-type"), Some(kind[0].1));
    }
    let asked: Vec<_> = hub.calls().into_iter().filter(|call| call.path.ends_with("/info/refs")).collect();
    assert_eq!(asked.len(), 2, "nothing is kept");
    assert_eq!((asked[0].query.as_str(), asked[0].header("git-protocol")), ("service=git-upload-pack", Some("version=2")));
    assert_eq!(asked[0].header("authorization"), basic.strip_prefix("Authorization: "));
    assert_eq!(asked[0].header("cookie"), None, "it is not the Hub's");
    let pack = mirror.post("/acme/m/git-upload-pack", "application/x-git-upload-pack-request", "0014command=ls-refs\n").await;
    assert_ok("git-upload-pack", &pack);
    assert_eq!(pack.header("content-type"), Some("application/x-git-upload-pack-result"));
    let sent = hub.calls().into_iter().find(|call| call.path.ends_with("/git-upload-pack")).expect("it was passed on");
    assert_eq!(&sent.body[..], b"0014command=ls-refs\n");

    // Upstream decides who reads, in its own words: git asks its user for a password after a 401.
    let closed = mirror.get("/acme/private/info/refs?service=git-upload-pack").await;
    assert_eq!((closed.status, closed.header("www-authenticate").is_some()), (401, true));
    for (method, target, status, says) in [
        ("GET", "/acme/m.git/info/refs?service=git-receive-pack", 403, "read-only"),
        ("POST", "/acme/m.git/info/lfs/objects/batch", 403, "hf download acme/m"),
        ("GET", "/acme/m/info/lfs/locks", 403, "GIT_LFS_SKIP_SMUDGE"),
        ("GET", "/acme/denied/info/refs?service=git-upload-pack", 403, "rules.fetch_deny"),
    ] {
        let answer = mirror.ask(method, target, &["Content-Length: 0"]).await;
        assert_says_no(target, &answer, status, None);
        assert!(answer.header("x-error-message").is_some_and(|said| said.contains(says)), "{target}: {:?}", answer.headers);
    }
    let lfs = mirror.post("/acme/m.git/info/lfs/objects/batch", "application/vnd.git-lfs+json", "{}").await;
    assert!(lfs.json()["message"].as_str().is_some_and(|said| said.contains("hf download")), "{}", lfs.text());
    hub.down().await;
    let down = mirror.ask("GET", refs, &[]).await;
    assert_says_no("upstream is down", &down, 503, None);
    assert!(down.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "git shows a plain text");
    // Once that is known nobody waits for a connection, but for who tries again.
    let began = Instant::now();
    while !mirror.get(refs).await.header("x-error-message").is_some_and(|said| said.contains("is down")) {
        assert!(began.elapsed() < Duration::from_secs(20), "git's reads never learn that the Hub is down");
        mirror.get("/api/models/acme/m/refs").await;
    }
    let offline = Mirror::of(&hub).arg("--offline").start().await;
    assert_says_no("offline", &offline.get(refs).await, 503, None);
}

/// What one snapshot_download of a repo of 90 small files and 10 in LFS asks upstream, and the bound on it: see
/// `bench/README.md`. `cargo test --test it contract::upstream_calls -- --nocapture` prints the table.
async fn upstream_calls(venv: &'static str, api_cold_max: usize, resolvers_cold_max: usize) {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/hundred");
    for n in 0..90 {
        repo.file(&format!("part-{:02}/f{n:02}.json", n / 10), format!("{{\"n\":{n}}}"));
    }
    for n in 0..10 {
        repo.lfs(&format!("w{n}.bin"), noise(n, 20_000));
    }
    repo.commit("first");
    let mirror = Mirror::of(&hub).set("freshness.revision", "1s").start().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let count = || (hub.api_calls().len(), hub.resolver_calls().len(), hub.cdn_calls().len());
    for (round, max) in
        [("cold", (api_cold_max, resolvers_cold_max, 10)), ("warm", (0, 0, 0)), ("warm, the branch is old", (1, 0, 0))]
    {
        if round.ends_with("old") {
            tokio::time::sleep(NO_LONGER_SHARED).await;
        }
        hub.clear_log();
        let user = Python::new(venv, mirror.url(), &folder.path().join(round));
        let cache = user.home().join("cache").to_string_lossy().into_owned();
        let got = user.json("snapshot.py", &["model", "acme/hundred", "main", &cache]).await;
        assert_eq!(got["files"].as_object().map(serde_json::Map::len), Some(100));
        hub.wait_idle().await;
        let asked = count();
        println!("calls client={venv} round={round:?} api={} resolvers={} cdn={}", asked.0, asked.1, asked.2);
        // Between the first two the branch may grow old, which costs one question.
        let within = asked.0 <= max.0.max(1) && asked.1 <= max.1 && asked.2 <= max.2;
        assert!(within, "{round}: {asked:?}, not {max:?}: {:#?}", hub.api_calls());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_calls_of_hub_0_36_2() {
    // The first files are asked for before the listing is, by as many threads as the client has.
    upstream_calls("hub-0.36.2", 3, 116).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_calls_of_hub_1_33_0() {
    upstream_calls("hub-1.33.0", 3, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_calls_of_hub_2_4_0() {
    upstream_calls("hub-2.4.0", 3, 100).await;
}
