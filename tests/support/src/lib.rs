//! A stand-in for huggingface.co and its CDN, written after the Hub's contract and never after what our mirror accepts.
//!
//! `FakeHub` is the door: it starts two listeners (two origins) on free ports, takes repos by fluent calls, logs what
//! was asked, and breaks on request. See the README beside `Cargo.toml` for an example and the list of faults.
//!
//! A request walks `server` (sockets) > `serve` (log, rules, sending) > `route` > `api`, `resolve`, `info`, `tree`, `search` or
//! `cdn` (what the Hub says) > `respond` (headers) > `body` (bytes, cuts, pauses). `repo` and `content` are what is told of.

mod api;
mod body;
mod builder;
mod cdn;
mod content;
mod control;
mod errors;
mod faults;
mod gate;
mod handle;
mod hub;
mod info;
mod load;
mod log;
mod observe;
mod range;
mod registry;
mod repo;
mod resolve;
mod respond;
mod route;
mod rules;
mod search;
mod serve;
mod server;
mod sign;
mod state;
mod tree;

pub use builder::Builder;
pub use content::{Content, Memory, SYNTHETIC_PERIOD, Source, Synthetic, git_blob_id, noise, sha256_of};
pub use faults::{Fault, FaultBuilder};
pub use gate::Gate;
pub use handle::Repo;
pub use hub::FakeHub;
pub use load::{LFS_OVER, is_lfs, parse_size};
pub use log::{Call, Listener};
pub use repo::Kind;
