//! Where revisions pointed when last asked, which repos anybody may read, and who was let into the others: small files,
//! replaced whole.
//!
//! A file that cannot be read as what it should be counts as absent. That also settles the one case of two things with one name:
//! the ref `access` of a repo `gpt2` and the access of a repo `gpt2/refs`.

use super::{
    StoreError,
    noes::ACCESS_FILE,
    place::{self, Place},
};
use crate::hub::{Commit, RepoId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Longest such file that is read; most of ours have about 80 bytes, those of many callers 80 for each.
const LEN_MAX: u64 = 256 << 10;
/// Callers remembered per repo; who was accepted longest ago goes first. Each of them has a token that opens the repo.
const ACCEPTED_MAX: usize = 2000;
/// Renamed again and again; more is a loop.
const HOPS_MAX: usize = 4;

/// A revision's commit as upstream told it at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRef {
    pub commit: Commit,
    pub at: SystemTime,
}

/// Whether a repo could be read without a token, as upstream told it at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAccess {
    pub open: bool,
    /// Upstream's own id of the repo, which another repo of the same name does not have.
    pub identity: Option<String>,
    pub at: SystemTime,
}

/// The repo that a name leads to, as upstream told it at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAlias {
    pub repo: RepoId,
    pub at: SystemTime,
}

/// What upstream said of a caller, at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptHolder {
    pub answer: Value,
    pub at: SystemTime,
}

/// The kept refs under `api/`. All calls block.
#[derive(Debug)]
pub struct Refs {
    place: Arc<Place>,
    /// Held while a list of callers changes, so that none is lost.
    accepting: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct RefFile {
    commit: String,
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct AccessFile {
    open: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    at_ms: u64,
}

/// When callers were accepted, in milliseconds, by a hash that says nothing without the directory's secret.
#[derive(Default, Serialize, Deserialize)]
struct AcceptedFile {
    accepted: HashMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct HolderFile {
    mark: String,
    answer: Value,
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct AliasFile {
    name: String,
    at_ms: u64,
}

impl Refs {
    pub(super) fn new(place: Arc<Place>) -> Refs {
        Refs { place, accepting: Mutex::default() }
    }

    pub fn put_ref(&self, repo: &RepoId, revision: &str, commit: &Commit, at: SystemTime) -> Result<(), StoreError> {
        let file = RefFile { commit: commit.as_str().into(), at_ms: place::unix_ms(at) };
        self.put(&self.ref_path(repo, revision), &file)
    }

    pub fn get_ref(&self, repo: &RepoId, revision: &str) -> Result<Option<KeptRef>, StoreError> {
        if self.place.is_forgotten(&self.place.api(repo)) {
            return Ok(None);
        }
        let file: Option<RefFile> = self.get(&self.ref_path(repo, revision))?;
        Ok(file.and_then(|file| Some(KeptRef { commit: Commit::parse(&file.commit)?, at: place::from_unix_ms(file.at_ms) })))
    }

    /// Whether anything is kept of the repo.
    pub fn knows(&self, repo: &RepoId) -> bool {
        self.place.api(repo).exists()
    }

    /// Whether anybody may read the repo. A no holds in this process also if it cannot be written; where there is only no room
    /// for it, a yes that stands on the disk goes.
    pub fn put_access(&self, repo: &RepoId, open: bool, identity: Option<&str>, at: SystemTime) -> Result<(), StoreError> {
        let (path, identity) = (self.access_path(repo), identity.map(str::to_owned));
        let put = self.put(&path, &AccessFile { open, identity: identity.clone(), at_ms: place::unix_ms(at) });
        let is_kept = put.is_ok() && !self.place.is_read_only();
        self.place.noes().told_access(&self.place.api(repo), KeptAccess { open, identity, at }, is_kept);
        if !is_kept && !open && !matches!(self.get::<AccessFile>(&path), Ok(Some(kept)) if !kept.open) {
            self.place.remove(&path)?;
        }
        put
    }

    pub fn get_access(&self, repo: &RepoId) -> Result<Option<KeptAccess>, StoreError> {
        let dir = self.place.api(repo);
        if let Some(told) = self.place.noes().access(&dir) {
            return Ok(Some(told));
        }
        if self.place.is_forgotten(&dir) {
            return Ok(None);
        }
        let file: Option<AccessFile> = self.get(&self.access_path(repo))?;
        Ok(file.map(|file| KeptAccess { open: file.open, identity: file.identity, at: place::from_unix_ms(file.at_ms) }))
    }

    /// Remembers that a caller, named by a mark that only this directory's secret explains, was let in.
    pub fn put_accepted(&self, repo: &RepoId, mark: &str, at: SystemTime) -> Result<(), StoreError> {
        // Upstream's last word is a yes again, and what stands on the disk is an earlier one.
        self.place.noes().unrevoke(&self.place.api(repo), mark);
        self.change_accepted(repo, |accepted| {
            accepted.insert(mark.to_owned(), place::unix_ms(at));
            if accepted.len() > ACCEPTED_MAX {
                remove_oldest(accepted);
            }
            true
        })
    }

    pub fn get_accepted(&self, repo: &RepoId, mark: &str) -> Result<Option<SystemTime>, StoreError> {
        let dir = self.place.api(repo);
        if self.place.noes().is_revoked(&dir, mark) || self.place.is_forgotten(&dir) {
            return Ok(None);
        }
        let file: Option<AcceptedFile> = self.get(&self.accepted_path(repo))?;
        Ok(file.and_then(|file| file.accepted.get(mark).map(|at| place::from_unix_ms(*at))))
    }

    /// Forgets a caller; it need not be known. That holds in this process also if it cannot be written; where there is only no room
    /// for it, the whole list goes.
    pub fn remove_accepted(&self, repo: &RepoId, mark: &str) -> Result<(), StoreError> {
        let mut was_known = false;
        let removed = self.change_accepted(repo, |accepted| {
            was_known = accepted.remove(mark).is_some();
            was_known
        });
        let dir = self.place.api(repo);
        match &removed {
            Ok(()) if !was_known => {}
            Ok(()) if !self.place.is_read_only() => self.place.noes().unrevoke(&dir, mark),
            // Not even read, it may have the caller on it.
            _ => {
                self.place.noes().revoke(&dir, mark);
                self.place.remove(&self.accepted_path(repo))?;
            }
        }
        removed
    }

    fn change_accepted(&self, repo: &RepoId, change: impl FnOnce(&mut HashMap<String, u64>) -> bool) -> Result<(), StoreError> {
        let _accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.accepted_path(repo);
        let mut file: AcceptedFile = self.get(&path)?.unwrap_or_default();
        if change(&mut file.accepted) { self.put(&path, &file) } else { Ok(()) }
    }

    /// Remembers what upstream said of a caller, named by a mark as in [`Refs::put_accepted`]. Two marks that begin alike put each
    /// other out, so that there are never more than 4096.
    pub fn put_holder(&self, mark: &str, answer: Value, at: SystemTime) -> Result<(), StoreError> {
        self.place.noes().keep_holder(mark);
        if self.place.is_read_only() {
            return Ok(());
        }
        let path = self.holder_path(mark);
        // It is about people, so it is for nobody else to read.
        let dir = path.parent().unwrap_or(self.place.root());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| StoreError::io("make", dir.display(), error))?;
        self.put(&path, &HolderFile { mark: mark.into(), answer, at_ms: place::unix_ms(at) })
    }

    pub fn get_holder(&self, mark: &str) -> Result<Option<KeptHolder>, StoreError> {
        if self.place.noes().is_dropped(mark) {
            return Ok(None);
        }
        let file: Option<HolderFile> = self.get(&self.holder_path(mark))?;
        let file = file.filter(|file| file.mark == mark);
        Ok(file.map(|file| KeptHolder { answer: file.answer, at: place::from_unix_ms(file.at_ms) }))
    }

    /// Forgets what was said of a caller; it need not be known.
    pub fn remove_holder(&self, mark: &str) -> Result<(), StoreError> {
        if self.get_holder(mark)?.is_none() {
            return Ok(());
        }
        let removed = self.place.remove(&self.holder_path(mark));
        if removed.is_err() || self.place.is_read_only() {
            self.place.noes().drop_holder(mark);
        }
        removed
    }

    /// Notes which repo a name leads to. Upper and lower case of the name are one, as on the Hub, so that there is one such
    /// note per name however it is spelt.
    pub fn put_alias(&self, name: &RepoId, repo: &RepoId, at: SystemTime) -> Result<(), StoreError> {
        self.put(&self.alias_path(name), &AliasFile { name: repo.name().into(), at_ms: place::unix_ms(at) })
    }

    pub fn get_alias(&self, name: &RepoId) -> Result<Option<KeptAlias>, StoreError> {
        let file: Option<AliasFile> = self.get(&self.alias_path(name))?;
        let alias = |file: AliasFile| {
            Some(KeptAlias { repo: RepoId::parse(name.kind(), &file.name).ok()?, at: place::from_unix_ms(file.at_ms) })
        };
        Ok(file.and_then(alias))
    }

    /// Forgets where a name leads; it need not be known.
    pub fn remove_alias(&self, name: &RepoId) -> Result<(), StoreError> {
        self.place.remove(&self.alias_path(name))
    }

    /// Forgets what is known of a repo's commits, revisions, answers and readers. Its objects and their links stay, which nobody is
    /// given without a commit that names them. What cannot be removed counts no more in this process.
    pub fn forget(&self, repo: &RepoId) {
        self.place.noes().forget(&self.place.api(repo), self.place.is_read_only());
    }

    /// The repo that a name leads to, by what is kept of names: upstream's word of some time.
    pub fn present(&self, name: &RepoId) -> Result<RepoId, StoreError> {
        let mut repo = name.clone();
        for _ in 0..HOPS_MAX {
            match self.get_alias(&repo)? {
                Some(alias) if alias.repo != repo => repo = alias.repo,
                _ => break,
            }
        }
        Ok(repo)
    }

    /// Adds those who were let in under the old name to those of the new one.
    pub(super) fn rename_accepted(&self, old: &RepoId, new: &RepoId) -> Result<(), StoreError> {
        let Some(before) = self.get::<AcceptedFile>(&self.accepted_path(old))? else { return Ok(()) };
        self.change_accepted(new, |accepted| {
            for (mark, at) in before.accepted {
                let known = accepted.entry(mark).or_insert(at);
                *known = at.max(*known);
            }
            while accepted.len() > ACCEPTED_MAX {
                remove_oldest(accepted);
            }
            true
        })?;
        let path = self.accepted_path(old);
        fs::remove_file(&path).map_err(|error| StoreError::io("remove", path.display(), error))
    }

    fn put(&self, path: &Path, file: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_vec(file).map_err(|error| StoreError::misuse(format!("write a ref as JSON: {error}")))?;
        self.place.replace(path, &[&text])
    }

    fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        let bytes = place::read_bounded(path, LEN_MAX)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn ref_path(&self, repo: &RepoId, revision: &str) -> std::path::PathBuf {
        self.place.api(repo).join("refs").join(format!("{}.json", place::file_name(revision)))
    }

    fn alias_path(&self, name: &RepoId) -> std::path::PathBuf {
        let file = format!("{}.json", place::file_name(&name.folded().to_string()));
        self.place.root().join("api").join("aliases").join(file)
    }

    fn holder_path(&self, mark: &str) -> std::path::PathBuf {
        let slot: String = mark.chars().take(3).collect();
        self.place.root().join("api").join("holders").join(format!("{}.json", place::file_name(&slot)))
    }

    fn access_path(&self, repo: &RepoId) -> std::path::PathBuf {
        self.place.api(repo).join(ACCESS_FILE)
    }

    fn accepted_path(&self, repo: &RepoId) -> std::path::PathBuf {
        self.place.api(repo).join("accepted.json")
    }
}

fn remove_oldest(accepted: &mut HashMap<String, u64>) {
    if let Some(oldest) = accepted.iter().min_by_key(|(_, at)| **at).map(|(mark, _)| mark.clone()) {
        accepted.remove(&oldest);
    }
}
