//! What stands between a mirror and its upstream: a wire that can fall silent, and an HTTP proxy that opens tunnels.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Carries connections to a target. While it is silent, it accepts them and nothing else.
pub(crate) struct Relay {
    address: SocketAddr,
    dials: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
    /// Each change ends the connections that are open.
    turns: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn start(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (dials, silent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (turns, turned) = watch::channel(0);
        let (counted, quiet) = (dials.clone(), silent.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                let (quiet, mut turned) = (quiet.load(SeqCst), turned.clone());
                turned.mark_unchanged();
                tokio::spawn(async move {
                    let carry = async {
                        if quiet {
                            return std::future::pending().await;
                        }
                        if let Ok(mut far) = TcpStream::connect(target).await {
                            let _ = copy_bidirectional(&mut near, &mut far).await;
                        }
                    };
                    tokio::select! { () = carry => {}, _ = turned.changed() => {} }
                });
            }
        });
        Relay { address, dials, silent, turns, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many connections were accepted so far.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(SeqCst)
    }

    /// Closes what is open; from now on connections are accepted, and nothing comes over them.
    pub(crate) fn fall_silent(&self) {
        self.turn(true);
    }

    /// Closes what is open and carries again.
    pub(crate) fn carry(&self) {
        self.turn(false);
    }

    fn turn(&self, silent: bool) {
        self.silent.store(silent, SeqCst);
        self.turns.send_modify(|turn| *turn += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An HTTP proxy that knows CONNECT only, and remembers whom it was asked for.
pub(crate) struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl ConnectProxy {
    /// Starts one that lets in everybody, or whoever sends exactly this `Proxy-Authorization`.
    pub(crate) async fn start(wanted: Option<&'static str>) -> ConnectProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = asked.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tunnel(stream, wanted, record.clone()));
            }
        });
        ConnectProxy { address, asked, accepting }
    }

    /// Returns `host:port`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the `host:port` of each CONNECT so far, also of those refused.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic holds it").clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn tunnel(mut near: TcpStream, wanted: Option<&str>, record: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // One byte at a time, so that nothing of what follows the head is taken.
        match near.read_u8().await {
            Ok(byte) if head.len() < 4096 => head.push(byte),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or("no CONNECT").to_owned();
    record.lock().expect("no panic holds it").push(target.clone());
    let allowed = wanted.is_none_or(|value| head.contains(&format!("\r\nProxy-Authorization: {value}\r\n")));
    if !allowed {
        let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await;
        return;
    }
    let Ok(mut far) = TcpStream::connect(&target).await else {
        let _ = near.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await;
        return;
    };
    if near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}
