//! What containers and data volumes have in common: a name, a device that is handed out, a mount.

use std::path::{Path, PathBuf};

use crate::dm::names;
use crate::fs::{self, DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::WritableReport;
use crate::graph::step::Step;
use crate::ids::{DevNo, DmName, VolumeId, WritableName};
use crate::ioctl::LockGuard;
use crate::store::{VolumeRecord, VolumeState, WritableRecord};

impl Pool {
    /// The dm name of the device of a container or data volume.
    pub(crate) fn device_name(&self, name: &WritableName) -> DmName {
        match name {
            WritableName::Container(name) => names::container_name(self.name(), name),
            WritableName::Data(name) => names::volume_name(self.name(), name),
        }
    }

    /// What a name stands for, as it is under its volume's lock.
    pub(crate) fn lock_named<T>(
        &self,
        find: impl Fn() -> Result<T, PoolError>,
        volume: impl Fn(&T) -> VolumeId,
    ) -> Result<(LockGuard, T), PoolError> {
        loop {
            let id = volume(&find()?);
            let lock = self.locks().volume(id)?;
            // Who had the lock may have removed it, rolled it back, or somebody made another of its name.
            let record = find()?;
            if volume(&record) == id {
                return Ok((lock, record));
            }
        }
    }

    /// A container or data volume as it is under its lock.
    pub(crate) fn lock_writable(
        &self,
        name: &WritableName,
    ) -> Result<(LockGuard, WritableRecord), PoolError> {
        let find = || Ok(self.catalogue().writable(name)?);
        self.lock_named(find, |record| record.volume.id)
    }

    /// That a container or data volume is whole.
    pub(crate) fn require_ready(
        &self,
        name: impl Into<WritableName>,
        volume: &VolumeRecord,
    ) -> Result<(), PoolError> {
        if volume.state == VolumeState::Ready {
            return Ok(());
        }
        let pool = self.name().clone();
        Err(match name.into() {
            WritableName::Container(name) => PoolError::ContainerHalfMade { name, pool },
            WritableName::Data(name) => PoolError::VolumeHalfMade { name, pool },
        })
    }

    /// A volume as it is now, with what the kernel says of its device where it has one.
    pub(crate) fn writable_report(
        &self,
        volume: VolumeRecord,
    ) -> Result<WritableReport, PoolError> {
        let device = self.volume_device(&volume)?;
        let (mapped, node, mounts) = match &device {
            None => (None, None, Vec::new()),
            Some(device) => (
                self.host().mapped(device)?,
                self.host().node_of(device)?,
                self.mounts(device.dev)?,
            ),
        };
        Ok(WritableReport {
            state: volume.state,
            volume: volume.id,
            thin_id: volume.thin_id,
            size: volume.size,
            growing_to: volume.growing_to,
            mapped,
            fs: volume.fs,
            fs_uuid: volume.fs_uuid,
            created_at: volume.created_at.to_unix(),
            device: node,
            devno: device.map(|device| device.dev),
            mounts,
        })
    }

    pub(crate) fn mounts(&self, dev: DevNo) -> Result<Vec<PathBuf>, PoolError> {
        Ok(fs::mounts_of(dev)?
            .into_iter()
            .map(|mount| mount.target)
            .collect())
    }

    /// Mounts a container or data volume on a directory, with `discard`, its device made active if it is
    /// not.
    pub(crate) fn mount_named(&self, name: &WritableName, dir: &Path) -> Result<(), PoolError> {
        let live = self.live()?;
        let (_lock, record) = self.lock_writable(name)?;
        self.require_ready(name, &record.volume)?;
        if !dir.is_dir() {
            return Err(PoolError::NotADirectory {
                path: dir.to_owned(),
            });
        }
        let device = live.activate(&record.volume, &self.device_name(name))?;
        let passed = |step: Step| step.passed_for(self.name(), record.volume.id);
        passed(Step::W1);
        let mounts = self.mounts(device.dev())?;
        if !mounts.is_empty() || live.has_bare_user(device.dev(), device.node())? {
            return Err(PoolError::in_use(name, mounts, 1));
        }
        let options = MountOptions {
            discard: true,
            ..MountOptions::default()
        };
        DetachedMount::new(record.volume.fs, device.node(), &options)?.attach(dir)?;
        passed(Step::W2);
        if !record.volume.active {
            // An older version was cut before it said so.
            self.catalogue().set_active(record.volume.id, true)?;
        }
        Ok(())
    }

    /// Unmounts a container or data volume from wherever it is mounted; its device stays. Gives the
    /// places.
    pub(crate) fn unmount_named(&self, name: &WritableName) -> Result<Vec<PathBuf>, PoolError> {
        let (_lock, record) = self.lock_writable(name)?;
        let Some(device) = self.volume_device(&record.volume)? else {
            return Ok(Vec::new());
        };
        self.unmount_all(device.dev)
    }

    /// Unmounts a device wherever it is mounted; gives the places.
    pub(crate) fn unmount_all(&self, dev: DevNo) -> Result<Vec<PathBuf>, PoolError> {
        let mounts = self.mounts(dev)?;
        // The last mount made is the first to go: an earlier one may lie below it.
        for mount in mounts.iter().rev() {
            fs::unmount(mount)?;
        }
        Ok(mounts)
    }

    /// That nobody uses a container or data volume, or has its device suspended. The caller has its lock.
    pub(crate) fn require_idle(
        &self,
        live: &Live<'_>,
        name: &WritableName,
        volume: &VolumeRecord,
    ) -> Result<(), PoolError> {
        self.require_running(name, volume)?;
        match live.user_of(volume)? {
            None => Ok(()),
            Some(device) => {
                let mounts = self.mounts(device.dev)?;
                Err(PoolError::in_use(name, mounts, device.open_count))
            }
        }
    }

    /// That a monitor does not have it wait until the pool has room: what is begun would wait with it.
    pub(crate) fn require_running(
        &self,
        name: &WritableName,
        volume: &VolumeRecord,
    ) -> Result<(), PoolError> {
        match self
            .volume_device(volume)?
            .filter(|device| device.suspended)
        {
            None => Ok(()),
            Some(device) => Err(PoolError::in_use(name, Vec::new(), device.open_count)),
        }
    }
}

impl PoolError {
    /// That somebody uses it.
    pub(crate) fn in_use(name: &WritableName, mounts: Vec<PathBuf>, open_count: u32) -> Self {
        match name.clone() {
            WritableName::Container(name) => Self::ContainerBusy {
                name,
                mounts,
                open_count,
            },
            WritableName::Data(name) => Self::VolumeBusy {
                name,
                mounts,
                open_count,
            },
        }
    }
}

impl Live<'_> {
    /// A container or data volume of which a snapshot is to be taken: whole, not held, and as large as
    /// it says. The caller has its lock.
    pub(crate) fn to_be_snapshot(
        &self,
        name: &WritableName,
        volume: &VolumeRecord,
    ) -> Result<VolumeRecord, PoolError> {
        let pool = self.pool();
        pool.require_ready(name, volume)?;
        pool.require_running(name, volume)?;
        // A growth that was cut may have given its file system any size.
        self.finish_growth(volume, &pool.device_name(name))?;
        Ok(pool.catalogue().volume(volume.id)?)
    }
}
