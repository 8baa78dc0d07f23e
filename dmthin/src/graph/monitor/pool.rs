//! One look at one pool, and what follows from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dm::{PoolMode, PoolStatus, WorkingPool};
use crate::graph::error::PoolError;
use crate::graph::grow::SetPool;
use crate::graph::guard::{data_space, metadata_space};
use crate::graph::live::Live;
use crate::graph::monitor::growth::Room;
use crate::graph::monitor::measure::Due;
use crate::graph::monitor::policy::step;
use crate::graph::monitor::{
    Measure, MonitorEvent, MonitorOp, MonitorPolicy, NoGrowth, OnFull, Operation, Sample, Samples,
    Space,
};
use crate::graph::plan;
use crate::graph::pool::Pool;
use crate::graph::report::Usage;
use crate::ioctl::LockGuard;
use crate::store::{PoolRecord, PoolState, StoreError, Timestamp, WhenFull};

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
    pub(super) pool: Arc<Pool>,
    pub(super) policy: MonitorPolicy,
    samples: Samples,
    saved: Option<Instant>,
    data: Told,
    metadata: Told,
    mode: (&'static str, bool),
    /// Whether containers may be waiting for us to let them go; a monitor before us may have died.
    holding: bool,
    /// Tells others that those who wait are ours.
    hold: Option<LockGuard>,
    due: Due,
    pub(super) asked_for_copy: Option<Instant>,
    operations: Vec<Operation>,
}

/// What was told of a space and is not told again.
#[derive(Debug, Default)]
struct Told {
    step: u64,
    not_grown: Option<String>,
    retry: Option<Instant>,
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
            hold: None,
            due: Due::default(),
            asked_for_copy: None,
            operations: Vec::new(),
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
        let (look, operation) = Operation::timed(MonitorOp::Look, || self.look_at_open());
        self.operations.push(operation);
        match look {
            // It was closed while we looked.
            Err(PoolError::PoolNotOpen { .. } | PoolError::PoolHalfMade { .. }) => {
                Ok(self.closed())
            }
            look => look,
        }
    }

    /// What was done since this was asked last, with the time that it took.
    pub fn operations(&mut self) -> Vec<Operation> {
        std::mem::take(&mut self.operations)
    }

    /// What there is to measure by now, if anything, to be done by [`Pool::measure`] beside the monitor.
    /// None of it is told again before it is due again. Nothing is due above the red line, where
    /// the pool's metadata have no block to spare, nor in another's thin-pool, whose metadata
    /// snapshot is its owner's to take.
    ///
    /// # Errors
    /// As of [`look`](Self::look).
    pub fn measure_due(&mut self) -> Result<Option<Measure>, PoolError> {
        let record = self.pool.record()?;
        if record.state != PoolState::Ready || record.existing().is_some() {
            return Ok(None);
        }
        let status = self.status(&record)?;
        let PoolStatus::Working(pool) = &status else {
            return Ok(None);
        };
        if !self.is_calm(&record, &status) {
            return Ok(None);
        }
        let volumes = self.pool.catalogue().all_volumes()?;
        let ids = volumes.iter().map(|volume| volume.thin_id).collect();
        let state = (pool.transaction_id, pool.used_data, ids);
        Ok(self.due.ask(state, Instant::now()))
    }

    /// Whether the pool works and is below the red line.
    fn is_calm(&self, record: &PoolRecord, status: &PoolStatus) -> bool {
        is_sound(status) && !self.is_red(record, status)
    }

    /// Whether the pool is open, works and is below the red line.
    pub(super) fn is_at_ease(&self, record: &PoolRecord) -> Result<bool, PoolError> {
        Ok(self.is_calm(record, &self.status(record)?))
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
            let op = match room.space {
                Space::Data => MonitorOp::GrowData,
                Space::Metadata => MonitorOp::GrowMetadata,
            };
            let (result, operation) = Operation::timed(op, || self.grow_to(&room, target));
            // Where there is no room for it, nothing was done.
            if matches!(result, Ok(_) | Err(NoGrowth::Failed(_))) {
                self.operations.push(operation);
            }
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

    /// What is left to do for a pool that is nearly full and has not been grown.
    fn at_red_line(
        &mut self,
        record: &PoolRecord,
        status: &mut PoolStatus,
        events: &mut Vec<MonitorEvent>,
    ) -> Result<(), PoolError> {
        if self.is_red(record, status) {
            let release = || self.pool.release_ballast();
            let (released, operation) = Operation::timed(MonitorOp::ReleaseBallast, release);
            if !matches!(released, Err(PoolError::Store(StoreError::BallastNotFound))) {
                self.operations.push(operation);
            }
            match released {
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
                if self.hold.is_none() {
                    self.hold = Some(self.pool.locks().share_holding()?);
                }
                let containers = self.pool.live()?.hold_containers()?;
                if containers > 0 {
                    events.push(MonitorEvent::Held { containers });
                }
            }
        } else if self.holding {
            let containers = self.pool.live()?.let_containers_go()?;
            self.holding = false;
            self.hold = None;
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
