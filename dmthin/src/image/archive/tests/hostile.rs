//! What is refused, whatever its digests say.

use super::*;

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
    let twice = |name: &str| whole(&open(&tar_of(&files).file(name, "other").end()).unwrap());
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
        whole(&open(&round).unwrap()),
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
            whole(&open(&tar.end()).unwrap()),
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
