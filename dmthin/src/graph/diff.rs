//! `container diff`, and what differs between any two volumes.
//!
//! Both are compared through private snapshots: of a container in use its file system is frozen for
//! the moment that takes, and a layer gets no device that others would meet. A private snapshot is a row of
//! a layer that is never sealed, so that recovery removes it as it does any.

use std::thread;
use std::time::{Duration, Instant};

use crate::delta::{self, Diff, Refusal, Sides};
use crate::dm::Device;
use crate::fs::{DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::export::ExportTo;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::repair::needs_recovery;
use crate::graph::report::{DiffReport, WrittenLayer};
use crate::graph::step::Step;
use crate::ids::{ContainerName, FsType, VolumeKind};
use crate::ioctl::{self, LockGuard};
use crate::store::{ContainerRecord, NewVolume, VolumeRecord};
use crate::thinmeta::ChangedRun;

/// How long is waited for another of us who reads the metadata: longer than most reads take.
const METADATA_WAIT: Duration = Duration::from_secs(2);
const METADATA_PAUSE: Duration = Duration::from_millis(20);

/// A snapshot of a volume for our eyes only, or a volume that nobody else has yet.
#[derive(Debug)]
pub(crate) struct Private {
    volume: VolumeRecord,
    device: Device,
    /// Whether it may have blocks that nobody else has: it was written to, or its origin was since.
    has_own: bool,
    _lock: Option<LockGuard>,
}

impl Pool {
    /// What a container changed of its image, in use or not.
    ///
    /// # Errors
    /// [`PoolError::ContainerHalfMade`]; [`PoolError::ContainerBusy`] while its device is held until the pool has
    /// room; [`GuardError::Data`](crate::graph::GuardError::Data) and the like where there is too little room for a snapshot;
    /// [`PoolError::Delta`] where neither way of comparing works.
    pub fn diff_container(&self, name: &ContainerName) -> Result<DiffReport, PoolError> {
        let live = self.live()?;
        let (lock, below, volume) = self.sides_of(&live, name)?;
        let diff = live.diff_volumes(&below, &volume, || drop(lock))?;
        Ok(DiffReport {
            name: name.clone(),
            differences: diff.into(),
        })
    }

    /// Writes what a container changed of its image as a layer's tar, in use or not: the layer that a commit would
    /// make of it.
    ///
    /// # Errors
    /// As of [`Pool::diff_container`], and [`PoolError::Image`] with what cannot be written.
    pub fn write_container_diff(
        &self,
        name: &ContainerName,
        to: ExportTo<'_>,
    ) -> Result<WrittenLayer, PoolError> {
        let live = self.live()?;
        let (lock, below, volume) = self.sides_of(&live, name)?;
        let taken = || drop(lock);
        let written = to.write(|out| live.write_layer_between(&below, &volume, taken, out));
        Ok(WrittenLayer::new(&written?.0))
    }

    /// A container's image and the container, under its lock, if it can be compared.
    fn sides_of(
        &self,
        live: &Live<'_>,
        name: &ContainerName,
    ) -> Result<(LockGuard, VolumeRecord, VolumeRecord), PoolError> {
        live.admit()?;
        let (lock, record) = self.lock_container(name)?;
        self.require_ready(name, &record.volume)?;
        self.require_going(name, &record.volume)?;
        let below = self.image_volume(live, &record)?;
        Ok((lock, below, record.volume))
    }

    /// That the container's device does not wait for the pool to have room: a snapshot would wait with it.
    pub(crate) fn require_going(
        &self,
        name: &ContainerName,
        volume: &VolumeRecord,
    ) -> Result<(), PoolError> {
        match self.volume_device(volume)? {
            Some(device) if device.suspended => Err(PoolError::ContainerBusy {
                name: name.clone(),
                mounts: Vec::new(),
                open_count: device.open_count,
            }),
            _ => Ok(()),
        }
    }

    /// The volume of a container's image: its top layer.
    fn image_volume(
        &self,
        live: &Live<'_>,
        container: &ContainerRecord,
    ) -> Result<VolumeRecord, PoolError> {
        match self.catalogue().image_layers(container.image)?.pop() {
            Some(top) => Ok(top.volume),
            // An image of nothing: the container is a snapshot of the base.
            None => live.parent(&container.volume),
        }
    }
}

impl Live<'_> {
    /// What differs between two volumes that are ready. A container among them is to be locked by the caller
    /// until `taken` is called: from then on only snapshots are read.
    pub(crate) fn diff_volumes(
        &self,
        old: &VolumeRecord,
        new: &VolumeRecord,
        taken: impl FnOnce(),
    ) -> Result<Diff, PoolError> {
        let mut old = self.private_snapshot(old)?;
        let mut new = match self.private_snapshot(new) {
            Ok(new) => new,
            Err(error) => return Err(error.with_undo(self.drop_private(old))),
        };
        taken();
        let diff = self.diff_private(&mut old, &mut new);
        if diff.is_ok() {
            Step::F4.passed(self.pool().name());
        }
        let removed = self.drop_private(new);
        let removed = removed.and(self.drop_private(old));
        match diff {
            Ok(diff) => removed.map(|()| diff),
            Err(error) => Err(error.with_undo(removed)),
        }
    }

    /// Steps F1 to F3.
    pub(crate) fn private_snapshot(&self, origin: &VolumeRecord) -> Result<Private, PoolError> {
        let volume = self.pool().catalogue().begin_volume(NewVolume::Layer {
            parent: origin.id,
            size: origin.size,
        })?;
        let passed = |step: Step| step.passed_for(self.pool().name(), volume.id);
        passed(Step::F1);
        let lock = self.pool().locks().volume(volume.id)?;
        let make = || {
            let volume = self.snapshot(&volume, origin)?;
            passed(Step::F2);
            let device = self.activate_internal(&volume)?;
            passed(Step::F3);
            Ok((volume, device))
        };
        match make() {
            Ok((volume, device)) => Ok(Private {
                volume,
                device,
                has_own: origin.kind == VolumeKind::Container,
                _lock: Some(lock),
            }),
            Err(error) => {
                let error: PoolError = error;
                Err(error.with_undo(self.discard_volume(&volume)))
            }
        }
    }

    pub(crate) fn drop_private(&self, private: Private) -> Result<(), PoolError> {
        if private.has_own {
            self.discard_volume(&private.volume)
        } else {
            self.delete_shared(&private.volume)
        }
    }

    pub(crate) fn diff_private(
        &self,
        old: &mut Private,
        new: &mut Private,
    ) -> Result<Diff, PoolError> {
        for side in [&mut *old, &mut *new] {
            side.replay_journal()?;
        }
        let (changed, metadata_nodes) = self.changed_blocks(&old.volume, &new.volume)?;
        let devices = [
            ioctl::open_direct(old.device.node())?,
            ioctl::open_direct(new.device.node())?,
        ];
        let [first, second] = &devices;
        let sides = Sides {
            old: first,
            new: second,
            changed,
            unit: self.record().block_size,
        };
        let mut diff = delta::diff(&sides, || Ok::<_, PoolError>([old.mount()?, new.mount()?]))?;
        diff.stats.metadata_nodes = metadata_nodes;
        Ok(diff)
    }

    /// The blocks that the pool has otherwise for two volumes that nobody writes to, or why that is not known;
    /// and how many nodes of its metadata were read for it.
    fn changed_blocks(
        &self,
        old: &VolumeRecord,
        new: &VolumeRecord,
    ) -> Result<(Result<Vec<ChangedRun>, Refusal>, u64), PoolError> {
        let started = Instant::now();
        loop {
            let found = self.try_read_metadata(|metadata| {
                let runs = metadata.changed_runs(old.thin_id, new.thin_id)?;
                Ok((runs, metadata.nodes_read()))
            });
            let why = match found {
                Ok(Some((Some(runs), nodes))) => return Ok((Ok(runs), nodes)),
                Ok(Some((None, _))) => Refusal::NotInMetadata,
                Ok(None) if started.elapsed() < METADATA_WAIT => {
                    thread::sleep(METADATA_PAUSE);
                    continue;
                }
                Ok(None) => Refusal::MetadataBusy,
                Err(PoolError::MetadataSnapHeld { .. }) => Refusal::MetadataHeld,
                Err(PoolError::Metadata { source, .. }) => Refusal::Metadata(source.into()),
                Err(error) => return Err(error),
            };
            return Ok((Err(why), 0));
        }
    }
}

impl Private {
    /// A volume that is being made, with its device, under the caller's lock.
    pub(crate) fn own(volume: VolumeRecord, device: Device) -> Self {
        Self {
            volume,
            device,
            has_own: true,
            _lock: None,
        }
    }

    /// Has the kernel replay the journal of an ext4 that was not frozen, as one that a virtual machine has
    /// mounted: the snapshot is as a power cut would have left it.
    fn replay_journal(&mut self) -> Result<(), PoolError> {
        if self.volume.fs == FsType::Ext4 && needs_recovery(self.device.node())? {
            self.has_own = true;
            let options = MountOptions::default();
            DetachedMount::new(self.volume.fs, self.device.node(), &options)?.close()?;
        }
        Ok(())
    }

    pub(crate) fn mount(&mut self) -> Result<DetachedMount, PoolError> {
        // Even so a log may be replayed.
        self.has_own = true;
        let options = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        Ok(DetachedMount::new(
            self.volume.fs,
            self.device.node(),
            &options,
        )?)
    }
}
