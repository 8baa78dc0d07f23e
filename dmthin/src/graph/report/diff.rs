//! What differs between two volumes.

use std::path::PathBuf;

use serde::Serialize;

use crate::delta::{ChangeKind, Diff, DiffStats, NotTaken, Rung};
use crate::graph::lossy;
use crate::ids::{ContainerName, Digest};

/// What a container changed of its image.
#[derive(Debug, Clone, Serialize)]
pub struct DiffReport {
    /// The container.
    pub name: ContainerName,
    /// What differs.
    #[serde(flatten)]
    pub differences: Differences,
}

/// What differs between two layers.
#[derive(Debug, Clone, Serialize)]
pub struct LayersDiff {
    /// The older one, by its chain id.
    pub older: Digest,
    /// The newer one.
    pub newer: Digest,
    /// What differs.
    #[serde(flatten)]
    pub differences: Differences,
}

/// What differs between two volumes, and how that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Differences {
    /// How both were compared.
    pub rung: Rung,
    /// The faster ways, and why they were not taken.
    pub not_taken: Vec<RungNotTaken>,
    /// What it took.
    pub stats: DiffStats,
    /// Every path that differs, in the order of the paths.
    pub changes: Vec<PathChange>,
}

/// A faster way that was not taken.
#[derive(Debug, Clone, Serialize)]
pub struct RungNotTaken {
    /// Which.
    pub rung: Rung,
    /// Why, in words.
    pub why: String,
}

/// A path and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct PathChange {
    /// From the root.
    #[serde(serialize_with = "lossy::path")]
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
}

impl From<Diff> for Differences {
    fn from(diff: Diff) -> Self {
        let not_taken = diff.not_taken.into_iter();
        let changes = diff.changes.into_iter();
        Self {
            rung: diff.rung,
            not_taken: not_taken
                .map(|NotTaken { rung, why }| RungNotTaken {
                    rung,
                    why: why.to_string(),
                })
                .collect(),
            stats: diff.stats,
            changes: changes
                .map(|change| PathChange {
                    path: PathBuf::from("/").join(change.path),
                    kind: change.kind,
                })
                .collect(),
        }
    }
}
