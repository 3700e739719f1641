//! Whether a host is worth asking: a circuit breaker with half-open probes. Pure; the clock is an argument.
//!
//! ```text
//!             enough failures                    `due`: one probe
//!   closed ───────────────────────> open ─────────────────────────> half open
//!     ^                              ^                                │    │
//!     └───── any answer ─────────────┼──────── the probe fails ───────┘    │
//!     └──────────────────────────────┼─────────────── any answer ──────────┘
//! ```
//!
//! Two things are watched, since they have different remedies. *Unreachable*: nothing comes back at all, and nobody should
//! wait for it. *Failing*: the host says 5xx to everything; connections are fine and bytes may flow, but questions are
//! useless for a moment and what is kept should be given at once.
//!
//! Who may read what is asked all the same until there is proof that the host is gone: that a connection fails, or that such a
//! question is left without an answer. Any other may be slow by itself, and whoever knows one that is would say when the host is down.

use std::time::{Duration, Instant};

/// Quick failures in a row (refused, name unknown, no TLS, silence of a few seconds) before the host counts as down.
/// A refusal costs nobody any time and a restarting server refuses for a moment, so one is not yet news.
const QUICK_FAILURES_MAX: u32 = 3;
/// Different questions given up early, with nothing heard in between, before the host counts as down.
const GIVEN_UP_MAX: usize = 3;
/// Different repos, or different questions of one repo, that must be answered with 5xx in a row. A file or repo that is
/// broken on the Hub, asked again and again, stays its own trouble.
const FAILING_MAX: usize = 3;
/// Questions remembered while they fail; the oldest goes.
const STREAK_MAX: usize = 32;
/// From failure to the next probe: doubles up to the longest. Short, since a probe costs one client a moment at most, and
/// everybody waits for the way back.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How a host failed to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Without costing much time.
    Quick,
    /// Silence for less than a question may take: the caller had something else to give. It may be this one question that is
    /// slow, so only different ones together speak of the host.
    Impatient,
    /// Silence for the whole time that a question may take: once is enough, the next one would wait as long.
    Silent,
}

/// What a question is about, by hashes: a repo (or a path without one), and the question itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) repo: u64,
    pub(super) question: u64,
}

/// Whether a request may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// May be sent, and nothing else until its outcome is told by [`Breaker::answered`], [`Breaker::failed`] or
    /// [`Breaker::abandoned`].
    Probe,
    Closed {
        reason: Reason,
        since: Instant,
        retry_in: Duration,
    },
}

/// What keeps a breaker open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Unreachable,
    Failing,
}

/// A change worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Down(Reason),
    Back { after: Duration },
}

/// The state of one host.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    quick_failures: u32,
    /// Questions that were given up early since the host last said anything; each once.
    given_up: Vec<u64>,
    /// The last time the host said anything.
    heard_at: Option<Instant>,
    unreachable: Option<Open>,
    /// Whether there is proof that nothing comes back, since the host last said anything.
    proven: bool,
    /// Questions answered with 5xx since the last good answer; each once.
    streak: Vec<Subject>,
    failing: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    due: Instant,
    wait: Duration,
    probing: bool,
    /// Whether it is the host that is down, which was told by [`Change::Down`]; one failing repo is not news.
    told: bool,
}

impl Open {
    fn new(now: Instant) -> Open {
        Open { since: now, due: now + WAIT_MIN, wait: WAIT_MIN, probing: false, told: false }
    }

    fn admit(&mut self, reason: Reason, now: Instant) -> Verdict {
        if now < self.due || self.probing {
            let retry_in = self.due.saturating_duration_since(now).max(WAIT_MIN);
            return Verdict::Closed { reason, since: self.since, retry_in };
        }
        self.probing = true;
        Verdict::Probe
    }

    fn close(self, now: Instant) -> Option<Change> {
        self.told.then(|| Change::Back { after: now.duration_since(self.since) })
    }

    fn probe_failed(&mut self, now: Instant) {
        self.probing = false;
        self.wait = (self.wait * 2).min(WAIT_MAX);
        self.due = now + self.wait;
    }
}

impl Breaker {
    /// May a request go out? `subject` is what a question is about; requests for bytes have none. A `deciding` one is about who
    /// may read what.
    pub(super) fn admit(&mut self, subject: Option<Subject>, deciding: bool, now: Instant) -> Verdict {
        if let Some(open) = self.unreachable.as_mut().filter(|_| self.proven || !deciding) {
            return open.admit(Reason::Unreachable, now);
        }
        match (&mut self.failing, subject) {
            (Some(open), Some(subject)) if !deciding && is_failing(&self.streak, subject) => open.admit(Reason::Failing, now),
            _ => Verdict::Pass,
        }
    }

    /// Whether nothing comes from the host, as far as is known; asks for no probe.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.unreachable.as_ref().is_some_and(|open| open.probing || now < open.due)
    }

    /// The same, and there is proof that it is not just one question that it does not answer.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        self.proven && self.is_down(now)
    }

    /// Since when the host is down, as far as was told by [`Change::Down`].
    pub(super) fn down_since(&self) -> Option<Instant> {
        [&self.unreachable, &self.failing].into_iter().flatten().filter(|open| open.told).map(|open| open.since).min()
    }

    /// Whether the host is down, as far as was told, and nobody has asked it for so long that a probe would go out. One that answers,
    /// if only by failing, is the clients' to ask first: what it says to another question is no word on what fails.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_due = |open: &Open, after: Duration| open.told && !open.probing && now >= open.due + after;
        self.unreachable.as_ref().is_some_and(|open| is_due(open, Duration::ZERO))
            || self.failing.as_ref().is_some_and(|open| is_due(open, WAIT_MAX))
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_closed(&self) -> bool {
        let is_quiet = self.quick_failures == 0 && self.given_up.is_empty() && self.streak.is_empty();
        self.unreachable.is_none() && self.failing.is_none() && is_quiet
    }

    /// An answer came, whatever it says; `fails` when it is a 5xx to a question.
    pub(super) fn answered(&mut self, subject: Option<Subject>, fails: bool, probe: bool, now: Instant) -> Option<Change> {
        self.heard_at = Some(now);
        self.quick_failures = 0;
        self.given_up.clear();
        self.proven = false;
        let back = self.unreachable.take().and_then(|open| open.close(now));
        let Some(subject) = subject else { return back };
        if !fails {
            self.streak.clear();
            let recovered = self.failing.take().and_then(|open| open.close(now));
            return back.or(recovered);
        }
        if !self.streak.contains(&subject) {
            if self.streak.len() >= STREAK_MAX {
                self.streak.remove(0);
            }
            self.streak.push(subject);
        }
        if !is_failing(&self.streak, subject) {
            return back;
        }
        // Answers to what was asked before it opened tell nothing new; those to probes do.
        let open = self.failing.get_or_insert_with(|| Open::new(now));
        if probe {
            open.probe_failed(now);
        }
        if !open.told && repo_count(&self.streak) >= FAILING_MAX {
            open.told = true;
            return Some(Change::Down(Reason::Failing));
        }
        back
    }

    /// Nothing came back for a request sent at `asked_at`. `proof` when that cannot be due to the request itself.
    pub(super) fn failed(
        &mut self,
        subject: Option<Subject>,
        failure: Failure,
        probe: bool,
        proof: bool,
        asked_at: Instant,
        now: Instant,
    ) -> Option<Change> {
        // The host has spoken to others meanwhile: this one question is slow, not the host.
        let has_spoken = self.heard_at.is_some_and(|heard| heard > asked_at);
        self.proven |= proof && !has_spoken;
        if let Some(open) = &mut self.unreachable {
            if probe {
                open.probe_failed(now);
            }
            return None;
        }
        // A probe of a failing host that was not even answered.
        if let Some(open) = self.failing.as_mut().filter(|_| probe) {
            open.probe_failed(now);
        }
        if has_spoken {
            return None;
        }
        let is_enough = match (failure, subject) {
            (Failure::Silent, _) => true,
            (Failure::Impatient, Some(Subject { question, .. })) => {
                if !self.given_up.contains(&question) {
                    self.given_up.push(question);
                }
                self.given_up.len() >= GIVEN_UP_MAX
            }
            (Failure::Quick | Failure::Impatient, _) => {
                self.quick_failures += 1;
                self.quick_failures >= QUICK_FAILURES_MAX
            }
        };
        if !is_enough {
            return None;
        }
        self.given_up.clear();
        self.unreachable = Some(Open { told: true, ..Open::new(now) });
        Some(Change::Down(Reason::Unreachable))
    }

    /// A probe was given up by its caller: the next one may try at once.
    pub(super) fn abandoned(&mut self) {
        for open in [&mut self.unreachable, &mut self.failing].into_iter().flatten() {
            open.probing = false;
        }
    }
}

/// Whether the answers so far speak of the host as a whole, or of the subject's repo as a whole.
fn is_failing(streak: &[Subject], subject: Subject) -> bool {
    let questions = streak.iter().filter(|known| known.repo == subject.repo).count();
    questions >= FAILING_MAX || repo_count(streak) >= FAILING_MAX
}

fn repo_count(streak: &[Subject]) -> usize {
    let mut repos: Vec<u64> = streak.iter().map(|known| known.repo).collect();
    repos.sort_unstable();
    repos.dedup();
    repos.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Subject = Subject { repo: 1, question: 1 };
    const B: Subject = Subject { repo: 2, question: 2 };
    const C: Subject = Subject { repo: 3, question: 3 };
    const SECOND: Duration = Duration::from_secs(1);

    fn is_refused(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Closed { .. })
    }

    #[test]
    fn silence_opens_at_once_and_one_probe_at_a_time_looks_again() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.admit(Some(A), false, start), Verdict::Pass);
        let now = start + 8 * SECOND;
        assert_eq!(breaker.failed(None, Failure::Silent, false, true, start, now), Some(Change::Down(Reason::Unreachable)));
        assert!(is_refused(breaker.admit(Some(B), false, now)), "questions");
        assert!(is_refused(breaker.admit(None, false, now)), "and bytes");
        // Others that had been asked before it opened fail too; that changes nothing.
        assert_eq!(breaker.failed(None, Failure::Silent, false, true, start, now + SECOND / 4), None);

        let now = now + WAIT_MIN;
        assert_eq!(breaker.admit(Some(B), false, now), Verdict::Probe);
        assert!(is_refused(breaker.admit(Some(B), false, now)), "one probe");
        assert_eq!(breaker.failed(None, Failure::Silent, true, true, now, now), None);
        assert!(is_refused(breaker.admit(Some(B), false, now + WAIT_MIN)), "the wait has doubled");
        assert_eq!(breaker.admit(Some(B), false, now + 2 * WAIT_MIN), Verdict::Probe);
        breaker.abandoned();
        let now = now + 2 * WAIT_MIN;
        assert_eq!(breaker.admit(None, false, now), Verdict::Probe);
        let after = now - (start + 8 * SECOND);
        assert_eq!(breaker.answered(None, false, true, now), Some(Change::Back { after }));
        assert_eq!(breaker.admit(Some(A), false, now), Verdict::Pass);
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_probe_is_due_only_while_the_host_is_told_to_be_down() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert!(!breaker.is_due(now), "up");
        breaker.failed(None, Failure::Silent, false, true, now, now);
        assert!(!breaker.is_due(now), "it has just been asked");
        let now = now + WAIT_MIN;
        assert!(breaker.is_due(now));
        assert_eq!(breaker.admit(Some(A), false, now), Verdict::Probe);
        assert!(!breaker.is_due(now), "somebody asks");
        breaker.failed(Some(A), Failure::Quick, true, true, now, now);
        assert!(!breaker.is_due(now + WAIT_MIN) && breaker.is_due(now + 2 * WAIT_MIN), "as seldom as any probe");
        breaker.answered(Some(A), false, true, now);
        assert!(!breaker.is_due(now + WAIT_MAX), "back");
        for question in 0..FAILING_MAX as u64 {
            breaker.answered(Some(Subject { repo: A.repo, question }), true, false, now);
        }
        assert!(!breaker.is_due(now + 2 * WAIT_MAX), "one repo is not the host");
        for repo in 0..FAILING_MAX as u64 {
            breaker.answered(Some(Subject { repo, question: 0 }), true, false, now);
        }
        assert!(breaker.failing.as_ref().is_some_and(|open| open.told));
        assert!(!breaker.is_due(now + WAIT_MIN), "first it is the clients' to ask");
        assert!(breaker.is_due(now + WAIT_MIN + WAIT_MAX));
    }

    #[test]
    fn the_wait_grows_to_its_bound() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(None, Failure::Silent, false, true, now, now);
        for _ in 0..20 {
            now += WAIT_MAX;
            assert_eq!(breaker.admit(None, false, now), Verdict::Probe);
            breaker.failed(None, Failure::Quick, true, true, now, now);
        }
        assert!(is_refused(breaker.admit(None, false, now + WAIT_MAX - SECOND)));
        assert_eq!(breaker.admit(None, false, now + WAIT_MAX), Verdict::Probe);
    }

    #[test]
    fn a_few_refusals_in_a_row_open() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..QUICK_FAILURES_MAX - 1 {
            assert_eq!(breaker.failed(None, Failure::Quick, false, true, now, now), None);
        }
        breaker.answered(None, false, false, now);
        for _ in 0..QUICK_FAILURES_MAX - 1 {
            assert_eq!(breaker.failed(None, Failure::Quick, false, true, now + SECOND, now + SECOND), None, "in a row");
        }
        assert_eq!(
            breaker.failed(None, Failure::Quick, false, true, now + SECOND, now + SECOND),
            Some(Change::Down(Reason::Unreachable))
        );
    }

    #[test]
    fn one_slow_question_is_not_the_host() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.answered(Some(B), false, false, start + SECOND);
        assert_eq!(breaker.failed(None, Failure::Silent, false, true, start, start + 8 * SECOND), None);
        assert_eq!(breaker.admit(Some(A), false, start + 8 * SECOND), Verdict::Pass);
    }

    #[test]
    fn who_may_read_is_asked_until_there_is_proof() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let down = Some(Change::Down(Reason::Unreachable));
        let now = start + 8 * SECOND;
        assert_eq!(breaker.failed(Some(A), Failure::Silent, false, false, start, now), down);
        assert!(is_refused(breaker.admit(Some(A), false, now)));
        assert_eq!(breaker.admit(Some(B), true, now), Verdict::Pass);
        assert_eq!(breaker.admit(Some(C), true, now), Verdict::Pass);
        assert_eq!(breaker.failed(Some(B), Failure::Impatient, false, true, now, now + 5 * SECOND), None);
        assert!(is_refused(breaker.admit(Some(B), true, now)), "now it is known");
        assert!(breaker.answered(Some(C), false, false, now + 6 * SECOND).is_some());
        // The next time as well.
        let now = now + 20 * SECOND;
        assert_eq!(breaker.failed(Some(A), Failure::Silent, false, false, now - 8 * SECOND, now), down);
        assert_eq!(breaker.admit(Some(B), true, now), Verdict::Pass);
        assert!(matches!(breaker.answered(Some(B), false, false, now), Some(Change::Back { .. })));
        assert_eq!(breaker.admit(Some(A), false, now), Verdict::Pass);
    }

    #[test]
    fn a_question_given_up_early_again_and_again_is_its_own_trouble() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            assert_eq!(breaker.failed(Some(A), Failure::Impatient, false, true, start, start + 3 * SECOND), None);
        }
        assert_eq!(breaker.failed(Some(B), Failure::Impatient, false, true, start, start + 3 * SECOND), None);
        breaker.answered(None, false, false, start + 4 * SECOND);
        let (asked_at, now) = (start + 5 * SECOND, start + 8 * SECOND);
        assert_eq!(breaker.failed(Some(A), Failure::Impatient, false, true, asked_at, now), None, "anew");
        assert_eq!(breaker.failed(Some(B), Failure::Impatient, false, true, asked_at, now), None);
        let down = Some(Change::Down(Reason::Unreachable));
        assert_eq!(breaker.failed(Some(C), Failure::Impatient, false, true, asked_at, now), down, "three different ones");
    }

    #[test]
    fn one_broken_file_closes_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert_eq!(breaker.answered(Some(A), true, false, now), None);
        }
        assert_eq!(breaker.admit(Some(A), false, now), Verdict::Pass);
        assert_eq!(breaker.admit(Some(B), false, now), Verdict::Pass);
    }

    #[test]
    fn one_broken_repo_closes_itself_only() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let of_a = |question| Subject { repo: A.repo, question };
        assert_eq!(breaker.answered(Some(of_a(1)), true, false, now), None);
        assert_eq!(breaker.answered(Some(of_a(2)), true, false, now), None);
        assert_eq!(breaker.answered(Some(of_a(3)), true, false, now), None, "the host is not down");
        assert!(is_refused(breaker.admit(Some(of_a(4)), false, now)));
        assert_eq!(breaker.admit(Some(B), false, now), Verdict::Pass, "another repo");
        assert_eq!(breaker.answered(Some(B), false, false, now), None);
        assert_eq!(breaker.admit(Some(A), false, now), Verdict::Pass);
    }

    #[test]
    fn failing_for_all_closes_questions_but_not_bytes() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.answered(Some(A), true, false, now);
        breaker.answered(Some(B), true, false, now);
        assert_eq!(breaker.answered(Some(C), true, false, now), Some(Change::Down(Reason::Failing)));
        assert!(is_refused(breaker.admit(Some(Subject { repo: 4, question: 4 }), false, now)));
        assert_eq!(breaker.admit(None, false, now), Verdict::Pass);
        // Bytes that flow say nothing about questions.
        assert_eq!(breaker.answered(None, false, false, now), None);
        assert!(is_refused(breaker.admit(Some(A), false, now)));
        let now = now + WAIT_MIN;
        assert_eq!(breaker.admit(Some(A), false, now), Verdict::Probe);
        assert_eq!(breaker.answered(Some(A), true, true, now), None);
        assert!(is_refused(breaker.admit(Some(A), false, now + WAIT_MIN)));
        assert_eq!(breaker.admit(Some(B), false, now + 2 * WAIT_MIN), Verdict::Probe);
        assert!(matches!(breaker.answered(Some(B), false, true, now + 2 * WAIT_MIN), Some(Change::Back { .. })));
        assert_eq!(breaker.admit(Some(C), false, now + 2 * WAIT_MIN), Verdict::Pass);
    }
}
