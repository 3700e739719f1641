//! What the mirror learns from upstream's JSON: the files of a tree, the facts of a repo.

use super::escape::BadTarget;
use super::oid::{Commit, Oid};
use super::path::FilePath;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// A file of a listing, named by its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    pub path: FilePath,
    /// The sha256 for an LFS file, else the git blob sha1.
    pub oid: Oid,
    /// The length of the file itself, never of its LFS pointer.
    pub size: u64,
    pub lfs: bool,
}

/// The files of one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub files: Vec<TreeFile>,
    /// Names that no request could spell, and why: what they name can be neither asked for nor kept.
    pub left_out: Vec<(String, BadTarget)>,
}

/// Why a listing teaches nothing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// Upstream hides the content ids from this caller (a gated repo without access). Never learn from such a page.
    #[error("the oid of `{path}` is masked: the caller has no access to the files")]
    Masked { path: String },
    /// The text is not a listing.
    #[error("not a listing: {reason}")]
    Malformed { reason: String },
}

/// What an info answer says about a repo; a field that is absent or of the wrong type is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepoFacts {
    /// The Hub's own id, which another repo of the same name does not have.
    pub identity: Option<String>,
    /// The canonical name, which differs from the asked one after a rename.
    pub id: Option<String>,
    pub sha: Option<Commit>,
    pub private: Option<bool>,
    /// True for `"auto"`, `"manual"` and `true`.
    pub gated: Option<bool>,
    pub disabled: Option<bool>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow, default)]
    oid: Option<Cow<'a, str>>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(borrow, default)]
    lfs: Option<Lfs<'a>>,
}

#[derive(Deserialize)]
struct Lfs<'a> {
    #[serde(borrow, alias = "sha256")]
    oid: Cow<'a, str>,
    size: u64,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default, rename = "_id")]
    identity: Value,
    #[serde(default)]
    id: Value,
    #[serde(default)]
    sha: Value,
    #[serde(default)]
    private: Value,
    #[serde(default)]
    gated: Value,
    #[serde(default)]
    disabled: Value,
}

/// Reads the files of one tree page or of a paths-info answer, without the directories. One masked or malformed oid makes the whole
/// page worthless.
pub fn parse_tree(json: &[u8]) -> Result<Tree, ListingError> {
    let entries: Vec<Entry<'_>> = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    let mut tree = Tree { files: Vec::with_capacity(entries.len()), left_out: Vec::new() };
    for entry in entries {
        if entry.kind.as_deref() != Some("file") {
            continue;
        }
        let file_oid = entry.oid.as_deref().ok_or_else(|| malformed(format!("`{}` has no oid", entry.path)))?;
        let (oid, size, lfs) = match &entry.lfs {
            Some(lfs) => (lfs.oid.as_ref(), Some(lfs.size), true),
            None => (file_oid, entry.size, false),
        };
        let size = size.ok_or_else(|| malformed(format!("`{}` has no size", entry.path)))?;
        let oid = match Oid::parse(oid) {
            Some(oid) if oid.is_sha256() == lfs => oid,
            None if oid.contains('*') => return Err(ListingError::Masked { path: entry.path.into_owned() }),
            _ => return Err(malformed(format!("`{}` has the oid `{oid}`", entry.path))),
        };
        match FilePath::parse(&entry.path) {
            Ok(path) => tree.files.push(TreeFile { path, oid, size, lfs }),
            Err(why) => tree.left_out.push((entry.path.into_owned(), why)),
        }
    }
    Ok(tree)
}

/// Reads the facts of a repo from an info answer.
pub fn parse_info(json: &[u8]) -> Result<RepoFacts, ListingError> {
    let info: Info = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
    Ok(RepoFacts {
        identity: info.identity.as_str().map(str::to_owned),
        id: info.id.as_str().map(str::to_owned),
        sha: info.sha.as_str().and_then(Commit::parse),
        private: info.private.as_bool(),
        gated: match info.gated {
            Value::Bool(gated) => Some(gated),
            Value::String(word) => Some(word != "false"),
            _ => None,
        },
        disabled: info.disabled.as_bool(),
    })
}

fn malformed(reason: String) -> ListingError {
    ListingError::Malformed { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: &str = "10c66461e4c109db5a2196bff4bb59be30396ed8";
    const SHA256: &str = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707";

    fn tree(oid: &str, lfs: &str) -> Result<Vec<TreeFile>, ListingError> {
        let page = format!(
            r#"[{{"type":"directory","oid":"{SHA1}","size":0,"path":"d"}},{{"type":"file","oid":"{oid}","size":7,"path":"d/w \u00e9.bin"{lfs}}}]"#
        );
        parse_tree(page.as_bytes()).map(|tree| tree.files)
    }

    #[test]
    fn files_are_named_by_their_content() {
        let plain = tree(SHA1, "").unwrap();
        assert_eq!(plain.len(), 1);
        assert_eq!(
            (plain[0].path.as_str(), plain[0].oid.as_str(), plain[0].size, plain[0].lfs),
            ("d/w \u{e9}.bin", SHA1, 7, false)
        );
        let lfs = tree(SHA1, &format!(r#","lfs":{{"oid":"{SHA256}","size":9,"pointerSize":1}},"xetHash":"x""#)).unwrap();
        assert_eq!((lfs[0].oid.as_str(), lfs[0].size, lfs[0].lfs), (SHA256, 9, true));
    }

    #[test]
    fn names_that_no_request_can_spell_are_told() {
        let file = |path: &str| format!(r#"{{"type":"file","oid":"{SHA1}","size":7,"path":"{path}"}}"#);
        let page = format!("[{},{},{}]", file("a.txt"), file("new\\nline"), file("../up"));
        let tree = parse_tree(page.as_bytes()).unwrap();
        assert_eq!(tree.files.len(), 1);
        let names: Vec<&str> = tree.left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["new\nline", "../up"]);
        assert!(tree.left_out[0].1.message.contains("control character"), "{:?}", tree.left_out);
    }

    #[test]
    fn nothing_is_learnt_from_a_masked_or_odd_page() {
        let masked = tree(SHA1, &format!(r#","lfs":{{"oid":"{}","size":9}}"#, "*".repeat(64)));
        assert!(matches!(masked, Err(ListingError::Masked { .. })), "{masked:?}");
        assert!(matches!(tree(&"*".repeat(40), ""), Err(ListingError::Masked { .. })));
        for odd in ["xyz", SHA256, ""] {
            assert!(matches!(tree(odd, ""), Err(ListingError::Malformed { .. })), "{odd}");
        }
        assert!(matches!(tree(SHA1, &format!(r#","lfs":{{"oid":"{SHA1}","size":9}}"#)), Err(ListingError::Malformed { .. })));
        for text in ["", "{}", "null", r#"[{"type":"file","path":"a","size":-1,"oid":"1"}]"#, r#"{"error":"x"}"#] {
            assert!(parse_tree(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn facts_survive_odd_types() {
        fn check(json: &str, expected: RepoFacts) {
            assert_eq!(parse_info(json.as_bytes()).unwrap(), expected, "{json}");
        }
        let sha = Commit::parse(SHA1);
        check(
            &format!(
                r#"{{"_id":"65a","id":"o/m","sha":"{SHA1}","private":false,"gated":"auto","disabled":false,"siblings":[]}}"#
            ),
            RepoFacts {
                identity: Some("65a".into()),
                id: Some("o/m".into()),
                sha,
                private: Some(false),
                gated: Some(true),
                disabled: Some(false),
            },
        );
        check(r#"{"gated":false}"#, RepoFacts { gated: Some(false), ..RepoFacts::default() });
        check(r#"{"gated":"manual","sha":"short","private":"yes"}"#, RepoFacts { gated: Some(true), ..RepoFacts::default() });
        assert!(parse_info(b"[]").is_err() || parse_info(b"[]").is_ok_and(|facts| facts == RepoFacts::default()));
        assert!(parse_info(b"\"x\"").is_err());
    }
}
