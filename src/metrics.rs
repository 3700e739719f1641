//! Everything that is counted, in one struct, with the equations between the counters.
//!
//! The metrics live in the default registry of the `prometheus` crate, which is what `/metrics` and pingora's own
//! exporter encode. Every label takes one of a handful of values fixed in code: never a repository, a path or a client.

use once_cell::sync::Lazy;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
    default_registry,
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
    /// 1 while an upstream answers, 0 while it is down; `first` is `upstream.url`, `fallback-1` the
    /// first of `upstream.fallbacks`.
    upstream_up: IntGaugeVec,
    /// Times that a host was found down, by upstream, or `cdn` for all other hosts.
    upstream_openings: IntCounterVec,
    /// Requests that our own rate budget, or a host's earlier `Retry-After`, `delayed` or `refused`, by kind (`api`, `resolvers`,
    /// `cdn`). Those refused never went upstream, so they are not in `upstream_requests`.
    upstream_paced: IntCounterVec,
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
    pub disk_errors: IntCounter,
    /// 1 while the directory cannot be written, which was found at the start: nothing more is kept until the next one.
    pub read_only: IntGauge,
    /// Readers for which nothing is kept, since the disk is full or broken.
    pub served_through: IntCounter,
    /// Objects evicted, by the limit that asked for it: `max_size`, `max_used_percent`, `min_free`.
    evicted_objects: IntCounterVec,
    /// Bytes on the disk that came back with them.
    evicted_bytes: IntCounterVec,
    /// Eviction passes, also by limit, or `none` for those that only measured. At least one per `eviction.interval`.
    eviction_passes: IntCounterVec,
    /// Passes after which a limit was still passed, because all else was pinned or in use.
    pub eviction_short: IntCounter,
    /// What the last pass took, in seconds.
    pub eviction_pass_seconds: Gauge,
    /// Objects that pins hold, by the last pass.
    pub pinned_objects: IntGauge,
    /// Connections and requests refused for a limit's sake, by the limit: a key of the configuration, or `head_len`.
    refused: IntCounterVec,
    /// Connections of clients open now, those about to be refused included.
    pub connections: IntGauge,
    /// Requests running now. The end of the server waits for zero.
    pub clients: IntGauge,
    /// Bytes that objects and quarantine take on disk: counted as blocks arrive, made exact by each pass.
    pub disk_used_bytes: IntGauge,
    /// Bytes free on the file system of the repos directory, at most a minute old.
    pub disk_free_bytes: IntGauge,
    /// Objects in the repos directory, whole or not, after the last pass.
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

    /// Counts an eviction pass; `reason` is the limit that was passed, or `none`.
    pub fn evicted(&self, reason: &str, objects: u64, bytes: u64) {
        self.eviction_passes.with_label_values(&[reason]).inc();
        if reason != "none" {
            self.evicted_objects.with_label_values(&[reason]).inc_by(objects);
            self.evicted_bytes.with_label_values(&[reason]).inc_by(bytes);
        }
    }

    /// Counts one connection or request that was refused or dropped; `limit` is the key that says so.
    pub fn refused(&self, limit: &'static str) {
        self.refused.with_label_values(&[limit]).inc();
    }

    /// Counts body bytes that came from upstream.
    pub fn received(&self, kind: &str, bytes: u64) {
        self.upstream_bytes.with_label_values(&[kind]).inc_by(bytes);
    }

    /// Tells whether a configured upstream (`first`, `fallback-1` ..) answers.
    pub fn upstream_up(&self, upstream: &str, up: bool) {
        self.upstream_up.with_label_values(&[upstream]).set(i64::from(up));
    }

    /// Counts a host that went down; `upstream` is that of a configured one, or `cdn`.
    pub fn upstream_opened(&self, upstream: &str) {
        self.upstream_openings.with_label_values(&[upstream]).inc();
    }

    /// Counts a request held back by our own rate budget; `how` is `delayed` or `refused`.
    pub fn upstream_paced(&self, kind: &str, how: &str) {
        self.upstream_paced.with_label_values(&[kind, how]).inc();
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
            upstream_up: registered(IntGaugeVec::new(opts("upstream_up", "Whether an upstream answers."), &["upstream"])),
            upstream_openings: counters("upstream_openings_total", "Times that a host was found down.", &["upstream"]),
            upstream_paced: counters(
                "upstream_paced_total",
                "Requests held back by the rate budget or a Retry-After.",
                &["kind", "how"],
            ),
            blocks_hit: counter("blocks_hit_total", "Blocks that were there when wanted."),
            blocks_filled: counter("blocks_filled_total", "Blocks fetched and written."),
            blocks_joined: counter("blocks_joined_total", "Waits for blocks that others were fetching."),
            flights: gauge("flights", "Flights open now."),
            objects_verified: counter("objects_verified_total", "Whole objects with the promised hash."),
            objects_broken: counter("objects_broken_total", "Whole objects with another hash, set aside."),
            blocks_broken: counter("blocks_broken_total", "Kept blocks with a wrong checksum."),
            disk_errors: counter("disk_errors_total", "Times that the disk did not take or give what it should."),
            read_only: gauge("read_only", "Whether the repos directory cannot be written."),
            served_through: counter("served_through_total", "Reads that went past the disk."),
            evicted_objects: counters("evicted_objects_total", "Objects evicted.", &["reason"]),
            evicted_bytes: counters("evicted_bytes_total", "Bytes on disk that evictions gave back.", &["reason"]),
            eviction_passes: counters("eviction_passes_total", "Eviction passes.", &["reason"]),
            eviction_short: counter("eviction_short_total", "Eviction passes that could not free enough."),
            eviction_pass_seconds: registered(Gauge::with_opts(opts("eviction_pass_seconds", "Time of the last eviction pass."))),
            pinned_objects: gauge("pinned_objects", "Objects that pins hold."),
            refused: counters("refused_total", "Connections and requests refused for a limit's sake.", &["limit"]),
            connections: gauge("connections", "Connections of clients open now."),
            clients: gauge("clients", "Requests running now."),
            disk_used_bytes: gauge("disk_used_bytes", "Bytes that the kept objects take on disk."),
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
        metrics.evicted("test", 2, 8192);
        metrics.evicted("none", 0, 0);
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
            "dingospeed_evicted_objects_total{reason=\"test\"} 2",
            "dingospeed_evicted_bytes_total{reason=\"test\"} 8192",
            "dingospeed_eviction_passes_total{reason=\"none\"} 1",
            "dingospeed_blobs 3",
            concat!("dingospeed_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
