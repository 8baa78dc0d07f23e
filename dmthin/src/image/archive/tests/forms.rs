//! Every form that an archive has.

use super::*;

#[test]
fn oci_layouts_are_read_from_tar_and_directory_in_every_compression() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let files = oci(compression);
        let archive = open(&tar_of(&files).end()).unwrap();
        let image = check(&archive, &["test:1"]);
        assert!(image.manifest.is_some());
        for (layer, tar) in image.layers.iter().zip(layer_tars()) {
            let bytes = compressed(compression, &tar);
            let blob = archive.layer_blob(layer).unwrap();
            assert_eq!(blob.compression, compression);
            assert_eq!(layer.blob, Some(digest_of(&bytes)));
            assert_eq!(blob.size, Bytes::new(bytes.len().try_into().unwrap()));
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
