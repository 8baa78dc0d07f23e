//! From inodes to paths.
//!
//! A directory tells where it is itself, by `..`. Of a file only its directory knows, so directories are
//! searched: those near to what changed, those of the file's group, which the kernel puts it near to
//! (`fs/ext4/ialloc.c:__ext4_new_inode`), those laid out with that group, then all; and no more once as
//! many names are found as the inode says that it has.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Refusal;
use super::ext4::{Directory, Ext4, Ino};

/// The longest path that is followed: what is longer is refused, and loops with it.
const PATH_MAX: usize = 1 << 16;
/// How many names are kept of directories that were read.
const KEPT: usize = 1 << 17;

/// The names of one of the two.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub(super) fs: &'a Ext4<'a>,
    kept: RefCell<(usize, HashMap<Ino, Rc<Directory>>)>,
    /// Where `..` leads, of directories that were searched.
    parents: RefCell<HashMap<Ino, Ino>>,
    paths: RefCell<HashMap<Ino, PathBuf>>,
}

/// A path with one more name, if it is not too long.
pub(super) fn below(path: &Path, name: &[u8]) -> Result<PathBuf, Refusal> {
    if path.as_os_str().len().saturating_add(name.len()) >= PATH_MAX {
        return Err(Refusal::PathLength { limit: PATH_MAX });
    }
    Ok(path.join(OsStr::from_bytes(name)))
}

/// Paths of inodes.
pub(super) type Paths = HashMap<Ino, BTreeSet<PathBuf>>;

/// What was looked for.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) paths: Paths,
    /// The directories that have those names.
    pub(super) directories: BTreeSet<Ino>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(fs: &'a Ext4<'a>) -> Self {
        Self {
            fs,
            kept: RefCell::default(),
            parents: RefCell::default(),
            paths: RefCell::new(HashMap::from([(Ino::ROOT, PathBuf::new())])),
        }
    }

    /// What is in a directory.
    pub(super) fn directory(&self, ino: Ino) -> Result<Rc<Directory>, Refusal> {
        if let Some(known) = self.kept.borrow().1.get(&ino) {
            return Ok(Rc::clone(known));
        }
        let read = Rc::new(self.fs.directory(&self.fs.named(ino)?)?);
        let (count, kept) = &mut *self.kept.borrow_mut();
        *count = count.saturating_add(read.names.len().saturating_add(1));
        if *count > KEPT {
            kept.clear();
            *count = read.names.len();
        }
        kept.insert(ino, Rc::clone(&read));
        Ok(read)
    }

    /// Gives the names in a directory that is searched once: it is not kept, for most have nothing that is
    /// looked for.
    fn each_name(&self, ino: Ino, each: &mut dyn FnMut(&[u8], Ino)) -> Result<(), Refusal> {
        if let Some(known) = self.kept.borrow().1.get(&ino) {
            known.names.iter().for_each(|(name, ino)| each(name, *ino));
            return Ok(());
        }
        let parent = self.fs.each_name(&self.fs.named(ino)?, &mut |name, ino| {
            each(name, ino);
            true
        })?;
        self.parents.borrow_mut().insert(ino, parent);
        Ok(())
    }

    fn parent(&self, ino: Ino) -> Result<Ino, Refusal> {
        if let Some(parent) = self.parents.borrow().get(&ino) {
            return Ok(*parent);
        }
        Ok(self.directory(ino)?.parent)
    }

    /// Where a directory is.
    pub(super) fn path(&self, ino: Ino) -> Result<PathBuf, Refusal> {
        let damaged = |ino: Ino| Refusal::Damaged {
            what: "the way up from directory",
            at: u64::from(ino.get()),
        };
        // Upwards to one of which the path is known.
        let (mut at, mut len, mut names) = (ino, 0_usize, Vec::new());
        let mut path = loop {
            if let Some(path) = self.paths.borrow().get(&at) {
                break path.clone();
            }
            let parent = self.parent(at)?;
            let above = self.directory(parent)?;
            let name = above.names.iter().find(|(_, found)| **found == at);
            let (name, _) = name.ok_or_else(|| damaged(at))?;
            len = len.saturating_add(name.len()).saturating_add(1);
            if len > PATH_MAX {
                return Err(Refusal::PathLength { limit: PATH_MAX });
            }
            names.push((at, name.clone()));
            at = parent;
        };
        for (ino, name) in names.into_iter().rev() {
            path = below(&path, &name)?;
            self.paths.borrow_mut().insert(ino, path.clone());
        }
        Ok(path)
    }

    /// All paths of these inodes, which are no directories; `near` are directories that are looked into
    /// first.
    pub(super) fn find(
        &self,
        wanted: &BTreeSet<Ino>,
        near: &BTreeSet<Ino>,
    ) -> Result<Found, Refusal> {
        let mut search = Search {
            tree: self,
            left: BTreeMap::new(),
            seen: HashSet::new(),
            found: Found::default(),
        };
        let (mut groups, mut flex) = (BTreeSet::new(), BTreeSet::new());
        for ino in wanted {
            let inode = self.fs.named(*ino)?;
            search.left.insert(*ino, u64::from(inode.links));
            let (group, _) = self.fs.group_of(*ino)?;
            groups.insert(group);
            flex.extend(self.fs.flex_of(group));
        }
        search.look_into(near.iter().copied())?;
        let all = 0..self.fs.superblock().nr_groups();
        let rounds: [&mut dyn Iterator<Item = u64>; 3] = [
            &mut groups.into_iter(),
            &mut flex.into_iter(),
            &mut all.into_iter(),
        ];
        for round in rounds {
            for group in round {
                if search.left.is_empty() {
                    return Ok(search.found);
                }
                search.look_into(self.fs.directories(group)?.into_iter())?;
            }
        }
        match search.left.first_key_value() {
            None => Ok(search.found),
            Some((ino, _)) => Err(Refusal::Damaged {
                what: "not all names are found of inode",
                at: u64::from(ino.get()),
            }),
        }
    }
}

struct Search<'a, 'b> {
    tree: &'a Tree<'b>,
    /// Names that are still to be found.
    left: BTreeMap<Ino, u64>,
    seen: HashSet<Ino>,
    found: Found,
}

impl Search<'_, '_> {
    fn look_into(&mut self, directories: impl Iterator<Item = Ino>) -> Result<(), Refusal> {
        for ino in directories {
            if self.left.is_empty() {
                return Ok(());
            }
            if !self.seen.insert(ino) {
                continue;
            }
            let mut names = Vec::new();
            self.tree.each_name(ino, &mut |name, found| {
                if self.left.contains_key(&found) {
                    names.push((found, name.to_vec()));
                }
            })?;
            if names.is_empty() {
                continue;
            }
            self.found.directories.insert(ino);
            let above = self.tree.path(ino)?;
            for (found, name) in names {
                let Some(left) = self.left.get_mut(&found) else {
                    continue;
                };
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.left.remove(&found);
                }
                let paths = self.found.paths.entry(found).or_default();
                paths.insert(below(&above, &name)?);
            }
        }
        Ok(())
    }
}
