//! Pools on whole disks: what they take, how they grow, and how they move to another host.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build::small_image;
use super::harness::{Ctx, Test, block_device, eventually, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("disk_pool_lives_on_one_whole_disk", whole_disk),
    ("disk_pool_takes_what_the_disk_has_grown_by", grown_disk),
    ("disk_refuses_what_it_holds_unless_forced", signatures),
    ("disk_of_another_pool_is_refused", swapped_disk),
    ("disk_moves_to_another_host", moved),
    ("disk_pulled_without_a_close_moves_too", pulled),
    ("disk_damaged_in_one_copy_opens", damaged_label),
];

const LABEL_AT: u64 = 4096;
const METADATA_AT: &str = "68157440";

pub(super) fn status(ctx: &Ctx) -> Result<Value> {
    Ok(ctx.json(&["pool", "status"])?["pool"].clone())
}

pub(super) fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("{value} is no number"))
}

/// A container of a small image with a file in it, not mounted.
pub(super) fn fill(ctx: &Ctx, name: &str) -> Result<()> {
    if ctx.json(&["image", "list"])?["images"] == Value::Array(Vec::new()) {
        let image = small_image(&ctx.dir, "demo:1")?;
        ctx.ok(&["image", "import", text(&image)])?;
    }
    ctx.ok(&["container", "create", "demo:1", "--name", name])?;
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", name, text(&dir)])?;
    fs::write(dir.join("file"), name)?;
    ctx.ok(&["container", "umount", name]).map(drop)
}

/// That the container has what [`fill`] wrote.
pub(super) fn is_whole(ctx: &Ctx, name: &str) -> Result<()> {
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", name, text(&dir)])?;
    let found = fs::read_to_string(dir.join("file"))?;
    ensure!(found == name, "{name} has {found:?}");
    ctx.ok(&["container", "umount", name])?;
    let device = ctx.json(&["container", "inspect", name])?["container"]["device"].clone();
    witness("e2fsck", &["-fn", device.as_str().context("no device")?]).map(drop)
}

/// A loop device on the metadata of a closed pool, which lie on the disk so long from their place on.
pub(super) fn metadata_part(node: &str, mib: u64, more: &[&str]) -> Result<String> {
    let size = (mib << 20).to_string();
    let args = ["-f", "--show", "-o", METADATA_AT, "--sizelimit", &size];
    let part = witness("losetup", &[&args[..], more, &[node]].concat())?;
    Ok(part.trim().to_owned())
}

/// `thin_check` of a closed pool's metadata.
pub(super) fn check_disk(node: &str, mib: u64) -> Result<()> {
    let part = metadata_part(node, mib, &["-r"])?;
    let checked = witness("thin_check", &[&part]);
    detach(&part)?;
    checked.map(drop)
}

fn create(ctx: &Ctx, node: &str) -> Result<()> {
    let args = ["pool", "create", "tank", "--base-size", "256M", "--device"];
    ctx.ok(&[&args[..], &[node]].concat()).map(drop)
}

/// Takes away what the test made beside the pools.
pub(super) fn detach(node: &str) -> Result<()> {
    witness("losetup", &["-d", node]).map(drop)
}

fn whole_disk(ctx: &Ctx) -> Result<()> {
    let (_, node) = block_device(ctx, "disk0", 1024)?;
    create(ctx, &node)?;
    fill(ctx, "web")?;
    let tree = witness("dmsetup", &["table"])?;
    let number = witness("lsblk", &["-dno", "MAJ:MIN", &node])?;
    let number = number.trim();
    for line in [
        format!("dmthin-tank-tdata: 0 1701888 linear {number} 395264"),
        format!("dmthin-tank-tmeta: 0 131072 linear {number} 133120"),
    ] {
        ensure!(tree.contains(&line), "{line} is not in {tree}");
    }
    let devices = ctx.json(&["device", "list"])?;
    let kinds: Vec<_> = devices["devices"]
        .as_array()
        .context("no devices")?
        .iter()
        .map(|device| (device["name"].as_str(), device["kind"].as_str()))
        .collect();
    ensure!(
        kinds.contains(&(Some("dmthin-tank-tdata"), Some("data")))
            && kinds.contains(&(Some("dmthin-tank-tmeta"), Some("metadata"))),
        "{kinds:?}"
    );
    ctx.fails(
        &["pool", "create", "two", "--device", &node, "--force"],
        5,
        "in use",
    )?;
    for _ in 0..2 {
        ctx.ok(&["pool", "close", "tank"])?;
        ensure!(witness("dmsetup", &["ls"])?.contains("No devices found"));
        check_disk(&node, 64)?;
        ctx.ok(&["pool", "open", "tank"])?;
        is_whole(ctx, "web")?;
    }
    ctx.ok(&["pool", "destroy", "tank"])?;
    ctx.fails(&["pool", "open", "--device", &node], 3, "no label")?;
    // Nothing is left that would be in the way of the next.
    create(ctx, &node)?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(&node)
}

fn grown_disk(ctx: &Ctx) -> Result<()> {
    let (path, node) = block_device(ctx, "disk0", 512)?;
    create(ctx, &node)?;
    fill(ctx, "web")?;
    let metadata = |pool: &Value| number(&pool["live"]["metadata"]["total"]);
    let data = |pool: &Value| number(&pool["live"]["data"]["total"]);
    ensure!(data(&status(ctx)?)? == 319 << 20);
    File::options()
        .write(true)
        .open(&path)?
        .set_len(1024 << 20)?;
    witness("losetup", &["-c", &node])?;
    ctx.ok(&["pool", "grow"])?;
    let pool = status(ctx)?;
    ensure!(
        data(&pool)? == 831 << 20 && metadata(&pool)? == 64 << 20,
        "{pool}"
    );
    // The metadata grow within what was kept for them, and no further.
    ctx.ok(&["pool", "grow", "--metadata", "128M"])?;
    ensure!(metadata(&status(ctx)?)? == 128 << 20);
    ctx.fails(&["pool", "grow", "--metadata", "+4M"], 2, "128 MiB")?;
    ctx.fails(&["pool", "grow", "--data", "1G"], 2, "831 MiB")?;
    ctx.ok(&["pool", "close", "tank"])?;
    check_disk(&node, 128)?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(data(&status(ctx)?)? == 831 << 20);
    is_whole(ctx, "web")?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(&node)
}

fn signatures(ctx: &Ctx) -> Result<()> {
    let (_, node) = block_device(ctx, "disk0", 512)?;
    let dry = ["pool", "create", "tank", "--dry-run", "--base-size", "256M"];
    let on = [&dry[..], &["--device", &node]].concat();
    let forced = [&on[..], &["--force"]].concat();
    for (program, args, what) in [
        ("mkfs.ext4", vec!["-q", "-F", &*node], "ext4"),
        ("mkfs.xfs", vec!["-q", "-f", &*node], "xfs"),
        ("mkswap", vec![&*node], "swap"),
        ("pvcreate", vec!["-y", &*node], "LVM"),
    ] {
        witness(program, &args)?;
        ctx.fails(&on, 5, what)?;
        ctx.ok(&forced)?;
        // A dry run changes nothing, forced or not.
        ctx.fails(&on, 5, what)?;
        create_forced(ctx, &node)?;
        ctx.fails(&["pool", "create", "two", "--device", &node], 5, "in use")?;
        ctx.ok(&["pool", "close", "tank"])?;
        let left = witness("wipefs", &["--noheadings", &node])?;
        ensure!(left.is_empty(), "after {what}: {left}");
        ctx.fails(
            &["pool", "create", "two", "--device", &node],
            5,
            "pool of dmthin",
        )?;
        ctx.ok(&["pool", "destroy", "tank"])?;
        ctx.ok(&on)?;
    }
    // What is in use is never taken: a mount, a mounted partition.
    witness("mkfs.ext4", &["-q", "-F", &node])?;
    let dir = ctx.mkdir("mnt")?;
    witness("mount", &[&*node, text(&dir)])?;
    ctx.fails(&forced, 5, "in use")?;
    witness("umount", &[text(&dir)])?;
    witness("wipefs", &["-aq", &node])?;
    witness("losetup", &["-d", &node])?;
    let path = ctx.dir.join("disk0");
    partition(&path)?;
    let node = witness("losetup", &["-fP", "--show", text(&path)])?;
    let node = node.trim();
    let part = format!("{node}p1");
    ensure!(eventually(|| Ok(Path::new(&part).exists()))?, "{part}");
    witness("mkfs.ext4", &["-q", "-F", &part])?;
    witness("mount", &[&*part, text(&dir)])?;
    let forced = [&dry[..], &["--device", node, "--force"]].concat();
    ctx.fails(&forced, 5, "in use")?;
    witness("umount", &[text(&dir)])?;
    ctx.fails(
        &["pool", "create", "tank", "--device", node],
        5,
        "partition table",
    )?;
    ctx.ok(&forced)?;
    detach(node)
}

/// A PC partition table with one partition, of 64 MiB from 1 MiB on.
fn partition(path: &Path) -> Result<()> {
    let mut entry = [0; 16];
    for (at, bytes) in [
        (4, [0x83, 0, 0, 0]),
        (8, 2048_u32.to_le_bytes()),
        (12, 131_072_u32.to_le_bytes()),
    ] {
        entry
            .iter_mut()
            .skip(at)
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
    }
    let disk = File::options().write(true).open(path)?;
    disk.write_all_at(&entry, 446)?;
    disk.write_all_at(&[0x55, 0xaa], 510).map_err(Into::into)
}

fn create_forced(ctx: &Ctx, node: &str) -> Result<()> {
    let args = ["pool", "create", "tank", "--base-size", "256M", "--force"];
    ctx.ok(&[&args[..], &["--device", node]].concat()).map(drop)
}

fn swapped_disk(ctx: &Ctx) -> Result<()> {
    let (path, node) = block_device(ctx, "disk0", 512)?;
    let (other_path, other) = block_device(ctx, "disk1", 512)?;
    create(ctx, &node)?;
    ctx.ok(&[
        "pool",
        "create",
        "two",
        "--base-size",
        "256M",
        "--device",
        &other,
    ])?;
    for name in ["tank", "two"] {
        ctx.ok(&["pool", "close", name])?;
    }
    // The disks come back under each other's names.
    detach(&node)?;
    detach(&other)?;
    witness("losetup", &[&*node, text(&other_path)])?;
    witness("losetup", &[&*other, text(&path)])?;
    ctx.fails(&["pool", "open", "tank"], 8, "label of pool two")?;
    ensure!(witness("dmsetup", &["ls"])?.contains("No devices found"));
    // By their labels both are found, and are known by their new places.
    for disk in [&node, &other] {
        ctx.ok(&["pool", "open", "--device", disk])?;
    }
    for name in ["tank", "two"] {
        ctx.ok(&["pool", "close", name])?;
        ctx.ok(&["pool", "open", name])?;
        ctx.ok(&["pool", "destroy", name])?;
    }
    detach(&node)?;
    detach(&other)
}

/// The same machine with another root: what another host sees of the disk.
pub(super) fn elsewhere(ctx: &Ctx) -> Ctx {
    Ctx {
        root: ctx.dir.join("elsewhere"),
        dir: ctx.dir.clone(),
        shared: ctx.shared.clone(),
        images: ctx.images.clone(),
    }
}

fn moved(ctx: &Ctx) -> Result<()> {
    let (_, node) = block_device(ctx, "disk0", 1024)?;
    create(ctx, &node)?;
    fill(ctx, "web")?;
    let there = elsewhere(ctx);
    // Open here: nobody else may have it.
    there.fails(&["pool", "open", "--device", &node], 5, "in use")?;
    ctx.ok(&["pool", "close", "tank"])?;
    let opened = there.json(&["pool", "open", "--device", &node])?;
    ensure!(opened["adopted"]["closed"] == true, "{opened}");
    ensure!(opened["pool"]["name"] == "tank" && opened["pool"]["foreign_ids"] == false);
    is_whole(&there, "web")?;
    fill(&there, "more")?;
    there.ok(&["container", "rm", "web"])?;
    there.ok(&["pool", "close", "tank"])?;
    check_disk(&node, 64)?;
    // It was changed since it was here: what is known of it here is of another time.
    let moved = format!(
        "move {} away, out of its parent directory, then pool-cli pool open --device {node}\n",
        text(&ctx.root.join("tank"))
    );
    ctx.fails(&["pool", "open", "tank"], 8, &moved)?;
    ctx.fails(&["pool", "open", "--device", &node], 8, "transaction")?;
    fs::remove_dir_all(ctx.root.join("tank"))?;
    // Back, under another name.
    ctx.ok(&["pool", "open", "back", "--device", &node])?;
    is_whole(ctx, "more")?;
    ctx.fails(&["container", "inspect", "web"], 3, "web")?;
    ctx.ok(&["pool", "close", "back"])?;
    ctx.ok(&["pool", "open", "--device", &node])?;
    // A name that is another's is refused, and nothing is left of the try.
    let (_, other) = block_device(ctx, "disk1", 512)?;
    create(&there, &other)
        .err()
        .context("tank is known there")?;
    fs::remove_dir_all(there.root.join("tank"))?;
    create(&there, &other)?;
    ctx.ok(&["pool", "close", "back"])?;
    there.fails(&["pool", "open", "tank", "--device", &node], 4, "exists")?;
    there.ok(&["pool", "destroy", "tank"])?;
    ctx.ok(&["pool", "destroy", "back"])?;
    fs::remove_dir_all(&there.root)?;
    detach(&other)?;
    detach(&node)
}

/// The power goes here, and the disk goes there: all that a command reported is found.
fn pulled(ctx: &Ctx) -> Result<()> {
    let (path, node) = block_device(ctx, "disk0", 1024)?;
    create(ctx, &node)?;
    fill(ctx, "web")?;
    fill(ctx, "db")?;
    ctx.ok(&["container", "rm", "web"])?;
    // The disk as it is now, pulled from under the open pool.
    let copy = ctx.dir.join("pulled");
    witness("sync", &[])?;
    witness("cp", &["--sparse=always", text(&path), text(&copy)])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(&node)?;
    let node = witness("losetup", &["-f", "--show", text(&copy)])?;
    let node = node.trim();
    let there = elsewhere(ctx);
    let opened = there.json(&["pool", "open", "--device", node])?;
    ensure!(opened["adopted"]["closed"] == false, "{opened}");
    ensure!(opened["pool"]["foreign_ids"] == true, "{opened}");
    is_whole(&there, "db")?;
    there.fails(&["container", "inspect", "web"], 3, "web")?;
    // An id that somebody has already is passed over, and what has it stays.
    let pool = "dmthin-tank-pool";
    let next = there.json(&["container", "inspect", "db"])?["container"]["thin_id"].clone();
    let next = number(&next)?.saturating_add(1);
    witness(
        "dmsetup",
        &["message", pool, "0", &format!("create_thin {next}")],
    )?;
    fill(&there, "new")?;
    let id = there.json(&["container", "inspect", "new"])?["container"]["thin_id"].clone();
    ensure!(
        number(&id)? == next.saturating_add(1),
        "{id}, not {next} and 1"
    );
    is_whole(&there, "new")?;
    there.ok(&["container", "rm", "new"])?;
    // Still there: the message that makes it says that it exists.
    let again = run(
        "dmsetup",
        &["message", pool, "0", &format!("create_thin {next}")],
    )?;
    ensure!(again.code != 0, "volume {next} is gone");
    there.ok(&["pool", "close", "tank"])?;
    check_disk(node, 64)?;
    there.ok(&["pool", "destroy", "tank"])?;
    fs::remove_dir_all(&there.root)?;
    detach(node)
}

fn damaged_label(ctx: &Ctx) -> Result<()> {
    let (_, node) = block_device(ctx, "disk0", 512)?;
    create(ctx, &node)?;
    ctx.ok(&["pool", "close", "tank"])?;
    let damage = |at: u64| -> Result<()> {
        let disk = File::options().write(true).open(&node)?;
        disk.write_all_at(&[0x5a; 16], at)?;
        disk.sync_all().map_err(Into::into)
    };
    damage(LABEL_AT.saturating_add(64))?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    damage((512 << 10) + 64)?;
    ctx.fails(&["pool", "open", "tank"], 8, "label")?;
    ensure!(witness("dmsetup", &["ls"])?.contains("No devices found"));
    ctx.fails(&["pool", "destroy", "tank"], 8, "label")?;
    witness(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={node}"),
            "bs=1M",
            "count=1",
            "status=none",
        ],
    )?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(&node)
}
