//! What a registry calls a layer, found again among the files of a repo.

use super::answers::{LISTED_PAGES_MAX, next_of};
use super::{FileInfo, Mirror, Question};
use crate::access::Admission;
use crate::hub::{ApiTarget, HubError, Oid, RepoId, Revision, Route, parse_tree};
use crate::source::Token;
use http::Method;

impl Mirror {
    /// Finds the file of `main` that has these contents, for a caller that may read the repo: among the first
    /// ten thousand.
    pub async fn file_of(
        &self,
        repo: &RepoId,
        oid: &Oid,
        token: Option<&Token>,
        admission: Admission,
    ) -> Result<Option<FileInfo>, HubError> {
        let Ok(main) = Revision::parse("main") else { return Ok(None) };
        let mut target = ApiTarget::whole_tree(repo, &main);
        let route = Route::Tree { repo: repo.clone(), revision: main.clone(), path: None };
        for _ in 0..LISTED_PAGES_MAX {
            let (route, token) = (route.clone(), token.cloned());
            let question = Question { route, method: Method::GET, target, token, form: None };
            let tree = self.answer(&question).await?;
            let listed = parse_tree(&tree.body).unwrap_or_default();
            if let Some(listed) = listed.files.into_iter().find(|file| file.oid == *oid) {
                let file = self.file(repo, &main, &listed.path, question.token.as_ref(), admission).await?;
                // The branch may have moved between the two questions.
                return Ok((file.oid == *oid).then_some(file));
            }
            let Some(next) = next_of(&tree.headers, &question.route) else { break };
            target = ApiTarget::new(&question.route, next);
        }
        Ok(None)
    }
}
