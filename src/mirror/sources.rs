//! Where one object's bytes may be asked for: the files that have it as their content.

use super::FileInfo;
use super::catalog::{Catalog, Doubts, Given};
use super::error::MirrorError;
use crate::access::Admission;
use crate::hub::{ApiTarget, Oid};
use crate::source::{Body, Origin, SourceError, Token, Url};
use http::{HeaderValue, header};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// More places of the same content than this add nothing.
const PLACES_MAX: usize = 6;

/// A file upstream, and a caller whom upstream lets read it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: FileInfo,
    pub(super) token: Option<Token>,
    /// Anybody may read it.
    open: bool,
}

impl Place {
    /// The resolve path at a commit.
    pub(super) fn target(&self) -> String {
        ApiTarget::resolve(&self.file.repo, &self.file.commit.into(), &self.file.path).upstream_path_and_query()
    }

    /// Where the Hub has it if it is a small file, which are those that git itself holds.
    fn at_commit(&self) -> Option<String> {
        let is_small = !self.file.oid.is_sha256();
        is_small.then(|| ApiTarget::resolve_cache(&self.file.repo, &self.file.commit, &self.file.path).upstream_path_and_query())
    }
}

/// The places of one object, and the signed URL last found for it, shared by all its couriers.
pub(super) struct Sources {
    origin: Arc<Origin>,
    oid: Oid,
    doubts: Doubts,
    given: Given,
    /// Latest first. Guarded by itself, held for moments.
    places: Mutex<Vec<Place>>,
    /// Held while a URL is being found, so that many couriers ask once.
    lookup: tokio::sync::Mutex<Lookup>,
    /// Whether an address that nobody gave is still worth a try.
    guesses: AtomicBool,
}

/// A URL for the object.
#[derive(Clone)]
struct Found {
    /// Upstream did not give it: it is how the Hub names small files. Then the answer must say that it is of the object, and
    /// what is wrong with it says nothing about the file.
    guessed: bool,
    url: Url,
    token: Option<Token>,
    /// Of the first answer from there: another one means another content, or an upstream that is not one.
    etag: Option<HeaderValue>,
}

/// How looking for a URL last ended.
#[derive(Default)]
struct Lookup {
    found: Option<Found>,
    /// For those who waited meanwhile: they need not fail one after the other.
    failed: Option<(Instant, MirrorError)>,
}

impl Sources {
    pub(super) fn new(origin: Arc<Origin>, oid: Oid, catalog: &Catalog) -> Sources {
        let lookup = tokio::sync::Mutex::default();
        let (doubts, given) = (catalog.doubts(), catalog.given());
        Sources { origin, oid, doubts, given, places: Mutex::default(), lookup, guesses: AtomicBool::new(true) }
    }

    /// Adds a file with this content, as this caller reads it; it is the first place asked from now on.
    pub(super) fn add(&self, file: &FileInfo, token: Option<&Token>, admission: Admission) {
        let open = admission == Admission::Open;
        let mut places = self.places();
        if places.first().is_some_and(|first| first.file == *file && first.token.as_ref() == token && first.open == open) {
            return;
        }
        if token.is_some() && open {
            // Should the token prove bad: the file is there for anybody.
            put_first(&mut places, Place { file: file.clone(), token: None, open });
        }
        put_first(&mut places, Place { file: file.clone(), token: token.cloned(), open });
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The bytes are not what the id says: perhaps it was the id that was wrong.
    pub(super) fn doubt(&self) {
        let files: Vec<FileInfo> = self.places().iter().map(|place| place.file.clone()).collect();
        files.iter().for_each(|file| self.doubts.about(file));
    }

    /// Whether this file is the only one that has been asked for the bytes, or will be.
    pub(super) fn is_only(&self, file: &FileInfo) -> bool {
        let places = self.places();
        let is_it =
            |place: &Place| (&place.file.repo, place.file.commit, &place.file.path) == (&file.repo, file.commit, &file.path);
        !places.is_empty() && places.iter().all(is_it)
    }

    /// The resolve paths of the places, and whether anybody may read there; latest first.
    pub(super) fn targets(&self) -> Vec<(String, bool)> {
        self.places().iter().map(|place| (place.target(), place.open)).collect()
    }

    /// Whether there is nowhere to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.places().is_empty()
    }

    /// Opens the bytes of `span`; the body starts at the returned offset. A kept URL that is refused (signatures expire)
    /// is found anew at once; after any other failure by the next try.
    pub(super) async fn open(&self, span: Range<u64>, size: u64) -> Result<(Body, u64), MirrorError> {
        let mut may_ask_elsewhere = self.origin.has_fallbacks();
        let mut may_guess = true;
        loop {
            let (found, kept) = self.url(size, may_guess).await?;
            let error = match self.origin.open(&found.url, found.token.as_ref(), span.clone(), size).await {
                Ok((body, starts_at)) => match self.is_same(&found, &body).await {
                    true => return Ok((body, starts_at)),
                    false => {
                        let cause = "its ETag has changed between two answers".into();
                        SourceError::Broken { host: found.url.authority(), cause }
                    }
                },
                Err(error) => error,
            };
            self.forget(&found.url).await;
            if found.guessed {
                if let SourceError::Refused { status: 404, code: None, .. } = error {
                    self.origin.lacks_resolve_cache();
                }
                let is_limited = matches!(error, SourceError::Busy { status: 429, .. });
                self.guesses.fetch_and(is_limited, Ordering::Relaxed);
                match error {
                    // Only the first upstream is guessed at; found the usual way, the bytes may come from another.
                    SourceError::Busy { .. } if may_ask_elsewhere => {
                        may_guess = false;
                        continue;
                    }
                    SourceError::Refused { .. } | SourceError::Broken { .. } | SourceError::Forbidden { .. } => continue,
                    error => return Err(error.into()),
                }
            }
            match error {
                SourceError::Refused { .. } if kept => {}
                // Another upstream may have the bytes on a host that wants no rest.
                SourceError::Busy { retry_after: Some(_), .. } if may_ask_elsewhere => may_ask_elsewhere = false,
                // The Hub has just allowed it, so this is the CDN's trouble and not the Hub's no.
                SourceError::Refused { host, status, .. } => {
                    let cause = format!("a URL that upstream just gave is refused with {status}");
                    return Err(SourceError::Broken { host, cause }.into());
                }
                error => return Err(error.into()),
            }
        }
    }

    /// Whether an answer is about what earlier ones from this URL were about.
    async fn is_same(&self, asked: &Found, body: &Body) -> bool {
        let Some(etag) = body.headers.get(header::ETAG) else { return !asked.guessed };
        if asked.guessed {
            return etag.to_str().ok().and_then(Oid::from_etag) == Some(self.oid);
        }
        let mut lookup = self.lookup.lock().await;
        match lookup.found.as_mut().filter(|found| found.url == asked.url) {
            Some(found) => found.etag.get_or_insert_with(|| etag.clone()) == etag,
            None => asked.etag.as_ref().is_none_or(|known| known == etag),
        }
    }

    /// The URL to ask, and whether it was known before.
    async fn url(&self, size: u64, may_guess: bool) -> Result<(Found, bool), MirrorError> {
        let since = Instant::now();
        let mut lookup = self.lookup.lock().await;
        if let Some(found) = lookup.found.as_ref().filter(|found| may_guess || !found.guessed) {
            return Ok((found.clone(), true));
        }
        if let Some((at, error)) = &lookup.failed
            && *at > since
        {
            return Err(error.clone());
        }
        let mut failed: Option<MirrorError> = None;
        let mut tried: Vec<Place> = Vec::new();
        while let Some(place) = self.next_place(&tried) {
            tried.push(place.clone());
            if let Some(found) = self.guess(&place).filter(|_| may_guess) {
                lookup.found = Some(found.clone());
                return Ok((found, false));
            }
            if let Some(found) = self.take_given(&place) {
                lookup.found = Some(found.clone());
                return Ok((found, true));
            }
            let error = match self.origin.for_bytes().of_repo(place.open).locate(&place.target(), place.token.as_ref()).await {
                Ok(found) if found.oid == self.oid && found.size == size => {
                    let found = Found { guessed: false, url: found.url, token: place.token, etag: None };
                    lookup.found = Some(found.clone());
                    lookup.failed = None;
                    return Ok((found, false));
                }
                Ok(found) => {
                    // One of its two words about this commit was wrong. Which one is seen when it is asked again.
                    self.doubts.about(&place.file);
                    // Other callers' places are nothing to this one.
                    log::warn!("{} is now {} of {} bytes, not {} of {size}", place.target(), found.oid, found.size, self.oid);
                    let cause = format!("a file is no longer {} of {size} bytes", self.oid);
                    SourceError::Broken { host: "upstream".into(), cause }
                }
                Err(error) => error,
            };
            if let SourceError::Refused { .. } = error {
                // One caller's token is not the others' trouble. Its owner puts it back with the next request.
                self.places().retain(|known| *known != place);
            }
            // What may pass gives hope, so it is told rather than the no that another place met.
            if failed.is_none() || error.is_passing() {
                failed = Some(error.into());
            }
        }
        let error = failed.unwrap_or(MirrorError::Offline);
        lookup.failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    /// The address that the Hub would give for this place, as long as nothing speaks against it: it saves two of three questions.
    fn guess(&self, place: &Place) -> Option<Found> {
        let target = place.at_commit().filter(|_| self.guesses.load(Ordering::Relaxed))?;
        let url = self.origin.place_at_commit(&target)?;
        // What is open to all may be asked under the operator's name, for its higher limits.
        let operator = self.origin.operator_token().filter(|_| place.open);
        Some(Found { guessed: true, url, token: place.token.as_ref().or(operator).cloned(), etag: None })
    }

    /// The URL that this caller was given a moment ago with the word on what the file is: it saves the same question a second time.
    fn take_given(&self, place: &Place) -> Option<Found> {
        let (token, url) = self.given.get(&place.file).filter(|(token, _)| *token == place.token)?;
        self.given.invalidate(&place.file);
        Some(Found { guessed: false, url, token, etag: None })
    }

    /// The first place not tried yet. Looked at anew each time: who comes meanwhile may have a better one than those before.
    fn next_place(&self, tried: &[Place]) -> Option<Place> {
        let places = self.places();
        places.iter().find(|place| !tried.contains(place)).filter(|_| tried.len() < 2 * PLACES_MAX).cloned()
    }

    async fn forget(&self, url: &Url) {
        let mut lookup = self.lookup.lock().await;
        if lookup.found.as_ref().is_some_and(|known| known.url == *url) {
            lookup.found = None;
        }
    }
}

fn put_first(places: &mut Vec<Place>, place: Place) {
    places.retain(|known| *known != place);
    places.insert(0, place);
    places.truncate(PLACES_MAX);
}
