//! Serves an object past the disk, for when that is full or broken.
//!
//! Nothing is kept and nothing shared: each such reader costs one upstream connection and one piece in memory, and is as
//! fast as its client. A whole object is still proven before its last bytes go out; parts of one cannot be.

use super::error::MirrorError;
use super::limits::{Limits, Turn};
use super::sources::Sources;
use crate::hub::Oid;
use crate::metrics::metrics;
use crate::source::{Body, SourceError};
use crate::store::ObjectHasher;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Where upstream ignores ranges, so many bytes are read and thrown away to come to the wanted ones; not more.
const SKIP_LEN_MAX: u64 = 64 << 20;

pub(super) struct Through {
    oid: Oid,
    size: u64,
    sources: Arc<Sources>,
    limits: Arc<Limits>,
    stream: Option<Stream>,
    /// What the last try met with, while there are more to come.
    trouble: Option<MirrorError>,
    /// Of all bytes from the first one on, as long as they came in order.
    hasher: Option<ObjectHasher>,
    hashed: u64,
}

/// A running answer of upstream's.
struct Stream {
    body: Body,
    /// Bytes that come before `next`.
    skip: u64,
    next: u64,
    end: u64,
    _turn: Turn,
}

impl Through {
    pub(super) fn new(oid: Oid, size: u64, sources: Arc<Sources>, limits: Arc<Limits>) -> Through {
        metrics().served_through.inc();
        let hasher = Some(ObjectHasher::new(&oid, size));
        Through { oid, size, sources, limits, stream: None, trouble: None, hasher, hashed: 0 }
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
            self.stream = None;
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
        let stream = match self.stream.take() {
            Some(stream) if stream.next == span.start && stream.end == span.end => stream,
            _ => {
                let turn = self.limits.turns_through.wait().await;
                let (body, starts_at) = self.sources.open(span.clone(), self.size).await?;
                let skip = span.start - starts_at;
                if skip > SKIP_LEN_MAX {
                    let cause = format!("upstream ignores ranges; {skip} bytes lie before the wanted ones");
                    return Err(SourceError::Broken { host: "upstream".into(), cause }.into());
                }
                Stream { body, skip, next: span.start, end: span.end, _turn: turn }
            }
        };
        let stream = self.stream.insert(stream);
        while let Some(chunk) = stream.body.chunk().await? {
            metrics().received("block", chunk.len() as u64);
            let skipped = stream.skip.min(chunk.len() as u64);
            stream.skip -= skipped;
            let wanted = &chunk[skipped as usize..];
            let wanted = &wanted[..wanted.len().min((stream.end - stream.next) as usize)];
            if !wanted.is_empty() {
                stream.next += wanted.len() as u64;
                return Ok(Bytes::copy_from_slice(wanted));
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
            Some(Err(found)) => Err(MirrorError::Mismatch { oid: self.oid, found }),
            _ => Ok(bytes),
        }
    }
}
