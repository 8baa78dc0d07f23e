//! OCI layouts: `index.json` lists manifests and further indexes by their digests.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::de::DeserializeOwned;

use super::descriptor::{ImageDescriptor, LayerDescriptor, check_document, image_refs};
use super::docker;
use super::source::Source;
use crate::ids::{Digest, ImageRef};
use crate::image::config::ImageConfig;
use crate::image::layer::check_size;
use crate::image::{Content, ImageError, Platform};
use crate::units::Bytes;

/// How deep indexes nest, and how many manifests they name in all.
const MAX_NESTING: usize = 4;
const MAX_MANIFESTS: usize = 4096;

/// Where containerd and Docker put the whole name.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";
/// Where the specification puts a name, often the tag alone.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What BuildKit marks manifests with that hold no image.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYERS: [&str; 3] = [
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex || media_type.to_string() == DOCKER_INDEX
}

fn is_manifest(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageManifest || media_type.to_string() == DOCKER_MANIFEST
}

fn is_config(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageConfig || media_type.to_string() == DOCKER_CONFIG
}

/// Refuses layers that are not tars in the archive.
fn check_layer_type(layer: &Descriptor) -> Result<(), ImageError> {
    let media_type = layer.media_type().to_string();
    let digest = || layer.digest().to_string();
    if media_type.ends_with("+encrypted") {
        return Err(ImageError::EncryptedLayer {
            digest: digest(),
            media_type,
        });
    }
    match layer.media_type() {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => Ok(()),
        MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => Err(ImageError::ForeignLayer {
            digest: digest(),
            media_type,
        }),
        _ if DOCKER_LAYERS.contains(&media_type.as_str()) => Ok(()),
        _ if media_type.starts_with(DOCKER_FOREIGN_LAYER) => Err(ImageError::ForeignLayer {
            digest: digest(),
            media_type,
        }),
        _ => Err(ImageError::UnknownMediaType {
            what: Content::LayerBlob,
            media_type,
        }),
    }
}

/// The digest of a descriptor, if it is one we can check, and the name of its blob.
fn blob_of(what: Content, descriptor: &Descriptor) -> Result<(Digest, String), ImageError> {
    let digest: Digest = descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|source| ImageError::Digest { what, source })?;
    Ok((digest, format!("blobs/sha256/{}", digest.to_hex())))
}

/// A document that a descriptor names, its size and digest checked.
fn blob_document(
    source: &Source,
    what: Content,
    descriptor: &Descriptor,
) -> Result<(Digest, String, Vec<u8>), ImageError> {
    let (digest, name) = blob_of(what.clone(), descriptor)?;
    let bytes = source.document(&name)?;
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    check_size(what.clone(), digest, descriptor.size(), found)?;
    check_document(what, &bytes, digest)?;
    Ok((digest, name, bytes))
}

fn parse<T: DeserializeOwned>(what: Content, name: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document {
        what,
        name: name.to_owned(),
        source,
    })
}

/// The names a descriptor of the top index gives.
fn names_of(descriptor: &Descriptor) -> Vec<ImageRef> {
    let annotations = descriptor.annotations().as_ref();
    let name = annotations.and_then(|a| a.get(FULL_NAME).or_else(|| a.get(REF_NAME)));
    image_refs(name)
}

pub(super) fn images(
    source: &Source,
    platform: Option<&Platform>,
) -> Result<Vec<ImageDescriptor>, ImageError> {
    const NAME: &str = "index.json";
    let index: ImageIndex = parse(Content::Index, NAME, &source.document(NAME)?)?;
    let mut budget = MAX_MANIFESTS;

    // Manifests of one name are one image for several platforms, and so are those of one nested
    // index; manifests without a name are an image each.
    let mut groups: Vec<(Vec<ImageRef>, Vec<Descriptor>)> = Vec::new();
    for descriptor in index.manifests() {
        let names = names_of(descriptor);
        let mut leaves = Vec::new();
        collect(source, descriptor, 0, &mut budget, &mut leaves)?;
        match groups.iter_mut().find(|(known, _)| *known == names) {
            Some((_, known)) if !names.is_empty() => known.append(&mut leaves),
            _ => groups.push((names, leaves)),
        }
    }
    // Without names, what is for other platforms is no image of its own beside one that fits.
    let host = Platform::host();
    let wanted = platform.unwrap_or(&host);
    let fits = |leaf: &Descriptor| platform_of(leaf).is_none_or(|p| wanted.takes(&p));
    if groups
        .iter()
        .any(|(names, leaves)| names.is_empty() && leaves.iter().any(fits))
    {
        groups.retain(|(names, leaves)| !names.is_empty() || leaves.iter().any(fits));
    }

    let mut chosen: Vec<(Vec<ImageRef>, Descriptor)> = Vec::new();
    for (names, leaves) in groups {
        let Some(leaf) = choose(leaves, platform, wanted)? else {
            continue;
        };
        match chosen.iter_mut().find(|(_, d)| d.digest() == leaf.digest()) {
            Some((known, _)) => known.extend(names),
            None => chosen.push((names, leaf)),
        }
    }
    let user_names = if source.has("manifest.json") {
        docker::names_by_config(source)?
    } else {
        Vec::new()
    };
    let mut images = Vec::new();
    for (names, leaf) in chosen {
        let mut image = image(source, &leaf, names)?;
        if platform.is_some_and(|wanted| !wanted.takes(&image.config.platform)) {
            return Err(ImageError::NoMatchingPlatform {
                wanted: wanted.to_string(),
                available: vec![image.config.platform.to_string()],
            });
        }
        let spelled = user_names
            .iter()
            .filter(|(config, _)| *config == image.config.digest)
            .flat_map(|(_, names)| names.clone());
        let spelled: Vec<_> = spelled.collect();
        if !spelled.is_empty() {
            image.names = spelled;
        }
        images.push(image);
    }
    Ok(images)
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    descriptor.platform().as_ref().map(Platform::of_descriptor)
}

/// The image manifests a descriptor leads to.
fn collect(
    source: &Source,
    descriptor: &Descriptor,
    depth: usize,
    budget: &mut usize,
    leaves: &mut Vec<Descriptor>,
) -> Result<(), ImageError> {
    *budget = budget.checked_sub(1).ok_or(ImageError::TooManyManifests)?;
    if is_manifest(descriptor.media_type()) {
        let is_reference = descriptor
            .annotations()
            .as_ref()
            .is_some_and(|a| a.contains_key(REFERENCE_TYPE));
        if !is_reference {
            leaves.push(descriptor.clone());
        }
        return Ok(());
    }
    if !is_index(descriptor.media_type()) {
        return Err(ImageError::UnknownMediaType {
            what: Content::Manifest,
            media_type: descriptor.media_type().to_string(),
        });
    }
    if depth >= MAX_NESTING {
        return Err(ImageError::TooManyManifests);
    }
    let (_, name, bytes) = blob_document(source, Content::Index, descriptor)?;
    let index: ImageIndex = parse(Content::Index, &name, &bytes)?;
    for inner in index.manifests() {
        collect(source, inner, depth.saturating_add(1), budget, leaves)?;
    }
    Ok(())
}

/// The manifest for the platform; without one asked for, the only one there is will do.
fn choose(
    mut leaves: Vec<Descriptor>,
    asked: Option<&Platform>,
    wanted: &Platform,
) -> Result<Option<Descriptor>, ImageError> {
    if leaves.len() <= 1 && asked.is_none() {
        return Ok(leaves.pop());
    }
    let at = leaves
        .iter()
        .position(|leaf| platform_of(leaf).is_none_or(|p| wanted.takes(&p)));
    match at {
        Some(at) => Ok(Some(leaves.swap_remove(at))),
        None if leaves.is_empty() => Ok(None),
        None => Err(ImageError::NoMatchingPlatform {
            wanted: wanted.to_string(),
            available: leaves
                .iter()
                .filter_map(|leaf| platform_of(leaf).map(|p| p.to_string()))
                .collect(),
        }),
    }
}

fn image(
    source: &Source,
    descriptor: &Descriptor,
    names: Vec<ImageRef>,
) -> Result<ImageDescriptor, ImageError> {
    let (digest, name, bytes) = blob_document(source, Content::Manifest, descriptor)?;
    let manifest: ImageManifest = parse(Content::Manifest, &name, &bytes)?;
    // A document that says it is something else than its descriptor says is read in two ways.
    if let Some(own) = manifest.media_type()
        && own != descriptor.media_type()
    {
        return Err(ImageError::UnknownMediaType {
            what: Content::Manifest,
            media_type: own.to_string(),
        });
    }
    if !is_config(manifest.config().media_type()) {
        return Err(ImageError::UnknownMediaType {
            what: Content::Config,
            media_type: manifest.config().media_type().to_string(),
        });
    }
    let (_, name, bytes) = blob_document(source, Content::Config, manifest.config())?;
    let config = ImageConfig::parse(bytes, &name)?;
    if manifest.layers().len() != config.diff_ids.len() {
        return Err(ImageError::LayerCount {
            layers: manifest.layers().len(),
            diff_ids: config.diff_ids.len(),
        });
    }
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers().iter().zip(&config.diff_ids) {
        check_layer_type(layer)?;
        let (blob, member) = blob_of(Content::LayerBlob, layer)?;
        layers.push(LayerDescriptor {
            diff_id: *diff_id,
            blob: Some(blob),
            media_type: Some(layer.media_type().to_string()),
            promised_size: Some(Bytes::new(layer.size())),
            member,
        });
    }
    Ok(ImageDescriptor {
        names,
        manifest: Some(digest),
        config,
        layers,
    })
}
