//! A fake disk: what programs see (`live`) apart from what survives a power loss (`durable`).

use crate::store::layer::FileLayer;
use std::{
    io,
    sync::{Arc, Mutex},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// In order; each may survive a crash, or not, or in part.
    unsynced: Vec<Change>,
    full: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

/// What becomes of one unsynced change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Kept,
    Lost,
    /// Only this part of it, in 1/256 of its length.
    Torn {
        from: u8,
        to: u8,
    },
}

impl Disk {
    pub(super) fn holding(bytes: Vec<u8>) -> Disk {
        Disk { state: Arc::new(Mutex::new(State { durable: bytes.clone(), live: bytes, ..State::default() })) }
    }

    /// Copies what programs see, as a clean end leaves it.
    pub(super) fn image(&self) -> Vec<u8> {
        self.state.lock().unwrap().live.clone()
    }

    /// Loses power: returns what the disk holds when each unsynced change meets its fate, in turn from `fates`.
    pub(super) fn crash(&self, fates: &[Fate]) -> Disk {
        let state = self.state.lock().unwrap();
        let mut image = state.durable.clone();
        for (change, fate) in state.unsynced.iter().zip(fates.iter().cycle()) {
            match (change, *fate) {
                (_, Fate::Lost) => {}
                (Change::Write { offset, bytes }, Fate::Torn { from, to }) => {
                    let (from, to) = (from.min(to) as usize * bytes.len() / 256, from.max(to) as usize * bytes.len() / 256);
                    put(&mut image, offset + from, &bytes[from..to]);
                }
                (change, _) => change.apply(&mut image),
            }
        }
        Disk::holding(image)
    }

    pub(super) fn flip(&self, at: usize, mask: u8) {
        let mut state = self.state.lock().unwrap();
        let len = state.live.len();
        if len > 0 {
            state.live[at % len] ^= mask;
        }
    }

    pub(super) fn truncate(&self, len: usize) {
        let mut state = self.state.lock().unwrap();
        state.live.truncate(len);
    }

    /// From now on every write fails as on a full device.
    pub(super) fn fill_up(&self, full: bool) {
        self.state.lock().unwrap().full = full;
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.full {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        change.apply(&mut state.live);
        state.unsynced.push(change);
        Ok(())
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => put(image, *offset, bytes),
            Change::SetLen(len) => image.resize(*len, 0),
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..][..bytes.len()].copy_from_slice(bytes);
}

impl FileLayer for Disk {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let part = usize::try_from(offset).ok().and_then(|at| state.live.get(at..at.checked_add(bytes.len())?));
        bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.durable = state.live.clone();
        state.unsynced.clear();
        Ok(())
    }
}
