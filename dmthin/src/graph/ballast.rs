//! The ballast: a volume full of zeros that nobody reads, let go when the pool is nearly full.
//!
//! It takes blocks of the pool, so that at the red line there is room again at once, without waiting
//! for a disk or a person. On a sparse file it takes next to no room of the host's: zeroed blocks are
//! holes there.
//!
//! Steps: A1 the intent, `filling`; A2 the volume; A3 every block written once, and flushed; A4
//! `ready`. Release: `releasing` (durable: from here it goes); the volume deleted; the row. Cut in
//! between, `pool open` releases it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::dm::{ActivateOptions, DmError, OwnUuid, UdevFlags, names};
use crate::graph::error::PoolError;
use crate::graph::existing::require_own;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::ioctl::{self, Access, Deferred, DevId};
use crate::store::{BallastRecord, BallastState};
use crate::units::Bytes;

/// Enough of a block for the pool to give it: one page.
const PAGE: [u8; 4096] = [0; 4096];

impl Pool {
    /// Makes the pool's ballast of this size, in whole blocks.
    ///
    /// # Errors
    /// [`StoreError::BallastExists`](crate::store::StoreError::BallastExists);
    /// [`GuardError::Data`](crate::graph::GuardError::Data) where the guard would not leave that much.
    pub fn make_ballast(&self, size: Bytes) -> Result<Bytes, PoolError> {
        let live = self.live()?;
        // An id of it would not be known to be ours after a cut.
        require_own(live.record())?;
        let _lock = self.locks().ballast()?;
        let block_size = live.record().block_size.to_bytes();
        let size = size.checked_round_up(block_size).unwrap_or(size);
        live.admit_bytes(size)?;
        let ballast = self.catalogue().begin_ballast(size)?;
        Step::A1.passed(self.name());
        match live.fill(&ballast) {
            Ok(()) => {
                self.catalogue().set_ballast(BallastState::Ready)?;
                Step::A4.passed(self.name());
                Ok(size)
            }
            // The id is somebody's: only the row goes.
            Err(PoolError::Dm(DmError::ThinExists { id, .. })) => {
                self.catalogue().disown_ballast()?;
                Err(self.older_catalogue(id, id))
            }
            Err(error) => Err(error.with_undo(live.release(&ballast))),
        }
    }

    /// Lets the ballast go; gives what it kept.
    ///
    /// # Errors
    /// [`StoreError::BallastNotFound`](crate::store::StoreError::BallastNotFound).
    pub fn release_ballast(&self) -> Result<Bytes, PoolError> {
        let live = self.live()?;
        let _lock = self.locks().ballast()?;
        let ballast = self.catalogue().set_ballast(BallastState::Releasing)?;
        Step::A5.passed(self.name());
        live.release(&ballast)?;
        Ok(ballast.size)
    }
}

impl Live<'_> {
    /// Steps A2 and A3.
    fn fill(&self, ballast: &BallastRecord) -> Result<(), PoolError> {
        let pool = self.thin_pool();
        pool.create_thin(ballast.thin_id)?;
        Step::A2.passed(self.pool().name());
        let uuid = OwnUuid::ballast(self.record().uuid).to_dm_uuid();
        let name = names::ballast_name(self.pool().name());
        let options = ActivateOptions {
            read_only: false,
            udev_flags: UdevFlags::INTERNAL,
        };
        let size = ballast.size.to_sectors_floor();
        let device = pool.activate_thin(&name, &uuid, ballast.thin_id, size, options)?;
        let file = File::from(ioctl::open_exclusive(device.node(), Access::ReadWrite)?);
        let io = |source| PoolError::io("write", device.node(), source);
        let block_size = self.record().block_size.to_bytes();
        let mut at = Bytes::ZERO;
        while at < ballast.size {
            file.write_all_at(&PAGE, at.get()).map_err(io)?;
            at = at.saturating_add(block_size);
        }
        file.sync_all().map_err(io)?;
        drop(file);
        pool.dm().deactivate(device.id(), Deferred::No)?;
        Step::A3.passed(self.pool().name());
        Ok(())
    }

    /// Deletes the ballast, which the catalogue has as one that is not ready.
    fn release(&self, ballast: &BallastRecord) -> Result<(), PoolError> {
        let dm = self.thin_pool().dm();
        let uuid = OwnUuid::ballast(self.record().uuid).to_dm_uuid();
        if dm.find(DevId::Uuid(&uuid))?.is_some() {
            dm.deactivate(DevId::Uuid(&uuid), Deferred::No)?;
        }
        match self.thin_pool().delete(ballast.thin_id) {
            Ok(()) | Err(DmError::NoSuchThin { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Step::A6.passed(self.pool().name());
        self.pool().catalogue().forget_ballast()?;
        Step::A7.passed(self.pool().name());
        Ok(())
    }

    /// Releases a ballast whose making or release was cut. The caller holds the whole pool.
    pub(crate) fn settle_ballast(&self) -> Result<(), PoolError> {
        match self.pool().catalogue().ballast()? {
            Some(ballast) if ballast.state != BallastState::Ready => self.release(&ballast),
            _ => Ok(()),
        }
    }
}
