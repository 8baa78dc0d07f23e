//! Devices below the pool that fail: what fails is said, nothing half-made is left, and with the devices
//! healthy again `pool repair` makes everything work.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dmthin::thinmeta::Metadata;

use super::build::{Image, Layer};
use super::growth::{make, mounted, number, status};
use super::harness::{Ctx, Test, block_device, run, text, witness};
use super::monitor::Monitor;
use super::removal::queue;

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("flaky_metadata_under_create_and_rm", create_and_rm),
    ("flaky_metadata_under_import_and_growth", import_and_growth),
    (
        "flaky_metadata_while_an_origin_is_suspended",
        origin_suspended,
    ),
    ("flaky_block_concerns_its_container_alone", one_block),
    ("flaky_data_under_an_import", data_under_import),
];

/// Sectors of a MiB.
const MIB: u64 = 2048;
/// Sectors of a block of the pool.
const BLOCK: u64 = 128;
const DATA: u64 = 320;
const METADATA: u64 = 16;

/// A dm device over a loop device, which can be made to fail.
struct Below {
    name: &'static str,
    node: String,
    mib: u64,
}

impl Below {
    fn new(ctx: &Ctx, name: &'static str, mib: u64) -> Result<Self> {
        let (_, node) = block_device(ctx, name, mib)?;
        let below = Self { name, node, mib };
        witness("dmsetup", &["create", name, "--table", &below.whole()])?;
        // Without udevd nobody makes its node.
        witness("dmsetup", &["mknodes", name])?;
        Ok(below)
    }

    fn whole(&self) -> String {
        format!("0 {} linear {} 0", self.mib * MIB, self.node)
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    fn load(&self, table: &str) -> Result<()> {
        let script = format!(
            "dmsetup suspend --noflush --nolockfs {n}; printf '%b\\n' '{table}' | dmsetup load {n}; \
             dmsetup resume {n}",
            n = self.name
        );
        witness("sh", &["-ec", &script]).map(drop)
    }

    /// Every write fails from now on, every read works.
    fn break_writes(&self) -> Result<()> {
        let (sectors, node) = (self.mib * MIB, &self.node);
        self.load(&format!(
            "0 {sectors} flakey {node} 0 0 3600 1 error_writes"
        ))
    }

    /// As [`break_writes`](Self::break_writes), but for the first block: the kernel can set its flag in the superblock.
    fn break_writes_but_the_first(&self) -> Result<()> {
        let (rest, node) = (self.mib * MIB - 8, &self.node);
        self.load(&format!(
            "0 8 linear {node} 0\\n8 {rest} flakey {node} 8 0 3600 1 error_writes"
        ))
    }

    /// Nothing can be written or read from now on.
    fn break_all(&self) -> Result<()> {
        self.load(&format!("0 {} error", self.mib * MIB))
    }

    /// Every access to one block of the pool's fails.
    fn break_block(&self, block: u64) -> Result<()> {
        let (at, end, node) = (block * BLOCK, self.mib * MIB, &self.node);
        let after = at + BLOCK;
        self.load(&format!(
            "0 {at} linear {node} 0\\n{at} {BLOCK} error\\n{after} {} linear {node} {after}",
            end - after
        ))
    }

    /// Every access fails from a block of the pool's on. Flushes work, which the pool's commit asks for.
    fn break_from(&self, block: u64) -> Result<()> {
        let (at, end, node) = (block * BLOCK, self.mib * MIB, &self.node);
        self.load(&format!("0 {at} linear {node} 0\\n{at} {} error", end - at))
    }

    fn heal(&self) -> Result<()> {
        self.load(&self.whole())
    }

    fn remove(self) -> Result<()> {
        witness("dmsetup", &["remove", "--retry", self.name])?;
        let _ = fs::remove_file(self.path());
        super::disks::detach(&self.node)
    }
}

/// A pool over two devices that can be made to fail, with an image and a container `web`.
fn with_pool(ctx: &Ctx, body: impl FnOnce(&Below, &Below) -> Result<()>) -> Result<()> {
    let data = Below::new(ctx, "below-data", DATA)?;
    let metadata = Below::new(ctx, "below-metadata", METADATA)?;
    let test = || -> Result<()> {
        make(
            ctx,
            &["--data", &data.path(), "--metadata", &metadata.path()],
        )?;
        let web = mounted(ctx, "web", "512M")?;
        fs::write(web.join("file"), vec![7; 1 << 20])?;
        ctx.ok(&["container", "umount", "web"])?;
        body(&data, &metadata)?;
        // Whatever was done: everything is sound, and works.
        web_is_whole(ctx)?;
        ctx.ok(&["container", "create", "demo:1", "--name", "last"])?;
        ctx.ok(&["check"])?;
        ctx.ok(&["pool", "close", "tank"])?;
        witness("thin_check", &["-q", &metadata.path()])?;
        Ok(())
    };
    let result = test();
    data.heal()?;
    metadata.heal()?;
    if result.is_err() {
        let state = witness("dmsetup", &["status"])?;
        println!("the devices were: {state}");
        ctx.cli(&["pool", "close", "tank"])?;
        ctx.cli(&["pool", "repair", "tank"])?;
    }
    let destroyed = ctx.ok(&["pool", "destroy", "tank"]);
    let removed = data.remove().and(metadata.remove());
    result.and(destroyed.map(drop)).and(removed)
}

fn web_is_whole(ctx: &Ctx) -> Result<()> {
    let dir = ctx.mkdir("web")?;
    ctx.ok(&["container", "mount", "web", text(&dir)])?;
    let found = fs::read(dir.join("file"))?;
    ctx.ok(&["container", "umount", "web"])?;
    ensure!(found == vec![7; 1 << 20], "web lost what it held");
    Ok(())
}

/// Runs a verb that meets the failing metadata: it says that the pool must be checked, and what to do.
fn needs_check(ctx: &Ctx, args: &[&str]) -> Result<()> {
    let quiet: Vec<_> = ["-q"].iter().chain(args).copied().collect();
    let output = ctx.cli(&quiet)?;
    ensure!(
        output.code == 8 && output.stderr.contains("pool-cli pool repair"),
        "{args:?}: {output:?}"
    );
    Ok(())
}

/// The pool is found as it is, in one of these modes, by all who ask.
fn is_told(ctx: &Ctx, modes: &[&str]) -> Result<()> {
    let live = status(ctx)?["live"].clone();
    let mode = live["mode"].as_str().context("no mode")?;
    ensure!(
        modes.contains(&mode) && (live["needs_check"] == true || mode == "fail"),
        "{live}"
    );
    let told = ctx.ok(&["pool", "status"])?;
    ensure!(told.contains("pool repair"), "{told}");
    needs_check(ctx, &["container", "create", "demo:1"])?;
    needs_check(ctx, &["pool", "open", "tank"])
}

/// With the device healthy again the pool is repaired.
fn repaired(ctx: &Ctx, metadata: &Below) -> Result<()> {
    metadata.heal()?;
    let report = ctx.json(&["pool", "repair", "tank"])?["repair"].clone();
    let volumes = report["volumes"].as_array().context("no volumes")?;
    ensure!(
        !volumes.is_empty() && volumes.iter().all(|volume| volume["checked"] == "clean"),
        "{report}"
    );
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    ctx.ok(&["check"]).map(drop)
}

fn names(ctx: &Ctx) -> Result<Vec<String>> {
    let listed = ctx.json(&["container", "list"])?;
    let listed = listed["containers"].as_array().context("no list")?;
    Ok(listed
        .iter()
        .filter_map(|container| Some(container["name"].as_str()?.to_owned()))
        .collect())
}

fn create_and_rm(ctx: &Ctx) -> Result<()> {
    with_pool(ctx, |_, metadata| {
        for name in ["going", "leaving"] {
            ctx.ok(&["container", "create", "demo:1", "--name", name])?;
        }
        metadata.break_writes_but_the_first()?;
        // The kernel answers that it was made, though its commit fails.
        needs_check(ctx, &["container", "create", "demo:1", "--name", "phantom"])?;
        is_told(ctx, &["ro"])?;
        repaired(ctx, metadata)?;
        ensure!(
            names(ctx)? == ["going", "leaving", "web"],
            "{:?}",
            names(ctx)?
        );
        // The first commit that fails makes the pool read-only. A discard that was on its way then fails in its
        // turn, cannot set the flag of what is read-only, and gives the pool up for it: whether there is one is
        // the kernel's timing. A pool whose metadata cannot even be read to go back to is always given up.
        metadata.break_writes()?;
        promised(ctx, metadata, "going", &["ro", "fail"])?;
        metadata.break_all()?;
        promised(ctx, metadata, "leaving", &["fail"])?;
        ensure!(names(ctx)? == ["web"], "{:?}", names(ctx)?);
        Ok(())
    })
}

/// A removal that meets the failing metadata: it was promised, and is done as soon as it can be.
fn promised(ctx: &Ctx, metadata: &Below, name: &str, modes: &[&str]) -> Result<()> {
    needs_check(ctx, &["container", "rm", name])?;
    is_told(ctx, modes)?;
    ensure!(!names(ctx)?.contains(&name.to_owned()), "{name} is there");
    repaired(ctx, metadata)?;
    ensure!(queue(ctx)?.is_empty(), "{name} is not removed");
    Ok(())
}

fn more(ctx: &Ctx) -> Result<std::path::PathBuf> {
    let layer = Layer::new().file("more", &vec![9; 4 << 20]).bytes();
    Image::new("more:1", vec![layer]).write(&ctx.dir.join("more.tar"))
}

fn images(ctx: &Ctx) -> Result<usize> {
    let listed = ctx.json(&["image", "list"])?;
    Ok(listed["images"].as_array().context("no list")?.len())
}

fn import_and_growth(ctx: &Ctx) -> Result<()> {
    let image = more(ctx)?;
    with_pool(ctx, |data, metadata| {
        metadata.break_writes()?;
        needs_check(ctx, &["image", "import", text(&image)])?;
        repaired(ctx, metadata)?;
        ensure!(images(ctx)? == 1);
        ctx.ok(&["image", "import", text(&image)])?;
        // A larger device, of which the pool cannot record that it uses it.
        let total = status(ctx)?["live"]["data"]["total"].clone();
        let larger = block_device(ctx, "larger", 64)?.1;
        let sectors = data.mib * MIB;
        data.load(&format!(
            "{}\\n{sectors} {} linear {larger} 0",
            data.whole(),
            64 * MIB
        ))?;
        metadata.break_writes()?;
        needs_check(ctx, &["pool", "grow", "tank"])?;
        repaired(ctx, metadata)?;
        ctx.ok(&["pool", "grow", "tank"])?;
        ensure!(
            status(ctx)?["live"]["data"]["total"] != total,
            "it did not grow"
        );
        web_is_whole(ctx)?;
        ctx.ok(&["container", "create", "demo:1", "--name", "more"])?;
        ctx.ok(&["pool", "destroy", "tank"])?;
        data.heal()?;
        super::disks::detach(&larger)?;
        make(
            ctx,
            &["--data", &data.path(), "--metadata", &metadata.path()],
        )?;
        let web = mounted(ctx, "web", "512M")?;
        fs::write(web.join("file"), vec![7; 1 << 20])?;
        ctx.ok(&["container", "umount", "web"]).map(drop)
    })
}

/// The layer is active, so that it is suspended for the snapshot, during which the metadata fail.
fn origin_suspended(ctx: &Ctx) -> Result<()> {
    with_pool(ctx, |_, metadata| {
        let before = witness("dmsetup", &["ls"])?;
        let uuid = status(ctx)?["uuid"]
            .as_str()
            .context("uuid")?
            .replace('-', "");
        let web = ctx.json(&["container", "inspect", "web"])?["container"].clone();
        // Volumes 1, 2, 3 are the base and the two layers, of which the last is the origin.
        ensure!(web["volume"] == 4 && web["thin_id"] == 3, "{web}");
        let origin = "dmthin-tank-layer-3";
        let table = format!("0 {} thin /dev/mapper/dmthin-tank-pool 2", 512 * MIB);
        let layer = format!("DMTHIN-{uuid}-layer-3");
        witness(
            "dmsetup",
            &["create", origin, "-u", &layer, "--table", &table],
        )?;
        metadata.break_writes()?;
        needs_check(ctx, &["container", "create", "demo:1", "--name", "phantom"])?;
        let info = witness(
            "dmsetup",
            &["info", "-c", "--noheadings", "-o", "name,suspended"],
        )?;
        ensure!(
            info.lines().all(|line| !line.contains("Suspended")),
            "a device is left suspended: {info}"
        );
        ensure!(names(ctx)? == ["web"], "{:?}", names(ctx)?);
        witness("dmsetup", &["remove", "--retry", origin])?;
        let _ = fs::remove_file(format!("/dev/mapper/{origin}"));
        ensure!(witness("dmsetup", &["ls"])? == before, "a device is left");
        repaired(ctx, metadata)?;
        ensure!(names(ctx)? == ["web"], "{:?}", names(ctx)?);
        Ok(())
    })
}

/// A raw write to a container's device, at blocks where its file system has nothing.
fn write_raw(name: &str, byte: u8) -> Result<()> {
    let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
    let device = File::options().write(true).open(node)?;
    device.write_all_at(&[byte; 65536], 400 << 20)?;
    device.sync_all().map_err(Into::into)
}

fn read_raw(name: &str) -> Result<Vec<u8>> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut found = vec![0; 65536];
    File::open(format!("/dev/mapper/dmthin-tank-ctr-{name}"))?
        .read_exact_at(&mut found, 400 << 20)?;
    Ok(found)
}

fn one_block(ctx: &Ctx) -> Result<()> {
    with_pool(ctx, |data, metadata| {
        for name in ["bad", "good"] {
            ctx.ok(&["container", "create", "demo:1", "--name", name])?;
            write_raw(name, 5)?;
        }
        let bad = ctx.json(&["container", "inspect", "bad"])?["container"]["thin_id"].clone();
        ctx.ok(&["pool", "close", "tank"])?;
        let device = File::open(metadata.path())?;
        let mut read = Metadata::of_closed(device)?.context("not formatted")?;
        let id = serde_json::from_value::<u64>(bad)?;
        let runs = read
            .runs(dmthin::ids::ThinId::new(id)?)?
            .context("no such device")?;
        let at = (400 << 20) / 65536;
        let block = runs
            .iter()
            .find(|run| run.begin.get() <= at && at < run.begin.get() + run.len.get())
            .map(|run| run.data.get() + at - run.begin.get())
            .context("it is not mapped")?;
        ctx.ok(&["pool", "open", "tank"])?;
        let mut monitor = Monitor::start(ctx, &["--interval", "2"])?;
        data.break_block(block)?;
        ensure!(read_raw("bad").is_err(), "its block does not fail");
        ensure!(write_raw("bad", 6).is_err(), "its block does not fail");
        // Nobody else meets it.
        ensure!(read_raw("good")? == vec![5; 65536]);
        write_raw("good", 6)?;
        web_is_whole(ctx)?;
        ctx.ok(&["container", "create", "demo:1", "--name", "more"])?;
        ctx.ok(&["image", "import", text(&more(ctx)?)])?;
        let live = status(ctx)?["live"].clone();
        ensure!(
            live["mode"] == "rw" && live["needs_check"] == false,
            "{live}"
        );
        ctx.ok(&["check"])?;
        ensure!(monitor.child.try_wait()?.is_none(), "the monitor ended");
        drop(monitor);
        // It can be removed, its bad block too.
        ctx.ok(&["container", "rm", "bad"])?;
        ctx.ok(&["check"])?;
        data.heal()?;
        ensure!(read_raw("good")? == vec![6; 65536]);
        Ok(())
    })
}

fn data_under_import(ctx: &Ctx) -> Result<()> {
    let image = more(ctx)?;
    with_pool(ctx, |data, metadata| {
        let ids = || -> Result<String> {
            let device = "dmthin-tank-pool";
            witness(
                "dmsetup",
                &["message", device, "0", "reserve_metadata_snap"],
            )?;
            let listed = run(
                "thin_ls",
                &["-m", "--no-headers", "-o", "DEV", &metadata.path()],
            );
            witness(
                "dmsetup",
                &["message", device, "0", "release_metadata_snap"],
            )?;
            Ok(listed?.stdout)
        };
        let before = ids()?;
        let used = number(&status(ctx)?["live"]["data"]["used"])? >> 16;
        data.break_from(used + 8)?;
        let output = ctx.cli(&["-q", "image", "import", text(&image)])?;
        ensure!(output.code == 1, "{output:?}");
        data.heal()?;
        ensure!(ids()? == before, "{before} and then {}", ids()?);
        ensure!(images(ctx)? == 1);
        ensure!(Path::new(&data.path()).exists());
        let live = status(ctx)?["live"].clone();
        ensure!(
            live["mode"] == "rw" && live["needs_check"] == false,
            "{live}"
        );
        ctx.ok(&["check"])?;
        ctx.ok(&["image", "import", text(&image)])?;
        ctx.ok(&["container", "create", "more:1", "--name", "of-it"])
            .map(drop)
    })
}
