//! What can go wrong between us and the kernel, one variant per cause.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use crate::ids::{DevNo, IdError};

/// A failed call to the kernel, or an answer that makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoctlError {
    /// A device-mapper command was refused.
    #[error("{command} on {device} failed: {errno}")]
    Dm {
        /// The command as `dm-ioctl.h` names it.
        command: &'static str,
        /// Name, uuid or number of the device, as the caller gave it.
        device: String,
        /// The kernel's reason.
        errno: Errno,
    },
    /// There is no device mapper to talk to.
    #[error(
        "no device mapper in this kernel ({path}): load it with `modprobe dm-thin-pool`",
        path = path.display()
    )]
    NoDeviceMapper {
        /// The control node that was looked for.
        path: PathBuf,
    },
    /// The caller may not use this node.
    #[error("no permission to open {path}: run as root", path = path.display())]
    PermissionDenied {
        /// The node.
        path: PathBuf,
    },
    /// The kernel's dm interface is of another major version.
    #[error("the kernel's device-mapper interface is version {found}, this program speaks 4.x")]
    Version {
        /// `major.minor.patch` as the kernel says it.
        found: String,
    },
    /// A message was sent to a device without a live table, where no target can take it
    /// (`drivers/md/dm-ioctl.c:target_message`).
    #[error("{device} has no live table to take the message {message:?}: resume it first")]
    NoLiveTable {
        /// The device as the caller gave it.
        device: String,
        /// The message.
        message: String,
    },
    /// A text cannot be sent in this place.
    #[error("{command} on {device}: {what} {text:?} cannot be sent: {rule}")]
    Unsendable {
        /// The command it was for.
        command: &'static str,
        /// The device as the caller gave it.
        device: String,
        /// What the text was to be.
        what: &'static str,
        /// The text.
        text: String,
        /// What would have been taken.
        rule: &'static str,
    },
    /// The reply to a command cannot be read.
    #[error("{command} on {device}: the kernel's reply makes no sense")]
    Reply {
        /// The command.
        command: &'static str,
        /// The device as the caller gave it.
        device: String,
        /// Where it stops making sense.
        #[source]
        cause: ReplyError,
    },
    /// The reply is larger than any buffer we make for it.
    #[error("{command} on {device}: the reply does not fit into {limit} bytes")]
    ReplyTooLong {
        /// The command.
        command: &'static str,
        /// The device as the caller gave it.
        device: String,
        /// The largest buffer tried.
        limit: usize,
    },
    /// An operation on a file or node failed.
    #[error("cannot {action} {path}: {errno}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A node exists but is not the device it should be.
    #[error("{path} is {found}, not device {expected}: remove the node", path = path.display())]
    WrongNode {
        /// The node.
        path: PathBuf,
        /// The device it should be.
        expected: DevNo,
        /// What it is instead.
        found: String,
    },
    /// There is no loop driver.
    #[error("no loop devices in this kernel ({path}): load them with `modprobe loop`", path = path.display())]
    NoLoop {
        /// The control node that was looked for.
        path: PathBuf,
    },
    /// Every free loop device was taken by somebody else before we could have it.
    #[error("no free loop device after {tries} tries: others take them as fast; try again")]
    LoopRace {
        /// How many were tried.
        tries: u32,
    },
    /// Somebody uses the device.
    #[error("{path} is in use: unmount it or remove the devices on it first", path = path.display())]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// An operation on a udev cookie's semaphore failed.
    #[error("cannot {action} the udev cookie semaphore {key:#010x}: {errno}")]
    Semaphore {
        /// What was tried, as a verb.
        action: &'static str,
        /// The semaphore's key.
        key: u32,
        /// The kernel's reason.
        errno: Errno,
    },
    /// udev did not say that it is done in time.
    #[error(
        "udev did not complete the cookie {key:#010x} in {} s: is udevd stuck?",
        waited.as_secs()
    )]
    CookieTimeout {
        /// The semaphore's key.
        key: u32,
        /// How long it was given.
        waited: Duration,
    },
    /// The lock file is no longer the one that was opened.
    #[error("the lock file {path} was replaced while in use: close and open again", path = path.display())]
    LockReplaced {
        /// The lock file.
        path: PathBuf,
    },
}

impl IoctlError {
    /// The kernel's error number, where the error is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Dm { errno, .. } | Self::Io { errno, .. } | Self::Semaphore { errno, .. } => {
                Some(*errno)
            }
            Self::PermissionDenied { .. } => Some(Errno::ACCESS),
            Self::Busy { .. } => Some(Errno::BUSY),
            _ => None,
        }
    }
}

/// Where a reply from the kernel stops making sense. Offsets are bytes into the reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A field lies outside the reply.
    #[error("{what} at byte {at} lies outside the reply of {len} bytes")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Where it should be.
        at: usize,
        /// How long the reply is.
        len: usize,
    },
    /// A text has no NUL before its field or the reply ends.
    #[error("{what} at byte {at} has no end")]
    Unterminated {
        /// The text.
        what: &'static str,
        /// Where it begins.
        at: usize,
    },
    /// A text is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    NotText {
        /// The text.
        what: &'static str,
        /// Where it begins.
        at: usize,
    },
    /// A record says the next one begins inside itself, or outside the reply.
    #[error("{what} at byte {at} is followed by one at {next}, which cannot be")]
    BadNext {
        /// The kind of record.
        what: &'static str,
        /// Where it begins.
        at: usize,
        /// Where it says the next one begins.
        next: usize,
    },
    /// A device's name or uuid breaks its rule.
    #[error("the reply carries a bad id")]
    Id(#[from] IdError),
}
