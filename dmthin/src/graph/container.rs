//! Containers: a writable snapshot each, its device, its mount.

use std::path::{Path, PathBuf};

use crate::dm::names;
use crate::fs::{DetachedMount, MountOptions};
use crate::graph::create::round_up;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::random::random_bytes;
use crate::graph::report::ContainerReport;
use crate::graph::step::Step;
use crate::ids::ContainerName;
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
    /// Among others [`GuardError::Data`](crate::graph::GuardError::Data), [`StoreError::ImageNotFound`], [`StoreError::ContainerExists`],
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
        let begin = |name: &ContainerName| {
            self.catalogue().begin_container(&NewContainer {
                name: name.clone(),
                image: image.id,
                image_name: image_name.clone(),
                size: new.size.map(round_up),
            })
        };
        self.make_container(&live, new.name.as_ref(), begin)
    }

    /// Makes a container of what another one holds now, in use or not: a snapshot of that one, with its device
    /// active. What is mounted is frozen meanwhile, so that the new one's file system is clean; who writes to it waits
    /// for a moment.
    ///
    /// What a virtual machine has open is as after a power cut, for only its own kernel could freeze it.
    ///
    /// # Errors
    /// As of [`Pool::create_container`]; [`StoreError::ContainerNotFound`],
    /// [`PoolError::ContainerHalfMade`], [`PoolError::ContainerBusy`] while a monitor has it wait for the pool
    /// to have room. One that failed left nothing behind.
    pub fn fork_container(
        &self,
        of: &ContainerName,
        name: Option<&ContainerName>,
    ) -> Result<ContainerReport, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let (_lock, record) = self.lock_container(of)?;
        live.to_be_snapshot(&of.into(), &record.volume)?;
        self.make_container(&live, name, |name| self.catalogue().begin_fork(of, name))
    }

    /// Makes a container whose intent `begin` writes, under a made-up name where there is none.
    fn make_container(
        &self,
        live: &Live<'_>,
        name: Option<&ContainerName>,
        begin: impl Fn(&ContainerName) -> Result<VolumeRecord, StoreError>,
    ) -> Result<ContainerReport, PoolError> {
        let (name, volume) = match name {
            Some(name) => (name.clone(), begin(name)?),
            None => loop {
                let name = made_up_name()?;
                match begin(&name) {
                    // Thirty-two random bits met a namesake: draw again.
                    Err(StoreError::ContainerExists { .. }) => {}
                    result => break (name, result?),
                }
            },
        };
        Step::C1.passed_for(self.name(), volume.id);
        let _lock = self.locks().volume(volume.id)?;
        match self.finish_container(live, &name, &volume) {
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
        let passed = |step: Step| step.passed_for(self.name(), volume.id);
        passed(Step::C2);
        let device = live.activate(volume, &names::container_name(self.name(), name))?;
        passed(Step::C3);
        if volume.size > parent.size {
            let mount = DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?;
            Live::grow_mounted(&mount, volume, &parent)?;
            mount.sync()?;
            passed(Step::C4);
            // Recovery can find that the volume exists, but not that its file system has grown.
            self.catalogue().set_ready(volume.id)?;
        } else {
            self.catalogue().set_ready_lazy(volume.id)?;
        }
        passed(Step::C5);
        Ok(())
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
        self.mount_named(&name.into(), dir)?;
        self.container(name)
    }

    /// Unmounts a container from wherever it is mounted; its device stays. Gives the places, none
    /// where it was mounted nowhere.
    ///
    /// # Errors
    /// [`PoolError::Fs`] where a place is in use.
    pub fn unmount_container(&self, name: &ContainerName) -> Result<Vec<PathBuf>, PoolError> {
        self.unmount_named(&name.into())
    }

    /// A container as it is under its lock.
    pub(crate) fn lock_container(
        &self,
        name: &ContainerName,
    ) -> Result<(LockGuard, ContainerRecord), PoolError> {
        let find = || Ok(self.catalogue().container(name)?);
        self.lock_named(find, |record| record.volume.id)
    }

    fn container_report(&self, record: ContainerRecord) -> Result<ContainerReport, PoolError> {
        let image = self.catalogue().image(record.image)?;
        Ok(ContainerReport {
            name: record.name,
            image: record.image_name,
            image_id: image.config_digest,
            on: self.writable_report(record.volume)?,
        })
    }
}

/// A name for a container that was given none: eight random hexadecimal digits.
fn made_up_name() -> Result<ContainerName, PoolError> {
    let bytes = random_bytes::<4>()?;
    let name = format!("{:08x}", u32::from_le_bytes(bytes));
    Ok(ContainerName::new(name).expect("hexadecimal digits make a name"))
}
