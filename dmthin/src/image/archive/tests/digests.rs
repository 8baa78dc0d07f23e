//! Digests and sizes that do not match.

use super::*;

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
