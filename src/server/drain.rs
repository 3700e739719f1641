//! The end: what is running is completed, in bounded time.
//!
//! Connections are counted, not requests: a connection is open until the last byte of its last response has been given to
//! the kernel, whereas a request counts as done a little before that. Idle connections do not delay the end, because
//! pingora closes them (`http_cleanup`) once its accept loop has ended, and a response that runs meanwhile is the last on
//! its connection.

use crate::metrics::metrics;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How often the count is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Flights whose readers are all served have at most a block to publish; so long it may take, drain time or not.
const FLIGHTS_END_MAX: Duration = Duration::from_secs(2);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    All,
    TimedOut { open: u64 },
}

/// Waits until no connection is open, or `at_most` has passed. No new ones may come any more.
pub(super) async fn wait(connections: &AtomicU64, at_most: Duration) -> Drained {
    let began = Instant::now();
    let open = || connections.load(Ordering::Acquire);
    if open() > 0 {
        log::info!("draining connections={} requests={} at_most={at_most:?}", open(), metrics().clients.get());
    }
    // Twice in a row none: between its accept and its task's first step a connection is in no count.
    let mut calm = false;
    loop {
        let now_open = open();
        if now_open == 0 && calm {
            break;
        }
        if now_open > 0 && began.elapsed() >= at_most {
            return Drained::TimedOut { open: now_open };
        }
        calm = now_open == 0;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let served = Instant::now();
    while metrics().flights.get() > 0 && served.elapsed() < FLIGHTS_END_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Drained::All
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_drain_ends_with_the_last_connection_or_with_patience() {
        let count = Arc::new(AtomicU64::new(0));
        assert_eq!(wait(&count, Duration::ZERO).await, Drained::All);
        count.fetch_add(1, Ordering::AcqRel);
        assert_eq!(wait(&count, Duration::from_millis(60)).await, Drained::TimedOut { open: 1 });
        let ends = tokio::spawn({
            let count = count.clone();
            async move { count.fetch_sub(1, Ordering::AcqRel) }
        });
        assert_eq!(wait(&count, Duration::from_secs(10)).await, Drained::All);
        ends.await.unwrap();
    }
}
