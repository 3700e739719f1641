//! What is known of each object's file, so that a pass need not look at a million of them again.
//!
//! A look at a file (a stat) costs the kernel two microseconds, most of it waiting for the memory, and from one pass to the next few files
//! change. So a pass looks at those only
//!
//! - that this process has made, written to or removed ([`Kept`](super::kept::Kept)): while it has the store's lock nobody else does, and
//!   commands beside it have it do their work;
//! - that were written shortly before they were looked at, since some file systems tell only later what a file takes;
//! - and at the next [`SHARE`] files in turn, as if nothing were known of them: what people do by hand shows nowhere else. Where there
//!   are no more than that, each pass looks at all.
//!
//! The first pass of a process begins with what the one before has known ([`super::ledger_file`]), but for the directories that changed in
//! between: these it lists. After a crash it looks at all.
//!
//! When a file was last read is what this process writes there itself ([`Ledger::note_read`]). An object takes 64 bytes here.

use super::{
    StoreError,
    kept::Written,
    ledger_file::{Left, Saved, Stamp},
    place,
    view::read_of,
};
use crate::hub::{Oid, PackedOid};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Files that a pass looks at whatever is known of them, give or take a directory: a fifth of a second of the kernel's time.
const SHARE: u64 = 100_000;
/// Of what was written so short a time ago not all may be told: btrfs and ZFS count a file's blocks when they write them, up to half a
/// minute later.
const SETTLE: Duration = Duration::from_secs(60);
/// Files that are looked at again for having been written lately: a few MiB. Others wait for their turn.
const UNSETTLED_MAX: usize = 65_536;

/// What was seen of an object's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) oid: PackedOid,
    /// Bytes it takes on the disk.
    pub(super) len: u64,
    /// Last read by a client, milliseconds since 1970.
    pub(super) read_ms: u64,
    /// Last write, the same way.
    pub(super) arrived_ms: u64,
}

/// How much of what is known is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing: each file is looked at.
    None,
    /// All but the next share.
    Most,
    /// All: somebody waits.
    All,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What the process before has left, until the first look.
    left: Option<Left>,
    /// None before the first look, and after one that failed.
    dirs: Option<BTreeMap<OsString, Dir>>,
    /// The last directory that was looked at in turn.
    turn: OsString,
    unsettled: BTreeSet<PackedOid>,
    /// Files that the last update has looked at.
    looked_count: u64,
}

/// The objects of a directory, in order.
pub(super) type Dir = Vec<Entry>;

impl Ledger {
    pub(super) fn begin_with(&mut self, left: Option<Left>) {
        self.left = left;
    }

    /// Brings it up to date with the directory of the objects. BLOCKING. After an error nothing is known any more.
    pub(super) fn update(&mut self, blobs: &Path, written: Written, trust: Trust) -> Result<(), StoreError> {
        self.looked_count = 0;
        self.look(blobs, written, trust).map_err(|error| {
            *self = Ledger::default();
            StoreError::io("list", blobs.display(), error)
        })
    }

    fn look(&mut self, blobs: &Path, written: Written, trust: Trust) -> io::Result<()> {
        let left = self.left.take();
        if let Written::Some(written) = written
            && trust != Trust::None
        {
            if let Some(saved) = left.and_then(Left::read) {
                self.take_up(blobs, saved)?;
            }
            if self.dirs.is_some() {
                self.look_again(blobs, written);
                return if trust == Trust::Most { self.look_on(blobs, SHARE) } else { Ok(()) };
            }
        }
        self.unsettled.clear();
        self.look_on(blobs, u64::MAX)
    }

    /// Begins with what was known at the end of another process, and looks at the directories that were not, or that have changed since.
    fn take_up(&mut self, blobs: &Path, mut saved: Saved) -> io::Result<()> {
        let (mut dirs, mut known_count) = (BTreeMap::new(), 0);
        for name in dir_names(blobs)? {
            let path = blobs.join(&name);
            let dir = match saved.dirs.remove(&name) {
                Some((then, dir)) if Stamp::at(&path) == Some(then) => {
                    known_count += dir.len();
                    self.look_later(&dir, saved.saved_ms);
                    dir
                }
                _ => {
                    let dir = list(&path, &Dir::new())?;
                    self.looked_at(&dir);
                    dir
                }
            };
            dirs.insert(name, dir);
        }
        log::info!("took up the ledger objects={known_count} looked_at={}", self.looked_count);
        (self.dirs, self.turn) = (Some(dirs), saved.turn);
        Ok(())
    }

    /// Looks at files that may have changed, come or gone.
    fn look_again(&mut self, blobs: &Path, mut oids: BTreeSet<PackedOid>) {
        oids.append(&mut self.unsettled);
        for oid in oids {
            let name = format!("{:02x}", oid.first_byte());
            // One that cannot be looked at, not even to see whether it is there, is what it was.
            let Ok(seen) = Entry::of(&blobs.join(&name), &oid) else { continue };
            let dir = self.dirs.get_or_insert_default().entry(name.into()).or_default();
            match (seen, find(dir, &oid)) {
                (Some(entry), Ok(index)) => dir[index] = entry,
                (Some(entry), Err(index)) => dir.insert(index, entry),
                (None, Ok(index)) => {
                    dir.remove(index);
                }
                (None, Err(_)) => {}
            }
            self.looked_at(seen.as_slice());
        }
    }

    /// Looks at whole directories, from where the last turn ended, until at least `looks_max` files were looked at, or all.
    fn look_on(&mut self, blobs: &Path, looks_max: u64) -> io::Result<()> {
        let names = dir_names(blobs)?;
        self.dirs.get_or_insert_default().retain(|name, _| names.contains(name));
        let (before, behind): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| *name <= self.turn);
        let mut looks = 0;
        for name in behind.into_iter().chain(before) {
            if looks >= looks_max {
                break;
            }
            let dirs = self.dirs.get_or_insert_default();
            let dir = list(&blobs.join(&name), dirs.get(&name).unwrap_or(&Dir::new()))?;
            looks += dir.len() as u64;
            self.looked_at(&dir);
            self.turn.clone_from(&name);
            self.dirs.get_or_insert_default().insert(name, dir);
        }
        Ok(())
    }

    fn looked_at(&mut self, seen: &[Entry]) {
        self.looked_count += seen.len() as u64;
        self.look_later(seen, place::unix_ms(SystemTime::now()));
    }

    /// Has those looked at again that were written shortly before they were seen.
    fn look_later(&mut self, seen: &[Entry], seen_ms: u64) {
        let room = UNSETTLED_MAX.saturating_sub(self.unsettled.len());
        let settle_ms = SETTLE.as_millis() as u64;
        // Both ways, for clocks differ; but what was written in a future far away was not written a moment ago.
        let is_new = |entry: &&Entry| entry.arrived_ms.abs_diff(seen_ms) < settle_ms;
        self.unsettled.extend(seen.iter().filter(is_new).take(room).map(|entry| entry.oid));
    }

    /// Notes that a client has read the object at this time, which was written down too.
    pub(super) fn note_read(&mut self, oid: &Oid, read_ms: u64) {
        if self.left.is_some() {
            // What will be known of it is older.
            self.unsettled.insert(oid.packed());
        }
        let dir = self.dirs.as_mut().and_then(|dirs| dirs.get_mut(OsStr::new(&oid.as_str()[..2])));
        let Some(dir) = dir else { return };
        if let Ok(index) = find(dir, &oid.packed()) {
            dir[index].read_ms = read_ms;
        }
    }

    /// Whether anything is known: a look need not be at each file.
    pub(super) fn is_known(&self) -> bool {
        self.dirs.is_some() || self.left.is_some()
    }

    pub(super) fn dirs(&self) -> impl Iterator<Item = (&OsString, &Dir)> {
        self.dirs.iter().flatten()
    }

    pub(super) fn turn(&self) -> &OsStr {
        &self.turn
    }

    pub(super) fn looked_count(&self) -> u64 {
        self.looked_count
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.dirs.iter().flat_map(BTreeMap::values).flatten()
    }
}

impl Entry {
    /// Looks at an object's file; none when it is not there.
    pub(super) fn of(dir: &Path, oid: &PackedOid) -> io::Result<Option<Entry>> {
        match fs::symlink_metadata(dir.join(oid.oid().as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            meta => meta.map(|meta| Some(Entry::new(*oid, &meta))),
        }
    }

    fn new(oid: PackedOid, meta: &fs::Metadata) -> Entry {
        let modified = meta.modified().unwrap_or(UNIX_EPOCH);
        let (read_ms, arrived_ms) = (place::unix_ms(read_of(meta)), place::unix_ms(modified));
        Entry { oid, len: meta.blocks() * 512, read_ms, arrived_ms }
    }
}

fn find(dir: &Dir, oid: &PackedOid) -> Result<usize, usize> {
    dir.binary_search_by_key(oid, |entry| entry.oid)
}

/// Returns the names of the directories, in order.
fn dir_names(blobs: &Path) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(blobs)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.insert(entry.file_name());
        }
    }
    Ok(names)
}

/// Looks at all objects' files in a directory; one that has gone since has none. What cannot be looked at is what was known of it.
fn list(path: &Path, known: &Dir) -> io::Result<Dir> {
    let listed = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Dir::new()),
        listed => listed?,
    };
    let mut listed = listed.collect::<io::Result<Vec<_>>>()?;
    // Directories list by hash; neighbours on the disk are neighbours by number, and a disk that has to be asked is asked once.
    listed.sort_unstable_by_key(DirEntryExt::ino);
    let mut dir = Dir::with_capacity(listed.len());
    for entry in listed {
        let Some(oid) = entry.file_name().to_str().and_then(Oid::parse) else { continue };
        dir.extend(seen(oid.packed(), entry.metadata(), known));
    }
    dir.sort_unstable_by_key(|entry| entry.oid);
    Ok(dir)
}

/// What a look has shown.
fn seen(oid: PackedOid, looked: io::Result<fs::Metadata>, known: &Dir) -> Option<Entry> {
    match looked {
        Ok(meta) => Some(Entry::new(oid, &meta)),
        // Evicted since it was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::debug!("cannot look at object={}: {error}", oid.oid());
            find(known, &oid).ok().map(|index| known[index])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an object's file, as of an hour ago, unless `now`.
    fn put(blobs: &Path, index: u64, len: usize, now: bool) -> PackedOid {
        let oid = Oid::parse(&format!("{:02x}{index:062x}", index % 256)).unwrap();
        let dir = blobs.join(&oid.as_str()[..2]);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(oid.as_str());
        fs::write(&path, vec![1; len]).unwrap();
        if !now {
            let times = fs::FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(3600));
            fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        }
        oid.packed()
    }

    fn some(oids: &[PackedOid]) -> Written {
        Written::Some(oids.iter().copied().collect())
    }

    fn len_of(ledger: &Ledger, oid: &PackedOid) -> Option<u64> {
        ledger.entries().find(|entry| entry.oid == *oid).map(|entry| entry.len)
    }

    #[test]
    fn only_what_may_have_changed_is_looked_at() {
        let blobs = tempfile::tempdir().unwrap();
        let oids: Vec<PackedOid> = (0..300).map(|index| put(blobs.path(), index, 1, false)).collect();
        let mut ledger = Ledger::default();
        let mut update = |written, trust| {
            ledger.update(blobs.path(), written, trust).unwrap();
            (ledger.looked_count(), ledger.entries().count())
        };
        assert_eq!(update(some(&[]), Trust::All), (300, 300), "the first time all");
        assert_eq!(update(some(&[]), Trust::All), (0, 300));
        assert_eq!(update(some(&oids[3..6]), Trust::All), (3, 300));
        assert_eq!(update(some(&[]), Trust::Most), (300, 300), "so few are no share");
        assert_eq!(update(Written::All, Trust::All), (300, 300));
        let new = put(blobs.path(), 300, 1, true);
        assert_eq!(update(some(&[new]), Trust::All), (1, 301));
        assert_eq!(update(some(&[]), Trust::All), (1, 301), "once more, for it was written a moment ago");
        fs::remove_file(blobs.path().join("07").join(oids[7].oid().as_str())).unwrap();
        assert_eq!(update(some(&oids[7..9]), Trust::All).1, 300);
        fs::remove_dir_all(blobs.path().join("00")).unwrap();
        assert_eq!(update(some(&[]), Trust::Most).1, 298);
        assert!(ledger.update(&blobs.path().join("away"), some(&[]), Trust::None).is_err());
        assert_eq!(ledger.entries().count(), 0, "nothing is known after an error");
        ledger.update(blobs.path(), some(&[]), Trust::All).unwrap();
        assert_eq!(ledger.entries().count(), 298);
    }

    #[test]
    fn what_cannot_be_looked_at_is_what_it_was() {
        let blobs = tempfile::tempdir().unwrap();
        let oid = put(blobs.path(), 7, 1, false);
        let mut ledger = Ledger::default();
        ledger.update(blobs.path(), some(&[]), Trust::All).unwrap();
        // A link to itself leads to an error that is not "not there", for root too.
        let dir = blobs.path().join("07");
        fs::remove_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink(&dir, &dir).unwrap();
        ledger.update(blobs.path(), some(&[oid]), Trust::All).unwrap();
        assert_eq!(ledger.entries().count(), 1);
        fs::remove_file(&dir).unwrap();
        ledger.update(blobs.path(), some(&[oid]), Trust::All).unwrap();
        assert_eq!(ledger.entries().count(), 0);
    }

    #[test]
    fn what_cannot_be_looked_at_in_its_turn_is_what_it_was_too() {
        let known = Entry { oid: Oid::parse(&"7".repeat(64)).unwrap().packed(), len: 1, read_ms: 2, arrived_ms: 3 };
        let other = Oid::parse(&"8".repeat(64)).unwrap().packed();
        let broken = || Err(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(seen(known.oid, broken(), &vec![known]), Some(known));
        assert_eq!(seen(other, broken(), &vec![known]), None);
        assert_eq!(seen(known.oid, Err(io::ErrorKind::NotFound.into()), &vec![known]), None);
    }

    #[test]
    fn what_comes_from_the_future_is_not_looked_at_for_ever() {
        let blobs = tempfile::tempdir().unwrap();
        let oid = put(blobs.path(), 7, 1, false);
        let times = fs::FileTimes::new().set_modified(SystemTime::now() + Duration::from_secs(3600));
        let path = blobs.path().join("07").join(oid.oid().as_str());
        fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
        let mut ledger = Ledger::default();
        for looked_count in [1, 0] {
            ledger.update(blobs.path(), some(&[]), Trust::All).unwrap();
            assert_eq!(ledger.looked_count(), looked_count);
        }
    }

    #[test]
    fn turns_come_round() {
        let blobs = tempfile::tempdir().unwrap();
        let oids: Vec<PackedOid> = (0..30).map(|index| put(blobs.path(), index, 1, false)).collect();
        let mut ledger = Ledger::default();
        ledger.update(blobs.path(), some(&[]), Trust::Most).unwrap();
        let before = len_of(&ledger, &oids[1]).unwrap();
        for index in 0..30 {
            put(blobs.path(), index, 1 << 20, false);
        }
        for turn in 1..=4_u64 {
            ledger.look_on(blobs.path(), 8).unwrap();
            let seen = ledger.entries().filter(|entry| entry.len > before).count() as u64;
            assert_eq!(seen, (8 * turn).min(30), "each turn goes on where the last one ended");
        }
    }

    #[test]
    fn reads_are_known_without_a_look() {
        let blobs = tempfile::tempdir().unwrap();
        let oid = put(blobs.path(), 7, 1, false);
        let mut ledger = Ledger::default();
        ledger.note_read(&oid.oid(), 11);
        ledger.update(blobs.path(), some(&[]), Trust::All).unwrap();
        ledger.note_read(&oid.oid(), 12);
        ledger.note_read(&Oid::parse(&"9".repeat(40)).unwrap(), 13);
        ledger.update(blobs.path(), some(&[]), Trust::All).unwrap();
        assert_eq!(ledger.entries().map(|entry| entry.read_ms).collect::<Vec<_>>(), [12]);
    }
}
