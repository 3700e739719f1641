//! Says what an import found and did: a table for people, one JSON value, or the names of what is here now.

use super::{Plan, Taken, counted, found::Bytes, found::Found};
use crate::{
    commands::{ls::Format, table::Table},
    hub::Oid,
};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};

/// What came of each object that was wanted.
pub(super) struct Done {
    pub(super) outcome: HashMap<Oid, Result<Taken, String>>,
    pub(super) took: Duration,
}

impl Done {
    fn taken(&self) -> impl Iterator<Item = &Taken> {
        self.outcome.values().filter_map(|taken| taken.as_ref().ok())
    }

    fn shared_len(&self) -> u64 {
        self.taken().filter(|taken| taken.shared).map(|taken| taken.size).sum()
    }
}

/// Prints to stdout; without `done` nothing was imported, only looked at.
pub(super) fn print(plan: &Plan, done: Option<&Done>, format: Format) {
    match format {
        Format::Table => print!("{}", for_people(plan, done)),
        Format::Json => println!("{}", json_of(plan, done)),
        Format::Quiet => {
            let is_whole = |row: &&Row<'_>| row.file_count > 0 && row.failed_count == 0;
            let rows = rows(plan, done);
            rows.iter().filter(is_whole).for_each(|row| println!("{}@{}", row.found.repo, row.found.commit));
        }
    }
}

/// One commit.
struct Row<'a> {
    found: &'a Found,
    /// Whole files there, of how many that are known.
    file_count: usize,
    known_count: usize,
    len: u64,
    failed_count: usize,
    state: &'static str,
}

fn rows<'a>(plan: &'a Plan, done: Option<&Done>) -> Vec<Row<'a>> {
    let row = |found: &'a Found| {
        let files: Vec<_> = found.files.values().filter(|file| file.bytes != Bytes::Absent).collect();
        let has_failed = |oid: &Oid| done.is_some_and(|done| matches!(done.outcome.get(oid), Some(Err(_))));
        let failed_count = files.iter().filter(|file| has_failed(&file.oid)).count();
        let new_count = files.iter().filter(|file| !plan.here.contains_key(&file.oid)).count();
        let state = match (files.len(), failed_count, new_count) {
            (0, ..) => "nothing whole there",
            (_, 0, 0) => "here before",
            (_, 0, _) if done.is_none() => "to be imported",
            (_, 0, _) => "imported",
            _ => "failed",
        };
        let len = files.iter().map(|file| file.size).sum();
        let (file_count, known_count) = (files.len(), found.files.len());
        Row { found, file_count, known_count, len, failed_count, state }
    };
    plan.found.iter().map(row).collect()
}

/// Files that did not arrive, and those that were not tried, each with its name and the reason.
fn failures(plan: &Plan, done: Option<&Done>) -> Vec<(String, String)> {
    let mut failed = Vec::new();
    for found in &plan.found {
        for (path, file) in found.files.iter().filter(|(_, file)| file.bytes != Bytes::Absent) {
            if let Some(Err(why)) = done.and_then(|done| done.outcome.get(&file.oid)) {
                failed.push((format!("{}/{path}", found.name()), why.clone()));
            }
        }
    }
    failed
}

fn skipped(plan: &Plan) -> Vec<(String, String)> {
    let of = |found: &Found| found.skipped.iter().map(|(path, why)| (format!("{}/{path}", found.name()), why.clone())).collect();
    plan.found.iter().flat_map(|found| -> Vec<_> { of(found) }).collect()
}

fn for_people(plan: &Plan, done: Option<&Done>) -> String {
    let mut table = Table::new(&["REPO", "FILES", "SIZE", "STATE"]);
    for row in rows(plan, done) {
        let state = match row.failed_count {
            0 => row.state.to_owned(),
            count => format!("{count} of {} failed", row.file_count),
        };
        table.row([
            row.found.name(),
            format!("{} of {}", row.file_count, row.known_count),
            HumanBytes(row.len).to_string(),
            state,
        ]);
    }
    let mut text = table.text();
    text.push_str(&reasons("FAILED", &failures(plan, done)));
    text.push('\n');
    match done {
        None => text.push_str(&format!("would import {}\n", sum(plan.wanted.iter().map(|one| one.size)))),
        Some(done) => {
            let by = match done.shared_len() {
                0 => String::new(),
                len => format!(" ({} of it shared with the source, which takes no room)", HumanBytes(len)),
            };
            let (all, seconds) = (sum(done.taken().map(|taken| taken.size)), done.took.as_secs_f64());
            let here = counted(plan.here.len() as u64, "object");
            text.push_str(&format!("imported {all}{by} in {seconds:.1} s; {here} here before\n"));
        }
    }
    let skipped = skipped(plan);
    if !skipped.is_empty() {
        text.push_str(&reasons("SKIPPED", &skipped));
        text.push_str(&format!("{} skipped\n", counted(skipped.len() as u64, "file")));
    }
    text
}

/// A table of files and reasons, with an empty line before it; nothing for none.
fn reasons(head: &str, files: &[(String, String)]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[head, "WHY"]);
    files.iter().for_each(|(file, why)| table.row([file.clone(), why.clone()]));
    format!("\n{}", table.text())
}

fn json_of(plan: &Plan, done: Option<&Done>) -> Value {
    let repo = |row: &Row<'_>| {
        json!({
            "id": row.found.repo.to_string(),
            "commit": row.found.commit.as_str(),
            "files": row.file_count,
            "files_known": row.known_count,
            "files_failed": row.failed_count,
            "bytes": row.len,
            "state": row.state,
        })
    };
    let told = |files: Vec<(String, String)>| -> Vec<Value> {
        files.into_iter().map(|(file, why)| json!({ "file": file, "error": why })).collect()
    };
    let (word, sum) = match done {
        None => {
            let len: u64 = plan.wanted.iter().map(|one| one.size).sum();
            ("would_import", json!({ "objects": plan.wanted.len(), "bytes": len }))
        }
        Some(done) => {
            let len: u64 = done.taken().map(|taken| taken.size).sum();
            let (count, seconds) = (done.taken().count(), done.took.as_secs_f64());
            ("imported", json!({ "objects": count, "bytes": len, "bytes_shared": done.shared_len(), "seconds": seconds }))
        }
    };
    json!({
        word: sum,
        "objects_here_before": plan.here.len(),
        "repos": rows(plan, done).iter().map(repo).collect::<Vec<_>>(),
        "failed": told(failures(plan, done)),
        "skipped": told(skipped(plan)),
    })
}

fn sum(sizes: impl Iterator<Item = u64>) -> String {
    let (count, len) = sizes.fold((0, 0), |(count, len), size| (count + 1, len + size));
    format!("{}, {}", counted(count, "object"), HumanBytes(len))
}
