//! The Hub's refusals, word for word (contract, table 10.4).

use serde_json::json;

use crate::repo::RepoState;
use crate::respond::Answer;
use crate::state::Caller;

/// Which form the body has: JSON under `/api/`, text elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Text,
}

fn say(form: Form, status: u16, message: &str) -> Answer {
    let answer = match form {
        Form::Json => Answer::json(status, &json!({ "error": message })),
        Form::Text => Answer::text(status, message.to_owned()),
    };
    answer.with("x-error-message", message)
}

/// Refuses an unknown caller; there is no error code, and clients must guess what was meant.
pub(crate) fn unauthenticated(form: Form) -> Answer {
    say(form, 401, "Invalid username or password.")
        .with("www-authenticate", "Bearer realm=\"Authentication required\", charset=\"UTF-8\"")
}

/// Answers for a repo that is missing or hidden; the two look the same.
pub(crate) fn no_repo(form: Form, caller: &Caller) -> Answer {
    match caller {
        Caller::Known(_) => say(form, 404, "Repository not found").with("x-error-code", "RepoNotFound"),
        _ => unauthenticated(form),
    }
}

pub(crate) fn no_revision(form: Form, revision: &str) -> Answer {
    say(form, 404, &format!("Invalid rev id: {revision}")).with("x-error-code", "RevisionNotFound")
}

pub(crate) fn no_entry(commit: &str) -> Answer {
    say(Form::Text, 404, "Entry not found").with("x-error-code", "EntryNotFound").with("x-repo-commit", commit)
}

pub(crate) fn no_path(path: &str, revision: &str) -> Answer {
    say(Form::Json, 404, &format!("{path} does not exist on \"{revision}\"")).with("x-error-code", "EntryNotFound")
}

pub(crate) fn gated(form: Form, repo: &RepoState, caller: &Caller) -> Answer {
    let (noun, id, page) = (repo.kind.noun(), &repo.id, repo.kind.prefix() + &repo.id);
    let (status, message) = match caller {
        Caller::Known(_) => (
            403,
            format!(
                "Access to {noun} {id} is restricted and you are not in the authorized list. \
                 Visit https://huggingface.co/{page} to ask for access."
            ),
        ),
        _ => (
            401,
            format!(
                "Access to {noun} {id} is restricted. You must have access to it and be authenticated to access it. \
                 Please log in."
            ),
        ),
    };
    say(form, status, &message).with("x-error-code", "GatedRepo")
}

pub(crate) fn disabled(form: Form) -> Answer {
    say(form, 403, "Access to this resource is disabled.")
}

pub(crate) fn too_many() -> Answer {
    let text = "<!doctype html><h1>429</h1><p>We had to rate limit you. To continue using our service, please log in.</p>";
    let mut answer = Answer::html(429, text);
    answer.headers.remove("etag");
    answer
}

/// Answers for a path that is no endpoint.
pub(crate) fn no_endpoint(form: Form) -> Answer {
    match form {
        Form::Json => Answer::json(404, &json!({ "error": "Sorry, we can't find the page you are looking for." })),
        Form::Text => Answer::html(404, "<!doctype html><h1>404</h1><p>Sorry, we can't find the page you are looking for.</p>"),
    }
}
