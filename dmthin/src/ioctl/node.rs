//! Device nodes: what device a node is, and making one where no udev does.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use crate::ids::DevNo;
use crate::ioctl::error::IoctlError;
use crate::ioctl::kernel::{place, stand_in};

/// The block device that what was looked at is, if it is one.
pub(crate) fn block_device(found: &Metadata) -> Option<DevNo> {
    if let Some(kernel) = stand_in() {
        return kernel.block_device(found);
    }
    let is_one = found.file_type().is_block_device();
    is_one.then(|| DevNo::from_dev_t(found.rdev()))
}

fn make_block_node(path: &Path, dev: DevNo) -> Result<(), Errno> {
    if let Some(kernel) = stand_in() {
        return kernel.make_node(path, dev);
    }
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
    rustix::fs::mknodat(CWD, path, FileType::BlockDevice, mode, dev.to_dev_t())
}

/// The block device that a path leads to, links followed; `None` where there is nothing.
///
/// # Errors
/// [`IoctlError::Io`], with `ENOTBLK` for what is no block device.
pub fn node_dev(path: &Path) -> Result<Option<DevNo>, IoctlError> {
    let error = |errno| IoctlError::Io {
        action: "look at",
        path: path.to_owned(),
        errno,
    };
    match fs::metadata(path) {
        Ok(found) => match block_device(&found) {
            Some(dev) => Ok(Some(dev)),
            None => Err(error(Errno::NOTBLK)),
        },
        Err(found) => match Errno::from_io_error(&found) {
            Some(Errno::NOENT) => Ok(None),
            errno => Err(error(errno.unwrap_or(Errno::IO))),
        },
    }
}

/// Where the kernel wants the node of a block device, dm devices aside, which it calls otherwise than everybody
/// else; `None` where it has no such device.
#[must_use]
pub fn node_by_number(dev: DevNo) -> Option<PathBuf> {
    let told = place(format!("/sys/dev/block/{dev}/uevent"));
    let told = fs::read_to_string(told).ok()?;
    let name = told
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(place(Path::new("/dev").join(name)))
}

/// Makes the block device node of a device, mode 0660, where there is none; says whether it did.
/// What is there already must lead to this device.
///
/// # Errors
/// [`IoctlError::WrongNode`] for something else in its place, [`IoctlError::Io`].
pub fn ensure_block_node(path: &Path, dev: DevNo) -> Result<bool, IoctlError> {
    let made = match make_block_node(path, dev) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => {
            return Err(IoctlError::Io {
                action: "make the node",
                path: path.to_owned(),
                errno,
            });
        }
    };
    // Read back even what was just made: udev may have put its link there in between.
    let wrong = |found| IoctlError::WrongNode {
        path: path.to_owned(),
        expected: dev,
        found,
    };
    match node_dev(path) {
        Ok(Some(found)) if found == dev => Ok(made),
        Ok(Some(found)) => Err(wrong(format!("device {found}"))),
        Ok(None) => Err(wrong("a link to nowhere".to_owned())),
        Err(IoctlError::Io {
            errno: Errno::NOTBLK,
            ..
        }) => Err(wrong("no block device".to_owned())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_node_of_the_device_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dev = DevNo::new(254, 9);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for (path, what) in [(&file, "no block device"), (&link, "a link to nowhere")] {
            let error = ensure_block_node(path, dev).unwrap_err();
            assert!(
                matches!(&error, IoctlError::WrongNode { found, .. } if found == what),
                "{error:?}"
            );
        }
        assert_eq!(node_dev(&dir.path().join("none")).unwrap(), None);
        assert_eq!(node_dev(&file).unwrap_err().errno(), Some(Errno::NOTBLK));
    }
}
