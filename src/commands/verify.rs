//! `dingospeed verify`: reads everything that is kept, block by block against its checksum and whole objects against their
//! names. Needs no lock: a server may go on beside it. What is found broken can be mended by whoever has the store.

use super::{counted, failed, ls::Format, progress::bar, table::Table};
use crate::{
    admin::{Answer, AskError, Keeper, MendedObject, Request},
    hub::{Oid, RepoId},
    store::{Finding, StoreError, View},
};
use indicatif::HumanBytes;
use serde_json::json;
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

/// More threads than this only make a disk seek.
const THREADS_MAX: usize = 64;

/// What to verify.
#[derive(Debug)]
pub struct Verify {
    /// None means everything.
    pub repos: Vec<RepoId>,
    pub repair: bool,
    pub format: Format,
}

/// What is wrong with one object.
struct Broken {
    oid: Oid,
    wrong: String,
    /// Set when repair was asked for.
    done: Option<Result<MendedObject, String>>,
}

/// Prints what is broken to stdout; fails while something broken is left.
pub fn run(view: &View, asked: &Verify, find: impl FnOnce() -> Result<Keeper, AskError>) -> ExitCode {
    let began = Instant::now();
    let objects = match objects(view, &asked.repos) {
        Ok(objects) => objects,
        Err(why) => return failed(&why),
    };
    let (mut broken, read_len) = examine(view, &objects);
    if asked.repair && !broken.is_empty() {
        match find() {
            Ok(keeper) => broken.iter_mut().for_each(|one| one.done = Some(mend(&keeper, &one.oid))),
            Err(why) => broken.iter_mut().for_each(|one| one.done = Some(Err(why.to_string()))),
        }
    }
    let left = broken.iter().filter(|one| !matches!(one.done, Some(Ok(_)))).count();
    let verdict = match (broken.len(), left) {
        (0, _) => "all sound".to_owned(),
        (all, 0) => format!("{all} broken, all mended; what they lack is fetched again when it is asked for"),
        (all, left) if asked.repair => format!("{all} broken, {left} not mended"),
        (all, _) => format!("{all} broken; --repair makes them be fetched again"),
    };
    let seconds = began.elapsed().as_secs_f64();
    match asked.format {
        Format::Table => {
            if !broken.is_empty() {
                print!("{}", report(view, &broken));
            }
            let count = counted(objects.len() as u64, "object");
            println!("verified {count}, {} in {seconds:.1} s: {verdict}", HumanBytes(read_len));
        }
        Format::Json => {
            let names = names(view, broken.iter().map(|one| one.oid).collect());
            let told = broken.iter().map(|one| {
                let is_mended = one.done.as_ref().map(Result::is_ok);
                json!({ "oid": one.oid.as_str(), "file": names.get(&one.oid), "wrong": one.wrong, "mended": is_mended, "repair": repair(one) })
            });
            let told: Vec<_> = told.collect();
            let count = objects.len();
            println!(
                "{}",
                json!({ "objects": count, "bytes": read_len, "seconds": seconds, "broken": told, "broken_left": left })
            );
        }
        Format::Quiet => broken.iter().for_each(|one| println!("{}", one.oid)),
    }
    if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the objects to look at with the bytes they take, the largest first: a large one begun last would end last.
fn objects(view: &View, repos: &[RepoId]) -> Result<Vec<(Oid, u64)>, String> {
    let text = |error: StoreError| error.to_string();
    let mut wanted = HashSet::new();
    for name in repos {
        let repo = &view.present(name).map_err(text)?;
        let commits = view.commits(repo).map_err(text)?;
        if commits.is_empty() {
            return Err(format!("not kept here: {repo}; `dingospeed ls` shows what is"));
        }
        for commit in commits {
            view.each_link(repo, &commit, |_, oid| {
                wanted.insert(oid);
            })
            .map_err(text)?;
            wanted.extend(view.listing(repo, &commit).map_err(text)?.files.values().map(|file| file.oid));
        }
    }
    let mut objects = Vec::new();
    view.each_blob(|blob| {
        if repos.is_empty() || wanted.contains(&blob.oid) {
            objects.push((blob.oid, blob.allocated_len));
        }
    })
    .map_err(text)?;
    objects.sort_unstable_by_key(|(oid, len)| (Reverse(*len), *oid));
    Ok(objects)
}

/// Examines all objects on all cores. Returns what is broken, in the order of their names, and how many bytes were read.
fn examine(view: &View, objects: &[(Oid, u64)]) -> (Vec<Broken>, u64) {
    let bar = bar(objects.iter().map(|(_, len)| len).sum());
    let (next, read_len) = (AtomicUsize::new(0), AtomicU64::new(0));
    let broken = Mutex::new(Vec::new());
    let work = || {
        while let Some((oid, _)) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
            bar.set_message(oid.to_string());
            let found = view.examine(oid, &mut |len| {
                read_len.fetch_add(len, Ordering::Relaxed);
                bar.inc(len);
            });
            let wrong = match found {
                Ok(finding) if finding.is_broken() => words(&finding),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            broken.lock().unwrap_or_else(PoisonError::into_inner).push(Broken { oid: *oid, wrong, done: None });
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores.min(THREADS_MAX).min(objects.len()) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let mut broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.sort_unstable_by_key(|one| one.oid);
    (broken, read_len.into_inner())
}

fn words(finding: &Finding) -> String {
    match finding {
        Finding::Broken { block_indexes, block_count } => {
            format!("{} of {}", block_indexes.len(), counted(*block_count, "block"))
        }
        Finding::Mismatch { found } => format!("hashes to {found}"),
        Finding::Unreadable { reason } => reason.clone(),
        Finding::Absent | Finding::Nothing | Finding::Sound { .. } => String::new(),
    }
}

fn mend(keeper: &Keeper, oid: &Oid) -> Result<MendedObject, String> {
    match keeper.order(&Request::VerifyObject { oid: oid.to_string() }) {
        Ok(Answer::Mended(mended)) => Ok(mended),
        Ok(other) => Err(format!("the server answered something else: {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn report(view: &View, broken: &[Broken]) -> String {
    let names = names(view, broken.iter().map(|one| one.oid).collect());
    let mut table = Table::new(&["OBJECT", "FILE", "BROKEN", "REPAIR"]);
    for one in broken {
        let name = names.get(&one.oid).cloned().unwrap_or_else(|| "-".to_owned());
        table.row([one.oid.to_string(), name, one.wrong.clone(), repair(one).unwrap_or_else(|| "-".to_owned())]);
    }
    table.text()
}

/// Says what was done about it, where that was asked for.
fn repair(one: &Broken) -> Option<String> {
    Some(match one.done.as_ref()? {
        Ok(MendedObject::Sound) => "sound again".to_owned(),
        Ok(MendedObject::Retracted(count)) => format!("{} dropped", counted(*count, "block")),
        Ok(MendedObject::SetAside(_)) => "set aside".to_owned(),
        Err(why) => format!("failed: {why}"),
    })
}

/// Returns a file's name for each object, where a link tells one.
fn names(view: &View, oids: HashSet<Oid>) -> HashMap<Oid, String> {
    let mut names = HashMap::new();
    for repo in view.repos().unwrap_or_default() {
        for commit in view.commits(&repo).unwrap_or_default() {
            // Names are for reading only: what cannot be listed goes without.
            let _ = view.each_link(&repo, &commit, |path, oid| {
                if oids.contains(&oid) {
                    names.entry(oid).or_insert_with(|| format!("{repo}@{}/{path}", &commit.as_str()[..7]));
                }
            });
        }
    }
    names
}
