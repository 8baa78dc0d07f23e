//! Which blocks a file has (`fs/ext4/ext4_extents.h`).
//!
//! ```text
//! header  magic u16 0xf30a, entries u16, max u16, depth u16, generation u32
//! leaf    first block of the file u32, length u16 (above 32768: unwritten), place u16 high, u32 low
//! inner   first block of the file u32, place u32 low, u16 high, unused u16
//! ```

use super::bytes::{halves, le16, le32};
use super::{Ext4, FsBlock, Inode};
use crate::delta::Refusal;

const MAGIC: u16 = 0xf30a;
/// Deeper trees are not made (`fs/ext4/extents.c:EXT4_MAX_EXTENT_DEPTH`).
const DEPTH_MAX: u16 = 5;
const ENTRY: usize = 12;
/// A length above this one is of blocks that read as zeros.
const WRITTEN_MAX: u16 = 32_768;

/// Blocks of a file that follow each other on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delta) struct Extent {
    /// The first of them, counted from the file's begin.
    pub(in crate::delta) begin: u64,
    pub(in crate::delta) len: u64,
    /// Where they are.
    pub(in crate::delta) place: FsBlock,
    /// Whether they hold anything; else they read as zeros.
    pub(in crate::delta) written: bool,
}

/// What a file has on the disk.
#[derive(Debug, Clone, Default)]
pub(in crate::delta) struct Extents {
    /// In the order of the file.
    pub(in crate::delta) data: Vec<Extent>,
    /// The blocks of the tree.
    pub(in crate::delta) tree: Vec<FsBlock>,
}

struct Reading<'a, 'b> {
    fs: &'a Ext4<'b>,
    inode: &'a Inode,
    found: Extents,
    /// Blocks of the file up to here are known.
    end: u64,
    /// How many there are of them on the disk.
    count: u64,
}

impl Reading<'_, '_> {
    fn damaged(&self, what: &'static str) -> Refusal {
        Refusal::Damaged {
            what,
            at: u64::from(self.inode.ino.get()),
        }
    }

    /// Reads a node of the tree; deeper ones are of less and less depth.
    fn node(&mut self, bytes: &[u8], depth: u16) -> Result<(), Refusal> {
        if le16(bytes, 0) != MAGIC || le16(bytes, 6) != depth {
            return Err(self.damaged("a node of the extents of inode"));
        }
        let entries = usize::from(le16(bytes, 2));
        let room = bytes.len().saturating_sub(ENTRY) / ENTRY;
        // Only the root may be empty, so that each node brings the file's end nearer.
        let is_root = bytes.len() < super::BLOCK;
        if entries > room || (entries == 0 && !is_root) {
            return Err(self.damaged("the number of extents of inode"));
        }
        let entries = bytes.chunks_exact(ENTRY).skip(1).take(entries);
        for entry in entries {
            match depth.checked_sub(1) {
                None => self.leaf(entry)?,
                Some(below) => {
                    let place = halves(le32(entry, 4), u32::from(le16(entry, 8)));
                    let place = FsBlock::new(place);
                    self.found.tree.push(place);
                    let block = self.fs.disk().block(place)?;
                    self.node(&block, below)?;
                }
            }
        }
        Ok(())
    }

    fn leaf(&mut self, entry: &[u8]) -> Result<(), Refusal> {
        let begin = u64::from(le32(entry, 0));
        let len = le16(entry, 4);
        let written = len <= WRITTEN_MAX;
        let len = u64::from(if written {
            len
        } else {
            len.saturating_sub(WRITTEN_MAX)
        });
        let place = halves(le32(entry, 8), u32::from(le16(entry, 6)));
        let end = begin.saturating_add(len);
        let is_on_disk = place
            .checked_add(len)
            .is_some_and(|end| place > 0 && end <= self.fs.superblock().blocks);
        self.count = self.count.saturating_add(len);
        // A file has no block twice, so not more than there are.
        if len == 0 || begin < self.end || !is_on_disk || self.count > self.fs.superblock().blocks {
            return Err(self.damaged("an extent of inode"));
        }
        self.end = end;
        self.found.data.push(Extent {
            begin,
            len,
            place: FsBlock::new(place),
            written,
        });
        Ok(())
    }
}

impl Ext4<'_> {
    /// What a file, directory or long link has on the disk.
    pub(in crate::delta) fn extents(&self, inode: &Inode) -> Result<Extents, Refusal> {
        if !inode.has_extents() {
            return Ok(Extents::default());
        }
        let root = inode.tree();
        let depth = le16(root, 6);
        let mut reading = Reading {
            fs: self,
            inode,
            found: Extents::default(),
            end: 0,
            count: 0,
        };
        if depth > DEPTH_MAX {
            return Err(reading.damaged("the depth of the extents of inode"));
        }
        reading.node(root, depth)?;
        Ok(reading.found)
    }
}
