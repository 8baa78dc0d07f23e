//! What the library asks of the kernel beyond plain files, and a way to have something else answer.
//!
//! Each function here is called at the one place that makes the system call: where nothing stands in,
//! which is always so but for the feature `test-util`, the call goes to the kernel. There a thread may
//! have a model of the kernel answer ([`stand_in_for`]); everything above these calls is then run as it
//! is, nodes and backing files being plain files under the model's own directory.

use std::any::Any;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::ioctl::Opcode;

use crate::ids::DevNo;
use crate::ioctl::abi::Command;

/// Answers in the kernel's place.
pub(crate) trait StandIn {
    /// Where a place below `/dev`, `/proc` or `/sys` is.
    fn place(&self, path: &Path) -> PathBuf;
    /// A command of the control node, its reply written over it.
    fn dm(&self, command: Command, words: &mut [u64]) -> Result<i32, Errno>;
    /// Any other `ioctl`, its argument as the operation has it.
    fn ioctl(&self, fd: BorrowedFd<'_>, opcode: Opcode, arg: &mut dyn Any) -> Result<i32, Errno>;
    /// Opens a node with the flags of open(2).
    fn open(&self, path: &Path, write: bool, flags: i32) -> io::Result<File>;
    /// The block device that a node is.
    fn block_device(&self, node: &Metadata) -> Option<DevNo>;
    /// Makes the node of a block device.
    fn make_node(&self, path: &Path, dev: DevNo) -> Result<(), Errno>;
    /// The root of what is on a device, mounted nowhere.
    fn mount(&self, node: &Path, read_only: bool) -> Result<OwnedFd, Errno>;
    /// Writes a mounted file system to its device.
    fn sync(&self, root: BorrowedFd<'_>) -> Result<(), Errno>;
    /// Writes to a device past the page cache.
    fn write(&self, device: &File, at: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// Writes what a device was given to its disk.
    fn flush(&self, device: &File) -> Result<(), Errno>;
    /// Runs a program on a device.
    fn run(&self, program: &str, args: &[String], node: &Path) -> io::Result<Output>;
}

#[cfg(feature = "test-util")]
mod current {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::StandIn;

    thread_local! {
        static CURRENT: RefCell<Option<Arc<dyn StandIn>>> = const { RefCell::new(None) };
    }

    pub(super) fn get() -> Option<Arc<dyn StandIn>> {
        CURRENT.with(|current| current.borrow().clone())
    }

    pub(super) fn set(to: Option<Arc<dyn StandIn>>) -> Option<Arc<dyn StandIn>> {
        CURRENT.with(|current| current.replace(to))
    }
}

/// What answers on this thread in the kernel's place, if anything does.
#[cfg(feature = "test-util")]
pub(crate) fn stand_in() -> Option<Arc<dyn StandIn>> {
    current::get()
}

/// Nothing does.
#[cfg(not(feature = "test-util"))]
pub(crate) const fn stand_in() -> Option<Arc<dyn StandIn>> {
    None
}

/// Has this answer on this thread, or the kernel again; gives what did until now.
#[cfg(feature = "test-util")]
pub(crate) fn stand_in_for(to: Option<Arc<dyn StandIn>>) -> Option<Arc<dyn StandIn>> {
    current::set(to)
}

/// Where a place below `/dev`, `/proc` or `/sys` is.
pub(crate) fn place(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    stand_in().map_or_else(|| path.to_owned(), |kernel| kernel.place(path))
}
