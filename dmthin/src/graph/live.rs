//! A pool with its kernel device: the steps on one volume, each safe to repeat.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use crate::dm::{ActivateOptions, Device, DmError, OwnUuid, ThinPool, ThinStatus, UdevFlags};
use crate::fs;
use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::ids::{DevNo, DmName, ThinId, VolumeKind};
use crate::ioctl::{
    self, Access, Deferred, DevId, DeviceInfo, Errno, IoctlError, LockGuard, SuspendFlags,
};
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

/// Whether a file system in use is frozen for the moment that a snapshot of it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// All that was written is in the snapshot, and its file system is clean. Who writes waits.
    Yes,
    /// Nobody waits. Of what is written meanwhile some may be missing.
    No,
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
    ///
    /// While it is, its writers wait: nothing is written there but what the kernel is asked for, to
    /// no log either, which might lie in that very file system.
    pub(crate) fn snapshot(
        &self,
        volume: &VolumeRecord,
        origin: &VolumeRecord,
    ) -> Result<VolumeRecord, PoolError> {
        let device = self.pool.volume_device(origin)?;
        if let Some(device) = &device {
            self.write_back(device.dev)?;
        }
        let active = device.map(|device| DevId::Dev(device.dev));
        self.make_thin(volume, |id| {
            self.thin_pool.create_snap(id, origin.thin_id, active)
        })
    }

    /// Has what is dirty written where a device is mounted: freezing does the same while its writers wait
    /// (`fs/super.c:freeze_super`). Twice, for the first time may take long and leave as much as is
    /// written meanwhile.
    fn write_back(&self, dev: DevNo) -> Result<(), PoolError> {
        let root = fs::mounts_of(dev)?.iter().find_map(fs::open_mount);
        for _ in 0..2 {
            if let Some(root) = &root
                && let Err(errno) = rustix::fs::syncfs(root)
            {
                // A write that failed before is its writer's to be told; the freeze tells of its own.
                tracing::warn!(%dev, %errno, "not all was written back before it is frozen");
            }
        }
        Ok(())
    }

    /// As [`snapshot`](Self::snapshot), frozen or not. What is not frozen is as a power cut would leave it after
    /// everything that was written before was synced.
    pub(crate) fn snapshot_as(
        &self,
        volume: &VolumeRecord,
        origin: &VolumeRecord,
        freeze: Freeze,
    ) -> Result<VolumeRecord, PoolError> {
        if freeze == Freeze::Yes {
            return self.snapshot(volume, origin);
        }
        let how = SuspendFlags {
            skip_lockfs: true,
            ..SuspendFlags::default()
        };
        let device = self.pool.volume_device(origin)?;
        if let Some(device) = &device {
            // Nobody waits for that but us.
            self.write_back(device.dev)?;
        }
        let active = device.map(|device| DevId::Dev(device.dev));
        self.make_thin(volume, |id| {
            self.thin_pool
                .create_snap_of(id, origin.thin_id, active, how)
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
                // It holds somebody's data: undoing this must not delete it.
                Err(DmError::ThinExists { id, .. }) => {
                    catalogue.disown(volume.id)?;
                    return Err(self.pool.older_catalogue(id, id));
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
        self.activate_as(volume, name, false)
    }

    /// The volume's block device for reading, and nothing else.
    pub(crate) fn activate_to_read(&self, volume: &VolumeRecord) -> Result<Device, PoolError> {
        self.activate_as(volume, &self.pool.internal_name(volume), true)
    }

    fn activate_as(
        &self,
        volume: &VolumeRecord,
        name: &DmName,
        read_only: bool,
    ) -> Result<Device, PoolError> {
        let uuid = OwnUuid::volume(self.record.uuid, volume.kind, volume.id).to_dm_uuid();
        let udev = match volume.kind {
            // Its node is somebody's disk, but no other rule is to look into it.
            VolumeKind::Container | VolumeKind::Data => UdevFlags::CONTAINER,
            VolumeKind::Base | VolumeKind::Layer | VolumeKind::Snapshot => UdevFlags::INTERNAL,
        };
        let options = ActivateOptions {
            read_only,
            udev_flags: udev,
        };
        // Asked first: a create that meets its own uuid has made a whole device before it is
        // refused, and taking that apart again waits for grace periods (`dm-ioctl.c:dev_create`).
        if let Some(device) = self.thin_pool.dm().active(&uuid)? {
            let found = self.pool.volume_device(volume)?;
            if read_only || found.is_none_or(|found| !found.read_only) {
                return Ok(device);
            }
            // A reader left it that was killed; whoever is to write has the volume's lock by now.
            self.deactivate(volume)?;
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
            or_gone(dm.rename(&device, &name))?;
        }
        if device.open_count == 0 || !device.deferred_remove {
            let uuid = OwnUuid::volume(self.record.uuid, volume.kind, volume.id).to_dm_uuid();
            or_gone(dm.deactivate(DevId::Uuid(&uuid), Deferred::Yes).map(drop))?;
        }
        Step::D2.passed_for(self.pool.name(), volume.id);
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
            or_gone(self.thin_pool.dm().rename(&device, &name))?;
        }
        Step::D2.passed_for(self.pool.name(), volume.id);
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
            or_gone(dm.rename(&device, name))?;
        }
        Step::Q1.passed_for(self.pool.name(), volume.id);
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
            return self.forget(volume);
        }
        let passed = |step: Step| step.passed_for(self.pool.name(), volume.id);
        self.pool.catalogue().make_removal_final(volume.id)?;
        passed(Step::D3);
        // Else a catalogue made of the copy could have a container half of which is gone. Not flushed: the kernel
        // flushes the data before it commits that a block is unmapped
        // (`drivers/md/dm-thin.c:metadata_pre_commit_callback`).
        self.mirror(Flush::No);
        match self.discard_all(volume, pace) {
            // The id is not in the pool: only the row is left.
            Err(PoolError::Dm(DmError::NoSuchThin { .. })) => {}
            result => {
                result?;
                passed(Step::D4);
                self.deactivate(volume)?;
                passed(Step::D5);
                match self.thin_pool.delete(volume.thin_id) {
                    Ok(()) | Err(DmError::NoSuchThin { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                passed(Step::D6);
            }
        }
        self.forget(volume)
    }

    /// Removes a snapshot that has nothing alone, as neither it nor its origin was written to: there is
    /// nothing to be discarded.
    pub(crate) fn delete_shared(&self, volume: &VolumeRecord) -> Result<(), PoolError> {
        let passed = |step: Step| step.passed_for(self.pool.name(), volume.id);
        self.pool.catalogue().begin_deleting(volume.id)?;
        passed(Step::D1);
        self.deactivate(volume)?;
        passed(Step::D5);
        self.thin_pool.delete(volume.thin_id)?;
        passed(Step::D6);
        self.forget(volume)
    }

    fn forget(&self, volume: &VolumeRecord) -> Result<(), PoolError> {
        self.pool.catalogue().forget_volume(volume.id)?;
        if volume.kind == VolumeKind::Layer
            && let Err(error) = self.pool.drop_split(volume.id)
        {
            // The layer is gone all the same; `gc` finds what is left.
            tracing::warn!(%error, "the record of a removed layer stays");
        }
        Step::D7.passed_for(self.pool.name(), volume.id);
        Ok(())
    }

    /// Discards what a volume may have alone. Deleting a thin device discards nothing below the pool
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
        let mapped = match self.thin_pool.thin_status(device.id())? {
            ThinStatus::Working { mapped, .. } if mapped > Sectors::ZERO => mapped,
            _ => return Ok(()),
        };
        let block = File::from(ioctl::open_exclusive(device.node(), Access::ReadWrite)?);
        let size = ioctl::size(&block)?;
        let block_size = self.record.block_size.to_bytes();
        // The kernel discards whole blocks only: a slice must not end within one.
        let slice = SLICE.checked_round_up(block_size).unwrap_or(size);
        // From here on nobody can mount it.
        let mapped = mapped.to_bytes_saturating();
        for part in self.parts_to_discard(volume, &device, &block, mapped, size) {
            let mut done = Bytes::ZERO;
            while let Some(left) = part
                .len
                .checked_sub(done)
                .filter(|left| *left > Bytes::ZERO)
            {
                let started = Instant::now();
                let at = part.begin.saturating_add(done);
                match ioctl::discard(&block, at, left.min(slice)) {
                    // A pool that ignores discards gives nothing back; the delete still frees its blocks.
                    Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => return Ok(()),
                    // The device below does not take it, which must not keep what is to go for ever.
                    // Where the pool itself does not, the delete tells.
                    Err(error) if matches!(error.errno(), Some(Errno::IO | Errno::REMOTEIO)) => {
                        tracing::warn!(volume = %volume.id, %error, "its blocks are not discarded below the pool");
                        return Ok(());
                    }
                    result => result?,
                }
                done = done.saturating_add(slice);
                if pace == Pace::Gentle {
                    thread::sleep(started.elapsed());
                }
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
            Step::D1.passed_for(self.pool.name(), volume.id);
        }
        self.delete(&volume, Pace::Full)
    }
}
