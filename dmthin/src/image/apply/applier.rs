//! Entries of a layer, one after the other, into the tree.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::metadata::{Applied, On, drop_inherited, set_xattrs, times};
use super::remove::Removal;
use super::tree::{Creator, Dir, Tree, change_owner, kind_of};
use super::unpacked::Unpacked;
use crate::image::ImageError;
use crate::image::error::{entry_error, path_of};
use crate::image::path::CleanPath;
use crate::image::tarball::{Entry, Input, Kind, Mtime, Reader, SparseMap};

/// How the name of a mark begins that takes away what has the rest of it as its name.
pub(in crate::image) const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
/// The name of the mark that takes away all that lower layers have in its directory.
pub(in crate::image) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a directory gets when all is in it.
#[derive(Debug)]
struct Finish {
    path: CleanPath,
    mode: u32,
    mtime: Mtime,
}

const SETGID: u32 = 0o2000;

/// The mode of a directory while it is filled: open to ourselves, even where we are not root.
fn open_mode(mode: u32) -> u32 {
    mode | 0o700
}

#[derive(Debug)]
struct Applier {
    tree: Tree,
    creator: Creator,
    unpacked: Unpacked,
    /// By inode number: two ways to one directory are one.
    finish: HashMap<u64, Finish>,
    applied: Applied,
}

/// Applies the entries `reader` gives to the tree below `root`, to the end of the archive; the
/// bytes after it are left.
pub(in crate::image) fn apply<I: Input>(
    reader: &mut Reader<I>,
    root: BorrowedFd<'_>,
) -> Result<Applied, ImageError> {
    let mut applier = Applier {
        tree: Tree::new(root)?,
        creator: Creator::of_process(),
        unpacked: Unpacked::default(),
        finish: HashMap::new(),
        applied: Applied::default(),
    };
    while let Some(entry) = reader.next_entry()? {
        applier.applied.entries = applier.applied.entries.saturating_add(1);
        applier.entry(&entry, reader)?;
    }
    applier.finish()
}

impl Applier {
    fn entry<I: Input>(&mut self, entry: &Entry, data: &mut Reader<I>) -> Result<(), ImageError> {
        let path = CleanPath::new(&entry.path)?;
        let invalid = || ImageError::InvalidName {
            path: path_of(&entry.path),
        };
        if path.is_root() {
            if entry.kind != Kind::Directory {
                return Err(invalid());
            }
            let root = self.find(b"", &entry.path)?.ok_or_else(invalid)?;
            return self.describe_dir(entry, path, &root, true);
        }
        for component in path.parent().split(|b| *b == b'/') {
            if component.starts_with(AUFS) {
                return Ok(());
            }
            if component.starts_with(WHITEOUT) {
                return Err(invalid());
            }
        }
        if path.name().starts_with(WHITEOUT) {
            return self.marker(entry, &path);
        }
        let dir = self.ensure(path.parent(), &entry.path)?;
        match entry.kind {
            Kind::File => self.file(entry, &path, &dir, data)?,
            Kind::Directory => self.directory(entry, path.clone(), &dir)?,
            Kind::Hardlink => self.hardlink(entry, &path, &dir)?,
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(entry, &path, &dir)?;
            }
        }
        self.unpacked.mark(dir.ino(), path.name());
        Ok(())
    }

    fn find(&mut self, path: &[u8], entry: &[u8]) -> Result<Option<Rc<Dir>>, ImageError> {
        self.tree.find(path, entry)
    }

    fn ensure(&mut self, path: &[u8], entry: &[u8]) -> Result<Rc<Dir>, ImageError> {
        let unpacked = &mut self.unpacked;
        self.tree
            .ensure(path, entry, &mut |dir, name| unpacked.mark(dir, name))
    }

    /// A whiteout, an opaque marker, or one of aufs's own files.
    fn marker(&mut self, entry: &Entry, path: &CleanPath) -> Result<(), ImageError> {
        let hidden = path.name().get(WHITEOUT.len()..).unwrap_or_default();
        let opaque = path.name() == OPAQUE;
        if path.name().starts_with(AUFS) && !opaque {
            return Ok(());
        }
        match hidden {
            b".." => {
                return Err(ImageError::PathEscape {
                    path: path_of(&entry.path),
                });
            }
            b"" | b"." => {
                return Err(ImageError::InvalidName {
                    path: path_of(&entry.path),
                });
            }
            _ => {}
        }
        self.applied.whiteouts = self.applied.whiteouts.saturating_add(1);
        let dir = match self.find(path.parent(), &entry.path) {
            Ok(Some(dir)) => dir,
            // Nothing can be there to hide.
            Ok(None) | Err(ImageError::ParentNotDirectory { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut removal = Removal::of_lower(&entry.path, &self.unpacked);
        if opaque {
            removal.empty(dir.fd(), b".", dir.ino(), 0)?;
        } else {
            removal.remove(dir.fd(), dir.ino(), hidden)?;
        }
        let Removal {
            removed_dirs,
            removed_link,
            ..
        } = removal;
        // What this layer made is spared; the way to it is not.
        self.applied.displaced |=
            self.tree.went_through_link() && (removed_link || !removed_dirs.is_empty());
        self.forget(&removed_dirs, removed_link);
        Ok(())
    }

    fn forget(&mut self, removed_dirs: &[u64], removed_link: bool) {
        for ino in removed_dirs {
            self.finish.remove(ino);
        }
        if removed_link || !removed_dirs.is_empty() {
            self.tree.forget();
        }
    }

    /// Removes whatever has the name of a new entry.
    fn clear_way(&mut self, entry: &Entry, path: &CleanPath, dir: &Dir) -> Result<(), ImageError> {
        let mut removal = Removal::of_all(&entry.path);
        removal.remove(dir.fd(), dir.ino(), path.name())?;
        let (dirs, link) = (removal.removed_dirs, removal.removed_link);
        self.applied.displaced |= !dirs.is_empty()
            || self.unpacked.contains(dir.ino(), path.name())
            || link && self.tree.went_through_link();
        self.forget(&dirs, link);
        Ok(())
    }

    /// Makes something that must not be there yet; what is, goes.
    fn make_new<T>(
        &mut self,
        entry: &Entry,
        path: &CleanPath,
        dir: &Dir,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, ImageError> {
        let made = match make() {
            Err(Errno::EXIST) => {
                self.clear_way(entry, path, dir)?;
                make()
            }
            made => made,
        };
        made.map_err(|e| entry_error("make", &entry.path, e))
    }

    fn file<I: Input>(
        &mut self,
        entry: &Entry,
        path: &CleanPath,
        dir: &Dir,
        data: &mut Reader<I>,
    ) -> Result<(), ImageError> {
        let failed = |op| move |errno| entry_error(op, &entry.path, errno);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.make_new(entry, path, dir, || {
            rustix::fs::openat(dir.fd(), path.name(), flags, mode)
        })?;
        data.input().begin_file(path.as_bytes());
        self.write(entry, &fd, data)?;
        let map = entry.sparse.as_ref();
        let size = map.map_or(entry.size, SparseMap::real_size);
        data.input().end_file(Some(size));
        let mut mode_kept = self.creator.keeps_mode(dir, entry.mode);
        if !self.creator.owns(dir, entry.uid, entry.gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(failed("change the owner of"))?;
            // Which drops setuid and setgid.
            mode_kept &= entry.mode <= 0o777;
        }
        if !mode_kept {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode))
                .map_err(failed("change the mode of"))?;
        }
        if !dir.is_plain() {
            drop_inherited(On::File(fd.as_fd()), &entry.xattrs, &entry.path)?;
        }
        set_xattrs(
            On::File(fd.as_fd()),
            &entry.xattrs,
            &entry.path,
            &mut self.applied,
        )?;
        rustix::fs::futimens(&fd, &times(entry.mtime)).map_err(failed("set the times of"))
    }

    fn write<I: Input>(
        &mut self,
        entry: &Entry,
        fd: &OwnedFd,
        data: &mut Reader<I>,
    ) -> Result<(), ImageError> {
        let failed = |errno| entry_error("write", &entry.path, errno);
        let Some(map) = &entry.sparse else {
            loop {
                let bytes = data.fill_data()?;
                if bytes.is_empty() {
                    return Ok(());
                }
                let n =
                    rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes)).map_err(failed)?;
                data.consume_data(n);
                self.count(n);
            }
        };
        for segment in map.segments() {
            let mut at = segment.offset;
            data.input().seek_file(at);
            let end = segment.offset.saturating_add(segment.len);
            while at < end {
                let bytes = data.fill_data()?;
                let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
                let bytes = bytes.get(..left.min(bytes.len())).unwrap_or_default();
                let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, bytes, at))
                    .map_err(failed)?;
                data.consume_data(n);
                self.count(n);
                at = at.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
            }
        }
        rustix::fs::ftruncate(fd, map.real_size()).map_err(failed)
    }

    fn count(&mut self, n: usize) {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        self.applied.bytes = self.applied.bytes.saturating_add(n);
    }

    fn directory(&mut self, entry: &Entry, path: CleanPath, dir: &Dir) -> Result<(), ImageError> {
        let mode = open_mode(entry.mode) & 0o777;
        let make = || rustix::fs::mkdirat(dir.fd(), path.name(), Mode::from_raw_mode(mode));
        let kept = match make() {
            Ok(()) => false,
            Err(Errno::EXIST) => {
                let (kind, _) = kind_of(dir.fd(), path.name())
                    .map_err(|e| entry_error("look at", &entry.path, e))?;
                if kind != FileType::Directory {
                    self.make_new(entry, &path, dir, make)?;
                }
                kind == FileType::Directory
            }
            Err(errno) => return Err(entry_error("make", &entry.path, errno)),
        };
        self.describe_dir(entry, path, dir, kept)
    }

    /// Gives a directory its owner and attributes, and notes the rest for the end.
    fn describe_dir(
        &mut self,
        entry: &Entry,
        path: CleanPath,
        dir: &Dir,
        kept: bool,
    ) -> Result<(), ImageError> {
        let failed = |op| move |errno| entry_error(op, &entry.path, errno);
        let name = path.name();
        let stat = rustix::fs::statat(dir.fd(), name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("look at"))?;
        if stat.st_uid != entry.uid || stat.st_gid != entry.gid {
            change_owner(dir.fd(), name, entry.uid, entry.gid)
                .map_err(failed("change the owner of"))?;
        }
        if !kept && !dir.is_plain() {
            drop_inherited(On::Name(dir.fd(), name), &entry.xattrs, &entry.path)?;
        }
        let mode = open_mode(entry.mode);
        if stat.st_mode & 0o7777 != mode {
            rustix::fs::chmodat(dir.fd(), name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(failed("change the mode of"))?;
        }
        set_xattrs(
            On::Name(dir.fd(), name),
            &entry.xattrs,
            &entry.path,
            &mut self.applied,
        )?;
        if kept && (!entry.xattrs.is_empty() || mode & SETGID != 0) {
            // What is made in it may now inherit a group or an access list.
            self.tree.forget();
        }
        let finish = Finish {
            path,
            mode: entry.mode,
            mtime: entry.mtime,
        };
        self.finish.insert(stat.st_ino, finish);
        Ok(())
    }

    fn hardlink(&mut self, entry: &Entry, path: &CleanPath, dir: &Dir) -> Result<(), ImageError> {
        let target = CleanPath::new(&entry.link)?;
        let no_target = || ImageError::HardlinkTarget {
            path: path_of(&entry.path),
            target: path_of(&entry.link),
        };
        if target.is_root() {
            return Err(no_target());
        }
        let target_dir = match self.find(target.parent(), &entry.path) {
            Ok(Some(dir)) => dir,
            Ok(None) | Err(ImageError::ParentNotDirectory { .. }) => return Err(no_target()),
            Err(error) => return Err(error),
        };
        let link = || {
            rustix::fs::linkat(
                target_dir.fd(),
                target.name(),
                dir.fd(),
                path.name(),
                AtFlags::empty(),
            )
        };
        let linked = match link() {
            Err(Errno::EXIST) => {
                let found = kind_of(target_dir.fd(), target.name()).map_err(|_| no_target())?;
                if kind_of(dir.fd(), path.name()) == Ok(found) {
                    return Ok(());
                }
                self.clear_way(entry, path, dir)?;
                link()
            }
            linked => linked,
        };
        linked.map_err(|errno| match errno {
            Errno::NOENT => no_target(),
            // A directory; or a file that fs.protected_hardlinks guards, from others than root.
            Errno::PERM
                if kind_of(target_dir.fd(), target.name())
                    .is_ok_and(|(kind, _)| kind == FileType::Directory) =>
            {
                no_target()
            }
            errno => entry_error("make", &entry.path, errno),
        })
    }

    fn special(&mut self, entry: &Entry, path: &CleanPath, dir: &Dir) -> Result<(), ImageError> {
        let failed = |op| move |errno| entry_error(op, &entry.path, errno);
        let name = path.name();
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        if entry.kind == Kind::Symlink {
            if entry.link.is_empty() || entry.link.contains(&0) {
                return Err(ImageError::InvalidName {
                    path: path_of(&entry.path),
                });
            }
            self.make_new(entry, path, dir, || {
                rustix::fs::symlinkat(entry.link.as_slice(), dir.fd(), name)
            })?;
        } else {
            let kind = match entry.kind {
                Kind::CharDevice => FileType::CharacterDevice,
                Kind::BlockDevice => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            let device = entry.device.to_dev_t();
            self.make_new(entry, path, dir, || {
                rustix::fs::mknodat(dir.fd(), name, kind, mode, device)
            })?;
        }
        if !self.creator.owns(dir, entry.uid, entry.gid) {
            change_owner(dir.fd(), name, entry.uid, entry.gid)
                .map_err(failed("change the owner of"))?;
        }
        if entry.kind != Kind::Symlink {
            if !dir.is_plain() {
                drop_inherited(On::Name(dir.fd(), name), &entry.xattrs, &entry.path)?;
            }
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(dir.fd(), name, mode, AtFlags::empty())
                .map_err(failed("change the mode of"))?;
        }
        set_xattrs(
            On::Name(dir.fd(), name),
            &entry.xattrs,
            &entry.path,
            &mut self.applied,
        )?;
        rustix::fs::utimensat(
            dir.fd(),
            name,
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("set the times of"))
    }

    /// Modes and times of directories, the deepest first: a name sorts after its parent's.
    fn finish(mut self) -> Result<Applied, ImageError> {
        let mut finish: Vec<_> = std::mem::take(&mut self.finish).into_iter().collect();
        finish.sort_unstable_by(|(_, a), (_, b)| b.path.as_bytes().cmp(a.path.as_bytes()));
        for (ino, Finish { path, mode, mtime }) in finish {
            let entry = path.as_bytes();
            let failed = |op| move |errno| entry_error(op, entry, errno);
            let dir = match self.tree.find(path.parent(), entry) {
                Ok(Some(dir)) => dir,
                // A link on its path was replaced since: it is no longer to be found there.
                Ok(None)
                | Err(ImageError::ParentNotDirectory { .. } | ImageError::SymlinkLoop { .. }) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let name = path.name();
            let stat = match rustix::fs::statat(dir.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_ino == ino => stat,
                Ok(_) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed("look at")(errno)),
            };
            if stat.st_mode & 0o7777 != mode {
                rustix::fs::chmodat(dir.fd(), name, Mode::from_raw_mode(mode), AtFlags::empty())
                    .map_err(failed("change the mode of"))?;
            }
            rustix::fs::utimensat(dir.fd(), name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("set the times of"))?;
        }
        Ok(self.applied)
    }
}
