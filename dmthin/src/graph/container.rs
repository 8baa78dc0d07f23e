//! Containers: a writable snapshot each, its device, its mount.

use std::path::{Path, PathBuf};

use crate::dm::names;
use crate::fs::{self, DetachedMount, MountOptions};
use crate::graph::create::round_up;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::random::random_bytes;
use crate::graph::report::ContainerReport;
use crate::ids::{ContainerName, DevNo};
use crate::ioctl::LockGuard;
use crate::store::{ContainerRecord, NewContainer, StoreError, VolumeRecord};
use crate::units::Bytes;

/// What a container is to be.
#[derive(Debug, Clone)]
pub struct CreateContainer {
    /// Name, id or first digits of the id of its image.
    pub image: String,
    /// Its name; one is made up where there is none.
    pub name: Option<ContainerName>,
    /// Size of its device, at least the image's; the pool's base size where there is none.
    pub size: Option<Bytes>,
}

impl Pool {
    /// Makes a container: a snapshot of its image's top layer, with its device active.
    ///
    /// # Errors
    /// Among others [`PoolError::DataGuard`], [`StoreError::ImageNotFound`], [`StoreError::ContainerExists`],
    /// [`StoreError::TooSmall`] and [`PoolError::PoolNotOpen`]. One that failed left nothing behind.
    pub fn create_container(&self, new: &CreateContainer) -> Result<ContainerReport, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let image = self.catalogue().find_image(&new.image)?;
        let image_name = image
            .names
            .first()
            .map_or_else(|| new.image.clone(), ToString::to_string);
        let image_name = if image.names.iter().any(|name| name.as_str() == new.image) {
            new.image.clone()
        } else {
            image_name
        };
        let begin = |name: ContainerName| {
            self.catalogue().begin_container(&NewContainer {
                name,
                image: image.id,
                image_name: image_name.clone(),
                size: new.size.map(round_up),
            })
        };
        let (name, volume) = match &new.name {
            Some(name) => (name.clone(), begin(name.clone())?),
            None => loop {
                let name = made_up_name()?;
                match begin(name.clone()) {
                    // Thirty-two random bits met a namesake: draw again.
                    Err(StoreError::ContainerExists { .. }) => {}
                    result => break (name, result?),
                }
            },
        };
        let _lock = self.locks().volume(volume.id)?;
        match self.finish_container(&live, &name, &volume) {
            Ok(()) => self.container_report(self.catalogue().container(&name)?),
            Err(error) => Err(error.with_undo(live.discard_volume(&volume))),
        }
    }

    /// Takes a container's volume from its intent to `ready`; the catalogue's begin was durable.
    fn finish_container(
        &self,
        live: &Live<'_>,
        name: &ContainerName,
        volume: &VolumeRecord,
    ) -> Result<(), PoolError> {
        live.require_kept(Bytes::ZERO)?;
        let parent = live.parent(volume)?;
        let volume = &live.snapshot(volume, &parent)?;
        let device = live.activate(volume, &names::container_name(self.name(), name))?;
        if volume.size > parent.size {
            let mount = DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?;
            Live::grow_mounted(&mount, volume, &parent)?;
            mount.sync()?;
            // Recovery can find that the volume exists, but not that its file system has grown.
            self.catalogue().set_ready(volume.id)?;
        } else {
            self.catalogue().set_ready_lazy(volume.id)?;
        }
        // Its device was handed out: the next `pool open` brings it back.
        Ok(self.catalogue().set_active(volume.id, true)?)
    }

    /// Every container, sorted by name.
    ///
    /// # Errors
    /// [`PoolError::Store`], [`PoolError::Dm`] or [`PoolError::Fs`] where one cannot be looked at.
    pub fn containers(&self) -> Result<Vec<ContainerReport>, PoolError> {
        let records = self.catalogue().containers()?;
        records
            .into_iter()
            .map(|record| self.container_report(record))
            .collect()
    }

    /// One container.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], and as [`Pool::containers`].
    pub fn container(&self, name: &ContainerName) -> Result<ContainerReport, PoolError> {
        self.container_report(self.catalogue().container(name)?)
    }

    /// Mounts a container on a directory, with `discard`, its device made active if it is not.
    ///
    /// # Errors
    /// [`PoolError::NotADirectory`]; [`PoolError::ContainerHalfMade`]; [`PoolError::ContainerBusy`] where
    /// it is mounted already, for two owners of one container's files is nobody's wish, or where its
    /// device is in use as by a virtual machine, whose file system a second mount would ruin;
    /// [`PoolError::Fs`] where the kernel refuses.
    pub fn mount_container(
        &self,
        name: &ContainerName,
        dir: &Path,
    ) -> Result<ContainerReport, PoolError> {
        let live = self.live()?;
        let (_lock, record) = self.lock_container(name)?;
        self.require_ready(name, &record.volume)?;
        if !dir.is_dir() {
            return Err(PoolError::NotADirectory {
                path: dir.to_owned(),
            });
        }
        let device = live.activate(&record.volume, &names::container_name(self.name(), name))?;
        let mounts = self.mounts(device.dev())?;
        if !mounts.is_empty() || live.has_bare_user(device.dev(), device.node())? {
            return Err(PoolError::ContainerBusy {
                name: name.clone(),
                mounts,
                open_count: 1,
            });
        }
        let options = MountOptions {
            discard: true,
            ..MountOptions::default()
        };
        DetachedMount::new(record.volume.fs, device.node(), &options)?.attach(dir)?;
        if !record.volume.active {
            self.catalogue().set_active(record.volume.id, true)?;
        }
        self.container(name)
    }

    /// Unmounts a container from wherever it is mounted; its device stays. Gives the places, none
    /// where it was mounted nowhere.
    ///
    /// # Errors
    /// [`PoolError::Fs`] where a place is in use.
    pub fn unmount_container(&self, name: &ContainerName) -> Result<Vec<PathBuf>, PoolError> {
        let (_lock, record) = self.lock_container(name)?;
        let Some(device) = self.volume_device(&record.volume)? else {
            return Ok(Vec::new());
        };
        let mounts = self.mounts(device.dev)?;
        // The last mount made is the first to go: an earlier one may lie below it.
        for mount in mounts.iter().rev() {
            fs::unmount(mount)?;
        }
        Ok(mounts)
    }

    /// A container as it is under its lock.
    pub(crate) fn lock_container(
        &self,
        name: &ContainerName,
    ) -> Result<(LockGuard, ContainerRecord), PoolError> {
        loop {
            let id = self.catalogue().container(name)?.volume.id;
            let lock = self.locks().volume(id)?;
            // Who had the lock may have removed it, and somebody may have made another of its name.
            let record = self.catalogue().container(name)?;
            if record.volume.id == id {
                return Ok((lock, record));
            }
        }
    }

    fn container_report(&self, record: ContainerRecord) -> Result<ContainerReport, PoolError> {
        let volume = record.volume;
        let image = self.catalogue().image(record.image)?;
        let device = self.volume_device(&volume)?;
        let (mut mapped, mut mounts, mut node) = (None, Vec::new(), None);
        if let Some(device) = &device {
            mapped = self.host().mapped(device)?;
            mounts = self.mounts(device.dev)?;
            node = self.host().node_of(device)?;
        }
        Ok(ContainerReport {
            name: record.name,
            image: record.image_name,
            image_id: image.config_digest,
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

    fn mounts(&self, dev: DevNo) -> Result<Vec<PathBuf>, PoolError> {
        Ok(fs::mounts_of(dev)?
            .into_iter()
            .map(|mount| mount.target)
            .collect())
    }
}

/// A name for a container that was given none: eight random hexadecimal digits.
fn made_up_name() -> Result<ContainerName, PoolError> {
    let bytes = random_bytes::<4>()?;
    let name = format!("{:08x}", u32::from_le_bytes(bytes));
    Ok(ContainerName::new(name).expect("hexadecimal digits make a name"))
}
