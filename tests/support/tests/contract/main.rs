//! The fake Hub against the text of the contract, over plain sockets, so that no client's kindness hides a mistake.
#![allow(clippy::unwrap_used)]

/// A client of a few lines that follows nothing and decodes nothing but chunks.
mod client;

/// Gates, private repos, tokens and the words of each refusal (10.4, 10.5).
mod access;
/// Info, trees, refs, commits, searches and their pages (4.1 to 4.9, 10.6).
mod api;
/// What goes wrong on purpose, and what the log says of it.
mod faults;
/// Small and large files, ranges, redirects (10.1 to 10.3, 14).
mod files;
/// Starting, stopping, coming back, and the controls over HTTP.
mod life;
/// The literal sequence of a download in the Hub's own manner (14).
mod sequence;
