//! Upstream's answer as a courier takes it: by offsets of the object, up to the end of what it claimed.

use crate::metrics::metrics;
use crate::source::{Body, SourceError};
use std::time::{Duration, Instant};

/// A connection that brings less than this in so long is given up for another one.
const SLOW_LEN: u64 = 16 << 10;
const SLOW_FOR: Duration = Duration::from_secs(20);

pub(super) struct Feed {
    body: Body,
    /// Where in the object the next byte lies.
    offset: u64,
    /// What came with the last bytes that were taken, and lies behind them. Less than one of upstream's chunks.
    rest: Vec<u8>,
    since: Instant,
    brought: u64,
}

impl Feed {
    /// A body whose first byte is the object's at `offset`.
    pub(super) fn new(body: Body, offset: u64) -> Feed {
        Feed { body, offset, rest: Vec::new(), since: Instant::now(), brought: 0 }
    }

    /// Appends the next bytes to `piece`, none that lie at `end` or behind. False when the body has ended.
    pub(super) async fn take(&mut self, end: u64, piece: &mut Vec<u8>) -> Result<bool, SourceError> {
        let room = (end - self.offset) as usize;
        if !self.rest.is_empty() {
            let len = self.rest.len().min(room);
            piece.extend_from_slice(&self.rest[..len]);
            self.rest.drain(..len);
            self.offset += len as u64;
            return Ok(true);
        }
        let Some(chunk) = self.body.chunk().await? else { return Ok(false) };
        metrics().received("block", chunk.len() as u64);
        let (taken, rest) = chunk.split_at(chunk.len().min(room));
        piece.extend_from_slice(taken);
        self.rest.extend_from_slice(rest);
        self.offset += taken.len() as u64;
        self.brought += chunk.len() as u64;
        Ok(true)
    }

    /// Throws away what lies before `offset`.
    pub(super) async fn skip_to(&mut self, offset: u64) -> Result<(), SourceError> {
        let mut skipped = Vec::new();
        while self.offset < offset {
            if !self.take(offset, &mut skipped).await? {
                return Err(self.ended_before(offset));
            }
            self.check_pace()?;
            skipped.clear();
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
