//! Byte-range locks between processes and threads, by open file descriptions.
//!
//! Each guard opens the lock file anew, so two guards of one process exclude each other as those
//! of two processes do, and closing one never lets go of another (as `F_SETLK` locks would). The
//! kernel drops them when the process dies. There is no detection of deadlock: take locks in
//! one order.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::ioctl::error::IoctlError;
use crate::ioctl::raw;

/// A byte of the lock file: what is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockByte(i64);

impl LockByte {
    /// The byte at an offset below 2^63 - 1; those above share the last one.
    #[must_use]
    pub fn new(offset: u64) -> Self {
        Self(i64::try_from(offset).unwrap_or(i64::MAX).min(i64::MAX - 1))
    }
}

/// Who else may have the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Others that share.
    Shared,
    /// Nobody.
    Exclusive,
}

/// A file whose bytes are locked; it stays empty.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    // Kept open so that the inode's number is not given to another file.
    file: File,
}

/// A lock held; it is let go when this is dropped.
#[derive(Debug)]
pub struct LockGuard {
    path: PathBuf,
    file: File,
    byte: LockByte,
}

impl LockFile {
    /// Opens a lock file, which is made with mode 0600 where it is missing.
    ///
    /// # Errors
    /// [`IoctlError::Io`], [`IoctlError::PermissionDenied`].
    pub fn open(path: &Path) -> Result<Self, IoctlError> {
        Ok(Self {
            path: path.to_owned(),
            file: open(path, true)?,
        })
    }

    /// Waits until the lock can be had, and takes it.
    ///
    /// # Errors
    /// [`IoctlError::Io`], [`IoctlError::LockReplaced`].
    pub fn lock(&self, byte: LockByte, mode: LockMode) -> Result<LockGuard, IoctlError> {
        let guard = self.guard(byte)?;
        loop {
            match raw::ofd_lock(&guard.file, &flock(byte, mode.kind()), true) {
                Ok(()) => return Ok(guard),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(guard.error("lock", errno)),
            }
        }
    }

    /// Takes the lock if it can be had at once.
    ///
    /// # Errors
    /// [`IoctlError::Io`], [`IoctlError::LockReplaced`]; not that somebody has it.
    pub fn try_lock(
        &self,
        byte: LockByte,
        mode: LockMode,
    ) -> Result<Option<LockGuard>, IoctlError> {
        let guard = self.guard(byte)?;
        match raw::ofd_lock(&guard.file, &flock(byte, mode.kind()), false) {
            Ok(()) => Ok(Some(guard)),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
            Err(errno) => Err(guard.error("lock", errno)),
        }
    }

    fn guard(&self, byte: LockByte) -> Result<LockGuard, IoctlError> {
        let file = match open(&self.path, false) {
            Err(IoctlError::Io {
                errno: Errno::NOENT,
                ..
            }) => return Err(self.replaced()),
            result => result?,
        };
        // Two holders of locks in different files would both think they are alone.
        if self.identity(&self.file)? != self.identity(&file)? {
            return Err(self.replaced());
        }
        Ok(LockGuard {
            path: self.path.clone(),
            file,
            byte,
        })
    }

    fn replaced(&self) -> IoctlError {
        IoctlError::LockReplaced {
            path: self.path.clone(),
        }
    }

    fn identity(&self, file: &File) -> Result<(u64, u64), IoctlError> {
        let metadata = file
            .metadata()
            .map_err(|error| io_error("look at", &self.path, &error))?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

impl LockGuard {
    fn error(&self, action: &'static str, errno: Errno) -> IoctlError {
        IoctlError::Io {
            action,
            path: self.path.clone(),
            errno,
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Closing the file is not enough where a child got a copy of it by fork.
        let unlock = flock(self.byte, libc::F_UNLCK);
        if let Err(errno) = raw::ofd_lock(&self.file, &unlock, false) {
            tracing::warn!(path = %self.path.display(), %errno, "cannot unlock");
        }
    }
}

impl LockMode {
    fn kind(self) -> i32 {
        match self {
            Self::Shared => libc::F_RDLCK,
            Self::Exclusive => libc::F_WRLCK,
        }
    }
}

fn flock(byte: LockByte, kind: i32) -> libc::flock {
    let narrow = |n: i32| i16::try_from(n).expect("the constants of fcntl.h are below 2^15");
    libc::flock {
        l_type: narrow(kind),
        l_whence: narrow(libc::SEEK_SET),
        l_start: byte.0,
        l_len: 1,
        // The kernel asks for 0 in this kind of lock.
        l_pid: 0,
    }
}

fn open(path: &Path, create: bool) -> Result<File, IoctlError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| io_error("open", path, &error))
}

fn io_error(action: &'static str, path: &Path, error: &std::io::Error) -> IoctlError {
    let path = path.to_owned();
    match Errno::from_io_error(error).unwrap_or(Errno::IO) {
        Errno::ACCESS => IoctlError::PermissionDenied { path },
        errno => IoctlError::Io {
            action,
            path,
            errno,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockMode::{Exclusive, Shared};

    #[test]
    fn guards_of_one_process_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let locks = LockFile::open(&dir.path().join("locks")).unwrap();
        let (one, two) = (LockByte::new(0), LockByte::new(1));
        let held = locks.lock(one, Exclusive).unwrap();
        assert!(locks.try_lock(one, Shared).unwrap().is_none());
        assert!(locks.try_lock(one, Exclusive).unwrap().is_none());
        assert!(locks.try_lock(two, Exclusive).unwrap().is_some());
        drop(held);
        let first = locks.lock(one, Shared).unwrap();
        let second = locks.try_lock(one, Shared).unwrap().unwrap();
        assert!(locks.try_lock(one, Exclusive).unwrap().is_none());
        drop(first);
        assert!(locks.try_lock(one, Exclusive).unwrap().is_none());
        drop(second);
        assert!(locks.try_lock(one, Exclusive).unwrap().is_some());
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let locks = LockFile::open(&dir.path().join("locks")).unwrap();
        let byte = LockByte::new(u64::MAX);
        let held = locks.lock(byte, Exclusive).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| locks.lock(byte, Exclusive).map(drop));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiter.is_finished());
            drop(held);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let locks = LockFile::open(&dir.path().join("locks")).unwrap();
        let held = locks.lock(LockByte::new(7), Exclusive).unwrap();
        let copy = held.file.try_clone().unwrap();
        drop(held);
        assert!(
            locks
                .try_lock(LockByte::new(7), Exclusive)
                .unwrap()
                .is_some()
        );
        drop(copy);
    }

    #[test]
    fn a_replaced_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let locks = LockFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(
            locks.lock(LockByte::new(0), Shared),
            Err(IoctlError::LockReplaced { .. })
        ));
        let again = LockFile::open(&path).unwrap();
        assert!(again.try_lock(LockByte::new(0), Shared).unwrap().is_some());
        assert!(matches!(
            locks.try_lock(LockByte::new(0), Shared),
            Err(IoctlError::LockReplaced { .. })
        ));
    }

    #[test]
    fn the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        drop(LockFile::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }
}
