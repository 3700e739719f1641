//! Why the mirror cannot give what was asked.

use crate::hub::{HubError, Oid};
use crate::source::SourceError;
use crate::store::StoreError;

/// Cloned to every reader that waits for the same bytes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The disk failed; what and where is for the log alone.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task of ours ended in a way it never should.
    #[error("{0}")]
    Internal(String),
    /// The bytes that upstream gave are not the ones it promised.
    #[error("the content of `{oid}` hashes to {found}: it was set aside; ask again to fetch it anew")]
    Mismatch { oid: Oid, found: String },
    /// Complete, but the hash of the whole is not known yet.
    #[error("`{oid}` is still being verified; ask again in a moment")]
    Unverified { oid: Oid },
    /// A kept block does not match its checksum any more; it counts as absent from now on.
    #[error("a block of `{oid}` has rotted on the mirror's disk; ask again to have it fetched anew")]
    Rotten { oid: Oid },
    /// As many are served past the disk as may be.
    #[error("the mirror's disk is full or fails, and it serves as many past it as it can; try again later")]
    Crowded,
    /// Not kept here, and upstream is not asked.
    #[error("not in this mirror's cache, and it runs offline")]
    Offline,
    /// A rule of the operator's is against the repo.
    #[error("{}", .0.message)]
    Ruled(Box<HubError>),
}

impl MirrorError {
    /// The answer for a client, while none has begun.
    pub fn to_hub(&self) -> HubError {
        match self {
            MirrorError::Source(error) => error.to_hub(),
            MirrorError::Store(_) | MirrorError::Internal(_) => {
                // Paths of the mirror's host are nothing to strangers.
                log::error!("{self}");
                HubError::internal("the mirror's disk failed; its log tells the administrator where")
            }
            MirrorError::Mismatch { .. } => HubError::upstream_broken(&self.to_string()),
            MirrorError::Unverified { .. } => HubError::upstream_unavailable(&self.to_string(), 5),
            MirrorError::Crowded => HubError::upstream_unavailable(&self.to_string(), 5),
            MirrorError::Rotten { .. } => HubError::upstream_unavailable(&self.to_string(), 1),
            MirrorError::Offline => HubError::offline(),
            MirrorError::Ruled(error) => (**error).clone(),
        }
    }
}

impl From<tokio::task::JoinError> for MirrorError {
    fn from(error: tokio::task::JoinError) -> MirrorError {
        MirrorError::Internal(error.to_string())
    }
}

impl SourceError {
    /// Upstream's no in the Hub's words, upstream's trouble as trouble: never 401 or 404 for the latter.
    pub fn to_hub(&self) -> HubError {
        match self {
            SourceError::Unreachable { .. } => HubError::upstream_unavailable(&self.to_string(), 10),
            SourceError::Timeout { .. } => HubError::upstream_timeout(&self.to_string()),
            SourceError::Broken { .. } => HubError::upstream_broken(&self.to_string()),
            SourceError::Forbidden { .. } => HubError::upstream_forbidden(&self.to_string()),
            SourceError::Busy { status: 429, retry_after, .. } => HubError::too_many_requests(whole_seconds(*retry_after)),
            SourceError::Busy { retry_after, .. } => {
                HubError::upstream_unavailable(&self.to_string(), whole_seconds(*retry_after))
            }
            SourceError::Refused { status, code, message, commit, .. } => refused(*status, code.as_deref(), message, *commit),
        }
    }
}

/// Rounded up: who comes back too early is refused again.
fn whole_seconds(retry_after: Option<std::time::Duration>) -> u64 {
    retry_after.map_or(10, |wait| wait.as_secs_f64().ceil().max(1.0) as u64)
}

/// The Hub's answer for a missing repo carries no code; over plain http clients need one to name the exception.
pub(crate) fn refused(status: u16, code: Option<&str>, message: &str, commit: Option<crate::hub::Commit>) -> HubError {
    let code = match code {
        Some("RepoNotFound") => Some("RepoNotFound"),
        Some("RevisionNotFound") => Some("RevisionNotFound"),
        Some("EntryNotFound") => Some("EntryNotFound"),
        Some("GatedRepo") => Some("GatedRepo"),
        None if status == 401 && message != "Invalid credentials in Authorization header" => Some("RepoNotFound"),
        _ => None,
    };
    let message = if message.is_empty() { format!("The Hub answered {status}.") } else { message.to_owned() };
    HubError { status, code, message, commit, retry_after: None }
}
