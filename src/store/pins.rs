//! What is never evicted: the file `pins`, a line for each pinned repo, which people may also write by hand.
//!
//! ```text
//! models/org/name
//! datasets/squad@main
//! models/org/other@0123456789abcdef0123456789abcdef01234567
//! ```
//!
//! A pin of a branch or tag holds the commit that it points to at the time of a pass. Empty lines and lines that begin with
//! `#` mean nothing. The file is replaced whole, by one process at a time; it needs no lock of the store, and a serving
//! process reads it anew before each pass. That process also writes into it: the new name of a pinned repo that the Hub renamed.

use super::{StoreError, place};
use crate::hub::{RepoId, RepoKind, Revision};
use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

const FILE: &str = "pins";

/// A repo that stays: all of it, or one revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin {
    pub repo: RepoId,
    pub revision: Option<Revision>,
}

impl Pin {
    /// Reads `models/org/name` or `models/org/name@revision`.
    pub fn parse(line: &str) -> Option<Pin> {
        let (repo, revision) = match line.split_once('@') {
            Some((repo, revision)) => (repo, Some(Revision::parse(revision).ok()?)),
            None => (line, None),
        };
        let (kind, name) = repo.split_once('/')?;
        Some(Pin { repo: RepoId::parse(RepoKind::from_plural(kind)?, name).ok()?, revision })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repo),
            None => self.repo.fmt(f),
        }
    }
}

/// Returns the pins. A line that cannot be read is warned of; a file that cannot be read is an error, for without it nobody
/// knows what may go.
pub(super) fn load(root: &Path) -> Result<Vec<Pin>, StoreError> {
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(|error| StoreError::io("read", path.display(), error))?,
    };
    let mut pins = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        match Pin::parse(line) {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some(pin) => pins.push(pin),
            None => log::warn!("line {number} of {} is no pin and pins nothing: {line:?}", path.display()),
        }
    }
    Ok(pins)
}

/// Adds or removes pins, keeping every other line as it is. `present` tells the name that a repo has now: a line may have an old
/// one. Returns how many lines that changed.
pub(super) fn change(
    root: &Path,
    add: &[Pin],
    remove: &[Pin],
    present: impl Fn(Pin) -> Result<Pin, StoreError>,
) -> Result<usize, StoreError> {
    rewrite(root, |lines| {
        let mut changed = 0;
        let remove: HashSet<&Pin> = remove.iter().collect();
        let mut there = HashSet::new();
        let mut left = Vec::new();
        for line in lines.drain(..) {
            let pin = Pin::parse(line.trim()).map(&present).transpose()?;
            if pin.as_ref().is_some_and(|pin| remove.contains(pin)) {
                changed += 1;
                continue;
            }
            there.extend(pin);
            left.push(line);
        }
        for pin in add {
            if there.insert(pin.clone()) {
                left.push(pin.to_string());
                changed += 1;
            }
        }
        *lines = left;
        Ok(changed)
    })
}

/// Writes the new name of a repo in its pins. Returns how many lines that changed.
pub(super) fn rename(root: &Path, old: &RepoId, new: &RepoId) -> Result<usize, StoreError> {
    let is_old = |pin: &Pin| pin.repo.folded() == old.folded();
    if !load(root)?.iter().any(is_old) {
        return Ok(0);
    }
    rewrite(root, |lines| {
        let mut changed = 0;
        for line in lines.iter_mut() {
            if let Some(pin) = Pin::parse(line.trim()).filter(is_old) {
                *line = Pin { repo: new.clone(), ..pin }.to_string();
                changed += 1;
            }
        }
        Ok(changed)
    })
}

/// Replaces the file if `edit` says that it changed lines.
fn rewrite(root: &Path, edit: impl FnOnce(&mut Vec<String>) -> Result<usize, StoreError>) -> Result<usize, StoreError> {
    let path = root.join(FILE);
    let io = |error| StoreError::io("change", path.display(), error);
    let _alone = lock(&path, root).map_err(io)?;
    let text = fs::read_to_string(&path).map_err(io)?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let changed = edit(&mut lines)?;
    if changed > 0 {
        let temp = root.join(format!("{FILE}.{}", std::process::id()));
        let write = || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(place::FILE_MODE).open(&temp)?;
            // Whoever may not give it away has made it readable as he pleased.
            let _ = place::give_to_owner(&file, root);
            lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
            // Unlike all else here a pin cannot be had again from upstream.
            file.sync_all()?;
            fs::rename(&temp, &path)
        };
        write().map_err(io)?;
    }
    Ok(changed)
}

/// Waits until no other process changes the file. The lock lies on the file itself, so it is looked at again afterwards: the
/// one before us may have replaced it.
fn lock(path: &Path, root: &Path) -> io::Result<File> {
    loop {
        let file = File::options().append(true).create(true).mode(place::FILE_MODE).open(path)?;
        let _ = place::give_to_owner(&file, root);
        // SAFETY: takes an open descriptor and no pointer.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if fs::metadata(path).is_ok_and(|named| file.metadata().is_ok_and(|ours| ours.ino() == named.ino())) {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_root_are_the_mirrors_users() {
        let root = tempfile::tempdir().unwrap();
        let (nobody, pin) = (65_534, Pin::parse("models/org/name").unwrap());
        // Only root can try it.
        if std::os::unix::fs::chown(root.path(), Some(nobody), Some(nobody)).is_err() {
            return;
        }
        change(root.path(), std::slice::from_ref(&pin), &[], Ok).unwrap();
        change(root.path(), &[], &[pin], Ok).unwrap();
        let meta = fs::metadata(root.path().join(FILE)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (nobody, nobody));
    }

    #[test]
    fn pins_come_and_go_and_comments_stay() {
        let root = tempfile::tempdir().unwrap();
        let pin = |text| Pin::parse(text).unwrap();
        let change = |root: &Path, add: &[Pin], remove: &[Pin]| change(root, add, remove, Ok);
        assert!(load(root.path()).unwrap().is_empty());
        assert_eq!(change(root.path(), &[pin("models/a/b"), pin("datasets/squad@refs/pr/1")], &[]).unwrap(), 2);
        assert_eq!(change(root.path(), &[pin("models/a/b")], &[]).unwrap(), 0);
        fs::write(root.path().join(FILE), "# ours\n\n models/a/b \nnonsense\ndatasets/squad@refs/pr/1").unwrap();
        assert_eq!(load(root.path()).unwrap(), [pin("models/a/b"), pin("datasets/squad@refs/pr/1")]);
        assert_eq!(change(root.path(), &[], &[pin("models/a/b"), pin("models/x/y")]).unwrap(), 1);
        assert_eq!(fs::read_to_string(root.path().join(FILE)).unwrap(), "# ours\n\nnonsense\ndatasets/squad@refs/pr/1\n");
    }

    #[test]
    fn a_pin_follows_its_repo() {
        let root = tempfile::tempdir().unwrap();
        let pin = |text| Pin::parse(text).unwrap();
        let repo = |name| RepoId::parse(RepoKind::Model, name).unwrap();
        assert_eq!(rename(root.path(), &repo("a/old"), &repo("a/new")).unwrap(), 0);
        assert!(!root.path().join(FILE).exists());
        fs::write(root.path().join(FILE), "# ours\nmodels/A/Old@main\nmodels/a/older\n").unwrap();
        assert_eq!(rename(root.path(), &repo("a/old"), &repo("a/new")).unwrap(), 1);
        assert_eq!(fs::read_to_string(root.path().join(FILE)).unwrap(), "# ours\nmodels/a/new@main\nmodels/a/older\n");
        // A line by hand, under a name that leads elsewhere.
        let present = |pin: Pin| Ok(Pin { repo: if pin.repo == repo("a/older") { repo("a/b") } else { pin.repo }, ..pin });
        assert_eq!(change(root.path(), &[pin("models/a/b")], &[], present).unwrap(), 0);
        assert_eq!(change(root.path(), &[], &[pin("models/a/b")], present).unwrap(), 1);
        assert_eq!(fs::read_to_string(root.path().join(FILE)).unwrap(), "# ours\nmodels/a/new@main\n");
    }

    #[test]
    fn what_is_no_pin_is_told() {
        for text in ["", "a/b", "models", "models/../x", "models/a/b@", "models/a/b@..", "model/a/b"] {
            assert_eq!(Pin::parse(text), None, "{text}");
        }
        assert_eq!(Pin::parse("models/gpt2@main").map(|pin| pin.to_string()), Some("models/gpt2@main".to_owned()));
    }
}
