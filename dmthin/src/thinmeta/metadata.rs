//! The trees of a pool (`drivers/md/dm-thin-metadata.c`).
//!
//! ```text
//! mappings  thin id -> root of the device's tree: block of the device -> data block << 24 | time
//! details   thin id -> mapped_blocks u64, transaction_id u64, creation_time u32, snapshotted_time u32
//! ```
//!
//! Snapshots share subtrees until one of them writes, so that a pool of many snapshots has far fewer
//! blocks than mappings.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ThinId, TransactionId};
use crate::thinmeta::device::{BlockReader, ReadAt};
use crate::thinmeta::node::{Damage, Kind, Node, number};
use crate::thinmeta::superblock::{FirstBlock, ReadError, Roots};
use crate::thinmeta::walk::{Seen, Tree};
use crate::units::{BlockSize, DataBlocks, MetaBlocks};

const MAPPING: usize = 8;
const DETAILS: usize = 24;
const TIME_BITS: u32 = 24;

/// A thin device, as the pool has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinDevice {
    /// Its number.
    pub id: ThinId,
    /// Blocks it has mapped, shared ones included.
    pub mapped: DataBlocks,
    /// The pool's transaction id when it was made.
    pub transaction_id: TransactionId,
    /// The pool's time when it was made: the number of snapshots taken before.
    pub created: u64,
    /// The pool's time when a snapshot of it was last taken.
    pub snapshotted: u64,
}

/// Blocks of a device that follow each other in the data too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first of the device's blocks.
    pub begin: DataBlocks,
    /// The data block it is in.
    pub data: DataBlocks,
    /// How many there are.
    pub len: DataBlocks,
}

/// The metadata of a pool at one moment.
#[derive(Debug)]
pub struct Metadata<D> {
    reader: BlockReader<D>,
    roots: Roots,
    total: MetaBlocks,
    data_total: DataBlocks,
}

impl<D: ReadAt> Metadata<D> {
    /// The metadata of a pool that does not run, as they were last committed.
    ///
    /// # Errors
    /// [`ReadError`]; `None` where the device was never formatted.
    pub fn of_closed(device: D) -> Result<Option<Self>, ReadError> {
        let mut reader = BlockReader::new(device);
        let FirstBlock::Superblock(superblock) =
            FirstBlock::decode(reader.read(MetaBlocks::ZERO)?)?
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            reader,
            roots: superblock.roots(),
            total: superblock.metadata.total,
            data_total: superblock.data.total,
        }))
    }

    /// The metadata of a pool that runs, held in a metadata snapshot whose superblock is in block
    /// `held`; `total` and `data_total` are the pool's blocks, as its status says.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn of_snapshot(
        device: D,
        held: MetaBlocks,
        total: MetaBlocks,
        data_total: DataBlocks,
    ) -> Result<Self, ReadError> {
        let mut reader = BlockReader::new(device);
        let roots = Roots::decode(reader.read(held)?, held, total)?;
        Ok(Self {
            reader,
            roots,
            total,
            data_total,
        })
    }

    /// The transaction id of that moment.
    pub const fn transaction_id(&self) -> TransactionId {
        self.roots.transaction_id
    }

    /// The pool's unit of allocation.
    pub const fn block_size(&self) -> BlockSize {
        self.roots.block_size
    }

    const fn tree(&self, root: MetaBlocks, value_size: usize) -> Tree {
        Tree {
            root,
            value_size,
            total: self.total,
        }
    }

    /// Every thin device, by its number.
    ///
    /// # Errors
    /// [`ReadError`], with a [`Damage`] where the trees do not agree about which there are.
    pub fn devices(&mut self) -> Result<Vec<ThinDevice>, ReadError> {
        let mut devices = Vec::new();
        let tree = self.tree(self.roots.details, DETAILS);
        tree.leaves(&mut self.reader, &mut |_| true, &mut |node| {
            for (key, value) in node.entries() {
                let times = number(value, 16);
                devices.push(ThinDevice {
                    id: thin_id(node, key)?,
                    mapped: DataBlocks::new(number(value, 0)),
                    transaction_id: TransactionId::new(number(value, 8)),
                    created: times & u64::from(u32::MAX),
                    snapshotted: times >> u32::BITS,
                });
            }
            Ok(())
        })?;
        let detailed: BTreeSet<_> = devices.iter().map(|device| device.id).collect();
        let mapped: BTreeSet<_> = self.mapping_roots()?.into_keys().collect();
        if let Some(id) = detailed.symmetric_difference(&mapped).next() {
            let thin_id = u64::from(id.get());
            return Err(Damage::new(self.roots.details, Kind::Unpaired { thin_id }).into());
        }
        Ok(devices)
    }

    /// The root of each device's mappings.
    fn mapping_roots(&mut self) -> Result<BTreeMap<ThinId, MetaBlocks>, ReadError> {
        let mut roots = BTreeMap::new();
        let total = self.total.get();
        let tree = self.tree(self.roots.mappings, MAPPING);
        tree.leaves(&mut self.reader, &mut |_| true, &mut |node| {
            for (entry, (key, value)) in node.entries().enumerate() {
                let block = number(value, 0);
                if block == 0 || block >= total {
                    return Err(node.damage(Kind::Child {
                        entry,
                        block,
                        total,
                    }));
                }
                roots.insert(thin_id(node, key)?, MetaBlocks::new(block));
            }
            Ok(())
        })?;
        Ok(roots)
    }

    /// What a device has mapped, in the order of its blocks; `None` where there is no such device.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn runs(&mut self, id: ThinId) -> Result<Option<Vec<Run>>, ReadError> {
        let Some(root) = self.mapping_roots()?.remove(&id) else {
            return Ok(None);
        };
        let mut runs: Vec<Run> = Vec::new();
        self.mappings(root, &mut |_| true, &mut |begin, data| {
            let follows = |run: &Run| {
                run.begin.checked_add(run.len) == Some(begin)
                    && run.data.checked_add(run.len) == Some(data)
            };
            let one = DataBlocks::new(1);
            match runs.last_mut().filter(|run| follows(run)) {
                Some(run) => run.len = run.len.checked_add(one).unwrap_or(run.len),
                None => runs.push(Run {
                    begin,
                    data,
                    len: one,
                }),
            }
        })?;
        Ok(Some(runs))
    }

    /// How many data blocks only these devices have mapped: what deleting all of them gives back. What
    /// is no device counts nothing.
    ///
    /// The others' mappings are read first; then those of the set, of which each block counts that
    /// nobody before has. A subtree that snapshots share is read once. In memory is a bit for each data
    /// block that is mapped and for each block that was read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn exclusive(&mut self, set: &BTreeSet<ThinId>) -> Result<DataBlocks, ReadError> {
        let (inside, outside): (Vec<_>, Vec<_>) = self
            .mapping_roots()?
            .into_iter()
            .partition(|(id, _)| set.contains(id));
        let (mut seen, mut data) = (Seen::default(), Seen::default());
        for (_, root) in outside {
            self.mappings(
                root,
                &mut |node| seen.insert(node.get()),
                &mut |_, block| {
                    data.insert(block.get());
                },
            )?;
        }
        let mut found: u64 = 0;
        for (_, root) in inside {
            self.mappings(
                root,
                &mut |node| seen.insert(node.get()),
                &mut |_, block| {
                    found = found.saturating_add(u64::from(data.insert(block.get())));
                },
            )?;
        }
        Ok(DataBlocks::new(found))
    }

    /// How many data blocks only this device has mapped, for every device.
    ///
    /// Walked through once, a block of the tree or of the data that is come to a second time is shared;
    /// below a shared block of the tree all is. Walked through again, what is not shared counts. No
    /// block is read more than three times. In memory are two bits where [`Self::exclusive`] has one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn exclusives(&mut self) -> Result<BTreeMap<ThinId, DataBlocks>, ReadError> {
        let roots = self.mapping_roots()?;
        let (mut once, mut shared) = (Seen::default(), Seen::default());
        let (mut data_once, mut data_shared) = (Seen::default(), Seen::default());
        for root in roots.values() {
            let mut enter = |node: MetaBlocks| once.insert(node.get()) || shared.insert(node.get());
            self.mappings(*root, &mut enter, &mut |_, block| {
                if !data_once.insert(block.get()) {
                    data_shared.insert(block.get());
                }
            })?;
        }
        let mut found = BTreeMap::new();
        for (id, root) in roots {
            let mut alone: u64 = 0;
            let mut enter = |node: MetaBlocks| !shared.contains(node.get());
            self.mappings(root, &mut enter, &mut |_, block| {
                alone = alone.saturating_add(u64::from(!data_shared.contains(block.get())));
            })?;
            found.insert(id, DataBlocks::new(alone));
        }
        Ok(found)
    }

    /// Gives every mapping below `root` to `each`: the device's block and the data block.
    fn mappings(
        &mut self,
        root: MetaBlocks,
        enter: &mut dyn FnMut(MetaBlocks) -> bool,
        each: &mut dyn FnMut(DataBlocks, DataBlocks),
    ) -> Result<(), ReadError> {
        let total = self.data_total.get();
        let tree = self.tree(root, MAPPING);
        tree.leaves(&mut self.reader, enter, &mut |node| {
            for (entry, (key, value)) in node.entries().enumerate() {
                let block = number(value, 0) >> TIME_BITS;
                if block >= total {
                    return Err(node.damage(Kind::DataBlock {
                        entry,
                        block,
                        total,
                    }));
                }
                each(DataBlocks::new(key), DataBlocks::new(block));
            }
            Ok(())
        })
    }
}

fn thin_id(node: &Node<'_>, key: u64) -> Result<ThinId, Damage> {
    ThinId::new(key).map_err(|_| node.damage(Kind::ThinId { found: key }))
}

#[cfg(test)]
mod tests;
