//! `--dry-run` of what removes something changes nothing, and what it promises is what comes back.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "the small numbers of a test"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build;
use super::check::{pool_with, used, write_blocks};
use super::harness::{Ctx, Test, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("dry_run_of_removals_is_exact", removals_are_exact),
    ("dry_run_of_destroy_is_exact", destroy_is_exact),
];

/// All that a dry run must leave as it is.
fn everything(ctx: &Ctx) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for args in [
        &["image", "list"][..],
        &["container", "list"],
        &["queue", "list"],
        &["device", "list"],
    ] {
        all.push(ctx.json(args)?.to_string());
    }
    // Without what the files take on the host: a metadata snapshot is a commit.
    let status = ctx.json(&["pool", "status", "tank"])?;
    all.push(status["pool"]["live"].to_string());
    all.push(witness("dmsetup", &["table"])?);
    all.push(thin_ids(ctx, "tank")?);
    Ok(all)
}

/// The plan of a dry run, which changed nothing.
fn planned(ctx: &Ctx, args: &[&str]) -> Result<Value> {
    let before = everything(ctx)?;
    let args: Vec<_> = args.iter().chain(&["--dry-run"]).copied().collect();
    let plan = ctx.json(&args)?["plan"].clone();
    let after = everything(ctx)?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(
            before == after,
            "{args:?} changed something: {before} {after}"
        );
    }
    Ok(plan)
}

fn count(plan: &Value, key: &str) -> usize {
    plan[key].as_array().map_or(0, Vec::len)
}

/// A removal gives back what its plan promised, which is `least` at least.
fn exact(ctx: &Ctx, args: &[&str], least: u64) -> Result<Value> {
    let plan = planned(ctx, args)?;
    let promised = plan["pool_bytes"].as_u64().context("no promise")?;
    let before = used(ctx)?;
    ctx.ok(args)?;
    let back = before.saturating_sub(used(ctx)?);
    ensure!(
        back == promised && promised >= least,
        "{args:?}: {promised} were promised, {back} came back: {plan}"
    );
    Ok(plan)
}

fn removals_are_exact(ctx: &Ctx) -> Result<()> {
    const BLOCK: u64 = 65536;
    pool_with(ctx, &["web", "db", "cache"])?;
    for (name, blocks) in [("web", 100), ("db", 70), ("cache", 30)] {
        write_blocks(name, 0..blocks)?;
    }
    let plan = exact(ctx, &["container", "rm", "web"], 100 * BLOCK)?;
    ensure!(
        plan["names"] == serde_json::json!(["web"])
            && count(&plan, "volumes") == 1
            && plan["devices"] == serde_json::json!(["dmthin-tank-ctr-web"]),
        "{plan}"
    );
    // What is mounted comes back later, and who holds it is told.
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "db", text(&dir)])?;
    let plan = ctx.json(&["container", "rm", "db", "--dry-run"])?["plan"].clone();
    ensure!(plan["held"][0]["target"] == text(&dir), "{plan}");
    ctx.ok(&["container", "umount", "db"])?;

    for name in ["db", "cache"] {
        ctx.ok(&["container", "rm", name, "--queue"])?;
    }
    let plan = exact(ctx, &["queue", "run"], 100 * BLOCK)?;
    ensure!(count(&plan, "volumes") == 2, "{plan}");
    let plan = exact(ctx, &["queue", "run"], 0)?;
    ensure!(count(&plan, "volumes") == 0, "{plan}");

    // A second image on the first one's lower layer: only its own layer is to go.
    let lower = build::two_layers().remove(0);
    let upper = build::Layer::new().file("big", &[5; 3 << 20]).bytes();
    let image = build::Image::new("second:1", vec![lower, upper]).write(&ctx.dir.join("2.tar"))?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["image", "import", text(&image), "--name", "third:1"])?;
    let plan = exact(ctx, &["image", "rm", "third:1"], 0)?;
    ensure!(
        plan["names"] == serde_json::json!(["third:1"]) && count(&plan, "volumes") == 0,
        "{plan}"
    );
    let plan = exact(ctx, &["image", "rm", "second:1"], 3 << 20)?;
    ensure!(count(&plan, "volumes") == 1, "{plan}");
    ctx.ok(&["container", "create", "demo:1", "--name", "user"])?;
    ctx.fails(&["image", "rm", "demo:1", "--dry-run"], 5, "user")?;
    ctx.ok(&["container", "rm", "user"])?;
    let plan = exact(ctx, &["image", "rm", "demo:1"], BLOCK)?;
    ensure!(count(&plan, "volumes") == 2, "{plan}");
    ctx.fails(&["container", "rm", "nobody", "--dry-run"], 3, "nobody")
}

fn destroy_is_exact(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    write_blocks("web", 0..50)?;
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    ctx.fails(&["pool", "destroy", "tank", "--dry-run"], 5, "web")?;
    ctx.ok(&["container", "umount", "web"])?;
    planned(ctx, &["pool", "destroy", "tank"])?;
    let plan = ctx.json(&["pool", "destroy", "tank", "--dry-run"])?["plan"].clone();
    let mut allocated = 0;
    for file in ["data.img", "metadata.img"] {
        let blocks = fs::metadata(ctx.root.join("tank").join(file))?.blocks();
        allocated += blocks * 512;
    }
    ensure!(
        plan["host_bytes"] == allocated && plan["pool_bytes"].is_null(),
        "{allocated} are allocated: {plan}"
    );
    ensure!(
        plan["names"] == serde_json::json!(["web", "demo:1"])
            && count(&plan, "volumes") == 4
            && plan["devices"]
                == serde_json::json!([
                    "dmthin-tank-ctr-web",
                    "dmthin-tank-mirror",
                    "dmthin-tank-pool"
                ]),
        "{plan}"
    );
    // Open or closed the same files go, and no other is there.
    ctx.ok(&["pool", "close", "tank"])?;
    let plan = ctx.json(&["pool", "destroy", "tank", "--dry-run"])?["plan"].clone();
    let mut there: Vec<String> = Vec::new();
    let mut dirs = vec![ctx.root.join("tank")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => there.push(text(&path).to_owned()),
            }
        }
    }
    let mut told: Vec<String> = serde_json::from_value(plan["files"].clone())?;
    there.sort();
    // The log of the catalogue is there while somebody has it open.
    told.retain(|file| !file.ends_with("-wal") && !file.ends_with("-shm"));
    there.retain(|file| !file.ends_with("-wal") && !file.ends_with("-shm"));
    told.sort();
    ensure!(told == there, "{told:?} are told, {there:?} are there");
    ctx.ok(&["pool", "destroy", "tank"])?;
    ensure!(!ctx.root.join("tank").exists());
    Ok(())
}
