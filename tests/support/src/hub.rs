//! The fake Hub in the test's hand: start it, fill it, break it. What was asked of it is in `observe`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::builder::Builder;
use crate::faults::FaultBuilder;
use crate::gate::Gate;
use crate::handle::Repo;
use crate::log::Listener;
use crate::repo::Kind;
use crate::rules::Aim;
use crate::server::{Port, hang_up, hang_up_now};
use crate::state::Shared;

/// A running fake of huggingface.co and its CDN. Dropping it closes all, and panics if one of its handlers did.
pub struct FakeHub {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ports: [Port; 2],
}

/// Starting, stopping, filling.
impl FakeHub {
    /// Starts on two free ports of 127.0.0.1; panics if there are none.
    pub async fn start() -> FakeHub {
        FakeHub::builder().start().await.expect("two free ports on 127.0.0.1")
    }

    /// Starts on given ports, for instance those a stopped one had.
    pub async fn start_at(hub: SocketAddr, cdn: SocketAddr) -> io::Result<FakeHub> {
        FakeHub::builder().hub_address(hub).cdn_address(cdn).start().await
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the Hub's address as a URL without a trailing slash: what `HF_ENDPOINT` would be.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.hub_address)
    }

    pub fn cdn_url(&self) -> String {
        self.shared.cdn_url()
    }

    pub fn hub_address(&self) -> SocketAddr {
        self.shared.hub_address
    }

    pub fn cdn_address(&self) -> SocketAddr {
        self.shared.cdn_address
    }

    /// Closes listeners and connections, and waits until they are closed.
    pub async fn stop(self) {
        self.down().await;
    }

    /// Refuses new connections and closes the open ones, on both listeners. The ports stay reserved.
    pub async fn down(&self) {
        for task in self.ports.iter().filter_map(Port::close) {
            let _ = task.await;
        }
        hang_up(&self.shared).await;
    }

    /// Listens again after `down`. Content, log and faults are as they were.
    pub async fn up(&self) {
        self.listen().expect("the ports are still ours");
    }

    /// Refuses new connections to the CDN only; the open ones, of both listeners, are closed.
    pub async fn cdn_down(&self) {
        if let Some(task) = self.ports[1].close() {
            let _ = task.await;
        }
        hang_up(&self.shared).await;
    }

    /// Closes all open connections; new ones are welcome.
    pub async fn hang_up(&self) {
        hang_up(&self.shared).await;
    }

    pub(crate) fn listen(&self) -> io::Result<()> {
        self.ports[0].open(Listener::Hub, &self.shared)?;
        self.ports[1].open(Listener::Cdn, &self.shared)
    }

    /// Returns the model of this id, making an empty one if there is none.
    pub fn model(&self, id: &str) -> Repo {
        self.repo(Kind::Model, id)
    }

    pub fn dataset(&self, id: &str) -> Repo {
        self.repo(Kind::Dataset, id)
    }

    pub fn space(&self, id: &str) -> Repo {
        self.repo(Kind::Space, id)
    }

    pub fn kernel(&self, id: &str) -> Repo {
        self.repo(Kind::Kernel, id)
    }

    pub fn repo(&self, kind: Kind, id: &str) -> Repo {
        let mut state = self.shared.state();
        state.repo(kind, id);
        Repo { shared: self.shared.clone(), kind, id: id.to_owned(), branch: "main".to_owned() }
    }

    /// Puts one regular file into a model: the shortest way to have something to ask for.
    pub fn file(&self, id: &str, path: &str, bytes: impl AsRef<[u8]>) -> Repo {
        self.model(id).file(path, bytes)
    }

    /// Takes a repo away.
    pub fn remove(&self, kind: Kind, id: &str) {
        let mut state = self.shared.state();
        if state.repos.remove(&(kind, id.to_owned())).is_some() {
            *state.gone.entry((kind, id.to_owned())).or_default() += 1;
        }
    }

    /// Moves repos from one id to another, or only makes an alias of it: `old` redirects to `new` from now on.
    pub fn rename(&self, old: &str, new: &str) {
        let mut state = self.shared.state();
        for kind in Kind::ALL {
            if let Some(mut repo) = state.repos.remove(&(kind, old.to_owned())) {
                repo.id = new.to_owned();
                state.repos.insert((kind, new.to_owned()), repo);
                *state.gone.entry((kind, old.to_owned())).or_default() += 1;
            }
        }
        state.renamed.insert(old.to_lowercase(), new.to_owned());
    }

    /// Declares a valid token and returns it.
    pub fn token(&self, token: &str) -> String {
        self.shared.state().tokens.insert(token.to_owned());
        token.to_owned()
    }

    /// Makes a token invalid everywhere.
    pub fn revoke(&self, token: &str) {
        self.shared.state().tokens.remove(token);
    }
}

/// Faults and brakes.
impl FakeHub {
    /// Begins a rule for requests whose decoded path or query, or whose file on the CDN (`org/name/path`), contains the text.
    pub fn fault(&self, text: &str) -> FaultBuilder {
        let aim = Aim { needle: text.to_owned(), ..Aim::default() };
        FaultBuilder { rules: self.shared.rules.clone(), aim }
    }

    /// Holds every request for this, on both listeners; see `FaultBuilder::hold`.
    pub fn hold(&self, text: &str) -> Gate {
        self.fault(text).hold()
    }

    /// Takes all rules away.
    pub fn clear_faults(&self) {
        self.shared.rules.clear();
    }

    /// Answers everything on both listeners with this status, until `answer_normally`.
    pub fn answer_all(&self, status: u16) {
        self.shared.state().answer_all = Some(status);
    }

    pub fn answer_normally(&self) {
        self.shared.state().answer_all = None;
    }

    /// Allows this many more requests of a class (`api`, `resolvers` or `pages`) before the Hub says 429.
    pub fn quota(&self, class: &'static str, requests: u64) {
        let mut state = self.shared.state();
        let quota = state.quotas.entry(class).or_default();
        (quota.used, quota.max) = (0, Some(requests));
    }

    /// Ends all quotas: the Hub stops saying 429.
    pub fn clear_quotas(&self) {
        self.shared.state().quotas.clear();
    }

    /// Sets the Hub's clock forward, so that signed addresses expire without waiting.
    pub fn advance_clock(&self, time: Duration) {
        self.shared.state().ahead += time;
    }

    /// Makes every signed address given out so far stale.
    pub fn expire_signatures(&self) {
        let life = self.shared.state().signature_life;
        self.advance_clock(life + Duration::from_secs(1));
    }

    /// Sets the life of addresses signed from now on.
    pub fn set_signature_life(&self, life: Duration) {
        self.shared.state().signature_life = life;
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        let _ = self.ports.iter().filter_map(Port::close).count();
        drop(hang_up_now(&self.shared));
        let panics = std::mem::take(&mut *self.shared.panics.lock().unwrap_or_else(|broken| broken.into_inner()));
        if !panics.is_empty() && !std::thread::panicking() {
            panic!("the fake hub broke: {}", panics.join("; "));
        }
    }
}
