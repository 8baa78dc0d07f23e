//! What the verbs answer: plain records, ready for a table or for JSON.
//!
//! Numbers stay numbers (bytes, counts); names that a later version adds are additions only, so
//! that a reader of `"schema": "dmthin/v1"` never breaks.

mod change;
mod container;
mod device;
mod diff;
mod doctor;
mod image;
mod pool;
mod removal;
mod repair;
mod space;
mod volume;
mod writable;

pub use change::Change;
pub use container::{ContainerReport, GrownContainer, TrimReport, WhoReport};
pub use device::{DeviceKind, DeviceReport};
pub use diff::{DiffReport, Differences, LayersDiff, PathChange, RungNotTaken};
pub use doctor::{CheckReport, Verdict};
pub use image::{
    CommitReport, ExportReport, HistoryReport, ImageDetails, ImageReport, ImportEvent,
    ImportReport, LayerReport, LayerTree, PrunedImages, RemovedImage, StackedLayer, WrittenLayer,
};
pub use pool::{
    BackingReport, LivePool, PoolPlan, PoolReport, PoolSummary, PoolWord, TimeToFull, Usage,
};
pub use removal::{FailedRemoval, QueueReport, QueueRun, QueueState, RemovedContainer};
pub use repair::{Checked, MetadataCopy, RepairReport, Repaired, VolumeCheck};
pub use space::{ImageSpace, OtherSpace, OwnSpace, SpaceReport, VolumeSpace};
pub use volume::{DataVolumeReport, GrownVolume, RemovedVolume, SnapshotReport};
pub use writable::WritableReport;
