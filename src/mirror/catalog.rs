//! What a path of a revision is: commit, content id, size. From what is kept if it may be used, else from upstream.

use super::promises::{Asker, Part};
use super::{KEPT_PATIENCE, Mirror};
use crate::access::Admission;
use crate::config::Config;
use crate::hub::{ApiTarget, Commit, FilePath, HubError, Oid, RepoId, Revision, Tree, TreeFile};
use crate::source::{Asking, Located, Origin, SourceError, Token, Url, deadline};
use crate::store::{ListedFile, Listing, Store, git_blob_oid};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// Listings kept in memory, by the number of files in them all.
const LISTED_FILES_MAX: u64 = 1_000_000;
/// Files whose word is doubted. One that is forgotten is believed until it proves wrong again.
const DOUBTS_MAX: u64 = 10_000;
/// Refs remembered, and how long: what another command removed is noticed then.
const REFS_MAX: u64 = 100_000;
const REFS_FOR: Duration = Duration::from_secs(30);
/// What a listing weighs besides its files: those of made-up commits are empty.
const LISTING_WEIGHT: u32 = 20;
/// Answers that may be on their way or just arrived; only to ask once for many.
const COALESCED_MAX: u64 = 10_000;
const COALESCED_FOR: Duration = Duration::from_secs(2);
/// URLs that came with an answer and may still be wanted, and how long; they are good for about an hour.
const GIVEN_MAX: u64 = 1_000;
const GIVEN_FOR: Duration = Duration::from_secs(60);

/// A commit is not listed on our own account more often.
const LISTED_EVERY: Duration = Duration::from_secs(600);

/// A file, as far as serving it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileInfo {
    pub repo: RepoId,
    pub commit: Commit,
    pub path: FilePath,
    pub oid: Oid,
    pub size: u64,
    /// Only a fallback has said so; see [`super::second_hand`].
    pub second_hand: bool,
}

type Shared<T> = Arc<Mutex<T>>;
type Asked = (String, [u8; 32]);
type Listed = moka::sync::Cache<(RepoId, Commit), Shared<Listing>>;
type Doubted = moka::sync::Cache<(RepoId, Commit, FilePath), ()>;
/// The URLs of files' bytes that upstream gave when it was asked what the files are, and the callers it gave them to.
pub(super) type Given = moka::sync::Cache<FileInfo, (Option<Token>, Url)>;

pub(super) struct Catalog {
    origin: Arc<Origin>,
    store: Arc<Store>,
    offline: bool,
    revision_ttl: Duration,
    listings: Listed,
    doubted: Doubted,
    /// What the store has of refs, for a while.
    refs: moka::sync::Cache<(RepoId, Revision), (Commit, SystemTime)>,
    absent: moka::sync::Cache<(RepoId, Commit, FilePath), ()>,
    /// Revisions that upstream does not know, as it told a caller: to whom it does not know it says something else.
    unknown: moka::sync::Cache<(RepoId, Revision, [u8; 32]), HubError>,
    asking: moka::future::Cache<Asked, Located>,
    given: Given,
    /// Commits of which a file had to be asked for.
    asked_of: moka::sync::Cache<(RepoId, Commit), ()>,
    /// Commits whose listing was asked for a caller, however that ended.
    listed: moka::future::Cache<(RepoId, Commit, [u8; 32]), ()>,
}

impl Catalog {
    pub(super) fn new(config: &Config, origin: Arc<Origin>, store: Arc<Store>) -> Catalog {
        let weigh = |_: &(RepoId, Commit), listing: &Shared<Listing>| {
            let files = listing.lock().map_or(0, |l| l.files.len());
            u32::try_from(files).unwrap_or(u32::MAX).saturating_add(LISTING_WEIGHT)
        };
        Catalog {
            origin,
            store,
            offline: config.upstream.offline,
            revision_ttl: config.freshness.revision,
            listings: moka::sync::Cache::builder().weigher(weigh).max_capacity(LISTED_FILES_MAX).build(),
            doubted: moka::sync::Cache::new(DOUBTS_MAX),
            refs: moka::sync::Cache::builder().max_capacity(REFS_MAX).time_to_live(REFS_FOR).build(),
            absent: moka::sync::Cache::builder().max_capacity(100_000).time_to_live(config.freshness.missing).build(),
            unknown: moka::sync::Cache::builder().max_capacity(REFS_MAX).time_to_live(config.freshness.missing).build(),
            asking: moka::future::Cache::builder().max_capacity(COALESCED_MAX).time_to_live(COALESCED_FOR).build(),
            given: moka::sync::Cache::builder().max_capacity(GIVEN_MAX).time_to_live(GIVEN_FOR).build(),
            asked_of: moka::sync::Cache::builder().max_capacity(COALESCED_MAX).time_to_live(LISTED_EVERY).build(),
            listed: moka::future::Cache::builder().max_capacity(COALESCED_MAX).time_to_live(LISTED_EVERY).build(),
        }
    }

    /// Forgets what is in memory of a commit, and of the revisions that may lead to it.
    pub(super) fn forget_commit(&self, repo: &RepoId, commit: &Commit) {
        self.listings.invalidate(&(repo.clone(), *commit));
        self.refs.invalidate_all();
        self.absent.invalidate_all();
    }

    pub(super) fn doubts(&self) -> Doubts {
        Doubts { listings: self.listings.clone(), doubted: self.doubted.clone() }
    }

    pub(super) fn given(&self) -> Given {
        self.given.clone()
    }

    /// Forgets in memory what is known of a repo.
    pub(super) fn forgetter(&self) -> impl Fn(&RepoId) + Send + Sync + use<> {
        let (listings, refs, absent) = (self.listings.clone(), self.refs.clone(), self.absent.clone());
        move |repo| {
            listings.iter().filter(|(key, _)| key.0 == *repo).for_each(|(key, _)| listings.invalidate(&*key));
            refs.iter().filter(|(key, _)| key.0 == *repo).for_each(|(key, _)| refs.invalidate(&*key));
            absent.iter().filter(|(key, ())| key.0 == *repo).for_each(|(key, ())| absent.invalidate(&*key));
        }
    }

    /// What is known of a commit's files: shared with all who ask, from the disk at first.
    pub(super) async fn listing(self: &Catalog, repo: &RepoId, commit: Commit) -> Shared<Listing> {
        let key = (repo.clone(), commit);
        if let Some(listing) = self.listings.get(&key) {
            return listing;
        }
        let (store, of) = (self.store.clone(), key.clone());
        let loaded = tokio::task::spawn_blocking(move || store.listings().load(&of.0, &of.1)).await;
        let listing = match loaded {
            Ok(Ok(listing)) => listing,
            Ok(Err(e)) => {
                log::warn!("cannot read what is known of {repo}@{}: {e}", commit.as_str());
                Listing::default()
            }
            Err(_) => Listing::default(),
        };
        self.listings.get_with(key, || Arc::new(Mutex::new(listing)))
    }

    async fn kept_ref(&self, repo: &RepoId, revision: &Revision) -> Option<(Commit, SystemTime)> {
        // Asked for each file of each download, so not from the disk each time.
        let key = (repo.clone(), revision.clone());
        if let Some(kept) = self.refs.get(&key) {
            return Some(kept);
        }
        let kept = self.stored_ref(repo, revision).await?;
        self.refs.insert(key, kept);
        Some(kept)
    }

    async fn stored_ref(&self, repo: &RepoId, revision: &Revision) -> Option<(Commit, SystemTime)> {
        let (store, repo, revision) = (self.store.clone(), repo.clone(), revision.clone());
        let kept = tokio::task::spawn_blocking(move || store.refs().get_ref(&repo, revision.as_str())).await;
        kept.ok()?.ok()?.map(|kept| (kept.commit, kept.at))
    }

    async fn learn_ref(&self, repo: &RepoId, revision: &Revision, commit: Commit) {
        if revision.as_commit() == Some(commit) {
            return;
        }
        let at = SystemTime::now();
        self.refs.insert((repo.clone(), revision.clone()), (commit, at));
        let (store, repo, revision) = (self.store.clone(), repo.clone(), revision.clone());
        let put = tokio::task::spawn_blocking(move || store.refs().put_ref(&repo, revision.as_str(), &commit, at));
        if let Ok(Err(e)) = put.await {
            log::warn!("cannot keep a revision: {e}");
        }
    }

    /// Remembers files of a commit; `complete` when with these all are known, of which only the first upstream's word convinces.
    /// On the disk only if `keep`.
    async fn learn_files(
        &self,
        repo: &RepoId,
        commit: Commit,
        files: &[TreeFile],
        complete: bool,
        second_hand: bool,
        keep: bool,
    ) {
        let listing = self.listing(repo, commit).await;
        let (fresh, file_count): (Vec<(FilePath, ListedFile)>, _) = {
            let mut listing = listing.lock().unwrap_or_else(|e| e.into_inner());
            if second_hand && listing.complete {
                return;
            }
            let mut fresh = Vec::new();
            for file in files {
                let listed = ListedFile { oid: file.oid, size: file.size, lfs: file.lfs, second_hand };
                let key: Box<str> = file.path.as_str().into();
                let known = listing.files.get(&key);
                // What the Hub has said of a commit stands.
                if second_hand && known.is_some_and(|known| !known.second_hand) {
                    continue;
                }
                self.doubted.invalidate(&(repo.clone(), commit, file.path.clone()));
                if known != Some(&listed) {
                    listing.files.insert(key, listed.clone());
                    fresh.push((file.path.clone(), listed));
                }
            }
            let complete = complete && !second_hand;
            let completes = complete && !listing.complete;
            listing.complete |= complete;
            if completes {
                listing.files.retain(|_, file| !file.second_hand);
            }
            if fresh.is_empty() && !completes {
                return;
            }
            (fresh, completes.then_some(listing.files.len() as u64))
        };
        // Re-inserted so that its weight is counted anew.
        self.listings.insert((repo.clone(), commit), listing.clone());
        if !keep {
            return;
        }
        let (store, repo) = (self.store.clone(), repo.clone());
        let written = tokio::task::spawn_blocking(move || {
            let entries: Vec<_> = fresh.iter().map(|(path, listed)| (path.as_str(), listed.clone())).collect();
            if !entries.is_empty() {
                store.listings().append(&repo, &commit, &entries)?;
            }
            match file_count {
                Some(count) => store.listings().mark_complete(&repo, &commit, count),
                None => Ok(()),
            }
        });
        if let Ok(Err(e)) = written.await {
            log::warn!("cannot keep a listing: {e}");
        }
    }

    /// Remembers that a commit has files which can be neither asked for nor kept.
    async fn learn_left_out(&self, repo: &RepoId, commit: Commit, keep: bool) {
        let listing = self.listing(repo, commit).await;
        let was_known = std::mem::replace(&mut listing.lock().unwrap_or_else(|e| e.into_inner()).left_out, true);
        if was_known || !keep {
            return;
        }
        let (store, repo) = (self.store.clone(), repo.clone());
        let written = tokio::task::spawn_blocking(move || store.listings().mark_left_out(&repo, &commit));
        if let Ok(Err(e)) = written.await {
            log::warn!("cannot keep a listing: {e}");
        }
    }

    async fn ask(&self, target: String, token: Option<&Token>, asking: Asking<'_>) -> Result<Located, SourceError> {
        let key = (target.clone(), Token::fingerprint(token));
        let asked = self.asking.try_get_with(key, async {
            let found = asking.locate(&target, token).await?;
            if found.size == 0 && !found.oid.is_of_empty() {
                // A middle box that answers HEAD with length 0 must not empty our files.
                let cause = format!("{} is announced with 0 bytes", found.oid);
                return Err(SourceError::Broken { host: self.origin.base(), cause });
            }
            Ok(found)
        });
        // Another request may be asking, which began later and has more time than this one.
        match tokio::time::timeout(deadline::at_most(Duration::MAX), asked).await {
            Ok(found) => found.map_err(|error| (*error).clone()),
            Err(_) => {
                let cause = "the question of another request for the same took all the time of this one".to_owned();
                Err(SourceError::Timeout { host: self.origin.base(), cause })
            }
        }
    }
}

pub(super) fn pointer(oid: &Oid, size: u64) -> (String, Oid) {
    let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n");
    let oid = git_blob_oid(text.as_bytes());
    (text, oid)
}

/// Where what was learned of files is called into question.
#[derive(Clone)]
pub(super) struct Doubts {
    listings: Listed,
    doubted: Doubted,
}

impl Doubts {
    /// Lets the next request ask anew what a file is. What it was said to be still serves while upstream gives no word, for it may be
    /// the doubt that was wrong.
    pub(super) fn about(&self, file: &FileInfo) {
        let Some(listing) = self.listings.get(&(file.repo.clone(), file.commit)) else { return };
        let listing = listing.lock().unwrap_or_else(|e| e.into_inner());
        let path = file.path.as_str();
        if listing.files.get(path).is_some_and(|listed| (listed.oid, listed.size) == (file.oid, file.size)) {
            self.doubted.insert((file.repo.clone(), file.commit, file.path.clone()), ());
            log::warn!("doubts what {}@{}/{path} was said to be: {} of {} bytes", file.repo, file.commit, file.oid, file.size);
        }
    }
}

enum Known {
    File(FileInfo),
    Absent,
    Unknown,
}

impl Mirror {
    /// As [`Mirror::file`], and in agreement with what this client was told of the revision before.
    pub async fn file_for(
        &self,
        asker: &Asker,
        part: Part,
        token: Option<&Token>,
        admission: Admission,
    ) -> Result<FileInfo, HubError> {
        if asker.revision.as_commit().is_some() {
            return self.file(&asker.repo, &asker.revision, &asker.path, token, admission).await;
        }
        let due = self.promises.due(asker, part, Instant::now()).map(Revision::from);
        let found = match &due {
            Some(at) => self.file(&asker.repo, at, &asker.path, token, admission).await.ok(),
            None => None,
        };
        let file = match found {
            Some(file) => file,
            None => self.file(&asker.repo, &asker.revision, &asker.path, token, admission).await?,
        };
        self.promises.make(asker.clone(), part, file.commit, Instant::now());
        Ok(file)
    }

    /// What git holds of an LFS file in its stead, and that text's own id.
    pub fn pointer(file: &FileInfo) -> (String, Oid) {
        pointer(&file.oid, file.size)
    }

    /// Finds a file, for a caller that [`crate::access::Access`] lets read the repo.
    pub async fn file(
        &self,
        repo: &RepoId,
        revision: &Revision,
        path: &FilePath,
        token: Option<&Token>,
        admission: Admission,
    ) -> Result<FileInfo, HubError> {
        let kept = self.kept_revision(repo, revision).await;
        if let Some((commit, true)) = kept
            && let Known::File(file) = self.known(repo, commit, path).await
            && !file.second_hand
        {
            return Ok(file);
        }
        Box::pin(self.file_asked(repo, revision, path, token, admission, kept)).await
    }

    /// The commit that a revision was last seen at, and whether that may still be believed.
    async fn kept_revision(&self, repo: &RepoId, revision: &Revision) -> Option<(Commit, bool)> {
        let catalog = &self.catalog;
        match revision.as_commit() {
            Some(commit) => Some((commit, true)),
            None => catalog.kept_ref(repo, revision).await.map(|(commit, at)| {
                let age = crate::store::age(at);
                (commit, age < catalog.revision_ttl)
            }),
        }
    }

    async fn file_asked(
        &self,
        repo: &RepoId,
        revision: &Revision,
        path: &FilePath,
        token: Option<&Token>,
        admission: Admission,
        kept: Option<(Commit, bool)>,
    ) -> Result<FileInfo, HubError> {
        let catalog = &self.catalog;
        if let Some((commit, true)) = kept {
            let mut known = self.known(repo, commit, path).await;
            if matches!(known, Known::Unknown) && self.list_ahead(repo, commit, token).await {
                known = self.known(repo, commit, path).await;
            }
            match known {
                // The Hub itself is asked as soon as it is back.
                Known::File(file) if !file.second_hand || catalog.offline || self.origin.is_down() => return Ok(file),
                Known::Absent => return Err(HubError::entry_not_found(Some(commit))),
                Known::File(_) | Known::Unknown => {}
            }
        }
        if catalog.offline {
            let fallback = self.kept_file(repo, kept, path).await;
            return self.without_upstream(fallback, repo, kept, path, HubError::offline()).await;
        }
        // A fresh branch is asked at its commit, so that what two requests see of it agrees.
        let at = match kept {
            Some((commit, true)) => Revision::from(commit),
            _ => revision.clone(),
        };
        let asked = (repo.clone(), at.clone(), Token::fingerprint(token));
        if let Some(unknown) = catalog.unknown.get(&asked) {
            return Err(unknown);
        }
        let target = ApiTarget::resolve(repo, &at, path).upstream_path_and_query();
        let fallback = self.kept_file(repo, kept, path).await;
        let patience = if fallback.is_some() { KEPT_PATIENCE } else { Duration::MAX };
        let asking = self.origin.within(patience).of_repo(admission == Admission::Open);
        match catalog.ask(target, token, asking).await {
            Ok(found) => {
                let second_hand = !found.authoritative;
                let (commit, oid, size) = (found.commit, found.oid, found.size);
                let file = FileInfo { repo: repo.clone(), commit, path: path.clone(), oid, size, second_hand };
                // A signed URL is of one content. Another may lead to whatever the branch has by then.
                if found.authoritative && found.oid.is_sha256() && found.url.is_signed() {
                    catalog.given.insert(file.clone(), (token.cloned(), found.url));
                }
                if at == *revision {
                    self.learn_revision(repo, revision, found.commit).await;
                }
                let lfs = found.oid.is_sha256();
                let learned = TreeFile { path: path.clone(), oid: found.oid, size: found.size, lfs };
                self.learn_tree(repo, found.commit, &[learned], false, second_hand).await;
                Ok(file)
            }
            Err(SourceError::Refused { code: Some(code), commit, .. }) if code == "EntryNotFound" => {
                if let Some(commit) = commit {
                    if at == *revision {
                        self.learn_revision(repo, revision, commit).await;
                    }
                    catalog.absent.insert((repo.clone(), commit, path.clone()), ());
                }
                Err(HubError::entry_not_found(commit))
            }
            Err(error @ SourceError::Refused { .. }) if error.to_hub().code == Some("RevisionNotFound") => {
                catalog.unknown.insert(asked, error.to_hub());
                Err(error.to_hub())
            }
            // What is kept serves as well when a portal would lead elsewhere.
            Err(error) if !matches!(error, SourceError::Refused { .. }) => {
                log::warn!("upstream fails for {repo}@{revision}/{path}: {error}");
                self.without_upstream(fallback, repo, kept, path, error.to_hub()).await
            }
            Err(error) => Err(error.to_hub()),
        }
    }

    /// Asks for the whole listing of a commit when a second file of it is asked for that nobody has listed: clients before
    /// 1.22 take the files' names from the repo's facts and then ask for each, which would cost upstream as many questions.
    /// True when more may be known now.
    async fn list_ahead(&self, repo: &RepoId, commit: Commit, token: Option<&Token>) -> bool {
        let catalog = &self.catalog;
        if catalog.offline || catalog.listing(repo, commit).await.lock().is_ok_and(|listing| listing.complete) {
            return false;
        }
        let of = (repo.clone(), commit);
        if !catalog.asked_of.contains_key(&of) {
            catalog.asked_of.insert(of, ());
            return false;
        }
        let key = (repo.clone(), commit, Token::fingerprint(token));
        if catalog.listed.contains_key(&key) {
            return false;
        }
        let listed = catalog.listed.get_with(key.clone(), self.list(repo, commit, token));
        if tokio::time::timeout(deadline::time_left().min(KEPT_PATIENCE), listed).await.is_err() {
            // Upstream is slow with it: files are asked for one by one.
            catalog.listed.insert(key, ()).await;
        }
        true
    }

    async fn known(&self, repo: &RepoId, commit: Commit, path: &FilePath) -> Known {
        match self.said(repo, commit, path).await {
            Known::File(_) if self.catalog.doubted.contains_key(&(repo.clone(), commit, path.clone())) => Known::Unknown,
            known => known,
        }
    }

    /// As `known`, also what is doubted.
    async fn said(&self, repo: &RepoId, commit: Commit, path: &FilePath) -> Known {
        let listing = self.catalog.listing(repo, commit).await;
        let listing = listing.lock().unwrap_or_else(|e| e.into_inner());
        match listing.files.get(path.as_str()) {
            Some(listed) => {
                let (oid, size, second_hand) = (listed.oid, listed.size, listed.second_hand);
                Known::File(FileInfo { repo: repo.clone(), commit, path: path.clone(), oid, size, second_hand })
            }
            None if listing.complete || self.catalog.absent.contains_key(&(repo.clone(), commit, path.clone())) => Known::Absent,
            None => Known::Unknown,
        }
    }

    /// What is kept, however old: for when upstream cannot be asked.
    async fn kept_file(
        &self,
        repo: &RepoId,
        kept: Option<(Commit, bool)>,
        path: &FilePath,
    ) -> Option<Result<FileInfo, HubError>> {
        let (commit, _) = kept?;
        match self.said(repo, commit, path).await {
            Known::File(file) => Some(Ok(file)),
            Known::Absent => Some(Err(HubError::entry_not_found(Some(commit)))),
            Known::Unknown => None,
        }
    }

    /// What can be said of a file when upstream cannot be asked; `error` if nothing can.
    async fn without_upstream(
        &self,
        fallback: Option<Result<FileInfo, HubError>>,
        repo: &RepoId,
        kept: Option<(Commit, bool)>,
        path: &FilePath,
        error: HubError,
    ) -> Result<FileInfo, HubError> {
        match (fallback, kept) {
            (Some(known), _) => known,
            (None, Some((commit, _))) if self.is_certainly_absent(repo, commit, path).await => {
                Err(HubError::entry_not_found(Some(commit)))
            }
            (None, _) => Err(error),
        }
    }

    pub(super) async fn learn_revision(&self, repo: &RepoId, revision: &Revision, commit: Commit) {
        if self.may_cache(repo) {
            self.catalog.learn_ref(repo, revision, commit).await;
        }
    }

    /// Before the files: a listing is never complete without it. Only the first upstream's word counts.
    pub(super) async fn learn_left_out(&self, repo: &RepoId, commit: Commit, tree: &Tree, second_hand: bool) {
        if !tree.left_out.is_empty() && !second_hand {
            self.catalog.learn_left_out(repo, commit, self.may_cache(repo)).await;
        }
    }

    pub(super) async fn learn_tree(&self, repo: &RepoId, commit: Commit, files: &[TreeFile], complete: bool, second_hand: bool) {
        self.catalog.learn_files(repo, commit, files, complete, second_hand, self.may_cache(repo)).await;
    }
}
