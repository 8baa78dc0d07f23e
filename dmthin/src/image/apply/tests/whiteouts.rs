//! Whiteouts and opaque markers.

use super::*;

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
