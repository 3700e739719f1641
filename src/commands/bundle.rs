//! The tar that `export` writes and `load` reads.
//!
//! ```text
//! manifest.json        first: what is known of each commit, and the objects that follow with their sizes
//! objects/<oid>        the content of an object, as it is
//! ```

use crate::store::Parcel;
use serde::{Deserialize, Serialize};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const OBJECTS: &str = "objects/";
/// The version that is written, and the last that is read.
pub(super) const VERSION: u64 = 1;
/// Longest manifest that is read: two million files.
pub(super) const MANIFEST_LEN_MAX: u64 = 512 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) dingospeed_export: u64,
    /// Of the program that wrote it.
    pub(super) program: String,
    pub(super) objects: Vec<Object>,
    pub(super) parcels: Vec<Parcel>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Object {
    pub(super) oid: String,
    pub(super) size: u64,
}
