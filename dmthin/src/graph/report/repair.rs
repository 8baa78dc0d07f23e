//! What a repair came to.

use std::path::PathBuf;

use serde::Serialize;

use crate::graph::lossy;
use crate::ids::{ContainerName, PoolName, TransactionId, VolumeId, VolumeKind};
use crate::units::Bytes;

/// A copy of a pool's metadata that was taken.
#[derive(Debug, Clone, Serialize)]
pub struct MetadataCopy {
    /// The pool.
    pub name: PoolName,
    /// Where it is.
    #[serde(serialize_with = "lossy::path")]
    pub copy: PathBuf,
    /// How much of the host it takes.
    pub bytes: Bytes,
    /// The pool's transaction id in it.
    pub transaction_id: TransactionId,
    /// Older ones that were removed.
    #[serde(serialize_with = "lossy::list")]
    pub removed: Vec<PathBuf>,
}

/// What `pool repair` came to.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// The pool.
    pub name: PoolName,
    /// The metadata as they were.
    #[serde(serialize_with = "lossy::path")]
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
    /// They are built anew from a copy.
    Restored,
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
