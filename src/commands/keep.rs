//! `dingospeed rm`, `gc`, `pin` and `unpin`: what is kept, changed by hand. A server that has the store is asked to do it.

use super::{counted, failed, ls::Format, table::Table};
use crate::{
    admin::{self, Answer, AskError, Evicted, Keeper, Removed, Request, WireScope},
    hub::{Commit, RepoId, Revision},
    store::{Limits, Pin, Scope, Store, View},
};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

/// A commit may be named by its first digits, no fewer than these, where that is plain.
const SHORT_LEN: usize = 7;

/// Repos, all of each or one revision.
#[derive(Debug)]
pub struct Chosen {
    pub named: Vec<(RepoId, Option<Revision>)>,
}

/// What to remove.
#[derive(Debug)]
pub struct Rm {
    pub chosen: Chosen,
    pub dry_run: bool,
    pub yes: bool,
    pub format: Format,
}

/// Removes repos. `find` gives the one who can do it, and is called once all questions are settled.
pub fn rm(view: &View, asked: &Rm, find: impl FnOnce() -> Result<Keeper, AskError>) -> ExitCode {
    ended(|| {
        let scopes = scopes(view, &asked.chosen)?;
        view.refuse_pinned(&scopes).map_err(text)?;
        let planned: Removed = (&view.removal(&scopes).map_err(text)?).into();
        let told = |word: &str, done: &Removed| match asked.format {
            Format::Table => println!("{} {}", word.replace('_', " "), removed(done)),
            Format::Json => println!("{}", json!({ word: done })),
            Format::Quiet => scopes.iter().for_each(|scope| println!("{}", name(scope))),
        };
        if asked.dry_run {
            told("would_remove", &planned);
            return Ok(());
        }
        if !asked.yes {
            confirm(&format!("remove {}?", removed(&planned)))?;
        }
        let request = Request::Remove { scopes: scopes.iter().map(WireScope::from).collect() };
        match find().and_then(|keeper| keeper.order(&request)).map_err(text)? {
            Answer::Removed(done) => told("removed", &done),
            other => return Err(strange(&other)),
        }
        Ok(())
    })
}

/// Runs an eviction pass, or has the server that has the store tell what one would take. Where none has it, a dry run looks for itself and
/// writes nothing; `limits` are those of this command's configuration.
pub fn gc(
    view: &View,
    dry_run: bool,
    format: Format,
    limits: &Limits,
    find: impl FnOnce() -> Result<Keeper, AskError>,
) -> ExitCode {
    let told = |word: &str, done: &Evicted| match format {
        Format::Table => println!("{} {}", word.replace('_', " "), evicted(done)),
        Format::Json => println!("{}", json!({ word: done })),
        Format::Quiet => {}
    };
    ended(|| {
        if dry_run {
            told("would_evict", &would_evict(view, limits)?);
            return Ok(());
        }
        match find().and_then(|keeper| keeper.order(&Request::Evict)).map_err(text)? {
            Answer::Evicted(done) => {
                told("evicted", &done);
                match done.reason {
                    Some(reason) if done.falls_short => {
                        Err(format!("eviction.{reason} is still passed: all else is pinned or in use"))
                    }
                    _ => Ok(()),
                }
            }
            other => Err(strange(&other)),
        }
    })
}

fn would_evict(view: &View, limits: &Limits) -> Result<Evicted, String> {
    if Store::holder(view.root()).is_some() {
        let why = match admin::ask(view.root(), &Request::WouldEvict) {
            Ok(Answer::WouldEvict(would)) => return Ok(would),
            // One of an earlier version, perhaps; or one that another user runs.
            Ok(Answer::Refused(why)) => why,
            Ok(other) => return Err(strange(&other)),
            Err(error) => error.to_string(),
        };
        eprintln!(
            "dingospeed: judged by the limits of this command, without what the server knows of use and of parts, for it does not tell: {why}"
        );
    }
    Ok((&view.would_pass(limits).map_err(text)?).into())
}

/// Pins repos, or lifts their pins.
pub fn pin(view: &View, chosen: &Chosen, lift: bool, format: Format) -> ExitCode {
    ended(|| {
        let pin = |(repo, revision): &(RepoId, Option<Revision>)| {
            Ok(Pin { repo: view.present(repo).map_err(text)?, revision: revision.clone() })
        };
        let pins: Vec<Pin> = chosen.named.iter().map(pin).collect::<Result<_, String>>()?;
        let (add, remove) = if lift { (&[][..], &pins[..]) } else { (&pins[..], &[][..]) };
        let kept = view.pins().map_err(text)?;
        if let Some(unknown) = remove.iter().find(|pin| !kept.contains(pin)) {
            let others: Vec<String> = kept.iter().filter(|pin| pin.repo == unknown.repo).map(Pin::to_string).collect();
            return Err(match others.is_empty() {
                true => format!("{unknown} is not pinned"),
                false => format!("{unknown} is not pinned; what is: {}", others.join(", ")),
            });
        }
        view.change_pins(add, remove).map_err(text)?;
        let word = if lift { "unpinned" } else { "pinned" };
        match format {
            Format::Table => pins.iter().for_each(|pin| println!("{word} {pin}")),
            Format::Json => println!("{}", json!({ word: pins.iter().map(json_of).collect::<Vec<_>>() })),
            Format::Quiet => pins.iter().for_each(|pin| println!("{pin}")),
        }
        for pin in add {
            if view.held(pin).map_err(text)?.is_empty() {
                eprintln!("dingospeed: nothing of {pin} is kept here yet; if it is named so, it stays once it is fetched");
            }
        }
        Ok(())
    })
}

/// Lists the pins, and how much each of them holds.
pub fn pins(view: &View, format: Format) -> ExitCode {
    ended(|| {
        let pins = view.pins().map_err(text)?;
        let held = |pin: &Pin| Ok(view.held(pin).map_err(text)?.len() as u64);
        let counts: Vec<u64> = pins.iter().map(held).collect::<Result<_, String>>()?;
        let counted_pins = || pins.iter().zip(&counts);
        match format {
            Format::Table if pins.is_empty() => eprintln!("nothing is pinned"),
            Format::Table => {
                let mut table = Table::new(&["PIN", "HOLDS"]);
                for (pin, count) in counted_pins() {
                    let holds = if *count == 0 { "nothing yet".to_owned() } else { counted(*count, "revision") };
                    table.row([pin.to_string(), holds]);
                }
                print!("{}", table.text());
            }
            Format::Json => {
                let json_of = |(pin, count): (&Pin, &u64)| {
                    let mut value = json_of(pin);
                    value["revisions_held"] = (*count).into();
                    value
                };
                println!("{}", json!({ "pins": counted_pins().map(json_of).collect::<Vec<_>>() }));
            }
            Format::Quiet => pins.iter().for_each(|pin| println!("{pin}")),
        }
        Ok(())
    })
}

/// As it was named: a pin of a branch goes with the branch.
fn json_of(pin: &Pin) -> Value {
    json!({ "id": pin.repo.to_string(), "revision": pin.revision.as_ref().map(Revision::as_str) })
}

/// Finds what was named; one that is not kept is a mistake, and then nothing is done.
pub(crate) fn scopes(view: &View, chosen: &Chosen) -> Result<Vec<Scope>, String> {
    let mut scopes = Vec::new();
    let mut unknown = Vec::new();
    for (name, revision) in &chosen.named {
        let repo = &view.present(name).map_err(text)?;
        let commits = view.commits(repo).map_err(text)?;
        let commit = match revision {
            None => None,
            Some(revision) => match view.resolve(repo, revision.as_str()).map_err(text)?.or(short(revision, &commits)) {
                Some(commit) if commits.contains(&commit) => Some(commit),
                _ => {
                    unknown.push(format!("{repo}@{revision}"));
                    continue;
                }
            },
        };
        if commits.is_empty() {
            unknown.push(repo.to_string());
        }
        scopes.push(Scope { repo: repo.clone(), commit });
    }
    if unknown.is_empty() {
        Ok(scopes)
    } else {
        Err(format!("not kept here: {}; `dingospeed ls --revisions` shows what is", unknown.join(", ")))
    }
}

/// Finds the one commit that begins so, as `export` and `load` print them.
fn short(revision: &Revision, commits: &[Commit]) -> Option<Commit> {
    let mut begin_so = commits.iter().filter(|commit| commit.as_str().starts_with(revision.as_str()));
    begin_so.next().copied().filter(|_| revision.as_str().len() >= SHORT_LEN && begin_so.next().is_none())
}

/// As it is named on the command line.
fn name(scope: &Scope) -> String {
    match scope.commit {
        Some(commit) => format!("{}@{commit}", scope.repo),
        None => scope.repo.to_string(),
    }
}

fn confirm(question: &str) -> Result<(), String> {
    if !io::stdin().is_terminal() {
        return Err(format!("{question} Say so with --yes"));
    }
    eprint!("{question} [y/N] ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(text)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err("nothing was removed".to_owned()) }
}

fn removed(removed: &Removed) -> String {
    let shared = match removed.objects_shared {
        0 => String::new(),
        count => format!("; {count} more stay, because other repos or revisions have them too"),
    };
    let (objects, links) = (counted(removed.objects, "object"), counted(removed.links, "link"));
    format!("{objects}, {} on disk, {links}{shared}", HumanBytes(removed.bytes))
}

fn evicted(evicted: &Evicted) -> String {
    let reason = evicted.reason.as_ref().map_or("no limit is passed".to_owned(), |reason| format!("by eviction.{reason}"));
    let parts = if evicted.parts > 0 { format!(" and {}", counted(evicted.parts, "part")) } else { String::new() };
    format!(
        "{} of {}{parts}, {} of {} on disk ({reason}; {} in use, {} pinned); {} of {} from quarantine; {} that led nowhere",
        evicted.objects,
        counted(evicted.kept_objects, "object"),
        HumanBytes(evicted.bytes),
        HumanBytes(evicted.kept_bytes),
        evicted.objects_in_use,
        evicted.objects_pinned,
        counted(evicted.quarantine_files, "file"),
        HumanBytes(evicted.quarantine_bytes),
        counted(evicted.links, "link"),
    )
}

fn strange(answer: &Answer) -> String {
    format!("the server answered something else: {answer:?}")
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn ended(done: impl FnOnce() -> Result<(), String>) -> ExitCode {
    match done() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}
