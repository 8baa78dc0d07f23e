//! Layers applied to a temporary directory: by hand, hostile ones, and against the model.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

mod against_model;
mod content;
mod hostile;
mod privileged;
mod whiteouts;

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
