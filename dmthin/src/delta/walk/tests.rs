//! The walk, on plain directories.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

fn tree(root: &Path) {
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/file"), "content").unwrap();
    fs::write(root.join("d/e/large"), vec![3; PIECE * 2]).unwrap();
    fs::write(root.join("one"), "1").unwrap();
    fs::hard_link(root.join("one"), root.join("other")).unwrap();
    symlink("file", root.join("d/link")).unwrap();
    settle(root);
}

/// Gives every file and directory the same time.
fn settle(root: &Path) {
    for path in ["d/file", "d/e/large", "one", "d/e", "d", ""] {
        if let Ok(file) = File::open(root.join(path)) {
            file.set_modified(
                SystemTime::UNIX_EPOCH
                    .checked_add(Duration::from_nanos(5))
                    .unwrap(),
            )
            .unwrap();
        }
    }
    let at = rustix::fs::Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let times = rustix::fs::Timestamps {
        last_access: at,
        last_modification: at,
    };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let _ = rustix::fs::utimensat(rustix::fs::CWD, root.join("d/link"), &times, flags);
}

fn after(change: impl FnOnce(&Path)) -> Vec<String> {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let roots = ["old", "new"].map(|name| dir.path().join(name));
    for root in &roots {
        fs::create_dir(root).unwrap();
        tree(root);
    }
    let [old, new] = &roots;
    change(new);
    let [old, new] = [old, new].map(|root| File::open(root).unwrap());
    let changes = walk(old.as_fd(), new.as_fd()).unwrap();
    crate::delta::testing::told(&changes)
}

#[test]
fn equal_trees_have_no_changes() {
    assert_eq!(after(|_| ()), Vec::<String>::new());
}

#[test]
fn every_kind_of_change_is_found() {
    type Case = (fn(&Path), &'static [&'static str]);
    let cases: &[Case] = &[
        (
            |root| fs::write(root.join("d/file"), "Content").unwrap(),
            &["M /d/file"],
        ),
        (
            |root| {
                // In the last piece, with the time of before.
                let mut bytes = vec![3; PIECE * 2];
                bytes[PIECE * 2 - 1] = 4;
                fs::write(root.join("d/e/large"), bytes).unwrap();
            },
            &["M /d/e/large"],
        ),
        (
            |root| fs::set_permissions(root.join("d/e"), Permissions::from_mode(0o700)).unwrap(),
            &["M /d/e"],
        ),
        (
            |root| {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(root.join("d/file"), "user.k", b"v", flags).unwrap();
            },
            &["M /d/file"],
        ),
        (
            |root| {
                fs::remove_file(root.join("d/link")).unwrap();
                symlink("e", root.join("d/link")).unwrap();
            },
            &["M /d/link"],
        ),
        (
            |root| fs::remove_dir_all(root.join("d")).unwrap(),
            &["D /d"],
        ),
        (
            |root| fs::rename(root.join("d/e"), root.join("d/f")).unwrap(),
            &["D /d/e", "A /d/f", "A /d/f/large"],
        ),
        (
            |root| {
                fs::remove_file(root.join("d/file")).unwrap();
                fs::create_dir(root.join("d/file")).unwrap();
                fs::write(root.join("d/file/inside"), "").unwrap();
            },
            &["M /d/file", "A /d/file/inside"],
        ),
        (
            |root| {
                fs::remove_dir_all(root.join("d/e")).unwrap();
                fs::write(root.join("d/e"), "").unwrap();
            },
            &["M /d/e"],
        ),
        // One of two names is another file with the same in it.
        (
            |root| {
                fs::remove_file(root.join("other")).unwrap();
                fs::write(root.join("other"), "1").unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(5);
                File::open(root.join("other"))
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            },
            &["M /one", "M /other"],
        ),
        (
            |root| fs::hard_link(root.join("one"), root.join("d/third")).unwrap(),
            &["A /d/third", "M /one", "M /other"],
        ),
    ];
    for (change, found) in cases {
        let told = after(|root| {
            change(root);
            settle(root);
        });
        assert_eq!(told, *found);
    }
}

#[test]
fn a_nanosecond_is_a_change() {
    let told = after(|root| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(6);
        let file = File::open(root.join("d/e/large")).unwrap();
        file.set_modified(time).unwrap();
    });
    assert_eq!(told, ["M /d/e/large"]);
}

/// A path that is longer than the kernel takes at once, and deeper than descriptors there may be.
#[test]
fn deep_trees_are_walked() {
    let told = after(|root| {
        let mut dir = File::open(root).unwrap();
        for _ in 0..60 {
            let name = "d".repeat(200);
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            dir = rustix::fs::openat(&dir, &name, flags, Mode::empty())
                .unwrap()
                .into();
        }
        settle(root);
    });
    assert_eq!(told.len(), 60);
    assert!(told.iter().all(|line| line.starts_with("A /ddd")));
}
