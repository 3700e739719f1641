//! The flights of one object: who wants what, what is on its way, who carries, and who is told when bytes land.
//!
//! A state machine behind one lock, without tasks, connections or disk, so that `tests/flights.rs` can run it through every order of
//! events it likes. That file compiles this one a second time: what it needs comes from `super`, locks above all.

use super::sync::{Mutex, MutexGuard};
use super::{Blocks, WhenClientLeaves};
use std::collections::BTreeMap;
use std::ops::Range;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A stream that ended for a reader behind it does so again only when it has come this many times as far.
const TURN_GROWTH: u64 = 2;

/// What is there of the object.
pub(super) trait Presence {
    fn blocks(&self) -> Blocks;
    fn is_present(&self, block: u64) -> bool;
    /// The first run of absent blocks within `range`.
    fn missing(&self, range: Range<u64>) -> Option<Range<u64>>;
}

/// Bounds of an object's flights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) couriers_max: usize,
    /// Blocks per flight at most.
    pub(super) run_blocks: u64,
    pub(super) when_client_leaves: WhenClientLeaves,
}

/// The flights of an object of which `P` tells what is there; `E` is why one failed.
pub(super) struct Flights<P, E> {
    presence: P,
    bounds: Bounds,
    state: Mutex<State<E>>,
    /// Rung when bytes land, a flight ends, or whoever holds this says so.
    bell: Notify,
}

struct State<E> {
    next_reader: u64,
    /// What each reader still wants; the start moves as it reads.
    wants: BTreeMap<u64, Range<u64>>,
    /// Wishes of readers that left, kept until they are fulfilled (`when_client_leaves: finish_request`).
    orphans: Vec<u64>,
    /// Readers whose wish failed, until they hear of it.
    failed: BTreeMap<u64, E>,
    /// Claimed runs by their first block.
    claims: BTreeMap<u64, Claim>,
    couriers: usize,
    /// A recruit waits for its turn. It has no claim yet, so one is enough, but without it work could lie undone while those
    /// who carry hang.
    recruit_waits: bool,
    /// Upstream was last seen to answer with the whole where a part was asked for: one courier at a time.
    serial: bool,
    /// A courier passes over the whole object, from its start.
    streams: bool,
    /// Where the last stream ended for a reader behind it; 0 once all was quiet.
    turned_at: u64,
    /// The object is over: nothing is claimed any more, and everybody hears why.
    over: Option<E>,
}

struct Claim {
    end_block: u64,
    /// Bytes up to here (an offset in the object) are in the file.
    landed: u64,
}

/// What a reader finds at its position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The block is in the store; it may still have to be checked.
    Block,
    /// Bytes up to this offset have landed in a running flight.
    Landed(u64),
    Nothing,
}

/// What a stream from the object's start finds at a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Nobody had it: it is claimed for the stream now.
    pub(super) claimed: bool,
    /// Somebody wants this block.
    pub(super) needed: bool,
    /// Somebody wants something that only the stream can bring, here or further on.
    pub(super) wanted: bool,
    /// No more blocks than this are wanted here and further on.
    pub(super) ahead: u64,
}

/// A courier to be started. Its place is taken already.
#[derive(Debug)]
pub(super) struct Recruit<T> {
    /// Its turn at upstream and its first run; without them it waits for its turn, says so by [`Flights::has_turn`], and claims.
    pub(super) ready: Option<(T, Range<u64>)>,
}

impl<P: Presence, E: Clone> Flights<P, E> {
    pub(super) fn new(presence: P, bounds: Bounds) -> Flights<P, E> {
        let state = State {
            next_reader: 0,
            wants: BTreeMap::new(),
            orphans: Vec::new(),
            failed: BTreeMap::new(),
            claims: BTreeMap::new(),
            couriers: 0,
            recruit_waits: false,
            serial: false,
            streams: false,
            turned_at: 0,
            over: None,
        };
        Flights { presence, bounds, state: Mutex::new(state), bell: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        // A panic elsewhere leaves plain data behind that is still consistent.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A wish for `span`, which stands until [`Flights::leave`]; then [`Flights::recruit`]. Also tells whether others are
    /// fetching there already.
    pub(super) fn want(&self, span: Range<u64>) -> (u64, bool) {
        let blocks = self.presence.blocks().covering(span.clone());
        let mut state = self.state();
        let joins = state.claims.range(..blocks.end).next_back().is_some_and(|(_, claim)| blocks.start < claim.end_block);
        let reader = state.next_reader;
        state.next_reader += 1;
        state.wants.insert(reader, span);
        (reader, joins)
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
        if unfinished && self.bounds.when_client_leaves == WhenClientLeaves::FinishRequest {
            state.orphans.push(reader);
            return;
        }
        state.wants.remove(&reader);
    }

    /// Whether a courier should go on with the bytes from `offset` to the end of that block.
    pub(super) fn is_wanted(&self, offset: u64, at_block_start: bool) -> bool {
        let blocks = self.presence.blocks();
        let block = blocks.span(blocks.of_offset(offset));
        let wanted = self.state().wants.values().any(|want| want.start < block.end && block.start < want.end);
        wanted || (!at_block_start && self.bounds.when_client_leaves != WhenClientLeaves::Stop)
    }

    /// What is there at `position`. `reader` hears of its failure only here: when it would have to wait.
    pub(super) fn look(&self, position: u64, reader: Option<u64>) -> Result<Found, E> {
        let block = self.presence.blocks().of_offset(position);
        let mut state = self.state();
        if let Some(error) = &state.over {
            return Err(error.clone());
        }
        if self.presence.is_present(block) {
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

    /// Whether the reader's wish still covers `position`: after a failure further on it may end before.
    pub(super) fn still_wants(&self, reader: u64, position: u64) -> bool {
        self.state().wants.get(&reader).is_some_and(|want| want.contains(&position))
    }

    /// Wakes at the next change; to be enabled before [`Flights::look`], so that no change is missed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.bell.notified()
    }

    /// Wakes all who wait.
    pub(super) fn ring(&self) {
        self.bell.notify_waiters();
    }

    /// The next courier to start, if there is work and room for one more. One may wait for its turn; the others start only
    /// when `try_turn` has one at once.
    pub(super) fn recruit<T>(&self, try_turn: impl FnOnce() -> Option<T>) -> Option<Recruit<T>> {
        let mut state = self.state();
        let couriers_max = if state.serial { 1 } else { self.bounds.couriers_max };
        if state.couriers >= couriers_max {
            return None;
        }
        let run = self.next_run(&state)?;
        let ready = match try_turn() {
            // It must hold its claim before anybody looks again, or the same run would still seem free.
            Some(turn) => Some((turn, self.claim_in(&mut state, run))),
            None if state.recruit_waits => return None,
            None => {
                state.recruit_waits = true;
                None
            }
        };
        state.couriers += 1;
        Some(Recruit { ready })
    }

    /// A recruit that had to wait has its turn now.
    pub(super) fn has_turn(&self) {
        self.state().recruit_waits = false;
    }

    /// Gives a courier's place up if the object has others.
    pub(super) fn leave_to_others(&self) -> bool {
        let mut state = self.state();
        let has_others = state.couriers > 1;
        if has_others {
            state.couriers -= 1;
        }
        has_others
    }

    /// The next run for a courier; `None` ends it (its place is given up under the same lock).
    pub(super) fn claim(&self) -> Option<Range<u64>> {
        let mut state = self.state();
        // Others that have heard nothing yet may not for long; only one that streams does this one's work as well.
        let is_spare = state.serial && state.streams;
        if let Some(run) = self.next_run(&state).filter(|_| !is_spare) {
            return Some(self.claim_in(&mut state, run));
        }
        state.couriers -= 1;
        // While others carry, a run of theirs may come back unfinished, and then the wish still counts.
        if state.couriers == 0 {
            for orphan in std::mem::take(&mut state.orphans) {
                state.wants.remove(&orphan);
            }
            state.turned_at = 0;
        }
        None
    }

    /// Upstream answers with the whole where a part was asked for. True: the caller passes over all of it, from the start, block
    /// by block ([`Flights::step`]), and says so when it ends. False: another one does already, and the caller's place is given up.
    pub(super) fn begin_stream(&self) -> bool {
        let mut state = self.state();
        state.serial = true;
        let begins = !std::mem::replace(&mut state.streams, true);
        if !begins {
            state.couriers -= 1;
        }
        begins
    }

    pub(super) fn end_stream(&self) {
        self.state().streams = false;
    }

    /// Upstream answers with the part that was asked for. True when that is news, and there may be work for more couriers.
    pub(super) fn ranges_work(&self) -> bool {
        std::mem::take(&mut self.state().serial)
    }

    /// Whether others hold claims of which nothing has landed yet: they may be about to learn what the stream knows.
    pub(super) fn others_are_undecided(&self) -> bool {
        let blocks = self.presence.blocks();
        self.state().claims.iter().any(|(start, claim)| claim.landed == blocks.span(*start).start)
    }

    /// What the stream does with the block it has come to; `None` when it need not go on, or should begin anew: a reader waits behind
    /// it, where another courier was to bring the block and did not. Without readers it goes on up to `unwanted_until`, if clients
    /// that left do not end flights.
    pub(super) fn step(&self, block: u64, unwanted_until: u64) -> Option<Step> {
        let blocks = self.presence.blocks();
        let mut state = self.state();
        if state.over.is_some() {
            return None;
        }
        // To begin anew costs those who wait ahead all that was passed. Each time so far must be twice as far as the last, so all times
        // together cost no more than twice the object.
        if block > 0 && block >= TURN_GROWTH * state.turned_at && self.waits_behind(&state, block) {
            state.turned_at = block;
            return None;
        }
        let wants: Vec<Range<u64>> = state.wants.values().map(|want| blocks.covering(want.clone())).collect();
        let wanted = wants.iter().any(|want| self.first_free(&state, want.start.max(block)..want.end).is_some());
        if !wanted {
            let may_go_on = self.bounds.when_client_leaves != WhenClientLeaves::Stop && block < unwanted_until;
            if !may_go_on || self.first_free(&state, block..blocks.count()).is_none() {
                return None;
            }
        }
        let free = self.first_free(&state, block..block + 1);
        let claimed = free.is_some();
        if let Some(run) = free {
            self.claim_in(&mut state, run);
        }
        let ahead = wants.iter().map(|want| want.end.saturating_sub(want.start.max(block))).sum();
        Some(Step { claimed, needed: wants.iter().any(|want| want.contains(&block)), wanted, ahead })
    }

    /// Whether a reader stands at a block before `block` that is absent, and that nobody brings.
    fn waits_behind(&self, state: &State<E>, block: u64) -> bool {
        let stands_at = |want: &Range<u64>| self.presence.blocks().of_offset(want.start);
        let readers = state.wants.iter().filter(|(reader, want)| !want.is_empty() && !state.orphans.contains(reader));
        let mut behind = readers.map(|(_, want)| stands_at(want)).filter(|at| *at < block);
        behind.any(|at| self.first_free(state, at..at + 1).is_some())
    }

    fn claim_in(&self, state: &mut State<E>, run: Range<u64>) -> Range<u64> {
        let landed = self.presence.blocks().span(run.start).start;
        state.claims.insert(run.start, Claim { end_block: run.end, landed });
        run
    }

    /// The missing, unclaimed run nearest to the reader that wants it.
    fn next_run(&self, state: &State<E>) -> Option<Range<u64>> {
        if state.over.is_some() {
            return None;
        }
        let mut nearest: Option<(u64, Range<u64>)> = None;
        for want in state.wants.values().filter(|want| !want.is_empty()) {
            let wanted = self.presence.blocks().covering(want.clone());
            let Some(run) = self.first_free(state, wanted.clone()) else { continue };
            let distance = run.start - wanted.start;
            if nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
                nearest = Some((distance, run));
            }
        }
        nearest.map(|(_, run)| run)
    }

    fn first_free(&self, state: &State<E>, wanted: Range<u64>) -> Option<Range<u64>> {
        let mut from = wanted.start;
        while from < wanted.end {
            let gap = self.presence.missing(from..wanted.end)?;
            let claim_over = state.claims.range(..=gap.start).next_back().filter(|(_, claim)| gap.start < claim.end_block);
            if let Some((_, claim)) = claim_over {
                from = claim.end_block;
                continue;
            }
            let next_claim = state.claims.range(gap.start..).next().map_or(u64::MAX, |(start, _)| *start);
            return Some(gap.start..gap.end.min(next_claim).min(gap.start + self.bounds.run_blocks));
        }
        None
    }

    /// Bytes of a run are in the file up to `offset`. Returns how many of them are new.
    pub(super) fn land(&self, run: &Range<u64>, offset: u64) -> u64 {
        let mut gained = 0;
        if let Some(claim) = self.state().claims.get_mut(&run.start) {
            gained = offset.saturating_sub(claim.landed);
            claim.landed = offset;
        }
        self.ring();
        gained
    }

    /// A claimed run is given back, whatever has become of it.
    pub(super) fn give_back(&self, run: &Range<u64>) {
        self.state().claims.remove(&run.start);
        self.ring();
    }

    /// The rest of a run could not be had: readers that stand at it are told. Those who have yet to come there want it no
    /// more, nor what lies behind; when they come there they will want again.
    pub(super) fn fail(&self, run: &Range<u64>, error: &E) {
        let blocks = self.presence.blocks();
        let span = blocks.span(run.start).start..blocks.span(run.end - 1).end;
        self.fail_where(error, |want| match want.start < span.end && span.start < want.end {
            true if want.start >= span.start => true,
            true => {
                want.end = span.start;
                false
            }
            false => false,
        });
    }

    /// A courier ended without giving up its place (it panicked): nobody may wait for it. `waited`: it was a recruit without its turn.
    pub(super) fn courier_died(&self, error: &E, waited: bool) {
        let mut state = self.state();
        state.couriers -= 1;
        if waited {
            state.recruit_waits = false;
        }
        drop(state);
        self.fail_where(error, |_| true);
    }

    fn fail_where(&self, error: &E, mut is_hit: impl FnMut(&mut Range<u64>) -> bool) {
        let mut state = self.state();
        let hit: Vec<u64> = state.wants.iter_mut().filter_map(|(reader, want)| is_hit(want).then_some(*reader)).collect();
        for reader in hit {
            state.wants.remove(&reader);
            match state.orphans.iter().position(|orphan| *orphan == reader) {
                Some(at) => drop(state.orphans.swap_remove(at)),
                None => drop(state.failed.insert(reader, error.clone())),
            }
        }
        drop(state);
        self.ring();
    }

    /// Ends it all: whoever looks from now on is told why.
    pub(super) fn end(&self, error: E) {
        self.state().over = Some(error);
        self.ring();
    }

    /// Why it is over, if it is.
    pub(super) fn over(&self) -> Option<E> {
        self.state().over.clone()
    }

    /// Couriers at work and runs claimed: both 0 when all is quiet.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.couriers, state.claims.len())
    }
}
