//! Reads an ext4, as far as two of them have to be compared, and trusts nothing in it.
//!
//! What is read is what [`Refusal`] does not name: features are taken from a list of those that are known,
//! every number is checked against what it counts, checksums are proven where there are some, loops and depths
//! are bounded. Nothing is repaired or guessed: what makes no sense is refused.

mod bytes;
mod directory;
mod disk;
mod extent;
mod group;
mod inode;
mod superblock;
mod xattr;

use std::fmt;

pub(super) use directory::{Directory, Names};
pub(super) use disk::{Aligned, Block, Disk, Pieces, Side, bytes_of};
pub(super) use extent::Extent;
pub(super) use group::{Ext4, Place};
pub(super) use inode::{Inode, Kind, differs};
pub(super) use superblock::Superblock;
pub(super) use xattr::is_same_block;

use crate::units::Bytes;

/// Bytes of a block; file systems of other blocks are not read.
pub(super) const BLOCK: usize = 4096;

/// A block of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FsBlock(u64);

impl FsBlock {
    pub(super) const fn new(n: u64) -> Self {
        Self(n)
    }

    pub(super) const fn get(self) -> u64 {
        self.0
    }

    /// The block so many further on.
    pub(super) const fn after(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// Where it begins.
    pub(super) const fn to_bytes(self) -> Bytes {
        Bytes::new(self.0.saturating_mul(4096))
    }
}

/// The number of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(u32);

impl Ino {
    /// The root directory.
    pub(super) const ROOT: Self = Self(2);

    pub(super) const fn new(n: u32) -> Self {
        Self(n)
    }

    pub(super) const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
