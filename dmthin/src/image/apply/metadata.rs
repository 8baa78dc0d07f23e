//! Attributes of entries, and what an application reports.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use rustix::fs::{Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::tree::proc_path;
use crate::image::ImageError;
use crate::image::error::{entry_error, path_of};
use crate::image::tarball::Mtime;
use crate::units::Bytes;

/// What became of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Entries of the tar stream, whiteouts included.
    pub entries: u64,
    /// Whiteouts and opaque markers among them.
    pub whiteouts: u64,
    /// Bytes written to files.
    pub bytes: u64,
    /// Bytes of the tar stream to its end, padding included.
    pub tar_bytes: u64,
    /// Whether an entry took away what another one of this layer had made, or the way to it.
    pub(in crate::image) displaced: bool,
    /// Extended attributes the file system or the kernel did not take, by name (of at most 64
    /// names), with how many files each was left out of. SELinux labels are never set and not
    /// counted.
    pub skipped_xattrs: BTreeMap<String, u64>,
}

impl Applied {
    fn skip_xattr(&mut self, name: &[u8]) {
        const NAMES: usize = 64;
        let name = String::from_utf8_lossy(name).into_owned();
        if self.skipped_xattrs.len() < NAMES || self.skipped_xattrs.contains_key(&name) {
            let count = self.skipped_xattrs.entry(name).or_default();
            *count = count.saturating_add(1);
        }
    }
}

/// Both times the same: two imports of one layer are then equal.
pub(super) fn times(mtime: Mtime) -> Timestamps {
    let at = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

/// Where an attribute is set.
#[derive(Debug, Clone, Copy)]
pub(super) enum On<'a> {
    /// An open file.
    File(BorrowedFd<'a>),
    /// A name in a directory, a link not followed.
    Name(BorrowedFd<'a>, &'a [u8]),
}

/// Sets extended attributes, after the owner: a change of owner drops capabilities.
pub(super) fn set_xattrs(
    on: On<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    entry: &[u8],
    applied: &mut Applied,
) -> Result<(), ImageError> {
    for (name, value) in xattrs {
        // A label belongs to the host's policy, not to the image.
        if name == b"security.selinux" {
            continue;
        }
        let flags = XattrFlags::empty();
        let result = match on {
            On::File(fd) => rustix::fs::fsetxattr(fd, name.as_slice(), value, flags),
            On::Name(dir, file) => {
                let path = proc_path(dir, file);
                rustix::fs::lsetxattr(path.as_slice(), name.as_slice(), value, flags)
            }
        };
        match result {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => applied.skip_xattr(name),
            Err(Errno::RANGE | Errno::TOOBIG) => return Err(too_large(entry, name, value)),
            // ext4 answers so where the value does not fit its one block, room or not
            // (fs/ext4/xattr.c:ext4_xattr_set_entry).
            Err(Errno::NOSPC) if has_room(on) => return Err(too_large(entry, name, value)),
            Err(errno) => return Err(entry_error("set an extended attribute of", entry, errno)),
        }
    }
    Ok(())
}

/// Takes away the access lists that something new has from the directory it was made in, and that its
/// entry does not give it.
pub(super) fn drop_inherited(
    on: On<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    entry: &[u8],
) -> Result<(), ImageError> {
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        if xattrs.iter().any(|(own, _)| own == name.as_bytes()) {
            continue;
        }
        let result = match on {
            On::File(fd) => rustix::fs::fremovexattr(fd, name),
            On::Name(dir, file) => rustix::fs::lremovexattr(proc_path(dir, file).as_slice(), name),
        };
        match result {
            // None there, or no such lists on this file system or of this kind of file.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(errno) => return Err(entry_error("change the access list of", entry, errno)),
        }
    }
    Ok(())
}

fn has_room(on: On<'_>) -> bool {
    let fd = match on {
        On::File(fd) => fd,
        On::Name(dir, _) => dir,
    };
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| stat.f_bavail > 0)
}

fn too_large(entry: &[u8], name: &[u8], value: &[u8]) -> ImageError {
    ImageError::XattrTooLarge {
        path: path_of(entry),
        name: String::from_utf8_lossy(name).into_owned(),
        size: Bytes::new(u64::try_from(value.len()).unwrap_or(u64::MAX)),
    }
}
