//! Pools.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::graph::commit::Promised;
use crate::graph::guard::UntilGuard;
use crate::graph::lossy;
use crate::graph::mirror::MirrorState;
use crate::ids::{DevNo, FsType, PoolName, PoolUuid, TransactionId};
use crate::store::{Guard, WhenFull};
use crate::units::{BlockSize, Bytes, DataBlocks};

/// A line of `pool list`.
#[derive(Debug, Clone, Serialize)]
pub struct PoolSummary {
    /// Its name.
    pub name: PoolName,
    /// Its uuid, where the catalogue could be read.
    pub uuid: Option<PoolUuid>,
    /// What there is to say of it in a word: `open`, `closed`, `creating`, `destroying`, `damaged`.
    pub state: PoolWord,
    /// Size of the data device.
    pub data_size: Option<Bytes>,
    /// Images in it.
    pub images: u64,
    /// Containers in it.
    pub containers: u64,
    /// Why it is `damaged`.
    pub problem: Option<String>,
}

/// The state of a pool in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolWord {
    /// Its thin-pool device exists.
    Open,
    /// Ready, but its device does not exist.
    Closed,
    /// `pool create` has not ended, or was cut.
    Creating,
    /// `pool destroy` has not ended, or was cut.
    Destroying,
    /// Its catalogue cannot be read.
    Damaged,
}

/// One of a pool's two backing devices.
#[derive(Debug, Clone, Serialize)]
pub struct BackingReport {
    /// The file, or the block device.
    #[serde(serialize_with = "lossy::path")]
    pub path: PathBuf,
    /// Whether it is a sparse file on a loop device.
    pub file: bool,
    /// The block device the pool sits on, while it is open.
    pub device: Option<DevNo>,
    /// Its node.
    #[serde(serialize_with = "lossy::option")]
    pub node: Option<PathBuf>,
    /// Apparent size.
    pub size: Bytes,
    /// What the file takes on its file system; a block device takes all of it.
    pub allocated: Bytes,
    /// Room left on the file system below a file.
    pub host_free: Option<Bytes>,
    /// Whether the loop device does direct I/O.
    pub direct_io: Option<bool>,
    /// Logical block size of the device, while it is open.
    pub block_size: Option<Bytes>,
}

/// Used and total of one space of a pool.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    /// In use.
    pub used: Bytes,
    /// In all.
    pub total: Bytes,
}

/// When a pool will be full, if it goes on as it lately did; none where that cannot be told, or is
/// more than a month away. In seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TimeToFull {
    /// Of data.
    #[serde(serialize_with = "seconds")]
    pub data: Option<Duration>,
    /// Of metadata.
    #[serde(serialize_with = "seconds")]
    pub metadata: Option<Duration>,
}

fn seconds<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(to)
}

/// What the kernel says of an open pool.
#[derive(Debug, Clone, Serialize)]
pub struct LivePool {
    /// The thin-pool device.
    pub device: DevNo,
    /// `rw`, `ro`, `out_of_data_space`, `fail` or `error`.
    pub mode: String,
    /// Blocks of data.
    pub data: Option<Usage>,
    /// Blocks of metadata.
    pub metadata: Option<Usage>,
    /// The transaction id in its superblock.
    pub transaction_id: Option<TransactionId>,
    /// Whether the metadata wants a check before it is written again.
    pub needs_check: bool,
    /// Whether discards truly reach the data device.
    pub discard_passdown: bool,
    /// `error` or `queue`.
    pub on_full: Option<String>,
    /// What is left before new volumes are refused.
    pub until_guard: Option<UntilGuard>,
    /// When it will be full.
    pub time_to_full: TimeToFull,
    /// Devices of ours on it.
    pub active_volumes: u64,
}

/// `pool create --dry-run`: what a pool would be.
#[derive(Debug, Clone, Serialize)]
pub struct PoolPlan {
    /// Its name.
    pub name: PoolName,
    /// The file or device of its data.
    #[serde(serialize_with = "lossy::path")]
    pub data: PathBuf,
    /// Its size.
    pub data_size: Bytes,
    /// The unit of allocation, in sectors.
    pub block_size: BlockSize,
    /// How many there are of it.
    pub blocks: DataBlocks,
    /// The file or device of its metadata.
    #[serde(serialize_with = "lossy::path")]
    pub metadata: PathBuf,
    /// Its size.
    pub metadata_size: Bytes,
    /// What the kernel's formula asks for at the least, without any snapshot.
    pub metadata_least: Bytes,
    /// Free data below which the kernel raises an event.
    pub low_water: Bytes,
    /// File system of its volumes.
    pub fs: FsType,
    /// Size of the base volume.
    pub base_size: Bytes,
    /// Whether new blocks are zeroed.
    pub zeroing: bool,
    /// What must stay free for new volumes to be made.
    pub guard: Guard,
}

/// `pool status`.
#[derive(Debug, Clone, Serialize)]
pub struct PoolReport {
    /// Its name.
    pub name: PoolName,
    /// Its uuid.
    pub uuid: PoolUuid,
    /// Its state in a word.
    pub state: PoolWord,
    /// The pool's unit of allocation, in sectors.
    pub block_size: BlockSize,
    /// Whether new blocks are zeroed before a container can read them.
    pub zeroing: bool,
    /// What must stay free for new volumes to be made.
    pub guard: Guard,
    /// What a full pool does.
    pub when_full: WhenFull,
    /// File system of its volumes.
    pub fs: FsType,
    /// Size of the base volume, and of a container unless it asks for more.
    pub base_size: Bytes,
    /// The data device.
    pub data: BackingReport,
    /// The metadata device.
    pub metadata: BackingReport,
    /// What the kernel says, while it is open.
    pub live: Option<LivePool>,
    /// Free data below which the kernel gives notice.
    pub low_water: Bytes,
    /// What the metadata take when all data are mapped once, by the kernel's formula.
    pub metadata_at_full_data: Bytes,
    /// Volumes that are promised to go and are not gone.
    pub removals: u64,
    /// What its ballast keeps, where it has one.
    pub ballast: Option<Bytes>,
    /// Transaction id that pairs the catalogue with the pool.
    pub generation: TransactionId,
    /// Images in the catalogue.
    pub images: u64,
    /// Layers in the catalogue.
    pub layers: u64,
    /// Containers in the catalogue.
    pub containers: u64,
    /// Snapshots of containers and volumes.
    pub snapshots: u64,
    /// Data volumes.
    pub volumes: u64,
    /// Their sizes added up.
    pub volumes_size: Bytes,
    /// Sizes of all containers added up: what they may come to use.
    pub virtual_size: Bytes,
    /// Whether containers may be promised more than there is.
    pub overcommit: bool,
    /// What is promised.
    pub promised: Promised,
    /// Whether the pool may have volumes that the catalogue does not know.
    pub foreign_ids: bool,
    /// Whether the copy of the catalogue in the pool has all of it; of an open pool that is ours.
    pub mirror: Option<MirrorState>,
}
