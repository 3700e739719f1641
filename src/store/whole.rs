//! Hashing an object whole: to verify one of ours, or to adopt a file that others wrote.

use super::{
    StoreError,
    block_file::BlockFile,
    format::{self, Header},
    hash::ObjectHasher,
    layer::FileLayer,
};
use crate::hub::Oid;
use std::io;

/// Bytes read at once.
const PIECE_LEN: u64 = 1 << 20;

/// The outcome of hashing a whole object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are the object; it is now marked verified.
    Verified,
    /// This many blocks were absent, or rotted on the disk and are now retracted: fill them and verify again.
    Incomplete { absent: u64 },
    /// Every block is as it was written, yet together they are another object: quarantine it.
    Mismatch { found: String },
}

/// A complete file of DingoSpeed's or Olah's, not yet believed.
#[derive(Debug)]
pub struct Foreign<F> {
    layer: F,
    oid: Oid,
    header: Header,
}

impl<F: FileLayer> BlockFile<F> {
    /// Reads and hashes the whole object, and marks it verified when it is what its name says. BLOCKING, for as long as the disk takes.
    ///
    /// `progress` is told how many bytes are done. Each block is compared with its checksum in passing, so that rot on the
    /// disk, mended by fetching one block, is told from wrong bytes that came from upstream.
    pub fn verify_whole(&self, progress: &mut dyn FnMut(u64)) -> Result<Verdict, StoreError> {
        let absent_count = || self.blocks().count() - self.present_count();
        let retract_count = self.retract_count();
        if !self.is_complete() {
            return Ok(Verdict::Incomplete { absent: absent_count() });
        }
        self.uncheck_all();
        let (checksums, hash) = hash_payload(self.layer(), self.oid(), self.header(), progress)?;
        let mut rotten = false;
        for (block_index, found) in (0..).zip(checksums) {
            if self.checksum(block_index) != Some(found) {
                rotten = true;
                self.uncheck(block_index);
                self.check(block_index)?;
            }
        }
        match hash {
            _ if rotten => Ok(Verdict::Incomplete { absent: absent_count() }),
            Err(found) if self.retract_count() == retract_count => Ok(Verdict::Mismatch { found }),
            Ok(()) if self.accept_whole(retract_count)? => Ok(Verdict::Verified),
            // A block was retracted while we read.
            _ => Ok(Verdict::Incomplete { absent: absent_count() }),
        }
    }
}

impl<F: FileLayer> Foreign<F> {
    pub(super) fn new(layer: F, oid: &Oid, header: Header) -> Foreign<F> {
        Foreign { layer, oid: *oid, header }
    }

    pub fn size(&self) -> u64 {
        self.header.blocks().size
    }

    /// Hashes the whole and changes nothing; the inner error is the hash found. BLOCKING, for as long as the disk takes.
    pub(super) fn matches(&self) -> Result<Result<(), String>, StoreError> {
        Ok(hash_payload(&self.layer, &self.oid, &self.header, &mut |_| ())?.1)
    }

    /// Hashes the whole and, when it is the object it is named after, adds our footer. BLOCKING, for as long as the disk takes.
    ///
    /// Header and payload stay as they are, so that DingoSpeed still reads the file. `Corrupt` means other bytes: quarantine.
    pub fn adopt(self, progress: &mut dyn FnMut(u64)) -> Result<BlockFile<F>, StoreError> {
        let Foreign { layer, oid, header } = self;
        let (checksums, hash) = hash_payload(&layer, &oid, &header, progress)?;
        hash.map_err(|found| StoreError::corrupt(oid, format!("its {} bytes hash to {found}", header.blocks().size)))?;

        let checksums: Vec<u8> = checksums.into_iter().flat_map(u32::to_le_bytes).collect();
        let io = |error| StoreError::io("adopt", format!("object {oid}"), error);
        if layer.len().map_err(io)? < header.file_len() {
            layer.set_len(header.file_len()).map_err(io)?;
        }
        layer.write_at(header.checksum_offset(0), &checksums).map_err(io)?;
        layer.write_at(header.flags_offset(), &format::encode_flags(true, &oid, &checksums)).map_err(io)?;
        // The part before the flags: with it the footer begins to count.
        layer.write_at(header.footer_start(), &header.footer_head(&oid)[..88]).map_err(io)?;
        Ok(BlockFile::adopted(layer, &oid, header, &checksums))
    }
}

/// The checksum of each block, and whether the whole matches; the error is the hash found.
type Hashed = (Vec<u32>, Result<(), String>);

fn hash_payload<F: FileLayer>(
    layer: &F,
    oid: &Oid,
    header: &Header,
    progress: &mut dyn FnMut(u64),
) -> Result<Hashed, StoreError> {
    let blocks = header.blocks();
    let mut hasher = ObjectHasher::new(oid, blocks.size);
    let mut checksums = Vec::with_capacity(blocks.count() as usize);
    let mut buffer = vec![0; PIECE_LEN.min(blocks.size) as usize];
    for block_index in 0..blocks.count() {
        let span = blocks.span(block_index);
        let mut crc = 0;
        for offset in span.clone().step_by(PIECE_LEN as usize) {
            let piece = &mut buffer[..PIECE_LEN.min(span.end - offset) as usize];
            layer.read_at(header.payload_start() + offset, piece).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => StoreError::corrupt(oid, format!("the file ends within block {block_index}")),
                _ => StoreError::io("hash", format!("object {oid}"), error),
            })?;
            crc = crc32c::crc32c_append(crc, piece);
            hasher.update(piece);
            progress(offset + piece.len() as u64);
        }
        checksums.push(crc);
    }
    Ok((checksums, hasher.matches()))
}
