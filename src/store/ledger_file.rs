//! The ledger from one process to the next: the file `ledger`, which a clean stop leaves. Whoever holds the store next takes it away first
//! of all, so it is used once, and after a crash there is none.
//!
//! ```text
//! "DSLEDG01", when the lock changed (16), when it was saved in ms (8), last turn (name)
//! of each directory: name, when it changed (16), how many objects (4), of each: oid (33), bytes (8), read in ms (8), written in ms (8)
//! an empty name, CRC32C of all before (4)
//! ```
//!
//! A name is its length (2) and its bytes; numbers are little-endian. Nothing depends on the file: what is not in it, or not as it was
//! then, is looked at. When something changed (a [`Stamp`]) tells so of
//!
//! - the lock, which every process that has held the store since has written to, also one that knows of no ledger;
//! - each directory, to which something was added, or from which something was taken, by hand.

use super::{
    Store, StoreError,
    kept::Written,
    ledger::{Dir, Entry, Ledger, Trust},
    lock::Lock,
    place,
};
use crate::hub::PackedOid;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const FILE: &str = "ledger";
const MAGIC: [u8; 8] = *b"DSLEDG01";
const ENTRY_LEN: u64 = PackedOid::LEN as u64 + 3 * 8;
/// The coarsest clock of a file system, FAT's: what changed so short a time ago may change again and not show it.
const TICK_MAX: Duration = Duration::from_secs(2);

/// When a file or directory last changed in any way. Unlike its other times nobody can set it, so a copy has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    pub(super) fn of(meta: &fs::Metadata) -> Stamp {
        Stamp { seconds: meta.ctime(), nanos: meta.ctime_nsec() }
    }

    /// That of a directory; none when it cannot be looked at.
    pub(super) fn at(path: &Path) -> Option<Stamp> {
        fs::symlink_metadata(path).ok().map(|meta| Stamp::of(&meta))
    }

    /// Whether it is so old that a later change is sure to make another one.
    fn is_settled(self, now: SystemTime) -> bool {
        let settled = now.checked_sub(TICK_MAX).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        settled.is_some_and(|at| i128::from(self.seconds) < i128::from(at.as_secs()))
    }
}

/// What a ledger says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) saved_ms: u64,
    pub(super) turn: OsString,
    pub(super) dirs: BTreeMap<OsString, (Stamp, Dir)>,
}

/// A ledger that was found and has no name any more. It is read when a pass needs it: a start does not wait for that.
#[derive(Debug)]
pub(super) struct Left {
    file: File,
    lock: Stamp,
}

impl Left {
    /// Takes away what the process before has left, if anything. `lock`: as that one has left the lock.
    pub(super) fn take(root: &Path, lock: Stamp) -> Option<Left> {
        let path = root.join(FILE);
        // Something else of that name, such as a pipe, must not hold up the start.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path);
        let file = file.and_then(|file| fs::remove_file(&path).map(|()| file));
        match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                log::info!("cannot take {}, so the first pass looks at each object: {error}", path.display());
                None
            }
            Ok(file) => Some(Left { file, lock }),
        }
    }

    /// Returns what it says, if that can be used.
    pub(super) fn read(self) -> Option<Saved> {
        let meta = self.file.metadata().and_then(|meta| match meta.is_file() {
            true => Ok(meta),
            false => Err(io::Error::other("it is no file")),
        });
        let read = meta.and_then(|meta| read(BufReader::new(&self.file), meta.len(), self.lock));
        read.inspect_err(|error| log::info!("the ledger is of no use, so the first pass looks at each object: {error}")).ok()
    }
}

impl Store {
    /// Writes down what is known of the objects, so that the next process need not look at each of them. BLOCKING; at the end, when
    /// nothing is written any more. If something is all the same, it is taken back.
    pub fn save_ledger(&self) {
        let Some(lock) = &self.lock else { return };
        let began = Instant::now();
        match self.try_save_ledger(lock, SystemTime::now()) {
            Ok(Some(len)) => log::info!("saved the ledger bytes={len} ms={}", began.elapsed().as_millis()),
            Ok(None) => {}
            Err(error) => log::info!("cannot save the ledger, so the next start looks at each object: {error}"),
        }
    }

    /// None: there is nothing to save.
    fn try_save_ledger(&self, lock: &Lock, now: SystemTime) -> Result<Option<u64>, StoreError> {
        let mut passes = self.passes();
        if !passes.ledger.is_known() {
            return Ok(None);
        }
        let written @ Written::Some(_) = self.kept.take_written() else { return Ok(None) };
        let (blobs, path) = (self.place.blobs(), self.root().join(FILE));
        passes.ledger.update(&blobs, written, Trust::All)?;
        let (lock, mut len) = (lock.stamp()?, 0);
        let save = || {
            self.place.put_in_place(&path, |temp| {
                let file = File::options().write(true).create_new(true).mode(place::FILE_MODE).open(temp)?;
                len = write(file, &blobs, &passes.ledger, lock, now)?;
                Ok(())
            })
        };
        Ok(self.kept.seal(&path, save)?.map(|()| len))
    }
}

/// Writes a ledger, without the directories that could change unnoticed. Returns how long it is.
fn write(file: File, blobs: &Path, ledger: &Ledger, lock: Stamp, now: SystemTime) -> io::Result<u64> {
    let mut to = Summed::new(BufWriter::new(file));
    to.put(&MAGIC)?;
    to.put_stamp(lock)?;
    to.put(&place::unix_ms(now).to_le_bytes())?;
    to.put_name(ledger.turn())?;
    for (name, dir) in ledger.dirs() {
        let Some(stamp) = Stamp::at(&blobs.join(name)).filter(|stamp| stamp.is_settled(now)) else { continue };
        to.put_name(name)?;
        to.put_stamp(stamp)?;
        to.put(&(dir.len() as u32).to_le_bytes())?;
        for entry in dir {
            to.put(&entry.oid.to_bytes())?;
            for number in [entry.len, entry.read_ms, entry.arrived_ms] {
                to.put(&number.to_le_bytes())?;
            }
        }
    }
    to.put_name(OsStr::new(""))?;
    let crc = to.crc;
    to.put(&crc.to_le_bytes())?;
    to.inner.flush()?;
    Ok(to.len)
}

/// Reads a ledger of `len` bytes, that was saved when the lock had this stamp.
fn read(from: impl Read, len: u64, lock: Stamp) -> io::Result<Saved> {
    let mut from = Summed::new(from);
    if from.bytes()? != MAGIC {
        return Err(invalid("it is none, or of another version"));
    }
    if from.stamp()? != lock {
        return Err(invalid("another process has held the directory since, or this is a copy"));
    }
    let saved_ms = from.number()?;
    let turn = from.name()?;
    let mut dirs = BTreeMap::new();
    loop {
        let name = from.name()?;
        if name.is_empty() {
            break;
        }
        let stamp = from.stamp()?;
        let count = u32::from_le_bytes(from.bytes()?);
        if u64::from(count) * ENTRY_LEN > len {
            return Err(invalid("it is damaged"));
        }
        let mut dir = Dir::with_capacity(count as usize);
        for _ in 0..count {
            let oid = PackedOid::from_bytes(&from.bytes()?);
            dir.push(Entry { oid, len: from.number()?, read_ms: from.number()?, arrived_ms: from.number()? });
        }
        // As it is, unless another release had another order.
        dir.sort_unstable_by_key(|entry| entry.oid);
        dirs.insert(name, (stamp, dir));
    }
    let crc = from.crc;
    if u32::from_le_bytes(from.bytes()?) != crc || from.len != len {
        return Err(invalid("it is damaged"));
    }
    Ok(Saved { saved_ms, turn, dirs })
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Counts and sums what goes through it.
struct Summed<T> {
    inner: T,
    len: u64,
    crc: u32,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Summed<T> {
        Summed { inner, len: 0, crc: 0 }
    }

    fn sum(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

impl<T: Write> Summed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum(bytes);
        self.inner.write_all(bytes)
    }

    fn put_stamp(&mut self, stamp: Stamp) -> io::Result<()> {
        self.put(&stamp.seconds.to_le_bytes())?;
        self.put(&stamp.nanos.to_le_bytes())
    }

    /// File systems have none that are longer than 255 bytes.
    fn put_name(&mut self, name: &OsStr) -> io::Result<()> {
        self.put(&(name.len() as u16).to_le_bytes())?;
        self.put(name.as_bytes())
    }
}

impl<T: Read> Summed<T> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.sum(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn stamp(&mut self) -> io::Result<Stamp> {
        Ok(Stamp { seconds: i64::from_le_bytes(self.bytes()?), nanos: i64::from_le_bytes(self.bytes()?) })
    }

    fn name(&mut self) -> io::Result<OsString> {
        let mut name = vec![0; u16::from_le_bytes(self.bytes()?).into()];
        self.inner.read_exact(&mut name)?;
        self.sum(&name);
        Ok(OsString::from_vec(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hub::Oid,
        store::{PassOptions, StoreOptions, Sweep, view::read_of},
    };
    use proptest::{collection::vec, prelude::any, proptest};
    use std::path::PathBuf;
    use tempfile::TempDir;

    const MIB: u64 = 1 << 20;

    fn open(root: &TempDir) -> Store {
        Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap()
    }

    /// Saves as if the last change were long ago. Returns how many bytes.
    fn save(store: &Store) -> Option<u64> {
        store.try_save_ledger(store.lock.as_ref().unwrap(), SystemTime::now() + TICK_MAX * 2).unwrap()
    }

    /// Ends as after a drain, and waits until the clock of the files has gone on: what changes from now on shows.
    fn stop(store: Store) {
        save(&store).unwrap();
        let probe = store.root().join("probe");
        fs::write(&probe, b"").unwrap();
        let before = Stamp::at(&probe);
        while Stamp::at(&probe) == before {
            fs::write(&probe, b"").unwrap();
        }
    }

    /// How many objects a pass for which somebody waits looks at, and how many it finds.
    fn pass(store: &Store) -> (u64, u64) {
        let pass = store.pass(&PassOptions { sweep: Sweep::Nothing, ..PassOptions::default() }).unwrap();
        (pass.looked_count, pass.blob_count)
    }

    fn oid(dir: u8, index: u64) -> Oid {
        Oid::parse(&format!("{dir:02x}{index:062x}")).unwrap()
    }

    fn blob(root: &TempDir, oid: &Oid) -> PathBuf {
        root.path().join(place::blob_name(oid))
    }

    /// Writes an object's file, as of an hour ago.
    fn put(root: &TempDir, oid: &Oid) {
        let path = blob(root, oid);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"x").unwrap();
        let times = fs::FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(3600));
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    }

    /// Five directories of four objects each.
    fn shelf() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        (0..5).for_each(|dir| (0..4).for_each(|index| put(&root, &oid(dir, index))));
        root
    }

    fn ledger(root: &TempDir) -> PathBuf {
        root.path().join(FILE)
    }

    #[test]
    fn what_was_known_is_known_to_the_next_process_once() {
        let root = shelf();
        let store = open(&root);
        assert_eq!(save(&store), None, "nothing is known");
        assert_eq!(pass(&store), (20, 20));
        stop(store);
        assert!(ledger(&root).exists());

        let store = open(&root);
        assert!(!ledger(&root).exists(), "taken away before anything else");
        assert_eq!(pass(&store), (0, 20));
        assert_eq!(pass(&store), (0, 20));
        stop(store);

        // One that ends before it has looked at anything hands on what it was given.
        stop(open(&root));
        let store = open(&root);
        assert_eq!(pass(&store), (0, 20));

        // A crash.
        drop(store);
        let store = open(&root);
        assert_eq!(pass(&store), (20, 20));
        drop(store);
        assert!(!ledger(&root).exists());
    }

    #[test]
    fn something_else_of_its_name_holds_nothing_up() {
        for is_pipe in [true, false] {
            let root = shelf();
            drop(open(&root));
            match is_pipe {
                true => assert!(std::process::Command::new("mkfifo").arg(ledger(&root)).status().unwrap().success()),
                false => std::os::unix::fs::symlink("/dev/zero", ledger(&root)).unwrap(),
            }
            assert_eq!(pass(&open(&root)), (20, 20));
        }
    }

    #[test]
    fn directories_that_changed_are_looked_at() {
        let root = shelf();
        let store = open(&root);
        pass(&store);
        stop(store);
        fs::remove_file(blob(&root, &oid(0, 0))).unwrap();
        put(&root, &oid(1, 9));
        fs::remove_dir_all(blob(&root, &oid(2, 0)).parent().unwrap()).unwrap();
        put(&root, &oid(9, 0));
        let store = open(&root);
        assert_eq!(pass(&store), (3 + 5 + 1, 3 + 5 + 1 + 8));
        assert_eq!(pass(&store), (0, 17));
    }

    #[test]
    fn what_changed_a_moment_ago_may_change_unseen() {
        let root = shelf();
        let store = open(&root);
        pass(&store);
        // By the clock of the files, all was made just now.
        store.try_save_ledger(store.lock.as_ref().unwrap(), SystemTime::now()).unwrap().unwrap();
        drop(store);
        assert_eq!(pass(&open(&root)), (20, 20));
    }

    #[test]
    fn what_changes_before_the_first_pass_is_known() {
        let root = shelf();
        let store = open(&root);
        pass(&store);
        stop(store);

        let store = open(&root);
        let times =
            |oid: &Oid| store.passes().ledger.entries().find(|entry| entry.oid == oid.packed()).map(|entry| entry.read_ms);
        // Read, written down, and only then looked at; longer now; gone; and new.
        store.touch(&oid(0, 0));
        store.flush_reads();
        fs::write(blob(&root, &oid(1, 0)), [1; 50_000]).unwrap();
        store.kept.note(&oid(1, 0));
        store.remove(&oid(2, 0)).unwrap();
        store.object(&oid(8, 0), MIB).unwrap();
        // The two, the new one, and the directories of that and of the one that is gone.
        assert_eq!(pass(&store), (2 + 1 + 1 + 3, 20));
        let read = fs::metadata(blob(&root, &oid(0, 0))).unwrap();
        assert_eq!(times(&oid(0, 0)), Some(place::unix_ms(read_of(&read))));
        assert!(SystemTime::now().duration_since(read_of(&read)).unwrap() < Duration::from_secs(60));
        let lens: u64 = store.passes().ledger.entries().map(|entry| entry.len).sum();
        let mut kept_len = 0;
        store.each_blob(|blob| kept_len += blob.allocated_len).unwrap();
        assert_eq!(lens, kept_len);
        assert_eq!(times(&oid(2, 0)), None);

        // What is read and written down later is saved, and what was written a moment ago is looked at by the next one too.
        store.touch(&oid(0, 1));
        store.flush_reads();
        let known: Vec<Entry> = store.passes().ledger.entries().copied().collect();
        stop(store);
        let store = open(&root);
        assert_eq!(pass(&store), (2, 20));
        assert_eq!(store.passes().ledger.entries().copied().collect::<Vec<_>>(), known);
    }

    #[test]
    fn what_is_written_to_after_all_takes_it_away() {
        let root = shelf();
        let store = open(&root);
        let object = store.object(&oid(7, 0), MIB).unwrap();
        pass(&store);
        store.save_ledger();
        assert!(ledger(&root).exists());
        object.write(0, b"late").unwrap();
        assert!(!ledger(&root).exists());
    }

    #[test]
    fn one_that_another_process_came_after_is_none() {
        let root = shelf();
        let store = open(&root);
        pass(&store);
        stop(store);
        let aside = root.path().join("aside");
        fs::rename(ledger(&root), &aside).unwrap();
        // A release that knows of no ledger.
        drop(open(&root));
        fs::rename(&aside, ledger(&root)).unwrap();
        assert_eq!(pass(&open(&root)), (20, 20));

        // What cannot be taken away is left where it is.
        fs::create_dir(ledger(&root)).unwrap();
        let store = open(&root);
        assert_eq!(pass(&store), (20, 20));
        store.save_ledger();
        assert!(ledger(&root).is_dir());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(begins in any::<bool>(), mut bytes in vec(any::<u8>(), 0..300)) {
            let lock = Stamp { seconds: 1, nanos: 2 };
            if begins {
                let begin = [&MAGIC[..], &lock.seconds.to_le_bytes(), &lock.nanos.to_le_bytes(), &[0; 10]].concat();
                bytes.splice(..0, begin);
                bytes.extend([0, 0]);
            }
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            let _ = read(&bytes[..], bytes.len() as u64, lock);
        }
    }

    #[test]
    fn a_damaged_one_is_none() {
        let root = shelf();
        let store = open(&root);
        pass(&store);
        let lock = store.lock.as_ref().unwrap().stamp().unwrap();
        let len = save(&store).unwrap();
        let mut bytes = fs::read(ledger(&root)).unwrap();
        assert_eq!(bytes.len() as u64, len);
        let read = |bytes: &[u8]| read(bytes, bytes.len() as u64, lock);
        let saved = read(&bytes).unwrap();
        assert_eq!(saved.turn, "04");
        assert_eq!(saved.dirs.values().map(|(_, dir)| dir.len()).collect::<Vec<_>>(), [4; 5]);
        for index in 0..bytes.len() {
            assert!(read(&bytes[..index]).is_err(), "cut at {index}");
            for flip in [1, 0x80] {
                bytes[index] ^= flip;
                assert!(read(&bytes).is_err(), "{flip} at {index}");
                bytes[index] ^= flip;
            }
        }
        assert_eq!(read(&bytes).unwrap(), saved);
        bytes.push(0);
        assert!(read(&bytes).is_err());

        drop(store);
        for bytes in [&bytes[..], &[]] {
            fs::write(ledger(&root), bytes).unwrap();
            assert_eq!(pass(&open(&root)), (20, 20));
        }
    }
}
