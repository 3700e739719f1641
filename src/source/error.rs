//! Why upstream did not give what was asked, by what to do about it.

use crate::hub::Commit;
use std::time::Duration;

/// Cloned to every waiter of a flight, so causes are kept as text.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// No connection: the host is down, unknown, or refuses. Worth another try; serve what is kept.
    #[error("cannot reach {host}: {cause}")]
    Unreachable { host: String, cause: String },
    /// Nothing came for the configured time. Worth another try.
    #[error("{host} sent nothing in time: {cause}")]
    Timeout { host: String, cause: String },
    /// The answer is not what HTTP or the Hub's contract promises. Worth another try.
    #[error("{host} answered wrongly: {cause}")]
    Broken { host: String, cause: String },
    /// Upstream is overloaded or out of order (429 and 5xx). Worth another try after a while.
    #[error("{host} answered {status}")]
    Busy { host: String, status: u16, retry_after: Option<Duration> },
    /// Upstream's own no (4xx): to be told to the client in its words.
    #[error("{host} refused with {status}: {message}")]
    Refused { host: String, status: u16, code: Option<String>, message: String, commit: Option<Commit> },
    /// A redirect to a host that is not allowed. Final until configured otherwise.
    #[error("upstream redirects to {host}, which is not an allowed host; add it to upstream.allowed_hosts if it is trusted")]
    Forbidden { host: String },
}

impl SourceError {
    /// Whether the same question may be answered the next time.
    pub fn is_passing(&self) -> bool {
        !matches!(self, SourceError::Refused { .. } | SourceError::Forbidden { .. })
    }
}
