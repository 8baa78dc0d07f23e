//! Layers applied to a temporary directory: by hand, hostile ones, and against the model.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;
use tempfile::TempDir;

use super::model::{Listing, Model, Op, Refused};
use super::remove::MAX_DEPTH;
use crate::image::testing::{Head, Tar, apply_to};
use crate::image::{Applied, ImageError};

fn applied(layers: &[Vec<u8>]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for layer in layers {
        apply_to(dir.path(), layer).unwrap();
    }
    dir
}

fn refused(layers: &[Vec<u8>]) -> ImageError {
    let (last, lower) = layers.split_last().unwrap();
    let dir = applied(lower);
    apply_to(dir.path(), last).unwrap_err()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    Some(value.get(..n).unwrap().to_vec())
}

#[test]
fn attributes_are_set_to_the_nanosecond() {
    let tar = Tar::default()
        .add(&Head::new(b'5', "./").mode(0o711).mtime(5), "")
        .add(
            &Head::new(b'5', "d")
                .mode(0o555)
                .pax("mtime", "11.000000001"),
            "",
        )
        .add(
            &Head::new(b'0', "d/f").mode(0o6754).pax("mtime", "-7.5"),
            "data",
        )
        .add(
            &Head::new(b'2', "d/l")
                .link("nowhere")
                .pax("mtime", "13.999999999"),
            "",
        )
        .add(&Head::new(b'6', "p").mode(0o620).mtime(17), "")
        .end();
    let dir = TempDir::new().unwrap();
    let report = apply_to(dir.path(), &tar).unwrap();
    assert_eq!(
        report,
        Applied {
            entries: 5,
            whiteouts: 0,
            bytes: 4,
            tar_bytes: tar.len().try_into().unwrap(),
            skipped_xattrs: BTreeMap::new(),
        }
    );
    for (name, mode, mtime) in [
        ("", 0o40_711, (5, 0)),
        ("d", 0o40_555, (11, 1)),
        ("d/f", 0o106_754, (-8, 500_000_000)),
        ("d/l", 0o120_777, (13, 999_999_999)),
        ("p", 0o10_620, (17, 0)),
    ] {
        let stat = fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert_eq!(format!("{:o}", stat.mode()), format!("{mode:o}"), "{name}");
        assert_eq!((stat.mtime(), stat.mtime_nsec()), mtime, "{name}");
    }
    assert_eq!(read(&dir, "d/f"), "data");
    assert_eq!(
        fs::read_link(dir.path().join("d/l")).unwrap(),
        Path::new("nowhere")
    );
}

#[test]
fn a_directorys_time_outlives_what_is_put_into_it() {
    let lower = Tar::default().dir("d").file("d/a", "").end();
    let upper = Tar::default()
        .add(&Head::new(b'5', "d").mtime(99), "")
        .file("d/b", "")
        .file("d/.wh.a", "")
        .end();
    let dir = applied(&[lower, upper]);
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mtime(), 99);
    assert_eq!(names(&dir.path().join("d")), ["b"]);
}

#[test]
fn long_and_odd_names_are_bytes() {
    let deep = format!("{}/{}", vec!["n".repeat(60); 5].join("/"), "m".repeat(255));
    let odd: &[u8] = b"new\nline \xff\\ \"x\"";
    let tar = Tar::default().file(&deep, "deep").file(odd, "odd").end();
    let dir = applied(&[tar]);
    assert_eq!(read(&dir, &deep), "deep");
    let path = dir.path().join(std::ffi::OsStr::from_bytes(odd));
    assert_eq!(fs::read_to_string(path).unwrap(), "odd");
}

#[test]
fn sparse_files_keep_their_holes() {
    let head = Head::new(b'0', "s")
        .pax("GNU.sparse.size", "67108864")
        .pax("GNU.sparse.map", "0,3,33554432,2,67108864,0");
    let dir = applied(&[Tar::default().add(&head, "abcde").end()]);
    let path = dir.path().join("s");
    let stat = fs::metadata(&path).unwrap();
    assert_eq!(stat.len(), 67_108_864);
    assert!(stat.blocks() * 512 < 1 << 20, "{} blocks", stat.blocks());
    let data = fs::read(&path).unwrap();
    assert_eq!(data.get(..4), Some(&b"abc\0"[..]));
    assert_eq!(data.get(33_554_431..33_554_435), Some(&b"\0de\0"[..]));
    assert_eq!(data.iter().filter(|b| **b != 0).count(), 5);
}

#[test]
fn user_attributes_are_set_where_they_can_be() {
    let tar = Tar::default()
        .add(
            &Head::new(b'0', "f")
                .pax("SCHILY.xattr.user.a", b"\0\xff")
                .pax("LIBARCHIVE.xattr.user.b", "TWFu")
                .pax("SCHILY.xattr.security.selinux", "label"),
            "",
        )
        .add(&Head::new(b'5', "d").pax("SCHILY.xattr.user.c", "dir"), "")
        // The kernel takes no user attributes on links (fs/xattr.c:xattr_permission).
        .add(
            &Head::new(b'2', "l")
                .link("f")
                .pax("SCHILY.xattr.user.d", "x"),
            "",
        )
        .end();
    let dir = TempDir::new().unwrap();
    let report = apply_to(dir.path(), &tar).unwrap();
    assert_eq!(
        report.skipped_xattrs,
        BTreeMap::from([("user.d".to_owned(), 1)])
    );
    assert_eq!(
        xattr(&dir.path().join("f"), "user.a"),
        Some(b"\0\xff".to_vec())
    );
    assert_eq!(
        xattr(&dir.path().join("f"), "user.b"),
        Some(b"Man".to_vec())
    );
    assert_eq!(
        xattr(&dir.path().join("d"), "user.c"),
        Some(b"dir".to_vec())
    );
}

#[test]
fn hard_links_are_one_file_and_leave_its_attributes() {
    let tar = Tar::default()
        .add(&Head::new(b'0', "f").mode(0o640).mtime(3), "x")
        .add(&Head::new(b'1', "d/h").link("./f").mode(0o777).mtime(9), "")
        .add(&Head::new(b'2', "l").link("gone"), "")
        .hardlink("l2", "l")
        .hardlink("d/h", "f")
        .end();
    let dir = applied(&[tar]);
    let stat = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!(stat("f").ino(), stat("d/h").ino());
    assert_eq!((stat("f").mode() & 0o7777, stat("f").mtime()), (0o640, 3));
    assert_eq!(stat("l").ino(), stat("l2").ino());
}

#[test]
fn replacing_one_name_leaves_the_other_link() {
    let lower = Tar::default().file("a", "old").hardlink("b", "a").end();
    let upper = Tar::default().file("a", "new").end();
    let dir = applied(&[lower, upper]);
    assert_eq!(
        (read(&dir, "a"), read(&dir, "b")),
        ("new".into(), "old".into())
    );
}

#[test]
fn whiteouts_remove_lower_files_and_trees() {
    let lower = Tar::default()
        .file("a", "")
        .file("t/x/y", "")
        .symlink("t/x/out", "/keep")
        .file("keep/k", "")
        .symlink("l", "keep")
        .end();
    let upper = Tar::default()
        .file(".wh.a", "")
        .file(".wh.t", "")
        .file(".wh.l", "")
        .file(".wh.never", "")
        .file("no/such/.wh.dir", "")
        .file("keep/k/.wh.below-a-file", "")
        .end();
    let dir = TempDir::new().unwrap();
    apply_to(dir.path(), &lower).unwrap();
    assert_eq!(apply_to(dir.path(), &upper).unwrap().whiteouts, 6);
    assert_eq!(names(dir.path()), ["keep"]);
    assert_eq!(names(&dir.path().join("keep")), ["k"]);
}

#[test]
fn whiteouts_spare_what_their_own_layer_put_there() {
    let lower = || {
        Tar::default()
            .file("f", "low")
            .file("d/low", "")
            .file("d/sub/low", "")
            .end()
    };
    let before = Tar::default()
        .file("f", "up")
        .file("d/sub/up", "")
        .file(".wh.f", "")
        .file(".wh.d", "")
        .end();
    let after = Tar::default()
        .file(".wh.f", "")
        .file(".wh.d", "")
        .file("f", "up")
        .file("d/sub/up", "")
        .end();
    for upper in [before, after] {
        let dir = applied(&[lower(), upper]);
        assert_eq!(read(&dir, "f"), "up");
        assert_eq!(names(&dir.path().join("d")), ["sub"]);
        assert_eq!(names(&dir.path().join("d/sub")), ["up"]);
    }
}

#[test]
fn opaque_markers_hide_lower_content_in_any_order() {
    let lower = || {
        Tar::default()
            .file("d/a", "")
            .file("d/s/b", "")
            .file("e", "")
            .end()
    };
    let first = Tar::default()
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/s/n", "")
        .end();
    let last = Tar::default()
        .dir("d")
        .file("d/s/n", "")
        .file("d/.wh..wh..opq", "")
        .end();
    for upper in [first, last] {
        let dir = applied(&[lower(), upper]);
        assert_eq!(names(&dir.path().join("d")), ["s"]);
        assert_eq!(names(&dir.path().join("d/s")), ["n"]);
        assert_eq!(names(dir.path()), ["d", "e"]);
    }
    let root = Tar::default().file(".wh..wh..opq", "").end();
    assert_eq!(
        names(applied(&[lower(), root]).path()),
        Vec::<String>::new()
    );
}

#[test]
fn files_of_aufs_are_passed_over() {
    let tar = Tar::default()
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "x")
        .file(".wh..wh.aufs", "")
        .file("f", "y")
        .end();
    assert_eq!(names(applied(&[tar]).path()), ["f"]);
}

#[test]
fn entries_replace_each_other_and_the_last_wins() {
    let lower = Tar::default()
        .file("file-to-dir", "")
        .file("dir-to-file/in", "")
        .file("dir-to-link/in", "")
        .symlink("link-to-dir", "target")
        .file("target/t", "")
        .add(&Head::new(b'5', "dir").mode(0o700), "")
        .file("dir/in", "")
        .end();
    let upper = Tar::default()
        .dir("file-to-dir")
        .file("dir-to-file", "now a file")
        .symlink("dir-to-link", "target")
        .dir("link-to-dir")
        .add(&Head::new(b'5', "dir").mode(0o750), "")
        .file("twice", "one")
        .file("twice", "two")
        .end();
    let dir = applied(&[lower, upper]);
    let kind = |name: &str| {
        fs::symlink_metadata(dir.path().join(name))
            .unwrap()
            .file_type()
    };
    assert!(kind("file-to-dir").is_dir());
    assert_eq!(read(&dir, "dir-to-file"), "now a file");
    assert!(kind("dir-to-link").is_symlink());
    assert!(kind("link-to-dir").is_dir());
    assert_eq!(names(&dir.path().join("link-to-dir")), Vec::<String>::new());
    assert_eq!(names(&dir.path().join("target")), ["t"]);
    let stat = fs::metadata(dir.path().join("dir")).unwrap();
    assert_eq!(stat.permissions().mode() & 0o7777, 0o750);
    assert_eq!(names(&dir.path().join("dir")), ["in"]);
    assert_eq!(read(&dir, "twice"), "two");
}

#[test]
fn parents_are_made_and_links_to_them_followed_inside() {
    let tar = Tar::default()
        .symlink("abs", "/real/deep")
        .symlink("up", "../../../../real")
        .symlink("a/rel", "../real")
        .file("abs/one", "1")
        .file("up/two", "2")
        .file("a/rel/three", "3")
        .file("made/on/the/way", "4")
        .end();
    let dir = applied(&[tar]);
    assert_eq!(names(dir.path()), ["a", "abs", "made", "real", "up"]);
    assert_eq!(names(&dir.path().join("real")), ["deep", "three", "two"]);
    assert_eq!(names(&dir.path().join("real/deep")), ["one"]);
    let stat = fs::metadata(dir.path().join("made/on")).unwrap();
    assert_eq!(stat.permissions().mode() & 0o7777, 0o755);
}

/// Each of these tries to reach `outside`, a directory beside the root.
#[test]
fn nothing_gets_out() {
    let base = TempDir::new().unwrap();
    let outside = base.path().join("outside");
    let name = outside.to_str().unwrap().to_owned();
    let layers = [
        Tar::default().file("../outside/x", ""),
        Tar::default().file("a/../../outside/x", ""),
        Tar::default().file(format!("{name}/x"), ""),
        Tar::default().symlink("l", "../outside").file("l/x", ""),
        Tar::default().symlink("l", &name).file("l/x", ""),
        Tar::default().symlink("l", &name).file("l/.wh.secret", ""),
        Tar::default()
            .symlink("l", &name)
            .file("l/.wh..wh..opq", ""),
        Tar::default().symlink("l", &name).file("l", "through?"),
        Tar::default().symlink("l", &name).file("l/d/x", ""),
        Tar::default()
            .file("l/f", "")
            .symlink("l", &name)
            .file("l/f", ""),
        Tar::default().hardlink("h", "../outside/secret"),
        Tar::default().hardlink("h", format!("{name}/secret")),
        Tar::default().symlink("l", &name).hardlink("h", "l/secret"),
        Tar::default()
            .symlink("l", format!("{name}/secret"))
            .hardlink("h", "l")
            .file("h", "through?"),
        Tar::default().file(".wh...", ""),
        Tar::default().file("a/.wh...", ""),
        Tar::default().file(".wh.x/../../outside/secret", ""),
        Tar::default()
            .symlink("l", "/proc/self/root")
            .file("l/x", ""),
        Tar::default()
            .symlink("l", &name)
            .file("keep", "")
            .file(".wh.l", ""),
    ];
    for (i, layer) in layers.into_iter().enumerate() {
        let root = base.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        // Refused or contained, both will do here.
        let _ = apply_to(&root, &layer.end());
        assert_eq!(names(base.path()), ["outside", "root"], "layer {i}");
        assert_eq!(names(&outside), ["secret"], "layer {i}");
        let secret = fs::metadata(outside.join("secret")).unwrap();
        assert_eq!((secret.len(), secret.nlink()), (6, 1), "layer {i}");
        fs::remove_dir_all(&root).unwrap();
        fs::remove_dir_all(&outside).unwrap();
    }
}

#[test]
fn hostile_entries_have_errors_of_their_own() {
    let one = |tar: Tar| refused(&[tar.end()]);
    for path in ["../x", "a/../x", "/..", ".wh..."] {
        assert!(
            matches!(one(Tar::default().file(path, "")), ImageError::PathEscape { path: p }
                if p == Path::new(path)),
            "{path}"
        );
    }
    assert!(matches!(
        one(Tar::default().hardlink("h", "../x")),
        ImageError::PathEscape { path } if path == Path::new("../x")
    ));
    for path in [".wh.", ".wh..", "a/.wh.b/c", "./"] {
        assert!(
            matches!(
                one(Tar::default().file(path, "")),
                ImageError::InvalidName { .. }
            ),
            "{path}"
        );
    }
    let nul = Head::new(b'0', "x").pax("path", "a\0b");
    assert!(matches!(
        one(Tar::default().add(&nul, "")),
        ImageError::InvalidName { .. }
    ));
    assert!(matches!(
        one(Tar::default().symlink("l", "")),
        ImageError::InvalidName { .. }
    ));
    assert!(matches!(
        one(Tar::default().file("f", "").file("f/x", "")),
        ImageError::ParentNotDirectory { path } if path == Path::new("f/x")
    ));
    assert!(matches!(
        one(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "")),
        ImageError::SymlinkLoop { path } if path == Path::new("a/x")
    ));
    for target in ["gone", "d", ".", "no/such", "f/below"] {
        let tar = Tar::default().dir("d").file("f", "").hardlink("h", target);
        assert!(
            matches!(one(tar), ImageError::HardlinkTarget { path, .. } if path == Path::new("h")),
            "{target}"
        );
    }
    assert!(matches!(
        one(Tar::default().file("n".repeat(256), "")),
        ImageError::Io {
            op: "make",
            source: rustix::io::Errno::NAMETOOLONG,
            ..
        }
    ));
    assert!(matches!(
        one(Tar::default().add(&Head::new(b'M', "m"), "")),
        ImageError::UnsupportedEntry { kind: 'M', .. }
    ));
}

#[test]
fn an_attribute_no_file_system_takes_is_an_error() {
    let head = Head::new(b'0', "f").pax("SCHILY.xattr.user.big", vec![b'x'; 70_000]);
    assert!(matches!(
        refused(&[Tar::default().add(&head, "").end()]),
        ImageError::XattrTooLarge { name, size, .. }
            if name == "user.big" && size.get() == 70_000
    ));
}

/// ext4 has no room for this one beside an inode, and says so as if the volume were full.
#[test]
fn a_large_attribute_is_set_or_told_from_a_full_volume() {
    let value = vec![b'x'; 10_000];
    let head = Head::new(b'0', "f").pax("SCHILY.xattr.user.big", &value);
    let dir = TempDir::new().unwrap();
    match apply_to(dir.path(), &Tar::default().add(&head, "").end()) {
        Ok(applied) => {
            let mut found = vec![0; 10_000];
            let set = rustix::fs::getxattr(dir.path().join("f"), "user.big", &mut found);
            assert!(set == Ok(10_000) || applied.skipped_xattrs.contains_key("user.big"));
        }
        Err(error) => assert!(
            matches!(&error, ImageError::XattrTooLarge { name, .. } if name == "user.big"),
            "{error:?}"
        ),
    }
}

#[test]
fn removal_goes_down_so_far_and_no_further() {
    let deep = |n: usize| {
        let lower = Tar::default().dir(vec!["d"; n].join("/")).end();
        applied(&[lower])
    };
    let whiteout = Tar::default().file(".wh.d", "").end();
    let dir = deep(MAX_DEPTH);
    apply_to(dir.path(), &whiteout).unwrap();
    assert_eq!(names(dir.path()), Vec::<String>::new());
    let dir = deep(MAX_DEPTH + 1);
    assert!(matches!(
        apply_to(dir.path(), &whiteout),
        Err(ImageError::TooDeep {
            limit: MAX_DEPTH,
            ..
        })
    ));
}

/// An open directory kept in the cache must not outlive its name.
#[test]
fn a_replaced_directory_is_not_written_to() {
    let tar = Tar::default()
        .file("d/a", "")
        .symlink("d", "other")
        .file("d/b", "")
        .file("d", "now a file")
        .dir("d")
        .file("d/c", "")
        .end();
    let dir = applied(&[tar]);
    assert_eq!(names(&dir.path().join("d")), ["c"]);
    assert_eq!(names(&dir.path().join("other")), ["b"]);
}

#[test]
fn more_directories_than_are_kept_open_will_do() {
    let mut tar = Tar::default();
    for round in 0..2 {
        for i in 0..100 {
            tar = tar.file(format!("d{i}/f{round}"), format!("{i} {round}"));
        }
    }
    let dir = applied(&[tar.end()]);
    for i in 0..100 {
        assert_eq!(read(&dir, &format!("d{i}/f0")), format!("{i} 0"));
        assert_eq!(read(&dir, &format!("d{i}/f1")), format!("{i} 1"));
    }
}

#[test]
#[ignore = "needs root"]
fn priv_owners_devices_and_capabilities_are_set() {
    let cap = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut file = Head::new(b'0', "f")
        .mode(0o4755)
        .pax("SCHILY.xattr.security.capability", cap)
        .pax("SCHILY.xattr.trusted.t", "v");
    (file.uid, file.gid) = (70_000, 100_000);
    let mut link = Head::new(b'2', "l").link("f");
    (link.uid, link.gid) = (3, 4);
    let mut device = Head::new(b'3', "null").mode(0o666);
    device.device = (1, 3);
    let mut block = Head::new(b'4', "blk").mode(0o660);
    (block.device, block.gid) = ((259, 1_000_000), 6);
    let mut setgid = Head::new(b'5', "sg").mode(0o2775);
    (setgid.uid, setgid.gid) = (1, 50);
    let mut inside = Head::new(b'0', "sg/in");
    (inside.uid, inside.gid) = (0, 0);
    let mut root = Head::new(b'5', "./").mode(0o1777);
    (root.uid, root.gid) = (11, 12);
    let tar = Tar::default()
        .add(&root, "")
        .add(&file, "x")
        .add(&link, "")
        .add(&device, "")
        .add(&block, "")
        .add(&setgid, "")
        .add(&inside, "")
        .end();
    let dir = applied(&[tar]);
    let stat = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    let owner = |name: &str| (stat(name).uid(), stat(name).gid());
    assert_eq!(owner("f"), (70_000, 100_000));
    assert_eq!(stat("f").mode() & 0o7777, 0o4755);
    assert_eq!(
        xattr(&dir.path().join("f"), "security.capability"),
        Some(cap.to_vec())
    );
    assert_eq!(
        xattr(&dir.path().join("f"), "trusted.t"),
        Some(b"v".to_vec())
    );
    assert_eq!(owner("l"), (3, 4));
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(stat("null").mode() & 0o7777, 0o666);
    assert!(stat("blk").file_type().is_block_device());
    assert_eq!(stat("blk").rdev(), rustix::fs::makedev(259, 1_000_000));
    assert_eq!(owner("blk"), (0, 6));
    assert_eq!((owner("sg"), stat("sg").mode() & 0o7777), ((1, 50), 0o2775));
    assert_eq!(owner("sg/in"), (0, 0));
    assert_eq!((owner(""), stat("").mode() & 0o7777), ((11, 12), 0o1777));
}

/// What lies in a setgid directory of a lower layer inherits its group, unless told otherwise.
#[test]
#[ignore = "needs root"]
fn priv_a_lower_setgid_directory_lends_nobody_its_group() {
    let mut setgid = Head::new(b'5', "sg").mode(0o2775);
    setgid.gid = 50;
    let lower = Tar::default().add(&setgid, "").end();
    let upper = Tar::default()
        .file("sg/f", "")
        .dir("sg/d")
        .symlink("sg/l", "f")
        .end();
    let dir = applied(&[lower, upper]);
    for name in ["f", "d", "l"] {
        let stat = fs::symlink_metadata(dir.path().join("sg").join(name)).unwrap();
        assert_eq!(stat.gid(), 0, "{name}");
    }
    let stat = fs::metadata(dir.path().join("sg/d")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o755);
}

/// The same, where the directory was already open when it got the bit.
#[test]
#[ignore = "needs root"]
fn priv_a_directory_that_turns_setgid_lends_nobody_its_group() {
    let mut setgid = Head::new(b'5', "sg").mode(0o2775);
    setgid.gid = 50;
    let tar = Tar::default()
        .file("sg/before", "")
        .add(&setgid, "")
        .file("sg/after", "")
        .end();
    let dir = applied(&[tar]);
    for name in ["before", "after"] {
        let stat = fs::metadata(dir.path().join("sg").join(name)).unwrap();
        assert_eq!(stat.gid(), 0, "{name}");
    }
}

fn list(root: &Path) -> Listing {
    let mut listing = Listing::default();
    let mut groups: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for name in names(&root.join(&dir)) {
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            let full = root.join(&path);
            let stat = fs::symlink_metadata(&full).unwrap();
            let what = if stat.is_dir() {
                todo.push(path.clone());
                format!("dir {:o}", stat.mode() & 0o7777)
            } else {
                groups.entry(stat.ino()).or_default().insert(path.clone());
                if stat.is_symlink() {
                    format!("link {}", fs::read_link(&full).unwrap().display())
                } else {
                    format!("file {}", fs::read_to_string(&full).unwrap())
                }
            };
            listing.paths.insert(path, what);
        }
    }
    listing.groups = groups.into_values().collect();
    listing
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(select(vec!["a", "b", "c"]), 1..4).prop_map(|c| c.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    (select(vec!["", "/", "../", "../../"]), path())
        .prop_map(|(start, path)| start.to_owned() + &path)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), "[a-z]{1,3}").prop_map(|(path, data)| Op::File(path, data)),
        3 => (path(), select(vec![0o755, 0o700, 0o1777])).prop_map(|(p, mode)| Op::Dir(p, mode)),
        2 => (path(), target()).prop_map(|(path, target)| Op::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Op::Hardlink(path, target)),
        3 => path().prop_map(Op::Whiteout),
        1 => prop_oneof![Just(String::new()), path()].prop_map(Op::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(250) })]

    #[test]
    fn any_layers_give_what_the_model_gives(
        layers in proptest::collection::vec(proptest::collection::vec(op(), 1..12), 1..4),
    ) {
        let dir = TempDir::new().unwrap();
        let mut model = Model::new();
        for layer in layers {
            let tar = layer.iter().fold(Tar::default(), |tar, op| op.add_to(tar)).end();
            let expected = model.apply(&layer);
            let found = apply_to(dir.path(), &tar).map(drop).map_err(|error| match error {
                ImageError::ParentNotDirectory { .. } => Refused::NotDirectory,
                ImageError::SymlinkLoop { .. } => Refused::Loop,
                ImageError::HardlinkTarget { .. } => Refused::NoTarget,
                other => panic!("{other:?}"),
            });
            prop_assert_eq!(&found, &expected);
            if found.is_err() {
                break;
            }
            prop_assert_eq!(list(dir.path()), model.list());
        }
    }
}
