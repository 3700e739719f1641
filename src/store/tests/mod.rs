//! The store against a plain `Vec<u8>`: see `disk` for the fake disk that loses power.

mod crash;
mod disk;
mod evict;
mod foreign;
mod keep;
mod model;
mod threads;
mod trace;

use super::{
    block_file::{BlockFile, Opened},
    hash::hex,
    layer::FileLayer,
};
use crate::hub::Oid;
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;

/// Bytes that differ from block to block and repeat nowhere near; `seed` makes other ones.
fn content(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while (bytes.len() as u64) < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

fn sha256_of(bytes: &[u8]) -> Oid {
    Oid::parse(&hex(&Sha256::digest(bytes))).unwrap()
}

fn block_of(file: &BlockFile<impl FileLayer>, all: &[u8], block_index: u64) -> Vec<u8> {
    let span = file.blocks().span(block_index);
    all[span.start as usize..span.end as usize].to_vec()
}

fn fill_block(file: &BlockFile<impl FileLayer>, all: &[u8], block_index: u64) {
    let block = block_of(file, all, block_index);
    file.write(file.blocks().span(block_index).start, &block).unwrap();
    file.publish(block_index, crc32c::crc32c(&block)).unwrap();
}

/// The one property that matters: whatever `check` admits is what the object holds.
fn assert_admits_only(file: &BlockFile<impl FileLayer>, all: &[u8]) {
    for block_index in 0..file.blocks().count() {
        if file.check(block_index).unwrap() {
            let wanted = block_of(file, all, block_index);
            let mut found = vec![0; wanted.len()];
            file.read_at(file.blocks().span(block_index).start, &mut found).unwrap();
            assert!(found == wanted, "block {block_index} was admitted with wrong bytes");
            assert!(file.is_checked(block_index) && file.is_present(block_index));
        } else {
            assert!(!file.is_present(block_index) && !file.is_verified());
        }
    }
    let count = (0..file.blocks().count()).filter(|&index| file.is_present(index)).count() as u64;
    assert_eq!(count, file.present_count());
    assert_eq!(file.is_complete(), count == file.blocks().count());
}

/// Opens what a test left, taking a foreign file in as the store would. None: the store starts afresh.
fn reopen<F: FileLayer>(layer: F, oid: &Oid) -> Option<BlockFile<F>> {
    match BlockFile::open(layer, oid) {
        Ok(Opened::Ours(file)) => Some(file),
        Ok(Opened::Foreign(foreign)) => foreign.adopt(&mut |_| ()).ok(),
        Ok(Opened::Nothing { .. }) | Err(_) => None,
    }
}
