//! Requests as clients send them, and as attackers would.

use super::*;
use crate::hub::ApiTarget;

const SHA: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

fn name(kind: RepoKind, name: &str) -> RepoId {
    RepoId::parse(kind, name).unwrap()
}

fn model(text: &str) -> RepoId {
    name(RepoKind::Model, text)
}

fn dataset(text: &str) -> RepoId {
    name(RepoKind::Dataset, text)
}

fn rev(text: &str) -> Revision {
    Revision::parse(text).unwrap()
}

fn file(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

fn resolve(repo: RepoId, revision: &str, path: &str) -> Route {
    Route::Resolve { repo, revision: rev(revision), path: file(path) }
}

fn tree(repo: RepoId, revision: &str, path: Option<&str>) -> Route {
    Route::Tree { repo, revision: rev(revision), path: path.map(file) }
}

#[track_caller]
fn check(target: &str, expected: Route) {
    assert_eq!(Route::parse(&Method::GET, target), Ok(expected.clone()), "{target}");
    assert_eq!(Route::parse(&Method::HEAD, target), Ok(expected), "HEAD {target}");
}

#[test]
fn files() {
    check("/org/m/resolve/main/w.safetensors", resolve(model("org/m"), "main", "w.safetensors"));
    check("/gpt2/resolve/main/config.json?download=true", resolve(model("gpt2"), "main", "config.json"));
    check("/datasets/ns/name/resolve/main/data/a.parquet", resolve(dataset("ns/name"), "main", "data/a.parquet"));
    check("/datasets/squad/resolve/main/README.md", resolve(dataset("squad"), "main", "README.md"));
    check("/spaces/o/s/resolve/main/app.py", resolve(name(RepoKind::Space, "o/s"), "main", "app.py"));
    check("/kernels/o/k/resolve/main/a.so", resolve(name(RepoKind::Kernel, "o/k"), "main", "a.so"));
    check("/models/o/m/resolve/main/a", resolve(model("o/m"), "main", "a"));
    check("/models/m/resolve/main/a", resolve(model("models/m"), "main", "a"));
    check("//org//m/resolve//main/sub//w", resolve(model("org/m"), "main", "sub/w"));
    check("http://mirror:8090/org/m/resolve/main/w", resolve(model("org/m"), "main", "w"));
    check("HTTPS://huggingface.co/org/m/resolve/main/w?x", resolve(model("org/m"), "main", "w"));
    check("/o/m/raw/main/w.bin", Route::Raw { repo: model("o/m"), revision: rev("main"), path: file("w.bin") });
    check("/o/raw/resolve/main/f", resolve(model("o/raw"), "main", "f"));
    check("/o/m/resolve/main/resolve/raw/f", resolve(model("o/m"), "main", "resolve/raw/f"));
    check("/o/m/raw/main/resolve/f", Route::Raw { repo: model("o/m"), revision: rev("main"), path: file("resolve/f") });
}

#[test]
fn escapes_are_undone_once() {
    check("/o/m/resolve/main/sub%20dir/c++%23%3F.txt", resolve(model("o/m"), "main", "sub dir/c++#?.txt"));
    check("/o/m/resolve/main/100%25.txt", resolve(model("o/m"), "main", "100%.txt"));
    check("/o/m/resolve/main/a%252Fb", resolve(model("o/m"), "main", "a%2Fb"));
    check("/o/m/resolve/main/%E6%A8%A1/\u{6a21}", resolve(model("o/m"), "main", "\u{6a21}/\u{6a21}"));
    check("/o/m/resolve/main/back%5Cslash", resolve(model("o/m"), "main", "back\\slash"));
    check("/o/m/%72esolve/main/w", resolve(model("o/m"), "main", "w"));
}

#[test]
fn revisions_with_slashes() {
    check("/o/m/resolve/refs%2Fpr%2F1/a/b", resolve(model("o/m"), "refs/pr/1", "a/b"));
    check("/o/m/resolve/refs/pr/1/a/b", resolve(model("o/m"), "refs/pr/1", "a/b"));
    check("/o/m/resolve/refs/convert/parquet/a", resolve(model("o/m"), "refs/convert/parquet", "a"));
    check("/o/m/resolve/feature%2Fx/a", resolve(model("o/m"), "feature/x", "a"));
    check("/o/m/resolve/refs%2Fpr%2F1%2Fa/b", resolve(model("o/m"), "refs/pr/1/a", "b"));
    check("/o/m/resolve/refs/pr%2F1/a", resolve(model("o/m"), "refs/pr/1", "a"));
    check("/o/m/resolve/refs/prose/1/a", resolve(model("o/m"), "refs", "prose/1/a"));
    check("/api/models/o/m/tree/refs%2Fpr%2F1/sub%2Fdir?recursive=true", tree(model("o/m"), "refs/pr/1", Some("sub/dir")));
    check("/api/models/o/m/tree/refs/pr/1", tree(model("o/m"), "refs/pr/1", None));
    check("/api/models/o/m/revision/refs/pr/1", Route::RepoInfo { repo: model("o/m"), revision: Some(rev("refs/pr/1")) });
    check("/api/models/o/m/revision/refs%2Fpr%2F1", Route::RepoInfo { repo: model("o/m"), revision: Some(rev("refs/pr/1")) });
}

#[test]
fn resolve_cache_is_resolve() {
    let expected = resolve(model("o/m"), SHA, "onnx/config.json");
    check(&format!("/api/resolve-cache/models/o/m/{SHA}/onnx%2Fconfig.json?%2Fo%2Fm=&etag=%221%22"), expected.clone());
    check(&format!("/api/resolve-cache/models/o/m/{SHA}/onnx/config.json"), expected);
    check(&format!("/api/resolve-cache/datasets/squad/{SHA}/a"), resolve(dataset("squad"), SHA, "a"));
}

#[test]
fn the_api() {
    let info = |repo, revision: Option<&str>| Route::RepoInfo { repo, revision: revision.map(rev) };
    check("/api/models/o/m", info(model("o/m"), None));
    check("/api/models/gpt2?blobs=true", info(model("gpt2"), None));
    check("/api/models/gpt2/revision/main", info(model("gpt2"), Some("main")));
    check("/api/models/o/m/revision/main", info(model("o/m"), Some("main")));
    check("/api/models/org/revision", info(model("org/revision"), None));
    check("/api/models/org/tree", info(model("org/tree"), None));
    check("/api/models/org/logs", info(model("org/logs"), None));
    check("/api/models/gpt2/tree/main", tree(model("gpt2"), "main", None));
    check("/api/models/gpt2/tree/main/a/b", tree(model("gpt2"), "main", Some("a/b")));
    check("/api/models/o/m/tree/main/", tree(model("o/m"), "main", None));
    check("/api/datasets/o/d/tree/main?recursive=true&expand=false", tree(dataset("o/d"), "main", None));
    check("/api/models/o/m/refs?include_prs=1", Route::Refs { repo: model("o/m") });
    check("/api/models/gpt2/refs", Route::Refs { repo: model("gpt2") });
    check("/api/models/o/m/commits/main?p=1", Route::Commits { repo: model("o/m"), revision: rev("main") });
    check("/api/models/o/m/auth-check", Route::AuthCheck { repo: model("o/m") });
    check("/api/models/o/m/auth-check/write", Route::RepoOther { repo: model("o/m") });
    check("/api/models/o/m/discussions?p=0", Route::RepoOther { repo: model("o/m") });
    check("/api/models/o/m/paths-info/main", Route::RepoOther { repo: model("o/m") });
    check(&format!("/api/models/o/m/xet-read-token/{SHA}"), Route::XetReadToken { repo: model("o/m"), revision: rev(SHA) });
    check(&format!("/api/models/o/m/xet-write-token/{SHA}"), Route::Write);
    check("/api/models?search=a&filter=b", Route::Search { kind: RepoKind::Model });
    check("/api/spaces/", Route::Search { kind: RepoKind::Space });
    check("/api/whoami-v2", Route::WhoAmI);
    check("/api/agent-harnesses", Route::AgentHarnesses);
    check("/api/telemetry/transformers/x", Route::Telemetry);
    check("/api/buckets/o/b/tree", Route::Bucket);
    check("/buckets/o/b/resolve/a%2Fb", Route::Bucket);
    check("/v2/o/m/manifests/latest", Route::Manifest { repo: model("o/m"), tag: "latest".into() });
    let digest = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707";
    let oid = Oid::parse(digest).unwrap();
    check(&format!("/v2/o/m/blobs/sha256:{digest}"), Route::Layer { repo: model("o/m"), oid });
    check("/v2/", Route::Unknown);
    check("/api/papers", Route::SiteOther);
    check("/api", Route::Unknown);
}

#[test]
fn the_rest() {
    check("/", Route::Own(Own::Index));
    check("", Route::Own(Own::Index));
    check("http://mirror:8090", Route::Own(Own::Index));
    check("/metrics", Route::Own(Own::Metrics));
    check("/healthz", Route::Own(Own::Health));
    check("/readyz", Route::Own(Own::Ready));
    check("/info", Route::Own(Own::Info));
    check("/repos", Route::Own(Own::Repos));
    check("/-/status", Route::Panel);
    check("/-", Route::Panel);
    assert_eq!(Route::parse(&Method::OPTIONS, "/-/remove?x"), Ok(Route::Panel));
    assert_eq!(Route::parse(&Method::DELETE, "http://m/-/x"), Ok(Route::Panel));
    check("/o/m.git/info/refs?service=git-upload-pack", Route::Git { repo: model("o/m") });
    check("/o/m/info/refs?service=git-upload-pack", Route::Git { repo: model("o/m") });
    check("/datasets/o/d/info/refs", Route::Git { repo: dataset("o/d") });
    check("/gpt2/info/refs?service=git-upload-pack", Route::Git { repo: model("gpt2") });
    check("/o/m.git/info/refs?service=git-receive-pack", Route::GitPush { repo: model("o/m") });
    check("/o/m.git/HEAD", Route::Unknown);
    check("/v2/gpt2/manifests/latest", Route::Manifest { repo: model("gpt2"), tag: "latest".to_owned() });
    check("/v2/a/b/c/manifests/latest", Route::Unknown);
    check("/v2/manifests/latest", Route::Unknown);
    check("/o/m", Route::Unknown);
    check("/o/m/tree/main/resolve/f", Route::Unknown);
    check("/a/b/c/resolve/main/f", Route::Unknown);
    check("/resolve/main/f", Route::Unknown);
}

#[test]
fn methods_decide_between_reading_and_writing() {
    fn check(method: Method, target: &str, expected: Route) {
        assert_eq!(Route::parse(&method, target), Ok(expected), "{method} {target}");
    }
    let paths_info = Route::PathsInfo { repo: model("o/m"), revision: rev("refs/pr/1") };
    check(Method::POST, "/api/models/o/m/paths-info/refs%2Fpr%2F1", paths_info);
    check(Method::POST, "/o/m/git-upload-pack", Route::Git { repo: model("o/m") });
    check(Method::POST, "/o/m.git/git-upload-pack", Route::Git { repo: model("o/m") });
    check(Method::POST, "/o/m.git/info/lfs/objects/batch", Route::GitLfs { repo: model("o/m") });
    check(Method::POST, "/api/telemetry/x", Route::Telemetry);
    check(Method::POST, "/o/m.git/git-receive-pack", Route::GitPush { repo: model("o/m") });
    for target in [
        "/o/m.git/info/refs",
        "/api/models/o/m/preupload/main",
        "/api/models/o/m/commit/main",
        "/api/repos/create",
        "/o/m/resolve/main/f",
        "/metrics",
    ] {
        check(Method::POST, target, Route::Write);
        check(Method::DELETE, target, Route::Write);
    }
    check(Method::OPTIONS, "*", Route::Preflight);
    check(Method::CONNECT, "huggingface.co:443", Route::Unknown);
    check(Method::TRACE, "/", Route::Unknown);
}

#[test]
fn what_cannot_be_read_is_told() {
    fn check(target: &[u8], message: &str) {
        let told = Route::parse(&Method::GET, target).map_err(|bad| bad.to_string());
        assert_eq!(told, Err(message.to_owned()), "{}", String::from_utf8_lossy(target));
    }
    check(b"/o/m/resolve/main/100%.txt", "the path segment `100%.txt` has a % without two hex digits; write a literal % as %25");
    check(b"/o/m/resolve/main/%FF", "the path segment `%FF` is not UTF-8 once its escapes are undone");
    check(b"/o/m/resolve/main/../../etc", "the path segment `..` is `.` or `..`; send the path resolved");
    check(b"/o/m/resolve/main/%2e%2e/x", "the path segment `..` is `.` or `..`; send the path resolved");
    check(b"/o/m/resolve/main/a%2F..%2Fb", "the path segment `a/../b` is `.` or `..`; send the path resolved");
    check(b"/o/m/resolve/main/%2Fetc/passwd", "the file path `/etc/passwd` has an empty, `.` or `..` segment");
    check(b"/o/m/resolve/..%2F..%2Fmain/x", "the path segment `../../main` is `.` or `..`; send the path resolved");
    check(b"/api/models/o/m/discussions/../../../whoami-v2", "the path segment `..` is `.` or `..`; send the path resolved");
    check(b"/o/m/resolve/main/a%00b", "the path segment `a\\0b` holds a control character");
    check(b"/o/m/resolve/main/a%0d%0aX: y", "the path segment `a\\r\\nX: y` holds a control character");
    check(b"/o/m/resolve/main", "the file path is empty");
    check(b"/o/m/resolve/", "the revision is missing");
    check(b"/o/m/resolve/main/a#b", "the path holds a #; write it as %23");
    check(b"/o%2Fm/resolve/main/a", "the repo name `o/m` holds an escaped slash; write it as a slash");
    check(b"/.o/m/resolve/main/a", "the repo name `.o/m` has a segment that begins with a dot");
    check(b"/api/models/o/m%20", "the repo name `o/m ` holds a character other than letters, digits, `.`, `_` and `-`");
    check(b"/api/resolve-cache/models/o/m/main/a", "the resolve-cache path has no commit of 40 hex digits after the repo");
    check(b"o/m", "the path `o/m` does not begin with a slash");
}

#[test]
fn a_target_written_down_has_one_spelling() {
    #[track_caller]
    fn check(target: &str, expected: &str) {
        let route = Route::parse(&Method::GET, target).unwrap();
        assert_eq!(ApiTarget::new(&route, target).upstream_path_and_query(), expected, "{target}");
    }
    check("/o/m/resolve/refs/pr/1/sub%20dir/a+b?download=true", "/o/m/resolve/refs%2Fpr%2F1/sub%20dir/a%2Bb");
    check(&format!("/api/resolve-cache/datasets/o/d/{SHA}/a%2Fb?x"), &format!("/datasets/o/d/resolve/{SHA}/a/b"));
    check(
        "//api/models/o/m/tree/refs/pr/1/a/b?recursive=True&expand=False",
        "/api/models/o/m/tree/refs%2Fpr%2F1/a%2Fb?expand=false&recursive=true",
    );
    check("/api/models/o/m?expand=sha&blobs=true&expand=downloads&", "/api/models/o/m?blobs=true&expand=sha&expand=downloads");
    check("/api/models/o/m?expand[]=sha&expand=x", "/api/models/o/m?expand=x&expand%5B%5D=sha");
    check("/api/models/o/m?", "/api/models/o/m");
    check("/api/models?search=a+b&filter=%22", "/api/models?filter=%22&search=a+b");
    check("http://mirror/api/models/o/m/discussions?p=0", "/api/models/o/m/discussions?p=0");
    check("/api/papers?q=b&a=\u{e9}", "/api/papers?q=b&a=%C3%A9");
    check("/buckets/o/b/resolve/a%2Fb", "/buckets/o/b/resolve/a%2Fb");
    check("/o/m/info/refs?service=git-upload-pack", "/o/m/info/refs?service=git-upload-pack");
}

#[test]
fn a_query_value_is_plain() {
    let route = Route::parse(&Method::GET, "/api/models").unwrap();
    let target = ApiTarget::new(&route, "/api/models?search=a+b%2B&expand%5B%5D=sha&expand[]=x&flag");
    assert_eq!(target.value("search").as_deref(), Some("a b+"));
    assert_eq!(target.value("expand[]").as_deref(), Some("sha"));
    assert_eq!(target.value("flag").as_deref(), Some(""));
    assert_eq!(target.value("expand"), None);
}

/// Every route about a repo can be asked of another: or a name that leads elsewhere would slip past who decides by name.
#[test]
fn a_route_with_a_repo_moves_to_another() {
    let targets = [
        "/o/m/resolve/main/f",
        "/o/m/raw/main/f",
        "/api/models/o/m",
        "/api/models/o/m/tree/main",
        "/api/models/o/m/refs",
        "/api/models/o/m/commits/main",
        "/api/models/o/m/auth-check",
        "/api/models/o/m/xet-read-token/main",
        "/api/models/o/m/discussions",
        "/v2/o/m/manifests/latest",
        "/v2/o/m/blobs/sha256:248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        "/o/m/info/refs",
        "/o/m/info/lfs/locks",
        "/o/m/git-receive-pack",
    ];
    for target in targets {
        let route = Route::parse(&Method::GET, target).unwrap();
        assert!(route.repo().is_some(), "{target}: {route:?}");
        assert_eq!(route.of(model("new/name")).repo(), Some(&model("new/name")), "{target}");
    }
    let route = Route::parse(&Method::POST, "/api/models/o/m/paths-info/main").unwrap();
    assert_eq!(route.of(model("new/name")).repo(), Some(&model("new/name")));
}
