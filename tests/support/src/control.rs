//! The fake's own endpoints, `/__...` on the Hub's port, for tests that are not written in Rust. They are not logged.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::content::Memory;
use crate::gate::Gate;
use crate::log::{Call, Listener};
use crate::repo::{Entry, Kind};
use crate::respond::{Answer, Ask};
use crate::rules::{Action, Aim};
use crate::state::Shared;

use std::sync::Arc;

pub(crate) fn answer(shared: &Shared, ask: &Ask) -> Answer {
    let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
    let done = match (ask.path.as_str(), ask.method == Method::POST) {
        ("/__stats", false) => return Answer::json(200, &stats(shared)),
        ("/__log", false) => {
            return Answer::json(200, &json!(shared.log.calls().iter().map(Call::to_json).collect::<Vec<_>>()));
        }
        ("/__fault", true) => fault(shared, &body),
        ("/__release", true) => release(shared, &body),
        ("/__put", true) => put(shared, &body),
        ("/__clock", true) => advance(shared, &body),
        ("/__answer_all", true) => {
            shared.state().answer_all = body["status"].as_u64().map(|status| status as u16);
            Ok(())
        }
        ("/__reset", true) => {
            shared.log.clear();
            shared.rules.clear();
            shared.gates.lock().unwrap_or_else(|broken| broken.into_inner()).clear();
            shared.state().answer_all = None;
            shared.state().quotas.clear();
            Ok(())
        }
        _ => return Answer::json(404, &json!({ "error": "no such control" })),
    };
    match done {
        Ok(()) => Answer::json(200, &json!({ "ok": true })),
        Err(reason) => Answer::json(400, &json!({ "error": reason })),
    }
}

pub(crate) fn stats(shared: &Shared) -> Value {
    let of = |listener| {
        let counts = shared.log.counts(listener);
        json!({
            "requests": counts.requests.load(Relaxed), "bytes": counts.bytes.load(Relaxed),
            "running": counts.running.load(Relaxed), "running_max": counts.running_max.load(Relaxed),
            "connections_open": counts.connections_open.load(Relaxed),
            "connections_total": counts.connections_total.load(Relaxed),
        })
    };
    let leaks = shared
        .log
        .calls()
        .iter()
        .filter(|call| {
            call.listener == Listener::Cdn && !call.path.starts_with("/cas/") && call.headers.contains_key("authorization")
        })
        .count();
    json!({ "hub": of(Listener::Hub), "cdn": of(Listener::Cdn), "leaks": leaks })
}

fn fault(shared: &Shared, body: &Value) -> Result<(), String> {
    let text = |name: &str| body[name].as_str().ok_or(format!("`{name}` must be a string"));
    let number = |name: &str| body[name].as_u64().ok_or(format!("`{name}` must be a whole number"));
    let listener = match body["listener"].as_str() {
        None | Some("any") => None,
        Some("hub") => Some(Listener::Hub),
        Some("cdn") => Some(Listener::Cdn),
        Some(other) => return Err(format!("listener `{other}`: say hub, cdn or any")),
    };
    let method = match body["method"].as_str() {
        Some(name) => Some(Method::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?),
        None => None,
    };
    let aim = Aim {
        needle: text("match")?.to_owned(),
        listener,
        method,
        ranged: body["ranged"].as_bool().unwrap_or(false),
        after: body["after"].as_u64().unwrap_or(0),
        times: body["times"].as_u64(),
        chance: body["chance"].as_f64().map(|chance| (chance, body["seed"].as_u64().unwrap_or(0))),
    };
    let action = match text("kind")? {
        "cut_after" => Action::CutAfter { bytes: number("bytes")?, reset: false },
        "reset_after" => Action::CutAfter { bytes: number("bytes")?, reset: true },
        "short" => Action::Short { bytes: number("bytes")?, chunked: false },
        "short_chunked" => Action::Short { bytes: number("bytes")?, chunked: true },
        "longer" => Action::Longer(number("bytes")?),
        "flip" => Action::Flip(number("offset")?),
        "ignore_range" => Action::IgnoreRange,
        "wrong_content_range" => Action::WrongContentRange,
        "wrong_total" => Action::WrongTotal,
        "changed_etag" => Action::ChangedEtag,
        "hang_before_head" => Action::HangBeforeHead,
        "hang_after" => Action::HangAfter(number("bytes")?),
        "rate" | "trickle" => Action::Rate(number("bytes_per_second")?.max(1)),
        "latency" => Action::Latency(Duration::from_millis(number("ms")?)),
        "redirect_to" => Action::RedirectTo(text("url")?.to_owned()),
        "redirect_loop" => Action::RedirectLoop,
        "status" => Action::Status { code: number("code")? as u16, headers: headers(&body["headers"]) },
        "hold" => {
            let gate = Gate::new(&aim.needle);
            let barrier = gate.barrier();
            let name = text("name")?.to_owned();
            shared.gates.lock().unwrap_or_else(|broken| broken.into_inner()).insert(name, gate);
            match body["bytes"].as_u64() {
                Some(bytes) => Action::HoldAfter(bytes, barrier),
                None => Action::Hold(barrier),
            }
        }
        other => return Err(format!("kind `{other}` is not known")),
    };
    shared.rules.add(aim, action);
    Ok(())
}

fn headers(value: &Value) -> Vec<(String, String)> {
    let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    value.as_object().into_iter().flatten().filter_map(pair).collect()
}

fn release(shared: &Shared, body: &Value) -> Result<(), String> {
    let name = body["name"].as_str().ok_or("`name` must be a string")?;
    let gate = shared.gates.lock().unwrap_or_else(|broken| broken.into_inner()).remove(name);
    gate.map(drop).ok_or(format!("no gate `{name}`"))
}

/// Puts a text file and, if a message is given, commits.
fn put(shared: &Shared, body: &Value) -> Result<(), String> {
    let text = |name: &str| body[name].as_str().ok_or(format!("`{name}` must be a string"));
    let kind = Kind::of_plural(body["type"].as_str().unwrap_or("models")).ok_or("`type` is a plural, like models")?;
    let (id, path) = (text("repo")?, text("path")?);
    let content = Memory::holding(text("text")?.to_owned());
    let mut state = shared.state();
    let repo = state.repo(kind, id);
    let lfs = body["lfs"].as_bool().unwrap_or(false);
    let entry = if lfs { Entry::lfs(content, repo.xet, None) } else { Entry::regular(content) };
    let branch = body["branch"].as_str().unwrap_or("main");
    repo.stage(branch, path, Some(Arc::new(entry)));
    if let Some(message) = body["commit"].as_str() {
        repo.seal(branch, message);
    }
    Ok(())
}

fn advance(shared: &Shared, body: &Value) -> Result<(), String> {
    let seconds = body["seconds"].as_u64().ok_or("`seconds` must be a whole number")?;
    shared.state().ahead += Duration::from_secs(seconds);
    Ok(())
}
