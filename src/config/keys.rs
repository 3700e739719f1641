//! The table of keys. To add one: a field in `mod.rs`, a row here, a line in `conf/dingospeed.yaml`.

use super::key::{Key, Kind, check_proxy, check_token};
use super::{EvictionStrategy, WhenClientLeaves, WhenUpstreamIsDown};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(super) static KEYS: &[Key] = &[
    Key {
        name: "server.listen",
        default: "127.0.0.1:8090",
        example: "0.0.0.0:8090",
        doc: "Where clients connect.",
        kind: Kind::Address { may_be_empty: false, at: |config| &mut config.server.listen },
    },
    Key {
        name: "server.threads",
        default: "0",
        example: "8",
        doc: "Threads that serve; 0 means one per core.",
        kind: Kind::Count { least: 0, most: 1024, at: |config| &mut config.server.threads },
    },
    Key {
        name: "server.public_url",
        default: "",
        example: "https://hub.example.org",
        doc: "The address by which clients know the mirror, for links in answers; empty means what each request says.",
        kind: Kind::Url { may_be_empty: true, may_have_path: true, at: |config| &mut config.server.public_url },
    },
    Key {
        name: "server.drain_timeout",
        default: "30s",
        example: "5m",
        doc: "After SIGTERM, how long running responses may go on.",
        kind: Kind::Time { least: Duration::ZERO, most: HOUR, at: |config| &mut config.server.drain_timeout },
    },
    Key {
        name: "server.head_timeout",
        default: "30s",
        example: "10s",
        doc: "How long a request's head may take to arrive.",
        kind: Kind::Time { least: MILLISECOND.saturating_mul(100), most: MINUTE, at: |config| &mut config.server.head_timeout },
    },
    Key {
        name: "server.send_timeout",
        default: "60s",
        example: "5m",
        doc: "A reader that takes nothing for so long is dropped.",
        kind: Kind::Time { least: SECOND, most: HOUR, at: |config| &mut config.server.send_timeout },
    },
    Key {
        name: "server.keepalive_timeout",
        default: "60s",
        example: "2m",
        doc: "How long a connection may stay open between two requests.",
        kind: Kind::Time { least: SECOND, most: HOUR, at: |config| &mut config.server.keepalive_timeout },
    },
    Key {
        name: "server.connections",
        default: "16384",
        example: "65536",
        doc: "Connections of all clients together; fewer where the limit of open files says so.",
        kind: Kind::Count { least: 16, most: 1 << 20, at: |config| &mut config.server.connections },
    },
    Key {
        name: "server.connections_per_client",
        default: "1024",
        example: "4096",
        doc: "Connections that one client address may hold; 0 means any number.",
        kind: Kind::Count { least: 0, most: 1 << 20, at: |config| &mut config.server.connections_per_client },
    },
    Key {
        name: "server.requests_per_client",
        default: "512",
        example: "2048",
        doc: "Requests, downloads among them, that run at a time for one client address; 0 means any number.",
        kind: Kind::Count { least: 0, most: 1 << 20, at: |config| &mut config.server.requests_per_client },
    },
    Key {
        name: "server.queue_timeout",
        default: "5s",
        example: "2s",
        doc: "How long what is over a client's limit waits for its turn before it is refused.",
        kind: Kind::Time { least: Duration::ZERO, most: MINUTE, at: |config| &mut config.server.queue_timeout },
    },
    Key {
        name: "server.trusted_proxies",
        default: "[127.0.0.0/8, \"::1\"]",
        example: "[10.0.0.0/8, \"2001:db8::1\"]",
        doc: "Peers whose X-Forwarded-For is believed, and which have no limit of their own.",
        kind: Kind::Networks(|config| &mut config.server.trusted_proxies),
    },
    Key {
        name: "upstream.url",
        default: "https://huggingface.co",
        example: "https://huggingface.co",
        doc: "The Hub, or another mirror of it.",
        kind: Kind::Url { may_be_empty: false, may_have_path: false, at: |config| &mut config.upstream.url },
    },
    Key {
        name: "upstream.offline",
        default: "false",
        example: "true",
        doc: "Serve only what is kept and never ask upstream.",
        kind: Kind::Flag(|config| &mut config.upstream.offline),
    },
    Key {
        name: "upstream.allowed_hosts",
        default: "[]",
        example: "[\"*.example.org\", cdn.example.com]",
        doc: "Hosts that redirects may lead to, besides upstream itself and the Hub's own CDNs.",
        kind: Kind::Hosts(|config| &mut config.upstream.allowed_hosts),
    },
    Key {
        name: "upstream.connect_timeout",
        default: "10s",
        example: "3s",
        doc: "How long a connection may take to stand, TLS included.",
        kind: Kind::Time {
            least: MILLISECOND.saturating_mul(100),
            most: HOUR,
            at: |config| &mut config.upstream.connect_timeout,
        },
    },
    Key {
        name: "upstream.read_timeout",
        default: "8s",
        example: "2m",
        doc: "A connection without a byte for so long counts as broken.",
        kind: Kind::Time { least: MILLISECOND.saturating_mul(100), most: HOUR, at: |config| &mut config.upstream.read_timeout },
    },
    Key {
        name: "upstream.patience",
        default: "30s",
        example: "5m",
        doc: "How long a fetch is tried again and again without progress before it fails.",
        kind: Kind::Time { least: Duration::ZERO, most: HOUR, at: |config| &mut config.upstream.patience },
    },
    Key {
        name: "upstream.question_timeout",
        default: "8s",
        example: "5s",
        doc: "How long the Hub may take until its answer begins, tries included; clients give up after 10 s.",
        kind: Kind::Time {
            least: MILLISECOND.saturating_mul(100),
            most: HOUR,
            at: |config| &mut config.upstream.question_timeout,
        },
    },
    Key {
        name: "upstream.fallbacks",
        default: "[]",
        example: "[https://mirror.example.org]",
        doc: "Mirrors of the Hub that are asked, in this order, while upstream.url does not answer.",
        kind: Kind::Urls(|config| &mut config.upstream.fallbacks),
    },
    Key {
        name: "upstream.trusted_fallbacks",
        default: "[]",
        example: "[https://mirror.example.org]",
        doc: "Those of the fallbacks that get tokens and may say who may read what.",
        kind: Kind::Urls(|config| &mut config.upstream.trusted_fallbacks),
    },
    Key {
        name: "upstream.proxy",
        default: "",
        example: "http://user:password@proxy.example.org:3128",
        doc: "The HTTP proxy that leads outside; empty means what HTTPS_PROXY and the like say, none means no proxy.",
        kind: Kind::Secret { check: check_proxy, at: |config| &mut config.upstream.proxy },
    },
    Key {
        name: "upstream.api_calls",
        default: "450",
        example: "900",
        doc: "Questions of the Hub's API in five minutes, without a token; 0 means no limit.",
        kind: Kind::Count { least: 0, most: 1_000_000, at: |config| &mut config.upstream.api_calls },
    },
    Key {
        name: "upstream.resolver_calls",
        default: "2700",
        example: "4500",
        doc: "Questions for files in five minutes, without a token; 0 means no limit.",
        kind: Kind::Count { least: 0, most: 1_000_000, at: |config| &mut config.upstream.resolver_calls },
    },
    Key {
        name: "upstream.token",
        default: "",
        example: "hf_abcdefgh",
        doc: "A token of the operator's, used for what is open to all anyway, since it earns higher rate limits; and for access.operator_repos.",
        kind: Kind::Secret { check: check_token, at: |config| &mut config.upstream.token },
    },
    Key {
        name: "upstream.token_file",
        default: "",
        example: "/etc/dingospeed/token",
        doc: "A file that holds upstream.token, so that it stands neither here nor on the command line.",
        kind: Kind::File(|config| &mut config.upstream.token_file),
    },
    Key {
        name: "store.repos",
        default: "./repos",
        example: "/var/lib/dingospeed/repos",
        doc: "The directory in which everything is kept.",
        kind: Kind::Directory(|config| &mut config.store.repos),
    },
    Key {
        name: "store.block_size",
        default: "1MiB",
        example: "8MiB",
        doc: "The unit in which new objects are kept; files with other sizes stay readable.",
        kind: Kind::Size { least: MIB, most: 128 * MIB, power_of_two: true, at: |config| &mut config.store.block_size },
    },
    Key {
        name: "eviction.strategy",
        default: "lru",
        example: "large_first",
        doc: "Which objects go first when a limit is passed.",
        kind: Kind::Word {
            words: &["lru", "fifo", "large_first"],
            set: |config, word| {
                config.eviction.strategy = match word {
                    "fifo" => EvictionStrategy::Fifo,
                    "large_first" => EvictionStrategy::LargeFirst,
                    _ => EvictionStrategy::Lru,
                }
            },
        },
    },
    Key {
        name: "eviction.max_size",
        default: "0",
        example: "2TiB",
        doc: "What all objects together may take on the disk; 0 means no limit.",
        kind: Kind::Size { least: 0, most: 1 << 60, power_of_two: false, at: |config| &mut config.eviction.max_size },
    },
    Key {
        name: "eviction.max_used_percent",
        default: "0",
        example: "90",
        doc: "How full the file system may be, whoever fills it; 0 means no limit.",
        kind: Kind::Count { least: 0, most: 99, at: |config| &mut config.eviction.max_used_percent },
    },
    Key {
        name: "eviction.min_free",
        default: "1GiB",
        example: "100GiB",
        doc: "What stays free on the file system, or a tenth of it where that is less; 0 means no limit.",
        kind: Kind::Size { least: 0, most: 1 << 60, power_of_two: false, at: |config| &mut config.eviction.min_free },
    },
    Key {
        name: "eviction.low_water",
        default: "95",
        example: "80",
        doc: "Once a limit is passed, down to how many percent of it (for min_free, of what is kept) objects go.",
        kind: Kind::Count { least: 1, most: 100, at: |config| &mut config.eviction.low_water },
    },
    Key {
        name: "eviction.interval",
        default: "10m",
        example: "1h",
        doc: "How often everything is measured anew; limits are watched all the time.",
        kind: Kind::Time { least: SECOND, most: DAY, at: |config| &mut config.eviction.interval },
    },
    Key {
        name: "eviction.quarantine",
        default: "30d",
        example: "7d",
        doc: "How long broken files are kept for inspection; they go first when room is needed.",
        kind: Kind::Time { least: Duration::ZERO, most: YEAR.saturating_mul(10), at: |config| &mut config.eviction.quarantine },
    },
    Key {
        name: "fetch.connections_per_object",
        default: "8",
        example: "4",
        doc: "Upstream connections that one object may use at a time.",
        kind: Kind::Count { least: 1, most: 256, at: |config| &mut config.fetch.connections_per_object },
    },
    Key {
        name: "fetch.connections",
        default: "64",
        example: "128",
        doc: "Upstream connections for all objects together.",
        kind: Kind::Count { least: 1, most: 4096, at: |config| &mut config.fetch.connections },
    },
    Key {
        name: "fetch.run_size",
        default: "8MiB",
        example: "32MiB",
        doc: "Bytes asked for per upstream request, rounded up to whole blocks.",
        kind: Kind::Size { least: MIB, most: 1024 * MIB, power_of_two: false, at: |config| &mut config.fetch.run_size },
    },
    Key {
        name: "fetch.when_client_leaves",
        default: "finish_block",
        example: "finish_request",
        doc: "What becomes of a fetch whose last client has left.",
        kind: Kind::Word {
            words: &["finish_block", "finish_request", "stop"],
            set: |config, word| {
                config.fetch.when_client_leaves = match word {
                    "finish_request" => WhenClientLeaves::FinishRequest,
                    "stop" => WhenClientLeaves::Stop,
                    _ => WhenClientLeaves::FinishBlock,
                }
            },
        },
    },
    Key {
        name: "freshness.revision",
        default: "60s",
        example: "10m",
        doc: "How long the commit of a branch or tag is used without asking.",
        kind: Kind::Time { least: Duration::ZERO, most: YEAR, at: |config| &mut config.freshness.revision },
    },
    Key {
        name: "freshness.missing",
        default: "60s",
        example: "10m",
        doc: "How long an absent file is remembered.",
        kind: Kind::Time { least: Duration::ZERO, most: YEAR, at: |config| &mut config.freshness.missing },
    },
    Key {
        name: "freshness.stale",
        default: "30d",
        example: "365d",
        doc: "How long kept answers serve while upstream is down.",
        kind: Kind::Time { least: Duration::ZERO, most: YEAR.saturating_mul(10), at: |config| &mut config.freshness.stale },
    },
    Key {
        name: "freshness.access",
        default: "5m",
        example: "1h",
        doc: "How long upstream's yes for a repo and a token is remembered.",
        kind: Kind::Time { least: Duration::ZERO, most: DAY, at: |config| &mut config.freshness.access },
    },
    Key {
        name: "access.when_upstream_is_down",
        default: "accepted",
        example: "deny",
        doc: "Who reads gated and private repos while upstream cannot be asked: those it accepted lately, or nobody.",
        kind: Kind::Word {
            words: &["accepted", "deny"],
            set: |config, word| {
                config.access.when_upstream_is_down = match word {
                    "deny" => WhenUpstreamIsDown::Deny,
                    _ => WhenUpstreamIsDown::Accepted,
                }
            },
        },
    },
    Key {
        name: "access.grace",
        default: "24h",
        example: "7d",
        doc: "How long ago upstream's yes may be to count as lately; offline there is no such bound.",
        kind: Kind::Time { least: Duration::ZERO, most: YEAR, at: |config| &mut config.access.grace },
    },
    Key {
        name: "access.operator_repos",
        default: "[]",
        example: "[models/meta-llama/*, \"datasets/org/name\"]",
        doc: "Gated or private repos that upstream.token opens to everybody who reaches the mirror.",
        kind: Kind::Repos(|config| &mut config.access.operator_repos),
    },
    Key {
        name: "log.level",
        default: "info",
        example: "debug",
        doc: "How much is logged.",
        kind: Kind::Word {
            words: &["off", "error", "warn", "info", "debug", "trace"],
            set: |config, word| config.log.level = word.to_owned(),
        },
    },
    Key {
        name: "metrics.enabled",
        default: "true",
        example: "false",
        doc: "Whether /metrics is served at all.",
        kind: Kind::Flag(|config| &mut config.metrics.enabled),
    },
    Key {
        name: "metrics.listen",
        default: "",
        example: "127.0.0.1:9090",
        doc: "An extra address for /metrics alone; empty means none.",
        kind: Kind::Address { may_be_empty: true, at: |config| &mut config.metrics.listen },
    },
];
