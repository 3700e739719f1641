//! Many threads fill, check and read one object at once, through the real store.

use super::{MIB, content, sha256_of};
use crate::store::{BlockFile, Store, StoreOptions, Verdict, block_file::Opened, layer::FileLayer};
use std::{
    fs::File,
    io,
    sync::{Arc, Barrier},
    thread,
};

#[test]
fn threads_fill_and_read_one_object() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap();
    let all = content(20 * MIB + 3, 1);
    let oid = sha256_of(&all);
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for filler in 0..4u64 {
            let (store, all, oid, start) = (&store, &all, &oid, &start);
            scope.spawn(move || {
                start.wait();
                let object = store.object(oid, all.len() as u64).unwrap();
                // Neighbours share bytes of the mask: thread n takes every fourth block.
                for index in (filler..object.blocks().count()).step_by(4) {
                    super::fill_block(&object, all, index);
                }
            });
        }
        for _ in 0..4 {
            let (store, all, oid, start) = (&store, &all, &oid, &start);
            scope.spawn(move || {
                start.wait();
                let object = store.object(oid, all.len() as u64).unwrap();
                while !object.is_complete() {
                    for index in 0..object.blocks().count() {
                        let span = object.blocks().span(index);
                        if object.check(index).unwrap() {
                            object.load(span.clone()).unwrap();
                            let bytes = object.read(span.clone()).unwrap();
                            assert!(bytes == all[span.start as usize..span.end as usize]);
                        }
                        object.uncheck(index);
                    }
                }
            });
        }
    });
    let object = store.existing(&oid).unwrap().unwrap();
    assert_eq!(object.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
    drop(object);
    assert!(store.existing(&oid).unwrap().unwrap().is_verified(), "opened again, from the disk");
}

#[test]
fn an_oid_has_one_live_object() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap();
    let oid = sha256_of(b"one");
    let start = Barrier::new(8);
    let objects: Vec<_> = thread::scope(|scope| {
        let open = || {
            start.wait();
            store.object(&oid, 3).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(objects.iter().all(|object| Arc::ptr_eq(object, &objects[0])));
}

/// A sparse file before whose writes other threads come in, if nothing keeps them out.
struct Yielding(File);

impl FileLayer for Yielding {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        FileLayer::read_at(&self.0, offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        thread::yield_now();
        FileLayer::write_at(&self.0, offset, bytes)
    }

    fn len(&self) -> io::Result<u64> {
        FileLayer::len(&self.0)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        FileLayer::set_len(&self.0, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        FileLayer::sync_data(&self.0)
    }
}

#[test]
fn neighbours_in_one_byte_of_the_mask_keep_their_marks() {
    const BLOCK_COUNT: u64 = 4000;
    let sparse = tempfile::tempfile().unwrap();
    let oid = sha256_of(b"large");
    let file = BlockFile::create(Yielding(sparse.try_clone().unwrap()), &oid, BLOCK_COUNT * MIB, MIB).unwrap();
    thread::scope(|scope| {
        for first in 0..4 {
            let file = &file;
            scope.spawn(move || (first..BLOCK_COUNT).step_by(4).for_each(|index| file.publish(index, index as u32).unwrap()));
        }
    });
    assert!(file.is_complete());
    let Opened::Ours(again) = BlockFile::open(sparse, &oid).unwrap() else { panic!("not ours") };
    assert_eq!(again.missing(0..BLOCK_COUNT), None);
}
