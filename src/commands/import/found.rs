//! What stands in another store, whatever its layout.

use crate::{
    hub::{Commit, FilePath, Oid, RepoId, Revision},
    store::{CarriedAccess, CarriedAnswer, CarriedFile, CarriedRef, Parcel},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// One commit of a repo.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) repo: RepoId,
    pub(super) commit: Commit,
    /// Branches and tags that pointed here, and when that was written down.
    pub(super) refs: Vec<(Revision, SystemTime)>,
    /// Whether anybody may read the repo, where the store tells.
    pub(super) open: Option<bool>,
    /// `files` and `unnamed` are all that the commit has.
    pub(super) whole: bool,
    pub(super) files: BTreeMap<FilePath, FoundFile>,
    pub(super) answers: Vec<CarriedAnswer>,
    /// Files that cannot be imported, with the reason.
    pub(super) skipped: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct FoundFile {
    pub(super) oid: Oid,
    pub(super) size: u64,
    pub(super) bytes: Bytes,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bytes {
    Plain(PathBuf),
    Container(PathBuf),
    /// There are none: it is an empty file.
    Empty,
    /// The store knows of the file only.
    Absent,
}

impl Found {
    pub(super) fn new(repo: RepoId, commit: Commit) -> Found {
        Found {
            repo,
            commit,
            refs: Vec::new(),
            open: None,
            whole: false,
            files: BTreeMap::new(),
            answers: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// `models/org/name@1a2b3c4`, for people.
    pub(super) fn name(&self) -> String {
        format!("{}@{}", self.repo, &self.commit.as_str()[..7])
    }

    pub(super) fn skip(&mut self, path: impl ToString, why: impl ToString) {
        self.skipped.push((path.to_string(), why.to_string()));
    }

    /// Makes what is known ready to be carried. A branch is as old as `stale_at` at least, so that upstream is asked for it soon.
    pub(super) fn parcel(&self, open_if_untold: bool, stale_at: SystemTime, now: SystemTime) -> Parcel {
        let told = self.open.or(open_if_untold.then_some(true));
        Parcel {
            repo: self.repo.to_string(),
            commit: self.commit.to_string(),
            refs: self
                .refs
                .iter()
                .map(|(revision, at)| CarriedRef { name: revision.to_string(), at_ms: unix_ms((*at).min(stale_at)) })
                .collect(),
            access: told.map(|open| CarriedAccess { open, at_ms: unix_ms(now) }),
            whole: self.whole,
            files: self
                .files
                .iter()
                .map(|(path, file)| CarriedFile { path: path.to_string(), oid: file.oid.to_string(), size: file.size })
                .collect(),
            answers: self.answers.clone(),
        }
    }
}

pub(super) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns when a file was last written; 1970 when nobody can tell.
pub(super) fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH)
}

/// Returns the names in a directory, in order; a directory that is not there is empty. Names that are no text are left out: no
/// layout has them.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, String> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let names = match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
        names => names.map_err(|error| format!("list {}: {error}", dir.display()))?,
    };
    let mut names: Vec<String> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Calls `visit` with each file or link below `top` and its path from there. Links are not followed. `enter` may keep a directory
/// from being looked into.
pub(super) fn each_file(
    top: &Path,
    enter: &mut dyn FnMut(&str, &Path) -> bool,
    visit: &mut dyn FnMut(&str, &Path, fs::FileType),
) -> Result<(), String> {
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        for name in names(&top.join(&dir))? {
            let below = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let path = top.join(&below);
            let kind = fs::symlink_metadata(&path).map_err(|error| format!("look at {}: {error}", path.display()))?.file_type();
            if !kind.is_dir() {
                visit(&below, &path, kind);
            } else if enter(&below, &path) {
                dirs.push(below);
            }
        }
    }
    Ok(())
}
