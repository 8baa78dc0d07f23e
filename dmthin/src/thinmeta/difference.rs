//! What one device maps otherwise than another.
//!
//! Both trees are walked side by side, in the order of their keys. A subtree that both have is not read,
//! so that the work is that of what differs: a snapshot shares with its origin whatever neither of the two
//! has written since.

use std::cmp::Ordering;

use crate::thinmeta::device::{BlockReader, ReadAt};
use crate::thinmeta::node::{Damage, Kind, Node, number};
use crate::thinmeta::superblock::ReadError;
use crate::thinmeta::walk::{DEPTH_MAX, Range, Tree, check_keys, children};
use crate::units::MetaBlocks;

/// A block of the device, and the value that each tree has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: u64,
    pub(super) old: Option<u64>,
    pub(super) new: Option<u64>,
}

/// What is still to come of a tree.
#[derive(Debug, Clone, Copy)]
enum Item {
    Subtree {
        root: MetaBlocks,
        range: Range,
        /// Levels below it: a walk downwards ends, whatever the blocks say.
        height: usize,
    },
    Mapping {
        key: u64,
        value: u64,
    },
}

impl Item {
    /// In the order of the keys; of two that begin alike the taller one is first, as the other may be
    /// in it.
    fn order(&self, other: &Self) -> Ordering {
        let place = |item: &Self| match *item {
            // A leaf before a mapping too: it may have that in it.
            Self::Subtree { range, height, .. } => {
                let below_mappings = usize::MAX.saturating_sub(1);
                (range.begin, below_mappings.saturating_sub(height))
            }
            Self::Mapping { key, .. } => (key, usize::MAX),
        };
        place(self).cmp(&place(other))
    }
}

/// A tree on its way: the next item is the last one.
#[derive(Debug)]
struct Cursor {
    tree: Tree,
    items: Vec<Item>,
}

impl Cursor {
    fn new<D: ReadAt>(tree: Tree, reader: &mut BlockReader<D>) -> Result<Self, ReadError> {
        let whole = Item::Subtree {
            root: tree.root,
            range: Range::WHOLE,
            height: height(tree, reader)?,
        };
        Ok(Self {
            tree,
            items: vec![whole],
        })
    }

    /// Puts what is in a subtree in its place.
    fn expand<D: ReadAt>(
        &mut self,
        reader: &mut BlockReader<D>,
        root: MetaBlocks,
        range: Range,
        height: usize,
    ) -> Result<(), ReadError> {
        let node = Node::decode(root, reader.read(root)?, self.tree.value_size)?;
        check_keys(&node, range)?;
        if node.is_leaf() {
            let mappings = node.entries().map(|(key, value)| Item::Mapping {
                key,
                value: number(value, 0),
            });
            let mappings: Vec<_> = mappings.collect();
            self.items.extend(mappings.into_iter().rev());
            return Ok(());
        }
        let Some(height) = height.checked_sub(1) else {
            return Err(node.damage(Kind::Depth).into());
        };
        let mut end = range.end;
        for (begin, root) in children(&node, self.tree.total)?.into_iter().rev() {
            self.items.push(Item::Subtree {
                root,
                range: Range { begin, end },
                height,
            });
            end = Some(begin);
        }
        Ok(())
    }

    /// What becomes of the next item where the other tree has nothing for it.
    fn pass<D: ReadAt>(
        &mut self,
        reader: &mut BlockReader<D>,
    ) -> Result<Option<(u64, u64)>, ReadError> {
        match self.items.pop() {
            None => Ok(None),
            Some(Item::Mapping { key, value }) => Ok(Some((key, value))),
            Some(Item::Subtree {
                root,
                range,
                height,
            }) => {
                self.expand(reader, root, range, height)?;
                Ok(None)
            }
        }
    }
}

/// Levels below a tree's root, which are the same everywhere in a btree.
fn height<D: ReadAt>(tree: Tree, reader: &mut BlockReader<D>) -> Result<usize, ReadError> {
    let mut block = tree.root;
    for height in 0..DEPTH_MAX {
        let node = Node::decode(block, reader.read(block)?, tree.value_size)?;
        if node.is_leaf() {
            return Ok(height);
        }
        match children(&node, tree.total)?.first() {
            Some((_, child)) => block = *child,
            None => return Ok(height),
        }
    }
    Err(Damage::new(tree.root, Kind::Depth).into())
}

/// Gives every key to `each` for which the trees have different values, in order.
pub(super) fn differences<D: ReadAt>(
    reader: &mut BlockReader<D>,
    [old, new]: [Tree; 2],
    mut each: impl FnMut(Difference),
) -> Result<(), ReadError> {
    let mut old = Cursor::new(old, reader)?;
    let mut new = Cursor::new(new, reader)?;
    loop {
        let order = match (old.items.last(), new.items.last()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(Item::Subtree { root: a, .. }), Some(Item::Subtree { root: b, .. }))
                if a == b =>
            {
                old.items.pop();
                new.items.pop();
                continue;
            }
            (Some(a), Some(b)) => a.order(b),
        };
        let was = if order.is_le() {
            old.pass(reader)?
        } else {
            None
        };
        let is = if order.is_ge() {
            new.pass(reader)?
        } else {
            None
        };
        let (old, new) = (was.map(|(_, value)| value), is.map(|(_, value)| value));
        if let Some((key, _)) = was.or(is)
            && old != new
        {
            each(Difference { key, old, new });
        }
    }
}
