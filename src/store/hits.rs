//! How often each repo was read: the file `hits`, a line for each, replaced whole.
//!
//! ```text
//! models/org/name 120 117
//! ```
//!
//! The first number counts requests for files, the second those of which the whole file was there. Nothing depends on it.

use super::{Store, StoreError, place};
use crate::hub::{RepoId, RepoKind};

const FILE: &str = "hits";
/// Longest such file that is read: some 300,000 repos.
const LEN_MAX: u64 = 32 << 20;

/// The counts of one repo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptHits {
    pub repo: RepoId,
    pub reads: u64,
    pub hits: u64,
}

impl KeptHits {
    fn parse(line: &str) -> Option<KeptHits> {
        let mut words = line.split(' ');
        let (kind, name) = words.next()?.split_once('/')?;
        let repo = RepoId::parse(RepoKind::from_plural(kind)?, name).ok()?;
        Some(KeptHits { repo, reads: words.next()?.parse().ok()?, hits: words.next()?.parse().ok()? })
    }
}

impl Store {
    /// Returns the counts that are kept. A line that cannot be read counts nothing. Blocks.
    pub fn hits(&self) -> Result<Vec<KeptHits>, StoreError> {
        let bytes = place::read_bounded(&self.root().join(FILE), LEN_MAX)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).lines().filter_map(KeptHits::parse).collect())
    }

    /// Replaces the counts that are kept. Blocks.
    pub fn put_hits(&self, hits: impl Iterator<Item = KeptHits>) -> Result<(), StoreError> {
        let lines: String = hits.map(|KeptHits { repo, reads, hits }| format!("{repo} {reads} {hits}\n")).collect();
        self.place.replace(&self.root().join(FILE), &[lines.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    #[test]
    fn counts_come_back_and_nonsense_counts_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), StoreOptions { block_size: 1 << 20 }).unwrap();
        assert_eq!(store.hits().unwrap(), []);
        let of = |line| KeptHits::parse(line).unwrap();
        let all = [of("models/a/b 3 2"), of("datasets/squad 18446744073709551615 0")];
        store.put_hits(all.iter().cloned()).unwrap();
        assert_eq!(store.hits().unwrap(), all);
        std::fs::write(root.path().join(FILE), "models/a/b 3\nmodels/../x 1 1\n\nspaces/a/c 1 1\n\u{1}").unwrap();
        assert_eq!(store.hits().unwrap(), [of("spaces/a/c 1 1")]);
    }
}
