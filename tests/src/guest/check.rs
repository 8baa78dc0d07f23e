//! `check` names what does not belong, `gc --dry-run` tells it, `gc` takes it away: each kind made by
//! hand, and the reader of the pool's metadata against `thin_ls`.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "the small numbers of a test"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmthin::ids::ThinId;
use dmthin::thinmeta::Metadata;
use serde_json::Value;

use super::build;
use super::harness::{Ctx, Test, eventually, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("check_reads_what_thin_ls_reads", reads_what_thin_ls_reads),
    (
        "check_reads_what_thin_delta_reads",
        reads_what_thin_delta_reads,
    ),
    ("check_and_gc_of_devices", devices),
    ("check_and_gc_of_thin_ids", thins),
    ("check_and_gc_of_rows", rows),
    ("check_tells_what_is_lost", tells_what_is_lost),
    ("check_and_gc_of_a_closed_pool", closed_pool),
];

const NODES: &str = "/dev/mapper";

/// A pool with an image of two layers and these containers.
pub(super) fn pool_with(ctx: &Ctx, containers: &[&str]) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    for name in containers {
        create(ctx, name)?;
    }
    Ok(())
}

fn create(ctx: &Ctx, name: &str) -> Result<()> {
    ctx.ok(&["container", "create", "demo:1", "--name", name])
        .map(drop)
}

/// Writes these blocks of 64 KiB to a container's device, durably.
pub(super) fn write_blocks(name: &str, blocks: impl IntoIterator<Item = u64>) -> Result<()> {
    let node = format!("{NODES}/dmthin-tank-ctr-{name}");
    let device = File::options().write(true).open(&node).context(node)?;
    for block in blocks {
        // The journal lies in the middle, at 1 GiB.
        device.write_all_at(&[7; 65536], (3 << 29) + block * 65536)?;
    }
    Ok(device.sync_all()?)
}

pub(super) fn dmsetup(args: &[&str]) -> Result<String> {
    witness("dmsetup", args)
}

/// Removes a device; without udevd its node would stay.
pub(super) fn remove_device(name: &str) -> Result<()> {
    dmsetup(&["remove", "--retry", name])?;
    match fs::remove_file(Path::new(NODES).join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) fn message(text: &str) -> Result<()> {
    dmsetup(&["message", "dmthin-tank-pool", "0", text]).map(drop)
}

/// What `check` finds, with its exit code.
pub(super) fn found(ctx: &Ctx, args: &[&str]) -> Result<(i32, Vec<Value>)> {
    let args: Vec<_> = ["--json"].iter().chain(args).copied().collect();
    let output = ctx.cli(&args)?;
    let value: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("{args:?}: {}{}", output.stdout, output.stderr))?;
    let list = match args.get(1) {
        Some(&"gc") => &value["gc"]["collected"],
        _ => &value["findings"],
    };
    Ok((output.code, list.as_array().context("no list")?.clone()))
}

/// The words under this key, sorted.
pub(super) fn words(items: &[Value], key: &str) -> Vec<String> {
    let mut words: Vec<String> = items
        .iter()
        .filter_map(|item| item[key].as_str().map(str::to_owned))
        .collect();
    words.sort();
    words
}

pub(super) fn clean(ctx: &Ctx) -> Result<()> {
    let (code, items) = found(ctx, &["check"])?;
    ensure!(code == 0 && items.is_empty(), "check: {code} {items:?}");
    Ok(())
}

/// `check` finds exactly these kinds, a dry run plans them and changes nothing, `gc` does them all.
fn found_and_collected(ctx: &Ctx, kinds: &[&str]) -> Result<()> {
    let mut kinds: Vec<_> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    kinds.sort();
    let (code, items) = found(ctx, &["check"])?;
    ensure!(
        code == 1 && words(&items, "kind") == kinds,
        "check: {code} {items:?}"
    );
    let (code, planned) = found(ctx, &["gc", "--dry-run"])?;
    let outcomes: BTreeSet<_> = words(&planned, "outcome").into_iter().collect();
    ensure!(
        code == 0 && words(&planned, "kind") == kinds && outcomes == ["planned".to_owned()].into(),
        "gc --dry-run: {code} {planned:?}"
    );
    let (_, again) = found(ctx, &["check"])?;
    ensure!(items == again, "a dry run changed something: {again:?}");
    let (code, done) = found(ctx, &["gc"])?;
    let outcomes: BTreeSet<_> = words(&done, "outcome").into_iter().collect();
    ensure!(
        code == 0 && words(&done, "kind") == kinds && outcomes == ["done".to_owned()].into(),
        "gc: {code} {done:?}"
    );
    clean(ctx)
}

/// A row of `thin_ls`, or of ours.
type Row = [u64; 3];

fn reads_what_thin_ls_reads(ctx: &Ctx) -> Result<()> {
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    pool_with(ctx, &names)?;
    for (n, name) in (0_u64..).zip(&names) {
        // Scattered, more in each, and some in the same places.
        write_blocks(name, (0..n * 3).map(|k| (k * 37 + n * n) % 3000))?;
    }
    clean(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    let rows = same_devices(&ctx.root.join("tank/metadata.img"))?;
    // With the base, two layers and the copy of the catalogue.
    ensure!(rows.len() == 34, "{} devices", rows.len());
    let exclusive: BTreeSet<u64> = rows.iter().map(|row| row[2]).collect();
    ensure!(exclusive.len() > 20, "too much alike: {rows:?}");
    ctx.ok(&["pool", "open", "tank"])?;
    clean(ctx)
}

fn read_closed(file: &Path) -> Result<Metadata<File>> {
    Metadata::of_closed(File::open(file)?)?.context("unformatted")
}

/// That `thin_ls` reads what we read of each device of a closed pool.
fn same_devices(file: &Path) -> Result<Vec<Row>> {
    let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS";
    let listed = witness("thin_ls", &["--no-headers", "-o", columns, text(file)])?;
    let mut theirs: Vec<Row> = Vec::new();
    for line in listed.lines() {
        let cells: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        theirs.push(cells?.try_into().ok().context("a row of three")?);
    }
    let mut metadata = read_closed(file)?;
    let mut ours: Vec<Row> = Vec::new();
    for device in metadata.devices()? {
        let alone = metadata.exclusive(&[device.id].into())?;
        let runs = metadata.runs(device.id)?.context("no runs")?;
        let mapped: u64 = runs.iter().map(|run| run.len.get()).sum();
        ensure!(mapped == device.mapped.get(), "{device:?} has {mapped}");
        ours.push([u64::from(device.id.get()), mapped, alone.get()]);
    }
    ensure!(ours == theirs, "ours {ours:?}, theirs {theirs:?}");
    Ok(ours)
}

/// That `thin_delta` finds the same blocks as we do to be otherwise in the second of two devices of a closed pool. Gives
/// how many.
fn same_changes(file: &Path, old: u64, new: u64) -> Result<usize> {
    let (from, to) = (old.to_string(), new.to_string());
    let told = witness(
        "thin_delta",
        &["--thin1", &from, "--thin2", &to, text(file)],
    )?;
    let mut theirs = BTreeSet::new();
    for line in told.lines().map(str::trim) {
        if line.starts_with("<different") || line.starts_with("<right_only") {
            let mut numbers = line.split('"').skip(1).step_by(2).map(str::parse::<u64>);
            let mut number = || numbers.next().context("a range has two numbers");
            let (begin, len) = (number()??, number()??);
            theirs.extend(begin..begin + len);
        }
    }
    let spans = read_closed(file)?.changed(ThinId::new(new)?, ThinId::new(old)?)?;
    let spans = spans.context("no such devices")?.into_iter();
    let ours = spans.flat_map(|span| span.begin.get()..span.begin.get() + span.len.get());
    let ours: BTreeSet<u64> = ours.collect();
    ensure!(
        ours == theirs,
        "{new} against {old}: ours {ours:?}, theirs {theirs:?}"
    );
    Ok(ours.len())
}

/// Of a pool with one snapshot, then with a hundred, with random writes between them.
fn reads_what_thin_delta_reads(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    let file = ctx.root.join("tank/metadata.img");
    let origin = ctx.json(&["container", "inspect", "web"])?["container"]["thin_id"]
        .as_u64()
        .context("no thin id")?;
    let mut random = 1_u64;
    let mut write = || {
        let blocks = (0..20).map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % 3000
        });
        write_blocks("web", blocks.collect::<Vec<_>>())
    };
    write()?;
    ctx.ok(&["container", "snapshot", "web", "first"])?;
    let first = ctx.json(&["container", "snapshots", "web"])?["snapshots"][0]["thin_id"]
        .as_u64()
        .context("no thin id")?;
    write()?;
    ctx.ok(&["pool", "close", "tank"])?;
    let rows = same_devices(&file)?;
    let changed = same_changes(&file, first, origin)?;
    ensure!((15..=20).contains(&changed), "{changed} blocks");
    ctx.ok(&["pool", "open", "tank"])?;
    // Not by us, which takes a process each and far longer; the ids are some that the catalogue never gets to.
    let id = |nr: u64| (1 << 23) + nr;
    for nr in 1..100 {
        let snapshot = format!("create_snap {} {origin}", id(nr));
        dmsetup(&["message", "dmthin-tank-pool", "0", &snapshot])?;
        write()?;
    }
    ctx.ok(&["pool", "close", "tank"])?;
    ensure!(same_devices(&file)?.len() == rows.len() + 99);
    for (old, new, least) in [
        (first, origin, 1000),
        (id(50), id(51), 15),
        // The other way only those count that the older one had.
        (id(51), id(50), 1),
        (id(2), id(90), 500),
        (first, id(1), 15),
    ] {
        let changed = same_changes(&file, old, new)?;
        ensure!(changed >= least, "{new} against {old}: {changed} blocks");
    }
    Ok(())
}

fn pool_uuid(ctx: &Ctx) -> Result<String> {
    let status = ctx.json(&["pool", "status", "tank"])?;
    Ok(status["pool"]["uuid"]
        .as_str()
        .context("no uuid")?
        .to_owned())
}

fn devices(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web", "db"])?;
    clean(ctx)?;
    let uuid = pool_uuid(ctx)?;
    let make = |name: &str, tail: &str, table: &[&str]| {
        let uuid = format!("DMTHIN-{tail}");
        let args: Vec<_> = ["create", name, "-u", &uuid]
            .iter()
            .chain(table)
            .copied()
            .collect();
        dmsetup(&args)
    };
    make(
        "dmthin-tank-layer-900",
        &format!("{uuid}-layer-900"),
        &["--notable"],
    )?;
    make(
        "dmthin-tank-layer-901",
        &format!("{uuid}-layer-901"),
        &["--table", "0 8 error"],
    )?;
    dmsetup(&["suspend", "dmthin-tank-ctr-web"])?;
    remove_device("dmthin-tank-ctr-db")?;
    let data = ctx.root.join("tank/data.img");
    witness("losetup", &["-f", text(&data)])?;
    let ghost = Path::new(NODES).join("dmthin-tank-ctr-ghost");
    witness("mknod", &[text(&ghost), "b", "253", "250"])?;
    symlink("../dm-nowhere", Path::new(NODES).join("dmthin-tank-link"))?;
    // A pool that has gone without its node.
    let gone = Path::new(NODES).join("dmthin-gone-pool");
    witness("mknod", &[text(&gone), "b", "253", "251"])?;
    found_and_collected(
        ctx,
        &[
            "husk",
            "stray-device",
            "suspended",
            "missing-device",
            "stray-loop",
            "stray-node",
            "stray-node",
            "stray-node",
        ],
    )?;
    let info = dmsetup(&[
        "info",
        "-c",
        "--noheadings",
        "-o",
        "suspended",
        "dmthin-tank-ctr-web",
    ])?;
    ensure!(info.trim() == "Active", "web is {info:?}");
    write_blocks("db", [0])?;
    ensure!(fs::symlink_metadata(&ghost).is_err() && fs::symlink_metadata(&gone).is_err());
    // A node that leads to another device is put right.
    let web = Path::new(NODES).join("dmthin-tank-ctr-web");
    fs::remove_file(&web)?;
    witness("mknod", &[text(&web), "b", "253", "250"])?;
    found_and_collected(ctx, &["stray-node"])?;
    write_blocks("web", [0])?;

    // What may be another's stays.
    make(
        "dmthin-other-pool",
        "00112233445566778899aabbccddeeff-pool",
        &["--table", "0 8 error"],
    )?;
    let (code, items) = found(ctx, &["gc"])?;
    ensure!(
        code == 1
            && words(&items, "kind") == ["device-of-no-pool"]
            && words(&items, "outcome") == ["kept"],
        "{code} {items:?}"
    );
    // A pool that was named has nothing to do with it.
    let (code, items) = found(ctx, &["check", "tank"])?;
    ensure!(code == 0 && items.is_empty(), "{code} {items:?}");
    remove_device("dmthin-other-pool")?;

    // One that cannot go does not stop the others.
    make(
        "dmthin-tank-layer-902",
        &format!("{uuid}-layer-902"),
        &["--table", "0 2048 linear /dev/vm/disk1 0"],
    )
    .or_else(|_| {
        make(
            "dmthin-tank-layer-902",
            &format!("{uuid}-layer-902"),
            &["--table", "0 2048 error"],
        )
    })?;
    dmsetup(&["mknodes", "dmthin-tank-layer-902"])?;
    let holder = File::open(Path::new(NODES).join("dmthin-tank-layer-902"))?;
    dmsetup(&["suspend", "dmthin-tank-ctr-web"])?;
    let (code, items) = found(ctx, &["gc"])?;
    let outcomes = words(&items, "outcome");
    ensure!(
        code == 5 && outcomes == ["done", "failed"],
        "{code} {items:?}"
    );
    drop(holder);
    found_and_collected(ctx, &["stray-device"])
}

/// Bytes of the pool in use, by the kernel's own count.
pub(super) fn used(ctx: &Ctx) -> Result<u64> {
    let status = ctx.json(&["pool", "status", "tank"])?;
    status["pool"]["live"]["data"]["used"]
        .as_u64()
        .context("no number")
}

/// Thin ids that were given out and are free again. One that was never given out shows an old catalogue.
pub(super) fn spent_ids(ctx: &Ctx, names: &[&str]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for name in names {
        create(ctx, name)?;
        let inspected = ctx.json(&["container", "inspect", name])?;
        ids.push(inspected["container"]["thin_id"].to_string());
        ctx.ok(&["container", "rm", name])?;
    }
    Ok(ids)
}

fn thins(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    let spent = spent_ids(ctx, &["a", "b", "c"])?;
    // A snapshot of web's that nobody wrote down, with 40 blocks of its own, and an empty one.
    let web = ctx.json(&["container", "inspect", "web"])?["container"]["thin_id"].to_string();
    write_blocks("web", 0..100)?;
    dmsetup(&["suspend", "dmthin-tank-ctr-web"])?;
    message(&format!("create_snap {} {web}", spent[0]))?;
    dmsetup(&["resume", "dmthin-tank-ctr-web"])?;
    write_blocks("web", 0..40)?;
    message(&format!("create_thin {}", spent[1]))?;
    let before = used(ctx)?;
    let planned = {
        let output = ctx.cli(&["--json", "gc", "--dry-run"])?;
        let value: Value = serde_json::from_str(&output.stdout)?;
        value["gc"]["bytes"].as_u64().context("no bytes")?
    };
    ensure!(planned == 40 * 65536, "{planned} bytes are promised");
    found_and_collected(ctx, &["unknown-thin", "unknown-thin"])?;
    let back = before.saturating_sub(used(ctx)?);
    ensure!(back == planned, "{planned} were promised, {back} came back");
    let ids = thin_ids(ctx, "tank")?;
    ensure!(ids.split_whitespace().count() == 4, "thin ids {ids:?}");

    // With a catalogue that is not of this time nothing is taken away.
    message(&format!("create_thin {}", spent[2]))?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    let status = ctx.json(&["pool", "status", "tank"])?;
    let id = status["pool"]["live"]["transaction_id"]
        .as_u64()
        .context("no transaction id")?;
    message(&format!("set_transaction_id {id} {}", id + 7))?;
    for command in ["check", "gc"] {
        let (code, items) = found(ctx, &[command])?;
        ensure!(
            code == 8
                && words(&items, "kind") == ["queued-removal", "unknown-thin", "unpaired"]
                && words(&items, "remedy") == ["keep"; 3],
            "{command}: {code} {items:?}"
        );
    }
    let ids = thin_ids(ctx, "tank")?;
    ensure!(ids.split_whitespace().count() == 5, "thin ids {ids:?}");
    message(&format!("set_transaction_id {} {id}", id + 7))?;
    found_and_collected(ctx, &["queued-removal", "unknown-thin"])
}

fn rows(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web", "db", "held"])?;
    write_blocks("web", 0..50)?;
    let before = used(ctx)?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    let output = ctx.cli(&["--json", "gc", "--dry-run"])?;
    let value: Value = serde_json::from_str(&output.stdout)?;
    let planned = value["gc"]["bytes"].as_u64().context("no bytes")?;
    ensure!(planned >= 50 * 65536, "{planned}");
    found_and_collected(ctx, &["queued-removal"])?;
    let back = before.saturating_sub(used(ctx)?);
    ensure!(back == planned, "{planned} were promised, {back} came back");

    // What is removed and mounted is named with its place, and kept.
    let dir = ctx.mkdir("held")?;
    ctx.ok(&["container", "mount", "held", text(&dir)])?;
    ctx.ok(&["container", "rm", "held"])?;
    let (code, items) = found(ctx, &["gc"])?;
    ensure!(
        code == 1
            && words(&items, "kind") == ["held-removal"]
            && words(&items, "outcome") == ["kept"]
            && words(&items, "text")[0].contains(text(&dir)),
        "{code} {items:?}"
    );
    witness("umount", &[text(&dir)])?;
    let settled = || -> Result<bool> { Ok(found(ctx, &["gc"])?.0 == 0) };
    ensure!(eventually(settled)?, "it stays held");
    clean(ctx)?;

    // Commands that were cut: each time all that is found can be settled, and what is kept is whole.
    let mut kinds = BTreeSet::new();
    for turn in 0..8_u64 {
        let name = format!("cut{turn}");
        let after = Duration::from_millis(turn * 4);
        ctx.cut(
            &["container", "create", "demo:1", "--name", &name],
            "tank",
            after,
        )?;
        let image = build::Image::new(
            &format!("cut:{turn}"),
            vec![
                build::Layer::new().file("a", &turn.to_le_bytes()).bytes(),
                build::Layer::new().file("b", &turn.to_le_bytes()).bytes(),
            ],
        )
        .write(&ctx.dir.join("cut.tar"))?;
        ctx.cut(&["image", "import", text(&image)], "tank", after * 8)?;
        let (_, items) = found(ctx, &["check"])?;
        kinds.extend(words(&items, "kind"));
        let (code, items) = found(ctx, &["gc"])?;
        ensure!(code == 0, "gc after a cut: {code} {items:?}");
        clean(ctx)?;
    }
    ensure!(
        kinds.contains("half-made"),
        "no cut left a row half made: {kinds:?}"
    );
    write_blocks("db", [0])
}

fn tells_what_is_lost(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web", "db"])?;
    let web = ctx.json(&["container", "inspect", "web"])?["container"]["thin_id"].to_string();
    remove_device("dmthin-tank-ctr-web")?;
    message(&format!("delete {web}"))?;
    for command in ["check", "gc"] {
        let (code, items) = found(ctx, &[command])?;
        ensure!(
            code == 8 && words(&items, "kind") == ["missing-thin"],
            "{command}: {code} {items:?}"
        );
    }
    let output = ctx.cli(&["check"])?;
    ensure!(output.stderr.contains("no cleaning can mend"), "{output:?}");
    // Who owns it says that it may go.
    ctx.ok(&["container", "rm", "web"])?;
    clean(ctx)
}

fn closed_pool(ctx: &Ctx) -> Result<()> {
    pool_with(ctx, &["web"])?;
    let spent = spent_ids(ctx, &["a"])?;
    message(&format!("create_thin {}", spent[0]))?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    let (code, items) = found(ctx, &["gc"])?;
    ensure!(
        code == 1
            && words(&items, "kind") == ["queued-removal", "unknown-thin"]
            && words(&items, "outcome") == ["kept", "kept"],
        "{code} {items:?}"
    );
    let data = ctx.root.join("tank/data.img");
    witness("losetup", &["-f", text(&data)])?;
    let (_, items) = found(ctx, &["gc"])?;
    ensure!(
        words(&items, "outcome") == ["done", "kept", "kept"],
        "{items:?}"
    );
    ctx.ok(&["pool", "open", "tank"])?;
    found_and_collected(ctx, &["unknown-thin"])
}
