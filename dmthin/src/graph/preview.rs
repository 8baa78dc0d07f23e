//! What a removal would take away and give back, told before: nothing is changed but a metadata
//! snapshot, which is released again.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::ids::{
    ContainerName, DmName, ImageRef, PoolName, ThinId, VolumeId, VolumeKind, VolumeName,
    WritableName,
};
use crate::store::{
    BackingRecord, ContainerRecord, ImageRecord, StoreError, Timestamp, VolumeRecord,
    WritableRecord,
};
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

/// What a text names.
enum Removable {
    Container(Box<ContainerRecord>),
    Data(Box<WritableRecord>),
    /// Where it has several names, the one it was called by.
    Image(ImageRecord, Option<ImageRef>),
}

impl Pool {
    /// What removing a container or data volume would do, with its snapshots if so.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`StoreError::DataVolumeNotFound`],
    /// [`StoreError::HasSnapshots`]; [`PoolError::MetadataSnapHeld`] and where the pool cannot be read.
    pub fn plan_remove(
        &self,
        name: &WritableName,
        with_snapshots: bool,
    ) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let mut volumes = vec![self.catalogue().writable(name)?.volume];
        let snapshots = self.catalogue().snapshots(name)?;
        if !with_snapshots && !snapshots.is_empty() {
            return Err(StoreError::HasSnapshots {
                of: name.clone(),
                snapshots: snapshots.into_iter().map(|s| s.name).collect(),
            }
            .into());
        }
        let mut names = vec![name.to_string()];
        for snapshot in snapshots {
            names.push(snapshot.name.to_string());
            volumes.push(snapshot.volume);
        }
        let mut plan = self.plan_volumes(&live, &volumes)?;
        plan.names = names;
        Ok(plan)
    }

    /// What removing all of these would do, containers before images: `container:NAME`, `volume:NAME`,
    /// `image:REF`, or any without the word, which is a container where there is one of that name, else
    /// a data volume. Containers and data volumes go with their snapshots. What a removal of several gives
    /// back is more than the sum, where they share it with nobody else.
    ///
    /// An image that has other names than those that are told loses these and stays.
    ///
    /// # Errors
    /// As of [`Pool::plan_remove`] and [`Pool::plan_remove_image`].
    pub fn plan_removals(&self, names: &[String]) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let catalogue = self.catalogue();
        let (mut containers, mut data) = (BTreeMap::new(), BTreeMap::new());
        let mut images = BTreeMap::new();
        for text in names {
            match self.removable(text)? {
                Removable::Container(container) => {
                    containers.insert(container.name.clone(), *container);
                }
                Removable::Data(volume) => {
                    data.insert(volume.volume.id, *volume);
                }
                Removable::Image(image, name) => {
                    let (_, meant) = images.entry(image.id).or_insert((image, BTreeSet::new()));
                    meant.extend(name);
                }
            }
        }
        let goes = |(image, meant): &&(ImageRecord, BTreeSet<ImageRef>)| {
            meant.is_empty() || image.names.iter().all(|name| meant.contains(name))
        };
        let gone = images.values().filter(goes);
        let gone: Vec<_> = gone.map(|(image, _)| image.id).collect();
        let containers: Vec<_> = containers.into_values().collect();
        let layers = catalogue.plan_removals(&gone, &containers)?;
        let mut volumes: Vec<_> = containers.iter().map(|c| c.volume.clone()).collect();
        let mut names: Vec<_> = containers.iter().map(|c| c.name.to_string()).collect();
        for volume in data.into_values() {
            volumes.push(volume.volume);
            names.push(volume.name.to_string());
        }
        let owners: BTreeSet<_> = volumes.iter().map(|volume| volume.id).collect();
        for snapshot in catalogue.all_snapshots()? {
            if owners.contains(&snapshot.owner) {
                volumes.push(snapshot.volume);
                names.push(snapshot.name.to_string());
            }
        }
        volumes.extend(layers);
        let mut plan = self.plan_volumes(&live, &volumes)?;
        plan.names = names;
        for (image, meant) in images.values() {
            let all = gone.contains(&image.id);
            let names = image
                .names
                .iter()
                .filter(|name| all || meant.contains(*name));
            plan.names.extend(names.map(ToString::to_string));
        }
        Ok(plan)
    }

    fn removable(&self, text: &str) -> Result<Removable, PoolError> {
        let word = text.strip_prefix("container:");
        let container =
            ContainerName::new(word.unwrap_or(text)).map(|n| self.catalogue().container(&n));
        match container {
            Ok(Ok(found)) => {
                return Ok(Removable::Container(Box::new(found)));
            }
            Ok(Err(StoreError::ContainerNotFound { .. })) if word.is_none() => {}
            Ok(Err(error)) => return Err(error.into()),
            // No name of a container, but perhaps of an image.
            Err(_) => {}
        }
        let word = text.strip_prefix("volume:");
        if let Ok(name) = VolumeName::new(word.unwrap_or(text)) {
            match self.catalogue().writable(&WritableName::Data(name)) {
                Ok(found) => return Ok(Removable::Data(Box::new(found))),
                Err(StoreError::DataVolumeNotFound { .. }) if word.is_none() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let text = text.strip_prefix("image:").unwrap_or(text);
        let image = self.catalogue().find_image(text)?;
        let name = image.only_name_meant(text).cloned();
        Ok(Removable::Image(image, name))
    }

    /// What [`Pool::run_queue`] would do with what nobody holds by now.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`], and as of [`Pool::plan_remove`].
    pub fn plan_queue(&self, round: QueueRound) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let now = Timestamp::now().to_unix();
        let (mut held, mut volumes) = (Vec::new(), Vec::new());
        for removal in self.queue()? {
            if round == QueueRound::Due && removal.next_try > now {
                continue;
            }
            if removal.state == QueueState::Waiting {
                match self.catalogue().volume(removal.volume) {
                    // Another command's queue was faster.
                    Err(StoreError::VolumeNotFound { .. }) => {}
                    volume => volumes.push(volume?),
                }
            } else {
                held.extend(removal.holders);
            }
        }
        let mut plan = self.plan_volumes(&live, &volumes)?;
        plan.held.extend(held);
        Ok(plan)
    }

    pub(crate) fn plan_volumes(
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
        for writable in pool.catalogue().writables()? {
            plan.names.push(writable.name.to_string());
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
