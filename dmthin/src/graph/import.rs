//! Import of an image: each layer a snapshot of the one below, sealed when its digest is proven.
//!
//! Steps of a layer: intent in the catalogue; `create_snap` of the layer below; unpacked in a
//! detached mount; its digests proven; synced; its device gone; what gives its tar back kept; sealed. An image is recorded in one
//! transaction when all its layers are sealed. A failed import removes every layer it made; one that
//! was cut is cleared away by recovery, which waits for [`Locks::try_no_imports`] first.
//!
//! [`Locks::try_no_imports`]: crate::graph::locks::Locks::try_no_imports

use std::cell::RefCell;
use std::path::PathBuf;
use std::thread;

use crate::backing::host_room;
use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::graph::mirror::Flush;
use crate::graph::pool::Pool;
use crate::graph::report::{Change, ImportEvent, ImportReport};
use crate::graph::step::Step;
use crate::ids::{Digest, ImageRef, VolumeId};
use crate::image::{
    self, Ahead, Archive, Control, ImageDescriptor, ImageError, LayerDescriptor, Spool,
};
use crate::store::{AddedImage, LayerRecord, NewImage, SealedLayer, StoreError, VolumeRecord};
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
struct Work<'a, 'scope> {
    live: &'a Live<'a>,
    archive: &'a Archive,
    /// Layers that are read while an earlier one is applied.
    ahead: Ahead<'scope, 'a>,
    /// Layers made by this import and in no image yet, bottom first.
    made: Vec<VolumeRecord>,
    warnings: Vec<String>,
    bytes: Bytes,
}

impl Pool {
    /// Imports every image of an archive; `name` is given to the only one in place of its own names.
    ///
    /// # Errors
    /// [`GuardError::Data`](crate::graph::GuardError::Data) and the like where there is little room; [`PoolError::Image`] and [`PoolError::Layer`] with what is wrong with the archive;
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
        let (archive, images) = self.with_spool(|spool| open_archive(source, spool))??;
        if name.is_some() && images.len() > 1 {
            return Err(PoolError::SeveralImages {
                count: images.len(),
            });
        }
        let _imports = self.locks().share_imports()?;
        // What is not there is told before anything is made; of layers that are in the pool none needs to be.
        for layer in self.absent_layers(&images)? {
            archive.layer_blob(&layer).map_err(source.told())?;
        }
        let reports = images
            .iter()
            .map(|image| self.import_image(&live, &archive, image, name, events))
            .collect();
        live.mirror(Flush::Yes);
        if let Err(error) = self.copy_catalogue(live.record(), false) {
            tracing::warn!(%error, "the catalogue's copy on the disk is not up to date");
        }
        reports
    }

    /// The layers of images that are not in the pool, in their order.
    fn absent_layers(&self, images: &[ImageDescriptor]) -> Result<Vec<LayerDescriptor>, PoolError> {
        let mut absent = Vec::new();
        for image in images {
            let mut chain = None;
            for layer in &image.layers {
                let chain_id = image::chain_id(chain, layer.diff_id);
                chain = Some(chain_id);
                if self.catalogue().layer_by_chain(&chain_id)?.is_none() {
                    absent.push(layer.clone());
                }
            }
        }
        Ok(absent)
    }

    /// Where a stream can be copied to.
    pub(crate) fn with_spool<T>(&self, work: impl FnOnce(&Spool<'_>) -> T) -> Result<T, PoolError> {
        // Where the pool is there is room for an image, or there is none for its layers either:
        // half of it each.
        let dir = self.host().layout().pool_dir(self.name());
        let limit = Bytes::new(host_room(&dir)?.free.get() / 2);
        Ok(work(&Spool { dir: &dir, limit }))
    }

    fn import_image(
        &self,
        live: &Live<'_>,
        archive: &Archive,
        image: &ImageDescriptor,
        name: Option<&ImageRef>,
        events: &mut dyn FnMut(ImportEvent),
    ) -> Result<ImportReport, PoolError> {
        let absent = self.absent_layers(std::slice::from_ref(image))?;
        thread::scope(|scope| {
            let mut work = Work {
                live,
                archive,
                ahead: archive.ahead(scope, absent),
                made: Vec::new(),
                warnings: Vec::new(),
                bytes: Bytes::ZERO,
            };
            match self.import_layers(&mut work, image, name, events) {
                Ok(report) => Ok(report),
                Err(error) => {
                    let undo = work.undo();
                    Err(error.with_undo(undo))
                }
            }
        })
    }

    fn import_layers(
        &self,
        work: &mut Work<'_, '_>,
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
                    work.unpack(layer, &below, &key, events)?
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
        Step::I7.passed(self.name());
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

impl Work<'_, '_> {
    /// Makes the volume of one layer and seals it.
    fn unpack(
        &mut self,
        layer: &LayerDescriptor,
        below: &VolumeRecord,
        key: &LayerKey,
        events: &mut dyn FnMut(ImportEvent),
    ) -> Result<VolumeRecord, PoolError> {
        let failed = |source| PoolError::Layer {
            index: key.index,
            layers: key.nr_layers,
            diff_id: layer.diff_id,
            source,
        };
        events(ImportEvent::Layer {
            index: key.index,
            diff_id: layer.diff_id,
            size: self.archive.layer_blob(layer).map_err(failed)?.size,
        });
        let (live, made, ahead) = (self.live, &mut self.made, &mut self.ahead);
        let catalogue = live.pool().catalogue();
        let tell = RefCell::new((&mut *events, Bytes::ZERO));
        let progress = |more: Bytes| {
            let (events, done) = &mut *tell.borrow_mut();
            *done = done.saturating_add(more);
            events(ImportEvent::Progress { done: *done });
        };
        let control = Control::default().with_progress(&progress);
        let (volume, applied) = live.fill_layer(
            below,
            |volume| made.push(volume.clone()),
            |root, split| {
                ahead
                    .apply_layer_recorded(layer, root, &control, split)
                    .map_err(failed)
            },
        )?;
        let passed = |step: Step| step.passed_for(live.pool().name(), volume.id);
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
                passed(Step::I6);
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
        .map_err(source.told())
}

impl ImportSource {
    /// What is wrong with an archive, with where it came from.
    pub(crate) fn told(&self) -> impl Fn(ImageError) -> PoolError {
        let name = match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        };
        told(name)
    }
}

/// What is wrong with an archive, with its name.
pub(crate) fn told(name: String) -> impl Fn(ImageError) -> PoolError {
    move |error| match error {
        // These name the file themselves.
        error @ (ImageError::Read { .. }
        | ImageError::Spool { .. }
        | ImageError::SpoolLimit { .. }) => error.into(),
        source => PoolError::Archive {
            name: name.clone(),
            source,
        },
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
