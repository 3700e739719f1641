//! `dingospeed export` and `load`: a repo goes to a site without a Hub as one tar, and nothing but what was exported comes in.

use std::path::PathBuf;
use std::process::Stdio;

use fake_hub::{FakeHub, noise};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Mirror, Python, dingospeed, program};

const MIB: usize = 1 << 20;

struct Setup {
    hub: FakeHub,
    folder: TempDir,
    weights: Vec<u8>,
    oid: String,
}

/// Two repos pulled into `here`, one of them private.
async fn setup() -> Setup {
    let hub = FakeHub::start().await;
    let weights = noise(31, 2 * MIB + 5).to_vec();
    let open = hub.model("acme/open").lfs("deep/w.bin", &weights).file("config.json", "{}").file("empty", b"").commit("first");
    open.tag("v1");
    hub.dataset("acme/shut").lfs("d.bin", noise(32, 5000)).commit("first").private().grant("hf_member");
    let setup = Setup { hub, folder: tempfile::tempdir().expect("a temporary directory"), weights, oid: open.oid("deep/w.bin") };
    let url = setup.hub.url();
    let pull = ["pull", "acme/open@main", "acme/open@v1", "datasets/acme/shut", "--upstream", &url, "--token", "hf_member"];
    setup.ok("here", &pull).await;
    setup
}

impl Setup {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn run(&self, store: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let repos = self.path(store).display().to_string();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--repos", &repos]).collect();
        dingospeed(&arguments, &[]).await
    }

    async fn ok(&self, store: &str, arguments: &[&str]) -> (String, String) {
        let (code, stderr, stdout) = self.run(store, arguments).await;
        assert_eq!(code, Some(0), "{}: {stderr}{stdout}", arguments.join(" "));
        (stderr, stdout)
    }

    fn tar(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repo_is_carried_to_a_site_without_a_hub() {
    let setup = setup().await;
    let tar = setup.tar("repos.tar");
    let (stderr, _) = setup.ok("here", &["export", "acme/open", "datasets/acme/shut", "--output", &tar]).await;
    assert!(stderr.contains("exported 4 objects") && stderr.contains("not open to all"), "{stderr}");
    assert!(!setup.path("repos.tar.part").exists());

    let (stderr, stdout) = setup.ok("here", &["export", "acme/open", "datasets/acme/shut", "-o", &tar, "--json"]).await;
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        (&told["exported"]["objects"], &told["repos"][0]["id"]),
        (&4.into(), &"models/acme/open".into()),
        "{told}{stderr}"
    );
    let (code, stderr, _) = setup.run("here", &["export", "acme/open", "-o", "-", "--json"]).await;
    assert!(code == Some(2) && stderr.contains("name a file"), "{stderr}");
    let (_, stdout) = setup.ok("there", &["load", &tar, "--dry-run", "--json"]).await;
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&told["would_load"]["objects"], told["repos"].as_array().map(Vec::len)), (&4.into(), Some(2)), "{told}");
    let (_, stdout) = setup.ok("there", &["load", &tar, "--dry-run", "-q"]).await;
    assert!(stdout.starts_with("models/acme/open@"), "{stdout}");

    let (_, stdout) = setup.ok("there", &["load", &tar, "--dry-run"]).await;
    assert!(stdout.contains("would load 4 objects") && !setup.path("there").exists(), "{stdout}");
    let (_, stdout) = setup.ok("there", &["load", &tar]).await;
    assert!(stdout.contains("loaded 4 objects") && stdout.contains("0 objects here before"), "{stdout}");
    // Again, and beside a server: all is there.
    setup.hub.clear_log();
    setup.hub.down().await;
    let mirror = Mirror::of(&setup.hub).repos(&setup.path("there")).arg("--offline").start().await;
    let (_, stdout) = setup.ok("there", &["load", &tar, "--json"]).await;
    let told: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&told["loaded"]["objects"], &told["loaded"]["objects_here_before"]), (&0.into(), &4.into()), "{told}");
    let (_, stdout) = setup.ok("there", &["load", &tar]).await;
    assert!(stdout.contains("loaded 0 objects") && stdout.contains("4 objects here before"), "{stdout}");

    for (venv, revision) in [("hub-0.36.2", "main"), ("hub-1.33.0", "v1"), ("hub-2.4.0", "main")] {
        let home = setup.path(&format!("home-{venv}"));
        let cache = home.join("cache").display().to_string();
        let told = Python::new(venv, mirror.url(), &home).json("snapshot.py", &["model", "acme/open", revision, &cache]).await;
        let files: Vec<&String> = told["files"].as_object().expect("files").keys().collect();
        assert_eq!(files, ["config.json", "deep/w.bin", "empty"], "{venv}");
        assert_eq!(told["files"]["deep/w.bin"]["sha256"], json!(setup.oid), "{venv}");
    }
    // A private repo is one there too, also for who could read it here.
    for headers in [&[][..], &["Authorization: Bearer hf_member"]] {
        let answer = mirror.ask("GET", "/datasets/acme/shut/resolve/main/d.bin", headers).await;
        assert!(answer.status >= 400, "{}", answer.status);
    }
    assert!(setup.hub.calls().is_empty());
    drop(mirror);

    // With a Hub again, it decides as ever; the bytes are there.
    setup.hub.up().await;
    let mirror = Mirror::of(&setup.hub).repos(&setup.path("there")).start().await;
    assert_eq!(mirror.get("/datasets/acme/shut/resolve/main/d.bin").await.status, 401);
    let got = mirror.ask("GET", "/datasets/acme/shut/resolve/main/d.bin", &["Authorization: Bearer hf_member"]).await;
    assert_eq!((got.status, got.body.to_vec()), (200, noise(32, 5000).to_vec()));
    assert_eq!(setup.hub.fetched("d.bin"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tar_goes_through_pipes_and_from_beside_a_server() {
    let setup = setup().await;
    let mirror = Mirror::of(&setup.hub).repos(&setup.path("here")).start().await;
    let mut export = std::process::Command::new(program());
    export.args(["export", "acme/open", "--revision", "v1", "--output", "-", "--repos"]).arg(setup.path("here"));
    let mut export = export.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut load = std::process::Command::new(program());
    load.args(["load", "-", "--repos"]).arg(setup.path("there"));
    load.stdin(export.stdout.take().expect("a pipe")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let loaded = tokio::task::spawn_blocking(move || {
        let loaded = load.output().expect("the binary starts");
        (loaded, export.wait_with_output().expect("it ends"))
    });
    let (loaded, exported) = loaded.await.expect("both end");
    let said = String::from_utf8_lossy(&loaded.stdout).into_owned();
    assert!(exported.status.success() && loaded.status.success(), "{said} {exported:?}");
    assert!(said.contains("loaded 3 objects"), "{said}");
    drop(mirror);
    let (_, listed) = setup.ok("there", &["ls", "--revisions", "--format", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["revisions"][0]["complete"], json!(true), "{listed}");
    assert_eq!(listed[0]["revisions"][0]["refs"], json!(["main", "v1"]), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_where_the_tar_is_to_go_stays_what_it_is() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    let setup = setup().await;
    let export = async |name: &str, repo: &str| setup.ok("here", &["export", repo, "--output", &setup.tar(name)]).await;
    let mode = |name: &str| std::fs::metadata(setup.path(name)).expect("a file").permissions().mode() & 0o777;

    // A link leads to the tar, whether there is one yet or not, and somebody else's parts are nobody's here.
    std::fs::write(setup.path("target.tar.part"), "of another").expect("a file");
    symlink("target.tar", setup.path("link.tar")).expect("a link");
    for _ in 0..2 {
        export("link.tar", "acme/open").await;
        assert!(setup.path("link.tar").is_symlink() && !setup.path("target.tar").is_symlink());
        setup.ok("there", &["load", &setup.tar("target.tar"), "--dry-run"]).await;
    }
    assert_eq!(std::fs::read(setup.path("target.tar.part")).expect("it stays"), b"of another");
    let names = std::fs::read_dir(setup.folder.path()).expect("a directory").count();
    export("target.tar", "acme/open").await;
    assert_eq!(std::fs::read_dir(setup.folder.path()).expect("a directory").count(), names, "nothing is left over");

    // Private files are for whoever made the tar, also in the place of one that was open to all.
    std::fs::write(setup.path("plain"), b"").expect("a file, as the umask has it");
    assert_eq!(mode("target.tar"), mode("plain"));
    export("target.tar", "datasets/acme/shut").await;
    assert_eq!(mode("target.tar"), 0o600);

    // A pipe is written to.
    let pipe = setup.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let reader = tokio::task::spawn_blocking({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).expect("a tar")
    });
    export("pipe", "acme/open").await;
    assert!(std::fs::symlink_metadata(&pipe).expect("it stays").file_type().is_fifo());
    assert!(reader.await.expect("it ends").len() > 2 * MIB);
    // And so is a device.
    let device = ["export", "acme/open", "--output", "/dev/full"];
    let (code, stderr, _) = setup.run("here", &device).await;
    assert!(code == Some(1) && stderr.contains("/dev/full: ") && stderr.contains("No space left"), "{stderr}");
    assert!(std::fs::metadata("/dev/full").expect("it stays").file_type().is_char_device());

    // What goes wrong is told of what was named.
    let (absent, folder) = (setup.tar("none/x.tar"), setup.tar("here"));
    for output in [&absent, &folder] {
        let (code, stderr, _) = setup.run("here", &["export", "acme/open", "--output", output]).await;
        assert!(code == Some(1) && stderr.contains(&format!("{output}: it cannot be written")), "{stderr}");
        assert!(!stderr.contains(".part"), "{stderr}");
    }
}

/// Type, name, the size it claims, content.
type Entry<'a> = (tar::EntryType, &'a str, u64, &'a [u8]);

/// Writes a tar of these entries.
fn tar_of(path: &std::path::Path, entries: &[Entry<'_>]) {
    let mut bytes = Vec::new();
    for (kind, name, size, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(*size);
        header.set_mode(0o644);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").expect("a link");
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    std::fs::write(path, bytes).expect("a tar");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_means_harm_is_refused() {
    use tar::EntryType::{GNULongName, Regular, Symlink};
    let setup = setup().await;
    let (good, content) = (setup.oid.clone(), setup.weights.clone());
    let parcel = |path: &str, repo: &str, answers: Value| {
        json!({
            "repo": repo, "commit": "2".repeat(40), "refs": [{ "name": "main", "at_ms": 1 }], "whole": true,
            "access": { "open": true, "at_ms": 1 }, "files": [{ "path": path, "oid": good, "size": content.len() }],
            "answers": answers,
        })
    };
    let manifest = |parcel: Value, size: u64| {
        json!({ "dingospeed_export": 1, "program": "x", "objects": [{ "oid": good, "size": size }], "parcels": [parcel] })
            .to_string()
    };
    let len = content.len() as u64;
    let sound = manifest(parcel("w.bin", "models/evil/m", json!([])), len);
    let object = format!("objects/{good}");
    let mut other = content.clone();
    other[MIB] ^= 1;
    let foreign = json!([{ "name": "info", "target": "/api/models/acme/open/revision/main", "status": 200, "headers": [],
        "body": "{}", "fetched_at_ms": 9, "fresh_for_ms": 9, "stale_for_ms": 9 }]);
    let huge = sound.replace(&format!("\"size\":{len}"), &format!("\"size\":{}", 1u64 << 60));
    let manifests = [
        (manifest(parcel("../../../x", "models/evil/m", json!([])), len), "file path"),
        (manifest(parcel("/etc/x", "models/evil/m", json!([])), len), "file path"),
        (manifest(parcel("w", "models/../../x", json!([])), len), "learn of"),
        (manifest(parcel("w", "secrets/a/b", json!([])), len), "kind of repo"),
        (manifest(parcel("w", "models/evil/m", foreign), len), "not about it"),
        (sound.replace("dingospeed_export\":1", "dingospeed_export\":2"), "newer"),
        ("[]".to_owned(), "no export"),
        ("not json".to_owned(), "no export"),
        (
            sound.replace(
                &format!("\"path\":\"w.bin\",\"oid\":\"{good}\",\"size\":{len}"),
                &format!("\"path\":\"w.bin\",\"oid\":\"{good}\",\"size\":5"),
            ),
            "`w.bin` has 5 bytes",
        ),
    ];
    let tar = setup.path("evil.tar");
    let mut cases: Vec<(&str, Vec<Entry<'_>>)> = Vec::new();
    for (text, why) in &manifests {
        cases.push((why, vec![(Regular, "manifest.json", text.len() as u64, text.as_bytes())]));
    }
    let head = (Regular, "manifest.json", sound.len() as u64, sound.as_bytes());
    let vast = (Regular, "manifest.json", huge.len() as u64, huge.as_bytes());
    let unknown = format!("objects/{}", "5".repeat(64));
    cases.extend([
        ("hash to", vec![head, (Regular, &object, len, &other[..])]),
        ("no plain file", vec![head, (Symlink, &object, 0, &[][..])]),
        ("no object", vec![head, (Regular, "objects/../../../etc/cron.d/x", 1, b"x")]),
        ("no object", vec![head, (Regular, "/etc/passwd", 1, b"x")]),
        ("does not name", vec![head, (Regular, &unknown, 1, b"x")]),
        ("another size", vec![head, (Regular, &object, 1 << 50, b"x")]),
        ("no plain file", vec![head, (GNULongName, "././@LongLink", 1 << 40, b"x")]),
        ("room for", vec![vast, (Regular, &object, 1 << 60, b"x")]),
        ("ends early", vec![head]),
        ("begins with", vec![(Regular, &object, len, &content[..]), head]),
        ("more than", vec![(Regular, "manifest.json", 1 << 40, b"{}")]),
        ("is empty", vec![]),
    ]);
    for (why, entries) in &cases {
        tar_of(&tar, entries);
        let (code, stderr, stdout) = setup.run("there", &["load", &setup.tar("evil.tar")]).await;
        assert_eq!(code, Some(1), "{why}: {stdout}");
        assert_eq!(stdout, "", "{why}: nothing was loaded");
        assert!(stderr.contains(why), "`{why}` in {stderr}");
        let nothing =
            !setup.path("there").exists() || std::fs::read_dir(setup.path("there").join("files")).expect("files/").count() == 0;
        assert!(nothing, "{why}: something was learned");
    }
    // A file that is no tar at all stays unread.
    std::fs::write(&tar, "root:secret:0:0\n".repeat(100)).expect("a text");
    let (code, stderr, _) = setup.run("there", &["load", &setup.tar("evil.tar")]).await;
    assert!(code == Some(1) && stderr.contains("cannot be read as a tar") && !stderr.contains("secret"), "{stderr}");
    // A tar that was cut in the middle of an object.
    let whole = setup.tar("whole.tar");
    setup.ok("here", &["export", "acme/open", "--output", &whole]).await;
    let bytes = std::fs::read(&whole).expect("a tar");
    std::fs::write(&tar, &bytes[..bytes.len() - MIB]).expect("a part of it");
    let (code, stderr, _) = setup.run("there", &["load", &setup.tar("evil.tar")]).await;
    assert_eq!(code, Some(1), "{stderr}");
    let (_, stdout) = setup.ok("there", &["load", &whole]).await;
    assert!(stdout.contains("loaded"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_here_does_not_leave() {
    let setup = setup().await;
    let blob = setup.path("here/blobs").join(&setup.oid[..2]).join(&setup.oid);
    let mut bytes = std::fs::read(&blob).expect("a blob");
    bytes[4096 + 77] ^= 1;
    std::fs::write(&blob, bytes).expect("a broken blob");
    let tar = setup.tar("x.tar");
    let (code, stderr, _) = setup.run("here", &["export", "acme/open", "--output", &tar]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("verify --repair") && !setup.path("x.tar").exists() && stderr.contains("x.tar: "), "{stderr}");
    let (code, stderr, _) = setup.run("here", &["export", "acme/none", "--output", &tar]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("not kept here: models/acme/none"), "{stderr}");
}
