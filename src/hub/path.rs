//! The path of a file inside a repository.

use super::escape::{BadTarget, quote_path, quote_segment};
use std::fmt;
use std::sync::Arc;

const LEN_MAX: usize = 4096;

/// A decoded, relative path inside a repo: any name git may hold that stays inside its directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Arc<str>);

impl FilePath {
    /// Returns the path, or says why `text` cannot be one: empty, longer than 4096 bytes, a control character, or an
    /// empty, `.` or `..` segment. Spaces, `+`, `%`, `#`, `?`, `\` and any letter are legal.
    pub fn parse(text: &str) -> Result<FilePath, BadTarget> {
        let bad = |wrong: &str| Err(BadTarget::about("file path", text, wrong));
        if text.is_empty() {
            return Err(BadTarget::new("the file path is empty"));
        }
        if text.len() > LEN_MAX {
            return bad(&format!("has {} bytes, more than {LEN_MAX}", text.len()));
        }
        if text.chars().any(char::is_control) {
            return bad("holds a control character");
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return bad("has an empty, `.` or `..` segment");
        }
        Ok(FilePath(text.into()))
    }

    /// Returns the decoded text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path for a URL, escaped as Python's `quote(path)` does: slashes stay.
    pub fn encoded(&self) -> String {
        quote_path(&self.0)
    }

    /// Returns the path as one URL segment, slashes escaped, as tree requests carry it.
    pub fn encoded_segment(&self) -> String {
        quote_segment(&self.0)
    }

    /// Returns the last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Returns the directory that holds the file, or nothing for a file at the top.
    pub fn parent(&self) -> Option<FilePath> {
        self.0.rsplit_once('/').map(|(parent, _)| FilePath(parent.into()))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_names_are_legal_and_ways_out_are_not() {
        fn check(text: &str, legal: bool) {
            assert_eq!(FilePath::parse(text).is_ok(), legal, "{text:?}");
        }
        check("config.json", true);
        check(".gitattributes", true);
        check("sub dir/a+b%20#?.bin", true);
        check("\u{6a21}\u{578b}/\u{1f917}.txt", true);
        check("back\\slash", true);
        check("...", true);
        check("a/..b", true);
        check("", false);
        check("/etc/passwd", false);
        check("a//b", false);
        check("a/", false);
        check("./a", false);
        check("a/../b", false);
        check("a\0", false);
        check("a\nb", false);
        check(&"x".repeat(4097), false);
    }

    #[test]
    fn escapes_are_pythons() {
        let path = FilePath::parse("sub dir/a+b~%.bin").unwrap();
        assert_eq!(path.encoded(), "sub%20dir/a%2Bb~%25.bin");
        assert_eq!(path.encoded_segment(), "sub%20dir%2Fa%2Bb~%25.bin");
        assert_eq!(path.file_name(), "a+b~%.bin");
        assert_eq!(path.parent().map(|parent| parent.to_string()), Some("sub dir".to_owned()));
    }
}
