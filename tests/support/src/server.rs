//! Sockets and connections: two listeners that can fall silent and come back, and the way of a request through the fake.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::log::Listener;
use crate::serve::serve;
use crate::state::Shared;

const BACKLOG: u32 = 1024;

/// One port. It stays ours while nothing listens on it: a second socket, bound but not listening, holds it, so that
/// clients are refused and no other process can take the number.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _holds: TcpSocket,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Port {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Port> {
        let holds = socket(address)?;
        Ok(Port { address: holds.local_addr()?, _holds: holds, accepting: Mutex::new(None) })
    }

    /// Begins to listen, if it does not yet.
    pub(crate) fn open(&self, listener: Listener, shared: &Arc<Shared>) -> io::Result<()> {
        let mut accepting = self.accepting.lock().unwrap_or_else(|broken| broken.into_inner());
        if accepting.is_none() {
            let sockets = socket(self.address)?.listen(BACKLOG)?;
            *accepting = Some(tokio::spawn(accept(sockets, listener, shared.clone())));
        }
        Ok(())
    }

    /// Stops listening; what is returned ends when the port refuses.
    pub(crate) fn close(&self) -> Option<JoinHandle<()>> {
        let task = self.accepting.lock().unwrap_or_else(|broken| broken.into_inner()).take()?;
        task.abort();
        Some(task)
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(sockets: TcpListener, listener: Listener, shared: Arc<Shared>) {
    loop {
        match sockets.accept().await {
            Ok((stream, _)) => take_in(stream, listener, &shared),
            // Out of file descriptors, most likely: let some connections end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn take_in(stream: TcpStream, listener: Listener, shared: &Arc<Shared>) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    // Held while spawning, so that the connection cannot take itself out before it is in.
    let mut connections = shared.connections.lock().unwrap_or_else(|broken| broken.into_inner());
    let presence = Presence { shared: shared.clone(), listener, number };
    let counts = shared.log.counts(listener);
    counts.connections_open.fetch_add(1, Relaxed);
    counts.connections_total.fetch_add(1, Relaxed);
    connections.insert(number, tokio::spawn(converse(stream, presence)));
}

/// A connection's place in the list. It notes what a handler died of when it is dropped while unwinding.
struct Presence {
    shared: Arc<Shared>,
    listener: Listener,
    number: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.log.counts(self.listener).connections_open.fetch_sub(1, Relaxed);
        let mut connections = self.shared.connections.lock().unwrap_or_else(|broken| broken.into_inner());
        connections.remove(&self.number);
        drop(connections);
        if std::thread::panicking() {
            let note = format!("a handler of the {} panicked (see stderr)", self.listener.name());
            self.shared.panics.lock().unwrap_or_else(|broken| broken.into_inner()).push(note);
        }
    }
}

async fn converse(stream: TcpStream, presence: Presence) {
    let _ = stream.set_nodelay(true);
    let wire = Arc::new(Wire { number: presence.number, ..Wire::default() });
    let socket = TokioIo::new(Socket { stream, wire: wire.clone() });
    let service = service_fn(|request| {
        let (shared, wire) = (presence.shared.clone(), wire.clone());
        async move { Ok::<_, Infallible>(serve(shared, presence.listener, wire, request).await) }
    });
    // An error is a client that went away or a cut by plan.
    let _ = http1::Builder::new().serve_connection(socket, service).await;
}

/// Closes all connections and waits until they are gone.
pub(crate) async fn hang_up(shared: &Shared) {
    for task in hang_up_now(shared) {
        let _ = task.await;
    }
}

pub(crate) fn hang_up_now(shared: &Shared) -> Vec<JoinHandle<()>> {
    let mut connections = shared.connections.lock().unwrap_or_else(|broken| broken.into_inner());
    let tasks: HashMap<u64, JoinHandle<()>> = std::mem::take(&mut connections);
    drop(connections);
    tasks.into_values().inspect(|task| task.abort()).collect()
}

/// What the body and the socket of one connection tell each other.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) number: u64,
    flushed: Notify,
    /// When the next byte of a paced connection may go.
    due: Mutex<Option<Instant>>,
    reset: AtomicBool,
}

impl Wire {
    /// Waits until all that was handed to the connection is in the kernel's hands.
    pub(crate) async fn flushed(self: Arc<Wire>) {
        self.flushed.notified().await;
    }

    pub(crate) fn reset_at_end(&self, reset: bool) {
        self.reset.store(reset, Relaxed);
    }

    pub(crate) fn owe(&self, time: Duration) {
        let mut due = self.due.lock().unwrap_or_else(|broken| broken.into_inner());
        *due = Some(due.map_or_else(Instant::now, |due| due.max(Instant::now())) + time);
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        *self.due.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// A stream that tells its wire of each flush; hyper flushes only when its own buffer has gone out.
struct Socket {
    stream: TcpStream,
    wire: Arc<Wire>,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.wire.flushed.notify_waiters();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.wire.reset.load(Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}
