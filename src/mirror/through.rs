//! Serves an object past the disk, for when that is full or broken.
//!
//! Nothing is kept and nothing shared: each such reader costs one upstream connection and one piece in memory, and is as
//! fast as its client. A whole object is still proven before its last bytes go out; parts of one cannot be.

use super::error::MirrorError;
use super::fill::Fill;
use super::limits::{Limits, Turn};
use super::sources::Sources;
use crate::hub::Oid;
use crate::metrics::metrics;
use crate::source::{Body, SourceError};
use crate::store::{ObjectHasher, Store};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Through {
    oid: Oid,
    size: u64,
    sources: Arc<Sources>,
    limits: Arc<Limits>,
    /// The running answer of upstream's, between two pieces.
    parked: Arc<Parked>,
    /// What the last try met with, while there are more to come.
    trouble: Option<MirrorError>,
    /// Of all bytes from the first one on, as long as they came in order.
    hasher: Option<ObjectHasher>,
    hashed: u64,
    /// Whose start was read before: it goes too if the whole is wrong.
    fill: Option<Arc<Fill>>,
    /// Keeps something at another size, and is told when this one is proven.
    told: Option<Arc<Store>>,
}

/// A running answer of upstream's.
pub(super) struct Stream {
    body: Body,
    /// Bytes that come before `next`.
    skip: u64,
    next: u64,
    end: u64,
    _turn: Turn,
}

/// Where a stream waits for its client to come back. Others may take it away if that lasts: a client that is slow must not hold
/// a turn that it does not use.
#[derive(Default)]
pub(super) struct Parked(Mutex<Option<(Stream, Instant)>>);

impl Parked {
    pub(super) fn put(&self, stream: Stream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((stream, Instant::now()));
    }

    fn take(&self) -> Option<Stream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(|(stream, _)| stream)
    }

    /// How long the stream has waited, if one is here.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, since)| since.elapsed())
    }

    /// Closes the stream; its owner opens another one where it was.
    pub(super) fn close(&self) {
        drop(self.take());
    }
}

impl Through {
    pub(super) fn new(oid: Oid, size: u64, sources: Arc<Sources>, limits: Arc<Limits>) -> Through {
        metrics().served_through.inc();
        let hasher = Some(ObjectHasher::new(&oid, size));
        Through { oid, size, sources, limits, parked: Arc::default(), trouble: None, hasher, hashed: 0, fill: None, told: None }
    }

    /// Tells the store once the whole is proven; see [`Store::disprove`].
    pub(super) fn telling(self, store: Arc<Store>) -> Through {
        Through { told: Some(store), ..self }
    }

    /// Goes on where the store could not: after `hashed` bytes that `hasher` has seen, or somewhere within (`None`).
    pub(super) fn after(fill: Arc<Fill>, start: Option<(ObjectHasher, u64)>) -> Through {
        let mut through = Through::new(*fill.object.oid(), fill.object.size(), fill.sources.clone(), fill.limits.clone());
        (through.hasher, through.hashed) = start.map_or((None, 0), |(hasher, hashed)| (Some(hasher), hashed));
        through.fill = Some(fill);
        through
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes of `span`; `None` when it is empty.
    pub(super) async fn next(&mut self, span: Range<u64>) -> Result<Option<Bytes>, MirrorError> {
        if span.is_empty() {
            return match self.size == 0 && !self.oid.is_of_empty() {
                true => Err(MirrorError::Mismatch { oid: self.oid, found: "the empty object's".into() }),
                false => Ok(None),
            };
        }
        let mut fruitless = 0;
        let since = Instant::now();
        loop {
            let error = match self.piece(&span).await {
                Ok(bytes) => {
                    self.trouble = None;
                    return self.prove(span.start, bytes).map(Some);
                }
                Err(error) => error,
            };
            fruitless += 1;
            let left = self.limits.patience.saturating_sub(since.elapsed());
            let Some(wait) = error.retry_wait(fruitless).filter(|wait| *wait <= left) else { return Err(error) };
            self.trouble = Some(error);
            tokio::time::sleep(wait).await;
        }
    }

    /// Why there are no bytes yet, if that is known.
    pub(super) fn trouble(&self) -> Option<MirrorError> {
        self.trouble.clone()
    }

    async fn piece(&mut self, span: &Range<u64>) -> Result<Bytes, MirrorError> {
        let mut stream = match self.parked.take() {
            Some(stream) if stream.next == span.start && stream.end == span.end => stream,
            _ => {
                let turn = self.limits.turn_through().await.ok_or(MirrorError::Crowded)?;
                let (body, starts_at) = self.sources.open(span.clone(), self.size).await?;
                // Where upstream ignores ranges, what lies before is read and thrown away, for as long as the client stays.
                Stream { body, skip: span.start - starts_at, next: span.start, end: span.end, _turn: turn }
            }
        };
        while let Some(chunk) = stream.body.chunk().await? {
            metrics().received("block", chunk.len() as u64);
            let skipped = stream.skip.min(chunk.len() as u64);
            stream.skip -= skipped;
            let wanted = &chunk[skipped as usize..];
            let wanted = &wanted[..wanted.len().min((stream.end - stream.next) as usize)];
            if !wanted.is_empty() {
                let piece = Bytes::copy_from_slice(wanted);
                stream.next += piece.len() as u64;
                if stream.next < stream.end {
                    self.limits.park(&self.parked, stream);
                }
                return Ok(piece);
            }
        }
        let cause = format!("the body ended at byte {} instead of {}", stream.next, stream.end);
        Err(SourceError::Broken { host: "upstream".into(), cause }.into())
    }

    /// Lets bytes pass, unless they are the last ones and the whole is not what it should be.
    fn prove(&mut self, offset: u64, bytes: Bytes) -> Result<Bytes, MirrorError> {
        let Some(hasher) = self.hasher.as_mut().filter(|_| offset == self.hashed) else {
            self.hasher = None;
            return Ok(bytes);
        };
        hasher.update(&bytes);
        self.hashed += bytes.len() as u64;
        if self.hashed < self.size {
            return Ok(bytes);
        }
        match self.hasher.take().map(ObjectHasher::matches) {
            Some(Err(found)) => Err(match &self.fill {
                Some(fill) => fill.end_as_broken(found),
                None => {
                    self.sources.doubt();
                    MirrorError::Mismatch { oid: self.oid, found }
                }
            }),
            Some(Ok(())) => {
                self.tell();
                Ok(bytes)
            }
            None => Ok(bytes),
        }
    }

    fn tell(&mut self) {
        let Some(store) = self.told.take() else { return };
        let (oid, size) = (self.oid, self.size);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.disprove(&oid, size) {
                log::warn!("cannot set aside what is kept of object={oid} at another size than {size}: {error}");
            }
        });
    }
}
