//! The kernel boundary: device mapper, loop and block devices, file-system calls, udev's
//! semaphores and file locks.
//!
//! Owns every `ioctl` of the library and its only unsafe code (`raw.rs`). What goes in and out is
//! typed: requests and replies are different types, sizes and numbers carry their unit, and an
//! error keeps the command, the device and the kernel's number. Nothing the kernel answers is
//! trusted to be in bounds.

mod abi;
mod blkdev;
mod buffer;
mod control;
mod error;
mod fsctl;
#[cfg(fuzzing)]
pub mod fuzzing;
mod kernel;
mod lock;
mod loopdev;
mod node;
mod raw;
mod reply;
mod semaphore;
#[cfg(feature = "test-util")]
pub(crate) mod wire;

pub use blkdev::{
    Access, discard, is_read_only, logical_block_size, open_direct, open_direct_to_write,
    open_exclusive, physical_block_size, size,
};
pub(crate) use blkdev::{flush, write_direct};
pub use buffer::DevId;
pub use control::{
    Control, Cookie, DEV_MAPPER, Deferred, Flush, Removed, RemovedWhen, SuspendFlags,
};
pub use error::{IoctlError, ReplyError};
pub use fsctl::{XfsGeometry, freeze, resize_ext4, resize_xfs, thaw, trim, xfs_geometry};
#[cfg(feature = "test-util")]
pub(crate) use kernel::{StandIn, stand_in_for};
pub(crate) use kernel::{place, stand_in};
pub use lock::{LockByte, LockFile, LockGuard, LockMode};
pub use loopdev::{
    Detached, FileId, LoopDevice, LoopInfo, LoopOptions, attach_loop, attached_loops, find_loops,
};
pub(crate) use node::block_device;
pub use node::{ensure_block_node, node_by_number, node_dev};
pub use reply::{DeviceInfo, DmVersion, EventNr, ListedDevice, TargetLine, TargetVersion};
pub use rustix::io::Errno;
pub use semaphore::Semaphore;
