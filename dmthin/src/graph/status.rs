//! `pool status`: the catalogue, the kernel and the host's file system in one record.

use std::path::PathBuf;

use crate::backing::{self, SparseFile};
use crate::dm::{DiscardMode, OwnKind, PoolMode, PoolStatus, WorkingPool};
use crate::graph::error::PoolError;
use crate::graph::guard;
use crate::graph::live::Live;
use crate::graph::monitor::{Sample, Samples};
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::report::{BackingReport, LivePool, PoolReport, PoolWord, TimeToFull, Usage};
use crate::ids::DevNo;
use crate::ioctl;
use crate::store::{BackingRecord, PoolRecord, Timestamp};
use crate::units::Bytes;

impl Pool {
    /// Everything there is to say of the pool, open or not.
    ///
    /// # Errors
    /// [`PoolError::Store`], [`PoolError::Dm`] or [`PoolError::Backing`] where a part of it cannot be asked.
    pub fn status(&self) -> Result<PoolReport, PoolError> {
        let record = self.record()?;
        let state = self.host().word(&record)?;
        let counts = self.catalogue().counts()?;
        let open = if state == PoolWord::Open {
            // No lock: whoever only looks waits for nobody.
            Some(Live::open(self, record.clone(), None)?)
        } else {
            None
        };
        let promised = self.promised(&record, open.as_ref())?;
        let live = open.map(|live| self.live_report(&live)).transpose()?;
        let (live, devices) =
            live.map_or((None, None), |(live, devices)| (Some(live), Some(devices)));
        let mirror = devices.as_ref().and_then(|_| self.mirror_state(&record));
        Ok(PoolReport {
            name: record.name.clone(),
            uuid: record.uuid,
            state,
            block_size: record.block_size,
            zeroing: record.zeroing,
            guard: record.guard,
            when_full: record.when_full,
            fs: record.fs,
            base_size: record.base_size,
            data: self.backing_report(&record.data, record.data_size, devices.map(|d| d.data))?,
            metadata: self.backing_report(
                &record.metadata,
                record.metadata_size,
                devices.map(|d| d.metadata),
            )?,
            live,
            low_water: record.low_water.to_bytes_saturating(record.block_size),
            metadata_at_full_data: plan::kernel_formula(record.data_size, record.block_size),
            removals: counts.nr_deleting,
            ballast: self.catalogue().ballast()?.map(|ballast| ballast.size),
            generation: record.generation,
            images: counts.nr_images,
            layers: counts.nr_layers,
            containers: counts.nr_containers,
            snapshots: counts.nr_snapshots,
            volumes: counts.nr_data,
            volumes_size: counts.data_size,
            virtual_size: counts.containers_size,
            overcommit: record.overcommit,
            promised,
            foreign_ids: record.foreign_ids,
            mirror,
        })
    }

    fn time_to_full(&self, record: &PoolRecord, pool: &WorkingPool) -> TimeToFull {
        let data = guard::data_space(record, pool, record.guard).usage();
        let metadata = guard::metadata_space(pool, record.guard).usage();
        let mut samples = Samples::load(&self.samples_path());
        samples.push(Sample {
            at: Timestamp::now(),
            data: data.used,
            metadata: metadata.used,
        });
        samples.time_to_full(data, metadata)
    }

    /// Where a monitor leaves what it saw.
    pub(crate) fn samples_path(&self) -> PathBuf {
        self.host().layout().samples(self.name())
    }

    /// The file or device of one half of the pool.
    pub(crate) fn backing_path(&self, backing: &BackingRecord) -> PathBuf {
        self.host().layout().backing(self.name(), backing)
    }

    fn live_report(&self, live: &Live<'_>) -> Result<(LivePool, Devices), PoolError> {
        let record = live.record();
        let device = live.thin_pool().device().dev();
        let (_, table) = live.thin_pool().table()?;
        let devices = Devices {
            data: table.data,
            metadata: table.metadata,
        };
        let active_volumes = self.active_devices(record)?;
        let mut report = LivePool {
            device,
            mode: String::new(),
            data: None,
            metadata: None,
            transaction_id: None,
            needs_check: false,
            discard_passdown: false,
            on_full: None,
            until_guard: None,
            time_to_full: TimeToFull::default(),
            active_volumes,
        };
        match live.thin_pool().status()? {
            PoolStatus::Working(pool) => {
                let block_size = record.block_size;
                report.mode = pool.mode.as_str().to_owned();
                report.data = Some(Usage {
                    used: pool.used_data.to_bytes_saturating(block_size),
                    total: pool.total_data.to_bytes_saturating(block_size),
                });
                report.metadata = Some(Usage {
                    used: pool.used_metadata.to_bytes_saturating(),
                    total: pool.total_metadata.to_bytes_saturating(),
                });
                report.time_to_full = self.time_to_full(record, &pool);
                report.until_guard = Some(guard::until_guard(record, &pool));
                report.transaction_id = Some(pool.transaction_id);
                report.needs_check = pool.needs_check;
                // A read-only pool answers discards and does nothing.
                report.discard_passdown =
                    pool.discard == DiscardMode::DiscardPassdown && pool.mode != PoolMode::Ro;
                report.on_full = Some(pool.on_full.as_str().to_owned());
            }
            PoolStatus::Fail => report.mode = "fail".to_owned(),
            PoolStatus::Error => report.mode = "error".to_owned(),
        }
        Ok((report, devices))
    }

    fn active_devices(&self, record: &PoolRecord) -> Result<u64, PoolError> {
        let ours = self.host().own_devices()?;
        let mine = ours
            .iter()
            .filter(|(_, own)| own.pool == record.uuid && matches!(own.kind, OwnKind::Volume(..)));
        Ok(u64::try_from(mine.count()).unwrap_or(u64::MAX))
    }

    fn backing_report(
        &self,
        backing: &BackingRecord,
        size: Bytes,
        device: Option<DevNo>,
    ) -> Result<BackingReport, PoolError> {
        let path = self.backing_path(backing);
        let file = matches!(backing, BackingRecord::File { .. });
        let mut report = BackingReport {
            path,
            file,
            device,
            node: None,
            size,
            allocated: size,
            host_free: None,
            direct_io: None,
            block_size: None,
        };
        if file {
            let sparse = SparseFile::open(&report.path)?;
            report.allocated = sparse.allocated()?;
            report.host_free = Some(backing::host_room(&report.path)?.free);
            if let Some(found) = sparse.attached()?
                && Some(found.dev()) == device
            {
                let info = found.info()?;
                report.node = Some(found.path().to_owned());
                report.direct_io = Some(info.direct_io);
                report.block_size = Some(info.block_size);
            }
        } else if device.is_some() && !matches!(backing, BackingRecord::ThinPool(_)) {
            let block = backing::BlockDevice::open(&report.path)?;
            report.block_size = Some(ioctl::logical_block_size(block.file())?);
            report.node = Some(report.path.clone());
        }
        Ok(report)
    }
}

/// The two devices below an open pool, as its table names them.
#[derive(Debug, Clone, Copy)]
struct Devices {
    data: DevNo,
    metadata: DevNo,
}
