//! Which parts of a volume a removal has to discard.
//!
//! A discard of what a volume shares with others gives nothing back, and costs the kernel's one worker of
//! the pool as much as one that does (`drivers/md/dm-thin.c`, `passdown_double_checking_shared_status`).
//! Most of a container is its image's. So the pool's metadata are asked what it has changed, where that is
//! worth some reads, and else all of it is discarded: too much is only slow, too little would keep the
//! host's room.
//!
//! They are read as they lie there, for a metadata snapshot takes four commits of the pool, two before it is
//! made and one by each of its two messages (`process_reserve_metadata_snap_mesg`,
//! `dm-thin-metadata.c:__reserve_metadata_snap`), and there is only one at a time.

use std::fs::File;

use crate::dm::Device;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::reading::Window;
use crate::ids::ThinId;
use crate::ioctl;
use crate::store::{StoreError, VolumeRecord};
use crate::thinmeta::{Metadata, Span};
use crate::units::{Bytes, DataBlocks};

/// Mapped blocks from which on the metadata are asked: below, a discard of all of them takes less.
const WORTH_ASKING: DataBlocks = DataBlocks::new(1024);

/// Shared blocks that take the kernel as long as one more call does.
const BLOCKS_PER_CALL: u64 = 16;

/// Bytes of a volume that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) begin: Bytes,
    pub(crate) len: Bytes,
}

impl Live<'_> {
    /// What of a volume is to be discarded whose device is open in `block`, and which nobody else writes
    /// to any more.
    pub(crate) fn parts_to_discard(
        &self,
        volume: &VolumeRecord,
        device: &Device,
        block: &File,
        mapped: Bytes,
        size: Bytes,
    ) -> Vec<Part> {
        let whole = Part {
            begin: Bytes::ZERO,
            len: size,
        };
        match self.changed_parts(volume, device, block, mapped, size) {
            Ok(Some(parts)) => parts,
            Ok(None) => vec![whole],
            Err(error) => {
                tracing::debug!(volume = %volume.id, %error, "all of it is discarded");
                vec![whole]
            }
        }
    }

    /// What a volume has not in common with the one it is a snapshot of; `None` where that is not to be
    /// asked.
    fn changed_parts(
        &self,
        volume: &VolumeRecord,
        device: &Device,
        block: &File,
        mapped: Bytes,
        size: Bytes,
    ) -> Result<Option<Vec<Part>>, PoolError> {
        let block_size = self.record().block_size;
        if mapped < WORTH_ASKING.to_bytes_saturating(block_size)
            || self.record().existing().is_some()
        {
            return Ok(None);
        }
        let Some(origin) = self.origin(volume)? else {
            return Ok(None);
        };
        // What it has changed since the pool's last commit is committed; where that is nothing, nothing is
        // (`drivers/md/dm-thin.c:bio_triggers_commit`).
        ioctl::flush(block).map_err(|source| PoolError::io("flush", device.node(), source))?;
        let node = self.metadata_node()?;
        let metadata = Window::whole(ioctl::open_direct(&node)?);
        let spans = Metadata::changed_while_running(&metadata, volume.thin_id, origin)
            .map_err(|source| self.pool().metadata_error(node, source))?;
        // A device may end within a block.
        let part = |span: Span| {
            let begin = span.begin.to_bytes_saturating(block_size).min(size);
            let len = span.len.to_bytes_saturating(block_size);
            let len = len.min(size.saturating_sub(begin));
            Part { begin, len }
        };
        let calls = u64::try_from(spans.as_ref().map_or(0, Vec::len)).unwrap_or(u64::MAX);
        let worth = DataBlocks::new(calls.saturating_mul(BLOCKS_PER_CALL));
        Ok(spans
            .filter(|_| worth.to_bytes_saturating(block_size) <= mapped)
            .map(|spans| spans.into_iter().map(part).collect()))
    }

    /// The thin device that a volume is a snapshot of, where that is there still.
    fn origin(&self, volume: &VolumeRecord) -> Result<Option<ThinId>, PoolError> {
        let Some(parent) = volume.parent else {
            return Ok(None);
        };
        match self.pool().catalogue().volume(parent) {
            Ok(parent) => Ok(parent.made.then_some(parent.thin_id)),
            Err(StoreError::VolumeNotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
