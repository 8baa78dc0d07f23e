//! What a container and a data volume have alike.

use std::path::PathBuf;

use serde::Serialize;

use crate::graph::lossy;
use crate::ids::{DevNo, FsType, ThinId, VolumeId};
use crate::store::VolumeState;
use crate::units::Bytes;

/// A volume that has a name and can be written to, and its device.
#[derive(Debug, Clone, Serialize)]
pub struct WritableReport {
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
    /// Its file system's uuid (the base's, or its own).
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
