//! Growth of pools, bases and containers while they are in use, and the guard that refuses early.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build::{Image, Layer, small_image, two_layers};
use super::harness::{Ctx, Test, block_device, df_mib, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("grow_pool_on_files_under_a_writer", pool_on_files),
    ("grow_pool_on_block_devices", pool_on_devices),
    ("grow_pool_cut_is_ended_by_pool_open", pool_growth_is_cut),
    (
        "grow_pool_takes_metadata_that_are_longer_already",
        longer_metadata,
    ),
    ("grow_pool_frees_who_waits_for_room", waiting_writer),
    ("grow_container_in_use_or_not", container),
    (
        "grow_container_leaves_a_bare_user_its_file_system",
        bare_user,
    ),
    ("grow_base_without_a_new_import", base),
    ("guard_refuses_before_the_pool_is_full", guard),
];

/// The pool as `pool status` tells it.
pub(super) fn status(ctx: &Ctx) -> Result<Value> {
    Ok(ctx.json(&["pool", "status"])?["pool"].clone())
}

pub(super) fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("{value} is no number"))
}

pub(super) fn make(ctx: &Ctx, args: &[&str]) -> Result<()> {
    let create = ["pool", "create", "tank", "--base-size", "512M"];
    ctx.ok(&[&create[..], args].concat())?;
    let image = small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)]).map(drop)
}

pub(super) fn mounted(ctx: &Ctx, name: &str, size: &str) -> Result<std::path::PathBuf> {
    let dir = ctx.mkdir(name)?;
    let create = ["container", "create", "demo:1", "--name", name, "--size"];
    ctx.ok(&[&create[..], &[size]].concat())?;
    ctx.ok(&["container", "mount", name, text(&dir)])?;
    Ok(dir)
}

/// Starts `dd` of so many MiB of lines into a file, and of the same lines into `copy`.
pub(super) fn writer(file: &Path, copy: &Path, mib: u32) -> Result<Child> {
    let script = format!(
        "yes 'one line of many' | head -c {mib}M | tee {} | \
         dd of={} bs=1M iflag=fullblock conv=fsync status=none",
        text(copy),
        text(file)
    );
    Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .spawn()
        .context("sh")
}

/// That the kernel, the catalogue, the file and its loop device have one size.
fn sizes_agree(ctx: &Ctx, data: u64, metadata: u64) -> Result<()> {
    let pool = status(ctx)?;
    for (half, size) in [("data", data), ("metadata", metadata)] {
        ensure!(number(&pool[half]["size"])? == size, "{half}: {pool}");
        ensure!(
            number(&pool["live"][half]["total"])? == size,
            "{half}: {pool}"
        );
        let file = ctx.root.join(format!("tank/{half}.img"));
        ensure!(fs::metadata(&file)?.len() == size, "{}", file.display());
        let node = pool[half]["node"].as_str().context("no node")?;
        let told = witness("blockdev", &["--getsize64", node])?;
        ensure!(told.trim() == size.to_string(), "{node} has {told}");
    }
    let table = witness("dmsetup", &["table", "dmthin-tank-pool"])?;
    let sectors = (data >> 9).to_string();
    ensure!(table.split(' ').nth(1) == Some(&sectors), "{table}");
    let info = witness("dmsetup", &["info", "dmthin-tank-pool"])?;
    ensure!(
        info.contains("ACTIVE") && !info.contains("SUSPENDED"),
        "{info}"
    );
    Ok(())
}

fn pool_on_files(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let web = mounted(ctx, "web", "2G")?;
    let copy = ctx.dir.join("copy");
    let mut dd = writer(&web.join("lines"), &copy, 200)?;
    for (data, metadata) in [(1280, 24), (1536, 32), (1792, 40), (2048, 48_u64)] {
        ctx.ok(&["pool", "grow", "--data", "+256M", "--metadata", "+8M"])?;
        sizes_agree(ctx, data << 20, metadata << 20)?;
    }
    ensure!(dd.wait()?.success(), "the writer failed");
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    // To the size it has: nothing is done. Smaller: refused.
    ctx.ok(&["pool", "grow", "tank", "--data", "2G"])?;
    ctx.fails(&["pool", "grow", "--data", "1G"], 2, "too small")?;
    ctx.fails(&["pool", "grow", "--metadata", "17G"], 2, "too large")?;
    sizes_agree(ctx, 2 << 30, 48 << 20)?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.fails(&["pool", "grow", "--data", "+1G"], 1, "pool open")?;
    ctx.ok(&["pool", "open", "tank"])?;
    sizes_agree(ctx, 2 << 30, 48 << 20)
}

fn pool_on_devices(ctx: &Ctx) -> Result<()> {
    let (data, data_node) = &block_device(ctx, "disk0", 1024)?;
    let (metadata, metadata_node) = &block_device(ctx, "disk1", 16)?;
    make(ctx, &["--data", data_node, "--metadata", metadata_node])?;
    ctx.fails(&["pool", "grow", "--data", "+1G"], 2, data_node)?;
    let before = status(ctx)?["live"]["data"]["total"].clone();
    for (path, node, mib) in [(data, data_node, 1536_u64), (metadata, metadata_node, 32)] {
        File::options().write(true).open(path)?.set_len(mib << 20)?;
        witness("losetup", &["-c", node])?;
    }
    // Larger below, but not ours to take before we are asked to.
    ensure!(status(ctx)?["live"]["data"]["total"] == before);
    ctx.ok(&["pool", "grow", "tank"])?;
    let after = status(ctx)?;
    ensure!(number(&after["live"]["data"]["total"])? == 1536 << 20);
    ensure!(number(&after["live"]["metadata"]["total"])? == 32 << 20);
    ctx.ok(&["pool", "close", "tank"])?;
    witness("thin_check", &[metadata_node])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(status(ctx)?["live"]["data"]["total"] == after["live"]["data"]["total"]);
    ctx.ok(&["pool", "destroy", "tank"])?;
    witness("losetup", &["-d", data_node, metadata_node]).map(drop)
}

/// Kills `pool grow` shortly after its intent was written, sooner or later, until one was met before
/// the kernel's step. After each `pool open` makes kernel, catalogue and files agree, on the old size or
/// on the new one.
fn pool_growth_is_cut(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let web = mounted(ctx, "web", "2G")?;
    fs::write(web.join("file"), "kept")?;
    let mut size = 1_u64 << 30;
    let differ = |pool: &Value| pool["live"]["data"]["total"] != pool["data"]["size"];
    let mut met = false;
    for pause in (0_u64..60).step_by(5).cycle().take(40) {
        if met {
            break;
        }
        let grow = ["pool", "grow", "--data", "+64M", "--metadata", "+4M"];
        ctx.cut(&grow, "tank", Duration::from_millis(pause))?;
        met = differ(&status(ctx)?);
        ctx.ok(&["pool", "open", "tank"])?;
        let pool = status(ctx)?;
        let now = number(&pool["data"]["size"])?;
        let grown = size.saturating_add(64 << 20);
        ensure!(now == size || now == grown, "{size} to {now}");
        ensure!(number(&pool["live"]["data"]["total"])? == now, "{pool}");
        size = now;
        // It takes writes, so it is not suspended.
        fs::write(web.join("more"), [1; 4096])?;
        witness("sync", &["-f", text(&web)])?;
    }
    ensure!(met, "no kill met a growth half-done");
    ensure!(fs::read(web.join("file"))? == b"kept");
    // The file may be longer than what was taken of it; the next growth goes on from there.
    ctx.ok(&["pool", "grow", "--data", "+64M"])?;
    let total = number(&status(ctx)?["live"]["data"]["total"])?;
    ensure!(total == size.saturating_add(64 << 20));
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

/// A cut between the longer file of the metadata and the catalogue's word of it: the kernel took the metadata as
/// long as they were, at the next opening or at any reload, and the catalogue knew nothing of it, so that a
/// copy of the metadata would have ended before they did.
fn longer_metadata(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let file = ctx.root.join("tank/metadata.img");
    let longer = |mib: u64| -> Result<()> {
        let file = fs::OpenOptions::new().write(true).open(&file)?;
        Ok(file.set_len(mib << 20)?)
    };
    let is = |mib: u64| -> Result<()> {
        let pool = status(ctx)?;
        let sizes = [
            &pool["live"]["metadata"]["total"],
            &pool["metadata"]["size"],
        ];
        ensure!(sizes == [mib << 20, mib << 20], "{sizes:?}, not {mib} MiB");
        Ok(())
    };
    ctx.ok(&["pool", "close", "tank"])?;
    longer(20)?;
    ctx.ok(&["pool", "open", "tank"])?;
    is(20)?;
    // The kernel is told of the file when it is told anything.
    longer(24)?;
    is(20)?;
    ctx.ok(&["pool", "grow", "--data", "+64M"])?;
    is(24)?;
    longer(28)?;
    ctx.ok(&["pool", "set", "--min-free-data", "20%"])?;
    is(28)?;
    ctx.ok(&["pool", "backup-metadata", "tank"])?;
    ctx.ok(&["check"]).map(drop)
}

/// A pool without a free block keeps its writers waiting for a minute: who grows it in time is
/// thanked by their going on, as if nothing had been.
fn waiting_writer(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M", "--min-free-data", "0"])?;
    let web = mounted(ctx, "web", "2G")?;
    let other = mounted(ctx, "other", "512M")?;
    fs::write(other.join("file"), vec![7; 1 << 20])?;
    ctx.ok(&["container", "umount", "other"])?;
    let copy = ctx.dir.join("copy");
    let mut dd = writer(&web.join("lines"), &copy, 160)?;
    let started = Instant::now();
    while status(ctx)?["live"]["mode"] != "out_of_data_space" {
        ensure!(started.elapsed().as_secs() < 120, "the pool does not fill");
        thread::sleep(Duration::from_millis(500));
    }
    ensure!(dd.try_wait()?.is_none(), "the writer did not wait");
    // What gives room is never refused, not even now.
    ctx.ok(&["container", "rm", "other"])?;
    ctx.ok(&["pool", "grow", "--data", "512M"])?;
    ensure!(dd.wait()?.success(), "the writer failed");
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"]).map(drop)
}

fn container(ctx: &Ctx) -> Result<()> {
    for fs in ["ext4", "xfs"] {
        make(ctx, &["--size", "2G", "--fs", fs])?;
        let web = mounted(ctx, "web", "512M")?;
        fs::write(web.join("file"), "kept")?;
        let told = ctx.ok(&["container", "grow", "web", "+512M"])?;
        ensure!(told == "web\t1 GiB\n", "{told}");
        ensure!(df_mib("size", &web)? > 900, "{fs}");
        ctx.ok(&["container", "umount", "web"])?;
        ctx.ok(&["container", "grow", "web", "2G"])?;
        ctx.ok(&["container", "grow", "web", "2G"])?;
        ctx.fails(&["container", "grow", "web", "1G"], 2, "too small")?;
        ctx.fails(&["container", "grow", "none", "1G"], 3, "none")?;
        ctx.ok(&["container", "mount", "web", text(&web)])?;
        ensure!(df_mib("size", &web)? > 1900, "{fs}");
        ensure!(fs::read(web.join("file"))? == b"kept");
        ctx.ok(&["container", "umount", "web"])?;
        let node = "/dev/mapper/dmthin-tank-ctr-web";
        let size = witness("blockdev", &["--getsize64", node])?;
        ensure!(size.trim() == (2_u64 << 30).to_string(), "{size}");
        match fs {
            "ext4" => witness("e2fsck", &["-fn", node])?,
            _ => witness("xfs_repair", &["-n", node])?,
        };
        // The device keeps its size over a closing of the pool.
        ctx.ok(&["pool", "close", "tank"])?;
        ctx.ok(&["pool", "open", "tank"])?;
        ctx.ok(&["container", "mount", "web", text(&web)])?;
        ensure!(df_mib("size", &web)? > 1900, "{fs}");
        ctx.ok(&["container", "umount", "web"])?;
        ctx.ok(&["pool", "destroy", "tank"])?;
    }
    Ok(())
}

/// A virtual machine has the device open, and mounts what is on it: mounting it here as well would
/// ruin it.
fn bare_user(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "2G"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "vm"])?;
    let node = "/dev/mapper/dmthin-tank-ctr-vm";
    let user = File::options().read(true).write(true).open(node)?;
    let mounts = witness("tune2fs", &["-l", node])?;
    let grown = ctx.json(&["container", "grow", "vm", "1G"])?;
    ensure!(
        grown["fs_grown"] == false && grown["change"] == "changed",
        "{grown}"
    );
    let size = witness("blockdev", &["--getsize64", node])?;
    ensure!(size.trim() == (1_u64 << 30).to_string(), "{size}");
    // Neither for a trim nor because somebody asks for it.
    let dir = ctx.mkdir("mnt")?;
    ctx.fails(&["container", "mount", "vm", text(&dir)], 5, "in use")?;
    ctx.fails(&["container", "trim", "vm"], 5, "in use")?;
    let trimmed = ctx.json(&["pool", "trim"])?;
    ensure!(trimmed["trimmed"][0]["trimmed"].is_null(), "{trimmed}");
    ensure!(
        witness("tune2fs", &["-l", node])? == mounts,
        "it was mounted"
    );
    drop(user);
    witness("e2fsck", &["-fn", node]).map(drop)
}

fn base(ctx: &Ctx) -> Result<()> {
    ctx.ok(&[
        "pool",
        "create",
        "tank",
        "--size",
        "2G",
        "--base-size",
        "96M",
    ])?;
    let image = small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "old"])?;
    // Its lower layers are those of the image that is there, the one on top does not fit.
    let mut layers = two_layers();
    layers.push(Layer::new().file("big", &vec![7; 160 << 20]).bytes());
    let larger = Image::new("large:1", layers).write(&ctx.dir.join("large.tar"))?;
    ctx.fails(&["image", "import", text(&larger)], 6, "base")?;
    let told = ctx.ok(&["base", "grow", "512M"])?;
    ensure!(told == "512 MiB\n", "{told}");
    ctx.fails(&["base", "grow", "256M"], 2, "too small")?;
    ctx.ok(&["image", "import", text(&larger)])?;
    let (old, new) = (ctx.mkdir("old")?, ctx.mkdir("new")?);
    ctx.ok(&["container", "create", "demo:1", "--name", "new"])?;
    ctx.ok(&["container", "create", "large:1", "--name", "large"])?;
    for (name, dir, sizes) in [("old", &old, 60..100), ("new", &new, 400..513)] {
        ctx.ok(&["container", "mount", name, text(dir)])?;
        let mib = df_mib("size", dir)?;
        ensure!(sizes.contains(&mib), "{name} has {mib} MiB");
        ensure!(fs::read(dir.join("etc/hostname"))? == b"two\n");
        ctx.ok(&["container", "umount", name])?;
    }
    ctx.ok(&["container", "mount", "large", text(&new)])?;
    ensure!(fs::metadata(new.join("big"))?.size() == 160 << 20);
    ctx.ok(&["container", "umount", "large"])?;
    for name in ["new", "large"] {
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        witness("e2fsck", &["-fn", &node])?;
    }
    Ok(())
}

fn guard(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "512M", "--metadata-size", "2M"])?;
    let image = small_image(&ctx.dir, "demo:2")?;
    let web = mounted(ctx, "web", "1G")?;
    let mut file = File::create(web.join("filler"))?;
    for _ in 0..475 {
        file.write_all(&[0x5a; 1 << 20])?;
    }
    file.sync_all()?;
    let create = ["container", "create", "demo:1", "--name", "more"];
    ctx.fails(&create, 6, "pool grow tank --data")?;
    ctx.fails(&["image", "import", text(&image)], 6, "keeps 10% free")?;
    let left = status(ctx)?["live"]["until_guard"]["data"].clone();
    ensure!(left == 0, "{left} until the guard");
    // A share of nothing refuses nothing; growth makes room.
    ctx.ok(&["pool", "set", "tank", "--min-free-data", "0"])?;
    ctx.ok(&create)?;
    ctx.ok(&["container", "rm", "more"])?;
    ctx.ok(&["pool", "set", "--min-free-data=10%"])?;
    ctx.fails(&create, 6, "10%")?;
    ctx.ok(&["pool", "grow", "--data", "+512M"])?;
    ctx.ok(&create)?;
    ctx.ok(&["container", "rm", "more"])?;
    ctx.ok(&["pool", "set", "--min-free-metadata", "99"])?;
    ctx.fails(&create, 7, "pool grow tank --metadata")?;
    ctx.ok(&["pool", "set", "--min-free-metadata", "10"])?;
    ctx.ok(&create)?;
    drop(file);
    ctx.ok(&["container", "umount", "web"])?;
    // Who removes is never refused.
    ctx.ok(&["pool", "set", "--min-free-data", "99"])?;
    ctx.ok(&["container", "rm", "web"])?;
    let usage = run("dmsetup", &["status", "dmthin-tank-pool"])?;
    ensure!(usage.stdout.contains(" rw "), "{}", usage.stdout);
    Ok(())
}
