//! What goes with the objects: links that lead nowhere, answers about repos of which nothing is left, old quarantine; and the
//! removal of whole repos.

use super::{
    Store, StoreError,
    pass::Passes,
    place,
    view::{View, each_symlink, entries, linked_oid},
};
use crate::hub::{Commit, Oid, RepoId, RepoKind};
use std::{
    collections::HashSet,
    fs, io,
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Links that one bounded sweep looks at, give or take a commit; the next sweep goes on there. Less than a tenth of a second of CPU.
const LINKS_MAX: u64 = 10_000;

/// What is to be removed: a repo, or one commit of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub repo: RepoId,
    pub commit: Option<Commit>,
}

/// What a removal takes away, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub link_count: u64,
    /// The objects that nothing else links to, with the bytes they take on the disk.
    pub objects: Vec<(Oid, u64)>,
    /// Objects that stay, because other repos or commits link to them.
    pub shared_count: u64,
}

impl Removal {
    /// Returns the bytes that come back.
    pub fn len(&self) -> u64 {
        self.objects.iter().map(|(_, len)| len).sum()
    }

    /// Tells whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.link_count == 0 && self.objects.is_empty()
    }
}

/// Where a bounded sweep stopped.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The last that was done, with the first part of the repo's name; none means the beginning.
    after: Option<((RepoKind, String), RepoId, Commit)>,
}

impl Cursor {
    /// Tells whether a round over all links has begun and not ended.
    pub(super) fn is_under_way(&self) -> bool {
        self.after.is_some()
    }
}

/// How a sweep of the links went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Links that led nowhere and are gone now.
    pub link_count: u64,
    /// All links were looked at, in this sweep and those before it.
    pub finished: bool,
}

impl View {
    /// Returns what removing these would take away. Reads every link there is.
    pub fn removal(&self, scopes: &[Scope]) -> Result<Removal, StoreError> {
        let mut removal = Removal::default();
        let (mut ours, mut others) = (HashSet::new(), HashSet::new());
        for repo in self.repos()? {
            for commit in self.commits(&repo)? {
                let holds = |scope: &Scope| scope.repo == repo && scope.commit.is_none_or(|one| one == commit);
                let is_ours = scopes.iter().any(holds);
                self.each_link(&repo, &commit, |_, oid| {
                    if is_ours {
                        removal.link_count += 1;
                        ours.insert(oid);
                    } else {
                        others.insert(oid);
                    }
                })?;
                if is_ours {
                    // A link may be missing, where a name was too long for it.
                    ours.extend(self.listing(&repo, &commit)?.files.values().map(|file| file.oid));
                }
            }
        }
        for oid in ours {
            let Ok(meta) = fs::symlink_metadata(self.place.blob(&oid)) else { continue };
            if others.contains(&oid) {
                removal.shared_count += 1;
            } else {
                removal.objects.push((oid, meta.blocks() * 512));
            }
        }
        removal.objects.sort_unstable();
        Ok(removal)
    }

    /// Fails with `Misuse` when a pin holds any of these.
    pub fn refuse_pinned(&self, scopes: &[Scope]) -> Result<(), StoreError> {
        for pin in self.pins()? {
            let pinned_commit = match &pin.revision {
                Some(revision) => self.resolve(&pin.repo, revision.as_str())?,
                None => None,
            };
            let meets = |scope: &&Scope| {
                let apart = scope.commit.is_some() && pin.revision.is_some() && pinned_commit != scope.commit;
                scope.repo == pin.repo && !apart
            };
            if let Some(scope) = scopes.iter().find(meets) {
                let what = match pin.revision {
                    Some(_) => format!("of which {pin} is pinned: unpin that first"),
                    None => "which is pinned: unpin it first".to_owned(),
                };
                return Err(StoreError::misuse(format!("remove {}, {what}", scope.repo)));
            }
        }
        Ok(())
    }

    /// Returns what is in the quarantine: file, when it was set aside, and bytes on the disk; oldest first.
    pub fn quarantine(&self) -> Result<Vec<(PathBuf, SystemTime, u64)>, StoreError> {
        let mut files = Vec::new();
        for (path, _) in entries(&self.place.quarantine())? {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            // `<name>.<unix ms>.blob`; the file's own times are those of its making, and serve for what others put here.
            let stem = path.file_stem().map(Path::new).and_then(Path::extension);
            let set_aside = stem.and_then(|ms| ms.to_str()?.parse().ok()).map(place::from_unix_ms);
            let at = set_aside.or(meta.modified().ok()).unwrap_or(SystemTime::now());
            files.push((path, at, meta.blocks() * 512));
        }
        files.sort_unstable_by_key(|(_, at, _)| *at);
        Ok(files)
    }

    /// Counts the links that lead nowhere.
    pub fn dangling_count(&self) -> Result<u64, StoreError> {
        let mut count = 0;
        each_symlink(&self.root().join("files"), &mut |link| count += u64::from(is_dangling(link)))?;
        Ok(count)
    }
}

impl Store {
    /// Removes repos or commits: objects that nothing else links to, then links, then kept answers. Returns what went.
    ///
    /// Broken off in the middle it has removed something and left links that lead nowhere, which the next sweep finds.
    /// `Misuse`: one of them is pinned.
    pub fn remove_repos(&self, scopes: &[Scope]) -> Result<Removal, StoreError> {
        let view = self.view();
        view.refuse_pinned(scopes)?;
        let removal = view.removal(scopes)?;
        for (oid, _) in &removal.objects {
            self.remove(oid)?;
        }
        for scope in scopes {
            let commits = match scope.commit {
                Some(commit) => vec![commit],
                None => view.commits(&scope.repo)?,
            };
            for commit in commits {
                let top = view.place.commits(&scope.repo).join(commit.as_str());
                each_symlink(&top, &mut |link| {
                    if linked_oid(link).is_some() {
                        remove_file(link);
                    }
                })?;
                remove_empty(&top);
                remove_file(&view.place.api(&scope.repo).join("commits").join(format!("{}.jsonl", commit.as_str())));
            }
            self.remove_if_empty(&view, &scope.repo)?;
        }
        self.borrower().links_removed();
        log::info!(
            "removed repos={} objects={} bytes={} links={}",
            scopes.iter().map(|scope| scope.repo.to_string()).collect::<Vec<_>>().join(","),
            removal.objects.len(),
            removal.len(),
            removal.link_count
        );
        Ok(removal)
    }

    /// Removes links that lead nowhere, from where the last sweep stopped, to the end when not `bounded`. What cannot be read is told and
    /// passed over. After an error the round is over.
    fn sweep_links(&self, cursor: &mut Cursor, bounded: bool) -> Result<Swept, StoreError> {
        let view = self.view();
        let mut swept = Swept::default();
        let mut seen = 0;
        let links_max = if bounded { LINKS_MAX } else { u64::MAX };
        let after = cursor.after.take();
        // One first name after the other: what comes behind the end of this sweep is not even listed.
        for first in view.first_names()? {
            if after.as_ref().is_some_and(|(last, ..)| first < *last) {
                continue;
            }
            for repo in view.repos_of(first.0, &first.1).unwrap_or_else(passed_over) {
                if after.as_ref().is_some_and(|(last, done, _)| first == *last && repo < *done) {
                    continue;
                }
                let done = after.as_ref().filter(|(_, last, _)| repo == *last).map(|(.., commit)| *commit);
                let last;
                (last, seen) = self.sweep_repo(&view, &repo, done, seen..links_max, &mut swept);
                if let Some(commit) = last.filter(|_| seen >= links_max) {
                    cursor.after = Some((first, repo, commit));
                    self.links_swept(&swept);
                    return Ok(swept);
                }
            }
        }
        swept.finished = true;
        self.links_swept(&swept);
        Ok(swept)
    }

    /// Sweeps the commits behind `done` until `seen` has come to its end. Returns the last one, and how many links were seen then.
    fn sweep_repo(
        &self,
        view: &View,
        repo: &RepoId,
        done: Option<Commit>,
        mut seen: Range<u64>,
        swept: &mut Swept,
    ) -> (Option<Commit>, u64) {
        let (removed_before, mut last) = (swept.link_count, None);
        let commits = view.commits(repo).unwrap_or_else(passed_over);
        for commit in commits.into_iter().filter(|commit| done.is_none_or(|done| *commit > done)) {
            let top = view.place.commits(repo).join(commit.as_str());
            each_symlink(&top, &mut |link| {
                seen.start += 1;
                if is_dangling(link) && remove_file(link) {
                    swept.link_count += 1;
                }
            })
            .unwrap_or_else(passed_over);
            remove_empty(&top);
            last = Some(commit);
            if seen.is_empty() {
                break;
            }
        }
        if swept.link_count > removed_before {
            self.remove_if_empty(view, repo).unwrap_or_else(passed_over);
        }
        (last, seen.start)
    }

    /// Goes on with a round over the links that a pass has begun, if one is under way and no pass is. BLOCKING, a tenth of a second at
    /// most.
    pub fn sweep_on(&self) -> Result<(), StoreError> {
        let Some(mut passes) = self.try_passes() else { return Ok(()) };
        if passes.cursor.is_under_way() {
            self.sweep_step(&mut passes, true)?;
        }
        Ok(())
    }

    /// Sweeps on. After an error the next pass that sweeps begins anew.
    pub(super) fn sweep_step(&self, passes: &mut Passes, bounded: bool) -> Result<Swept, StoreError> {
        self.sweep_links(&mut passes.cursor, bounded).inspect_err(|_| passes.links_seen = false)
    }

    fn links_swept(&self, swept: &Swept) {
        if swept.link_count > 0 {
            self.borrower().links_removed();
            log::info!("removed links={} which led nowhere", swept.link_count);
        }
    }

    /// Removes the kept answers of a repo of which nothing is linked any more, and the directories that are empty then.
    fn remove_if_empty(&self, view: &View, repo: &RepoId) -> Result<(), StoreError> {
        if !view.commits(repo)?.is_empty() {
            return Ok(());
        }
        remove_up(&view.place.commits(repo), &self.root().join("files"));
        // Only what is certainly of this repo: below `api/models/gpt2` may also lie that of a repo `gpt2/name`.
        let api = view.place.api(repo);
        let ours = [
            (api.join("commits"), &[".jsonl"][..]),
            (api.join("refs"), &[".json"]),
            (api, &[".rec", "access.json", "accepted.json"]),
        ];
        for (dir, ends) in ours {
            for (path, kind) in entries(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if kind.is_file() && ends.iter().any(|end| name.ends_with(end)) {
                    remove_file(&path);
                }
            }
            remove_up(&dir, &self.root().join("api"));
        }
        Ok(())
    }
}

/// One directory that cannot be read must not keep the others from being swept.
fn passed_over<T: Default>(error: StoreError) -> T {
    log::warn!("links are passed over: {error}");
    T::default()
}

/// Tells whether a link leads to something that is certainly not there.
fn is_dangling(link: &Path) -> bool {
    fs::metadata(link).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Removes a file that need not be there; what cannot be removed is told and left.
pub(super) fn remove_file(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            log::warn!("cannot remove {}: {error}", path.display());
            false
        }
    }
}

/// Removes the directories from `top` down in which there is nothing.
pub(super) fn remove_empty(top: &Path) {
    for (path, kind) in entries(top).unwrap_or_default() {
        if kind.is_dir() {
            remove_empty(&path);
        }
    }
    // Refused by the system where something is left.
    let _ = fs::remove_dir(top);
}

/// Removes a directory if it is empty, and then those above it, below `end`.
pub(super) fn remove_up(dir: &Path, end: &Path) {
    let mut dir = dir;
    while dir.parent().is_some_and(|parent| parent.starts_with(end)) && fs::remove_dir(dir).is_ok() {
        let Some(parent) = dir.parent() else { return };
        dir = parent;
    }
}
