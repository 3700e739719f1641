//! Power is lost at any moment: no wrong block is ever admitted afterwards, and nothing panics.

use super::{
    MIB, assert_admits_only, block_of, content,
    disk::{Disk, Fate},
    fill_block, reopen, sha256_of,
};
use crate::store::{BlockFile, Verdict};
use proptest::prelude::*;

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![Just(Fate::Kept), Just(Fate::Lost), any::<(u8, u8)>().prop_map(|(from, to)| Fate::Torn { from, to })]
}

#[derive(Clone, Debug)]
enum Step {
    Fill(u64),
    WriteOnly(u64),
    Retract(u64),
    Verify,
    Sync,
    Crash(Vec<Fate>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u64).prop_map(Step::Fill),
        1 => (0..4u64).prop_map(Step::WriteOnly),
        2 => (0..4u64).prop_map(Step::Retract),
        2 => Just(Step::Verify),
        1 => Just(Step::Sync),
        3 => prop::collection::vec(fate(), 1..12).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_crash_admits_a_wrong_block(steps in prop::collection::vec(step(), 1..24), seed: u64) {
        let all = content(3 * MIB + 100, seed);
        let oid = sha256_of(&all);
        let mut disk = Disk::default();
        let mut file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
        for step in steps {
            match step {
                Step::Fill(index) if !file.is_present(index) => fill_block(&file, &all, index),
                Step::WriteOnly(index) if !file.is_present(index) => {
                    let block = block_of(&file, &all, index);
                    file.write(index * MIB, &block[..block.len() / 2]).unwrap();
                }
                Step::Fill(_) | Step::WriteOnly(_) => {}
                Step::Retract(index) => file.retract(index).unwrap(),
                Step::Verify => {
                    let verdict = file.verify_whole(&mut |_| ()).unwrap();
                    prop_assert_eq!(verdict == Verdict::Verified, file.is_complete());
                }
                Step::Sync => file.sync().unwrap(),
                Step::Crash(fates) => {
                    disk = disk.crash(&fates);
                    file = match reopen(disk.clone(), &oid) {
                        Some(file) => file,
                        None => {
                            disk = Disk::default();
                            BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap()
                        }
                    };
                    assert_admits_only(&file, &all);
                }
            }
        }
    }
}

#[test]
fn a_lost_write_is_found_whichever_part_survived() {
    let all = content(2 * MIB, 7);
    let oid = sha256_of(&all);
    // The three writes of one fill: bytes, checksum, bit. Each survives or not.
    for survivors in 0..8 {
        let disk = Disk::default();
        let file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
        file.sync().unwrap();
        fill_block(&file, &all, 1);
        let fates: Vec<Fate> = (0..3).map(|nth| if survivors >> nth & 1 == 1 { Fate::Kept } else { Fate::Lost }).collect();
        let file = reopen(disk.crash(&fates), &oid).unwrap();
        assert_eq!(file.is_present(1), survivors & 4 != 0);
        assert_eq!(file.check(1).unwrap(), survivors == 7);
        assert!(!file.check(0).unwrap());
    }
}

#[test]
fn a_verified_mark_does_not_outlive_its_blocks() {
    let all = content(2 * MIB, 8);
    let oid = sha256_of(&all);
    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
    (0..2).for_each(|index| fill_block(&file, &all, index));
    assert_eq!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
    file.sync().unwrap();

    // A block is lost; the crash keeps its absence, and loses the clearing of the mark.
    let before = Disk::holding(disk.image());
    let lossy = reopen(before.clone(), &oid).unwrap();
    lossy.retract(1).unwrap();
    let after = reopen(before.crash(&[Fate::Kept, Fate::Lost]), &oid).unwrap();
    assert!(!after.is_complete() && !after.is_verified());

    // A block is lost and filled again, this time with wrong bytes from upstream. The crash loses only the mark's clearing.
    file.retract(1).unwrap();
    let wrong = content(MIB, 9);
    file.write(MIB, &wrong).unwrap();
    file.publish(1, crc32c::crc32c(&wrong)).unwrap();
    assert!(file.is_complete() && !file.is_verified());
    let fates = [Fate::Kept, Fate::Lost, Fate::Kept, Fate::Kept, Fate::Kept];
    let file = reopen(disk.crash(&fates), &oid).unwrap();
    assert!(file.is_complete() && !file.is_verified(), "the seal covers other checksums");
    assert!(matches!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Mismatch { .. }));
}

#[test]
fn a_file_cut_anywhere_and_a_torn_header_or_footer_admit_nothing_wrong() {
    let all = content(2 * MIB + 9, 11);
    let oid = sha256_of(&all);
    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
    (0..3).for_each(|index| fill_block(&file, &all, index));
    assert_eq!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
    let (payload, footer) = (file.header().payload_start() as usize, file.header().footer_start() as usize);
    let image = disk.image();
    let look = |what: &str, bytes: Vec<u8>| {
        let Some(file) = reopen(Disk::holding(bytes), &oid) else { return };
        assert_eq!(file.size(), all.len() as u64, "{what}: another size counts");
        assert_admits_only(&file, &all);
    };
    let edges = [payload, payload + MIB as usize, footer, image.len()];
    let cuts =
        (0..80).chain(edges.into_iter().flat_map(|edge| edge - 9..=(edge + 9).min(image.len()))).chain(footer..image.len());
    for cut in cuts {
        look(&format!("cut at {cut}"), image[..cut].to_vec());
    }
    for at in (0..80).chain(payload - 8..payload).chain(footer..image.len() - 8) {
        for fill in [0, 0xff] {
            let mut torn = image.clone();
            torn[at..at + 8].fill(fill);
            look(&format!("{fill} at {at}"), torn);
        }
    }
}
