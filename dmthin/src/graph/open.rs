//! `pool open`, `close` and `destroy`: the pool's device comes and goes, its volumes stay.

use std::fs::File;

use crate::backing::Attached;
use crate::dm::{
    ActivateOptions, Dm, DmError, OwnKind, OwnUuid, PartKind, PoolFeatures, PoolMode, PoolStatus,
    ThinPool, ThinPoolTable, WorkingPool, free_cookies, names,
};
use crate::graph::create::remove_path;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::layout::{BackupKind, COPY_DRAFT};
use crate::graph::live::Live;
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::recover::Settled;
use crate::graph::report::{Change, PoolReport};
use crate::graph::step::Step;
use crate::graph::who::told;
use crate::ids::{PoolName, TransactionId};
use crate::ioctl::{Deferred, DevId, DeviceInfo, LockGuard};
use crate::store::{BackingRecord, Catalogue, GenerationCheck, PoolRecord, PoolState, WhenFull};
use crate::thinmeta::FirstBlock;
use crate::units::Sectors;

/// Our devices that are no volumes, in the order in which they go.
const BELOW_VOLUMES: [OwnKind; 3] = [
    OwnKind::Pool,
    OwnKind::Part(PartKind::Data),
    OwnKind::Part(PartKind::Metadata),
];

/// Takes all devices of a pool away, of which nobody holds any: what lies on others first.
pub(crate) fn take_away(
    dm: &Dm,
    pool: &PoolName,
    devices: &[(DeviceInfo, OwnUuid)],
) -> Result<(), PoolError> {
    let is_volume = |own: &OwnUuid| !BELOW_VOLUMES.contains(&own.kind);
    for (device, _) in devices.iter().filter(|(_, own)| is_volume(own)) {
        match dm.deactivate(DevId::Dev(device.dev), Deferred::No) {
            // Its removal was deferred, and its last user let go just now.
            Err(DmError::NotFound { .. }) => {}
            result => {
                result?;
            }
        }
        Step::X1.passed(pool);
    }
    for kind in BELOW_VOLUMES {
        for (device, _) in devices.iter().filter(|(_, own)| own.kind == kind) {
            dm.deactivate(DevId::Dev(device.dev), Deferred::No)?;
            Step::X2.passed(pool);
        }
    }
    Ok(())
}

impl Host {
    /// Opens a pool: its loops, its thin-pool device, what a cut left settled, and the devices of
    /// the containers that had one. An open pool is settled again, for a verb may have been cut since,
    /// unless verbs run on it now.
    ///
    /// # Errors
    /// [`PoolError::Metadata`], [`PoolError::BlockSizeMismatch`] or [`PoolError::TransactionMismatch`] where
    /// files or devices are not the catalogue's: nothing was written to them.
    pub fn open_pool(&self, name: &PoolName) -> Result<(Change, PoolReport), PoolError> {
        let pool = self.pool(name)?;
        match free_cookies() {
            Ok(0) => {}
            Ok(freed) => tracing::info!(freed, "freed semaphores of commands that were killed"),
            Err(error) => {
                tracing::warn!(%error, "semaphores of commands that were killed are left")
            }
        }
        let lock = match pool.locks().try_whole_pool()? {
            Some(lock) => lock,
            None => {
                // This waits for another open, which is all we want, but not for verbs.
                let shared = pool.locks().share_pool()?;
                if self.pool_device(&pool.record()?)?.is_some() {
                    drop(shared);
                    return Ok((Change::Unchanged, pool.status()?));
                }
                drop(shared);
                pool.locks().whole_pool()?
            }
        };
        let change = pool.open()?;
        drop(lock);
        Ok((change, pool.status()?))
    }

    /// Closes a pool: every device of it goes, nothing else.
    ///
    /// # Errors
    /// [`PoolError::PoolBusy`] where a container is mounted, a device open or a verb running.
    pub fn close_pool(&self, name: &PoolName) -> Result<Change, PoolError> {
        let pool = self.pool(name)?;
        let _lock = pool.lock_idle()?;
        let record = pool.record()?;
        if record.state == PoolState::Ready && self.pool_device(&record)?.is_some() {
            // What its log has is on the disk then.
            if let Ok(live) = Live::open(&pool, record, None) {
                live.mirror(Flush::Yes);
            }
        }
        let change = pool.close()?;
        if change == Change::Changed {
            pool.copy_catalogue(&pool.record()?, true)?;
            if let Err(error) = pool.catalogue().fold() {
                tracing::warn!(%error, "the catalogue keeps its write-ahead log");
            }
        }
        Ok(change)
    }

    /// Destroys a pool with all that is in it, a half-made one included.
    ///
    /// # Errors
    /// [`PoolError::PoolBusy`] as for [`Host::close_pool`]: nothing was changed.
    pub fn destroy_pool(&self, name: &PoolName) -> Result<(), PoolError> {
        let pool = match self.pool(name) {
            // Cut before the catalogue was made: there is nothing but files of ours.
            Err(PoolError::PoolHalfMade { name }) => return self.remove_files(&name),
            result => result?,
        };
        let _lock = pool.lock_idle()?;
        pool.clear_away()
    }

    pub(crate) fn remove_files(&self, name: &PoolName) -> Result<(), PoolError> {
        let dir = self.layout().pool_dir(name);
        // The catalogue goes after the files it knows of, the lock that guards all this last.
        for file in [super::layout::DATA_FILE, super::layout::METADATA_FILE] {
            remove_path(&dir.join(file), false)?;
        }
        for kind in [BackupKind::BeforeRepair, BackupKind::Copy] {
            for backup in self.layout().backups(name, kind) {
                remove_path(&backup, false)?;
            }
        }
        remove_path(&dir.join(COPY_DRAFT), false)?;
        let samples = self.layout().samples(name);
        remove_path(&samples, false)?;
        remove_path(&samples.with_extension("new"), false)?;
        let space = self.layout().space(name);
        remove_path(&space, false)?;
        remove_path(&space.with_extension("new"), false)?;
        remove_path(&self.layout().bell(name), false)?;
        remove_path(&self.layout().mirror_tail(name), false)?;
        for kept in self.layout().kept_catalogues(name) {
            remove_path(&kept, false)?;
        }
        remove_path(&self.layout().metadata_snap(name), false)?;
        for split in self.layout().splits(name) {
            remove_path(&split, false)?;
        }
        remove_path(&self.layout().layers(name), true)?;
        Step::Y3.passed(name);
        Catalogue::delete(self.layout().catalogue(name))?;
        Step::Y4.passed(name);
        remove_path(&self.layout().locks(name), false)?;
        remove_path(&dir, true)?;
        Step::Y5.passed(name);
        Ok(())
    }
}

impl Pool {
    pub(crate) fn lock_idle(&self) -> Result<LockGuard, PoolError> {
        self.locks()
            .try_whole_pool()?
            .ok_or_else(|| PoolError::PoolBusy {
                name: self.name().clone(),
                users: vec!["another command".to_owned()],
            })
    }

    pub(crate) fn open(&self) -> Result<Change, PoolError> {
        let record = self.record()?;
        if record.state != PoolState::Ready {
            return Err(PoolError::PoolHalfMade {
                name: self.name().clone(),
            });
        }
        // What a verb would meet half-way, with the pool changed already.
        self.catalogue().check()?;
        self.catalogue().reserve();
        let uuid = OwnUuid::pool(record.uuid).to_dm_uuid();
        if self.host().dm()?.active(&uuid)?.is_some() {
            let copied = record.clone();
            let change = self.settle_open(record)?;
            if change == Change::Changed {
                self.copy_catalogue(&copied, false)?;
            }
            return Ok(change);
        }
        match self.open_closed(&record) {
            Ok(()) => Ok(Change::Changed),
            // Whatever it was, the devices that were made go again.
            Err(error) => {
                let undo = self.close().map(drop);
                Err(error.with_undo(undo))
            }
        }
    }

    fn open_closed(&self, record: &PoolRecord) -> Result<(), PoolError> {
        if record.existing().is_some() {
            let live = self.enter_thin_pool(record)?;
            Step::O2.passed(self.name());
            live.check_marker()?;
            return self.settle_volumes(&live).map(drop);
        }
        let data = self.attach(record, PartKind::Data)?;
        let metadata = self.attach(record, PartKind::Metadata)?;
        for (half, size) in [(&data, record.data_size), (&metadata, record.metadata_size)] {
            if half.size() < size {
                return Err(PoolError::DeviceShrunk {
                    name: self.name().clone(),
                    path: half.node().to_owned(),
                    found: half.size(),
                    expected: size,
                });
            }
        }
        let generation = self.check_superblock(record, &metadata)?;
        let devices = self.require_own_volumes(record, &data, &metadata)?;
        self.renew_thin_ids(record, &devices)?;
        let record = &self.take_longer_metadata(record, &metadata)?;
        Step::O1.passed(self.name());
        // Before its device is there: one that is found without this was opened to its end.
        let next = self.announce(record, generation)?;
        let live = self.activate_pool(record, &data, &metadata)?;
        Step::O2.passed(self.name());
        self.move_on(&live, generation, next)?;
        live.begin_mirror();
        self.settle_volumes(&live)?;
        live.mirror(Flush::Yes);
        self.update_label(record, record.data_size)?;
        Step::O6.passed(self.name());
        self.copy_catalogue(record, false)
    }

    /// What is left to do when the pool's device is there.
    fn settle(&self, live: &Live<'_>, generation: TransactionId) -> Result<Change, PoolError> {
        self.stamp(live, generation)?;
        self.settle_volumes(live)
    }

    /// Settles what a cut left in a pool that is open, a cut of its opening included.
    fn settle_open(&self, record: PoolRecord) -> Result<Change, PoolError> {
        let stamping = record.pending_generation.is_some();
        let live = Live::open(self, record, None)?;
        live.resume_all()?;
        let found = self.require_growable(live.thin_pool())?.transaction_id;
        if live.record().existing().is_some() {
            live.check_marker()?;
            return self.settle_volumes(&live);
        }
        let checked = self.require_generation(live.record(), found)?;
        if Self::wants_thin_ids(live.record()) {
            let devices = self.in_pool(live.record(), true)?.thins;
            self.renew_thin_ids(live.record(), &devices)?;
        }
        live.begin_mirror();
        if stamping && checked == Change::Unchanged {
            let settled = self.settle(&live, found);
            live.mirror(Flush::Yes);
            return settled.map(|_| Change::Changed);
        }
        // A growth may have been cut before the kernel knew of it.
        let fitted = live.fit(live.record())?;
        let settled = self.settle_volumes(&live)?;
        live.mirror(Flush::Yes);
        Ok(if fitted == Change::Unchanged {
            settled
        } else {
            fitted
        })
    }

    fn settle_volumes(&self, live: &Live<'_>) -> Result<Change, PoolError> {
        live.release_stale_snapshot()?;
        self.clear_stray_nodes()?;
        let settled = live.recover()?;
        tracing::debug!(kept = settled.kept, removed = settled.removed, "recovered");
        let mut change = if settled == Settled::default() {
            Change::Unchanged
        } else {
            Change::Changed
        };
        // The kernel is asked of those only that had a device: a pool may have many that have none.
        for writable in self.catalogue().active_writables()? {
            let volume = &writable.volume;
            // One without a table is what an opening left that was killed just then.
            let found = self.volume_device(volume)?;
            if !found.is_some_and(|device| device.active_table) {
                let name = self.device_name(&writable.name);
                match live.activate(volume, &name) {
                    // Removed after the copy of the catalogue that this one was made from.
                    Err(PoolError::Dm(DmError::NoSuchThin { .. })) if live.record().foreign_ids => {
                        tracing::warn!(name = %writable.name, "it is not in the pool");
                        continue;
                    }
                    result => result?,
                };
                Step::O5.passed_for(self.name(), volume.id);
                change = Change::Changed;
            }
        }
        Ok(change)
    }

    /// Reads the metadata's superblock before the kernel does: a pool that is not ours, or was
    /// never formatted, is refused while nothing has been written. Gives its transaction id.
    fn check_superblock(
        &self,
        record: &PoolRecord,
        metadata: &Attached,
    ) -> Result<TransactionId, PoolError> {
        let path = self.backing_path(&record.metadata);
        let name = || self.name().clone();
        let mut device = File::open(metadata.node())
            .map_err(|source| PoolError::io("read", metadata.node(), source))?;
        let superblock = match FirstBlock::read(&mut device) {
            Ok(FirstBlock::Superblock(superblock)) => superblock,
            Ok(FirstBlock::Unformatted) => {
                return Err(PoolError::Unformatted { name: name(), path });
            }
            Err(source) => {
                return Err(PoolError::Metadata {
                    pool: name(),
                    path,
                    source,
                });
            }
        };
        if superblock.block_size != record.block_size {
            return Err(PoolError::BlockSizeMismatch {
                name: name(),
                found: superblock.block_size,
                expected: record.block_size,
            });
        }
        let found = superblock.transaction_id;
        self.require_generation(record, found)?;
        Ok(found)
    }

    /// That the transaction id found in the pool is the catalogue's; confirms one it was about to be
    /// given.
    fn require_generation(
        &self,
        record: &PoolRecord,
        found: TransactionId,
    ) -> Result<Change, PoolError> {
        match record.check_generation(found) {
            GenerationCheck::Match => Ok(Change::Unchanged),
            GenerationCheck::PendingDone => {
                self.catalogue().confirm_generation(found)?;
                Ok(Change::Changed)
            }
            GenerationCheck::Mismatch { found, expected } => Err(PoolError::TransactionMismatch {
                name: self.name().clone(),
                found,
                expected,
                dir: self.host().layout().pool_dir(self.name()),
                disk: record.disk().map(ToOwned::to_owned),
            }),
        }
    }

    /// The pool's thin-pool device over its two halves, which must take writes.
    pub(crate) fn activate_pool(
        &self,
        record: &PoolRecord,
        data: &Attached,
        metadata: &Attached,
    ) -> Result<Live<'_>, PoolError> {
        let table = Self::table(record, data, metadata);
        let uuid = OwnUuid::pool(record.uuid).to_dm_uuid();
        let name = names::pool_name(self.name());
        let len: Sectors = record.data_size.to_sectors_floor();
        let dm = self.host().dm()?;
        let options = ActivateOptions::default();
        let thin_pool = ThinPool::activate(dm, &name, &uuid, len, &table, options)
            .map_err(|error| self.host().without_thin_pool(error))?;
        match self.require_writable(&thin_pool) {
            Ok(_) => Ok(Live::fresh(self, record.clone(), thin_pool)),
            Err(error) => {
                Err(error.with_undo(thin_pool.deactivate().map(drop).map_err(PoolError::from)))
            }
        }
    }

    /// The table of the pool's device.
    pub(crate) fn table(
        record: &PoolRecord,
        data: &Attached,
        metadata: &Attached,
    ) -> ThinPoolTable {
        ThinPoolTable {
            metadata: metadata.dev(),
            data: data.dev(),
            block_size: record.block_size,
            low_water: record.low_water,
            features: PoolFeatures {
                skip_block_zeroing: !record.zeroing,
                error_if_no_space: record.when_full == WhenFull::Error,
                ..PoolFeatures::default()
            },
        }
    }

    /// Moves the pool and the catalogue to the next generation together: the catalogue says where it
    /// is going (durable), the pool goes, the catalogue says it is there.
    pub(crate) fn stamp(&self, live: &Live<'_>, from: TransactionId) -> Result<(), PoolError> {
        let to = self.announce(live.record(), from)?;
        self.move_on(live, from, to)
    }

    fn announce(
        &self,
        record: &PoolRecord,
        from: TransactionId,
    ) -> Result<TransactionId, PoolError> {
        let to = self.catalogue().begin_generation(from)?;
        Step::T1.passed(self.name());
        // Cut after the pool has moved on, the copy pairs with it by this intent.
        self.copy_catalogue(record, false)?;
        Ok(to)
    }

    fn move_on(
        &self,
        live: &Live<'_>,
        from: TransactionId,
        to: TransactionId,
    ) -> Result<(), PoolError> {
        live.thin_pool().set_transaction_id(from, to)?;
        Step::T2.passed(self.name());
        self.catalogue().confirm_generation(to)?;
        Step::T3.passed(self.name());
        Ok(())
    }

    /// Every device of the pool, of which nobody holds any.
    pub(crate) fn idle_devices(&self) -> Result<Vec<(DeviceInfo, OwnUuid)>, PoolError> {
        let record = self.record()?;
        let ours: Vec<(DeviceInfo, OwnUuid)> = self
            .host()
            .own_devices()?
            .into_iter()
            .filter(|(_, own)| own.pool == record.uuid)
            .collect();
        let users = self.users(&ours)?;
        if users.is_empty() {
            Ok(ours)
        } else {
            Err(PoolError::PoolBusy {
                name: self.name().clone(),
                users,
            })
        }
    }

    /// Takes every device of the pool away. The caller holds the whole pool.
    pub(crate) fn close(&self) -> Result<Change, PoolError> {
        let ours = self.idle_devices()?;
        if ours.is_empty() {
            return Ok(Change::Unchanged);
        }
        take_away(self.host().dm()?, self.name(), &ours)?;
        Ok(Change::Changed)
    }

    /// Volumes that somebody holds open, each with what holds it.
    fn users(&self, ours: &[(DeviceInfo, OwnUuid)]) -> Result<Vec<String>, PoolError> {
        let mut users = Vec::new();
        for (device, own) in ours {
            if !matches!(own.kind, OwnKind::Volume(..)) || device.open_count == 0 {
                continue;
            }
            let holders = self.holders(device.dev)?;
            let name = self.owner(own)?.unwrap_or_else(|| device.name.to_string());
            users.push(if holders.is_empty() {
                format!("{name} (open {} times)", device.open_count)
            } else {
                format!("{name} ({})", told(&holders))
            });
        }
        Ok(users)
    }

    /// Removes the pool with everything in it. The caller holds the whole pool.
    pub(crate) fn clear_away(&self) -> Result<(), PoolError> {
        self.close()?;
        let record = self.record()?;
        if record.existing().is_some() {
            self.leave_thin_pool(&record)?;
            return self.host().remove_files(self.name());
        }
        self.begin_destroying(&record)?;
        // Our superblock, and the base's that lies at the data's begin, must not be taken for
        // something that lives there.
        for (half, backing) in [
            (PartKind::Metadata, &record.metadata),
            (PartKind::Data, &record.data),
        ] {
            if matches!(backing, BackingRecord::Device { .. }) {
                self.attach(&record, half)?.wipe()?;
                Step::Y2.passed(self.name());
            }
        }
        self.wipe_disk(&record)?;
        self.host().remove_files(self.name())
    }

    /// Records that the pool goes: there is no way back from here.
    pub(crate) fn begin_destroying(&self, record: &PoolRecord) -> Result<(), PoolError> {
        if record.state != PoolState::Destroying {
            self.catalogue().set_pool_state(PoolState::Destroying)?;
            Step::Y1.passed(self.name());
        }
        Ok(())
    }

    /// That the pool can be made larger: it takes writes, or it has run out of metadata, of which more
    /// makes it take writes again (docs/pool-full.md); gives its status.
    pub(crate) fn require_growable(
        &self,
        thin_pool: &ThinPool<'_>,
    ) -> Result<Box<WorkingPool>, PoolError> {
        match thin_pool.status()? {
            PoolStatus::Working(pool) if !pool.needs_check => Ok(pool),
            _ => self.require_writable(thin_pool),
        }
    }

    /// That the pool takes writes; gives its status.
    pub(crate) fn require_writable(
        &self,
        thin_pool: &ThinPool<'_>,
    ) -> Result<Box<WorkingPool>, PoolError> {
        let degraded = |mode: &str, needs_check| PoolError::PoolDegraded {
            name: self.name().clone(),
            mode: mode.to_owned(),
            needs_check,
        };
        match thin_pool.status()? {
            PoolStatus::Working(pool) if pool.needs_check => {
                Err(degraded(pool.mode.as_str(), true))
            }
            // Out of data space it still deletes and trims, which is the way out.
            PoolStatus::Working(pool) if pool.mode == PoolMode::Ro => {
                Err(degraded(pool.mode.as_str(), false))
            }
            PoolStatus::Working(pool) => Ok(pool),
            PoolStatus::Fail => Err(degraded("failed", false)),
            PoolStatus::Error => Err(degraded("in error", false)),
        }
    }
}
