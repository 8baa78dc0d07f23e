//! Resets of a machine at moments that nobody chose, under load.
//!
//! One pool goes through all rounds. In each the machine boots, looks at what the last reset left
//! (`check`), goes on with the load (`load`), and is reset: by `sysrq-b` from within or by the end of
//! the process that is the machine, in turns. What the load had done is told to a disk of its own (`told.rs`),
//! past all caches, so that the next boot knows what must be there, to the last verb.

mod check;
mod load;
mod plan;
mod report;
mod told;

pub use check::Found;
pub use load::{DONE, LOADING, round};
pub use plan::{How, Moment, moments};
pub use report::{Done, page};
pub use told::DISK_MIB;
