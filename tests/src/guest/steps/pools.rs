//! What is done to pools, on everything that they can lie on.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::super::check::spent_ids;
use super::super::disks::{detach, elsewhere};
use super::super::harness::{Ctx, Test, block_device, eventually, text, witness};
use super::super::load::enlarge;
use super::super::rebuild::containers;
use super::super::repair::{flag_as_unchecked, wipe_bitmap_root};
use super::super::shared::script_pool;
use super::sweep::{Verb, cut_after, in_order, steps_of, sweep};
use super::volumes::{one_layer, pool, pool_with_image};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("steps_of_pool_create_and_destroy_on_files", files),
    ("steps_of_pool_create_and_destroy_on_devices", devices),
    ("steps_of_pool_create_and_destroy_on_a_disk", disk),
    ("steps_of_pool_create_and_destroy_in_a_thin_pool", existing),
    ("steps_of_pool_open_and_close", open),
    ("steps_of_pool_open_and_close_on_a_disk", open_disk),
    ("steps_of_pool_open_of_a_disk_that_moved", moved),
    ("steps_of_pool_grow_on_files", grow_files),
    ("steps_of_pool_grow_on_a_disk", grow_disk),
    ("steps_of_pool_set", set),
    ("steps_of_pool_recover", recover),
    ("steps_of_pool_repair", repair),
    ("steps_of_check_and_gc", check),
];

/// That no trace of a pool is left.
fn nothing_is_left(ctx: &Ctx) -> Result<()> {
    let left: Vec<_> = fs::read_dir(&ctx.root)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    let devices = witness("dmsetup", &["info", "-c", "--noheadings", "-o", "uuid"])?;
    ensure!(!devices.contains("DMTHIN-"), "{devices}");
    let free = eventually(|| {
        let loops = witness("losetup", &["-l", "-n", "-O", "BACK-FILE"])?;
        Ok(!loops.contains(text(&ctx.root)))
    })?;
    ensure!(free, "a file is attached still");
    Ok(())
}

/// Cuts the making of a pool and its destroying. One that is half made is what `pool destroy` clears away,
/// and what is half destroyed too.
fn create_and_destroy(ctx: &Ctx, on: &[&str], settled: &dyn Fn() -> Result<()>) -> Result<()> {
    let create = ["pool", "create", "tank", "--base-size", "64M"];
    let create = [&create[..], on].concat();
    let destroy = ["pool", "destroy", "tank"];
    let steps = steps_of(ctx, &create)?;
    let ends = steps_of(ctx, &destroy)?;
    let ready = steps.iter().position(|step| step == "N6");
    let ready = ready.context("it is never ready")?;
    for at in 0..steps.len() {
        let told = || format!("{create:?} cut after {:?}", &steps[..=at]);
        cut_after(ctx, &create, &steps[..=at])?;
        if at >= ready {
            ctx.ok(&["pool", "open", "tank"]).with_context(told)?;
            settled().with_context(told)?;
            ctx.ok(&destroy).with_context(told)?;
        } else if steps[at] == "N1" {
            // An empty directory is no pool yet: the same again uses it.
            ctx.fails(&destroy, 3, "tank").with_context(told)?;
            continue;
        } else {
            ctx.fails(&["pool", "open", "tank"], 1, "pool destroy")
                .with_context(told)?;
            ctx.ok(&destroy).with_context(told)?;
        }
        nothing_is_left(ctx).with_context(told)?;
    }
    for at in 0..ends.len() {
        let told = || format!("{destroy:?} cut after {:?}", &ends[..=at]);
        ctx.ok(&create).with_context(told)?;
        cut_after(ctx, &destroy, &ends[..=at])?;
        let code = ctx.cli(&destroy)?.code;
        let gone = ends[at] == "Y5";
        ensure!(code == if gone { 3 } else { 0 }, "{}: {code}", told());
        nothing_is_left(ctx).with_context(told)?;
    }
    Ok(())
}

fn files(ctx: &Ctx) -> Result<()> {
    let on = ["--size", "512M", "--metadata-size", "16M"];
    create_and_destroy(ctx, &on, &|| in_order(ctx))
}

fn devices(ctx: &Ctx) -> Result<()> {
    let (_, data) = &block_device(ctx, "disk0", 512)?;
    let (_, metadata) = &block_device(ctx, "disk1", 16)?;
    let on = ["--data", data, "--metadata", metadata];
    create_and_destroy(ctx, &on, &|| in_order(ctx))?;
    detach(data)?;
    detach(metadata)
}

fn disk(ctx: &Ctx) -> Result<()> {
    let (_, node) = &block_device(ctx, "disk0", 704)?;
    let on = ["--metadata-size", "16M", "--device", node];
    create_and_destroy(ctx, &on, &|| in_order(ctx))?;
    detach(node)
}

fn existing(ctx: &Ctx) -> Result<()> {
    let (data, metadata) = &script_pool(ctx)?;
    witness(
        "dmsetup",
        &["message", "script", "0", "create_thin 8388608"],
    )?;
    create_and_destroy(ctx, &["--existing", "script"], &|| {
        ctx.ok(&["check"]).map(drop)
    })?;
    witness("dmsetup", &["remove", "script"])?;
    // Ours may be left where a cut came before it was known to be ours; theirs is.
    let left = witness("thin_ls", &["--no-headers", "-o", "DEV", metadata])?;
    let left: Vec<_> = left.split_whitespace().collect();
    ensure!(left.contains(&"8388608") && left.len() <= 2, "{left:?}");
    detach(data)?;
    detach(metadata)
}

/// A pool with an image and a container.
fn fill(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["image", "import", &one_layer(ctx)?])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])
        .map(drop)
}

fn web_is_active(ctx: &Ctx) -> Result<bool> {
    let web = ctx.json(&["container", "inspect", "web"])?["container"].clone();
    Ok(web["state"] == "ready" && web["device"] == "/dev/mapper/dmthin-tank-ctr-web")
}

/// Opening and closing are done again where they were cut.
fn open_and_close(ctx: &Ctx) -> Result<()> {
    let (open, close) = (["pool", "open", "tank"], ["pool", "close", "tank"]);
    let closing = steps_of(ctx, &close)?;
    let opening = steps_of(ctx, &open)?;
    for at in 0..opening.len() {
        let told = || format!("{open:?} cut after {:?}", &opening[..=at]);
        ctx.ok(&close).with_context(told)?;
        cut_after(ctx, &open, &opening[..=at])?;
        // Cut a second time, wherever that comes then.
        super::sweep::cut(ctx, &open, Some(1))?;
        ctx.ok(&open).with_context(told)?;
        in_order(ctx).with_context(told)?;
        ensure!(web_is_active(ctx)?, "{}: no device", told());
    }
    for at in 0..closing.len() {
        let told = || format!("{close:?} cut after {:?}", &closing[..=at]);
        cut_after(ctx, &close, &closing[..=at])?;
        if at % 2 == 0 {
            ctx.ok(&close).with_context(told)?;
        }
        ctx.ok(&open).with_context(told)?;
        in_order(ctx).with_context(told)?;
        ensure!(web_is_active(ctx)?, "{}: no device", told());
    }
    Ok(())
}

fn open(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    fill(ctx)?;
    open_and_close(ctx)
}

fn on_disk(ctx: &Ctx) -> Result<(PathBuf, String)> {
    let (path, node) = block_device(ctx, "disk0", 704)?;
    let create = ["pool", "create", "tank", "--base-size", "64M"];
    let on = ["--metadata-size", "16M", "--device", &node];
    ctx.ok(&[&create[..], &on].concat())?;
    fill(ctx)?;
    Ok((path, node))
}

fn destroy_disk(ctx: &Ctx, node: &str) -> Result<()> {
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(node)
}

fn open_disk(ctx: &Ctx) -> Result<()> {
    let (_, node) = on_disk(ctx)?;
    open_and_close(ctx)?;
    destroy_disk(ctx, &node)
}

/// The disk opens on another host, whatever the opening there was cut at; and by another path of it here.
fn moved(ctx: &Ctx) -> Result<()> {
    let (_, node) = on_disk(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    let there = elsewhere(ctx);
    fs::remove_dir_all(ctx.root.join("tank"))?;
    let open = ["pool", "open", "--device", &node];
    let steps = steps_of(&there, &open)?;
    for at in 0..steps.len() {
        let told = || format!("{open:?} cut after {:?}", &steps[..=at]);
        there.ok(&["pool", "close", "tank"])?;
        fs::remove_dir_all(there.root.join("tank"))?;
        cut_after(&there, &open, &steps[..=at])?;
        there.ok(&open).with_context(told)?;
        in_order(&there).with_context(told)?;
        ensure!(web_is_active(&there)?, "{}: no device", told());
    }
    let other = ctx.dir.join("other");
    std::os::unix::fs::symlink(&node, &other)?;
    let again = ["pool", "open", "--device", text(&other)];
    there.ok(&["pool", "close", "tank"])?;
    let steps = steps_of(&there, &again)?;
    ensure!(steps[0] == "M3", "{steps:?}");
    there.ok(&["pool", "close", "tank"])?;
    there.ok(&open)?;
    there.ok(&["pool", "close", "tank"])?;
    cut_after(&there, &again, &steps[..1])?;
    there.ok(&["pool", "open", "tank"])?;
    in_order(&there)?;
    destroy_disk(&there, &node)
}

fn data_size(ctx: &Ctx) -> Result<u64> {
    let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
    ensure!(
        pool["live"]["data"]["total"] == pool["data"]["size"]
            && pool["live"]["metadata"]["total"] == pool["metadata"]["size"],
        "{pool}"
    );
    pool["data"]["size"].as_u64().context("no size")
}

/// Growth by 4 MiB at a time.
fn grow(ctx: &Ctx, args: &[&str], enlarge: &dyn Fn() -> Result<()>) -> Result<()> {
    let before = Cell::new(0);
    sweep(
        ctx,
        &Verb {
            args,
            from: "E2",
            prepare: &|| {
                before.set(data_size(ctx)?);
                enlarge()
            },
            is_done: &|| {
                let now = data_size(ctx)?;
                let grown = before.get() + (4 << 20);
                ensure!(now == before.get() || now == grown, "{now}");
                Ok(now == grown)
            },
            repeats: true,
            undo: &|| Ok(()),
        },
    )?;
    ensure!(web_is_active(ctx)?);
    Ok(())
}

fn grow_files(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    fill(ctx)?;
    let args = ["pool", "grow", "--data", "+4M", "--metadata", "+4K"];
    grow(ctx, &args, &|| Ok(()))
}

fn grow_disk(ctx: &Ctx) -> Result<()> {
    let (path, node) = on_disk(ctx)?;
    let size = Cell::new(704);
    grow(ctx, &["pool", "grow"], &|| {
        size.set(size.get() + 4);
        enlarge(&path, &node, size.get())
    })?;
    destroy_disk(ctx, &node)
}

fn set(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    let set = |to| ["pool", "set", "--on-full", to];
    sweep(
        ctx,
        &Verb {
            args: &set("error"),
            from: "S1",
            prepare: &|| Ok(()),
            is_done: &|| {
                let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
                let kernel = pool["live"]["on_full"] == "error_if_no_space";
                ensure!(kernel == (pool["when_full"] == "error"), "{pool}");
                Ok(kernel)
            },
            repeats: true,
            undo: &|| ctx.ok(&set("queue")).map(drop),
        },
    )
}

/// What is done to metadata in a file.
type Damage = fn(&PathBuf) -> Result<()>;

/// Repair is ended by the same again, of a flag and of damage.
fn repair(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    fill(ctx)?;
    let metadata = ctx.root.join("tank/metadata.img");
    let repair = ["pool", "repair", "tank"];
    // What follows the mending is as with the flag.
    let ways: [(Damage, &str); 2] = [(flag_as_unchecked, "R6"), (wipe_bitmap_root, "R3")];
    for (damage, last) in ways {
        let harm = || {
            ctx.ok(&["pool", "close", "tank"])?;
            damage(&metadata)
        };
        harm()?;
        let steps = steps_of(ctx, &repair)?;
        let end = steps.iter().rposition(|step| step == last);
        for at in 0..=end.with_context(|| format!("no {last} in {steps:?}"))? {
            let told = || format!("{repair:?} cut after {:?}", &steps[..=at]);
            harm().with_context(told)?;
            cut_after(ctx, &repair, &steps[..=at])?;
            // It closes the pool first, which a check of a volume keeps from no one.
            ctx.ok(&repair).with_context(told)?;
            in_order(ctx).with_context(told)?;
            ensure!(web_is_active(ctx)?, "{}: no device", told());
        }
    }
    Ok(())
}

/// What only reads takes a metadata snapshot, which `pool open` lets go; `gc` that was cut goes on.
fn check(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let steps = steps_of(ctx, &["check"])?;
    ensure!(steps == ["L1", "L2", "L3", "L4"], "{steps:?}");
    for at in 0..steps.len() {
        cut_after(ctx, &["check"], &steps[..=at])?;
        ctx.ok(&["pool", "open", "tank"])?;
        let status = witness("dmsetup", &["status", "dmthin-tank-pool"])?;
        let held = status.split(' ').nth(6).context("no status")?;
        ensure!(held == "-", "{}: {status}", steps[at]);
        ensure!(
            !ctx.root.join("tank/metadata-snap").exists(),
            "{}",
            steps[at]
        );
        in_order(ctx)?;
    }
    let message = |text: &str| witness("dmsetup", &["message", "dmthin-tank-pool", "0", text]);
    // Of ids that were given out: others would show that the catalogue is an old one.
    for id in spent_ids(ctx, &["a", "b"])? {
        message(&format!("create_thin {id}"))?;
    }
    super::sweep::cut_at(ctx, &["gc"], "Z1")?;
    ensure!(ctx.cli(&["check"])?.code == 1, "both are gone");
    ctx.ok(&["gc"])?;
    in_order(ctx)
}

/// An open pool whose catalogue is damaged: it is closed, and the catalogue made again.
fn recover(ctx: &Ctx) -> Result<()> {
    let args = ["pool", "recover", "tank", "--rebuild"];
    pool_with_image(ctx)?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let before = containers(ctx)?;
    let damage = || fs::write(ctx.root.join("tank/catalogue.db"), "").context("catalogue");
    damage()?;
    let steps = steps_of(ctx, &args)?;
    ensure!(
        steps.ends_with(&["R7".to_owned(), "R8".to_owned()]),
        "{steps:?}"
    );
    for at in 0..steps.len() {
        let told = || format!("{args:?} cut after {:?}", &steps[..=at]);
        ctx.ok(&["pool", "open", "tank"]).with_context(told)?;
        damage()?;
        cut_after(ctx, &args, &steps[..=at])?;
        if steps[at] == "R8" {
            ctx.fails(&args, 4, "is sound").with_context(told)?;
        } else {
            ctx.fails(&["pool", "open", "tank"], 8, "recover")
                .with_context(told)?;
            ctx.ok(&args).with_context(told)?;
        }
        ctx.ok(&["pool", "open", "tank"]).with_context(told)?;
        in_order(ctx).with_context(told)?;
        let now = containers(ctx)?;
        ensure!(now == before, "{}: {now}, and before {before}", told());
        ctx.ok(&["pool", "close", "tank"]).with_context(told)?;
    }
    ctx.ok(&["pool", "open", "tank"]).map(drop)
}
