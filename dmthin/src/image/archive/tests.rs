//! Archives in every form, and in every way broken.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

mod ahead;
mod choice;
mod digests;
mod forms;
mod hostile;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Archive, ImageDescriptor, Spool};
use crate::ids::Digest;
use crate::image::layer::Compression;
use crate::image::testing::{Head, Tar, compressed};
use crate::image::{Content, Control, ImageError, Platform, digest_of};
use crate::units::Bytes;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The files of an archive, to be put into a tar or a directory.
type Files = BTreeMap<String, Vec<u8>>;

fn layer_tars() -> [Vec<u8>; 2] {
    [
        Tar::default().file("etc/lower", "1").file("gone", "").end(),
        Tar::default()
            .file("etc/upper", "22")
            .file(".wh.gone", "")
            .end(),
    ]
}

fn config(architecture: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|l| digest_of(l).to_string()).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "a"}, {"created_by": "env", "empty_layer": true}, {"created_by": "b"}],
    });
    config.to_string().into_bytes()
}

/// Adds a blob and describes it.
fn blob(files: &mut Files, media_type: &str, bytes: &[u8]) -> Value {
    let digest = digest_of(bytes);
    files.insert(format!("blobs/sha256/{}", digest.to_hex()), bytes.to_vec());
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
}

fn oci_manifest(files: &mut Files, architecture: &str, compression: Compression) -> Value {
    let tars = layer_tars();
    let layers: Vec<_> = tars
        .iter()
        .map(|tar| blob(files, LAYER, &compressed(compression, tar)))
        .collect();
    let config = blob(files, CONFIG, &config(architecture, &tars));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
    });
    blob(files, MANIFEST, manifest.to_string().as_bytes())
}

fn index(manifests: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        .to_string()
        .into_bytes()
}

fn with_platform(mut descriptor: Value, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
    descriptor
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

fn layout(files: &mut Files, manifests: &[Value]) {
    files.insert(
        "oci-layout".into(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    );
    files.insert("index.json".into(), index(manifests));
}

/// A layout of one image.
fn oci(compression: Compression) -> Files {
    let mut files = Files::new();
    let manifest = oci_manifest(&mut files, "amd64", compression);
    layout(&mut files, &[named(manifest, "test:1")]);
    files
}

fn docker_manifest(config: &str, tags: &[&str], layers: &[&str]) -> Vec<u8> {
    json!([{"Config": config, "RepoTags": tags, "Layers": layers}])
        .to_string()
        .into_bytes()
}

/// As `docker save` wrote before version 25.
fn docker() -> Files {
    let tars = layer_tars();
    let config = config("amd64", &tars);
    let name = format!("{}.json", digest_of(&config).to_hex());
    let manifest = docker_manifest(
        &name,
        &["test:1", "test:latest"],
        &["a/layer.tar", "b/layer.tar"],
    );
    let [lower, upper] = tars;
    Files::from([
        ("manifest.json".into(), manifest),
        (name, config),
        ("a/layer.tar".into(), lower),
        ("b/layer.tar".into(), upper),
        ("a/VERSION".into(), b"1.0".to_vec()),
        ("repositories".into(), b"{}".to_vec()),
    ])
}

fn tar_of(files: &Files) -> Tar {
    let add = |tar: Tar, (name, bytes): (&String, &Vec<u8>)| tar.file(name, bytes);
    files.iter().fold(Tar::default(), add)
}

fn dir_of(files: &Files) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn open(tar: &[u8]) -> Result<Archive, ImageError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(tar).unwrap();
    open_at(file.path())
}

/// What is read in place needs no spool.
fn open_at(path: &Path) -> Result<Archive, ImageError> {
    let spool = Spool {
        dir: Path::new("/nonexistent"),
        limit: Bytes::ZERO,
    };
    Archive::open(path, &spool)
}

/// The images of an archive that has all their layers.
fn whole(archive: &Archive) -> Result<Vec<ImageDescriptor>, ImageError> {
    let images = archive.images(None)?;
    for layer in images.iter().flat_map(|image| &image.layers) {
        archive.layer_blob(layer)?;
    }
    Ok(images)
}

fn images(files: &Files) -> Result<Vec<ImageDescriptor>, ImageError> {
    whole(&open(&tar_of(files).end())?)
}

fn apply_all(archive: &Archive, image: &ImageDescriptor) -> TempDir {
    let dir = TempDir::new().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    for layer in &image.layers {
        archive
            .apply_layer(layer, root.as_fd(), &Control::default())
            .unwrap();
    }
    dir
}

fn names_of(image: &ImageDescriptor) -> Vec<&str> {
    image
        .names
        .iter()
        .map(crate::ids::ImageRef::as_str)
        .collect()
}

/// What every whole archive of these tests must give.
fn check(archive: &Archive, names: &[&str]) -> ImageDescriptor {
    let mut images = archive.images(None).unwrap();
    assert_eq!(images.len(), 1);
    let image = images.remove(0);
    assert_eq!(names_of(&image), names);
    assert_eq!(image.config.cmd, ["sh"]);
    let diff_ids: Vec<Digest> = image.layers.iter().map(|l| l.diff_id).collect();
    assert_eq!(diff_ids, layer_tars().map(|tar| digest_of(&tar)));
    let history: Vec<_> = image.config.history.iter().map(|h| h.layer).collect();
    assert_eq!(history, [Some(0), None, Some(1)]);
    let root = apply_all(archive, &image);
    assert_eq!(
        fs::read_to_string(root.path().join("etc/lower")).unwrap(),
        "1"
    );
    assert_eq!(
        fs::read_to_string(root.path().join("etc/upper")).unwrap(),
        "22"
    );
    assert!(!root.path().join("gone").exists());
    image
}

/// Replaces the manifest of an OCI archive by a changed one.
fn with_manifest(change: impl Fn(&mut Value)) -> Files {
    let mut files = oci(Compression::None);
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let digest: Digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let old = files
        .remove(&format!("blobs/sha256/{}", digest.to_hex()))
        .unwrap();
    let mut manifest: Value = serde_json::from_slice(&old).unwrap();
    change(&mut manifest);
    let descriptor = blob(&mut files, MANIFEST, manifest.to_string().as_bytes());
    layout(&mut files, &[descriptor]);
    files
}
