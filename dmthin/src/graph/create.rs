//! `pool create`: from nothing to a sealed base, or back to nothing.
//!
//! Steps: N1 directory and lock; N2 catalogue, state `creating` (the durable intent); N3 sparse
//! files, or devices probed and the metadata's first block zeroed; N4 loops; N5 the thin-pool
//! device; N6 its first transaction id; N7 the base volume; N8 state `ready`. A cut leaves a
//! directory whose catalogue says `creating`, which `pool destroy` clears away.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::backing::{self, Attached, SparseFile};
use crate::fs;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::layout::{DATA_FILE, METADATA_FILE};
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::random::random_bytes;
use crate::graph::report::{PoolPlan, PoolReport};
use crate::ids::{FsType, PoolName, PoolUuid};
use crate::store::{BackingRecord, Catalogue, Guard, NewPool, PoolState, StoreError, WhenFull};
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
    /// Two block devices in place of sparse files.
    pub devices: Option<DevicePair>,
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

    /// The smallest base volume: what mkfs makes a journal in.
    fn min_base_size(&self) -> Bytes {
        match self.fs {
            FsType::Ext4 => Bytes::from_mib(64),
            // `mkfs.xfs` refuses less.
            FsType::Xfs => Bytes::from_mib(300),
        }
    }

    /// Refuses sizes that cannot be, before anything is made.
    fn check(&self, data: Bytes, metadata: Bytes) -> Result<(), PoolError> {
        let at_least = |what, size: Bytes, least: Bytes| {
            if size < least {
                Err(PoolError::TooSmall { what, size, least })
            } else {
                Ok(())
            }
        };
        at_least("pool size", data, Self::MIN_SIZE)?;
        at_least("metadata size", metadata, plan::METADATA_MIN)?;
        at_least("base size", self.base_size, self.min_base_size())?;
        // A metadata device may be larger, its rest is not used; a file would only mislead.
        if self.devices.is_none() && metadata > plan::METADATA_MAX {
            let most = plan::METADATA_MAX;
            return Err(PoolError::TooLarge {
                what: "metadata size",
                size: metadata,
                most,
            });
        }
        Ok(())
    }
}

impl Host {
    /// What [`Host::create_pool`] would make, everything checked and nothing changed.
    ///
    /// # Errors
    /// As of [`Host::create_pool`].
    pub fn plan_pool(&self, new: &CreatePool) -> Result<PoolPlan, PoolError> {
        let (data_size, metadata_size) = self.sizes(new)?;
        self.dm()?;
        let record = Self::new_record(new, data_size, metadata_size)?;
        let path = |backing| match backing {
            BackingRecord::File { name } => self.layout().pool_dir(&new.name).join(name),
            BackingRecord::Device { path } => path,
        };
        Ok(PoolPlan {
            name: record.name,
            data: path(record.data),
            data_size,
            block_size: record.block_size,
            blocks: plan::data_blocks(data_size, record.block_size),
            metadata: path(record.metadata),
            metadata_size,
            metadata_least: plan::kernel_formula(data_size, record.block_size),
            low_water: record.low_water.to_bytes_saturating(record.block_size),
            fs: record.fs,
            base_size: record.base_size,
            zeroing: record.zeroing,
            guard: record.guard,
        })
    }

    /// Sizes of data and metadata, where the pool can be made.
    fn sizes(&self, new: &CreatePool) -> Result<(Bytes, Bytes), PoolError> {
        if let Some(path) = self.in_the_way(&new.name) {
            return Err(PoolError::PoolExists {
                name: new.name.clone(),
                path,
            });
        }
        let (data_size, metadata_size) = match &new.devices {
            Some(pair) => self.probe_pair(pair)?,
            None => {
                let size = round_up(new.size);
                let planned = plan::metadata_size(size, new.block_size);
                (size, round_up(new.metadata_size.unwrap_or(planned)))
            }
        };
        new.check(data_size, metadata_size)?;
        Ok((data_size, metadata_size))
    }

    /// Makes a pool and opens it.
    ///
    /// # Errors
    /// [`PoolError::PoolExists`] where anything of a pool is in its place; [`PoolError::TooSmall`],
    /// [`PoolError::DeviceInUse`], [`PoolError::SameDevice`] for what cannot be. One that failed left
    /// nothing behind.
    pub fn create_pool(&self, new: &CreatePool) -> Result<PoolReport, PoolError> {
        let (data_size, metadata_size) = self.sizes(new)?;
        // The kernel is asked before the first file is made.
        self.dm()?;
        let dir = self.layout().pool_dir(&new.name);
        Self::make_dir(&dir)?;
        let record = Self::new_record(new, data_size, metadata_size)?;
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

    fn new_record(
        new: &CreatePool,
        data_size: Bytes,
        metadata_size: Bytes,
    ) -> Result<NewPool, PoolError> {
        let backing = |device: Option<&PathBuf>, file: &str| -> Result<_, PoolError> {
            Ok(match device {
                // The next command may run in another directory.
                Some(path) => BackingRecord::Device {
                    path: std::path::absolute(path)
                        .map_err(|source| PoolError::io("find", path, source))?,
                },
                None => BackingRecord::File {
                    name: file.to_owned(),
                },
            })
        };
        let pair = new.devices.as_ref();
        Ok(NewPool {
            name: new.name.clone(),
            uuid: PoolUuid::from_bytes(random_bytes()?),
            block_size: new.block_size,
            low_water: plan::low_water(data_size, new.block_size, new.guard),
            data: backing(pair.map(|pair| &pair.data), DATA_FILE)?,
            data_size,
            metadata: backing(pair.map(|pair| &pair.metadata), METADATA_FILE)?,
            metadata_size,
            zeroing: !new.single_tenant,
            base_size: round_up(new.base_size),
            fs: new.fs,
            mkfs_args: new.mkfs_args.clone(),
            guard: new.guard,
            when_full: new.when_full,
        })
    }

    /// Sizes of two block devices that are free, bare and not one.
    fn probe_pair(&self, pair: &DevicePair) -> Result<(Bytes, Bytes), PoolError> {
        let data = backing::BlockDevice::open(&pair.data)?;
        let metadata = backing::BlockDevice::open(&pair.metadata)?;
        if data.dev() == metadata.dev() {
            return Err(PoolError::SameDevice {
                path: pair.metadata.clone(),
                device: data.dev(),
            });
        }
        for (device, path) in [(&data, &pair.data), (&metadata, &pair.metadata)] {
            device.check_unused()?;
            if let Some(signature) = fs::find_signature(device.file())? {
                let what = signature.kind.to_string();
                return Err(PoolError::DeviceInUse {
                    path: path.clone(),
                    what,
                });
            }
        }
        Ok((data.size(), metadata.size()))
    }
}

/// Up to whole blocks of 4096 bytes, so that direct I/O reaches the last one.
pub(crate) fn round_up(size: Bytes) -> Bytes {
    size.checked_round_up(Bytes::from_kib(4)).unwrap_or(size)
}

impl Pool {
    /// Steps N3 to N8.
    fn make(&self, new: &CreatePool) -> Result<(), PoolError> {
        let record = self.record()?;
        for (backing, size) in [
            (&record.data, record.data_size),
            (&record.metadata, record.metadata_size),
        ] {
            if matches!(backing, BackingRecord::File { .. }) {
                SparseFile::create(&self.backing_path(backing), size)?;
            }
        }
        let data = self.attach(&record.data)?;
        let metadata = self.attach(&record.metadata)?;
        // A new file reads as zeros; a device may hold an old pool's superblock.
        if matches!(record.metadata, BackingRecord::Device { .. }) {
            metadata.zero_first_block()?;
        }
        let live = self.activate_pool(&record, &data, &metadata)?;
        self.stamp(&live, record.generation)?;
        live.ensure_base(record.fs, record.base_size, &new.mkfs_args)?;
        Ok(self.catalogue().set_pool_state(PoolState::Ready)?)
    }

    /// The block device of one half of the pool.
    pub(crate) fn attach(&self, backing: &BackingRecord) -> Result<Attached, PoolError> {
        let path = self.backing_path(backing);
        Ok(match backing {
            BackingRecord::File { .. } => SparseFile::open(&path)?.attach()?,
            BackingRecord::Device { .. } => backing::BlockDevice::open(&path)?.attach(),
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
