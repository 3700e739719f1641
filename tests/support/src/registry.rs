//! The registry interface of GGUF repos (`/v2/`), which llama.cpp, node-llama-cpp and Ollama speak.
//!
//! The contract says little of it: `ggufFile` is told to llama.cpp only, a layer's GET is a redirect to another host, 401 and 404
//! are as elsewhere. That the small parts lie on the CDN too is a guess; a mirror must not care.

use serde_json::{Value, json};

use crate::content::sha256_hex;
use crate::errors::{self, Form};
use crate::info::sibling;
use crate::repo::{Entry, RepoState};
use crate::resolve::{Signer, location};
use crate::respond::{Answer, Ask};
use crate::sign::signed;
use crate::state::Shared;

/// What the Hub takes for `latest`, if the repo has it.
const PREFERRED: &str = "Q4_K_M";
const TEXTS: [(&str, &str); 2] = [
    ("application/vnd.ollama.image.template", "{{ .System }} {{ .Prompt }}"),
    ("application/vnd.ollama.image.params", "{\"stop\":[\"<|end|>\"]}"),
];

pub(crate) fn manifest(repo: &RepoState, ask: &Ask, tag: &str) -> Answer {
    let refused = |message: &str| Answer::json(400, &json!({ "error": message })).with("x-error-message", message);
    let Some(commit) = repo.commit_at("main") else {
        return errors::no_revision(Form::Json, "main");
    };
    let models: Vec<(&String, &Entry)> = commit
        .files
        .iter()
        .filter(|(path, entry)| path.ends_with(".gguf") && !path.contains("mmproj") && entry.lfs.is_some())
        .map(|(path, entry)| (path, &**entry))
        .collect();
    let Some(first) = models.first() else {
        return refused("Repository is not GGUF or is not compatible with llama.cpp");
    };
    let named =
        |tag: &str| models.iter().find(|(path, _)| path.to_uppercase().ends_with(&format!("{}.GGUF", tag.to_uppercase())));
    let chosen = match tag {
        "latest" => named(PREFERRED).or(Some(first)),
        tag => named(tag),
    };
    let Some((path, entry)) = chosen else {
        return refused("The specified tag is not a valid quantization scheme. Please use another tag or \"latest\"");
    };
    let layer =
        |kind: &str, digest: &str, size: u64| json!({ "digest": format!("sha256:{digest}"), "mediaType": kind, "size": size });
    let text = |kind: &str, text: &str| layer(kind, &sha256_hex(text), text.len() as u64);
    let sha256 = entry.lfs.as_ref().map(|lfs| lfs.sha256.as_str()).unwrap_or_default();
    let mut layers: Vec<Value> = vec![layer("application/vnd.ollama.image.model", sha256, entry.size)];
    layers.extend(TEXTS.iter().map(|(kind, content)| text(kind, content)));
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": text("application/vnd.docker.container.image.v1+json", &config(repo)), "layers": layers,
    });
    if ask.header("user-agent").starts_with("llama-cpp") {
        manifest["ggufFile"] = sibling(path, entry, true, false);
    }
    Answer::json(200, &manifest)
}

/// Redirects to where the part lies.
pub(crate) fn layer(shared: &Shared, repo: &RepoState, signer: &Signer, ask: &Ask, digest: &str) -> Answer {
    let Some(commit) = repo.commit_at("main") else {
        return errors::no_revision(Form::Json, "main");
    };
    let is_it = |entry: &Entry| entry.lfs.as_ref().is_some_and(|lfs| lfs.sha256 == digest);
    if let Some((path, entry)) = commit.files.iter().find(|(_, entry)| is_it(entry)) {
        return Answer::redirect(307, &location(shared, repo, signer, ask, path, entry));
    }
    if text(repo, digest).is_none() {
        return Answer::json(404, &json!({ "error": "Blob not found" }));
    }
    let place = signed(&format!("/layers/{}/{digest}", repo.object_id), "", signer.expires);
    Answer::redirect(307, &format!("{}{place}", shared.cdn_url()))
}

/// Returns the text that lies at this path of the CDN.
pub(crate) fn text_at(shared: &Shared, path: &str) -> Option<String> {
    let (object_id, digest) = path.strip_prefix("/layers/")?.split_once('/')?;
    let state = shared.state();
    text(state.repos.values().find(|repo| repo.object_id == object_id)?, digest)
}

fn text(repo: &RepoState, digest: &str) -> Option<String> {
    let all = TEXTS.iter().map(|(_, text)| (*text).to_owned()).chain([config(repo)]);
    all.into_iter().find(|text| sha256_hex(text) == digest)
}

fn config(repo: &RepoState) -> String {
    json!({ "model_format": "gguf", "model_family": "llama", "os": "linux", "rootfs": repo.id }).to_string()
}
