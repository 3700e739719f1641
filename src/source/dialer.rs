//! Connects by name, resolving it anew for every connection, through an HTTP proxy if there is one.

use super::tunnel::HttpProxy;
use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Pingora resolves a name once and blocks while it does; this resolves on each connect, on tokio's own pool, and tries
/// the addresses in order until one answers.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) host: String,
    pub(super) port: u16,
    /// For name, connection and tunnel together.
    pub(super) connect_timeout: Duration,
    pub(super) proxy: Option<Arc<HttpProxy>>,
}

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, _unused: &SocketAddr) -> Result<Stream> {
        let deadline = Instant::now() + self.connect_timeout;
        let Some(proxy) = &self.proxy else {
            let place = format!("connect to {}:{}", self.host, self.port);
            return Ok(dial(&self.host, self.port, deadline, &place).await?.into());
        };
        let place = format!("connect to {}:{} through {proxy}", self.host, self.port);
        let mut stream = dial(&proxy.host, proxy.port, deadline, &place).await?;
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let target = format!("{host}:{}", self.port);
        match timeout(deadline - Instant::now(), proxy.connect(&mut stream, &target)).await {
            Ok(Ok(())) => Ok(stream.into()),
            Ok(Err(e)) => Err(failed(ErrorType::ConnectError, &place, &e.to_string())),
            Err(_) => Err(failed(ErrorType::ConnectTimedout, &place, "no reply to CONNECT in time")),
        }
    }
}

fn failed(kind: ErrorType, place: &str, cause: &str) -> Box<Error> {
    Error::explain(kind, format!("{place}: {cause}"))
}

async fn dial(host: &str, port: u16, deadline: Instant, place: &str) -> Result<TcpStream> {
    let resolved = match timeout(deadline - Instant::now(), tokio::net::lookup_host((host, port))).await {
        Ok(resolved) => resolved.map_err(|e| failed(ErrorType::ConnectError, place, &format!("name lookup: {e}")))?,
        Err(_) => return Err(failed(ErrorType::ConnectTimedout, place, "no name lookup in time")),
    };
    let addresses: Vec<_> = resolved.collect();
    let mut last = failed(ErrorType::ConnectError, place, "the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        // An address that swallows packets (IPv6 behind a router without it) leaves time for the others.
        let share = (deadline - Instant::now()) / (addresses.len() - tried) as u32;
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => failed(ErrorType::ConnectError, place, &e.to_string()),
            Err(_) => failed(ErrorType::ConnectTimedout, place, &format!("{} is silent", address.ip())),
        };
    }
    Err(last)
}
