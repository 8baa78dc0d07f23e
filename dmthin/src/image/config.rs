//! The configuration of an image: what it is for, how it came to be, what to run.

mod change;
mod child;
mod words;

pub use change::{ChangeError, ConfigChange, Keyword};
pub use child::{ChildConfig, EMPTY_LAYER, bare_config};

use super::digest::digest_of;
use super::error::{Content, ImageError};
use super::platform::Platform;
use crate::ids::Digest;

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// When, as the image writes it (RFC 3339).
    pub created: Option<String>,
    /// The command that made it.
    pub created_by: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// Which layer it made, counted from the bottom; `None` for steps that made none, and for all
    /// where the history does not fit the layers.
    pub layer: Option<usize>,
}

/// An image's configuration, read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageConfig {
    /// sha256 of `json`: the image's id.
    pub digest: Digest,
    /// The very bytes of the archive.
    pub json: Vec<u8>,
    /// What it runs on.
    pub platform: Platform,
    /// When it was made, as the image writes it (RFC 3339).
    pub created: Option<String>,
    /// Digests of the uncompressed layers, the bottom one first.
    pub diff_ids: Vec<Digest>,
    /// How it came to be, the first step first.
    pub history: Vec<HistoryEntry>,
    /// Arguments that come before those of the command.
    pub entrypoint: Vec<String>,
    /// What runs by default.
    pub cmd: Vec<String>,
    /// Its environment, each `NAME=value`.
    pub env: Vec<String>,
    /// Where it starts; empty for `/`.
    pub working_dir: String,
    /// Who runs it; empty for root.
    pub user: String,
}

impl ImageConfig {
    /// Reads a configuration, as an archive or a catalogue holds it. `name` is what errors name.
    ///
    /// # Errors
    /// [`ImageError::Document`] where it is no configuration, [`ImageError::Digest`] where a diff id is no
    /// sha256.
    pub fn parse(json: Vec<u8>, name: &str) -> Result<Self, ImageError> {
        let config: oci_spec::image::ImageConfiguration =
            serde_json::from_slice(&json).map_err(|source| ImageError::Document {
                what: Content::Config,
                name: name.to_owned(),
                source,
            })?;
        let diff_ids = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|text| {
                text.parse().map_err(|source| ImageError::Digest {
                    what: Content::LayerTar,
                    source,
                })
            })
            .collect::<Result<Vec<Digest>, _>>()?;
        let history = history(
            config.history().as_deref().unwrap_or_default(),
            diff_ids.len(),
        );
        let run = config.config().clone().unwrap_or_default();
        Ok(Self {
            digest: digest_of(&json),
            json,
            platform: Platform {
                os: config.os().to_string(),
                architecture: config.architecture().to_string(),
                variant: config.variant().clone(),
            },
            created: config.created().clone(),
            diff_ids,
            history,
            entrypoint: run.entrypoint().clone().unwrap_or_default(),
            cmd: run.cmd().clone().unwrap_or_default(),
            env: run.env().clone().unwrap_or_default(),
            working_dir: run.working_dir().clone().unwrap_or_default(),
            user: run.user().clone().unwrap_or_default(),
        })
    }
}

fn history(steps: &[oci_spec::image::History], nr_layers: usize) -> Vec<HistoryEntry> {
    let makes_layer = |step: &oci_spec::image::History| step.empty_layer() != Some(true);
    let fits = steps.iter().filter(|step| makes_layer(step)).count() == nr_layers;
    let mut layers = 0..nr_layers;
    steps
        .iter()
        .map(|step| HistoryEntry {
            created: step.created().clone(),
            created_by: step.created_by().clone(),
            comment: step.comment().clone(),
            layer: if fits && makes_layer(step) {
                layers.next()
            } else {
                None
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_configuration_as_docker_writes_it_is_read() {
        let json = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2026-01-02T03:04:05.6Z",
            "config":{{"Hostname":"","User":"7:8","AttachStdin":false,"Env":["PATH=/bin"],
              "Cmd":["sh","-c","x"],"Image":"sha256:1","Volumes":null,"WorkingDir":"/w",
              "Entrypoint":null,"OnBuild":null,"Labels":null,"ExposedPorts":{{"80/tcp":{{}}}}}},
            "container":"c","container_config":{{"Cmd":null}},"docker_version":"20.10",
            "history":[{{"created":"2026-01-01T00:00:00Z","created_by":"ADD"}},
              {{"created_by":"CMD","empty_layer":true}}],
            "rootfs":{{"type":"layers","diff_ids":["{DIFF}"]}}}}"#
        );
        let config = ImageConfig::parse(json.clone().into_bytes(), "c.json").unwrap();
        assert_eq!(config.digest, digest_of(json.as_bytes()));
        assert_eq!(config.platform.to_string(), "linux/amd64");
        assert_eq!(config.created.as_deref(), Some("2026-01-02T03:04:05.6Z"));
        assert_eq!(config.diff_ids, [DIFF.parse::<Digest>().unwrap()]);
        assert_eq!(config.cmd, ["sh", "-c", "x"]);
        assert_eq!(config.entrypoint, Vec::<String>::new());
        assert_eq!(config.env, ["PATH=/bin"]);
        assert_eq!(config.working_dir, "/w");
        assert_eq!(config.user, "7:8");
        let layers: Vec<_> = config.history.iter().map(|step| step.layer).collect();
        assert_eq!(layers, [Some(0), None]);
    }

    #[test]
    fn a_history_that_does_not_fit_names_no_layers() {
        let json = format!(
            r#"{{"architecture":"amd64","os":"linux","history":[{{}},{{}}],
            "rootfs":{{"type":"layers","diff_ids":["{DIFF}"]}}}}"#
        );
        let config = ImageConfig::parse(json.into_bytes(), "c.json").unwrap();
        assert!(config.history.iter().all(|step| step.layer.is_none()));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        assert!(matches!(
            ImageConfig::parse(b"{}".to_vec(), "c.json"),
            Err(ImageError::Document {
                what: Content::Config,
                ..
            })
        ));
        let json = r#"{"architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":["sha512:00"]}}"#;
        assert!(matches!(
            ImageConfig::parse(json.into(), "c.json"),
            Err(ImageError::Digest {
                what: Content::LayerTar,
                ..
            })
        ));
    }
}
