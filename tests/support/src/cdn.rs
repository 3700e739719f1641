//! The other origin: signed addresses to large files. It knows nothing of repos, commits and tokens.

use crate::registry;
use crate::repo::RepoState;
use crate::respond::{Answer, Ask, decode};
use crate::sign::{Verdict, verify};
use crate::state::Shared;

use std::sync::Arc;

use crate::repo::Entry;

/// What a CDN path names.
pub(crate) struct Object {
    /// `org/name/path`, for the log and the rules.
    pub(crate) file: String,
    entry: Arc<Entry>,
    /// The CDN's own entity tag, which is no sha256.
    etag: String,
}

pub(crate) fn object(shared: &Shared, path: &str) -> Option<Object> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (object_id, name) = match segments.as_slice() {
        ["xet-bridge-us", object_id, name] | ["repos", _, _, object_id, name] => (*object_id, *name),
        _ => return None,
    };
    let state = shared.state();
    let repo: &RepoState = state.repos.values().find(|repo| repo.object_id == object_id)?;
    let (path, entry) = repo.objects.get(name)?;
    let etag = match entry.lfs.as_ref()?.xet_hash.as_ref() {
        Some(hash) => format!("\"{hash}\""),
        // The form S3 gives to what was uploaded in parts.
        None => format!("\"{}-2\"", &name[..32.min(name.len())]),
    };
    Some(Object { file: format!("{}/{path}", repo.id), entry: entry.clone(), etag })
}

pub(crate) fn answer(shared: &Shared, ask: &Ask, object: Option<Object>) -> Answer {
    if ask.path.starts_with("/cas/") {
        // Whoever comes here followed a Xet signal; the log tells, and there is nothing to be had.
        return xml(404, "NotFound", "there is no CAS here");
    }
    if ask.headers.contains_key("authorization") {
        return xml(400, "InvalidArgument", "Only one auth mechanism allowed");
    }
    if !ask.is_read() {
        return xml(405, "MethodNotAllowed", "the resource is read only");
    }
    match verify(&ask.path, &ask.query, shared.state().now()) {
        Verdict::Good => {}
        Verdict::Expired => return xml(403, "AccessDenied", "Request has expired"),
        Verdict::Forged => return xml(403, "SignatureError", "the signature does not fit"),
    }
    if let Some(text) = registry::text_at(shared, &ask.path) {
        return Answer::plain(200, "application/octet-stream", text);
    }
    let Some(object) = object else {
        return xml(404, "NoSuchKey", "the key does not exist");
    };
    let shown = ask.query.split('&').find_map(|pair| pair.strip_prefix("response-content-disposition=")).map(decode);
    Answer::file(ask, &object.entry.content, &object.etag, "application/octet-stream")
        .with("content-disposition", shown.unwrap_or_default())
        .with("cache-control", "public, max-age=31536000")
        .with("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        .with("access-control-allow-origin", "*")
        .with("access-control-expose-headers", "ETag, Content-Range, Accept-Ranges, Content-Length")
        .with("x-hf-cdn-pop", "fake-hub-1")
}

fn xml(code: u16, name: &str, message: &str) -> Answer {
    let text =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{name}</Code><Message>{message}</Message></Error>");
    Answer::plain(code, "application/xml", text)
}
