//! What the verbs answer: plain records, ready for a table or for JSON.
//!
//! Numbers stay numbers (bytes, counts); names that a later version adds are additions only, so
//! that a reader of `"schema": "dmthin/v1"` never breaks.

mod change;
mod container;
mod device;
mod doctor;
mod image;
mod pool;
mod removal;
mod repair;

pub use change::Change;
pub use container::{ContainerReport, GrownContainer, TrimReport, WhoReport};
pub use device::{DeviceKind, DeviceReport};
pub use doctor::{CheckReport, Verdict};
pub use image::{
    HistoryReport, ImageReport, ImportEvent, ImportReport, LayerReport, LayerTree, RemovedImage,
};
pub use pool::{
    BackingReport, LivePool, PoolPlan, PoolReport, PoolSummary, PoolWord, TimeToFull, Usage,
};
pub use removal::{FailedRemoval, QueueReport, QueueRun, QueueState, RemovedContainer};
pub use repair::{Checked, RepairReport, Repaired, VolumeCheck};
