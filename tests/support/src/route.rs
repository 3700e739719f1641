//! The Hub's URL grammar: a raw path in, a typed question out. Segments are split before they are decoded.

use crate::repo::Kind;
use crate::respond::decode;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Repo(RepoRoute),
    List(Kind),
    Whoami,
    Harnesses,
    Telemetry,
    /// No endpoint; `true` below `/api/`.
    Unknown(bool),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RepoRoute {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// What stood before and after the id, still encoded: a redirect puts another id between them.
    pub(crate) before: String,
    pub(crate) after: String,
    pub(crate) what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    Info,
    Revision(String),
    Tree {
        revision: String,
        path: String,
    },
    PathsInfo(String),
    Refs,
    Commits(String),
    AuthCheck,
    XetReadToken(String),
    /// Of the registry interface below `/v2/`: what a tag is made of.
    Manifest(String),
    /// And one of its parts, by sha256.
    Layer(String),
    Resolve {
        revision: String,
        path: String,
    },
    ResolveCache {
        commit: String,
        path: String,
    },
    Raw {
        revision: String,
        path: String,
    },
    /// A page for people.
    Page,
    /// Something below a repo that a read mirror never needs; `true` below `/api/`.
    Other(bool),
}

impl What {
    pub(crate) fn is_api(&self) -> bool {
        !matches!(self, What::Resolve { .. } | What::ResolveCache { .. } | What::Raw { .. } | What::Page | What::Other(false))
    }
}

/// What may follow a repo's id under `/api/`, and so ends an id of one segment.
const VERBS: [&str; 16] = [
    "revision",
    "tree",
    "paths-info",
    "refs",
    "commits",
    "auth-check",
    "xet-read-token",
    "xet-write-token",
    "preupload",
    "commit",
    "treesize",
    "branch",
    "tag",
    "discussions",
    "settings",
    "compare",
];

impl Route {
    /// Parses a path. `known` tells whether a repo of this id exists, and is asked only where the grammar leaves two ways.
    pub(crate) fn parse(path: &str, known: impl Fn(Kind, &str) -> bool) -> Route {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match segments.as_slice() {
            ["v2", rest @ ..] => registry(rest),
            ["api", "whoami-v2"] => Route::Whoami,
            ["api", "agent-harnesses"] => Route::Harnesses,
            ["api", "telemetry", ..] => Route::Telemetry,
            ["api", "resolve-cache", plural, rest @ ..] => match Kind::of_plural(plural) {
                Some(kind) => resolve_cache(kind, plural, rest),
                None => Route::Unknown(true),
            },
            ["api", plural] if Kind::of_plural(plural).is_some() => {
                Kind::of_plural(plural).map_or(Route::Unknown(true), Route::List)
            }
            ["api", plural, rest @ ..] => match Kind::of_plural(plural) {
                Some(kind) => api(kind, plural, rest, known),
                None => Route::Unknown(true),
            },
            [plural, rest @ ..] if *plural != "models" && Kind::of_plural(plural).is_some() => {
                web(Kind::of_plural(plural).unwrap_or(Kind::Model), &format!("/{plural}/"), rest)
            }
            rest => web(Kind::Model, "/", rest),
        }
    }
}

fn api(kind: Kind, plural: &str, segments: &[&str], known: impl Fn(Kind, &str) -> bool) -> Route {
    let two = match segments {
        [first, second, ..] => !VERBS.contains(second) || known(kind, &decode(&format!("{first}/{second}"))),
        _ => false,
    };
    let (id, rest) = segments.split_at(if two { 2 } else { 1 });
    let what = match rest {
        [] => What::Info,
        ["refs"] => What::Refs,
        ["auth-check", ..] => What::AuthCheck,
        [verb, after @ ..] => match (*verb, revision_and_rest(after)) {
            ("revision", Some((revision, []))) => What::Revision(revision),
            ("tree", Some((revision, path))) => What::Tree { revision, path: joined(path).trim_end_matches('/').to_owned() },
            ("paths-info", Some((revision, []))) => What::PathsInfo(revision),
            ("commits", Some((revision, []))) => What::Commits(revision),
            ("xet-read-token", Some((revision, []))) => What::XetReadToken(revision),
            _ => What::Other(true),
        },
    };
    repo(kind, format!("/api/{plural}/"), id, rest, what)
}

fn registry(segments: &[&str]) -> Route {
    let (id, rest) = segments.split_at(segments.len().saturating_sub(2));
    let what = match rest {
        _ if !(1..=2).contains(&id.len()) => return Route::Unknown(true),
        ["manifests", tag] => What::Manifest(decode(tag)),
        ["blobs", digest] => What::Layer(decode(digest).trim_start_matches("sha256:").to_owned()),
        _ => return Route::Unknown(true),
    };
    repo(Kind::Model, "/v2/".to_owned(), id, rest, what)
}

fn resolve_cache(kind: Kind, plural: &str, segments: &[&str]) -> Route {
    let is_sha = |text: &&str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id_len = if segments.get(1).is_some_and(is_sha) { 1 } else { 2 };
    let Some((id, [commit, path @ ..])) = segments.split_at_checked(id_len) else {
        return Route::Unknown(true);
    };
    let what = What::ResolveCache { commit: (*commit).to_owned(), path: joined(path) };
    repo(kind, format!("/api/resolve-cache/{plural}/"), id, &segments[id_len..], what)
}

fn web(kind: Kind, before: &str, segments: &[&str]) -> Route {
    let verb_at = segments.iter().take(3).position(|segment| ["resolve", "raw", "blob", "tree"].contains(segment));
    let Some(id_len) = verb_at.filter(|at| *at > 0) else {
        let is_page = matches!(segments.len(), 1 | 2) && segments.iter().all(|segment| !segment.is_empty());
        let what = if is_page { What::Page } else { What::Other(false) };
        let id_len = segments.len().min(2);
        return match segments {
            [] | [""] => Route::Unknown(false),
            _ => repo(kind, before.to_owned(), &segments[..id_len], &segments[id_len..], what),
        };
    };
    let (id, rest) = segments.split_at(id_len);
    let what = match (rest[0], revision_and_rest(&rest[1..])) {
        ("resolve", Some((revision, path))) => What::Resolve { revision, path: joined(path) },
        ("raw", Some((revision, path))) => What::Raw { revision, path: joined(path) },
        _ => What::Page,
    };
    repo(kind, before.to_owned(), id, rest, what)
}

fn repo(kind: Kind, before: String, id: &[&str], rest: &[&str], what: What) -> Route {
    let after = if rest.is_empty() { String::new() } else { format!("/{}", rest.join("/")) };
    Route::Repo(RepoRoute { kind, id: joined(id), before, after, what })
}

/// Takes the revision off the front: one segment, decoded, or the three of a ref that came with raw slashes.
fn revision_and_rest<'a, 'b>(segments: &'a [&'b str]) -> Option<(String, &'a [&'b str])> {
    match segments {
        ["refs", family @ ("pr" | "convert" | "heads" | "tags"), name, rest @ ..] => {
            Some((format!("refs/{family}/{}", decode(name)), rest))
        }
        [first, rest @ ..] if !first.is_empty() => Some((decode(first), rest)),
        _ => None,
    }
}

fn joined(segments: &[&str]) -> String {
    decode(&segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> (String, What) {
        match Route::parse(path, |_, _| false) {
            Route::Repo(route) => (format!("{}:{}", route.kind.plural(), route.id), route.what),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_and_what_they_mean() {
        let check = |path: &str, id: &str, what: What| assert_eq!(parsed(path), (id.to_owned(), what), "{path}");
        let file = |revision: &str, path: &str| What::Resolve { revision: revision.into(), path: path.into() };
        let tree = |revision: &str, path: &str| What::Tree { revision: revision.into(), path: path.into() };
        check("/a/b/resolve/main/x", "models:a/b", file("main", "x"));
        check("/gpt2/resolve/main/d/x%20y", "models:gpt2", file("main", "d/x y"));
        check("/datasets/a/b/resolve/refs%2Fpr%2F1/x", "datasets:a/b", file("refs/pr/1", "x"));
        check("/spaces/a/b/resolve/refs/pr/1/x/resolve/y", "spaces:a/b", file("refs/pr/1", "x/resolve/y"));
        check("/kernels/a/b/resolve/v1/x", "kernels:a/b", file("v1", "x"));
        check("/api/models/a/b", "models:a/b", What::Info);
        check("/api/models/gpt2", "models:gpt2", What::Info);
        check("/api/models/gpt2/revision/main", "models:gpt2", What::Revision("main".into()));
        check("/api/datasets/a/b/tree/main/en%2Fsub", "datasets:a/b", tree("main", "en/sub"));
        check("/api/datasets/a/b/tree/refs/convert/parquet", "datasets:a/b", tree("refs/convert/parquet", ""));
        check("/api/models/a/b/paths-info/main", "models:a/b", What::PathsInfo("main".into()));
        let sha = "607a30d783dfa663caf39e06633721c8d4cfcd7e";
        let cached = || What::ResolveCache { commit: sha.into(), path: "onnx/config.json".into() };
        check(&format!("/api/resolve-cache/models/a/b/{sha}/onnx%2Fconfig.json"), "models:a/b", cached());
        check(&format!("/api/resolve-cache/models/gpt2/{sha}/onnx/config.json"), "models:gpt2", cached());
        check("/api/models/a/b/preupload/main", "models:a/b", What::Other(true));
        check("/a/b.git/info/refs", "models:a/b.git", What::Other(false));
        assert_eq!(Route::parse("/api/models", |_, _| false), Route::List(Kind::Model));
        assert_eq!(Route::parse("/api/nothing/x", |_, _| false), Route::Unknown(true));
    }
}
