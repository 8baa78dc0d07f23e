//! What a layer says of which path: the changes, and what has to be said along with them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::Source;
use crate::delta::{Change, ChangeKind};
use crate::image::apply::WHITEOUT;
use crate::image::error::ImageError;
use crate::units::Bytes;

/// The most that readers of tar take of an entry's pax records (Go's `archive/tar`, `maxSpecialFileSize`),
/// less what is not attributes.
const MAX_XATTRS: usize = (1 << 20) - (64 << 10);

/// Whiteouts in one directory that an opaque mark may stand for.
const MIN_OPAQUE: usize = 2;

/// What is said of a path, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Todo {
    /// What the older tree has there goes, with all that is in it.
    pub(super) whiteout: bool,
    /// What the newer tree has there.
    pub(super) emit: bool,
    /// Of a directory: all that the older tree has in it goes.
    pub(super) opaque: bool,
    /// All that is in it is said as well.
    whole: bool,
}

/// The whole of a layer, parents before what is in them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) paths: BTreeMap<PathBuf, Todo>,
    pub(super) sockets: u64,
    pub(super) unsayable_names: u64,
    pub(super) root_lost_xattr: bool,
}

/// Whether a layer can speak of the path.
fn is_sayable(path: &Path) -> bool {
    path.iter()
        .all(|component| !component.as_bytes().starts_with(WHITEOUT))
}

/// That every reader of tar takes the attributes of an entry.
pub(super) fn check_xattrs(path: &Path, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), ImageError> {
    let mut sum = 0_usize;
    for (name, value) in xattrs {
        sum = sum.saturating_add(name.len()).saturating_add(value.len());
        if sum > MAX_XATTRS {
            return Err(ImageError::XattrTooLarge {
                path: path.to_owned(),
                name: String::from_utf8_lossy(name).into_owned(),
                size: Bytes::new(u64::try_from(sum).unwrap_or(u64::MAX)),
            });
        }
    }
    Ok(())
}

impl Plan {
    pub(super) fn new(
        changes: &[Change],
        newer: BorrowedFd<'_>,
        older: Option<BorrowedFd<'_>>,
    ) -> Result<Self, ImageError> {
        let mut newer = Source::new(newer)?;
        let mut plan = Self::default();
        for change in changes {
            plan.change(change, &mut newer)?;
        }
        if let Some(older) = older {
            plan.renew_directories(&mut newer, &mut Source::new(older)?)?;
        }
        plan.complete_links(&mut newer)?;
        plan.add_parents();
        plan.set_opaque(&mut newer)?;
        Ok(plan)
    }

    fn todo(&mut self, path: &Path) -> &mut Todo {
        self.paths.entry(path.to_owned()).or_default()
    }

    fn change(&mut self, change: &Change, newer: &mut Source) -> Result<(), ImageError> {
        let path = &change.path;
        if !is_sayable(path) {
            self.unsayable_names = self.unsayable_names.saturating_add(1);
            return Ok(());
        }
        if change.kind == ChangeKind::Deleted {
            // What is no directory any more took along what was in it.
            let parent = path.parent().unwrap_or(Path::new(""));
            if newer.stat(parent)?.is_some_and(|stat| stat.is_dir()) {
                self.todo(path).whiteout = true;
            }
            return Ok(());
        }
        let stat = newer
            .stat(path)?
            .ok_or_else(|| ImageError::SourceChanged { path: path.clone() })?;
        if stat.kind == FileType::Socket {
            self.sockets = self.sockets.saturating_add(1);
            if change.kind == ChangeKind::Modified {
                self.todo(path).whiteout = true;
            }
            return Ok(());
        }
        let todo = self.todo(path);
        todo.emit = true;
        // All that is in a directory that was added is told as added.
        todo.whole = change.kind == ChangeKind::Added || !stat.is_dir();
        Ok(())
    }

    /// Has directories written anew that have lost an extended attribute: an entry only adds some.
    fn renew_directories(
        &mut self,
        newer: &mut Source,
        older: &mut Source,
    ) -> Result<(), ImageError> {
        let modified: Vec<PathBuf> = self
            .paths
            .iter()
            .filter(|(_, todo)| todo.emit && !todo.whole)
            .map(|(path, _)| path.clone())
            .collect();
        for path in modified {
            if !older.stat(&path)?.is_some_and(|stat| stat.is_dir()) {
                continue;
            }
            let kept: HashSet<Vec<u8>> = newer.xattrs(&path)?.into_iter().map(|(n, _)| n).collect();
            let lost = older
                .xattrs(&path)?
                .iter()
                .any(|(name, _)| !kept.contains(name));
            if lost && path.as_os_str().is_empty() {
                self.root_lost_xattr = true;
            } else if lost {
                self.renew(&path, newer)?;
            }
        }
        Ok(())
    }

    fn renew(&mut self, top: &Path, newer: &mut Source) -> Result<(), ImageError> {
        let below: Vec<PathBuf> = self
            .paths
            .range(top.to_owned()..)
            .take_while(|(path, _)| path.starts_with(top))
            .map(|(path, _)| path.clone())
            .collect();
        for path in below {
            self.paths.remove(&path);
        }
        self.todo(top).whiteout = true;
        let mut todo = vec![top.to_owned()];
        while let Some(path) = todo.pop() {
            let Some(stat) = newer.stat(&path)? else {
                return Err(ImageError::SourceChanged { path });
            };
            if !is_sayable(&path) {
                self.unsayable_names = self.unsayable_names.saturating_add(1);
            } else if stat.kind == FileType::Socket {
                self.sockets = self.sockets.saturating_add(1);
            } else {
                let said = self.todo(&path);
                (said.emit, said.whole) = (true, true);
                if stat.is_dir() {
                    let names = newer.names(&path)?.into_iter();
                    todo.extend(names.map(|(name, ..)| path.join(OsStr::from_bytes(&name))));
                }
            }
        }
        Ok(())
    }

    /// Has every name of a file written that has one written: an entry makes a new file, to which the names
    /// that are left out would not lead.
    fn complete_links(&mut self, newer: &mut Source) -> Result<(), ImageError> {
        let mut missing: HashMap<u64, u64> = HashMap::new();
        let emitted = self.paths.iter().filter(|(_, todo)| todo.emit);
        for (path, _) in emitted {
            if let Some(stat) = newer.stat(path)?
                && !stat.is_dir()
                && stat.links > 1
            {
                let left = missing.entry(stat.ino).or_insert(stat.links);
                *left = left.saturating_sub(1);
            }
        }
        missing.retain(|_, left| *left > 0);
        if missing.is_empty() {
            return Ok(());
        }
        let mut todo = vec![PathBuf::new()];
        while let Some(dir) = todo.pop() {
            for (name, ino, is_dir) in newer.names(&dir)? {
                let path = dir.join(OsStr::from_bytes(&name));
                if is_dir {
                    todo.push(path);
                } else if missing.contains_key(&ino) && is_sayable(&path) {
                    let said = self.todo(&path);
                    (said.emit, said.whole) = (true, true);
                }
            }
        }
        Ok(())
    }

    /// Has the directory written that something is put into or taken from, for its time.
    fn add_parents(&mut self) {
        let parents: HashSet<PathBuf> = self
            .paths
            .keys()
            .filter_map(|path| path.parent().map(Path::to_owned))
            .collect();
        for parent in parents {
            self.todo(&parent).emit = true;
        }
    }

    /// Replaces whiteouts by an opaque mark where nothing that the directory holds is of the older tree.
    fn set_opaque(&mut self, newer: &mut Source) -> Result<(), ImageError> {
        let mut gone: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for (path, todo) in &self.paths {
            if let Some(parent) = path.parent().filter(|_| todo.whiteout && !todo.emit) {
                let whiteouts = gone.entry(parent.to_owned()).or_default();
                whiteouts.push(path.clone());
            }
        }
        gone.retain(|_, whiteouts| whiteouts.len() >= MIN_OPAQUE);
        for (dir, whiteouts) in gone {
            let is_new = |(name, ..): &(Vec<u8>, u64, bool)| {
                let said = self.paths.get(&dir.join(OsStr::from_bytes(name)));
                said.is_some_and(|todo| todo.emit && todo.whole)
            };
            if newer.names(&dir)?.iter().all(is_new) {
                for path in whiteouts {
                    self.paths.remove(&path);
                }
                self.todo(&dir).opaque = true;
            }
        }
        Ok(())
    }
}
