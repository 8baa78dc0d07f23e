//! What layers mean, in memory and as simply as it can be said: the property test's other side.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

use std::collections::{BTreeMap, BTreeSet};

use crate::image::testing::{Head, Tar};

/// One entry of a generated layer.
#[derive(Debug, Clone)]
pub(super) enum Op {
    File(String, String),
    Dir(String, u32),
    Symlink(String, String),
    Hardlink(String, String),
    Whiteout(String),
    Opaque(String),
}

impl Op {
    pub(super) fn add_to(&self, tar: Tar) -> Tar {
        match self {
            Self::File(path, data) => tar.file(path, data),
            Self::Dir(path, mode) => tar.add(&Head::new(b'5', path).mode(*mode), ""),
            Self::Symlink(path, target) => tar.symlink(path, target),
            Self::Hardlink(path, target) => tar.hardlink(path, target),
            Self::Whiteout(path) => {
                let (parent, name) = split(path);
                tar.file(join(parent, &format!(".wh.{name}")), "")
            }
            Self::Opaque(path) => tar.file(join(path, ".wh..wh..opq"), ""),
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(String),
    Symlink(String),
    /// Mode, and for each name the node and the layer that put it there.
    Dir(u32, BTreeMap<String, (usize, usize)>),
}

/// Why a layer is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NotDirectory,
    Loop,
    NoTarget,
}

/// Nodes by number; the root is 0. A node no name leads to is gone.
#[derive(Debug)]
pub(super) struct Model {
    nodes: Vec<Node>,
    layer: usize,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::Dir(0o755, BTreeMap::new())],
            layer: 0,
        }
    }

    pub(super) fn apply(&mut self, layer: &[Op]) -> Result<(), Refused> {
        self.layer += 1;
        layer.iter().try_for_each(|op| self.op(op))
    }

    fn names(&mut self, dir: usize) -> &mut BTreeMap<String, (usize, usize)> {
        match &mut self.nodes[dir] {
            Node::Dir(_, names) => names,
            other => panic!("{other:?} is no directory"),
        }
    }

    fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[node], Node::Dir(..))
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Walks to a directory, links followed below the root; makes what is missing, or says so.
    fn walk(&mut self, path: &str, make: bool) -> Result<Option<usize>, Refused> {
        let mut todo: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut trail = vec![0];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let here = *trail.last().unwrap();
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    if trail.len() > 1 {
                        trail.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let found = self.names(here).get(&name).map(|n| n.0);
            let next = match found {
                Some(node) => node,
                None if make => {
                    let node = self.add(Node::Dir(0o755, BTreeMap::new()));
                    let layer = self.layer;
                    self.names(here).insert(name, (node, layer));
                    node
                }
                None => return Ok(None),
            };
            match self.nodes[next].clone() {
                Node::Dir(..) => trail.push(next),
                Node::File(_) => return Err(Refused::NotDirectory),
                Node::Symlink(target) => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused::Loop);
                    }
                    if target.starts_with('/') {
                        trail.truncate(1);
                    }
                    todo.extend(target.rsplit('/').map(str::to_owned));
                }
            }
        }
        Ok(trail.pop())
    }

    /// As `walk`, for those who only look: a file in the way is as good as nothing there.
    fn look(&mut self, path: &str) -> Result<Option<usize>, Refused> {
        match self.walk(path, false) {
            Err(Refused::NotDirectory) => Ok(None),
            found => found,
        }
    }

    fn put(&mut self, path: &str, node: usize) -> Result<(), Refused> {
        let (parent, name) = split(path);
        let dir = self.walk(parent, true)?.unwrap();
        let layer = self.layer;
        self.names(dir).insert(name.to_owned(), (node, layer));
        Ok(())
    }

    /// Removes what lower layers left in a directory; true where nothing is left.
    fn prune(&mut self, dir: usize) -> bool {
        for (name, (node, layer)) in self.names(dir).clone() {
            let empty = !self.is_dir(node) || self.prune(node);
            if empty && layer != self.layer {
                self.names(dir).remove(&name);
            }
        }
        self.names(dir).is_empty()
    }

    fn op(&mut self, op: &Op) -> Result<(), Refused> {
        match op {
            Op::File(path, data) => {
                // The parent is made, or found missing, before the file is.
                self.walk(split(path).0, true)?;
                let node = self.add(Node::File(data.clone()));
                self.put(path, node)
            }
            Op::Symlink(path, target) => {
                self.walk(split(path).0, true)?;
                let node = self.add(Node::Symlink(target.clone()));
                self.put(path, node)
            }
            Op::Dir(path, mode) => {
                let (parent, name) = split(path);
                let dir = self.walk(parent, true)?.unwrap();
                let known = self.names(dir).get(name).map(|n| n.0);
                let node = match known {
                    Some(node) if self.is_dir(node) => {
                        if let Node::Dir(known, _) = &mut self.nodes[node] {
                            *known = *mode;
                        }
                        node
                    }
                    _ => self.add(Node::Dir(*mode, BTreeMap::new())),
                };
                self.put(path, node)
            }
            Op::Hardlink(path, target) => {
                let dir = self.walk(split(path).0, true)?.unwrap();
                let (parent, name) = split(target);
                let from = self.look(parent)?.ok_or(Refused::NoTarget)?;
                let node = self.names(from).get(name).map(|n| n.0);
                let node = node.ok_or(Refused::NoTarget)?;
                let (_, own_name) = split(path);
                let known = self.names(dir).get(own_name).map(|n| n.0);
                if known == Some(node) {
                    return self.put(path, node);
                }
                if self.is_dir(node) {
                    return Err(Refused::NoTarget);
                }
                // The way is cleared first: the target may have been in it.
                if let Some(known) = known
                    && self.is_dir(known)
                {
                    self.names(dir).remove(own_name);
                    if self.is_below(from, known) {
                        return Err(Refused::NoTarget);
                    }
                }
                self.put(path, node)
            }
            Op::Whiteout(path) => {
                let (parent, name) = split(path);
                let Some(dir) = self.look(parent)? else {
                    return Ok(());
                };
                if let Some(&(node, layer)) = self.names(dir).get(name) {
                    let empty = !self.is_dir(node) || self.prune(node);
                    if empty && layer != self.layer {
                        self.names(dir).remove(name);
                    }
                }
                Ok(())
            }
            Op::Opaque(path) => {
                if let Some(dir) = self.look(path)? {
                    self.prune(dir);
                }
                Ok(())
            }
        }
    }

    fn is_below(&mut self, node: usize, top: usize) -> bool {
        node == top
            || self
                .names(top)
                .clone()
                .values()
                .any(|&(child, _)| self.is_dir(child) && self.is_below(node, child))
    }

    /// Every path with what it is, and the groups of paths that are one file.
    pub(super) fn list(&self) -> Listing {
        let mut listing = Listing::default();
        let mut groups = BTreeMap::new();
        self.list_dir(0, "", &mut listing, &mut groups);
        listing.groups = groups.into_values().collect();
        listing
    }

    fn list_dir(
        &self,
        dir: usize,
        path: &str,
        listing: &mut Listing,
        groups: &mut BTreeMap<usize, BTreeSet<String>>,
    ) {
        let Node::Dir(_, names) = &self.nodes[dir] else {
            panic!("no directory");
        };
        for (name, &(node, _)) in names {
            let path = join(path, name);
            let what = match &self.nodes[node] {
                Node::File(data) => format!("file {data}"),
                Node::Symlink(target) => format!("link {target}"),
                Node::Dir(mode, _) => format!("dir {mode:o}"),
            };
            listing.paths.insert(path.clone(), what);
            if self.is_dir(node) {
                self.list_dir(node, &path, listing, groups);
            } else {
                groups.entry(node).or_default().insert(path);
            }
        }
    }
}

/// A tree, to be compared with another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) paths: BTreeMap<String, String>,
    pub(super) groups: BTreeSet<BTreeSet<String>>,
}
