//! Power cuts at every write.
//!
//! A history of commands runs on one disk that holds catalogue, metadata and data, below which every write
//! and flush is logged in its order ([`record()`]). Then the disk is built again up to each flush, with and
//! without parts of what followed it, and each such state must be as good as a power cut may leave it
//! ([`replay()`]).

mod check;
mod history;
mod layout;
mod log;
mod plan;
mod record;
mod replay;
mod report;

pub use layout::{DISK_MIB, Layout};
pub(crate) use plan::Random;
pub use plan::{Name, Parts};
pub use record::record;
pub use replay::{Survey, Verdict, replay, survey};
pub use report::{Done, Table, page};
