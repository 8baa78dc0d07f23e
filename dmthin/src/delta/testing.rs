//! Images of ext4 for tests, made by the programs of e2fsprogs without mounting anything.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::candidates::{Candidates, Pair};
use super::ladder::open;
use super::{Change, ChangeKind, NotTaken, Refusal, Sides, by_devices};
use crate::thinmeta::{ChangedRun, ReadAt};
use crate::units::{BlockSize, DataBlocks};

const UNIT: usize = 65_536;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

/// An image of 8 MiB with a tree in it.
pub(super) fn mkfs(options: &[&str], tree: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    fs::create_dir(&root).unwrap();
    tree(&root);
    let (root, image) = (root.to_str().unwrap(), image.to_str().unwrap());
    let args = ["-q", "-F", "-b", "4096", "-I", "256", "-d", root];
    run("mkfs.ext4", &[&args[..], options, &[image, "8M"]].concat());
    fs::read(image).unwrap()
}

/// The image after commands of debugfs.
pub(super) fn edit(image: &[u8], commands: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (file, list) = (dir.path().join("image"), dir.path().join("commands"));
    fs::write(&file, image).unwrap();
    fs::write(dir.path().join("data"), "what is written\n").unwrap();
    let commands = commands
        .join("\n")
        .replace("DATA", dir.path().join("data").to_str().unwrap());
    fs::write(&list, commands).unwrap();
    let (file, list) = (file.to_str().unwrap(), list.to_str().unwrap());
    let said = run("debugfs", &["-w", "-f", list, file]);
    // It goes on after what it cannot do, and says so below its version.
    assert_eq!(said.lines().count(), 1, "{said}");
    fs::read(file).unwrap()
}

/// What a pool would say of two images.
pub(super) fn runs(old: &[u8], new: &[u8]) -> Vec<ChangedRun> {
    let pieces = (0..).zip(old.chunks(UNIT).zip(new.chunks(UNIT)));
    let changed = pieces.filter(|(_, (old, new))| old != new);
    changed
        .map(|(begin, _)| ChangedRun {
            begin: DataBlocks::new(begin),
            len: DataBlocks::new(1),
            old: true,
            new: true,
        })
        .collect()
}

fn compare(
    [old, new]: [&[u8]; 2],
    changed: Result<Vec<ChangedRun>, Refusal>,
) -> Result<Vec<Change>, Vec<NotTaken>> {
    let sides = Sides {
        old: &old,
        new: &new,
        changed,
        unit: BlockSize::DEFAULT,
    };
    by_devices(&sides).map(|diff| diff.changes)
}

/// The changes by the blocks that changed.
pub(super) fn by_blocks(old: &[u8], new: &[u8]) -> Result<Vec<Change>, Vec<NotTaken>> {
    compare([old, new], Ok(runs(old, new)))
}

/// The changes by all inodes.
pub(super) fn by_inodes(old: &[u8], new: &[u8]) -> Result<Vec<Change>, Vec<NotTaken>> {
    compare([old, new], Err(Refusal::MetadataBusy))
}

/// An image that counts how often it is read.
struct Counting<'a> {
    bytes: &'a [u8],
    reads: Cell<u64>,
}

impl ReadAt for Counting<'_> {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.reads.set(self.reads.get().saturating_add(1));
        self.bytes.read_exact_at(buf, at)
    }
}

/// What works on two images that are open, and how often the older and the newer one were read for it.
pub(super) fn reads<T>(
    images: [&[u8]; 2],
    changed: Result<Vec<ChangedRun>, Refusal>,
    work: impl FnOnce(&Pair<'_>) -> T,
) -> (T, [u64; 2]) {
    let [old, new] = images.map(|bytes| Counting {
        bytes,
        reads: Cell::new(0),
    });
    let sides = Sides {
        old: &old,
        new: &new,
        changed,
        unit: BlockSize::DEFAULT,
    };
    let pair = open(&sides).unwrap();
    for side in [&old, &new] {
        side.reads.set(0);
    }
    (work(&pair), [&old, &new].map(|side| side.reads.get()))
}

/// How often two images are read to prove what changed by the blocks that did.
pub(super) fn reads_to_certify(old: &[u8], new: &[u8]) -> [u64; 2] {
    let runs = runs(old, new);
    let work = |pair: &Pair<'_>| Candidates::of_blocks(pair, &runs, BlockSize::DEFAULT);
    let (found, reads) = reads([old, new], Ok(runs.clone()), work);
    found.unwrap();
    reads
}

/// As a list tells them.
pub(super) fn told(changes: &[Change]) -> Vec<String> {
    let word = |kind| match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Modified => 'M',
        ChangeKind::Deleted => 'D',
    };
    let line = |change: &Change| format!("{} /{}", word(change.kind), change.path.display());
    changes.iter().map(line).collect()
}
