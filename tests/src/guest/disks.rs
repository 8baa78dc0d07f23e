//! Pools on whole disks, on lvm2's volumes and in thin-pools of others; what they may take, and what
//! they may promise.

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
    ("lvm_volumes_carry_a_pool_and_grow", on_lvm_volumes),
    ("existing_pool_of_lvm_is_shared_and_left_alone", in_lvm_pool),
    (
        "existing_pool_of_dmsetup_is_shared_and_left_alone",
        in_script_pool,
    ),
    (
        "existing_pool_that_is_another_is_refused",
        swapped_thin_pool,
    ),
    ("overcommit_is_allowed_and_can_be_refused", overcommit),
];

const LABEL_AT: u64 = 4096;
const METADATA_AT: &str = "68157440";

fn status(ctx: &Ctx) -> Result<Value> {
    Ok(ctx.json(&["pool", "status"])?["pool"].clone())
}

fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("{value} is no number"))
}

/// A container of a small image with a file in it, not mounted.
fn fill(ctx: &Ctx, name: &str) -> Result<()> {
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
fn is_whole(ctx: &Ctx, name: &str) -> Result<()> {
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", name, text(&dir)])?;
    let found = fs::read_to_string(dir.join("file"))?;
    ensure!(found == name, "{name} has {found:?}");
    ctx.ok(&["container", "umount", name])?;
    let device = ctx.json(&["container", "inspect", name])?["container"]["device"].clone();
    witness("e2fsck", &["-fn", device.as_str().context("no device")?]).map(drop)
}

/// `thin_check` of a closed pool's metadata, which lie on the disk so long from their place on.
fn check_disk(node: &str, mib: u64) -> Result<()> {
    let size = (mib << 20).to_string();
    let part = witness(
        "losetup",
        &[
            "-f",
            "--show",
            "-r",
            "-o",
            METADATA_AT,
            "--sizelimit",
            &size,
            node,
        ],
    )?;
    let checked = witness("thin_check", &[part.trim()]);
    witness("losetup", &["-d", part.trim()])?;
    checked.map(drop)
}

fn create(ctx: &Ctx, node: &str) -> Result<()> {
    let args = ["pool", "create", "tank", "--base-size", "256M", "--device"];
    ctx.ok(&[&args[..], &[node]].concat()).map(drop)
}

/// Takes away what the test made beside the pools.
fn detach(node: &str) -> Result<()> {
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
fn elsewhere(ctx: &Ctx) -> Ctx {
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
    ctx.fails(&["pool", "open", "tank"], 8, "transaction")?;
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
    // One more that the copy cannot know: its id lies in the pool, its name nowhere.
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

/// A volume group on a disk of the test's own.
fn volume_group(ctx: &Ctx, mib: u64) -> Result<String> {
    let (_, node) = block_device(ctx, "pv", mib)?;
    witness("pvcreate", &["-qy", &node])?;
    witness("vgcreate", &["-q", "vg", &node])?;
    Ok(node)
}

fn remove_group(node: &str) -> Result<()> {
    witness("vgck", &["vg"])?;
    witness("vgremove", &["-qfy", "vg"])?;
    witness("pvremove", &["-qy", node])?;
    detach(node)
}

fn on_lvm_volumes(ctx: &Ctx) -> Result<()> {
    let pv = volume_group(ctx, 2048)?;
    for (name, size) in [("data", "512M"), ("meta", "16M"), ("whole", "512M")] {
        witness("lvcreate", &["-qy", "-Wn", "-L", size, "-n", name, "vg"])?;
    }
    let pair = ["--data", "/dev/vg/data", "--metadata", "/dev/vg/meta"];
    for (on, volume, total) in [
        (&pair[..], "vg/data", 768_u64),
        (&["--device", "/dev/vg/whole"][..], "vg/whole", 575),
    ] {
        let args = ["pool", "create", "tank", "--base-size", "256M"];
        ctx.ok(&[&args[..], on].concat())?;
        fill(ctx, "web")?;
        witness("lvextend", &["-q", "-L", "+256M", volume])?;
        ctx.ok(&["pool", "grow"])?;
        let pool = status(ctx)?;
        ensure!(
            number(&pool["live"]["data"]["total"])? == total << 20,
            "{pool}"
        );
        ctx.ok(&["pool", "close", "tank"])?;
        match volume {
            "vg/data" => witness("thin_check", &["/dev/vg/meta"]).map(drop)?,
            _ => check_disk("/dev/vg/whole", 64)?,
        }
        ctx.ok(&["pool", "open", "tank"])?;
        is_whole(ctx, "web")?;
        ctx.ok(&["pool", "destroy", "tank"])?;
    }
    remove_group(&pv)
}

fn lvs(what: &str, volume: &str) -> Result<String> {
    let told = witness("lvs", &["--noheadings", "-o", what, volume])?;
    Ok(told.trim().to_owned())
}

fn in_lvm_pool(ctx: &Ctx) -> Result<()> {
    let pv = volume_group(ctx, 2048)?;
    witness(
        "lvcreate",
        &["-qy", "--type", "thin-pool", "-L", "1G", "-n", "tp", "vg"],
    )?;
    witness(
        "lvcreate",
        &["-qy", "-V", "1G", "-T", "vg/tp", "-n", "theirs"],
    )?;
    fs::write("/dev/vg/theirs", [0x7e; 1 << 20])?;
    let transaction = lvs("transaction_id", "vg/tp")?;
    let args = [
        "pool",
        "create",
        "tank",
        "--base-size",
        "256M",
        "--existing",
        "vg/tp",
    ];
    ctx.ok(&args)?;
    fill(ctx, "web")?;
    let id = ctx.json(&["container", "inspect", "web"])?["container"]["thin_id"].clone();
    ensure!(number(&id)? > 1 << 23, "{id}");
    ctx.fails(
        &["pool", "create", "two", "--existing", "/dev/vg/tp"],
        5,
        "in use by pool",
    )?;
    elsewhere(ctx).fails(
        &["pool", "create", "two", "--existing", "vg/tp"],
        5,
        "in use by pool",
    )?;
    ctx.fails(&["pool", "grow", "--data", "+1G"], 2, "not ours")?;
    ctx.fails(&["pool", "set", "--overcommit", "no"], 2, "not ours")?;
    ctx.fails(
        &["pool", "create", "two", "--existing", "vg/theirs"],
        2,
        "no thin-pool",
    )?;
    // lvm2 goes on with it, open and closed.
    witness(
        "lvcreate",
        &["-qy", "-V", "1G", "-T", "vg/tp", "-n", "more"],
    )?;
    witness("lvremove", &["-qy", "vg/more"])?;
    witness("lvextend", &["-q", "-L", "+256M", "vg/tp"])?;
    ensure!(number(&status(ctx)?["live"]["data"]["total"])? == 1280 << 20);
    ctx.ok(&["pool", "close", "tank"])?;
    let ours = witness("dmsetup", &["info", "-c", "--noheadings", "-o", "uuid"])?;
    ensure!(!ours.contains("DMTHIN-"), "{ours}");
    ctx.fails(&["container", "create", "demo:1"], 1, "not open")?;
    witness("vgchange", &["-q", "-an", "vg"])?;
    ctx.fails(&["pool", "open", "tank"], 1, "not active")?;
    witness("thin_check", &[&*active_metadata()?])?;
    witness("lvchange", &["-an", "-y", "vg/tp_tmeta"])?;
    witness("vgchange", &["-q", "-ay", "vg"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "web")?;
    ctx.ok(&["container", "rm", "web"])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    let now = lvs("transaction_id", "vg/tp")?;
    let steps = now.parse::<u64>()?.saturating_sub(transaction.parse()?);
    // One of lvm2's for each volume it made or removed, none of ours.
    ensure!(steps == 2, "from {transaction} to {now}");
    // Of ours nothing is left in it, of theirs all is.
    witness("vgchange", &["-q", "-an", "vg"])?;
    let left = witness(
        "thin_ls",
        &["--no-headers", "-o", "DEV", &active_metadata()?],
    )?;
    ensure!(
        left.split_whitespace().collect::<Vec<_>>() == ["1"],
        "{left}"
    );
    witness("lvchange", &["-an", "-y", "vg/tp_tmeta"])?;
    witness("vgchange", &["-q", "-ay", "vg"])?;
    ensure!(fs::read("/dev/vg/theirs")?.starts_with(&[0x7e; 1 << 20]));
    remove_group(&pv)
}

/// The metadata of the thin-pool, which is not active, for a reader.
fn active_metadata() -> Result<String> {
    witness("lvchange", &["-ay", "-y", "vg/tp_tmeta"])?;
    Ok("/dev/mapper/vg-tp_tmeta".to_owned())
}

/// The two devices of a thin-pool as a script makes it, and the pool on them, without a uuid.
fn script_pool(ctx: &Ctx) -> Result<(String, String)> {
    let (_, data) = block_device(ctx, "sdata", 1024)?;
    let (_, metadata) = block_device(ctx, "smeta", 16)?;
    script_table(&data, &metadata)?;
    Ok((data, metadata))
}

fn script_table(data: &str, metadata: &str) -> Result<()> {
    let table = format!("0 2097152 thin-pool {metadata} {data} 256 0");
    witness("dmsetup", &["create", "script", "--table", &table]).map(drop)
}

fn in_script_pool(ctx: &Ctx) -> Result<()> {
    let (data, metadata) = script_pool(ctx)?;
    let message = |text: &str| witness("dmsetup", &["message", "script", "0", text]).map(drop);
    message("create_thin 0")?;
    // Somebody is where we begin, too.
    message("create_thin 8388608")?;
    let args = [
        "pool",
        "create",
        "tank",
        "--base-size",
        "256M",
        "--existing",
        "script",
    ];
    ctx.ok(&args)?;
    let pool = status(ctx)?;
    // In sectors: as the script made it.
    ensure!(pool["block_size"] == 256, "{pool}");
    fill(ctx, "web")?;
    ctx.ok(&["pool", "close", "tank"])?;
    witness("dmsetup", &["remove", "script"])?;
    witness("thin_check", &[&*metadata])?;
    ctx.fails(&["pool", "open", "tank"], 1, "not active")?;
    script_table(&data, &metadata)?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx, "web")?;
    ctx.fails(
        &["pool", "create", "two", "--existing", "dmthin-tank-pool"],
        5,
        "in use by",
    )?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    let told = witness("dmsetup", &["status", "script"])?;
    ensure!(
        told.contains("thin-pool 0 "),
        "its transaction id was changed: {told}"
    );
    witness("dmsetup", &["remove", "script"])?;
    let left = witness("thin_ls", &["--no-headers", "-o", "DEV", &metadata])?;
    ensure!(
        left.split_whitespace().collect::<Vec<_>>() == ["0", "8388608"],
        "{left}"
    );
    detach(&data)?;
    detach(&metadata)
}

/// Another thin-pool goes by the name of the one that the pool was made in.
fn swapped_thin_pool(ctx: &Ctx) -> Result<()> {
    let (data, metadata) = script_pool(ctx)?;
    let args = [
        "pool",
        "create",
        "tank",
        "--base-size",
        "256M",
        "--existing",
        "script",
    ];
    ctx.ok(&args)?;
    ctx.ok(&["pool", "close", "tank"])?;
    witness("dmsetup", &["remove", "script"])?;
    let (_, other) = block_device(ctx, "other", 16)?;
    script_table(&data, &other)?;
    ctx.fails(&["pool", "open", "tank"], 8, "another one")?;
    ctx.fails(&["pool", "destroy", "tank"], 8, "another one")?;
    // A volume of the same id is not taken for ours either.
    witness(
        "dmsetup",
        &["message", "script", "0", "create_thin 8388608"],
    )?;
    ctx.fails(&["pool", "open", "tank"], 8, "another one")?;
    let ours = witness("dmsetup", &["info", "-c", "--noheadings", "-o", "uuid"])?;
    ensure!(!ours.contains("DMTHIN-"), "{ours}");
    witness("dmsetup", &["remove", "script"])?;
    script_table(&data, &metadata)?;
    ctx.ok(&["pool", "open", "tank"])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    witness("dmsetup", &["remove", "script"])?;
    for node in [&data, &metadata, &other] {
        detach(node)?;
    }
    Ok(())
}

fn overcommit(ctx: &Ctx) -> Result<()> {
    ctx.ok(&[
        "pool",
        "create",
        "tank",
        "--size",
        "1G",
        "--base-size",
        "256M",
    ])?;
    fill(ctx, "web")?;
    // By default anything may be promised.
    let large = [
        "container",
        "create",
        "demo:1",
        "--name",
        "large",
        "--size",
        "1T",
    ];
    ctx.ok(&large)?;
    ctx.fails(&["pool", "set", "--overcommit", "no"], 6, "of 1 GiB")?;
    ensure!(status(ctx)?["overcommit"] == true);
    ctx.ok(&["container", "rm", "large"])?;
    let told = ctx.ok(&["pool", "set", "tank", "--overcommit", "no"])?;
    ensure!(told == "tank\t10%\t10%\tno\n", "{told}");
    let promised = status(ctx)?["promised"].clone();
    ensure!(
        promised["writable"] == 256 << 20 && promised["total"] == 1 << 30,
        "{promised}"
    );
    // What the images hold is at the most what is in use.
    let used = status(ctx)?["live"]["data"]["used"].clone();
    ensure!(
        number(&promised["sealed"])? <= number(&used)?,
        "{promised} of {used}"
    );
    ctx.fails(&large, 6, "of 1 GiB")?;
    ctx.ok(&[
        "container",
        "create",
        "demo:1",
        "--name",
        "db",
        "--size",
        "512M",
    ])?;
    ctx.fails(
        &["container", "create", "demo:1", "--name", "cache"],
        6,
        "pool grow tank",
    )?;
    ctx.fails(&["container", "inspect", "cache"], 3, "cache")?;
    ctx.fails(&["container", "grow", "db", "+256M"], 6, "promises no more")?;
    let db = ctx.json(&["container", "inspect", "db"])?;
    ensure!(db["container"]["growing_to"].is_null(), "{db}");
    ctx.fails(&["base", "grow", "512M"], 6, "promises no more")?;
    // Every container is filled to the last byte, all at once, and no writer waits for room.
    ctx.ok(&["pool", "set", "--min-free-data", "0"])?;
    for name in ["web", "db"] {
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        witness(
            "dd",
            &[
                "if=/dev/zero",
                &format!("of={node}"),
                "bs=1M",
                "conv=fsync",
                "status=none",
            ],
        )
        .err()
        .context("dd went on past the end")?;
    }
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    ctx.ok(&["pool", "grow", "--data", "+512M"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "cache"])?;
    ctx.ok(&["pool", "set", "--overcommit", "yes"])?;
    ctx.ok(&large)?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    let small = [
        "pool",
        "create",
        "tank",
        "--size",
        "1G",
        "--base-size",
        "2G",
        "--no-overcommit",
    ];
    ctx.fails(&small, 6, "of 1 GiB")?;
    ensure!(!ctx.root.join("tank").exists());
    Ok(())
}
