//! Room that was made for bytes on their way, so that it is not given twice.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Shared by all fills of a store.
#[derive(Debug, Default)]
pub(super) struct Rooms(Arc<AtomicU64>);

/// Room for bytes that are not published yet. Dropping it gives back what was not used.
#[derive(Debug)]
pub struct Room {
    all: Arc<AtomicU64>,
    len: u64,
}

impl Rooms {
    /// Counts `len` bytes as coming.
    pub(super) fn reserve(&self, len: u64) -> Room {
        self.0.fetch_add(len, Ordering::SeqCst);
        Room { all: self.0.clone(), len }
    }

    /// Returns the bytes of all rooms that are not used yet.
    pub(super) fn coming_len(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Room {
    /// Notes that `len` of its bytes were published, and count as kept from then on.
    pub fn fill(&mut self, len: u64) {
        let len = len.min(self.len);
        self.len -= len;
        self.all.fetch_sub(len, Ordering::SeqCst);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.fill(self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_is_given_back() {
        let rooms = Rooms::default();
        let (mut one, other) = (rooms.reserve(10), rooms.reserve(5));
        one.fill(4);
        assert_eq!(rooms.coming_len(), 11);
        one.fill(40);
        assert_eq!(rooms.coming_len(), 5, "no more than it was given");
        drop(other);
        drop(one);
        assert_eq!(rooms.coming_len(), 0);
    }
}
