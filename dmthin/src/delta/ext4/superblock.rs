//! The superblock (`fs/ext4/ext4.h`, `struct ext4_super_block`): what the file system is like, and whether
//! we read it. At byte 1024, little endian.

use super::bytes::{byte, clear, halves, le16, le32};
use super::{BLOCK, FsBlock, Ino};
use crate::crc32c;
use crate::delta::Refusal;

const AT: usize = 1024;
const LEN: usize = 1024;
const MAGIC: u16 = 0xef53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
/// has_journal, ext_attr, resize_inode, dir_index, fast_commit, stable_inodes, orphan_file.
const COMPAT: u32 = 0x4 | 0x8 | 0x10 | 0x20 | 0x400 | 0x800 | 0x1000;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
const INCOMPAT_LARGEDIR: u32 = 0x4000;
/// These and flex_bg.
const INCOMPAT: u32 = INCOMPAT_FILETYPE
    | INCOMPAT_EXTENTS
    | INCOMPAT_64BIT
    | 0x200
    | INCOMPAT_CSUM_SEED
    | INCOMPAT_LARGEDIR;
const RO_SPARSE_SUPER: u32 = 0x1;
const RO_GDT_CSUM: u32 = 0x10;
const RO_METADATA_CSUM: u32 = 0x400;
/// sparse_super, large_file, huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum, orphan_present.
const RO: u32 = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x400 | 0x1_0000;

const STATE_UNMOUNTED: u16 = 1;
const STATE_ERRORS: u16 = 2;

/// Inodes below are the file system's own.
const FIRST_INO_MIN: u32 = 11;

/// What a superblock says, as far as it matters here, with its sizes checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delta) struct Superblock {
    pub(super) inodes: u32,
    pub(super) blocks: u64,
    pub(super) blocks_per_group: u64,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: usize,
    pub(super) descriptor_size: usize,
    pub(super) reserved_descriptors: u64,
    pub(super) groups_per_flex: u64,
    pub(super) first_ino: Ino,
    pub(super) journal: Option<Ino>,
    pub(super) orphan_file: Option<Ino>,
    pub(super) uuid: [u8; 16],
    /// The seed of the checksums, where there are some.
    pub(super) seed: Option<u32>,
    /// Whether groups say what of them was never used.
    pub(super) has_uninit: bool,
    pub(super) large_dirs: bool,
    pub(super) sparse_backups: bool,
}

fn unknown(set: &'static str, bits: u32, known: u32) -> Result<(), Refusal> {
    match bits & !known {
        0 => Ok(()),
        bits => Err(Refusal::Features { set, bits }),
    }
}

impl Superblock {
    /// Reads it from the first block of the device.
    pub(super) fn decode(block: &[u8]) -> Result<Self, Refusal> {
        let sb = block.get(AT..AT.saturating_add(LEN)).unwrap_or_default();
        if le16(sb, 0x38) != MAGIC {
            return Err(Refusal::NotExt4);
        }
        let damaged = |what| Refusal::Damaged { what, at: 0 };
        let (compat, incompat, ro) = (le32(sb, 0x5c), le32(sb, 0x60), le32(sb, 0x64));
        // An older revision has no such fields.
        if le32(sb, 0x4c) < 1 || incompat & INCOMPAT_EXTENTS == 0 {
            return Err(Refusal::NotExt4);
        }
        if incompat & INCOMPAT_RECOVER != 0 {
            return Err(Refusal::NeedsRecovery);
        }
        unknown("compat", compat, COMPAT)?;
        unknown("incompat", incompat, INCOMPAT)?;
        unknown("ro_compat", ro, RO)?;
        if incompat & INCOMPAT_FILETYPE == 0 {
            return Err(Refusal::NoFileTypes);
        }
        if le32(sb, 0x18) != 2 || le32(sb, 0x14) != 0 {
            return Err(Refusal::BlockSize);
        }
        let state = le16(sb, 0x3a);
        if state & STATE_ERRORS != 0 {
            return Err(Refusal::HasErrors);
        }
        let has_journal = compat & COMPAT_HAS_JOURNAL != 0;
        if !has_journal && state & STATE_UNMOUNTED == 0 {
            return Err(Refusal::NotUnmounted);
        }
        let uuid: [u8; 16] = sb
            .get(0x68..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or_default();
        let seed = (ro & RO_METADATA_CSUM != 0).then(|| {
            if incompat & INCOMPAT_CSUM_SEED == 0 {
                crc32c::crc32c(&uuid)
            } else {
                le32(sb, 0x270)
            }
        });
        if seed.is_some() {
            let mut covered = sb.to_vec();
            covered.truncate(0x3fc);
            if byte(sb, 0x175) != 1 || crc32c::crc32c(&covered) != le32(sb, 0x3fc) {
                return Err(Refusal::Checksum {
                    what: "the superblock",
                    at: 0,
                });
            }
        }
        let wide = incompat & INCOMPAT_64BIT != 0;
        let special = |at| Some(Ino::new(le32(sb, at))).filter(|ino| ino.get() != 0);
        let found = Self {
            inodes: le32(sb, 0),
            blocks: halves(le32(sb, 4), if wide { le32(sb, 0x150) } else { 0 }),
            blocks_per_group: u64::from(le32(sb, 0x20)),
            inodes_per_group: le32(sb, 0x28),
            inode_size: usize::from(le16(sb, 0x58)),
            descriptor_size: if wide {
                usize::from(le16(sb, 0xfe))
            } else {
                32
            },
            reserved_descriptors: u64::from(le16(sb, 0xce)),
            groups_per_flex: 1_u64
                .checked_shl(u32::from(byte(sb, 0x174)))
                .ok_or(damaged("the size of a flexible group"))?,
            first_ino: Ino::new(le32(sb, 0x54)),
            journal: special(0xe0).filter(|_| has_journal),
            orphan_file: special(0x280).filter(|_| compat & 0x1000 != 0),
            uuid,
            seed,
            has_uninit: ro & (RO_GDT_CSUM | RO_METADATA_CSUM) != 0,
            large_dirs: incompat & INCOMPAT_LARGEDIR != 0,
            sparse_backups: ro & RO_SPARSE_SUPER != 0,
        };
        if has_journal && found.journal.is_none() {
            return Err(Refusal::JournalElsewhere);
        }
        found.check().map(|()| found)
    }

    fn check(&self) -> Result<(), Refusal> {
        let damaged = |what| Err(Refusal::Damaged { what, at: 0 });
        if !self.inode_size.is_power_of_two() || !(128..=BLOCK).contains(&self.inode_size) {
            return damaged("the size of an inode");
        }
        if !self.descriptor_size.is_power_of_two() || !(32..=1024).contains(&self.descriptor_size) {
            return damaged("the size of a group's descriptor");
        }
        if !(8..=32_768).contains(&self.blocks_per_group) {
            return damaged("the blocks of a group");
        }
        if !(1..=32_768).contains(&self.inodes_per_group) {
            return damaged("the inodes of a group");
        }
        // The kernel's limit: block numbers of 48 bits (`fs/ext4/ext4_extents.h`).
        if self.blocks == 0 || self.blocks >= 1 << 48 {
            return damaged("the number of blocks");
        }
        let inodes = self
            .nr_groups()
            .saturating_mul(u64::from(self.inodes_per_group));
        if inodes != u64::from(self.inodes) {
            return damaged("the number of inodes");
        }
        if self.first_ino.get() < FIRST_INO_MIN {
            return damaged("the first inode");
        }
        Ok(())
    }

    pub(in crate::delta) const fn nr_groups(&self) -> u64 {
        self.blocks.div_ceil(self.blocks_per_group)
    }

    /// Blocks of a group's table of inodes.
    pub(super) fn table_blocks(&self) -> u64 {
        let bytes = u64::from(self.inodes_per_group).saturating_mul(to_u64(self.inode_size));
        bytes.div_ceil(to_u64(BLOCK))
    }

    /// Blocks of all groups' descriptors.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        let bytes = self
            .nr_groups()
            .saturating_mul(to_u64(self.descriptor_size));
        bytes.div_ceil(to_u64(BLOCK))
    }

    /// Whether a group begins with a copy of the superblock and of the descriptors.
    pub(super) fn has_copy(&self, group: u64) -> bool {
        let is_power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        !self.sparse_backups || group <= 1 || [3, 5, 7].into_iter().any(is_power_of)
    }

    /// The first block of a group.
    pub(super) const fn group_begin(&self, group: u64) -> FsBlock {
        FsBlock::new(group.saturating_mul(self.blocks_per_group))
    }

    /// The group's descriptor, with its checksum proven.
    pub(super) fn check_descriptor(&self, group: u32, bytes: &[u8]) -> Result<(), Refusal> {
        let Some(seed) = self.seed else {
            return Ok(());
        };
        let mut covered = bytes.to_vec();
        clear(&mut covered, 0x1e..0x20);
        let crc = crc32c::extend(crc32c::extend(seed, &group.to_le_bytes()), &covered);
        let [low, high, ..] = crc.to_le_bytes();
        if u16::from_le_bytes([low, high]) == le16(bytes, 0x1e) {
            return Ok(());
        }
        Err(Refusal::Checksum {
            what: "the descriptor of group",
            at: u64::from(group),
        })
    }
}

pub(super) fn to_u64(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
