//! Which inodes may have changed, and whether they account for all that did.
//!
//! Inodes are compared byte by byte, but for the time of their last access and their checksum. With the
//! blocks of which the pool says that they changed, only those tables are read that are among them; and then
//! nothing rests on the times that a file system keeps, as [`certify`] proves that nothing else changed.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Refusal;
use super::certificate::{Loose, certify};
use super::ext4::{Ext4, FsBlock, Ino, Place, differs};
use crate::thinmeta::ChangedRun;
use crate::units::BlockSize;

const ZEROS: [u8; super::ext4::BLOCK] = [0; super::ext4::BLOCK];

/// Two file systems of which one began as the other.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) old: Ext4<'a>,
    pub(super) new: Ext4<'a>,
}

/// What may have changed.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Inodes whose bytes or use differ.
    pub(super) inodes: BTreeSet<Ino>,
    /// Every block whose bytes may differ, sorted, where that is known.
    pub(super) blocks: Option<Vec<FsBlock>>,
    /// How many inodes were compared.
    pub(super) compared: u64,
}

impl Candidates {
    /// The first block of so many, in the same place of both, that may differ.
    pub(super) fn next_differing(&self, begin: FsBlock, len: u64) -> Option<u64> {
        let Some(blocks) = &self.blocks else {
            return (len > 0).then_some(0);
        };
        let at = blocks.partition_point(|block| *block < begin);
        let past = blocks.get(at)?.get().checked_sub(begin.get())?;
        (past < len).then_some(past)
    }

    fn compare(&mut self, pair: &Pair<'_>, group: u64, range: Range<u32>) -> Result<(), Refusal> {
        let (old, new) = (pair.old.in_use(group)?, pair.new.in_use(group)?);
        for at in range.start..range.end.min(old.count.max(new.count)) {
            let used = (old.has(at), new.has(at));
            if used == (false, false) {
                continue;
            }
            self.compared = self.compared.saturating_add(1);
            let is_candidate = used != (true, true)
                || differs(
                    pair.old.raw(group, at)?.bytes(),
                    pair.new.raw(group, at)?.bytes(),
                );
            if is_candidate {
                let ino = pair.new.ino(group, at);
                self.inodes.extend(ino.filter(|ino| !pair.new.is_own(*ino)));
            }
        }
        Ok(())
    }

    /// Compares every inode that is in use in either.
    pub(super) fn of_tables(pair: &Pair<'_>) -> Result<Self, Refusal> {
        let mut found = Self::default();
        for group in 0..pair.new.superblock().nr_groups() {
            found.compare(pair, group, 0..u32::MAX)?;
        }
        Ok(found)
    }

    /// Compares what lies in the blocks that changed, and proves that nothing else did.
    pub(super) fn of_blocks(
        pair: &Pair<'_>,
        runs: &[ChangedRun],
        unit: BlockSize,
    ) -> Result<Self, Refusal> {
        let mut found = Self::default();
        let (mut blocks, mut loose) = (Vec::new(), Vec::new());
        let mut groups = BTreeSet::new();
        let end = pair.new.nr_blocks();
        let per_unit = unit.to_bytes().get() / 4096;
        for run in runs {
            let begin = run.begin.get().saturating_mul(per_unit);
            let len = run.len.get().saturating_mul(per_unit);
            for number in begin..begin.saturating_add(len).min(end) {
                let block = FsBlock::new(number);
                let place = pair.new.place(block);
                if place.is_none() {
                    loose.push(Loose {
                        block,
                        old: run.old,
                        new: run.new,
                    });
                    continue;
                }
                if !changed(pair, run, block)? {
                    continue;
                }
                blocks.push(block);
                match place {
                    Some(Place::Inodes { group, at }) => {
                        let per_block = pair.new.inodes_per_block();
                        let first = u32::try_from(at)
                            .unwrap_or(u32::MAX)
                            .saturating_mul(per_block);
                        found.compare(pair, group, first..first.saturating_add(per_block))?;
                    }
                    Some(Place::InodeBitmap { group }) => drop(groups.insert(group)),
                    Some(Place::Fixed) | None => {}
                }
            }
        }
        for group in 0..pair.new.superblock().nr_groups() {
            if !pair.old.has_same_limits(&pair.new, group) {
                groups.insert(group);
            }
        }
        for group in groups {
            found.compare_use(pair, group)?;
        }
        blocks.extend(certify(pair, &found.inodes, &loose)?);
        blocks.sort_unstable();
        found.blocks = Some(blocks);
        Ok(found)
    }

    /// Finds the inodes of a group that only one has in use.
    fn compare_use(&mut self, pair: &Pair<'_>, group: u64) -> Result<(), Refusal> {
        let (old, new) = (pair.old.in_use(group)?, pair.new.in_use(group)?);
        for at in 0..old.count.max(new.count) {
            if old.has(at) != new.has(at) {
                let ino = pair.new.ino(group, at);
                self.inodes.extend(ino.filter(|ino| !pair.new.is_own(*ino)));
            }
        }
        Ok(())
    }
}

/// Whether a block's bytes differ; what is not mapped reads as zeros.
fn changed(pair: &Pair<'_>, run: &ChangedRun, block: FsBlock) -> Result<bool, Refusal> {
    Ok(match (run.old, run.new) {
        (true, true) => *pair.old.disk().block(block)? != *pair.new.disk().block(block)?,
        (true, false) => *pair.old.disk().block(block)? != ZEROS,
        (false, true) => *pair.new.disk().block(block)? != ZEROS,
        (false, false) => false,
    })
}
