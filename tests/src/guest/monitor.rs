//! The monitor: pools that grow under their writers, what is done when they cannot, and that it can be
//! killed at any time.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::growth::{make, mounted, number, status, writer};
use super::harness::{Ctx, Test, eventually, text, within, witness};
use super::repair::files_called;

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("monitor_grows_data_under_a_writer", data_grows),
    ("monitor_grows_metadata_before_the_guard", metadata_grows),
    ("monitor_killed_at_any_moment", killed),
    ("monitor_runs_the_queue_and_sleeps_else", queue),
    ("monitor_tells_systemd_prometheus_and_a_hook", tells),
    ("monitor_copies_the_metadata", copies),
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

pub(super) fn suspended(device: &str) -> Result<bool> {
    Ok(witness("dmsetup", &["info", device])?.contains("SUSPENDED"))
}

/// One copy a day, whoever takes it.
fn copies(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "512M"])?;
    for _ in 0..2 {
        let monitor = Monitor::start(ctx, &["tank", "--interval", "1"])?;
        let is_made = within(30, || Ok(files_called(ctx, "metadata-copy-")? == 1))?;
        ensure!(is_made, "no copy of the metadata was made");
        thread::sleep(Duration::from_secs(3));
        drop(monitor);
    }
    ensure!(files_called(ctx, "metadata-copy")? == 1);
    ctx.ok(&["check"]).map(drop)
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
        let monitor = Monitor::start(ctx, &["--grow-by", "2%", "--interval", "1"])?;
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
    ensure!(ctx.ok(&["device", "list", "-q"])? == "dmthin-tank-mirror\ndmthin-tank-pool\n");
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
