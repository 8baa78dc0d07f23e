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
//! println!("{} is on {:?}", container.name, container.device);
//! # Ok(())
//! # }
//! ```

mod ballast;
mod base;
mod cancel;
mod check;
mod code;
mod commit;
mod container;
mod create;
mod devices;
mod disk;
mod doctor;
mod error;
mod existing;
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
mod layout;
mod live;
mod locks;
pub mod lossy;
mod lvm;
mod monitor;
mod moved;
mod open;
mod plan;
mod pool;
mod preview;
mod random;
mod reading;
mod recover;
mod removal;
mod repair;
mod report;
mod status;
mod survey;
mod trim;
mod volumes;
mod who;
mod words;

pub use crate::fs::{Holder, MountNs, Pid, Process};
pub use cancel::Which;
pub use code::ErrorCode;
pub use commit::Promised;
pub use container::CreateContainer;
pub use create::{CreatePool, DevicePair, PoolOn};
pub use error::PoolError;
pub use finding::{Collected, Collection, Finding, FindingKind, Findings, Outcome, Remedy};
pub use grow::{GrowPool, SetPool};
pub use guard::{Level, UntilGuard};
pub use host::Host;
pub use import::ImportSource;
pub use lvm::Lvextend;
pub use monitor::{
    Bell, Events, Look, Measure, Measured, MonitorEvent, MonitorOp, MonitorPolicy, NoGrowth,
    OnFull, OnFullError, Operation, PoolMonitor, Space,
};
pub use moved::Adopted;
pub use pool::Pool;
pub use preview::{PlannedVolume, RemovalPlan};
pub use removal::{QueueRound, Removing};
pub use report::{
    BackingReport, Change, CheckReport, Checked, ContainerReport, DeviceKind, DeviceReport,
    FailedRemoval, GrownContainer, HistoryReport, ImageReport, ImportEvent, ImportReport,
    LayerReport, LayerTree, LivePool, PoolPlan, PoolReport, PoolSummary, PoolWord, QueueReport,
    QueueRun, QueueState, RemovedContainer, RemovedImage, RepairReport, Repaired, TimeToFull,
    TrimReport, Usage, Verdict, VolumeCheck, WhoReport,
};
pub use volumes::VolumeUsage;
