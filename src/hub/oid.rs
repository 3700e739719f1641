//! Names by content: the id of an object and the id of a commit.

use std::fmt;
use std::hash::{Hash, Hasher};

const SHA1_LEN: usize = 40;
const SHA256_LEN: usize = 64;
const EMPTY_BLOB: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The content id of an object: the sha256 of an LFS file, or the git blob sha1 of a regular one, in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oid {
    /// The digits; those past `len` are zero.
    hex: [u8; SHA256_LEN],
    len: u8,
}

impl Oid {
    /// Returns the id written in `text`, which is 40 or 64 hex digits; upper case is folded to lower.
    pub fn parse(text: &str) -> Option<Oid> {
        let digits = text.as_bytes();
        if !matches!(digits.len(), SHA1_LEN | SHA256_LEN) {
            return None;
        }
        let mut hex = [0; SHA256_LEN];
        copy_hex(digits, &mut hex)?;
        Some(Oid { hex, len: digits.len() as u8 })
    }

    /// Returns the id in an `ETag` or `X-Linked-Etag` value: `"x"`, `W/"x"` or bare. A masked id (asterisks) is no id.
    pub fn from_etag(value: &str) -> Option<Oid> {
        let value = value.trim();
        let value = value.strip_prefix("W/").unwrap_or(value);
        let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        Oid::parse(value)
    }

    /// Returns the hex digits.
    pub fn as_str(&self) -> &str {
        ascii(&self.hex[..usize::from(self.len)])
    }

    /// Says whether the id is the sha256 of the content (an LFS file), not a git blob sha1.
    pub fn is_sha256(&self) -> bool {
        usize::from(self.len) == SHA256_LEN
    }

    /// Says whether this is the id of a file without a byte.
    pub fn is_of_empty(&self) -> bool {
        matches!(self.as_str(), EMPTY_BLOB | EMPTY_SHA256)
    }

    /// Returns the strong entity tag of the object, with its quotes.
    pub fn etag(&self) -> String {
        ["\"", self.as_str(), "\""].concat()
    }

    /// Returns the same id in half the room.
    pub fn packed(&self) -> PackedOid {
        let mut bytes = [0; SHA256_LEN / 2];
        for (byte, pair) in bytes.iter_mut().zip(self.hex.as_chunks::<2>().0) {
            // Past the end of the shorter one stand zeros, which are no digits.
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        PackedOid { bytes, is_sha256: self.is_sha256() }
    }
}

/// An [`Oid`] in half the room, for tables of a million. Those of one kind are in the order of their digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedOid {
    bytes: [u8; SHA256_LEN / 2],
    is_sha256: bool,
}

impl PackedOid {
    /// Bytes that it is written in.
    pub const LEN: usize = SHA256_LEN / 2 + 1;

    /// Returns the byte that the first two digits make.
    pub fn first_byte(&self) -> u8 {
        self.bytes[0]
    }

    /// Returns what [`PackedOid::from_bytes`] takes.
    pub fn to_bytes(self) -> [u8; PackedOid::LEN] {
        let mut bytes = [u8::from(self.is_sha256); PackedOid::LEN];
        bytes[..SHA256_LEN / 2].copy_from_slice(&self.bytes);
        bytes
    }

    pub fn from_bytes(packed: &[u8; PackedOid::LEN]) -> PackedOid {
        let mut bytes = [0; SHA256_LEN / 2];
        bytes.copy_from_slice(&packed[..SHA256_LEN / 2]);
        PackedOid { bytes, is_sha256: packed[SHA256_LEN / 2] != 0 }
    }

    pub fn oid(&self) -> Oid {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let len = if self.is_sha256 { SHA256_LEN } else { SHA1_LEN };
        let mut hex = [0; SHA256_LEN];
        for (pair, byte) in hex[..len].chunks_mut(2).zip(self.bytes) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        Oid { hex, len: len as u8 }
    }
}

/// The id of a commit: 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit([u8; SHA1_LEN]);

impl Commit {
    /// Returns the commit written in `text`, which is exactly 40 hex digits; upper case is folded to lower.
    pub fn parse(text: &str) -> Option<Commit> {
        let mut hex = [0; SHA1_LEN];
        if text.len() != SHA1_LEN {
            return None;
        }
        copy_hex(text.as_bytes(), &mut hex)?;
        Some(Commit(hex))
    }

    /// Returns the hex digits.
    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }
}

impl Hash for Oid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Hash for Commit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PackedOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oid().as_str())
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn copy_hex(digits: &[u8], into: &mut [u8]) -> Option<()> {
    for (digit, place) in digits.iter().zip(into) {
        if !digit.is_ascii_hexdigit() {
            return None;
        }
        *place = digit.to_ascii_lowercase();
    }
    Some(())
}

/// The value of a lower-case hex digit; of anything else it is 0.
fn digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => 0,
    }
}

fn ascii(hex: &[u8]) -> &str {
    std::str::from_utf8(hex).expect("only hex digits are ever copied in")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: &str = "10c66461e4c109db5a2196bff4bb59be30396ed8";
    const SHA256: &str = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707";

    #[test]
    fn packing_loses_nothing_and_keeps_the_order() {
        let check = |text: &str| {
            let oid = Oid::parse(text).unwrap();
            assert_eq!(oid.packed().oid(), oid);
            assert_eq!(PackedOid::from_bytes(&oid.packed().to_bytes()), oid.packed());
            assert_eq!(format!("{:02x}", oid.packed().first_byte()), text[..2]);
        };
        [SHA1, SHA256, &"0".repeat(40), &"f".repeat(64)].into_iter().for_each(check);
        let zeros = [&"0".repeat(40), &"0".repeat(64)].map(|text| Oid::parse(text).unwrap().packed());
        assert_ne!(zeros[0], zeros[1], "of two kinds");
        let packed = |digit: &str| Oid::parse(&digit.repeat(64)).unwrap().packed();
        assert!(packed("9") < packed("a") && packed("1") < packed("9"));
    }

    #[test]
    fn an_etag_in_any_of_its_spellings_gives_the_oid() {
        fn check(value: &str, expected: Option<&str>) {
            assert_eq!(Oid::from_etag(value).as_ref().map(Oid::as_str), expected, "{value}");
        }
        check(SHA1, Some(SHA1));
        check(&format!("\"{SHA1}\""), Some(SHA1));
        check(&format!("W/\"{SHA256}\""), Some(SHA256));
        check(&format!(" \"{}\" ", SHA256.to_uppercase()), Some(SHA256));
        check(&format!("\"{}\"", "*".repeat(64)), None);
        check(&format!("\"{SHA1}-gzip\""), None);
        check("W/\"f-mY2VvLxuxB7KhsoOdQTlMTccuAQ\"", None);
        check("", None);
        check("\"", None);
        check(&"é".repeat(20), None);
    }

    #[test]
    fn the_length_tells_the_kind_of_hash() {
        assert!(Oid::parse(SHA256).is_some_and(|oid| oid.is_sha256()));
        assert!(Oid::parse(SHA1).is_some_and(|oid| !oid.is_sha256()));
        assert_eq!(Commit::parse(SHA256), None);
        assert_eq!(Commit::parse(SHA1).map(|commit| commit.to_string()), Some(SHA1.to_owned()));
    }
}
