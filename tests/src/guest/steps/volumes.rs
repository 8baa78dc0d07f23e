//! What is done to volumes: containers, images, the base, the ballast.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::build::{Image, Layer, two_layers};
use super::super::harness::{Ctx, Test, text, witness};
use super::sweep::{How, Verb, cut_after, in_order, sweep};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("steps_of_container_create", |ctx| create_by(ctx, sweep)),
    ("steps_of_container_create_larger", create_larger),
    ("steps_of_container_mount", mount),
    ("steps_of_container_rm", |ctx| remove_by(ctx, sweep)),
    ("steps_of_container_rm_queued_and_held", remove_later),
    ("steps_of_queue_cancel", cancel),
    ("steps_of_container_grow", |ctx| grow_by(ctx, sweep)),
    ("steps_of_image_import_and_rm", |ctx| images_by(ctx, sweep)),
    ("steps_of_image_rm_by_one_of_two_names", name),
    ("steps_of_container_commit", |ctx| commit_by(ctx, sweep)),
    ("steps_of_image_tag_untag_and_prune", names),
    ("steps_of_layer_apply", apply),
    ("steps_of_base_grow", base),
    ("steps_of_container_diff", diff),
    ("steps_of_ballast", ballast),
];

const WEB: &str = "/dev/mapper/dmthin-tank-ctr-web";
const CREATE: [&str; 5] = ["container", "create", "demo:1", "--name", "web"];
const REMOVE: [&str; 3] = ["container", "rm", "web"];

/// A small pool on files.
pub(super) fn pool(ctx: &Ctx) -> Result<()> {
    let create = ["pool", "create", "tank", "--size", "512M", "--base-size"];
    ctx.ok(&[&create[..], &["64M", "--metadata-size", "16M"]].concat())
        .map(drop)
}

/// An image of one layer.
pub(super) fn one_layer(ctx: &Ctx) -> Result<String> {
    let layer = Layer::new().file("hostname", b"one\n").bytes();
    let path = Image::new("demo:1", vec![layer]).write(&ctx.dir.join("demo.tar"))?;
    Ok(text(&path).to_owned())
}

/// The pool with the image.
pub(super) fn pool_with_image(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    ctx.ok(&["image", "import", &one_layer(ctx)?]).map(drop)
}

const fn nothing() -> Result<()> {
    Ok(())
}

/// The container `web`, if there is one.
fn web(ctx: &Ctx) -> Result<Option<Value>> {
    let list = ctx.json(&["container", "list"])?["containers"].clone();
    let list = list.as_array().context("no list")?;
    ensure!(list.len() < 2, "{list:?}");
    Ok(list.first().cloned())
}

/// Whether `web` is there, ready, active and with a whole file system of so many MiB.
fn web_is_whole(ctx: &Ctx, mib: u64) -> Result<bool> {
    let Some(web) = web(ctx)? else {
        return Ok(false);
    };
    ensure!(
        web["state"] == "ready"
            && web["size"] == mib << 20
            && web["device"] == WEB
            && web["growing_to"].is_null(),
        "{web}"
    );
    witness("e2fsck", &["-fn", WEB])?;
    let blocks = witness("dumpe2fs", &["-h", WEB])?;
    let count = |what: &str| -> Result<u64> {
        let line = blocks.lines().find_map(|line| line.strip_prefix(what));
        Ok(line.context("dumpe2fs")?.trim().parse()?)
    };
    let size = count("Block count:")?.saturating_mul(count("Block size:")?);
    ensure!(size == mib << 20, "a file system of {size}");
    Ok(true)
}

pub(super) fn create_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    how(
        ctx,
        &Verb {
            args: &CREATE,
            from: "C2",
            prepare: &nothing,
            is_done: &|| web_is_whole(ctx, 64),
            repeats: true,
            undo: &|| ctx.ok(&REMOVE).map(drop),
        },
    )
}

fn create_larger(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    sweep(
        ctx,
        &Verb {
            args: &[&CREATE[..], &["--size", "96M"]].concat(),
            from: "C5",
            prepare: &nothing,
            is_done: &|| web_is_whole(ctx, 96),
            repeats: true,
            undo: &|| ctx.ok(&REMOVE).map(drop),
        },
    )
}

/// A mount is done or not whatever is settled, for it is the kernel's.
fn mount(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let dir = ctx.mkdir("mnt")?;
    sweep(
        ctx,
        &Verb {
            args: &["container", "mount", "web", text(&dir)],
            from: "W2",
            prepare: &|| ctx.ok(&CREATE).map(drop),
            is_done: &|| {
                let web = web(ctx)?.context("no container")?;
                Ok(web["mounts"] == serde_json::json!([text(&dir)]))
            },
            repeats: true,
            undo: &|| {
                ctx.ok(&["container", "umount", "web"])?;
                ctx.ok(&REMOVE).map(drop)
            },
        },
    )
}

pub(super) fn remove_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    how(
        ctx,
        &Verb {
            args: &REMOVE,
            from: "D1",
            prepare: &|| ctx.ok(&CREATE).map(drop),
            is_done: &|| Ok(web(ctx)?.is_none()),
            repeats: true,
            undo: &nothing,
        },
    )
}

fn queue(ctx: &Ctx) -> Result<Vec<Value>> {
    let queue = ctx.json(&["queue", "list"])?["queue"].clone();
    Ok(queue.as_array().context("no queue")?.clone())
}

/// Left to the queue, and worked off by it; and while somebody holds it.
fn remove_later(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let is_gone = || Ok(web(ctx)?.is_none());
    sweep(
        ctx,
        &Verb {
            args: &[&REMOVE[..], &["--queue"]].concat(),
            from: "D1",
            prepare: &|| ctx.ok(&CREATE).map(drop),
            is_done: &is_gone,
            repeats: true,
            undo: &|| ctx.ok(&["queue", "run"]).map(drop),
        },
    )?;
    sweep(
        ctx,
        &Verb {
            args: &["queue", "run"],
            from: "D3",
            prepare: &|| {
                ctx.ok(&CREATE)?;
                ctx.ok(&[&REMOVE[..], &["--queue"]].concat()).map(drop)
            },
            is_done: &|| Ok(queue(ctx)?.is_empty() && is_gone()?),
            repeats: true,
            undo: &nothing,
        },
    )?;
    for steps in [&["D1"][..], &["D1", "D2"]] {
        ctx.ok(&CREATE)?;
        let holder = File::open(WEB)?;
        cut_after(ctx, &REMOVE, steps)?;
        ctx.ok(&["pool", "open", "tank"])?;
        let queued = queue(ctx)?;
        ensure!(
            queued.len() == 1 && queued[0]["state"] == "held" && is_gone()?,
            "{steps:?}: {queued:?}"
        );
        drop(holder);
        ctx.ok(&["pool", "open", "tank"])?;
        in_order(ctx).with_context(|| format!("{steps:?}"))?;
        ensure!(queue(ctx)?.is_empty(), "{steps:?}");
    }
    Ok(())
}

fn cancel(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    // Cut before the catalogue has it back, what was promised is done: there is nothing left to cancel.
    sweep(
        ctx,
        &Verb {
            args: &["queue", "cancel", "web"],
            from: "Q2",
            prepare: &|| {
                if web(ctx)?.is_none() {
                    ctx.ok(&CREATE)?;
                }
                ctx.ok(&[&REMOVE[..], &["--queue"]].concat()).map(drop)
            },
            is_done: &|| web_is_whole(ctx, 64),
            repeats: false,
            undo: &nothing,
        },
    )
}

pub(super) fn grow_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    let size = || -> Result<bool> {
        let size = web(ctx)?.context("no container")?["size"].clone();
        let mib = if size == 64 << 20 { 64 } else { 96 };
        ensure!(web_is_whole(ctx, mib)?);
        Ok(mib == 96)
    };
    how(
        ctx,
        &Verb {
            args: &["container", "grow", "web", "96M"],
            from: "G1",
            prepare: &|| ctx.ok(&CREATE).map(drop),
            is_done: &size,
            repeats: true,
            undo: &|| ctx.ok(&REMOVE).map(drop),
        },
    )
}

/// How many images and names there are.
fn images_and_names(ctx: &Ctx) -> Result<(usize, usize)> {
    let images = ctx.json(&["image", "list"])?["images"].clone();
    let images = images.as_array().context("no images")?;
    let names = images
        .iter()
        .map(|image| image["names"].as_array().map_or(0, Vec::len))
        .sum();
    Ok((images.len(), names))
}

pub(super) fn images_by(ctx: &Ctx, how: How) -> Result<()> {
    pool(ctx)?;
    let path = Image::new("demo:1", two_layers()).write(&ctx.dir.join("two.tar"))?;
    let import = ["image", "import", text(&path)];
    how(
        ctx,
        &Verb {
            args: &import,
            from: "I7",
            prepare: &nothing,
            is_done: &|| Ok(images_and_names(ctx)? == (1, 1)),
            repeats: true,
            undo: &|| ctx.ok(&["image", "rm", "demo:1"]).map(drop),
        },
    )?;
    let again = || ctx.ok(&import).map(drop);
    how(
        ctx,
        &Verb {
            args: &["image", "rm", "demo:1"],
            from: "D1",
            prepare: &again,
            is_done: &|| Ok(images_and_names(ctx)? == (0, 0)),
            repeats: true,
            undo: &nothing,
        },
    )
}

/// A name that goes, of an image that has another.
fn name(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    let path = one_layer(ctx)?;
    let import = ["image", "import", path.as_str()];
    let named = [&import[..], &["--name", "other:1"]].concat();
    sweep(
        ctx,
        &Verb {
            args: &["image", "rm", "other:1"],
            from: "D8",
            prepare: &|| {
                ctx.ok(&import)?;
                ctx.ok(&named).map(drop)
            },
            is_done: &|| Ok(images_and_names(ctx)? == (1, 1)),
            repeats: true,
            undo: &nothing,
        },
    )
}

/// The container `web`, with a file that its image does not have.
fn changed_web(ctx: &Ctx) -> Result<()> {
    ctx.ok(&CREATE)?;
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    std::fs::write(dir.join("new"), "content")?;
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

pub(super) fn commit_by(ctx: &Ctx, how: How) -> Result<()> {
    pool_with_image(ctx)?;
    changed_web(ctx)?;
    how(
        ctx,
        &Verb {
            args: &["container", "commit", "web", "--name", "app:1"],
            from: "P6",
            prepare: &nothing,
            is_done: &|| Ok(images_and_names(ctx)? == (2, 2)),
            repeats: true,
            undo: &|| ctx.ok(&["image", "rm", "app:1"]).map(drop),
        },
    )
}

fn names(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let (one, two) = (
        || Ok(images_and_names(ctx)? == (1, 1)),
        || Ok(images_and_names(ctx)? == (1, 2)),
    );
    let tag = ["image", "tag", "demo:1", "other:1"];
    let untag = ["image", "untag", "other:1"];
    sweep(
        ctx,
        &Verb {
            args: &tag,
            from: "U1",
            prepare: &nothing,
            is_done: &two,
            repeats: true,
            undo: &|| ctx.ok(&untag).map(drop),
        },
    )?;
    sweep(
        ctx,
        &Verb {
            args: &untag,
            from: "U2",
            prepare: &|| ctx.ok(&tag).map(drop),
            is_done: &one,
            repeats: true,
            undo: &nothing,
        },
    )?;
    sweep(
        ctx,
        &Verb {
            args: &["image", "prune"],
            from: "D1",
            prepare: &|| {
                ctx.ok(&["image", "import", &one_layer(ctx)?])?;
                ctx.ok(&["image", "untag", "demo:1"]).map(drop)
            },
            is_done: &|| Ok(images_and_names(ctx)? == (0, 0)),
            repeats: true,
            undo: &nothing,
        },
    )
}

fn apply(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let tar = ctx.dir.join("layer.tar");
    std::fs::write(&tar, Layer::new().file("new", b"content").bytes())?;
    sweep(
        ctx,
        &Verb {
            args: &["layer", "apply", "demo:1", text(&tar), "--name", "app:1"],
            from: "P6",
            prepare: &nothing,
            is_done: &|| Ok(images_and_names(ctx)? == (2, 2)),
            repeats: true,
            undo: &|| ctx.ok(&["image", "rm", "app:1"]).map(drop),
        },
    )
}

fn base(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    let size = std::cell::Cell::new(64_u64);
    let base_size = || -> Result<u64> {
        let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
        pool["base_size"].as_u64().context("no base size")
    };
    sweep(
        ctx,
        &Verb {
            args: &["base", "grow", "+1M"],
            from: "B6",
            prepare: &|| {
                size.set(base_size()? >> 20);
                Ok(())
            },
            is_done: &|| Ok(base_size()? >> 20 == size.get().saturating_add(1)),
            repeats: true,
            undo: &nothing,
        },
    )
}

/// It changes nothing: wherever it is cut, its snapshots go.
fn diff(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    sweep(
        ctx,
        &Verb {
            args: &["container", "diff", "web"],
            from: "F1",
            prepare: &|| ctx.ok(&CREATE).map(drop),
            is_done: &|| web_is_whole(ctx, 64),
            repeats: true,
            undo: &|| ctx.ok(&REMOVE).map(drop),
        },
    )
}

fn ballast(ctx: &Ctx) -> Result<()> {
    pool(ctx)?;
    let has = || -> Result<bool> {
        let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
        Ok(!pool["ballast"].is_null())
    };
    let make = ["pool", "ballast", "make", "--size", "8M"];
    let release = ["pool", "ballast", "release"];
    sweep(
        ctx,
        &Verb {
            args: &make,
            from: "A4",
            prepare: &nothing,
            is_done: &has,
            repeats: true,
            undo: &|| ctx.ok(&release).map(drop),
        },
    )?;
    sweep(
        ctx,
        &Verb {
            args: &release,
            from: "A5",
            prepare: &|| ctx.ok(&make).map(drop),
            is_done: &|| Ok(!has()?),
            repeats: true,
            undo: &nothing,
        },
    )
}
