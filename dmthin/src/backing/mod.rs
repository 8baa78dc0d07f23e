//! What a pool's data and metadata lie on: sparse files behind loop devices, or block devices.
//!
//! Both end as an [`Attached`]: a block device by number, held open until a dm table holds it. A
//! file or device that exists is never truncated, formatted or taken from somebody else.

mod attached;
mod block;
mod error;
mod sparse;

pub use attached::Attached;
pub use block::BlockDevice;
pub use error::BackingError;
pub use sparse::{HostRoom, SparseFile, host_room};
