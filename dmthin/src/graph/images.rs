//! What there is of images: lists, lineage, history, removal.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::report::{HistoryReport, ImageReport, LayerReport, LayerTree, RemovedImage};
use crate::ids::{ContainerName, Digest, ImageId, VolumeId};
use crate::image::ImageConfig;
use crate::store::{ImageRecord, SealedLayer};
use crate::units::Bytes;

/// Everything the reports are made of, read once.
struct Snapshot {
    images: Vec<(ImageRecord, Vec<SealedLayer>)>,
    containers: HashMap<ImageId, Vec<ContainerName>>,
    shared: HashMap<VolumeId, u64>,
}

impl Snapshot {
    fn layer(&self, layer: &SealedLayer) -> LayerReport {
        LayerReport {
            chain_id: layer.layer.chain_id,
            diff_id: layer.layer.diff_id,
            volume: layer.volume.id,
            thin_id: layer.volume.thin_id,
            size: layer.layer.tar_bytes,
            entries: layer.layer.nr_entries,
            shared_by: self.shared.get(&layer.volume.id).copied().unwrap_or(0),
        }
    }

    fn image(&self, record: &ImageRecord, layers: &[SealedLayer]) -> ImageReport {
        let size = layers
            .iter()
            .fold(Bytes::ZERO, |sum, l| sum.saturating_add(l.layer.tar_bytes));
        ImageReport {
            id: record.config_digest,
            names: record.names.clone(),
            layers: layers.iter().map(|layer| self.layer(layer)).collect(),
            size,
            architecture: record.architecture.clone(),
            os: record.os.clone(),
            created: record.created.clone(),
            imported_at: record.imported_at.to_unix(),
            containers: self.containers.get(&record.id).cloned().unwrap_or_default(),
        }
    }
}

impl Pool {
    fn read_images(&self) -> Result<Snapshot, PoolError> {
        let catalogue = self.catalogue();
        let mut images = Vec::new();
        let mut shared = HashMap::new();
        for record in catalogue.images()? {
            let layers = catalogue.image_layers(record.id)?;
            for layer in &layers {
                let count: &mut u64 = shared.entry(layer.volume.id).or_default();
                *count = count.saturating_add(1);
            }
            images.push((record, layers));
        }
        let mut containers: HashMap<_, Vec<_>> = HashMap::new();
        for container in catalogue.containers()? {
            containers
                .entry(container.image)
                .or_default()
                .push(container.name);
        }
        Ok(Snapshot {
            images,
            containers,
            shared,
        })
    }

    /// Every image, in the order they were imported.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn images(&self) -> Result<Vec<ImageReport>, PoolError> {
        let all = self.read_images()?;
        Ok(all
            .images
            .iter()
            .map(|(record, layers)| all.image(record, layers))
            .collect())
    }

    /// The layers as a tree, bottom layers first: all of them, or those of one image with what
    /// stands on them.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`](crate::store::StoreError::ImageNotFound) and other
    /// [`PoolError::Store`].
    pub fn image_tree(&self, image: Option<&str>) -> Result<Vec<LayerTree>, PoolError> {
        let only = image
            .map(|image| self.catalogue().find_image(image))
            .transpose()?;
        let all = self.read_images()?;
        let mut nodes: BTreeMap<VolumeId, LayerTree> = BTreeMap::new();
        let mut parents: BTreeMap<VolumeId, Option<VolumeId>> = BTreeMap::new();
        for (record, layers) in &all.images {
            if only.as_ref().is_some_and(|only| only.id != record.id) {
                continue;
            }
            let mut below = None;
            for layer in layers {
                let id = layer.volume.id;
                nodes.entry(id).or_insert_with(|| LayerTree {
                    layer: all.layer(layer),
                    images: Vec::new(),
                    containers: Vec::new(),
                    children: Vec::new(),
                });
                parents.insert(id, below.replace(id));
            }
            if let Some(top) = below.and_then(|top| nodes.get_mut(&top)) {
                let named = record.names.iter().map(ToString::to_string);
                top.images.extend(named);
                if record.names.is_empty() {
                    top.images.push(record.config_digest.to_string());
                }
                top.containers.extend(
                    all.containers
                        .get(&record.id)
                        .into_iter()
                        .flatten()
                        .cloned(),
                );
            }
        }
        // A layer's volume is younger than its parent's: from the youngest down, each node is whole
        // when it moves into its parent.
        let mut roots = Vec::new();
        while let Some((id, mut node)) = nodes.pop_last() {
            node.children.reverse();
            match parents
                .get(&id)
                .copied()
                .flatten()
                .and_then(|parent| nodes.get_mut(&parent))
            {
                Some(parent) => parent.children.push(node),
                None => roots.push(node),
            }
        }
        roots.reverse();
        Ok(roots)
    }

    /// The steps an image was built by, newest first.
    ///
    /// # Errors
    /// [`PoolError::Image`] where its recorded configuration cannot be read, and
    /// [`PoolError::Store`].
    pub fn history(&self, image: &str) -> Result<Vec<HistoryReport>, PoolError> {
        let record = self.catalogue().find_image(image)?;
        let layers = self.catalogue().image_layers(record.id)?;
        let config = ImageConfig::parse(self.catalogue().image_config(record.id)?, image)?;
        let report = |layer: Option<&SealedLayer>| HistoryReport {
            diff_id: layer.map(|layer| layer.layer.diff_id),
            size: layer.map(|layer| layer.layer.tar_bytes),
            created: None,
            created_by: None,
            comment: None,
        };
        let mut steps: Vec<_> = config
            .history
            .iter()
            .map(|step| HistoryReport {
                created: step.created.clone(),
                created_by: step.created_by.clone(),
                comment: step.comment.clone(),
                ..report(step.layer.and_then(|layer| layers.get(layer)))
            })
            .collect();
        // Some builders write no history, or one that fits no layer: each layer shows all the same.
        let told: HashSet<_> = config
            .history
            .iter()
            .filter_map(|step| step.layer)
            .collect();
        let untold = (0..)
            .zip(&layers)
            .filter(|(layer, _)| !told.contains(layer));
        steps.extend(untold.map(|(_, layer)| report(Some(layer))));
        steps.reverse();
        Ok(steps)
    }

    /// Removes an image, with the layers nothing else needs; or only the name it was called by,
    /// where it has others.
    ///
    /// # Errors
    /// [`StoreError::ImageInUse`](crate::store::StoreError::ImageInUse) where containers stand on
    /// it: nothing was changed.
    pub fn remove_image(&self, image: &str) -> Result<RemovedImage, PoolError> {
        let live = self.live()?;
        let record = self.catalogue().find_image(image)?;
        let id: Digest = record.config_digest;
        if let Some(name) = record.only_name_meant(image) {
            self.catalogue().untag(name)?;
            let names = vec![name.clone()];
            return Ok(RemovedImage {
                id,
                names,
                removed: false,
                layers_removed: 0,
            });
        }
        let removed = self.catalogue().remove_image(record.id)?;
        let mut layers_removed: u64 = 0;
        // Top down: a layer goes before the one it stands on.
        for volume in &removed.volumes {
            live.finish_removal(volume.id)?;
            layers_removed = layers_removed.saturating_add(1);
        }
        Ok(RemovedImage {
            id,
            names: record.names,
            removed: true,
            layers_removed,
        })
    }
}
