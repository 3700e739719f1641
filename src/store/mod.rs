//! The store knows objects, blocks and bytes on disk. It never sees a URL, a token or a status's meaning.
//!
//! Everything here may block: call it where that is allowed. Nothing is kept in memory that the disk does not have, save which
//! blocks were checked; so what is dropped is only slower to use again.
//!
//! Enter at [`Store::open`]; then [`Store::object`] gives the one [`Object`] of an oid, to fill (`missing`, `write`, `publish`) and
//! to read (`check`, `is_resident`, `load`, `read`). Beside the objects: [`Records`] keeps API answers, [`Listings`] what is known of
//! a commit's files, [`Refs`] where revisions point and which repos are open.
//!
//! What comes from elsewhere: [`View::stage`] makes a proven object of another store's file, [`Store::take_in`] gives it its name, and
//! [`Store::learn`] takes a [`Parcel`] of what is known of a commit.
//!
//! What goes away again: [`Store::pass`] evicts by [`Limits`], [`Store::make_room`] before a fill, [`Store::remove_repos`] on
//! demand, [`Store::rename_repo`] when the Hub does; [`Store::touch`] tells what was read, and `pins` what stays. [`View`] is the same directory for reading only, beside the
//! process that holds it.
//!
//! The bytes of an object's file are described in [`format`](mod@format), what a crash can do to them in [`block_file`].

mod bitmap;
pub mod block;
pub mod block_file;
mod borrower;
mod decide;
mod error;
mod evict;
mod examine;
pub mod format;
mod fuzz;
mod hash;
mod heat;
mod hits;
mod intake;
mod kept;
pub mod layer;
mod ledger;
mod ledger_file;
mod listing;
mod live;
mod lock;
mod mend;
mod noes;
mod object;
mod outgoing;
mod parcel;
mod pass;
mod pins;
mod place;
mod recency;
mod records;
mod refs;
mod rename;
mod room;
mod secret;
mod sweep;
#[cfg(test)]
mod tests;
mod view;
pub mod whole;

pub use block::Blocks;
pub use block_file::BlockFile;
pub use borrower::{Borrower, Loan};
pub use error::StoreError;
pub use evict::{Candidate, Level, Limits, Need, Part, Reason, Strategy, plan};
pub use examine::Finding;
pub use format::fuzz_decode as fuzz_block_file;
pub use fuzz::{fuzz_file_name, fuzz_listing, fuzz_record};
pub use hash::{ObjectHasher, git_blob_oid};
pub use hits::KeptHits;
pub use intake::{Container, Given, Staged, Step};
pub use listing::{ListedFile, Listing, Listings};
pub use mend::Mended;
pub use object::Object;
pub use outgoing::ObjectReader;
pub use parcel::{CarriedAccess, CarriedAnswer, CarriedFile, CarriedRef, Parcel};
pub use pass::{Pass, PassOptions, Sweep};
pub use pins::Pin;
pub use records::{BODY_LEN_MAX, Record, RecordKey, Records};
pub use refs::{KeptAccess, KeptAlias, KeptHolder, KeptRef, Refs};
pub use room::Room;
pub use sweep::{Removal, Scope, Swept};
pub use view::{Blob, Peek, View};
pub use whole::Verdict;

use crate::hub::{Commit, FilePath, Oid, RepoId};
use block_file::Opened;
use live::{Live, Slot};
use place::Place;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime},
};

const CLOCK_STEP_MAX: Duration = Duration::from_secs(60);
const AGE_OF_THE_FUTURE: Duration = Duration::from_secs(24 * 3600);

/// Of the directories that are made: what is closed upstream lies there too. The umask may take more away.
const DIR_MODE: u32 = 0o750;
const OTHERS_WRITE: u32 = 0o002;

/// Version of the directory as a whole; an object's file carries its own.
const VERSION: u64 = 1;

#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Block size of new files in bytes, a power of two from 1 MiB to 128 MiB; existing files keep theirs.
    pub block_size: u64,
}

/// Everything kept under one root directory, held by one process.
pub struct Store {
    options: StoreOptions,
    place: Arc<Place>,
    live: Live,
    records: Records,
    listings: Listings,
    refs: Refs,
    /// None where nothing can be written.
    lock: Option<lock::Lock>,
    /// Set once, before anything is evicted; until then there are none.
    limits: OnceLock<Limits>,
    borrower: OnceLock<Arc<dyn Borrower>>,
    recency: recency::Recency,
    heat: heat::Heat,
    /// Whether a part of an object can go.
    makes_holes: OnceLock<bool>,
    kept: Arc<kept::Kept>,
    rooms: room::Rooms,
    /// Loan through a pass. Taken before any slot of `live`.
    passes: Mutex<pass::Passes>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root()).field("limits", &self.limits()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `root`, making it when it is new, and locks it for this process.
    ///
    /// `Locked`: another process has it. `Version`: a newer program made it. `Misuse`: the block size is not a legal one.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        format::Header::ours(0, options.block_size).map_err(StoreError::misuse)?;
        let lock = prepare(root)?;
        let left = ledger_file::Left::take(root, lock.found());
        let store = Store::new(options, Place::new(root), Some(lock));
        store.passes().ledger.begin_with(left);
        Ok(store)
    }

    /// As [`Store::open`]; where the directory holds a store and cannot be written, by its mode or by the file system's, what it
    /// keeps is read, without a lock, and nothing is written there. Other processes may read it, or write it from elsewhere.
    /// `HalfWritable`: the lock cannot be taken, and the objects can be written.
    pub fn open_to_serve(root: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        match Store::open(root, options.clone()) {
            // A directory that was never a store is more likely a mistake, and holds nothing to serve.
            Err(error) if error.is_read_only() && fs::read_dir(root.join("blobs")).is_ok() => {
                let blobs = root.join("blobs");
                if is_writable(&blobs) {
                    return Err(StoreError::HalfWritable { blobs, cause: error.to_string() });
                }
                check_version(root)?;
                log::warn!("serves read-only: {error}; what is kept is served, all else is passed on and nothing is kept");
                Ok(Store::new(options, Place::read_only(root), None))
            }
            opened => opened,
        }
    }

    fn new(options: StoreOptions, place: Place, lock: Option<lock::Lock>) -> Store {
        let place = Arc::new(place);
        Store {
            options,
            live: Live::default(),
            records: Records::new(place.clone()),
            listings: Listings::new(place.clone()),
            refs: Refs::new(place.clone()),
            place,
            lock,
            limits: OnceLock::new(),
            borrower: OnceLock::new(),
            recency: recency::Recency::default(),
            heat: heat::Heat::default(),
            makes_holes: OnceLock::new(),
            kept: Arc::default(),
            rooms: room::Rooms::default(),
            passes: Mutex::default(),
        }
    }

    /// The error that each attempt to keep something meets, where nothing can be written.
    pub fn read_only(&self) -> Option<StoreError> {
        self.place.check_writable().err()
    }

    /// Sets what is kept at most; only the first call counts.
    pub fn set_limits(&self, limits: Limits) {
        let _ = self.limits.set(limits);
    }

    pub fn limits(&self) -> Limits {
        self.limits.get().copied().unwrap_or_default()
    }

    /// Names the one who keeps objects open beyond this room; only the first call counts.
    pub fn set_borrower(&self, borrower: Arc<dyn Borrower>) {
        let _ = self.borrower.set(borrower);
    }

    fn borrower(&self) -> &dyn Borrower {
        self.borrower.get().map_or(&borrower::Nobody, |borrower| &**borrower)
    }

    /// Returns the same directory for reading.
    pub fn view(&self) -> View {
        View { place: self.place.clone() }
    }

    /// Notes in the lock file who holds the store, for people and for `dingospeed status`: one line of JSON with pid and address.
    pub fn note_holder(&self, text: &str) -> Result<(), StoreError> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.note(text))
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

    /// Returns this directory's secret, for keyed hashes of what must not be kept itself. It never leaves the machine.
    pub fn secret(&self) -> Result<[u8; 32], StoreError> {
        secret::load(&self.place)
    }

    /// Returns the object `oid` of `size` bytes, opening its file or making a new one.
    ///
    /// Opening a complete file of DingoSpeed's hashes it whole, once. A broken file is quarantined and begun again. Of another size
    /// is `SizeMismatch` when it is verified; `SizeUnclear` when somebody uses it or blocks of it are there, since which size is
    /// right is not known; and begun again otherwise.
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
            Some(object) if Arc::strong_count(&object) > 1 || object.present_count() > 0 => {
                let kept = object.size();
                live.keep(&object);
                return Err(StoreError::SizeUnclear { oid: oid.to_string(), kept, asked: size });
            }
            Some(object) => {
                let reason = format!("without a block, of {} bytes where {size} were announced", object.size());
                self.place.set_aside(&self.place.blob(oid), oid.as_str(), &reason)?;
                self.kept.note(oid);
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

    /// A whole of `size` bytes has the hash that `oid` names: what is kept of it at another size is set aside. Returns whether
    /// something was.
    pub fn disprove(&self, oid: &Oid, size: u64) -> Result<bool, StoreError> {
        let reason = |kept: u64| format!("of {kept} bytes, but the object that has this hash has {size}");
        self.set_aside_other(oid, size, true, reason)
    }

    /// What is kept of `oid` at another size than this is set aside, unless it is proven or somebody uses it. Returns whether
    /// something was.
    pub fn give_way(&self, oid: &Oid, size: u64) -> Result<bool, StoreError> {
        let reason = |kept: u64| format!("of {kept} bytes and unproven, while upstream gives {size} time after time");
        self.set_aside_other(oid, size, false, reason)
    }

    fn set_aside_other(
        &self,
        oid: &Oid,
        size: u64,
        in_use_too: bool,
        reason: impl Fn(u64) -> String,
    ) -> Result<bool, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        let kept = match live.upgrade() {
            Some(object) => Some(object),
            None => self.open_kept(oid)?.map(Arc::new),
        };
        match kept {
            Some(object) if !in_use_too && Arc::strong_count(&object) > 1 => Ok(false),
            Some(object) if object.size() != size && !object.is_verified() => {
                live.keep(&object);
                self.set_aside(oid, &mut live, &reason(object.size()))
            }
            _ => Ok(false),
        }
    }

    /// Deletes the file of `oid`, for eviction and `rm`. Those who read it now read on; its room comes back after the last of them.
    ///
    /// Returns the bytes it took on the disk, 0 when there was none.
    pub fn remove(&self, oid: &Oid) -> Result<u64, StoreError> {
        self.place.check_writable()?;
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        // Lock order: the slot, then whatever the borrower locks.
        self.borrower().forget(oid);
        self.unlink(oid, &mut live)
    }

    fn unlink(&self, oid: &Oid, live: &mut Slot<'_>) -> Result<u64, StoreError> {
        let path = self.place.blob(oid);
        let removed = fs::symlink_metadata(&path).and_then(|meta| fs::remove_file(&path).map(|()| meta.blocks() * 512));
        forget_if_gone(&path, live);
        self.kept.note(oid);
        self.heat.forget(oid);
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(StoreError::io("remove", path.display(), error)),
            Ok(len) => {
                self.kept.shrink(len);
                Ok(len)
            }
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
    pub fn each_blob(&self, visit: impl FnMut(Blob)) -> Result<(), StoreError> {
        self.view().each_blob(visit)
    }

    /// Returns the free and the total bytes of the file system; one call, cheap.
    pub fn space(&self) -> Result<(u64, u64), StoreError> {
        space(self.root())
    }

    /// Opens the file of `oid` if there is one that counts; a corrupt one is set aside.
    fn open_kept(&self, oid: &Oid) -> Result<Option<Object>, StoreError> {
        let path = self.place.blob(oid);
        let opened = place::open_quietly(&path, !self.place.is_read_only()).or_else(|error| match error.kind() {
            // What is there can still be read; what would be written fails when it comes to that.
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => place::open_quietly(&path, false),
            _ => Err(error),
        });
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", path.display(), error)),
        };
        let opened = BlockFile::open(file, oid).and_then(|opened| match opened {
            Opened::Ours(file) => Ok(Some(file)),
            Opened::Foreign(foreign) => {
                self.place.check_writable()?;
                log::info!("adopting a foreign file object={oid} bytes={}", foreign.size());
                let adopted = foreign.adopt(&mut |_| ());
                self.kept.note(oid);
                adopted.map(Some)
            }
            Opened::Nothing { why } => {
                log::info!("found nothing to keep object={oid} why={why:?}");
                Ok(None)
            }
        });
        match opened {
            Ok(file) => Ok(file.map(|file| {
                let object = Object::new(file, self.kept.clone());
                // Whoever holds the store may still remove the file, but not take blocks out of it.
                let _ = self.place.is_read_only() && object.lock_file(true);
                object
            })),
            Err(StoreError::Corrupt { reason, .. }) => {
                self.place.set_aside(&path, oid.as_str(), &reason)?;
                self.kept.note(oid);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a new file in `tmp/` and gives it its name, in place of one that does not count.
    fn create(&self, oid: &Oid, size: u64) -> Result<Object, StoreError> {
        if let Some(error) = self.read_only() {
            return Err(error);
        }
        let temp = self.place.temp();
        let path = self.place.blob(oid);
        let io = |error| StoreError::io("create", path.display(), error);
        let file = File::options().read(true).write(true).create_new(true).open(&temp).map_err(io)?;
        let made = BlockFile::create(file, oid, size, self.options.block_size)
            .and_then(|file| self.place.rename(&temp, &path).map_err(io).map(|()| file));
        match made {
            Ok(file) => {
                // The header, the footer and their file system blocks; what follows is counted block by block.
                let len = file.layer().metadata().map_or(0, |meta| meta.blocks() * 512);
                self.kept.grow(len);
                self.kept.note(oid);
                Ok(Object::new(file, self.kept.clone()))
            }
            Err(error) => {
                let _ = fs::remove_file(&temp);
                Err(error)
            }
        }
    }

    fn set_aside(&self, oid: &Oid, live: &mut Slot<'_>, reason: &str) -> Result<bool, StoreError> {
        let path = self.place.blob(oid);
        let done = self.place.set_aside(&path, oid.as_str(), reason);
        forget_if_gone(&path, live);
        self.kept.note(oid);
        done
    }
}

/// Lets the next one open afresh, but only when the old file is out of the way: two objects must not work on one file.
fn forget_if_gone(path: &Path, live: &mut Slot<'_>) {
    if !path.exists() {
        live.forget();
    }
}

/// Returns the free and the total bytes of a directory's file system.
fn space(dir: &Path) -> Result<(u64, u64), StoreError> {
    use std::os::fd::AsRawFd;
    let io = |error| StoreError::io("measure", dir.display(), error);
    let dir = File::open(dir).map_err(io)?;
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

/// Whether this process may make and remove files in a directory.
fn is_writable(dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(dir) = std::ffi::CString::new(dir.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends in a zero byte and outlives the call.
    unsafe { libc::access(dir.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

/// How old something kept at that time is. A time in the future is a clock's that was set back since: what it marks is neither
/// fresh nor lost, so it counts as a day old.
pub fn age(at: SystemTime) -> Duration {
    match SystemTime::now().duration_since(at) {
        Ok(age) => age,
        // Clocks are corrected by seconds all the time.
        Err(ahead) if ahead.duration() < CLOCK_STEP_MAX => Duration::ZERO,
        Err(_) => AGE_OF_THE_FUTURE,
    }
}

/// Makes a directory, if need be, into which only owner and group can look: what is closed upstream lies there too. One that is there
/// stays as it is.
fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::io("make directory", dir.display(), error);
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above).map_err(io)?;
    }
    match fs::DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made.map_err(io),
    }
}

/// Takes from others the right to write into a directory: what lies there says who may read what. The group may have been given it.
fn close_to_others(dir: &Path) -> Result<(), StoreError> {
    let meta = fs::metadata(dir).map_err(|error| StoreError::io("look at", dir.display(), error))?;
    let mode = meta.permissions().mode();
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    match fs::set_permissions(dir, fs::Permissions::from_mode(mode & !OTHERS_WRITE)) {
        Ok(()) => log::warn!("others could write in {}, and cannot any more, if the file system has modes", dir.display()),
        // Somebody else's directory.
        Err(error) => log::warn!("others can write in {}, which cannot be changed: {error}", dir.display()),
    }
    Ok(())
}

/// Takes the lock of a directory and makes what is absent of it.
fn prepare(root: &Path) -> Result<lock::Lock, StoreError> {
    make_dir(root)?;
    let lock = lock::Lock::take(root)?;
    if read_version(root)?.trim().is_empty() {
        // A new one; or a crash kept the file from being written.
        let path = root.join("VERSION");
        fs::write(&path, format!("{VERSION}\n")).map_err(|error| StoreError::io("write", path.display(), error))?;
    }
    check_version(root)?;
    close_to_others(root)?;
    for name in ["blobs", "files", "api", "quarantine"] {
        make_dir(&root.join(name))?;
        close_to_others(&root.join(name))?;
    }
    // What lies in tmp/ was never given its name: the process that wrote it is gone, for we have the lock.
    let tmp = root.join("tmp");
    match fs::remove_dir_all(&tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::io("empty", tmp.display(), error)),
        _ => make_dir(&tmp)?,
    }
    Ok(lock)
}

/// The text of the VERSION file; empty when there is none.
fn read_version(root: &Path) -> Result<String, StoreError> {
    let path = root.join("VERSION");
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.map_err(|error| StoreError::io("read", path.display(), error)),
    }
}

/// Refuses a directory of a newer program.
fn check_version(root: &Path) -> Result<(), StoreError> {
    let text = read_version(root)?;
    let what = format!("the store in {}", root.display());
    match text.trim() {
        "" => Ok(()),
        text => match text.parse() {
            Ok(found) if found <= VERSION => Ok(()),
            Ok(found) => Err(StoreError::Version { what, found, known: VERSION }),
            Err(_) => Err(StoreError::corrupt(what, format!("its VERSION file says {text:?}"))),
        },
    }
}
