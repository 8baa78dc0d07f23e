//! What is left of a pool without a catalogue: its two halves, read without the kernel, and the mirror in them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::backing::{BlockDevice, SparseFile};
use crate::fs::{SuperblockInfo, probe_at};
use crate::graph::create::absolute;
use crate::graph::disk::read_label;
use crate::graph::error::{PoolError, RebuildError};
use crate::graph::host::Host;
use crate::graph::layout::{DATA_FILE, METADATA_FILE};
use crate::graph::plan;
use crate::graph::reading::Window;
use crate::graph::rebuild::{CopyFound, RebuildOn, RebuildPool};
use crate::ids::{PoolName, PoolUuid};
use crate::label::{HALF_AT, HalfHeader, MIRROR_BLOCK, MirrorError, Record, mirror_of};
use crate::store::{BackingRecord, Catalogue};
use crate::thinmeta::{FirstBlock, ReadAt, ReadError, Run, Superblock};
use crate::units::{BlockSize, Bytes};

/// The two halves of a pool that is not open.
#[derive(Debug)]
pub(super) struct Halves {
    pub(super) data: Window,
    pub(super) data_record: BackingRecord,
    pub(super) data_size: Bytes,
    pub(super) metadata: Window,
    pub(super) metadata_path: PathBuf,
    pub(super) metadata_record: BackingRecord,
    pub(super) metadata_size: Bytes,
    /// Whose the disk's label says it is.
    pub(super) uuid: Option<PoolUuid>,
}

impl Host {
    /// Where the pool lies.
    pub(super) fn halves(&self, pool: &RebuildPool) -> Result<Halves, PoolError> {
        let dir = self.layout().pool_dir(&pool.name);
        let window = |path: &Path, start| {
            let file = File::open(path).map_err(|source| PoolError::io("read", path, source))?;
            Ok::<_, PoolError>(Window::from(file, start))
        };
        match &pool.on {
            None => {
                let [data, metadata] = [DATA_FILE, METADATA_FILE].map(|file| dir.join(file));
                if !(data.exists() && metadata.exists()) {
                    return Err(RebuildError::Where {
                        name: pool.name.clone(),
                    }
                    .into());
                }
                let file = |name: &str| BackingRecord::File {
                    name: name.to_owned(),
                };
                Ok(Halves {
                    data: window(&data, Bytes::ZERO)?,
                    data_record: file(DATA_FILE),
                    data_size: SparseFile::open(&data)?.size()?,
                    metadata: window(&metadata, Bytes::ZERO)?,
                    metadata_record: file(METADATA_FILE),
                    metadata_size: SparseFile::open(&metadata)?.size()?,
                    metadata_path: metadata,
                    uuid: None,
                })
            }
            Some(RebuildOn::Devices(pair)) => {
                let [data, metadata] = [&pair.data, &pair.metadata].map(|path| {
                    let device = BlockDevice::open(path)?;
                    device.check_unused()?;
                    Ok::<_, PoolError>((device.size(), absolute(path)?))
                });
                let ((data_size, data), (metadata_size, metadata)) = (data?, metadata?);
                Ok(Halves {
                    data: window(&data, Bytes::ZERO)?,
                    data_record: BackingRecord::Device { path: data },
                    data_size,
                    metadata: window(&metadata, Bytes::ZERO)?,
                    metadata_record: BackingRecord::Device {
                        path: metadata.clone(),
                    },
                    metadata_size,
                    metadata_path: metadata,
                    uuid: None,
                })
            }
            Some(RebuildOn::Disk(path)) => {
                let disk = BlockDevice::open(path)?;
                let label =
                    read_label(&disk)?.ok_or_else(|| PoolError::NoLabel { path: path.clone() })?;
                disk.check_unused()?;
                let path = absolute(path)?;
                let part = |start| BackingRecord::Part {
                    path: path.clone(),
                    start,
                };
                Ok(Halves {
                    data: window(&path, label.data.start)?,
                    data_record: part(label.data.start),
                    data_size: plan::data_room(disk.size(), label.data.start),
                    metadata: window(&path, label.metadata.start)?,
                    metadata_record: part(label.metadata.start),
                    metadata_size: label.metadata.len,
                    metadata_path: path.clone(),
                    uuid: Some(label.pool),
                })
            }
        }
    }
}

/// Where a thin device has its first block.
pub(super) fn begins(runs: &[Run]) -> Option<&Run> {
    runs.first().filter(|run| run.begin.get() == 0)
}

impl Halves {
    /// The superblock of the metadata, where they are formatted.
    pub(super) fn superblock(&self) -> Result<Option<Box<Superblock>>, ReadError> {
        let mut block = vec![0; usize::try_from(MIRROR_BLOCK.get()).unwrap_or(0)];
        self.metadata
            .read_exact_at(&mut block, 0)
            .map_err(ReadError::Io)?;
        Ok(match FirstBlock::decode(&block)? {
            FirstBlock::Superblock(superblock) => Some(superblock),
            FirstBlock::Unformatted => None,
        })
    }

    /// The file system at the begin of a thin device.
    pub(super) fn probe(
        &self,
        runs: &[Run],
        block_size: BlockSize,
    ) -> Result<Option<SuperblockInfo>, PoolError> {
        let Some(first) = begins(runs) else {
            return Ok(None);
        };
        let at = first.data.to_bytes_saturating(block_size);
        let (file, start) = self.data.parts();
        Ok(probe_at(file, start.saturating_add(at))?)
    }
}

/// A thin device, read through the pool's metadata.
pub(super) struct Thin<'a> {
    pub(super) data: &'a Window,
    pub(super) runs: Vec<Run>,
    pub(super) block_size: BlockSize,
}

impl Thin<'_> {
    /// Bytes of it; zeros where it has nothing.
    pub(super) fn read(&self, at: Bytes, len: Bytes) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len.get()).unwrap_or(0)];
        let end = at.saturating_add(len);
        for run in &self.runs {
            let begin = run.begin.to_bytes_saturating(self.block_size);
            let run_end = begin.saturating_add(run.len.to_bytes_saturating(self.block_size));
            let (from, to) = (begin.max(at), run_end.min(end));
            if from >= to {
                continue;
            }
            let place = |bytes: Bytes| usize::try_from(bytes.get()).unwrap_or(usize::MAX);
            let part = place(from.saturating_sub(at))..place(to.saturating_sub(at));
            let Some(part) = bytes.get_mut(part) else {
                continue;
            };
            let data = run.data.to_bytes_saturating(self.block_size);
            let data = data.saturating_add(from.saturating_sub(begin));
            self.data.read_exact_at(part, data.get())?;
        }
        Ok(bytes)
    }
}

/// What a mirror says: what was found of it, whose it is, the format of its rows, and these.
pub(super) type Mirrored = (CopyFound, Option<PoolUuid>, u32, Vec<Record>);

pub(super) fn read_mirror(thin: &Thin<'_>, name: &PoolName) -> Result<Mirrored, PoolError> {
    let nothing = |copy| (copy, None, Catalogue::format(), Vec::new());
    if thin.runs.is_empty() {
        return Ok(nothing(CopyFound::None));
    }
    let io = |source| PoolError::io("read", Path::new("the copy of the catalogue"), source);
    let uuid = match mirror_of(&thin.read(Bytes::ZERO, MIRROR_BLOCK).map_err(io)?) {
        Ok(uuid) => uuid,
        Err(source @ MirrorError::Newer { .. }) => {
            return Err(RebuildError::Mirror {
                name: name.clone(),
                source,
            }
            .into());
        }
        Err(_) => return Ok(nothing(CopyFound::Damaged)),
    };
    let mut headers = Vec::new();
    for at in HALF_AT {
        let block = thin.read(at, MIRROR_BLOCK).map_err(io)?;
        headers.extend(HalfHeader::decode(&block, uuid).map(|header| (at, header)));
    }
    headers.sort_by_key(|(_, header)| std::cmp::Reverse(header.epoch));
    for (at, header) in headers {
        if let Some(found) = header.replay(&thin.read(at, header.extent).map_err(io)?) {
            let written = found.written;
            let copy = CopyFound::Whole { written };
            return Ok((copy, Some(uuid), header.format, found.records));
        }
    }
    let (copy, _, format, records) = nothing(CopyFound::Damaged);
    Ok((copy, Some(uuid), format, records))
}
