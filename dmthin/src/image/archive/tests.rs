//! Archives in every form, and in every way broken.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

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

fn images(files: &Files) -> Result<Vec<ImageDescriptor>, ImageError> {
    open(&tar_of(files).end())?.images(None)
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

#[test]
fn oci_layouts_are_read_from_tar_and_directory_in_every_compression() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let files = oci(compression);
        let image = check(&open(&tar_of(&files).end()).unwrap(), &["test:1"]);
        assert!(image.manifest.is_some());
        for (layer, tar) in image.layers.iter().zip(layer_tars()) {
            let bytes = compressed(compression, &tar);
            assert_eq!(layer.compression, compression);
            assert_eq!(layer.blob, Some(digest_of(&bytes)));
            assert_eq!(layer.size, Bytes::new(bytes.len().try_into().unwrap()));
            assert_eq!(layer.media_type.as_deref(), Some(LAYER));
        }
        let dir = dir_of(&files);
        let archive = open_at(dir.path()).unwrap();
        assert_eq!(check(&archive, &["test:1"]), image);
    }
}

#[test]
fn docker_archives_are_read() {
    let image = check(
        &open(&tar_of(&docker()).end()).unwrap(),
        &["test:1", "test:latest"],
    );
    assert_eq!(image.manifest, None);
    assert!(
        image
            .layers
            .iter()
            .all(|l| l.blob.is_none() && l.media_type.is_none())
    );
}

#[test]
fn layers_of_a_docker_archive_may_be_links_and_names_may_vary() {
    let mut files = docker();
    let lower = files.remove("a/layer.tar").unwrap();
    let upper = files.remove("b/layer.tar").unwrap();
    let mut tar = Tar::default()
        .file("./c/layer.tar", lower)
        .file("/d/real", upper);
    for (name, bytes) in &files {
        tar = tar.file(format!("./{name}"), bytes);
    }
    let tar = tar
        .dir("a")
        .symlink("a/layer.tar", "../c/layer.tar")
        .hardlink("b/layer.tar", "d/real")
        .end();
    check(&open(&tar).unwrap(), &["test:1", "test:latest"]);
}

/// Docker since 25 writes both forms into one tar.
#[test]
fn a_tar_of_both_forms_gives_the_digests_of_one_and_the_names_of_the_other() {
    let tars = layer_tars();
    let mut files = oci(Compression::None);
    let config = format!(
        "blobs/sha256/{}",
        digest_of(&config("amd64", &tars)).to_hex()
    );
    let layers = tars.map(|tar| format!("blobs/sha256/{}", digest_of(&tar).to_hex()));
    let manifest = docker_manifest(&config, &["user/test:1"], &[&layers[0], &layers[1]]);
    files.insert("manifest.json".into(), manifest);
    let image = check(&open(&tar_of(&files).end()).unwrap(), &["user/test:1"]);
    assert!(image.manifest.is_some());

    // And each for itself.
    files.remove("index.json");
    let image = check(&open(&tar_of(&files).end()).unwrap(), &["user/test:1"]);
    assert_eq!(image.manifest, None);
    assert_eq!(image.layers[0].blob, Some(image.layers[0].diff_id));
}

#[test]
fn streams_and_compressed_archives_are_spooled() {
    let dir = TempDir::new().unwrap();
    let tar = tar_of(&docker()).end();
    let spool = |dir, bytes: usize| Spool {
        dir,
        limit: Bytes::new(u64::try_from(bytes).unwrap()),
    };
    let enough = spool(dir.path(), tar.len());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let bytes = compressed(compression, &tar);
        let archive = Archive::open_stream(bytes.as_slice(), &enough).unwrap();
        check(&archive, &["test:1", "test:latest"]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        check(
            &Archive::open(file.path(), &enough).unwrap(),
            &["test:1", "test:latest"],
        );
        // However small it comes, what counts is what it becomes.
        let short = spool(dir.path(), tar.len() - 1);
        assert!(matches!(
            Archive::open_stream(bytes.as_slice(), &short),
            Err(ImageError::SpoolLimit { limit, .. }) if limit == short.limit
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let gone = dir.path().join("gone");
    assert!(matches!(
        Archive::open_stream(tar.as_slice(), &spool(&gone, tar.len())),
        Err(ImageError::Spool { dir, .. }) if dir == gone
    ));
    let cut = compressed(Compression::Gzip, &tar);
    assert!(matches!(
        Archive::open_stream(&cut[..cut.len() / 2], &enough),
        Err(ImageError::Read { .. })
    ));
}

#[test]
fn one_image_is_chosen_by_platform() {
    let mut files = Files::new();
    let amd = oci_manifest(&mut files, "amd64", Compression::None);
    let arm = oci_manifest(&mut files, "arm64", Compression::Gzip);
    let nested = index(&[
        with_platform(amd.clone(), "amd64"),
        with_platform(arm.clone(), "arm64"),
    ]);
    let nested = blob(&mut files, INDEX, &nested);
    let outer = index(&[nested]);
    let outer = blob(&mut files, INDEX, &outer);
    let forms = [
        vec![named(outer, "test:1")],
        vec![
            named(with_platform(amd, "amd64"), "test:1"),
            named(with_platform(arm, "arm64"), "test:1"),
        ],
    ];
    for manifests in forms {
        layout(&mut files, &manifests);
        let archive = open(&tar_of(&files).end()).unwrap();
        for architecture in ["amd64", "arm64"] {
            let wanted: Platform = format!("linux/{architecture}").parse().unwrap();
            let images = archive.images(Some(&wanted)).unwrap();
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].config.platform, wanted);
            assert_eq!(names_of(&images[0]), ["test:1"]);
        }
        let host = archive.images(None).unwrap();
        assert_eq!(host[0].config.platform, Platform::host());
        let other = "linux/s390x".parse().unwrap();
        assert!(matches!(
            archive.images(Some(&other)),
            Err(ImageError::NoMatchingPlatform { wanted, available })
                if wanted == "linux/s390x" && available == ["linux/amd64", "linux/arm64"]
        ));
    }
}

#[test]
fn the_only_platform_will_do_unless_another_is_asked_for() {
    let mut files = Files::new();
    let manifest = oci_manifest(&mut files, "s390x", Compression::None);
    layout(&mut files, &[manifest]);
    let archive = open(&tar_of(&files).end()).unwrap();
    assert_eq!(archive.images(None).unwrap().len(), 1);
    let host = Platform::host();
    assert!(matches!(
        archive.images(Some(&host)),
        Err(ImageError::NoMatchingPlatform { .. })
    ));
    let archive = open(&tar_of(&docker()).end()).unwrap();
    let wanted = "linux/s390x".parse().unwrap();
    assert!(matches!(
        archive.images(Some(&wanted)),
        Err(ImageError::NoMatchingPlatform { available, .. }) if available == ["linux/amd64"]
    ));
}

#[test]
fn attestations_are_no_images_and_two_names_are_one() {
    let mut files = Files::new();
    let manifest = oci_manifest(&mut files, "amd64", Compression::None);
    let mut attestation = blob(&mut files, MANIFEST, b"{}");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    layout(
        &mut files,
        &[
            named(manifest.clone(), "a"),
            named(manifest, "b"),
            attestation,
        ],
    );
    let images = images(&files).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(names_of(&images[0]), ["a", "b"]);
}

#[test]
fn what_is_no_archive_of_images_is_refused() {
    let plain = Tar::default().file("etc/passwd", "").end();
    for bytes in [
        &b""[..],
        b"hello",
        &[0; 2048],
        &[b'x'; 5000],
        &plain,
        b"BZh91AY&SY",
    ] {
        assert!(
            matches!(open(bytes), Err(ImageError::NotAnImage)),
            "{bytes:?}"
        );
    }
    let dir = TempDir::new().unwrap();
    assert!(matches!(open_at(dir.path()), Err(ImageError::NotAnImage)));
    assert!(matches!(
        open_at(&dir.path().join("gone")),
        Err(ImageError::Read { .. })
    ));
    let mut files = Files::new();
    layout(&mut files, &[]);
    assert!(matches!(images(&files), Err(ImageError::NoImages)));
    let whole = tar_of(&docker()).end();
    assert!(matches!(
        open(&whole[..2000]),
        Err(ImageError::Truncated {
            what: Content::Archive,
            ..
        })
    ));
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

#[test]
fn every_digest_and_size_is_checked() {
    let whole = oci(Compression::Gzip);
    for (name, bytes) in &whole {
        if !name.starts_with("blobs/") {
            continue;
        }
        let promised: Digest = format!("sha256:{}", &name["blobs/sha256/".len()..])
            .parse()
            .unwrap();
        let mut flipped = whole.clone();
        let at = bytes.len() / 2;
        flipped.get_mut(name).unwrap()[at] ^= 1;
        let result = open(&tar_of(&flipped).end()).and_then(|archive| {
            let image = archive.images(None)?.remove(0);
            let dir = TempDir::new().unwrap();
            let root = fs::File::open(dir.path()).unwrap();
            for layer in &image.layers {
                archive.apply_layer(layer, root.as_fd(), &Control::default())?;
            }
            Ok(())
        });
        assert!(
            matches!(result, Err(ImageError::DigestMismatch { expected, found, .. })
                if expected == promised && found == digest_of(&flipped[name])),
            "{name}: {result:?}"
        );

        let mut cut = whole.clone();
        cut.get_mut(name).unwrap().truncate(bytes.len() - 1);
        assert!(
            matches!(images(&cut), Err(ImageError::SizeMismatch { digest, .. })
                if digest == promised),
            "{name}"
        );

        let mut without = whole.clone();
        without.remove(name);
        assert!(
            matches!(images(&without), Err(ImageError::MissingBlob { name: n }) if n == *name),
            "{name}"
        );
    }
}

#[test]
fn a_docker_archives_configuration_is_checked_against_its_name() {
    let mut files = docker();
    let name = files
        .keys()
        .find(|n| n.ends_with(".json") && *n != "manifest.json")
        .unwrap()
        .clone();
    files.get_mut(&name).unwrap().push(b' ');
    assert!(matches!(
        images(&files),
        Err(ImageError::DigestMismatch {
            what: Content::Config,
            ..
        })
    ));
    files.remove(&name);
    assert!(matches!(images(&files), Err(ImageError::MissingBlob { name: n }) if n == name));
}

#[test]
fn a_docker_archives_layers_are_checked_against_their_diff_ids() {
    let mut files = docker();
    files.insert(
        "b/layer.tar".into(),
        Tar::default().file("forged", "").end(),
    );
    let archive = open(&tar_of(&files).end()).unwrap();
    let image = archive.images(None).unwrap().remove(0);
    let dir = TempDir::new().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let result = archive.apply_layer(&image.layers[1], root.as_fd(), &Control::default());
    assert!(matches!(
        result,
        Err(ImageError::DigestMismatch { what: Content::LayerTar, expected, found })
            if expected == image.layers[1].diff_id && found == digest_of(&files["b/layer.tar"])
    ));
}

#[test]
fn layers_and_diff_ids_must_be_as_many() {
    let one_less = with_manifest(|m| {
        m["layers"].as_array_mut().unwrap().pop();
    });
    assert!(matches!(
        images(&one_less),
        Err(ImageError::LayerCount {
            layers: 1,
            diff_ids: 2
        })
    ));
    let mut files = docker();
    let name = files
        .keys()
        .find(|n| n.ends_with(".json") && *n != "manifest.json")
        .unwrap()
        .clone();
    files.insert(
        "manifest.json".into(),
        docker_manifest(&name, &[], &["a/layer.tar"]),
    );
    assert!(matches!(images(&files), Err(ImageError::LayerCount { .. })));
}

#[test]
fn media_types_are_known_or_refused() {
    let of_layer = |media_type: &str| {
        images(&with_manifest(|m| {
            m["layers"][1]["mediaType"] = json!(media_type)
        }))
    };
    for good in [
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ] {
        assert!(of_layer(good).is_ok(), "{good}");
    }
    assert!(matches!(
        of_layer("application/x-thing"),
        Err(ImageError::UnknownMediaType { what: Content::LayerBlob, media_type })
            if media_type == "application/x-thing"
    ));
    for foreign in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        assert!(
            matches!(of_layer(foreign), Err(ImageError::ForeignLayer { .. })),
            "{foreign}"
        );
    }
    assert!(matches!(
        of_layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        Err(ImageError::EncryptedLayer { .. })
    ));
    assert!(matches!(
        images(&with_manifest(
            |m| m["config"]["mediaType"] = json!("text/x")
        )),
        Err(ImageError::UnknownMediaType {
            what: Content::Config,
            ..
        })
    ));
    assert!(matches!(
        images(&with_manifest(|m| m["mediaType"] = json!(INDEX))),
        Err(ImageError::UnknownMediaType {
            what: Content::Manifest,
            ..
        })
    ));
    let mut files = Files::new();
    let thing = blob(&mut files, "text/x", b"{}");
    layout(&mut files, &[thing]);
    assert!(matches!(
        images(&files),
        Err(ImageError::UnknownMediaType {
            what: Content::Manifest,
            ..
        })
    ));
}

#[test]
fn digests_that_cannot_be_checked_are_refused() {
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert!(matches!(
        images(&with_manifest(|m| m["layers"][0]["digest"] = json!(sha512))),
        Err(ImageError::Digest {
            what: Content::LayerBlob,
            ..
        })
    ));
}

#[test]
fn other_compressions_are_named() {
    let mut files = docker();
    files.insert("a/layer.tar".into(), b"\xfd7zXZ\0rest".to_vec());
    assert!(matches!(
        images(&files),
        Err(ImageError::UnsupportedCompression { format: "xz", .. })
    ));
}

#[test]
fn names_used_twice_are_refused_when_used() {
    let files = docker();
    let twice = |name: &str| {
        open(&tar_of(&files).file(name, "other").end())
            .unwrap()
            .images(None)
    };
    assert!(matches!(
        twice("./a/layer.tar"),
        Err(ImageError::DuplicateEntry { name }) if name == "a/layer.tar"
    ));
    assert!(matches!(
        twice("manifest.json"),
        Err(ImageError::DuplicateEntry { name }) if name == "manifest.json"
    ));
    assert!(twice("a/VERSION").is_ok());
}

#[test]
fn names_cannot_lead_out_of_the_archive() {
    let files = docker();
    assert!(matches!(
        open(&tar_of(&files).file("../x", "").end()),
        Err(ImageError::PathEscape { .. })
    ));
    let mut link = files.clone();
    link.remove("a/layer.tar");
    assert!(matches!(
        open(
            &tar_of(&link)
                .symlink("a/layer.tar", "../../etc/passwd")
                .end()
        ),
        Err(ImageError::PathEscape { .. })
    ));
    let round = tar_of(&link).symlink("a/layer.tar", "layer.tar").end();
    assert!(matches!(
        open(&round).unwrap().images(None),
        Err(ImageError::NotAFile { .. })
    ));
    let mut named = files;
    named.insert(
        "manifest.json".into(),
        docker_manifest("../config.json", &[], &[]),
    );
    assert!(matches!(
        images(&named),
        Err(ImageError::PathEscape { path }) if path == Path::new("../config.json")
    ));

    // In a directory a link may lead to a file of the layout, and no further.
    let dir = dir_of(&oci(Compression::None));
    let manifest = fs::read(dir.path().join("index.json")).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), manifest).unwrap();
    fs::rename(dir.path().join("index.json"), dir.path().join("real.json")).unwrap();
    std::os::unix::fs::symlink("real.json", dir.path().join("index.json")).unwrap();
    check(&open_at(dir.path()).unwrap(), &["test:1"]);
    fs::remove_file(dir.path().join("index.json")).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("index.json")).unwrap();
    assert!(matches!(open_at(dir.path()), Err(ImageError::NotAnImage)));
}

#[test]
fn members_that_are_no_plain_files_are_refused() {
    let mut files = docker();
    let layer = files.remove("a/layer.tar").unwrap();
    let size = layer.len();
    let sparse = Head::new(b'0', "a/layer.tar")
        .pax("GNU.sparse.size", size.to_string())
        .pax("GNU.sparse.map", format!("0,{size}"));
    for tar in [
        tar_of(&files).add(&sparse, &layer),
        tar_of(&files).add(&Head::new(b'6', "a/layer.tar"), ""),
    ] {
        assert!(matches!(
            open(&tar.end()).unwrap().images(None),
            Err(ImageError::NotAFile { name }) if name == "a/layer.tar"
        ));
    }
    let dir = dir_of(&oci(Compression::None));
    let index = dir.path().join("index.json");
    fs::remove_file(&index).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &index, fifo, 0o600.into(), 0).unwrap();
    let archive = open_at(dir.path()).unwrap();
    assert!(matches!(
        archive.images(None),
        Err(ImageError::NotAFile { .. })
    ));
}

#[test]
fn documents_are_bounded_and_must_read() {
    let mut files = oci(Compression::None);
    files.insert("index.json".into(), vec![b' '; (4 << 20) + 1]);
    assert!(matches!(
        images(&files),
        Err(ImageError::DocumentTooLarge { size, .. }) if size == Bytes::new((4 << 20) + 1)
    ));
    files.insert("index.json".into(), b"{".to_vec());
    assert!(matches!(
        images(&files),
        Err(ImageError::Document {
            what: Content::Index,
            ..
        })
    ));
    let mut files = docker();
    files.insert("manifest.json".into(), b"{}".to_vec());
    assert!(matches!(
        images(&files),
        Err(ImageError::Document {
            what: Content::Manifest,
            ..
        })
    ));
}

#[test]
fn indexes_nest_so_deep_and_no_deeper() {
    let mut files = Files::new();
    let mut inner = oci_manifest(&mut files, "amd64", Compression::None);
    for depth in 0..6 {
        layout(&mut files, &[inner.clone()]);
        let result = images(&files);
        if depth <= 4 {
            assert_eq!(result.unwrap().len(), 1, "{depth}");
        } else {
            assert!(
                matches!(result, Err(ImageError::TooManyManifests)),
                "{depth}"
            );
        }
        inner = blob(&mut files, INDEX, &index(&[inner]));
    }
    // Sixteen in each of four levels would be 65536.
    let mut inner = oci_manifest(&mut files, "amd64", Compression::None);
    for _ in 0..4 {
        inner = blob(&mut files, INDEX, &index(&vec![inner; 16]));
    }
    layout(&mut files, &[inner]);
    assert!(matches!(images(&files), Err(ImageError::TooManyManifests)));
}
