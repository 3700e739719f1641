//! What can go wrong on the disk, by remedy.

use std::{io, path::PathBuf, sync::Arc};

/// A failure of the store. The variants are remedies: match on them, show the message.
///
/// It is `Clone`, because all who wait for one fill are told the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing of that name is kept: fetch it.
    #[error("{what} is not kept here")]
    NotFound { what: String },

    /// No store is in the directory.
    #[error("no mirror has kept anything in {}: look at --repos, or at store.repos of the file that --config names", dir.display())]
    NoStore { dir: PathBuf },

    /// The bytes kept are not what they should be: set them aside (`Store::quarantine`) and fetch again.
    #[error("{what} is corrupt: {reason}")]
    Corrupt { what: String, reason: String },

    /// The file system or the quota is full: evict, or serve without keeping.
    #[error("{action} {what}: no space left on the device")]
    Full { action: &'static str, what: String, source: Arc<io::Error> },

    /// The directory cannot be written, which was found at the start: serve without keeping.
    #[error("{} is read-only: nothing more is kept there", dir.display())]
    ReadOnly { dir: PathBuf },

    /// The lock cannot be taken, yet others could write the objects: serving without it might meet them.
    #[error(
        "{cause}, although {} can be written: let this process write all of the directory, or none of it to serve it read-only",
        blobs.display()
    )]
    HalfWritable { blobs: PathBuf, cause: String },

    /// It would pass a limit of the configuration, and nothing may go for it: serve without keeping.
    #[error("no room for {what} within the limits of eviction: all else is pinned or in use")]
    NoRoom { what: String },

    /// The operating system refused: nothing here can mend it.
    #[error("{action} {what}: {source}{}", remedy(source))]
    Io { action: &'static str, what: String, source: Arc<io::Error> },

    /// Another process works in this directory.
    #[error(
        "{} is in use by another process ({holder}): stop that one, or give this one its own directory with --repos",
        dir.display()
    )]
    Locked { dir: PathBuf, holder: String },

    /// Written by a newer program: start that one, or use another directory.
    #[error(
        "{what} has version {found}, this program knows versions up to {known}: start a newer dingospeed or use another directory"
    )]
    Version { what: String, found: u64, known: u64 },

    /// The object was verified against its name and has another size than the one asked for.
    #[error("object {oid} is verified at {kept} bytes, but {asked} bytes were announced for it")]
    SizeMismatch { oid: String, kept: u64, asked: u64 },

    /// Part of the object is kept, or being fetched, at another size than the one asked for. Only the hash of a whole can tell
    /// which is right: serve without keeping, and tell what was proven by `Store::disprove` (or give up by `Store::give_way`).
    #[error("object {oid} is being kept at {kept} bytes, but {asked} bytes were announced for it, and neither is proven")]
    SizeUnclear { oid: String, kept: u64, asked: u64 },

    /// The name does not fit the file system. Harmless for a link: log it.
    #[error("the name is too long for this file system: {what}")]
    NameTooLong { what: String },

    /// More than is kept of such a thing: pass it through unkept.
    #[error("{what} has {len} bytes, more than the {len_max} that are kept")]
    TooLarge { what: String, len: u64, len_max: u64 },

    /// The caller broke a rule of this room, for instance wrote into a published block.
    #[error("refused: {what}")]
    Misuse { what: String },
}

impl StoreError {
    /// Sorts an error of the operating system by its remedy.
    pub(super) fn io(action: &'static str, what: impl ToString, source: io::Error) -> StoreError {
        let what = what.to_string();
        match source.raw_os_error() {
            // EFBIG: a limit on the size of files (ulimit -f), which is room of a kind.
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => StoreError::Full { action, what, source: Arc::new(source) },
            Some(libc::ENAMETOOLONG) => StoreError::NameTooLong { what },
            _ if source.kind() == io::ErrorKind::NotFound => StoreError::NotFound { what },
            _ => StoreError::Io { action, what, source: Arc::new(source) },
        }
    }

    /// Whether the directory refuses to be written, by its mode or by the file system's.
    pub(super) fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, StoreError::Io { source, .. } if matches!(source.kind(), ReadOnlyFilesystem | PermissionDenied))
    }

    pub(super) fn corrupt(what: impl ToString, reason: impl ToString) -> StoreError {
        StoreError::Corrupt { what: what.to_string(), reason: reason.to_string() }
    }

    pub(super) fn misuse(what: impl ToString) -> StoreError {
        StoreError::Misuse { what: what.to_string() }
    }
}

/// The directory is closed to others, so it is mostly the wrong user who is refused.
fn remedy(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied { "; only the owner of the directory and root may" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_is_told_who_may() {
        let told = |errno| StoreError::io("list", "/srv/files", io::Error::from_raw_os_error(errno)).to_string();
        assert!(
            told(libc::EACCES).ends_with("(os error 13); only the owner of the directory and root may"),
            "{}",
            told(libc::EACCES)
        );
        assert!(told(libc::EIO).ends_with("(os error 5)"), "{}", told(libc::EIO));
    }
}
