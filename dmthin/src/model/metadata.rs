//! The metadata in the kernel's own format, as `thinmeta` reads it, which has its layout. Written when
//! somebody may read them: with a metadata snapshot, and when the pool has gone.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::crc32c::crc32c;
use crate::model::pool::{Disk, Trees};
use crate::model::state::{Key, State};

const BLOCK: usize = 4096;
const SUPERBLOCK_XOR: u32 = 160_774;
const NODE_XOR: u32 = 121_107;
/// The block of the metadata snapshot's superblock; its trees follow.
pub(super) const HELD: u64 = 4096;
/// The first block of the trees of now.
const FIRST: u64 = 1;

/// Blocks to be written, with their numbers.
struct Writer {
    next: u64,
    blocks: Vec<(u64, Vec<u8>)>,
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

fn seal(block: &mut [u8], number: u64, xor: u32) {
    put(block, 8, &number.to_le_bytes());
    let csum = crc32c(&block[4..]) ^ xor;
    put(block, 0, &csum.to_le_bytes());
}

impl Writer {
    /// A node of these entries; gives its block.
    fn node(&mut self, flags: u32, value: usize, entries: &[(u64, Vec<u8>)]) -> u64 {
        let most = most(value);
        let mut block = vec![0; BLOCK];
        put(&mut block, 4, &flags.to_le_bytes());
        for (at, n) in [(16, entries.len()), (20, most), (24, value)] {
            put(&mut block, at, &u32::try_from(n).unwrap().to_le_bytes());
        }
        for (nr, (key, bytes)) in entries.iter().enumerate() {
            put(&mut block, 32 + nr * 8, &key.to_le_bytes());
            put(&mut block, 32 + most * 8 + nr * value, bytes);
        }
        let number = self.next;
        self.next += 1;
        seal(&mut block, number, NODE_XOR);
        self.blocks.push((number, block));
        number
    }

    /// A tree of these entries, in order; gives its root.
    fn tree(&mut self, value: usize, entries: &[(u64, Vec<u8>)]) -> u64 {
        if entries.len() <= most(value) {
            return self.node(2, value, entries);
        }
        let leaves = entries.chunks(most(value));
        let children: Vec<(u64, Vec<u8>)> = leaves
            .map(|leaf| (leaf[0].0, self.node(2, value, leaf).to_le_bytes().to_vec()))
            .collect();
        assert!(children.len() <= most(8), "more than the model writes");
        self.node(1, 8, &children)
    }

    fn superblock(&mut self, trees: &Trees, place: u64) -> Vec<u8> {
        let mut mappings = Vec::new();
        let mut details = Vec::new();
        for (id, thin) in &trees.thins {
            let entry = |(block, (data, time)): (&u64, &(u64, u32))| {
                (
                    *block,
                    (data << 24 | u64::from(*time)).to_le_bytes().to_vec(),
                )
            };
            let entries: Vec<_> = thin.mapped.iter().map(entry).collect();
            let root = self.tree(8, &entries);
            mappings.push((u64::from(*id), root.to_le_bytes().to_vec()));
            let mut detail = Vec::new();
            detail.extend(u64::try_from(thin.mapped.len()).unwrap().to_le_bytes());
            detail.extend(thin.transaction.to_le_bytes());
            detail.extend(thin.created.to_le_bytes());
            detail.extend(thin.snapshotted.to_le_bytes());
            details.push((u64::from(*id), detail));
        }
        let mapping_root = self.tree(8, &mappings);
        let details_root = self.tree(24, &details);
        let mut block = vec![0; BLOCK];
        let held = if trees.held.is_some() { HELD } else { 0 };
        let used = trees.used();
        for (at, n) in [
            (32, 27_022_010),
            (48, trees.transaction),
            (56, held),
            (64, trees.data_blocks),
            (72, used),
            (192, trees.metadata_blocks),
            (200, 16),
            (320, mapping_root),
            (328, details_root),
            (344, trees.metadata_blocks),
        ] {
            put(&mut block, at, &n.to_le_bytes());
        }
        let sectors = u32::try_from(trees.block_sectors).unwrap();
        let flags = u32::from(trees.needs_check);
        for (at, n) in [
            (4, flags),
            (40, 2),
            (44, trees.time),
            (336, sectors),
            (340, 8),
        ] {
            put(&mut block, at, &n.to_le_bytes());
        }
        seal(&mut block, place, SUPERBLOCK_XOR);
        self.blocks.push((place, block.clone()));
        block
    }
}

const fn most(value: usize) -> usize {
    let most = (BLOCK - 32) / (8 + value);
    most / 3 * 3
}

impl State {
    /// Puts metadata into their file, where it is there still.
    pub(super) fn write_metadata(&mut self, key: Key, path: &Path, trees: Trees) {
        let mut writer = Writer {
            next: HELD + 1,
            blocks: Vec::new(),
        };
        if let Some(held) = &trees.held {
            writer.superblock(held, HELD);
        }
        writer.next = FIRST;
        let superblock = writer.superblock(&trees, 0);
        if let Ok(file) = OpenOptions::new().write(true).open(path) {
            for (number, block) in &writer.blocks {
                let at = number * u64::try_from(BLOCK).unwrap();
                file.write_all_at(block, at).unwrap();
            }
        }
        self.disks.insert(key, Disk { trees, superblock });
    }
}
