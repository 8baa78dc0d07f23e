//! Import of an image: each layer a snapshot of the one below, sealed when its digest is proven.
//!
//! Steps of a layer: intent in the catalogue; `create_snap` of the layer below; unpacked in a
//! detached mount; its digests proven; synced; its device gone; sealed. An image is recorded in one
//! transaction when all its layers are sealed. A failed import removes every layer it made; one that
//! was cut is cleared away by recovery, which waits for [`Locks::try_no_imports`] first.
//!
//! [`Locks::try_no_imports`]: crate::graph::locks::Locks::try_no_imports

use std::cell::RefCell;
use std::path::PathBuf;

use crate::backing::host_room;
use crate::fs::{DetachedMount, MountOptions};
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::pool::Pool;
use crate::graph::report::{Change, ImportEvent, ImportReport};
use crate::ids::{Digest, ImageRef, VolumeId};
use crate::image::{self, Archive, Control, ImageDescriptor, ImageError, LayerDescriptor, Spool};
use crate::store::{
    AddedImage, LayerRecord, NewImage, NewVolume, SealedLayer, StoreError, VolumeRecord,
};
use crate::units::Bytes;

/// Where an image comes from.
#[derive(Debug, Clone)]
pub enum ImportSource {
    /// An archive in a file or on a block device, or a directory with an OCI layout.
    File(PathBuf),
    /// An archive on standard input.
    Stdin,
}

/// What an import has made so far, and how to undo it.
struct Work<'a> {
    live: &'a Live<'a>,
    /// Layers made by this import and in no image yet, bottom first.
    made: Vec<VolumeRecord>,
    warnings: Vec<String>,
    bytes: Bytes,
}

impl Pool {
    /// Imports every image of an archive; `name` is given to the only one in place of its own names.
    ///
    /// # Errors
    /// [`PoolError::DataGuard`] and the like where there is little room; [`PoolError::Image`] and [`PoolError::Layer`] with what is wrong with the archive;
    /// [`PoolError::SeveralImages`] where `name` could mean several. One that failed left nothing
    /// behind.
    pub fn import(
        &self,
        source: &ImportSource,
        name: Option<&ImageRef>,
        events: &mut dyn FnMut(ImportEvent),
    ) -> Result<Vec<ImportReport>, PoolError> {
        let live = self.live()?;
        live.admit()?;
        // Where the pool is there is room for an image, or there is none for its layers either:
        // half of it each.
        let dir = self.host().layout().pool_dir(self.name());
        let limit = Bytes::new(host_room(&dir)?.free.get() / 2);
        let (archive, images) = open_archive(source, &Spool { dir: &dir, limit })?;
        if name.is_some() && images.len() > 1 {
            return Err(PoolError::SeveralImages {
                count: images.len(),
            });
        }
        let _imports = self.locks().share_imports()?;
        let reports = images
            .iter()
            .map(|image| self.import_image(&live, &archive, image, name, events))
            .collect();
        if let Err(error) = self.copy_catalogue(live.record(), false) {
            tracing::warn!(%error, "the catalogue's copy on the disk is not up to date");
        }
        reports
    }

    fn import_image(
        &self,
        live: &Live<'_>,
        archive: &Archive,
        image: &ImageDescriptor,
        name: Option<&ImageRef>,
        events: &mut dyn FnMut(ImportEvent),
    ) -> Result<ImportReport, PoolError> {
        let mut work = Work {
            live,
            made: Vec::new(),
            warnings: Vec::new(),
            bytes: Bytes::ZERO,
        };
        match self.import_layers(&mut work, archive, image, name, events) {
            Ok(report) => Ok(report),
            Err(error) => {
                let undo = work.undo();
                Err(error.with_undo(undo))
            }
        }
    }

    fn import_layers(
        &self,
        work: &mut Work<'_>,
        archive: &Archive,
        image: &ImageDescriptor,
        name: Option<&ImageRef>,
        events: &mut dyn FnMut(ImportEvent),
    ) -> Result<ImportReport, PoolError> {
        let nr_layers = count(image.layers.len());
        events(ImportEvent::Image {
            id: image.config.digest,
            layers: nr_layers,
        });
        let record = work.live.record();
        let mut below = work
            .live
            .ensure_base(record.fs, record.base_size, &record.mkfs_args)?;
        let mut chain: Option<Digest> = None;
        let mut layers: Vec<VolumeId> = Vec::new();
        let (mut shared, mut new) = (0_u64, 0_u64);
        for (index, layer) in (1..).zip(&image.layers) {
            let parent_chain = chain;
            let chain_id = image::chain_id(parent_chain, layer.diff_id);
            chain = Some(chain_id);
            let known = self.catalogue().layer_by_chain(&chain_id)?;
            below = match known {
                Some(SealedLayer { volume, .. }) => {
                    events(ImportEvent::Shared {
                        index,
                        diff_id: layer.diff_id,
                    });
                    shared = shared.saturating_add(1);
                    volume
                }
                None => {
                    let key = LayerKey {
                        chain_id,
                        parent_chain,
                        index,
                        nr_layers,
                    };
                    new = new.saturating_add(1);
                    work.unpack(archive, layer, &below, &key, events)?
                }
            };
            layers.push(below.id);
        }
        let names = name.map_or_else(|| image.names.clone(), |name| vec![name.clone()]);
        let added = self.catalogue().add_image(&NewImage {
            config_digest: image.config.digest,
            manifest_digest: image.manifest,
            config: image.config.json.clone(),
            architecture: image.config.platform.architecture.clone(),
            os: image.config.platform.os.clone(),
            created: image.config.created.clone(),
            layers,
            names,
        })?;
        let image_record = self.catalogue().image(added.id())?;
        Ok(ImportReport {
            id: image_record.config_digest,
            names: image_record.names,
            change: match added {
                AddedImage::Created(_) => Change::Changed,
                AddedImage::Existing(_) => Change::Unchanged,
            },
            layers_new: new,
            layers_shared: shared,
            bytes: work.bytes,
            warnings: std::mem::take(&mut work.warnings),
        })
    }
}

/// Which layer of which stack.
struct LayerKey {
    chain_id: Digest,
    parent_chain: Option<Digest>,
    index: u64,
    nr_layers: u64,
}

impl Work<'_> {
    /// Makes the volume of one layer and seals it.
    fn unpack(
        &mut self,
        archive: &Archive,
        layer: &LayerDescriptor,
        below: &VolumeRecord,
        key: &LayerKey,
        events: &mut dyn FnMut(ImportEvent),
    ) -> Result<VolumeRecord, PoolError> {
        events(ImportEvent::Layer {
            index: key.index,
            diff_id: layer.diff_id,
            size: layer.size,
        });
        let catalogue = self.live.pool().catalogue();
        self.live.admit()?;
        let volume = catalogue.begin_volume(NewVolume::Layer {
            parent: below.id,
            // The layer below may be of a time when the base was smaller.
            size: self.live.record().base_size.max(below.size),
        })?;
        self.made.push(volume.clone());
        self.live.require_kept(Bytes::ZERO)?;
        let volume = self.live.snapshot(&volume, below)?;
        let device = self.live.activate_internal(&volume)?;
        let mount = DetachedMount::new(volume.fs, device.node(), &MountOptions::default())?;
        Live::grow_mounted(&mount, &volume, below)?;
        let tell = RefCell::new((&mut *events, Bytes::ZERO));
        let progress = |more: Bytes| {
            let (events, done) = &mut *tell.borrow_mut();
            *done = done.saturating_add(more);
            events(ImportEvent::Progress { done: *done });
        };
        let control = Control::default().with_progress(&progress);
        let applied = archive
            .apply_layer(layer, mount.root(), &control)
            .map_err(|source| PoolError::Layer {
                index: key.index,
                layers: key.nr_layers,
                diff_id: layer.diff_id,
                source,
            })?;
        // The unmount writes back and syncs; sync first, so that an error of it is heard.
        mount.sync()?;
        mount.close()?;
        self.live.measure(&volume)?;
        self.live.deactivate(&volume)?;
        let tar_bytes = Bytes::new(applied.tar_bytes);
        let sealed = catalogue.seal_layer(
            volume.id,
            &LayerRecord {
                chain_id: key.chain_id,
                diff_id: layer.diff_id,
                parent_chain: key.parent_chain,
                tar_bytes,
                nr_entries: applied.entries,
            },
        );
        self.bytes = self.bytes.saturating_add(tar_bytes);
        self.warnings
            .extend(applied.skipped_xattrs.iter().map(|(name, files)| {
                format!("layer {}: {files} files without xattr {name}", key.index)
            }));
        match sealed {
            Ok(()) => {
                events(ImportEvent::Sealed {
                    diff_id: layer.diff_id,
                    size: tar_bytes,
                    entries: applied.entries,
                });
                Ok(catalogue.volume(volume.id)?)
            }
            // Another import was faster with the same layer: its volume serves as well.
            Err(StoreError::LayerExists { volume: theirs, .. }) => {
                self.made.pop();
                self.live.discard_layer(&volume)?;
                Ok(catalogue.volume(theirs)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what this import made, top down.
    fn undo(&mut self) -> Result<(), PoolError> {
        while let Some(volume) = self.made.pop() {
            match self.live.discard_layer(&volume) {
                // Another import built on it meanwhile: it stays, as that one's.
                Err(PoolError::Store(StoreError::InUse { .. })) => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// The archive with the images in it; what is wrong with it is told with its name.
fn open_archive(
    source: &ImportSource,
    spool: &Spool<'_>,
) -> Result<(Archive, Vec<ImageDescriptor>), PoolError> {
    let opened = match source {
        ImportSource::File(path) => Archive::open(path, spool),
        ImportSource::Stdin => Archive::open_stream(std::io::stdin().lock(), spool),
    };
    opened
        .and_then(|archive| {
            let images = archive.images(None)?;
            Ok((archive, images))
        })
        .map_err(|error| match (source, error) {
            // These name the file themselves.
            (
                _,
                error @ (ImageError::Read { .. }
                | ImageError::Spool { .. }
                | ImageError::SpoolLimit { .. }),
            ) => error.into(),
            (ImportSource::File(path), source) => PoolError::Archive {
                name: path.display().to_string(),
                source,
            },
            (ImportSource::Stdin, source) => PoolError::Archive {
                name: "standard input".to_owned(),
                source,
            },
        })
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
