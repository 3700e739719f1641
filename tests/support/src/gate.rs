//! A brake for one request or many: what arrives waits until the test lets it go. Barriers instead of sleeps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

/// How long `wait_reached` waits before it fails the test.
const REACHED_WITHIN: Duration = Duration::from_secs(30);

struct State {
    name: String,
    reached: watch::Sender<usize>,
    /// Closed once the gate is open for good; before that, one permit lets one request go.
    pass: Semaphore,
}

/// The test's side of a held request. Dropping it opens the gate.
#[must_use = "dropping a gate opens it"]
pub struct Gate {
    state: Arc<State>,
}

impl Gate {
    pub(crate) fn new(name: &str) -> Gate {
        let state = State { name: name.to_owned(), reached: watch::Sender::new(0), pass: Semaphore::new(0) };
        Gate { state: Arc::new(state) }
    }

    pub(crate) fn barrier(&self) -> Barrier {
        Barrier { state: self.state.clone() }
    }

    /// Waits until a request stands at the gate; panics after 30 s.
    pub async fn wait_reached(&self) {
        self.wait_reached_by(1).await;
    }

    /// Waits until `count` requests have reached the gate since it was made; panics after 30 s.
    pub async fn wait_reached_by(&self, count: usize) {
        let mut reached = self.state.reached.subscribe();
        let wait = reached.wait_for(|reached| *reached >= count);
        let met = tokio::time::timeout(REACHED_WITHIN, wait).await.is_ok();
        assert!(met, "gate `{}`: wanted {count} requests, {} came", self.state.name, self.reached());
    }

    /// Returns how many requests have reached the gate so far.
    pub fn reached(&self) -> usize {
        *self.state.reached.borrow()
    }

    /// Lets one request go: one that waits, or the next to come.
    pub fn release_one(&self) {
        self.state.pass.add_permits(1);
    }

    /// Opens the gate for good.
    pub fn release(&self) {
        self.state.pass.close();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.pass.close();
    }
}

/// The request's side of a gate.
#[derive(Clone)]
pub(crate) struct Barrier {
    state: Arc<State>,
}

impl Barrier {
    pub(crate) async fn pass(self) {
        self.state.reached.send_modify(|reached| *reached += 1);
        // An error means the gate is open for good.
        if let Ok(permit) = self.state.pass.acquire().await {
            permit.forget();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.pass.is_closed()
    }
}
