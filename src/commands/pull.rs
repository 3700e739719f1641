//! `dingospeed pull`: has a mirror fetch the files of repos, one repo after the other, by reading them all and dropping the bytes.
//!
//! It asks what huggingface_hub asks: the commit of the revision, the listing at that commit page by page, then each file.
//! A file that breaks off goes on from where it was.

use super::{
    client::{AskError, Client, next_piece},
    counted, failed,
    ls::Format,
    progress::{Progress, Watch},
};
use crate::hub::{ApiTarget, Commit, RepoId, Revision, TreeFile, parse_info, parse_tree};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use http::{HeaderValue, StatusCode};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::{collections::HashSet, future::Future, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration, time::Instant};
use tokio::{sync::Semaphore, task::JoinSet};

/// Files read at a time. Each is fetched on several connections already; this is for repos of many small ones.
const FILES_MAX: usize = 4;
/// Tries in a row without a byte gained before a file is given up.
const TRIES_MAX: u32 = 5;
/// The pause after the first; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, whatever the mirror asks for.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// A listing with more pages than this does not end.
const PAGES_MAX: usize = 10_000;

/// What to pull.
#[derive(Debug)]
pub struct Pull {
    /// Each once, in the order they were named.
    pub repos: Vec<(RepoId, Revision)>,
    pub wanted: Wanted,
    /// `Bearer ..`
    pub authorization: Option<HeaderValue>,
    pub format: Format,
}

/// Which files are wanted: all, or those that match; and not those that are excluded.
#[derive(Debug)]
pub struct Wanted {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Wanted {
    /// Patterns as huggingface_hub has them (Python's fnmatch): `*` and `?` match slashes, and `dir/` all below it.
    pub fn new(include: &[String], exclude: &[String], mistakes: &mut Vec<String>) -> Wanted {
        let some_included = !include.is_empty();
        let (include, exclude) = (set_of("--include", include, mistakes), set_of("--exclude", exclude, mistakes));
        Wanted { include: some_included.then_some(include), exclude }
    }

    fn holds(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(path)) && !self.exclude.is_match(path)
    }
}

fn set_of(flag: &str, patterns: &[String], mistakes: &mut Vec<String>) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let whole = if pattern.ends_with('/') { format!("{pattern}*") } else { pattern.clone() };
        match GlobBuilder::new(&whole).literal_separator(false).backslash_escape(false).build() {
            Ok(glob) => drop(set.add(glob)),
            Err(error) => mistakes.push(format!("{flag} {pattern}: {}", error.kind())),
        }
    }
    set.build().unwrap_or_else(|error| {
        mistakes.push(format!("{flag}: {error}"));
        GlobSet::empty()
    })
}

/// Pulls through this mirror. A line on stdout for each repo that is all here, and for each that is not a line on stderr and the
/// list of what failed; the others are pulled all the same. Code 1 when any failed.
pub fn run(asked: &Pull, mirror: SocketAddr) -> ExitCode {
    let began = Instant::now();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    let client = Arc::new(Client::new(mirror, asked.authorization.clone()));
    let mut lacking = Vec::new();
    let mut told = Vec::new();
    let mut total = (0, 0);
    for (repo, revision) in &asked.repos {
        let one = Instant::now();
        let pulled = runtime.block_on(pull(&client, repo, revision, asked));
        told.push(json_of(repo, revision, &pulled, one.elapsed()));
        match pulled {
            Ok(pulled) if pulled.failed.is_empty() => total = (total.0 + pulled.file_count as u64, total.1 + pulled.len),
            _ => lacking.push(format!("{repo}@{revision}")),
        }
    }
    let (repo_count, seconds) = (asked.repos.len() as u64, began.elapsed().as_secs_f64());
    let done = repo_count - lacking.len() as u64;
    match asked.format {
        Format::Json => {
            let pulled = json!({ "repos": done, "files": total.0, "bytes": total.1, "seconds": seconds });
            println!("{}", json!({ "pulled": pulled, "repos": told }));
        }
        Format::Table if repo_count > 1 => {
            let files = counted(total.0, "file");
            println!("pulled {done} of {}: {files}, {} in {seconds:.1} s", counted(repo_count, "repo"), HumanBytes(total.1));
        }
        Format::Table | Format::Quiet => {}
    }
    if repo_count > 1 && !lacking.is_empty() {
        eprintln!("dingospeed: not pulled: {}", lacking.join(", "));
    }
    if lacking.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Pulls one repo and says how it went.
async fn pull(client: &Arc<Client>, repo: &RepoId, revision: &Revision, asked: &Pull) -> Result<Pulled, String> {
    let began = Instant::now();
    let name = repo.name();
    let progress = Arc::new(Progress::new(asked.format != Format::Quiet));
    let pulled = fetch(client, repo, revision, &asked.wanted, progress.clone()).await;
    progress.finish();
    match &pulled {
        Err(why) => eprintln!("dingospeed: {name}@{revision}: {why}"),
        Ok(pulled) if !pulled.failed.is_empty() => {
            eprintln!("dingospeed: {name}@{}: {} of {} files failed:", pulled.commit, pulled.failed.len(), pulled.file_count);
            pulled.failed.iter().for_each(|(path, why)| eprintln!("  {path}: {why}"));
        }
        Ok(Pulled { commit, file_count, len, .. }) => match asked.format {
            Format::Table => {
                let (files, seconds) = (counted(*file_count as u64, "file"), began.elapsed().as_secs_f64());
                println!("pulled {name}@{commit}: {files}, {} in {seconds:.1} s", HumanBytes(*len));
            }
            Format::Quiet => println!("{repo}@{commit}"),
            Format::Json => {}
        },
    }
    pulled
}

/// `commit` and what follows from it are null and zero when nothing could be read, and `error` says why.
fn json_of(repo: &RepoId, revision: &Revision, pulled: &Result<Pulled, String>, took: Duration) -> Value {
    let (error, pulled) = (pulled.as_ref().err(), pulled.as_ref().ok());
    let failed = pulled.map_or(&[][..], |pulled| &pulled.failed);
    json!({
        "id": repo.to_string(), "revision": revision.as_str(), "commit": pulled.map(|pulled| pulled.commit.to_string()),
        "files": pulled.map_or(0, |pulled| pulled.file_count), "bytes": pulled.map_or(0, |pulled| pulled.len),
        "failed": failed.iter().map(|(path, why)| json!({ "path": path, "error": why })).collect::<Vec<_>>(),
        "error": error, "seconds": took.as_secs_f64(),
    })
}

/// What came of a pull.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) commit: Commit,
    pub(crate) file_count: usize,
    /// Of all files together.
    pub(crate) len: u64,
    /// Path and reason.
    pub(crate) failed: Vec<(String, String)>,
}

/// Reads all that is wanted of a repo through a mirror. `Err` says why nothing could be read; files that failed are listed in the
/// answer. Dropping the future ends it; what has come is kept.
pub(crate) async fn fetch(
    client: &Arc<Client>,
    repo: &RepoId,
    revision: &Revision,
    wanted: &Wanted,
    progress: Arc<dyn Watch>,
) -> Result<Pulled, String> {
    let (commit, files) = list(client, repo, revision, wanted).await?;
    let file_count = files.len();
    let len = files.iter().map(|file| file.size).sum();
    progress.listed(file_count, len);
    let revision = Revision::from(commit);
    let seats = Arc::new(Semaphore::new(FILES_MAX));
    let mut running = JoinSet::new();
    for file in files {
        let target = ApiTarget::resolve(repo, &revision, &file.path).upstream_path_and_query();
        let (client, progress, seats) = (client.clone(), progress.clone(), seats.clone());
        running.spawn(async move {
            let _seat = seats.acquire().await;
            progress.began(&file.path);
            let read = read_file(&client, &target, &file, &*progress).await;
            if read.is_ok() {
                progress.ended(&file.path, file.size);
            }
            read.err().map(|why| (file.path.to_string(), why))
        });
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(failure) => failed.extend(failure),
            Err(error) => failed.push(("?".to_owned(), error.to_string())),
        }
    }
    failed.sort();
    Ok(Pulled { commit, file_count, len, failed })
}

/// Returns the commit of the revision, and the wanted files there.
async fn list(client: &Client, repo: &RepoId, revision: &Revision, wanted: &Wanted) -> Result<(Commit, Vec<TreeFile>), String> {
    let info = ApiTarget::info(repo, revision).upstream_path_and_query();
    let (json, _) = patiently(|| client.page(&info)).await?;
    let facts = parse_info(&json).map_err(|error| error.to_string())?;
    let commit = facts.sha.ok_or("the answer names no commit")?;

    let mut files = Vec::new();
    let mut next = Some(ApiTarget::whole_tree(repo, &commit.into()).upstream_path_and_query());
    let mut pages = HashSet::new();
    while let Some(target) = next {
        let (json, link) = patiently(|| client.page(&target)).await?;
        let page = parse_tree(&json).map_err(|error| format!("{error}; --token or HF_TOKEN may open it"))?;
        files.extend(page.into_iter().filter(|file| wanted.holds(file.path.as_str())));
        pages.insert(target);
        next = link;
        if pages.len() > PAGES_MAX || next.as_ref().is_some_and(|target| pages.contains(target)) {
            return Err("the listing does not end".to_owned());
        }
    }
    if files.is_empty() {
        return Err("no file there is wanted: see --include and --exclude".to_owned());
    }
    Ok((commit, files))
}

/// Asks until there is an answer or a lasting refusal, or patience ends.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, AskError>>,
{
    let mut tries = 1;
    loop {
        match ask().await {
            Err(error) if error.may_pass() && tries < TRIES_MAX => tokio::time::sleep(pause(tries, error.retry_after())).await,
            answer => return answer.map_err(|error| error.to_string()),
        }
        tries += 1;
    }
}

/// Reads a file to its end, going on after each break.
async fn read_file(client: &Client, target: &str, file: &TreeFile, progress: &dyn Watch) -> Result<(), String> {
    let mut offset = 0;
    let mut tries = 0;
    loop {
        let before = offset;
        let why = match read_on(client, target, file.size, &mut offset, progress).await {
            Ok(()) => return Ok(()),
            Err(error) if !error.may_pass() => return Err(error.to_string()),
            Err(error) => error,
        };
        tries = if offset > before { 1 } else { tries + 1 };
        if tries >= TRIES_MAX {
            return Err(format!("{why} ({tries} tries, {offset} of {} bytes)", file.size));
        }
        let pause = pause(tries, why.retry_after());
        progress.retries(&file.path, &why.to_string(), pause);
        tokio::time::sleep(pause).await;
    }
}

/// Reads from `offset` on, which follows what has come.
async fn read_on(client: &Client, target: &str, size: u64, offset: &mut u64, progress: &dyn Watch) -> Result<(), AskError> {
    let response = client.get(target, *offset).await?;
    if *offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        progress.lost(*offset);
        *offset = 0;
    }
    let mut body = response.into_body();
    while let Some(piece) = next_piece(&mut body).await? {
        *offset += piece.len() as u64;
        progress.advanced(piece.len() as u64);
    }
    if *offset == size {
        return Ok(());
    }
    let got = *offset;
    if got > size {
        // Nothing after that can be right; begin again.
        progress.lost(got);
        *offset = 0;
    }
    Err(AskError::Broken(format!("the listing says {size} bytes, but {got} came")))
}

fn pause(tries: u32, asked: Option<Duration>) -> Duration {
    asked.unwrap_or_else(|| PAUSE.saturating_mul(1 << (tries - 1).min(16))).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_hub_client() {
        fn check(include: &[&str], exclude: &[&str], path: &str, expected: bool) {
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let mut mistakes = Vec::new();
            let wanted = Wanted::new(&owned(include), &owned(exclude), &mut mistakes);
            assert!(mistakes.is_empty(), "{mistakes:?}");
            assert_eq!(wanted.holds(path), expected, "{include:?} {exclude:?} {path}");
        }
        check(&[], &[], "any/thing", true);
        check(&["*.json"], &[], "deep/down/config.json", true);
        check(&["*.json"], &[], "model.bin", false);
        check(&["onnx/"], &[], "onnx/a/b.bin", true);
        check(&["*.json"], &["deep/*"], "deep/down/config.json", false);
        check(&[], &["*.bin", "*.h5"], "a.h5", false);
        check(&["model-0000[12]-*"], &[], "model-00002-of-9", true);
        check(&["?.txt"], &[], "a.txt", true);
    }

    #[test]
    fn pauses_double_and_end() {
        assert_eq!(pause(1, None), PAUSE);
        assert_eq!(pause(3, None), PAUSE * 4);
        assert_eq!(pause(99, None), PAUSE_MAX);
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(9999))), PAUSE_MAX);
    }
}
