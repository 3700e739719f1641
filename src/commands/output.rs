//! The file that a command writes: under its name only once it is whole; and a device or pipe, which is written to as it is.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Links that lead to links, as Linux follows them.
const LINKS_MAX: usize = 40;

/// Somewhere to write to. What is not finished leaves nothing behind, and what was there before as it was.
pub(super) enum Output {
    /// Beside the file that it becomes.
    Part(NamedTempFile, PathBuf),
    Direct(File),
}

impl Output {
    /// Opens what `path` names, through links. For a pipe this waits for its reader. `secret`: only the user may read a new file.
    pub(super) fn open(path: &Path, secret: bool) -> io::Result<Output> {
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(there) if !there.is_file() => return OpenOptions::new().write(true).open(path).map(Output::Direct),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let path = target(path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Told as it is; the error of the part would speak of a name that nobody has asked for.
        fs::metadata(dir)?;
        let mode = Permissions::from_mode(if secret { 0o600 } else { 0o666 });
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
        name.push(".");
        let part = tempfile::Builder::new().prefix(&name).suffix(".part").permissions(mode).tempfile_in(dir);
        let part = part.map_err(|error| io::Error::from(error.kind()))?;
        Ok(Output::Part(part, path))
    }

    /// Gives the whole its name.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Output::Part(part, path) => {
                part.as_file().sync_all()?;
                part.persist(path).map(drop).map_err(|error| error.error)
            }
            Output::Direct(mut file) => file.flush(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Part(part, _) => part.as_file_mut().write(bytes),
            Output::Direct(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Part(part, _) => part.as_file_mut().flush(),
            Output::Direct(file) => file.flush(),
        }
    }
}

/// Follows links to what they name, which need not exist.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(next) => path = path.parent().unwrap_or(Path::new("")).join(next),
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}
