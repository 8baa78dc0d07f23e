//! Data volumes: writable volumes with a name, a device and a file system of their own, which belong to no
//! container and outlive them.
//!
//! Each gets its file system by mkfs, where a container's is a snapshot of its image's: a base for each size would
//! have to be kept for ever and all would have one uuid, to save one mkfs and a few blocks (of an xfs 64 MiB, for mkfs
//! writes its log).
//!
//! V1 the intent with the name; V2 the pool has its thin device; V3 its file system is made, empty, on the
//! disk; V4 `ready` and active. Cut before V4 it is removed.

use std::path::{Path, PathBuf};

use crate::graph::create::round_up;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::report::{Change, DataVolumeReport, GrownVolume, RemovedVolume, WhoReport};
use crate::graph::step::Step;
use crate::ids::{FsType, VolumeName, WritableName};
use crate::store::{DataVolumeRecord, VolumeRecord};
use crate::units::{Bytes, NewSize};

/// What a data volume is to be.
#[derive(Debug, Clone)]
pub struct CreateVolume {
    /// Its name.
    pub name: VolumeName,
    /// Size of its device.
    pub size: Bytes,
    /// Its file system; the pool's where there is none.
    pub fs: Option<FsType>,
}

impl Pool {
    /// Makes a data volume, empty but for its file system, with its device active.
    ///
    /// # Errors
    /// [`StoreError::DataVolumeExists`](crate::store::StoreError::DataVolumeExists),
    /// [`GuardError::Data`](crate::graph::GuardError::Data) and others; [`PoolError::Fs`] where mkfs refuses the size. One that failed left
    /// nothing behind.
    pub fn create_volume(&self, new: &CreateVolume) -> Result<DataVolumeReport, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let record = live.record();
        // The pool's arguments are for the pool's file system.
        let (fs, args) = match new.fs {
            Some(fs) if fs != record.fs => (fs, &[][..]),
            _ => (record.fs, &record.mkfs_args[..]),
        };
        let size = round_up(new.size);
        let volume = self.catalogue().begin_data_volume(&new.name, fs, size)?;
        Step::V1.passed_for(self.name(), volume.id);
        let _lock = self.locks().volume(volume.id)?;
        match self.finish_volume(&live, &new.name, &volume, args) {
            Ok(()) => self.volume(&new.name),
            Err(error) => Err(error.with_undo(live.discard_volume(&volume))),
        }
    }

    fn finish_volume(
        &self,
        live: &Live<'_>,
        name: &VolumeName,
        volume: &VolumeRecord,
        mkfs_args: &[String],
    ) -> Result<(), PoolError> {
        live.require_kept(Bytes::ZERO)?;
        let volume = &live.create_empty(volume)?;
        let passed = |step: Step| step.passed_for(self.name(), volume.id);
        passed(Step::V2);
        let device = live.activate(volume, &self.device_name(&name.into()))?;
        live.make_fs(volume, &device, mkfs_args)?;
        passed(Step::V3);
        self.catalogue().set_ready(volume.id)?;
        passed(Step::V4);
        // Its content is somebody's, and nothing but the name tells whose.
        live.mirror(Flush::Yes);
        Ok(())
    }

    /// Every data volume, sorted by name.
    ///
    /// # Errors
    /// [`PoolError::Store`], [`PoolError::Dm`] or [`PoolError::Fs`] where one cannot be looked at.
    pub fn volumes(&self) -> Result<Vec<DataVolumeReport>, PoolError> {
        let records = self.catalogue().data_volumes()?;
        records
            .into_iter()
            .map(|record| self.volume_report(record))
            .collect()
    }

    /// One data volume.
    ///
    /// # Errors
    /// [`StoreError::DataVolumeNotFound`](crate::store::StoreError::DataVolumeNotFound), and as
    /// [`Pool::volumes`].
    pub fn volume(&self, name: &VolumeName) -> Result<DataVolumeReport, PoolError> {
        self.volume_report(self.catalogue().data_volume(name)?)
    }

    fn volume_report(&self, record: DataVolumeRecord) -> Result<DataVolumeReport, PoolError> {
        Ok(DataVolumeReport {
            name: record.name,
            on: self.writable_report(record.volume)?,
        })
    }

    /// As [`Pool::mount_container`], of a data volume.
    ///
    /// # Errors
    /// As of [`Pool::mount_container`].
    pub fn mount_volume(
        &self,
        name: &VolumeName,
        dir: &Path,
    ) -> Result<DataVolumeReport, PoolError> {
        self.mount_named(&name.into(), dir)?;
        self.volume(name)
    }

    /// As [`Pool::unmount_container`], of a data volume.
    ///
    /// # Errors
    /// As of [`Pool::unmount_container`].
    pub fn unmount_volume(&self, name: &VolumeName) -> Result<Vec<PathBuf>, PoolError> {
        self.unmount_named(&name.into())
    }

    /// As [`Pool::grow_container`], of a data volume.
    ///
    /// # Errors
    /// As of [`Pool::grow_container`].
    pub fn grow_volume(&self, name: &VolumeName, size: NewSize) -> Result<GrownVolume, PoolError> {
        let (change, fs_grown): (Change, bool) = self.grow_named(&name.into(), size)?;
        Ok(GrownVolume {
            change,
            fs_grown,
            volume: self.volume(name)?,
        })
    }

    /// As [`Pool::trim_container`], of a data volume.
    ///
    /// # Errors
    /// As of [`Pool::trim_container`].
    pub fn trim_volume(&self, name: &VolumeName) -> Result<Bytes, PoolError> {
        self.trim_named(&self.live()?, &name.into())
    }

    /// Who holds a data volume open or mounted.
    ///
    /// # Errors
    /// [`StoreError::DataVolumeNotFound`](crate::store::StoreError::DataVolumeNotFound), and
    /// [`PoolError::Fs`] where `/proc` or loop devices cannot be read.
    pub fn who_has_volume(&self, name: &VolumeName) -> Result<WhoReport, PoolError> {
        let volume = self.catalogue().data_volume(name)?.volume;
        self.who_holds(name.into(), &volume)
    }

    /// Removes a data volume, which nobody may be using, with its snapshots if that is wanted.
    ///
    /// # Errors
    /// [`PoolError::VolumeBusy`], [`StoreError::HasSnapshots`](crate::store::StoreError::HasSnapshots),
    /// [`StoreError::DataVolumeNotFound`](crate::store::StoreError::DataVolumeNotFound): nothing was changed. What the pool
    /// says to the delete: it stays queued.
    pub fn remove_volume(
        &self,
        name: &VolumeName,
        with_snapshots: bool,
    ) -> Result<RemovedVolume, PoolError> {
        let live = self.live()?;
        let of = WritableName::from(name);
        let (lock, record) = self.lock_writable(&of)?;
        self.require_idle(&live, &of, &record.volume)?;
        let id = record.volume.id;
        let gone = if with_snapshots {
            self.catalogue().queue_removal_with_snapshots(id)?
        } else {
            vec![self.catalogue().begin_deleting(id)?]
        };
        Step::D1.passed_for(self.name(), id);
        for volume in &gone {
            live.set_aside(volume)?;
        }
        drop(lock);
        let ids: Vec<_> = gone.iter().map(|volume| volume.id).collect();
        let handed = self.give_back(&live, &ids)?;
        Ok(RemovedVolume {
            name: name.clone(),
            volume: id,
            removed: self.is_forgotten(id)?,
            handed,
        })
    }
}
