//! `dingospeed ls`: what is kept, as a table, as JSON, or as names alone. Reads the directory; needs no server.

use super::{
    condition::Condition,
    counted, failed,
    inventory::{self, File, Peeks, Repo, Snapshot, Sum},
    table::{Table, ago},
};
use crate::{
    hub::{Oid, RepoId},
    store::{Pin, StoreError, View},
};
use globset::GlobMatcher;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    process::ExitCode,
    time::SystemTime,
};

/// What to list, and how.
#[derive(Debug)]
pub struct Ls {
    pub filter: Option<Filter>,
    pub conditions: Vec<Condition>,
    pub depth: Depth,
    pub sort: Sort,
    /// The other way round.
    pub reversed: bool,
    /// Repos at most.
    pub limit: Option<usize>,
    pub format: Format,
}

/// How deep the list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Repos,
    Revisions,
    Files,
}

/// Largest or latest first; names in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    Size,
    Used,
    #[default]
    Name,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Table,
    Json,
    Quiet,
}

/// Which repos: those whose `models/org/name` holds a text, or matches a pattern.
#[derive(Debug)]
pub enum Filter {
    Holds(String),
    Matches(GlobMatcher),
}

impl Filter {
    /// Reads a pattern if there is one of `*?[{` in it, else a text that is looked for, in whatever case.
    pub fn parse(text: &str) -> Result<Filter, String> {
        if !text.contains(['*', '?', '[', '{']) {
            return Ok(Filter::Holds(text.to_lowercase()));
        }
        let glob = globset::GlobBuilder::new(text).case_insensitive(true).literal_separator(false).build();
        glob.map(|glob| Filter::Matches(glob.compile_matcher())).map_err(|error| format!("FILTER {text}: {}", error.kind()))
    }

    pub(crate) fn admits(&self, id: &str) -> bool {
        match self {
            Filter::Holds(text) => id.to_lowercase().contains(text),
            // The kind need not be written.
            Filter::Matches(glob) => glob.is_match(id) || id.split_once('/').is_some_and(|(_, name)| glob.is_match(name)),
        }
    }
}

/// Prints the list to stdout.
pub fn run(view: &View, asked: &Ls) -> ExitCode {
    let printed = list(view, asked).map_err(|error| error.to_string()).and_then(|text| {
        // A reader that has seen enough (`| head`) is no fault.
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
            _ => Ok(()),
        }
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn list(view: &View, asked: &Ls) -> Result<String, StoreError> {
    let pins = view.pins()?;
    let now = SystemTime::now();
    let mut peeks = Peeks::new(view);
    let mut repos = Vec::new();
    for id in view.repos()? {
        if asked.filter.as_ref().is_none_or(|filter| filter.admits(&id.to_string())) {
            let repo = inventory::repo(view, &id, &pins, &mut peeks)?;
            if asked.conditions.iter().all(|condition| condition.holds(&repo, now)) {
                repos.push(repo);
            }
        }
    }
    let all = asked.filter.is_none() && asked.conditions.is_empty() && asked.limit.is_none_or(|limit| limit >= repos.len());
    sort(&mut repos, asked.sort);
    if asked.reversed {
        repos.reverse();
    }
    repos.truncate(asked.limit.unwrap_or(usize::MAX));
    Ok(match asked.format {
        Format::Quiet => quiet(&repos, asked.depth),
        Format::Json => format!("{}\n", json_of(&repos, asked.depth)),
        Format::Table => {
            let mut text = table(&repos, asked.depth, now);
            text.push_str(&summary(view, &repos, &peeks, all)?);
            text
        }
    })
}

/// Sorts on every level; where two are alike their names decide, which is the order they came in.
fn sort(repos: &mut [Repo], by: Sort) {
    fn level<T>(list: &mut [T], by: Sort, sum: impl Fn(&T) -> &Sum) {
        match by {
            Sort::Name => {}
            Sort::Size => list.sort_by_key(|one| std::cmp::Reverse(sum(one).allocated_len)),
            Sort::Used => list.sort_by_key(|one| std::cmp::Reverse(sum(one).read)),
        }
    }
    level(repos, by, |repo| &repo.sum);
    for repo in repos {
        level(&mut repo.commits, by, |snapshot| &snapshot.sum);
        for snapshot in &mut repo.commits {
            level(&mut snapshot.files, by, |file| &file.sum);
        }
    }
}

/// One line of the list.
struct Line<'a> {
    name: String,
    sum: &'a Sum,
    repo: &'a Repo,
    /// None when the line stands for the whole repo.
    snapshot: Option<&'a Snapshot>,
}

fn lines(repos: &[Repo], depth: Depth) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for repo in repos {
        if depth == Depth::Repos {
            lines.push(Line { name: repo.id.to_string(), sum: &repo.sum, repo, snapshot: None });
            continue;
        }
        for snapshot in &repo.commits {
            let name = format!("{}@{}", repo.id, snapshot.commit);
            if depth == Depth::Revisions {
                lines.push(Line { name, sum: &snapshot.sum, repo, snapshot: Some(snapshot) });
                continue;
            }
            lines.extend(snapshot.files.iter().map(|file| Line {
                name: format!("{name}/{}", file.path),
                sum: &file.sum,
                repo,
                snapshot: Some(snapshot),
            }));
        }
    }
    lines
}

fn quiet(repos: &[Repo], depth: Depth) -> String {
    lines(repos, depth).into_iter().map(|line| line.name + "\n").collect()
}

fn table(repos: &[Repo], depth: Depth, now: SystemTime) -> String {
    let files = depth == Depth::Files;
    let head = ["REPO", "ON DISK", "HAVE", "LAST READ", "FILES", "REFS"];
    let mut table = if files { Table::new(&["FILE", head[1], head[2], head[3]]) } else { Table::new(&head) };
    for Line { name, sum, repo, snapshot } in lines(repos, depth) {
        let have = if sum.complete { "complete".to_owned() } else { format!("{}%", sum.percent()) };
        let (size, read) = (HumanBytes(sum.allocated_len).to_string(), ago(sum.read, now));
        if files {
            table.row([name, size, have, read]);
            continue;
        }
        let mut refs: Vec<&str> = match snapshot {
            Some(snapshot) => snapshot.refs.iter().map(String::as_str).collect(),
            None => repo.commits.iter().flat_map(|snapshot| &snapshot.refs).map(String::as_str).collect(),
        };
        refs.extend(mark(repo, snapshot));
        table.row([name, size, have, read, sum.file_count.to_string(), refs.join(" ")]);
    }
    table.text()
}

/// What is said of the pins that hold a line.
fn mark(repo: &Repo, snapshot: Option<&Snapshot>) -> Option<&'static str> {
    match snapshot {
        Some(snapshot) => snapshot.pinned.then_some("(pinned)"),
        None if repo.pinned => Some("(pinned)"),
        None if repo.commits.iter().any(|snapshot| snapshot.pinned) => Some("(partly pinned)"),
        None if repo.pins.is_empty() => None,
        None => Some("(pinned: what is not here)"),
    }
}

/// The last line: what all takes together, and what no repo accounts for.
fn summary(view: &View, repos: &[Repo], peeks: &Peeks<'_>, all: bool) -> Result<String, StoreError> {
    let files = repos.iter().flat_map(|repo| &repo.commits).flat_map(|snapshot| &snapshot.files);
    // Each object once, whoever shares it.
    let listed: HashMap<Oid, u64> = files.map(|file| (file.oid, file.sum.allocated_len)).collect();
    let listed_len: u64 = listed.values().sum();
    let mut text = format!("\n{}, {} on disk", counted(repos.len() as u64, "repo"), HumanBytes(listed_len));
    if all {
        let linked: HashSet<_> = peeks.kept().map(|(oid, _)| *oid).collect();
        let (mut count, mut len) = (0_u64, 0);
        view.each_blob(|blob| {
            if !linked.contains(&blob.oid) {
                count += 1;
                len += blob.allocated_len;
            }
        })?;
        if count > 0 {
            let objects = counted(count, "object");
            text.push_str(&format!("; besides {objects} of {} that no repo listed here links to", HumanBytes(len)));
        }
    }
    text.push('\n');
    Ok(text)
}

/// Returns the list as JSON: an array of repos.
pub(crate) fn json_of(repos: &[Repo], depth: Depth) -> Value {
    let snapshot_of = |snapshot: &Snapshot| {
        let mut value = json!({
            "commit": snapshot.commit.as_str(), "refs": snapshot.refs, "pinned": snapshot.pinned, "files_present": snapshot.sum.file_count,
        });
        if depth == Depth::Files {
            value["files"] = snapshot.files.iter().map(json_of_file).collect();
        }
        with_sum(value, &snapshot.sum)
    };
    let repo_of = |repo: &Repo| {
        let mut value = json_of_repo(&repo.id, repo.pinned, &repo.pins, &repo.sum);
        if depth != Depth::Repos {
            value["revisions"] = repo.commits.iter().map(snapshot_of).collect();
        }
        value
    };
    repos.iter().map(repo_of).collect()
}

pub(crate) fn json_of_repo(id: &RepoId, pinned: bool, pins: &[Pin], sum: &Sum) -> Value {
    let kind = id.kind().as_str();
    let pins: Vec<String> = pins.iter().map(Pin::to_string).collect();
    let value = json!({
        "id": id.to_string(), "type": kind, "name": id.name(), "pinned": pinned, "pins": pins, "files_present": sum.file_count,
    });
    with_sum(value, sum)
}

pub(crate) fn json_of_file(file: &File) -> Value {
    with_sum(json!({ "path": file.path, "oid": file.oid.as_str() }), &file.sum)
}

fn with_sum(mut value: Value, sum: &Sum) -> Value {
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Some(map) = value.as_object_mut() {
        map.insert("bytes_on_disk".into(), sum.allocated_len.into());
        map.insert("size".into(), sum.size.into());
        map.insert("bytes_present".into(), sum.present_len.into());
        map.insert("complete".into(), sum.complete.into());
        map.insert("last_read".into(), sum.read.map(seconds).into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_text_or_a_pattern() {
        fn check(filter: &str, id: &str, expected: bool) {
            assert_eq!(Filter::parse(filter).unwrap().admits(id), expected, "{filter} {id}");
        }
        check("llama", "models/meta/Llama-3", true);
        check("datasets/", "datasets/squad", true);
        check("qwen", "models/meta/Llama-3", false);
        check("meta/*", "models/meta/Llama-3", true);
        check("datasets/*", "datasets/org/squad", true);
        check("*-3", "models/meta/llama-30", false);
        assert!(Filter::parse("[").is_err());
    }
}
