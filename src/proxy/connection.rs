//! A client's connection with patience: a head arrives in time or not at all, a reader takes something now and then.
//!
//! Pingora's own timeouts do not do for either. Its read timeout is per read, so a head of one byte a minute holds a
//! connection for ever; its write timeout is per chunk of up to 1 MiB, so a slow reader that does make progress is cut. Here
//! the clock of a head runs from its first byte to its end, and that of a reader starts again whenever it takes a byte.
//!
//! Pingora also answers by itself what it cannot read as a request, before any hook: with a bare status. A head of such a status
//! that is written while no request is being answered is that, and the client gets our own words in its place.

use super::raw;
use crate::hub::HubError;
use crate::limits::Client;
use crate::metrics::{Answered, metrics};
use async_trait::async_trait;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID,
    UniqueIDType, raw_connect::ProxyDigest,
};
use pingora_proxy::Session;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest head. Clients send less than 2 KiB, most of it the token; servers elsewhere take 8 to 64 KiB.
const HEAD_LEN_MAX: usize = 64 << 10;
/// A reader's clock is looked at so often per timeout: one that stops is dropped at most a quarter late.
const LOOKS: u32 = 4;

/// The stream between pingora and a client.
#[derive(Debug)]
pub(super) struct Connection {
    inner: Stream,
    client: Client,
    phase: AtomicU8,
    /// Bytes of the current head so far, perhaps with a few of the body.
    head_len: usize,
    head_timeout: Duration,
    head_ends: Pin<Box<Sleep>>,
    send_timeout: Duration,
    stall: Option<Stall>,
    broken: bool,
    /// The client was told no in our own words, so nothing else is written.
    refused: bool,
    /// What is written next leaves at once, for what follows it may take long.
    hurries: AtomicBool,
}

/// Nothing has been read of the next request yet; pingora's keep-alive timeout runs.
const IDLE: u8 = 0;
/// A head is arriving, or the first one is awaited.
const HEAD: u8 = 1;
/// A request is being answered.
const BUSY: u8 = 2;

/// A write that waits for the reader.
#[derive(Debug)]
struct Stall {
    look: Pin<Box<Sleep>>,
    looks_left: u32,
    /// Bytes that the kernel still held for the reader at the last look.
    held_len: Option<usize>,
}

impl Connection {
    pub(super) fn new(inner: Stream, client: Client, head_timeout: Duration, send_timeout: Duration) -> Connection {
        Connection {
            inner,
            client,
            phase: AtomicU8::new(HEAD),
            head_len: 0,
            head_timeout,
            head_ends: Box::pin(sleep_until(Instant::now() + head_timeout)),
            send_timeout,
            stall: None,
            broken: false,
            refused: false,
            hurries: AtomicBool::new(false),
        }
    }

    /// Notes that the session's request head has been read.
    pub(super) fn head_is_read(session: &Session) {
        Connection::set_phase(session, BUSY);
    }

    /// Notes that the session's request has been answered; what is read from here on belongs to the next.
    pub(super) fn request_is_done(session: &Session) {
        Connection::set_phase(session, IDLE);
    }

    /// Sends the next head at once. Pingora leaves it in a buffer until the body begins.
    pub(super) fn hurry(session: &Session) {
        if let Some(connection) = session.stream().and_then(|stream| (**stream).as_any().downcast_ref::<Connection>()) {
            connection.hurries.store(true, Ordering::Relaxed);
        }
    }

    fn set_phase(session: &Session, phase: u8) {
        let connection = session.stream().and_then(|stream| (**stream).as_any().downcast_ref::<Connection>());
        if let Some(connection) = connection {
            connection.phase.store(phase, Ordering::Relaxed);
        }
    }

    /// Says no to a head that is too slow or too long, if the socket takes it at once; the connection ends either way.
    fn refuse(&mut self, cx: &mut Context<'_>, error: &HubError, limit: &'static str) -> io::Error {
        metrics().refused(limit);
        self.broken = true;
        if self.head_len > 0 {
            self.say(cx, error);
        }
        io::Error::new(io::ErrorKind::TimedOut, error.message.clone())
    }

    /// Says no in place of pingora, if that is what `theirs` does.
    fn refuse_unread(&mut self, cx: &mut Context<'_>, theirs: &[u8]) {
        let error = match theirs.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(1..5)) {
            Some(b" 400") => HubError::unreadable(),
            Some(b" 405") => HubError::no_tunnel(),
            _ => return,
        };
        self.refused = true;
        self.say(cx, &error);
    }

    fn say(&mut self, cx: &mut Context<'_>, error: &HubError) {
        let (first_byte, took) = (Duration::ZERO, Duration::ZERO);
        metrics().answered(&Answered {
            route: "unreadable",
            status: error.status,
            sent_len: 0,
            counted_len: 0,
            first_byte,
            took,
        });
        log::info!("refused client={} status={} error={:?}", self.client, error.status, error.message);
        // One try: whoever sends heads like this is not waited for.
        if let Poll::Ready(Ok(_)) = Pin::new(&mut self.inner).poll_write(cx, &raw::answer(error)) {
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
    }

    /// Whether no request is being answered.
    fn is_between(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != BUSY
    }

    /// The write cannot go on; fails once the reader has taken nothing for the whole timeout.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let slice = self.send_timeout / LOOKS;
        let held_len = unsent_len(self.inner.id());
        let stall = self.stall.get_or_insert_with(|| Stall {
            look: Box::pin(sleep_until(Instant::now() + slice)),
            looks_left: LOOKS,
            held_len,
        });
        loop {
            ready!(stall.look.as_mut().poll(cx));
            // The socket becomes writable only when a good part of its buffer is free, which for a slow reader may take
            // minutes; so progress is what the reader has acknowledged.
            let has_progress = matches!((held_len, stall.held_len), (Some(now), Some(before)) if now < before);
            stall.looks_left = if has_progress { LOOKS } else { stall.looks_left - 1 };
            if stall.looks_left == 0 {
                break;
            }
            stall.held_len = held_len;
            stall.look.as_mut().reset(Instant::now() + slice);
        }
        metrics().refused("server.send_timeout");
        self.broken = true;
        // Otherwise the kernel would keep what is unsent, and try to deliver it, for minutes more.
        reset_when_closed(self.inner.id());
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for server.send_timeout"))
    }

    /// Runs the stall's clock while `done` is pending.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_pending() {
            return self.poll_stall(cx).map(Err);
        }
        self.stall = None;
        done
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.broken {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let phase = this.phase.load(Ordering::Relaxed);
        if phase == HEAD && this.head_len >= HEAD_LEN_MAX {
            return Poll::Ready(Err(this.refuse(cx, &HubError::head_too_long(HEAD_LEN_MAX), "head_len")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if phase == BUSY {
            return read;
        }
        let read_len = buf.filled().len() - before;
        if phase == IDLE {
            if read_len > 0 {
                this.head_len = 0;
                this.head_ends.as_mut().reset(Instant::now() + this.head_timeout);
                this.phase.store(HEAD, Ordering::Relaxed);
            } else {
                return read;
            }
        }
        this.head_len += read_len;
        // Asked also when bytes came, or a byte each time would keep the clock from being looked at.
        let is_late = this.head_ends.as_mut().poll(cx).is_ready();
        if is_late && !matches!(read, Poll::Ready(Err(_))) {
            let error = HubError::head_too_slow();
            return Poll::Ready(Err(this.refuse(cx, &error, "server.head_timeout")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.refused && self.is_between() {
            self.refuse_unread(cx, buf);
        }
        if self.refused {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(_))) && self.hurries.swap(false, Ordering::Relaxed) {
            // A socket that is full already needs no hurry.
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        self.patiently(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.refused || self.is_between() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.patiently(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.patiently(cx, shut)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        if !self.broken {
            self.inner.shutdown().await;
        }
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Connection {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

#[async_trait]
impl Peek for Connection {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

/// Returns how many bytes of a TCP socket's send queue its peer has not acknowledged.
fn unsent_len(fd: UniqueIDType) -> Option<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (for sockets also named SIOCOUTQ) writes one int to the pointer, which outlives the call.
    let status = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut len) };
    if status == 0 { usize::try_from(len).ok() } else { None }
}

/// Makes the close of a socket an RST that discards what is unsent.
fn reset_when_closed(fd: UniqueIDType) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the pointer is to the struct above, and the length is its own.
    let status = unsafe {
        let value = std::ptr::from_ref(&linger).cast();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, std::mem::size_of::<libc::linger>() as libc::socklen_t)
    };
    if status != 0 {
        log::debug!("cannot make the close of a stalled connection a reset: {}", io::Error::last_os_error());
    }
}
