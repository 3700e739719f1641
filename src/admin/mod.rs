//! Orders to the process that holds a store: a Unix socket in its directory, one line of JSON each way per connection.
//!
//! The socket `admin.sock` belongs to the server's user and nobody else may open it (mode 0600), so it needs no token and no
//! port. What a command would do to a store of its own it asks for here while a server has it: [`Keeper`] finds out which.
//!
//! ```text
//! {"verb":"status"}                                              {"status":{"pid":7,..}}
//! {"verb":"evict"}                                               {"evicted":{"objects":3,..}}
//! {"verb":"would_evict"}                                         {"would_evict":{"objects":3,..}}
//! {"verb":"verify_object","oid":"3fa9.."}                        {"mended":{"retracted":1}}
//! {"verb":"take_in","file":"import-7-0","oid":"3fa9.."}          {"taken_in":{"new":true}}
//! {"verb":"learn","file":"import-7-1"}                           "learned"
//! {"verb":"activity"}                                            {"activity":{"clients":2,..}}
//! {"verb":"remove","scopes":[{"repo":"models/o/m","commit":null}]}   {"removed":{"objects":2,..}}
//!                                                                {"refused":"remove models/o/m, which is pinned"}
//! ```
//!
//! This room knows the store, and no URL, token or client.

mod activity;
mod ask;
mod desk;

pub use activity::{Activity, Sent, UpstreamHealth};
pub use ask::{AskError, Keeper, ask};
pub use desk::{Desk, execute};

use crate::{
    hub::{Commit, RepoId, RepoKind},
    store::{Mended, Pass, Removal, Scope},
};
use serde::{Deserialize, Serialize};

/// The socket's name in the store's directory.
const SOCKET: &str = "admin.sock";
/// Longest order that is read: some thousand repos.
const REQUEST_LEN_MAX: u64 = 1 << 20;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Who are you, and how full is the disk?
    Status,
    /// Run a thorough eviction pass.
    Evict,
    /// Tell what it would do.
    WouldEvict,
    /// Examine an object, make its broken blocks absent, set a broken file aside.
    VerifyObject { oid: String },
    /// Remove repos, or commits of them.
    Remove { scopes: Vec<WireScope> },
    /// Give a staged object its name.
    TakeIn { file: String, oid: String },
    /// Learn the staged parcel.
    Learn { file: String },
    /// What are you doing, and how have you fared since the start?
    Activity,
}

/// [`Scope`] in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireScope {
    /// `models/org/name`.
    pub repo: String,
    pub commit: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Status),
    Evicted(Evicted),
    WouldEvict(Evicted),
    Mended(MendedObject),
    Removed(Removed),
    TakenIn {
        /// It was not here before.
        new: bool,
    },
    Learned,
    Activity(Activity),
    /// It was not done, for this reason.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    /// Bytes that objects and quarantine take on the disk, by the running total.
    pub kept_bytes: u64,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// What is told of a [`Pass`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// The limit that was passed; none when there was no need.
    pub reason: Option<String>,
    pub objects: u64,
    /// Parts of objects that stay: of those that are not whole, what nobody has read for long.
    #[serde(default)]
    pub parts: u64,
    /// Of both.
    pub bytes: u64,
    /// Less was removed than the limit asks for.
    pub falls_short: bool,
    pub objects_in_use: u64,
    pub objects_pinned: u64,
    pub quarantine_files: u64,
    pub quarantine_bytes: u64,
    /// Links that led nowhere.
    pub links: u64,
    /// Before the pass.
    pub kept_objects: u64,
    pub kept_bytes: u64,
    pub milliseconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MendedObject {
    Sound,
    /// So many blocks.
    Retracted(u64),
    /// For this reason.
    SetAside(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub objects: u64,
    pub bytes: u64,
    pub links: u64,
    /// Objects that stay, because others link to them.
    pub objects_shared: u64,
}

impl WireScope {
    /// Returns the scope, or nothing when a word is wrong.
    pub fn scope(&self) -> Option<Scope> {
        let (kind, name) = self.repo.split_once('/')?;
        let repo = RepoId::parse(RepoKind::from_plural(kind)?, name).ok()?;
        let commit = match &self.commit {
            Some(commit) => Some(Commit::parse(commit)?),
            None => None,
        };
        Some(Scope { repo, commit })
    }
}

impl From<&Scope> for WireScope {
    fn from(scope: &Scope) -> WireScope {
        WireScope { repo: scope.repo.to_string(), commit: scope.commit.map(|commit| commit.to_string()) }
    }
}

impl From<&Pass> for Evicted {
    fn from(pass: &Pass) -> Evicted {
        Evicted {
            reason: pass.need.map(|need| need.reason.as_str().to_owned()),
            objects: pass.evicted_count,
            parts: pass.part_count,
            bytes: pass.evicted_len,
            falls_short: pass.falls_short(),
            objects_in_use: pass.in_use_count,
            objects_pinned: pass.pinned_count,
            quarantine_files: pass.quarantine_count,
            quarantine_bytes: pass.quarantine_removed_len,
            links: pass.links.link_count,
            kept_objects: pass.blob_count,
            kept_bytes: pass.kept_len,
            milliseconds: u64::try_from(pass.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl From<Mended> for MendedObject {
    fn from(mended: Mended) -> MendedObject {
        match mended {
            Mended::Sound => MendedObject::Sound,
            Mended::Retracted(count) => MendedObject::Retracted(count),
            Mended::SetAside { reason } => MendedObject::SetAside(reason),
        }
    }
}

impl From<&Removal> for Removed {
    fn from(removal: &Removal) -> Removed {
        Removed {
            objects: removal.objects.len() as u64,
            bytes: removal.len(),
            links: removal.link_count,
            objects_shared: removal.shared_count,
        }
    }
}
