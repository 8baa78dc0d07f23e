//! Extended attributes, in an inode and in a block of their own (`fs/ext4/xattr.h`).
//!
//! ```text
//! inode   magic u32 0xea020000, entries; values are counted from the first entry
//! block   magic u32, references u32, blocks u32 1, hash u32, checksum u32, 12 unused, entries; values are
//!         counted from the block's begin
//! entry   length of the name u8, prefix u8, place of the value u16, inode of the value u32 0, length of the
//!         value u32, hash u32, name, to the next 4 bytes; the last one is followed by 4 zeros
//! ```

use std::collections::BTreeMap;

use super::bytes::{byte, clear, le16, le32};
use super::{Ext4, Inode};
use crate::delta::Refusal;

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

/// Values by prefix and name.
pub(in crate::delta) type Xattrs = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// Reads entries; `values` is what their places count in. `None` where they make no sense.
fn entries(entries: &[u8], values: &[u8], found: &mut Xattrs) -> Option<()> {
    let mut rest = entries;
    while le32(rest.get(..4)?, 0) != 0 {
        let name_len = usize::from(byte(rest, 0));
        let end = ENTRY.checked_add(name_len)?;
        let name = rest.get(ENTRY..end)?.to_vec();
        let (at, len) = (
            usize::from(le16(rest, 2)),
            usize::try_from(le32(rest, 8)).ok()?,
        );
        // One in an inode of its own is of a feature that is refused.
        if le32(rest, 4) != 0 {
            return None;
        }
        let value = match len {
            0 => &[][..],
            _ => values.get(at..at.checked_add(len)?)?,
        };
        found.insert((byte(rest, 1), name), value.to_vec());
        rest = rest.get(end.checked_next_multiple_of(4)?..)?;
    }
    Some(())
}

fn block_entries(block: &[u8], found: &mut Xattrs) -> Option<()> {
    if le32(block, 0) != MAGIC || le32(block, 8) != 1 {
        return None;
    }
    entries(block.get(BLOCK_HEADER..)?, block, found)
}

impl Ext4<'_> {
    /// All extended attributes of an inode.
    pub(in crate::delta) fn xattrs(&self, inode: &Inode) -> Result<Xattrs, Refusal> {
        let damaged = || Refusal::Damaged {
            what: "the extended attributes of inode",
            at: u64::from(inode.ino.get()),
        };
        let mut found = Xattrs::new();
        let inside = inode.xattrs();
        if le32(inside, 0) == MAGIC {
            let first = inside.get(4..).unwrap_or_default();
            entries(first, first, &mut found).ok_or_else(damaged)?;
        }
        if let Some(block) = inode.xattr_block {
            block_entries(&self.disk().block(block)?, &mut found).ok_or_else(damaged)?;
        }
        Ok(found)
    }
}

/// Whether two versions of a block of extended attributes say the same of them: not how many share it,
/// which changes without any of those.
pub(in crate::delta) fn is_same_block(old: &[u8], new: &[u8]) -> bool {
    let told = |block: &[u8]| {
        let mut block = block.to_vec();
        clear(&mut block, 4..8);
        clear(&mut block, 16..20);
        block
    };
    le32(old, 0) == MAGIC && told(old) == told(new)
}
