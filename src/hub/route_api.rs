//! The routes below `/api/`.

use super::escape::BadTarget;
use super::oid::Commit;
use super::path::FilePath;
use super::repo::RepoKind;
use super::revision::Revision;
use super::route::Route;
use super::route_file::{repo, split_revision};

/// Reads the words after `/api/`.
pub(super) fn read(words: &[&str]) -> Result<Route, BadTarget> {
    Ok(match words {
        ["whoami-v2" | "whoami"] => Route::WhoAmI,
        ["agent-harnesses"] => Route::AgentHarnesses,
        ["telemetry", ..] => Route::Telemetry,
        ["buckets", ..] => Route::Bucket,
        ["resolve-cache", kind, rest @ ..] => match RepoKind::from_plural(kind) {
            Some(kind) => return resolve_cache(kind, rest),
            None => Route::Unknown,
        },
        // Upstream may read them as the same, past the rules for repos.
        [word, ..] if is_misspelt(word) => {
            return Err(BadTarget::about("path segment", word, "is not written in lower case"));
        }
        [kind, rest @ ..] => match RepoKind::from_plural(kind) {
            Some(kind) if rest.is_empty() => Route::Search { kind },
            Some(kind) => return repo_route(kind, rest),
            None => Route::SiteOther,
        },
        [] => Route::Unknown,
    })
}

/// Whether a word would be one of those that repos are below, but for its case.
pub(super) fn is_misspelt(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    lower != word && (RepoKind::from_plural(&lower).is_some() || lower == "resolve-cache")
}

/// Reads `repo/commit/path`, where the commit tells how long the repo's name is.
fn resolve_cache(kind: RepoKind, words: &[&str]) -> Result<Route, BadTarget> {
    for segment_count in 1..=2 {
        let Some(commit) = words.get(segment_count).and_then(|word| Commit::parse(word)) else { continue };
        let path = FilePath::parse(&words[segment_count + 1..].join("/"))?;
        return Ok(Route::Resolve { repo: repo(kind, &words[..segment_count])?, revision: commit.into(), path });
    }
    Err(BadTarget::new("the resolve-cache path has no commit of 40 hex digits after the repo"))
}

fn repo_route(kind: RepoKind, words: &[&str]) -> Result<Route, BadTarget> {
    let has_owner = words.len() > 1 && !is_resource(&words[1..]);
    let (name, resource) = words.split_at(if has_owner { 2 } else { 1 });
    let repo = repo(kind, name)?;
    Ok(match resource {
        [] => Route::RepoInfo { repo, revision: None },
        ["revision", rest @ ..] if !rest.is_empty() => Route::RepoInfo { repo, revision: Some(whole_revision(rest)?) },
        ["tree", rest @ ..] if !rest.is_empty() => {
            let (revision, path) = split_revision(rest)?;
            Route::Tree { repo, revision, path }
        }
        ["paths-info", rest @ ..] if !rest.is_empty() => Route::PathsInfo { repo, revision: whole_revision(rest)? },
        ["commits", rest @ ..] if !rest.is_empty() => Route::Commits { repo, revision: whole_revision(rest)? },
        ["xet-read-token", rest @ ..] if !rest.is_empty() => Route::XetReadToken { repo, revision: whole_revision(rest)? },
        ["refs"] => Route::Refs { repo },
        ["auth-check"] => Route::AuthCheck { repo },
        // A GET, but only uploads ask for it.
        ["xet-write-token", ..] => Route::Write,
        _ => Route::RepoOther { repo },
    })
}

/// Says whether these words, standing after the first segment of a repo's name, name a resource of an old repo without
/// an owner (`gpt2/tree/main`) rather than the second segment of the name (`org/tree`). A resource that needs an
/// argument only counts with one, and rarely used resources do not count: there are repos of such names.
fn is_resource(words: &[&str]) -> bool {
    match words {
        ["refs"] | ["auth-check"] | ["auth-check", "write"] => true,
        [word, _, ..] => {
            const WITH_ARGUMENT: [&str; 10] = [
                "revision",
                "tree",
                "paths-info",
                "commits",
                "commit",
                "preupload",
                "xet-read-token",
                "xet-write-token",
                "discussions",
                "compare",
            ];
            WITH_ARGUMENT.contains(word)
        }
        _ => false,
    }
}

/// Reads a revision that nothing follows, so its slashes may be bare or escaped.
fn whole_revision(words: &[&str]) -> Result<Revision, BadTarget> {
    Revision::parse(&words.join("/"))
}
