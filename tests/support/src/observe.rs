//! What was asked of a fake Hub: calls, counts, and waiting for them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::hub::FakeHub;
use crate::log::{Call, Listener, Log};

/// How long the waiting helpers wait before they fail the test.
const WAIT_MAX: Duration = Duration::from_secs(30);

impl FakeHub {
    /// Returns all requests since the start or `clear_log`, in order of arrival; only the last 50,000 are kept.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.log.calls()
    }

    /// Returns how many requests had this in their path, on both listeners. CDN paths name no files: see `fetched`.
    pub fn asked(&self, text: &str) -> usize {
        self.calls().iter().filter(|call| call.is_for(text)).count()
    }

    /// Returns how many CDN requests were for a file whose `org/name/path` contains this.
    pub fn fetched(&self, text: &str) -> usize {
        self.calls().iter().filter(|call| call.file.as_ref().is_some_and(|file| file.contains(text))).count()
    }

    /// Returns the Hub's calls below `/api/`, without those of `/api/resolve-cache/`.
    pub fn api_calls(&self) -> Vec<Call> {
        self.calls_where(|call| call.path.starts_with("/api/") && !call.path.starts_with("/api/resolve-cache/"))
    }

    /// Returns the Hub's calls for files: `/resolve/` and `/api/resolve-cache/`.
    pub fn resolver_calls(&self) -> Vec<Call> {
        self.calls_where(|call| {
            let is_file = call.path.contains("/resolve/") && !call.path.starts_with("/api/");
            is_file || call.path.starts_with("/api/resolve-cache/")
        })
    }

    pub fn hub_calls(&self) -> Vec<Call> {
        self.calls_where(|_| true)
    }

    pub fn cdn_calls(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.listener == Listener::Cdn).collect()
    }

    /// Returns calls to the CAS that Xet signals lead to: behind a mirror that hides Xet there are none.
    pub fn cas_calls(&self) -> Vec<Call> {
        self.cdn_calls().into_iter().filter(|call| call.path.starts_with("/cas/")).collect()
    }

    /// Returns calls that meant to change something.
    pub fn writes(&self) -> Vec<Call> {
        self.calls_where(|call| !matches!(call.method.as_str(), "GET" | "HEAD") && !call.path.contains("/paths-info/"))
    }

    /// Returns CDN calls that carried an `Authorization`; to the CAS, where a Xet token belongs, those with a Hub token.
    pub fn leaks(&self) -> Vec<Call> {
        let tokens = self.shared.state().tokens.clone();
        let leaks = |call: &Call| match call.path.starts_with("/cas/") {
            true => call.token.as_ref().is_some_and(|token| tokens.contains(token) || token.starts_with("hf_")),
            false => call.headers.contains_key("authorization"),
        };
        self.cdn_calls().into_iter().filter(leaks).collect()
    }

    fn calls_where(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.listener == Listener::Hub && wanted(call)).collect()
    }

    /// Returns the body bytes sent by the CDN since the start or `clear_log`.
    pub fn cdn_bytes(&self) -> u64 {
        self.shared.log.counts(Listener::Cdn).bytes.load(Relaxed)
    }

    pub fn hub_bytes(&self) -> u64 {
        self.shared.log.counts(Listener::Hub).bytes.load(Relaxed)
    }

    /// Returns how many requests of a listener are being answered now.
    pub fn running(&self, listener: Listener) -> u64 {
        self.shared.log.counts(listener).running.load(Relaxed)
    }

    /// Returns the most CDN requests that were being answered at one time.
    pub fn cdn_running_max(&self) -> u64 {
        self.shared.log.counts(Listener::Cdn).running_max.load(Relaxed)
    }

    /// Returns how many connections of a listener are open.
    pub fn connections(&self, listener: Listener) -> u64 {
        self.shared.log.counts(listener).connections_open.load(Relaxed)
    }

    /// Returns how many connections of a listener were made since the start or `clear_log`.
    pub fn connections_total(&self, listener: Listener) -> u64 {
        self.shared.log.counts(listener).connections_total.load(Relaxed)
    }

    /// Forgets all calls and zeroes the counters.
    pub fn clear_log(&self) {
        self.shared.log.clear();
    }

    /// Calls this with each request when it ends.
    pub fn on_call(&self, sink: impl Fn(&Call) + Send + Sync + 'static) {
        let _ = self.shared.log.sink.set(Box::new(sink));
    }

    /// Waits until nothing is being answered; panics after 30 s.
    pub async fn wait_idle(&self) {
        let idle = |log: &Log| [Listener::Hub, Listener::Cdn].iter().all(|of| log.counts(*of).running.load(Relaxed) == 0);
        assert!(self.shared.log.wait_until(WAIT_MAX, idle).await, "the fake hub did not become idle");
    }

    /// Waits until the calls are as wanted, looking at each arrival, each frame and each end; panics after 30 s.
    pub async fn wait_calls(&self, what: &str, wanted: impl Fn(&[Call]) -> bool) {
        assert!(self.shared.log.wait_until(WAIT_MAX, |log| wanted(&log.calls())).await, "waited in vain for {what}");
    }

    /// Waits until a path was asked for `count` times; panics after 30 s.
    pub async fn wait_asked(&self, text: &str, count: usize) {
        let met = |calls: &[Call]| calls.iter().filter(|call| call.is_for(text)).count() >= count;
        self.wait_calls(&format!("{count} requests for `{text}`"), met).await;
    }

    /// Returns counts and bytes by listener, as `GET /__stats` does.
    pub fn stats(&self) -> serde_json::Value {
        crate::control::stats(&self.shared)
    }
}
