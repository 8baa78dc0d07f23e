//! docker-archives: `manifest.json` lists images by the names of their files.

use serde::Deserialize;

use super::descriptor::{
    ImageDescriptor, LayerDescriptor, check_document, digest_in_name, image_refs,
};
use super::source::Source;
use crate::ids::{Digest, ImageRef};
use crate::image::config::ImageConfig;
use crate::image::{Content, ImageError, Platform};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl ManifestItem {
    fn names(&self) -> Vec<ImageRef> {
        image_refs(self.repo_tags.iter().flatten())
    }
}

fn manifest(source: &Source) -> Result<Vec<ManifestItem>, ImageError> {
    const NAME: &str = "manifest.json";
    serde_json::from_slice(&source.document(NAME)?).map_err(|source| ImageError::Document {
        what: Content::Manifest,
        name: NAME.to_owned(),
        source,
    })
}

/// The names `manifest.json` gives to the images with these configurations.
pub(super) fn names_by_config(source: &Source) -> Result<Vec<(Digest, Vec<ImageRef>)>, ImageError> {
    Ok(manifest(source)?
        .iter()
        .filter_map(|item| Some((digest_in_name(&item.config)?, item.names())))
        .collect())
}

pub(super) fn images(
    source: &Source,
    platform: Option<&Platform>,
) -> Result<Vec<ImageDescriptor>, ImageError> {
    let mut images = Vec::new();
    let mut others = Vec::new();
    for item in manifest(source)? {
        let config = source.document(&item.config)?;
        if let Some(expected) = digest_in_name(&item.config) {
            check_document(Content::Config, &config, expected)?;
        }
        let config = ImageConfig::parse(config, &item.config)?;
        if platform.is_some_and(|wanted| !wanted.takes(&config.platform)) {
            others.push(config.platform.to_string());
            continue;
        }
        let names = item.names();
        let layers = item.layers.unwrap_or_default();
        if layers.len() != config.diff_ids.len() {
            return Err(ImageError::LayerCount {
                layers: layers.len(),
                diff_ids: config.diff_ids.len(),
            });
        }
        let layers = layers
            .into_iter()
            .zip(&config.diff_ids)
            .map(|(member, diff_id)| LayerDescriptor {
                diff_id: *diff_id,
                blob: digest_in_name(&member),
                media_type: None,
                promised_size: None,
                member,
            })
            .collect();
        images.push(ImageDescriptor {
            names,
            manifest: None,
            config,
            layers,
        });
    }
    match platform {
        Some(wanted) if images.is_empty() && !others.is_empty() => {
            Err(ImageError::NoMatchingPlatform {
                wanted: wanted.to_string(),
                available: others,
            })
        }
        _ => Ok(images),
    }
}
