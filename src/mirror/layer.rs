//! What a registry calls a layer, found again among the files of a repo.

use super::{FileInfo, Mirror, Question};
use crate::access::Admission;
use crate::hub::{ApiTarget, HubError, Oid, RepoId, Revision, Route, parse_tree};
use crate::source::Token;
use http::Method;

impl Mirror {
    /// Finds the file of `main` that has these contents, for a caller that may read the repo: among the first thousand.
    pub async fn file_of(
        &self,
        repo: &RepoId,
        oid: &Oid,
        token: Option<&Token>,
        admission: Admission,
    ) -> Result<Option<FileInfo>, HubError> {
        let Ok(main) = Revision::parse("main") else { return Ok(None) };
        let target = ApiTarget::whole_tree(repo, &main);
        let route = Route::Tree { repo: repo.clone(), revision: main.clone(), path: None };
        let tree = self.answer(&Question { route, method: Method::GET, target, token: token.cloned(), form: None }).await?;
        let files = parse_tree(&tree.body).unwrap_or_default();
        let Some(listed) = files.into_iter().find(|file| file.oid == *oid) else { return Ok(None) };
        let file = self.file(repo, &main, &listed.path, token, admission).await?;
        // The branch may have moved between the two questions.
        Ok((file.oid == *oid).then_some(file))
    }
}
