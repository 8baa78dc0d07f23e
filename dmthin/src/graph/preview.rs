//! What a removal would take away and give back, told before: nothing is changed but a metadata
//! snapshot, which is released again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::backing::SparseFile;
use crate::fs::Holder;
use crate::graph::error::PoolError;
use crate::graph::host::Host;
use crate::graph::live::Live;
use crate::graph::lossy;
use crate::graph::pool::Pool;
use crate::graph::removal::QueueRound;
use crate::graph::report::QueueState;
use crate::ids::{ContainerName, DmName, PoolName, ThinId, VolumeId, VolumeKind};
use crate::store::{BackingRecord, Timestamp, VolumeRecord};
use crate::units::Bytes;

/// A volume that would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedVolume {
    /// The volume in the catalogue.
    pub volume: VolumeId,
    /// What it is for.
    pub kind: VolumeKind,
    /// Its id in the pool.
    pub thin_id: ThinId,
}

/// What a removal would take away and give back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RemovalPlan {
    /// Names that would be free: of containers, of images.
    pub names: Vec<String>,
    /// Volumes that would go.
    pub volumes: Vec<PlannedVolume>,
    /// Dm devices that would go.
    pub devices: Vec<DmName>,
    /// Files that would go.
    #[serde(serialize_with = "lossy::list")]
    pub files: Vec<PathBuf>,
    /// Block devices that would be wiped.
    #[serde(serialize_with = "lossy::list")]
    pub wiped: Vec<PathBuf>,
    /// What holds some of it: that comes back only when it is let go.
    pub held: Vec<Holder>,
    /// Bytes that would come back to the pool, where that stays.
    pub pool_bytes: Option<Bytes>,
    /// Bytes that would come back to the host with the files.
    pub host_bytes: Option<Bytes>,
}

impl Pool {
    /// What [`Pool::remove_container`] would do.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`](crate::store::StoreError::ContainerNotFound),
    /// [`PoolError::MetadataSnapHeld`] and where the pool cannot be read.
    pub fn plan_remove_container(&self, name: &ContainerName) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let volume = self.catalogue().container(name)?.volume;
        let mut plan = self.plan_volumes(&live, &[volume])?;
        plan.names.push(name.to_string());
        Ok(plan)
    }

    /// What [`Pool::remove_image`] would do.
    ///
    /// # Errors
    /// As of [`Pool::remove_image`], and as of [`Pool::plan_remove_container`].
    pub fn plan_remove_image(&self, image: &str) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let record = self.catalogue().find_image(image)?;
        if let Some(name) = record.only_name_meant(image) {
            return Ok(RemovalPlan {
                names: vec![name.to_string()],
                pool_bytes: Some(Bytes::ZERO),
                ..RemovalPlan::default()
            });
        }
        let removed = self.catalogue().plan_image_removal(record.id)?;
        let mut plan = self.plan_volumes(&live, &removed.volumes)?;
        plan.names = removed
            .image
            .names
            .iter()
            .map(ToString::to_string)
            .collect();
        Ok(plan)
    }

    /// What [`Pool::run_queue`] would do with what nobody holds by now.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`], and as of [`Pool::plan_remove_container`].
    pub fn plan_queue(&self, round: QueueRound) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let now = Timestamp::now().to_unix();
        let (mut held, mut volumes) = (Vec::new(), Vec::new());
        for removal in self.queue()? {
            if round == QueueRound::Due && removal.next_try > now {
                continue;
            }
            if removal.state == QueueState::Waiting {
                volumes.push(self.catalogue().volume(removal.volume)?);
            } else {
                held.extend(removal.holders);
            }
        }
        let mut plan = self.plan_volumes(&live, &volumes)?;
        plan.held.extend(held);
        Ok(plan)
    }

    fn plan_volumes(
        &self,
        live: &Live<'_>,
        volumes: &[VolumeRecord],
    ) -> Result<RemovalPlan, PoolError> {
        let mut plan = RemovalPlan::default();
        for volume in volumes {
            plan.volumes.push(planned(volume));
            if let Some(device) = self.volume_device(volume)? {
                if device.open_count > 0 {
                    plan.held.extend(self.holders(device.dev)?);
                }
                plan.devices.push(device.name);
            }
        }
        let thins: BTreeSet<ThinId> = volumes.iter().map(|volume| volume.thin_id).collect();
        plan.pool_bytes = Some(if thins.is_empty() {
            Bytes::ZERO
        } else {
            live.exclusive(&thins)?
        });
        Ok(plan)
    }
}

impl Host {
    /// What [`Host::destroy_pool`] would do.
    ///
    /// # Errors
    /// As of [`Host::destroy_pool`].
    pub fn plan_destroy(&self, name: &PoolName) -> Result<RemovalPlan, PoolError> {
        let mut plan = RemovalPlan {
            files: self.layout().files(name),
            ..RemovalPlan::default()
        };
        let pool = match self.pool(name) {
            Err(PoolError::PoolHalfMade { .. }) => return Ok(plan),
            result => result?,
        };
        let _lock = pool.lock_idle()?;
        plan.devices = pool
            .idle_devices()?
            .into_iter()
            .map(|(device, _)| device.name)
            .collect();
        for container in pool.catalogue().containers()? {
            plan.names.push(container.name.to_string());
        }
        for image in pool.catalogue().images()? {
            plan.names
                .extend(image.names.iter().map(ToString::to_string));
        }
        plan.volumes = pool
            .catalogue()
            .all_volumes()?
            .iter()
            .map(planned)
            .collect();
        let record = pool.record()?;
        let mut back = Bytes::ZERO;
        for backing in [&record.data, &record.metadata] {
            let path = pool.backing_path(backing);
            match backing {
                // Both parts are of one disk; of another's thin-pool only the volumes go.
                BackingRecord::Device { .. } | BackingRecord::Part { .. } => {
                    if !plan.wiped.contains(&path) {
                        plan.wiped.push(path);
                    }
                }
                BackingRecord::ThinPool(_) => {}
                // One that a cut destroy took is no less gone.
                BackingRecord::File { .. } if !path.exists() => {}
                BackingRecord::File { .. } => {
                    back = back.saturating_add(SparseFile::open(&path)?.allocated()?);
                }
            }
        }
        plan.host_bytes = Some(back);
        Ok(plan)
    }
}

fn planned(volume: &VolumeRecord) -> PlannedVolume {
    PlannedVolume {
        volume: volume.id,
        kind: volume.kind,
        thin_id: volume.thin_id,
    }
}
