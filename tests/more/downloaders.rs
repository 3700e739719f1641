//! curl, wget and aria2c: what they broke off they continue, and many connections at once cost upstream one download.

use std::path::{Path, PathBuf};

use fake_hub::{FakeHub, Repo, noise, sha256_of};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::Mirror;

const SIZE: usize = 24 << 20;
const PATH: &str = "/acme/big/resolve/main/weights.bin";

fn program(name: &str, folder: &Path) -> Command {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let found: Option<PathBuf> = std::env::split_paths(&places).map(|place| place.join(name)).find(|path| path.exists());
    let found = found.unwrap_or_else(|| panic!("`{name}` is missing: run `./.ci/tools downloaders` (`make test-clients` does)"));
    crate::client(found, folder)
}

async fn hub() -> (FakeHub, Repo) {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/big").lfs("weights.bin", noise(41, SIZE)).commit("big");
    (hub, repo)
}

fn check(repo: &Repo, folder: &Path, name: &str) {
    let bytes = std::fs::read(folder.join(name)).expect("the download");
    let sum = sha256_of(&*fake_hub::Memory::holding(bytes));
    assert_eq!(sum, sha256_of(&*repo.content("weights.bin")), "{name} is not the file");
}

/// Leaves the first part of the file, as a broken download does.
fn leave_part(repo: &Repo, folder: &Path, name: &str, len: u64) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join(name), repo.content("weights.bin").read(0, len as usize)).expect("a part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aria2c_with_eight_connections_costs_upstream_one_download() {
    let (hub, repo) = hub().await;
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    for user in ["first", "second"] {
        let home = folder.path().join(user);
        let mut command = program("aria2c", &home);
        command.args(["--no-conf", "-q", "-x8", "-s8", "-k1M", "-o", "weights.bin"]);
        command.arg(format!("{}{PATH}", mirror.url()));
        crate::run(command, "aria2c -x8 -s8").await;
        check(&repo, &home, "weights.bin");
        hub.wait_idle().await;
        assert!(hub.cdn_bytes() <= SIZE as u64, "{user}: {} bytes for {SIZE}", hub.cdn_bytes());
    }
    // hfd.sh: a list of files, several at a time, checked.
    let home = folder.path().join("list");
    let mut command = program("aria2c", &home);
    let sum = sha256_of(&*repo.content("weights.bin"));
    std::fs::write(home.join("list"), format!("{}{PATH}\n  out=listed.bin\n  checksum=sha-256={sum}\n", mirror.url()))
        .expect("a list");
    command.args(["--no-conf", "-q", "-x4", "-s4", "-j5", "-c", "-i", "list"]);
    crate::run(command, "aria2c -i").await;
    check(&repo, &home, "listed.bin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aria2c_continues_while_the_hub_is_down_what_another_had_finished() {
    let (hub, repo) = hub().await;
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    assert_eq!(mirror.sum(PATH, &[]).await.len, SIZE as u64);
    hub.down().await;
    let mut command = program("aria2c", folder.path());
    leave_part(&repo, folder.path(), "weights.bin", 5_000_001);
    command.args(["--no-conf", "-q", "-c", "-x8", "-s8", "-k1M", "-o", "weights.bin"]).arg(format!("{}{PATH}", mirror.url()));
    crate::run(command, "aria2c -c").await;
    check(&repo, folder.path(), "weights.bin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wget_and_curl_continue_what_broke_off() {
    let (hub, repo) = hub().await;
    let mirror = Mirror::start(&hub).await;
    let folder = TempDir::new().expect("a temporary directory");
    let url = format!("{}{PATH}", mirror.url());
    // The cold file first: the ranges ask for its end, and the rest comes later.
    leave_part(&repo, folder.path(), "curl.bin", 20_000_003);
    let mut curl = program("curl", folder.path());
    curl.args(["--silent", "--show-error", "--fail", "--location", "-C", "-", "-o", "curl.bin", &url]);
    crate::run(curl, "curl -C -").await;
    check(&repo, folder.path(), "curl.bin");
    hub.wait_idle().await;
    assert!(hub.cdn_bytes() < SIZE as u64, "only the end was wanted: {} bytes", hub.cdn_bytes());

    leave_part(&repo, folder.path(), "wget.bin", 7_000_001);
    let mut wget = program("wget", folder.path());
    wget.args(["--no-config", "-q", "-c", "-O", "wget.bin", &url]);
    crate::run(wget, "wget -c").await;
    check(&repo, folder.path(), "wget.bin");

    // Whole files: nothing is left, which is no error to wget, and a 416 to curl.
    let mut again = program("wget", folder.path());
    again.args(["--no-config", "-q", "-c", "-O", "wget.bin", &url]);
    crate::run(again, "wget -c, again").await;
    check(&repo, folder.path(), "wget.bin");
    let mut plain = program("wget", folder.path());
    plain.args(["--no-config", "-q", "--content-disposition", &format!("{url}?download=true")]);
    crate::run(plain, "wget --content-disposition").await;
    check(&repo, folder.path(), "weights.bin");
    let mut named = program("curl", &folder.path().join("named"));
    named.args(["--silent", "--fail", "-LOJ", &url]);
    crate::run(named, "curl -LOJ").await;
    check(&repo, &folder.path().join("named"), "weights.bin");
    assert!(hub.cdn_bytes() <= SIZE as u64, "{} bytes for {SIZE}", hub.cdn_bytes());
}
