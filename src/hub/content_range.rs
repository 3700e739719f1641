//! The `Content-Range` response header, read from upstream and written to clients.

use std::ops::Range;

/// Reads `bytes first-last/size` into the bytes and the size, which is unknown when written `*`. Nothing for anything else,
/// also when the numbers contradict each other.
pub fn parse(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (span, size) = after_unit(value)?.split_once('/')?;
    let (first, last) = span.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let size = match size.trim() {
        "*" => None,
        digits => Some(number(digits)?),
    };
    let end = last.checked_add(1)?;
    let consistent = first <= last && size.is_none_or(|size| end <= size);
    consistent.then_some((first..end, size))
}

/// Reads the size in `bytes */size`, which comes with a 416.
pub fn parse_unsatisfied(value: &str) -> Option<u64> {
    let (span, size) = after_unit(value)?.split_once('/')?;
    if span.trim() == "*" { number(size.trim()) } else { None }
}

/// Writes the header of a 206; `range` must not be empty.
pub fn write(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

/// Writes the header of a 416.
pub fn write_unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

fn after_unit(value: &str) -> Option<&str> {
    let (unit, rest) = value.trim().split_at_checked("bytes".len())?;
    (unit.eq_ignore_ascii_case("bytes") && rest.starts_with([' ', '='])).then(|| rest[1..].trim_start())
}

fn number(digits: &str) -> Option<u64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        fn check(value: &str, expected: Option<(Range<u64>, Option<u64>)>) {
            assert_eq!(parse(value), expected, "{value}");
        }
        check("bytes 0-99/548105171", Some((0..100, Some(548_105_171))));
        check("bytes 5-5/*", Some((5..6, None)));
        check("Bytes  5-9/10", Some((5..10, Some(10))));
        check("bytes 5-10/10", None);
        check("bytes 6-5/10", None);
        check("bytes */10", None);
        check("bytes 0-18446744073709551615/*", None);
        check("bytes 0-99999999999999999999/*", None);
        check("bytes -5/10", None);
        check("bytes 0-5", None);
        check("items 0-5/10", None);
        check("bytes0-5/10", None);
        check("", None);
        assert_eq!(parse_unsatisfied("bytes */10"), Some(10));
        assert_eq!(parse_unsatisfied("bytes 0-1/10"), None);
        assert_eq!(parse(&write(&(3..7), 10)), Some((3..7, Some(10))));
    }
}
