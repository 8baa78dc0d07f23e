//! Tars of every kind come back byte by byte, and what was changed in the layer is named.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::sample::select;
use tempfile::TempDir;

use super::{rebuild_layer, verify_layer};
use crate::image::control::Control;
use crate::image::digest_of;
use crate::image::layer::{Compression, Promise, apply_layer_recorded};
use crate::image::testing::{Head, Tar, apply_to, compressed, pax_record};
use crate::image::{Applied, ImageError};

struct Layer {
    root: TempDir,
    split: File,
    tar: Vec<u8>,
    applied: Applied,
}

/// Applies a tar on top of others, recorded.
fn record(lower: &[Vec<u8>], tar: Vec<u8>) -> Result<Layer, ImageError> {
    let root = TempDir::new().unwrap();
    for layer in lower {
        apply_to(root.path(), layer)?;
    }
    let split = tempfile::tempfile().unwrap();
    // What is in it already is of a failed try.
    (&split).write_all(&[0xff; 5000]).unwrap();
    let blob = compressed(Compression::Gzip, &tar);
    let promise = Promise {
        compression: Compression::Gzip,
        diff_id: digest_of(&tar),
        blob: Some(digest_of(&blob)),
    };
    let dir = File::open(root.path()).unwrap();
    let open = || Ok(blob.as_slice());
    let applied = apply_layer_recorded(open, promise, dir.as_fd(), &Control::default(), &split)?;
    Ok(Layer {
        root,
        split,
        tar,
        applied,
    })
}

impl Layer {
    fn rebuilt(&self) -> Result<Vec<u8>, ImageError> {
        let root = File::open(self.root.path()).unwrap();
        let mut out = Vec::new();
        rebuild_layer(&self.split, root.as_fd(), digest_of(&self.tar), &mut out)?;
        Ok(out)
    }

    fn changed(&self) -> Vec<PathBuf> {
        let root = File::open(self.root.path()).unwrap();
        verify_layer(&self.split, root.as_fd(), digest_of(&self.tar)).unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn split_len(&self) -> u64 {
        self.split.metadata().unwrap().len()
    }

    fn check(&self) {
        assert_eq!(self.rebuilt().unwrap(), self.tar);
        assert_eq!(self.changed(), Vec::<PathBuf>::new());
    }
}

/// Bytes that do not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// A sparse file in the form of GNU tar's version 1.0.
fn sparse(tar: Tar, path: &str, data: &[u8]) -> Tar {
    let half = data.len() / 2;
    let mut map = format!("2\n4096\n{half}\n1000000\n{}\n", data.len() - half).into_bytes();
    map.resize(512, 0);
    let head = Head::new(b'0', "GNUSparseFile.0/x")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", path)
        .pax("GNU.sparse.realsize", "2000000");
    tar.add(&head, [map.as_slice(), data].concat())
}

#[test]
fn contents_are_kept_by_reference() {
    let tar = Tar::default()
        .dir("d")
        .file("d/a", noise(1 << 20, 1))
        .hardlink("d/b", "d/a")
        .symlink("l", "d")
        .file("empty", "")
        .add(&Head::new(b'0', "n".repeat(200)), noise(100_000, 2))
        .end();
    let layer = record(&[], tar).unwrap();
    assert!(!layer.applied.displaced);
    layer.check();
    assert!(layer.split_len() < 1500, "{}", layer.split_len());
    // Again and again: it is read from its beginning.
    layer.check();
}

#[test]
fn sparse_files_come_back_in_their_form() {
    let data = noise(9000, 3);
    let layer = record(&[], sparse(Tar::default(), "s", &data).end()).unwrap();
    layer.check();
    assert!(layer.split_len() < 1000, "{}", layer.split_len());
    assert_eq!(fs::metadata(layer.at("s")).unwrap().len(), 2_000_000);
}

/// Of two entries of a name the first is nowhere but in the record; so is what was replaced with the
/// directory it was in, and what was reached by a link that another one replaced.
#[test]
fn what_is_nowhere_is_kept_in_full() {
    let twice = Tar::default()
        .file("a", noise(50_000, 4))
        .file("a", noise(60_000, 5))
        .end();
    let below = Tar::default()
        .file("d/f", noise(50_000, 6))
        .file("d", noise(60_000, 7))
        .end();
    for tar in [twice, below] {
        let layer = record(&[], tar).unwrap();
        assert!(layer.applied.displaced);
        layer.check();
        let len = layer.split_len();
        assert!((50_000..54_000).contains(&len), "{len}");
    }
    let lower = Tar::default().dir("e").symlink("l", "e").end();
    let by_link = Tar::default()
        .file("l/f", noise(50_000, 8))
        .file(".wh.l", "")
        .end();
    let layer = record(&[lower], by_link).unwrap();
    assert!(layer.applied.displaced);
    assert!(layer.at("e/f").exists() && !layer.at("l").exists());
    layer.check();
}

/// The beginning that two entries of one name have in common is referred to, the rest is kept.
#[test]
fn a_file_that_is_continued_is_kept_from_there() {
    let long = noise(200_000, 9);
    let other = [&long[..150_000], &noise(10, 10)].concat();
    let tar = Tar::default().file("a", &other).file("a", &long).end();
    let layer = record(&[], tar).unwrap();
    layer.check();
    assert!(layer.split_len() < 1000, "{}", layer.split_len());
}

#[test]
fn what_lies_behind_the_end_comes_back() {
    let tar = Tar::default().file("a", "x").end();
    let tar = [tar.as_slice(), &[0; 9000], b"and more", &noise(3000, 11)].concat();
    record(&[], tar).unwrap().check();
    // No end at all.
    record(&[], Tar::default().file("a", "x").cut())
        .unwrap()
        .check();
    record(&[], Vec::new()).unwrap().check();
}

#[test]
fn what_was_changed_is_named() {
    let tar = sparse(Tar::default(), "s", &noise(9000, 12))
        .file("d/a", noise(10_000, 13))
        .file("b", noise(300_000, 14))
        .file("c", "")
        .end();
    type Edit = fn(&Layer);
    let edits: [(&str, Edit); 7] = [
        ("d/a", |layer| {
            let file = File::options().write(true).open(layer.at("d/a")).unwrap();
            file.write_all_at(b"!", 9_999).unwrap();
        }),
        ("b", |layer| {
            let file = File::options().append(true).open(layer.at("b")).unwrap();
            (&file).write_all(b"!").unwrap();
        }),
        ("b", |layer| {
            let file = File::options().write(true).open(layer.at("b")).unwrap();
            file.set_len(299_999).unwrap();
        }),
        ("c", |layer| fs::remove_file(layer.at("c")).unwrap()),
        ("c", |layer| {
            fs::rename(layer.at("c"), layer.at("x")).unwrap();
            std::os::unix::fs::symlink("x", layer.at("c")).unwrap();
        }),
        ("s", |layer| {
            let file = File::options().write(true).open(layer.at("s")).unwrap();
            file.write_all_at(b"!", 500_000).unwrap();
        }),
        ("d/a", |layer| {
            fs::rename(layer.at("d"), layer.at("e")).unwrap()
        }),
    ];
    for (path, edit) in edits {
        let layer = record(&[], tar.clone()).unwrap();
        layer.check();
        edit(&layer);
        assert_eq!(layer.changed(), [Path::new(path)]);
        let error = layer.rebuilt().unwrap_err();
        assert!(
            matches!(&error, ImageError::LayerChanged { path: found } if found == Path::new(path)),
            "{path}: {error:?}"
        );
    }
}

/// What has no sum of its own is told by that of the whole.
#[test]
fn a_change_that_has_no_name_is_told_all_the_same() {
    let data = noise(1000, 15);
    let tar = Tar::default()
        .file("a", &data)
        .file("a", &data[..500])
        .end();
    let layer = record(&[], tar).unwrap();
    layer.check();
    let file = File::options().write(true).open(layer.at("a")).unwrap();
    file.write_all_at(b"!!", 0).unwrap();
    assert!(matches!(
        layer.rebuilt(),
        Err(ImageError::LayerChanged { .. } | ImageError::DigestMismatch { .. })
    ));
}

#[test]
fn a_damaged_record_gives_no_other_tar() {
    let tar = Tar::default()
        .file("a", noise(1000, 16))
        .file("b", "text")
        .end();
    let mut layer = record(&[], tar).unwrap();
    let mut whole = Vec::new();
    layer.split.rewind().unwrap();
    layer.split.read_to_end(&mut whole).unwrap();
    let set = |layer: &mut Layer, bytes: &[u8]| {
        layer.split.set_len(0).unwrap();
        layer.split.write_all_at(bytes, 0).unwrap();
    };
    for cut in 0..whole.len() {
        set(&mut layer, &whole[..cut]);
        assert!(
            matches!(layer.rebuilt(), Err(ImageError::BadSplit(_))),
            "{cut}"
        );
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        set(&mut layer, &bytes);
        // Of a gzip header some bytes mean nothing.
        if let Ok(tar) = layer.rebuilt() {
            assert_eq!(tar, layer.tar);
        }
    }
    set(&mut layer, &whole);
    let root = File::open(layer.root.path()).unwrap();
    let error = rebuild_layer(
        &layer.split,
        root.as_fd(),
        digest_of(b"other"),
        &mut Vec::new(),
    );
    assert!(matches!(error, Err(ImageError::BadSplit(_))));
}

/// Where no record can be kept the layer is refused.
#[test]
fn a_record_that_cannot_be_written_is_an_error() {
    let tar = Tar::default().file("a", "x").end();
    let root = TempDir::new().unwrap();
    let dir = File::open(root.path()).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let promise = Promise {
        compression: Compression::None,
        diff_id: digest_of(&tar),
        blob: None,
    };
    let open = || Ok(tar.as_slice());
    let error = apply_layer_recorded(open, promise, dir.as_fd(), &Control::default(), &full);
    assert!(matches!(error, Err(ImageError::Split(_))), "{error:?}");
}

#[derive(Debug, Clone)]
enum Op {
    File(String, usize, u64),
    Sparse(String, usize, u64),
    Dir(String),
    Symlink(String, String),
    Hardlink(String, String),
    Mark(String, String, usize),
    Special(u8, Vec<u8>),
}

impl Op {
    fn add_to(&self, tar: Tar) -> Tar {
        match self {
            Self::File(path, len, seed) => tar.file(path, noise(*len, *seed)),
            Self::Sparse(path, len, seed) => sparse(tar, path, &noise(*len, *seed)),
            Self::Dir(path) => tar.dir(path),
            Self::Symlink(path, target) => tar.symlink(path, target),
            Self::Hardlink(path, target) => tar.hardlink(path, target),
            Self::Mark(dir, name, len) => tar.file(format!("{dir}/{name}"), noise(*len, 1)),
            Self::Special(kind, records) => tar.special(*kind, records),
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    let name = select(vec!["a", "b", "c", "./a", "a/"]);
    proptest::collection::vec(name, 1..4).prop_map(|c| c.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![0..3_usize, 0..1200_usize, Just(140_000)];
    prop_oneof![
        // Few seeds: two files often begin alike.
        6 => (path(), len(), 0..3_u64).prop_map(|(path, len, seed)| Op::File(path, len, seed)),
        2 => (path(), 2..2000_usize, 0..3_u64).prop_map(|(path, len, seed)| Op::Sparse(path, len, seed)),
        3 => path().prop_map(Op::Dir),
        3 => (path(), path()).prop_map(|(path, target)| Op::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Op::Hardlink(path, target)),
        3 => (path(), select(vec![".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq", ".wh..wh.plnk"]), len())
            .prop_map(|(dir, name, len)| Op::Mark(dir, name.to_owned(), len)),
        1 => any::<u32>().prop_map(|uid| {
            Op::Special(b'g', pax_record("mtime", uid.to_string().as_bytes()))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(120) })]

    #[test]
    fn any_tar_comes_back_byte_by_byte(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 1..14), 1..3),
        behind in proptest::collection::vec(any::<u8>(), 0..3),
    ) {
        let tars: Vec<_> = layers
            .iter()
            .map(|ops| ops.iter().fold(Tar::default(), |tar, op| op.add_to(tar)).end())
            .collect();
        let (last, lower) = tars.split_last().unwrap();
        // Some make no sense, and are refused.
        if let Ok(layer) = record(lower, [last.as_slice(), &behind].concat()) {
            layer.check();
        }
    }
}
