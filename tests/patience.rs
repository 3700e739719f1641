//! How long a client waits in all, whatever upstream does; that slow is not down; and trouble told so that clients try again.

use std::time::Duration;

use fake_hub::{FakeHub, noise};
use tokio::time::timeout;

use crate::harness::{Connection, Mirror, Python, Response};

/// After which every release of huggingface_hub gives up on a head.
const CLIENT_MAX: Duration = Duration::from_secs(10);
const MEMBER: &str = "Authorization: Bearer hf_member";

fn message(response: &Response) -> String {
    response.header("x-error-message").unwrap_or_default().to_owned()
}

/// Asks as a client would that gives up after 10 s.
async fn in_time(mirror: &Mirror, method: &str, target: &str) -> Response {
    let asked = timeout(CLIENT_MAX, mirror.ask(method, target, &[MEMBER])).await;
    asked.unwrap_or_else(|_| panic!("{method} {target}: no answer in {CLIENT_MAX:?}"))
}

/// Other clients, who are answered all the time: so the host is not down, whatever becomes of one repo.
fn others(mirror: &Mirror) -> tokio::task::JoinHandle<()> {
    let address = mirror.address();
    tokio::spawn(async move {
        for n in 0.. {
            let mut connection = Connection::open(address).await;
            connection.ask("GET", &format!("/api/models?search=x{n}"), &[]).await;
            assert_eq!(connection.response("GET").await.status, 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

#[tokio::test]
async fn all_that_one_request_asks_of_a_silent_repo_has_one_end() {
    let hub = FakeHub::start().await;
    hub.model("acme/gated").lfs("w.bin", noise(3, 90_000)).file("b.json", "{}").commit("first").gated().grant("hf_member");
    hub.model("acme/old").lfs("w.bin", noise(4, 90_000)).file("b.json", "{}").commit("first");
    hub.rename("acme/old", "acme/renamed");
    let mirror = Mirror::of(&hub)
        .set("upstream.question_timeout", "4s")
        .set("upstream.api_calls", 0)
        .set("freshness.access", "0s")
        .set("freshness.revision", "0s")
        .set("freshness.alias", "0s")
        .start()
        .await;
    for target in [
        "/acme/gated/resolve/main/w.bin",
        "/acme/gated/resolve/main/b.json",
        "/acme/old/resolve/main/w.bin",
        "/api/models/acme/gated/revision/main",
    ] {
        assert_eq!(mirror.ask("GET", target, &[MEMBER]).await.status, 200, "{target}");
    }
    let others = others(&mirror);
    hub.fault("acme/").on_hub().hang_before_head();
    // Each asks about the name, about the caller and about the thing itself, and waits for a listing.
    for (method, target, statuses) in [
        ("HEAD", "/acme/gated/resolve/main/w.bin", [200, 200]),
        ("GET", "/acme/gated/resolve/main/w.bin", [200, 200]),
        // The kept facts do not name it.
        ("HEAD", "/acme/gated/resolve/main/absent.txt", [404, 404]),
        ("HEAD", "/acme/old/resolve/main/w.bin", [200, 200]),
        ("GET", "/api/models/acme/gated/revision/main", [200, 200]),
        ("GET", "/api/models/acme/gated/tree/main/nothing", [404, 404]),
        ("GET", "/api/models/acme/gated/commits/main", [503, 504]),
        ("HEAD", "/acme/unseen/resolve/main/w.bin", [503, 504]),
    ] {
        let answer = in_time(&mirror, method, target).await;
        assert!(statuses.contains(&answer.status), "{method} {target}: {} {}", answer.status, message(&answer));
    }
    assert!(!others.is_finished());
    others.abort();
}

#[tokio::test]
async fn an_answer_that_begins_and_drips_does_not_hold_up_a_head() {
    let hub = FakeHub::start().await;
    hub.model("acme/open").lfs("w.bin", noise(3, 90_000)).commit("first");
    let mirror = Mirror::of(&hub).set("upstream.question_timeout", "4s").start().await;
    hub.fault("acme/open/auth-check").on_hub().hang_after(1);
    let answer = in_time(&mirror, "HEAD", "/acme/open/resolve/main/w.bin").await;
    assert!(answer.status >= 500, "{} {}", answer.status, message(&answer));
}

#[tokio::test]
async fn one_slow_answer_does_not_close_the_host() {
    let hub = FakeHub::start().await;
    hub.model("acme/kept").file("a.txt", "a").commit("first");
    hub.model("acme/other").file("a.txt", "a").commit("first");
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    let tree = "/api/models/acme/kept/tree/main";
    assert_eq!(mirror.get(tree).await.status, 200);
    // Past the moment in which equal questions are one.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    // Longer than one waits who has something kept, and well within what a question may take.
    hub.fault("acme/kept/tree").on_hub().latency(Duration::from_millis(3500));
    for _ in 0..2 {
        assert_eq!(mirror.get(tree).await.status, 200);
        // Nobody else has asked anything meanwhile.
        let other = mirror.head("/acme/other/resolve/main/a.txt").await;
        assert_eq!(other.status, 200, "{}", message(&other));
    }
    assert_eq!(mirror.log().matches("upstream fails for /api/models/acme/kept/tree/main").count(), 2);
    assert_eq!(mirror.metrics().await.sum("dingospeed_upstream_openings_total"), 0.0);
}

#[tokio::test]
async fn trouble_that_passes_is_told_in_the_status_that_each_release_retries() {
    let hub = FakeHub::start().await;
    hub.model("acme/open").file("a.txt", "a").commit("first");
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get("/api/models/acme/open").await.status, 200);
    hub.fault("acme/open/resolve").on_hub().status(429, &[("Retry-After", "1")]);
    for (version, head, get) in
        [("0.25.2", 429, 429), ("0.34.6", 429, 429), ("0.35.3", 503, 503), ("0.36.2", 503, 503), ("1.33.0", 429, 429)]
    {
        let agent = format!("User-Agent: unknown/None; hf_hub/{version}; python/3.11");
        for (method, status) in [("HEAD", head), ("GET", get)] {
            let answer = mirror.ask(method, "/acme/open/resolve/main/a.txt", &[&agent]).await;
            assert_eq!(answer.status, status, "{version} {method}");
            assert!(answer.header("retry-after").is_some(), "{version} {method}");
        }
    }
}

#[tokio::test]
async fn real_releases_get_over_a_429() {
    for venv in ["hub-0.36.2", "hub-1.33.0", "hub-2.4.0"] {
        for method in ["HEAD", "GET"] {
            let hub = FakeHub::start().await;
            let bytes = noise(3, 9000);
            let repo = hub.model("acme/open").file("a.txt", "abc").lfs("w.bin", &bytes).commit("first");
            let mirror = Mirror::of(&hub).set("upstream.patience", "0s").start().await;
            if method == "GET" {
                // Known already through somebody else, so that only the bytes are asked for.
                hub.token("hf_else");
                let known = mirror.ask("HEAD", "/acme/open/resolve/main/w.bin", &["Authorization: Bearer hf_else"]).await;
                assert_eq!(known.status, 200);
            }
            let limited = hub.fault("acme/open/resolve").on_hub().times(1).status(429, &[("Retry-After", "1")]);
            let (home, cache) = (tempfile::tempdir().expect("a home"), tempfile::tempdir().expect("a cache"));
            let python = Python::new(venv, mirror.url(), home.path());
            let cache = cache.path().to_string_lossy().into_owned();
            let got = python.json("single.py", &["model", "acme/open", "main", "w.bin", &cache]).await;
            assert_eq!(got["sha256"].as_str(), Some(repo.oid("w.bin").as_str()), "{venv} {method}: {got}");
            assert_eq!(limited.hits(), 1, "{venv} {method}");
        }
    }
}

#[tokio::test]
async fn a_redirect_to_a_forbidden_host_is_final() {
    let hub = FakeHub::start().await;
    hub.model("acme/open").file("a.txt", "abc").commit("first");
    let mirror = Mirror::start(&hub).await;
    let struck = hub.fault("acme/open/resolve").on_hub().redirect_to("https://evil.example.com/x");
    for version in ["0.36.2", "1.33.0", "2.4.0"] {
        let agent = format!("User-Agent: unknown/None; hf_hub/{version}; python/3.11");
        for method in ["HEAD", "GET"] {
            let answer = mirror.ask(method, "/acme/open/resolve/main/a.txt", &[&agent]).await;
            assert_eq!(answer.status, 501, "{version} {method}: {}", message(&answer));
            assert!(message(&answer).contains("upstream.allowed_hosts"), "{}", message(&answer));
            assert_eq!((answer.header("x-error-code"), answer.header("retry-after")), (None, None));
        }
    }
    // None of these asks again.
    for venv in ["hub-0.36.2", "hub-1.33.0", "hub-2.4.0"] {
        let before = struck.hits();
        let (home, cache) = (tempfile::tempdir().expect("a home"), tempfile::tempdir().expect("a cache"));
        let python = Python::new(venv, mirror.url(), home.path());
        let cache = cache.path().to_string_lossy().into_owned();
        let got = python.json("single.py", &["model", "acme/open", "main", "a.txt", &cache]).await;
        assert!(got["error"].is_string(), "{venv}: {got}");
        assert!(struck.hits() - before <= 2, "{venv} asked {} times", struck.hits() - before);
    }
}

#[tokio::test]
async fn made_up_tokens_share_a_budget_that_others_do_not_pay_for() {
    let hub = FakeHub::start().await;
    hub.token("hf_known");
    hub.model("acme/open").file("a.txt", "a").commit("first");
    let mirror = Mirror::of(&hub).set("upstream.api_calls", 20).start().await;
    let known = ["Authorization: Bearer hf_known"];
    assert_eq!(mirror.ask("GET", "/api/models?search=first", &known).await.status, 200);
    hub.clear_log();
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..60 {
        let address = mirror.address();
        asked.spawn(async move {
            let mut connection = Connection::open(address).await;
            connection.ask("GET", &format!("/api/models?search=s{n}"), &[&format!("Authorization: Bearer hf_made_up_{n}")]).await;
            connection.response("GET").await.status
        });
    }
    let answers = asked.join_all().await;
    assert!(answers.iter().all(|status| [401, 429].contains(status)), "{answers:?}");
    assert!(answers.contains(&429), "{answers:?}");
    assert!(hub.api_calls().len() <= 20, "upstream was asked {} times", hub.api_calls().len());
    // Neither those without a token nor one whom the Hub has accepted are refused for it.
    for (n, headers) in [&[][..], &known].into_iter().enumerate() {
        let answer = mirror.ask("GET", &format!("/api/models?search=later{n}"), headers).await;
        assert_eq!(answer.status, 200, "{headers:?}: {}", message(&answer));
    }
}
