//! A block device ready for a dm table.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::backing::error::BackingError;
use crate::ids::DevNo;
use crate::ioctl::{self, Access, Errno, IoctlError, LoopDevice, LoopInfo};
use crate::units::Bytes;

/// How much is zeroed at the begin of a wiped device: every mark that names an owner lies there.
const WIPE: usize = 1 << 20;

/// A block device that a dm table can name, held open.
///
/// A loop device of ours goes with its last user: keep this until the table holds the device.
#[derive(Debug)]
pub struct Attached {
    dev: DevNo,
    node: PathBuf,
    size: Bytes,
    hold: Hold,
}

#[derive(Debug)]
enum Hold {
    Loop(LoopDevice),
    Block(#[expect(dead_code, reason = "held open, not read")] File),
}

impl Attached {
    pub(super) fn loop_device(device: LoopDevice, size: Bytes) -> Self {
        Self {
            dev: device.dev(),
            node: device.path().to_owned(),
            size,
            hold: Hold::Loop(device),
        }
    }

    pub(super) fn block_device(dev: DevNo, node: PathBuf, size: Bytes, file: File) -> Self {
        Self {
            dev,
            node,
            size,
            hold: Hold::Block(file),
        }
    }

    /// The device's number, for a dm table.
    #[must_use]
    pub fn dev(&self) -> DevNo {
        self.dev
    }

    /// The device's node.
    #[must_use]
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The device's size.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// How the file is attached; `None` for a block device.
    ///
    /// # Errors
    /// [`IoctlError::Io`].
    pub fn loop_info(&self) -> Result<Option<LoopInfo>, IoctlError> {
        match &self.hold {
            Hold::Loop(device) => device.info().map(Some),
            Hold::Block(_) => Ok(None),
        }
    }

    /// Zeroes the first block of 4096 bytes, durably: the kernel takes a metadata device that
    /// begins so for a new one (`drivers/md/dm-thin-metadata.c:__superblock_all_zeroes`).
    ///
    /// # Errors
    /// [`BackingError::Io`].
    pub fn zero_first_block(&self) -> Result<(), BackingError> {
        self.zero(4096)
    }

    /// Gives every block back where the device takes discards, and zeroes its begin, durably, so
    /// that nothing is found on it any more.
    ///
    /// # Errors
    /// [`BackingError::Io`], [`BackingError::Ioctl`] with [`IoctlError::Busy`] where it is in use.
    pub fn wipe(&self) -> Result<(), BackingError> {
        let device = ioctl::open_exclusive(&self.node, Access::ReadWrite)?;
        match ioctl::discard(&device, Bytes::ZERO, self.size) {
            Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => {}
            result => result?,
        }
        drop(device);
        let size = usize::try_from(self.size.get()).unwrap_or(usize::MAX);
        self.zero(WIPE.min(size))
    }

    fn zero(&self, len: usize) -> Result<(), BackingError> {
        let failed = |source| BackingError::io("zero the begin of", &self.node, source);
        let device = OpenOptions::new()
            .write(true)
            .open(&self.node)
            .map_err(failed)?;
        device
            .write_all_at(&vec![0; len], 0)
            .and_then(|()| device.sync_all())
            .map_err(failed)
    }
}
