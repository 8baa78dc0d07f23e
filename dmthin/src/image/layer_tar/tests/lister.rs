//! All that is in a tree, and what differs between two: as simply as it can be done.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::delta::{Change, ChangeKind};
use crate::ids::Digest;
use crate::image::digest_of;

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    content: Digest,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// All names of a file that has several.
    names: Vec<PathBuf>,
}

pub(super) type Listing = BTreeMap<PathBuf, Seen>;

const KIND: u32 = 0o170_000;
const DIR: u32 = 0o040_000;
const SOCKET: u32 = 0o140_000;

impl Seen {
    fn is_dir(&self) -> bool {
        self.mode & KIND == DIR
    }

    pub(super) fn is_socket(&self) -> bool {
        self.mode & KIND == SOCKET
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..n]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let n = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..n].to_vec())
        })
        .collect()
}

pub(super) fn list(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut inos = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        let content = if stat.is_symlink() {
            use std::os::unix::ffi::OsStrExt;
            fs::read_link(&full)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec()
        } else if stat.is_file() {
            fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        if stat.is_dir() {
            todo.extend(
                fs::read_dir(&full)
                    .unwrap()
                    .map(|e| path.join(e.unwrap().file_name())),
            );
        } else if stat.nlink() > 1 {
            names.entry(stat.ino()).or_default().push(path.clone());
            inos.insert(path.clone(), stat.ino());
        }
        let device = stat.file_type().is_char_device() || stat.file_type().is_block_device();
        let seen = Seen {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            device: if device { stat.rdev() } else { 0 },
            content: digest_of(&content),
            xattrs: xattrs(&full),
            names: Vec::new(),
        };
        listing.insert(path, seen);
    }
    names.values_mut().for_each(|names| names.sort());
    for (path, ino) in inos {
        listing.get_mut(&path).unwrap().names = names[&ino].clone();
    }
    listing
}

pub(super) fn changes(older: &Listing, newer: &Listing) -> Vec<Change> {
    let mut found = Vec::new();
    let change = |path: &PathBuf, kind| Change {
        path: path.clone(),
        kind,
    };
    for (path, seen) in newer {
        match older.get(path) {
            None => found.push(change(path, ChangeKind::Added)),
            Some(was) if was != seen => found.push(change(path, ChangeKind::Modified)),
            Some(_) => {}
        }
    }
    for path in older.keys().filter(|path| !newer.contains_key(*path)) {
        if newer.get(path.parent().unwrap()).is_some_and(Seen::is_dir) {
            found.push(change(path, ChangeKind::Deleted));
        }
    }
    found.sort();
    found
}
