//! Where one object's bytes may be asked for: the files that have it as their content.

use super::error::MirrorError;
use crate::hub::Oid;
use crate::source::{Body, Origin, SourceError, Token, Url};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// More files of the same content than this add nothing.
const PLACES_MAX: usize = 4;

/// A file upstream, and a caller whom upstream lets read it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The resolve path at a commit.
    pub(super) target: String,
    pub(super) token: Option<Token>,
}

/// The places of one object, and the signed URL last found for it, shared by all its couriers.
pub(super) struct Sources {
    origin: Arc<Origin>,
    oid: Oid,
    /// Latest first. Guarded by itself, held for moments.
    places: Mutex<Vec<Place>>,
    /// Held while a URL is being found, so that many couriers ask once.
    located: tokio::sync::Mutex<Option<(Url, Option<Token>)>>,
}

impl Sources {
    pub(super) fn new(origin: Arc<Origin>, oid: Oid) -> Sources {
        Sources { origin, oid, places: Mutex::default(), located: tokio::sync::Mutex::new(None) }
    }

    /// Adds a place; it is the first one asked from now on.
    pub(super) fn add(&self, place: Place) {
        let mut places = self.places.lock().unwrap_or_else(|e| e.into_inner());
        places.retain(|known| *known != place);
        places.insert(0, place);
        places.truncate(PLACES_MAX);
    }

    /// Opens the bytes of `span`; the body starts at the returned offset. A kept URL that is refused (signatures expire)
    /// is found anew.
    pub(super) async fn open(&self, span: Range<u64>, size: u64) -> Result<(Body, u64), MirrorError> {
        let (url, token, kept) = self.url(size).await?;
        let refused = match self.origin.open(&url, token.as_ref(), span.clone(), size).await {
            Err(error @ SourceError::Refused { .. }) => error,
            // The next try may find the bytes at another upstream.
            Err(error @ (SourceError::Unreachable { .. } | SourceError::Timeout { .. })) if self.origin.has_fallbacks() => {
                self.forget(&url).await;
                return Err(error.into());
            }
            other => return Ok(other?),
        };
        self.forget(&url).await;
        let error = if kept {
            let (url, token, _) = self.url(size).await?;
            match self.origin.open(&url, token.as_ref(), span, size).await {
                Err(error @ SourceError::Refused { .. }) => {
                    self.forget(&url).await;
                    error
                }
                other => return Ok(other?),
            }
        } else {
            refused
        };
        // The Hub has just allowed it, so this is the CDN's trouble and not the Hub's no.
        Err(SourceError::Broken { host: "the CDN".into(), cause: error.to_string() }.into())
    }

    /// The URL to ask, and whether it was known before.
    async fn url(&self, size: u64) -> Result<(Url, Option<Token>, bool), MirrorError> {
        let mut located = self.located.lock().await;
        if let Some((url, token)) = located.as_ref() {
            return Ok((url.clone(), token.clone(), true));
        }
        let places = self.places.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let mut last = MirrorError::Offline;
        for place in places {
            match self.origin.for_bytes().locate(&place.target, place.token.as_ref()).await {
                Ok(found) if found.oid == self.oid && found.size == size => {
                    *located = Some((found.url.clone(), place.token.clone()));
                    return Ok((found.url, place.token, false));
                }
                Ok(found) => {
                    let cause =
                        format!("{} is now {} of {} bytes, not {} of {size}", place.target, found.oid, found.size, self.oid);
                    last = SourceError::Broken { host: "upstream".into(), cause }.into();
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    async fn forget(&self, url: &Url) {
        let mut located = self.located.lock().await;
        if located.as_ref().is_some_and(|(known, _)| known == url) {
            *located = None;
        }
    }
}
