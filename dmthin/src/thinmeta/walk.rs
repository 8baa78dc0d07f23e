//! Walks a btree, trusting no pointer in it.
//!
//! What bounds a walk whatever the blocks say: a child's number is below the device's end, its keys lie
//! in the range that its parent gives it, no path leads through a block twice or deeper than any
//! tree of the kernel's can be; and who walks may leave out what was seen, by [`Seen`].

use std::collections::HashMap;

use crate::thinmeta::device::{BlockReader, ReadAt};
use crate::thinmeta::node::{Damage, Kind, Node, number};
use crate::thinmeta::superblock::ReadError;
use crate::units::MetaBlocks;

/// Keys have 64 bits and a node that is not the root has at least 42 children
/// (`dm-btree-remove.c:merge_threshold`): twelve levels are enough, and some are to spare.
pub(super) const DEPTH_MAX: usize = 16;

const WORD: u64 = 64;
const PAGE_WORDS: usize = 64;
const PAGE: u64 = 4096;

type Page = [u64; PAGE_WORDS];

/// A set of block numbers: a bit each, in pages of 4096 that exist once a number in them is seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pages: Vec<Page>,
    places: HashMap<u64, usize>,
    /// The page of the last number, and its place: the next number mostly is in it too.
    last: Option<(u64, usize)>,
}

impl Seen {
    /// Puts a number in; true where it was not there.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let key = number / PAGE;
        let at = match self.last {
            Some((last, at)) if last == key => at,
            _ => *self.places.entry(key).or_insert_with(|| {
                self.pages.push([0; PAGE_WORDS]);
                self.pages.len().saturating_sub(1)
            }),
        };
        self.last = Some((key, at));
        let (word, bit) = place(number);
        let word = self.pages.get_mut(at).and_then(|page| page.get_mut(word));
        word.is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    /// Takes a number out, if it is there.
    pub(super) fn remove(&mut self, number: u64) {
        let at = self.places.get(&(number / PAGE));
        let page = at.and_then(|at| self.pages.get_mut(*at));
        let (word, bit) = place(number);
        if let Some(word) = page.and_then(|page| page.get_mut(word)) {
            *word &= !bit;
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let key = number / PAGE;
        let at = match self.last {
            Some((last, at)) if last == key => Some(at),
            _ => self.places.get(&key).copied(),
        };
        let (word, bit) = place(number);
        let page = at.and_then(|at| self.pages.get(at));
        page.and_then(|page| page.get(word))
            .is_some_and(|word| word & bit != 0)
    }
}

/// The word of a page that a number is in, and its bit there.
fn place(number: u64) -> (usize, u64) {
    let word = usize::try_from(number % PAGE / WORD).unwrap_or(0);
    (word, 1_u64 << (number % WORD))
}

/// A tree of a metadata device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: MetaBlocks,
    /// Bytes of a value in a leaf.
    pub(super) value_size: usize,
    /// Blocks of the device.
    pub(super) total: MetaBlocks,
}

/// The keys that a node may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
}

impl Range {
    /// Those of a tree's root.
    pub(super) const WHOLE: Self = Self {
        begin: 0,
        end: None,
    };
}

impl Tree {
    /// Gives every leaf to `leaf`, in the order of the keys. A subtree is left out where `enter` is
    /// false for its root.
    pub(super) fn leaves<D: ReadAt>(
        self,
        reader: &mut BlockReader<D>,
        enter: &mut dyn FnMut(MetaBlocks) -> bool,
        leaf: &mut dyn FnMut(&Node<'_>) -> Result<(), Damage>,
    ) -> Result<(), ReadError> {
        Walk {
            tree: self,
            reader,
            enter,
            leaf,
            path: Vec::new(),
        }
        .enter(self.root, Range::WHOLE)
    }

    /// The first number of the value that a key has; reads one block for each level.
    pub(super) fn get<D: ReadAt>(
        self,
        reader: &mut BlockReader<D>,
        key: u64,
    ) -> Result<Option<u64>, ReadError> {
        let mut block = self.root;
        for _ in 0..DEPTH_MAX {
            let node = Node::decode(block, reader.read(block)?, self.value_size)?;
            if node.is_leaf() {
                let found = node.entries().find(|(found, _)| *found == key);
                return Ok(found.map(|(_, value)| number(value, 0)));
            }
            let children = children(&node, self.total)?;
            match children.iter().rev().find(|(begin, _)| *begin <= key) {
                Some((_, child)) => block = *child,
                None => return Ok(None),
            }
        }
        Err(Damage::new(self.root, Kind::Depth).into())
    }
}

struct Walk<'a, D> {
    tree: Tree,
    reader: &'a mut BlockReader<D>,
    enter: &'a mut dyn FnMut(MetaBlocks) -> bool,
    leaf: &'a mut dyn FnMut(&Node<'_>) -> Result<(), Damage>,
    path: Vec<MetaBlocks>,
}

impl<D: ReadAt> Walk<'_, D> {
    fn enter(&mut self, block: MetaBlocks, range: Range) -> Result<(), ReadError> {
        if self.path.contains(&block) {
            return Err(Damage::new(block, Kind::Cycle).into());
        }
        if self.path.len() >= DEPTH_MAX {
            return Err(Damage::new(block, Kind::Depth).into());
        }
        if !(self.enter)(block) {
            return Ok(());
        }
        let bytes = self.reader.read(block)?;
        let node = Node::decode(block, bytes, self.tree.value_size)?;
        check_keys(&node, range)?;
        if node.is_leaf() {
            return Ok((self.leaf)(&node)?);
        }
        let children = children(&node, self.tree.total)?;
        self.path.push(block);
        let ends = children.iter().skip(1).map(|(key, _)| Some(*key));
        for ((begin, child), end) in children.iter().zip(ends.chain([range.end])) {
            self.enter(*child, Range { begin: *begin, end })?;
        }
        self.path.pop();
        Ok(())
    }
}

pub(super) fn check_keys(node: &Node<'_>, range: Range) -> Result<(), Damage> {
    let Range { begin, end } = range;
    // They are in order.
    for found in [node.keys().next(), node.keys().last()]
        .into_iter()
        .flatten()
    {
        if found < begin || end.is_some_and(|end| found >= end) {
            return Err(node.damage(Kind::KeyRange { found, begin, end }));
        }
    }
    Ok(())
}

/// The children of an inner node, each with its first key.
pub(super) fn children(
    node: &Node<'_>,
    total: MetaBlocks,
) -> Result<Vec<(u64, MetaBlocks)>, Damage> {
    let child = |(entry, (key, value)): (usize, (u64, &[u8]))| {
        let block = number(value, 0);
        // Block 0 is the superblock.
        if block == 0 || block >= total.get() {
            return Err(node.damage(Kind::Child {
                entry,
                block,
                total: total.get(),
            }));
        }
        Ok((key, MetaBlocks::new(block)))
    };
    node.entries().enumerate().map(child).collect()
}
