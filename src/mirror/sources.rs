//! Where one object's bytes may be asked for: the files that have it as their content.

use super::FileInfo;
use super::error::MirrorError;
use crate::hub::{ApiTarget, Oid};
use crate::source::{Body, Origin, SourceError, Token, Url};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// More files of the same content than this add nothing.
const PLACES_MAX: usize = 4;

/// A file upstream, and a caller whom upstream lets read it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The resolve path at a commit.
    pub(super) target: String,
    pub(super) token: Option<Token>,
}

impl Place {
    pub(super) fn of(file: &FileInfo, token: Option<&Token>) -> Place {
        let target = ApiTarget::resolve(&file.repo, &file.commit.into(), &file.path).upstream_path_and_query();
        Place { target, token: token.cloned() }
    }
}

/// The places of one object, and the signed URL last found for it, shared by all its couriers.
pub(super) struct Sources {
    origin: Arc<Origin>,
    oid: Oid,
    /// Latest first. Guarded by itself, held for moments.
    places: Mutex<Vec<Place>>,
    /// Held while a URL is being found, so that many couriers ask once.
    lookup: tokio::sync::Mutex<Lookup>,
}

/// How looking for a URL last ended.
#[derive(Default)]
struct Lookup {
    found: Option<(Url, Option<Token>)>,
    /// For those who waited meanwhile: they need not fail one after the other.
    failed: Option<(Instant, MirrorError)>,
}

impl Sources {
    pub(super) fn new(origin: Arc<Origin>, oid: Oid) -> Sources {
        Sources { origin, oid, places: Mutex::default(), lookup: tokio::sync::Mutex::default() }
    }

    /// Adds a place; it is the first one asked from now on.
    pub(super) fn add(&self, place: Place) {
        let mut places = self.places.lock().unwrap_or_else(|e| e.into_inner());
        places.retain(|known| *known != place);
        places.insert(0, place);
        places.truncate(PLACES_MAX);
    }

    /// Whether there is nowhere to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.places.lock().unwrap_or_else(|e| e.into_inner()).is_empty()
    }

    /// Opens the bytes of `span`; the body starts at the returned offset. A kept URL that is refused (signatures expire)
    /// is found anew at once; after any other failure by the next try.
    pub(super) async fn open(&self, span: Range<u64>, size: u64) -> Result<(Body, u64), MirrorError> {
        loop {
            let (url, token, kept) = self.url(size).await?;
            let error = match self.origin.open(&url, token.as_ref(), span.clone(), size).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            self.forget(&url).await;
            match error {
                SourceError::Refused { .. } if kept => {}
                // The Hub has just allowed it, so this is the CDN's trouble and not the Hub's no.
                SourceError::Refused { host, status, .. } => {
                    let cause = format!("a URL that upstream just gave is refused with {status}");
                    return Err(SourceError::Broken { host, cause }.into());
                }
                error => return Err(error.into()),
            }
        }
    }

    /// The URL to ask, and whether it was known before.
    async fn url(&self, size: u64) -> Result<(Url, Option<Token>, bool), MirrorError> {
        let since = Instant::now();
        let mut lookup = self.lookup.lock().await;
        if let Some((url, token)) = &lookup.found {
            return Ok((url.clone(), token.clone(), true));
        }
        if let Some((at, error)) = &lookup.failed
            && *at > since
        {
            return Err(error.clone());
        }
        let places = self.places.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let mut failed: Option<MirrorError> = None;
        for place in places {
            let error = match self.origin.locate(&place.target, place.token.as_ref()).await {
                Ok(found) if found.oid == self.oid && found.size == size => {
                    lookup.found = Some((found.url.clone(), place.token.clone()));
                    lookup.failed = None;
                    return Ok((found.url, place.token, false));
                }
                Ok(found) => {
                    let cause =
                        format!("{} is now {} of {} bytes, not {} of {size}", place.target, found.oid, found.size, self.oid);
                    SourceError::Broken { host: "upstream".into(), cause }
                }
                Err(error) => error,
            };
            // What may pass gives hope, so it is told rather than the no that another place met.
            if failed.is_none() || error.is_passing() {
                failed = Some(error.into());
            }
        }
        let error = failed.unwrap_or(MirrorError::Offline);
        lookup.failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    async fn forget(&self, url: &Url) {
        let mut lookup = self.lookup.lock().await;
        if lookup.found.as_ref().is_some_and(|(known, _)| known == url) {
            lookup.found = None;
        }
    }
}
