//! What a layer holds is what the directory has.

use super::*;

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
            displaced: false,
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
