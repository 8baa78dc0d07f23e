//! How many volumes a pool has, and what each of them takes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::ids::{VolumeId, VolumeKind};
use crate::store::VolumeState;
use crate::units::Bytes;

/// What a volume takes of its pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeUsage {
    /// The volume in the catalogue.
    pub volume: VolumeId,
    /// What it is for.
    pub kind: VolumeKind,
    /// Size of its device.
    pub size: Bytes,
    /// What it has mapped, shared blocks included.
    pub mapped: Bytes,
    /// What it alone has mapped: what would come back if it were removed.
    pub exclusive: Bytes,
}

impl Pool {
    /// What each volume takes, by the pool's metadata, whether it has a device or not. Those that are
    /// not in the pool, or not in the catalogue, are left out.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`]; [`PoolError::MetadataSnapHeld`] where another tool reads the
    /// metadata; [`PoolError::Metadata`] where they are damaged.
    pub fn volume_usage(&self) -> Result<Vec<VolumeUsage>, PoolError> {
        let volumes = self.space()?.volumes.into_iter();
        Ok(volumes.map(|volume| volume.usage).collect())
    }

    /// How many volumes there are of each kind in each state.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn volume_counts(&self) -> Result<BTreeMap<(VolumeKind, VolumeState), u64>, PoolError> {
        let mut counts = BTreeMap::new();
        for kind in VolumeKind::ALL {
            for state in [
                VolumeState::Creating,
                VolumeState::Ready,
                VolumeState::Deleting,
            ] {
                counts.insert((kind, state), 0);
            }
        }
        for volume in self.catalogue().all_volumes()? {
            let count: &mut u64 = counts.entry((volume.kind, volume.state)).or_default();
            *count = count.saturating_add(1);
        }
        Ok(counts)
    }
}
