//! Random traces of reads, pins and passes on real files, whole objects and parts of others, against a model by hand: what goes is the
//! front of the strategy's order and no more of it than must, what is pinned or in use loses nothing, what comes again is right, and a dry
//! run says what then happens.

use super::MIB;
use crate::{
    hub::{Commit, FilePath, Oid, RepoId, RepoKind},
    store::{Limits, Pass, PassOptions, Pin, Store, StoreOptions, Strategy, Sweep, heat},
};
use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*, strategy::Strategy as _};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Objects of which parts are read; the others are of so many MiB as their number says, and read as wholes.
const PARTIAL_COUNT: usize = 3;
const OBJECT_COUNT: usize = 6;
const PARTIAL_MIB: u64 = 128;
/// Parts that are ever read, so that none of these objects is ever whole.
const PARTS_MAX: u64 = 60;
/// Below this an object goes as a whole.
const SPLIT_LEN_MIN: u64 = 16 * MIB;
/// By which the sum of what files take may differ from one look to the next; less than what a need has to spare.
const BESIDE_LEN_MAX: u64 = MIB / 4;
/// Far above what is there: what comes is said to be as much as it takes to pass it.
const KEPT_LEN_MAX: u64 = 1 << 40;

#[derive(Clone, Debug)]
enum Step {
    Read {
        name: usize,
        parts: std::ops::Range<u64>,
    },
    Pin(usize),
    Unpin(usize),
    /// Somebody has bytes of it.
    Hold(usize),
    Release(usize),
    Evict {
        mib: u64,
        sweep: Sweep,
    },
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let name = 0..OBJECT_COUNT;
    let sweep = prop_oneof![Just(Sweep::Nothing), Just(Sweep::Some), Just(Sweep::All)];
    prop_oneof![
        9 => (name.clone(), 0..PARTS_MAX, 1..9_u64)
            .prop_map(|(name, start, count)| Step::Read { name, parts: start..(start + count).min(PARTS_MAX) }),
        1 => name.clone().prop_map(Step::Pin),
        1 => name.clone().prop_map(Step::Unpin),
        1 => name.clone().prop_map(Step::Hold),
        1 => name.prop_map(Step::Release),
        4 => (0..20_u64, sweep).prop_map(|(mib, sweep)| Step::Evict { mib, sweep }),
    ]
}

/// What the model knows of an object.
#[derive(Default)]
struct Thing {
    present: BTreeSet<u64>,
    read_ms: u64,
    arrived_ms: u64,
    /// Of one that is not whole: when its parts were read.
    parts_ms: Option<[u64; heat::PART_COUNT as usize]>,
    pinned: bool,
    held: Option<(u64, Bytes)>,
}

/// What may go: its place in the order, the bytes, the object, and its part.
type Item = ((u64, u64), Oid, Option<u64>, u64);

struct Trace {
    root: tempfile::TempDir,
    store: Store,
    strategy: Strategy,
    things: Vec<Thing>,
    clock: u64,
}

fn oid(name: usize) -> Oid {
    Oid::parse(&format!("{name:x}").repeat(64)).unwrap()
}

fn size(name: usize) -> u64 {
    if name < PARTIAL_COUNT { PARTIAL_MIB * MIB } else { name as u64 * MIB }
}

fn blob_of(root: &Path, name: usize) -> PathBuf {
    let oid = oid(name);
    root.join("blobs").join(&oid.as_str()[..2]).join(oid.as_str())
}

fn block(name: usize, block_index: u64) -> Vec<u8> {
    let mut bytes = vec![(name as u64 * 41 + block_index) as u8 | 1; MIB as usize];
    bytes[..8].copy_from_slice(&(block_index << 8 | name as u64).to_le_bytes());
    bytes
}

fn repo(name: usize) -> RepoId {
    RepoId::parse(RepoKind::Model, &format!("a/{name}")).unwrap()
}

fn pin(name: usize) -> [Pin; 1] {
    [Pin { repo: repo(name), revision: None }]
}

impl Trace {
    fn new(strategy: Strategy) -> Trace {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions { block_size: MIB }).unwrap();
        store.set_limits(Limits { strategy, kept_len_max: KEPT_LEN_MAX, ..Limits::default() });
        let things = (0..OBJECT_COUNT).map(|_| Thing::default()).collect();
        Trace { root, store, strategy, things, clock: 1_700_000_000 }
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.clock)
    }

    fn blob(&self, name: usize) -> PathBuf {
        blob_of(self.root.path(), name)
    }

    /// Bytes on the disk; none when there is no such file.
    fn allocated_len(&self, name: usize) -> Option<u64> {
        fs::metadata(self.blob(name)).ok().map(|meta| meta.blocks() * 512)
    }

    fn step(&mut self, step: &Step) {
        // Longer than a file's time is coarse.
        self.clock += 1;
        match step {
            Step::Read { name, parts } => self.read(*name, parts.clone()),
            Step::Pin(name) => {
                self.store.view().change_pins(&pin(*name), &[]).unwrap();
                self.things[*name].pinned = true;
            }
            Step::Unpin(name) => {
                self.store.view().change_pins(&[], &pin(*name)).unwrap();
                self.things[*name].pinned = false;
            }
            Step::Hold(name) => {
                let Some(first) = self.things[*name].present.first().copied() else { return };
                let object = self.store.existing(&oid(*name)).unwrap().unwrap();
                let bytes = object.read(first * MIB..(first + 1) * MIB).unwrap();
                self.things[*name].held = Some((first, bytes));
            }
            Step::Release(name) => {
                if let Some((block_index, bytes)) = self.things[*name].held.take() {
                    assert!(bytes == block(*name, block_index), "what somebody has stays what it was");
                }
            }
            Step::Evict { mib, sweep } => self.evict(*mib, *sweep),
        }
    }

    /// Reads as the mirror does: what is absent is fetched first.
    fn read(&mut self, name: usize, parts: std::ops::Range<u64>) {
        let object = self.store.object(&oid(name), size(name)).unwrap();
        let block_count = object.blocks().count();
        let blocks = match name < PARTIAL_COUNT {
            true => heat::blocks_of(parts.start, block_count).start..heat::blocks_of(parts.end, block_count).start,
            false => 0..block_count,
        };
        let thing = &mut self.things[name];
        let mut filled = false;
        for block_index in blocks.clone() {
            let bytes = block(name, block_index);
            assert_eq!(object.is_present(block_index), thing.present.contains(&block_index), "{name} {block_index}");
            if thing.present.insert(block_index) {
                object.write(block_index * MIB, &bytes).unwrap();
                object.publish(block_index, crc32c::crc32c(&bytes)).unwrap();
                filled = true;
            }
            assert!(object.check(block_index).unwrap(), "{name} {block_index}");
            let span = block_index * MIB..(block_index + 1) * MIB;
            assert!(object.copy(span, BytesMut::new()).unwrap() == bytes, "{name} {block_index}");
        }
        drop(object);
        let (now, now_ms) = (self.now(), self.clock * 1000);
        self.store.recency.touch(&oid(name), now);
        self.things[name].read_ms = now_ms;
        if name < PARTIAL_COUNT {
            self.store.heat.note(&oid(name), block_count, blocks, now);
            let parts_ms = self.things[name].parts_ms.get_or_insert([now_ms; heat::PART_COUNT as usize]);
            parts.for_each(|part| parts_ms[part as usize] = now_ms);
        }
        if filled {
            let file = fs::File::options().write(true).open(self.blob(name)).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(now)).unwrap();
            self.things[name].arrived_ms = now_ms;
            let (commit, path) = (Commit::parse(&"c".repeat(40)).unwrap(), FilePath::parse("w.bin").unwrap());
            self.store.link(&repo(name), &commit, &path, &oid(name)).unwrap();
        }
    }

    /// What may go, in the order in which it does.
    fn queue(&self) -> Vec<(usize, Item)> {
        let mut queue = Vec::new();
        for (name, thing) in self.things.iter().enumerate().filter(|(_, thing)| !thing.pinned) {
            let Some(len) = self.allocated_len(name) else { continue };
            let splits = self.strategy == Strategy::Lru && len >= SPLIT_LEN_MIN && self.store.makes_holes();
            match thing.parts_ms.filter(|_| splits) {
                Some(parts_ms) => {
                    let parts: BTreeSet<u64> = thing.present.iter().map(|block_index| block_index / 2).collect();
                    for part in parts {
                        let count = thing.present.range(2 * part..2 * part + 2).count() as u64;
                        queue.push((name, ((parts_ms[part as usize], 0), oid(name), Some(part), count * MIB)));
                    }
                }
                None => {
                    let order = match self.strategy {
                        Strategy::Lru => (thing.read_ms, 0),
                        Strategy::Fifo => (thing.arrived_ms, 0),
                        Strategy::LargeFirst => (u64::MAX - len, thing.read_ms),
                    };
                    queue.push((name, (order, oid(name), None, len)));
                }
            }
        }
        queue.sort_by_key(|(_, item)| *item);
        queue
    }

    /// The blocks that are there.
    fn present(&self, name: usize) -> BTreeSet<u64> {
        let Some(object) = self.store.existing(&oid(name)).unwrap() else { return BTreeSet::new() };
        (0..object.blocks().count()).filter(|block_index| object.is_present(*block_index)).collect()
    }

    fn evict(&mut self, mib: u64, sweep: Sweep) {
        // Half a MiB more, so that what a file takes beside its blocks makes no difference.
        let need_len = mib * MIB + MIB / 2;
        let kept_len: u64 = (0..OBJECT_COUNT).filter_map(|name| self.allocated_len(name)).sum();
        let queue = self.queue();
        let options = PassOptions { coming_len: KEPT_LEN_MAX - kept_len + need_len, sweep };
        let would = self.store.would_pass(&options).unwrap();
        let pass = self.store.pass(&options).unwrap();
        // A file system may count what a file takes beside its blocks only later.
        let is_about = |len: u64, expected: u64| len.abs_diff(expected) <= BESIDE_LEN_MAX;
        let is_needed = pass.need.is_some_and(|need| is_about(need.len, need_len));
        assert!(is_about(pass.kept_len, kept_len) && is_needed, "{kept_len} {need_len} {pass:?}");
        let told = |pass: &Pass| (pass.blob_count, pass.pinned_count, pass.evicted_count, pass.part_count, pass.in_use_count);
        assert_eq!(told(&would), told(&pass), "a dry run tells the same: {would:?} {pass:?}");

        let now: Vec<BTreeSet<u64>> = (0..OBJECT_COUNT).map(|name| self.present(name)).collect();
        for (name, thing) in self.things.iter().enumerate() {
            let stays = thing.pinned || thing.held.is_some();
            assert!(!stays || now[name] == thing.present, "{name} is pinned or in use");
            assert!(now[name].is_subset(&thing.present));
        }
        let is_gone = |(name, (_, _, part, _)): &&(usize, Item)| match part {
            None => now[*name].is_empty(),
            Some(part) => now[*name].range(2 * part..2 * part + 2).next().is_none(),
        };
        let free: Vec<&(usize, Item)> = queue.iter().filter(|(name, _)| self.things[*name].held.is_none()).collect();
        let gone = free.iter().take_while(|item| is_gone(item)).count();
        assert!(!free[gone..].iter().any(is_gone), "what goes is the front of {free:?}: {pass:?}");
        let len = |items: &[&(usize, Item)]| items.iter().map(|(_, (_, _, _, len))| len).sum::<u64>();
        assert!(len(&free[..gone.saturating_sub(1)]) < need_len, "no more than must: {free:?} {pass:?}");
        assert!(pass.evicted_len >= need_len || gone == free.len(), "as much as must: {free:?} {pass:?}");
        assert_eq!(pass.falls_short(), pass.evicted_len < need_len);
        // Nothing else has gone.
        let parts_gone = free[..gone].iter().map(|(name, (_, _, part, _))| (*name, *part)).collect::<BTreeSet<_>>();
        for (name, thing) in self.things.iter_mut().enumerate() {
            let went =
                |block_index: &u64| parts_gone.contains(&(name, None)) || parts_gone.contains(&(name, Some(block_index / 2)));
            thing.present.retain(|block_index| !went(block_index));
            assert_eq!(thing.present, now[name], "{name}");
            if thing.present.is_empty() {
                thing.parts_ms = None;
                assert!(!blob_of(self.root.path(), name).exists());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_is_what_the_model_says(steps in vec(step(), 20..60)) {
        for strategy in [Strategy::Lru, Strategy::Fifo, Strategy::LargeFirst] {
            let mut trace = Trace::new(strategy);
            steps.iter().for_each(|step| trace.step(step));
        }
    }
}
