//! A pool with its kernel device: the steps on one volume, each safe to repeat.

use std::thread;
use std::time::{Duration, Instant};

use crate::dm::{ActivateOptions, Device, DmError, OwnUuid, ThinPool, ThinStatus, UdevFlags};
use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::ids::{DmName, ThinId, VolumeKind};
use crate::ioctl::{self, Access, Deferred, DevId, DeviceInfo, Errno, IoctlError, LockGuard};
use crate::store::{PoolRecord, VolumeRecord, VolumeState};
use crate::units::{Bytes, Sectors};

/// How much of a volume is discarded by one call: the disk's other users are served in between.
const SLICE: Bytes = Bytes::from_mib(256);
/// How often an open device is looked at again: a probe of udev's may have it for a moment.
const PROBE_TRIES: u32 = 10;
/// How long to wait in between.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// How fast space is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Somebody waits for it.
    Full,
    /// In the background: a pause after each slice, as long as the slice took.
    Gentle,
}

/// What became of a removal.
#[derive(Debug)]
pub(crate) enum Removal {
    /// The volume is gone.
    Done,
    /// Somebody holds this device of it.
    Held(DeviceInfo),
}

/// The last user of a device that is to go may close it at any time, and then nothing is left to do.
fn or_gone(result: Result<(), DmError>) -> Result<(), DmError> {
    match result {
        Err(DmError::NotFound { .. }) => Ok(()),
        result => result,
    }
}

/// A pool whose device exists.
#[derive(Debug)]
pub(crate) struct Live<'a> {
    pool: &'a Pool,
    record: PoolRecord,
    thin_pool: ThinPool<'a>,
    // Shared with other verbs, so that no close runs under us; none while we hold the whole pool.
    lock: Option<LockGuard>,
}

impl<'a> Live<'a> {
    /// The pool whose device exists already.
    pub(crate) fn open(
        pool: &'a Pool,
        record: PoolRecord,
        lock: Option<LockGuard>,
    ) -> Result<Self, PoolError> {
        let thin_pool = match record.existing() {
            Some(existing) => pool.existing_thin_pool(existing)?,
            None => {
                let uuid = OwnUuid::pool(record.uuid).to_dm_uuid();
                ThinPool::open(pool.host().dm()?, &uuid)?
            }
        };
        Ok(Self {
            pool,
            record,
            thin_pool,
            lock,
        })
    }

    /// The pool whose device was just made, by who holds the whole pool.
    pub(crate) fn fresh(pool: &'a Pool, record: PoolRecord, thin_pool: ThinPool<'a>) -> Self {
        Self {
            pool,
            record,
            thin_pool,
            lock: None,
        }
    }

    pub(crate) fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// Whether a verb on volumes runs, beside others.
    pub(crate) fn is_verb(&self) -> bool {
        self.lock.is_some()
    }

    pub(crate) fn record(&self) -> &PoolRecord {
        &self.record
    }

    pub(crate) fn thin_pool(&self) -> &ThinPool<'a> {
        &self.thin_pool
    }

    /// The volume that this one is a snapshot of.
    pub(crate) fn parent(&self, volume: &VolumeRecord) -> Result<VolumeRecord, PoolError> {
        // Only the base has none, and nobody asks for the base's.
        let id = volume.parent.unwrap_or(volume.id);
        Ok(self.pool.catalogue().volume(id)?)
    }

    /// Makes `volume` a snapshot of `origin`, whose file system is frozen meanwhile if it is active.
    pub(crate) fn snapshot(
        &self,
        volume: &VolumeRecord,
        origin: &VolumeRecord,
    ) -> Result<VolumeRecord, PoolError> {
        let device = self.pool.volume_device(origin)?;
        let active = device.map(|device| DevId::Dev(device.dev));
        self.make_thin(volume, |id| {
            self.thin_pool.create_snap(id, origin.thin_id, active)
        })
    }

    /// Makes `volume` an empty thin device of the pool.
    pub(crate) fn create_empty(&self, volume: &VolumeRecord) -> Result<VolumeRecord, PoolError> {
        self.make_thin(volume, |id| self.thin_pool.create_thin(id))
    }

    /// Makes a volume's thin device. In a pool that has ids of others, one that is taken is passed
    /// over, and that the id is ours is recorded once it was made: until then it may be anybody's.
    fn make_thin(
        &self,
        volume: &VolumeRecord,
        make: impl Fn(ThinId) -> Result<(), DmError>,
    ) -> Result<VolumeRecord, PoolError> {
        let catalogue = self.pool.catalogue();
        let mut volume = volume.clone();
        loop {
            match make(volume.thin_id) {
                Err(DmError::ThinExists { .. }) if !volume.made => {
                    volume = catalogue.take_another_thin_id(volume.id)?;
                }
                Ok(()) if volume.made => return Ok(volume),
                result => {
                    result?;
                    return Ok(catalogue.set_made(volume.id)?);
                }
            }
        }
    }

    /// The volume's block device, made active if it is not.
    pub(crate) fn activate(
        &self,
        volume: &VolumeRecord,
        name: &DmName,
    ) -> Result<Device, PoolError> {
        let uuid = OwnUuid::volume(self.record.uuid, volume.kind, volume.id).to_dm_uuid();
        let udev = match volume.kind {
            // A container's node is somebody's disk, but no other rule is to look into it.
            VolumeKind::Container => UdevFlags::CONTAINER,
            VolumeKind::Base | VolumeKind::Layer => UdevFlags::INTERNAL,
        };
        let options = ActivateOptions {
            read_only: false,
            udev_flags: udev,
        };
        // Asked first: a create that meets its own uuid has made a whole device before it is
        // refused, and taking that apart again waits for grace periods (`dm-ioctl.c:dev_create`).
        if let Some(device) = self.thin_pool.dm().active(&uuid)? {
            return Ok(device);
        }
        let size = volume.size.to_sectors_floor();
        match self
            .thin_pool
            .activate_thin(name, &uuid, volume.thin_id, size, options)
        {
            Err(DmError::AlreadyActive { .. }) => Ok(self.thin_pool.dm().device(&uuid)?),
            result => Ok(result?),
        }
    }

    /// The volume's block device for work of our own.
    pub(crate) fn activate_internal(&self, volume: &VolumeRecord) -> Result<Device, PoolError> {
        self.activate(volume, &self.pool.internal_name(volume))
    }

    /// Whether the pool has the volume. The kernel has no question for that: the volume is activated,
    /// under its own uuid, so that a cut here leaves nothing that is not known.
    pub(crate) fn is_in_pool(&self, volume: &VolumeRecord) -> Result<bool, PoolError> {
        let had_one = self.pool.volume_device(volume)?;
        match self.activate_internal(volume) {
            Err(PoolError::Dm(DmError::NoSuchThin { .. })) => Ok(false),
            Err(error) => Err(error),
            Ok(_) if had_one.is_some_and(|device| device.active_table) => Ok(true),
            Ok(_) => self.deactivate(volume).map(|()| true),
        }
    }

    /// Takes the volume's block device away, if there is one.
    pub(crate) fn deactivate(&self, volume: &VolumeRecord) -> Result<(), PoolError> {
        if let Some(device) = self.pool.volume_device(volume)? {
            self.thin_pool
                .dm()
                .deactivate(DevId::Dev(device.dev), Deferred::No)?;
        }
        Ok(())
    }

    /// Whether somebody has the volume's device open, or the kernel is about to take it away.
    pub(crate) fn is_open(&self, volume: &VolumeRecord) -> Result<bool, PoolError> {
        let device = self.pool.volume_device(volume)?;
        Ok(device.is_some_and(|device| device.open_count > 0 || device.deferred_remove))
    }

    /// Takes away the device of a volume that is `deleting`: at once, or when its last user closes
    /// it. Its name is free at once either way. Gives the device where it stays for now.
    pub(crate) fn let_go(&self, volume: &VolumeRecord) -> Result<Option<DeviceInfo>, PoolError> {
        let Some(device) = self.pool.volume_device(volume)? else {
            return Ok(None);
        };
        let dm = self.thin_pool.dm();
        let name = self.pool.internal_name(volume);
        if device.open_count > 0 && device.name != name {
            or_gone(dm.rename(&device.name, &name))?;
        }
        if device.open_count == 0 || !device.deferred_remove {
            let uuid = OwnUuid::volume(self.record.uuid, volume.kind, volume.id).to_dm_uuid();
            or_gone(dm.deactivate(DevId::Uuid(&uuid), Deferred::Yes).map(drop))?;
        }
        self.pool.volume_device(volume)
    }

    /// Frees the name of the device of a volume that is `deleting`. One that nobody has open is left to
    /// the queue as it is, for taking it away waits for grace periods of the kernel's; else as
    /// [`let_go`](Self::let_go).
    pub(crate) fn set_aside(&self, volume: &VolumeRecord) -> Result<Option<DeviceInfo>, PoolError> {
        let Some(device) = self.pool.volume_device(volume)? else {
            return Ok(None);
        };
        if device.open_count > 0 {
            return self.let_go(volume);
        }
        let name = self.pool.internal_name(volume);
        if device.name != name {
            or_gone(self.thin_pool.dm().rename(&device.name, &name))?;
        }
        Ok(None)
    }

    /// Makes the device of a volume that was `deleting` a container's again: it stays when its last user
    /// closes it.
    pub(crate) fn take_back(&self, volume: &VolumeRecord, name: &DmName) -> Result<(), PoolError> {
        let Some(device) = self.pool.volume_device(volume)? else {
            return Ok(());
        };
        let dm = self.thin_pool.dm();
        or_gone(dm.keep(DevId::Dev(device.dev)))?;
        if device.name != *name {
            or_gone(dm.rename(&device.name, name))?;
        }
        Ok(())
    }

    /// Removes a volume that is `deleting`, unless somebody holds its device: then the kernel is
    /// told to take that away when it is let go, and the rest is left for later.
    pub(crate) fn remove(&self, volume: &VolumeRecord, pace: Pace) -> Result<Removal, PoolError> {
        let mut tries = match pace {
            // What has a claim on it is no probe of udev's, and stays.
            Pace::Full if !self.is_claimed(volume)? => PROBE_TRIES,
            Pace::Full | Pace::Gentle => 1,
        };
        loop {
            if !self.is_open(volume)? {
                match self.delete(volume, pace) {
                    // Somebody opened it in between.
                    Err(error) if error.code() == ErrorCode::Busy && tries > 0 => {}
                    result => return result.map(|()| Removal::Done),
                }
            }
            match self.let_go(volume)? {
                Some(device) if tries == 0 => return Ok(Removal::Held(device)),
                _ => {}
            }
            tries = tries.saturating_sub(1);
            thread::sleep(PROBE_PAUSE);
        }
    }

    /// Whether a mount, a dm table or the like claims the volume's device for itself.
    fn is_claimed(&self, volume: &VolumeRecord) -> Result<bool, PoolError> {
        let device = self.pool.volume_device(volume)?;
        let Some(device) = device.filter(|device| device.open_count > 0) else {
            return Ok(false);
        };
        let Some(node) = self.pool.host().node_of(&device)? else {
            return Ok(false);
        };
        match ioctl::open_exclusive(&node, Access::ReadOnly) {
            Err(IoctlError::Busy { .. }) => Ok(true),
            // One that is gone, or cannot be opened, is met again by who removes it.
            _ => Ok(false),
        }
    }

    /// Gives the space of a volume that is `deleting` back to what lies below the pool, then
    /// deletes it from the pool, then from the catalogue. Repeated after a cut it goes on.
    fn delete(&self, volume: &VolumeRecord, pace: Pace) -> Result<(), PoolError> {
        // In a pool that has ids of others, this one may be theirs.
        if !volume.made {
            return Ok(self.pool.catalogue().forget_volume(volume.id)?);
        }
        self.pool.catalogue().make_removal_final(volume.id)?;
        match self.discard_all(volume, pace) {
            // The id is not in the pool: only the row is left.
            Err(PoolError::Dm(DmError::NoSuchThin { .. })) => {}
            result => {
                result?;
                self.deactivate(volume)?;
                match self.thin_pool.delete(volume.thin_id) {
                    Ok(()) | Err(DmError::NoSuchThin { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(self.pool.catalogue().forget_volume(volume.id)?)
    }

    /// Discards every block of a volume. Deleting a thin device discards nothing below the pool
    /// (`drivers/md/dm-thin-metadata.c:__delete_device`), so that this goes first.
    fn discard_all(&self, volume: &VolumeRecord, pace: Pace) -> Result<(), PoolError> {
        let name = match self.pool.volume_device(volume)? {
            Some(device) => device.name,
            None => self.pool.internal_name(volume),
        };
        let device = self.activate(volume, &name)?;
        // Somebody may have suspended it, and a discard would wait for that somebody.
        if self
            .pool
            .volume_device(volume)?
            .is_some_and(|device| device.suspended)
        {
            self.thin_pool.dm().resume(device.id())?;
        }
        match self.thin_pool.thin_status(device.id())? {
            ThinStatus::Working { mapped, .. } if mapped > Sectors::ZERO => {}
            _ => return Ok(()),
        }
        let block = ioctl::open_exclusive(device.node(), Access::ReadWrite)?;
        let size = ioctl::size(&block)?;
        let block_size = self.record.block_size.to_bytes();
        // The kernel discards whole blocks only: a slice must not end within one.
        let slice = SLICE.checked_round_up(block_size).unwrap_or(size);
        let mut at = Bytes::ZERO;
        while let Some(left) = size.checked_sub(at).filter(|left| *left > Bytes::ZERO) {
            let started = Instant::now();
            match ioctl::discard(&block, at, left.min(slice)) {
                // A pool that ignores discards gives nothing back; the delete still frees its blocks.
                Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => return Ok(()),
                result => result?,
            }
            at = at.saturating_add(slice);
            if pace == Pace::Gentle {
                thread::sleep(started.elapsed());
            }
        }
        Ok(())
    }

    /// As [`discard_volume`](Self::discard_volume), for a layer that no lock is held of: a run of
    /// the queue must not meet it half-way.
    pub(crate) fn discard_layer(&self, volume: &VolumeRecord) -> Result<(), PoolError> {
        let _lock = self.pool.locks().volume(volume.id)?;
        self.discard_volume(volume)
    }

    /// Undoes a volume that is being made: marks it `deleting`, then removes it.
    pub(crate) fn discard_volume(&self, volume: &VolumeRecord) -> Result<(), PoolError> {
        let catalogue = self.pool.catalogue();
        let mut volume = catalogue.volume(volume.id)?;
        if volume.state != VolumeState::Deleting {
            volume = catalogue.begin_deleting(volume.id)?;
        }
        self.delete(&volume, Pace::Full)
    }
}
