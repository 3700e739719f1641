//! The one place that reads request targets: a method and a target become a [`Route`].

use super::escape::{BadTarget, decode};
use super::oid::Oid;
use super::path::FilePath;
use super::repo::{RepoId, RepoKind};
use super::revision::Revision;
use super::{route_api, route_file};
use http::Method;

/// What a request asks of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A file's bytes, or its headers; `/api/resolve-cache/..` is the same question at a commit. Any query is ignored.
    Resolve { repo: RepoId, revision: Revision, path: FilePath },
    /// A file as git holds it: for an LFS file that is the pointer's text.
    Raw { repo: RepoId, revision: Revision, path: FilePath },
    /// The facts of a repo, at a revision or at its default branch.
    RepoInfo { repo: RepoId, revision: Option<Revision> },
    /// A listing of the repo, or of one directory of it.
    Tree { repo: RepoId, revision: Revision, path: Option<FilePath> },
    /// A listing of the paths named in the POST body.
    PathsInfo { repo: RepoId, revision: Revision },
    /// The branches and tags.
    Refs { repo: RepoId },
    /// The history of a revision.
    Commits { repo: RepoId, revision: Revision },
    /// Whether the token may read the repo; only the status counts.
    AuthCheck { repo: RepoId },
    /// A token for Xet's content store.
    XetReadToken { repo: RepoId, revision: Revision },
    /// Any other read below a repo's API path: discussions, access requests ...
    RepoOther { repo: RepoId },
    /// A search over all repos of a kind.
    Search { kind: RepoKind },
    /// Any other read of the API: collections, papers, users ...
    SiteOther,
    /// Who the token belongs to.
    WhoAmI,
    /// The list of agent harnesses that every new client process asks for.
    AgentHarnesses,
    /// Usage pings.
    Telemetry,
    /// Anything of buckets, which are Xet only.
    Bucket,
    /// What a tag of a GGUF repo is made of, in the registry's words (`/v2/..`): llama.cpp, node-llama-cpp, Ollama. Always of `main`.
    Manifest { repo: RepoId, tag: String },
    /// One of those parts, by its hash: a file of the repo, or a text that the Hub makes of one.
    Layer { repo: RepoId, oid: Oid },
    /// Git's own protocol, reading: its two requests of a clone or fetch.
    Git { repo: RepoId },
    /// The same, writing.
    GitPush { repo: RepoId },
    /// What git-lfs asks, for contents that git itself does not hold.
    GitLfs { repo: RepoId },
    /// A request that would change the Hub, or prepares such a change.
    Write,
    /// The mirror's own pages.
    Own(Own),
    /// Anything below `/-/`, where no repo can be: the JSON of the mirror's panel, by whatever method.
    Panel,
    /// A browser asking whether it may ask (OPTIONS).
    Preflight,
    /// None of these.
    Unknown,
}

/// The mirror's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    Metrics,
    Health,
    Ready,
    Info,
    Repos,
    Index,
}

/// The repo in a route, borrowed as the route is.
macro_rules! repo_in {
    ($route:expr) => {
        match $route {
            Route::Resolve { repo, .. }
            | Route::Raw { repo, .. }
            | Route::RepoInfo { repo, .. }
            | Route::Tree { repo, .. }
            | Route::PathsInfo { repo, .. }
            | Route::Refs { repo }
            | Route::Commits { repo, .. }
            | Route::AuthCheck { repo }
            | Route::XetReadToken { repo, .. }
            | Route::RepoOther { repo }
            | Route::Manifest { repo, .. }
            | Route::Layer { repo, .. }
            | Route::Git { repo }
            | Route::GitPush { repo }
            | Route::GitLfs { repo } => Some(repo),
            _ => None,
        }
    };
}

impl Route {
    /// Reads a request target in origin form (`/path?query`) or absolute form (`http://host/path?query`).
    ///
    /// Segments are split before their escapes are undone, and they are undone once. Empty segments vanish; a `.` or
    /// `..` segment, escaped or not, is refused for every route, since what lies behind might resolve it.
    pub fn parse(method: &Method, target: impl AsRef<[u8]>) -> Result<Route, BadTarget> {
        let is_panel = |path: &[u8]| path == b"/-" || path.starts_with(b"/-/");
        if split_target(target.as_ref()).is_ok_and(|(path, _)| is_panel(path)) {
            return Ok(Route::Panel);
        }
        if method == Method::OPTIONS {
            return Ok(Route::Preflight);
        }
        if *method == Method::PUT || *method == Method::PATCH || *method == Method::DELETE {
            return Ok(Route::Write);
        }
        let reads = *method == Method::GET || *method == Method::HEAD;
        if !reads && *method != Method::POST {
            return Ok(Route::Unknown);
        }
        let (path, query) = split_target(target.as_ref())?;
        let segments = decode_segments(path)?;
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        let route = read_route(&words)?;
        Ok(match route {
            Route::PathsInfo { repo, .. } if reads => Route::RepoOther { repo },
            // The first request of a push.
            Route::Git { repo } if reads && has_word(query, b"service=git-receive-pack") => Route::GitPush { repo },
            route if reads => route,
            Route::PathsInfo { .. } | Route::Telemetry | Route::GitLfs { .. } | Route::GitPush { .. } => route,
            Route::Git { .. } if words.last() == Some(&"git-upload-pack") => route,
            _ => Route::Write,
        })
    }

    /// Returns the repo that a write is about, as far as its target names one: `/api/repos/..` names it in the body.
    pub fn written_repo(target: impl AsRef<[u8]>) -> Option<RepoId> {
        let (path, _) = split_target(target.as_ref()).ok()?;
        let segments = decode_segments(path).ok()?;
        // A GET that counts as a write, by the word for its twin that does not.
        let twin = |word: &str| if word == "xet-write-token" { "xet-read-token".to_owned() } else { word.to_owned() };
        let words: Vec<String> = segments.iter().map(|word| twin(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        read_route(&words).ok()?.repo().cloned()
    }

    /// Returns a word for metrics and logs; there are as many words as variants.
    pub fn label(&self) -> &'static str {
        match self {
            Route::Resolve { .. } => "resolve",
            Route::Raw { .. } => "raw",
            Route::RepoInfo { .. } => "info",
            Route::Tree { .. } => "tree",
            Route::PathsInfo { .. } => "paths-info",
            Route::Refs { .. } => "refs",
            Route::Commits { .. } => "commits",
            Route::AuthCheck { .. } => "auth-check",
            Route::XetReadToken { .. } => "xet-read-token",
            Route::RepoOther { .. } => "repo-other",
            Route::Search { .. } => "search",
            Route::SiteOther => "site-other",
            Route::WhoAmI => "whoami",
            Route::AgentHarnesses => "agent-harnesses",
            Route::Telemetry => "telemetry",
            Route::Bucket => "bucket",
            Route::Manifest { .. } => "manifest",
            Route::Layer { .. } => "layer",
            Route::Git { .. } => "git",
            Route::GitPush { .. } => "git-push",
            Route::GitLfs { .. } => "git-lfs",
            Route::Write => "write",
            Route::Own(_) => "own",
            Route::Panel => "panel",
            Route::Preflight => "preflight",
            Route::Unknown => "unknown",
        }
    }

    /// Returns the repo that is asked about, if it is one.
    pub fn repo(&self) -> Option<&RepoId> {
        repo_in!(self)
    }

    /// Asks the same of another repo.
    #[must_use]
    pub fn of(mut self, other: RepoId) -> Route {
        if let Some(repo) = repo_in!(&mut self) {
            *repo = other;
        }
        self
    }

    /// Returns the revision that is asked about, if one is named.
    pub fn revision(&self) -> Option<&Revision> {
        match self {
            Route::Resolve { revision, .. }
            | Route::Raw { revision, .. }
            | Route::Tree { revision, .. }
            | Route::PathsInfo { revision, .. }
            | Route::Commits { revision, .. }
            | Route::XetReadToken { revision, .. } => Some(revision),
            Route::RepoInfo { revision, .. } => revision.as_ref(),
            _ => None,
        }
    }
}

/// Splits a target into its path and its query, both raw, without scheme and host.
pub(super) fn split_target(target: &[u8]) -> Result<(&[u8], &[u8]), BadTarget> {
    let target = strip_origin(target);
    let (path, query) = match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &target[target.len()..]),
    };
    if path.contains(&b'#') {
        return Err(BadTarget::new("the path holds a #; write it as %23"));
    }
    if !path.is_empty() && path[0] != b'/' {
        return Err(BadTarget::about("path", &String::from_utf8_lossy(path), "does not begin with a slash"));
    }
    Ok((path, query))
}

fn has_word(query: &[u8], word: &[u8]) -> bool {
    query.split(|&byte| byte == b'&').any(|pair| pair == word)
}

fn strip_origin(target: &[u8]) -> &[u8] {
    for scheme in ["http://", "https://"] {
        let Some((head, rest)) = target.split_at_checked(scheme.len()) else { continue };
        if head.eq_ignore_ascii_case(scheme.as_bytes()) {
            let host_len = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
            return &rest[host_len..];
        }
    }
    target
}

/// Undoes the escapes of each segment and leaves out the empty ones.
fn decode_segments(path: &[u8]) -> Result<Vec<String>, BadTarget> {
    let mut segments = Vec::new();
    for raw in path.split(|&byte| byte == b'/').filter(|raw| !raw.is_empty()) {
        let segment = decode(raw)?;
        if segment.split('/').any(|part| part == "." || part == "..") {
            return Err(BadTarget::about("path segment", &segment, "is `.` or `..`; send the path resolved"));
        }
        if segment.chars().any(char::is_control) {
            return Err(BadTarget::about("path segment", &segment, "holds a control character"));
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// Reads the words of a path as if the method were GET, except that `paths-info` keeps its name.
fn read_route(words: &[&str]) -> Result<Route, BadTarget> {
    Ok(match words {
        [] => Route::Own(Own::Index),
        ["metrics"] => Route::Own(Own::Metrics),
        ["healthz"] => Route::Own(Own::Health),
        ["readyz"] => Route::Own(Own::Ready),
        ["info"] => Route::Own(Own::Info),
        ["repos"] => Route::Own(Own::Repos),
        ["api", words @ ..] => return route_api::read(words),
        ["v2", words @ ..] => return route_file::read_registry(words),
        ["buckets", ..] => Route::Bucket,
        _ => return route_file::read(words),
    })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
