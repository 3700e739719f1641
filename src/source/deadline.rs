//! How long one request of a client may wait for upstream, with all its questions together.
//!
//! Clients give up on a head after 10 s, however many questions the mirror asks meanwhile. So the time is set once, where the
//! request comes in, and every question that is asked in its name ends by then. What runs in a task of its own, as fills do, is
//! nobody's request: there each question has its own time.

use std::time::{Duration, Instant};
use tokio::task::futures::TaskLocalFuture;

/// What comes after the questions may take this long at least.
const REST_MIN: Duration = Duration::from_secs(1);

/// Where no request waits: longer than any question may take.
const OUTSIDE_MAX: Duration = Duration::from_secs(24 * 3600);

tokio::task_local! {
    static END: Instant;
}

/// Does the work of one request, whose questions to upstream all end within `time` from now.
pub fn within<F: Future>(time: Duration, work: F) -> TaskLocalFuture<Instant, F> {
    END.scope(Instant::now() + time, work)
}

/// How long this request may still wait for upstream; without an end outside of requests.
pub fn time_left() -> Duration {
    END.try_with(|end| end.saturating_duration_since(Instant::now())).unwrap_or(Duration::MAX)
}

/// How long this request may wait for something else than a question, where `most` is enough: a moment also when the questions
/// took all the time.
pub fn at_most(most: Duration) -> Duration {
    most.min(time_left().max(REST_MIN))
}

/// Asks what is still needed for an answer that is there already, for which a moment is left in any case.
pub fn with_rest<F: Future>(work: F) -> TaskLocalFuture<Instant, F> {
    let now = Instant::now();
    let end = END.try_with(|end| *end).unwrap_or(now + OUTSIDE_MAX);
    END.scope(end.max(now + REST_MIN), work)
}
