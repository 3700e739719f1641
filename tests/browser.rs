//! The page in headless Chromium: tests/clients/browser.py against a mirror that is busy.

use std::fs;
use std::os::unix::fs::symlink;

use fake_hub::{FakeHub, noise};

use crate::harness::{Mirror, browser_python};

const MIB: usize = 1 << 20;
const TOKEN: &str = "correct-horse-battery-staple";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_and_does_what_it_says() {
    let hub = FakeHub::start().await;
    let open = hub.model("acme/open").lfs("model.safetensors", noise(1, 5 * MIB)).file("config.json", "{}").commit("first");
    let odd = hub.dataset("acme/odd").file("<img src=x onerror=\"document.title='run'\">.txt", "odd").commit("first");
    let hush = hub.model("acme/hush").lfs("plans.bin", noise(2, 3 * MIB)).commit("first").private().grant("hf_member");
    let part = hub.model("acme/partly-kept").lfs("w.bin", noise(3, 8 * MIB)).commit("first");
    hub.model("acme/slow").synthetic("weights.bin", 256 << 20, 3).commit("first");
    hub.model("acme/wanted").file("config.json", "{}").lfs("model.bin", noise(4, MIB)).commit("first");
    hub.fault("weights.bin").on_cdn().rate(256 << 10);

    let options = Mirror::of(&hub).set("admin.listen", "127.0.0.1:0").set("admin.token", TOKEN);
    let mirror = options.set("fetch.connections_per_object", 2).start().await;
    let odd_path = "%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D%27run%27%22%3E.txt";
    let member = "Authorization: Bearer hf_member";
    for target in [
        "/acme/open/resolve/main/model.safetensors",
        "/acme/open/resolve/main/model.safetensors",
        "/acme/open/resolve/main/config.json",
        &format!("/datasets/acme/odd/resolve/main/{odd_path}"),
        "/acme/hush/resolve/main/plans.bin",
    ] {
        assert_eq!(mirror.ask("GET", target, &[member]).await.status, 200, "{target}");
    }
    assert_eq!(mirror.get_range("/acme/partly-kept/resolve/main/w.bin", "bytes=0-3000000").await.status, 206);
    for (link, repo) in [
        ("models/acme/open/resolve/{}/config.json", &open),
        ("datasets/acme/odd/resolve/{}/<img src=x onerror=\"document.title='run'\">.txt", &odd),
        ("models/acme/hush/resolve/{}/plans.bin", &hush),
        ("models/acme/partly-kept/resolve/{}/w.bin", &part),
    ] {
        mirror.wait_link(&link.replace("{}", &repo.sha())).await;
    }
    // Enough others to need a second page; all show the file of acme/open.
    let oid = open.oid("model.safetensors");
    for index in 0..53 {
        let name = format!("models/many/repo-{index:02}");
        let commit = mirror.repos().join(format!("files/{name}/resolve/{index:040x}"));
        fs::create_dir_all(&commit).expect("a directory");
        symlink(format!("../../../../../../blobs/{}/{oid}", &oid[..2]), commit.join("w.bin")).expect("a link");
        let api = mirror.repos().join("api").join(&name);
        fs::create_dir_all(&api).expect("a directory");
        fs::write(api.join("access.json"), "{\"open\":true,\"at_ms\":1}").expect("a file");
    }
    let mut slow = mirror.connect().await;
    slow.ask("GET", "/acme/slow/resolve/main/weights.bin", &[]).await;
    assert_eq!(slow.head("GET").await.expect("a head").0, 200);
    let slow = tokio::spawn(async move { slow.read_body(u64::MAX).await });

    let shots = std::env::var("SCREENSHOTS").map_or_else(|_| mirror.repos().with_file_name("shots"), Into::into);
    let admin = format!("http://{}", mirror.admin_address());
    let words =
        ["--open", mirror.url(), "--admin", &admin, "--token", TOKEN, "--shots", &shots.display().to_string()].map(str::to_owned);
    let ran = browser_python("browser.py", &words.each_ref().map(String::as_str)).await;
    assert!(ran.ok, "the page failed:\n{}{}", ran.stdout, ran.stderr);
    assert_eq!(fs::read_dir(&shots).map(Iterator::count).ok(), Some(9), "pictures in {}", shots.display());
    assert!(!mirror.log().contains(TOKEN));
    slow.abort();
}
