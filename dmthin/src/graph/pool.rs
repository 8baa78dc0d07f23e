//! A pool: its catalogue, its locks, and what its verbs share.

use std::sync::OnceLock;

use crate::dm::{OwnUuid, names};
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::live::Live;
use crate::graph::locks::Locks;
use crate::graph::mirror::Mirrored;
use crate::ids::{DmName, PoolName, PoolUuid, VolumeKind};
use crate::ioctl::{DevId, DeviceInfo};
use crate::store::{Catalogue, PoolRecord, PoolState, VolumeRecord};

/// A pool under a [`Host`]'s root, its catalogue open. Safe to share between threads; any number of
/// processes may hold the same pool.
#[derive(Debug)]
pub struct Pool {
    host: Host,
    name: PoolName,
    catalogue: Catalogue,
    locks: Locks,
    mirrored: Mirrored,
    // Never changes while the catalogue lives.
    uuid: OnceLock<PoolUuid>,
}

impl Pool {
    pub(crate) fn open_catalogue(host: &Host, name: &PoolName) -> Result<Self, PoolError> {
        let catalogue = Catalogue::open(host.layout().catalogue(name))?;
        Self::with_catalogue(host, name, catalogue)
    }

    pub(crate) fn with_catalogue(
        host: &Host,
        name: &PoolName,
        catalogue: Catalogue,
    ) -> Result<Self, PoolError> {
        let locks = Locks::open(host.layout(), name)?;
        Ok(Self {
            host: host.clone(),
            name: name.clone(),
            catalogue,
            locks,
            mirrored: Mirrored::default(),
            uuid: OnceLock::new(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &PoolName {
        &self.name
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) const fn mirrored(&self) -> &Mirrored {
        &self.mirrored
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// What the catalogue says of the pool now.
    pub(crate) fn record(&self) -> Result<PoolRecord, PoolError> {
        self.require_own_name(self.catalogue.pool()?)
    }

    /// The uuid its devices carry.
    fn uuid(&self) -> Result<PoolUuid, PoolError> {
        if let Some(uuid) = self.uuid.get() {
            return Ok(*uuid);
        }
        let uuid = self.record()?.uuid;
        Ok(*self.uuid.get_or_init(|| uuid))
    }

    /// The pool with its kernel device, shared with other verbs until the answer is dropped.
    pub(crate) fn live(&self) -> Result<Live<'_>, PoolError> {
        let lock = self.locks.share_pool()?;
        let record = self.record()?;
        match (record.state, self.host.pool_device(&record)?) {
            (PoolState::Ready, Some(_)) => Live::open(self, record, Some(lock)),
            (PoolState::Ready, None) => Err(PoolError::PoolNotOpen {
                name: self.name.clone(),
            }),
            _ => Err(PoolError::PoolHalfMade {
                name: self.name.clone(),
            }),
        }
    }

    /// The dm name of a volume that we work on: a container and a data volume have their own while they
    /// have a name.
    pub(crate) fn internal_name(&self, volume: &VolumeRecord) -> DmName {
        match volume.kind {
            VolumeKind::Base => names::base_name(&self.name, volume.id),
            VolumeKind::Snapshot => names::snapshot_name(&self.name, volume.id),
            VolumeKind::Layer | VolumeKind::Container | VolumeKind::Data => {
                names::layer_name(&self.name, volume.id)
            }
        }
    }

    /// The volume's dm device, where it is active.
    pub(crate) fn volume_device(
        &self,
        volume: &VolumeRecord,
    ) -> Result<Option<DeviceInfo>, PoolError> {
        let uuid = OwnUuid::volume(self.uuid()?, volume.kind, volume.id).to_dm_uuid();
        Ok(self.host.dm()?.find(DevId::Uuid(&uuid))?)
    }
}
