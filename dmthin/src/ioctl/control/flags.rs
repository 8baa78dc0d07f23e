//! How a command is given, and what it came to.

use crate::ioctl::abi;

/// A udev cookie: its semaphore's 16 bits below, udev flags above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cookie(u32);

impl Cookie {
    /// No cookie: udev has nothing to complete.
    pub const NONE: Self = Self(0);

    /// From the semaphore's base and the udev flags.
    #[must_use]
    pub fn new(base: u16, flags: u16) -> Self {
        Self(u32::from(flags) << 16 | u32::from(base))
    }

    /// As the kernel and udev see it.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Whether a busy device is to be removed when its last user closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferred {
    /// A busy device is an error.
    No,
    /// A busy device goes later.
    Yes,
}

/// When a removed device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedWhen {
    /// It is gone.
    Now,
    /// When its last user closes it.
    Deferred,
}

/// What a removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Whether the device is gone.
    pub when: RemovedWhen,
    /// Whether udev will complete the cookie.
    pub uevent: bool,
}

/// How a device is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SuspendFlags {
    /// Do not wait for queued input and output.
    pub noflush: bool,
    /// Do not freeze the file system on it.
    pub skip_lockfs: bool,
}

impl SuspendFlags {
    pub(super) fn flags(self) -> u32 {
        let noflush = if self.noflush {
            abi::DM_NOFLUSH_FLAG
        } else {
            0
        };
        let skip_lockfs = if self.skip_lockfs {
            abi::DM_SKIP_LOCKFS_FLAG
        } else {
            0
        };
        noflush | skip_lockfs
    }
}

/// Whether a status waits for what is outstanding to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Say what is so now. A thin-pool then commits nothing (`dm-thin.c:pool_status`).
    No,
    /// Commit first.
    Yes,
}
