//! What `ls --filter` asks of a repo: a key, a comparison, a value, as `hf cache ls` has them.

use super::inventory::Repo;
use crate::{
    config::{parse_size, parse_time},
    hub::RepoKind,
};
use std::time::{Duration, SystemTime};

/// One condition; all that are given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Bytes on the disk.
    Size(Comparison, u64),
    /// Time since the last read; what was never read was read infinitely long ago.
    Accessed(Comparison, Duration),
    Type(bool, RepoKind),
    Complete(bool),
    Pinned(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Less,
    AtMost,
    Equal,
    Unequal,
    AtLeast,
    More,
}

/// The longer ones first: `>=` begins with `>`.
const COMPARISONS: [(&str, Comparison); 7] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::Unequal),
    ("==", Comparison::Equal),
    (">", Comparison::More),
    ("<", Comparison::Less),
    ("=", Comparison::Equal),
];

impl Condition {
    /// Reads `size>10GB`, `accessed>30d`, `type=dataset`, `complete=false` or `pinned=true`.
    pub fn parse(text: &str) -> Result<Condition, String> {
        let wrong = |why: &str| format!("--filter `{text}`: {why}");
        let place = text.find(['<', '>', '=', '!']).unwrap_or(text.len());
        let (key, rest) = text.split_at(place);
        let (comparison, value) = COMPARISONS
            .iter()
            .find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?.trim())))
            .ok_or_else(|| wrong("write KEY, one of > >= < <= = !=, and a value, for example size>10GB"))?;
        let is = || match comparison {
            Comparison::Equal => Ok(true),
            Comparison::Unequal => Ok(false),
            _ => Err(wrong("only = and != make sense here")),
        };
        let yes_or_no = || match value {
            "true" => is(),
            "false" => is().map(|is| !is),
            _ => Err(wrong("write true or false")),
        };
        match key.trim() {
            "size" => Ok(Condition::Size(comparison, parse_size(value).map_err(|why| wrong(&format!("`{value}` {why}")))?)),
            "accessed" | "used" => {
                Ok(Condition::Accessed(comparison, parse_time(value).map_err(|why| wrong(&format!("`{value}` {why}")))?))
            }
            "type" => match RepoKind::parse(value) {
                Some(kind) => Ok(Condition::Type(is()?, kind)),
                None => Err(wrong("write model, dataset, space or kernel")),
            },
            "complete" => yes_or_no().map(Condition::Complete),
            "pinned" => yes_or_no().map(Condition::Pinned),
            _ => Err(wrong("the keys are size, accessed, type, complete, pinned")),
        }
    }

    pub(super) fn holds(&self, repo: &Repo, now: SystemTime) -> bool {
        match self {
            Condition::Size(comparison, len) => comparison.holds(&repo.sum.allocated_len, len),
            Condition::Accessed(comparison, age) => {
                let since = repo.sum.read.map_or(Duration::MAX, |at| now.duration_since(at).unwrap_or_default());
                comparison.holds(&since, age)
            }
            Condition::Type(is, kind) => (repo.id.kind() == *kind) == *is,
            Condition::Complete(is) => repo.sum.complete == *is,
            // A part is enough, as it is to keep the repo from being removed.
            Condition::Pinned(is) => repo.pins.is_empty() != *is,
        }
    }
}

impl Comparison {
    fn holds<T: Ord>(self, left: &T, right: &T) -> bool {
        match self {
            Comparison::Less => left < right,
            Comparison::AtMost => left <= right,
            Comparison::Equal => left == right,
            Comparison::Unequal => left != right,
            Comparison::AtLeast => left >= right,
            Comparison::More => left > right,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::inventory::Sum, hub::RepoId};

    #[test]
    fn conditions_hold_or_not() {
        fn check(text: &str, expected: bool) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let read = now.checked_sub(Duration::from_secs(40 * 24 * 3600));
            let sum = Sum { allocated_len: 3_000_000, read, complete: true, ..Sum::default() };
            let id = RepoId::parse(RepoKind::Dataset, "org/d").unwrap();
            let repo = Repo { id, pinned: false, pins: Vec::new(), sum, commits: Vec::new() };
            assert_eq!(Condition::parse(text).unwrap().holds(&repo, now), expected, "{text}");
        }
        check("size>1MB", true);
        check("size >= 3MB", true);
        check("size<3MB", false);
        check("size!=3000000", false);
        check("accessed>30d", true);
        check("accessed<30d", false);
        check("type=dataset", true);
        check("type!=dataset", false);
        check("complete=true", true);
        check("complete!=true", false);
        check("pinned=true", false);
    }

    #[test]
    fn what_was_never_read_was_read_longest_ago() {
        let id = RepoId::parse(RepoKind::Model, "org/m").unwrap();
        let repo = Repo { id, pinned: false, pins: Vec::new(), sum: Sum::default(), commits: Vec::new() };
        assert!(Condition::parse("accessed>3650d").unwrap().holds(&repo, SystemTime::now()));
    }

    #[test]
    fn nonsense_is_told_with_what_would_do() {
        for (text, part) in [
            ("size", "for example"),
            ("size>many", "is not a size"),
            ("accessed>30", "no unit"),
            ("type>model", "only = and !="),
            ("type=weights", "model, dataset"),
            ("pinned=maybe", "true or false"),
            ("colour=red", "the keys are"),
            ("!", "for example"),
        ] {
            let why = Condition::parse(text).unwrap_err();
            assert!(why.contains(part) && why.contains(text), "{why}");
        }
    }
}
