//! What there is of images and layers: lists, lineage, history, names.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::report::{
    HistoryReport, ImageDetails, ImageReport, LayerReport, LayerTree, StackedLayer,
};
use crate::graph::step::Step;
use crate::ids::{ContainerName, Digest, ImageId, ImageRef, VolumeId};
use crate::image::ImageConfig;
use crate::store::{ImageRecord, SealedLayer, StoreError};
use crate::units::Bytes;

/// Everything the reports are made of, read once.
pub(super) struct Snapshot {
    pub(super) images: Vec<(ImageRecord, Vec<SealedLayer>)>,
    pub(super) containers: HashMap<ImageId, Vec<ContainerName>>,
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
    pub(super) fn read_images(&self) -> Result<Snapshot, PoolError> {
        let catalogue = self.catalogue();
        let images = catalogue.images_with_layers()?;
        let mut shared = HashMap::new();
        for layer in images.iter().flat_map(|(_, layers)| layers) {
            let count: &mut u64 = shared.entry(layer.volume.id).or_default();
            *count = count.saturating_add(1);
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
    /// [`StoreError::ImageNotFound`] and other
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
                top.images.extend(told_names(record));
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

    /// One image, with what it runs.
    ///
    /// # Errors
    /// As of [`history`](Self::history).
    pub fn image(&self, image: &str) -> Result<ImageDetails, PoolError> {
        let record = self.catalogue().find_image(image)?;
        let layers = self.catalogue().image_layers(record.id)?;
        let config = ImageConfig::parse(self.catalogue().image_config(record.id)?, image)?;
        Ok(ImageDetails {
            image: self.read_images()?.image(&record, &layers),
            manifest: record.manifest_digest,
            config,
        })
    }

    /// Every layer, the lowest first, with what stands on it.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn layers(&self) -> Result<Vec<StackedLayer>, PoolError> {
        let all = self.read_images()?;
        let layers = self.catalogue().layers()?;
        let mut users: HashMap<VolumeId, (Vec<String>, Vec<ContainerName>)> = HashMap::new();
        for (record, stack) in &all.images {
            if let Some(top) = stack.last() {
                let (images, containers) = users.entry(top.volume.id).or_default();
                images.extend(told_names(record));
                let on_it = all.containers.get(&record.id);
                containers.extend(on_it.into_iter().flatten().cloned());
            }
        }
        let mut children: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for layer in &layers {
            if let Some(below) = layer.layer.parent_chain {
                children
                    .entry(below)
                    .or_default()
                    .push(layer.layer.chain_id);
            }
        }
        let stacked = layers.iter().map(|layer| {
            let (images, containers) = users.remove(&layer.volume.id).unwrap_or_default();
            StackedLayer {
                layer: all.layer(layer),
                parent: layer.layer.parent_chain,
                children: children.remove(&layer.layer.chain_id).unwrap_or_default(),
                images,
                containers,
                volume_size: layer.volume.size,
                mapped: layer.volume.mapped,
                created_at: layer.volume.created_at.to_unix(),
            }
        });
        Ok(stacked.collect())
    }

    /// One layer: by chain id, diff id, first digits of either, or the image it is the top of.
    ///
    /// # Errors
    /// [`StoreError::LayerNotFound`] and [`StoreError::LayerAmbiguous`].
    pub fn layer(&self, layer: &str) -> Result<StackedLayer, PoolError> {
        let id = self.catalogue().find_layer(layer)?.volume.id;
        let mut layers = self.layers()?;
        layers.retain(|layer| layer.layer.volume == id);
        layers.pop().ok_or_else(|| {
            PoolError::from(StoreError::LayerNotFound {
                name: layer.to_owned(),
            })
        })
    }

    /// Gives an image one name more, which is taken from the image that has it.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`].
    pub fn tag_image(&self, image: &str, name: &ImageRef) -> Result<ImageReport, PoolError> {
        let live = self.live()?;
        let record = self.catalogue().find_image(image)?;
        self.catalogue().tag(record.id, name)?;
        Step::U1.passed(self.name());
        drop(live);
        self.image_report(record.id)
    }

    /// Takes a name from its image. One that has no other stays without: it is found by its digest, until
    /// [`prune_images`](Self::prune_images) takes it.
    ///
    /// # Errors
    /// [`StoreError::NameNotFound`].
    pub fn untag_image(&self, name: &ImageRef) -> Result<ImageReport, PoolError> {
        let live = self.live()?;
        let record = self.catalogue().untag_any(name)?;
        Step::U2.passed(self.name());
        drop(live);
        self.image_report(record.id)
    }

    pub(crate) fn image_report(&self, id: ImageId) -> Result<ImageReport, PoolError> {
        let record = self.catalogue().image(id)?;
        let layers = self.catalogue().image_layers(id)?;
        Ok(self.read_images()?.image(&record, &layers))
    }
}

/// The names of an image, or its id where it has none.
pub(crate) fn told_names(image: &ImageRecord) -> Vec<String> {
    if image.names.is_empty() {
        return vec![image.config_digest.to_string()];
    }
    image.names.iter().map(ToString::to_string).collect()
}
