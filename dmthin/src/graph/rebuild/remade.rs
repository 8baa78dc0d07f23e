//! The catalogue made of what is left of a pool, in memory.

use std::collections::BTreeSet;
use std::path::Path;

use crate::graph::create::CreatePool;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::pairing::PairingError;
use crate::graph::plan;
use crate::graph::random::random_bytes;
use crate::graph::reading::Window;
use crate::graph::rebuild::remains::{Halves, Mirrored, Thin, begins, read_mirror};
use crate::graph::rebuild::{LostVolume, RebuildPool, RebuildReport};
use crate::graph::split::volume_of;
use crate::graph::thin_ids::longest_gap;
use crate::ids::{FsType, PoolName, PoolUuid, ThinId, VolumeKind};
use crate::image::digest_of;
use crate::store::{
    Anonymous, BackingRecord, Guard, LostImage, NewPool, PoolRecord, Rebuilding, UnknownThin,
    VolumeRecord, VolumeState, WhenFull,
};
use crate::thinmeta::{Metadata, ReadError, Run, Superblock};
use crate::units::{BlockSize, Bytes};

/// What containers are of that are known by nothing but a number.
const LOST_IMAGE: &str = "lost-found:latest";
/// Its configuration: an image of nothing.
pub(super) const LOST_CONFIG: &str =
    r#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// A new catalogue that is still in memory.
pub(super) struct Made {
    pub(super) rebuilding: Rebuilding,
    pub(super) report: RebuildReport,
}

/// What is left of a pool, to be asked.
struct Left<'a> {
    name: &'a PoolName,
    block_size: BlockSize,
    halves: &'a Halves,
    metadata: &'a mut Metadata<&'a Window>,
}

impl Left<'_> {
    fn runs(&mut self, id: ThinId) -> Result<Vec<Run>, PoolError> {
        let runs = self
            .metadata
            .runs(id)
            .map_err(|source| PoolError::Metadata {
                pool: self.name.clone(),
                path: self.halves.metadata_path.clone(),
                source,
            })?;
        Ok(runs.unwrap_or_default())
    }

    /// What the mirror says.
    fn mirror(&mut self) -> Result<Mirrored, PoolError> {
        let thin = Thin {
            data: &self.halves.data,
            runs: self.runs(ThinId::MIRROR)?,
            block_size: self.block_size,
        };
        read_mirror(&thin, self.name)
    }

    /// That a base has the file system that its row says.
    fn require_own_base(&mut self, volume: &VolumeRecord, path: &Path) -> Result<(), PoolError> {
        if volume.kind != VolumeKind::Base || volume.state != VolumeState::Ready {
            return Ok(());
        }
        let runs = self.runs(volume.thin_id)?;
        let found = self.halves.probe(&runs, self.block_size)?;
        let found = found.map(|found| found.uuid.to_string());
        if begins(&runs).is_none() || found == volume.fs_uuid {
            return Ok(());
        }
        Err(PairingError::OtherBase {
            name: self.name.clone(),
            base: volume.thin_id,
            path: path.to_owned(),
        }
        .into())
    }

    /// A device of which nothing is known, as it is to be recorded: as long as its row said, else as its file
    /// system and as what it has mapped. And the file system that was found, where `fs` is what others have.
    fn looked_at(
        &mut self,
        unknown: &UnknownThin,
        fs: FsType,
    ) -> Result<(Anonymous, Option<FsType>), PoolError> {
        let runs = self.runs(unknown.id)?;
        // What a container wrote there need make no sense.
        let found = self.halves.probe(&runs, self.block_size).unwrap_or(None);
        let end = runs.last().map_or(Bytes::ZERO, |run| {
            let begin = run.begin.to_bytes_saturating(self.block_size);
            begin.saturating_add(run.len.to_bytes_saturating(self.block_size))
        });
        let size = found
            .as_ref()
            .map_or(Bytes::ZERO, |found| found.size)
            .max(end);
        let volume = Anonymous {
            id: unknown.id,
            size: unknown.size.unwrap_or(size.max(self.block_size.to_bytes())),
            fs: found.as_ref().map_or(fs, |found| found.fs),
            fs_uuid: found.as_ref().map(|found| found.uuid.to_string()),
        };
        Ok((volume, found.map(|found| found.fs)))
    }
}

impl Host {
    /// The catalogue, made of what is in the pool.
    pub(super) fn remake(&self, pool: &RebuildPool) -> Result<Made, PoolError> {
        let name = &pool.name;
        let halves = self.halves(pool)?;
        let failed = |source: ReadError| PoolError::Metadata {
            pool: name.clone(),
            path: halves.metadata_path.clone(),
            source,
        };
        let unformatted = || PoolError::Unformatted {
            name: name.clone(),
            path: halves.metadata_path.clone(),
        };
        let superblock = halves.superblock().map_err(failed)?;
        let superblock = superblock.ok_or_else(unformatted)?;
        let metadata = Metadata::of_closed(&halves.metadata).map_err(failed)?;
        let mut metadata = metadata.ok_or_else(unformatted)?;
        let mut devices = metadata.devices().map_err(failed)?;
        devices.retain(|device| device.id != ThinId::MIRROR);
        let mut left = Left {
            name,
            block_size: superblock.block_size,
            halves: &halves,
            metadata: &mut metadata,
        };
        let (copy, uuid, format, records) = left.mirror()?;
        let path = self.layout().catalogue(name);
        let mut rebuilding = Rebuilding::begin(&path, format, records)?;
        let record = rebuilding.pool()?;
        self.require_this_pool(name, record.as_ref(), [uuid, halves.uuid])?;
        let known = match uuid.or(halves.uuid) {
            Some(uuid) => uuid,
            None => PoolUuid::from_bytes(random_bytes()?),
        };
        let new = new_pool(name, known, &halves, record.as_ref(), &superblock);
        let present: BTreeSet<ThinId> = devices.iter().map(|device| device.id).collect();
        let settled = rebuilding.settle(&new, superblock.transaction_id, &present)?;
        for volume in rebuilding.volumes()? {
            if present.contains(&volume.thin_id) {
                left.require_own_base(&volume, &path)?;
            }
        }
        let mut anonymous = Vec::new();
        let mut seen = Vec::new();
        for unknown in &settled.unknown {
            let (volume, fs) = left.looked_at(unknown, new.fs)?;
            anonymous.push(volume);
            seen.push(fs);
        }
        let image = LostImage {
            name: LOST_IMAGE,
            config: LOST_CONFIG.as_bytes(),
            digest: digest_of(LOST_CONFIG.as_bytes()),
        };
        // The record of a layer that is no more must not be met by a layer of its number.
        let splits = self.layout().splits(name);
        if let Some(last) = splits.iter().filter_map(|path| volume_of(path)).max() {
            rebuilding.pass_over(last)?;
        }
        let names = rebuilding.keep(image, &anonymous)?;
        let (next, end) = thin_ids(record.as_ref(), &rebuilding.thin_ids()?);
        rebuilding.set_thin_ids(next, end)?;
        let mapped = |id: ThinId| {
            let device = devices.iter().find(|device| device.id == id);
            device.map_or(Bytes::ZERO, |device| {
                device.mapped.to_bytes_saturating(superblock.block_size)
            })
        };
        let lost: Vec<_> = names
            .into_iter()
            .zip(anonymous)
            .zip(seen)
            .map(|((name, volume), fs)| LostVolume {
                name,
                thin_id: volume.id,
                size: volume.size,
                mapped: mapped(volume.id),
                fs,
            })
            .collect();
        let nr_known = present.len().saturating_sub(lost.len());
        Ok(Made {
            rebuilding,
            report: RebuildReport {
                name: name.clone(),
                copy,
                known: u64::try_from(nr_known).unwrap_or(u64::MAX),
                lost,
                dropped: settled.dropped,
                aside: None,
            },
        })
    }

    /// That what was found is this pool's.
    fn require_this_pool(
        &self,
        name: &PoolName,
        record: Option<&PoolRecord>,
        uuids: [Option<PoolUuid>; 2],
    ) -> Result<(), PoolError> {
        let of_record = record.map(|record| record.uuid);
        let mut found = uuids.into_iter().chain([of_record]).flatten();
        let first = found.next();
        let agree = found.all(|uuid| Some(uuid) == first);
        let called = record.map(|record| record.name.clone());
        let is_called = called.as_ref().is_none_or(|called| called == name);
        let elsewhere = self
            .pools()?
            .into_iter()
            .find(|pool| first.is_some() && pool.uuid == first && pool.name != *name);
        if agree && is_called && elsewhere.is_none() {
            return Ok(());
        }
        Err(PairingError::OtherPool {
            name: name.clone(),
            found: elsewhere.map(|pool| pool.name).or(called),
        }
        .into())
    }
}

/// The pool as it is to be recorded.
fn new_pool(
    name: &PoolName,
    uuid: PoolUuid,
    halves: &Halves,
    record: Option<&PoolRecord>,
    superblock: &Superblock,
) -> NewPool {
    let block_size = superblock.block_size;
    let in_use = superblock.data.total.to_bytes_saturating(block_size);
    // What is beyond the last whole block does not count, and what the kernel does not know yet neither.
    let as_it_is = |size: Bytes| plan::data_blocks(size, block_size) == superblock.data.total;
    let data_size = record
        .map(|record| record.data_size)
        .into_iter()
        .chain([halves.data_size])
        .find(|size| as_it_is(*size))
        .unwrap_or(in_use);
    let metadata_in_use = superblock.metadata.total.to_bytes_saturating();
    let metadata_size = match (record, &halves.metadata_record) {
        (Some(record), _) => record.metadata_size.max(metadata_in_use),
        // The rest of its area is room to grow.
        (None, BackingRecord::Part { .. }) => metadata_in_use,
        (None, _) => halves.metadata_size,
    };
    let guard = Guard::default();
    NewPool {
        name: name.clone(),
        uuid,
        block_size,
        low_water: plan::low_water(data_size, block_size, guard),
        data: halves.data_record.clone(),
        data_size,
        metadata: halves.metadata_record.clone(),
        metadata_size: metadata_size.min(halves.metadata_size),
        zeroing: true,
        base_size: CreatePool::DEFAULT_BASE_SIZE,
        fs: record.map_or(FsType::Ext4, |record| record.fs),
        mkfs_args: Vec::new(),
        guard,
        when_full: WhenFull::Queue,
        overcommit: true,
        first_thin_id: ThinId::FIRST,
    }
}

/// The thin ids to be given out: where the copy was, and above all that are taken; else where most are free.
pub(super) fn thin_ids(record: Option<&PoolRecord>, taken: &BTreeSet<ThinId>) -> (ThinId, ThinId) {
    let (next, end) = match record {
        Some(record) => (record.next_thin_id, record.thin_ids_end),
        None => (Some(ThinId::FIRST), ThinId::MIRROR),
    };
    let above = next.and_then(|next| match taken.range(next..end).next_back() {
        Some(last) => last.next(),
        None => Some(next),
    });
    match above.filter(|next| *next < end) {
        Some(next) => (next, end),
        None => longest_gap(taken, ThinId::MIRROR).unwrap_or((ThinId::MIRROR, ThinId::MIRROR)),
    }
}
