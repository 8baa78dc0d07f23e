//! Removals that are taken back, and removals that a monitor ends.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::containers::{allocated, given_back, write_300_mb};
use super::harness::{Ctx, Test, eventually, text, witness};
use super::monitor::Monitor;
use super::removal::{WEB, create, nothing_is_left, pool_with_image, queue, remove_held};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("cancel_of_a_removal_while_it_is_in_use", in_use),
    (
        "cancel_of_a_removal_that_nobody_has_begun",
        nobody_has_begun,
    ),
    ("cancel_of_a_removal_that_has_begun_is_refused", has_begun),
    ("removal_is_ended_by_a_monitor", by_a_monitor),
];

/// Somebody works in a container that is removed; the removal is taken back, and they notice neither.
fn in_use(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    let path = mount.join("log");
    let mut log = OpenOptions::new().create(true).append(true).open(&path)?;
    log.write_all(b"before\n")?;
    remove_held(ctx, "web")?;
    log.write_all(b"removed\n")?;
    // Somebody else has the name.
    create(ctx, "web")?;
    let namesake = fs::canonicalize(WEB)?;
    ctx.fails(&["queue", "cancel", "web"], 4, "web")?;
    ensure!(
        queue(ctx)?[0]["state"] == "held" && fs::canonicalize(WEB)? == namesake,
        "a cancel that was refused changed something"
    );
    ctx.ok(&["container", "rm", "--wait", "web"])?;
    ctx.fails(&["queue", "cancel", "nope"], 3, "nope")?;

    let told = ctx.ok(&["queue", "cancel", "web"])?;
    ensure!(told == format!("web\t{WEB}\n"), "{told:?}");
    ensure!(queue(ctx)?.is_empty(), "it is queued still");
    log.write_all(b"taken back\n")?;
    log.sync_all()?;
    drop(log);
    let shown = ctx.json(&["container", "inspect", "web"])?;
    let mounts = shown["container"]["mounts"].as_array().context("mounts")?;
    ensure!(*mounts == [text(&mount)], "{shown}");
    // The kernel does not take the device away any more when its last user goes.
    ctx.ok(&["container", "umount", "web"])?;
    let info = witness("dmsetup", &["info", "dmthin-tank-ctr-web"])?;
    ensure!(!info.to_lowercase().contains("deferred"), "{info}");
    witness("e2fsck", &["-fn", WEB])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    ensure!(fs::read(&path)? == b"before\nremoved\ntaken back\n");
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["check"])?;
    ctx.ok(&["container", "rm", "web"])?;
    nothing_is_left(ctx)
}

/// What is only queued comes back too, by another name, with its device or without.
fn nobody_has_begun(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    fs::write(mount.join("kept"), "kept")?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    ensure!(!Path::new(WEB).exists(), "the node outlives the container");
    ensure!(queue(ctx)?[0]["final"] == false);
    // Another of the name, removed as well: now it must be said which.
    create(ctx, "web")?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    let volumes: Vec<String> = queue(ctx)?
        .iter()
        .map(|removal| removal["volume"].to_string())
        .collect();
    ctx.fails(&["queue", "cancel", "web"], 2, &volumes.join(", "))?;
    let args = [
        "queue",
        "cancel",
        "--volume",
        &volumes[0],
        "--name",
        "other",
    ];
    ctx.ok(&args)?;
    ctx.fails(&args, 3, &volumes[0])?;
    ctx.ok(&["container", "mount", "other", text(&mount)])?;
    ensure!(fs::read(mount.join("kept"))? == b"kept");
    ctx.ok(&["container", "umount", "other"])?;
    ctx.ok(&["queue", "run"])?;
    ctx.fails(&["queue", "cancel", "web"], 3, "web")?;
    ctx.ok(&["check"])?;
    // Its image went in between: nothing to come back to.
    ctx.ok(&["container", "rm", "other", "--queue"])?;
    ctx.ok(&["image", "rm", "demo:1"])?;
    ctx.fails(&["queue", "cancel", "other"], 1, "its image was removed")?;
    ctx.ok(&["queue", "run"])?;
    ctx.ok(&["check"]).map(drop)
}

/// A run of the queue that was killed has discarded some of it, nobody knows how much.
fn has_begun(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    write_300_mb(&mount.join("big"))?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    let mut queued = Vec::new();
    // A kill may come before what is written at first is committed; then nothing has begun.
    for _ in 0..20 {
        ctx.cut(&["queue", "run"], "tank", Duration::ZERO)?;
        queued = queue(ctx)?;
        if queued
            .first()
            .is_none_or(|removal| removal["final"] == true)
        {
            break;
        }
    }
    ensure!(
        queued.len() == 1 && queued[0]["final"] == true,
        "{queued:?}"
    );
    ctx.fails(&["queue", "cancel", "web"], 1, "space is being given back")?;
    ctx.fails(&["container", "inspect", "web"], 3, "web")?;
    ctx.ok(&["queue", "run"])?;
    nothing_is_left(ctx)
}

/// `rm` does not wait for the space where a monitor gives it back, and does so itself where none runs.
fn by_a_monitor(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let empty = allocated(ctx)?;
    let mount = ctx.mkdir("mnt")?;
    let filled = || -> Result<u64> {
        create(ctx, "web")?;
        ctx.ok(&["container", "mount", "web", text(&mount)])?;
        write_300_mb(&mount.join("big"))?;
        let full = allocated(ctx)?;
        ctx.ok(&["container", "umount", "web"])?;
        Ok(full)
    };
    // It would look by itself in an hour.
    let monitor = Monitor::start(ctx, &["tank", "--interval", "3600"])?;
    ensure!(
        eventually(|| Ok(ctx.root.join("tank/bell").exists()))?,
        "no bell"
    );
    let full = filled()?;
    let gone = ctx.json(&["container", "rm", "web"])?;
    ensure!(gone["removed"] == false && gone["handed"] == true, "{gone}");
    ensure!(
        eventually(|| Ok(queue(ctx)?.is_empty()))?,
        "nobody runs the queue"
    );
    given_back(empty, full, allocated(ctx)?)?;
    // Waited for, it is gone, whoever did it.
    create(ctx, "web")?;
    let gone = ctx.json(&["container", "rm", "web", "--wait"])?;
    ensure!(gone["removed"] == true && gone["handed"] == false, "{gone}");

    drop(monitor);
    let full = filled()?;
    let gone = ctx.json(&["container", "rm", "web"])?;
    ensure!(gone["removed"] == true && gone["handed"] == false, "{gone}");
    given_back(empty, full, allocated(ctx)?)?;
    nothing_is_left(ctx)
}
