//! An upstream that is down, silent, refuses or wants to be asked less; and the others that are asked instead, and the proxies between.

use std::time::{Duration, Instant};

use fake_hub::{FakeHub, noise};

use crate::harness::{ConnectProxy, Mirror, Relay, Response};

/// Coming back is a matter of a probe or two; a machine with much to do may need longer.
const BACK_MAX: Duration = Duration::from_secs(60);
const INFO: &str = "/api/models/acme/m";
const FILE: &str = "/acme/m/resolve/main/config.json";
const LARGE: &str = "/acme/m/resolve/main/w.bin";

async fn hub() -> FakeHub {
    let hub = FakeHub::start().await;
    fill(&hub);
    hub
}

fn fill(hub: &FakeHub) {
    hub.model("acme/m").file("config.json", "{}").file("other.json", "[]").lfs("w.bin", noise(5, 3 << 20)).commit("first");
}

fn message(response: &Response) -> String {
    response.header("x-error-message").unwrap_or_default().to_owned()
}

/// Asks until the answer is 200.
async fn until_ok(mirror: &Mirror, target: &str) -> Response {
    let began = Instant::now();
    loop {
        let answer = mirror.get(target).await;
        if answer.status == 200 {
            return answer;
        }
        assert!(began.elapsed() < BACK_MAX, "{target} is still {}: {}", answer.status, message(&answer));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_silent_upstream_is_noticed_once_and_its_return_too() {
    let hub = hub().await;
    let relay = Relay::start(hub.hub_address()).await;
    let mirror = Mirror::of_url(&relay.url())
        .set("upstream.question_timeout", "2s")
        .set("freshness.revision", "0s")
        .set("freshness.access", "0s")
        .start()
        .await;
    let up = "dingospeed_upstream_up{upstream=\"first\"}";
    assert_eq!(mirror.get(FILE).await.status, 200);
    assert_eq!(mirror.get(INFO).await.status, 200);
    assert_eq!(mirror.metrics().await.of(up), 1.0);

    relay.fall_silent();
    let before = relay.dials();
    // The first one finds out, and what is kept is given all the same.
    assert_eq!(mirror.get(INFO).await.status, 200);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(mirror.get(INFO).await.status, 200);
        assert_eq!(mirror.get(FILE).await.status, 200);
    }
    // Forty requests at two seconds each would be eighty.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(relay.dials() - before < 10, "{} dials", relay.dials() - before);
    let cold = mirror.get("/api/models/acme/unknown").await;
    assert!(cold.status == 503 || cold.status == 504, "{}", cold.status);
    let numbers = mirror.metrics().await;
    assert_eq!(numbers.of(up), 0.0);
    assert_eq!(numbers.sum("dingospeed_upstream_openings_total"), 1.0);
    mirror.wait_log("down upstream=").await;

    relay.carry();
    until_ok(&mirror, "/acme/m/resolve/main/other.json").await;
    assert_eq!(mirror.metrics().await.of(up), 1.0);
    mirror.wait_log("back upstream=").await;
}

#[tokio::test]
async fn a_refusing_upstream_says_since_when_and_comes_back() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    hub.down().await;
    let mut said = Vec::new();
    for _ in 0..20 {
        let answer = mirror.get(INFO).await;
        assert_eq!(answer.status, 503, "{}", message(&answer));
        said.push(message(&answer));
    }
    let address = hub.hub_address().to_string();
    assert!(said.iter().any(|said| said.contains("asked again in") && said.contains(&address)), "{said:?}");
    hub.up().await;
    until_ok(&mirror, INFO).await;
}

#[tokio::test]
async fn a_hub_that_answers_503_to_everything_is_left_alone() {
    let hub = hub().await;
    let names: Vec<String> = (0..5).map(|n| format!("acme/m{n}")).collect();
    for name in &names {
        hub.model(name).file("config.json", "{}").commit("first");
    }
    let mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    for name in &names {
        assert_eq!(mirror.get(&format!("/api/models/{name}")).await.status, 200);
    }
    hub.answer_all(503);
    for name in &names {
        assert_eq!(mirror.get(&format!("/api/models/{name}")).await.status, 200, "kept");
    }
    let (before, began) = (hub.hub_calls().len(), Instant::now());
    for name in names.iter().cycle().take(50) {
        assert_eq!(mirror.get(&format!("/api/models/{name}")).await.status, 200, "kept");
    }
    let calls = hub.hub_calls().len() - before;
    // A probe (and its tries) every half second at the most, and no more than a few for any machine.
    let probes = began.elapsed().as_secs() as usize * 2 + 2;
    assert!(calls <= 3 * probes, "{calls} calls in {:?}", began.elapsed());

    hub.answer_normally();
    until_ok(&mirror, "/acme/m/resolve/main/config.json").await;
}

/// Waits until this upstream counts as up, while nothing is asked of the mirror but its metrics.
async fn until_up(mirror: &Mirror, upstream: &str) {
    let began = Instant::now();
    while mirror.metrics().await.of(&format!("dingospeed_upstream_up{{upstream=\"{upstream}\"}}")) != 1.0 {
        assert!(began.elapsed() < BACK_MAX, "{upstream} still counts as down");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn that_an_upstream_is_back_is_found_though_nobody_asks() {
    let (hub, other) = (hub().await, hub().await);
    hub.token("hf_operators");
    let mirror = Mirror::of(&hub)
        .set("upstream.fallbacks", other.url())
        .set("upstream.token", "hf_operators")
        .set("freshness.revision", "0s")
        .start()
        .await;
    let watched = |hub: &FakeHub| {
        let is_it = |call: &fake_hub::Call| call.path == "/api/models/openai-community/gpt2/auth-check";
        hub.calls().into_iter().filter(is_it).collect::<Vec<_>>()
    };
    assert_eq!(mirror.get(FILE).await.status, 200);
    assert_eq!(mirror.get(INFO).await.status, 200);

    for hub in [&hub, &other] {
        hub.down().await;
    }
    for n in 0.. {
        let numbers = mirror.metrics().await;
        let is_down = |name: &&str| numbers.of(&format!("dingospeed_upstream_up{{upstream=\"{name}\"}}")) == 0.0;
        if ["first", "fallback-1"].iter().all(is_down) {
            break;
        }
        assert!(n < 100, "they never count as down");
        let answer = mirror.get(&format!("/api/models/acme/n{n}")).await;
        assert!(answer.status >= 500, "{}", answer.status);
    }
    for hub in [&hub, &other] {
        hub.clear_log();
        hub.up().await;
    }
    until_up(&mirror, "first").await;
    until_up(&mirror, "fallback-1").await;
    for hub in [&hub, &other] {
        let asked = watched(hub);
        assert!(!asked.is_empty() && hub.calls().len() == asked.len(), "{:?}", hub.calls());
        for call in asked {
            assert!(call.method == "HEAD" && !call.headers.contains_key("authorization"), "{call:?}");
        }
    }
    assert_eq!(mirror.get(INFO).await.status, 200);
}

#[tokio::test]
async fn one_broken_file_does_not_close_the_hub() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get(FILE).await.status, 200);
    let fault = hub.fault("other.json").on_hub().status(500, &[]);
    for _ in 0..3 {
        assert_eq!(mirror.get("/acme/m/resolve/main/other.json").await.status, 503);
    }
    assert!(fault.hits() >= 9, "each request tries again");
    assert_eq!(mirror.get(LARGE).await.status, 200);
    assert_eq!(mirror.metrics().await.sum("dingospeed_upstream_openings_total"), 0.0);
}

#[tokio::test]
async fn the_next_upstream_is_asked_while_the_first_is_down() {
    let (first, second) = (hub().await, hub().await);
    let token = first.token("hf_first_only");
    let authorization = format!("Authorization: Bearer {token}");
    let mirror = Mirror::of(&first).set("upstream.fallbacks", second.url()).set("freshness.revision", "0s").start().await;
    assert_eq!(mirror.ask("GET", FILE, &[&authorization]).await.status, 200);
    assert_eq!(second.calls().len(), 0, "nothing is asked of a fallback while the first answers");

    first.down().await;
    let answer = mirror.ask("GET", LARGE, &[&authorization]).await;
    assert_eq!(answer.status, 200, "{}", message(&answer));
    assert!(answer.whole && answer.body == noise(5, 3 << 20).to_vec());
    let info = mirror.ask("GET", INFO, &[&authorization]).await;
    assert_eq!((info.status, info.json()["id"].as_str()), (200, Some("acme/m")));
    assert!(!second.calls().is_empty());
    let told: Vec<_> = second.calls().into_iter().filter(|call| call.headers.contains_key("authorization")).collect();
    assert!(told.is_empty(), "the token went to a fallback: {told:?}");

    // Back: the first is asked again by itself.
    first.up().await;
    first.clear_log();
    let began = Instant::now();
    // Not by the mirror's own question alone, whose answer may still be on its way.
    while !first.calls().iter().any(|call| call.path.contains("acme/m")) {
        assert!(began.elapsed() < BACK_MAX, "the first upstream is never asked again");
        assert_eq!(mirror.get(INFO).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    second.wait_idle().await;
    second.clear_log();
    assert_eq!(mirror.get(INFO).await.status, 200);
    assert_eq!(second.calls().len(), 0);
}

#[tokio::test]
async fn where_the_hub_is_never_reached_a_fallback_serves_what_is_open() {
    let (first, second) = (hub().await, hub().await);
    second.model("acme/closed").file("config.json", "{}").commit("first");
    second.model("acme/closed").gated();
    first.down().await;
    let mirror = Mirror::of(&first).set("upstream.fallbacks", second.url()).start().await;
    for target in [FILE, LARGE, INFO] {
        let answer = mirror.ask("GET", target, &["Authorization: Bearer hf_private"]).await;
        assert_eq!(answer.status, 200, "{target}: {}", message(&answer));
    }
    let closed = mirror.get("/acme/closed/resolve/main/config.json").await;
    assert_eq!(closed.status, 503, "{}", message(&closed));
    assert!(second.calls().iter().all(|call| !call.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_trusted_fallback_gets_the_token() {
    let (first, second) = (hub().await, hub().await);
    for hub in [&first, &second] {
        hub.token("hf_both");
    }
    let mirror =
        Mirror::of(&first).set("upstream.fallbacks", second.url()).set("upstream.trusted_fallbacks", second.url()).start().await;
    first.down().await;
    let answer = mirror.ask("GET", INFO, &["Authorization: Bearer hf_both"]).await;
    assert_eq!(answer.status, 200, "{}", message(&answer));
    assert!(second.calls().iter().all(|call| call.listener == fake_hub::Listener::Cdn
        || call.path.ends_with("/auth-check")
        || call.token.as_deref() == Some("hf_both")));
    assert!(second.leaks().is_empty());
}

#[tokio::test]
async fn a_fallbacks_no_is_not_the_hubs() {
    let (first, second) = (hub().await, FakeHub::start().await);
    let mirror = Mirror::of(&first).set("upstream.fallbacks", second.url()).start().await;
    // The first one's no is final.
    let missing = mirror.get("/api/models/acme/none").await;
    assert!((400..500).contains(&missing.status), "{}", missing.status);
    assert_eq!(second.calls().len(), 0);

    first.down().await;
    for target in [INFO, FILE, LARGE] {
        let answer = mirror.get(target).await;
        assert_eq!(answer.status, 503, "{target}: {}", message(&answer));
        assert_eq!(answer.header("x-error-code"), None);
    }
    assert!(second.calls().len() >= 2, "it was asked");
}

#[tokio::test]
async fn a_fallback_does_not_open_what_the_hub_had_closed() {
    let (first, second) = (FakeHub::start().await, hub().await);
    first.model("acme/m").file("config.json", "{}").file("other.json", "[]").lfs("w.bin", noise(5, 3 << 20)).commit("first");
    first.token("hf_owner");
    first.model("acme/m").gated().grant("hf_owner");
    let mirror = Mirror::of(&first).set("upstream.fallbacks", second.url()).set("freshness.access", "0s").start().await;
    let owner = mirror.ask("GET", LARGE, &["Authorization: Bearer hf_owner"]).await;
    assert_eq!(owner.status, 200, "{}", message(&owner));

    // The fallback gives the repo to everybody; what is kept here is not.
    first.down().await;
    for target in [LARGE, FILE, INFO] {
        let answer = mirror.get(target).await;
        if target == INFO {
            // Facts of gated repos are open on the Hub as well.
            continue;
        }
        assert_ne!(answer.status, 200, "{target}");
    }
    // Not even after its facts, which say `gated: false`, went through.
    assert_ne!(mirror.get(LARGE).await.status, 200);
}

#[tokio::test]
async fn a_proxy_from_the_environment_is_used() {
    let hub = hub().await;
    let proxy = ConnectProxy::start(None).await;
    let mirror = Mirror::of(&hub).env("HTTP_PROXY", &format!("http://{}", proxy.address())).start().await;
    assert_eq!(mirror.get(FILE).await.status, 200);
    assert_eq!(mirror.get(LARGE).await.status, 200);
    let asked = proxy.asked();
    for address in [hub.hub_address(), hub.cdn_address()] {
        assert!(asked.contains(&address.to_string()), "{asked:?}");
    }
}

#[tokio::test]
async fn no_proxy_names_exceptions() {
    let hub = hub().await;
    let proxy = ConnectProxy::start(None).await;
    let url = format!("http://{}", proxy.address());
    let mirror =
        Mirror::of(&hub).env("http_proxy", &url).env("NO_PROXY", &format!("x.example,{}", hub.hub_address())).start().await;
    assert_eq!(mirror.get(LARGE).await.status, 200);
    let asked = proxy.asked();
    assert!(asked.contains(&hub.cdn_address().to_string()), "{asked:?}");
    assert!(!asked.contains(&hub.hub_address().to_string()), "{asked:?}");

    let off = Mirror::of(&hub).env("ALL_PROXY", &url).set("upstream.proxy", "none").start().await;
    let before = proxy.asked().len();
    assert_eq!(off.get(FILE).await.status, 200);
    assert_eq!(proxy.asked().len(), before);
}

#[tokio::test]
async fn a_proxy_may_want_credentials_and_errors_name_it_without_them() {
    let hub = hub().await;
    // user:secret
    let proxy = ConnectProxy::start(Some("Basic dXNlcjpzZWNyZXQ=")).await;
    let right = format!("http://user:secret@{}", proxy.address());
    // The configuration wins over the environment.
    let mirror = Mirror::of(&hub).set("upstream.proxy", &right).env("HTTP_PROXY", "http://127.0.0.1:1").start().await;
    assert_eq!(mirror.get(FILE).await.status, 200);
    assert!(!mirror.log().contains("secret"));

    let wrong = format!("http://user:mistaken@{}", proxy.address());
    let mirror = Mirror::of(&hub).set("upstream.proxy", &wrong).start().await;
    let answer = mirror.get(FILE).await;
    let said = message(&answer);
    assert_eq!(answer.status, 503, "{said}");
    assert!(said.contains(&proxy.address().to_string()) && said.contains("407"), "{said}");
    assert!(!mirror.log().contains("mistaken") && !said.contains("mistaken"));
}

#[tokio::test]
async fn a_429_is_heeded_and_not_asked_again() {
    let hub = hub().await;
    hub.model("acme/n").file("config.json", "{}").commit("first");
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get(FILE).await.status, 200, "the repo is known to be open");
    let fault = hub.fault("/api/models/acme/n").times(1).status(429, &[("retry-after", "300")]);
    let refused = mirror.get("/api/models/acme/n").await;
    assert_eq!(refused.status, 429, "{}", message(&refused));
    assert_eq!(fault.hits(), 1);
    let before = hub.api_calls().len();
    for target in ["/api/models/acme/n", INFO, "/api/models/acme/m/refs"] {
        let answer = mirror.get(target).await;
        assert_eq!(answer.status, 429, "{target}");
        let wait: u64 = answer.header("retry-after").and_then(|v| v.parse().ok()).expect("how long to wait");
        assert!((200..=300).contains(&wait), "{wait}");
    }
    assert_eq!(hub.api_calls().len(), before, "the Hub was asked although it had asked for silence");
    // Files are counted apart.
    assert_eq!(mirror.get(LARGE).await.status, 200);
}

/// How long an answer says to wait, in seconds.
fn wait_of(answer: &Response) -> u64 {
    answer.header("retry-after").and_then(|v| v.parse().ok()).expect("how long to wait")
}

#[tokio::test]
async fn a_cdn_that_asks_for_rest_is_left_alone_by_later_requests_too() {
    for (status, most) in [(429, 300), (503, 60)] {
        let hub = hub().await;
        hub.model("acme/n").lfs("v.bin", noise(6, 2 << 20)).lfs("kept.bin", noise(7, 1 << 20)).commit("first");
        hub.model("acme/n").lfs("x.bin", noise(8, 1 << 20)).lfs("y.bin", noise(9, 1 << 20)).commit("second");
        let mirror = Mirror::start(&hub).await;
        assert_eq!(mirror.get("/acme/n/resolve/main/kept.bin").await.status, 200);
        let first = hub.fault("w.bin").on_cdn().times(1).status(status, &[("Retry-After", "300")]);
        // Of a 503 several objects must say so: one may be its own trouble.
        let mut asked = vec![LARGE];
        if status == 503 {
            for (name, target) in [("x.bin", "/acme/n/resolve/main/x.bin"), ("y.bin", "/acme/n/resolve/main/y.bin")] {
                hub.fault(name).on_cdn().times(1).status(status, &[("Retry-After", "300")]);
                asked.push(target);
            }
        }
        for target in asked {
            let answer = mirror.get(target).await;
            assert_eq!(answer.status, status, "{}", message(&answer));
        }
        assert_eq!(first.hits(), 1);
        let before = hub.cdn_calls().len();
        // The same object, another one of that host, and a range of it: told at once, and truly.
        let asked = [
            mirror.get(LARGE).await,
            mirror.get("/acme/n/resolve/main/v.bin").await,
            mirror.get_range("/acme/n/resolve/main/v.bin", "bytes=5-9").await,
        ];
        for answer in asked {
            assert_eq!(answer.status, status, "{}", message(&answer));
            assert!(!message(&answer).is_empty());
            let wait = wait_of(&answer);
            assert!(most / 2 < wait && wait <= most, "{wait}");
        }
        assert_eq!(hub.cdn_calls().len(), before, "it was asked although it had asked for rest");
        assert!(mirror.metrics().await.of("dingospeed_upstream_paced_total{how=\"refused\",kind=\"cdn\"}") > 0.0);
        // What lies elsewhere, and what is kept, is served; so are facts.
        assert_eq!(mirror.get(FILE).await.status, 200);
        assert_eq!(mirror.get("/acme/n/resolve/main/kept.bin").await.status, 200);
        assert_eq!(mirror.head(LARGE).await.status, 200);
    }
}

#[tokio::test]
async fn one_object_that_is_unavailable_does_not_close_its_cdn() {
    let hub = hub().await;
    hub.model("acme/n").lfs("v.bin", noise(6, 2 << 20)).lfs("u.bin", noise(7, 1 << 20)).commit("first");
    let fault = hub.fault("w.bin").on_cdn().status(503, &[("Retry-After", "60")]);
    let mirror = Mirror::start(&hub).await;
    for other in ["/acme/n/resolve/main/v.bin", "/acme/n/resolve/main/u.bin"] {
        let answer = mirror.get(LARGE).await;
        assert_eq!(answer.status, 503, "{}", message(&answer));
        assert_eq!(fault.hits(), 1, "it is left alone, also under another signature");
        let answer = mirror.get(other).await;
        assert_eq!(answer.status, 200, "{}", message(&answer));
    }
}

#[tokio::test]
async fn a_short_rest_of_a_cdn_is_only_a_pause() {
    let hub = hub().await;
    hub.model("acme/n").lfs("v.bin", noise(6, 2 << 20)).commit("first");
    let mirror = Mirror::start(&hub).await;
    let fault = hub.fault("w.bin").on_cdn().times(1).status(429, &[("Retry-After", "2")]);
    let later = async {
        while fault.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        mirror.get("/acme/n/resolve/main/v.bin").await
    };
    let (first, later) = tokio::join!(mirror.get(LARGE), later);
    assert!(first.status == 200 && first.body == noise(5, 3 << 20), "{} {}", first.status, message(&first));
    assert!(later.status == 200 && later.body == noise(6, 2 << 20), "{} {}", later.status, message(&later));
}

#[tokio::test]
async fn the_bytes_come_from_the_next_upstream_while_a_cdn_rests() {
    let (first, second) = (hub().await, hub().await);
    let mirror = Mirror::of(&first).set("upstream.fallbacks", second.url()).start().await;
    let fault = first.fault("w.bin").on_cdn().status(429, &[("Retry-After", "300")]);
    let answer = mirror.get(LARGE).await;
    assert!(answer.status == 200 && answer.body == noise(5, 3 << 20), "{} {}", answer.status, message(&answer));
    assert_eq!(fault.hits(), 1);
    assert!(second.cdn_bytes() > 0);
}

#[tokio::test]
async fn one_repo_that_is_unavailable_for_a_while_is_not_asked_again_and_others_are() {
    let hub = hub().await;
    hub.model("acme/n").file("config.json", "{}").commit("first");
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get(FILE).await.status, 200);
    let theirs = "/acme/n/resolve/main/config.json";
    let fault = hub.fault(theirs).on_hub().times(1).status(503, &[("Retry-After", "40")]);
    assert_eq!(mirror.get(theirs).await.status, 503);
    assert_eq!(fault.hits(), 1);
    let before = hub.resolver_calls().len();
    let again = mirror.get(theirs).await;
    assert_eq!(again.status, 503, "{}", message(&again));
    assert!((20..=40).contains(&wait_of(&again)), "{}", wait_of(&again));
    assert_eq!(hub.resolver_calls().len(), before);
    assert_eq!(mirror.get(LARGE).await.status, 200);
}

#[tokio::test]
async fn an_exhausted_rate_limit_is_a_retry_after() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    assert_eq!(mirror.get(FILE).await.status, 200, "the repo is known to be open");
    hub.fault("/api/models/acme/m").times(1).status(429, &[("RateLimit", "\"api\";r=0;t=200")]);
    assert_eq!(mirror.get("/api/models/acme/m/refs").await.status, 429);
    let before = hub.api_calls().len();
    let answer = mirror.get(INFO).await;
    assert_eq!(answer.status, 429, "{}", message(&answer));
    assert!((100..=200).contains(&wait_of(&answer)), "{}", wait_of(&answer));
    assert_eq!(hub.api_calls().len(), before);
}

#[tokio::test]
async fn a_budget_spares_the_hub_before_it_refuses() {
    let hub = hub().await;
    let mirror = Mirror::of(&hub).set("upstream.api_calls", 8).set("freshness.revision", "0s").start().await;
    let mut refused = 0;
    for n in 0..20 {
        let answer = mirror.get(&format!("/api/models?search=x{n}")).await;
        assert!(answer.status == 200 || answer.status == 429, "{}", answer.status);
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some());
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert!(hub.api_calls().len() <= 8, "{}", hub.api_calls().len());
    assert_eq!(mirror.metrics().await.of("dingospeed_upstream_paced_total{how=\"refused\",kind=\"api\"}"), f64::from(refused));
}
