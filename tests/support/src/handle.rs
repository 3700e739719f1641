//! A repo in the test's hand: put files, seal commits, say who may read.

use std::sync::Arc;

use crate::content::{Content, Memory, Source, Synthetic, sha256_hex};
use crate::repo::{Entry, Kind, RepoState};
use crate::state::Shared;

/// A repo of the fake Hub. Cheap to clone; every call takes effect at once.
///
/// Files are staged until `commit`. Only the first commit may be left out: a repo that is asked for before
/// any `commit` seals what it has.
#[derive(Clone)]
pub struct Repo {
    pub(crate) shared: Arc<Shared>,
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) branch: String,
}

impl Repo {
    /// Puts a regular git file.
    pub fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> Repo {
        self.put(path, Entry::regular(Memory::holding(bytes.as_ref().to_vec())))
    }

    /// Puts a file in LFS, copying the bytes.
    pub fn lfs(&self, path: &str, bytes: impl AsRef<[u8]>) -> Repo {
        self.lfs_from(path, Memory::holding(bytes.as_ref().to_vec()))
    }

    /// Puts a file in LFS without copying: a path is mapped. Reads it once, for its sha256.
    pub fn lfs_from(&self, path: &str, source: impl Into<Source>) -> Repo {
        self.put(path, Entry::lfs(source.into().0, self.uses_xet(), None))
    }

    /// Puts a regular git file without copying.
    pub fn file_from(&self, path: &str, source: impl Into<Source>) -> Repo {
        self.put(path, Entry::regular(source.into().0))
    }

    /// Puts an LFS file of any size that takes no memory. Its true sha256 is computed: about a second per GiB.
    pub fn synthetic(&self, path: &str, size: u64, seed: u64) -> Repo {
        self.lfs_from(path, Arc::new(Synthetic::new(size, seed)) as Arc<dyn Content>)
    }

    /// Like `synthetic`, at once, under an invented sha256: for readers who do not verify, and for tests of those who do.
    pub fn synthetic_unhashed(&self, path: &str, size: u64, seed: u64) -> Repo {
        let claimed = sha256_hex(format!("synthetic {size} {seed}"));
        let content: Arc<dyn Content> = Arc::new(Synthetic::new(size, seed));
        self.put(path, Entry::lfs(content, self.uses_xet(), Some(claimed)))
    }

    /// Puts an LFS file under a sha256 that is claimed, not computed.
    pub fn lfs_claiming(&self, path: &str, source: impl Into<Source>, sha256: &str) -> Repo {
        self.put(path, Entry::lfs(source.into().0, self.uses_xet(), Some(sha256.to_owned())))
    }

    /// Stages a deletion.
    pub fn delete(&self, path: &str) -> Repo {
        self.change(|repo| repo.stage(&self.branch, path, None))
    }

    /// Seals what is staged and moves the branch: `main`, or that of `on`.
    pub fn commit(&self, message: &str) -> Repo {
        self.change(|repo| {
            repo.seal(&self.branch, message);
        })
    }

    /// Returns a handle whose files and commits go to another branch, which starts where `main` is.
    pub fn on(&self, branch: &str) -> Repo {
        Repo { branch: branch.to_owned(), ..self.branch(branch) }
    }

    /// Makes a branch where this handle's branch is, unless there is one.
    pub fn branch(&self, name: &str) -> Repo {
        self.at_head(|repo, head| {
            repo.branches.entry(name.to_owned()).or_insert(head);
        })
    }

    /// Makes or moves a tag to where this handle's branch is.
    pub fn tag(&self, name: &str) -> Repo {
        self.at_head(|repo, head| {
            repo.tags.insert(name.to_owned(), head);
        })
    }

    /// Makes or moves `refs/pr/n` to where this handle's branch is.
    pub fn pr(&self, number: u64) -> Repo {
        self.at_head(|repo, head| {
            repo.pull_requests.insert(number, head);
        })
    }

    /// Moves this handle's branch back, or elsewhere: to any revision. Panics if there is none such.
    pub fn reset_to(&self, revision: &str) -> Repo {
        self.change(|repo| {
            let commit = repo.commit_at(revision).unwrap_or_else(|| panic!("no revision `{revision}` in {}", repo.id));
            repo.branches.insert(self.branch.clone(), commit.id.clone());
        })
    }

    /// Lets only granted tokens read the files; info and a masked tree stay public.
    pub fn gated(&self) -> Repo {
        self.change(|repo| repo.gated = true)
    }

    /// Shows the repo to granted tokens only.
    pub fn private(&self) -> Repo {
        self.change(|repo| repo.private = true)
    }

    /// Ends gate and privacy.
    pub fn public(&self) -> Repo {
        self.change(|repo| (repo.gated, repo.private) = (false, false))
    }

    /// Refuses all with 403.
    pub fn disabled(&self) -> Repo {
        self.change(|repo| repo.disabled = true)
    }

    /// Leaves the files put from now on outside Xet: an older CDN path and no Xet signals.
    pub fn without_xet(&self) -> Repo {
        self.change(|repo| repo.xet = false)
    }

    /// Adds a tag of the card, which searches can filter by.
    pub fn label(&self, label: &str) -> Repo {
        self.change(|repo| repo.labels.push(label.to_owned()))
    }

    /// Lets a token in, and declares it valid.
    pub fn grant(&self, token: &str) -> Repo {
        self.shared.state().tokens.insert(token.to_owned());
        self.change(|repo| {
            repo.grants.insert(token.to_owned());
        })
    }

    /// Shuts a token out again; it stays valid elsewhere.
    pub fn revoke(&self, token: &str) -> Repo {
        self.change(|repo| {
            repo.grants.remove(token);
        })
    }

    /// Returns the commit this handle's branch is at.
    pub fn sha(&self) -> String {
        let mut sha = String::new();
        self.at_head(|_, head| sha = head);
        sha
    }

    /// Returns the id as it was given: `org/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what the Hub names the file by: sha256 in LFS, git blob id otherwise. Panics without such a file.
    pub fn oid(&self, path: &str) -> String {
        self.with_entry(path, |entry| entry.oid().to_owned())
    }

    /// Returns the file's Xet hash, if it has one.
    pub fn xet_hash(&self, path: &str) -> Option<String> {
        self.with_entry(path, |entry| entry.lfs.as_ref()?.xet_hash.clone())
    }

    /// Returns the file's bytes as the Hub holds them, to compare with what a mirror served.
    pub fn content(&self, path: &str) -> Arc<dyn Content> {
        self.with_entry(path, |entry| entry.content.clone())
    }

    fn with_entry<T>(&self, path: &str, take: impl FnOnce(&Entry) -> T) -> T {
        let mut found = None;
        self.change(|repo| {
            let staged = repo.staged.get(&self.branch).and_then(|staged| staged.get(path).cloned().flatten());
            let commit = repo.commit_at(&self.branch);
            found = staged.or_else(|| commit?.files.get(path).cloned());
        });
        take(&found.unwrap_or_else(|| panic!("no file `{path}` in {}", self.id)))
    }

    fn uses_xet(&self) -> bool {
        let mut xet = true;
        self.change(|repo| xet = repo.xet);
        xet
    }

    pub(crate) fn put(&self, path: &str, entry: Entry) -> Repo {
        self.change(|repo| repo.stage(&self.branch, path, Some(Arc::new(entry))))
    }

    fn at_head(&self, make: impl FnOnce(&mut RepoState, String)) -> Repo {
        self.change(|repo| {
            repo.seal_first();
            let head = repo.commit_at(&self.branch).expect("a sealed repo has a head");
            make(repo, head.id.clone());
        })
    }

    fn change(&self, make: impl FnOnce(&mut RepoState)) -> Repo {
        let mut state = self.shared.state();
        let key = (self.kind, self.id.clone());
        make(state.repos.get_mut(&key).unwrap_or_else(|| panic!("`{}` was renamed: take a new handle", self.id)));
        self.clone()
    }
}
