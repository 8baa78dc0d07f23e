//! Containers.

use std::path::PathBuf;

use serde::Serialize;

use crate::fs::Holder;
use crate::graph::error::PoolError;
use crate::graph::lossy;
use crate::graph::report::Change;
use crate::ids::{ContainerName, DevNo, Digest, FsType, ThinId, VolumeId};
use crate::store::VolumeState;
use crate::units::Bytes;

/// `container list` and `container inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerReport {
    /// Its name.
    pub name: ContainerName,
    /// Name of the image when it was made.
    pub image: String,
    /// Identity of the image.
    pub image_id: Digest,
    /// How far it is: `creating` until it is whole, and after its making was cut.
    pub state: VolumeState,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// Size of its device.
    pub size: Bytes,
    /// The size that it is being grown to, where that is not finished.
    pub growing_to: Option<Bytes>,
    /// Bytes mapped in the pool, shared ones included, while it is active.
    pub mapped: Option<Bytes>,
    /// Its file system.
    pub fs: FsType,
    /// Its file system's uuid (the base's).
    pub fs_uuid: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created_at: u64,
    /// Its block device, while active.
    #[serde(serialize_with = "lossy::option")]
    pub device: Option<PathBuf>,
    /// The device's number, while active.
    pub devno: Option<DevNo>,
    /// Where it is mounted.
    #[serde(serialize_with = "lossy::list")]
    pub mounts: Vec<PathBuf>,
}

/// What `container grow` did.
#[derive(Debug, Clone, Serialize)]
pub struct GrownContainer {
    /// Whether it did anything.
    pub change: Change,
    /// Whether the file system was grown too; if not, who uses the device has to.
    pub fs_grown: bool,
    /// The container, as it is now.
    pub container: ContainerReport,
}

/// `who`: what holds a container.
#[derive(Debug, Clone, Serialize)]
pub struct WhoReport {
    /// The container.
    pub name: ContainerName,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Whether it was removed already, and only its volume is left.
    pub removed: bool,
    /// Its device's number, while it is active.
    pub devno: Option<DevNo>,
    /// How many hold the device open, as the kernel counts: a file system on it is one.
    pub open_count: u32,
    /// What was found to hold it.
    pub holders: Vec<Holder>,
}

/// What trimming a container came to.
#[derive(Debug, Serialize)]
pub struct TrimReport {
    /// The container.
    pub name: ContainerName,
    /// What its file system discarded; none where that failed.
    pub trimmed: Option<Bytes>,
    /// What went wrong.
    pub problem: Option<String>,
    /// The same, to act on.
    #[serde(skip)]
    pub error: Option<PoolError>,
}
