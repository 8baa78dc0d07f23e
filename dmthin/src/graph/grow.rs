//! Growth: of the pool's two devices, of the base volume, of a container or data volume. Nothing ever shrinks.
//!
//! Steps of the pool: E1 its files or LVM volumes made longer, or its disk's label written anew (cut here, longer data are not
//! used, and longer metadata are taken alone at the next opening); E2 the new sizes in the catalogue, the durable intent; E3 the loops told; E4 the table
//! reloaded, with which the kernel takes the new length of both devices and commits it
//! (`drivers/md/dm-thin.c:pool_preresume`). Cut after E2, the next `pool open` ends it.
//!
//! Steps of a container or data volume: G1 the new size in the catalogue as `growing_to`, the intent; G2 the device's
//! table reloaded; G3 its file system grown, mounted or not; G4 the size. Cut after G1, the next
//! `pool open` ends it.

use crate::backing::{Attached, SparseFile};
use crate::dm::{PartKind, PoolMode, PoolStatus, WorkingPool};
use crate::fs::{self, DetachedMount};
use crate::graph::create::round_up;
use crate::graph::error::PoolError;
use crate::graph::existing::require_own;
use crate::graph::live::Live;
use crate::graph::lvm::Lvextend;
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::report::{Change, GrownContainer, PoolReport};
use crate::graph::step::Step;
use crate::ids::{ContainerName, DmName, WritableName};
use crate::ioctl::LockGuard;
use crate::store::{BackingRecord, PoolRecord, PoolState, StoreError, VolumeRecord, WhenFull};
use crate::units::{BlockSize, Bytes, DataBlocks, NewSize, Percent};

/// What a pool is to become. What is left out stays, but a block device that has become larger is
/// taken whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct GrowPool {
    /// Size of its data.
    pub data: Option<NewSize>,
    /// Size of its metadata.
    pub metadata: Option<NewSize>,
    /// Whether volumes of LVM that are too short for that are extended first.
    pub lvextend: Lvextend,
}

/// How a pool is to deal with want of space. What is left out stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetPool {
    /// Share of its data that must stay free for new volumes to be made.
    pub min_free_data: Option<Percent>,
    /// The same of its metadata.
    pub min_free_metadata: Option<Percent>,
    /// What becomes of a write that finds no free block.
    pub when_full: Option<WhenFull>,
}

/// One of the pool's two devices, to be grown.
struct Half<'a> {
    what: &'static str,
    half: PartKind,
    backing: &'a BackingRecord,
    now: Bytes,
    most: Option<Bytes>,
}

impl Half<'_> {
    /// Whether more room is kept for it than it is to have.
    fn is_reserve(&self) -> bool {
        self.half == PartKind::Metadata && matches!(self.backing, BackingRecord::Part { .. })
    }

    /// The size asked for, in whole blocks, if it can be.
    fn new_size(&self, size: Option<NewSize>) -> Result<Option<Bytes>, PoolError> {
        let what = self.what;
        let Some(size) = size.map(|size| round_up(size.from(self.now))) else {
            return Ok(None);
        };
        if size < self.now {
            let least = self.now;
            return Err(PoolError::TooSmall { what, size, least });
        }
        match self.most {
            Some(most) if size > most && size > self.now => {
                Err(PoolError::TooLarge { what, size, most })
            }
            _ => Ok(Some(size)),
        }
    }
}

impl Pool {
    /// Grows the pool while it is in use.
    ///
    /// # Errors
    /// [`PoolError::TooSmall`] for less than it has, [`PoolError::TooLarge`],
    /// [`PoolError::DeviceShort`] where a block device is not that large, [`PoolError::PoolDegraded`],
    /// [`PoolError::PoolNotOpen`].
    pub fn grow(&self, grow: &GrowPool) -> Result<(Change, PoolReport), PoolError> {
        let live = self.live()?;
        let _lock = self.locks().growth()?;
        let record = self.record()?;
        require_own(&record)?;
        let now = self.require_growable(live.thin_pool())?;
        let data = Half {
            what: "pool size",
            half: PartKind::Data,
            backing: &record.data,
            now: record.data_size,
            most: None,
        };
        let metadata = Half {
            what: "metadata size",
            half: PartKind::Metadata,
            backing: &record.metadata,
            now: record.metadata_size,
            most: Some(plan::METADATA_MAX),
        };
        if now.mode == PoolMode::Ro && grow.metadata.is_none() {
            // More data do not help it.
            self.require_writable(live.thin_pool())?;
        }
        // Both are looked at before either is touched.
        let (new_data, new_metadata) =
            (data.new_size(grow.data)?, metadata.new_size(grow.metadata)?);
        let data = self.lengthen(&record, &data, new_data, grow.lvextend)?;
        Step::E1.passed(self.name());
        let metadata = self.lengthen(&record, &metadata, new_metadata, grow.lvextend)?;
        Step::E1.passed(self.name());
        let record = if (data, metadata) == (record.data_size, record.metadata_size) {
            record
        } else {
            let low_water = low_water(&record, data);
            self.update_label(&record, data)?;
            Step::E1.passed(self.name());
            self.record_sizes(data, metadata, low_water)?
        };
        let change = live.fit(&record)?;
        Ok((change, self.status()?))
    }

    /// Step E1 for one half: gives the size it has then.
    fn lengthen(
        &self,
        record: &PoolRecord,
        half: &Half<'_>,
        asked: Option<Bytes>,
        lvextend: Lvextend,
    ) -> Result<Bytes, PoolError> {
        let found = match half.backing {
            BackingRecord::File { .. } => {
                let size = asked.unwrap_or(half.now);
                SparseFile::open(&self.backing_path(half.backing))?.lengthen(size)?;
                return Ok(size);
            }
            BackingRecord::Device { .. } => {
                let found = self.attach(record, half.half)?.size();
                match asked {
                    Some(asked) if asked > found => {
                        let extended = self.lvextend(record, half.half, asked, lvextend)?;
                        // LVM's extents are larger than our blocks: what it rounded up to is the pool's.
                        let as_far = lvextend == Lvextend::AsFar && extended > found;
                        if as_far || extended >= asked {
                            return Ok(extended);
                        }
                        extended
                    }
                    _ => found,
                }
            }
            BackingRecord::Part { .. } => self.room_of_part(record, half.half)?,
            BackingRecord::ThinPool(_) => half.now,
        };
        match asked {
            Some(asked) if asked > found => Err(PoolError::DeviceShort {
                path: self.backing_path(half.backing),
                found,
                asked,
            }),
            Some(size) => Ok(size),
            // The room kept for metadata is taken when it is asked for.
            None if half.is_reserve() => Ok(half.now),
            None => Ok(found.max(half.now)),
        }
    }

    /// Step E2.
    fn record_sizes(
        &self,
        data: Bytes,
        metadata: Bytes,
        low_water: DataBlocks,
    ) -> Result<PoolRecord, PoolError> {
        let record = self.catalogue().set_pool_sizes(data, metadata, low_water)?;
        Step::E2.passed(self.name());
        Ok(record)
    }

    /// Step E2 for metadata that are longer than the catalogue says: a growth was cut before it, or somebody
    /// extended their volume. The kernel takes them as long as they are when it opens or resumes the pool.
    pub(crate) fn take_longer_metadata(
        &self,
        record: &PoolRecord,
        metadata: &Attached,
    ) -> Result<PoolRecord, PoolError> {
        let size = metadata.size();
        if size <= record.metadata_size {
            return Ok(record.clone());
        }
        let had = record.metadata_size;
        tracing::info!(%had, %size, "the metadata are longer than the catalogue says");
        self.record_sizes(record.data_size, size, record.low_water)
    }

    /// Makes the base volume that new images stand on larger, and with it every container made from
    /// now on, of images that are there already too.
    ///
    /// # Errors
    /// [`PoolError::TooSmall`] for less than it has; [`GuardError::Data`](crate::graph::GuardError::Data) and others where there is no
    /// room for another base.
    pub fn grow_base(&self, size: NewSize) -> Result<(Change, PoolReport), PoolError> {
        let live = self.live()?;
        let _lock = self.locks().growth()?;
        let record = self.record()?;
        let least = record.base_size;
        let size = round_up(size.from(least));
        if size < least {
            let what = "base size";
            return Err(PoolError::TooSmall { what, size, least });
        }
        if size == least {
            return Ok((Change::Unchanged, self.status()?));
        }
        live.admit()?;
        // Made now, so that what is wrong with it is told now and not to the next import.
        live.ensure_base(record.fs, size, &record.mkfs_args)?;
        self.catalogue().set_base_size(size)?;
        Step::B6.passed(self.name());
        if let Some(_no_imports) = self.locks().try_no_imports()?
            && let Some(old) = self.catalogue().base(record.fs, least)?
        {
            match self.catalogue().begin_deleting(old.id) {
                Ok(old) => {
                    Step::D1.passed_for(self.name(), old.id);
                    live.finish_removal(old.id)?;
                }
                // Images stand on it.
                Err(StoreError::InUse { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((Change::Changed, self.status()?))
    }

    /// Sets how the pool deals with want of space; what is left out stays.
    ///
    /// # Errors
    /// [`PoolError::Store`]; [`PoolError::Dm`] where the kernel cannot be told.
    pub fn set(&self, policy: SetPool) -> Result<PoolReport, PoolError> {
        let shared = self.locks().share_pool()?;
        let _lock = self.locks().growth()?;
        if policy.when_full.is_some() {
            require_own(&self.record()?)?;
        }
        let record = self.catalogue().set_policy(
            policy.min_free_data,
            policy.min_free_metadata,
            policy.when_full,
        )?;
        Step::S1.passed(self.name());
        let low_water = low_water(&record, record.data_size);
        self.give_notice_at(record, low_water, shared)?;
        self.copy_if_open()?;
        self.status()
    }

    /// Has the kernel give notice when less than so many hundredths of the data are free, or sooner.
    pub(crate) fn notice(&self, hundredths: u64) -> Result<(), PoolError> {
        let shared = self.locks().share_pool()?;
        let _lock = self.locks().growth()?;
        let record = self.record()?;
        let wanted = plan::blocks_of(record.data_size, record.block_size, hundredths);
        let low_water = record.low_water.max(wanted);
        self.give_notice_at(record, low_water, shared)
    }

    fn give_notice_at(
        &self,
        record: PoolRecord,
        low_water: DataBlocks,
        shared: LockGuard,
    ) -> Result<(), PoolError> {
        let record = if record.low_water == low_water {
            record
        } else {
            let (data, metadata) = (record.data_size, record.metadata_size);
            self.record_sizes(data, metadata, low_water)?
        };
        if record.state == PoolState::Ready && self.host().pool_device(&record)?.is_some() {
            let live = Live::open(self, record, Some(shared))?;
            live.fit(live.record())?;
        }
        Ok(())
    }

    /// Grows a container and its file system, in use or not.
    ///
    /// A file system that somebody uses through the device itself, as a virtual machine does, is
    /// not touched: [`GrownContainer::fs_grown`] is false then, and its user grows it.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`StoreError::TooSmall`] for less than it has,
    /// [`PoolError::ContainerHalfMade`]; or why the kernel refuses: `pool open`, or the same again,
    /// then ends what was begun.
    pub fn grow_container(
        &self,
        name: &ContainerName,
        size: NewSize,
    ) -> Result<GrownContainer, PoolError> {
        let (change, fs_grown) = self.grow_named(&name.into(), size)?;
        Ok(GrownContainer {
            change,
            fs_grown,
            container: self.container(name)?,
        })
    }

    /// Grows a container or data volume; whether it did anything, and whether its file system was grown
    /// too.
    pub(crate) fn grow_named(
        &self,
        name: &WritableName,
        size: NewSize,
    ) -> Result<(Change, bool), PoolError> {
        let live = self.live()?;
        let (_lock, record) = self.lock_writable(name)?;
        let record = record.volume;
        self.require_ready(name, &record)?;
        let size = round_up(size.from(record.size));
        let before = record.growing_to;
        // Before the intent, which a cut would have fulfilled, and after it, for those who race.
        live.require_kept(size.saturating_sub(before.unwrap_or(record.size)))?;
        let volume = self.catalogue().begin_growth(record.id, size)?;
        if volume.growing_to.is_some() {
            Step::G1.passed_for(self.name(), record.id);
        }
        if volume.growing_to != before
            && let Err(error) = live.require_kept(Bytes::ZERO)
        {
            let undo = self.catalogue().undo_growth(record.id, before);
            return Err(error.with_undo(undo.map_err(PoolError::from)));
        }
        if volume.growing_to.is_none() {
            return Ok((Change::Unchanged, false));
        }
        let fs_grown = live.finish_growth(&volume, &self.device_name(name))?;
        Ok((Change::Changed, fs_grown))
    }
}

impl Live<'_> {
    /// Steps E3 and E4: makes the kernel's pool as large as the catalogue says, where it is smaller, and
    /// have it do when it is full what the catalogue says.
    pub(crate) fn fit(&self, record: &PoolRecord) -> Result<Change, PoolError> {
        let pool = self.pool();
        // Another's thin-pool has the size that its owner gives it.
        if record.existing().is_some() {
            return Ok(Change::Unchanged);
        }
        let smaller = is_smaller(&*pool.require_growable(self.thin_pool())?, record);
        let (_, table) = self.thin_pool().table()?;
        let errors = record.when_full == WhenFull::Error;
        if !smaller
            && table.low_water == record.low_water
            && table.features.error_if_no_space == errors
        {
            return Ok(Change::Unchanged);
        }
        // Looks at the file again, and tells its loop device.
        let data = pool.attach(record, PartKind::Data)?;
        let metadata = pool.attach(record, PartKind::Metadata)?;
        let record = &pool.take_longer_metadata(record, &metadata)?;
        Step::E3.passed(pool.name());
        let table = Pool::table(record, &data, &metadata);
        self.thin_pool()
            .reload(record.data_size.to_sectors_floor(), &table)?;
        Step::E4.passed(pool.name());
        match self.thin_pool().status()? {
            PoolStatus::Working(now) if now.mode != PoolMode::Ro && !is_smaller(&now, record) => {
                Ok(Change::Changed)
            }
            // The kernel resumes a pool that it does not resize, and says so only in its log.
            PoolStatus::Working(now) => Err(PoolError::PoolDegraded {
                name: pool.name().clone(),
                mode: now.mode.as_str().to_owned(),
                needs_check: now.needs_check,
            }),
            _ => pool
                .require_writable(self.thin_pool())
                .map(|_| Change::Changed),
        }
    }

    /// Steps G2 to G4; whether the file system was grown, which is left to who uses it through the
    /// device. The caller holds the volume, or the whole pool.
    pub(crate) fn finish_growth(
        &self,
        volume: &VolumeRecord,
        name: &DmName,
    ) -> Result<bool, PoolError> {
        let Some(size) = volume.growing_to else {
            return Ok(false);
        };
        let before = self.pool().volume_device(volume)?;
        let was_active = before.is_some_and(|device| device.active_table);
        let longer = VolumeRecord {
            size,
            ..volume.clone()
        };
        let device = self.activate(&longer, name)?;
        self.thin_pool()
            .lengthen_thin(device.id(), volume.thin_id, size.to_sectors_floor())?;
        let passed = |step: Step| step.passed_for(self.pool().name(), volume.id);
        passed(Step::G2);
        let inside = self.inside(volume, device.dev(), device.node())?;
        let grown = inside.is_some();
        if let Some(inside) = inside {
            fs::grow(inside.root()?, volume.fs, size)?;
            inside.leave()?;
        }
        passed(Step::G3);
        if !was_active {
            self.deactivate(volume)?;
        }
        self.pool().catalogue().finish_growth(volume.id)?;
        passed(Step::G4);
        Ok(grown)
    }

    /// Grows the file system of a volume that is longer than what it is a snapshot of, mounted for
    /// work of our own.
    pub(crate) fn grow_mounted(
        mount: &DetachedMount,
        volume: &VolumeRecord,
        parent: &VolumeRecord,
    ) -> Result<(), PoolError> {
        if volume.size > parent.size {
            fs::grow(mount.open_root()?, volume.fs, volume.size)?;
        }
        Ok(())
    }
}

/// Where the kernel is to give notice in a pool that has so much data: never a smaller share of it than
/// now, for a monitor may have asked for more.
fn low_water(record: &PoolRecord, data: Bytes) -> DataBlocks {
    let planned = plan::low_water(data, record.block_size, record.guard);
    let now = plan::data_blocks(record.data_size, record.block_size).get();
    let grown = plan::data_blocks(data, record.block_size).get();
    let scaled = u128::from(record.low_water.get())
        .saturating_mul(u128::from(grown))
        .checked_div(u128::from(now))
        .and_then(|blocks| u64::try_from(blocks).ok())
        .unwrap_or(0);
    planned.max(DataBlocks::new(scaled))
}

/// Whether the kernel's pool is smaller than the catalogue's.
fn is_smaller(pool: &WorkingPool, record: &PoolRecord) -> bool {
    let block_size: BlockSize = record.block_size;
    let metadata = record.metadata_size.min(plan::METADATA_MAX);
    pool.total_data < plan::data_blocks(record.data_size, block_size)
        || pool.total_metadata < plan::metadata_blocks(metadata)
}
