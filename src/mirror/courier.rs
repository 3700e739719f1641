//! Carries runs of blocks from upstream into the object's file, one connection at a time.

use super::error::MirrorError;
use super::fill::{Fill, Run};
use super::limits::Turn;
use crate::metrics::metrics;
use crate::source::SourceError;
use rand::RngExt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes are written, and readers woken, in pieces that grow to this.
const PIECE_LEN_MAX: usize = 256 << 10;
/// The first piece of a run is small, so that the first byte leaves early.
const PIECE_LEN_MIN: usize = 16 << 10;
/// A piece that does not become full is written after so long, or the clients of a slow upstream would see nothing.
const PIECE_HELD_MAX: Duration = Duration::from_millis(500);
/// A try that brought less was fruitless: an upstream that breaks off after every few bytes would be asked for ever.
const PROGRESS_LEN_MIN: u64 = 64 << 10;
/// Waits between fruitless tries start here and double.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A connection that brings less than this in so long is given up for another one.
const SLOW_LEN: u64 = 16 << 10;
const SLOW_FOR: Duration = Duration::from_secs(20);
/// A server that ignores ranges is read from its start and what precedes the run thrown away; not beyond this.
const SKIP_LEN_MAX: u64 = 64 << 20;

/// One courier's life: claim, carry, until nothing is wanted. Without `ready` it has to wait for its turn, and looks for work
/// then.
pub(super) async fn work(fill: Arc<Fill>, ready: Option<(Turn, Run)>) {
    let mut place = Place { fill: fill.clone(), given_up: false };
    let (mut turn, mut next) = ready.unzip();
    loop {
        let held = match turn.take() {
            Some(turn) => turn,
            None => {
                let turn = fill.limits.turns.wait().await;
                fill.has_turn();
                turn
            }
        };
        let Some(run) = next.take().or_else(|| fill.claim()) else {
            place.given_up = true;
            return;
        };
        fill.dispatch();
        let outcome = carry(&fill, &run, held).await;
        // Who comes later must not be told of it as if it were now.
        fill.set_trouble(None);
        if let Err(error) = outcome {
            log::warn!(
                "failed fill object={} blocks={}-{} error={error:?}",
                fill.object.oid(),
                run.blocks.start,
                run.blocks.end - 1
            );
            fill.fail(&run, &error);
        }
        drop(run);
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
    given_up: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.given_up {
            self.fill.courier_died();
        }
    }
}

/// Where a run stands: kept over tries, so that the next one goes on inside the block.
struct Progress {
    offset: u64,
    /// CRC32C of the current block up to `offset`.
    crc: u32,
    piece_len: usize,
}

/// Brings a run, over several tries if need be. `Ok` also when nobody wants the rest.
async fn carry(fill: &Arc<Fill>, run: &Run, turn: Turn) -> Result<(), MirrorError> {
    let mut turn = Some(turn);
    let blocks = fill.object.blocks();
    let end = blocks.span(run.blocks.end - 1).end;
    let start = blocks.span(run.blocks.start).start;
    let keeper = fill.clone();
    tokio::task::spawn_blocking(move || keeper.make_room(end - start)).await??;
    let mut progress = Progress { offset: start, crc: 0, piece_len: PIECE_LEN_MIN };
    let mut fruitless = 0;
    let mut since = Instant::now();
    loop {
        let before = progress.offset;
        let error = match carry_once(fill, run, &mut progress, end).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if progress.offset - before >= PROGRESS_LEN_MIN {
            (fruitless, since) = (0, Instant::now());
        }
        fruitless += 1;
        let left = fill.limits.patience.saturating_sub(since.elapsed());
        let Some(wait) = error.retry_wait(fruitless).filter(|wait| *wait <= left) else { return Err(error) };
        fill.set_trouble(Some(error.clone()));
        if !fill.is_wanted(progress.offset, false) {
            return Ok(());
        }
        log::info!("retries fill object={} offset={} try={fruitless} error={error:?}", fill.object.oid(), progress.offset);
        // Whoever waits is not at upstream; others may be.
        drop(turn.take());
        tokio::time::sleep(wait).await;
        turn = Some(fill.limits.turns.wait().await);
    }
}

impl MirrorError {
    /// How long to wait after this many fruitless tries before another one; `None` when that is useless.
    pub(super) fn retry_wait(&self, fruitless: u32) -> Option<Duration> {
        let MirrorError::Source(error) = self else { return None };
        if !error.is_passing() {
            return None;
        }
        if let SourceError::Busy { retry_after: Some(asked), .. } = error {
            return Some(*asked);
        }
        let doubled = BACKOFF_MIN.saturating_mul(1 << fruitless.min(10)).min(BACKOFF_MAX);
        // Jitter, so that couriers cut at the same moment do not come back at the same moment.
        Some(doubled.mul_f64(rand::rng().random_range(0.5..1.0)))
    }
}

/// One request upstream. `Ok` when the run is done or nobody wants the rest.
async fn carry_once(fill: &Arc<Fill>, run: &Run, progress: &mut Progress, end: u64) -> Result<(), MirrorError> {
    let (mut body, starts_at) = fill.sources.open(progress.offset..end, fill.object.size()).await?;
    let mut skip = progress.offset - starts_at;
    if skip > SKIP_LEN_MAX {
        let cause = format!("upstream ignores ranges; {skip} bytes lie before the wanted ones");
        return Err(SourceError::Broken { host: "upstream".into(), cause }.into());
    }
    let mut piece: Vec<u8> = Vec::with_capacity(PIECE_LEN_MAX);
    let (mut since, mut brought, mut settled) = (Instant::now(), 0, Instant::now());
    loop {
        // What was received before a break is kept, so the error waits until the piece is written.
        let outcome = body.chunk().await;
        let ended = match &outcome {
            Ok(Some(chunk)) => {
                metrics().received("block", chunk.len() as u64);
                brought += chunk.len() as u64;
                let skipped = skip.min(chunk.len() as u64);
                skip -= skipped;
                let room = end - progress.offset - piece.len() as u64;
                let useful = &chunk[skipped as usize..];
                piece.extend_from_slice(&useful[..useful.len().min(room as usize)]);
                progress.offset + piece.len() as u64 == end
            }
            Ok(None) | Err(_) => true,
        };
        if since.elapsed() > SLOW_FOR && brought >= SLOW_LEN {
            (since, brought) = (Instant::now(), 0);
        }
        let slow = since.elapsed() > SLOW_FOR;
        let due = piece.len() >= progress.piece_len || settled.elapsed() > PIECE_HELD_MAX || ended || slow;
        if due && !piece.is_empty() {
            let (buffer, flow) = settle(fill, run, progress, piece).await?;
            piece = buffer;
            settled = Instant::now();
            progress.piece_len = (progress.piece_len * 2).min(PIECE_LEN_MAX);
            if flow.is_break() {
                return Ok(());
            }
        }
        match outcome {
            Err(error) => return Err(error.into()),
            Ok(_) if progress.offset == end => break,
            Ok(Some(_)) if slow => {
                let cause = format!("{brought} bytes in {} s", since.elapsed().as_secs());
                return Err(SourceError::Timeout { host: "upstream".into(), cause }.into());
            }
            Ok(None) => {
                let cause = format!("the body ended at byte {} instead of {end}", progress.offset);
                return Err(SourceError::Broken { host: "upstream".into(), cause }.into());
            }
            Ok(Some(_)) => {}
        }
    }
    body.release().await;
    Ok(())
}

/// Writes a piece, publishes the blocks it completes, and tells the readers. Breaks when nobody wants what follows.
async fn settle(
    fill: &Arc<Fill>,
    run: &Run,
    progress: &mut Progress,
    piece: Vec<u8>,
) -> Result<(Vec<u8>, ControlFlow<()>), MirrorError> {
    let (offset, crc) = (progress.offset, progress.crc);
    let keeper = fill.clone();
    // Writing may wait for the disk, so it is done off the event loop.
    let written = tokio::task::spawn_blocking(move || write(&keeper, offset, crc, piece));
    let (buffer, offset, crc, finished) = written.await??;
    progress.offset = offset;
    progress.crc = crc;
    fill.set_trouble(None);
    fill.land(run, offset);
    let object = &fill.object;
    let goes_on = offset < object.blocks().span(run.blocks.end - 1).end;
    let at_block_start =
        finished && offset == object.blocks().span(object.blocks().of_offset(offset.min(object.size() - 1))).start;
    let flow =
        if goes_on && !fill.is_wanted(offset, at_block_start) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    Ok((buffer, flow))
}

/// Returns the emptied buffer, the new offset and checksum, and whether a block was finished.
fn write(fill: &Arc<Fill>, mut offset: u64, mut crc: u32, mut piece: Vec<u8>) -> Result<(Vec<u8>, u64, u32, bool), MirrorError> {
    let object = &fill.object;
    let mut finished = false;
    let mut rest: &[u8] = &piece;
    while !rest.is_empty() {
        let block = object.blocks().of_offset(offset);
        let block_end = object.blocks().span(block).end;
        let (part, after) = rest.split_at(rest.len().min((block_end - offset) as usize));
        object.write(offset, part)?;
        crc = crc32c::crc32c_append(crc, part);
        offset += part.len() as u64;
        rest = after;
        if offset == block_end {
            object.publish(block, crc)?;
            metrics().blocks_filled.inc();
            crc = 0;
            finished = true;
        }
    }
    if finished {
        fill.hash_on();
    }
    piece.clear();
    Ok((piece, offset, crc, finished))
}
