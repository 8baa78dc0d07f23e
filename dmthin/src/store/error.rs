//! What can go wrong with a catalogue.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::ids::{
    ContainerName, Digest, IdError, ImageId, ImageRef, SnapshotName, TransactionId, VolumeId,
    VolumeName, WritableName,
};
use crate::store::state::{PoolState, VolumeState};
use crate::units::Bytes;

/// Why the catalogue did not do as told. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no catalogue; opening never makes one.
    #[error("there is no catalogue at {}: is the pool's name right?", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a catalogue already.
    #[error("there is a catalogue at {} already: choose another pool name or destroy that pool", path.display())]
    CatalogueExists {
        /// Where it is.
        path: PathBuf,
    },
    /// The file is damaged, or is no catalogue at all.
    #[error("the catalogue {} is damaged: {corruption}; restore it from a copy", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        corruption: Corruption,
    },
    /// The file was written by a newer version of this library.
    #[error("the catalogue {} has format {found}, this version knows formats up to {supported}: use a newer version", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i32,
        /// The newest format known here.
        supported: i32,
    },
    /// Another process held the write lock for longer than a writer waits.
    #[error("the catalogue {} is locked by another process: try again", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The host file system under the catalogue is full.
    #[error("no space left for the catalogue {}: free some on its file system", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// A call on the file failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The database engine failed in a way no other variant names.
    #[error("the catalogue {} cannot be used: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the engine says.
        #[source]
        source: Box<rusqlite::Error>,
    },
    /// A number that the format has no room for.
    #[error("{what} of {value} is more than the catalogue can hold (2^63 - 1)")]
    TooLarge {
        /// What the number is.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A device path that is not UTF-8; the format keeps paths as text.
    #[error("the device path {path:?} is not UTF-8: use another link to the device")]
    PathNotUtf8 {
        /// The path.
        path: PathBuf,
    },

    /// A pool does not go from one of these states to the other.
    #[error("the pool is {from} and cannot become {to}")]
    PoolTransition {
        /// Its state.
        from: PoolState,
        /// The state asked for.
        to: PoolState,
    },
    /// The pool is being taken apart and takes no new volume.
    #[error("the pool is being destroyed: it takes no new volume")]
    PoolDestroying,
    /// A generation was begun or confirmed that does not follow the recorded one.
    #[error(
        "generation {found} does not belong to this catalogue, which is at {generation}{}: the pool \
         or the catalogue was swapped or restored",
        pending_text(*pending)
    )]
    Generation {
        /// The generation given.
        found: TransactionId,
        /// The recorded one.
        generation: TransactionId,
        /// The one under way, if any.
        pending: Option<TransactionId>,
    },

    /// There is no such volume.
    #[error("there is no volume {id}")]
    VolumeNotFound {
        /// The volume asked for.
        id: VolumeId,
    },
    /// A volume does not go from one of these states to the other.
    #[error("volume {id} is {from} and cannot {}", step_text(*to))]
    VolumeTransition {
        /// The volume.
        id: VolumeId,
        /// Its state.
        from: VolumeState,
        /// The state asked for; `None` to be forgotten.
        to: Option<VolumeState>,
    },
    /// A volume that must be ready is not.
    #[error("volume {id} is {state}, not ready")]
    VolumeNotReady {
        /// The volume.
        id: VolumeId,
        /// Its state.
        state: VolumeState,
    },
    /// A volume is needed by others.
    #[error("volume {id} is in use by {}", users_text(children, images))]
    InUse {
        /// The volume.
        id: VolumeId,
        /// Its live snapshots.
        children: Vec<VolumeId>,
        /// The images it is a layer of.
        images: Vec<ImageId>,
    },
    /// A volume would be smaller than what it holds.
    #[error("a size of {size} is too small: it takes at least {least}")]
    TooSmall {
        /// The size asked for.
        size: Bytes,
        /// The smallest one.
        least: Bytes,
    },
    /// A sealed base or layer never changes.
    #[error("volume {id} is sealed and keeps its size")]
    Sealed {
        /// The volume.
        id: VolumeId,
    },
    /// A layer becomes ready by being sealed only.
    #[error("volume {id} is a layer: it becomes ready when it is sealed")]
    LayerNotSealed {
        /// The volume.
        id: VolumeId,
    },
    /// Another base of the same file system and size is ready.
    #[error("volume {volume} is the base of that file system and size already")]
    BaseExists {
        /// That base.
        volume: VolumeId,
    },
    /// All thin ids that the pool may give out were given out once.
    #[error("the pool's thin device ids are spent")]
    ThinIdsSpent,
    /// There is a ballast already.
    #[error("the pool has a ballast already")]
    BallastExists,
    /// There is no ballast.
    #[error("the pool has no ballast")]
    BallastNotFound,

    /// The volume is no layer, or not one that is being made.
    #[error("volume {id} is no layer")]
    NotALayer {
        /// The volume.
        id: VolumeId,
    },
    /// Some of a removed volume may be gone already.
    #[error("the removal of volume {id} cannot be taken back: its space is being given back")]
    RemovalFinal {
        /// The volume.
        id: VolumeId,
    },
    /// The image of a removed container is gone.
    #[error("the removal of volume {id} cannot be taken back: its image was removed")]
    RemovalOrphan {
        /// The volume.
        id: VolumeId,
    },
    /// Another volume holds that stack of layers.
    #[error("volume {volume} holds the layer {chain_id} already")]
    LayerExists {
        /// The stack's digest.
        chain_id: Digest,
        /// The volume that holds it, ready.
        volume: VolumeId,
    },
    /// A layer was to be put on another layer than the one it is made for.
    #[error("volume {id} is a snapshot of {}, its layer goes on {}", chain_text(*found), chain_text(*expected))]
    Lineage {
        /// The volume.
        id: VolumeId,
        /// The chain id the layer goes on.
        expected: Option<Digest>,
        /// The chain id of the volume's parent.
        found: Option<Digest>,
    },

    /// There is no such image.
    #[error("there is no image {name:?}")]
    ImageNotFound {
        /// The name or digest asked for.
        name: String,
    },
    /// Several images begin with these digits.
    #[error("{name:?} fits {} images: write more digits", images.len())]
    ImageAmbiguous {
        /// The digits.
        name: String,
        /// The images they fit.
        images: Vec<Digest>,
    },
    /// No layer has these digits, and no image of that name has a layer.
    #[error("there is no layer {name:?}, and no image of that name with one")]
    LayerNotFound {
        /// What was asked for.
        name: String,
    },
    /// Several layers begin with these digits, or have one diff id.
    #[error("{name:?} fits {} layers: write more digits, or one of their chain ids", layers.len())]
    LayerAmbiguous {
        /// The digits.
        name: String,
        /// The chain ids of those they fit.
        layers: Vec<Digest>,
    },
    /// The image has containers.
    #[error(
        "the image is in use by {}: remove them first",
        containers_text(containers)
    )]
    ImageInUse {
        /// Those, sorted.
        containers: Vec<ContainerName>,
    },
    /// The same config was recorded with other layers: the file lies about one of them.
    #[error("the image {config_digest} is recorded with other layers")]
    ImageDiffers {
        /// The config's digest.
        config_digest: Digest,
    },
    /// An image without layers has nothing a container could be a snapshot of.
    #[error("the image {config_digest} has no layers: a container needs one")]
    ImageEmpty {
        /// The image.
        config_digest: Digest,
    },
    /// No image goes by that name.
    #[error("no image goes by the name {name}")]
    NameNotFound {
        /// The name, with its tag.
        name: ImageRef,
    },
    /// It is the image's only name: the image itself is to be removed.
    #[error("{name} is the only name of its image: remove the image instead")]
    LastName {
        /// The name, with its tag.
        name: ImageRef,
        /// Its image.
        image: ImageId,
    },
    /// A name that has no room for its tag.
    #[error("the image name cannot be used: {source}")]
    ImageName {
        /// Why not.
        #[source]
        source: IdError,
    },

    /// The name is taken.
    #[error("there is a container {name} already: choose another name or remove it")]
    ContainerExists {
        /// The name.
        name: ContainerName,
    },
    /// There is no such container.
    #[error("there is no container {name}")]
    ContainerNotFound {
        /// The name asked for.
        name: ContainerName,
    },
    /// The name is taken.
    #[error("there is a volume {name} already: choose another name or remove it")]
    DataVolumeExists {
        /// The name.
        name: VolumeName,
    },
    /// There is no such data volume.
    #[error("there is no volume {name}")]
    DataVolumeNotFound {
        /// The name asked for.
        name: VolumeName,
    },
    /// The name is taken among the snapshots of one container or data volume.
    #[error("{} {of} has a snapshot {name} already: choose another name or remove it", of.noun())]
    SnapshotExists {
        /// Whose.
        of: WritableName,
        /// The name.
        name: SnapshotName,
    },
    /// There is no such snapshot of that container or data volume.
    #[error("{} {of} has no snapshot {name}", of.noun())]
    SnapshotNotFound {
        /// Whose.
        of: WritableName,
        /// The name asked for.
        name: SnapshotName,
    },
    /// A container or data volume whose snapshots would go with it.
    #[error("{} {of} has {}: remove them first, or with it", of.noun(), snapshots_text(snapshots))]
    HasSnapshots {
        /// Which.
        of: WritableName,
        /// Those, the oldest first.
        snapshots: Vec<SnapshotName>,
    },
}

fn pending_text(pending: Option<TransactionId>) -> String {
    pending.map_or_else(String::new, |id| format!(" with {id} pending"))
}

fn step_text(to: Option<VolumeState>) -> String {
    to.map_or_else(
        || "be forgotten".to_owned(),
        |state| format!("become {state}"),
    )
}

fn chain_text(chain: Option<Digest>) -> String {
    chain.map_or_else(|| "the base".to_owned(), |chain| chain.to_string())
}

fn list<T: fmt::Display>(what: &str, items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    format!("{what} {}", items.join(", "))
}

fn containers_text(containers: &[ContainerName]) -> String {
    list("container", containers)
}

fn snapshots_text(snapshots: &[SnapshotName]) -> String {
    list("snapshot", snapshots)
}

fn users_text(children: &[VolumeId], images: &[ImageId]) -> String {
    match (children, images) {
        (children, []) => list("volume", children),
        ([], images) => list("image", images),
        (children, images) => format!("{}, {}", list("volume", children), list("image", images)),
    }
}

/// What is wrong with a damaged catalogue. Opaque: for the screen, not to branch on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption(pub(super) CorruptionKind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CorruptionKind {
    /// Not a file.
    NotAFile,
    /// No database, or one whose header is gone.
    NotADatabase,
    /// Somebody else's database, or an empty file.
    NotACatalogue { application_id: i32 },
    /// The engine met a page that makes no sense.
    Malformed,
    /// The engine's own check, line by line.
    Check(Vec<String>),
    /// Rows that refer to rows which are not there.
    DanglingReference { table: String, nr_rows: u64 },
    /// The one row of `pool` is not there.
    NoPoolRow,
    /// A value that no version writes.
    Cell {
        table: &'static str,
        column: &'static str,
        found: String,
    },
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            CorruptionKind::NotAFile => f.write_str("it is not a file"),
            CorruptionKind::NotADatabase => f.write_str("it is not a database"),
            CorruptionKind::NotACatalogue { application_id } => {
                write!(
                    f,
                    "it is no catalogue (application id {application_id:#010x})"
                )
            }
            CorruptionKind::Malformed => f.write_str("a page of it makes no sense"),
            CorruptionKind::Check(lines) => f.write_str(&lines.join("; ")),
            CorruptionKind::DanglingReference { table, nr_rows } => {
                write!(
                    f,
                    "{table} refers to rows that are not there, {nr_rows} times"
                )
            }
            CorruptionKind::NoPoolRow => f.write_str("it does not say which pool it is of"),
            CorruptionKind::Cell {
                table,
                column,
                found,
            } => {
                write!(f, "{table}.{column} holds {found}")
            }
        }
    }
}

/// An error inside a transaction, before the file it happened in is known.
#[derive(Debug)]
pub(super) enum Fault {
    /// The engine's.
    Engine(rusqlite::Error),
    /// The file's.
    Damage(CorruptionKind),
    /// The caller's.
    Refused(StoreError),
}

/// What happens inside a transaction.
pub(super) type Outcome<T> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl Fault {
    /// The error for the user, now that the file is known.
    pub(super) fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        let corrupt = |kind| StoreError::Corrupt {
            path: path.clone(),
            corruption: Corruption(kind),
        };
        let engine = match self {
            Self::Refused(error) => return error,
            Self::Damage(kind) => return corrupt(kind),
            Self::Engine(engine) => engine,
        };
        let code = engine.sqlite_error();
        match code.map(|e| e.code) {
            Some(ErrorCode::NotADatabase) => corrupt(CorruptionKind::NotADatabase),
            Some(ErrorCode::DatabaseCorrupt) => corrupt(CorruptionKind::Malformed),
            Some(ErrorCode::SystemIoFailure)
                if code
                    .is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ) =>
            {
                corrupt(CorruptionKind::Malformed)
            }
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed,
            ) => StoreError::Busy { path },
            Some(ErrorCode::DiskFull) => StoreError::NoSpace { path },
            _ => StoreError::Database {
                path,
                source: Box::new(engine),
            },
        }
    }
}
