//! Calls on a mounted file system: trim, freeze, grow.
//!
//! Each takes a descriptor of the mount's root opened for reading: a descriptor of `fsmount`
//! itself is like one of `O_PATH` and takes no `ioctl`.

use std::os::fd::AsFd;

use crate::ioctl::abi;
use crate::ioctl::blkdev::operate;
use crate::ioctl::error::IoctlError;
use crate::ioctl::raw;
use crate::units::Bytes;

/// Sizes of an xfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XfsGeometry {
    /// The unit of the others.
    pub block_size: Bytes,
    /// Blocks of the data section.
    pub data_blocks: u64,
    /// Percentage of space that inodes may take.
    pub inode_percent: u32,
}

/// Discards what the file system does not use; gives how many bytes that was.
///
/// Runs of free space shorter than `shortest` are left alone.
///
/// # Errors
/// [`IoctlError::Io`], with `EOPNOTSUPP` where the device below cannot discard.
pub fn trim(fs: impl AsFd, shortest: Bytes) -> Result<Bytes, IoctlError> {
    let mut range = abi::FstrimRange {
        start: 0,
        len: u64::MAX,
        minlen: shortest.get(),
    };
    operate::<raw::FiTrim>(fs, "trim", &mut range)?;
    Ok(Bytes::new(range.len))
}

/// Brings the file system to a clean state and holds writers until it is thawed.
///
/// # Errors
/// [`IoctlError::Io`], with `EBUSY` where it is frozen already.
pub fn freeze(fs: impl AsFd) -> Result<(), IoctlError> {
    operate::<raw::FiFreeze>(fs, "freeze", &mut 0)
}

/// Lets writers go on.
///
/// # Errors
/// [`IoctlError::Io`], with `EINVAL` where it is not frozen.
pub fn thaw(fs: impl AsFd) -> Result<(), IoctlError> {
    operate::<raw::FiThaw>(fs, "thaw", &mut 0)
}

/// Grows a mounted ext4 to a number of its own blocks, which its device must hold.
///
/// # Errors
/// [`IoctlError::Io`].
pub fn resize_ext4(fs: impl AsFd, blocks: u64) -> Result<(), IoctlError> {
    let mut blocks = blocks;
    operate::<raw::Ext4ResizeFs>(fs, "grow the ext4 on", &mut blocks)
}

/// The sizes of a mounted xfs.
///
/// # Errors
/// [`IoctlError::Io`].
pub fn xfs_geometry(fs: impl AsFd) -> Result<XfsGeometry, IoctlError> {
    let mut geometry = abi::XfsFsopGeomV1::default();
    operate::<raw::XfsGeometry>(fs, "read the geometry of", &mut geometry)?;
    Ok(XfsGeometry {
        block_size: Bytes::new(u64::from(geometry.blocksize)),
        data_blocks: geometry.datablocks,
        inode_percent: geometry.imaxpct,
    })
}

/// Grows a mounted xfs to a number of its own blocks, which its device must hold.
///
/// # Errors
/// [`IoctlError::Io`].
pub fn resize_xfs(fs: impl AsFd, blocks: u64) -> Result<(), IoctlError> {
    let geometry = xfs_geometry(&fs)?;
    let mut growth = abi::XfsGrowfsData {
        newblocks: blocks,
        // The call sets this as well; it is to stay.
        imaxpct: geometry.inode_percent,
    };
    operate::<raw::XfsGrowfsData>(fs, "grow the xfs on", &mut growth)
}
