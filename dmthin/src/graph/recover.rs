//! Settles what a cut left: the one place that does.
//!
//! Runs at `pool open`, under the pool's lock, in one pass over the unsettled rows. Each is settled
//! by asking the kernel, forward where its user may have been told of success, back otherwise.
//! Repeated, or cut itself and repeated, it ends the same.
//!
//! | row | what happened | what is done |
//! |---|---|---|
//! | `deleting` | a removal was cut, or is queued | removed: it was promised; one that is held or fails stays queued |
//! | `creating` container or snapshot with a name, in the pool, as large as its parent | created; the lazy `ready` may be lost | `ready` |
//! | `creating`, not known to be made, in a pool that has ids of others | the id may be theirs | the row forgotten, the id left |
//! | `creating` container or snapshot, else | not yet created, its file system not yet grown, or it was to take another's place | removed |
//! | `creating` base, layer or data volume | its content was not whole | removed |
//! | `ready` container or data volume with `growing_to` | a growth was cut | grown to its end |
//! | ballast `filling` or `releasing` | its making or its release was cut | released |
//! | `ready` layer of no image, no import running | an import was cut between layers | removed |
//! | `ready` base of another size than the pool's, nothing on it | a growth of the base was cut | removed |

use std::collections::HashSet;

use crate::graph::error::PoolError;
use crate::graph::live::{Live, Pace, Removal};
use crate::graph::pool::Pool;
use crate::graph::step::Step;
use crate::ids::{VolumeId, VolumeKind};
use crate::store::{StoreError, VolumeRecord, VolumeState};

/// How many volumes recovery settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) kept: u64,
    pub(crate) removed: u64,
}

impl Live<'_> {
    /// Settles every unsettled row. The caller holds the whole pool.
    pub(crate) fn recover(&self) -> Result<Settled, PoolError> {
        let catalogue = self.pool().catalogue();
        self.settle_ballast()?;
        let mut settled = Settled::default();
        let mut unsettled = catalogue.unsettled()?;
        // The youngest first: a layer before the one it stands on.
        unsettled.sort_by_key(|volume| std::cmp::Reverse(volume.id));
        for volume in &unsettled {
            if self.is_whole(volume)? {
                catalogue.set_ready(volume.id)?;
                Step::O4.passed_for(self.pool().name(), volume.id);
                settled.kept = settled.kept.saturating_add(1);
            } else {
                tracing::info!(volume = %volume.id, kind = %volume.kind, "removing what a cut left");
                if self.settle_removal(volume)? {
                    settled.removed = settled.removed.saturating_add(1);
                }
            }
        }
        for writable in catalogue.growing_writables()? {
            let name = self.pool().device_name(&writable.name);
            match self.finish_growth(&writable.volume, &name) {
                Ok(_) => settled.kept = settled.kept.saturating_add(1),
                // It is as usable as it was, and no reason to keep the others closed.
                Err(error) => tracing::warn!(%writable.name, %error, "its growth is not finished"),
            }
        }
        if let Some(_no_imports) = self.pool().locks().try_no_imports()? {
            for volume in self.pool().forsaken_layers()? {
                tracing::info!(volume = %volume.id, "removing a layer of an import that was cut");
                self.discard_volume(&volume)?;
                settled.removed = settled.removed.saturating_add(1);
            }
            for volume in self.pool().old_bases()? {
                match self.discard_volume(&volume) {
                    // Images stand on it.
                    Err(PoolError::Store(StoreError::InUse { .. })) => {}
                    result => {
                        result?;
                        settled.removed = settled.removed.saturating_add(1);
                    }
                }
            }
        }
        Ok(settled)
    }

    /// Removes a volume; false where it stays queued, which keeps nobody from opening the pool.
    fn settle_removal(&self, volume: &VolumeRecord) -> Result<bool, PoolError> {
        if volume.state != VolumeState::Deleting {
            self.pool().catalogue().begin_deleting(volume.id)?;
            Step::D1.passed_for(self.pool().name(), volume.id);
        }
        match self.try_removal(volume) {
            Ok(Removal::Done) => return Ok(true),
            Ok(Removal::Held(_)) => tracing::info!(volume = %volume.id, "it is held: queued"),
            Err(error) => tracing::warn!(volume = %volume.id, %error, "it stays queued"),
        }
        Ok(false)
    }

    /// Removes a volume that is `deleting`; where that does not come to its end it is put off.
    pub(crate) fn try_removal(&self, volume: &VolumeRecord) -> Result<Removal, PoolError> {
        let removed = self.remove(volume, Pace::Full);
        if !matches!(removed, Ok(Removal::Done)) {
            self.put_off(volume, 0)?;
        }
        removed
    }

    pub(crate) fn is_whole(&self, volume: &VolumeRecord) -> Result<bool, PoolError> {
        let made = volume.state == VolumeState::Creating && volume.made;
        // One without a name was to take another's place, and that one still has it.
        if !made || !is_provable(volume.kind) || !self.pool().catalogue().is_named(volume.id)? {
            return Ok(false);
        }
        Ok(volume.size == self.parent(volume)?.size && self.is_in_pool(volume)?)
    }
}

/// Whether the pool alone can prove that such a volume is whole: it is a snapshot, and nothing else.
pub(crate) const fn is_provable(kind: VolumeKind) -> bool {
    matches!(kind, VolumeKind::Container | VolumeKind::Snapshot)
}

impl Pool {
    /// Bases that new images would not stand on.
    fn old_bases(&self) -> Result<Vec<VolumeRecord>, PoolError> {
        let record = self.record()?;
        let mut bases = self.catalogue().bases()?;
        bases.retain(|base| base.size != record.base_size);
        Ok(bases)
    }

    /// Sealed layers that no image has, the youngest first.
    pub(crate) fn forsaken_layers(&self) -> Result<Vec<VolumeRecord>, PoolError> {
        let catalogue = self.catalogue();
        let images = catalogue.images_with_layers()?;
        let needed: HashSet<VolumeId> = images
            .iter()
            .flat_map(|(_, layers)| layers)
            .map(|layer| layer.volume.id)
            .collect();
        let mut layers: Vec<_> = catalogue
            .layers()?
            .into_iter()
            .map(|layer| layer.volume)
            .filter(|volume| volume.state == VolumeState::Ready && !needed.contains(&volume.id))
            .collect();
        layers.sort_by_key(|volume| std::cmp::Reverse(volume.id));
        Ok(layers)
    }
}
