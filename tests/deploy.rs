//! What operators copy out of `deploy/`: it parses, names what exists, and fits the program. And what systemd is told.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dingospeed::config::Config;
use fake_hub::{FakeHub, noise};
use serde_yaml::Value;

use crate::harness::{Mirror, dingospeed, program, root, run_within};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("read `{path}`: {error}"))
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = serde_yaml::Deserializer::from_str(&text).map(<Value as serde::Deserialize>::deserialize);
    documents.map(|one| one.unwrap_or_else(|error| panic!("`{path}`: {error}"))).collect()
}

/// All strings of a document that stand under one of these keys, wherever.
fn strings(value: &serde_json::Value, keys: &[&str], found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value {
                    serde_json::Value::String(text) if keys.contains(&key.as_str()) => found.push(text.clone()),
                    value => strings(value, keys, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, keys, found)),
        _ => {}
    }
}

/// The mirror's metrics that an expression names.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("dingospeed_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn dashboard_and_alert_rules_name_metrics_that_a_mirror_has() {
    let hub = FakeHub::start().await;
    hub.model("acme/m").lfs("w.bin", noise(5, 2 << 20)).commit("first");
    let mirror = Mirror::start(&hub).await;
    assert!(mirror.get("/acme/m/resolve/main/w.bin").await.whole);
    mirror.metrics().await;
    let samples = mirror.metrics().await;
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (sample, _) in samples.samples() {
        let (name, pairs) = sample.split_once('{').unwrap_or((sample, ""));
        let of_name = labels.entry(name).or_default();
        of_name.extend(pairs.trim_end_matches('}').split(',').filter_map(|pair| Some(pair.split_once('=')?.0)));
    }

    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana.json")).expect("JSON");
    let mut expressions = Vec::new();
    strings(&dashboard, &["expr", "query"], &mut expressions);
    let rules: serde_json::Value = serde_yaml::from_str(&read("deploy/prometheus-rules.yaml")).expect("YAML");
    strings(&rules, &["expr"], &mut expressions);
    assert!(expressions.len() > 50, "{}", expressions.len());
    for expression in &expressions {
        for name in metrics_in(expression) {
            assert!(labels.contains_key(name.as_str()), "`{expression}`: no mirror has `{name}`");
        }
        // Labels that are grouped by must be somebody's, too.
        for group in expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next()) {
            for label in group.split(',').map(str::trim).filter(|label| *label != "instance") {
                let has = metrics_in(expression).iter().any(|name| labels[name.as_str()].contains(label));
                assert!(has, "`{expression}`: nothing in it has the label `{label}`");
            }
        }
    }
    // The language's own parser (of PyPI). Grafana writes its durations in; `label_values` is a word of its own.
    let queries: Vec<String> = (expressions.iter().filter(|one| !one.starts_with("label_values(")))
        .map(|one| one.replace("$__rate_interval", "5m").replace("$__range", "1h"))
        .collect();
    let mut command = tokio::process::Command::new(root().join(".venvs/deploy/bin/python"));
    command.args(["-c", "import promql_parser, sys; [promql_parser.parse(one) for one in sys.argv[1:]]"]).args(&queries);
    let ran = run_within(Duration::from_secs(60), command, "promql_parser").await;
    assert!(ran.ok && queries.len() > 50, "{}", ran.stderr);
    // Every metric is looked at by somebody.
    let looked_at: BTreeSet<String> = expressions.iter().flat_map(|expression| metrics_in(expression)).collect();
    for name in labels.keys().filter(|name| name.starts_with("dingospeed_")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let seen = looked_at.iter().any(|one| one == name || one.strip_suffix("_bucket") == Some(base));
        assert!(seen || *name == "dingospeed_eviction_passes_total", "`{name}` is on no panel and in no rule");
    }
    // The rules around the expressions, where there is a promtool: apt-get install prometheus.
    let promtool = Command::new("promtool").arg("check").arg("rules").arg(root().join("deploy/prometheus-rules.yaml")).output();
    if let Ok(output) = promtool {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn kubernetes_manifests_fit_the_program() {
    let manifests = documents("deploy/kubernetes.yaml");
    let of_kind = |kind: &str| manifests.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let config = of_kind("ConfigMap")["data"]["dingospeed.yaml"].as_str().expect("a file");
    let config = Config::from_yaml(config).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let pod = &of_kind("Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let port = container["ports"][0]["containerPort"].as_u64().expect("a port");
    assert!(config.server.listen.ends_with(&format!(":{port}")) && config.server.listen.starts_with("0.0.0.0"));
    let ends_in = config.server.drain_delay + config.server.drain_timeout;
    assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(ends_in.as_secs()));
    assert_eq!(of_kind("Deployment")["spec"]["replicas"], 1, "one process per directory");
    assert_eq!(of_kind("Deployment")["spec"]["strategy"]["type"], "Recreate");
    // Volumes that are mounted exist, and the directory is on one.
    let volumes: Vec<_> = pod["volumes"].as_sequence().expect("volumes").iter().map(|volume| &volume["name"]).collect();
    let mounts = container["volumeMounts"].as_sequence().expect("mounts");
    assert!(mounts.iter().all(|mount| volumes.contains(&&mount["name"])));
    assert!(mounts.iter().any(|mount| mount["mountPath"].as_str() == config.store.repos.to_str()));
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], of_kind("PersistentVolumeClaim")["metadata"]["name"]);
    assert_eq!(of_kind("Service")["spec"]["selector"], of_kind("Deployment")["spec"]["selector"]["matchLabels"]);
    // The image's user.
    let user = pod["securityContext"]["runAsUser"].as_u64().expect("a user");
    assert!(read("Dockerfile").contains(&format!("USER {user}")));

    let hub = FakeHub::start().await;
    let mirror = Mirror::start(&hub).await;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap_or_else(|| panic!("no {probe}"));
        assert_eq!(mirror.get(path).await.status, 200, "{probe} {path}");
    }
    let scraped = of_kind("Deployment")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"].as_str();
    assert_eq!(mirror.get(scraped.expect("a path")).await.status, 200);
}

/// Has a checker of `.venvs/deploy` (`make venvs`) look at a file.
async fn holds_to_its_schema(arguments: &[&str], file: &str) {
    let mut command = tokio::process::Command::new(root().join(".venvs/deploy/bin/python"));
    command.arg("-m").args(arguments).arg(root().join(file));
    let ran = run_within(Duration::from_secs(120), command, file).await;
    assert!(ran.ok, "{file}: {}{}", ran.stdout, ran.stderr);
}

#[tokio::test]
async fn manifests_and_compose_file_hold_to_their_schemas() {
    holds_to_its_schema(&["kubernetes_validate", "--strict"], "deploy/kubernetes.yaml").await;
    holds_to_its_schema(&["check_jsonschema", "--builtin-schema", "vendor.compose-spec"], "deploy/compose.yaml").await;
}

#[test]
fn compose_fits_the_image() {
    let compose = &documents("deploy/compose.yaml")[0];
    let service = &compose["services"]["dingospeed"];
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains("VOLUME /repos") && dockerfile.contains("EXPOSE 8090"));
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let volumes: Vec<String> = service["volumes"].as_sequence().expect("volumes").iter().map(text).collect();
    assert!(volumes[0].ends_with(":/repos") && compose["volumes"].get(volumes[0].trim_end_matches(":/repos")).is_some());
    let config = volumes[1].split(':').next().expect("a path");
    assert!(root().join("deploy").join(config).exists(), "{config}");
    assert_eq!(text(&service["ports"][0]), "8090:8090");
    let command: Vec<String> = service["command"].as_sequence().expect("a command").iter().map(text).collect();
    assert_eq!(command[0], "serve");
    assert!(dockerfile.contains("ENTRYPOINT [\"dingospeed\"]"));
}

/// The lines `Key=Value` of a unit, by section.
fn unit() -> BTreeMap<String, Vec<(String, String)>> {
    let mut sections: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut section = String::new();
    for line in read("deploy/dingospeed.service").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(name) => section = name.to_owned(),
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("`{line}` is no setting"));
                sections.entry(section.clone()).or_default().push((key.to_owned(), value.to_owned()));
            }
        }
    }
    sections
}

#[tokio::test]
async fn the_systemd_unit_fits_the_program_and_the_package() {
    let unit = unit();
    let of = |key: &str| {
        let found = unit["Service"].iter().find(|(name, _)| name == key);
        found.unwrap_or_else(|| panic!("no {key}")).1.clone()
    };
    assert_eq!((of("Type").as_str(), of("ProtectSystem").as_str(), of("NoNewPrivileges").as_str()), ("notify", "strict", "yes"));
    let stop: u64 = of("TimeoutStopSec").parse().expect("seconds");
    let server = Config::default().server;
    assert!(Duration::from_secs(stop) > server.drain_delay + server.drain_timeout);
    assert!(of("ExecReload").contains("-HUP"));
    // What it starts is what the package installs, and the configuration is where the package puts it.
    let package: Vec<String> = read("Cargo.toml").lines().map(str::to_owned).collect();
    assert!(package.iter().any(|line| line.contains("usr/bin/") && line.contains("target/release/dingospeed")));
    assert!(package.iter().any(|line| line.contains("\"target/deb/dingospeed.yaml\", \"etc/dingospeed/dingospeed.yaml\"")));
    // Each file that is packed is in the tree, or made by the script.
    let script = read(".ci/deb");
    for from in package.iter().filter_map(|line| line.strip_prefix("    [\"")?.split('"').next()) {
        let made = from.strip_prefix("target/deb/").and_then(|name| Path::new(name).extension()?.to_str());
        let is_there = match made {
            Some("gz") => script.contains("gzip -9n \"$made\"/man/*.1"),
            Some(shell @ ("bash" | "zsh" | "fish")) => script.contains(shell),
            Some(_) => script.contains(&from.replace("target/deb", "$made")),
            None => from == "target/release/dingospeed" || from == "docs/*.md" || root().join(from).is_file(),
        };
        assert!(is_there, "nothing makes {from}");
    }
    assert_eq!(of("ExecStart"), "/usr/bin/dingospeed serve --config /etc/dingospeed/dingospeed.yaml");
    // Where the package's configuration keeps everything is where the unit lets it, and where it would be by default.
    let home = format!("/var/lib/{}", of("StateDirectory"));
    assert!(script.contains(&format!("repos: {home}|")) && of("WorkingDirectory") == home);
    assert!(read("deploy/debian/postinst").contains(&format!("--home {home} ")));
    let shipped = root().join("conf/dingospeed.yaml").display().to_string();
    assert_eq!(dingospeed(&["check", "--config", &shipped], &[]).await.0, Some(0));
    // What is wrong with the configuration ends the program with the code after which it is not tried again.
    let (code, stderr, _) = dingospeed(&["serve", "--config", &shipped, "--set", "server.listen=nowhere"], &[]).await;
    assert_eq!(code.map(|code| code.to_string()), Some(of("RestartPreventExitStatus")), "{stderr}");
    assert!(read("deploy/debian/postinst").contains("#DEBHELPER#"));
    for (shell, script) in
        [("sh", "deploy/debian/postinst"), ("bash", ".ci/deb"), ("bash", ".ci/systemd"), ("bash", "tests/systemd/inside")]
    {
        let status = Command::new(shell).arg("-n").arg(root().join(script)).status().expect("a shell");
        assert!(status.success(), "{script}");
    }
    // systemd's own parser, where there is one. It looks whether what is started is there.
    let folder = tempfile::tempdir().expect("a temporary directory");
    let copy = folder.path().join("dingospeed.service");
    let here = program().display().to_string();
    std::fs::write(&copy, read("deploy/dingospeed.service").replace("/usr/bin/dingospeed", &here)).expect("a written file");
    if let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&copy).output() {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("dingospeed.service:"), "{said}");
    }
}

/// A service manager's socket.
struct Manager(tokio::net::UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Manager(tokio::net::UnixDatagram::from_std(socket).expect("a socket of the runtime"))
    }

    async fn next(&self) -> String {
        let mut text = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(60), self.0.recv(&mut text)).await;
        text.truncate(read.expect("a word in time").expect("a datagram"));
        String::from_utf8(text).expect("text")
    }
}

#[tokio::test]
async fn systemd_is_told_of_start_reload_and_end() {
    let hub = FakeHub::start().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("notify");
    let manager = Manager::at(&path);
    let mut mirror = Mirror::of(&hub).env("NOTIFY_SOCKET", &path.to_string_lossy()).start().await;
    assert_eq!(manager.next().await, "READY=1");
    mirror.signal(libc::SIGHUP);
    let reloading = manager.next().await;
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|micros| micros.parse::<u64>().ok());
    assert!(since.is_some_and(|micros| micros > 0), "{reloading}");
    assert_eq!(manager.next().await, "READY=1");
    assert_eq!(mirror.stop().await.code(), Some(0));
    assert_eq!(manager.next().await, "STOPPING=1");
}

#[tokio::test]
async fn systemds_watchdog_is_fed() {
    let hub = FakeHub::start().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("notify");
    let manager = Manager::at(&path);
    let options = Mirror::of(&hub).env("NOTIFY_SOCKET", &path.to_string_lossy()).env("WATCHDOG_USEC", "100000");
    let _mirror = options.start().await;
    let mut fed = 0;
    while fed < 3 {
        fed += u32::from(manager.next().await == "WATCHDOG=1");
    }
}
