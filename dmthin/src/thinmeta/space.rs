//! Who has which data blocks, and who has them alone.
//!
//! Snapshots share subtrees, and blocks of the data below subtrees that are no longer the same. So all trees
//! are walked, each block of them once; what is come to a second time is shared, and below a shared
//! block of a tree all is. In memory are a few bits for each data block that is mapped and for each block of
//! the trees. It reads every tree of the pool: never on the way of a container's creation.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ThinId, TransactionId};
use crate::thinmeta::device::ReadAt;
use crate::thinmeta::metadata::{Metadata, ThinDevice};
use crate::thinmeta::superblock::{FirstBlock, ReadError};
use crate::thinmeta::walk::Seen;
use crate::units::{DataBlocks, MetaBlocks};

/// How many data blocks are one's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusives {
    /// Those that anybody has mapped, each once.
    pub mapped: DataBlocks,
    /// Those that only one device has mapped, for every device.
    pub devices: BTreeMap<ThinId, DataBlocks>,
    /// Those that only devices of one set have mapped, for every set.
    pub sets: Vec<DataBlocks>,
}

/// What the devices of a set have mapped, each data block once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Union {
    /// All of it.
    pub mapped: DataBlocks,
    /// Of that, what no other of the sets has.
    pub alone: DataBlocks,
}

/// A data block that is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Its number.
    pub block: DataBlocks,
    /// The first device that has it mapped.
    pub owner: ThinId,
    /// Whether another has it too.
    pub shared: bool,
}

/// What tells that everybody has as many blocks, and as many alone, as before.
///
/// The kernel counts no changes of mappings. But only these things happen to them: a block is mapped
/// that nobody had (one more is mapped and in use); a shared one is written, so that the writer gets one of
/// its own (one more in use); a shared one is unmapped (one less mapped); one's own is unmapped (one
/// less of both). Devices come and go, and snapshots leave their time. Where every device has as many
/// mapped as before and as many are in use, only the first and the last have happened, as often to each
/// device: it has as many alone as before, and so has any set. That holds for what was counted where as many
/// were in use as were mapped; a block that is being discarded is in use a moment longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The pool's transaction id.
    pub transaction_id: TransactionId,
    /// Data blocks in use.
    pub used: DataBlocks,
    /// The devices, with their times and what they have mapped.
    pub devices: Vec<ThinDevice>,
}

/// What was met once and what more than once.
#[derive(Debug, Default)]
struct Met {
    once: Seen,
    shared: Seen,
    /// Of the shared ones those that only one set has.
    inner: Seen,
    /// What was met first in the set that is walked now.
    current: Seen,
}

impl Met {
    /// Whether it is new; `set`: of a set of several devices, that are walked one after the other.
    fn meet(&mut self, number: u64, set: bool) -> bool {
        if self.once.insert(number) {
            if set {
                self.current.insert(number);
            }
            return true;
        }
        let again = set && self.current.contains(number);
        let first = self.shared.insert(number);
        if !again {
            self.inner.remove(number);
        } else if first {
            self.inner.insert(number);
        }
        false
    }

    fn is_shared(&self, number: u64) -> bool {
        self.shared.contains(number)
    }

    /// Whether another than the set it was met in has it too.
    fn is_outer(&self, number: u64) -> bool {
        self.shared.contains(number) && !self.inner.contains(number)
    }

    fn end_of_set(&mut self) {
        self.current = Seen::default();
    }
}

/// The trees, and the data.
#[derive(Debug, Default)]
struct MetAll {
    nodes: Met,
    data: Met,
    /// Data blocks that were met.
    mapped: u64,
}

fn roots_of(roots: &BTreeMap<ThinId, MetaBlocks>, set: &BTreeSet<ThinId>) -> Vec<MetaBlocks> {
    set.iter().filter_map(|id| roots.get(id)).copied().collect()
}

const fn counted(count: u64) -> DataBlocks {
    DataBlocks::new(count)
}

impl<D: ReadAt> Metadata<D> {
    /// How many data blocks only these devices have mapped: what deleting all of them gives back. What
    /// is no device counts nothing.
    ///
    /// The others' mappings are read first; then those of the set, of which each block counts that
    /// nobody before has.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn exclusive(&mut self, set: &BTreeSet<ThinId>) -> Result<DataBlocks, ReadError> {
        self.reader().read_around();
        let (inside, outside): (Vec<_>, Vec<_>) = self
            .mapping_roots()?
            .into_iter()
            .partition(|(id, _)| set.contains(id));
        let (mut seen, mut data) = (Seen::default(), Seen::default());
        let mut found: u64 = 0;
        for (id, root) in outside.into_iter().chain(inside) {
            let counts = set.contains(&id);
            self.mappings(
                root,
                &mut |node| seen.insert(node.get()),
                &mut |_, block| {
                    let new = data.insert(block.get());
                    found = found.saturating_add(u64::from(new && counts));
                },
            )?;
        }
        Ok(counted(found))
    }

    /// How many data blocks only one device has mapped, for every device; and how many only the devices of
    /// a set have, for each of `sets`, of which no two may have a device in common.
    ///
    /// Walked through once, what is come to a second time is shared; walked through again, what is not
    /// shared counts.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn exclusives(&mut self, sets: &[BTreeSet<ThinId>]) -> Result<Exclusives, ReadError> {
        self.reader().read_around();
        let roots = self.mapping_roots()?;
        let met = self.meet_all(&roots, sets)?;
        let mut found = Exclusives {
            mapped: counted(met.mapped),
            ..Exclusives::default()
        };
        for (id, root) in &roots {
            let mut alone: u64 = 0;
            let mut enter = |node: MetaBlocks| !met.nodes.is_shared(node.get());
            self.mappings(*root, &mut enter, &mut |_, block| {
                alone = alone.saturating_add(u64::from(!met.data.is_shared(block.get())));
            })?;
            found.devices.insert(*id, counted(alone));
        }
        for set in sets {
            let (mut nodes, mut data) = (Seen::default(), Seen::default());
            let mut alone: u64 = 0;
            for root in roots_of(&roots, set) {
                let mut enter =
                    |node: MetaBlocks| !met.nodes.is_outer(node.get()) && nodes.insert(node.get());
                self.mappings(root, &mut enter, &mut |_, block| {
                    let block = block.get();
                    let own = !met.data.is_outer(block) && data.insert(block);
                    alone = alone.saturating_add(u64::from(own));
                })?;
            }
            found.sets.push(counted(alone));
        }
        Ok(found)
    }

    /// Meets every block of the trees and of the data, the sets' first, each set's together.
    fn meet_all(
        &mut self,
        roots: &BTreeMap<ThinId, MetaBlocks>,
        sets: &[BTreeSet<ThinId>],
    ) -> Result<MetAll, ReadError> {
        let mut met = MetAll::default();
        let in_sets: BTreeSet<_> = sets.iter().flatten().copied().collect();
        let others = roots.keys().filter(|id| !in_sets.contains(id));
        let mut groups: Vec<_> = sets.iter().map(|set| (true, set.clone())).collect();
        groups.push((false, others.copied().collect()));
        for (set, ids) in groups {
            for root in roots_of(roots, &ids) {
                let MetAll {
                    nodes,
                    data,
                    mapped,
                } = &mut met;
                self.mappings(
                    root,
                    &mut |node| nodes.meet(node.get(), set),
                    &mut |_, block| {
                        let new = data.meet(block.get(), set);
                        *mapped = mapped.saturating_add(u64::from(new));
                    },
                )?;
            }
            met.nodes.end_of_set();
            met.data.end_of_set();
        }
        for set in sets {
            self.tell_below(&roots_of(roots, set), &mut met)?;
        }
        Ok(met)
    }

    /// Of a block of a tree that another set has too all below is that one's too, also what is come to on
    /// another way within the set.
    fn tell_below(&mut self, roots: &[MetaBlocks], met: &mut MetAll) -> Result<(), ReadError> {
        let (mut seen, mut below) = (Seen::default(), Vec::new());
        for root in roots {
            let mut enter = |node: MetaBlocks| {
                let (new, outer) = (seen.insert(node.get()), met.nodes.is_outer(node.get()));
                if new && outer {
                    below.push(node);
                }
                new && !outer
            };
            self.mappings(*root, &mut enter, &mut |_, _| ())?;
        }
        let mut told = Seen::default();
        for node in below {
            let MetAll { nodes, data, .. } = &mut *met;
            let mut enter = |node: MetaBlocks| {
                nodes.inner.remove(node.get());
                told.insert(node.get())
            };
            self.mappings(node, &mut enter, &mut |_, block| {
                data.inner.remove(block.get());
            })?;
        }
        Ok(())
    }

    /// What the devices of each set have mapped, and what of it no other of these sets has. They may have
    /// devices in common. Other devices do not count.
    ///
    /// A subtree is read as often as there are sets that have it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn unions(&mut self, sets: &[BTreeSet<ThinId>]) -> Result<Vec<Union>, ReadError> {
        self.reader().read_around();
        let roots = self.mapping_roots()?;
        let (mut once, mut shared) = (Seen::default(), Seen::default());
        let mut unions = Vec::new();
        for set in sets {
            let mut mapped: u64 = 0;
            self.each_block(&roots, set, &mut |block| {
                mapped = mapped.saturating_add(1);
                if !once.insert(block) {
                    shared.insert(block);
                }
            })?;
            unions.push(Union {
                mapped: counted(mapped),
                alone: DataBlocks::ZERO,
            });
        }
        for (union, set) in unions.iter_mut().zip(sets) {
            let mut alone: u64 = 0;
            self.each_block(&roots, set, &mut |block| {
                alone = alone.saturating_add(u64::from(!shared.contains(block)));
            })?;
            union.alone = counted(alone);
        }
        Ok(unions)
    }

    /// Gives each data block that a set of devices has mapped, once.
    fn each_block(
        &mut self,
        roots: &BTreeMap<ThinId, MetaBlocks>,
        set: &BTreeSet<ThinId>,
        each: &mut dyn FnMut(u64),
    ) -> Result<(), ReadError> {
        let (mut nodes, mut data) = (Seen::default(), Seen::default());
        for root in roots_of(roots, set) {
            let mut enter = |node: MetaBlocks| nodes.insert(node.get());
            self.mappings(root, &mut enter, &mut |_, block| {
                if data.insert(block.get()) {
                    each(block.get());
                }
            })?;
        }
        Ok(())
    }

    /// Gives each data block that is mapped to `each`, once, with the first of the devices, in the order of
    /// their ids, that has it: of a snapshot and its origin the origin, where it has it still.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn owners(&mut self, each: &mut dyn FnMut(Owned)) -> Result<(), ReadError> {
        self.reader().read_around();
        let roots = self.mapping_roots()?;
        let met = self.meet_all(&roots, &[])?;
        let (mut nodes, mut data) = (Seen::default(), Seen::default());
        for (owner, root) in roots {
            let mut tell = |block: DataBlocks, shared| {
                if data.insert(block.get()) {
                    each(Owned {
                        block,
                        owner,
                        shared,
                    });
                }
            };
            // Below a shared block of the tree, nothing says so of the data: they come afterwards.
            let mut below = Vec::new();
            let mut enter = |node: MetaBlocks| {
                let (new, shared) = (nodes.insert(node.get()), met.nodes.is_shared(node.get()));
                if new && shared {
                    below.push(node);
                }
                new && !shared
            };
            self.mappings(root, &mut enter, &mut |_, block| {
                tell(block, met.data.is_shared(block.get()));
            })?;
            for node in below {
                let mut enter = |inner: MetaBlocks| inner == node || nodes.insert(inner.get());
                self.mappings(node, &mut enter, &mut |_, block| tell(block, true))?;
            }
        }
        Ok(())
    }

    /// The stamp of these metadata; `None` where the pool has moved on since, so that what it has in use
    /// is not what it had then.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn stamp(&mut self) -> Result<Option<Stamp>, ReadError> {
        let first = FirstBlock::decode(self.read_block(MetaBlocks::ZERO)?)?;
        let FirstBlock::Superblock(live) = first else {
            return Ok(None);
        };
        // A root that is held is never written again: the same roots have the same below them.
        if live.roots() != self.roots() {
            return Ok(None);
        }
        Ok(Some(Stamp {
            transaction_id: live.transaction_id,
            used: live.data.allocated,
            devices: self.devices()?,
        }))
    }
}

#[cfg(test)]
mod tests;
