//! Directories that are known not to exist: the kept listing of one above does not name them.

use super::answers::Question;
use super::{Mirror, on_worker};
use crate::hub::{ApiTarget, Commit, FilePath, RepoId, Route};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use std::borrow::Cow;

/// The query of a listing with all that is below it.
const RECURSIVE: &str = "?expand=false&recursive=true";

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
}

impl Mirror {
    /// Whether a directory of a commit is known to be absent, by the listings that were asked with the same words above it.
    pub(super) async fn is_absent(&self, question: &Question, repo: &RepoId, commit: Commit, path: &FilePath) -> bool {
        if question.target.value("cursor").is_some() {
            return false;
        }
        let own = format!("?{}", question.target.query());
        let mut child = path.clone();
        loop {
            let parent = child.parent();
            let at_root = parent.is_none().then_some(RECURSIVE);
            for query in [own.as_str()].into_iter().chain(at_root) {
                if self.lacks(repo, commit, parent.clone(), query, &child).await {
                    return true;
                }
            }
            match parent {
                Some(parent) => child = parent,
                None => return false,
            }
        }
    }

    /// Whether a whole listing is kept and names no directory `child`.
    async fn lacks(&self, repo: &RepoId, commit: Commit, parent: Option<FilePath>, query: &str, child: &FilePath) -> bool {
        let route = Route::Tree { repo: repo.clone(), revision: commit.into(), path: parent };
        let target = ApiTarget::new(&route, query);
        let Some(record) = self.kept(&Question { route, method: Method::GET, target, token: None, form: None }).await else {
            return false;
        };
        if record.status != 200 || record.headers.iter().any(|(name, _)| name == "link") {
            return false;
        }
        let (body, child) = (record.body.clone(), child.clone());
        on_worker(body.len(), move || !names_directory(&body, &child)).await.unwrap_or(false)
    }
}

/// What cannot be read names everything.
fn names_directory(listing: &Bytes, path: &FilePath) -> bool {
    let entries: Result<Vec<Entry<'_>>, _> = serde_json::from_slice(listing);
    entries.map_or(true, |entries| entries.iter().any(|entry| entry.kind == "directory" && entry.path == path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_names_its_directories() {
        fn check(listing: &str, path: &str, expected: bool) {
            let path = FilePath::parse(path).expect("a path");
            assert_eq!(names_directory(&Bytes::copy_from_slice(listing.as_bytes()), &path), expected, "{path:?} in {listing}");
        }
        let listing = r#"[{"type":"directory","path":"data","oid":"1","size":0},{"type":"file","path":"a \u00e9","oid":"2"}]"#;
        check(listing, "data", true);
        check(listing, "dat", false);
        check(listing, "a \u{e9}", false);
        check("[]", "data", false);
        for broken in ["", "{}", "null", r#"[{"type":"file"}]"#, r#"{"error":"x"}"#] {
            check(broken, "data", true);
        }
    }
}
