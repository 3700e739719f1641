//! What the mirror says of itself: `/info`, and the status behind the page.

use super::guard::Rights;
use super::{Door, Panel, unix};
use crate::admin::Activity;
use crate::hub::{RepoId, Route};
use http::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Downloads that are told one by one; the largest.
const FLIGHTS_MAX: usize = 100;
/// Clients that are told one by one; those that ask most.
const CLIENTS_MAX: usize = 100;

impl Panel {
    /// Returns `/info`. Blocks for a system call.
    pub(super) fn info(&self, repo_count: usize) -> Value {
        let config = &self.mirror.config;
        json!({
            "name": "dingospeed",
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.began.elapsed().as_secs(),
            "upstream": self.mirror.origin.base(),
            "offline": config.upstream.offline,
            "kept": {
                "repos": repo_count,
                "objects": Activity::now().objects,
                "bytes": self.mirror.store.kept_len(),
            },
        })
    }

    /// Returns the status. Blocks: opens small files, a few for each download that is told.
    pub(super) fn status(&self, door: Door, rights: Rights, host: Option<&str>) -> Value {
        let (config, activity) = (&self.mirror.config, Activity::now());
        let (reads, hits) = self.mirror.hits_total();
        let space = self.mirror.store.space().ok();
        let (flights, flight_count, speed) = self.flights(rights);
        let upstreams: Vec<Value> = (self.mirror.origin.health().into_iter())
            .map(|(url, down)| json!({ "url": url, "up": down.is_none(), "down_seconds": down.map(|down| down.as_secs()) }))
            .collect();
        let mut clients = self.limits.connections.present_clients();
        clients.sort_unstable_by_key(|(address, count)| (u64::MAX - count, *address));
        let admin_by = match (door, self.guard.has_token()) {
            (_, true) => Some("token"),
            (Door::Admin, false) => Some("listener"),
            (Door::Main, false) => None,
        };
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.began.elapsed().as_secs(),
            "since": unix(self.began_at),
            "admin": rights == Rights::Admin,
            // How one becomes an admin at this address: `token`, `listener` (by being there), or not at all.
            "admin_by": admin_by,
            "endpoint": self.endpoint(door, host),
            "upstream": { "offline": config.upstream.offline, "upstreams": upstreams },
            "clients": {
                "addresses": clients.len(),
                "connections": activity.connections,
                "requests": activity.requests,
            },
            // Since the start; the mirror's own pulls are clients like others.
            "traffic": {
                "sent_bytes": activity.sent.files_to_clients,
                "fetched_bytes": activity.sent.files_from_upstream,
                "saved_bytes": activity.saved_len(),
                "reads": reads,
                "hits": hits,
            },
            "disk": {
                "kept_bytes": self.mirror.store.kept_len(),
                "objects": activity.objects,
                "free_bytes": space.map(|(free, _)| free),
                "total_bytes": space.map(|(_, total)| total),
                "max_bytes": config.eviction.max_size,
                "min_free_bytes": config.eviction.min_free,
                "max_used_percent": config.eviction.max_used_percent,
            },
            "flights": flights,
            "flight_count": flight_count,
            "bytes_per_second": speed,
        });
        if rights == Rights::Admin {
            let told = clients.iter().take(CLIENTS_MAX);
            status["clients"]["list"] =
                told.map(|(address, count)| json!({ "address": address.to_string(), "connections": count })).collect();
        }
        status
    }

    /// Returns the downloads that may be told by name, how many there are with the others, and the speed of all.
    fn flights(&self, rights: Rights) -> (Vec<Value>, usize, u64) {
        let all = self.mirror.flights();
        let speed = all.iter().map(|flight| flight.bytes_per_second).sum();
        let told = all.iter().take(FLIGHTS_MAX).filter_map(|flight| {
            let mut files = flight.targets.iter().filter(|(_, open)| *open || rights == Rights::Admin);
            let (repo, path) = files.find_map(|(target, _)| self.named(target, rights))?;
            Some(json!({
                "repo": repo.to_string(),
                "path": path,
                "size": flight.size,
                "bytes_present": flight.present_len,
                "bytes_per_second": flight.bytes_per_second,
            }))
        });
        (told.collect(), all.len(), speed)
    }

    /// Reads a resolve path, if whoever asks may know of the repo.
    fn named(&self, target: &str, rights: Rights) -> Option<(RepoId, String)> {
        let Ok(Route::Resolve { repo, path, .. }) = Route::parse(&Method::GET, target) else { return None };
        self.may_know(&repo, rights).then(|| (repo, path.to_string()))
    }

    /// Where clients are pointed to, when that is not where the page was asked for: only the browser knows that address for sure.
    fn endpoint(&self, door: Door, host: Option<&str>) -> Option<String> {
        let public = &self.mirror.config.server.public_url;
        match door {
            _ if !public.is_empty() => Some(public.clone()),
            Door::Main => None,
            Door::Admin => Some(beside(self.address, host)),
        }
    }
}

/// The server's main address, as whoever reached the admin's at `host` would write it.
fn beside(address: SocketAddr, host: Option<&str>) -> String {
    let is_legal =
        |host: &&str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    let named = host.filter(is_legal).map(|host| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    });
    match named {
        Some(name) if address.ip().is_unspecified() => format!("http://{name}:{}", address.port()),
        _ => format!("http://{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_address_is_told_beside_the_admins() {
        fn check(address: &str, host: Option<&str>, expected: &str) {
            assert_eq!(beside(address.parse().unwrap(), host), expected);
        }
        check("0.0.0.0:8090", Some("mirror.lan:8091"), "http://mirror.lan:8090");
        check("[::]:8090", Some("[::1]:8091"), "http://[::1]:8090");
        check("0.0.0.0:8090", Some("localhost"), "http://localhost:8090");
        check("127.0.0.1:8090", Some("mirror.lan:8091"), "http://127.0.0.1:8090");
        check("0.0.0.0:8090", Some("<script>"), "http://0.0.0.0:8090");
        check("0.0.0.0:8090", None, "http://0.0.0.0:8090");
    }
}
