//! The monitor over lvm2's volumes: it has them extended as long as their group has room.

use anyhow::{Context, Result, ensure};

use super::growth::{make, mounted, number, status, writer};
use super::harness::{Ctx, Test, text, within, witness};
use super::monitor::Monitor;
use super::shared::{lvs, remove_group, volume_group};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("extend_lvm_volumes_under_a_writer", extends),
    ("extend_lvm_volumes_is_told_where_it_cannot", cannot),
];

const PAIR: [&str; 4] = ["--data", "/dev/vg/data", "--metadata", "/dev/vg/meta"];

/// A group with the two volumes of a pool of 128 MiB, and a container in it.
fn pool(ctx: &Ctx, mib: u64) -> Result<String> {
    let pv = volume_group(ctx, mib)?;
    for (name, size) in [("data", "128M"), ("meta", "4M")] {
        witness("lvcreate", &["-qy", "-Wn", "-L", size, "-n", name, "vg"])?;
    }
    make(ctx, &PAIR)?;
    Ok(pv)
}

/// That volume, kernel and catalogue have one size of the data; which. The volume is the first to have it:
/// a monitor may be about to tell the others.
fn size(ctx: &Ctx) -> Result<u64> {
    let mut told = [0; 3];
    let agreed = within(30, || {
        let pool = status(ctx)?;
        let volume = lvs("lv_size", "vg/data")?;
        told = [
            volume.trim_end_matches('B').parse()?,
            number(&pool["live"]["data"]["total"])?,
            number(&pool["data"]["size"])?,
        ];
        Ok(told.iter().all(|size| *size == told[0]))
    })?;
    ensure!(agreed, "volume, kernel and catalogue: {told:?}");
    Ok(told[0])
}

fn end(ctx: &Ctx, pv: &str) -> Result<()> {
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    witness("thin_check", &["/dev/vg/meta"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    remove_group(pv)
}

fn extends(ctx: &Ctx) -> Result<()> {
    let pv = pool(ctx, 1024)?;
    let web = mounted(ctx, "web", "2G")?;
    // Without leave it only tells.
    let args = ["tank", "--interval", "5", "--threshold", "50"];
    let mut monitor = Monitor::start(ctx, &args)?;
    let copy = ctx.dir.join("copy");
    ensure!(writer(&web.join("first"), &copy, 70)?.wait()?.success());
    let why = monitor.wait_for("not_grown", 60)?;
    ensure!(
        why["why"] == "/dev/vg/data is not larger than 128 MiB: enlarge it, as with lvextend",
        "{why}"
    );
    ensure!(size(ctx)? == 128 << 20);
    drop(monitor);
    let args = ["tank", "--interval", "600", "--lvextend"];
    let mut monitor = Monitor::start(ctx, &args)?;
    let mut dd = writer(&web.join("lines"), &copy, 300)?;
    ensure!(dd.wait()?.success(), "the writer failed");
    monitor.wait_for("grew", 30)?;
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    ensure!(size(ctx)? >= 370 << 20, "{}", status(ctx)?);
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    // What it has not told yet it tells when it is done.
    let mut to = 128 << 20;
    let all = within(30, || {
        to = 128 << 20;
        let grown = monitor.told("grew")?;
        for event in grown.iter().filter(|event| event["space"] == "data") {
            ensure!(event["from"] == to, "{event} after {to}");
            to = number(&event["to"])?;
        }
        Ok(to == size(ctx)?)
    })?;
    ensure!(all, "{to} told");
    drop(monitor);
    end(ctx, &pv)
}

/// A group without room: the monitor says so and goes on, and so does the pool; with room it goes on too.
fn cannot(ctx: &Ctx) -> Result<()> {
    let pv = pool(ctx, 512)?;
    let web = mounted(ctx, "web", "2G")?;
    witness(
        "lvcreate",
        &["-qy", "-Wn", "-l", "100%FREE", "-n", "other", "vg"],
    )?;
    let mut monitor = Monitor::start(ctx, &["tank", "--interval", "2", "--lvextend"])?;
    let copy = ctx.dir.join("copy");
    let mut dd = writer(&web.join("lines"), &copy, 95)?;
    let why = monitor.wait_for("not_grown", 60)?;
    let said = why["why"].as_str().context("no reason")?;
    ensure!(
        said.contains("lvextend") && said.to_lowercase().contains("insufficient free space"),
        "{why}"
    );
    ensure!(why["space"] == "data", "{why}");
    ensure!(dd.wait()?.success(), "the writer failed");
    ensure!(size(ctx)? == 128 << 20 && status(ctx)?["live"]["mode"] == "rw");
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    // It goes on looking: where room is made, it takes it, less than a whole step too.
    witness("lvreduce", &["-qfy", "-L", "-8M", "vg/other"])?;
    let grown = monitor.wait_for("grew", 60)?;
    ensure!(
        grown["from"] == 128 << 20 && grown["to"] == 136 << 20,
        "{grown}"
    );
    witness("lvremove", &["-qfy", "vg/other"])?;
    ensure!(writer(&web.join("after"), &copy, 20)?.wait()?.success());
    ensure!(
        within(30, || Ok(size(ctx)? > 136 << 20))?,
        "it does not go on"
    );
    drop(monitor);
    end(ctx, &pv)
}
