//! `dingospeed pull`: has a mirror fetch the files of repos, one repo after the other, by reading them all and dropping the bytes.
//!
//! It asks what huggingface_hub asks: the commit of the revision, the listing at that commit page by page, then each file.
//! A file that breaks off goes on from where it was. In the end it looks whether all is kept: that is what it was asked for, and a
//! mirror without room serves what it does not keep.

use super::{
    client::{AskError, Client, next_piece},
    counted, failed,
    kept::{Kept, Lack},
    ls::Format,
    progress::{Progress, Watch},
};
use crate::hub::{ApiTarget, Commit, Oid, RepoId, Revision, Tree, TreeFile, parse_info, parse_tree};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use http::{HeaderValue, StatusCode};
use indicatif::HumanBytes;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet};

/// Files read at a time. Each is fetched on several connections already; this is for repos of many small ones.
const FILES_MAX: usize = 4;
/// Tries in a row without a byte gained before a file is given up.
const TRIES_MAX: u32 = 5;
/// The pause after the first; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, whatever the mirror asks for.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long after the last byte a file may take to be kept: the last block and the link are written beside the answer.
const KEPT_WITHIN: Duration = Duration::from_secs(3);
/// Until then it is looked at every so often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
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
/// list of what failed; the others are pulled all the same. Code 1 when any failed, or is not kept any more once all are through.
pub fn run(asked: &Pull, mirror: SocketAddr, kept: Kept) -> ExitCode {
    let began = Instant::now();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    let client = Arc::new(Client::new(mirror, asked.authorization.clone()));
    let kept = Arc::new(kept);
    let mut outcomes = Vec::new();
    for (repo, revision) in &asked.repos {
        let one = Instant::now();
        let pulled = runtime.block_on(pull(&client, &kept, repo, revision, asked));
        outcomes.push((repo, revision, pulled, one.elapsed()));
    }
    let all_len = outcomes.iter().filter_map(|(_, _, pulled, _)| pulled.as_ref().ok()).map(|pulled| pulled.len).sum();
    let mut lacking = Vec::new();
    let mut told = Vec::new();
    let mut total = (0, 0);
    for (repo, revision, mut pulled, took) in outcomes {
        if let Ok(pulled) = &mut pulled
            && pulled.failed.is_empty()
            && asked.repos.len() > 1
        {
            // The later ones may have taken its room.
            look_again(&kept, repo, pulled, all_len);
        }
        told.push(json_of(repo, revision, &pulled, took));
        match pulled {
            Ok(pulled) if pulled.failed.is_empty() => {
                total = (total.0 + pulled.file_count as u64, total.1 + pulled.len);
                if asked.format == Format::Quiet {
                    println!("{repo}@{}", pulled.commit);
                }
            }
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
async fn pull(
    client: &Arc<Client>,
    kept: &Arc<Kept>,
    repo: &RepoId,
    revision: &Revision,
    asked: &Pull,
) -> Result<Pulled, String> {
    let began = Instant::now();
    let name = repo.name();
    let progress = Arc::new(Progress::new(asked.format != Format::Quiet));
    let pulled = fetch(client, kept, repo, revision, &asked.wanted, progress.clone()).await;
    progress.finish();
    match &pulled {
        Err(why) => eprintln!("dingospeed: {name}@{revision}: {why}"),
        Ok(pulled) if !pulled.failed.is_empty() => say_failed(repo, pulled, "failed"),
        Ok(Pulled { commit, file_count, len, .. }) if asked.format == Format::Table => {
            let (files, seconds) = (counted(*file_count as u64, "file"), began.elapsed().as_secs_f64());
            println!("pulled {name}@{commit}: {files}, {} in {seconds:.1} s", HumanBytes(*len));
        }
        Ok(_) => {}
    }
    pulled
}

fn say_failed(repo: &RepoId, pulled: &Pulled, word: &str) {
    let (name, commit, files) = (repo.name(), pulled.commit, counted(pulled.file_count as u64, "file"));
    eprintln!("dingospeed: {name}@{commit}: {} of {files} {word}:", pulled.failed.len());
    for (path, why) in &pulled.failed {
        // Of names that were left out, some would turn a terminal's colours over.
        let path = path.chars().map(|letter| if letter.is_control() { letter.escape_debug().to_string() } else { letter.into() });
        eprintln!("  {}: {why}", path.collect::<String>());
    }
}

/// Looks whether what was pulled is still kept, and says what is not.
fn look_again(kept: &Kept, repo: &RepoId, pulled: &mut Pulled, all_len: u64) {
    match kept.lacking(repo, &pulled.commit, &pulled.read) {
        Ok(lacking) => pulled.failed = told_of(kept, repo, lacking, all_len, &HashMap::new()),
        Err(error) => pulled.failed.push(("?".to_owned(), error.to_string())),
    }
    if !pulled.failed.is_empty() {
        say_failed(repo, pulled, "not kept any more");
    }
}

/// Makes a path and a reason of what is lacking.
fn told_of(
    kept: &Kept,
    repo: &RepoId,
    lacking: Vec<(TreeFile, Lack)>,
    pulled_len: u64,
    refusals: &HashMap<Oid, String>,
) -> Vec<(String, String)> {
    let told = lacking.into_iter().map(|(file, lack)| {
        let why = kept.why(repo, &file, lack, pulled_len);
        let refusal = refusals.get(&file.oid).map_or_else(String::new, |refusal| format!(": {refusal}"));
        (file.path.to_string(), why + &refusal)
    });
    told.collect()
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
    /// Path and reason: what could not be read, what is not kept, and what has a name that cannot be asked for.
    pub(crate) failed: Vec<(String, String)>,
    /// The other ones.
    pub(crate) read: Vec<TreeFile>,
}

/// Reads all that is wanted of a repo through a mirror. `Err` says why nothing could be read; files that failed are listed in the
/// answer, and so are those that `kept` does not find whole at the end. Dropping the future ends it; what has come is kept.
pub(crate) async fn fetch(
    client: &Arc<Client>,
    kept: &Arc<Kept>,
    repo: &RepoId,
    revision: &Revision,
    wanted: &Wanted,
    progress: Arc<dyn Watch>,
) -> Result<Pulled, String> {
    let (commit, Tree { files, left_out }) = list(client, repo, revision, wanted).await?;
    let file_count = files.len() + left_out.len();
    let len = files.iter().map(|file| file.size).sum();
    progress.listed(file_count, len);
    let revision = Revision::from(commit);
    let seats = Arc::new(Semaphore::new(FILES_MAX));
    let mut running = JoinSet::new();
    for file in files.iter().cloned() {
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
    let mut failed: Vec<(String, String)> = left_out.into_iter().map(|(path, why)| (path, why.message)).collect();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(failure) => failed.extend(failure),
            Err(error) => failed.push(("?".to_owned(), error.to_string())),
        }
    }
    let unread: HashSet<&str> = failed.iter().map(|(path, _)| path.as_str()).collect();
    let mut read: Vec<TreeFile> = files.into_iter().filter(|file| !unread.contains(file.path.as_str())).collect();
    let unkept = unkept(client, kept, repo, commit, &read, len).await?;
    let lost: HashSet<&str> = unkept.iter().map(|(path, _)| path.as_str()).collect();
    read.retain(|file| !lost.contains(file.path.as_str()));
    failed.extend(unkept);
    failed.sort();
    Ok(Pulled { commit, file_count, len, failed, read })
}

/// Returns which of the files are not whole in the store, and why; waits for those that are about to be, and for verdicts.
async fn unkept(
    client: &Client,
    kept: &Arc<Kept>,
    repo: &RepoId,
    commit: Commit,
    files: &[TreeFile],
    len: u64,
) -> Result<Vec<(String, String)>, String> {
    let until = Instant::now() + KEPT_WITHIN;
    let mut files = files.to_vec();
    let mut refusals = HashMap::new();
    let mut asked = HashSet::new();
    loop {
        let (looking, name) = (kept.clone(), repo.clone());
        let look = tokio::task::spawn_blocking(move || looking.lacking(&name, &commit, &files));
        let looked = look.await.map_err(|error| error.to_string())?;
        let lacking = looked.map_err(|error| format!("all was read, but whether it is kept cannot be seen: {error}"))?;
        let unproven = lacking.iter().filter(|(_, lack)| *lack == Lack::Verdict).map(|(file, _)| file);
        let mut has_waited = false;
        for file in unproven {
            if asked.insert(file.oid) {
                // The end of it is held back until then.
                has_waited = true;
                refusals.extend(last_byte(client, repo, commit, file).await.err().map(|why| (file.oid, why.to_string())));
            }
        }
        if lacking.is_empty() || (Instant::now() >= until && !has_waited) {
            return Ok(told_of(kept, repo, lacking, len, &refusals));
        }
        files = lacking.into_iter().map(|(file, _)| file).collect();
        if !has_waited {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Reads the last byte of a file, which a mirror gives when the whole is verified.
async fn last_byte(client: &Client, repo: &RepoId, commit: Commit, file: &TreeFile) -> Result<(), AskError> {
    let target = ApiTarget::resolve(repo, &commit.into(), &file.path).upstream_path_and_query();
    let mut body = client.get(&target, file.size.saturating_sub(1)).await?.into_body();
    while next_piece(&mut body).await?.is_some() {}
    Ok(())
}

/// Returns the commit of the revision, and what is wanted of the files there.
async fn list(client: &Client, repo: &RepoId, revision: &Revision, wanted: &Wanted) -> Result<(Commit, Tree), String> {
    let info = ApiTarget::info(repo, revision).upstream_path_and_query();
    let (json, _) = patiently(|| client.page(&info)).await?;
    let facts = parse_info(&json).map_err(|error| error.to_string())?;
    let commit = facts.sha.ok_or("the answer names no commit")?;

    let mut all = Tree::default();
    let mut next = Some(ApiTarget::whole_tree(repo, &commit.into()).upstream_path_and_query());
    let mut pages = HashSet::new();
    while let Some(target) = next {
        let (json, link) = patiently(|| client.page(&target)).await?;
        let page = parse_tree(&json).map_err(|error| format!("{error}; --token or HF_TOKEN may open it"))?;
        all.files.extend(page.files.into_iter().filter(|file| wanted.holds(file.path.as_str())));
        all.left_out.extend(page.left_out.into_iter().filter(|(name, _)| wanted.holds(name)));
        pages.insert(target);
        next = link;
        if pages.len() > PAGES_MAX || next.as_ref().is_some_and(|target| pages.contains(target)) {
            return Err("the listing does not end".to_owned());
        }
    }
    if all.files.is_empty() && all.left_out.is_empty() {
        return Err("no file there is wanted: see --include and --exclude".to_owned());
    }
    Ok((commit, all))
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
