//! The body of an answer: frames sliced from its content, with the planned stops, flips and pauses on the way.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::content::Content;
use crate::gate::Barrier;
use crate::log::Running;
use crate::rules::Action;
use crate::server::Wire;

/// The largest frame: large enough to keep calls few, small enough that the log's byte counts are near the truth.
const FRAME_LEN: usize = 256 << 10;
/// A paced body sends this many frames a second, or fewer when the rate is very low.
const PACED_FRAMES_PER_SECOND: u64 = 50;

enum Stop {
    Cut { reset: bool },
    End,
    Hang,
    Hold(Barrier),
}

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Sending {
    content: Arc<dyn Content>,
    /// Where in the content the next byte is read; reaches `end`.
    at: u64,
    end: u64,
    /// Bytes of nonsense after the content.
    extra: u64,
    sent: u64,
    /// By position in this body, lowest first.
    stops: Vec<(u64, Stop)>,
    flips: Vec<u64>,
    bytes_per_second: Option<u64>,
    wait: Option<Wait>,
    /// Set when the wait that was begun is for the last bytes to leave before the cut.
    cutting: bool,
    wire: Arc<Wire>,
    /// Absent for the fake's own controls.
    running: Option<Running>,
}

impl Sending {
    pub(crate) fn new(content: Arc<dyn Content>, span: Range<u64>, wire: Arc<Wire>, running: Option<Running>) -> Sending {
        Sending {
            content,
            at: span.start,
            end: span.end,
            extra: 0,
            sent: 0,
            stops: Vec::new(),
            flips: Vec::new(),
            bytes_per_second: None,
            wait: None,
            cutting: false,
            wire,
            running,
        }
    }

    pub(crate) fn pace(&mut self, bytes_per_second: u64) {
        let slowest = self.bytes_per_second.unwrap_or(u64::MAX).min(bytes_per_second);
        self.bytes_per_second = Some(slowest);
    }

    /// Takes from the actions those that concern the body.
    pub(crate) fn plan(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::CutAfter { bytes, reset } => self.stops.push((*bytes, Stop::Cut { reset: *reset })),
                Action::Short { bytes, .. } => self.stops.push((*bytes, Stop::End)),
                Action::HangAfter(bytes) => self.stops.push((*bytes, Stop::Hang)),
                Action::HoldAfter(bytes, barrier) => self.stops.push((*bytes, Stop::Hold(barrier.clone()))),
                Action::Longer(bytes) => self.extra += bytes,
                Action::Flip(offset) => self.flips.push(*offset),
                Action::Rate(bytes_per_second) => self.pace(*bytes_per_second),
                _ => {}
            }
        }
        self.stops.sort_by_key(|(position, _)| *position);
    }

    /// Returns how many bytes may go before the next stop.
    fn room(&self) -> u64 {
        self.stops.first().map_or(u64::MAX, |(position, _)| position.saturating_sub(self.sent))
    }

    fn next_piece(&mut self) -> Bytes {
        let mut limit = self.room().min(FRAME_LEN as u64);
        if let Some(rate) = self.bytes_per_second {
            limit = limit.min((rate / PACED_FRAMES_PER_SECOND).max(1));
        }
        let piece = if self.at < self.end {
            let limit = limit.min(self.end - self.at);
            let piece = self.content.read(self.at, limit as usize);
            assert!(!piece.is_empty(), "content ended at {} of {}", self.at, self.end);
            let piece = self.flipped(piece);
            self.at += piece.len() as u64;
            piece
        } else {
            let len = limit.min(self.extra);
            self.extra -= len;
            Bytes::from(vec![0x5a; len as usize])
        };
        self.sent += piece.len() as u64;
        if let Some(running) = &self.running {
            running.sent(piece.len() as u64);
        }
        if let Some(rate) = self.bytes_per_second {
            self.wire.owe(Duration::from_secs_f64(piece.len() as f64 / rate as f64));
        }
        piece
    }

    fn flipped(&self, piece: Bytes) -> Bytes {
        let here = self.at..self.at + piece.len() as u64;
        if !self.flips.iter().any(|offset| here.contains(offset)) {
            return piece;
        }
        let mut changed = BytesMut::with_capacity(piece.len());
        changed.put_slice(&piece);
        for offset in self.flips.iter().filter(|offset| here.contains(offset)) {
            changed[(offset - self.at) as usize] ^= 1;
        }
        changed.freeze()
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            if self.cutting {
                return Poll::Ready(Some(Err(io::Error::other("cut by plan"))));
            }
            if self.room() == 0 {
                match self.stops.remove(0).1 {
                    Stop::End => {
                        (self.end, self.extra) = (self.at, 0);
                        return Poll::Ready(None);
                    }
                    Stop::Hang => self.wait = Some(Box::pin(std::future::pending())),
                    Stop::Hold(barrier) => self.wait = Some(Box::pin(barrier.pass())),
                    Stop::Cut { reset } => {
                        // An error makes hyper drop what it has not written yet, so the bytes before the cut leave first.
                        self.wire.reset_at_end(reset);
                        self.cutting = true;
                        self.wait = Some(Box::pin(self.wire.clone().flushed()));
                    }
                }
                continue;
            }
            if self.at == self.end && self.extra == 0 {
                return Poll::Ready(None);
            }
            if self.bytes_per_second.is_some()
                && let Some(time) = self.wire.due()
                && time > Instant::now()
            {
                self.wait = Some(Box::pin(tokio::time::sleep_until(time.into())));
                continue;
            }
            return Poll::Ready(Some(Ok(Frame::data(self.next_piece()))));
        }
    }

    /// The length stands in the headers, true or not; here it is never known, so hyper has nothing to compare.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
