//! `dingospeed serve` as a child process: started, asked, stopped, killed, started again on the same directory.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use fake_hub::FakeHub;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::client::{Connection, Response, Sum};
use super::confine::{CallFault, ReadOnly};

/// Returns the binary under test: that of this build, or another one named in `DINGOSPEED_BIN`.
pub(crate) fn program() -> PathBuf {
    let named = std::env::var_os("DINGOSPEED_BIN");
    named.map_or_else(|| env!("CARGO_BIN_EXE_dingospeed").into(), PathBuf::from)
}

/// How long the binary may take to say that it serves, and to end when asked: longer than `server.drain_timeout`, which is 30 s.
const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running mirror of a fake Hub, on a free port, with a directory of its own. Dropping it kills the process; if the test
/// is panicking, the mirror's log is printed.
pub(crate) struct Mirror {
    options: MirrorOptions,
    folder: TempDir,
    child: Option<Child>,
    url: String,
}

/// What a mirror is started with.
#[must_use]
#[derive(Clone)]
pub(crate) struct MirrorOptions {
    upstream: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    repos: Option<PathBuf>,
    files_max: Option<u64>,
    read_only: Option<ReadOnly>,
    call_faults: Vec<CallFault>,
}

impl MirrorOptions {
    /// Adds `--set key=value`.
    pub(crate) fn set(self, key: &str, value: impl std::fmt::Display) -> MirrorOptions {
        self.arg("--set").arg(format!("{key}={value}"))
    }

    /// Adds one argument after `serve`.
    pub(crate) fn arg(mut self, argument: impl Into<String>) -> MirrorOptions {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> MirrorOptions {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks this upstream instead of the Hub it was made for.
    pub(crate) fn upstream(mut self, url: &str) -> MirrorOptions {
        self.upstream = url.to_owned();
        self
    }

    /// Lets it open so many files and no more.
    pub(crate) fn few_files(mut self, count: u64) -> MirrorOptions {
        self.files_max = Some(count);
        self
    }

    /// Takes from it the means to write its directory, which must exist.
    pub(crate) fn read_only(mut self, how: ReadOnly) -> MirrorOptions {
        self.read_only = Some(how);
        self
    }

    /// Uses this directory instead of an empty one.
    pub(crate) fn repos(mut self, folder: &Path) -> MirrorOptions {
        self.repos = Some(folder.to_owned());
        self
    }

    /// Starts and waits until it serves; panics with its log if it does not.
    pub(crate) async fn start(self) -> Mirror {
        self.try_start().await.unwrap_or_else(|log| panic!("the mirror did not start; it said:\n{log}"))
    }

    /// Starts; the error is what a mirror that refused to serve had said.
    pub(crate) async fn try_start(self) -> Result<Mirror, String> {
        let mut mirror = Mirror {
            options: self,
            folder: tempfile::Builder::new().prefix("dingospeed-it-").tempdir().expect("a temporary directory"),
            child: None,
            url: String::new(),
        };
        mirror.spawn().await?;
        Ok(mirror)
    }
}

impl Mirror {
    /// Starts a mirror of this Hub with default settings.
    pub(crate) async fn start(hub: &FakeHub) -> Mirror {
        Mirror::of(hub).start().await
    }

    /// Begins a mirror of this Hub.
    pub(crate) fn of(hub: &FakeHub) -> MirrorOptions {
        Mirror::of_url(&hub.url())
    }

    /// Begins a mirror of whatever answers at this URL.
    pub(crate) fn of_url(url: &str) -> MirrorOptions {
        MirrorOptions {
            upstream: url.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            repos: None,
            files_max: None,
            read_only: None,
            call_faults: Vec::new(),
        }
    }

    /// Returns the address as a URL without a trailing slash: what `HF_ENDPOINT` is set to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().expect("the start line names an address")
    }

    /// Returns the address of `admin.listen`, as its last start told it.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        let log = self.log();
        let line = log.lines().rfind(|line| line.contains("the admin's page is at ")).expect("a line with the admin's address");
        let url = line.split_once("http://").expect("a URL").1;
        url.trim_end_matches('/').parse().expect("the line names an address")
    }

    /// Returns the directory with the mirror's files.
    pub(crate) fn repos(&self) -> PathBuf {
        self.options.repos.clone().unwrap_or_else(|| self.folder.path().join("repos"))
    }

    /// Returns the process id, while there is a process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("the mirror is running")
    }

    /// Returns all the mirror has said so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the link of a file is there, by which people find it: it is made after the answer. The path is below `files/`.
    pub(crate) async fn wait_link(&self, path: &str) {
        let link = self.repos().join("files").join(path);
        let began = Instant::now();
        while std::fs::symlink_metadata(&link).is_err() {
            assert!(began.elapsed() < START_MAX, "there is no link `{}`", link.display());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the log holds this text; panics after 20 s.
    pub(crate) async fn wait_log(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < START_MAX, "`{text}` never came to the log");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address()).await
    }

    /// Asks on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[&str]) -> Response {
        let mut connection = self.connect().await;
        connection.ask(method, target, headers).await;
        connection.response(method).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        self.ask("GET", target, &[]).await
    }

    pub(crate) async fn head(&self, target: &str) -> Response {
        self.ask("HEAD", target, &["Accept-Encoding: identity"]).await
    }

    /// Gets with a `Range`, such as `bytes=0-9`.
    pub(crate) async fn get_range(&self, target: &str, range: &str) -> Response {
        self.ask("GET", target, &[&format!("Range: {range}")]).await
    }

    /// Posts a body of this type.
    pub(crate) async fn post(&self, target: &str, content_type: &str, body: &str) -> Response {
        let mut connection = self.connect().await;
        connection
            .send(format!(
                "POST {target} HTTP/1.1\r\nHost: mirror.test\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        connection.response("POST").await
    }

    /// Gets a body too large to keep.
    pub(crate) async fn sum(&self, target: &str, headers: &[&str]) -> Sum {
        let mut connection = self.connect().await;
        connection.ask("GET", target, headers).await;
        connection.sum("GET").await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let response = self.get("/metrics").await;
        assert_eq!(response.status, 200, "/metrics: {}", response.text());
        Metrics::parse(&response.text())
    }

    /// Sends SIGTERM and waits for the end; panics if that takes longer than a minute.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.ended().await
    }

    /// Sends a signal to the mirror's own process.
    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        // SAFETY: kill takes no pointers, and the child is not yet waited for, so its id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} to the mirror");
    }

    /// Waits for the end of a mirror that was told to end, or is expected to.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the mirror is running");
        let ended = tokio::time::timeout(STOP_MAX, child.wait()).await;
        match ended {
            Ok(status) => status.expect("the mirror's exit status"),
            Err(_) => panic!("the mirror still runs {STOP_MAX:?} after it was told to end"),
        }
    }

    /// Ends the process at once, as a crash would.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("SIGKILL to the mirror");
        }
    }

    /// Stops if it runs, and starts again on the same directory. The port, and so `url`, is a new one.
    pub(crate) async fn restart(&mut self) {
        if self.child.is_some() {
            self.stop().await;
        }
        if let Err(log) = self.spawn().await {
            panic!("the mirror did not start again; it said:\n{log}");
        }
    }

    /// Makes these system calls of its fail from the next start on, as a broken or full disk does.
    pub(crate) fn fail_calls(&mut self, faults: &[CallFault]) {
        self.options.call_faults = faults.to_vec();
    }

    async fn spawn(&mut self) -> Result<(), String> {
        raise_file_limit();
        let before = self.log().len();
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the mirror's log file");
        let mut command = Command::new(program());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--repos"])
            .arg(self.repos())
            .args(["--upstream", &self.options.upstream])
            .args(&self.options.arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("RUST_BACKTRACE", "1")
            .envs(self.options.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(count) = self.options.files_max {
            let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
            // SAFETY: between fork and exec it makes one system call and touches no memory but the copied limit.
            unsafe {
                command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
        }
        if let Some(how) = self.options.read_only {
            how.confine(&mut command, &self.repos());
        }
        super::confine::fail_calls(&mut command, &self.options.call_faults);
        let mut child = command.spawn().expect("the binary starts");
        let began = Instant::now();
        loop {
            let exited = child.try_wait().expect("the state of a child");
            let said = self.log()[before..].to_owned();
            if let Some(url) = endpoint_in(&said) {
                self.url = url;
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = exited {
                return Err(format!("{said}({status})"));
            }
            if began.elapsed() > START_MAX {
                return Err(format!("{said}(no start line within {START_MAX:?})"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("mirror.log")
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the mirror said:\n{}---", self.log());
        }
    }
}

/// Bounds the size of the files that the mirror may write: a full disk, as far as it can tell.
pub(crate) fn limit_file_size(mirror: &Mirror, len: u64) {
    let limit = libc::rlimit { rlim_cur: len, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a plain system call on our own child; the kernel reads `limit` and writes nothing.
    let status = unsafe { libc::prlimit(mirror.pid() as libc::pid_t, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

/// Finds the address in the start line, once the line is whole.
fn endpoint_in(said: &str) -> Option<String> {
    let line = said.split_inclusive('\n').find(|line| line.contains("HF_ENDPOINT="))?;
    let url = line.strip_suffix('\n')?.split_once("HF_ENDPOINT=")?.1;
    let end = url.find(|c: char| c.is_whitespace() || "'\"`),;".contains(c));
    Some(url[..end.unwrap_or(url.len())].trim_end_matches('/').to_owned())
}

/// Runs another command of the binary to its end, and returns its exit code and what it said on stderr and stdout.
pub(crate) async fn dingospeed(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = Command::new(program())
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output)
        .await
        .unwrap_or_else(|_| panic!("`dingospeed {}` did not end", arguments.join(" ")))
        .expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stderr), text(&output.stdout))
}

/// One reading of `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Metrics(samples.map(|line| pair(line).unwrap_or_else(|| panic!("`{line}` is no sample"))).collect())
    }

    /// Returns one sample by its name and, if any, its labels as printed; zero if it is absent.
    pub(crate) fn of(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }

    /// Returns the sum over all labels of a name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let is_of = |sample: &str| sample == name || sample.starts_with(&format!("{name}{{"));
        self.0.iter().filter(|(sample, _)| is_of(sample)).map(|(_, value)| value).sum()
    }

    /// Returns all samples as printed.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(sample, value)| (sample.as_str(), *value))
    }
}

/// Some tests open a thousand connections, and many run at a time; a shell's usual limit is 1024 files.
fn raise_file_limit() {
    static RAISED: std::sync::Once = std::sync::Once::new();
    RAISED.call_once(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls take a pointer to the struct above, which outlives them.
        let raised = unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
            }
        };
        assert!(raised, "the limit of open files: {}", std::io::Error::last_os_error());
    });
}
