//! The API desk: questions in, answers out, links turned back to this mirror.

use super::{HubProxy, Refusal, respond};
use crate::hub::{ApiTarget, HubError, Route, if_none_match, rewrite};
use crate::mirror::{HEADERS_OWN, Question};
use crate::source::{Token, deadline};
use bytes::{Bytes, BytesMut};
use http::{Method, header};
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::time::Duration;

/// Longest question body: the paths of `paths-info`.
const FORM_LEN_MAX: usize = 4 << 20;
/// How long it may take to arrive.
const FORM_TIME_MAX: Duration = Duration::from_secs(30);

impl HubProxy {
    /// Returns where the answer came from.
    pub(super) async fn api(
        &self,
        session: &mut Session,
        route: Route,
        method: Method,
        target: ApiTarget,
        token: Option<Token>,
    ) -> Result<&'static str, Refusal> {
        let location = matches!(route, Route::Layer { .. }).then(|| target.path().to_owned());
        let form = match method == Method::POST {
            true => Some(read_form(session).await?),
            false => None,
        };
        let reads = method != Method::POST;
        let question = Question { route, method, target, token, form };
        // A body may take its time to come, which is not taken from the answer's.
        let answer = match reads {
            true => self.mirror.answer(&question).await,
            false => deadline::within(self.mirror.config.upstream.question_timeout, self.mirror.answer(&question)).await,
        };
        let answer = answer.map_err(HubError::into_refusal)?;
        let base = respond::base(session, &self.public_url);
        let upstream = self.mirror.origin.base();
        let bases = [upstream.as_str(), "https://huggingface.co"];
        let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 4))?;
        for (name, value) in &answer.headers {
            if HEADERS_OWN.contains(&name.as_str()) {
                continue;
            }
            if name != "link" {
                head.append_header(name.clone(), value)?;
            } else if let Some(link) = rewrite::link_header(value, &bases, &base) {
                head.append_header("Link", link)?;
            }
        }
        if let Some(location) = location.filter(|_| answer.status == 200) {
            head.insert_header("Location", location)?;
        }
        let etag = head.headers.get(header::ETAG).and_then(|v| v.to_str().ok());
        let condition = session.req_header().headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        if answer.status == 200 && reads && etag.is_some_and(|etag| if_none_match(condition, etag)) {
            head.set_status(304)?;
            head.remove_header("Content-Type");
            respond::bare(session, head).await?;
            return Ok(answer.from);
        }
        respond::whole(session, head, answer.body.clone()).await?;
        Ok(answer.from)
    }
}

/// Reads the question, which arrives in bounded time: pingora's own clock starts again with each byte.
pub(super) async fn read_form(session: &mut Session) -> Result<(String, Bytes), Refusal> {
    let form = tokio::time::timeout(FORM_TIME_MAX, read_whole_form(session)).await;
    let form = form.unwrap_or_else(|_| Err(HubError::body_too_slow().into_refusal()));
    if form.is_err() {
        // Where the next request begins is not known.
        session.set_keepalive(None);
    }
    form
}

async fn read_whole_form(session: &mut Session) -> Result<(String, Bytes), Refusal> {
    let content_type = session.req_header().headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let content_type = content_type.unwrap_or("application/x-www-form-urlencoded").to_owned();
    let mut form = BytesMut::new();
    while let Some(chunk) = session.read_request_body().await.map_err(unreadable)? {
        if form.len() + chunk.len() > FORM_LEN_MAX {
            return Err(HubError::bad_request("The request body is longer than 4 MiB.").into_refusal());
        }
        form.extend_from_slice(&chunk);
    }
    Ok((content_type, form.freeze()))
}

/// A body that is no body is the client's mistake, and a connection that breaks needs no answer.
fn unreadable(error: Box<Error>) -> Refusal {
    match error.etype() {
        ErrorType::ReadTimedout => HubError::body_too_slow().into_refusal(),
        ErrorType::ReadError | ErrorType::ConnectionClosed => Refusal::Pingora(error.into_down()),
        _ => HubError::bad_request(format!("the request's body cannot be read: {}", error.etype().as_str())).into_refusal(),
    }
}
