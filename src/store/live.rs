//! At most one live object per oid, so that all readers and fills see the same bits.

use super::object::Object;
use crate::hub::Oid;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// The objects in use. Nobody waits for a cell while holding the map's mutex.
#[derive(Debug, Default)]
pub(super) struct Live {
    map: Mutex<Map>,
}

#[derive(Debug, Default)]
struct Map {
    cells: HashMap<Oid, Arc<Cell>>,
    /// Size at which the dead are swept out; it doubles with the living, so that sweeping stays cheap per call.
    sweep_at: usize,
}

/// Held while the object's file is opened, which may be long: others who want this oid wait for it, and only they.
type Cell = Mutex<Weak<Object>>;

/// Below this many, cells are not swept.
const SWEEP_AT_MIN: usize = 1024;

impl Live {
    /// Returns the cell of an oid; lock it to open, replace or forget its object.
    pub(super) fn slot(&self, oid: &Oid) -> CellHandle {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if map.cells.len() >= map.sweep_at {
            // A cell that only the map knows is locked by nobody: new handles are made under the mutex we hold.
            map.cells.retain(|_, cell| Arc::strong_count(cell) > 1 || Slot::of(cell).is_alive());
            map.sweep_at = (map.cells.len() * 2).max(SWEEP_AT_MIN);
        }
        CellHandle { cell: map.cells.entry(*oid).or_default().clone() }
    }
}

pub(super) struct CellHandle {
    cell: Arc<Cell>,
}

impl CellHandle {
    pub(super) fn lock(&self) -> Slot<'_> {
        Slot::of(&self.cell)
    }
}

/// The locked place of one oid.
pub(super) struct Slot<'a> {
    object: MutexGuard<'a, Weak<Object>>,
}

impl<'a> Slot<'a> {
    fn of(cell: &'a Cell) -> Slot<'a> {
        // A thread that panicked while opening left the old value, which is right: nothing was opened.
        Slot { object: cell.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    pub(super) fn upgrade(&self) -> Option<Arc<Object>> {
        self.object.upgrade()
    }

    fn is_alive(&self) -> bool {
        self.object.strong_count() > 0
    }

    pub(super) fn keep(&mut self, object: &Arc<Object>) {
        *self.object = Arc::downgrade(object);
    }

    /// The object's file goes: who has it open is told, and the next one opens afresh.
    pub(super) fn forget(&mut self) {
        if let Some(object) = self.object.upgrade() {
            object.mark_gone();
        }
        *self.object = Weak::new();
    }
}
