//! Which names this layer has put where: what its whiteouts must spare.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// A set of (directory, name), the directory by its inode number, so that two ways to one
/// directory are one.
///
/// It keeps 128 bits for each pair and not the name: 16 bytes for each inode the volume has, at
/// most. The bits are keyed by random numbers, so that no archive can be made to have two pairs
/// collide. Pairs are never taken out: an inode number given anew within this layer is that of a
/// directory made by this layer, whose whole content is this layer's as well.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    keys: (RandomState, RandomState),
    pairs: HashSet<u128>,
}

impl Unpacked {
    fn key(&self, dir: u64, name: &[u8]) -> u128 {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            dir.hash(&mut hasher);
            name.hash(&mut hasher);
            u128::from(hasher.finish())
        };
        (half(&self.keys.0) << 64) | half(&self.keys.1)
    }

    /// Notes that this layer put `name` into `dir`.
    pub(super) fn mark(&mut self, dir: u64, name: &[u8]) {
        self.pairs.insert(self.key(dir, name));
    }

    /// Whether it did.
    pub(super) fn contains(&self, dir: u64, name: &[u8]) -> bool {
        !self.pairs.is_empty() && self.pairs.contains(&self.key(dir, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_pairs_are_in() {
        let mut unpacked = Unpacked::default();
        assert!(!unpacked.contains(1, b"a"));
        unpacked.mark(1, b"a");
        assert!(unpacked.contains(1, b"a"));
        assert!(!unpacked.contains(2, b"a"));
        assert!(!unpacked.contains(1, b"b"));
    }
}
