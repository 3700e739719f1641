//! Brings an object's missing blocks: who wants what, what is on its way, and who is told when bytes land.
//!
//! One [`Fill`] exists per live object. Readers say which span they still want; runs of missing blocks are claimed by
//! couriers (tasks, one upstream connection each), nearest to its reader first. A claimed block is never claimed twice,
//! so a block has one flight whoever asks. Couriers are their own tasks and outlive the client that caused them.

use super::Sources;
use super::courier;
use super::error::MirrorError;
use crate::config::WhenClientLeaves;
use crate::metrics::metrics;
use crate::store::{Object, ObjectHasher, Store, StoreError, Verdict};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore};

/// How many blocks one published block may drag through the hasher behind it: enough to catch up with what an earlier
/// process left, little enough that the courier is not held up.
const HASH_STEP_BLOCKS: u64 = 8;

/// Bounds of all fills together.
pub(super) struct Limits {
    pub(super) connections: Arc<Semaphore>,
    pub(super) connections_per_object: usize,
    pub(super) run_size: u64,
    pub(super) attempts: u64,
    pub(super) when_client_leaves: WhenClientLeaves,
}

/// The filling of one object.
pub(super) struct Fill {
    pub(super) object: Arc<Object>,
    pub(super) limits: Arc<Limits>,
    pub(super) sources: Sources,
    store: Arc<Store>,
    state: Mutex<State>,
    /// The running hash of the object's start; taken with `try_lock` by whoever published a block.
    prefix: Mutex<Prefix>,
    /// Woken when bytes land, a courier fails, or the object's verdict is known.
    landed: Notify,
}

#[derive(Default)]
struct State {
    next_reader: u64,
    /// What each reader still wants; the start moves as it reads.
    wants: BTreeMap<u64, Range<u64>>,
    /// Wishes of readers that left, kept until they are fulfilled (`when_client_leaves: finish_request`).
    orphans: Vec<u64>,
    /// Readers whose wish failed, until they hear of it.
    failed: BTreeMap<u64, MirrorError>,
    /// Claimed runs by their first block.
    claims: BTreeMap<u64, Claim>,
    couriers: usize,
    verifying: bool,
    /// The whole is not what its name says: this fill is over.
    broken: Option<MirrorError>,
}

struct Claim {
    end_block: u64,
    /// Bytes up to here (an offset in the object) are in the file.
    landed: u64,
}

struct Prefix {
    hasher: Option<ObjectHasher>,
    next_block: u64,
}

/// What a reader finds at its position.
pub(super) enum Found {
    /// The block is in the store; it may still have to be checked.
    Block,
    /// Bytes up to this offset have landed in a running flight.
    Landed(u64),
    Nothing,
}

impl Fill {
    pub(super) fn new(object: Arc<Object>, store: Arc<Store>, sources: Sources, limits: Arc<Limits>) -> Arc<Fill> {
        let hasher = Some(ObjectHasher::new(object.oid(), object.size()));
        let prefix = Mutex::new(Prefix { hasher, next_block: 0 });
        let fill = Arc::new(Fill { object, limits, sources, store, state: Mutex::default(), prefix, landed: Notify::new() });
        // Complete but unproven: the process ended between the last block and the verdict.
        if fill.object.is_complete() && !fill.object.is_verified() {
            fill.verify();
        }
        fill
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves plain data behind that is still consistent.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A wish for `span`; the returned number stands for it until [`Fill::leave`].
    pub(super) fn want(self: &Arc<Self>, span: Range<u64>) -> u64 {
        let mut state = self.state();
        let reader = state.next_reader;
        state.next_reader += 1;
        if state.claims.values().any(|c| self.object.blocks().of_offset(span.start) < c.end_block) {
            metrics().blocks_joined.inc();
        }
        state.wants.insert(reader, span);
        drop(state);
        self.dispatch();
        reader
    }

    /// The reader has come to `position`.
    pub(super) fn advance(&self, reader: u64, position: u64) {
        if let Some(want) = self.state().wants.get_mut(&reader) {
            want.start = position.min(want.end);
        }
    }

    /// The reader is gone: it read all, or its client left.
    pub(super) fn leave(&self, reader: u64) {
        let mut state = self.state();
        state.failed.remove(&reader);
        let unfinished = state.wants.get(&reader).is_some_and(|want| !want.is_empty());
        // The wish of a client that left stays as nobody's, and ends when it is fulfilled or fails.
        if unfinished && self.limits.when_client_leaves == WhenClientLeaves::FinishRequest {
            state.orphans.push(reader);
            return;
        }
        state.wants.remove(&reader);
    }

    /// Whether a courier should go on with the bytes from `offset` to the end of that block.
    pub(super) fn is_wanted(&self, offset: u64, at_block_start: bool) -> bool {
        let block = self.object.blocks().span(self.object.blocks().of_offset(offset));
        let wanted = self.state().wants.values().any(|want| want.start < block.end && block.start < want.end);
        wanted || (!at_block_start && self.limits.when_client_leaves != WhenClientLeaves::Stop)
    }

    /// What is there at `position`. `reader` hears of its failure only here: when it would have to wait.
    pub(super) fn look(&self, position: u64, reader: Option<u64>) -> Result<Found, MirrorError> {
        let block = self.object.blocks().of_offset(position);
        let mut state = self.state();
        if let Some(broken) = &state.broken {
            return Err(broken.clone());
        }
        if self.object.is_present(block) {
            return Ok(Found::Block);
        }
        if let Some((_, claim)) = state.claims.range(..=block).next_back()
            && block < claim.end_block
            && position < claim.landed
        {
            return Ok(Found::Landed(claim.landed));
        }
        match reader.and_then(|reader| state.failed.remove(&reader)) {
            Some(error) => Err(error),
            None => Ok(Found::Nothing),
        }
    }

    /// Wakes at the next change; to be created before [`Fill::look`], so that no change is missed.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.landed.notified()
    }

    /// Starts couriers while there is work and room. The first one of an object waits for its turn among all; further
    /// ones are taken only if they are free at once.
    pub(super) fn dispatch(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if state.couriers >= self.limits.connections_per_object || self.next_run(&state).is_none() {
                return;
            }
            let permit = match state.couriers {
                0 => None,
                _ => match self.limits.connections.clone().try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => return,
                },
            };
            state.couriers += 1;
            // The new courier must hold its claim before this loop looks again, or it would see the same run still free.
            let first = match permit {
                None => None,
                Some(_) => self.claim_in(&mut state),
            };
            let waits_for_turn = permit.is_none();
            drop(state);
            tokio::spawn(courier::work(self.clone(), permit, first));
            if waits_for_turn {
                return;
            }
        }
    }

    /// The next run for a courier; `None` ends it (its place is given up under the same lock).
    pub(super) fn claim(self: &Arc<Self>) -> Option<Run> {
        let mut state = self.state();
        let run = self.claim_in(&mut state);
        if run.is_none() {
            state.couriers -= 1;
            for orphan in std::mem::take(&mut state.orphans) {
                state.wants.remove(&orphan);
            }
        }
        run
    }

    fn claim_in(self: &Arc<Self>, state: &mut State) -> Option<Run> {
        let blocks = self.next_run(state)?;
        let start = self.object.blocks().span(blocks.start).start;
        state.claims.insert(blocks.start, Claim { end_block: blocks.end, landed: start });
        metrics().flights.inc();
        Some(Run { fill: self.clone(), blocks })
    }

    /// The missing, unclaimed run nearest to the reader that wants it.
    fn next_run(&self, state: &State) -> Option<Range<u64>> {
        if state.broken.is_some() {
            return None;
        }
        let blocks = self.object.blocks();
        let run_blocks = (self.limits.run_size / blocks.block_size).max(1);
        let mut nearest: Option<(u64, Range<u64>)> = None;
        for want in state.wants.values().filter(|want| !want.is_empty()) {
            let wanted = blocks.covering(want.clone());
            let Some(run) = self.first_free(state, wanted.clone(), run_blocks) else { continue };
            let distance = run.start - wanted.start;
            if nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
                nearest = Some((distance, run));
            }
        }
        nearest.map(|(_, run)| run)
    }

    fn first_free(&self, state: &State, wanted: Range<u64>, run_blocks: u64) -> Option<Range<u64>> {
        let mut from = wanted.start;
        while from < wanted.end {
            let gap = self.object.missing(from..wanted.end)?;
            let claim_over = state.claims.range(..=gap.start).next_back().filter(|(_, c)| gap.start < c.end_block);
            if let Some((_, claim)) = claim_over {
                from = claim.end_block;
                continue;
            }
            let next_claim = state.claims.range(gap.start..).next().map_or(u64::MAX, |(start, _)| *start);
            return Some(gap.start..gap.end.min(next_claim).min(gap.start + run_blocks));
        }
        None
    }

    /// Bytes of a run are in the file up to `offset`.
    pub(super) fn land(&self, run: &Run, offset: u64) {
        if let Some(claim) = self.state().claims.get_mut(&run.blocks.start) {
            claim.landed = offset;
        }
        self.landed.notify_waiters();
    }

    /// The rest of a run could not be had: all who want any of it are told, and it is not tried again for them.
    pub(super) fn fail(&self, run: &Run, error: MirrorError) {
        let blocks = self.object.blocks();
        let span = blocks.span(run.blocks.start).start..blocks.span(run.blocks.end - 1).end;
        let mut state = self.state();
        let hit: Vec<u64> =
            state.wants.iter().filter(|(_, w)| w.start < span.end && span.start < w.end).map(|(id, _)| *id).collect();
        for reader in hit {
            state.wants.remove(&reader);
            state.failed.insert(reader, error.clone());
        }
        drop(state);
        self.landed.notify_waiters();
    }

    /// A courier ended without giving up its place (it panicked): nobody may wait for it.
    pub(super) fn courier_died(&self) {
        let mut state = self.state();
        state.couriers -= 1;
        for reader in std::mem::take(&mut state.wants).into_keys() {
            state.failed.insert(reader, MirrorError::Store("a fill ended unexpectedly; see the log".into()));
        }
        drop(state);
        self.landed.notify_waiters();
    }

    /// Moves the running hash over the published blocks behind it; then, if all is there, asks for the verdict. Blocking.
    pub(super) fn hash_on(self: &Arc<Self>) {
        if let Ok(mut prefix) = self.prefix.try_lock() {
            self.hash_blocks(&mut prefix, HASH_STEP_BLOCKS);
        }
        if self.object.is_complete() && !self.object.is_verified() {
            self.verify();
        }
    }

    fn hash_blocks(&self, prefix: &mut Prefix, step_blocks: u64) {
        let Some(hasher) = prefix.hasher.as_mut() else { return };
        let blocks = self.object.blocks();
        let mut buffer = Vec::new();
        for _ in 0..step_blocks {
            let block = prefix.next_block;
            if block >= blocks.count() || !self.object.is_present(block) {
                return;
            }
            let span = blocks.span(block);
            buffer.resize((span.end - span.start) as usize, 0);
            if self.object.read_at(span.start, &mut buffer).is_err() {
                return;
            }
            hasher.update(&buffer);
            prefix.next_block += 1;
        }
    }

    /// Proves the complete object against its name, in the background; readers hold its last bytes back until then.
    fn verify(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.verifying || state.broken.is_some() {
                return;
            }
            state.verifying = true;
        }
        let fill = self.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = fill.judge();
            let mut state = fill.state();
            state.verifying = false;
            if let Err(error) = outcome {
                state.broken = Some(error);
            }
            drop(state);
            fill.landed.notify_waiters();
        });
    }

    fn judge(&self) -> Result<(), MirrorError> {
        let mut prefix = self.prefix.lock().unwrap_or_else(|e| e.into_inner());
        self.hash_blocks(&mut prefix, u64::MAX);
        let all_hashed = prefix.next_block == self.object.blocks().count();
        let right = all_hashed && prefix.hasher.take().is_some_and(|hasher| hasher.matches().is_ok());
        drop(prefix);
        let store_failed = |e: StoreError| MirrorError::Store(e.to_string());
        if right {
            self.object.set_verified(true).map_err(store_failed)?;
            metrics().objects_verified.inc();
            return Ok(());
        }
        // The running hash may have been spoilt by a block that rotted; the whole is read once more, block by block.
        match self.object.verify_whole(&mut |_| {}).map_err(store_failed)? {
            Verdict::Verified => {
                metrics().objects_verified.inc();
                Ok(())
            }
            Verdict::Incomplete { absent } => {
                // Rot, already made absent: those blocks are fetched again by whoever wants them, and then judged again.
                metrics().blocks_broken.inc_by(absent);
                let mut prefix = self.prefix.lock().unwrap_or_else(|e| e.into_inner());
                *prefix = Prefix { hasher: Some(ObjectHasher::new(self.object.oid(), self.object.size())), next_block: 0 };
                Ok(())
            }
            Verdict::Mismatch { found } => {
                metrics().objects_broken.inc();
                let reason = format!("the content's hash is {found}");
                log::warn!("set aside object={} reason={reason:?}", self.object.oid());
                self.store.quarantine_object(&self.object, &reason).map_err(store_failed)?;
                Err(MirrorError::Mismatch { oid: *self.object.oid(), found })
            }
        }
    }

    /// Whether the fill is over because its object is broken, or because its file was removed: nobody new may join it.
    pub(super) fn is_broken(&self) -> bool {
        self.object.is_gone() || self.state().broken.is_some()
    }
}

/// A claimed run of blocks; given back when dropped, whatever has become of it.
pub(super) struct Run {
    fill: Arc<Fill>,
    pub(super) blocks: Range<u64>,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.fill.state().claims.remove(&self.blocks.start);
        metrics().flights.dec();
        self.fill.landed.notify_waiters();
    }
}
