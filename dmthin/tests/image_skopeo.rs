//! Archives that we write are taken by skopeo, which copies them with every digest the same.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test helper"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use dmthin::ids::{Digest, ImageRef};
use dmthin::image::{
    ArchiveForm, ImageError, OutImage, OutLayer, Platform, bare_config, digest_of, write_archive,
};
use dmthin::units::Bytes;
use serde_json::Value;

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len().try_into().unwrap());
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn layer_of(tar: &[u8]) -> OutLayer {
    OutLayer {
        diff_id: digest_of(tar),
        size: Bytes::new(tar.len().try_into().unwrap()),
    }
}

/// Three layers, of which one comes twice.
fn write(form: ArchiveForm, path: &Path) -> (Digest, Vec<String>) {
    let (a, b) = (tar("a", &[7; 100_000]), tar("b", b"bb"));
    let tars = [a.clone(), b, a];
    let layers: Vec<_> = tars.iter().map(|tar| layer_of(tar)).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    let config = bare_config(&Platform::host(), &diff_ids);
    let image = OutImage {
        config: &config,
        names: &[ImageRef::new("example.org/team/app:v1").unwrap()],
        layers: &layers,
    };
    let mut file = fs::File::create(path).unwrap();
    write_archive::<ImageError>(&mut file, form, &image, &mut |place, out| {
        out.write_all(&tars[place]).map_err(ImageError::Write)
    })
    .unwrap();
    let diff_ids = diff_ids.iter().map(ToString::to_string).collect();
    (digest_of(&config), diff_ids)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn skopeo_copies_what_we_write_by_the_same_digests() {
    let dir = tempfile::tempdir().unwrap();
    for (form, transport) in [
        (ArchiveForm::Docker, "docker-archive"),
        (ArchiveForm::Oci, "oci-archive"),
    ] {
        let path = dir.path().join(transport);
        let (id, diff_ids) = write(form, &path);
        let source = format!("{transport}:{}", path.display());
        let inspected: Value = serde_json::from_str(&skopeo(&["inspect", &source])).unwrap();
        assert_eq!(
            inspected["Layers"],
            Value::from(diff_ids.clone()),
            "{inspected}"
        );
        let copy = dir.path().join(format!("{transport}-copy"));
        // What it does not have to compress it keeps byte for byte.
        skopeo(&[
            "copy",
            "--dest-decompress",
            &source,
            &format!("dir:{}", copy.display()),
        ]);
        let manifest = json(&copy.join("manifest.json"));
        assert_eq!(manifest["config"]["digest"], id.to_string(), "{manifest}");
        let layers: Vec<_> = manifest["layers"].as_array().unwrap().iter().collect();
        assert_eq!(layers.len(), 3);
        for (layer, diff_id) in layers.into_iter().zip(&diff_ids) {
            assert_eq!(layer["digest"], Value::from(diff_id.as_str()), "{manifest}");
            assert!(copy.join(&diff_id["sha256:".len()..]).exists());
        }
    }
}
