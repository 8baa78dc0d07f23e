//! What an archive says of its images.

use crate::ids::{Digest, ImageRef};
use crate::image::config::ImageConfig;
use crate::image::layer::{Compression, Promise, check_size};
use crate::image::{Content, ImageError};
use crate::units::Bytes;

use super::source::{Range, Source};

/// A layer as an archive describes it. Nothing of its blob was looked at: who has the layer needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerDescriptor {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob as the archive holds it; old docker-archives promise none.
    pub blob: Option<Digest>,
    /// Its media type; docker-archives have none.
    pub media_type: Option<String>,
    /// Size of the blob, where one is promised.
    pub(super) promised_size: Option<Bytes>,
    /// Where in the archive it is.
    pub(super) member: String,
}

/// A layer's blob in an archive. Its digests are promises until it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerBlob {
    /// Its size as the archive holds it.
    pub size: Bytes,
    /// How it is compressed.
    pub compression: Compression,
}

impl LayerDescriptor {
    /// Looks at the blob, and opens it at its begin.
    pub(super) fn open(&self, source: &Source) -> Result<(LayerBlob, Range), ImageError> {
        let range = source.open(&self.member)?;
        let size = range.len();
        if let (Some(blob), Some(promised)) = (self.blob, self.promised_size) {
            check_size(Content::LayerBlob, blob, promised.get(), size)?;
        }
        let start = range.start(&self.member)?;
        let compression =
            Compression::of(&start).map_err(|format| ImageError::UnsupportedCompression {
                diff_id: self.diff_id,
                format,
            })?;
        let size = Bytes::new(size);
        Ok((LayerBlob { size, compression }, range))
    }

    pub(super) fn promise(&self, compression: Compression) -> Promise {
        Promise {
            compression,
            diff_id: self.diff_id,
            blob: self.blob,
        }
    }
}

/// An image in an archive: manifest and configuration verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageDescriptor {
    /// What the archive calls it; may be empty.
    pub names: Vec<ImageRef>,
    /// Digest of its manifest; docker-archives have none.
    pub manifest: Option<Digest>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, the bottom one first; as many as the configuration has diff ids.
    pub layers: Vec<LayerDescriptor>,
}

/// Names an archive gives, those left out that are none.
pub(super) fn image_refs<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<ImageRef> {
    let mut refs = Vec::new();
    for name in names {
        match ImageRef::new(name.as_str()) {
            Ok(name) if !refs.contains(&name) => refs.push(name),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "passing over a name in the archive"),
        }
    }
    refs
}

/// The digest a member's name is made of: `<hex>.json`, `blobs/sha256/<hex>`.
pub(super) fn digest_in_name(member: &str) -> Option<Digest> {
    let name = member.rsplit('/').next()?;
    let hex = name.strip_suffix(".json").unwrap_or(name);
    format!("sha256:{hex}").parse().ok()
}

/// Checks a document against the digest it is named by.
pub(super) fn check_document(
    what: Content,
    bytes: &[u8],
    expected: Digest,
) -> Result<(), ImageError> {
    let found = crate::image::digest::digest_of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        what,
        expected,
        found,
    })
}
