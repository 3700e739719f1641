//! Reads an object in order, waiting for flights where blocks are absent.

use super::error::MirrorError;
use super::fill::Fill;
use super::flights::Found;
use super::second_hand::Voucher;
use super::through::Through;
use crate::alarms::{Alarm, raise};
use crate::metrics::metrics;
use crate::source::{SourceError, deadline};
use crate::store::StoreError;
use bytes::Bytes;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// One chunk handed to a client. Measured best from 256 KiB to 1 MiB.
const CHUNK_LEN_MAX: u64 = 1 << 20;
/// The same where it is copied: a client that stalls holds so much memory.
const COPY_LEN_MAX: u64 = 256 << 10;
/// Clients give up when no byte came for 10 s, and take a head for a sign of life; so a head never waits longer than this.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(7);
/// While the whole is being verified, its last bytes trickle out, this far apart, so that the client stays.
const TRICKLE_EVERY: Duration = Duration::from_secs(4);
const TRICKLE_LEN_MAX: u64 = 4 << 10;
const TAIL_LEN: u64 = 256 << 10;
/// A trickle is this part of what is left, so that something is always left: the last byte waits for the verdict.
const TRICKLE_PART: u64 = 64;
/// Of so many ranges of absent blocks a reader knows; behind them, all counts as absent.
const ABSENT_RANGES_MAX: usize = 256;
/// Hashing takes about a second per GiB; a disk that needs longer than this for an object is out of order.
const VERDICT_WAIT_MAX: Duration = Duration::from_secs(900);

/// A position in an object. Dropping it leaves running flights to others.
pub struct Reader {
    way: Way,
    span: Range<u64>,
    /// What [`Reader::prepare`] read ahead.
    ready: Option<Bytes>,
    voucher: Option<Voucher>,
}

enum Way {
    Kept(Kept),
    Through(Box<Through>),
}

/// Reads what is in the store, or will be.
struct Kept {
    fill: Arc<Fill>,
    /// The wish, once something was absent.
    ticket: Option<u64>,
    /// Where the span began, and how far of it was given.
    began: u64,
    position: u64,
    /// The block it read from last.
    last_block: Option<u64>,
    /// The blocks that were absent when it wished. They are no hits, even if they have come before the reader comes to them.
    absent: Vec<Range<u64>>,
    /// When it began to wait for the verdict on the whole.
    awaits_verdict_since: Option<Instant>,
    /// Gives copies, not the pages of the file. The last one is held, for its memory: new memory for each would be zeroed by the
    /// kernel, page by page, which costs more than the copy.
    copies: Option<Bytes>,
}

impl Reader {
    /// The voucher is told when the reader ends.
    pub(super) fn new(fill: Arc<Fill>, voucher: Option<Voucher>) -> Reader {
        let span = 0..fill.object.size();
        Reader {
            way: Way::Kept(Kept {
                fill,
                ticket: None,
                began: 0,
                position: 0,
                last_block: None,
                absent: Vec::new(),
                awaits_verdict_since: None,
                copies: None,
            }),
            span,
            ready: None,
            voucher,
        }
    }

    /// Gives copies from now on. The pages of a file are for the kernel alone, which tells of one that cannot be read by an error;
    /// whoever looks at the bytes in this process, to encrypt them, would get a signal that ends it.
    pub fn copy(&mut self) {
        if let Way::Kept(kept) = &mut self.way {
            kept.copies = Some(Bytes::new());
        }
    }

    pub(super) fn through(through: Through) -> Reader {
        let span = 0..through.size();
        Reader { way: Way::Through(Box::new(through)), span, ready: None, voucher: None }
    }

    /// The length of the whole object.
    pub fn size(&self) -> u64 {
        match &self.way {
            Way::Kept(kept) => kept.fill.object.size(),
            Way::Through(through) => through.size(),
        }
    }

    /// Reads `span` from now on; [`Reader::next`] fails if it does not lie within the object.
    pub fn seek(&mut self, span: Range<u64>) {
        if self.ready.is_some() && span == self.span {
            return;
        }
        if let Way::Kept(kept) = &mut self.way {
            kept.leave();
            kept.note();
            kept.absent.clear();
            (kept.began, kept.position) = (span.start, span.start);
        }
        self.ready = None;
        self.span = span;
    }

    /// Waits until the first bytes of `span` are there, so that an error can still be told as a status. Not for ever: a head
    /// that comes late loses the client, so after some seconds the bytes are left to [`Reader::next`].
    pub async fn prepare(&mut self, span: Range<u64>) -> Result<(), MirrorError> {
        self.seek(span);
        if self.ready.is_none() {
            match timeout(deadline::at_most(HEAD_WAIT_MAX), self.read()).await {
                Ok(outcome) => self.ready = outcome?,
                // Of an empty object the head is all there is.
                Err(_) if self.span.is_empty() => {
                    let cause = "the verdict on an empty object took too long".into();
                    return Err(MirrorError::Internal(cause));
                }
                Err(_) => {
                    // Slow is told by a head now and bytes later; what fails is tried on for others, and told to this one.
                    let trouble = match &self.way {
                        Way::Kept(Kept { fill, .. }) => fill.trouble(),
                        Way::Through(through) => through.trouble(),
                    };
                    if let Some(trouble) = trouble {
                        return Err(trouble);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the first bytes are there already.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some() || self.span.is_empty()
    }

    /// The whole span, if it is there in one piece already.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        if self.span.is_empty() {
            return Some(Bytes::new());
        }
        let span_len = self.span.end - self.span.start;
        let bytes = self.ready.take_if(|bytes| bytes.len() as u64 == span_len)?;
        self.span.start = self.span.end;
        if let Way::Kept(kept) = &mut self.way {
            kept.advance(self.span.start);
        }
        Some(bytes)
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
            if let Way::Kept(kept) = &mut self.way {
                kept.advance(self.span.start);
            }
        }
        Ok(bytes)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, MirrorError> {
        loop {
            let kept = match &mut self.way {
                Way::Kept(kept) => kept,
                Way::Through(through) => return Box::pin(through.next(self.span.clone())).await,
            };
            let error = match kept.read(&self.span).await {
                Err(MirrorError::Store(error)) => error,
                // Asked anew, it is given what it may have.
                Ok(Some(_)) if self.voucher.as_ref().is_some_and(|voucher| !voucher.is_own()) => {
                    return Err(MirrorError::Unverified { oid: *kept.fill.object.oid() });
                }
                outcome => return outcome,
            };
            // The disk is no reason to let a client down while upstream has the bytes.
            let fill = kept.fill.clone();
            fill.limits.disk.failed(&error);
            if fill.sources.is_empty() || self.span.is_empty() {
                return Err(error.into());
            }
            let at = self.span.start;
            log::info!("serves past the disk object={} from={at} because={:?}", fill.object.oid(), error.to_string());
            // What came from the first byte on is still held to the hash of the whole.
            let start = match kept.began {
                0 => {
                    let hashed = fill.clone();
                    let hasher = tokio::task::spawn_blocking(move || hashed.hash_start(at)).await??;
                    Some((hasher, at))
                }
                _ => None,
            };
            // Before anything is awaited: whoever gives up waiting finds the new way when it comes back.
            self.way = Way::Through(Box::new(Through::after(fill, start)));
        }
    }
}

impl Kept {
    /// Notes which part of the object was read.
    fn note(&self) {
        self.fill.touch_span(self.began..self.position);
    }

    fn advance(&mut self, position: u64) {
        self.position = position;
        if let Some(ticket) = self.ticket {
            self.fill.advance(ticket, position);
        }
    }

    /// Keeps which of `blocks` are absent.
    fn note_absent(&mut self, blocks: Range<u64>) {
        if !self.absent.is_empty() {
            return;
        }
        let mut from = blocks.start;
        while let Some(absent) = self.fill.object.missing(from..blocks.end) {
            from = absent.end;
            self.absent.push(absent);
            if self.absent.len() == ABSENT_RANGES_MAX && from < blocks.end {
                self.absent.push(from..blocks.end);
                break;
            }
        }
    }

    fn absent_len(&self) -> u64 {
        let blocks = self.fill.object.blocks();
        self.absent.iter().map(|absent| blocks.span(absent.end - 1).end - blocks.span(absent.start).start).sum()
    }

    async fn read(&mut self, span: &Range<u64>) -> Result<Option<Bytes>, MirrorError> {
        let fill = self.fill.clone();
        let object = &fill.object;
        if span.end > object.size() {
            // The size that was announced is not the object's: what a client would get is not what it was promised.
            let cause = format!("{} has {} bytes, {} were announced", object.oid(), object.size(), span.end);
            return Err(SourceError::Broken { host: "upstream".into(), cause }.into());
        }
        if span.is_empty() {
            // No byte can be held back of an empty object, so not even its end is told before the verdict.
            while object.size() == 0 && !self.verdict_within(VERDICT_WAIT_MAX).await? {}
            return Ok(None);
        }
        let position = span.start;
        let block = object.blocks().of_offset(position);
        let block_end = object.blocks().span(block).end;
        let len_max = if self.copies.is_some() { COPY_LEN_MAX } else { CHUNK_LEN_MAX };
        loop {
            // From here on no change is missed, awaited or not.
            let changed = fill.changed();
            let mut end = match fill.look(position, self.ticket)? {
                Found::Block => {
                    let end = block_end.min(span.end).min(position + len_max);
                    if !self.make_usable(block, position..end).await? {
                        continue;
                    }
                    if self.last_block != Some(block) && !self.absent.iter().any(|blocks| blocks.contains(&block)) {
                        metrics().blocks_hit.inc();
                    }
                    end
                }
                Found::Landed(landed) => landed.min(span.end).min(position + len_max),
                Found::Nothing => {
                    if self.ticket.is_none() {
                        if let Some(error) = fill.limits.disk.full() {
                            return Err(error.into());
                        }
                        self.note_absent(block..object.blocks().of_offset(span.end - 1) + 1);
                        if let Some(error) = fill.cannot_keep(self.absent_len()) {
                            return Err(error.into());
                        }
                        self.ticket = Some(fill.want(span.clone()));
                        continue;
                    }
                    if self.ticket.is_some_and(|ticket| !fill.still_wants(ticket, position)) {
                        // What lies here failed when others wanted it.
                        self.leave();
                        continue;
                    }
                    fill.dispatch_if_idle();
                    changed.await;
                    continue;
                }
            };
            self.last_block = Some(block);
            // Enough is held back of an object without its verdict to keep the client with a trickle.
            let tail = object.size().saturating_sub(TAIL_LEN);
            if position < tail && end > tail && !object.is_verified() {
                end = tail;
            }
            if self.began == 0 && end == object.size() && !object.is_complete() {
                // The last byte of a whole is not given before there is a whole to judge.
                if object.missing(0..block).is_some() {
                    return Err(MirrorError::Rotten { oid: *object.oid() });
                }
                end -= 1;
                if end == position {
                    if self.ticket.is_none() {
                        self.ticket = Some(fill.want(span.clone()));
                        continue;
                    }
                    changed.await;
                    continue;
                }
            }
            let is_proven = match end > tail && object.is_complete() {
                true => self.verdict_within(TRICKLE_EVERY).await,
                false => Ok(true),
            };
            // Who has passed nothing on waits for what rotted to come again.
            if matches!(is_proven, Err(MirrorError::Rotten { .. })) && position == self.began {
                self.awaits_verdict_since = None;
                continue;
            }
            if !is_proven? {
                let left = object.size() - position;
                let trickle = TRICKLE_LEN_MAX.min(left.div_ceil(TRICKLE_PART)).min(left - 1).min(end - position);
                if trickle == 0 {
                    continue;
                }
                return Ok(Some(self.bytes(position..position + trickle)?));
            }
            return Ok(Some(self.bytes(position..end)?));
        }
    }

    /// The bytes of a span that has been written.
    fn bytes(&mut self, span: Range<u64>) -> Result<Bytes, StoreError> {
        let object = &self.fill.object;
        let Some(last) = &mut self.copies else { return object.read(span) };
        // Free again once the connection has taken it; until then new memory it is.
        let memory = mem::take(last).try_into_mut().unwrap_or_default();
        *last = object.copy(span, memory)?;
        Ok(last.clone())
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
            let mut loaded = Ok(());
            if !keeper.is_resident(whole.clone()) {
                keeper.uncheck(block);
                loaded = keeper.load(whole);
            }
            // A file that was cut short cannot be loaded, and its lost blocks do not pass the check: they come anew.
            let usable = keeper.is_checked(block) || keeper.check(block)?;
            if usable { loaded.map(|()| true) } else { Ok(false) }
        });
        let usable = outcome.await??;
        if !usable {
            metrics().blocks_broken.inc();
            raise(|| Alarm::Corruption { what: format!("block {block} of object {} on the disk", object.oid()) });
            log::warn!("broken block object={} block={block}: it is fetched again", object.oid());
            // A new wish: the old one may have run past this block, and couriers look only at wishes.
            self.fill.dispatch();
        }
        Ok(usable)
    }

    /// Waits for the verdict on the complete object; `false` when it is not there in time. An error when the object is not what
    /// its name says, or was found to have rotted: what this reader passed on before may have been part of that.
    async fn verdict_within(&mut self, patience: Duration) -> Result<bool, MirrorError> {
        let object = &self.fill.object;
        let now = Instant::now();
        let since = *self.awaits_verdict_since.get_or_insert(now);
        if object.is_verified() {
            return Ok(true);
        }
        if since == now {
            // Usually under way; an earlier one may have failed at the disk.
            self.fill.verify();
        }
        let deadline = (now + patience).min(since + VERDICT_WAIT_MAX);
        loop {
            let changed = self.fill.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.fill.verdict()? {
                return Ok(true);
            }
            if !object.is_complete() {
                return Err(MirrorError::Rotten { oid: *object.oid() });
            }
            if timeout_at(deadline, changed).await.is_err() {
                return match since.elapsed() < VERDICT_WAIT_MAX {
                    true => Ok(false),
                    false => Err(MirrorError::Unverified { oid: *object.oid() }),
                };
            }
        }
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.fill.leave(ticket);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.leave();
        self.note();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Admission;
    use crate::config::Config;
    use crate::hub::{Commit, FilePath, Oid, RepoId, RepoKind};
    use crate::mirror::{FileInfo, Mirror};
    use crate::store::{ObjectHasher, Store, StoreOptions};
    use std::time::Duration;

    const SIZE: u64 = (1 << 20) + 1000;

    /// A mirror that is offline and has every block of one object, without the verdict.
    fn mirror_with_unjudged_object(dir: &std::path::Path, bytes: &[u8], oid: Oid) -> Arc<Mirror> {
        let store = Store::open(dir, StoreOptions { block_size: 1 << 20 }).unwrap();
        let object = store.object(&oid, bytes.len() as u64).unwrap();
        for block in 0..object.blocks().count() {
            let span = object.blocks().span(block);
            let part = &bytes[span.start as usize..span.end as usize];
            object.write(span.start, part).unwrap();
            object.publish(block, crc32c::crc32c(part)).unwrap();
        }
        let mut config = Config::default();
        config.upstream.offline = true;
        Mirror::new(&config, Arc::new(store))
    }

    fn file(oid: Oid, size: u64) -> FileInfo {
        FileInfo {
            repo: RepoId::parse(RepoKind::Model, "a/b").unwrap(),
            commit: Commit::parse(&"1".repeat(40)).unwrap(),
            path: FilePath::parse("w.bin").unwrap(),
            oid,
            size,
            second_hand: false,
        }
    }

    fn oid_of(bytes: &[u8]) -> Oid {
        let mut hasher = ObjectHasher::new(&Oid::parse(&"0".repeat(64)).unwrap(), bytes.len() as u64);
        hasher.update(bytes);
        Oid::parse(&hasher.matches().unwrap_err()).unwrap()
    }

    async fn rest(reader: &mut Reader) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    /// A verdict that takes long must neither lose the client nor let the whole out.
    #[tokio::test]
    async fn the_end_trickles_until_the_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 253) as u8).collect();
        let oid = oid_of(&bytes);
        let mirror = mirror_with_unjudged_object(dir.path(), &bytes, oid);
        let mut reader = mirror.read(&file(oid, SIZE), None, Admission::Open).await.unwrap();
        // The verdict of the opening is through, or waits for this lock; take it back.
        let Way::Kept(Kept { fill, .. }) = &reader.way else { panic!("not from the store") };
        let fill = fill.clone();
        while !fill.verdict().unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fill.object.set_verified(false).unwrap();
        let (locked, unlock) = fill.hold_verdicts();
        locked.await.unwrap();

        let mut got = Vec::new();
        while (got.len() as u64) <= SIZE - TAIL_LEN {
            let piece = reader.next().await.unwrap().unwrap();
            got.extend_from_slice(&piece);
        }
        // Trickles of the held-back end, no more.
        assert!((got.len() as u64) < SIZE - TAIL_LEN + 3 * TRICKLE_LEN_MAX, "{}", got.len());
        unlock.send(()).unwrap();
        got.extend(rest(&mut reader).await);
        assert!(got == bytes);
        assert!(fill.object.is_verified());
    }

    /// Or its wish would outlive it, where clients that leave do not end wishes.
    #[tokio::test]
    async fn who_took_the_whole_wants_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 253) as u8).collect();
        let oid = oid_of(&bytes);
        let mirror = mirror_with_unjudged_object(dir.path(), &bytes, oid);
        let mut reader = mirror.read(&file(oid, SIZE), None, Admission::Open).await.unwrap();
        reader.prepare(10..110).await.unwrap();
        // As if it had had to wait.
        let Way::Kept(kept) = &mut reader.way else { panic!("not from the store") };
        let fill = kept.fill.clone();
        let ticket = fill.want(10..110);
        kept.ticket = Some(ticket);
        assert!(fill.still_wants(ticket, 10));
        assert!(reader.take_whole().unwrap() == bytes[10..110]);
        assert!(!fill.still_wants(ticket, 10));
    }

    #[tokio::test]
    async fn a_disk_that_spoils_what_it_is_given_is_not_fed_for_ever() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 253) as u8).collect();
        let oid = oid_of(&bytes);
        let mirror = mirror_with_unjudged_object(dir.path(), &bytes, oid);
        let reader = mirror.read(&file(oid, SIZE), None, Admission::Open).await.unwrap();
        let Way::Kept(Kept { fill, .. }) = &reader.way else { panic!("not from the store") };
        let (object, last) = (&fill.object, &bytes[1 << 20..]);
        while !fill.verdict().unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let name = oid.to_string();
        let blob = std::fs::File::options().write(true).open(dir.path().join("blobs").join(&name[..2]).join(&name)).unwrap();
        let mut rounds = 0;
        while fill.verdict().is_ok() {
            rounds += 1;
            assert!(rounds < 100, "it goes on without an end");
            blob.write_all_at(&[last[0] ^ 1], object.header().payload_start() + (1 << 20)).unwrap();
            object.set_verified(false).unwrap();
            while object.is_present(1) {
                // Nothing, while the last one is not quite over.
                fill.verify();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if fill.verdict().is_ok() {
                object.write(1 << 20, last).unwrap();
                object.publish(1, crc32c::crc32c(last)).unwrap();
            }
        }
        assert!(rounds > 3, "rot now and then is mended");
        assert!(matches!(fill.verdict(), Err(MirrorError::Rotten { .. })) && object.is_gone());
    }

    #[tokio::test]
    async fn a_span_beyond_the_object_is_an_error_not_a_short_body() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; 5000];
        let oid = oid_of(&bytes);
        let mirror = mirror_with_unjudged_object(dir.path(), &bytes, oid);
        let mut reader = mirror.read(&file(oid, 5000), None, Admission::Open).await.unwrap();
        reader.seek(4000..5001);
        assert!(matches!(reader.next().await, Err(MirrorError::Source(SourceError::Broken { .. }))));
        // Once proven, its size is beyond doubt.
        reader.seek(0..5000);
        assert!(rest(&mut reader).await == bytes);
        assert!(matches!(
            mirror.read(&file(oid, 4999), None, Admission::Open).await,
            Err(MirrorError::Source(SourceError::Broken { .. }))
        ));
    }

    #[tokio::test]
    async fn an_empty_object_that_should_not_be_empty_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let oid = oid_of(b"not empty");
        let mirror = mirror_with_unjudged_object(dir.path(), b"", oid);
        let mut reader = mirror.read(&file(oid, 0), None, Admission::Open).await.unwrap();
        assert!(matches!(reader.next().await, Err(MirrorError::Mismatch { .. })));

        let dir = tempfile::tempdir().unwrap();
        let oid = oid_of(b"");
        let mirror = mirror_with_unjudged_object(dir.path(), b"", oid);
        let mut reader = mirror.read(&file(oid, 0), None, Admission::Open).await.unwrap();
        assert!(reader.next().await.unwrap().is_none());
    }
}
