//! Copies of the metadata, taken while nobody needs one.

use std::time::{Duration, Instant, SystemTime};

use crate::graph::error::PoolError;
use crate::graph::monitor::{MonitorOp, Operation, PoolMonitor};
use crate::graph::pool::Pool;
use crate::store::PoolState;

/// How old the newest copy becomes.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// Whether one is due is asked this often; one that failed is tried again then.
const ASKED_EVERY: Duration = Duration::from_secs(3600);
/// How many are kept.
const KEPT: usize = 5;

impl PoolMonitor {
    /// Whether a copy of the metadata is due, to be taken by [`Pool::copy_in_time`] beside the monitor. None is
    /// above the red line, where the metadata have no block to spare, nor of another's thin-pool.
    ///
    /// # Errors
    /// As of [`look`](Self::look).
    pub fn copy_due(&mut self) -> Result<bool, PoolError> {
        let now = Instant::now();
        let asked = self.asked_for_copy;
        if asked.is_some_and(|asked| now.saturating_duration_since(asked) < ASKED_EVERY) {
            return Ok(false);
        }
        let record = self.pool.record()?;
        if record.state != PoolState::Ready || record.existing().is_some() {
            return Ok(false);
        }
        if !self.is_at_ease(&record)? {
            return Ok(false);
        }
        self.asked_for_copy = Some(now);
        let age = |copied| SystemTime::now().duration_since(copied).unwrap_or_default();
        Ok(self
            .pool
            .metadata_copied()
            .is_none_or(|copied| age(copied) >= EVERY))
    }
}

impl Pool {
    /// Copies the metadata; what fails is logged, and tried again in an hour.
    #[must_use]
    pub fn copy_in_time(&self) -> Operation {
        let (copied, operation) =
            Operation::timed(MonitorOp::CopyMetadata, || self.backup_metadata(KEPT));
        if let Err(error) = copied {
            tracing::warn!(pool = %self.name(), %error, "the metadata cannot be copied");
        }
        operation
    }
}
