//! The configuration of an image that was made from another: one layer more, and how that came to be.
//!
//! What it does not know is kept as it is. The result is written with its keys in order, so that the same
//! parent and the same change give the same bytes.

use serde_json::{Map, Value, json};

use super::change::{ChangeError, ConfigChange, Running};
use crate::ids::Digest;
use crate::image::error::{Content, ImageError};
use crate::image::platform::Platform;

/// Digest of a tar with nothing in it: two blocks of zeros. Such a layer is left out of an image, as Docker
/// does; the history tells of its step.
pub const EMPTY_LAYER: Digest = Digest::from_bytes([
    0x5f, 0x70, 0xbf, 0x18, 0xa0, 0x86, 0x00, 0x70, 0x16, 0xe9, 0x48, 0xb0, 0x4a, 0xed, 0x3b, 0x82,
    0x10, 0x3a, 0x36, 0xbe, 0xa4, 0x17, 0x55, 0xb6, 0xcd, 0xdf, 0xaf, 0x10, 0xac, 0xe3, 0xc6, 0xef,
]);

/// What makes an image another one's child.
#[derive(Debug, Clone, Default)]
pub struct ChildConfig<'a> {
    /// Digest of the new layer; `None` where nothing changed in the files.
    pub diff_id: Option<Digest>,
    /// When, in RFC 3339.
    pub created: &'a str,
    /// What made it.
    pub created_by: Option<&'a str>,
    /// Who; the parent's stays where nobody is named.
    pub author: Option<&'a str>,
    /// A remark.
    pub comment: Option<&'a str>,
    /// What it runs differently, in this order.
    pub changes: &'a [ConfigChange],
}

fn field(field: &'static str) -> ImageError {
    ChangeError::Field { field }.into()
}

/// Whether a step of a history made a layer.
fn makes_layer(step: &Value) -> bool {
    step.get("empty_layer") != Some(&Value::Bool(true))
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        Value::Null => Some(Map::new()),
        _ => None,
    }
}

impl ChildConfig<'_> {
    /// The child of the image with this configuration, which `name` names in errors.
    ///
    /// # Errors
    /// [`ImageError::Document`] where the parent's is no configuration, [`ImageError::Change`] for an
    /// instruction that cannot be followed.
    pub fn of(&self, parent: &[u8], name: &str) -> Result<Vec<u8>, ImageError> {
        let mut config: Map<String, Value> =
            serde_json::from_slice(parent).map_err(|source| ImageError::Document {
                what: Content::Config,
                name: name.to_owned(),
                source,
            })?;
        let run = object(config.remove("config").unwrap_or_default()).ok_or(field("config"))?;
        let mut running = Running::new(run);
        for change in self.changes {
            running.apply(change)?;
        }
        config.insert("config".to_owned(), Value::Object(running.finish()));
        let mut below = None;
        if let Some(diff_id) = self.diff_id {
            let diff_ids = config
                .get_mut("rootfs")
                .and_then(|rootfs| rootfs.get_mut("diff_ids"));
            let diff_ids = diff_ids
                .and_then(Value::as_array_mut)
                .ok_or(field("rootfs"))?;
            below = Some(diff_ids.len());
            diff_ids.push(Value::from(diff_id.to_string()));
        }
        let history = config.entry("history").or_insert(Value::Null);
        if history.is_null() {
            *history = json!([]);
        }
        let history = history.as_array_mut().ok_or(field("history"))?;
        if let Some(nr_layers) = below {
            // Some builders tell nothing of their layers, and steps are counted from below.
            let told = history.iter().filter(|step| makes_layer(step)).count();
            history.extend((told..nr_layers).map(|_| json!({})));
        }
        history.push(Value::Object(self.step()));
        config.insert("created".to_owned(), Value::from(self.created));
        if let Some(author) = self.author {
            config.insert("author".to_owned(), Value::from(author));
        }
        Ok(Value::Object(config).to_string().into_bytes())
    }

    /// The step of the history.
    fn step(&self) -> Map<String, Value> {
        let mut step = Map::new();
        step.insert("created".to_owned(), Value::from(self.created));
        for (field, text) in [
            ("created_by", self.created_by),
            ("author", self.author),
            ("comment", self.comment),
        ] {
            if let Some(text) = text {
                step.insert(field.to_owned(), Value::from(text));
            }
        }
        if self.diff_id.is_none() {
            step.insert("empty_layer".to_owned(), Value::from(true));
        }
        step
    }
}

/// The configuration of an image of which nothing is known but its layers.
#[must_use]
pub fn bare_config(platform: &Platform, diff_ids: &[Digest]) -> Vec<u8> {
    let diff_ids: Vec<_> = diff_ids.iter().map(ToString::to_string).collect();
    let mut config = json!({
        "architecture": platform.architecture, "os": platform.os, "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    if let (Some(variant), Some(config)) = (&platform.variant, config.as_object_mut()) {
        config.insert("variant".to_owned(), Value::from(variant.as_str()));
    }
    config.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageConfig, digest_of};

    const PARENT: &str = r#"{"architecture":"arm64","variant":"v8","os":"linux","author":"first",
        "config":{"Cmd":["sh"],"Healthcheck":{"Test":["NONE"]}},"x-kept":[1,{"y":null}],
        "history":[{"created":"2026-01-01T00:00:00Z","created_by":"ADD"}],
        "rootfs":{"type":"layers","diff_ids":
          ["sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]}}"#;

    fn child<'a>(changes: &'a [ConfigChange], diff_id: Option<Digest>) -> ChildConfig<'a> {
        ChildConfig {
            diff_id,
            created: "2026-02-03T04:05:06Z",
            created_by: Some("make"),
            author: Some("second"),
            comment: Some("why"),
            changes,
        }
    }

    #[test]
    fn nothing_in_a_tar_is_two_blocks_of_zeros() {
        assert_eq!(digest_of(&[0; 1024]), EMPTY_LAYER);
    }

    #[test]
    fn a_child_has_a_layer_and_a_step_more_and_all_else_of_its_parent() {
        let diff = digest_of(b"layer");
        let changes = ["CMD [\"run\"]".parse().unwrap()];
        let json = child(&changes, Some(diff))
            .of(PARENT.as_bytes(), "p")
            .unwrap();
        let expected = format!(
            r#"{{"architecture":"arm64","author":"second","config":{{"Cmd":["run"],"Healthcheck":{{"Test":["NONE"]}}}},"created":"2026-02-03T04:05:06Z","history":[{{"created":"2026-01-01T00:00:00Z","created_by":"ADD"}},{{"author":"second","comment":"why","created":"2026-02-03T04:05:06Z","created_by":"make"}}],"os":"linux","rootfs":{{"diff_ids":["sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","{diff}"],"type":"layers"}},"variant":"v8","x-kept":[1,{{"y":null}}]}}"#
        );
        assert_eq!(String::from_utf8(json.clone()).unwrap(), expected);
        let config = ImageConfig::parse(json, "child").unwrap();
        assert_eq!(config.diff_ids.last(), Some(&diff));
        assert_eq!(config.history.last().unwrap().layer, Some(1));
    }

    #[test]
    fn without_a_change_of_files_only_the_history_grows() {
        let bare = ChildConfig {
            created: "2026-02-03T04:05:06Z",
            ..ChildConfig::default()
        };
        let json = bare.of(PARENT.as_bytes(), "p").unwrap();
        let value: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            value["history"][1],
            json!({"created": "2026-02-03T04:05:06Z", "empty_layer": true})
        );
        assert_eq!(value["author"], "first");
        assert_eq!(ImageConfig::parse(json, "child").unwrap().diff_ids.len(), 1);
    }

    /// The step of a commit belonged to no layer where the image it was made of did not tell of each of its own.
    #[test]
    fn a_step_belongs_to_its_layer_whatever_the_parent_tells() {
        let told = r#"{"created_by":"ADD"},{"created_by":"CMD","empty_layer":true}"#;
        for (history, steps) in [("null", 3), ("[]", 3), (&format!("[{told}]"), 4)] {
            let parent = format!(
                r#"{{"architecture":"arm64","os":"linux","history":{history},
                "rootfs":{{"type":"layers","diff_ids":["{EMPTY_LAYER}","{EMPTY_LAYER}"]}}}}"#
            );
            let diff = digest_of(b"layer");
            let json = child(&[], Some(diff)).of(parent.as_bytes(), "p").unwrap();
            let config = ImageConfig::parse(json, "child").unwrap();
            assert_eq!(config.history.len(), steps, "{history}");
            let last = config.history.last().unwrap();
            assert_eq!(
                (last.layer, last.created_by.as_deref()),
                (Some(2), Some("make"))
            );
            let layers = config.history.iter().filter_map(|step| step.layer);
            assert!(layers.eq(0..3), "{history}");
        }
    }

    #[test]
    fn a_parent_that_is_none_is_refused() {
        let of = |parent: &str| child(&[], Some(EMPTY_LAYER)).of(parent.as_bytes(), "p");
        assert!(matches!(of("[]"), Err(ImageError::Document { .. })));
        for parent in [
            r#"{"config":1,"rootfs":{"diff_ids":[]}}"#,
            r#"{"rootfs":{}}"#,
            r#"{"history":{},"rootfs":{"diff_ids":[]}}"#,
        ] {
            assert!(matches!(
                of(parent),
                Err(ImageError::Change(ChangeError::Field { .. }))
            ));
        }
    }

    #[test]
    fn a_bare_configuration_is_one() {
        let platform: Platform = "linux/arm/v7".parse().unwrap();
        let config = ImageConfig::parse(bare_config(&platform, &[EMPTY_LAYER]), "bare").unwrap();
        assert_eq!(config.platform, platform);
        assert_eq!(config.diff_ids, [EMPTY_LAYER]);
        assert!(config.history.is_empty());
    }
}
