//! Grows and trims mounted file systems.

use std::os::fd::AsFd;

use crate::fs::error::FsError;
use crate::ids::FsType;
use crate::ioctl;
use crate::units::Bytes;

/// Grows the mounted file system whose root is `root`, opened for reading, to `size`. What is less
/// than a block of it is left over. The device must have that size already.
///
/// # Errors
/// [`FsError::Shrink`] for an xfs that is larger already, [`FsError::BlockSize`],
/// [`FsError::Ioctl`], with `EINVAL` for an ext4 that is larger already.
pub fn grow(root: impl AsFd, fs: FsType, size: Bytes) -> Result<(), FsError> {
    match fs {
        FsType::Ext4 => {
            let stat =
                rustix::fs::fstatvfs(&root).map_err(|errno| FsError::BlockSize { fs, errno })?;
            ioctl::resize_ext4(root, blocks(size, Bytes::new(stat.f_bsize)))?;
        }
        FsType::Xfs => {
            let geometry = ioctl::xfs_geometry(&root)?;
            let blocks = blocks(size, geometry.block_size);
            if blocks < geometry.data_blocks {
                let found = geometry
                    .data_blocks
                    .saturating_mul(geometry.block_size.get());
                return Err(FsError::Shrink {
                    fs,
                    found: Bytes::new(found),
                    asked: size,
                });
            }
            // Asked for the size it has, xfs of some versions reports an error.
            if blocks > geometry.data_blocks {
                ioctl::resize_xfs(root, blocks)?;
            }
        }
    }
    Ok(())
}

fn blocks(size: Bytes, block_size: Bytes) -> u64 {
    size.get().checked_div(block_size.get()).unwrap_or(0)
}

/// Discards what the mounted file system whose root is `root`, opened for reading, does not use;
/// gives how much that was.
///
/// # Errors
/// [`FsError::Ioctl`], with `EOPNOTSUPP` where the device below cannot discard.
pub fn trim(root: impl AsFd) -> Result<Bytes, FsError> {
    Ok(ioctl::trim(root, Bytes::ZERO)?)
}
