//! A whole object read from first byte to last, hashed as it goes: the last bytes are only given when the whole is what its name
//! says.

use super::{
    StoreError,
    block_file::{BlockFile, Opened},
    hash::ObjectHasher,
    view::View,
};
use crate::hub::Oid;
use std::{
    fs::File,
    io::{self, Read},
};

/// Reads one object. An error of kind `InvalidData` comes in place of the last bytes of one that is broken.
pub struct ObjectReader {
    file: BlockFile<File>,
    /// Taken at the end.
    hasher: Option<ObjectHasher>,
    offset: u64,
}

impl View {
    /// Opens an object for reading it whole. None: it is not here, or not all of it, or it was never proven.
    ///
    /// Should it be evicted meanwhile, the reader reads on.
    pub fn object_reader(&self, oid: &Oid) -> Result<Option<ObjectReader>, StoreError> {
        let Some(file) = self.open_blob(oid)? else { return Ok(None) };
        match BlockFile::open(file, oid) {
            Ok(Opened::Ours(file)) if file.is_verified() => {
                let hasher = Some(ObjectHasher::new(oid, file.size()));
                Ok(Some(ObjectReader { file, hasher, offset: 0 }))
            }
            Ok(_) | Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl ObjectReader {
    pub fn size(&self) -> u64 {
        self.file.size()
    }
}

impl Read for ObjectReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let size = self.file.size();
        let len = (size - self.offset).min(bytes.len() as u64) as usize;
        if len > 0 {
            self.file.read_at(self.offset, &mut bytes[..len]).map_err(io::Error::other)?;
            self.offset += len as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes[..len]);
            }
        }
        if self.offset == size
            && let Some(Err(found)) = self.hasher.take().map(ObjectHasher::matches)
        {
            let what =
                format!("object {} is broken: its bytes hash to {found}; `dingospeed verify --repair` mends it", self.file.oid());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(len)
    }
}
