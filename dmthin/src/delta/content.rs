//! Whether two inodes are alike in all that is told of a path.

use super::Refusal;
use super::candidates::{Candidates, Pair};
use super::ext4::{BLOCK, Extent, FsBlock, Inode, Kind};

/// Whether two inodes hold and say the same. What directories have in them is not looked at, nor is which
/// paths are one inode.
pub(super) fn is_alike(
    pair: &Pair<'_>,
    candidates: &Candidates,
    old: &Inode,
    new: &Inode,
) -> Result<bool, Refusal> {
    let told = |inode: &Inode| (inode.mode, inode.kind, inode.uid, inode.gid, inode.mtime);
    if told(old) != told(new) {
        return Ok(false);
    }
    if pair.old.xattrs(old)? != pair.new.xattrs(new)? {
        return Ok(false);
    }
    match old.kind {
        Kind::File | Kind::Symlink => has_same_content(pair, candidates, old, new),
        Kind::Directory | Kind::Device(_) | Kind::Other => Ok(true),
    }
}

fn has_same_content(
    pair: &Pair<'_>,
    candidates: &Candidates,
    old: &Inode,
    new: &Inode,
) -> Result<bool, Refusal> {
    if old.size != new.size {
        return Ok(false);
    }
    if let (Some(old), Some(new)) = (old.target(), new.target()) {
        return Ok(old == new);
    }
    let size = old.size;
    let end = old.blocks();
    let (old, new) = (pair.old.extents(old)?.data, pair.new.extents(new)?.data);
    let (mut old, mut new) = (Cursor::new(&old), Cursor::new(&new));
    let mut at = 0;
    while at < end {
        let ((was, old_len), (is, new_len)) = (old.next(at), new.next(at));
        let len = old_len.min(new_len).min(end.saturating_sub(at));
        let part = Part {
            pair,
            candidates,
            // Of the last block only what is in the file counts.
            last: size.saturating_sub(at.saturating_mul(4096)),
            len,
        };
        if !part.is_same(was, is)? {
            return Ok(false);
        }
        at = at.saturating_add(len);
    }
    Ok(true)
}

/// A place in a list of extents that is only moved on.
struct Cursor<'a> {
    rest: &'a [Extent],
}

impl<'a> Cursor<'a> {
    const fn new(rest: &'a [Extent]) -> Self {
        Self { rest }
    }

    /// Where a block of the file is, if it does not read as zeros, and for how many blocks that holds.
    fn next(&mut self, at: u64) -> (Option<FsBlock>, u64) {
        while let [first, rest @ ..] = self.rest {
            if at < first.begin {
                return (None, first.begin.saturating_sub(at));
            }
            let past = at.saturating_sub(first.begin);
            if past < first.len {
                let place = first.written.then(|| first.place.after(past));
                return (place, first.len.saturating_sub(past));
            }
            self.rest = rest;
        }
        (None, u64::MAX)
    }
}

/// Blocks of a file that lie together in both.
struct Part<'a, 'b> {
    pair: &'a Pair<'b>,
    candidates: &'a Candidates,
    /// Bytes to the file's end.
    last: u64,
    len: u64,
}

impl Part<'_, '_> {
    fn is_same(&self, old: Option<FsBlock>, new: Option<FsBlock>) -> Result<bool, Refusal> {
        let mut at = 0;
        while at < self.len {
            let (old, new) = (
                old.map(|block| block.after(at)),
                new.map(|block| block.after(at)),
            );
            let skipped = match (old, new) {
                (None, None) => return Ok(true),
                // What the pool says is unchanged there need not be read.
                (Some(old), Some(new)) if old == new => {
                    let left = self.len.saturating_sub(at);
                    match self.candidates.next_differing(new, left) {
                        None => return Ok(true),
                        Some(past) => past,
                    }
                }
                _ => 0,
            };
            at = at.saturating_add(skipped);
            let [old, new] = [old, new].map(|block| block.map(|block| block.after(skipped)));
            let before = at.saturating_mul(4096);
            let len = usize::try_from(self.last.saturating_sub(before)).unwrap_or(BLOCK);
            if !self.is_same_block(old, new, len.min(BLOCK))? {
                return Ok(false);
            }
            at = at.saturating_add(1);
        }
        Ok(true)
    }

    fn is_same_block(
        &self,
        old: Option<FsBlock>,
        new: Option<FsBlock>,
        len: usize,
    ) -> Result<bool, Refusal> {
        let is_zero = |bytes: &[u8]| bytes.iter().take(len).all(|byte| *byte == 0);
        Ok(match (old, new) {
            (Some(old), Some(new)) => {
                let (old, new) = (
                    self.pair.old.disk().block(old)?,
                    self.pair.new.disk().block(new)?,
                );
                old.get(..len) == new.get(..len)
            }
            (Some(old), None) => is_zero(&self.pair.old.disk().block(old)?),
            (None, Some(new)) => is_zero(&self.pair.new.disk().block(new)?),
            (None, None) => true,
        })
    }
}
