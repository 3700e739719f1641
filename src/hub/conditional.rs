//! Conditional requests: `If-None-Match` and `If-Range` (RFC 9110, section 13).

/// Says whether a `Range` may be honoured: always without an `If-Range`, else only when that is exactly our strong tag. A
/// weak tag never matches, and neither does a date, since objects are dated by nothing.
pub fn if_range_allows(header: Option<&str>, etag: &str) -> bool {
    let Some(header) = header else { return true };
    let header = header.trim();
    !is_weak(header) && !is_weak(etag) && header.starts_with('"') && bare(header) == bare(etag)
}

/// Says whether an `If-None-Match` names our tag, so that the answer is 304: weak comparison, lists and `*` understood.
pub fn if_none_match(header: Option<&str>, etag: &str) -> bool {
    let Some(header) = header else { return false };
    let header = header.trim();
    header == "*" || tags(header).any(|tag| bare(tag) == bare(etag))
}

fn is_weak(tag: &str) -> bool {
    tag.starts_with("W/")
}

/// Returns the tag without weakness and quotes.
fn bare(tag: &str) -> &str {
    let tag = tag.trim();
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(tag)
}

/// Walks a list of tags; a comma inside quotes belongs to the tag.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
    .map(str::trim)
    .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_range_compares_strongly() {
        fn check(header: Option<&str>, etag: &str, expected: bool) {
            assert_eq!(if_range_allows(header, etag), expected, "{header:?} {etag}");
        }
        check(None, "\"a\"", true);
        check(Some("\"a\""), "\"a\"", true);
        check(Some("\"b\""), "\"a\"", false);
        check(Some("W/\"a\""), "\"a\"", false);
        check(Some("W/\"a\""), "W/\"a\"", false);
        check(Some("Tue, 15 Nov 1994 12:45:26 GMT"), "\"a\"", false);
        check(Some(""), "\"a\"", false);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        fn check(header: Option<&str>, expected: bool) {
            assert_eq!(if_none_match(header, "\"a\""), expected, "{header:?}");
        }
        check(None, false);
        check(Some("\"a\""), true);
        check(Some("W/\"a\""), true);
        check(Some("*"), true);
        check(Some("\"b\", W/\"a\""), true);
        check(Some("\"b,\"a\""), false);
        check(Some("a"), true);
        check(Some("\"b\", \"*\""), false);
        check(Some(""), false);
    }
}
