//! What is known of a commit's files: an append-only file of JSON lines, for a commit never changes.
//!
//! ```text
//! {"path":"a/b.json","oid":"..","size":6,"lfs":false,"crc32c":..}
//! {"complete":true,"files":1}
//! {"imported":true}
//! ```
//!
//! A crash can lose any part of it. A line that is torn, or fails its checksum (over path, oid, size and lfs), is left out; and the
//! final line tells how many files there are, so a listing that lost some is not taken for complete.

use super::{
    StoreError,
    place::{self, Place},
};
use crate::hub::{Commit, Oid, RepoId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

/// Longest listing that is read back: about two million files. A longer one is as good as absent.
const LISTING_LEN_MAX: u64 = 512 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    pub oid: Oid,
    pub size: u64,
    /// Kept in LFS, so that the oid is a sha256.
    pub lfs: bool,
}

/// The files of one commit, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub files: HashMap<Box<str>, ListedFile>,
    /// All of the commit's files are here: a path that is not does not exist.
    pub complete: bool,
    /// It came from another store, which may not have known all of them. While upstream cannot be asked it stands for the whole.
    pub imported: bool,
}

/// The listings under `api/`. All calls block.
#[derive(Debug)]
pub struct Listings {
    place: Arc<Place>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    File { path: Box<str>, oid: String, size: u64, lfs: bool, crc32c: u32 },
    Complete { complete: bool, files: u64 },
    Imported { imported: bool },
}

impl Listings {
    pub(super) fn new(place: Arc<Place>) -> Listings {
        Listings { place }
    }

    /// Returns what is known; nothing known is an empty listing.
    pub fn load(&self, repo: &RepoId, commit: &Commit) -> Result<Listing, StoreError> {
        let bytes = place::read_bounded(&self.path(repo, commit), LISTING_LEN_MAX)?;
        Ok(decode(&bytes.unwrap_or_default()))
    }

    /// Adds files; one told again replaces what was known of its path.
    pub fn append(&self, repo: &RepoId, commit: &Commit, files: &[(&str, ListedFile)]) -> Result<(), StoreError> {
        let lines = files.iter().map(|(path, file)| Line::File {
            path: (*path).into(),
            oid: file.oid.to_string(),
            size: file.size,
            lfs: file.lfs,
            crc32c: checksum(path, file.oid.as_str(), file.size, file.lfs),
        });
        self.write(repo, commit, lines)
    }

    /// Says that the commit has exactly `file_count` files and all of them were appended.
    pub fn mark_complete(&self, repo: &RepoId, commit: &Commit, file_count: u64) -> Result<(), StoreError> {
        self.write(repo, commit, [Line::Complete { complete: true, files: file_count }].into_iter())
    }

    /// Says that what is listed is all that another store knew of the commit.
    pub fn mark_imported(&self, repo: &RepoId, commit: &Commit) -> Result<(), StoreError> {
        self.write(repo, commit, [Line::Imported { imported: true }].into_iter())
    }

    /// Writes all lines with one call, so that those of two threads do not mix.
    ///
    /// It begins with a line end: after a line that a crash left torn, ours would otherwise be read as its tail.
    fn write(&self, repo: &RepoId, commit: &Commit, lines: impl Iterator<Item = Line>) -> Result<(), StoreError> {
        if self.place.is_read_only() {
            return Ok(());
        }
        let path = self.path(repo, commit);
        let mut text = vec![b'\n'];
        for line in lines {
            serde_json::to_writer(&mut text, &line)
                .map_err(|error| StoreError::misuse(format!("list a file as JSON: {error}")))?;
            text.push(b'\n');
        }
        let open = || File::options().append(true).create(true).open(&path);
        let opened = open().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| open()),
            _ => Err(error),
        });
        opened.and_then(|mut file| file.write_all(&text)).map_err(|error| StoreError::io("append to", path.display(), error))
    }

    fn path(&self, repo: &RepoId, commit: &Commit) -> PathBuf {
        self.place.api(repo).join("commits").join(format!("{}.jsonl", commit.as_str()))
    }
}

pub(super) fn decode(bytes: &[u8]) -> Listing {
    let mut files = HashMap::new();
    let mut file_count = None;
    let mut imported = false;
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line::File { path, oid, size, lfs, crc32c }) if crc32c == checksum(&path, &oid, size, lfs) => {
                if let Some(oid) = Oid::parse(&oid) {
                    files.insert(path, ListedFile { oid, size, lfs });
                }
            }
            Ok(Line::Complete { complete: true, files }) => file_count = Some(files),
            Ok(Line::Imported { imported: true }) => imported = true,
            _ => {}
        }
    }
    let complete = file_count == Some(files.len() as u64);
    Listing { files, complete, imported }
}

fn checksum(path: &str, oid: &str, size: u64, lfs: bool) -> u32 {
    crc32c::crc32c(format!("{path}\0{oid}\0{size}\0{lfs}").as_bytes())
}

/// Writes a whole listing, for fuzzing.
pub(super) fn encode(listing: &Listing) -> Vec<u8> {
    let line = |path: &str, file: &ListedFile| {
        let crc32c = checksum(path, file.oid.as_str(), file.size, file.lfs);
        Line::File { path: path.into(), oid: file.oid.to_string(), size: file.size, lfs: file.lfs, crc32c }
    };
    let end = listing.complete.then_some(Line::Complete { complete: true, files: listing.files.len() as u64 });
    let imported = listing.imported.then_some(Line::Imported { imported: true });
    written(listing.files.iter().map(|(path, file)| line(path, file)).chain(imported).chain(end))
}

/// Gives every line of a file its right checksum, for fuzzing.
pub(super) fn mend(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    written(lines.map(|line| match line {
        Line::File { path, oid, size, lfs, .. } => {
            let crc32c = checksum(&path, &oid, size, lfs);
            Line::File { path, oid, size, lfs, crc32c }
        }
        other => other,
    }))
}

fn written(lines: impl Iterator<Item = Line>) -> Vec<u8> {
    let mut text = vec![b'\n'];
    for line in lines {
        serde_json::to_writer(&mut text, &line).expect("texts and numbers can be written as JSON");
        text.push(b'\n');
    }
    text
}
