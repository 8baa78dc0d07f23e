//! Reads the metadata of a pool: through a metadata snapshot where it runs, else as they lie there.
//!
//! A pool holds one snapshot at most, for whoever asks first, and keeps it over crashes and
//! reboots. So that one of ours is never in our own way, and another tool's never taken from it:
//!
//! ```text
//! lock byte 4      alone, while we have one: no two of us ask at once; the kernel drops it with us
//! metadata-snap    a file beside the catalogue: empty (durable) before we ask, then the block we got
//! reserve, read, release, file removed
//! ```
//! Who has the lock and finds a snapshot knows that no living process of ours has it. It is ours, of
//! one that died, if the file is there and names its block or none; then it is released. Else it
//! is another's, and ours to wait for.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::dm::{DmError, ThinPool, WorkingPool};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::ids::PoolName;
use crate::ioctl::{self, DevId, LockGuard};
use crate::store::{BackingRecord, PoolRecord};
use crate::thinmeta::{Metadata, ReadAt, ReadError};
use crate::units::{Bytes, MetaBlocks};

/// Free blocks of the metadata below which no snapshot is taken that need not be. While there is one, a
/// block that changes is written anew where otherwise it would be written in place.
const SPARE: MetaBlocks = MetaBlocks::new(256);

/// A metadata snapshot of ours, until it is released.
#[derive(Debug)]
struct Held<'a> {
    thin_pool: &'a ThinPool<'a>,
    pool: &'a PoolName,
    marker: PathBuf,
    block: MetaBlocks,
    released: bool,
    _lock: LockGuard,
}

impl Held<'_> {
    fn release(mut self) -> Result<(), PoolError> {
        self.released = true;
        self.release_once()
    }

    fn release_once(&self) -> Result<(), PoolError> {
        self.thin_pool.release_metadata_snap()?;
        Step::L3.passed(self.pool);
        unmark(&self.marker)?;
        Step::L4.passed(self.pool);
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = self.release_once() {
            tracing::error!(%error, "cannot release a metadata snapshot; the next reader will");
        }
    }
}

/// Says durably that a snapshot that is found from now on is ours.
fn mark(marker: &Path) -> Result<(), PoolError> {
    let failed = |source| PoolError::io("write", marker, source);
    File::create(marker)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    let dir = marker.parent().unwrap_or(marker);
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed)
}

/// Names the block. Should a power cut lose this, the empty file says enough.
fn mark_block(marker: &Path, block: MetaBlocks) -> Result<(), PoolError> {
    File::create(marker)
        .and_then(|mut file| file.write_all(block.to_string().as_bytes()))
        .map_err(|source| PoolError::io("write", marker, source))
}

/// Whether the snapshot in this block is one that we marked.
fn is_marked(marker: &Path, block: MetaBlocks) -> Result<bool, PoolError> {
    match fs::read_to_string(marker) {
        Ok(text) => Ok(text.is_empty() || text == block.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PoolError::io("read", marker, source)),
    }
}

fn unmark(marker: &Path) -> Result<(), PoolError> {
    match fs::remove_file(marker) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(PoolError::io("remove", marker, error))
        }
        _ => Ok(()),
    }
}

impl Live<'_> {
    /// Reads the pool's metadata as they are now. The snapshot is released again whatever happens.
    ///
    /// # Errors
    /// [`PoolError::MetadataSnapHeld`] where another tool has the pool's snapshot;
    /// [`PoolError::Metadata`] where what is read is damaged.
    pub(crate) fn read_metadata<T>(
        &self,
        read: impl FnOnce(&mut Metadata<Window>) -> Result<T, ReadError>,
    ) -> Result<T, PoolError> {
        let lock = self.pool().locks().reading()?;
        let status = self.pool().require_writable(self.thin_pool())?;
        self.read_under(lock, &status, read)
    }

    /// As [`read_metadata`](Self::read_metadata), for who can do without: `None` while another of us reads,
    /// or where the metadata are nearly full and a snapshot's own blocks could be the last ones.
    pub(crate) fn try_read_metadata<T>(
        &self,
        read: impl FnOnce(&mut Metadata<Window>) -> Result<T, ReadError>,
    ) -> Result<Option<T>, PoolError> {
        let Some(lock) = self.pool().locks().try_reading()? else {
            return Ok(None);
        };
        let status = self.pool().require_writable(self.thin_pool())?;
        let free = status.total_metadata.saturating_sub(status.used_metadata);
        if free < SPARE {
            return Ok(None);
        }
        self.read_under(lock, &status, read).map(Some)
    }

    fn read_under<T>(
        &self,
        lock: LockGuard,
        status: &WorkingPool,
        read: impl FnOnce(&mut Metadata<Window>) -> Result<T, ReadError>,
    ) -> Result<T, PoolError> {
        let (held, status) = self.hold(lock, status)?;
        let found = self.read_held(held.block, &status, read);
        let released = held.release();
        match found {
            Ok(found) => released.map(|()| found),
            Err(error) => Err(error.with_undo(released)),
        }
    }

    /// Lets go what a reader of ours left that died; it keeps blocks of the metadata from being used again.
    pub(crate) fn release_stale_snapshot(&self) -> Result<(), PoolError> {
        let pool = self.pool();
        let marker = pool.host().layout().metadata_snap(pool.name());
        if !marker.exists() {
            return Ok(());
        }
        // Who reads now has it for himself.
        let Some(_lock) = pool.locks().try_reading()? else {
            return Ok(());
        };
        let status = pool.require_writable(self.thin_pool())?;
        self.release_marked(&marker, &status)?;
        unmark(&marker)
    }

    /// Releases the pool's metadata snapshot if it is ours; gives the block of one that is another's.
    fn release_marked(
        &self,
        marker: &Path,
        status: &WorkingPool,
    ) -> Result<Option<MetaBlocks>, PoolError> {
        let Some(block) = status.held_root else {
            return Ok(None);
        };
        if !is_marked(marker, block)? {
            return Ok(Some(block));
        }
        tracing::info!(%block, "releasing the metadata snapshot of a reader that died");
        self.thin_pool().release_metadata_snap()?;
        Step::L3.passed(self.pool().name());
        Ok(None)
    }

    /// Has a snapshot taken; `status` is the pool's before, and that with it is given.
    fn hold(
        &self,
        lock: LockGuard,
        status: &WorkingPool,
    ) -> Result<(Held<'_>, Box<WorkingPool>), PoolError> {
        let pool = self.pool();
        let marker = pool.host().layout().metadata_snap(pool.name());
        let another = |block| PoolError::MetadataSnapHeld {
            name: pool.name().clone(),
            block,
        };
        if let Some(block) = self.release_marked(&marker, status)? {
            return Err(another(block));
        }
        mark(&marker)?;
        Step::L1.passed(pool.name());
        let (block, status) = match self.thin_pool().reserve_metadata_snap() {
            Ok(taken) => taken,
            Err(error) => {
                let undo = unmark(&marker);
                let error = match error {
                    // Another tool was faster.
                    DmError::MetadataSnapHeld { .. } => another(MetaBlocks::ZERO),
                    error => error.into(),
                };
                return Err(error.with_undo(undo));
            }
        };
        let held = Held {
            thin_pool: self.thin_pool(),
            pool: pool.name(),
            marker,
            block,
            released: false,
            _lock: lock,
        };
        mark_block(&held.marker, block)?;
        Step::L2.passed(pool.name());
        Ok((held, status))
    }

    fn read_held<T>(
        &self,
        block: MetaBlocks,
        status: &WorkingPool,
        read: impl FnOnce(&mut Metadata<Window>) -> Result<T, ReadError>,
    ) -> Result<T, PoolError> {
        let node = self.metadata_node()?;
        // The kernel writes the metadata past the page cache of their device, where blocks that
        // somebody read before, as udev does, lie for long.
        let device = Window::whole(ioctl::open_direct(&node)?);
        Metadata::of_snapshot(device, block, status.total_metadata, status.total_data)
            .and_then(|mut metadata| read(&mut metadata))
            .map_err(|source| self.pool().metadata_error(node, source))
    }

    /// The node of the device that the pool has its metadata on, whatever else its file is attached to.
    pub(crate) fn metadata_node(&self) -> Result<PathBuf, PoolError> {
        let (_, table) = self.thin_pool().table()?;
        let path = self.pool().backing_path(&self.record().metadata);
        let host = self.pool().host();
        let node = match &self.record().metadata {
            BackingRecord::Device { .. } => Some(path.clone()),
            BackingRecord::Part { .. } | BackingRecord::ThinPool(_) => {
                match host.dm()?.find(DevId::Dev(table.metadata))? {
                    Some(device) => host.node_of(&device)?,
                    // A thin-pool that a script made may lie on any device.
                    None => ioctl::node_by_number(table.metadata),
                }
            }
            BackingRecord::File { .. } => {
                let is_it = |node: &PathBuf| {
                    ioctl::node_dev(node).is_ok_and(|dev| dev == Some(table.metadata))
                };
                // A search opens every loop device for writing, of which udevd looks at each again.
                match ioctl::node_by_number(table.metadata).filter(is_it) {
                    Some(node) => Some(node),
                    // It makes the nodes that a bare /dev has not.
                    None => ioctl::attached_loops()?
                        .into_iter()
                        .find(|(device, _)| device.dev() == table.metadata)
                        .map(|(device, _)| device.path().to_owned()),
                }
            }
        };
        match node {
            Some(node) if ioctl::node_dev(&node)? == Some(table.metadata) => Ok(node),
            _ => Err(PoolError::BackingElsewhere {
                name: self.pool().name().clone(),
                path,
                device: table.metadata,
            }),
        }
    }
}

/// The metadata on a file or device, from a byte of it on.
#[derive(Debug)]
pub(crate) struct Window {
    file: File,
    start: Bytes,
}

impl Window {
    pub(crate) const fn whole(file: File) -> Self {
        Self {
            file,
            start: Bytes::ZERO,
        }
    }

    pub(crate) const fn from(file: File, start: Bytes) -> Self {
        Self { file, start }
    }

    /// What it is a part of, and from which byte of that on.
    pub(crate) const fn parts(&self) -> (&File, Bytes) {
        (&self.file, self.start)
    }
}

impl ReadAt for Window {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let at = self.start.get().checked_add(at);
        let at = at.ok_or(io::ErrorKind::UnexpectedEof)?;
        FileExt::read_exact_at(&self.file, buf, at)
    }
}

impl Pool {
    /// Reads the metadata of a pool that is not open, under a lock that keeps it so.
    pub(crate) fn read_closed_metadata<T>(
        &self,
        record: &PoolRecord,
        read: impl FnOnce(&mut Metadata<Window>) -> Result<T, ReadError>,
    ) -> Result<T, PoolError> {
        let path = self.backing_path(&record.metadata);
        let device = match &record.metadata {
            BackingRecord::Device { .. } => Window::whole(ioctl::open_direct(&path)?),
            BackingRecord::Part { start, .. } => Window {
                file: ioctl::open_direct(&path)?,
                start: *start,
            },
            // Its metadata are where its owner has them, while it is active.
            BackingRecord::ThinPool(_) => {
                return Err(PoolError::PoolNotOpen {
                    name: self.name().clone(),
                });
            }
            BackingRecord::File { .. } => Window::whole(
                File::open(&path).map_err(|source| PoolError::io("read", &path, source))?,
            ),
        };
        match Metadata::of_closed(device) {
            Ok(Some(mut metadata)) => {
                read(&mut metadata).map_err(|source| self.metadata_error(path, source))
            }
            Ok(None) => Err(PoolError::Unformatted {
                name: self.name().clone(),
                path,
            }),
            Err(source) => Err(self.metadata_error(path, source)),
        }
    }

    pub(crate) fn metadata_error(&self, path: PathBuf, source: ReadError) -> PoolError {
        PoolError::Metadata {
            pool: self.name().clone(),
            path,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_ours_only_if_the_marker_does_not_name_another() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("metadata-snap");
        let block = MetaBlocks::new(712);
        assert!(!is_marked(&marker, block).unwrap());
        mark(&marker).unwrap();
        assert!(is_marked(&marker, block).unwrap());
        mark_block(&marker, block).unwrap();
        assert!(is_marked(&marker, block).unwrap());
        assert!(!is_marked(&marker, MetaBlocks::new(71)).unwrap());
        unmark(&marker).unwrap();
        unmark(&marker).unwrap();
        assert!(!is_marked(&marker, block).unwrap());
    }
}
