//! `trim`: what containers and data volumes do not use of what they have goes back to the pool and to the host.

use crate::dm::Device;
use crate::fs;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::TrimReport;
use crate::ids::{ContainerName, WritableName};
use crate::store::{StoreError, VolumeRecord, VolumeState, WritableRecord};
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
        self.trim_named(&self.live()?, &name.into())
    }

    /// Trims every container and data volume, one after the other; one that fails does not stop the others.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`], [`PoolError::Store`]; what failed on one is in its report.
    pub fn trim_all(&self) -> Result<Vec<TrimReport>, PoolError> {
        let live = self.live()?;
        let mut reports = Vec::new();
        for WritableRecord { name, volume } in self.catalogue().writables()? {
            // One that is being made has nothing to give back.
            if volume.state != VolumeState::Ready {
                continue;
            }
            let (trimmed, error) = match self.trim_named(&live, &name) {
                Ok(trimmed) => (Some(trimmed), None),
                // Its user discards for itself, or not: that is no fault.
                Err(error @ (PoolError::ContainerBusy { .. } | PoolError::VolumeBusy { .. })) => {
                    reports.push(TrimReport {
                        kind: name.kind(),
                        name,
                        trimmed: None,
                        problem: Some(error.to_string()),
                        error: None,
                    });
                    continue;
                }
                // Removed meanwhile.
                Err(PoolError::Store(
                    StoreError::ContainerNotFound { .. } | StoreError::DataVolumeNotFound { .. },
                )) => continue,
                Err(error) => (None, Some(error)),
            };
            reports.push(TrimReport {
                kind: name.kind(),
                name,
                trimmed,
                problem: error.as_ref().map(ToString::to_string),
                error,
            });
        }
        Ok(reports)
    }

    /// Trims a container or data volume.
    pub(crate) fn trim_named(
        &self,
        live: &Live<'_>,
        name: &WritableName,
    ) -> Result<Bytes, PoolError> {
        let (_lock, record) = self.lock_writable(name)?;
        let volume = record.volume;
        self.require_ready(name, &volume)?;
        self.require_running(name, &volume)?;
        let before = self.volume_device(&volume)?;
        let had_one = before.is_some();
        let device = live.activate(&volume, &self.device_name(name))?;
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
    name: &WritableName,
    volume: &VolumeRecord,
    device: &Device,
) -> Result<Bytes, PoolError> {
    let Some(inside) = live.inside(volume, device.dev(), device.node())? else {
        return Err(PoolError::in_use(name, Vec::new(), 1));
    };
    let trimmed = fs::trim(inside.root()?)?;
    inside.leave()?;
    Ok(trimmed)
}
