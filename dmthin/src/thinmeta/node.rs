//! A node of a btree (`drivers/md/persistent-data/dm-btree-internal.h`, `struct node_header`). All
//! numbers are little endian.
//!
//! ```text
//!  0 csum u32         4 flags u32 (1 internal, 2 leaf)   8 blocknr u64
//! 16 nr_entries u32  20 max_entries u32   24 value_size u32   28 padding
//! 32 keys [max_entries] u64, in order, each once
//!    values [max_entries]: in an internal node the block of the child that begins with that key
//! ```
//!
//! `csum` is the CRC-32C register over bytes 4 to 4095, xored with 121107.

use std::fmt;

use crate::crc32c::crc32c;
use crate::thinmeta::superblock::{BLOCK, u32_at, u64_at};
use crate::units::MetaBlocks;

const CSUM_XOR: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;

const CSUM_FROM: usize = 4;
const BLOCKNR_AT: usize = 8;
const NR_ENTRIES_AT: usize = 16;
const MAX_ENTRIES_AT: usize = 20;
const VALUE_SIZE_AT: usize = 24;
const KEYS_AT: usize = 32;
const KEY: usize = 8;

/// That a block of the metadata is not what its place in the trees wants. Its text says where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the thin metadata are damaged: block {block}: {kind}")]
pub struct Damage {
    /// Which block.
    pub block: MetaBlocks,
    kind: Kind,
}

impl Damage {
    pub(super) const fn new(block: MetaBlocks, kind: Kind) -> Self {
        Self { block, kind }
    }

    #[cfg(test)]
    pub(super) const fn kind(&self) -> &Kind {
        &self.kind
    }
}

/// Which rule is broken. `entry` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Checksum {
        found: u32,
        expected: u32,
    },
    BlockNumber {
        found: u64,
    },
    Flags {
        found: u32,
    },
    Entries {
        found: u32,
        most: u32,
    },
    ValueSize {
        found: u32,
        expected: usize,
    },
    TooLong {
        max_entries: u32,
    },
    Empty,
    Order {
        entry: usize,
    },
    KeyRange {
        found: u64,
        begin: u64,
        end: Option<u64>,
    },
    Child {
        entry: usize,
        block: u64,
        total: u64,
    },
    Cycle,
    Depth,
    ThinId {
        found: u64,
    },
    DataBlock {
        entry: usize,
        block: u64,
        total: u64,
    },
    Unpaired {
        thin_id: u64,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum { found, expected } => {
                write!(f, "checksum {found:#010x}, not {expected:#010x}")
            }
            Self::BlockNumber { found } => write!(f, "it calls itself block {found}"),
            Self::Flags { found } => write!(f, "flags {found:#x} are no node's"),
            Self::Entries { found, most } => write!(f, "{found} entries of at most {most}"),
            Self::ValueSize { found, expected } => {
                write!(f, "values of {found} bytes, not {expected}")
            }
            Self::TooLong { max_entries } => {
                write!(f, "{max_entries} entries do not fit in a block")
            }
            Self::Empty => f.write_str("an inner node without a child"),
            Self::Order { entry } => write!(f, "the key of entry {entry} is out of order"),
            Self::KeyRange { found, begin, end } => {
                write!(f, "key {found} is not in the range from {begin}")?;
                match end {
                    Some(end) => write!(f, " to {end} that its parent gives it"),
                    None => f.write_str(" on that its parent gives it"),
                }
            }
            Self::Child {
                entry,
                block,
                total,
            } => {
                write!(f, "entry {entry} leads to block {block} of {total}")
            }
            Self::Cycle => f.write_str("it leads back to itself"),
            Self::Depth => f.write_str("the tree is deeper than any tree can be"),
            Self::ThinId { found } => write!(f, "{found} is no thin id"),
            Self::DataBlock {
                entry,
                block,
                total,
            } => {
                write!(f, "entry {entry} maps data block {block} of {total}")
            }
            Self::Unpaired { thin_id } => write!(
                f,
                "thin device {thin_id} is in only one of the trees of mappings and of details"
            ),
        }
    }
}

/// A node whose header holds: checksum, place, and lengths within the block.
#[derive(Debug)]
pub(super) struct Node<'a> {
    block: MetaBlocks,
    bytes: &'a [u8; BLOCK],
    is_leaf: bool,
    nr_entries: usize,
    values_at: usize,
    value_size: usize,
}

impl<'a> Node<'a> {
    /// The node in a block; `value_size` is that of the tree's leaves.
    pub(super) fn decode(
        block: MetaBlocks,
        bytes: &'a [u8; BLOCK],
        value_size: usize,
    ) -> Result<Self, Damage> {
        let damage = |kind| Damage::new(block, kind);
        let found = u32_at(bytes, 0);
        let (_, summed) = bytes.split_at(CSUM_FROM);
        let expected = crc32c(summed) ^ CSUM_XOR;
        if found != expected {
            return Err(damage(Kind::Checksum { found, expected }));
        }
        let blocknr = u64_at(bytes, BLOCKNR_AT);
        if blocknr != block.get() {
            return Err(damage(Kind::BlockNumber { found: blocknr }));
        }
        let is_leaf = match u32_at(bytes, CSUM_FROM) {
            INTERNAL => false,
            LEAF => true,
            found => return Err(damage(Kind::Flags { found })),
        };
        let (nr, max) = (u32_at(bytes, NR_ENTRIES_AT), u32_at(bytes, MAX_ENTRIES_AT));
        if nr > max {
            return Err(damage(Kind::Entries {
                found: nr,
                most: max,
            }));
        }
        let expected = if is_leaf { value_size } else { KEY };
        let found = u32_at(bytes, VALUE_SIZE_AT);
        if usize::try_from(found) != Ok(expected) {
            return Err(damage(Kind::ValueSize { found, expected }));
        }
        let too_long = || damage(Kind::TooLong { max_entries: max });
        let length = |each: usize| {
            usize::try_from(max)
                .ok()
                .and_then(|max| max.checked_mul(each))
                .filter(|length| *length <= BLOCK)
        };
        let values_at = length(KEY)
            .and_then(|keys| keys.checked_add(KEYS_AT))
            .ok_or_else(too_long)?;
        length(expected)
            .and_then(|values| values.checked_add(values_at))
            .filter(|end| *end <= BLOCK)
            .ok_or_else(too_long)?;
        let node = Self {
            block,
            bytes,
            is_leaf,
            nr_entries: usize::try_from(nr).unwrap_or(0),
            values_at,
            value_size: expected,
        };
        if !is_leaf && nr == 0 {
            return Err(damage(Kind::Empty));
        }
        let mut keys = node.keys();
        let mut last = keys.next();
        for (entry, key) in (1..).zip(keys) {
            if last.replace(key) >= Some(key) {
                return Err(damage(Kind::Order { entry }));
            }
        }
        Ok(node)
    }

    pub(super) const fn is_leaf(&self) -> bool {
        self.is_leaf
    }

    pub(super) fn damage(&self, kind: Kind) -> Damage {
        Damage::new(self.block, kind)
    }

    /// The keys, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> + 'a {
        let keys = self.bytes.get(KEYS_AT..self.values_at).unwrap_or_default();
        let (keys, _) = keys.as_chunks();
        keys.iter()
            .take(self.nr_entries)
            .map(|key| u64::from_le_bytes(*key))
    }

    /// Each key with the bytes of its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, &'a [u8])> + 'a {
        let values = self.bytes.get(self.values_at..).unwrap_or_default();
        self.keys().zip(values.chunks_exact(self.value_size))
    }
}

/// The number at the begin of a value, of a value that has none zero.
pub(super) fn number(value: &[u8], at: usize) -> u64 {
    value
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
