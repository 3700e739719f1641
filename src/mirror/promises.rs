//! What a client was told of a branch holds for its next requests, whatever the branch does meanwhile.
//!
//! Clients ask a HEAD of `main`, then a GET of `main`, and hold the one to the other; and when a GET breaks off they ask for
//! the rest. The Hub answers a HEAD with an address that names the content, so there both agree. The mirror answers under the
//! address that was asked, so it has to remember what it has said.

use crate::hub::{Commit, FilePath, RepoId, Revision};
use std::time::{Duration, Instant};

/// A client asks for the file within this time after its head, and for its parts within this time of each other.
const HELD_FOR: Duration = Duration::from_secs(60);
/// The rest of a download that broke off, or was stopped, is asked for within this time.
const RESUMED_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// When a promise was kept last is known to this much.
const NOTED_EVERY: Duration = Duration::from_secs(1);
/// Beyond this many the oldest are forgotten, which only matters to those whose branch moves just then.
const PROMISES_MAX: u64 = 100_000;

/// Who was told of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    /// The client's address, as far as it is known.
    pub client: String,
    /// Of its token.
    pub fingerprint: [u8; 32],
    pub repo: RepoId,
    pub revision: Revision,
    pub path: FilePath,
}

/// What part of a file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Head,
    Whole,
    /// From some byte to some byte.
    Range,
    /// From some byte but the first to the end.
    Rest,
}

#[derive(Clone, Copy)]
struct Promise {
    commit: Commit,
    /// When a head was told last.
    told: Option<Instant>,
    /// When it was kept or made last.
    used: Instant,
}

/// What was told lately.
pub(super) struct Promises(moka::sync::Cache<Asker, Promise>);

impl Promises {
    pub(super) fn new() -> Promises {
        Promises(moka::sync::Cache::builder().max_capacity(PROMISES_MAX).time_to_idle(RESUMED_WITHIN).build())
    }

    /// The commit that the revision has to be for this request.
    pub(super) fn due(&self, asker: &Asker, part: Part, now: Instant) -> Option<Commit> {
        let promise = self.0.get(asker)?;
        binds(promise, part, now).then_some(promise.commit)
    }

    /// Notes what a request was told.
    pub(super) fn make(&self, asker: Asker, part: Part, commit: Commit, now: Instant) {
        let old = self.0.get(&asker).filter(|promise| promise.commit == commit);
        let told = match part {
            Part::Head => Some(now),
            _ => old.and_then(|promise| promise.told),
        };
        // A client that asks again and again need not have each time written down.
        let is_noted = |old: Promise| old.told == told && now.saturating_duration_since(old.used) < NOTED_EVERY;
        if old.is_some_and(is_noted) {
            return;
        }
        // Parts alone promise nothing: who reads here and there wants the branch as it is.
        if old.is_some() || matches!(part, Part::Head | Part::Whole) {
            self.0.insert(asker, Promise { commit, told, used: now });
        }
    }
}

/// Only a head binds a whole file: a client that fetches the file again and again without asking wants the new one.
fn binds(promise: Promise, part: Part, now: Instant) -> bool {
    let within = |since: Instant, limit| now.saturating_duration_since(since) < limit;
    match part {
        Part::Head => false,
        Part::Whole => promise.told.is_some_and(|told| within(told, HELD_FOR)),
        Part::Range => within(promise.used, HELD_FOR),
        Part::Rest => within(promise.used, RESUMED_WITHIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::RepoKind;

    #[test]
    fn what_was_told_holds_for_a_while() {
        let start = Instant::now();
        let commit = Commit::parse(&"a".repeat(40)).unwrap();
        let asker = |client: &str| Asker {
            client: client.to_owned(),
            fingerprint: [0; 32],
            repo: RepoId::parse(RepoKind::Model, "o/m").unwrap(),
            revision: Revision::parse("main").unwrap(),
            path: FilePath::parse("a").unwrap(),
        };
        let check = |told: Part, part: Part, seconds: u64, expected: bool| {
            let promises = Promises::new();
            promises.make(asker("one"), told, commit, start);
            let now = start + Duration::from_secs(seconds);
            assert_eq!(promises.due(&asker("one"), part, now).is_some(), expected, "{told:?} {part:?} after {seconds} s");
            assert_eq!(promises.due(&asker("two"), part, now), None);
        };
        for part in [Part::Whole, Part::Range, Part::Rest] {
            check(Part::Head, part, 59, true);
        }
        check(Part::Head, Part::Head, 1, false);
        check(Part::Head, Part::Whole, 61, false);
        check(Part::Head, Part::Range, 61, false);
        check(Part::Head, Part::Rest, 3600, true);
        check(Part::Whole, Part::Whole, 1, false);
        check(Part::Whole, Part::Rest, 3600, true);
        check(Part::Range, Part::Range, 1, false);
        check(Part::Head, Part::Rest, 7 * 3600, false);
    }

    #[test]
    fn parts_keep_a_promise_alive_and_whole_files_do_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let commit = Commit::parse(&"a".repeat(40)).unwrap();
        let asker = Asker {
            client: String::new(),
            fingerprint: [0; 32],
            repo: RepoId::parse(RepoKind::Model, "o/m").unwrap(),
            revision: Revision::parse("main").unwrap(),
            path: FilePath::parse("a").unwrap(),
        };
        let promises = Promises::new();
        promises.make(asker.clone(), Part::Head, commit, start);
        for n in 1..10 {
            assert_eq!(promises.due(&asker, Part::Range, at(n * 50)), Some(commit));
            promises.make(asker.clone(), Part::Range, commit, at(n * 50));
        }
        assert_eq!(promises.due(&asker, Part::Whole, at(451)), None);
    }
}
