//! The edges of the API: addresses that lead to files, rules by other spellings, what is not there, listings of many pages.

use std::time::Duration;

use fake_hub::{FakeHub, noise};

use crate::harness::{ConnectProxy, Mirror, Response};

fn message(response: &Response) -> String {
    response.header("x-error-message").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_address_of_the_api_that_leads_to_a_file_leads_to_it_here() {
    let hub = FakeHub::start().await;
    let bytes = noise(9, 70_000);
    hub.dataset("acme/ds").lfs("data.bin", &bytes).commit("first");
    let mirror = Mirror::start(&hub).await;
    let place = "/datasets/acme/ds/resolve/main/data.bin";
    // In the Hub's own name, and by the path alone.
    hub.fault("default/train/0").redirect_to(&format!("{}{place}?download=true", hub.url()));
    hub.fault("default/train/1").redirect_to(place);
    hub.fault("default/train/2").redirect_to(&format!("https://huggingface.co{place}"));
    for n in 0..3 {
        for method in ["GET", "HEAD"] {
            let answer = mirror.ask(method, &format!("/api/datasets/acme/ds/parquet/default/train/{n}.parquet"), &[]).await;
            assert_eq!((answer.status, answer.header("location")), (307, Some(place)), "{n}: {}", message(&answer));
            assert!(answer.body.is_empty());
        }
    }
    assert_eq!(hub.cdn_bytes(), 0);
    let part = mirror.get_range(place, "bytes=100-199").await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[100..200]));
}

#[tokio::test]
async fn a_redirect_of_the_api_to_another_host_is_not_passed_on() {
    let hub = FakeHub::start().await;
    hub.dataset("acme/ds").file("a.txt", "a").commit("first");
    let mirror = Mirror::start(&hub).await;
    hub.fault("default/train").redirect_to("https://cdn.hf.co/x?Signature=secret");
    let answer = mirror.get("/api/datasets/acme/ds/parquet/default/train/0.parquet").await;
    assert_eq!((answer.status, answer.header("location")), (502, None), "{}", message(&answer));
    let said = format!("{:?} {}", answer.headers, answer.text());
    assert!(!said.contains("secret") && !said.contains("cdn.hf.co"), "{said}");
}

#[tokio::test]
async fn rules_hold_in_every_spelling_and_for_writes() {
    let hub = FakeHub::start().await;
    hub.model("acme/denied").lfs("w.bin", noise(4, 5000)).commit("first");
    hub.model("acme/allowed").lfs("w.bin", noise(4, 5000)).commit("first");
    let mirror = Mirror::of(&hub).set("rules.fetch_deny", "models/acme/denied").set("upstream.writes", "pass").start().await;
    for (target, status) in [
        ("/api/models/acme/denied", 403),
        ("/api/models/ACME/Denied/tree/main", 403),
        ("/api/Models/acme/denied/tree/main", 400),
        ("/api/MODELS/acme/denied", 400),
        ("/api/Resolve-Cache/models/acme/denied/x/y", 400),
        ("/Datasets/acme/resolve/main/x", 400),
    ] {
        let answer = mirror.get(target).await;
        assert_eq!(answer.status, status, "{target}: {}", message(&answer));
    }
    assert_eq!(hub.hub_calls().len(), 0, "{:?}", hub.hub_calls());
    for (target, status) in [
        ("/acme/denied.git/info/lfs/objects/batch", 403),
        ("/Acme/Denied.git/info/lfs/objects/batch", 403),
        ("/acme/denied.git/git-receive-pack", 403),
        ("/api/models/acme/denied/commit/main", 403),
        ("/api/models/acme/denied/preupload/main", 403),
        ("/api/Models/acme/denied/commit/main", 400),
        ("/Spaces/acme/denied.git/info/lfs/objects/batch", 400),
    ] {
        let answer = mirror.post(target, "application/json", "{}").await;
        assert_eq!(answer.status, status, "{target}: {}", message(&answer));
    }
    assert_eq!(mirror.get("/api/models/acme/denied/xet-write-token/main").await.status, 403);
    assert_eq!(hub.writes().len(), 0);
    mirror.post("/acme/allowed.git/info/lfs/objects/batch", "application/json", "{}").await;
    assert_eq!(hub.writes().len(), 1, "others pass");
}

#[tokio::test]
async fn a_search_shows_what_may_be_had() {
    let hub = FakeHub::start().await;
    for name in ["acme/denied", "acme/one", "acme/two"] {
        hub.model(name).file("a.txt", "a").commit("first");
    }
    let names = |answer: &Response| -> Vec<String> {
        assert_eq!(answer.status, 200, "{}", message(answer));
        let found = answer.json();
        let mut names: Vec<String> =
            found.as_array().expect("a list").iter().map(|repo| repo["id"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    };
    let search = "/api/models?search=acme&full=true";
    let mirror = Mirror::start(&hub).await;
    assert_eq!(names(&mirror.get(search).await), ["acme/denied", "acme/one", "acme/two"]);
    let mirror = Mirror::of(&hub).set("rules.fetch_deny", "models/acme/denied").start().await;
    let answer = mirror.get(search).await;
    assert_eq!(names(&answer), ["acme/one", "acme/two"]);
    assert!(!answer.text().contains("denied"));
    let mirror = Mirror::of(&hub).set("rules.fetch_allow", "models/acme/t*").start().await;
    assert_eq!(names(&mirror.get(search).await), ["acme/two"]);
}

#[tokio::test]
async fn what_is_not_there_is_asked_once() {
    let hub = FakeHub::start().await;
    hub.dataset("acme/ds").file("a.txt", "a").commit("first");
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get("/datasets/acme/ds/resolve/main/a.txt").await.status, 200);
    for (target, code) in [
        ("/api/datasets/acme/ds/revision/refs%2Fconvert%2Fparquet", "RevisionNotFound"),
        ("/datasets/acme/ds/resolve/refs%2Fconvert%2Fparquet/a.txt", "RevisionNotFound"),
        ("/api/datasets/acme/ds/tree/main/absent", "EntryNotFound"),
    ] {
        hub.clear_log();
        for round in 0..3 {
            if round > 0 {
                // Past the moment in which equal questions are one.
                tokio::time::sleep(Duration::from_millis(1200)).await;
            }
            let answer = mirror.get(target).await;
            assert_eq!((answer.status, answer.header("x-error-code")), (404, Some(code)), "{target}: {}", message(&answer));
        }
        assert_eq!(hub.hub_calls().len(), 1, "{target}: {:?}", hub.hub_calls());
    }
    // Another file of the same revision is not there either.
    hub.clear_log();
    assert_eq!(mirror.get("/datasets/acme/ds/resolve/refs%2Fconvert%2Fparquet/b.txt").await.status, 404);
    assert_eq!(hub.hub_calls().len(), 0);
}

#[tokio::test]
async fn what_was_not_there_is_found_when_its_time_is_over() {
    let hub = FakeHub::start().await;
    let repo = hub.dataset("acme/ds").file("a.txt", "a").commit("first");
    let mirror = Mirror::of(&hub).set("freshness.missing", "0s").set("freshness.revision", "0s").start().await;
    let (info, file) = ("/api/datasets/acme/ds/revision/later", "/datasets/acme/ds/resolve/later/a.txt");
    assert_eq!((mirror.get(info).await.status, mirror.get(file).await.status), (404, 404));
    repo.branch("later");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!((mirror.get(info).await.status, mirror.get(file).await.status), (200, 200));
}

#[tokio::test]
async fn a_layer_is_found_on_any_page_of_the_listing() {
    let hub = FakeHub::builder().page_len(3, 3).start().await.expect("a hub");
    let repo = hub.model("acme/gguf");
    for n in 0..10 {
        repo.file(&format!("a{n}.txt"), format!("{n}"));
    }
    let bytes = noise(4, 500_000);
    repo.lfs("z.Q4_K_M.gguf", &bytes).commit("quantized");
    let mirror = Mirror::start(&hub).await;
    let target = format!("/v2/acme/gguf/blobs/sha256:{}", repo.oid("z.Q4_K_M.gguf"));
    let part = mirror.get_range(&target, "bytes=1000-1999").await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[1000..2000]), "{}", message(&part));
    let whole = mirror.get(&target).await;
    assert_eq!((whole.status, whole.body == bytes), (200, true));
}

#[tokio::test]
async fn no_proxy_names_networks() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").lfs("w.bin", noise(5, 70_000)).commit("first");
    let proxy = ConnectProxy::start(None).await;
    let url = format!("http://{}", proxy.address());
    for (exceptions, asks) in [("10.0.0.0/8,127.0.0.0/8", false), ("10.0.0.0/8", true)] {
        let before = proxy.asked().len();
        let mirror = Mirror::of(&hub).env("HTTP_PROXY", &url).env("NO_PROXY", exceptions).start().await;
        assert_eq!(mirror.get("/acme/m/resolve/main/w.bin").await.status, 200);
        assert_eq!(proxy.asked().len() > before, asks, "{exceptions}: {:?}", proxy.asked());
    }
}
