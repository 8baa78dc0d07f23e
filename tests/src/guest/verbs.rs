//! Forks, snapshots, going back to them; data volumes.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::growth::{make, mounted, number, status};
use super::harness::{Ctx, Test, df_mib, run, text, thin_ids, witness};
use super::load::{is_a_moment_of, timed_write};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("fork_of_a_container_under_writers", fork_under_load),
    ("fork_killed_while_its_origin_is_frozen", fork_killed),
    ("fork_stands_on_its_own", fork_alone),
    ("rollback_brings_a_snapshot_back", rollback),
    ("snapshots_keep_what_they_are_of", snapshots_keep),
    ("snapshots_count_as_promised", promised),
    ("volume_lives_apart_from_containers", volume),
    ("volume_is_kept_and_rolled_back", volume_snapshots),
];

const WEB: &str = "/dev/mapper/dmthin-tank-ctr-web";

/// How long a writer may be kept waiting by a fork.
pub(super) const STALL: Duration = Duration::from_secs(1);

fn value<'a>(list: &'a Value, what: &str) -> Result<&'a Vec<Value>> {
    list[what].as_array().with_context(|| format!("{list}"))
}

/// Four writers, and a container that is forked beneath them again and again: each fork is the container at
/// one moment, clean, and nobody waits for long.
fn fork_under_load(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let web = mounted(ctx, "web", "512M")?;
    let stop = AtomicBool::new(false);
    let written: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let longest: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let forks: [&str; 3] = ["one", "two", "three"];
    let (before, stalls, flushed) = thread::scope(|scope| -> Result<_> {
        let writers: Vec<_> = (0..)
            .zip(written.iter().zip(&longest))
            .map(|(n, (written, longest))| {
                let (path, stop) = (web.join(format!("file{n}")), &stop);
                scope.spawn(move || timed_write(&path, n, stop, written, longest))
            })
            .collect();
        let stall = || {
            let taken = longest.iter().map(|n| n.swap(0, Ordering::SeqCst));
            Duration::from_millis(taken.max().unwrap_or(0))
        };
        let forked = || -> Result<_> {
            thread::sleep(Duration::from_secs(3));
            // What the machine makes them wait for anyhow.
            let before = stall();
            let (mut stalls, mut flushed) = (Vec::new(), Vec::new());
            for name in forks {
                let counts: Vec<_> = written.iter().map(|n| n.load(Ordering::SeqCst)).collect();
                ctx.ok(&["container", "fork", "web", "--name", name])?;
                thread::sleep(Duration::from_millis(500));
                stalls.push(stall());
                flushed.push(counts);
            }
            Ok((before, stalls, flushed))
        };
        let forked = forked();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.join().expect("no writer panics")?;
        }
        forked
    })?;
    println!("        longest wait of a writer: {before:?} without a fork, {stalls:?} with one");
    witness("umount", &[text(&web)])?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    for (name, flushed) in forks.iter().zip(flushed) {
        let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
        // Frozen, so that there is nothing to replay even.
        let state = witness("dumpe2fs", &["-h", &node])?;
        ensure!(!state.contains("needs_recovery"), "{name}: {state}");
        let dir = ctx.mkdir(name)?;
        ctx.ok(&["container", "mount", name, text(&dir)])?;
        for (n, flushed) in (0..).zip(flushed) {
            is_a_moment_of(&dir.join(format!("file{n}")), n, flushed)
                .with_context(|| format!("fork {name}"))?;
        }
        ctx.ok(&["container", "umount", name])?;
        witness("e2fsck", &["-fn", &node])?;
    }
    ctx.ok(&["check"])?;
    ensure!(
        stalls.iter().all(|stall| *stall <= STALL),
        "a writer waited for {stalls:?}, and for {before:?} without a fork"
    );
    Ok(())
}

/// Kills a fork before each call while its origin is frozen: `pool open` lets that go on.
fn fork_killed(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let web = mounted(ctx, "web", "512M")?;
    fs::write(web.join("file"), "kept")?;
    let fork = ["container", "fork", "web", "--name", "twin"];
    let trace = ctx.dir.join("trace");
    let root = ["pool-cli", "--root", text(&ctx.root)];
    let strace = |options: &[&str]| run("strace", &[options, &root, &fork].concat());
    let traced = strace(&["-f", "-o", text(&trace), "-e", "trace=ioctl"])?;
    ensure!(traced.code == 0, "strace: {}", traced.stderr);
    ctx.ok(&["container", "rm", "twin"])?;
    let trace = fs::read_to_string(&trace)?;
    let calls: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains("ioctl("))
        .collect();
    // The first is the freeze of its origin, the second lets that go on.
    let suspends: Vec<usize> = (1..)
        .zip(&calls)
        .filter(|(_, line)| line.contains("DM_DEV_SUSPEND"))
        .map(|(number, _)| number)
        .collect();
    let [freeze, thaw, ..] = suspends[..] else {
        anyhow::bail!("no freeze in {calls:?}");
    };
    let mut frozen = 0;
    for number in freeze + 1..=thaw + 1 {
        let inject = format!("inject=ioctl:signal=KILL:when={number}");
        let killed = strace(&["-f", "-o", "/dev/null", "-e", &inject])?;
        ensure!(killed.code == 128, "{number}: {}", killed.stderr);
        if witness("dmsetup", &["info", WEB])?.contains("SUSPENDED") {
            frozen += 1;
        }
        ctx.ok(&["pool", "open", "tank"])?;
        ensure!(!witness("dmsetup", &["info", WEB])?.contains("SUSPENDED"));
        fs::write(web.join("more"), number.to_string())?;
        witness("sync", &["-f", text(&web)])?;
        ctx.ok(&["check"])?;
        let left = ctx.ok(&["container", "list", "-q"])?;
        if left.contains("twin") {
            witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-twin"])?;
            ctx.ok(&["container", "rm", "twin"])?;
        }
    }
    ensure!(frozen == thaw - freeze, "{frozen} times: {calls:?}");
    ensure!(fs::read(web.join("file"))? == b"kept");
    Ok(())
}

/// What it was made of may go, its own image may not; an xfs is mounted beside its fork.
fn fork_alone(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "2G", "--fs", "xfs"])?;
    let web = mounted(ctx, "web", "1G")?;
    fs::write(web.join("file"), "old")?;
    ctx.fails(
        &["container", "fork", "none"],
        3,
        "there is no container none",
    )?;
    ctx.fails(
        &["container", "fork", "web", "--name", "web"],
        4,
        "there is a container web already",
    )?;
    let told = ctx.ok(&["container", "fork", "web", "--name", "twin"])?;
    ensure!(told == "twin\t/dev/mapper/dmthin-tank-ctr-twin\n", "{told}");
    let made_up = ctx.ok(&["container", "fork", "web"])?;
    let made_up = made_up.split('\t').next().context("no name")?;
    ctx.ok(&["container", "rm", made_up])?;
    let twin = ctx.mkdir("twin")?;
    ctx.ok(&["container", "mount", "twin", text(&twin)])?;
    fs::write(web.join("file"), "new")?;
    fs::write(twin.join("mine"), "other")?;
    ensure!(fs::read(twin.join("file"))? == b"old");
    ensure!(!web.join("mine").exists());
    let report = ctx.json(&["container", "inspect", "twin"])?["container"].clone();
    ensure!(
        report["size"] == 1 << 30 && report["image"] == "demo:1",
        "{report}"
    );
    ctx.ok(&["container", "umount", "web"])?;
    ctx.ok(&["container", "rm", "web"])?;
    ctx.fails(&["image", "rm", "demo:1"], 5, "container twin")?;
    ensure!(fs::read(twin.join("file"))? == b"old");
    ctx.ok(&["container", "umount", "twin"])?;
    witness("xfs_repair", &["-n", "/dev/mapper/dmthin-tank-ctr-twin"])?;
    ctx.ok(&["check"]).map(drop)
}

/// The tree of files is again what it was, of a container that was grown meanwhile.
fn rollback(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "2G", "--metadata-size", "16M"])?;
    let web = mounted(ctx, "web", "512M")?;
    let image: Vec<_> = names(&web)?;
    fs::write(web.join("file"), "one")?;
    // In use: the snapshot has what was written, without a sync.
    ensure!(ctx.ok(&["container", "snapshot", "web", "one"])? == "one\n");
    fs::write(web.join("file"), "two")?;
    fs::write(web.join("more"), "two")?;
    ctx.ok(&["container", "snapshot", "web", "two"])?;
    fs::remove_file(web.join("file"))?;
    ctx.ok(&["container", "grow", "web", "1G"])?;
    for args in [
        &["container", "rollback", "web", "one"][..],
        &["container", "reset", "web"],
    ] {
        ctx.fails(args, 5, "is mounted on")?;
    }
    ctx.ok(&["container", "umount", "web"])?;
    let holder = File::open(WEB)?;
    ctx.fails(
        &["container", "reset", "web"],
        5,
        "its device is open 1 times",
    )?;
    drop(holder);
    ctx.fails(
        &["container", "rollback", "web", "none"],
        3,
        "container web has no snapshot none",
    )?;
    let back = |args: &[&str]| -> Result<()> {
        let told = ctx.ok(args)?;
        ensure!(told == format!("web\t{WEB}\n"), "{told}");
        let size = witness("blockdev", &["--getsize64", WEB])?;
        ensure!(size.trim() == (1_u64 << 30).to_string(), "{size}");
        witness("e2fsck", &["-fn", WEB])?;
        ctx.ok(&["container", "mount", "web", text(&web)])?;
        ensure!(df_mib("size", &web)? > 900);
        Ok(())
    };
    let content = |name: &str| fs::read_to_string(web.join(name)).ok();
    back(&["container", "rollback", "web", "one"])?;
    ensure!(content("file").as_deref() == Some("one") && content("more").is_none());
    // What is written now changes no snapshot.
    fs::write(web.join("file"), "three")?;
    ctx.ok(&["container", "umount", "web"])?;
    back(&["container", "rollback", "web", "two"])?;
    ensure!(content("file").as_deref() == Some("two") && content("more").as_deref() == Some("two"));
    ctx.ok(&["container", "umount", "web"])?;
    // Over a closing of the pool, and without the snapshot it came from.
    ctx.ok(&["container", "snapshot-rm", "web", "two"])?;
    ctx.ok(&["pool", "close", "tank"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    back(&["container", "rollback", "web", "one"])?;
    ensure!(content("file").as_deref() == Some("one"));
    ctx.ok(&["container", "umount", "web"])?;
    back(&["container", "reset", "web"])?;
    ensure!(names(&web)? == image);
    ctx.ok(&["container", "umount", "web"])?;
    let left = ctx.ok(&["container", "snapshots", "web", "-q"])?;
    ensure!(left == "one\n", "{left}");
    ensure!(ctx.ok(&["queue", "list", "-q"])?.is_empty());
    ctx.ok(&["check"]).map(drop)
}

fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// A container with snapshots is not removed but with them; what they have comes back.
fn snapshots_keep(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    let used = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["used"]) };
    let ids = thin_ids(ctx, "tank")?;
    let before = used()?;
    let web = mounted(ctx, "web", "512M")?;
    let made_up = ctx.ok(&["container", "snapshot", "web"])?;
    ensure!(made_up.starts_with('s'), "{made_up}");
    ctx.ok(&["container", "snapshot", "web", "two"])?;
    ctx.fails(
        &["container", "snapshot", "web", "two"],
        4,
        "container web has a snapshot two already",
    )?;
    let list = ctx.json(&["container", "snapshots", "web"])?;
    let list = value(&list, "snapshots")?;
    ensure!(
        list.len() == 2 && list[1]["name"] == "two" && list[1]["of"] == "web",
        "{list:?}"
    );
    let pool = status(ctx)?;
    ensure!(
        pool["snapshots"] == 2 && pool["containers"] == 1 && pool["volumes"] == 0,
        "{pool}"
    );
    let devices = witness("dmsetup", &["ls"])?;
    ensure!(!devices.contains("-snap-"), "{devices}");
    fs::write(web.join("file"), vec![7; 8 << 20])?;
    ctx.ok(&["container", "umount", "web"])?;
    for args in [
        &["container", "rm", "web"][..],
        &["container", "rm", "web", "--queue"],
        &["container", "rm", "web", "--dry-run"],
    ] {
        ctx.fails(args, 5, "two: remove them first, or with it")?;
    }
    ctx.fails(&["image", "rm", "demo:1"], 5, "container web")?;
    ctx.fails(
        &["container", "snapshot-rm", "web", "none"],
        3,
        "container web has no snapshot none",
    )?;
    let plan = ctx.json(&["container", "rm", "web", "--snapshots", "--dry-run"])?["plan"].clone();
    ensure!(value(&plan, "volumes")?.len() == 3, "{plan}");
    let bytes = number(&plan["pool_bytes"])?;
    ensure!(used()? - before == bytes, "{plan}");
    ctx.ok(&["container", "rm", "web", "--snapshots"])?;
    ensure!(used()? == before, "{} and {before}", used()?);
    ensure!(thin_ids(ctx, "tank")? == ids);
    // One that is held is queued with them, and taken back without.
    let web = mounted(ctx, "web", "512M")?;
    ctx.ok(&["container", "snapshot", "web", "one"])?;
    ctx.ok(&["container", "rm", "web", "--snapshots"])?;
    ctx.ok(&["queue", "cancel", "web"])?;
    ensure!(ctx.ok(&["container", "snapshots", "web", "-q"])?.is_empty());
    witness("umount", &[text(&web)])?;
    ctx.ok(&["check"]).map(drop)
}

/// Where nothing is overcommitted a snapshot counts for what it has, and no more.
fn promised(ctx: &Ctx) -> Result<()> {
    make(
        ctx,
        &["--size", "1G", "--metadata-size", "16M", "--no-overcommit"],
    )?;
    let promised = |what: &str| -> Result<u64> { number(&status(ctx)?["promised"][what]) };
    ctx.ok(&["container", "create", "demo:1", "--name", "web"])?;
    let (writable, sealed) = (promised("writable")?, promised("sealed")?);
    ensure!(writable == 512 << 20, "{writable}");
    let web = ctx.json(&["container", "inspect", "web"])?["container"]["mapped"].clone();
    ctx.ok(&["container", "snapshot", "web", "one"])?;
    ensure!(promised("writable")? == writable);
    // Of what is in use at most: all of it is shared still.
    let used = number(&status(ctx)?["live"]["data"]["used"])?;
    let wanted = used.min(sealed + number(&web)?);
    ensure!(
        promised("sealed")? == wanted,
        "{} of {wanted}",
        promised("sealed")?
    );
    ctx.ok(&["volume", "create", "db", "256M"])?;
    ensure!(promised("writable")? == writable + (256 << 20));
    for args in [
        &["container", "fork", "web"][..],
        &["container", "reset", "web"],
        &["volume", "create", "more", "512M"],
        &["volume", "grow", "db", "768M"],
    ] {
        ctx.fails(args, 6, "promises no more than it has")?;
    }
    ensure!(ctx.ok(&["container", "list", "-q"])? == "web\n");
    ensure!(ctx.ok(&["volume", "list", "-q"])? == "db\n");
    ctx.ok(&["check"]).map(drop)
}

fn volume(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "2G", "--metadata-size", "16M"])?;
    // The same name is a container's too.
    ctx.ok(&["container", "create", "demo:1", "--name", "db"])?;
    let dir = ctx.mkdir("db")?;
    for (fs, checker) in [("ext4", ["e2fsck", "-fn"]), ("xfs", ["xfs_repair", "-n"])] {
        let node = "/dev/mapper/dmthin-tank-vol-db";
        let told = ctx.ok(&["volume", "create", "db", "512M", "--fs", fs])?;
        ensure!(told == format!("db\t{node}\n"), "{told}");
        ctx.fails(
            &["volume", "create", "db", "1G"],
            4,
            "there is a volume db already",
        )?;
        let made = ctx.json(&["volume", "inspect", "db"])?["volume"].clone();
        let mapped = number(&made["mapped"])?;
        // mkfs.xfs writes its log of 64 MiB.
        let most = if fs == "xfs" { 72 << 20 } else { 8 << 20 };
        ensure!(made["fs"] == fs && mapped < most, "{made}");
        ctx.ok(&["volume", "mount", "db", text(&dir)])?;
        ensure!(names(&dir)?.is_empty(), "{:?}", names(&dir)?);
        ctx.fails(&["volume", "mount", "db", text(&dir)], 5, "is mounted on")?;
        fs::write(dir.join("file"), "kept")?;
        ctx.fails(&["volume", "rm", "db"], 5, "volume db is mounted on")?;
        let held = ctx.json(&["volume", "who", "db"])?["who"].clone();
        ensure!(value(&held, "holders")?.len() == 1, "{held}");
        ctx.ok(&["volume", "grow", "db", "1G"])?;
        ensure!(df_mib("size", &dir)? > 850, "{fs}");
        fs::write(dir.join("large"), vec![7; 16 << 20])?;
        witness("sync", &["-f", text(&dir)])?;
        ctx.ok(&["volume", "umount", "db"])?;
        let all = ctx.json(&["trim", "--all"])?;
        let kinds: Vec<_> = value(&all, "trimmed")?.iter().map(|t| &t["kind"]).collect();
        ensure!(kinds == ["container", "data"], "{all}");
        ctx.ok(&["pool", "close", "tank"])?;
        ctx.ok(&["pool", "open", "tank"])?;
        witness(checker[0], &[checker[1], node])?;
        ctx.ok(&["volume", "mount", "db", text(&dir)])?;
        ensure!(fs::read(dir.join("file"))? == b"kept");
        ctx.ok(&["volume", "umount", "db"])?;
        ctx.ok(&["check"])?;
        let used = number(&status(ctx)?["live"]["data"]["used"])?;
        let plan = ctx.json(&["volume", "rm", "db", "--dry-run"])?["plan"].clone();
        ctx.ok(&["volume", "rm", "db"])?;
        let left = number(&status(ctx)?["live"]["data"]["used"])?;
        ensure!(used - left == number(&plan["pool_bytes"])?, "{plan}");
        ctx.fails(&["volume", "inspect", "db"], 3, "there is no volume db")?;
    }
    ctx.fails(&["volume", "create", "tiny", "4K"], 1, "mkfs")?;
    ensure!(ctx.ok(&["container", "list", "-q"])? == "db\n");
    ensure!(ctx.ok(&["volume", "list", "-q"])?.is_empty());
    ctx.ok(&["check"]).map(drop)
}

fn volume_snapshots(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "1G", "--metadata-size", "16M"])?;
    ctx.ok(&["volume", "create", "db", "256M"])?;
    let dir = ctx.mkdir("db")?;
    ctx.ok(&["volume", "mount", "db", text(&dir)])?;
    fs::write(dir.join("file"), "old")?;
    ctx.ok(&["volume", "snapshot", "db", "one"])?;
    fs::write(dir.join("file"), "new")?;
    ctx.fails(&["volume", "rollback", "db", "one"], 5, "is mounted on")?;
    ctx.ok(&["volume", "umount", "db"])?;
    ctx.ok(&["volume", "rollback", "db", "one"])?;
    ctx.ok(&["volume", "mount", "db", text(&dir)])?;
    ensure!(fs::read(dir.join("file"))? == b"old");
    ctx.ok(&["volume", "umount", "db"])?;
    ctx.fails(&["volume", "rm", "db"], 5, "volume db has snapshot one")?;
    ctx.ok(&["volume", "snapshot-rm", "db", "one"])?;
    ensure!(ctx.ok(&["volume", "snapshots", "db", "-q"])?.is_empty());
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-vol-db"])?;
    ctx.ok(&["volume", "rm", "db"])?;
    ctx.ok(&["check"]).map(drop)
}
