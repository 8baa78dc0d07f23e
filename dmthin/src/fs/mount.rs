//! Detached mounts: a file system in use without being anywhere in the tree of files.
//!
//! `fsopen`, `fsconfig`, `fsmount` give a descriptor of the file system's root. No mount table shows
//! it, and closing the descriptor unmounts it, a crash of the process included. Later
//! [`DetachedMount::attach`] may put it at a path, where it stays. The descriptor behaves like one
//! of `O_PATH`: calls that want a real one take [`DetachedMount::open_root`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::fs::error::FsError;
use crate::ids::FsType;
use crate::ioctl::{Errno, stand_in};

/// The longest message the kernel's log of a mount is read with.
const MESSAGE_MAX: usize = 1024;
/// How many messages are kept; the kernel itself keeps eight (`fs/fs_context.c`, `fc_log`).
const MESSAGES_MAX: usize = 16;

/// How a file system is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing is written, by anybody.
    pub read_only: bool,
    /// Removed files are discarded: an ext4 does so when it commits, an xfs when its log is written
    /// next after it has freed the blocks in the background, up to half a minute later.
    pub discard: bool,
    /// Further options of the file system, with their values where they have one.
    pub extra: Vec<(String, Option<String>)>,
}

/// A mounted file system that is nowhere in the tree. Dropping it unmounts it.
#[derive(Debug)]
pub struct DetachedMount {
    fs: FsType,
    node: PathBuf,
    root: OwnedFd,
}

/// What the kernel says of the last call on a file system being mounted, one text per line.
fn messages(context: impl AsFd) -> Vec<String> {
    let mut texts = Vec::new();
    let mut buffer = [0; MESSAGE_MAX];
    while texts.len() < MESSAGES_MAX {
        match rustix::io::read(&context, &mut buffer) {
            Ok(n) if n > 0 => {
                let text = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default());
                let text = text.trim();
                // A line begins with its level: `e `, `w ` or `i `.
                let text = text.split_once(' ').map_or(text, |(_, words)| words);
                texts.push(text.to_owned());
            }
            // A text too long for the buffer is gone as well; the next may fit.
            Err(Errno::MSGSIZE | Errno::INTR) => {}
            _ => break,
        }
    }
    texts
}

/// A file system on its way to being mounted.
struct Context<'a> {
    fs: FsType,
    node: &'a Path,
    fd: OwnedFd,
}

impl Context<'_> {
    fn set(&self, key: &str, value: Option<&str>) -> Result<(), FsError> {
        let result = match value {
            Some(value) => rustix::mount::fsconfig_set_string(&self.fd, key, value),
            None => rustix::mount::fsconfig_set_flag(&self.fd, key),
        };
        result.map_err(|errno| FsError::MountOption {
            fs: self.fs,
            node: self.node.to_owned(),
            option: value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}")),
            errno,
            messages: messages(&self.fd),
        })
    }

    fn failed(&self, errno: Errno) -> FsError {
        FsError::Mount {
            fs: self.fs,
            node: self.node.to_owned(),
            errno,
            messages: messages(&self.fd),
        }
    }
}

impl DetachedMount {
    /// Mounts the file system on `node`. An xfs gets `nouuid`: a volume and its snapshots have the
    /// same uuid, and xfs mounts a uuid once only without it.
    ///
    /// # Errors
    /// [`FsError::Unsupported`], [`FsError::MountOption`], [`FsError::Mount`].
    pub fn new(fs: FsType, node: &Path, options: &MountOptions) -> Result<Self, FsError> {
        if let Some(kernel) = stand_in() {
            let root = kernel
                .mount(node, options.read_only)
                .map_err(|errno| FsError::Mount {
                    fs,
                    node: node.to_owned(),
                    errno,
                    messages: Vec::new(),
                })?;
            return Ok(Self {
                fs,
                node: node.to_owned(),
                root,
            });
        }
        let fd =
            rustix::mount::fsopen(fs.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
                if errno == Errno::NODEV {
                    FsError::Unsupported { fs }
                } else {
                    FsError::Mount {
                        fs,
                        node: node.to_owned(),
                        errno,
                        messages: Vec::new(),
                    }
                }
            })?;
        let context = Context { fs, node, fd };
        rustix::mount::fsconfig_set_string(&context.fd, "source", node)
            .map_err(|errno| context.failed(errno))?;
        let mut attributes = MountAttrFlags::empty();
        if options.read_only {
            context.set("ro", None)?;
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        if fs == FsType::Xfs {
            context.set("nouuid", None)?;
        }
        if options.discard {
            context.set("discard", None)?;
        }
        for (key, value) in &options.extra {
            context.set(key, value.as_deref())?;
        }
        rustix::mount::fsconfig_create(&context.fd).map_err(|errno| context.failed(errno))?;
        let root = rustix::mount::fsmount(&context.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| context.failed(errno))?;
        Ok(Self {
            fs,
            node: node.to_owned(),
            root,
        })
    }

    fn error(&self, action: &'static str, errno: Errno) -> FsError {
        FsError::Mounted {
            action,
            fs: self.fs,
            node: self.node.clone(),
            errno,
        }
    }

    /// Which file system it is.
    #[must_use]
    pub fn fs(&self) -> FsType {
        self.fs
    }

    /// The root directory, good for the `*at` calls.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root directory opened for reading, good for every call.
    ///
    /// # Errors
    /// [`FsError::Mounted`].
    pub fn open_root(&self) -> Result<OwnedFd, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, ".", flags, Mode::empty())
            .map_err(|errno| self.error("open the root of", errno))
    }

    /// Writes everything to the device.
    ///
    /// # Errors
    /// [`FsError::Mounted`], where a write that was promised before failed, too.
    pub fn sync(&self) -> Result<(), FsError> {
        let root = self.open_root()?;
        let synced = match stand_in() {
            Some(kernel) => kernel.sync(root.as_fd()),
            None => rustix::fs::syncfs(root),
        };
        synced.map_err(|errno| self.error("sync", errno))
    }

    /// Puts the mount at a directory, where it stays until it is unmounted.
    ///
    /// # Errors
    /// [`FsError::Attach`]; nothing is mounted then.
    pub fn attach(self, dir: &Path) -> Result<(), FsError> {
        rustix::mount::move_mount(
            &self.root,
            "",
            CWD,
            dir,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|errno| FsError::Attach {
            fs: self.fs,
            node: self.node,
            dir: dir.to_owned(),
            errno,
        })
    }

    /// Unmounts after writing everything: unlike dropping, this tells whether it was written.
    ///
    /// # Errors
    /// [`FsError::Mounted`]; it is unmounted all the same.
    pub fn close(self) -> Result<(), FsError> {
        self.sync()
    }
}
