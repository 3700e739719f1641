//! The clients that take long to install, in front of the real binary: `make test-clients`, which installs them first.
//!
//! A test whose client is missing fails and says what to install; none is skipped. `make test` runs the quick ones (`tests/main.rs`).

#[path = "../harness/mod.rs"]
mod harness;

mod crates; // Rust's hf-hub 0.4 and 1.0, built here from their lock files
mod downloaders; // curl, wget and aria2c: resumes and many connections
mod git; // git clone, fetch and push
mod libraries; // datasets, transformers, tokenizers, safetensors
mod node; // @huggingface/hub, transformers.js, node-llama-cpp
mod sample; // what they all download

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use harness::{Ran, run_within};

/// How long a client may run.
const RUN_MAX: Duration = Duration::from_secs(180);

/// A program without the environment of this machine, with a home of its own.
fn client(program: impl AsRef<Path>, home: &Path) -> Command {
    std::fs::create_dir_all(home).expect("a home for the client");
    let mut command = Command::new(program.as_ref());
    command.env_clear().env("HOME", home).env("LANG", "C.UTF-8").current_dir(home);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Runs it; it must succeed.
async fn run(command: Command, what: &str) -> Ran {
    let ran = run_within(RUN_MAX, command, what).await;
    assert!(ran.ok, "{what} failed:\n{}{}", ran.stdout, ran.stderr);
    ran
}

/// Runs it and returns the JSON of its last line.
async fn json(command: Command, what: &str) -> Value {
    let ran = run(command, what).await;
    let last = ran.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{what} printed no JSON ({error}): {}", ran.stdout))
}
