//! `make demo` as a test: the same script, with the programs of this build.

use std::path::Path;

use fake_hub::{FakeHub, LFS_OVER};

use crate::harness::{Python, demo_python, program};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_comes_from_upstream_once() {
    let hub = FakeHub::start().await;
    let package = Python::demo_package();
    hub.model("sentence-transformers/all-MiniLM-L6-v2")
        .directory(&package, LFS_OVER)
        .unwrap_or_else(|error| panic!("read `{}`: {error}", package.display()));
    let program = program();
    let programs = program.parent().unwrap_or(Path::new(".")).to_string_lossy();

    let ran = demo_python("demo.py", &["--bin", &programs, "--hub", &hub.url()]).await;
    assert!(ran.ok, "the demo failed:\n{}{}", ran.stdout, ran.stderr);
    assert!(hub.cas_calls().is_empty() && hub.leaks().is_empty());
}
