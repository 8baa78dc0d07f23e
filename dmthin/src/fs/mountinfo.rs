//! The table of mounts of this process (proc(5), `/proc/PID/mountinfo`), and unmounting.
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//! id parent dev root target options optional... - type source super-options
//! ```
//! Blanks, tabs, newlines and backslashes in a field are written as three octal digits after a
//! backslash (`fs/proc_namespace.c`, `mangle`).

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::fs::error::FsError;
use crate::ids::DevNo;
use crate::ioctl::{Errno, place};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The device.
    pub dev: DevNo,
    /// Which directory of the file system is seen: `/`, but for bind mounts.
    pub root: PathBuf,
    /// Where it is seen.
    pub target: PathBuf,
    /// The mount's own options, as `rw,noatime`.
    pub options: String,
    /// The kernel's name of the file system.
    pub fs_type: String,
}

/// Undoes the escapes of a field.
pub(super) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    loop {
        rest = match rest {
            [] => break,
            [
                b'\\',
                high @ b'0'..=b'3',
                middle @ b'0'..=b'7',
                low @ b'0'..=b'7',
                tail @ ..,
            ] => {
                let value = [high, middle, low]
                    .into_iter()
                    .fold(0, |value: u8, digit| (value << 3) | (digit & 7));
                bytes.push(value);
                tail
            }
            [byte, tail @ ..] => {
                bytes.push(*byte);
                tail
            }
        };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn entry(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let dev = text(fields.nth(2)?).parse().ok()?;
    let root = unescape(fields.next()?);
    let target = unescape(fields.next()?);
    let options = text(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    Some(MountEntry {
        dev,
        root,
        target,
        options,
        fs_type,
    })
}

/// Reads a table of mounts.
///
/// # Errors
/// [`FsError::MountLine`].
pub fn parse_mountinfo(table: &[u8]) -> Result<Vec<MountEntry>, FsError> {
    table
        .split(|byte| *byte == b'\n')
        .zip(1..)
        .filter(|(line, _)| !line.is_empty())
        .map(|(line, number)| {
            entry(line).ok_or_else(|| FsError::MountLine {
                number,
                line: String::from_utf8_lossy(line).into_owned(),
            })
        })
        .collect()
}

/// The mounts of a device that this process sees, in the order they were made. Mounts in other mount
/// namespaces, and detached ones, are not seen.
///
/// # Errors
/// [`FsError::ReadMounts`], [`FsError::MountLine`].
pub fn mounts_of(dev: DevNo) -> Result<Vec<MountEntry>, FsError> {
    let table = fs::read(place(MOUNTINFO)).map_err(|source| FsError::ReadMounts {
        path: PathBuf::from(MOUNTINFO),
        source,
    })?;
    let mut entries = parse_mountinfo(&table)?;
    entries.retain(|entry| entry.dev == dev);
    Ok(entries)
}

/// The directory a mount is seen at, opened for reading; `None` where something else is seen there
/// now, or the mount is of a single file.
#[must_use]
pub fn open_mount(mount: &MountEntry) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&mount.target, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&dir).ok()?;
    (DevNo::from_dev_t(stat.st_dev) == mount.dev).then_some(dir)
}

/// Unmounts what is mounted at a path; the topmost, where several are. Never lazily: what is busy
/// stays.
///
/// # Errors
/// [`FsError::UnmountBusy`], [`FsError::NotMounted`], [`FsError::Unmount`].
pub fn unmount(path: &Path) -> Result<(), FsError> {
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW).map_err(|errno| {
        let path = path.to_owned();
        match errno {
            Errno::BUSY => FsError::UnmountBusy { path },
            Errno::INVAL | Errno::NOENT => FsError::NotMounted { path },
            errno => FsError::Unmount { path, errno },
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lines_of_the_manual_page_are_taken_apart() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
            29 1 254:3 / /a\\040b\\134\\011\\012c ro,nosuid shared:1 master:2 - ext4 /dev/x\\040y ro\n\
            30 1 0:5 / /- rw - tmpfs - rw\n";
        let expected = [
            ("98:0", "/mnt1", "/mnt2", "rw,noatime", "ext3"),
            ("254:3", "/", "/a b\\\t\nc", "ro,nosuid", "ext4"),
            ("0:5", "/", "/-", "rw", "tmpfs"),
        ]
        .map(|(dev, root, target, options, fs_type)| MountEntry {
            dev: dev.parse().expect("a device number"),
            root: root.into(),
            target: target.into(),
            options: options.to_owned(),
            fs_type: fs_type.to_owned(),
        });
        assert_eq!(parse_mountinfo(table).unwrap(), expected);
    }

    #[test]
    fn names_keep_bytes_that_are_no_text() {
        let entries = parse_mountinfo(b"1 1 1:1 / /\xff\\377\\0 rw - x y z").unwrap();
        let target = entries.first().unwrap().target.clone().into_os_string();
        assert_eq!(target.into_vec(), b"/\xff\xff\\0");
    }

    #[test]
    fn a_broken_line_is_named() {
        for line in ["1 1", "1 1 x / / rw - a b c", "1 1 1:1 / / rw a b c"] {
            let table = format!("1 1 1:1 / / rw - x y z\n{line}\n");
            match parse_mountinfo(table.as_bytes()) {
                Err(FsError::MountLine { number: 2, line: l }) => assert_eq!(l, line),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn our_own_table_is_understood() {
        let table = fs::read(MOUNTINFO).unwrap();
        assert!(!parse_mountinfo(&table).unwrap().is_empty());
        assert_eq!(mounts_of(DevNo::new(4095, 1_048_575)).unwrap(), []);
    }

    #[test]
    fn a_mount_is_opened_only_while_it_is_seen_there() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let entry = |dev, target: &Path| MountEntry {
            dev,
            root: "/".into(),
            target: target.to_owned(),
            options: String::new(),
            fs_type: String::new(),
        };
        let dev = DevNo::from_dev_t(fs::metadata(dir.path()).unwrap().dev());
        assert!(open_mount(&entry(dev, dir.path())).is_some());
        assert!(open_mount(&entry(DevNo::new(4095, 1), dir.path())).is_none());
        assert!(open_mount(&entry(dev, &dir.path().join("none"))).is_none());
    }

    #[test]
    fn what_is_not_mounted_is_said_to_be_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        match unmount(&path) {
            Err(FsError::NotMounted { path: p }) => assert_eq!(p, path),
            // Without root the kernel does not even look.
            Err(FsError::Unmount {
                errno: Errno::PERM, ..
            }) => {}
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(table in prop::collection::vec(prop::sample::select(b"0123456789: \\-/rw\nx\xff".to_vec()), 0..200)) {
            let _ = parse_mountinfo(&table);
        }
    }
}
