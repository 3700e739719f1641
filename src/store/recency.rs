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
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Objects remembered between two flushes; reads of others are not noted. A flush a minute makes that a thousand a second.
const READ_MAX: usize = 65_536;

/// The reads that are not written down yet.
#[derive(Debug, Default)]
pub(super) struct Recency {
    read: Mutex<HashMap<Oid, SystemTime>>,
}

impl Recency {
    pub(super) fn touch(&self, oid: &Oid, now: SystemTime) {
        let mut read = self.read();
        if read.len() < READ_MAX || read.contains_key(oid) {
            read.insert(*oid, now);
        }
    }

    /// Returns when an object was read, if that is not written down yet. Ask before looking at its file: a read is known here until
    /// it is known there.
    pub(super) fn since_flush(&self, oid: &Oid) -> Option<SystemTime> {
        self.read().get(oid).copied()
    }

    /// Writes what is remembered into the files' access times, and tells `each` of it. A file that is gone is no error. Two may do so at
    /// once, and share the work.
    pub(super) fn flush(&self, place: &Place, mut each: impl FnMut(&Oid, SystemTime)) {
        let oids: Vec<Oid> = self.read().keys().copied().collect();
        for oid in oids {
            let Some(at) = self.since_flush(&oid) else { continue };
            let done = set_read(&place.blob(&oid), at);
            let mut read = self.read();
            if read.get(&oid) == Some(&at) {
                read.remove(&oid);
            }
            drop(read);
            match done {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => log::warn!("cannot note the last read object={oid} error={error}"),
            }
            each(&oid, at);
        }
    }

    fn read(&self) -> MutexGuard<'_, HashMap<Oid, SystemTime>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::view::read_of;
    use std::{fs, time::Duration};

    #[test]
    fn a_read_is_known_while_others_are_written_down() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::new(root.path());
        let oids: Vec<Oid> = (1..=4).map(|digit| Oid::parse(&digit.to_string().repeat(64)).unwrap()).collect();
        let (recency, at) = (Recency::default(), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        for oid in &oids {
            fs::create_dir_all(place.blob(oid).parent().unwrap()).unwrap();
            fs::write(place.blob(oid), b"x").unwrap();
            recency.touch(oid, at);
        }
        let written_down = |oid: &Oid| read_of(&fs::metadata(place.blob(oid)).unwrap()) == at;
        let mut told = Vec::new();
        recency.flush(&place, |oid, _| {
            told.push(*oid);
            for oid in &oids {
                assert!(written_down(oid) || recency.since_flush(oid) == Some(at), "neither here nor there: {oid}");
            }
            // Another flush finds the rest.
            if told.len() == 2 {
                let mut others = 0;
                recency.flush(&place, |_, _| others += 1);
                assert_eq!(others, 2);
                recency.touch(oid, at + Duration::from_secs(1));
            }
        });
        assert_eq!(told.len(), 2);
        let left: Vec<&Oid> = oids.iter().filter(|oid| recency.since_flush(oid).is_some()).collect();
        assert_eq!(left, [&told[1]], "read again meanwhile");
    }
}
