//! The way into the file system of a container that may be in use.
//!
//! A file system that this kernel has mounted can be worked in beside its user. One that a virtual
//! machine has mounted, through the bare device, cannot: to this kernel it is not mounted, and
//! mounting it a second time would ruin it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::fs::{self, DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::ids::DevNo;
use crate::ioctl::{self, Access, DevId, DeviceInfo, IoctlError};
use crate::store::VolumeRecord;

/// How often a device that is open is looked at again: a probe of udev's has it for a moment only.
const PROBE_TRIES: u32 = 50;
/// How long to wait in between.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// A way into a volume's file system.
#[derive(Debug)]
pub(crate) enum Inside {
    /// Where it is mounted.
    There(OwnedFd),
    /// A mount of our own that nobody sees.
    Detached(DetachedMount),
}

impl Inside {
    /// The root, opened for reading.
    pub(crate) fn root(&self) -> Result<OwnedFd, PoolError> {
        Ok(match self {
            Self::There(root) => root.try_clone().map_err(|source| {
                PoolError::io("keep open", Path::new("the root of a volume"), source)
            })?,
            Self::Detached(mount) => mount.open_root()?,
        })
    }

    /// Writes back what was changed, and leaves.
    pub(crate) fn leave(self) -> Result<(), PoolError> {
        if let Self::Detached(mount) = self {
            mount.sync()?;
            mount.close()?;
        }
        Ok(())
    }
}

impl Live<'_> {
    /// The way into an active volume's file system; `None` where somebody has the bare device.
    pub(crate) fn inside(
        &self,
        volume: &VolumeRecord,
        dev: DevNo,
        node: &Path,
    ) -> Result<Option<Inside>, PoolError> {
        for mount in fs::mounts_of(dev)? {
            if let Some(root) = fs::open_mount(&mount) {
                return Ok(Some(Inside::There(root)));
            }
        }
        if self.has_bare_user(dev, node)? {
            return Ok(None);
        }
        let mount = DetachedMount::new(volume.fs, node, &MountOptions::default())?;
        Ok(Some(Inside::Detached(mount)))
    }

    /// The device of a volume that somebody has open, by mounting it or itself; `None` where nobody has.
    pub(crate) fn user_of(&self, volume: &VolumeRecord) -> Result<Option<DeviceInfo>, PoolError> {
        let mut tries = PROBE_TRIES;
        loop {
            let device = self.pool().volume_device(volume)?;
            let Some(device) = device.filter(|device| device.open_count > 0) else {
                return Ok(None);
            };
            if tries == 0 || !fs::mounts_of(device.dev)?.is_empty() {
                return Ok(Some(device));
            }
            tries = tries.saturating_sub(1);
            thread::sleep(PROBE_PAUSE);
        }
    }

    /// Whether somebody reads and writes the device itself, as a virtual machine does.
    pub(crate) fn has_bare_user(&self, dev: DevNo, node: &Path) -> Result<bool, PoolError> {
        for _ in 0..PROBE_TRIES {
            let device = self.thin_pool().dm().find(DevId::Dev(dev))?;
            if device.is_none_or(|device| device.open_count == 0) {
                return Ok(false);
            }
            match ioctl::open_exclusive(node, Access::ReadOnly) {
                // Mounted in another namespace, or below another device: the kernel lets us share
                // the mount, or refuses.
                Err(IoctlError::Busy { .. }) => return Ok(false),
                result => drop(result?),
            }
            thread::sleep(PROBE_PAUSE);
        }
        Ok(true)
    }
}
