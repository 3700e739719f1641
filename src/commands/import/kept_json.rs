//! An answer as DingoSpeed and Olah keep it: one JSON object with the body in hex.
//!
//! ```text
//! {"version":1,"status_code":200,"headers":{"content-type":"application/json",..},"content":"5b7b2274.."}
//! ```
//!
//! `version` is DingoSpeed's, from 2 on. Olah keeps some bodies as they came over the wire, which was mostly gzip, and says
//! `content-encoding` of the others as well; so the bytes tell, not the header.

use serde::Deserialize;
use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::Path,
};

/// Longest file that is read, and longest body that is unpacked.
const LEN_MAX: u64 = 256 << 20;

/// An answer that was a 200.
#[derive(Debug)]
pub(super) struct KeptJson {
    /// By their names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

#[derive(Deserialize)]
struct OnDisk {
    #[serde(default)]
    version: u64,
    status_code: u16,
    #[serde(default)]
    headers: HashMap<String, String>,
    content: String,
}

/// Reads an answer. None for one that a crash has torn, that was not a 200, or that a later version wrote.
pub(super) fn read(path: &Path) -> Option<KeptJson> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(LEN_MAX).read_to_end(&mut text).ok()?;
    let kept: OnDisk = serde_json::from_slice(&text).ok()?;
    if kept.status_code != 200 || kept.version > 1 {
        return None;
    }
    let body = unpacked(bytes_of(&kept.content)?).ok()?;
    let headers = kept.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Some(KeptJson { headers, body })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(pair[0])? << 4 | digit(*pair.get(1)?)?) as u8)).collect()
}

fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match bytes.as_slice() {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(&bytes[..]).take(LEN_MAX).read_to_end(&mut body)?,
        // zlib, which HTTP calls deflate. No JSON begins so.
        [0x78, ..] => flate2::read::ZlibDecoder::new(&bytes[..]).take(LEN_MAX).read_to_end(&mut body)?,
        _ => return Ok(bytes),
    };
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(text: &str, expected: Option<&[u8]>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        assert_eq!(read(file.path()).map(|kept| kept.body).as_deref(), expected, "{text}");
    }

    #[test]
    fn answers_are_read_in_every_dialect() {
        check(r#"{"version":1,"status_code":200,"headers":{},"content":"5b5d"}"#, Some(b"[]"));
        check(r#"{"status_code":200,"headers":{"X":"y"},"content":"5B5D"}"#, Some(b"[]"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{\"sha\":1}").unwrap();
        let hex: String = gzip.finish().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        check(
            &format!(r#"{{"status_code":200,"headers":{{"content-encoding":"gzip"}},"content":"{hex}"}}"#),
            Some(b"{\"sha\":1}"),
        );
    }

    #[test]
    fn what_is_torn_or_no_answer_is_left_out() {
        for text in [
            "",
            "{",
            r#"{"status_code":404,"headers":{},"content":"5b5d"}"#,
            r#"{"version":2,"status_code":200,"headers":{},"content":"5b5d"}"#,
            r#"{"status_code":200,"headers":{},"content":"5b5"}"#,
            r#"{"status_code":200,"headers":{},"content":"zz"}"#,
            r#"{"status_code":200,"headers":{},"content":"1f8b00"}"#,
        ] {
            check(text, None);
        }
    }
}
