//! A repo that the Hub renamed: all that is kept of it goes to its present name, so that there is one repo here as well.

use super::{
    Store, StoreError, hash,
    noes::ACCESS_FILE,
    pins, place, records,
    sweep::{remove_empty, remove_file, remove_up},
    view::{View, each_symlink, entries, linked_oid},
};
use crate::hub::{FilePath, RepoId};
use std::{io, path::Path, time::Duration};

/// Answers that say the name themselves; they are asked again when somebody can answer.
const NAMING: &str = "info-";
/// Hex digits at the end of an answer's file name.
const HASH_LEN: usize = 16;

impl Store {
    /// Gives what is kept of `old` to `new`: links, answers, listings, revisions, pins. What `new` has already stays, unless that
    /// name was another repo's: then what was known of that one goes first, and `forgotten` is called.
    ///
    /// Broken off in the middle, the next call goes on. Nothing is left at the old name, least of all who was let in there: the
    /// name may be another repo's one day. BLOCKING; as long as a look at each link.
    pub fn rename_repo(&self, old: &RepoId, new: &RepoId, forgotten: impl FnOnce()) -> Result<(), StoreError> {
        if old == new || self.read_only().is_some() {
            return Ok(());
        }
        // What could not be removed does not come back under another name.
        if self.place.is_forgotten(&self.place.api(old)) {
            return Ok(());
        }
        let view = self.view();
        let (from, to) = (self.place.api(old), self.place.api(new));
        if self.are_two(old, new)? {
            log::info!("forgot what was known of repo={new}, whose name is now that of what was {old}");
            self.refs().forget(new);
            if from.join(ACCESS_FILE).exists() {
                self.place.remove(&to.join(ACCESS_FILE))?;
            }
            forgotten();
        }
        let link_count = self.move_links(&view, old, new)?;
        for dir in ["commits", "refs"] {
            for (path, kind) in entries(&from.join(dir))? {
                if kind.is_file() {
                    self.move_file(&path, &to.join(dir).join(path.file_name().unwrap_or_default()))?;
                }
            }
            remove_up(&from.join(dir), &self.root().join("api"));
        }
        for (path, kind) in entries(&from)? {
            if kind.is_file() && path.extension().is_some_and(|end| end == "rec") {
                self.move_record(&path, old, new)?;
            }
        }
        self.place.noes().rename(&from, &to);
        self.move_file(&from.join(ACCESS_FILE), &to.join(ACCESS_FILE))?;
        self.refs().rename_accepted(old, new)?;
        remove_up(&from, &self.root().join("api"));
        let pin_count = pins::rename(self.root(), old, new)?;
        if link_count + pin_count > 0 {
            self.borrower().links_removed();
            log::info!("renamed repo={old} to={new} links={link_count} pins={pin_count}");
        }
        Ok(())
    }

    /// Whether the two names were those of two repos, or may have been and not everybody may read both: those who may read the
    /// one shall not be given the other. BLOCKING.
    fn are_two(&self, old: &RepoId, new: &RepoId) -> Result<bool, StoreError> {
        let (Some(moved), Some(there)) = (self.refs().get_access(old)?, self.refs().get_access(new)?) else { return Ok(false) };
        Ok(match (moved.identity, there.identity) {
            (Some(moved), Some(there)) => moved != there,
            _ => !(moved.open && there.open),
        })
    }

    /// Makes each link anew: how far it goes up depends on the name. Returns how many there were.
    fn move_links(&self, view: &View, old: &RepoId, new: &RepoId) -> Result<usize, StoreError> {
        let mut link_count = 0;
        for commit in view.commits(old)? {
            let top = self.place.commits(old).join(commit.as_str());
            let mut links = Vec::new();
            each_symlink(&top, &mut |link| links.push(link.to_owned()))?;
            for link in links {
                let path = link.strip_prefix(&top).ok().and_then(Path::to_str).and_then(|path| FilePath::parse(path).ok());
                if let (Some(path), Some(oid)) = (path, linked_oid(&link)) {
                    match self.link(new, &commit, &path, &oid) {
                        Ok(()) => drop(remove_file(&link)),
                        // The object stays; it is the view under `files/` that lacks it.
                        Err(error) => log::warn!("cannot move {}: {error}", link.display()),
                    }
                    link_count += 1;
                }
            }
            remove_empty(&top);
        }
        remove_up(&self.place.commits(old), &self.root().join("files"));
        Ok(link_count)
    }

    /// Keeps an answer under the question that it would be the answer to now.
    fn move_record(&self, path: &Path, old: &RepoId, new: &RepoId) -> Result<(), StoreError> {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let label = name.len().checked_sub(HASH_LEN).map(|at| &name[..at]);
        let kept = place::read_bounded(path, records::FILE_LEN_MAX)?;
        let record = kept.and_then(|bytes| records::decode(bytes.into()).ok());
        if let (Some(label), Some(mut record)) = (label, record)
            && let Some(target) = retold(&record.target, old, new)
        {
            let to = self.place.api(new).join(format!("{label}{}.rec", hash::short_hash(&target)));
            record.target = target;
            if label == NAMING {
                record.fresh_for = Duration::ZERO;
            }
            if !to.exists() {
                self.place.replace(&to, &[&records::encode_head(&record)?, &record.body])?;
            }
        }
        // One that cannot be read is as good as none.
        remove_file(path);
        Ok(())
    }

    /// Moves a file unless there is one already; it need not exist.
    fn move_file(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        if to.exists() {
            remove_file(from);
            return Ok(());
        }
        match from.exists().then(|| self.place.rename(from, to)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("rename", from.display(), error)),
            _ => Ok(()),
        }
    }
}

/// A question about one repo, put about another.
fn retold(target: &str, old: &RepoId, new: &RepoId) -> Option<String> {
    let of_registry = |repo: &RepoId| format!("/v2{}", repo.url_path());
    for (before, after) in [(old.api_path(), new.api_path()), (of_registry(old), of_registry(new))] {
        if let Some(rest) = target.strip_prefix(&before)
            && (rest.is_empty() || rest.starts_with(['/', '?']))
        {
            return Some(format!("{after}{rest}"));
        }
    }
    None
}
