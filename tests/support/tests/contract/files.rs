//! Small and large files, ranges, redirects (10.1 to 10.3, 14).

use std::sync::Arc;
use std::time::Duration;

use fake_hub::{Content, FakeHub, Memory, Synthetic, git_blob_id, noise, sha256_of};

use crate::client::{ask, get, head};

const CONFIG: &[u8] = b"{\"architectures\": [\"Tiny\"]}\n";

async fn tiny() -> (FakeHub, Vec<u8>) {
    let hub = FakeHub::start().await;
    let weights = noise(1, 700_000);
    hub.model("acme/tiny")
        .file("config.json", CONFIG)
        .file("onnx/config.json", "{}")
        .lfs("sub dir/model.safetensors", &weights)
        .commit("first");
    (hub, weights)
}

#[tokio::test]
async fn a_small_file_goes_by_the_cache() {
    let (hub, _) = tiny().await;
    let sha = hub.model("acme/tiny").sha();
    let oid = git_blob_id(&*Memory::holding(CONFIG));

    let moved = head(&format!("{}/acme/tiny/resolve/main/config.json", hub.url())).await;
    assert_eq!(moved.status, 307);
    let expected = format!(
        "/api/resolve-cache/models/acme/tiny/{sha}/config.json?%2Facme%2Ftiny%2Fresolve%2Fmain%2Fconfig.json=&etag=%22{oid}%22"
    );
    assert_eq!(moved.the("location"), expected);
    assert_eq!(moved.the("x-repo-commit"), sha);
    assert_eq!(moved.the("x-linked-etag"), format!("\"{oid}\""));
    assert_eq!((moved.header("etag"), moved.header("x-linked-size")), (None, None));
    assert_ne!(moved.the("content-length"), CONFIG.len().to_string());
    assert_eq!(moved.the("vary"), "Origin, Accept");
    assert_eq!(moved.the("content-disposition"), "inline; filename*=UTF-8''config.json; filename=\"config.json\";");
    assert_eq!(moved.the("ratelimit"), "\"resolvers\";r=2999;t=258");
    assert_eq!(moved.the("ratelimit-policy"), "\"fixed window\";\"resolvers\";q=3000;w=300");
    assert!(moved.the("x-request-id").starts_with("Root=1-"));
    assert!(moved.the("access-control-expose-headers").contains("X-Linked-ETag"));

    let there = head(&format!("{}{expected}", hub.url())).await;
    assert_eq!(there.status, 200);
    assert_eq!(there.the("content-length"), CONFIG.len().to_string());
    assert_eq!(there.the("etag"), format!("\"{oid}\""));
    assert_eq!((there.the("x-repo-commit"), there.the("accept-ranges")), (sha.as_str(), "bytes"));

    let url = format!("{}/api/resolve-cache/models/acme/tiny/{sha}/config.json", hub.url());
    assert_eq!(get(&url).await.body, CONFIG, "the query is of no matter");
    assert_eq!(ask("GET", &url, &[&format!("if-none-match: \"{oid}\"")]).await.status, 304);
    let nested = get(&format!("{}/acme/tiny/resolve/main/onnx/config.json", hub.url())).await;
    assert!(nested.the("location").contains(&format!("{sha}/onnx%2Fconfig.json?")));
    assert_eq!(get(&format!("{}{}", hub.url(), nested.the("location"))).await.text(), "{}");
}

#[tokio::test]
async fn an_older_hub_hands_small_files_out_at_once() {
    let hub = FakeHub::builder().without_resolve_cache().start().await.expect("two free ports");
    let repo = hub.model("acme/tiny").file("config.json", CONFIG).commit("first");
    let file = get(&format!("{}/acme/tiny/resolve/main/config.json", hub.url())).await;
    assert_eq!((file.status, file.body.as_slice(), file.the("x-repo-commit")), (200, CONFIG, repo.sha().as_str()));
    let cached = get(&format!("{}/api/resolve-cache/models/acme/tiny/{}/config.json", hub.url(), repo.sha())).await;
    assert_eq!((cached.status, cached.header("x-error-code")), (404, None));
}

#[tokio::test]
async fn who_accepts_gzip_gets_it_chunked() {
    let (hub, _) = tiny().await;
    let url = format!("{}/api/resolve-cache/models/acme/tiny/{}/config.json", hub.url(), hub.model("acme/tiny").sha());
    let packed = ask("GET", &url, &["accept-encoding: gzip, deflate"]).await;
    assert_eq!((packed.the("content-encoding"), packed.header("content-length")), ("gzip", None));
    assert_eq!(packed.the("transfer-encoding"), "chunked");
    assert!(packed.whole && packed.body.starts_with(&[0x1f, 0x8b]));
    for header in ["accept-encoding: identity", "accept-encoding: gzip;q=0, br"] {
        assert_eq!(ask("GET", &url, &[header]).await.body, CONFIG);
    }
    let part = ask("GET", &url, &["accept-encoding: gzip", "range: bytes=0-3"]).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &CONFIG[..4]));
    let info = ask("GET", &format!("{}/api/models/acme/tiny", hub.url()), &["accept-encoding: gzip"]).await;
    assert_eq!(info.the("content-encoding"), "gzip");
    let moved = ask("GET", &format!("{}/acme/tiny/resolve/main/config.json", hub.url()), &["accept-encoding: gzip"]).await;
    assert_eq!(moved.the("content-length"), moved.body.len().to_string());
}

#[tokio::test]
async fn a_large_file_goes_by_the_cdn() {
    let (hub, weights) = tiny().await;
    let repo = hub.model("acme/tiny");
    let (sha, oid, xet) =
        (repo.sha(), repo.oid("sub dir/model.safetensors"), repo.xet_hash("sub dir/model.safetensors").unwrap());
    assert_eq!(oid, sha256_of(&*Memory::holding(weights.clone())));

    let url = format!("{}/acme/tiny/resolve/main/sub%20dir/model.safetensors", hub.url());
    let found = get(&url).await;
    assert_eq!(found.status, 302);
    assert_eq!(found.the("x-repo-commit"), sha);
    assert_eq!(found.the("x-linked-size"), "700000");
    assert_eq!(found.the("x-linked-etag"), format!("\"{oid}\""));
    assert_eq!(found.the("x-xet-hash"), xet);
    let link = format!(
        "<{}/api/models/acme/tiny/xet-read-token/{sha}>; rel=\"xet-auth\", \
         <{}/cas/v1/reconstructions/{xet}>; rel=\"xet-reconstruction-info\"",
        hub.url(),
        hub.cdn_url()
    );
    assert_eq!(found.the("link"), link);
    assert_eq!((found.the("cache-control"), found.the("accept-ranges"), found.header("etag")), ("no-store", "bytes", None));
    assert_eq!(found.the("content-length"), found.body.len().to_string());

    let location = found.the("location");
    assert!(location.starts_with(&format!("{}/xet-bridge-us/", hub.cdn_url())), "{location}");
    assert!(location.contains("&Expires=") && location.contains("&Signature="));
    let whole = get(location).await;
    assert_eq!((whole.status, whole.body == weights), (200, true));
    assert_eq!(whole.the("etag"), format!("\"{xet}\""));
    let foreign = |name: &str| name.starts_with("x-repo") || name.starts_with("x-linked") || name.starts_with("ratelimit");
    assert!(!whole.headers.iter().any(|(name, _)| foreign(name)));
    let part = ask("GET", location, &["range: bytes=0-99"]).await;
    assert_eq!((part.status, part.the("content-range")), (206, "bytes 0-99/700000"));

    let info = ask("GET", &url, &["accept: application/vnd.xet-fileinfo+json, */*"]).await;
    assert_eq!((info.status, info.the("content-type")), (200, "application/vnd.xet-fileinfo+json"));
    assert_eq!((info.json()["hash"].as_str(), info.the("x-linked-size")), (Some(xet.as_str()), "700000"));
    assert_eq!(hub.fetched("acme/tiny/sub dir/model.safetensors"), 2);
    assert_eq!(hub.cdn_bytes(), 700_100);
}

#[tokio::test]
async fn ranges_by_the_book() {
    let (hub, weights) = tiny().await;
    let url = format!("{}/acme/tiny/resolve/main/sub%20dir/model.safetensors", hub.url());
    let cdn = head(&url).await.the("location").to_owned();
    let check = async |range: &str, status: u16, content_range: Option<&str>, body: &[u8]| {
        let reply = ask("GET", &cdn, &[&format!("range: {range}")]).await;
        assert_eq!((reply.status, reply.header("content-range")), (status, content_range), "{range}");
        assert!(reply.whole && reply.body == body, "{range}");
        assert_eq!(reply.the("content-length"), body.len().to_string());
    };
    check("bytes=0-0", 206, Some("bytes 0-0/700000"), &weights[..1]).await;
    check("bytes=699990-", 206, Some("bytes 699990-699999/700000"), &weights[699_990..]).await;
    check("bytes=-5", 206, Some("bytes 699995-699999/700000"), &weights[699_995..]).await;
    check("bytes=262143-262145", 206, Some("bytes 262143-262145/700000"), &weights[262_143..262_146]).await;
    check("bytes=0-9999999", 206, Some("bytes 0-699999/700000"), &weights).await;
    check("bytes=700000-", 416, Some("bytes */700000"), b"").await;
    check("bytes=0-1,5-6", 200, None, &weights).await;
    check("bytes=5-2", 200, None, &weights).await;
    let etag = get(&cdn).await.the("etag").to_owned();
    let same = ask("GET", &cdn, &["range: bytes=1-2", &format!("if-range: {etag}")]).await;
    assert_eq!((same.status, same.body.len()), (206, 2));
    assert_eq!(ask("GET", &cdn, &["range: bytes=1-2", "if-range: \"other\""]).await.status, 200);
}

#[tokio::test]
async fn a_signature_is_good_for_its_time_and_address_only() {
    let (hub, _) = tiny().await;
    let url = format!("{}/acme/tiny/resolve/main/sub%20dir/model.safetensors", hub.url());
    let cdn = head(&url).await.the("location").to_owned();
    assert_eq!(get(&cdn).await.status, 200);
    assert_eq!(get(&cdn.replace("user_id=public", "user_id=someone")).await.status, 403);
    assert_eq!(get(cdn.split_once('?').unwrap().0).await.status, 403);
    hub.advance_clock(Duration::from_secs(3590));
    assert_eq!(get(&cdn).await.status, 200);
    hub.expire_signatures();
    assert_eq!(get(&cdn).await.status, 403);
    assert_eq!(get(head(&url).await.the("location")).await.status, 200, "a new address is good");
    hub.set_signature_life(Duration::ZERO);
    assert_eq!(get(head(&url).await.the("location")).await.status, 403);
}

#[tokio::test]
async fn a_token_on_the_cdn_is_refused_and_recorded() {
    let (hub, _) = tiny().await;
    let url = format!("{}/acme/tiny/resolve/main/sub%20dir/model.safetensors", hub.url());
    let cdn = head(&url).await.the("location").to_owned();
    assert!(hub.leaks().is_empty());
    assert_eq!(ask("GET", &cdn, &["authorization: Bearer hf_x"]).await.status, 400);
    assert_eq!(hub.leaks().len(), 1);
    assert_eq!(hub.leaks()[0].token.as_deref(), Some("hf_x"));
    assert_eq!(get(&format!("{}/cas/v1/reconstructions/0", hub.cdn_url())).await.status, 404);
    assert_eq!((hub.cas_calls().len(), hub.leaks().len()), (1, 1));
}

#[tokio::test]
async fn revisions_by_all_their_names() {
    let hub = FakeHub::start().await;
    let repo = hub.model("acme/tiny").file("a.txt", "one").commit("one").tag("v1").pr(1).branch("old");
    let first = repo.sha();
    let second = repo.file("a.txt", "two").commit("two").sha();
    repo.on("dev/x").file("a.txt", "three").commit("three");
    let third = repo.on("dev/x").sha();
    assert_eq!(repo.sha(), second);
    let table = [
        ("main", &second),
        ("v1", &first),
        ("old", &first),
        ("refs%2Fpr%2F1", &first),
        ("refs/pr/1", &first),
        ("refs%2Fheads%2Fmain", &second),
        ("dev%2Fx", &third),
        (&first, &first),
        (&second[..7], &second),
    ];
    for (revision, sha) in table {
        let reply = head(&format!("{}/acme/tiny/resolve/{revision}/a.txt", hub.url())).await;
        assert_eq!((reply.status, reply.the("x-repo-commit")), (307, sha.as_str()), "{revision}");
    }
    for revision in ["nope", &first[..6], "0000000"] {
        let reply = head(&format!("{}/acme/tiny/resolve/{revision}/a.txt", hub.url())).await;
        assert_eq!((reply.status, reply.the("x-error-code")), (404, "RevisionNotFound"), "{revision}");
    }
}

#[tokio::test]
async fn old_names_lead_to_new_ones() {
    let hub = FakeHub::start().await;
    hub.model("openai-community/gpt2").file("x", "y").commit("first");
    hub.rename("gpt2", "openai-community/gpt2");
    let check = async |path: &str, to: &str| {
        let reply = get(&format!("{}{path}", hub.url())).await;
        assert_eq!((reply.status, reply.the("location")), (307, to), "{path}");
        assert!(!reply.the("content-type").contains("json"));
    };
    check("/api/models/gpt2", "/api/models/openai-community/gpt2").await;
    check("/api/models/gpt2/revision/main?blobs=true", "/api/models/openai-community/gpt2/revision/main?blobs=true").await;
    check("/gpt2/resolve/main/x", "/openai-community/gpt2/resolve/main/x").await;
    check("/OpenAI-Community/GPT2/resolve/main/x", "/openai-community/gpt2/resolve/main/x").await;
    check("/api/models/OpenAI-Community/GPT2/refs", "/api/models/openai-community/gpt2/refs").await;
    hub.dataset("squad").file("x", "legacy").commit("first");
    let legacy = get(&format!("{}/datasets/squad/resolve/main/x", hub.url())).await;
    assert_eq!(get(&format!("{}{}", hub.url(), legacy.the("location"))).await.text(), "legacy");
    hub.rename("openai-community/gpt2", "elsewhere/gpt2");
    check("/openai-community/gpt2/resolve/main/x", "/elsewhere/gpt2/resolve/main/x").await;
}

#[tokio::test]
async fn raw_tells_the_pointer_and_all_kinds_are_served() {
    let hub = FakeHub::start().await;
    for repo in [hub.model("a/b"), hub.dataset("a/b"), hub.space("a/b"), hub.kernel("a/b")] {
        repo.lfs("w.bin", repo.xet_hash_seed()).commit("first");
    }
    for prefix in ["", "datasets/", "spaces/", "kernels/"] {
        let reply = get(&format!("{}/{prefix}a/b/raw/main/w.bin", hub.url())).await;
        assert!(reply.text().starts_with("version https://git-lfs.github.com/spec/v1\noid sha256:"), "{prefix}");
        let found = get(&format!("{}/{prefix}a/b/resolve/main/w.bin", hub.url())).await;
        assert_eq!(get(found.the("location")).await.status, 200);
    }
}

/// Gives each kind of repo other bytes.
trait Seeded {
    fn xet_hash_seed(&self) -> Vec<u8>;
}

impl Seeded for fake_hub::Repo {
    fn xet_hash_seed(&self) -> Vec<u8> {
        noise(self.id().len() as u64, 100)
    }
}

#[tokio::test]
async fn big_files_cost_no_memory_and_old_ones_no_xet() {
    let hub = FakeHub::start().await;
    let repo = hub.model("a/b").synthetic_unhashed("huge.bin", 60 << 30, 3).without_xet().lfs("old.bin", "old").commit("first");
    let found = get(&format!("{}/a/b/resolve/main/huge.bin", hub.url())).await;
    assert_eq!(found.the("x-linked-size"), (60u64 << 30).to_string());
    let offset = 59u64 << 30;
    let part = ask("GET", found.the("location"), &[&format!("range: bytes={offset}-{}", offset + 99)]).await;
    assert_eq!(part.body, Synthetic::new(60 << 30, 3).read(offset, 100));
    let old = get(&format!("{}/a/b/resolve/main/old.bin", hub.url())).await;
    assert_eq!((old.status, old.header("x-xet-hash"), old.header("link")), (302, None, None));
    assert!(old.the("location").contains("/repos/"));
    assert_eq!(get(old.the("location")).await.text(), "old");
    assert_eq!(repo.xet_hash("old.bin"), None);
    let shared: Arc<dyn Content> = Memory::holding(&b"shared"[..]);
    repo.lfs_from("s.bin", shared.clone()).commit("shared");
    assert_eq!(repo.oid("s.bin"), sha256_of(&*shared));
    let empty = repo.lfs("empty.bin", "").file("empty.txt", "").commit("empty").sha();
    let reply = get(&format!("{}/api/resolve-cache/models/a/b/{empty}/empty.txt", hub.url())).await;
    assert_eq!((reply.status, reply.the("content-length")), (200, "0"));
}
