//! The Hub's own listener: which question goes to which room, what every answer carries, and the small endpoints.

use serde_json::json;

use crate::content::sha1_hex;
use crate::errors::{self, Form};
use crate::repo::RepoState;
use crate::resolve::{self, Signer, user_of};
use crate::respond::{Answer, Ask};
use crate::route::{RepoRoute, Route, What};
use crate::state::{Caller, Found, Shared, State};
use crate::{info, registry, search, tree};

const EXPOSED: &str = "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,\
                       Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash";
/// How long a rate-limit window still runs, as told; it never ends by itself.
const WINDOW_LEFT_SECONDS: u64 = 258;

pub(crate) fn answer(shared: &Shared, ask: &Ask) -> Answer {
    let mut state = shared.state();
    let route = Route::parse(&ask.path, |kind, id| state.knows(kind, id));
    let (class, limit) = class_of(&route, &ask.caller);
    let quota = state.quotas.entry(class).or_default();
    quota.used += 1;
    let limit = quota.max.unwrap_or(limit);
    let exceeded = quota.max.is_some_and(|max| quota.used > max);
    // Without a quota nothing runs out, and a client that believes these numbers must not slow down either.
    let left = limit.saturating_sub(quota.used).max(if quota.max.is_some() { 0 } else { limit / 2 });
    let answer = if exceeded { errors::too_many() } else { routed(shared, &mut state, ask, route) };
    drop(state);
    dressed(ask, answer)
        .with("ratelimit", format!("\"{class}\";r={left};t={WINDOW_LEFT_SECONDS}"))
        .with("ratelimit-policy", format!("\"fixed window\";\"{class}\";q={limit};w=300"))
}

fn class_of(route: &Route, caller: &Caller) -> (&'static str, u64) {
    let known = matches!(caller, Caller::Known(_));
    match route {
        Route::Repo(RepoRoute { what: What::Resolve { .. } | What::ResolveCache { .. } | What::Raw { .. }, .. }) => {
            ("resolvers", if known { 5000 } else { 3000 })
        }
        Route::Repo(route) if !route.what.is_api() => ("pages", if known { 200 } else { 100 }),
        Route::Unknown(false) => ("pages", if known { 200 } else { 100 }),
        _ => ("api", if known { 1000 } else { 500 }),
    }
}

/// Adds what every answer of the Hub carries.
fn dressed(ask: &Ask, answer: Answer) -> Answer {
    let id = sha1_hex(format!("{}{}", ask.target(), ask.header("x-amzn-trace-id")));
    let mut answer = answer
        .with("x-powered-by", "huggingface-moon")
        .with("x-request-id", format!("Root=1-{}-{}", &id[..8], &id[8..32]))
        .with("cross-origin-opener-policy", "same-origin")
        .with("referrer-policy", "strict-origin-when-cross-origin")
        .with("access-control-allow-origin", "https://huggingface.co")
        .with("access-control-max-age", "86400")
        .with("access-control-expose-headers", EXPOSED);
    if !answer.headers.contains_key("vary") {
        answer.set("vary", "Origin");
    }
    if ask.caller == Caller::Anonymous {
        answer.set("x-hf-warning", "unauthenticated; You are sending unauthenticated requests to the HF Hub.");
    }
    answer.fresh_for(ask).gzipped_for(ask)
}

fn routed(shared: &Shared, state: &mut State, ask: &Ask, route: Route) -> Answer {
    let form = match &route {
        Route::Repo(route) if !route.what.is_api() && route.what != What::Other(true) => Form::Text,
        Route::Unknown(false) => Form::Text,
        _ => Form::Json,
    };
    if route == Route::Harnesses {
        return harnesses();
    }
    if ask.caller == Caller::Bad {
        return errors::unauthenticated(form);
    }
    let posts = matches!(&route, Route::Repo(RepoRoute { what: What::PathsInfo(_), .. }));
    if ask.is_read() == posts {
        return errors::no_endpoint(form);
    }
    match route {
        Route::Repo(RepoRoute { what: What::ResolveCache { .. }, .. }) if !shared.settings.resolve_cache => {
            errors::no_endpoint(Form::Json)
        }
        Route::Repo(route) => of_repo(shared, state, ask, route, form),
        Route::List(kind) => search::list(shared, state, ask, kind),
        Route::Whoami => whoami(ask),
        Route::Telemetry => Answer::plain(200, "text/plain; charset=utf-8", ""),
        Route::Harnesses | Route::Unknown(_) => errors::no_endpoint(form),
    }
}

fn of_repo(shared: &Shared, state: &mut State, ask: &Ask, route: RepoRoute, form: Form) -> Answer {
    let signer = Signer { expires: state.now() + state.signature_life.as_secs() };
    // Whether a moved name may be told is for the repo it leads to to say.
    let mut moved = None;
    if let Found::Moved(id) = state.find(route.kind, &route.id) {
        moved = Some(id);
    }
    let Found::Repo(repo) = state.find(route.kind, moved.as_deref().unwrap_or(&route.id)) else {
        return errors::no_repo(form, &ask.caller);
    };
    if !repo.is_seen_by(&ask.caller) {
        return errors::no_repo(form, &ask.caller);
    }
    if let Some(id) = moved {
        let query = if ask.query.is_empty() { String::new() } else { format!("?{}", ask.query) };
        return Answer::redirect(307, &format!("{}{id}{}{query}", route.before, route.after));
    }
    if repo.disabled {
        return errors::disabled(form);
    }
    repo.seal_first();
    let repo: &RepoState = repo;
    match &route.what {
        What::Resolve { revision, path } => resolve::resolve(shared, repo, &signer, ask, revision, path),
        What::ResolveCache { commit, path } => resolve::resolve_cache(shared, repo, &signer, ask, commit, path),
        What::Raw { revision, path } => resolve::raw(repo, ask, revision, path),
        What::Info => info::info(repo, ask, "main"),
        What::Revision(revision) => info::info(repo, ask, revision),
        What::Tree { revision, path } => tree::tree(shared, repo, ask, revision, path),
        What::PathsInfo(revision) => tree::paths_info(repo, ask, revision),
        What::Refs => info::refs(repo, ask),
        What::Commits(revision) => info::commits(shared, repo, ask, revision),
        What::AuthCheck if !repo.is_read_by(&ask.caller) => errors::gated(Form::Json, repo, &ask.caller),
        What::AuthCheck => Answer::text(200, "OK"),
        What::XetReadToken(_) if !repo.is_read_by(&ask.caller) => errors::gated(Form::Json, repo, &ask.caller),
        What::XetReadToken(revision) => xet_read_token(shared, repo, &signer, revision),
        What::Manifest(_) | What::Layer(_) if !repo.is_read_by(&ask.caller) => errors::gated(Form::Json, repo, &ask.caller),
        What::Manifest(tag) => registry::manifest(repo, ask, tag),
        What::Layer(digest) => registry::layer(shared, repo, &signer, ask, digest),
        What::Page => Answer::html(200, format!("<!doctype html><title>{}</title>", repo.id)),
        What::Other(_) => errors::no_endpoint(form),
    }
}

fn xet_read_token(shared: &Shared, repo: &RepoState, signer: &Signer, revision: &str) -> Answer {
    let Some(commit) = repo.commit_at(revision) else {
        return errors::no_revision(Form::Json, revision);
    };
    let cas = format!("{}/cas", shared.cdn_url());
    let token = format!("xet_{}", sha1_hex(&commit.id));
    Answer::json(200, &json!({ "casUrl": cas, "accessToken": token, "exp": signer.expires }))
        .with("x-xet-cas-url", &cas)
        .with("x-xet-access-token", &token)
        .with("x-xet-token-expiration", signer.expires.to_string())
        .with("cache-control", "no-store")
}

fn whoami(ask: &Ask) -> Answer {
    let Caller::Known(token) = &ask.caller else {
        return errors::unauthenticated(Form::Json);
    };
    let user = user_of(token);
    Answer::json(
        200,
        &json!({
            "type": "user", "id": &sha1_hex(&user)[..24], "name": user, "fullname": user, "email": format!("{user}@example.org"),
            "emailVerified": true, "isPro": false, "orgs": [],
            "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": "read" } },
        }),
    )
}

fn harnesses() -> Answer {
    let list =
        json!({ "standardEnvVars": ["AI_AGENT", "AGENT"], "harnesses": { "fake-agent": { "envVars": { "FAKE_AGENT": "*" } } } });
    Answer::json(200, &list).with("cache-control", "public, max-age=3600")
}
