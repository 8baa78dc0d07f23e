//! Layers written of trees in temporary directories: by hand, and of any changes, applied again.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

mod any_changes;
mod by_hand;
mod lister;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use tempfile::TempDir;

use self::lister::{changes, list};
use super::{LayerWritten, write_layer};
use crate::delta::Change;
use crate::image::testing::apply_to;

/// An exact copy by another's hand: links, times, attributes and holes.
fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    let status = std::process::Command::new("cp")
        .args(["-a", "--sparse=auto", "."])
        .arg(to.path())
        .current_dir(from)
        .status();
    assert!(status.unwrap().success());
    to
}

fn write(changes: &[Change], newer: &Path, older: Option<&Path>) -> (Vec<u8>, LayerWritten) {
    let newer = File::open(newer).unwrap();
    let older = older.map(|older| File::open(older).unwrap());
    let mut tar = Vec::new();
    let written = write_layer(
        changes,
        newer.as_fd(),
        older.as_ref().map(AsFd::as_fd),
        &mut tar,
    );
    (tar, written.unwrap())
}

/// What differs between two trees, as a layer.
fn layer(older: &Path, newer: &Path) -> (Vec<u8>, LayerWritten) {
    write(&changes(&list(older), &list(newer)), newer, Some(older))
}
