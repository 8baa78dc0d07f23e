//! Containers.

use serde::Serialize;

use crate::fs::Holder;
use crate::graph::error::PoolError;
use crate::graph::report::Change;
use crate::graph::report::writable::WritableReport;
use crate::ids::{ContainerName, DevNo, Digest, VolumeId, VolumeKind, WritableName};
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
    /// Its volume and device.
    #[serde(flatten)]
    pub on: WritableReport,
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

/// `who`: what holds a container or data volume.
#[derive(Debug, Clone, Serialize)]
pub struct WhoReport {
    /// Which.
    pub name: WritableName,
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

/// What trimming a container or data volume came to.
#[derive(Debug, Serialize)]
pub struct TrimReport {
    /// Which.
    pub name: WritableName,
    /// Whether it is a container or a data volume.
    pub kind: VolumeKind,
    /// What its file system discarded; none where that failed.
    pub trimmed: Option<Bytes>,
    /// What went wrong.
    pub problem: Option<String>,
    /// The same, to act on.
    #[serde(skip)]
    pub error: Option<PoolError>,
}
