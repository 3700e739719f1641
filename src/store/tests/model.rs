//! Random operations, damage and reopening against a plain `Vec<u8>`.

use super::{MIB, assert_admits_only, block_of, content, disk::Disk, reopen, sha256_of};
use crate::store::{BlockFile, StoreError, Verdict, block_file::Opened};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Write a block in pieces of this many bytes, then publish it.
    Fill {
        block: u64,
        piece_len: usize,
    },
    Retract(u64),
    Uncheck(u64),
    Reopen,
    Verify,
    /// Flip bits of one byte: place within the payload, the footer or the header.
    FlipPayload(usize, u8),
    FlipFooter(usize, u8),
    FlipHeader(usize, u8),
    Truncate(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4u64, 1000..600_000usize).prop_map(|(block, piece_len)| Step::Fill { block, piece_len }),
        1 => (0..4u64).prop_map(Step::Retract),
        1 => (0..4u64).prop_map(Step::Uncheck),
        3 => Just(Step::Reopen),
        2 => Just(Step::Verify),
        1 => any::<(usize, u8)>().prop_map(|(at, mask)| Step::FlipPayload(at, mask | 1)),
        1 => any::<(usize, u8)>().prop_map(|(at, mask)| Step::FlipFooter(at, mask | 1)),
        1 => any::<(usize, u8)>().prop_map(|(at, mask)| Step::FlipHeader(at % 64, mask | 1)),
        1 => any::<usize>().prop_map(Step::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_check_admits_is_the_object(steps in prop::collection::vec(step(), 1..30), seed: u64, tail in 0..MIB) {
        let all = content(3 * MIB + tail, seed);
        let size = all.len() as u64;
        let oid = sha256_of(&all);
        let create = || {
            let disk = Disk::default();
            (disk.clone(), BlockFile::create(disk, &oid, size, MIB).unwrap())
        };
        let (mut disk, mut file) = create();
        for step in steps {
            let header = *file.header();
            let damaged = match step {
                Step::Fill { block, piece_len } => {
                    let span = file.blocks().span(block);
                    let bytes = block_of(&file, &all, block);
                    if block >= file.blocks().count() {
                        prop_assert!(file.publish(block, 0).is_err());
                    } else if file.is_present(block) {
                        let refused = matches!(file.write(span.start, &bytes), Err(StoreError::Misuse { .. }));
                        prop_assert!(refused);
                    } else {
                        for (nth, piece) in bytes.chunks(piece_len).enumerate() {
                            file.write(span.start + (nth * piece_len) as u64, piece).unwrap();
                        }
                        file.publish(block, crc32c::crc32c(&bytes)).unwrap();
                        prop_assert!(file.is_checked(block));
                    }
                    false
                }
                Step::Retract(block) => {
                    prop_assert_eq!(file.retract(block).is_ok(), block < file.blocks().count());
                    prop_assert!(!file.is_present(block));
                    false
                }
                Step::Uncheck(block) => {
                    file.uncheck(block);
                    false
                }
                Step::Verify => {
                    let mismatch = matches!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Mismatch { .. });
                    prop_assert!(!mismatch);
                    false
                }
                Step::Reopen => true,
                Step::FlipPayload(at, mask) => {
                    disk.flip(header.payload_start() as usize + at % size as usize, mask);
                    true
                }
                Step::FlipFooter(at, mask) => {
                    let len = header.file_len() - header.footer_start();
                    disk.flip(header.footer_start() as usize + at % len as usize, mask);
                    true
                }
                Step::FlipHeader(at, mask) => {
                    disk.flip(at, mask);
                    true
                }
                Step::Truncate(len) => {
                    disk.truncate(len % (header.file_len() as usize + 1));
                    true
                }
            };
            if damaged {
                disk = Disk::holding(disk.image());
                (disk, file) = match reopen(disk.clone(), &oid) {
                    // What the store does: another size is another object.
                    Some(file) if file.size() == size => (disk, file),
                    _ => create(),
                };
                // Only what was in memory before is trusted without a look; after reopening nothing is.
                assert_admits_only(&file, &all);
            }
        }
        // Whatever happened, the object can be completed from here and proves whole.
        while let Some(run) = file.missing(0..u64::MAX) {
            run.for_each(|block| super::fill_block(&file, &all, block));
        }
        prop_assert!(file.is_complete());
        prop_assert_eq!(file.present_len(), size);
        prop_assert_eq!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
        let again = reopen(Disk::holding(disk.image()), &oid).unwrap();
        prop_assert!(again.is_verified());
        assert_admits_only(&again, &all);
        prop_assert!(again.is_complete());
    }

    #[test]
    fn any_bytes_are_opened_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..400), spoil: bool) {
        // Half the cases begin as a header does, to get past the magic.
        if spoil && bytes.len() >= 36 {
            bytes[..12].copy_from_slice(b"OLAH\x08\0\0\0\0\0\0\0");
            bytes[12..20].copy_from_slice(&MIB.to_le_bytes());
            bytes[22..28].fill(0);
            bytes[29..36].fill(0);
        }
        crate::store::format::fuzz_decode(&bytes);
        let oid = sha256_of(b"something else");
        let disk = Disk::holding(bytes);
        if let Ok(Opened::Foreign(foreign)) = BlockFile::open(disk, &oid) {
            prop_assert!(foreign.adopt(&mut |_| ()).is_err());
        }
    }
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let all = content(2 * MIB, 3);
    let oid = sha256_of(&all);
    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
    super::fill_block(&file, &all, 0);
    disk.fill_up(true);
    assert!(matches!(file.write(MIB, &all[MIB as usize..]), Err(StoreError::Full { .. })));
    assert!(matches!(file.publish(1, 0), Err(StoreError::Full { .. })));
    assert!(!file.is_present(1) && file.is_checked(0));
    assert!(file.retract(0).is_err() && !file.is_present(0), "memory forgets it even when the disk refuses");
    disk.fill_up(false);
    (0..2).for_each(|index| super::fill_block(&file, &all, index));
    assert_eq!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
}

#[test]
fn publishing_twice_must_agree() {
    let all = content(MIB, 4);
    let file = BlockFile::create(Disk::default(), &sha256_of(&all), MIB, MIB).unwrap();
    super::fill_block(&file, &all, 0);
    file.publish(0, crc32c::crc32c(&all)).unwrap();
    assert!(matches!(file.publish(0, 1), Err(StoreError::Misuse { .. })));
    assert_eq!(file.present_count(), 1);
}

#[test]
fn rot_found_in_passing_is_not_blamed_on_upstream() {
    let all = content(3 * MIB, 5);
    let oid = sha256_of(&all);
    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
    (0..3).for_each(|index| super::fill_block(&file, &all, index));
    disk.flip(file.header().payload_start() as usize + MIB as usize + 5, 0x10);
    assert_eq!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Incomplete { absent: 1 });
    assert_eq!(file.missing(0..3), Some(1..2));
    super::fill_block(&file, &all, 1);
    assert_eq!(file.verify_whole(&mut |_| ()).unwrap(), Verdict::Verified);
}

#[test]
fn missing_tells_run_after_run() {
    let file = BlockFile::create(Disk::default(), &sha256_of(b""), 200 * MIB, MIB).unwrap();
    for index in [0, 1, 5, 64, 127, 128] {
        file.publish(index, 0).unwrap();
    }
    let check = |range: std::ops::Range<u64>, expected| assert_eq!(file.missing(range.clone()), expected, "{range:?}");
    check(0..200, Some(2..5));
    check(5..200, Some(6..64));
    check(65..100, Some(65..100));
    check(127..129, None);
    check(128..u64::MAX, Some(129..200));
    check(200..300, None);
}
