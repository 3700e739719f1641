//! The table holds together, the shipped file says the same, and mistakes are told well.

use super::*;

/// The mistakes of a text, one per line.
fn mistakes(text: &str) -> String {
    let told = Config::from_yaml(text).expect_err("the text has mistakes");
    told.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_default_and_example_of_the_table_is_legal() {
    for key in Config::keys() {
        let mut config = Config::blank();
        key.set(&mut config, key.default).unwrap();
        let line = key.name.replace('.', ":\n  ");
        Config::from_yaml(&format!("{line}: {}", key.example)).unwrap_or_else(|told| panic!("{told:?}"));
        assert!(key.doc.ends_with('.'), "{}", key.name);
        assert!(!key.legal().is_empty());
    }
}

#[test]
fn defaults_are_what_the_design_says() {
    let config = Config::default();
    assert_eq!(config.server.listen, "127.0.0.1:8090");
    assert_eq!(config.upstream.url, "https://huggingface.co");
    assert_eq!(config.store.block_size, 1 << 20);
    assert_eq!(config.fetch.when_client_leaves, WhenClientLeaves::FinishBlock);
    assert_eq!(config.freshness.stale, Duration::from_secs(30 * 86_400));
    assert_eq!(Config::from_yaml(""), Ok(config.clone()));
    assert_eq!(Config::from_yaml("server:\nlog:\n"), Ok(config));
}

#[test]
fn values_land_where_they_belong() {
    let config = Config::from_yaml(
        "server: {listen: '[::]:80', public_url: https://hub.example.org/hf/}\n\
         upstream: {offline: true, allowed_hosts: ['*.Example.org', b], read_timeout: 250ms}\n\
         store: {repos: /data, block_size: 8388608}\n\
         fetch: {when_client_leaves: stop, run_size: 12MiB}\n",
    )
    .unwrap();
    assert_eq!((config.server.listen.as_str(), config.server.public_url.as_str()), ("[::]:80", "https://hub.example.org/hf"));
    assert_eq!((config.upstream.offline, config.upstream.read_timeout), (true, Duration::from_millis(250)));
    assert_eq!(config.upstream.allowed_hosts, ["*.example.org", "b"]);
    assert_eq!((config.store.repos, config.store.block_size), (PathBuf::from("/data"), 8 << 20));
    assert_eq!((config.fetch.when_client_leaves, config.fetch.run_size), (WhenClientLeaves::Stop, 12 << 20));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let told = mistakes(
        "server:\n  listn: x\n  listen: 8090\n  threads: many\nstore:\n  block_size: 3MiB\n  patience: 3s\n  repos:\n\
         upstream:\n  allowed_hosts: a\n  connect_timeout: 10\n  url: ftp://x\n  offline: 1\nlogs: {}\nmetrics: on\nzebra: 1\n",
    );
    let expected = [
        "server.listn = `x`: there is no such key, did you mean `server.listen`?",
        "server.listen = `8090`: is not ADDR:PORT; for example `listen: 0.0.0.0:8090`",
        "server.threads = `many`: is not a whole number; for example `threads: 8`",
        "store.block_size = `3MiB`: is not a power of two; for example `block_size: 8MiB`",
        "store.patience = `3s`: there is no such key, did you mean `upstream.patience`?",
        "store.repos: has no value; remove the line to get the default, or write \"\" for an empty one; for example `repos: /var/lib/dingospeed/repos`",
        "upstream.allowed_hosts = `a`: takes a list; for example `allowed_hosts: [\"*.example.org\", cdn.example.com]`",
        "upstream.connect_timeout = `10`: has no unit: write ms, s, m, h or d after it; for example `connect_timeout: 3s`",
        "upstream.url = `ftp://x`: does not begin with http:// or https:// and a host; for example `url: https://huggingface.co`",
        "upstream.offline = `1`: is neither true nor false; for example `offline: true`",
        "logs: there is no such key, did you mean `log`?",
        "metrics = `on`: is a section and takes keys, not a value",
        "zebra: there is no such key",
    ];
    assert_eq!(told, expected.join("\n"));
}

#[test]
fn wrong_texts_are_told_and_never_panic() {
    for text in
        ["- a", "plain", "server: [1", "a: 1\na: 2", "server: {listen: a:1, listen: b:2}", "1: 2", "? [a]\n: b", "--- a\n--- b"]
    {
        assert!(!mistakes(text).is_empty(), "{text}");
    }
    for value in ["0", "129", "1025", "-1", "1.5", "''", "[1]", "{a: 1}", "!x 1"] {
        assert!(mistakes(&format!("store:\n  block_size: {value}")).starts_with("store.block_size"), "{value}");
    }
    for host in ["http://a.b", "a:80", "*", "a.*", "''", "a/b"] {
        assert!(
            mistakes(&format!("upstream:\n  allowed_hosts: [\"{}\"]", host.trim_matches('\''))).contains("host name"),
            "{host}"
        );
    }
    for network in ["10.0.0.0/33", "localhost", "10.0.0.1:80"] {
        assert!(mistakes(&format!("server:\n  trusted_proxies: [\"{network}\"]")).contains("IP address"), "{network}");
    }
    for url in ["huggingface.co", "https://", "https://a@b", "https://a/b", "https://a?b", "https://a#b", "https://a:b", "''"] {
        assert!(mistakes(&format!("upstream:\n  url: {url}")).starts_with("upstream.url"), "{url}");
    }
}

#[test]
fn secrets_are_kept_out_of_messages() {
    for (key, value) in [
        ("upstream.proxy", "https://user:hush@proxy:1"),
        ("upstream.proxy", "http://user:hush@proxy:port"),
        ("upstream.token", "hush hush"),
    ] {
        let told = mistakes(&format!("upstream:\n  {}: {value:?}", key.trim_start_matches("upstream.")));
        assert!(told.starts_with(&format!("{key} = `..`")) && !told.contains("hush"), "{told}");
        assert!(!mistakes(&format!("upstream:\n  {}: [{value:?}]", key.trim_start_matches("upstream."))).contains("hush"));
    }
    let mut config = Config::default();
    for (key, value) in [("upstream.proxy", "http://user:hush@proxy:1"), ("upstream.token", "hush"), ("upstream.proxy", "none")] {
        config.apply(key, value).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }
    assert_eq!(config.upstream.token.expose(), "hush");
}

#[test]
fn a_flag_wins_over_the_file() {
    let mut config = Config::from_yaml("server: {listen: 'localhost:1'}").unwrap();
    assert_eq!(config.apply("server.listen", "127.0.0.1:2"), Ok(()));
    assert_eq!(config.apply("upstream.allowed_hosts", "a.b, *.c"), Ok(()));
    assert_eq!((config.server.listen.as_str(), config.upstream.allowed_hosts.len()), ("127.0.0.1:2", 2));
    let before = config.clone();
    assert!(config.apply("server.listen", "x").is_err());
    let told = config.apply("server.lisen", "x").map_err(|mistake| mistake.to_string());
    assert_eq!(told, Err("server.lisen = `x`: there is no such key, did you mean `server.listen`?".to_owned()));
    assert_eq!(config, before);
}

/// `conf/dingospeed.yaml` is documentation, so it is held to the table: the same keys in the same order, the same defaults,
/// a comment for each.
#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/dingospeed.yaml")).unwrap();
    assert_eq!(Config::from_yaml(&text), Ok(Config::default()));

    let (mut section, mut commented) = (String::new(), false);
    let mut named = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with('#') {
            commented = line.trim_start().len() > 3;
        } else if let Some((word, value)) = line.split_once(':') {
            if line.starts_with(' ') {
                let name = format!("{section}.{}", word.trim());
                assert!(commented, "{name} has no comment");
                let key = Config::keys().iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{name} is unknown"));
                let value = value.split(" #").next().unwrap_or_default().trim().trim_matches('"');
                assert_eq!(value, key.default, "{name}");
                named.push(name);
            } else {
                section = word.to_owned();
            }
            commented = false;
        } else {
            commented = false;
        }
    }
    let known: Vec<&str> = Config::keys().iter().map(|key| key.name).collect();
    assert_eq!(named, known);
}

#[test]
fn shared_repos_are_spelled_with_their_kind() {
    let mut config = Config::default();
    config.apply("access.operator_repos", "models/meta-llama/*, datasets/squad").unwrap();
    let opened = |config: &Config, repo: &str| config.access.operator_repos.iter().any(|pattern| pattern.matches(repo));
    assert!(opened(&config, "models/Meta-Llama/x") && opened(&config, "datasets/squad") && !opened(&config, "models/squad"));
    // The kind is spelled out, so that nobody opens data sets who thought of models; rules may leave it open.
    config.apply("rules.fetch_deny", "*/a/b, *").unwrap();
    for wrong in ["meta-llama/*", "*", "models", "models/", "models/a/b/c", "models//x", "models/a/[b", "*/a/b", "model?/a"] {
        assert!(config.apply("access.operator_repos", wrong).is_err(), "{wrong}");
    }
}
