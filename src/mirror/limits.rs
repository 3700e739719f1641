//! What all fills share: turns at upstream, the state of the disk, and the bounds of the configuration.

use crate::config::WhenClientLeaves;
use crate::metrics::metrics;
use crate::store::StoreError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds of all fills together.
pub(super) struct Limits {
    pub(super) turns: Turns,
    /// For readers that are served past the disk, and hold theirs as long as their client takes.
    pub(super) turns_through: Turns,
    pub(super) disk: Disk,
    pub(super) couriers_max: usize,
    /// In bytes; how many blocks that are differs between objects.
    pub(super) run_size: u64,
    /// How long a run is tried without progress.
    pub(super) patience: Duration,
    pub(super) when_client_leaves: WhenClientLeaves,
}

/// Whether the disk took what it was given lately.
#[derive(Default)]
pub(super) struct Disk {
    failed: Mutex<Option<(Instant, StoreError)>>,
}

/// After so long a full disk is tried again, and a broken one complained about again.
const DISK_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Disk {
    /// Takes note of a failure.
    pub(super) fn failed(&self, error: &StoreError) {
        metrics().disk_errors.inc();
        let mut failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        // Or a full disk would be filled with its own complaints.
        if failed.as_ref().is_none_or(|(at, _)| at.elapsed() >= DISK_RETRY_AFTER) {
            log::warn!("clients are served past the disk while it fails: {error}");
            *failed = Some((Instant::now(), error.clone()));
        }
    }

    /// The error to expect when the disk was full a moment ago. Other failures concern single files.
    pub(super) fn full(&self) -> Option<StoreError> {
        let failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
        let (at, error) = failed.as_ref()?;
        (at.elapsed() < DISK_RETRY_AFTER && matches!(error, StoreError::Full { .. })).then(|| error.clone())
    }
}

/// Turns at upstream, one per connection. An object's only courier waits for one, first come first served; further
/// couriers take what is free at once, and never the last quarter: objects that hang must not keep others from starting.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    further: Arc<Semaphore>,
}

/// Held while a courier is at upstream.
pub(super) struct Turn {
    _one: Option<OwnedSemaphorePermit>,
    _further: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(connections: usize) -> Turns {
        let further = connections - connections.div_ceil(4);
        Turns { all: Arc::new(Semaphore::new(connections)), further: Arc::new(Semaphore::new(further)) }
    }

    pub(super) async fn wait(&self) -> Turn {
        // Never closed: an error would only mean that nothing bounds us.
        Turn { _one: self.all.clone().acquire_owned().await.ok(), _further: None }
    }

    pub(super) fn try_further(&self) -> Option<Turn> {
        let further = self.further.clone().try_acquire_owned().ok()?;
        let one = self.all.clone().try_acquire_owned().ok()?;
        Some(Turn { _one: Some(one), _further: Some(further) })
    }
}
