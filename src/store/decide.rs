//! What an eviction pass takes. One function decides, for the pass that does it ([`super::pass`]) and for the one that only tells.

use super::{
    BlockFile, Limits, Pass, StoreError,
    block_file::Opened,
    evict::{Candidate, Level, Part, Reason, Strategy, plan},
    heat::{self, Heat},
    ledger::{Entry, Ledger},
    view::View,
};
use crate::hub::{Oid, PackedOid};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Objects that take less are not worth taking apart.
const SPLIT_LEN_MIN: u64 = 16 << 20;

type PartLens = [u64; heat::PART_COUNT as usize];

/// Who carries out what is decided, or only tells of it.
pub(super) trait Hands {
    /// Removes a file from the quarantine. False: it cannot be done.
    fn clear(&mut self, path: &Path, len: u64) -> bool;

    /// Whether parts of objects can go.
    fn sheds(&self) -> bool;

    /// Takes a victim.
    fn take(&mut self, victim: &Candidate) -> Result<Taken, StoreError>;
}

/// What came of a victim, with the bytes that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Whole(u64),
    Part(u64),
    /// Somebody uses it.
    InUse,
    /// It was read or written since it was measured, and its turn comes later; this is what is known of it now.
    Later(Candidate),
    /// It was measured with so many bytes, and somebody else has deleted it since.
    Missing(u64),
}

/// What there is, measured and not yet judged.
pub(super) struct Survey {
    pub(super) pass: Pass,
    pinned: HashSet<PackedOid>,
    quarantine: Vec<(PathBuf, SystemTime, u64)>,
}

/// By what a pass judges.
pub(super) struct Judge<'a> {
    pub(super) view: &'a View,
    pub(super) ledger: &'a Ledger,
    pub(super) heat: &'a Heat,
    pub(super) limits: Limits,
    pub(super) coming_len: u64,
    /// Bytes that were evicted and do not show as free yet.
    pub(super) settling_len: u64,
}

impl Survey {
    /// Counts what the ledger knows, and what lies in the quarantine.
    pub(super) fn of(view: &View, ledger: &Ledger) -> Result<Survey, StoreError> {
        let pinned: HashSet<PackedOid> = view.pinned()?.iter().map(Oid::packed).collect();
        let quarantine = view.quarantine()?;
        let quarantine_len = quarantine.iter().map(|(_, _, len)| len).sum();
        let mut pass = Pass { quarantine_len, looked_count: ledger.looked_count(), ..Pass::default() };
        for entry in ledger.entries() {
            pass.blob_count += 1;
            pass.kept_len += entry.len;
            pass.pinned_count += u64::from(!pinned.is_empty() && pinned.contains(&entry.oid));
        }
        Ok(Survey { pass, pinned, quarantine })
    }
}

impl Judge<'_> {
    /// Has everything removed that must go. What is old in the quarantine always goes, and all of it before an object does.
    pub(super) fn decide(&self, survey: Survey, hands: &mut impl Hands) -> Result<Pass, StoreError> {
        let Survey { mut pass, pinned, quarantine } = survey;
        let (free_len, total_len) = super::space(self.view.root())?;
        pass.free_len = free_len;
        let free_len = free_len.saturating_add(self.settling_len);
        let level = Level { kept_len: pass.kept_len + pass.quarantine_len, free_len, total_len };
        pass.need = self.limits.need(&level, self.coming_len);

        let need_len = pass.need.map_or(0, |need| need.len);
        let now = SystemTime::now();
        for (path, at, len) in quarantine {
            let is_old = now.duration_since(at).is_ok_and(|age| age >= self.limits.quarantined_for);
            if (is_old || pass.quarantine_removed_len < need_len) && hands.clear(&path, len) {
                pass.quarantine_count += 1;
                pass.quarantine_removed_len += len;
            }
        }
        if need_len > pass.quarantine_removed_len {
            // As many as there are, so that a million take no room for more.
            let mut candidates = Vec::with_capacity((pass.blob_count - pass.pinned_count) as usize);
            candidates.extend(self.ledger.entries().filter(|entry| !pinned.contains(&entry.oid)).map(whole));
            if self.limits.strategy == Strategy::Lru && !self.heat.is_empty() && hands.sheds() {
                self.split(&mut candidates);
            }
            self.evict(&mut pass, candidates, need_len, hands)?;
        }
        Ok(pass)
    }

    /// Has candidates taken in the strategy's order until `need_len` bytes are free, passing over what is in use.
    fn evict(
        &self,
        pass: &mut Pass,
        candidates: Vec<Candidate>,
        need_len: u64,
        hands: &mut impl Hands,
    ) -> Result<(), StoreError> {
        let is_size = pass.need.is_some_and(|need| need.reason == Reason::MaxSize);
        let mut waiting = candidates;
        // Once more for those whose turn had not come.
        for _ in 0..2 {
            let mut later = Vec::new();
            let mut rest = &mut waiting[..];
            while let Some(left) = need_len.checked_sub(pass.gone_len()).filter(|left| *left > 0) {
                let victim_count = plan(rest, left, self.limits.strategy).len();
                if victim_count == 0 {
                    break;
                }
                let (victims, others) = rest.split_at_mut(victim_count);
                for victim in victims {
                    match hands.take(victim)? {
                        Taken::InUse => pass.in_use_count += 1,
                        Taken::Later(now) => later.push(now),
                        // What is kept is less by that; what is free was measured without it.
                        Taken::Missing(len) if is_size => pass.missing_len += len,
                        Taken::Missing(_) => {}
                        Taken::Whole(len) => {
                            pass.evicted_count += u64::from(len > 0);
                            pass.evicted_len += len;
                        }
                        Taken::Part(len) => {
                            pass.part_count += u64::from(len > 0);
                            pass.evicted_len += len;
                        }
                    }
                }
                rest = others;
            }
            waiting = later;
        }
        // Of these somebody has read or written something again, while we were at it.
        pass.in_use_count += waiting.len() as u64;
        Ok(())
    }

    /// Replaces objects that are not whole, and of which it is known what was read of them when, by their parts.
    fn split(&self, candidates: &mut Vec<Candidate>) {
        let known: HashMap<PackedOid, heat::PartReads> =
            self.heat.known().into_iter().map(|(oid, reads)| (oid.packed(), reads)).collect();
        let mut parts = Vec::new();
        candidates.retain(|one| {
            let Some(reads) = known.get(&one.oid).filter(|_| one.len >= SPLIT_LEN_MIN) else { return true };
            let oid = one.oid.oid();
            // One that cannot be looked at, or is whole by now, is judged as a whole; so is one without a whole block.
            let Ok(Some(lens)) = self.view.part_lens(&oid) else {
                self.heat.forget(&oid);
                return true;
            };
            let of = lens.iter().filter(|len| **len > 0).count() as u8;
            let some = (0..).zip(lens.iter().zip(reads)).filter(|(_, (len, _))| **len > 0);
            parts.extend(some.map(|(index, (len, read_ms))| {
                let part = Some(Part { index, of });
                Candidate { part, len: *len, read_ms: *read_ms, ..*one }
            }));
            of == 0
        });
        candidates.extend(parts);
    }
}

/// An object as a candidate.
pub(super) fn whole(entry: &Entry) -> Candidate {
    let Entry { oid, len, read_ms, arrived_ms } = *entry;
    Candidate { oid, part: None, len, read_ms, arrived_ms }
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
}
