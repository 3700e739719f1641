//! Names of repos, orders, formats: single arguments read.

use super::{
    line::{Kind, Named, Shown},
    mistakes::Mistakes,
    settings::noted,
};
use crate::{
    commands::{
        keep::Chosen,
        ls::{Format, Sort},
    },
    hub::{RepoId, RepoKind, Revision},
};
use std::{fs, io, path::Path};

impl Shown {
    pub(super) fn format(&self) -> Format {
        match self {
            Shown { quiet: true, .. } => Format::Quiet,
            Shown { json: true, .. } => Format::Json,
            Shown { format, .. } => (*format).into(),
        }
    }
}

impl Named {
    pub(super) fn read(&self, mistakes: &mut Mistakes) -> Chosen {
        let read = |text: &String| match text.contains('@') {
            true => repo_at(self.kind, text, "").map(|(repo, revision)| (repo, Some(revision))),
            false => repo(self.kind, text).map(|repo| (repo, None)),
        };
        let mut named: Vec<_> = self.names.iter().filter_map(|text| noted(read(text), mistakes)).collect();
        if let Some(revision) = self.revision.as_ref().and_then(|revision| noted(Revision::parse(revision), mistakes)) {
            for (_, own) in &mut named {
                own.get_or_insert_with(|| revision.clone());
            }
        }
        Chosen { named }
    }
}

/// Reads the order of a list, and whether it is the other way round than usual: the largest and the latest come first, names in theirs.
pub(super) fn order(text: &str) -> Result<(Sort, bool), String> {
    let (key, way) = text.split_once(':').unwrap_or((text, ""));
    let (sort, usual) = match key {
        "size" => (Sort::Size, "desc"),
        "used" | "accessed" => (Sort::Used, "desc"),
        "name" => (Sort::Name, "asc"),
        _ => return Err(format!("--sort `{text}`: write size, used (or accessed) or name, perhaps with :asc or :desc")),
    };
    match way {
        "" | "asc" | "desc" => Ok((sort, !way.is_empty() && way != usual)),
        _ => Err(format!("--sort `{text}`: after the colon write asc or desc")),
    }
}

/// Reads `owner/name` of the kind that --type says, or `datasets/owner/name`, which is how `ls` prints it and the Hub's
/// addresses are made.
pub(super) fn repo(kind: Option<Kind>, text: &str) -> Result<RepoId, String> {
    let told = text.split_once('/').and_then(|(word, name)| Some((RepoKind::from_plural(word)?, name)));
    let repo = match (kind, told) {
        // Three parts are no name: the first one tells the kind again, and must be right.
        (Some(kind), Some((told, name))) if name.contains('/') && RepoKind::from(kind) == told => RepoId::parse(told, name),
        (Some(kind), Some((told, name))) if name.contains('/') => {
            return Err(format!("`{text}` is a {told} by its name, but --type says {}", RepoKind::from(kind)));
        }
        (None, Some((kind, name))) => RepoId::parse(kind, name),
        (kind, _) => RepoId::parse(kind.unwrap_or(Kind::Model).into(), text),
    };
    repo.map_err(|error| error.to_string())
}

/// Reads a repo as [`repo`] does, with the `@revision` behind it if there is one.
pub(super) fn repo_at(kind: Option<Kind>, text: &str, revision: &str) -> Result<(RepoId, Revision), String> {
    let (name, revision) = text.split_once('@').unwrap_or((text, revision));
    let revision = Revision::parse(revision).map_err(|error| format!("{text}: {error}"))?;
    Ok((repo(kind, name)?, revision))
}

/// Reads the repos that a file names; its mistakes are told with their lines.
pub(super) fn read_list(
    path: &Path,
    kind: Option<Kind>,
    revision: &str,
    repos: &mut Vec<(RepoId, Revision)>,
    mistakes: &mut Mistakes,
) {
    let shown = path.display();
    let text = match path == Path::new("-") {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let Some(text) = noted(text.map_err(|error| format!("--list {shown}: {error}")), mistakes) else { return };
    let before = repos.len() + mistakes.len();
    // PowerShell's `>` begins a file with a mark of its encoding.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        // No name holds a `#`; a revision might, but not after a space.
        let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
        if !line.is_empty() && !line.starts_with('#') {
            let read = repo_at(kind, line, revision).map_err(|error| format!("--list {shown}:{}: {error}", index + 1));
            repos.extend(noted(read, mistakes));
        }
    }
    if repos.len() + mistakes.len() == before {
        mistakes.push(format!("--list {shown}: it names no repository"));
    }
}
