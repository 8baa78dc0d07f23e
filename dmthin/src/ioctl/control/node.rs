//! The control node: opened, and made where nobody made it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use crate::ids::DevNo;
use crate::ioctl::error::IoctlError;

/// The major number of misc devices, where `/proc/devices` cannot be read.
const MISC_MAJOR: u32 = 10;

pub(super) fn open_node(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
}

pub(super) fn node_error(action: &'static str, path: &Path, error: &io::Error) -> IoctlError {
    let path = PathBuf::from(path);
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS | Errno::PERM) => IoctlError::PermissionDenied { path },
        // A node whose driver is not there.
        Some(Errno::NODEV | Errno::NXIO) => IoctlError::NoDeviceMapper { path },
        errno => IoctlError::Io {
            action,
            path,
            errno: errno.unwrap_or(Errno::IO),
        },
    }
}

/// Makes the control node by the numbers the kernel gives it.
pub(super) fn make_node(path: &Path) -> Result<(), IoctlError> {
    let missing = || IoctlError::NoDeviceMapper {
        path: path.to_owned(),
    };
    let misc = fs::read_to_string("/proc/misc").map_err(|_| missing())?;
    let minor = number_of("device-mapper", &misc).ok_or_else(missing)?;
    let major = fs::read_to_string("/proc/devices")
        .ok()
        .and_then(|devices| number_of("misc", &devices))
        .unwrap_or(MISC_MAJOR);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| node_error("make", dir, &error))?;
    }
    let dev = DevNo::new(major, minor);
    match rustix::fs::mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        dev.to_dev_t(),
    ) {
        // Somebody was faster.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(node_error("make", path, &errno.into())),
    }
}

/// The number of a driver in a list of `number name` lines.
fn number_of(driver: &str, list: &str) -> Option<u32> {
    list.lines()
        .filter_map(|line| line.trim().split_once(' '))
        .find(|(_, name)| name.trim() == driver)
        .and_then(|(number, _)| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_numbers_are_read_from_proc() {
        let misc = "235 autofs\n236 device-mapper\n 62 loop-control\n";
        assert_eq!(number_of("device-mapper", misc), Some(236));
        assert_eq!(number_of("loop-control", misc), Some(62));
        assert_eq!(number_of("mapper", misc), None);
        let devices = "Character devices:\n  1 mem\n 10 misc\n\nBlock devices:\n254 virtblk\n";
        assert_eq!(number_of("misc", devices), Some(10));
    }

    #[test]
    fn why_the_node_cannot_be_opened_is_told_apart() {
        let path = Path::new("/dev/mapper/control");
        let error = |errno: Errno| node_error("open", path, &errno.into());
        for errno in [Errno::NODEV, Errno::NXIO] {
            assert!(matches!(
                error(errno),
                IoctlError::NoDeviceMapper { path: p } if p == path
            ));
        }
        for errno in [Errno::ACCESS, Errno::PERM] {
            assert!(matches!(
                error(errno),
                IoctlError::PermissionDenied { path: p } if p == path
            ));
        }
        assert_eq!(error(Errno::MFILE).errno(), Some(Errno::MFILE));
    }
}
