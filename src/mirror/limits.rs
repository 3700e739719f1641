//! What all fills share: turns at upstream, the state of the disk, and the bounds of the configuration.

use super::through::{Parked, Stream};
use crate::alarms;
use crate::config::WhenClientLeaves;
use crate::metrics::metrics;
use crate::store::StoreError;
use prometheus::IntGauge;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds of all fills together.
pub(super) struct Limits {
    pub(super) turns: Turns,
    /// For readers that are served past the disk: theirs until others need it more.
    pub(super) turns_through: Turns,
    /// Their streams, while their clients are busy.
    pub(super) parked: Mutex<Vec<Weak<Parked>>>,
    pub(super) disk: Disk,
    pub(super) couriers_max: usize,
    /// In bytes; how many blocks that are differs between objects.
    pub(super) run_size: u64,
    /// How long a run is tried without progress.
    pub(super) patience: Duration,
    pub(super) when_client_leaves: WhenClientLeaves,
}

/// How long a reader past the disk waits for its turn, looking so often whether a stream lies idle that long.
const THROUGH_WAIT_MAX: Duration = Duration::from_secs(5);
const THROUGH_LOOK_EVERY: Duration = Duration::from_millis(250);
const THROUGH_IDLE_MIN: Duration = Duration::from_secs(1);

impl Limits {
    /// A turn past the disk, perhaps taken from a reader that does not use its own. None when all are in use.
    pub(super) async fn turn_through(&self) -> Option<Turn> {
        let waiting = self.turns_through.wait();
        tokio::pin!(waiting);
        for _ in 0..THROUGH_WAIT_MAX.as_millis() / THROUGH_LOOK_EVERY.as_millis() {
            if let Ok(turn) = tokio::time::timeout(THROUGH_LOOK_EVERY, &mut waiting).await {
                return Some(turn);
            }
            let mut parked = self.parked.lock().unwrap_or_else(|e| e.into_inner());
            parked.retain(|parked| parked.strong_count() > 0);
            let longest = parked.iter().filter_map(Weak::upgrade).max_by_key(|parked| parked.idle());
            if let Some(parked) = longest.filter(|parked| parked.idle().is_some_and(|idle| idle >= THROUGH_IDLE_MIN)) {
                parked.close();
            }
        }
        None
    }

    /// Leaves a stream where others find it.
    pub(super) fn park(&self, place: &Arc<Parked>, stream: Stream) {
        if Arc::weak_count(place) == 0 {
            let mut parked = self.parked.lock().unwrap_or_else(|e| e.into_inner());
            if parked.len() == parked.capacity() {
                parked.retain(|parked| parked.strong_count() > 0);
            }
            parked.push(Arc::downgrade(place));
        }
        place.put(stream);
    }
}

/// Whether the disk took what it was given lately.
pub(super) struct Disk {
    /// It takes nothing at all, and everybody was told at the start.
    read_only: Option<StoreError>,
    failed: Mutex<Option<(Instant, StoreError)>>,
}

/// After so long a full disk is tried again, and a broken one complained about again.
const DISK_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Disk {
    pub(super) fn new(read_only: Option<StoreError>) -> Disk {
        Disk { read_only, failed: Mutex::default() }
    }

    /// Takes note of a failure.
    pub(super) fn failed(&self, error: &StoreError) {
        // The disk has not failed; one who reads what is larger than the whole cache is no reason to buy another.
        if matches!(error, StoreError::ReadOnly { .. } | StoreError::TooLarge { .. }) {
            return;
        }
        metrics().disk_errors.inc();
        if matches!(error, StoreError::Full { .. } | StoreError::NoRoom { .. }) {
            alarms::disk_short(|| error.to_string());
        }
        let mut failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        // Or a full disk would be filled with its own complaints.
        if failed.as_ref().is_none_or(|(at, _)| at.elapsed() >= DISK_RETRY_AFTER) {
            log::warn!("clients are served past the disk while it fails: {error}");
            *failed = Some((Instant::now(), error.clone()));
        }
    }

    /// The error to expect when the disk was full a moment ago, or takes nothing. Other failures concern single files.
    pub(super) fn full(&self) -> Option<StoreError> {
        if self.read_only.is_some() {
            return self.read_only.clone();
        }
        let failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        let (at, error) = failed.as_ref()?;
        (at.elapsed() < DISK_RETRY_AFTER && matches!(error, StoreError::Full { .. })).then(|| error.clone())
    }
}

/// Turns at upstream, one per connection. One courier of each object waits for one, first come first served; the others take
/// what is free at once, and never the last quarter: objects that hang must not keep others from starting.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    further: Arc<Semaphore>,
}

/// Held while a courier is at upstream.
pub(super) struct Turn {
    _one: Option<OwnedSemaphorePermit>,
    _further: Option<OwnedSemaphorePermit>,
    _counted: Counted,
}

/// Adds one to a gauge while it lives.
struct Counted(&'static IntGauge);

impl Counted {
    fn new(gauge: &'static IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Turns {
    pub(super) fn new(connections: usize) -> Turns {
        let further = connections - connections.div_ceil(4);
        Turns { all: Arc::new(Semaphore::new(connections)), further: Arc::new(Semaphore::new(further)) }
    }

    pub(super) async fn wait(&self) -> Turn {
        let one = match self.all.clone().try_acquire_owned() {
            Ok(one) => Some(one),
            Err(_) => {
                let _waits = Counted::new(&metrics().fetches_waiting);
                // Never closed: an error would only mean that nothing bounds us.
                self.all.clone().acquire_owned().await.ok()
            }
        };
        Turn { _one: one, _further: None, _counted: Counted::new(&metrics().fetches) }
    }

    pub(super) fn try_further(&self) -> Option<Turn> {
        let further = self.further.clone().try_acquire_owned().ok()?;
        let one = self.all.clone().try_acquire_owned().ok()?;
        Some(Turn { _one: Some(one), _further: Some(further), _counted: Counted::new(&metrics().fetches) })
    }
}
