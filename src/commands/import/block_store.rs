//! The `repos` of DingoSpeed (1 to 3) and of Olah (to 0.3): block files and kept answers.
//!
//! ```text
//! files/<type>/[<org>/]<repo>/resolve/<commit>/<path>          a block file (Olah, DingoSpeed 1), or a link into blobs/
//! files/<type>/[<org>/]<repo>/blobs/<oid>                      a block file (DingoSpeed 2, 3), empty while nothing was fetched
//! api/<type>/[<org>/]<repo>/revision/<revision>/meta_get.json  the repo's facts
//! api/<type>/[<org>/]<repo>/paths-info/<commit>/<path>/paths-info_post.json     a file's oid and size
//! api/<type>/[<org>/]<repo>/tree/<commit>/[<dir>/]tree_get_recursive_<..>_expand_<..>.json     Olah only
//! ```
//!
//! Olah writes `None` for the org that a repo like `gpt2` does not have. Neither of them ever checked a hash.

use super::{
    found::{Bytes, Found, FoundFile, each_file, modified, names},
    kept_json::{KeptJson, read},
};
use crate::{
    hub::{ApiTarget, Commit, FilePath, Oid, RepoId, RepoKind, Revision, TreeFile, parse_info, parse_tree, rewrite},
    store::{CarriedAnswer, Container},
};
use serde_json::Value;
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What Olah writes for an org that is not there.
const NO_ORG: &str = "None";

/// What the repo's facts were at a revision.
struct Meta {
    revision: Revision,
    commit: Commit,
    open: Option<bool>,
    /// All files of the commit, by name; empty when it does not tell.
    names: Vec<String>,
    body: Vec<u8>,
    at: SystemTime,
}

/// Returns the directory with `files/`, if `dir` is one, or has one as `repos`.
pub(super) fn root(dir: &Path) -> Option<PathBuf> {
    let is_root = |dir: &Path| RepoKind::ALL.iter().any(|kind| dir.join("files").join(kind.plural()).is_dir());
    [dir.to_owned(), dir.join("repos")].into_iter().find(|dir| is_root(dir))
}

/// Tells Olah's directories from DingoSpeed's: that one names missing orgs, and keeps listings.
pub(super) fn is_olah(root: &Path) -> bool {
    let has = |dir: &Path, name: &str| dir.join(name).is_dir();
    let below = |dir: PathBuf| names(&dir).unwrap_or_default().into_iter().map(move |name| dir.join(name));
    root.join("lfs").is_dir()
        || RepoKind::ALL.iter().any(|kind| {
            let (files, api) = (root.join("files").join(kind.plural()), root.join("api").join(kind.plural()));
            has(&files, NO_ORG)
                || has(&api, NO_ORG)
                || below(api).flat_map(below).any(|repo| has(&repo, "tree") || has(&repo, "commits"))
        })
}

/// Reads the whole store. `stale` is how long a kept answer of it may serve while upstream is down.
pub(super) fn scan(root: &Path, olah: bool, stale: Duration) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for kind in RepoKind::ALL {
        let top = root.join("files").join(kind.plural());
        for first in names(&top)? {
            scan_repo(root, kind, &first, &first, stale, &mut found)?;
            for second in names(&top.join(&first))? {
                let below = format!("{first}/{second}");
                let name = if olah && first == NO_ORG { second } else { below.clone() };
                scan_repo(root, kind, &below, &name, stale, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// Reads a repo of that name whose directories are `below` those of its kind; nothing if there is none.
fn scan_repo(
    root: &Path,
    kind: RepoKind,
    below: &str,
    name: &str,
    stale: Duration,
    found: &mut Vec<Found>,
) -> Result<(), String> {
    let files = root.join("files").join(kind.plural()).join(below);
    let api = root.join("api").join(kind.plural()).join(below);
    let commits: Vec<Commit> = names(&files.join("resolve"))?.iter().filter_map(|name| Commit::parse(name)).collect();
    let Ok(repo) = RepoId::parse(kind, name) else { return Ok(()) };
    if commits.is_empty() {
        return Ok(());
    }
    let metas = metas(&api.join("revision"))?;
    // Whoever once saw the repo closed is believed.
    let open = metas.iter().filter_map(|meta| meta.open).reduce(|left, right| left && right);
    for commit in commits {
        let mut one = Found::new(repo.clone(), commit);
        one.open = open;
        one.whole = listed(&api, &commit, &mut one)?;
        let here = || metas.iter().filter(|meta| meta.commit == commit);
        one.refs =
            here().filter(|meta| meta.revision.as_commit().is_none()).map(|meta| (meta.revision.clone(), meta.at)).collect();
        if let Some(meta) = here().max_by_key(|meta| (meta.revision.as_commit().is_some(), !meta.names.is_empty())) {
            one.answers.extend(info(&repo, meta, stale));
        }
        let mut there = Vec::new();
        let top = files.join("resolve").join(commit.as_str());
        let mut newer = Vec::new();
        each_file(
            &top,
            &mut |name, dir| {
                let is_newer =
                    dir.join("meta.bin").is_file() && (dir.join("blocks").is_dir() || dir.join("chunks.crc").is_file());
                if is_newer {
                    newer.push(name.to_owned());
                }
                !is_newer
            },
            &mut |name, path, kind| there.push((name.to_owned(), path.to_owned(), kind)),
        )?;
        newer.iter().for_each(|name| one.skip(name, "Olah 0.4 or later wrote it, whose files cannot be read"));
        for (name, path, kind) in there {
            add(&mut one, &name, &path, kind);
        }
        // Links tell objects too, so this comes last.
        let is_known = |name: &String| FilePath::parse(name).is_ok_and(|path| one.files.contains_key(&path));
        one.whole |= here().any(|meta| !meta.names.is_empty() && meta.names.iter().all(is_known));
        found.push(one);
    }
    Ok(())
}

fn add(one: &mut Found, name: &str, path: &Path, kind: fs::FileType) {
    let Ok(name) = FilePath::parse(name) else { return one.skip(name, "no repo can have a file of this name") };
    let linked = if kind.is_symlink() { fs::read_link(path).ok() } else { None };
    let linked = linked.and_then(|target| target.file_name().and_then(|name| name.to_str()).and_then(Oid::parse));
    let listed = one.files.get(&name).cloned();
    let Some(oid) = linked.or(listed.as_ref().map(|file| file.oid)) else {
        return one.skip(name, "nothing in the store tells its hash");
    };
    if oid.is_of_empty() {
        one.files.insert(name, FoundFile { oid, size: 0, bytes: Bytes::Empty });
        return;
    }
    let file = match Container::look(path) {
        // Only asked for: the link was made, or the file, and nothing fetched.
        Ok(None) => return,
        Ok(Some(file)) if file.block_count == 0 => return,
        Ok(Some(file)) => file,
        Err(error) => return one.skip(name, error),
    };
    let bytes = if file.complete {
        Bytes::Container(path.to_owned())
    } else {
        one.skip(&name, format!("not whole: {} of {} blocks", file.present_count, file.block_count));
        Bytes::Absent
    };
    let size = listed.filter(|_| bytes == Bytes::Absent).map_or(file.size, |listed| listed.size);
    one.files.insert(name, FoundFile { oid, size, bytes });
}

/// Reads what is known of a commit's files; true when that is all of them.
fn listed(api: &Path, commit: &Commit, one: &mut Found) -> Result<bool, String> {
    let mut answers = Vec::new();
    for (folder, begins) in [("tree", "tree_get_"), ("paths-info", "paths-info_")] {
        let top = api.join(folder).join(commit.as_str());
        each_file(&top, &mut |_, _| true, &mut |name, path, _| {
            if name.rsplit('/').next().is_some_and(|name| name.starts_with(begins)) {
                let is_whole = begins == "tree_get_" && name.starts_with("tree_get_recursive_True");
                answers.extend(read(path).map(|answer| (answer, is_whole)));
            }
        })?;
    }
    let mut whole = false;
    for (answer, is_whole) in answers {
        let Some(files) = files_of(&answer) else { continue };
        whole |= is_whole && !answer.headers.contains_key("link");
        for file in files {
            let bytes = if file.oid.is_of_empty() { Bytes::Empty } else { Bytes::Absent };
            one.files.insert(file.path, FoundFile { oid: file.oid, size: file.size, bytes });
        }
    }
    Ok(whole)
}

/// DingoSpeed writes `lfs` for every file, with an empty oid where the Hub had none.
fn files_of(answer: &KeptJson) -> Option<Vec<TreeFile>> {
    let mut entries: Value = serde_json::from_slice(&answer.body).ok()?;
    for entry in entries.as_array_mut()? {
        let is_lfs = entry.get("lfs").and_then(|lfs| lfs.get("oid")).and_then(Value::as_str).is_some_and(|oid| !oid.is_empty());
        if !is_lfs && let Some(entry) = entry.as_object_mut() {
            entry.remove("lfs");
        }
    }
    parse_tree(entries.to_string().as_bytes()).ok().map(|tree| tree.files)
}

fn metas(top: &Path) -> Result<Vec<Meta>, String> {
    let mut metas = Vec::new();
    each_file(top, &mut |_, _| true, &mut |name, path, _| {
        let Some(revision) = name.strip_suffix("/meta_get.json").and_then(|name| Revision::parse(name).ok()) else { return };
        let Some(answer) = read(path) else { return };
        let Ok(facts) = parse_info(&answer.body) else { return };
        let Some(commit) = facts.sha else { return };
        let open = match (facts.private, facts.gated) {
            (Some(private), Some(gated)) => Some(!private && !gated && !facts.disabled.unwrap_or(false)),
            _ => None,
        };
        metas.push(Meta { revision, commit, open, names: siblings(&answer.body), at: modified(path), body: answer.body });
    })?;
    Ok(metas)
}

fn siblings(info: &[u8]) -> Vec<String> {
    let info: Value = serde_json::from_slice(info).unwrap_or_default();
    let siblings = info.get("siblings").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let names: Vec<String> = siblings.iter().filter_map(|file| Some(file.get("rfilename")?.as_str()?.to_owned())).collect();
    // Two of a name, or one without, and it is no list to trust.
    let distinct: HashSet<&String> = names.iter().collect();
    if distinct.len() == siblings.len() { names } else { Vec::new() }
}

/// Keeps the facts as an answer about the commit. It is never fresh, so upstream is asked while it can be.
fn info(repo: &RepoId, meta: &Meta, stale: Duration) -> Option<CarriedAnswer> {
    let body = rewrite::strip_xet(&meta.body).ok()?.into_owned();
    Some(CarriedAnswer {
        name: "info".to_owned(),
        target: ApiTarget::info(repo, &meta.commit.into()).upstream_path_and_query(),
        status: 200,
        headers: vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())],
        body: String::from_utf8(body).ok()?,
        fetched_at_ms: super::found::unix_ms(meta.at),
        fresh_for_ms: 0,
        stale_for_ms: u64::try_from(stale.as_millis()).unwrap_or(u64::MAX),
    })
}
