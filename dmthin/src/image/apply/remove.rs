//! Removal of what was there: all of it, or what lower layers left.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::kind_of;
use super::unpacked::Unpacked;
use crate::image::ImageError;
use crate::image::error::{entry_error, path_of};

/// How deep directories are followed down; each level holds a descriptor open.
pub(super) const MAX_DEPTH: usize = 256;

/// One removal.
#[derive(Debug)]
pub(super) struct Removal<'a> {
    /// The entry that asks for it: what errors name.
    pub(super) entry: &'a [u8],
    /// What to spare; nothing where an entry replaces another.
    pub(super) spare: Option<&'a Unpacked>,
    /// Inode numbers of directories that went.
    pub(super) removed_dirs: Vec<u64>,
    /// Whether a symbolic link went.
    pub(super) removed_link: bool,
}

impl<'a> Removal<'a> {
    /// Of everything.
    pub(super) fn of_all(entry: &'a [u8]) -> Self {
        Self {
            entry,
            spare: None,
            removed_dirs: Vec::new(),
            removed_link: false,
        }
    }

    /// Of what lower layers left.
    pub(super) fn of_lower(entry: &'a [u8], unpacked: &'a Unpacked) -> Self {
        Self {
            spare: Some(unpacked),
            ..Self::of_all(entry)
        }
    }

    fn failed(&self, errno: Errno) -> ImageError {
        entry_error("remove what is in the way of", self.entry, errno)
    }

    /// Removes `name` from the directory `dir`, whose inode number is `dir_ino`; what is not there
    /// is as good as removed.
    pub(super) fn remove(
        &mut self,
        dir: BorrowedFd<'_>,
        dir_ino: u64,
        name: &[u8],
    ) -> Result<(), ImageError> {
        match kind_of(dir, name) {
            Ok((kind, ino)) => self.remove_kind(dir, dir_ino, name, kind, ino, 0),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    fn remove_kind(
        &mut self,
        dir: BorrowedFd<'_>,
        dir_ino: u64,
        name: &[u8],
        kind: FileType,
        ino: u64,
        depth: usize,
    ) -> Result<(), ImageError> {
        let spared = self.spare.is_some_and(|s| s.contains(dir_ino, name));
        if kind == FileType::Directory {
            self.empty(dir, name, ino, depth)?;
            if spared {
                return Ok(());
            }
            match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => self.removed_dirs.push(ino),
                // It holds something of this layer: it stays for that.
                Err(Errno::NOTEMPTY | Errno::EXIST) if self.spare.is_some() => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        } else if !spared {
            rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(|e| self.failed(e))?;
            self.removed_link |= kind == FileType::Symlink;
        }
        Ok(())
    }

    /// Removes what is in the directory `name`, and leaves itself.
    pub(super) fn empty(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        ino: u64,
        depth: usize,
    ) -> Result<(), ImageError> {
        if depth >= MAX_DEPTH {
            return Err(ImageError::TooDeep {
                path: path_of(self.entry),
                limit: MAX_DEPTH,
            });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| self.failed(e))?;
        for (child, kind, child_ino) in children(fd.as_fd()).map_err(|e| self.failed(e))? {
            let below = depth.saturating_add(1);
            self.remove_kind(fd.as_fd(), ino, child.as_bytes(), kind, child_ino, below)?;
        }
        Ok(())
    }
}

/// All names in a directory, read before any is removed: removing while reading may skip some.
pub(in crate::image) fn children(
    fd: BorrowedFd<'_>,
) -> Result<Vec<(CString, FileType, u64)>, Errno> {
    let mut found = Vec::new();
    let mut entries = rustix::fs::Dir::read_from(fd)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let (kind, ino) = match entry.file_type() {
            // Some file systems do not say.
            FileType::Unknown => kind_of(fd, name.to_bytes())?,
            kind => (kind, entry.ino()),
        };
        found.push((name.to_owned(), kind, ino));
    }
    Ok(found)
}
