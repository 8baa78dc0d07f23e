//! The kernel's metadata of a real pool with some bytes changed, and the checksums made right again: the
//! damage that a checksum does not tell.
#![no_main]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::LazyLock;

use dmthin::thinmeta::{Metadata, ReadAt, ReadError};
use dmthin::units::{DataBlocks, MetaBlocks};
use flate2::read::GzDecoder;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;
/// What each kind of block has its checksum XORed with (`dm-thin-metadata.c`, `dm-btree-spine.c`,
/// `dm-space-map-common.c`).
const SALTS: [u32; 4] = [160_774, 121_107, 160_478, 240_779];
/// Where the fixture has its metadata snapshot; see fixtures/README.md.
const HELD: u64 = 712;
const TOTAL: u64 = 1024;
const DATA_TOTAL: u64 = 16384;

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let packed = include_bytes!("../../fixtures/thinmeta/pool/metadata.img.gz");
    let mut image = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut image).unwrap();
    image
});

#[derive(Debug, Arbitrary)]
struct Edit {
    block: u16,
    at: u16,
    bytes: Vec<u8>,
}

fn checksum(block: &[u8]) -> u32 {
    // The kernel does not invert at the end.
    !crc32c::crc32c(&block[4..])
}

/// The image, read through edits; which blocks were read last tells where edits are of use.
struct Edited {
    blocks: BTreeMap<usize, Vec<u8>>,
    reads: RefCell<u64>,
}

impl Edited {
    fn new(edits: &[Edit]) -> Self {
        let mut blocks = BTreeMap::new();
        for edit in edits {
            let block = usize::from(edit.block) % (IMAGE.len() / BLOCK);
            let bytes = blocks
                .entry(block)
                .or_insert_with(|| IMAGE[block * BLOCK..][..BLOCK].to_vec());
            let at = usize::from(edit.at) % BLOCK;
            for (to, from) in bytes[at..].iter_mut().zip(&edit.bytes) {
                *to = *from;
            }
        }
        for (block, bytes) in &mut blocks {
            let original = &IMAGE[block * BLOCK..][..BLOCK];
            let stored = u32::from_le_bytes(*original.first_chunk().unwrap());
            let salt = stored ^ checksum(original);
            if SALTS.contains(&salt) {
                let right = (checksum(bytes) ^ salt).to_le_bytes();
                bytes[..4].copy_from_slice(&right);
            }
        }
        Self {
            blocks,
            reads: RefCell::new(0),
        }
    }
}

impl ReadAt for &Edited {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        *self.reads.borrow_mut() += 1;
        // Each look at the whole of it reads a block once, or it might never end.
        assert!(*self.reads.borrow() < 100_000, "it does not end");
        let at = usize::try_from(at).unwrap();
        let end = at.checked_add(buf.len()).filter(|end| *end <= IMAGE.len());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(&IMAGE[at..end]);
        if let Some(block) = self.blocks.get(&(at / BLOCK)) {
            let inner = &block[at % BLOCK..];
            let len = inner.len().min(buf.len());
            buf[..len].copy_from_slice(&inner[..len]);
        }
        Ok(())
    }
}

fn look(mut metadata: Metadata<&Edited>) -> Result<(), ReadError> {
    let devices = metadata.devices()?;
    for pair in devices.windows(2).take(8) {
        if let [one, other] = pair {
            let _ = metadata.runs(one.id);
            let _ = metadata.changed(one.id, other.id);
        }
    }
    let all: BTreeSet<_> = devices.iter().map(|device| device.id).collect();
    let _ = metadata.exclusive(&all);
    let one: BTreeSet<_> = all.into_iter().take(1).collect();
    metadata.exclusive(&one).map(drop)
}

fuzz_target!(|edits: Vec<Edit>| {
    let edited = Edited::new(&edits);
    if let Ok(Some(metadata)) = Metadata::of_closed(&edited) {
        let _ = look(metadata);
    }
    let held = Metadata::of_snapshot(
        &edited,
        MetaBlocks::new(HELD),
        MetaBlocks::new(TOTAL),
        DataBlocks::new(DATA_TOTAL),
    );
    if let Ok(metadata) = held {
        let _ = look(metadata);
    }
});
