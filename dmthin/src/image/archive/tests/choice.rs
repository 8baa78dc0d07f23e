//! Which of several images is meant.

use super::*;

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
