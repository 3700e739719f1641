//! What is asked of the panel: bodies and queries, read and checked.

use super::guard::Rights;
use super::shelf::{self, Sort};
use super::{LIMIT, LIMIT_MAX};
use crate::commands::keep::Chosen;
use crate::commands::ls::Filter;
use crate::hub::{Commit, HubError, RepoId, RepoKind, Revision};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;

/// The body of a request that names repos, each with `@revision` if it is to have one of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    repos: Vec<String>,
    revision: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Evict {
    #[serde(default)]
    pub(super) dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedPull {
    pub(super) repo: String,
    pub(super) revision: Option<String>,
    #[serde(default)]
    pub(super) include: Vec<String>,
    #[serde(default)]
    pub(super) exclude: Vec<String>,
    /// Of the Hub, for gated and private repos.
    pub(super) token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    pub(super) id: u64,
}

/// What a request says beside its path.
pub(super) struct Ask<'a> {
    pub(super) query: HashMap<String, String>,
    pub(super) body: &'a Bytes,
}

impl Ask<'_> {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, HubError> {
        serde_json::from_slice(self.body)
            .map_err(|error| HubError::bad_request(format!("the body is not what is wanted here: {error}")))
    }

    pub(super) fn word(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, HubError> {
        match self.word(name) {
            "" => Ok(None),
            word => word.parse().map(Some).map_err(|_| HubError::bad_request(format!("{name} is not a number: {word}"))),
        }
    }

    pub(super) fn repo(&self) -> Result<RepoId, HubError> {
        repo_of(self.word("id"))
    }

    fn span(&self) -> Result<(usize, usize), HubError> {
        Ok((self.number("offset")?.unwrap_or(0), self.number("limit")?.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)))
    }

    pub(super) fn wanted(&self, rights: Rights) -> Result<shelf::Wanted, HubError> {
        let (offset, limit) = self.span()?;
        let filter = Some(self.word("search")).filter(|text| !text.is_empty()).map(Filter::parse).transpose();
        let kind = match self.word("type") {
            "" => None,
            word => Some(
                RepoKind::parse(word)
                    .ok_or_else(|| HubError::bad_request(format!("type is `{word}`, and not model, dataset, space or kernel")))?,
            ),
        };
        let sort = match self.word("sort") {
            "" | "name" => Sort::Name,
            "size" => Sort::Size,
            "used" => Sort::Used,
            "hits" => Sort::Hits,
            "complete" => Sort::Complete,
            word => return Err(HubError::bad_request(format!("sort is `{word}`, and not name, size, used, hits or complete"))),
        };
        let reversed = match self.word("order") {
            "" => false,
            "reversed" => true,
            word => return Err(HubError::bad_request(format!("order is `{word}`, and not `reversed` or left out"))),
        };
        let open_only = rights != Rights::Admin;
        Ok(shelf::Wanted { filter: filter.map_err(HubError::bad_request)?, kind, open_only, sort, reversed, offset, limit })
    }
}

/// Which files of a repo are wanted.
pub(super) struct FilesWanted {
    pub(super) commit: Commit,
    /// In lower case.
    pub(super) search: String,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

impl FilesWanted {
    pub(super) fn read(ask: &Ask<'_>) -> Result<FilesWanted, HubError> {
        let commit = Commit::parse(ask.word("commit")).ok_or_else(|| HubError::bad_request("commit is not 40 hex digits"))?;
        let (offset, limit) = ask.span()?;
        Ok(FilesWanted { commit, search: ask.word("search").to_lowercase(), offset, limit })
    }
}

impl Named {
    pub(super) fn chosen(self) -> Result<(Chosen, bool), HubError> {
        if self.repos.is_empty() {
            return Err(HubError::bad_request("repos is empty: name at least one, such as models/org/name"));
        }
        let revision = self.revision.filter(|text| !text.is_empty()).map(|text| Revision::parse(&text)).transpose()?;
        let named = |text: &String| match text.split_once('@') {
            Some((repo, own)) => Ok((repo_of(repo)?, Some(Revision::parse(own)?))),
            None => Ok((repo_of(text)?, revision.clone())),
        };
        let named = self.repos.iter().map(named).collect::<Result<_, HubError>>()?;
        Ok((Chosen { named }, self.dry_run))
    }
}

/// Reads `models/org/name`. The kind is spelled out, so that nothing is removed that was meant otherwise.
pub(super) fn repo_of(text: &str) -> Result<RepoId, HubError> {
    let parsed = text.split_once('/').and_then(|(kind, name)| Some((RepoKind::from_plural(kind)?, name)));
    let (kind, name) = parsed.ok_or_else(|| {
        HubError::bad_request(format!("`{text}` is no repo: write models/org/name, or datasets/, spaces/ or kernels/"))
    })?;
    Ok(RepoId::parse(kind, name)?)
}

pub(super) fn query(text: &str) -> HashMap<String, String> {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}
