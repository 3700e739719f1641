//! What is known of all hosts: their breakers, and until when they want to be left alone. Asked before each request, told of
//! each outcome, with a line in the log when one goes or returns.

use super::breaker::{Breaker, Change, Failure, Reason, Subject, Verdict};
use super::hold::Holds;
use super::{SourceError, Url};
use crate::alarms::{Alarm, raise};
use crate::metrics::metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Hosts remembered: the upstreams and their CDNs are a handful. Beyond this those without trouble are forgotten, then all.
const HOSTS_MAX: usize = 256;
/// The label of all hosts that are not configured as upstreams.
const CDN: &str = "cdn";

type Key = (bool, String, u16);

/// Every host that was asked lately.
pub(super) struct Hosts {
    /// Guarded by itself, held for moments.
    known: Mutex<HashMap<Key, Arc<Host>>>,
    upstreams: Vec<Key>,
}

struct Host {
    name: String,
    label: String,
    state: Mutex<(Breaker, LastCause)>,
    holds: Mutex<Holds>,
}

type LastCause = String;

/// One request's leave to go out. Dropped without an outcome, it frees the place of a probe for the next one.
pub(super) struct Pass {
    host: Arc<Host>,
    subject: Option<Subject>,
    probe: bool,
    deciding: bool,
    asked_at: Instant,
    told: bool,
}

fn key(url: &Url) -> Key {
    (url.tls, url.host.clone(), url.port)
}

impl Hosts {
    pub(super) fn new<'a>(upstreams: impl Iterator<Item = &'a Url>) -> Hosts {
        let hosts = Hosts { known: Mutex::default(), upstreams: upstreams.map(key).collect() };
        for key in &hosts.upstreams {
            metrics().upstream_up(&hosts.label(key), true);
        }
        hosts
    }

    fn host(&self, url: &Url) -> Arc<Host> {
        let key = key(url);
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(host) = known.get(&key) {
            return host.clone();
        }
        if known.len() >= HOSTS_MAX {
            let now = Instant::now();
            known.retain(|_, host| !host.state().0.is_closed() || !host.holds().is_empty(now));
            if known.len() >= HOSTS_MAX {
                known.clear();
            }
        }
        let name = url.authority();
        let label = self.label(&key);
        known.entry(key).or_insert(Arc::new(Host { name, label, state: Mutex::default(), holds: Mutex::default() })).clone()
    }

    /// By place and not by name, so that the labels stay a handful of words.
    fn label(&self, key: &Key) -> String {
        match self.upstreams.iter().position(|upstream| upstream == key) {
            None => CDN.to_owned(),
            Some(0) => "first".to_owned(),
            Some(index) => format!("fallback-{index}"),
        }
    }

    /// Lets a request go out, or says since when the host is down. A deciding question goes out although others are answered with
    /// 5xx, and until it is proven that there is no answer to any.
    pub(super) fn admit(&self, url: &Url, subject: Option<Subject>, deciding: bool) -> Result<Pass, SourceError> {
        let host = self.host(url);
        let now = Instant::now();
        let verdict = host.state().0.admit(subject, deciding, now);
        let probe = match verdict {
            Verdict::Pass => false,
            Verdict::Probe => true,
            Verdict::Closed { reason, since, retry_in } => {
                metrics().upstream_skipped(&host.label);
                return Err(host.closed(reason, now - since, retry_in));
            }
        };
        Ok(Pass { host, subject, probe, deciding, asked_at: now, told: false })
    }

    /// An error while the host wants to be left alone with what is about `thing`.
    pub(super) fn check_hold(&self, url: &Url, thing: u64) -> Result<(), SourceError> {
        let host = self.host(url);
        let now = Instant::now();
        let Some(hold) = host.holds().of(Some(thing), now) else { return Ok(()) };
        let retry_after = Some(hold.until.saturating_duration_since(now));
        Err(SourceError::Busy { host: host.name.clone(), status: hold.status, retry_after })
    }

    /// Returns since when a host is known to be down, if it is; asks for no probe.
    pub(super) fn down_since(&self, url: &Url) -> Option<Instant> {
        self.host(url).state().0.down_since()
    }

    /// Whether a host is known to be unreachable.
    pub(super) fn is_down(&self, url: &Url) -> bool {
        self.host(url).state().0.is_down(Instant::now())
    }

    /// See [`Breaker::is_due`].
    pub(super) fn is_due(&self, url: &Url) -> bool {
        self.host(url).state().0.is_due(Instant::now())
    }

    pub(super) fn is_gone(&self, url: &Url) -> bool {
        self.host(url).state().0.is_gone(Instant::now())
    }
}

impl Host {
    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn state(&self) -> MutexGuard<'_, (Breaker, LastCause)> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn closed(&self, reason: Reason, down_for: Duration, retry_in: Duration) -> SourceError {
        let (down_for, retry_in) = (down_for.as_secs(), retry_in.as_secs_f64());
        let cause = match reason {
            Reason::Unreachable => {
                format!("down since {down_for} s, asked again in {retry_in:.1} s; last: {}", self.state().1)
            }
            Reason::Failing => format!("answers 5xx since {down_for} s, asked again in {retry_in:.1} s"),
        };
        SourceError::Unreachable { host: self.name.clone(), cause }
    }

    fn tell(&self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Down(reason)) => {
                let cause = match reason {
                    Reason::Unreachable => self.state().1.clone(),
                    Reason::Failing => "it answers 5xx to everything".to_owned(),
                };
                log::warn!("down upstream={} cause={cause:?}; what is kept is served, and it is asked now and then", self.name);
                metrics().upstream_opened(&self.label);
                if self.label != CDN {
                    raise(|| Alarm::UpstreamDown { upstream: self.name.clone(), cause });
                }
                self.gauge(false);
            }
            Some(Change::Back { after }) => {
                log::warn!("back upstream={} after_seconds={:.1}", self.name, after.as_secs_f64());
                if self.label != CDN {
                    raise(|| Alarm::UpstreamBack { upstream: self.name.clone() });
                }
                self.gauge(true);
            }
        }
    }

    /// A CDN's many hosts share a label, and one of them says nothing about the others.
    fn gauge(&self, up: bool) {
        if self.label != CDN {
            metrics().upstream_up(&self.label, up);
        }
    }
}

impl Pass {
    /// The request is sent now, after a wait for its turn.
    pub(super) fn sent(&mut self) {
        self.asked_at = Instant::now();
    }

    pub(super) fn waited(&self) -> Duration {
        self.asked_at.elapsed()
    }

    /// The host wants to be left alone; see [`Holds::learn`].
    pub(super) fn hold(&self, status: u16, retry_after: Duration, thing: u64) {
        log::warn!("limited upstream={} status={status} seconds={}", self.host.name, retry_after.as_secs());
        self.host.holds().learn(status, retry_after, Some(thing), Instant::now());
    }

    /// The host answered, whatever it said.
    pub(super) fn answered(mut self, status: u16) {
        self.told = true;
        let fails = self.subject.is_some() && status >= 500;
        let change = self.host.state().0.answered(self.subject, fails, self.probe, Instant::now());
        self.host.tell(change);
    }

    /// The host did not answer; `connected` if only that is missing.
    pub(super) fn failed(mut self, failure: Failure, connected: bool, cause: &str) {
        self.told = true;
        let proof = self.deciding || !connected;
        let change = {
            let mut state = self.host.state();
            state.1 = cause.to_owned();
            state.0.failed(self.subject, failure, self.probe, proof, self.asked_at, Instant::now())
        };
        self.host.tell(change);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe && !self.told {
            self.host.state().0.abandoned();
        }
    }
}
