//! Carries runs of blocks from upstream into the object's file, one connection at a time.
//!
//! An upstream that ignores ranges answers each request with the whole, from its start. To ask it for run after run would bring
//! the start of the object again and again; so one courier takes such an answer as it comes, and keeps of it every block that is
//! absent and that nobody else brings, while the others leave.

use super::error::MirrorError;
use super::feed::Feed;
use super::fill::{Fill, Run, Stream};
use super::limits::Turn;
use crate::metrics::metrics;
use crate::source::SourceError;
use crate::store::Room;
use rand::RngExt;
use std::mem;
use std::ops::{ControlFlow, Range};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes are written, and readers woken, in pieces that grow to this. A power of two.
const PIECE_LEN_MAX: usize = 512 << 10;
/// The first piece of a run is small, so that the first byte leaves early.
const PIECE_LEN_MIN: usize = 16 << 10;
/// A piece that does not become full is written after so long, or the clients of a slow upstream would see nothing.
const PIECE_HELD_MAX: Duration = Duration::from_millis(500);
/// A try that brought less was fruitless: an upstream that breaks off after every few bytes would be asked for ever.
const PROGRESS_LEN_MIN: u64 = 64 << 10;
/// Waits between fruitless tries start here and double.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A stream waits so long for the other couriers of its object to learn that they get the whole as well, and to leave their runs
/// to it: what it has passed it does not meet again.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(2);
/// A stream that nobody wants any more goes on until it is this many times as long. To come back costs its whole length, so many
/// small ranges one after the other cost a few times the object, and one small range not the whole of a large one.
const STREAM_GROWTH: u64 = 2;

/// One courier's life: claim, carry, until nothing is wanted. Without `ready` it has to wait for its turn, and looks for work
/// then.
pub(super) async fn work(fill: Arc<Fill>, ready: Option<(Turn, Run)>) {
    let mut place = Place { fill: fill.clone(), waits: ready.is_none(), given_up: false };
    let (mut turn, mut next) = ready.unzip();
    loop {
        let held = match turn.take() {
            Some(turn) => turn,
            None => {
                let turn = fill.limits.turns.wait().await;
                if std::mem::take(&mut place.waits) {
                    fill.has_turn();
                }
                turn
            }
        };
        let Some(run) = next.take().or_else(|| fill.claim()) else {
            place.given_up = true;
            return;
        };
        fill.dispatch();
        let ended = carry(&fill, run, held).await;
        // Who comes later must not be told of it as if it were now.
        fill.set_trouble(None);
        if ended == Ended::PlaceGivenUp {
            place.given_up = true;
            return;
        }
        // Each run is a new turn: an object that is long must not keep others from theirs.
        turn = fill.limits.turns.try_further();
        if turn.is_none() && fill.leave_to_others() {
            place.given_up = true;
            return;
        }
    }
}

/// A courier's place among its object's couriers; given up in the lock of its last claim, or here if it dies earlier.
struct Place {
    fill: Arc<Fill>,
    /// It is the recruit that has yet to get its first turn.
    waits: bool,
    given_up: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.given_up {
            self.fill.courier_died(self.waits);
        }
    }
}

/// How carrying a run ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It is there, or nobody wants the rest, or it failed and its readers know.
    Over,
    /// The courier is not needed any more, and its place is given up already.
    PlaceGivenUp,
}

/// What is being carried, and how far it has come: kept over tries, so that the next one goes on inside the block.
struct Load {
    /// None once it turned out that only the whole can be had.
    run: Option<Run>,
    /// Whether it is a block of a stream, which goes on whoever wants this one.
    in_stream: bool,
    offset: u64,
    end: u64,
    /// CRC32C of the current block up to `offset`.
    crc: u32,
    /// For the blocks that are to come.
    room: Option<Room>,
    piece_len: usize,
    /// How far any try came. To bring the same half of a block again, as a stream does that breaks there, is no progress.
    farthest: u64,
    /// Bytes of progress, over all tries.
    gained_len: u64,
}

impl Load {
    fn new(fill: &Fill, run: Run) -> Load {
        let piece_len = PIECE_LEN_MIN;
        let mut load =
            Load { run: None, in_stream: false, offset: 0, end: 0, crc: 0, room: None, piece_len, farthest: 0, gained_len: 0 };
        load.begin(fill, &run.blocks);
        load.run = Some(run);
        load
    }

    fn begin(&mut self, fill: &Fill, blocks: &Range<u64>) {
        let all = fill.object.blocks();
        (self.offset, self.end, self.crc) = (all.span(blocks.start).start, all.span(blocks.end - 1).end, 0);
    }

    /// Where the piece that is being received ends: at a multiple of its length in the file, for the kernel keeps what is written
    /// at once in pages as large as its place allows, and large pages are served faster. Nor does it reach into a block that nobody
    /// wants.
    fn piece_end(&self, fill: &Fill) -> u64 {
        let object = &fill.object;
        let payload_start = object.payload_start();
        let piece_end = (payload_start + self.offset + 1).next_multiple_of(self.piece_len as u64) - payload_start;
        let block_end = object.blocks().span(object.blocks().of_offset(self.offset)).end;
        if piece_end > block_end && block_end < self.end && !fill.is_wanted(block_end, true) {
            return block_end;
        }
        piece_end.min(self.end)
    }

    /// The bytes up to `offset` were written, and so many published.
    fn come_to(&mut self, offset: u64, crc: u32, published_len: u64) {
        if let Some(room) = &mut self.room {
            room.fill(published_len);
        }
        // A block is finished once, so that counts wherever it lies.
        self.gained_len += match published_len > 0 {
            true => (offset - self.offset).max(PROGRESS_LEN_MIN),
            false => offset.saturating_sub(self.offset.max(self.farthest)),
        };
        self.farthest = self.farthest.max(offset);
        (self.offset, self.crc) = (offset, crc);
    }

    /// The blocks that will not come if it fails: all that follow, where only the whole can be had.
    fn blocks(&self, fill: &Fill) -> Range<u64> {
        let blocks = fill.object.blocks();
        self.run.as_ref().map_or_else(|| blocks.of_offset(self.offset)..blocks.count(), |run| run.blocks.clone())
    }
}

/// Brings a run, over several tries if need be.
async fn carry(fill: &Arc<Fill>, run: Run, turn: Turn) -> Ended {
    let mut turn = Some(turn);
    let mut load = Load::new(fill, run);
    let mut fruitless = 0;
    let mut since = Instant::now();
    loop {
        let before = load.gained_len;
        let error = match carry_once(fill, &mut load).await {
            Ok(ended) => return ended,
            Err(error) => error,
        };
        if load.gained_len - before >= PROGRESS_LEN_MIN {
            (fruitless, since) = (0, Instant::now());
        }
        fruitless += 1;
        let left = fill.limits.patience.saturating_sub(since.elapsed());
        let Some(wait) = error.retry_wait(fruitless).filter(|wait| *wait <= left) else { return failed(fill, load, &error) };
        fill.set_trouble(Some(error.clone()));
        if !fill.is_wanted(load.offset.min(load.end - 1), false) {
            return Ended::Over;
        }
        let (oid, offset, said) = (fill.object.oid(), load.offset, error.to_string());
        log::info!("retries fill object={oid} offset={offset} try={fruitless} error={said:?}");
        // Whoever waits is not at upstream, and nothing comes; others may be.
        drop(turn.take());
        load.room = None;
        tokio::time::sleep(wait).await;
        turn = Some(fill.limits.turns.wait().await);
        if load.run.is_none() {
            let Some(run) = fill.claim() else { return Ended::PlaceGivenUp };
            load.begin(fill, &run.blocks);
            (load.run, load.in_stream) = (Some(run), false);
        }
    }
}

/// Tells the readers, before the run is given back: or somebody could claim it in between and fail as well.
fn failed(fill: &Arc<Fill>, load: Load, error: &MirrorError) -> Ended {
    let blocks = load.blocks(fill);
    let oid = fill.object.oid();
    // Of the disk others tell, once for all.
    let level = if matches!(error, MirrorError::Store(_)) { log::Level::Debug } else { log::Level::Warn };
    log::log!(level, "failed fill object={oid} blocks={}-{} error={:?}", blocks.start, blocks.end - 1, error.to_string());
    fill.fail(&blocks, error);
    Ended::Over
}

async fn make_room(fill: &Arc<Fill>, load: &mut Load) -> Result<(), MirrorError> {
    load.room = None;
    let (keeper, len) = (fill.clone(), load.end - load.offset);
    load.room = Some(tokio::task::spawn_blocking(move || keeper.make_room(len)).await??);
    Ok(())
}

/// Not when the disk cannot tell.
async fn has_room(fill: &Arc<Fill>, len: u64) -> bool {
    let keeper = fill.clone();
    tokio::task::spawn_blocking(move || keeper.has_room(len)).await.is_ok_and(|has_room| has_room.unwrap_or(false))
}

impl MirrorError {
    /// How long to wait after this many fruitless tries before another one; `None` when that is useless.
    pub(super) fn retry_wait(&self, fruitless: u32) -> Option<Duration> {
        let MirrorError::Source(error) = self else { return None };
        if !error.is_passing() {
            return None;
        }
        // Jitter, so that couriers cut at the same moment do not come back at the same moment.
        if let SourceError::Busy { retry_after: Some(asked), .. } = error {
            return Some(asked.saturating_add(BACKOFF_MIN.mul_f64(rand::rng().random_range(0.0..5.0))));
        }
        let doubled = BACKOFF_MIN.saturating_mul(1 << fruitless.min(10)).min(BACKOFF_MAX);
        Some(doubled.mul_f64(rand::rng().random_range(0.5..1.0)))
    }
}

/// One request upstream.
async fn carry_once(fill: &Arc<Fill>, load: &mut Load) -> Result<Ended, MirrorError> {
    let size = fill.object.size();
    let span = load.offset..load.end;
    let (body, starts_at) = fill.sources.open(span.clone(), size).await?;
    let is_part = span != (0..size);
    let gets_whole = body.status == 200;
    let mut feed = Feed::new(body, starts_at);
    if is_part && gets_whole {
        // Given back, so that the stream, be it this courier's or another's, finds its blocks free.
        load.run = None;
        let Some(stream) = fill.begin_stream() else { return Ok(Ended::PlaceGivenUp) };
        return carry_whole(fill, load, feed, stream).await;
    }
    if is_part {
        fill.ranges_work();
    }
    // Not before upstream gives anything: what is kept would go for nothing.
    make_room(fill, load).await?;
    if carry_run(fill, load, &mut feed).await?.is_continue() {
        feed.release().await;
    }
    Ok(Ended::Over)
}

/// Takes the whole object as it comes, and keeps what is absent and nobody else brings.
async fn carry_whole(fill: &Arc<Fill>, load: &mut Load, mut feed: Feed, stream: Stream) -> Result<Ended, MirrorError> {
    log::info!("streams object={}: upstream ignores ranges", fill.object.oid());
    let deadline = tokio::time::Instant::now() + OTHERS_WAIT_MAX;
    loop {
        let changed = fill.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !stream.others_are_undecided() || tokio::time::timeout_at(deadline, changed).await.is_err() {
            break;
        }
    }
    load.in_stream = true;
    let blocks = fill.object.blocks();
    let mut unwanted_until = 0;
    for block in 0..blocks.count() {
        load.begin(fill, &(block..block + 1));
        let Some((step, run)) = stream.step(block, unwanted_until) else { return Ok(Ended::Over) };
        if step.wanted {
            unwanted_until = STREAM_GROWTH * (block + 1);
        }
        let Some(run) = run else {
            feed.skip_to(load.end).await?;
            continue;
        };
        let len = load.end - load.offset;
        if step.needed {
            make_room(fill, load).await?;
        } else if !has_room(fill, len.saturating_add(step.ahead.saturating_mul(blocks.block_size))).await {
            // It is only passed: for that nothing goes, neither now nor when what is wanted comes.
            feed.skip_to(load.end).await?;
            continue;
        }
        load.run = Some(run);
        let outcome = carry_run(fill, load, &mut feed).await;
        load.run = None;
        let _ = outcome?;
    }
    feed.release().await;
    Ok(Ended::Over)
}

/// Brings the load's run to its end. Breaks when nobody wants what follows.
async fn carry_run(fill: &Arc<Fill>, load: &mut Load, feed: &mut Feed) -> Result<ControlFlow<()>, MirrorError> {
    let mut piece: Vec<u8> = Vec::with_capacity(PIECE_LEN_MAX);
    let mut piece_end = load.piece_end(fill);
    let mut settled = Instant::now();
    loop {
        // What was received before a break is kept, so the error waits until the piece is written.
        let outcome = {
            let mut next = pin!(feed.next(piece_end));
            let came = match piece.is_empty() {
                true => Some(next.as_mut().await),
                // Upstream may be silent for long, while clients wait for what is here.
                false => tokio::time::timeout(PIECE_HELD_MAX.saturating_sub(settled.elapsed()), next.as_mut()).await.ok(),
            };
            let came = match came {
                Some(came) => came,
                None => {
                    if settle(fill, load, &mut piece).await?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    settled = Instant::now();
                    next.await
                }
            };
            came.map(|bytes| bytes.map(|bytes| piece.extend_from_slice(bytes)).is_some())
        };
        let outcome = outcome.and_then(|more| feed.check_pace().map(|()| more));
        let ended = !matches!(outcome, Ok(true)) || load.offset + piece.len() as u64 == piece_end;
        let due = ended || settled.elapsed() > PIECE_HELD_MAX;
        if due && !piece.is_empty() {
            if settle(fill, load, &mut piece).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            settled = Instant::now();
            load.piece_len = (load.piece_len * 2).min(PIECE_LEN_MAX);
        }
        match outcome {
            _ if load.offset == load.end => return Ok(ControlFlow::Continue(())),
            Err(error) => return Err(error.into()),
            Ok(true) if piece.is_empty() => piece_end = load.piece_end(fill),
            Ok(true) => {}
            Ok(false) => return Err(feed.ended_before(load.end).into()),
        }
    }
}

/// Writes a piece, publishes the blocks it completes, and tells the readers. Breaks when nobody wants what follows.
async fn settle(fill: &Arc<Fill>, load: &mut Load, piece: &mut Vec<u8>) -> Result<ControlFlow<()>, MirrorError> {
    let (offset, crc, full) = (load.offset, load.crc, mem::take(piece));
    let keeper = fill.clone();
    // Writing may wait for the disk, so it is done off the event loop.
    let written = tokio::task::spawn_blocking(move || write(&keeper, offset, crc, full));
    let (buffer, offset, crc, published_len) = written.await??;
    *piece = buffer;
    load.come_to(offset, crc, published_len);
    fill.set_trouble(None);
    if let Some(run) = &load.run {
        fill.land(run, offset);
    }
    let object = &fill.object;
    let goes_on = offset < load.end && !load.in_stream;
    let at_block_start =
        published_len > 0 && offset == object.blocks().span(object.blocks().of_offset(offset.min(object.size() - 1))).start;
    let is_over = goes_on && !fill.is_wanted(offset, at_block_start);
    Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// Returns the emptied buffer, the new offset and checksum, and how much was published.
fn write(fill: &Arc<Fill>, mut offset: u64, mut crc: u32, mut piece: Vec<u8>) -> Result<(Vec<u8>, u64, u32, u64), MirrorError> {
    let object = &fill.object;
    let mut published_len = 0;
    object.write(offset, &piece)?;
    let mut rest: &[u8] = &piece;
    while !rest.is_empty() {
        let block = object.blocks().of_offset(offset);
        let span = object.blocks().span(block);
        let (part, after) = rest.split_at(rest.len().min((span.end - offset) as usize));
        crc = crc32c::crc32c_append(crc, part);
        offset += part.len() as u64;
        rest = after;
        if offset == span.end {
            object.publish(block, crc)?;
            metrics().blocks_filled.inc();
            crc = 0;
            published_len += span.end - span.start;
        }
    }
    if published_len > 0 {
        fill.hash_on();
    }
    piece.clear();
    Ok((piece, offset, crc, published_len))
}
