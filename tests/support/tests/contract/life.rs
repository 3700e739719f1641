//! Starting, stopping, coming back, and the controls over HTTP.

use fake_hub::{FakeHub, Listener};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{get, send, try_send};

#[tokio::test]
async fn a_hub_goes_down_and_comes_back_on_its_ports() {
    let hub = FakeHub::start().await;
    hub.file("a/b", "x", "y");
    let url = format!("{}/api/models/a/b", hub.url());
    assert_eq!(get(&url).await.status, 200);
    let mut idle = TcpStream::connect(hub.hub_address()).await.unwrap();
    while hub.connections(Listener::Hub) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        hub.down().await;
        assert_eq!(hub.connections(Listener::Hub), 0);
        assert!(try_send("GET", &url, &[], b"").await.is_err());
        hub.up().await;
        assert_eq!(get(&url).await.status, 200);
    }
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0, "open connections are closed");
    hub.cdn_down().await;
    assert!(TcpStream::connect(hub.cdn_address()).await.is_err());
    assert_eq!(get(&url).await.status, 200);

    let ports = (hub.hub_address(), hub.cdn_address());
    hub.stop().await;
    assert!(TcpStream::connect(ports.0).await.is_err());
    let again = FakeHub::start_at(ports.0, ports.1).await.unwrap();
    assert_eq!(get(&url).await.status, 401, "another hub, with nothing in it");
    drop(again);
}

#[tokio::test]
async fn the_same_content_has_the_same_ids() {
    let (one, two) = (FakeHub::start().await, FakeHub::start().await);
    let fill = |hub: &FakeHub| hub.model("a/b").file("x", "y").lfs("w.bin", "z").commit("first").sha();
    assert_eq!(fill(&one), fill(&two));
    assert_eq!(fill(&one).len(), 40);
}

#[tokio::test]
async fn the_controls_over_http() {
    let hub = FakeHub::start().await;
    let url = hub.url();
    let control = async |path: &str, body: &str| {
        send("POST", &format!("{url}{path}"), &["content-type: application/json"], body.as_bytes()).await.status
    };
    assert_eq!(control("/__put", r#"{"repo":"a/b","path":"w.bin","text":"weights","lfs":true,"commit":"first"}"#).await, 200);
    let file = format!("{url}/a/b/resolve/main/w.bin");
    assert_eq!(get(get(&file).await.the("location")).await.text(), "weights");
    assert_eq!(control("/__fault", r#"{"match":"w.bin","listener":"hub","times":1,"kind":"status","code":502}"#).await, 200);
    assert_eq!((get(&file).await.status, get(&file).await.status), (502, 302));
    let gate = r#"{"match":"w.bin","listener":"cdn","kind":"hold","bytes":3,"name":"g"}"#;
    assert_eq!(control("/__fault", gate).await, 200);
    assert_eq!(control("/__release", r#"{"name":"g"}"#).await, 200);
    assert_eq!(control("/__release", r#"{"name":"g"}"#).await, 400);
    assert_eq!(control("/__fault", r#"{"match":"w.bin","kind":"nonsense"}"#).await, 400);
    let stats = get(&format!("{url}/__stats")).await.json();
    assert_eq!((&stats["cdn"]["requests"], &stats["cdn"]["bytes"]), (&1.into(), &7.into()));
    assert_eq!(stats["hub"]["requests"], 3);
    let log = get(&format!("{url}/__log")).await.json();
    assert_eq!((log[1]["file"].as_str(), log[1]["bytes"].as_u64()), (Some("a/b/w.bin"), Some(7)));
    let old = get(&file).await.the("location").to_owned();
    assert_eq!(control("/__clock", r#"{"seconds":7200}"#).await, 200);
    assert_eq!(get(&old).await.status, 403);
    assert_eq!(control("/__answer_all", r#"{"status":503}"#).await, 200);
    assert_eq!(get(&file).await.status, 503);
    assert_eq!(control("/__reset", "{}").await, 200);
    assert_eq!(get(&file).await.status, 302);
    assert_eq!(hub.calls().len(), 1, "controls are not logged");
}

#[tokio::test]
async fn a_broken_content_breaks_the_test() {
    struct Liar;
    impl fake_hub::Content for Liar {
        fn size(&self) -> u64 {
            10
        }
        fn read(&self, _: u64, _: usize) -> bytes::Bytes {
            panic!("no bytes here")
        }
    }
    let hub = FakeHub::start().await;
    let content: std::sync::Arc<dyn fake_hub::Content> = std::sync::Arc::new(Liar);
    hub.model("a/b").lfs_claiming("w.bin", content, &"0".repeat(64)).commit("first");
    let found = get(&format!("{}/a/b/resolve/main/w.bin", hub.url())).await;
    assert!(try_send("GET", found.the("location"), &[], b"").await.is_err());
    while hub.connections(Listener::Cdn) > 0 {
        tokio::task::yield_now().await;
    }
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(hub)));
    assert!(died.is_err());
}
