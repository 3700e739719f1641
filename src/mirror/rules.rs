//! Which repos may be had, and which of them are kept: the operator's rules, by the name that is asked and the present one.

use super::{Answer, Mirror, MirrorError, on_worker};
use crate::config::{Pattern, Rules};
use crate::hub::{HubError, RepoId, Route};
use crate::source::Token;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Repos whose other names bear on whether they are kept.
pub(super) const NAMED_MAX: u64 = 100_000;

impl Mirror {
    /// The repo that a name leads to; refused when a rule is against either name.
    pub async fn present_name(&self, name: &RepoId, token: Option<&Token>) -> Result<RepoId, HubError> {
        let mut repo = self.names.confirmed(name, token).await;
        let allowed = &self.config.rules.fetch_allow;
        if repo == *name && !allowed.is_empty() && !any(allowed, &[name.to_string()]) {
            // It may be the short name of one that is allowed.
            repo = self.names.discovered(name, token).await;
        }
        self.rule(name, &repo).map(|()| repo)
    }

    /// The same without asking anybody: by what the questions since have taught.
    pub async fn known_name(&self, name: &RepoId) -> Result<RepoId, HubError> {
        let repo = self.names.present(name).await;
        self.rule(name, &repo).map(|()| repo)
    }

    fn rule(&self, name: &RepoId, repo: &RepoId) -> Result<(), HubError> {
        let rules = &self.config.rules;
        if rules.is_empty() {
            return Ok(());
        }
        let names = [name.to_string(), repo.to_string()];
        if let Some(key) = against(rules, &names) {
            return Err(HubError::against_rule(key, &names[0]));
        }
        let by_names = self.is_cacheable(&names);
        // Once denied by one of its names, it stays so.
        if by_names != self.is_cacheable(&names[1..]) && self.cacheable.get(repo) != Some(false) {
            self.cacheable.insert(repo.clone(), by_names);
        }
        Ok(())
    }

    /// Whether anything of a repo may be kept on the disk.
    pub(super) fn may_cache(&self, repo: &RepoId) -> bool {
        self.config.rules.is_empty() || self.cacheable.get(repo).unwrap_or_else(|| self.is_cacheable(&[repo.to_string()]))
    }

    /// Takes out of a search's results the repos that may not be had here.
    pub(super) async fn without_ruled_out(&self, route: &Route, mut answer: Answer) -> Result<Answer, MirrorError> {
        let rules = &self.config.rules;
        let Route::Search { kind } = *route else { return Ok(answer) };
        if answer.status != 200 || (rules.fetch_deny.is_empty() && rules.fetch_allow.is_empty()) {
            return Ok(answer);
        }
        let (rules, body) = (rules.clone(), answer.body.clone());
        let left = on_worker(body.len(), move || {
            let Ok(found) = serde_json::from_slice::<Vec<&RawValue>>(&body) else { return None };
            let may_be_had = |entry: &&RawValue| {
                let named = serde_json::from_str::<Named<'_>>(entry.get()).ok();
                let repo = named.and_then(|named| RepoId::parse(kind, &named.id).ok());
                // An entry without a name is no repo, whatever else it is.
                repo.is_none_or(|repo| against(&rules, &[repo.to_string()]).is_none())
            };
            let left: Vec<&str> = found.into_iter().filter(may_be_had).map(RawValue::get).collect();
            Some(Bytes::from(format!("[{}]", left.join(","))))
        });
        if let Some(left) = left.await? {
            // The tag was of all of them.
            answer.headers.retain(|(name, _)| name != "etag");
            answer.body = left;
        }
        Ok(answer)
    }

    fn is_cacheable(&self, names: &[String]) -> bool {
        let rules = &self.config.rules;
        !any(&rules.cache_deny, names) && (rules.cache_allow.is_empty() || any(&rules.cache_allow, names))
    }
}

/// The key of the rule that is against a repo with these names.
fn against(rules: &Rules, names: &[String]) -> Option<&'static str> {
    if any(&rules.fetch_deny, names) {
        return Some("rules.fetch_deny");
    }
    (!rules.fetch_allow.is_empty() && !any(&rules.fetch_allow, names)).then_some("rules.fetch_allow")
}

/// What a search says of a repo that matters here.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

fn any(patterns: &[Pattern], names: &[String]) -> bool {
    patterns.iter().any(|pattern| names.iter().any(|name| pattern.matches(name)))
}
