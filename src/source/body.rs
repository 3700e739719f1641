//! An answer of which the head has been read, and the body is being read.

use super::budget::retry_after;
use super::client::failure;
use super::{SourceError, Url};
use crate::hub::Commit;
use crate::metrics::metrics;
use bytes::Bytes;
use http::HeaderMap;
use pingora_core::connectors::http::v1::Connector;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Idle connections are given up before the usual 60 s of a CDN, so that a request rarely meets a closed one.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bodies that are read whole: API answers. Beyond this an answer is refused, not truncated.
pub(crate) const WHOLE_LEN_MAX: usize = 64 << 20;
/// A short body (a redirect's text) is worth reading for the connection; a longer one is not.
const LEFTOVER_LEN_MAX: usize = 16 << 10;
/// What is left of a body may take so long to come before the connection is given up instead.
const LEFTOVER_WAIT_MAX: Duration = Duration::from_secs(1);

/// How slowly an answer may come.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Between two pieces.
    pub(super) pause: Duration,
    pub(super) end: Instant,
}

/// An answer whose body is being read.
pub struct Body {
    pub(super) session: HttpSession,
    pub(super) peer: HttpPeer,
    pub(super) connector: Arc<Connector>,
    pub(super) host: String,
    pub status: u16,
    pub headers: HeaderMap,
}

impl Body {
    /// The next bytes, borrowed from the connection's own buffer; `None` at the promised end, an error at any other.
    pub async fn chunk(&mut self) -> Result<Option<&[u8]>, SourceError> {
        match self.session.read_body_ref().await {
            Ok(chunk) => Ok(chunk),
            Err(e) => Err(failure(&self.host, &e)),
        }
    }

    pub(super) async fn read_whole(&mut self, patience: Patience) -> Result<Bytes, SourceError> {
        let host = self.host.clone();
        let mut whole = Vec::new();
        loop {
            let until = patience.end.min(Instant::now() + patience.pause);
            let Ok(chunk) = timeout_at(until.into(), self.chunk()).await else {
                let cause = format!("the answer came too slowly: {} bytes of it in time", whole.len());
                return Err(SourceError::Timeout { host, cause });
            };
            let Some(chunk) = chunk? else { break };
            if whole.len() + chunk.len() > WHOLE_LEN_MAX {
                let cause = format!("the answer is longer than {WHOLE_LEN_MAX} bytes");
                return Err(SourceError::Broken { host, cause });
            }
            whole.extend_from_slice(chunk);
        }
        metrics().received("api", whole.len() as u64);
        Ok(whole.into())
    }

    /// Gives the connection back for reuse, if the whole body was read.
    pub async fn release(mut self) {
        let rest = async {
            let mut left = LEFTOVER_LEN_MAX;
            while let Ok(Some(chunk)) = self.session.read_body_ref().await {
                left = left.checked_sub(chunk.len())?;
            }
            Some(())
        };
        if let Ok(Some(())) = tokio::time::timeout(LEFTOVER_WAIT_MAX, rest).await {
            self.connector.release_http_session(self.session, &self.peer, Some(IDLE_MAX)).await;
        }
    }

    /// This answer as an error.
    pub(super) fn refusal(&self, url: &Url) -> SourceError {
        let text = |name: &str| self.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let host = url.authority();
        if self.status == 429 || self.status >= 500 || self.status == 408 {
            return SourceError::Busy { host, status: self.status, retry_after: retry_after(&self.headers) };
        }
        SourceError::Refused {
            host,
            status: self.status,
            code: text("x-error-code"),
            message: text("x-error-message").unwrap_or_default(),
            commit: text("x-repo-commit").as_deref().and_then(Commit::parse),
        }
    }
}
