//! The mirror: a copy of the catalogue on a thin volume of the pool itself, of which a catalogue that is
//! lost is made again.
//!
//! The volume has the last thin id there is, which no other volume is ever given: nothing that a
//! container writes can be taken for it. It is a superblock, written once, and two halves. A half is a
//! header, all rows as they were when it was begun, and after them a log of what changed since, a block of
//! 4096 bytes at a time. Where the log has no room left everything is written anew into the other half.
//!
//! ```text
//! 0          the superblock
//! 4 KiB      the first half
//! 128 MiB + 4 KiB  the second half
//!
//! half       header 4096 | rows | zeros up to a block | log block | log block | ...
//! ```
//! All numbers are little endian; `docs/mirror.md` has the same tables. A `crc` is the CRC-32C of its block
//! with that field zero.
//!
//! ```text
//! superblock   0 magic [8] "DMTHINMR"    8 version u32     12 crc u32     16 pool uuid [16]
//!             32 features: compatible u32, for reading only u32, incompatible u32
//! header       0 magic [8] "DMTHINMH"    8 format of the catalogue u32    12 crc u32   16 pool uuid [16]
//!             32 epoch u64              40 length of the rows u64         48 crc of the rows u32
//!             52 zero u32               56 extent u64                     64 written u64, unix seconds
//!             72 nonce [16]
//! log block    0 magic [8] "DMTHINMF"    8 length u32      12 crc u32     16 nonce [16]
//!             32 sequence u64           40 written u64     48 records, zeros after them
//! ```
//! The half with the higher epoch counts, if its rows have their checksum: a header is flushed together
//! with its rows, and the other half is left alone meanwhile. Log blocks are written without a flush, each
//! in a place of its own: those that are whole and have the header's nonce count, in the order of
//! their sequence. The nonce is random, so that no bytes of a catalogue, an image's
//! configuration above all, can pass for a block of the log when they are left over from an earlier epoch.
//! Up to its extent a half has blocks of the pool: to write there takes no room.

use std::collections::BTreeMap;

use crate::crc32c::crc32c;
use crate::ids::PoolUuid;
use crate::label::rows::{Record, Value};
use crate::label::{BLOCK, Block, CRC_AT, VERSION_AT, bytes_at, checksum, put, u32_at, u64_at};
use crate::units::Bytes;

/// How long the volume is; of most of it the pool has no blocks.
pub const MIRROR_SIZE: Bytes = Bytes::from_mib(256);
/// What is written at once, and where everything begins.
pub const MIRROR_BLOCK: Bytes = Bytes::from_kib(4);
/// Where the halves begin.
pub const HALF_AT: [Bytes; 2] = [Bytes::from_kib(4), Bytes::from_kib(128 * 1024 + 4)];
/// How long a half may become.
pub const HALF_LEN: Bytes = Bytes::from_kib(128 * 1024 - 4);

const MAGIC: &[u8; 8] = b"DMTHINMR";
const HEADER_MAGIC: &[u8; 8] = b"DMTHINMH";
const LOG_MAGIC: &[u8; 8] = b"DMTHINMF";
const VERSION: u32 = 1;

const POOL_AT: usize = 16;
const INCOMPATIBLE_AT: usize = 40;

const FORMAT_AT: usize = 8;
const EPOCH_AT: usize = 32;
const LENGTH_AT: usize = 40;
const ROWS_CRC_AT: usize = 48;
const EXTENT_AT: usize = 56;
const WRITTEN_AT: usize = 64;
const NONCE_AT: usize = 72;

const LOG_LENGTH_AT: usize = 8;
const LOG_NONCE_AT: usize = 16;
const LOG_SEQUENCE_AT: usize = 32;
const LOG_WRITTEN_AT: usize = 40;
const LOG_RECORDS_AT: usize = 48;
/// Bytes of records that a block of the log takes.
pub const LOG_ROOM: usize = BLOCK - LOG_RECORDS_AT;

/// What tells the log of one epoch from everything else.
pub type Nonce = [u8; 16];

/// Why a volume is no mirror of this pool that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// It does not begin with a sound superblock.
    #[error("it has no sound superblock")]
    NotSound,
    /// A later version wrote it.
    #[error("a later version wrote it: version {version}, features {features:#x}")]
    Newer {
        /// Its version.
        version: u32,
        /// What has to be understood to read it.
        features: u32,
    },
}

/// The first block of a pool's mirror.
#[must_use]
pub fn mirror_superblock(pool: PoolUuid) -> Vec<u8> {
    let mut block: Block = [0; BLOCK];
    put(&mut block, 0, MAGIC);
    put(&mut block, VERSION_AT, &VERSION.to_le_bytes());
    put(&mut block, POOL_AT, &pool.to_bytes());
    sealed(block)
}

/// Whose mirror begins with this block.
///
/// # Errors
/// [`MirrorError`].
pub fn mirror_of(bytes: &[u8]) -> Result<PoolUuid, MirrorError> {
    let block: &Block = sound(bytes, MAGIC).ok_or(MirrorError::NotSound)?;
    let (version, features) = (u32_at(block, VERSION_AT), u32_at(block, INCOMPATIBLE_AT));
    if version > VERSION || features != 0 {
        return Err(MirrorError::Newer { version, features });
    }
    Ok(PoolUuid::from_bytes(bytes_at(block, POOL_AT)))
}

fn sealed(mut block: Block) -> Vec<u8> {
    let crc = checksum(&block);
    put(&mut block, CRC_AT, &crc.to_le_bytes());
    block.to_vec()
}

/// The block, if it begins with this and has its checksum.
fn sound<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Option<&'a Block> {
    let block: &Block = bytes.first_chunk()?;
    let is_sound = bytes_at(block, 0) == *magic && u32_at(block, CRC_AT) == checksum(block);
    is_sound.then_some(block)
}

/// The checksum of a half's rows.
#[must_use]
pub fn rows_checksum(rows: &[u8]) -> u32 {
    !crc32c(rows)
}

/// What a half begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfHeader {
    /// Whose it is.
    pub pool: PoolUuid,
    /// Rises each time that everything is written anew.
    pub epoch: u64,
    /// The format of the catalogue that the rows are of.
    pub format: u32,
    /// How long the rows are.
    pub length: Bytes,
    /// Their checksum.
    pub rows_crc: u32,
    /// How much of the half, its header counted, has blocks of the pool.
    pub extent: Bytes,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// What its log has.
    pub nonce: Nonce,
}

impl HalfHeader {
    /// The header as it lies on the volume.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block: Block = [0; BLOCK];
        put(&mut block, 0, HEADER_MAGIC);
        put(&mut block, FORMAT_AT, &self.format.to_le_bytes());
        put(&mut block, POOL_AT, &self.pool.to_bytes());
        put(&mut block, EPOCH_AT, &self.epoch.to_le_bytes());
        put(&mut block, LENGTH_AT, &self.length.get().to_le_bytes());
        put(&mut block, ROWS_CRC_AT, &self.rows_crc.to_le_bytes());
        put(&mut block, EXTENT_AT, &self.extent.get().to_le_bytes());
        put(&mut block, WRITTEN_AT, &self.written.to_le_bytes());
        put(&mut block, NONCE_AT, &self.nonce);
        sealed(block)
    }

    /// Takes a block apart; `None` where it is no header of this pool's.
    #[must_use]
    pub fn decode(bytes: &[u8], pool: PoolUuid) -> Option<Self> {
        let block = sound(bytes, HEADER_MAGIC)?;
        let header = Self {
            pool: PoolUuid::from_bytes(bytes_at(block, POOL_AT)),
            epoch: u64_at(block, EPOCH_AT),
            format: u32_at(block, FORMAT_AT),
            length: Bytes::new(u64_at(block, LENGTH_AT)),
            rows_crc: u32_at(block, ROWS_CRC_AT),
            extent: Bytes::new(u64_at(block, EXTENT_AT)),
            written: u64_at(block, WRITTEN_AT),
            nonce: bytes_at(block, NONCE_AT),
        };
        let fits = header.extent <= HALF_LEN
            && header.extent.get().is_multiple_of(MIRROR_BLOCK.get())
            && header.log_at()? <= header.extent;
        (header.pool == pool && fits).then_some(header)
    }

    /// Where the log begins, from the half's begin on; `None` past all numbers.
    #[must_use]
    pub fn log_at(&self) -> Option<Bytes> {
        let end = MIRROR_BLOCK.checked_add(self.length)?;
        end.checked_round_up(MIRROR_BLOCK)
    }

    /// All that a half says, which is given up to its extent: the rows, as its log changed them. `None` where
    /// the rows are not whole. Gives how many blocks of the log counted, too.
    #[must_use]
    pub fn replay(&self, half: &[u8]) -> Option<Replayed> {
        let len = usize::try_from(self.length.get()).ok()?;
        let rows = half.get(BLOCK..)?.get(..len)?;
        if rows_checksum(rows) != self.rows_crc {
            return None;
        }
        let mut state: BTreeMap<(u8, i64), Vec<Vec<Value>>> = BTreeMap::new();
        let mut apply = |records: Vec<Record>| {
            for record in records {
                let key = (record.table, record.key);
                if record.rows.is_empty() {
                    state.remove(&key);
                } else {
                    state.insert(key, record.rows);
                }
            }
        };
        apply(Record::decode_all(rows)?);
        let mut written = self.written;
        let log_at = usize::try_from(self.log_at()?.get()).ok()?;
        let log = half.get(log_at..).unwrap_or_default();
        let mut blocks: Vec<LogBlock> = log
            .chunks_exact(BLOCK)
            .filter_map(|bytes| LogBlock::decode(bytes, &self.nonce))
            .collect();
        blocks.sort_by_key(|block| block.sequence);
        let nr_log_blocks = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
        for block in blocks {
            written = written.max(block.written);
            apply(block.records);
        }
        let records = state
            .into_iter()
            .map(|((table, key), rows)| Record { table, key, rows });
        Some(Replayed {
            records: records.collect(),
            written,
            nr_log_blocks,
        })
    }
}

/// What a half says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The rows of each table and key, none of them empty, in order.
    pub records: Vec<Record>,
    /// When the last of it was written, in seconds since 1970.
    pub written: u64,
    /// How many blocks of the log counted.
    pub nr_log_blocks: u64,
}

/// A block of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBlock {
    /// Its place in the order of what happened.
    pub sequence: u64,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// What changed.
    pub records: Vec<Record>,
}

impl LogBlock {
    /// The block as it lies on the volume, of records that were encoded already; `None` where they do not fit.
    #[must_use]
    pub fn encode(nonce: &Nonce, sequence: u64, written: u64, records: &[u8]) -> Option<Vec<u8>> {
        if records.len() > LOG_ROOM {
            return None;
        }
        let mut block: Block = [0; BLOCK];
        put(&mut block, 0, LOG_MAGIC);
        let length = u32::try_from(records.len()).ok()?;
        put(&mut block, LOG_LENGTH_AT, &length.to_le_bytes());
        put(&mut block, LOG_NONCE_AT, nonce);
        put(&mut block, LOG_SEQUENCE_AT, &sequence.to_le_bytes());
        put(&mut block, LOG_WRITTEN_AT, &written.to_le_bytes());
        put(&mut block, LOG_RECORDS_AT, records);
        Some(sealed(block))
    }

    /// Takes a block apart; `None` where it is none of the log with this nonce.
    #[must_use]
    pub fn decode(bytes: &[u8], nonce: &Nonce) -> Option<Self> {
        let block = sound(bytes, LOG_MAGIC)?;
        if bytes_at(block, LOG_NONCE_AT) != *nonce {
            return None;
        }
        let length = usize::try_from(u32_at(block, LOG_LENGTH_AT)).ok()?;
        let records = block.get(LOG_RECORDS_AT..)?.get(..length)?;
        Some(Self {
            sequence: u64_at(block, LOG_SEQUENCE_AT),
            written: u64_at(block, LOG_WRITTEN_AT),
            records: Record::decode_all(records)?,
        })
    }
}

#[cfg(test)]
mod tests;
