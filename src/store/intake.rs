//! Objects that come from elsewhere than upstream: each is made a block file under `tmp/`, hashed whole, and only then given its
//! name.
//!
//! [`View::stage`] does the work and needs no lock, so it may run beside a server; [`Store::take_in`] is the one who has the store. A
//! file of another store is shared with it where the file system can (`FICLONE`: btrfs, XFS, bcachefs), else copied. It is never
//! hard-linked: our footer would be written into the other store's file.

use super::{
    BlockFile, StoreError, Verdict,
    block_file::Opened,
    format::{self, Fill, Header},
    place,
};
use super::{Store, View};
use crate::hub::Oid;
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// What a staged file's name begins with.
const PREFIX: &str = "import-";
/// Bytes copied between two tellings of progress.
const COPY_STEP: u64 = 16 << 20;

/// An object's bytes in another store.
pub enum Given<'a> {
    /// A file that holds the object and nothing else.
    Plain(&'a Path),
    /// A block file of DingoSpeed's or Olah's.
    Container(&'a Path),
    /// So many bytes that come one after the other.
    Stream(&'a mut dyn Read, u64),
}

/// How far an object has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more bytes were copied, or shared.
    Copied(u64),
    /// So many more bytes were hashed.
    Hashed(u64),
}

/// What a block file's header tells, whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// Length of the object.
    pub size: u64,
    pub block_count: u64,
    /// Blocks that it says are there.
    pub present_count: u64,
    /// All of them, in a file that is long enough.
    pub complete: bool,
}

/// An object that was hashed and waits under `tmp/` to be taken in. Dropping it removes the file, unless that was done.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    /// Holds the lock by which others see that somebody works on it.
    _file: File,
    pub size: u64,
    /// Its bytes are shared with the other store's file and take no room of their own.
    pub shared: bool,
}

impl Staged {
    /// Returns the name by which [`Store::take_in`] finds it.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Container {
    /// Reads the header of a block file. None: nothing was ever kept in it. `Corrupt`: it is no block file, or of another version.
    pub fn look(path: &Path) -> Result<Option<Container>, StoreError> {
        let file = open_given(path)?;
        let io = |error| StoreError::io("read", path.display(), error);
        let file_len = file.metadata().map_err(io)?.len();
        Ok(header_of(&file, file_len, path)?.map(|(header, mask)| {
            let block_count = header.blocks().count();
            let has = |index: u64| mask.get((index / 8) as usize).is_some_and(|byte| byte & (1 << (index % 8)) != 0);
            Container {
                size: header.blocks().size,
                block_count,
                present_count: (0..block_count).filter(|index| has(*index)).count() as u64,
                complete: matches!(header.fill(&mask, file_len), Fill::Complete | Fill::HeaderOnly),
            }
        }))
    }
}

impl View {
    /// Makes a proven block file of these bytes. BLOCKING, for as long as copying and hashing take.
    ///
    /// `Corrupt`: they are not the object. A plain file, and one that has to be copied, gets blocks of `block_size`.
    pub fn stage(
        &self,
        given: Given<'_>,
        oid: &Oid,
        block_size: u64,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Staged, StoreError> {
        let (path, file) = self.staging_file()?;
        let io = |error| StoreError::io("import", oid, error);
        let mut staged = Staged { path, _file: file.try_clone().map_err(io)?, size: 0, shared: false };
        (staged.size, staged.shared) = fill(&file, given, oid, block_size, progress)?;
        let mut before = 0;
        let mut hashed = |so_far: u64| {
            progress(Step::Hashed(so_far.saturating_sub(before)));
            before = so_far;
        };
        match BlockFile::open(file.try_clone().map_err(io)?, oid)? {
            Opened::Foreign(foreign) => drop(foreign.adopt(&mut hashed)?),
            // From a store of ours.
            Opened::Ours(ours) => match ours.verify_whole(&mut hashed)? {
                Verdict::Verified => {}
                Verdict::Incomplete { absent } => return Err(StoreError::corrupt(oid, format!("{absent} blocks are broken"))),
                Verdict::Mismatch { found } => return Err(StoreError::corrupt(oid, format!("its bytes hash to {found}"))),
            },
            Opened::Nothing { why } => return Err(StoreError::corrupt(oid, why)),
        }
        // Offline there is nobody to fetch again what a power loss took.
        file.sync_data().map_err(io)?;
        Ok(staged)
    }

    /// Keeps a text for [`Store::learn_staged`], which is too long for an order.
    pub fn stage_text(&self, text: &[u8]) -> Result<Staged, StoreError> {
        let (path, mut file) = self.staging_file()?;
        file.write_all(text).map_err(|error| StoreError::io("write", path.display(), error))?;
        Ok(Staged { path, _file: file, size: text.len() as u64, shared: false })
    }

    /// Tells whether the store can share this file's bytes instead of copying them.
    pub fn can_share(&self, path: &Path) -> bool {
        let Ok((temp, file)) = self.staging_file() else { return false };
        let shares = open_given(path).and_then(|given| {
            let len = given.metadata().map_err(|error| StoreError::io("measure", path.display(), error))?.len();
            Ok(len > 0 && clone_whole(&given, &file))
        });
        let _ = fs::remove_file(temp);
        shares.unwrap_or(false)
    }

    /// Returns the free and the total bytes of the file system.
    pub fn space(&self) -> Result<(u64, u64), StoreError> {
        super::space(self.root())
    }

    /// Removes what imports that were broken off have left.
    pub fn clear_staged(&self) -> Result<(), StoreError> {
        for (path, _) in super::view::entries(&self.place.incoming(""))? {
            let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
            // Whoever works on one holds its lock.
            if is_ours && File::open(&path).is_ok_and(|file| is_free(&file)) {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    /// Makes an empty file under `tmp/`, locked and owned by the store's owner.
    fn staging_file(&self) -> Result<(PathBuf, File), StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = self.place.incoming(&name);
        let make = || {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            is_free(&file);
            place::give_to_owner(&file, self.root())?;
            Ok(file)
        };
        let file = make().map_err(|error| StoreError::io("create", path.display(), error))?;
        Ok((path, file))
    }
}

impl Store {
    /// Gives a staged object its name. False: the whole of it was here already, and stays.
    ///
    /// What was here in part is replaced; who reads that reads on. `Misuse`: there is no such file, or it was not proven.
    pub fn take_in(&self, name: &str, oid: &Oid) -> Result<bool, StoreError> {
        self.place.check_writable()?;
        let temp = self.staged(name)?;
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        let kept = match live.upgrade() {
            Some(object) => Some(object),
            None => self.open_kept(oid)?.map(std::sync::Arc::new),
        };
        if kept.as_ref().is_some_and(|object| object.is_verified()) {
            let _ = fs::remove_file(&temp);
            return Ok(false);
        }
        let file = place::open_quietly(&temp, false).map_err(|error| StoreError::io("open", temp.display(), error))?;
        let len = file.metadata().map_or(0, |meta| meta.blocks() * 512);
        let is_proven = matches!(BlockFile::open(file, oid)?, Opened::Ours(file) if file.is_verified());
        if !is_proven {
            return Err(StoreError::misuse(format!("take in {oid}, which was not proven")));
        }
        // Lock order: the slot, then whatever the borrower locks.
        self.borrower().forget(oid);
        self.unlink(oid, &mut live)?;
        live.forget();
        let path = self.place.blob(oid);
        self.place.rename(&temp, &path).map_err(|error| StoreError::io("take in", path.display(), error))?;
        self.kept.grow(len);
        self.kept.note(oid);
        Ok(true)
    }

    /// Returns the place of a staged file, whose name must be one.
    pub(super) fn staged(&self, name: &str) -> Result<PathBuf, StoreError> {
        let is_ours = name.strip_prefix(PREFIX).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
        if is_ours { Ok(self.place.incoming(name)) } else { Err(StoreError::misuse(format!("take in `{name}`"))) }
    }
}

/// Fills an empty file with header, mask and payload. Returns the object's size, and whether the bytes are shared.
fn fill(
    file: &File,
    given: Given<'_>,
    oid: &Oid,
    block_size: u64,
    progress: &mut dyn FnMut(Step),
) -> Result<(u64, bool), StoreError> {
    let io = |error| StoreError::io("import", oid, error);
    let layout = |size| Header::ours(size, block_size).map_err(|fault| StoreError::corrupt(oid, fault));
    let (header, shared) = match given {
        Given::Plain(path) => {
            let mut source = open_given(path)?;
            let header = layout(source.metadata().map_err(io)?.len())?;
            // Before anything else is written: a range that ends within a page can only be shared as the end of a file.
            let shared = clone_all(&source, file, header.payload_start());
            if shared {
                progress(Step::Copied(header.blocks().size));
            } else {
                copy(&mut source, file, &header, progress).map_err(io)?;
            }
            (header, shared)
        }
        Given::Container(path) => {
            let mut source = open_given(path)?;
            let file_len = source.metadata().map_err(io)?.len();
            let Some((foreign, mask)) = header_of(&source, file_len, path)? else {
                return Err(StoreError::corrupt(oid, "there is nothing in its file"));
            };
            if !matches!(foreign.fill(&mask, file_len), Fill::Complete | Fill::HeaderOnly) {
                return Err(StoreError::corrupt(oid, "not all of its blocks are there"));
            }
            let size = foreign.blocks().size;
            if clone_whole(&source, file) {
                progress(Step::Copied(size));
                return Ok((size, true));
            }
            let header = layout(size)?;
            source.seek(SeekFrom::Start(foreign.payload_start())).map_err(io)?;
            copy(&mut source, file, &header, progress).map_err(io)?;
            (header, false)
        }
        Given::Stream(reader, len) => {
            let header = layout(len)?;
            copy_stream(reader, file, &header, progress).map_err(io)?;
            (header, false)
        }
    };
    let block_count = header.blocks().count();
    let mask: Vec<u8> = (0..header.mask_len()).map(|at| (0xffu16 >> (8 - (block_count - at * 8).min(8))) as u8).collect();
    let write = || {
        if file.metadata()?.len() < header.payload_end() {
            file.set_len(header.payload_end())?;
        }
        file.write_all_at(&mask, format::HEADER_FIXED_LEN)?;
        file.write_all_at(&header.encode(), 0)
    };
    write().map_err(io)?;
    Ok((header.blocks().size, shared))
}

/// Copies the rest of a file to the payload; inside the kernel, which shares what it can.
fn copy(source: &mut File, file: &File, header: &Header, progress: &mut dyn FnMut(Step)) -> io::Result<()> {
    let mut file = file;
    file.seek(SeekFrom::Start(header.payload_start()))?;
    let mut left = header.blocks().size;
    while left > 0 {
        let copied = io::copy(&mut source.take(left.min(COPY_STEP)), &mut file)?;
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= copied;
        progress(Step::Copied(copied));
    }
    Ok(())
}

fn copy_stream(source: &mut dyn Read, file: &File, header: &Header, progress: &mut dyn FnMut(Step)) -> io::Result<()> {
    let mut piece = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < header.blocks().size {
        let len = (header.blocks().size - offset).min(piece.len() as u64) as usize;
        source.read_exact(&mut piece[..len])?;
        file.write_all_at(&piece[..len], header.payload_start() + offset)?;
        offset += len as u64;
        progress(Step::Copied(len as u64));
    }
    Ok(())
}

/// Reads the header and the part of the mask that matters. None: nothing was ever kept in the file.
fn header_of(file: &File, file_len: u64, path: &Path) -> Result<Option<(Header, Vec<u8>)>, StoreError> {
    let io = |error| StoreError::io("read", path.display(), error);
    let corrupt = |fault| StoreError::corrupt(path.display(), fault);
    let mut first = vec![0; file_len.min(format::HEADER_FIXED_LEN) as usize];
    file.read_exact_at(&mut first, 0).map_err(io)?;
    let Some(header) = Header::decode(&first, file_len).map_err(corrupt)? else { return Ok(None) };
    let mut mask = vec![0; header.mask_len() as usize];
    file.read_exact_at(&mut mask, format::HEADER_FIXED_LEN).map_err(io)?;
    Ok(Some((header, mask)))
}

/// Opens a regular file for reading; of a device or a pipe whose name stands there nothing is wanted.
fn open_given(path: &Path) -> Result<File, StoreError> {
    let io = |error| StoreError::io("open", path.display(), error);
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(StoreError::corrupt(path.display(), "it is no regular file"));
    }
    Ok(file)
}

fn is_free(file: &File) -> bool {
    // SAFETY: takes an open descriptor and no pointer.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// The kernel's `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    /// 0 means to the end.
    source_len: u64,
    offset: u64,
}

/// `_IOW(0x94, 9, int)` and `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONE: libc::c_ulong = 0x4004_9409;
const FICLONERANGE: libc::c_ulong = 0x4020_940d;

/// Makes `file` share all of `source`'s bytes; false when the file system cannot.
fn clone_whole(source: &File, file: &File) -> bool {
    // SAFETY: takes two open descriptors and no pointer.
    unsafe { libc::ioctl(file.as_raw_fd(), FICLONE as _, source.as_raw_fd()) == 0 }
}

/// Makes `file`, from `offset` on, share all of `source`'s bytes; false when the file system cannot.
fn clone_all(source: &File, file: &File, offset: u64) -> bool {
    let range = CloneRange { source: i64::from(source.as_raw_fd()), source_offset: 0, source_len: 0, offset };
    // SAFETY: the pointer is to a struct of the layout that the call reads, which outlives it.
    unsafe { libc::ioctl(file.as_raw_fd(), FICLONERANGE as _, &raw const range) == 0 }
}
