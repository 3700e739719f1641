//! The configuration: plain structs, read once at the start, all mistakes told at once.
//!
//! [`Config::keys`] is the one table of keys: defaults, legal ranges, examples and documentation come from it, and
//! `conf/dingospeed.yaml` is held to it by a test. [`Config::from_yaml`] reads a file, [`Config::apply`] a flag. This room
//! reads text, never files.

mod admin;
mod key;
mod keys;
mod mistake;
mod network;
mod pattern;
#[cfg(test)]
mod tests;
mod unit;
mod yaml;

pub use admin::Admin;
pub use key::Key;
pub use mistake::Mistake;
pub use network::Network;
pub use pattern::Pattern;
pub(crate) use unit::{parse_size, parse_time};

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be configured. The meaning of each field is in [`Config::keys`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub server: Server,
    pub tls: Tls,
    pub upstream: Upstream,
    pub store: Store,
    pub eviction: Eviction,
    pub fetch: Fetch,
    pub freshness: Freshness,
    pub access: Access,
    pub rules: Rules,
    pub log: Log,
    pub metrics: Metrics,
    pub alerts: Alerts,
    pub admin: Admin,
}

/// How clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `ADDR:PORT`.
    pub listen: String,
    /// 0 means one per core.
    pub threads: u64,
    /// Without a slash at the end; empty means the scheme and `Host` of each request.
    pub public_url: String,
    pub drain_timeout: Duration,
    pub drain_delay: Duration,
    pub head_timeout: Duration,
    pub send_timeout: Duration,
    pub keepalive_timeout: Duration,
    pub connections: u64,
    /// 0 means any number.
    pub connections_per_client: u64,
    /// 0 means any number.
    pub requests_per_client: u64,
    pub queue_timeout: Duration,
    /// Peers that speak for others; what they ask for themselves has no limit per client.
    pub trusted_proxies: Vec<Network>,
}

/// A second address at which clients are served, by TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `ADDR:PORT`, or empty for none.
    pub listen: String,
    /// PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// The Hub, or another mirror of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Scheme and host, without a slash at the end.
    pub url: String,
    pub offline: bool,
    pub writes: Writes,
    /// Lower case; `*.example.org` stands for every host below it.
    pub allowed_hosts: Vec<String>,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub patience: Duration,
    /// For a question until its answer begins: connection, redirects, tries, other upstreams.
    pub question_timeout: Duration,
    /// As `url`, in the order in which they are asked.
    pub fallbacks: Vec<String>,
    /// Those of the fallbacks that may see tokens.
    pub trusted_fallbacks: Vec<String>,
    /// Empty for what the environment says, `none`, or a URL, perhaps with a password.
    pub proxy: Secret,
    /// Requests per five minutes; 0 is no limit.
    pub api_calls: u64,
    pub resolver_calls: u64,
    /// Empty for none.
    pub token: Secret,
    /// Empty for none; whoever reads the configuration from files puts its content into `token`.
    pub token_file: PathBuf,
}

/// What becomes of uploads and of all else that would change the Hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Refused here, with a word on where to send them.
    #[default]
    Refuse,
    /// Passed on to `upstream.url` as they are.
    Pass,
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Secret()" } else { "Secret(..)" })
    }
}

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub repos: PathBuf,
    /// In bytes, a power of two.
    pub block_size: u64,
}

/// What is kept at most, and what goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub strategy: EvictionStrategy,
    /// In bytes; 0 means no limit.
    pub max_size: u64,
    /// 0 means no limit.
    pub max_used_percent: u64,
    /// In bytes; 0 means no limit.
    pub min_free: u64,
    /// Percent of the limit.
    pub low_water: u64,
    pub interval: Duration,
    pub quarantine: Duration,
}

/// In which order objects go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionStrategy {
    /// Read longest ago.
    #[default]
    Lru,
    /// Arrived longest ago.
    Fifo,
    /// Largest on the disk.
    LargeFirst,
}

/// How objects are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub connections_per_object: u64,
    pub connections: u64,
    /// In bytes; not necessarily a multiple of the block size.
    pub run_size: u64,
    pub when_client_leaves: WhenClientLeaves,
}

/// What becomes of a fetch whose last client has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenClientLeaves {
    /// The block at hand is completed.
    #[default]
    FinishBlock,
    /// Everything the client asked for is fetched.
    FinishRequest,
    /// The connection to upstream is closed at once.
    Stop,
}

/// For how long what is known counts as true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    pub revision: Duration,
    pub missing: Duration,
    pub stale: Duration,
    pub access: Duration,
    /// For a name that upstream redirects to another.
    pub alias: Duration,
}

/// Which repos may be had, and which of them are kept. What is denied is denied, whatever is allowed; an empty list of what
/// is allowed allows all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub fetch_allow: Vec<Pattern>,
    pub fetch_deny: Vec<Pattern>,
    pub cache_allow: Vec<Pattern>,
    pub cache_deny: Vec<Pattern>,
}

impl Rules {
    /// Whether everything may be fetched and kept.
    pub fn is_empty(&self) -> bool {
        [&self.fetch_allow, &self.fetch_deny, &self.cache_allow, &self.cache_deny].iter().all(|list| list.is_empty())
    }
}

/// Who reads what is not open to all, beyond what upstream says at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub when_upstream_is_down: WhenUpstreamIsDown,
    pub grace: Duration,
    pub operator_repos: Vec<Pattern>,
}

/// Who reads gated and private repos while upstream cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenUpstreamIsDown {
    /// Those whom upstream accepted lately.
    #[default]
    Accepted,
    /// Nobody.
    Deny,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One of off, error, warn, info, debug, trace.
    pub level: String,
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A few words, then `key=value`.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// What is counted, and where it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    pub enabled: bool,
    /// `ADDR:PORT`, or empty.
    pub listen: String,
}

/// Who is told of trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// A URL, which is all it takes to write there; empty for none.
    pub webhook: Secret,
}

impl Config {
    /// Returns the table of all keys, in the order of `conf/dingospeed.yaml`.
    pub fn keys() -> &'static [Key] {
        keys::KEYS
    }

    /// Reads a YAML file's text: the defaults, overlaid with what it says. Returns every mistake in it, not just the first.
    pub fn from_yaml(text: &str) -> Result<Config, Vec<Mistake>> {
        yaml::read(text)
    }

    /// Sets one key (`server.listen`) from a flag's text; the elements of a list are separated by commas.
    pub fn apply(&mut self, key: &str, value: &str) -> Result<(), Mistake> {
        match Config::keys().iter().find(|known| known.name == key) {
            Some(known) => known.set(self, value),
            None => Err(Mistake::unknown_key(key, value)),
        }
    }

    /// A config with nothing in it, for the table of keys to fill.
    fn blank() -> Config {
        Config {
            server: Server {
                listen: String::new(),
                threads: 0,
                public_url: String::new(),
                drain_timeout: Duration::ZERO,
                drain_delay: Duration::ZERO,
                head_timeout: Duration::ZERO,
                send_timeout: Duration::ZERO,
                keepalive_timeout: Duration::ZERO,
                connections: 0,
                connections_per_client: 0,
                requests_per_client: 0,
                queue_timeout: Duration::ZERO,
                trusted_proxies: Vec::new(),
            },
            tls: Tls { listen: String::new(), certificate: PathBuf::new(), key: PathBuf::new() },
            upstream: Upstream {
                url: String::new(),
                offline: false,
                writes: Writes::default(),
                allowed_hosts: Vec::new(),
                connect_timeout: Duration::ZERO,
                read_timeout: Duration::ZERO,
                patience: Duration::ZERO,
                question_timeout: Duration::ZERO,
                fallbacks: Vec::new(),
                trusted_fallbacks: Vec::new(),
                proxy: Secret::default(),
                api_calls: 0,
                resolver_calls: 0,
                token: Secret::default(),
                token_file: PathBuf::new(),
            },
            store: Store { repos: PathBuf::new(), block_size: 0 },
            eviction: Eviction {
                strategy: EvictionStrategy::default(),
                max_size: 0,
                max_used_percent: 0,
                min_free: 0,
                low_water: 0,
                interval: Duration::ZERO,
                quarantine: Duration::ZERO,
            },
            fetch: Fetch {
                connections_per_object: 0,
                connections: 0,
                run_size: 0,
                when_client_leaves: WhenClientLeaves::default(),
            },
            freshness: Freshness {
                revision: Duration::ZERO,
                missing: Duration::ZERO,
                stale: Duration::ZERO,
                access: Duration::ZERO,
                alias: Duration::ZERO,
            },
            access: Access {
                when_upstream_is_down: WhenUpstreamIsDown::default(),
                grace: Duration::ZERO,
                operator_repos: Vec::new(),
            },
            rules: Rules { fetch_allow: Vec::new(), fetch_deny: Vec::new(), cache_allow: Vec::new(), cache_deny: Vec::new() },
            log: Log { level: String::new(), format: LogFormat::default() },
            metrics: Metrics { enabled: false, listen: String::new() },
            alerts: Alerts { webhook: Secret::default() },
            admin: Admin::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        let mut config = Config::blank();
        for key in Config::keys() {
            key.set(&mut config, key.default).expect("a test sets every default of the table");
        }
        config
    }
}
