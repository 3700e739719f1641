//! Brings proven objects, and what is known of commits, into the store: for `import` and `load`.

use crate::{
    admin::{Answer, Keeper, Request},
    hub::Oid,
    store::{Given, Parcel, Step, View},
};
use std::path::Path;

/// The store that something is brought into.
pub(super) struct Intake<'a> {
    pub(super) view: &'a View,
    pub(super) keeper: &'a Keeper,
    pub(super) block_size: u64,
}

/// What became of an object that was proven.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Its bytes are shared with the file they came from.
    pub(super) shared: bool,
    pub(super) size: u64,
}

/// Tells whether the whole of an object is here, proven.
pub(super) fn has(view: &View, oid: &Oid) -> bool {
    view.peek(oid).is_ok_and(|peek| peek.is_some_and(|peek| peek.verified && peek.present_len == peek.size))
}

impl Intake<'_> {
    /// Proves an object and has it taken in.
    pub(super) fn object(&self, given: Given<'_>, oid: &Oid, progress: &mut dyn FnMut(Step)) -> Result<Taken, String> {
        let staged = self.view.stage(given, oid, self.block_size, progress).map_err(text)?;
        match self.keeper.order(&Request::TakeIn { file: staged.name(), oid: oid.to_string() }).map_err(text)? {
            Answer::TakenIn { .. } => Ok(Taken { shared: staged.shared, size: staged.size }),
            other => Err(format!("the server answered something else: {other:?}")),
        }
    }

    /// Has what is known of a commit learned.
    pub(super) fn parcel(&self, parcel: &Parcel) -> Result<(), String> {
        let json = serde_json::to_vec(parcel).map_err(text)?;
        let staged = self.view.stage_text(&json).map_err(text)?;
        match self.keeper.order(&Request::Learn { file: staged.name() }).map_err(text)? {
            Answer::Learned => Ok(()),
            other => Err(format!("the server answered something else: {other:?}")),
        }
    }
}

/// Refuses to begin what does not fit: `len` bytes, beside `keep_free` that stay free.
pub(super) fn check_room(view: &View, len: u64, keep_free: u64, remedy: &str) -> Result<(), String> {
    let (free, total) = view.space().map_err(text)?;
    // As eviction counts it: a small disk keeps a tenth free.
    let room = free.saturating_sub(keep_free.min(total / 10));
    if len <= room {
        return Ok(());
    }
    let (len, room) = (indicatif::HumanBytes(len), indicatif::HumanBytes(room));
    Err(format!("it takes {len}, and there is room for {room} in {}: {remedy}", Path::new(view.root()).display()))
}

pub(super) fn text(error: impl ToString) -> String {
    error.to_string()
}
