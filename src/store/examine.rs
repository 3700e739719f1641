//! Looking at an object's file as a stranger would: every present block against its checksum, the whole against its name.
//! Changes nothing, and needs no lock: a serving process may fill, retract or remove the object meanwhile.

use super::{
    StoreError,
    block_file::{BlockFile, Opened},
    hash::ObjectHasher,
    object::no_read_ahead,
    view::View,
};
use crate::hub::Oid;
use std::{
    fs::{self, File},
    ops::Range,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
};

/// Bytes read at once.
const PIECE_LEN: u64 = 1 << 20;
/// A block that is found broken is looked at again with the checksum that then stands in the file, so often: the serving
/// process may have replaced it while it was read.
const LOOKS: u32 = 3;

/// What an object's file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There is no file (any more).
    Absent,
    /// Nothing in the file counts, for it is empty or was never filled; the next request begins anew.
    Nothing,
    /// Every block that is there is as it was written; `complete`: all are, and together they are the object.
    Sound { complete: bool },
    /// These blocks are not what was written.
    Broken { block_indexes: Vec<u64>, block_count: u64 },
    /// Every block is as it was written, yet together they hash to something else.
    Mismatch { found: String },
    /// No block file, or that of another object.
    Unreadable { reason: String },
}

impl Finding {
    /// Tells whether something is wrong with the file.
    pub fn is_broken(&self) -> bool {
        matches!(self, Finding::Broken { .. } | Finding::Mismatch { .. } | Finding::Unreadable { .. })
    }
}

impl View {
    /// Reads all of an object that is there. BLOCKING, for as long as the disk takes. `progress` is told bytes as they are read.
    pub fn examine(&self, oid: &Oid, progress: &mut dyn FnMut(u64)) -> Result<Finding, StoreError> {
        let Some(file) = self.open_blob(oid)? else { return Ok(Finding::Absent) };
        // What is verified should come from the disk, not from pages that were right when they were written, and no page of a block
        // before all of it is judged.
        forget(&file, 0..0);
        no_read_ahead(&file);
        let inode = file.metadata().map_err(|error| StoreError::io("measure", oid, error))?.ino();
        let finding = match open(file, oid)? {
            Look::File(file) => self.examine_blocks(&file, oid, progress)?,
            Look::Foreign(found) => found,
        };
        // Replaced or removed while we looked: what was found is of no file any more.
        if finding.is_broken() && fs::symlink_metadata(self.place.blob(oid)).map_or(true, |meta| meta.ino() != inode) {
            return Ok(Finding::Absent);
        }
        Ok(finding)
    }

    fn examine_blocks(&self, file: &BlockFile<File>, oid: &Oid, progress: &mut dyn FnMut(u64)) -> Result<Finding, StoreError> {
        let blocks = file.blocks();
        let mut hasher = file.is_complete().then(|| ObjectHasher::new(oid, blocks.size));
        let mut broken = Vec::new();
        let mut buffer = vec![0; PIECE_LEN.min(blocks.size) as usize];
        for block_index in (0..blocks.count()).filter(|index| file.is_present(*index)) {
            let found = read_block(file, block_index, &mut buffer, &mut |piece| {
                progress(piece.len() as u64);
                if let Some(hasher) = &mut hasher {
                    hasher.update(piece);
                }
            })?;
            if found != file.checksum(block_index) {
                // What went into the hash is not the block.
                hasher = None;
                let is_broken = self.stays_broken(oid, block_index, &mut buffer);
                // A serving process takes what it finds in memory for what it proved before.
                let (start, span) = (file.header().payload_start(), blocks.span(block_index));
                forget(file.layer(), start + span.start..start + span.end);
                if is_broken? {
                    broken.push(block_index);
                }
            }
        }
        if !broken.is_empty() {
            return Ok(Finding::Broken { block_indexes: broken, block_count: blocks.count() });
        }
        match hasher.map(ObjectHasher::matches) {
            None => Ok(Finding::Sound { complete: false }),
            Some(Ok(())) => Ok(Finding::Sound { complete: true }),
            Some(Err(found)) => Ok(Finding::Mismatch { found }),
        }
    }

    /// Looks at a block again, in the file as it then is.
    fn stays_broken(&self, oid: &Oid, block_index: u64, buffer: &mut [u8]) -> Result<bool, StoreError> {
        for _ in 1..LOOKS {
            let Some(file) = self.open_blob(oid)? else { return Ok(false) };
            no_read_ahead(&file);
            let Look::File(file) = open(file, oid)? else { return Ok(false) };
            if !file.is_present(block_index) {
                return Ok(false);
            }
            if read_block(&file, block_index, buffer, &mut |_| ())? == file.checksum(block_index) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Pages of a file are no larger than this anywhere.
const PAGE_LEN_MAX: u64 = 64 << 10;

/// Lets a range of a file leave the memory, up to its end if the range ends at 0. A wish: pages that are in use stay.
fn forget(file: &File, range: Range<u64>) {
    // A page leaves only if all of it lies in the range, and blocks begin anywhere in one.
    let (start, end) = (range.start / PAGE_LEN_MAX * PAGE_LEN_MAX, range.end.next_multiple_of(PAGE_LEN_MAX));
    let (start, len) = (start as libc::off_t, (end - start) as libc::off_t);
    // SAFETY: takes an open descriptor and no pointer.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, libc::POSIX_FADV_DONTNEED) };
}

enum Look {
    File(BlockFile<File>),
    /// A file without our footer, judged whole; or one in which there is nothing to judge.
    Foreign(Finding),
}

fn open(file: File, oid: &Oid) -> Result<Look, StoreError> {
    match BlockFile::open(file, oid) {
        Ok(Opened::Ours(file)) => Ok(Look::File(file)),
        Ok(Opened::Foreign(foreign)) => Ok(Look::Foreign(match foreign.matches()? {
            Ok(()) => Finding::Sound { complete: true },
            Err(found) => Finding::Mismatch { found },
        })),
        Ok(Opened::Nothing { .. }) => Ok(Look::Foreign(Finding::Nothing)),
        Err(StoreError::Corrupt { reason, .. }) => Ok(Look::Foreign(Finding::Unreadable { reason })),
        Err(error) => Err(error),
    }
}

/// Returns the CRC32C of a block's bytes, or none when the file ends before they do. `each` sees the bytes in passing.
fn read_block(
    file: &BlockFile<File>,
    block_index: u64,
    buffer: &mut [u8],
    each: &mut dyn FnMut(&[u8]),
) -> Result<Option<u32>, StoreError> {
    let span = file.blocks().span(block_index);
    let mut crc = 0;
    for offset in span.clone().step_by(PIECE_LEN as usize) {
        let piece = &mut buffer[..PIECE_LEN.min(span.end - offset) as usize];
        match file.read_at(offset, piece) {
            Ok(()) => {}
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            // A sector that cannot be read is a broken block too: fetched again, it is written elsewhere.
            Err(StoreError::Io { source, .. }) if source.raw_os_error() == Some(libc::EIO) => return Ok(None),
            Err(error) => return Err(error),
        }
        crc = crc32c::crc32c_append(crc, piece);
        each(piece);
    }
    Ok(Some(crc))
}
