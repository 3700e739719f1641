//! One key of the configuration: what may stand there and where it goes.

use super::unit::{parse_size, parse_time, write_size, write_time};
use super::{Config, Mistake, Network, Pattern, Secret};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The field of a [`Config`] that a key fills.
pub(super) type Place<T> = fn(&mut Config) -> &mut T;

/// A key, as code, documentation and messages know it.
#[derive(Debug)]
pub struct Key {
    /// The full name: `server.listen`.
    pub name: &'static str,
    /// The default, as it would be written.
    pub default: &'static str,
    /// A legal value other than the default, as it would be written in the file.
    pub example: &'static str,
    /// One plain sentence on what it is for.
    pub doc: &'static str,
    pub(super) kind: Kind,
}

/// What a value must be.
#[derive(Debug)]
pub(super) enum Kind {
    /// `ADDR:PORT`.
    Address { may_be_empty: bool, at: Place<String> },
    /// `http(s)://host[:port]`, with a path if allowed.
    Url { may_be_empty: bool, may_have_path: bool, at: Place<String> },
    /// A directory.
    Directory(Place<PathBuf>),
    /// True or false.
    Flag(Place<bool>),
    /// A whole number.
    Count { least: u64, most: u64, at: Place<u64> },
    /// A number of bytes.
    Size { least: u64, most: u64, power_of_two: bool, at: Place<u64> },
    /// A duration.
    Time { least: Duration, most: Duration, at: Place<Duration> },
    /// One of a few words.
    Word { words: &'static [&'static str], set: fn(&mut Config, &'static str) },
    /// Host names, each perhaps with `*.` in front.
    Hosts(Place<Vec<String>>),
    /// `http(s)://host[:port]`, several.
    Urls(Place<Vec<String>>),
    /// A file, or empty.
    File(Place<PathBuf>),
    /// A text that no message may show.
    Secret { check: fn(&str) -> Result<(), String>, at: Place<Secret> },
    /// IP addresses and networks of them.
    Networks(Place<Vec<Network>>),
    /// Repos by kind and name, with `*` and `?`. `any_kind`: also the kind may be left open.
    Repos { any_kind: bool, at: Place<Vec<Pattern>> },
}

/// Stands for the value of a [`Kind::Secret`] in messages.
const HIDDEN: &str = "..";

impl Key {
    /// Says in a few words what may stand there.
    pub fn legal(&self) -> String {
        match &self.kind {
            Kind::Address { may_be_empty, .. } => or_empty("ADDR:PORT", *may_be_empty),
            Kind::Url { may_be_empty, .. } => or_empty("an http:// or https:// URL", *may_be_empty),
            Kind::Directory(_) => "a directory".to_owned(),
            Kind::Flag(_) => "true or false".to_owned(),
            Kind::Count { least, most, .. } => format!("{least} to {most}"),
            Kind::Size { least, most, power_of_two, .. } => {
                let kind = if *power_of_two { "a power of two, " } else { "" };
                format!("{kind}{} to {}", write_size(*least), write_size(*most))
            }
            Kind::Time { least, most, .. } => format!("{} to {}", write_time(*least), write_time(*most)),
            Kind::Word { words, .. } => words.join(", "),
            Kind::Hosts(_) => "a list of host names".to_owned(),
            Kind::Urls(_) => "a list of http:// or https:// URLs".to_owned(),
            Kind::File(_) => "a file, or empty".to_owned(),
            Kind::Secret { .. } => "a text that is never shown, or empty".to_owned(),
            Kind::Networks(_) => "a list of IP addresses and networks".to_owned(),
            Kind::Repos { .. } => "a list of patterns such as models/org/*".to_owned(),
        }
    }

    /// Reads `text` and puts it where it belongs; on a mistake nothing is changed.
    pub(super) fn set(&self, config: &mut Config, text: &str) -> Result<(), Mistake> {
        let text = text.trim();
        if self.is_list() {
            // Brackets may stand around a list, and quotes around its elements, so that the table can write them as YAML does.
            let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            let items: Vec<&str> =
                inner.split(',').map(|item| item.trim().trim_matches('"')).filter(|item| !item.is_empty()).collect();
            return self.set_list(config, &items);
        }
        self.put(config, text).map_err(|wrong| Mistake::new(self.name, self.shown(text), wrong, self.example))
    }

    /// A value as messages may show it.
    pub(super) fn shown<'a>(&self, text: &'a str) -> &'a str {
        if matches!(self.kind, Kind::Secret { .. }) && !text.is_empty() { HIDDEN } else { text }
    }

    /// The same for a key that holds a list.
    pub(super) fn set_list(&self, config: &mut Config, items: &[&str]) -> Result<(), Mistake> {
        let mistake = |item: &str, wrong: String| Mistake::new(self.name, item, wrong, self.example);
        match self.kind {
            Kind::Hosts(at) => {
                items.iter().try_for_each(|item| check_host(item).map_err(|wrong| mistake(item, wrong)))?;
                *at(config) = items.iter().map(|item| item.to_ascii_lowercase()).collect();
            }
            Kind::Urls(at) => {
                items.iter().try_for_each(|item| check_url(item, false).map_err(|wrong| mistake(item, wrong)))?;
                *at(config) = items.iter().map(|item| item.trim_end_matches('/').to_owned()).collect();
            }
            Kind::Networks(at) => {
                let networks = items.iter().map(|item| Network::parse(item).map_err(|wrong| mistake(item, wrong)));
                *at(config) = networks.collect::<Result<_, _>>()?;
            }
            Kind::Repos { any_kind, at } => {
                let pattern = |item: &&str| match Pattern::parse(item) {
                    Ok(pattern) if any_kind || pattern.names_kind() => Ok(pattern),
                    Ok(_) => Err("leaves the kind open; begin with models/, datasets/, spaces/ or kernels/".to_owned()),
                    Err(wrong) => Err(wrong),
                };
                let patterns = items.iter().map(|item| pattern(item).map_err(|wrong| mistake(item, wrong)));
                *at(config) = patterns.collect::<Result<_, _>>()?;
            }
            _ => {
                let value = format!("[{}]", self.shown(&items.join(", ")));
                return Err(mistake(&value, "takes one value, not a list".to_owned()));
            }
        }
        Ok(())
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Hosts(_) | Kind::Urls(_) | Kind::Networks(_) | Kind::Repos { .. })
    }

    fn put(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match &self.kind {
            Kind::Address { may_be_empty, at } => {
                if !(text.is_empty() && *may_be_empty) {
                    check_address(text)?;
                }
                *at(config) = text.to_owned();
            }
            Kind::Url { may_be_empty, may_have_path, at } => {
                if !(text.is_empty() && *may_be_empty) {
                    check_url(text, *may_have_path)?;
                }
                *at(config) = text.trim_end_matches('/').to_owned();
            }
            Kind::Directory(at) => {
                if text.is_empty() {
                    return Err("is empty".to_owned());
                }
                *at(config) = PathBuf::from(text);
            }
            Kind::Flag(at) => {
                *at(config) = text.parse().map_err(|_| "is neither true nor false".to_owned())?;
            }
            Kind::Count { least, most, at } => {
                let count: u64 = text.parse().map_err(|_| "is not a whole number".to_owned())?;
                self.within(count, *least, *most)?;
                *at(config) = count;
            }
            Kind::Size { least, most, power_of_two, at } => {
                let size = parse_size(text)?;
                self.within(size, *least, *most)?;
                if *power_of_two && !size.is_power_of_two() {
                    return Err("is not a power of two".to_owned());
                }
                *at(config) = size;
            }
            Kind::Time { least, most, at } => {
                let time = parse_time(text)?;
                self.within(time, *least, *most)?;
                *at(config) = time;
            }
            Kind::Word { words, set } => {
                let word = words.iter().find(|word| **word == text);
                set(config, word.ok_or_else(|| format!("is none of {}", words.join(", ")))?);
            }
            // `set` and the YAML reader send lists to `set_list`.
            Kind::Hosts(_) | Kind::Urls(_) | Kind::Networks(_) | Kind::Repos { .. } => {
                return Err("is not a list".to_owned());
            }
            Kind::File(at) => *at(config) = PathBuf::from(text),
            Kind::Secret { check, at } => {
                if !text.is_empty() {
                    check(text)?;
                }
                *at(config) = Secret::new(text);
            }
        }
        Ok(())
    }

    fn within<T: PartialOrd>(&self, value: T, least: T, most: T) -> Result<(), String> {
        if value < least || value > most { Err(format!("is out of range, which is {}", self.legal())) } else { Ok(()) }
    }
}

fn or_empty(what: &str, may_be_empty: bool) -> String {
    if may_be_empty { format!("{what}, or empty") } else { what.to_owned() }
}

fn check_address(text: &str) -> Result<(), String> {
    let named = text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
    if named || text.parse::<SocketAddr>().is_ok() { Ok(()) } else { Err("is not ADDR:PORT".to_owned()) }
}

fn check_url(text: &str, may_have_path: bool) -> Result<(), String> {
    let uri: http::Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
    let host = uri.host().unwrap_or_default();
    if !matches!(uri.scheme_str(), Some("http" | "https")) || host.is_empty() {
        return Err("does not begin with http:// or https:// and a host".to_owned());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("holds a user name; clients bring their own tokens".to_owned());
    }
    // The parser takes any text for a port and then has none.
    if uri.authority().is_some_and(|authority| authority.as_str().len() > host.len() && uri.port_u16().is_none()) {
        return Err("has a port that is no number".to_owned());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("has a query or a fragment".to_owned());
    }
    if !may_have_path && !matches!(uri.path(), "" | "/") {
        return Err("has a path; only scheme, host and port may be given".to_owned());
    }
    Ok(())
}

/// Checks `none` or `http://[user:password@]host[:port]`. What is wrong is said without the password.
pub(super) fn check_proxy(text: &str) -> Result<(), String> {
    if text == "none" {
        return Ok(());
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return Err("is neither none nor an http:// URL; only HTTP proxies are spoken".to_owned());
    };
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address).trim_end_matches('/');
    check_url(&format!("http://{address}"), false)
}

/// Checks an address whose path and query are nobody's business.
pub(super) fn check_hook(text: &str) -> Result<(), String> {
    check_url(text.split('?').next().unwrap_or_default(), true)
}

/// Checks that a token can stand in a header.
pub(super) fn check_token(text: &str) -> Result<(), String> {
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err("holds characters that no token has".to_owned()),
    }
}

/// Checks that a token cannot be guessed by trying.
pub(super) fn check_admin_token(text: &str) -> Result<(), String> {
    check_token(text)?;
    if text.len() < 16 {
        Err("is shorter than 16 characters; `openssl rand -hex 32` makes a good one".to_owned())
    } else {
        Ok(())
    }
}

fn check_host(text: &str) -> Result<(), String> {
    if is_host(text.strip_prefix("*.").unwrap_or(text)) {
        return Ok(());
    }
    Err("is not a host name; write it without scheme, port and path, perhaps with `*.` in front".to_owned())
}

fn is_host(text: &str) -> bool {
    let legal =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    text.len() <= 253 && text.split('.').all(legal)
}
