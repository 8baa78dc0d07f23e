//! What a monitor waits for, and what it tells.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::mm::{MlockAllFlags, mlockall};

use crate::dm::{EventWaiter, PoolMode};
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::monitor::bell::Bell;
use crate::ioctl::DEV_MAPPER;
use crate::units::Bytes;

/// The kernel's events of all dm devices: a sleep that ends when something may have changed.
#[derive(Debug)]
pub struct Events {
    waiter: EventWaiter,
}

impl Host {
    /// The events of this host.
    ///
    /// # Errors
    /// [`PoolError::Dm`] where there is no device mapper.
    pub fn events(&self) -> Result<Events, PoolError> {
        let waiter = EventWaiter::open(DEV_MAPPER.as_ref())?;
        Ok(Events { waiter })
    }
}

impl Events {
    /// Keeps this process in memory: it must not wait for a disk that waits for it, where the swap or
    /// its own program lie on a pool. Pages that are never touched take none.
    ///
    /// # Errors
    /// What the kernel says; it works all the same.
    pub fn lock_memory(&self) -> io::Result<()> {
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        Ok(mlockall(flags)?)
    }

    /// Remembers what has happened so far; look at the pools after this, then [`sleep`](Self::sleep).
    ///
    /// # Errors
    /// [`PoolError::Dm`].
    pub fn arm(&self) -> Result<(), PoolError> {
        Ok(self.waiter.arm()?)
    }

    /// Sleeps until something happened since [`arm`](Self::arm) or a bell was rung: true; or until
    /// `limit` is over.
    ///
    /// # Errors
    /// [`PoolError::Dm`].
    pub fn sleep(&self, limit: Duration, bells: &[&Bell]) -> Result<bool, PoolError> {
        let others: Vec<_> = bells.iter().map(|bell| bell.as_fd()).collect();
        let woken = self.waiter.poll(limit, &others)?;
        for bell in bells {
            bell.hush();
        }
        Ok(woken)
    }
}

/// One of a pool's two spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// For what the volumes hold.
    Data,
    /// For where it is.
    Metadata,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
        })
    }
}

/// Why a pool that should grow does not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoGrowth {
    /// It has the size that it may have at most.
    #[error("it may not be larger than {most}")]
    AtMost {
        /// That size.
        most: Bytes,
    },
    /// The host's file system has no room for more.
    #[error("the file system of {} has only {free} left", path.display())]
    HostRoom {
        /// The file.
        path: PathBuf,
        /// What is free.
        free: Bytes,
    },
    /// What is below is no larger, and may not be made so by us.
    #[error("{} is not larger than {size}: enlarge it, as with lvextend", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// Its size.
        size: Bytes,
    },
    /// It was tried.
    #[error(transparent)]
    Failed(#[from] PoolError),
}

/// Something a monitor did or saw.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum MonitorEvent {
    /// A space has reached another step: 80, 85, 90, 95, 100 hundredths.
    Filled {
        /// Which.
        space: Space,
        /// In use.
        used: Bytes,
        /// In all.
        total: Bytes,
    },
    /// The pool's mode is another than before.
    Mode {
        /// `rw`, `ro`, `out_of_data_space`, `fail` or `error`.
        mode: &'static str,
        /// Whether its metadata want a check.
        needs_check: bool,
    },
    /// A space was made larger.
    Grew {
        /// Which.
        space: Space,
        /// From this size.
        from: Bytes,
        /// To this one.
        to: Bytes,
    },
    /// A space should be larger and is not.
    NotGrown {
        /// Which.
        space: Space,
        /// Why.
        #[serde(serialize_with = "in_words")]
        why: NoGrowth,
    },
    /// The ballast was let go.
    BallastReleased {
        /// What it kept.
        size: Bytes,
    },
    /// Containers were made to wait.
    Held {
        /// How many.
        containers: u64,
    },
    /// They go on.
    LetGo {
        /// How many.
        containers: u64,
    },
}

fn in_words<S: serde::Serializer>(why: &NoGrowth, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(why)
}

impl MonitorEvent {
    /// A word for it, for programs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Filled { .. } => "filled",
            Self::Mode { .. } => "mode",
            Self::Grew { .. } => "grew",
            Self::NotGrown { .. } => "not_grown",
            Self::BallastReleased { .. } => "ballast_released",
            Self::Held { .. } => "held",
            Self::LetGo { .. } => "let_go",
        }
    }

    /// Whether somebody should look.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        match self {
            Self::Grew { .. } | Self::LetGo { .. } => false,
            Self::Mode { mode, needs_check } => *needs_check || *mode != PoolMode::Rw.as_str(),
            Self::Filled { .. }
            | Self::NotGrown { .. }
            | Self::BallastReleased { .. }
            | Self::Held { .. } => true,
        }
    }
}

impl fmt::Display for MonitorEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filled { space, used, total } => {
                write!(f, "{used} of {total} of the {space} are in use")
            }
            Self::Mode { mode, needs_check } => {
                let check = if *needs_check {
                    ", and its metadata want a check"
                } else {
                    ""
                };
                write!(f, "the pool is {mode} now{check}")
            }
            Self::Grew { space, from, to } => write!(f, "{space} grown from {from} to {to}"),
            Self::NotGrown { space, why } => write!(f, "the {space} cannot be grown: {why}"),
            Self::BallastReleased { size } => write!(f, "the ballast of {size} was let go"),
            Self::Held { containers } => {
                write!(f, "{containers} containers wait until there is room")
            }
            Self::LetGo { containers } => write!(f, "{containers} containers go on"),
        }
    }
}
