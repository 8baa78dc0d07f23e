//! A copy of the metadata that `thin_repair` makes metadata of again.
//!
//! Blocks keep their places, so that no pointer changes. Only the trees are copied: space maps say what is
//! free, which follows from the trees, and `thin_repair` makes them anew. A metadata snapshot's own
//! superblock has none (`dm-thin-metadata.c:__reserve_metadata_snap`), so that those of the pool,
//! which tell how many blocks there are, are put into the copy's.

use std::collections::BTreeSet;
use std::io;

use crate::thinmeta::device::ReadAt;
use crate::thinmeta::metadata::Metadata;
use crate::thinmeta::superblock::{ReadError, first_block_of};
use crate::units::MetaBlocks;

impl<D: ReadAt> Metadata<D> {
    /// Gives each block of the trees to `write`, and last block 0; the outer error is of reading, the inner
    /// one of `write`. Gives how many blocks were written.
    ///
    /// # Errors
    /// [`ReadError`]: a tree that is damaged is told before anything is written.
    pub fn copy_to(
        &mut self,
        mut write: impl FnMut(MetaBlocks, &[u8]) -> io::Result<()>,
    ) -> Result<io::Result<MetaBlocks>, ReadError> {
        let mut blocks = BTreeSet::new();
        let mut note = |block| blocks.insert(block);
        self.walk_details(&mut note)?;
        self.walk_mappings(&mut note)?;
        for block in &blocks {
            if let Err(error) = write(*block, self.read_block(*block)?) {
                return Ok(Err(error));
            }
        }
        let live = *self.read_block(MetaBlocks::ZERO)?;
        let place = self.place();
        let first = first_block_of(self.read_block(place)?, &live)?;
        let count = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
        let count = MetaBlocks::new(count.saturating_add(1));
        Ok(write(MetaBlocks::ZERO, &first).map(|()| count))
    }
}
