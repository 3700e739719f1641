//! Pulls that the panel runs: the command's own, by way of this server's own address, so that one that is asked for here meets
//! the same rules, limits and flights as every client.

use crate::commands::client::Client;
use crate::commands::kept::Kept;
use crate::commands::progress::Watch;
use crate::commands::pull::{Pulled, Wanted, fetch};
use crate::hub::{FilePath, HubError, RepoId, Revision};
use crate::mirror::Pace;
use http::HeaderValue;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Pulls that run at a time; each reads several files.
const RUNNING_MAX: usize = 2;
/// Pulls that run or wait for their turn.
const UNENDED_MAX: usize = 100;
/// Those that ended are remembered, the latest of them.
const ENDED_MAX: usize = 50;
/// Files that failed are told, so many of them.
const FAILED_MAX: usize = 20;

/// All pulls of this process: forgotten when it ends, unlike what they fetched.
pub(super) struct Pulls {
    mirror: SocketAddr,
    kept: Arc<Kept>,
    seats: Arc<Semaphore>,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    /// The latest first.
    list: VecDeque<Arc<Job>>,
    last_id: u64,
    closed: bool,
}

/// What is to be pulled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) repo: RepoId,
    pub(super) revision: Revision,
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    /// `Bearer ..`
    pub(super) authorization: Option<HeaderValue>,
}

struct Job {
    id: u64,
    order: Order,
    /// What `order` says, to be asked.
    wanted: Wanted,
    started_at: SystemTime,
    progress: Progress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    ended_at: Option<SystemTime>,
    /// Until it has ended.
    task: Option<AbortHandle>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Waiting,
    Running,
    Ended(Result<Pulled, String>),
    Cancelled,
}

/// Adds up what the pull tells.
#[derive(Default)]
struct Progress {
    file_count: AtomicU64,
    len: AtomicU64,
    ended_count: AtomicU64,
    read_len: AtomicU64,
    pace: Pace,
    trouble: Mutex<Option<String>>,
}

impl Pulls {
    /// `mirror` is where this server listens.
    pub(super) fn new(mirror: SocketAddr, kept: Kept) -> Pulls {
        Pulls { mirror, kept: Arc::new(kept), seats: Arc::new(Semaphore::new(RUNNING_MAX)), jobs: Mutex::default() }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a pull, and returns it; one that is under way for the same is returned as it is. `ended` hears of the end, however it
    /// comes. Needs a runtime.
    pub(super) fn start(
        &self,
        order: Order,
        wanted: Wanted,
        ended: impl FnOnce(&RepoId) + Send + 'static,
    ) -> Result<Value, HubError> {
        let mut jobs = self.jobs();
        if let Some(job) = jobs.list.iter().find(|job| !job.has_ended() && job.order == order) {
            return Ok(job.told());
        }
        if jobs.closed {
            return Err(HubError { status: 503, ..HubError::forbidden("the mirror is about to end") });
        }
        if jobs.list.iter().filter(|job| !job.has_ended()).count() >= UNENDED_MAX {
            let message = format!("{UNENDED_MAX} pulls are under way or wait; cancel one, or wait");
            return Err(HubError { status: 429, retry_after: Some(10), ..HubError::forbidden(message) });
        }
        jobs.last_id += 1;
        let job = Arc::new(Job {
            id: jobs.last_id,
            order,
            wanted,
            started_at: SystemTime::now(),
            progress: Progress::default(),
            state: Mutex::default(),
        });
        log::info!("pulls id={} repo={} revision={}", job.id, job.order.repo, job.order.revision);
        let (seats, mirror, kept) = (self.seats.clone(), self.mirror, self.kept.clone());
        let end = End { job: job.clone(), ended: Some(ended) };
        let task = tokio::spawn(async move {
            let end = end;
            let Ok(_seat) = seats.acquire_owned().await else { return };
            end.job.state().phase = Phase::Running;
            let Order { repo, revision, authorization, .. } = &end.job.order;
            let client = Arc::new(Client::new(mirror, authorization.clone()));
            let outcome = fetch(&client, &kept, repo, revision, &end.job.wanted, end.job.clone()).await;
            // The end is remembered; the names of all files need not be.
            end.job.end(Phase::Ended(outcome.map(|pulled| Pulled { read: Vec::new(), ..pulled })));
        });
        // Before the first await of the task it may have ended already, on another thread.
        let mut state = job.state();
        state.task = Some(task.abort_handle()).filter(|_| state.ended_at.is_none());
        drop(state);
        jobs.list.push_front(job.clone());
        let mut ended_count = 0;
        jobs.list.retain(|job| {
            ended_count += usize::from(job.has_ended());
            !job.has_ended() || ended_count <= ENDED_MAX
        });
        Ok(job.told())
    }

    /// Ends a pull, which keeps what it has fetched. Returns it, or nothing when there is none of this number.
    pub(super) fn cancel(&self, id: u64) -> Option<Value> {
        let job = self.jobs().list.iter().find(|job| job.id == id).cloned()?;
        job.cancel();
        Some(job.told())
    }

    /// Ends them all, and takes no more: the server is about to end, and would wait for what they read.
    pub(super) fn close(&self) {
        let list = {
            let mut jobs = self.jobs();
            jobs.closed = true;
            jobs.list.clone()
        };
        list.iter().for_each(|job| job.cancel());
    }

    /// Returns one pull.
    pub(super) fn get(&self, id: u64) -> Option<Value> {
        self.jobs().list.iter().find(|job| job.id == id).map(|job| job.told())
    }

    /// Returns all pulls, the latest first.
    pub(super) fn list(&self) -> Value {
        self.jobs().list.iter().map(|job| job.told()).collect()
    }
}

/// Notes the end of a job whose task was dropped, and tells of every end.
struct End<F: FnOnce(&RepoId)> {
    job: Arc<Job>,
    ended: Option<F>,
}

impl<F: FnOnce(&RepoId)> Drop for End<F> {
    fn drop(&mut self) {
        self.job.end(Phase::Cancelled);
        if let Some(ended) = self.ended.take() {
            ended(&self.job.order.repo);
        }
    }
}

impl Job {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.state().ended_at.is_some()
    }

    fn cancel(&self) {
        let task = self.state().task.take();
        if let Some(task) = task {
            self.end(Phase::Cancelled);
            task.abort();
        }
    }

    /// The first end is the one that counts.
    fn end(&self, phase: Phase) {
        let mut state = self.state();
        if state.ended_at.is_some() {
            return;
        }
        state.ended_at = Some(SystemTime::now());
        state.task = None;
        state.phase = phase;
        let outcome = match &state.phase {
            Phase::Ended(Ok(pulled)) if pulled.failed.is_empty() => "done",
            Phase::Ended(_) => "failed",
            _ => "cancelled",
        };
        log::info!("pulled id={} repo={} outcome={outcome}", self.id, self.order.repo);
    }

    fn told(&self) -> Value {
        let state = self.state();
        let (word, commit, error, failed) = match &state.phase {
            Phase::Waiting => ("waiting", None, None, &[][..]),
            Phase::Running => ("running", None, None, &[][..]),
            Phase::Cancelled => ("cancelled", None, None, &[][..]),
            Phase::Ended(Err(why)) => ("failed", None, Some(why.clone()), &[][..]),
            Phase::Ended(Ok(pulled)) if pulled.failed.is_empty() => ("done", Some(pulled.commit), None, &[][..]),
            Phase::Ended(Ok(pulled)) => {
                let error = format!("{} of {} files failed", pulled.failed.len(), pulled.file_count);
                ("failed", Some(pulled.commit), Some(error), &pulled.failed[..])
            }
        };
        let failed: Vec<Value> =
            failed.iter().take(FAILED_MAX).map(|(path, why)| json!({ "path": path, "error": why })).collect();
        let progress = &self.progress;
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let speed = if word == "running" { progress.pace.speed() } else { 0 };
        let trouble = progress.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "id": self.id,
            "repo": self.order.repo.to_string(),
            "revision": self.order.revision.as_str(),
            "include": self.order.include,
            "exclude": self.order.exclude,
            "state": word,
            "commit": commit.map(|commit| commit.to_string()),
            "files": count(&progress.file_count),
            "files_done": count(&progress.ended_count),
            "bytes": count(&progress.len),
            "bytes_done": count(&progress.read_len),
            "bytes_per_second": speed,
            "error": error,
            "failed": failed,
            // What was tried again, lately.
            "trouble": trouble.filter(|_| word == "running"),
            "started": super::unix(self.started_at),
            "ended": state.ended_at.map(super::unix),
        })
    }
}

impl Watch for Job {
    fn listed(&self, file_count: usize, len: u64) {
        self.progress.file_count.store(file_count as u64, Ordering::Relaxed);
        self.progress.len.store(len, Ordering::Relaxed);
    }

    fn advanced(&self, len: u64) {
        self.progress.read_len.fetch_add(len, Ordering::Relaxed);
        self.progress.pace.add(len);
    }

    fn lost(&self, len: u64) {
        self.progress.read_len.fetch_sub(len, Ordering::Relaxed);
    }

    fn retries(&self, path: &FilePath, why: &str, after: Duration) {
        let trouble = format!("{path}: {why}; again in {:.1} s", after.as_secs_f64());
        *self.progress.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    fn ended(&self, _path: &FilePath, _size: u64) {
        self.progress.ended_count.fetch_add(1, Ordering::Relaxed);
        *self.progress.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
