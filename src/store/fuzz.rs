//! Entry points for fuzzing what is read back from the disk: any bytes do, nothing panics, and what must hold is checked.
//!
//! A checksum stands between arbitrary bytes and most of a decoder, so each entry also takes the bytes as the values of a
//! sound file: then what is written must be read back the same, and damage must be noticed.

use super::place::file_name;
use super::{listing, records};
use bytes::Bytes;

/// Reads a kept answer; one that is read, or made from the bytes, is read back the same once written, and a changed bit in
/// it is noticed.
pub fn fuzz_record(data: &[u8]) {
    let read = records::decode(Bytes::copy_from_slice(data)).ok();
    let made = records::mend(data);
    for record in read.into_iter().chain(made) {
        let mut written = records::encode_head(&record).expect("what was read can be written");
        written.extend_from_slice(&record.body);
        assert_eq!(records::decode(Bytes::copy_from_slice(&written)).as_ref(), Ok(&record));

        let at = place_of_damage(data, written.len());
        written[at] ^= 1 << (at % 8);
        // A letter of a number's or an escape's spelling may change and mean the same.
        if let Ok(other) = records::decode(Bytes::from(written)) {
            assert_eq!(other, record, "a changed bit at {at} went unnoticed");
        }
    }
}

/// Reads a listing; one that is read, or made from the bytes, is read back the same once written, and whatever part of it a
/// crash leaves never makes a file of something else, nor a part the whole.
pub fn fuzz_listing(data: &[u8]) {
    let mended = listing::mend(data);
    for text in [data, &mended[..]] {
        let listing = listing::decode(text);
        let written = listing::encode(&listing);
        assert_eq!(listing::decode(&written), listing);

        let torn = listing::decode(&written[..place_of_damage(data, written.len() + 1)]);
        assert!(torn.files.iter().all(|(path, file)| listing.files.get(path) == Some(file)));
        assert!(!torn.complete || torn == listing, "a part of a listing passes for the whole");
    }
}

/// Makes file names of texts: plain, short enough for any file system, and no two the same.
pub fn fuzz_file_name(data: &[u8]) {
    let half = data.len() / 2;
    let (text, other) = (String::from_utf8_lossy(&data[..half]), String::from_utf8_lossy(&data[half..]));
    let name = file_name(&text);
    assert!(name.len() < 240 && !name.starts_with('.'), "{name}");
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'\\'), "{name}");
    assert_eq!(text == other, name == file_name(&other), "{text:?} {other:?}");
}

/// A place below `len` that the bytes choose; `len` must not be zero.
fn place_of_damage(data: &[u8], len: usize) -> usize {
    crc32c::crc32c(data) as usize % len
}
