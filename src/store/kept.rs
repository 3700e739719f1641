//! How much is kept, by a running total, and which objects were written to since a pass last asked.

use crate::hub::{Oid, PackedOid};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Objects that are noted: some ten MiB. When more were written to, all are.
const WRITTEN_MAX: usize = 262_144;

/// Shared by all objects of a store.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Bytes on the disk: counted as blocks are published, corrected by each pass, and never exact.
    len: AtomicU64,
    /// Raised by each pass before it asks. An object that was noted in this round need not be noted again.
    round: AtomicU64,
    noticed: Mutex<Noticed>,
}

#[derive(Debug, Default)]
struct Noticed {
    written: Written,
    /// A file that says what is known, as long as nothing is written.
    sealed: Option<PathBuf>,
}

/// Which objects were written to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Some(BTreeSet<PackedOid>),
    /// More than could be noted.
    All,
}

/// When an object was last noted, so that it costs a lock once in a round only.
#[derive(Debug, Default)]
pub(super) struct Noted(AtomicU64);

impl Kept {
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
    }

    pub(super) fn grow(&self, len: u64) {
        self.len.fetch_add(len, Ordering::Relaxed);
    }

    pub(super) fn shrink(&self, len: u64) {
        let _ = self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept.saturating_sub(len)));
    }

    /// Notes that an object's file was made, written to or removed, after it was: a pass that asks in between hears of it the next time.
    pub(super) fn note(&self, oid: &Oid) {
        let mut noticed = self.noticed();
        if let Some(file) = noticed.sealed.take() {
            let _ = fs::remove_file(file);
        }
        match &mut noticed.written {
            Written::Some(oids) if oids.len() < WRITTEN_MAX => {
                oids.insert(oid.packed());
            }
            all => *all = Written::All,
        }
    }

    /// The same, for one that is written to time and again.
    pub(super) fn note_once(&self, oid: &Oid, noted: &Noted) {
        // Rounds begin at 0, which is what one that was never noted has.
        let round = self.round.load(Ordering::SeqCst) + 1;
        if noted.0.swap(round, Ordering::SeqCst) != round {
            self.note(oid);
        }
    }

    /// Returns what was written to since the last call.
    pub(super) fn take_written(&self) -> Written {
        // First, so that whoever writes after we have looked finds a new round.
        self.round.fetch_add(1, Ordering::SeqCst);
        std::mem::take(&mut self.noticed().written)
    }

    /// Saves a file that says what is known, and takes it away again once something is written to. None: that has happened since
    /// the last [`Kept::take_written`]. Whoever writes meanwhile waits.
    pub(super) fn seal<T, E>(&self, file: &Path, save: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
        let mut noticed = self.noticed();
        if noticed.written != Written::default() {
            return Ok(None);
        }
        let saved = save()?;
        noticed.sealed = Some(file.to_owned());
        Ok(Some(saved))
    }

    fn noticed(&self) -> MutexGuard<'_, Noticed> {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Written {
    fn default() -> Written {
        Written::Some(BTreeSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oid(index: usize) -> Oid {
        Oid::parse(&format!("{index:064x}")).unwrap()
    }

    #[test]
    fn what_is_written_to_is_noted_once_a_round() {
        let (kept, noted) = (Kept::default(), Noted::default());
        let one = Written::Some(BTreeSet::from([oid(7).packed()]));
        for _ in 0..2 {
            kept.note_once(&oid(7), &noted);
            kept.note_once(&oid(7), &noted);
            assert_eq!(kept.take_written(), one);
            assert_eq!(kept.take_written(), Written::default());
        }
    }

    #[test]
    fn too_many_are_all() {
        let kept = Kept::default();
        (0..=WRITTEN_MAX).for_each(|index| kept.note(&oid(index)));
        kept.note(&oid(0));
        assert_eq!(kept.take_written(), Written::All);
        assert_eq!(kept.take_written(), Written::default());
    }

    #[test]
    fn what_is_saved_holds_until_something_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, noted, file) = (Kept::default(), Noted::default(), dir.path().join("saved"));
        let seal = || kept.seal(&file, || fs::write(&file, "saved")).unwrap().is_some();
        kept.note_once(&oid(7), &noted);
        assert!(!seal() && !file.exists());
        kept.take_written();
        assert!(seal() && file.exists());
        kept.note_once(&oid(7), &noted);
        assert!(!file.exists());
        fs::write(&file, "another's").unwrap();
        kept.note(&oid(8));
        assert!(file.exists(), "it is taken away once");
    }
}
