//! A pool whose catalogue is gone, damaged or of last week is made again out of what is in it: everything is
//! there, or under a made-up name, and nothing that is sound is ever replaced.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dmthin::ids::ThinId;
use dmthin::store::Catalogue;
use serde_json::{Value, json};

use super::damage::{CONTENT, container, is_whole};
use super::disks::detach;
use super::growth::make;
use super::harness::{Ctx, Test, all_thin_ids, block_device, text, witness};
use super::mirror::{MIRROR, REBUILD};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("rebuild_of_a_closed_pool", closed),
    ("rebuild_of_an_open_pool", open),
    ("rebuild_without_the_last_records", without_the_last),
    ("rebuild_of_a_pool_without_a_copy", without_a_copy),
    ("rebuild_of_pools_on_devices_and_disks", on_devices),
    ("rebuild_refuses_what_is_sound_or_another_pool", refuses),
    (
        "rebuild_is_not_needed_for_thin_ids_that_are_spent",
        thin_ids,
    ),
];

/// Where the halves of a mirror begin.
const HALF_AT: [u64; 2] = [4 << 10, (128 << 20) + (4 << 10)];

/// All that is told of containers, but for what their devices are numbered and have mapped.
pub(super) fn containers(ctx: &Ctx) -> Result<Value> {
    let mut list = ctx.json(&["container", "list"])?["containers"].take();
    for container in list.as_array_mut().context("no list")? {
        for key in ["mapped", "devno"] {
            container[key] = Value::Null;
        }
    }
    Ok(list)
}

/// All that is told of images, containers and settings: names, parents, sizes, digests.
fn told(ctx: &Ctx) -> Result<[Value; 4]> {
    let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
    let keys = [
        "uuid",
        "block_size",
        "base_size",
        "fs",
        "guard",
        "overcommit",
        "data",
        "ballast",
    ];
    let mut settings = Value::Null;
    for key in keys {
        settings[key] = match key {
            // What is in use of it changes.
            "data" => pool[key]["size"].clone(),
            _ => pool[key].clone(),
        };
    }
    Ok([
        containers(ctx)?,
        ctx.json(&["image", "list"])?,
        ctx.json(&["image", "history", "demo:1"])?,
        settings,
    ])
}

fn sums(ctx: &Ctx) -> Result<String> {
    let file = |name: &str| ctx.root.join("tank").join(name);
    let (data, metadata) = (file("data.img"), file("metadata.img"));
    witness("sha256sum", &[text(&data), text(&metadata)])
}

fn script(ctx: &Ctx, script: &str) -> Result<()> {
    let dir = ctx.root.join("tank");
    let week = ctx.mkdir("week")?;
    let script = format!("set -e; cd {}; W={}; {script}", text(&dir), text(&week));
    witness("sh", &["-c", &script]).map(drop)
}

fn closed(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M", "--min-free-data", "7"])?;
    ctx.ok(&["pool", "ballast", "make", "tank", "--size", "1M"])?;
    container(ctx, "old")?;
    container(ctx, "gone")?;
    script(ctx, "cp -a catalogue.db* $W")?;
    container(ctx, "new")?;
    ctx.ok(&["container", "rm", "gone"])?;
    let before = told(ctx)?;
    for (n, damage) in (1..).zip([
        "rm catalogue.db catalogue.db-*",
        "truncate -s $(($(stat -c %s catalogue.db) / 8192 * 4096)) catalogue.db; rm -f catalogue.db-*",
        "rm catalogue.db catalogue.db-*; cp $W/* .",
    ]) {
        ctx.ok(&["pool", "close", "tank"])?;
        script(ctx, damage)?;
        let output = ctx.cli(&["-q", "pool", "open", "tank"])?;
        ensure!(
            output.code == 8 && output.stderr.contains("pool-cli pool recover"),
            "{damage}: {output:?}"
        );
        let sum = sums(ctx)?;
        let planned = ctx.json(&[&REBUILD[..], &["--dry-run"]].concat())?["would_be"].clone();
        ctx.fails(&["pool", "open", "tank"], 8, "")?;
        let rebuilt = ctx.json(&REBUILD)?["rebuilt"].clone();
        ensure!(sums(ctx)? == sum, "{damage}: something was written");
        // The base, two layers, two containers, the ballast.
        ensure!(
            rebuilt["copy"]["found"] == "whole"
                && rebuilt["known"] == 6
                && rebuilt["lost"] == json!([])
                && rebuilt["dropped"] == json!([])
                && rebuilt["aside"].is_null() == (n == 1),
            "{damage}: {rebuilt}"
        );
        ensure!(planned["known"] == 6 && planned["aside"].is_null(), "{planned}");
        if let Some(aside) = rebuilt["aside"].as_str() {
            ensure!(aside.ends_with(&format!("catalogue.db.lost-{}", n - 1)), "{aside}");
            ensure!(PathBuf::from(aside).exists());
        }
        ctx.ok(&["pool", "open", "tank"])?;
        ctx.ok(&["check"])?;
        let now = told(ctx)?;
        ensure!(now == before, "{damage}: {now:?}, and before {before:?}");
        for name in ["old", "new"] {
            is_whole(ctx, name).with_context(|| format!("{damage}: {name}"))?;
        }
    }
    // A new one gets an id that nothing had.
    let ids = all_thin_ids(ctx, "tank")?;
    container(ctx, "next")?;
    let next = ctx.json(&["container", "inspect", "next"])?["container"]["thin_id"].clone();
    let next = next.to_string();
    ensure!(
        !ids.split_whitespace().any(|id| id == next),
        "{next} of {ids}"
    );
    ctx.ok(&["container", "rm", "old"])?;
    ctx.ok(&["check"]).map(drop)
}

/// In an open pool nothing can be asked of a catalogue that is gone, not even to be closed.
fn open(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    container(ctx, "web")?;
    let before = told(ctx)?;
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    script(ctx, "rm catalogue.db*")?;
    ctx.fails(&["pool", "close", "tank"], 8, "is gone")?;
    ctx.fails(&REBUILD, 5, "dmthin-tank-ctr-web")?;
    ensure!(fs::read(dir.join("file"))? == CONTENT);
    witness("umount", &[text(&dir)])?;
    ctx.fails(&[&REBUILD[..], &["--dry-run"]].concat(), 5, "is open")?;
    ctx.ok(&REBUILD)?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(told(ctx)? == before);
    is_whole(ctx, "web")?;
    ctx.ok(&["check"]).map(drop)
}

/// Where the log of the mirror goes on.
fn log_end(ctx: &Ctx) -> Result<u64> {
    let tail = fs::read_to_string(ctx.root.join("tank/mirror-tail"))?;
    let words: Result<Vec<u64>, _> = tail.split_whitespace().map(str::parse).collect();
    let [half, _, at, _]: [u64; 4] = words?.try_into().ok().context("a tail of four")?;
    let half = usize::try_from(half)?;
    Ok(HALF_AT.get(half).context("a half")? + at)
}

/// The last blocks of the log are not flushed: as after a power cut they are lost here, and with them that a
/// container was made and another one removed.
fn without_the_last(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    container(ctx, "old")?;
    container(ctx, "gone")?;
    let from = log_end(ctx)?;
    container(ctx, "new")?;
    let id = ctx.json(&["container", "inspect", "new"])?["container"]["thin_id"].clone();
    ctx.ok(&["container", "rm", "gone"])?;
    let to = log_end(ctx)?;
    ensure!(from < to && to - from <= 16 * 4096, "{from} to {to}");
    ctx.ok(&["check"])?;
    let blocks = format!("seek={} count={}", from / 4096, (to - from) / 4096);
    let zero = format!("dd if=/dev/zero of={MIRROR} bs=4096 {blocks} oflag=direct conv=notrunc");
    ctx.ok(&["pool", "status", "tank"])?;
    witness("sh", &["-c", &zero])?;
    ctx.ok(&["pool", "close", "tank"])?;
    script(ctx, "rm catalogue.db*")?;
    let rebuilt = ctx.json(&REBUILD)?["rebuilt"].clone();
    let name = format!("lost-{id}");
    let lost = &rebuilt["lost"][0];
    ensure!(
        rebuilt["lost"]
            .as_array()
            .is_some_and(|lost| lost.len() == 1)
            && lost["name"] == *name
            && lost["size"] == 512 << 20
            && lost["fs"] == "ext4"
            && rebuilt["dropped"] == json!([{"kind": "container", "name": "gone"}])
            && rebuilt["known"] == 4,
        "{rebuilt}"
    );
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "old")?;
    is_whole(ctx, &name)?;
    // Opened once more, and swept: it is nobody's to take away.
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["gc"])?;
    is_whole(ctx, &name)?;
    let image = ctx.json(&["container", "inspect", &name])?["container"]["image"].clone();
    ensure!(image == "lost-found:latest", "{image}");
    ctx.fails(&["image", "rm", "lost-found"], 5, &name)?;
    ctx.ok(&["container", "rm", &name])?;
    ctx.ok(&["image", "rm", "lost-found"])?;
    ctx.ok(&["check"]).map(drop)
}

/// A pool as an earlier version made it. What is in it can be reached, and the pool used on.
fn without_a_copy(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    container(ctx, "web")?;
    let id = ctx.json(&["container", "inspect", "web"])?["container"]["thin_id"].clone();
    let no_mirror = || -> Result<()> {
        witness("dmsetup", &["remove", "--retry", "dmthin-tank-mirror"])?;
        let delete = format!("delete {}", ThinId::MIRROR);
        witness("dmsetup", &["message", "dmthin-tank-pool", "0", &delete]).map(drop)
    };
    let has_mirror = || -> Result<bool> {
        let ids = all_thin_ids(ctx, "tank")?;
        let mirror = ThinId::MIRROR.to_string();
        Ok(ids.split_whitespace().any(|id| id == mirror))
    };
    ensure!(has_mirror()?);
    no_mirror()?;
    ensure!(!has_mirror()?);
    // The pool gets one when it is opened next, though it is open.
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(has_mirror()?);
    ctx.ok(&["check"])?;
    no_mirror()?;
    ctx.ok(&["pool", "close", "tank"])?;
    script(ctx, "rm catalogue.db*")?;
    let rebuilt = ctx.json(&REBUILD)?["rebuilt"].clone();
    let lost = rebuilt["lost"].as_array().context("none")?;
    // The base, two layers and the container: all have a file system.
    ensure!(
        rebuilt["copy"]["found"] == "none"
            && rebuilt["known"] == 0
            && lost.len() == 4
            && lost
                .iter()
                .all(|lost| lost["fs"] == "ext4" && lost["size"] == 512 << 20),
        "{rebuilt}"
    );
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, &format!("lost-{id}"))?;
    // Of layers that are known no more.
    let found = ctx.cli(&["--json", "check"])?;
    let findings: Value = serde_json::from_str(&found.stdout)?;
    let kinds: Vec<_> = findings["findings"]
        .as_array()
        .context("no findings")?
        .iter()
        .map(|f| f["kind"].clone())
        .collect();
    ensure!(
        found.code == 1 && kinds == ["stray-record", "stray-record"],
        "{findings}"
    );
    ctx.ok(&["gc"])?;
    ctx.ok(&["check"])?;
    ensure!(has_mirror()?);
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    let create = ["container", "create", "demo:1", "--name", "web"];
    ctx.ok(&create)?;
    // And is known from now on.
    ctx.ok(&["pool", "close", "tank"])?;
    script(ctx, "rm catalogue.db*")?;
    let rebuilt = ctx.json(&REBUILD)?["rebuilt"].clone();
    ensure!(
        rebuilt["known"] == 8 && rebuilt["lost"] == json!([]),
        "{rebuilt}"
    );
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["container", "inspect", "web"]).map(drop)
}

/// Pools whose directory is gone altogether, on two devices and on one disk.
fn on_devices(ctx: &Ctx) -> Result<()> {
    let (_, data) = block_device(ctx, "disk0", 256)?;
    let (_, metadata) = block_device(ctx, "disk1", 16)?;
    let (_, disk) = block_device(ctx, "disk2", 512)?;
    for on in [
        &["--data", &data, "--metadata", &metadata][..],
        &["--device", &disk],
    ] {
        make(ctx, on)?;
        container(ctx, "web")?;
        let before = told(ctx)?;
        ctx.ok(&["pool", "close", "tank"])?;
        fs::remove_dir_all(ctx.root.join("tank"))?;
        ctx.fails(&REBUILD, 3, "tank")?;
        let rebuild = [&REBUILD[..], on].concat();
        ctx.ok(&rebuild)?;
        ctx.ok(&["pool", "open", "tank"])?;
        let now = told(ctx)?;
        ensure!(now == before, "{now:?}, and before {before:?}");
        is_whole(ctx, "web")?;
        ctx.ok(&["check"])?;
        // With a directory that does not say what the pool lies on.
        ctx.ok(&["pool", "close", "tank"])?;
        script(ctx, "rm catalogue.db*")?;
        ctx.fails(&REBUILD, 2, "--data DEV --metadata DEV")?;
        ctx.ok(&rebuild)?;
        ctx.ok(&["pool", "open", "tank"])?;
        ctx.ok(&["pool", "destroy", "tank"])?;
    }
    for node in [data, metadata, disk] {
        detach(&node)?;
    }
    Ok(())
}

fn refuses(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    container(ctx, "web")?;
    for word in ["close", "open"] {
        ctx.ok(&["pool", word, "tank"])?;
        ctx.fails(&REBUILD, 4, "is sound")?;
    }
    let other = [
        "pool",
        "create",
        "other",
        "--size",
        "256M",
        "--base-size",
        "512M",
    ];
    ctx.ok(&other)?;
    for pool in ["tank", "other"] {
        ctx.ok(&["pool", "close", pool])?;
    }
    // Both halves of another pool; then its data alone, below our metadata.
    script(
        ctx,
        "mv catalogue.db* *.img $W; cp --sparse=always ../other/*.img .",
    )?;
    ctx.fails(&REBUILD, 8, "pool other")?;
    script(ctx, "rm metadata.img; cp --sparse=always $W/metadata.img .")?;
    ctx.fails(&REBUILD, 8, "")?;
    // Of other metadata there is nothing to be made.
    script(
        ctx,
        "truncate -s 0 metadata.img; truncate -s 16M metadata.img",
    )?;
    ctx.fails(&REBUILD, 8, "superblock")?;
    script(ctx, "rm *.img; mv $W/*.img .")?;
    ctx.ok(&REBUILD)?;
    ctx.ok(&["pool", "destroy", "other"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "web")?;
    ctx.ok(&["check"]).map(drop)
}

/// Ids are given out up to the last but one; then those that no volume has any more are.
fn thin_ids(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    container(ctx, "web")?;
    let spend = || -> Result<()> {
        let last = ThinId::new(u64::from(ThinId::MIRROR.get()) - 1)?;
        let catalogue = Catalogue::open(ctx.root.join("tank/catalogue.db"))?;
        Ok(catalogue.set_thin_ids(last, ThinId::MIRROR)?)
    };
    let create = |name: &str| ["container", "create", "demo:1", "--name", name].map(str::to_owned);
    let id_of = |name: &str| -> Result<u64> {
        let inspected = ctx.json(&["container", "inspect", name])?;
        inspected["container"]["thin_id"].as_u64().context("no id")
    };
    let made = |name: &str| -> Result<u64> {
        let words = create(name);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ctx.ok(&words)?;
        id_of(name)
    };
    spend()?;
    ensure!(made("last")? == u64::from(ThinId::MIRROR.get()) - 1);
    let words = create("more");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ctx.fails(&words, 1, "close the pool and open it")?;
    // The base, two layers, `web`: 0 to 3 are taken.
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(made("more")? == 4);
    ctx.ok(&["container", "rm", "last"])?;
    spend()?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(made("again")? == 5);
    is_whole(ctx, "web")?;
    // Where ids were given out before does not make the catalogue an old one, or the pool's volumes unknown.
    ctx.ok(&["check"])?;
    script(ctx, "rm catalogue.db*")?;
    ctx.ok(&REBUILD)?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(made("rebuilt")? == 6);
    ctx.ok(&["check"]).map(drop)
}
