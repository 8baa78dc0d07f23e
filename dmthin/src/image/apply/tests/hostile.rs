//! Layers that would do harm.

use super::*;

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
