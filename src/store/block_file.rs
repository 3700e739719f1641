//! One object in one file, block by block.
//!
//! A fill writes a block's bytes, then publishes it: checksum, then bit. There is no sync per block, so after a power loss
//! the three may have reached the disk in any order and in part. What can then stand on disk, and why none of it is served:
//!
//! - no bit: the block is absent and fetched again, whatever else is there;
//! - bit, but bytes or checksum missing or torn: they disagree, which the check before the first use finds. (Even with both
//!   missing: the CRC32C of zeros, of any length a block can have, is not zero.)
//! - no header, or one that does not fit its footer: nothing in the file counts, see [`Opened`].
//!
//! So a block found at open is *present* but not *checked*; [`BlockFile::check`] proves it, or retracts it. The mark "verified"
//! is bound to the checksums by the seal (see [`super::format`]), so it cannot vouch for blocks it never saw either.
//!
//! One fill at a time may write a given block: the caller's flights see to that. Different blocks may be written, published,
//! checked and read by any number of threads.

use super::{
    StoreError,
    bitmap::Bitmap,
    block::Blocks,
    format::{self, Fill, FooterFault, Header},
    hash::ObjectHasher,
    kept::{Kept, Noted},
    layer::FileLayer,
    whole::Foreign,
};
use crate::hub::Oid;
use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

/// Bytes read at once when one block is checked: few calls, and small enough for the allocator's own pools.
const PIECE_LEN: u64 = 64 * 1024;

/// The block file of one object. All calls that touch the file block.
#[derive(Debug)]
pub struct BlockFile<F> {
    layer: F,
    oid: Oid,
    header: Header,
    present: Bitmap,
    /// Proven in this process; a block is usable when it is present and checked.
    checked: Bitmap,
    checksums: Box<[AtomicU32]>,
    present_count: AtomicU64,
    verified: AtomicBool,
    /// Held while something is written, under `marking` or alone. The kernel lets only one writer at a file, and the others spin: two cores spent a fifth of a
    /// cold download's system time on that.
    writing: Mutex<()>,
    /// Held while `present`, `verified` and their bytes on disk change: eight blocks share a byte of the mask.
    marking: Mutex<()>,
    /// Raised by each retraction, under `marking`. Who read blocks and finds it unchanged read what is still there.
    retract_count: AtomicU64,
    /// Hears of each write, and grows by the bytes of each block that is published.
    kept: Arc<Kept>,
    noted: Noted,
}

/// What a file turned out to be.
#[derive(Debug)]
pub enum Opened<F> {
    /// A file of ours; its blocks are present, and unchecked.
    Ours(BlockFile<F>),
    /// Complete by its own account, but without our footer: to be hashed whole before any of it counts.
    Foreign(Foreign<F>),
    /// Nothing in it can be proven (empty, header only, partial or short, without a footer): start afresh.
    ///
    /// A partial foreign file is given up because it holds no checksums, and its object's hash needs all of it.
    Nothing { why: String },
}

impl<F: FileLayer> BlockFile<F> {
    /// Makes an empty file of `size` bytes' room for `oid`. `layer` must be empty.
    pub fn create(layer: F, oid: &Oid, size: u64, block_size: u64) -> Result<BlockFile<F>, StoreError> {
        let header =
            Header::ours(size, block_size).map_err(|fault| StoreError::misuse(format!("block file of {oid}: {fault}")))?;
        let block_count = header.blocks().count();
        let file = BlockFile::new(layer, oid, header, Bitmap::new(block_count), &vec![0; 4 * block_count as usize], false);
        file.layer.set_len(header.file_len()).map_err(|error| file.io("size", error))?;
        file.put("write the footer of", header.footer_start(), &header.footer_head(oid))?;
        file.put("write the header of", 0, &header.encode())?;
        Ok(file)
    }

    /// Reads the header, mask and footer of an existing file that should hold `oid`.
    ///
    /// `Corrupt` means that it is no block file or holds another object, `Version` that a newer program wrote it.
    pub fn open(layer: F, oid: &Oid) -> Result<Opened<F>, StoreError> {
        let read = |offset, len: u64| {
            let mut bytes = vec![0; len as usize];
            layer.read_at(offset, &mut bytes).map_err(|error| StoreError::io("read the header of", oid, error))?;
            Ok::<_, StoreError>(bytes)
        };
        let file_len = layer.len().map_err(|error| StoreError::io("measure", oid, error))?;
        let first = read(0, file_len.min(format::HEADER_FIXED_LEN))?;
        let Some(header) = Header::decode(&first, file_len).map_err(|fault| StoreError::corrupt(oid, fault))? else {
            return Ok(Opened::Nothing { why: "it is empty".into() });
        };
        let mask = read(format::HEADER_FIXED_LEN, header.mask_len())?;
        let block_count = header.blocks().count();

        // The footer's length follows from the header, and the file is long enough for it, before anything is allocated.
        let footer = if file_len < header.file_len() {
            Err(FooterFault::Missing)
        } else {
            let head = read(header.footer_start(), format::FOOTER_HEAD_LEN)?;
            let head = head.first_chunk().ok_or(FooterFault::Torn);
            head.and_then(|head| header.check_footer_head(head, oid).map(|()| *head))
        };
        match footer {
            Ok(head) => {
                let checksums = read(header.checksum_offset(0), 4 * block_count)?;
                let flags = std::array::from_fn(|index| head[88 + index]);
                let verified = format::decode_flags(&flags, oid, &checksums);
                let present = Bitmap::from_mask(&mask, block_count);
                Ok(Opened::Ours(BlockFile::new(layer, oid, header, present, &checksums, verified)))
            }
            Err(FooterFault::Newer(version)) => Err(StoreError::Version {
                what: format!("block file of {oid}"),
                found: version.into(),
                known: format::FOOTER_VERSION.into(),
            }),
            Err(fault @ FooterFault::OtherObject(_)) => Err(StoreError::corrupt(oid, fault)),
            Err(fault) => match header.fill(&mask, file_len) {
                Fill::Complete => Ok(Opened::Foreign(Foreign::new(layer, oid, header))),
                // A header of size 0 is either an empty object, all of it there, or a file never sized. Its name tells.
                Fill::HeaderOnly if ObjectHasher::new(oid, 0).matches().is_ok() => {
                    Ok(Opened::Foreign(Foreign::new(layer, oid, header)))
                }
                // Blocks were here, and without checksums nobody knows what became of them. (A file of DingoSpeed's that it had not
                // completed is no damage, just of no use.)
                fill if fill == Fill::Short || (header.is_ours() && Bitmap::from_mask(&mask, block_count).count() > 0) => {
                    Err(StoreError::corrupt(oid, format!("{fault} and is not complete ({fill:?})")))
                }
                fill => Ok(Opened::Nothing { why: format!("{fault} and is not complete ({fill:?})") }),
            },
        }
    }

    fn new(layer: F, oid: &Oid, header: Header, present: Bitmap, checksums: &[u8], verified: bool) -> BlockFile<F> {
        let block_count = header.blocks().count();
        let present_count = present.count();
        BlockFile {
            layer,
            oid: *oid,
            header,
            present,
            checked: Bitmap::new(block_count),
            checksums: checksums.as_chunks().0.iter().map(|&bytes| AtomicU32::new(u32::from_le_bytes(bytes))).collect(),
            present_count: AtomicU64::new(present_count),
            verified: AtomicBool::new(verified && present_count == block_count),
            writing: Mutex::new(()),
            marking: Mutex::new(()),
            retract_count: AtomicU64::new(0),
            kept: Arc::default(),
            noted: Noted::default(),
        }
    }

    /// Tells what all objects of a store share of what is written and published from now on.
    pub(super) fn count_into(&mut self, kept: Arc<Kept>) {
        self.kept = kept;
    }

    pub(super) fn note_written(&self) {
        self.kept.note_once(&self.oid, &self.noted);
    }

    pub fn oid(&self) -> &Oid {
        &self.oid
    }

    pub fn size(&self) -> u64 {
        self.header.blocks().size
    }

    pub fn block_size(&self) -> u64 {
        self.header.blocks().block_size
    }

    pub fn blocks(&self) -> Blocks {
        self.header.blocks()
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn layer(&self) -> &F {
        &self.layer
    }

    /// Counts the blocks that were taken back since the file was opened.
    pub fn retract_count(&self) -> u64 {
        self.retract_count.load(Ordering::Acquire)
    }

    /// Returns the CRC32C a block was published with.
    pub(super) fn checksum(&self, block_index: u64) -> Option<u32> {
        self.slot(block_index).ok().map(|slot| slot.load(Ordering::Acquire))
    }

    /// Tells whether a block was published, now or before this process; it may still prove broken.
    pub fn is_present(&self, block_index: u64) -> bool {
        self.present.has(block_index)
    }

    /// Tells whether a block is present and was proven in this process: its bytes may be used.
    pub fn is_checked(&self, block_index: u64) -> bool {
        self.checked.has(block_index) && self.present.has(block_index)
    }

    pub fn present_count(&self) -> u64 {
        self.present_count.load(Ordering::Acquire)
    }

    /// Returns the bytes of all present blocks together.
    pub fn present_len(&self) -> u64 {
        let Some(last) = self.blocks().count().checked_sub(1) else { return 0 };
        let count = self.present_count();
        if self.is_present(last) {
            let span = self.blocks().span(last);
            count.saturating_sub(1) * self.block_size() + (span.end - span.start)
        } else {
            count * self.block_size()
        }
    }

    /// Tells whether every block is present. It says nothing of the whole object's hash: see [`BlockFile::is_verified`].
    pub fn is_complete(&self) -> bool {
        self.present_count() == self.blocks().count()
    }

    /// Tells whether the whole object was hashed and matched its oid, and no block was lost since.
    pub fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Acquire)
    }

    /// Returns the first run of absent blocks within `range`.
    pub fn missing(&self, range: Range<u64>) -> Option<Range<u64>> {
        let start = self.present.next(range.clone(), false)?;
        let end = self.present.next(start..range.end, true).unwrap_or(range.end.min(self.blocks().count()));
        Some(start..end)
    }

    /// Reads from the payload, whatever stands there: for bytes that were published or that the caller wrote.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.bounded(offset, bytes.len() as u64)?;
        self.layer.read_at(self.header.payload_start() + offset, bytes).map_err(|error| self.io("read", error))
    }

    /// Returns where in the file the object's first byte lies.
    pub fn payload_start(&self) -> u64 {
        self.header.payload_start()
    }

    /// Writes a piece of the payload. Published blocks never change: a piece that touches one is refused as `Misuse`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let span = self.bounded(offset, bytes.len() as u64)?;
        let blocks = self.blocks().covering(span);
        if let Some(block_index) = self.present.next(blocks, true) {
            return Err(self.misuse(format!("write into block {block_index}, which is published")));
        }
        self.put("write", self.header.payload_start() + offset, bytes)
    }

    /// Makes a block present and checked. All its bytes were written before, and `checksum` is their CRC32C.
    ///
    /// Publishing again with the same checksum does nothing; with another one it is `Misuse`.
    pub fn publish(&self, block_index: u64, checksum: u32) -> Result<(), StoreError> {
        let slot = self.slot(block_index)?;
        let _marking = self.mark();
        if self.present.has(block_index) {
            return match slot.load(Ordering::Acquire) == checksum {
                true => Ok(()),
                false => Err(self.misuse(format!("publish block {block_index} a second time with another checksum"))),
            };
        }
        self.put("write a checksum of", self.header.checksum_offset(block_index), &checksum.to_le_bytes())?;
        let byte = self.present.mask_byte(block_index) | 1 << (block_index % 8);
        self.put("mark a block of", self.header.mask_offset(block_index), &[byte])?;
        // A reader looks at `present` first: whoever finds the block there finds it checked.
        slot.store(checksum, Ordering::Release);
        self.checked.set(block_index);
        self.present.set(block_index);
        self.present_count.fetch_add(1, Ordering::AcqRel);
        let span = self.blocks().span(block_index);
        self.kept.grow(span.end - span.start);
        Ok(())
    }

    /// Makes a block absent, in memory even when the disk refuses. The object is no longer verified.
    pub fn retract(&self, block_index: u64) -> Result<(), StoreError> {
        self.slot(block_index)?;
        let marking = self.mark();
        self.retract_marked(&marking, block_index)
    }

    fn retract_marked(&self, _marking: &MutexGuard<'_, ()>, block_index: u64) -> Result<(), StoreError> {
        if !self.present.has(block_index) {
            return Ok(());
        }
        self.present.clear(block_index);
        self.checked.clear(block_index);
        self.present_count.fetch_sub(1, Ordering::AcqRel);
        self.retract_count.fetch_add(1, Ordering::AcqRel);
        let was_verified = self.verified.swap(false, Ordering::AcqRel);
        let unmark = || {
            self.put("unmark a block of", self.header.mask_offset(block_index), &[self.present.mask_byte(block_index)])?;
            if was_verified { self.put("unmark", self.header.flags_offset(), &[0; 8]) } else { Ok(()) }
        };
        match unmark() {
            // The file is open for reading only: it is retracted in this process, and the next one checks the block again.
            Err(StoreError::Io { source, .. }) if source.raw_os_error() == Some(libc::EBADF) => Ok(()),
            done => done,
        }
    }

    /// Proves a present block by its checksum, once: `true` means that its bytes may be used.
    ///
    /// `false` means that it is absent, or was just found broken and retracted: fetch it. No block is trusted any more after that,
    /// before it is proven anew.
    pub fn check(&self, block_index: u64) -> Result<bool, StoreError> {
        let slot = self.slot(block_index)?;
        loop {
            if !self.present.has(block_index) {
                return Ok(false);
            }
            if self.checked.has(block_index) {
                return Ok(true);
            }
            let retract_count = self.retract_count();
            let wanted = slot.load(Ordering::Acquire);
            let agrees = self.checksum_on_disk(block_index)? == Some(wanted);
            let marking = self.mark();
            // While we read, the block may have been retracted and even filled anew: then what we read is not what is there.
            if self.retract_count() != retract_count {
                continue;
            }
            if agrees {
                self.checked.set(block_index);
                return Ok(true);
            }
            log::warn!("retracted a broken block object={} block={block_index} wanted_crc={wanted:08x}", self.oid);
            // Who changed it may have changed others, since they were proven. Before anything is written: a mark behind the end of
            // a file that was cut gives it back its length, and zeros would stand for what was proven.
            self.uncheck_all();
            self.retract_marked(&marking, block_index)?;
            return Ok(false);
        }
    }

    /// Demands a fresh check of a block before its next use: its pages left the memory and will come from the disk again.
    pub fn uncheck(&self, block_index: u64) {
        if block_index < self.blocks().count() {
            self.checked.clear(block_index);
        }
    }

    /// The same for all blocks: they are about to be read from the disk, all of them.
    pub(super) fn uncheck_all(&self) {
        self.checked.clear_all();
    }

    /// Records that the whole object was hashed and matched, or takes it back. Only a complete object can be verified.
    pub fn set_verified(&self, verified: bool) -> Result<(), StoreError> {
        let marking = self.mark();
        if verified && !self.is_complete() {
            return Err(self.misuse("mark verified, but blocks are absent"));
        }
        self.set_verified_marked(&marking, verified)
    }

    fn set_verified_marked(&self, _marking: &MutexGuard<'_, ()>, verified: bool) -> Result<(), StoreError> {
        let checksums: Vec<u8> = self.checksums.iter().flat_map(|slot| slot.load(Ordering::Acquire).to_le_bytes()).collect();
        if !verified {
            self.verified.store(false, Ordering::Release);
        }
        let flags = format::encode_flags(verified, &self.oid, &checksums);
        match self.put("mark", self.header.flags_offset(), &flags) {
            // It is proven all the same; the next process proves it again.
            Err(error) if verified => log::warn!("the mark of a proven object is not kept: {error}"),
            written => written?,
        }
        self.verified.store(verified, Ordering::Release);
        Ok(())
    }

    /// Marks the object verified, unless a block was retracted since `retract_count` was read. What is checked stays so, and no more: pages
    /// may have left the memory and come back since they went into the hash.
    pub fn accept_whole(&self, retract_count: u64) -> Result<bool, StoreError> {
        let marking = self.mark();
        if self.retract_count() != retract_count || !self.is_complete() {
            return Ok(false);
        }
        self.set_verified_marked(&marking, true)?;
        Ok(true)
    }

    /// Takes in a file whose every byte was just hashed and matched.
    pub(super) fn adopted(layer: F, oid: &Oid, header: Header, checksums: &[u8]) -> BlockFile<F> {
        let all = Bitmap::from_mask(&vec![0xff; header.mask_len() as usize], header.blocks().count());
        let file = BlockFile::new(layer, oid, header, all, checksums, true);
        (0..file.blocks().count()).for_each(|block_index| file.checked.set(block_index));
        file
    }

    /// Returns when all that was written and published so far is durable. BLOCKING.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.layer.sync_data().map_err(|error| self.io("sync", error))
    }

    /// Returns the CRC32C of a block's bytes, or none when the file ends before they do.
    fn checksum_on_disk(&self, block_index: u64) -> Result<Option<u32>, StoreError> {
        let span = self.blocks().span(block_index);
        let mut buffer = vec![0; PIECE_LEN.min(span.end - span.start) as usize];
        let mut crc = 0;
        for offset in span.clone().step_by(PIECE_LEN as usize) {
            let piece = &mut buffer[..PIECE_LEN.min(span.end - offset) as usize];
            match self.layer.read_at(self.header.payload_start() + offset, piece) {
                Ok(()) => crc = crc32c::crc32c_append(crc, piece),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(self.io("check", error)),
            }
        }
        Ok(Some(crc))
    }

    fn slot(&self, block_index: u64) -> Result<&AtomicU32, StoreError> {
        let slot = usize::try_from(block_index).ok().and_then(|index| self.checksums.get(index));
        slot.ok_or_else(|| self.misuse(format!("block {block_index} of {}", self.checksums.len())))
    }

    fn bounded(&self, offset: u64, len: u64) -> Result<Range<u64>, StoreError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(offset..end),
            _ => Err(self.misuse(format!("{len} bytes at {offset}, the object has {}", self.size()))),
        }
    }

    fn put(&self, action: &'static str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        // It guards no value, like `marking`.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.layer.write_at(offset, bytes).map_err(|error| self.io(action, error));
        // Also after a failure: some of it may have been written.
        self.note_written();
        written
    }

    /// The mutex guards no value that could be left half changed, so a panic elsewhere does not matter here.
    fn mark(&self) -> MutexGuard<'_, ()> {
        self.marking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::io(action, format!("object {}", self.oid), error)
    }

    pub(super) fn misuse(&self, what: impl ToString) -> StoreError {
        StoreError::misuse(format!("{}, object {}", what.to_string(), self.oid))
    }
}
