//! The verbs: pools, images, containers and devices, where catalogue and kernel meet.
//!
//! A [`Host`] is a root directory with pools in it; a [`Pool`] is one of them with its catalogue
//! open. What changes a pool writes its intent to the catalogue first, then acts on the kernel, then
//! writes the result; what a cut left between is settled by `pool open` (`recover.rs`). The
//! kernel's thin pool is the truth for blocks, the catalogue for names.
//!
//! ```no_run
//! use dmthin::graph::{CreateContainer, Host, ImportSource};
//!
//! # fn main() -> Result<(), dmthin::graph::PoolError> {
//! let host = Host::new("/var/lib/dmthin".into());
//! let pool = host.pool(&host.pick_pool(None)?)?;
//! pool.import(&ImportSource::File("debian.tar".into()), None, &mut |_| {})?;
//! let container = pool.create_container(&CreateContainer {
//!     image: "debian:12".to_owned(),
//!     name: None,
//!     size: None,
//! })?;
//! println!("{} is on {:?}", container.name, container.on.device);
//! # Ok(())
//! # }
//! ```

mod aligned;
mod backup;
mod ballast;
mod base;
mod cancel;
mod capture;
mod check;
mod code;
mod commit;
mod container;
mod create;
mod data;
mod devices;
mod diff;
mod discard;
mod disk;
mod doctor;
mod driver;
mod error;
mod existing;
mod export;
mod finding;
mod gc;
mod grow;
mod guard;
mod hint;
mod hold;
mod host;
mod images;
mod import;
mod inside;
mod layer_diff;
mod layer_in;
mod layer_out;
mod layout;
mod live;
mod locks;
pub mod lossy;
mod lvm;
mod mirror;
mod monitor;
mod moved;
mod open;
mod pairing;
mod plan;
mod pool;
mod preview;
mod prune;
mod random;
mod reading;
mod rebuild;
mod recover;
mod removal;
mod repair;
mod report;
mod rollback;
mod snapshot;
mod space;
mod split;
mod status;
mod step;
mod survey;
mod thin_ids;
mod trim;
mod volumes;
mod who;
mod words;
mod writable;

pub use crate::fs::{Holder, MountNs, Pid, Process};
pub use cancel::Which;
pub use capture::Commit;
pub use code::ErrorCode;
pub use commit::Promised;
pub use container::CreateContainer;
pub use create::{CreatePool, DevicePair, PoolOn};
pub use data::CreateVolume;
pub use driver::{Driver, LayerMetadata};
pub use error::{ExistingError, GuardError, PoolError, RebuildError};
pub use export::ExportTo;
pub use finding::{Collected, Collection, Finding, FindingKind, Findings, Outcome, Remedy};
pub use grow::{GrowPool, SetPool};
pub use guard::{Level, UntilGuard};
pub use host::Host;
pub use import::ImportSource;
pub use layer_out::{LayerCheck, LayerTar, LayerVerdict, require_whole};
pub use live::Freeze;
pub use lvm::Lvextend;
pub use mirror::MirrorState;
pub use monitor::{
    Bell, Events, Look, Measure, Measured, MonitorEvent, MonitorOp, MonitorPolicy, NoGrowth,
    OnFull, OnFullError, Operation, PoolMonitor, Space,
};
pub use moved::Adopted;
pub use pairing::PairingError;
pub use pool::Pool;
pub use preview::{PlannedVolume, RemovalPlan};
pub use prune::Parents;
pub use rebuild::{CopyFound, LostVolume, RebuildOn, RebuildPool, RebuildReport};
pub use removal::{QueueRound, Removing};
pub use repair::RepairFrom;
pub use report::{
    BackingReport, Change, CheckReport, Checked, CommitReport, ContainerReport, DataVolumeReport,
    DeviceKind, DeviceReport, DiffReport, Differences, ExportReport, FailedRemoval, GrownContainer,
    GrownVolume, HistoryReport, ImageDetails, ImageReport, ImageSpace, ImportEvent, ImportReport,
    LayerReport, LayerTree, LayersDiff, LivePool, MetadataCopy, OtherSpace, OwnSpace, PathChange,
    PoolPlan, PoolReport, PoolSummary, PoolWord, PrunedImages, QueueReport, QueueRun, QueueState,
    RemovedContainer, RemovedImage, RemovedVolume, RepairReport, Repaired, RungNotTaken,
    SnapshotReport, SpaceReport, StackedLayer, TimeToFull, TrimReport, Usage, Verdict, VolumeCheck,
    VolumeSpace, WhoReport, WritableReport, WrittenLayer,
};
pub use space::{BlockMap, MapCell, MapOwner};
pub use step::{STEP_TARGET, Step};
pub use volumes::VolumeUsage;
