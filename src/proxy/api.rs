//! The API desk: questions in, answers out, links turned back to this mirror.

use super::{HubProxy, Refusal, respond};
use crate::hub::{ApiTarget, HubError, Route, rewrite};
use crate::mirror::Question;
use crate::source::Token;
use bytes::{Bytes, BytesMut};
use http::{Method, header};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

/// Longest question body: the paths of `paths-info`.
const FORM_LEN_MAX: usize = 4 << 20;

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
        let form = match method == Method::POST {
            true => Some(read_form(session).await?),
            false => None,
        };
        let question = Question { route, method, target, token, form };
        let answer = self.mirror.answer(&question).await.map_err(HubError::into_refusal)?;
        let base = respond::base(session, &self.public_url);
        let upstream = self.mirror.origin.base();
        let bases = [upstream.as_str(), "https://huggingface.co"];
        let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 4))?;
        for (name, value) in &answer.headers {
            if name != "link" {
                head.append_header(name.clone(), value)?;
            } else if let Some(link) = rewrite::link_header(value, &bases, &base) {
                head.append_header("Link", link)?;
            }
        }
        respond::whole(session, head, answer.body.clone()).await?;
        Ok(answer.from)
    }
}

async fn read_form(session: &mut Session) -> Result<(String, Bytes), Refusal> {
    let content_type = session.req_header().headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let content_type = content_type.unwrap_or("application/x-www-form-urlencoded").to_owned();
    let mut form = BytesMut::new();
    while let Some(chunk) = session.read_request_body().await? {
        if form.len() + chunk.len() > FORM_LEN_MAX {
            return Err(HubError::bad_request("The request body is longer than 4 MiB.").into_refusal());
        }
        form.extend_from_slice(&chunk);
    }
    Ok((content_type, form.freeze()))
}
