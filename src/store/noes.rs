//! What upstream took back and the disk could not be told, since it is full or read-only: it holds all the same, until the process
//! ends or the disk is told.
//!
//! What was gained and cannot be written is asked for again; what was lost and cannot be written would be given to those who
//! have lost it. So this is looked at before the disk is.

use super::{refs::KeptAccess, view::entries};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What a repo's directory keeps though the rest of it is forgotten: it is replaced and not removed.
pub(super) const ACCESS_FILE: &str = "access.json";

/// Repos are named by their directory under `api/`, callers by the mark that stands for them on the disk.
#[derive(Debug, Default)]
pub(super) struct Noes {
    /// Guarded by itself, held for moments.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Upstream's last word on who may read a repo, where the disk has another.
    access: HashMap<PathBuf, KeptAccess>,
    /// Callers who are let into a repo no more, and stand on its list.
    revoked: HashSet<(PathBuf, String)>,
    /// Repos of which nothing counts that the disk has.
    forgotten: HashSet<PathBuf>,
    /// Callers of whom what was said counts no more, and is kept.
    holders: HashSet<String>,
}

impl Noes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn access(&self, dir: &Path) -> Option<KeptAccess> {
        self.state().access.get(dir).cloned()
    }

    /// A word that the disk was told, or not. A yes that it was not told only takes the place of an earlier word here.
    pub(super) fn told_access(&self, dir: &Path, word: KeptAccess, is_kept: bool) {
        let mut state = self.state();
        if is_kept {
            state.access.remove(dir);
        } else if !word.open || state.access.contains_key(dir) || state.forgotten.contains(dir) {
            state.access.insert(dir.to_owned(), word);
        }
    }

    pub(super) fn is_revoked(&self, dir: &Path, mark: &str) -> bool {
        let state = self.state();
        !state.revoked.is_empty() && state.revoked.contains(&(dir.to_owned(), mark.to_owned()))
    }

    pub(super) fn revoke(&self, dir: &Path, mark: &str) {
        self.state().revoked.insert((dir.to_owned(), mark.to_owned()));
    }

    /// The caller is accepted again, or stands on no list.
    pub(super) fn unrevoke(&self, dir: &Path, mark: &str) {
        let mut state = self.state();
        if !state.revoked.is_empty() {
            state.revoked.remove(&(dir.to_owned(), mark.to_owned()));
        }
    }

    pub(super) fn is_dropped(&self, holder: &str) -> bool {
        self.state().holders.contains(holder)
    }

    pub(super) fn drop_holder(&self, holder: &str) {
        self.state().holders.insert(holder.to_owned());
    }

    pub(super) fn keep_holder(&self, holder: &str) {
        self.state().holders.remove(holder);
    }

    /// Removes what the disk has of a repo's commits, revisions, answers and readers; what cannot be removed counts no more.
    pub(super) fn forget(&self, dir: &Path, read_only: bool) {
        self.state().forgotten.insert(dir.to_owned());
        self.is_forgotten(dir, read_only);
    }

    /// Whether nothing counts that the disk has of a repo. Tries again to remove it.
    pub(super) fn is_forgotten(&self, dir: &Path, read_only: bool) -> bool {
        if !self.state().forgotten.contains(dir) {
            return false;
        }
        match if read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { clear(dir) } {
            Ok(()) => self.state().forgotten.remove(dir),
            Err(error) => {
                log::debug!("cannot remove what is known below {}: {error}", dir.display());
                return true;
            }
        };
        false
    }

    /// A repo has another name now.
    pub(super) fn rename(&self, old: &Path, new: &Path) {
        let mut state = self.state();
        // A yes would take the place of what is known of the new name.
        if let Some(word) = state.access.remove(old).filter(|word| !word.open) {
            state.access.insert(new.to_owned(), word);
        }
        let revoked: Vec<_> = state.revoked.extract_if(|(dir, _)| dir == old).collect();
        state.revoked.extend(revoked.into_iter().map(|(_, mark)| (new.to_owned(), mark)));
    }
}

fn clear(dir: &Path) -> io::Result<()> {
    for dir in [dir.join("commits"), dir.join("refs"), dir.to_owned()] {
        // Files alone: below may lie what is known of another repo.
        for (path, kind) in entries(&dir).map_err(io::Error::other)? {
            if kind.is_file() && path.file_name().is_none_or(|name| name != ACCESS_FILE) {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}
