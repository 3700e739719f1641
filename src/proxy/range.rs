//! Ranges and preconditions of a file request, where pingora's own reading of them falls short.

use crate::hub::{RangeAsk, content_range, if_none_match, if_range_allows, parse_range};
use crate::mirror::FileInfo;
use http::{Method, header};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::RangeType;
use std::ops::Range;

fn text(request: &RequestHeader, name: header::HeaderName) -> Option<&str> {
    request.headers.get(name).and_then(|v| v.to_str().ok())
}

/// What the request asks of the file. Only GET has ranges, and only while `If-Range` holds.
pub(super) fn asked(request: &RequestHeader, file: &FileInfo) -> RangeAsk {
    if request.method != Method::GET || !if_range_allows(text(request, header::IF_RANGE), &file.oid.etag()) {
        return RangeAsk::Whole;
    }
    parse_range(text(request, header::RANGE), file.size)
}

/// Whether the client has the file already.
pub(super) fn not_modified(request: &RequestHeader, file: &FileInfo) -> bool {
    if_none_match(text(request, header::IF_NONE_MATCH), &file.oid.etag())
}

/// Turns the head of the whole file into the head of what was asked.
pub(super) fn apply(
    request: &RequestHeader,
    head: &mut ResponseHeader,
    ask: &RangeAsk,
    file: Option<&FileInfo>,
) -> RangeType {
    let Some(file) = file else { return RangeType::None };
    if head.status != 200 {
        return RangeType::None;
    }
    let edited = match ask {
        RangeAsk::Whole => Ok(RangeType::None),
        RangeAsk::One(span) => one(head, span, file.size),
        // Pingora writes the multipart frame, and has read the same header by the same rules.
        RangeAsk::Many(spans) => many(request, head, spans),
        RangeAsk::Unsatisfiable => unsatisfiable(head, file.size),
    };
    edited.unwrap_or(RangeType::None)
}

fn one(head: &mut ResponseHeader, span: &Range<u64>, size: u64) -> pingora_core::Result<RangeType> {
    head.set_status(206)?;
    head.insert_header("Content-Length", span.end - span.start)?;
    head.insert_header("Content-Range", content_range::write(span, size))?;
    Ok(RangeType::Single(span.start as usize..span.end as usize))
}

fn many(request: &RequestHeader, head: &mut ResponseHeader, spans: &[Range<u64>]) -> pingora_core::Result<RangeType> {
    Ok(pingora_proxy::range_header_filter(request, head, Some(spans.len())))
}

fn unsatisfiable(head: &mut ResponseHeader, size: u64) -> pingora_core::Result<RangeType> {
    head.set_status(416)?;
    head.insert_header("Content-Length", 0)?;
    head.remove_header("Content-Type");
    head.insert_header("Content-Range", content_range::write_unsatisfied(size))?;
    Ok(RangeType::Invalid)
}
