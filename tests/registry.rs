//! The registry interface of GGUF repos (`/v2/`) and the other calls of llama.cpp, node-llama-cpp and Ollama, replayed.

use fake_hub::{FakeHub, Memory, noise, sha256_of};
use serde_json::Value;

use crate::harness::{Mirror, Response};

const LATEST: &str = "/v2/acme/gguf/manifests/latest";
const LLAMA: &[&str] = &["User-Agent: llama-cpp"];
/// Ollama's, `server/images.go`.
const OLLAMA: &[&str] =
    &["Accept: application/vnd.docker.distribution.manifest.v2+json", "User-Agent: ollama/0.12.0 (amd64 linux) Go/go1.24"];
const Q4: &str = "tiny.Q4_K_M.gguf";
const Q8: &str = "tiny.Q8_0.gguf";

async fn hub() -> FakeHub {
    let hub = FakeHub::start().await;
    hub.model("acme/gguf")
        .file("README.md", "# Tiny\n")
        .lfs(Q8, noise(8, 2_000_000))
        .lfs(Q4, noise(4, 3_500_000))
        .commit("quantized");
    hub
}

/// The digests of a manifest: model, template, params, config.
fn digests(manifest: &Response) -> Vec<(String, u64)> {
    assert_eq!(manifest.status, 200, "{}", manifest.text());
    let manifest = manifest.json();
    let of = |part: &Value| (part["digest"].as_str().unwrap_or_default().to_owned(), part["size"].as_u64().unwrap_or_default());
    let layers = manifest["layers"].as_array().expect("layers");
    layers.iter().chain([&manifest["config"]]).map(of).collect()
}

fn blob(digest: &str) -> String {
    format!("/v2/acme/gguf/blobs/{digest}")
}

#[tokio::test]
async fn a_manifest_names_the_file_and_is_asked_once() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    let first = mirror.ask("GET", LATEST, LLAMA).await;
    assert_eq!((first.status, first.json()["ggufFile"]["rfilename"].as_str()), (200, Some(Q4)), "{}", first.text());
    assert!(!first.text().contains("xetHash"), "{}", first.text());
    // Whoever asks after, the answer serves llama.cpp too.
    let again = mirror.ask("GET", LATEST, OLLAMA).await;
    assert_eq!(first.body, again.body);
    assert_eq!(hub.asked("manifests/latest"), 1);

    for (tag, file) in [("Q8_0", Q8), ("q8_0", Q8), ("Q4_K_M", Q4)] {
        let manifest = mirror.ask("GET", &format!("/v2/acme/gguf/manifests/{tag}"), LLAMA).await;
        assert_eq!(manifest.json()["ggufFile"]["rfilename"], file, "{tag}");
    }
    // No such quantization, no GGUF at all, no repo: in the Hub's words.
    hub.model("acme/plain").file("config.json", "{}").commit("first");
    for (target, status) in [
        ("/v2/acme/gguf/manifests/Q2_K", 400),
        ("/v2/acme/plain/manifests/latest", 400),
        ("/v2/acme/none/manifests/latest", 401),
        ("/v2/acme/gguf/manifests/a%20b", 400),
        ("/v2/acme/gguf/tags/list", 404),
        ("/v2/", 404),
    ] {
        assert_eq!(mirror.ask("GET", target, LLAMA).await.status, status, "{target}");
    }
    assert!(mirror.ask("GET", "/v2/acme/none/manifests/latest", LLAMA).await.header("www-authenticate").is_some());
}

/// An old name without an owner leads to its repo here as everywhere.
#[tokio::test]
async fn a_one_word_name_has_a_manifest_and_layers() {
    let hub = hub().await;
    hub.rename("gguf", "acme/gguf");
    let mirror = Mirror::start(&hub).await;
    let layers = digests(&mirror.ask("GET", "/v2/gguf/manifests/latest", LLAMA).await);
    for (digest, size) in &layers {
        let layer = mirror.get(&format!("/v2/gguf/blobs/{digest}")).await;
        assert_eq!((layer.status, layer.body.len() as u64), (200, *size), "{digest}");
    }
    assert_eq!(mirror.ask("GET", LATEST, LLAMA).await.status, 200);
    assert_eq!(hub.asked("manifests/latest"), 2, "the redirect and the answer, once for both names");
}

/// Ollama's `pull`, by its source: the manifest; per layer a HEAD for the length, a GET whose `Location` it takes and whose body
/// it leaves, and ranges from there; then the hash.
#[tokio::test]
async fn ollama_pulls_a_model_in_ranges() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    let layers = digests(&mirror.ask("GET", LATEST, OLLAMA).await);
    assert_eq!(layers.len(), 4);
    for (digest, size) in &layers {
        let head = mirror.ask("HEAD", &blob(digest), OLLAMA).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some(&*size.to_string())), "{digest}");
        let mut connection = mirror.connect().await;
        connection.ask("GET", &blob(digest), OLLAMA).await;
        let (status, headers) = connection.head("GET").await.expect("an answer");
        drop(connection);
        let location = headers.get("location").and_then(|value| value.to_str().ok()).expect("a Location").to_owned();
        assert_eq!(status, 200);
        let mut whole = Vec::new();
        for start in (0..*size).step_by(1_000_000) {
            let range = format!("bytes={start}-{}", (start + 1_000_000).min(*size) - 1);
            let part = mirror.get_range(&location, &range).await;
            assert!(part.status == 206 || (part.status == 200 && *size < 1000), "{digest} {range}: {}", part.status);
            whole.extend_from_slice(&part.body);
        }
        assert_eq!(format!("sha256:{}", sha256_of(&*Memory::holding(whole))), *digest);
    }
    hub.wait_idle().await;
    let sizes: u64 = layers.iter().map(|(_, size)| size).sum();
    assert!(hub.cdn_bytes() <= sizes, "{} bytes for {sizes}: a block came twice", hub.cdn_bytes());
    let unknown = mirror.get(&blob(&format!("sha256:{}", "0".repeat(64)))).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(mirror.get(&blob("sha256:1234")).await.status, 400);
    assert!(hub.leaks().is_empty());
}

#[tokio::test]
async fn what_was_pulled_is_pulled_again_while_the_hub_is_down() {
    let hub = hub().await;
    let mut mirror = Mirror::of(&hub).set("freshness.revision", "0s").start().await;
    let manifest = mirror.ask("GET", LATEST, LLAMA).await;
    let mut bodies = Vec::new();
    for (digest, _) in digests(&manifest) {
        bodies.push((digest.clone(), mirror.get(&blob(&digest)).await.body));
    }
    let file = mirror.get(&format!("/acme/gguf/resolve/main/{Q4}?download=true")).await;
    hub.down().await;
    mirror.restart().await;
    assert_eq!(mirror.ask("GET", LATEST, LLAMA).await.body, manifest.body);
    for (digest, body) in bodies {
        let again = mirror.get(&blob(&digest)).await;
        assert_eq!((again.status, again.body == body), (200, true), "{digest}: {}", again.status);
    }
    assert_eq!(mirror.get(&format!("/acme/gguf/resolve/main/{Q4}?download=true")).await.body, file.body);
}

#[tokio::test]
async fn a_gated_model_has_its_gate_here_too() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/gguf").lfs(Q4, noise(4, 300_000)).commit("first").gated();
    repo.grant("hf_member");
    hub.token("hf_stranger");
    let mirror = Mirror::start(&hub).await;
    let member = ["Authorization: Bearer hf_member", "User-Agent: llama-cpp"];
    let stranger = ["Authorization: Bearer hf_stranger", "User-Agent: llama-cpp"];
    let layers = digests(&mirror.ask("GET", LATEST, &member).await);
    for (digest, size) in &layers {
        let got = mirror.ask("GET", &blob(digest), &member).await;
        assert_eq!((got.status, got.body.len() as u64), (200, *size), "{digest}");
    }
    // Now that the mirror has it all.
    for target in layers.iter().map(|(digest, _)| blob(digest)).chain([LATEST.to_owned()]) {
        for (headers, status) in [(LLAMA, 401), (&stranger[..], 403)] {
            let answer = mirror.ask("GET", &target, headers).await;
            assert_eq!((answer.status, answer.header("x-error-code")), (status, Some("GatedRepo")), "{target}");
        }
    }
}

#[tokio::test]
async fn a_layer_that_is_not_of_its_hash_is_not_passed_on() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    let (digest, _) = digests(&mirror.ask("GET", LATEST, LLAMA).await).remove(1);
    hub.fault("/layers/").on_cdn().times(1).short(5);
    assert_eq!(mirror.get(&blob(&digest)).await.status, 502);
    assert_eq!(mirror.get(&blob(&digest)).await.status, 200);
}

/// llama.cpp's `-hf` (common/hf-cache.cpp): refs, the tree at the commit, then HEAD and GET by commit, and a resume.
#[tokio::test]
async fn llama_cpp_finds_and_resumes_a_file() {
    let hub = hub().await;
    let mirror = Mirror::start(&hub).await;
    let agent = ["User-Agent: llama-cpp/b6000"];
    let refs = mirror.ask("GET", "/api/models/acme/gguf/refs", &agent).await.json();
    let branch = refs["branches"].as_array().expect("branches").iter().find(|branch| branch["name"] == "main").expect("main");
    let commit = branch["targetCommit"].as_str().expect("a commit").to_owned();
    let tree = mirror.ask("GET", &format!("/api/models/acme/gguf/tree/{commit}?recursive=true"), &agent).await.json();
    let entry = tree.as_array().expect("entries").iter().find(|entry| entry["path"] == Q4).expect("the file");
    let (oid, size) = (entry["lfs"]["oid"].as_str().expect("a hash"), entry["size"].as_u64().expect("a size"));

    let target = format!("/acme/gguf/resolve/{commit}/{Q4}");
    let head = mirror.ask("HEAD", &target, &agent).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(&*size.to_string())));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    let etag = head.header("etag").expect("an ETag").to_owned();
    assert_eq!(etag.trim_matches('"'), oid);
    // Broken off in the middle, then continued as it does: by the length of the part file.
    let mut connection = mirror.connect().await;
    connection.ask("GET", &target, &agent).await;
    connection.head("GET").await.expect("an answer");
    let had = connection.read_body(1_200_000).await;
    drop(connection);
    let rest = mirror.get_range(&target, &format!("bytes={had}-")).await;
    assert_eq!((rest.status, rest.body.len() as u64), (206, size - had));
    assert_eq!(rest.header("etag"), Some(&*etag));
    assert!(rest.body == noise(4, 3_500_000)[had as usize..], "the rest is the rest");
}
