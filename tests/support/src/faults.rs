//! What can go wrong on purpose, as a test says it: which requests, how often, and how.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Method;

use crate::gate::Gate;
use crate::log::Listener;
use crate::rules::{Action, Aim, Rule, Rules};

/// A rule in force. Dropping this leaves it in force.
pub struct Fault {
    pub(crate) rule: Arc<Rule>,
}

impl Fault {
    /// Returns how many requests it has struck.
    pub fn hits(&self) -> u64 {
        self.rule.hits.load(Relaxed)
    }

    /// Takes the rule away; bodies it has already struck go on as planned.
    pub fn lift(&self) {
        self.rule.lifted.store(true, Relaxed);
    }
}

/// Says which requests to strike; the last call of the chain says how, and puts the rule in force.
/// Without limits it strikes every request whose path, query or file contains the text.
#[must_use = "a fault needs its action"]
pub struct FaultBuilder {
    pub(crate) rules: Arc<Rules>,
    pub(crate) aim: Aim,
}

impl FaultBuilder {
    /// Strikes requests to the Hub only.
    pub fn on_hub(mut self) -> Self {
        self.aim.listener = Some(Listener::Hub);
        self
    }

    /// Strikes requests to the CDN only.
    pub fn on_cdn(mut self) -> Self {
        self.aim.listener = Some(Listener::Cdn);
        self
    }

    /// Strikes this method only; a name that is no method strikes nothing else and panics.
    pub fn method(mut self, name: &str) -> Self {
        self.aim.method = Some(Method::from_bytes(name.as_bytes()).expect("a test names a method"));
        self
    }

    /// Strikes only requests with a `Range`.
    pub fn ranged(mut self) -> Self {
        self.aim.ranged = true;
        self
    }

    /// Strikes `count` times, then no more.
    pub fn times(mut self, count: u64) -> Self {
        self.aim.times = Some(count);
        self
    }

    /// Strikes without limit, as without `times`.
    pub fn always(mut self) -> Self {
        self.aim.times = None;
        self
    }

    /// Lets the first `count` matching requests pass.
    pub fn after(mut self, count: u64) -> Self {
        self.aim.after = count;
        self
    }

    /// Strikes with this probability (0 to 1), by dice that fall the same for the same seed.
    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        self.aim.chance = Some((probability, seed));
        self
    }

    /// Closes the connection after this many bytes of a body whose whole length was promised.
    pub fn cut_after(self, bytes: u64) -> Fault {
        self.act(Action::CutAfter { bytes, reset: false })
    }

    /// Like `cut_after`, but with a TCP reset; what the client has not read yet may be lost to it.
    pub fn reset_after(self, bytes: u64) -> Fault {
        self.act(Action::CutAfter { bytes, reset: true })
    }

    /// Promises and sends only this many bytes: a clean end that is too early.
    pub fn short(self, bytes: u64) -> Fault {
        self.act(Action::Short { bytes, chunked: false })
    }

    /// Like `short`, chunked and with no `Content-Length`.
    pub fn short_chunked(self, bytes: u64) -> Fault {
        self.act(Action::Short { bytes, chunked: true })
    }

    /// Promises and sends this many bytes too many.
    pub fn longer(self, bytes: u64) -> Fault {
        self.act(Action::Longer(bytes))
    }

    /// Flips the lowest bit of the byte at this offset of the file, in bodies that hold it.
    pub fn flip(self, offset_in_file: u64) -> Fault {
        self.act(Action::Flip(offset_in_file))
    }

    /// Answers a `Range` with 200 and the whole.
    pub fn ignore_range(self) -> Fault {
        self.act(Action::IgnoreRange)
    }

    /// Sends the right bytes under a `Content-Range` that is one byte off.
    pub fn wrong_content_range(self) -> Fault {
        self.act(Action::WrongContentRange)
    }

    /// Names a total in `Content-Range` that is one byte too large.
    pub fn wrong_total(self) -> Fault {
        self.act(Action::WrongTotal)
    }

    /// Changes the hex of `ETag` and `X-Linked-Etag`.
    pub fn changed_etag(self) -> Fault {
        self.act(Action::ChangedEtag)
    }

    /// Never answers.
    pub fn hang_before_head(self) -> Fault {
        self.act(Action::HangBeforeHead)
    }

    /// Sends this many bytes of a body and then nothing more, with the connection open.
    pub fn hang_after(self, bytes: u64) -> Fault {
        self.act(Action::HangAfter(bytes))
    }

    /// Sends at this rate, in small pieces.
    pub fn trickle(self, bytes_per_second: u64) -> Fault {
        self.rate(bytes_per_second)
    }

    /// Limits each connection to this rate.
    pub fn rate(self, bytes_per_second: u64) -> Fault {
        assert!(bytes_per_second > 0, "a rate of nothing is `hang_after(0)`");
        self.act(Action::Rate(bytes_per_second))
    }

    /// Answers this status with these headers and a short text.
    pub fn status(self, code: u16, headers: &[(&str, &str)]) -> Fault {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.act(Action::Status { code, headers })
    }

    /// Answers 302 with this `Location`, as it is.
    pub fn redirect_to(self, url: &str) -> Fault {
        self.act(Action::RedirectTo(url.to_owned()))
    }

    /// Answers 307 to the same path and query.
    pub fn redirect_loop(self) -> Fault {
        self.act(Action::RedirectLoop)
    }

    /// Waits this long before it answers.
    pub fn latency(self, time: Duration) -> Fault {
        self.act(Action::Latency(time))
    }

    /// Holds requests before they are looked at, until the gate is released.
    pub fn hold(self) -> Gate {
        let gate = Gate::new(&self.aim.needle);
        self.act(Action::Hold(gate.barrier()));
        gate
    }

    /// Holds answers once this many bytes of their body are out, until the gate is released.
    pub fn hold_after(self, bytes: u64) -> Gate {
        let gate = Gate::new(&self.aim.needle);
        self.act(Action::HoldAfter(bytes, gate.barrier()));
        gate
    }

    pub(crate) fn act(self, action: Action) -> Fault {
        self.rules.add(self.aim, action)
    }
}
