//! The `Range` header as the Hub and its CDN read it: one span or none.

use http::HeaderMap;
use http::header::RANGE;

/// What part of a body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No header, one that is not understood, or several spans: a server may answer these with the whole.
    Whole,
    /// From `start` to `end`, the end excluded.
    Span { start: u64, end: u64 },
    /// Nothing of the file lies there: 416.
    Nothing,
}

pub(crate) fn wanted(headers: &HeaderMap, size: u64) -> Wanted {
    match headers.get(RANGE).and_then(|value| value.to_str().ok()) {
        Some(text) => parse(text, size),
        None => Wanted::Whole,
    }
}

fn parse(text: &str, size: u64) -> Wanted {
    let Some(spec) = text.trim().strip_prefix("bytes=") else {
        return Wanted::Whole;
    };
    if spec.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.split_once('-') else {
        return Wanted::Whole;
    };
    match (number(first), number(last)) {
        (Some(start), Some(last)) if last < start => Wanted::Whole,
        (Some(start), _) if start >= size && all_digits_or_empty(last) => Wanted::Nothing,
        (Some(start), Some(last)) => Wanted::Span { start, end: last.saturating_add(1).min(size) },
        (Some(start), None) if last.trim().is_empty() => Wanted::Span { start, end: size },
        (None, Some(count)) if first.trim().is_empty() => match count.min(size) {
            0 => Wanted::Nothing,
            count => Wanted::Span { start: size - count, end: size },
        },
        _ => Wanted::Whole,
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

fn all_digits_or_empty(text: &str) -> bool {
    text.trim().bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_by_the_book() {
        let span = |start, end| Wanted::Span { start, end };
        let check = |text: &str, size, expected| assert_eq!(parse(text, size), expected, "{text} of {size}");
        check("bytes=0-0", 10, span(0, 1));
        check("bytes=2-5", 10, span(2, 6));
        check("bytes=2-", 10, span(2, 10));
        check("bytes=2-99", 10, span(2, 10));
        check("bytes=-3", 10, span(7, 10));
        check("bytes=-99", 10, span(0, 10));
        check("bytes=10-", 10, Wanted::Nothing);
        check("bytes=10-12", 10, Wanted::Nothing);
        check("bytes=-0", 10, Wanted::Nothing);
        check("bytes=0-", 0, Wanted::Nothing);
        check("bytes=0-18446744073709551615", 10, span(0, 10));
        check("bytes=5-2", 10, Wanted::Whole);
        check("bytes=0-1,4-5", 10, Wanted::Whole);
        check("bytes=0--1", 0, Wanted::Whole);
        check("items=0-1", 10, Wanted::Whole);
    }
}
