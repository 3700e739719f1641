//! The panel, from outside: who may see and do what at which door, the list of what is kept, pulls, and what the admin orders.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use fake_hub::{FakeHub, noise};
use serde_json::{Value, json};

use crate::harness::{Connection, Mirror, Response, dingospeed};

const MIB: usize = 1 << 20;
const TOKEN: &str = "correct-horse-battery-staple";
/// How long something that is under way may take to show.
const SHOWS_WITHIN: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks at an address, with these headers besides `Host`; a body makes it a POST.
async fn ask(address: SocketAddr, method: &str, target: &str, headers: &[&str], body: Option<&str>) -> Response {
    let mut request = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|line| line.starts_with("Host:")) {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    headers.iter().for_each(|line| request.push_str(&format!("{line}\r\n")));
    if let Some(body) = body {
        if !headers.iter().any(|line| line.starts_with("Content-Type:")) {
            request.push_str("Content-Type: application/json\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut connection = Connection::open(address).await;
    connection.send(request + body.unwrap_or_default()).await;
    connection.response(method).await
}

/// An admin, who must succeed.
struct Admin(SocketAddr);

impl Admin {
    async fn get(&self, target: &str) -> Value {
        let answer = ask(self.0, "GET", target, &[], None).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    }

    async fn post(&self, target: &str, body: Value) -> Value {
        let answer = self.try_post(target, body).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    }

    async fn try_post(&self, target: &str, body: Value) -> Response {
        ask(self.0, "POST", target, &[], Some(&body.to_string())).await
    }

    /// Looks until it is so; panics after a minute.
    async fn wait(&self, target: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let value = self.get(target).await;
            if holds(&value) {
                return value;
            }
            assert!(began.elapsed() < SHOWS_WITHIN, "{target} never became that: {value:#}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn names(&self, query: &str) -> Vec<String> {
        names(&self.get(&format!("/-/repos?{query}")).await)
    }
}

fn names(list: &Value) -> Vec<String> {
    list["repos"].as_array().expect("repos").iter().map(|repo| repo["id"].as_str().expect("an id").to_owned()).collect()
}

async fn with_admin(hub: &FakeHub) -> (Mirror, Admin) {
    let mirror = Mirror::of(hub).set("admin.listen", "127.0.0.1:0").start().await;
    let admin = Admin(mirror.admin_address());
    (mirror, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_come_from_door_token_host_and_origin() {
    let hub = FakeHub::start().await;
    let (without, _) = with_admin(&hub).await;
    let with = Mirror::of(&hub).set("admin.listen", "127.0.0.1:0").set("admin.token", TOKEN).start().await;
    let right = format!("Authorization: Bearer {TOKEN}");
    let right = right.as_str();
    let wrong = "Authorization: Bearer correct-horse-battery-stable";
    let (rebound, foreign) = ("Host: evil.example:8091", "Origin: http://evil.example");
    let (looks, lists, evicts) = (("GET", "/-/status"), ("GET", "/-/pulls"), ("POST", "/-/evict"));

    // Each line: door, headers, and the statuses of looking, of an admin's question, and of an order.
    let (open, closed) = (without.address(), without.admin_address());
    let (main, admin) = (with.address(), with.admin_address());
    let lines: &[(SocketAddr, &[&str], [u16; 3])] = &[
        (open, &[], [200, 403, 403]),
        (open, &[right], [200, 403, 403]),
        (open, &[foreign], [403, 403, 403]),
        (closed, &[], [200, 200, 200]),
        (closed, &["Host: localhost:1"], [200, 200, 200]),
        (closed, &[rebound], [403, 403, 403]),
        (closed, &[foreign], [403, 403, 403]),
        (closed, &["Origin: null"], [403, 403, 403]),
        (closed, &["Sec-Fetch-Site: cross-site"], [200, 200, 403]),
        (main, &[], [200, 401, 401]),
        (main, &[wrong], [401, 401, 401]),
        (main, &[right], [200, 200, 200]),
        (main, &[right, "Host: mirror.lan"], [200, 200, 200]),
        (main, &[right, foreign], [403, 403, 403]),
        (admin, &[], [200, 401, 401]),
        (admin, &[wrong], [401, 401, 401]),
        (admin, &[right], [200, 200, 200]),
        (admin, &[right, rebound], [200, 200, 200]),
        (admin, &[right, foreign, rebound], [403, 403, 403]),
    ];
    for (address, headers, expected) in lines {
        let mut found = Vec::new();
        for (method, target) in [looks, lists, evicts] {
            let answer = ask(*address, method, target, headers, (method == "POST").then_some("{\"dry_run\":true}")).await;
            assert!(answer.header("access-control-allow-origin").is_none(), "{target}");
            assert!(answer.status == 200 || answer.header("x-error-message").is_some(), "{target}");
            found.push(answer.status);
        }
        assert_eq!(found, expected, "{address} {headers:?}");
    }
    // What a form of another page's can send does nothing, and browsers are not told that they may ask.
    let form = ask(closed, "POST", "/-/evict", &["Content-Type: text/plain"], Some("{}")).await;
    assert_eq!(form.status, 415);
    for (address, target) in [(closed, "/-/evict"), (open, "/-/evict"), (closed, "/metrics"), (closed, "/repos")] {
        let asked = ask(address, "OPTIONS", target, &["Access-Control-Request-Method: POST"], None).await;
        assert!(matches!(asked.status, 404 | 405), "{target}: {}", asked.status);
        assert!(asked.header("access-control-allow-origin").is_none() && asked.header("access-control-allow-methods").is_none());
    }
    assert_eq!(ask(closed, "GET", "/metrics", &[foreign], None).await.status, 403);
    // The admin's door has no Hub behind it.
    assert_eq!(ask(closed, "GET", "/api/models/a/b", &[], None).await.status, 404);
    for target in ["/", "/repos", "/info", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(ask(closed, "GET", target, &[], None).await.status, 200, "{target}");
    }
    for mirror in [&without, &with] {
        assert!(!mirror.log().contains("correct-horse"), "no token in the log");
    }
}

#[tokio::test]
async fn an_open_door_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let repos = dir.path().join("repos").display().to_string();
    let serve = |set: &str| {
        let words = ["serve", "--repos", &repos, "--listen", "127.0.0.1:0", "--set", set].map(str::to_owned);
        async move { dingospeed(&words.each_ref().map(String::as_str), &[]).await }
    };
    let (code, stderr, _) = serve("admin.listen=0.0.0.0:0").await;
    assert!(code == Some(2) && stderr.contains("admin.listen") && stderr.contains("admin.token"), "{stderr}");
    let (code, stderr, _) = serve("admin.token=short").await;
    assert!(code == Some(2) && stderr.contains("16 characters") && !stderr.contains("short;"), "{stderr}");
    let file = dir.path().join("token");
    fs::write(&file, "\n").unwrap();
    let (code, stderr, _) = serve(&format!("admin.token_file={}", file.display())).await;
    assert!(code == Some(2) && stderr.contains("the file is empty"), "{stderr}");

    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let hub = FakeHub::start().await;
    let mirror = Mirror::of(&hub).set("admin.listen", "0.0.0.0:0").set("admin.token_file", file.display()).start().await;
    let right = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(ask(mirror.admin_address(), "GET", "/-/pulls", &[&right], None).await.status, 200);
    assert_eq!(ask(mirror.admin_address(), "GET", "/-/pulls", &[], None).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_shows_to_admins_only() {
    let hub = FakeHub::start().await;
    let bytes = noise(1, MIB + 9);
    let open = hub.model("acme/open").lfs("w.bin", &bytes).commit("first");
    let hush = hub.model("acme/hush").lfs("plans.bin", noise(2, 3 * MIB)).commit("first").private().grant("hf_member");
    hub.dataset("acme/gate").lfs("w.bin", noise(3, MIB)).commit("first").gated().grant("hf_member");
    let turned = hub.model("acme/turned").file("w.txt", "w").commit("first");
    let (mirror, admin) = with_admin(&hub).await;
    let member = "Authorization: Bearer hf_member";
    for target in ["/acme/open/resolve/main/w.bin", "/datasets/acme/gate/resolve/main/w.bin", "/acme/turned/resolve/main/w.txt"] {
        assert_eq!(mirror.ask("GET", target, &[member]).await.status, 200, "{target}");
    }
    // A download of the private one is under way all the time.
    let gate = hub.fault("plans.bin").on_cdn().hold_after(100_000);
    let mut reader = mirror.connect().await;
    reader.ask("GET", "/acme/hush/resolve/main/plans.bin", &[member]).await;
    assert_eq!(reader.head("GET").await.expect("a head").0, 200);
    gate.wait_reached().await;
    mirror.wait_link(&format!("models/acme/hush/resolve/{}/plans.bin", hush.sha())).await;
    mirror.wait_link(&format!("models/acme/turned/resolve/{}/w.txt", turned.sha())).await;
    mirror.wait_link(&format!("models/acme/open/resolve/{}/w.bin", open.sha())).await;
    let all = admin.wait("/-/repos", |list| list["total"] == 4).await;
    assert_eq!(names(&all), ["models/acme/hush", "models/acme/open", "models/acme/turned", "datasets/acme/gate"]);
    assert_eq!(all["repos"][0]["open"], false);
    let status = admin.wait("/-/status", |status| status["flights"][0]["repo"] == "models/acme/hush").await;
    assert_eq!(
        (status["flights"][0]["path"].as_str(), status["flights"][0]["size"].as_u64()),
        (Some("plans.bin"), Some(3 << 20))
    );
    assert_eq!(admin.get("/-/repo?id=models/acme/hush").await["revisions"][0]["commit"], hush.sha());

    // One was public a moment ago; the mirror learns otherwise when somebody asks.
    turned.private();
    let mut told = mirror.get("/api/models/acme/turned").await;
    let began = Instant::now();
    while told.status == 200 && began.elapsed() < SHOWS_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        told = mirror.ask("GET", "/api/models/acme/turned", &["Cache-Control: no-cache"]).await;
        let _ = mirror.head("/acme/turned/resolve/main/w.txt").await;
        if fs::read_to_string(mirror.repos().join("api/models/acme/turned/access.json")).is_ok_and(|text| text.contains("false"))
        {
            break;
        }
    }
    let commit = hush.sha();
    for target in [
        "/repos",
        "/info",
        "/-/status",
        "/-/repos",
        "/-/repos?search=hush&sort=used",
        "/-/repos?type=dataset",
        "/-/repo?id=models/acme/hush",
        &format!("/-/files?id=models/acme/hush&commit={commit}"),
        "/-/pulls",
    ] {
        let answer = ask(mirror.address(), "GET", target, &[], None).await;
        for hidden in ["hush", "gate", "plans", &commit] {
            // The page is the same for all; `gate` is a word of its script.
            assert!(target == "/repos" || !answer.text().contains(hidden), "{target} tells of {hidden}: {}", answer.text());
        }
    }
    let told = ask(mirror.address(), "GET", "/-/repos", &[], None).await.json();
    assert!(names(&told).contains(&"models/acme/open".to_owned()), "{told}");
    assert_eq!(ask(mirror.address(), "GET", "/-/repo?id=models/acme/hush", &[], None).await.status, 404);
    let absent = ask(mirror.address(), "GET", "/-/repo?id=models/acme/absent", &[], None).await;
    let hidden = ask(mirror.address(), "GET", "/-/repo?id=models/acme/hush", &[], None).await;
    assert!((absent.status, absent.text()) == (hidden.status, hidden.text()), "closed is as absent");
    let status = ask(mirror.address(), "GET", "/-/status", &[], None).await.json();
    assert_eq!((status["flight_count"].as_u64(), status["flights"].as_array().map(Vec::len)), (Some(1), Some(0)), "{status}");
    assert!(status["clients"]["list"].is_null() && status["admin"] == false && status["admin_by"].is_null());
    gate.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repo_that_was_closed_since_is_hidden_at_once() {
    let hub = FakeHub::start().await;
    hub.model("acme/turned").file("w.txt", "w").commit("first");
    let mirror = Mirror::of(&hub).start().await;
    assert_eq!(mirror.get("/acme/turned/resolve/main/w.txt").await.status, 200);
    let began = Instant::now();
    let list = || async { names(&ask(mirror.address(), "GET", "/-/repos", &[], None).await.json()) };
    while list().await.is_empty() {
        assert!(began.elapsed() < SHOWS_WITHIN);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // What the mirror writes when upstream says so.
    let path = mirror.repos().join("api/models/acme/turned/access.json");
    let kept = fs::read_to_string(&path).expect("what upstream said is kept");
    fs::write(&path, kept.replace("true", "false")).unwrap();
    assert!(list().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn page_and_info_are_there_for_all() {
    let hub = FakeHub::start().await;
    let mirror = Mirror::start(&hub).await;
    let page = mirror.get("/repos").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let head = mirror.ask("HEAD", "/repos", &[]).await;
    assert!(head.body.is_empty() && head.header("content-length") == page.header("content-length"));

    hub.model("acme/open").file("a.txt", "hello").commit("first");
    let file = mirror.get("/acme/open/resolve/main/a.txt").await;
    assert_eq!(file.header("content-security-policy"), Some("default-src 'none'; sandbox"));
    let info = mirror.get("/info").await.json();
    assert_eq!((info["name"].as_str(), info["version"].as_str()), (Some("dingospeed"), Some(env!("CARGO_PKG_VERSION"))));
    assert_eq!((info["upstream"].as_str(), info["offline"].as_bool()), (Some(hub.url().as_str()), Some(false)));
    assert!(info["uptime_seconds"].is_u64() && info["kept"]["bytes"].as_u64() > Some(0), "{info}");
    for (target, status) in
        [("/-/none", 404), ("/-", 404), ("/-/repos?sort=loud", 400), ("/-/repos?limit=x", 400), ("/-/repo?id=x", 400)]
    {
        let answer = mirror.get(target).await;
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.json()["error"].is_string() && answer.header("x-error-message").is_some());
    }
    for method in ["DELETE", "PUT", "PATCH"] {
        assert_eq!(mirror.ask(method, "/-/repos", &[]).await.status, 405, "{method}");
    }
    for (method, target) in [("GET", "/-/evict"), ("GET", "/-/pin"), ("GET", "/-/pulls/cancel")] {
        assert_eq!(mirror.ask(method, target, &[]).await.status, 405, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_watched_cancelled_and_taken_up_again() {
    const SIZE: usize = 128 * MIB;
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/large");
    repo.synthetic("deep/w.bin", SIZE as u64, 5).file("c.json", "{}").lfs("skip.onnx", noise(6, MIB)).commit("first");
    let (mirror, admin) = with_admin(&hub).await;
    let slow = hub.fault("w.bin").on_cdn().rate(1 << 20);
    let order = json!({ "repo": "models/acme/large", "exclude": ["*.onnx"] });
    let begun = admin.post("/-/pulls", order.clone()).await;
    let id = begun["id"].as_u64().expect("an id");
    assert_eq!((begun["state"].as_str(), begun["revision"].as_str()), (Some("waiting"), Some("main")));
    assert_eq!(admin.post("/-/pulls", order.clone()).await["id"], id, "the same is under way");
    let one = format!("/-/pulls?id={id}");
    let seen = admin.wait(&one, |pull| pull["bytes_done"].as_u64() > Some(100_000) && pull["files_done"] == 1).await;
    assert_eq!((seen["state"].as_str(), seen["files"].as_u64()), (Some("running"), Some(2)));
    assert_eq!(seen["bytes"].as_u64(), Some(SIZE as u64 + 2));
    let status = admin.wait("/-/status", |status| status["flights"][0]["path"] == "deep/w.bin").await;
    assert_eq!(status["flights"][0]["size"].as_u64(), Some(SIZE as u64));

    let cancelled = admin.post("/-/pulls/cancel", json!({ "id": id })).await;
    assert_eq!((cancelled["state"].as_str(), cancelled["ended"].is_u64()), (Some("cancelled"), true));
    admin.wait("/-/status", |status| status["flight_count"] == 0).await;
    let left = admin.wait("/-/repos", |list| list["total"] == 1).await;
    assert!(left["repos"][0]["bytes_present"].as_u64() < Some(SIZE as u64), "the rest is not fetched: {left}");

    slow.lift();
    let again = admin.post("/-/pulls", order).await["id"].as_u64().expect("an id");
    assert_ne!(again, id);
    let done = admin.wait(&format!("/-/pulls?id={again}"), |pull| pull["ended"].is_u64()).await;
    assert_eq!(
        (done["state"].as_str(), done["files_done"].as_u64(), done["error"].is_null()),
        (Some("done"), Some(2), true),
        "{done}"
    );
    assert_eq!(done["bytes_done"], done["bytes"]);
    assert_eq!(hub.asked("skip.onnx"), 0);
    let served = hub.cdn_bytes();
    assert_eq!(mirror.sum("/acme/large/resolve/main/deep/w.bin", &[]).await.sha256, repo.oid("deep/w.bin"));
    assert_eq!(hub.cdn_bytes(), served, "it is there");
    let kept = admin.wait("/-/repos?search=large", |list| list["repos"][0]["bytes_present"].as_u64() >= Some(SIZE as u64)).await;
    assert_eq!(kept["repos"][0]["hits"], 2, "the second c.json and the last request: {kept:#}");

    // What cannot be pulled says why.
    let none = admin.post("/-/pulls", json!({ "repo": "models/acme/none" })).await["id"].as_u64().expect("an id");
    let failed = admin.wait(&format!("/-/pulls?id={none}"), |pull| pull["ended"].is_u64()).await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["error"].as_str().is_some_and(|why| why.contains("401") || why.contains("404")), "{failed}");
    for (wrong, part) in [
        (json!({ "repo": "acme/large" }), "models/org/name"),
        (json!({ "repo": "models/../x" }), "repo name"),
        (json!({ "repo": "models/a/b", "revision": "a//b" }), "revision"),
        (json!({ "repo": "models/a/b", "include": ["["] }), "--include"),
        (json!({ "repo": "models/a/b", "token": "a\nb" }), "token"),
        (json!({ "repo": "models/a/b", "recursive": true }), "recursive"),
        (json!([1]), "the body"),
    ] {
        let answer = admin.try_post("/-/pulls", wrong.clone()).await;
        assert!(answer.status == 400 && answer.text().contains(part), "{wrong}: {} {}", answer.status, answer.text());
    }
    assert_eq!(admin.try_post("/-/pulls/cancel", json!({ "id": 99 })).await.status, 404);
    let listed = admin.get("/-/pulls").await;
    let ids: Vec<_> = listed["pulls"].as_array().expect("pulls").iter().map(|pull| pull["id"].as_u64()).collect();
    assert_eq!(ids, [Some(none), Some(again), Some(id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_what_is_not_kept_has_failed() {
    let hub = FakeHub::start().await;
    hub.model("acme/passing").lfs("w.bin", noise(6, MIB)).file("c.json", "{}").commit("first");
    let options = Mirror::of(&hub).set("admin.listen", "127.0.0.1:0").set("rules.cache_deny", "[models/acme/passing]");
    let mirror = options.start().await;
    let admin = Admin(mirror.admin_address());
    let id = admin.post("/-/pulls", json!({ "repo": "models/acme/passing" })).await["id"].as_u64().expect("an id");
    let ended = admin.wait(&format!("/-/pulls?id={id}"), |pull| pull["ended"].is_u64()).await;
    assert_eq!((ended["state"].as_str(), ended["error"].as_str()), (Some("failed"), Some("2 of 2 files failed")), "{ended}");
    assert!(ended["failed"][0]["error"].as_str().is_some_and(|why| why.contains("rules.cache_deny")), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_with_a_token_opens_what_it_may_and_the_token_stays_here() {
    let hub = FakeHub::start().await;
    hub.model("acme/hush").lfs("w.bin", noise(2, MIB)).commit("first").private().grant("hf_verySecretToken");
    let (mirror, admin) = with_admin(&hub).await;
    let order = json!({ "repo": "models/acme/hush", "token": "hf_verySecretToken" });
    let id = admin.post("/-/pulls", order).await["id"].as_u64().expect("an id");
    let done = admin.wait(&format!("/-/pulls?id={id}"), |pull| pull["ended"].is_u64()).await;
    assert_eq!(done["state"], "done", "{done}");
    assert!(!done.to_string().contains("hf_very") && !mirror.log().contains("hf_very"));
    assert!(hub.leaks().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_for_pulls() {
    let hub = FakeHub::start().await;
    hub.model("acme/large").lfs("w.bin", noise(5, 4 * MIB)).commit("first");
    let (mut mirror, admin) = with_admin(&hub).await;
    let gate = hub.fault("w.bin").on_cdn().hold_after(10_000);
    admin.post("/-/pulls", json!({ "repo": "models/acme/large" })).await;
    gate.wait_reached().await;
    assert_eq!(mirror.stop().await.code(), Some(0));
    assert!(mirror.log().contains("outcome=cancelled"));
    gate.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_admins_order_is_done_as_by_the_commands() {
    let hub = FakeHub::start().await;
    let (large, shared) = (noise(1, 3 * MIB + 77), noise(2, 2 * MIB));
    let first = hub.model("acme/large").lfs("w.bin", &large).lfs("s.bin", &shared).commit("first");
    let small = hub.model("acme/small").lfs("copy.bin", &shared).commit("first");
    let (mirror, admin) = with_admin(&hub).await;
    for (target, body) in [
        ("/acme/large/resolve/main/w.bin", &large),
        ("/acme/large/resolve/main/s.bin", &shared),
        ("/acme/small/resolve/main/copy.bin", &shared),
    ] {
        assert!(mirror.get(target).await.body == *body);
    }
    mirror.wait_link(&format!("models/acme/large/resolve/{}/w.bin", first.sha())).await;
    mirror.wait_link(&format!("models/acme/small/resolve/{}/copy.bin", small.sha())).await;
    admin.wait("/-/repos", |list| list["total"] == 2 && list["repos"][0]["files_present"] == 2).await;

    let pins = admin.post("/-/pin", json!({ "repos": ["models/acme/large"] })).await;
    assert_eq!(pins["pins"], json!(["models/acme/large"]));
    assert_eq!(admin.get("/-/repos?search=large").await["repos"][0]["pinned"], true, "it shows at once");
    let refused = admin.try_post("/-/remove", json!({ "repos": ["models/acme/large"] })).await;
    assert!(refused.status == 409 && refused.text().contains("pinned"), "{}", refused.text());
    admin.post("/-/unpin", json!({ "repos": ["models/acme/large"] })).await;
    // By revision, as the page lifts what it was told of; a pin of what is not here holds nothing.
    let absent = "models/acme/large@none";
    admin.post("/-/pin", json!({ "repos": [absent] })).await;
    let shown = admin.get("/-/repos?search=large").await["repos"][0].clone();
    assert!(shown["pinned"] == false && shown["pins"] == json!([absent]), "{shown}");
    let main = "models/acme/large@main";
    admin.post("/-/pin", json!({ "repos": ["models/acme/large"], "revision": "main" })).await;
    let shown = admin.get("/-/repo?id=models/acme/large").await;
    assert!(shown["pins"] == json!([absent, main]) && shown["revisions"][0]["pinned"] == true, "{shown}");
    let left = admin.post("/-/unpin", json!({ "repos": [absent, main] })).await;
    assert_eq!(left["pins"], json!([]));
    assert_eq!(admin.get("/-/repo?id=models/acme/large").await["revisions"][0]["pinned"], false);
    assert!(admin.try_post("/-/pin", json!({ "repos": ["models/acme/large@"] })).await.status == 400);
    assert!(admin.try_post("/-/remove", json!({ "repos": ["models/acme/none"] })).await.status == 404);
    assert!(admin.try_post("/-/remove", json!({ "repos": [] })).await.status == 400);

    let planned = admin.post("/-/remove", json!({ "repos": ["models/acme/large"], "dry_run": true })).await;
    assert_eq!(
        (planned["would_remove"]["objects"].as_u64(), planned["would_remove"]["objects_shared"].as_u64()),
        (Some(1), Some(1))
    );
    assert_eq!(admin.names("").await.len(), 2);
    let done = admin.post("/-/remove", json!({ "repos": ["models/acme/large"], "revision": "main" })).await;
    assert_eq!(done["removed"]["objects"], planned["would_remove"]["objects"]);
    assert_eq!(admin.names("").await, ["models/acme/small"], "it shows at once");
    assert!(mirror.get("/acme/small/resolve/main/copy.bin").await.body == shared);

    assert!(admin.post("/-/evict", json!({ "dry_run": true })).await["would_evict"]["kept_objects"].is_u64());
    assert!(admin.post("/-/evict", json!({})).await["evicted"]["kept_objects"].is_u64());
    mirror.wait_log("ordered {\"verb\":\"remove\"").await;

    let files = admin.get(&format!("/-/files?id=models/acme/small&commit={}&search=COPY", small.sha())).await;
    assert_eq!((files["total"].as_u64(), files["files"][0]["path"].as_str()), (Some(1), Some("copy.bin")));
    assert_eq!(files["files"][0]["oid"], small.oid("copy.bin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_are_counted_and_survive_a_restart() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/large").lfs("w.bin", noise(1, MIB)).commit("first");
    let (mut mirror, admin) = with_admin(&hub).await;
    for _ in 0..3 {
        assert_eq!(mirror.get("/acme/large/resolve/main/w.bin").await.status, 200);
    }
    mirror.wait_link(&format!("models/acme/large/resolve/{}/w.bin", repo.sha())).await;
    let list = admin.wait("/-/repos", |list| list["total"] == 1).await;
    assert_eq!((list["repos"][0]["reads"].as_u64(), list["repos"][0]["hits"].as_u64()), (Some(3), Some(2)));
    let traffic = admin.get("/-/status").await["traffic"].clone();
    assert_eq!((traffic["reads"].as_u64(), traffic["hits"].as_u64()), (Some(3), Some(2)));
    assert_eq!(traffic["fetched_bytes"].as_u64(), Some(MIB as u64));

    mirror.restart().await;
    let admin = Admin(mirror.admin_address());
    let list = admin.wait("/-/repos", |list| list["total"] == 1).await;
    assert_eq!((list["repos"][0]["reads"].as_u64(), list["repos"][0]["hits"].as_u64()), (Some(3), Some(2)));
    assert_eq!(admin.get("/-/status").await["traffic"]["reads"], 0, "since the start");
    assert_eq!(mirror.get("/acme/large/resolve/main/w.bin").await.status, 200);
    assert_eq!(admin.get("/-/repos").await["repos"][0]["hits"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_down_shows() {
    let hub = FakeHub::start().await;
    let (mirror, admin) = with_admin(&hub).await;
    assert_eq!(
        admin.get("/-/status").await["upstream"]["upstreams"],
        json!([{ "url": hub.url(), "up": true, "down_seconds": null }])
    );
    hub.answer_all(500);
    for repo in ["a/a", "b/b", "c/c", "d/d"] {
        mirror.get(&format!("/api/models/{repo}")).await;
    }
    let status = admin.wait("/-/status", |status| status["upstream"]["upstreams"][0]["up"] == false).await;
    assert!(status["upstream"]["upstreams"][0]["down_seconds"].is_u64(), "{status}");
    hub.answer_normally();
}

/// Makes a repo with one link to an object that another repo has brought.
fn make_repo(root: &Path, index: usize, oid: &str) {
    let commit = root.join(format!("files/models/org-{:03}/repo-{index:06}/resolve/{index:040x}", index % 100));
    fs::create_dir_all(&commit).expect("a directory");
    symlink(format!("../../../../../../blobs/{}/{oid}", &oid[..2]), commit.join("w.bin")).expect("a link");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_repos_are_listed_page_by_page() {
    // The order of a hundred thousand is tested beside the code (src/panel/shelf.rs); so many directories would take minutes to make.
    const COUNT: usize = 20_000;
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/one").lfs("w.bin", noise(1, MIB)).commit("first");
    let folder = tempfile::tempdir().unwrap();
    let repos = folder.path().join("repos");
    let mut mirror = Mirror::of(&hub).repos(&repos).set("admin.listen", "127.0.0.1:0").start().await;
    assert_eq!(mirror.get("/acme/one/resolve/main/w.bin").await.status, 200);
    mirror.wait_link(&format!("models/acme/one/resolve/{}/w.bin", repo.sha())).await;
    mirror.stop().await;
    let oid = repo.oid("w.bin");
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (repos, oid) = (&repos, &oid);
            scope.spawn(move || (part..COUNT - 1).step_by(4).for_each(|index| make_repo(repos, index, oid)));
        }
    });
    mirror.restart().await;
    let admin = Admin(mirror.admin_address());
    let walked = admin.wait("/-/repos?limit=1", |list| list["partial"] == false).await;
    assert_eq!(walked["total"].as_u64(), Some(COUNT as u64));

    let began = Instant::now();
    let mut seen = 0;
    for sort in ["name", "size", "used", "hits", "complete"] {
        for offset in [0, 50, 9_990, COUNT - 10] {
            let list = admin.get(&format!("/-/repos?sort={sort}&offset={offset}&limit=50")).await;
            assert_eq!(list["repos"].as_array().map(Vec::len), Some(50.min(COUNT - offset)));
            seen += 1;
        }
    }
    assert_eq!(admin.names("search=repo-0077&limit=500").await.len(), 100);
    assert_eq!(admin.names("search=org-042/*-000042").await, ["models/org-042/repo-000042"]);
    assert_eq!(
        names(&ask(mirror.address(), "GET", "/-/repos", &[], None).await.json()),
        ["models/acme/one"],
        "others may be closed"
    );
    // No question walks the directory: between two walks lies at least twenty times what one took.
    let last = admin.get("/-/repos?limit=1").await;
    let walks = last["walks"].as_f64().expect("walks") - walked["walks"].as_f64().expect("walks");
    let allowed = began.elapsed().as_secs_f64() / (20.0 * walked["walk_seconds"].as_f64().expect("seconds")) + 1.0;
    assert!(walks <= allowed, "{walks} walks for {seen} questions");
    let status = fs::read_to_string(format!("/proc/{}/status", mirror.pid())).expect("the state of a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of VmHWM");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak_kib < 200 << 10, "{peak_kib} KiB");
}
