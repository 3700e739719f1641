//! The directory's own secret: what makes hashes that are kept here worthless elsewhere.

use super::{StoreError, place::Place};
use std::{fs::File, io::Write, os::unix::fs::OpenOptionsExt};

const LEN: usize = 32;

/// Returns the secret, making it at the first call. One of a wrong length is replaced: what it had named is forgotten.
pub(super) fn load(place: &Place) -> Result<[u8; LEN], StoreError> {
    let path = place.root().join("secret");
    if let Some(kept) = super::place::read_bounded(&path, LEN as u64)?
        && let Ok(secret) = kept.try_into()
    {
        return Ok(secret);
    }
    let secret: [u8; LEN] = rand::random();
    // It has its mode before it has its name, and is on the disk before anything that depends on it.
    place.put_in_place(&path, |temp| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(temp)?;
        file.write_all(&secret)?;
        file.sync_all()
    })?;
    Ok(secret)
}
