//! A file system's groups: where their bitmaps and tables are, and what of them is in use.

use std::rc::Rc;

use super::bytes::{bit, halves, index, le16, le32};
use super::disk::first_block;
use super::inode::{is_directory, is_linked};
use super::superblock::to_u64;
use super::{BLOCK, Block, Disk, FsBlock, Ino, Inode, Pieces, Side, Superblock};
use crate::delta::Refusal;
use crate::thinmeta::ReadAt;

const INODES_UNUSED: u16 = 1;
const BLOCKS_UNUSED: u16 = 2;

/// A group's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    block_bitmap: FsBlock,
    inode_bitmap: FsBlock,
    table: FsBlock,
    flags: u16,
    /// Inodes at its end that were never in use.
    unused: u32,
}

/// What a block of the file system is for, where that does not depend on what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delta) enum Place {
    /// So many blocks into a group's table of inodes.
    Inodes { group: u64, at: u64 },
    /// A group's bitmap of inodes.
    InodeBitmap { group: u64 },
    /// A superblock, descriptors or a bitmap.
    Fixed,
}

/// Which inodes of a group are in use.
#[derive(Debug, Clone)]
pub(in crate::delta) struct InUse {
    bitmap: Option<Block>,
    /// How many of the group's may be.
    pub(in crate::delta) count: u32,
}

impl InUse {
    /// Whether the one that is so far into the group is.
    pub(in crate::delta) fn has(&self, at: u32) -> bool {
        at < self.count
            && self
                .bitmap
                .as_ref()
                .is_some_and(|bitmap| bit(bitmap, index(u64::from(at))))
    }
}

/// An ext4.
#[derive(Debug)]
pub(in crate::delta) struct Ext4<'a> {
    sb: Superblock,
    disk: Disk<'a>,
    groups: Vec<Group>,
    /// Where bitmaps and tables are, sorted.
    places: Vec<(FsBlock, u64, Place)>,
}

impl<'a> Ext4<'a> {
    /// Reads the superblock and the groups' descriptors.
    pub(in crate::delta) fn open(
        device: &'a dyn ReadAt,
        side: Side,
        pieces: &Rc<Pieces>,
    ) -> Result<Self, Refusal> {
        let sb = Superblock::decode(&first_block(device)?)?;
        let disk = Disk::new(device, sb.blocks, side, pieces);
        let mut groups = Vec::new();
        let size = to_u64(sb.descriptor_size);
        for number in 0..sb.nr_groups() {
            let (past, at) = place_in_blocks(number.saturating_mul(size));
            let block = disk.block(FsBlock::new(1).after(past))?;
            let rest = block.get(at..).unwrap_or_default();
            let bytes = rest.get(..sb.descriptor_size).unwrap_or_default();
            groups.push(Self::group(&sb, number, bytes)?);
        }
        let mut fs = Self {
            sb,
            disk,
            groups,
            places: Vec::new(),
        };
        fs.places = fs.places();
        let is_apart = |pair: &[(FsBlock, u64, Place)]| match pair {
            [(begin, len, _), (next, ..)] => begin.after(*len) <= *next,
            _ => true,
        };
        if !fs.places.windows(2).all(is_apart) {
            return Err(Refusal::Damaged {
                what: "the places of the groups' tables",
                at: 0,
            });
        }
        Ok(fs)
    }

    fn group(sb: &Superblock, number: u64, bytes: &[u8]) -> Result<Group, Refusal> {
        let short = u32::try_from(number).unwrap_or(u32::MAX);
        sb.check_descriptor(short, bytes)?;
        // What is beyond the end of a short descriptor reads as zero.
        let block = |low, high| FsBlock::new(halves(le32(bytes, low), le32(bytes, high)));
        let group = Group {
            block_bitmap: block(0, 0x20),
            inode_bitmap: block(4, 0x24),
            table: block(8, 0x28),
            flags: if sb.has_uninit { le16(bytes, 0x12) } else { 0 },
            unused: if sb.has_uninit {
                u32::from(le16(bytes, 0x1c)) | u32::from(le16(bytes, 0x32)) << 16
            } else {
                0
            },
        };
        let damaged = |what| Refusal::Damaged { what, at: number };
        let fits = |begin: FsBlock, len: u64| {
            let end = begin.get().checked_add(len);
            begin.get() > 0 && end.is_some_and(|end| end <= sb.blocks)
        };
        if !fits(group.block_bitmap, 1)
            || !fits(group.inode_bitmap, 1)
            || !fits(group.table, sb.table_blocks())
        {
            return Err(damaged("the tables of group"));
        }
        if group.unused > sb.inodes_per_group {
            return Err(damaged("the unused inodes of group"));
        }
        Ok(group)
    }

    fn places(&self) -> Vec<(FsBlock, u64, Place)> {
        let mut places = Vec::new();
        let copies = 1_u64
            .saturating_add(self.sb.descriptor_blocks())
            .saturating_add(self.sb.reserved_descriptors);
        for (number, group) in (0..).zip(&self.groups) {
            if self.sb.has_copy(number) {
                places.push((self.sb.group_begin(number), copies, Place::Fixed));
            }
            places.push((group.block_bitmap, 1, Place::Fixed));
            places.push((group.inode_bitmap, 1, Place::InodeBitmap { group: number }));
            let table = Place::Inodes {
                group: number,
                at: 0,
            };
            places.push((group.table, self.sb.table_blocks(), table));
        }
        places.sort_by_key(|(begin, ..)| *begin);
        places
    }

    pub(in crate::delta) const fn superblock(&self) -> &Superblock {
        &self.sb
    }

    pub(in crate::delta) const fn disk(&self) -> &Disk<'a> {
        &self.disk
    }

    /// What a block is for, where that is always so.
    pub(in crate::delta) fn place(&self, block: FsBlock) -> Option<Place> {
        let after = self.places.partition_point(|(begin, ..)| *begin <= block);
        let (begin, len, place) = self.places.get(after.checked_sub(1)?)?;
        let at = block.get().checked_sub(begin.get())?;
        if at >= *len {
            return None;
        }
        Some(match place {
            Place::Inodes { group, .. } => Place::Inodes { group: *group, at },
            place => *place,
        })
    }

    /// What is not the same, of what both must have in common to be compared by their inodes.
    pub(in crate::delta) fn require_like(&self, other: &Self) -> Result<(), Refusal> {
        if self.sb.uuid != other.sb.uuid {
            return Err(Refusal::Unlike { what: "uuid" });
        }
        if self.sb != other.sb {
            return Err(Refusal::Unlike {
                what: "size or features",
            });
        }
        let places = |group: &Group| (group.block_bitmap, group.inode_bitmap, group.table);
        if !self
            .groups
            .iter()
            .map(places)
            .eq(other.groups.iter().map(places))
        {
            return Err(Refusal::Unlike {
                what: "places of its tables",
            });
        }
        Ok(())
    }

    fn at(&self, group: u64) -> Result<&Group, Refusal> {
        self.groups.get(index(group)).ok_or(Refusal::Damaged {
            what: "the number of a group",
            at: group,
        })
    }

    /// Whether what a group says of its inodes in its descriptor is the same.
    pub(in crate::delta) fn has_same_limits(&self, other: &Self, group: u64) -> bool {
        let limits = |fs: &Self| {
            let group = fs.groups.get(index(group))?;
            Some((group.flags & INODES_UNUSED, group.unused))
        };
        limits(self) == limits(other)
    }

    /// Which inodes of a group are in use.
    pub(in crate::delta) fn in_use(&self, group: u64) -> Result<InUse, Refusal> {
        let found = self.at(group)?;
        if found.flags & INODES_UNUSED != 0 {
            return Ok(InUse {
                bitmap: None,
                count: 0,
            });
        }
        Ok(InUse {
            bitmap: Some(self.disk.block(found.inode_bitmap)?),
            count: self.sb.inodes_per_group.saturating_sub(found.unused),
        })
    }

    /// Whether a block is nobody's, as its group's bitmap says.
    pub(in crate::delta) fn is_free(&self, block: FsBlock) -> Result<bool, Refusal> {
        let per_group = self.sb.blocks_per_group;
        let number = block.get().checked_div(per_group).unwrap_or(0);
        let group = self.at(number)?;
        if group.flags & BLOCKS_UNUSED != 0 {
            return Ok(true);
        }
        let bitmap = self.disk.block(group.block_bitmap)?;
        let at = block.get().checked_rem(per_group).unwrap_or(0);
        Ok(!bit(&bitmap, index(at)))
    }

    /// The inode that is so far into a group.
    pub(in crate::delta) fn ino(&self, group: u64, at: u32) -> Option<Ino> {
        let before = group.checked_mul(u64::from(self.sb.inodes_per_group))?;
        let number = before.checked_add(u64::from(at))?.checked_add(1)?;
        u32::try_from(number).ok().map(Ino::new)
    }

    /// The group of an inode, and how far into it that is.
    pub(in crate::delta) fn group_of(&self, ino: Ino) -> Result<(u64, u32), Refusal> {
        let before = ino.get().checked_sub(1);
        let per_group = self.sb.inodes_per_group;
        let found = before.filter(|_| ino.get() <= self.sb.inodes);
        let place = found.and_then(|before| {
            let group = u64::from(before.checked_div(per_group)?);
            Some((group, before.checked_rem(per_group)?))
        });
        place.ok_or(Refusal::Damaged {
            what: "the number of an inode",
            at: u64::from(ino.get()),
        })
    }

    /// Groups that were laid out together with this one.
    pub(in crate::delta) fn flex_of(&self, group: u64) -> std::ops::Range<u64> {
        let per_flex = self.sb.groups_per_flex.max(1);
        let past = group.checked_rem(per_flex).unwrap_or(0);
        let begin = group.saturating_sub(past);
        begin..begin.saturating_add(per_flex).min(self.sb.nr_groups())
    }

    /// Whether an inode is the file system's own: the root is not.
    pub(in crate::delta) fn is_own(&self, ino: Ino) -> bool {
        (ino < self.sb.first_ino && ino != Ino::ROOT) || self.sb.orphan_file == Some(ino)
    }

    /// The bytes of the inode that is so far into a group.
    pub(in crate::delta) fn raw(&self, group: u64, at: u32) -> Result<RawInode, Refusal> {
        let table = self.at(group)?.table;
        let begin = u64::from(at).saturating_mul(to_u64(self.sb.inode_size));
        let (past, at) = place_in_blocks(begin);
        Ok(RawInode {
            block: self.disk.block(table.after(past))?,
            at,
            len: self.sb.inode_size,
        })
    }

    /// How many blocks it has.
    pub(in crate::delta) const fn nr_blocks(&self) -> u64 {
        self.sb.blocks
    }

    /// Whether an inode is in use, with a name or without.
    pub(in crate::delta) fn is_used(&self, ino: Ino) -> Result<bool, Refusal> {
        let (group, at) = self.group_of(ino)?;
        Ok(self.in_use(group)?.has(at))
    }

    /// An inode, whether it has a name or not.
    pub(in crate::delta) fn inode(&self, ino: Ino) -> Result<Inode, Refusal> {
        let (group, at) = self.group_of(ino)?;
        Inode::decode(&self.sb, ino, self.raw(group, at)?.bytes())
    }

    /// An inode that is in use and has a name.
    pub(in crate::delta) fn linked(&self, ino: Ino) -> Result<Option<Inode>, Refusal> {
        let (group, at) = self.group_of(ino)?;
        if !self.in_use(group)?.has(at) || !is_linked(self.raw(group, at)?.bytes()) {
            return Ok(None);
        }
        self.inode(ino).map(Some)
    }

    /// The inode that a directory's entry leads to.
    pub(in crate::delta) fn named(&self, ino: Ino) -> Result<Inode, Refusal> {
        let found = self.linked(ino)?;
        found
            .filter(|inode| !self.is_own(inode.ino))
            .ok_or(Refusal::Damaged {
                what: "an entry leads to inode",
                at: u64::from(ino.get()),
            })
    }

    /// The directories of a group.
    pub(in crate::delta) fn directories(&self, group: u64) -> Result<Vec<Ino>, Refusal> {
        let used = self.in_use(group)?;
        let mut found = Vec::new();
        for at in (0..used.count).filter(|at| used.has(*at)) {
            let raw = self.raw(group, at)?;
            if !is_directory(raw.bytes()) || !is_linked(raw.bytes()) {
                continue;
            }
            let ino = self.ino(group, at).filter(|ino| !self.is_own(*ino));
            found.extend(ino);
        }
        Ok(found)
    }

    /// Inodes in a block of a table.
    pub(in crate::delta) fn inodes_per_block(&self) -> u32 {
        let count = BLOCK.checked_div(self.sb.inode_size).unwrap_or(1);
        u32::try_from(count).unwrap_or(1)
    }

    /// The inodes that hold the journal and the list of orphans.
    pub(in crate::delta) fn own_files(&self) -> Vec<Ino> {
        [self.sb.journal, self.sb.orphan_file]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// The block that a byte is in, and where there.
fn place_in_blocks(byte: u64) -> (u64, usize) {
    (byte / 4096, index(byte % 4096))
}

/// An inode's bytes.
#[derive(Debug, Clone)]
pub(in crate::delta) struct RawInode {
    block: Block,
    at: usize,
    len: usize,
}

impl RawInode {
    pub(in crate::delta) fn bytes(&self) -> &[u8] {
        let rest = self.block.get(self.at..).unwrap_or_default();
        rest.get(..self.len).unwrap_or_default()
    }
}
