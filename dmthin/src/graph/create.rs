//! `pool create`: from nothing to a sealed base, or back to nothing.
//!
//! Steps: N1 directory; N2 catalogue, state `creating` (the durable intent); N3 sparse files, or what lies
//! on the devices wiped where that was asked for, and the disk's label; N4 loops, or the parts of the disk, and
//! the metadata's first block zeroed; N5 the thin-pool device; its first transaction id (T1 to T3); the base
//! volume (B1 to B5); N6 state `ready`. A cut leaves a directory whose catalogue says `creating`, which
//! `pool destroy` clears away.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::backing::{Attached, BlockDevice, SparseFile};
use crate::dm::{PartKind, names};
use crate::fs;
use crate::graph::error::{ExistingError, PoolError};
use crate::graph::host::Host;
use crate::graph::layout::{DATA_FILE, METADATA_FILE};
use crate::graph::mirror::Flush;
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::random::random_bytes;
use crate::graph::report::{PoolPlan, PoolReport};
use crate::graph::step::Step;
use crate::ids::{FsType, PoolName, PoolUuid, ThinId};
use crate::store::{
    BackingRecord, Catalogue, Guard, NewPool, PoolRecord, PoolState, StoreError, WhenFull,
};
use crate::units::{BlockSize, Bytes};

/// What a pool is to be.
#[derive(Debug, Clone)]
pub struct CreatePool {
    /// Its name.
    pub name: PoolName,
    /// Apparent size of the data file; a data device is taken whole.
    pub size: Bytes,
    /// Size of the metadata file; chosen from size and block size where there is none.
    pub metadata_size: Option<Bytes>,
    /// Unit of allocation.
    pub block_size: BlockSize,
    /// Size of the base volume, and of a container unless it asks for more.
    pub base_size: Bytes,
    /// File system of the base volume.
    pub fs: FsType,
    /// Further arguments for mkfs.
    pub mkfs_args: Vec<String>,
    /// Leaves out the zeroing of new blocks: for hosts whose containers may see each other's bytes.
    pub single_tenant: bool,
    /// What must stay free for new volumes to be made.
    pub guard: Guard,
    /// What a full pool does.
    pub when_full: WhenFull,
    /// What it lies on.
    pub on: PoolOn,
    /// Takes devices that hold something, which is wiped; never one that is in use.
    pub force: bool,
    /// Whether containers may be promised more than there is.
    pub overcommit: bool,
}

/// What a pool lies on.
#[derive(Debug, Clone)]
pub enum PoolOn {
    /// Two sparse files under the root.
    Files,
    /// Two block devices.
    Devices(DevicePair),
    /// One block device, split in three: a label with a copy of the catalogue, metadata, data.
    Disk(PathBuf),
    /// A thin-pool that somebody else made and activates, by its dm name or the path of its device.
    ThinPool(PathBuf),
}

/// The two block devices of a pool.
#[derive(Debug, Clone)]
pub struct DevicePair {
    /// For the data.
    pub data: PathBuf,
    /// For the metadata.
    pub metadata: PathBuf,
}

impl CreatePool {
    /// Apparent size of a data file that was given none.
    pub const DEFAULT_SIZE: Bytes = Bytes::from_gib(100);
    /// Size of a base volume that was given none.
    pub const DEFAULT_BASE_SIZE: Bytes = Bytes::from_gib(10);
    /// The smallest data file or device: some blocks for a base volume and for a layer.
    pub const MIN_SIZE: Bytes = Bytes::from_mib(128);

    /// On sparse files, and as it is where nothing else is asked for.
    #[must_use]
    pub fn new(name: PoolName) -> Self {
        Self {
            name,
            size: Self::DEFAULT_SIZE,
            metadata_size: None,
            block_size: BlockSize::DEFAULT,
            base_size: Self::DEFAULT_BASE_SIZE,
            fs: FsType::Ext4,
            mkfs_args: Vec::new(),
            single_tenant: false,
            guard: Guard::default(),
            when_full: WhenFull::Queue,
            on: PoolOn::Files,
            force: false,
            overcommit: true,
        }
    }

    /// The smallest base volume: what mkfs makes a journal in.
    fn min_base_size(&self) -> Bytes {
        match self.fs {
            FsType::Ext4 => Bytes::from_mib(64),
            // `mkfs.xfs` refuses less.
            FsType::Xfs => Bytes::from_mib(300),
        }
    }

    /// Refuses sizes that cannot be, before anything is made.
    fn check(&self, place: &Place) -> Result<(), PoolError> {
        let at_least = |what, size: Bytes, least: Bytes| {
            if size < least {
                Err(PoolError::TooSmall { what, size, least })
            } else {
                Ok(())
            }
        };
        at_least("pool size", place.data_size, Self::MIN_SIZE)?;
        at_least("metadata size", place.metadata_size, plan::METADATA_MIN)?;
        at_least("base size", self.base_size, self.min_base_size())?;
        // A metadata device may be larger, its rest is not used; else it would only mislead.
        let ours = matches!(
            place.metadata,
            BackingRecord::File { .. } | BackingRecord::Part { .. }
        );
        if ours && place.metadata_size > plan::METADATA_MAX {
            return Err(PoolError::TooLarge {
                what: "metadata size",
                size: place.metadata_size,
                most: plan::METADATA_MAX,
            });
        }
        Ok(())
    }
}

/// Where the two halves of a new pool are to be.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) data: BackingRecord,
    pub(crate) data_size: Bytes,
    pub(crate) metadata: BackingRecord,
    pub(crate) metadata_size: Bytes,
    pub(crate) block_size: BlockSize,
    pub(crate) zeroing: bool,
    pub(crate) first_thin_id: ThinId,
}

impl Place {
    /// One that is ours from its first block on.
    pub(crate) fn fresh(
        new: &CreatePool,
        [data, metadata]: [BackingRecord; 2],
        [data_size, metadata_size]: [Bytes; 2],
    ) -> Self {
        Self {
            data,
            data_size,
            metadata,
            metadata_size,
            block_size: new.block_size,
            zeroing: !new.single_tenant,
            first_thin_id: ThinId::FIRST,
        }
    }
}

impl Host {
    /// What [`Host::create_pool`] would make, everything checked and nothing changed.
    ///
    /// # Errors
    /// As of [`Host::create_pool`].
    pub fn plan_pool(&self, new: &CreatePool) -> Result<PoolPlan, PoolError> {
        let place = self.place(new)?;
        self.dm()?;
        let record = Self::new_record(new, place)?;
        let (data_size, metadata_size) = (record.data_size, record.metadata_size);
        let path = |backing: &BackingRecord| self.layout().backing(&new.name, backing);
        Ok(PoolPlan {
            name: record.name,
            data: path(&record.data),
            data_size,
            block_size: record.block_size,
            blocks: plan::data_blocks(data_size, record.block_size),
            metadata: path(&record.metadata),
            metadata_size,
            metadata_least: plan::kernel_formula(data_size, record.block_size),
            low_water: record.low_water.to_bytes_saturating(record.block_size),
            fs: record.fs,
            base_size: record.base_size,
            zeroing: record.zeroing,
            guard: record.guard,
        })
    }

    /// Where data and metadata go, if the pool can be made.
    fn place(&self, new: &CreatePool) -> Result<Place, PoolError> {
        require_clear(&new.name)?;
        if let Some(path) = self.in_the_way(&new.name) {
            return Err(PoolError::PoolExists {
                name: new.name.clone(),
                path,
            });
        }
        let place = match &new.on {
            PoolOn::Files => {
                let data_size = round_up(new.size);
                let planned = plan::metadata_size(data_size, new.block_size);
                let file = |name: &str| BackingRecord::File {
                    name: name.to_owned(),
                };
                let metadata_size = round_up(new.metadata_size.unwrap_or(planned));
                let files = [file(DATA_FILE), file(METADATA_FILE)];
                Place::fresh(new, files, [data_size, metadata_size])
            }
            PoolOn::Devices(pair) => Self::place_on_pair(pair, new)?,
            PoolOn::Disk(path) => Self::place_on_disk(path, new)?,
            PoolOn::ThinPool(path) => self.place_in_thin_pool(path)?,
        };
        new.check(&place)?;
        Ok(place)
    }

    /// Makes a pool and opens it.
    ///
    /// # Errors
    /// [`PoolError::PoolExists`] where anything of a pool is in its place; [`PoolError::TooSmall`],
    /// [`PoolError::DeviceInUse`], [`PoolError::SameDevice`] for what cannot be. One that failed left
    /// nothing behind.
    pub fn create_pool(&self, new: &CreatePool) -> Result<PoolReport, PoolError> {
        let place = self.place(new)?;
        // The kernel is asked before the first file is made.
        self.dm()?;
        let dir = self.layout().pool_dir(&new.name);
        Self::make_dir(&dir)?;
        Step::N1.passed(&new.name);
        let record = Self::new_record(new, place)?;
        let catalogue = match Catalogue::create(self.layout().catalogue(&new.name), &record) {
            Err(StoreError::CatalogueExists { path }) => {
                return Err(PoolError::PoolExists {
                    name: new.name.clone(),
                    path,
                });
            }
            Err(error) => return Err(PoolError::from(error).with_undo(remove_if_empty(&dir))),
            Ok(catalogue) => catalogue,
        };
        Step::N2.passed(&new.name);
        let pool = Pool::with_catalogue(self, &new.name, catalogue)?;
        let lock = pool.locks().whole_pool()?;
        match pool.make(new) {
            Ok(()) => {
                drop(lock);
                pool.status()
            }
            Err(error) => {
                let undo = pool.clear_away();
                Err(error.with_undo(undo))
            }
        }
    }

    /// Something of a pool where this one would go.
    fn in_the_way(&self, name: &PoolName) -> Option<PathBuf> {
        let dir = self.layout().pool_dir(name);
        [
            self.layout().catalogue(name),
            dir.join(DATA_FILE),
            dir.join(METADATA_FILE),
        ]
        .into_iter()
        .find(|path| path.exists())
    }

    fn new_record(new: &CreatePool, place: Place) -> Result<NewPool, PoolError> {
        Ok(NewPool {
            name: new.name.clone(),
            uuid: PoolUuid::from_bytes(random_bytes()?),
            block_size: place.block_size,
            low_water: plan::low_water(place.data_size, place.block_size, new.guard),
            data: place.data,
            data_size: place.data_size,
            metadata: place.metadata,
            metadata_size: place.metadata_size,
            zeroing: place.zeroing,
            base_size: round_up(new.base_size),
            fs: new.fs,
            mkfs_args: new.mkfs_args.clone(),
            guard: new.guard,
            when_full: new.when_full,
            overcommit: new.overcommit,
            first_thin_id: place.first_thin_id,
        })
    }

    /// Two block devices that are free, bare and not one.
    fn place_on_pair(pair: &DevicePair, new: &CreatePool) -> Result<Place, PoolError> {
        let data = BlockDevice::open(&pair.data)?;
        let metadata = BlockDevice::open(&pair.metadata)?;
        if data.dev() == metadata.dev() {
            return Err(PoolError::SameDevice {
                path: pair.metadata.clone(),
                device: data.dev(),
            });
        }
        for device in [&data, &metadata] {
            require_free(device, new.force)?;
        }
        let device = |path| {
            Ok::<_, PoolError>(BackingRecord::Device {
                path: absolute(path)?,
            })
        };
        let devices = [device(&pair.data)?, device(&pair.metadata)?];
        Ok(Place::fresh(new, devices, [data.size(), metadata.size()]))
    }
}

/// That no container of another pool can have the name of a device of this one.
pub(crate) fn require_clear(name: &PoolName) -> Result<(), PoolError> {
    if names::is_ambiguous(name) {
        return Err(PoolError::AmbiguousName { name: name.clone() });
    }
    Ok(())
}

/// The path as another command finds it, which may run in another directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, PoolError> {
    std::path::absolute(path).map_err(|source| PoolError::io("find", path, source))
}

/// That nobody uses the device, and nothing is on it or may go.
pub(crate) fn require_free(device: &BlockDevice, force: bool) -> Result<(), PoolError> {
    device.check_unused()?;
    match fs::find_signature(device.file())? {
        Some(signature) if !force => Err(PoolError::DeviceInUse {
            path: device.path().to_owned(),
            what: signature.kind.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Up to whole blocks of 4096 bytes, so that direct I/O reaches the last one.
pub(crate) fn round_up(size: Bytes) -> Bytes {
    size.checked_round_up(Bytes::from_kib(4)).unwrap_or(size)
}

impl Pool {
    /// Steps N3 to N6.
    fn make(&self, new: &CreatePool) -> Result<(), PoolError> {
        let record = self.record()?;
        for (backing, size) in [
            (&record.data, record.data_size),
            (&record.metadata, record.metadata_size),
        ] {
            match backing {
                BackingRecord::File { .. } => {
                    SparseFile::create(&self.backing_path(backing), size)?;
                }
                BackingRecord::Device { path } | BackingRecord::Part { path, .. } => {
                    let device = BlockDevice::open(path)?;
                    // Looked at again: it was free, but that was before the intent.
                    require_free(&device, new.force)?;
                    fs::wipe_signatures(device.file())?;
                }
                BackingRecord::ThinPool(_) => {}
            }
        }
        if record.existing().is_some() {
            let live = self.enter_thin_pool(&record)?;
            Step::N5.passed(self.name());
            live.ensure_base(record.fs, record.base_size, &new.mkfs_args)?;
            self.catalogue().set_pool_state(PoolState::Ready)?;
            Step::N6.passed(self.name());
            return Ok(());
        }
        self.write_first_label(&record)?;
        Step::N3.passed(self.name());
        let data = self.attach(&record, PartKind::Data)?;
        let metadata = self.attach(&record, PartKind::Metadata)?;
        // A new file reads as zeros; a device may hold an old pool's superblock.
        if !matches!(record.metadata, BackingRecord::File { .. }) {
            metadata.zero_first_block()?;
        }
        Step::N4.passed(self.name());
        let live = self.activate_pool(&record, &data, &metadata)?;
        Step::N5.passed(self.name());
        self.stamp(&live, record.generation)?;
        live.begin_mirror();
        live.ensure_base(record.fs, record.base_size, &new.mkfs_args)?;
        self.catalogue().set_pool_state(PoolState::Ready)?;
        Step::N6.passed(self.name());
        live.mirror(Flush::Yes);
        self.copy_catalogue(&record, false)
    }

    /// The block device of one half of the pool, as long as the record says where it is for us to
    /// say.
    pub(crate) fn attach(
        &self,
        record: &PoolRecord,
        half: PartKind,
    ) -> Result<Attached, PoolError> {
        let backing = match half {
            PartKind::Data => &record.data,
            PartKind::Metadata => &record.metadata,
        };
        let path = self.backing_path(backing);
        Ok(match backing {
            BackingRecord::File { .. } => SparseFile::open(&path)?.attach()?,
            BackingRecord::Device { .. } => BlockDevice::open(&path)?.attach(),
            BackingRecord::Part { start, .. } => self.attach_part(record, half, *start)?,
            BackingRecord::ThinPool(existing) => {
                return Err(ExistingError::NotOurs {
                    name: self.name().clone(),
                    thin_pool: existing.name.clone(),
                }
                .into());
            }
        })
    }
}

/// Removes a directory unless somebody has something in it.
fn remove_if_empty(dir: &Path) -> Result<(), PoolError> {
    match remove_path(dir, true) {
        Err(PoolError::Io { source, .. }) if source.kind() == ErrorKind::DirectoryNotEmpty => {
            Ok(())
        }
        result => result,
    }
}

/// Removes a file or an empty directory; that it is gone already is as good.
pub(crate) fn remove_path(path: &Path, dir: bool) -> Result<(), PoolError> {
    let removed = if dir {
        std::fs::remove_dir(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(PoolError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
