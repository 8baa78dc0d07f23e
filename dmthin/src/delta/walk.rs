//! The way that is always open: both trees are walked, and every file that both have is read.
//!
//! It is slow, and believes no time. Works beneath two descriptors, which lead to no other mount; entries are
//! opened by `openat2` without following links. Directories are kept as paths, not as descriptors, so that a
//! deep tree takes no more of those than a flat one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Change, ChangeKind, DeltaError};

/// Bytes of two files that are compared at a time.
const PIECE: usize = 1 << 17;
/// As much of a path as the kernel takes at once, and some to spare (`include/uapi/linux/limits.h`).
const PATH_MAX: usize = 4000;
/// As large as a list of extended attributes, or a value, gets.
const XATTR_MAX: usize = 1 << 16;

/// One of the two trees.
#[derive(Debug)]
struct Tree<'a> {
    root: BorrowedFd<'a>,
    side: &'static str,
    /// Paths by inode, of files that have others than one.
    links: BTreeMap<u64, BTreeSet<PathBuf>>,
    /// The inodes of those paths.
    linked: BTreeMap<PathBuf, u64>,
}

/// A path in a tree.
struct Entry {
    fd: OwnedFd,
    stat: Stat,
}

impl Entry {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// A path that leads to it wherever it is mounted: calls that take no descriptor of `O_PATH` take this.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl<'a> Tree<'a> {
    fn new(root: BorrowedFd<'a>, side: &'static str) -> Self {
        Self {
            root,
            side,
            links: BTreeMap::new(),
            linked: BTreeMap::new(),
        }
    }

    fn error(&self, action: &'static str, path: &Path) -> impl Fn(Errno) -> DeltaError {
        let (path, side) = (path.to_owned(), self.side);
        move |source| DeltaError::Walk {
            action,
            path: path.clone(),
            side,
            source,
        }
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, DeltaError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let open = |at: BorrowedFd<'_>, path: &Path, flags: OFlags| {
            // No link is followed, so that none may end a path; one may be the entry itself.
            let how = if flags.contains(OFlags::PATH) {
                ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS
            } else {
                resolve
            };
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat2(at, path, flags, Mode::empty(), how)
                .map_err(self.error("open", path))
        };
        let mut at: Option<OwnedFd> = None;
        let mut part = PathBuf::new();
        for name in path.components() {
            if part
                .as_os_str()
                .len()
                .saturating_add(name.as_os_str().len())
                > PATH_MAX
            {
                let from = at.as_ref().map_or(self.root, std::os::fd::AsFd::as_fd);
                at = Some(open(from, &part, OFlags::PATH | OFlags::DIRECTORY)?);
                part = PathBuf::new();
            }
            part.push(name);
        }
        if part.as_os_str().is_empty() {
            part.push(".");
        }
        open(
            at.as_ref().map_or(self.root, std::os::fd::AsFd::as_fd),
            &part,
            flags,
        )
    }

    /// Looks at a path, and keeps it where its inode has others.
    fn entry(&mut self, path: &Path) -> Result<Entry, DeltaError> {
        let fd = self.open(path, OFlags::PATH)?;
        let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH)
            .map_err(self.error("look at", path))?;
        let entry = Entry { fd, stat };
        if !entry.is_directory() && entry.stat.st_nlink > 1 {
            let ino = entry.stat.st_ino;
            self.links.entry(ino).or_default().insert(path.to_owned());
            self.linked.insert(path.to_owned(), ino);
        }
        Ok(entry)
    }

    fn names(&self, path: &Path) -> Result<BTreeSet<Vec<u8>>, DeltaError> {
        let failed = || self.error("read the directory", path);
        let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = BTreeSet::new();
        for entry in Dir::new(fd).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.insert(name);
            }
        }
        Ok(names)
    }

    fn xattrs(&self, path: &Path, entry: &Entry) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, DeltaError> {
        let failed = || self.error("read the extended attributes of", path);
        let mut buffer = vec![0; XATTR_MAX];
        let at = entry.path();
        let len = match rustix::fs::listxattr(&at, &mut buffer) {
            Err(Errno::OPNOTSUPP) => 0,
            listed => listed.map_err(failed())?,
        };
        let list = buffer.get(..len).unwrap_or_default().to_vec();
        let mut found = BTreeMap::new();
        for name in list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let len = rustix::fs::getxattr(&at, name, &mut buffer).map_err(failed())?;
            let value = buffer.get(..len).unwrap_or_default().to_vec();
            found.insert(name.to_vec(), value);
        }
        Ok(found)
    }

    fn target(&self, path: &Path, entry: &Entry) -> Result<Vec<u8>, DeltaError> {
        let target = rustix::fs::readlinkat(&entry.fd, "", Vec::new());
        let target = target.map_err(self.error("read the link", path))?;
        Ok(target.into_bytes())
    }

    /// Fills the buffer as far as the file goes.
    fn fill<'b>(
        &self,
        path: &Path,
        file: &OwnedFd,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], DeltaError> {
        let mut len = 0;
        while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match rustix::io::read(file, rest) {
                Ok(0) => break,
                Ok(read) => len = len.saturating_add(read),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error("read", path)(errno)),
            }
        }
        Ok(buffer.get(..len).unwrap_or_default())
    }

    /// The paths that are one inode with this one, and it.
    fn paths(&self, path: &Path) -> BTreeSet<&Path> {
        let ino = self.linked.get(path);
        let paths = ino.and_then(|ino| self.links.get(ino));
        match paths {
            Some(paths) => paths.iter().map(PathBuf::as_path).collect(),
            None => BTreeSet::new(),
        }
    }
}

struct Walk<'a> {
    old: Tree<'a>,
    new: Tree<'a>,
    found: BTreeMap<PathBuf, ChangeKind>,
    /// Paths that both have and that are no directory in either.
    common: Vec<PathBuf>,
    /// Directories to be entered, and which of the two have them.
    rest: Vec<(PathBuf, bool, bool)>,
    buffers: [Vec<u8>; 2],
}

/// Compares two trees by all that is in them: the paths that differ.
///
/// # Errors
/// [`DeltaError::Walk`].
pub fn walk(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<Vec<Change>, DeltaError> {
    let mut walk = Walk {
        old: Tree::new(old, "older"),
        new: Tree::new(new, "newer"),
        found: BTreeMap::new(),
        common: Vec::new(),
        rest: Vec::new(),
        buffers: [vec![0; PIECE], vec![0; PIECE]],
    };
    walk.compare(PathBuf::new())?;
    while let Some((path, in_old, in_new)) = walk.rest.pop() {
        walk.enter(&path, in_old, in_new)?;
    }
    for path in std::mem::take(&mut walk.common) {
        if walk.old.paths(&path) != walk.new.paths(&path) {
            walk.found.insert(path, ChangeKind::Modified);
        }
    }
    let found = walk.found.into_iter();
    Ok(found.map(|(path, kind)| Change { path, kind }).collect())
}

impl Walk<'_> {
    fn enter(&mut self, path: &Path, in_old: bool, in_new: bool) -> Result<(), DeltaError> {
        let names = |tree: &Tree<'_>, is_in: bool| match is_in {
            true => tree.names(path),
            false => Ok(BTreeSet::new()),
        };
        let (old, new) = (names(&self.old, in_old)?, names(&self.new, in_new)?);
        for name in old.union(&new) {
            let below = path.join(OsStr::from_bytes(name));
            match (old.contains(name), new.contains(name)) {
                (true, true) => self.compare(below)?,
                (true, false) => {
                    // Of what is in a directory that is gone only the other names of files matter.
                    if in_new {
                        self.found.insert(below.clone(), ChangeKind::Deleted);
                    }
                    if self.old.entry(&below)?.is_directory() {
                        self.rest.push((below, true, false));
                    }
                }
                _ => {
                    self.found.insert(below.clone(), ChangeKind::Added);
                    if self.new.entry(&below)?.is_directory() {
                        self.rest.push((below, false, true));
                    }
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, path: PathBuf) -> Result<(), DeltaError> {
        let (old, new) = (self.old.entry(&path)?, self.new.entry(&path)?);
        if !self.is_alike(&path, &old, &new)? {
            self.found.insert(path.clone(), ChangeKind::Modified);
        }
        match (old.is_directory(), new.is_directory()) {
            (true, true) => self.rest.push((path, true, true)),
            (false, false) => self.common.push(path),
            // What was in it is looked at for other names of its files, and not told.
            (true, false) => self.rest.push((path, true, false)),
            (false, true) => self.rest.push((path, false, true)),
        }
        Ok(())
    }

    fn is_alike(&mut self, path: &Path, old: &Entry, new: &Entry) -> Result<bool, DeltaError> {
        let told = |entry: &Entry| {
            let stat = &entry.stat;
            let device = match entry.kind() {
                FileType::BlockDevice | FileType::CharacterDevice => stat.st_rdev,
                _ => 0,
            };
            let mtime = (stat.st_mtime, stat.st_mtime_nsec);
            (stat.st_mode, stat.st_uid, stat.st_gid, device, mtime)
        };
        if told(old) != told(new) {
            return Ok(false);
        }
        if self.old.xattrs(path, old)? != self.new.xattrs(path, new)? {
            return Ok(false);
        }
        match old.kind() {
            FileType::Symlink => Ok(self.old.target(path, old)? == self.new.target(path, new)?),
            FileType::RegularFile if old.stat.st_size != new.stat.st_size => Ok(false),
            FileType::RegularFile => self.has_same_content(path),
            _ => Ok(true),
        }
    }

    fn has_same_content(&mut self, path: &Path) -> Result<bool, DeltaError> {
        let [first, second] = &mut self.buffers;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let (old, new) = (self.old.open(path, flags)?, self.new.open(path, flags)?);
        loop {
            let was = self.old.fill(path, &old, first)?;
            let is = self.new.fill(path, &new, second)?;
            if was != is {
                return Ok(false);
            }
            if was.len() < PIECE {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests;
