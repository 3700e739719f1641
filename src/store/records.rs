//! Kept API answers: one file each, a line of JSON and the raw body.
//!
//! ```text
//! {"record":1,"crc32c":..,"len":<body bytes>,"target":"..","status":200,"headers":[["name","value"],..],
//!  "fetched_at_ms":..,"fresh_for_ms":..,"stale_for_ms":..}\n
//! <body>
//! ```
//!
//! (One line; broken here for the page.) The checksum covers the line, with its own field as 0, and the body. A file that does
//! not add up is moved to the quarantine and counts as absent.

use super::{
    StoreError, hash,
    place::{self, Place},
};
use crate::hub::RepoId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Longest body that is kept. The largest answers are tree pages and infos of repos with very many files, a few MiB.
pub const BODY_LEN_MAX: u64 = 64 << 20;
/// Longest first line read back; headers are bounded far below this by the server that took them in.
const HEAD_LEN_MAX: u64 = 1 << 20;
/// No file of ours is longer.
pub(super) const FILE_LEN_MAX: u64 = HEAD_LEN_MAX + BODY_LEN_MAX;
const RECORD_VERSION: u32 = 1;

/// Where a record is kept: a readable name, and the target's hash to tell targets of the same name apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// `models/org/name`, or `site` for answers that belong to no repo.
    dir: String,
    name: String,
    target: String,
}

impl RecordKey {
    /// Names a record of a repo. `name` is short, such as `tree-<commit>`; `target` is the whole normalised target.
    pub fn of_repo(repo: &RepoId, name: &str, target: &str) -> RecordKey {
        RecordKey { dir: format!("{}/{}", repo.kind().plural(), repo.name()), name: name.into(), target: target.into() }
    }

    /// Names a record that belongs to no repo, such as a search.
    pub fn of_site(name: &str, target: &str) -> RecordKey {
        RecordKey { dir: "site".into(), name: name.into(), target: target.into() }
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    fn path(&self, place: &Place) -> PathBuf {
        let name = format!("{}-{}.rec", place::file_name(&self.name), hash::short_hash(&self.target));
        place.root().join("api").join(&self.dir).join(name)
    }
}

/// An API answer as it is kept. Times are rounded down to milliseconds on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub fetched_at: SystemTime,
    /// How long after `fetched_at` it may be used unasked.
    pub fresh_for: Duration,
    /// How long after that it may still be used when upstream cannot be asked.
    pub stale_for: Duration,
    /// What was asked; the same as the key's.
    pub target: String,
    pub body: Bytes,
}

/// The kept answers under `api/`. All calls block.
#[derive(Debug)]
pub struct Records {
    place: Arc<Place>,
    /// Held while a record changes, so that a `touch` does not put back what a `put` just replaced.
    changing: Mutex<()>,
    broken_count: AtomicU64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    record: u32,
    crc32c: u32,
    len: u64,
    target: String,
    status: u16,
    headers: Vec<(String, String)>,
    fetched_at_ms: u64,
    fresh_for_ms: u64,
    stale_for_ms: u64,
}

impl Records {
    pub(super) fn new(place: Arc<Place>) -> Records {
        Records { place, changing: Mutex::new(()), broken_count: AtomicU64::new(0) }
    }

    /// Keeps a record in place of an older one. `TooLarge` when its body is longer than [`BODY_LEN_MAX`].
    pub fn put(&self, key: &RecordKey, record: &Record) -> Result<(), StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_changing(key, record)
    }

    /// Returns the record of exactly this target; none when it is absent or broken.
    pub fn get(&self, key: &RecordKey) -> Result<Option<Record>, StoreError> {
        let path = key.path(&self.place);
        if path.parent().is_some_and(|dir| self.place.is_forgotten(dir)) {
            return Ok(None);
        }
        let Some(bytes) = place::read_bounded(&path, FILE_LEN_MAX)? else { return Ok(None) };
        match decode(Bytes::from(bytes)) {
            Ok(record) if record.target == key.target => Ok(Some(record)),
            // Two targets with one hash: each puts the other out, and neither is mistaken for the other.
            Ok(_) => Ok(None),
            Err(reason) => {
                self.broken_count.fetch_add(1, Ordering::Relaxed);
                if self.place.is_read_only() {
                    return Ok(None);
                }
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                self.place.set_aside(&path, &name, &format!("{}: {reason}", key.target))?;
                Ok(None)
            }
        }
    }

    /// Forgets a record; it need not exist.
    pub fn remove(&self, key: &RecordKey) -> Result<(), StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.place.remove(&key.path(&self.place))
    }

    /// Notes that upstream called the record current at `fetched_at`. Returns false when there is no such record.
    pub fn touch(&self, key: &RecordKey, fetched_at: SystemTime) -> Result<bool, StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.get(key)? else { return Ok(false) };
        self.put_changing(key, &Record { fetched_at, ..record })?;
        Ok(true)
    }

    /// Returns how many broken records were set aside since the start.
    pub fn broken_count(&self) -> u64 {
        self.broken_count.load(Ordering::Relaxed)
    }

    fn put_changing(&self, key: &RecordKey, record: &Record) -> Result<(), StoreError> {
        if record.target != key.target {
            return Err(StoreError::misuse(format!("keep an answer to {} as one to {}", record.target, key.target)));
        }
        let too_large = |len, len_max| StoreError::TooLarge { what: format!("the answer to {}", key.target), len, len_max };
        let len = record.body.len() as u64;
        if len > BODY_LEN_MAX {
            return Err(too_large(len, BODY_LEN_MAX));
        }
        let head = encode_head(record)?;
        if head.len() as u64 > HEAD_LEN_MAX {
            return Err(too_large(head.len() as u64, HEAD_LEN_MAX));
        }
        self.place.replace(&key.path(&self.place), &[&head, &record.body])
    }
}

pub(super) fn encode_head(record: &Record) -> Result<Vec<u8>, StoreError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut head = Head {
        record: RECORD_VERSION,
        crc32c: 0,
        len: record.body.len() as u64,
        target: record.target.clone(),
        status: record.status,
        headers: record.headers.clone(),
        fetched_at_ms: place::unix_ms(record.fetched_at),
        fresh_for_ms: ms(record.fresh_for),
        stale_for_ms: ms(record.stale_for),
    };
    let unwritable = |error: serde_json::Error| StoreError::misuse(format!("write a record as JSON: {error}"));
    head.crc32c = checksum(&head, &record.body).map_err(unwritable)?;
    let mut line = serde_json::to_vec(&head).map_err(unwritable)?;
    line.push(b'\n');
    Ok(line)
}

pub(super) fn decode(bytes: Bytes) -> Result<Record, String> {
    let head_len = bytes.iter().position(|&byte| byte == b'\n').ok_or("its first line does not end")?;
    let mut head: Head =
        serde_json::from_slice(&bytes[..head_len]).map_err(|error| format!("its first line is unreadable: {error}"))?;
    let body = bytes.slice(head_len + 1..);
    if head.record != RECORD_VERSION {
        return Err(format!("it is a record of version {}, only {RECORD_VERSION} is known", head.record));
    }
    if head.len != body.len() as u64 {
        return Err(format!("its body should have {} bytes and has {}", head.len, body.len()));
    }
    let wanted = std::mem::take(&mut head.crc32c);
    let found = checksum(&head, &body).map_err(|error| error.to_string())?;
    if found != wanted {
        return Err(format!("its checksum should be {wanted:08x} and is {found:08x}"));
    }
    Ok(Record {
        status: head.status,
        headers: head.headers,
        fetched_at: place::from_unix_ms(head.fetched_at_ms),
        fresh_for: Duration::from_millis(head.fresh_for_ms),
        stale_for: Duration::from_millis(head.stale_for_ms),
        target: head.target,
        body,
    })
}

/// The line is made again from what was read, so the checksum covers every value in it, whatever its spelling.
fn checksum(head: &Head, body: &[u8]) -> Result<u32, serde_json::Error> {
    Ok(crc32c::crc32c_append(crc32c::crc32c(&serde_json::to_vec(head)?), body))
}

/// Makes a record of bytes as if their length and checksum were right, for fuzzing.
pub(super) fn mend(bytes: &[u8]) -> Option<Record> {
    let head_len = bytes.iter().position(|&byte| byte == b'\n')?;
    let mut head: Head = serde_json::from_slice(&bytes[..head_len]).ok()?;
    let body = &bytes[head_len + 1..];
    (head.record, head.len, head.crc32c) = (RECORD_VERSION, body.len() as u64, 0);
    head.crc32c = checksum(&head, body).ok()?;
    let mut mended = serde_json::to_vec(&head).ok()?;
    mended.push(b'\n');
    mended.extend_from_slice(body);
    Some(decode(Bytes::from(mended)).expect("a record under its own checksum is sound"))
}
