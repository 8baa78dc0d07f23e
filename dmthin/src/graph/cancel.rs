//! Taking a removal back: what somebody holds, or nobody has begun to give back, can be a container again.

use crate::dm::names;
use crate::graph::error::PoolError;
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::report::ContainerReport;
use crate::graph::step::Step;
use crate::ids::{ContainerName, VolumeId};
use crate::store::{RemovalRecord, StoreError};

/// Which removal is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// That of the container that was called so; there may be several.
    Name(ContainerName),
    /// That of this volume.
    Volume(VolumeId),
}

impl Pool {
    /// Takes a removal back: the volume is a container again, by its old name or a new one, with its
    /// device active. Who held it meanwhile notices nothing.
    ///
    /// # Errors
    /// [`PoolError::RemovalNotFound`], [`PoolError::RemovalAmbiguous`], [`StoreError::RemovalFinal`],
    /// [`StoreError::RemovalOrphan`], [`StoreError::ContainerExists`]: nothing was changed.
    pub fn cancel_removal(
        &self,
        which: &Which,
        new_name: Option<&ContainerName>,
    ) -> Result<ContainerReport, PoolError> {
        let live = self.live()?;
        let removal = self.find_removal(which)?;
        let id = removal.volume.id;
        let name = new_name.or(removal.name.as_ref());
        let name = name.ok_or(StoreError::RemovalFinal { id })?;
        // Once before its lock, for who gives its space back has that for long.
        self.check_cancel(id, name)?;
        let _lock = self.locks().volume(id)?;
        self.check_cancel(id, name)?;
        // The kernel first: a container that was promised must not go with its last user.
        let device = names::container_name(self.name(), name);
        let taken = live.take_back(&removal.volume, &device);
        let taken = taken.and_then(|()| Ok(self.catalogue().cancel_removal(id, name)?));
        let record = match taken {
            Ok(record) => record,
            Err(error) => {
                let undo = live.set_aside(&removal.volume).map(drop);
                return Err(error.with_undo(undo));
            }
        };
        Step::Q2.passed_for(self.name(), id);
        // Else a catalogue made of the copy would have it removed.
        live.mirror(Flush::Yes);
        live.activate(&record.volume, &device)?;
        Step::Q3.passed_for(self.name(), id);
        self.container(name)
    }

    /// Refuses what the catalogue would refuse, before anything is touched.
    fn check_cancel(&self, id: VolumeId, name: &ContainerName) -> Result<(), PoolError> {
        let removals = self.catalogue().removals()?;
        let removal = removals.iter().find(|removal| removal.volume.id == id);
        match (removal, self.catalogue().container(name)) {
            // Somebody has removed it, or taken it back, before we had its lock.
            (None, _) => Err(PoolError::RemovalNotFound {
                what: format!("volume {id}"),
            }),
            (Some(removal), _) if removal.is_final => Err(StoreError::RemovalFinal { id }.into()),
            (Some(_), Ok(_)) => Err(StoreError::ContainerExists { name: name.clone() }.into()),
            (Some(_), Err(StoreError::ContainerNotFound { .. })) => Ok(()),
            (Some(_), Err(error)) => Err(error.into()),
        }
    }

    fn find_removal(&self, which: &Which) -> Result<RemovalRecord, PoolError> {
        let mut removals = self.catalogue().removals()?;
        removals.retain(|removal| match which {
            Which::Name(name) => removal.name.as_ref() == Some(name),
            Which::Volume(volume) => removal.volume.id == *volume,
        });
        let volumes: Vec<_> = removals.iter().map(|removal| removal.volume.id).collect();
        match (removals.pop(), which) {
            (None, Which::Name(name)) => Err(PoolError::RemovalNotFound {
                what: format!("container {name}"),
            }),
            (None, Which::Volume(volume)) => Err(PoolError::RemovalNotFound {
                what: format!("volume {volume}"),
            }),
            (Some(_), Which::Name(name)) if volumes.len() > 1 => Err(PoolError::RemovalAmbiguous {
                name: name.clone(),
                volumes,
            }),
            (Some(removal), _) => Ok(removal),
        }
    }
}
