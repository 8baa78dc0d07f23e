//! Snapshots: a state of a container or a data volume, kept under a name. Nobody writes to it, and it has
//! a device only while we work on it.
//!
//! Taken as a fork is: what is mounted is frozen for the moment, so that its file system is clean. H1 the
//! intent; H2 the pool has it; H3 `ready`, lazy, for that the pool has it proves that it is whole.

use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::SnapshotReport;
use crate::graph::step::Step;
use crate::ids::{SnapshotName, WritableName};
use crate::store::{SnapshotRecord, VolumeRecord};
use crate::units::Bytes;

impl Pool {
    /// Keeps the state that a container or data volume has now, in use or not. Without a name one is made up.
    ///
    /// What a virtual machine has open is as after a power cut, for only its own kernel could freeze it.
    ///
    /// # Errors
    /// [`StoreError::SnapshotExists`](crate::store::StoreError::SnapshotExists); as of
    /// [`Pool::fork_container`]. One that failed left nothing behind.
    pub fn take_snapshot(
        &self,
        of: &WritableName,
        name: Option<&SnapshotName>,
    ) -> Result<SnapshotReport, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let (_lock, record) = self.lock_writable(of)?;
        let origin = live.to_be_snapshot(of, &record.volume)?;
        let snapshot = self.catalogue().begin_snapshot(of, name)?;
        let volume = &snapshot.volume;
        Step::H1.passed_for(self.name(), volume.id);
        let _snapshot_lock = self.locks().volume(volume.id)?;
        match self.finish_snapshot(&live, volume, &origin) {
            Ok(()) => {
                let snapshot = self.catalogue().snapshot(of, &snapshot.name)?;
                Ok(report(of, snapshot))
            }
            Err(error) => Err(error.with_undo(live.discard_volume(volume))),
        }
    }

    fn finish_snapshot(
        &self,
        live: &Live<'_>,
        volume: &VolumeRecord,
        origin: &VolumeRecord,
    ) -> Result<(), PoolError> {
        let volume = &live.snapshot(volume, origin)?;
        Step::H2.passed_for(self.name(), volume.id);
        if !self.record()?.overcommit {
            // It never comes to have more than now; until that is known it counts in full.
            live.activate_internal(volume)?;
            live.measure(volume)?;
            live.deactivate(volume)?;
            live.require_kept(Bytes::ZERO)?;
        }
        self.catalogue().set_ready_lazy(volume.id)?;
        Step::H3.passed_for(self.name(), volume.id);
        Ok(())
    }

    /// The snapshots of a container or data volume, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`](crate::store::StoreError::ContainerNotFound),
    /// [`StoreError::DataVolumeNotFound`](crate::store::StoreError::DataVolumeNotFound).
    pub fn snapshots(&self, of: &WritableName) -> Result<Vec<SnapshotReport>, PoolError> {
        let snapshots = self.catalogue().snapshots(of)?.into_iter();
        Ok(snapshots.map(|snapshot| report(of, snapshot)).collect())
    }

    /// Removes a snapshot and gives back what it alone has. What was rolled back to it stays as it is.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`](crate::store::StoreError::SnapshotNotFound), and as of
    /// [`Pool::snapshots`]; or what the pool says to the delete: it stays queued.
    pub fn remove_snapshot(
        &self,
        of: &WritableName,
        name: &SnapshotName,
    ) -> Result<SnapshotReport, PoolError> {
        let live = self.live()?;
        // Under its owner's lock, or that could be rolled back to it meanwhile.
        let (_lock, _) = self.lock_writable(of)?;
        let snapshot = self.catalogue().snapshot(of, name)?;
        let id = snapshot.volume.id;
        let snapshot_lock = self.locks().volume(id)?;
        let gone = self.catalogue().begin_deleting(id)?;
        Step::D1.passed_for(self.name(), id);
        drop(snapshot_lock);
        self.give_back(&live, &[gone.id])?;
        Ok(SnapshotReport {
            state: gone.state,
            ..report(of, snapshot)
        })
    }
}

fn report(of: &WritableName, snapshot: SnapshotRecord) -> SnapshotReport {
    let volume = snapshot.volume;
    SnapshotReport {
        name: snapshot.name,
        of: of.clone(),
        kind: of.kind(),
        state: volume.state,
        volume: volume.id,
        thin_id: volume.thin_id,
        size: volume.size,
        fs: volume.fs,
        created_at: volume.created_at.to_unix(),
    }
}
