//! Connects by name, resolving it anew for every connection.

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, Result};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Pingora resolves a name once and blocks while it does; this resolves on each connect, on tokio's own pool, and tries
/// the addresses in order until one answers.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) connect_timeout: Duration,
}

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, _unused: &SocketAddr) -> Result<Stream> {
        let failed =
            |kind: ErrorType, cause: String| Error::explain(kind, format!("connect to {}:{}: {cause}", self.host, self.port));
        let dial = async {
            let addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
                .await
                .map_err(|e| failed(ErrorType::ConnectError, format!("name lookup: {e}")))?
                .collect();
            let mut last = failed(ErrorType::ConnectError, "the name has no address".into());
            for address in addresses {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(e) => last = failed(ErrorType::ConnectError, e.to_string()),
                }
            }
            Err(last)
        };
        match timeout(self.connect_timeout, dial).await {
            Ok(stream) => Ok(stream?.into()),
            Err(_) => Err(failed(ErrorType::ConnectTimedout, format!("no answer in {:?}", self.connect_timeout))),
        }
    }
}
