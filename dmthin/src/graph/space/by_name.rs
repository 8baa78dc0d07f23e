//! Puts names to what the metadata say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::dm::PoolStatus;
use crate::graph::error::PoolError;
use crate::graph::images::Snapshot;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::{ImageSpace, OtherSpace, OwnSpace, SpaceReport, Usage, VolumeSpace};
use crate::graph::volumes::VolumeUsage;
use crate::ids::{Digest, ThinId, VolumeId, VolumeKind};
use crate::store::{ContainerRecord, SealedLayer, StoreError, VolumeRecord, VolumeState};
use crate::thinmeta::{Answers, Questions};
use crate::units::{Bytes, DataBlocks};

/// What comes back if a volume is removed on its own, of which `exclusive` is its own.
fn freed(volume: &VolumeRecord, exclusive: Bytes) -> Option<Bytes> {
    match volume.kind {
        VolumeKind::Container | VolumeKind::Snapshot | VolumeKind::Data => Some(exclusive),
        // They go with the images that stand on them, or once more is made of them.
        VolumeKind::Base | VolumeKind::Layer => {
            (volume.state == VolumeState::Deleting).then_some(exclusive)
        }
    }
}

/// What the catalogue has, read once.
struct Names {
    images: Snapshot,
    volumes: Vec<VolumeRecord>,
    containers: HashMap<VolumeId, ContainerRecord>,
    /// What containers, data volumes and their snapshots are called.
    called: HashMap<VolumeId, String>,
    layers: HashMap<VolumeId, Layer>,
    /// Layers that would go with each image; none while it has containers.
    unneeded: Vec<Option<BTreeSet<ThinId>>>,
}

/// What is told of a layer's volume.
struct Layer {
    diff_id: Digest,
    /// Names of images that it is the top of.
    top_of: Vec<String>,
}

fn layers(images: &Snapshot) -> HashMap<VolumeId, Layer> {
    let mut found: HashMap<VolumeId, Layer> = HashMap::new();
    for (image, layers) in &images.images {
        for layer in layers {
            found.entry(layer.volume.id).or_insert_with(|| Layer {
                diff_id: layer.layer.diff_id,
                top_of: Vec::new(),
            });
        }
        let top = layers.last().and_then(|top| found.get_mut(&top.volume.id));
        if let Some(top) = top {
            top.top_of
                .extend(image.names.iter().map(ToString::to_string));
        }
    }
    found
}

fn thins(layers: &[SealedLayer]) -> BTreeSet<ThinId> {
    layers.iter().map(|layer| layer.volume.thin_id).collect()
}

impl Names {
    fn read(pool: &Pool) -> Result<Self, PoolError> {
        let catalogue = pool.catalogue();
        let images = pool.read_images()?;
        let mut unneeded = Vec::new();
        for (image, _) in &images.images {
            let plan = match catalogue.plan_images_removal(Some(image.id), &[]) {
                Ok(removed) => Some(removed.volumes.iter().map(|v| v.thin_id).collect()),
                Err(StoreError::ImageInUse { .. }) => None,
                // It went meanwhile.
                Err(StoreError::ImageNotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            unneeded.push(plan);
        }
        let containers = catalogue.containers()?.into_iter();
        let writables = catalogue.writables()?.into_iter();
        let mut called: HashMap<_, _> = writables
            .map(|writable| (writable.volume.id, writable.name.to_string()))
            .collect();
        for snapshot in catalogue.all_snapshots()? {
            // Its owner may have gone since it was listed.
            let owner = called.get(&snapshot.owner).map_or("-", String::as_str);
            let name = format!("{owner}@{}", snapshot.name);
            called.insert(snapshot.volume.id, name);
        }
        Ok(Self {
            called,
            layers: layers(&images),
            images,
            volumes: catalogue.all_volumes()?,
            containers: containers.map(|c| (c.volume.id, c)).collect(),
            unneeded,
        })
    }

    /// A set for each image that can go, and a union for each image, and one of the bases.
    fn questions(&self) -> Questions {
        let bases = self.volumes.iter().filter(|v| v.kind == VolumeKind::Base);
        let bases = bases.map(|volume| volume.thin_id).collect();
        let images = self.images.images.iter();
        Questions {
            sets: self.unneeded.iter().flatten().cloned().collect(),
            unions: images
                .map(|(_, layers)| thins(layers))
                .chain([bases])
                .collect(),
        }
    }

    fn volume(&self, volume: &VolumeRecord, usage: VolumeUsage) -> VolumeSpace {
        let container = self.containers.get(&volume.id);
        let layer = self.layers.get(&volume.id);
        VolumeSpace {
            shared: usage.mapped.saturating_sub(usage.exclusive),
            freed: freed(volume, usage.exclusive),
            thin_id: volume.thin_id,
            state: volume.state,
            parent: volume.parent,
            name: self.called.get(&volume.id).cloned(),
            diff_id: layer.map(|layer| layer.diff_id),
            images: match container {
                Some(container) => vec![container.image_name.clone()],
                None => layer.map_or_else(Vec::new, |layer| layer.top_of.clone()),
            },
            usage,
        }
    }
}

impl Pool {
    /// The pool, looked at without a lock: whoever only looks waits for nobody.
    pub(super) fn looked_at(&self) -> Result<Live<'_>, PoolError> {
        let record = self.record()?;
        if self.host().pool_device(&record)?.is_none() {
            return Err(PoolError::PoolNotOpen {
                name: self.name().clone(),
            });
        }
        Live::open(self, record, None)
    }

    /// Who takes the pool's room, by the pool's metadata: to the byte, while it is in use. Where nothing
    /// has changed since it was last asked, the answer is that of then.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`]; [`PoolError::MetadataSnapHeld`] where another tool reads the
    /// metadata; [`PoolError::Metadata`] where they are damaged.
    pub fn space(&self) -> Result<SpaceReport, PoolError> {
        let live = self.looked_at()?;
        let block_size = live.record().block_size;
        let bytes = |blocks: DataBlocks| blocks.to_bytes_saturating(block_size);
        let names = Names::read(self)?;
        let answers = live.answers(&names.questions())?;
        let mapped: BTreeMap<ThinId, Bytes> = answers
            .devices
            .iter()
            .map(|device| (device.id, bytes(device.mapped)))
            .collect();
        let alone = |id: &ThinId| answers.exclusives.devices.get(id).copied();
        let volumes = names.volumes.iter().filter_map(|volume| {
            let usage = VolumeUsage {
                volume: volume.id,
                kind: volume.kind,
                size: volume.size,
                mapped: *mapped.get(&volume.thin_id)?,
                exclusive: bytes(alone(&volume.thin_id)?),
            };
            Some(names.volume(volume, usage))
        });
        let volumes: Vec<_> = volumes.collect();
        let ballast = self.catalogue().ballast()?.and_then(|ballast| {
            Some(OwnSpace {
                thin_id: ballast.thin_id,
                mapped: *mapped.get(&ballast.thin_id)?,
            })
        });
        // Where others give ids, the last one is theirs.
        let mirror = mapped
            .get(&ThinId::MIRROR)
            .filter(|_| self.mirror_state(live.record()).is_some())
            .map(|mapped| OwnSpace {
                thin_id: ThinId::MIRROR,
                mapped: *mapped,
            });
        let known: BTreeSet<ThinId> = names.volumes.iter().map(|v| v.thin_id).collect();
        let of_pool = ballast.iter().chain(&mirror);
        let known: BTreeSet<ThinId> = of_pool.map(|own| own.thin_id).chain(known).collect();
        let others = mapped.iter().filter(|(id, _)| !known.contains(id));
        let others = others.map(|(id, mapped)| OtherSpace {
            thin_id: *id,
            mapped: *mapped,
            exclusive: alone(id).map_or(Bytes::ZERO, bytes),
        });
        let others = others.collect();
        Ok(SpaceReport {
            pool: self.name().clone(),
            data: data(&live)?,
            mapped: bytes(answers.exclusives.mapped),
            images: images(&names, &answers, bytes),
            volumes,
            ballast,
            mirror,
            others,
        })
    }
}

fn images(
    names: &Names,
    answers: &Answers,
    bytes: impl Fn(DataBlocks) -> Bytes,
) -> Vec<ImageSpace> {
    let mut freed = answers.exclusives.sets.iter();
    let images = names.images.images.iter().zip(&names.unneeded);
    let images = images.zip(&answers.unions);
    images
        .map(|(((image, _), unneeded), union)| {
            let containers = names.images.containers.get(&image.id);
            ImageSpace {
                id: image.config_digest,
                names: image.names.clone(),
                containers: containers.cloned().unwrap_or_default(),
                mapped: bytes(union.mapped),
                exclusive: bytes(union.alone),
                shared: bytes(union.mapped.saturating_sub(union.alone)),
                // There is one for each that can go.
                freed: unneeded.as_ref().and(freed.next()).copied().map(&bytes),
            }
        })
        .collect()
}

fn data(live: &Live<'_>) -> Result<Option<Usage>, PoolError> {
    let block_size = live.record().block_size;
    Ok(match live.thin_pool().status()? {
        PoolStatus::Working(pool) => Some(Usage {
            used: pool.used_data.to_bytes_saturating(block_size),
            total: pool.total_data.to_bytes_saturating(block_size),
        }),
        PoolStatus::Fail | PoolStatus::Error => None,
    })
}
