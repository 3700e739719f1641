//! Percent escapes, undone once and written one way, and the error for a target that cannot be read.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::Write;

/// What Python's `quote(text, safe="")` escapes: all but letters, digits and `_.-~`.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');
/// What Python's `quote(text)` escapes: the same with slashes left alone.
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

/// Bytes of a message that come from the target are cut to this length.
const QUOTED_MAX: usize = 120;

/// A request target (or a repo, revision or path in it) that cannot be what it should be; the text is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadTarget {
    /// Says what is wrong, in one line of plain English.
    pub message: String,
}

impl BadTarget {
    pub(super) fn new(message: impl Into<String>) -> BadTarget {
        BadTarget { message: message.into() }
    }

    /// A message about some text of the user's, which is quoted, made printable and cut.
    pub(super) fn about(what: &str, text: &str, wrong: &str) -> BadTarget {
        let mut quoted: String = text.chars().take(QUOTED_MAX).flat_map(char::escape_debug).collect();
        if text.chars().nth(QUOTED_MAX).is_some() {
            quoted.push_str("..");
        }
        BadTarget::new(format!("the {what} `{quoted}` {wrong}"))
    }
}

/// Undoes the percent escapes of one path segment, once; `+` stays `+`.
pub(super) fn decode(segment: &[u8]) -> Result<String, BadTarget> {
    let lossy = || String::from_utf8_lossy(segment).into_owned();
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let Some((high, low)) = hex(tail.first()).zip(hex(tail.get(1))) else {
            return Err(BadTarget::about("path segment", &lossy(), "has a % without two hex digits; write a literal % as %25"));
        };
        bytes.push(high << 4 | low);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| BadTarget::about("path segment", &lossy(), "is not UTF-8 once its escapes are undone"))
}

/// Writes `text` as one path segment: slashes escaped too.
pub(super) fn quote_segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Writes `text` as a path: slashes stay.
pub(super) fn quote_path(text: &str) -> String {
    utf8_percent_encode(text, PATH).to_string()
}

/// Writes a query word one way: escapes are undone, then only unreserved bytes stay literal. A literal `+` stays `+` and
/// an escaped one stays escaped, since they mean different things in a query; a `%` that begins no escape becomes `%25`.
pub(super) fn requote_query_word(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let escaped = if byte == b'%' { hex(tail.first()).zip(hex(tail.get(1))) } else { None };
        match escaped {
            Some((high, low)) => {
                push_unreserved(high << 4 | low, &mut out);
                rest = &tail[2..];
            }
            None if byte == b'+' => out.push('+'),
            None => push_unreserved(byte, &mut out),
        }
    }
    out
}

/// Keeps what may stand in a URI (escapes included) and escapes every other byte, so that the result is always sendable.
pub(super) fn keep_sendable(raw: &[u8], out: &mut String) {
    for &byte in raw {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b'#' => push_escape(byte, out),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => push_escape(byte, out),
        }
    }
}

fn push_unreserved(byte: u8, out: &mut String) {
    if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) {
        out.push(char::from(byte));
    } else {
        push_escape(byte, out);
    }
}

fn push_escape(byte: u8, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(out, "%{byte:02X}");
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    char::from(*digit?).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_decoded_exactly_once() {
        fn check(raw: &[u8], expected: Option<&str>) {
            assert_eq!(decode(raw).ok().as_deref(), expected, "{}", String::from_utf8_lossy(raw));
        }
        check(b"sub%20dir", Some("sub dir"));
        check(b"c++.txt", Some("c++.txt"));
        check(b"100%25", Some("100%"));
        check(b"%2525", Some("%25"));
        check(b"refs%2fpr%2F1", Some("refs/pr/1"));
        check(b"%E4%B8%AD", Some("\u{4e2d}"));
        check("\u{4e2d}".as_bytes(), Some("\u{4e2d}"));
        check(b"100%", None);
        check(b"%4", None);
        check(b"%+1", None);
        check(b"%FF", None);
        check(b"\xff", None);
    }

    #[test]
    fn a_query_word_has_one_spelling() {
        fn check(raw: &str, expected: &str) {
            assert_eq!(requote_query_word(raw.as_bytes()), expected);
        }
        check("expand[]", "expand%5B%5D");
        check("expand%5b%5D", "expand%5B%5D");
        check("a+b%2Bc%20d", "a+b%2Bc%20d");
        check("ZXlK%3D%3D", "ZXlK%3D%3D");
        check("ZXlK==", "ZXlK%3D%3D");
        check("100%", "100%25");
    }
}
