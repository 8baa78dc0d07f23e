//! No byte of a removed container is ever read in a new one, however it was removed.
//!
//! A container is filled with a mark, and removed. The next one writes a little into each of its blocks, so
//! that it gets the same blocks of the pool, and then all of its device is searched for the mark.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::build::small_image;
use super::harness::{Ctx, Test, block_device, text};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("zeroing_after_discards", after_discards),
    ("zeroing_without_discards", without_discards),
    ("zeroing_is_what_a_single_tenant_lacks", single_tenant),
];

const MARK: &[u8; 16] = b"left by a tenant";
const SECTOR: usize = 512;
const MIB: usize = 1 << 20;
/// A block of the pool.
const BLOCK: u64 = 64 << 10;

fn create_pool(ctx: &Ctx, on: &[&str]) -> Result<()> {
    let create = [
        "pool",
        "create",
        "tank",
        "--base-size",
        "64M",
        "--min-free-data",
        "0",
    ];
    ctx.ok(&[&create[..], on].concat())?;
    let image = small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)]).map(drop)
}

fn device(ctx: &Ctx, name: &str, write: bool) -> Result<(File, u64)> {
    let container = ctx.json(&["container", "inspect", name])?["container"].clone();
    let node = container["device"].as_str().context("no device")?;
    let size = container["size"].as_u64().context("no size")?;
    Ok((File::options().read(true).write(write).open(node)?, size))
}

/// A container that takes most of the pool, so that the next one must get its blocks.
fn create(ctx: &Ctx, name: &str) -> Result<()> {
    let create = ["container", "create", "demo:1", "--size", "96M", "--name"];
    ctx.ok(&[&create[..], &[name]].concat()).map(drop)
}

/// A container whose whole device is marks.
fn tenant(ctx: &Ctx, name: &str) -> Result<()> {
    create(ctx, name)?;
    let (device, size) = device(ctx, name, true)?;
    let marks = MARK.repeat(MIB / MARK.len());
    for at in (0..size).step_by(MIB) {
        device.write_all_at(&marks, at)?;
    }
    device.sync_all()?;
    Ok(())
}

/// How many sectors of a container begin with the mark.
fn marks_in(ctx: &Ctx, name: &str) -> Result<u64> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let (device, size) = device(ctx, name, false)?;
    let mut buffer = vec![0; MIB];
    let mut found = 0;
    for at in (0..size).step_by(MIB) {
        device.read_exact_at(&mut buffer, at)?;
        found += buffer
            .chunks(SECTOR)
            .filter(|sector| sector.starts_with(MARK))
            .count();
    }
    Ok(u64::try_from(found)?)
}

/// How many sectors of the marks a new container can read.
fn left_for_the_next(ctx: &Ctx) -> Result<u64> {
    create(ctx, "next")?;
    let (device, size) = device(ctx, "next", true)?;
    for at in (0..size).step_by(usize::try_from(BLOCK)?) {
        // Not at the begin, and not all: the rest of the block is what the pool gives.
        device.write_all_at(&[b'n'; 4096], at + 5 * 4096)?;
    }
    device.sync_all()?;
    drop(device);
    let found = marks_in(ctx, "next")?;
    ctx.ok(&["container", "rm", "next"])?;
    Ok(found)
}

/// Removes a marked container in each of the ways there are; nobody finds anything of it.
fn each_way(ctx: &Ctx) -> Result<()> {
    let clean = |way: &str| -> Result<()> {
        let found = left_for_the_next(ctx)?;
        ensure!(found == 0, "{way}: {found} sectors of another's");
        Ok(())
    };
    tenant(ctx, "a")?;
    ctx.ok(&["container", "rm", "a"])?;
    clean("rm")?;
    tenant(ctx, "b")?;
    ctx.ok(&["container", "rm", "b", "--queue"])?;
    ctx.ok(&["queue", "run"])?;
    clean("queue run")?;
    tenant(ctx, "c")?;
    ctx.cut(&["container", "rm", "c"], "tank", Duration::from_millis(30))?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    clean("cut")?;
    ctx.ok(&["check"]).map(drop)
}

fn after_discards(ctx: &Ctx) -> Result<()> {
    create_pool(ctx, &["--size", "128M"])?;
    each_way(ctx)
}

/// Two devices, of which that of the data takes no discards.
fn on_devices(ctx: &Ctx, more: &[&str], body: impl FnOnce() -> Result<()>) -> Result<()> {
    let (_, data) = block_device(ctx, "data", 128)?;
    let (_, metadata) = block_device(ctx, "metadata", 16)?;
    let name = Path::new(&data)
        .file_name()
        .and_then(|name| name.to_str())
        .context("node")?;
    fs::write(format!("/sys/block/{name}/queue/discard_max_bytes"), "0")?;
    create_pool(
        ctx,
        &[&["--data", &data, "--metadata", &metadata], more].concat(),
    )?;
    let live = ctx.json(&["pool", "status"])?["pool"]["live"].clone();
    ensure!(live["discard_passdown"] == false, "{live}");
    body()?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    for node in [data, metadata] {
        super::disks::detach(&node)?;
    }
    Ok(())
}

fn without_discards(ctx: &Ctx) -> Result<()> {
    on_devices(ctx, &[], || each_way(ctx))
}

/// The same, where new blocks are not zeroed by the user's wish: so the others would see it.
fn single_tenant(ctx: &Ctx) -> Result<()> {
    on_devices(ctx, &["--single-tenant"], || {
        tenant(ctx, "a")?;
        ensure!(marks_in(ctx, "a")? == 96 << 11, "the marks are not found");
        ctx.ok(&["container", "rm", "a"])?;
        ensure!(left_for_the_next(ctx)? > 0, "the test cannot see anything");
        Ok(())
    })
}
