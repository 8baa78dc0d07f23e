//! `trim`: what containers do not use of their volumes goes back to the pool and to the host.

use crate::dm::{Device, names};
use crate::fs;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::TrimReport;
use crate::ids::ContainerName;
use crate::store::{StoreError, VolumeRecord, VolumeState};
use crate::units::Bytes;

impl Pool {
    /// Discards what a container's file system does not use, mounted or not; gives how much the file
    /// system says that was. Its device is there before and after, or is not.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`PoolError::ContainerHalfMade`], [`PoolError::ContainerBusy`]
    /// where a virtual machine or the like has the bare device; [`PoolError::Fs`] where it cannot be
    /// mounted or cannot discard.
    pub fn trim_container(&self, name: &ContainerName) -> Result<Bytes, PoolError> {
        self.trim_named(&self.live()?, name)
    }

    /// Trims every container, one after the other; one that fails does not stop the others.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`], [`PoolError::Store`]; what failed on a container is in its report.
    pub fn trim_containers(&self) -> Result<Vec<TrimReport>, PoolError> {
        let live = self.live()?;
        let mut reports = Vec::new();
        for container in self.catalogue().containers()? {
            // One that is being made has nothing to give back.
            if container.volume.state != VolumeState::Ready {
                continue;
            }
            let (trimmed, error) = match self.trim_named(&live, &container.name) {
                Ok(trimmed) => (Some(trimmed), None),
                // Its user discards for itself, or not: that is no fault.
                Err(error @ PoolError::ContainerBusy { .. }) => {
                    reports.push(TrimReport {
                        name: container.name,
                        trimmed: None,
                        problem: Some(error.to_string()),
                        error: None,
                    });
                    continue;
                }
                // Removed meanwhile.
                Err(PoolError::Store(StoreError::ContainerNotFound { .. })) => continue,
                Err(error) => (None, Some(error)),
            };
            reports.push(TrimReport {
                name: container.name,
                trimmed,
                problem: error.as_ref().map(ToString::to_string),
                error,
            });
        }
        Ok(reports)
    }

    fn trim_named(&self, live: &Live<'_>, name: &ContainerName) -> Result<Bytes, PoolError> {
        let (_lock, record) = self.lock_container(name)?;
        let volume = record.volume;
        self.require_ready(name, &volume)?;
        let before = self.volume_device(&volume)?;
        if let Some(device) = before.as_ref().filter(|device| device.suspended) {
            // It is held until the pool has room; a trim would wait with it.
            return Err(PoolError::ContainerBusy {
                name: name.clone(),
                mounts: Vec::new(),
                open_count: device.open_count,
            });
        }
        let had_one = before.is_some();
        let device = live.activate(&volume, &names::container_name(self.name(), name))?;
        let trimmed = trim(live, name, &volume, &device);
        if had_one {
            return trimmed;
        }
        let undo = live.deactivate(&volume);
        match trimmed {
            Ok(trimmed) => undo.map(|()| trimmed),
            Err(error) => Err(error.with_undo(undo)),
        }
    }
}

/// Trims from inside, where we can get in.
fn trim(
    live: &Live<'_>,
    name: &ContainerName,
    volume: &VolumeRecord,
    device: &Device,
) -> Result<Bytes, PoolError> {
    let Some(inside) = live.inside(volume, device.dev(), device.node())? else {
        return Err(PoolError::ContainerBusy {
            name: name.clone(),
            mounts: Vec::new(),
            open_count: 1,
        });
    };
    let trimmed = fs::trim(inside.root()?)?;
    inside.leave()?;
    Ok(trimmed)
}
