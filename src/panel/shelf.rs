//! What is kept, in memory: a snapshot of the repos in the directory, for lists that are asked for page by page.
//!
//! Nobody waits for a walk over a large directory, and none is begun unless somebody asks: then at most one at a time, which sleeps
//! as long as it works, and the next one not before [`REST`] times what it took. So a small directory is always shown as it is,
//! and a large one costs a few percent of a core while somebody looks. What is changed here ([`Shelf::look_at`]) shows at once.

use crate::commands::inventory::{self, Peeks, Sum};
use crate::commands::ls::Filter;
use crate::hub::{RepoId, RepoKind};
use crate::mirror::Mirror;
use crate::store::{Pin, StoreError, View};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// Rest between two walks, in times of what the last one took.
const REST: u32 = 20;
const REST_MIN: Duration = Duration::from_millis(500);
/// A question waits so long for the walk that it began; then it is answered by what there is.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A walk works without pause for so long; after that it sleeps as much as it works.
const SPRINT: Duration = Duration::from_millis(100);
/// The first walk shows what it has after so long, and then each time twice that later.
const FIRST_SIGHT: Duration = Duration::from_millis(500);
/// Objects remembered in a walk, so that those of several repos are opened once.
const PEEKS_MAX: usize = 50_000;

/// A repo of which something is kept.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: RepoId,
    /// `models/org/name`.
    pub(super) name: String,
    pub(super) pinned: bool,
    pub(super) pins: Vec<Pin>,
    /// Upstream said last that anybody may read it.
    pub(super) open: bool,
    pub(super) revision_count: usize,
    pub(super) sum: Sum,
}

/// The repos as a walk found them, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) rows: Arc<Vec<Arc<Row>>>,
    /// Repos that there are; more than rows while the first walk runs.
    pub(super) repo_count: usize,
    /// When the walk ended; none while the first one runs.
    pub(super) read_at: Option<SystemTime>,
    pub(super) took: Duration,
    /// Walks that ended before this was made.
    pub(super) walk_count: u64,
}

pub(super) struct Shelf {
    mirror: Arc<Mirror>,
    state: Mutex<State>,
    walked: Notify,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    walking: bool,
    ended_at: Option<Instant>,
    /// Looked at while a walk runs, which may have passed them before they changed.
    changed: HashSet<RepoId>,
}

impl Shelf {
    pub(super) fn new(mirror: Arc<Mirror>) -> Arc<Shelf> {
        Arc::new(Shelf { mirror, state: Mutex::default(), walked: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is kept, as fresh as the bounds above allow.
    pub(super) async fn snapshot(self: &Arc<Self>) -> Snapshot {
        let walked = self.walked.notified();
        tokio::pin!(walked);
        walked.as_mut().enable();
        let (begins, waits) = {
            let mut state = self.state();
            let rest = (state.snapshot.took * REST).max(REST_MIN);
            let is_due = state.ended_at.is_none_or(|at| at.elapsed() >= rest);
            let begins = is_due && !state.walking;
            state.walking |= begins;
            // One that takes longer than anybody waits is not waited for at all, unless there is nothing else.
            (begins, state.walking && state.snapshot.took < WAIT_MAX)
        };
        if begins {
            let shelf = self.clone();
            tokio::task::spawn_blocking(move || shelf.walk());
        }
        if waits {
            let _ = tokio::time::timeout(WAIT_MAX, walked).await;
        }
        self.state().snapshot.clone()
    }

    /// Looks at one repo anew, after something was done to it. Blocks.
    pub(super) fn look_at(&self, id: &RepoId) {
        let row = self.view().pins().and_then(|pins| self.read(&self.view(), id, &pins, &mut Peeks::new(&self.view())));
        let row = match row {
            Ok(row) => row,
            Err(error) => return log::warn!("cannot look at what is kept of {id}: {error}"),
        };
        let mut state = self.state();
        if state.walking {
            state.changed.insert(id.clone());
        }
        if state.snapshot.read_at.is_none() {
            return;
        }
        let rows = Arc::make_mut(&mut state.snapshot.rows);
        match (rows.binary_search_by(|row| row.id.cmp(id)), row) {
            (Ok(at), Some(row)) => rows[at] = Arc::new(row),
            (Ok(at), None) => drop(rows.remove(at)),
            (Err(at), Some(row)) => rows.insert(at, Arc::new(row)),
            (Err(_), None) => {}
        }
        state.snapshot.repo_count = state.snapshot.rows.len();
    }

    fn view(&self) -> View {
        self.mirror.store.view()
    }

    fn walk(&self) {
        let began = Instant::now();
        let walked = self.rows(began);
        let mut state = self.state();
        state.walking = false;
        state.ended_at = Some(Instant::now());
        state.snapshot.took = began.elapsed();
        state.snapshot.walk_count += 1;
        let changed = std::mem::take(&mut state.changed);
        match walked {
            Ok(rows) => {
                state.snapshot.repo_count = rows.len();
                state.snapshot.rows = Arc::new(rows);
                state.snapshot.read_at = Some(SystemTime::now());
            }
            Err(error) => log::warn!("cannot list what is kept: {error}"),
        }
        drop(state);
        changed.iter().for_each(|id| self.look_at(id));
        self.walked.notify_waiters();
    }

    fn rows(&self, began: Instant) -> Result<Vec<Arc<Row>>, StoreError> {
        let view = self.view();
        let pins = view.pins()?;
        let ids = view.repos()?;
        let mut peeks = Peeks::new(&view);
        let mut rows = Vec::with_capacity(ids.len());
        let mut sight = FIRST_SIGHT;
        let mut sprint = Instant::now();
        for id in &ids {
            if peeks.len() > PEEKS_MAX {
                peeks = Peeks::new(&view);
            }
            match self.read(&view, id, &pins, &mut peeks) {
                Ok(row) => rows.extend(row.map(Arc::new)),
                // One that cannot be read does not hide the others.
                Err(error) => log::warn!("cannot look at what is kept of {id}: {error}"),
            }
            if began.elapsed() >= sight {
                sight *= 2;
                let mut state = self.state();
                if state.snapshot.read_at.is_none() {
                    state.snapshot.rows = Arc::new(rows.clone());
                    state.snapshot.repo_count = ids.len();
                }
            }
            let worked = sprint.elapsed();
            if worked >= SPRINT {
                thread::sleep(worked);
                sprint = Instant::now();
            }
        }
        Ok(rows)
    }

    /// Reads one repo; none when nothing is kept of it.
    fn read(&self, view: &View, id: &RepoId, pins: &[Pin], peeks: &mut Peeks<'_>) -> Result<Option<Row>, StoreError> {
        let repo = inventory::repo(view, id, pins, peeks)?;
        if repo.commits.is_empty() {
            return Ok(None);
        }
        let open = self.mirror.is_known_open(id).unwrap_or(false);
        let name = id.to_string();
        let inventory::Repo { pinned, pins, sum, commits, .. } = repo;
        Ok(Some(Row { id: id.clone(), name, pinned, pins, open, revision_count: commits.len(), sum }))
    }
}

/// In which order repos are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Name,
    /// Bytes on the disk.
    Size,
    /// Last read.
    Used,
    Hits,
    /// Share that is there.
    Complete,
}

/// Which repos are wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) filter: Option<Filter>,
    pub(super) kind: Option<RepoKind>,
    pub(super) open_only: bool,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

/// Returns how many repos are wanted, their bytes on the disk, and the rows from `offset` on. Without a walk, and without sorting
/// what is not shown.
pub(super) fn page(rows: &[Arc<Row>], wanted: &Wanted, hits: impl Fn(&RepoId) -> u64) -> (usize, u64, Vec<Arc<Row>>) {
    let is_wanted = |row: &&Arc<Row>| {
        (row.open || !wanted.open_only)
            && wanted.kind.is_none_or(|kind| row.id.kind() == kind)
            && wanted.filter.as_ref().is_none_or(|filter| filter.admits(&row.name))
    };
    let mut found: Vec<(u64, &Arc<Row>)> = rows.iter().filter(is_wanted).map(|row| (0, row)).collect();
    let total_len = found.iter().map(|(_, row)| row.sum.allocated_len).sum();
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    for (key, row) in &mut found {
        // The largest first.
        *key = u64::MAX
            - match wanted.sort {
                Sort::Name => 0,
                Sort::Size => row.sum.allocated_len,
                Sort::Used => row.sum.read.map_or(0, seconds),
                Sort::Hits => hits(&row.id),
                Sort::Complete => row.sum.percent() + u64::from(row.sum.complete),
            };
    }
    let total = found.len();
    let (start, end) = (wanted.offset.min(total), wanted.offset.saturating_add(wanted.limit).min(total));
    let order = |a: &(u64, &Arc<Row>), b: &(u64, &Arc<Row>)| -> Ordering {
        let order = a.0.cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id));
        if wanted.reversed { order.reverse() } else { order }
    };
    if end < total {
        found.select_nth_unstable_by(end, order);
        found.truncate(end);
    }
    found.sort_unstable_by(order);
    (total, total_len, found[start..].iter().map(|(_, row)| (*row).clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<Arc<Row>> {
        let mut rows: Vec<_> = (0..count)
            .map(|index| {
                let kind = if index % 10 == 0 { RepoKind::Dataset } else { RepoKind::Model };
                let id = RepoId::parse(kind, &format!("org-{}/repo-{index:06}", index % 7)).unwrap();
                let size = 1 + index;
                let sum = Sum { allocated_len: index * 7919 % count, size, present_len: size.min(500), ..Sum::default() };
                Arc::new(Row {
                    name: id.to_string(),
                    id,
                    pinned: false,
                    pins: Vec::new(),
                    open: index % 3 != 0,
                    revision_count: 1,
                    sum,
                })
            })
            .collect();
        rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        rows
    }

    /// Every page of every order is what sorting everything would have shown.
    #[test]
    fn pages_of_a_hundred_thousand_repos_are_those_of_the_whole_order() {
        let rows = rows(100_000);
        let hits = |id: &RepoId| id.name().len() as u64 * 31 % 5;
        for sort in [Sort::Name, Sort::Size, Sort::Hits, Sort::Complete] {
            for reversed in [false, true] {
                let wanted = |offset, limit| Wanted { sort, reversed, offset, limit, ..Wanted::default() };
                let (_, _, whole) = page(&rows, &wanted(0, rows.len()), hits);
                assert_eq!(whole.len(), rows.len());
                for offset in [0, 1, 50, 77_777, 99_990, 99_999] {
                    let (total, _, part) = page(&rows, &wanted(offset, 50), hits);
                    assert_eq!(total, rows.len());
                    let expected = &whole[offset..(offset + 50).min(whole.len())];
                    assert!(part.iter().zip(expected).all(|(a, b)| Arc::ptr_eq(a, b)) && part.len() == expected.len());
                }
            }
        }
        let (_, _, by_size) = page(&rows, &Wanted { sort: Sort::Size, limit: 2, ..Wanted::default() }, hits);
        assert!(by_size[0].sum.allocated_len > by_size[1].sum.allocated_len);
        assert!(page(&rows, &Wanted { offset: usize::MAX, limit: 50, ..Wanted::default() }, hits).2.is_empty());
    }

    #[test]
    fn what_is_not_wanted_is_neither_shown_nor_counted() {
        let rows = rows(3000);
        let some = Wanted {
            filter: Some(Filter::parse("ORG-3/").unwrap()),
            kind: Some(RepoKind::Dataset),
            open_only: true,
            limit: 1000,
            ..Wanted::default()
        };
        let (total, len, part) = page(&rows, &some, |_| 0);
        let expected: Vec<_> =
            rows.iter().filter(|row| row.open && row.name.starts_with("datasets/org-3/")).map(|row| &row.name).collect();
        assert!(total == expected.len() && total > 0);
        assert_eq!(part.iter().map(|row| &row.name).collect::<Vec<_>>(), expected);
        assert_eq!(len, part.iter().map(|row| row.sum.allocated_len).sum::<u64>());
    }
}
