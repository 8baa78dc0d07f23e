//! Directories of the tree being written, opened inside its root and kept open for a while.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::image::ImageError;
use crate::image::error::{entry_error, path_of};

/// Directories kept open: a layer's entries mostly come directory by directory.
const CACHED: usize = 32;

/// As many symbolic links as the kernel follows in one path (`include/linux/namei.h`,
/// `MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// An open directory.
#[derive(Debug)]
pub(in crate::image) struct Dir {
    fd: OwnedFd,
    ino: u64,
    plain: bool,
}

impl Dir {
    /// For `*at` calls only: it may be open as a mere path.
    pub(in crate::image) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its inode number.
    pub(in crate::image) fn ino(&self) -> u64 {
        self.ino
    }

    /// Whether what is made in it has the owner of this process and the mode asked for, less the
    /// umask: no setgid bit, no default access list.
    pub(in crate::image) fn is_plain(&self) -> bool {
        self.plain
    }

    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let setgid = Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID);
        let mut list = [0_u8; 1];
        let path = proc_path(fd.as_fd(), b"");
        let list = rustix::fs::getxattr(path.as_slice(), "system.posix_acl_default", &mut list);
        let no_list = matches!(list, Err(Errno::NODATA | Errno::OPNOTSUPP));
        Ok(Self {
            ino: stat.st_ino,
            plain: !setgid && no_list,
            fd,
        })
    }
}

/// The tree.
#[derive(Debug)]
pub(in crate::image) struct Tree {
    root: Rc<Dir>,
    /// Most recently used last.
    cache: Vec<(Vec<u8>, Rc<Dir>)>,
    /// Whether a path led through a symbolic link.
    through_link: bool,
}

impl Tree {
    /// The tree below `root`.
    pub(in crate::image) fn new(root: BorrowedFd<'_>) -> Result<Self, ImageError> {
        let failed = |e| entry_error("open the root of the tree", b"/", e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(failed)?;
        Ok(Self {
            root: Rc::new(Dir::new(fd).map_err(failed)?),
            cache: Vec::new(),
            through_link: false,
        })
    }

    /// Whether any path so far led through a symbolic link.
    pub(in crate::image) fn went_through_link(&self) -> bool {
        self.through_link
    }

    /// Forgets which directory is where: to be called when a directory or a symbolic link goes.
    pub(in crate::image) fn forget(&mut self) {
        self.cache.clear();
    }

    /// The directory at `path`, `None` if there is none. `entry` is what errors name.
    pub(in crate::image) fn find(
        &mut self,
        path: &[u8],
        entry: &[u8],
    ) -> Result<Option<Rc<Dir>>, ImageError> {
        if path.is_empty() {
            return Ok(Some(Rc::clone(&self.root)));
        }
        if let Some(at) = self.cache.iter().rposition(|(known, _)| known == path) {
            let hit = self.cache.remove(at);
            let dir = Rc::clone(&hit.1);
            self.cache.push(hit);
            return Ok(Some(dir));
        }
        let dir = match self.open(path) {
            Ok(fd) => Dir::new(fd).map(Rc::new),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => Err(errno),
        };
        let dir = dir.map_err(|errno| match errno {
            Errno::NOTDIR => ImageError::ParentNotDirectory {
                path: path_of(entry),
            },
            Errno::LOOP => ImageError::SymlinkLoop {
                path: path_of(entry),
            },
            errno => entry_error("open the directory of", entry, errno),
        })?;
        if self.cache.len() >= CACHED {
            self.cache.remove(0);
        }
        self.cache.push((path.to_vec(), Rc::clone(&dir)));
        Ok(Some(dir))
    }

    /// The directory at `path`, made with all its parents where missing; each one made is given
    /// to `made` with the inode number of its parent.
    pub(in crate::image) fn ensure(
        &mut self,
        path: &[u8],
        entry: &[u8],
        made: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Rc<Dir>, ImageError> {
        self.ensure_linked(path, entry, made, MAX_LINKS)
    }

    fn ensure_linked(
        &mut self,
        path: &[u8],
        entry: &[u8],
        made: &mut dyn FnMut(u64, &[u8]),
        links: usize,
    ) -> Result<Rc<Dir>, ImageError> {
        if let Some(dir) = self.find(path, entry)? {
            return Ok(dir);
        }
        let slash = path.iter().rposition(|b| *b == b'/');
        let (parent_path, name) = match slash {
            Some(at) => (
                path.get(..at).unwrap_or_default(),
                path.get(at.saturating_add(1)..).unwrap_or_default(),
            ),
            None => (&b""[..], path),
        };
        let parent = self.ensure_linked(parent_path, entry, made, links)?;
        // Only link targets have these: what was missing was on the way to them.
        if matches!(name, b"" | b"." | b"..") {
            return self
                .find(path, entry)?
                .ok_or_else(|| entry_error("open the directory of", entry, Errno::NOENT));
        }
        match make_dir(parent.fd(), name) {
            Ok(()) => made(parent.ino(), name),
            Err(Errno::EXIST) => {
                // Found missing and yet there: a symbolic link that dangles.
                let links = links
                    .checked_sub(1)
                    .ok_or_else(|| ImageError::SymlinkLoop {
                        path: path_of(entry),
                    })?;
                let target = rustix::fs::readlinkat(parent.fd(), name, Vec::new())
                    .map_err(|e| entry_error("read the link above", entry, e))?
                    .into_bytes();
                let mut target_path = Vec::new();
                if !target.starts_with(b"/") {
                    target_path.extend_from_slice(parent_path);
                    target_path.push(b'/');
                }
                target_path.extend_from_slice(&target);
                let target_path: &[u8] = target_path
                    .iter()
                    .position(|b| *b != b'/')
                    .and_then(|at| target_path.get(at..))
                    .unwrap_or_default();
                self.ensure_linked(target_path, entry, made, links)?;
            }
            Err(errno) => {
                return Err(entry_error("make the directory of", entry, errno));
            }
        }
        self.find(path, entry)?
            .ok_or_else(|| entry_error("open the directory of", entry, Errno::NOENT))
    }

    fn open(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        /// openat2 answers EAGAIN where a rename elsewhere in the system raced with it.
        const TRIES: usize = 16;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // First without links: whether there are any is to be known.
        let plain = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let linked = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut resolve = plain;
        let mut last = Errno::AGAIN;
        for _ in 0..TRIES {
            match rustix::fs::openat2(self.root.fd(), path, flags, Mode::empty(), resolve) {
                Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
                Err(Errno::LOOP) if resolve == plain => {
                    self.through_link = true;
                    resolve = linked;
                }
                result => return result,
            }
        }
        Err(last)
    }
}

/// Makes a directory no entry describes: root's own, 0755.
fn make_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    const MODE: Mode = Mode::from_bits_retain(0o755);
    rustix::fs::mkdirat(parent, name, MODE)?;
    // The umask took some of it away.
    rustix::fs::chmodat(parent, name, MODE, AtFlags::empty())
}

/// A path by which the kernel finds `name` in the directory `dir`, for the calls that take no
/// descriptor. What `name` is, if a link, is not followed by the `l*` calls.
pub(in crate::image) fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// What `name` in `dir` is, a link not followed.
pub(in crate::image) fn kind_of(
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(FileType, u64), Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(stat.st_mode), stat.st_ino))
}

/// The ids of this process, which own what it makes.
#[derive(Debug, Clone, Copy)]
pub(in crate::image) struct Creator {
    uid: u32,
    gid: u32,
    /// `None` where it cannot be told without changing it.
    umask: Option<u32>,
}

impl Creator {
    /// Reads them.
    pub(in crate::image) fn of_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: std::fs::read_to_string("/proc/self/status")
                .ok()
                .and_then(|status| umask_of(&status)),
        }
    }

    /// Whether a file made in `dir` belongs to these two without further ado.
    pub(in crate::image) fn owns(self, dir: &Dir, uid: u32, gid: u32) -> bool {
        dir.is_plain() && self.uid == uid && self.gid == gid
    }

    /// Whether a file made in `dir` with `mode` has it without further ado.
    pub(in crate::image) fn keeps_mode(self, dir: &Dir, mode: u32) -> bool {
        mode <= 0o777 && dir.is_plain() && self.umask.is_some_and(|umask| mode & umask == 0)
    }
}

fn umask_of(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// Gives `name` in `dir` its owner, a link not followed.
pub(in crate::image) fn change_owner(
    dir: BorrowedFd<'_>,
    name: &[u8],
    uid: u32,
    gid: u32,
) -> Result<(), Errno> {
    rustix::fs::chownat(
        dir,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_umask_is_read_from_the_status_file() {
        assert_eq!(umask_of("Name:\tx\nUmask:\t0022\nState:\tR"), Some(0o22));
        assert_eq!(umask_of("Name:\tx\n"), None);
        assert!(Creator::of_process().umask.is_some());
    }
}
