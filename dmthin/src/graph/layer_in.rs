//! A layer's tar on top of a layer: `layer apply`. The result is an image, so that something leads to it.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::fs::{DetachedMount, MountOptions};
use crate::graph::capture::{Commit, Parent, Whole};
use crate::graph::error::PoolError;
use crate::graph::import::{ImportSource, told};
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::CommitReport;
use crate::graph::step::Step;
use crate::ids::ImageRef;
use crate::image::{self, Applied, Control, ImageError, LooseLayer, Platform, bare_config};
use crate::store::{LayerRecord, NewImage, NewVolume, SealedLayer, StoreError, VolumeRecord};
use crate::units::Bytes;

/// What made such a layer, in its image's history.
const CREATED_BY: &str = "layer apply";

/// What stands for no layer below, as in a Dockerfile, unless an image is called so.
const SCRATCH: &str = "scratch";

impl Live<'_> {
    /// The base that layers without a parent stand on.
    pub(crate) fn own_base(&self) -> Result<VolumeRecord, PoolError> {
        let record = self.record();
        self.ensure_base(record.fs, record.base_size, &record.mkfs_args)
    }

    /// Makes the volume of a layer that is still to be sealed: steps I1 to I5. `made` is told of it as soon as it
    /// has to be undone; `apply` fills it.
    pub(crate) fn fill_layer(
        &self,
        below: &VolumeRecord,
        made: impl FnOnce(&VolumeRecord),
        apply: impl FnOnce(BorrowedFd<'_>, &File) -> Result<Applied, PoolError>,
    ) -> Result<(VolumeRecord, Applied), PoolError> {
        self.admit()?;
        let pool = self.pool();
        let volume = pool.catalogue().begin_volume(NewVolume::Layer {
            parent: below.id,
            // The layer below may be of a time when the base was smaller.
            size: self.record().base_size.max(below.size),
        })?;
        let passed = |step: Step| step.passed_for(pool.name(), volume.id);
        passed(Step::I1);
        made(&volume);
        self.require_kept(Bytes::ZERO)?;
        let volume = self.snapshot(&volume, below)?;
        passed(Step::I2);
        let device = self.activate_internal(&volume)?;
        let mount = DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?;
        Live::grow_mounted(&mount, &volume, below)?;
        let split = pool.begin_split(volume.id)?;
        let applied = apply(mount.root(), &split)?;
        passed(Step::I3);
        // The unmount writes back and syncs; sync first, so that an error of it is heard.
        mount.sync()?;
        mount.close()?;
        self.measure(&volume)?;
        self.deactivate(&volume)?;
        passed(Step::I4);
        pool.keep_split(volume.id, &split)?;
        passed(Step::I5);
        Ok((volume, applied))
    }
}

impl Pool {
    /// Applies a layer's tar to a layer, and makes an image of the result: that of the layer below with one
    /// layer more, or one of which nothing else is known. `below` is meant as [`Pool::layer`] takes it, is
    /// an image without layers, or `scratch` for none.
    ///
    /// # Errors
    /// [`StoreError::LayerNotFound`]; [`PoolError::Archive`] with what is wrong with the tar;
    /// [`GuardError::Data`](crate::graph::GuardError::Data) and the like. One that failed left nothing behind.
    pub fn apply_layer(
        &self,
        below: &str,
        source: &ImportSource,
        commit: &Commit,
    ) -> Result<CommitReport, PoolError> {
        let layer = self.with_spool(|spool| match source {
            ImportSource::File(path) => LooseLayer::open(path, spool),
            ImportSource::Stdin => LooseLayer::open_stream(std::io::stdin().lock(), spool),
        })?;
        self.apply_loose(below, &layer.map_err(source.told())?, source.told(), commit)
    }

    /// As [`apply_layer`](Self::apply_layer), of what is read.
    ///
    /// # Errors
    /// As of [`apply_layer`](Self::apply_layer).
    pub fn apply_layer_from(
        &self,
        below: &str,
        tar: impl Read,
        commit: &Commit,
    ) -> Result<CommitReport, PoolError> {
        let wrong = told("the stream".to_owned());
        let layer = self.with_spool(|spool| LooseLayer::open_stream(tar, spool))?;
        self.apply_loose(below, &layer.map_err(&wrong)?, wrong, commit)
    }

    fn apply_loose(
        &self,
        below: &str,
        tar: &LooseLayer,
        wrong: impl Fn(ImageError) -> PoolError,
        commit: &Commit,
    ) -> Result<CommitReport, PoolError> {
        let live = self.live()?;
        let parent = self.parent_meant(below)?;
        // What is wrong with the instructions is told before anything is done.
        parent.child(commit, CREATED_BY, None)?;
        let volume = match parent.layers.last() {
            Some(top) => top.volume.clone(),
            None => live.own_base()?,
        };
        let mut made = None;
        let filled = live.fill_layer(
            &volume,
            |volume| made = Some(volume.clone()),
            |root, split| {
                tar.apply_recorded(root, &Control::default(), split)
                    .map_err(wrong)
            },
        );
        let (volume, applied) = match (filled, made) {
            (Ok(filled), _) => filled,
            (Err(error), None) => return Err(error),
            (Err(error), Some(made)) => return Err(error.with_undo(live.discard_layer(&made))),
        };
        let _own = match self.locks().volume(volume.id) {
            Ok(lock) => lock,
            Err(error) => return Err(error.with_undo(live.discard_volume(&volume))),
        };
        let layer = LayerRecord {
            chain_id: image::chain_id(parent.chain(), tar.diff_id()),
            diff_id: tar.diff_id(),
            parent_chain: parent.chain(),
            tar_bytes: Bytes::new(applied.tar_bytes),
            nr_entries: applied.entries,
        };
        let mut report = live.record_image(&parent, commit, CREATED_BY, Whole { volume, layer })?;
        report.warnings = applied
            .skipped_xattrs
            .iter()
            .map(|(name, files)| format!("{files} files without xattr {name}"))
            .collect();
        Ok(report)
    }

    /// Records an image without layers under a name.
    pub(crate) fn add_bare_image(&self, name: &ImageRef) -> Result<(), PoolError> {
        let _live = self.live()?;
        let platform = Platform::host();
        let config = bare_config(&platform, &[]);
        self.catalogue().add_image(&NewImage {
            config_digest: image::digest_of(&config),
            manifest_digest: None,
            config,
            architecture: platform.architecture,
            os: platform.os,
            created: None,
            layers: Vec::new(),
            names: vec![name.clone()],
        })?;
        Step::U1.passed(self.name());
        Ok(())
    }

    /// Mounts a layer on a directory, read-only. It keeps its device until [`unmount_layer`](Self::unmount_layer).
    ///
    /// # Errors
    /// [`StoreError::LayerNotFound`], [`PoolError::NotADirectory`], [`PoolError::Fs`].
    pub fn mount_layer(&self, layer: &str, dir: &Path) -> Result<(), PoolError> {
        let live = self.live()?;
        let id = self.catalogue().find_layer(layer)?.volume.id;
        let _lock = self.locks().volume(id)?;
        // It may have been removed while the lock was waited for.
        let volume = self.catalogue().find_layer(layer)?.volume;
        if !dir.is_dir() {
            return Err(PoolError::NotADirectory {
                path: dir.to_owned(),
            });
        }
        let device = live.activate_to_read(&volume)?;
        let options = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        Ok(DetachedMount::new(volume.fs, device.node(), &options)?.attach(dir)?)
    }

    /// Unmounts a layer wherever it is mounted, and takes its device away. Gives the places.
    ///
    /// # Errors
    /// [`StoreError::LayerNotFound`]; [`PoolError::Fs`] where a place is in use.
    pub fn unmount_layer(&self, layer: &str) -> Result<Vec<PathBuf>, PoolError> {
        let live = self.live()?;
        let volume = self.catalogue().find_layer(layer)?.volume;
        let _lock = self.locks().volume(volume.id)?;
        let Some(device) = self.volume_device(&volume)? else {
            return Ok(Vec::new());
        };
        let mounts = self.unmount_all(device.dev)?;
        live.deactivate(&volume)?;
        Ok(mounts)
    }

    /// The image that is meant, or one of the layer that is meant.
    fn parent_meant(&self, text: &str) -> Result<Parent, PoolError> {
        let catalogue = self.catalogue();
        match catalogue.find_image(text) {
            Ok(image) => return Parent::of(self, &image),
            Err(StoreError::ImageNotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if text == SCRATCH {
            return Ok(Parent::bare(text, Vec::new()));
        }
        let top = catalogue.find_layer(text)?;
        let chain = top.layer.chain_id;
        for (image, layers) in catalogue.images_with_layers()? {
            if layers.last().is_some_and(|top| top.layer.chain_id == chain) {
                match Parent::of(self, &image) {
                    // Removed meanwhile, by somebody who may.
                    Err(PoolError::Store(StoreError::ImageNotFound { .. })) => {}
                    parent => return parent,
                }
            }
        }
        let mut layers: Vec<SealedLayer> = Vec::new();
        let mut next = Some(top);
        while let Some(layer) = next {
            next = match layer.layer.parent_chain {
                Some(chain) => catalogue.layer_by_chain(&chain)?,
                None => None,
            };
            layers.push(layer);
        }
        layers.reverse();
        Ok(Parent::bare(text, layers))
    }
}
