//! Admission: nothing new is made in a pool that is nearly full.
//!
//! A pool without free data makes its writers wait and then fail, one without free metadata turns
//! read-only at once (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`). So a share
//! of both is kept for what exists already: containers go on writing into it while somebody grows
//! the pool. So with the file systems of the host that the pool and its catalogue lie on. What gives room back, deleting and trimming, is never refused.

use std::path::PathBuf;

use crate::backing::{self, HostRoom};
use crate::dm::{PoolStatus, WorkingPool};
use crate::graph::error::{GuardError, PoolError};
use crate::graph::live::Live;
use crate::graph::monitor::{MonitorPolicy, Space as MonitoredSpace, step};
use crate::graph::report::{LivePool, Usage, VolumeSpace};
use crate::store::{BackingRecord, Guard, PoolRecord};
use crate::units::{Bytes, Percent};

/// The share of the host's file system that a pool on a file leaves free.
const HOST_SHARE: u64 = 20;
/// More than this is not asked of the host, however large it is.
const HOST_MOST: Bytes = Bytes::from_gib(1);
/// What the catalogue's file system leaves free, for removals and what else must go on.
const STATE_LEAST: Bytes = Bytes::from_mib(2);

/// What is left of a pool before its guard refuses new volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct UntilGuard {
    /// Of its data.
    pub data: Bytes,
    /// Of its metadata.
    pub metadata: Bytes,
}

/// How a space is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    Fine,
    /// Somebody should look: it is at the first step that a monitor tells of, or near its guard.
    Filling,
    /// The guard refuses new volumes, or less is left than a monitor's red line.
    Short,
}

impl Level {
    pub(crate) fn of(usage: Usage, until_guard: Bytes) -> Self {
        let left = usage.total.saturating_sub(usage.used);
        let near = MonitorPolicy::default().red_line.of(usage.total);
        if until_guard == Bytes::ZERO || left < near {
            Self::Short
        } else if step(usage) > 0 || until_guard < near {
            Self::Filling
        } else {
            Self::Fine
        }
    }
}

impl LivePool {
    /// How one of its spaces is doing; none where the kernel does not say.
    #[must_use]
    pub fn level(&self, space: MonitoredSpace) -> Option<Level> {
        let left = self.until_guard?;
        let (usage, left) = match space {
            MonitoredSpace::Data => (self.data?, left.data),
            MonitoredSpace::Metadata => (self.metadata?, left.metadata),
        };
        Some(Level::of(usage, left))
    }
}

impl VolumeSpace {
    /// How its device is doing, by what of it is mapped: its file system has less room still.
    #[must_use]
    pub fn level(&self) -> Level {
        let usage = Usage {
            used: self.usage.mapped,
            total: self.usage.size,
        };
        Level::of(usage, usage.total)
    }
}

/// Free, in all, and what of it must stay free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    free: Bytes,
    total: Bytes,
    least: Percent,
}

impl Space {
    /// As it is reported.
    pub(crate) fn usage(self) -> Usage {
        Usage {
            used: self.total.saturating_sub(self.free),
            total: self.total,
        }
    }

    fn until_guard(self) -> Bytes {
        self.free.saturating_sub(self.least.of(self.total))
    }

    fn is_short(self) -> bool {
        self.free < self.least.of(self.total)
    }
}

pub(crate) fn data_space(record: &PoolRecord, pool: &WorkingPool, guard: Guard) -> Space {
    let bytes = |blocks: crate::units::DataBlocks| blocks.to_bytes_saturating(record.block_size);
    Space {
        free: bytes(pool.total_data).saturating_sub(bytes(pool.used_data)),
        total: bytes(pool.total_data),
        least: guard.min_free_data,
    }
}

pub(crate) fn metadata_space(pool: &WorkingPool, guard: Guard) -> Space {
    let total = pool.total_metadata.to_bytes_saturating();
    Space {
        free: total.saturating_sub(pool.used_metadata.to_bytes_saturating()),
        total,
        least: guard.min_free_metadata,
    }
}

/// What is left of a pool before its guard refuses new volumes.
pub(crate) fn until_guard(record: &PoolRecord, pool: &WorkingPool) -> UntilGuard {
    UntilGuard {
        data: data_space(record, pool, record.guard).until_guard(),
        metadata: metadata_space(pool, record.guard).until_guard(),
    }
}

/// What the host's file system must have left for a pool on a file.
pub(crate) fn host_least(room: HostRoom) -> Bytes {
    Bytes::new(room.total.get() / HOST_SHARE).min(HOST_MOST)
}

impl Live<'_> {
    /// That there is room to make something new.
    pub(crate) fn admit(&self) -> Result<(), PoolError> {
        self.admit_bytes(Bytes::ZERO)
    }

    /// That there is room to make something new that takes so much at once.
    pub(crate) fn admit_bytes(&self, size: Bytes) -> Result<(), PoolError> {
        let record = self.record();
        let pool = match self.thin_pool().status()? {
            PoolStatus::Working(pool) if !pool.needs_check => pool,
            // Nothing could be undone that was begun in it.
            _ => self.pool().require_writable(self.thin_pool())?,
        };
        let name = || self.pool().name().clone();
        let data = data_space(record, &pool, record.guard);
        let after = Space {
            free: data.free.saturating_sub(size),
            ..data
        };
        if after.is_short() {
            return Err(GuardError::Data {
                name: name(),
                free: data.free,
                total: data.total,
                least: data.least,
            }
            .into());
        }
        let metadata = metadata_space(&pool, record.guard);
        if metadata.is_short() {
            return Err(GuardError::Metadata {
                name: name(),
                free: metadata.free,
                total: metadata.total,
                least: metadata.least,
            }
            .into());
        }
        let state = self.pool().catalogue().path().to_owned();
        let room = backing::host_room(&state)?;
        if room.free < STATE_LEAST {
            let (free, least) = (room.free, STATE_LEAST);
            return Err(GuardError::Host {
                path: state,
                free,
                least,
            }
            .into());
        }
        match host_short(record, self.pool().backing_path(&record.data))? {
            Some((path, free, least)) => Err(GuardError::Host { path, free, least }.into()),
            None => Ok(()),
        }
    }
}

/// Where a pool lies on a file, and its host's file system is short of room: both numbers.
fn host_short(
    record: &PoolRecord,
    path: PathBuf,
) -> Result<Option<(PathBuf, Bytes, Bytes)>, PoolError> {
    let off = Percent::new(0).is_ok_and(|none| record.guard.min_free_data == none);
    if off || !matches!(record.data, BackingRecord::File { .. }) {
        return Ok(None);
    }
    let room = backing::host_room(&path)?;
    let least = host_least(room);
    Ok((room.free < least).then_some((path, room.free, least)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_short_below_its_share() {
        let space = |free| Space {
            free: Bytes::new(free),
            total: Bytes::new(1000),
            least: Percent::TENTH,
        };
        assert!(space(99).is_short() && !space(100).is_short());
        assert_eq!(space(250).until_guard(), Bytes::new(150));
        assert_eq!(space(99).until_guard(), Bytes::ZERO);
    }

    #[test]
    fn a_level_goes_by_what_is_used_and_what_the_guard_leaves() {
        let level = |used, until_guard| {
            let usage = Usage {
                used: Bytes::new(used),
                total: Bytes::new(1000),
            };
            Level::of(usage, Bytes::new(until_guard))
        };
        assert_eq!(level(799, 101), Level::Fine);
        assert_eq!(level(800, 100), Level::Filling);
        assert_eq!(level(500, 50), Level::Fine);
        assert_eq!(level(500, 49), Level::Filling);
        assert_eq!(level(500, 0), Level::Short);
        // No guard: the red line.
        assert_eq!(level(950, 50), Level::Filling);
        assert_eq!(level(951, 49), Level::Short);
    }

    #[test]
    fn little_is_asked_of_a_large_host() {
        let least = |total| {
            host_least(HostRoom {
                free: Bytes::ZERO,
                total,
            })
        };
        assert_eq!(least(Bytes::from_gib(10)), Bytes::from_mib(512));
        assert_eq!(least(Bytes::from_gib(4000)), Bytes::from_gib(1));
    }
}
