//! The mirror's device, and what is written to it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::dm::Device;
use crate::graph::aligned::Aligned;
use crate::graph::error::PoolError;
use crate::ids::PoolUuid;
use crate::ioctl;
use crate::label::{HALF_AT, HalfHeader, LOG_ROOM, MIRROR_BLOCK, Record, Replayed};
use crate::units::Bytes;

/// What is written at once.
const CHUNK: usize = 256 << 10;
/// What is read and written at least.
pub(super) const BLOCK: usize = 4096;
/// More blocks of the log than this are not written for one verb.
const MOST_BLOCKS: usize = 16;

/// The mirror's device, open.
#[derive(Debug)]
pub(super) struct Volume {
    file: File,
    node: PathBuf,
}

impl Volume {
    pub(super) fn open(device: &Device) -> Result<Self, PoolError> {
        Ok(Self {
            file: ioctl::open_direct_to_write(device.node())?,
            node: device.node().to_owned(),
        })
    }

    /// For reading alone.
    pub(super) fn open_to_read(device: &Device) -> Result<Self, PoolError> {
        Ok(Self {
            file: ioctl::open_direct(device.node())?,
            node: device.node().to_owned(),
        })
    }

    fn io(&self, action: &'static str, result: io::Result<()>) -> Result<(), PoolError> {
        result.map_err(|source| PoolError::io(action, &self.node, source))
    }

    /// The block that begins there.
    pub(super) fn block(&self, at: Bytes) -> Result<Aligned, PoolError> {
        let mut block = Aligned::new(BLOCK);
        let read = self.file.read_exact_at(block.bytes(), at.get());
        self.io("read", read).map(|()| block)
    }

    /// All that a half says; `None` where its rows are not whole.
    pub(super) fn replay(
        &self,
        half: usize,
        header: &HalfHeader,
    ) -> Result<Option<Replayed>, PoolError> {
        let len = usize::try_from(header.extent.get()).unwrap_or(usize::MAX);
        let mut extent = Aligned::new(len);
        let read = self.file.read_exact_at(extent.bytes(), half_at(half).get());
        self.io("read", read)?;
        Ok(header.replay(extent.bytes()))
    }

    /// Writes these bytes, and zeros up to a whole block.
    pub(super) fn write(&self, at: Bytes, bytes: &[u8]) -> Result<(), PoolError> {
        let mut at = at;
        for chunk in bytes.chunks(CHUNK) {
            let written = ioctl::write_direct(&self.file, at, Aligned::of(chunk).bytes());
            self.io("write", written)?;
            at = at.saturating_add(Bytes::new(u64::try_from(chunk.len()).unwrap_or(u64::MAX)));
        }
        Ok(())
    }

    pub(super) fn zero(&self, from: Bytes, to: Bytes) -> Result<(), PoolError> {
        let len = usize::try_from(to.saturating_sub(from).get()).unwrap_or(usize::MAX);
        self.write(from, &vec![0; len])
    }

    pub(super) fn flush(&self) -> Result<(), PoolError> {
        self.io("flush", ioctl::flush(&self.file))
    }

    /// The half that counts, with its header; its rows are not looked at.
    pub(super) fn newest(&self, pool: PoolUuid) -> Result<Option<(usize, HalfHeader)>, PoolError> {
        let mut newest: Option<(usize, HalfHeader)> = None;
        for (half, at) in HALF_AT.into_iter().enumerate() {
            let found = HalfHeader::decode(self.block(at)?.bytes(), pool);
            if let Some(header) = found
                && newest.is_none_or(|(_, newest)| newest.epoch < header.epoch)
            {
                newest = Some((half, header));
            }
        }
        Ok(newest)
    }
}

pub(super) fn half_at(half: usize) -> Bytes {
    HALF_AT.get(half).copied().unwrap_or(MIRROR_BLOCK)
}

/// The records in blocks of the log, in order; `None` where they are too many, or one has no room in a block.
pub(super) fn in_blocks(records: &[Record]) -> Option<Vec<Vec<u8>>> {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for record in records {
        let mut bytes = Vec::new();
        record.encode(&mut bytes)?;
        match blocks.last_mut() {
            Some(last) if last.len().saturating_add(bytes.len()) <= LOG_ROOM => last.extend(bytes),
            _ if bytes.len() > LOG_ROOM => return None,
            _ => blocks.push(bytes),
        }
    }
    (blocks.len() <= MOST_BLOCKS).then_some(blocks)
}

/// What a mirror begins with when everything is written anew.
pub(super) fn rows_of(records: &[Record]) -> Option<Vec<u8>> {
    let mut rows = Vec::new();
    for record in records {
        record.encode(&mut rows)?;
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Value;

    #[test]
    fn records_share_blocks_as_far_as_they_fit() {
        let record = |len: usize| Record {
            table: 1,
            key: 1,
            rows: vec![vec![Value::Bytes(vec![0; len])]],
        };
        let lens = |records: &[Record]| {
            let blocks = in_blocks(records)?;
            Some(blocks.iter().map(Vec::len).collect::<Vec<_>>())
        };
        // 17 bytes are around the value's.
        assert_eq!(lens(&[record(100), record(200)]), Some(vec![334]));
        let fits = LOG_ROOM.saturating_sub(17);
        assert_eq!(
            lens(&[record(fits), record(100)]),
            Some(vec![LOG_ROOM, 117])
        );
        assert_eq!(lens(&[record(fits.saturating_add(1))]), None);
        assert_eq!(lens(&vec![record(fits); MOST_BLOCKS]).unwrap().len(), 16);
        assert_eq!(
            lens(&vec![record(fits); MOST_BLOCKS.saturating_add(1)]),
            None
        );
        assert_eq!(lens(&[]), Some(vec![]));
    }
}
