//! Who gets a yes, from which evidence and for how long: with upstream well, busy, hanging, failing, gone, replaced by a portal, or
//! not asked; and what nobody may be told about repos that are not theirs.

use std::time::{Duration, Instant};

use fake_hub::{FakeHub, Kind, Repo, noise};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{Mirror, MirrorOptions, Response};

const OPEN: &str = "/acme/open/resolve/main/w.bin";
const GATED: &str = "/acme/gated/resolve/main/w.bin";
/// Longer than a `freshness.access` of 1s.
const LONGER: Duration = Duration::from_millis(1300);
/// What only stands in for upstream's word is tried again after 10 s; a machine with much to do may need longer.
const TRIED_AGAIN: Duration = Duration::from_secs(60);

async fn ask(mirror: &Mirror, method: &str, target: &str, token: Option<&str>) -> Response {
    match token {
        Some(token) => mirror.ask(method, target, &[&format!("Authorization: Bearer {token}")]).await,
        None => mirror.ask(method, target, &[]).await,
    }
}

async fn get(mirror: &Mirror, target: &str, token: Option<&str>) -> Response {
    ask(mirror, "GET", target, token).await
}

fn bytes() -> Vec<u8> {
    noise(3, 90_000)
}

/// A gated repo, and one that all may read.
fn fill(hub: &FakeHub) -> (Repo, Repo) {
    hub.token("hf_stranger");
    let gated = hub.model("acme/gated").lfs("w.bin", bytes()).commit("first").gated().grant("hf_member");
    (gated, hub.model("acme/open").lfs("w.bin", bytes()).commit("first"))
}

/// Asks until the status is this one.
async fn until(mirror: &Mirror, target: &str, token: Option<&str>, status: u16) {
    let began = Instant::now();
    loop {
        let answer = get(mirror, target, token).await;
        if answer.status == status {
            return;
        }
        assert!(began.elapsed() < TRIED_AGAIN, "{target} is still {}, not {status}", answer.status);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Bytes,
    /// The Hub's no.
    No(u16),
    /// Trouble, of one of these statuses.
    Trouble(&'static [u16]),
}

use Told::{Bytes, No, Trouble};

/// One state of upstream.
struct Row {
    name: &'static str,
    strike: fn(&FakeHub),
    /// Anybody, of what was open when last asked.
    open: Told,
    /// One who was accepted within twice `freshness.access`, one who was accepted before that, and one whose mirror has
    /// `access.when_upstream_is_down: deny`.
    member: [Told; 3],
    stranger: Told,
    anonymous: Told,
}

const BUSY: Told = Trouble(&[429]);
const BROKEN: Told = Trouble(&[502]);
const AWAY: Told = Trouble(&[503, 504]);

const fn well(name: &'static str, strike: fn(&FakeHub)) -> Row {
    Row { name, strike, open: Bytes, member: [Bytes; 3], stranger: No(403), anonymous: No(401) }
}

const fn unclear(name: &'static str, strike: fn(&FakeHub), told: Told) -> Row {
    Row { name, strike, open: Bytes, member: [Bytes, told, told], stranger: told, anonymous: told }
}

const fn away(name: &'static str, strike: fn(&FakeHub)) -> Row {
    Row { name, strike, open: Bytes, member: [Bytes, Bytes, AWAY], stranger: AWAY, anonymous: AWAY }
}

fn every_answer(hub: &FakeHub, status: u16, headers: &[(&str, &str)]) {
    hub.fault("/").on_hub().status(status, headers);
}

const PAGE: &[(&str, &str)] = &[("Content-Type", "text/html")];

const ROWS: &[Row] = &[
    well("well", |_| {}),
    well("the API's limit is used up", |hub| hub.quota("api", 0)),
    unclear("busy", |hub| hub.answer_all(429), BUSY),
    unclear("a portal's 200", |hub| every_answer(hub, 200, PAGE), BROKEN),
    unclear("a portal's 302", |hub| every_answer(hub, 302, &[("Location", "http://portal.invalid/login")]), Trouble(&[502, 503])),
    unclear("a firewall's 401", |hub| every_answer(hub, 401, PAGE), BROKEN),
    unclear("a firewall's 403", |hub| every_answer(hub, 403, PAGE), BROKEN),
    unclear("a firewall's 404", |hub| every_answer(hub, 404, PAGE), BROKEN),
    unclear("a proxy's 407", |hub| every_answer(hub, 407, PAGE), BROKEN),
    unclear("a proxy's 408", |hub| every_answer(hub, 408, &[]), BROKEN),
    away("failing", |hub| hub.answer_all(503)),
    away("hanging", |hub| drop(hub.fault("/").on_hub().hang_before_head())),
    away("gone", |_| {}),
    away("not asked", |_| {}),
];

async fn assert_told(mirror: &Mirror, target: &str, token: Option<&str>, told: Told, oid: &str, what: &str) {
    let answer = get(mirror, target, token).await;
    let said = answer.header("x-error-message").unwrap_or_default().to_owned();
    let is_told = match told {
        Bytes => answer.status == 200 && answer.body == bytes(),
        No(status) => answer.status == status && answer.header("x-error-code") == Some("GatedRepo"),
        Trouble(statuses) => statuses.contains(&answer.status) && answer.header("x-error-code").is_none() && !said.is_empty(),
    };
    assert!(is_told, "{what}: wanted {told:?}, got {} {said:?}", answer.status);
    // An API's answer of the same repo never says more.
    let api = target.replace("/acme", "/api/models/acme").replace("/resolve/main/w.bin", "/tree/main?recursive=true");
    let listed = get(mirror, &api, token).await;
    assert!(told == Bytes || !listed.text().contains(oid), "{what}: {}", listed.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_is_as_good_as_its_evidence() {
    let mut rows = JoinSet::new();
    for row in ROWS {
        rows.spawn(async move {
            let hub = FakeHub::start().await;
            let oid = fill(&hub).0.oid("w.bin");
            for (index, (access, when)) in [("1h", "accepted"), ("0s", "accepted"), ("1h", "deny")].into_iter().enumerate() {
                let what = format!("upstream is {}, access {access}, {when}", row.name);
                let repos = TempDir::new().expect("a temporary directory");
                let options = Mirror::of(&hub)
                    .repos(repos.path())
                    .set("freshness.access", access)
                    .set("freshness.revision", "0s")
                    .set("upstream.question_timeout", "2s")
                    .set("access.when_upstream_is_down", when);
                let mut mirror = options.clone().start().await;
                assert_eq!(get(&mirror, OPEN, None).await.body, bytes(), "{what}");
                assert_eq!(get(&mirror, GATED, Some("hf_member")).await.body, bytes(), "{what}");
                assert_eq!(get(&mirror, GATED, Some("hf_stranger")).await.status, 403, "{what}");
                // What is only in memory shall not help.
                mirror.stop().await;
                (row.strike)(&hub);
                match row.name {
                    "gone" => hub.down().await,
                    "not asked" => mirror = options.arg("--offline").start().await,
                    _ => {}
                }
                if row.name != "not asked" {
                    mirror.restart().await;
                }
                // Twice, since what was found out the first time is remembered.
                for round in ["first", "again"] {
                    let what = format!("{what}, {round}");
                    assert_told(&mirror, OPEN, None, row.open, &oid, &format!("{what}: open")).await;
                    assert_told(&mirror, GATED, Some("hf_member"), row.member[index], &oid, &format!("{what}: member")).await;
                    assert_told(&mirror, GATED, Some("hf_stranger"), row.stranger, &oid, &format!("{what}: stranger")).await;
                    assert_told(&mirror, GATED, None, row.anonymous, &oid, &format!("{what}: anonymous")).await;
                }
                mirror.stop().await;
                hub.clear_faults();
                hub.clear_quotas();
                hub.answer_normally();
                hub.up().await;
                // And nothing false was written down.
                mirror.restart().await;
                if row.name != "not asked" {
                    assert_told(&mirror, OPEN, None, Bytes, &oid, &format!("{what}, over: open")).await;
                    assert_told(&mirror, GATED, Some("hf_member"), Bytes, &oid, &format!("{what}, over: member")).await;
                    assert_told(&mirror, GATED, Some("hf_stranger"), No(403), &oid, &format!("{what}, over: stranger")).await;
                }
            }
        });
    }
    while let Some(row) = rows.join_next().await {
        if let Err(panicked) = row {
            std::panic::resume_unwind(panicked.into_panic());
        }
    }
}

/// The Hub's account of a limit that is used up, as if others behind the same address had done it.
const USED_UP: &[(&str, &str)] = &[
    ("Content-Type", "application/json"),
    ("RateLimit", "\"api\";r=0;t=300"),
    ("RateLimit-Policy", "\"fixed window\";\"api\";q=1000;w=300"),
];

#[tokio::test]
async fn nobody_keeps_access_by_using_up_the_mirrors_own_pacing() {
    for when in ["accepted", "deny"] {
        let hub = FakeHub::start().await;
        let (gated, open) = fill(&hub);
        hub.fault("search=burn").status(200, USED_UP);
        let mirror = Mirror::of(&hub).set("freshness.access", "1s").set("access.when_upstream_is_down", when).start().await;
        assert_eq!(get(&mirror, OPEN, None).await.status, 200);
        assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
        gated.revoke("hf_member");
        open.private();
        for token in [None, Some("hf_member")] {
            assert_eq!(get(&mirror, "/api/models?search=burn", token).await.status, 200);
            assert_eq!(get(&mirror, "/api/models?search=more", token).await.status, 429, "the mirror paces itself");
        }
        tokio::time::sleep(LONGER).await;
        assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 403, "{when}");
        assert_eq!(get(&mirror, OPEN, None).await.status, 401, "{when}");
    }
}

#[tokio::test]
async fn nobody_keeps_access_by_questions_that_the_hub_fails_at() {
    let hub = FakeHub::start().await;
    let (gated, _) = fill(&hub);
    for n in 0..4 {
        hub.model(&format!("acme/other{n}")).file("a.txt", "a").commit("first");
    }
    hub.fault("boom").on_hub().status(500, &[]);
    let mirror = Mirror::of(&hub).set("freshness.access", "1s").start().await;
    assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
    gated.revoke("hf_member");
    tokio::time::sleep(LONGER).await;
    for n in 0..4 {
        for repo in ["gated".to_owned(), format!("other{n}")] {
            assert_eq!(get(&mirror, &format!("/api/models/acme/{repo}/boom/{n}"), Some("hf_member")).await.status, 503);
        }
    }
    assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 403);
}

#[tokio::test]
async fn nobody_keeps_access_by_leaving_no_time_for_the_question() {
    let hub = FakeHub::start().await;
    let (gated, _) = fill(&hub);
    let mirror = Mirror::of(&hub).set("freshness.access", "500ms").set("upstream.question_timeout", "2s").start().await;
    let tree = format!("/api/models/acme/gated/tree/{}?recursive=true&expand=false", gated.sha());
    for target in [GATED, &tree] {
        assert_eq!(get(&mirror, target, Some("hf_member")).await.status, 200, "{target}");
    }
    gated.revoke("hf_member");
    tokio::time::sleep(LONGER).await;
    // The Hub hangs at what its answer would spare, or answers late, and then is slow to say who may have that.
    let slow = hub.fault("commits").on_hub().latency(Duration::from_millis(1700));
    let word = hub.fault("auth-check").on_hub().latency(Duration::from_millis(1500));
    get(&mirror, "/api/models/acme/gated/commits/main", Some("hf_member")).await;
    assert_ne!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
    slow.lift();
    word.lift();
    hub.fault("paths-info").on_hub().hang_before_head();
    let mut connection = mirror.connect().await;
    let asked = "POST /api/models/acme/gated/paths-info/main HTTP/1.1\r\nHost: mirror.test\r\nAuthorization: Bearer hf_member\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 11\r\n\r\npaths=w.bin";
    connection.send(asked).await;
    let told = connection.response("POST").await;
    assert!(told.status >= 400 && !told.text().contains("w.bin"), "{}: {}", told.status, told.text());
    assert_ne!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
}

#[tokio::test]
async fn a_slow_word_is_waited_for_and_a_yes_that_stood_in_does_not_stay() {
    let hub = FakeHub::start().await;
    let (_, open) = fill(&hub);
    let mut mirror = Mirror::of(&hub).set("freshness.access", "1h").start().await;
    assert_eq!(get(&mirror, OPEN, None).await.status, 200);
    open.private();
    mirror.restart().await;
    let slow = hub.fault("open/auth-check").on_hub().latency(Duration::from_millis(3500));
    assert_eq!(get(&mirror, OPEN, None).await.status, 401);
    slow.lift();

    open.public();
    mirror.restart().await;
    assert_eq!(get(&mirror, OPEN, None).await.status, 200);
    hub.down().await;
    mirror.restart().await;
    assert_eq!(get(&mirror, OPEN, None).await.status, 200, "it stands in");
    open.private();
    hub.up().await;
    until(&mirror, OPEN, None, 401).await;
}

#[tokio::test]
async fn the_operators_token_fetches_nothing_on_a_yes_that_stands_in() {
    let hub = FakeHub::start().await;
    let (_, open) = fill(&hub);
    open.grant("hf_operator");
    let mut mirror = Mirror::of(&hub).set("upstream.token", "hf_operator").set("freshness.revision", "0s").start().await;
    assert_eq!(get(&mirror, OPEN, None).await.status, 200);
    open.lfs("new.bin", noise(8, 5000)).commit("second").private();
    for question in ["auth-check", "access-check"] {
        hub.fault(question).on_hub().status(429, &[("Retry-After", "1")]);
    }
    mirror.restart().await;
    hub.clear_log();
    assert_eq!(get(&mirror, OPEN, None).await.status, 200, "what was open and is kept");
    for target in [
        "/acme/open/resolve/main/new.bin",
        "/api/models/acme/open/tree/main",
        "/api/models/acme/open/commits/main",
        "/api/models/acme/open/revision/main",
    ] {
        let answer = get(&mirror, target, None).await;
        assert_ne!(answer.status, 200, "{target}: {}", answer.text());
    }
    let as_operator: Vec<_> = hub.calls().into_iter().filter(|call| call.token.is_some()).collect();
    assert!(as_operator.is_empty(), "{as_operator:?}");
}

#[tokio::test]
async fn the_operators_token_stands_in_for_content_only() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/open").file("a.txt", "a").commit("first").grant("hf_operator");
    let mirror = Mirror::of(&hub).set("upstream.token", "hf_operator").start().await;
    assert_eq!(get(&mirror, "/acme/open/resolve/main/a.txt", None).await.status, 200);
    hub.clear_log();
    let token = format!("xet-read-token/{}", repo.sha());
    for below in
        ["jwt?write=true", "secrets", "user-access-request/pending", "auth-check", "auth-check/write", "discussions", &token]
    {
        get(&mirror, &format!("/api/models/acme/open/{below}"), None).await;
    }
    let calls = hub.calls();
    assert!(calls.len() >= 6 && calls.iter().all(|call| call.token.is_none()), "{calls:?}");
    get(&mirror, "/api/models/acme/open/refs", None).await;
    assert!(hub.calls().iter().any(|call| call.token.is_some()), "for content it does");
}

#[tokio::test]
async fn a_repo_that_the_operator_shares_is_shared_with_registry_clients_too() {
    let hub = FakeHub::start().await;
    hub.model("acme/gguf").lfs("tiny.Q4_K_M.gguf", noise(4, 50_000)).commit("q").gated().grant("hf_operator");
    let mirror =
        Mirror::of(&hub).set("upstream.token", "hf_operator").set("access.operator_repos", "models/acme/*").start().await;
    let manifest = get(&mirror, "/v2/acme/gguf/manifests/latest", None).await;
    assert_eq!(manifest.status, 200, "{}", manifest.text());
    let manifest = manifest.json();
    let layers = manifest["layers"].as_array().expect("layers");
    assert!(layers.len() > 1, "{manifest}");
    for layer in layers.iter().chain([&manifest["config"]]) {
        let target = format!("/v2/acme/gguf/blobs/{}", layer["digest"].as_str().expect("a digest"));
        assert_eq!(get(&mirror, &target, None).await.status, 200, "{layer}");
    }
}

#[tokio::test]
async fn what_hangs_for_one_caller_is_not_told_to_others() {
    let hub = FakeHub::start().await;
    hub.model("corp/secret-project").file("layoffs.csv", "a").commit("first").private().grant("hf_owner");
    hub.model("acme/other").file("a.txt", "a").commit("first");
    let mirror = Mirror::of(&hub).set("upstream.question_timeout", "2s").start().await;
    assert_eq!(get(&mirror, "/api/models/corp/secret-project/auth-check", Some("hf_owner")).await.status, 200);
    hub.fault("layoffs").on_hub().hang_before_head();
    let target = "/corp/secret-project/resolve/main/layoffs.csv";
    assert_eq!(ask(&mirror, "HEAD", target, Some("hf_owner")).await.status, 504);
    hub.fault("/").on_hub().hang_before_head();
    for target in ["/acme/other/resolve/main/a.txt", "/api/models?search=x"] {
        let began = Instant::now();
        loop {
            let told = get(&mirror, target, None).await;
            let said = told.header("x-error-message").unwrap_or_default();
            assert!((503..=504).contains(&told.status), "{target}: {}", told.status);
            assert!(said.contains("no answer in") && !said.contains("secret") && !said.contains("layoffs"), "{said}");
            // One in a while tries again, and tells of its own trouble.
            if said.contains("last: ") {
                break;
            }
            assert!(began.elapsed() < TRIED_AGAIN, "{said}");
        }
    }
}

#[tokio::test]
async fn a_reader_of_a_public_file_is_not_told_where_else_it_lies() {
    for hangs in [false, true] {
        let hub = FakeHub::start().await;
        let bytes = noise(5, 9_000_000);
        hub.model("acme/public").lfs("w.bin", &bytes).commit("first");
        hub.model("corp/secret-project").lfs("hidden.bin", &bytes).commit("first").private().grant("hf_owner");
        let mirror = Mirror::of(&hub).set("upstream.patience", "2s");
        let mirror = if hangs { mirror.set("upstream.question_timeout", "2s") } else { mirror };
        let mirror = mirror.start().await;
        assert_eq!(mirror.head("/acme/public/resolve/main/w.bin").await.status, 200);
        let own = ["Range: bytes=0-99", "Authorization: Bearer hf_owner"];
        assert_eq!(mirror.ask("GET", "/corp/secret-project/resolve/main/hidden.bin", &own).await.status, 206);
        hub.wait_idle().await;
        hub.expire_signatures();
        hub.advance_clock(Duration::from_secs(7200));
        hub.fault("acme/public/resolve").on_hub().status(503, &[]);
        let fault = hub.fault("corp/secret-project/resolve").on_hub();
        if hangs {
            fault.hang_before_head()
        } else {
            fault.status(200, PAGE)
        };
        let told = mirror.get_range("/acme/public/resolve/main/w.bin", "bytes=7000000-7000099").await;
        // While it hangs, a head may have had to leave before anything could be told.
        let is_cut = hangs && told.status == 206 && !told.whole && told.body.is_empty();
        assert!(told.status >= 429 || is_cut, "{}", told.status);
        let told = format!("{:?} {}", told.headers, told.text());
        assert!(!told.contains("secret") && !told.contains("hidden"), "{told}");
    }
}

#[tokio::test]
async fn what_is_kept_of_closed_repos_looks_like_what_is_not_there() {
    let hub = FakeHub::start().await;
    for name in ["corp/private", "corp/old-name"] {
        hub.model(name).file("a.txt", "a").commit("first").private().grant("hf_owner");
    }
    hub.rename("corp/old-name", "corp/new-name");
    let repos = TempDir::new().expect("a temporary directory");
    let options = || Mirror::of(&hub).repos(repos.path()).set("upstream.question_timeout", "2s");
    let mut mirror = options().start().await;
    for name in ["private", "old-name"] {
        for target in targets(name) {
            assert_eq!(get(&mirror, &target, Some("hf_owner")).await.status, 200, "{target}");
        }
    }
    mirror.stop().await;
    hub.token("hf_stranger");
    for (state, options) in
        [("gone", options()), ("busy", options()), ("portal", options()), ("offline", options().arg("--offline"))]
    {
        match state {
            "gone" => hub.down().await,
            "busy" => hub.answer_all(429),
            "portal" => every_answer(&hub, 403, PAGE),
            _ => {}
        }
        let mut mirror = options.start().await;
        for token in [None, Some("hf_stranger")] {
            // The first trouble is found out before the breaker knows of it, and told in other words.
            get(&mirror, "/api/models/corp/before", token).await;
            for (missing, kept) in targets("missing").iter().zip(targets("private").iter().zip(targets("old-name"))) {
                let expected = told(&mirror, missing, token).await;
                assert_eq!(told(&mirror, kept.0, token).await, expected, "{state}: {}", kept.0);
                assert_eq!(told(&mirror, &kept.1, token).await, expected, "{state}: {}", kept.1);
            }
        }
        mirror.stop().await;
        hub.clear_faults();
        hub.answer_normally();
        hub.up().await;
    }
}

fn targets(name: &str) -> [String; 4] {
    [
        format!("/corp/{name}/resolve/main/a.txt"),
        format!("/api/models/corp/{name}"),
        format!("/api/models/corp/{name}/revision/main"),
        format!("/api/models/corp/{name}/tree/main?recursive=true&expand=false"),
    ]
}

/// All that an answer tells, but for times.
async fn told(mirror: &Mirror, target: &str, token: Option<&str>) -> String {
    let answer = get(mirror, target, token).await;
    assert!(answer.status >= 429, "{target}: {}", answer.status);
    let mut headers: Vec<String> =
        answer.headers.iter().filter(|(name, _)| *name != "date").map(|(name, value)| format!("{name}: {value:?}")).collect();
    headers.sort();
    let whole: String = format!("{headers:?} {}", answer.text()).chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
    // One in a while tries whether upstream is back, and is told what it met and not what was met last.
    format!("{} {}", answer.status, whole.replace("down since  s, asked again in  s; last: ", ""))
}

#[tokio::test]
async fn nothing_is_learned_from_what_stands_between() {
    for (status, headers) in [
        (200, PAGE),
        (401, PAGE),
        (403, PAGE),
        (404, PAGE),
        (302, &[("Location", "http://portal.invalid/login")]),
        (407, &[]),
        (408, &[]),
    ] {
        let hub = FakeHub::start().await;
        fill(&hub);
        let mut mirror = Mirror::of(&hub).set("freshness.access", "1s").set("freshness.revision", "1s").start().await;
        let info = "/api/models/acme/open";
        assert_eq!((get(&mirror, OPEN, None).await.status, get(&mirror, info, None).await.status), (200, 200));
        assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
        tokio::time::sleep(LONGER).await;
        every_answer(&hub, status, headers);
        for method in ["HEAD", "GET"] {
            assert_eq!(ask(&mirror, method, OPEN, None).await.status, 200, "{status} {method}");
            let listed = ask(&mirror, method, info, None).await;
            assert_eq!(listed.status, 200, "{status} {method}");
            assert!(method == "HEAD" || listed.json()["id"] == "acme/open", "{status}: {}", listed.text());
        }
        // What is not kept is told as trouble, and not as missing.
        for target in ["/acme/new/resolve/main/w.bin", "/api/models/acme/new", "/api/models/acme/new/tree/main", "/api/whoami-v2"]
        {
            for token in [None, Some("hf_member")] {
                let told = get(&mirror, target, token).await;
                assert!((502..=503).contains(&told.status), "{status} {target}: {}", told.status);
                assert_eq!((told.header("x-error-code"), told.header("location")), (None, None), "{status} {target}");
            }
        }
        // And nothing of it is left when the Hub is gone.
        hub.clear_faults();
        hub.down().await;
        mirror.restart().await;
        assert_eq!(get(&mirror, OPEN, None).await.status, 200, "{status}");
        assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200, "{status}");
    }
}

#[tokio::test]
async fn a_no_in_json_alone_takes_nothing_away_that_is_kept() {
    let hub = FakeHub::start().await;
    fill(&hub);
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    let info = "/api/models/acme/open/revision/main";
    assert_eq!(get(&mirror, info, None).await.status, 200);
    for status in [400, 404, 410, 418] {
        let fault = hub.fault("revision/main").on_hub().status(status, &[("Content-Type", "application/json")]);
        // Past the moment in which equal questions are one.
        tokio::time::sleep(LONGER).await;
        assert_eq!(get(&mirror, info, None).await.status, 200, "{status}");
        fault.lift();
    }
}

#[tokio::test]
async fn a_page_is_no_yes() {
    let hub = FakeHub::start().await;
    fill(&hub);
    hub.fault("auth-check").on_hub().status(200, PAGE);
    let mirror = Mirror::start(&hub).await;
    for token in [None, Some("hf_stranger"), Some("hf_member")] {
        assert_eq!(get(&mirror, GATED, token).await.status, 403, "the facts do not tell who may read a gated repo");
    }
    assert_eq!(get(&mirror, OPEN, None).await.status, 200, "but that all may read this one");
}

fn anew(hub: &FakeHub) -> MirrorOptions {
    Mirror::of(hub).set("freshness.access", "1s").set("freshness.revision", "1s")
}

#[tokio::test]
async fn a_repo_made_anew_under_an_old_name_gives_nothing_of_the_first() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/anew").lfs("secret.bin", noise(3, 90_000)).commit("first").private().grant("hf_owner");
    let mut mirror = anew(&hub).start().await;
    let commit = repo.sha();
    let file = format!("/acme/anew/resolve/{commit}/secret.bin");
    let tree = format!("/api/models/acme/anew/tree/{commit}?recursive=true&expand=false");
    let main = "/acme/anew/resolve/main/secret.bin";
    for target in [&file, &tree, main, "/api/models/acme/anew/revision/main"] {
        assert_eq!(get(&mirror, target, Some("hf_owner")).await.status, 200, "{target}");
    }
    hub.remove(Kind::Model, "acme/anew");
    hub.model("acme/anew").file("readme.txt", "public now").commit("other");
    tokio::time::sleep(LONGER).await;
    for target in [&file, &tree, main] {
        let told = get(&mirror, target, None).await;
        assert_eq!(told.status, 404, "{target}: {}", told.text());
    }
    // Nor while the Hub is gone.
    assert_eq!(get(&mirror, "/acme/anew/resolve/main/readme.txt", None).await.status, 200);
    hub.down().await;
    mirror.restart().await;
    for target in [&file, &tree, main] {
        assert_ne!(get(&mirror, target, None).await.status, 200, "{target}");
    }
    assert_eq!(get(&mirror, "/acme/anew/resolve/main/readme.txt", None).await.status, 200);
}

#[tokio::test]
async fn a_repo_made_anew_for_others_gives_them_nothing_of_the_first() {
    for close in [Repo::private, Repo::gated] {
        let hub = FakeHub::start().await;
        let repo = close(&hub.model("acme/anew").lfs("secret.bin", noise(3, 90_000)).commit("first")).grant("hf_owner");
        let commit = repo.sha();
        let file = format!("/acme/anew/resolve/{commit}/secret.bin");
        let tree = format!("/api/models/acme/anew/tree/{commit}?recursive=true&expand=false");
        let mut mirror = anew(&hub).start().await;
        for target in [&file, &tree] {
            assert_eq!(get(&mirror, target, Some("hf_owner")).await.status, 200, "{target}");
        }
        // Unless the Hub says that it is still the same, nobody new is let in.
        repo.grant("hf_late");
        let fault = hub.fault("/api/models/acme/anew").after(1).status(429, &[]);
        tokio::time::sleep(LONGER).await;
        assert_ne!(get(&mirror, &file, Some("hf_late")).await.status, 200);
        assert_eq!(get(&mirror, &file, Some("hf_owner")).await.status, 200, "who was let in before reads on");
        fault.lift();
        hub.remove(Kind::Model, "acme/anew");
        close(&hub.model("acme/anew").file("mine.txt", "another's").commit("other")).grant("hf_other");
        tokio::time::sleep(LONGER).await;
        for target in [&file, &tree] {
            let told = get(&mirror, target, Some("hf_other")).await;
            assert_eq!(told.status, 404, "{target}: {}", told.text());
        }
        assert_eq!(get(&mirror, "/acme/anew/resolve/main/mine.txt", Some("hf_other")).await.text(), "another's");
        // Nor is it the other way round.
        hub.down().await;
        mirror.restart().await;
        assert_eq!(get(&mirror, "/acme/anew/resolve/main/mine.txt", Some("hf_other")).await.status, 200);
        for target in [file.as_str(), "/acme/anew/resolve/main/mine.txt"] {
            assert_eq!(get(&mirror, target, Some("hf_owner")).await.status, 503, "{target}");
        }
    }
}

#[tokio::test]
async fn a_repo_made_anew_for_all_gives_nothing_of_the_first_while_its_no_is_remembered() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/anew").lfs("secret.bin", noise(3, 90_000)).commit("first").private().grant("hf_owner");
    let file = format!("/acme/anew/resolve/{}/secret.bin", repo.sha());
    let mirror = Mirror::of(&hub).set("freshness.access", "1h").start().await;
    assert_eq!(get(&mirror, &file, Some("hf_owner")).await.status, 200);
    assert_eq!(get(&mirror, &file, None).await.status, 401);
    hub.remove(Kind::Model, "acme/anew");
    hub.model("acme/anew").file("readme.txt", "public now").commit("other");
    until(&mirror, &file, None, 404).await;
}

#[tokio::test]
async fn what_is_opened_is_open_to_all_when_the_hub_is_gone() {
    let hub = FakeHub::start().await;
    let (gated, _) = fill(&hub);
    let mut mirror = Mirror::of(&hub).set("freshness.access", "1h").start().await;
    assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
    assert_eq!(get(&mirror, GATED, None).await.status, 401);
    gated.public();
    until(&mirror, GATED, None, 200).await;
    hub.down().await;
    mirror.restart().await;
    assert_eq!(get(&mirror, GATED, None).await.status, 200);
}

#[tokio::test]
async fn a_repo_renamed_to_what_another_was_called_is_not_that_one() {
    let hub = FakeHub::start().await;
    let one = hub.model("acme/name").lfs("one.bin", noise(3, 90_000)).commit("first").private().grant("hf_one");
    let two =
        hub.model("acme/before").lfs("two.bin", noise(4, 80_000)).commit("first").private().grant("hf_two").grant("hf_late");
    // Who was let in stands for long, so that it must be forgotten and does not just end.
    let mut mirror = Mirror::of(&hub).set("freshness.access", "1h").start().await;
    let of_one = format!("/acme/name/resolve/{}/one.bin", one.sha());
    assert_eq!(get(&mirror, &of_one, Some("hf_one")).await.status, 200);
    assert_eq!(get(&mirror, &format!("/acme/before/resolve/{}/two.bin", two.sha()), Some("hf_two")).await.status, 200);
    let of_two = format!("/acme/name/resolve/{}/two.bin", two.sha());
    hub.remove(Kind::Model, "acme/name");
    hub.rename("acme/before", "acme/name");
    // One whom nobody has let in yet is asked about, and that question leads to the new name.
    assert_eq!(get(&mirror, "/acme/before/resolve/main/two.bin", Some("hf_late")).await.status, 200);
    assert_eq!(get(&mirror, &of_two, Some("hf_one")).await.status, 404);
    assert_eq!(get(&mirror, &of_one, Some("hf_two")).await.status, 404);
    assert_eq!(get(&mirror, &of_two, Some("hf_two")).await.status, 200);
    hub.down().await;
    mirror.restart().await;
    assert_eq!(get(&mirror, &of_two, Some("hf_two")).await.status, 200);
    for (target, token) in [(&of_one, "hf_one"), (&of_one, "hf_two"), (&of_two, "hf_one")] {
        assert_eq!(get(&mirror, target, Some(token)).await.status, 503, "{target} {token}");
    }
}

#[tokio::test]
async fn a_repo_that_is_only_opened_keeps_what_is_known() {
    let hub = FakeHub::start().await;
    let (gated, _) = fill(&hub);
    let mirror = anew(&hub).start().await;
    assert_eq!(get(&mirror, "/api/models/acme/gated/revision/main", Some("hf_member")).await.status, 200);
    assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
    gated.public();
    tokio::time::sleep(LONGER).await;
    assert_eq!(get(&mirror, GATED, None).await.status, 200);
    hub.down().await;
    assert_eq!(get(&mirror, &format!("/acme/gated/resolve/{}/w.bin", gated.sha()), None).await.status, 200);
}

#[tokio::test]
async fn who_was_accepted_before_a_rename_reads_on_after_it() {
    let hub = FakeHub::start().await;
    let (gated, _) = fill(&hub);
    gated.grant("hf_second");
    let mut mirror = Mirror::of(&hub).set("freshness.access", "1s").start().await;
    for token in ["hf_member", "hf_second"] {
        assert_eq!(get(&mirror, GATED, Some(token)).await.status, 200);
    }
    hub.rename("acme/gated", "acme/moved");
    tokio::time::sleep(LONGER).await;
    assert_eq!(get(&mirror, GATED, Some("hf_member")).await.status, 200);
    hub.down().await;
    mirror.restart().await;
    for target in [GATED, "/acme/moved/resolve/main/w.bin"] {
        for token in ["hf_member", "hf_second"] {
            assert_eq!(get(&mirror, target, Some(token)).await.status, 200, "{target} {token}");
        }
        assert_eq!(get(&mirror, target, Some("hf_stranger")).await.status, 503, "{target}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_again_is_noticed() {
    let hub = FakeHub::start().await;
    hub.model("acme/name").file("a.txt", "of the old").commit("first");
    hub.rename("acme/name", "acme/moved");
    let mirror = Mirror::of(&hub).set("freshness.alias", "1s").start().await;
    let target = "/acme/name/resolve/main/a.txt";
    assert_eq!(get(&mirror, target, None).await.text(), "of the old");
    hub.model("acme/name").file("a.txt", "of the new").commit("first");
    tokio::time::sleep(LONGER).await;
    assert_eq!(get(&mirror, target, None).await.text(), "of the new");
    assert_eq!(get(&mirror, "/acme/moved/resolve/main/a.txt", None).await.text(), "of the old");
}
