//! Lists and downloads a repo with hf-hub 1.0.
//!
//!     client KIND REPO REVISION PATH...
//!
//! Where from and where to: HF_ENDPOINT and HF_HOME, as for any user. Prints one JSON object: the commit (the snapshot's folder),
//! the tree, what `paths-info` and one range say, and of each path its sha256, its size and the name of the cached copy.

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClientSync, HFRepositorySync, RepoType, split_id};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, id, revision, paths @ ..] = arguments.as_slice() else { panic!("usage: client KIND REPO REVISION PATH...") };
    let client = HFClientSync::new().expect("a client");
    let (owner, name) = split_id(id);
    let told = match kind.as_str() {
        "dataset" => tell(&client.dataset(owner, name), revision, paths),
        "space" => tell(&client.space(owner, name), revision, paths),
        _ => tell(&client.model(owner, name), revision, paths),
    };
    println!("{told}");
}

fn tell<T: RepoType>(repo: &HFRepositorySync<T>, revision: &str, paths: &[String]) -> Value {
    assert!(repo.exists().send().expect("whether the repo exists"));
    assert!(!repo.file_exists().filename("there/is/none.bin").revision(revision).send().expect("whether a file exists"));
    let tree = repo.list_tree().revision(revision).recursive(true).send().expect("the tree");
    let chosen = repo.get_paths_info().paths(paths.to_vec()).revision(revision).send().expect("the paths' info");
    let snapshot = repo.snapshot_download().revision(revision).send().expect("the snapshot");
    // Again: every file is asked about with the ETag of its copy, and is a 304.
    let again = repo.snapshot_download().revision(revision).send().expect("the snapshot again");
    assert_eq!(snapshot, again);
    let mut files = Map::new();
    let mut starts = Map::new();
    for path in paths {
        files.insert(path.clone(), facts(&snapshot.join(path)));
        let size = std::fs::metadata(snapshot.join(path)).expect("the file").len();
        if size > 100 {
            let part = repo.download_file_to_bytes().filename(path).revision(revision).range(10..100).send().expect("a range");
            starts.insert(path.clone(), json!(sha256(&part)));
        }
    }
    json!({
        "commit": snapshot.file_name().map(|name| name.to_string_lossy()), "listed": listed(&tree), "chosen": listed(&chosen),
        "files": files, "bytes 10 to 99": starts,
    })
}

/// The files and their ids; directories are left out.
fn listed(entries: &[RepoTreeEntry]) -> Map<String, Value> {
    let mut files = Map::new();
    for entry in entries {
        if let RepoTreeEntry::File { oid, size, path, lfs, xet_hash, .. } = entry {
            assert!(xet_hash.is_none(), "{path} has a Xet hash");
            // Of the LFS hash it reads nothing: a tree calls it `oid`, and it looks for `sha256`.
            files.insert(path.clone(), json!({ "oid": oid, "size": size, "lfs": lfs.is_some() }));
        }
    }
    files
}

fn facts(path: &Path) -> Value {
    let bytes = std::fs::read(path).expect("the downloaded file");
    let copy = std::fs::canonicalize(path).expect("the cached copy");
    json!({ "sha256": sha256(&bytes), "size": bytes.len(), "blob": copy.file_name().map(|name| name.to_string_lossy()) })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
