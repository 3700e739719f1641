//! Brings an object's missing blocks, and proves the whole once it is there.
//!
//! One [`Fill`] exists per live object. Readers say which span they still want ([`Flights`] keeps the books); runs of missing
//! blocks are claimed by couriers (tasks, one upstream connection each), nearest to its reader first. A claimed block is never
//! claimed twice, so a block has one flight whoever asks. Couriers are their own tasks and outlive the client that caused them.

use super::Sources;
use super::broken::Broken;
use super::courier;
use super::error::MirrorError;
use super::flights::{Bounds, Flights, Found, Presence, Step};
use super::limits::Limits;
use super::pace::Pace;
use crate::alarms::{Alarm, raise};
use crate::metrics::metrics;
use crate::store::{Blocks, Object, ObjectHasher, Room, Store, StoreError, Verdict};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How many bytes one published block may drag through the hasher behind it: enough to catch up with what came out of
/// order, little enough that the courier is not held up. At least one block.
const HASH_STEP_LEN: u64 = 8 << 20;
/// So many verdicts in a row may find blocks that rotted since they were written. A disk that spoils whatever it is given would
/// otherwise have it fetched without an end.
const ROTTED_MAX: u32 = 8;
/// For so long after a reader has left, a block that is begun may be followed by the next of its run: clients leave and come back at
/// once (Ollama, to ask for ranges), and what upstream has sent by then would be thrown away and sent again.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes read at once for the hash: few enough that they are still in the processor's cache when they are hashed.
const HASH_PIECE_LEN: u64 = 128 << 10;

/// The filling of one object.
pub(super) struct Fill {
    pub(super) object: Arc<Object>,
    pub(super) limits: Arc<Limits>,
    pub(super) sources: Arc<Sources>,
    store: Arc<Store>,
    broken: Broken,
    flights: Flights<Arc<Object>, MirrorError>,
    pace: Pace,
    judging: Mutex<Judging>,
    /// When a reader left last.
    left_at: Mutex<Option<Instant>>,
    trouble: Mutex<Option<MirrorError>>,
    /// The running hash of the object's start; taken with `try_lock` by whoever published a block.
    prefix: Mutex<Prefix>,
}

/// How far the proof of the whole is.
#[derive(Default)]
struct Judging {
    verifying: bool,
    /// Why the last verification could not be ended; the next one tries again.
    unjudged: Option<MirrorError>,
    /// How many verdicts in a row found rot.
    rotted: u32,
    /// The hash is being brought up to what is present already.
    catching_up: bool,
}

struct Prefix {
    hasher: Option<ObjectHasher>,
    next_block: u64,
    /// Of the object when the hash began. Once another block was retracted, what was hashed may not be what is there.
    retract_count: u64,
}

impl Prefix {
    fn new(object: &Object) -> Prefix {
        let hasher = Some(ObjectHasher::new(object.oid(), object.size()));
        Prefix { retract_count: object.retract_count(), hasher, next_block: 0 }
    }
}

impl Presence for Arc<Object> {
    fn blocks(&self) -> Blocks {
        self.as_ref().blocks()
    }

    fn is_present(&self, block: u64) -> bool {
        self.as_ref().is_present(block)
    }

    fn missing(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.as_ref().missing(range)
    }
}

impl Fill {
    pub(super) fn new(
        object: Arc<Object>,
        store: Arc<Store>,
        sources: Arc<Sources>,
        limits: Arc<Limits>,
        broken: Broken,
    ) -> Arc<Fill> {
        let prefix = Mutex::new(Prefix::new(&object));
        let bounds = Bounds {
            couriers_max: limits.couriers_max,
            run_blocks: (limits.run_size / object.blocks().block_size).max(1),
            when_client_leaves: limits.when_client_leaves,
        };
        let flights = Flights::new(object.clone(), bounds);
        let (judging, left_at, trouble) = (Mutex::default(), Mutex::default(), Mutex::default());
        let pace = Pace::default();
        let fill = Arc::new(Fill { object, limits, sources, store, broken, flights, pace, judging, left_at, trouble, prefix });
        // Complete but unproven: the process ended between the last block and the verdict.
        if fill.object.is_complete() && !fill.object.is_verified() {
            fill.verify();
        }
        fill
    }

    fn judging(&self) -> MutexGuard<'_, Judging> {
        self.judging.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A wish for `span`; the returned number stands for it until [`Fill::leave`].
    pub(super) fn want(self: &Arc<Self>, span: Range<u64>) -> u64 {
        let to_the_end = span.end == self.object.size();
        let (reader, joins) = self.flights.want(span);
        if joins {
            metrics().blocks_joined.inc();
        }
        self.dispatch();
        if to_the_end {
            self.catch_up();
        }
        reader
    }

    /// The reader has come to `position`.
    pub(super) fn advance(&self, reader: u64, position: u64) {
        self.flights.advance(reader, position);
    }

    /// The reader is gone: it read all, or its client left.
    pub(super) fn leave(&self, reader: u64) {
        *self.left_at.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now());
        self.flights.leave(reader);
    }

    /// Whether a courier should go on with the bytes from `offset` to the end of that block.
    pub(super) fn is_wanted(&self, offset: u64, at_block_start: bool) -> bool {
        let lingers = || {
            let left_at = *self.left_at.lock().unwrap_or_else(|e| e.into_inner());
            left_at.is_some_and(|left_at| left_at.elapsed() < LINGER)
        };
        self.flights.is_wanted(offset, at_block_start && !lingers())
    }

    /// What is there at `position`. `reader` hears of its failure only here: when it would have to wait.
    pub(super) fn look(&self, position: u64, reader: Option<u64>) -> Result<Found, MirrorError> {
        self.flights.look(position, reader)
    }

    /// Wakes at the next change; to be enabled before [`Fill::look`], so that no change is missed.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.flights.changed()
    }

    /// Starts couriers while there is work and room.
    pub(super) fn dispatch(self: &Arc<Self>) {
        while let Some(recruit) = self.flights.recruit(|| self.limits.turns.try_further()) {
            let ready = recruit.ready.map(|(turn, blocks)| (turn, Run::new(self, blocks)));
            let waits = ready.is_none();
            tokio::spawn(courier::work(self.clone(), ready));
            if waits {
                return;
            }
        }
    }

    /// Starts couriers if nobody carries: what a reader waits for was there when the last one ended, and has rotted since.
    pub(super) fn dispatch_if_idle(self: &Arc<Self>) {
        if self.flights.load().0 == 0 {
            self.dispatch();
        }
    }

    /// Gives a courier's place up if the object has others.
    pub(super) fn leave_to_others(&self) -> bool {
        self.flights.leave_to_others()
    }

    /// The next run for a courier; `None` ends it: its place is given up.
    pub(super) fn claim(self: &Arc<Self>) -> Option<Run> {
        self.flights.claim().map(|blocks| Run::new(self, blocks))
    }

    /// Bytes of a run are in the file up to `offset`.
    pub(super) fn land(&self, run: &Run, offset: u64) {
        self.pace.add(self.flights.land(&run.blocks, offset));
    }

    /// Bytes per second that come at the moment; none when nothing is on its way.
    pub(super) fn speed(&self) -> Option<u64> {
        (self.flights.load() != (0, 0)).then(|| self.pace.speed())
    }

    /// These blocks could not be had: see [`Flights::fail`].
    pub(super) fn fail(&self, blocks: &Range<u64>, error: &MirrorError) {
        self.flights.fail(blocks, error);
    }

    /// See [`Flights::begin_stream`].
    pub(super) fn begin_stream(self: &Arc<Self>) -> Option<Stream> {
        self.flights.begin_stream().then(|| Stream { fill: self.clone() })
    }

    /// Upstream answers with the part that was asked for.
    pub(super) fn ranges_work(self: &Arc<Self>) {
        if self.flights.ranges_work() {
            self.dispatch();
        }
    }

    /// Makes room for `len` bytes more, or says that there is none. Blocking where others must go for it.
    pub(super) fn make_room(&self, len: u64) -> Result<Room, MirrorError> {
        let room = self.store.make_room(len, self.object.size())?;
        Ok(room.ok_or_else(|| StoreError::NoRoom { what: format!("object {}", self.object.oid()) })?)
    }

    /// Notes that a reader was given these bytes.
    pub(super) fn touch_span(&self, span: Range<u64>) {
        self.store.touch_span(&self.object, span);
    }

    /// Whether there is room for `len` bytes more without evicting anything. Blocking.
    pub(super) fn has_room(&self, len: u64) -> Result<bool, MirrorError> {
        Ok(self.store.has_room(len)?)
    }

    /// The error to expect when a reader wants more than can ever be kept: it is served past the disk from the start, rather than
    /// when the disk is full of what is of no use to anybody.
    pub(super) fn cannot_keep(&self, absent_len: u64) -> Option<StoreError> {
        let len_max = self.store.limits().kept_len_max;
        // What was absent may be present by now.
        let len = self.object.present_len().saturating_add(absent_len).min(self.object.size());
        let what = || format!("object {}", self.object.oid());
        (len_max > 0 && len > len_max).then(|| StoreError::TooLarge { what: what(), len, len_max })
    }

    /// A courier that had to wait has its turn.
    pub(super) fn has_turn(&self) {
        self.flights.has_turn();
    }

    /// Whether the reader's wish still covers `position`.
    pub(super) fn still_wants(&self, reader: u64, position: u64) -> bool {
        self.flights.still_wants(reader, position)
    }

    /// Takes note of what goes wrong upstream while it is tried again, or that it has stopped going wrong.
    pub(super) fn set_trouble(&self, trouble: Option<MirrorError>) {
        *self.trouble.lock().unwrap_or_else(|e| e.into_inner()) = trouble;
    }

    /// What goes wrong upstream at the moment.
    pub(super) fn trouble(&self) -> Option<MirrorError> {
        self.trouble.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// See [`Flights::courier_died`].
    pub(super) fn courier_died(&self, waited: bool) {
        self.flights.courier_died(&MirrorError::Internal("a fill ended unexpectedly".into()), waited);
    }

    /// Moves the running hash over the published blocks behind it; then, if all is there, asks for the verdict. Blocking.
    pub(super) fn hash_on(self: &Arc<Self>) {
        if let Ok(mut prefix) = self.prefix.try_lock() {
            self.hash_blocks(&mut prefix, HASH_STEP_LEN);
        }
        if self.object.is_complete() && !self.object.is_verified() {
            self.verify();
        }
    }

    /// Hashes what is there of the next `step_len` bytes, whole blocks and at least one.
    fn hash_blocks(&self, prefix: &mut Prefix, step_len: u64) {
        let Some(hasher) = prefix.hasher.as_mut() else { return };
        let blocks = self.object.blocks();
        let mut buffer = Vec::new();
        let mut left = step_len;
        while left > 0 && prefix.next_block < blocks.count() && self.object.is_present(prefix.next_block) {
            let span = blocks.span(prefix.next_block);
            for offset in span.clone().step_by(HASH_PIECE_LEN as usize) {
                buffer.resize(HASH_PIECE_LEN.min(span.end - offset) as usize, 0);
                if self.object.read_unproven(offset, &mut buffer).is_err() {
                    // Half a block is in the hash now: it is of no use any more.
                    prefix.hasher = None;
                    return;
                }
                hasher.update(&buffer);
            }
            prefix.next_block += 1;
            left = left.saturating_sub(span.end - span.start);
        }
    }

    /// Brings the hash up to what an earlier process left, beside the fetching: or the last bytes would wait for it.
    fn catch_up(self: &Arc<Self>) {
        let starts = self.object.is_present(0) && !self.object.is_verified();
        if !starts || std::mem::replace(&mut self.judging().catching_up, true) {
            return;
        }
        let fill = self.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                let mut prefix = fill.prefix.lock().unwrap_or_else(|e| e.into_inner());
                let before = prefix.next_block;
                fill.hash_blocks(&mut prefix, HASH_STEP_LEN);
                if prefix.next_block == before {
                    break;
                }
            }
            fill.judging().catching_up = false;
        });
    }

    /// Proves the complete object against its name, in the background; readers hold its last bytes back until then.
    pub(super) fn verify(self: &Arc<Self>) {
        {
            let mut judging = self.judging();
            // A file that was removed meanwhile can still be judged, by those who read it.
            if judging.verifying || self.flights.over().is_some() {
                return;
            }
            judging.verifying = true;
            judging.unjudged = None;
        }
        let fill = self.clone();
        tokio::task::spawn_blocking(move || {
            loop {
                // A panic must not leave the object marked as being verified, or its readers would wait in vain.
                let outcome = catch_unwind(AssertUnwindSafe(|| fill.judge()))
                    .unwrap_or_else(|_| Err(MirrorError::Internal("a verification ended unexpectedly".into())));
                let mut judging = fill.judging();
                // A block that rotted may be fetched again while we judge, and completes the object anew: that asks for a new
                // verdict, which nobody else would start, for we are still marked as verifying.
                if outcome.is_ok() && fill.object.is_complete() && !fill.object.is_verified() {
                    continue;
                }
                judging.verifying = false;
                match outcome {
                    Ok(()) => {}
                    Err(error @ (MirrorError::Mismatch { .. } | MirrorError::Rotten { .. })) => fill.flights.end(error),
                    Err(error) => {
                        log::warn!("cannot verify object={} error={:?}", fill.object.oid(), error.to_string());
                        // Not a failure of the disk to get around: what is not judged is not given out.
                        judging.unjudged = Some(MirrorError::Internal(format!("it cannot be verified: {error}")));
                    }
                }
                break;
            }
            // Of what was found to have rotted, readers may wait for blocks that nobody was to bring.
            fill.dispatch();
            fill.flights.ring();
        });
    }

    /// Whether the whole is proven, or cannot be at the moment (`Err`).
    pub(super) fn verdict(&self) -> Result<bool, MirrorError> {
        match self.flights.over().or_else(|| self.judging().unjudged.clone()) {
            Some(error) => Err(error),
            None => Ok(self.object.is_verified()),
        }
    }

    fn judge(&self) -> Result<(), MirrorError> {
        let _timer = metrics().verify_seconds.start_timer();
        let mut prefix = self.prefix.lock().unwrap_or_else(|e| e.into_inner());
        self.hash_blocks(&mut prefix, u64::MAX);
        let all_hashed = prefix.next_block == self.object.blocks().count();
        let right = all_hashed && prefix.hasher.take().is_some_and(|hasher| hasher.matches().is_ok());
        let retract_count = prefix.retract_count;
        drop(prefix);
        // Not when a block has rotted and been fetched again since: the hash is of what was there before.
        if right && self.object.accept_whole(retract_count)? {
            self.proven();
            return Ok(());
        }
        // The whole is read once more, block by block, each held to its checksum.
        match self.object.verify_whole(&mut |_| {})? {
            Verdict::Verified => {
                self.proven();
                Ok(())
            }
            Verdict::Incomplete { absent } => {
                // Rot, already made absent: those blocks are fetched again by whoever wants them, and then judged again.
                metrics().blocks_broken.inc_by(absent);
                raise(|| Alarm::Corruption { what: format!("{absent} blocks of object {} on the disk", self.object.oid()) });
                self.hash_anew();
                let rotted = {
                    let mut judging = self.judging();
                    judging.rotted += 1;
                    judging.rotted
                };
                if rotted < ROTTED_MAX {
                    return Ok(());
                }
                metrics().objects_broken.inc();
                self.broken.condemn(&self.object, "its blocks rot as soon as they are written".into());
                Err(MirrorError::Rotten { oid: *self.object.oid() })
            }
            Verdict::Mismatch { found } => Err(self.condemn(found)),
        }
    }

    /// Sets the object aside, whose bytes are not what its name says.
    fn condemn(&self, found: String) -> MirrorError {
        metrics().objects_broken.inc();
        let oid = *self.object.oid();
        raise(|| Alarm::Corruption { what: format!("object {oid} has the hash {found} and was set aside") });
        self.sources.doubt();
        // Whatever becomes of the file: it is wrong, and nobody may be given its end.
        self.broken.condemn(&self.object, format!("the content's hash is {found}"));
        MirrorError::Mismatch { oid, found }
    }

    /// Ends the fill of an object that proved wrong outside of a verification.
    pub(super) fn end_as_broken(&self, found: String) -> MirrorError {
        let error = self.condemn(found);
        self.flights.end(error.clone());
        error
    }

    /// Hashes the object's first `len` bytes, whatever of them is published. Blocking.
    pub(super) fn hash_start(&self, len: u64) -> Result<ObjectHasher, StoreError> {
        let mut hasher = ObjectHasher::new(self.object.oid(), self.object.size());
        let mut buffer = Vec::new();
        for offset in (0..len).step_by(HASH_PIECE_LEN as usize) {
            buffer.resize(HASH_PIECE_LEN.min(len - offset) as usize, 0);
            self.object.read_unproven(offset, &mut buffer)?;
            hasher.update(&buffer);
        }
        Ok(hasher)
    }

    fn hash_anew(&self) {
        let mut prefix = self.prefix.lock().unwrap_or_else(|e| e.into_inner());
        *prefix = Prefix::new(&self.object);
    }

    /// Whether the fill is over because its object is broken, or because its file was removed: nobody new may join it.
    pub(super) fn is_broken(&self) -> bool {
        self.object.is_gone() || self.flights.over().is_some()
    }

    fn proven(&self) {
        metrics().objects_verified.inc();
        self.judging().rotted = 0;
        self.broken.is_right(self.object.oid());
    }

    /// Holds every verdict up until something is sent; the first value resolves once it does.
    #[cfg(test)]
    pub(super) fn hold_verdicts(self: &Arc<Self>) -> (tokio::sync::oneshot::Receiver<()>, std::sync::mpsc::Sender<()>) {
        let (held, is_held) = tokio::sync::oneshot::channel();
        let (release, released) = std::sync::mpsc::channel();
        let fill = self.clone();
        std::thread::spawn(move || {
            let mut prefix = fill.prefix.lock().unwrap();
            *prefix = Prefix::new(&fill.object);
            held.send(()).unwrap();
            released.recv().unwrap();
        });
        (is_held, release)
    }
}

/// The one courier that passes over the whole object, where upstream gives no parts; over when dropped.
pub(super) struct Stream {
    fill: Arc<Fill>,
}

impl Stream {
    /// See [`Flights::step`]; with the run when the block is the stream's to bring.
    pub(super) fn step(&self, block: u64, unwanted_until: u64) -> Option<(Step, Option<Run>)> {
        let step = self.fill.flights.step(block, unwanted_until)?;
        let run = step.claimed.then(|| Run::new(&self.fill, block..block + 1));
        Some((step, run))
    }

    /// See [`Flights::others_are_undecided`].
    pub(super) fn others_are_undecided(&self) -> bool {
        self.fill.flights.others_are_undecided()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.fill.flights.end_stream();
    }
}

/// A claimed run of blocks; given back when dropped, whatever has become of it.
pub(super) struct Run {
    fill: Arc<Fill>,
    pub(super) blocks: Range<u64>,
}

impl Run {
    fn new(fill: &Arc<Fill>, blocks: Range<u64>) -> Run {
        metrics().flights.inc();
        Run { fill: fill.clone(), blocks }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        metrics().flights.dec();
        self.fill.flights.give_back(&self.blocks);
    }
}
