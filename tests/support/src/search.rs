//! The lists `/api/models`, `/api/datasets` ...: what a caller may see, filtered, page by page.

use serde_json::{Value, json};

use crate::info::{described, narrowed, next_link};
use crate::repo::{Kind, RepoState};
use crate::respond::{Answer, Ask};
use crate::state::{Shared, State};
use crate::tree::{cursor, position};

/// What a list leaves out unless it is asked for everything.
const ONLY_IN_FULL: [&str; 7] = ["author", "sha", "lastModified", "siblings", "spaces", "usedStorage", "xetEnabled"];

pub(crate) fn list(shared: &Shared, state: &mut State, ask: &Ask, kind: Kind) -> Answer {
    let page_len = ask.number("limit").unwrap_or(shared.settings.page_len).clamp(1, 1000);
    let start = ask.param("cursor").map_or(Some(0), |cursor| position(&cursor));
    let Some(start) = start else {
        return Answer::json(400, &json!({ "error": "Invalid cursor" }));
    };
    let params = ask.params();
    let mut found: Vec<&mut RepoState> = state
        .repos
        .values_mut()
        .filter(|repo| repo.kind == kind && repo.is_seen_by(&ask.caller) && fits(repo, &params))
        .collect();
    let full = ask.says("full");
    let expansions = ask.expansions();
    let total = found.len();
    let page: Vec<Value> = found.iter_mut().skip(start).take(page_len).map(|repo| told(repo, full, &expansions)).collect();
    let answer = Answer::json(200, &json!(page));
    let next = start.saturating_add(page_len);
    if next >= total {
        return answer;
    }
    answer.with("link", next_link(shared, ask, &[("limit", page_len.to_string()), ("cursor", cursor(next))]))
}

fn fits(repo: &RepoState, params: &[(String, String)]) -> bool {
    params.iter().all(|(name, value)| match name.as_str() {
        "search" => repo.id.to_lowercase().contains(&value.to_lowercase()),
        "author" => repo.id.split_once('/').is_some_and(|(author, _)| author == value),
        "filter" => repo.labels.contains(value),
        _ => true,
    })
}

fn told(repo: &mut RepoState, full: bool, expansions: &[String]) -> Value {
    repo.seal_first();
    let Some(commit) = repo.commit_at("main") else {
        return json!({ "id": repo.id });
    };
    let mut fields = described(repo, &commit, false, true);
    if !full && expansions.is_empty() {
        fields.retain(|name, _| !ONLY_IN_FULL.contains(&name.as_str()));
    }
    narrowed(fields, expansions)
}
