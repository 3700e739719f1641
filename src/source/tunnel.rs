//! Outbound HTTP proxies: which one a host is reached through, and the `CONNECT` by which a tunnel through it is opened.
//!
//! Everything goes by CONNECT, plain http as well: so the request that is sent upstream, and the pool of connections, are
//! the same with a proxy and without.

use crate::config::Network;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A proxy's reply to CONNECT: a status line and a few headers. More is not a proxy's reply.
const REPLY_LEN_MAX: usize = 8 << 10;

/// A proxy and what it wants to know of us.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct HttpProxy {
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl HttpProxy {
    /// Reads `http://[user:password@]host[:port]`, or the same without a scheme. The error says what is wrong without the password.
    pub(super) fn parse(text: &str) -> Result<HttpProxy, &'static str> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err("only http:// proxies are spoken"),
            None => text,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| "its port is not a number")?),
            _ => (address, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("it has no host");
        }
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let mut plain: Vec<u8> = percent_decode_str(name).collect();
            plain.push(b':');
            plain.extend(percent_decode_str(password));
            format!("Basic {}", BASE64_STANDARD.encode(plain))
        });
        Ok(HttpProxy { host, port, authorization })
    }

    /// Asks for a tunnel to `target` (`host:port`) on a fresh connection to the proxy.
    pub(super) async fn connect(&self, stream: &mut TcpStream, target: &str) -> io::Result<()> {
        let authorization =
            self.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
        let user_agent = concat!("User-Agent: dingospeed/", env!("CARGO_PKG_VERSION"));
        let ask = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{user_agent}\r\n{authorization}\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut reply = Vec::with_capacity(512);
        loop {
            if let Some(end) = reply.windows(4).position(|w| w == b"\r\n\r\n") {
                // Neither TLS nor HTTP lets the far side speak first, so what follows could only be taken for its answer.
                if reply.len() > end + 4 {
                    return Err(io::Error::other("it sent bytes before the tunnel was used"));
                }
                return check_reply(&reply);
            }
            if reply.len() >= REPLY_LEN_MAX {
                return Err(io::Error::other("its reply to CONNECT has no end"));
            }
            if stream.read_buf(&mut reply).await? == 0 {
                return Err(io::Error::other("it closed the connection instead of a reply to CONNECT"));
            }
        }
    }
}

/// Without the credentials.
impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "proxy [{}]:{}", self.host, self.port),
            false => write!(f, "proxy {}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

fn check_reply(reply: &[u8]) -> io::Result<()> {
    let line = reply.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    let said = |what: &str| Err(io::Error::other(format!("{what}: it answered `{}` to CONNECT", line.escape_debug())));
    match status {
        Some(200..=299) => Ok(()),
        Some(407) => said("it wants other credentials (upstream.proxy: http://user:password@host:port)"),
        Some(403) => said("it does not allow this host"),
        Some(_) => said("no tunnel"),
        None => said("it is no HTTP proxy"),
    }
}

/// Which hosts go through which proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<Arc<HttpProxy>>,
    https: Option<Arc<HttpProxy>>,
    direct: Vec<Exception>,
}

impl Proxies {
    /// From `upstream.proxy`: `none`, a URL, or empty for the environment. `NO_PROXY` holds for both kinds, as for curl.
    pub(super) fn new(configured: &str, environment: impl Fn(&str) -> Option<String>) -> Proxies {
        // The lower-case name wins, as for curl.
        let named = |name: &str| {
            let found = environment(&name.to_ascii_lowercase()).or_else(|| environment(name));
            found.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let read = |name: &str, text: String| match HttpProxy::parse(&text) {
            Ok(proxy) => {
                log::info!("asks upstream through {proxy}, as {name} says");
                Some(Arc::new(proxy))
            }
            Err(wrong) => {
                log::warn!("{name} is not used: {wrong}; upstream is asked without a proxy");
                None
            }
        };
        let direct = named("NO_PROXY").map(|list| Exception::parse_list(&list)).unwrap_or_default();
        if configured == "none" {
            return Proxies::default();
        }
        if !configured.is_empty() {
            let proxy = read("upstream.proxy", configured.to_owned());
            return Proxies { http: proxy.clone(), https: proxy, direct };
        }
        let pick = |own: &str| [own, "ALL_PROXY"].into_iter().find_map(|name| Some((name.to_owned(), named(name)?)));
        let http = pick("HTTP_PROXY").and_then(|(name, text)| read(&name, text));
        let https = pick("HTTPS_PROXY").and_then(|(name, text)| read(&name, text));
        Proxies { http, https, direct }
    }

    /// The proxy for a host (lower case, without brackets), if any.
    pub(super) fn of(&self, tls: bool, host: &str, port: u16) -> Option<Arc<HttpProxy>> {
        let proxy = if tls { &self.https } else { &self.http };
        proxy.clone().filter(|_| !self.direct.iter().any(|exception| exception.holds(host, port)))
    }
}

/// One entry of `NO_PROXY`: `*`, a host, with or without what is below it, perhaps with a port; or a network of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    /// Empty for every host. Without a leading dot.
    host: String,
    below_only: bool,
    port: Option<u16>,
    /// Holds for hosts that are named by an address in it; names are not looked up, as for curl.
    network: Option<Network>,
}

impl Exception {
    fn parse_list(list: &str) -> Vec<Exception> {
        list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).filter_map(Exception::parse).collect()
    }

    fn parse(entry: &str) -> Option<Exception> {
        let entry = entry.to_ascii_lowercase();
        if entry.contains('/') {
            let network = Network::parse(&entry.replace(['[', ']'], "")).ok()?;
            return Some(Exception { host: entry, below_only: false, port: None, network: Some(network) });
        }
        let (host, port) = match entry.rsplit_once(':') {
            // An address of IPv6 with a port has brackets; without them the colons are its own.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (entry.as_str(), None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host == "*" {
            return Some(Exception { host: String::new(), below_only: false, port, network: None });
        }
        let host = host.strip_prefix('*').unwrap_or(host);
        let below_only = host.starts_with('.');
        let host = host.trim_start_matches('.').to_owned();
        (!host.is_empty()).then_some(Exception { host, below_only, port, network: None })
    }

    fn holds(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.');
        if let Some(network) = &self.network {
            return host.parse().is_ok_and(|address| network.contains(address));
        }
        let is_below = || host.strip_suffix(self.host.as_str()).is_some_and(|rest| rest.ends_with('.'));
        let matches = self.host.is_empty() || (!self.below_only && host == self.host) || is_below();
        matches && self.port.is_none_or(|own| own == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_never_show_their_password() {
        fn check(text: &str, expected: Result<(&str, u16, Option<&str>), &str>) {
            let found = HttpProxy::parse(text);
            let shown = found.as_ref().map(|p| (p.host.as_str(), p.port, p.authorization.as_deref())).map_err(|e| *e);
            assert_eq!(shown, expected, "{text}");
        }
        check("http://proxy.example:3128", Ok(("proxy.example", 3128, None)));
        check("HTTP://Proxy.example/", Ok(("proxy.example", 80, None)));
        check("proxy:8080", Ok(("proxy", 8080, None)));
        check("http://[::1]:3128", Ok(("::1", 3128, None)));
        check("http://user:p%40ss@proxy:1", Ok(("proxy", 1, Some("Basic dXNlcjpwQHNz"))));
        check("http://user@proxy:1", Ok(("proxy", 1, Some("Basic dXNlcjo="))));
        check("https://proxy:1", Err("only http:// proxies are spoken"));
        check("socks5://proxy:1", Err("only http:// proxies are spoken"));
        check("http://proxy:port", Err("its port is not a number"));
        check("http://", Err("it has no host"));
        check("http://a b:1", Err("it has no host"));
        let proxy = HttpProxy::parse("http://user:secret@proxy:1").unwrap();
        assert_eq!(format!("{proxy} {proxy:?}"), "proxy proxy:1 HttpProxy(proxy proxy:1)");
    }

    #[test]
    fn exceptions_are_honoured() {
        fn check(list: &str, host: &str, port: u16, expected: bool) {
            let direct = Exception::parse_list(list);
            assert_eq!(direct.iter().any(|e| e.holds(host, port)), expected, "`{list}` for {host}:{port}");
        }
        check("", "hub.example", 443, false);
        check("*", "hub.example", 443, true);
        check("hub.example", "hub.example", 443, true);
        check("HUB.example", "hub.example", 443, true);
        check("example", "hub.example", 443, true);
        check("example", "notexample", 443, false);
        check(".hub.example", "cdn.hub.example", 443, true);
        check(".hub.example", "hub.example", 443, false);
        check("*.hub.example", "cdn.hub.example", 443, true);
        check("*.hub.example", "xhub.example", 443, false);
        check("a, b ,hub.example", "hub.example", 443, true);
        check("a b hub.example", "hub.example", 443, true);
        check("hub.example:80", "hub.example", 443, false);
        check("hub.example:443", "hub.example", 443, true);
        check("*:8080", "hub.example", 8080, true);
        check("127.0.0.1", "127.0.0.1", 1, true);
        check("127.0.0.1:2", "127.0.0.1", 1, false);
        check("::1", "::1", 1, true);
        check("[::1]:5", "::1", 5, true);
        check("[::1]:5", "::1", 6, false);
        check("hub.example:x", "hub.example", 443, false);
        check("10.0.0.0/8", "10.1.2.3", 443, true);
        check("x.example, 10.0.0.0/8", "11.1.2.3", 443, false);
        check("10.0.0.0/8", "hub.example", 443, false);
        check("fd00::/8", "fd12::1", 443, true);
        check("[fd00::]/8", "fd12::1", 443, true);
        check("10.0.0.0/99", "10.1.2.3", 443, false);
        check("10.0.0.0/99,hub.example", "hub.example", 443, true);
    }

    #[test]
    fn configuration_wins_over_the_environment() {
        let proxies = |configured: &str, variables: &[(&str, &str)]| {
            Proxies::new(configured, |name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        let check = |proxies: Proxies, http: Option<&str>, https: Option<&str>| {
            let of = |tls| proxies.of(tls, "hub.example", 443).map(|p| p.host.clone());
            assert_eq!((of(false).as_deref(), of(true).as_deref()), (http, https));
        };
        check(proxies("", &[]), None, None);
        check(proxies("", &[("HTTPS_PROXY", "http://a:1")]), None, Some("a"));
        check(proxies("", &[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "b:1")]), None, Some("b"));
        check(proxies("", &[("ALL_PROXY", "http://a:1"), ("http_proxy", "b:1")]), Some("b"), Some("a"));
        check(proxies("", &[("HTTPS_PROXY", ""), ("all_proxy", "a:1")]), Some("a"), Some("a"));
        check(proxies("", &[("HTTPS_PROXY", "socks5://a:1")]), None, None);
        check(proxies("", &[("ALL_PROXY", "a:1"), ("NO_PROXY", "hub.example")]), None, None);
        check(proxies("none", &[("ALL_PROXY", "http://a:1")]), None, None);
        check(proxies("http://c:1", &[("ALL_PROXY", "http://a:1")]), Some("c"), Some("c"));
        check(proxies("http://c:1", &[("no_proxy", "*.example")]), None, None);
    }

    #[test]
    fn only_a_2xx_opens_a_tunnel() {
        let check = |line: &str, expected: Option<&str>| {
            let told = check_reply(format!("{line}\r\n\r\n").as_bytes()).err().map(|e| e.to_string());
            assert_eq!(told.is_none(), expected.is_none(), "{line}");
            assert!(expected.is_none_or(|part| told.as_ref().is_some_and(|t| t.contains(part))), "{line}: {told:?}");
        };
        check("HTTP/1.1 200 Connection established", None);
        check("HTTP/1.0 200", None);
        check("HTTP/1.1 407 Proxy Authentication Required", Some("credentials"));
        check("HTTP/1.1 403 Forbidden", Some("does not allow"));
        check("HTTP/1.1 502 Bad Gateway", Some("502"));
        check("SSH-2.0-x", Some("no HTTP proxy"));
        check("", Some("no HTTP proxy"));
    }
}
