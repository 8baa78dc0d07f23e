//! What a removal discards: what the container changed, all of that, and not its whole image.

#![allow(clippy::arithmetic_side_effects, reason = "sizes of a few hundred MiB")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::build::{Image, Layer};
use super::containers::allocated;
use super::growth::{number, status};
use super::harness::{Ctx, Test, run, text};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[(
    "removal_discards_what_was_changed_and_no_more",
    what_was_changed,
)];

const MIB: u64 = 1 << 20;

/// Bytes that nothing can share.
fn noise(mut word: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len)?);
    for _ in 0..len / 8 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    Ok(bytes)
}

/// The sum of the lengths of the discards that a command makes.
fn discarded(ctx: &Ctx, args: &[&str]) -> Result<u64> {
    let trace = ctx.dir.join("trace");
    let strace = ["-f", "-e", "trace=ioctl", "-o", text(&trace)];
    let root = ["pool-cli", "--root", text(&ctx.root)];
    let output = run("strace", &[&strace, &root[..], args].concat())?;
    ensure!(output.code == 0, "{args:?} ended with {}", output.stderr);
    let mut sum = 0;
    for line in fs::read_to_string(&trace)?.lines() {
        if let Some((_, range)) = line.split_once("BLKDISCARD, [") {
            let (_, len) = range.split_once(", ").context("no range")?;
            let (len, _) = len.split_once(']').context("no range")?;
            sum += len.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// Changes a file of the image in two places, adds one, and removes one.
fn change(ctx: &Ctx, mount: &Path) -> Result<()> {
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    ctx.ok(&["container", "mount", "web", text(mount)])?;
    let big = OpenOptions::new().write(true).open(mount.join("big"))?;
    big.write_all_at(&noise(3, MIB)?, 40 * MIB)?;
    big.write_all_at(&noise(4, 4096)?, 90 * MIB)?;
    big.sync_all()?;
    drop(big);
    let mut new = File::create(mount.join("new"))?;
    new.write_all(&noise(5, 64 * MIB)?)?;
    new.sync_all()?;
    drop(new);
    fs::remove_file(mount.join("small"))?;
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

fn what_was_changed(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let layer = Layer::new()
        .file("big", &noise(1, 100 * MIB)?)
        .file("small", &noise(2, MIB)?)
        .bytes();
    let image = Image::new("demo:1", vec![layer]).write(&ctx.dir.join("demo.tar"))?;
    ctx.ok(&["image", "import", text(&image)])?;
    let mount = ctx.mkdir("mnt")?;
    let used = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["used"]) };
    let (used_before, before) = (used()?, allocated(ctx)?);
    for queued in [false, true] {
        change(ctx, &mount)?;
        let full = allocated(ctx)?;
        ensure!(full - before > 65 * MIB, "it took {} bytes", full - before);
        let sum = if queued {
            ctx.ok(&["container", "rm", "--queue", "web"])?;
            discarded(ctx, &["queue", "run"])?
        } else {
            discarded(ctx, &["container", "rm", "web"])?
        };
        // What was written, the journal's 32 MiB at most, and no more than that again.
        ensure!(
            (65 * MIB..130 * MIB).contains(&sum),
            "{sum} bytes were discarded"
        );
        ensure!(used()? == used_before, "{} bytes are in use", used()?);
        let kept = allocated(ctx)?.saturating_sub(before);
        ensure!(
            kept * 100 <= full - before,
            "of {} bytes {kept} were not given back",
            full - before
        );
    }
    Ok(())
}
