//! What an archive says of its images.

use crate::ids::{Digest, ImageRef};
use crate::image::config::ImageConfig;
use crate::image::layer::{Compression, Promise};
use crate::image::{Content, ImageError};
use crate::units::Bytes;

use super::source::Source;

/// A layer in an archive. Its digests are promises until it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerDescriptor {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob as the archive holds it; old docker-archives promise none.
    pub blob: Option<Digest>,
    /// Size of the blob as the archive holds it.
    pub size: Bytes,
    /// How the blob is compressed.
    pub compression: Compression,
    /// Its media type; docker-archives have none.
    pub media_type: Option<String>,
    /// Where in the archive it is.
    pub(super) member: String,
}

impl LayerDescriptor {
    pub(super) fn promise(&self) -> Promise {
        Promise {
            compression: self.compression,
            diff_id: self.diff_id,
            blob: self.blob,
        }
    }

    /// Looks at the blob `member`.
    pub(super) fn locate(
        source: &Source,
        member: String,
        diff_id: Digest,
        blob: Option<Digest>,
        media_type: Option<String>,
    ) -> Result<Self, ImageError> {
        let mut range = source.open(&member)?;
        let size = range.len();
        let start = range.start(&member)?;
        let compression = Compression::of(&start)
            .map_err(|format| ImageError::UnsupportedCompression { diff_id, format })?;
        Ok(Self {
            diff_id,
            blob,
            size: Bytes::new(size),
            compression,
            media_type,
            member,
        })
    }
}

/// An image in an archive: manifest and configuration verified, layers present.
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
