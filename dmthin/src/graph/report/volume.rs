//! Data volumes and snapshots.

use serde::Serialize;

use crate::graph::report::Change;
use crate::graph::report::writable::WritableReport;
use crate::ids::{FsType, SnapshotName, ThinId, VolumeId, VolumeKind, VolumeName, WritableName};
use crate::store::VolumeState;
use crate::units::Bytes;

/// `volume list` and `volume inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct DataVolumeReport {
    /// Its name.
    pub name: VolumeName,
    /// Its volume and device.
    #[serde(flatten)]
    pub on: WritableReport,
}

/// What `volume grow` did.
#[derive(Debug, Clone, Serialize)]
pub struct GrownVolume {
    /// Whether it did anything.
    pub change: Change,
    /// Whether the file system was grown too; if not, who uses the device has to.
    pub fs_grown: bool,
    /// The volume, as it is now.
    pub volume: DataVolumeReport,
}

/// What removing a data volume came to.
#[derive(Debug, Clone, Serialize)]
pub struct RemovedVolume {
    /// The volume; the name is free.
    pub name: VolumeName,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Whether its space was given back; else it is queued.
    pub removed: bool,
    /// Whether the pool's monitor was called to give its space back.
    pub handed: bool,
}

/// A snapshot of a container or data volume.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotReport {
    /// Its name.
    pub name: SnapshotName,
    /// What it is a state of.
    pub of: WritableName,
    /// Whether that is a container or a data volume.
    pub kind: VolumeKind,
    /// How far it is: `creating` until it is whole, and after its making was cut.
    pub state: VolumeState,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// The size that its owner had.
    pub size: Bytes,
    /// Its file system.
    pub fs: FsType,
    /// When it was taken, in seconds since 1970.
    pub created_at: u64,
}
