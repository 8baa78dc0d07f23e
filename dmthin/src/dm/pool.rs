//! A thin pool: its device, its messages, its status.
//!
//! A message that the kernel obeyed is committed at once, but the result of that commit is thrown
//! away (`drivers/md/dm-thin.c:pool_message`): the call says 0 and the pool may be read-only with
//! the change lost. So after each message the status is read back, without a flush, and the
//! message counts only when the pool still takes changes and wants no check. Threads do both in
//! [turns](super::turns).

use crate::dm::device::{ActivateOptions, Device, Dm};
use crate::dm::error::DmError;
use crate::dm::line::LineError;
use crate::dm::status::{PoolMode, PoolStatus, WorkingPool};
use crate::dm::table::ThinPoolTable;
use crate::dm::turns::Turns;
use crate::ids::{DmName, DmUuid, ThinId, TransactionId};
use crate::ioctl::{
    Deferred, DevId, DeviceInfo, Errno, EventNr, Flush, IoctlError, RemovedWhen, SuspendFlags,
    TargetLine,
};
use crate::units::{MetaBlocks, Sectors};

/// An active pool.
#[derive(Debug)]
pub struct ThinPool<'a> {
    dm: &'a Dm,
    device: Device,
    turns: Turns,
}

impl<'a> ThinPool<'a> {
    /// Activates a pool of this size.
    ///
    /// The kernel formats a metadata device whose first block is zero.
    ///
    /// # Errors
    /// As of [`Dm::activate`].
    pub fn activate(
        dm: &'a Dm,
        name: &DmName,
        uuid: &DmUuid,
        size: Sectors,
        table: &ThinPoolTable,
        options: ActivateOptions,
    ) -> Result<Self, DmError> {
        let device = dm.activate(name, uuid, &[pool_line(size, table)], options)?;
        Ok(Self::on(dm, device))
    }

    /// The pool that is active under this uuid.
    ///
    /// # Errors
    /// [`DmError::NotFound`], [`DmError::WrongTarget`], [`DmError::Ioctl`].
    pub fn open(dm: &'a Dm, uuid: &DmUuid) -> Result<Self, DmError> {
        Self::of(dm, dm.device(uuid)?)
    }

    /// The pool that a device is, whoever made it.
    ///
    /// # Errors
    /// [`DmError::WrongTarget`], [`DmError::Ioctl`].
    pub fn of(dm: &'a Dm, device: Device) -> Result<Self, DmError> {
        let (_, lines) = dm.control().table(device.id())?;
        only_line(device.name(), ThinPoolTable::TARGET, lines)?;
        Ok(Self::on(dm, device))
    }

    fn on(dm: &'a Dm, device: Device) -> Self {
        let turns = dm.turns(&device);
        Self { dm, device, turns }
    }

    /// The pool's device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device mapper it is in.
    #[must_use]
    pub fn dm(&self) -> &'a Dm {
        self.dm
    }

    /// The pool's size and table.
    ///
    /// # Errors
    /// [`DmError::Line`], [`DmError::WrongTarget`], [`DmError::Ioctl`].
    pub fn table(&self) -> Result<(Sectors, ThinPoolTable), DmError> {
        let (_, lines) = self.dm.control().table(self.device.id())?;
        let line = only_line(self.device.name(), ThinPoolTable::TARGET, lines)?;
        let table = ThinPoolTable::parse(&line.params).map_err(|cause| self.line_error(cause))?;
        Ok((line.len, table))
    }

    /// What the pool says of itself now, nothing committed for it.
    ///
    /// # Errors
    /// [`DmError::Line`], [`DmError::WrongTarget`], [`DmError::Ioctl`].
    pub fn status(&self) -> Result<PoolStatus, DmError> {
        self.status_and_event().map(|(status, _)| status)
    }

    /// The status with the event number it belongs to, to wait for the next one.
    ///
    /// # Errors
    /// As of [`ThinPool::status`].
    pub fn status_and_event(&self) -> Result<(PoolStatus, EventNr), DmError> {
        let _turn = self.turns.take();
        self.status_in_turn()
    }

    fn status_in_turn(&self) -> Result<(PoolStatus, EventNr), DmError> {
        let id = self.device.id();
        let (info, lines) = self.dm.control().table_status(id, Flush::No)?;
        let line = only_line(self.device.name(), ThinPoolTable::TARGET, lines)?;
        let status = PoolStatus::parse(&line.params).map_err(|cause| self.line_error(cause))?;
        Ok((status, info.event_nr))
    }

    fn line_error(&self, cause: LineError) -> DmError {
        DmError::Line {
            device: self.device.name().to_string(),
            cause,
        }
    }

    /// Gives the pool another size or table without its volumes going away.
    ///
    /// Queued input and output is not waited for: in a full pool it waits for this very call.
    ///
    /// # Errors
    /// As of [`Dm::reload`].
    pub fn reload(&self, size: Sectors, table: &ThinPoolTable) -> Result<DeviceInfo, DmError> {
        let how = SuspendFlags {
            noflush: true,
            skip_lockfs: true,
        };
        let lines = [pool_line(size, table)];
        self.dm
            .reload(self.device.id(), &lines, table.features.read_only, how)
    }

    /// Removes the pool's device; its volumes must not be active.
    ///
    /// # Errors
    /// As of [`Dm::deactivate`].
    pub fn deactivate(self) -> Result<RemovedWhen, DmError> {
        self.dm.deactivate(self.device.id(), Deferred::No)
    }

    /// Makes an empty volume.
    ///
    /// # Errors
    /// [`DmError::ThinExists`], [`DmError::PoolDegraded`], [`DmError::Ioctl`].
    pub fn create_thin(&self, id: ThinId) -> Result<(), DmError> {
        self.message(&format!("create_thin {id}"), |errno| match errno {
            Errno::EXIST => Some(self.thin_exists(id)),
            _ => None,
        })
        .map(drop)
    }

    /// Makes a volume that begins as another one is now.
    ///
    /// An origin that is active must be suspended meanwhile, or the snapshot may lack writes
    /// that were acknowledged; the kernel does not check. Give its device and this is done, and
    /// undone whatever happens.
    ///
    /// # Errors
    /// [`DmError::ThinExists`], [`DmError::NoSuchThin`] for the origin,
    /// [`DmError::PoolDegraded`], [`DmError::Ioctl`], [`DmError::Rollback`] where the origin
    /// cannot be resumed after another failure. Where only that fails the snapshot was made and
    /// the error is the resume's.
    pub fn create_snap(
        &self,
        id: ThinId,
        origin: ThinId,
        active: Option<DevId<'_>>,
    ) -> Result<(), DmError> {
        self.create_snap_of(id, origin, active, SuspendFlags::default())
    }

    /// As [`create_snap`](Self::create_snap), the origin suspended as `how` says.
    ///
    /// # Errors
    /// As of [`create_snap`](Self::create_snap).
    pub fn create_snap_of(
        &self,
        id: ThinId,
        origin: ThinId,
        active: Option<DevId<'_>>,
        how: SuspendFlags,
    ) -> Result<(), DmError> {
        let suspended = active
            .map(|device| self.dm.suspend(device, how))
            .transpose()?;
        let made = self
            .message(&format!("create_snap {id} {origin}"), |errno| match errno {
                Errno::EXIST => Some(self.thin_exists(id)),
                Errno::NODATA => Some(self.no_such_thin(origin)),
                _ => None,
            })
            .map(drop);
        let resumed = match suspended {
            Some(suspended) => suspended.resume().map(drop),
            None => Ok(()),
        };
        match made {
            Ok(()) => resumed,
            Err(cause) => Err(cause.after_undo(resumed)),
        }
    }

    /// Deletes a volume; blocks that no other shares become free in the pool. They are not
    /// discarded on the data device: discard the volume before, where that is wanted.
    ///
    /// # Errors
    /// [`DmError::NoSuchThin`], [`DmError::ThinInUse`], [`DmError::PoolDegraded`],
    /// [`DmError::Ioctl`].
    pub fn delete(&self, id: ThinId) -> Result<(), DmError> {
        self.message(&format!("delete {id}"), |errno| match errno {
            Errno::NODATA => Some(self.no_such_thin(id)),
            Errno::BUSY => Some(DmError::ThinInUse {
                device: self.device.name().clone(),
                id,
            }),
            _ => None,
        })
        .map(drop)
    }

    /// Moves the pool's transaction id on, from the one it must have now.
    ///
    /// # Errors
    /// [`DmError::TransactionMismatch`], [`DmError::PoolDegraded`], [`DmError::Ioctl`].
    pub fn set_transaction_id(
        &self,
        from: TransactionId,
        to: TransactionId,
    ) -> Result<(), DmError> {
        let text = format!("set_transaction_id {from} {to}");
        let pool = match self.message(&text, |_| None) {
            Ok(pool) => pool,
            Err(error) if error.errno() == Some(Errno::INVAL) => {
                return Err(match self.status()? {
                    PoolStatus::Working(pool) if pool.transaction_id != from => {
                        self.transaction_mismatch(from, pool.transaction_id)
                    }
                    _ => error,
                });
            }
            Err(error) => return Err(error),
        };
        if pool.transaction_id != to {
            return Err(self.transaction_mismatch(to, pool.transaction_id));
        }
        Ok(())
    }

    fn transaction_mismatch(&self, expected: TransactionId, found: TransactionId) -> DmError {
        DmError::TransactionMismatch {
            device: self.device.name().clone(),
            expected,
            found,
        }
    }

    /// Holds the metadata as they are now for a reader; gives the block of their superblock, and the
    /// pool's status with them.
    ///
    /// # Errors
    /// [`DmError::MetadataSnapHeld`], [`DmError::PoolDegraded`], [`DmError::Ioctl`].
    pub fn reserve_metadata_snap(&self) -> Result<(MetaBlocks, Box<WorkingPool>), DmError> {
        const TEXT: &str = "reserve_metadata_snap";
        let pool = self.message(TEXT, |errno| match errno {
            Errno::BUSY => Some(DmError::MetadataSnapHeld {
                device: self.device.name().clone(),
            }),
            _ => None,
        })?;
        match pool.held_root {
            Some(block) => Ok((block, pool)),
            None => Err(self.no_metadata_snap()),
        }
    }

    /// Lets the held metadata go.
    ///
    /// # Errors
    /// [`DmError::NoMetadataSnap`], [`DmError::PoolDegraded`], [`DmError::Ioctl`].
    pub fn release_metadata_snap(&self) -> Result<(), DmError> {
        const TEXT: &str = "release_metadata_snap";
        self.message(TEXT, |errno| match errno {
            Errno::INVAL => Some(self.no_metadata_snap()),
            _ => None,
        })
        .map(drop)
    }

    fn no_metadata_snap(&self) -> DmError {
        DmError::NoMetadataSnap {
            device: self.device.name().clone(),
        }
    }

    fn thin_exists(&self, id: ThinId) -> DmError {
        DmError::ThinExists {
            device: self.device.name().clone(),
            id,
        }
    }

    pub(super) fn no_such_thin(&self, id: ThinId) -> DmError {
        DmError::NoSuchThin {
            device: self.device.name().clone(),
            id,
        }
    }

    /// Sends a message and reads the status back; `name` gives an errno its variant.
    fn message(
        &self,
        text: &str,
        name: impl FnOnce(Errno) -> Option<DmError>,
    ) -> Result<Box<WorkingPool>, DmError> {
        let _turn = self.turns.take();
        let status = || self.status_in_turn().map(|(status, _)| status);
        let sent = self
            .dm
            .control()
            .message(self.device.id(), Sectors::ZERO, text);
        match sent {
            Ok(_) => self.healthy(text, status()?),
            Err(IoctlError::Dm {
                errno: Errno::OPNOTSUPP,
                ..
            }) => Err(DmError::PoolDegraded {
                device: self.device.name().clone(),
                message: text.to_owned(),
                status: Box::new(status()?),
            }),
            Err(error) => Err(error.errno().and_then(name).unwrap_or(error.into())),
        }
    }

    fn healthy(&self, text: &str, status: PoolStatus) -> Result<Box<WorkingPool>, DmError> {
        match status {
            // A pool without free data blocks still commits, or nothing could be deleted.
            PoolStatus::Working(pool) if pool.mode != PoolMode::Ro && !pool.needs_check => Ok(pool),
            status => Err(DmError::PoolDegraded {
                device: self.device.name().clone(),
                message: text.to_owned(),
                status: Box::new(status),
            }),
        }
    }
}

fn pool_line(size: Sectors, table: &ThinPoolTable) -> TargetLine {
    TargetLine {
        start: Sectors::ZERO,
        len: size,
        kind: ThinPoolTable::TARGET.to_owned(),
        params: table.to_string(),
    }
}

/// The one line of a device that has one target of this kind.
pub(super) fn only_line(
    device: &DmName,
    expected: &'static str,
    lines: Vec<TargetLine>,
) -> Result<TargetLine, DmError> {
    match <[TargetLine; 1]>::try_from(lines) {
        Ok([line]) if line.kind == expected => Ok(line),
        found => {
            let lines = found.map_or_else(|lines| lines, Vec::from);
            let kinds: Vec<_> = lines.iter().map(|line| line.kind.as_str()).collect();
            Err(DmError::WrongTarget {
                device: device.to_string(),
                expected,
                found: if kinds.is_empty() {
                    "no table".to_owned()
                } else {
                    kinds.join(", ")
                },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_of_the_right_kind_will_do() {
        let device = DmName::new("a").unwrap();
        let line = |kind: &str| TargetLine {
            start: Sectors::ZERO,
            len: Sectors::new(8),
            kind: kind.to_owned(),
            params: String::new(),
        };
        let found = |kinds: &[&str]| {
            let lines = kinds.iter().map(|kind| line(kind)).collect();
            match only_line(&device, "thin", lines) {
                Ok(line) => line.kind,
                Err(DmError::WrongTarget { found, .. }) => format!("not {found}"),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(found(&["thin"]), "thin");
        assert_eq!(found(&[]), "not no table");
        assert_eq!(found(&["linear"]), "not linear");
        assert_eq!(found(&["thin", "thin"]), "not thin, thin");
    }
}
