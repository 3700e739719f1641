//! All block arithmetic: which block holds a byte, which bytes a block holds.
//!
//! Everything is `u64`, nothing overflows, and every division says how it rounds.

use std::ops::Range;

/// An object of `size` bytes cut into blocks of `block_size`; the last one may be short.
///
/// `block_size` is never zero: it comes from [`super::format`], which checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    pub block_size: u64,
    pub size: u64,
}

impl Blocks {
    /// Returns how many blocks there are, the short last one included; an empty object has none.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// Returns the index of the block that holds the byte at `offset` (rounds down).
    pub fn of_offset(&self, offset: u64) -> u64 {
        offset / self.block_size
    }

    /// Returns the bytes of a block; empty, at the end, for an index past the last block.
    pub fn span(&self, block_index: u64) -> Range<u64> {
        let start = block_index.saturating_mul(self.block_size).min(self.size);
        start..start.saturating_add(self.block_size).min(self.size)
    }

    /// Returns the blocks that `span` touches: its start rounds down, its end up. What lies past the end is left out.
    pub fn covering(&self, span: Range<u64>) -> Range<u64> {
        let end = span.end.min(self.size);
        if span.start >= end {
            return 0..0;
        }
        span.start / self.block_size..end.div_ceil(self.block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_last_block_is_short() {
        let blocks = Blocks { block_size: MIB, size: 2 * MIB + 5 };
        assert_eq!(blocks.count(), 3);
        assert_eq!(blocks.span(1), MIB..2 * MIB);
        assert_eq!(blocks.span(2), 2 * MIB..2 * MIB + 5);
        assert!(blocks.span(3).is_empty());
        assert!(blocks.span(u64::MAX).is_empty());
        assert_eq!(blocks.of_offset(MIB - 1), 0);
        assert_eq!(blocks.of_offset(MIB), 1);
    }

    #[test]
    fn covering_rounds_outwards_and_stops_at_the_end() {
        let blocks = Blocks { block_size: MIB, size: 2 * MIB + 5 };
        let check = |span: Range<u64>, expected| assert_eq!(blocks.covering(span.clone()), expected, "{span:?}");
        check(0..1, 0..1);
        check(0..MIB, 0..1);
        check(MIB - 1..MIB + 1, 0..2);
        check(MIB..u64::MAX, 1..3);
        check(7..7, 0..0);
        check(3 * MIB..4 * MIB, 0..0);
        check(u64::MAX..u64::MAX, 0..0);
    }

    #[test]
    fn an_empty_object_has_no_blocks() {
        let blocks = Blocks { block_size: MIB, size: 0 };
        assert_eq!((blocks.count(), blocks.span(0), blocks.covering(0..9)), (0, 0..0, 0..0));
    }

    #[test]
    fn nothing_overflows() {
        let blocks = Blocks { block_size: MIB, size: u64::MAX };
        assert_eq!(blocks.span(blocks.count() - 1).end, u64::MAX);
        assert_eq!(blocks.covering(0..u64::MAX).end, blocks.count());
    }
}
