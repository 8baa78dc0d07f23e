//! Changes between two trees as a layer's tar.
//!
//! ```text
//! changes -> plan: what is said of which path, whole sets of hard links, the directories above
//!              -> one entry after the other, parents first, files read as they are written
//! ```
//! Applied to a copy of the older tree the tar gives the newer one, exactly (`image/apply`). The same change
//! gives the same bytes wherever it is made, but for one thing: a file is written as sparse where its file
//! system says that it has a megabyte or more of holes; where its holes then are is told by its content.
//!
//! What a layer cannot say is left out and counted: sockets, which mean nothing without their process, and
//! names that begin with `.wh.`, which are the layer's own marks. An extended attribute that a directory has
//! lost is said by writing the directory anew, with all that is in it; of the root it is not said.

mod content;
mod plan;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

pub(super) use self::content::{next_data, read_at};
use self::content::{sparse_map, write_segment};
use self::plan::{Plan, Todo};
use super::apply::tree::{Tree, proc_path};
use super::apply::{OPAQUE, WHITEOUT};
use super::error::{ImageError, entry_error};
use super::path::CleanPath;
use super::tarball::{Entry, Kind, Mtime, Segment, Writer};
use crate::delta::Change;
use crate::ids::{DevNo, Digest};
use crate::units::Bytes;

/// The name of an extended attribute, and its value.
type Xattr = (Vec<u8>, Vec<u8>);

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerWritten {
    /// The digest of the tar: its diff id.
    pub diff_id: Digest,
    /// The tar's length.
    pub tar_bytes: Bytes,
    /// Its entries, whiteouts and opaque marks included.
    pub entries: u64,
    /// Sockets among what changed: left out.
    pub sockets: u64,
    /// Changed paths that begin with `.wh.` in some component: left out.
    pub unsayable_names: u64,
    /// Whether the root has lost an extended attribute, which a layer cannot say.
    pub root_lost_xattr: bool,
}

/// Writes `changes` as a layer's tar to `out`. `changes` are sorted, and complete as [`Change`] says: every
/// name of a file that has other contents, attributes or names than before, every path that is new or
/// gone. `newer` is the root of the tree as it is, `older` of the tree as it was: without it an extended
/// attribute that a directory has lost is not said.
///
/// # Errors
/// [`ImageError::Write`] from `out`; [`ImageError::SourceChanged`] where a tree does not hold still;
/// [`ImageError::XattrTooLarge`] of an attribute that no reader of tar takes; [`ImageError::Io`] from
/// the kernel. What was written is then of no use.
pub fn write_layer(
    changes: &[Change],
    newer: BorrowedFd<'_>,
    older: Option<BorrowedFd<'_>>,
    out: &mut dyn Write,
) -> Result<LayerWritten, ImageError> {
    let plan = Plan::new(changes, newer, older)?;
    let mut layer = LayerWriter {
        source: Source::new(newer)?,
        writer: Writer::new(out),
        links: HashMap::new(),
        entries: 0,
    };
    for (path, todo) in &plan.paths {
        layer.path(path, *todo)?;
    }
    let entries = layer.entries;
    let summed = layer.writer.end().map_err(ImageError::Write)?;
    Ok(LayerWritten {
        diff_id: summed.digest,
        tar_bytes: Bytes::new(summed.len),
        entries,
        sockets: plan.sockets,
        unsayable_names: plan.unsayable_names,
        root_lost_xattr: plan.root_lost_xattr,
    })
}

/// The tree that is read.
#[derive(Debug)]
struct Source {
    tree: Tree,
}

/// What `lstat` says, as far as a tar does.
#[derive(Debug, Clone, Copy)]
struct Stat {
    kind: FileType,
    ino: u64,
    links: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Mtime,
    size: u64,
    /// Bytes that are on the disk.
    on_disk: u64,
    device: DevNo,
}

impl Stat {
    fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }
}

impl Source {
    fn new(root: BorrowedFd<'_>) -> Result<Self, ImageError> {
        Ok(Self {
            tree: Tree::new(root)?,
        })
    }

    /// The directory a path is in, and its name there; `None` where there is no such directory.
    fn locate(
        &mut self,
        path: &Path,
    ) -> Result<Option<(std::rc::Rc<super::apply::tree::Dir>, CleanPath)>, ImageError> {
        let bytes = path.as_os_str().as_bytes();
        let clean = CleanPath::new(bytes)?;
        match self.tree.find(clean.parent(), bytes) {
            Ok(dir) => Ok(dir.map(|dir| (dir, clean))),
            Err(ImageError::ParentNotDirectory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is at a path; `None` where nothing is.
    fn stat(&mut self, path: &Path) -> Result<Option<Stat>, ImageError> {
        let bytes = path.as_os_str().as_bytes();
        let Some((dir, clean)) = self.locate(path)? else {
            return Ok(None);
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let stat = match rustix::fs::statat(dir.fd(), clean.name(), flags) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(entry_error("look at", bytes, errno)),
        };
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Some(Stat {
            kind: FileType::from_raw_mode(stat.st_mode),
            ino: stat.st_ino,
            links: stat.st_nlink,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Mtime {
                seconds: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            size: unsigned(stat.st_size),
            on_disk: unsigned(stat.st_blocks).saturating_mul(512),
            device: DevNo::from_dev_t(stat.st_rdev),
        }))
    }

    /// Extended attributes of what is at `path`, by name: all but the host's labels.
    fn xattrs(&mut self, path: &Path) -> Result<Vec<Xattr>, ImageError> {
        let bytes = path.as_os_str().as_bytes();
        let failed = |errno| entry_error("read an extended attribute of", bytes, errno);
        let mut found = Vec::new();
        let Some((dir, clean)) = self.locate(path)? else {
            return Ok(found);
        };
        let file = proc_path(dir.fd(), clean.name());
        let names = match grown(|buffer| rustix::fs::llistxattr(file.as_slice(), buffer)) {
            Err(Errno::OPNOTSUPP) => return Ok(found),
            names => names.map_err(failed)?,
        };
        for name in names.split(|byte| *byte == 0) {
            if name.is_empty() || name == b"security.selinux" {
                continue;
            }
            match grown(|buffer| rustix::fs::lgetxattr(file.as_slice(), name, buffer)) {
                Ok(value) => found.push((name.to_vec(), value)),
                // Listed, and none of ours to read.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        found.sort();
        Ok(found)
    }

    fn open(&mut self, path: &Path) -> Result<OwnedFd, ImageError> {
        let bytes = path.as_os_str().as_bytes();
        let changed = || ImageError::SourceChanged { path: path.into() };
        let (dir, clean) = self.locate(path)?.ok_or_else(changed)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(dir.fd(), clean.name(), flags, Mode::empty())
            .map_err(|errno| entry_error("open", bytes, errno))
    }

    fn link_target(&mut self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let changed = || ImageError::SourceChanged { path: path.into() };
        let (dir, clean) = self.locate(path)?.ok_or_else(changed)?;
        let target = rustix::fs::readlinkat(dir.fd(), clean.name(), Vec::new())
            .map_err(|errno| entry_error("read the link", path.as_os_str().as_bytes(), errno))?;
        Ok(target.into_bytes())
    }

    /// The names in a directory, each with its inode number and whether it is a directory.
    fn names(&mut self, path: &Path) -> Result<Vec<(Vec<u8>, u64, bool)>, ImageError> {
        let bytes = path.as_os_str().as_bytes();
        let children = self.open(path).and_then(|dir| {
            super::apply::children(dir.as_fd())
                .map_err(|errno| entry_error("read the directory", bytes, errno))
        })?;
        Ok(children
            .into_iter()
            .map(|(name, kind, ino)| (name.into_bytes(), ino, kind == FileType::Directory))
            .collect())
    }
}

/// What a call gives that wants a buffer large enough: most attributes are small, and none is larger than
/// the kernel takes (`include/uapi/linux/limits.h`, `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    const SMALL: usize = 256;
    const LARGEST: usize = 1 << 16;
    let mut buffer = vec![0; SMALL];
    let n = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LARGEST, 0);
            call(&mut buffer)
        }
        result => result,
    }?;
    buffer.truncate(n);
    Ok(buffer)
}

struct LayerWriter<'a> {
    source: Source,
    writer: Writer<&'a mut dyn Write>,
    /// The first name of each file that has several.
    links: HashMap<u64, PathBuf>,
    entries: u64,
}

impl LayerWriter<'_> {
    fn path(&mut self, path: &Path, todo: Todo) -> Result<(), ImageError> {
        if todo.whiteout {
            let name = path.file_name().unwrap_or_default().as_bytes();
            self.mark(
                path.parent().unwrap_or(Path::new("")),
                &[WHITEOUT, name].concat(),
            )?;
        }
        if todo.emit {
            self.entry(path)?;
        }
        if todo.opaque {
            self.mark(path, OPAQUE)?;
        }
        Ok(())
    }

    /// An empty file whose name means something.
    fn mark(&mut self, dir: &Path, name: &[u8]) -> Result<(), ImageError> {
        let path = dir.join(std::ffi::OsStr::from_bytes(name));
        self.begin(&Entry {
            path: path.as_os_str().as_bytes().to_vec(),
            link: Vec::new(),
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            size: 0,
            device: DevNo::new(0, 0),
            xattrs: Vec::new(),
            sparse: None,
            data_offset: 0,
        })
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), ImageError> {
        self.entries = self.entries.saturating_add(1);
        self.writer.entry(entry).map_err(ImageError::Write)
    }

    fn entry(&mut self, path: &Path) -> Result<(), ImageError> {
        let changed = || ImageError::SourceChanged { path: path.into() };
        let stat = self.source.stat(path)?.ok_or_else(changed)?;
        let kind = match stat.kind {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            // The plan had no socket in it.
            _ => return Err(changed()),
        };
        let mut entry = Entry {
            path: path.as_os_str().as_bytes().to_vec(),
            link: Vec::new(),
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            size: 0,
            device: stat.device,
            xattrs: Vec::new(),
            sparse: None,
            data_offset: 0,
        };
        if stat.is_dir() {
            entry
                .path
                .extend_from_slice(if entry.path.is_empty() { b"./" } else { b"/" });
        } else if stat.links > 1 {
            match self.links.entry(stat.ino) {
                Slot::Occupied(first) => {
                    entry.kind = Kind::Hardlink;
                    entry.link = first.get().as_os_str().as_bytes().to_vec();
                    return self.begin(&entry);
                }
                Slot::Vacant(free) => {
                    free.insert(path.to_owned());
                }
            }
        }
        entry.xattrs = self.source.xattrs(path)?;
        plan::check_xattrs(path, &entry.xattrs)?;
        match kind {
            Kind::File => self.file(path, entry, &stat),
            Kind::Symlink => {
                entry.link = self.source.link_target(path)?;
                // The kernel gives a link its mode, which says nothing.
                entry.mode = 0o777;
                self.begin(&entry)
            }
            _ => self.begin(&entry),
        }
    }

    fn file(&mut self, path: &Path, mut entry: Entry, stat: &Stat) -> Result<(), ImageError> {
        let file = self.source.open(path)?;
        let segments = match sparse_map(file.as_fd(), path, stat)? {
            None => {
                entry.size = stat.size;
                vec![Segment {
                    offset: 0,
                    len: stat.size,
                }]
            }
            Some(map) => {
                let lens = map.segments().iter().map(|segment| segment.len);
                entry.size = lens.fold(0, u64::saturating_add);
                let segments = map.segments().to_vec();
                entry.sparse = Some(map);
                segments
            }
        };
        self.begin(&entry)?;
        for segment in segments {
            write_segment(file.as_fd(), path, segment, &mut self.writer)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
