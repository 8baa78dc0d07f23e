//! `check` and `gc` beside others: tools that read the metadata, commands that run, pools that are damaged,
//! another root.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::check::{clean, dmsetup, found, message, pool_with, remove_device, words, write_blocks};
use super::harness::{Ctx, Test, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("pool_open_clears_nodes_that_lead_nowhere", nodes),
    ("check_goes_on_past_a_damaged_catalogue", damaged_catalogue),
    ("check_knows_another_roots_devices", other_root),
    ("check_shares_the_metadata_snapshot", metadata_snapshot),
    ("check_leaves_running_commands_alone", running_commands),
];

fn is_held() -> Result<bool> {
    let status = dmsetup(&["status", "dmthin-tank-pool"])?;
    let held = status.split(' ').nth(6).context("no field")?;
    Ok(held != "-")
}

fn metadata_snapshot(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    clean(ctx)?;
    let marker = ctx.root.join("tank/metadata-snap");
    ensure!(!marker.exists() && !is_held()?, "a reader leaves something");
    // Another tool's: waited for, never taken.
    message("reserve_metadata_snap")?;
    ctx.fails(&["check"], 75, "another tool")?;
    ensure!(is_held()?, "another tool's snapshot was released");
    fs::write(&marker, "3")?;
    ctx.fails(&["check"], 75, "another tool")?;
    ensure!(is_held()?, "another tool's snapshot was released");
    // Ours, of a reader that died: the marker says so.
    fs::write(&marker, "")?;
    clean(ctx)?;
    ensure!(!marker.exists() && !is_held()?, "it is held still");
    // Readers that are killed at any time leave nothing that the next one cannot clear.
    let mut held = 0;
    for turn in 0..20_u64 {
        let mut child = std::process::Command::new("pool-cli")
            .args(["--root", text(&ctx.root), "check"])
            .spawn()?;
        while !marker.exists() && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(turn * 2));
        child.kill()?;
        child.wait()?;
        held += u32::from(is_held()?);
        clean(ctx)?;
        ensure!(!is_held()?, "it is held after turn {turn}");
    }
    ensure!(held > 0, "no killed reader left its snapshot");
    // Many at a time, which take turns.
    let readers: Result<Vec<_>, _> = (0..5)
        .map(|_| {
            std::process::Command::new("pool-cli")
                .args(["--root", text(&ctx.root), "-q", "check"])
                .spawn()
        })
        .collect();
    for mut reader in readers? {
        ensure!(reader.wait()?.success(), "a reader among others");
    }
    // A pool is destroyed with the marker of a reader that died.
    fs::write(&marker, "9")?;
    ctx.ok(&["pool", "destroy", "tank"]).map(drop)
}

fn running_commands(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    let stop = ctx.dir.join("stop");
    let root = text(&ctx.root).to_owned();
    let script = format!(
        "n=0; while [ ! -e {stop} ]; do n=$((n+1)); \
         pool-cli --root {root} container create demo:1 --name loop$n >/dev/null && \
         pool-cli --root {root} container rm loop$n >/dev/null || echo failed; done",
        stop = text(&stop)
    );
    let worker = std::process::Command::new("sh")
        .args(["-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut result = Ok(());
    for _ in 0..25 {
        let (code, items) = found(ctx, &["check"])?;
        if code != 0 || !items.is_empty() {
            result = Err(anyhow::anyhow!("a running command's: {code} {items:?}"));
            break;
        }
    }
    fs::write(&stop, "")?;
    let output = worker.wait_with_output()?;
    result?;
    if !output.stdout.is_empty() {
        bail!("the commands: {}", String::from_utf8_lossy(&output.stdout));
    }
    clean(ctx)
}

/// One damaged catalogue hides nothing of the other pools.
fn damaged_catalogue(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    ctx.ok(&[
        "pool",
        "create",
        "bad",
        "--size",
        "512M",
        "--base-size",
        "256M",
    ])?;
    ctx.ok(&["pool", "close", "bad"])?;
    let dir = ctx.root.join("bad");
    let aside = ctx.dir.join("whole");
    witness("cp", &["-a", text(&dir), text(&aside)])?;
    fs::write(dir.join("catalogue.db"), vec![0xa5; 65536])?;
    remove_device("dmthin-tank-ctr-web")?;
    let (code, items) = found(ctx, &["check"])?;
    let kinds = ["damaged-pool", "missing-device"];
    ensure!(
        code == 8 && words(&items, "kind") == kinds,
        "{code} {items:?}"
    );
    ensure!(
        items
            .iter()
            .any(|item| item["pool"] == "bad" && item["kind"] == "damaged-pool"),
        "{items:?}"
    );
    ctx.fails(&["check", "bad"], 8, "catalogue")?;
    let (code, items) = found(ctx, &["gc"])?;
    ensure!(
        code == 8 && words(&items, "kind") == kinds && words(&items, "outcome") == ["done", "kept"],
        "{code} {items:?}"
    );
    write_blocks("web", [0])?;
    fs::remove_dir_all(&dir)?;
    witness("cp", &["-a", text(&aside), text(&dir)])?;
    clean(ctx)
}

/// A pool that is open under another root is no orphan here.
fn other_root(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    let here = Ctx {
        root: ctx.dir.join("here"),
        dir: ctx.dir.clone(),
        shared: ctx.shared.clone(),
        images: ctx.images.clone(),
    };
    here.ok(&[
        "pool",
        "create",
        "mine",
        "--size",
        "512M",
        "--base-size",
        "256M",
    ])?;
    let (code, items) = found(&here, &["check"])?;
    // The pool's, its catalogue's copy's and the container's.
    ensure!(
        code == 0 && words(&items, "kind") == ["device-of-other-root"; 3],
        "{code} {items:?}"
    );
    let says = format!("of a pool under another root, {}", text(&ctx.root));
    ensure!(
        items
            .iter()
            .all(|item| item["text"].as_str().is_some_and(|t| t.ends_with(&says))),
        "{items:?}"
    );
    let (code, _) = found(&here, &["gc"])?;
    ensure!(code == 0, "gc: {code}");
    let listed = here.json(&["device", "list"])?;
    let devices = listed["devices"].as_array().context("no devices")?;
    for device in devices {
        let theirs = device["name"]
            .as_str()
            .is_some_and(|name| name.contains("-tank-"));
        let root = if theirs {
            Value::from(text(&ctx.root))
        } else {
            Value::Null
        };
        ensure!(device["root"] == root, "{device}");
    }
    write_blocks("web", [0])?;
    here.ok(&["pool", "destroy", "mine"]).map(drop)
}

/// A command that is killed between a device and its node leaves the node.
fn nodes(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let stray = "/dev/mapper/dmthin-tank-ctr-gone";
    let other = "/dev/mapper/dmthin-other-ctr-gone";
    for node in [stray, other] {
        witness("mknod", &[node, "b", "253", "250"])?;
    }
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(!fs::exists(stray)?, "{stray} is there still");
    ensure!(fs::exists(other)?, "{other} is none of this pool");
    fs::remove_file(other)?;
    ctx.ok(&["check"]).map(drop)
}
