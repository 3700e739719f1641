//! The byte format of a block file: pure, from bytes to facts and back.
//!
//! The first part is what DingoSpeed and Olah (up to 0.3) write and call "OLAH" version 8. After the payload, where they do not
//! look, stands our footer. All integers are little-endian.
//!
//! ```text
//! 0          4  magic "OLAH"
//! 4          8  version, 8
//! 12         8  block size B, 1 MiB to 128 MiB
//! 20         8  object size S
//! 28         8  mask bits M, at least the block count n = ceil(S / B)
//! 36  ceil(M/8) mask: block i is present when byte i/8 has bit i%8, the least significant first
//! P          S  payload, P = 36 + ceil(M/8): block i at P + i*B, the last one unpadded
//! P+S     0..7  zeros, up to the next multiple of 8
//! F          8  magic "DINGOFTR"
//! F+8        4  footer version, 1
//! F+12       4  hash: 1 sha256, 2 git blob sha1
//! F+16      32  the oid, raw; a sha1 fills 20 bytes, zeros follow
//! F+48       8  block size, as above
//! F+56       8  object size, as above
//! F+64       8  block count n
//! F+72       8  footer length, 96 + 4n
//! F+80       4  zero
//! F+84       4  CRC32C of F..F+84: the footer is there and belongs to this header
//! F+88       4  flags: bit 0 = the whole object was hashed and matched its oid
//! F+92       4  seal: CRC32C of oid (32 bytes), flags and all block checksums; the flags hold only under a right seal
//! F+96      4n  CRC32C of each block, valid when the block's bit is set
//! ```
//!
//! In files of ours M is such that P is a multiple of 4096, so mapped blocks are page-aligned: 32,480 bits fill the first page
//! (31 GiB at 1 MiB blocks), larger objects take whole pages more. Foreign files keep the P they came with.
//!
//! Every field has a fixed place once the header is known, so a block is published by writing 4 bytes and 1 byte. The footer
//! repeats the header's geometry: a changed header and an intact footer cannot go together. The flags and the seal are one
//! 8-byte word that no sector boundary cuts. Because the seal covers the checksums, a flag that outlives a crash in which
//! blocks were lost, and later filled with something else, does not vouch for them.

use super::block::Blocks;
use crate::hub::Oid;
use std::fmt;

pub const MAGIC: [u8; 4] = *b"OLAH";
pub const VERSION: u64 = 8;
/// Length of the header up to the mask.
pub const HEADER_FIXED_LEN: u64 = 36;
pub const BLOCK_SIZE_MIN: u64 = 1 << 20;
pub const BLOCK_SIZE_MAX: u64 = 1 << 27;
/// Most blocks an object may have: 4 TiB at 1 MiB. It bounds what a header can make us allocate (16 MiB of checksums).
pub const BLOCK_COUNT_MAX: u64 = 1 << 22;

const PAGE: u64 = 4096;
const FOOTER_MAGIC: [u8; 8] = *b"DINGOFTR";
pub const FOOTER_VERSION: u32 = 1;
/// Length of the footer up to the block checksums.
pub const FOOTER_HEAD_LEN: u64 = 96;
const FLAG_VERIFIED: u32 = 1;

/// A header that was checked: the geometry of one block file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    block_size: u64,
    size: u64,
    mask_bits: u64,
}

/// What a header and mask say is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// A header with size 0: created and never sized, or an empty object.
    HeaderOnly,
    /// Some blocks are absent.
    Partial,
    /// All blocks are present.
    Complete,
    /// The file ends before its payload should (a crash, or a copy cut short).
    Short,
}

/// Why a file is not a block file of a kind known here. None of these is mended; the file is set aside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("a header needs 36 bytes, the file has {0}")]
    TooShort(u64),
    #[error("it does not begin with \"OLAH\" but with {0:02x?}")]
    Magic([u8; 4]),
    #[error("it is an OLAH container of version {0}, only version 8 is known")]
    Version(u64),
    #[error("block size {0} is not within 1048576 and 134217728")]
    BlockSize(u64),
    #[error("a mask of {mask_bits} bits does not fit a file of {file_len} bytes")]
    Mask { mask_bits: u64, file_len: u64 },
    #[error("{size} bytes in blocks of {block_size} are more blocks than the {block_count_max} allowed")]
    TooManyBlocks { size: u64, block_size: u64, block_count_max: u64 },
}

/// Why the bytes after the payload are not this object's footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FooterFault {
    /// No footer: a file of DingoSpeed's or Olah's.
    Missing,
    /// A footer that was damaged, half written, or made for another header.
    Torn,
    /// A sound footer of a newer program.
    Newer(u32),
    /// A sound footer of another object, named by its hex.
    OtherObject(String),
}

impl Header {
    /// Lays out a new file of ours. `block_size` must be a power of two.
    pub fn ours(size: u64, block_size: u64) -> Result<Header, FormatError> {
        if !block_size.is_power_of_two() {
            return Err(FormatError::BlockSize(block_size));
        }
        check_geometry(size, block_size, BLOCK_COUNT_MAX)?;
        let block_count = Blocks { block_size, size }.count();
        let payload_start = (HEADER_FIXED_LEN + block_count.div_ceil(8)).next_multiple_of(PAGE);
        Ok(Header { block_size, size, mask_bits: (payload_start - HEADER_FIXED_LEN) * 8 })
    }

    /// Reads a header from the first 36 bytes (fewer when the file is shorter) of a file of `file_len` bytes.
    ///
    /// `None` is a file in which nothing was ever kept: an empty one, as DingoSpeed makes for a HEAD, or one whose first
    /// page never reached the disk and reads as zeros.
    pub fn decode(first: &[u8], file_len: u64) -> Result<Option<Header>, FormatError> {
        if file_len == 0 {
            return Ok(None);
        }
        let Some(first) = first.first_chunk::<{ HEADER_FIXED_LEN as usize }>() else {
            return Err(FormatError::TooShort(file_len));
        };
        if first.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let magic = [first[0], first[1], first[2], first[3]];
        if magic != MAGIC {
            return Err(FormatError::Magic(magic));
        }
        let version = u64_at(first, 4);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let (block_size, size, mask_bits) = (u64_at(first, 12), u64_at(first, 20), u64_at(first, 28));
        if file_len < HEADER_FIXED_LEN || mask_bits.div_ceil(8) > file_len - HEADER_FIXED_LEN {
            return Err(FormatError::Mask { mask_bits, file_len });
        }
        check_geometry(size, block_size, mask_bits.min(BLOCK_COUNT_MAX))?;
        Ok(Some(Header { block_size, size, mask_bits }))
    }

    pub fn encode(&self) -> [u8; HEADER_FIXED_LEN as usize] {
        let mut bytes = [0; HEADER_FIXED_LEN as usize];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.block_size.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.size.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.mask_bits.to_le_bytes());
        bytes
    }

    pub fn blocks(&self) -> Blocks {
        Blocks { block_size: self.block_size, size: self.size }
    }

    /// Returns how many bytes of the mask matter (8 blocks to a byte, rounds up); the rest of it is spare.
    pub fn mask_len(&self) -> u64 {
        self.blocks().count().div_ceil(8)
    }

    /// Returns where the mask's byte for a block stands (rounds down).
    pub fn mask_offset(&self, block_index: u64) -> u64 {
        HEADER_FIXED_LEN + block_index / 8
    }

    pub fn payload_start(&self) -> u64 {
        HEADER_FIXED_LEN + self.mask_bits.div_ceil(8)
    }

    /// Returns where the payload ends, and with it a file of DingoSpeed's.
    pub fn payload_end(&self) -> u64 {
        self.payload_start() + self.size
    }

    pub fn footer_start(&self) -> u64 {
        self.payload_end().next_multiple_of(8)
    }

    /// Whether the payload starts at a page, as it does in the files that we make and in no others.
    pub fn is_ours(&self) -> bool {
        self.payload_start().is_multiple_of(PAGE)
    }

    pub fn flags_offset(&self) -> u64 {
        self.footer_start() + 88
    }

    pub fn checksum_offset(&self, block_index: u64) -> u64 {
        self.footer_start() + FOOTER_HEAD_LEN + 4 * block_index
    }

    /// Returns the length of the file with its footer.
    pub fn file_len(&self) -> u64 {
        self.checksum_offset(self.blocks().count())
    }

    /// Judges what `mask` claims in a file of `file_len` bytes.
    pub fn fill(&self, mask: &[u8], file_len: u64) -> Fill {
        let block_count = self.blocks().count();
        let has = |index: u64| mask.get((index / 8) as usize).is_some_and(|byte| byte & (1 << (index % 8)) != 0);
        if block_count == 0 {
            Fill::HeaderOnly
        } else if file_len < self.payload_end() {
            Fill::Short
        } else if (0..block_count).all(has) {
            Fill::Complete
        } else {
            Fill::Partial
        }
    }

    /// Makes the footer up to the checksums, not verified.
    pub fn footer_head(&self, oid: &Oid) -> [u8; FOOTER_HEAD_LEN as usize] {
        let block_count = self.blocks().count();
        let mut bytes = [0; FOOTER_HEAD_LEN as usize];
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        bytes[8..12].copy_from_slice(&FOOTER_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(if oid.is_sha256() { 1u32 } else { 2 }).to_le_bytes());
        bytes[16..48].copy_from_slice(&raw_oid(oid));
        bytes[48..56].copy_from_slice(&self.block_size.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.size.to_le_bytes());
        bytes[64..72].copy_from_slice(&block_count.to_le_bytes());
        bytes[72..80].copy_from_slice(&(FOOTER_HEAD_LEN + 4 * block_count).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..84]);
        bytes[84..88].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Checks that `bytes`, read at [`Header::footer_start`], are the footer of `oid` under this header.
    pub fn check_footer_head(&self, bytes: &[u8; FOOTER_HEAD_LEN as usize], oid: &Oid) -> Result<(), FooterFault> {
        let wanted = self.footer_head(oid);
        if bytes[..88] == wanted[..88] {
            return Ok(());
        }
        if bytes[..8] != FOOTER_MAGIC {
            return Err(FooterFault::Missing);
        }
        // The magic, the version and this checksum keep their places in every version to come.
        if crc32c::crc32c(&bytes[..84]) != u32_at(bytes, 84) {
            return Err(FooterFault::Torn);
        }
        let version = u32_at(bytes, 8);
        if version > FOOTER_VERSION {
            return Err(FooterFault::Newer(version));
        }
        if bytes[12..48] != wanted[12..48] {
            let oid_len = if u32_at(bytes, 12) == 1 { 32 } else { 20 };
            return Err(FooterFault::OtherObject(super::hash::hex(&bytes[16..16 + oid_len])));
        }
        Err(FooterFault::Torn)
    }
}

/// Makes the word that says whether the whole object was verified. `checksums` are all of them, as they stand on disk.
pub fn encode_flags(verified: bool, oid: &Oid, checksums: &[u8]) -> [u8; 8] {
    let flags = if verified { FLAG_VERIFIED } else { 0 };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&flags.to_le_bytes());
    bytes[4..].copy_from_slice(&seal(flags, oid, checksums).to_le_bytes());
    bytes
}

/// Tells whether the object was verified with exactly these checksums.
pub fn decode_flags(bytes: &[u8; 8], oid: &Oid, checksums: &[u8]) -> bool {
    let flags = u32_at(bytes, 0);
    flags & FLAG_VERIFIED != 0 && u32_at(bytes, 4) == seal(flags, oid, checksums)
}

fn seal(flags: u32, oid: &Oid, checksums: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&raw_oid(oid));
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &flags.to_le_bytes()), checksums)
}

fn check_geometry(size: u64, block_size: u64, block_count_max: u64) -> Result<(), FormatError> {
    if !(BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&block_size) {
        return Err(FormatError::BlockSize(block_size));
    }
    if (Blocks { block_size, size }).count() > block_count_max {
        return Err(FormatError::TooManyBlocks { size, block_size, block_count_max });
    }
    Ok(())
}

fn raw_oid(oid: &Oid) -> [u8; 32] {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    let mut raw = [0; 32];
    for (byte, pair) in raw.iter_mut().zip(oid.as_str().as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    raw
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

impl fmt::Display for FooterFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FooterFault::Missing => f.write_str("it has no footer"),
            FooterFault::Torn => f.write_str("its footer is damaged"),
            FooterFault::Newer(version) => write!(f, "its footer has version {version}"),
            FooterFault::OtherObject(oid) => write!(f, "its footer belongs to {oid}"),
        }
    }
}

/// Reads `data` as a whole block file and panics when the decoder breaks a promise. Used by the fuzz targets.
pub fn fuzz_decode(data: &[u8]) {
    let file_len = data.len() as u64;
    let first = &data[..data.len().min(HEADER_FIXED_LEN as usize)];
    let Ok(Some(header)) = Header::decode(first, file_len) else { return };
    assert_eq!(header.encode(), first, "what was read is written again as it was");
    assert!(header.payload_start() <= file_len && header.mask_len() <= BLOCK_COUNT_MAX / 8);
    assert!(header.payload_end() <= header.footer_start() && header.footer_start() < header.file_len());

    let mask = &data[HEADER_FIXED_LEN as usize..][..header.mask_len() as usize];
    let fill = header.fill(mask, file_len);
    assert!(fill == Fill::Short || header.payload_end() <= file_len);

    let oids = ["0".repeat(40), "f".repeat(64)];
    for oid in oids.iter().filter_map(|hex| Oid::parse(hex)) {
        let head = header.footer_head(&oid);
        assert_eq!(header.check_footer_head(&head, &oid), Ok(()));
        // The footer's place is often past the end of `data`; then its last bytes stand in.
        let at = (header.footer_start().min(file_len)) as usize;
        let bytes = data.get(at..at + head.len()).or_else(|| data.last_chunk::<96>().map(|last| &last[..]));
        if let Some(bytes) = bytes.and_then(|bytes| bytes.first_chunk::<96>())
            && header.check_footer_head(bytes, &oid).is_ok()
        {
            assert_eq!(bytes[..88], head[..88]);
        }
        assert!(decode_flags(&encode_flags(true, &oid, mask), &oid, mask));
        assert!(!decode_flags(&encode_flags(false, &oid, mask), &oid, mask));
    }
}
