//! Forgets in memory what is known of a repo whose name has become another one's.

use crate::hub::RepoId;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Forgetter {
    forget: Box<dyn Fn(&RepoId) + Send + Sync>,
    forget_readers: OnceLock<Box<dyn Fn() + Send + Sync>>,
    count: AtomicU64,
}

impl Forgetter {
    /// `forget` forgets what is known of a repo's revisions and files.
    pub(super) fn new(forget: impl Fn(&RepoId) + Send + Sync + 'static) -> Forgetter {
        Forgetter { forget: Box::new(forget), forget_readers: OnceLock::new(), count: AtomicU64::new(0) }
    }

    /// And `forget` forgets who may read, of all repos: they are asked for again.
    pub(crate) fn also(&self, forget: impl Fn() + Send + Sync + 'static) {
        let _ = self.forget_readers.set(Box::new(forget));
    }

    /// To be told when the disk has forgotten already, or what is in memory would be read again from there.
    pub(crate) fn forget(&self, repo: &RepoId) {
        (self.forget)(repo);
        if let Some(forget_readers) = self.forget_readers.get() {
            forget_readers();
        }
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// How often something was forgotten since the start.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}
