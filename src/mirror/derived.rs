//! Answers that follow from what is kept of a commit: from its whole listing those about a directory or some paths, from
//! its facts those about a branch that leads there.
//!
//! They spare upstream what cannot have changed, and while upstream is down they answer what nobody had asked before in
//! just these words: each generation of clients asks the same things in its own way. Nothing is invented; what the kept
//! answers do not hold (last changes of files, scans) is not answered here.
//!
//! Where no answer was ever kept, as after an import, the listing of the commit's files stands in while upstream is down: see
//! [`crate::store::Listing`].

use super::answers::{Answer, Question, is_fresh, next_of};
use super::catalog::pointer;
use super::{Mirror, MirrorError, blocking};
use crate::hub::{ApiTarget, Commit, FilePath, HubError, RepoId, Revision, Route};
use crate::store::{ListedFile, Listing, Record, RecordKey};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// JSON of one listing that is read for one question; a longer one is as good as absent.
const LISTING_LEN_MAX: usize = 128 << 20;

/// The id of a directory of which no answer is kept: git's word for none. Clients demand one and check nothing by it.
const UNTOLD: &str = "0000000000000000000000000000000000000000";

/// A commit's whole listing, directories too: paths, and the entries as upstream wrote them, in its order.
type WholeTree = Vec<(String, Box<RawValue>)>;

/// What must be known of an entry to choose it.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
}

impl Mirror {
    /// Answers a question about the listing of a commit, if the whole of it is kept and the caller may read it.
    pub(super) async fn derived_at_commit(&self, question: &Question) -> Option<Answer> {
        match &question.route {
            Route::Tree { repo, revision, .. } | Route::PathsInfo { repo, revision } => {
                let commit = revision.as_commit()?;
                let tree = self.whole_tree(repo, commit, true).await?;
                self.listed(question, repo, revision, tree).await?.ok()
            }
            _ => None,
        }
    }

    /// Answers while upstream cannot be asked. None if what is kept says nothing about it; an error if it says no.
    pub(super) async fn derived_anyhow(&self, question: &Question) -> Option<Result<Answer, HubError>> {
        match &question.route {
            Route::Tree { repo, revision, path } => {
                let commit = self.last_commit(repo, revision).await?;
                if let Some(tree) = self.tree_anyhow(repo, commit).await
                    && let Some(listed) = self.listed(question, repo, revision, tree).await
                {
                    return Some(listed);
                }
                // Clients that never list still learn which directories there are not: transformers looks for some.
                let directory = path.as_ref()?;
                let below = format!("{}/", directory.as_str());
                let is_absent = match self.file_names(repo, commit).await {
                    Some(names) => !names.iter().any(|name| name.starts_with(&below)),
                    None => self.is_absent(question, repo, commit, directory).await,
                };
                if !is_absent {
                    return None;
                }
                let admitted = self.access.check(repo, question.token.as_ref()).await;
                Some(admitted.and_then(|_| Err(HubError::directory_not_found(directory, revision))))
            }
            Route::PathsInfo { repo, revision } => {
                let commit = self.last_commit(repo, revision).await?;
                let tree = self.tree_anyhow(repo, commit).await?;
                self.listed(question, repo, revision, tree).await
            }
            Route::RepoInfo { repo, revision } => {
                let main = Revision::parse("main").ok()?;
                let commit = self.last_commit(repo, revision.as_ref().unwrap_or(&main)).await?;
                self.described(question, repo, commit).await
            }
            Route::AuthCheck { repo } => Some(match self.access.check(repo, question.token.as_ref()).await {
                Ok(_) => Ok(answer("text/plain; charset=utf-8", b"OK".to_vec())),
                Err(refusal) => Err(refusal),
            }),
            Route::WhoAmI => {
                let holder = self.access.holder(question.token.as_ref()).await?;
                Some(Ok(answer("application/json; charset=utf-8", holder.to_string().into_bytes())))
            }
            _ => None,
        }
    }

    /// Whether all files are known that a question is about, as of its revision's last known commit, whoever asks.
    pub(super) async fn may_be_derived(&self, question: &Question) -> bool {
        let (repo, revision) = match &question.route {
            Route::Tree { repo, revision, .. } | Route::PathsInfo { repo, revision } if Wanted::of(question).is_some() => {
                (repo, Some(revision.clone()))
            }
            Route::RepoInfo { repo, revision } if more_than_blobs(question).iter().all(is_expand) => {
                (repo, revision.clone().or_else(|| Revision::parse("main").ok()))
            }
            _ => return false,
        };
        let Some(revision) = revision else { return false };
        let Some(commit) = self.last_commit(repo, &revision).await else { return false };
        let is_listed = self.catalog.listing(repo, commit).await.lock().is_ok_and(|listing| stands(&listing));
        // Of a directory it is enough to know that it is not there.
        let is_directory = matches!(question.route, Route::Tree { path: Some(_), .. });
        is_listed || (is_directory && self.file_names(repo, commit).await.is_some())
    }

    async fn listed(
        &self,
        question: &Question,
        repo: &RepoId,
        revision: &Revision,
        tree: WholeTree,
    ) -> Option<Result<Answer, HubError>> {
        let wanted = Wanted::of(question)?;
        if let Err(refusal) = self.access.check(repo, question.token.as_ref()).await {
            return Some(Err(refusal));
        }
        let chosen: Vec<&RawValue> = match &wanted {
            Wanted::Paths(paths) => {
                let by_path: HashMap<&str, &RawValue> = tree.iter().map(|(path, entry)| (path.as_str(), &**entry)).collect();
                paths.iter().filter_map(|path| by_path.get(path.trim_matches('/')).copied()).collect()
            }
            Wanted::Below { directory, recursive } => {
                let prefix = directory.as_ref().map_or(String::new(), |directory| format!("{}/", directory.as_str()));
                let is_wanted = |path: &str| {
                    path.strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty() && (*recursive || !rest.contains('/')))
                };
                let below: Vec<&RawValue> = tree.iter().filter(|(path, _)| is_wanted(path)).map(|(_, entry)| &**entry).collect();
                if let Some(directory) = directory.as_ref().filter(|_| below.is_empty()) {
                    return Some(Err(HubError::directory_not_found(directory, revision)));
                }
                below
            }
        };
        let texts: Vec<&str> = chosen.iter().map(|entry| entry.get()).collect();
        Some(Ok(answer("application/json; charset=utf-8", format!("[{}]", texts.join(",")).into_bytes())))
    }

    async fn described(&self, question: &Question, repo: &RepoId, commit: Commit) -> Option<Result<Answer, HubError>> {
        let asked = |name: &str| question.target.value(name).is_some_and(|value| is_yes(&value));
        let fields = more_than_blobs(question);
        if !fields.iter().all(is_expand) {
            return None;
        }
        let mut info = match self.kept_info(repo, commit).await {
            Some(info) => info,
            None => self.info_of_listing(repo, commit).await?,
        };
        if let Err(refusal) = self.access.check(repo, question.token.as_ref()).await {
            return Some(Err(refusal));
        }
        if asked("blobs") {
            self.add_blobs(&mut info, repo, commit).await?;
        }
        if !fields.is_empty() {
            let mut narrow = Map::new();
            for name in ["_id", "id"].into_iter().chain(fields.iter().map(|(_, field)| field.as_str())) {
                narrow.insert(name.to_owned(), info.get(name)?.clone());
            }
            info = narrow;
        }
        Some(Ok(answer("application/json; charset=utf-8", Value::Object(info).to_string().into_bytes())))
    }

    /// Adds to each file of an info what `?blobs=true` would have told, unless it is there.
    async fn add_blobs(&self, info: &mut Map<String, Value>, repo: &RepoId, commit: Commit) -> Option<()> {
        let siblings = info.get_mut("siblings")?.as_array_mut()?;
        if siblings.iter().all(|sibling| sibling.get("blobId").is_some()) {
            return Some(());
        }
        let tree = self.tree_anyhow(repo, commit).await?;
        let by_path: HashMap<&str, &RawValue> = tree.iter().map(|(path, entry)| (path.as_str(), &**entry)).collect();
        for sibling in siblings {
            let path = sibling.get("rfilename")?.as_str()?;
            let entry: Value = serde_json::from_str(by_path.get(path)?.get()).ok()?;
            let told = sibling.as_object_mut()?;
            told.insert("blobId".into(), entry.get("oid")?.clone());
            told.insert("size".into(), entry.get("size")?.clone());
            if let Some(lfs) = entry.get("lfs") {
                let lfs = json!({ "sha256": lfs.get("oid")?, "size": lfs.get("size")?, "pointerSize": lfs.get("pointerSize")? });
                told.insert("lfs".into(), lfs);
            }
        }
        Some(())
    }

    /// Whether the kept facts of a commit, which name all its files, lack this one. For callers who may read the repo.
    pub(super) async fn is_certainly_absent(&self, repo: &RepoId, commit: Commit, path: &FilePath) -> bool {
        self.file_names(repo, commit).await.is_some_and(|names| !names.iter().any(|name| name == path.as_str()))
    }

    /// The names of all files of a commit, as its kept facts tell them.
    async fn file_names(&self, repo: &RepoId, commit: Commit) -> Option<Vec<String>> {
        let info = self.kept_info(repo, commit).await?;
        let siblings = info.get("siblings").and_then(Value::as_array).filter(|files| !files.is_empty())?;
        siblings.iter().map(|sibling| Some(sibling.get("rfilename")?.as_str()?.to_owned())).collect()
    }

    /// The commit of a revision, as upstream told it last.
    async fn last_commit(&self, repo: &RepoId, revision: &Revision) -> Option<Commit> {
        let (view, repo, revision) = (self.store.view(), repo.clone(), revision.as_str().to_owned());
        blocking(move || Ok(view.resolve(&repo, &revision)?)).await.ok()?
    }

    /// The branches and tags that were last found at a commit.
    async fn revisions_at(&self, repo: &RepoId, commit: Commit) -> Vec<Revision> {
        let (view, repo) = (self.store.view(), repo.clone());
        let refs = blocking(move || Ok(view.refs(&repo)?)).await.unwrap_or_default();
        refs.iter().filter(|(_, at)| *at == commit).filter_map(|(name, _)| Revision::parse(name).ok()).collect()
    }

    /// A kept info that is about this commit, whatever revision it was asked for.
    async fn kept_info(&self, repo: &RepoId, commit: Commit) -> Option<Map<String, Value>> {
        let mut targets = vec![ApiTarget::info(repo, &commit.into()).upstream_path_and_query(), repo.api_path()];
        for revision in self.revisions_at(repo, commit).await {
            targets.push(ApiTarget::info(repo, &revision).upstream_path_and_query());
        }
        for target in targets {
            for target in [format!("{target}?blobs=true"), target] {
                let Some(record) = self.kept_answer(&RecordKey::of_repo(repo, "info", &target)).await else { continue };
                let read = move || Ok::<_, MirrorError>(serde_json::from_slice::<Map<String, Value>>(&record.body).ok());
                if let Ok(Some(info)) = blocking(read).await
                    && info.get("sha").and_then(Value::as_str) == Some(commit.as_str())
                {
                    return Some(info);
                }
            }
        }
        None
    }

    /// The whole listing of a commit, from its pages or else from what is known of its files.
    async fn tree_anyhow(&self, repo: &RepoId, commit: Commit) -> Option<WholeTree> {
        match self.whole_tree(repo, commit, false).await {
            Some(tree) => Some(tree),
            None => {
                let files = self.files_listed(repo, commit).await?;
                blocking(move || Ok(tree_of(&files))).await.ok()?
            }
        }
    }

    /// All that is known of a commit's files, sorted, where that is all of them or stands for it.
    async fn files_listed(&self, repo: &RepoId, commit: Commit) -> Option<BTreeMap<Box<str>, ListedFile>> {
        let listing = self.catalog.listing(repo, commit).await;
        let listing = listing.lock().unwrap_or_else(|e| e.into_inner());
        stands(&listing).then(|| listing.files.iter().map(|(path, file)| (path.clone(), file.clone())).collect())
    }

    /// What clients need of a repo's facts, and no more: which commit it is and which files it has. Numbers that nobody told are 0.
    async fn info_of_listing(&self, repo: &RepoId, commit: Commit) -> Option<Map<String, Value>> {
        let files = self.files_listed(repo, commit).await?;
        let open = self.access.may_be_open(repo).await;
        let siblings: Vec<Value> = files.keys().map(|path| json!({ "rfilename": path })).collect();
        let info = json!({
            "id": repo.name(), "sha": commit.as_str(), "private": !open, "gated": false, "disabled": false, "downloads": 0,
            "likes": 0, "tags": [], "siblings": siblings,
        });
        match info {
            Value::Object(info) => Some(info),
            _ => None,
        }
    }

    /// The whole listing of a commit, if each of its pages is kept. A fallback's may lack something, so it is not `fresh` for long.
    async fn whole_tree(&self, repo: &RepoId, commit: Commit, fresh: bool) -> Option<WholeTree> {
        let revision = Revision::from(commit);
        let route = Route::Tree { repo: repo.clone(), revision: revision.clone(), path: None };
        let name = format!("tree-{}", revision.as_str());
        let mut target = Some(ApiTarget::whole_tree(repo, &revision).upstream_path_and_query());
        let mut pages: Vec<Record> = Vec::new();
        let mut len = 0;
        while let Some(asked) = target {
            let page =
                self.kept_answer(&RecordKey::of_repo(repo, &name, &asked)).await.filter(|page| !fresh || is_fresh(page))?;
            len += page.body.len().max(1);
            // Also when a page leads back to one before.
            if len > LISTING_LEN_MAX || pages.iter().any(|known| known.target == asked) {
                return None;
            }
            target = next_of(&page.headers, &route);
            pages.push(page);
        }
        let read = move || {
            let mut entries = Vec::new();
            for page in &pages {
                let Ok(read) = serde_json::from_slice::<Vec<Box<RawValue>>>(&page.body) else { return Ok(None) };
                for entry in read {
                    let Ok(named) = serde_json::from_str::<Named<'_>>(entry.get()) else { return Ok(None) };
                    entries.push((named.path.into_owned(), entry));
                }
            }
            Ok::<_, MirrorError>(Some(entries))
        };
        blocking(read).await.ok()?
    }
}

/// Whether a listing is that of the whole commit, or stands for it.
fn stands(listing: &Listing) -> bool {
    (listing.complete || listing.imported) && !listing.files.is_empty()
}

/// What a question for the facts of a repo asks for, besides its files' blobs.
fn more_than_blobs(question: &Question) -> Vec<(String, String)> {
    pairs(question.target.query()).into_iter().filter(|(name, _)| name != "blobs").collect()
}

fn is_expand((name, _): &(String, String)) -> bool {
    name == "expand" || name == "expand[]"
}

/// Writes a listing as the Hub does, directories before what is in them.
fn tree_of(files: &BTreeMap<Box<str>, ListedFile>) -> Option<WholeTree> {
    let mut tree = WholeTree::new();
    let mut directories: HashSet<&str> = HashSet::new();
    let mut add = |path: &str, entry: Value| {
        let raw = serde_json::value::to_raw_value(&entry).ok()?;
        tree.push((path.to_owned(), raw));
        Some(())
    };
    for (path, file) in files {
        for (at, _) in path.match_indices('/') {
            let directory = &path[..at];
            if directories.insert(directory) {
                add(directory, json!({ "type": "directory", "oid": UNTOLD, "size": 0, "path": directory }))?;
            }
        }
        let oid = file.oid.as_str();
        let entry = if file.lfs {
            let (text, pointer) = pointer(&file.oid, file.size);
            let lfs = json!({ "oid": oid, "size": file.size, "pointerSize": text.len() });
            json!({ "type": "file", "oid": pointer.as_str(), "size": file.size, "lfs": lfs, "path": path })
        } else {
            json!({ "type": "file", "oid": oid, "size": file.size, "path": path })
        };
        add(path, entry)?;
    }
    Some(tree)
}

/// What of a listing is asked for.
enum Wanted {
    Paths(Vec<String>),
    Below { directory: Option<FilePath>, recursive: bool },
}

impl Wanted {
    /// None if the question wants more than a listing tells, or only a part of it.
    fn of(question: &Question) -> Option<Wanted> {
        if let Route::PathsInfo { .. } = question.route {
            let (content_type, form) = question.form.as_ref()?;
            let (paths, expand) = asked_paths(content_type, form)?;
            return (!expand).then_some(Wanted::Paths(paths));
        }
        let Route::Tree { path, .. } = &question.route else { return None };
        let mut recursive = false;
        for (name, value) in pairs(question.target.query()) {
            match name.as_str() {
                "recursive" => recursive = is_yes(&value),
                "expand" if !is_yes(&value) => {}
                _ => return None,
            }
        }
        Some(Wanted::Below { directory: path.clone(), recursive })
    }
}

/// Reads the body of `paths-info`: a form from Python, JSON from JavaScript.
fn asked_paths(content_type: &str, form: &[u8]) -> Option<(Vec<String>, bool)> {
    #[derive(Deserialize)]
    struct Asked {
        paths: Vec<String>,
        #[serde(default)]
        expand: bool,
    }
    if content_type.starts_with("application/json") {
        let asked: Asked = serde_json::from_slice(form).ok()?;
        return Some((asked.paths, asked.expand));
    }
    let pairs = pairs(std::str::from_utf8(form).ok()?);
    let expand = pairs.iter().any(|(name, value)| name == "expand" && is_yes(value));
    let paths: Vec<String> = pairs.into_iter().filter(|(name, _)| name == "paths").map(|(_, value)| value).collect();
    (!paths.is_empty()).then_some((paths, expand))
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let plain = |word: &str| percent_decode_str(&word.replace('+', " ")).decode_utf8_lossy().into_owned();
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        (plain(name), plain(value))
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(split).collect()
}

fn is_yes(value: &str) -> bool {
    matches!(value, "true" | "True" | "1")
}

fn answer(content_type: &str, body: Vec<u8>) -> Answer {
    Answer { status: 200, headers: vec![("content-type".to_owned(), content_type.to_owned())], body: body.into(), from: "store" }
}
