//! Images and their layers.

use serde::Serialize;

use crate::graph::report::Change;
use crate::ids::{ContainerName, Digest, ImageRef, ThinId, VolumeId};
use crate::units::Bytes;

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
