//! System V semaphores as udev cookies use them: one semaphore, made exclusively, counted up and
//! down, waited on for zero with a bound, and always removed.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::ioctl::error::IoctlError;
use crate::ioctl::raw;

/// A semaphore of this process's making; it is removed when this is dropped.
///
/// It outlives a process that is killed: [`Semaphore::remove_key`] clears such leftovers.
#[derive(Debug)]
pub struct Semaphore {
    key: u32,
    id: i32,
}

impl Semaphore {
    /// Makes a semaphore with a value, or gives `None` where the key is taken.
    ///
    /// # Errors
    /// [`IoctlError::Semaphore`].
    pub fn create(key: u32, value: u16) -> Result<Option<Self>, IoctlError> {
        match raw::sem_create(key) {
            Ok(id) => {
                let semaphore = Self { key, id };
                raw::sem_set(id, value).map_err(|errno| semaphore.error("set", errno))?;
                Ok(Some(semaphore))
            }
            Err(Errno::EXIST) => Ok(None),
            Err(errno) => Err(IoctlError::Semaphore {
                action: "make",
                key,
                errno,
            }),
        }
    }

    /// Removes the semaphore of a key, if there is one; says whether there was.
    ///
    /// # Errors
    /// [`IoctlError::Semaphore`].
    pub fn remove_key(key: u32) -> Result<bool, IoctlError> {
        let error = |errno| IoctlError::Semaphore {
            action: "remove",
            key,
            errno,
        };
        match raw::sem_open(key) {
            Ok(id) => raw::sem_remove(id).map(|()| true).map_err(error),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(error(errno)),
        }
    }

    /// The semaphore's key.
    #[must_use]
    pub fn key(&self) -> u32 {
        self.key
    }

    /// Its value.
    ///
    /// # Errors
    /// [`IoctlError::Semaphore`].
    pub fn value(&self) -> Result<u16, IoctlError> {
        let value = raw::sem_get(self.id).map_err(|errno| self.error("read", errno))?;
        u16::try_from(value).map_err(|_| self.error("read", Errno::RANGE))
    }

    /// Adds one.
    ///
    /// # Errors
    /// [`IoctlError::Semaphore`].
    pub fn increment(&self) -> Result<(), IoctlError> {
        self.change(1, Duration::ZERO)
            .map_err(|errno| self.error("count up", errno))
    }

    /// Takes one away.
    ///
    /// # Errors
    /// [`IoctlError::Semaphore`], with `EAGAIN` where the value is 0.
    pub fn decrement(&self) -> Result<(), IoctlError> {
        self.change(-1, Duration::ZERO)
            .map_err(|errno| self.error("count down", errno))
    }

    /// Waits until the value is 0, but not longer than `limit`.
    ///
    /// # Errors
    /// [`IoctlError::CookieTimeout`], [`IoctlError::Semaphore`] with `EIDRM` where somebody
    /// removed it.
    pub fn wait_for_zero(&self, limit: Duration) -> Result<(), IoctlError> {
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            match self.change(0, left) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return Err(IoctlError::CookieTimeout {
                        key: self.key,
                        waited: limit,
                    });
                }
                Err(errno) => return Err(self.error("wait for", errno)),
            }
        }
    }

    fn change(&self, change: i16, limit: Duration) -> Result<(), Errno> {
        let timeout = libc::timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        raw::sem_change(self.id, change, &timeout)
    }

    fn error(&self, action: &'static str, errno: Errno) -> IoctlError {
        IoctlError::Semaphore {
            action,
            key: self.key,
            errno,
        }
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        match raw::sem_remove(self.id) {
            // `dmsetup udevcomplete_all` may have been faster.
            Ok(()) | Err(Errno::IDRM | Errno::INVAL) => {}
            Err(errno) => tracing::warn!(
                key = self.key,
                %errno,
                "cannot remove a udev cookie's semaphore"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of this test's own, out of the range of udev cookies.
    fn key(nr: u32) -> u32 {
        0x7e57_0000 | (std::process::id() & 0xfff) << 4 | nr
    }

    #[test]
    fn it_counts_and_is_waited_on_with_a_bound() {
        let key = key(1);
        let semaphore = Semaphore::create(key, 1).unwrap().unwrap();
        assert!(Semaphore::create(key, 1).unwrap().is_none());
        semaphore.increment().unwrap();
        assert_eq!(semaphore.value().unwrap(), 2);
        semaphore.decrement().unwrap();
        semaphore.decrement().unwrap();
        semaphore.wait_for_zero(Duration::from_secs(5)).unwrap();
        assert_eq!(
            semaphore.decrement().unwrap_err().errno(),
            Some(Errno::AGAIN)
        );
        semaphore.increment().unwrap();
        let limit = Duration::from_millis(30);
        let begin = Instant::now();
        let error = semaphore.wait_for_zero(limit).unwrap_err();
        assert!(
            matches!(error, IoctlError::CookieTimeout { key: k, waited } if k == key && waited == limit)
        );
        assert!(begin.elapsed() >= limit);
    }

    #[test]
    fn a_waiter_wakes_when_the_last_one_is_done() {
        let semaphore = Semaphore::create(key(2), 1).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| semaphore.wait_for_zero(Duration::from_secs(20)));
            std::thread::sleep(Duration::from_millis(20));
            semaphore.decrement().unwrap();
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn it_is_gone_when_dropped_and_leftovers_can_be_removed() {
        let key = key(3);
        drop(Semaphore::create(key, 1).unwrap().unwrap());
        assert!(!Semaphore::remove_key(key).unwrap());
        let left = Semaphore::create(key, 1).unwrap().unwrap();
        assert!(Semaphore::remove_key(key).unwrap());
        assert_eq!(left.value().unwrap_err().errno(), Some(Errno::INVAL));
    }
}
