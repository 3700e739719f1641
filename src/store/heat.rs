//! Which parts of an object were read when, so that one of which only a part is wanted can lose the rest.
//!
//! A large data set of which people read a few row groups again and again is read all the time, and would keep every block that anybody
//! ever wanted. So objects that are not whole are looked at in [`PART_COUNT`] parts, each with its own last read. That is known of what
//! was read since the start of the process: a part that was not is as old as the object's first read. What is not known goes as a whole,
//! by the object's own last read, which survives a restart.

use super::place;
use crate::hub::Oid;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// Parts of an object, of as many blocks each, give or take one.
pub(super) const PART_COUNT: u64 = 64;
/// Objects that are known: two MiB. Of others the whole goes.
const OBJECTS_MAX: usize = 4096;

/// The last read of each part, milliseconds since 1970.
pub(super) type PartReads = [u64; PART_COUNT as usize];

#[derive(Debug, Default)]
pub(super) struct Heat {
    objects: Mutex<HashMap<Oid, PartReads>>,
}

impl Heat {
    /// Notes that blocks of an object were read, which has `block_count` of them and is not whole.
    pub(super) fn note(&self, oid: &Oid, block_count: u64, blocks: Range<u64>, now: SystemTime) {
        let now_ms = place::unix_ms(now);
        let mut objects = self.lock();
        if objects.len() >= OBJECTS_MAX && !objects.contains_key(oid) {
            // What was read longest ago makes room.
            let oldest = objects.iter().min_by_key(|(_, reads)| reads.iter().max()).map(|(oid, _)| *oid);
            oldest.map(|oid| objects.remove(&oid));
        }
        let reads = objects.entry(*oid).or_insert([now_ms; PART_COUNT as usize]);
        for (part, read_ms) in (0..).zip(reads) {
            let of_part = blocks_of(part, block_count);
            if of_part.start < blocks.end && blocks.start < of_part.end {
                *read_ms = now_ms;
            }
        }
    }

    /// Returns when a part was last read, milliseconds since 1970; none when nothing is known of the object.
    pub(super) fn read_ms(&self, oid: &Oid, part: u8) -> Option<u64> {
        self.lock().get(oid).and_then(|reads| reads.get(usize::from(part)).copied())
    }

    /// Returns all that is known.
    pub(super) fn known(&self) -> HashMap<Oid, PartReads> {
        self.lock().clone()
    }

    /// Of an object that is whole now, or gone, nothing need be known.
    pub(super) fn forget(&self, oid: &Oid) {
        self.lock().remove(oid);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Oid, PartReads>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the blocks of a part of an object that has `block_count` (rounds up on both sides); none where there are fewer blocks than parts.
pub(super) fn blocks_of(part: u64, block_count: u64) -> Range<u64> {
    let start = |part: u64| u128::from(part).saturating_mul(block_count.into()).div_ceil(PART_COUNT.into()) as u64;
    start(part)..start(part + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn parts_cover_each_block_once() {
        for block_count in [0, 1, 2, 63, 64, 65, 1000, 400_000, u64::MAX / PART_COUNT] {
            let mut end = 0;
            for part in 0..PART_COUNT {
                let blocks = blocks_of(part, block_count);
                assert_eq!(blocks.start, end, "{block_count}");
                end = blocks.end;
            }
            assert_eq!(end, block_count);
        }
    }

    #[test]
    fn what_was_not_read_is_as_old_as_the_first_read() {
        let (heat, oid) = (Heat::default(), Oid::parse(&"1".repeat(64)).unwrap());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        heat.note(&oid, 128, 0..1, at(5));
        heat.note(&oid, 128, 126..128, at(9));
        let known = heat.known();
        let reads = known.get(&oid).unwrap();
        assert_eq!((reads[0], reads[1], reads[62], reads[63]), (5000, 5000, 5000, 9000));
        assert_eq!((heat.read_ms(&oid, 62), heat.read_ms(&oid, 63)), (Some(5000), Some(9000)));
        heat.forget(&oid);
        assert!(heat.read_ms(&oid, 0).is_none() && heat.is_empty());
    }
}
