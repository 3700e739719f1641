//! The bytes of a file: in memory, mapped from disk, or computed from their offset. It knows no names and no HTTP.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// Bytes that can be read at any offset.
pub trait Content: Send + Sync {
    /// Returns the whole length in bytes.
    fn size(&self) -> u64;

    /// Returns up to `len` bytes from `offset`: at least one while `offset < size()`, none after it.
    fn read(&self, offset: u64, len: usize) -> Bytes;
}

/// A file's bytes held in memory, or mapped: either way a read is a slice, not a copy.
pub struct Memory(Bytes);

impl Memory {
    /// Holds these bytes.
    pub fn holding(bytes: impl Into<Bytes>) -> Arc<dyn Content> {
        Arc::new(Memory(bytes.into()))
    }

    /// Maps a file. The file must not shrink while the Hub lives.
    pub fn map(path: &Path) -> io::Result<Arc<dyn Content>> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Memory::holding(Bytes::new()));
        }
        // SAFETY: the map is read-only, and whoever hands a file to the fake keeps it unchanged.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Memory::holding(Bytes::from_owner(map)))
    }
}

impl Content for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> Bytes {
        let start = offset.min(self.size()) as usize;
        let end = start.saturating_add(len).min(self.0.len());
        self.0.slice(start..end)
    }
}

/// The period of a synthetic file: a prime, so that no two offsets which differ by whole blocks of any
/// usual size hold the same bytes, and a block put in the wrong place is seen.
pub const SYNTHETIC_PERIOD: u64 = 4_194_301;

/// A file of any size whose byte at `offset` is a function of the seed and `offset % SYNTHETIC_PERIOD`.
pub struct Synthetic {
    size: u64,
    pool: Bytes,
}

impl Synthetic {
    /// Makes the content; files of one seed share the memory of their period.
    pub fn new(size: u64, seed: u64) -> Synthetic {
        static POOLS: LazyLock<Mutex<HashMap<u64, Bytes>>> = LazyLock::new(Mutex::default);
        let mut pools = POOLS.lock().unwrap_or_else(|broken| broken.into_inner());
        let pool = pools.entry(seed).or_insert_with(|| Bytes::from(noise(seed, SYNTHETIC_PERIOD as usize))).clone();
        Synthetic { size, pool }
    }
}

impl Content for Synthetic {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, len: usize) -> Bytes {
        let left = self.size.saturating_sub(offset).min(len as u64) as usize;
        let start = (offset % SYNTHETIC_PERIOD) as usize;
        self.pool.slice(start..start + left.min(self.pool.len() - start))
    }
}

/// Returns `len` pseudo-random bytes of a seed: the same on every machine.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = seed;
    while bytes.len() < len {
        bytes.extend_from_slice(&splitmix(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What `Repo::lfs_from` takes: a path to map, or any content.
pub struct Source(pub(crate) Arc<dyn Content>);

impl From<Arc<dyn Content>> for Source {
    fn from(content: Arc<dyn Content>) -> Source {
        Source(content)
    }
}

impl From<PathBuf> for Source {
    /// Maps the file; a file that cannot be opened is a mistake of the test and panics.
    fn from(path: PathBuf) -> Source {
        Source(Memory::map(&path).unwrap_or_else(|error| panic!("map `{}`: {error}", path.display())))
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Source {
        Source::from(path.to_path_buf())
    }
}

const HASH_STEP: usize = 1 << 20;

/// Returns the sha256 of the content, in hex.
pub fn sha256_of(content: &dyn Content) -> String {
    let mut hash = Sha256::new();
    each_piece(content, |piece| hash.update(piece));
    hex(&hash.finalize())
}

/// Returns the id git gives a blob of this content, in hex.
pub fn git_blob_id(content: &dyn Content) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.size()));
    each_piece(content, |piece| hash.update(piece));
    hex(&hash.finalize())
}

fn each_piece(content: &dyn Content, mut take: impl FnMut(&[u8])) {
    let mut offset = 0;
    while offset < content.size() {
        let piece = content.read(offset, HASH_STEP);
        take(&piece);
        offset += piece.len() as u64;
    }
}

/// Returns the sha256 of some text, in hex: the source of every invented but stable id.
pub(crate) fn sha256_hex(text: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(text.as_ref()))
}

pub(crate) fn sha1_hex(text: impl AsRef<[u8]>) -> String {
    hex(&Sha1::digest(text.as_ref()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_names_the_empty_blob_and_hello() {
        assert_eq!(git_blob_id(&Memory(Bytes::new())), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(git_blob_id(&Memory(Bytes::from("hello\n"))), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn a_synthetic_file_reads_the_same_in_any_pieces() {
        let file = Synthetic::new(10_000_000, 7);
        let mut whole = Vec::new();
        while (whole.len() as u64) < file.size() {
            whole.extend_from_slice(&file.read(whole.len() as u64, 300_001));
        }
        assert_eq!(whole.len(), 10_000_000);
        for offset in [0u64, 1, 4_194_300, 4_194_301, 8_388_602, 9_999_999] {
            assert_eq!(file.read(offset, 1)[0], whole[offset as usize]);
        }
        assert_ne!(file.read(0, 64), file.read(1 << 20, 64));
        assert!(file.read(10_000_000, 5).is_empty());
    }
}
