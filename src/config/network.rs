//! A network of IP addresses, as `10.0.0.0/8` or a single address.

use std::fmt;
use std::net::IpAddr;

/// The addresses that share their first bits with `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_len: u32,
}

impl Network {
    /// Reads `192.0.2.1`, `10.0.0.0/8` or `2001:db8::/32`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Network, String> {
        let wrong = || "is not an IP address, perhaps with a prefix length: 10.0.0.0/8, 2001:db8::/32".to_owned();
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = bits_of(address).1;
        let prefix_len = match prefix_len {
            None => bits,
            Some(digits) => digits.parse().ok().filter(|len| *len <= bits).ok_or_else(wrong)?,
        };
        Ok(Network { address, prefix_len })
    }

    /// Says whether `address` lies within; an IPv4 address in IPv6 clothes counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, own_bits) = bits_of(self.address);
        let (other, other_bits) = bits_of(address.to_canonical());
        // A shift by all bits is none of the language's.
        let shift = own_bits - self.prefix_len;
        own_bits == other_bits && (shift >= own_bits || own >> shift == other >> shift)
    }
}

/// Returns the address as a number, and how many bits it has.
fn bits_of(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own() {
        #[track_caller]
        fn check(network: &str, address: &str, expected: bool) {
            let held = Network::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(held, expected, "{network} {address}");
        }
        check("10.0.0.0/8", "10.255.1.2", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("0.0.0.0/0", "255.1.1.1", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "2001:db8::1", true);
        check("::/0", "10.0.0.1", false);
        check("2001:db8::/33", "2001:db8:7fff::1", true);
        check("2001:db8::/33", "2001:db8:8000::1", false);
        check("127.0.0.0/8", "::ffff:127.0.0.1", true);
    }

    #[test]
    fn nonsense_is_no_network() {
        for text in ["", "a", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8/8", "localhost"] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }
}
