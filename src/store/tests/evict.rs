//! What goes away: passes against real files, pins, links, removal, and what examining finds.

use super::{MIB, content, fill_block, sha256_of};
use crate::{
    hub::{Commit, FilePath, Oid, RepoId, RepoKind},
    store::{
        Borrower, Finding, Limits, ListedFile, Loan, Mended, Pass, PassOptions, Pin, Scope, Store, StoreError, StoreOptions,
        Strategy, Sweep, Swept, Verdict, View,
    },
};
use bytes::BytesMut;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

/// A store with objects of some MiB, each in a repo of its own and of known age.
struct Shelf {
    root: TempDir,
    store: Store,
}

fn shelf() -> Shelf {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap();
    Shelf { root, store }
}

fn repo(name: &str) -> RepoId {
    RepoId::parse(RepoKind::Model, name).unwrap()
}

fn commit(digit: char) -> Commit {
    Commit::parse(&digit.to_string().repeat(40)).unwrap()
}

fn path() -> FilePath {
    FilePath::parse("deep/w.bin").unwrap()
}

impl Shelf {
    /// Keeps an object of `mib` MiB that `repo` links to, read and written so many hours ago.
    fn keep(&self, name: &str, mib: u64, read_hours: u64, written_hours: u64) -> Oid {
        let all = content(mib * MIB, mib * 1000 + read_hours);
        let oid = sha256_of(&all);
        let object = self.store.object(&oid, mib * MIB).unwrap();
        (0..mib).for_each(|index| fill_block(&object, &all, index));
        assert_eq!(object.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
        drop(object);
        self.store.link(&repo(name), &commit('c'), &path(), &oid).unwrap();
        self.age(&oid, read_hours, written_hours);
        oid
    }

    fn age(&self, oid: &Oid, read_hours: u64, written_hours: u64) {
        let ago = |hours: u64| SystemTime::now() - Duration::from_secs(3600 * hours);
        let times = fs::FileTimes::new().set_accessed(ago(read_hours)).set_modified(ago(written_hours));
        fs::File::options().write(true).open(self.blob(oid)).unwrap().set_times(times).unwrap();
    }

    fn blob(&self, oid: &Oid) -> PathBuf {
        self.root.path().join("blobs").join(&oid.as_str()[..2]).join(oid.as_str())
    }

    fn link(&self, name: &str) -> PathBuf {
        self.root.path().join("files/models").join(name).join("resolve").join("c".repeat(40)).join("deep/w.bin")
    }

    fn has(&self, oid: &Oid) -> bool {
        self.blob(oid).exists()
    }

    fn limit(&self, strategy: Strategy, kept_len_max: u64) {
        self.store.set_limits(Limits { strategy, kept_len_max, ..Limits::default() });
    }

    fn pass(&self) -> Pass {
        self.store.pass(&PassOptions { sweep: Sweep::All, coming_len: 0 }).unwrap()
    }

    fn flip(&self, oid: &Oid, offset: u64) {
        let file = fs::File::options().read(true).write(true).open(self.blob(oid)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }
}

/// Room for this many MiB of content; each object takes up to 12 KiB beside its content.
fn room(mib: u64) -> u64 {
    mib * MIB + MIB / 2
}

#[test]
fn each_strategy_takes_what_it_names() {
    let check = |strategy, expected: [bool; 3]| {
        let shelf = shelf();
        let kept = [shelf.keep("a/old", 2, 9, 1), shelf.keep("a/first", 1, 1, 9), shelf.keep("a/large", 3, 2, 2)];
        shelf.limit(strategy, room(5));
        let pass = shelf.pass();
        assert_eq!(kept.map(|oid| shelf.has(&oid)), expected, "{strategy:?} {pass:?}");
        assert_eq!((pass.blob_count, pass.evicted_count, pass.links.link_count), (3, 1, 1), "{pass:?}");
        assert!(pass.evicted_len >= MIB && !pass.falls_short());
        assert_eq!(shelf.pass().need, None);
    };
    check(Strategy::Lru, [false, true, true]);
    check(Strategy::Fifo, [true, false, true]);
    check(Strategy::LargeFirst, [true, true, false]);
}

#[test]
fn a_read_counts_and_survives_the_process() {
    let shelf = shelf();
    let (old, new) = (shelf.keep("a/old", 1, 9, 9), shelf.keep("a/new", 1, 8, 8));
    shelf.store.touch(&old);
    shelf.store.flush_reads();
    let Shelf { root, store } = shelf;
    drop(store);
    let store = Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap();
    let shelf = Shelf { root, store };
    // A check reads the file, and is no read.
    assert_eq!(shelf.store.view().examine(&new, &mut |_| ()).unwrap(), Finding::Sound { complete: true });
    assert!(shelf.store.existing(&new).unwrap().unwrap().check(0).unwrap());
    shelf.limit(Strategy::Lru, room(1));
    shelf.pass();
    assert_eq!((shelf.has(&old), shelf.has(&new)), (true, false));
}

#[test]
fn what_is_used_or_pinned_stays() {
    let shelf = shelf();
    let used = shelf.keep("a/used", 1, 9, 9);
    let pinned = shelf.keep("a/pinned", 1, 8, 8);
    let at_main = shelf.keep("a/main", 1, 7, 7);
    let free = shelf.keep("a/free", 1, 1, 1);
    let view = shelf.store.view();
    view.change_pins(&[Pin::parse("models/a/pinned").unwrap(), Pin::parse("models/a/main@main").unwrap()], &[]).unwrap();
    shelf.store.refs().put_ref(&repo("a/main"), "main", &commit('c'), SystemTime::now()).unwrap();
    let reader = shelf.store.existing(&used).unwrap().unwrap();
    shelf.limit(Strategy::Lru, 1);
    let pass = shelf.pass();
    assert_eq!([used, pinned, at_main, free].map(|oid| shelf.has(&oid)), [true, true, true, false], "{pass:?}");
    assert_eq!((pass.in_use_count, pass.pinned_count, pass.falls_short()), (1, 2, true));
    assert!(!shelf.link("a/free").exists() && shelf.link("a/pinned").exists());
    assert!(shelf.store.make_room(1, 1).unwrap().is_none());

    // The pin of a branch holds where it points now.
    shelf.store.refs().put_ref(&repo("a/main"), "main", &commit('d'), SystemTime::now()).unwrap();
    drop(reader);
    let pass = shelf.pass();
    assert_eq!([used, pinned, at_main].map(|oid| shelf.has(&oid)), [false, true, false], "{pass:?}");
}

#[test]
fn what_was_read_since_it_was_measured_goes_last() {
    let shelf = shelf();
    let (read, noted) = (shelf.keep("a/read", 1, 9, 9), shelf.keep("a/noted", 1, 8, 8));
    let other = shelf.keep("a/other", 1, 7, 7);
    shelf.limit(Strategy::Lru, room(3));
    shelf.pass();
    // By another process, say: nothing here has heard of it.
    shelf.age(&read, 0, 9);
    // Written down while a pass is under way, which hears nothing of it.
    let passes = shelf.store.passes.lock().unwrap();
    shelf.store.touch(&noted);
    shelf.store.flush_reads();
    drop(passes);
    assert!(shelf.store.make_room(MIB, MIB).unwrap().is_some());
    assert_eq!([read, noted, other].map(|oid| shelf.has(&oid)), [true, true, false]);
    // When nothing else is left it goes all the same.
    assert!(shelf.store.make_room(3 * MIB, 3 * MIB).unwrap().is_some());
    assert_eq!([read, noted].map(|oid| shelf.has(&oid)), [false, false]);
}

#[test]
fn nothing_goes_for_what_somebody_has_deleted() {
    let shelf = shelf();
    let gone = [shelf.keep("a/first", 2, 9, 9), shelf.keep("a/second", 2, 8, 8)];
    let kept = shelf.keep("a/kept", 2, 7, 7);
    shelf.limit(Strategy::Lru, room(6));
    shelf.pass();
    gone.iter().for_each(|oid| fs::remove_file(shelf.blob(oid)).unwrap());
    // The running total knows nothing of it, nor does a pass for which somebody waits.
    assert!(shelf.store.make_room(3 * MIB, 3 * MIB).unwrap().is_some());
    assert!(shelf.has(&kept) && shelf.store.kept_len() < room(2), "{}", shelf.store.kept_len());
    let pass = shelf.store.pass(&PassOptions { coming_len: 0, sweep: Sweep::Nothing }).unwrap();
    assert_eq!((pass.blob_count, pass.need), (1, None), "they are forgotten: {pass:?}");
}

#[test]
fn what_somebody_has_deleted_frees_nothing_more() {
    let shelf = shelf();
    let gone = shelf.keep("a/gone", 2, 9, 9);
    let (free_len, total_len) = shelf.store.space().unwrap();
    let free_len_min = (total_len / 10).min(free_len / 2);
    shelf.store.set_limits(Limits { free_len_min, ..Limits::default() });
    assert_eq!(shelf.pass().need, None);
    fs::remove_file(shelf.blob(&gone)).unwrap();
    // The free space was measured without it.
    let pass = shelf.store.pass(&PassOptions { coming_len: free_len, sweep: Sweep::Nothing }).unwrap();
    assert_eq!((pass.blob_count, pass.missing_len, pass.evicted_len, pass.falls_short()), (1, 0, 0, true), "{pass:?}");
}

#[test]
fn links_are_swept_in_steps() {
    let shelf = shelf();
    let gone = sha256_of(b"never kept");
    for (name, count) in [("a/x", 6000), ("a/y", 6000), ("b", 10), ("c/z", 1)] {
        for index in 0..count {
            let path = FilePath::parse(&format!("{index}.bin")).unwrap();
            shelf.store.link(&repo(name), &commit('c'), &path, &gone).unwrap();
        }
    }
    let kept = shelf.keep("c/z", 1, 1, 1);
    shelf.store.sweep_on().unwrap();
    assert_eq!(shelf.store.view().repos().unwrap().len(), 4, "only a pass begins a round");
    let pass = shelf.store.pass(&PassOptions::default()).unwrap();
    assert_eq!((pass.links.link_count, pass.links.finished), (12_000, false));
    assert_eq!(shelf.store.view().repos().unwrap(), [repo("b"), repo("c/z")]);
    // Whoever calls this every second does not wait for a pass.
    let passes = shelf.store.passes.lock().unwrap();
    shelf.store.sweep_on().unwrap();
    drop(passes);
    assert_eq!(shelf.store.view().repos().unwrap(), [repo("b"), repo("c/z")]);
    shelf.store.sweep_on().unwrap();
    assert_eq!(shelf.store.view().repos().unwrap(), [repo("c/z")]);
    assert!(shelf.has(&kept) && shelf.link("c/z").exists() && !shelf.link("c/z").with_file_name("0.bin").exists());
    // The round is over, and nothing has gone since.
    assert_eq!(shelf.store.pass(&PassOptions::default()).unwrap().links, Swept::default());
}

#[test]
fn links_that_cannot_be_read_keep_no_others() {
    let shelf = shelf();
    let gone = sha256_of(b"never kept");
    for name in ["a/x", "c/y"] {
        shelf.store.link(&repo(name), &commit('d'), &path(), &gone).unwrap();
    }
    // Links to themselves, which no user can read, not even root.
    let files = shelf.root.path().join("files/models");
    let loops = [files.join("b"), files.join("a/x/resolve").join(commit('c').as_str())];
    loops.iter().for_each(|path| std::os::unix::fs::symlink(path, path).unwrap());
    let pass = shelf.store.pass(&PassOptions::default()).unwrap();
    assert_eq!((pass.links.link_count, pass.links.finished), (2, true));

    // What cannot even be listed is tried again with the next pass.
    let away = shelf.root.path().join("away");
    shelf.store.link(&repo("c/y"), &commit('d'), &path(), &gone).unwrap();
    let kept = shelf.keep("c/z", 1, 1, 1);
    fs::rename(&files, &away).unwrap();
    std::os::unix::fs::symlink(&files, &files).unwrap();
    shelf.store.set_limits(Limits { kept_len_max: 1, ..Limits::default() });
    assert!(shelf.store.pass(&PassOptions::default()).is_err() && !shelf.has(&kept));
    fs::remove_file(&files).unwrap();
    fs::rename(&away, &files).unwrap();
    assert_eq!(shelf.store.pass(&PassOptions::default()).unwrap().links.link_count, 2);
}

#[test]
fn a_dry_run_says_what_goes_and_what_is_in_use() {
    let shelf = shelf();
    let (partial, used) = (partial(&shelf), shelf.keep("a/used", 2, 20, 20));
    let reader = shelf.store.existing(&used).unwrap().unwrap();
    let limits = Limits { kept_len_max: room(30), ..Limits::default() };
    shelf.store.set_limits(limits);
    let options = PassOptions { sweep: Sweep::All, coming_len: 0 };
    let would = shelf.store.would_pass(&options).unwrap();
    assert_eq!(present(&shelf, &partial).len(), 40, "nothing went");
    assert!(would.part_count >= 6 && would.evicted_count == 0 && would.in_use_count == 1, "{would:?}");
    let pass = shelf.pass();
    let told = |pass: &Pass| (pass.need, pass.evicted_count, pass.part_count, pass.evicted_len, pass.in_use_count, pass.kept_len);
    assert_eq!(told(&would), told(&pass));
    assert_eq!(present(&shelf, &partial).len() as u64, 40 - 2 * pass.part_count);
    drop(reader);

    // From outside objects are whole, as they are to a process that has just been started.
    let would = View::open(shelf.root.path()).unwrap().would_pass(&Limits { kept_len_max: MIB, ..limits }).unwrap();
    assert_eq!((would.part_count, would.evicted_count, would.blob_count), (0, 2, 2), "{would:?}");
}

/// Holds one object warm, and another in use.
struct Fake {
    warm: Oid,
    used: Oid,
    forgotten: Mutex<Vec<Oid>>,
    let_go: Mutex<Vec<Oid>>,
}

impl Borrower for Fake {
    fn let_go(&self, oid: &Oid) -> Loan {
        self.let_go.lock().unwrap().push(*oid);
        self.loan(oid)
    }

    fn loan(&self, oid: &Oid) -> Loan {
        match oid {
            oid if *oid == self.warm => Loan::Idle,
            oid if *oid == self.used => Loan::InUse,
            _ => Loan::None,
        }
    }

    fn forget(&self, oid: &Oid) {
        self.forgotten.lock().unwrap().push(*oid);
    }

    fn links_removed(&self) {}

    fn passed(&self, _: &Pass) {}

    fn learned(&self, _: &RepoId, _: &Commit, _: bool) {}
}

#[test]
fn warm_objects_go_and_used_ones_stay() {
    let shelf = shelf();
    let (warm, used) = (shelf.keep("a/warm", 1, 9, 9), shelf.keep("a/used", 1, 8, 8));
    let borrower = Arc::new(Fake { warm, used, forgotten: Mutex::default(), let_go: Mutex::default() });
    shelf.store.set_borrower(borrower.clone());
    let still_open = shelf.store.existing(&warm).unwrap().unwrap();
    shelf.limit(Strategy::Lru, 1);
    let would = shelf.store.would_pass(&PassOptions { sweep: Sweep::All, coming_len: 0 }).unwrap();
    assert_eq!(*borrower.let_go.lock().unwrap(), [], "a dry run leaves warm what is warm");
    let pass = shelf.pass();
    assert_eq!((shelf.has(&warm), shelf.has(&used)), (false, true), "{pass:?}");
    let told = |pass: &Pass| (pass.evicted_count, pass.evicted_len, pass.in_use_count);
    assert_eq!(told(&would), told(&pass));
    assert_eq!(*borrower.let_go.lock().unwrap(), [warm, used]);
    // Who had it open reads on, and the next one begins anew.
    assert_eq!(still_open.read(0..4).unwrap().len(), 4);
    assert!(still_open.is_gone());
    assert_eq!(shelf.store.object(&warm, MIB).unwrap().present_count(), 0);
    shelf.store.remove(&used).unwrap();
    assert_eq!(*borrower.forgotten.lock().unwrap(), [used]);
}

#[test]
fn room_is_made_for_what_comes() {
    let shelf = shelf();
    let old = shelf.keep("a/old", 2, 9, 9);
    shelf.limit(Strategy::Lru, room(3));
    assert!(!shelf.store.needs_pass().unwrap());
    let room_of = |len, size| shelf.store.make_room(len, size).unwrap();
    assert!(room_of(MIB, 9 * MIB).is_some() && shelf.has(&old), "there is room, also for a part of what does not fit");
    let too_large = shelf.store.make_room(2 * MIB, 9 * MIB);
    assert!(matches!(too_large, Err(StoreError::TooLarge { .. })) && shelf.has(&old), "nothing goes for it");
    let made = room_of(3 * MIB, 3 * MIB);
    assert!(made.is_some() && !shelf.has(&old), "{made:?} {}", shelf.store.kept_len());
    assert!(shelf.store.kept_len() < MIB);
    // Room is not given twice, and what is not used is given back.
    assert!(!shelf.store.has_room(MIB).unwrap());
    drop(made);
    assert!(shelf.store.has_room(MIB).unwrap());

    // Published blocks count at once, without a pass.
    shelf.keep("a/new", 4, 0, 0);
    assert!(shelf.store.kept_len() >= 4 * MIB && shelf.store.needs_pass().unwrap());
    assert!(shelf.store.pass_if_needed().unwrap().is_some_and(|pass| pass.evicted_count == 1));
}

/// An object of 128 MiB, two to a part, of which the first and the last twenty are there; the first ones were read ten hours ago, the
/// last ones now.
fn partial(shelf: &Shelf) -> Oid {
    let oid = Oid::parse(&"7".repeat(64)).unwrap();
    let object = shelf.store.object(&oid, 128 * MIB).unwrap();
    for index in (0..20).chain(108..128) {
        let bytes = content(MIB, index);
        object.write(index * MIB, &bytes).unwrap();
        object.publish(index, crc32c::crc32c(&bytes)).unwrap();
    }
    let now = SystemTime::now();
    shelf.store.heat.note(&oid, 128, 0..20, now - Duration::from_secs(36_000));
    shelf.store.touch_span(&object, 108 * MIB..128 * MIB);
    shelf.store.link(&repo("a/partial"), &commit('c'), &path(), &oid).unwrap();
    oid
}

fn present(shelf: &Shelf, oid: &Oid) -> Vec<u64> {
    let object = shelf.store.object(oid, 128 * MIB).unwrap();
    let present: Vec<u64> = (0..128).filter(|index| object.is_present(*index)).collect();
    for index in &present {
        assert!(object.check(*index).unwrap(), "what is there is right: {index}");
        assert_eq!(object.copy(index * MIB..(index + 1) * MIB, BytesMut::new()).unwrap(), content(MIB, *index));
    }
    present
}

#[test]
fn of_what_is_not_whole_the_cold_blocks_go_first() {
    let shelf = shelf();
    let (partial, other) = (partial(&shelf), shelf.keep("a/other", 2, 5, 5));
    shelf.limit(Strategy::Lru, room(42));
    assert!(!shelf.store.needs_pass().unwrap());
    // Five parts of two MiB, or one more for what the file itself takes.
    assert!(shelf.store.make_room(10 * MIB, 10 * MIB).unwrap().is_some());
    let left = present(&shelf, &partial);
    assert!((28..=30).contains(&left.len()) && shelf.has(&other), "{left:?}");
    assert_eq!(left[left.len() - 20..], (108..128).collect::<Vec<_>>(), "what was read lately stays");
    let allocated = fs::metadata(shelf.blob(&partial)).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&allocated) * 512 < room(31), "their room came back");

    // What is cold is gone before the object that was read five hours ago, and that before what was read now.
    let pass = shelf.store.pass(&PassOptions { coming_len: 22 * MIB, sweep: Sweep::All }).unwrap();
    assert!(pass.part_count >= 4 && pass.evicted_count == 1 && !shelf.has(&other), "{pass:?}");
    assert_eq!(present(&shelf, &partial), (108..128).collect::<Vec<_>>());
    assert!(shelf.link("a/partial").symlink_metadata().is_ok(), "it is still there");

    // In the end the whole goes, and its links with it.
    let pass = shelf.store.pass(&PassOptions { coming_len: 42 * MIB, sweep: Sweep::All }).unwrap();
    assert!(pass.evicted_count == 1 && !shelf.blob(&partial).exists(), "{pass:?}");
    assert!(shelf.link("a/partial").symlink_metadata().is_err());
}

#[test]
fn blocks_that_somebody_has_do_not_go() {
    let shelf = shelf();
    let partial = partial(&shelf);
    let object = shelf.store.object(&partial, 128 * MIB).unwrap();
    let bytes = object.read(3 * MIB..4 * MIB).unwrap();
    drop(object);
    shelf.limit(Strategy::Lru, room(10));
    let pass = shelf.pass();
    assert!(pass.part_count == 0 && pass.in_use_count > 0 && pass.falls_short(), "{pass:?}");
    assert_eq!(bytes, content(MIB, 3));
    drop(bytes);
    let pass = shelf.pass();
    assert!(pass.part_count > 0 && !pass.falls_short(), "{pass:?}");
    assert!(present(&shelf, &partial).iter().all(|index| *index >= 108));
}

#[test]
fn old_quarantine_goes_and_all_of_it_before_an_object() {
    let shelf = shelf();
    let (bad, good) = (shelf.keep("a/bad", 2, 1, 1), shelf.keep("a/good", 2, 9, 9));
    shelf.store.quarantine(&bad, "a test").unwrap();
    let quarantine_count = || fs::read_dir(shelf.root.path().join("quarantine")).unwrap().count();
    assert_eq!((shelf.pass().quarantine_count, quarantine_count()), (0, 2));
    shelf.limit(Strategy::Lru, room(2));
    let pass = shelf.pass();
    assert!(shelf.has(&good) && pass.quarantine_removed_len >= 2 * MIB && pass.need.is_some(), "{pass:?}");
    assert!(!pass.falls_short());
}

#[test]
fn a_repo_is_removed_with_what_is_its_alone() {
    let shelf = shelf();
    let (own, shared) = (shelf.keep("a/own", 1, 1, 1), shelf.keep("a/shared", 2, 2, 2));
    shelf.store.link(&repo("a/own"), &commit('d'), &path(), &shared).unwrap();
    shelf.store.refs().put_ref(&repo("a/own"), "main", &commit('c'), SystemTime::now()).unwrap();
    let listed = [("deep/w.bin", ListedFile { oid: own, size: MIB, lfs: true, second_hand: false })];
    shelf.store.listings().append(&repo("a/own"), &commit('c'), &listed).unwrap();
    let view = View::open(shelf.root.path()).unwrap();
    assert_eq!(view.repos().unwrap(), [repo("a/own"), repo("a/shared")]);
    assert_eq!(view.refs(&repo("a/own")).unwrap(), [("main".to_owned(), commit('c'))]);

    let scope = |commit| [Scope { repo: repo("a/own"), commit }];
    let removal = view.removal(&scope(None)).unwrap();
    assert_eq!((removal.link_count, removal.objects.len(), removal.shared_count), (2, 1, 1));
    // Pinned in part or as a whole.
    for pin in ["models/a/own", "models/a/own@main"] {
        view.change_pins(&[Pin::parse(pin).unwrap()], &[]).unwrap();
        assert!(matches!(shelf.store.remove_repos(&scope(None)), Err(StoreError::Misuse { .. })));
        view.change_pins(&[], &[Pin::parse(pin).unwrap()]).unwrap();
    }
    assert_eq!(shelf.store.remove_repos(&scope(Some(commit('d')))).unwrap().objects, []);
    assert_eq!(view.commits(&repo("a/own")).unwrap(), [commit('c')]);
    let removal = shelf.store.remove_repos(&scope(None)).unwrap();
    assert_eq!(removal.objects.iter().map(|(oid, _)| *oid).collect::<Vec<_>>(), [own]);
    assert!(!shelf.has(&own) && shelf.has(&shared));
    assert!(!shelf.root.path().join("files/models/a/own").exists() && !shelf.root.path().join("api/models").exists());
    assert_eq!(view.repos().unwrap(), [repo("a/shared")]);
}

#[test]
fn repos_of_odd_names_are_told_apart() {
    let shelf = shelf();
    let oid = shelf.keep("gpt2", 1, 1, 1);
    let names = ["gpt2", "gpt2/resolve", "resolve/resolve", "resolve"];
    for name in names {
        shelf.store.link(&repo(name), &commit('c'), &path(), &oid).unwrap();
    }
    let mut expected: Vec<RepoId> = names.iter().map(|name| repo(name)).collect();
    expected.sort();
    let view = shelf.store.view();
    assert_eq!(view.repos().unwrap(), expected);
    shelf.store.remove_repos(&[Scope { repo: repo("gpt2"), commit: None }]).unwrap();
    expected.remove(0);
    assert_eq!(view.repos().unwrap(), expected);
    assert!(shelf.has(&oid));
}

#[test]
fn what_is_broken_is_found_without_the_lock_and_mended_with_it() {
    let shelf = shelf();
    let oid = shelf.keep("a/m", 3, 1, 1);
    let view = View::open(shelf.root.path()).unwrap();
    let find = || view.examine(&oid, &mut |_| ()).unwrap();
    let peek = || view.peek(&oid).unwrap().map(|peek| (peek.size, peek.present_len, peek.verified));
    assert_eq!((find(), peek()), (Finding::Sound { complete: true }, Some((3 * MIB, 3 * MIB, true))));

    // In use meanwhile, by somebody who has proven the block before it rotted.
    let reader = shelf.store.existing(&oid).unwrap().unwrap();
    assert!(reader.check(1).unwrap());
    shelf.flip(&oid, reader.header().payload_start() + MIB + 5);
    assert_eq!(find(), Finding::Broken { block_indexes: vec![1], block_count: 3 });
    assert_eq!(shelf.store.mend(&oid).unwrap(), Mended::Retracted(1));
    assert_eq!((find(), peek()), (Finding::Sound { complete: false }, Some((3 * MIB, 2 * MIB, false))));
    assert!(!reader.is_present(1));
    assert_eq!(shelf.store.mend(&oid).unwrap(), Mended::Sound);

    // A header that is none.
    shelf.flip(&oid, 0);
    assert!(matches!(find(), Finding::Unreadable { .. }));
    assert!(matches!(shelf.store.mend(&oid).unwrap(), Mended::SetAside { .. }));
    assert_eq!((find(), peek()), (Finding::Absent, None));
}

#[test]
fn wrong_bytes_under_right_checksums_are_set_aside() {
    let shelf = shelf();
    let (all, oid) = (content(2 * MIB, 1), sha256_of(b"something else"));
    let object = shelf.store.object(&oid, 2 * MIB).unwrap();
    (0..2).for_each(|index| fill_block(&object, &all, index));
    drop(object);
    let find = || shelf.store.view().examine(&oid, &mut |_| ()).unwrap();
    assert_eq!(find(), Finding::Mismatch { found: sha256_of(&all).to_string() });
    assert!(matches!(shelf.store.mend(&oid).unwrap(), Mended::SetAside { .. }));
    assert_eq!(find(), Finding::Absent);
}

/// How long a pass takes and what memory it needs is measured with
/// `DINGOSPEED_OBJECTS=1000000 cargo test --release --lib many_objects -- --nocapture`, some gigabytes free in `TMPDIR`.
#[test]
fn many_objects_are_passed_over_at_once() {
    let count = std::env::var("DINGOSPEED_OBJECTS").map_or(3000, |count| count.parse().unwrap());
    let mut shelf = shelf();
    let blobs = shelf.root.path().join("blobs");
    (0..256).for_each(|prefix| fs::create_dir(blobs.join(format!("{prefix:02x}"))).unwrap());
    let hour_ago = fs::FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(3600));
    for index in 0_u64..count {
        let name = sha256_of(&index.to_le_bytes());
        let file = fs::File::create(blobs.join(&name.as_str()[..2]).join(name.as_str())).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.set_times(hour_ago).unwrap();
        if index % 10 == 0 {
            let path = FilePath::parse(&format!("{index}.json")).unwrap();
            shelf.store.link(&repo(&format!("a/{}", index / 1000)), &commit('c'), &path, &name).unwrap();
        }
    }
    let spent = |name: &str, work: &mut dyn FnMut()| {
        let (cpu, memory) = (cpu_time(), memory_peak());
        work();
        let [user, system] = [0, 1].map(|mode| cpu_time()[mode] - cpu[mode]);
        println!("{name}: user={user:?} system={system:?} memory_peak: {memory} -> {} KiB", memory_peak());
    };
    let mut len = 0;
    for (round, name) in
        ["the first", "on schedule", "after a stop", "after a stop, awaited", "evicts", "after it"].into_iter().enumerate()
    {
        let mut options = PassOptions::default();
        if name.starts_with("after a stop") {
            spent("saves what is known", &mut || shelf.store.save_ledger());
            println!("in bytes: {:?}", fs::metadata(shelf.root.path().join("ledger")).map(|meta| meta.len()));
            let Shelf { root, store } = shelf;
            drop(store);
            shelf = Shelf { store: Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap(), root };
        }
        if name.ends_with("awaited") {
            options.sweep = Sweep::Nothing;
        }
        if name == "evicts" {
            shelf.limit(Strategy::Lru, len / 100 * 99);
        }
        let mut pass = Pass::default();
        spent(name, &mut || pass = shelf.store.pass(&options).unwrap());
        println!("{pass:?}");
        assert_eq!((pass.evicted_count > 0, pass.falls_short()), (name == "evicts", false), "{pass:?}");
        assert!(pass.looked_count == count || (round > 0 && pass.looked_count < 120_000), "{pass:?}");
        len = pass.kept_len;
    }
}

/// Of this thread, in user and in system mode.
fn cpu_time() -> [Duration; 2] {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` has room for what the kernel writes.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) }, 0);
    // SAFETY: the call succeeded, so it filled `usage`.
    let usage = unsafe { usage.assume_init() };
    let time = |at: libc::timeval| Duration::from_secs(at.tv_sec as u64) + Duration::from_micros(at.tv_usec as u64);
    [time(usage.ru_utime), time(usage.ru_stime)]
}

/// In KiB.
fn memory_peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
