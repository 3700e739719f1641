//! Everything that is counted, in one struct, with the equations between the counters.
//!
//! The metrics live in the default registry of the `prometheus` crate, which is what `/metrics` and pingora's own
//! exporter encode. Every label takes one of a handful of values fixed in code: never a repository, a path or a client.

use once_cell::sync::Lazy;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
    default_registry,
};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// Upper bounds, in seconds: a kept answer takes about a millisecond, a large file many minutes.
const SECONDS_BUCKETS: [f64; 14] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1200.0, 3600.0];

/// Upper bounds, in seconds: what is in memory takes tens of microseconds, what upstream must be asked for up to its patience.
const FIRST_BYTE_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Upper bounds, in bytes per second: from a bad radio link to the memory's own speed.
const RATE_BUCKETS: [f64; 11] = [1e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 2e9, 4e9, 1e10];
/// Bodies below this length say more about latency than about throughput.
const RATE_LEN_MIN: u64 = 1 << 20;
/// Classes of a status: `1xx` to `5xx`, and what is none.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error"];

/// One answered request.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// `Route::label()`.
    pub route: &'static str,
    pub status: u16,
    /// Of the body.
    pub sent_len: u64,
    /// Those of them that [`Metrics::sent`] has counted.
    pub counted_len: u64,
    /// From the head of the request to the first byte of the body, or of the answer if it has none.
    pub first_byte: Duration,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
}

/// What is counted of a route, looked up once per request.
#[derive(Clone, Debug)]
struct OfRoute {
    requests: [IntCounter; CLASSES.len()],
    sent_bytes: IntCounter,
    seconds: Histogram,
    first_byte_seconds: Histogram,
    bytes_per_second: Histogram,
}

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
    /// Time from a request's head to the first byte of the answer's body, by route. Its count equals that of `request_seconds`.
    first_byte_seconds: HistogramVec,
    /// Speed of whole answers with bodies of 1 MiB and more, the wait for the first byte included, by route.
    bytes_per_second: HistogramVec,
    /// The children of the five above.
    routes: RwLock<HashMap<&'static str, OfRoute>>,
    /// Requests sent upstream, by kind (`api`, `head`, `block`) and status class, or `error` when none came.
    upstream_requests: IntCounterVec,
    /// Time from sending a request upstream to the head of its answer, or to giving up, by kind.
    upstream_seconds: HistogramVec,
    /// Answers of upstream with status 429, by kind. They are in `upstream_requests` as `4xx`.
    upstream_limited: IntCounterVec,
    /// Requests not sent, since their host was known to be down, by upstream as in `upstream_openings`. Not in `upstream_requests`.
    upstream_skipped: IntCounterVec,
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
    /// Connections to upstream in use by fetches, at most `fetch.connections` (and as many again past the disk).
    pub fetches: IntGauge,
    /// Fetches that wait for such a connection.
    pub fetches_waiting: IntGauge,
    /// Connections and requests that wait for a place within a limit per client.
    pub clients_waiting: IntGauge,
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
    /// Time per verification of a whole object, in seconds; little where it was hashed while it came.
    pub verify_seconds: Histogram,
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
    /// Alarms for `alerts.webhook`: `told`, `failed` after all tries, `dropped` since there were too many.
    alarms: IntCounterVec,
    /// Connections that came to `tls.listen` and never spoke TLS: a client that does not trust the certificate, or plain HTTP.
    pub tls_failures: IntCounter,
    /// When the certificate in use ends, in seconds since 1970; 0 without TLS.
    pub tls_certificate_ends: IntGauge,
    /// Connections of clients open now, those about to be refused included.
    pub connections: IntGauge,
    /// Requests running now. The end of the server waits for zero.
    pub clients: IntGauge,
    /// Bytes that objects and quarantine take on disk: counted as blocks arrive, made exact by each pass.
    pub disk_used_bytes: IntGauge,
    /// Bytes free on the file system of the repos directory, at most a minute old.
    pub disk_free_bytes: IntGauge,
    /// Size of the file system of the repos directory.
    pub disk_size_bytes: IntGauge,
    /// Bytes that broken files take, which are kept for inspection, after the last pass.
    pub quarantine_bytes: IntGauge,
    /// Set by [`crate::alarms::disk_short`], and back some minutes after the last of it.
    pub disk_short: IntGauge,
    /// What `eviction.max_size` allows; 0 means no limit.
    pub eviction_max_bytes: IntGauge,
    /// Objects in the repos directory, whole or not, after the last pass.
    pub blobs: IntGauge,
}

/// Returns the metrics of this process, registering them at the first call.
pub fn metrics() -> &'static Metrics {
    static METRICS: Lazy<Metrics> = Lazy::new(|| {
        let metrics = Metrics::register();
        metrics.begin();
        metrics
    });
    &METRICS
}

impl Metrics {
    /// Counts one answered request.
    pub fn answered(&self, answered: &Answered) {
        self.with_route(answered.route, |of_route| of_route.count(answered));
    }

    /// Counts bytes of a body that were sent, while more are to come.
    pub fn sent(&self, route: &'static str, len: u64) {
        self.with_route(route, |of_route| of_route.sent_bytes.inc_by(len));
    }

    fn with_route(&self, route: &'static str, count: impl FnOnce(&OfRoute)) {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        match routes.get(route) {
            Some(of_route) => count(of_route),
            None => {
                drop(routes);
                let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
                count(routes.entry(route).or_insert_with(|| self.of_route(route)));
            }
        }
    }

    fn of_route(&self, route: &'static str) -> OfRoute {
        OfRoute {
            requests: CLASSES.map(|class| self.requests.with_label_values(&[route, class])),
            sent_bytes: self.sent_bytes.with_label_values(&[route]),
            seconds: self.request_seconds.with_label_values(&[route]),
            first_byte_seconds: self.first_byte_seconds.with_label_values(&[route]),
            bytes_per_second: self.bytes_per_second.with_label_values(&[route]),
        }
    }

    /// Counts one request sent upstream, which took so long to be answered, or to fail (`status` is `None`); `kind` is `api`, `head`
    /// or `block`.
    pub fn asked_upstream(&self, kind: &str, status: Option<u16>, took: Duration) {
        self.upstream_requests.with_label_values(&[kind, CLASSES[class(status.unwrap_or(0))]]).inc();
        self.upstream_seconds.with_label_values(&[kind]).observe(took.as_secs_f64());
        if status == Some(429) {
            self.upstream_limited.with_label_values(&[kind]).inc();
        }
    }

    /// Counts a request that was not sent, for its host is down; `upstream` is that of a configured one, or `cdn`.
    pub fn upstream_skipped(&self, upstream: &str) {
        self.upstream_skipped.with_label_values(&[upstream]).inc();
    }

    /// Counts an eviction pass; `reason` is the limit that was passed, or `none`.
    pub fn evicted(&self, reason: &str, objects: u64, bytes: u64) {
        self.eviction_passes.with_label_values(&[reason]).inc();
        if reason != "none" {
            self.evicted_objects.with_label_values(&[reason]).inc_by(objects);
            self.evicted_bytes.with_label_values(&[reason]).inc_by(bytes);
        }
    }

    /// Counts an alarm for the webhook.
    pub fn alarm(&self, outcome: &'static str) {
        self.alarms.with_label_values(&[outcome]).inc();
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

    /// Makes the series whose labels are known, at zero: then the first event is an increase and not a birth, which no rate shows.
    fn begin(&self) {
        for kind in ["api", "head", "block"] {
            CLASSES.iter().for_each(|class| drop(self.upstream_requests.with_label_values(&[kind, *class])));
            drop(self.upstream_limited.with_label_values(&[kind]));
            drop(self.upstream_seconds.with_label_values(&[kind]));
        }
        for kind in ["api", "resolvers"] {
            ["delayed", "refused"].iter().for_each(|how| drop(self.upstream_paced.with_label_values(&[kind, *how])));
        }
        for upstream in ["first", "cdn"] {
            drop(self.upstream_openings.with_label_values(&[upstream]));
            drop(self.upstream_skipped.with_label_values(&[upstream]));
        }
        for reason in ["max_size", "max_used_percent", "min_free"] {
            drop(self.evicted_objects.with_label_values(&[reason]));
            drop(self.evicted_bytes.with_label_values(&[reason]));
            drop(self.eviction_passes.with_label_values(&[reason]));
        }
        for limit in [
            "server.connections",
            "server.connections_per_client",
            "server.requests_per_client",
            "server.head_timeout",
            "server.send_timeout",
            "head_len",
        ] {
            drop(self.refused.with_label_values(&[limit]));
        }
        ["told", "failed", "dropped"].iter().for_each(|outcome| drop(self.alarms.with_label_values(&[*outcome])));
    }

    fn register() -> Self {
        let build = registered(IntGaugeVec::new(opts("build_info", "Always 1; the label tells the version."), &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            requests: counters("requests_total", "Requests answered.", &["route", "status"]),
            sent_bytes: counters("sent_bytes_total", "Body bytes sent to clients.", &["route"]),
            request_seconds: histograms("request_seconds", "Time per request.", &SECONDS_BUCKETS, &["route"]),
            first_byte_seconds: histograms(
                "first_byte_seconds",
                "Time to the first byte of the body.",
                &FIRST_BYTE_BUCKETS,
                &["route"],
            ),
            bytes_per_second: histograms("bytes_per_second", "Speed of long answers.", &RATE_BUCKETS, &["route"]),
            routes: RwLock::default(),
            upstream_requests: counters("upstream_requests_total", "Requests sent upstream.", &["kind", "status"]),
            upstream_seconds: histograms("upstream_seconds", "Time to upstream's answer.", &SECONDS_BUCKETS, &["kind"]),
            upstream_limited: counters("upstream_limited_total", "Answers of upstream with 429.", &["kind"]),
            upstream_skipped: counters("upstream_skipped_total", "Requests not sent to a host that is down.", &["upstream"]),
            upstream_bytes: counters("upstream_bytes_total", "Body bytes received from upstream.", &["kind"]),
            upstream_up: registered(IntGaugeVec::new(opts("upstream_up", "Whether an upstream answers."), &["upstream"])),
            upstream_openings: counters("upstream_openings_total", "Times that a host was found down.", &["upstream"]),
            upstream_paced: counters(
                "upstream_paced_total",
                "Requests held back by the rate budget or a Retry-After.",
                &["kind", "how"],
            ),
            fetches: gauge("fetches", "Connections to upstream that fetch now."),
            fetches_waiting: gauge("fetches_waiting", "Fetches that wait for a connection."),
            clients_waiting: gauge("clients_waiting", "Connections and requests that wait for a limit per client."),
            blocks_hit: counter("blocks_hit_total", "Blocks that were there when wanted."),
            blocks_filled: counter("blocks_filled_total", "Blocks fetched and written."),
            blocks_joined: counter("blocks_joined_total", "Waits for blocks that others were fetching."),
            flights: gauge("flights", "Flights open now."),
            objects_verified: counter("objects_verified_total", "Whole objects with the promised hash."),
            objects_broken: counter("objects_broken_total", "Whole objects with another hash, set aside."),
            verify_seconds: registered(Histogram::with_opts(histogram(
                "verify_seconds",
                "Time per verification of an object.",
                &SECONDS_BUCKETS,
            ))),
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
            alarms: counters("alarms_total", "Alarms for the webhook.", &["outcome"]),
            tls_failures: counter("tls_failures_total", "Connections that did not come to speak TLS."),
            tls_certificate_ends: gauge("tls_certificate_ends_seconds", "When the certificate ends, since 1970."),
            connections: gauge("connections", "Connections of clients open now."),
            clients: gauge("clients", "Requests running now."),
            disk_used_bytes: gauge("disk_used_bytes", "Bytes that the kept objects take on disk."),
            disk_free_bytes: gauge("disk_free_bytes", "Bytes free on the file system of the repos directory."),
            disk_size_bytes: gauge("disk_size_bytes", "Size of the file system of the repos directory."),
            quarantine_bytes: gauge("quarantine_bytes", "Bytes of broken files that are kept for inspection."),
            disk_short: gauge(
                "disk_short",
                "Whether there is too little room: a write found none, or a limit is passed with all eviction done. At once, and for five minutes after.",
            ),
            eviction_max_bytes: gauge("eviction_max_bytes", "What eviction.max_size allows; 0 means no limit."),
            blobs: gauge("blobs", "Objects in the repos directory, whole or not."),
        }
    }
}

impl OfRoute {
    fn count(&self, answered: &Answered) {
        self.requests[class(answered.status)].inc();
        self.sent_bytes.inc_by(answered.sent_len.saturating_sub(answered.counted_len));
        self.seconds.observe(answered.took.as_secs_f64());
        self.first_byte_seconds.observe(answered.first_byte.as_secs_f64());
        if answered.sent_len >= RATE_LEN_MIN {
            // A microsecond at least, or the fastest would count as infinitely fast.
            self.bytes_per_second.observe(answered.sent_len as f64 / answered.took.as_secs_f64().max(1e-6));
        }
    }
}

/// Returns the place of a status in [`CLASSES`].
fn class(status: u16) -> usize {
    match status {
        100..600 => usize::from(status / 100 - 1),
        _ => CLASSES.len() - 1,
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

fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts { common_opts: opts(name, help), buckets: buckets.into() }
}

fn histograms(name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    registered(HistogramVec::new(histogram(name, help, buckets), labels))
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
        let (first_byte, took) = (Duration::from_millis(3), Duration::from_millis(10));
        metrics.sent("test", 5);
        metrics.answered(&Answered { route: "test", status: 206, sent_len: 7, counted_len: 5, first_byte, took });
        metrics.answered(&Answered { route: "test", status: 999, sent_len: 1 << 20, counted_len: 0, first_byte, took });
        metrics.asked_upstream("test", Some(429), took);
        metrics.asked_upstream("test", None, took);
        metrics.received("test", 5);
        metrics.evicted("test", 2, 8192);
        metrics.evicted("none", 0, 0);
        metrics.blobs.set(3);
        let text = String::from_utf8(metrics.encode()).unwrap();
        for line in [
            "dingospeed_requests_total{route=\"test\",status=\"2xx\"} 1",
            "dingospeed_requests_total{route=\"test\",status=\"error\"} 1",
            "dingospeed_sent_bytes_total{route=\"test\"} 1048583",
            "dingospeed_request_seconds_count{route=\"test\"} 2",
            "dingospeed_first_byte_seconds_bucket{route=\"test\",le=\"0.005\"} 2",
            "dingospeed_first_byte_seconds_bucket{route=\"test\",le=\"0.0025\"} 0",
            // 1 MiB in 10 ms; seven bytes have no speed.
            "dingospeed_bytes_per_second_count{route=\"test\"} 1",
            "dingospeed_bytes_per_second_bucket{route=\"test\",le=\"100000000\"} 0",
            "dingospeed_bytes_per_second_bucket{route=\"test\",le=\"300000000\"} 1",
            "dingospeed_upstream_seconds_count{kind=\"test\"} 2",
            "dingospeed_upstream_limited_total{kind=\"test\"} 1",
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
