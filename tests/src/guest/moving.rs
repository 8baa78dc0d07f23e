//! Disks that one machine filled and another opens: closed in order, and cut off with the power.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Result, ensure};

use super::build::small_image;
use super::disks::check_disk;
use super::harness::{Ctx, text, witness};

/// The disks as both machines name them, each with its pool.
const CLOSED: (&str, &str) = ("/dev/vm/closed", "tank");
const PULLED: (&str, &str) = ("/dev/vm/pulled", "dash");

/// A file's content, which no hole and no stale block has.
fn content(pool: &str) -> Vec<u8> {
    (0..=250_u8)
        .chain(pool.bytes())
        .cycle()
        .take(3_000_001)
        .collect()
}

/// Makes a pool on each disk, with a container that has a file; closes the one.
pub(super) fn before(ctx: &Ctx) -> Result<()> {
    let image = small_image(&ctx.dir, "demo:1")?;
    for (disk, pool) in [CLOSED, PULLED] {
        let args = ["pool", "create", pool, "--base-size", "256M", "--device"];
        ctx.ok(&[&args[..], &[disk]].concat())?;
        let on = |args: &[&str]| ctx.ok(&[&["--pool", pool], args].concat());
        on(&["image", "import", text(&image)])?;
        on(&["container", "create", "demo:1", "--name", "web"])?;
        let dir = ctx.mkdir(pool)?;
        on(&["container", "mount", "web", text(&dir)])?;
        let mut file = File::create(dir.join("file"))?;
        file.write_all(&content(pool))?;
        file.sync_all()?;
        drop(file);
        on(&["container", "umount", "web"])?;
    }
    ctx.ok(&["pool", "close", CLOSED.1]).map(drop)
}

/// Opens both on a machine that knows nothing of them.
pub(super) fn after(ctx: &Ctx) -> Result<()> {
    ensure!(!ctx.root.exists(), "something is known of the pools here");
    for ((disk, pool), closed) in [(CLOSED, true), (PULLED, false)] {
        let opened = ctx.json(&["pool", "open", "--device", disk])?;
        ensure!(
            opened["pool"]["name"] == pool
                && opened["adopted"]["closed"] == closed
                && opened["pool"]["foreign_ids"] == !closed,
            "{opened}"
        );
        let on = |args: &[&str]| ctx.ok(&[&["--pool", pool], args].concat());
        ensure!(on(&["container", "list", "-q"])? == "web\n");
        let dir = ctx.mkdir(pool)?;
        on(&["container", "mount", "web", text(&dir)])?;
        ensure!(
            fs::read(dir.join("file"))? == content(pool),
            "{disk}: the file is another"
        );
        ensure!(fs::read(dir.join("etc/hostname"))? == b"two\n");
        on(&["container", "umount", "web"])?;
        on(&["container", "create", "demo:1", "--name", "new"])?;
        on(&["container", "mount", "new", text(&dir)])?;
        ensure!(
            !dir.join("file").exists(),
            "a new container has what another wrote"
        );
        on(&["container", "umount", "new"])?;
        for name in ["web", "new"] {
            let node = format!("/dev/mapper/dmthin-{pool}-ctr-{name}");
            witness("e2fsck", &["-fn", &node])?;
            on(&["container", "rm", name])?;
        }
        ensure!(on(&["container", "list", "-q"])?.is_empty());
        on(&["check"])?;
        ctx.ok(&["pool", "close", pool])?;
        check_disk(disk, 64)?;
    }
    Ok(())
}
