//! Block devices: sizes, discard, exclusive use.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::ioctl::error::IoctlError;
use crate::ioctl::kernel::stand_in;
use crate::ioctl::raw;
use crate::units::Bytes;

/// What a device is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// The path behind a descriptor, for an error.
pub(super) fn path_of(fd: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    let fd = fd.as_fd().as_raw_fd();
    let link = PathBuf::from(format!("/proc/self/fd/{fd}"));
    std::fs::read_link(&link).unwrap_or(link)
}

/// Performs an operation and gives its error the path behind the descriptor.
pub(super) fn operate<O: raw::Operation>(
    fd: impl AsFd,
    action: &'static str,
    arg: &mut O::Arg,
) -> Result<(), IoctlError> {
    match raw::operate::<O>(fd.as_fd(), arg) {
        Ok(_) => Ok(()),
        Err(errno) => Err(IoctlError::Io {
            action,
            path: path_of(fd),
            errno,
        }),
    }
}

/// The size of a block device.
///
/// # Errors
/// [`IoctlError::Io`], with `ENOTTY` for what is no block device.
pub fn size(fd: impl AsFd) -> Result<Bytes, IoctlError> {
    let mut bytes = 0;
    operate::<raw::BlkGetSize64>(fd, "read the size of", &mut bytes)?;
    Ok(Bytes::new(bytes))
}

/// The smallest unit of a read or write.
///
/// # Errors
/// As [`size`].
pub fn logical_block_size(fd: impl AsFd) -> Result<Bytes, IoctlError> {
    let mut bytes = 0;
    operate::<raw::BlkSszGet>(&fd, "read the block size of", &mut bytes)?;
    let bytes = u64::try_from(bytes).map_err(|_| IoctlError::Io {
        action: "read the block size of",
        path: path_of(&fd),
        errno: Errno::RANGE,
    })?;
    Ok(Bytes::new(bytes))
}

/// The smallest unit the device writes without reading first.
///
/// # Errors
/// As [`size`].
pub fn physical_block_size(fd: impl AsFd) -> Result<Bytes, IoctlError> {
    let mut bytes = 0;
    operate::<raw::BlkPbszGet>(fd, "read the physical block size of", &mut bytes)?;
    Ok(Bytes::new(u64::from(bytes)))
}

/// Whether the device refuses writes.
///
/// # Errors
/// As [`size`].
pub fn is_read_only(fd: impl AsFd) -> Result<bool, IoctlError> {
    let mut read_only = 0;
    operate::<raw::BlkRoGet>(fd, "read the mode of", &mut read_only)?;
    Ok(read_only != 0)
}

/// Tells the device that it may forget a range; offset and length are multiples of its logical
/// block size.
///
/// # Errors
/// [`IoctlError::Io`], with `EOPNOTSUPP` where the device cannot, `EBADF` where it was opened for
/// reading only.
pub fn discard(fd: impl AsFd, offset: Bytes, len: Bytes) -> Result<(), IoctlError> {
    operate::<raw::BlkDiscard>(fd, "discard on", &mut [offset.get(), len.get()])
}

/// Opens a block device that nobody else has a claim on: no mount, no dm table, no other caller
/// of this function.
///
/// # Errors
/// [`IoctlError::Busy`], [`IoctlError::PermissionDenied`], [`IoctlError::Io`].
pub fn open_exclusive(path: &Path, access: Access) -> Result<OwnedFd, IoctlError> {
    open(path, access, libc::O_EXCL).map(OwnedFd::from)
}

/// Opens a block device for reading what lies on it, not what its page cache has of it: offsets,
/// lengths and memory must be multiples of its block size.
///
/// # Errors
/// As of [`open_exclusive`], but for being busy.
pub fn open_direct(path: &Path) -> Result<File, IoctlError> {
    open(path, Access::ReadOnly, libc::O_DIRECT)
}

/// As [`open_direct`], for writing too.
///
/// # Errors
/// As of [`open_direct`].
pub fn open_direct_to_write(path: &Path) -> Result<File, IoctlError> {
    open(path, Access::ReadWrite, libc::O_DIRECT)
}

/// Writes to a device that was opened for that past the page cache.
///
/// # Errors
/// Where not all of it could be written.
pub(crate) fn write_direct(device: &File, at: Bytes, bytes: &[u8]) -> io::Result<()> {
    match stand_in() {
        Some(kernel) => Ok(kernel.write(device, at.get(), bytes)?),
        None => device.write_all_at(bytes, at.get()),
    }
}

/// Has what was written to a device be on its disk.
///
/// # Errors
/// Where it cannot be, or something that was written before could not.
pub(crate) fn flush(device: &File) -> io::Result<()> {
    match stand_in() {
        Some(kernel) => Ok(kernel.flush(device)?),
        None => device.sync_all(),
    }
}

/// Opens a block device beside others that have it open.
pub(super) fn open(path: &Path, access: Access, flags: i32) -> Result<File, IoctlError> {
    let write = access == Access::ReadWrite;
    let result = match stand_in() {
        Some(kernel) => kernel.open(path, write, flags),
        None => OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_CLOEXEC | flags)
            .open(path),
    };
    result.map_err(|error| {
        let path = path.to_owned();
        match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::BUSY => IoctlError::Busy { path },
            Errno::ACCESS | Errno::PERM => IoctlError::PermissionDenied { path },
            errno => IoctlError::Io {
                action: "open",
                path,
                errno,
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_block_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = size(file.as_file()).unwrap_err();
        assert!(
            matches!(
                &error,
                IoctlError::Io { action: "read the size of", path, errno: Errno::NOTTY }
                    if path == file.path()
            ),
            "{error:?}"
        );
        for result in [
            logical_block_size(file.as_file()).map(drop),
            physical_block_size(file.as_file()).map(drop),
            is_read_only(file.as_file()).map(drop),
            discard(file.as_file(), Bytes::ZERO, Bytes::from_kib(4)),
        ] {
            assert_eq!(result.unwrap_err().errno(), Some(Errno::NOTTY));
        }
    }
}
