//! A revision: a branch, a tag, a `refs/..` name or a commit, as the client wrote it.

use super::escape::{BadTarget, quote_segment};
use super::oid::Commit;
use std::fmt;
use std::sync::Arc;

const LEN_MAX: usize = 255;

/// A revision, decoded and safe to join under a directory (it may hold slashes, as `refs/pr/1` does).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Returns the revision, or says why `text` cannot be one: empty, longer than 255 bytes, a control character, or an
    /// empty, `.` or `..` segment.
    pub fn parse(text: &str) -> Result<Revision, BadTarget> {
        let bad = |wrong: &str| Err(BadTarget::about("revision", text, wrong));
        if text.is_empty() {
            return Err(BadTarget::new("the revision is empty"));
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
        Ok(Revision(text.into()))
    }

    /// Returns the decoded text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the commit when the revision is a full commit id, which never moves.
    pub fn as_commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }

    /// Returns the revision as one URL segment: `refs%2Fpr%2F1`.
    pub fn encoded(&self) -> String {
        quote_segment(&self.0)
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Revision {
        Revision(commit.as_str().into())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_never_names_a_way_out() {
        fn check(text: &str, legal: bool) {
            assert_eq!(Revision::parse(text).is_ok(), legal, "{text:?}");
        }
        check("main", true);
        check("refs/pr/1", true);
        check("v1.0+cu118", true);
        check("feature/..a", true);
        check("a..b", true);
        check("", false);
        check("..", false);
        check("a/../../b", false);
        check("/etc", false);
        check("a//b", false);
        check("a/", false);
        check("a\0b", false);
        check("a\r\nb", false);
        check(&"x".repeat(255), true);
        check(&"x".repeat(256), false);
    }
}
