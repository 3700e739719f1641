//! Reads an object in order, waiting for flights where blocks are absent.

use super::error::MirrorError;
use super::fill::{Fill, Found};
use crate::metrics::metrics;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// One chunk handed to a client. Measured best from 256 KiB to 1 MiB.
const CHUNK_LEN_MAX: u64 = 1 << 20;
/// How long the last bytes wait for the verdict on the whole; clients give up after 10 s without a byte.
const VERDICT_WAIT_MAX: Duration = Duration::from_secs(8);

/// A position in an object. Dropping it leaves running flights to others.
pub struct Reader {
    fill: Arc<Fill>,
    span: Range<u64>,
    /// The wish, once something was absent.
    ticket: Option<u64>,
    /// What [`Reader::prepare`] read ahead.
    ready: Option<Bytes>,
}

impl Reader {
    pub(super) fn new(fill: Arc<Fill>) -> Reader {
        let span = 0..fill.object.size();
        Reader { fill, span, ticket: None, ready: None }
    }

    /// The length of the whole object.
    pub fn size(&self) -> u64 {
        self.fill.object.size()
    }

    /// Reads `span` from now on, which lies within the object.
    pub fn seek(&mut self, span: Range<u64>) {
        let span = span.start.min(self.size())..span.end.min(self.size());
        if self.ready.is_some() && span == self.span {
            return;
        }
        self.leave();
        self.ready = None;
        self.span = span;
    }

    /// Waits until the first bytes of `span` are there, so that an error can still be told as a status.
    pub async fn prepare(&mut self, span: Range<u64>) -> Result<(), MirrorError> {
        self.seek(span);
        if self.ready.is_none() {
            self.ready = self.read().await?;
        }
        Ok(())
    }

    /// The next bytes, as soon as any are there; `None` at the end of the span. Never fewer than promised: what cannot be
    /// had is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        let bytes = match self.ready.take() {
            Some(bytes) => Some(bytes),
            None => self.read().await?,
        };
        if let Some(bytes) = &bytes {
            self.span.start += bytes.len() as u64;
            if let Some(ticket) = self.ticket {
                self.fill.advance(ticket, self.span.start);
            }
        }
        Ok(bytes)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, MirrorError> {
        if self.span.is_empty() {
            return Ok(None);
        }
        let position = self.span.start;
        let fill = self.fill.clone();
        let object = &fill.object;
        let block = object.blocks().of_offset(position);
        let block_end = object.blocks().span(block).end;
        loop {
            let changed = fill.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let end = match fill.look(position, self.ticket)? {
                Found::Block => {
                    let end = block_end.min(self.span.end).min(position + CHUNK_LEN_MAX);
                    if !self.make_usable(block, position..end).await? {
                        continue;
                    }
                    if self.ticket.is_none() {
                        metrics().blocks_hit.inc();
                    }
                    end
                }
                Found::Landed(landed) => landed.min(self.span.end).min(position + CHUNK_LEN_MAX),
                Found::Nothing => {
                    if self.ticket.is_none() {
                        self.ticket = Some(fill.want(self.span.clone()));
                        continue;
                    }
                    changed.await;
                    continue;
                }
            };
            if end == object.size() {
                self.wait_for_verdict().await?;
                // The verdict may have made a rotten block absent.
                if !object.is_present(block) && !matches!(fill.look(position, self.ticket)?, Found::Landed(_)) {
                    continue;
                }
            }
            return object.read(position..end).map(Some).map_err(|e| MirrorError::Store(e.to_string()));
        }
    }

    /// Proves a block against its checksum when it comes from the disk: on its first use, and when its pages have left
    /// memory. `false`: it was broken and is absent now.
    async fn make_usable(&self, block: u64, span: Range<u64>) -> Result<bool, MirrorError> {
        let object = &self.fill.object;
        if object.is_checked(block) && object.is_resident(span.clone()) {
            return Ok(true);
        }
        let keeper = object.clone();
        let outcome = tokio::task::spawn_blocking(move || {
            let whole = keeper.blocks().span(block);
            if !keeper.is_resident(whole.clone()) {
                keeper.uncheck(block);
                keeper.load(whole)?;
            }
            if keeper.is_checked(block) { Ok(true) } else { keeper.check(block) }
        });
        let usable = outcome.await.map_err(|e| MirrorError::Store(e.to_string()))?;
        let usable = usable.map_err(|e| MirrorError::Store(e.to_string()))?;
        if !usable {
            metrics().blocks_broken.inc();
            log::warn!("broken block object={} block={block}: it is fetched again", object.oid());
            // A new wish: the old one may have run past this block, and couriers look only at wishes.
            self.fill.dispatch();
        }
        Ok(usable)
    }

    /// Holds the end of the object back until its hash is known to be right.
    async fn wait_for_verdict(&self) -> Result<(), MirrorError> {
        let object = &self.fill.object;
        let deadline = Instant::now() + VERDICT_WAIT_MAX;
        loop {
            let changed = self.fill.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.fill.look(object.size() - 1, None)?;
            if object.is_verified() {
                return Ok(());
            }
            if !object.is_complete() {
                // A range at the end of an object that is not whole yet: the whole has no verdict to wait for.
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(MirrorError::Unverified { oid: *object.oid() });
            }
        }
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.fill.leave(ticket);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave();
    }
}
