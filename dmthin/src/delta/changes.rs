//! From inodes that may have changed to the paths that did.
//!
//! A path that both trees have and that is not the same in them leads to an inode that changed, or to two
//! inodes; and then the directory that it is in changed, or is two itself. So the directories that changed and are
//! where they were are compared name by name, from there on downwards wherever two inodes meet; and the
//! names of files that changed are looked for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use super::candidates::{Candidates, Pair};
use super::content::is_alike;
use super::ext4::{Ino, Inode, Names};
use super::names::{Paths, Tree, below};
use super::{Change, ChangeKind, Refusal};

/// A path that both have, and what it leads to.
#[derive(Debug)]
struct Common {
    path: PathBuf,
    old: Ino,
    new: Ino,
}

struct Finder<'a> {
    pair: &'a Pair<'a>,
    candidates: &'a Candidates,
    old: Tree<'a>,
    new: Tree<'a>,
    found: BTreeMap<PathBuf, ChangeKind>,
    /// Directories that are to be compared name by name.
    directories: Vec<Common>,
    /// Files of which the content or the like differs: wherever they are in both, the path does.
    changed: BTreeSet<Ino>,
    /// Files of more names than one, of which one may be new or gone.
    linked: BTreeSet<Ino>,
    /// Paths that lead to two files that are alike, one of which has other names too.
    replaced: Vec<Common>,
    /// Directories that were entered, of the older and the newer.
    entered: [HashSet<Ino>; 2],
    /// Candidates that are directories there.
    above: [BTreeSet<Ino>; 2],
}

/// The paths that differ.
pub(super) fn changes(pair: &Pair<'_>, candidates: &Candidates) -> Result<Vec<Change>, Refusal> {
    let mut finder = Finder {
        pair,
        candidates,
        old: Tree::new(&pair.old),
        new: Tree::new(&pair.new),
        found: BTreeMap::new(),
        directories: Vec::new(),
        changed: BTreeSet::new(),
        linked: BTreeSet::new(),
        replaced: Vec::new(),
        entered: Default::default(),
        above: Default::default(),
    };
    finder.sort_candidates()?;
    finder.compare_directories()?;
    finder.name_files()?;
    let found = finder.found.into_iter();
    Ok(found.map(|(path, kind)| Change { path, kind }).collect())
}

const fn has_names(inode: &Inode) -> bool {
    inode.links > 1
}

impl Finder<'_> {
    fn sort_candidates(&mut self) -> Result<(), Refusal> {
        for ino in &self.candidates.inodes {
            let both = [self.pair.old.linked(*ino)?, self.pair.new.linked(*ino)?];
            for (inode, above) in both.iter().zip(&mut self.above) {
                above.extend(
                    inode
                        .iter()
                        .filter(|inode| inode.is_directory())
                        .map(|_| *ino),
                );
            }
            let [Some(old), Some(new)] = both else {
                continue;
            };
            if !old.is_same_object(&new) {
                continue;
            }
            if new.is_directory() {
                let path = self.new.path(*ino)?;
                // One that was moved is among the names of its new place.
                if self.old.path(*ino)? == path {
                    self.directories.push(Common {
                        path,
                        old: *ino,
                        new: *ino,
                    });
                }
                continue;
            }
            if has_names(&old) || has_names(&new) {
                self.linked.insert(*ino);
            }
            if !is_alike(self.pair, self.candidates, &old, &new)? {
                self.changed.insert(*ino);
            }
        }
        Ok(())
    }

    fn compare_directories(&mut self) -> Result<(), Refusal> {
        let mut done = HashSet::new();
        while let Some(Common { path, old, new }) = self.directories.pop() {
            if !done.insert(path.clone()) {
                continue;
            }
            self.enter(0, old)?;
            self.enter(1, new)?;
            let (was, is) = (self.pair.old.named(old)?, self.pair.new.named(new)?);
            if !is_alike(self.pair, self.candidates, &was, &is)? {
                self.found.insert(path.clone(), ChangeKind::Modified);
            }
            let (was, is) = (self.old.directory(old)?, self.new.directory(new)?);
            for (name, old) in &was.names {
                match is.names.get(name) {
                    None => {
                        let path = below(&path, name)?;
                        self.found.insert(path, ChangeKind::Deleted);
                        self.remove(*old)?;
                    }
                    Some(new) => self.compare(&path, name, *old, *new)?,
                }
            }
            for (name, new) in &is.names {
                if !was.names.contains_key(name) {
                    self.add(below(&path, name)?, *new)?;
                }
            }
        }
        Ok(())
    }

    /// Compares what a name leads to that is in both versions of a directory.
    fn compare(
        &mut self,
        path: &std::path::Path,
        name: &[u8],
        old: Ino,
        new: Ino,
    ) -> Result<(), Refusal> {
        if old == new && !self.candidates.inodes.contains(&new) {
            return Ok(());
        }
        let (was, is) = (self.pair.old.named(old)?, self.pair.new.named(new)?);
        let path = below(path, name)?;
        if was.is_directory() && is.is_directory() {
            self.directories.push(Common { path, old, new });
            return Ok(());
        }
        // One that is the same object is among the candidates.
        if was.is_same_object(&is) {
            return Ok(());
        }
        self.remove(old)?;
        if !is_alike(self.pair, self.candidates, &was, &is)? {
            self.found.insert(path.clone(), ChangeKind::Modified);
        } else if has_names(&was) || has_names(&is) {
            self.replaced.push(Common {
                path: path.clone(),
                old,
                new,
            });
        }
        if is.is_directory() {
            self.add_names(path, new)?;
        } else if has_names(&is) {
            self.linked.insert(new);
        }
        Ok(())
    }

    /// Tells of a path that is new, and of all below it.
    fn add(&mut self, path: PathBuf, ino: Ino) -> Result<(), Refusal> {
        let inode = self.pair.new.named(ino)?;
        self.found.insert(path.clone(), ChangeKind::Added);
        if inode.is_directory() {
            return self.add_names(path, ino);
        }
        if has_names(&inode) {
            self.linked.insert(ino);
        }
        Ok(())
    }

    fn add_names(&mut self, path: PathBuf, ino: Ino) -> Result<(), Refusal> {
        let mut rest = vec![(path, ino)];
        while let Some((path, ino)) = rest.pop() {
            self.enter(1, ino)?;
            let names: Names = self.new.directory(ino)?.names.clone();
            for (name, ino) in names {
                let inode = self.pair.new.named(ino)?;
                let path = below(&path, &name)?;
                self.found.insert(path.clone(), ChangeKind::Added);
                if inode.is_directory() {
                    rest.push((path, ino));
                } else if has_names(&inode) {
                    self.linked.insert(ino);
                }
            }
        }
        Ok(())
    }

    /// Looks for files that had a name in what is gone, and have others.
    fn remove(&mut self, ino: Ino) -> Result<(), Refusal> {
        let mut rest = vec![ino];
        while let Some(ino) = rest.pop() {
            let inode = self.pair.old.named(ino)?;
            if inode.is_directory() {
                self.enter(0, ino)?;
                rest.extend(self.old.directory(ino)?.names.values());
            } else if has_names(&inode) {
                self.linked.insert(ino);
            }
        }
        Ok(())
    }

    /// A directory has one place, so that who comes to it again goes in a circle.
    fn enter(&mut self, side: usize, ino: Ino) -> Result<(), Refusal> {
        let is_new = self
            .entered
            .get_mut(side)
            .is_some_and(|entered| entered.insert(ino));
        if is_new {
            return Ok(());
        }
        Err(Refusal::Damaged {
            what: "two names lead to directory",
            at: u64::from(ino.get()),
        })
    }

    /// Finds the paths of files that changed, or got or lost names.
    fn name_files(&mut self) -> Result<(), Refusal> {
        let (mut of_old, mut of_new) = (self.changed.clone(), self.changed.clone());
        for ino in &self.linked {
            let (old, new) = (self.pair.old.linked(*ino)?, self.pair.new.linked(*ino)?);
            // Else its names are told already: all of them are new, or gone.
            if let (Some(old), Some(new)) = (old, new)
                && old.is_same_object(&new)
            {
                of_old.insert(*ino);
                of_new.insert(*ino);
            }
        }
        of_old.extend(self.replaced.iter().map(|common| common.old));
        of_new.extend(self.replaced.iter().map(|common| common.new));
        let new = self.new.find(&of_new, &self.near(1))?;
        let mut near = self.near(0);
        // Most are where they were.
        for ino in &new.directories {
            if self
                .pair
                .old
                .linked(*ino)?
                .is_some_and(|inode| inode.is_directory())
            {
                near.insert(*ino);
            }
        }
        let old = self.old.find(&of_old, &near)?;
        let [old, new] = [old.paths, new.paths];
        let none = BTreeSet::new();
        let names = |paths: &'_ Paths, ino: &Ino| paths.get(ino).unwrap_or(&none).clone();
        let mut modified = Vec::new();
        for ino in self.changed.union(&self.linked) {
            let (was, is) = (names(&old, ino), names(&new, ino));
            if self.changed.contains(ino) || was != is {
                modified.extend(was.intersection(&is).cloned());
            }
        }
        for common in &self.replaced {
            if names(&old, &common.old) != names(&new, &common.new) {
                modified.push(common.path.clone());
            }
        }
        for path in modified {
            self.found.entry(path).or_insert(ChangeKind::Modified);
        }
        Ok(())
    }

    /// The directories that changed or were entered, of the older or the newer.
    fn near(&self, side: usize) -> BTreeSet<Ino> {
        let entered = self.entered.get(side).into_iter().flatten();
        let above = self.above.get(side).into_iter().flatten();
        entered.chain(above).copied().collect()
    }
}
