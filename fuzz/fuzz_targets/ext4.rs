//! Two images of an ext4 of which one began as the other, one of them with some bytes changed. They have no
//! checksums, so that nothing tells of the damage.
#![no_main]

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::LazyLock;

use dmthin::delta::{Refusal, Sides, by_devices};
use dmthin::thinmeta::{ChangedRun, ReadAt};
use dmthin::units::{BlockSize, DataBlocks};
use flate2::read::GzDecoder;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;
const UNIT: usize = 65_536;

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut image).unwrap();
    image
}

/// See fixtures/README.md.
static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [
        unpack(include_bytes!("../../fixtures/ext4/old.img.gz")),
        unpack(include_bytes!("../../fixtures/ext4/new.img.gz")),
    ]
});

/// The blocks that are not empty: where edits are of use.
static USED: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let blocks = IMAGES[1].chunks(BLOCK).enumerate();
    let used = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    used.map(|(number, _)| number).collect()
});

#[derive(Debug, Arbitrary)]
struct Edit {
    block: u16,
    at: u16,
    bytes: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
struct Input {
    old_is_damaged: bool,
    edits: Vec<Edit>,
}

struct Image<'a> {
    bytes: &'a [u8],
    reads: Cell<u64>,
}

impl ReadAt for Image<'_> {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < 1_000_000, "it does not end");
        self.bytes.read_exact_at(buf, at)
    }
}

fuzz_target!(|input: Input| {
    let mut images = IMAGES.clone();
    let damaged = &mut images[usize::from(!input.old_is_damaged)];
    for edit in &input.edits {
        let block = USED[usize::from(edit.block) % USED.len()];
        let at = block * BLOCK + usize::from(edit.at) % BLOCK;
        for (to, from) in damaged[at..].iter_mut().zip(&edit.bytes) {
            *to = *from;
        }
    }
    let [old, new] = &images;
    let runs = (0..).zip(old.chunks(UNIT).zip(new.chunks(UNIT)));
    let runs = runs
        .filter(|(_, (old, new))| old != new)
        .map(|(begin, _)| ChangedRun {
            begin: DataBlocks::new(begin),
            len: DataBlocks::new(1),
            old: true,
            new: true,
        });
    for changed in [Ok(runs.collect()), Err(Refusal::MetadataBusy)] {
        let image = |bytes| Image {
            bytes,
            reads: Cell::new(0),
        };
        let (old, new) = (image(old.as_slice()), image(new.as_slice()));
        let sides = Sides {
            old: &old,
            new: &new,
            changed,
            unit: BlockSize::DEFAULT,
        };
        let _ = by_devices(&sides);
    }
});
