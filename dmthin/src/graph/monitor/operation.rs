//! What a monitor does, and how long it takes.

use std::time::{Duration, Instant};

/// Something a monitor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MonitorOp {
    /// A look at a pool, with all that is done in it.
    Look,
    /// The data are made larger.
    GrowData,
    /// The metadata are made larger.
    GrowMetadata,
    /// The ballast is let go.
    ReleaseBallast,
    /// Removals that are due are run.
    RunQueue,
    /// The volumes' shares are read from the pool's metadata.
    ReadVolumes,
    /// What does not belong is looked for.
    Check,
    /// The metadata are copied.
    CopyMetadata,
}

impl MonitorOp {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::GrowData => "grow_data",
            Self::GrowMetadata => "grow_metadata",
            Self::ReleaseBallast => "release_ballast",
            Self::RunQueue => "run_queue",
            Self::ReadVolumes => "read_volumes",
            Self::Check => "check",
            Self::CopyMetadata => "copy_metadata",
        }
    }
}

/// Something a monitor did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What.
    pub op: MonitorOp,
    /// Whether it did not fail.
    pub worked: bool,
    /// How long it took.
    pub took: Duration,
}

impl Operation {
    /// Does it, and takes the time.
    pub fn timed<T, E>(op: MonitorOp, act: impl FnOnce() -> Result<T, E>) -> (Result<T, E>, Self) {
        let started = Instant::now();
        let result = act();
        let operation = Self {
            op,
            worked: result.is_ok(),
            took: started.elapsed(),
        };
        (result, operation)
    }
}
