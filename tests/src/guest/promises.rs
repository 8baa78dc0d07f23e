//! What a pool may promise: more than it has, or no more.

use anyhow::{Context, Result, ensure};

use super::disks::{fill, number, status};
use super::harness::{Ctx, Test, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[("overcommit_is_allowed_and_can_be_refused", overcommit)];

fn overcommit(ctx: &Ctx) -> Result<()> {
    ctx.ok(&[
        "pool",
        "create",
        "tank",
        "--base-size",
        "256M",
        "--size",
        "1G",
    ])?;
    fill(ctx, "web")?;
    // By default anything may be promised.
    let large = [
        "container",
        "create",
        "demo:1",
        "--name",
        "large",
        "--size",
        "1T",
    ];
    ctx.ok(&large)?;
    ctx.fails(&["pool", "set", "--overcommit", "no"], 6, "of 1 GiB")?;
    ensure!(status(ctx)?["overcommit"] == true);
    ctx.ok(&["container", "rm", "large"])?;
    let told = ctx.ok(&["pool", "set", "tank", "--overcommit", "no"])?;
    ensure!(told == "tank\t10%\t10%\tqueue\tno\n", "{told}");
    let promised = status(ctx)?["promised"].clone();
    ensure!(
        promised["writable"] == 256 << 20 && promised["total"] == 1 << 30,
        "{promised}"
    );
    // What the images hold is at the most what is in use.
    let used = status(ctx)?["live"]["data"]["used"].clone();
    ensure!(
        number(&promised["sealed"])? <= number(&used)?,
        "{promised} of {used}"
    );
    ctx.fails(&large, 6, "of 1 GiB")?;
    ctx.ok(&[
        "container",
        "create",
        "demo:1",
        "--name",
        "db",
        "--size",
        "512M",
    ])?;
    ctx.fails(
        &["container", "create", "demo:1", "--name", "cache"],
        6,
        "pool grow tank",
    )?;
    ctx.fails(&["container", "inspect", "cache"], 3, "cache")?;
    ctx.fails(&["container", "grow", "db", "+256M"], 6, "promises no more")?;
    let db = ctx.json(&["container", "inspect", "db"])?;
    ensure!(db["container"]["growing_to"].is_null(), "{db}");
    ctx.fails(&["base", "grow", "512M"], 6, "promises no more")?;
    // Every container is filled to the last byte, all at once, and no writer waits for room.
    ctx.ok(&["pool", "set", "--min-free-data", "0"])?;
    for name in ["web", "db"] {
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        witness(
            "dd",
            &[
                "if=/dev/zero",
                &format!("of={node}"),
                "bs=1M",
                "conv=fsync",
                "status=none",
            ],
        )
        .err()
        .context("dd went on past the end")?;
    }
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    ctx.ok(&["pool", "grow", "--data", "+512M"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "cache"])?;
    ctx.ok(&["pool", "set", "--overcommit", "yes"])?;
    ctx.ok(&large)?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    let small = [
        "pool",
        "create",
        "tank",
        "--size",
        "1G",
        "--base-size",
        "2G",
        "--no-overcommit",
    ];
    ctx.fails(&small, 6, "of 1 GiB")?;
    ensure!(!ctx.root.join("tank").exists());
    Ok(())
}
