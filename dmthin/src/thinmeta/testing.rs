//! Metadata as the kernel would write them, made for tests: trees that share what they have in common.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "test helper, with small numbers"
)]

use std::collections::BTreeMap;

use crate::crc32c::crc32c;
use crate::thinmeta::superblock::BLOCK;

/// Entries of a node: half of what fits, as the kernel leaves it of keys in order.
const PER_NODE: usize = 126;
const MOST: u32 = 252;

/// A tree: its leaves, each with its first key and what it holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaves(BTreeMap<u64, (u64, Vec<(u64, u64)>)>);

/// Metadata in the making. Block 0 comes last.
pub(super) struct Maker<W> {
    write: W,
    next: u64,
    /// Root of the mappings and mapped blocks of each device.
    devices: BTreeMap<u64, (u64, u64)>,
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

fn seal(block: &mut [u8; BLOCK], xor: u32) {
    let sum = crc32c(&block[4..]) ^ xor;
    put(block, 0, &sum.to_le_bytes());
}

impl<W: FnMut(u64, &[u8; BLOCK])> Maker<W> {
    pub(super) fn new(write: W) -> Self {
        Self {
            write,
            next: 1,
            devices: BTreeMap::new(),
        }
    }

    fn node(&mut self, leaf: bool, entries: &[(u64, Vec<u8>)]) -> u64 {
        let size = entries.first().map_or(8, |(_, value)| value.len());
        let most = if size == 8 { MOST } else { 126 };
        let mut block = [0; BLOCK];
        put(&mut block, 4, &(1 + u32::from(leaf)).to_le_bytes());
        put(&mut block, 8, &self.next.to_le_bytes());
        let count = u32::try_from(entries.len()).unwrap();
        put(&mut block, 16, &count.to_le_bytes());
        put(&mut block, 20, &most.to_le_bytes());
        put(&mut block, 24, &u32::try_from(size).unwrap().to_le_bytes());
        let values = 32 + 8 * usize::try_from(most).unwrap();
        for (n, (key, value)) in entries.iter().enumerate() {
            put(&mut block, 32 + 8 * n, &key.to_le_bytes());
            put(&mut block, values + size * n, value);
        }
        seal(&mut block, 121_107);
        (self.write)(self.next, &block);
        self.next += 1;
        self.next - 1
    }

    /// The inner nodes over nodes that are there; gives the root.
    fn over(&mut self, mut nodes: Vec<(u64, u64)>) -> u64 {
        while nodes.len() > 1 {
            let mut above = Vec::new();
            for part in nodes.chunks(PER_NODE) {
                let entries: Vec<_> = part
                    .iter()
                    .map(|(key, child)| (*key, child.to_le_bytes().to_vec()))
                    .collect();
                above.push((part[0].0, self.node(false, &entries)));
            }
            nodes = above;
        }
        nodes[0].1
    }

    fn leaf(&mut self, mappings: &[(u64, u64)]) -> u64 {
        let value = |data: u64| (data << 24).to_le_bytes().to_vec();
        let entries: Vec<_> = mappings
            .iter()
            .map(|(key, data)| (*key, value(*data)))
            .collect();
        self.node(true, &entries)
    }

    /// Maps blocks in a tree: leaves that are not touched stay shared with where it came from.
    pub(super) fn map(&mut self, tree: &mut Leaves, changes: &BTreeMap<u64, u64>) {
        let mut touched: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
        for (key, data) in changes {
            let leaf = tree.0.range(..=key).next_back().or(tree.0.iter().next());
            let first = leaf.map_or(0, |(first, _)| *first);
            touched.entry(first).or_default().insert(*key, *data);
        }
        for (first, changes) in touched {
            let old = tree.0.remove(&first).map(|(_, old)| old);
            let mut mappings: BTreeMap<u64, u64> = old.into_iter().flatten().collect();
            mappings.extend(changes);
            let mappings: Vec<_> = mappings.into_iter().collect();
            for part in mappings.chunks(PER_NODE) {
                let block = self.leaf(part);
                tree.0.insert(part[0].0, (block, part.to_vec()));
            }
        }
    }

    /// Makes a device of a tree.
    pub(super) fn device(&mut self, id: u64, tree: &Leaves) {
        let nodes: Vec<_> = tree.0.iter().map(|(key, leaf)| (*key, leaf.0)).collect();
        let mapped: usize = tree.0.values().map(|(_, mappings)| mappings.len()).sum();
        let root = if nodes.is_empty() {
            self.node(true, &[])
        } else {
            self.over(nodes)
        };
        self.devices
            .insert(id, (root, u64::try_from(mapped).unwrap()));
    }

    fn tree_of(&mut self, values: &[(u64, Vec<u8>)]) -> u64 {
        let mut leaves = Vec::new();
        for part in values.chunks(60) {
            leaves.push((part[0].0, self.node(true, part)));
        }
        self.over(leaves)
    }

    /// Writes what leads to the devices, and block 0. `used` data blocks of `data` are in use. Gives how
    /// many blocks were written.
    pub(super) fn finish(mut self, used: u64, data: u64) -> u64 {
        let devices = std::mem::take(&mut self.devices);
        let mappings: Vec<_> = devices
            .iter()
            .map(|(id, (root, _))| (*id, root.to_le_bytes().to_vec()))
            .collect();
        let mappings = self.tree_of(&mappings);
        let details: Vec<_> = devices
            .iter()
            .map(|(id, (_, mapped))| {
                let mut value = mapped.to_le_bytes().to_vec();
                value.extend([0; 16]);
                (*id, value)
            })
            .collect();
        let details = self.tree_of(&details);
        let mut block = [0; BLOCK];
        for (at, value) in [
            (32, 27_022_010),
            (40, 2),
            (48, 1),
            (64, data),
            (72, used),
            (192, self.next),
            (200, self.next),
            (320, mappings),
            (328, details),
            (336, 128 | 8 << 32),
            (344, self.next),
        ] {
            put(&mut block, at, &u64::to_le_bytes(value));
        }
        seal(&mut block, 160_774);
        (self.write)(0, &block);
        self.next
    }
}
