//! Who takes a pool's room.

use serde::Serialize;

use crate::graph::report::Usage;
use crate::graph::volumes::VolumeUsage;
use crate::ids::{ContainerName, Digest, ImageRef, PoolName, ThinId, VolumeId};
use crate::store::VolumeState;
use crate::units::Bytes;

/// `df -v`: who takes the room of a pool.
#[derive(Debug, Clone, Serialize)]
pub struct SpaceReport {
    /// The pool.
    pub pool: PoolName,
    /// Its data, while it works.
    pub data: Option<Usage>,
    /// What anybody has mapped, each block once.
    pub mapped: Bytes,
    /// The images, in the order they were imported.
    pub images: Vec<ImageSpace>,
    /// The volumes, in the order they were made: the base, layers, containers.
    pub volumes: Vec<VolumeSpace>,
    /// The ballast, if there is one, and what it keeps.
    pub ballast: Option<OwnSpace>,
    /// The copy of the catalogue in the pool, where it has one.
    pub mirror: Option<OwnSpace>,
    /// Thin devices in the pool that the catalogue does not know.
    pub others: Vec<OtherSpace>,
}

/// What an image takes: its layers together, each block once.
#[derive(Debug, Clone, Serialize)]
pub struct ImageSpace {
    /// Digest of its configuration.
    pub id: Digest,
    /// Names it goes by.
    pub names: Vec<ImageRef>,
    /// Containers made from it.
    pub containers: Vec<ContainerName>,
    /// What its layers have mapped.
    pub mapped: Bytes,
    /// Of that, what no other image has, nor the base. Containers do not count.
    pub exclusive: Bytes,
    /// The rest.
    pub shared: Bytes,
    /// What comes back if it is removed, with the layers that only it needs; none while there are
    /// containers of it, for then it is not removed.
    pub freed: Option<Bytes>,
}

/// What a volume takes.
#[derive(Debug, Clone, Serialize)]
pub struct VolumeSpace {
    /// What it has, and what it has alone.
    #[serde(flatten)]
    pub usage: VolumeUsage,
    /// What others have too.
    pub shared: Bytes,
    /// What comes back if it is removed; none of what goes only with an image.
    pub freed: Option<Bytes>,
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// How far it is.
    pub state: VolumeState,
    /// The volume it is a snapshot of.
    pub parent: Option<VolumeId>,
    /// A container's name; none once it is removed.
    pub name: Option<String>,
    /// A layer's digest of its uncompressed archive.
    pub diff_id: Option<Digest>,
    /// Of a container the image it was made from, of a layer those that it is the top of.
    pub images: Vec<String>,
}

/// What a device takes that is no volume: the ballast, the copy of the catalogue.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OwnSpace {
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// What it has mapped.
    pub mapped: Bytes,
}

/// What a thin device takes that is in no catalogue.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct OtherSpace {
    /// Its id in the pool.
    pub thin_id: ThinId,
    /// What it has mapped.
    pub mapped: Bytes,
    /// Of that, what it has alone.
    pub exclusive: Bytes,
}
