//! Files of DingoSpeed's read by us, and files of ours read as DingoSpeed reads them.

use super::{MIB, assert_admits_only, content, disk::Disk, fill_block, sha256_of};
use crate::{
    hub::Oid,
    store::{
        BlockFile, StoreError,
        block_file::Opened,
        format::{Fill, FormatError, Header, fuzz_decode},
    },
};

const DINGO_MASK_BITS: u64 = 1 << 20;

/// Writes a file as DingoSpeed does, `present` blocks marked and all of `payload` in place.
fn dingo_file(block_size: u64, payload: &[u8], present: &[u64]) -> Vec<u8> {
    let mut file = b"OLAH".to_vec();
    for field in [8, block_size, payload.len() as u64, DINGO_MASK_BITS] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    let mut mask = vec![0u8; (DINGO_MASK_BITS / 8) as usize];
    present.iter().for_each(|index| mask[(index / 8) as usize] |= 1 << (index % 8));
    file.extend_from_slice(&mask);
    file.extend_from_slice(payload);
    file
}

/// Reads a file as DingoSpeed does: everything from the formulas of its format, nothing from our code.
struct DingoReader<'a> {
    file: &'a [u8],
    block_size: usize,
    size: usize,
    header_len: usize,
}

impl<'a> DingoReader<'a> {
    fn open(file: &'a [u8]) -> DingoReader<'a> {
        let field = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        assert_eq!(&file[..4], [0x4f, 0x4c, 0x41, 0x48]);
        assert_eq!(field(4), 8);
        let mask_bits = field(28);
        let reader = DingoReader { file, block_size: field(12), size: field(20), header_len: 36 + mask_bits.div_ceil(8) };
        assert!((1 << 20..=1 << 27).contains(&reader.block_size));
        assert!(reader.size <= mask_bits * reader.block_size);
        reader
    }

    fn block(&self, index: usize) -> Option<&'a [u8]> {
        let start = index * self.block_size;
        let len = self.block_size.min(self.size - start);
        let has = self.file[36 + index / 8] >> (index % 8) & 1 == 1;
        has.then(|| &self.file[self.header_len + start..][..len])
    }
}

fn open(bytes: Vec<u8>, oid: &Oid) -> Result<Opened<Disk>, StoreError> {
    BlockFile::open(Disk::holding(bytes), oid)
}

fn adopt(bytes: Vec<u8>, oid: &Oid) -> (Disk, BlockFile<Disk>) {
    let disk = Disk::holding(bytes);
    match BlockFile::open(disk.clone(), oid).unwrap() {
        Opened::Foreign(foreign) => (disk, foreign.adopt(&mut |_| ()).unwrap()),
        other => panic!("not foreign and complete: {other:?}"),
    }
}

#[test]
fn the_first_worked_example_is_read() {
    let mut golden = vec![
        0x4f, 0x4c, 0x41, 0x48, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, //
        0x00, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, //
        0x00, 0x00, 0x00, 0x00, 0x01,
    ];
    golden.resize(0x20024, 0);
    golden.extend_from_slice(b"hello\n");
    assert_eq!(golden.len(), 131_114);
    assert_eq!(golden, dingo_file(8 * MIB, b"hello\n", &[0]));

    let git = Oid::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
    for oid in [git, sha256_of(b"hello\n")] {
        let (disk, file) = adopt(golden.clone(), &oid);
        assert_eq!((file.size(), file.block_size()), (6, 8 * MIB));
        assert!(file.is_verified() && file.is_checked(0));
        assert_admits_only(&file, b"hello\n");

        // Only a footer was added: DingoSpeed reads on, and we need not hash it again.
        let image = disk.image();
        assert_eq!(image[..golden.len()], golden);
        assert_eq!(DingoReader::open(&image).block(0), Some(&b"hello\n"[..]));
        let Opened::Ours(again) = open(image, &oid).unwrap() else { panic!("not ours") };
        assert!(again.is_verified() && !again.is_checked(0) && again.check(0).unwrap());
    }
}

#[test]
fn the_second_worked_example_is_read() {
    let mut payload = content(2 * MIB, 1);
    payload.extend_from_slice(b"TAIL!");
    let oid = sha256_of(&payload);
    let partial = dingo_file(MIB, &payload, &[0, 2]);
    assert_eq!(partial.len(), 2_228_265);
    assert_eq!(partial[12..20], [0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00]);
    assert_eq!(partial[20..28], [0x05, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00]);
    assert_eq!(partial[36], 0x05);
    assert_eq!(&partial[0x0022_0024..], b"TAIL!");

    // Partial: nothing in it can be proven. Complete: it can.
    assert!(matches!(open(partial, &oid), Ok(Opened::Nothing { .. })));
    let (disk, file) = adopt(dingo_file(MIB, &payload, &[0, 1, 2]), &oid);
    assert_admits_only(&file, &payload);
    assert!(file.is_complete());
    let image = disk.image();
    let reader = DingoReader::open(&image);
    assert_eq!(reader.block(2), Some(&b"TAIL!"[..]));

    // An adopted file mends like any other.
    file.retract(1).unwrap();
    assert!(!file.is_verified());
    fill_block(&file, &payload, 1);
    assert_admits_only(&file, &payload);

    let mask_of = |index| dingo_file(MIB, &[], &[index])[36..38].to_vec();
    assert_eq!(mask_of(9), [0x00, 0x02]);
}

#[test]
fn the_states_of_a_file_are_told_apart() {
    let payload = content(2 * MIB + 5, 2);
    let oid = sha256_of(&payload);
    let state = |bytes: &[u8]| {
        let header = Header::decode(&bytes[..bytes.len().min(36)], bytes.len() as u64)?;
        Ok::<_, FormatError>(header.map(|header| header.fill(&bytes[36..], bytes.len() as u64)))
    };
    let whole = dingo_file(MIB, &payload, &[0, 1, 2]);
    let short = &whole[..whole.len() - 1];
    let mut version_9 = whole.clone();
    version_9[4] = 9;

    assert_eq!(state(&[]), Ok(None));
    assert_eq!(state(&[0; 131_108]), Ok(None), "made, but the header never reached the disk");
    assert_eq!(state(&dingo_file(MIB, &[], &[])), Ok(Some(Fill::HeaderOnly)));
    assert_eq!(state(&dingo_file(MIB, &payload, &[0, 2])), Ok(Some(Fill::Partial)));
    assert_eq!(state(&whole), Ok(Some(Fill::Complete)));
    assert_eq!(state(short), Ok(Some(Fill::Short)));
    assert_eq!(state(b"OLAH"), Err(FormatError::TooShort(4)));
    assert_eq!(state(&[7; 4096]), Err(FormatError::Magic([7; 4])));
    assert_eq!(state(&version_9), Err(FormatError::Version(9)));

    for nothing in [&[][..], &dingo_file(MIB, &payload, &[0, 2]), &dingo_file(MIB, &[], &[])] {
        assert!(matches!(open(nothing.to_vec(), &oid), Ok(Opened::Nothing { .. })));
    }
    assert!(matches!(open(short.to_vec(), &oid), Err(StoreError::Corrupt { .. })));
    assert!(matches!(open(version_9, &oid), Err(StoreError::Corrupt { reason, .. }) if reason.contains("version 9")));
    let padded = [whole, vec![0xaa; 300]].concat();
    assert!(adopt(padded, &oid).1.is_verified(), "what follows the payload is no concern");
}

#[test]
fn wrong_bytes_are_not_adopted() {
    let payload = content(MIB + 9, 3);
    let mut file = dingo_file(MIB, &payload, &[0, 1]);
    let last = file.len() - 1;
    file[last] ^= 1;
    let Opened::Foreign(foreign) = open(file, &sha256_of(&payload)).unwrap() else { panic!("not foreign") };
    assert!(matches!(foreign.adopt(&mut |_| ()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn an_empty_object_needs_only_its_name() {
    let empty = Oid::parse("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").unwrap();
    let (_, file) = adopt(dingo_file(8 * MIB, &[], &[]), &empty);
    assert!(file.is_verified() && file.is_complete());

    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &empty, 0, MIB).unwrap();
    assert!(file.is_complete() && !file.is_verified() && file.missing(0..9).is_none());
    assert!(file.verify_whole(&mut |_| ()).is_ok() && file.is_verified());
    assert!(matches!(open(disk.image(), &empty), Ok(Opened::Ours(file)) if file.is_verified()));
}

#[test]
fn dingospeed_reads_our_files() {
    let all = content(9 * MIB + 77, 4);
    let oid = sha256_of(&all);
    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &oid, all.len() as u64, MIB).unwrap();
    for index in [0, 3, 8, 9] {
        fill_block(&file, &all, index);
    }
    let image = disk.image();
    let reader = DingoReader::open(&image);
    assert_eq!((reader.block_size as u64, reader.size), (MIB, all.len()));
    assert_eq!(reader.header_len, 4096);
    for (index, block) in all.chunks(MIB as usize).enumerate() {
        let wanted = [0, 3, 8, 9].contains(&index).then_some(block);
        assert!(reader.block(index) == wanted, "block {index}");
    }
    assert_eq!(image.len() as u64, file.header().file_len());
}

#[test]
fn our_payload_is_page_aligned_at_any_size() {
    for block_count in [0, 1, 32_480, 32_481, 65_248, 65_249, 1 << 22] {
        let header = Header::ours(block_count * MIB, MIB).unwrap();
        assert_eq!(header.payload_start() % 4096, 0);
        assert_eq!(header.payload_start() == 4096, block_count <= 32_480);
        assert_eq!(Header::decode(&header.encode(), header.file_len()), Ok(Some(header)));
    }
    assert!(Header::ours((1 << 42) + 1, MIB).is_err());
    for block_size in [0, MIB / 2, MIB * 3, 256 * MIB, u64::MAX] {
        assert!(Header::ours(1, block_size).is_err());
    }
}

#[test]
fn a_footer_of_another_object_or_program_is_told() {
    let all = content(MIB, 5);
    let oid = sha256_of(&all);
    let disk = Disk::default();
    let file = BlockFile::create(disk.clone(), &oid, MIB, MIB).unwrap();
    let at = file.header().footer_start() as usize;
    let image = disk.image();
    let other = sha256_of(b"other");
    assert!(matches!(open(image.clone(), &other), Err(StoreError::Corrupt { reason, .. }) if reason.contains(oid.as_str())));

    let mut newer = image;
    newer[at + 8] = 2;
    let crc = crc32c::crc32c(&newer[at..at + 84]);
    newer[at + 84..at + 88].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(open(newer, &oid), Err(StoreError::Version { found: 2, known: 1, .. })));
}

#[test]
fn a_hostile_header_costs_nothing() {
    let mut bytes = dingo_file(MIB, &[], &[])[..100].to_vec();
    for (at, value) in [(20, u64::MAX), (28, u64::MAX), (28, 1 << 40), (12, u64::MAX), (12, 0)] {
        bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        assert!(open(bytes.clone(), &sha256_of(b"")).is_err());
        fuzz_decode(&bytes);
    }
}
