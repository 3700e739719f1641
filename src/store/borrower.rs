//! Who keeps objects open beyond the store, and is asked to let go when they are removed.

use super::Pass;
use crate::hub::{Commit, Oid, RepoId};

/// What a borrower does with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loan {
    /// It does not have it.
    None,
    /// It has it at hand for the next reader, and lets it go when asked.
    Idle,
    /// Somebody reads or fills it.
    InUse,
}

/// The one above the store that keeps objects at hand. Called with the object's slot locked: it must not call the store.
pub trait Borrower: Send + Sync {
    /// Lets go of an object unless somebody uses it.
    fn let_go(&self, oid: &Oid) -> Loan;

    /// Tells what it does with an object; it need not let go of it.
    fn loan(&self, oid: &Oid) -> Loan;

    /// Forgets an object that is removed whatever is going on: who reads it reads on, the next one opens it anew.
    fn forget(&self, oid: &Oid);

    /// Hears that links were removed: what was linked before may not be any more.
    fn links_removed(&self);

    /// Hears that something was learned of a commit by another way than upstream; `access` when also who may read the repo.
    fn learned(&self, repo: &RepoId, commit: &Commit, access: bool);

    /// Hears how each pass went.
    fn passed(&self, pass: &Pass);
}

/// Nobody: the store is all there is, as in a command that works alone.
pub(super) struct Nobody;

impl Borrower for Nobody {
    fn let_go(&self, _: &Oid) -> Loan {
        Loan::None
    }

    fn loan(&self, _: &Oid) -> Loan {
        Loan::None
    }

    fn forget(&self, _: &Oid) {}

    fn links_removed(&self) {}

    fn learned(&self, _: &RepoId, _: &Commit, _: bool) {}

    fn passed(&self, _: &Pass) {}
}
