//! Serves an object past the disk, for when that is full or broken.
//!
//! Nothing is kept and nothing shared: each such reader costs one upstream connection and one piece in memory, and is as
//! fast as its client. A whole object is still proven before its last bytes go out; parts of one cannot be.

use super::broken::Broken;
use super::error::MirrorError;
use super::fill::Fill;
use super::limits::{Limits, Turn};
use super::sources::Sources;
use crate::hub::Oid;
use crate::metrics::metrics;
use crate::source::{Body, SourceError};
use crate::store::ObjectHasher;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What lies before a part may be passed over for so long, however little patience is set.
const SKIP_FOR_MIN: Duration = Duration::from_secs(1);

pub(super) struct Through {
    oid: Oid,
    size: u64,
    sources: Arc<Sources>,
    limits: Arc<Limits>,
    /// The running answer of upstream's, between two pieces.
    parked: Arc<Parked>,
    /// One that has yet to come to where it is wanted.
    skipping: Option<Skipping>,
    /// What the last try met with, while there are more to come.
    trouble: Option<MirrorError>,
    /// Of all bytes from the first one on, as long as they came in order.
    hasher: Option<ObjectHasher>,
    hashed: u64,
    /// Whose start was read before: it goes too if the whole is wrong.
    fill: Option<Arc<Fill>>,
    /// Is told that bytes come at this size, and when the whole is proven: something is kept at another one.
    told: Option<Broken>,
    has_told: bool,
}

/// A running answer of upstream's.
pub(super) struct Stream {
    body: Body,
    /// Bytes that have come already, from `next` on.
    rest: Bytes,
    next: u64,
    end: u64,
    _turn: Turn,
}

/// A stream on its way to where it is wanted, where upstream ignores ranges. In a task of its own: who gives up waiting for it
/// finds it further on when it comes back. Closed when dropped.
struct Skipping {
    span: Range<u64>,
    task: JoinHandle<Result<Stream, MirrorError>>,
}

impl Drop for Skipping {
    fn drop(&mut self) {
        self.task.abort();
    }
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

impl Stream {
    /// The next bytes from the connection.
    async fn chunk(&mut self) -> Result<Bytes, SourceError> {
        loop {
            let Some(chunk) = self.body.chunk().await? else {
                let cause = format!("the body ended at byte {} instead of {}", self.next, self.end);
                return Err(SourceError::Broken { host: "upstream".into(), cause });
            };
            metrics().received("block", chunk.len() as u64);
            if !chunk.is_empty() {
                return Ok(Bytes::copy_from_slice(chunk));
            }
        }
    }

    /// Reads and throws away what lies before `offset`. It costs the whole way, and is of use to nobody else; so it may take no
    /// longer than a fetch is tried in other trouble.
    async fn skip_to(mut self, offset: u64, patience: Duration) -> Result<Stream, MirrorError> {
        let patience = patience.max(SKIP_FOR_MIN);
        match timeout(patience, self.skip(offset)).await {
            Ok(outcome) => outcome.map(|()| self).map_err(MirrorError::from),
            Err(_) => {
                let cause = format!(
                    "it ignores ranges, and of the {offset} bytes before the wanted ones only {} came in {patience:?} \
                     (upstream.patience); this needs an upstream that supports ranges, or room on the mirror's disk",
                    self.next
                );
                Err(SourceError::Timeout { host: "upstream".into(), cause }.into())
            }
        }
    }

    async fn skip(&mut self, offset: u64) -> Result<(), SourceError> {
        while self.next < offset {
            let mut chunk = self.chunk().await?;
            let skipped = chunk.len().min((offset - self.next) as usize);
            self.next += skipped as u64;
            self.rest = chunk.split_off(skipped);
        }
        Ok(())
    }
}

impl Through {
    pub(super) fn new(oid: Oid, size: u64, sources: Arc<Sources>, limits: Arc<Limits>) -> Through {
        metrics().served_through.inc();
        let hasher = Some(ObjectHasher::new(&oid, size));
        let (parked, skipping) = (Arc::default(), None);
        Through {
            oid,
            size,
            sources,
            limits,
            parked,
            skipping,
            trouble: None,
            hasher,
            hashed: 0,
            fill: None,
            told: None,
            has_told: false,
        }
    }

    /// Tells that bytes come at this size, and once the whole is proven: something is kept at another one.
    pub(super) fn telling(self, broken: Broken) -> Through {
        Through { told: Some(broken), ..self }
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
            _ => self.open(span).await?,
        };
        if stream.rest.is_empty() {
            stream.rest = stream.chunk().await?;
        }
        let len = stream.rest.len().min((stream.end - stream.next) as usize);
        let piece = stream.rest.split_to(len);
        stream.next += len as u64;
        if stream.next < stream.end {
            self.limits.park(&self.parked, stream);
        }
        Ok(piece)
    }

    /// A stream that stands at the start of `span`.
    async fn open(&mut self, span: &Range<u64>) -> Result<Stream, MirrorError> {
        let skipping = self.skipping.take().filter(|skipping| skipping.span == *span);
        let skipping = if let Some(skipping) = skipping {
            skipping
        } else {
            let turn = self.limits.turn_through().await.ok_or(MirrorError::Crowded)?;
            let (body, starts_at) = self.sources.open(span.clone(), self.size).await?;
            if !std::mem::replace(&mut self.has_told, true) {
                self.tell(Broken::comes_at);
            }
            let stream = Stream { body, rest: Bytes::new(), next: starts_at, end: span.end, _turn: turn };
            if starts_at == span.start {
                return Ok(stream);
            }
            let task = tokio::spawn(stream.skip_to(span.start, self.limits.patience));
            Skipping { span: span.clone(), task }
        };
        // Back in its place before anything is awaited.
        let outcome = (&mut self.skipping.insert(skipping).task).await;
        self.skipping = None;
        outcome?
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
                self.tell(Broken::is_proven_at);
                Ok(bytes)
            }
            None => Ok(bytes),
        }
    }

    fn tell(&mut self, word: fn(&Broken, &Oid, u64)) {
        let Some(told) = self.told.clone() else { return };
        let (oid, size) = (self.oid, self.size);
        tokio::task::spawn_blocking(move || word(&told, &oid, size));
    }
}
