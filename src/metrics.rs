//! Everything that is counted, in one struct, with the equations between the counters.
//!
//! The metrics live in the default registry of the `prometheus` crate, which is what `/metrics` and pingora's own
//! exporter encode. Every label takes one of a handful of values fixed in code: never a repository, a path or a client.

use once_cell::sync::Lazy;
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder, default_registry,
};

/// Upper bounds, in seconds: a kept answer takes about a millisecond, a large file many minutes.
const SECONDS_BUCKETS: [f64; 14] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1200.0, 3600.0];

/// Every metric of the process.
///
/// Besides the equations on the fields, at rest (no request running, no flight open):
///
/// - `blocks_hit + blocks_filled + blocks_joined` is at most the blocks that clients asked for: what a client did
///   not wait for is not counted for it;
/// - `sum(sent_bytes of the file route) - upstream_bytes{kind="block"}` is what the mirror has saved, and is negative
///   while more has been fetched than was asked for.
#[derive(Debug)]
pub struct Metrics {
    /// Requests answered, by route and status class (`2xx`). Equals the count of `request_seconds`, route by route.
    requests: IntCounterVec,
    /// Body bytes sent to clients, by route.
    sent_bytes: IntCounterVec,
    /// Time from a request's head to the end of its answer, by route.
    request_seconds: HistogramVec,
    /// Requests sent upstream, by kind (`api`, `head`, `block`) and status class, or `error` when none came.
    upstream_requests: IntCounterVec,
    /// Body bytes received from upstream, by kind. For blocks: at least `blocks_filled` times the block size, short
    /// last blocks aside; more when fetches broke or bytes were wrong.
    upstream_bytes: IntCounterVec,
    /// Blocks that were in the store when a reader wanted them.
    pub blocks_hit: IntCounter,
    /// Blocks that were fetched and written; each is fetched by one flight, however many wait for it.
    pub blocks_filled: IntCounter,
    /// Waits for a block that another request had already begun to fetch:
    /// fetches saved by sharing. `blocks_hit + blocks_joined` = wanted blocks that cost no fetch of their own.
    pub blocks_joined: IntCounter,
    /// Flights open now.
    pub flights: IntGauge,
    /// Whole objects whose hash was what upstream had promised.
    pub objects_verified: IntCounter,
    /// Whole objects whose hash was not: set aside and fetched again. Objects completed =
    /// `objects_verified + objects_broken`.
    pub objects_broken: IntCounter,
    /// Kept blocks whose checksum did not match when they were read; each is fetched again, and then counts in
    /// `blocks_filled` once more.
    pub blocks_broken: IntCounter,
    /// Connections and requests refused for a limit's sake, by the limit: a key of the configuration, or `head_len`.
    refused: IntCounterVec,
    /// Connections of clients open now, those about to be refused included.
    pub connections: IntGauge,
    /// Requests running now. The end of the server waits for zero.
    pub clients: IntGauge,
    /// Bytes that the repos directory takes on disk; walked seldom, so up to ten minutes old.
    pub disk_used_bytes: IntGauge,
    /// Bytes free on the file system of the repos directory, at most a minute old.
    pub disk_free_bytes: IntGauge,
    /// Objects in the repos directory, whole or not; as old as `disk_used_bytes`.
    pub blobs: IntGauge,
}

/// Returns the metrics of this process, registering them at the first call.
pub fn metrics() -> &'static Metrics {
    static METRICS: Lazy<Metrics> = Lazy::new(Metrics::register);
    &METRICS
}

impl Metrics {
    /// Counts one answered request: its route (`Route::label()`), status, body bytes sent and time taken.
    pub fn answered(&self, route: &str, status: u16, bytes: u64, seconds: f64) {
        self.requests.with_label_values(&[route, class(status)]).inc();
        self.sent_bytes.with_label_values(&[route]).inc_by(bytes);
        self.request_seconds.with_label_values(&[route]).observe(seconds);
    }

    /// Counts one request sent upstream; `kind` is `api`, `head` or `block`, `status` a code, a class or `error`.
    pub fn asked_upstream(&self, kind: &str, status: &str) {
        let status = match status.parse() {
            Ok(code) => class(code),
            Err(_) => status,
        };
        self.upstream_requests.with_label_values(&[kind, status]).inc();
    }

    /// Counts one connection or request that was refused or dropped; `limit` is the key that says so.
    pub fn refused(&self, limit: &'static str) {
        self.refused.with_label_values(&[limit]).inc();
    }

    /// Counts body bytes that came from upstream.
    pub fn received(&self, kind: &str, bytes: u64) {
        self.upstream_bytes.with_label_values(&[kind]).inc_by(bytes);
    }

    /// Returns everything in Prometheus' text format, version 0.0.4.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&default_registry().gather(), &mut text) {
            log::error!("cannot encode metrics: {error}");
        }
        text
    }

    fn register() -> Self {
        let build = registered(IntGaugeVec::new(opts("build_info", "Always 1; the label tells the version."), &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let seconds =
            HistogramOpts { common_opts: opts("request_seconds", "Time per request."), buckets: SECONDS_BUCKETS.into() };
        Self {
            requests: counters("requests_total", "Requests answered.", &["route", "status"]),
            sent_bytes: counters("sent_bytes_total", "Body bytes sent to clients.", &["route"]),
            request_seconds: registered(HistogramVec::new(seconds, &["route"])),
            upstream_requests: counters("upstream_requests_total", "Requests sent upstream.", &["kind", "status"]),
            upstream_bytes: counters("upstream_bytes_total", "Body bytes received from upstream.", &["kind"]),
            blocks_hit: counter("blocks_hit_total", "Blocks that were there when wanted."),
            blocks_filled: counter("blocks_filled_total", "Blocks fetched and written."),
            blocks_joined: counter("blocks_joined_total", "Waits for blocks that others were fetching."),
            flights: gauge("flights", "Flights open now."),
            objects_verified: counter("objects_verified_total", "Whole objects with the promised hash."),
            objects_broken: counter("objects_broken_total", "Whole objects with another hash, set aside."),
            blocks_broken: counter("blocks_broken_total", "Kept blocks with a wrong checksum."),
            refused: counters("refused_total", "Connections and requests refused for a limit's sake.", &["limit"]),
            connections: gauge("connections", "Connections of clients open now."),
            clients: gauge("clients", "Requests running now."),
            disk_used_bytes: gauge("disk_used_bytes", "Bytes that the repos directory takes on disk."),
            disk_free_bytes: gauge("disk_free_bytes", "Bytes free on the file system of the repos directory."),
            blobs: gauge("blobs", "Objects in the repos directory, whole or not."),
        }
    }
}

fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "error",
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("dingospeed_{name}"), help)
}

fn counter(name: &str, help: &str) -> IntCounter {
    registered(IntCounter::with_opts(opts(name, help)))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(opts(name, help), labels))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    registered(IntGauge::with_opts(opts(name, help)))
}

/// Puts a new metric into the default registry.
fn registered<M: Collector + Clone + 'static>(metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("names and labels are the literals above, and legal");
    // Refused only when a name is taken, which the tests would show; counting into the void is no reason to stop.
    if let Err(error) = default_registry().register(Box::new(metric.clone())) {
        log::error!("cannot register a metric: {error}");
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_encoded() {
        let metrics = metrics();
        metrics.answered("test", 206, 7, 0.01);
        metrics.answered("test", 999, 0, 0.01);
        metrics.asked_upstream("test", "429");
        metrics.asked_upstream("test", "error");
        metrics.received("test", 5);
        metrics.blobs.set(3);
        let text = String::from_utf8(metrics.encode()).unwrap();
        for line in [
            "dingospeed_requests_total{route=\"test\",status=\"2xx\"} 1",
            "dingospeed_requests_total{route=\"test\",status=\"error\"} 1",
            "dingospeed_sent_bytes_total{route=\"test\"} 7",
            "dingospeed_request_seconds_count{route=\"test\"} 2",
            "dingospeed_upstream_requests_total{kind=\"test\",status=\"4xx\"} 1",
            "dingospeed_upstream_requests_total{kind=\"test\",status=\"error\"} 1",
            "dingospeed_upstream_bytes_total{kind=\"test\"} 5",
            "dingospeed_blobs 3",
            concat!("dingospeed_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
