//! Random pairs of file systems, compared in each way.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers of a test")]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use dmthin::delta::{Change, ChangeKind, Refusal, Rung, Sides, by_devices, walk};
use dmthin::thinmeta::ChangedRun;
use dmthin::units::{BlockSize, DataBlocks};

use super::super::harness::{Ctx, Test, text, witness};
use super::edits::{KINDS, edit, fill};
use super::oracle::{Picture, changes, picture};
use crate::guest::dice::Dice;

/// The tests of this file.
pub(in crate::guest) const TESTS: &[Test] = &[("diff_fuzz_of_pairs_in_each_way", fuzz)];

/// The first seed, where `DMTHIN_DELTA_SEED` does not say otherwise.
const SEED: u64 = 0x5eed_0005;
/// Kinds of file systems and mounts: each makes four pairs. More by `DMTHIN_DELTA_ROUNDS`.
const VARIANTS: &[(&[&str], &str, bool)] = &[
    (&[], "noatime", true),
    (&["-O", "^metadata_csum,^64bit"], "defaults", true),
    (&["-I", "128"], "nodelalloc", true),
    (&["-I", "512"], "strictatime", true),
    (
        &["-O", "^flex_bg,^has_journal", "-g", "2048"],
        "discard",
        true,
    ),
    (&["-O", "^dir_index"], "data=journal", true),
    (
        &["-E", "lazy_itable_init=1", "-g", "4096"],
        "data=writeback",
        true,
    ),
    (
        &["-O", "metadata_csum_seed,large_dir"],
        "i_version,lazytime",
        true,
    ),
    (&["-O", "fast_commit,orphan_file"], "discard", true),
    (&["-O", "inline_data"], "defaults", false),
    (&["-b", "1024"], "defaults", false),
];
const EDITS: u64 = 24;
const UNIT: usize = 65_536;

/// A file system, and what is in it.
struct Side {
    image: PathBuf,
    bytes: Vec<u8>,
    picture: Picture,
}

fn mounted<T>(
    image: &Path,
    at: &Path,
    options: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let options = format!("loop,{options}");
    witness(
        "mount",
        &["-t", "ext4", "-o", &options, text(image), text(at)],
    )?;
    let done = work();
    witness("umount", &[text(at)])?;
    done
}

/// Makes a file system, or changes a copy of one.
fn side(
    ctx: &Ctx,
    variant: usize,
    before: Option<&Side>,
    number: u64,
    dice: &mut Dice,
) -> Result<Side> {
    let (options, mount, _) = VARIANTS.get(variant).context("no such variant")?;
    let image = ctx.dir.join(format!("image-{number}"));
    let at = ctx.mkdir("work")?;
    match before {
        Some(before) => drop(fs::copy(&before.image, &image)?),
        None => {
            File::create(&image)?.set_len(32 << 20)?;
            // So small a one would have smaller blocks by itself.
            let args = [&["-q", "-F", "-b", "4096"], *options, &[text(&image)]].concat();
            witness("mkfs.ext4", &args)?;
        }
    }
    let picture = mounted(&image, &at, mount, || {
        match before {
            None => fill(&at, dice)?,
            Some(_) => {
                for n in 0..EDITS {
                    // All kinds by turns, so that each run has each of them.
                    let kind = (number * EDITS + n + u64::try_from(variant)? * 17) % KINDS;
                    edit(&at, dice, kind, number * 100 + n)
                        .with_context(|| format!("edit {kind}"))?;
                }
            }
        }
        picture(&at)
    })?;
    Ok(Side {
        bytes: fs::read(&image)?,
        image,
        picture,
    })
}

fn runs(old: &[u8], new: &[u8]) -> Vec<ChangedRun> {
    (0..)
        .zip(old.chunks(UNIT).zip(new.chunks(UNIT)))
        .filter(|(_, (old, new))| old != new)
        .map(|(begin, _)| ChangedRun {
            begin: DataBlocks::new(begin),
            len: DataBlocks::new(1),
            old: true,
            new: true,
        })
        .collect()
}

fn told(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| format!("{:?} {}", change.kind, change.path.display());
    changes.iter().map(line).collect()
}

fn require(what: &str, found: &[Change], expected: &[Change]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (told(found), told(expected));
    let missing: Vec<_> = expected
        .iter()
        .filter(|line| !found.contains(line))
        .collect();
    let false_ones: Vec<_> = found
        .iter()
        .filter(|line| !expected.contains(line))
        .collect();
    bail!("{what}: not found {missing:?}, found for nothing {false_ones:?}")
}

fn compare(old: &Side, new: &Side, is_read: bool) -> Result<usize> {
    let expected = changes(&old.picture, &new.picture);
    let bytes = [old.bytes.as_slice(), new.bytes.as_slice()];
    let [first, second] = &bytes;
    let known = Ok(runs(first, second));
    for (rung, changed) in [
        (Rung::Blocks, known),
        (Rung::Inodes, Err(Refusal::MetadataBusy)),
    ] {
        let sides = Sides {
            old: first,
            new: second,
            changed,
            unit: BlockSize::DEFAULT,
        };
        match by_devices(&sides) {
            Ok(diff) => {
                ensure!(is_read && diff.rung == rung, "{rung} was not to be taken");
                require(rung.as_str(), &diff.changes, &expected)?;
            }
            Err(_) if !is_read => {}
            Err(not_taken) => bail!("{rung} is not taken: {not_taken:?}"),
        }
    }
    Ok(expected.len())
}

fn walked(ctx: &Ctx, old: &Side, new: &Side) -> Result<()> {
    let (left, right) = (ctx.mkdir("left")?, ctx.mkdir("right")?);
    let found = mounted(&old.image, &left, "ro", || {
        mounted(&new.image, &right, "ro", || {
            let (left, right) = (File::open(&left)?, File::open(&right)?);
            Ok(walk(left.as_fd(), right.as_fd())?)
        })
    })?;
    require("walk", &found, &changes(&old.picture, &new.picture))
}

fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(default),
    }
}

fn fuzz(ctx: &Ctx) -> Result<()> {
    let seed = number("DMTHIN_DELTA_SEED", SEED)?;
    let rounds = number("DMTHIN_DELTA_ROUNDS", 1)?;
    let (mut pairs, mut entries) = (0_usize, 0_usize);
    let mut kinds = std::collections::BTreeSet::new();
    for round in 0..rounds {
        for (variant, (options, mount, is_read)) in VARIANTS.iter().enumerate() {
            let seed = (seed + round * 1000 + u64::try_from(variant)?) << 8;
            let mut dice = Dice::new(seed);
            let told = || format!("seed {seed:#x}, mkfs {options:?}, mount {mount}");
            let one = |before: Option<&Side>, number, dice: &mut Dice| {
                side(ctx, variant, before, number, dice).with_context(told)
            };
            let base = one(None, 0, &mut dice)?;
            let child = one(Some(&base), 1, &mut dice)?;
            let grandchild = one(Some(&child), 2, &mut dice)?;
            for (old, new) in [
                (&base, &child),
                (&child, &grandchild),
                (&base, &grandchild),
                (&grandchild, &base),
            ] {
                entries += compare(old, new, *is_read).with_context(told)?;
                pairs += 1;
                let of_pair = changes(&old.picture, &new.picture);
                kinds.extend(of_pair.iter().map(|change| change.kind));
            }
            walked(ctx, &base, &grandchild).with_context(told)?;
            for side in [base, child, grandchild] {
                fs::remove_file(side.image)?;
            }
        }
    }
    ensure!(pairs >= 30 && kinds.len() == 3 && kinds.contains(&ChangeKind::Added));
    println!("{pairs} pairs with {entries} changed paths, first seed {seed:#x}");
    Ok(())
}
