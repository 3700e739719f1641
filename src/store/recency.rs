//! When objects were last read: in memory at first, then in the access time of their files.
//!
//! The access time needs no file of our own, survives a restart, comes with the `stat` that measures the object anyway, and is
//! deleted with it. It is set in so many words (`utimensat`), so it works where the file system is mounted `noatime`; and
//! block files are opened with `O_NOATIME`, so that on other mounts the kernel does not count a check as a read. What is
//! read between two flushes is lost in a crash, which makes an object look older by that time and no more.

use super::place::Place;
use crate::hub::Oid;
use std::{
    collections::HashMap,
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Objects remembered between two flushes; reads of others are not noted. A flush a minute makes that a thousand a second.
const READ_MAX: usize = 65_536;

/// The reads since the last flush.
#[derive(Debug, Default)]
pub(super) struct Recency {
    read: Mutex<HashMap<Oid, SystemTime>>,
}

impl Recency {
    pub(super) fn touch(&self, oid: &Oid, now: SystemTime) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() < READ_MAX || read.contains_key(oid) {
            read.insert(*oid, now);
        }
    }

    /// Returns when an object was read since the last flush, if it was.
    pub(super) fn since_flush(&self, oid: &Oid) -> Option<SystemTime> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).get(oid).copied()
    }

    /// Writes what is remembered into the files' access times, and tells `each` of it. A file that is gone is no error.
    pub(super) fn flush(&self, place: &Place, mut each: impl FnMut(&Oid, SystemTime)) {
        let read = std::mem::take(&mut *self.read.lock().unwrap_or_else(PoisonError::into_inner));
        for (oid, at) in read {
            match set_read(&place.blob(&oid), at) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => log::warn!("cannot note the last read object={oid} error={error}"),
            }
            each(&oid, at);
        }
    }
}

/// Sets the access time and leaves the time of the last write, which tells when the object arrived.
fn set_read(path: &Path, at: SystemTime) -> io::Result<()> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let times = [
        libc::timespec { tv_sec: since.as_secs() as libc::time_t, tv_nsec: since.subsec_nanos().into() },
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
    ];
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends in a zero byte and `times` holds two elements, as the call wants; both outlive it.
    let status = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
