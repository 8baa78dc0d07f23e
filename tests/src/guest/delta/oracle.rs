//! All that is in a tree, and what differs between two such pictures of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use dmthin::delta::{Change, ChangeKind};
use sha2::{Digest, Sha256};

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    mtime: (i64, i64),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Length and sum of a file, target of a link.
    content: Vec<u8>,
    /// The paths of its inode, where there are others.
    names: BTreeSet<PathBuf>,
    is_directory: bool,
}

/// All that is in a tree.
pub(super) type Picture = BTreeMap<PathBuf, NodeOf>;

/// Opaque to who compares pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeOf(Node);

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut buffer)?;
    let mut found = BTreeMap::new();
    let list = buffer[..len].to_vec();
    for name in list.split(|byte| *byte == 0).filter(|n| !n.is_empty()) {
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut buffer)?;
        found.insert(name.to_vec(), buffer[..len].to_vec());
    }
    Ok(found)
}

fn content(path: &Path, kind: fs::FileType) -> Result<Vec<u8>> {
    if kind.is_symlink() {
        return Ok(fs::read_link(path)?.as_os_str().as_bytes().to_vec());
    }
    if !kind.is_file() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path)?;
    let len = u64::try_from(bytes.len())?.to_le_bytes();
    Ok([&len[..], &Sha256::digest(&bytes)].concat())
}

/// Looks at all that is below a directory, and at it.
pub(super) fn picture(root: &Path) -> Result<Picture> {
    let mut found = BTreeMap::new();
    let mut by_inode: BTreeMap<u64, BTreeSet<PathBuf>> = BTreeMap::new();
    let mut rest = vec![PathBuf::new()];
    while let Some(path) = rest.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&full)? {
                rest.push(path.join(entry?.file_name()));
            }
        } else {
            by_inode.entry(meta.ino()).or_default().insert(path.clone());
        }
        let node = Node {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            device: meta.rdev(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            xattrs: xattrs(&full)?,
            content: content(&full, kind)?,
            names: BTreeSet::new(),
            is_directory: kind.is_dir(),
        };
        found.insert(path, NodeOf(node));
    }
    for names in by_inode.into_values().filter(|names| names.len() > 1) {
        for name in &names {
            if let Some(NodeOf(node)) = found.get_mut(name) {
                node.names.clone_from(&names);
            }
        }
    }
    Ok(found)
}

/// What became of each path.
pub(super) fn changes(old: &Picture, new: &Picture) -> Vec<Change> {
    let mut found = Vec::new();
    let mut tell = |path: &PathBuf, kind| {
        let path = path.clone();
        found.push(Change { path, kind });
    };
    for (path, node) in new {
        match old.get(path) {
            None => tell(path, ChangeKind::Added),
            Some(was) if was != node => tell(path, ChangeKind::Modified),
            Some(_) => {}
        }
    }
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        // What was in a directory that is gone, or is no directory any more, is not told.
        let above = path.parent().and_then(|above| new.get(above));
        if above.is_some_and(|NodeOf(above)| above.is_directory) {
            tell(path, ChangeKind::Deleted);
        }
    }
    found.sort();
    found
}
