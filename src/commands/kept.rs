//! Whether files that were read are kept, whole and verified; and if not, why not.

use crate::{
    config::{Config, Pattern},
    hub::{Commit, Oid, RepoId, TreeFile},
    store::{StoreError, View},
};
use indicatif::HumanBytes;
use std::collections::HashMap;

/// Looks into the directory of a mirror. Knows its configuration, or that of the command that asks beside it.
#[derive(Debug)]
pub struct Kept {
    config: Config,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// So many bytes of it are here, and not all; or the repo is not known to have it.
    Part(u64),
    /// All of it is here, without a verdict.
    Verdict,
}

impl Kept {
    pub fn new(config: &Config) -> Kept {
        Kept { config: config.clone() }
    }

    /// Returns those of a commit's files that are not whole here. Blocking, a look at each.
    pub(super) fn lacking(
        &self,
        repo: &RepoId,
        commit: &Commit,
        files: &[TreeFile],
    ) -> Result<Vec<(TreeFile, Lack)>, StoreError> {
        let view = View::open(&self.config.store.repos)?;
        let repo = view.present(repo)?;
        let mut known: HashMap<String, Oid> = HashMap::new();
        view.each_link(&repo, commit, |path, oid| {
            known.insert(path, oid);
        })?;
        for (path, file) in view.listing(&repo, commit)?.files {
            known.insert(path.into(), file.oid);
        }
        let mut lacking = Vec::new();
        for file in files {
            // What is here for another repo only may go with that one.
            let is_known = known.get(file.path.as_str()) == Some(&file.oid);
            let peek = if is_known { view.peek(&file.oid)? } else { None };
            match peek {
                Some(peek) if peek.size == file.size && peek.present_len == peek.size => {
                    lacking.extend((!peek.verified).then(|| (file.clone(), Lack::Verdict)));
                }
                peek => lacking.push((file.clone(), Lack::Part(peek.map_or(0, |peek| peek.present_len)))),
            }
        }
        Ok(lacking)
    }

    /// Says what a file lacks, and why, as far as that can be seen: `pulled_len` bytes were wanted together.
    pub(super) fn why(&self, repo: &RepoId, file: &TreeFile, lack: Lack, pulled_len: u64) -> String {
        match lack {
            Lack::Verdict => "it was read and is here, but was not verified".to_owned(),
            Lack::Part(present_len) => {
                let (size, present) = (HumanBytes(file.size), HumanBytes(present_len));
                format!("it was read, but of {size} only {present} are kept: {}", self.cause(repo, file, present_len, pulled_len))
            }
        }
    }

    fn cause(&self, repo: &RepoId, file: &TreeFile, present_len: u64, pulled_len: u64) -> String {
        let (rules, eviction) = (&self.config.rules, &self.config.eviction);
        let view = View::open(&self.config.store.repos);
        let present = view.as_ref().ok().and_then(|view| view.present(repo).ok());
        let names = [repo.to_string(), present.as_ref().unwrap_or(repo).to_string()];
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| names.iter().any(|name| pattern.matches(name)));
        if any(&rules.cache_deny) {
            return "rules.cache_deny forbids it".to_owned();
        }
        if !rules.cache_allow.is_empty() && !any(&rules.cache_allow) {
            return "rules.cache_allow does not name the repo".to_owned();
        }
        let size_max = HumanBytes(eviction.max_size);
        if eviction.max_size > 0 && file.size > eviction.max_size {
            return format!("the file is larger than eviction.max_size, {size_max}");
        }
        if eviction.max_size > 0 && pulled_len > eviction.max_size {
            return format!("together the files have {}, and eviction.max_size is {size_max}", HumanBytes(pulled_len));
        }
        if let Some((free, total)) = view.ok().and_then(|view| view.space().ok()) {
            // As eviction counts it: a small disk keeps a tenth free.
            let kept_free = eviction.min_free.min(total / 10);
            if free < (file.size - present_len.min(file.size)).saturating_add(kept_free) {
                let (free, kept_free) = (HumanBytes(free), HumanBytes(kept_free));
                return format!("the disk has {free} free, of which {kept_free} stay so (eviction.min_free)");
            }
        }
        "it was removed or evicted meanwhile, or could not be written; the mirror's log and its eviction.* tell more".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{FilePath, RepoKind};
    use crate::store::{ListedFile, Store, StoreOptions, git_blob_oid};

    #[test]
    fn only_what_is_whole_proven_and_of_this_repo_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.repos = dir.path().to_owned();
        let kept = Kept::new(&config);
        let store = Store::open(dir.path(), StoreOptions { block_size: 1 << 20 }).unwrap();
        let (repo, commit) = (RepoId::parse(RepoKind::Model, "a/b").unwrap(), Commit::parse(&"1".repeat(40)).unwrap());
        let bytes = vec![7; (1 << 20) + 5];
        let oid = git_blob_oid(&bytes);
        let file = TreeFile { path: FilePath::parse("w.bin").unwrap(), oid, size: bytes.len() as u64, lfs: false };
        let look = || {
            let lacking = kept.lacking(&repo, &commit, std::slice::from_ref(&file)).unwrap();
            lacking.into_iter().map(|(_, lack)| lack).next()
        };
        assert_eq!(look(), Some(Lack::Part(0)));
        let object = store.object(&oid, file.size).unwrap();
        let put = |block: u64, part: &[u8]| {
            object.write(block << 20, part).unwrap();
            object.publish(block, crc32c::crc32c(part)).unwrap();
        };
        put(0, &bytes[..1 << 20]);
        let listed = ListedFile { oid, size: file.size, lfs: false, second_hand: false };
        store.listings().append(&repo, &commit, &[("w.bin", listed)]).unwrap();
        assert_eq!(look(), Some(Lack::Part(1 << 20)));
        put(1, &bytes[1 << 20..]);
        assert_eq!(look(), Some(Lack::Verdict));
        object.set_verified(true).unwrap();
        assert_eq!(look(), None);
        // Whole, but nothing of another commit's.
        let other = Commit::parse(&"2".repeat(40)).unwrap();
        assert_eq!(kept.lacking(&repo, &other, std::slice::from_ref(&file)).unwrap()[0].1, Lack::Part(0));
    }
}
