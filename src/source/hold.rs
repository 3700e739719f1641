//! For how long a host wants to be left alone, by the `Retry-After` of its answers. Pure; the clock is an argument.
//!
//! A 429 speaks of us, whatever was asked. A 503 speaks of the host; only of an upstream, whose answers are made for each repo,
//! it may speak of that repo, and of the host as a whole once several repos were answered so.

use std::time::{Duration, Instant};

/// No header keeps us silent for longer.
const TOO_MANY_MAX: Duration = Duration::from_secs(600);
/// Nor a 503, which may be one object's own trouble on a host of many.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(60);
/// So many repos that want to be left alone at the same time are the host.
const REPOS_MAX: usize = 3;

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
    /// Of single repos, by hash.
    repos: Vec<(u64, Hold)>,
}

impl Holds {
    /// Takes in an answer. `repo` is what a 503 may be about; `None` where only the host can be meant.
    pub(super) fn learn(&mut self, status: u16, retry_after: Duration, repo: Option<u64>, now: Instant) {
        let most = if status == 429 { TOO_MANY_MAX } else { UNAVAILABLE_MAX };
        let hold = Hold { status, until: now + retry_after.min(most) };
        self.forget_past(now);
        if let Some(repo) = repo.filter(|_| status != 429) {
            self.repos.retain(|(known, _)| *known != repo);
            self.repos.push((repo, hold));
            if self.repos.len() < REPOS_MAX {
                return;
            }
            self.repos.clear();
        }
        if self.all.is_none_or(|known| known.until < hold.until) {
            self.all = Some(hold);
        }
    }

    /// What keeps a request about `repo` from being sent.
    pub(super) fn of(&self, repo: Option<u64>, now: Instant) -> Option<Hold> {
        let own = self.repos.iter().find(|(known, _)| Some(*known) == repo).map(|(_, hold)| *hold);
        [self.all, own].into_iter().flatten().filter(|hold| now < hold.until).max_by_key(|hold| hold.until)
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget_past(now);
        self.all.is_none() && self.repos.is_empty()
    }

    fn forget_past(&mut self, now: Instant) {
        self.all = self.all.filter(|hold| now < hold.until);
        self.repos.retain(|(_, hold)| now < hold.until);
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
    fn one_repo_is_not_the_host_and_several_are() {
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
        holds.learn(503, 9 * SECOND, Some(4), now + 9 * SECOND);
        holds.learn(503, 9 * SECOND, Some(5), now + 9 * SECOND);
        assert!(holds.of(Some(1), now + 10 * SECOND).is_some());
    }
}
