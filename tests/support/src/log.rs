//! What was asked of the fake: one record per request, and counters by listener.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;

/// The two origins of the fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    Hub,
    Cdn,
}

impl Listener {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Listener::Hub => "hub",
            Listener::Cdn => "cdn",
        }
    }
}

/// One request, as seen when the log was asked.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counts from 0 in order of arrival, over both listeners.
    pub index: u64,
    pub listener: Listener,
    /// The number of the connection it came on.
    pub connection: u64,
    pub method: String,
    /// The path as it came, still encoded.
    pub path: String,
    /// What followed the `?`, as it came; empty without one.
    pub query: String,
    pub headers: HeaderMap,
    /// The request's body, whole.
    pub body: bytes::Bytes,
    /// The bearer token, if one came along.
    pub token: Option<String>,
    /// On the CDN, the file that was meant: `org/name/path`.
    pub file: Option<String>,
    /// 0 while there is no answer yet.
    pub status: u16,
    /// Bytes of the answer's body handed to the connection.
    pub body_bytes: u64,
    /// True once the answer ended or its connection died.
    pub finished: bool,
    /// From arrival until now, or until the end.
    pub took: Duration,
}

impl Call {
    /// Returns a request header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns path and query as they came.
    pub fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    /// Returns the call as one JSON object; of a token it tells only that there was one.
    pub fn to_json(&self) -> Value {
        json!({
            "index": self.index, "listener": self.listener.name(), "connection": self.connection, "method": self.method,
            "target": self.target(), "range": self.header("range"), "user_agent": self.header("user-agent"),
            "has_token": self.headers.contains_key("authorization"), "file": self.file, "status": self.status,
            "bytes": self.body_bytes, "finished": self.finished, "ms": self.took.as_millis() as u64,
        })
    }

    /// Tells whether the path, as it came or decoded, contains the text.
    pub fn is_for(&self, text: &str) -> bool {
        self.path.contains(text) || percent_decode_str(&self.path).decode_utf8_lossy().contains(text)
    }
}

/// The live side of a `Call`.
pub(crate) struct Record {
    pub(crate) call: Call,
    arrived: Instant,
    status: AtomicU16,
    body_bytes: AtomicU64,
    micros: AtomicU64,
    finished: AtomicBool,
    pub(crate) file: OnceLock<String>,
}

impl Record {
    fn snapshot(&self) -> Call {
        let mut call = self.call.clone();
        call.status = self.status.load(Relaxed);
        call.body_bytes = self.body_bytes.load(Relaxed);
        call.finished = self.finished.load(Relaxed);
        call.file = self.file.get().cloned();
        call.took = if call.finished { Duration::from_micros(self.micros.load(Relaxed)) } else { self.arrived.elapsed() };
        call
    }
}

/// Counters of one listener. They survive `clear` only where said.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) running: AtomicU64,
    pub(crate) running_max: AtomicU64,
    /// Survives `clear`, as the connections do.
    pub(crate) connections_open: AtomicU64,
    pub(crate) connections_total: AtomicU64,
}

type Sink = Box<dyn Fn(&Call) + Send + Sync>;

/// How many requests are kept; benchmarks make more, and the counters still count those.
const CALLS_MAX: usize = 50_000;

pub(crate) struct Log {
    calls: Mutex<VecDeque<Arc<Record>>>,
    next_index: AtomicU64,
    hub: Counts,
    cdn: Counts,
    /// Bumped at every arrival, frame and end, for those who wait for one.
    changed: watch::Sender<u64>,
    /// Is called with each request when it ends, if set.
    pub(crate) sink: OnceLock<Sink>,
}

impl Log {
    pub(crate) fn new() -> Log {
        Log {
            calls: Mutex::default(),
            next_index: AtomicU64::new(0),
            hub: Counts::default(),
            cdn: Counts::default(),
            changed: watch::Sender::new(0),
            sink: OnceLock::new(),
        }
    }

    pub(crate) fn counts(&self, listener: Listener) -> &Counts {
        match listener {
            Listener::Hub => &self.hub,
            Listener::Cdn => &self.cdn,
        }
    }

    /// Opens the record of a request that has arrived; it closes when the returned guard is dropped.
    pub(crate) fn open(self: &Arc<Log>, mut call: Call) -> Running {
        call.index = self.next_index.fetch_add(1, Relaxed);
        let record = Arc::new(Record {
            arrived: Instant::now(),
            status: AtomicU16::new(0),
            body_bytes: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            file: OnceLock::new(),
            call,
        });
        let mut calls = self.lock();
        if calls.len() == CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back(record.clone());
        drop(calls);
        let counts = self.counts(record.call.listener);
        counts.requests.fetch_add(1, Relaxed);
        let running = counts.running.fetch_add(1, Relaxed) + 1;
        counts.running_max.fetch_max(running, Relaxed);
        self.changed.send_modify(|version| *version += 1);
        Running { log: self.clone(), record }
    }

    /// Opens a record, but not for the fake's own controls.
    pub(crate) fn open_unless(self: &Arc<Log>, control: bool, call: impl FnOnce() -> Call) -> Option<Running> {
        (!control).then(|| self.open(call()))
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().iter().map(|record| record.snapshot()).collect()
    }

    /// Forgets the calls and zeroes the counters, but not those of what still runs.
    pub(crate) fn clear(&self) {
        self.lock().clear();
        for counts in [&self.hub, &self.cdn] {
            counts.requests.store(0, Relaxed);
            counts.bytes.store(0, Relaxed);
            counts.running_max.store(counts.running.load(Relaxed), Relaxed);
            counts.connections_total.store(0, Relaxed);
        }
    }

    /// Waits until the condition holds, looking again at each arrival, frame and end. Returns false after `limit`.
    pub(crate) async fn wait_until(&self, limit: Duration, mut holds: impl FnMut(&Log) -> bool) -> bool {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if holds(self) {
                    return;
                }
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Record>>> {
        self.calls.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// A request being answered.
pub(crate) struct Running {
    log: Arc<Log>,
    pub(crate) record: Arc<Record>,
}

impl Running {
    pub(crate) fn answered(&self, status: u16) {
        self.record.status.store(status, Relaxed);
        self.log.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn sent(&self, len: u64) {
        self.record.body_bytes.fetch_add(len, Relaxed);
        self.log.counts(self.record.call.listener).bytes.fetch_add(len, Relaxed);
        self.log.changed.send_modify(|version| *version += 1);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.record.micros.store(self.record.arrived.elapsed().as_micros() as u64, Relaxed);
        self.record.finished.store(true, Relaxed);
        self.log.counts(self.record.call.listener).running.fetch_sub(1, Relaxed);
        self.log.changed.send_modify(|version| *version += 1);
        if let Some(sink) = self.log.sink.get() {
            sink(&self.record.snapshot());
        }
    }
}
