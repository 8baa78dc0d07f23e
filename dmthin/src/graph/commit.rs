//! What a pool has promised: where overcommitment is off, never more than it has.
//!
//! Counted is all that can ever be written: the full size of every container and data volume, ready, being
//! made, being grown or not removed yet, and of what is being made besides; and what sealed bases and layers
//! and snapshots have mapped, which nobody writes to any more. Snapshots are measured where overcommitment is
//! off when they are taken, and else count in full. A block that layers share counts once a layer,
//! though never do they all count for more than the pool's blocks in use: so the sum is never less than what
//! is needed. While it is not more than the pool's data, no writer can meet a full pool.
//!
//! The check comes after the intent is in the catalogue. Of two that race each sees the other's, so that
//! both may be refused, but never both be let in; so with one that turns overcommitment off.

use crate::dm::PoolStatus;
use crate::graph::error::{GuardError, PoolError};
use crate::graph::existing::require_own;
use crate::graph::live::Live;
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::store::{PoolRecord, VolumeRecord};
use crate::units::Bytes;

/// What a pool has promised, and of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Promised {
    /// To containers, and to what is being made.
    pub writable: Bytes,
    /// To images, at the most.
    pub sealed: Bytes,
    /// The pool's data.
    pub total: Bytes,
}

impl Promised {
    fn is_too_much(self) -> bool {
        self.writable.saturating_add(self.sealed) > self.total
    }
}

impl Pool {
    /// What is promised, by the catalogue and, while the pool is open, by what the kernel says is in use.
    pub(crate) fn promised(
        &self,
        record: &PoolRecord,
        live: Option<&Live<'_>>,
    ) -> Result<Promised, PoolError> {
        let committed = self.catalogue().committed()?;
        let bytes =
            |blocks: crate::units::DataBlocks| blocks.to_bytes_saturating(record.block_size);
        let (used, total) = match live.map(|live| live.thin_pool().status()).transpose()? {
            Some(PoolStatus::Working(pool)) => (Some(pool.used_data), pool.total_data),
            _ => (None, plan::data_blocks(record.data_size, record.block_size)),
        };
        // The copy of the catalogue in the pool is as lasting as what is sealed.
        let mirror = live.map_or(Ok(Bytes::ZERO), |_| self.mirror_mapped(record))?;
        let sealed = committed.sealed.saturating_add(mirror);
        Ok(Promised {
            writable: committed.writable,
            sealed: used.map_or(sealed, |used| sealed.min(bytes(used))),
            total: bytes(total),
        })
    }

    /// Sets whether more may be promised than there is.
    ///
    /// # Errors
    /// [`GuardError::Overcommitted`](crate::graph::GuardError::Overcommitted) where more is promised already, and it is to be so no longer;
    /// [`ExistingError::NotOurs`](crate::graph::ExistingError::NotOurs), where others may write as they like.
    pub fn set_overcommit(&self, overcommit: bool) -> Result<(), PoolError> {
        let record = self.record()?;
        if !overcommit {
            require_own(&record)?;
        }
        self.catalogue().set_overcommit(overcommit)?;
        if overcommit {
            return self.copy_if_open();
        }
        let live = match self.host().pool_device(&record)? {
            Some(_) => Some(self.live()?),
            None => None,
        };
        let promised = self.promised(&record, live.as_ref());
        let refused = promised.and_then(|promised| self.refuse(promised));
        refused.map_err(|error| {
            let undo = self.catalogue().set_overcommit(record.overcommit);
            error.with_undo(undo.map_err(PoolError::from))
        })
    }

    fn refuse(&self, promised: Promised) -> Result<(), PoolError> {
        if !promised.is_too_much() {
            return Ok(());
        }
        Err(GuardError::Overcommitted {
            name: self.name().clone(),
            writable: promised.writable,
            sealed: promised.sealed,
            total: promised.total,
        }
        .into())
    }
}

impl Live<'_> {
    /// That the pool can keep what it has promised, `more` added to it.
    pub(crate) fn require_kept(&self, more: Bytes) -> Result<(), PoolError> {
        let pool = self.pool();
        // Read anew: it may have been set since this verb began.
        let record = pool.record()?;
        if record.overcommit {
            return Ok(());
        }
        let mut promised = pool.promised(&record, Some(self))?;
        promised.writable = promised.writable.saturating_add(more);
        pool.refuse(promised)
    }

    /// Records what a base, a layer or a snapshot has mapped, which nobody writes to from now on.
    pub(crate) fn measure(&self, volume: &VolumeRecord) -> Result<(), PoolError> {
        let device = self.pool().volume_device(volume)?;
        let mapped = device
            .filter(|_| !volume.kind.is_writable())
            .map(|device| self.pool().host().mapped(&device))
            .transpose()?
            .flatten();
        match mapped {
            Some(mapped) => Ok(self.pool().catalogue().set_mapped(volume.id, mapped)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_pool_may_be_promised_and_not_a_byte_more() {
        let promised = |writable| Promised {
            writable: Bytes::new(writable),
            sealed: Bytes::new(100),
            total: Bytes::new(1000),
        };
        assert!(!promised(900).is_too_much());
        assert!(promised(901).is_too_much());
        assert!(promised(u64::MAX).is_too_much());
    }
}
