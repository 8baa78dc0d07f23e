//! What is said, entry by entry.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::XattrFlags;

use super::*;
use crate::delta::ChangeKind;
use crate::image::Content;
use crate::image::tarball::{Kind, Reader};
use crate::image::testing::Slice;

/// The entries of a tar, as GNU tar would list them.
fn said(tar: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(Slice(tar), Content::LayerTar);
    let mut said = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = String::from_utf8(entry.path).unwrap();
        said.push(match entry.kind {
            Kind::Hardlink => format!("{path} link to {}", String::from_utf8(entry.link).unwrap()),
            _ => path,
        });
    }
    said
}

fn tree(files: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    dir
}

fn edited(older: &TempDir, edit: impl Fn(&Path)) -> (Vec<String>, LayerWritten) {
    let newer = copy(older.path());
    edit(newer.path());
    let (tar, written) = layer(older.path(), newer.path());
    (said(&tar), written)
}

#[test]
fn nothing_changed_is_an_empty_tar() {
    let older = tree(&["a"]);
    let (tar, written) = layer(older.path(), copy(older.path()).path());
    assert_eq!(tar, [0; 1024]);
    assert_eq!(written.entries, 0);
}

/// A file that is edited in place changes no directory, but the layer makes a new file of it, and
/// the directory's time is set again for that.
#[test]
fn an_edited_file_brings_its_directory_along() {
    let older = tree(&["d/e/f", "d/g"]);
    let (said, _) = edited(&older, |newer| {
        fs::write(newer.join("d/e/f"), "new").unwrap()
    });
    assert_eq!(said, ["d/e/", "d/e/f"]);
}

#[test]
fn what_is_gone_is_whited_out_one_by_one_or_all_at_once() {
    let older = tree(&["d/a", "d/b", "d/s/c", "kept"]);
    let (said, _) = edited(&older, |newer| {
        fs::remove_file(newer.join("d/a")).unwrap();
        fs::remove_dir_all(newer.join("d/s")).unwrap();
    });
    assert_eq!(said, ["./", "d/", "d/.wh.a", "d/.wh.s"]);
    let (said, _) = edited(&older, |newer| {
        fs::remove_dir_all(newer.join("d")).unwrap();
        fs::create_dir_all(newer.join("d/new")).unwrap();
        fs::write(newer.join("d/b"), "other").unwrap();
    });
    assert_eq!(said, ["./", "d/", "d/.wh..wh..opq", "d/b", "d/new/"]);
    // One whiteout is as short as an opaque mark.
    let (said, _) = edited(&older, |newer| {
        fs::remove_file(newer.join("d/s/c")).unwrap()
    });
    assert_eq!(said, ["d/", "d/s/", "d/s/.wh.c"]);
}

#[test]
fn another_type_replaces_what_was_there() {
    let older = tree(&["a/x", "a/y", "b"]);
    let (said, _) = edited(&older, |newer| {
        fs::remove_dir_all(newer.join("a")).unwrap();
        fs::write(newer.join("a"), "").unwrap();
        fs::remove_file(newer.join("b")).unwrap();
        fs::create_dir(newer.join("b")).unwrap();
        symlink("a", newer.join("b/l")).unwrap();
    });
    assert_eq!(said, ["./", "a", "b/", "b/l"]);
}

/// A new name of a file that is there: the file is written once more, with all its names.
#[test]
fn all_names_of_a_file_are_written_together() {
    let older = tree(&["a", "d/b"]);
    fs::hard_link(older.path().join("a"), older.path().join("d/a")).unwrap();
    let (said, _) = edited(&older, |newer| {
        fs::hard_link(newer.join("a"), newer.join("c")).unwrap();
    });
    assert_eq!(said, ["./", "a", "c link to a", "d/", "d/a link to a"]);
    // Even those that the changes do not name.
    let change = Change {
        path: "d/a".into(),
        kind: ChangeKind::Modified,
    };
    let (tar, _) = write(&[change], older.path(), None);
    assert_eq!(
        super::by_hand::said(&tar),
        ["./", "a", "d/", "d/a link to a"]
    );
}

/// An entry adds attributes to a directory and takes none away.
#[test]
fn a_directory_that_lost_an_attribute_is_written_anew() {
    let older = tree(&["d/e/f", "d/g", "h"]);
    let on = |root: &Path| root.join("d/e");
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(on(older.path()), "user.x", b"v", flags).unwrap();
    fs::hard_link(older.path().join("h"), older.path().join("d/e/h")).unwrap();
    let edit = |newer: &Path| {
        rustix::fs::removexattr(on(newer), "user.x").unwrap();
        fs::remove_file(newer.join("d/e/f")).unwrap();
        fs::write(newer.join("d/e/i"), "").unwrap();
    };
    let (said, _) = edited(&older, edit);
    assert_eq!(
        said,
        [
            "./",
            "d/",
            "d/.wh.e",
            "d/e/",
            "d/e/h",
            "d/e/i",
            "h link to d/e/h"
        ]
    );
    rustix::fs::setxattr(older.path(), "user.x", b"v", flags).unwrap();
    let (said, written) = edited(&older, |newer| {
        rustix::fs::removexattr(newer, "user.x").unwrap();
    });
    assert_eq!(said, ["./"]);
    assert!(written.root_lost_xattr);
}

#[test]
fn what_a_layer_cannot_say_is_left_out_and_counted() {
    let older = tree(&["a", ".wh.gone"]);
    let (said, written) = edited(&older, |newer| {
        fs::remove_file(newer.join("a")).unwrap();
        drop(UnixListener::bind(newer.join("a")).unwrap());
        drop(UnixListener::bind(newer.join("s")).unwrap());
        fs::create_dir(newer.join(".wh.d")).unwrap();
        fs::write(newer.join(".wh.d/f"), "").unwrap();
        fs::remove_file(newer.join(".wh.gone")).unwrap();
    });
    assert_eq!(said, ["./", ".wh.a"]);
    assert_eq!((written.sockets, written.unsayable_names), (2, 3));
    assert_eq!(written.entries, 2);
}

/// A terabyte with a few bytes in it takes a few blocks.
#[test]
fn holes_are_not_written() {
    use std::os::unix::fs::FileExt;
    let older = TempDir::new().unwrap();
    let newer = TempDir::new().unwrap();
    let file = File::create(newer.path().join("big")).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"x", 5 << 30).unwrap();
    file.write_all_at(b"y", (5 << 30) + 9000).unwrap();
    let added = Change {
        path: "big".into(),
        kind: ChangeKind::Added,
    };
    let (tar, _) = write(&[added], newer.path(), Some(older.path()));
    // The root with its time's pax header. Pax header and records, header and map, what lies from `x` to `y`; before it the root.
    assert_eq!(tar.len(), 512 * 2 + 512 + 512 * 4 + 3 * 4096 + 1024);
    apply_to(older.path(), &tar).unwrap();
    let file = File::open(older.path().join("big")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    let mut found = [0; 2];
    file.read_exact_at(&mut found[..1], 5 << 30).unwrap();
    file.read_exact_at(&mut found[1..], (5 << 30) + 9000)
        .unwrap();
    assert_eq!(&found, b"xy");
}

#[test]
fn a_tree_that_does_not_hold_still_is_refused() {
    let newer = tree(&["a"]);
    let gone = Change {
        path: "b".into(),
        kind: ChangeKind::Modified,
    };
    let root = File::open(newer.path()).unwrap();
    let error = write_layer(&[gone], root.as_fd(), None, &mut Vec::new()).unwrap_err();
    assert!(
        matches!(&error, crate::image::ImageError::SourceChanged { path } if path == Path::new("b")),
        "{error:?}"
    );
}
