//! What can go wrong with what a pool lies on, one variant per cause.

use std::io;
use std::path::PathBuf;

use crate::ioctl::IoctlError;
use crate::units::Bytes;

/// A backing file or device cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackingError {
    /// The file to be created is there already.
    #[error("{path} exists: it is left as it is; remove it yourself if it is not needed", path = path.display())]
    AlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// The file or device to be opened is not there.
    #[error("{path} does not exist", path = path.display())]
    NotFound {
        /// The file or device.
        path: PathBuf,
    },
    /// What was to be a pool's file is a directory, a link or something else.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// What was to be a block device is something else.
    #[error("{path} is not a block device", path = path.display())]
    NotABlockDevice {
        /// The path.
        path: PathBuf,
    },
    /// The size is not one a file can be attached with in full.
    #[error("{path}: a size of {} bytes is not a positive multiple of 4096", size.get(), path = path.display())]
    Size {
        /// The file or device.
        path: PathBuf,
        /// The size.
        size: Bytes,
    },
    /// The device refuses writes.
    #[error("{path} is read-only", path = path.display())]
    ReadOnly {
        /// The device.
        path: PathBuf,
    },
    /// Somebody uses the device: a mount, a dm table, an array.
    #[error("{path} is in use: unmount it or remove the devices on it first", path = path.display())]
    InUse {
        /// The device.
        path: PathBuf,
    },
    /// The file is attached to several loop devices, which do not see each other's writes.
    #[error("{path} is attached more than once ({loops}): detach all but one with `losetup -d`", path = path.display())]
    AttachedTwice {
        /// The file.
        path: PathBuf,
        /// The loop devices.
        loops: String,
    },
    /// Somebody has attached the file in a way that does not serve a pool.
    #[error("{node} shows {path} {how}: detach it with `losetup -d {node}`", path = path.display(), node = node.display())]
    AttachedOtherwise {
        /// The file.
        path: PathBuf,
        /// The loop device.
        node: PathBuf,
        /// What is wrong with it.
        how: &'static str,
    },
    /// An operation on a file failed.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A step failed, and so did the removal of the file that was made before it.
    #[error("{cause}; and {path} could not be removed again: {undo}", path = path.display())]
    Rollback {
        /// The first failure.
        #[source]
        cause: Box<BackingError>,
        /// The file left behind.
        path: PathBuf,
        /// The second failure.
        undo: io::Error,
    },
    /// A call on a loop or block device failed.
    #[error(transparent)]
    Ioctl(#[from] IoctlError),
}

impl BackingError {
    pub(super) fn io(action: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}
