//! Fills a fake Hub from directories and descriptions on the command line.

use std::io;
use std::path::Path;

use crate::handle::Repo;

/// What the Hub keeps in LFS whatever its size, after the `.gitattributes` it gives to new repos.
const LFS_EXTENSIONS: [&str; 38] = [
    "7z",
    "arrow",
    "avro",
    "bin",
    "bz2",
    "ckpt",
    "ftz",
    "gguf",
    "ggml",
    "gz",
    "h5",
    "joblib",
    "llamafile",
    "mlmodel",
    "model",
    "msgpack",
    "npy",
    "npz",
    "onnx",
    "ot",
    "parquet",
    "pb",
    "pickle",
    "pkl",
    "pt",
    "pth",
    "rar",
    "safetensors",
    "tar",
    "tflite",
    "tgz",
    "wasm",
    "xz",
    "zip",
    "zst",
    "mp4",
    "webm",
    "wav",
];
/// The Hub takes no larger file into git itself.
pub const LFS_OVER: u64 = 10 << 20;

/// Tells whether a file of this name and size lives in LFS.
pub fn is_lfs(path: &str, size: u64, lfs_over: u64) -> bool {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    size > lfs_over || extension.is_some_and(|extension| LFS_EXTENSIONS.contains(&extension.as_str()))
}

impl Repo {
    /// Puts all files below a directory, mapped, and seals them into one commit. `.git` and `.cache` are left out.
    pub fn directory(&self, directory: &Path, lfs_over: u64) -> io::Result<Repo> {
        put_below(self, directory, "", lfs_over)?;
        Ok(self.commit("upload folder"))
    }
}

fn put_below(repo: &Repo, directory: &Path, prefix: &str, lfs_over: u64) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let facts = std::fs::metadata(entry.path())?;
        if facts.is_dir() {
            if name != ".git" && name != ".cache" {
                put_below(repo, &entry.path(), &format!("{path}/"), lfs_over)?;
            }
        } else if is_lfs(&path, facts.len(), lfs_over) {
            repo.lfs_from(&path, entry.path());
        } else {
            repo.file_from(&path, entry.path());
        }
    }
    Ok(())
}

/// Reads a size such as `512`, `64KiB`, `10MiB`, `2GiB` or `5GB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("`{text}`: a size is a number and a unit, like 10MiB"))?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        other => {
            return Err(format!("unit `{other}`: say KiB, MiB, GiB, TiB, KB, MB, GB or TB"));
        }
    };
    number.checked_mul(factor).ok_or(format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_what_is_lfs() {
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("7"), Ok(7));
        assert!(parse_size("MiB").is_err() && parse_size("1 parsec").is_err());
        assert!(is_lfs("a/model.safetensors", 1, LFS_OVER) && is_lfs("big.txt", LFS_OVER + 1, LFS_OVER));
        assert!(!is_lfs("config.json", 700, LFS_OVER) && !is_lfs("README", 1, LFS_OVER));
    }
}
