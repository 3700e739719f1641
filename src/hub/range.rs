//! The `Range` request header (RFC 9110, section 14).

use std::ops::Range;

/// More ranges than this are answered with the whole, as nginx does.
const RANGES_MAX: usize = 200;
/// Longer headers are ignored; 200 ranges of ten digits each fit.
const HEADER_LEN_MAX: usize = 8192;

/// What a `Range` header asks of a representation of known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeAsk {
    /// No range, or one that is to be ignored: answer 200.
    Whole,
    /// Answer 206 with `Content-Range`.
    One(Range<u64>),
    /// Answer 206 as multipart; ascending and disjoint, at least two.
    Many(Vec<Range<u64>>),
    /// Answer 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
    /// From the first byte on, of what has none: answer 200 with `Content-Range: bytes */0`.
    ///
    /// A server may ignore a range, so this is as right as a 416; and it is the one answer that clients live with which learn a size
    /// by asking for the first byte. @huggingface/hub and hf-hub 0.4 take any 416 for a failure, and read the size behind the slash.
    AllOfNothing,
}

/// Reads a `Range` header against a size.
///
/// Only `bytes` is known. What breaks the grammar is ignored as a whole. Numbers too large for 64 bits are as good as
/// infinite. Among several ranges those past the end are dropped; overlapping or descending ones mean the whole, since
/// they serve nobody but an attacker. Of an empty representation a range from the first byte has all there is, and every other
/// one is unsatisfiable.
pub fn parse_range(header: Option<&str>, size: u64) -> RangeAsk {
    let Some(specs) = header.and_then(parse_specs) else {
        return RangeAsk::Whole;
    };
    if let ([Spec::Between(0, _) | Spec::From(0)], 0) = (specs.as_slice(), size) {
        return RangeAsk::AllOfNothing;
    }
    let mut ranges: Vec<Range<u64>> = specs.into_iter().filter_map(|spec| spec.within(size)).collect();
    if ranges.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return RangeAsk::Whole;
    }
    match ranges.len() {
        0 => RangeAsk::Unsatisfiable,
        1 => ranges.pop().map_or(RangeAsk::Unsatisfiable, RangeAsk::One),
        _ => RangeAsk::Many(ranges),
    }
}

#[derive(Clone, Copy)]
enum Spec {
    /// From the first position to the last, inclusive.
    Between(u64, u64),
    /// From the first position to the end.
    From(u64),
    /// The last so many bytes.
    Last(u64),
}

impl Spec {
    /// Returns the bytes of a representation of `size`, or nothing if it has none of them.
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Spec::Between(first, last) => first..last.saturating_add(1).min(size),
            Spec::From(first) => first..size,
            Spec::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Returns the list in `bytes=..`, or nothing when the header must be ignored.
fn parse_specs(header: &str) -> Option<Vec<Spec>> {
    if header.len() > HEADER_LEN_MAX {
        return None;
    }
    let (unit, list) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for item in list.split(',').map(|item| item.trim_matches([' ', '\t'])).filter(|item| !item.is_empty()) {
        if specs.len() == RANGES_MAX {
            return None;
        }
        specs.push(parse_spec(item)?);
    }
    (!specs.is_empty()).then_some(specs)
}

fn parse_spec(item: &str) -> Option<Spec> {
    let (first, last) = item.split_once('-')?;
    match (first, last) {
        ("", last) => Some(Spec::Last(number(last)?)),
        (first, "") => Some(Spec::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::Between(first, last))
        }
    }
}

/// Reads digits; a number past 64 bits becomes the largest.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_the_book() {
        #[track_caller]
        fn check(header: &str, size: u64, expected: RangeAsk) {
            assert_eq!(parse_range(Some(header), size), expected, "{header}");
        }
        use RangeAsk::{AllOfNothing, Many, One, Unsatisfiable, Whole};
        assert_eq!(parse_range(None, 0), Whole);
        check("bytes=0-0", 10, One(0..1));
        check("bytes=0-9", 10, One(0..10));
        check("bytes=2-", 10, One(2..10));
        check("bytes=-3", 10, One(7..10));
        check("bytes=-30", 10, One(0..10));
        check("bytes=5-999999999999999999999999", 10, One(5..10));
        check("bytes=5-18446744073709551615", 10, One(5..10));
        check("Bytes = 1-2", 10, One(1..3));
        check("bytes=,1-2,,", 10, One(1..3));
        check("bytes=-0", 10, Unsatisfiable);
        check("bytes=10-", 10, Unsatisfiable);
        check("bytes=10-20", 10, Unsatisfiable);
        check("bytes=999999999999999999999999-", 10, Unsatisfiable);
        check("bytes=0-", 0, AllOfNothing);
        check("bytes=0-0", 0, AllOfNothing);
        check("bytes=1-", 0, Unsatisfiable);
        check("bytes=0-0,5-6", 0, Unsatisfiable);
        check("bytes=-5", 0, Unsatisfiable);
        check("bytes=0-0,5-6", 10, Many(vec![0..1, 5..7]));
        check("bytes=0-0, -1", 10, Many(vec![0..1, 9..10]));
        check("bytes=0-0,50-60", 10, One(0..1));
        check("bytes=50-60,70-", 10, Unsatisfiable);
        check("bytes=5-6,0-1", 10, Whole);
        check("bytes=0-5,3-8", 10, Whole);
        check("bytes=0-1,2-3", 10, Many(vec![0..2, 2..4]));
        for malformed in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=0--1",
            "bytes=5-3",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=1-2;3-4",
            "items=0-1",
            "bytes=99999999999999999999-5",
        ] {
            check(malformed, 10, Whole);
        }
        check("bytes=0-1,x", 10, Whole);
    }

    #[test]
    fn floods_are_answered_with_the_whole() {
        let many =
            |count: u64| format!("bytes={}", (0..count).map(|at| format!("{}-{}", at * 2, at * 2)).collect::<Vec<_>>().join(","));
        assert!(matches!(parse_range(Some(&many(200)), 1000), RangeAsk::Many(ranges) if ranges.len() == 200));
        assert_eq!(parse_range(Some(&many(201)), 1000), RangeAsk::Whole);
        assert_eq!(parse_range(Some(&format!("bytes=0-1{}", " ".repeat(9000))), 1000), RangeAsk::Whole);
    }
}
