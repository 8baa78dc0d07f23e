//! A sparse file under a pool, attached to a loop device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::backing::attached::Attached;
use crate::backing::error::BackingError;
use crate::ioctl::{self, FileId, LoopDevice, LoopOptions};
use crate::units::{Bytes, SECTOR_BYTES};

/// A loop device with blocks of 4096 bytes shows only whole blocks of its file.
const UNIT: u64 = 4096;

/// A regular file of a pool, opened for reading and writing.
#[derive(Debug)]
pub struct SparseFile {
    path: PathBuf,
    file: File,
}

fn check_size(path: &Path, size: Bytes) -> Result<(), BackingError> {
    if size == Bytes::ZERO || !size.get().is_multiple_of(UNIT) {
        return Err(BackingError::Size {
            path: path.to_owned(),
            size,
        });
    }
    Ok(())
}

/// The directory a path leads through last.
fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn nofollow() -> Result<i32, io::Error> {
    i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)
}

impl SparseFile {
    /// Creates a file that has a size but no blocks, for nobody but its owner, and makes it
    /// durable. A file that exists is left alone.
    ///
    /// # Errors
    /// [`BackingError::AlreadyExists`], [`BackingError::Size`], [`BackingError::NotFound`] where
    /// the directory is not there, [`BackingError::Io`]; no file is left then, or
    /// [`BackingError::Rollback`] says so.
    pub fn create(path: &Path, size: Bytes) -> Result<Self, BackingError> {
        check_size(path, size)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| BackingError::io("create", path, e))?;
        let filled = file
            .set_len(size.get())
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(parent(path))?.sync_all());
        match filled {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                file,
            }),
            Err(source) => {
                let cause = BackingError::Io {
                    action: "give a size to",
                    path: path.to_owned(),
                    source,
                };
                match fs::remove_file(path) {
                    Ok(()) => Err(cause),
                    Err(undo) => Err(BackingError::Rollback {
                        cause: Box::new(cause),
                        path: path.to_owned(),
                        undo,
                    }),
                }
            }
        }
    }

    /// Opens a file that exists. A symbolic link is not followed: it could lead out of the pool's
    /// directory.
    ///
    /// # Errors
    /// [`BackingError::NotFound`], [`BackingError::NotAFile`], [`BackingError::Io`].
    pub fn open(path: &Path) -> Result<Self, BackingError> {
        let not_a_file = || BackingError::NotAFile {
            path: path.to_owned(),
        };
        let io = |e| BackingError::io("open", path, e);
        let meta = fs::symlink_metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nofollow().map_err(io)?)
            .open(path)
            .map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(not_a_file());
        }
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn metadata(&self) -> Result<fs::Metadata, BackingError> {
        self.file
            .metadata()
            .map_err(|e| BackingError::io("look at", &self.path, e))
    }

    /// The length of the file.
    ///
    /// # Errors
    /// [`BackingError::Io`].
    pub fn size(&self) -> Result<Bytes, BackingError> {
        Ok(Bytes::new(self.metadata()?.len()))
    }

    /// Makes the file longer, durably; one that is that long already stays as it is. What is new is
    /// a hole.
    ///
    /// # Errors
    /// [`BackingError::Size`], [`BackingError::Io`].
    pub fn lengthen(&self, size: Bytes) -> Result<(), BackingError> {
        check_size(&self.path, size)?;
        if self.size()? >= size {
            return Ok(());
        }
        self.file
            .set_len(size.get())
            .and_then(|()| self.file.sync_all())
            .map_err(|e| BackingError::io("lengthen", &self.path, e))
    }

    /// What the file takes on the host.
    ///
    /// # Errors
    /// [`BackingError::Io`].
    pub fn allocated(&self) -> Result<Bytes, BackingError> {
        let blocks = self.metadata()?.blocks();
        Ok(Bytes::new(blocks.saturating_mul(SECTOR_BYTES)))
    }

    /// The loop device the file is on, or else a new one: detached by the kernel with its last
    /// user, with blocks of 4096 bytes and direct I/O where they can be had.
    ///
    /// # Errors
    /// [`BackingError::AttachedTwice`], [`BackingError::AttachedOtherwise`],
    /// [`BackingError::Size`], [`BackingError::Ioctl`].
    pub fn attach(&self) -> Result<Attached, BackingError> {
        let size = self.size()?;
        check_size(&self.path, size)?;
        let device = match self.attached()? {
            Some(device) => device,
            None => ioctl::attach_loop(&self.file, &self.path, LoopOptions::default())?,
        };
        // One that was there may be from before the file grew.
        if ioctl::size(&device)? != size {
            device.update_capacity()?;
        }
        let size = ioctl::size(&device)?;
        Ok(Attached::loop_device(device, size))
    }

    /// Every loop device the file is on, whoever attached it and how.
    ///
    /// # Errors
    /// [`BackingError::Ioctl`].
    pub fn loops(&self) -> Result<Vec<LoopDevice>, BackingError> {
        Ok(ioctl::find_loops(FileId::of(&self.file)?)?)
    }

    /// The one loop device the file is on, if it is on one.
    ///
    /// # Errors
    /// [`BackingError::AttachedTwice`], [`BackingError::AttachedOtherwise`],
    /// [`BackingError::Ioctl`].
    pub fn attached(&self) -> Result<Option<LoopDevice>, BackingError> {
        let mut devices = self.loops()?;
        let Some(device) = devices.pop() else {
            return Ok(None);
        };
        if !devices.is_empty() {
            devices.push(device);
            let loops: Vec<_> = devices
                .iter()
                .map(|device| device.path().display().to_string())
                .collect();
            return Err(BackingError::AttachedTwice {
                path: self.path.clone(),
                loops: loops.join(", "),
            });
        }
        let info = device.info()?;
        let how = if info.offset != Bytes::ZERO {
            "from an offset on"
        } else if info.read_only {
            "read-only"
        } else {
            return Ok(Some(device));
        };
        Err(BackingError::AttachedOtherwise {
            path: self.path.clone(),
            node: device.path().to_owned(),
            how,
        })
    }
}

/// Room on a file system of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRoom {
    /// Free, without what the file system keeps for root.
    pub free: Bytes,
    /// In all.
    pub total: Bytes,
}

/// The room on the file system that holds `path`.
///
/// # Errors
/// [`BackingError::NotFound`], [`BackingError::Io`].
pub fn host_room(path: &Path) -> Result<HostRoom, BackingError> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|errno| BackingError::io("read the free space of", path, errno.into()))?;
    let bytes = |blocks: u64| Bytes::new(blocks.saturating_mul(stat.f_frsize));
    Ok(HostRoom {
        free: bytes(stat.f_bavail),
        total: bytes(stat.f_blocks),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_new_file_is_sparse_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        let size = Bytes::from_gib(100);
        let file = SparseFile::create(&path, size).unwrap();
        assert_eq!(file.size().unwrap(), size);
        assert_eq!(file.allocated().unwrap(), Bytes::ZERO);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_file_grows_and_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        let file = SparseFile::create(&path, Bytes::from_mib(4)).unwrap();
        for (asked, then) in [(8, 8), (8, 8), (4, 8)] {
            file.lengthen(Bytes::from_mib(asked)).unwrap();
            assert_eq!(file.size().unwrap(), Bytes::from_mib(then));
        }
        assert!(matches!(
            file.lengthen(Bytes::new((9 << 20) + 1)),
            Err(BackingError::Size { .. })
        ));
        assert_eq!(file.allocated().unwrap(), Bytes::ZERO);
    }

    #[test]
    fn allocation_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        let file = SparseFile::create(&path, Bytes::from_mib(8)).unwrap();
        file.file.write_all_at(&[1; 1 << 20], 0).unwrap();
        file.file.sync_all().unwrap();
        let allocated = SparseFile::open(&path).unwrap().allocated().unwrap();
        assert!(allocated >= Bytes::from_mib(1) && allocated < Bytes::from_mib(2));
    }

    #[test]
    fn a_file_that_exists_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            SparseFile::create(&path, Bytes::from_mib(1)),
            Err(BackingError::AlreadyExists { path: p }) if p == path
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn sizes_that_cannot_be_attached_in_full_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        for size in [0, 512, 4097].map(Bytes::new) {
            assert!(matches!(
                SparseFile::create(&path, size),
                Err(BackingError::Size { size: s, .. }) if s == size
            ));
        }
        assert!(!path.exists());
    }

    #[test]
    fn a_size_the_host_refuses_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        let size = Bytes::new(u64::MAX - 4095);
        assert!(matches!(
            SparseFile::create(&path, size),
            Err(BackingError::Io {
                action: "give a size to",
                ..
            })
        ));
        assert!(!path.exists());
    }

    #[test]
    fn links_and_directories_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/etc/passwd", &link).unwrap();
        for path in [link.as_path(), dir.path()] {
            assert!(matches!(
                SparseFile::open(path),
                Err(BackingError::NotAFile { path: p }) if p == path
            ));
        }
        let missing = dir.path().join("missing");
        assert!(matches!(
            SparseFile::open(&missing),
            Err(BackingError::NotFound { path }) if path == missing
        ));
        // A link is in the way of a new file as well.
        assert!(matches!(
            SparseFile::create(&link, Bytes::from_mib(1)),
            Err(BackingError::AlreadyExists { .. })
        ));
    }

    #[test]
    fn free_space_is_that_of_the_host() {
        let room = host_room(Path::new("/")).unwrap();
        assert!(Bytes::ZERO < room.free && room.free <= room.total);
        assert!(matches!(
            host_room(Path::new("/no/such/dir")),
            Err(BackingError::NotFound { .. })
        ));
    }
}
