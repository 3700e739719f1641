//! Removes the signs by which a client would turn to Xet, which this mirror does not speak.

use serde::de::{Error as _, IgnoredAny};
use std::borrow::Cow;
use std::ops::Range;

/// Deeper texts are refused; the Hub's have less than ten levels.
const DEPTH_MAX: usize = 128;

/// Headers of file answers that announce Xet. (`Link` does too, see [`link_header`](super::link_header); the `X-Xet-*`
/// headers of a read token's answer are another matter and stay.)
pub const XET_SIGNAL_HEADERS: [&str; 2] = ["x-xet-hash", "x-xet-refresh-route"];

/// Removes every `xetHash` from a JSON text and says `false` in every `xetEnabled`, at any depth. Every other byte stays as it
/// is, since a text that is read and written again has other numbers: `0.1234567890123456789` has no equal among floats.
///
/// Returns the same bytes when there is nothing to do. Headers alone are not enough: clients from 1.22 on turn to Xet for
/// an `xetHash` in a tree. Fails on what is not JSON but may hold such a sign.
pub fn strip_xet(json: &[u8]) -> Result<Cow<'_, [u8]>, serde_json::Error> {
    // The word may be spelt with escapes (`\u0078`), all of which begin so.
    let text = std::str::from_utf8(json);
    if text.is_ok_and(|text| !text.contains("xet") && !text.contains("\\u00")) {
        return Ok(Cow::Borrowed(json));
    }
    // What follows walks a text that is known to be JSON.
    serde_json::from_slice::<IgnoredAny>(json)?;
    let text = text.map_err(serde_json::Error::custom)?;
    let mut walk = Walk { text, edits: Vec::new() };
    walk.value(walk.skip_space(0), 0)?;
    if walk.edits.is_empty() {
        return Ok(Cow::Borrowed(json));
    }
    let mut stripped = Vec::with_capacity(json.len());
    let mut kept_to = 0;
    for (range, instead) in walk.edits {
        stripped.extend_from_slice(&json[kept_to..range.start]);
        stripped.extend_from_slice(instead.as_bytes());
        kept_to = range.end;
    }
    stripped.extend_from_slice(&json[kept_to..]);
    Ok(Cow::Owned(stripped))
}

/// Finds what is to be changed. Positions are of ASCII bytes or of the text's end, so every slice is at a boundary.
struct Walk<'a> {
    text: &'a str,
    /// Ascending and disjoint, each with what comes instead.
    edits: Vec<(Range<usize>, &'static str)>,
}

impl Walk<'_> {
    /// Walks the value that begins at `at`, and returns where it ends.
    fn value(&mut self, at: usize, depth: usize) -> Result<usize, serde_json::Error> {
        if depth > DEPTH_MAX {
            return Err(serde_json::Error::custom("nested deeper than 128"));
        }
        match self.byte(at) {
            b'{' => self.object(at, depth),
            b'[' => {
                let mut at = self.skip_space(at + 1);
                while self.byte(at) != b']' {
                    let end = self.value(at, depth + 1)?;
                    at = self.skip_space(end);
                    if self.byte(at) == b',' {
                        at = self.skip_space(at + 1);
                    }
                }
                Ok(at + 1)
            }
            b'"' => Ok(self.string_end(at)),
            _ => Ok(self.text[at..].find([',', ']', '}', ' ', '\t', '\r', '\n']).map_or(self.text.len(), |len| at + len)),
        }
    }

    fn object(&mut self, start: usize, depth: usize) -> Result<usize, serde_json::Error> {
        let mut at = self.skip_space(start + 1);
        // Where the last member that stays ends.
        let mut kept_end = start + 1;
        while self.byte(at) != b'}' {
            let key_start = at;
            let key_end = self.string_end(at);
            let key = &self.text[key_start..key_end];
            let value_start = self.skip_space(self.skip_space(key_end) + 1);
            let edits_before = self.edits.len();
            let value_end = self.value(value_start, depth + 1)?;
            at = self.skip_space(value_end);
            let is_last = self.byte(at) != b',';
            if !is_last {
                at = self.skip_space(at + 1);
            }
            if is_key(key, "xetHash") {
                // The comma that goes is the one behind, or for the last member that in front, and with it what else is
                // gone between the two.
                let gone = if is_last { kept_end..value_end } else { key_start..at };
                self.edits.truncate(edits_before);
                while self.edits.last().is_some_and(|(range, _)| range.start >= gone.start) {
                    self.edits.pop();
                }
                self.edits.push((gone, ""));
                continue;
            }
            if is_key(key, "xetEnabled") && &self.text[value_start..value_end] != "false" {
                self.edits.truncate(edits_before);
                self.edits.push((value_start..value_end, "false"));
            }
            kept_end = value_end;
        }
        Ok(at + 1)
    }

    /// Returns where the string that begins at `at` ends, its quotes included.
    fn string_end(&self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut end = at + 1;
        while self.byte(end) != b'"' && end < bytes.len() {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        end + 1
    }

    fn skip_space(&self, at: usize) -> usize {
        at + self.text.as_bytes()[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count()
    }

    /// Returns the byte there; behind the end a bracket, so that no loop goes on.
    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(b'}')
    }
}

/// Says whether a key, in its quotes, is this one, however it is spelt.
fn is_key(quoted: &str, name: &str) -> bool {
    if quoted.contains('\\') {
        serde_json::from_str::<String>(quoted).is_ok_and(|key| key == name)
    } else {
        quoted.get(1..quoted.len().saturating_sub(1)) == Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xet_signs_go_and_all_else_stays() {
        fn check(json: &str, expected: &str) {
            let stripped = strip_xet(json.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&stripped), expected);
        }
        check(r#"[{"type":"file", "oid":"1"}]"#, r#"[{"type":"file", "oid":"1"}]"#);
        check(r#"[{"b":1,"xetHash":"6","a":2}]"#, r#"[{"b":1,"a":2}]"#);
        check(r#"[{"b":1,"\u0078etHash":"6"}]"#, r#"[{"b":1}]"#);
        check(r#"{"a":{"xetEnabled":true,"l":[{"xetHash":null}]}}"#, r#"{"a":{"xetEnabled":false,"l":[{}]}}"#);
        check(r#"{ "id": "o/xet-tools" }"#, r#"{ "id": "o/xet-tools" }"#);
        check("Entry not found", "Entry not found");
        check(r#"{"xetHash":"6"}"#, "{}");
        check(r#"{ "a": 1 , "xetHash": {"xetHash": [1]} , "xetHash" : 2 }"#, r#"{ "a": 1 }"#);
        check(
            r#"{"xetHash":1, "xetHash":2, "a":{"xetEnabled": {"xetHash":3}, "xetHash":4}, "b":[]}"#,
            r#"{"a":{"xetEnabled": false}, "b":[]}"#,
        );
        check(r#"[{"xetHash":1},{"xetHash":"\"}]"},[ ],{ }]"#, "[{},{},[ ],{ }]");
    }

    #[test]
    fn numbers_keep_every_digit() {
        let numbers = r#""n":[0.1234567890123456789,123456789012345678901234567890,1e999,-0.0,1E+2]"#;
        let stripped = strip_xet(format!(r#"{{"xetHash":"6",{numbers}}}"#).as_bytes()).unwrap().into_owned();
        assert_eq!(String::from_utf8(stripped).unwrap(), format!("{{{numbers}}}"));
    }

    #[test]
    fn nothing_to_do_copies_nothing() {
        assert!(matches!(strip_xet(br#"{"id":"o/xet"}"#), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn depth_and_nonsense_are_errors() {
        let deep = format!("{}\"xetHash\"", "[".repeat(100_000));
        assert!(strip_xet(deep.as_bytes()).is_err());
        assert!(strip_xet(b"<html>xetHash</html>").is_err());
        assert!(strip_xet(b"\xff").is_err());
    }
}
