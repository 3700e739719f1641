//! Forgets in memory what is known of a repo whose name has become another one's.

use crate::hub::RepoId;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Forgetter {
    forget: Box<dyn Fn(&RepoId) + Send + Sync>,
    count: AtomicU64,
}

impl Forgetter {
    /// `forget` forgets what is known of a repo's revisions and files.
    pub(super) fn new(forget: impl Fn(&RepoId) + Send + Sync + 'static) -> Forgetter {
        Forgetter { forget: Box::new(forget), count: AtomicU64::new(0) }
    }

    /// To be told when the disk has forgotten already, or what is in memory would be read again from there.
    pub(crate) fn forget(&self, repo: &RepoId) {
        (self.forget)(repo);
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// How often something was forgotten since the start.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}
