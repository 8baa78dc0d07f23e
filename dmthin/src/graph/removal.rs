//! Removing containers, and the queue of removals that could not end at once.
//!
//! A removal is promised by one durable transaction; the queue is the rows in state `deleting`, so
//! that nothing is queued that is not promised and nothing promised that is not queued. Whoever
//! works off a row holds the lock of its volume, and reads the row again under it.
//!
//! ```text
//! rm          catalogue: name free, state deleting      (durable: from here it is promised)
//!  |- free    removal final, discard, delete, row gone; by the monitor where one runs
//!  `- held    dm: renamed, deferred remove; the kernel takes the device away at its last close
//!              `- queue run, pool open: free by then? discard in slices, delete, row gone
//! ```
//! One that cannot be removed is put off and never stops the others.

use std::time::{Duration, Instant};

use crate::fs::{self, Holder};
use crate::graph::code::ErrorCode;
use crate::graph::error::PoolError;
use crate::graph::live::{Live, Pace, Removal};
use crate::graph::pool::Pool;
use crate::graph::report::{FailedRemoval, QueueReport, QueueRun, QueueState, RemovedContainer};
use crate::graph::step::Step;
use crate::ids::{ContainerName, VolumeId};
use crate::ioctl::{DeviceInfo, LockGuard};
use crate::store::{RemovalRecord, StoreError, Timestamp, VolumeRecord};

/// The first wait between two looks at what is held.
const WAIT_MIN: Duration = Duration::from_millis(20);
/// The longest one: who waits for the last close is told within a second.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// The longest time that a removal is put off.
const PUT_OFF_MAX: u64 = 600;

/// How far a removal is to go before the verb returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removing {
    /// Gives the space back at once; only what somebody holds is left to the queue.
    Now,
    /// Leaves the slow part to the pool's monitor, which is called; as [`Now`](Self::Now) where there is
    /// none.
    Handed,
    /// Leaves the slow part, giving the space back, to the queue.
    Queued,
    /// Waits for whoever holds it, this long or without end, and gives the space back.
    Wait(Option<Duration>),
}

/// What of the queue is to be worked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueRound {
    /// All of it, once.
    All,
    /// What has not been put off, once: for a timer.
    Due,
    /// All of it, and what is held as soon as it is let go, waited for this long or without end.
    Wait(Option<Duration>),
}

/// Looks again and again, more rarely each time, until a limit.
struct Patience {
    end: Option<Instant>,
    pause: Duration,
}

impl Patience {
    fn new(limit: Option<Duration>) -> Self {
        Self {
            // A limit beyond the clock's end is none.
            end: limit.and_then(|limit| Instant::now().checked_add(limit)),
            pause: WAIT_MIN,
        }
    }

    /// Sleeps; false where the limit is reached.
    fn sleep(&mut self) -> bool {
        let left = self
            .end
            .map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return false;
        }
        std::thread::sleep(left.map_or(self.pause, |left| left.min(self.pause)));
        self.pause = self.pause.saturating_mul(2).min(WAIT_MAX);
        true
    }
}

/// How long a removal is put off after this many tries: 1 s, 2 s, 4 s, up to ten minutes.
fn put_off(attempts: u64) -> u64 {
    u32::try_from(attempts)
        .ok()
        .and_then(|attempts| 1_u64.checked_shl(attempts))
        .unwrap_or(PUT_OFF_MAX)
        .min(PUT_OFF_MAX)
}

impl Live<'_> {
    /// The lock of a volume that is being removed, with its row as it is now; `None` where somebody
    /// else has removed it meanwhile.
    fn lock_removal(&self, id: VolumeId) -> Result<Option<(LockGuard, VolumeRecord)>, PoolError> {
        let lock = self.pool().locks().volume(id)?;
        self.read_removal(id, lock)
    }

    fn read_removal(
        &self,
        id: VolumeId,
        lock: LockGuard,
    ) -> Result<Option<(LockGuard, VolumeRecord)>, PoolError> {
        match self.pool().catalogue().volume(id) {
            Ok(volume) => Ok(Some((lock, volume))),
            Err(StoreError::VolumeNotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a removal that another verb promised, unless somebody holds the volume: then it stays
    /// queued.
    pub(crate) fn finish_removal(&self, id: VolumeId) -> Result<(), PoolError> {
        if let Some((_lock, volume)) = self.lock_removal(id)?
            && let Removal::Held(_) = self.remove(&volume, Pace::Full)?
        {
            self.put_off(&volume, 0)?;
        }
        Ok(())
    }

    /// Records that a removal was tried in vain.
    pub(crate) fn put_off(&self, volume: &VolumeRecord, attempts: u64) -> Result<(), PoolError> {
        let next_try = Timestamp::now().to_unix().saturating_add(put_off(attempts));
        self.pool()
            .catalogue()
            .put_off_removal(volume.id, Timestamp::from_unix(next_try))?;
        Ok(())
    }

    /// Tries each of these once. The locks that others have are left to them.
    fn run_round(
        &self,
        removals: Vec<RemovalRecord>,
        run: &mut QueueRun,
    ) -> Result<Vec<RemovalRecord>, PoolError> {
        let mut held = Vec::new();
        for removal in removals {
            let id = removal.volume.id;
            let Some(lock) = self.pool().locks().try_volume(id)? else {
                continue;
            };
            let Some((_lock, volume)) = self.read_removal(id, lock)? else {
                continue;
            };
            match self.remove(&volume, Pace::Gentle) {
                Ok(Removal::Done) => run.removed.push(id),
                Ok(Removal::Held(_)) => {
                    self.put_off(&volume, removal.attempts)?;
                    held.push(removal);
                }
                Err(error) => {
                    tracing::warn!(volume = %id, %error, "a removal failed; it stays queued");
                    self.put_off(&volume, removal.attempts)?;
                    run.failed.push(FailedRemoval {
                        volume: id,
                        name: removal.name,
                        problem: error.to_string(),
                        error,
                    });
                }
            }
        }
        Ok(held)
    }
}

impl Pool {
    /// Removes a container. Its name is free when this returns, whatever becomes of its volume. Until
    /// that begins to be given back, [`cancel_removal`](Self::cancel_removal) makes it a container again.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`StoreError::HasSnapshots`]: nothing was changed.
    /// [`PoolError::RemovalHeld`] where it
    /// was waited for in vain, and what the pool says to the delete: the volume stays queued.
    pub fn remove_container(
        &self,
        name: &ContainerName,
        how: Removing,
    ) -> Result<RemovedContainer, PoolError> {
        self.remove_with(name, how, false)
    }

    /// As [`remove_container`](Self::remove_container), with all its snapshots, which cannot be taken
    /// back.
    ///
    /// # Errors
    /// As of [`remove_container`](Self::remove_container).
    pub fn remove_container_with_snapshots(
        &self,
        name: &ContainerName,
        how: Removing,
    ) -> Result<RemovedContainer, PoolError> {
        self.remove_with(name, how, true)
    }

    fn remove_with(
        &self,
        name: &ContainerName,
        how: Removing,
        snapshots: bool,
    ) -> Result<RemovedContainer, PoolError> {
        let live = self.live()?;
        let (_lock, record) = self.lock_container(name)?;
        let handed = how == Removing::Handed && self.is_monitored();
        let queued = handed || how == Removing::Queued;
        let id = record.volume.id;
        let mut kept = Vec::new();
        let volume = if snapshots {
            kept = self.catalogue().queue_removal_with_snapshots(id)?;
            kept.remove(0)
        } else if queued || live.is_open(&record.volume)? {
            self.catalogue().queue_removal(id)?
        } else {
            // It begins at once, so that the promise and that it is final are one commit.
            self.catalogue().begin_deleting(id)?
        };
        Step::D1.passed_for(self.name(), id);
        let device = if queued {
            live.set_aside(&volume)?
        } else {
            Self::remove_now(&live, &volume, how)?
        };
        if !queued {
            for snapshot in kept {
                live.finish_removal(snapshot.id)?;
            }
        }
        if handed {
            self.ring();
        }
        let holders = device.map_or(Ok(Vec::new()), |device| self.holders(device.dev))?;
        // What is left to others need not be asked for: they have not begun, or were fast.
        let removed = !queued && self.is_forgotten(volume.id)?;
        if !removed && matches!(how, Removing::Wait(_)) {
            live.put_off(&volume, 0)?;
            return Err(PoolError::RemovalHeld {
                name: name.to_string(),
                holders,
            });
        }
        Ok(RemovedContainer {
            name: name.clone(),
            volume: volume.id,
            removed,
            handed,
            holders,
        })
    }

    /// Removes a volume; gives the device of one that somebody holds for too long.
    fn remove_now(
        live: &Live<'_>,
        volume: &VolumeRecord,
        how: Removing,
    ) -> Result<Option<DeviceInfo>, PoolError> {
        let mut patience = Patience::new(match how {
            Removing::Wait(limit) => limit,
            Removing::Now | Removing::Handed | Removing::Queued => Some(Duration::ZERO),
        });
        loop {
            match live.remove(volume, Pace::Full)? {
                Removal::Held(_) if patience.sleep() => {}
                Removal::Held(device) => return Ok(Some(device)),
                Removal::Done => return Ok(None),
            }
        }
    }

    /// Has the space of volumes that are `deleting` given back: by the monitor, which is called, or here
    /// where there is none; whether it was called.
    pub(crate) fn give_back(
        &self,
        live: &Live<'_>,
        volumes: &[VolumeId],
    ) -> Result<bool, PoolError> {
        let handed = self.is_monitored();
        if handed {
            self.ring();
        } else {
            for volume in volumes {
                live.finish_removal(*volume)?;
            }
        }
        Ok(handed)
    }

    pub(crate) fn is_forgotten(&self, id: VolumeId) -> Result<bool, PoolError> {
        match self.catalogue().volume(id) {
            Ok(_) => Ok(false),
            Err(StoreError::VolumeNotFound { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What is promised to go and is not gone yet, with what holds it, the oldest first.
    ///
    /// # Errors
    /// [`PoolError::Store`], [`PoolError::Dm`] or [`PoolError::Fs`] where one cannot be looked at.
    pub fn queue(&self) -> Result<Vec<QueueReport>, PoolError> {
        self.queue_reports(self.catalogue().removals()?)
    }

    fn queue_reports(&self, removals: Vec<RemovalRecord>) -> Result<Vec<QueueReport>, PoolError> {
        let mut devices = Vec::new();
        for removal in &removals {
            devices.push(self.volume_device(&removal.volume)?);
        }
        let open: Vec<_> = devices
            .iter()
            .flatten()
            .filter(|device| device.open_count > 0)
            .map(|device| device.dev)
            .collect();
        let held_by = fs::holders_of(&open)?;
        let mut reports = Vec::new();
        for (removal, device) in removals.into_iter().zip(devices) {
            let volume = removal.volume;
            let mapped = match &device {
                Some(device) => match self.host().mapped(device) {
                    // The kernel may take it away at any time.
                    Err(error) if error.code() == ErrorCode::NotFound => None,
                    mapped => mapped?,
                },
                None => None,
            };
            let holders: Vec<Holder> = held_by
                .iter()
                .filter(|(dev, _)| device.as_ref().is_some_and(|d| d.dev == *dev))
                .map(|(_, holder)| holder.clone())
                .collect();
            reports.push(QueueReport {
                volume: volume.id,
                kind: volume.kind,
                name: removal.name,
                thin_id: volume.thin_id,
                size: volume.size,
                mapped,
                state: match &device {
                    Some(device) if device.deferred_remove => QueueState::Held,
                    Some(device) if device.open_count > 0 => QueueState::Deleting,
                    _ => QueueState::Waiting,
                },
                since: removal.since.to_unix(),
                attempts: removal.attempts,
                next_try: removal.next_try.to_unix(),
                is_final: removal.is_final,
                devno: device.map(|device| device.dev),
                holders,
            });
        }
        Ok(reports)
    }

    /// Works the queue off: discards in slices, with pauses as long as the slices took, so that
    /// others get their share of the disk; then deletes. One that fails does not stop the others.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`]; [`PoolError::RemovalHeld`] where what is held was waited for in
    /// vain. What failed on one volume is in the answer.
    pub fn run_queue(&self, round: QueueRound) -> Result<QueueRun, PoolError> {
        let live = self.live()?;
        let now = Timestamp::now();
        let mut removals = self.catalogue().removals()?;
        removals.retain(|removal| round != QueueRound::Due || removal.next_try <= now);
        // The youngest first: a layer before the one it stands on.
        removals.reverse();
        let mut run = QueueRun::default();
        let mut held = live.run_round(removals, &mut run)?;
        if let QueueRound::Wait(limit) = round {
            let mut patience = Patience::new(limit);
            while !held.is_empty() && patience.sleep() {
                // Others may have removed some of it.
                held.retain(|removal| !self.is_forgotten(removal.volume.id).unwrap_or(false));
                let free = self.let_go_by_now(&live, &held)?;
                let (free, still): (Vec<_>, Vec<_>) =
                    held.into_iter().partition(|r| free.contains(&r.volume.id));
                held = still;
                held.extend(live.run_round(free, &mut run)?);
            }
            if !held.is_empty() {
                let reports = self.queue_reports(held)?;
                let names = reports.iter().map(QueueReport::told_name);
                return Err(PoolError::RemovalHeld {
                    name: names.collect::<Vec<_>>().join(", "),
                    holders: reports.iter().flat_map(|r| r.holders.clone()).collect(),
                });
            }
        }
        run.held = self.queue_reports(held)?;
        Ok(run)
    }

    /// Which of these nobody holds any more.
    fn let_go_by_now(
        &self,
        live: &Live<'_>,
        held: &[RemovalRecord],
    ) -> Result<Vec<VolumeId>, PoolError> {
        let mut free = Vec::new();
        for removal in held {
            if !live.is_open(&removal.volume)? {
                free.push(removal.volume.id);
            }
        }
        Ok(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_put_off_twice_as_long_each_time_up_to_ten_minutes() {
        let times: Vec<_> = [0, 1, 2, 9, 10, 63, 64, u64::MAX].map(put_off).into();
        assert_eq!(times, [1, 2, 4, 512, 600, 600, 600, 600]);
    }

    #[test]
    fn patience_ends_at_its_limit() {
        assert!(!Patience::new(Some(Duration::ZERO)).sleep());
        let mut patience = Patience::new(Some(Duration::from_millis(30)));
        let started = Instant::now();
        let mut looks = 0;
        while patience.sleep() {
            looks += 1;
        }
        assert!(looks >= 1 && started.elapsed() >= Duration::from_millis(30));
        assert!(Patience::new(None).sleep());
        assert!(Patience::new(Some(Duration::MAX)).end.is_none());
    }
}
