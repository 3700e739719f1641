//! DingoSpeed: a self-hosted mirror of the Hugging Face Hub.
//!
//! Calls go down this list and bytes come back up; `tests/tidy.rs` holds it.
//!
//! | layer | rooms |
//! |---|---|
//! | assembly | `main`, [`cli`], [`server`] |
//! | desks | [`proxy`] speaks HTTP, [`panel`] is the operator's page, [`admin`] takes orders, [`commands`] are clients of these |
//! | decisions | [`mirror`], [`access`], [`limits`] |
//! | keep, bring | [`store`], [`source`] |
//! | words | [`hub`], [`config`], [`metrics`], [`alarms`], [`journal`] |
//!
//! # Glossary
//!
//! One word per idea; the same word in code, configuration, metrics and logs.
//!
//! - **repo**: a model, data set or space, named `owner/name` and by its kind.
//! - **revision**: what a client writes after the `@`: a branch, a tag, `refs/pr/1`, or a commit. May move.
//! - **commit**: a full 40-digit id. Never moves; what a revision stands for at a moment.
//! - **file**: a path in a repo at a commit. Many files, in many repos, may have the same content.
//! - **object**: a content, named by its hash (its *oid*: sha256 for LFS, git blob sha1 otherwise) and kept once for all files.
//! - **block**: an aligned piece of an object, the unit in which it is kept, checked and counted; the last one may be short.
//! - **span**: a half-open range of an object's bytes, `start..end`, as clients ask for them.
//! - **fill**: the work of fetching absent blocks into the store.
//! - **flight**: one fetch that is under way and that any number of readers wait for; nothing is fetched by two at a time.
//! - **record**: a small answer of the Hub's API, kept with the time at which it was true.
//! - **alias**: a name that upstream redirects to another; all is kept under the latter, the repo's **present name**.
//! - **promise**: what a client was told of a branch, which its next requests are held to.
//! - **rule**: which repos may be had, and which kept, by the operator's will.
//! - **pass**: one round of eviction: all objects are measured, and some removed when a limit is passed.
//! - **pin**: what keeps a repo, or one revision of it, from eviction and removal.
//! - **parcel**: all that is known of a commit, as it is carried from one store to another; its objects go beside it.
//! - **source**: where bytes come from when they are not kept: the Hub, another mirror, later a peer.

pub mod access;
pub mod admin;
pub mod alarms;
pub mod cli;
pub mod commands;
pub mod config;
pub mod hub;
pub mod journal;
pub mod limits;
pub mod metrics;
pub mod mirror;
pub mod panel;
pub mod proxy;
pub mod server;
pub mod source;
pub mod store;
