//! What can go wrong with a verb, and what to tell the caller to do.

mod existing;
mod guard;
mod rebuild;

use std::io;
use std::path::{Path, PathBuf};

use crate::backing::BackingError;
use crate::delta::DeltaError;
use crate::dm::DmError;
use crate::fs::{FsError, Holder};
use crate::graph::pairing::PairingError;
use crate::graph::words::{held_by, holders, in_block, join, things};
use crate::ids::{ContainerName, DevNo, Digest, PoolName, TransactionId, VolumeId, VolumeName};
use crate::image::ImageError;
use crate::ioctl::IoctlError;
use crate::label::{CopyError, LabelError};
use crate::store::StoreError;
use crate::thinmeta::ReadError;
use crate::units::{BlockSize, Bytes, MetaBlocks};

pub use existing::ExistingError;
pub use guard::GuardError;
pub use rebuild::RebuildError;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The host's file system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// No sealed layer of this chain id.
    #[error("no layer {chain_id} in the pool")]
    LayerNotFound {
        /// What was asked for.
        chain_id: Digest,
    },
    /// A layer that has no record of its tar, as one that came from another host with its disk, and whose files do not
    /// give that: it was not written by us, or not in the order that we write.
    #[error(
        "there is no record of the tar of layer {diff_id}, and its files do not give it: it was imported elsewhere, or \
         by a version without, or what was beside the catalogue is lost"
    )]
    LayerNotRecorded {
        /// The layer.
        diff_id: Digest,
    },
    /// Layers that are not what they were when they were sealed.
    #[error("{count} of the layers are not what they were when they were sealed")]
    LayersChanged {
        /// How many.
        count: usize,
    },
    /// A lock, a loop or a block device.
    #[error(transparent)]
    Ioctl(#[from] IoctlError),
    /// A dm device.
    #[error(transparent)]
    Dm(#[from] DmError),
    /// The catalogue.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file system in a volume.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Two volumes that cannot be compared.
    #[error("cannot tell what differs")]
    Delta(#[from] DeltaError),
    /// A file or a device below the pool.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// An image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An archive that holds no image we can import.
    #[error("{name} cannot be imported")]
    Archive {
        /// The file, or that it was a stream.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// A layer's archive, with the layer it is of.
    #[error("layer {index} of {layers} ({diff_id})")]
    Layer {
        /// Its place, from 1.
        index: u64,
        /// Of how many.
        layers: u64,
        /// Which.
        diff_id: crate::ids::Digest,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// The superblock of the pool's metadata.
    #[error("the metadata of pool {pool} on {} cannot be used", path.display())]
    Metadata {
        /// Whose.
        pool: PoolName,
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ReadError,
    },

    /// There is too little room for anything new.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A thin-pool of somebody else's cannot be used, or not for that.
    #[error(transparent)]
    Existing(#[from] ExistingError),
    /// The copy of the catalogue in the pool is not kept, or not used.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The catalogue is not the pool's, or not its latest.
    #[error(transparent)]
    Pairing(#[from] PairingError),

    /// The kernel has a device mapper, but no thin pools.
    #[error("this kernel has no thin-pool target: load it with `modprobe dm-thin-pool`")]
    NoThinPool,

    /// There is no pool at all.
    #[error("there is no pool under {}", root.display())]
    NoPool {
        /// Where we looked.
        root: PathBuf,
    },
    /// There are several, and none was named.
    #[error("there are {} pools ({}): name one", names.len(), join(names))]
    SeveralPools {
        /// Which.
        names: Vec<PoolName>,
    },
    /// No pool of this name.
    #[error("there is no pool {name} under {}", root.display())]
    PoolNotFound {
        /// The name.
        name: PoolName,
        /// Where we looked.
        root: PathBuf,
    },
    /// A pool of this name is there already, or something in its place.
    #[error("pool {name} exists already: {} is there", path.display())]
    PoolExists {
        /// The name.
        name: PoolName,
        /// What is in the way.
        path: PathBuf,
    },
    /// `pool create` or `pool destroy` was cut in the middle.
    #[error("pool {name} is half made or half destroyed")]
    PoolHalfMade {
        /// The name.
        name: PoolName,
    },
    /// The making of a container was cut in the middle.
    #[error("container {name} is half made: its making was cut")]
    ContainerHalfMade {
        /// The container.
        name: ContainerName,
        /// Its pool.
        pool: PoolName,
    },
    /// The verb needs the pool's device.
    #[error("pool {name} is not open: run `pool-cli pool open {name}`")]
    PoolNotOpen {
        /// The name.
        name: PoolName,
    },
    /// What is asked cannot be told of a pool that is open.
    #[error("pool {name} is open: the kernel has its metadata")]
    PoolOpen {
        /// The name.
        name: PoolName,
    },
    /// Volumes of the pool are in use.
    #[error("pool {name} is in use by {}", join(users))]
    PoolBusy {
        /// The name.
        name: PoolName,
        /// Containers and devices, each with what holds it.
        users: Vec<String>,
    },
    /// The pool's uuid lives on devices of another kind than the catalogue says.
    #[error("pool {name} has a block size of {}, its catalogue says {}: these are not its files", found.to_bytes(), expected.to_bytes())]
    BlockSizeMismatch {
        /// The pool.
        name: PoolName,
        /// In the superblock.
        found: BlockSize,
        /// In the catalogue.
        expected: BlockSize,
    },
    /// The pool's metadata is all zeros.
    #[error("the metadata of pool {name} on {} has no superblock: it was never formatted", path.display())]
    Unformatted {
        /// The pool.
        name: PoolName,
        /// Where.
        path: PathBuf,
    },
    /// Containers of another pool could have the names of its devices.
    #[error(
        "{name} is no name for a new pool: its devices could not be told from containers or volumes of \
         another's"
    )]
    AmbiguousName {
        /// The name.
        name: PoolName,
    },
    /// The pool was written to by somebody else, or one of the two was restored from a copy.
    #[error(
        "pool {name} is at transaction {found}, its catalogue at {expected}: one of them was \
         swapped, restored or changed by another tool"
    )]
    TransactionMismatch {
        /// The pool.
        name: PoolName,
        /// In the superblock.
        found: TransactionId,
        /// In the catalogue.
        expected: TransactionId,
        /// The directory of what is known of it here.
        dir: PathBuf,
        /// The disk that it lies on whole, and may have been opened on elsewhere.
        disk: Option<PathBuf>,
    },
    /// The pool's metadata does not take a write.
    #[error("pool {name} is {mode}{}", if *needs_check { " and needs a check" } else { "" })]
    PoolDegraded {
        /// The pool.
        name: PoolName,
        /// Its mode, as the kernel calls it.
        mode: String,
        /// Whether the needs_check flag is set.
        needs_check: bool,
    },
    /// A block device that is not as large as the pool is to be.
    #[error("{} has {found}, less than {asked}", path.display())]
    DeviceShort {
        /// The device.
        path: PathBuf,
        /// Its size.
        found: Bytes,
        /// What the pool is to have of it.
        asked: Bytes,
    },
    /// A size that cannot be.
    #[error("a {what} of {size} is too small: it takes at least {least}")]
    TooSmall {
        /// Of what.
        what: &'static str,
        /// Asked for.
        size: Bytes,
        /// The least.
        least: Bytes,
    },
    /// A size that cannot be.
    #[error("a {what} of {size} is too large: it takes at most {most}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// Asked for.
        size: Bytes,
        /// The most.
        most: Bytes,
    },
    /// Data and metadata on one device.
    #[error("data and metadata are the same device, {device} ({})", path.display())]
    SameDevice {
        /// As it was given.
        path: PathBuf,
        /// Its number.
        device: DevNo,
    },
    /// A device that holds something.
    #[error("{} holds {what}", path.display())]
    DeviceInUse {
        /// The device.
        path: PathBuf,
        /// What was found on it.
        what: String,
    },
    /// A disk that does not have the pool's label.
    #[error("{} is not the disk of pool {name}: {}", path.display(), match found {
        Some(other) => format!("it has the label of pool {other}"),
        None => "it has no label".to_owned(),
    })]
    OtherDisk {
        /// The pool.
        name: PoolName,
        /// The disk.
        path: PathBuf,
        /// The pool whose label it has.
        found: Option<PoolName>,
    },
    /// A repair was to be from a copy of the metadata.
    #[error("there is no copy of the metadata of pool {name}")]
    NoMetadataCopy {
        /// The pool.
        name: PoolName,
    },
    /// A disk without a label of ours.
    #[error("{} has no label of a pool", path.display())]
    NoLabel {
        /// The disk.
        path: PathBuf,
    },
    /// The copy of the catalogue on a disk.
    #[error("the catalogue's copy on {} cannot be used", path.display())]
    Copy {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CopyError,
    },
    /// A disk's label that cannot be used.
    #[error("{} cannot be used", path.display())]
    Label {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LabelError,
    },
    /// A device smaller than when the pool was made.
    #[error("{} has {found}, pool {name} was made on {expected}", path.display())]
    DeviceShrunk {
        /// The pool.
        name: PoolName,
        /// The device.
        path: PathBuf,
        /// Its size now.
        found: Bytes,
        /// Its size then.
        expected: Bytes,
    },
    /// `check` found something, or `gc` left something.
    #[error("{} found that should not be", things(*found))]
    Findings {
        /// How much.
        found: u64,
    },
    /// Data are lost, or catalogue and pool do not belong together.
    #[error("{} found that no cleaning can mend", things(*found))]
    Damaged {
        /// How much.
        found: u64,
    },
    /// Another tool has the one metadata snapshot that a pool can hold.
    #[error("another tool reads the metadata of pool {name}: it holds their snapshot{}", in_block(*block))]
    MetadataSnapHeld {
        /// The pool.
        name: PoolName,
        /// The snapshot's block; zero where it was not told.
        block: MetaBlocks,
    },
    /// The open pool is not on the file or device that the catalogue names.
    #[error("pool {name} does not have its metadata on {}: they are on device {device}", path.display())]
    BackingElsewhere {
        /// The pool.
        name: PoolName,
        /// As the catalogue says.
        path: PathBuf,
        /// As the pool's table says.
        device: DevNo,
    },
    /// The making of a data volume was cut in the middle.
    #[error("volume {name} is half made: its making was cut")]
    VolumeHalfMade {
        /// The volume.
        name: VolumeName,
        /// Its pool.
        pool: PoolName,
    },
    /// The data volume is mounted, or its device is open.
    #[error("volume {name} is {}", holders(mounts, *open_count))]
    VolumeBusy {
        /// Which.
        name: VolumeName,
        /// Where it is mounted.
        mounts: Vec<PathBuf>,
        /// How many hold its device open.
        open_count: u32,
    },
    /// The container is mounted, or its device is open.
    #[error("container {name} is {}", holders(mounts, *open_count))]
    ContainerBusy {
        /// Which.
        name: ContainerName,
        /// Where it is mounted.
        mounts: Vec<PathBuf>,
        /// How many hold its device open.
        open_count: u32,
    },
    /// It was removed, but somebody holds it still, and was waited for in vain.
    #[error(
        "{name} is removed, but its space is not free: it is held{}",
        held_by(holders)
    )]
    RemovalHeld {
        /// Containers that were, or volumes.
        name: String,
        /// What holds them.
        holders: Vec<Holder>,
    },
    /// Nothing of that name waits to be removed.
    #[error("{what} is not in the queue of removals")]
    RemovalNotFound {
        /// What was asked for.
        what: String,
    },
    /// Several containers that were called so wait to be removed.
    #[error("{} containers called {name} are in the queue of removals: volumes {}", volumes.len(), join(volumes))]
    RemovalAmbiguous {
        /// What they were called.
        name: ContainerName,
        /// Their volumes.
        volumes: Vec<VolumeId>,
    },
    /// A place to mount that is not there.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The place.
        path: PathBuf,
    },
    /// mkfs said it made a file system, and there is none.
    #[error("there is no file system on {} after mkfs: see its arguments", path.display())]
    NoFileSystem {
        /// The device.
        path: PathBuf,
    },
    /// No device of ours goes by this name.
    #[error("there is no device {name} of a pool")]
    DeviceNotFound {
        /// The name.
        name: String,
    },
    /// A graph driver's id that is taken.
    #[error("there is a layer {id} already")]
    IdTaken {
        /// The id.
        id: String,
    },
    /// An image name cannot be given to several images at once.
    #[error("the archive holds {count} images: one name cannot go to all of them")]
    SeveralImages {
        /// How many.
        count: usize,
    },
    /// A step failed, and then undoing what was done before failed too.
    #[error("{cause}; and then undoing it failed: {undo}")]
    Rollback {
        /// Why the verb failed.
        #[source]
        cause: Box<PoolError>,
        /// Why something is left behind.
        undo: Box<PoolError>,
    },
}

impl PoolError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The failure of a verb whose undoing may have failed too.
    pub(crate) fn with_undo(self, undo: Result<(), Self>) -> Self {
        match undo {
            Ok(()) => self,
            Err(undo) => Self::Rollback {
                cause: Box::new(self),
                undo: Box::new(undo),
            },
        }
    }
}
