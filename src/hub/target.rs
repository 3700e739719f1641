//! A question written down again: what is sent upstream, and the key under which its answer is kept.

use super::escape::{keep_sendable, requote_query_word};
use super::oid::Commit;
use super::path::FilePath;
use super::repo::RepoId;
use super::revision::Revision;
use super::route::{Route, split_target};
use http::Method;

/// The one spelling of a request target: two targets that ask the same are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiTarget {
    path: String,
    query: String,
}

impl ApiTarget {
    /// Writes down `route`, with the query of the raw `target` it was parsed from.
    ///
    /// For routes that say all in their fields only the query of `target` is read, so `"?recursive=true"` is enough. For
    /// the others (`RepoOther`, `Search`, `Git`, `Unknown` ..) the path is the client's own without empty segments.
    /// File routes have no query.
    pub fn new(route: &Route, target: impl AsRef<[u8]>) -> ApiTarget {
        let target = target.as_ref();
        let (raw_path, raw_query) = match target.strip_prefix(b"?") {
            Some(query) => (&b""[..], query),
            None => split_target(target).unwrap_or((b"/", b"")),
        };
        match canonical_path(route) {
            Some(path) => {
                let query = if is_file(route) { String::new() } else { normal_query(raw_query) };
                ApiTarget { path, query }
            }
            None if matches!(route, Route::RepoOther { .. } | Route::Search { .. }) => {
                let moved = route.repo().and_then(|repo| moved_path(repo, raw_path));
                let path = moved.unwrap_or_else(|| sendable_path(raw_path));
                ApiTarget { path, query: normal_query(raw_query) }
            }
            None => {
                let mut query = String::new();
                keep_sendable(raw_query, &mut query);
                ApiTarget { path: sendable_path(raw_path), query }
            }
        }
    }

    /// Writes down the question for the facts of a repo at a revision.
    pub fn info(repo: &RepoId, revision: &Revision) -> ApiTarget {
        ApiTarget { path: below(repo, "revision", revision), query: String::new() }
    }

    /// Writes down the question for the first page of the whole listing at a revision, as huggingface_hub asks it.
    pub fn whole_tree(repo: &RepoId, revision: &Revision) -> ApiTarget {
        ApiTarget { path: below(repo, "tree", revision), query: "expand=false&recursive=true".to_owned() }
    }

    /// Writes down the question for a file.
    pub fn resolve(repo: &RepoId, revision: &Revision, path: &FilePath) -> ApiTarget {
        ApiTarget { path: file_path(repo, "resolve", revision, path), query: String::new() }
    }

    /// Writes down the question for a small file at a commit, by the address that the Hub's own redirect leads to.
    pub fn resolve_cache(repo: &RepoId, commit: &Commit, path: &FilePath) -> ApiTarget {
        let (kind, name, path) = (repo.kind().plural(), repo.name(), path.encoded_segment());
        ApiTarget { path: format!("/api/resolve-cache/{kind}/{name}/{commit}/{path}"), query: String::new() }
    }

    /// Returns the path, escaped.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the query without its question mark; empty when there is none.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Returns the target in origin form, as it is sent upstream; also the key of the kept answer. A POST body
    /// (paths-info) is not part of it.
    pub fn upstream_path_and_query(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    /// Returns the first value of a query key, its escapes undone.
    pub fn value(&self, key: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (plain(name) == key).then(|| plain(value))
        })
    }
}

/// Returns the path of a route whose fields say all of it.
fn canonical_path(route: &Route) -> Option<String> {
    Some(match route {
        Route::Resolve { repo, revision, path } => file_path(repo, "resolve", revision, path),
        Route::Raw { repo, revision, path } => file_path(repo, "raw", revision, path),
        Route::RepoInfo { repo, revision: None } => repo.api_path(),
        Route::RepoInfo { repo, revision: Some(revision) } => below(repo, "revision", revision),
        Route::Tree { repo, revision, path: None } => below(repo, "tree", revision),
        Route::Tree { repo, revision, path: Some(path) } => {
            format!("{}/{}", below(repo, "tree", revision), path.encoded_segment())
        }
        Route::PathsInfo { repo, revision } => below(repo, "paths-info", revision),
        Route::Commits { repo, revision } => below(repo, "commits", revision),
        Route::XetReadToken { repo, revision } => below(repo, "xet-read-token", revision),
        Route::Refs { repo } => format!("{}/refs", repo.api_path()),
        Route::AuthCheck { repo } => format!("{}/auth-check", repo.api_path()),
        Route::Manifest { repo, tag } => format!("/v2{}/manifests/{tag}", repo.url_path()),
        Route::Layer { repo, oid } => format!("/v2{}/blobs/sha256:{}", repo.url_path(), oid.as_str()),
        _ => return None,
    })
}

/// The path of a question that was asked of the repo by another name; `None` when it was by this one.
fn moved_path(repo: &RepoId, raw_path: &[u8]) -> Option<String> {
    let asked = Route::parse(&Method::GET, raw_path).ok()?;
    let asked = asked.repo().filter(|asked| *asked != repo)?;
    // `/api/models/` and the name itself.
    let skipped = 2 + asked.name().split('/').count();
    let rest = raw_path.split(|&byte| byte == b'/').filter(|word| !word.is_empty()).skip(skipped);
    Some(format!("{}{}", repo.api_path(), sendable_path(&rest.flat_map(|word| [b"/", word].concat()).collect::<Vec<u8>>())))
}

fn is_file(route: &Route) -> bool {
    matches!(route, Route::Resolve { .. } | Route::Raw { .. } | Route::Manifest { .. } | Route::Layer { .. })
}

fn below(repo: &RepoId, resource: &str, revision: &Revision) -> String {
    format!("{}/{resource}/{}", repo.api_path(), revision.encoded())
}

fn file_path(repo: &RepoId, marker: &str, revision: &Revision, path: &FilePath) -> String {
    format!("{}/{marker}/{}/{}", repo.url_path(), revision.encoded(), path.encoded())
}

fn sendable_path(raw: &[u8]) -> String {
    let mut path = String::with_capacity(raw.len());
    for segment in raw.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()) {
        path.push('/');
        keep_sendable(segment, &mut path);
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

/// Sorts the pairs by key (repeated keys keep their order), gives every word one spelling, and folds the `True` and
/// `False` of Python's requests to what httpx sends. `expand` and `expand[]` stay two keys.
fn normal_query(raw: &[u8]) -> String {
    let mut pairs: Vec<(String, Option<String>)> = raw
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.iter().position(|&byte| byte == b'=') {
            Some(at) => (requote_query_word(&pair[..at]), Some(fold_boolean(requote_query_word(&pair[at + 1..])))),
            None => (requote_query_word(pair), None),
        })
        .collect();
    pairs.sort_by(|left, right| left.0.cmp(&right.0));
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key,
        })
        .collect();
    pairs.join("&")
}

fn fold_boolean(value: String) -> String {
    match value.as_str() {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        _ => value,
    }
}

fn plain(word: &str) -> String {
    let spaced = word.replace('+', "%20");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}
