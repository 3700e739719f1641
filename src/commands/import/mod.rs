//! `dingospeed import`: takes over what another store has, each object proven by its hash, and changes nothing there.
//!
//! First the other store is read and a list made ([`found`]); then objects are brought in, largest first, on all cores; last what is
//! known of each commit is learned. Broken off anywhere, the next run finds the objects that are here and goes on with the rest.

mod block_store;
mod found;
mod hub_cache;
mod kept_json;
mod report;

use super::{
    confirm, counted, failed,
    intake::{Intake, Taken, check_room, has, text},
    ls::{Filter, Format},
    progress::bar,
};
use crate::{
    admin::{AskError, Keeper},
    config::Config,
    hub::Oid,
    store::{Given, Step, View},
};
use found::{Bytes, Found};
use http::HeaderValue;
use indicatif::ProgressBar;
use report::Done;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

/// More threads than this only make a disk seek.
const THREADS_MAX: usize = 16;
/// A branch counts as this old at least: what another store knew of it is not to be trusted for long.
const AGE_LEAST: Duration = Duration::from_secs(24 * 3600);

/// What to import.
#[derive(Debug)]
pub struct Import {
    pub dir: PathBuf,
    /// None: found out by looking.
    pub from: Option<Layout>,
    pub filter: Option<Filter>,
    pub dry_run: bool,
    /// Anybody may read what the store does not say is closed.
    pub open: bool,
    /// `Bearer ..`, for asking the Hub about closed repos.
    pub authorization: Option<HeaderValue>,
    pub format: Format,
}

/// How the other store lays out its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    DingoSpeed,
    Olah,
    HuggingFace,
}

impl Layout {
    fn words(self) -> &'static str {
        match self {
            Layout::DingoSpeed => "DingoSpeed's repos",
            Layout::Olah => "an Olah store",
            Layout::HuggingFace => "a Hugging Face cache",
        }
    }
}

/// One object to bring in.
struct Wanted {
    oid: Oid,
    size: u64,
    bytes: Bytes,
}

/// What is to be done, and what is not.
struct Plan {
    found: Vec<Found>,
    wanted: Vec<Wanted>,
    /// Objects that are here already.
    here: HashMap<Oid, u64>,
}

/// Imports. `find` gives the one who has the store; `mirror` a mirror of it, to ask the Hub about what the source does not tell.
///
/// 0: all that is whole there is here now. 1: something was broken there, or could not be brought in.
pub fn run(
    config: &Config,
    asked: &Import,
    find: impl FnOnce() -> Result<Keeper, AskError>,
    mirror: impl FnOnce() -> Result<(Box<dyn std::any::Any>, SocketAddr), String>,
) -> ExitCode {
    match import(config, asked, find, mirror) {
        Ok(code) => code,
        Err(why) => failed(&why),
    }
}

fn import(
    config: &Config,
    asked: &Import,
    find: impl FnOnce() -> Result<Keeper, AskError>,
    mirror: impl FnOnce() -> Result<(Box<dyn std::any::Any>, SocketAddr), String>,
) -> Result<ExitCode, String> {
    let began = Instant::now();
    let (layout, root) = locate(asked)?;
    refuse_itself(&root, config)?;
    let mut found = match layout {
        Layout::HuggingFace => hub_cache::scan(&root)?,
        Layout::DingoSpeed | Layout::Olah => block_store::scan(&root, layout == Layout::Olah, config.freshness.stale)?,
    };
    found.retain(|one| asked.filter.as_ref().is_none_or(|filter| filter.admits(&one.repo.to_string())));
    if found.is_empty() {
        return Err(format!("{} holds no repo{}", root.display(), asked.filter.as_ref().map_or("", |_| " of that name")));
    }
    eprintln!("reading {} in {}", layout.words(), root.display());

    let view = View::open(&config.store.repos).ok();
    let mut plan = plan(found, view.as_ref());
    if asked.dry_run {
        report::print(&plan, None, asked.format);
        return Ok(ExitCode::SUCCESS);
    }

    let keeper = find().map_err(text)?;
    let view = View::open(&config.store.repos).map_err(text)?;
    view.clear_staged().map_err(text)?;
    check_space(config, &view, &plan)?;
    let intake = Intake { view: &view, keeper: &keeper, block_size: config.store.block_size };
    let outcome = bring_in(&intake, &mut plan.wanted);
    let arrived: Vec<&Found> = plan.found.iter().filter(|one| is_here(one, &view)).collect();
    let unlearned = learn(&intake, &arrived, asked.open);
    drop(keeper);
    let asked_hub = ask_hub(config, asked, &arrived, &view, mirror);

    let failed_any = outcome.values().any(Result::is_err);
    report::print(&plan, Some(&Done { outcome, took: began.elapsed() }), asked.format);
    unlearned.iter().for_each(|why| eprintln!("dingospeed: {why}"));
    tell_lacks(&arrived, &view, asked_hub.as_deref());
    Ok(if !failed_any && unlearned.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Finds what kind of store it is and where in `dir` it begins.
fn locate(asked: &Import) -> Result<(Layout, PathBuf), String> {
    let shown = asked.dir.display();
    if !asked.dir.is_dir() {
        return Err(format!("{shown} is no directory"));
    }
    if asked.dir.join("VERSION").is_file() && asked.dir.join("blobs").is_dir() {
        return Err(format!("{shown} is a store of this program: use it with --repos, or carry it with export and load"));
    }
    let (cache, blocks) = (hub_cache::root(&asked.dir), block_store::root(&asked.dir));
    let found = match asked.from {
        Some(Layout::HuggingFace) => cache.map(|root| (Layout::HuggingFace, root)),
        Some(layout) => blocks.map(|root| (layout, root)),
        None => blocks
            .map(|root| (if block_store::is_olah(&root) { Layout::Olah } else { Layout::DingoSpeed }, root))
            .or(cache.map(|root| (Layout::HuggingFace, root))),
    };
    found.ok_or_else(|| {
        let wanted = asked.from.map_or("DingoSpeed's repos, an Olah store or a Hugging Face cache", Layout::words);
        format!("{shown} is not {wanted}: it holds neither files/models/.. nor models--org--name/")
    })
}

/// The source must stay as it is, so it cannot be the directory that is filled.
fn refuse_itself(root: &std::path::Path, config: &Config) -> Result<(), String> {
    let (source, ours) = (root.canonicalize().map_err(text)?, config.store.repos.canonicalize().unwrap_or_default());
    if !ours.as_os_str().is_empty() && (source.starts_with(&ours) || ours.starts_with(&source)) {
        return Err(format!(
            "{} and --repos {} are one: give the new store a directory of its own",
            source.display(),
            ours.display()
        ));
    }
    Ok(())
}

/// Lists each object once, and leaves out what is here.
fn plan(found: Vec<Found>, view: Option<&View>) -> Plan {
    let mut wanted: HashMap<Oid, Wanted> = HashMap::new();
    let mut here = HashMap::new();
    for file in found.iter().flat_map(|one| one.files.values()) {
        if file.bytes == Bytes::Absent || wanted.contains_key(&file.oid) || here.contains_key(&file.oid) {
            continue;
        }
        if view.is_some_and(|view| has(view, &file.oid)) {
            here.insert(file.oid, file.size);
        } else {
            wanted.insert(file.oid, Wanted { oid: file.oid, size: file.size, bytes: file.bytes.clone() });
        }
    }
    Plan { found, wanted: wanted.into_values().collect(), here }
}

fn check_space(config: &Config, view: &View, plan: &Plan) -> Result<(), String> {
    // One file stands for all: they are on one file system, or nearly always.
    let sample = plan.wanted.iter().find_map(|one| match &one.bytes {
        Bytes::Plain(path) | Bytes::Container(path) if one.size > 0 => Some(path),
        _ => None,
    });
    if sample.is_some_and(|path| view.can_share(path)) {
        return Ok(());
    }
    let len = plan.wanted.iter().map(|one| one.size).sum();
    check_room(view, len, config.eviction.min_free, "name fewer repos with a FILTER, or make room")
}

/// Brings the objects in, the largest first: a large one begun last would end last.
fn bring_in(intake: &Intake<'_>, wanted: &mut [Wanted]) -> HashMap<Oid, Result<Taken, String>> {
    wanted.sort_unstable_by_key(|one| (Reverse(one.size), one.oid));
    let (bar, next) = (bar(wanted.iter().map(|one| one.size).sum()), AtomicUsize::new(0));
    let outcome = Mutex::new(HashMap::new());
    let wanted = &*wanted;
    let work = || {
        while let Some(one) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            bar.set_message(one.oid.to_string());
            let taken = bring(intake, one, &bar);
            outcome.lock().unwrap_or_else(PoisonError::into_inner).insert(one.oid, taken);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores.min(THREADS_MAX).min(wanted.len()) {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn bring(intake: &Intake<'_>, one: &Wanted, bar: &ProgressBar) -> Result<Taken, String> {
    let mut empty = io::empty();
    let given = match &one.bytes {
        Bytes::Plain(path) => Given::Plain(path),
        Bytes::Container(path) => Given::Container(path),
        Bytes::Empty | Bytes::Absent => Given::Stream(&mut empty, 0),
    };
    // Copying and hashing are half of the work each, and the bar moves with both.
    let done = AtomicU64::new(0);
    let mut progress = |step| {
        let (Step::Copied(len) | Step::Hashed(len)) = step;
        let before = done.fetch_add(len, Ordering::Relaxed);
        bar.inc((before + len) / 2 - before / 2);
    };
    intake.object(given, &one.oid, &mut progress)
}

/// Has each commit learned; returns what went wrong.
fn learn(intake: &Intake<'_>, arrived: &[&Found], open: bool) -> Vec<String> {
    let now = SystemTime::now();
    let stale_at = now.checked_sub(AGE_LEAST).unwrap_or(now);
    let mut wrong = Vec::new();
    for one in arrived {
        if let Err(why) = intake.parcel(&one.parcel(open, stale_at, now)) {
            wrong.push(format!("{}: {why}", one.name()));
        }
    }
    wrong
}

/// Tells whether anything of a commit is here now.
fn is_here(one: &Found, view: &View) -> bool {
    one.files.values().any(|file| has(view, &file.oid))
}

/// Asks the Hub, through a mirror of the directory, about repos of which the source does not tell enough. Returns why that was not
/// done, or could not be.
fn ask_hub(
    config: &Config,
    asked: &Import,
    arrived: &[&Found],
    view: &View,
    mirror: impl FnOnce() -> Result<(Box<dyn std::any::Any>, SocketAddr), String>,
) -> Option<String> {
    let lacking: Vec<_> = arrived
        .iter()
        .filter(|one| !one.whole || view.access(&one.repo).is_ok_and(|access| access.is_none()))
        .map(|one| (one.repo.clone(), one.commit, !one.whole))
        .collect();
    if lacking.is_empty() {
        return None;
    }
    if config.upstream.offline {
        return Some("the Hub was not asked (offline)".to_owned());
    }
    let (_running, address) = match mirror() {
        Ok(mirror) => mirror,
        Err(why) => return Some(why),
    };
    confirm::run(address, asked.authorization.clone(), &lacking).err()
}

/// Says what the source did not tell, and the Hub was not asked or did not answer: who may read a repo, and all its files.
fn tell_lacks(arrived: &[&Found], view: &View, why: Option<&str>) {
    let because = why.map_or_else(String::new, |why| format!(": {why}"));
    let repos: BTreeSet<_> = arrived.iter().map(|one| &one.repo).collect();
    let untold: Vec<String> =
        repos.iter().filter(|repo| view.access(repo).is_ok_and(|access| access.is_none())).map(|repo| repo.to_string()).collect();
    if !untold.is_empty() {
        eprintln!(
            "nobody has told who may read {}{because}. They are given out once the Hub has said so; for a site where it never can, \
             import again with --open, which opens them to all",
            untold.join(", ")
        );
    }
    let lacks = |one: &&&Found| view.listing(&one.repo, &one.commit).is_ok_and(|listing| !listing.complete);
    let open_ended: Vec<String> = arrived.iter().filter(lacks).map(|one| one.name()).collect();
    if !open_ended.is_empty() {
        eprintln!(
            "not all files of {} are known{because}. While the Hub cannot be asked, clients get those that are",
            open_ended.join(", ")
        );
    }
}
