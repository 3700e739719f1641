//! Mending an object in the process that holds the store: broken blocks become absent, a broken file is set aside; either is
//! fetched again by whoever asks next.

use super::{Finding, Store, StoreError, Verdict};
use crate::hub::Oid;

/// What was done about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing was wrong, or the serving process had seen to it.
    Sound,
    /// So many blocks were made absent.
    Retracted(u64),
    /// The whole file is in the quarantine now.
    SetAside { reason: String },
}

impl Store {
    /// Examines an object and sees to what is broken. BLOCKING, for as long as reading it takes.
    pub fn mend(&self, oid: &Oid) -> Result<Mended, StoreError> {
        self.place.check_writable()?;
        match self.view().examine(oid, &mut |_| ())? {
            Finding::Absent | Finding::Nothing | Finding::Sound { .. } => Ok(Mended::Sound),
            Finding::Broken { block_indexes, .. } => {
                let Some(object) = self.existing(oid)? else { return Ok(Mended::Sound) };
                let mut count = 0;
                for block_index in block_indexes {
                    object.uncheck(block_index);
                    count += u64::from(!object.check(block_index)?);
                }
                Ok(Mended::Retracted(count))
            }
            Finding::Mismatch { found } => {
                let reason = format!("the content's hash is {found}");
                let Some(object) = self.existing(oid)? else { return Ok(Mended::SetAside { reason }) };
                // Asked again of the live object, which no other process can change under us.
                match object.verify_whole(&mut |_| ())? {
                    Verdict::Verified => Ok(Mended::Sound),
                    Verdict::Incomplete { absent } => Ok(Mended::Retracted(absent)),
                    Verdict::Mismatch { .. } => {
                        self.quarantine_object(&object, &reason)?;
                        self.borrower().forget(oid);
                        Ok(Mended::SetAside { reason })
                    }
                }
            }
            Finding::Unreadable { reason } => {
                self.quarantine(oid, &reason)?;
                self.borrower().forget(oid);
                Ok(Mended::SetAside { reason })
            }
        }
    }
}
