//! Upstream's answer as a courier takes it: by offsets of the object, up to the end of what it claimed.

use crate::metrics::metrics;
use crate::source::{Body, SourceError};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A connection that brings less than this in so long is given up for another one.
const SLOW_LEN: u64 = 16 << 10;
const SLOW_FOR: Duration = Duration::from_secs(20);

pub(super) struct Feed {
    body: Body,
    /// Where in the object the next byte lies.
    offset: u64,
    /// What came with the last bytes that were taken, and lies behind them. Less than one of upstream's chunks.
    rest: Bytes,
    /// What was last taken of that.
    taken: Bytes,
    since: Instant,
    brought: u64,
}

impl Feed {
    /// A body whose first byte is the object's at `offset`.
    pub(super) fn new(body: Body, offset: u64) -> Feed {
        Feed { body, offset, rest: Bytes::new(), taken: Bytes::new(), since: Instant::now(), brought: 0 }
    }

    /// The next bytes, none that lie at `end` or behind; `None` when the body has ended.
    pub(super) async fn next(&mut self, end: u64) -> Result<Option<&[u8]>, SourceError> {
        let room = (end - self.offset) as usize;
        if !self.rest.is_empty() {
            self.taken = self.rest.split_to(self.rest.len().min(room));
            self.offset += self.taken.len() as u64;
            return Ok(Some(&self.taken));
        }
        let Some(chunk) = self.body.chunk().await? else { return Ok(None) };
        metrics().received("block", chunk.len() as u64);
        self.brought += chunk.len() as u64;
        let (taken, rest) = chunk.split_at(chunk.len().min(room));
        self.rest = Bytes::copy_from_slice(rest);
        self.offset += taken.len() as u64;
        Ok(Some(taken))
    }

    /// Throws away what lies before `offset`.
    pub(super) async fn skip_to(&mut self, offset: u64) -> Result<(), SourceError> {
        while self.offset < offset {
            if self.next(offset).await?.is_none() {
                return Err(self.ended_before(offset));
            }
            self.check_pace()?;
        }
        Ok(())
    }

    /// An error when the connection is too slow to be worth keeping.
    pub(super) fn check_pace(&mut self) -> Result<(), SourceError> {
        if self.since.elapsed() <= SLOW_FOR {
            return Ok(());
        }
        if self.brought >= SLOW_LEN {
            (self.since, self.brought) = (Instant::now(), 0);
            return Ok(());
        }
        let cause = format!("{} bytes in {} s", self.brought, self.since.elapsed().as_secs());
        Err(SourceError::Timeout { host: "upstream".into(), cause })
    }

    pub(super) fn ended_before(&self, end: u64) -> SourceError {
        let cause = format!("the body ended at byte {} instead of {end}", self.offset);
        SourceError::Broken { host: "upstream".into(), cause }
    }

    /// Gives the connection back for reuse.
    pub(super) async fn release(self) {
        self.body.release().await;
    }
}
