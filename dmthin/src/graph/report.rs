//! What the verbs answer: plain records, ready for a table or for JSON.
//!
//! Numbers stay numbers (bytes, counts); names that a later version adds are additions only, so
//! that a reader of `"schema": "dmthin/v1"` never breaks.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::fs::Holder;
use crate::graph::commit::Promised;
use crate::graph::error::PoolError;
use crate::graph::guard::UntilGuard;
use crate::ids::{
    ContainerName, DevNo, Digest, DmName, DmUuid, FsType, ImageRef, PoolName, PoolUuid, ThinId,
    TransactionId, VolumeId, VolumeKind,
};
use crate::store::{Guard, VolumeState, WhenFull};
use crate::units::{BlockSize, Bytes, DataBlocks};

/// Whether a verb found something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was made so.
    Changed,
    /// It was so already.
    Unchanged,
}

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
    pub path: PathBuf,
    /// Whether it is a sparse file on a loop device.
    pub file: bool,
    /// The block device the pool sits on, while it is open.
    pub device: Option<DevNo>,
    /// Its node.
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
    pub data: PathBuf,
    /// Its size.
    pub data_size: Bytes,
    /// The unit of allocation, in sectors.
    pub block_size: BlockSize,
    /// How many there are of it.
    pub blocks: DataBlocks,
    /// The file or device of its metadata.
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

/// What `pool repair` came to.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// The pool.
    pub name: PoolName,
    /// The metadata as they were.
    pub copy: PathBuf,
    /// What was done to them.
    pub repaired: Repaired,
    /// What the file systems look like after it.
    pub volumes: Vec<VolumeCheck>,
}

/// What is done to a pool's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repaired {
    /// Nothing: `thin_check` finds no fault.
    Sound,
    /// The flag that asks for a check is cleared, for the check finds no fault.
    FlagCleared,
    /// They are built anew from what can be read.
    Rebuilt,
}

/// What became of a volume's file system.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeCheck {
    /// Which.
    pub volume: VolumeId,
    /// What it is.
    pub kind: VolumeKind,
    /// The container's name.
    pub name: Option<ContainerName>,
    /// What its own program says, asked to change nothing.
    #[serde(flatten)]
    pub checked: Checked,
}

/// What the check of a file system says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "checked", rename_all = "kebab-case")]
pub enum Checked {
    /// It is whole.
    Clean,
    /// It was in use, and its journal was not replayed: mounting it does that.
    Journal,
    /// It is not.
    Damaged {
        /// The program's last words.
        told: String,
    },
    /// The program could not be run.
    NotChecked {
        /// Why not.
        told: String,
    },
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
    /// Sizes of all containers added up: what they may come to use.
    pub virtual_size: Bytes,
    /// Whether containers may be promised more than there is.
    pub overcommit: bool,
    /// What is promised.
    pub promised: Promised,
    /// Whether the pool may have volumes that the catalogue does not know.
    pub foreign_ids: bool,
}

/// A line of `image list`.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// Digest of its configuration: its identity.
    pub id: Digest,
    /// Names it goes by.
    pub names: Vec<ImageRef>,
    /// Layers, bottom first.
    pub layers: Vec<LayerReport>,
    /// Uncompressed layers added up.
    pub size: Bytes,
    /// Processor architecture, as the configuration names it.
    pub architecture: String,
    /// Operating system, as the configuration names it.
    pub os: String,
    /// When it was built, as the configuration says.
    pub created: Option<String>,
    /// When it was imported, in seconds since 1970.
    pub imported_at: u64,
    /// Containers made from it.
    pub containers: Vec<ContainerName>,
}

/// A layer of an image.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    /// Identity of the layer with all below it.
    pub chain_id: Digest,
    /// Digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// Bytes of its uncompressed archive.
    pub size: Bytes,
    /// Entries in its archive.
    pub entries: u64,
    /// Images that share it.
    pub shared_by: u64,
}

/// A line of `image history`: a step of the build, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryReport {
    /// The layer the step made, where it made one.
    pub diff_id: Option<Digest>,
    /// Bytes of its uncompressed archive.
    pub size: Option<Bytes>,
    /// When.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// The author's comment.
    pub comment: Option<String>,
}

/// What an import did.
#[derive(Debug, Clone, Serialize)]
pub struct ImportReport {
    /// Digest of the configuration.
    pub id: Digest,
    /// Names it goes by now.
    pub names: Vec<ImageRef>,
    /// Whether the image was new.
    pub change: Change,
    /// Layers that were unpacked.
    pub layers_new: u64,
    /// Layers that were there already.
    pub layers_shared: u64,
    /// Bytes of uncompressed archive that were unpacked.
    pub bytes: Bytes,
    /// Attributes the file system would not take, by name: `xattr user.x: 3 files`.
    pub warnings: Vec<String>,
}

/// Something an import tells while it runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ImportEvent {
    /// An image was found in the archive.
    Image {
        /// Its identity.
        id: Digest,
        /// Number of its layers.
        layers: u64,
    },
    /// A layer is there already.
    Shared {
        /// Its place, from 1.
        index: u64,
        /// Which.
        diff_id: Digest,
    },
    /// A layer is being unpacked.
    Layer {
        /// Its place, from 1.
        index: u64,
        /// Which.
        diff_id: Digest,
        /// Bytes of its blob as stored in the archive.
        size: Bytes,
    },
    /// So many bytes of the layer's blob have been read.
    Progress {
        /// Since the layer's begin.
        done: Bytes,
    },
    /// The layer is sealed.
    Sealed {
        /// Which.
        diff_id: Digest,
        /// Bytes of its uncompressed archive.
        size: Bytes,
        /// Entries in it.
        entries: u64,
    },
}

/// `container list` and `container inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerReport {
    /// Its name.
    pub name: ContainerName,
    /// Name of the image when it was made.
    pub image: String,
    /// Identity of the image.
    pub image_id: Digest,
    /// How far it is: `creating` until it is whole, and after its making was cut.
    pub state: VolumeState,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// Size of its device.
    pub size: Bytes,
    /// The size that it is being grown to, where that is not finished.
    pub growing_to: Option<Bytes>,
    /// Bytes mapped in the pool, shared ones included, while it is active.
    pub mapped: Option<Bytes>,
    /// Its file system.
    pub fs: FsType,
    /// Its file system's uuid (the base's).
    pub fs_uuid: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created_at: u64,
    /// Its block device, while active.
    pub device: Option<PathBuf>,
    /// The device's number, while active.
    pub devno: Option<DevNo>,
    /// Where it is mounted.
    pub mounts: Vec<PathBuf>,
}

/// What `container grow` did.
#[derive(Debug, Clone, Serialize)]
pub struct GrownContainer {
    /// Whether it did anything.
    pub change: Change,
    /// Whether the file system was grown too; if not, who uses the device has to.
    pub fs_grown: bool,
    /// The container, as it is now.
    pub container: ContainerReport,
}

/// `who`: what holds a container.
#[derive(Debug, Clone, Serialize)]
pub struct WhoReport {
    /// The container.
    pub name: ContainerName,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Whether it was removed already, and only its volume is left.
    pub removed: bool,
    /// Its device's number, while it is active.
    pub devno: Option<DevNo>,
    /// How many hold the device open, as the kernel counts: a file system on it is one.
    pub open_count: u32,
    /// What was found to hold it.
    pub holders: Vec<Holder>,
}

/// What removing a container came to.
#[derive(Debug, Clone, Serialize)]
pub struct RemovedContainer {
    /// The container; the name is free.
    pub name: ContainerName,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// Whether the volume is gone, its space given back; else it is queued.
    pub removed: bool,
    /// Whether the pool's monitor was called to give its space back.
    pub handed: bool,
    /// What holds the volume.
    pub holders: Vec<Holder>,
}

/// What trimming a container came to.
#[derive(Debug, Serialize)]
pub struct TrimReport {
    /// The container.
    pub name: ContainerName,
    /// What its file system discarded; none where that failed.
    pub trimmed: Option<Bytes>,
    /// What went wrong.
    pub problem: Option<String>,
    /// The same, to act on.
    #[serde(skip)]
    pub error: Option<PoolError>,
}

/// How far a queued removal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueState {
    /// Somebody holds the device; the kernel takes it away when they let it go.
    Held,
    /// Nobody holds it: the next run of the queue removes it.
    Waiting,
    /// A command is giving its space back.
    Deleting,
}

/// A line of `queue list`.
#[derive(Debug, Clone, Serialize)]
pub struct QueueReport {
    /// The volume in the catalogue.
    pub volume: VolumeId,
    /// What the volume was for.
    pub kind: VolumeKind,
    /// What its container was called; others may have the name now.
    pub name: Option<ContainerName>,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// Size of its device.
    pub size: Bytes,
    /// Bytes mapped in the pool, shared ones included, while it has a device.
    pub mapped: Option<Bytes>,
    /// How far it is.
    pub state: QueueState,
    /// When its removal was promised, in seconds since 1970.
    pub since: u64,
    /// How many tries did not come to the end.
    pub attempts: u64,
    /// When the next one is due, in seconds since 1970.
    pub next_try: u64,
    /// Whether some of it may be gone, so that it cannot be taken back.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Its device's number, while it has one.
    pub devno: Option<DevNo>,
    /// What holds it.
    pub holders: Vec<Holder>,
}

impl QueueReport {
    /// What to call it before a person: its container's name, or its volume.
    #[must_use]
    pub fn told_name(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| format!("volume {}", self.volume), ToString::to_string)
    }
}

/// A removal that failed and stays queued.
#[derive(Debug, Serialize)]
pub struct FailedRemoval {
    /// The volume in the catalogue.
    pub volume: VolumeId,
    /// What its container was called.
    pub name: Option<ContainerName>,
    /// What went wrong.
    pub problem: String,
    /// The same, to act on.
    #[serde(skip)]
    pub error: PoolError,
}

/// What a run of the queue came to.
#[derive(Debug, Default, Serialize)]
pub struct QueueRun {
    /// Volumes that are gone.
    pub removed: Vec<VolumeId>,
    /// What somebody holds still.
    pub held: Vec<QueueReport>,
    /// What failed.
    pub failed: Vec<FailedRemoval>,
}

/// What a device of ours is for.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The thin-pool itself.
    Pool,
    /// Its ballast, while that is being filled.
    Ballast,
    /// The part of the pool's disk that has its metadata.
    Metadata,
    /// The part of the pool's disk that has its data.
    Data,
    /// A volume on it.
    #[serde(untagged)]
    Volume(VolumeKind),
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pool => f.pad("pool"),
            Self::Ballast => f.pad("ballast"),
            Self::Metadata => f.pad("metadata"),
            Self::Data => f.pad("data"),
            Self::Volume(kind) => kind.fmt(f),
        }
    }
}

/// `device list` and `device inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    /// Its dm name.
    pub name: DmName,
    /// Its dm uuid.
    pub uuid: DmUuid,
    /// What it is for.
    pub kind: DeviceKind,
    /// Pool it belongs to, where that pool is in our root.
    pub pool: Option<PoolName>,
    /// Whose it is: a container's name, a layer's or the base's volume; none if nobody knows it.
    pub owner: Option<String>,
    /// Its number.
    pub devno: DevNo,
    /// Its node, if the node leads to it.
    pub node: Option<PathBuf>,
    /// Size of the device.
    pub size: Bytes,
    /// Live table, a line each as `dmsetup table` prints it.
    pub table: Vec<String>,
    /// Status, a line each as `dmsetup status` prints it.
    pub status: Vec<String>,
    /// How many hold it open.
    pub open_count: u32,
    /// The event counter.
    pub event_nr: u32,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether the kernel removes it at its last close.
    pub deferred_remove: bool,
    /// Devices below it.
    pub below: Vec<DevNo>,
    /// Where it is mounted.
    pub mounts: Vec<PathBuf>,
}

/// How a check of `doctor` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but see the hint.
    Warn,
    /// The main job will not work.
    Fail,
}

/// One check of `doctor`.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What removing an image took away.
#[derive(Debug, Clone, Serialize)]
pub struct RemovedImage {
    /// Digest of its configuration.
    pub id: Digest,
    /// Names that went.
    pub names: Vec<ImageRef>,
    /// Whether the image itself went, or only one of its names.
    pub removed: bool,
    /// Layers that nothing else needed and that went with it.
    pub layers_removed: u64,
}

/// A layer with what stands on it, for `image tree`.
#[derive(Debug, Clone, Serialize)]
pub struct LayerTree {
    /// The layer.
    pub layer: LayerReport,
    /// Images whose top layer it is: their names, or their id where they have none.
    pub images: Vec<String>,
    /// Containers that stand on it.
    pub containers: Vec<ContainerName>,
    /// Layers above it.
    pub children: Vec<LayerTree>,
}
