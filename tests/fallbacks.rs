//! What other upstreams than the first say: used while that is down, and not believed beyond it.

use fake_hub::{FakeHub, Listener, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Mirror, Response};

const MEMBER: &str = "Authorization: Bearer hf_member";

fn message(response: &Response) -> String {
    response.header("x-error-message").unwrap_or_default().to_owned()
}

/// A mirror whose edge loses the `Link` header: one page of a listing, and no word of the next.
async fn mirror_without_links(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let page = page.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    let head = String::from_utf8_lossy(&buffer[..len]).into_owned();
                    let (status, kind, body) = match () {
                        () if head.contains("/tree/") => ("200 OK", "application/json", page.as_str()),
                        () if head.contains("/auth-check") => ("200 OK", "text/plain", "OK"),
                        () => ("404 Not Found", "text/plain", "no"),
                    };
                    let len = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nETag: W/\"1\"\r\nContent-Length: {len}\r\n\r\n{body}"
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_small_file_comes_from_the_next_upstream_while_the_first_is_busy() {
    for status in [429, 503] {
        let (first, second) = (FakeHub::start().await, FakeHub::start().await);
        for hub in [&first, &second] {
            hub.model("acme/model").file("a.txt", "small").commit("first");
        }
        let mirror = Mirror::of(&first).set("upstream.fallbacks", second.url()).start().await;
        assert_eq!(mirror.head("/acme/model/resolve/main/a.txt").await.status, 200);
        first.fault("acme/model").on_hub().status(status, &[("Retry-After", "300")]);
        let answer = mirror.get("/acme/model/resolve/main/a.txt").await;
        assert_eq!((answer.status, answer.text().as_ref()), (200, "small"), "{}", message(&answer));
    }
}

#[tokio::test]
async fn a_fallbacks_listing_is_not_the_commits() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/model").file("a.txt", "a").file("b.txt", "b").commit("first");
    let sha = repo.sha();
    let page = format!(r#"[{{"type":"file","oid":"{}","size":1,"path":"a.txt"}}]"#, repo.oid("a.txt"));
    let fallback = mirror_without_links(page).await;
    let mut mirror = Mirror::of(&hub).set("upstream.fallbacks", &fallback).set("freshness.revision", "0s").start().await;
    let tree = format!("/api/models/acme/model/tree/{sha}?recursive=true&expand=false");
    let names = |answer: &Response| -> Vec<String> {
        assert_eq!(answer.status, 200, "{}", message(answer));
        assert_eq!(answer.header("x-second-hand"), None);
        let entries = answer.json();
        let entries = entries.as_array().expect("a listing").iter();
        entries.map(|entry| entry["path"].as_str().unwrap_or_default().to_owned()).collect()
    };

    hub.down().await;
    assert_eq!(names(&mirror.get(&tree).await), ["a.txt"]);
    // Kept, for as long as nobody says more: also across a restart.
    mirror.restart().await;
    assert_eq!(names(&mirror.get(&tree).await), ["a.txt"]);

    hub.up().await;
    mirror.restart().await;
    assert_eq!(mirror.get(&format!("/acme/model/resolve/{sha}/b.txt")).await.text(), "b");
    assert_eq!(mirror.get("/acme/model/resolve/main/b.txt").await.text(), "b");
    assert_eq!(names(&mirror.get(&tree).await), ["a.txt", "b.txt"]);
    let listed = mirror.get(&format!("/api/models/acme/model/tree/{sha}?expand=false")).await;
    assert_eq!(names(&listed), ["a.txt", "b.txt"]);
    // And so it stays, with the Hub down as well.
    hub.down().await;
    mirror.restart().await;
    assert_eq!(names(&mirror.get(&tree).await), ["a.txt", "b.txt"]);
    assert_eq!(mirror.get(&format!("/acme/model/resolve/{sha}/b.txt")).await.text(), "b");
    assert_eq!(mirror.head(&format!("/acme/model/resolve/{sha}/absent.txt")).await.status, 404);
}

#[tokio::test]
async fn a_fallback_opens_no_bytes_by_naming_their_hash() {
    let hub = FakeHub::start().await;
    let bytes = noise(3, 90_000);
    hub.model("acme/gated").lfs("w.bin", &bytes).commit("first").gated().grant("hf_member");
    let fallback = FakeHub::start().await;
    let named = fallback.model("evil/any").lfs("x.bin", &bytes).commit("first");
    // It never has the bytes, or has others.
    let absent = fallback.fault("evil/any").on_cdn().status(404, &[]);
    let mut mirror = Mirror::of(&hub).set("upstream.fallbacks", fallback.url()).set("upstream.patience", "1s").start().await;
    assert_eq!(mirror.ask("GET", "/acme/gated/resolve/main/w.bin", &[MEMBER]).await.status, 200);

    hub.down().await;
    let at_commit = format!("/evil/any/resolve/{}/x.bin", named.sha());
    for target in ["/evil/any/resolve/main/x.bin", &at_commit] {
        let answer = mirror.get(target).await;
        assert_eq!(answer.status, 502, "{target}: {}", message(&answer));
        assert!(answer.body.len() < 1000);
    }
    absent.lift();
    let others = fallback.fault("evil/any").on_cdn().longer(1);
    others.lift();
    mirror.restart().await;
    // Nor by what was written down of it.
    let again = fallback.fault("evil/any").on_cdn().status(403, &[]);
    assert_eq!(mirror.get(&at_commit).await.status, 502);
    again.lift();

    // Once it gives a piece, it may as well have the rest from here.
    fallback.clear_log();
    let answer = mirror.get(&at_commit).await;
    assert_eq!((answer.status, answer.body == bytes), (200, true), "{}", message(&answer));
    assert!(fallback.cdn_bytes() < 10_000, "{} bytes were fetched again", fallback.cdn_bytes());
}

#[tokio::test]
async fn a_fallback_that_has_part_of_an_object_is_read_past_what_others_brought() {
    let hub = FakeHub::start().await;
    let bytes = noise(3, 3 << 20);
    hub.model("acme/gated").lfs("w.bin", &bytes).commit("first").gated().grant("hf_member");
    let fallback = FakeHub::start().await;
    fallback.model("other/any").lfs("x.bin", &bytes).commit("first");
    let mirror = Mirror::of(&hub)
        .set("upstream.fallbacks", fallback.url())
        .set("upstream.patience", "1s")
        .set("fetch.run_size", "1MiB")
        .start()
        .await;
    // A part of it is here, through the gated repo.
    let part = mirror.ask("GET", "/acme/gated/resolve/main/w.bin", &[MEMBER, "Range: bytes=0-99"]).await;
    assert_eq!(part.status, 206);
    hub.wait_idle().await;
    hub.down().await;
    let refused = fallback.fault("other/any").on_cdn().status(404, &[]);
    let answer = mirror.get_range("/other/any/resolve/main/x.bin", "bytes=0-99").await;
    assert!(answer.status >= 429, "{} {:?}", answer.status, answer.text());
    refused.lift();
    let answer = mirror.get("/other/any/resolve/main/x.bin").await;
    assert_eq!((answer.status, answer.body == bytes), (200, true), "{}", message(&answer));
}

#[tokio::test]
async fn what_others_bring_meanwhile_is_not_a_fallbacks() {
    let hub = FakeHub::start().await;
    let bytes = noise(3, 90_000);
    hub.model("corp/private").lfs("w.bin", &bytes).commit("first").private().grant("hf_member");
    let fallback = FakeHub::start().await;
    fallback.model("evil/any").lfs("x.bin", &bytes).commit("first");
    let mirror = Mirror::of(&hub).set("upstream.fallbacks", fallback.url()).start().await;
    // The Hub is well but for this repo. The fallback names what it does not have, and waits.
    hub.fault("evil/any").on_hub().status(503, &[]);
    let waits = fallback.fault("evil/any").on_cdn().hang_before_head();
    let mut connection = mirror.connect().await;
    connection.ask("GET", "/evil/any/resolve/main/x.bin", &[]).await;
    fallback.wait_calls("the bytes are asked for", |calls| calls.iter().any(|call| call.listener == Listener::Cdn)).await;
    let read = mirror.ask("GET", "/corp/private/resolve/main/w.bin", &[MEMBER]).await;
    assert_eq!((read.status, read.body == bytes), (200, true), "{}", message(&read));
    let told = connection.response("GET").await;
    assert!(told.body.len() < 1000, "{} bytes", told.body.len());
    assert!(waits.hits() > 0);
}

#[tokio::test]
async fn what_a_fallback_gave_is_there_when_nobody_can_be_asked() {
    let (hub, fallback) = (FakeHub::start().await, FakeHub::start().await);
    let bytes = noise(7, 2 << 20);
    fallback.model("acme/open").file("a.txt", "abc").lfs("w.bin", &bytes).commit("first");
    let repos = tempfile::tempdir().expect("a directory");
    hub.down().await;
    let mut mirror = Mirror::of(&hub).repos(repos.path()).set("upstream.fallbacks", fallback.url()).start().await;
    for _ in 0..2 {
        let answer = mirror.get("/acme/open/resolve/main/w.bin").await;
        assert_eq!((answer.status, answer.body == bytes), (200, true), "{}", message(&answer));
    }
    assert_eq!(mirror.get("/acme/open/resolve/main/a.txt").await.text(), "abc");
    mirror.stop().await;
    // The Hub has said that it is open to all, and nothing else yet.
    hub.model("acme/open").file("a.txt", "abc").lfs("w.bin", &bytes).commit("first");
    hub.up().await;
    let mut mirror = Mirror::of(&hub).repos(repos.path()).start().await;
    assert_eq!(mirror.get("/api/models/acme/open/auth-check").await.status, 200);
    hub.fault("acme/open/resolve").on_hub().status(500, &[]);
    assert_eq!(mirror.get("/api/models/acme/open").await.status, 200);
    mirror.stop().await;
    let mirror = Mirror::of(&hub).repos(repos.path()).arg("--offline").start().await;
    let answer = mirror.get("/acme/open/resolve/main/w.bin").await;
    assert_eq!((answer.status, answer.body == bytes), (200, true), "{}", message(&answer));
}

#[tokio::test]
async fn an_upstream_that_says_the_hubs_name_means_itself() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").file("config.json", "{}").lfs("w.bin", noise(5, 70_000)).commit("first");
    for (asked, answer) in [
        ("models/acme/old/auth-check", "/api/models/acme/m/auth-check"),
        ("models/acme/old/revision", "/api/models/acme/m/revision/main"),
        ("acme/old/resolve", "/acme/m/resolve/main/w.bin"),
    ] {
        hub.fault(asked).on_hub().redirect_to(&format!("https://huggingface.co{answer}"));
    }
    let mirror = Mirror::start(&hub).await;
    let info = mirror.get("/api/models/acme/old/revision/main").await;
    assert_eq!((info.status, info.json()["id"].as_str()), (200, Some("acme/m")), "{}", message(&info));
    let file = mirror.get("/acme/old/resolve/main/w.bin").await;
    assert_eq!((file.status, file.body == noise(5, 70_000)), (200, true), "{}", message(&file));
    let other = Mirror::start(&hub).await;
    let file = other.get("/acme/old/resolve/main/w.bin").await;
    assert_eq!((file.status, file.body == noise(5, 70_000)), (200, true), "{}", message(&file));
}
