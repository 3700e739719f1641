//! A mirror for a command of this process: the one that runs on the directory, or one of our own.

use super::{Ended, ServeError, listen::Socket, new_runtime, open_store, raise_file_limit, reachable, serve};
use crate::{config::Config, store::Store};
use std::{
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::oneshot;

/// A server that starts has the lock a moment before it listens; it is given so many moments.
const HOLDER_TRIES: u32 = 15;
const HOLDER_MOMENT: Duration = Duration::from_millis(200);
/// After the last answer, how long our own server may go on checking and writing what it has fetched.
const END_MAX: Duration = Duration::from_secs(60);

/// Where the mirror of a directory answers.
#[derive(Debug)]
pub enum MirrorAt {
    /// Another process has it, whose own configuration counts.
    Elsewhere { address: SocketAddr, upstream: String },
    /// This process has started one, which ends when this is dropped.
    Here(Running),
}

/// A server on its own threads. Dropping it drains it and waits for its end.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MirrorAt {
    /// Returns an address to connect to.
    pub fn address(&self) -> SocketAddr {
        match self {
            MirrorAt::Elsewhere { address, .. } => *address,
            MirrorAt::Here(running) => running.address,
        }
    }
}

/// Finds the server that has the directory `store.repos`, or starts one on a free port of the loopback. Blocks.
pub fn mirror_for(config: &Config) -> Result<MirrorAt, ServeError> {
    let mut holder = None;
    for _ in 0..HOLDER_TRIES {
        holder = Store::holder(&config.store.repos);
        match &holder {
            None => return start_in_background(config.clone()).map(MirrorAt::Here),
            Some(note) => {
                if let Some(address) = listen_of(note) {
                    let address = reachable(address);
                    let upstream = upstream_of(note).unwrap_or_default();
                    // An upstream that was named must not be replaced by another one in silence.
                    let named = (config.upstream.url != Config::default().upstream.url).then_some(&config.upstream.url);
                    return match named.filter(|named| **named != upstream) {
                        Some(named) => Err(ServeError::OtherUpstream { address, upstream, named: named.clone() }),
                        None => Ok(MirrorAt::Elsewhere { address, upstream }),
                    };
                }
            }
        }
        thread::sleep(HOLDER_MOMENT);
    }
    Err(ServeError::Silent { directory: config.store.repos.display().to_string(), holder: holder.unwrap_or_default() })
}

/// Starts a server on a free port of the loopback, whatever the configuration says of addresses; takes no signals.
fn start_in_background(mut config: Config) -> Result<Running, ServeError> {
    config.server.listen = "127.0.0.1:0".to_owned();
    config.server.public_url.clear();
    config.metrics.listen.clear();
    config.admin.listen.clear();
    (config.server.drain_delay, config.server.drain_timeout) = (Duration::ZERO, Duration::ZERO);
    raise_file_limit();
    let store = open_store(&config)?;
    let socket = Socket::bind(&config.server.listen, "free a port")?;
    let address = socket.address();
    let runtime = new_runtime(&config)?;
    let (stop, stopped) = oneshot::channel();
    let (report, reports) = mpsc::channel();
    let thread = thread::Builder::new().name("mirror".to_owned()).spawn(move || {
        let started = report.clone();
        let asked = async {
            // A sender that is gone asks for the end as well.
            let _ = stopped.await;
        };
        let ended: Result<Ended, ServeError> =
            runtime.block_on(serve(&config, store, socket, None, asked, |_, _| drop(started.send(Ok(())))));
        if let Err(error) = ended {
            log::error!("the mirror of this process has ended: {error}");
            let _ = report.send(Err(error));
        }
        runtime.shutdown_timeout(END_MAX);
    })?;
    match reports.recv() {
        Ok(Ok(())) => Ok(Running { address, stop: Some(stop), thread: Some(thread) }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ServeError::Stopped("at its start".to_owned())),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the mirror of this process has panicked");
        }
    }
}

/// Reads the address from the note that a holder leaves: `{"pid":1,"listen":"0.0.0.0:8090"}`.
fn listen_of(note: &str) -> Option<SocketAddr> {
    let note: serde_json::Value = serde_json::from_str(note).ok()?;
    note.get("listen")?.as_str()?.parse().ok()
}

fn upstream_of(note: &str) -> Option<String> {
    let note: serde_json::Value = serde_json::from_str(note).ok()?;
    Some(note.get("upstream")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_tells_where_it_listens() {
        assert_eq!(listen_of(r#"{"pid":7,"listen":"0.0.0.0:8090"}"#), Some("0.0.0.0:8090".parse().unwrap()));
        for note in ["", "{}", r#"{"pid":7}"#, r#"{"listen":"here"}"#, "\u{0}"] {
            assert_eq!(listen_of(note), None, "{note}");
        }
    }
}
