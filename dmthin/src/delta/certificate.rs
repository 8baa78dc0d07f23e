//! That what changed is accounted for.
//!
//! Each block that the pool has otherwise for two file systems, and whose bytes differ, must be one of
//!
//! - a bitmap, descriptor, superblock or table of inodes, which are compared;
//! - the journal's or the list of orphans';
//! - data, extents or extended attributes of an inode that changed, whose content is compared where the inode does not
//!   tell that it is another;
//! - extended attributes that are shared, with nothing changed but by how many;
//! - free, as the newer one's bitmap says.
//!
//! Else somebody wrote past the file system, and only the content of all files tells where. A pool's unit has blocks of
//! other files beside those that were written. Only those are read: a block that is accounted for may differ or not.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use super::candidates::Pair;
use super::ext4::{Aligned, BLOCK, Disk, FsBlock, Ino, bytes_of, is_same_block};

/// Blocks that are read at a time: 1 MiB.
const AT_A_TIME: u64 = 256;
/// Blocks that are read for nothing rather than that another reading is begun.
const GAP: u64 = 16;

/// A block that is no bitmap or the like, of a unit that the pool has otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loose {
    pub(super) block: FsBlock,
    /// Whether the older one has the unit mapped; else it reads as zeros.
    pub(super) old: bool,
    /// Whether the newer one has.
    pub(super) new: bool,
}

/// Blocks of files by their begin, with the end.
type Owned = BTreeMap<FsBlock, FsBlock>;

/// That these inodes, or nobody, have all of the blocks that differ; gives those that may.
pub(super) fn certify(
    pair: &Pair<'_>,
    inodes: &BTreeSet<Ino>,
    loose: &[Loose],
) -> Result<Vec<FsBlock>, Refusal> {
    if loose.is_empty() {
        return Ok(Vec::new());
    }
    let mut owned = Owned::new();
    let mut own = |begin: FsBlock, len: u64| {
        let end = owned.entry(begin).or_insert(begin);
        *end = begin.after(len).max(*end);
    };
    let mut shared = BTreeSet::new();
    for ino in inodes.iter().copied().chain(pair.new.own_files()) {
        // One that was unlinked while it is open has blocks too.
        if pair.new.is_used(ino)? {
            let inode = pair.new.inode(ino)?;
            let extents = pair.new.extents(&inode)?;
            for extent in extents.data {
                own(extent.place, extent.len);
            }
            for block in extents.tree.into_iter().chain(inode.xattr_block) {
                own(block, 1);
            }
        }
        if pair.old.is_used(ino)? {
            shared.extend(pair.old.inode(ino)?.xattr_block);
        }
    }
    let (mut blocks, mut rest) = (Vec::new(), Vec::new());
    for found in loose {
        let owner = owned.range(..=found.block).next_back();
        if owner.is_some_and(|(_, end)| found.block < *end) || pair.new.is_free(found.block)? {
            blocks.push(found.block);
        } else {
            rest.push(*found);
        }
    }
    let mut check = Check {
        pair,
        shared,
        buffers: None,
        blocks,
    };
    rest.sort_by_key(|found| found.block);
    let mut left = &rest[..];
    while let [first, ..] = left {
        let (together, others) = left.split_at(near(*first, left));
        check.compare(*first, together)?;
        left = others;
    }
    Ok(check.blocks)
}

/// How many of these blocks are read together with the first of them.
fn near(first: Loose, all: &[Loose]) -> usize {
    let mut last = first;
    let is_near = |found: &&Loose| {
        let past = |from: Loose| found.block.get().saturating_sub(from.block.get());
        let is_near = past(last) <= GAP && past(first) < AT_A_TIME;
        last = **found;
        is_near && (found.old, found.new) == (first.old, first.new)
    };
    all.iter().take_while(is_near).count()
}

struct Check<'a, 'b> {
    pair: &'a Pair<'b>,
    /// Blocks of extended attributes that inodes had that changed.
    shared: BTreeSet<FsBlock>,
    buffers: Option<[Aligned; 2]>,
    /// Blocks that may differ.
    blocks: Vec<FsBlock>,
}

impl Check<'_, '_> {
    /// Compares blocks that are near to each other, of which nobody is known to have written any.
    fn compare(&mut self, first: Loose, together: &[Loose]) -> Result<(), Refusal> {
        let past = |found: &Loose| found.block.get().saturating_sub(first.block.get());
        let count = together.last().map_or(0, past).saturating_add(1);
        let [old, new] = self
            .buffers
            .get_or_insert_with(|| [(); 2].map(|()| Aligned::new(bytes_of(AT_A_TIME))));
        let read = |mapped: bool, disk: &Disk<'_>, buffer: &mut Aligned| {
            let bytes = buffer.get_mut().get_mut(..bytes_of(count));
            let bytes = bytes.unwrap_or_default();
            if mapped {
                return disk.read_once(first.block, bytes);
            }
            bytes.fill(0);
            Ok(())
        };
        read(first.old, self.pair.old.disk(), old)?;
        read(first.new, self.pair.new.disk(), new)?;
        for found in together {
            let at = bytes_of(past(found));
            let [was, is] = [&*old, &*new].map(|buffer| {
                let rest = buffer.get().get(at..).unwrap_or_default();
                rest.get(..BLOCK).unwrap_or_default()
            });
            if was == is {
                continue;
            }
            if !self.shared.contains(&found.block) || !is_same_block(was, is) {
                return Err(Refusal::Unexplained {
                    block: found.block.get(),
                });
            }
            self.blocks.push(found.block);
        }
        Ok(())
    }
}
