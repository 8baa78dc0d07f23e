//! Full pools: what their writers and their containers are told, and what brings them back.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::growth::{make, mounted, number, status, writer};
use super::harness::{Ctx, Test, eventually, run, text, witness};
use super::monitor::{Monitor, suspended};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("full_pool_on_error_fails_writers_and_recovers", errors),
    ("full_pool_on_freeze_holds_containers", freezes),
    ("gc_leaves_what_a_living_monitor_holds", held_and_gc),
    ("full_pool_still_removes_and_trims", full),
    ("full_metadata_come_back_by_growth", full_metadata),
    ("ballast_is_made_kept_and_released", ballast),
];

/// Appends numbered records, each flushed, until it is refused; gives how many are safe, and why it ended.
fn append_flushed(path: &std::path::Path, most: u64) -> Result<(u64, ErrorKind)> {
    let mut file = File::create(path)?;
    for n in 0..most {
        let mut record = vec![0; 1 << 20];
        record[..8].copy_from_slice(&n.to_le_bytes());
        if let Err(error) = file.write_all(&record).and_then(|()| file.sync_all()) {
            return Ok((n, error.kind()));
        }
    }
    bail!("{most} MiB were written")
}

/// Without anybody to grow it: the writer is told at once, and what it was told is safe is there.
fn errors(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M", "--on-full", "error"])?;
    let web = mounted(ctx, "web", "2G")?;
    let started = Instant::now();
    let (safe, why) = append_flushed(&web.join("records"), 200)?;
    ensure!(safe > 50, "refused after {safe} MiB");
    ensure!(
        matches!(why, ErrorKind::StorageFull) || started.elapsed().as_secs() < 50,
        "{why} after {:?}",
        started.elapsed()
    );
    ensure!(status(ctx)?["live"]["on_full"] == "error_if_no_space");
    ctx.ok(&["pool", "grow", "--data", "1G"])?;
    run("umount", &[text(&web)])?;
    ctx.cli(&["container", "umount", "web"])?;
    let node = "/dev/mapper/dmthin-tank-ctr-web";
    // The journal is replayed by a mount; after that there is nothing to mend.
    ctx.ok(&["container", "mount", "web", text(&web)])?;
    let mut file = File::open(web.join("records"))?;
    for n in 0..safe {
        let mut record = vec![0; 1 << 20];
        file.read_exact(&mut record)
            .with_context(|| format!("record {n} of {safe}"))?;
        ensure!(
            record[..8] == n.to_le_bytes() && record[8..].iter().all(|b| *b == 0),
            "record {n}"
        );
    }
    drop(file);
    fs::write(web.join("after"), "it works")?;
    ctx.ok(&["container", "umount", "web"])?;
    let check = run("e2fsck", &["-fp", node])?;
    ensure!(check.code <= 1, "{}{}", check.stdout, check.stderr);
    witness("e2fsck", &["-fn", node])?;
    // As it is set, so it is; and for the next opening too.
    ctx.ok(&["pool", "set", "--on-full", "queue"])?;
    ensure!(status(ctx)?["live"]["on_full"] == "queue_if_no_space");
    ctx.ok(&["pool", "set", "--on-full", "error"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(status(ctx)?["live"]["on_full"] == "error_if_no_space");
    Ok(())
}

/// A pool that may not grow: first the ballast goes, then the containers wait, for longer than the
/// kernel would queue, and nobody sees an error. Not even a killed monitor changes that.
fn freezes(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M", "--min-free-data", "0"])?;
    let web = mounted(ctx, "web", "2G")?;
    for name in ["idle", "cut"] {
        ctx.ok(&["container", "create", "demo:1", "--name", name])?;
    }
    ctx.ok(&["pool", "ballast", "make", "tank", "--size", "16M"])?;
    let args = [
        "--threshold",
        "off",
        "--on-full",
        "freeze",
        "--red-line",
        "10",
    ];
    let mut monitor = Monitor::start(ctx, &args)?;
    fs::write("/sys/module/dm_thin_pool/parameters/no_space_timeout", "5")?;
    let copy = ctx.dir.join("copy");
    let mut dd = writer(&web.join("lines"), &copy, 200)?;
    ensure!(monitor.wait_for("ballast_released", 120)?["size"] == 16 << 20);
    monitor.wait_for("held", 120)?;
    ensure!(suspended("dmthin-tank-ctr-web")? && !suspended("dmthin-tank-pool")?);
    // What nobody uses does not wait, and removing never does.
    ensure!(!suspended("dmthin-tank-ctr-idle")?);
    witness("dmsetup", &["suspend", "dmthin-tank-ctr-cut"])?;
    for name in ["idle", "cut"] {
        ctx.ok(&["container", "rm", name])?;
    }
    ctx.fails(&["container", "trim", "web"], 5, "in use")?;
    drop(monitor);
    thread::sleep(Duration::from_secs(8));
    ensure!(dd.try_wait()?.is_none(), "the writer did not wait");
    let mut monitor = Monitor::start(ctx, &args)?;
    thread::sleep(Duration::from_secs(2));
    ensure!(suspended("dmthin-tank-ctr-web")?, "let go into a full pool");
    ctx.ok(&["pool", "grow", "--data", "1G"])?;
    ensure!(monitor.wait_for("let_go", 30)?["containers"] == 1);
    ensure!(dd.wait()?.success(), "the writer failed");
    fs::write("/sys/module/dm_thin_pool/parameters/no_space_timeout", "60")?;
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    drop(monitor);
    // Without a monitor `pool open` lets go what is suspended.
    witness(
        "dmsetup",
        &["suspend", "--noflush", "--nolockfs", "dmthin-tank-ctr-web"],
    )?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(!suspended("dmthin-tank-ctr-web")?);
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"]).map(drop)
}

/// `gc` lets go what a dead monitor left waiting, never what a living one holds.
fn held_and_gc(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M", "--min-free-data", "0"])?;
    let web = mounted(ctx, "web", "1G")?;
    let device = "dmthin-tank-ctr-web";
    // The pool is above this red line from the begin.
    let line = ["--on-full", "freeze", "--red-line", "99"];
    let args = [&line[..], &["--threshold", "off"]].concat();
    let mut monitor = Monitor::start(ctx, &args)?;
    monitor.wait_for("held", 60)?;
    ensure!(suspended(device)?);
    let kept = ctx.cli(&["gc", "tank"])?;
    let says = "suspended: a monitor has it wait until the pool has room";
    ensure!(
        kept.code == 1 && kept.stdout.starts_with("kept\tsuspended\t"),
        "{}{}",
        kept.stdout,
        kept.stderr
    );
    ensure!(kept.stdout.contains(says), "{}", kept.stdout);
    ensure!(suspended(device)?, "let go beside a living monitor");
    drop(monitor);
    let told = ctx.ok(&["gc", "tank"])?;
    ensure!(told.starts_with("done\tsuspended\t"), "{told}");
    ensure!(!suspended(device)?);
    fs::write(web.join("after"), "it works")?;
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

/// Writes to a device from `from` on until it refuses.
fn fill_device(node: &str, from: u64) -> Result<u64> {
    let file = File::options().write(true).open(node)?;
    for mib in from..2000 {
        let write = file.write_all_at(&[1; 1 << 20], mib << 20);
        if write.and_then(|()| file.sync_data()).is_err() {
            return Ok(mib);
        }
    }
    bail!("{node} is not refused anything")
}

/// At the last block: the guard refuses, what gives room back does not. Nothing is written to a file
/// system then, which might take it badly.
fn full(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M", "--on-full", "error"])?;
    for name in ["old", "raw"] {
        let create = [
            "container",
            "create",
            "demo:1",
            "--name",
            name,
            "--size",
            "2G",
        ];
        ctx.ok(&create)?;
    }
    // What was removed in it is still mapped: it is mounted without `discard`.
    let old = ctx.mkdir("old")?;
    witness("mount", &["/dev/mapper/dmthin-tank-ctr-old", text(&old)])?;
    fs::write(old.join("file"), vec![7; 20 << 20])?;
    witness("sync", &["-f", text(&old)])?;
    fs::remove_file(old.join("file"))?;
    witness("umount", &[text(&old)])?;
    let is_full = || -> Result<bool> { Ok(status(ctx)?["live"]["mode"] == "out_of_data_space") };
    let raw = "/dev/mapper/dmthin-tank-ctr-raw";
    let at = fill_device(raw, 600)?;
    ensure!(is_full()?, "{}", status(ctx)?["live"]);
    ctx.fails(&["container", "create", "demo:1"], 6, "keeps 10% free")?;
    ctx.ok(&["container", "trim", "old"])?;
    // The pool says so at its next commit.
    ensure!(eventually(|| Ok(!is_full()?))?, "{}", status(ctx)?["live"]);
    fill_device(raw, at)?;
    ensure!(is_full()?, "{}", status(ctx)?["live"]);
    ctx.ok(&["container", "rm", "old"])?;
    ensure!(eventually(|| Ok(!is_full()?))?, "{}", status(ctx)?["live"]);
    Ok(())
}

/// Makes volumes that nobody knows until the metadata are full: a message each, and nothing else.
fn fill_metadata(from: u64) -> Result<()> {
    let pool = "dmthin-tank-pool";
    for id in from..from + 3000 {
        let message = format!("create_thin {id}");
        if run("dmsetup", &["message", pool, "0", &message])?.code != 0 {
            let told = witness("dmsetup", &["status", pool])?;
            ensure!(told.contains(" ro "), "not read-only: {told}");
            ensure!(told.contains(" - "), "it wants a check: {told}");
            return Ok(());
        }
    }
    bail!("the metadata do not fill")
}

/// Without metadata the pool is read-only at once, on every kernel we know without the need of a check;
/// more metadata bring it back while it is in use, by hand or by a monitor.
fn full_metadata(ctx: &Ctx) -> Result<()> {
    make(
        ctx,
        &[
            "--size",
            "1G",
            "--metadata-size",
            "2M",
            "--min-free-metadata",
            "0",
        ],
    )?;
    let web = mounted(ctx, "web", "1G")?;
    fs::write(web.join("file"), vec![7; 8 << 20])?;
    witness("sync", &["-f", text(&web)])?;
    fill_metadata(1_000_000)?;
    let create = ["container", "create", "demo:1", "--name", "more"];
    ctx.fails(&create, 7, "")?;
    ctx.fails(&["pool", "grow", "--data", "+64M"], 7, "ro")?;
    ctx.ok(&["pool", "grow", "--metadata", "+1M"])?;
    ctx.ok(&create)?;
    ctx.ok(&["container", "rm", "more"])?;
    fill_metadata(1_100_000)?;
    let mut monitor = Monitor::start(ctx, &["--interval", "2"])?;
    ensure!(monitor.wait_for("grew", 60)?["space"] == "metadata");
    ctx.ok(&create)?;
    drop(monitor);
    ensure!(fs::read(web.join("file"))? == vec![7; 8 << 20]);
    fs::write(web.join("after"), "it works")?;
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"]).map(drop)
}

fn ballast(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "512M"])?;
    let used = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["used"]) };
    let before = used()?;
    let make = ["pool", "ballast", "make", "tank", "--size"];
    ctx.fails(&[&make[..], &["600M"]].concat(), 6, "keeps 10% free")?;
    ensure!(used()? == before && status(ctx)?["ballast"].is_null());
    let told = ctx.ok(&[&make[..], &["100M"]].concat())?;
    ensure!(told == "tank\t100 MiB\n", "{told}");
    ensure!(
        used()? == before + (100 << 20),
        "{} after {before}",
        used()?
    );
    ensure!(status(ctx)?["ballast"] == 100 << 20);
    ctx.fails(&[&make[..], &["1M"]].concat(), 4, "already")?;
    // It is nobody's device, and stays over a closing of the pool.
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    ensure!(used()? == before + (100 << 20));
    ctx.ok(&["pool", "ballast", "release"])?;
    ensure!(used()? == before);
    ctx.fails(&["pool", "ballast", "release"], 3, "no ballast")?;
    // Cut while it is filled, or let go: there is none after the next opening.
    for pause in [0, 5, 20, 60, 200] {
        ctx.cut(
            &[&make[..], &["200M"]].concat(),
            "tank",
            Duration::from_millis(pause),
        )?;
        ctx.ok(&["pool", "open", "tank"])?;
        if !status(ctx)?["ballast"].is_null() {
            let release = ["pool", "ballast", "release", "tank"];
            ctx.cut(&release, "tank", Duration::from_millis(pause / 10))?;
            ctx.ok(&["pool", "open", "tank"])?;
        }
        ensure!(
            status(ctx)?["ballast"].is_null() && used()? == before,
            "cut after {pause} ms"
        );
    }
    Ok(())
}
