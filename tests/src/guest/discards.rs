//! What a removal discards: what the container changed, all of that, and not its whole image; and what it costs the
//! pool to tell.

#![allow(clippy::arithmetic_side_effects, reason = "sizes of a few hundred MiB")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::build::{Image, Layer};
use super::check::{dmsetup, message, write_blocks};
use super::containers::allocated;
use super::growth::{number, status};
use super::harness::{Ctx, Test, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    (
        "removal_discards_what_was_changed_and_no_more",
        what_was_changed,
    ),
    (
        "removal_tells_what_was_changed_beside_commits",
        beside_commits,
    ),
    ("removal_commits_little", commits_little),
];

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

/// A pool with an image that has more blocks than are discarded without a question.
fn pool_with_large_image(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let layer = Layer::new()
        .file("big", &noise(1, 100 * MIB)?)
        .file("small", &noise(2, MIB)?)
        .bytes();
    let image = Image::new("demo:1", vec![layer]).write(&ctx.dir.join("demo.tar"))?;
    ctx.ok(&["image", "import", text(&image)]).map(drop)
}

fn what_was_changed(ctx: &Ctx) -> Result<()> {
    pool_with_large_image(ctx)?;
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

/// A removal asked the metadata through a snapshot of them, so that it discarded the whole image while
/// another tool had that. It reads them as they are now, while others commit; what was written and not
/// flushed is committed for it.
fn beside_commits(ctx: &Ctx) -> Result<()> {
    const WRITTEN: u64 = 40;
    pool_with_large_image(ctx)?;
    let before = allocated(ctx)?;
    message("reserve_metadata_snap")?;
    for others_commit in [false, true, true, true] {
        ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
        // Apart from each other, past the files and before the journal.
        write_blocks("web", (0..WRITTEN).map(|nr| nr * 3))?;
        let node = File::options()
            .write(true)
            .open("/dev/mapper/dmthin-tank-ctr-web")?;
        node.write_all_at(&[8; 1 << 16], (3 << 29) + WRITTEN * (3 << 16))?;
        drop(node);
        let done = AtomicBool::new(false);
        let sum = thread::scope(|scope| {
            scope.spawn(|| {
                while others_commit && !done.load(Ordering::Relaxed) {
                    // Commits, as dmsetup does not say that it must not.
                    let _ = dmsetup(&["status", "dmthin-tank-pool"]);
                }
            });
            let sum = discarded(ctx, &["container", "rm", "web"]);
            done.store(true, Ordering::Relaxed);
            sum
        })?;
        ensure!(
            sum == (WRITTEN + 1) << 16,
            "{sum} bytes were discarded, others commit: {others_commit}"
        );
        let kept = allocated(ctx)?.saturating_sub(before);
        ensure!(kept <= 1 << 16, "{kept} bytes were not given back");
    }
    message("release_metadata_snap")
}

/// Flushes of the pool's metadata so far, of which each commit takes two.
fn metadata_flushes(ctx: &Ctx) -> Result<u64> {
    let file = ctx.root.join("tank/metadata.img");
    let listed = witness("losetup", &["-n", "-O", "NAME", "-j", text(&file)])?;
    let name = listed.trim().trim_start_matches("/dev/");
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
    let flushes = stat.split_whitespace().nth(15).context("no flushes")?;
    Ok(flushes.parse()?)
}

/// Making a container and deleting it commit once each; asking the metadata for what it has changed took
/// four commits more.
fn commits_little(ctx: &Ctx) -> Result<()> {
    pool_with_large_image(ctx)?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    // What is pending is committed within a second.
    thread::sleep(Duration::from_secs(2));
    let before = metadata_flushes(ctx)?;
    ctx.ok(&["container", "rm", "web"])?;
    let took = metadata_flushes(ctx)? - before;
    ensure!(
        (2..=4).contains(&took),
        "a removal flushed the metadata {took} times"
    );
    Ok(())
}
