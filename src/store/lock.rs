//! One process per store: the lock, and who holds it.

use super::{StoreError, ledger_file::Stamp};
use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
    thread,
    time::Duration,
};

/// [`holder`] takes the lock for an instant to see whether it is free; a start that meets it tries again this often, this far apart.
const TRIES: u32 = 5;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The store's exclusive lock; the kernel releases it with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// As it was when the lock was taken: changed last by whoever had it before.
    found: Stamp,
}

impl Lock {
    pub(super) fn take(root: &Path) -> Result<Lock, StoreError> {
        let path = root.join("lock");
        let io = |error| StoreError::io("lock", path.display(), error);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        for _ in 0..TRIES {
            if flock(&file, libc::LOCK_EX).map_err(io)? {
                let found = Stamp::of(&file.metadata().map_err(io)?);
                let lock = Lock { file, found };
                // On a full disk the lock holds all the same; who asks for its holder is told less.
                if let Err(error) = lock.note(&format!("{{\"pid\":{}}}", std::process::id())) {
                    log::warn!("cannot note who holds {}: {error}", root.display());
                }
                return Ok(lock);
            }
            thread::sleep(TRY_AGAIN_AFTER);
        }
        let holder = fs::read_to_string(&path).unwrap_or_default();
        Err(StoreError::Locked { dir: root.to_owned(), holder: holder.trim().to_owned() })
    }

    pub(super) fn found(&self) -> Stamp {
        self.found
    }

    /// Returns when the lock file last changed: when its holder noted something there.
    pub(super) fn stamp(&self) -> Result<Stamp, StoreError> {
        self.file.metadata().map(|meta| Stamp::of(&meta)).map_err(|error| StoreError::io("look at", "the lock", error))
    }

    /// Replaces what the lock file says of its holder.
    pub(super) fn note(&self, text: &str) -> Result<(), StoreError> {
        let write = || self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        write().map_err(|error| StoreError::io("write", "the lock's note", error))
    }
}

/// Returns what the holder of the store in `root` noted, or none when nobody holds it now.
pub(super) fn holder(root: &Path) -> Option<String> {
    let path = root.join("lock");
    let file = File::open(&path).ok()?;
    match flock(&file, libc::LOCK_SH) {
        Ok(false) => Some(fs::read_to_string(&path).unwrap_or_default().trim().to_owned()),
        _ => None,
    }
}

/// Tries to lock without waiting; false means that another has it.
fn flock(file: &File, kind: libc::c_int) -> io::Result<bool> {
    // SAFETY: takes an open descriptor and no pointer.
    if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}
