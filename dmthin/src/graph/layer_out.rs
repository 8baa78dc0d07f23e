//! Layers out: a sealed layer's tar, and whether the layer is what it was when it was sealed.
//!
//! A layer that is read has its device, under the name it had when it was made, and a detached mount; nothing
//! can be written through either. Its volume's lock is held: who reads, removes or reads it too waits. What a
//! kill leaves is a device that nobody has open, which the next reader takes and takes away; a volume that is
//! removed and a pool that is closed take theirs along.

use std::io::Write;
use std::os::fd::BorrowedFd;

use serde::Serialize;

use crate::delta;
use crate::fs::{DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::ids::{Digest, VolumeId};
use crate::image::{self, ImageError, LayerWritten};
use crate::store::{SealedLayer, StoreError, VolumeRecord};

/// How a layer's tar was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerTar {
    /// It is the very tar that was imported.
    Rebuilt,
    /// There was no record of that: written from the layer's files. It gives the same tree; its digest is the
    /// layer's only where both writers think alike.
    Written(LayerWritten),
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerVerdict {
    /// Every file gives the bytes that its digest promises.
    Whole,
    /// It does not.
    Changed,
    /// There is no record to read it by.
    NoRecord,
    /// The record itself is damaged.
    BadRecord,
}

/// A layer that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerCheck {
    /// Digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Its volume in the catalogue.
    pub volume: VolumeId,
    /// What was found.
    pub verdict: LayerVerdict,
    /// Files that are not as they were, from the layer's root. Empty where the layer is another all the
    /// same: then it is one whose name the tar has more than once.
    pub changed: Vec<String>,
}

impl Live<'_> {
    /// Has `work` look into a volume that nobody changes.
    fn with_root<T>(
        &self,
        volume: &VolumeRecord,
        work: impl FnOnce(BorrowedFd<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        let _lock = self.pool().locks().volume(volume.id)?;
        // It may have gone while we waited.
        let volume = self.pool().catalogue().volume(volume.id)?;
        if volume.state != crate::store::VolumeState::Ready {
            return Err(StoreError::VolumeNotFound { id: volume.id }.into());
        }
        let result = self.read_root(&volume, work);
        // One that is mounted somewhere keeps its device.
        let undo = match self.is_open(&volume) {
            Ok(false) => self.deactivate(&volume),
            open => open.map(drop),
        };
        match result {
            Ok(value) => undo.map(|()| value),
            Err(error) => Err(error.with_undo(undo)),
        }
    }

    fn read_root<T>(
        &self,
        volume: &VolumeRecord,
        work: impl FnOnce(BorrowedFd<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        let device = self.activate_to_read(volume)?;
        let options = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        let mount = DetachedMount::new(volume.fs, device.node(), &options)?;
        let value = work(mount.root());
        mount.close()?;
        value
    }
}

impl Pool {
    fn sealed(&self, chain_id: &Digest) -> Result<SealedLayer, PoolError> {
        self.catalogue()
            .layer_by_chain(chain_id)?
            .ok_or(PoolError::LayerNotFound {
                chain_id: *chain_id,
            })
    }

    /// Writes the tar of a sealed layer to `out`: the one it was imported as, or, where there is no record of
    /// that, one that is written from `changes`, which is all that differs between it and the volume below.
    ///
    /// # Errors
    /// [`PoolError::LayerNotFound`]; [`PoolError::LayerNotRecorded`] where there is neither a record nor changes;
    /// [`PoolError::Image`] with [`ImageError::LayerChanged`] or [`ImageError::DigestMismatch`] of a layer that
    /// is damaged, with [`ImageError::Write`] from `out`. What was written is then of no use.
    pub fn write_layer_tar(
        &self,
        chain_id: &Digest,
        changes: Option<&[delta::Change]>,
        out: &mut dyn Write,
    ) -> Result<LayerTar, PoolError> {
        let live = self.live()?;
        let layer = self.sealed(chain_id)?;
        let diff_id = layer.layer.diff_id;
        if let Some(split) = self.open_split(layer.volume.id)? {
            return live.with_root(&layer.volume, |root| {
                image::rebuild_layer(&split, root, diff_id, out)?;
                Ok(LayerTar::Rebuilt)
            });
        }
        let changes = changes.ok_or(PoolError::LayerNotRecorded { diff_id })?;
        let below = live.parent(&layer.volume)?;
        live.with_root(&layer.volume, |newer| {
            live.with_root(&below, |older| {
                let written = image::write_layer(changes, newer, Some(older), out)?;
                Ok(LayerTar::Written(written))
            })
        })
    }

    /// Reads the files of an image's layers, or of all layers, bottom first, and compares them with what
    /// they were.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`]; where a layer cannot be read at all. What is wrong with a layer is in the
    /// answer.
    pub fn verify_layers(&self, image: Option<&str>) -> Result<Vec<LayerCheck>, PoolError> {
        let live = self.live()?;
        let layers = match image {
            Some(image) => {
                let record = self.catalogue().find_image(image)?;
                self.catalogue().image_layers(record.id)?
            }
            None => self.catalogue().layers()?,
        };
        let mut checks = Vec::new();
        for layer in layers {
            match live.verify(&layer) {
                // Removed meanwhile, by somebody who may.
                Err(PoolError::Store(StoreError::VolumeNotFound { .. })) if image.is_none() => {}
                check => checks.push(check?),
            }
        }
        Ok(checks)
    }
}

/// That none of the layers is another than it was, or has a record that is.
///
/// # Errors
/// [`PoolError::LayersChanged`].
pub fn require_whole(layers: &[LayerCheck]) -> Result<(), PoolError> {
    let is_bad = |layer: &&LayerCheck| {
        matches!(
            layer.verdict,
            LayerVerdict::Changed | LayerVerdict::BadRecord
        )
    };
    match layers.iter().filter(is_bad).count() {
        0 => Ok(()),
        count => Err(PoolError::LayersChanged { count }),
    }
}

impl Live<'_> {
    fn verify(&self, layer: &SealedLayer) -> Result<LayerCheck, PoolError> {
        let diff_id = layer.layer.diff_id;
        let check = |verdict, changed| LayerCheck {
            diff_id,
            volume: layer.volume.id,
            verdict,
            changed,
        };
        let Some(split) = self.pool().open_split(layer.volume.id)? else {
            return Ok(check(LayerVerdict::NoRecord, Vec::new()));
        };
        let found = self.with_root(&layer.volume, |root| {
            Ok(image::verify_layer(&split, root, diff_id))
        })?;
        match found {
            Ok(changed) if changed.is_empty() => Ok(check(LayerVerdict::Whole, Vec::new())),
            Ok(changed) => {
                let changed = changed.iter();
                let paths = changed.map(|path| path.to_string_lossy().into_owned());
                Ok(check(LayerVerdict::Changed, paths.collect()))
            }
            Err(ImageError::DigestMismatch { .. }) => Ok(check(LayerVerdict::Changed, Vec::new())),
            Err(ImageError::BadSplit(_)) => Ok(check(LayerVerdict::BadRecord, Vec::new())),
            Err(error) => Err(error.into()),
        }
    }
}
