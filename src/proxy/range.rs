//! Ranges and preconditions of a file request, where pingora's own reading of them falls short.

use crate::hub::{RangeAsk, content_range, content_type, if_none_match, if_range_allows, parse_range};
use crate::mirror::FileInfo;
use http::{Method, header};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{MultiRangeInfo, RangeType};
use std::ops::Range;

fn text(request: &RequestHeader, name: header::HeaderName) -> Option<&str> {
    request.headers.get(name).and_then(|v| v.to_str().ok())
}

/// What the request asks of the file. Only GET has ranges, and only while `If-Range` holds.
pub(super) fn asked(request: &RequestHeader, file: &FileInfo) -> RangeAsk {
    let range = text(request, header::RANGE);
    if range.is_none() || request.method != Method::GET || !if_range_allows(text(request, header::IF_RANGE), &file.oid.etag()) {
        return RangeAsk::Whole;
    }
    parse_range(range, file.size)
}

/// Whether the client has the file already.
pub(super) fn not_modified(request: &RequestHeader, file: &FileInfo) -> bool {
    let tags = text(request, header::IF_NONE_MATCH);
    tags.is_some() && if_none_match(tags, &file.oid.etag())
}

/// Turns the head of the whole file into the head of what was asked.
pub(super) fn apply(head: &mut ResponseHeader, ask: &RangeAsk, file: Option<&FileInfo>) -> RangeType {
    let Some(file) = file else { return RangeType::None };
    if head.status != 200 {
        return RangeType::None;
    }
    let edited = match ask {
        RangeAsk::Whole => Ok(RangeType::None),
        RangeAsk::One(span) => one(head, span, file.size),
        RangeAsk::Many(spans) => many(head, spans, file),
        RangeAsk::Unsatisfiable => unsatisfiable(head, file.size),
        RangeAsk::AllOfNothing => {
            head.insert_header("Content-Range", content_range::write_unsatisfied(0)).map(|()| RangeType::None)
        }
    };
    edited.unwrap_or(RangeType::None)
}

fn one(head: &mut ResponseHeader, span: &Range<u64>, size: u64) -> pingora_core::Result<RangeType> {
    head.set_status(206)?;
    head.insert_header("Content-Length", span.end - span.start)?;
    head.insert_header("Content-Range", content_range::write(span, size))?;
    Ok(RangeType::Single(span.start as usize..span.end as usize))
}

/// Pingora writes the multipart frames of the body; what the ranges are is decided here alone, or head and body differ.
fn many(head: &mut ResponseHeader, spans: &[Range<u64>], file: &FileInfo) -> pingora_core::Result<RangeType> {
    let mut parts = MultiRangeInfo::new(spans.iter().map(|s| s.start as usize..s.end as usize).collect());
    parts.set_total_length(file.size as usize);
    parts.set_content_type(content_type(file.path.as_str()).to_owned());
    head.set_status(206)?;
    head.insert_header("Content-Length", parts.calculate_multipart_length())?;
    head.insert_header("Content-Type", format!("multipart/byteranges; boundary={}", parts.boundary))?;
    Ok(RangeType::Multi(parts))
}

fn unsatisfiable(head: &mut ResponseHeader, size: u64) -> pingora_core::Result<RangeType> {
    head.set_status(416)?;
    head.insert_header("Content-Length", 0)?;
    head.remove_header("Content-Type");
    head.insert_header("Content-Range", content_range::write_unsatisfied(size))?;
    head.insert_header("X-Error-Message", format!("The range cannot be satisfied: the file has {size} bytes."))?;
    Ok(RangeType::Invalid)
}
