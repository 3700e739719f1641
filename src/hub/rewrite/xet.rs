//! Removes the signs by which a client would turn to Xet, which this mirror does not speak.

use serde_json::Value;
use std::borrow::Cow;

/// Headers of file answers that announce Xet. (`Link` does too, see [`link_header`](super::link_header); the `X-Xet-*`
/// headers of a read token's answer are another matter and stay.)
pub const XET_SIGNAL_HEADERS: [&str; 2] = ["x-xet-hash", "x-xet-refresh-route"];

/// Removes every `xetHash` from a JSON text and says `false` in every `xetEnabled`, at any depth; the order of keys stays.
///
/// Returns the same bytes when there is nothing to do. Headers alone are not enough: clients from 1.22 on turn to Xet for
/// an `xetHash` in a tree. Fails on what is not JSON but may hold such a sign.
pub fn strip_xet(json: &[u8]) -> Result<Cow<'_, [u8]>, serde_json::Error> {
    // The word may be spelt with escapes (`\u0078`), all of which begin so.
    let suspect = std::str::from_utf8(json).map_or(true, |text| text.contains("xet") || text.contains("\\u00"));
    if !suspect {
        return Ok(Cow::Borrowed(json));
    }
    // serde_json refuses nesting deeper than 128, which bounds the recursion below as well.
    let mut value: Value = serde_json::from_slice(json)?;
    if strip(&mut value) { serde_json::to_vec(&value).map(Cow::Owned) } else { Ok(Cow::Borrowed(json)) }
}

/// Says whether anything was changed.
fn strip(value: &mut Value) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().fold(false, |changed, item| strip(item) | changed),
        Value::Object(members) => {
            let mut changed = members.shift_remove("xetHash").is_some();
            for (key, member) in members.iter_mut() {
                if key == "xetEnabled" && *member != Value::Bool(false) {
                    *member = Value::Bool(false);
                    changed = true;
                }
                changed |= strip(member);
            }
            changed
        }
        _ => false,
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
