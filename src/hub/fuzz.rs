//! Entry points for fuzzing: each takes any bytes, must not panic, and checks what must hold whatever they are.

use super::rewrite::{link_header, location_header, strip_xet};
use super::{ApiTarget, Route, content_range, if_none_match, if_range_allows, parse_info, parse_range, parse_tree};
use super::{RangeAsk, listing::ListingError};
use http::Method;

/// Parses a target under each method; a route written down and parsed again is the same route.
pub fn fuzz_route(data: &[u8]) {
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let Ok(route) = Route::parse(&method, data) else { continue };
        let written = ApiTarget::new(&route, data);
        let target = written.upstream_path_and_query();
        assert!(target.parse::<http::uri::PathAndQuery>().is_ok(), "unsendable: {target}");
        if method == Method::DELETE || route == Route::Write {
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
            RangeAsk::Whole | RangeAsk::Unsatisfiable => Vec::new(),
        };
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
    if let Some((range, size)) = content_range::parse(&text) {
        assert!(range.start < range.end && size.is_none_or(|size| range.end <= size));
    }
    if_none_match(Some(&text), "\"a\"");
    if_range_allows(Some(&text), "\"a\"");
}

/// Rewrites `Link` and `Location` headers; doing it twice changes nothing more.
pub fn fuzz_link(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (upstream, mirror) = (["https://huggingface.co"], "http://mirror:8090");
    if let Some(link) = link_header(&text, &upstream, mirror) {
        assert!(!link.chars().any(char::is_control));
        assert_eq!(link_header(&link, &upstream, mirror).as_ref(), Some(&link));
    }
    location_header(&text, &upstream, mirror);
}

/// Parses listings and infos, and strips Xet; what was stripped has nothing left to strip.
pub fn fuzz_tree(data: &[u8]) {
    if let Err(ListingError::Masked { path }) = parse_tree(data) {
        assert!(path.len() <= data.len());
    }
    let _ = parse_info(data);
    if let Ok(stripped) = strip_xet(data) {
        assert!(matches!(strip_xet(&stripped), Ok(std::borrow::Cow::Borrowed(_))));
    }
}
