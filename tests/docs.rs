//! The pages of `docs/`: every command in them is run, every message they quote is in the source, every key they name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dingospeed::config::Config;
use fake_hub::{FakeHub, noise};
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Mirror, dingospeed, program, root, run_within};
use crate::import::stores::BlockStore;

/// Programs of the system that pages tell to use, and that a test must not: each only says what it was told to do.
const STAND_INS: [&str; 7] = ["systemctl", "journalctl", "dpkg", "docker", "kubectl", "install", "adduser"];

fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = std::fs::read_dir(root().join("docs"))
        .expect("docs/")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("a page")))
        .collect();
    pages.sort();
    assert!(pages.len() >= 5, "{pages:?}");
    pages
}

/// The contents of the blocks of a page that are marked as `language`.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mark = format!("```{language}\n");
    page.split(&mark).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn sources() -> String {
    fn walk(path: &Path, text: &mut String) {
        for entry in std::fs::read_dir(path).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, text);
            } else {
                text.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    let mut text = String::new();
    walk(&root().join("src"), &mut text);
    joined(&text)
}

/// Text literals that go on after a line's end are one.
fn joined(text: &str) -> String {
    let mut pieces = text.split("\\\n");
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    pieces.for_each(|piece| whole.push_str(piece.trim_start()));
    whole
}

/// Makes an executable file.
fn script(path: PathBuf, text: &str) {
    std::fs::write(&path, text).expect("a written file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_pages_runs() {
    for (name, page) in pages() {
        let hub = FakeHub::start().await;
        hub.model("openai-community/gpt2").file("config.json", "{}").lfs("model.safetensors", noise(3, 2 << 20)).commit("first");
        hub.dataset("rajpurkar/squad").file("README.md", "# squad").commit("first");
        let folder = tempfile::tempdir().expect("a temporary directory");
        let tools = folder.path().join("tools");
        std::fs::create_dir(&tools).expect("a directory");
        std::os::unix::fs::symlink(program(), tools.join("dingospeed")).expect("a link");
        for stand_in in STAND_INS {
            script(tools.join(stand_in), &format!("#!/bin/sh\necho \"{stand_in} $*\"\n"));
        }
        script(tools.join("sudo"), "#!/bin/sh\nif [ \"$1\" = -u ]; then shift 2; fi\nexec \"$@\"\n");
        let etc = folder.path().join("etc");
        std::fs::create_dir(&etc).expect("a directory");
        std::fs::copy(root().join("conf/dingospeed.yaml"), etc.join("dingospeed.yaml")).expect("a copy");
        let mirror = Mirror::start(&hub).await;
        let old = BlockStore::dingospeed_3("models", "old/model", &"1".repeat(40)).file("config.json", b"{}", false);
        let old = old.info("main", &["config.json"], serde_json::json!({}));
        let places = [
            ("http://127.0.0.1:8090", mirror.url().to_owned()),
            ("/srv/dingospeed/repos", old.root().display().to_string()),
            ("/var/lib/dingospeed", mirror.repos().display().to_string()),
            ("/etc/dingospeed", etc.display().to_string()),
        ];
        // What a user who moves here has already.
        let downloaded = format!("HF_ENDPOINT={} hf download openai-community/gpt2\n", mirror.url());
        let before = page.contains("~/.cache/huggingface").then_some(downloaded);
        for block in before.into_iter().chain(blocks(&page, "sh")) {
            let text = places.iter().fold(block.clone(), |text, (from, to)| text.replace(from, to));
            let path =
                format!("{}:{}:/usr/local/bin:/usr/bin:/bin", tools.display(), root().join(".venvs/hub-1.33.0/bin").display());
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-c", &text]).current_dir(folder.path()).env_clear();
            command.env("PATH", path).env("HOME", folder.path()).env("HF_HUB_DISABLE_TELEMETRY", "1");
            let ran = run_within(Duration::from_secs(120), command, &block).await;
            assert!(ran.ok, "{name}:\n{block}\nfailed:\n{}{}", ran.stdout, ran.stderr);
        }
    }
}

/// The fields of a value, those of what is in it too.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            found.insert(name.clone());
            fields(value, found);
        }),
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_that_commands_print_is_explained_and_exists() {
    let page = std::fs::read_to_string(root().join("docs/operation.md")).expect("the page");
    let rows = page.split("### For scripts").nth(1).expect("the section").split("\n## ").next().expect("its end");
    let marked = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut explained: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows.lines().filter(|line| line.starts_with("| `")) {
        let (commands, told) = row[1..].split_once('|').expect("two columns");
        let names: BTreeSet<String> = marked(told).into_iter().filter(|word| !word.starts_with(['-', '/'])).collect();
        marked(commands).into_iter().for_each(|command| drop(explained.insert(command, names.clone())));
    }

    let hub = FakeHub::start().await;
    let repo = hub.model("acme/m").lfs("w.bin", noise(3, 2 << 20)).file("bad.txt", "x").commit("first");
    hub.fault("bad.txt").on_hub().status(403, &[("X-Error-Code", "GatedRepo")]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (here, there, tar) = (path("here"), path("there"), path("repos.tar"));
    // One is not whole, and skipped.
    let old = BlockStore::dingospeed_3("models", "old/model", &"1".repeat(40)).file("config.json", b"{}", false);
    let old = old.partial("half.bin", &noise(6, 2 << 20), &[0]);
    let old = old.root().display().to_string();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut run = async |command: &str, repos: &str, more: &[&str]| {
        let verb = command.split(' ').next().expect("a word");
        let words: Vec<&str> = [&[verb, "--json"], more].concat();
        let words: Vec<&str> = if repos.is_empty() { words } else { [&words[..], &["--repos", repos]].concat() };
        let (_, stderr, stdout) = dingospeed(&words, &[]).await;
        let value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {stdout}{stderr}"));
        fields(&value, seen.entry(command.to_owned()).or_default());
    };
    run("pull", &here, &["acme/m", "--upstream", &hub.url()]).await;
    run("ls", &here, &["--files"]).await;
    run("pin", &here, &["acme/m"]).await;
    run("pin", &here, &[]).await;
    run("unpin", &here, &["acme/m"]).await;
    run("export", &here, &["acme/m", "--output", &tar]).await;
    run("load", &there, &[&tar, "--dry-run"]).await;
    run("load", &there, &[&tar]).await;
    run("import", &there, &[&old, "--dry-run", "--offline"]).await;
    run("import", &there, &[&old, "--offline"]).await;
    let oid = repo.oid("w.bin");
    let blob = folder.path().join("here/blobs").join(&oid[..2]).join(&oid);
    std::fs::File::options().write(true).open(&blob).and_then(|file| file.write_all_at(b"else", 9999)).expect("a changed file");
    run("verify", &here, &[]).await;
    for more in [&["--dry-run"][..], &[]] {
        run("gc", &here, more).await;
        run("rm", &here, &[&["acme/m", "--yes"], more].concat()).await;
    }
    run("check", "", &[]).await;
    let mirror = Mirror::start(&hub).await;
    mirror.get("/acme/m/resolve/main/w.bin").await;
    run("status --url", "", &["--url", mirror.url()]).await;
    run("status --repos", &mirror.repos().display().to_string(), &[]).await;

    assert_eq!(seen.keys().collect::<Vec<_>>(), explained.keys().collect::<Vec<_>>());
    for (command, fields) in &seen {
        let unexplained: Vec<_> = fields.difference(&explained[command]).collect();
        assert!(unexplained.is_empty(), "{command}: {unexplained:?}");
        let invented: Vec<_> = explained[command].difference(fields).collect();
        assert!(invented.is_empty(), "{command} does not print {invented:?}");
    }
}

#[test]
fn every_yaml_of_the_pages_is_a_legal_configuration() {
    for (name, page) in pages() {
        for block in blocks(&page, "yaml") {
            if let Err(mistakes) = Config::from_yaml(&block) {
                panic!("{name}:\n{block}\n{mistakes:?}");
            }
        }
    }
}

#[test]
fn every_key_is_explained_and_exists() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page");
    for key in Config::keys() {
        let row = format!("| `{}` | `{}` |", key.name, if key.default.is_empty() { "\"\"" } else { key.default });
        assert!(page.contains(&row), "docs/configuration.md lacks the row {row}");
    }
    let known: BTreeSet<&str> = Config::keys().iter().map(|key| key.name).collect();
    for line in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let name = line.split('`').next().unwrap_or_default();
        assert!(known.contains(name), "docs/configuration.md explains `{name}`, which is no key");
    }
}

/// The messages of `docs/troubleshooting.md`: what stands in the first column, in which `…` stands for what differs.
fn quoted() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split("` |").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_message_that_is_quoted_is_in_the_source() {
    let sources = sources();
    let quoted = quoted();
    assert!(quoted.len() > 20, "{quoted:?}");
    for message in &quoted {
        for piece in message.split('…').filter(|piece| piece.trim().len() > 2) {
            assert!(sources.contains(piece), "`{message}`: `{piece}` is nowhere in src/");
        }
    }
}

#[test]
fn every_answer_that_refuses_is_explained() {
    let text = joined(&std::fs::read_to_string(root().join("src/hub/error.rs")).expect("the source"));
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_code = |line: &&str| !line.trim_start().starts_with("//") && !line.contains("realm=");
    let code: String = text.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    let quoted = quoted();
    let mut seen = 0;
    for literal in code.split('"').skip(1).step_by(2).filter(|literal| literal.contains(' ')) {
        let mut end = literal.find('{').unwrap_or(literal.len());
        if end < 8 {
            // The message begins with what differs.
            let rest = &literal[literal.find('}').map_or(0, |at| at + 1)..];
            end = rest.find(['{', '\\']).unwrap_or(rest.len());
            assert!(quoted.iter().any(|message| message.contains(rest[..end].trim())), "`{literal}` is not explained");
        } else {
            // Pages may leave out the advice at the end.
            let start: String = literal[..end].trim().chars().take(48).collect();
            assert!(quoted.iter().any(|message| message.contains(&start)), "`{literal}` is not explained");
        }
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for (name, page) in pages() {
        for target in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_here = file.is_empty() || file.starts_with("http") || root().join("docs").join(file).exists();
            assert!(is_here, "{name}: `{target}` leads nowhere");
        }
    }
}
