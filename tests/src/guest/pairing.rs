//! Catalogue and pool belong together, whatever was done to either: what does not fit is refused
//! before anything is written, what a killed command left is settled.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::harness::{Ctx, Test, df_mib, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    (
        "pool_refuses_another_pools_files",
        refuses_another_pools_files,
    ),
    (
        "pool_refuses_a_catalogue_of_yesterday",
        refuses_an_old_catalogue,
    ),
    (
        "pool_refuses_a_pool_that_another_tool_moved_on",
        refuses_a_foreign_transaction,
    ),
    ("pool_open_settles_what_kills_left", settles_after_kills),
];

fn refuses_another_pools_files(ctx: &Ctx) -> Result<()> {
    ctx.pool("a")?;
    ctx.ok(&[
        "pool",
        "create",
        "b",
        "--size",
        "2G",
        "--base-size",
        "1G",
        "--block-size",
        "128K",
    ])?;
    for pool in ["a", "b"] {
        ctx.ok(&["pool", "close", pool])?;
    }
    let (a, b) = (
        ctx.root.join("a/metadata.img"),
        ctx.root.join("b/metadata.img"),
    );
    let saved = ctx.dir.join("saved");
    fs::rename(&a, &saved)?;
    witness("cp", &["--sparse=always", text(&b), text(&a)])?;
    ctx.fails(&["pool", "open", "a"], 8, "block size")?;
    // All zeros: a pool that was never formatted must not be formatted now.
    fs::File::create(&a)?.set_len(fs::metadata(&saved)?.len())?;
    ctx.fails(&["pool", "open", "a"], 8, "superblock")?;
    ensure!(
        fs::metadata(&a)?.blocks() == 0,
        "a refused open wrote to the metadata"
    );
    fs::rename(&saved, &a)?;
    ctx.ok(&["pool", "open", "a"]).map(drop)
}

/// What must not change when an opening is refused.
fn metadata_sum(ctx: &Ctx) -> Result<String> {
    witness("sha256sum", &[text(&ctx.root.join("tank/metadata.img"))])
}

fn no_devices() -> Result<()> {
    let list = witness("dmsetup", &["ls"])?;
    ensure!(list.contains("No devices found"), "{list}");
    Ok(())
}

fn refuses_an_old_catalogue(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    ctx.ok(&["pool", "close", "tank"])?;
    let dir = ctx.root.join("tank");
    let (old, new) = (ctx.mkdir("old")?, ctx.mkdir("new")?);
    // With its write-ahead log, which is a part of it.
    let keep = |command: &str, from: &Path, to: &Path| {
        let script = format!("{command} {}/catalogue.db* {}", text(from), text(to));
        witness("sh", &["-c", &script]).map(drop)
    };
    keep("cp", &dir, &old)?;
    // Since then the pool was opened: ids may have been given out that the old one would give again.
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    keep("mv", &dir, &new)?;
    keep("cp", &old, &dir)?;
    let before = metadata_sum(ctx)?;
    ctx.fails(&["pool", "open", "tank"], 8, "transaction")?;
    ensure!(metadata_sum(ctx)? == before, "a refused opening wrote");
    no_devices()?;
    witness("sh", &["-c", &format!("rm {}/catalogue.db*", text(&dir))])?;
    keep("mv", &new, &dir)?;
    ctx.ok(&["pool", "open", "tank"]).map(drop)
}

fn refuses_a_foreign_transaction(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let status = ctx.json(&["pool", "status", "tank"])?;
    let id = status["pool"]["live"]["transaction_id"]
        .as_u64()
        .context("no transaction id")?;
    let move_on = |from: u64, to: u64| {
        let message = format!("set_transaction_id {from} {to}");
        witness("dmsetup", &["message", "dmthin-tank-pool", "0", &message])
    };
    move_on(id, id.saturating_add(7))?;
    // Open or closed, it is not ours as it is.
    ctx.fails(&["pool", "open", "tank"], 8, "transaction")?;
    ctx.ok(&["pool", "close", "tank"])?;
    let before = metadata_sum(ctx)?;
    ctx.fails(&["pool", "open", "tank"], 8, "transaction")?;
    ensure!(metadata_sum(ctx)? == before, "a refused opening wrote");
    no_devices()
}

/// Kills `container create` at all sorts of moments, until volumes lie in the pool that no container
/// owns. The next `pool open` settles them, though the pool is open already: each container is there
/// whole, or not at all.
fn settles_after_kills(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    let mut names = Vec::new();
    let mut pauses = (0_u64..300).step_by(30).cycle();
    while orphans(ctx)? < 2 {
        ensure!(names.len() < 100, "no kill met a container half-made");
        let name = format!("c{}", names.len());
        let pause = pauses.next().context("it is a circle")?;
        // Larger than its image: that takes the most steps.
        let create = ["container", "create", "demo:1", "--size", "3G", "--name"];
        let create = [&create[..], &[&name]].concat();
        ctx.cut(&create, "tank", Duration::from_millis(pause))?;
        names.push(name);
    }
    let mount = ctx.mkdir("mnt")?;
    let half_made = containers(ctx, "creating")?;
    for name in &half_made {
        ctx.fails(&["container", "mount", name, text(&mount)], 1, "pool open")?;
    }
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(orphans(ctx)? == 0, "volumes of no container are left");
    let listed = containers(ctx, "ready")?;
    ensure!(containers(ctx, "creating")?.is_empty());
    for name in names {
        if !listed.contains(&name) {
            // Not a trace: the name is free, and the new one's file system is as small as its image's.
            ctx.ok(&["container", "create", "demo:1", "--name", &name])?;
        }
        ctx.ok(&["container", "mount", &name, text(&mount)])?;
        let mib = df_mib("size", &mount)?;
        ensure!(
            (mib > 2100) == listed.contains(&name),
            "{name} has {mib} MiB"
        );
        ctx.ok(&["container", "umount", &name])?;
        ctx.ok(&["container", "rm", &name])?;
    }
    Ok(())
}

fn containers(ctx: &Ctx, state: &str) -> Result<Vec<String>> {
    let listed = ctx.json(&["container", "list"])?;
    let listed = listed["containers"].as_array().context("no list")?;
    Ok(listed
        .iter()
        .filter(|container| container["state"] == state)
        .filter_map(|container| Some(container["name"].as_str()?.to_owned()))
        .collect())
}

/// Volumes in the pool beside the base, the image's two layers and each container that is listed.
fn orphans(ctx: &Ctx) -> Result<usize> {
    let ids = thin_ids(ctx, "tank")?.split_whitespace().count();
    let owned = containers(ctx, "ready")?.len().saturating_add(3);
    ids.checked_sub(owned).context("a container without volume")
}
