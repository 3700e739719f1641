//! The store knows objects, blocks and bytes on disk. It never sees a URL, a token or a status's meaning.
//!
//! Everything here may block: call it where that is allowed. Nothing is kept in memory that the disk does not have, save which
//! blocks were checked; so what is dropped is only slower to use again.
//!
//! Enter at [`Store::open`]; then [`Store::object`] gives the one [`Object`] of an oid, to fill (`missing`, `write`, `publish`) and
//! to read (`check`, `is_resident`, `load`, `read`). Beside the objects: [`Records`] keeps API answers, [`Listings`] what is known of
//! a commit's files, [`Refs`] where revisions point and which repos are open.
//!
//! The bytes of an object's file are described in [`format`](mod@format), what a crash can do to them in [`block_file`].

mod bitmap;
pub mod block;
pub mod block_file;
mod error;
pub mod format;
mod fuzz;
mod hash;
pub mod layer;
mod listing;
mod live;
mod lock;
mod object;
mod place;
mod records;
mod refs;
#[cfg(test)]
mod tests;
pub mod whole;

pub use block::Blocks;
pub use block_file::BlockFile;
pub use error::StoreError;
pub use format::fuzz_decode as fuzz_block_file;
pub use fuzz::{fuzz_file_name, fuzz_listing, fuzz_record};
pub use hash::ObjectHasher;
pub use listing::{ListedFile, Listing, Listings};
pub use object::Object;
pub use records::{BODY_LEN_MAX, Record, RecordKey, Records};
pub use refs::{KeptAccess, KeptRef, Refs};
pub use whole::Verdict;

use crate::hub::{Commit, FilePath, Oid, RepoId};
use block_file::Opened;
use live::{Live, Slot};
use place::Place;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

/// Version of the directory as a whole; an object's file carries its own.
const VERSION: u64 = 1;

#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Block size of new files in bytes, a power of two from 1 MiB to 128 MiB; existing files keep theirs.
    pub block_size: u64,
}

/// Everything kept under one root directory, held by one process.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    place: Arc<Place>,
    live: Live,
    records: Records,
    listings: Listings,
    refs: Refs,
    lock: lock::Lock,
}

/// One block file as the directory shows it.
#[derive(Clone, Debug)]
pub struct Blob {
    pub oid: Oid,
    /// Bytes it takes on the disk; less than its length while blocks are absent.
    pub allocated_len: u64,
    /// Last write.
    pub modified: SystemTime,
}

/// What the objects take, and what the file system has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    pub blob_count: u64,
    pub allocated_len: u64,
    /// Bytes the file system would still give us.
    pub free_len: u64,
    pub total_len: u64,
}

impl Store {
    /// Opens the store in `root`, making it when it is new, and locks it for this process.
    ///
    /// `Locked`: another process has it. `Version`: a newer program made it. `Misuse`: the block size is not a legal one.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        format::Header::ours(0, options.block_size).map_err(StoreError::misuse)?;
        make_dir(root)?;
        let lock = lock::Lock::take(root)?;
        check_version(root)?;
        for name in ["blobs", "files", "api", "quarantine"] {
            make_dir(&root.join(name))?;
        }
        // What lies in tmp/ was never given its name: the process that wrote it is gone, for we have the lock.
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::io("empty", tmp.display(), error)),
            _ => make_dir(&tmp)?,
        }
        let place = Arc::new(Place::new(root));
        Ok(Store {
            options,
            live: Live::default(),
            records: Records::new(place.clone()),
            listings: Listings::new(place.clone()),
            refs: Refs::new(place.clone()),
            place,
            lock,
        })
    }

    /// Notes in the lock file who holds the store, for people and for `dingospeed status`: one line of JSON with pid and address.
    pub fn note_holder(&self, text: &str) -> Result<(), StoreError> {
        self.lock.note(text)
    }

    /// Returns the note of the process that holds the store in `root`, or none when it is free.
    pub fn holder(root: &Path) -> Option<String> {
        lock::holder(root)
    }

    pub fn root(&self) -> &Path {
        self.place.root()
    }

    pub fn records(&self) -> &Records {
        &self.records
    }

    pub fn listings(&self) -> &Listings {
        &self.listings
    }

    pub fn refs(&self) -> &Refs {
        &self.refs
    }

    /// Returns the object `oid` of `size` bytes, opening its file or making a new one.
    ///
    /// Opening a complete file of DingoSpeed's hashes it whole, once. A broken file, and one of another size that was never
    /// verified, is quarantined and begun again; a verified one of another size is `SizeMismatch`.
    pub fn object(&self, oid: &Oid, size: u64) -> Result<Arc<Object>, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        let kept = match live.upgrade() {
            Some(object) => Some(object),
            None => self.open_kept(oid)?.map(Arc::new),
        };
        let object = match kept {
            Some(object) if object.size() == size => object,
            Some(object) if object.is_verified() => {
                let kept = object.size();
                live.keep(&object);
                return Err(StoreError::SizeMismatch { oid: oid.to_string(), kept, asked: size });
            }
            Some(object) => {
                let reason = format!("unverified, of {} bytes where {size} were announced", object.size());
                self.place.set_aside(&self.place.blob(oid), oid.as_str(), &reason)?;
                Arc::new(self.create(oid, size)?)
            }
            None => Arc::new(self.create(oid, size)?),
        };
        live.keep(&object);
        Ok(object)
    }

    /// Returns the object `oid` if something of it is kept. A broken file is quarantined, and then there is nothing.
    pub fn existing(&self, oid: &Oid) -> Result<Option<Arc<Object>>, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        if let Some(object) = live.upgrade() {
            return Ok(Some(object));
        }
        let object = self.open_kept(oid)?.map(Arc::new);
        if let Some(object) = &object {
            live.keep(object);
        }
        Ok(object)
    }

    /// Sets the file of `oid` aside with the reason, so that the next `object()` starts afresh. Those who read it now read on.
    ///
    /// Returns false when there was none.
    pub fn quarantine(&self, oid: &Oid, reason: &str) -> Result<bool, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        self.set_aside(oid, &mut live, reason)
    }

    /// Quarantines the file of `object` unless that was done already: what others have begun since stays.
    pub fn quarantine_object(&self, object: &Arc<Object>, reason: &str) -> Result<bool, StoreError> {
        let slot = self.live.slot(object.oid());
        let mut live = slot.lock();
        match live.upgrade() {
            Some(current) if Arc::ptr_eq(&current, object) => self.set_aside(object.oid(), &mut live, reason),
            _ => Ok(false),
        }
    }

    /// Deletes the file of `oid`, for eviction and `rm`. Those who read it now read on; its room comes back after the last of them.
    ///
    /// Returns the bytes it took on the disk, 0 when there was none.
    pub fn remove(&self, oid: &Oid) -> Result<u64, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        live.forget();
        let path = self.place.blob(oid);
        let removed = fs::symlink_metadata(&path).and_then(|meta| fs::remove_file(&path).map(|()| meta.blocks() * 512));
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            result => result.map_err(|error| StoreError::io("remove", path.display(), error)),
        }
    }

    /// Makes `files/<plural>/<repo>/resolve/<commit>/<path>` a relative link to the object. It replaces another link, in one step.
    ///
    /// `NameTooLong` is harmless: only the view under `files/` lacks this name. A file that is not a link is left as it is (`Io`).
    pub fn link(&self, repo: &RepoId, commit: &Commit, path: &FilePath, oid: &Oid) -> Result<(), StoreError> {
        let (link, target) = self.place.link(repo, commit, path, oid);
        match fs::read_link(&link) {
            Ok(current) if current == target => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // EINVAL: something that is no link, such as a file of DingoSpeed 1.0 that may hold the only copy.
            Err(error) => return Err(StoreError::io("link", link.display(), error)),
        }
        self.place.put_in_place(&link, |temp| symlink(&target, temp))
    }

    /// Calls `visit` for each block file, in the directory's order. BLOCKING, a stat per file.
    pub fn each_blob(&self, mut visit: impl FnMut(Blob)) -> Result<(), StoreError> {
        let blobs = self.place.blobs();
        let io = |error| StoreError::io("list", blobs.display(), error);
        for dir in fs::read_dir(&blobs).map_err(io)? {
            let dir = dir.map_err(io)?;
            if !dir.file_type().map_err(io)?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(dir.path()).map_err(io)? {
                let entry = entry.map_err(io)?;
                let Some(oid) = entry.file_name().to_str().and_then(Oid::parse) else { continue };
                // Evicted since it was listed: not there any more.
                let Ok(meta) = entry.metadata() else { continue };
                let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                visit(Blob { oid, allocated_len: meta.blocks() * 512, modified });
            }
        }
        Ok(())
    }

    /// Measures the objects and the file system. BLOCKING, a stat per file.
    pub fn disk_use(&self) -> Result<DiskUse, StoreError> {
        let (free_len, total_len) = self.space()?;
        let mut sum = DiskUse { free_len, total_len, ..DiskUse::default() };
        self.each_blob(|blob| {
            sum.blob_count += 1;
            sum.allocated_len += blob.allocated_len;
        })?;
        Ok(sum)
    }

    /// Returns the free and the total bytes of the file system; one call, cheap.
    pub fn space(&self) -> Result<(u64, u64), StoreError> {
        use std::os::fd::AsRawFd;
        let io = |error| StoreError::io("measure", self.root().display(), error);
        let dir = File::open(self.root()).map_err(io)?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the descriptor is open and `stat` has room for what the kernel writes.
        let status = unsafe { libc::fstatvfs(dir.as_raw_fd(), stat.as_mut_ptr()) };
        if status != 0 {
            return Err(io(io::Error::last_os_error()));
        }
        // SAFETY: the call succeeded, so it filled `stat`.
        let stat = unsafe { stat.assume_init() };
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }

    /// Opens the file of `oid` if there is one that counts; a corrupt one is set aside.
    fn open_kept(&self, oid: &Oid) -> Result<Option<Object>, StoreError> {
        let path = self.place.blob(oid);
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", path.display(), error)),
        };
        let opened = BlockFile::open(file, oid).and_then(|opened| match opened {
            Opened::Ours(file) => Ok(Some(file)),
            Opened::Foreign(foreign) => {
                log::info!("adopting a foreign file object={oid} bytes={}", foreign.size());
                foreign.adopt(&mut |_| ()).map(Some)
            }
            Opened::Nothing { why } => {
                log::info!("found nothing to keep object={oid} why={why:?}");
                Ok(None)
            }
        });
        match opened {
            Ok(file) => Ok(file.map(Object::new)),
            Err(StoreError::Corrupt { reason, .. }) => {
                self.place.set_aside(&path, oid.as_str(), &reason)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a new file in `tmp/` and gives it its name, in place of one that does not count.
    fn create(&self, oid: &Oid, size: u64) -> Result<Object, StoreError> {
        let temp = self.place.temp();
        let path = self.place.blob(oid);
        let io = |error| StoreError::io("create", path.display(), error);
        let file = File::options().read(true).write(true).create_new(true).open(&temp).map_err(io)?;
        let made = BlockFile::create(file, oid, size, self.options.block_size)
            .and_then(|file| self.place.rename(&temp, &path).map_err(io).map(|()| file));
        match made {
            Ok(file) => Ok(Object::new(file)),
            Err(error) => {
                let _ = fs::remove_file(&temp);
                Err(error)
            }
        }
    }

    fn set_aside(&self, oid: &Oid, live: &mut Slot<'_>, reason: &str) -> Result<bool, StoreError> {
        live.forget();
        self.place.set_aside(&self.place.blob(oid), oid.as_str(), reason)
    }
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(dir).map_err(|error| StoreError::io("make directory", dir.display(), error))
}

/// Refuses a directory of a newer program, and marks a new one.
fn check_version(root: &Path) -> Result<(), StoreError> {
    let path = root.join("VERSION");
    let what = format!("the store in {}", root.display());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(StoreError::io("read", path.display(), error)),
    };
    if text.trim().is_empty() {
        // An empty file is one that a crash kept from being written.
        return fs::write(&path, format!("{VERSION}\n")).map_err(|error| StoreError::io("write", path.display(), error));
    }
    match text.trim().parse() {
        Ok(found) if found <= VERSION => Ok(()),
        Ok(found) => Err(StoreError::Version { what, found, known: VERSION }),
        Err(_) => Err(StoreError::corrupt(what, format!("its VERSION file says {:?}", text.trim()))),
    }
}
