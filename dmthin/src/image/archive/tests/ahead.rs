//! Layers that are read while another one is applied, and layers that are not looked at.

use std::fs::File;
use std::thread;

use super::*;
use crate::image::archive::Ahead;

/// A docker-archive of these blobs; the configuration promises these tars.
fn docker_of(tars: &[Vec<u8>], blobs: &[Vec<u8>]) -> Files {
    let config = config_of(tars);
    let name = format!("{}.json", digest_of(&config).to_hex());
    let members: Vec<_> = (0..blobs.len()).map(|n| format!("{n}/layer.tar")).collect();
    let listed: Vec<_> = members.iter().map(String::as_str).collect();
    let manifest = docker_manifest(&name, &["test:1"], &listed);
    let mut files = Files::from([("manifest.json".into(), manifest), (name, config)]);
    files.extend(members.into_iter().zip(blobs.iter().cloned()));
    files
}

fn config_of(tars: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = tars.iter().map(|tar| digest_of(tar).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// Layers with a file each, larger than what is decompressed at a time.
fn five() -> Vec<Vec<u8>> {
    let tar = |n: u8| {
        let content = vec![n; 300_000];
        Tar::default().file(format!("file{n}"), content).end()
    };
    (0..5).map(tar).collect()
}

fn blobs_of(tars: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let all = [Compression::Gzip, Compression::None, Compression::Zstd];
    let blobs = tars.iter().zip(all.into_iter().cycle());
    blobs.map(|(tar, how)| compressed(how, tar)).collect()
}

fn begun(ahead: &Ahead<'_, '_>) -> Vec<bool> {
    let layers = ahead.layers.iter();
    layers.map(|waiting| waiting.stream.is_some()).collect()
}

/// Has `work` apply layers of an archive, with a function that applies the `n`th.
fn with_ahead(
    files: &Files,
    work: impl FnOnce(&mut dyn FnMut(usize) -> (Result<(), ImageError>, Vec<bool>), &Path),
) {
    let archive = open(&tar_of(files).end()).unwrap();
    let image = archive.images(None).unwrap().remove(0);
    let dir = TempDir::new().unwrap();
    let root = File::open(dir.path()).unwrap();
    thread::scope(|scope| {
        let mut ahead = archive.ahead(scope, image.layers.clone());
        assert_eq!(begun(&ahead)[..2], [true, true]);
        let mut apply = |n: usize| {
            let split = tempfile::tempfile().unwrap();
            let control = Control::default();
            let layer = &image.layers[n];
            let applied = ahead.apply_layer_recorded(layer, root.as_fd(), &control, &split);
            (applied.map(drop), begun(&ahead))
        };
        work(&mut apply, dir.path());
    });
}

#[test]
fn no_more_than_two_layers_are_read_ahead() {
    let tars = five();
    with_ahead(&docker_of(&tars, &blobs_of(&tars)), |apply, dir| {
        for (n, expected) in [
            (0, vec![true, true, false, false]),
            (1, vec![true, true, false]),
            (2, vec![true, true]),
            (3, vec![true]),
            (4, vec![]),
        ] {
            let (applied, begun) = apply(n);
            applied.unwrap();
            assert_eq!(begun, expected);
            let content = fs::read(dir.join(format!("file{n}"))).unwrap();
            assert!(content == vec![u8::try_from(n).unwrap(); 300_000]);
        }
    });
}

/// Another import has sealed them meanwhile.
#[test]
fn layers_that_are_passed_over_are_given_up() {
    let tars = five();
    with_ahead(&docker_of(&tars, &blobs_of(&tars)), |apply, dir| {
        for (n, expected) in [(2, vec![true, true]), (4, vec![]), (0, vec![])] {
            let (applied, begun) = apply(n);
            applied.unwrap();
            assert_eq!(begun, expected);
        }
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["file0", "file2", "file4"]);
    });
}

#[test]
fn what_is_wrong_with_a_later_layer_is_told_in_its_turn() {
    let tars = five();
    let mut damaged = blobs_of(&tars);
    let end = damaged[2].len() - 6;
    damaged[2][end] ^= 0xff;
    let mut unknown = blobs_of(&tars);
    unknown[2] = b"\xfd7zXZ\0and so on".to_vec();
    let mut missing = docker_of(&tars, &blobs_of(&tars));
    missing.remove("2/layer.tar");
    let expected = [
        (docker_of(&tars, &damaged), "Corrupt("),
        (docker_of(&tars, &unknown), "UnsupportedCompression {"),
        (missing, "MissingBlob { name: \"2/layer.tar\" }"),
    ];
    for (files, expected) in expected {
        with_ahead(&files, |apply, dir| {
            apply(0).0.unwrap();
            apply(1).0.unwrap();
            let error = apply(2).0.unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error:?}");
            assert!(!dir.join("file3").exists());
        });
    }
}

/// Who has a layer may give an archive without its blob.
#[test]
fn a_blob_is_looked_at_only_when_it_is_asked_for() {
    let tars = five();
    let mut blobs = blobs_of(&tars);
    blobs[1] = b"BZh9 damaged".to_vec();
    let mut files = docker_of(&tars, &blobs);
    files.remove("0/layer.tar");
    let mut layout = oci(Compression::Gzip);
    layout.retain(|name, blob| !name.starts_with("blobs/") || blob.starts_with(b"{"));
    for files in [files, layout] {
        let archive = open(&tar_of(&files).end()).unwrap();
        let image = archive.images(None).unwrap().remove(0);
        assert!(matches!(
            archive.layer_blob(&image.layers[0]),
            Err(ImageError::MissingBlob { .. })
        ));
        if let [_, _, third, ..] = &*image.layers {
            archive.layer_blob(third).unwrap();
        }
    }
}
