//! Asks the Hub, through a mirror, what an import could not know: who may read a repo, and all files of a commit. The mirror learns
//! from the answers; here they are dropped.

use super::client::Client;
use crate::hub::{ApiTarget, Commit, RepoId};
use http::HeaderValue;
use std::net::SocketAddr;

/// A listing with more pages than this does not end.
const PAGES_MAX: usize = 10_000;

/// Asks about each commit; `true` stands for its files as well. Fails when the Hub cannot be asked. What it refuses is an answer too.
pub(super) fn run(
    mirror: SocketAddr,
    authorization: Option<HeaderValue>,
    commits: &[(RepoId, Commit, bool)],
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let client = Client::new(mirror, authorization);
        for (repo, commit, files) in commits {
            let mut next = Some(ApiTarget::info(repo, &(*commit).into()).upstream_path_and_query());
            let mut tree = files.then(|| ApiTarget::whole_tree(repo, &(*commit).into()).upstream_path_and_query());
            for _ in 0..PAGES_MAX {
                let Some(target) = next.take().or_else(|| tree.take()) else { break };
                match client.page(&target).await {
                    Ok((_, link)) => next = link,
                    // It would be the same for the others.
                    Err(error) if error.may_pass() => return Err(format!("the Hub cannot be asked ({error})")),
                    Err(_) => break,
                }
            }
        }
        Ok(())
    })
}
