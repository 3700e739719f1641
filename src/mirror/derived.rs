//! Answers that follow from other answers about the same commit, so that they need no upstream.

use super::answers::{Answer, Keep, Question};
use super::{Mirror, MirrorError, on_worker};
use crate::hub::{ApiTarget, Commit, FilePath, HubError, RepoId, Revision, Route, parse_info};
use bytes::Bytes;
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
    /// Refuses a listing of a directory that the commit does not have, by a kept listing of where it would be. `datasets` asks for
    /// `data/` of every repo, most of which have none.
    pub(super) async fn absent_directory(&self, question: &Question) -> Option<HubError> {
        let Route::Tree { repo, revision, path: Some(path) } = &question.route else { return None };
        let commit = revision.as_commit()?;
        if question.target.value("cursor").is_some() {
            return None;
        }
        let own = format!("?{}", question.target.query());
        let mut child = path.clone();
        loop {
            let parent = child.parent();
            let at_root = parent.is_none().then_some(RECURSIVE);
            for query in [own.as_str()].into_iter().chain(at_root) {
                if self.lacks(repo, commit, parent.clone(), query, &child).await
                    && self.access.is_open(repo).await.unwrap_or(false)
                {
                    return Some(HubError::directory_not_found(path, revision));
                }
            }
            child = parent?;
        }
    }

    /// Whether a whole listing is kept and names no directory `child`.
    async fn lacks(&self, repo: &RepoId, commit: Commit, parent: Option<FilePath>, query: &str, child: &FilePath) -> bool {
        let route = Route::Tree { repo: repo.clone(), revision: commit.into(), path: parent };
        let target = ApiTarget::new(&route, query);
        let Some(keep) = self.keep(&route, &target.upstream_path_and_query(), target.query()) else { return false };
        let Some(record) = self.kept_answer(&keep).await else { return false };
        if record.status != 200 || record.headers.iter().any(|(name, _)| name == "link") {
            return false;
        }
        let (body, child) = (record.body.clone(), child.clone());
        on_worker(body.len(), move || !names_directory(&body, &child)).await.unwrap_or(false)
    }

    /// Where an answer about a branch is kept too: as the facts of its commit, which a client asks for that has pinned it.
    pub(super) async fn keep_at_commit(&self, question: &Question, answer: &Answer) -> Result<Option<Keep>, MirrorError> {
        let Route::RepoInfo { repo, revision } = &question.route else { return Ok(None) };
        if answer.status != 200 || revision.as_ref().is_some_and(|revision| revision.as_commit().is_some()) {
            return Ok(None);
        }
        let body = answer.body.clone();
        let sha = on_worker(body.len(), move || parse_info(&body).ok().and_then(|facts| facts.sha)).await?;
        let Some(sha) = sha else { return Ok(None) };
        let route = Route::RepoInfo { repo: repo.clone(), revision: Some(Revision::from(sha)) };
        let target = ApiTarget::new(&route, format!("?{}", question.target.query()));
        Ok(self.keep(&route, &target.upstream_path_and_query(), target.query()))
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
