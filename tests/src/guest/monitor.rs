//! The monitor: pools that grow under their writers, what is done when they cannot, and that it can be
//! killed at any time.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::growth::{make, mounted, number, status, writer};
use super::harness::{Ctx, Test, eventually, run, text, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("monitor_grows_data_under_a_writer", data_grows),
    ("monitor_grows_metadata_before_the_guard", metadata_grows),
    ("monitor_killed_at_any_moment", killed),
    ("monitor_runs_the_queue_and_sleeps_else", queue),
    ("monitor_tells_systemd_prometheus_and_a_hook", tells),
    ("full_pool_on_error_fails_writers_and_recovers", errors),
    ("full_pool_on_freeze_holds_containers", freezes),
    ("gc_leaves_what_a_living_monitor_holds", held_and_gc),
    ("full_pool_still_removes_and_trims", full),
    ("full_metadata_come_back_by_growth", full_metadata),
    ("ballast_is_made_kept_and_released", ballast),
];

/// A monitor that runs until this goes.
pub(super) struct Monitor {
    pub(super) child: Child,
    log: PathBuf,
}

impl Monitor {
    pub(super) fn start(ctx: &Ctx, args: &[&str]) -> Result<Self> {
        Self::start_with(ctx, args, |_| {})
    }

    fn start_with(ctx: &Ctx, args: &[&str], more: impl FnOnce(&mut Command)) -> Result<Self> {
        let log = ctx.dir.join("monitor.log");
        let mut command = Command::new("pool-cli");
        command
            .args(["--json", "--root", text(&ctx.root), "monitor"])
            .args(args)
            .stdout(File::create(&log)?)
            .stderr(Stdio::inherit());
        more(&mut command);
        let child = command.spawn()?;
        Ok(Self { child, log })
    }

    /// What it told so far.
    fn events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.log)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().map(serde_json::from_str);
        Ok(events.collect::<Result<_, _>>()?)
    }

    pub(super) fn told(&self, word: &str) -> Result<Vec<Value>> {
        let mut events = self.events()?;
        events.retain(|event| event["event"] == word);
        Ok(events)
    }

    /// Waits until it tells of something.
    pub(super) fn wait_for(&mut self, word: &str, seconds: u64) -> Result<Value> {
        let started = Instant::now();
        loop {
            if let Some(event) = self.told(word)?.pop() {
                return Ok(event);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the monitor ended: {status}");
            }
            ensure!(
                started.elapsed().as_secs() < seconds,
                "no {word} in {:?}",
                self.events()?
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn suspended(device: &str) -> Result<bool> {
    Ok(witness("dmsetup", &["info", device])?.contains("SUSPENDED"))
}

/// A writer that needs three times what the pool has is never stopped; nothing but the kernel's
/// events wakes the monitor, whose net is wide.
fn data_grows(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M"])?;
    let web = mounted(ctx, "web", "2G")?;
    let mut monitor = Monitor::start(ctx, &["tank", "--interval", "600", "--max-size", "512M"])?;
    let copy = ctx.dir.join("copy");
    let mut dd = writer(&web.join("lines"), &copy, 300)?;
    ensure!(dd.wait()?.success(), "the writer failed");
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    let pool = status(ctx)?;
    ensure!(pool["live"]["mode"] == "rw", "{pool}");
    let total = number(&pool["live"]["data"]["total"])?;
    ensure!((360 << 20..=512 << 20).contains(&total), "{total}");
    let grown = monitor.told("grew")?;
    ensure!(grown.len() >= 3 && grown[0]["space"] == "data", "{grown:?}");
    let mut to = 128_u64 << 20;
    for event in &grown {
        ensure!(event["from"] == to && event["warning"] == false, "{event}");
        to = number(&event["to"])?;
    }
    ensure!(to == total, "{to} told, {total} there");
    // No further than it may.
    let mut dd = writer(&web.join("more"), &copy, 130)?;
    let why = monitor.wait_for("not_grown", 120)?;
    ensure!(why["why"] == "it may not be larger than 512 MiB", "{why}");
    ensure!(dd.wait()?.success(), "the second writer failed");
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"]).map(drop)
}

/// Snapshots that are written here and there use up metadata; each new one is let in, as the metadata
/// grow before the guard would refuse it.
fn metadata_grows(ctx: &Ctx) -> Result<()> {
    let sizes = ["--size", "4G", "--metadata-size", "2M"];
    // Nothing new from 55 hundredths on; the monitor grows at half.
    let guard = ["--min-free-metadata", "45"];
    make(ctx, &[&sizes[..], &guard].concat())?;
    let metadata = || -> Result<(u64, u64)> {
        let metadata = status(ctx)?["live"]["metadata"].clone();
        Ok((number(&metadata["used"])?, number(&metadata["total"])?))
    };
    // Most of it by messages, which are quicker than containers.
    let mut id = 1_000_000_u64;
    while metadata()?.0 < 960 << 10 {
        for _ in 0..10 {
            let message = format!("create_thin {id}");
            witness("dmsetup", &["message", "dmthin-tank-pool", "0", &message])?;
            id += 1;
        }
    }
    let mut monitor = Monitor::start(ctx, &["--interval", "2"])?;
    let mut n = 0_u64;
    while metadata()?.0 < 1200 << 10 {
        ensure!(n < 400, "{:?} after {n} containers", metadata()?);
        let name = format!("c{n}");
        ctx.ok(&["container", "create", "demo:1", "--name", &name])?;
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        let node = File::options().write(true).open(node)?;
        for block in 0..8_u64 {
            // Spread over the device, where no file system has anything.
            node.write_at(&[1; 4096], (300 + block * 24 + n % 24) << 20)?;
        }
        node.sync_all()?;
        n += 1;
    }
    let grown = monitor.wait_for("grew", 30)?;
    ensure!(grown["space"] == "metadata", "{grown}");
    let (used, total) = metadata()?;
    ensure!(total > 2 << 20 && used * 2 < total, "{used} of {total}");
    Ok(())
}

/// Killed while it grows a pool under a writer, again and again: the pool works, each new monitor goes
/// on, and in the end all is there.
fn killed(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M"])?;
    let web = mounted(ctx, "web", "3G")?;
    let copy = ctx.dir.join("copy");
    let mut dd = writer(&web.join("lines"), &copy, 200)?;
    let log = ctx.root.join("tank/catalogue.db-wal");
    let written = || -> Result<_> {
        let found = fs::metadata(&log)?;
        Ok((found.modified()?, found.len()))
    };
    let mut killed = 0_u64;
    while dd.try_wait()?.is_none() {
        let before = written()?;
        let monitor = Monitor::start(ctx, &["--grow-by", "5%", "--interval", "1"])?;
        // Once it has written what it intends, a little later each time.
        while written()? == before && dd.try_wait()?.is_none() {
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(killed * 23 % 230));
        drop(monitor);
        killed += 1;
        ensure!(
            !suspended("dmthin-tank-pool")?,
            "left suspended by kill {killed}"
        );
    }
    ensure!(dd.wait()?.success(), "the writer failed");
    ensure!(killed > 5, "killed {killed} times");
    witness("cmp", &[text(&copy), text(&web.join("lines"))])?;
    ctx.ok(&["pool", "open", "tank"])?;
    let pool = status(ctx)?;
    ensure!(
        pool["live"]["data"]["total"] == pool["data"]["size"],
        "{pool}"
    );
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"]).map(drop)
}

/// How often a process gave the processor up of its own accord: it woke up so often.
pub(super) fn wake_ups(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.context("no such line")?.trim().parse()?)
}

fn queue(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G"])?;
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let mut monitor = Monitor::start(ctx, &["--interval", "3600"])?;
    let node = File::open("/dev/mapper/dmthin-tank-ctr-web")?;
    ctx.ok(&["container", "rm", "web"])?;
    thread::sleep(Duration::from_secs(3));
    ensure!(number(&status(ctx)?["removals"])? == 1, "it is held");
    drop(node);
    monitor.wait_for("removed", 60)?;
    ensure!(number(&status(ctx)?["removals"])? == 0);
    ensure!(ctx.ok(&["device", "list", "-q"])? == "dmthin-tank-pool\n");
    // With nothing to do it sleeps.
    thread::sleep(Duration::from_secs(2));
    let before = wake_ups(monitor.child.id())?;
    thread::sleep(Duration::from_secs(10));
    let after = wake_ups(monitor.child.id())?;
    ensure!(after == before, "it woke up {} times", after - before);
    Ok(())
}

fn tells(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "128M"])?;
    let web = mounted(ctx, "web", "1G")?;
    let (socket, prom) = (ctx.dir.join("notify"), ctx.dir.join("dmthin.prom"));
    let (hook, told) = (ctx.dir.join("hook"), ctx.dir.join("told"));
    fs::write(
        &hook,
        format!(
            "#!/bin/sh\necho \"$DMTHIN_POOL $DMTHIN_EVENT $DMTHIN_JSON\" >>{}\n",
            text(&told)
        ),
    )?;
    witness("chmod", &["+x", text(&hook)])?;
    let listener = UnixDatagram::bind(&socket)?;
    listener.set_read_timeout(Some(Duration::from_secs(10)))?;
    let args = [
        "--metrics",
        text(&prom),
        "--hook",
        text(&hook),
        "--threshold",
        "50",
    ];
    let mut monitor = Monitor::start_with(ctx, &args, |command| {
        command
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "4000000");
    })?;
    let next = || -> Result<String> {
        let mut buffer = [0; 64];
        let len = listener.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    };
    ensure!(next()? == "READY=1");
    // A sign of life within half of the four seconds, whatever the interval.
    for _ in 0..3 {
        let started = Instant::now();
        ensure!(next()? == "WATCHDOG=1");
        ensure!(
            started.elapsed() < Duration::from_millis(3500),
            "{:?}",
            started.elapsed()
        );
    }
    let copy = ctx.dir.join("copy");
    ensure!(writer(&web.join("lines"), &copy, 80)?.wait()?.success());
    let grown = monitor.wait_for("grew", 30)?;
    let size = number(&grown["to"])?;
    ensure!(eventually(|| {
        let metrics = fs::read_to_string(&prom)?;
        let total = number(&status(ctx)?["live"]["data"]["total"])?;
        Ok(total >= size
            && metrics.contains(&format!(
                "dmthin_pool_data_bytes{{pool=\"tank\"}} {total}\n"
            ))
            && metrics.contains("result=\"grown\"}")
            && metrics.contains("dmthin_pool_mode{pool=\"tank\",mode=\"rw\"} 1"))
    })?);
    ensure!(eventually(|| {
        let told = fs::read_to_string(&told).unwrap_or_default();
        Ok(told.contains("tank grew {"))
    })?);
    ctx.ok(&["container", "umount", "web"]).map(drop)
}

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
