//! The superblock: block 0 of the metadata device (`drivers/md/dm-thin-metadata.c`,
//! `struct thin_disk_superblock`). All numbers are little endian.
//!
//! ```text
//!   0 csum u32       4 flags u32      8 blocknr u64    16 uuid [16]
//!  32 magic u64     40 version u32   44 time u32       48 trans_id u64   56 held_root u64
//!  64 data space map root [128]: nr_blocks u64, nr_allocated u64, bitmap root, ref count root
//! 192 metadata space map root [128]: the same
//! 320 data_mapping_root u64         328 device_details_root u64
//! 336 data_block_size u32 (sectors) 340 metadata_block_size u32 (sectors)
//! 344 metadata_nr_blocks u64
//! 352 compat u32   356 compat_ro u32   360 incompat u32
//! ```
//!
//! `csum` is the CRC-32C register over bytes 4 to 4095, xored with 160774.

use std::fmt;
use std::io::{self, Read};

use crate::crc32c::crc32c;
use crate::ids::TransactionId;
use crate::thinmeta::node::Damage;
use crate::units::{BlockSize, DataBlocks, MetaBlocks, Sectors};

pub(super) const BLOCK: usize = 4096;
const CSUM_XOR: u32 = 160_774;
const MAGIC: u64 = 27_022_010;
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
const METADATA_BLOCK_SECTORS: u32 = 8;
const NEEDS_CHECK: u32 = 1;

const FLAGS_AT: usize = 4;
const BLOCKNR_AT: usize = 8;
const MAGIC_AT: usize = 32;
const VERSION_AT: usize = 40;
const TRANS_ID_AT: usize = 48;
const HELD_ROOT_AT: usize = 56;
const DATA_SPACE_MAP_AT: usize = 64;
const METADATA_SPACE_MAP_AT: usize = 192;
const DATA_MAPPING_ROOT_AT: usize = 320;
const DEVICE_DETAILS_ROOT_AT: usize = 328;
const DATA_BLOCK_SIZE_AT: usize = 336;
const METADATA_BLOCK_SIZE_AT: usize = 340;
const INCOMPAT_AT: usize = 360;

/// What a space map's root counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceMap<T> {
    /// Blocks there are.
    pub total: T,
    /// Blocks in use.
    pub allocated: T,
}

/// A superblock whose checksum and limits hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The metadata must be checked before the pool may write.
    pub needs_check: bool,
    /// The format's version, 1 or 2.
    pub version: u32,
    /// Pairs the pool with its catalogue.
    pub transaction_id: TransactionId,
    /// The block of the metadata snapshot's superblock, where a snapshot is held.
    pub held_root: Option<MetaBlocks>,
    /// The data device's blocks, as of the last commit.
    pub data: SpaceMap<DataBlocks>,
    /// The metadata device's blocks, as of the last commit.
    pub metadata: SpaceMap<MetaBlocks>,
    /// The block at the root of the mapping tree.
    pub data_mapping_root: MetaBlocks,
    /// The block at the root of the tree of devices.
    pub device_details_root: MetaBlocks,
    /// The unit of allocation the pool was formatted with.
    pub block_size: BlockSize,
}

/// What the first block of a metadata device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstBlock {
    /// Only zeroes: the kernel would format the device (`__superblock_all_zeroes`).
    Unformatted,
    /// A pool's superblock.
    Superblock(Box<Superblock>),
}

/// That the first block is neither empty nor a sound superblock. Its text says where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the thin metadata's superblock is not sound: {0}")]
pub struct Corrupt(Kind);

impl Corrupt {
    /// Whether the block was never a superblock: some other data lies there.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self.0, Kind::Magic { .. })
    }
}

/// Which rule the block breaks. `at` is a byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Short {
        found: usize,
    },
    Magic {
        found: u64,
    },
    Checksum {
        found: u32,
        expected: u32,
    },
    BlockNumber {
        found: u64,
        expected: u64,
    },
    Version {
        found: u32,
    },
    Incompatible {
        flags: u32,
    },
    DataBlockSize {
        sectors: u32,
    },
    MetadataBlockSize {
        sectors: u32,
    },
    OverAllocated {
        at: usize,
        allocated: u64,
        total: u64,
    },
    Root {
        at: usize,
        block: u64,
        total: u64,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { found } => write!(f, "the device has {found} bytes, a block has {BLOCK}"),
            Self::Magic { found } => write!(
                f,
                "byte {MAGIC_AT}: magic {found:#x}, not {MAGIC:#x}: this is other data"
            ),
            Self::Checksum { found, expected } => {
                write!(f, "byte 0: checksum {found:#010x}, not {expected:#010x}")
            }
            Self::BlockNumber { found, expected } => {
                write!(f, "byte {BLOCKNR_AT}: block {found}, not {expected}")
            }
            Self::Version { found } => {
                write!(f, "byte {VERSION_AT}: version {found}, not 1 or 2")
            }
            Self::Incompatible { flags } => {
                write!(f, "byte {INCOMPAT_AT}: features {flags:#x} are not known")
            }
            Self::DataBlockSize { sectors } => write!(
                f,
                "byte {DATA_BLOCK_SIZE_AT}: data blocks of {sectors} sectors"
            ),
            Self::MetadataBlockSize { sectors } => write!(
                f,
                "byte {METADATA_BLOCK_SIZE_AT}: metadata blocks of {sectors} sectors, not 8"
            ),
            Self::OverAllocated {
                at,
                allocated,
                total,
            } => write!(f, "byte {at}: {allocated} of {total} blocks in use"),
            Self::Root { at, block, total } => {
                write!(f, "byte {at}: root in block {block} of {total}")
            }
        }
    }
}

/// Why the first block was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The device could not be read.
    #[error("cannot read the thin metadata's superblock")]
    Io(#[source] io::Error),
    /// It could, and is not sound.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// A block behind it could not be read.
    #[error("cannot read block {block} of the thin metadata")]
    Block {
        /// Which.
        block: MetaBlocks,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// A block behind it could, and is not what belongs there.
    #[error(transparent)]
    Damage(#[from] Damage),
}

fn bytes_at<const N: usize>(block: &[u8; BLOCK], at: usize) -> [u8; N] {
    block
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .expect("every field's offset is a constant inside the block")
}

pub(super) fn u32_at(block: &[u8; BLOCK], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(block, at))
}

pub(super) fn u64_at(block: &[u8; BLOCK], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(block, at))
}

/// The two counts at the head of a space map's root.
fn counts_at(block: &[u8; BLOCK], at: usize) -> Result<(u64, u64), Corrupt> {
    let [total, allocated] = [0, 8].map(|field: usize| u64_at(block, at.saturating_add(field)));
    if allocated > total {
        return Err(Corrupt(Kind::OverAllocated {
            at,
            allocated,
            total,
        }));
    }
    Ok((total, allocated))
}

impl FirstBlock {
    /// Reads the first block from `device`, which stands at its start.
    ///
    /// # Errors
    /// [`ReadError`] where it cannot be read, or is neither empty nor a sound superblock.
    pub fn read(device: &mut impl Read) -> Result<Self, ReadError> {
        let mut block = Vec::with_capacity(BLOCK);
        device
            .take(u64::try_from(BLOCK).expect("4096 fits"))
            .read_to_end(&mut block)
            .map_err(ReadError::Io)?;
        Ok(Self::decode(&block)?)
    }

    /// Takes the bytes of a first block apart.
    ///
    /// # Errors
    /// [`Corrupt`] where they are neither empty nor a sound superblock.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let block: &[u8; BLOCK] = bytes
            .first_chunk()
            .ok_or(Corrupt(Kind::Short { found: bytes.len() }))?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(Self::Unformatted);
        }
        Superblock::decode(block).map(|sb| Self::Superblock(Box::new(sb)))
    }
}

impl FirstBlock {
    /// Reads the first block of a copy of metadata, and gives it with another transaction id.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn with_transaction(
        device: &mut impl Read,
        id: TransactionId,
    ) -> Result<(Self, Vec<u8>), ReadError> {
        let mut block = [0; BLOCK];
        device.read_exact(&mut block).map_err(ReadError::Io)?;
        if Self::decode(&block)? != Self::Unformatted {
            put(&mut block, TRANS_ID_AT, &id.get().to_le_bytes());
            seal(&mut block);
        }
        Ok((Self::decode(&block)?, block.to_vec()))
    }
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    let rest = block.get_mut(at..).unwrap_or_default();
    if let Some(field) = rest.get_mut(..bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

/// Makes the checksum right.
fn seal(block: &mut [u8; BLOCK]) {
    let (_, summed) = block.split_at(FLAGS_AT);
    let sum = crc32c(summed) ^ CSUM_XOR;
    put(block, 0, &sum.to_le_bytes());
}

/// That the block is a superblock that belongs at `place`; gives its unit of allocation.
fn check(block: &[u8; BLOCK], place: MetaBlocks) -> Result<BlockSize, Corrupt> {
    // Before the checksum: other data is to be called other data, not a damaged superblock.
    let magic = u64_at(block, MAGIC_AT);
    if magic != MAGIC {
        return Err(Corrupt(Kind::Magic { found: magic }));
    }
    let found = u32_at(block, 0);
    let (_, summed) = block.split_at(FLAGS_AT);
    let expected = crc32c(summed) ^ CSUM_XOR;
    if found != expected {
        return Err(Corrupt(Kind::Checksum { found, expected }));
    }
    let (found, expected) = (u64_at(block, BLOCKNR_AT), place.get());
    if found != expected {
        return Err(Corrupt(Kind::BlockNumber { found, expected }));
    }
    let version = u32_at(block, VERSION_AT);
    if !VERSIONS.contains(&version) {
        return Err(Corrupt(Kind::Version { found: version }));
    }
    let incompat = u32_at(block, INCOMPAT_AT);
    if incompat != 0 {
        return Err(Corrupt(Kind::Incompatible { flags: incompat }));
    }
    let sectors = u32_at(block, METADATA_BLOCK_SIZE_AT);
    if sectors != METADATA_BLOCK_SECTORS {
        return Err(Corrupt(Kind::MetadataBlockSize { sectors }));
    }
    let sectors = u32_at(block, DATA_BLOCK_SIZE_AT);
    BlockSize::from_sectors(Sectors::new(u64::from(sectors)))
        .map_err(|_| Corrupt(Kind::DataBlockSize { sectors }))
}

fn root_at(block: &[u8; BLOCK], at: usize, total: u64) -> Result<MetaBlocks, Corrupt> {
    let root = u64_at(block, at);
    if root >= total {
        return Err(Corrupt(Kind::Root {
            at,
            block: root,
            total,
        }));
    }
    Ok(MetaBlocks::new(root))
}

/// Where the trees of a pool begin, and what else belongs to the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) transaction_id: TransactionId,
    pub(super) block_size: BlockSize,
    pub(super) mappings: MetaBlocks,
    pub(super) details: MetaBlocks,
}

impl Roots {
    /// Takes a metadata snapshot's superblock apart, which lies in block `place`. It is a copy whose
    /// space maps are wiped (`dm-thin-metadata.c:__reserve_metadata_snap`): how many blocks there are
    /// is to be had from elsewhere.
    pub(super) fn decode(
        block: &[u8; BLOCK],
        place: MetaBlocks,
        total: MetaBlocks,
    ) -> Result<Self, Corrupt> {
        let block_size = check(block, place)?;
        Ok(Self {
            transaction_id: TransactionId::new(u64_at(block, TRANS_ID_AT)),
            block_size,
            mappings: root_at(block, DATA_MAPPING_ROOT_AT, total.get())?,
            details: root_at(block, DEVICE_DETAILS_ROOT_AT, total.get())?,
        })
    }
}

impl Superblock {
    fn decode(block: &[u8; BLOCK]) -> Result<Self, Corrupt> {
        let block_size = check(block, MetaBlocks::ZERO)?;
        let (data_total, data_allocated) = counts_at(block, DATA_SPACE_MAP_AT)?;
        let (total, allocated) = counts_at(block, METADATA_SPACE_MAP_AT)?;
        let root = |at| root_at(block, at, total);
        Ok(Self {
            needs_check: u32_at(block, FLAGS_AT) & NEEDS_CHECK != 0,
            version: u32_at(block, VERSION_AT),
            transaction_id: TransactionId::new(u64_at(block, TRANS_ID_AT)),
            // The kernel writes 0 for none: block 0 is the superblock itself.
            held_root: Some(root(HELD_ROOT_AT)?).filter(|held| *held != MetaBlocks::ZERO),
            data: SpaceMap {
                total: DataBlocks::new(data_total),
                allocated: DataBlocks::new(data_allocated),
            },
            metadata: SpaceMap {
                total: MetaBlocks::new(total),
                allocated: MetaBlocks::new(allocated),
            },
            data_mapping_root: root(DATA_MAPPING_ROOT_AT)?,
            device_details_root: root(DEVICE_DETAILS_ROOT_AT)?,
            block_size,
        })
    }

    pub(super) const fn roots(&self) -> Roots {
        Roots {
            transaction_id: self.transaction_id,
            block_size: self.block_size,
            mappings: self.data_mapping_root,
            details: self.device_details_root,
        }
    }
}

/// The first block of a copy of the trees that begin in the superblock `held`, of the pool whose own is
/// `live`: it may be the same.
pub(super) fn first_block_of(
    held: &[u8; BLOCK],
    live: &[u8; BLOCK],
) -> Result<[u8; BLOCK], Corrupt> {
    Superblock::decode(live)?;
    let mut block = *held;
    // Neither a flag nor a snapshot is taken over.
    put(&mut block, FLAGS_AT, &[0; 4]);
    put(&mut block, BLOCKNR_AT, &[0; 8]);
    put(&mut block, HELD_ROOT_AT, &[0; 8]);
    let maps = live.get(DATA_SPACE_MAP_AT..DATA_MAPPING_ROOT_AT);
    put(&mut block, DATA_SPACE_MAP_AT, maps.unwrap_or_default());
    seal(&mut block);
    Superblock::decode(&block)?;
    Ok(block)
}

#[cfg(test)]
mod tests;
