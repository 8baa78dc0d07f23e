//! Archives that we write are read again as the same image, by the same bytes each time.

use super::{Archive, Files, apply_all, check, config, layer_tars, names_of, open};
use crate::ids::ImageRef;
use crate::image::archive::{ArchiveForm, OutImage, OutLayer, write_archive};
use crate::image::{Content, ImageError, digest_of};
use crate::units::Bytes;

const FORMS: [ArchiveForm; 2] = [ArchiveForm::Docker, ArchiveForm::Oci];

fn out_layer(tar: &[u8]) -> OutLayer {
    OutLayer {
        diff_id: digest_of(tar),
        size: Bytes::new(tar.len().try_into().unwrap()),
    }
}

fn references(names: &[&str]) -> Vec<ImageRef> {
    names
        .iter()
        .map(|name| ImageRef::new(*name).unwrap())
        .collect()
}

fn written(form: ArchiveForm, names: &[&str], tars: &[Vec<u8>]) -> Result<Vec<u8>, ImageError> {
    let image = OutImage {
        config: &config("amd64", tars),
        names: &references(names),
        layers: &tars.iter().map(|tar| out_layer(tar)).collect::<Vec<_>>(),
    };
    let mut bytes = Vec::new();
    write_archive(&mut bytes, form, &image, &mut |place, out| {
        out.write_all(&tars[place]).map_err(ImageError::Write)
    })?;
    Ok(bytes)
}

/// The members of a tar by a reader that is not ours.
fn members(bytes: &[u8]) -> Files {
    let mut archive = tar::Archive::new(bytes);
    let mut files = Files::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        assert_eq!(
            files.insert(name.clone(), content),
            None,
            "{name} comes twice"
        );
    }
    files
}

#[test]
fn what_was_written_is_read_as_the_same_image() {
    for form in FORMS {
        let bytes = written(form, &["reg.example:5000/a/b:1", "c:2"], &layer_tars()).unwrap();
        let archive = open(&bytes).unwrap();
        let image = check(&archive, &["reg.example:5000/a/b:1", "c:2"]);
        assert_eq!(image.config.json, config("amd64", &layer_tars()));
        assert_eq!(bytes.len() % 512, 0);
    }
}

#[test]
fn the_same_image_is_the_same_bytes() {
    let digests = FORMS.map(|form| {
        let bytes = written(form, &["test:1"], &layer_tars()).unwrap();
        digest_of(&bytes).to_string()
    });
    assert_eq!(
        digests,
        [
            "sha256:1f1e9233f3c709c987fb78385312fe6f0e3036b4fd1a1f5fbe17be299f023783",
            "sha256:611c21dbd6f42da358fae0c84c5b69d428056dcd25c88cfb80e7710b515dc0ca",
        ]
    );
}

#[test]
fn members_are_named_as_other_tools_name_them() {
    let [lower, upper] = layer_tars();
    let config = config("amd64", &[lower.clone(), upper.clone()]);
    let hex = |bytes: &[u8]| digest_of(bytes).to_hex();
    let docker = members(&written(ArchiveForm::Docker, &["a:1"], &layer_tars()).unwrap());
    assert_eq!(
        String::from_utf8(docker["manifest.json"].clone()).unwrap(),
        format!(
            r#"[{{"Config":"{}.json","Layers":["{}.tar","{}.tar"],"RepoTags":["a:1"]}}]"#,
            hex(&config),
            hex(&lower),
            hex(&upper)
        )
    );
    assert_eq!(docker[&format!("{}.tar", hex(&lower))], lower);
    assert_eq!(docker.len(), 4);
    let oci = members(&written(ArchiveForm::Oci, &["reg:5/a@sha256:12"], &layer_tars()).unwrap());
    let index: serde_json::Value = serde_json::from_slice(&oci["index.json"]).unwrap();
    assert_eq!(
        index["manifests"][0]["annotations"],
        serde_json::json!({"io.containerd.image.name": "reg:5/a@sha256:12",
            "org.opencontainers.image.ref.name": "sha256:12"})
    );
    assert_eq!(oci[&format!("blobs/sha256/{}", hex(&upper))], upper);
    assert_eq!(oci[&format!("blobs/sha256/{}", hex(&config))], config);
}

#[test]
fn an_image_without_a_name_or_with_a_layer_twice_is_whole() {
    let tar = layer_tars()[0].clone();
    for form in FORMS {
        let bytes = written(form, &[], &[tar.clone(), tar.clone()]).unwrap();
        members(&bytes);
        let archive: Archive = open(&bytes).unwrap();
        let image = archive.images(None).unwrap().remove(0);
        assert_eq!(names_of(&image), Vec::<&str>::new());
        assert_eq!(image.layers.len(), 2);
        assert!(
            apply_all(&archive, &image)
                .path()
                .join("etc/lower")
                .exists()
        );
    }
}

#[test]
fn a_layer_that_is_another_is_told() {
    let tars = layer_tars();
    for form in FORMS {
        let write = |content: &[u8]| {
            let image = OutImage {
                config: b"{}",
                names: &[],
                layers: &[out_layer(&tars[0])],
            };
            write_archive(&mut Vec::new(), form, &image, &mut |_, out| {
                out.write_all(content).map_err(ImageError::Write)
            })
        };
        let mut other = tars[0].clone();
        other[700] ^= 1;
        assert!(matches!(
            write(&other),
            Err(ImageError::DigestMismatch {
                what: Content::LayerTar,
                ..
            })
        ));
        assert!(matches!(
            write(&other[1..]),
            Err(ImageError::SizeMismatch {
                what: Content::LayerTar,
                ..
            })
        ));
        assert!(write(&tars[0]).is_ok());
    }
}
