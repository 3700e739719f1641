//! A set of blocks that many threads read while few change it.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

/// One bit per block. A reader that sees a bit also sees the bytes written before it was set (release, acquire).
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Box<[AtomicU64]>,
    len: u64,
}

impl Bitmap {
    pub(super) fn new(len: u64) -> Bitmap {
        Bitmap { words: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), len }
    }

    /// Takes the first `len` bits of `mask`, least significant bit first; what `mask` lacks is absent.
    pub(super) fn from_mask(mask: &[u8], len: u64) -> Bitmap {
        let bitmap = Bitmap::new(len);
        for (word, bytes) in bitmap.words.iter().zip(mask.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        let spare = bitmap.words.len() as u64 * 64 - len;
        if spare > 0
            && let Some(last) = bitmap.words.last()
        {
            last.fetch_and(u64::MAX >> spare, Ordering::Relaxed);
        }
        bitmap
    }

    pub(super) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    pub(super) fn has(&self, index: u64) -> bool {
        index < self.len && self.word(index).load(Ordering::Acquire) & bit(index) != 0
    }

    pub(super) fn set(&self, index: u64) {
        self.word(index).fetch_or(bit(index), Ordering::AcqRel);
    }

    pub(super) fn clear(&self, index: u64) {
        self.word(index).fetch_and(!bit(index), Ordering::AcqRel);
    }

    pub(super) fn clear_all(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::Release));
    }

    /// Returns the byte of the mask on disk that holds `index` (8 blocks to a byte, rounds down).
    pub(super) fn mask_byte(&self, index: u64) -> u8 {
        let word = self.word(index).load(Ordering::Acquire).to_le_bytes();
        word[(index / 8 % 8) as usize]
    }

    /// Returns the first index in `range` whose bit is `wanted`.
    pub(super) fn next(&self, range: Range<u64>, wanted: bool) -> Option<u64> {
        let end = range.end.min(self.len);
        let mut index = range.start;
        while index < end {
            let word = self.word(index).load(Ordering::Acquire);
            let hits = (if wanted { word } else { !word }) >> (index % 64);
            if hits != 0 {
                let found = index + u64::from(hits.trailing_zeros());
                return (found < end).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        &self.words[(index / 64) as usize]
    }
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_next_bit_of_either_kind() {
        let bitmap = Bitmap::new(200);
        (60..130).for_each(|index| bitmap.set(index));
        assert_eq!(bitmap.count(), 70);
        assert_eq!(bitmap.next(0..200, true), Some(60));
        assert_eq!(bitmap.next(61..200, false), Some(130));
        assert_eq!(bitmap.next(61..130, false), None);
        assert_eq!(bitmap.next(130..200, true), None);
        assert_eq!(bitmap.next(190..900, false), Some(190));
        assert!(!bitmap.has(200) && !bitmap.has(u64::MAX));
        bitmap.clear_all();
        assert_eq!((bitmap.count(), bitmap.next(0..200, true)), (0, None));
    }

    #[test]
    fn a_mask_is_read_from_its_least_significant_bit() {
        let bitmap = Bitmap::from_mask(&[0x05, 0xff], 10);
        assert!(bitmap.has(0) && !bitmap.has(1) && bitmap.has(2) && bitmap.has(9));
        assert_eq!(bitmap.count(), 4, "bits past the last block do not count");
        assert_eq!((bitmap.mask_byte(0), bitmap.mask_byte(9)), (0x05, 0x03));
        assert_eq!(Bitmap::from_mask(&[], 10).count(), 0);
    }
}
