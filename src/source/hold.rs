//! For how long a host wants to be left alone, by the `Retry-After` of its answers. Pure; the clock is an argument.
//!
//! A 429 speaks of us, whatever was asked. A 503 may speak of one thing: of an upstream's, whose answers are made for each repo,
//! that repo; of a host of bytes, the object at that path. Once several were answered so it speaks of the host as a whole.

use std::time::{Duration, Instant};

/// No header keeps us silent for longer.
const TOO_MANY_MAX: Duration = Duration::from_secs(600);
/// Nor a 503, which may be no more than a bad moment.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(60);
/// So many things that want to be left alone at the same time are the host.
const THINGS_MAX: usize = 3;

/// A host's wish to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// 429 or 503: what it said, and what is said for it until then.
    pub(super) status: u16,
    pub(super) until: Instant,
}

/// The wishes of one host.
#[derive(Debug, Default)]
pub(super) struct Holds {
    all: Option<Hold>,
    /// Of single things, by hash.
    things: Vec<(u64, Hold)>,
}

impl Holds {
    /// Takes in an answer. `thing` is what a 503 may be about; `None` where only the host can be meant.
    pub(super) fn learn(&mut self, status: u16, retry_after: Duration, thing: Option<u64>, now: Instant) {
        let most = if status == 429 { TOO_MANY_MAX } else { UNAVAILABLE_MAX };
        let mut hold = Hold { status, until: now + retry_after.min(most) };
        self.forget_past(now);
        if let Some(thing) = thing.filter(|_| status != 429) {
            self.things.retain(|(known, _)| *known != thing);
            self.things.push((thing, hold));
            if self.things.len() < THINGS_MAX {
                return;
            }
            hold = self.things.drain(..).map(|(_, hold)| hold).max_by_key(|hold| hold.until).unwrap_or(hold);
        }
        if self.all.is_none_or(|known| known.until < hold.until) {
            self.all = Some(hold);
        }
    }

    /// What keeps a request about `thing` from being sent.
    pub(super) fn of(&self, thing: Option<u64>, now: Instant) -> Option<Hold> {
        let own = self.things.iter().find(|(known, _)| Some(*known) == thing).map(|(_, hold)| *hold);
        [self.all, own].into_iter().flatten().filter(|hold| now < hold.until).max_by_key(|hold| hold.until)
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget_past(now);
        self.all.is_none() && self.things.is_empty()
    }

    fn forget_past(&mut self, now: Instant) {
        self.all = self.all.filter(|hold| now < hold.until);
        self.things.retain(|(_, hold)| now < hold.until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_host_is_left_alone_as_long_as_it_asked() {
        let now = Instant::now();
        let mut holds = Holds::default();
        assert_eq!(holds.of(None, now), None);
        holds.learn(503, 5 * SECOND, None, now);
        // The longer wish counts, whichever came last.
        holds.learn(429, 3 * SECOND, Some(7), now);
        assert_eq!(holds.of(None, now), Some(Hold { status: 503, until: now + 5 * SECOND }));
        assert_eq!(holds.of(Some(1), now + 4 * SECOND).map(|hold| hold.status), Some(503));
        assert_eq!(holds.of(None, now + 5 * SECOND), None);
        assert!(!holds.is_empty(now + 4 * SECOND) && holds.is_empty(now + 5 * SECOND));
    }

    #[test]
    fn wishes_are_bounded() {
        let now = Instant::now();
        let mut holds = Holds::default();
        holds.learn(503, Duration::MAX, None, now);
        assert_eq!(holds.of(None, now).map(|hold| hold.until), Some(now + UNAVAILABLE_MAX));
        holds.learn(429, Duration::MAX, None, now);
        assert_eq!(holds.of(None, now).map(|hold| hold.until), Some(now + TOO_MANY_MAX));
    }

    #[test]
    fn one_thing_is_not_the_host_and_several_are() {
        let now = Instant::now();
        let mut holds = Holds::default();
        for _ in 0..5 {
            holds.learn(503, 9 * SECOND, Some(1), now);
        }
        holds.learn(503, 9 * SECOND, Some(2), now);
        assert!(holds.of(Some(1), now).is_some() && holds.of(Some(3), now).is_none() && holds.of(None, now).is_none());
        // By then the first two have had their time.
        holds.learn(503, 9 * SECOND, Some(3), now + 9 * SECOND);
        assert!(holds.of(Some(1), now + 9 * SECOND).is_none());
        holds.learn(503, 20 * SECOND, Some(4), now + 9 * SECOND);
        holds.learn(503, 9 * SECOND, Some(5), now + 9 * SECOND);
        assert!(holds.of(Some(1), now + 10 * SECOND).is_some());
        // As long as any of them asked for.
        assert_eq!(holds.of(None, now + 10 * SECOND).map(|hold| hold.until), Some(now + 29 * SECOND));
    }
}
