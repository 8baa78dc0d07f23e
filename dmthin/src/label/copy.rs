//! The copy of the catalogue on a labelled disk, with which another host opens the pool.
//!
//! Two slots, each half of the area: a header of 4096 bytes, the catalogue's bytes after it. A write
//! goes to the slot that does not hold the newest copy, with the next sequence, and ends with one
//! flush: a torn one has a wrong checksum, and the other slot counts.
//!
//! ```text
//!   0 magic [8] "DMTHINCC"    8 version u32      12 crc u32 (of this block, this field zero)
//!  16 sequence u64           24 pool uuid [16]   40 length u64   48 crc of the content u32
//!  52 closed u32: 1 where the pool was closed when it was written
//!  56 written u64, unix seconds
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::crc32c::crc32c;
use crate::ids::PoolUuid;
use crate::label::{
    Area, BLOCK, Block, CRC_AT, Label, SEQUENCE_AT, UUID_AT, VERSION_AT, bytes_at, checksum, put,
    read_block, u32_at, u64_at,
};
use crate::units::Bytes;

const MAGIC: &[u8; 8] = b"DMTHINCC";
const VERSION: u32 = 1;
const LENGTH_AT: usize = 40;
const CONTENT_CRC_AT: usize = 48;
const CLOSED_AT: usize = 52;
const WRITTEN_AT: usize = 56;
const HEADER: Bytes = Bytes::from_kib(4);

/// A copy of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueCopy {
    /// Whether the pool was closed then: nothing was done to it since.
    pub closed: bool,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// The catalogue's file.
    pub content: Vec<u8>,
}

/// Why a copy cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The disk could not be read or written.
    #[error("cannot {action} the catalogue's copy")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is none that is whole and of this pool.
    #[error("there is no whole copy of the catalogue")]
    None,
    /// The catalogue has outgrown its place.
    #[error("a catalogue of {size} does not fit in the {room} that are kept for its copy")]
    TooLarge {
        /// Its size.
        size: Bytes,
        /// The room.
        room: Bytes,
    },
}

/// A header that is sound, and the slot it is of.
struct Header {
    slot: Area,
    sequence: u64,
    length: usize,
    content_crc: u32,
    closed: bool,
    written: u64,
}

fn slots(label: &Label) -> [Area; 2] {
    let len = Bytes::new(label.catalogue.len.get() / 2);
    let start = label.catalogue.start;
    [start, start.saturating_add(len)].map(|start| Area { start, len })
}

fn header(disk: &File, label: &Label, slot: Area) -> Result<Option<Header>, CopyError> {
    let bytes = read_block(disk, slot.start).map_err(|source| CopyError::Io {
        action: "read",
        source,
    })?;
    let Some(block) = bytes.first_chunk::<BLOCK>() else {
        return Ok(None);
    };
    let sound = bytes_at(block, 0) == *MAGIC
        && u32_at(block, CRC_AT) == checksum(block)
        && u32_at(block, VERSION_AT) == VERSION
        && PoolUuid::from_bytes(bytes_at(block, UUID_AT)) == label.pool;
    let length = u64_at(block, LENGTH_AT);
    let fits = Bytes::new(length) <= slot.len.saturating_sub(HEADER);
    Ok(match usize::try_from(length) {
        Ok(length) if sound && fits => Some(Header {
            slot,
            sequence: u64_at(block, SEQUENCE_AT),
            length,
            content_crc: u32_at(block, CONTENT_CRC_AT),
            closed: u32_at(block, CLOSED_AT) == 1,
            written: u64_at(block, WRITTEN_AT),
        }),
        _ => None,
    })
}

/// The sound headers, the newest first.
fn headers(disk: &File, label: &Label) -> Result<Vec<Header>, CopyError> {
    let mut found = Vec::new();
    for slot in slots(label) {
        found.extend(header(disk, label, slot)?);
    }
    found.sort_by_key(|header| std::cmp::Reverse(header.sequence));
    Ok(found)
}

/// The newest whole copy, with the header it has.
fn newest(disk: &File, headers: Vec<Header>) -> Result<Option<(Header, Vec<u8>)>, CopyError> {
    for header in headers {
        let mut content = vec![0; header.length];
        let at = header.slot.start.saturating_add(HEADER);
        disk.read_exact_at(&mut content, at.get())
            .map_err(|source| CopyError::Io {
                action: "read",
                source,
            })?;
        if !crc32c(&content) == header.content_crc {
            return Ok(Some((header, content)));
        }
    }
    Ok(None)
}

/// The newest whole copy.
///
/// # Errors
/// [`CopyError::None`], [`CopyError::Io`].
pub fn read_copy(disk: &File, label: &Label) -> Result<CatalogueCopy, CopyError> {
    let (header, content) = newest(disk, headers(disk, label)?)?.ok_or(CopyError::None)?;
    Ok(CatalogueCopy {
        closed: header.closed,
        written: header.written,
        content,
    })
}

/// Writes a copy, durably, never over the newest that is whole. The caller keeps others from doing the same.
///
/// # Errors
/// [`CopyError::TooLarge`], [`CopyError::Io`]; the newest copy there was stays.
pub fn write_copy(disk: &File, label: &Label, copy: &CatalogueCopy) -> Result<(), CopyError> {
    let headers = headers(disk, label)?;
    let sequence = headers.first().map_or(0, |header| header.sequence);
    let sequence = sequence.saturating_add(1);
    let [first, second] = slots(label);
    let slot = match newest(disk, headers)? {
        Some((newest, _)) if newest.slot == first => second,
        _ => first,
    };
    let length = u64::try_from(copy.content.len()).unwrap_or(u64::MAX);
    let room = slot.len.saturating_sub(HEADER);
    if Bytes::new(length) > room {
        let size = Bytes::new(length);
        return Err(CopyError::TooLarge { size, room });
    }
    let mut block: Block = [0; BLOCK];
    put(&mut block, 0, MAGIC);
    put(&mut block, VERSION_AT, &VERSION.to_le_bytes());
    put(&mut block, SEQUENCE_AT, &sequence.to_le_bytes());
    put(&mut block, UUID_AT, &label.pool.to_bytes());
    put(&mut block, LENGTH_AT, &length.to_le_bytes());
    let content_crc = !crc32c(&copy.content);
    put(&mut block, CONTENT_CRC_AT, &content_crc.to_le_bytes());
    put(&mut block, CLOSED_AT, &u32::from(copy.closed).to_le_bytes());
    put(&mut block, WRITTEN_AT, &copy.written.to_le_bytes());
    let crc = checksum(&block);
    put(&mut block, CRC_AT, &crc.to_le_bytes());
    let content_at = slot.start.saturating_add(HEADER);
    disk.write_all_at(&copy.content, content_at.get())
        .and_then(|()| disk.write_all_at(&block, slot.start.get()))
        .and_then(|()| disk.sync_all())
        .map_err(|source| CopyError::Io {
            action: "write",
            source,
        })
}
