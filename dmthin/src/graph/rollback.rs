//! Going back: a container or data volume is again as a snapshot of it is, or a container as its image.
//!
//! What is written over is never touched. A new volume is made beside it, and one transaction of the
//! catalogue gives that the name, the snapshots, and the old one's place:
//!
//! | step | what is so from here on | cut after it |
//! |---|---|---|
//! | J1 | the intent: a volume without a name, `creating` | it goes: all is as before |
//! | J2 | the pool has it, a snapshot of what is gone back to | the same |
//! | J3 | its file system is grown, where it is larger than that; no device | the same |
//! | J4 | it has the name, `ready` and active; the old volume is `deleting` | all is as it was then; its device is activated |
//! | J5 | its device is there, under the name the old one had | done; the old volume goes |

use crate::fs::{DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::{ContainerReport, DataVolumeReport};
use crate::graph::step::Step;
use crate::ids::{ContainerName, SnapshotName, VolumeName, WritableName};
use crate::store::{StoreError, VolumeRecord, VolumeState};
use crate::units::Bytes;

impl Pool {
    /// Makes a container again what it was when a snapshot of it was taken. The snapshot stays, and so
    /// do younger ones; its name, its size and the path of its device are as before.
    ///
    /// # Errors
    /// [`PoolError::ContainerBusy`] while it is mounted or its device is open,
    /// [`StoreError::SnapshotNotFound`], [`StoreError::ContainerNotFound`], [`GuardError::Data`](crate::graph::GuardError::Data) and others: the
    /// container is as it was.
    pub fn rollback_container(
        &self,
        name: &ContainerName,
        to: &SnapshotName,
    ) -> Result<ContainerReport, PoolError> {
        let of = WritableName::from(name);
        self.replace(&of, || self.ready_snapshot(&of, to))?;
        self.container(name)
    }

    /// Makes a container again what its image is. Its snapshots stay.
    ///
    /// # Errors
    /// As of [`Pool::rollback_container`].
    pub fn reset_container(&self, name: &ContainerName) -> Result<ContainerReport, PoolError> {
        let top = || {
            let record = self.catalogue().container(name)?;
            let image = self.catalogue().image(record.image)?;
            let top = self.catalogue().image_layers(image.id)?.pop();
            let top = top.ok_or(StoreError::ImageEmpty {
                config_digest: image.config_digest,
            })?;
            Ok(top.volume)
        };
        self.replace(&name.into(), top)?;
        self.container(name)
    }

    /// As [`Pool::rollback_container`], of a data volume.
    ///
    /// # Errors
    /// As of [`Pool::rollback_container`].
    pub fn rollback_volume(
        &self,
        name: &VolumeName,
        to: &SnapshotName,
    ) -> Result<DataVolumeReport, PoolError> {
        let of = WritableName::from(name);
        self.replace(&of, || self.ready_snapshot(&of, to))?;
        self.volume(name)
    }

    fn ready_snapshot(
        &self,
        of: &WritableName,
        name: &SnapshotName,
    ) -> Result<VolumeRecord, PoolError> {
        Ok(self.catalogue().snapshot(of, name)?.volume)
    }

    /// Puts a snapshot of what `origin` gives in the place of a container's volume, or of a data volume.
    fn replace(
        &self,
        name: &WritableName,
        origin: impl FnOnce() -> Result<VolumeRecord, PoolError>,
    ) -> Result<(), PoolError> {
        let live = self.live()?;
        live.admit()?;
        let (lock, record) = self.lock_writable(name)?;
        let old = record.volume;
        self.require_ready(name, &old)?;
        self.require_idle(&live, name, &old)?;
        // Under the lock, which who removes a snapshot has.
        let origin = origin()?;
        let new = self.catalogue().begin_replacement(old.id, origin.id)?;
        let passed = |step: Step| step.passed_for(self.name(), new.id);
        passed(Step::J1);
        let new_lock = self.locks().volume(new.id)?;
        let replaced = self.fill(&live, &new, &origin).and_then(|()| {
            // It takes no time to open a device: once more, before there is no way back.
            self.require_idle(&live, name, &old)?;
            Ok(self.catalogue().replace(old.id, new.id)?)
        });
        let (new, old) = match replaced {
            Ok(volumes) => volumes,
            Err(error) => return Err(error.with_undo(self.drop_replacement(&live, &new))),
        };
        passed(Step::J4);
        live.set_aside(&old)?;
        live.activate(&new, &self.device_name(name))?;
        passed(Step::J5);
        // Who removes the old one takes its lock.
        drop((lock, new_lock));
        if let Err(error) = self.give_back(&live, &[old.id]) {
            // What was asked for is done.
            tracing::warn!(volume = %old.id, %error, "what was written over stays queued");
        }
        Ok(())
    }

    /// Steps J2 and J3.
    fn fill(
        &self,
        live: &Live<'_>,
        volume: &VolumeRecord,
        origin: &VolumeRecord,
    ) -> Result<(), PoolError> {
        live.require_kept(Bytes::ZERO)?;
        let volume = &live.snapshot(volume, origin)?;
        Step::J2.passed_for(self.name(), volume.id);
        if volume.size > origin.size {
            let device = live.activate_internal(volume)?;
            let mount = DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?;
            Live::grow_mounted(&mount, volume, origin)?;
            mount.sync()?;
            mount.close()?;
            live.deactivate(volume)?;
            Step::J3.passed_for(self.name(), volume.id);
        }
        Ok(())
    }

    /// Undoes a replacement that did not take place. Where the catalogue failed as it was asked for
    /// that, it may say by now that it did.
    fn drop_replacement(&self, live: &Live<'_>, new: &VolumeRecord) -> Result<(), PoolError> {
        match self.catalogue().volume(new.id)?.state {
            VolumeState::Creating => live.discard_volume(new),
            VolumeState::Ready | VolumeState::Deleting => Ok(()),
        }
    }
}
