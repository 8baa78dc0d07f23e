//! Who may do what at the same time: byte ranges of one file a pool.
//!
//! ```text
//! byte 0          the pool as a whole: create, open, close, destroy take it alone; every verb that
//!                 changes volumes shares it, so that many run at once and none runs under a close
//! byte 1          imports share it while their layers belong to no image yet; recovery takes it
//!                 alone before it calls a layer forsaken
//! byte 2          who grows the pool or its base takes it alone
//! byte 3          who fills the ballast or lets it go takes it alone
//! byte 4          who reads the pool's metadata takes it alone, last of all
//! byte 5          who writes the catalogue's copy on the pool's disk takes it alone, last of all
//! byte 6          a monitor shares it from before it has containers wait until they go on
//! byte 2^32 + n   volume n: whoever makes, mounts, grows or removes it
//! ```
//!
//! The kernel drops the locks of a process that dies (`fs/locks.c:locks_remove_posix` and its OFD
//! twin), so that a killed holder blocks nobody. Nothing slow runs under byte 0 held alone, but
//! what is done to the pool as a whole.

use crate::graph::error::PoolError;
use crate::graph::layout::Layout;
use crate::ids::{PoolName, VolumeId};
use crate::ioctl::{LockByte, LockFile, LockGuard, LockMode};

const POOL: u64 = 0;
const IMPORTS: u64 = 1;
const GROWTH: u64 = 2;
const BALLAST: u64 = 3;
const READING: u64 = 4;
const COPY: u64 = 5;
const HOLDING: u64 = 6;
const VOLUMES: u64 = 1 << 32;

fn volume_byte(volume: VolumeId) -> LockByte {
    LockByte::new(VOLUMES.saturating_add(volume.get()))
}

/// A pool's locks.
#[derive(Debug)]
pub(crate) struct Locks {
    file: LockFile,
}

impl Locks {
    pub(crate) fn open(layout: &Layout, pool: &PoolName) -> Result<Self, PoolError> {
        Ok(Self {
            file: LockFile::open(&layout.locks(pool))?,
        })
    }

    /// The pool for ourselves: waits for every verb that runs.
    pub(crate) fn whole_pool(&self) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(LockByte::new(POOL), LockMode::Exclusive)?)
    }

    /// The pool for ourselves, or `None` while a verb runs.
    pub(crate) fn try_whole_pool(&self) -> Result<Option<LockGuard>, PoolError> {
        Ok(self
            .file
            .try_lock(LockByte::new(POOL), LockMode::Exclusive)?)
    }

    /// The pool with others: waits for an open, close or destroy that runs.
    pub(crate) fn share_pool(&self) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(LockByte::new(POOL), LockMode::Shared)?)
    }

    /// Announces an import.
    pub(crate) fn share_imports(&self) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(LockByte::new(IMPORTS), LockMode::Shared)?)
    }

    /// That no import runs, or `None` where one does.
    pub(crate) fn try_no_imports(&self) -> Result<Option<LockGuard>, PoolError> {
        Ok(self
            .file
            .try_lock(LockByte::new(IMPORTS), LockMode::Exclusive)?)
    }

    /// The pool's metadata snapshot for ourselves.
    pub(crate) fn reading(&self) -> Result<LockGuard, PoolError> {
        Ok(self
            .file
            .lock(LockByte::new(READING), LockMode::Exclusive)?)
    }

    /// The pool's metadata snapshot for ourselves, or `None` while somebody reads.
    pub(crate) fn try_reading(&self) -> Result<Option<LockGuard>, PoolError> {
        Ok(self
            .file
            .try_lock(LockByte::new(READING), LockMode::Exclusive)?)
    }

    /// The pool's sizes for ourselves; verbs on volumes go on.
    pub(crate) fn growth(&self) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(LockByte::new(GROWTH), LockMode::Exclusive)?)
    }

    /// The ballast for ourselves.
    pub(crate) fn ballast(&self) -> Result<LockGuard, PoolError> {
        Ok(self
            .file
            .lock(LockByte::new(BALLAST), LockMode::Exclusive)?)
    }

    /// The copy of the catalogue for ourselves.
    pub(crate) fn copy(&self) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(LockByte::new(COPY), LockMode::Exclusive)?)
    }

    /// Says that we have containers wait, as long as we live.
    pub(crate) fn share_holding(&self) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(LockByte::new(HOLDING), LockMode::Shared)?)
    }

    /// Whether somebody who lives has containers wait.
    pub(crate) fn is_holding(&self) -> Result<bool, PoolError> {
        let free = self
            .file
            .try_lock(LockByte::new(HOLDING), LockMode::Exclusive)?;
        Ok(free.is_none())
    }

    /// A volume for ourselves.
    pub(crate) fn volume(&self, volume: VolumeId) -> Result<LockGuard, PoolError> {
        Ok(self.file.lock(volume_byte(volume), LockMode::Exclusive)?)
    }

    /// That nobody grows the pool or its base, or `None` where somebody does.
    pub(crate) fn try_growth(&self) -> Result<Option<LockGuard>, PoolError> {
        Ok(self
            .file
            .try_lock(LockByte::new(GROWTH), LockMode::Exclusive)?)
    }

    /// A volume for ourselves, or `None` while another verb works on it.
    pub(crate) fn try_volume(&self, volume: VolumeId) -> Result<Option<LockGuard>, PoolError> {
        Ok(self
            .file
            .try_lock(volume_byte(volume), LockMode::Exclusive)?)
    }
}
