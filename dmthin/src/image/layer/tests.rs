//! The pipeline on streams good, cut, damaged, forged and too large.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::{ProptestConfig, proptest};
use tempfile::TempDir;

use super::{BUFFER, BUFFERS, Compression, Promise, apply_layer, begun};
use crate::ids::Digest;
use crate::image::testing::{Head, Tar, compressed};
use crate::image::{Applied, Content, Control, ImageError, digest_of};
use crate::units::Bytes;

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

fn apply(blob: &[u8], promise: Promise) -> Result<Applied, ImageError> {
    let dir = TempDir::new().unwrap();
    let root = File::open(dir.path()).unwrap();
    apply_layer(blob, promise, root.as_fd(), &Control::default())
}

fn promise(compression: Compression, tar: &[u8], blob: Option<Digest>) -> Promise {
    Promise {
        compression,
        diff_id: digest_of(tar),
        blob,
    }
}

/// Bytes that do not compress.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..n).map(|_| next()).collect()
}

/// More than fits all buffers at once.
const LARGE: usize = BUFFERS + BUFFER + 17;

fn tar_with(n: usize) -> Vec<u8> {
    Tar::default()
        .file("small", "x")
        .file("large", noise(n))
        .file("last", "y")
        .end()
}

#[test]
fn streams_larger_than_all_buffers_pass_through() {
    let tar = tar_with(LARGE);
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let dir = TempDir::new().unwrap();
        let root = File::open(dir.path()).unwrap();
        let seen = RefCell::new(Vec::new());
        let progress = |bytes: Bytes| seen.borrow_mut().push(bytes.get());
        let control = Control::default().with_progress(&progress);
        let promise = promise(compression, &tar, Some(digest_of(&blob)));
        let applied = apply_layer(blob.as_slice(), promise, root.as_fd(), &control).unwrap();
        assert_eq!(applied.tar_bytes, u64::try_from(tar.len()).unwrap());
        let large = fs::read(dir.path().join("large")).unwrap();
        assert!(large == noise(LARGE), "{compression:?}");
        assert!(dir.path().join("last").exists());
        let total: u64 = seen.borrow().iter().sum();
        assert_eq!(total, u64::try_from(blob.len()).unwrap());
        assert!(seen.borrow().len() > 1);
    }
}

#[test]
fn gzip_members_and_zstd_frames_follow_each_other() {
    let tar = tar_with(100_000);
    let (a, b) = tar.split_at(tar.len() / 3);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let blob = [compressed(compression, a), compressed(compression, b)].concat();
        apply(&blob, promise(compression, &tar, Some(digest_of(&blob)))).unwrap();
    }
}

#[test]
fn what_follows_the_end_of_a_tar_counts() {
    let tar = Tar::default().file("f", "x").end();
    let padded = [tar.as_slice(), &[0; 9 * 1024]].concat();
    for compression in ALL {
        let blob = compressed(compression, &padded);
        let applied = apply(&blob, promise(compression, &padded, None)).unwrap();
        assert_eq!(applied.tar_bytes, u64::try_from(padded.len()).unwrap());
        assert!(matches!(
            apply(&blob, promise(compression, &tar, None)),
            Err(ImageError::DigestMismatch { what: Content::LayerTar, expected, found })
                if expected == digest_of(&tar) && found == digest_of(&padded)
        ));
    }
}

#[test]
fn a_blob_that_is_not_the_promised_one_is_refused() {
    let tar = Tar::default().file("f", "x").end();
    let other = digest_of(b"other");
    for compression in ALL {
        let blob = compressed(compression, &tar);
        assert!(matches!(
            apply(&blob, promise(compression, &tar, Some(other))),
            Err(ImageError::DigestMismatch { what: Content::LayerBlob, expected, found })
                if expected == other && found == digest_of(&blob)
        ));
    }
}

#[test]
fn cut_streams_are_told_from_forged_ones() {
    let tar = tar_with(100_000);
    for compression in ALL {
        let whole = compressed(compression, &tar);
        let cut = &whole[..whole.len() / 2];
        // Promised so: the archive was made from a cut layer.
        let result = apply(cut, promise(compression, &tar, None));
        match compression {
            Compression::None => assert!(matches!(
                result,
                Err(ImageError::DigestMismatch {
                    what: Content::LayerTar,
                    ..
                })
            )),
            _ => assert!(
                matches!(
                    result,
                    Err(ImageError::Truncated {
                        what: Content::LayerTar,
                        ..
                    })
                ),
                "{result:?}"
            ),
        }
        let result = apply(cut, promise(compression, &tar, Some(digest_of(&whole))));
        assert!(matches!(
            result,
            Err(ImageError::DigestMismatch { what: Content::LayerBlob, expected, .. })
                if expected == digest_of(&whole)
        ));
    }
    // A tar that ends inside an entry, and is promised so.
    let cut = &tar[..tar.len() / 2];
    assert!(matches!(
        apply(cut, promise(Compression::None, cut, None)),
        Err(ImageError::Truncated { what: Content::LayerTar, offset })
            if offset == u64::try_from(cut.len()).unwrap()
    ));
}

#[test]
fn damaged_compressed_streams_are_told_as_such() {
    let tar = tar_with(100_000);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let mut blob = compressed(compression, &tar);
        let len = blob.len();
        blob[len - 6] ^= 0xff;
        let result = apply(&blob, promise(compression, &tar, Some(digest_of(&blob))));
        assert!(matches!(result, Err(ImageError::Corrupt(_))), "{result:?}");
    }
    let junk = [compressed(Compression::Gzip, &tar), b"junk".to_vec()].concat();
    let result = apply(
        &junk,
        promise(Compression::Gzip, &tar, Some(digest_of(&junk))),
    );
    assert!(matches!(
        result,
        Err(ImageError::Corrupt(_) | ImageError::Truncated { .. })
    ));
}

/// A header that does not parse is damage if the digest is wrong, and a bad tar if it is right.
#[test]
fn a_tar_that_does_not_parse_is_checked_to_its_end() {
    let good = tar_with(1000);
    let mut bad = good.clone();
    bad[3] ^= 1;
    assert!(matches!(
        apply(&bad, promise(Compression::None, &good, None)),
        Err(ImageError::DigestMismatch { what: Content::LayerTar, found, .. })
            if found == digest_of(&bad)
    ));
    assert!(matches!(
        apply(&bad, promise(Compression::None, &bad, None)),
        Err(ImageError::BadTar { offset: 0, .. })
    ));
}

#[test]
fn an_error_of_the_applier_stops_the_pipeline() {
    let tar = Tar::default()
        .file("../x", "")
        .file("large", noise(LARGE))
        .end();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        assert!(matches!(
            apply(&blob, promise(compression, &tar, Some(digest_of(&blob)))),
            Err(ImageError::PathEscape { .. })
        ));
    }
}

#[test]
fn a_read_error_of_the_archive_is_passed_on() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(rustix::io::Errno::IO.into());
            }
            let n = self.0.min(buf.len());
            self.0 -= n;
            buf[..n].copy_from_slice(&Head::new(b'0', "f").block(1 << 30)[..n]);
            Ok(n)
        }
    }
    let dir = TempDir::new().unwrap();
    let root = File::open(dir.path()).unwrap();
    for compression in ALL {
        let promise = promise(compression, b"", None);
        let blob = Broken(if compression == Compression::None {
            512
        } else {
            0
        });
        let result = apply_layer(blob, promise, root.as_fd(), &Control::default());
        assert!(
            matches!(&result, Err(ImageError::Read { source, .. })
                if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())),
            "{result:?}"
        );
    }
}

/// Who reads ahead takes no more memory than the buffers do, and ends when nobody wants it.
#[test]
fn a_stream_that_nobody_takes_stops_when_its_buffers_are_full() {
    struct Endless<'a>(&'a AtomicUsize);
    impl std::io::Read for Endless<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0.fetch_add(buf.len(), Ordering::Relaxed);
            Ok(buf.len())
        }
    }
    let given = AtomicUsize::new(0);
    let promise = promise(Compression::None, b"", None);
    begun(Endless(&given), promise, |stream| {
        while given.load(Ordering::Relaxed) < BUFFERS {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(given.load(Ordering::Relaxed), BUFFERS);
        drop(stream);
        Ok(())
    })
    .unwrap();
    assert_eq!(given.load(Ordering::Relaxed), BUFFERS);
}

#[test]
fn a_cancelled_layer_stops() {
    let tar = tar_with(LARGE);
    let cancel = AtomicBool::new(false);
    let calls = Cell::new(0);
    let progress = |_| {
        calls.set(calls.get() + 1);
        cancel.store(true, Ordering::Relaxed);
    };
    let control = Control::default()
        .with_progress(&progress)
        .with_cancel(&cancel);
    let dir = TempDir::new().unwrap();
    let root = File::open(dir.path()).unwrap();
    let promise = promise(Compression::None, &tar, None);
    let result = apply_layer(tar.as_slice(), promise, root.as_fd(), &control);
    assert!(matches!(result, Err(ImageError::Cancelled)));
    assert_eq!(calls.get(), 1);
    assert!(!dir.path().join("last").exists());
}

/// On a detached mount of its own, as layers are: a tmpfs of a megabyte.
#[test]
#[ignore = "needs root"]
fn priv_a_layer_larger_than_its_volume_is_told_as_such() {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    let mount = |key: &str, value: &str| {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(fs.as_fd(), key, value).unwrap();
        fsconfig_create(fs.as_fd()).unwrap();
        fsmount(
            fs.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .unwrap()
    };
    let bomb = Tar::default().file("bomb", vec![0; 3 << 20]).end();
    let many = (0..100)
        .fold(Tar::default(), |tar, i| tar.dir(format!("d{i}")))
        .end();
    for (root, tar, at) in [
        (mount("size", "1m"), bomb, "bomb"),
        (mount("nr_inodes", "20"), many, "d"),
    ] {
        let blob = compressed(Compression::Gzip, &tar);
        let promise = promise(Compression::Gzip, &tar, None);
        let result = apply_layer(blob.as_slice(), promise, root.as_fd(), &Control::default());
        assert!(
            matches!(&result, Err(ImageError::NoSpace { path })
                if path.to_str().unwrap().starts_with(at)),
            "{result:?}"
        );
    }
    let small = Tar::default()
        .dir("d")
        .file("d/f", "x")
        .symlink("d/l", "f")
        .end();
    let root = mount("size", "1m");
    let promise = promise(Compression::None, &small, None);
    apply_layer(small.as_slice(), promise, root.as_fd(), &Control::default()).unwrap();
    let stat = rustix::fs::statat(&root, "d/f", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(stat.st_size, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn one_flipped_bit_is_always_found(at in 0.0_f64..1.0, bit in 0_u32..8, compression in 0_usize..3) {
        let compression = ALL[compression];
        let tar = Tar::default().file("a", "hello").dir("d").file("d/b", noise(3000)).end();
        let mut blob = compressed(compression, &tar);
        let digest = digest_of(&blob);
        #[allow(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in the blob"
        )]
        let at = (blob.len() as f64 * at) as usize;
        blob[at] ^= 1 << bit;
        // Without the blob's digest, the diff id still tells.
        for blob_digest in [Some(digest), None] {
            match apply(&blob, promise(compression, &tar, blob_digest)) {
                Err(_) => {}
                // Bits of a gzip header that say nothing of the content.
                Ok(_) => assert!(blob_digest.is_none() && compression != Compression::None),
            }
        }
    }
}
