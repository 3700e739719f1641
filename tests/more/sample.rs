//! One repo with every kind of file, and what a client must have made of it.

use fake_hub::{Content, FakeHub, Listener, Memory, Repo, noise, sha256_of};
use serde_json::{Map, Value, json};

pub(crate) const ID: &str = "acme/sample";
/// Text, names that need escapes, nothing, LFS of one block and of some.
pub(crate) const PATHS: [&str; 6] =
    ["config.json", "a name with spaces.txt", "empty.txt", "ünïcode/模型.md", "onnx/small.onnx", "model.safetensors"];
const SIZES: [usize; 2] = [70_000, 3 * 1024 * 1024 + 777];

/// Fills a repo of a hub that lists three entries to a page.
pub(crate) fn fill(repo: &Repo) {
    repo.file("config.json", format!("{{\"model_type\": \"tiny\", \"pad\": \"{}\"}}\n", "0123456789".repeat(20)))
        .file("a name with spaces.txt", "spaces\n".repeat(30))
        .file("ünïcode/模型.md", "names are bytes\n".repeat(20))
        .file("empty.txt", "")
        .lfs("onnx/small.onnx", noise(21, SIZES[0]))
        .lfs("model.safetensors", noise(22, SIZES[1]))
        .commit("all of it");
}

pub(crate) async fn hub() -> FakeHub {
    FakeHub::builder().page_len(3, 2).start().await.expect("a hub on free ports")
}

/// path -> what a client should have: sha256, size, and the name of its cached copy.
pub(crate) fn files(repo: &Repo) -> Value {
    let one = |path: &&str| {
        let content = repo.content(path);
        (path.to_string(), json!({ "sha256": sha256_of(&*content), "size": content.size(), "blob": repo.oid(path) }))
    };
    Value::Object(PATHS.iter().map(one).collect::<Map<_, _>>())
}

/// path -> the sha256 of bytes 10 to 99, of the files that have more.
pub(crate) fn parts(repo: &Repo) -> Value {
    let part = |content: &dyn Content| sha256_of(&*Memory::holding(content.read(10, 90)));
    let long = PATHS.iter().filter(|path| repo.content(path).size() > 100);
    Value::Object(long.map(|path| (path.to_string(), json!(part(&*repo.content(path))))).collect::<Map<_, _>>())
}

/// All paths, as listings sort them.
pub(crate) fn listed() -> Vec<String> {
    let mut paths: Vec<String> = PATHS.iter().map(|path| path.to_string()).collect();
    paths.sort();
    paths
}

/// Nobody spoke Xet, no token left the Hub, nothing was written, and each byte came from upstream once at most.
pub(crate) fn check_upstream(hub: &FakeHub, bytes_max: u64) {
    assert_eq!(hub.asked("xet-read-token"), 0, "a client asked for a Xet token");
    assert!(hub.cas_calls().is_empty() && hub.leaks().is_empty() && hub.writes().is_empty());
    assert!(hub.cdn_bytes() <= bytes_max, "{} bytes of the CDN for {bytes_max}", hub.cdn_bytes());
}

pub(crate) const LFS_LEN: u64 = (SIZES[0] + SIZES[1]) as u64;

/// A second user must cost upstream next to nothing: what is counted from `before` on are questions of branches.
pub(crate) fn check_second(hub: &FakeHub, before: usize) {
    let calls = hub.calls().split_off(before);
    let told: Vec<String> = calls.iter().map(|call| format!("{} {}", call.method, call.target())).collect();
    let is_file = |target: &String| target.contains("/resolve/");
    assert!(calls.iter().all(|call| call.listener == Listener::Hub) && !told.iter().any(is_file), "a second user cost {told:#?}");
}
