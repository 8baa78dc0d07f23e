//! `pool recover --rebuild`: makes the catalogue of a pool again, out of the pool.
//!
//! From the pool's metadata: which thin devices there are, what each has mapped, block size and transaction
//! id. From the mirror in it: what they are called and what else is known of them. What the mirror does not
//! know is kept under made-up names (`store/rebuild.rs`). The kernel has no part in it, and nothing is
//! written to the pool: a pool that is open is closed first, or refused as busy. The new catalogue is made
//! whole beside the old one, which is kept as `catalogue.db.lost-N`:
//!
//! ```text
//! R7   what was there of a catalogue has another name
//! R8   the catalogue is there again: `pool open` opens the pool
//! ```
//! Cut between, the catalogue is gone, which every verb says; the same again makes it.
//!
//! A catalogue that is sound and the pool's is never replaced. Nor is that of a pool in another's thin-pool:
//! which devices there are ours nothing but the catalogue knows.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dm::{OwnKind, OwnUuid, names};
use crate::graph::create::{DevicePair, remove_path, require_clear};
use crate::graph::error::{PoolError, RebuildError};
use crate::graph::existing::require_own;
use crate::graph::host::Host;
use crate::graph::locks::Locks;
use crate::graph::open::take_away;
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::ids::{ContainerName, FsType, PoolName, ThinId};
use crate::ioctl::{DeviceInfo, LockGuard};
use crate::store::{Catalogue, Dropped, GenerationCheck, PoolState, StoreError};
use crate::units::Bytes;

mod remade;
mod remains;

use remade::Made;

/// A pool whose catalogue is to be made again.
#[derive(Debug, Clone)]
pub struct RebuildPool {
    /// Its name.
    pub name: PoolName,
    /// What it lies on, where that is not two files under the root.
    pub on: Option<RebuildOn>,
}

/// What a pool lies on that has no catalogue to say so.
#[derive(Debug, Clone)]
pub enum RebuildOn {
    /// Two block devices.
    Devices(DevicePair),
    /// A disk with our label.
    Disk(PathBuf),
}

/// What there was of the copy of the catalogue in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "found")]
pub enum CopyFound {
    /// None: an earlier version made the pool, and it was not opened since.
    None,
    /// One that is not whole.
    Damaged,
    /// A whole one.
    Whole {
        /// When the last of it was written, in seconds since 1970.
        written: u64,
    },
}

/// A thin device of which nothing is known but what is in it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LostVolume {
    /// The container that it is from now on.
    pub name: ContainerName,
    /// Its number.
    pub thin_id: ThinId,
    /// How long it was taken to be.
    pub size: Bytes,
    /// What is mapped of it.
    pub mapped: Bytes,
    /// The file system that was found in it.
    pub fs: Option<FsType>,
}

/// What a catalogue was made again of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RebuildReport {
    /// The pool.
    pub name: PoolName,
    /// The copy in it.
    pub copy: CopyFound,
    /// How many thin devices are what they were.
    pub known: u64,
    /// Those that are not: their containers are kept until somebody removes them.
    pub lost: Vec<LostVolume>,
    /// What the copy has that is not in the pool.
    pub dropped: Vec<Dropped>,
    /// Where the old catalogue is, if there was anything of it.
    pub aside: Option<PathBuf>,
}

impl Host {
    /// What [`Host::rebuild_pool`] would make, of a pool that is not open; nothing is changed.
    ///
    /// # Errors
    /// [`PoolError::PoolOpen`]; else as of [`Host::rebuild_pool`].
    pub fn plan_rebuild(&self, pool: &RebuildPool) -> Result<RebuildReport, PoolError> {
        let name = &pool.name;
        let _lock = match self.layout().pool_dir(name).exists() {
            true => Some(self.lock_lost(name)?),
            false => None,
        };
        self.refuse_sound(name)?;
        if self.devices_of(name)?.is_some() {
            return Err(PoolError::PoolOpen { name: name.clone() });
        }
        Ok(self.remake(pool)?.report)
    }

    /// Makes the catalogue of a pool again that is lost, damaged, or older than the pool, out of what is in the
    /// pool. What is left of the old one is kept. The pool is closed then.
    ///
    /// # Errors
    /// [`RebuildError::Sound`](crate::graph::RebuildError::Sound) where there is one that is the pool's; [`PoolError::PoolBusy`] while a
    /// device of the pool is in use; [`RebuildError::Where`](crate::graph::RebuildError::Where); [`PoolError::Pairing`] where the pool is
    /// another one; [`PoolError::Metadata`]. Nothing was changed.
    pub fn rebuild_pool(&self, pool: &RebuildPool) -> Result<RebuildReport, PoolError> {
        let name = &pool.name;
        require_clear(name)?;
        let dir = self.layout().pool_dir(name);
        let is_new = !dir.exists();
        if is_new && pool.on.is_none() {
            return Err(PoolError::PoolNotFound {
                name: name.clone(),
                root: self.layout().root().to_owned(),
            });
        }
        Self::make_dir(&dir)?;
        let rebuilt = self.rebuild_in(pool);
        match rebuilt {
            Err(error) if is_new => {
                let undo = fs::remove_file(self.layout().locks(name))
                    .and_then(|()| fs::remove_dir(&dir))
                    .map_err(|source| PoolError::io("remove", &dir, source));
                Err(error.with_undo(undo))
            }
            result => result,
        }
    }

    fn rebuild_in(&self, pool: &RebuildPool) -> Result<RebuildReport, PoolError> {
        let name = &pool.name;
        let _lock = self.lock_lost(name)?;
        self.refuse_sound(name)?;
        if let Some(devices) = self.devices_of(name)? {
            self.close_lost(name, &devices)?;
        }
        let Made {
            rebuilding,
            mut report,
        } = self.remake(pool)?;
        let path = self.layout().catalogue(name);
        let draft = rebuilding.write()?;
        report.aside = put_aside(&path)?;
        Step::R7.passed(name);
        Catalogue::place_draft(&path, &draft)?;
        Step::R8.passed(name);
        Ok(report)
    }

    fn lock_lost(&self, name: &PoolName) -> Result<LockGuard, PoolError> {
        let locks = Locks::open(self.layout(), name)?;
        locks.try_whole_pool()?.ok_or_else(|| PoolError::PoolBusy {
            name: name.clone(),
            users: vec!["another command".to_owned()],
        })
    }

    /// Refuses a pool whose catalogue is sound and its own.
    fn refuse_sound(&self, name: &PoolName) -> Result<(), PoolError> {
        let sound = || RebuildError::Sound { name: name.clone() };
        match Pool::open_catalogue(self, name) {
            Ok(pool) => match pool.is_paired() {
                Ok(true) => Err(sound().into()),
                Ok(false) => Ok(()),
                Err(error) if is_damage(&error) => Ok(()),
                Err(error) => Err(error),
            },
            Err(PoolError::Store(StoreError::NotFound { .. })) => Ok(()),
            Err(error) if is_damage(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Every device of a pool that has one, by the name of that, and its uuid.
    fn devices_of(&self, name: &PoolName) -> Result<Option<Vec<(DeviceInfo, OwnUuid)>>, PoolError> {
        let pool = names::pool_name(name);
        let mut devices = self.own_devices()?;
        let is_it = |(device, own): &(DeviceInfo, OwnUuid)| {
            own.kind == OwnKind::Pool && device.name == pool
        };
        let Some(uuid) = devices
            .iter()
            .find(|found| is_it(found))
            .map(|(_, own)| own.pool)
        else {
            return Ok(None);
        };
        devices.retain(|(_, own)| own.pool == uuid);
        Ok(Some(devices))
    }

    /// Takes the devices away of a pool whose catalogue cannot be asked what they are.
    fn close_lost(
        &self,
        name: &PoolName,
        devices: &[(DeviceInfo, OwnUuid)],
    ) -> Result<(), PoolError> {
        let users: Vec<_> = devices
            .iter()
            .filter(|(device, own)| {
                matches!(own.kind, OwnKind::Volume(..)) && device.open_count > 0
            })
            .map(|(device, _)| device.name.to_string())
            .collect();
        if !users.is_empty() {
            return Err(PoolError::PoolBusy {
                name: name.clone(),
                users,
            });
        }
        take_away(self.dm()?, name, devices)
    }
}

fn is_damage(error: &PoolError) -> bool {
    matches!(
        error,
        PoolError::Store(StoreError::Corrupt { .. }) | PoolError::Pairing(_)
    )
}

impl Pool {
    /// Whether the catalogue reads, and is that of the pool as it is now.
    fn is_paired(&self) -> Result<bool, PoolError> {
        self.catalogue().check()?;
        let record = self.record()?;
        require_own(&record)?;
        if record.state != PoolState::Ready {
            return Err(PoolError::PoolHalfMade {
                name: self.name().clone(),
            });
        }
        let open = self.host().pool_device(&record)?.is_some();
        let found = self.in_pool(&record, open)?;
        let is_mismatch = matches!(
            record.check_generation(found.transaction_id),
            GenerationCheck::Mismatch { .. }
        );
        Ok(!is_mismatch && record.not_given(&found.thins).is_none())
    }
}

/// Gives what is there of a catalogue another name; gives that of its file.
fn put_aside(path: &Path) -> Result<Option<PathBuf>, PoolError> {
    let beside = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
    let aside = (1_u64..)
        .map(|n| beside(path, &format!(".lost-{n}")))
        .find(|aside| !exists(aside) && !exists(&beside(aside, "-wal")));
    let Some(aside) = aside else { return Ok(None) };
    // Whoever has the old catalogue open goes on with the index that it has; the new one gets its own.
    remove_path(&beside(path, "-shm"), false)?;
    let mut found = false;
    // The log last: without its file nobody takes it for a catalogue.
    for suffix in ["", "-wal"] {
        let (from, to) = (beside(path, suffix), beside(&aside, suffix));
        if exists(&from) {
            fs::rename(&from, &to).map_err(|source| PoolError::io("rename", &from, source))?;
            found = true;
        }
    }
    Ok(found.then_some(aside))
}

#[cfg(test)]
mod tests;
