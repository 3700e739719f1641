//! The store as a directory: lock, version, quarantine, links, records, listings and refs.

use super::{MIB, content, fill_block, sha256_of};
use crate::{
    hub::{Commit, FilePath, Oid, RepoId, RepoKind},
    store::{ListedFile, Record, RecordKey, Store, StoreError, StoreOptions, Verdict, place::Place},
};
use bytes::Bytes;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

fn open(root: &Path) -> Result<Store, StoreError> {
    Store::open(root, StoreOptions { block_size: MIB })
}

fn blob(root: &Path, oid: &Oid) -> PathBuf {
    root.join("blobs").join(&oid.as_str()[..2]).join(oid.as_str())
}

fn repo() -> RepoId {
    RepoId::parse(RepoKind::Model, "org/m").unwrap()
}

fn commit() -> Commit {
    Commit::parse(&"c".repeat(40)).unwrap()
}

fn quarantined(root: &Path) -> Vec<String> {
    let files = fs::read_dir(root.join("quarantine")).unwrap();
    let reasons = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "reason"));
    reasons.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Fills and verifies an object in a store, and closes both.
fn keep(root: &Path, all: &[u8]) -> Oid {
    let oid = sha256_of(all);
    let store = open(root).unwrap();
    let object = store.object(&oid, all.len() as u64).unwrap();
    (0..object.blocks().count()).for_each(|index| fill_block(&object, all, index));
    assert_eq!(object.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
    oid
}

#[test]
fn a_second_process_is_refused_and_told_who_is_there() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(Store::holder(root.path()), None);
    let store = open(root.path()).unwrap();
    store.note_holder(r#"{"pid":7,"listen":"127.0.0.1:8090"}"#).unwrap();
    assert_eq!(Store::holder(root.path()).unwrap(), r#"{"pid":7,"listen":"127.0.0.1:8090"}"#);
    let message = open(root.path()).unwrap_err().to_string();
    assert!(message.contains("127.0.0.1:8090") && message.contains("--repos"), "{message}");
    drop(store);
    assert_eq!(Store::holder(root.path()), None);
    open(root.path()).unwrap();
}

#[test]
fn a_newer_store_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()).unwrap());
    assert_eq!(fs::read_to_string(root.path().join("VERSION")).unwrap(), "1\n");
    fs::write(root.path().join("VERSION"), "2\n").unwrap();
    assert!(matches!(open(root.path()), Err(StoreError::Version { found: 2, known: 1, .. })));
    fs::write(root.path().join("VERSION"), "").unwrap();
    drop(open(root.path()).unwrap());
}

#[test]
fn an_illegal_block_size_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for block_size in [0, 65536, 3 * MIB, 256 * MIB] {
        assert!(matches!(Store::open(root.path(), StoreOptions { block_size }), Err(StoreError::Misuse { .. })));
    }
}

#[test]
fn what_was_kept_is_there_again() {
    let root = tempfile::tempdir().unwrap();
    let all = content(2 * MIB + 1, 1);
    let oid = keep(root.path(), &all);
    fs::write(root.path().join("tmp").join("left"), "over").unwrap();

    let store = open(root.path()).unwrap();
    assert!(!root.path().join("tmp").join("left").exists());
    let object = store.existing(&oid).unwrap().unwrap();
    assert!(object.is_verified() && !object.is_checked(0));
    assert!(object.check(2).unwrap());
    assert_eq!(object.read(2 * MIB..2 * MIB + 1).unwrap()[..], all[2 * MIB as usize..]);
    assert!(store.existing(&sha256_of(b"never kept")).unwrap().is_none());
    let mut blobs = Vec::new();
    store.each_blob(|blob| blobs.push(blob)).unwrap();
    assert!(blobs.len() == 1 && blobs[0].oid == oid && blobs[0].allocated_len > 2 * MIB, "{blobs:?}");
    let (free_len, total_len) = store.space().unwrap();
    assert!(free_len <= total_len && total_len > 0);
}

#[test]
fn sizes_must_agree() {
    let root = tempfile::tempdir().unwrap();
    let oid = keep(root.path(), &content(100, 1));
    let store = open(root.path()).unwrap();
    assert!(matches!(store.object(&oid, 99), Err(StoreError::SizeMismatch { kept: 100, asked: 99, .. })));
    assert!(store.object(&oid, 100).unwrap().is_verified());

    // Nothing of it is there, and nobody uses it: the latest word counts.
    let other = sha256_of(b"other");
    drop(store.object(&other, 5).unwrap());
    let after = store.object(&other, 6).unwrap();
    assert_eq!(after.size(), 6);
    assert!(quarantined(root.path())[0].contains("without a block, of 5 bytes"));
    assert!(std::sync::Arc::ptr_eq(&after, &store.object(&other, 6).unwrap()));
}

#[test]
fn of_two_sizes_neither_is_destroyed_before_one_is_proven() {
    let root = tempfile::tempdir().unwrap();
    let all = content(2 * MIB + 7, 4);
    let oid = sha256_of(&all);
    let size = all.len() as u64;
    let store = open(root.path()).unwrap();
    // In use, though nothing came yet.
    let wrong = store.object(&oid, size + MIB).unwrap();
    assert!(matches!(store.object(&oid, size), Err(StoreError::SizeUnclear { kept, .. }) if kept == size + MIB));
    // Not in use, but something is there.
    fill_block(&wrong, &all, 0);
    drop(wrong);
    assert!(matches!(store.object(&oid, size), Err(StoreError::SizeUnclear { .. })));
    assert_eq!(store.object(&oid, size + MIB).unwrap().present_count(), 1);
    assert!(quarantined(root.path()).is_empty());

    let user = store.existing(&oid).unwrap().unwrap();
    assert!(!store.give_way(&oid, size).unwrap(), "somebody uses it");
    drop(user);
    assert!(!store.give_way(&oid, size + MIB).unwrap() && !store.disprove(&oid, size + MIB).unwrap(), "it has that size");
    assert!(store.disprove(&oid, size).unwrap());
    assert!(quarantined(root.path())[0].contains("but the object that has this hash"));
    let right = store.object(&oid, size).unwrap();
    (0..3).for_each(|index| fill_block(&right, &all, index));
    assert_eq!(right.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
    drop(right);
    assert!(!store.give_way(&oid, size + 1).unwrap() && !store.disprove(&oid, size + 1).unwrap(), "a proven one stays");
    assert!(matches!(store.object(&oid, size + 1), Err(StoreError::SizeMismatch { .. })));
}

#[test]
fn a_directory_that_was_never_a_store_is_not_served_read_only() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let options = StoreOptions { block_size: MIB };
    assert!(Store::open_to_serve(&file.join("repos"), options).is_err());
}

#[test]
fn a_broken_file_is_set_aside_and_begun_again() {
    let root = tempfile::tempdir().unwrap();
    let all = content(MIB + 5, 2);
    let oid = keep(root.path(), &all);
    fs::write(blob(root.path(), &oid), "no block file").unwrap();

    let store = open(root.path()).unwrap();
    let object = store.object(&oid, all.len() as u64).unwrap();
    assert_eq!(object.present_count(), 0);
    assert_eq!(quarantined(root.path()).len(), 1);
    (0..2).for_each(|index| fill_block(&object, &all, index));
    assert_eq!(object.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
}

#[test]
fn quarantine_lets_readers_read_on() {
    let root = tempfile::tempdir().unwrap();
    let all = content(MIB, 3);
    let oid = keep(root.path(), &all);
    let store = open(root.path()).unwrap();
    let old = store.object(&oid, MIB).unwrap();
    let bytes = old.read(0..MIB).unwrap();
    assert!(store.quarantine_object(&old, "a test said so").unwrap());
    let new = store.object(&oid, MIB).unwrap();
    assert_eq!((old.present_count(), new.present_count()), (1, 0));
    assert!(!store.quarantine_object(&old, "once more").unwrap(), "the new file is not to blame");
    assert_eq!(quarantined(root.path()), ["a test said so\n"]);
    assert_eq!(bytes, all);
    assert!(store.remove(&oid).unwrap() > 0);
    assert_eq!(store.remove(&oid).unwrap(), 0);
    assert!(store.existing(&oid).unwrap().is_none());
    assert!(!store.quarantine(&oid, "gone").unwrap());
}

#[test]
fn a_file_of_dingospeeds_is_adopted() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let oid = sha256_of(b"hello\n");
    let mut file = b"OLAH".to_vec();
    [8, 8 * MIB, 6, 1 << 20].iter().for_each(|field: &u64| file.extend_from_slice(&field.to_le_bytes()));
    file.resize(0x20024, 0);
    file[36] = 1;
    file.extend_from_slice(b"hello\n");
    fs::create_dir_all(blob(root.path(), &oid).parent().unwrap()).unwrap();
    fs::write(blob(root.path(), &oid), &file).unwrap();

    let object = store.object(&oid, 6).unwrap();
    assert!(object.is_verified());
    assert_eq!(&object.read(1..6).unwrap()[..], b"ello\n");
    object.load(0..6).unwrap();
    assert!(object.is_resident(0..6));
}

#[test]
fn links_lead_to_the_object() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let (one, two) = (sha256_of(b"1"), sha256_of(b"2"));
    store.object(&one, 1).unwrap();
    store.object(&two, 1).unwrap();
    let path = FilePath::parse("a/b.json").unwrap();
    let link = root.path().join(format!("files/models/org/m/resolve/{}/a/b.json", commit().as_str()));
    for oid in [&one, &one, &two] {
        store.link(&repo(), &commit(), &path, oid).unwrap();
        assert_eq!(fs::canonicalize(&link).unwrap(), fs::canonicalize(blob(root.path(), oid)).unwrap());
        assert!(fs::read_link(&link).unwrap().is_relative());
    }
    let long = FilePath::parse(&"x".repeat(300)).unwrap();
    assert!(matches!(store.link(&repo(), &commit(), &long, &one), Err(StoreError::NameTooLong { .. })));

    // A regular file, as DingoSpeed 1.0 leaves, is not ours to replace.
    fs::remove_file(&link).unwrap();
    fs::write(&link, "precious").unwrap();
    assert!(matches!(store.link(&repo(), &commit(), &path, &one), Err(StoreError::Io { .. })));
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
    assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
}

fn record(target: &str) -> (RecordKey, Record) {
    let record = Record {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into()), ("etag".into(), "\"x\"".into())],
        fetched_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        fresh_for: Duration::from_secs(60),
        stale_for: Duration::from_millis(u64::MAX),
        target: target.into(),
        body: Bytes::from_static(b"{\"a\":1}\n\n\xff"),
    };
    (RecordKey::of_repo(&repo(), "tree-cccc/recursive", target), record)
}

#[test]
fn records_come_back_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let records = store.records();
    let (key, kept) = record("/api/models/org/m/tree/c?recursive=1");
    assert_eq!(records.get(&key).unwrap(), None);
    assert!(!records.touch(&key, SystemTime::now()).unwrap());
    records.put(&key, &kept).unwrap();
    assert_eq!(records.get(&key).unwrap(), Some(kept.clone()));
    let later = kept.fetched_at + Duration::from_secs(5);
    assert!(records.touch(&key, later).unwrap());
    assert_eq!(records.get(&key).unwrap(), Some(Record { fetched_at: later, ..kept.clone() }));

    let site = RecordKey::of_site("search", &kept.target);
    records.put(&site, &kept).unwrap();
    records.remove(&key).unwrap();
    records.remove(&key).unwrap();
    assert_eq!(records.get(&key).unwrap(), None);
    assert_eq!(records.get(&site).unwrap(), Some(kept.clone()));
    assert!(records.put(&record("/other").0, &kept).is_err(), "a key of another target");
    let body = Bytes::from(vec![0; (64 << 20) + 1]);
    assert!(matches!(records.put(&key, &Record { body, ..kept }), Err(StoreError::TooLarge { .. })));
}

#[test]
fn a_record_with_any_byte_changed_is_absent() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let (key, kept) = record("/api/models/org/m");
    store.records().put(&key, &kept).unwrap();
    let dir = root.path().join("api/models/org/m");
    let path = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&path).unwrap();
    let mut broken = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        fs::write(&path, &bad).unwrap();
        // A changed digit of the version, a key's letter, a header, the body: none is ever returned.
        let found = store.records().get(&key).unwrap();
        assert_eq!(found, None, "byte {at} of {}", good.len());
        broken += 1;
    }
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert_eq!(store.records().get(&key).unwrap(), None);
    assert_eq!(store.records().broken_count(), broken + 1);
    assert!(!path.exists());
}

#[test]
fn listings_grow_and_survive_torn_lines() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let listings = store.listings();
    let file = |seed: u64| ListedFile {
        oid: sha256_of(&seed.to_le_bytes()),
        size: seed,
        lfs: seed.is_multiple_of(2),
        second_hand: false,
    };
    assert!(listings.load(&repo(), &commit()).unwrap().files.is_empty());

    listings.append(&repo(), &commit(), &[("a", file(1)), ("b/c \"d\"\n", file(2))]).unwrap();
    listings.mark_complete(&repo(), &commit(), 2).unwrap();
    let listing = listings.load(&repo(), &commit()).unwrap();
    assert!(listing.complete && listing.files.len() == 2);
    assert_eq!(listing.files["b/c \"d\"\n"], file(2));

    // Cut anywhere: never an entry that was not written, and complete only with all of them.
    let path = root.path().join(format!("api/models/org/m/commits/{}.jsonl", commit().as_str()));
    let good = fs::read(&path).unwrap();
    for len in 0..good.len() - 1 {
        fs::write(&path, &good[..len]).unwrap();
        let cut = listings.load(&repo(), &commit()).unwrap();
        assert!(cut.files.iter().all(|(path, file)| listing.files[path] == *file));
        assert!(!cut.complete || cut == listing);
        // What comes after a torn line is not glued to it.
        listings.append(&repo(), &commit(), &[("e", file(5))]).unwrap();
        assert_eq!(listings.load(&repo(), &commit()).unwrap().files["e"], file(5));
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x02;
        fs::write(&path, &bad).unwrap();
        let changed = listings.load(&repo(), &commit()).unwrap();
        assert!(changed.files.iter().all(|(path, file)| listing.files.get(path) == Some(file)), "byte {at}");
        assert!(!changed.complete || changed == listing, "byte {at}");
    }
}

#[test]
fn refs_and_access_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_456);
    for revision in ["main", "refs/pr/1", "..", &"long/".repeat(100)] {
        assert_eq!(store.refs().get_ref(&repo(), revision).unwrap(), None);
        store.refs().put_ref(&repo(), revision, &commit(), at).unwrap();
        let kept = store.refs().get_ref(&repo(), revision).unwrap().unwrap();
        assert_eq!((kept.commit.as_str(), kept.at), (commit().as_str(), at));
    }
    assert_eq!(store.refs().get_access(&repo()).unwrap(), None);
    store.refs().put_access(&repo(), true, None, at).unwrap();
    assert!(store.refs().get_access(&repo()).unwrap().unwrap().open);
    let path = root.path().join("api/models/org/m/access.json");
    assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"open":true,"at_ms":1700000000456}"#);
    fs::write(&path, r#"{"open":tr"#).unwrap();
    assert_eq!(store.refs().get_access(&repo()).unwrap(), None);

    // The one case of two things with one name: neither is taken for the other.
    let [gpt2, refs] = ["gpt2", "gpt2/refs"].map(|name| RepoId::parse(RepoKind::Model, name).unwrap());
    store.refs().put_access(&refs, true, None, at).unwrap();
    assert_eq!(store.refs().get_ref(&gpt2, "access").unwrap(), None);
    store.refs().put_ref(&gpt2, "access", &commit(), at).unwrap();
    assert_eq!(store.refs().get_access(&refs).unwrap(), None);
}

/// What was taken back holds, whether the disk is read-only or has no room for it.
#[test]
fn a_no_that_cannot_be_written_holds() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let key = RecordKey::of_repo(&repo(), "info", "/api/models/org/m");
    for read_only in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { block_size: MIB };
        let fill = |store: &Store| {
            store.refs().put_access(&repo(), true, Some("one"), at(5)).unwrap();
            ["a", "b"].into_iter().for_each(|mark| store.refs().put_accepted(&repo(), mark, at(6)).unwrap());
            store.refs().put_holder("whose", "hers".into(), at(6)).unwrap();
        };
        let mut store = open(root.path()).unwrap();
        fill(&store);
        store.refs().put_ref(&repo(), "main", &commit(), at(6)).unwrap();
        let file = ListedFile { oid: sha256_of(b"x"), size: 1, lfs: true, second_hand: false };
        store.listings().append(&repo(), &commit(), &[("x", file)]).unwrap();
        if read_only {
            drop(store);
            store = Store::new(options, Place::read_only(root.path()), None);
        } else {
            // Nothing new can be made, and what is there can be removed.
            fs::remove_dir(root.path().join("tmp")).unwrap();
        }
        let refs = store.refs();
        assert!(refs.get_access(&repo()).unwrap().unwrap().open);
        assert_eq!(refs.put_access(&repo(), false, Some("one"), at(7)).is_ok(), read_only);
        let told = refs.get_access(&repo()).unwrap().unwrap();
        assert_eq!((told.open, told.identity.as_deref()), (false, Some("one")));
        assert_eq!(refs.remove_accepted(&repo(), "a").is_ok(), read_only);
        assert_eq!(refs.get_accepted(&repo(), "a").unwrap(), None);
        refs.remove_holder("whose").unwrap();
        assert_eq!(refs.get_holder("whose").unwrap(), None);
        if read_only {
            assert!(refs.get_accepted(&repo(), "b").unwrap().is_some(), "the others keep what they had");
            // A later yes is one.
            refs.put_accepted(&repo(), "a", at(9)).unwrap();
            assert_eq!(refs.get_accepted(&repo(), "a").unwrap(), Some(at(6)));
        }
        assert!(refs.get_ref(&repo(), "main").unwrap().is_some());
        refs.forget(&repo());
        assert_eq!(refs.get_ref(&repo(), "main").unwrap(), None);
        assert_eq!(refs.get_accepted(&repo(), "b").unwrap(), None);
        assert!(store.listings().load(&repo(), &commit()).unwrap().files.is_empty());
        assert_eq!(store.records().get(&key).unwrap(), None);
        let _ = refs.put_access(&repo(), true, Some("two"), at(8));
        let told = refs.get_access(&repo()).unwrap().unwrap();
        assert_eq!((told.open, told.identity.as_deref()), (true, Some("two")), "the last word counts");
        let _ = refs.put_access(&repo(), false, Some("two"), at(9));

        drop(store);
        if !read_only {
            // Where the yes could be removed, it does not come back with the next process.
            let store = open(root.path()).unwrap();
            assert_eq!(store.refs().get_access(&repo()).unwrap(), None);
            assert_eq!(store.refs().get_ref(&repo(), "main").unwrap(), None);
            // And what can be written counts as ever.
            fill(&store);
            assert!(store.refs().get_access(&repo()).unwrap().unwrap().open);
        }
    }
}

#[test]
fn callers_are_remembered_up_to_a_number() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mark = |n: u64| format!("{n:064x}");
    store.refs().put_accepted(&repo(), &mark(0), at(5)).unwrap();
    assert_eq!(store.refs().get_accepted(&repo(), &mark(0)).unwrap(), Some(at(5)));
    assert_eq!(store.refs().get_accepted(&repo(), &mark(1)).unwrap(), None);
    store.refs().put_accepted(&repo(), &mark(1), at(6)).unwrap();
    store.refs().remove_accepted(&repo(), &mark(0)).unwrap();
    store.refs().remove_accepted(&repo(), &mark(0)).unwrap();
    assert_eq!(store.refs().get_accepted(&repo(), &mark(0)).unwrap(), None);
    assert_eq!(store.refs().get_accepted(&repo(), &mark(1)).unwrap(), Some(at(6)));

    // A full list stays short enough to be read back, and the one accepted longest ago makes room.
    let path = root.path().join("api/models/org/m/accepted.json");
    let full: Vec<String> = (0..2000).map(|n| format!("{:?}:{}", mark(n), 1_700_000_000_000 + n)).collect();
    fs::write(&path, format!("{{\"accepted\":{{{}}}}}", full.join(","))).unwrap();
    store.refs().put_accepted(&repo(), &mark(5000), at(1_800_000_000)).unwrap();
    assert_eq!(store.refs().get_accepted(&repo(), &mark(0)).unwrap(), None);
    for n in [1, 1999, 5000] {
        assert!(store.refs().get_accepted(&repo(), &mark(n)).unwrap().is_some(), "{n}");
    }
}

#[test]
fn the_secret_is_made_once_and_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let secret = open(root.path()).unwrap().secret().unwrap();
    let store = open(root.path()).unwrap();
    assert_eq!(store.secret().unwrap(), secret);
    let path = root.path().join("secret");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, b"short").unwrap();
    assert_ne!(store.secret().unwrap(), secret);
    assert_eq!(fs::metadata(&path).unwrap().len(), 32);
}

#[test]
fn a_time_ahead_is_neither_fresh_nor_lost() {
    let now = SystemTime::now();
    assert!(crate::store::age(now - Duration::from_secs(100)) >= Duration::from_secs(100));
    assert_eq!(crate::store::age(now + Duration::from_secs(20)), Duration::ZERO);
    let ahead = crate::store::age(now + Duration::from_secs(10 * 365 * 86_400));
    assert!(ahead > Duration::from_secs(3600) && ahead < Duration::from_secs(30 * 86_400), "{ahead:?}");
}
