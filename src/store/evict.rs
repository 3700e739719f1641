//! Which objects go when room is needed: limits, strategies and the plan. Pure; [`super::pass`] acts on it.

use crate::hub::PackedOid;
use std::time::Duration;

/// In which order objects go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The one whose last read is longest ago first.
    #[default]
    Lru,
    /// The one that arrived first: whose last block was written longest ago.
    Fifo,
    /// The one that takes most on the disk first; of two alike, the one read longest ago.
    LargeFirst,
}

/// What is kept at most. The default keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub strategy: Strategy,
    /// Bytes that all objects together may take on the disk; 0 means no limit.
    pub kept_len_max: u64,
    /// Share of the file system that may be in use, by whomever, in percent; 0 means no limit.
    pub used_percent_max: u64,
    /// Bytes that stay free on the file system, or a tenth of it where that is less; 0 means no limit.
    pub free_len_min: u64,
    /// How far a pass goes once a limit is passed: down to this percentage of it, or of what is kept when free space is short.
    /// Else the next block would start another one.
    pub low_water_percent: u64,
    /// How long broken files are kept for inspection.
    pub quarantined_for: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            strategy: Strategy::default(),
            kept_len_max: 0,
            used_percent_max: 0,
            free_len_min: 0,
            low_water_percent: 100,
            quarantined_for: Duration::MAX,
        }
    }
}

/// What there is at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Bytes that our objects take on the disk.
    pub kept_len: u64,
    pub free_len: u64,
    pub total_len: u64,
}

/// Why room is needed: the limit that asks for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    MaxSize,
    MaxUsedPercent,
    MinFree,
}

impl Reason {
    /// Returns the word of the configuration, which is also that of logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::MaxSize => "max_size",
            Reason::MaxUsedPercent => "max_used_percent",
            Reason::MinFree => "min_free",
        }
    }
}

/// How many bytes must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub reason: Reason,
    /// Down to the low water mark; what a pass aims at.
    pub len: u64,
    /// Down to the limit itself; with less than that gone, `coming_len` does not fit.
    pub len_min: u64,
}

impl Limits {
    /// Returns what must go so that `coming_len` bytes more can be kept; none while that passes no limit.
    pub fn need(&self, level: &Level, coming_len: u64) -> Option<Need> {
        let used_len = level.total_len.saturating_sub(level.free_len);
        let mut needs = Vec::new();
        // Each limit as bytes in use: how many there are, how many there may be.
        if self.kept_len_max > 0 {
            needs.push((Reason::MaxSize, level.kept_len, self.kept_len_max));
        }
        // Some network file systems do not tell how large they are.
        if self.used_percent_max > 0 && level.total_len > 0 {
            needs.push((Reason::MaxUsedPercent, used_len, percent(level.total_len, self.used_percent_max)));
        }
        let need = |&(reason, len, len_max): &(Reason, u64, u64)| {
            let len = len.saturating_add(coming_len);
            let goal = percent(len_max, self.low_water_percent);
            (len > len_max).then(|| Need { reason, len: len - goal, len_min: len - len_max })
        };
        let mut needs: Vec<Need> = needs.iter().filter_map(need).collect();
        // Room to keep free says nothing of how much is kept, and a share of it may be gone again in a second: here the step to
        // the mark is a share of what is kept.
        let free_len_min = self.free_len_min_of(level);
        if free_len_min > 0 && level.free_len < free_len_min.saturating_add(coming_len) {
            let len_min = free_len_min.saturating_add(coming_len) - level.free_len;
            let step = percent(level.kept_len.max(free_len_min), 100_u64.saturating_sub(self.low_water_percent));
            needs.push(Need { reason: Reason::MinFree, len: len_min.saturating_add(step), len_min });
        }
        needs.into_iter().max_by_key(|need| need.len)
    }

    /// Returns what could be kept if nothing else were.
    pub fn largest(&self, level: &Level) -> u64 {
        let used_len = level.total_len.saturating_sub(level.free_len);
        let others_len = used_len.saturating_sub(level.kept_len);
        let mut largest = level.kept_len.saturating_add(level.free_len).saturating_sub(self.free_len_min_of(level));
        if self.kept_len_max > 0 {
            largest = largest.min(self.kept_len_max);
        }
        if self.used_percent_max > 0 && level.total_len > 0 {
            largest = largest.min(percent(level.total_len, self.used_percent_max).saturating_sub(others_len));
        }
        largest
    }

    fn free_len_min_of(&self, level: &Level) -> u64 {
        self.free_len_min.min(level.total_len / 10)
    }

    /// Tells whether any limit is set.
    pub fn are_set(&self) -> bool {
        self.kept_len_max > 0 || self.used_percent_max > 0 || self.free_len_min > 0
    }
}

fn percent(len: u64, percent: u64) -> u64 {
    (u128::from(len) * u128::from(percent.min(100)) / 100) as u64
}

/// An object that may go, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub oid: PackedOid,
    /// None: all of it. Else the others are candidates of their own.
    pub part: Option<Part>,
    /// Bytes it takes on the disk, which are those that come back.
    pub len: u64,
    /// Last read, milliseconds since 1970.
    pub read_ms: u64,
    /// Last write, the same way.
    pub arrived_ms: u64,
}

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    pub index: u8,
    /// How many parts the object has of which something is there.
    pub of: u8,
}

impl Candidate {
    /// Returns its place in the strategy's order; the lowest goes first.
    pub fn order(&self, strategy: Strategy) -> impl Ord + use<> {
        let times = match strategy {
            Strategy::Lru => (self.read_ms, 0),
            Strategy::Fifo => (self.arrived_ms, 0),
            Strategy::LargeFirst => (u64::MAX - self.len, self.read_ms),
        };
        // The oid comes last, so that the same disk always gives the same plan.
        (times, self.oid, self.part)
    }
}

/// Returns the objects that go: the fewest from the front of the strategy's order whose bytes reach `need_len`, or all.
///
/// Sorts `candidates` in that order, so that who finds a victim in use goes on with what follows.
pub fn plan(candidates: &mut [Candidate], need_len: u64, strategy: Strategy) -> &[Candidate] {
    candidates.sort_unstable_by_key(|one| one.order(strategy));
    let mut len = 0_u64;
    let count = candidates.iter().take_while(|one| {
        let wanted = len < need_len;
        len = len.saturating_add(one.len);
        wanted
    });
    let count = count.count();
    &candidates[..count]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Oid;
    use proptest::{collection::vec, prelude::any, prop_assert_eq, prop_oneof, proptest, strategy::Strategy as _};
    use std::{cmp::Reverse, collections::HashMap};

    fn limits() -> Limits {
        Limits { low_water_percent: 90, ..Limits::default() }
    }

    #[test]
    fn a_limit_asks_down_to_the_low_water_mark() {
        let level = Level { kept_len: 1000, free_len: 400, total_len: 2000 };
        let check = |limits: Limits, coming_len, expected: Option<(Reason, u64, u64)>| {
            let need = limits.need(&level, coming_len).map(|need| (need.reason, need.len, need.len_min));
            assert_eq!(need, expected, "{limits:?} {coming_len}");
        };
        check(limits(), 1 << 60, None);
        check(Limits { kept_len_max: 1000, ..limits() }, 0, None);
        check(Limits { kept_len_max: 1000, ..limits() }, 1, Some((Reason::MaxSize, 101, 1)));
        check(Limits { kept_len_max: 500, ..limits() }, 0, Some((Reason::MaxSize, 550, 500)));
        check(Limits { used_percent_max: 80, ..limits() }, 0, None);
        check(Limits { used_percent_max: 75, ..limits() }, 0, Some((Reason::MaxUsedPercent, 250, 100)));
        check(Limits { free_len_min: 100, ..limits() }, 300, None);
        check(Limits { free_len_min: 100, ..limits() }, 301, Some((Reason::MinFree, 101, 1)));
        // A tenth of this disk is 200, whatever is asked for.
        check(Limits { free_len_min: 1 << 40, ..limits() }, 0, None);
        check(Limits { free_len_min: 1 << 40, ..limits() }, 210, Some((Reason::MinFree, 110, 10)));
        check(Limits { kept_len_max: 999, free_len_min: 200, ..limits() }, 700, Some((Reason::MaxSize, 801, 701)));
        check(
            Limits { kept_len_max: u64::MAX, used_percent_max: 100, ..limits() },
            u64::MAX,
            Some((Reason::MaxUsedPercent, u64::MAX - 1800, u64::MAX - 2000)),
        );
    }

    #[test]
    fn the_largest_that_could_be_kept_leaves_others_what_they_have() {
        // Others have 600.
        let level = Level { kept_len: 1000, free_len: 400, total_len: 2000 };
        let check = |limits: Limits, expected| assert_eq!(limits.largest(&level), expected, "{limits:?}");
        check(limits(), 1400);
        check(Limits { kept_len_max: 700, ..limits() }, 700);
        check(Limits { kept_len_max: 1 << 40, ..limits() }, 1400);
        check(Limits { used_percent_max: 80, ..limits() }, 1000);
        check(Limits { used_percent_max: 20, ..limits() }, 0);
        check(Limits { free_len_min: 100, ..limits() }, 1300);
        let full = Level { free_len: 50, ..level };
        assert_eq!(Limits { free_len_min: 100, ..limits() }.largest(&full), 950);
        // A network file system that does not tell its size.
        let untold = Level { total_len: 0, ..level };
        assert_eq!(Limits { kept_len_max: 700, used_percent_max: 50, ..limits() }.largest(&untold), 700);
    }

    /// One step in the life of a cache.
    #[derive(Clone, Debug)]
    enum Step {
        /// A whole object comes.
        Arrive {
            name: u8,
            len: u16,
        },
        /// A part of an object comes that is never whole; its other parts stay what they are.
        ArrivePart {
            name: u8,
            index: u8,
            len: u16,
        },
        Read {
            name: u8,
            index: u8,
        },
        Evict {
            need: u32,
        },
    }

    fn step() -> impl proptest::strategy::Strategy<Value = Step> {
        prop_oneof![
            (any::<u8>(), 0..2000_u16).prop_map(|(name, len)| Step::Arrive { name, len }),
            (0..20_u8, 0..4_u8, 1..2000_u16).prop_map(|(name, index, len)| Step::ArrivePart { name, index, len }),
            (any::<u8>(), 0..4_u8).prop_map(|(name, index)| Step::Read { name, index }),
            (0..20_000_u32).prop_map(|need| Step::Evict { need }),
        ]
    }

    /// An object, or a part of one.
    type Name = (u8, Option<u8>);

    /// The model: queues moved about by hand, as a textbook would, against the plan from times alone.
    fn textbook(order: &[Name], sizes: &HashMap<Name, u64>, need: u64, strategy: Strategy) -> Vec<Name> {
        let mut queue = order.to_vec();
        if strategy == Strategy::LargeFirst {
            // Stable: among equals the order of last reads stays.
            queue.sort_by_key(|name| Reverse(sizes[name]));
        }
        let (mut freed, mut gone) = (0, Vec::new());
        for name in queue {
            if freed >= need {
                break;
            }
            freed += sizes[&name];
            gone.push(name);
        }
        gone
    }

    fn candidate((name, part): Name, len: u64, now: u64) -> Candidate {
        let oid = Oid::parse(&format!("{name:064x}")).unwrap().packed();
        Candidate { oid, part: part.map(|index| Part { index, of: 4 }), len, read_ms: now, arrived_ms: now }
    }

    proptest! {
        #[test]
        fn plans_are_those_of_the_textbook(trace in vec(step(), 1..200)) {
            for strategy in [Strategy::Lru, Strategy::Fifo, Strategy::LargeFirst] {
                let mut kept: HashMap<Name, Candidate> = HashMap::new();
                let mut order: Vec<Name> = Vec::new();
                for (clock, step) in trace.iter().enumerate() {
                    let now = clock as u64;
                    let arrives = match *step {
                        Step::Arrive { name, len } if (0..4).all(|index| !kept.contains_key(&(name, Some(index)))) => Some(((name, None), len)),
                        // As the server does it: only reads tell parts apart.
                        Step::ArrivePart { name, index, len } if strategy == Strategy::Lru && !kept.contains_key(&(name, None)) => {
                            Some(((name, Some(index)), len))
                        }
                        Step::Read { name, index } => {
                            for name in [(name, None), (name, Some(index))] {
                                let Some(one) = kept.get_mut(&name) else { continue };
                                one.read_ms = now;
                                if strategy != Strategy::Fifo {
                                    order.retain(|other| *other != name);
                                    order.push(name);
                                }
                            }
                            None
                        }
                        Step::Evict { need } => {
                            let sizes = kept.iter().map(|(name, one)| (*name, one.len)).collect();
                            let expected = textbook(&order, &sizes, need.into(), strategy);
                            let mut candidates: Vec<Candidate> = kept.values().copied().collect();
                            let victims = plan(&mut candidates, need.into(), strategy);
                            let wanted: Vec<Candidate> = expected.iter().map(|name| kept[name]).collect();
                            prop_assert_eq!(victims, wanted);
                            for name in expected {
                                kept.remove(&name);
                                order.retain(|other| *other != name);
                            }
                            None
                        }
                        _ => None,
                    };
                    if let Some((name, len)) = arrives.filter(|(name, _)| !kept.contains_key(name)) {
                        kept.insert(name, candidate(name, len.into(), now));
                        order.push(name);
                    }
                }
            }
        }
    }
}
