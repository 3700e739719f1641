//! Who may do what. Rights come from the door and the token, never from the peer's address: a proxy on this machine speaks for
//! everybody.
//!
//! A browser carries requests of any page it shows to any address it reaches, so a door that asks for no token has to tell its
//! own page from others: by `Host`, for a name of the other page's can be made to lead here (DNS rebinding), and by `Origin`.

use super::Door;
use crate::config::Config;
use crate::hub::HubError;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// What a request may do and see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// What anybody on the network may: look, at public repos.
    Open,
    Admin,
}

pub(super) struct Guard {
    /// Its hash: comparing hashes tells nothing about the token by the time it takes.
    token: Option<[u8; 32]>,
    /// `host[:port]` of `server.public_url`.
    public_authority: Option<String>,
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Guard {
    pub(super) fn new(config: &Config) -> Guard {
        let token = Some(config.admin.token.expose()).filter(|token| !token.is_empty()).map(hash);
        let public: Option<http::Uri> = config.server.public_url.parse().ok();
        Guard { token, public_authority: public.and_then(|url| url.authority().map(|authority| authority.to_string())) }
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Lets a request in, with its rights, or says why not. Looks at the head only.
    pub(super) fn admit<T>(&self, door: Door, request: &Request<T>) -> Result<Rights, HubError> {
        let headers = request.headers();
        let needs_no_token = door == Door::Admin && self.token.is_none();
        if needs_no_token {
            check_host(headers)?;
        }
        self.check_origin(request.method(), headers)?;
        if request.method() == Method::POST {
            check_json(headers)?;
        }
        let Some(token) = &self.token else {
            return Ok(if needs_no_token { Rights::Admin } else { Rights::Open });
        };
        match bearer(headers) {
            None => Ok(Rights::Open),
            Some(given) if bool::from(hash(given).ct_eq(token)) => Ok(Rights::Admin),
            Some(_) => Err(no(401, "this is not the mirror's admin.token")),
        }
    }

    /// Returns what an admin's question is answered with when somebody else asks it.
    pub(super) fn refusal(&self) -> HubError {
        match self.token {
            Some(_) => no(401, "this needs the mirror's admin.token: send it as `Authorization: Bearer ..`"),
            None => HubError::forbidden(
                "the admin API is closed here: set admin.token, or admin.listen to an address of the loopback, in the mirror's \
                 configuration",
            ),
        }
    }

    /// A page that comes from elsewhere may not ask at all. Programs that are no browsers send no such header.
    fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), HubError> {
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let is_ours = |authority: &str| {
                let ours = [host, self.public_authority.as_deref()];
                ours.into_iter().flatten().any(|ours| ours.eq_ignore_ascii_case(authority))
            };
            if !authority.is_some_and(is_ours) {
                return Err(HubError::forbidden(format!(
                    "a page from `{origin}` may not ask this mirror; if that is the mirror's own address, name it in server.public_url"
                )));
            }
        }
        let site = headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
        if *method == Method::POST && !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(HubError::forbidden("a page of another site may not change anything here"));
        }
        Ok(())
    }
}

/// Holds the host to what no name server can be made to say: an address, or this machine's own name.
fn check_host(headers: &HeaderMap) -> Result<(), HubError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") || address.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(HubError::forbidden(format!(
        "without admin.token this address is only known by its number or as localhost, not as `{host}`: open http://127.0.0.1:PORT/, or \
         set admin.token"
    )))
}

/// A form of another page's can send text and forms without asking first, but not JSON.
fn check_json(headers: &HeaderMap) -> Result<(), HubError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(no(415, "send a JSON object, with `Content-Type: application/json`"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    // What cannot be read is a wrong token, not none.
    let value = value.to_str().unwrap_or_default();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    Some(if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" })
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A refusal with this status.
pub(super) fn no(status: u16, message: impl Into<String>) -> HubError {
    HubError { status, ..HubError::bad_request(message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const TOKEN: &str = "correct-horse-battery";

    fn guard(token: &str) -> Guard {
        let mut config = Config::default();
        config.admin.token = Secret::new(token);
        config.server.public_url = "https://hub.example.org/hf".into();
        Guard::new(&config)
    }

    /// What becomes of a request with these headers.
    fn admit(token: &str, door: Door, method: Method, headers: &[(&str, &str)]) -> Result<Rights, u16> {
        let mut request = Request::builder().method(method).uri("/-/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard(token).admit(door, &request.body(()).unwrap()).map_err(|error| error.status)
    }

    #[test]
    fn rights_come_from_the_door_and_the_token() {
        let host = ("Host", "127.0.0.1:8091");
        let with = |token: &str, door, value: &str| admit(token, door, Method::GET, &[host, ("Authorization", value)]);
        for door in [Door::Main, Door::Admin] {
            assert_eq!(admit(TOKEN, door, Method::GET, &[host]), Ok(Rights::Open));
            assert_eq!(with(TOKEN, door, &format!("Bearer {TOKEN}")), Ok(Rights::Admin));
            assert_eq!(with(TOKEN, door, &format!("bearer  {TOKEN} ")), Ok(Rights::Admin));
            for wrong in ["Bearer", "Bearer x", "Bearer correct-horse-batter", "Basic Y29ycmVjdA==", TOKEN, "\u{e9}", ""] {
                assert_eq!(with(TOKEN, door, wrong), Err(401), "{wrong}");
            }
        }
        assert_eq!(admit("", Door::Main, Method::GET, &[host]), Ok(Rights::Open));
        assert_eq!(with("", Door::Main, "Bearer hf_of_a_client"), Ok(Rights::Open));
        assert_eq!(admit("", Door::Admin, Method::GET, &[host]), Ok(Rights::Admin));
        assert_eq!(guard(TOKEN).refusal().status, 401);
        assert_eq!(guard("").refusal().status, 403);
    }

    #[test]
    fn without_a_token_the_host_is_no_name() {
        fn check(host: &str, expected: Result<Rights, u16>) {
            assert_eq!(admit("", Door::Admin, Method::GET, &[("Host", host)]), expected, "{host}");
        }
        for host in ["127.0.0.1:8091", "127.0.0.1", "localhost:8091", "LOCALHOST", "a.localhost:1", "[::1]:8091", "[::1]"] {
            check(host, Ok(Rights::Admin));
        }
        for host in ["evil.example:8091", "127.0.0.1.evil.example", "evil.localhost.example:1", "", "[evil]:1", "localhost.:x"] {
            check(host, Err(403));
        }
        assert_eq!(admit("", Door::Admin, Method::GET, &[]), Err(403));
        // With a token no name does harm: another page does not have it.
        assert_eq!(admit(TOKEN, Door::Admin, Method::GET, &[("Host", "mirror.lan:8091")]), Ok(Rights::Open));
    }

    #[test]
    fn pages_from_elsewhere_ask_nothing() {
        let check = |headers: &[(&str, &str)], expected: Result<Rights, u16>| {
            let all: Vec<_> = [("Host", "127.0.0.1:8091"), ("Content-Type", "application/json; charset=utf-8")]
                .into_iter()
                .chain(headers.iter().copied())
                .collect();
            assert_eq!(admit("", Door::Admin, Method::POST, &all), expected, "{headers:?}");
        };
        check(&[], Ok(Rights::Admin));
        check(&[("Origin", "http://127.0.0.1:8091"), ("Sec-Fetch-Site", "same-origin")], Ok(Rights::Admin));
        check(&[("Origin", "https://hub.example.org")], Ok(Rights::Admin));
        for origin in ["http://evil.example", "null", "", "http://127.0.0.1:8090", "http://127.0.0.1:8091.evil.example"] {
            check(&[("Origin", origin)], Err(403));
        }
        check(&[("Sec-Fetch-Site", "cross-site")], Err(403));
        check(&[("Sec-Fetch-Site", "same-site")], Err(403));
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""] {
            let headers = [("Host", "127.0.0.1:8091"), ("Content-Type", kind)];
            assert_eq!(admit("", Door::Admin, Method::POST, &headers), Err(415), "{kind}");
        }
    }
}
