//! An eviction pass: measures what is kept, and when a limit is passed removes what the strategy names, down to the low
//! water mark. Whole objects go; of those that are not whole, LRU takes the parts that nobody has read for long ([`super::heat`]).
//!
//! The first pass after a crash looks at each object's file, which is nearly all of its cost; others, also the first after a clean stop
//! ([`super::ledger_file`]), at what may have changed and at some in turn ([`super::ledger`]). What goes is decided in [`super::decide`],
//! for a dry run too. Of a million objects on ext4 a pass that looks at all takes 0.7 s of CPU of our own and 2.7 s of the kernel's,
//! another 0.1 s and 0.4 s, be it the first or not, and one that evicts ten thousand of them 0.3 s and 0.7 s to 1.0 s, most of it for
//! their removal; far longer when the disk has to be asked for each. 70 MiB stay, and as much again is used while it evicts. To save what
//! is known takes 0.1 s and 57 MB, to read it as long.
//!
//! A pass runs on a schedule, when the running total or the free space passes a limit ([`Store::needs_pass`], cheap), and when a fill would
//! not fit ([`Store::make_room`]). Passes run one at a time.

use super::{
    Limits, Object, Store, StoreError,
    borrower::Loan,
    decide::{Hands, Judge, Survey, Taken, whole},
    evict::{Candidate, Level, Need, Part},
    heat::{self, Heat},
    kept::Written,
    ledger::{Entry, Ledger, Trust},
    object::punch_hole,
    place,
    room::Room,
    sweep::{Cursor, Swept, remove_file},
    view::View,
};
use crate::hub::{Oid, PackedOid};
use std::{
    collections::HashMap,
    fs,
    ops::Range,
    path::Path,
    sync::{MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant, SystemTime},
};

/// After a pass that found nothing more to remove, the next one that room alone asks for waits so long: another walk over all
/// objects would find the same.
const FRUITLESS_PAUSE: Duration = Duration::from_secs(30);

/// Some file systems (btrfs, ZFS) give the room of a deleted file back only with their next commit. Until then what was evicted
/// counts as free, or each look at the disk would evict as much again.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// The length of the hole that is made to see whether one can be.
const HOLE_LEN: u64 = 64 << 10;

/// How far a pass goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassOptions {
    /// Bytes about to be written, for which room is made too.
    pub coming_len: u64,
    pub sweep: Sweep,
}

/// How many links a pass looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sweep {
    /// None: somebody waits.
    Nothing,
    /// Some, until all were looked at since an object went.
    #[default]
    Some,
    All,
}

/// What a pass found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Objects found, before any went.
    pub blob_count: u64,
    /// Those of them whose files were looked at, because they may have changed since the pass before.
    pub looked_count: u64,
    /// Bytes that these took on the disk.
    pub kept_len: u64,
    pub quarantine_len: u64,
    pub pinned_count: u64,
    pub free_len: u64,
    /// Why room was needed, and how much; none when no limit was passed.
    pub need: Option<Need>,
    pub evicted_count: u64,
    /// Parts that went of objects that stay; their bytes are among `evicted_len`.
    pub part_count: u64,
    pub evicted_len: u64,
    /// Bytes of victims that somebody had deleted before, where that brings what is kept nearer to its limit.
    pub missing_len: u64,
    /// Victims passed over because somebody was using them.
    pub in_use_count: u64,
    /// Files and bytes that left the quarantine: the old ones, and before any object goes the others.
    pub quarantine_count: u64,
    pub quarantine_removed_len: u64,
    pub links: Swept,
    pub took: Duration,
}

impl Pass {
    /// Tells whether less was removed than a limit asks for.
    pub fn falls_short(&self) -> bool {
        self.need.is_some_and(|need| self.gone_len() < need.len_min)
    }

    /// Returns the bytes by which there is less now than was measured.
    pub fn gone_len(&self) -> u64 {
        self.evicted_len + self.missing_len + self.quarantine_removed_len
    }
}

/// What passes remember of those before; under one mutex, which also keeps them apart.
#[derive(Debug, Default)]
pub(super) struct Passes {
    pub(super) ledger: Ledger,
    pub(super) cursor: Cursor,
    /// No object went since the round over all links began that is under way or was the last. Not so at the start, when what was
    /// before is not known.
    pub(super) links_seen: bool,
    fruitless: Option<Instant>,
    /// The running total is what a pass has counted, and what came and went since.
    is_measured: bool,
    /// Bytes that were evicted and do not show as free yet.
    settling: Option<(Instant, u64)>,
}

impl Passes {
    /// Returns the level as it will be when what was evicted has come back.
    fn settled(&self, level: Level) -> Level {
        Level { free_len: level.free_len.saturating_add(self.settling_len()), ..level }
    }

    fn settling_len(&self) -> u64 {
        self.settling.filter(|(at, _)| at.elapsed() < SETTLE_MAX).map_or(0, |(_, len)| len)
    }
}

impl Store {
    /// Notes that a client reads the object. Cheap; it reaches the disk with [`Store::flush_reads`].
    pub fn touch(&self, oid: &Oid) {
        self.recency.touch(oid, SystemTime::now());
    }

    /// Notes which bytes of an object a client has read, if it is not whole: parts that nobody reads may go alone.
    pub fn touch_span(&self, object: &Object, span: Range<u64>) {
        if !object.is_complete() && !span.is_empty() {
            let blocks = object.blocks();
            self.heat.note(object.oid(), blocks.count(), blocks.covering(span), SystemTime::now());
        }
    }

    /// Writes down when objects were read, so that it survives a restart. BLOCKING; once a minute, and at the end.
    pub fn flush_reads(&self) {
        if self.read_only().is_some() {
            return;
        }
        // Without the passes, which others wait for: the disk may be slow to take so many.
        let mut written = Vec::new();
        self.recency.flush(&self.place, |oid, at| written.push((*oid, place::unix_ms(at))));
        match self.try_passes() {
            Some(mut passes) => written.iter().for_each(|(oid, read_ms)| passes.ledger.note_read(oid, *read_ms)),
            // A pass is under way, and may take long: the next one looks at the files.
            None => written.iter().for_each(|(oid, _)| self.kept.note(oid)),
        }
    }

    fn flush_into(&self, ledger: &mut Ledger) {
        self.recency.flush(&self.place, |oid, at| ledger.note_read(oid, place::unix_ms(at)));
    }

    /// Tells whether a limit is passed now, by the running total and one system call.
    pub fn needs_pass(&self) -> Result<bool, StoreError> {
        let limits = self.limits();
        Ok(limits.are_set() && limits.need(&self.level()?, 0).is_some())
    }

    /// Makes room for `len` bytes more of an object of `size` bytes, evicting what it must. BLOCKING when it must.
    ///
    /// For one that is larger than all that may be kept nothing goes (`TooLarge`): everything would, and it would still not fit. None:
    /// there is no such room, for what is kept is pinned, in use or too little; serve without keeping.
    pub fn make_room(&self, len: u64, size: u64) -> Result<Option<Room>, StoreError> {
        let limits = self.limits();
        let room = self.rooms.reserve(len);
        if !limits.are_set() || limits.need(&self.level()?, self.rooms.coming_len()).is_none() {
            return Ok(Some(room));
        }
        let mut passes = self.passes();
        let level = passes.settled(self.level()?);
        // Those before us in the queue may have made the room.
        let coming_len = self.rooms.coming_len();
        if limits.need(&level, coming_len).is_none() {
            return Ok(Some(room));
        }
        // Before the first pass the running total is not what is kept.
        let level = if passes.is_measured { level } else { Level { kept_len: u64::MAX, ..level } };
        let len_max = limits.largest(&level);
        if size > len_max {
            return Err(StoreError::TooLarge {
                what: "an object that is larger than the cache may be".into(),
                len: size,
                len_max,
            });
        }
        if passes.fruitless.is_some_and(|at| at.elapsed() < FRUITLESS_PAUSE) {
            return Ok(None);
        }
        let pass = self.pass_alone(&mut passes, &PassOptions { coming_len, sweep: Sweep::Nothing })?;
        Ok((!pass.falls_short()).then_some(room))
    }

    /// Tells whether there is room for `len` bytes more without evicting anything. One system call.
    pub fn has_room(&self, len: u64) -> Result<bool, StoreError> {
        let limits = self.limits();
        Ok(!limits.are_set() || limits.need(&self.level()?, self.rooms.coming_len().saturating_add(len)).is_none())
    }

    /// Runs a pass. BLOCKING; the first one after a crash, and one that sweeps all links, looks at each object's file.
    pub fn pass(&self, options: &PassOptions) -> Result<Pass, StoreError> {
        self.pass_alone(&mut self.passes(), options)
    }

    /// Runs a pass when a limit is passed, unless the last one has shown that it would be for nothing, or one is under way.
    pub fn pass_if_needed(&self) -> Result<Option<Pass>, StoreError> {
        if !self.needs_pass()? {
            return Ok(None);
        }
        let Some(mut passes) = self.try_passes() else { return Ok(None) };
        let pauses = passes.fruitless.is_some_and(|at| at.elapsed() < FRUITLESS_PAUSE);
        if pauses || self.limits().need(&passes.settled(self.level()?), 0).is_none() {
            return Ok(None);
        }
        self.pass_alone(&mut passes, &PassOptions::default()).map(Some)
    }

    /// Returns what a pass would do now; all links are counted that lead nowhere. BLOCKING like one.
    pub fn would_pass(&self, options: &PassOptions) -> Result<Pass, StoreError> {
        let (began, view) = (Instant::now(), self.view());
        let mut passes = self.passes();
        self.measure(&mut passes.ledger, options)?;
        let settling_len = passes.settling_len();
        let pass = view.plan(&passes.ledger, &self.heat, self.limits(), options, settling_len, Some(self))?;
        // The links take minutes where the disk has to be asked for each, and downloads wait for passes.
        drop(passes);
        view.count_links(pass, began)
    }

    /// Returns the bytes that the objects take by the running total: blocks published since the last pass are in it, what the
    /// file system adds or shares is not.
    pub fn kept_len(&self) -> u64 {
        self.kept.len()
    }

    fn level(&self) -> Result<Level, StoreError> {
        let (free_len, total_len) = self.space()?;
        Ok(Level { kept_len: self.kept_len(), free_len, total_len })
    }

    pub(super) fn passes(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless somebody has them, who may take long.
    pub(super) fn try_passes(&self) -> Option<MutexGuard<'_, Passes>> {
        match self.passes.try_lock() {
            Ok(passes) => Some(passes),
            Err(TryLockError::Poisoned(passes)) => Some(passes.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Brings up to date what is known of the objects.
    fn measure(&self, ledger: &mut Ledger, options: &PassOptions) -> Result<(), StoreError> {
        if self.read_only().is_none() {
            self.flush_into(ledger);
        }
        let trust = match options.sweep {
            Sweep::Nothing => Trust::All,
            Sweep::Some => Trust::Most,
            Sweep::All => Trust::None,
        };
        ledger.update(&self.place.blobs(), self.kept.take_written(), trust)
    }

    fn pass_alone(&self, passes: &mut Passes, options: &PassOptions) -> Result<Pass, StoreError> {
        let began = Instant::now();
        self.measure(&mut passes.ledger, options)?;
        let view = self.view();
        let survey = Survey::of(&view, &passes.ledger)?;
        // What is published while we look may be missed or counted twice; the next pass mends it.
        self.kept.set(survey.pass.kept_len + survey.pass.quarantine_len);
        passes.is_measured = true;
        let judge = Judge {
            view: &view,
            ledger: &passes.ledger,
            heat: &self.heat,
            limits: self.limits(),
            coming_len: options.coming_len,
            settling_len: passes.settling_len(),
        };
        let mut pass = judge.decide(survey, &mut Remover(self))?;
        passes.fruitless = pass.falls_short().then(Instant::now);
        if pass.evicted_len > 0 {
            let came_back_len = self.space()?.0.saturating_sub(pass.free_len);
            let is_late = came_back_len < pass.evicted_len / 2;
            passes.settling = is_late.then(|| (Instant::now(), pass.evicted_len - came_back_len));
        }

        passes.links_seen &= pass.evicted_count == 0;
        let sweeps = match options.sweep {
            Sweep::Nothing => false,
            Sweep::Some => !passes.links_seen || passes.cursor.is_under_way(),
            Sweep::All => true,
        };
        if sweeps {
            if options.sweep == Sweep::All {
                passes.cursor = Cursor::default();
            }
            passes.links_seen |= !passes.cursor.is_under_way();
            pass.links = self.sweep_step(passes, options.sweep == Sweep::Some)?;
        }
        pass.took = began.elapsed();
        self.note(&pass);
        self.borrower().passed(&pass);
        Ok(pass)
    }

    /// Makes the blocks of a part absent and gives their room back, in an object that nobody reads or fills.
    fn shed(&self, oid: &Oid, part: u8) -> Result<Taken, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        // Who has bytes of it has the object, and would see them become zeros: unlike a file's name, its blocks must be nobody's.
        if self.borrower().let_go(oid) == Loan::InUse || live.upgrade().is_some() {
            return Ok(Taken::InUse);
        }
        let Some(object) = self.open_kept(oid)?.filter(|object| !object.is_complete()) else { return Ok(Taken::Part(0)) };
        if !object.lock_file(false) {
            return Ok(Taken::InUse);
        }
        let blocks = object.blocks();
        let present: Vec<u64> = heat::blocks_of(part.into(), blocks.count()).filter(|index| object.is_present(*index)).collect();
        if present.len() as u64 == object.present_count() {
            // The last of its parts, and the object goes with it.
            return self.unlink(oid, &mut live).map(Taken::Whole);
        }
        let shed = || {
            // Marked absent first, also on the disk: whoever looks at the file meanwhile, to verify it, looks again, and after a power loss
            // no zeros stand where a block is said to be.
            present.iter().try_for_each(|block_index| object.retract(*block_index))?;
            object.sync()?;
            present.iter().try_for_each(|block_index| object.punch(*block_index))
        };
        // A disk so full that not even a mark can be changed has most need of the room.
        let done = shed().inspect_err(|error| log::warn!("evicts all of object={oid}, since a part cannot go alone: {error}"));
        if done.is_err() {
            return self.unlink(oid, &mut live).map(Taken::Whole);
        }
        // By what the blocks hold: some file systems tell only later what they have got back.
        let len = present.iter().map(|block_index| blocks.span(*block_index)).map(|span| span.end - span.start).sum();
        self.kept.shrink(len);
        Ok(Taken::Part(len))
    }

    /// Whether the store's file system takes back the room of a part of a file. Tried out once.
    pub(super) fn makes_holes(&self) -> bool {
        *self.makes_holes.get_or_init(|| {
            let path = self.place.temp();
            let tried = fs::File::create_new(&path).and_then(|file| {
                file.set_len(HOLE_LEN)?;
                punch_hole(&file, 0..HOLE_LEN)
            });
            let _ = fs::remove_file(&path);
            tried
                .inspect_err(|error| log::info!("objects are evicted as wholes: the file system makes no holes: {error}"))
                .is_ok()
        })
    }

    /// Deletes the file of an object that nobody reads or fills.
    fn remove_unused(&self, oid: &Oid) -> Result<Taken, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        // Lock order: the slot, then whatever the borrower locks. While we have the slot nobody opens the object anew.
        match self.borrower().let_go(oid) {
            Loan::InUse => return Ok(Taken::InUse),
            // Opened a moment ago and not yet handed on.
            Loan::None if live.upgrade().is_some() => return Ok(Taken::InUse),
            Loan::None | Loan::Idle => {}
        }
        self.unlink(oid, &mut live).map(Taken::Whole)
    }

    fn note(&self, pass: &Pass) {
        if let Some(need) = pass.need {
            log::info!(
                "evicted objects={} parts={} bytes={} reason={} wanted={} in_use={} pinned={} quarantine_bytes={} missing_bytes={} looked_at={} ms={}",
                pass.evicted_count,
                pass.part_count,
                pass.evicted_len,
                need.reason.as_str(),
                need.len,
                pass.in_use_count,
                pass.pinned_count,
                pass.quarantine_removed_len,
                pass.missing_len,
                pass.looked_count,
                pass.took.as_millis()
            );
            if pass.falls_short() {
                log::warn!("the limit {} is passed, and all else is pinned or in use", need.reason.as_str());
            }
        }
    }
}

/// Does what is decided.
struct Remover<'a>(&'a Store);

impl Hands for Remover<'_> {
    fn clear(&mut self, path: &Path, len: u64) -> bool {
        let done = remove_file(path);
        if done {
            self.0.kept.shrink(len);
        }
        done
    }

    fn sheds(&self) -> bool {
        self.0.makes_holes()
    }

    fn take(&mut self, victim: &Candidate) -> Result<Taken, StoreError> {
        let Remover(store) = self;
        let oid = &victim.oid.oid();
        let Some(now) = store.known_now(oid, victim) else {
            // Measured in a pass before. Who keeps it open lets go, and others need not give what it does not take any more.
            if let Taken::Whole(len @ 1..) = store.remove_unused(oid)? {
                return Ok(Taken::Whole(len));
            }
            store.kept.note(oid);
            store.kept.shrink(victim.len);
            return Ok(Taken::Missing(victim.len));
        };
        if now.order(store.limits().strategy) > victim.order(store.limits().strategy) {
            return Ok(Taken::Later(now));
        }
        let taken = match victim.part {
            None => store.remove_unused(oid)?,
            // What cannot be done about one object is no reason to leave the others.
            Some(part) => store.shed(oid, part.index).unwrap_or_else(|error| {
                log::warn!("cannot evict a part of object={oid}: {error}");
                Taken::InUse
            }),
        };
        match taken {
            Taken::Whole(len) => log::debug!("evicted object={oid} bytes={len}"),
            Taken::Part(len) => log::debug!("evicted object={oid} part={:?} bytes={len}", victim.part.map(|part| part.index)),
            Taken::InUse | Taken::Later(_) | Taken::Missing(_) => {}
        }
        Ok(taken)
    }
}

impl Store {
    /// Returns a victim as it is now: what was measured may be old, and reads go on all the time. None: its file is gone.
    fn known_now(&self, oid: &Oid, victim: &Candidate) -> Option<Candidate> {
        if let Some(part) = victim.part {
            let read_ms = self.heat.read_ms(oid, part.index).unwrap_or(victim.read_ms);
            return Some(Candidate { read_ms, ..*victim });
        }
        let read_ms = self.recency.since_flush(oid).map_or(0, place::unix_ms);
        let path = self.place.blob(oid);
        let Ok(seen) = Entry::of(path.parent()?, &victim.oid) else { return Some(*victim) };
        let now = whole(&seen?);
        Some(Candidate { read_ms: now.read_ms.max(read_ms), ..now })
    }

    /// Whether somebody reads or fills an object, who is not made to let go of it.
    fn is_in_use(&self, oid: &Oid) -> bool {
        let slot = self.live.slot(oid);
        let live = slot.lock();
        match self.borrower().loan(oid) {
            Loan::InUse => true,
            Loan::None => live.upgrade().is_some(),
            Loan::Idle => false,
        }
    }
}

/// Does nothing, and says what would come of it.
struct Planner<'a> {
    /// None: the store is looked at from outside, and what is in use is not known.
    store: Option<&'a Store>,
    /// Parts that would go, of objects of which others would stay so far.
    parts: HashMap<PackedOid, u8>,
}

impl Hands for Planner<'_> {
    fn clear(&mut self, _: &Path, _: u64) -> bool {
        true
    }

    fn sheds(&self) -> bool {
        self.store.is_some_and(Store::makes_holes)
    }

    fn take(&mut self, victim: &Candidate) -> Result<Taken, StoreError> {
        if self.store.is_some_and(|store| store.is_in_use(&victim.oid.oid())) {
            return Ok(Taken::InUse);
        }
        let Some(Part { of, .. }) = victim.part else { return Ok(Taken::Whole(victim.len)) };
        let count = self.parts.entry(victim.oid).or_default();
        *count += 1;
        // With the last of its parts the object goes.
        Ok(if *count == of { Taken::Whole(victim.len) } else { Taken::Part(victim.len) })
    }
}

impl View {
    /// Returns what a thorough pass would do, as far as can be seen from outside: what is in use, and which parts of an object were read
    /// when, is known to the process that serves it, and to nobody while none does.
    pub fn would_pass(&self, limits: &Limits) -> Result<Pass, StoreError> {
        let (began, mut ledger) = (Instant::now(), Ledger::default());
        ledger.update(&self.place.blobs(), Written::All, Trust::None)?;
        let pass = self.plan(&ledger, &Heat::default(), *limits, &PassOptions::default(), 0, None)?;
        self.count_links(pass, began)
    }

    /// Returns what a pass would do about the objects.
    fn plan(
        &self,
        ledger: &Ledger,
        heat: &Heat,
        limits: Limits,
        options: &PassOptions,
        settling_len: u64,
        store: Option<&Store>,
    ) -> Result<Pass, StoreError> {
        let judge = Judge { view: self, ledger, heat, limits, coming_len: options.coming_len, settling_len };
        judge.decide(Survey::of(self, ledger)?, &mut Planner { store, parts: HashMap::new() })
    }

    /// Adds what it would do about the links.
    fn count_links(&self, mut pass: Pass, began: Instant) -> Result<Pass, StoreError> {
        pass.links = Swept { link_count: self.dangling_count()?, finished: true };
        pass.took = began.elapsed();
        Ok(pass)
    }
}
