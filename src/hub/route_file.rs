//! The routes of files and of git, and how a repo and a revision are read out of a path.

use super::escape::BadTarget;
use super::oid::Oid;
use super::path::FilePath;
use super::repo::{RepoId, RepoKind};
use super::revision::Revision;
use super::route::Route;
use super::route_api::is_misspelt;

/// As registries have it.
const TAG_LEN_MAX: usize = 128;

/// Reads `[kind/]repo/resolve/revision/path`, its `raw` twin and git's URLs. The marker decides where the repo ends, so
/// that names with and without an owner are both found; a kind's word at the front always means the kind.
pub(super) fn read(words: &[&str]) -> Result<Route, BadTarget> {
    // Upstream may read it as a kind, past the rules for repos of that kind. `Models` may be an owner.
    if let Some(word) = words.first().filter(|word| is_misspelt(word) && !word.eq_ignore_ascii_case("models")) {
        return Err(BadTarget::about("path segment", word, "is not written in lower case"));
    }
    let (kind, words) = match words {
        ["datasets", rest @ ..] => (RepoKind::Dataset, rest),
        ["spaces", rest @ ..] => (RepoKind::Space, rest),
        ["kernels", rest @ ..] => (RepoKind::Kernel, rest),
        // DingoSpeed's own spelling. Only with an owner, else `models` is the owner.
        ["models", _, _, "resolve" | "raw", ..] => (RepoKind::Model, &words[1..]),
        _ => (RepoKind::Model, words),
    };
    for marker in ["resolve", "raw"] {
        for segment_count in 1..=2 {
            if words.get(segment_count) != Some(&marker) {
                continue;
            }
            let repo = repo(kind, &words[..segment_count])?;
            let (revision, path) = split_revision(&words[segment_count + 1..])?;
            let path = path.ok_or_else(|| BadTarget::new("the file path is empty"))?;
            return Ok(match marker {
                "resolve" => Route::Resolve { repo, revision, path },
                _ => Route::Raw { repo, revision, path },
            });
        }
    }
    git_route(kind, words)
}

/// Reads the words after `/v2/`: `owner/name/manifests/tag` and `owner/name/blobs/sha256:hex`, also of the old names without an owner.
pub(super) fn read_registry(words: &[&str]) -> Result<Route, BadTarget> {
    let at = words.len().saturating_sub(2);
    let (name, resource) = words.split_at(at);
    if !(1..=2).contains(&name.len()) {
        return Ok(Route::Unknown);
    }
    Ok(match resource {
        ["manifests", tag] => {
            let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if tag.len() > TAG_LEN_MAX || !tag.bytes().all(is_tag) {
                return Err(BadTarget::about("tag", tag, "is not of letters, digits, `.`, `_` and `-`, 128 at most"));
            }
            Route::Manifest { repo: repo(RepoKind::Model, name)?, tag: (*tag).to_owned() }
        }
        ["blobs", digest] => {
            let oid = digest.strip_prefix("sha256:").and_then(Oid::parse).filter(Oid::is_sha256);
            let oid = oid.ok_or_else(|| BadTarget::about("digest", digest, "is not `sha256:` and 64 hex digits"))?;
            Route::Layer { repo: repo(RepoKind::Model, name)?, oid }
        }
        _ => Route::Unknown,
    })
}

fn git_route(kind: RepoKind, words: &[&str]) -> Result<Route, BadTarget> {
    for segment_count in 1..=2 {
        let Some((name, rest)) = words.split_at_checked(segment_count) else { break };
        let bare = name[segment_count - 1].strip_suffix(".git");
        let mut name = name.to_vec();
        name[segment_count - 1] = bare.unwrap_or(name[segment_count - 1]);
        return Ok(match rest {
            ["info", "refs"] | ["git-upload-pack"] => Route::Git { repo: repo(kind, &name)? },
            ["info", "lfs", ..] => Route::GitLfs { repo: repo(kind, &name)? },
            ["git-receive-pack"] => Route::GitPush { repo: repo(kind, &name)? },
            _ if bare.is_some() => Route::Unknown,
            _ => continue,
        });
    }
    Ok(Route::Unknown)
}

/// Builds a repo from its segments. An escaped slash is refused: `org%2Fname` would otherwise be a second spelling,
/// and one that upstream reads differently once it is written down again.
pub(super) fn repo(kind: RepoKind, segments: &[&str]) -> Result<RepoId, BadTarget> {
    if segments.iter().any(|segment| segment.contains('/')) {
        return Err(BadTarget::about("repo name", &segments.join("/"), "holds an escaped slash; write it as a slash"));
    }
    RepoId::parse(kind, &segments.join("/"))
}

/// Reads `revision[/path]`. A revision is one segment (with its slashes escaped), except for the `refs/pr/1` and
/// `refs/convert/parquet` that some clients send with their slashes bare.
pub(super) fn split_revision(words: &[&str]) -> Result<(Revision, Option<FilePath>), BadTarget> {
    let Some(first) = words.first() else {
        return Err(BadTarget::new("the revision is missing"));
    };
    let flat = words.join("/");
    let revision_len = match special_ref_len(&flat) {
        Some(len) if len >= first.len() => len,
        _ => first.len(),
    };
    let (revision, rest) = flat.split_at(revision_len);
    let path = match rest.strip_prefix('/') {
        Some(path) => Some(FilePath::parse(path)?),
        None => None,
    };
    Ok((Revision::parse(revision)?, path))
}

fn special_ref_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("refs/")?;
    let (space, rest) = rest.split_once('/')?;
    let name = rest.split('/').next()?;
    let special = match space {
        "pr" => !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()),
        "convert" => !name.is_empty(),
        _ => false,
    };
    special.then(|| "refs/".len() + space.len() + 1 + name.len())
}
