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
use crate::thinmeta::difference::differences;
use crate::thinmeta::node::{Damage, Kind, Node, number};
use crate::thinmeta::superblock::{BLOCK, FirstBlock, ReadError, Roots};
use crate::thinmeta::walk::Tree;
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

/// Blocks of a device that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first of them.
    pub begin: DataBlocks,
    /// How many there are.
    pub len: DataBlocks,
}

/// Blocks that follow each other and that two devices have otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRun {
    /// The first of them.
    pub begin: DataBlocks,
    /// How many there are.
    pub len: DataBlocks,
    /// Whether the older device has them mapped.
    pub old: bool,
    /// Whether the newer one has.
    pub new: bool,
}

/// The metadata of a pool at one moment.
#[derive(Debug)]
pub struct Metadata<D> {
    reader: BlockReader<D>,
    /// Where the superblock is: a snapshot's is not in block 0.
    place: MetaBlocks,
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
            place: MetaBlocks::ZERO,
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
            place: held,
            roots,
            total,
            data_total,
        })
    }

    /// A view of trees that begin elsewhere than the device's superblock says.
    #[cfg(test)]
    pub(super) fn with_roots(device: D, roots: Roots) -> Self {
        Self {
            reader: BlockReader::new(device),
            place: MetaBlocks::ZERO,
            roots,
            total: MetaBlocks::new(u64::MAX),
            data_total: DataBlocks::new(u64::MAX),
        }
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

    pub(super) const fn place(&self) -> MetaBlocks {
        self.place
    }

    pub(super) const fn roots(&self) -> Roots {
        self.roots
    }

    pub(super) fn reader(&mut self) -> &mut BlockReader<D> {
        &mut self.reader
    }

    pub(super) fn read_block(&mut self, block: MetaBlocks) -> Result<&[u8; BLOCK], ReadError> {
        self.reader.read(block)
    }

    /// Reads all of the tree of details, but for what `enter` has been given before.
    pub(super) fn walk_details(
        &mut self,
        enter: &mut dyn FnMut(MetaBlocks) -> bool,
    ) -> Result<(), ReadError> {
        let tree = self.tree(self.roots.details, DETAILS);
        tree.leaves(&mut self.reader, enter, &mut |_| Ok(()))
    }

    /// Reads all of the trees of mappings, likewise.
    pub(super) fn walk_mappings(
        &mut self,
        enter: &mut dyn FnMut(MetaBlocks) -> bool,
    ) -> Result<(), ReadError> {
        let roots = self.mapping_roots()?;
        let tree = self.tree(self.roots.mappings, MAPPING);
        tree.leaves(&mut self.reader, enter, &mut |_| Ok(()))?;
        for root in roots.into_values() {
            self.mappings(root, enter, &mut |_, _| ())?;
        }
        Ok(())
    }

    /// The root of each device's mappings.
    pub(super) fn mapping_roots(&mut self) -> Result<BTreeMap<ThinId, MetaBlocks>, ReadError> {
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

    /// The tree of a device's mappings.
    fn mapping_tree(&mut self, id: ThinId) -> Result<Option<Tree>, ReadError> {
        let devices = self.tree(self.roots.mappings, MAPPING);
        let root = devices.get(&mut self.reader, u64::from(id.get()))?;
        Ok(root.map(|root| self.tree(MetaBlocks::new(root), MAPPING)))
    }

    /// The blocks that a device has mapped, and not to what `origin` has mapped there: of a snapshot of
    /// it, those that one of the two has written since. All that the device has mapped alone is among
    /// them. `None` where either does not exist.
    ///
    /// What both share is not read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn changed(&mut self, id: ThinId, origin: ThinId) -> Result<Option<Vec<Span>>, ReadError> {
        match self.trees_of(origin, id)? {
            Some(trees) => self.changed_between(trees).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn changed_between(&mut self, trees: [Tree; 2]) -> Result<Vec<Span>, ReadError> {
        let runs = self.runs_between(trees)?;
        let mut spans: Vec<Span> = Vec::new();
        for run in runs.into_iter().filter(|run| run.new) {
            let follows = |span: &Span| span.begin.checked_add(span.len) == Some(run.begin);
            match spans.last_mut().filter(|span| follows(span)) {
                Some(span) => span.len = span.len.checked_add(run.len).unwrap_or(span.len),
                None => spans.push(Span {
                    begin: run.begin,
                    len: run.len,
                }),
            }
        }
        Ok(spans)
    }

    /// The blocks that two devices have otherwise, whichever of them was made first: both have them,
    /// in other places, or only one. `None` where either does not exist.
    ///
    /// What both share is not read: [`nodes_read`](Self::nodes_read) tells what was.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn changed_runs(
        &mut self,
        old: ThinId,
        new: ThinId,
    ) -> Result<Option<Vec<ChangedRun>>, ReadError> {
        match self.trees_of(old, new)? {
            Some(trees) => self.runs_between(trees).map(Some),
            None => Ok(None),
        }
    }

    /// The trees of two devices' mappings; `None` where either does not exist.
    pub(super) fn trees_of(
        &mut self,
        old: ThinId,
        new: ThinId,
    ) -> Result<Option<[Tree; 2]>, ReadError> {
        let (old, new) = (self.mapping_tree(old)?, self.mapping_tree(new)?);
        Ok(old.zip(new).map(|(old, new)| [old, new]))
    }

    fn runs_between(&mut self, trees: [Tree; 2]) -> Result<Vec<ChangedRun>, ReadError> {
        let one = DataBlocks::new(1);
        let mut runs: Vec<ChangedRun> = Vec::new();
        differences(&mut self.reader, trees, |difference| {
            let data = |value: Option<u64>| value.map(|value| value >> TIME_BITS);
            let (old, new) = (data(difference.old), data(difference.new));
            // The time of a mapping changes nothing of where it leads.
            if old == new {
                return;
            }
            let (old, new) = (old.is_some(), new.is_some());
            let begin = DataBlocks::new(difference.key);
            let follows = |run: &ChangedRun| {
                (run.old, run.new) == (old, new) && run.begin.checked_add(run.len) == Some(begin)
            };
            match runs.last_mut().filter(|run| follows(run)) {
                Some(run) => run.len = run.len.checked_add(one).unwrap_or(run.len),
                None => runs.push(ChangedRun {
                    begin,
                    len: one,
                    old,
                    new,
                }),
            }
        })?;
        Ok(runs)
    }

    /// How many blocks of the metadata were read so far.
    pub const fn nodes_read(&self) -> u64 {
        self.reader.nr_reads()
    }

    /// Gives every mapping below `root` to `each`: the device's block and the data block.
    pub(super) fn mappings(
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
