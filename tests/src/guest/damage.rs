//! The catalogue lost, damaged, replaced, and without room: each gets its answer, nothing is changed, and
//! with the right file back everything is there.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::growth::{make, mounted};
use super::harness::{Ctx, Output, Test, block_device, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("damage_of_the_catalogue_of_a_closed_pool", closed),
    ("damage_of_the_catalogue_of_an_open_pool", open),
    ("damage_of_a_young_pools_catalogue", young),
    ("damage_of_a_catalogue_beside_devices", beside_devices),
    ("damage_by_another_pools_catalogue", another_pools),
    ("damage_of_a_state_file_system_that_is_full", full),
];

pub(super) const CONTENT: &[u8] = b"what the container wrote\n";

/// A shell script in the pool's directory, with the kept copies beside it.
fn script(ctx: &Ctx, pool: &str, script: &str) -> Result<()> {
    let (dir, kept) = (ctx.root.join(pool), ctx.dir.join("kept"));
    let script = format!(
        "set -e; cd {}; W={k}/week; G={k}/good; {script}",
        text(&dir),
        k = text(&kept)
    );
    witness("sh", &["-c", &script]).map(drop)
}

fn keep(ctx: &Ctx, name: &str) -> Result<()> {
    let to = ctx.mkdir(&format!("kept/{name}"))?;
    fs::remove_dir_all(&to)?;
    fs::create_dir(&to)?;
    script(ctx, "tank", &format!("cp -a catalogue.db* {}", text(&to)))
}

/// Puts the latest catalogue back.
fn put_back(ctx: &Ctx) -> Result<()> {
    script(ctx, "tank", "rm -rf catalogue.db*; cp -a $G/* .")
}

/// What must not change when something is refused.
fn sums(ctx: &Ctx) -> Result<String> {
    let dir = ctx.root.join("tank");
    witness(
        "sha256sum",
        &[text(&dir.join("metadata.img")), text(&dir.join("data.img"))],
    )
}

/// A container with something in it, which is unmounted.
pub(super) fn container(ctx: &Ctx, name: &str) -> Result<()> {
    let dir = mounted(ctx, name, "512M")?;
    fs::write(dir.join("file"), CONTENT)?;
    ctx.ok(&["container", "umount", name]).map(drop)
}

pub(super) fn is_whole(ctx: &Ctx, name: &str) -> Result<()> {
    let dir = ctx.mkdir(name)?;
    ctx.ok(&["container", "mount", name, text(&dir)])?;
    let found = fs::read(dir.join("file"))?;
    ctx.ok(&["container", "umount", name])?;
    ensure!(found == CONTENT, "{name} lost what it held");
    Ok(())
}

/// A pool whose catalogue was copied once, and which went on since: `new` was made and `gone` removed.
fn pool_that_went_on(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    container(ctx, "old")?;
    container(ctx, "gone")?;
    keep(ctx, "week")?;
    container(ctx, "new")?;
    ctx.ok(&["container", "rm", "gone"]).map(drop)
}

/// Runs what must fail with exit code 8, with these words, and a hint that says what to do.
fn refused(ctx: &Ctx, args: &[&str], says: &str) -> Result<()> {
    let quiet: Vec<_> = ["-q"].into_iter().chain(args.iter().copied()).collect();
    let output = ctx.cli(&quiet)?;
    ensure!(
        output.code == 8
            && output.stderr.contains(says)
            && output.stderr.contains("\nhint: nothing was changed; put"),
        "{args:?} (wanted {says:?}): {output:?}"
    );
    Ok(())
}

/// How a catalogue is damaged, and what `pool open` says then.
const DAMAGES: &[(&str, &str)] = &[
    ("rm catalogue.db", "is gone"),
    ("rm catalogue.db*", "is gone"),
    ("rm catalogue.db*; mkdir catalogue.db", "not a file"),
    (": > catalogue.db", "no catalogue"),
    (
        "truncate -s 2048 catalogue.db; rm catalogue.db-*",
        "damaged",
    ),
    (
        "truncate -s $(($(stat -c %s catalogue.db) / 8192 * 4096)) catalogue.db; rm catalogue.db-*",
        "damaged",
    ),
    // The log has whole pages for some of these.
    (
        "truncate -s $(($(stat -c %s catalogue.db) / 8192 * 4096)) catalogue.db",
        "damaged",
    ),
    (
        "dd if=/dev/urandom of=catalogue.db bs=4096 seek=1 count=4 conv=notrunc; rm catalogue.db-*",
        "damaged",
    ),
    (
        "dd if=/dev/urandom of=catalogue.db bs=100 count=1 conv=notrunc; rm catalogue.db-*",
        "damaged",
    ),
    ("cp /etc/passwd catalogue.db; rm catalogue.db-*", "damaged"),
    ("rm catalogue.db*; cp $W/* .", "older than the pool"),
    (
        "rm catalogue.db*; cp $W/catalogue.db .",
        "older than the pool",
    ),
];

fn closed(ctx: &Ctx) -> Result<()> {
    pool_that_went_on(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    keep(ctx, "good")?;
    let before = sums(ctx)?;
    for (damage, says) in DAMAGES {
        script(ctx, "tank", damage)?;
        let told = |what: &str| format!("{damage}: {what}");
        refused(ctx, &["pool", "open", "tank"], says).with_context(|| told("open"))?;
        // What is only older tells itself by the pool, at which a list does not look.
        if !says.contains("older") {
            refused(ctx, &["container", "list"], "").with_context(|| told("list"))?;
            refused(ctx, &["pool", "destroy", "tank"], "").with_context(|| told("destroy"))?;
        }
        let checked = ctx.cli(&["check", "tank"])?;
        ensure!(checked.code == 8, "{damage}: check: {checked:?}");
        let cleared = ctx.cli(&["gc"])?;
        ensure!(cleared.code == 8, "{damage}: gc: {cleared:?}");
        ensure!(
            !witness("dmsetup", &["ls"])?.contains("dmthin-"),
            "{damage}: a refused opening left a device"
        );
        put_back(ctx)?;
    }
    ensure!(sums(ctx)? == before, "what was refused wrote");
    // Without its log the catalogue of a closed pool is whole.
    script(ctx, "tank", "rm catalogue.db-*")?;
    ctx.ok(&["pool", "open", "tank"])?;
    for name in ["old", "new"] {
        is_whole(ctx, name)?;
    }
    ctx.ok(&["check"])?;
    // The pool was opened since: any older one tells itself by the transaction id.
    ctx.ok(&["pool", "close", "tank"])?;
    let before = sums(ctx)?;
    keep(ctx, "late")?;
    put_back(ctx)?;
    refused(ctx, &["pool", "open", "tank"], "transaction")?;
    script(ctx, "tank", "rm catalogue.db*; cp $W/* .")?;
    refused(ctx, &["pool", "open", "tank"], "transaction")?;
    ensure!(sums(ctx)? == before, "what was refused wrote");
    script(ctx, "tank", "rm catalogue.db*; cp -a $G/../late/* .")?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "new")
}

/// The catalogue goes, or goes back, under a pool that is in use.
fn open(ctx: &Ctx) -> Result<()> {
    pool_that_went_on(ctx)?;
    let image = super::build::Image::new(
        "more:1",
        vec![super::build::Layer::new().file("more", b"more\n").bytes()],
    )
    .write(&ctx.dir.join("more.tar"))?;
    keep(ctx, "good")?;
    let ids = thin_ids(ctx, "tank")?;
    for (damage, says) in [
        ("rm catalogue.db*", "is gone"),
        (": > catalogue.db", "no catalogue"),
        (
            "dd if=/dev/urandom of=catalogue.db bs=4096 count=9 conv=notrunc; rm catalogue.db-*",
            "damaged",
        ),
        ("rm catalogue.db*; cp $W/* .", "older than the pool"),
        (
            "rm catalogue.db*; cp $W/catalogue.db .",
            "older than the pool",
        ),
        ("rm catalogue.db-*", "older than the pool"),
    ] {
        script(ctx, "tank", damage)?;
        let told = |what: &str| format!("{damage}: {what}");
        let create = ["container", "create", "demo:1", "--pool", "tank"];
        if says.contains("older") {
            // The id that it gives out is that of `new`, which undoing must not touch.
            refused(ctx, &["image", "import", text(&image)], says)
                .with_context(|| told("import"))?;
            refused(
                ctx,
                &["pool", "ballast", "make", "tank", "--size", "1M"],
                says,
            )
            .with_context(|| told("ballast"))?;
            script(ctx, "tank", "rm catalogue.db*; cp $W/* .")?;
            refused(ctx, &create, says).with_context(|| told("create"))?;
            script(ctx, "tank", "rm catalogue.db*; cp $W/* .")?;
        } else {
            refused(ctx, &create, says).with_context(|| told("create"))?;
            refused(ctx, &["pool", "status", "tank"], says).with_context(|| told("status"))?;
            refused(ctx, &["pool", "close", "tank"], says).with_context(|| told("close"))?;
            refused(ctx, &["pool", "destroy", "tank"], says).with_context(|| told("destroy"))?;
        }
        for args in [["check", "tank"], ["gc", "tank"]] {
            let output = ctx.cli(&args)?;
            ensure!(output.code == 8, "{damage}: {args:?}: {output:?}");
        }
        put_back(ctx)?;
        ensure!(thin_ids(ctx, "tank")? == ids, "{damage}: a volume went");
        is_whole(ctx, "new").with_context(|| told("new"))?;
    }
    ctx.ok(&["check"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "more"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "old")
}

/// Of a pool that was just made nothing but its log may tell that it is whole.
fn young(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "256M"])?;
    keep(ctx, "good")?;
    for again in [false, true] {
        script(ctx, "tank", "rm catalogue.db-*")?;
        if again {
            refused(ctx, &["pool", "open", "tank"], "older than the pool")?;
        } else {
            let output = ctx.cli(&["check", "tank"])?;
            ensure!(output.code == 8, "{output:?}");
            let listed = ctx.json(&["pool", "status", "tank"])?;
            ensure!(listed["pool"]["state"] == "open", "{listed}");
        }
        put_back(ctx)?;
        ctx.ok(&["pool", "close", "tank"])?;
        // Of now, with all of it in the log still.
        script(ctx, "tank", "rm catalogue.db*; cp -a $G/* .")?;
    }
    ctx.ok(&["pool", "open", "tank"])?;
    container(ctx, "web")?;
    is_whole(ctx, "web")
}

/// Where nothing of the pool but its catalogue is in its directory.
fn beside_devices(ctx: &Ctx) -> Result<()> {
    let (_, data) = block_device(ctx, "data", 256)?;
    let (_, metadata) = block_device(ctx, "metadata", 16)?;
    make(ctx, &["--data", &data, "--metadata", &metadata])?;
    container(ctx, "web")?;
    keep(ctx, "good")?;
    script(ctx, "tank", "rm catalogue.db*")?;
    refused(ctx, &["pool", "destroy", "tank"], "is gone")?;
    ensure!(witness("dmsetup", &["ls"])?.contains("dmthin-tank-pool"));
    put_back(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    keep(ctx, "good")?;
    script(ctx, "tank", "rm catalogue.db")?;
    refused(ctx, &["pool", "destroy", "tank"], "is gone")?;
    put_back(ctx)?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "web")?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    for node in [data, metadata] {
        super::disks::detach(&node)?;
    }
    Ok(())
}

/// Another pool's catalogue, of this root under its name, and of another root under ours.
fn another_pools(ctx: &Ctx) -> Result<()> {
    let other = ctx.mkdir("other-root")?;
    let in_other = |args: &[&str]| {
        let all: Vec<_> = ["--root", text(&other)]
            .iter()
            .chain(args)
            .copied()
            .collect();
        witness("pool-cli", &all)
    };
    let image = super::build::small_image(&ctx.dir, "demo:1")?;
    in_other(&[
        "pool",
        "create",
        "tank",
        "--base-size",
        "512M",
        "--size",
        "256M",
    ])?;
    in_other(&["image", "import", text(&image)])?;
    for name in ["a", "b", "c"] {
        in_other(&["container", "create", "demo:1", "--name", name])?;
    }
    in_other(&["pool", "close", "tank"])?;
    make(ctx, &["--size", "256M"])?;
    container(ctx, "web")?;
    ctx.ok(&["pool", "close", "tank"])?;
    keep(ctx, "good")?;
    ctx.ok(&[
        "pool",
        "create",
        "two",
        "--base-size",
        "512M",
        "--size",
        "256M",
    ])?;
    ctx.ok(&["pool", "close", "two"])?;
    let before = sums(ctx)?;
    script(ctx, "tank", "rm catalogue.db*; cp ../two/catalogue.db* .")?;
    for verb in ["open", "status", "destroy", "repair"] {
        refused(ctx, &["pool", verb, "tank"], "that of pool two")?;
    }
    let copy = format!("rm catalogue.db*; cp {}/tank/catalogue.db* .", text(&other));
    script(ctx, "tank", &copy)?;
    refused(ctx, &["pool", "open", "tank"], "another pool of this name")?;
    ensure!(sums(ctx)? == before, "what was refused wrote");
    put_back(ctx)?;
    ctx.ok(&["pool", "destroy", "two"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "web")?;
    ctx.ok(&["pool", "close", "tank"])?;
    in_other(&["pool", "destroy", "tank"]).map(drop)
}

/// Whether it said that there is no room, and what to do.
fn no_room(output: &Output) -> bool {
    output.code == 6
        && output
            .stderr
            .contains("hint: make room on the host's file system")
}

/// The pool's own directory on a file system of its own, which fills up.
fn full(ctx: &Ctx) -> Result<()> {
    fs::create_dir_all(&ctx.root)?;
    witness(
        "mount",
        &["-t", "tmpfs", "-o", "size=8m", "state", text(&ctx.root)],
    )?;
    let result = fill_state(ctx);
    if result.is_err() {
        let _ = fs::remove_file(filler(ctx));
        ctx.cli(&["pool", "destroy", "tank"])?;
        witness("umount", &["-l", text(&ctx.root)])?;
    }
    result
}

fn filler(ctx: &Ctx) -> PathBuf {
    ctx.root.join("filler")
}

fn fill_up(path: &Path) -> Result<()> {
    let script = format!("cat /dev/zero > {}; true", text(path));
    witness("sh", &["-c", &script]).map(drop)
}

fn fill_state(ctx: &Ctx) -> Result<()> {
    let (_, data) = block_device(ctx, "data", 512)?;
    let (_, metadata) = block_device(ctx, "metadata", 16)?;
    make(ctx, &["--data", &data, "--metadata", &metadata])?;
    container(ctx, "old")?;
    for n in 0..4_u32 {
        ctx.ok(&[
            "container",
            "create",
            "demo:1",
            "--name",
            &format!("spare{n}"),
        ])?;
    }
    let more = super::build::Image::new(
        "more:1",
        vec![super::build::Layer::new().file("more", b"more\n").bytes()],
    )
    .write(&ctx.dir.join("more.tar"))?;
    fill_up(&filler(ctx))?;
    // Nothing new is made, and nothing is left of the try.
    let ids = thin_ids_of(&metadata)?;
    for args in [
        &["container", "create", "demo:1"][..],
        &["image", "import", text(&more)],
        &["pool", "ballast", "make", "tank", "--size", "1M"],
    ] {
        let output = ctx.cli(args)?;
        ensure!(no_room(&output), "{args:?}: {output:?}");
    }
    ensure!(thin_ids_of(&metadata)? == ids, "something was made");
    // What is there goes on, and what gives room back works.
    ctx.ok(&["container", "grow", "old", "600M"])?;
    is_whole(ctx, "old")?;
    ctx.ok(&["container", "trim", "old"])?;
    for n in 0..4_u32 {
        ctx.ok(&["container", "rm", &format!("spare{n}")])?;
    }
    ctx.ok(&["pool", "grow", "tank"])?;
    ctx.ok(&["pool", "status", "tank"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    // Without the room that was kept there is none for the opening's intent.
    let log = ctx.root.join("tank/catalogue.db-wal");
    fs::remove_file(&log)?;
    fill_up(&filler(ctx))?;
    let output = ctx.cli(&["pool", "open", "tank"])?;
    ensure!(
        output.code == 6 && output.stderr.contains("hint: make room"),
        "{output:?}"
    );
    ensure!(
        !witness("dmsetup", &["ls"])?.contains("dmthin-"),
        "a refused opening left a device"
    );
    fs::remove_file(filler(ctx))?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["check"])?;
    let left = thin_ids_of(&metadata)?.split_whitespace().count();
    ensure!(
        left + 4 == ids.split_whitespace().count(),
        "{ids} and then {left}"
    );
    is_whole(ctx, "old")?;
    ctx.ok(&["image", "import", text(&more)])?;
    ctx.ok(&["container", "create", "more:1"])?;
    ctx.ok(&["check"])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    for node in [data, metadata] {
        super::disks::detach(&node)?;
    }
    witness("umount", &[text(&ctx.root)]).map(drop)
}

/// The ids in a pool whose metadata are on this device.
fn thin_ids_of(metadata: &str) -> Result<String> {
    let message = |text: &str| witness("dmsetup", &["message", "dmthin-tank-pool", "0", text]);
    message("reserve_metadata_snap")?;
    let listed = witness("thin_ls", &["-m", "--no-headers", "-o", "DEV", metadata]);
    message("release_metadata_snap")?;
    listed
}
