//! A small HTTP client for a mirror: plain HTTP/1.1, one connection per request.
//!
//! Connections are to the loopback or the own network and files are large, so keeping connections would save nothing.

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, HOST, RANGE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{error::Error, time::Duration};
use tokio::{net::TcpStream, time::timeout};

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The mirror tries upstream several times before it answers, and pauses a body while it does; more silence than this is a fault.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// A page of a listing has a thousand files; an answer of this size is none.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// Asks one mirror.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// `HOST:PORT`.
    mirror: String,
    authorization: Option<HeaderValue>,
}

/// Why there is no answer, or no good one.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The connection could not be made, or broke: try again.
    #[error("{0}")]
    Broken(String),
    /// The mirror, or the Hub behind it, says no.
    #[error("{status}: {message}")]
    Refused { status: StatusCode, message: String, retry_after: Option<Duration> },
}

impl AskError {
    /// Whether the same question may get another answer later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            AskError::Broken(_) => true,
            AskError::Refused { status, .. } => status.is_server_error() || matches!(status.as_u16(), 408 | 429),
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            AskError::Broken(_) => None,
            AskError::Refused { retry_after, .. } => *retry_after,
        }
    }

    fn broken(what: &str, error: &dyn Error) -> AskError {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        AskError::Broken(format!("{what}: {error}{cause}"))
    }
}

impl Client {
    pub(crate) fn new(mirror: impl ToString, authorization: Option<HeaderValue>) -> Client {
        Client { mirror: mirror.to_string(), authorization }
    }

    /// Asks for `target`, from byte `start` on; the answer is 200, or 206 when `start` is not 0.
    pub(super) async fn get(&self, target: &str, start: u64) -> Result<Response<Incoming>, AskError> {
        let stream = match timeout(CONNECT_MAX, TcpStream::connect(&self.mirror)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(AskError::broken(&format!("connect to {}", self.mirror), &error)),
            Err(_) => return Err(AskError::Broken(format!("connect to {}: no answer in {CONNECT_MAX:?}", self.mirror))),
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| AskError::broken("talk to the mirror", &error))?;
        // Ends with the body, or when the body is dropped.
        tokio::spawn(connection);
        let request = self.request(target, start).map_err(|error| AskError::broken("write the request", &error))?;
        let response = match timeout(SILENCE_MAX, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|error| AskError::broken("ask the mirror", &error))?,
            Err(_) => return Err(AskError::Broken(format!("the mirror has not answered in {SILENCE_MAX:?}"))),
        };
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// Asks for a whole small answer, and returns it with the target of its `Link` to the next page.
    pub(super) async fn page(&self, target: &str) -> Result<(Bytes, Option<String>), AskError> {
        let response = self.get(target, 0).await?;
        let next = response.headers().get_all(http::header::LINK).iter().find_map(|link| next_page(link.to_str().ok()?));
        Ok((whole(response).await?, next))
    }

    fn request(&self, target: &str, start: u64) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = Request::get(target)
            .header(HOST, &self.mirror)
            .header(USER_AGENT, concat!("dingospeed/", env!("CARGO_PKG_VERSION"), "; pull"));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        request.body(Empty::new())
    }
}

/// Returns the next piece of a body; none at its end.
pub(super) async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, AskError> {
    loop {
        match timeout(SILENCE_MAX, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
            Ok(Some(Err(error))) => return Err(AskError::broken("the body broke off", &error)),
            Err(_) => return Err(AskError::Broken(format!("not a byte in {SILENCE_MAX:?}"))),
        }
    }
}

/// Reads a small body to its end.
pub(super) async fn whole(response: Response<Incoming>) -> Result<Bytes, AskError> {
    match timeout(SILENCE_MAX, Limited::new(response.into_body(), ANSWER_LEN_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(AskError::broken("read the answer", error.as_ref())),
        Err(_) => Err(AskError::Broken(format!("the answer was not whole after {SILENCE_MAX:?}"))),
    }
}

async fn refusal(response: Response<Incoming>) -> AskError {
    let status = response.status();
    let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let retry_after = text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    let message = text("x-error-message").or_else(|| text("x-error-code"));
    let message = message.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
    AskError::Refused { status, message, retry_after }
}

/// Finds the target of `rel="next"` and keeps its path from `/api/` on: the page is asked of this mirror, by whatever name
/// the link calls it (`server.public_url` may be a proxy's, with a path of its own).
fn next_page(link: &str) -> Option<String> {
    let url = link.split('<').skip(1).find_map(|part| {
        let (url, parameters) = part.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        parameters.split([';', ',']).any(is_next).then_some(url)
    })?;
    let uri: Uri = url.parse().ok()?;
    let target = uri.path_and_query()?.as_str();
    target.find("/api/").map(|at| target[at..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_of_the_same_mirror() {
        fn check(link: &str, expected: Option<&str>) {
            assert_eq!(next_page(link).as_deref(), expected, "{link}");
        }
        check("<http://m:8090/api/models/a/b/tree/c?cursor=x%3D>; rel=\"next\"", Some("/api/models/a/b/tree/c?cursor=x%3D"));
        check("<https://hub.example.org/mirror/api/models/a?cursor=1>; rel=next", Some("/api/models/a?cursor=1"));
        check("</x>; rel=\"prev\", </api/y?z=1>; rel=\"next\"", Some("/api/y?z=1"));
        check("<http://m/api/x>; rel=\"prev\"", None);
        check("http://m/api/x; rel=\"next\"", None);
        check("", None);
    }
}
