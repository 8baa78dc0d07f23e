//! System V semaphores as udev cookies use them: made exclusively, counted up and down, waited on for
//! zero with a bound, and always removed.
//!
//! A set of ours has a second semaphore, which nobody counts: the kernel keeps who changed it last, and that is
//! who made the set. So those that a killed process left are told from others' and from those in use.

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::ioctl::error::IoctlError;
use crate::ioctl::raw;

/// The semaphore that is counted, and the one that says whose the set is.
const COUNT: i32 = 0;
const OWNER: i32 = 1;
const SEMAPHORES: i32 = 2;

/// The kernel's list of all sets: `ipc/sem.c:sysvipc_sem_proc_show`.
const LIST: &str = "/proc/sysvipc/sem";

/// A semaphore of this process's making; it is removed when this is dropped.
///
/// It outlives a process that is killed: [`Semaphore::remove_abandoned`] clears such leftovers.
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
        match raw::sem_create(key, SEMAPHORES) {
            Ok(id) => {
                let semaphore = Self { key, id };
                raw::sem_set(id, OWNER, 0)
                    .and_then(|()| raw::sem_set(id, COUNT, value))
                    .map_err(|errno| semaphore.error("set", errno))?;
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

    /// Removes those of ours whose key begins with `prefix` and whose maker is no more; says how many. Where the
    /// kernel does not list semaphores nothing is done.
    ///
    /// # Errors
    /// [`IoctlError::Semaphore`] where one cannot be removed.
    pub fn remove_abandoned(prefix: u16) -> Result<usize, IoctlError> {
        let Ok(list) = fs::read_to_string(LIST) else {
            return Ok(0);
        };
        let mut removed: usize = 0;
        for (key, id) in list.lines().filter_map(|line| own_set(line, prefix)) {
            // One that is not marked yet, or was made in another process namespace, is left.
            let owner = raw::sem_changed_by(id, OWNER).ok().and_then(Pid::from_raw);
            if owner.map(test_kill_process) != Some(Err(Errno::SRCH)) {
                continue;
            }
            match raw::sem_remove(id) {
                Ok(()) => removed = removed.saturating_add(1),
                // Somebody else was faster.
                Err(Errno::IDRM | Errno::INVAL) => {}
                Err(errno) => {
                    return Err(IoctlError::Semaphore {
                        action: "remove",
                        key,
                        errno,
                    });
                }
            }
        }
        Ok(removed)
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

/// Key and id of a set that is listed in a line, if it is like ours.
fn own_set(line: &str, prefix: u16) -> Option<(u32, i32)> {
    let mut words = line.split_whitespace();
    let key: i32 = words.next()?.parse().ok()?;
    let id = words.next()?.parse().ok()?;
    let _mode = words.next()?;
    let count: i32 = words.next()?.parse().ok()?;
    let key = key.cast_unsigned();
    (count == SEMAPHORES && key >> 16 == u32::from(prefix)).then_some((key, id))
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
    fn sets_are_read_from_the_kernels_list() {
        let line =
            " 223167899          3   600          2     0     0     0     0          0 1795305000";
        assert_eq!(own_set(line, 0x0d4d), Some((0x0d4d_459b, 3)));
        assert_eq!(own_set(line, 0x0d4e), None);
        // One semaphore, as libdm makes them, and the line above the list.
        let foreign = line.replace("          2  ", "          1  ");
        assert_eq!(own_set(&foreign, 0x0d4d), None);
        assert_eq!(
            own_set("       key      semid perms      nsems", 0x0d4d),
            None
        );
        assert_eq!(
            own_set("-1 7 600 2 0 0 0 0 0 0", 0xffff),
            Some((u32::MAX, 7))
        );
    }

    const KEY: &str = "DMTHIN_TEST_SEMAPHORE";

    #[test]
    #[ignore = "run by the test below, as another process"]
    fn child_process() {
        let key = std::env::var(KEY).unwrap().parse().unwrap();
        let semaphore = Semaphore::create(key, 1).unwrap().unwrap();
        // As one that is killed.
        std::mem::forget(semaphore);
    }

    #[test]
    fn what_the_dead_left_is_removed_and_nothing_else() {
        let prefix = 0x7e58;
        let [dead, live] = [1, 2].map(|nr| key(nr) & 0xffff | u32::from(prefix) << 16);
        let kept = Semaphore::create(live, 1).unwrap().unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ioctl::semaphore::tests::child_process",
                "--ignored",
            ])
            .env(KEY, dead.to_string())
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
        assert_eq!(Semaphore::remove_abandoned(0x7e59).unwrap(), 0);
        assert_eq!(Semaphore::remove_abandoned(prefix).unwrap(), 1);
        assert!(!Semaphore::remove_key(dead).unwrap());
        assert_eq!(kept.value().unwrap(), 1);
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
