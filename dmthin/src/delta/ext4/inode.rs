//! Inodes (`fs/ext4/ext4.h`, `struct ext4_inode`).

use super::bytes::{byte, clear, halves, le16, le32};
use super::superblock::{Superblock, to_u64};
use super::{FsBlock, Ino};
use crate::crc32c;
use crate::delta::Refusal;
use crate::ids::DevNo;

const FLAG_EXTENTS: u32 = 0x8_0000;
/// encrypt, verity, ea_inode, inline_data, casefold.
const FLAGS_UNKNOWN: u32 = 0x800 | 0x10_0000 | 0x20_0000 | 0x1000_0000 | 0x4000_0000;
const TYPE: u16 = 0o170_000;
/// What the first revision of inodes has; the rest is what they were extended by.
const OLD_SIZE: usize = 128;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delta) enum Kind {
    Directory,
    File,
    Symlink,
    Device(DevNo),
    /// A fifo or a socket.
    Other,
}

/// An inode, in use or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delta) struct Inode {
    pub(in crate::delta) ino: Ino,
    /// Type and permissions.
    pub(in crate::delta) mode: u16,
    pub(in crate::delta) kind: Kind,
    pub(in crate::delta) uid: u32,
    pub(in crate::delta) gid: u32,
    pub(in crate::delta) size: u64,
    pub(in crate::delta) links: u16,
    /// Seconds as they are recorded, with the bits that extend them, and nanoseconds.
    pub(in crate::delta) mtime: (u32, u32),
    pub(in crate::delta) generation: u32,
    /// The block with extended attributes.
    pub(in crate::delta) xattr_block: Option<FsBlock>,
    flags: u32,
    raw: Vec<u8>,
}

impl Inode {
    /// Reads an inode that is in use.
    pub(super) fn decode(sb: &Superblock, ino: Ino, raw: &[u8]) -> Result<Self, Refusal> {
        let at = u64::from(ino.get());
        check(sb, ino, raw)?;
        let mode = le16(raw, 0);
        let kind = match mode & TYPE {
            0o040_000 => Kind::Directory,
            0o100_000 => Kind::File,
            0o120_000 => Kind::Symlink,
            0o020_000 | 0o060_000 => Kind::Device(device(le32(raw, 0x28), le32(raw, 0x2c))),
            0o010_000 | 0o140_000 => Kind::Other,
            _ => {
                return Err(Refusal::Damaged {
                    what: "the type of inode",
                    at,
                });
            }
        };
        let flags = le32(raw, 0x20);
        if flags & FLAGS_UNKNOWN != 0 {
            return Err(Refusal::InodeFlags {
                ino,
                flags: flags & FLAGS_UNKNOWN,
            });
        }
        // A directory's upper half was something else before there were large ones.
        let high = match kind {
            Kind::Directory if !sb.large_dirs => 0,
            _ => le32(raw, 0x6c),
        };
        let xattr_block = halves(le32(raw, 0x68), u32::from(le16(raw, 0x76)));
        let inode = Self {
            ino,
            mode,
            kind,
            uid: u32::from(le16(raw, 2)) | u32::from(le16(raw, 0x78)) << 16,
            gid: u32::from(le16(raw, 0x18)) | u32::from(le16(raw, 0x7a)) << 16,
            size: halves(le32(raw, 4), high),
            links: le16(raw, 0x1a),
            mtime: (le32(raw, 0x10), extra(raw, 0x88)),
            generation: le32(raw, 0x64),
            xattr_block: (xattr_block != 0).then(|| FsBlock::new(xattr_block)),
            flags,
            raw: raw.to_vec(),
        };
        if !inode.has_extents() && inode.has_blocks() {
            return Err(Refusal::BlockMapped { ino });
        }
        Ok(inode)
    }

    /// Whether both are one object, which may have changed.
    pub(in crate::delta) fn is_same_object(&self, other: &Self) -> bool {
        (self.ino, self.generation, self.mode & TYPE)
            == (other.ino, other.generation, other.mode & TYPE)
    }

    pub(in crate::delta) fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub(super) const fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }

    /// Whether what it holds lies in blocks, not in the inode.
    const fn has_blocks(&self) -> bool {
        match self.kind {
            Kind::Directory | Kind::File => self.size > 0,
            Kind::Symlink => self.size >= 60,
            Kind::Device(_) | Kind::Other => false,
        }
    }

    /// How many blocks what it holds would take without holes.
    pub(in crate::delta) fn blocks(&self) -> u64 {
        blocks_of(self.size)
    }

    /// The target of a link that lies in the inode.
    pub(in crate::delta) fn target(&self) -> Option<&[u8]> {
        if self.kind != Kind::Symlink || self.has_extents() {
            return None;
        }
        let len = usize::try_from(self.size).ok()?;
        self.tree().get(..len)
    }

    /// The root of the tree of extents.
    pub(super) fn tree(&self) -> &[u8] {
        self.raw.get(0x28..0x64).unwrap_or_default()
    }

    /// Where its extended attributes begin, if there is room for some: all to the inode's end.
    pub(super) fn xattrs(&self) -> &[u8] {
        let begin = OLD_SIZE.saturating_add(extra_size(&self.raw));
        self.raw.get(begin..).unwrap_or_default()
    }
}

/// A device's number, in the older form where that one has room for it
/// (`include/linux/kdev_t.h`, `old_decode_dev`, `new_decode_dev`).
const fn device(older: u32, newer: u32) -> DevNo {
    if older != 0 {
        return DevNo::new((older >> 8) & 0xff, older & 0xff);
    }
    DevNo::new(
        (newer >> 8) & 0xfff,
        (newer & 0xff) | ((newer >> 12) & 0xf_ff00),
    )
}

/// How much of an inode beyond the old size is fields.
fn extra_size(raw: &[u8]) -> usize {
    if raw.len() > OLD_SIZE {
        usize::from(le16(raw, 0x80))
    } else {
        0
    }
}

/// A field that an inode may be too small for.
fn extra(raw: &[u8], at: usize) -> u32 {
    let end = OLD_SIZE.saturating_add(extra_size(raw));
    if at.saturating_add(4) <= end {
        le32(raw, at)
    } else {
        0
    }
}

/// Whether an inode's bytes say something else, but for its checksum and the time of its last access.
pub(in crate::delta) fn differs(old: &[u8], new: &[u8]) -> bool {
    let told = |raw: &[u8]| {
        let mut raw = raw.to_vec();
        clear(&mut raw, 0x8..0xc);
        clear(&mut raw, 0x7c..0x7e);
        if extra_size(&raw) >= 4 {
            clear(&mut raw, 0x82..0x84);
        }
        if extra_size(&raw) >= 0x10 {
            clear(&mut raw, 0x8c..0x90);
        }
        raw
    };
    old != new && told(old) != told(new)
}

fn check(sb: &Superblock, ino: Ino, raw: &[u8]) -> Result<(), Refusal> {
    let extra = extra_size(raw);
    if !extra.is_multiple_of(4) || OLD_SIZE.saturating_add(extra) > raw.len() {
        return Err(Refusal::Damaged {
            what: "the extra size of inode",
            at: u64::from(ino.get()),
        });
    }
    let Some(seed) = sb.seed else {
        return Ok(());
    };
    let mut covered = raw.to_vec();
    clear(&mut covered, 0x7c..0x7e);
    let mut stored = u32::from(le16(raw, 0x7c));
    let mut mask = 0xffff;
    if extra >= 4 {
        clear(&mut covered, 0x82..0x84);
        stored |= u32::from(le16(raw, 0x82)) << 16;
        mask = u32::MAX;
    }
    let seed = crc32c::extend(seed, &ino.get().to_le_bytes());
    let generation = raw.get(0x64..0x68).unwrap_or_default();
    let crc = crc32c::extend(crc32c::extend(seed, generation), &covered);
    if crc & mask == stored {
        return Ok(());
    }
    Err(Refusal::Checksum {
        what: "inode",
        at: u64::from(ino.get()),
    })
}

/// Whether an inode's bytes are those of one that has a name, of which the bitmap says that it is in use.
pub(super) fn is_linked(raw: &[u8]) -> bool {
    le16(raw, 0x1a) > 0 && byte(raw, 1) != 0
}

/// Whether they are of a directory.
pub(super) fn is_directory(raw: &[u8]) -> bool {
    le16(raw, 0) & TYPE == 0o040_000
}

/// How many whole blocks a file of this size has at most.
pub(super) fn blocks_of(size: u64) -> u64 {
    size.div_ceil(to_u64(super::BLOCK))
}
