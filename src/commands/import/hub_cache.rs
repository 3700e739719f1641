//! The cache of huggingface_hub: `~/.cache/huggingface/hub`.
//!
//! ```text
//! models--org--name/blobs/<etag>                     the content: sha256 for LFS, git blob sha1 otherwise
//! models--org--name/snapshots/<commit>/<path>        -> ../../blobs/<etag>, or the file itself where there are no links
//! models--org--name/refs/<revision>                  the commit, as text; refs/refs/pr/1 for `refs/pr/1`
//! models--org--name/trees/<commit>.json              all files of the commit, from release 1.22 on
//! models--org--name/.no_exist/, *.incomplete         left out
//! ```
//!
//! Nothing in it tells whether a repo is open to all.

use super::found::{Bytes, Found, FoundFile, each_file, modified, names};
use crate::hub::{Commit, FilePath, Oid, RepoId, RepoKind, Revision};
use serde::Deserialize;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Longest list of files that is read.
const TREE_LEN_MAX: u64 = 512 << 20;

#[derive(Deserialize)]
struct Tree {
    format_version: u64,
    files: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    size: u64,
    blob_id: String,
    lfs_sha256: Option<String>,
    lfs_size: Option<u64>,
}

/// Returns the directory that holds the repos, if `dir` is one, or a home (`HF_HOME`) that has one.
pub(super) fn root(dir: &Path) -> Option<PathBuf> {
    let holds_repos = |dir: &Path| names(dir).is_ok_and(|names| names.iter().any(|name| repo_of(name).is_some()));
    if holds_repos(dir) {
        return Some(dir.to_owned());
    }
    holds_repos(&dir.join("hub")).then(|| dir.join("hub"))
}

/// Reads the whole cache.
pub(super) fn scan(root: &Path) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for name in names(root)? {
        if let Some(repo) = repo_of(&name) {
            scan_repo(&root.join(&name), &repo, &mut found)?;
        }
    }
    Ok(found)
}

/// Reads `models--org--name`.
fn repo_of(folder: &str) -> Option<RepoId> {
    let (kind, name) = folder.split_once("--")?;
    let kind = RepoKind::from_plural(kind)?;
    // The Hub allows no `--` in a name.
    RepoId::parse(kind, &name.replace("--", "/")).ok()
}

fn scan_repo(folder: &Path, repo: &RepoId, found: &mut Vec<Found>) -> Result<(), String> {
    let mut refs = Vec::new();
    each_file(&folder.join("refs"), &mut |_, _| true, &mut |name, path, _| {
        let commit = fs::read_to_string(path).ok().and_then(|text| Commit::parse(text.trim()));
        if let (Ok(revision), Some(commit)) = (Revision::parse(name), commit) {
            refs.push((revision, commit, modified(path)));
        }
    })?;
    let mut partial = 0;
    each_file(&folder.join("blobs"), &mut |_, _| true, &mut |name, _, _| partial += usize::from(name.ends_with(".incomplete")))?;

    for name in names(&folder.join("snapshots"))? {
        let Some(commit) = Commit::parse(&name) else { continue };
        let mut one = Found::new(repo.clone(), commit);
        one.refs = refs
            .iter()
            .filter(|(revision, at, _)| *at == commit && revision.as_commit().is_none())
            .map(|(revision, _, at)| (revision.clone(), *at))
            .collect();
        if let Some(tree) = read_tree(&folder.join("trees").join(format!("{name}.json"))) {
            one.files = tree;
            one.whole = true;
        }
        let mut links = Vec::new();
        each_file(&folder.join("snapshots").join(&name), &mut |_, _| true, &mut |name, path, kind| {
            links.push((name.to_owned(), path.to_owned(), kind));
        })?;
        for (name, path, kind) in links {
            add(&mut one, &name, &path, kind);
        }
        found.push(one);
    }
    if let Some(last) = found.last_mut().filter(|last| partial > 0 && last.repo == *repo) {
        last.skip(format!("{partial} in blobs/"), "downloads that were not finished");
    }
    Ok(())
}

fn add(one: &mut Found, name: &str, path: &Path, kind: fs::FileType) {
    let Ok(name) = FilePath::parse(name) else { return one.skip(name, "no repo can have a file of this name") };
    let Ok(meta) = fs::metadata(path) else { return one.skip(name, "its link leads nowhere") };
    if !meta.is_file() {
        return one.skip(name, "it is no regular file");
    }
    let linked = if kind.is_symlink() { fs::read_link(path).ok() } else { None };
    let linked = linked.and_then(|target| target.file_name().and_then(|name| name.to_str()).and_then(Oid::parse));
    // What the Hub listed counts. Without links and list there is no hash to prove the file by.
    let oid = match (one.files.get(&name), linked) {
        (Some(listed), _) => listed.oid,
        (None, Some(oid)) => oid,
        (None, None) => return one.skip(name, "nothing in the cache tells its hash"),
    };
    one.files.insert(name, FoundFile { oid, size: meta.len(), bytes: Bytes::Plain(path.to_owned()) });
}

/// None for a list that is not there or cannot be read whole: then the links must do.
fn read_tree(path: &Path) -> Option<std::collections::BTreeMap<FilePath, FoundFile>> {
    if fs::metadata(path).ok()?.len() > TREE_LEN_MAX {
        return None;
    }
    let tree: Tree = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if tree.format_version != 1 {
        return None;
    }
    let file = |(name, entry): (String, Entry)| {
        let (oid, size) = match &entry.lfs_sha256 {
            Some(sha256) => (Oid::parse(sha256).filter(Oid::is_sha256)?, entry.lfs_size.unwrap_or(entry.size)),
            None => (Oid::parse(&entry.blob_id).filter(|oid| !oid.is_sha256())?, entry.size),
        };
        let bytes = if oid.is_of_empty() { Bytes::Empty } else { Bytes::Absent };
        Some((FilePath::parse(&name).ok()?, FoundFile { oid, size, bytes }))
    };
    tree.files.into_iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_name_repos() {
        fn check(folder: &str, expected: Option<&str>) {
            assert_eq!(repo_of(folder).map(|repo| repo.to_string()).as_deref(), expected, "{folder}");
        }
        check("models--org--name", Some("models/org/name"));
        check("models--gpt2", Some("models/gpt2"));
        check("datasets--a-b--c-d", Some("datasets/a-b/c-d"));
        check("models--a--b--c", None);
        check("models--..--x", None);
        check("version.txt", None);
        check("model--a--b", None);
    }
}
