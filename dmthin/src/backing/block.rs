//! A whole block device, a partition or an LVM volume under a pool.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::backing::attached::Attached;
use crate::backing::error::BackingError;
use crate::ids::DevNo;
use crate::ioctl::{self, Access, IoctlError};
use crate::units::Bytes;

/// A block device, opened for reading and writing beside its other users.
#[derive(Debug)]
pub struct BlockDevice {
    path: PathBuf,
    dev: DevNo,
    size: Bytes,
    file: File,
}

impl BlockDevice {
    /// Opens a device; a link to one, as LVM makes, is followed.
    ///
    /// # Errors
    /// [`BackingError::NotFound`], [`BackingError::NotABlockDevice`], [`BackingError::ReadOnly`],
    /// [`BackingError::Size`] for one that is empty, [`BackingError::Io`], [`BackingError::Ioctl`].
    pub fn open(path: &Path) -> Result<Self, BackingError> {
        // Looked at before it is opened: opening a device of another kind can have effects.
        let not_block = || BackingError::NotABlockDevice {
            path: path.to_owned(),
        };
        let meta = fs::metadata(path).map_err(|e| BackingError::io("look at", path, e))?;
        ioctl::block_device(&meta).ok_or_else(not_block)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::ReadOnlyFilesystem => BackingError::ReadOnly {
                    path: path.to_owned(),
                },
                _ => BackingError::io("open", path, e),
            })?;
        let meta = file
            .metadata()
            .map_err(|e| BackingError::io("look at", path, e))?;
        let dev = ioctl::block_device(&meta).ok_or_else(not_block)?;
        if ioctl::is_read_only(&file)? {
            return Err(BackingError::ReadOnly {
                path: path.to_owned(),
            });
        }
        let size = ioctl::size(&file)?;
        if size == Bytes::ZERO {
            return Err(BackingError::Size {
                path: path.to_owned(),
                size,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            dev,
            size,
            file,
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number.
    #[must_use]
    pub fn dev(&self) -> DevNo {
        self.dev
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.size
    }

    /// The open device, to look at what lies on it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Checks that nobody has a claim on the device: no mount, no dm table, no array.
    ///
    /// # Errors
    /// [`BackingError::InUse`], [`BackingError::Ioctl`].
    pub fn check_unused(&self) -> Result<(), BackingError> {
        match ioctl::open_exclusive(&self.path, Access::ReadWrite) {
            // Let go at once: the dm table makes its own claim, which ours would keep out.
            Ok(_claim) => Ok(()),
            Err(IoctlError::Busy { path }) => Err(BackingError::InUse { path }),
            Err(error) => Err(error.into()),
        }
    }

    /// Ready for a dm table.
    #[must_use]
    pub fn attach(self) -> Attached {
        Attached::block_device(self.dev, self.path, self.size, self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(
            BlockDevice::open(&missing),
            Err(BackingError::NotFound { path }) if path == missing
        ));
        for path in [dir.path(), Path::new("/dev/null")] {
            assert!(matches!(
                BlockDevice::open(path),
                Err(BackingError::NotABlockDevice { path: p }) if p == path
            ));
        }
    }
}
