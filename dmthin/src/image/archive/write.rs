//! Writing an archive of one image, as a stream.
//!
//! The same image gives the same bytes: owner, time and mode of every member are fixed, documents come
//! before layers, and a layer is written once, however often the image has it. Layers are not compressed.
//! Then the digest of a blob is the diff id, which another version of a compressor would not give again, every reader takes
//! it, and who wants the whole smaller compresses the stream.

use std::collections::HashSet;
use std::io::Write;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::oci::{FULL_NAME, REF_NAME};
use crate::ids::{Digest, ImageRef};
use crate::image::digest::{Hasher, digest_of};
use crate::image::layer::check_size;
use crate::image::{Content, ImageError};
use crate::units::Bytes;

/// The unit of a tar.
const BLOCK: u64 = 512;

/// The form of an archive that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveForm {
    /// What `docker load` takes: `manifest.json`, the configuration, a tar for each layer.
    Docker,
    /// An OCI layout in a tar.
    Oci,
}

/// A layer to be written: what its tar stream must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutLayer {
    /// Digest of the stream.
    pub diff_id: Digest,
    /// Its length.
    pub size: Bytes,
}

/// An image to be written.
#[derive(Debug, Clone, Copy)]
pub struct OutImage<'a> {
    /// The bytes of its configuration.
    pub config: &'a [u8],
    /// What it is to be called.
    pub names: &'a [ImageRef],
    /// Its layers, the bottom one first.
    pub layers: &'a [OutLayer],
}

struct Archive<'a> {
    out: &'a mut dyn Write,
}

impl Archive<'_> {
    fn header(&mut self, name: &str, kind: EntryType, size: u64) -> Result<(), ImageError> {
        let mut header = Header::new_gnu();
        header.set_path(name).map_err(ImageError::Write)?;
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.out
            .write_all(header.as_bytes())
            .map_err(ImageError::Write)
    }

    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        const ZEROS: [u8; 512] = [0; 512];
        let rest = size.next_multiple_of(BLOCK).saturating_sub(size);
        let zeros = usize::try_from(rest)
            .ok()
            .and_then(|rest| ZEROS.get(..rest));
        self.out
            .write_all(zeros.unwrap_or_default())
            .map_err(ImageError::Write)
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let size = len(bytes);
        self.header(name, EntryType::Regular, size)?;
        self.out.write_all(bytes).map_err(ImageError::Write)?;
        self.pad(size)
    }

    fn layer<E: From<ImageError>>(
        &mut self,
        name: &str,
        layer: OutLayer,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        self.header(name, EntryType::Regular, layer.size.get())?;
        let mut summed = Summing {
            out: &mut *self.out,
            hasher: Hasher::default(),
        };
        write(&mut summed)?;
        let found = summed.hasher.finish();
        let what = Content::LayerTar;
        check_size(what.clone(), layer.diff_id, layer.size.get(), found.len)?;
        if found.digest != layer.diff_id {
            return Err(ImageError::DigestMismatch {
                what,
                expected: layer.diff_id,
                found: found.digest,
            }
            .into());
        }
        Ok(self.pad(layer.size.get())?)
    }

    fn end(&mut self) -> Result<(), ImageError> {
        self.out
            .write_all(&[0; 1024])
            .and_then(|()| self.out.flush())
            .map_err(ImageError::Write)
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a slice's length fits 64 bits")
}

/// Sums what is written through it.
struct Summing<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
}

impl Write for Summing<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes an archive of `image` to `out`; `write_layer` writes the tar stream of the layer with this place,
/// which is summed on its way. What was written before an error is no archive.
///
/// # Errors
/// [`ImageError::Write`]; [`ImageError::SizeMismatch`] and [`ImageError::DigestMismatch`] for a layer that
/// turned out to be another; what `write_layer` gives.
pub fn write_archive<E: From<ImageError>>(
    out: &mut dyn Write,
    form: ArchiveForm,
    image: &OutImage<'_>,
    write_layer: &mut dyn FnMut(usize, &mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = Archive { out };
    let name_of: fn(Digest) -> String = match form {
        ArchiveForm::Docker => {
            archive.docker_documents(image)?;
            docker_layer
        }
        ArchiveForm::Oci => {
            archive.oci_documents(image)?;
            oci_blob
        }
    };
    let mut written = HashSet::new();
    for (place, layer) in image.layers.iter().enumerate() {
        if written.insert(layer.diff_id) {
            let name = name_of(layer.diff_id);
            archive.layer(&name, *layer, |out| write_layer(place, out))?;
        }
    }
    Ok(archive.end()?)
}

fn docker_layer(diff_id: Digest) -> String {
    format!("{}.tar", diff_id.to_hex())
}

fn oci_blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

impl Archive<'_> {
    fn docker_documents(&mut self, image: &OutImage<'_>) -> Result<(), ImageError> {
        let config = format!("{}.json", digest_of(image.config).to_hex());
        let names: Vec<_> = image.names.iter().map(ImageRef::as_str).collect();
        let layers = image.layers.iter().map(|layer| docker_layer(layer.diff_id));
        let manifest = json!([{
            "Config": config,
            // As `docker save` writes it of an image without a name.
            "RepoTags": if names.is_empty() { Value::Null } else { Value::from(names) },
            "Layers": layers.collect::<Vec<_>>(),
        }]);
        self.document("manifest.json", manifest.to_string().as_bytes())?;
        self.document(&config, image.config)
    }

    fn oci_documents(&mut self, image: &OutImage<'_>) -> Result<(), ImageError> {
        let descriptor = |kind: &str, digest: Digest, size: u64| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": digest.to_string(),
                "size": size,
            })
        };
        let config = digest_of(image.config);
        let layers = image
            .layers
            .iter()
            .map(|layer| descriptor("layer.v1.tar", layer.diff_id, layer.size.get()));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", config, len(image.config)),
            "layers": layers.collect::<Vec<_>>(),
        })
        .to_string();
        let digest = digest_of(manifest.as_bytes());
        let of_image = || descriptor("manifest.v1+json", digest, len(manifest.as_bytes()));
        // One for each name, as containerd writes them.
        let named = image.names.iter().map(|name| {
            let mut named = of_image();
            named["annotations"] = json!({FULL_NAME: name.as_str(), REF_NAME: tag(name)});
            named
        });
        let mut manifests: Vec<_> = named.collect();
        if manifests.is_empty() {
            manifests.push(of_image());
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        self.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.document("index.json", index.to_string().as_bytes())?;
        for directory in ["blobs/", "blobs/sha256/"] {
            self.header(directory, EntryType::Directory, 0)?;
        }
        self.document(&oci_blob(digest), manifest.as_bytes())?;
        self.document(&oci_blob(config), image.config)
    }
}

/// What the specification calls a reference: the tag alone.
fn tag(name: &ImageRef) -> &str {
    let name = name.as_str();
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once('@').or_else(|| last.split_once(':'));
    tag.map_or("latest", |(_, tag)| tag)
}
