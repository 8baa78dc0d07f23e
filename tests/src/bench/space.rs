//! Who takes the room of a pool of many volumes: what it takes to tell.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dmthin::graph::{Pool, SpaceReport};
use serde::{Deserialize, Serialize};

use crate::bench::import::level;

/// What `df -v` asks, of a pool of many volumes that have a block of their own each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The volumes.
    pub volumes: u64,
    /// Asked for the first time, page cache empty.
    pub first: Duration,
    /// Again, and nothing has changed.
    pub again: Duration,
}

/// Volumes that have exactly one of the pool's blocks for themselves.
fn with_one_block(report: &SpaceReport) -> Result<u64> {
    let volumes = report.volumes.iter();
    let own = volumes.filter(|volume| volume.usage.exclusive.get() == 1 << 16);
    Ok(u64::try_from(own.count())?)
}

/// Asks twice.
pub(super) fn measure(pool: &Pool, volumes: u64) -> Result<Space> {
    level()?;
    let timed = || -> Result<Duration> {
        let started = Instant::now();
        let report = pool.space()?;
        let took = started.elapsed();
        let found = with_one_block(&report)?;
        ensure!(
            found >= volumes,
            "{found} of {volumes} volumes have a block"
        );
        Ok(took)
    };
    Ok(Space {
        volumes,
        first: timed()?,
        again: timed()?,
    })
}
