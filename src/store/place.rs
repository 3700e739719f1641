//! Where everything lies under the root, and the one way to replace a small file.
//!
//! ```text
//! <root>/blobs/<2 hex>/<oid>                                  one block file per object
//! <root>/files/<plural>/<repo>/resolve/<commit>/<path>        -> ../../..blobs/<2 hex>/<oid>, to browse with ls
//! <root>/api/<plural>/<repo>/<name>-<16 hex>.rec              kept API answers        (records)
//! <root>/api/<plural>/<repo>/commits/<commit>.jsonl           a commit's files        (listing)
//! <root>/api/<plural>/<repo>/refs/<revision>.json             where a revision points (refs)
//! <root>/api/<plural>/<repo>/access.json                      whether it is open      (refs)
//! <root>/api/<plural>/<repo>/accepted.json                    who was let in, by hash   (refs)
//! <root>/api/aliases/<plural name>.json                       where an old name leads     (refs)
//! <root>/api/holders/<3 hex>.json                             whose a token is, by hash     (refs)
//! <root>/quarantine/<name>.<unix ms>.blob, .reason            what was found broken
//! <root>/tmp/                                                 files not yet named, also other processes' (intake); emptied at start
//! <root>/pins                                                 what is never evicted   (pins)
//! <root>/hits                                                 how often repos were read (hits)
//! <root>/ledger                                               what a pass knew at the last clean stop (ledger)
//! <root>/admin.sock                                           where the serving process takes orders
//! <root>/secret                                               the key of those hashes   (secret)
//! <root>/lock, VERSION
//! ```

use super::{StoreError, noes::Noes};
use crate::hub::{Commit, FilePath, Oid, RepoId};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Of small files: some name repos, which may be closed. The umask may take more away.
pub(super) const FILE_MODE: u32 = 0o640;
/// Longest file name part made from foreign text; with our endings it stays below the 255 bytes of common file systems.
const NAME_LEN_MAX: usize = 180;

#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    /// Nothing is written: what is kept by the way is not kept, without a word for each.
    read_only: bool,
    noes: Noes,
    temp_count: AtomicU64,
}

impl Place {
    pub(super) fn new(root: &Path) -> Place {
        Place { root: root.to_owned(), read_only: false, noes: Noes::default(), temp_count: AtomicU64::new(0) }
    }

    pub(super) fn read_only(root: &Path) -> Place {
        Place { read_only: true, ..Place::new(root) }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The error of what would have to write.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        if self.read_only { Err(StoreError::ReadOnly { dir: self.root.clone() }) } else { Ok(()) }
    }

    pub(super) fn noes(&self) -> &Noes {
        &self.noes
    }

    /// Whether what the disk has of a repo, by its directory under `api/`, counts no more.
    pub(super) fn is_forgotten(&self, dir: &Path) -> bool {
        self.noes.is_forgotten(dir, self.read_only)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn blob(&self, oid: &Oid) -> PathBuf {
        self.root.join(blob_name(oid))
    }

    pub(super) fn api(&self, repo: &RepoId) -> PathBuf {
        self.root.join("api").join(repo.kind().plural()).join(repo.name())
    }

    /// Returns the directory that holds one directory of links per commit.
    pub(super) fn commits(&self, repo: &RepoId) -> PathBuf {
        self.root.join("files").join(repo.kind().plural()).join(repo.name()).join("resolve")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Returns the link of a file, and the relative text that leads from there to its blob.
    pub(super) fn link(&self, repo: &RepoId, commit: &Commit, path: &FilePath, oid: &Oid) -> (PathBuf, PathBuf) {
        let name = format!("files/{}/{}/resolve/{}/{}", repo.kind().plural(), repo.name(), commit.as_str(), path.as_str());
        let up = "../".repeat(name.matches('/').count());
        (self.root.join(&name), PathBuf::from(format!("{up}{}", blob_name(oid))))
    }

    /// Returns a fresh name in `tmp/`. The process's own count suffices: the lock keeps others out, and the start empties it.
    pub(super) fn temp(&self) -> PathBuf {
        self.root.join("tmp").join(format!("{}", self.temp_count.fetch_add(1, Ordering::Relaxed)))
    }

    /// Returns the place of what another process made for the store: see [`super::intake`].
    pub(super) fn incoming(&self, name: &str) -> PathBuf {
        self.root.join("tmp").join(name)
    }

    /// Moves `from` to the quarantine, with its reason beside it. Returns false when there is nothing to move.
    pub(super) fn set_aside(&self, from: &Path, name: &str, reason: &str) -> Result<bool, StoreError> {
        self.check_writable()?;
        // One copy of a name, the latest: an upstream that lies again and again must not fill the disk.
        let to = self.root.join("quarantine").join(format!("{}.blob", file_name(name)));
        // The directory may have been removed by people; then the file is still where it was.
        match self.rename(from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io("set aside", from.display(), error)),
        }
        log::warn!("set aside file={} to={} reason={reason:?}", from.display(), to.display());
        let note = to.with_extension("reason");
        if let Err(error) = fs::write(&note, format!("{reason}\n")) {
            // The log has the reason as well; the file is out of the way, which is what counts.
            log::warn!("cannot write {}: {error}", note.display());
        }
        Ok(true)
    }

    /// Gives `to` these bytes, all or none: readers and crashes see the old file or the new one.
    ///
    /// There is no sync: what is kept this way is checked when it is read, and can be had again from upstream.
    pub(super) fn replace(&self, to: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
        self.put_in_place(to, |temp| {
            let mut file = fs::File::options().write(true).create(true).truncate(true).mode(FILE_MODE).open(temp)?;
            parts.iter().try_for_each(|part| file.write_all(part))
        })
    }

    /// Removes a small file; it need not exist.
    pub(super) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        if self.read_only {
            return Ok(());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path.display(), error)),
            _ => Ok(()),
        }
    }

    /// Makes something under a name in `tmp/`, then renames it to `to`, whose directories are made as needed.
    pub(super) fn put_in_place(&self, to: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), StoreError> {
        if self.read_only {
            return Ok(());
        }
        let temp = self.temp();
        let made = make(&temp).and_then(|()| self.rename(&temp, to));
        made.map_err(|error| {
            let _ = fs::remove_file(&temp);
            StoreError::io("write", to.display(), error)
        })
    }

    pub(super) fn rename(&self, temp: &Path, to: &Path) -> io::Result<()> {
        match fs::rename(temp, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(to.parent().unwrap_or(&self.root))?;
                fs::rename(temp, to)
            }
            result => result,
        }
    }
}

/// Gives a file that was just made to whoever the directory belongs to: what an administrator's command makes is for the server's user, who
/// must be able to read and replace it. `PermissionDenied` for whoever may not give files away.
pub(super) fn give_to_owner(file: &fs::File, root: &Path) -> io::Result<()> {
    let (ours, dir) = (file.metadata()?, fs::metadata(root)?);
    if (ours.uid(), ours.gid()) == (dir.uid(), dir.gid()) {
        return Ok(());
    }
    fchown(file, Some(dir.uid()), Some(dir.gid()))
}

/// Opens a block file without the kernel's counting it as a read: see [`super::recency`].
pub(super) fn open_quietly(path: &Path, write: bool) -> io::Result<fs::File> {
    let open = |flags| fs::File::options().read(true).write(write).custom_flags(flags).open(path);
    match open(libc::O_NOATIME) {
        // Only the file's owner may ask for that.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(0),
        result => result,
    }
}

/// Returns the file's bytes, or none when there is no such file or it is longer than `len_max`.
pub(super) fn read_bounded(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(len_max + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > len_max => {
            log::warn!("ignored file={} longer_than={len_max}", path.display());
            Ok(None)
        }
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(StoreError::io("read", path.display(), error)),
    }
}

/// Makes any text a file name: what is not a plain character is percent-encoded, and a long name ends in its hash.
pub(super) fn file_name(text: &str) -> String {
    let mut name = String::new();
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if index == 0 => name.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(byte as char),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > NAME_LEN_MAX {
        name.truncate(NAME_LEN_MAX);
        // `~` is encoded above, so no short name looks like this.
        name = format!("{name}~{}", super::hash::short_hash(text));
    }
    name
}

pub(super) fn blob_name(oid: &Oid) -> String {
    format!("blobs/{}/{oid}", &oid.as_str()[..2])
}

/// Returns the text that [`file_name`] made into `name`; none for a name that was cut.
pub(super) fn text_of_file_name(name: &str) -> Option<String> {
    if name.contains('~') {
        return None;
    }
    percent_encoding::percent_decode_str(name).decode_utf8().ok().map(String::from)
}

/// Returns whole milliseconds since 1970 (rounds down); times before that are 0.
pub(super) fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Returns the time of `ms` milliseconds since 1970, or 1970 for a number that no clock reaches.
pub(super) fn from_unix_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(std::time::Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_makes_one_plain_name() {
        let check = |text: &str, expected: &str| {
            assert_eq!(file_name(text), expected);
            assert_eq!(text_of_file_name(expected).as_deref(), Some(text));
        };
        check("main", "main");
        check("refs/pr/1", "refs%2Fpr%2F1");
        check("..", "%2E.");
        check("v1.0", "v1.0");
        check("100%", "100%25");
        check("\u{e9}", "%C3%A9");
        let (long, longer) = (file_name(&"/".repeat(400)), file_name(&"/".repeat(401)));
        assert!(long.len() < 255 && long != longer);
        assert_eq!(text_of_file_name(&long), None);
    }
}
