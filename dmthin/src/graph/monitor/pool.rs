//! One look at one pool, and what follows from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backing::{self, SparseFile};
use crate::dm::{PoolMode, PoolStatus, WorkingPool};
use crate::graph::error::PoolError;
use crate::graph::grow::{GrowPool, SetPool};
use crate::graph::guard::{data_space, host_least, metadata_space};
use crate::graph::live::Live;
use crate::graph::monitor::policy::step;
use crate::graph::monitor::{
    MonitorEvent, MonitorPolicy, NoGrowth, OnFull, Sample, Samples, Space,
};
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::report::Usage;
use crate::store::{BackingRecord, PoolRecord, PoolState, StoreError, Timestamp, WhenFull};
use crate::units::{BlockSize, Bytes, NewSize, Percent};

/// The shortest time between two looks that were not asked for by an event.
const SOONEST: Duration = Duration::from_secs(1);
/// Growth that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// The samples are written this often at the most.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// What a look came to.
#[derive(Debug)]
pub struct Look {
    /// Whether the pool is open.
    pub open: bool,
    /// What was done and seen.
    pub events: Vec<MonitorEvent>,
    /// Whether removals are due: [`Pool::run_queue`] is to be run, beside the monitor, as it takes its
    /// time.
    pub queue_due: bool,
    /// When to look again at the latest.
    pub next: Duration,
}

/// Looks after a pool.
#[derive(Debug)]
pub struct PoolMonitor {
    pool: Arc<Pool>,
    policy: MonitorPolicy,
    samples: Samples,
    saved: Option<Instant>,
    data: Told,
    metadata: Told,
    mode: (&'static str, bool),
    /// Whether containers may be waiting for us to let them go; a monitor before us may have died.
    holding: bool,
}

/// What was told of a space and is not told again.
#[derive(Debug, Default)]
struct Told {
    step: u64,
    not_grown: Option<String>,
    retry: Option<Instant>,
}

/// A space with what it may become.
struct Room<'a> {
    space: Space,
    usage: Usage,
    least: Percent,
    backing: &'a BackingRecord,
    size: Bytes,
    block_size: BlockSize,
    most: Option<Bytes>,
}

impl PoolMonitor {
    /// A monitor of a pool.
    #[must_use]
    pub fn new(pool: Arc<Pool>, policy: MonitorPolicy) -> Self {
        let samples = Samples::load(&pool.samples_path());
        Self {
            pool,
            policy,
            samples,
            saved: None,
            data: Told::default(),
            metadata: Told::default(),
            mode: (PoolMode::Rw.as_str(), false),
            holding: true,
        }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Looks at the pool once, and does what is to be done.
    ///
    /// # Errors
    /// [`PoolError::Store`], [`PoolError::Dm`] where the pool cannot be asked. What failed beyond that
    /// is in the answer.
    pub fn look(&mut self) -> Result<Look, PoolError> {
        match self.look_at_open() {
            // It was closed while we looked.
            Err(PoolError::PoolNotOpen { .. } | PoolError::PoolHalfMade { .. }) => {
                Ok(self.closed())
            }
            look => look,
        }
    }

    fn closed(&self) -> Look {
        Look {
            open: false,
            events: Vec::new(),
            queue_due: false,
            next: self.policy.net,
        }
    }

    fn look_at_open(&mut self) -> Result<Look, PoolError> {
        let record = self.pool.record()?;
        if record.state != PoolState::Ready || self.pool.host().pool_device(&record)?.is_none() {
            return Ok(self.closed());
        }
        let mut events = Vec::new();
        let mut status = self.status(&record)?;
        self.tell(&record, &status, &mut events);
        if is_sound(&status) {
            self.set_marks(&record)?;
        }
        if self.grow(&record, &status, &mut events) {
            status = self.status(&self.pool.record()?)?;
        }
        if is_sound(&status) {
            self.at_red_line(&record, &mut status, &mut events)?;
        }
        if let PoolStatus::Working(pool) = &status {
            self.sample(&record, pool);
        }
        let due = self.queue_due()?;
        Ok(Look {
            open: true,
            events,
            queue_due: due == Some(Duration::ZERO),
            next: self.next(&record, &status, due),
        })
    }

    fn status(&self, record: &PoolRecord) -> Result<PoolStatus, PoolError> {
        // No lock: whoever only looks waits for nobody.
        let live = Live::open(&self.pool, record.clone(), None)?;
        Ok(live.thin_pool().status()?)
    }

    /// Tells what is new: steps that were reached, another mode.
    fn tell(&mut self, record: &PoolRecord, status: &PoolStatus, events: &mut Vec<MonitorEvent>) {
        let mode = match status {
            PoolStatus::Working(pool) => (pool.mode.as_str(), pool.needs_check),
            PoolStatus::Fail => ("fail", false),
            PoolStatus::Error => ("error", false),
        };
        if mode != self.mode {
            self.mode = mode;
            let (mode, needs_check) = mode;
            events.push(MonitorEvent::Mode { mode, needs_check });
        }
        let PoolStatus::Working(pool) = status else {
            return;
        };
        for (space, usage, told) in [
            (
                Space::Data,
                data_space(record, pool, record.guard).usage(),
                &mut self.data,
            ),
            (
                Space::Metadata,
                metadata_space(pool, record.guard).usage(),
                &mut self.metadata,
            ),
        ] {
            let step = step(usage);
            if step > told.step {
                let Usage { used, total } = usage;
                events.push(MonitorEvent::Filled { space, used, total });
            }
            told.step = step;
        }
    }

    /// Has the kernel do what the policy says: give notice where the pool is to be grown, and deal
    /// with writers in a full pool.
    fn set_marks(&self, record: &PoolRecord) -> Result<(), PoolError> {
        if let Some(threshold) = self.policy.threshold(record.guard.min_free_data) {
            let hundredths = 100_u64.saturating_sub(threshold);
            let mark = plan::blocks_of(record.data_size, record.block_size, hundredths);
            if record.low_water < mark {
                self.pool.notice(hundredths)?;
            }
        }
        let when_full = self.policy.on_full.map(|on_full| match on_full {
            OnFull::Error => WhenFull::Error,
            OnFull::Queue | OnFull::Freeze => WhenFull::Queue,
        });
        if when_full.is_some_and(|when_full| when_full != record.when_full) {
            self.pool.set(SetPool {
                when_full,
                ..SetPool::default()
            })?;
        }
        Ok(())
    }

    /// Grows what has reached its threshold; whether anything was grown.
    fn grow(
        &mut self,
        record: &PoolRecord,
        status: &PoolStatus,
        events: &mut Vec<MonitorEvent>,
    ) -> bool {
        // One that is read-only for want of metadata takes writes again when it has more.
        let PoolStatus::Working(pool) = status else {
            return false;
        };
        if pool.needs_check {
            return false;
        }
        let metadata_most = self
            .policy
            .max_metadata_size
            .map_or(plan::METADATA_MAX, |most| most.min(plan::METADATA_MAX));
        let rooms = [
            // Metadata first: without them the data are of no use.
            Room {
                space: Space::Metadata,
                usage: metadata_space(pool, record.guard).usage(),
                least: record.guard.min_free_metadata,
                backing: &record.metadata,
                size: record.metadata_size,
                block_size: record.block_size,
                most: Some(metadata_most),
            },
            Room {
                space: Space::Data,
                usage: data_space(record, pool, record.guard).usage(),
                least: record.guard.min_free_data,
                backing: &record.data,
                size: record.data_size,
                block_size: record.block_size,
                most: self.policy.max_size,
            },
        ];
        let mut grown = false;
        for room in rooms {
            let Some(target) = self.policy.target(room.size, room.usage, room.least) else {
                continue;
            };
            let told = match room.space {
                Space::Data => &self.data,
                Space::Metadata => &self.metadata,
            };
            if told.retry.is_some_and(|retry| retry > Instant::now()) {
                continue;
            }
            let result = self.grow_to(&room, target);
            let told = match room.space {
                Space::Data => &mut self.data,
                Space::Metadata => &mut self.metadata,
            };
            match result {
                Ok(to) => {
                    grown = true;
                    *told = Told::default();
                    events.push(MonitorEvent::Grew {
                        space: room.space,
                        from: room.size,
                        to,
                    });
                }
                Err(why) => {
                    if matches!(why, NoGrowth::Failed(_)) {
                        told.retry = Instant::now().checked_add(RETRY);
                    }
                    let text = why.to_string();
                    // Once, not at each look.
                    if told.not_grown.as_ref() != Some(&text) {
                        told.not_grown = Some(text);
                        let space = room.space;
                        events.push(MonitorEvent::NotGrown { space, why });
                    }
                }
            }
        }
        grown
    }

    /// Grows one space as far as it may; gives its size then.
    fn grow_to(&self, room: &Room<'_>, target: Bytes) -> Result<Bytes, NoGrowth> {
        // Part of a block is of no use to the pool.
        let block_size = room.block_size.to_bytes();
        let mut to = target.checked_round_up(block_size).unwrap_or(target);
        if let Some(most) = room.most {
            if most <= room.size {
                return Err(NoGrowth::AtMost { most });
            }
            to = to.min(most);
        }
        let BackingRecord::File { .. } = room.backing else {
            return self.grow_device(room, to);
        };
        let path = self.pool.backing_path(room.backing);
        let allocated = SparseFile::open(&path)
            .and_then(|file| file.allocated())
            .map_err(PoolError::from)?;
        let host = backing::host_room(&path).map_err(PoolError::from)?;
        // What the file has not taken yet of its size, it may still take.
        let most = allocated.saturating_add(host.free.saturating_sub(host_least(host)));
        if most <= room.size {
            let free = host.free;
            return Err(NoGrowth::HostRoom { path, free });
        }
        self.grown(room, Some(to.min(most)))
    }

    /// Takes a device that has become larger, or makes it larger first, where that is allowed.
    fn grow_device(&self, room: &Room<'_>, to: Bytes) -> Result<Bytes, NoGrowth> {
        let size = self.grown(room, None)?;
        if size > room.size {
            return Ok(size);
        }
        if self.policy.lvextend {
            match self.grown(room, Some(to)) {
                // It is no volume of LVM's.
                Err(NoGrowth::Failed(PoolError::DeviceShort { .. })) => {}
                result => return result,
            }
        }
        let path = self.pool.backing_path(room.backing);
        let size = room.size;
        Err(NoGrowth::Device { path, size })
    }

    /// `pool grow` for one space; its size then.
    fn grown(&self, room: &Room<'_>, to: Option<Bytes>) -> Result<Bytes, NoGrowth> {
        let to = to.map(NewSize::To);
        let mut grow = GrowPool {
            lvextend: self.policy.lvextend,
            ..GrowPool::default()
        };
        match room.space {
            Space::Data => grow.data = to,
            Space::Metadata => grow.metadata = to,
        }
        let (_, report) = self.pool.grow(&grow)?;
        Ok(match room.space {
            Space::Data => report.data.size,
            Space::Metadata => report.metadata.size,
        })
    }

    /// What is left to do for a pool that is nearly full and has not been grown.
    fn at_red_line(
        &mut self,
        record: &PoolRecord,
        status: &mut PoolStatus,
        events: &mut Vec<MonitorEvent>,
    ) -> Result<(), PoolError> {
        if self.is_red(record, status) {
            match self.pool.release_ballast() {
                Ok(size) => {
                    events.push(MonitorEvent::BallastReleased { size });
                    *status = self.status(record)?;
                }
                Err(PoolError::Store(StoreError::BallastNotFound)) => {}
                Err(error) => tracing::warn!(%error, "the ballast cannot be let go"),
            }
        }
        if self.is_red(record, status) {
            if self.policy.on_full == Some(OnFull::Freeze) {
                self.holding = true;
                let containers = self.pool.live()?.hold_containers()?;
                if containers > 0 {
                    events.push(MonitorEvent::Held { containers });
                }
            }
        } else if self.holding {
            let containers = self.pool.live()?.let_containers_go()?;
            self.holding = false;
            if containers > 0 {
                events.push(MonitorEvent::LetGo { containers });
            }
        }
        Ok(())
    }

    fn is_red(&self, record: &PoolRecord, status: &PoolStatus) -> bool {
        let PoolStatus::Working(pool) = status else {
            return false;
        };
        pool.mode == PoolMode::OutOfDataSpace
            || self
                .policy
                .is_red(data_space(record, pool, record.guard).usage())
            || self
                .policy
                .is_red(metadata_space(pool, record.guard).usage())
    }

    fn sample(&mut self, record: &PoolRecord, pool: &WorkingPool) {
        self.samples.push(Sample {
            at: Timestamp::now(),
            data: data_space(record, pool, record.guard).usage().used,
            metadata: metadata_space(pool, record.guard).usage().used,
        });
        if self.saved.is_some_and(|saved| saved.elapsed() < SAVE_EVERY) {
            return;
        }
        self.saved = Some(Instant::now());
        // Worth nothing, and where there is no room for it there is none for good reason.
        if let Err(error) = self.samples.save(&self.pool.samples_path()) {
            tracing::debug!(%error, "the samples cannot be written");
        }
    }

    /// How long until removals are due; none where there are none.
    fn queue_due(&self) -> Result<Option<Duration>, PoolError> {
        let now = Timestamp::now().to_unix();
        let removals = self.pool.catalogue().removals()?;
        let next = removals.iter().map(|removal| removal.next_try.to_unix());
        Ok(next
            .min()
            .map(|next| Duration::from_secs(next.saturating_sub(now))))
    }

    /// When to look again: four times before a space is full, as it fills now.
    fn next(&self, record: &PoolRecord, status: &PoolStatus, due: Option<Duration>) -> Duration {
        let full = match status {
            PoolStatus::Working(pool) => {
                let left = self.samples.time_to_full(
                    data_space(record, pool, record.guard).usage(),
                    metadata_space(pool, record.guard).usage(),
                );
                [left.data, left.metadata].into_iter().flatten().min()
            }
            _ => None,
        };
        let soon = full.and_then(|full| full.checked_div(4));
        [soon, due]
            .into_iter()
            .flatten()
            .fold(self.policy.net, Duration::min)
            .max(SOONEST)
    }
}

/// Whether the pool takes changes.
fn is_sound(status: &PoolStatus) -> bool {
    matches!(status, PoolStatus::Working(pool) if pool.mode != PoolMode::Ro && !pool.needs_check)
}
