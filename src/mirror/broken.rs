//! Objects that proved not to be what upstream or the disk said: how often, and what of them cannot be put out of the way.

use crate::hub::Oid;
use crate::store::{Object, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Objects of which something is remembered.
const OIDS_MAX: u64 = 100_000;
/// So many times upstream may give other bytes than it promised, within so long, before the object is refused.
const MISMATCHES_MAX: u32 = 3;
const MISMATCHED_FOR: Duration = Duration::from_secs(300);
/// Each is an open file. Beyond that, and after so long, one is judged anew.
const STUCK_MAX: u64 = 64;
const STUCK_FOR: Duration = Duration::from_secs(3600);
/// So often bytes come at another size than what is kept, and is not proven either, before that gives way.
const UNCLEAR_MAX: u32 = 3;
const UNCLEAR_FOR: Duration = Duration::from_secs(3600);

/// What is remembered of broken objects, over all fills. Clones share it.
#[derive(Clone)]
pub(super) struct Broken {
    store: Arc<Store>,
    /// Fetching them over and over would only move bytes.
    mismatched: moka::sync::Cache<Oid, u32>,
    /// Wrong, and still under their names: they must not be opened, hashed and refused again and again.
    stuck: moka::sync::Cache<Oid, Arc<Stuck>>,
    /// The size at which bytes came last, and how often.
    unclear: moka::sync::Cache<Oid, (u64, u32)>,
    /// Whether there was ever anything stuck or unclear: most mirrors never look it up.
    any: Arc<AtomicBool>,
}

struct Stuck {
    object: Arc<Object>,
    reason: String,
}

impl Broken {
    pub(super) fn new(store: Arc<Store>) -> Broken {
        let mismatched = moka::sync::Cache::builder().max_capacity(OIDS_MAX).time_to_live(MISMATCHED_FOR).build();
        let stuck = moka::sync::Cache::builder().max_capacity(STUCK_MAX).time_to_live(STUCK_FOR).build();
        let unclear = moka::sync::Cache::builder().max_capacity(OIDS_MAX).time_to_idle(UNCLEAR_FOR).build();
        Broken { store, mismatched, stuck, unclear, any: Arc::default() }
    }

    /// Whether the object was something else time after time.
    pub(super) fn is_hopeless(&self, oid: &Oid) -> bool {
        self.mismatched.get(oid).unwrap_or(0) >= MISMATCHES_MAX
    }

    /// The whole has its hash.
    pub(super) fn is_right(&self, oid: &Oid) {
        self.mismatched.invalidate(oid);
    }

    /// Sets the object aside, whose bytes are not what its name says. Blocking.
    pub(super) fn condemn(&self, object: &Arc<Object>, reason: String) {
        let oid = *object.oid();
        self.mismatched.entry(oid).and_upsert_with(|count| count.map_or(1, |count| count.into_value() + 1));
        if let Err(error) = self.store.quarantine_object(object, &reason) {
            log::error!("cannot set aside object={oid}, it is served past the disk: {error}");
            self.any.store(true, Ordering::Release);
            self.stuck.insert(oid, Arc::new(Stuck { object: object.clone(), reason }));
        }
    }

    /// Whether something of the object is known to be wrong and lies where it would be opened.
    pub(super) fn is_stuck(&self, oid: &Oid) -> bool {
        self.any.load(Ordering::Acquire) && self.stuck.contains_key(oid)
    }

    /// Tries again to set it aside, unless something else lies there now; whether it is out of the way. Blocking.
    pub(super) fn unstick(&self, oid: &Oid) -> bool {
        let Some(stuck) = self.stuck.get(oid) else { return true };
        let done = self.store.quarantine_object(&stuck.object, &stuck.reason);
        if done.is_ok() {
            self.stuck.invalidate(oid);
        }
        done.is_ok()
    }

    /// The object is used at the size that is kept.
    pub(super) fn is_clear(&self, oid: &Oid) {
        if self.any.load(Ordering::Acquire) && self.unclear.contains_key(oid) {
            self.unclear.invalidate(oid);
        }
    }

    /// Upstream has begun to give the object at another size than what is kept of it. Parts prove nothing; but when that comes
    /// again and again and nobody is told the other size any more, it gives way, or nothing would be kept for ever. Blocking.
    pub(super) fn comes_at(&self, oid: &Oid, size: u64) {
        self.any.store(true, Ordering::Release);
        let again = |count: Option<(u64, u32)>| count.filter(|(last, _)| *last == size).map_or(1, |(_, count)| count + 1);
        let counted = self.unclear.entry(*oid).and_upsert_with(|entry| (size, again(entry.map(|entry| entry.into_value()))));
        if counted.into_value().1 < UNCLEAR_MAX {
            return;
        }
        match self.store.give_way(oid, size) {
            Ok(_) => self.unclear.invalidate(oid),
            Err(error) => log::warn!("cannot set aside what is kept of object={oid} at another size than {size}: {error}"),
        }
    }

    /// A whole of this size has the object's hash. Blocking.
    pub(super) fn is_proven_at(&self, oid: &Oid, size: u64) {
        if let Err(error) = self.store.disprove(oid, size) {
            log::warn!("cannot set aside what is kept of object={oid} at another size than {size}: {error}");
        }
    }
}
