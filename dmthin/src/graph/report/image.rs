//! Images and their layers.

use serde::Serialize;

use crate::graph::report::Change;
use crate::ids::{ContainerName, Digest, ImageRef, ThinId, VolumeId};
use crate::image::{ImageConfig, LayerWritten};
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

/// What a commit made.
#[derive(Debug, Clone, Serialize)]
pub struct CommitReport {
    /// The image: digest of its configuration.
    pub id: Digest,
    /// Names it goes by now.
    pub names: Vec<ImageRef>,
    /// Whether the image was new.
    pub change: Change,
    /// Its top layer, by chain id; none of an image without layers.
    pub chain_id: Option<Digest>,
    /// What the new layer changed, by its diff id; none where no file changed.
    pub diff_id: Option<Digest>,
    /// Whether that layer was there already.
    pub shared: bool,
    /// Bytes of the layer's uncompressed archive.
    pub size: Bytes,
    /// Entries in it.
    pub entries: u64,
    /// What no layer can say, and so no export has.
    pub warnings: Vec<String>,
}

/// What was exported.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// The image: digest of its configuration.
    pub id: Digest,
    /// Names it goes by in the archive.
    pub names: Vec<ImageRef>,
    /// Diff ids of its layers, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes of the archive.
    pub bytes: Bytes,
}

/// A layer's tar that was written.
#[derive(Debug, Clone, Serialize)]
pub struct WrittenLayer {
    /// Its digest.
    pub diff_id: Digest,
    /// Its length.
    pub size: Bytes,
    /// Entries in it.
    pub entries: u64,
    /// What no layer can say, and so is not in it.
    pub warnings: Vec<String>,
}

impl WrittenLayer {
    pub(crate) fn new(written: &LayerWritten) -> Self {
        let mut warnings = Vec::new();
        let mut warn = |n: u64, what: &str| {
            if n > 0 {
                warnings.push(format!(
                    "{n} {what}: no layer can say that, and no export has it"
                ));
            }
        };
        warn(written.sockets, "sockets");
        warn(written.unsayable_names, "names that begin with .wh.");
        let of_root = u64::from(written.root_lost_xattr);
        warn(of_root, "extended attribute or more that the root lost");
        Self {
            diff_id: written.diff_id,
            size: written.tar_bytes,
            entries: written.entries,
            warnings,
        }
    }
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
    /// Images without a name that it was built on, and that went with it.
    pub parents: Vec<Digest>,
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

/// What pruning took away.
#[derive(Debug, Clone, Serialize)]
pub struct PrunedImages {
    /// Images, by the digests of their configurations.
    pub images: Vec<Digest>,
    /// Layers that nothing else needed and that went with them.
    pub layers_removed: u64,
}

/// What `image inspect` tells.
#[derive(Debug, Clone, Serialize)]
pub struct ImageDetails {
    /// As `image list` tells it.
    #[serde(flatten)]
    pub image: ImageReport,
    /// Digest of the manifest it was imported by, where it had one.
    pub manifest: Option<Digest>,
    /// Its configuration, as it stands.
    #[serde(serialize_with = "as_document")]
    pub config: ImageConfig,
}

/// The document itself: it may say more than we read of it.
fn as_document<S: serde::Serializer>(config: &ImageConfig, out: S) -> Result<S::Ok, S::Error> {
    let document: serde_json::Value =
        serde_json::from_slice(&config.json).map_err(serde::ser::Error::custom)?;
    document.serialize(out)
}

/// A layer with its place among the others, for `layer list` and `layer inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct StackedLayer {
    /// The layer.
    #[serde(flatten)]
    pub layer: LayerReport,
    /// Chain id of the layer below it.
    pub parent: Option<Digest>,
    /// Chain ids of the layers that stand on it.
    pub children: Vec<Digest>,
    /// Images whose top layer it is: their names, or their id where they have none.
    pub images: Vec<String>,
    /// Containers that stand on it.
    pub containers: Vec<ContainerName>,
    /// Size of its volume.
    pub volume_size: Bytes,
    /// What its volume has mapped, with what it shares, where that was measured.
    pub mapped: Option<Bytes>,
    /// When it was made, in seconds since 1970.
    pub created_at: u64,
}
