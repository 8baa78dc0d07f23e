//! Device mapper as the pool needs it: names and uuids, table lines, status lines, and the life
//! of devices, pools and volumes.
//!
//! A device is activated (made, given a table, resumed, its node checked), perhaps suspended
//! under a guard that resumes it, reloaded, and deactivated. [`Dm`] does that for any target;
//! [`ThinPool`] adds a pool's messages, each confirmed by the pool's status, and its volumes.
//! [`EventWaiter`] waits for the kernel to say that something changed.

mod device;
mod error;
mod event;
mod line;
mod linear;
pub mod names;
mod pool;
mod status;
mod suspend;
mod table;
mod thin;
mod turns;
mod udev;

pub use device::{ActivateOptions, Device, Dm};
pub use error::DmError;
pub use event::EventWaiter;
pub use line::LineError;
pub use names::{OwnKind, OwnUuid, PartKind};
pub use pool::ThinPool;
pub use status::{
    DiscardMode, OnFull, PoolMode, PoolStatus, SilentStatus, ThinStatus, WorkingPool,
};
pub use suspend::Suspended;
pub use table::{ErrorTable, FlakeyTable, LinearTable, PoolFeatures, ThinPoolTable, ThinTable};
pub(crate) use udev::free_cookies;
pub use udev::{NodePolicy, UdevFlags};
