//! Forks, snapshots, going back to them, and data volumes, cut after each of their steps.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::harness::{Ctx, Test, text, witness};
use super::sweep::{How, Verb, cut_after, in_order, sweep};
use super::volumes::{pool, pool_with_image};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("steps_of_container_fork", |ctx| fork_by(ctx, sweep)),
    ("steps_of_container_snapshot_and_its_removal", |ctx| {
        snapshot_by(ctx, sweep)
    }),
    ("steps_of_container_rollback", |ctx| rollback_by(ctx, sweep)),
    ("steps_of_container_reset", reset),
    ("steps_of_volume_create_and_rm", |ctx| volume_by(ctx, sweep)),
];

const WEB: &str = "/dev/mapper/dmthin-tank-ctr-web";
const CREATE: [&str; 5] = ["container", "create", "demo:1", "--name", "web"];
const REMOVE: [&str; 4] = ["container", "rm", "web", "--snapshots"];
/// A place in the device that no file of a small image takes.
const MARK_AT: u64 = 40 << 20;

/// Writes a word of four letters where no file is, on the disk when this returns.
fn mark(node: &str, word: &str) -> Result<()> {
    let device = File::options().write(true).open(node)?;
    device.write_all_at(&word.as_bytes().repeat(1024), MARK_AT)?;
    Ok(device.sync_all()?)
}

/// The word that is there; nothing where none was written.
fn marked(node: &str) -> Result<String> {
    let mut found = [0; 4];
    File::open(node)?.read_exact_at(&mut found, MARK_AT)?;
    Ok(String::from_utf8_lossy(&found)
        .trim_matches('\0')
        .to_owned())
}

fn items(value: &Value) -> Result<Vec<Value>> {
    Ok(value.as_array().context("no list")?.clone())
}

fn container(ctx: &Ctx, name: &str) -> Result<Option<Value>> {
    let list = items(&ctx.json(&["container", "list"])?["containers"])?;
    Ok(list.into_iter().find(|container| container["name"] == name))
}

fn snapshots(ctx: &Ctx) -> Result<Vec<Value>> {
    items(&ctx.json(&["container", "snapshots", "web"])?["snapshots"])
}

/// That `web` is there, with its device and a whole file system of so many MiB; gives its mark.
fn whole(ctx: &Ctx, mib: u64) -> Result<String> {
    let web = container(ctx, "web")?.context("no container")?;
    ensure!(
        web["state"] == "ready" && web["device"] == WEB && web["size"] == mib << 20,
        "{web}"
    );
    witness("e2fsck", &["-fn", WEB])?;
    let blocks = witness("dumpe2fs", &["-h", WEB])?;
    let wanted = format!("Block count:              {}\n", (mib << 20) / 4096);
    ensure!(blocks.contains(&wanted), "{blocks}");
    marked(WEB)
}

pub(super) fn fork_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    ctx.ok(&CREATE)?;
    let dir = ctx.mkdir("mnt")?;
    // In use: what it is made of is frozen, and has to go on whatever cuts the fork.
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    std::fs::write(dir.join("file"), "kept")?;
    let node = "/dev/mapper/dmthin-tank-ctr-twin";
    how(
        ctx,
        &Verb {
            args: &["container", "fork", "web", "--name", "twin"],
            from: "C2",
            prepare: &|| Ok(()),
            is_done: &|| {
                std::fs::write(dir.join("goes-on"), "x")?;
                witness("sync", &["-f", text(&dir)])?;
                let Some(twin) = container(ctx, "twin")? else {
                    return Ok(false);
                };
                ensure!(
                    twin["state"] == "ready" && twin["device"] == node && twin["image"] == "demo:1",
                    "{twin}"
                );
                witness("e2fsck", &["-fn", node])?;
                let told = witness("debugfs", &["-R", "cat file", node])?;
                ensure!(told == "kept", "{told}");
                Ok(true)
            },
            repeats: true,
            undo: &|| ctx.ok(&["container", "rm", "twin"]).map(drop),
        },
    )?;
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

pub(super) fn snapshot_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    ctx.ok(&CREATE)?;
    let take = ["container", "snapshot", "web", "one"];
    let remove = ["container", "snapshot-rm", "web", "one"];
    let is_there = || -> Result<bool> {
        let found = snapshots(ctx)?;
        ensure!(
            found.len() < 2 && found.iter().all(|s| s["state"] == "ready"),
            "{found:?}"
        );
        Ok(!found.is_empty())
    };
    let took = || ctx.ok(&take).map(drop);
    let removed = || ctx.ok(&remove).map(drop);
    how(
        ctx,
        &Verb {
            args: &take,
            from: "H2",
            prepare: &|| Ok(()),
            is_done: &is_there,
            repeats: true,
            undo: &removed,
        },
    )?;
    how(
        ctx,
        &Verb {
            args: &remove,
            from: "D1",
            prepare: &took,
            is_done: &|| Ok(!is_there()?),
            repeats: true,
            undo: &|| Ok(()),
        },
    )
}

/// A container that was grown after its snapshot, with another mark in it.
fn changed(ctx: &Ctx) -> Result<()> {
    ctx.ok(&CREATE)?;
    mark(WEB, "then")?;
    ctx.ok(&["container", "snapshot", "web", "one"])?;
    ctx.ok(&["container", "grow", "web", "96M"])?;
    mark(WEB, "late")
}

/// Whether `web` is as it was when it is gone back to, with its snapshot.
fn is_back(ctx: &Ctx, to: &str) -> Result<bool> {
    let found = whole(ctx, 96)?;
    ensure!(found == "late" || found == to, "{found:?}");
    let kept = snapshots(ctx)?;
    ensure!(kept.len() == 1 && kept[0]["name"] == "one", "{kept:?}");
    Ok(found == to)
}

pub(super) fn rollback_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    how(
        ctx,
        &Verb {
            args: &["container", "rollback", "web", "one"],
            from: "J4",
            prepare: &|| changed(ctx),
            is_done: &|| is_back(ctx, "then"),
            repeats: true,
            undo: &|| ctx.ok(&REMOVE).map(drop),
        },
    )
}

/// The same steps, so that the last before and the first after it took place will do.
fn reset(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    changed(ctx)?;
    let steps = ["J1", "J2", "J3", "J4"];
    for (cut, done) in [(3, false), (4, true)] {
        cut_after(ctx, &["container", "reset", "web"], &steps[..cut])?;
        ctx.ok(&["pool", "open", "tank"])?;
        in_order(ctx)?;
        ensure!(is_back(ctx, "")? == done, "after {:?}", &steps[..cut]);
    }
    Ok(())
}

pub(super) fn volume_by(ctx: &Ctx, how: How) -> Result<()> {
    pool(ctx)?;
    let node = "/dev/mapper/dmthin-tank-vol-db";
    let create = ["volume", "create", "db", "64M"];
    let remove = ["volume", "rm", "db", "--snapshots"];
    let is_there = || -> Result<bool> {
        let list = items(&ctx.json(&["volume", "list"])?["volumes"])?;
        let Some(db) = list.first() else {
            return Ok(false);
        };
        ensure!(
            list.len() == 1 && db["state"] == "ready" && db["device"] == node,
            "{list:?}"
        );
        witness("e2fsck", &["-fn", node])?;
        Ok(true)
    };
    let created = || ctx.ok(&create).map(drop);
    how(
        ctx,
        &Verb {
            args: &create,
            from: "V4",
            prepare: &|| Ok(()),
            is_done: &is_there,
            repeats: true,
            undo: &|| ctx.ok(&remove).map(drop),
        },
    )?;
    how(
        ctx,
        &Verb {
            args: &remove,
            from: "D1",
            prepare: &|| {
                created()?;
                ctx.ok(&["volume", "snapshot", "db"]).map(drop)
            },
            is_done: &|| Ok(!is_there()?),
            repeats: true,
            undo: &|| Ok(()),
        },
    )
}
