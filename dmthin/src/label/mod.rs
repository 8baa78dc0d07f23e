//! The label of a disk that a pool lies on whole: whose it is and where what begins.
//!
//! ```text
//! 0         left alone, for a boot sector
//! 4 KiB     the label, 4096 bytes
//! 512 KiB   its copy
//! 1 MiB     two slots for a copy of the catalogue
//! ...       metadata: the length in use is the catalogue's, the rest is room to grow
//! ...       data, up to the end of the disk
//! ```
//! All numbers are little endian, all sizes in bytes; `docs/label.md` has the same tables.
//!
//! ```text
//!   0 magic [8] "DMTHINLB"    8 version u32        12 crc u32          16 sequence u64
//!  24 pool uuid [16]         40 pool name [32], zeros after it
//!  72 device size u64        80 catalogue start u64   88 catalogue length u64
//!  96 metadata start u64    104 metadata length u64
//! 112 data start u64        120 data length u64       128 block size u64
//! 136 incompatible features u32, the rest zero
//! ```
//! `crc` is the CRC-32C of all 4096 bytes with this field zero. A write gives both copies the next
//! sequence, one after the other with a flush after each: one of them is whole at any time, and the
//! one with the higher sequence counts.

mod copy;
mod mirror;
mod rows;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::crc32c::crc32c;
use crate::ids::{PoolName, PoolUuid};
use crate::units::{BlockSize, Bytes};

pub use copy::{CatalogueCopy, CopyError, read_copy, write_copy};
pub use mirror::{
    HALF_AT, HALF_LEN, HalfHeader, LOG_ROOM, LogBlock, MIRROR_BLOCK, MIRROR_SIZE, MirrorError,
    Nonce, Replayed, mirror_of, mirror_superblock, rows_checksum,
};
pub use rows::{Record, Value};

/// What a label begins with.
pub const MAGIC: &[u8; 8] = b"DMTHINLB";
/// Where the label and its copy lie.
pub const LABEL_AT: [Bytes; 2] = [Bytes::from_kib(4), Bytes::from_kib(512)];
/// Where the copy of the catalogue begins; all before it is the label's.
pub const CATALOGUE_START: Bytes = Bytes::from_mib(1);
/// How much is kept for the copy of the catalogue, in two slots.
pub const CATALOGUE_LEN: Bytes = Bytes::from_mib(64);

const BLOCK: usize = 4096;
const VERSION: u32 = 1;

const VERSION_AT: usize = 8;
const CRC_AT: usize = 12;
const SEQUENCE_AT: usize = 16;
const UUID_AT: usize = 24;
const NAME_AT: usize = 40;
const NAME_LEN: usize = 32;
const DEVICE_SIZE_AT: usize = 72;
const CATALOGUE_AT: usize = 80;
const METADATA_AT: usize = 96;
const DATA_AT: usize = 112;
const BLOCK_SIZE_AT: usize = 128;
const INCOMPAT_AT: usize = 136;

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub start: Bytes,
    /// How long it is.
    pub len: Bytes,
}

impl Area {
    /// Where it ends, or `None` past all numbers.
    #[must_use]
    pub const fn end(self) -> Option<Bytes> {
        self.start.checked_add(self.len)
    }
}

/// What a label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Rises with each write.
    pub sequence: u64,
    /// Whose the disk is.
    pub pool: PoolUuid,
    /// What the pool is called.
    pub name: PoolName,
    /// The size of the disk when this was written.
    pub device_size: Bytes,
    /// For the copy of the catalogue.
    pub catalogue: Area,
    /// For the metadata; they may use less of it.
    pub metadata: Area,
    /// For the data.
    pub data: Area,
    /// The pool's unit of allocation.
    pub block_size: BlockSize,
}

/// That a block is no sound label. Its text says where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the label is not sound: {0}")]
pub struct Corrupt(Kind);

/// Which rule a block breaks. `at` is a byte offset in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Kind {
    #[error("byte 0: no label begins here")]
    Magic,
    #[error("byte {CRC_AT}: checksum {found:#010x}, not {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error("byte {at}: {field} is not one this version writes")]
    Field { at: usize, field: &'static str },
    #[error("byte {at}: {area} lies where something else does, or beyond the disk's end")]
    Place { at: usize, area: &'static str },
}

/// Why there is no label to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The disk could not be read or written.
    #[error("cannot {action} the label")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is one, and neither copy of it is sound.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// A later version wrote it.
    #[error("the label is of version {found}, this program knows version {VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
}

type Block = [u8; BLOCK];

fn bytes_at<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    block
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .expect("every field's offset is a constant inside the block")
}

fn u32_at(block: &Block, at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(block, at))
}

fn u64_at(block: &Block, at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(block, at))
}

fn put(block: &mut Block, at: usize, bytes: &[u8]) {
    let field = block
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..bytes.len()))
        .expect("every field's offset is a constant inside the block");
    field.copy_from_slice(bytes);
}

/// The checksum of a block whose checksum field counts as zero.
fn checksum(block: &Block) -> u32 {
    let mut block = *block;
    put(&mut block, CRC_AT, &[0; 4]);
    !crc32c(&block)
}

fn area_at(block: &Block, at: usize) -> Area {
    Area {
        start: Bytes::new(u64_at(block, at)),
        len: Bytes::new(u64_at(block, at.saturating_add(8))),
    }
}

fn name_at(block: &Block) -> Option<PoolName> {
    let field: [u8; NAME_LEN] = bytes_at(block, NAME_AT);
    let len = field.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
    let (name, rest) = field.split_at_checked(len)?;
    if rest.iter().any(|b| *b != 0) {
        return None;
    }
    PoolName::new(std::str::from_utf8(name).ok()?).ok()
}

impl Label {
    /// The block as it lies on the disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = [0; BLOCK];
        put(&mut block, 0, MAGIC);
        put(&mut block, VERSION_AT, &VERSION.to_le_bytes());
        put(&mut block, SEQUENCE_AT, &self.sequence.to_le_bytes());
        put(&mut block, UUID_AT, &self.pool.to_bytes());
        put(&mut block, NAME_AT, self.name.as_str().as_bytes());
        put(&mut block, DEVICE_SIZE_AT, &le(self.device_size));
        for (at, area) in [
            (CATALOGUE_AT, self.catalogue),
            (METADATA_AT, self.metadata),
            (DATA_AT, self.data),
        ] {
            put(&mut block, at, &le(area.start));
            put(&mut block, at.saturating_add(8), &le(area.len));
        }
        put(&mut block, BLOCK_SIZE_AT, &le(self.block_size.to_bytes()));
        let crc = checksum(&block);
        put(&mut block, CRC_AT, &crc.to_le_bytes());
        block.to_vec()
    }

    /// Takes a block apart.
    ///
    /// # Errors
    /// [`LabelError::Corrupt`], [`LabelError::Newer`].
    pub fn decode(bytes: &[u8]) -> Result<Self, LabelError> {
        let block: &Block = bytes.first_chunk().ok_or(Corrupt(Kind::Magic))?;
        if bytes_at(block, 0) != *MAGIC {
            return Err(Corrupt(Kind::Magic).into());
        }
        let (found, expected) = (u32_at(block, CRC_AT), checksum(block));
        if found != expected {
            return Err(Corrupt(Kind::Checksum { found, expected }).into());
        }
        let version = u32_at(block, VERSION_AT);
        if version > VERSION {
            return Err(LabelError::Newer { found: version });
        }
        let field = |at, field| Corrupt(Kind::Field { at, field });
        if version == 0 {
            return Err(field(VERSION_AT, "the version").into());
        }
        if u32_at(block, INCOMPAT_AT) != 0 {
            return Err(field(INCOMPAT_AT, "the features").into());
        }
        let label = Self {
            sequence: u64_at(block, SEQUENCE_AT),
            pool: PoolUuid::from_bytes(bytes_at(block, UUID_AT)),
            name: name_at(block).ok_or_else(|| field(NAME_AT, "the name"))?,
            device_size: Bytes::new(u64_at(block, DEVICE_SIZE_AT)),
            catalogue: area_at(block, CATALOGUE_AT),
            metadata: area_at(block, METADATA_AT),
            data: area_at(block, DATA_AT),
            block_size: BlockSize::from_bytes(Bytes::new(u64_at(block, BLOCK_SIZE_AT)))
                .map_err(|_| field(BLOCK_SIZE_AT, "the block size"))?,
        };
        label.check_places()?;
        Ok(label)
    }

    /// That the areas follow each other, whole blocks of 4096 bytes, within the disk.
    fn check_places(&self) -> Result<(), Corrupt> {
        let mut free = CATALOGUE_START;
        for (at, name, area) in [
            (CATALOGUE_AT, "the catalogue", self.catalogue),
            (METADATA_AT, "the metadata", self.metadata),
            (DATA_AT, "the data", self.data),
        ] {
            let aligned = [area.start, area.len]
                .iter()
                .all(|n| n.get().is_multiple_of(4096));
            free = area
                .end()
                .filter(|end| aligned && area.start >= free && *end <= self.device_size)
                .ok_or(Corrupt(Kind::Place { at, area: name }))?;
        }
        Ok(())
    }
}

fn le(bytes: Bytes) -> [u8; 8] {
    bytes.get().to_le_bytes()
}

/// Reads a block; what is beyond the disk's end reads as zeros.
fn read_block(disk: &File, at: Bytes) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    match disk.read_exact_at(&mut block, at.get()) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(vec![0; BLOCK]),
        result => result.map(|()| block),
    }
}

/// The label of a disk; `None` where it has none.
///
/// # Errors
/// [`LabelError`] where it has one that cannot be used.
pub fn read(disk: &File) -> Result<Option<Label>, LabelError> {
    let mut best: Option<Label> = None;
    let mut why_not = None;
    for at in LABEL_AT {
        let block = read_block(disk, at).map_err(|source| LabelError::Io {
            action: "read",
            source,
        })?;
        match Label::decode(&block) {
            Ok(label) if best.as_ref().is_none_or(|b| b.sequence < label.sequence) => {
                best = Some(label);
            }
            Ok(_) | Err(LabelError::Corrupt(Corrupt(Kind::Magic))) => {}
            Err(error) => why_not = Some(error),
        }
    }
    match (best, why_not) {
        // A later version may have written one copy and been cut before the other.
        (_, Some(error @ LabelError::Newer { .. })) | (None, Some(error)) => Err(error),
        (best, _) => Ok(best),
    }
}

/// Writes a label and its copy, durably, one after the other.
///
/// # Errors
/// [`LabelError::Io`].
pub fn write(disk: &File, label: &Label) -> Result<(), LabelError> {
    let block = label.encode();
    for at in LABEL_AT {
        disk.write_all_at(&block, at.get())
            .and_then(|()| disk.sync_all())
            .map_err(|source| LabelError::Io {
                action: "write",
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
