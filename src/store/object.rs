//! A live object: its block file, opened once, and a mapping of it for readers.

use super::{StoreError, block_file::BlockFile, kept::Kept};
use bytes::{Bytes, BytesMut};
use memmap2::{Advice, Mmap};
use std::{
    fs::File,
    ops::{Deref, Range},
    os::fd::AsRawFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The handle that all readers and fills of an object share; the store has at most one per oid.
///
/// It derefs to its [`BlockFile`], since it is one, plus a way to read without copying. A mapped page that is not in memory
/// stalls whoever touches it, so ask `is_resident` first and `load` on a thread that may block.
#[derive(Debug)]
pub struct Object {
    file: BlockFile<File>,
    map: OnceLock<Arc<Mmap>>,
    /// Its file was removed or set aside; set under the slot's lock.
    gone: AtomicBool,
}

/// How many bytes of a span one call to mincore covers: 256 pages answer into an array on the stack.
const RESIDENT_STEP_LEN: usize = 1 << 20;

impl Object {
    /// `kept` hears of what is written and published.
    pub(super) fn new(mut file: BlockFile<File>, kept: Arc<Kept>) -> Object {
        file.count_into(kept);
        // `load` asks for whole blocks.
        no_read_ahead(file.layer());
        Object { file, map: OnceLock::new(), gone: AtomicBool::new(false) }
    }

    /// Tells whether its file was removed or set aside: what is read is still right, but nobody new should begin with it, for
    /// what is filled in is lost.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Returns the bytes of `span` without copying them; the mapping lives as long as they do, and so does the object: while anybody has
    /// them it is in use, and loses no blocks.
    ///
    /// The caller answers for their having been written: the blocks are checked, or a running fill has come past `span.end`.
    pub fn read(self: &Arc<Self>, span: Range<u64>) -> Result<Bytes, StoreError> {
        let range = self.mapped_range(&span)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        Ok(Bytes::from_owner(Mapped { map: self.map()?.clone(), range, _object: self.clone() }))
    }

    /// Returns a copy of the bytes of `span`, for whoever looks at them in this process: of a page that cannot be read this is an error,
    /// where a mapping would be a signal. The caller answers for their having been written, as for `read`. BLOCKING unless `is_resident`.
    /// What `memory` holds is overwritten.
    pub fn copy(&self, span: Range<u64>, mut memory: BytesMut) -> Result<Bytes, StoreError> {
        memory.resize(self.mapped_range(&span)?.len(), 0);
        self.read_at(span.start, &mut memory)?;
        Ok(memory.freeze())
    }

    /// Reads like `read_at`, for whoever holds the bytes to something else than the blocks' checksums: what it brings back from
    /// the disk is not taken for proven because it is in memory.
    pub fn read_unproven(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        let span = offset..offset.saturating_add(bytes.len() as u64);
        if !self.is_resident(span.clone()) {
            self.blocks().covering(span).for_each(|block_index| self.uncheck(block_index));
        }
        self.read_at(offset, bytes)
    }

    /// Tells whether all pages of `span` are in memory, so that reading it does not wait for the disk. Cheap up to a few MiB.
    pub fn is_resident(&self, span: Range<u64>) -> bool {
        let (Ok(range), Ok(map)) = (self.mapped_range(&span), self.map()) else { return false };
        let page_len = page_len();
        let start = range.start - range.start % page_len;
        (start..range.end).step_by(RESIDENT_STEP_LEN).all(|step_start| {
            let step_len = RESIDENT_STEP_LEN.min(range.end - step_start);
            // Pages of 4 KiB are the smallest there are, so the array holds one byte for each page of a step.
            let mut pages = [0u8; RESIDENT_STEP_LEN / 4096];
            // SAFETY: `step_start` is page-aligned and the step lies within the mapping, which `map` keeps alive; the kernel
            // writes one byte per page begun, at most as many as `pages` has.
            let status = unsafe { libc::mincore(map.as_ptr().add(step_start) as *mut _, step_len, pages.as_mut_ptr()) };
            status == 0 && pages[..step_len.div_ceil(page_len)].iter().all(|page| page & 1 == 1)
        })
    }

    /// Brings the pages of `span` into memory. BLOCKING.
    ///
    /// Read ahead first, which asks the disk for the whole at once; then fault the pages in, so that nobody else has to.
    pub fn load(&self, span: Range<u64>) -> Result<(), StoreError> {
        let range = self.mapped_range(&span)?;
        if range.is_empty() {
            return Ok(());
        }
        let map = self.map()?;
        // SAFETY: takes a descriptor that `self` holds open, and no pointer. It is advice: its failure shows in the next call.
        unsafe { libc::readahead(self.layer().as_raw_fd(), range.start as libc::off64_t, range.len()) };
        match map.advise_range(Advice::PopulateRead, range.start, range.len()) {
            Ok(()) => Ok(()),
            // Linux before 5.14 does not know it; reading brings the pages into memory as well.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.touch(span),
            Err(error) => Err(StoreError::io("load", format!("object {}", self.oid()), error)),
        }
    }

    /// Gives the room of blocks back that are absent. Nobody may be writing into them, nor have bytes of them.
    pub(super) fn punch(&self, block_index: u64) -> Result<(), StoreError> {
        let span = self.blocks().span(block_index);
        let start = self.header().payload_start();
        let io = |error| StoreError::io("free blocks of", format!("object {}", self.oid()), error);
        let punched = punch_hole(self.layer(), start + span.start..start + span.end).map_err(io);
        self.note_written();
        punched
    }

    /// Says to other processes that the object is read without the store's lock (`shared`), or asks whether none does. False: the other
    /// is the case. It holds as long as the object is open.
    pub(super) fn lock_file(&self, shared: bool) -> bool {
        let mode = if shared { libc::LOCK_SH } else { libc::LOCK_EX };
        // SAFETY: takes a descriptor that `self` holds open, and no pointer.
        unsafe { libc::flock(self.layer().as_raw_fd(), mode | libc::LOCK_NB) == 0 }
    }

    fn touch(&self, span: Range<u64>) -> Result<(), StoreError> {
        let mut buffer = vec![0; 64 * 1024];
        for offset in span.clone().step_by(buffer.len()) {
            let len = (span.end - offset).min(buffer.len() as u64) as usize;
            self.read_at(offset, &mut buffer[..len])?;
        }
        Ok(())
    }

    /// Translates a span of the payload to a range of the mapping.
    fn mapped_range(&self, span: &Range<u64>) -> Result<Range<usize>, StoreError> {
        if span.start > span.end || span.end > self.size() {
            return Err(self.misuse(format!("read {span:?}, the object has {} bytes", self.size())));
        }
        let start = self.header().payload_start();
        Ok((start + span.start) as usize..(start + span.end) as usize)
    }

    fn map(&self) -> Result<&Arc<Mmap>, StoreError> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let io = |error| StoreError::io("map", format!("object {}", self.oid()), error);
        // SAFETY: the file must not shrink, nor bytes change that were lent out. Nothing in this room truncates a block file, and
        // other processes are kept out by the store's lock, or see by the file's own that it is read without. A block lent out is published, so `write` refuses to touch it; a
        // running fill's readers are lent only what lies before its progress. The exception is a block found broken and filled
        // again while somebody still holds its bytes: they change to the right ones, as plain bytes that no one builds on.
        let map = unsafe { Mmap::map(self.layer()) }.map_err(io)?;
        // Faults must not read ahead on the caller's thread: `load` does that where it may block.
        map.advise(Advice::Random).map_err(io)?;
        // Two threads may come here at once; the second one's mapping is dropped.
        Ok(self.map.get_or_init(|| Arc::new(map)))
    }
}

impl Deref for Object {
    type Target = BlockFile<File>;

    fn deref(&self) -> &BlockFile<File> {
        &self.file
    }
}

/// Keeps reads to what they ask for: reading ahead would bring a neighbour's pages back from the disk, which then pass for the ones that
/// were proven before they left the memory.
pub(super) fn no_read_ahead(file: &File) {
    // SAFETY: takes an open descriptor and no pointer. It is advice: where it is not heeded, less is noticed of a rotting disk.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

/// A part of a mapping that owns its share of it.
struct Mapped {
    map: Arc<Mmap>,
    range: Range<usize>,
    _object: Arc<Object>,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// Makes a range of a file a hole, which reads as zeros and takes no room.
pub(super) fn punch_hole(file: &File, range: Range<u64>) -> std::io::Result<()> {
    let (offset, len) = (range.start as libc::off_t, (range.end - range.start) as libc::off_t);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes an open descriptor and no pointer.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn page_len() -> usize {
    // SAFETY: reads a constant of the system.
    let len = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(len).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Oid;

    const MIB: u64 = 1 << 20;

    fn object(size: u64) -> Arc<Object> {
        let oid = Oid::parse(&"0".repeat(64)).unwrap();
        Arc::new(Object::new(BlockFile::create(tempfile::tempfile().unwrap(), &oid, size, MIB).unwrap(), Arc::default()))
    }

    #[test]
    fn bytes_outlive_the_object() {
        let object = object(3 * MIB + 7);
        let content: Vec<u8> = (0..3 * MIB + 7).map(|at| (at % 251) as u8).collect();
        object.write(0, &content).unwrap();
        object.load(0..object.size()).unwrap();
        assert!(object.is_resident(0..object.size()) && object.is_resident(5..6) && object.is_resident(9..9));
        let bytes = object.read(MIB - 3..3 * MIB + 7).unwrap();
        assert_eq!(object.copy(MIB - 3..3 * MIB + 7, BytesMut::new()).unwrap(), bytes);
        drop(object);
        assert_eq!(bytes, content[MIB as usize - 3..]);
    }

    #[test]
    fn what_was_never_in_memory_is_not_resident_until_loaded() {
        let object = object(9 * MIB);
        assert!(!object.is_resident(0..9 * MIB) && !object.is_resident(5 * MIB..5 * MIB + 1));
        object.load(5 * MIB - 1..6 * MIB).unwrap();
        assert!(object.is_resident(5 * MIB - 1..6 * MIB));
        assert!(!object.is_resident(0..6 * MIB) && !object.is_resident(5 * MIB..9 * MIB));
    }

    #[test]
    fn what_left_the_memory_comes_back() {
        let object = object(4 * MIB);
        object.write(0, &vec![1; 4 * MIB as usize]).unwrap();
        assert!(object.is_resident(0..4 * MIB));
        object.sync().unwrap();
        // SAFETY: takes an open descriptor and no pointer. It is a wish: the kernel may keep the pages, and then little is tested.
        unsafe { libc::posix_fadvise(object.layer().as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        object.load(0..4 * MIB).unwrap();
        assert!(object.is_resident(0..4 * MIB));
        assert!(object.read(0..4 * MIB).unwrap().iter().all(|&byte| byte == 1));
    }

    /// Puts four blocks of ones on the disk and out of memory; false where the system keeps them there.
    fn forgotten(object: &Object) -> bool {
        for block in 0..4 {
            let bytes = vec![1; MIB as usize];
            object.write(block * MIB, &bytes).unwrap();
            object.publish(block, crc32c::crc32c(&bytes)).unwrap();
        }
        object.sync().unwrap();
        // SAFETY: takes an open descriptor and no pointer. It is a wish: the kernel may keep the pages, and then nothing is tested.
        unsafe { libc::posix_fadvise(object.layer().as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        (0..4).all(|block| !object.is_resident(block * MIB..block * MIB + 1))
    }

    #[test]
    fn reading_a_block_brings_no_neighbour_back_unproven() {
        let object = object(4 * MIB);
        if !forgotten(&object) {
            return;
        }
        object.uncheck(1);
        assert!(object.check(1).unwrap() && object.is_resident(MIB..2 * MIB));
        object.copy(MIB..2 * MIB, BytesMut::new()).unwrap();
        assert!(!object.is_resident(2 * MIB..2 * MIB + 1), "what comes next is still on the disk");
    }

    #[test]
    fn what_is_read_for_its_hash_is_proven_anew() {
        let object = object(4 * MIB);
        if !forgotten(&object) {
            return;
        }
        object.read_unproven(2 * MIB - 5, &mut [0; 10]).unwrap();
        assert!(object.is_checked(0) && !object.is_checked(1) && !object.is_checked(2) && object.is_checked(3));
        assert!(object.check(1).unwrap());
        object.read_unproven(MIB, &mut [0; 10]).unwrap();
        assert!(object.is_checked(1), "what is in memory stays proven");
    }

    #[test]
    fn a_copy_of_what_was_cut_off_is_an_error_and_no_signal() {
        let object = object(2 * MIB);
        object.write(0, &[1; 4096]).unwrap();
        // Nothing here does that; somebody with a shell may.
        object.layer().set_len(object.header().payload_start() + 4096).unwrap();
        assert_eq!(object.copy(0..4096, BytesMut::from(&[7; 9000][..])).unwrap(), vec![1; 4096]);
        assert!(matches!(object.copy(4096..MIB, BytesMut::new()), Err(StoreError::Io { .. })));
        assert!(matches!(object.copy(0..3 * MIB, BytesMut::new()), Err(StoreError::Misuse { .. })));
    }

    #[test]
    fn what_is_written_later_shows_in_the_mapping() {
        let object = object(MIB);
        assert!(object.read(0..4).unwrap().iter().all(|&byte| byte == 0));
        object.write(4, b"late").unwrap();
        assert_eq!(&object.read(4..8).unwrap()[..], b"late");
    }

    #[test]
    fn spans_are_bounded() {
        let object = object(10);
        assert!(matches!(object.read(5..11), Err(StoreError::Misuse { .. })));
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = object.read(6..5);
        assert!(matches!(backwards, Err(StoreError::Misuse { .. })));
        assert!(object.read(10..10).unwrap().is_empty());
        assert!(!object.is_resident(0..11) && object.load(0..11).is_err());
    }

    #[test]
    fn touching_stands_in_for_populate() {
        let object = object(2 * MIB);
        object.touch(3..2 * MIB).unwrap();
        assert!(object.is_resident(0..2 * MIB) || object.read(0..1).is_ok());
    }
}
