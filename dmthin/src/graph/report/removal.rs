//! What is removed, now or later.

use serde::Serialize;

use crate::fs::Holder;
use crate::graph::error::PoolError;
use crate::ids::{ContainerName, DevNo, ThinId, VolumeId, VolumeKind};
use crate::units::Bytes;

/// What removing a container came to.
#[derive(Debug, Clone, Serialize)]
pub struct RemovedContainer {
    /// The container; the name is free.
    pub name: ContainerName,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Whether the volume is gone, its space given back; else it is queued.
    pub removed: bool,
    /// Whether the pool's monitor was called to give its space back.
    pub handed: bool,
    /// What holds the volume.
    pub holders: Vec<Holder>,
}

/// How far a queued removal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueState {
    /// Somebody holds the device; the kernel takes it away when they let it go.
    Held,
    /// Nobody holds it: the next run of the queue removes it.
    Waiting,
    /// A command is giving its space back.
    Deleting,
}

/// A line of `queue list`.
#[derive(Debug, Clone, Serialize)]
pub struct QueueReport {
    /// The volume in the catalogue.
    pub volume: VolumeId,
    /// What the volume was for.
    pub kind: VolumeKind,
    /// What its container was called; others may have the name now.
    pub name: Option<ContainerName>,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// Size of its device.
    pub size: Bytes,
    /// Bytes mapped in the pool, shared ones included, while it has a device.
    pub mapped: Option<Bytes>,
    /// How far it is.
    pub state: QueueState,
    /// When its removal was promised, in seconds since 1970.
    pub since: u64,
    /// How many tries did not come to the end.
    pub attempts: u64,
    /// When the next one is due, in seconds since 1970.
    pub next_try: u64,
    /// Whether some of it may be gone, so that it cannot be taken back.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Its device's number, while it has one.
    pub devno: Option<DevNo>,
    /// What holds it.
    pub holders: Vec<Holder>,
}

impl QueueReport {
    /// What to call it before a person: its container's name, or its volume.
    #[must_use]
    pub fn told_name(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| format!("volume {}", self.volume), ToString::to_string)
    }
}

/// A removal that failed and stays queued.
#[derive(Debug, Serialize)]
pub struct FailedRemoval {
    /// The volume in the catalogue.
    pub volume: VolumeId,
    /// What its container was called.
    pub name: Option<ContainerName>,
    /// What went wrong.
    pub problem: String,
    /// The same, to act on.
    #[serde(skip)]
    pub error: PoolError,
}

/// What a run of the queue came to.
#[derive(Debug, Default, Serialize)]
pub struct QueueRun {
    /// Volumes that are gone.
    pub removed: Vec<VolumeId>,
    /// What somebody holds still.
    pub held: Vec<QueueReport>,
    /// What failed.
    pub failed: Vec<FailedRemoval>,
}
