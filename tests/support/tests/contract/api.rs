//! Info, trees, refs, commits, searches and their pages (4.1 to 4.9, 10.6).

use fake_hub::{FakeHub, Kind};
use serde_json::json;

use crate::client::{ask, get, head, send};

/// Follows `Link: rel="next"` and returns all entries, with the number of pages.
async fn all_pages(mut url: String) -> (Vec<serde_json::Value>, usize) {
    let (mut entries, mut pages) = (Vec::new(), 0);
    loop {
        let reply = get(&url).await;
        assert_eq!(reply.status, 200, "{url}");
        entries.extend(reply.json().as_array().unwrap().clone());
        pages += 1;
        let Some(link) = reply.header("link") else {
            return (entries, pages);
        };
        let (next, rel) = link.split_once(">; ").unwrap();
        assert_eq!(rel, "rel=\"next\"");
        url = next.strip_prefix('<').unwrap().to_owned();
        assert!(url.starts_with("http://"), "the link is absolute");
    }
}

#[tokio::test]
async fn info_of_a_repo() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/tiny").file("config.json", "{}").lfs("w.bin", "weights").label("gguf").commit("first");
    let url = format!("{}/api/models/acme/tiny", hub.url());
    let info = get(&url).await;
    assert!(info.the("etag").starts_with("W/\"") && info.the("ratelimit").starts_with("\"api\";"));
    let told = info.json();
    assert_eq!(told["id"], "acme/tiny");
    assert_eq!(told["sha"], repo.sha());
    assert_eq!(told["siblings"], json!([{ "rfilename": "config.json" }, { "rfilename": "w.bin" }]));
    for field in ["private", "gated", "disabled", "xetEnabled", "lastModified", "tags", "usedStorage"] {
        assert!(!told[field].is_null(), "{field}");
    }
    assert_eq!(get(&format!("{url}/revision/{}", repo.sha())).await.json(), told);
    let blobs = get(&format!("{url}/revision/main?blobs=True")).await.json();
    let expected = json!({ "sha256": repo.oid("w.bin"), "size": 7, "pointerSize": 125 + 1 });
    assert_eq!(blobs["siblings"][1]["lfs"], expected);
    assert_eq!(blobs["siblings"][0]["blobId"], repo.oid("config.json"));
    let few = get(&format!("{url}?expand=sha&expand=downloads")).await.json();
    let names: Vec<&String> = few.as_object().unwrap().keys().collect();
    assert_eq!(names, ["_id", "id", "sha", "downloads"]);
    let etag = info.the("etag").to_owned();
    assert_eq!(ask("GET", &url, &[&format!("if-none-match: {etag}")]).await.status, 304);
    assert_eq!(head(&url).await.the("content-length"), info.body.len().to_string());
}

#[tokio::test]
async fn a_tree_page_by_page() {
    let hub = FakeHub::builder().page_len(3, 2).start().await.unwrap();
    let repo = hub.dataset("acme/data").file("a.txt", "a").file("b/c/d.txt", "d").file("b/e.txt", "e").file("z.txt", "z");
    repo.commit("first").file("z.txt", "zz").commit("second");
    let url = format!("{}/api/datasets/acme/data/tree/main", hub.url());
    let (flat, _) = all_pages(url.clone()).await;
    let paths = |entries: &[serde_json::Value]| -> Vec<String> {
        entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(&flat), ["a.txt", "b", "z.txt"]);
    assert_eq!(flat[1]["type"], "directory");
    assert_eq!((&flat[0]["size"], flat[0]["oid"].as_str()), (&json!(1), Some(repo.oid("a.txt").as_str())));

    let (deep, pages) = all_pages(format!("{url}?recursive=true&expand=false")).await;
    assert_eq!(paths(&deep), ["a.txt", "b", "b/c", "b/c/d.txt", "b/e.txt", "z.txt"]);
    assert_eq!(pages, 2);
    let first = get(&format!("{url}?recursive=True&expand=False")).await;
    assert!(first.the("link").contains("expand=false&recursive=true&limit=3&cursor="), "{}", first.the("link"));

    let (expanded, pages) = all_pages(format!("{url}?recursive=true&expand=true")).await;
    assert_eq!(pages, 3);
    assert_eq!(expanded[0]["lastCommit"]["title"], "first");
    assert_eq!(expanded[5]["lastCommit"]["title"], "second");
    assert_eq!(paths(&all_pages(format!("{url}/b%2Fc")).await.0), ["b/c/d.txt"]);
    assert_eq!(paths(&all_pages(format!("{url}/b/c")).await.0), ["b/c/d.txt"]);
    assert_eq!(get(&format!("{url}?cursor=rubbish")).await.status, 400);
}

#[tokio::test]
async fn chosen_paths_by_form_and_by_json() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/tiny").file("config.json", "{}").lfs("sub dir/w.bin", "weights").commit("first");
    let url = format!("{}/api/models/acme/tiny/paths-info/main", hub.url());
    let form = ("content-type: application/x-www-form-urlencoded", "paths=config.json&paths=sub+dir&paths=nope&expand=false");
    let script = ("content-type: application/json", "{\"paths\":[\"config.json\",\"sub dir\",\"nope\"],\"expand\":false}");
    for (header, body) in [form, script] {
        let told = send("POST", &url, &[header], body.as_bytes()).await.json();
        assert_eq!((told.as_array().unwrap().len(), told[1]["type"].as_str()), (2, Some("directory")));
    }
    let told = send("POST", &url, &[form.0], b"paths=sub+dir/w.bin").await.json();
    assert_eq!(told[0]["lfs"], json!({ "oid": repo.oid("sub dir/w.bin"), "size": 7, "pointerSize": 126 }));
    assert_eq!(told[0]["xetHash"].as_str(), repo.xet_hash("sub dir/w.bin").as_deref());
    assert_eq!(send("POST", &url, &[form.0], b"expand=false").await.status, 400);
    assert!(hub.writes().is_empty());
    let upload = format!("{}/api/models/acme/tiny/preupload/main", hub.url());
    assert_eq!(send("POST", &upload, &[], b"{}").await.status, 404);
    assert_eq!(hub.writes().len(), 1);
}

#[tokio::test]
async fn refs_and_commits() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/tiny").file("a", "0").commit("commit 0").tag("v0").pr(2);
    for number in 1..60 {
        repo.file("a", number.to_string()).commit(&format!("commit {number}"));
    }
    let refs = format!("{}/api/models/acme/tiny/refs", hub.url());
    let told = get(&refs).await.json();
    assert_eq!(told["branches"], json!([{ "name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha() }]));
    assert_eq!((&told["tags"][0]["name"], &told["converts"]), (&json!("v0"), &json!([])));
    assert!(told.get("pullRequests").is_none());
    assert_eq!(get(&format!("{refs}?include_prs=1")).await.json()["pullRequests"][0]["name"], "refs/pr/2");

    let url = format!("{}/api/models/acme/tiny/commits/main", hub.url());
    let first = get(&url).await;
    assert_eq!(first.the("x-total-count"), "60");
    assert_eq!(first.the("link"), format!("<{url}?p=1>; rel=\"next\""));
    let (commits, pages) = all_pages(url).await;
    assert_eq!((commits.len(), pages), (60, 2));
    assert_eq!((&commits[0]["title"], &commits[59]["title"]), (&json!("commit 59"), &json!("commit 0")));
}

#[tokio::test]
async fn lists_and_searches() {
    let hub = FakeHub::start().await;
    for number in 0..7 {
        hub.model(&format!("acme/m{number}")).file("x", "y").label(if number % 2 == 0 { "even" } else { "odd" });
    }
    hub.model("acme/m-hidden").private();
    hub.dataset("other/m9");
    let url = format!("{}/api/models", hub.url());
    assert_eq!(get(&url).await.json().as_array().unwrap().len(), 7);
    let (found, pages) = all_pages(format!("{url}?search=ACME/M&filter=even&limit=2")).await;
    assert_eq!((found.len(), pages), (4, 2));
    assert!(found[0].get("siblings").is_none());
    let full = get(&format!("{url}?author=acme&full=true&limit=1")).await.json();
    assert_eq!(full[0]["siblings"][0]["rfilename"], "x");
    assert_eq!(get(&format!("{}/api/datasets", hub.url())).await.json()[0]["id"], "other/m9");
    hub.remove(Kind::Dataset, "other/m9");
    assert_eq!(get(&format!("{}/api/datasets", hub.url())).await.json(), json!([]));
}

#[tokio::test]
async fn the_small_endpoints() {
    let hub = FakeHub::start().await;
    let sha = hub.model("acme/tiny").lfs("w.bin", "weights").commit("first").sha();
    let url = hub.url();
    let harnesses = get(&format!("{url}/api/agent-harnesses")).await.json();
    assert!(harnesses["standardEnvVars"].is_array() && harnesses["harnesses"].is_object());
    assert_eq!(head(&format!("{url}/api/telemetry/transformers/x")).await.status, 200);
    assert_eq!(get(&format!("{url}/api/models/acme/tiny/auth-check")).await.text(), "OK");
    let token = get(&format!("{url}/api/models/acme/tiny/xet-read-token/{sha}")).await;
    let told = token.json();
    assert_eq!(told["casUrl"], token.the("x-xet-cas-url"));
    assert_eq!(told["accessToken"], token.the("x-xet-access-token"));
    assert_eq!(told["exp"].to_string(), token.the("x-xet-token-expiration"));
    assert!(token.the("x-xet-cas-url").starts_with(&hub.cdn_url()));
    assert_eq!(get(&format!("{url}/api/nothing")).await.status, 404);
    assert_eq!(get(&format!("{url}/")).await.status, 404);
    assert_eq!((hub.api_calls().len(), hub.resolver_calls().len()), (5, 0));
}
