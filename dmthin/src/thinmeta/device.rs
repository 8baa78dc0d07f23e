//! The metadata device, read a block at a time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::thinmeta::superblock::{BLOCK, ReadError};
use crate::units::MetaBlocks;

/// Something to read bytes from, at an offset.
///
/// A block device below a running pool is to be opened with `O_DIRECT`: the kernel writes the metadata
/// past the device's page cache, where an old copy of a block may lie for as long as it likes.
pub trait ReadAt {
    /// Fills `buf` from the byte `at` on.
    ///
    /// # Errors
    /// Those of the read; `UnexpectedEof` past the end.
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, at)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let found = usize::try_from(at)
            .ok()
            .and_then(|at| self.get(at..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, at)
    }
}

/// A device, and one block of it in memory.
#[derive(Debug)]
pub(super) struct BlockReader<D> {
    device: D,
    // Twice a block, so that a whole one lies in it on a boundary of a block: O_DIRECT asks for that.
    buffer: Vec<u8>,
}

impl<D: ReadAt> BlockReader<D> {
    pub(super) fn new(device: D) -> Self {
        Self {
            device,
            buffer: vec![0; BLOCK.saturating_mul(2)],
        }
    }

    /// The bytes of a block, until the next one is read.
    pub(super) fn read(&mut self, block: MetaBlocks) -> Result<&[u8; BLOCK], ReadError> {
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let bytes = self
            .buffer
            .get_mut(start..)
            .and_then(|rest| rest.first_chunk_mut::<BLOCK>())
            .expect("a block lies within any two blocks' length");
        self.device
            .read_exact_at(bytes, block.to_bytes_saturating().get())
            .map_err(|source| ReadError::Block { block, source })?;
        Ok(bytes)
    }
}
