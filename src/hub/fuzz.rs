//! Entry points for fuzzing: each takes any bytes, must not panic, and checks what must hold whatever they are.

use super::rewrite::{link_header, location_header, strip_xet};
use super::{ApiTarget, Oid, Route, content_range, if_none_match, if_range_allows, parse_info, parse_range, parse_tree};
use super::{RangeAsk, listing::ListingError};
use http::Method;
use serde_json::Value;

/// Parses a target under each method; a route written down and parsed again is the same route.
pub fn fuzz_route(data: &[u8]) {
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let Ok(route) = Route::parse(&method, data) else { continue };
        for name in names(&route) {
            assert!(name.split('/').all(|part| !matches!(part, "" | "." | "..")), "leaves its directory: {name:?}");
            assert!(!name.chars().any(char::is_control), "not printable: {name:?}");
        }
        let written = ApiTarget::new(&route, data);
        let target = written.upstream_path_and_query();
        assert!(target.parse::<http::uri::PathAndQuery>().is_ok(), "unsendable: {target}");
        // Of those that are not sent upstream nothing need be read back.
        if method == Method::DELETE || matches!(route, Route::Write | Route::Unknown | Route::Panel) {
            continue;
        }
        assert_eq!(Route::parse(&method, &target).as_ref(), Ok(&route), "{target}");
        assert_eq!(ApiTarget::new(&route, &target), written, "{target}");
    }
}

/// Parses range headers; what is asked lies within the size and is never empty.
pub fn fuzz_range(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for size in [0, 1, 10, u64::MAX] {
        let ranges = match parse_range(Some(&text), size) {
            RangeAsk::One(range) => vec![range],
            RangeAsk::Many(ranges) => ranges,
            RangeAsk::Whole | RangeAsk::Unsatisfiable | RangeAsk::AllOfNothing => Vec::new(),
        };
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}

/// Parses `Content-Range`, conditions and ids; what a header says is consistent, and read back the same once written.
pub fn fuzz_content_range(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((range, size)) = content_range::parse(&text) {
        assert!(range.start < range.end && size.is_none_or(|size| range.end <= size));
        if let Some(size) = size {
            assert_eq!(content_range::parse(&content_range::write(&range, size)), Some((range, Some(size))));
        }
    }
    if let Some(size) = content_range::parse_unsatisfied(&text) {
        assert!(content_range::parse(&text).is_none());
        assert_eq!(content_range::parse_unsatisfied(&content_range::write_unsatisfied(size)), Some(size));
    }
    if let Some(oid) = Oid::from_etag(&text) {
        assert_eq!(Oid::from_etag(&oid.etag()), Some(oid));
        assert!(if_none_match(Some(&oid.etag()), &oid.etag()) && if_range_allows(Some(&oid.etag()), &oid.etag()));
    }
    // A range that may be honoured is one of the very same object, so that the condition of a 304 holds as well.
    assert!(!if_range_allows(Some(&text), "\"a\"") || if_none_match(Some(&text), "\"a\""), "{text:?}");
}

/// Rewrites `Link` and `Location` headers; doing it twice changes nothing more.
pub fn fuzz_link(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (upstream, mirror) = (["https://huggingface.co"], "http://mirror:8090");
    if let Some(link) = link_header(&text, &upstream, mirror) {
        assert!(!link.chars().any(char::is_control));
        assert_eq!(link_header(&link, &upstream, mirror).as_ref(), Some(&link));
    }
    if let Some(location) = location_header(&text, &upstream, mirror) {
        let stays = location.strip_prefix(mirror).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        assert!(stays || is_relative(&location), "{location}");
    }
}

/// Parses listings and infos; nothing is learnt from a masked page, and no path leaves the repo.
pub fn fuzz_tree(data: &[u8]) {
    match parse_tree(data) {
        Ok(tree) => {
            for file in tree.files {
                assert!(file.path.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")), "{:?}", file.path);
                assert_eq!(file.oid.is_sha256(), file.lfs, "{:?}", file.path);
            }
        }
        Err(ListingError::Masked { path }) => assert!(path.len() <= data.len()),
        Err(ListingError::Malformed { .. }) => {}
    }
    let _ = parse_info(data);
}

/// Strips Xet; what was stripped says nothing of it, has nothing left to strip, and all else in it is as it was.
pub fn fuzz_strip_xet(data: &[u8]) {
    let Ok(stripped) = strip_xet(data) else { return };
    assert!(matches!(strip_xet(&stripped), Ok(std::borrow::Cow::Borrowed(_))));
    // `Value` holds no number beyond a float, and rounds those that it holds the same way on both sides.
    let Ok(before) = serde_json::from_slice::<Value>(data) else { return };
    let after: Value = serde_json::from_slice(&stripped).expect("what was JSON still is");
    assert!(!signals_xet(&after), "{after}");
    assert_eq!(without_xet(before), after);
}

/// The texts of a route that become parts of paths.
fn names(route: &Route) -> Vec<&str> {
    let mut names = Vec::new();
    names.extend(route.repo().map(|repo| repo.name()));
    names.extend(route.revision().map(|revision| revision.as_str()));
    if let Route::Resolve { path, .. } | Route::Raw { path, .. } | Route::Tree { path: Some(path), .. } = route {
        names.push(path.as_str());
    }
    names
}

/// Says whether a client stays where it is: neither a scheme nor a host stands in front.
fn is_relative(location: &str) -> bool {
    let front = location.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let has_scheme = front.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    !has_scheme && !["//", "/\\", "\\"].iter().any(|host| location.starts_with(host))
}

fn signals_xet(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(signals_xet),
        Value::Object(members) => members.iter().any(|(key, member)| {
            key == "xetHash" || (key == "xetEnabled" && *member != Value::Bool(false)) || signals_xet(member)
        }),
        _ => false,
    }
}

/// The same removal, written the other way round.
fn without_xet(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_xet).collect(),
        Value::Object(members) => members
            .into_iter()
            .filter(|(key, _)| key != "xetHash")
            .map(|(key, member)| if key == "xetEnabled" { (key, Value::Bool(false)) } else { (key, without_xet(member)) })
            .collect(),
        other => other,
    }
}
