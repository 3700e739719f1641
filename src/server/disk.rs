//! Keeps the gauges of disk use fresh.

use crate::{metrics::metrics, store::Store};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

/// The free space is one system call.
const SPACE_EVERY: Duration = Duration::from_secs(60);
/// The use of the objects is a stat per file, and there may be a million.
const WALK_EVERY: Duration = Duration::from_secs(600);

/// Measures for ever; drop or abort it to stop.
pub(super) async fn watch(store: Arc<Store>) {
    let mut ticks = interval(SPACE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walked: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let walk = walked.is_none_or(|at| at.elapsed() >= WALK_EVERY);
        if walk {
            walked = Some(Instant::now());
        }
        let store = store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || measure(&store, walk)).await {
            log::error!("the measuring of the disk broke off: {error}");
        }
    }
}

fn measure(store: &Store, walk: bool) {
    let metrics = metrics();
    // A gauge holds an i64, and no disk more than that.
    let set = |gauge: &prometheus::IntGauge, count: u64| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    let measured = if walk {
        store.disk_use().map(|usage| {
            set(&metrics.disk_used_bytes, usage.allocated_len);
            set(&metrics.blobs, usage.blob_count);
            usage.free_len
        })
    } else {
        store.space().map(|(free_len, _)| free_len)
    };
    match measured {
        Ok(free_len) => set(&metrics.disk_free_bytes, free_len),
        Err(error) => log::warn!("cannot measure the disk: {error}"),
    }
}
