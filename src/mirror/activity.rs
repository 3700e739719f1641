//! What the mirror is doing, for people who look.

use super::{Mirror, MirrorError};
use crate::hub::{Oid, RepoId};
use std::sync::Arc;

/// An object that is being fetched.
#[derive(Clone, Debug)]
pub struct Flight {
    pub oid: Oid,
    pub size: u64,
    /// Bytes of it that are in the store.
    pub present_len: u64,
    pub bytes_per_second: u64,
    /// Files that have it as their content, as resolve paths, and whether anybody may read them; the latest first.
    pub targets: Vec<(String, bool)>,
}

impl Mirror {
    /// Returns the objects that are being fetched now, the largest first.
    pub fn flights(&self) -> Vec<Flight> {
        let fills: Vec<_> = {
            let fills = self.fills.lock().unwrap_or_else(|e| e.into_inner());
            fills.values().filter_map(std::sync::Weak::upgrade).collect()
        };
        let flight = |fill: Arc<super::fill::Fill>| {
            let bytes_per_second = fill.speed()?;
            let object = &fill.object;
            let (oid, size, present_len) = (*object.oid(), object.size(), object.present_len());
            Some(Flight { oid, size, present_len, bytes_per_second, targets: fill.sources.targets() })
        };
        let mut flights: Vec<Flight> = fills.into_iter().filter_map(flight).collect();
        flights.sort_unstable_by(|a, b| b.size.cmp(&a.size).then_with(|| a.oid.cmp(&b.oid)));
        flights
    }

    /// Returns how often files of the repo were asked for, and how often all of the file was there.
    pub fn hits_of(&self, repo: &RepoId) -> (u64, u64) {
        self.hits.of(repo)
    }

    /// Returns the same of all repos together, since the start.
    pub fn hits_total(&self) -> (u64, u64) {
        self.hits.total()
    }

    /// Writes down what is counted in memory. Blocks.
    pub fn save_hits(&self) {
        self.hits.save(&self.store);
    }

    /// Tells whether upstream said last that anybody may read the repo. Not known is no. Blocks.
    pub fn is_known_open(&self, repo: &RepoId) -> Result<bool, MirrorError> {
        Ok(self.store.refs().get_access(repo)?.is_some_and(|access| access.open))
    }
}
