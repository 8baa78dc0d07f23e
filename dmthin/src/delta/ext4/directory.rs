//! What is in a directory (`fs/ext4/ext4.h`, `struct ext4_dir_entry_2`).
//!
//! Read block by block, whether it has an index or not: to who does not know it, a block of the index looks as if
//! it had one entry, of no inode.
//!
//! ```text
//! inode u32, length of the entry u16, length of the name u8, type u8, name
//! ```

use std::collections::BTreeMap;

use super::bytes::{byte, le16, le32};
use super::inode::blocks_of;
use super::{BLOCK, Ext4, Ino, Inode};
use crate::delta::Refusal;

const HEADER: usize = 8;
/// More than the kernel makes without an index of three levels.
const BLOCKS_MAX: u64 = 1 << 20;

/// A directory's entries but `.` and `..`, in the order of their names.
pub(in crate::delta) type Names = BTreeMap<Vec<u8>, Ino>;

/// A directory.
#[derive(Debug, Clone)]
pub(in crate::delta) struct Directory {
    pub(in crate::delta) names: Names,
    /// Where `..` leads.
    pub(in crate::delta) parent: Ino,
}

impl Ext4<'_> {
    /// Reads a directory.
    pub(in crate::delta) fn directory(&self, inode: &Inode) -> Result<Directory, Refusal> {
        let mut names = Names::new();
        let parent = self.each_name(inode, &mut |name, ino| {
            names.insert(name.to_vec(), ino).is_none()
        })?;
        Ok(Directory { names, parent })
    }

    /// Gives each entry of a directory but `.` and `..` to who says whether it makes sense, and where `..` leads.
    pub(in crate::delta) fn each_name(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(&[u8], Ino) -> bool,
    ) -> Result<Ino, Refusal> {
        let damaged = || Refusal::Damaged {
            what: "directory",
            at: u64::from(inode.ino.get()),
        };
        let blocks = blocks_of(inode.size);
        if !inode.is_directory() || blocks > BLOCKS_MAX {
            return Err(damaged());
        }
        let extents = self.extents(inode)?;
        let (mut parent, mut next) = (None, 0);
        for extent in extents.data {
            // A directory has no holes and nothing that was never written.
            if extent.begin != next || !extent.written {
                return Err(damaged());
            }
            for at in 0..extent.len {
                if extent.begin.saturating_add(at) >= blocks {
                    break;
                }
                let block = self.disk().block(extent.place.after(at))?;
                self.entries(&block, &mut |name, ino| match name {
                    b"." => Some(()),
                    b".." => {
                        parent = Some(ino);
                        Some(())
                    }
                    _ => each(name, ino).then_some(()),
                })
                .ok_or_else(damaged)?;
            }
            next = extent.begin.saturating_add(extent.len);
        }
        if next < blocks {
            return Err(damaged());
        }
        parent.ok_or_else(damaged)
    }

    /// Gives each entry of a block; `None` where one makes no sense.
    fn entries(&self, block: &[u8], each: &mut dyn FnMut(&[u8], Ino) -> Option<()>) -> Option<()> {
        let mut at = 0_usize;
        while at < BLOCK {
            let entry = block.get(at..)?;
            let len = usize::from(le16(entry, 4));
            let name_len = usize::from(byte(entry, 6));
            let least = HEADER.checked_add(name_len)?;
            if len < least || !len.is_multiple_of(4) {
                return None;
            }
            let entry = entry.get(..len)?;
            let ino = Ino::new(le32(entry, 0));
            if ino.get() != 0 {
                let name = entry.get(HEADER..least)?;
                let is_sound = !name.is_empty() && !name.iter().any(|c| matches!(c, 0 | b'/'));
                if !is_sound || ino.get() > self.superblock().inodes {
                    return None;
                }
                each(name, ino)?;
            }
            at = at.checked_add(len)?;
        }
        Some(())
    }
}
