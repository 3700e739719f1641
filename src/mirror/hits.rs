//! How often files of each repo were asked for, and how often all of the file was there. Counted in memory, written down
//! now and then.

use crate::hub::RepoId;
use crate::store::{KeptHits, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Repos that are counted; beyond this those asked for longest ago are forgotten. About 200 bytes each.
const REPOS_MAX: u64 = 200_000;

/// The counts of all repos. Lossy by a minute when the process is killed.
pub(crate) struct Hits {
    repos: moka::sync::Cache<RepoId, Arc<Counts>>,
    changed: AtomicBool,
    /// Of all repos, since the start.
    total: Counts,
}

#[derive(Default)]
struct Counts {
    reads: AtomicU64,
    hits: AtomicU64,
}

impl Hits {
    /// Takes up the counts that are kept. Blocks.
    pub(super) fn load(store: &Store) -> Hits {
        let repos = moka::sync::Cache::new(REPOS_MAX);
        match store.hits() {
            Ok(kept) => kept.into_iter().for_each(|KeptHits { repo, reads, hits }| {
                repos.insert(repo, Arc::new(Counts { reads: reads.into(), hits: hits.into() }));
            }),
            Err(error) => log::warn!("counts of reads begin anew: {error}"),
        }
        Hits { repos, changed: AtomicBool::new(false), total: Counts::default() }
    }

    /// Counts one request for a file's bytes; `hit` when the whole file was there.
    pub(super) fn count(&self, repo: &RepoId, hit: bool) {
        let counts = match self.repos.get(repo) {
            Some(counts) => counts,
            None => self.repos.get_with_by_ref(repo, Arc::default),
        };
        counts.add(hit);
        self.total.add(hit);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Returns reads and hits of a repo.
    pub(crate) fn of(&self, repo: &RepoId) -> (u64, u64) {
        self.repos.get(repo).map_or((0, 0), |counts| counts.both())
    }

    /// Returns reads and hits of all repos together, since the start.
    pub(crate) fn total(&self) -> (u64, u64) {
        self.total.both()
    }

    /// Writes the counts down if any has changed. Blocks.
    pub(super) fn save(&self, store: &Store) {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let all = self.repos.iter().map(|(repo, counts)| {
            let (reads, hits) = counts.both();
            KeptHits { repo: (*repo).clone(), reads, hits }
        });
        if let Err(error) = store.put_hits(all) {
            log::warn!("cannot keep the counts of reads: {error}");
        }
    }
}

impl Counts {
    fn add(&self, hit: bool) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.hits.fetch_add(u64::from(hit), Ordering::Relaxed);
    }

    fn both(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.hits.load(Ordering::Relaxed))
    }
}
