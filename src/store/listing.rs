//! What is known of a commit's files: an append-only file of JSON lines, for a commit never changes.
//!
//! ```text
//! {"path":"a/b.json","oid":"..","size":6,"lfs":false,"crc32c":..}
//! {"complete":true,"files":1}
//! {"imported":true}
//! {"left_out":true}
//! ```
//!
//! A file that only a fallback has told of has `"second_hand":true` too; such files do not count among those of a complete listing.
//!
//! A crash can lose any part of it. A line that is torn, or fails its checksum (over path, oid, size, lfs and, if it is set,
//! second_hand), is left out; and the final line tells how many files there are, so a listing that lost some is not taken for
//! complete.

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
    /// Told by another upstream than the first, whose own word takes its place.
    pub second_hand: bool,
}

/// The files of one commit, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub files: HashMap<Box<str>, ListedFile>,
    /// All of the commit's files are here: a path that is not does not exist.
    pub complete: bool,
    /// It came from another store, which may not have known all of them. While upstream cannot be asked it stands for the whole.
    pub imported: bool,
    /// The commit has files besides, whose names no request can spell: nobody can have all of it from here.
    pub left_out: bool,
}

/// The listings under `api/`. All calls block.
#[derive(Debug)]
pub struct Listings {
    place: Arc<Place>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    File {
        path: Box<str>,
        oid: String,
        size: u64,
        lfs: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        second_hand: bool,
        crc32c: u32,
    },
    Complete {
        complete: bool,
        files: u64,
    },
    Imported {
        imported: bool,
    },
    LeftOut {
        left_out: bool,
    },
}

impl Listings {
    pub(super) fn new(place: Arc<Place>) -> Listings {
        Listings { place }
    }

    /// Returns what is known; nothing known is an empty listing.
    pub fn load(&self, repo: &RepoId, commit: &Commit) -> Result<Listing, StoreError> {
        if self.place.is_forgotten(&self.place.api(repo)) {
            return Ok(Listing::default());
        }
        let bytes = place::read_bounded(&self.path(repo, commit), LISTING_LEN_MAX)?;
        Ok(decode(&bytes.unwrap_or_default()))
    }

    /// Adds files; one told again replaces what was known of its path.
    pub fn append(&self, repo: &RepoId, commit: &Commit, files: &[(&str, ListedFile)]) -> Result<(), StoreError> {
        self.write(repo, commit, files.iter().map(|(path, file)| line(path, file)))
    }

    /// Says that the commit has exactly `file_count` files and all of them were appended.
    pub fn mark_complete(&self, repo: &RepoId, commit: &Commit, file_count: u64) -> Result<(), StoreError> {
        self.write(repo, commit, [Line::Complete { complete: true, files: file_count }].into_iter())
    }

    /// Says that what is listed is all that another store knew of the commit.
    pub fn mark_imported(&self, repo: &RepoId, commit: &Commit) -> Result<(), StoreError> {
        self.write(repo, commit, [Line::Imported { imported: true }].into_iter())
    }

    /// Says that the commit has files besides those that are listed, which cannot be.
    pub fn mark_left_out(&self, repo: &RepoId, commit: &Commit) -> Result<(), StoreError> {
        self.write(repo, commit, [Line::LeftOut { left_out: true }].into_iter())
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
    let (mut imported, mut left_out) = (false, false);
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Line::File { path, oid, size, lfs, second_hand, crc32c })
                if crc32c == checksum(&path, &oid, size, lfs, second_hand) =>
            {
                if let Some(oid) = Oid::parse(&oid) {
                    files.insert(path, ListedFile { oid, size, lfs, second_hand });
                }
            }
            Ok(Line::Complete { complete: true, files }) => file_count = Some(files),
            Ok(Line::Imported { imported: true }) => imported = true,
            Ok(Line::LeftOut { left_out: true }) => left_out = true,
            _ => {}
        }
    }
    let own_count = files.values().filter(|file| !file.second_hand).count();
    let complete = file_count == Some(own_count as u64);
    if complete {
        files.retain(|_, file| !file.second_hand);
    }
    Listing { files, complete, imported, left_out }
}

fn line(path: &str, file: &ListedFile) -> Line {
    let ListedFile { oid, size, lfs, second_hand } = *file;
    let crc32c = checksum(path, oid.as_str(), size, lfs, second_hand);
    Line::File { path: path.into(), oid: oid.to_string(), size, lfs, second_hand, crc32c }
}

fn checksum(path: &str, oid: &str, size: u64, lfs: bool, second_hand: bool) -> u32 {
    let mark = if second_hand { "\0second_hand" } else { "" };
    crc32c::crc32c(format!("{path}\0{oid}\0{size}\0{lfs}{mark}").as_bytes())
}

/// Writes a whole listing, for fuzzing.
pub(super) fn encode(listing: &Listing) -> Vec<u8> {
    let end = listing.complete.then_some(Line::Complete { complete: true, files: listing.files.len() as u64 });
    let imported = listing.imported.then_some(Line::Imported { imported: true });
    let left_out = listing.left_out.then_some(Line::LeftOut { left_out: true });
    written(listing.files.iter().map(|(path, file)| line(path, file)).chain(imported).chain(left_out).chain(end))
}

/// Gives every line of a file its right checksum, for fuzzing.
pub(super) fn mend(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    written(lines.map(|line| match line {
        Line::File { path, oid, size, lfs, second_hand, .. } => {
            let crc32c = checksum(&path, &oid, size, lfs, second_hand);
            Line::File { path, oid, size, lfs, second_hand, crc32c }
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
