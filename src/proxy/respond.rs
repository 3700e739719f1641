//! Writes the mirror's own answers.

use crate::hub::HubError;
use bytes::Bytes;
use http::{Method, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::json;

/// What a browser's script may read, as the Hub says it.
const EXPOSED: &str = "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,\
                       Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash";

pub(super) fn add_cors(head: &mut ResponseHeader) -> Result<()> {
    head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
    head.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)
}

/// Says no in the Hub's words, to whoever asked for a route of this label; the connection stays usable.
pub(super) async fn refuse(session: &mut Session, error: &HubError, label: &str) -> Result<()> {
    let mut head = ResponseHeader::build(error.status, Some(10))?;
    for (name, value) in error.headers() {
        head.insert_header(name, value)?;
    }
    // Git shows its user a plain text, and git-lfs what is under `message`.
    let (content_type, body) = match label {
        "git" | "git-push" => ("text/plain; charset=utf-8", format!("{}\n", error.message).into_bytes()),
        "git-lfs" => ("application/vnd.git-lfs+json", json!({ "message": error.message }).to_string().into_bytes()),
        _ => ("application/json; charset=utf-8", error.body()),
    };
    head.insert_header("Content-Type", content_type)?;
    whole(session, head, body.into()).await
}

pub(super) async fn bytes(session: &mut Session, status: u16, content_type: &'static str, body: Vec<u8>) -> Result<()> {
    let mut head = ResponseHeader::build(status, Some(6))?;
    head.insert_header("Content-Type", content_type)?;
    // The mirror's own state is true for a moment only, whatever stands in front.
    head.insert_header("Cache-Control", "no-store")?;
    whole(session, head, body.into()).await
}

pub(super) async fn empty(session: &mut Session, status: u16) -> Result<()> {
    bare(session, ResponseHeader::build(status, Some(4))?).await
}

/// Writes an answer that has no body and never had one: 204, 304.
pub(super) async fn bare(session: &mut Session, mut head: ResponseHeader) -> Result<()> {
    add_cors(&mut head)?;
    session.write_response_header(Box::new(head), true).await
}

pub(super) async fn preflight(session: &mut Session) -> Result<()> {
    let mut head = ResponseHeader::build(204, Some(6))?;
    head.insert_header("Access-Control-Allow-Methods", "GET,HEAD,OPTIONS,POST")?;
    head.insert_header("Access-Control-Allow-Headers", "*, Authorization, Range")?;
    add_cors(&mut head)?;
    session.write_response_header(Box::new(head), true).await
}

/// Writes a head and its whole body; of a HEAD only the head, with the length the body would have.
pub(super) async fn whole(session: &mut Session, mut head: ResponseHeader, body: Bytes) -> Result<()> {
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    add_cors(&mut head)?;
    prepared(session, head, body).await
}

/// Writes a head as it is, and the body that it tells of; of a HEAD only the head.
pub(super) async fn prepared(session: &mut Session, head: ResponseHeader, body: Bytes) -> Result<()> {
    // An unread request body would be taken for the next request.
    let keepalive = keepalive(session);
    session.set_keepalive(keepalive);
    let bare = session.req_header().method == Method::HEAD || body.is_empty();
    session.write_response_header(Box::new(head), bare).await?;
    if !bare {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn keepalive(session: &mut Session) -> Option<u64> {
    let seconds = session.get_keepalive();
    if session.is_body_empty() || session.is_body_done() { seconds } else { None }
}

/// Whether the client speaks TLS with this process.
pub(super) fn is_tls(session: &Session) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

/// Where the client reached this mirror: for links that lead back to it.
pub(super) fn base(session: &Session, public_url: &str) -> String {
    if !public_url.is_empty() {
        return public_url.to_owned();
    }
    let request = session.req_header();
    let host = request.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let authority = request.uri.authority().map(|a| a.as_str());
    let is_host = |h: &&str| !h.is_empty() && h.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    let scheme = if is_tls(session) { "https" } else { "http" };
    format!("{scheme}://{}", authority.or(host).filter(is_host).unwrap_or("localhost"))
}
