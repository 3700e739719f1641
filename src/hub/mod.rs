//! What is asked of the mirror and how the Hub words its answers: types, parsing and rewriting.
//!
//! Enter by [`Route::parse`], which turns a method and a request target into one typed question; behind it there are
//! no path strings any more. [`ApiTarget`] writes a question down again for upstream (and as the key of a kept answer),
//! [`rewrite`] turns upstream's headers and JSON into the mirror's, [`listing`] learns from them, [`HubError`] says no
//! as the Hub would.
//!
//! This room never does I/O, never looks at a clock, and knows neither pingora nor the disk. Every parser takes bytes
//! from strangers: none panics, none allocates without bound, none undoes an escape twice.

mod conditional;
mod content;
pub mod content_range;
mod error;
mod escape;
mod fuzz;
pub mod listing;
mod oid;
mod path;
#[cfg(test)]
mod properties;
mod range;
mod repo;
mod revision;
pub mod rewrite;
mod route;
mod route_api;
mod route_file;
mod target;

pub use conditional::{if_none_match, if_range_allows};
pub use content::{content_disposition, content_type};
pub use error::{HubError, header_safe, is_hubs_no};
pub use escape::BadTarget;
pub use fuzz::{fuzz_content_range, fuzz_link, fuzz_range, fuzz_route, fuzz_strip_xet, fuzz_tree};
pub use listing::{ListingError, RepoFacts, Tree, TreeFile, parse_info, parse_tree};
pub use oid::{Commit, Oid, PackedOid};
pub use path::FilePath;
pub use range::{RangeAsk, parse_range};
pub use repo::{RepoId, RepoKind};
pub use revision::Revision;
pub use route::{Own, Route};
pub use target::ApiTarget;
