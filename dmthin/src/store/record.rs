//! What the catalogue's verbs take and give.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::ids::{
    ContainerName, Digest, DmName, DmUuid, FsType, ImageId, ImageRef, PoolName, PoolUuid,
    SnapshotName, ThinId, TransactionId, VolumeId, VolumeKind, VolumeName, WritableName,
};
use crate::store::state::{BallastState, GenerationCheck, PoolState, VolumeState, WhenFull};
use crate::store::timestamp::Timestamp;
use crate::units::{BlockSize, Bytes, DataBlocks, Percent};

/// Where a pool's data or metadata lies.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum BackingRecord {
    /// A sparse file beside the catalogue.
    File {
        /// Its name in the catalogue's directory.
        name: String,
    },
    /// A block device.
    Device {
        /// Its path, best one that survives a reboot.
        path: PathBuf,
    },
    /// A part of a block device that has our label.
    Part {
        /// The device's path; the label says whether it is the right one.
        path: PathBuf,
        /// Where on it the part begins.
        start: Bytes,
    },
    /// Somebody else's thin-pool, which has data and metadata of its own.
    ThinPool(ExistingPool),
}

/// A thin-pool that somebody else made and activates.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ExistingPool {
    /// Its dm name when it was first met.
    pub name: DmName,
    /// Its dm uuid, by which it is found; by its name where it has none.
    pub uuid: Option<DmUuid>,
}

impl ExistingPool {
    /// Whether both are one: of one uuid, or of one name where they have none.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (&self.uuid, &other.uuid) {
            (None, None) => self.name == other.name,
            (mine, theirs) => mine == theirs,
        }
    }
}

/// What must stay free in a pool for new volumes to be made in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Guard {
    /// Of its data.
    pub min_free_data: Percent,
    /// Of its metadata.
    pub min_free_metadata: Percent,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            min_free_data: Percent::TENTH,
            min_free_metadata: Percent::TENTH,
        }
    }
}

/// The ballast of a pool: a volume full of nothing, to be let go when the pool is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BallastRecord {
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// How much it keeps.
    pub size: Bytes,
    /// How far it is.
    pub state: BallastState,
}

/// A pool to be recorded. It starts in [`PoolState::Creating`], at generation 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPool {
    /// Its name.
    pub name: PoolName,
    /// Its uuid, part of its devices' dm uuids.
    pub uuid: PoolUuid,
    /// The unit of allocation.
    pub block_size: BlockSize,
    /// Free data blocks below which the kernel raises an event.
    pub low_water: DataBlocks,
    /// Where the data lies.
    pub data: BackingRecord,
    /// How long the data device is.
    pub data_size: Bytes,
    /// Where the metadata lies.
    pub metadata: BackingRecord,
    /// How long the metadata device is.
    pub metadata_size: Bytes,
    /// Whether the kernel zeroes a block before its first use; off for a single tenant.
    pub zeroing: bool,
    /// The size of the base volume.
    pub base_size: Bytes,
    /// The file system of the base volume.
    pub fs: FsType,
    /// Further arguments for mkfs.
    pub mkfs_args: Vec<String>,
    /// What must stay free.
    pub guard: Guard,
    /// What a full pool does.
    pub when_full: WhenFull,
    /// Whether more may be promised than there is.
    pub overcommit: bool,
    /// The thin id the first volume gets.
    pub first_thin_id: ThinId,
}

/// What is new about a pool whose disk came from another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedPool {
    /// What it is called here.
    pub name: PoolName,
    /// Where its disk is here.
    pub disk: PathBuf,
    /// Whether it may have thin ids that the copy of its catalogue does not know.
    pub foreign_ids: bool,
}

/// The pool as recorded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PoolRecord {
    /// Its name.
    pub name: PoolName,
    /// Its uuid, part of its devices' dm uuids.
    pub uuid: PoolUuid,
    /// When the catalogue was made.
    pub created_at: Timestamp,
    /// The unit of allocation.
    pub block_size: BlockSize,
    /// Free data blocks below which the kernel raises an event.
    pub low_water: DataBlocks,
    /// Where the data lies.
    pub data: BackingRecord,
    /// How long the data device is.
    pub data_size: Bytes,
    /// Where the metadata lies.
    pub metadata: BackingRecord,
    /// How long the metadata device is.
    pub metadata_size: Bytes,
    /// Whether the kernel zeroes a block before its first use; off for a single tenant.
    pub zeroing: bool,
    /// The size of the base volume.
    pub base_size: Bytes,
    /// The file system of the base volume.
    pub fs: FsType,
    /// Further arguments for mkfs.
    pub mkfs_args: Vec<String>,
    /// What must stay free.
    pub guard: Guard,
    /// What a full pool does.
    pub when_full: WhenFull,
    /// Whether more may be promised than there is.
    pub overcommit: bool,
    /// Whether the pool may have thin ids that this catalogue does not know.
    pub foreign_ids: bool,
    /// How far it is.
    pub state: PoolState,
    /// The transaction id the pool should have.
    pub generation: TransactionId,
    /// The transaction id the pool is about to be given.
    pub pending_generation: Option<TransactionId>,
    /// The thin id the next volume gets; `None` when all are spent.
    pub next_thin_id: Option<ThinId>,
    /// Where the thin ids end that are given out: this one is not.
    pub thin_ids_end: ThinId,
}

impl PoolRecord {
    /// The thin-pool of somebody else that this pool is in, if it is.
    #[must_use]
    pub const fn existing(&self) -> Option<&ExistingPool> {
        match &self.data {
            BackingRecord::ThinPool(existing) => Some(existing),
            _ => None,
        }
    }

    /// The path of the disk that this pool lies on whole, if it does.
    #[must_use]
    pub fn disk(&self) -> Option<&Path> {
        match &self.data {
            BackingRecord::Part { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The last of the thin ids in a pool that this catalogue has not given out yet: it is an older one then.
    /// Means something only where nobody else gives ids.
    #[must_use]
    pub fn not_given(&self, found: &BTreeSet<ThinId>) -> Option<ThinId> {
        let next = self.next_thin_id?;
        found.range(next..self.thin_ids_end).next_back().copied()
    }

    /// Compares the transaction id found in the pool with this record.
    #[must_use]
    pub fn check_generation(&self, found: TransactionId) -> GenerationCheck {
        GenerationCheck::new(found, self.generation, self.pending_generation)
    }
}

/// A volume to be recorded that is no container's ([`NewContainer`] is for those).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewVolume {
    /// The empty file system of a size class.
    Base {
        /// Its file system.
        fs: FsType,
        /// Its length.
        size: Bytes,
    },
    /// A layer to be: a snapshot of its parent, with its file system.
    Layer {
        /// The base or the layer below.
        parent: VolumeId,
        /// Its length, at least its parent's.
        size: Bytes,
    },
}

/// A volume as recorded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VolumeRecord {
    /// Its identity, part of its dm uuid.
    pub id: VolumeId,
    /// The thin device's number in the pool.
    pub thin_id: ThinId,
    /// What it is for.
    pub kind: VolumeKind,
    /// How far it is.
    pub state: VolumeState,
    /// The volume it is a snapshot of; `None` for a base, and once the parent is forgotten.
    pub parent: Option<VolumeId>,
    /// Its length.
    pub size: Bytes,
    /// The length it is being grown to: its file system may have any length in between.
    pub growing_to: Option<Bytes>,
    /// Its file system.
    pub fs: FsType,
    /// The file system's uuid, where it is known; a snapshot starts with its parent's.
    pub fs_uuid: Option<String>,
    /// When its intent was written.
    pub created_at: Timestamp,
    /// Whether its device is handed out, and so is to be activated when the pool is opened.
    pub active: bool,
    /// Whether the kernel has made the thin device at our word. Where a pool has thin ids of
    /// others, one that it did not is never touched.
    pub made: bool,
    /// What it had mapped when it was sealed, shared blocks included.
    pub mapped: Option<Bytes>,
}

/// What a layer holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LayerRecord {
    /// The digest of the stack up to and with it.
    pub chain_id: Digest,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The chain id of the layer below; `None` on the base.
    pub parent_chain: Option<Digest>,
    /// The length of its uncompressed tar.
    pub tar_bytes: Bytes,
    /// How many entries its tar has.
    pub nr_entries: u64,
}

/// A layer and the volume that holds it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SealedLayer {
    /// The volume: everything up to and with this layer.
    pub volume: VolumeRecord,
    /// What the layer holds.
    pub layer: LayerRecord,
}

/// An image to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// The digest of the config: the image's identity.
    pub config_digest: Digest,
    /// The digest of the manifest, where it came with one.
    pub manifest_digest: Option<Digest>,
    /// The config's bytes, JSON.
    pub config: Vec<u8>,
    /// As the config says, like `amd64`.
    pub architecture: String,
    /// As the config says, like `linux`.
    pub os: String,
    /// When it was made, as the config says.
    pub created: Option<String>,
    /// Its sealed layers, the lowest first.
    pub layers: Vec<VolumeId>,
    /// Names it goes by; one without a tag gets `:latest`. A name another image has is moved.
    pub names: Vec<ImageRef>,
}

/// What became of an image handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddedImage {
    /// It is new.
    Created(ImageId),
    /// It was there; the names were added to it.
    Existing(ImageId),
}

impl AddedImage {
    /// The image, either way.
    #[must_use]
    pub const fn id(self) -> ImageId {
        match self {
            Self::Created(id) | Self::Existing(id) => id,
        }
    }
}

/// An image as recorded. Its config is had by [`Catalogue::image_config`], its layers by
/// [`Catalogue::image_layers`].
///
/// [`Catalogue::image_config`]: super::Catalogue::image_config
/// [`Catalogue::image_layers`]: super::Catalogue::image_layers
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ImageRecord {
    /// Its number in the catalogue.
    pub id: ImageId,
    /// The digest of the config.
    pub config_digest: Digest,
    /// The digest of the manifest, where it came with one.
    pub manifest_digest: Option<Digest>,
    /// As the config says, like `amd64`.
    pub architecture: String,
    /// As the config says, like `linux`.
    pub os: String,
    /// When it was made, as the config says.
    pub created: Option<String>,
    /// When it was recorded.
    pub imported_at: Timestamp,
    /// Names it goes by, sorted; none once all were moved to other images.
    pub names: Vec<ImageRef>,
}

impl ImageRecord {
    /// The name that a user called the image by, where it has others: removing takes only that.
    #[must_use]
    pub fn only_name_meant(&self, text: &str) -> Option<&ImageRef> {
        let is_meant = |name: &&ImageRef| {
            name.as_str() == text || name.as_str().strip_suffix(":latest") == Some(text)
        };
        let others = self.names.len() > 1;
        self.names.iter().find(is_meant).filter(|_| others)
    }
}

/// What removed images leave to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedImages {
    /// The images as they were.
    pub images: Vec<ImageRecord>,
    /// The layers nothing else needs, now in [`VolumeState::Deleting`], the topmost first.
    pub volumes: Vec<VolumeRecord>,
}

/// A container to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContainer {
    /// Its name.
    pub name: ContainerName,
    /// The image whose top layer it is a snapshot of.
    pub image: ImageId,
    /// What the user called the image; kept for the screen.
    pub image_name: String,
    /// The volume's length; `None` for that of the top layer.
    pub size: Option<Bytes>,
}

/// A container as recorded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ContainerRecord {
    /// Its name.
    pub name: ContainerName,
    /// Its image.
    pub image: ImageId,
    /// What the image was called when it was made.
    pub image_name: String,
    /// Its writable volume; the volume's `created_at` is the container's.
    pub volume: VolumeRecord,
}

/// A data volume as recorded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DataVolumeRecord {
    /// Its name.
    pub name: VolumeName,
    /// Its volume; that one's `created_at` is the data volume's.
    pub volume: VolumeRecord,
}

/// A container or a data volume, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WritableRecord {
    /// Its name.
    pub name: WritableName,
    /// Its writable volume.
    pub volume: VolumeRecord,
}

/// A snapshot as recorded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotRecord {
    /// Its name, among those of its owner.
    pub name: SnapshotName,
    /// The volume of the container or data volume that it is a state of.
    pub owner: VolumeId,
    /// What holds the state.
    pub volume: VolumeRecord,
}

/// A volume that is promised to go, with what is known of the tries so far.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RemovalRecord {
    /// The volume, in [`VolumeState::Deleting`].
    pub volume: VolumeRecord,
    /// What its container was called; others may have the name now.
    pub name: Option<ContainerName>,
    /// When it was promised.
    pub since: Timestamp,
    /// How many tries did not come to the end.
    pub attempts: u64,
    /// When the next one is due.
    pub next_try: Timestamp,
    /// Whether some of it may be gone, so that it cannot be taken back.
    pub is_final: bool,
}

/// What a pool has promised, in whole blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Committed {
    /// The full size of every container, and of what is being made or removed: all that a
    /// writer may come to fill.
    pub writable: Bytes,
    /// What bases, layers and snapshots had mapped when they were sealed or taken; shared blocks count
    /// once a volume.
    pub sealed: Bytes,
}

/// How much of everything there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Images.
    pub nr_images: u64,
    /// Base volumes that are ready.
    pub nr_bases: u64,
    /// Layers that are sealed.
    pub nr_layers: u64,
    /// Containers that are ready.
    pub nr_containers: u64,
    /// Containers that are ready and active.
    pub nr_active: u64,
    /// Snapshots that are ready.
    pub nr_snapshots: u64,
    /// Data volumes that are ready.
    pub nr_data: u64,
    /// Volumes of any kind in state creating.
    pub nr_creating: u64,
    /// Volumes of any kind in state deleting.
    pub nr_deleting: u64,
    /// The sizes of containers in state creating or ready, together.
    pub containers_size: Bytes,
    /// The same of data volumes.
    pub data_size: Bytes,
}
