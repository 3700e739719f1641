//! What the Hub keeps: repos, their commits and refs, and who may read them. It speaks no HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::content::{Content, Memory, git_blob_id, sha1_hex, sha256_hex, sha256_of};

/// The kinds of repo the Hub serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Model,
    Dataset,
    Space,
    Kernel,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Model, Kind::Dataset, Kind::Space, Kind::Kernel];

    /// Returns the kind of a path segment such as `datasets`.
    pub(crate) fn of_plural(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.plural() == word)
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
            Kind::Space => "spaces",
            Kind::Kernel => "kernels",
        }
    }

    /// Returns the noun used in messages.
    pub(crate) fn noun(self) -> &'static str {
        self.plural().trim_end_matches('s')
    }

    /// Returns what stands before the id in a page's path: nothing for models.
    pub(crate) fn prefix(self) -> String {
        if self == Kind::Model { String::new() } else { format!("{}/", self.plural()) }
    }
}

/// One file of one commit.
pub(crate) struct Entry {
    pub(crate) content: Arc<dyn Content>,
    pub(crate) size: u64,
    /// The git blob: of the content, or of the pointer when the file is in LFS.
    pub(crate) blob_id: String,
    pub(crate) lfs: Option<Lfs>,
    pub(crate) text: bool,
}

pub(crate) struct Lfs {
    pub(crate) sha256: String,
    /// Absent in repos that have not moved to Xet.
    pub(crate) xet_hash: Option<String>,
    pub(crate) pointer: String,
}

impl Entry {
    pub(crate) fn regular(content: Arc<dyn Content>) -> Entry {
        let head = content.read(0, 8192);
        let text = !head.contains(&0) && is_utf8_start(&head);
        Entry { size: content.size(), blob_id: git_blob_id(&*content), lfs: None, text, content }
    }

    /// Makes an LFS entry; `sha256` is computed unless claimed.
    pub(crate) fn lfs(content: Arc<dyn Content>, xet: bool, sha256: Option<String>) -> Entry {
        let sha256 = sha256.unwrap_or_else(|| sha256_of(&*content));
        let size = content.size();
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        let blob_id = git_blob_id(&*Memory::holding(pointer.clone()) as &dyn Content);
        let xet_hash = xet.then(|| sha256_hex(format!("xet:{sha256}")));
        Entry { content, size, blob_id, lfs: Some(Lfs { sha256, xet_hash, pointer }), text: false }
    }

    /// Returns what the Hub gives as this file's entity tag: sha256 for LFS, the git blob id otherwise.
    pub(crate) fn oid(&self) -> &str {
        self.lfs.as_ref().map_or(&self.blob_id, |lfs| &lfs.sha256)
    }

    /// Returns the object's name on the CDN: the Xet hash, or the sha256 before Xet.
    pub(crate) fn cdn_name(&self) -> Option<&str> {
        self.lfs.as_ref().map(|lfs| lfs.xet_hash.as_deref().unwrap_or(&lfs.sha256))
    }
}

fn is_utf8_start(head: &[u8]) -> bool {
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character cut at the end of the sample is no sign of binary.
        Err(error) => error.error_len().is_none(),
    }
}

pub(crate) type Files = BTreeMap<String, Arc<Entry>>;

pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) parent: Option<Arc<Commit>>,
    pub(crate) message: String,
    pub(crate) date: String,
    pub(crate) files: Arc<Files>,
}

impl Commit {
    /// Returns this commit and its ancestors, newest first.
    pub(crate) fn history(self: &Arc<Commit>) -> Vec<Arc<Commit>> {
        std::iter::successors(Some(self.clone()), |commit| commit.parent.clone()).collect()
    }

    pub(crate) fn title(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }
}

/// A repo; guarded by the state's mutex.
pub(crate) struct RepoState {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// The 24 hex digits the Hub calls `_id`; a rename keeps them.
    pub(crate) object_id: String,
    pub(crate) commits: HashMap<String, Arc<Commit>>,
    pub(crate) branches: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) pull_requests: BTreeMap<u64, String>,
    /// Changes by branch that no commit holds yet; `None` deletes.
    pub(crate) staged: BTreeMap<String, BTreeMap<String, Option<Arc<Entry>>>>,
    /// Objects by their CDN name, with the path they were first put at.
    pub(crate) objects: HashMap<String, (String, Arc<Entry>)>,
    pub(crate) private: bool,
    pub(crate) gated: bool,
    pub(crate) disabled: bool,
    pub(crate) xet: bool,
    pub(crate) grants: BTreeSet<String>,
    pub(crate) labels: Vec<String>,
}

impl RepoState {
    /// `before` is how many repos of this name there were before, each with an id of its own.
    pub(crate) fn new(kind: Kind, id: &str, before: u64) -> RepoState {
        let of_name = if before == 0 { String::new() } else { format!(":{before}") };
        RepoState {
            kind,
            id: id.to_owned(),
            object_id: sha1_hex(format!("{}:{id}{of_name}", kind.plural()))[..24].to_owned(),
            commits: HashMap::new(),
            branches: BTreeMap::new(),
            tags: BTreeMap::new(),
            pull_requests: BTreeMap::new(),
            staged: BTreeMap::new(),
            objects: HashMap::new(),
            private: false,
            gated: false,
            disabled: false,
            xet: true,
            grants: BTreeSet::new(),
            labels: Vec::new(),
        }
    }

    pub(crate) fn stage(&mut self, branch: &str, path: &str, entry: Option<Arc<Entry>>) {
        if let Some(entry) = &entry
            && let Some(name) = entry.cdn_name()
        {
            self.objects.entry(name.to_owned()).or_insert_with(|| (path.to_owned(), entry.clone()));
        }
        self.staged.entry(branch.to_owned()).or_default().insert(path.to_owned(), entry);
    }

    /// Seals what is staged on a branch into a commit, moves the branch and returns the commit's id.
    pub(crate) fn seal(&mut self, branch: &str, message: &str) -> String {
        let parent = self.commit_at(branch).or_else(|| self.commit_at("main"));
        let mut files = parent.as_ref().map(|parent| (*parent.files).clone()).unwrap_or_default();
        for (path, entry) in self.staged.remove(branch).unwrap_or_default() {
            match entry {
                Some(entry) => files.insert(path, entry),
                None => files.remove(&path),
            };
        }
        let date = date_of(self.commits.len() as u64);
        let mut text = format!("{}\n{}\n{message}\n", self.id, parent.as_ref().map_or("", |parent| &parent.id));
        for (path, entry) in &files {
            text += &format!("{path} {}\n", entry.oid());
        }
        let id = sha1_hex(text);
        let commit = Commit { id: id.clone(), parent, message: message.to_owned(), date, files: Arc::new(files) };
        self.commits.insert(id.clone(), Arc::new(commit));
        self.branches.insert(branch.to_owned(), id.clone());
        id
    }

    /// Seals a first commit when files were put but `commit` was never called, so that short tests may leave it out.
    pub(crate) fn seal_first(&mut self) {
        if self.commits.is_empty() {
            self.seal("main", "initial commit");
        }
    }

    /// Returns the commit of a branch, tag, full ref, sha or short sha.
    pub(crate) fn commit_at(&self, revision: &str) -> Option<Arc<Commit>> {
        let pull_request = revision.strip_prefix("refs/pr/").and_then(|number| number.parse().ok());
        let id = self
            .branches
            .get(revision)
            .or_else(|| self.tags.get(revision))
            .or_else(|| self.branches.get(revision.strip_prefix("refs/heads/")?))
            .or_else(|| self.tags.get(revision.strip_prefix("refs/tags/")?))
            .or_else(|| self.pull_requests.get(&pull_request?));
        if let Some(id) = id {
            return self.commits.get(id).cloned();
        }
        let looks_like_sha = (7..=40).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !looks_like_sha {
            return None;
        }
        let mut found = self.commits.values().filter(|commit| commit.id.starts_with(revision));
        let first = found.next()?;
        found.next().is_none().then(|| first.clone())
    }
}

/// Returns a date that depends on nothing but the number of the commit.
fn date_of(number: u64) -> String {
    let (minutes, hours, days) = (number % 60, number / 60 % 24, number / 1440 % 28);
    format!("2025-01-{:02}T{hours:02}:{minutes:02}:00.000Z", days + 1)
}
