//! A pool on one whole disk: its label, and the two parts of it that the pool lies on.
//!
//! The label says whose a disk is, and a disk is used only when it says so: paths of disks change.
//! How long the parts are is the catalogue's to say; the label has where they begin.

use crate::backing::{Attached, BlockDevice};
use crate::dm::{LinearTable, OwnUuid, PartKind, names};
use crate::graph::create::{CreatePool, Place, absolute, require_free, round_up};
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::label::{self, Area, CATALOGUE_LEN, CATALOGUE_START, Label, LabelError};
use crate::store::{BackingRecord, PoolRecord};
use crate::units::Bytes;

use std::path::Path;

impl Host {
    /// The parts of a disk that is free and bare.
    pub(crate) fn place_on_disk(path: &Path, new: &CreatePool) -> Result<Place, PoolError> {
        let disk = BlockDevice::open(path)?;
        require_free(&disk, new.force)?;
        let planned = plan::metadata_size(disk.size(), new.block_size);
        let metadata_size = round_up(new.metadata_size.unwrap_or(planned));
        let (metadata, data) =
            plan::disk_areas(disk.size(), metadata_size).ok_or(PoolError::TooSmall {
                what: "disk",
                size: disk.size(),
                least: metadata_size
                    .saturating_add(metadata_size)
                    .saturating_add(CATALOGUE_START)
                    .saturating_add(CATALOGUE_LEN)
                    .saturating_add(CreatePool::MIN_SIZE),
            })?;
        let path = absolute(path)?;
        let part = |area: Area| BackingRecord::Part {
            path: path.clone(),
            start: area.start,
        };
        let sizes = [data.len, metadata_size];
        Ok(Place::fresh(new, [part(data), part(metadata)], sizes))
    }
}

/// The label of an open disk, its errors told with the disk's path.
pub(crate) fn read_label(disk: &BlockDevice) -> Result<Option<Label>, PoolError> {
    label::read(disk.file()).map_err(|source| label_error(disk, source))
}

fn label_error(disk: &BlockDevice, source: LabelError) -> PoolError {
    PoolError::Label {
        path: disk.path().to_owned(),
        source,
    }
}

impl Pool {
    /// The disk of a pool that lies on one, with its label, which is the pool's.
    pub(crate) fn disk(
        &self,
        record: &PoolRecord,
    ) -> Result<Option<(BlockDevice, Label)>, PoolError> {
        let Some(path) = record.disk() else {
            return Ok(None);
        };
        let disk = BlockDevice::open(path)?;
        match read_label(&disk)? {
            Some(label) if label.pool == record.uuid => Ok(Some((disk, label))),
            other => Err(PoolError::OtherDisk {
                name: self.name().clone(),
                path: path.to_owned(),
                found: other.map(|label| label.name),
            }),
        }
    }

    /// The label of a new pool's disk, where it has one.
    pub(crate) fn write_first_label(&self, record: &PoolRecord) -> Result<(), PoolError> {
        let (
            BackingRecord::Part { path, start },
            BackingRecord::Part {
                start: metadata_start,
                ..
            },
        ) = (&record.data, &record.metadata)
        else {
            return Ok(());
        };
        let disk = BlockDevice::open(path)?;
        let label = Label {
            sequence: 1,
            pool: record.uuid,
            name: record.name.clone(),
            device_size: disk.size(),
            catalogue: Area {
                start: CATALOGUE_START,
                len: CATALOGUE_LEN,
            },
            metadata: Area {
                start: *metadata_start,
                len: start.saturating_sub(*metadata_start),
            },
            data: Area {
                start: *start,
                len: record.data_size,
            },
            block_size: record.block_size,
        };
        label::write(disk.file(), &label).map_err(|source| label_error(&disk, source))
    }

    /// Makes the label say what is so now: the pool's name, and how large disk and data are.
    pub(crate) fn update_label(&self, record: &PoolRecord, data: Bytes) -> Result<(), PoolError> {
        let Some((disk, old)) = self.disk(record)? else {
            return Ok(());
        };
        let mut new = old.clone();
        new.name = record.name.clone();
        new.device_size = disk.size();
        new.data.len = data;
        if new == old {
            return Ok(());
        }
        new.sequence = old.sequence.saturating_add(1);
        label::write(disk.file(), &new).map_err(|source| label_error(&disk, source))
    }

    /// One half of a pool on a disk, as a device as long as the record says.
    pub(crate) fn attach_part(
        &self,
        record: &PoolRecord,
        half: PartKind,
        start: Bytes,
    ) -> Result<Attached, PoolError> {
        let room = self.room_of_part(record, half)?;
        let len = match half {
            PartKind::Data => record.data_size,
            PartKind::Metadata => record.metadata_size,
        };
        let path = self.backing_path(&record.data);
        if room < len {
            return Err(PoolError::DeviceShrunk {
                name: self.name().clone(),
                path,
                found: room,
                expected: len,
            });
        }
        let table = LinearTable {
            device: BlockDevice::open(&path)?.dev(),
            offset: start.to_sectors_floor(),
        };
        let device = self.host().dm()?.ensure_linear(
            &names::part_name(self.name(), half),
            &OwnUuid::part(record.uuid, half).to_dm_uuid(),
            &table,
            len.to_sectors_floor(),
        )?;
        Ok(BlockDevice::open(device.node())?.attach())
    }

    /// How long one half of a pool on a disk may become.
    pub(crate) fn room_of_part(
        &self,
        record: &PoolRecord,
        half: PartKind,
    ) -> Result<Bytes, PoolError> {
        let Some((disk, label)) = self.disk(record)? else {
            return Ok(Bytes::ZERO);
        };
        Ok(match half {
            PartKind::Data => plan::data_room(disk.size(), label.data.start),
            PartKind::Metadata => label.metadata.len,
        })
    }

    /// Wipes the disk of a pool that is being destroyed, if it is the pool's.
    pub(crate) fn wipe_disk(&self, record: &PoolRecord) -> Result<(), PoolError> {
        match self.disk(record) {
            Ok(None) => Ok(()),
            Ok(Some((disk, _))) => {
                disk.attach().wipe()?;
                Step::Y2.passed(self.name());
                Ok(())
            }
            // `pool create` was cut before its label, or the disk is another pool's by now.
            Err(PoolError::OtherDisk { path, .. }) => {
                tracing::warn!(path = %path.display(), "the disk is not the pool's: left as it is");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
