//! A message to the pool whose commit fails: the kernel answers that all is well.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::super::disks::detach;
use super::super::harness::{Ctx, Test, block_device, text, within, witness};
use super::sweep::in_order;
use super::volumes::one_layer;

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[("steps_of_a_snapshot_whose_commit_fails", snapshot)];

const META: &str = "/dev/mapper/meta";

/// Has the device of the pool's metadata do its work, or fail all of it.
fn give_table(table: &str) -> Result<()> {
    witness("dmsetup", &["suspend", "--noflush", "--nolockfs", "meta"])?;
    witness("dmsetup", &["load", "meta", "--table", table])?;
    witness("dmsetup", &["resume", "meta"]).map(drop)
}

/// Starts `pool-cli`, which waits after so many steps until it is told to go on.
fn started(ctx: &Ctx, args: &[&str], after: &str) -> Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .args([
            "step",
            "--told",
            text(&ctx.dir.join("told")),
            "--cut",
            after,
        ])
        .args(["--stop", "--", "-q", "--root", text(&ctx.root)])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stat = format!("/proc/{}/stat", child.id());
    let stopped = within(60, || {
        let stat = fs::read_to_string(&stat)?;
        Ok(stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" T")))
    })?;
    ensure!(stopped, "{args:?} does not come to step {after}");
    Ok(child)
}

/// The metadata fail from the intent of a container on: its creation fails, and when they are there again
/// there is no trace of it.
fn snapshot(ctx: &Ctx) -> Result<()> {
    let (_, data) = block_device(ctx, "disk0", 512)?;
    let (_, metadata) = block_device(ctx, "disk1", 16)?;
    let (works, fails) = (format!("0 32768 linear {metadata} 0"), "0 32768 error");
    witness("dmsetup", &["create", "meta", "--table", &works])?;
    witness("dmsetup", &["mknodes", "meta"])?;
    let create = ["pool", "create", "tank", "--base-size", "64M"];
    ctx.ok(&[&create[..], &["--data", &data, "--metadata", META]].concat())?;
    ctx.ok(&["image", "import", &one_layer(ctx)?])?;
    let create = ["container", "create", "demo:1", "--name", "web"];
    let child = started(ctx, &create, "1")?;
    give_table(fails)?;
    witness("kill", &["-CONT", &child.id().to_string()])?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(8),
        "{:?}: {said}",
        output.status
    );
    let lines = said.lines().filter(|line| !line.starts_with("hint: "));
    ensure!(lines.count() == 1 && output.stdout.is_empty(), "{said}");
    give_table(&works)?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "repair", "tank"])?;
    in_order(ctx)?;
    let list = ctx.json(&["container", "list"])?["containers"].clone();
    ensure!(list.as_array().context("no list")?.is_empty(), "{list}");
    ctx.ok(&create)?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"])?;
    in_order(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    witness("thin_check", &[META])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    witness("dmsetup", &["remove", "--retry", "meta"])?;
    detach(&data)?;
    detach(&metadata)
}
