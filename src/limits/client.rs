//! Who asks: the peer of the connection, or whom a trusted proxy names.

use crate::config::Network;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Most addresses of a forwarding chain that are looked at; a chain of trusted proxies is far shorter.
const CHAIN_MAX: usize = 32;

/// A client, as the limits count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Counted by this address.
    Address(IpAddr),
    /// A trusted proxy that speaks for itself, such as this machine's own programs; no limit applies.
    Trusted(IpAddr),
    /// Not an IP connection.
    Local,
}

impl Client {
    /// Goes back through the chain of forwarders as far as they are trusted: the first that is not is the client.
    ///
    /// What an untrusted peer claims is never read, so nobody can take another's name or a fresh one for each request.
    pub(super) fn of<'a>(
        peer: Option<IpAddr>,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
        trusted_proxies: &[Network],
    ) -> Client {
        let Some(peer) = peer.map(|peer| peer.to_canonical()) else { return Client::Local };
        let is_trusted = |address: IpAddr| trusted_proxies.iter().any(|network| network.contains(address));
        if !is_trusted(peer) {
            return Client::Address(peer);
        }
        let mut nearest = peer;
        for hop in forwarded.rev().flat_map(|value| value.rsplit(|&byte| byte == b',')).take(CHAIN_MAX) {
            // What cannot be read came from beyond the last hop that could, which then answers for it.
            let Some(address) = address_in(hop) else { return Client::Address(nearest) };
            if !is_trusted(address) {
                return Client::Address(address);
            }
            nearest = address;
        }
        Client::Trusted(nearest)
    }

    /// Returns the address under which the client is counted, if it is. A host has a whole /64 of IPv6 addresses to itself.
    pub(super) fn counted(self) -> Option<IpAddr> {
        match self {
            Client::Address(IpAddr::V6(address)) => {
                let network = u128::from(address) >> 64 << 64;
                Some(Ipv6Addr::from(network).into())
            }
            Client::Address(address) => Some(address),
            Client::Trusted(_) | Client::Local => None,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Address(address) | Client::Trusted(address) => address.fmt(f),
            Client::Local => f.write_str("local"),
        }
    }
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address_in(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    if let Ok(address) = hop.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = hop.parse::<std::net::SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let bare = hop.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse::<Ipv6Addr>().ok().map(|address| IpAddr::from(address).to_canonical())
}

/// Reads any bytes as an `X-Forwarded-For`; only a trusted peer's is believed, and no limit is got rid of by it.
pub fn fuzz_client(data: &[u8]) {
    let trusted = [Network::parse("10.0.0.0/8").expect("a network")];
    let values = || data.split(|&byte| byte == b'\n');
    let of = |peer: [u8; 4]| Client::of(Some(peer.into()), values(), &trusted);
    assert_eq!(of([192, 0, 2, 1]), Client::Address(IpAddr::from([192, 0, 2, 1])));
    if let Client::Trusted(address) = of([10, 0, 0, 1]) {
        assert!(trusted[0].contains(address), "{address}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_name_others() {
        #[track_caller]
        fn check(peer: &str, forwarded: &[&str], expected: &str) {
            let trusted = ["127.0.0.0/8", "10.0.0.0/8", "::1"].map(|network| Network::parse(network).unwrap());
            let client = Client::of(peer.parse().ok(), forwarded.iter().map(|value| value.as_bytes()), &trusted);
            let kind = if client.counted().is_some() { "" } else { " free" };
            assert_eq!(format!("{client}{kind}"), expected, "{peer} {forwarded:?}");
        }
        check("192.0.2.1", &[], "192.0.2.1");
        check("192.0.2.1", &["198.51.100.9"], "192.0.2.1");
        check("127.0.0.1", &[], "127.0.0.1 free");
        check("::ffff:127.0.0.1", &[], "127.0.0.1 free");
        check("127.0.0.1", &["198.51.100.9"], "198.51.100.9");
        check("127.0.0.1", &["203.0.113.5, 198.51.100.9, 10.1.1.1"], "198.51.100.9");
        check("127.0.0.1", &["203.0.113.5", "198.51.100.9", "10.1.1.1"], "198.51.100.9");
        check("10.0.0.1", &["10.0.0.7"], "10.0.0.7 free");
        check("::1", &["2001:db8::7"], "2001:db8::7");
        check("127.0.0.1", &["[2001:db8::7]:443"], "2001:db8::7");
        check("127.0.0.1", &["198.51.100.9:1234"], "198.51.100.9");
        check("127.0.0.1", &["unknown"], "127.0.0.1");
        check("127.0.0.1", &["nonsense, 10.2.2.2"], "10.2.2.2");
        check("127.0.0.1", &[""], "127.0.0.1");
        check("not an address", &[], "local free");
    }

    #[test]
    fn a_host_of_ipv6_is_counted_once() {
        let counted = |address: &str| Client::Address(address.parse().unwrap()).counted();
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), counted("2001:db8:1:2:ffff::1"));
        assert_ne!(counted("2001:db8:1:2::1"), counted("2001:db8:1:3::1"));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
    }
}
