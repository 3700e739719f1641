//! What is known of one commit of a repo, as it is carried from one store to another: in an import, and in the tar of an export.
//!
//! A parcel says which object each path is; the objects travel beside it, each proven by its name. What a parcel says itself nothing
//! proves: it is believed as far as the store that it comes from.

use super::{KeptAccess, ListedFile, Record, RecordKey, Store, StoreError, View, place};
use crate::hub::{Commit, FilePath, Oid, RepoId, RepoKind, Revision, Route};
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Longest parcel that is read: as long as a listing may be.
const PARCEL_LEN_MAX: u64 = 512 << 20;

/// Everything known of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// `models/org/name`.
    pub repo: String,
    pub commit: String,
    /// Branches and tags that pointed here.
    pub refs: Vec<CarriedRef>,
    /// None: nobody has told who may read the repo.
    pub access: Option<CarriedAccess>,
    /// `files` are all that the commit has.
    pub whole: bool,
    pub files: Vec<CarriedFile>,
    pub answers: Vec<CarriedAnswer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedRef {
    pub name: String,
    pub at_ms: u64,
}

/// Whether a repo could be read without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedAccess {
    pub open: bool,
    pub at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedFile {
    pub path: String,
    pub oid: String,
    pub size: u64,
}

/// A kept answer of the API; see [`Record`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedAnswer {
    pub name: String,
    pub target: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub fetched_at_ms: u64,
    pub fresh_for_ms: u64,
    pub stale_for_ms: u64,
}

/// A parcel whose every word was checked.
struct Checked {
    repo: RepoId,
    commit: Commit,
    refs: Vec<(Revision, SystemTime)>,
    files: BTreeMap<Box<str>, (FilePath, ListedFile)>,
    answers: Vec<(RecordKey, Record)>,
}

impl Parcel {
    /// Tells whether its every word is one. `Misuse` says which is not.
    pub fn verify(&self) -> Result<(), StoreError> {
        self.check().map(drop)
    }

    fn check(&self) -> Result<Checked, StoreError> {
        let bad = |what: &str| StoreError::misuse(format!("learn of {}@{}: {what}", self.repo, self.commit));
        let (kind, name) = self.repo.split_once('/').ok_or_else(|| bad("this names no repo"))?;
        let kind = RepoKind::from_plural(kind).ok_or_else(|| bad("this names no kind of repo"))?;
        let repo = RepoId::parse(kind, name).map_err(|error| bad(&error.to_string()))?;
        let commit = Commit::parse(&self.commit).ok_or_else(|| bad("this is no commit"))?;
        let mut refs = Vec::new();
        for one in &self.refs {
            let revision = Revision::parse(&one.name).map_err(|error| bad(&error.to_string()))?;
            if revision.as_commit().is_some() {
                return Err(bad(&format!("a commit, `{revision}`, does not point to another")));
            }
            refs.push((revision, place::from_unix_ms(one.at_ms).min(SystemTime::now())));
        }
        let mut files = BTreeMap::new();
        for file in &self.files {
            let path = FilePath::parse(&file.path).map_err(|error| bad(&error.to_string()))?;
            let oid = Oid::parse(&file.oid).ok_or_else(|| bad(&format!("`{}` is no object's name", file.oid)))?;
            files.insert(
                path.as_str().into(),
                (path, ListedFile { oid, size: file.size, lfs: oid.is_sha256(), second_hand: false }),
            );
        }
        let mut answers = Vec::new();
        for answer in &self.answers {
            let route = Route::parse(&Method::GET, &answer.target).ok();
            if route.as_ref().and_then(Route::repo) != Some(&repo) {
                return Err(bad(&format!("an answer to {} is not about it", answer.target)));
            }
            answers.push((RecordKey::of_repo(&repo, &answer.name, &answer.target), answer.record()));
        }
        Ok(Checked { repo, commit, refs, files, answers })
    }
}

impl CarriedAnswer {
    /// Takes a record along under its short name. None: its body is no text.
    pub fn of(name: &str, record: &Record) -> Option<CarriedAnswer> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Some(CarriedAnswer {
            name: name.to_owned(),
            target: record.target.clone(),
            status: record.status,
            headers: record.headers.clone(),
            body: String::from_utf8(record.body.to_vec()).ok()?,
            fetched_at_ms: place::unix_ms(record.fetched_at),
            fresh_for_ms: ms(record.fresh_for),
            stale_for_ms: ms(record.stale_for),
        })
    }

    fn record(&self) -> Record {
        Record {
            status: self.status,
            headers: self.headers.clone(),
            fetched_at: place::from_unix_ms(self.fetched_at_ms).min(SystemTime::now()),
            fresh_for: Duration::from_millis(self.fresh_for_ms),
            stale_for: Duration::from_millis(self.stale_for_ms),
            target: self.target.clone(),
            body: Bytes::from(self.body.clone()),
        }
    }
}

impl View {
    /// Returns what is kept of the answers about a repo, with their short names. What is broken is left out.
    pub fn answers(&self, repo: &RepoId) -> Result<Vec<(String, Record)>, StoreError> {
        let mut answers = Vec::new();
        for (path, _) in super::view::entries(&self.place.api(repo))? {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".rec"));
            let Some(name) = name.and_then(|name| name.rsplit_once('-')).and_then(|(name, _)| place::text_of_file_name(name))
            else {
                continue;
            };
            let Some(bytes) = place::read_bounded(&path, PARCEL_LEN_MAX)? else { continue };
            if let Ok(record) = super::records::decode(Bytes::from(bytes)) {
                answers.push((name, record));
            }
        }
        answers.sort_by(|(_, left), (_, right)| left.target.cmp(&right.target));
        Ok(answers)
    }

    /// Returns who may read a repo, as upstream told it last; none when nobody has.
    pub fn access(&self, repo: &RepoId) -> Result<Option<KeptAccess>, StoreError> {
        let kept = super::Refs::new(self.place.clone()).get_access(repo)?;
        Ok(kept.filter(|kept| kept.at > UNIX_EPOCH))
    }

    /// Returns when a revision was last asked for.
    pub fn ref_at(&self, repo: &RepoId, revision: &str) -> Result<Option<SystemTime>, StoreError> {
        Ok(super::Refs::new(self.place.clone()).get_ref(repo, revision)?.map(|kept| kept.at))
    }
}

impl Store {
    /// Learns what a parcel tells, without ever putting out what upstream told later; and links the objects that are here.
    ///
    /// Who may read the repo: what is closed here stays closed, and what nobody has told of is closed until upstream, or a
    /// parcel, tells. `Misuse`: a word of the parcel is none, and nothing was learned.
    pub fn learn(&self, parcel: &Parcel) -> Result<(), StoreError> {
        let Checked { repo, commit, refs, files, answers } = parcel.check()?;
        let access = self.learn_access(&repo, parcel.access)?;
        let known = self.listings().load(&repo, &commit)?;
        if !known.complete {
            // What is known came from upstream, or from a parcel before this one: it stays.
            let fresh: Vec<(&str, ListedFile)> = files
                .iter()
                .filter(|(path, _)| !known.files.contains_key(*path))
                .map(|(path, (_, file))| (&**path, file.clone()))
                .collect();
            if !fresh.is_empty() {
                self.listings().append(&repo, &commit, &fresh)?;
            }
            let count = known.files.len() + fresh.len();
            if parcel.whole && count == files.len() {
                self.listings().mark_complete(&repo, &commit, count as u64)?;
            } else if !known.imported {
                self.listings().mark_imported(&repo, &commit)?;
            }
        }
        for (key, record) in answers {
            if self.records().get(&key)?.is_none_or(|kept| kept.fetched_at < record.fetched_at) {
                self.records().put(&key, &record)?;
            }
        }
        for (revision, at) in refs {
            if self.refs().get_ref(&repo, revision.as_str())?.is_none_or(|kept| kept.at < at) {
                self.refs().put_ref(&repo, revision.as_str(), &commit, at)?;
            }
        }
        for (path, file) in files.values() {
            if fs::exists(self.place.blob(&file.oid)).unwrap_or(false) {
                match self.link(&repo, &commit, path, &file.oid) {
                    Err(StoreError::NameTooLong { what }) => log::info!("no link: the name is too long: {what}"),
                    linked => linked?,
                }
            }
        }
        self.borrower().learned(&repo, &commit, access);
        Ok(())
    }

    /// Learns the parcel that was staged under this name.
    pub fn learn_staged(&self, name: &str) -> Result<(), StoreError> {
        let path = self.staged(name)?;
        let text = place::read_bounded(&path, PARCEL_LEN_MAX)?;
        let text = text.ok_or_else(|| StoreError::misuse(format!("learn of `{name}`, which is not there")))?;
        let parcel = serde_json::from_slice(&text).map_err(|error| StoreError::misuse(format!("learn of `{name}`: {error}")))?;
        self.learn(&parcel)
    }

    /// Returns whether something changed.
    fn learn_access(&self, repo: &RepoId, told: Option<CarriedAccess>) -> Result<bool, StoreError> {
        let kept = self.refs().get_access(repo)?;
        let identity = kept.as_ref().and_then(|kept| kept.identity.clone());
        let told = told.map_or(KeptAccess { open: false, identity: None, at: UNIX_EPOCH }, |told| KeptAccess {
            open: told.open,
            identity: None,
            // Nobody is told at that very time, which stands for nobody having told.
            at: place::from_unix_ms(told.at_ms.max(1)).min(SystemTime::now()),
        });
        let counts = match kept {
            None => true,
            Some(kept) if kept.at == UNIX_EPOCH => told.at > UNIX_EPOCH,
            // Only upstream itself opens what is closed.
            Some(kept) => kept.open && !told.open && told.at > kept.at,
        };
        if counts {
            self.refs().put_access(repo, told.open, identity.as_deref(), told.at)?;
        }
        Ok(counts)
    }
}
