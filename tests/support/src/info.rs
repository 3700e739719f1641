//! What the Hub says of a repo as a whole: info, refs, commits.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::errors::{self, Form};
use crate::repo::{Commit, Entry, Kind, RepoState};
use crate::respond::{Answer, Ask};
use crate::state::Shared;

/// What stands for a hash before callers who may not read the files.
pub(crate) const MASK: &str = "****************************************************************";
const COMMITS_PER_PAGE: usize = 50;

pub(crate) fn info(repo: &RepoState, ask: &Ask, revision: &str) -> Answer {
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Json, revision);
    };
    let masked = !repo.is_read_by(&ask.caller);
    let whole = described(repo, &commit, ask.says("blobs"), masked);
    Answer::json(200, &narrowed(whole, &ask.expansions()))
}

/// Returns all that is said of a repo at a commit.
pub(crate) fn described(repo: &RepoState, commit: &Commit, blobs: bool, masked: bool) -> Map<String, Value> {
    let siblings = commit.files.iter().map(|(path, entry)| sibling(path, entry, blobs, masked));
    let mut tags = repo.labels.clone();
    tags.push("region:us".to_owned());
    let used: u64 = commit.files.values().map(|entry| entry.size).sum();
    let fields = json!({
        "_id": repo.object_id, "id": repo.id, "author": repo.id.split_once('/').map(|(author, _)| author),
        "sha": commit.id, "lastModified": commit.date, "createdAt": "2025-01-01T00:00:00.000Z",
        "private": repo.private, "gated": if repo.gated { json!("auto") } else { json!(false) },
        "disabled": repo.disabled, "tags": tags, "downloads": 0, "likes": 0, "usedStorage": used,
        "xetEnabled": repo.xet, "siblings": siblings.collect::<Vec<_>>(),
    });
    let Value::Object(mut fields) = fields else {
        return Map::new();
    };
    if repo.kind == Kind::Model {
        fields.insert("modelId".into(), json!(repo.id));
        fields.insert("spaces".into(), json!([]));
    }
    fields
}

/// Keeps the asked fields only, besides the ids. Fields the fake does not have are left out without a word.
pub(crate) fn narrowed(fields: Map<String, Value>, wanted: &[String]) -> Value {
    let kept = |name: &String| wanted.is_empty() || name == "id" || name == "_id" || wanted.contains(name);
    Value::Object(fields.into_iter().filter(|(name, _)| kept(name)).collect())
}

pub(crate) fn sibling(path: &str, entry: &Entry, blobs: bool, masked: bool) -> Value {
    let mut sibling = json!({ "rfilename": path });
    if blobs {
        sibling["blobId"] = json!(entry.blob_id);
        sibling["size"] = json!(entry.size);
        if let Some(lfs) = &entry.lfs {
            let sha256 = if masked { MASK } else { &lfs.sha256 };
            sibling["lfs"] = json!({ "sha256": sha256, "size": entry.size, "pointerSize": lfs.pointer.len() });
        }
    }
    sibling
}

pub(crate) fn refs(repo: &RepoState, ask: &Ask) -> Answer {
    let named =
        |family: &str, name: &str, id: &str| json!({ "name": name, "ref": format!("refs/{family}/{name}"), "targetCommit": id });
    let is_convert = |name: &str| name.starts_with("refs/convert/");
    let branches = repo.branches.iter().filter(|(name, _)| !is_convert(name)).map(|(name, id)| named("heads", name, id));
    let converts = repo
        .branches
        .iter()
        .filter(|(name, _)| is_convert(name))
        .map(|(name, id)| json!({ "name": name.trim_start_matches("refs/convert/"), "ref": name, "targetCommit": id }));
    let tags = repo.tags.iter().map(|(name, id)| named("tags", name, id));
    let mut all = json!({
        "branches": branches.collect::<Vec<_>>(), "converts": converts.collect::<Vec<_>>(), "tags": tags.collect::<Vec<_>>(),
    });
    if ask.says("include_prs") {
        let requests = repo.pull_requests.iter().map(
            |(number, id)| json!({ "name": format!("refs/pr/{number}"), "ref": format!("refs/pr/{number}"), "targetCommit": id }),
        );
        all["pullRequests"] = json!(requests.collect::<Vec<_>>());
    }
    Answer::json(200, &all)
}

pub(crate) fn commits(shared: &Shared, repo: &RepoState, ask: &Ask, revision: &str) -> Answer {
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Json, revision);
    };
    let history = commit.history();
    let page_len = ask.number("limit").unwrap_or(COMMITS_PER_PAGE).clamp(1, 1000);
    let page = ask.number("p").unwrap_or(0);
    let formatted = ask.expansions().iter().any(|field| field == "formatted");
    let listed: Vec<Value> =
        history.iter().skip(page.saturating_mul(page_len)).take(page_len).map(|commit| told(commit, formatted)).collect();
    let answer = Answer::json(200, &json!(listed)).with("x-total-count", history.len().to_string());
    let next = page.saturating_add(1);
    if next.saturating_mul(page_len) >= history.len() {
        return answer;
    }
    answer.with("link", next_link(shared, ask, &[("p", next.to_string())]))
}

fn told(commit: &Arc<Commit>, formatted: bool) -> Value {
    let body = commit.message.split_once('\n').map_or("", |(_, body)| body.trim_start());
    let mut told = json!({
        "id": commit.id, "title": commit.title(), "message": body,
        "authors": [{ "user": "fake-hub", "avatar": "/avatars/fake.svg" }], "date": commit.date,
    });
    if formatted {
        told["formatted"] = json!({ "title": commit.title(), "message": body });
    }
    told
}

/// Returns the `Link` to the next page: absolute, with the query of this one and the changed parameters.
pub(crate) fn next_link(shared: &Shared, ask: &Ask, changed: &[(&str, String)]) -> String {
    use crate::respond::encode;
    let kept = ask.params().into_iter().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
    let new = changed.iter().map(|(name, value)| (name.to_string(), value.clone()));
    let query: Vec<String> = kept.chain(new).map(|(name, value)| format!("{}={}", encode(&name), encode(&value))).collect();
    format!("<{}{}?{}>; rel=\"next\"", shared.hub_url(), ask.path, query.join("&"))
}
