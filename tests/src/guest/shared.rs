//! Pools on lvm2's volumes and in thin-pools of others.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::containers::{given_back, write_300_mb};
use super::disks::{check_disk, detach, elsewhere, fill, is_whole, number, status};
use super::harness::{Ctx, Test, block_device, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("lvm_volumes_carry_a_pool_and_grow", on_lvm_volumes),
    ("lvm_volumes_are_extended_where_allowed", extended),
    (
        "lvm_volumes_pass_discards_to_the_disk",
        discards_through_lvm,
    ),
    ("existing_pool_of_lvm_is_shared_and_left_alone", in_lvm_pool),
    (
        "existing_pool_of_dmsetup_is_shared_and_left_alone",
        in_script_pool,
    ),
    (
        "existing_pool_that_is_another_is_refused",
        swapped_thin_pool,
    ),
];

/// A volume group on a disk of the test's own.
pub(super) fn volume_group(ctx: &Ctx, mib: u64) -> Result<String> {
    // lvm2 is built to wait for udev, and to find its nodes made by it.
    if !Path::new("/run/udev/control").exists() {
        let settings = "activation { udev_sync = 0 udev_rules = 0 verify_udev_operations = 1 }\n";
        fs::create_dir_all("/etc/lvm")?;
        fs::write("/etc/lvm/lvmlocal.conf", settings)?;
    }
    let (_, node) = block_device(ctx, "pv", mib)?;
    witness("pvcreate", &["-qy", &node])?;
    witness("vgcreate", &["-q", "vg", &node])?;
    Ok(node)
}

pub(super) fn remove_group(node: &str) -> Result<()> {
    witness("vgck", &["vg"])?;
    witness("vgremove", &["-qfy", "vg"])?;
    witness("pvremove", &["-qy", node])?;
    detach(node)
}

fn create(ctx: &Ctx, on: &[&str]) -> Result<()> {
    let args = ["pool", "create", "tank", "--base-size", "256M"];
    ctx.ok(&[&args[..], on].concat()).map(drop)
}

fn no_device_of_ours() -> Result<()> {
    let uuids = witness("dmsetup", &["info", "-c", "--noheadings", "-o", "uuid"])?;
    ensure!(!uuids.contains("DMTHIN-"), "{uuids}");
    Ok(())
}

/// That these thin ids are in a pool that is not active, and no others.
fn left_in(metadata: &str, ids: &[&str]) -> Result<()> {
    let left = witness("thin_ls", &["--no-headers", "-o", "DEV", metadata])?;
    ensure!(left.split_whitespace().collect::<Vec<_>>() == ids, "{left}");
    Ok(())
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
        create(ctx, on)?;
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

/// `pool grow` makes LVM's volumes larger only at the user's word, and takes all that they have then.
fn extended(ctx: &Ctx) -> Result<()> {
    let pv = volume_group(ctx, 1024)?;
    for (name, size) in [("data", "256M"), ("meta", "16M")] {
        witness("lvcreate", &["-qy", "-Wn", "-L", size, "-n", name, "vg"])?;
    }
    let create = ["pool", "create", "tank", "--base-size", "256M"];
    let pair = ["--data", "/dev/vg/data", "--metadata", "/dev/vg/meta"];
    ctx.ok(&[&create[..], &pair].concat())?;
    let sizes = || -> Result<[u64; 2]> {
        let pool = status(ctx)?;
        Ok([
            number(&pool["live"]["data"]["total"])? >> 20,
            number(&pool["live"]["metadata"]["total"])? >> 20,
        ])
    };
    ctx.fails(&["pool", "grow", "--data", "+100M"], 2, "lvextend")?;
    ensure!(sizes()? == [256, 16] && lvs("lv_size", "vg/data")? == "268435456B");
    // LVM rounds up to its extents of 4 MiB.
    let more = ["--data", "+98M", "--metadata", "+4M"];
    ctx.ok(&[&["pool", "grow", "--lvextend"][..], &more].concat())?;
    ensure!(sizes()? == [356, 20], "{:?}", sizes()?);
    ensure!(
        lvs("lv_size", "vg/data")? == "373293056B" && lvs("lv_size", "vg/meta")? == "20971520B"
    );
    // More than the group has: nothing is changed.
    let too_much = ["pool", "grow", "--lvextend", "--data", "+2G"];
    ctx.fails(&too_much, 1, "lvextend")?;
    ensure!(sizes()? == [356, 20] && lvs("lv_size", "vg/data")? == "373293056B");
    // What the settings allow need not be said.
    let settings = ctx.dir.join("config.toml");
    fs::write(&settings, "[monitor]\nlvextend = true\n")?;
    ctx.ok(&["--config", text(&settings), "pool", "grow", "--data", "+4M"])?;
    ensure!(sizes()? == [360, 20], "{:?}", sizes()?);
    ctx.ok(&["pool", "destroy", "tank"])?;
    remove_group(&pv)
}

/// What is removed in the pool is a hole in the file below the volume group. LVM has no say in this:
/// linear volumes pass discards on always; its `issue_discards`, which is off, is about what it does
/// itself when a volume goes, so that what is still mapped then stays on the disk.
fn discards_through_lvm(ctx: &Ctx) -> Result<()> {
    let pv = volume_group(ctx, 1024)?;
    for (name, size) in [("data", "768M"), ("meta", "64M")] {
        witness("lvcreate", &["-qy", "-Wn", "-L", size, "-n", name, "vg"])?;
    }
    let args = ["pool", "create", "tank", "--base-size", "512M"];
    let on = ["--data", "/dev/vg/data", "--metadata", "/dev/vg/meta"];
    ctx.ok(&[&args[..], &on].concat())?;
    fill(ctx, "web")?;
    let allocated = || -> Result<u64> {
        rustix::fs::sync();
        Ok(fs::metadata(ctx.dir.join("pv"))?.blocks() << 9)
    };
    let dir = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    let empty = allocated()?;
    write_300_mb(&dir.join("big"))?;
    let full = allocated()?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    given_back(empty, full, allocated()?)?;
    // A volume that LVM removes with all in it gives nothing back.
    fill(ctx, "web")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    write_300_mb(&dir.join("big"))?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    witness("thin_check", &["/dev/vg/meta"])?;
    let full = allocated()?;
    let dump = witness(
        "lvmconfig",
        &["--typeconfig", "full", "devices/issue_discards"],
    )?;
    ensure!(dump.trim() == "issue_discards=0", "{dump}");
    fs::remove_dir_all(ctx.root.join("tank"))?;
    witness("lvremove", &["-qfy", "vg/data"])?;
    let kept = allocated()?;
    ensure!(kept >= full.saturating_sub(1 << 20), "{kept} of {full}");
    remove_group(&pv)
}

/// What `lvs` says of a volume, sizes in bytes.
pub(super) fn lvs(what: &str, volume: &str) -> Result<String> {
    let told = witness("lvs", &["--noheadings", "--units=b", "-o", what, volume])?;
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
    create(ctx, &["--existing", "vg/tp"])?;
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
    no_device_of_ours()?;
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
    left_in(&active_metadata()?, &["1"])?;
    witness("lvchange", &["-an", "-y", "vg/tp_tmeta"])?;
    witness("vgchange", &["-q", "-ay", "vg"])?;
    // No more than was written: the whole volume, read into memory, is more than the machine has.
    let mut theirs = vec![0; 1 << 20];
    File::open("/dev/vg/theirs")?.read_exact(&mut theirs)?;
    ensure!(theirs == [0x7e; 1 << 20]);
    remove_group(&pv)
}

/// The metadata of the thin-pool, which is not active, for a reader.
fn active_metadata() -> Result<String> {
    witness("lvchange", &["-ay", "-y", "vg/tp_tmeta"])?;
    Ok("/dev/mapper/vg-tp_tmeta".to_owned())
}

/// The two devices of a thin-pool as a script makes it, and the pool on them, without a uuid.
pub(super) fn script_pool(ctx: &Ctx) -> Result<(String, String)> {
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
    create(ctx, &["--existing", "script"])?;
    let pool = status(ctx)?;
    // In sectors: as the script made it.
    ensure!(pool["block_size"] == 256, "{pool}");
    fill(ctx, "web")?;
    // Its metadata are on no dm device, and were looked for among those only.
    ctx.ok(&["check"])?;
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
    left_in(&metadata, &["0", "8388608"])?;
    detach(&data)?;
    detach(&metadata)
}

/// Another thin-pool goes by the name of the one that the pool was made in.
fn swapped_thin_pool(ctx: &Ctx) -> Result<()> {
    let (data, metadata) = script_pool(ctx)?;
    create(ctx, &["--existing", "script"])?;
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
    no_device_of_ours()?;
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
