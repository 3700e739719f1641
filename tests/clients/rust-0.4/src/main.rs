//! Downloads files with hf-hub 0.4, by its blocking interface and by its asynchronous one.
//!
//!     client KIND REPO REVISION PATH...
//!
//! Where from and where to: HF_ENDPOINT and HF_HOME, as for any user. Prints one JSON object: the commit, the names that `info`
//! lists, and of each path its sha256, its size and the name of the cached copy, which is the ETag.

use hf_hub::{Repo, RepoType};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, id, revision, paths @ ..] = arguments.as_slice() else { panic!("usage: client KIND REPO REVISION PATH...") };
    let kind = match kind.as_str() {
        "dataset" => RepoType::Dataset,
        "space" => RepoType::Space,
        _ => RepoType::Model,
    };
    let repo = Repo::with_revision(id.clone(), kind, revision.clone());

    let api = hf_hub::api::sync::ApiBuilder::from_env().with_progress(false).build().expect("a blocking client");
    let info = api.repo(repo.clone()).info().expect("the repo's info");
    let listed: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    let mut blocking = Map::new();
    for path in paths {
        // `download` does not look into the cache, so the second one asks the mirror again.
        for _ in 0..2 {
            let file = api.repo(repo.clone()).download(path).unwrap_or_else(|error| panic!("{path}: {error:?}"));
            blocking.insert(path.clone(), facts(&file));
        }
    }
    let absent = api.repo(repo.clone()).get("there/is/none.bin").expect_err("no such file").to_string();

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let asynchronous = runtime.block_on(async {
        let builder = hf_hub::api::tokio::ApiBuilder::from_env().with_progress(false);
        // Several connections, each with a Range of its own.
        let api = builder.with_chunk_size(Some(1 << 20)).with_max_files(4).build().expect("an asynchronous client");
        let mut found = Map::new();
        for path in paths {
            let file = api.repo(repo.clone()).download(path).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
            found.insert(path.clone(), facts(&file));
        }
        found
    });
    println!("{}", json!({ "commit": info.sha, "listed": listed, "blocking": blocking, "async": asynchronous, "absent": absent }));
}

fn facts(path: &Path) -> Value {
    let bytes = std::fs::read(path).expect("the downloaded file");
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let copy = std::fs::canonicalize(path).expect("the cached copy");
    json!({ "sha256": sha256, "size": bytes.len(), "blob": copy.file_name().map(|name| name.to_string_lossy()) })
}
