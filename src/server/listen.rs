//! The listening sockets: bound by us, served by pingora.
//!
//! Left to itself pingora binds in a task, tries a taken address for half a minute, and then panics there; and it tells
//! nobody which port a port 0 became. So the socket is bound here, at the start, and handed over by the table through which
//! pingora takes sockets from its predecessor.

use super::ServeError;
use pingora_core::{
    apps::ServerApp,
    listeners::{L4BufferSettings, ListenerConfig},
    server::{Fds, ListenFds, ShutdownWatch},
    services::{Service as _, listening::Service},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    sync::Arc,
};

/// Per connection. Requests are small; pingora's own 64 KiB would make of many idle connections a lot of memory.
const READ_BUFFER_LEN: usize = 4 << 10;
/// Takes a head and a small body, which then leave in one packet; larger bodies go past it.
const WRITE_BUFFER_LEN: usize = 4 << 10;

/// A bound socket, whose queue already takes connections.
#[derive(Debug)]
pub(super) struct Socket {
    listener: TcpListener,
    address: SocketAddr,
}

impl Socket {
    /// Binds `ADDR:PORT`; `other` says how to choose another address.
    pub(super) fn bind(asked: &str, other: &str) -> Result<Socket, ServeError> {
        // std sets SO_REUSEADDR, so a restart does not wait for the old process's connections to fade.
        let bound = TcpListener::bind(asked).and_then(|listener| {
            // Pingora hands the socket to tokio as it is.
            listener.set_nonblocking(true)?;
            Ok(Socket { address: listener.local_addr()?, listener })
        });
        bound.map_err(|source| {
            let remedy = match source.kind() {
                io::ErrorKind::AddrInUse => format!("stop what listens there, or {other}"),
                io::ErrorKind::PermissionDenied => format!("ports below 1024 need CAP_NET_BIND_SERVICE: {other}"),
                io::ErrorKind::AddrNotAvailable => format!("this machine does not have that address: {other}"),
                _ => other.to_owned(),
            };
            ServeError::Listen { address: asked.to_owned(), source, remedy }
        })
    }

    /// Returns the address with the port it has really got.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` turns true. When this returns the socket is closed; connections may go on.
    pub(super) async fn serve<A>(self, mut service: Service<A>, shutdown: ShutdownWatch)
    where
        A: ServerApp + Send + Sync + 'static,
    {
        let name = self.address.to_string();
        let buffers = L4BufferSettings::default().read(READ_BUFFER_LEN).write(WRITE_BUFFER_LEN);
        service.add_listener(ListenerConfig::tcp(&name).l4_buffer(buffers));
        let mut table = Fds::new();
        // Pingora owns the descriptor from here on.
        table.add(name, self.listener.into_raw_fd());
        let table: ListenFds = Arc::new(table.into());
        service.start_service(Some(table), shutdown, 1).await;
    }
}

/// Returns the address at which this machine's own programs reach a server that listens on `address`.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_told_with_its_remedy() {
        let first = Socket::bind("127.0.0.1:0", "-").unwrap();
        let taken = first.address().to_string();
        let error = Socket::bind(&taken, "choose another").unwrap_err().to_string();
        assert!(error.contains(&taken) && error.ends_with("stop what listens there, or choose another"), "{error}");
    }

    #[test]
    fn a_server_everywhere_is_reached_on_the_loopback() {
        fn check(address: &str, expected: &str) {
            assert_eq!(reachable(address.parse().unwrap()), expected.parse().unwrap());
        }
        check("0.0.0.0:8090", "127.0.0.1:8090");
        check("[::]:8090", "[::1]:8090");
        check("10.1.2.3:80", "10.1.2.3:80");
    }
}
