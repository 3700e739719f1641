//! The Python libraries on top of huggingface_hub: datasets 5, transformers 5, tokenizers, safetensors.

use fake_hub::{FakeHub, LFS_OVER};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mirror, Python};

const VENV: &str = "libraries";

fn user(mirror: &Mirror, folder: &TempDir, name: &str) -> Python {
    Python::new(VENV, mirror.url(), &folder.path().join(name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datasets_5_loads_at_once_and_streams() {
    let hub = FakeHub::start().await;
    let folder = TempDir::new().expect("a temporary directory");
    let mirror = Mirror::start(&hub).await;
    let made = folder.path().join("made");
    let ran = user(&mirror, &folder, "maker").run("load_dataset.py", &["make", &made.to_string_lossy()]).await;
    assert!(ran.ok, "{}{}", ran.stdout, ran.stderr);
    for name in ["rows", "lines"] {
        let repo = hub.dataset(&format!("acme/{name}")).file("README.md", "---\nlicense: mit\n---\n# A set\n");
        repo.directory(&made.join(name), LFS_OVER).expect("the files that were made");
    }
    // Parquet is LFS whatever its size, as in the template of `.gitattributes`.
    let wanted = json!({
        "rows": 40_000, "sum": 799_980_000, "columns": ["id", "noise", "text"], "streamed": 799_980_000, "taken": [20_000, 20_001],
        "lines": [1000, "line 999"], "by_file": 1000, "builder": "parquet", "configs": ["default"],
    });
    let load = async |name: &str| -> Value {
        user(&mirror, &folder, name).json("load_dataset.py", &["load", "acme/rows", "acme/lines"]).await
    };
    assert_eq!(load("first").await, wanted);
    hub.wait_idle().await;
    let (calls, bytes) = (hub.calls().len(), hub.cdn_bytes());
    assert_eq!(load("second").await, wanted);
    // Some twenty absent files are asked for each time: scripts, cards, old formats. The mirror remembers them.
    let calls: Vec<String> =
        hub.calls().split_off(calls).iter().map(|call| format!("{} {}", call.method, call.target())).collect();
    assert!(calls.len() <= 6 && !calls.iter().any(|call| call.contains(".py")), "a second user cost upstream {calls:#?}");
    assert_eq!(hub.cdn_bytes(), bytes);
    hub.down().await;
    assert_eq!(load("third, without the Hub").await, wanted);
    assert!(hub.leaks().is_empty() && hub.cas_calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transformers_5_tokenizers_and_safetensors_load_a_model() {
    let hub = FakeHub::start().await;
    hub.model("acme/mini").directory(&Python::demo_package(), LFS_OVER).expect("the demo's model");
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let load =
        async |name: &str| -> Value { user(&mirror, &folder, name).json("libraries.py", &["acme/mini", "hello world"]).await };
    let got = load("first").await;
    assert_eq!((&got["type"], &got["ids"]), (&json!("bert"), &json!([101, 7592, 2088, 102])), "{got}");
    assert_eq!((&got["tensors"], &got["listed"], &got["absent"]), (&json!(104), &json!(104), &json!("OSError")), "{got}");
    assert!(got["rust_ids"].as_array().is_some_and(|ids| ids.starts_with(&[json!(101), json!(7592), json!(2088), json!(102)])));
    hub.wait_idle().await;
    let bytes = hub.cdn_bytes();
    assert_eq!(load("second").await, got);
    assert_eq!(hub.cdn_bytes(), bytes, "a second user took bytes of the CDN");
    assert!(hub.leaks().is_empty() && hub.cas_calls().is_empty());
}
