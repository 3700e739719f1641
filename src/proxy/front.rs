//! The doors, one for plain HTTP and perhaps one for TLS: they count connections, let those in for whom there is room, and give each
//! its patience.

use super::{connection::Connection, raw};
use crate::config;
use crate::hub::HubError;
use crate::limits::{Client, Limits, Ticket};
use crate::metrics::metrics;
use async_trait::async_trait;
use pingora_core::{
    apps::ServerApp,
    listeners::tls::Acceptor,
    protocols::{Peek, Stream, l4},
    server::ShutdownWatch,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Refused connections that are given the time to read why; what exceeds this is closed without a word.
const FAREWELLS_MAX: usize = 128;
/// How long each of them may take to send what it has begun, and to read the answer.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// After this many seconds another try makes sense.
const RETRY_AFTER: u64 = 5;

/// The first byte of whoever speaks TLS: a record that carries a handshake.
const TLS_HANDSHAKE: u8 = 22;

/// An app behind a door.
pub struct Front<A> {
    inner: Arc<A>,
    limits: Arc<Limits>,
    connections: Arc<AtomicU64>,
    connections_max: u64,
    head_timeout: Duration,
    send_timeout: Duration,
    farewells: Arc<Semaphore>,
    /// Where this door speaks TLS.
    tls: Option<Acceptor>,
}

impl<A> Front<A> {
    /// `connections_max` is what the system allows, which may be less than what is configured.
    pub fn new(inner: Arc<A>, limits: Arc<Limits>, config: &config::Server, connections_max: u64) -> Front<A> {
        Front {
            inner,
            limits,
            connections: Arc::default(),
            connections_max: connections_max.min(config.connections),
            head_timeout: config.head_timeout,
            send_timeout: config.send_timeout,
            farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)),
            tls: None,
        }
    }

    /// Returns another door to the same app, which speaks TLS. Connections of both are counted together.
    pub fn with_tls(&self, acceptor: Acceptor) -> Front<A> {
        Front {
            inner: self.inner.clone(),
            limits: self.limits.clone(),
            connections: self.connections.clone(),
            farewells: self.farewells.clone(),
            tls: Some(acceptor),
            ..*self
        }
    }

    /// Returns the count of open connections, which lives on when the app is given away.
    pub fn connections(&self) -> Arc<AtomicU64> {
        self.connections.clone()
    }

    fn client(&self, stream: &Stream) -> Client {
        let digest = stream.get_socket_digest();
        let peer = digest.and_then(|digest| digest.peer_addr()?.as_inet().map(|address| address.ip()));
        self.limits.client(peer, std::iter::empty())
    }

    async fn let_in(&self, stream: &Stream, open: &Open) -> Result<Ticket, HubError> {
        if open.nth > self.connections_max {
            metrics().refused("server.connections");
            return Err(HubError::crowded(self.connections_max, RETRY_AFTER));
        }
        let limit = &self.limits.connections;
        limit.enter(self.client(stream)).await.map_err(|_| {
            metrics().refused(limit.key);
            HubError::limited(limit.key, limit.most, RETRY_AFTER)
        })
    }

    /// Answers one that is not let in. The answer comes after what the client has begun to send, and the close after it has
    /// read the answer: a socket that is closed over unread bytes is reset, and then the answer is lost.
    async fn turn_away(&self, stream: Stream, error: &HubError) {
        let Ok(_farewell) = self.farewells.try_acquire() else { return };
        let Ok(Ok(stream)) = timeout(FAREWELL_MAX, self.secure(stream)).await else { return };
        self.farewell(stream, error).await;
    }

    async fn farewell(&self, mut stream: Stream, error: &HubError) {
        let mut unread = [0; 2048];
        let _ = timeout(FAREWELL_MAX, stream.read(&mut unread)).await;
        let said = async {
            stream.write_all(&raw::answer(error)).await?;
            stream.shutdown().await
        };
        if let Ok(Ok(())) = timeout(FAREWELL_MAX, said).await {
            let _ = timeout(FAREWELL_MAX, async { while matches!(stream.read(&mut unread).await, Ok(1..)) {} }).await;
        }
    }
}

/// Why a connection never spoke TLS.
enum Insecure {
    /// It speaks plain HTTP, so it can be told.
    Plain(Stream),
    Broken(String),
}

impl<A> Front<A> {
    /// Agrees on TLS with the client, where this door speaks it.
    async fn secure(&self, stream: Stream) -> Result<Stream, Insecure> {
        let Some(acceptor) = &self.tls else { return Ok(stream) };
        let broken = |cause: &dyn std::fmt::Display| Insecure::Broken(cause.to_string());
        let stream = stream.into_any().downcast::<l4::stream::Stream>();
        let mut stream = stream.map_err(|_| broken(&"the connection is no socket"))?;
        let mut first = [0];
        stream.try_peek(&mut first).await.map_err(|error| broken(&error))?;
        if first[0] != TLS_HANDSHAKE {
            return Err(Insecure::Plain(stream));
        }
        match acceptor.tls_handshake(*stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(broken(&error)),
        }
    }

    /// The same in bounded time. Who does not get there is told why where that is possible; a client that does not trust the
    /// certificate tells nobody but us, so the log says it.
    async fn secured(&self, stream: Stream) -> Option<Stream> {
        let client = self.client(&stream);
        let cause = match timeout(self.head_timeout, self.secure(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(Insecure::Plain(stream))) => {
                if let Ok(_farewell) = self.farewells.try_acquire() {
                    self.farewell(stream, &HubError::speaks_tls()).await;
                }
                "it speaks plain HTTP".to_owned()
            }
            Ok(Err(Insecure::Broken(cause))) => cause,
            Err(_) => "it took longer than server.head_timeout".to_owned(),
        };
        metrics().tls_failures.inc();
        log::info!("no TLS client={client} cause={cause:?}");
        None
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for Front<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let open = Open::new(self.connections.clone());
        let mut ends = shutdown.clone();
        let let_in = tokio::select! {
            let_in = self.let_in(&stream, &open) => let_in,
            // One that waits for its turn does not delay the end.
            _ = ends.wait_for(|ends| *ends) => return None,
        };
        match let_in {
            Ok(_ticket) => {
                let stream = match self.tls {
                    // What is over once the connection speaks should not lie beside it for as long as it lives.
                    Some(_) => {
                        Box::pin(async {
                            tokio::select! {
                                secured = self.secured(stream) => secured,
                                _ = ends.wait_for(|ends| *ends) => None,
                            }
                        })
                        .await?
                    }
                    None => stream,
                };
                let client = self.client(&stream);
                let stream = Connection::new(stream, client, self.head_timeout, self.send_timeout);
                self.inner.process_new(Box::new(stream), shutdown).await
            }
            Err(error) => {
                Box::pin(self.turn_away(stream, &error)).await;
                None
            }
        }
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

/// Counts one connection for as long as it lives, however its task ends.
struct Open {
    count: Arc<AtomicU64>,
    /// How many there are with this one.
    nth: u64,
}

impl Open {
    fn new(count: Arc<AtomicU64>) -> Open {
        metrics().connections.inc();
        let nth = count.fetch_add(1, Ordering::AcqRel) + 1;
        Open { count, nth }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics().connections.dec();
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}
