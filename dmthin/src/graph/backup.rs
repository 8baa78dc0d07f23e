//! Copies of a pool's metadata, for the day when `thin_repair` finds nothing to make metadata of.
//!
//! Of a pool that is open, while its metadata snapshot is ours: the trees go into a draft beside the catalogue,
//! block 0 last; it is flushed, renamed, the directory flushed; the oldest copies are removed. A cut leaves a
//! draft, which the next one writes anew. Neither pool nor catalogue is changed, so that this has no numbered steps.
//!
//! A copy is what the pool was like then. What was written since to blocks that it did not have then is lost with
//! it, and a block that was given back and used again since appears in both places. So a copy is used only where
//! the metadata themselves are past repair, and only when it is named.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::graph::create::remove_path;
use crate::graph::error::PoolError;
use crate::graph::existing::require_own;
use crate::graph::layout::{BackupKind, COPY_DRAFT};
use crate::graph::pool::Pool;
use crate::graph::report::MetadataCopy;
use crate::store::Timestamp;
use crate::thinmeta::{Metadata, ReadAt, ReadError};
use crate::units::{Bytes, MetaBlocks};

impl Pool {
    /// Copies the metadata as they are now, and removes the oldest copies but for `keep`, the new one counted.
    ///
    /// # Errors
    /// [`PoolError::MetadataSnapHeld`] while another tool reads them; [`PoolError::Metadata`] where they are
    /// damaged, and nothing was written; [`PoolError::Io`] where the copy cannot be written: those that were
    /// there are kept.
    pub fn backup_metadata(&self, keep: usize) -> Result<MetadataCopy, PoolError> {
        let record = self.record()?;
        require_own(&record)?;
        let dir = self.host().layout().pool_dir(self.name());
        let size = record.metadata_size;
        let path = dir.join(BackupKind::Copy.name(Timestamp::now().to_unix()));
        let (blocks, transaction_id) = match self.live() {
            Ok(live) => live.read_metadata(|metadata| {
                let written = write_copy(metadata, size, &dir, &path)?;
                Ok((written, metadata.transaction_id()))
            })?,
            Err(PoolError::PoolNotOpen { .. }) => {
                let _lock = self.lock_idle()?;
                self.read_closed_metadata(&record, |metadata| {
                    let written = write_copy(metadata, size, &dir, &path)?;
                    Ok((written, metadata.transaction_id()))
                })?
            }
            Err(error) => return Err(error),
        };
        let blocks = blocks.map_err(|source| PoolError::io("write", &path, source))?;
        let mut copies = self.metadata_copies();
        let extra = copies.len().saturating_sub(keep.max(1));
        let removed: Vec<_> = copies.drain(..extra).collect();
        for old in &removed {
            remove_path(old, false)?;
        }
        Ok(MetadataCopy {
            name: self.name().clone(),
            copy: path,
            bytes: blocks.to_bytes_saturating(),
            transaction_id,
            removed,
        })
    }

    /// The copies there are, the oldest first.
    #[must_use]
    pub fn metadata_copies(&self) -> Vec<PathBuf> {
        self.host().layout().backups(self.name(), BackupKind::Copy)
    }

    /// When the newest copy was taken; `None` where there is none.
    #[must_use]
    pub fn metadata_copied(&self) -> Option<SystemTime> {
        let newest = self.metadata_copies().pop()?;
        fs::metadata(newest).and_then(|found| found.modified()).ok()
    }
}

/// Draft, flush and renaming; the outer error is of reading, the inner one of writing. Neither leaves the draft.
fn write_copy(
    metadata: &mut Metadata<impl ReadAt>,
    size: Bytes,
    dir: &Path,
    path: &Path,
) -> Result<io::Result<MetaBlocks>, ReadError> {
    let written = write_draft(metadata, size, dir, path);
    if !matches!(written, Ok(Ok(_)))
        && let Err(error) = remove_path(&dir.join(COPY_DRAFT), false)
    {
        tracing::warn!(%error, "the next copy writes it anew");
    }
    written
}

fn write_draft(
    metadata: &mut Metadata<impl ReadAt>,
    size: Bytes,
    dir: &Path,
    path: &Path,
) -> Result<io::Result<MetaBlocks>, ReadError> {
    let draft = dir.join(COPY_DRAFT);
    let made = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|file| file.set_len(size.get()).map(|()| file));
    let file = match made {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let blocks = match metadata
        .copy_to(|block, bytes| file.write_all_at(bytes, block.to_bytes_saturating().get()))?
    {
        Ok(blocks) => blocks,
        Err(error) => return Ok(Err(error)),
    };
    let kept = file
        .sync_all()
        .and_then(|()| fs::rename(&draft, path))
        .and_then(|()| File::open(dir)?.sync_all());
    Ok(kept.map(|()| blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A superblock alone: the trees that it leads to cannot be read, which left the draft behind.
    #[test]
    fn metadata_that_cannot_be_read_leave_no_draft() {
        let alone: &[u8] = include_bytes!("../../../fixtures/thinmeta/superblock.bin");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(BackupKind::Copy.name(1));
        let mut metadata = Metadata::of_closed(alone).unwrap().unwrap();
        let written = write_copy(&mut metadata, Bytes::from_mib(1), dir.path(), &path);
        assert!(
            matches!(written, Err(ReadError::Block { .. })),
            "{written:?}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
