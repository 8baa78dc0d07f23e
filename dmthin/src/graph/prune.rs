//! Removing images: one, or those that nothing leads to any more.
//!
//! What leads to an image is a name, a container, or an image that was built on it and stays: as a commit
//! of git is kept by a branch that it is in the history of. That an image was built on another is seen in their layers and
//! histories, of which those of the older one are the begin.

use crate::graph::error::PoolError;
use crate::graph::images::told_names;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::preview::RemovalPlan;
use crate::graph::report::{PrunedImages, RemovedImage};
use crate::graph::step::Step;
use crate::ids::{Digest, ImageId, VolumeId};
use crate::image::{HistoryEntry, ImageConfig};
use crate::store::{ImageRecord, RemovedImages, StoreError};
use crate::units::Bytes;

/// What becomes of the images that a removed one was built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// They stay.
    Keep,
    /// Those go that nothing leads to then.
    Prune,
}

/// An image with what it was built of.
#[derive(Debug)]
struct Built {
    image: ImageRecord,
    layers: Vec<VolumeId>,
    history: Vec<HistoryEntry>,
    in_use: bool,
}

impl Built {
    /// Whether this was built on `other`.
    fn is_on(&self, other: &Self) -> bool {
        let layers = self.layers.strip_prefix(&*other.layers);
        let same = |(a, b): (&HistoryEntry, &HistoryEntry)| {
            a.created == b.created && a.created_by == b.created_by && a.comment == b.comment
        };
        let history = self.history.len() >= other.history.len()
            && self.history.iter().zip(&other.history).all(same);
        layers.is_some_and(|more| {
            history && (!more.is_empty() || self.history.len() > other.history.len())
        })
    }
}

/// The images that nothing leads to once `without` is gone: those it was built on, or any where there is none.
fn unreached(images: &[Built], without: Option<ImageId>) -> Vec<ImageId> {
    let removed = images.iter().find(|built| Some(built.image.id) == without);
    let stays: Vec<_> = images
        .iter()
        .filter(|built| built.in_use && Some(built.image.id) != without)
        .collect();
    images
        .iter()
        .filter(|built| !built.in_use && Some(built.image.id) != without)
        .filter(|built| removed.is_none_or(|removed| removed.is_on(built)))
        .filter(|built| !stays.iter().any(|child| child.is_on(built)))
        .map(|built| built.image.id)
        .collect()
}

/// What removing one image would be.
enum Meant {
    /// Only the name it was called by, for it has others.
    Name(ImageRecord, crate::ids::ImageRef),
    /// The image, and these that it was built on.
    Image(ImageRecord, Vec<ImageId>),
}

impl Pool {
    fn built_images(&self) -> Result<Vec<Built>, PoolError> {
        let catalogue = self.catalogue();
        let containers = catalogue.containers()?;
        let mut images = Vec::new();
        for (image, layers) in catalogue.images_with_layers()? {
            let config = match catalogue.image_config(image.id) {
                // Removed meanwhile, by somebody who may.
                Err(StoreError::ImageNotFound { .. }) => continue,
                config => ImageConfig::parse(config?, "its config"),
            };
            images.push(Built {
                in_use: !image.names.is_empty() || containers.iter().any(|c| c.image == image.id),
                layers: layers.iter().map(|layer| layer.volume.id).collect(),
                // One that cannot be read leads to nothing.
                history: config.map(|config| config.history).unwrap_or_default(),
                image,
            });
        }
        Ok(images)
    }

    fn meant_by(&self, image: &str, parents: Parents) -> Result<Meant, PoolError> {
        let record = self.catalogue().find_image(image)?;
        if let Some(name) = record.only_name_meant(image) {
            let name = name.clone();
            return Ok(Meant::Name(record, name));
        }
        let others = match parents {
            Parents::Keep => Vec::new(),
            Parents::Prune => unreached(&self.built_images()?, Some(record.id)),
        };
        Ok(Meant::Image(record, others))
    }

    /// Removes an image, with the layers nothing else needs; or only the name it was called by,
    /// where it has others.
    ///
    /// # Errors
    /// [`StoreError::ImageInUse`](crate::store::StoreError::ImageInUse) where containers stand on
    /// it: nothing was changed.
    pub fn remove_image(&self, image: &str, parents: Parents) -> Result<RemovedImage, PoolError> {
        let live = self.live()?;
        let (record, others) = match self.meant_by(image, parents)? {
            Meant::Image(record, others) => (record, others),
            Meant::Name(record, name) => {
                self.catalogue().untag(&name)?;
                Step::D8.passed(self.name());
                return Ok(RemovedImage {
                    id: record.config_digest,
                    names: vec![name],
                    removed: false,
                    parents: Vec::new(),
                    layers_removed: 0,
                });
            }
        };
        let removed = self.catalogue().remove_images(Some(record.id), &others)?;
        let layers_removed = live.finish_images(&removed)?;
        let mut ids = ids_of(&removed);
        ids.retain(|id| *id != record.config_digest);
        Ok(RemovedImage {
            id: record.config_digest,
            names: record.names,
            removed: true,
            parents: ids,
            layers_removed,
        })
    }

    /// Removes the images that nothing leads to: that have neither name nor container, and that no image
    /// was built on which stays.
    ///
    /// # Errors
    /// [`PoolError::PoolNotOpen`], [`PoolError::Store`].
    pub fn prune_images(&self) -> Result<PrunedImages, PoolError> {
        let live = self.live()?;
        let unreached = unreached(&self.built_images()?, None);
        let removed = self.catalogue().remove_images(None, &unreached)?;
        let layers_removed = live.finish_images(&removed)?;
        Ok(PrunedImages {
            images: ids_of(&removed),
            layers_removed,
        })
    }

    /// What [`Pool::remove_image`] would do.
    ///
    /// # Errors
    /// As of [`Pool::remove_image`], and as of [`Pool::plan_remove`].
    pub fn plan_remove_image(
        &self,
        image: &str,
        parents: Parents,
    ) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        match self.meant_by(image, parents)? {
            Meant::Name(_, name) => Ok(RemovalPlan {
                names: vec![name.to_string()],
                pool_bytes: Some(Bytes::ZERO),
                ..RemovalPlan::default()
            }),
            Meant::Image(record, others) => self.plan_images(&live, Some(record.id), &others),
        }
    }

    /// What [`Pool::prune_images`] would do.
    ///
    /// # Errors
    /// As of [`Pool::plan_remove`].
    pub fn plan_prune(&self) -> Result<RemovalPlan, PoolError> {
        let live = self.live()?;
        let unreached = unreached(&self.built_images()?, None);
        self.plan_images(&live, None, &unreached)
    }

    fn plan_images(
        &self,
        live: &Live<'_>,
        id: Option<ImageId>,
        others: &[ImageId],
    ) -> Result<RemovalPlan, PoolError> {
        let removed = self.catalogue().plan_images_removal(id, others)?;
        let mut plan = self.plan_volumes(live, &removed.volumes)?;
        plan.names = removed.images.iter().flat_map(told_names).collect();
        Ok(plan)
    }
}

fn ids_of(removed: &RemovedImages) -> Vec<Digest> {
    removed
        .images
        .iter()
        .map(|image| image.config_digest)
        .collect()
}

impl Live<'_> {
    /// Ends what the catalogue has promised.
    fn finish_images(&self, removed: &RemovedImages) -> Result<u64, PoolError> {
        if removed.images.is_empty() {
            return Ok(0);
        }
        Step::D1.passed(self.pool().name());
        let mut layers: u64 = 0;
        // Top down: a layer goes before the one it stands on.
        for volume in &removed.volumes {
            self.finish_removal(volume.id)?;
            layers = layers.saturating_add(1);
        }
        Ok(layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Timestamp;

    /// An image of these layers and steps.
    fn built(id: u64, layers: &[u64], steps: &[&str], in_use: bool) -> Built {
        let diff_ids = vec!["sha256:".to_owned() + &"0".repeat(64); layers.len()];
        let history: Vec<_> = steps
            .iter()
            .map(|step| serde_json::json!({"created_by": step}))
            .collect();
        let config = serde_json::json!({"architecture": "amd64", "os": "linux",
            "history": history, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = ImageConfig::parse(config.to_string().into_bytes(), "test").unwrap();
        Built {
            image: ImageRecord {
                id: ImageId::new(id),
                config_digest: config.digest,
                manifest_digest: None,
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
                created: None,
                imported_at: Timestamp::from_unix(0),
                names: Vec::new(),
            },
            layers: layers.iter().map(|layer| VolumeId::new(*layer)).collect(),
            history: config.history,
            in_use,
        }
    }

    fn ids(images: &[Built], without: Option<u64>) -> Vec<u64> {
        let gone = unreached(images, without.map(ImageId::new));
        gone.into_iter().map(ImageId::get).collect()
    }

    #[test]
    fn the_history_of_what_stays_is_kept() {
        let images = [
            built(1, &[1], &["a"], false),
            built(2, &[1, 2], &["a", "b"], false),
            // The same files, another command.
            built(3, &[1, 2], &["a", "b", "cmd"], true),
            built(4, &[1, 2, 4], &["a", "b", "cmd", "d"], false),
            built(5, &[1, 5], &["a", "e"], false),
        ];
        assert_eq!(ids(&images, None), [4, 5]);
        // With the one that kept them its parents go, and nothing that was built on it.
        assert_eq!(ids(&images, Some(3)), [1, 2]);
    }

    #[test]
    fn one_that_was_built_anew_keeps_none_of_its_like() {
        let images = [
            built(1, &[1], &["a", "old"], false),
            built(2, &[1], &["a", "new"], true),
            // Without histories the layers alone tell.
            built(3, &[7], &[], false),
            built(4, &[7, 8], &[], true),
        ];
        assert_eq!(ids(&images, None), [1]);
        assert_eq!(ids(&images, Some(2)), [0_u64; 0]);
        assert_eq!(ids(&images, Some(4)), [3]);
    }
}
