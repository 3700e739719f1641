//! The store as anybody may look at it, beside the process that holds it: opens for reading only, takes no lock.
//!
//! Everything seen is a moment old. An object's file only ever gains blocks, loses broken ones, or disappears; so a reader is
//! never misled about a block it finds present, but it may be told that something is gone.

use super::{
    Listing, Listings, StoreError,
    block_file::{BlockFile, Opened},
    pins::{self, Pin},
    place::{self, Place},
    refs::Refs,
};
use crate::hub::{Commit, Oid, RepoId, RepoKind};
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A store under one root directory, for reading.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) place: Arc<Place>,
}

/// One block file as the directory shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    pub oid: Oid,
    /// Bytes it takes on the disk; less than its length while blocks are absent.
    pub allocated_len: u64,
    /// Last write, which is when its last block arrived.
    pub modified: SystemTime,
    /// Last read by a client, as far as it was written down.
    pub read: SystemTime,
}

/// What is kept of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    pub allocated_len: u64,
    /// Length of the object itself.
    pub size: u64,
    /// Bytes of it that are there.
    pub present_len: u64,
    /// The whole was hashed and matched.
    pub verified: bool,
    pub read: SystemTime,
}

impl View {
    /// Opens the store in `root`, which must exist. `NoStore`: there is none. `Version`: a newer program made it.
    pub fn open(root: &Path) -> Result<View, StoreError> {
        let path = root.join("VERSION");
        // What may not be looked at is not absent.
        if !path.try_exists().map_err(|error| StoreError::io("look at", path.display(), error))? {
            return Err(StoreError::NoStore { dir: root.to_owned() });
        }
        super::check_version(root)?;
        Ok(View { place: Arc::new(Place::new(root)) })
    }

    pub fn root(&self) -> &Path {
        self.place.root()
    }

    /// Returns the repos of which something is linked under `files/`, in order.
    pub fn repos(&self) -> Result<Vec<RepoId>, StoreError> {
        let mut repos = Vec::new();
        for (kind, first) in self.first_names()? {
            repos.extend(self.repos_of(kind, &first)?);
        }
        repos.sort_unstable();
        Ok(repos)
    }

    /// Returns the first parts of repos' names, in order: an organisation, or all of a short name.
    pub(super) fn first_names(&self) -> Result<Vec<(RepoKind, String)>, StoreError> {
        let mut all = Vec::new();
        for kind in RepoKind::ALL {
            all.extend(names(&self.root().join("files").join(kind.plural()))?.into_iter().map(|first| (kind, first)));
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Returns the repos whose name begins with this part, in order.
    pub(super) fn repos_of(&self, kind: RepoKind, first: &str) -> Result<Vec<RepoId>, StoreError> {
        let top = self.root().join("files").join(kind.plural()).join(first);
        let mut repos = Vec::new();
        // `gpt2/resolve/<commit>` is a repo, and `org/name/resolve/<commit>` is one, even of the name `resolve`.
        if has_commits(&top.join("resolve"))? {
            repos.extend(RepoId::parse(kind, first));
        }
        for second in names(&top)? {
            if has_commits(&top.join(&second).join("resolve"))? {
                repos.extend(RepoId::parse(kind, &format!("{first}/{second}")));
            }
        }
        repos.sort_unstable();
        Ok(repos)
    }

    /// Returns the commits of which something is linked, in order.
    pub fn commits(&self, repo: &RepoId) -> Result<Vec<Commit>, StoreError> {
        let mut commits: Vec<Commit> = names(&self.place.commits(repo))?.iter().filter_map(|name| Commit::parse(name)).collect();
        commits.sort_unstable();
        Ok(commits)
    }

    /// Calls `visit` with the path and object of each link of a commit, in no order.
    pub fn each_link(&self, repo: &RepoId, commit: &Commit, mut visit: impl FnMut(String, Oid)) -> Result<(), StoreError> {
        let top = self.place.commits(repo).join(commit.as_str());
        each_symlink(&top, &mut |link| {
            let path = link.strip_prefix(&top).ok().and_then(Path::to_str);
            if let (Some(path), Some(oid)) = (path, linked_oid(link)) {
                visit(path.to_owned(), oid);
            }
        })
    }

    /// Returns what is known of a commit's files.
    pub fn listing(&self, repo: &RepoId, commit: &Commit) -> Result<Listing, StoreError> {
        Listings::new(self.place.clone()).load(repo, commit)
    }

    /// Returns the branches and tags that were asked for, with the commit that each pointed to when last asked.
    pub fn refs(&self, repo: &RepoId) -> Result<Vec<(String, Commit)>, StoreError> {
        let mut refs = Vec::new();
        for name in names(&self.place.api(repo).join("refs"))? {
            let Some(revision) = name.strip_suffix(".json").and_then(place::text_of_file_name) else { continue };
            if let Some(commit) = self.resolve(repo, &revision)? {
                refs.push((revision, commit));
            }
        }
        refs.sort_unstable();
        Ok(refs)
    }

    /// Returns the commit of a revision: itself, or what it pointed to when last asked; none when nobody asked.
    pub fn resolve(&self, repo: &RepoId, revision: &str) -> Result<Option<Commit>, StoreError> {
        if let Some(commit) = Commit::parse(revision) {
            return Ok(Some(commit));
        }
        Ok(Refs::new(self.place.clone()).get_ref(repo, revision)?.map(|kept| kept.commit))
    }

    /// Returns the name that a repo has now, as far as the Hub has told: it may be asked for by an old, short or misspelt one.
    pub fn present(&self, name: &RepoId) -> Result<RepoId, StoreError> {
        Refs::new(self.place.clone()).present(name)
    }

    /// Returns the pins, of each repo under its present name.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        pins::load(self.root())?.into_iter().map(|pin| self.present_pin(pin)).collect()
    }

    fn present_pin(&self, pin: Pin) -> Result<Pin, StoreError> {
        Ok(Pin { repo: self.present(&pin.repo)?, ..pin })
    }

    /// Adds and removes pins; no lock of the store is needed. Returns how many lines that changed.
    pub fn change_pins(&self, add: &[Pin], remove: &[Pin]) -> Result<usize, StoreError> {
        pins::change(self.root(), add, remove, |pin| self.present_pin(pin))
    }

    /// Returns the commits that a pin holds, of which something is linked; in order.
    pub fn held(&self, pin: &Pin) -> Result<Vec<Commit>, StoreError> {
        let mut commits = self.commits(&pin.repo)?;
        if let Some(revision) = &pin.revision {
            let pinned = self.resolve(&pin.repo, revision.as_str())?;
            commits.retain(|commit| Some(*commit) == pinned);
        }
        Ok(commits)
    }

    /// Returns the objects that pinned repos link to.
    pub fn pinned(&self) -> Result<HashSet<Oid>, StoreError> {
        let mut pinned = HashSet::new();
        for pin in self.pins()? {
            for commit in self.held(&pin)? {
                self.each_link(&pin.repo, &commit, |_, oid| {
                    pinned.insert(oid);
                })?;
            }
        }
        Ok(pinned)
    }

    /// Looks at one object's file: how much of it is there. None when there is no file, or nothing in it that counts.
    pub fn peek(&self, oid: &Oid) -> Result<Option<Peek>, StoreError> {
        let Some(file) = self.open_blob(oid)? else { return Ok(None) };
        let meta = file.metadata().map_err(|error| StoreError::io("measure", oid, error))?;
        let (size, present_len, verified) = match BlockFile::open(file, oid) {
            Ok(Opened::Ours(file)) => (file.size(), file.present_len(), file.is_verified()),
            Ok(Opened::Foreign(foreign)) => (foreign.size(), foreign.size(), false),
            Ok(Opened::Nothing { .. }) | Err(StoreError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Peek { allocated_len: meta.blocks() * 512, size, present_len, verified, read: read_of(&meta) }))
    }

    /// Calls `visit` for each block file, in the disk's order. BLOCKING, a stat per file.
    pub fn each_blob(&self, mut visit: impl FnMut(Blob)) -> Result<(), StoreError> {
        let blobs = self.place.blobs();
        let io = |error| StoreError::io("list", blobs.display(), error);
        for dir in fs::read_dir(&blobs).map_err(io)? {
            let dir = dir.map_err(io)?;
            if !dir.file_type().map_err(io)?.is_dir() {
                continue;
            }
            let mut entries = fs::read_dir(dir.path()).map_err(io)?.collect::<io::Result<Vec<_>>>().map_err(io)?;
            // Directories list by hash; neighbours on the disk are neighbours by number, and a disk that has to be asked is asked once.
            entries.sort_unstable_by_key(DirEntryExt::ino);
            for entry in entries {
                let Some(oid) = entry.file_name().to_str().and_then(Oid::parse) else { continue };
                // Evicted since it was listed: not there any more.
                let Ok(meta) = entry.metadata() else { continue };
                let modified = meta.modified().unwrap_or(UNIX_EPOCH);
                visit(Blob { oid, allocated_len: meta.blocks() * 512, modified, read: read_of(&meta) });
            }
        }
        Ok(())
    }

    pub(super) fn open_blob(&self, oid: &Oid) -> Result<Option<fs::File>, StoreError> {
        let path = self.place.blob(oid);
        match place::open_quietly(&path, false) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", path.display(), error)),
        }
    }
}

/// Returns the object that a link of ours leads to, whether it is there or not.
pub(super) fn linked_oid(link: &Path) -> Option<Oid> {
    let target = fs::read_link(link).ok()?;
    let target = target.to_str()?.trim_start_matches("../");
    let oid = target.strip_prefix("blobs/")?.split_once('/').and_then(|(_, name)| Oid::parse(name))?;
    (target == place::blob_name(&oid)).then_some(oid)
}

/// Calls `visit` for each symbolic link below `top`, which need not exist.
pub(super) fn each_symlink(top: &Path, visit: &mut impl FnMut(&Path)) -> Result<(), StoreError> {
    // A stack of our own: paths of repos may be deeper than threads' stacks like.
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for (path, kind) in entries(&dir)? {
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_symlink() {
                visit(&path);
            }
        }
    }
    Ok(())
}

/// Returns what is in a directory; one that is not there, or went away meanwhile, is empty.
pub(super) fn entries(dir: &Path) -> Result<Vec<(PathBuf, fs::FileType)>, StoreError> {
    let read = || fs::read_dir(dir)?.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))).collect();
    match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        result => result.map_err(|error: io::Error| StoreError::io("list", dir.display(), error)),
    }
}

/// Returns the names in a directory that are text, which all of ours are.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    Ok(entries(dir)?.iter().filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned())).collect())
}

fn has_commits(resolve: &Path) -> Result<bool, StoreError> {
    Ok(names(resolve)?.iter().any(|name| Commit::parse(name).is_some()))
}

/// Returns when a file was last read, as far as it was written down.
pub(super) fn read_of(meta: &fs::Metadata) -> SystemTime {
    u64::try_from(meta.atime()).map_or(UNIX_EPOCH, |seconds| {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(meta.atime_nsec().unsigned_abs())
    })
}
