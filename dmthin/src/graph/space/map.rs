//! Where in the pool's data the blocks of each volume lie.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::dm::PoolStatus;
use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::report::SpaceReport;
use crate::ids::ThinId;
use crate::thinmeta::Owned;
use crate::units::{BlockSize, Bytes, DataBlocks};

/// The data of a pool in cells of equal size, from the first block to the last.
#[derive(Debug, Clone, Serialize)]
pub struct BlockMap {
    /// Who there is, with names and numbers.
    pub space: SpaceReport,
    /// The pool's unit of allocation.
    pub block_size: Bytes,
    /// All of its data.
    pub total: Bytes,
    /// The cells, each of which has as many blocks as any other, or one more.
    pub cells: Vec<MapCell>,
    /// Who has blocks, by thin id. A block of several belongs to the first of them: to the base or the
    /// layer that it came with.
    pub owners: Vec<MapOwner>,
}

/// Blocks that follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MapCell {
    /// How many.
    pub blocks: u64,
    /// Of these, how many are mapped.
    pub mapped: u64,
    /// Who has most of them, if anybody has any.
    pub owner: Option<ThinId>,
    /// Whether most of that owner's have others too.
    pub shared: bool,
}

/// What is called somebody's in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MapOwner {
    /// Whose.
    pub thin_id: ThinId,
    /// What nobody else has.
    pub own: Bytes,
    /// What others have too.
    pub shared: Bytes,
}

/// Blocks of an owner: its own, shared ones.
type Counts = [u64; 2];

/// Puts blocks into cells.
struct Cells {
    total: u64,
    cells: Vec<BTreeMap<ThinId, Counts>>,
    owners: BTreeMap<ThinId, Counts>,
}

impl Cells {
    fn new(total: DataBlocks, cells: usize) -> Self {
        let total = total.get();
        let cells = usize::try_from(total).unwrap_or(cells).min(cells);
        Self {
            total,
            cells: vec![BTreeMap::new(); cells],
            owners: BTreeMap::new(),
        }
    }

    /// The first block of a cell.
    fn begin(&self, cell: usize) -> u64 {
        let cells = u128::try_from(self.cells.len()).unwrap_or(1).max(1);
        let cell = u128::try_from(cell).unwrap_or(0);
        let begin = u128::from(self.total).saturating_mul(cell).div_ceil(cells);
        u64::try_from(begin).unwrap_or(self.total)
    }

    fn put(&mut self, owned: Owned) {
        let cells = u128::try_from(self.cells.len()).unwrap_or(0);
        let at = u128::from(owned.block.get()).saturating_mul(cells);
        let at = at.checked_div(u128::from(self.total)).unwrap_or(0);
        let cell = usize::try_from(at)
            .ok()
            .and_then(|at| self.cells.get_mut(at));
        let counts = cell.map(|cell| cell.entry(owned.owner).or_default());
        let all = self.owners.entry(owned.owner).or_default();
        for [own, shared] in counts.into_iter().chain([all]) {
            let count = if owned.shared { shared } else { own };
            *count = count.saturating_add(1);
        }
    }

    fn cell(&self, at: usize) -> MapCell {
        let blocks = self
            .begin(at.saturating_add(1))
            .saturating_sub(self.begin(at));
        let owners = self.cells.get(at).into_iter().flatten();
        let sum = |counts: &Counts| counts.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let mapped = owners.clone().map(|(_, counts)| sum(counts));
        // Of two that have as many the elder one.
        let most = owners.rev().max_by_key(|(_, counts)| sum(counts));
        MapCell {
            blocks,
            mapped: mapped.fold(0, u64::saturating_add),
            owner: most.map(|(id, _)| *id),
            shared: most.is_some_and(|(_, [own, shared])| shared > own),
        }
    }

    fn owners(&self, block_size: BlockSize) -> Vec<MapOwner> {
        let owners = self.owners.iter().map(|(id, counts)| {
            let [own, shared] =
                counts.map(|count| DataBlocks::new(count).to_bytes_saturating(block_size));
            MapOwner {
                thin_id: *id,
                own,
                shared,
            }
        });
        owners.collect()
    }
}

impl Pool {
    /// Whose the blocks of the pool's data are, in so many cells, or in one for each block.
    ///
    /// # Errors
    /// As of [`Pool::space`].
    pub fn block_map(&self, cells: usize) -> Result<BlockMap, PoolError> {
        let space = self.space()?;
        let live = self.looked_at()?;
        let block_size = live.record().block_size;
        let total = match live.thin_pool().status()? {
            PoolStatus::Working(pool) => pool.total_data,
            PoolStatus::Fail | PoolStatus::Error => DataBlocks::ZERO,
        };
        let mut map = Cells::new(total, cells);
        live.read_metadata(|metadata| metadata.owners(&mut |owned| map.put(owned)))?;
        Ok(BlockMap {
            space,
            block_size: block_size.to_bytes(),
            total: total.to_bytes_saturating(block_size),
            cells: (0..map.cells.len()).map(|at| map.cell(at)).collect(),
            owners: map.owners(block_size),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thin(id: u64) -> ThinId {
        ThinId::new(id).unwrap()
    }

    #[test]
    fn cells_have_equal_parts_and_those_who_have_most_of_them() {
        let mut cells = Cells::new(DataBlocks::new(10), 4);
        let begins: Vec<u64> = (0..5).map(|cell| cells.begin(cell)).collect();
        assert_eq!(begins, [0, 3, 5, 8, 10]);
        for (block, owner, shared) in [
            (0, 7, true),
            (1, 9, false),
            (2, 9, false),
            (5, 9, false),
            (6, 7, true),
            (9, 8, true),
        ] {
            cells.put(Owned {
                block: DataBlocks::new(block),
                owner: thin(owner),
                shared,
            });
        }
        let cell = |blocks, mapped, owner: Option<u64>, shared| MapCell {
            blocks,
            mapped,
            owner: owner.map(thin),
            shared,
        };
        let told: Vec<_> = (0..4).map(|at| cells.cell(at)).collect();
        assert_eq!(
            told,
            [
                cell(3, 3, Some(9), false),
                cell(2, 0, None, false),
                cell(3, 2, Some(7), true),
                cell(2, 1, Some(8), true),
            ]
        );
        let owners = cells.owners(BlockSize::DEFAULT);
        let owner = |id, own, shared| MapOwner {
            thin_id: thin(id),
            own: Bytes::from_kib(64_u64.saturating_mul(own)),
            shared: Bytes::from_kib(64_u64.saturating_mul(shared)),
        };
        assert_eq!(owners, [owner(7, 0, 2), owner(8, 0, 1), owner(9, 3, 0)]);
    }

    #[test]
    fn a_small_pool_has_a_cell_for_each_block() {
        let cells = Cells::new(DataBlocks::new(3), 4096);
        assert_eq!(cells.cells.len(), 3);
        assert_eq!(cells.cell(2).blocks, 1);
        assert_eq!(Cells::new(DataBlocks::ZERO, 16).cells.len(), 0);
    }
}
