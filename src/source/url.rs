//! The absolute http(s) URLs that upstream is asked by.

use std::fmt;

/// An absolute URL, split as a request needs it. Its `Display` leaves the query out, since signatures live there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub tls: bool,
    /// Lower case, without brackets.
    pub host: String,
    pub port: u16,
    /// Starts with `/`.
    pub target: String,
}

impl Url {
    /// Reads an absolute URL; `None` for any other scheme, for user names in it, and for bytes a request line cannot carry.
    pub fn parse(text: &str) -> Option<Url> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(cut);
        if authority.contains('@') || target.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return None;
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return None;
        }
        let target = target.split('#').next().unwrap_or("");
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Some(Url { tls, host, port, target })
    }

    /// The same host with another path and query.
    pub fn with_target(&self, target: &str) -> Url {
        Url { target: target.to_owned(), ..self.clone() }
    }

    /// Reads a `Location` as seen from this URL; only absolute URLs and absolute paths occur on the Hub.
    pub fn join(&self, location: &str) -> Option<Url> {
        if let Some(rest) = location.strip_prefix("//") {
            return Url::parse(&format!("{}://{rest}", self.scheme()));
        }
        if location.starts_with('/') {
            return Url::parse(&format!("{}{location}", self.origin()));
        }
        Url::parse(location)
    }

    /// Whether both are the same scheme, host and port.
    pub fn is_same_host(&self, other: &Url) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    /// Whether it carries a signature, as CloudFront, S3, Google and Azure write it.
    pub fn is_signed(&self) -> bool {
        let (_, query) = self.target.split_once('?').unwrap_or_default();
        let mut names = query.split('&').filter_map(|pair| pair.split('=').next());
        names.any(|name| ["Signature", "X-Amz-Signature", "X-Goog-Signature", "sig"].contains(&name))
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// The value of a `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// `scheme://host[:port]`.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or("");
        write!(f, "{}{path}", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_joins() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Url::parse(text).map(|u| u.origin() + &u.target).as_deref(), expected, "{text}");
        };
        check("https://huggingface.co", Some("https://huggingface.co/"));
        check("http://127.0.0.1:8090/a?b=c#d", Some("http://127.0.0.1:8090/a?b=c"));
        check("HTTPS://Hub.Example:443/x", Some("https://hub.example/x"));
        check("http://[::1]:80/", Some("http://[::1]/"));
        check("ftp://x/", None);
        check("http://user@x/", None);
        check("http://x/a b", None);
        check("http://:1/", None);
        let base = Url::parse("https://hub/x/y?z").unwrap();
        assert_eq!(base.join("/api/a?b").unwrap().target, "/api/a?b");
        assert_eq!(base.join("https://cdn/x").unwrap().host, "cdn");
        assert_eq!(base.join("//cdn/x").unwrap().host, "cdn");
        assert_eq!(base.join("relative"), None);
        assert_eq!(Url::parse("https://cdn/a?Signature=secret").unwrap().to_string(), "https://cdn/a");
    }

    #[test]
    fn signatures_are_seen_in_the_query_alone() {
        let is_signed = |text: &str| Url::parse(text).unwrap().is_signed();
        assert!(is_signed("https://cdn.test/x?Expires=1&Signature=ab~&Key-Pair-Id=K"));
        assert!(is_signed("https://s3.test/x?X-Amz-Signature=ab"));
        assert!(!is_signed("https://mirror.test/Signature=a/resolve/main/x"));
        assert!(!is_signed("https://mirror.test/o/m/resolve/main/x?download=true&of=Signature"));
    }
}
