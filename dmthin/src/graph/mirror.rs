//! Keeps the mirror: the copy of the catalogue that a pool has in itself (`label/mirror.rs` has its form).
//!
//! What a verb changed is appended to the mirror's log when the verb ends: one write of a block, or a few, to a
//! place that the pool has blocks for, without a flush. The verb has succeeded without it: where it cannot be
//! written that is logged, and the next verb writes everything anew. `pool open` always does. What is
//! flushed is what nothing else could tell again: images, data volumes, that a removal was cancelled. That one
//! is final is written before the first block of the volume is discarded.
//!
//! Where the log goes on is in `mirror-tail`, a file beside the catalogue that is never flushed: it is worth
//! something only while the pool is open, and what it says is compared with the mirror before it is believed,
//! or is what this process wrote last. Without it, or with nothing in it, the mirror is behind.
//!
//! Threads of a process write one after the other, and who writes takes along what the others changed that wait:
//! many verbs at a time are one block.
//!
//! ```text
//! K2   the pool has a thin device, with the last id there is
//! K3   it begins with our superblock; it has no half that counts
//! K4   everything is in its other half, flushed
//! K5   what a verb changed is in the log
//! ```
//! Cut anywhere the half with the higher epoch that is whole counts, as it did before. A mirror that is half
//! made is made again.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::dm::{ActivateOptions, Device, DmError, OwnUuid, PoolStatus, UdevFlags, names};
use crate::graph::create::remove_path;
use crate::graph::error::{GuardError, PoolError, RebuildError};
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::random::random_bytes;
use crate::graph::step::Step;
use crate::ids::ThinId;
use crate::ioctl::DevId;
use crate::label::{
    HALF_AT, HALF_LEN, HalfHeader, LogBlock, MIRROR_BLOCK, MIRROR_SIZE, MirrorError, mirror_of,
    mirror_superblock, rows_checksum,
};
use crate::store::{Catalogue, ChangedRows, PoolRecord, Timestamp};
use crate::units::Bytes;

mod tail;
mod volume;

use tail::{Stamp, Tail};
use volume::{BLOCK, Volume, half_at, in_blocks, rows_of};

/// Room that the log has at least when everything was written anew: for some sixty containers.
const LOG_LEAST: Bytes = Bytes::from_kib(256);
/// The halves get blocks of the pool by so much at a time.
const EXTENT_STEP: Bytes = Bytes::from_mib(1);

/// Whether the mirror has what the catalogue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorState {
    /// Every change was written to it.
    Current,
    /// Something could not be written to it: the next change writes everything anew.
    Behind,
}

/// What this process wrote last, so that what it says need not be read again.
#[derive(Debug)]
struct Written {
    header: HalfHeader,
    tail: Tail,
    stamp: Stamp,
}

/// A pool's mirror as this process knows it.
#[derive(Debug, Default)]
pub(crate) struct Mirrored(Mutex<Option<Written>>);

/// Whether it must be on the disk when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// It must.
    Yes,
    /// It may be lost with the power.
    No,
}

impl Pool {
    fn mirror_tail(&self) -> PathBuf {
        self.host().layout().mirror_tail(self.name())
    }

    fn read_tail(&self) -> Option<(Tail, Stamp)> {
        Tail::read(&self.mirror_tail())
    }

    fn mirror_error(&self, source: MirrorError) -> PoolError {
        let name = self.name().clone();
        RebuildError::Mirror { name, source }.into()
    }

    /// What an open pool's mirror takes of the pool.
    pub(crate) fn mirror_mapped(&self, record: &PoolRecord) -> Result<Bytes, PoolError> {
        let uuid = OwnUuid::mirror(record.uuid).to_dm_uuid();
        Ok(match self.host().dm()?.find(DevId::Uuid(&uuid))? {
            Some(device) => self.host().mapped(&device)?.unwrap_or(Bytes::ZERO),
            None => Bytes::ZERO,
        })
    }

    /// Whether an open pool's mirror is up to date; `None` where it can have none.
    pub(crate) fn mirror_state(&self, record: &PoolRecord) -> Option<MirrorState> {
        if record.existing().is_some() {
            return None;
        }
        Some(match self.read_tail() {
            Some(_) => MirrorState::Current,
            None => MirrorState::Behind,
        })
    }
}

impl Live<'_> {
    /// Sees to it that the pool has a mirror, whose device is active. What is in it is of another time: the next
    /// [`mirror`](Self::mirror) writes everything anew. The caller holds the whole pool.
    pub(crate) fn begin_mirror(&self) {
        if let Err(error) = self.try_begin_mirror() {
            tracing::warn!(%error, "the pool has no copy of its catalogue in itself");
        }
    }

    fn try_begin_mirror(&self) -> Result<(), PoolError> {
        let pool = self.pool();
        remove_path(&pool.mirror_tail(), false)?;
        // Ids there are others' to give. And a pool that gave all its ids has a volume under the last one.
        if self.record().existing().is_some() || pool.catalogue().has_thin_id(ThinId::MIRROR)? {
            return Ok(());
        }
        let device = match self.activate_mirror() {
            Err(DmError::NoSuchThin { .. }) => {
                self.require_room(EXTENT_STEP)?;
                self.thin_pool().create_thin(ThinId::MIRROR)?;
                Step::K2.passed(pool.name());
                self.activate_mirror()?
            }
            result => result?,
        };
        let volume = Volume::open(&device)?;
        let uuid = self.record().uuid;
        match mirror_of(volume.block(Bytes::ZERO)?.bytes()) {
            Ok(found) if found == uuid => return Ok(()),
            Err(error @ MirrorError::Newer { .. }) => return Err(pool.mirror_error(error)),
            _ => {}
        }
        self.require_room(EXTENT_STEP)?;
        for at in HALF_AT {
            volume.write(at, &[0; BLOCK])?;
        }
        volume.flush()?;
        // Last: from here on it is a mirror.
        volume.write(Bytes::ZERO, &mirror_superblock(uuid))?;
        volume.flush()?;
        Step::K3.passed(pool.name());
        Ok(())
    }

    /// Whether the mirror has what the catalogue has: read, for a verb that was killed told nobody that it did not
    /// come to that. Nobody may change the catalogue meanwhile.
    pub(crate) fn is_mirrored(&self) -> Result<bool, PoolError> {
        let uuid = OwnUuid::mirror(self.record().uuid).to_dm_uuid();
        let device = match self.thin_pool().dm().device(&uuid) {
            Err(DmError::NotFound { .. }) => return Ok(false),
            device => device?,
        };
        let volume = Volume::open_to_read(&device)?;
        let Some((half, header)) = volume.newest(self.record().uuid)? else {
            return Ok(false);
        };
        let Some(found) = volume.replay(half, &header)? else {
            return Ok(false);
        };
        let rows = self.pool().catalogue().all_records()?;
        Ok(header.format == Catalogue::format() && found.records == rows)
    }

    fn activate_mirror(&self) -> Result<Device, DmError> {
        let uuid = OwnUuid::mirror(self.record().uuid).to_dm_uuid();
        if let Some(device) = self.thin_pool().dm().active(&uuid)? {
            return Ok(device);
        }
        let options = ActivateOptions {
            read_only: false,
            udev_flags: UdevFlags::INTERNAL,
        };
        let name = names::mirror_name(self.pool().name());
        let size = MIRROR_SIZE.to_sectors_floor();
        self.thin_pool()
            .activate_thin(&name, &uuid, ThinId::MIRROR, size, options)
    }

    /// That the pool has blocks for both halves to become longer by so much, and as much again: a write that
    /// finds none would wait for it.
    fn require_room(&self, longer: Bytes) -> Result<(), PoolError> {
        let block_size = self.record().block_size.to_bytes();
        // What begins and ends within a block takes one more.
        let each = longer.saturating_add(block_size);
        let need = Bytes::new(each.get().saturating_mul(4));
        let free = match self.thin_pool().status()? {
            PoolStatus::Working(pool) => pool
                .total_data
                .saturating_sub(pool.used_data)
                .to_bytes_saturating(self.record().block_size),
            PoolStatus::Fail | PoolStatus::Error => Bytes::ZERO,
        };
        if free >= need {
            return Ok(());
        }
        Err(GuardError::Mirror {
            name: self.pool().name().clone(),
            free,
            need,
        }
        .into())
    }

    /// Has the mirror follow what was changed. What fails is logged: nothing else depends on it.
    pub(crate) fn mirror(&self, flush: Flush) {
        if let Err(error) = self.try_mirror(flush) {
            tracing::warn!(%error, "the copy of the catalogue in the pool is not up to date");
        }
    }

    fn try_mirror(&self, flush: Flush) -> Result<(), PoolError> {
        let pool = self.pool();
        if self.record().existing().is_some() {
            return Ok(());
        }
        // What this verb changed may be in the hands of one who writes: it is there when we have our turn.
        let mut known = pool
            .mirrored()
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let changes = pool.catalogue().take_changes();
        // Last week's catalogue in an open pool: the copy may be all that knows what came since.
        if (changes.is_empty() && flush == Flush::No) || pool.catalogue().is_stale() {
            return Ok(());
        }
        let uuid = OwnUuid::mirror(self.record().uuid).to_dm_uuid();
        // A pool that was opened by an earlier version has none until it is opened again.
        let Some(device) = self.thin_pool().dm().active(&uuid)? else {
            return Ok(());
        };
        // Opened each time: who has it open keeps the pool from being closed.
        let volume = Volume::open(&device)?;
        let lock = pool.locks().copy()?;
        let last = known.take();
        let written = match self.append(&volume, last, &changes) {
            Ok(None) => self.write_anew(&volume),
            Ok(Some(written)) => Ok(written),
            Err(error) => Err(error),
        };
        // The kernel answers flushes that wait at the same time by one.
        drop(lock);
        let no_tail = || remove_path(&pool.mirror_tail(), false);
        match written {
            Ok(written) => *known = Some(written),
            Err(error) => {
                // Whoever has the next turn finds them again.
                drop(changes);
                return Err(error.with_undo(no_tail()));
            }
        }
        drop(known);
        if flush == Flush::Yes
            && let Err(error) = volume.flush()
        {
            return Err(error.with_undo(no_tail()));
        }
        changes.kept();
        Ok(())
    }

    /// Where the log goes on: what was `last` written here, where nobody wrote since, else what the file and the
    /// mirror say; `None` where these do not agree.
    fn end_of_log(
        &self,
        volume: &Volume,
        last: Option<Written>,
    ) -> Result<Option<Written>, PoolError> {
        let Some((tail, stamp)) = self.pool().read_tail() else {
            return Ok(None);
        };
        if let Some(last) = last.filter(|last| last.tail == tail && last.stamp == stamp) {
            return Ok(Some(last));
        }
        let Some((half, header)) = volume.newest(self.record().uuid)? else {
            return Ok(None);
        };
        let is_the_one = half == tail.half
            && header.epoch == tail.epoch
            && header.format == Catalogue::format()
            && header.log_at().is_some_and(|begin| begin <= tail.at);
        if !is_the_one {
            return Ok(None);
        }
        // The file may be an old one that was put back: then something is there already.
        let at = half_at(half).saturating_add(tail.at);
        let is_free = tail.at >= header.extent
            || LogBlock::decode(volume.block(at)?.bytes(), &header.nonce).is_none();
        Ok(is_free.then_some(Written {
            header,
            tail,
            stamp,
        }))
    }

    /// Appends what changed to the log; `None` where everything is to be written anew.
    fn append(
        &self,
        volume: &Volume,
        last: Option<Written>,
        changes: &ChangedRows<'_>,
    ) -> Result<Option<Written>, PoolError> {
        let pool = self.pool();
        let Some(written) = self.end_of_log(volume, last)? else {
            return Ok(None);
        };
        let Some(blocks) = in_blocks(&changes.records()?) else {
            return Ok(None);
        };
        if blocks.is_empty() {
            return Ok(Some(written));
        }
        let Written { header, tail, .. } = written;
        let nr_blocks = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
        let len = Bytes::new(MIRROR_BLOCK.get().saturating_mul(nr_blocks));
        let end = tail.at.saturating_add(len);
        if end > header.extent {
            return Ok(None);
        }
        let now = Timestamp::now().to_unix();
        let mut bytes = Vec::new();
        for (sequence, records) in (tail.sequence..).zip(&blocks) {
            match LogBlock::encode(&header.nonce, sequence, now, records) {
                Some(block) => bytes.extend(block),
                None => return Ok(None),
            }
        }
        volume.write(half_at(tail.half).saturating_add(tail.at), &bytes)?;
        let next = Tail {
            at: end,
            sequence: tail.sequence.saturating_add(nr_blocks),
            ..tail
        };
        let stamp = next.write(&pool.mirror_tail())?;
        Step::K5.passed(pool.name());
        Ok(Some(Written {
            header,
            tail: next,
            stamp,
        }))
    }

    /// Writes everything into the half that does not count, which counts from then on.
    fn write_anew(&self, volume: &Volume) -> Result<Written, PoolError> {
        let pool = self.pool();
        // Before the rows are read: what changes meanwhile is in the log afterwards.
        let changes = pool.catalogue().take_changes();
        let uuid = self.record().uuid;
        let too_large = || RebuildError::Full {
            name: pool.name().clone(),
            most: HALF_LEN,
        };
        let rows = rows_of(&pool.catalogue().all_records()?).ok_or_else(too_large)?;
        let length = Bytes::new(u64::try_from(rows.len()).unwrap_or(u64::MAX));
        let newest = volume.newest(uuid)?;
        let (half, epoch, had) = match &newest {
            Some((half, newest)) => (1_usize.saturating_sub(*half), newest.epoch, newest.extent),
            None => (0, 0, Bytes::ZERO),
        };
        let mut header = HalfHeader {
            pool: uuid,
            epoch: epoch.saturating_add(1),
            format: Catalogue::format(),
            length,
            rows_crc: rows_checksum(&rows),
            extent: had,
            written: Timestamp::now().to_unix(),
            nonce: random_bytes()?,
        };
        let log_at = header.log_at().ok_or_else(too_large)?;
        let spare = LOG_LEAST.max(Bytes::new(length.get() / 4));
        let extent = log_at
            .checked_add(spare)
            .and_then(|end| end.checked_round_up(EXTENT_STEP))
            .map(|extent| extent.min(HALF_LEN))
            .filter(|extent| log_at.saturating_add(LOG_LEAST) <= *extent)
            .ok_or_else(too_large)?;
        if extent > had {
            self.require_room(extent.saturating_sub(had))?;
            for at in HALF_AT {
                volume.zero(at.saturating_add(had), at.saturating_add(extent))?;
            }
            header.extent = extent;
        }
        let at = half_at(half);
        volume.write(at.saturating_add(MIRROR_BLOCK), &rows)?;
        volume.write(at, &header.encode())?;
        volume.flush()?;
        let tail = Tail {
            half,
            epoch: header.epoch,
            at: log_at,
            sequence: 1,
        };
        let stamp = tail.write(&pool.mirror_tail())?;
        changes.kept();
        Step::K4.passed(pool.name());
        Ok(Written {
            header,
            tail,
            stamp,
        })
    }
}
