//! The monitor: looks after one pool, so that it is not full and does what it can when it is.
//!
//! [`PoolMonitor::look`] looks once and acts; who runs it sleeps in between on [`Events`], which the
//! kernel wakes, or at the latest after [`Look::next`]. Nothing is kept that a killed monitor would
//! take with it: each look begins with what the kernel and the catalogue say.
//!
//! The kernel tells of data running low once for each resume of the pool
//! (`drivers/md/dm-thin.c:check_low_water_mark`), of metadata only when 4 MiB of it are left
//! (`dm-thin-metadata.c:calc_metadata_threshold`). So the mark is put where the pool is to be grown,
//! and metadata that are used up fast are looked at more often.

mod bell;
mod copies;
mod events;
mod growth;
mod measure;
mod operation;
mod policy;
mod pool;
mod samples;

pub use bell::Bell;
pub use events::{Events, MonitorEvent, NoGrowth, Space};
pub use measure::{Measure, Measured};
pub use operation::{MonitorOp, Operation};
pub(crate) use policy::step;
pub use policy::{MonitorPolicy, OnFull, OnFullError};
pub use pool::{Look, PoolMonitor};
pub(crate) use samples::{Sample, Samples};
