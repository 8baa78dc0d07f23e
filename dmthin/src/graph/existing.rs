//! A pool in a thin-pool that somebody else made: lvm2, a script.
//!
//! It is theirs: it is never created, resized or removed here, and its transaction id, which lvm2 refuses
//! to differ from its own, is never changed. Ours are the thin ids that we made in it, from the
//! middle of the range up, where nobody else begins. An id counts as ours only once the kernel made it
//! at our word (`VolumeRecord::made`). That the thin-pool is the one we were made in is told by its dm
//! uuid and by the file system's uuid of our base volume, which are compared at each opening.
//!
//! While the pool is open a small device of ours lies on the thin-pool, under the name and uuid that a
//! pool's own device has: so it is seen to be open, and its owner cannot take it away beneath us.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::dm::{
    Device, DmError, LinearTable, OwnUuid, PoolStatus, ThinPool, ThinPoolTable, names,
};
use crate::fs;
use crate::graph::create::Place;
use crate::graph::error::{ExistingError, PoolError};
use crate::graph::host::Host;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::ids::{DevNo, DmName, ThinId, VolumeKind};
use crate::ioctl::{DevId, DeviceInfo};
use crate::store::{BackingRecord, ExistingPool, PoolRecord, VolumeState};
use crate::units::Sectors;

/// lvm2 and scripts count from 0 or 1 up: from here on nobody is met for long.
const FIRST_THIN_ID: u64 = 1 << 23;
/// What the device that holds a thin-pool has of it.
const HOLD: Sectors = Sectors::new(8);

/// That the pool is not in a thin-pool of somebody else's.
pub(crate) fn require_own(record: &PoolRecord) -> Result<(), ExistingError> {
    match record.existing() {
        None => Ok(()),
        Some(existing) => Err(ExistingError::NotOurs {
            name: record.name.clone(),
            thin_pool: existing.name.clone(),
        }),
    }
}

impl Host {
    /// The thin-pool that a path or a dm name leads to, if a pool can be made in it.
    pub(crate) fn place_in_thin_pool(&self, given: &Path) -> Result<Place, PoolError> {
        let info = self.find_thin_pool(given)?;
        let taken = |user: String| ExistingError::Taken {
            thin_pool: info.name.clone(),
            user,
        };
        if let Some(own) = info
            .uuid
            .as_ref()
            .and_then(|uuid| uuid.as_str().parse().ok())
        {
            let own: OwnUuid = own;
            return Err(taken(own.pool.to_string()).into());
        }
        let existing = ExistingPool {
            name: info.name.clone(),
            uuid: info.uuid.clone(),
        };
        for summary in self.pools()? {
            // One that cannot be read is not known to be in it, and an open one is seen below.
            let record = self.pool(&summary.name).and_then(|pool| pool.record());
            if record.is_ok_and(|record| record.existing().is_some_and(|e| e.is(&existing))) {
                return Err(taken(summary.name.to_string()).into());
            }
        }
        let dm = self.dm()?;
        for (device, own) in self.own_devices()? {
            if dm
                .control()
                .deps(DevId::Dev(device.dev))?
                .contains(&info.dev)
            {
                return Err(taken(own.pool.to_string()).into());
            }
        }
        let thin_pool = ThinPool::of(dm, dm.existing(DevId::Dev(info.dev))?)?;
        let (_, table) = thin_pool.table()?;
        let PoolStatus::Working(pool) = thin_pool.status()? else {
            return Err(ExistingError::NotOne {
                path: given.to_owned(),
            }
            .into());
        };
        let backing = BackingRecord::ThinPool(existing);
        Ok(Place {
            data: backing.clone(),
            data_size: pool.total_data.to_bytes_saturating(table.block_size),
            metadata: backing,
            metadata_size: pool.total_metadata.to_bytes_saturating(),
            block_size: table.block_size,
            zeroing: !table.features.skip_block_zeroing,
            first_thin_id: ThinId::new(FIRST_THIN_ID).unwrap_or(ThinId::FIRST),
        })
    }

    /// The device with the thin-pool target: the given one, or the one below it, for `/dev/VG/POOL` of
    /// lvm2 may be a linear device on it.
    fn find_thin_pool(&self, given: &Path) -> Result<DeviceInfo, PoolError> {
        let not_one = || ExistingError::NotOne {
            path: given.to_owned(),
        };
        let dm = self.dm()?;
        let mut found = match given.to_str().map(DmName::new) {
            Some(Ok(name)) => dm.find(DevId::Name(&name))?,
            _ => self.find_by_path(given)?,
        };
        for _ in 0..2 {
            let info = found.ok_or_else(not_one)?;
            let (_, lines) = dm.control().table(DevId::Dev(info.dev))?;
            let [line] = lines.as_slice() else {
                return Err(not_one().into());
            };
            if line.kind == ThinPoolTable::TARGET {
                return Ok(info);
            }
            if line.kind != LinearTable::TARGET {
                return Err(not_one().into());
            }
            let below = LinearTable::parse(&line.params).map_err(|_| not_one())?;
            found = dm.find(DevId::Dev(below.device))?;
        }
        Err(not_one().into())
    }

    /// The dm device that a path leads to. lvm2 shows no node of a thin-pool that has volumes: of
    /// `VG/LV`, below /dev or not, its names are tried.
    fn find_by_path(&self, given: &Path) -> Result<Option<DeviceInfo>, PoolError> {
        let dm = self.dm()?;
        let path = Path::new("/dev").join(given);
        let missing = match std::fs::metadata(&path) {
            Ok(meta) => return Ok(dm.find(DevId::Dev(DevNo::from_dev_t(meta.rdev())))?),
            Err(source) => PoolError::io("find", given, source),
        };
        let word = |path: Option<&Path>| path?.file_name()?.to_str().map(str::to_owned);
        if let (Some(vg), Some(lv)) = (word(path.parent()), word(Some(&path))) {
            for name in names::lvm_thin_pool_names(&vg, &lv).into_iter().flatten() {
                if let Some(info) = dm.find(DevId::Name(&name))? {
                    return Ok(Some(info));
                }
            }
        }
        Err(missing)
    }
}

impl Pool {
    /// The thin-pool that this pool is in.
    pub(crate) fn existing_thin_pool(
        &self,
        existing: &ExistingPool,
    ) -> Result<ThinPool<'_>, PoolError> {
        let inactive = || ExistingError::Inactive {
            name: self.name().clone(),
            thin_pool: existing.name.clone(),
        };
        let dm = self.host().dm()?;
        let id = match &existing.uuid {
            Some(uuid) => DevId::Uuid(uuid),
            None => DevId::Name(&existing.name),
        };
        let device: Device = match dm.find(id)? {
            Some(info) if info.active_table => dm.existing(DevId::Dev(info.dev))?,
            _ => return Err(inactive().into()),
        };
        match ThinPool::of(dm, device) {
            Err(DmError::WrongTarget { .. }) => Err(inactive().into()),
            result => Ok(result?),
        }
    }

    /// The thin-pool, which must take writes and have the block size that it had; held from now on.
    pub(crate) fn enter_thin_pool(&self, record: &PoolRecord) -> Result<Live<'_>, PoolError> {
        let Some(existing) = record.existing() else {
            return Live::open(self, record.clone(), None);
        };
        let thin_pool = self.existing_thin_pool(existing)?;
        let now = self.require_writable(&thin_pool)?;
        let (_, table) = thin_pool.table()?;
        if table.block_size != record.block_size {
            return Err(PoolError::BlockSizeMismatch {
                name: self.name().clone(),
                found: table.block_size,
                expected: record.block_size,
            });
        }
        let hold = LinearTable {
            device: thin_pool.device().dev(),
            offset: Sectors::ZERO,
        };
        self.host().dm()?.ensure_linear(
            &names::pool_name(self.name()),
            &OwnUuid::pool(record.uuid).to_dm_uuid(),
            &hold,
            HOLD,
        )?;
        let data = now.total_data.to_bytes_saturating(record.block_size);
        let metadata = now.total_metadata.to_bytes_saturating();
        // Its owner may have grown it.
        let record = if data > record.data_size || metadata > record.metadata_size {
            self.catalogue().set_pool_sizes(
                data.max(record.data_size),
                metadata.max(record.metadata_size),
                record.low_water,
            )?
        } else {
            record.clone()
        };
        Ok(Live::fresh(self, record, thin_pool))
    }

    /// Deletes all that is ours from the thin-pool; the rest of it is not touched.
    pub(crate) fn leave_thin_pool(&self, record: &PoolRecord) -> Result<(), PoolError> {
        let live = self.enter_thin_pool(record)?;
        // One that is not the pool's has nothing of ours: what has our ids there is somebody's.
        if let Err(error) = live.check_marker() {
            drop(live);
            let undo = self.close().map(drop);
            return Err(error.with_undo(undo));
        }
        self.begin_destroying(record)?;
        let catalogue = self.catalogue();
        for snapshot in catalogue.all_snapshots()? {
            live.discard_volume(&snapshot.volume)?;
        }
        for image in catalogue.images()? {
            for name in catalogue.containers()? {
                if name.image == image.id {
                    live.discard_volume(&name.volume)?;
                }
            }
            catalogue.remove_image(image.id)?;
        }
        let mut volumes = catalogue.all_volumes()?;
        // The base goes last: by it the thin-pool is known again, should this be cut.
        volumes.sort_by_key(|volume| {
            (
                volume.kind == VolumeKind::Base,
                std::cmp::Reverse(volume.id),
            )
        });
        for volume in volumes {
            live.discard_volume(&volume)?;
        }
        self.close().map(drop)
    }
}

impl Live<'_> {
    /// That the thin-pool has our base volume, with the file system that we made in it.
    pub(crate) fn check_marker(&self) -> Result<(), PoolError> {
        let other = || ExistingError::Other {
            name: self.pool().name().clone(),
            thin_pool: self.thin_pool().device().name().clone(),
        };
        let volumes = self.pool().catalogue().all_volumes()?;
        let base = volumes
            .into_iter()
            .find(|volume| volume.kind == VolumeKind::Base && volume.state == VolumeState::Ready);
        // Without a base nothing was made yet, or nothing is left.
        let Some(base) = base else { return Ok(()) };
        let device = match self.activate_internal(&base) {
            Err(PoolError::Dm(DmError::NoSuchThin { .. })) => return Err(other().into()),
            result => result?,
        };
        let node = device.node();
        let found = File::open(node)
            .map_err(|source| PoolError::io("read", node, source))
            .and_then(|file| Ok(fs::probe(&file)?));
        let undo = self.deactivate(&base);
        let found = match found {
            Ok(found) => {
                undo?;
                found
            }
            Err(error) => return Err(error.with_undo(undo)),
        };
        let uuid = found.map(|superblock| superblock.uuid.to_string());
        if uuid.is_some() && uuid == base.fs_uuid {
            Ok(())
        } else {
            Err(other().into())
        }
    }
}
