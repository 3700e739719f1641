//! `dingospeed import`: stores of DingoSpeed and Olah, written byte by byte as they write them, and caches that the real
//! huggingface_hub made; then the repos are downloaded from a mirror without a Hub.

pub(crate) mod stores;

use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_hub::{FakeHub, noise};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mirror, Python, dingospeed, program};
use stores::{BlockStore, MIB, git_oid, sha256};

const COMMIT: &str = "1111111111111111111111111111111111111111";
const VENVS: [&str; 3] = ["hub-0.36.2", "hub-1.33.0", "hub-2.4.0"];

struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new() -> Setup {
        Setup { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn repos(&self) -> PathBuf {
        self.path("repos")
    }

    /// Imports this directory, without asking a Hub unless one is named.
    async fn import(&self, source: &Path, hub: Option<&FakeHub>, more: &[&str]) -> (Option<i32>, String, String) {
        let (source, repos) = (source.display().to_string(), self.repos().display().to_string());
        let upstream = hub.map(FakeHub::url);
        let asking = upstream.as_ref().map_or(vec!["--offline"], |url| vec!["--upstream", url]);
        let arguments: Vec<&str> =
            ["import", &source, "--repos", &repos].into_iter().chain(asking).chain(more.iter().copied()).collect();
        dingospeed(&arguments, &[]).await
    }

    async fn offline(&self) -> Mirror {
        Mirror::of_url("http://127.0.0.1:9").repos(&self.repos()).arg("--offline").start().await
    }

    /// Downloads a repo from a mirror with an empty home, and returns `path -> {sha256, size, blob}`.
    async fn download(&self, mirror: &Mirror, venv: &'static str, kind: &str, repo: &str, revision: &str) -> Value {
        let home = self.path(&format!("home-{venv}-{}-{revision}", repo.replace('/', "-")));
        let user = Python::new(venv, mirror.url(), &home);
        let cache = home.join("cache").display().to_string();
        user.json("snapshot.py", &[kind, repo, revision, &cache]).await
    }
}

fn file(bytes: &[u8], lfs: bool) -> Value {
    let sha256 = sha256(bytes);
    let blob = if lfs { sha256.clone() } else { git_oid(bytes) };
    json!({ "sha256": sha256, "size": bytes.len(), "blob": blob })
}

/// Names, times and bytes of all that is below a directory, for comparing.
fn image(dir: &Path) -> Vec<(PathBuf, std::time::SystemTime, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = std::fs::symlink_metadata(&path).expect("its facts");
            let bytes = if meta.is_file() { std::fs::read(&path).expect("a file") } else { Vec::new() };
            found.push((path.clone(), meta.modified().expect("a time"), bytes));
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    found
}

fn config() -> Vec<u8> {
    b"{\"model_type\": \"tiny\"}".to_vec()
}

/// A repo of four files: LFS in several blocks, small, empty, and below a directory.
fn whole(store: BlockStore) -> (BlockStore, Vec<u8>, Value) {
    let weights = noise(5, 2 * MIB as usize + 77).to_vec();
    let store = store
        .file("w.bin", &weights, true)
        .file("config.json", &config(), false)
        .file("empty.txt", b"", false)
        .file("deep/er/notes.md", b"# notes\n", false)
        .info("main", &["w.bin", "config.json", "empty.txt", "deep/er/notes.md"], json!({ "private": false, "gated": false }));
    let files = json!({
        "w.bin": file(&weights, true), "config.json": file(&config(), false), "empty.txt": file(b"", false),
        "deep/er/notes.md": file(b"# notes\n", false),
    });
    (store, weights, files)
}

/// Imports a store, sees that it is as it was, and downloads the repo with every client from a mirror without a Hub.
async fn arrives(store: BlockStore, kind: &str, repo: &str, said: &str) {
    let (store, _, files) = whole(store);
    let setup = Setup::new();
    let before = image(store.root());
    let (code, stderr, stdout) = setup.import(store.root(), None, &["--dry-run"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("would import 4 objects") && stderr.contains(said), "{stdout}{stderr}");
    assert!(!setup.repos().exists(), "a dry run makes nothing");

    let (code, stderr, stdout) = setup.import(store.root(), None, &[]).await;
    assert_eq!(code, Some(0), "{stderr}{stdout}");
    assert!(stdout.contains("imported 4 objects") && stdout.contains("0 objects here before"), "{stdout}");
    assert!(!stderr.contains("nobody has told"), "{stderr}");
    assert_eq!(image(store.root()), before, "the source was changed");

    let (code, _, stdout) = setup.import(store.root(), None, &[]).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("imported 0 objects") && stdout.contains("4 objects here before"), "{stdout}");
    let repos = setup.repos().display().to_string();
    let (code, stderr, stdout) = dingospeed(&["verify", "--repos", &repos], &[]).await;
    assert_eq!(code, Some(0), "{stderr}{stdout}");

    let mirror = setup.offline().await;
    for venv in VENVS {
        let told = setup.download(&mirror, venv, kind, repo, "main").await;
        assert_eq!(told, json!({ "commit": COMMIT, "files": files }), "{venv}");
    }
    let prefix = if kind == "dataset" { "/datasets" } else { "" };
    let absent = mirror.get(&format!("{prefix}/{repo}/resolve/main/none.txt")).await;
    assert_eq!((absent.status, absent.header("x-error-code")), (404, Some("EntryNotFound")), "all files are known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dingospeed_1_arrives() {
    arrives(BlockStore::dingospeed_1("models", "acme/tiny", COMMIT), "model", "acme/tiny", "DingoSpeed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dingospeed_2_and_3_arrive() {
    arrives(BlockStore::dingospeed_3("datasets", "acme/tiny", COMMIT), "dataset", "acme/tiny", "DingoSpeed").await;
    arrives(BlockStore::dingospeed_3("models", "gpt2", COMMIT), "model", "gpt2", "DingoSpeed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn olah_arrives() {
    // Olah writes `None` where a repo has no org.
    arrives(BlockStore::olah("models", "None/gpt2", COMMIT), "model", "gpt2", "Olah").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_or_not_whole_stays_out() {
    let (store, weights, _) = whole(BlockStore::dingospeed_3("models", "acme/tiny", COMMIT));
    let long = noise(6, 3 * MIB as usize).to_vec();
    let store = store
        .file("flipped.bin", &noise(7, MIB as usize + 3), true)
        .partial("half.bin", &long, &[0, 2])
        .file("short.bin", &noise(8, MIB as usize + 9), true)
        .asked("asked.bin", &noise(9, 5000))
        .file("torn.bin", &noise(10, 4000), true)
        .file("olah9.bin", &noise(11, 4000), true);
    let blob = |bytes: &[u8]| store.blob(&sha256(bytes));
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).expect("a blob");
        bytes[at] ^= 4;
        std::fs::write(path, bytes).expect("a changed blob");
    };
    flip(&blob(&noise(7, MIB as usize + 3)), 131_108 + 4321);
    flip(&blob(&noise(10, 4000)), 1);
    flip(&blob(&noise(11, 4000)), 4);
    let short = blob(&noise(8, MIB as usize + 9));
    let len = std::fs::metadata(&short).expect("its length").len();
    std::fs::File::options().write(true).open(&short).expect("a blob").set_len(len - 5).expect("a shorter blob");

    let setup = Setup::new();
    let (code, stderr, stdout) = setup.import(store.root(), None, &["--dry-run", "--json"]).await;
    let told: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stderr}{stdout}"));
    assert!(code == Some(0) && told["would_import"]["objects"].as_u64() > Some(1), "{told}");
    let (code, stderr, stdout) = setup.import(store.root(), None, &[]).await;
    assert_eq!(code, Some(1), "what is broken is told by the code: {stderr}{stdout}");
    let line =
        |name: &str| stdout.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {stdout}")).to_owned();
    assert!(line("/flipped.bin").contains("hash to"), "{stdout}");
    assert!(line("/half.bin").contains("2 of 3 blocks"), "{stdout}");
    assert!(line("/short.bin").contains("not whole"), "{stdout}");
    assert!(line("/torn.bin").contains("OLAH"), "{stdout}");
    assert!(line("/olah9.bin").contains("version"), "{stdout}");
    assert!(!stdout.contains("/asked.bin"), "what was only asked for is nothing to tell: {stdout}");
    // The same for scripts; what is broken is tried again, what is here is not.
    let (code, _, stdout) = setup.import(store.root(), None, &["--json"]).await;
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    let has = |list: &str, name: &str| {
        let list = told[list].as_array().unwrap_or_else(|| panic!("{told}"));
        list.iter().any(|one| one["file"].as_str().is_some_and(|file| file.ends_with(name)) && one["error"].is_string())
    };
    assert!(code == Some(1) && has("failed", "/flipped.bin") && has("skipped", "/half.bin"), "{told}");
    assert_eq!((&told["imported"]["objects"], &told["repos"][0]["state"]), (&0.into(), &"failed".into()), "{told}");
    // Before a mirror runs, which has files of its own there.
    let kept = std::fs::read_dir(setup.repos().join("tmp")).expect("tmp/").count();
    assert_eq!(kept, 0, "nothing is left of what was refused");

    let mirror = setup.offline().await;
    let got = mirror.get("/acme/tiny/resolve/main/w.bin").await;
    assert_eq!((got.status, got.body.len()), (200, weights.len()));
    for name in ["flipped.bin", "half.bin", "short.bin", "torn.bin", "olah9.bin", "asked.bin"] {
        let status = mirror.get(&format!("/acme/tiny/resolve/main/{name}")).await.status;
        assert!(status >= 500, "{name}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_repos_stay_closed() {
    let (store, _, _) = whole(BlockStore::dingospeed_3("models", "acme/gated", COMMIT));
    let store = store.info("main", &["w.bin"], json!({ "private": false, "gated": "auto" }));
    let setup = Setup::new();
    // Not even --open opens what the store says is closed.
    let (code, stderr, _) = setup.import(store.root(), None, &["--open"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let mirror = setup.offline().await;
    for target in ["/acme/gated/resolve/main/config.json", "/api/models/acme/gated/revision/main"] {
        let answer = mirror.get(target).await;
        assert!(answer.status >= 400 && !answer.text().contains("model_type"), "{target}: {}", answer.status);
    }
}

/// Fills the cache of a real client, by way of another mirror: the fake Hub's CDN has the Hub's own host name, with which clients
/// from 1.30 on do not get along.
async fn cached(hub: &FakeHub, setup: &Setup, venv: &'static str) -> PathBuf {
    let home = setup.path(&format!("user-{venv}"));
    let mirror = Mirror::start(hub).await;
    let user = Python::new(venv, mirror.url(), &home);
    let cache = home.join("hub");
    let text = cache.display().to_string();
    user.json("snapshot.py", &["model", "acme/cached", "main", &text]).await;
    user.json("snapshot.py", &["dataset", "acme/cached", "v1", &text]).await;
    home
}

fn cached_hub(hub: &FakeHub) -> (Value, Value) {
    let weights = noise(21, MIB as usize + 9).to_vec();
    let model =
        hub.model("acme/cached").file("config.json", config()).file("a/empty", b"").lfs("w.bin", &weights).commit("first");
    let data = hub.dataset("acme/cached").lfs("d.parquet", noise(22, 9000)).file("README.md", "# d").commit("first").tag("v1");
    let model = json!({ "commit": model.sha(), "files": {
        "config.json": file(&config(), false), "a/empty": file(b"", false), "w.bin": file(&weights, true),
    }});
    let data = json!({ "commit": data.sha(), "files": {
        "d.parquet": file(&noise(22, 9000), true), "README.md": file(b"# d", false),
    }});
    (model, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_cache_arrives_and_the_hub_is_asked_who_may_read() {
    for venv in VENVS {
        let hub = FakeHub::start().await;
        let (model, data) = cached_hub(&hub);
        let setup = Setup::new();
        let home = cached(&hub, &setup, venv).await;
        let before = image(&home);
        hub.clear_log();
        let (code, stderr, stdout) = setup.import(&home, Some(&hub), &[]).await;
        assert_eq!(code, Some(0), "{venv}: {stderr}{stdout}");
        assert!(stdout.contains("imported 5 objects"), "{venv}: {stdout}");
        assert_eq!(stderr.lines().count(), 1, "nothing is lacking: {stderr}");
        assert_eq!((hub.cdn_bytes(), hub.fetched("acme")), (0, 0), "{venv}: only small questions are asked");
        assert!(hub.asked("resolve") == 0 && !hub.calls().is_empty(), "{venv}");
        assert_eq!(image(&home), before, "{venv}: the cache was changed");

        hub.clear_log();
        hub.down().await;
        let mirror = Mirror::of(&hub).repos(&setup.repos()).arg("--offline").start().await;
        for client in VENVS {
            assert_eq!(setup.download(&mirror, client, "model", "acme/cached", "main").await, model, "{venv} {client}");
            assert_eq!(setup.download(&mirror, client, "dataset", "acme/cached", "v1").await, data, "{venv} {client}");
        }
        assert!(hub.calls().is_empty(), "{venv}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_cache_at_a_site_without_a_hub_is_opened_by_its_admin() {
    for venv in VENVS {
        let hub = FakeHub::start().await;
        let (model, data) = cached_hub(&hub);
        let setup = Setup::new();
        let home = cached(&hub, &setup, venv).await;
        let (code, stderr, _) = setup.import(&home, None, &[]).await;
        assert_eq!(code, Some(0), "{venv}: {stderr}");
        assert!(stderr.contains("--open") && stderr.contains("models/acme/cached"), "{venv}: {stderr}");

        // The same beside a running server, which has answered already.
        let mirror = Mirror::of(&hub).repos(&setup.repos()).arg("--offline").start().await;
        assert!(mirror.get("/acme/cached/resolve/main/config.json").await.status >= 400, "{venv}: nobody has opened it");
        let (code, stderr, stdout) = setup.import(&home, None, &["--open"]).await;
        assert_eq!(code, Some(0), "{venv}: {stderr}");
        assert!(stdout.contains("imported 0 objects") && !stderr.contains("nobody has told"), "{venv}: {stdout}{stderr}");
        for client in VENVS {
            assert_eq!(setup.download(&mirror, client, "model", "acme/cached", "main").await, model, "{venv} {client}");
            assert_eq!(setup.download(&mirror, client, "dataset", "acme/cached", "v1").await, data, "{venv} {client}");
        }
        // Releases before 1.22 do not write down which files there are.
        let absent = mirror.get("/acme/cached/resolve/main/none.txt").await;
        let expected = if venv == "hub-0.36.2" { 503 } else { 404 };
        assert_eq!(absent.status, expected, "{venv}: {}", absent.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_repos_of_a_cache_are_given_to_those_whom_the_hub_lets_in() {
    let hub = FakeHub::start().await;
    let secret = noise(41, 5000).to_vec();
    hub.model("acme/secret").lfs("w.bin", &secret).commit("first").private().grant("hf_member");
    let setup = Setup::new();
    let home = setup.path("user");
    let cache = home.join("hub").display().to_string();
    let mirror = Mirror::start(&hub).await;
    let user = Python::new("hub-2.4.0", mirror.url(), &home).env("HF_TOKEN", "hf_member");
    user.json("snapshot.py", &["model", "acme/secret", "main", &cache]).await;
    drop(mirror);
    hub.clear_log();
    let (code, stderr, _) = setup.import(&home, Some(&hub), &["--token", "hf_member"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let mirror = Mirror::of(&hub).repos(&setup.repos()).start().await;
    let (target, token) = ("/acme/secret/resolve/main/w.bin", "Authorization: Bearer hf_member");
    assert_eq!(mirror.get(target).await.status, 401);
    let got = mirror.ask("GET", target, &[token]).await;
    assert_eq!((got.status, got.body.to_vec()), (200, secret));
    assert_eq!((hub.fetched("w.bin"), hub.cdn_bytes()), (0, 0), "the bytes were here");
    // --open does not open what the Hub said is closed.
    hub.down().await;
    drop(mirror);
    let (code, _, _) = setup.import(&home, None, &["--open"]).await;
    assert_eq!(code, Some(0));
    let mirror = setup.offline().await;
    assert!(mirror.get(target).await.status >= 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_is_asked_for_again_once_the_hub_is_there() {
    let hub = FakeHub::start().await;
    let (store, _, _) = whole(BlockStore::dingospeed_3("models", "acme/tiny", COMMIT));
    hub.model("acme/tiny").file("config.json", b"{\"new\": 1}").commit("later");
    let setup = Setup::new();
    assert_eq!(setup.import(store.root(), None, &[]).await.0, Some(0));
    let mirror = Mirror::of(&hub).repos(&setup.repos()).start().await;
    assert_eq!(mirror.get("/acme/tiny/resolve/main/config.json").await.text(), "{\"new\": 1}");
    let old = mirror.get(&format!("/acme/tiny/resolve/{COMMIT}/config.json")).await;
    assert_eq!((old.status, old.body.to_vec()), (200, config()), "what was imported is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_beside_a_server_is_seen_at_once() {
    let (store, weights, files) = whole(BlockStore::dingospeed_1("models", "acme/tiny", COMMIT));
    let setup = Setup::new();
    let mirror = setup.offline().await;
    let target = format!("/acme/tiny/resolve/{COMMIT}/w.bin");
    assert!(mirror.get(&target).await.status >= 500, "nothing is known yet");
    let (code, stderr, _) = setup.import(store.root(), None, &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let got = mirror.get(&target).await;
    assert_eq!((got.status, got.body.to_vec()), (200, weights));
    let told = setup.download(&mirror, "hub-2.4.0", "model", "acme/tiny", "main").await;
    assert_eq!(told["files"], files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_killed_goes_on() {
    const COUNT: usize = 24;
    let mut store = BlockStore::dingospeed_3("models", "acme/many", COMMIT);
    let names: Vec<String> = (0..COUNT).map(|index| format!("part-{index}.bin")).collect();
    for (index, name) in names.iter().enumerate() {
        store = store.file(name, &noise(100 + index as u64, MIB as usize), true);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let store = store.info("main", &names, json!({ "private": false, "gated": false }));
    let setup = Setup::new();
    let mut command = tokio::process::Command::new(program());
    command.arg("import").arg(store.root()).arg("--offline").arg("--repos").arg(setup.repos());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("the binary starts");
    let arrived = || {
        let blobs = std::fs::read_dir(setup.repos().join("blobs")).into_iter().flatten().flatten();
        blobs.flat_map(|dir| std::fs::read_dir(dir.path()).into_iter().flatten()).count()
    };
    let mut tries = 0;
    while arrived() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        tries += 1;
        assert!(tries < 8000, "something arrives");
    }
    child.kill().await.expect("killed");
    let here = arrived();
    let (code, stderr, stdout) = setup.import(store.root(), None, &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let told = format!("imported {} objects", COUNT - here);
    assert!(stdout.contains(&told) && stdout.contains(&format!("{here} objects here before")), "{here}: {stdout}");
    assert_eq!(std::fs::read_dir(setup.repos().join("tmp")).expect("tmp/").count(), 0, "what was half done is cleared away");
    let mirror = setup.offline().await;
    let got = mirror.get("/acme/many/resolve/main/part-23.bin").await;
    assert_eq!(got.body.to_vec(), noise(123, MIB as usize).to_vec());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_store_is_told() {
    let setup = Setup::new();
    let told = |source: PathBuf, more: &'static [&'static str]| {
        let setup = &setup;
        async move {
            let (code, stderr, _) = setup.import(&source, None, more).await;
            assert_eq!(code, Some(1), "{stderr}");
            stderr
        }
    };
    assert!(told(setup.path("nowhere"), &[]).await.contains("no directory"));
    std::fs::create_dir(setup.path("other")).expect("a directory");
    assert!(told(setup.path("other"), &[]).await.contains("models--org--name"));
    let (store, _, _) = whole(BlockStore::dingospeed_3("models", "acme/tiny", COMMIT));
    assert!(told(store.root().to_owned(), &["--from", "huggingface"]).await.contains("Hugging Face cache"));
    assert!(told(store.root().to_owned(), &["nobody/*"]).await.contains("no repo of that name"));
    assert!(!setup.repos().exists());
    // A store of our own, and the directory itself.
    assert_eq!(setup.import(store.root(), None, &["acme/*"]).await.0, Some(0));
    assert!(told(setup.repos(), &[]).await.contains("export and load"));
    let (source, repos) = (store.root().display().to_string(), store.root().display().to_string());
    let (code, stderr, _) = dingospeed(&["import", &source, "--repos", &repos, "--offline"], &[]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("directory of its own"), "{stderr}");
}
