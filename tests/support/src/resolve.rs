//! `/resolve`, `/api/resolve-cache` and `/raw`: how the Hub hands out files (contract 10.1 and 10.2).

use serde_json::json;

use crate::content::Memory;
use crate::errors::{self, Form};
use crate::repo::{Entry, Lfs, RepoState};
use crate::respond::{Answer, Ask, encode};
use crate::sign::signed;
use crate::state::{Caller, Shared};

const FILEINFO: &str = "application/vnd.xet-fileinfo+json";

/// What of the state a file's answer needs besides the repo.
pub(crate) struct Signer {
    pub(crate) expires: u64,
}

/// Tells whether a file of a gated repo is open to all.
fn is_open(path: &str) -> bool {
    matches!(path, "README.md" | ".gitattributes")
}

pub(crate) fn resolve(shared: &Shared, repo: &RepoState, signer: &Signer, ask: &Ask, revision: &str, path: &str) -> Answer {
    // The gate comes before the revision and the file are looked for.
    if !repo.is_read_by(&ask.caller) && !is_open(path) {
        return errors::gated(Form::Text, repo, &ask.caller);
    }
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Text, revision);
    };
    let Some(entry) = commit.files.get(path) else {
        return errors::no_entry(&commit.id);
    };
    match &entry.lfs {
        Some(lfs) => large(shared, repo, signer, ask, &commit.id, path, entry, lfs),
        None if repo.gated || !shared.settings.resolve_cache => small(ask, &commit.id, path, entry),
        None => to_cache(shared, repo, ask, &commit.id, path, entry),
    }
}

pub(crate) fn resolve_cache(shared: &Shared, repo: &RepoState, signer: &Signer, ask: &Ask, commit: &str, path: &str) -> Answer {
    if !repo.is_read_by(&ask.caller) && !is_open(path) {
        return errors::gated(Form::Text, repo, &ask.caller);
    }
    let Some(commit) = repo.commits.get(commit) else {
        return errors::no_revision(Form::Text, commit);
    };
    let Some(entry) = commit.files.get(path) else {
        return errors::no_entry(&commit.id);
    };
    match &entry.lfs {
        Some(lfs) => large(shared, repo, signer, ask, &commit.id, path, entry, lfs),
        None => small(ask, &commit.id, path, entry),
    }
}

/// Answers with what git holds: the file, or the pointer of one in LFS.
pub(crate) fn raw(repo: &RepoState, ask: &Ask, revision: &str, path: &str) -> Answer {
    if !repo.is_read_by(&ask.caller) && !is_open(path) {
        return errors::gated(Form::Text, repo, &ask.caller);
    }
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Text, revision);
    };
    let Some(entry) = commit.files.get(path) else {
        return errors::no_entry(&commit.id);
    };
    let content = match &entry.lfs {
        Some(lfs) => Memory::holding(lfs.pointer.clone()),
        None => entry.content.clone(),
    };
    let etag = format!("\"{}\"", entry.blob_id);
    let mut answer = Answer::file(ask, &content, &etag, kind_of(path, entry.text || entry.lfs.is_some()));
    answer.compressible = true;
    answer.with("x-repo-commit", &commit.id).with("content-security-policy", "default-src 'none'; sandbox")
}

/// Sends a caller of a small public file on to the address that names its commit.
fn to_cache(shared: &Shared, repo: &RepoState, ask: &Ask, commit: &str, path: &str, entry: &Entry) -> Answer {
    let location = format!(
        "/api/resolve-cache/{}/{}/{commit}/{}?{}=&etag={}",
        repo.kind.plural(),
        repo.id,
        encode(path),
        encode(&ask.target()),
        encode(&format!("\"{}\"", entry.oid())),
    );
    let answer = Answer::redirect(307, &location)
        .with("x-repo-commit", commit)
        .with("accept-ranges", "bytes")
        .with("content-disposition", disposition(path, ask.says("download")))
        .with("x-hub-cache", "MISS");
    match shared.settings.linked_etag_on_307 {
        true => answer.with("x-linked-etag", format!("\"{}\"", entry.oid())),
        false => answer,
    }
}

fn small(ask: &Ask, commit: &str, path: &str, entry: &Entry) -> Answer {
    let etag = format!("\"{}\"", entry.oid());
    let mut answer = Answer::file(ask, &entry.content, &etag, kind_of(path, entry.text));
    answer.compressible = entry.text;
    answer
        .with("x-repo-commit", commit)
        .with("content-disposition", disposition(path, ask.says("download")))
        .with("vary", "Origin, Accept")
}

#[expect(clippy::too_many_arguments, reason = "one call with all that a location is made of")]
fn large(
    shared: &Shared,
    repo: &RepoState,
    signer: &Signer,
    ask: &Ask,
    commit: &str,
    path: &str,
    entry: &Entry,
    lfs: &Lfs,
) -> Answer {
    let token_route = format!("{}/api/{}/{}/xet-read-token/{commit}", shared.hub_url(), repo.kind.plural(), repo.id);
    let reconstruction = |hash: &str| format!("{}/cas/v1/reconstructions/{hash}", shared.cdn_url());
    let answer = match &lfs.xet_hash {
        Some(hash) if ask.method == "GET" && ask.header("accept").contains(FILEINFO) => {
            let info = json!({
                "hash": hash, "etag": lfs.sha256, "size": entry.size,
                "refreshUrl": token_route, "reconstructionUrl": reconstruction(hash),
            });
            Answer::plain(200, FILEINFO, info.to_string())
        }
        _ => Answer::redirect(302, &location(shared, repo, signer, ask, path, entry)),
    };
    let answer = answer
        .with("x-repo-commit", commit)
        .with("x-linked-size", entry.size.to_string())
        .with("x-linked-etag", format!("\"{}\"", lfs.sha256))
        .with("accept-ranges", "bytes")
        .with("cache-control", "no-store");
    let Some(hash) = &lfs.xet_hash else {
        return answer;
    };
    let link = format!("<{token_route}>; rel=\"xet-auth\", <{}>; rel=\"xet-reconstruction-info\"", reconstruction(hash));
    answer.with("x-xet-hash", hash).with("link", link)
}

pub(crate) fn location(shared: &Shared, repo: &RepoState, signer: &Signer, ask: &Ask, path: &str, entry: &Entry) -> String {
    let name = entry.cdn_name().unwrap_or_default();
    let user = match &ask.caller {
        Caller::Known(token) => user_of(token),
        _ => "public".to_owned(),
    };
    let shown = encode(&disposition(path, ask.says("download")));
    let common = format!("user_id={user}&response-content-disposition={shown}");
    let xet = entry.lfs.as_ref().is_some_and(|lfs| lfs.xet_hash.is_some());
    let (path, query) = match xet {
        true => (format!("/xet-bridge-us/{}/{name}", repo.object_id), format!("X-Xet-Cas-Uid={user}&{common}")),
        false => {
            let shards = (&repo.object_id[..2], &repo.object_id[2..4]);
            (format!("/repos/{}/{}/{}/{name}", shards.0, shards.1, repo.object_id), common)
        }
    };
    format!("{}{}", shared.cdn_url(), signed(&path, &query, signer.expires))
}

/// Returns the user a token belongs to: its own text without the customary prefix.
pub(crate) fn user_of(token: &str) -> String {
    token.trim_start_matches("hf_").to_owned()
}

fn disposition(path: &str, download: bool) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let way = if download { "attachment" } else { "inline" };
    let plain: String = name.chars().map(|c| if c.is_ascii() && c != '"' && !c.is_control() { c } else { '?' }).collect();
    format!("{way}; filename*=UTF-8''{}; filename=\"{plain}\";", encode(name))
}

fn kind_of(path: &str, text: bool) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        _ if text => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
