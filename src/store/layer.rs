//! What a block file asks of the thing below it; a file, or in tests a disk that loses power.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Random access to one file. All calls may block and come from many threads at once.
// An empty file is nothing special here, so `is_empty` would have no caller.
#[allow(clippy::len_without_is_empty)]
pub trait FileLayer: Send + Sync {
    /// Fills `bytes` from `offset`; a file that ends before that is `UnexpectedEof`.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Sets the length; new bytes read as zeros and take no room until written.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns when all that was written before is durable.
    fn sync_data(&self) -> io::Result<()>;
}

impl FileLayer for File {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
