//! Waiting for the kernel to say that a device changed.
//!
//! One counter of all dm events is behind `poll` on the control node. Arming remembers the
//! counter per open file (`drivers/md/dm-ioctl.c:dev_arm_poll`, `dm_poll`), so a waiter has its
//! own, and the order is: arm, look, poll. What happens between looking and polling makes the
//! poll return at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::dm::error::DmError;
use crate::ioctl::{Control, DevId, DeviceInfo, Errno, EventNr, IoctlError};

/// A control node of its own that is polled for events.
#[derive(Debug)]
pub struct EventWaiter {
    control: Control,
}

impl AsFd for EventWaiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl EventWaiter {
    /// Opens a waiter.
    ///
    /// # Errors
    /// [`DmError::Ioctl`] as of [`Control::open_in`].
    pub fn open(dev_dir: &Path) -> Result<Self, DmError> {
        Ok(Self {
            control: Control::open_in(dev_dir)?,
        })
    }

    /// Waits until a device has had another number of events than `seen`, or `limit` is over,
    /// which gives `None`.
    ///
    /// A resume always sends an event: read the status again, whatever the reason.
    ///
    /// # Errors
    /// [`DmError::NotFound`] where the device is not there or goes, [`DmError::Ioctl`].
    pub fn wait(
        &self,
        id: DevId<'_>,
        seen: EventNr,
        limit: Duration,
    ) -> Result<Option<DeviceInfo>, DmError> {
        self.wait_until(limit, |control| match control.status(id) {
            Ok(info) if info.event_nr == seen => Ok(None),
            Ok(info) => Ok(Some(info)),
            Err(IoctlError::Dm {
                errno: Errno::NXIO,
                device,
                ..
            }) => Err(DmError::NotFound { device }),
            Err(error) => Err(error.into()),
        })
    }

    /// Asks `look` now and after each event until it has an answer or `limit` is over.
    ///
    /// # Errors
    /// Those of `look`, and [`DmError::Ioctl`].
    pub fn wait_until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&Control) -> Result<Option<T>, DmError>,
    ) -> Result<Option<T>, DmError> {
        let begin = Instant::now();
        loop {
            self.arm()?;
            if let Some(answer) = look(&self.control)? {
                return Ok(Some(answer));
            }
            if !self.poll(limit.saturating_sub(begin.elapsed()), &[])? {
                return Ok(None);
            }
        }
    }

    /// Remembers which events there were: [`poll`](Self::poll) waits for one that comes after. Look at
    /// what is of interest in between.
    ///
    /// # Errors
    /// [`DmError::Ioctl`].
    pub fn arm(&self) -> Result<(), DmError> {
        Ok(self.control.arm_poll()?)
    }

    /// Sleeps until there was an event since [`arm`](Self::arm) or there is something to read from one
    /// of `others`, or until `limit` is over: false. A signal may wake it early.
    ///
    /// # Errors
    /// [`DmError::Ioctl`].
    pub fn poll(&self, limit: Duration, others: &[BorrowedFd<'_>]) -> Result<bool, DmError> {
        let control = self.control.as_fd();
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let fds = others.iter().chain([&control]);
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(DmError::Ioctl(IoctlError::Dm {
                command: "poll",
                device: "the device mapper".to_owned(),
                errno,
            })),
        }
    }
}
