//! Listings of a commit: `/tree` page by page, and `/paths-info` for chosen paths.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::content::sha1_hex;
use crate::errors::{self, Form};
use crate::info::{MASK, next_link};
use crate::repo::{Commit, Entry, Files, RepoState};
use crate::respond::{Answer, Ask, is_yes, pairs};
use crate::state::Shared;

enum Item<'a> {
    File(&'a str, &'a Entry),
    Directory(&'a str),
}

pub(crate) fn tree(shared: &Shared, repo: &RepoState, ask: &Ask, revision: &str, path: &str) -> Answer {
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Json, revision);
    };
    let items = listed(&commit.files, path, ask.says("recursive"));
    if items.is_empty() && !path.is_empty() {
        return errors::no_path(path, revision);
    }
    let expand = ask.says("expand");
    let page_len_max = if expand { shared.settings.expanded_page_len } else { shared.settings.page_len };
    let page_len = ask.number("limit").unwrap_or(page_len_max).clamp(1, page_len_max);
    let start = ask.param("cursor").map_or(Some(0), |cursor| position(&cursor));
    let Some(start) = start else {
        return Answer::json(400, &json!({ "error": "Invalid cursor" }));
    };
    let masked = !repo.is_read_by(&ask.caller);
    let page: Vec<Value> = items.iter().skip(start).take(page_len).map(|item| described(&commit, item, expand, masked)).collect();
    let answer = Answer::json(200, &json!(page));
    if start + page.len() >= items.len() {
        return answer;
    }
    let changed = [
        ("expand", expand.to_string()),
        ("recursive", ask.says("recursive").to_string()),
        ("limit", page_len.to_string()),
        ("cursor", cursor(start + page.len())),
    ];
    answer.with("link", next_link(shared, ask, &changed))
}

pub(crate) fn paths_info(repo: &RepoState, ask: &Ask, revision: &str) -> Answer {
    let Some((paths, expand)) = asked_paths(ask) else {
        return Answer::json(400, &json!({ "error": "\"paths\" is required" }));
    };
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Json, revision);
    };
    let masked = !repo.is_read_by(&ask.caller);
    let item = |path: &String| -> Option<Value> {
        let path = path.trim_matches('/');
        let item = match commit.files.get(path) {
            Some(entry) => Item::File(path, entry),
            None if has_children(&commit.files, path) => Item::Directory(path),
            None => return None,
        };
        Some(described(&commit, &item, expand, masked))
    };
    let found: Vec<Value> = paths.iter().filter_map(item).collect();
    Answer::json(200, &json!(found))
}

/// Reads the paths from a form or from JSON.
fn asked_paths(ask: &Ask) -> Option<(Vec<String>, bool)> {
    if ask.header("content-type").starts_with("application/json") {
        let body: Value = serde_json::from_slice(&ask.body).ok()?;
        let paths = match &body["paths"] {
            Value::String(path) => vec![path.clone()],
            Value::Array(paths) => paths.iter().filter_map(|path| path.as_str().map(str::to_owned)).collect(),
            _ => return None,
        };
        return Some((paths, body["expand"].as_bool().unwrap_or(false)));
    }
    let form = pairs(std::str::from_utf8(&ask.body).ok()?);
    let values = |name: &str| form.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect::<Vec<_>>();
    let paths = values("paths");
    let expand = values("expand").iter().any(|value| is_yes(value));
    (!paths.is_empty()).then_some((paths, expand))
}

/// Returns what lies below a directory, directories before what they hold.
fn listed<'a>(files: &'a Files, directory: &str, recursive: bool) -> Vec<Item<'a>> {
    let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
    let mut items = Vec::new();
    let mut last_directory = "";
    for (path, entry) in below(files, &prefix) {
        let mut is_direct = true;
        for (slash, _) in path[prefix.len()..].match_indices('/') {
            let parent = &path[..prefix.len() + slash];
            let is_known = last_directory == parent || last_directory.starts_with(&format!("{parent}/"));
            if !is_known {
                items.push(Item::Directory(parent));
                last_directory = parent;
            }
            if !recursive {
                is_direct = false;
                break;
            }
        }
        if is_direct {
            items.push(Item::File(path, entry));
        }
    }
    items
}

fn below<'a>(files: &'a Files, prefix: &str) -> impl Iterator<Item = (&'a String, &'a Arc<Entry>)> {
    files.range(prefix.to_owned()..).take_while({
        let prefix = prefix.to_owned();
        move |(path, _)| path.starts_with(&prefix)
    })
}

fn has_children(files: &Files, directory: &str) -> bool {
    below(files, &format!("{directory}/")).next().is_some()
}

/// Invents a stable id for a directory from what it holds.
fn directory_id(files: &Files, directory: &str) -> Option<String> {
    let prefix = format!("{directory}/");
    let mut text = String::new();
    for (path, entry) in below(files, &prefix) {
        text += &format!("{path} {}\n", entry.blob_id);
    }
    (!text.is_empty()).then(|| sha1_hex(text))
}

fn described(commit: &Arc<Commit>, item: &Item<'_>, expand: bool, masked: bool) -> Value {
    let mut told = match item {
        Item::Directory(path) => {
            json!({ "type": "directory", "oid": directory_id(&commit.files, path), "size": 0, "path": path })
        }
        Item::File(path, entry) => {
            let mut told = json!({ "type": "file", "oid": entry.blob_id, "size": entry.size });
            if let Some(lfs) = &entry.lfs {
                let oid = if masked { MASK } else { &lfs.sha256 };
                told["lfs"] = json!({ "oid": oid, "size": entry.size, "pointerSize": lfs.pointer.len() });
                if let Some(hash) = &lfs.xet_hash {
                    told["xetHash"] = json!(if masked { MASK } else { hash });
                }
            }
            told["path"] = json!(path);
            told
        }
    };
    if expand {
        let last = last_change(commit, item);
        told["lastCommit"] = json!({ "id": last.id, "title": last.title(), "date": last.date });
        if let Item::File(..) = item {
            told["securityFileStatus"] = json!({
                "status": "safe", "avScan": { "status": "safe", "virusFound": false, "virusNames": null },
                "pickleImportScan": null, "jFrogScan": null, "protectAiScan": null,
            });
        }
    }
    told
}

/// Returns the commit that made the item what it is.
fn last_change(commit: &Arc<Commit>, item: &Item<'_>) -> Arc<Commit> {
    let id_in = |commit: &Commit| match item {
        Item::File(path, _) => commit.files.get(*path).map(|entry| entry.blob_id.clone()),
        Item::Directory(path) => directory_id(&commit.files, path),
    };
    let now = id_in(commit);
    let history = commit.history();
    history.iter().take_while(|commit| id_in(commit) == now).last().unwrap_or(commit).clone()
}

/// Hides a position the way the Hub does: a client must not make sense of it.
pub(crate) fn cursor(position: usize) -> String {
    STANDARD.encode(json!({ "position": position }).to_string())
}

pub(crate) fn position(cursor: &str) -> Option<usize> {
    let text = STANDARD.decode(cursor).ok()?;
    let value: Value = serde_json::from_slice(&text).ok()?;
    value["position"].as_u64().map(|position| position as usize)
}
