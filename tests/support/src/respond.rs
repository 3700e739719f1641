//! An answer before it is sent: status, headers and what the body is, with the Hub's habits (weak ETags, gzip, rate-limit headers).

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::content::{Content, Memory};
use crate::range::{Wanted, wanted};
use crate::state::Caller;

/// A request as the handlers see it.
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Still encoded.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) caller: Caller,
}

impl Ask {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn is_read(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// Returns the query's pairs, decoded, in order.
    pub(crate) fn params(&self) -> Vec<(String, String)> {
        pairs(&self.query)
    }

    pub(crate) fn param(&self, name: &str) -> Option<String> {
        self.params().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Tells whether a parameter says yes, in httpx's or requests' spelling.
    pub(crate) fn says(&self, name: &str) -> bool {
        self.param(name).is_some_and(|value| is_yes(&value))
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.param(name)?.parse().ok()
    }

    /// Returns all values of `expand` or `expand[]`.
    pub(crate) fn expansions(&self) -> Vec<String> {
        let wanted = |key: &str| key == "expand" || key == "expand[]";
        self.params().into_iter().filter(|(key, _)| wanted(key)).map(|(_, value)| value).collect()
    }

    pub(crate) fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

pub(crate) fn is_yes(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value == "1"
}

/// Splits a query or a form into decoded pairs.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| decode(&text.replace('+', " "));
    let pair = |text: &str| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (decoded(key), decoded(value))
    };
    text.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// What JavaScript's `encodeURIComponent` leaves as it is.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

/// An answer that is not sent yet.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Arc<dyn Content>,
    pub(crate) span: Range<u64>,
    /// Whether a client that accepts gzip gets it, chunked.
    pub(crate) compressible: bool,
}

impl Answer {
    pub(crate) fn plain(code: u16, kind: &str, text: impl Into<Bytes>) -> Answer {
        let content = Memory::holding(text);
        let span = 0..content.size();
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer { status, headers: HeaderMap::new(), content, span, compressible: false }.with("content-type", kind)
    }

    /// Makes a text with the weak ETag that Express computes.
    pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Answer {
        Answer::tagged(code, "text/plain; charset=utf-8", text.into())
    }

    pub(crate) fn html(code: u16, text: impl Into<Bytes>) -> Answer {
        Answer::tagged(code, "text/html; charset=utf-8", text.into())
    }

    pub(crate) fn json(code: u16, value: &Value) -> Answer {
        Answer::tagged(code, "application/json; charset=utf-8", value.to_string().into())
    }

    fn tagged(code: u16, kind: &str, bytes: Bytes) -> Answer {
        let etag = weak_etag(&bytes);
        let mut answer = Answer::plain(code, kind, bytes).with("etag", etag);
        answer.compressible = code == 200;
        answer
    }

    /// Makes a redirect with Express's text, which has its own length and no ETag.
    pub(crate) fn redirect(code: u16, location: &str) -> Answer {
        let word = if code == 302 { "Found" } else { "Temporary Redirect" };
        let text = format!("{word}. Redirecting to {location}");
        Answer::plain(code, "text/plain; charset=utf-8", text).with("location", location).with("vary", "Origin, Accept")
    }

    /// Makes an answer of a file's bytes: 200, 206, 304 or 416, by the request's headers.
    pub(crate) fn file(ask: &Ask, content: &Arc<dyn Content>, etag: &str, kind: &str) -> Answer {
        let size = content.size();
        let mut answer = Answer::plain(200, kind, Bytes::new()).with("etag", etag).with("accept-ranges", "bytes");
        if names_etag(ask.header("if-none-match"), etag) {
            answer.status = StatusCode::NOT_MODIFIED;
            return answer;
        }
        let condition = ask.header("if-range");
        let part = if condition.is_empty() || condition == etag { wanted(&ask.headers, size) } else { Wanted::Whole };
        (answer.content, answer.span) = (content.clone(), 0..size);
        match part {
            Wanted::Whole => answer,
            Wanted::Span { start, end } => {
                answer.status = StatusCode::PARTIAL_CONTENT;
                answer.span = start..end;
                answer.with("content-range", format!("bytes {start}-{}/{size}", end - 1))
            }
            Wanted::Nothing => {
                answer.status = StatusCode::RANGE_NOT_SATISFIABLE;
                answer.span = 0..0;
                answer.with("content-range", format!("bytes */{size}"))
            }
        }
    }

    /// Sets a header; what no header may hold becomes `?`.
    pub(crate) fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Answer {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: impl AsRef<str>) {
        let value: Vec<u8> = value.as_ref().bytes().map(|byte| if byte < 32 || byte == 127 { b'?' } else { byte }).collect();
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value)) {
            self.headers.insert(name, value);
        }
    }

    /// Turns a 200 into a 304 when the caller has it already. Express does so for what carries an ETag.
    pub(crate) fn fresh_for(mut self, ask: &Ask) -> Answer {
        let etag = self.headers.get("etag").and_then(|etag| etag.to_str().ok()).unwrap_or_default();
        if self.status == StatusCode::OK && ask.is_read() && names_etag(ask.header("if-none-match"), etag) {
            self.status = StatusCode::NOT_MODIFIED;
            self.span = 0..0;
        }
        self
    }

    /// Compresses the whole body when the caller accepts that. Then nobody knows the length: it goes chunked.
    pub(crate) fn gzipped_for(mut self, ask: &Ask) -> Answer {
        let whole = self.status == StatusCode::OK && self.span == (0..self.content.size()) && self.span.end > 0;
        if !self.compressible || !whole || !accepts_gzip(ask.header("accept-encoding")) {
            return self;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut offset = 0;
        while offset < self.content.size() {
            let piece = self.content.read(offset, 1 << 20);
            if encoder.write_all(&piece).is_err() {
                return self;
            }
            offset += piece.len() as u64;
        }
        let Ok(packed) = encoder.finish() else {
            return self;
        };
        self.span = 0..packed.len() as u64;
        self.content = Memory::holding(packed);
        self.set("content-encoding", "gzip");
        let vary = self.headers.get("vary").and_then(|vary| vary.to_str().ok()).unwrap_or_default();
        let vary = if vary.is_empty() { "Accept-Encoding".to_owned() } else { format!("{vary}, Accept-Encoding") };
        self.set("vary", vary);
        self
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.headers.contains_key("content-encoding")
    }
}

/// Returns the weak entity tag Express gives a text: length in hex and 27 characters of its sha1. No content id.
pub(crate) fn weak_etag(bytes: &[u8]) -> String {
    let hash = STANDARD.encode(Sha1::digest(bytes));
    format!("W/\"{:x}-{}\"", bytes.len(), &hash[..27])
}

fn names_etag(list: &str, etag: &str) -> bool {
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    !list.is_empty() && (list.trim() == "*" || list.split(',').any(|tag| strong(tag) == strong(etag)))
}

fn accepts_gzip(list: &str) -> bool {
    list.split(',').any(|item| {
        let (name, weight) = item.split_once(';').unwrap_or((item, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0));
        matches!(name.trim(), "gzip" | "x-gzip" | "*") && !refused
    })
}
