//! What the process is doing and how it has fared, read off its own metrics: the one source of these numbers, for `status --repos` and
//! for the page.

use crate::metrics::metrics;
use serde::{Deserialize, Serialize};

/// Labels of the routes by which clients get files.
const FILE_ROUTES: [&str; 3] = ["resolve", "raw", "layer"];

/// Counted since the start of the process, except where it says "now".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Requests running now.
    pub requests: u64,
    /// Connections of clients open now.
    pub connections: u64,
    /// Fetches under way now.
    pub flights: u64,
    pub sent: Sent,
    /// Blocks that readers wanted and that were there, or that others were fetching already.
    pub blocks_shared: u64,
    /// Blocks that were fetched.
    pub blocks_fetched: u64,
    pub upstreams: Vec<UpstreamHealth>,
    /// Requests upstream, and those of them that got no answer or one of 500 and above.
    pub upstream_requests: u64,
    pub upstream_failures: u64,
    /// Objects in the directory, whole or not, by the last look.
    pub objects: u64,
    /// Objects and blocks found broken, and errors of the disk.
    pub broken: u64,
    pub disk_errors: u64,
}

/// Bytes of bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub to_clients: u64,
    pub files_to_clients: u64,
    pub from_upstream: u64,
    pub files_from_upstream: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamHealth {
    /// `first` is `upstream.url`, `fallback-1` the first of `upstream.fallbacks`.
    pub name: String,
    pub up: bool,
}

impl Activity {
    /// Reads the metrics of this process.
    pub fn now() -> Activity {
        Activity::of(&String::from_utf8_lossy(&metrics().encode()))
    }

    /// Returns the part of the wanted blocks that cost no fetch of their own, in percent (rounds down); none when nothing was wanted.
    pub fn hit_percent(&self) -> Option<u64> {
        let all = self.blocks_shared + self.blocks_fetched;
        (all > 0).then(|| self.blocks_shared * 100 / all)
    }

    /// Returns the bytes of files that clients got and that did not come from upstream for them.
    pub fn saved_len(&self) -> u64 {
        self.sent.files_to_clients.saturating_sub(self.sent.files_from_upstream)
    }

    fn of(text: &str) -> Activity {
        let mut found = Activity::default();
        for line in text.lines() {
            let Some((series, value)) = line.strip_prefix("dingospeed_").and_then(|line| line.rsplit_once(' ')) else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // Every one of these is a whole number.
            let count = value.parse::<f64>().map_or(0, |value| value.max(0.0) as u64);
            let is = |label: &str, value: &str| labels.contains(&format!("{label}=\"{value}\""));
            match name {
                "clients" => found.requests = count,
                "connections" => found.connections = count,
                "flights" => found.flights = count,
                "sent_bytes_total" => {
                    found.sent.to_clients += count;
                    found.sent.files_to_clients += if FILE_ROUTES.iter().any(|route| is("route", route)) { count } else { 0 };
                }
                "upstream_bytes_total" => {
                    found.sent.from_upstream += count;
                    found.sent.files_from_upstream += if is("kind", "block") { count } else { 0 };
                }
                "blocks_hit_total" | "blocks_joined_total" => found.blocks_shared += count,
                "blobs" => found.objects = count,
                "blocks_filled_total" => found.blocks_fetched = count,
                "upstream_up" => {
                    let name = labels.split('"').nth(1).unwrap_or_default().to_owned();
                    found.upstreams.push(UpstreamHealth { name, up: count > 0 });
                }
                "upstream_requests_total" => {
                    found.upstream_requests += count;
                    found.upstream_failures += if is("status", "5xx") || is("status", "error") { count } else { 0 };
                }
                "objects_broken_total" | "blocks_broken_total" => found.broken += count,
                "disk_errors_total" => found.disk_errors = count,
                _ => {}
            }
        }
        found.upstreams.sort_by(|left, right| (left.name != "first", &left.name).cmp(&(right.name != "first", &right.name)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_add_up() {
        let told = Activity::of(concat!(
            "# HELP dingospeed_clients x\n",
            "dingospeed_clients 2\ndingospeed_flights 1\n",
            "dingospeed_sent_bytes_total{route=\"resolve\"} 9e2\ndingospeed_sent_bytes_total{route=\"raw\"} 100\ndingospeed_sent_bytes_total{route=\"info\"} 5\n",
            "dingospeed_upstream_bytes_total{kind=\"block\"} 400\n",
            "dingospeed_blocks_hit_total 2\ndingospeed_blocks_joined_total 1\ndingospeed_blocks_filled_total 1\n",
            "dingospeed_upstream_up{upstream=\"fallback-1\"} 0\ndingospeed_upstream_up{upstream=\"first\"} 1\n",
            "dingospeed_upstream_requests_total{kind=\"api\",status=\"2xx\"} 3\n",
            "dingospeed_upstream_requests_total{kind=\"api\",status=\"error\"} 1\nother 9\n",
        ));
        assert_eq!((told.requests, told.flights, told.sent.to_clients, told.sent.files_to_clients), (2, 1, 1005, 1000));
        assert_eq!((told.sent.files_from_upstream, told.saved_len(), told.hit_percent()), (400, 600, Some(75)));
        assert_eq!((told.upstream_requests, told.upstream_failures), (4, 1));
        assert_eq!(
            told.upstreams.iter().map(|one| (one.name.as_str(), one.up)).collect::<Vec<_>>(),
            [("first", true), ("fallback-1", false)]
        );
        assert_eq!(Activity::default().hit_percent(), None);
    }

    #[test]
    fn the_names_are_those_of_the_metrics() {
        metrics().blocks_filled.inc();
        metrics().received("block", 7);
        let told = Activity::now();
        assert!(told.blocks_fetched >= 1 && told.sent.files_from_upstream >= 7, "{told:?}");
    }
}
