//! Files that only a fallback has told of, and the bytes that are kept under the ids it names.
//!
//! An id opens what is kept, whoever it was fetched for. From the Hub that is right: it gives the bytes under the same name to
//! the same caller. A fallback that is no party to our callers' tokens could name the id of a gated repo's file, which it never
//! had. So its word opens only what it can give itself: a piece of the object, chosen by us.

use super::fill::Fill;
use super::{FileInfo, KEPT_PATIENCE, Mirror, MirrorError, blocking};
use crate::access::Admission;
use crate::hub::{ApiTarget, TreeFile};
use crate::source::{SourceError, Token, deadline};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout;

/// Bytes of the piece.
const PIECE_LEN: u64 = 4 << 10;
/// Where a fallback ignores ranges, so many bytes are read and thrown away to come to the piece; not more.
const SKIP_LEN_MAX: u64 = 64 << 20;

/// What a file's word for its content is worth.
pub(super) enum Claim {
    Proven,
    /// All that is there of the object, and all that will be, comes from this file itself.
    Own,
    /// There are bytes that may have come from elsewhere, and no whole object to compare a piece with.
    Doubtful,
}

impl Mirror {
    /// Judges whether a file that is known at second hand may be given what is kept under its id, and what others are fetching.
    pub(super) async fn claim(
        &self,
        file: &FileInfo,
        token: Option<&Token>,
        admission: Admission,
        fill: &Arc<Fill>,
    ) -> Result<Claim, MirrorError> {
        if file.size == 0 {
            return Ok(Claim::Proven);
        }
        if !fill.object.is_verified() {
            let is_own = match fill.object.present_count() {
                0 => fill.sources.is_empty() || fill.sources.is_only(file),
                _ => fill.sources.is_only(file),
            };
            return Ok(if is_own { Claim::Own } else { Claim::Doubtful });
        }
        if self.config.upstream.offline {
            return Err(MirrorError::Offline);
        }
        let target = ApiTarget::resolve(&file.repo, &file.commit.into(), &file.path).upstream_path_and_query();
        let found = self.origin.for_bytes().of_repo(admission == Admission::Open).locate(&target, token).await?;
        let host = found.url.authority();
        let wrong = |cause: String| SourceError::Broken { host: host.clone(), cause };
        if (found.oid, found.size) != (file.oid, file.size) {
            return Err(wrong(format!("{target} is now {} of {} bytes", found.oid, found.size)).into());
        }
        if !found.authoritative {
            let start = rand::random::<u64>() % file.size.saturating_sub(PIECE_LEN).max(1);
            let piece = start..(start + PIECE_LEN).min(file.size);
            let time = deadline::at_most(KEPT_PATIENCE);
            let asked = timeout(time, self.piece(&found.url, piece.clone(), file.size)).await;
            let given =
                asked.unwrap_or_else(|_| Err(SourceError::Timeout { host: host.clone(), cause: "a piece took too long".into() }));
            let given = given.map_err(|error| match error {
                // A fallback's no, which is not the Hub's.
                SourceError::Refused { status, .. } => wrong(format!("it names {}, and refuses it with {status}", file.oid)),
                error => error,
            })?;
            let object = fill.object.clone();
            if blocking(move || Ok(object.read(piece)?)).await? != given {
                return Err(wrong(format!("it names {}, and has something else", file.oid)).into());
            }
        }
        self.vouch(file).await;
        Ok(Claim::Proven)
    }

    async fn piece(&self, url: &crate::source::Url, piece: Range<u64>, size: u64) -> Result<Vec<u8>, SourceError> {
        let (mut body, starts_at) = self.origin.open(url, None, piece.clone(), size).await?;
        let mut skip = piece.start - starts_at;
        let wanted = (piece.end - piece.start) as usize;
        let mut given = Vec::with_capacity(wanted);
        while given.len() < wanted && skip <= SKIP_LEN_MAX {
            let Some(chunk) = body.chunk().await? else { break };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let chunk = &chunk[skipped as usize..];
            given.extend_from_slice(&chunk[..chunk.len().min(wanted - given.len())]);
        }
        Ok(given)
    }

    /// From now on the file counts as if the Hub had told of it.
    async fn vouch(&self, file: &FileInfo) {
        let listed = TreeFile { path: file.path.clone(), oid: file.oid, size: file.size, lfs: file.oid.is_sha256() };
        self.learn_tree(&file.repo, file.commit, &[listed], false, false).await;
    }
}

/// Holds a reader to what the file itself gives, and looks, when it ends, whether that was all of an object that proved right. Then
/// the file is proven, also for when nobody can be asked any more.
pub(super) struct Voucher {
    mirror: Arc<Mirror>,
    file: FileInfo,
    fill: Arc<Fill>,
}

impl Voucher {
    pub(super) fn new(mirror: Arc<Mirror>, file: FileInfo, fill: Arc<Fill>) -> Voucher {
        Voucher { mirror, file, fill }
    }

    /// Whether no bytes can have come from elsewhere so far. To be asked when they are there: who else fetches them is noted before.
    pub(super) fn is_own(&self) -> bool {
        self.fill.sources.is_only(&self.file)
    }
}

impl Drop for Voucher {
    fn drop(&mut self) {
        if !self.fill.object.is_verified() || !self.is_own() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (mirror, file) = (self.mirror.clone(), self.file.clone());
        runtime.spawn(async move { mirror.vouch(&file).await });
    }
}
