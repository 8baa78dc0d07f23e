//! The metadata device, read a block at a time.

use std::collections::HashMap;
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

/// Blocks that are read together by who walks whole trees.
const CHUNK: usize = 32;

/// So many of these are in memory.
const CHUNKS: usize = 64;

/// Bytes of some blocks that follow each other.
#[derive(Debug)]
struct Chunk {
    first: u64,
    // A block more than is read, so that they lie in it on a boundary of a block: O_DIRECT asks for that.
    buffer: Vec<u8>,
}

impl Chunk {
    /// Nothing, with room for so many blocks.
    fn new(blocks: usize) -> Self {
        Self {
            first: u64::MAX,
            buffer: vec![0; blocks.saturating_add(1).saturating_mul(BLOCK)],
        }
    }

    fn fill<D: ReadAt>(&mut self, device: &D, first: u64) -> io::Result<()> {
        self.first = u64::MAX;
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let length = self.buffer.len().saturating_sub(BLOCK);
        let bytes = self
            .buffer
            .get_mut(start..)
            .and_then(|rest| rest.get_mut(..length))
            .expect("the buffer is a block longer");
        device.read_exact_at(bytes, MetaBlocks::new(first).to_bytes_saturating().get())?;
        self.first = first;
        Ok(())
    }

    fn block(&self, number: u64) -> Option<&[u8; BLOCK]> {
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let bytes = self.buffer.get(start..)?;
        bytes.get(at.checked_mul(BLOCK)?..)?.first_chunk()
    }
}

/// A device, and some blocks of it in memory.
#[derive(Debug)]
pub(super) struct BlockReader<D> {
    device: D,
    reads: u64,
    one: Chunk,
    /// Where each chunk that is held is, and which was wanted last.
    chunks: HashMap<u64, (usize, u64)>,
    held: Vec<Chunk>,
    clock: u64,
    ahead: bool,
}

impl<D: ReadAt> BlockReader<D> {
    pub(super) fn new(device: D) -> Self {
        Self {
            device,
            reads: 0,
            one: Chunk::new(1),
            chunks: HashMap::new(),
            held: Vec::new(),
            clock: 0,
            ahead: false,
        }
    }

    /// How many blocks were asked for so far.
    pub(super) const fn nr_reads(&self) -> u64 {
        self.reads
    }

    /// From now on reads the blocks around each one too, and keeps some of them: who walks whole trees wants
    /// most of them, and what was written at a time lies together. A metadata snapshot does not
    /// change, so that they stay what they are.
    pub(super) fn read_around(&mut self) {
        self.ahead = true;
    }

    /// The bytes of a block, until the next one is read.
    pub(super) fn read(&mut self, block: MetaBlocks) -> Result<&[u8; BLOCK], ReadError> {
        self.reads = self.reads.saturating_add(1);
        let number = block.get();
        let at = if self.ahead {
            self.chunk_of(number)
        } else {
            None
        };
        let chunk = match at {
            Some(at) => self.held.get(at),
            None => {
                self.one
                    .fill(&self.device, number)
                    .map_err(|source| ReadError::Block { block, source })?;
                Some(&self.one)
            }
        };
        let bytes = chunk.and_then(|chunk| chunk.block(number));
        Ok(bytes.expect("what was read, or is held, has the block in it"))
    }

    /// Where the chunk of a block is; `None` where it cannot be read whole, as at the device's end.
    fn chunk_of(&mut self, number: u64) -> Option<usize> {
        let size = u64::try_from(CHUNK).unwrap_or(1);
        let key = number.checked_div(size).unwrap_or(0);
        self.clock = self.clock.saturating_add(1);
        if let Some((at, wanted)) = self.chunks.get_mut(&key) {
            *wanted = self.clock;
            return Some(*at);
        }
        let at = if self.held.len() < CHUNKS {
            self.held.push(Chunk::new(CHUNK));
            self.held.len().saturating_sub(1)
        } else {
            let oldest = self.chunks.iter().min_by_key(|(_, (_, wanted))| *wanted);
            let (old, at) = oldest.map(|(key, (at, _))| (*key, *at))?;
            self.chunks.remove(&old);
            at
        };
        let first = key.saturating_mul(size);
        if self.held.get_mut(at)?.fill(&self.device, first).is_err() {
            // As all places are full or this is the last one, it is free for the next.
            self.held.swap_remove(at);
            let last = self.held.len();
            for (place, _) in self.chunks.values_mut() {
                if *place == last {
                    *place = at;
                }
            }
            return None;
        }
        self.chunks.insert(key, (at, self.clock));
        Some(at)
    }
}
