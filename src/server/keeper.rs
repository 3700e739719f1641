//! Keeps what is kept within its limits: the passes on schedule and as soon as a limit is passed, the times of reads, the
//! gauges of the disk.

use crate::{
    alarms,
    config::{Config, EvictionStrategy},
    hub::{Commit, Oid, RepoId},
    metrics::metrics,
    mirror::Mirror,
    store::{Borrower, Limits, Loan, Pass, PassOptions, Store, Strategy},
};
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval};

/// How often the limits are looked at: one system call. A fast line brings about a gigabyte in that time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the times of reads are written down; so much of them a crash may lose.
const FLUSH_EVERY: Duration = Duration::from_secs(60);

/// Tells the store what it may keep, and who keeps objects open.
pub(super) fn introduce(config: &Config, store: &Store, mirror: &Arc<Mirror>) {
    metrics().read_only.set(i64::from(store.read_only().is_some()));
    // Nothing can go where nothing can be written.
    store.set_limits(if store.read_only().is_some() { Limits::default() } else { limits(config) });
    set(&metrics().eviction_max_bytes, config.eviction.max_size);
    store.set_borrower(Arc::new(Warm { mirror: Arc::downgrade(mirror) }));
}

/// Returns the limits of a configuration. Offline there are none, for nothing could be fetched again.
pub fn limits(config: &Config) -> Limits {
    let eviction = &config.eviction;
    if config.upstream.offline {
        return Limits::default();
    }
    Limits {
        strategy: match eviction.strategy {
            EvictionStrategy::Lru => Strategy::Lru,
            EvictionStrategy::Fifo => Strategy::Fifo,
            EvictionStrategy::LargeFirst => Strategy::LargeFirst,
        },
        kept_len_max: eviction.max_size,
        used_percent_max: eviction.max_used_percent,
        free_len_min: eviction.min_free,
        low_water_percent: eviction.low_water,
        quarantined_for: eviction.quarantine,
    }
}

/// Watches for ever; drop or abort it to stop.
pub(super) async fn watch(store: Arc<Store>, pass_every: Duration) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut passed: Option<Instant> = None;
    let mut flushed = Instant::now();
    loop {
        ticks.tick().await;
        let pass_due = passed.is_none_or(|at| at.elapsed() >= pass_every);
        let flush_due = flushed.elapsed() >= FLUSH_EVERY;
        if pass_due {
            passed = Some(Instant::now());
        }
        if flush_due {
            flushed = Instant::now();
        }
        let store = store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || look(&store, pass_due, flush_due)).await {
            log::error!("the watch over the disk broke off: {error}");
        }
    }
}

/// Writes down now and then how often repos were read, for ever; abort it to stop.
pub(super) async fn count(mirror: Arc<Mirror>) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        let mirror = mirror.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || mirror.save_hits()).await {
            log::error!("keeping the counts of reads broke off: {error}");
        }
    }
}

fn look(store: &Store, pass_due: bool, flush_due: bool) {
    let pass_due = pass_due && store.read_only().is_none();
    let done = if pass_due { store.pass(&PassOptions::default()).map(Some) } else { store.pass_if_needed() };
    if let Err(error) = done {
        log::warn!("the eviction pass failed: {error}");
    }
    if let Err(error) = store.sweep_on() {
        log::warn!("the links cannot be looked through: {error}");
    }
    if flush_due {
        store.flush_reads();
    }
    alarms::disk_fits();
    match store.space() {
        Ok((free_len, total_len)) => {
            set(&metrics().disk_free_bytes, free_len);
            set(&metrics().disk_size_bytes, total_len);
        }
        Err(error) => log::warn!("cannot measure the disk: {error}"),
    }
    set(&metrics().disk_used_bytes, store.kept_len());
}

/// A gauge holds an i64, and no disk more than that.
fn set(gauge: &prometheus::IntGauge, count: u64) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// The mirror, as the store sees it: it keeps objects warm. Weak, for the mirror has the store.
struct Warm {
    mirror: Weak<Mirror>,
}

impl Borrower for Warm {
    fn let_go(&self, oid: &Oid) -> Loan {
        self.mirror.upgrade().map_or(Loan::None, |mirror| mirror.let_go(oid))
    }

    fn loan(&self, oid: &Oid) -> Loan {
        self.mirror.upgrade().map_or(Loan::None, |mirror| mirror.loan(oid))
    }

    fn forget(&self, oid: &Oid) {
        if let Some(mirror) = self.mirror.upgrade() {
            mirror.forget(oid);
        }
    }

    fn links_removed(&self) {
        if let Some(mirror) = self.mirror.upgrade() {
            mirror.forget_links();
        }
    }

    fn learned(&self, repo: &RepoId, commit: &Commit, access: bool) {
        if let Some(mirror) = self.mirror.upgrade() {
            mirror.forget_commit(repo, commit, access);
        }
    }

    fn passed(&self, pass: &Pass) {
        let metrics = metrics();
        let reason = pass.need.map_or("none", |need| need.reason.as_str());
        metrics.evicted(reason, pass.evicted_count, pass.evicted_len);
        if let Some(need) = pass.need.filter(|_| pass.falls_short()) {
            metrics.eviction_short.inc();
            let (short_len, reason) = (need.len_min.saturating_sub(pass.gone_len()), need.reason.as_str());
            alarms::disk_short(|| {
                format!("eviction.{reason} is passed by {short_len} bytes, and what is left is pinned or in use")
            });
        }
        metrics.eviction_pass_seconds.set(pass.took.as_secs_f64());
        set(&metrics.quarantine_bytes, pass.quarantine_len);
        set(&metrics.pinned_objects, pass.pinned_count);
        set(&metrics.blobs, pass.blob_count - pass.evicted_count);
    }
}
