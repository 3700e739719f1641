//! The two hashes that name objects: sha256 for LFS files, git's blob sha1 for the rest.

use crate::hub::Oid;
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// Hashes an object's bytes, from first to last, to compare them with its name.
#[derive(Clone, Debug)]
pub struct ObjectHasher {
    wanted: Oid,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl ObjectHasher {
    /// Starts a hash. `size` is the whole object's length in bytes: git hashes it before the content.
    pub fn new(oid: &Oid, size: u64) -> ObjectHasher {
        let state = if oid.is_sha256() {
            State::Sha256(Sha256::new())
        } else {
            State::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0")))
        };
        ObjectHasher { wanted: *oid, state }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hash) => hash.update(bytes),
            State::GitBlob(hash) => hash.update(bytes),
        }
    }

    /// Compares with the name; on a mismatch the error is the hash found, in hex.
    pub fn matches(self) -> Result<(), String> {
        let found = match self.state {
            State::Sha256(hash) => hex(&hash.finalize()),
            State::GitBlob(hash) => hex(&hash.finalize()),
        };
        if found == self.wanted.as_str() { Ok(()) } else { Err(found) }
    }
}

/// Returns the name that git gives these bytes.
pub fn git_blob_oid(bytes: &[u8]) -> Oid {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    Oid::parse(&hex(&hash)).expect("40 hex digits are an oid")
}

/// Returns the first 16 hex digits of the sha256 of `text`, to tell file names apart.
pub(super) fn short_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..8])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_git_and_sha256sum_do() {
        let check = |oid: &str, content: &[u8]| {
            let mut hasher = ObjectHasher::new(&Oid::parse(oid).unwrap(), content.len() as u64);
            content.chunks(2).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.matches(), Ok(()));
        };
        check("ce013625030ba8dba906f756967f9e9ca394464a", b"hello\n");
        check("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", b"");
        check("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", b"hello\n");
        check("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", b"");
    }

    #[test]
    fn tells_what_it_found() {
        let mut hasher = ObjectHasher::new(&Oid::parse(&"0".repeat(40)).unwrap(), 6);
        hasher.update(b"hello\n");
        assert_eq!(hasher.matches(), Err("ce013625030ba8dba906f756967f9e9ca394464a".into()));
    }
}
