//! An eviction pass: measures what is kept, and when a limit is passed removes what the strategy names, down to the low
//! water mark. Whole objects go; of those that are not whole, LRU takes the parts that nobody has read for long ([`super::heat`]).
//!
//! A pass costs a stat per object, which is nearly all of it; the plan is a sort. A million objects on ext4 take 0.5 s of CPU of
//! our own (not optimised), 2.5 s of the kernel's, and 90 MiB; far longer when the disk has to be asked for each. It runs on a schedule, when the running
//! total or the free space passes a limit ([`Store::needs_pass`], cheap), and when a fill would not fit
//! ([`Store::make_room`]). Passes run one at a time.

use super::{
    Blob, BlockFile, Object, Store, StoreError,
    block_file::Opened,
    borrower::Loan,
    evict::{Candidate, Level, Need, Reason, Strategy, plan},
    heat,
    object::punch_hole,
    place,
    sweep::{Cursor, Swept, remove_file},
    view::View,
};
use crate::hub::Oid;
use std::{
    collections::HashSet,
    fs,
    ops::Range,
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

/// After a pass that found nothing more to remove, the next one that room alone asks for waits so long: another walk over all
/// objects would find the same.
const FRUITLESS_PAUSE: Duration = Duration::from_secs(30);

/// Some file systems (btrfs, ZFS) give the room of a deleted file back only with their next commit. Until then what was evicted
/// counts as free, or each look at the disk would evict as much again.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Objects that take less are not worth taking apart.
const SPLIT_LEN_MIN: u64 = 16 << 20;

/// The length of the hole that is made to see whether one can be.
const HOLE_LEN: u64 = 64 << 10;

type PartLens = [u64; heat::PART_COUNT as usize];

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
        self.need.is_some_and(|need| self.evicted_len + self.quarantine_removed_len < need.len_min)
    }
}

/// What passes remember of those before; under one mutex, which also keeps them apart.
#[derive(Debug, Default)]
pub(super) struct Passes {
    cursor: Cursor,
    /// No object went since the round over all links began that is under way or was the last. Not so at the start, when what was
    /// before is not known.
    links_seen: bool,
    fruitless: Option<Instant>,
    /// Bytes that were evicted and do not show as free yet.
    settling: Option<(Instant, u64)>,
}

impl Passes {
    /// Returns the level as it will be when what was evicted has come back.
    fn settled(&self, level: Level) -> Level {
        let settling = self.settling.filter(|(at, _)| at.elapsed() < SETTLE_MAX).map_or(0, |(_, len)| len);
        Level { free_len: level.free_len.saturating_add(settling), ..level }
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
        if self.read_only().is_none() {
            self.recency.flush(&self.place);
        }
    }

    /// Tells whether a limit is passed now, by the running total and one system call.
    pub fn needs_pass(&self) -> Result<bool, StoreError> {
        let limits = self.limits();
        Ok(limits.are_set() && limits.need(&self.level()?, 0).is_some())
    }

    /// Makes sure that `len` bytes more can be kept without passing a limit, evicting if it must. BLOCKING when it must.
    ///
    /// `held_len` is what the object that they are for takes already: one that would be larger than the whole cache gets no more, and
    /// nothing goes for it.
    ///
    /// `false`: there is no such room, for what is kept is pinned, in use or too little; serve without keeping. Nothing is
    /// reserved, so ask shortly before writing, and not for more than that.
    pub fn make_room(&self, len: u64, held_len: u64) -> Result<bool, StoreError> {
        let limits = self.limits();
        if !limits.are_set() || limits.need(&self.level()?, len).is_none() {
            return Ok(true);
        }
        let mut passes = self.passes();
        // Those before us in the queue may have made the room.
        let Some(need) = limits.need(&passes.settled(self.level()?), len) else { return Ok(true) };
        if passes.fruitless.is_some_and(|at| at.elapsed() < FRUITLESS_PAUSE) {
            return Ok(false);
        }
        if need.reason == Reason::MaxSize && len.saturating_add(held_len) > limits.kept_len_max {
            // All else would go, and it would still not fit.
            return Ok(false);
        }
        let pass = self.pass_alone(&mut passes, &PassOptions { coming_len: len, sweep: Sweep::Nothing })?;
        Ok(!pass.falls_short())
    }

    /// Runs a pass. BLOCKING, a stat per object.
    pub fn pass(&self, options: &PassOptions) -> Result<Pass, StoreError> {
        self.pass_alone(&mut self.passes(), options)
    }

    /// Runs a pass when a limit is passed, unless the last one has shown that it would be for nothing.
    pub fn pass_if_needed(&self) -> Result<Option<Pass>, StoreError> {
        if !self.needs_pass()? {
            return Ok(None);
        }
        let mut passes = self.passes();
        let pauses = passes.fruitless.is_some_and(|at| at.elapsed() < FRUITLESS_PAUSE);
        if pauses || self.limits().need(&passes.settled(self.level()?), 0).is_none() {
            return Ok(None);
        }
        self.pass_alone(&mut passes, &PassOptions::default()).map(Some)
    }

    /// Returns the bytes that the objects take by the running total: blocks published since the last pass are in it, what the
    /// file system adds or shares is not.
    pub fn kept_len(&self) -> u64 {
        self.kept_len.load(Ordering::Relaxed)
    }

    fn level(&self) -> Result<Level, StoreError> {
        let (free_len, total_len) = self.space()?;
        Ok(Level { kept_len: self.kept_len(), free_len, total_len })
    }

    fn passes(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_alone(&self, passes: &mut Passes, options: &PassOptions) -> Result<Pass, StoreError> {
        let began = Instant::now();
        self.flush_reads();
        let view = self.view();
        let (mut pass, mut candidates) = survey(&view)?;
        // What is published while we walk may be missed or counted twice; the next pass mends it.
        self.kept_len.store(pass.kept_len + pass.quarantine_len, Ordering::Relaxed);
        let limits = self.limits();
        let level = self.level()?;
        pass.free_len = level.free_len;
        pass.need = limits.need(&passes.settled(level), options.coming_len);

        let need_len = pass.need.map_or(0, |need| need.len);
        let now = SystemTime::now();
        for (path, at, len) in view.quarantine()? {
            let is_old = now.duration_since(at).is_ok_and(|age| age >= limits.quarantined_for);
            if (is_old || pass.quarantine_removed_len < need_len) && remove_file(&path) {
                pass.quarantine_count += 1;
                pass.quarantine_removed_len += len;
                self.shrink(len);
            }
        }
        if need_len > pass.quarantine_removed_len
            && limits.strategy == Strategy::Lru
            && !self.heat.is_empty()
            && self.makes_holes()
        {
            self.split(&view, &mut candidates);
        }
        self.evict(&mut pass, &mut candidates, need_len)?;
        passes.fruitless = pass.falls_short().then(Instant::now);
        if pass.evicted_len > 0 {
            let came_back_len = self.space()?.0.saturating_sub(level.free_len);
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
            pass.links = self.sweep_links(&mut passes.cursor, options.sweep == Sweep::Some)?;
        }
        pass.took = began.elapsed();
        self.note(&pass);
        self.borrower().passed(&pass);
        Ok(pass)
    }

    /// Removes candidates in the strategy's order until `need_len` bytes are free, passing over what is in use.
    fn evict(&self, pass: &mut Pass, candidates: &mut [Candidate], need_len: u64) -> Result<(), StoreError> {
        let strategy = self.limits().strategy;
        let mut rest = candidates;
        while let Some(left) = need_len.checked_sub(pass.evicted_len + pass.quarantine_removed_len).filter(|left| *left > 0) {
            let victim_count = plan(rest, left, strategy).len();
            if victim_count == 0 {
                break;
            }
            let (victims, others) = rest.split_at_mut(victim_count);
            for victim in victims {
                let gone = match victim.part {
                    None => self.remove_unused(&victim.oid)?.map(Gone::Whole),
                    // What cannot be done about one object is no reason to leave the others.
                    Some(part) => self.shed(&victim.oid, part).unwrap_or_else(|error| {
                        log::warn!("cannot evict a part of object={}: {error}", victim.oid);
                        None
                    }),
                };
                let len = match gone {
                    None => {
                        pass.in_use_count += 1;
                        continue;
                    }
                    Some(Gone::Whole(len)) => {
                        log::debug!("evicted object={} bytes={len}", victim.oid);
                        pass.evicted_count += u64::from(len > 0);
                        len
                    }
                    Some(Gone::Part(len)) => {
                        log::debug!("evicted object={} part={:?} bytes={len}", victim.oid, victim.part);
                        pass.part_count += u64::from(len > 0);
                        len
                    }
                };
                pass.evicted_len += len;
            }
            rest = others;
        }
        Ok(())
    }

    /// Replaces objects that are not whole, and of which it is known what was read of them when, by their parts.
    fn split(&self, view: &View, candidates: &mut Vec<Candidate>) {
        let objects: HashSet<Oid> = candidates.iter().map(|one| one.oid).collect();
        let known = self.heat.known(|oid| objects.contains(oid));
        let mut parts = Vec::new();
        candidates.retain(|one| {
            let Some(reads) = known.get(&one.oid).filter(|_| one.len >= SPLIT_LEN_MIN) else { return true };
            // One that cannot be looked at, or is whole by now, is judged as a whole; so is one without a whole block.
            let Ok(Some(lens)) = view.part_lens(&one.oid) else {
                self.heat.forget(&one.oid);
                return true;
            };
            let some = (0..).zip(lens.iter().zip(reads)).filter(|(_, (len, _))| **len > 0);
            let of_one = some.map(|(part, (len, read_ms))| Candidate { part: Some(part), len: *len, read_ms: *read_ms, ..*one });
            let before = parts.len();
            parts.extend(of_one);
            parts.len() == before
        });
        candidates.extend(parts);
    }

    /// Makes the blocks of a part absent and gives their room back, in an object that nobody reads or fills. None: somebody does.
    fn shed(&self, oid: &Oid, part: u8) -> Result<Option<Gone>, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        // Who has bytes of it has the object, and would see them become zeros: unlike a file's name, its blocks must be nobody's.
        if self.borrower().let_go(oid) == Loan::InUse || live.upgrade().is_some() {
            return Ok(None);
        }
        let Some(object) = self.open_kept(oid)?.filter(|object| !object.is_complete()) else { return Ok(Some(Gone::Part(0))) };
        if !object.lock_file(false) {
            return Ok(None);
        }
        let blocks = object.blocks();
        let present: Vec<u64> = heat::blocks_of(part.into(), blocks.count()).filter(|index| object.is_present(*index)).collect();
        let shed = || {
            // Marked absent first, also on the disk: whoever looks at the file meanwhile, to verify it, looks again, and after a power loss
            // no zeros stand where a block is said to be.
            present.iter().try_for_each(|block_index| object.retract(*block_index))?;
            object.sync()?;
            present.iter().try_for_each(|block_index| object.punch(*block_index))
        };
        // A disk so full that not even a mark can be changed has most need of the room.
        let done = shed().inspect_err(|error| log::warn!("evicts all of object={oid}, since a part cannot go alone: {error}"));
        if done.is_err() || object.present_count() == 0 {
            return self.unlink(oid, &mut live).map(|len| Some(Gone::Whole(len)));
        }
        // By what the blocks hold: some file systems tell only later what they have got back.
        let len = present.iter().map(|block_index| blocks.span(*block_index)).map(|span| span.end - span.start).sum();
        self.shrink(len);
        Ok(Some(Gone::Part(len)))
    }

    /// Whether the store's file system takes back the room of a part of a file. Tried out once.
    fn makes_holes(&self) -> bool {
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

    /// Deletes the file of an object that nobody reads or fills. None: somebody does.
    fn remove_unused(&self, oid: &Oid) -> Result<Option<u64>, StoreError> {
        let slot = self.live.slot(oid);
        let mut live = slot.lock();
        // Lock order: the slot, then whatever the borrower locks. While we have the slot nobody opens the object anew.
        match self.borrower().let_go(oid) {
            Loan::InUse => return Ok(None),
            // Opened a moment ago and not yet handed on.
            Loan::None if live.upgrade().is_some() => return Ok(None),
            Loan::None | Loan::Idle => {}
        }
        self.unlink(oid, &mut live).map(Some)
    }

    fn note(&self, pass: &Pass) {
        if let Some(need) = pass.need {
            log::info!(
                "evicted objects={} parts={} bytes={} reason={} wanted={} in_use={} pinned={} quarantine_bytes={} ms={}",
                pass.evicted_count,
                pass.part_count,
                pass.evicted_len,
                need.reason.as_str(),
                need.len,
                pass.in_use_count,
                pass.pinned_count,
                pass.quarantine_removed_len,
                pass.took.as_millis()
            );
            if pass.falls_short() {
                log::warn!("the limit {} is passed, and all else is pinned or in use", need.reason.as_str());
            }
        }
    }
}

/// What went, and how many bytes that gave back.
enum Gone {
    Whole(u64),
    Part(u64),
}

impl View {
    /// Returns how many bytes of each part of an object are there; none when the object is whole, or not there.
    fn part_lens(&self, oid: &Oid) -> Result<Option<PartLens>, StoreError> {
        let Some(file) = self.open_blob(oid)? else { return Ok(None) };
        let Opened::Ours(file) = BlockFile::open(file, oid)? else { return Ok(None) };
        if file.is_complete() {
            return Ok(None);
        }
        let blocks = file.blocks();
        Ok(Some(std::array::from_fn(|part| {
            let of_part = heat::blocks_of(part as u64, blocks.count());
            let spans = of_part.filter(|block_index| file.is_present(*block_index)).map(|block_index| blocks.span(block_index));
            spans.map(|span| span.end - span.start).sum()
        })))
    }

    /// Returns what a thorough pass would do now, as far as can be seen from outside: what is in use is not known here.
    pub fn would_pass(&self, limits: &super::Limits) -> Result<Pass, StoreError> {
        let began = Instant::now();
        let (mut pass, mut candidates) = survey(self)?;
        let (free_len, total_len) = super::space(self.root())?;
        pass.free_len = free_len;
        let level = Level { kept_len: pass.kept_len + pass.quarantine_len, free_len, total_len };
        pass.need = limits.need(&level, 0);
        let need_len = pass.need.map_or(0, |need| need.len);
        let now = SystemTime::now();
        for (_, at, len) in self.quarantine()? {
            let is_old = now.duration_since(at).is_ok_and(|age| age >= limits.quarantined_for);
            if is_old || pass.quarantine_removed_len < need_len {
                pass.quarantine_count += 1;
                pass.quarantine_removed_len += len;
            }
        }
        let left = need_len.saturating_sub(pass.quarantine_removed_len);
        for victim in plan(&mut candidates, left, limits.strategy) {
            pass.evicted_count += 1;
            pass.evicted_len += victim.len;
        }
        pass.links = Swept { link_count: self.dangling_count()?, finished: true };
        pass.took = began.elapsed();
        Ok(pass)
    }
}

/// Measures all objects, and returns those that may go. One element per object: a hundred bytes.
fn survey(view: &View) -> Result<(Pass, Vec<Candidate>), StoreError> {
    let pinned: HashSet<Oid> = view.pinned()?;
    let mut pass = Pass::default();
    let mut candidates = Vec::new();
    view.each_blob(|Blob { oid, allocated_len: len, modified, read }| {
        pass.blob_count += 1;
        pass.kept_len += len;
        if pinned.contains(&oid) {
            pass.pinned_count += 1;
        } else {
            candidates.push(Candidate {
                oid,
                part: None,
                len,
                read_ms: place::unix_ms(read),
                arrived_ms: place::unix_ms(modified),
            });
        }
    })?;
    pass.quarantine_len = view.quarantine()?.iter().map(|(_, _, len)| len).sum();
    Ok((pass, candidates))
}
