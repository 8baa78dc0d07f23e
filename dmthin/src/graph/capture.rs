//! An image of what a container holds: `container commit`.
//!
//! A private snapshot of the container becomes the volume of the new layer: nothing is copied, and nothing is
//! written but what mounting it takes. What it has changed of the layer below is found, and its tar summed for the digests
//! that the layer goes by; the tar itself is kept nowhere, but what gives it back is, as at an import. The layer is sealed with its image and the name in one transaction: one that was cut leaves a
//! layer in state `creating`, which recovery removes.

use crate::fs::{DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::{Freeze, Live};
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::report::{Change, CommitReport, WrittenLayer};
use crate::graph::step::Step;
use crate::ids::{ContainerName, Digest, ImageRef, VolumeId};
use crate::image::{
    self, ChildConfig, ConfigChange, EMPTY_LAYER, ImageConfig, LayerWritten, Platform, bare_config,
};
use crate::store::{
    AddedImage, ImageRecord, LayerRecord, NewImage, NewVolume, SealedLayer, StoreError, Timestamp,
    VolumeRecord,
};

/// What is said of a new image.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Its name, which is taken from the image that has it.
    pub name: Option<ImageRef>,
    /// A remark in its history.
    pub message: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What it runs differently, in this order.
    pub changes: Vec<ConfigChange>,
    /// When it is made: the same change at the same time is the same image.
    pub created: Timestamp,
}

/// The image that a new one is made of.
#[derive(Debug)]
pub(crate) struct Parent {
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<SealedLayer>,
}

impl Parent {
    pub(crate) fn of(pool: &Pool, image: &ImageRecord) -> Result<Self, PoolError> {
        Ok(Self {
            name: image.config_digest.to_string(),
            config: pool.catalogue().image_config(image.id)?,
            layers: pool.catalogue().image_layers(image.id)?,
        })
    }

    /// These layers, of which no image tells more.
    pub(crate) fn bare(name: &str, layers: Vec<SealedLayer>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.layer.diff_id).collect();
        Self {
            name: name.to_owned(),
            config: bare_config(&Platform::host(), &diff_ids),
            layers,
        }
    }

    pub(crate) fn chain(&self) -> Option<Digest> {
        self.layers.last().map(|top| top.layer.chain_id)
    }

    /// The image that this one is with a layer, or without one, more.
    pub(crate) fn child(
        &self,
        commit: &Commit,
        created_by: &str,
        diff_id: Option<Digest>,
    ) -> Result<NewImage, PoolError> {
        let created = commit.created.to_string();
        let child = ChildConfig {
            diff_id,
            created: &created,
            created_by: Some(created_by),
            author: commit.author.as_deref(),
            comment: commit.message.as_deref(),
            changes: &commit.changes,
        };
        let config = ImageConfig::parse(child.of(&self.config, &self.name)?, &self.name)?;
        Ok(NewImage {
            config_digest: config.digest,
            manifest_digest: None,
            config: config.json,
            architecture: config.platform.architecture,
            os: config.platform.os,
            created: config.created,
            layers: self.layers.iter().map(|layer| layer.volume.id).collect(),
            names: commit.name.iter().cloned().collect(),
        })
    }
}

/// A layer's volume that is whole, and what it is sealed as.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) volume: VolumeRecord,
    pub(crate) layer: LayerRecord,
}

impl Pool {
    /// Makes an image of what a container holds, in use or not: its image with one layer more, or with a
    /// step of history alone where no file changed, as Docker does. A mounted container is frozen for
    /// the moment that a snapshot takes, so that all is in it that was written; with [`Freeze::No`] it goes
    /// on: what was written before is synced, and of what is written meanwhile the image has what a power cut at
    /// that moment would have left.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`PoolError::ContainerHalfMade`]; [`PoolError::ContainerBusy`] while it
    /// is held until the pool has room; [`PoolError::Image`] for instructions that cannot be followed;
    /// [`GuardError::Data`](crate::graph::GuardError::Data) and the like. One that failed left nothing behind.
    pub fn commit_container(
        &self,
        name: &ContainerName,
        freeze: Freeze,
        commit: &Commit,
    ) -> Result<CommitReport, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let (lock, record) = self.lock_container(name)?;
        self.require_ready(name, &record.volume)?;
        self.require_going(name, &record.volume)?;
        let parent = Parent::of(self, &self.catalogue().image(record.image)?)?;
        let created_by = format!("container commit {name}");
        // What is wrong with the instructions is told before anything is done.
        parent.child(commit, &created_by, None)?;
        let below = parent.layers.last().ok_or_else(|| StoreError::ImageEmpty {
            config_digest: image::digest_of(&parent.config),
        })?;
        let volume = self.catalogue().begin_volume(NewVolume::Layer {
            parent: below.volume.id,
            size: record.volume.size,
        })?;
        Step::P1.passed_for(self.name(), volume.id);
        let _own = self.locks().volume(volume.id)?;
        let captured = live
            .capture(&volume, &record.volume, freeze, || drop(lock))
            .and_then(|volume| live.sum_layer(&below.volume, volume, parent.chain()));
        let (whole, written) = match captured {
            Ok(captured) => captured,
            Err(error) => return Err(error.with_undo(live.discard_volume(&volume))),
        };
        let mut report = live.record_image(&parent, commit, &created_by, whole)?;
        report.warnings = WrittenLayer::new(&written).warnings;
        Ok(report)
    }
}

impl Live<'_> {
    /// Steps P2 and P3: a snapshot of the container with a file system that is clean. `taken` is called once the
    /// container is no longer needed.
    fn capture(
        &self,
        volume: &VolumeRecord,
        origin: &VolumeRecord,
        freeze: Freeze,
        taken: impl FnOnce(),
    ) -> Result<VolumeRecord, PoolError> {
        self.require_kept(crate::units::Bytes::ZERO)?;
        let volume = self.snapshot_as(volume, origin, freeze)?;
        taken();
        let passed = |step: Step| step.passed_for(self.pool().name(), volume.id);
        passed(Step::P2);
        let device = self.activate_internal(&volume)?;
        // Replays the journal of one that was not frozen, and lets go what was open and has no name.
        DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?.close()?;
        passed(Step::P3);
        Ok(volume)
    }

    /// Steps P4 and P5: what the volume has changed of the layer below, summed as a tar.
    fn sum_layer(
        &self,
        below: &VolumeRecord,
        volume: VolumeRecord,
        parent_chain: Option<Digest>,
    ) -> Result<(Whole, LayerWritten), PoolError> {
        let split = self.pool().begin_split(volume.id)?;
        let written = self.sum_own_layer(below, &volume, &split)?;
        self.measure(&volume)?;
        self.deactivate(&volume)?;
        Step::P4.passed_for(self.pool().name(), volume.id);
        self.pool().keep_split(volume.id, &split)?;
        Step::P5.passed_for(self.pool().name(), volume.id);
        let layer = LayerRecord {
            chain_id: image::chain_id(parent_chain, written.diff_id),
            diff_id: written.diff_id,
            parent_chain,
            tar_bytes: written.tar_bytes,
            nr_entries: written.entries,
        };
        Ok((Whole { volume, layer }, written))
    }

    /// Step P6: the layer sealed, its image and name recorded. A layer that is there already serves as well, one
    /// of nothing is left out; the volume, of which the caller has the lock, goes then.
    pub(crate) fn record_image(
        &self,
        parent: &Parent,
        commit: &Commit,
        created_by: &str,
        whole: Whole,
    ) -> Result<CommitReport, PoolError> {
        let Whole { volume, layer } = whole;
        let is_empty = layer.diff_id == EMPTY_LAYER;
        let record = || -> Result<(AddedImage, Option<VolumeId>), PoolError> {
            let catalogue = self.pool().catalogue();
            let mut new = parent.child(commit, created_by, (!is_empty).then_some(layer.diff_id))?;
            let there = match is_empty {
                true => None,
                false => match catalogue.seal_image(volume.id, &layer, &new) {
                    Ok(added) => return Ok((added, Some(volume.id))),
                    Err(StoreError::LayerExists { volume, .. }) => Some(volume),
                    Err(error) => return Err(error.into()),
                },
            };
            new.layers.extend(there);
            Ok((catalogue.add_image(&new)?, None))
        };
        let recorded = record();
        let passed = |step: Step| step.passed_for(self.pool().name(), volume.id);
        let (added, sealed) = match recorded {
            Ok(recorded) => recorded,
            Err(error) => return Err(error.with_undo(self.discard_volume(&volume))),
        };
        passed(Step::P6);
        // Nothing but its own row tells an image from layers of none.
        self.mirror(Flush::Yes);
        if sealed.is_none()
            && let Err(error) = self.discard_volume(&volume)
        {
            // The image is there all the same; recovery removes what is left.
            tracing::warn!(volume = %volume.id, %error, "a volume that is not needed stays");
        }
        let image = self.pool().catalogue().image(added.id())?;
        Ok(CommitReport {
            id: image.config_digest,
            names: image.names,
            change: match added {
                AddedImage::Created(_) => Change::Changed,
                AddedImage::Existing(_) => Change::Unchanged,
            },
            chain_id: match is_empty {
                true => parent.chain(),
                false => Some(layer.chain_id),
            },
            diff_id: (!is_empty).then_some(layer.diff_id),
            shared: !is_empty && sealed.is_none(),
            size: layer.tar_bytes,
            entries: layer.nr_entries,
            warnings: Vec::new(),
        })
    }
}
