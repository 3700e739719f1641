//! How fast bytes come: those of the last seconds.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seconds that are looked back on.
const WINDOW: usize = 5;

/// Bytes by the second in which they came. Cheap to add to; nobody need look.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// Each second with its number, counted from `began`.
    slots: Mutex<[(u64, u64); WINDOW]>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { began: Instant::now(), slots: Mutex::default() }
    }
}

impl Pace {
    pub fn add(&self, len: u64) {
        self.add_at(self.began.elapsed().as_secs(), len);
    }

    /// Returns bytes per second, over the last seconds or since the first byte.
    pub fn speed(&self) -> u64 {
        self.speed_at(self.began.elapsed().as_secs_f64())
    }

    fn add_at(&self, second: u64, len: u64) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut slots[(second % WINDOW as u64) as usize];
        *slot = if slot.0 == second { (second, slot.1 + len) } else { (second, len) };
    }

    fn speed_at(&self, now: f64) -> u64 {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let first = (now as u64).saturating_sub(WINDOW as u64 - 1);
        let recent = || slots.iter().filter(|(second, len)| *second >= first && *len > 0);
        let Some(since) = recent().map(|(second, _)| *second).min() else { return 0 };
        let len: u64 = recent().map(|(_, len)| len).sum();
        // What came in a moment is not yet a speed.
        (len as f64 / (now - since as f64).max(1.0)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_seconds_count() {
        let pace = Pace::default();
        assert_eq!(pace.speed_at(0.0), 0);
        pace.add_at(0, 500);
        assert_eq!(pace.speed_at(0.1), 500, "a moment counts as a second");
        pace.add_at(1, 1500);
        assert_eq!(pace.speed_at(2.0), 1000);
        assert_eq!(pace.speed_at(4.0), 500);
        assert_eq!(pace.speed_at(5.5), 333, "the first second is too long ago");
        assert_eq!(pace.speed_at(6.0), 0);
        pace.add_at(1000, 8);
        assert_eq!(pace.speed_at(1000.5), 8);
    }
}
