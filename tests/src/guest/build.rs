//! Small images made by the tests: good ones, and every kind of broken one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// `sha256:` and the digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A layer under construction: an uncompressed archive.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Layer")
    }
}

impl Layer {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry whose name and link name go into the header as they are, unchecked.
    pub(crate) fn raw(
        mut self,
        kind: EntryType,
        mode: u32,
        name: &[u8],
        link: &[u8],
        data: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(u64::try_from(data.len()).expect("small"));
        let gnu = header.as_gnu_mut().expect("made as GNU");
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, data).expect("a vector takes all");
        self
    }

    /// A directory.
    pub(crate) fn dir(self, name: &str) -> Self {
        self.raw(EntryType::Directory, 0o755, name.as_bytes(), b"", b"")
    }

    /// A file.
    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(EntryType::Regular, 0o644, name.as_bytes(), b"", data)
    }

    /// A symbolic link.
    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(
            EntryType::Symlink,
            0o777,
            name.as_bytes(),
            target.as_bytes(),
            b"",
        )
    }

    /// A hard link.
    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(
            EntryType::Link,
            0o644,
            name.as_bytes(),
            target.as_bytes(),
            b"",
        )
    }

    /// The archive.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("a vector takes all")
    }
}

/// A docker-archive under construction.
#[derive(Debug)]
pub(crate) struct Image {
    /// The layers as the archive will hold them.
    pub(crate) layers: Vec<Vec<u8>>,
    /// The image configuration.
    pub(crate) config: Value,
    /// The archive's manifest entry.
    pub(crate) manifest: Value,
}

impl Image {
    /// An image of these uncompressed layers, right in every point.
    pub(crate) fn new(name: &str, layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<_> = (1..=layers.len())
            .map(|n| json!({"created": "2026-01-02T03:04:05Z", "created_by": format!("step {n}")}))
            .collect();
        let paths: Vec<_> = (0..layers.len())
            .map(|n| format!("{n}/layer.tar"))
            .collect();
        Self {
            layers,
            config: json!({
                "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": history,
            }),
            manifest: json!({"Config": "", "RepoTags": [name], "Layers": paths}),
        }
    }

    /// Writes it as `docker save` would, configuration and manifest last.
    pub(crate) fn write(mut self, path: &Path) -> Result<PathBuf> {
        let config = serde_json::to_vec(&self.config)?;
        let config_name = format!("{}.json", hex(&config));
        if self.manifest["Config"] == "" {
            self.manifest["Config"] = json!(config_name);
        }
        let mut archive = Builder::new(Vec::new());
        let mut add = |name: &str, data: &[u8]| -> Result<()> {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(u64::try_from(data.len())?);
            archive.append_data(&mut header, name, data)?;
            Ok(())
        };
        for (n, layer) in self.layers.iter().enumerate() {
            add(&format!("{n}/layer.tar"), layer)?;
        }
        add(&config_name, &config)?;
        add(
            "manifest.json",
            &serde_json::to_vec(&json!([self.manifest]))?,
        )?;
        fs::write(path, archive.into_inner()?)?;
        Ok(path.to_owned())
    }
}

/// Compresses as `docker push` would.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Two layers with a file changed, one hidden and one added.
pub(crate) fn two_layers() -> Vec<Vec<u8>> {
    vec![
        Layer::new()
            .dir("etc/")
            .file("etc/hostname", b"one\n")
            .file("etc/gone", b"hidden later\n")
            .bytes(),
        Layer::new()
            .file("etc/hostname", b"two\n")
            .file("etc/.wh.gone", b"")
            .bytes(),
    ]
}

/// An image of [`two_layers`] in a file of this directory.
pub(crate) fn small_image(dir: &Path, name: &str) -> Result<PathBuf> {
    let file = dir.join(format!("{}.tar", name.replace([':', '/'], "-")));
    Image::new(name, two_layers()).write(&file)
}
