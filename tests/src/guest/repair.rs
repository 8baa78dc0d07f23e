//! Pools whose metadata are damaged, made to work again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::disks::{check_disk, detach, metadata_part};
use super::growth::{make, mounted, status};
use super::harness::{Ctx, Test, block_device, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("repair_clears_the_flag_of_a_sound_pool", flag),
    ("repair_rebuilds_damaged_metadata", damage),
    ("repair_that_fails_leaves_what_was", hopeless),
    ("repair_on_two_block_devices", two_devices),
    ("repair_on_one_whole_disk", whole_disk),
    ("repair_from_a_copy_of_the_metadata", from_a_copy),
];

const BLOCK: usize = 4096;

/// CRC-32C as the kernel's metadata have it (`lib/crc32c`): bit by bit, for a test.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let low = crc & 1;
            (crc >> 1) ^ if low == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// A pool with a container that holds something, closed; gives its metadata file.
fn closed_pool(ctx: &Ctx) -> Result<PathBuf> {
    make(ctx, &["--size", "1G"])?;
    fill_and_close(ctx)?;
    Ok(ctx.root.join("tank/metadata.img"))
}

fn superblock(path: &PathBuf) -> Result<(File, Vec<u8>)> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut block = vec![0; BLOCK];
    file.read_exact_at(&mut block, 0)?;
    let csum = crc32c(&block[4..]) ^ 160_774;
    ensure!(
        block[..4] == csum.to_le_bytes(),
        "the test reckons another sum"
    );
    Ok((file, block))
}

fn copies(ctx: &Ctx) -> Result<usize> {
    files_called(ctx, "metadata-backup-")
}

/// Files of the pool whose names begin so.
pub(super) fn files_called(ctx: &Ctx, prefix: &str) -> Result<usize> {
    let mut found = 0_usize;
    for entry in fs::read_dir(ctx.root.join("tank"))? {
        let name = entry?.file_name();
        let is_one = name.to_str().is_some_and(|name| name.starts_with(prefix));
        found = found.saturating_add(usize::from(is_one));
    }
    Ok(found)
}

fn is_whole(ctx: &Ctx) -> Result<()> {
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    let dir = ctx.mkdir("after")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    ensure!(fs::read(dir.join("file"))? == vec![7; 20 << 20]);
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "new"])?;
    ctx.ok(&["check"]).map(drop)
}

/// Has the superblock in a file say that the metadata need a check.
pub(super) fn flag_as_unchecked(metadata: &PathBuf) -> Result<()> {
    let (file, mut block) = superblock(metadata)?;
    block[4] |= 1;
    let csum = crc32c(&block[4..]) ^ 160_774;
    block[..4].copy_from_slice(&csum.to_le_bytes());
    file.write_all_at(&block, 0)?;
    Ok(file.sync_all()?)
}

fn flag(ctx: &Ctx) -> Result<()> {
    let metadata = closed_pool(ctx)?;
    ensure!(ctx.ok(&["pool", "repair", "tank", "--dry-run"])? == "metadata\tsound\n");
    flag_as_unchecked(&metadata)?;
    ctx.fails(&["pool", "open", "tank"], 8, "check")?;
    ensure!(ctx.ok(&["pool", "repair", "tank", "--dry-run"])? == "metadata\tflag-cleared\n");
    ensure!(copies(ctx)? == 0, "a dry run left a copy");
    let report = ctx.json(&["pool", "repair", "tank"])?["repair"].clone();
    ensure!(report["repaired"] == "flag-cleared", "{report}");
    let volumes = report["volumes"].as_array().context("no volumes")?;
    ensure!(
        volumes.len() == 4,
        "a base, two layers, a container: {report}"
    );
    ensure!(
        volumes.iter().all(|volume| volume["checked"] == "clean"),
        "{report}"
    );
    ensure!(copies(ctx)? == 1);
    is_whole(ctx)
}

/// The root of the data space map's bitmaps is gone: no block can be given out any more. What is mapped
/// where tells all that was in it.
fn damage(ctx: &Ctx) -> Result<()> {
    let metadata = closed_pool(ctx)?;
    wipe_bitmap_root(&metadata)?;
    ensure!(
        run("thin_check", &["-q", text(&metadata)])?.code != 0,
        "it is not damaged"
    );
    rebuilt(ctx)
}

/// Takes away the root of the data space map's bitmaps, in metadata on a file or device.
pub(super) fn wipe_bitmap_root(metadata: &PathBuf) -> Result<()> {
    let (file, block) = superblock(metadata)?;
    let field: [u8; 8] = block[64 + 16..64 + 24].try_into()?;
    let root = u64::from_le_bytes(field);
    file.write_all_at(&[0; BLOCK], root << 12)?;
    Ok(file.sync_all()?)
}

/// That damaged metadata are rebuilt, and everything is there then.
fn rebuilt(ctx: &Ctx) -> Result<()> {
    ensure!(ctx.ok(&["pool", "repair", "tank", "--dry-run"])? == "metadata\trebuilt\n");
    let report = ctx.json(&["pool", "repair", "tank"])?["repair"].clone();
    ensure!(report["repaired"] == "rebuilt", "{report}");
    let volumes = report["volumes"].as_array().context("no volumes")?;
    ensure!(
        volumes.len() == 4 && volumes.iter().all(|volume| volume["checked"] == "clean"),
        "{report}"
    );
    is_whole(ctx)
}

fn fill_and_close(ctx: &Ctx) -> Result<()> {
    let web = mounted(ctx, "web", "512M")?;
    fs::write(web.join("file"), vec![7; 20 << 20])?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["pool", "close", "tank"]).map(drop)
}

fn two_devices(ctx: &Ctx) -> Result<()> {
    let (_, data) = block_device(ctx, "data", 1024)?;
    let (_, metadata) = block_device(ctx, "metadata", 64)?;
    make(ctx, &["--data", &data, "--metadata", &metadata])?;
    fill_and_close(ctx)?;
    wipe_bitmap_root(&metadata.clone().into())?;
    ensure!(run("thin_check", &["-q", &metadata])?.code != 0);
    rebuilt(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    witness("thin_check", &["-q", &metadata])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    for node in [data, metadata] {
        detach(&node)?;
    }
    Ok(())
}

fn whole_disk(ctx: &Ctx) -> Result<()> {
    let (_, node) = block_device(ctx, "disk", 1024)?;
    make(ctx, &["--device", &node])?;
    fill_and_close(ctx)?;
    let part = metadata_part(&node, 64, &[])?;
    wipe_bitmap_root(&part.clone().into())?;
    detach(&part)?;
    ensure!(check_disk(&node, 64).is_err(), "it is not damaged");
    ctx.ok(&["pool", "repair", "tank", "--dry-run"])?;
    let left = witness("dmsetup", &["ls"])?;
    ensure!(!left.contains("dmthin-"), "a dry run left {left}");
    rebuilt(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    check_disk(&node, 64)?;
    // What a repair that could not be done leaves: no device of ours.
    let part = metadata_part(&node, 64, &[])?;
    let (file, whole) = superblock(&part.clone().into())?;
    file.write_all_at(&vec![0xa5; 64 << 20], 0)?;
    file.sync_all()?;
    cannot_be_repaired(ctx)?;
    ensure!(!witness("dmsetup", &["ls"])?.contains("dmthin-"));
    drop((file, whole));
    detach(&part)?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(&node)
}

fn cannot_be_repaired(ctx: &Ctx) -> Result<()> {
    let failed = ctx.cli(&["pool", "repair", "tank"])?;
    ensure!(
        failed.code != 0 && failed.stderr.contains("thin_repair"),
        "{}",
        failed.stderr
    );
    Ok(())
}

/// Where thin_repair cannot help, everything is as it was.
fn hopeless(ctx: &Ctx) -> Result<()> {
    let metadata = closed_pool(ctx)?;
    let (file, whole) = superblock(&metadata)?;
    // No superblock, and no node to be found.
    let length = usize::try_from(file.metadata()?.len())?;
    let mut kept = vec![0; length];
    file.read_exact_at(&mut kept, 0)?;
    file.write_all_at(&vec![0xa5; length], 0)?;
    file.sync_all()?;
    cannot_be_repaired(ctx)?;
    let mut now = vec![0; length];
    file.read_exact_at(&mut now, 0)?;
    ensure!(now.iter().all(|byte| *byte == 0xa5), "it was changed");
    file.write_all_at(&kept, 0)?;
    file.sync_all()?;
    drop((file, whole));
    witness("thin_check", &["-q", text(&metadata)])?;
    ctx.ok(&["pool", "open", "tank"])?;
    is_whole(ctx)
}

/// Metadata of which nothing can be read are made again from a copy that was taken while the pool ran.
fn from_a_copy(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G"])?;
    ctx.fails(
        &["pool", "repair", "tank", "--from-copy"],
        3,
        "there is no copy of the metadata of pool tank",
    )?;
    ensure!(status(ctx)?["live"]["mode"] == "rw", "it was closed");
    let web = mounted(ctx, "web", "512M")?;
    fs::write(web.join("file"), vec![7; 20 << 20])?;
    ctx.ok(&["container", "umount", "web"])?;
    // Of those that are taken in a running pool two are kept, besides one of the closed one.
    for _ in 0..3 {
        let copy = ctx.json(&["pool", "backup-metadata", "--keep", "2"])?["backup"].clone();
        let path = PathBuf::from(copy["copy"].as_str().context("no path")?);
        ensure!(
            fs::metadata(&path)?.len() == fs::metadata(ctx.root.join("tank/metadata.img"))?.len()
        );
        // Their names are of seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    ensure!(files_called(ctx, "metadata-copy")? == 2);
    ensure!(
        status(ctx)?["live"]["held_root"].is_null(),
        "the snapshot was kept"
    );
    ctx.ok(&["pool", "close", "tank"])?;
    let metadata = ctx.root.join("tank/metadata.img");
    let (file, whole) = superblock(&metadata)?;
    let length = usize::try_from(file.metadata()?.len())?;
    file.write_all_at(&vec![0xa5; length], 0)?;
    file.sync_all()?;
    drop((file, whole));
    cannot_be_repaired(ctx)?;
    let other = ctx.dir.join("other");
    fs::write(&other, vec![1; 1 << 16])?;
    let other = format!("--from-copy={}", text(&other));
    ctx.fails(&["pool", "repair", "tank", &other], 8, "this is other data")?;
    let report = ctx.json(&["pool", "repair", "tank", "--from-copy"])?["repair"].clone();
    ensure!(report["repaired"] == "restored", "{report}");
    let volumes = report["volumes"].as_array().context("no volumes")?;
    ensure!(
        volumes.len() == 4 && volumes.iter().all(|volume| volume["checked"] == "clean"),
        "{report}"
    );
    ensure!(
        files_called(ctx, "metadata-copy.new")? == 0,
        "a draft is left"
    );
    is_whole(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "backup-metadata", "tank"])?;
    ensure!(files_called(ctx, "metadata-copy")? == 3);
    ctx.ok(&["pool", "open", "tank"]).map(drop)
}
