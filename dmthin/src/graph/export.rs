//! Images and layers out of the pool, as archives.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::report::{ExportReport, LayersDiff, WrittenLayer};
use crate::ids::ImageRef;
use crate::image::{ArchiveForm, OutImage, OutLayer, write_archive};
use crate::store::{ImageRecord, SealedLayer, StoreError};
use crate::units::Bytes;

/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

/// Where an archive goes.
pub enum ExportTo<'a> {
    /// A file, which is there whole or not at all; what was there before is replaced. What is no plain
    /// file is written to.
    File(&'a Path),
    /// A stream. What was written before an error is no archive.
    Stream(&'a mut dyn Write),
}

impl std::fmt::Debug for ExportTo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Counts what is written.
struct Counting<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(n).unwrap_or(0));
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl ExportTo<'_> {
    /// Has `work` write it; gives what that gives, and the length of the archive.
    pub(crate) fn write<T>(
        self,
        work: impl FnOnce(&mut dyn Write) -> Result<T, PoolError>,
    ) -> Result<(T, Bytes), PoolError> {
        let written = |out: &mut dyn Write| {
            let mut out = Counting {
                out: BufWriter::with_capacity(PIECE, out),
                bytes: 0,
            };
            let value = work(&mut out)?;
            out.flush().map_err(crate::image::ImageError::Write)?;
            Ok((value, Bytes::new(out.bytes)))
        };
        match self {
            Self::Stream(out) => written(out),
            Self::File(path) => match fs::metadata(path) {
                Ok(found) if !found.is_file() => {
                    let opened = File::options().write(true).open(path);
                    written(&mut opened.map_err(|e| PoolError::io("write", path, e))?)
                }
                _ => replace(path, written),
            },
        }
    }
}

/// Writes a file beside its place, and puts it there once it is whole and on the disk.
fn replace<T>(
    path: &Path,
    work: impl FnOnce(&mut dyn Write) -> Result<T, PoolError>,
) -> Result<T, PoolError> {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!(".{}.new", std::process::id()));
    let new: PathBuf = path.with_file_name(name);
    let failed = |action| move |source| PoolError::io(action, path, source);
    let made = File::options().write(true).create_new(true).open(&new);
    let mut file = made.map_err(failed("write"))?;
    let written = work(&mut file).and_then(|value| {
        file.sync_all().map_err(failed("write"))?;
        fs::rename(&new, path).map_err(failed("write"))?;
        Ok(value)
    });
    if written.is_err() {
        let undo = fs::remove_file(&new);
        return written.map_err(|error| error.with_undo(undo.map_err(failed("remove"))));
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| PoolError::io("write", dir, source))?;
    written
}

impl Pool {
    /// Writes an image as an archive that other tools take: its configuration and layers by the digests
    /// that they have here, so that an image that was imported is the same image elsewhere. It gets the name that it was
    /// called by, if it was one.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`]; [`PoolError::LayerNotRecorded`]; [`PoolError::Image`] with what cannot be written,
    /// or with a layer that is no longer what its digest says.
    pub fn export_image(
        &self,
        image: &str,
        form: ArchiveForm,
        to: ExportTo<'_>,
    ) -> Result<ExportReport, PoolError> {
        let live = self.live()?;
        let record = self.catalogue().find_image(image)?;
        let config = self.catalogue().image_config(record.id)?;
        let layers = self.catalogue().image_layers(record.id)?;
        let names: Vec<_> = name_meant(&record, image).into_iter().cloned().collect();
        let out_layers: Vec<_> = layers.iter().map(out_layer).collect();
        let out = OutImage {
            config: &config,
            names: &names,
            layers: &out_layers,
        };
        let ((), bytes) = to.write(|stream| {
            write_archive(
                stream,
                form,
                &out,
                &mut |place, stream| match layers.get(place) {
                    Some(layer) => live.write_sealed(layer, stream),
                    None => Ok(()),
                },
            )
        })?;
        Ok(ExportReport {
            id: record.config_digest,
            names,
            layers: layers.iter().map(|layer| layer.layer.diff_id).collect(),
            bytes,
        })
    }

    /// What differs between two layers, each meant as [`Pool::layer`] takes it.
    ///
    /// # Errors
    /// [`StoreError::LayerNotFound`], and as of [`Pool::diff_container`].
    pub fn diff_layers(&self, older: &str, newer: &str) -> Result<LayersDiff, PoolError> {
        let catalogue = self.catalogue();
        self.diff_sealed(&catalogue.find_layer(older)?, &catalogue.find_layer(newer)?)
    }

    /// What differs between the files of two images.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`], [`StoreError::ImageEmpty`], and as of [`Pool::diff_container`].
    pub fn diff_images(&self, older: &str, newer: &str) -> Result<LayersDiff, PoolError> {
        self.diff_sealed(&self.top_layer(older)?, &self.top_layer(newer)?)
    }

    fn top_layer(&self, image: &str) -> Result<SealedLayer, PoolError> {
        let image = self.catalogue().find_image(image)?;
        let top = self.catalogue().image_layers(image.id)?.pop();
        Ok(top.ok_or(StoreError::ImageEmpty {
            config_digest: image.config_digest,
        })?)
    }

    fn diff_sealed(
        &self,
        older: &SealedLayer,
        newer: &SealedLayer,
    ) -> Result<LayersDiff, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let diff = live.diff_volumes(&older.volume, &newer.volume, || ())?;
        Ok(LayersDiff {
            older: older.layer.chain_id,
            newer: newer.layer.chain_id,
            differences: diff.into(),
        })
    }

    /// Writes what differs between two layers as a layer's tar: applied to the older one it gives the newer.
    ///
    /// # Errors
    /// As of [`Pool::diff_layers`], and [`PoolError::Image`] with what cannot be written.
    pub fn write_layer_diff(
        &self,
        older: &str,
        newer: &str,
        to: ExportTo<'_>,
    ) -> Result<WrittenLayer, PoolError> {
        let live = self.live()?;
        live.admit()?;
        let catalogue = self.catalogue();
        let (older, newer) = (catalogue.find_layer(older)?, catalogue.find_layer(newer)?);
        let written =
            to.write(|out| live.write_layer_between(&older.volume, &newer.volume, || (), out));
        Ok(WrittenLayer::new(&written?.0))
    }
}

/// The name among the image's that it was called by.
fn name_meant<'a>(image: &'a ImageRecord, text: &str) -> Option<&'a ImageRef> {
    image
        .names
        .iter()
        .find(|name| name.as_str() == text || name.as_str().strip_suffix(":latest") == Some(text))
}

fn out_layer(layer: &SealedLayer) -> OutLayer {
    OutLayer {
        diff_id: layer.layer.diff_id,
        size: layer.layer.tar_bytes,
    }
}
