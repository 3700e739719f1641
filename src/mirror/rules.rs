//! Which repos may be had, and which of them are kept: the operator's rules, by the name that is asked and the present one.

use super::Mirror;
use crate::config::Pattern;
use crate::hub::{HubError, RepoId};
use crate::source::Token;

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
        if any(&rules.fetch_deny, &names) {
            return Err(HubError::against_rule("rules.fetch_deny", &names[0]));
        }
        if !rules.fetch_allow.is_empty() && !any(&rules.fetch_allow, &names) {
            return Err(HubError::against_rule("rules.fetch_allow", &names[0]));
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

    fn is_cacheable(&self, names: &[String]) -> bool {
        let rules = &self.config.rules;
        !any(&rules.cache_deny, names) && (rules.cache_allow.is_empty() || any(&rules.cache_allow, names))
    }
}

fn any(patterns: &[Pattern], names: &[String]) -> bool {
    patterns.iter().any(|pattern| names.iter().any(|name| pattern.matches(name)))
}
