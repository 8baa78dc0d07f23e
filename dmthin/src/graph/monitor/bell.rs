//! The bell: how a verb calls a pool's monitor, and how it knows that there is one.
//!
//! It is a FIFO in the pool's directory that the monitor keeps open for reading. The kernel refuses to
//! open one for writing that nobody reads (`fs/pipe.c:fifo_open`: `ENXIO`), so that a monitor that died
//! leaves nothing behind that could be mistaken for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkfifoat, open};
use rustix::io::Errno;

use crate::graph::error::PoolError;
use crate::graph::pool::Pool;

/// A monitor's end of the bell.
#[derive(Debug)]
pub struct Bell {
    fifo: File,
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

impl Bell {
    fn hang(path: &Path) -> io::Result<Self> {
        match mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Open for writing too, it never comes to an end when who rang goes.
        Ok(Self {
            fifo: open_fifo(path, OFlags::RDWR)?,
        })
    }

    /// Forgets that it was rung.
    pub(super) fn hush(&self) {
        let mut rings = [0; 64];
        while matches!((&self.fifo).read(&mut rings), Ok(read) if read > 0) {}
    }
}

fn open_fifo(path: &Path, access: OFlags) -> io::Result<File> {
    let fifo = open(
        path,
        access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    match FileType::from_raw_mode(fstat(&fifo)?.st_mode) {
        FileType::Fifo => Ok(fifo.into()),
        _ => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Whether somebody listens.
fn is_heard(path: &Path) -> bool {
    open_fifo(path, OFlags::WRONLY).is_ok()
}

fn ring(path: &Path) -> io::Result<()> {
    // Open for reading too: a monitor that has just died makes no signal of it.
    match open_fifo(path, OFlags::RDWR)?.write_all(b"!") {
        // It was rung so often already that there is no room for more.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

impl Pool {
    /// The bell of this pool's monitor. As long as it is kept, verbs leave work to whoever keeps it.
    ///
    /// # Errors
    /// [`PoolError::Io`].
    pub fn bell(&self) -> Result<Bell, PoolError> {
        let path = self.host().layout().bell(self.name());
        Bell::hang(&path).map_err(|source| PoolError::io("listen on", &path, source))
    }

    /// Whether a monitor looks after this pool just now.
    pub(crate) fn is_monitored(&self) -> bool {
        is_heard(&self.host().layout().bell(self.name()))
    }

    /// Has the monitor look at once.
    pub(crate) fn ring(&self) {
        if let Err(error) = ring(&self.host().layout().bell(self.name())) {
            // It looks by itself in a while, and `queue run` and `pool open` are there too.
            tracing::debug!(%error, "the monitor was not called");
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tempfile::TempDir;

    use super::*;

    fn is_rung(bell: &Bell) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).unwrap() > 0
    }

    #[test]
    fn a_bell_is_heard_while_somebody_listens() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("bell");
        assert!(!is_heard(&path));
        let bell = Bell::hang(&path).unwrap();
        assert!(is_heard(&path));
        assert!(!is_rung(&bell));
        for _ in 0..100_000 {
            ring(&path).unwrap();
        }
        assert!(is_rung(&bell));
        bell.hush();
        assert!(!is_rung(&bell));
        // A second monitor, and the first goes.
        let second = Bell::hang(&path).unwrap();
        drop(bell);
        assert!(is_heard(&path));
        drop(second);
        assert!(path.exists() && !is_heard(&path));
    }

    #[test]
    fn what_is_no_fifo_is_no_bell() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("bell");
        std::fs::write(&path, "kept").unwrap();
        assert!(!is_heard(&path));
        ring(&path).unwrap_err();
        Bell::hang(&path).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }
}
