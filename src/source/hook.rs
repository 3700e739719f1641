//! A place to which the mirror tells something: one POST at a time, through the same proxies as everything else.

use super::client::{Ask, Client};
use super::{SourceError, Url};
use crate::config;
use bytes::Bytes;
use http::Method;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long one POST may take in all.
const POST_MAX: Duration = Duration::from_secs(15);

/// Takes JSON by POST. Its trouble opens no breaker and counts for no upstream.
pub struct Hook {
    client: Client,
    url: Url,
}

impl Hook {
    /// `None` if `url` is none.
    pub fn new(config: &config::Upstream, url: &str) -> Option<Hook> {
        Some(Hook { client: Client::new(config, &[]), url: Url::parse(url)? })
    }

    /// Sends a body of JSON. Any status but 2xx is an error. The address is a secret: only its host is ever told.
    pub async fn post(&self, json: Bytes) -> Result<(), SourceError> {
        let ask = Ask {
            method: &Method::POST,
            url: &self.url,
            token: None,
            span: None,
            form: Some(("application/json", json)),
            unless: None,
            kind: "hook",
            subject: None,
            deadline: Some(Instant::now() + POST_MAX),
            deciding: false,
            urgent: false,
            budget: None,
        };
        let host = || self.url.authority();
        let late = |_| SourceError::Timeout { host: host(), cause: format!("no answer in {POST_MAX:?}") };
        let body = tokio::time::timeout(POST_MAX, self.client.exchange(&ask, &AtomicBool::default())).await.map_err(late)??;
        let status = body.status;
        body.release().await;
        match status {
            200..=299 => Ok(()),
            _ => Err(SourceError::Busy { host: host(), status, retry_after: None }),
        }
    }
}
