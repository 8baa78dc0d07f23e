//! The ways to compare two snapshots, the fastest first.
//!
//! ```text
//! blocks   the pool says which blocks changed; only those are read, and all of them are accounted for
//! inodes   the tables of inodes are compared whole; what changed without its inode is not seen
//! walk     both trees are walked, everything is read
//! ```
//! A block that changed and that nothing accounts for leads straight to the walk: the inodes do not tell of it.

use std::fmt;

use crate::delta::candidates::{Candidates, Pair};
use crate::delta::changes::changes;
use crate::delta::ext4::{Ext4, Pieces, Side};
use crate::delta::walk::walk;
use crate::delta::{Change, DeltaError, Refusal};
use crate::fs::DetachedMount;
use crate::thinmeta::{ChangedRun, ReadAt};
use crate::units::BlockSize;

/// How two snapshots were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rung {
    /// By the blocks that changed, all of which are accounted for.
    Blocks,
    /// By all inodes.
    Inodes,
    /// By walking both trees and reading every file.
    Walk,
}

impl Rung {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Inodes => "inodes",
            Self::Walk => "walk",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A way that was not taken, and why.
#[derive(Debug, Clone)]
pub struct NotTaken {
    /// Which.
    pub rung: Rung,
    /// Why.
    pub why: Refusal,
}

/// What a comparison took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiffStats {
    /// Blocks of the pool's metadata that were read, to know what changed.
    pub metadata_nodes: u64,
    /// Reads of the two devices, of 1 MiB at most each.
    pub data_reads: u64,
    /// Pairs of inodes that were compared.
    pub inodes_compared: u64,
    /// Inodes that may have changed.
    pub inodes_changed: u64,
}

/// What differs between two snapshots.
#[derive(Debug, Clone)]
pub struct Diff {
    /// In the order of their paths.
    pub changes: Vec<Change>,
    /// How they were compared.
    pub rung: Rung,
    /// The faster ways, and why they were not taken.
    pub not_taken: Vec<NotTaken>,
    /// What it took.
    pub stats: DiffStats,
}

/// Two snapshots that nobody writes to.
pub struct Sides<'a> {
    /// The older one's device, read past the page cache.
    pub old: &'a dyn ReadAt,
    /// The newer one's.
    pub new: &'a dyn ReadAt,
    /// The blocks that the pool has otherwise for them, or why that is not known.
    pub changed: Result<Vec<ChangedRun>, Refusal>,
    /// The pool's unit of allocation.
    pub unit: BlockSize,
}

impl fmt::Debug for Sides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sides")
            .field("changed", &self.changed)
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}

/// Compares two snapshots in the fastest way that is exact; `mount` gives their trees, the older one first,
/// where there is none but the walk.
///
/// # Errors
/// Those of `mount`, and [`DeltaError`] of the walk.
pub fn diff<E: From<DeltaError>>(
    sides: &Sides<'_>,
    mount: impl FnOnce() -> Result<[DetachedMount; 2], E>,
) -> Result<Diff, E> {
    let not_taken = match by_devices(sides) {
        Ok(diff) => return Ok(diff),
        Err(not_taken) => not_taken,
    };
    let [old, new] = mount()?;
    Ok(Diff {
        changes: walk(old.root(), new.root())?,
        rung: Rung::Walk,
        not_taken,
        stats: DiffStats::default(),
    })
}

/// As [`diff`], as far as that goes without a mount.
///
/// # Errors
/// Why each of the ways is not taken.
pub fn by_devices(sides: &Sides<'_>) -> Result<Diff, Vec<NotTaken>> {
    let mut not_taken = Vec::new();
    let both = |why: &Refusal| {
        let not_taken = |rung| NotTaken {
            rung,
            why: why.clone(),
        };
        [Rung::Blocks, Rung::Inodes].map(not_taken)
    };
    let pair = match open(sides) {
        Ok(pair) => pair,
        Err(why) => return Err(both(&why).into()),
    };
    let (rung, found) = match &sides.changed {
        Ok(runs) => (Rung::Blocks, Candidates::of_blocks(&pair, runs, sides.unit)),
        Err(why) => {
            not_taken.push(NotTaken {
                rung: Rung::Blocks,
                why: why.clone(),
            });
            (Rung::Inodes, Candidates::of_tables(&pair))
        }
    };
    let found = found.and_then(|candidates| Ok((changes(&pair, &candidates)?, candidates)));
    match found {
        Ok((changes, candidates)) => Ok(Diff {
            changes,
            rung,
            not_taken,
            stats: DiffStats {
                data_reads: pair
                    .old
                    .disk()
                    .reads()
                    .saturating_add(pair.new.disk().reads()),
                metadata_nodes: 0,
                inodes_compared: candidates.compared,
                inodes_changed: u64::try_from(candidates.inodes.len()).unwrap_or(u64::MAX),
            },
        }),
        Err(why) if rung == Rung::Blocks => Err(both(&why).into()),
        Err(why) => {
            not_taken.push(NotTaken { rung, why });
            Err(not_taken)
        }
    }
}

pub(super) fn open<'a>(sides: &Sides<'a>) -> Result<Pair<'a>, Refusal> {
    let pieces = Pieces::new(sides.changed.as_deref().ok(), sides.unit);
    let pair = Pair {
        old: Ext4::open(sides.old, Side::Old, &pieces)?,
        new: Ext4::open(sides.new, Side::New, &pieces)?,
    };
    pair.old.require_like(&pair.new).map(|()| pair)
}
