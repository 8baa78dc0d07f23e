//! Pools that grow while ten containers are written, on everything a pool can lie on, and whose growth is
//! killed before each of its steps.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::disks::{check_disk, detach};
use super::growth::{make, mounted, number, status};
use super::harness::{Ctx, Test, block_device, run, text, within, witness};
use super::shared::{remove_group, volume_group};
use crate::fio::{Pass, file_name, fio};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("load_of_ten_while_files_grow", |ctx| files(ctx, by_writers)),
    ("load_of_ten_by_fio_while_files_grow", |ctx| {
        files(ctx, by_fio)
    }),
    ("load_of_ten_by_fio_while_block_devices_grow", devices),
    ("load_of_ten_by_fio_while_lvm_volumes_grow", volumes),
    ("load_of_ten_by_fio_while_a_whole_disk_grows", disk),
    ("growth_of_files_killed_at_each_step", files_killed),
    ("growth_of_devices_killed_at_each_step", devices_killed),
    ("growth_of_a_disk_killed_at_each_step", disk_killed),
];

/// Makes a pool larger, at this step.
type Grow<'a> = dyn FnMut(u64) -> Result<()> + 'a;

const WRITERS: u64 = 10;
/// What is written at a time.
const BLOCK: usize = 64 << 10;
/// Blocks in a writer's file, which is written from the begin again at its end.
const BLOCKS: u64 = 192;

/// What block `index` of a writer has in its round: no two blocks are alike.
fn block(writer: u64, index: u64, round: u64) -> Vec<u8> {
    let words = [writer, index, round, 0x9e37_79b9_7f4a_7c15];
    let unit: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    unit.repeat(BLOCK / unit.len())
}

/// Writes until it is told to stop; how many blocks it wrote.
fn write(path: &Path, writer: u64, stop: &AtomicBool, done: &AtomicU64) -> Result<u64> {
    let file = File::create(path)?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let (index, round) = (n % BLOCKS, n / BLOCKS);
        file.write_all_at(&block(writer, index, round), index * block_len())?;
        n += 1;
        if n % 8 == 0 {
            file.sync_data()?;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    file.sync_all()?;
    Ok(n)
}

fn block_len() -> u64 {
    u64::try_from(BLOCK).expect("it is small")
}

/// That a file has the last of each block.
fn verify(path: &Path, writer: u64, written: u64) -> Result<()> {
    let file = File::open(path)?;
    let mut found = vec![0; BLOCK];
    for index in 0..written.min(BLOCKS) {
        let round = (written - 1 - index) / BLOCKS;
        file.read_exact_at(&mut found, index * block_len())?;
        ensure!(
            found == block(writer, index, round),
            "block {index} of writer {writer} is not that of round {round}"
        );
    }
    Ok(())
}

/// Writes until it is told to stop; tells how many blocks are on the disk, and the longest time in
/// milliseconds that it was kept waiting by a block.
pub(super) fn timed_write(
    path: &Path,
    writer: u64,
    stop: &AtomicBool,
    flushed: &AtomicU64,
    longest: &AtomicU64,
) -> Result<()> {
    let file = File::create(path)?;
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let (index, round) = (n % BLOCKS, n / BLOCKS);
        let started = Instant::now();
        file.write_all_at(&block(writer, index, round), index * block_len())?;
        n += 1;
        if n % 8 == 0 {
            file.sync_data()?;
            flushed.store(n, Ordering::SeqCst);
        }
        let waited = u64::try_from(started.elapsed().as_millis())?;
        longest.fetch_max(waited, Ordering::SeqCst);
        // A disk that is kept full tells nothing of who else makes its writers wait.
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// That a file is what [`timed_write`] had made of it at one moment, when at least so many blocks were on
/// the disk: from one block on it has the round before.
pub(super) fn is_a_moment_of(path: &Path, writer: u64, flushed: u64) -> Result<()> {
    let file = File::open(path)?;
    let blocks = file.metadata()?.len() / block_len();
    let mut found = vec![0; BLOCK];
    let mut rounds = Vec::new();
    for index in 0..blocks {
        file.read_exact_at(&mut found, index * block_len())?;
        let round = u64::from_le_bytes(found[16..24].try_into()?);
        ensure!(
            found == block(writer, index, round),
            "block {index} of writer {writer} is none that it wrote"
        );
        rounds.push(round);
    }
    let newest = rounds.first().copied().unwrap_or(0);
    let done = u64::try_from(rounds.iter().filter(|round| **round == newest).count())?;
    let begins = usize::try_from(done)?;
    ensure!(
        rounds[begins..].iter().all(|round| round + 1 == newest)
            && (newest == 0 || blocks == BLOCKS),
        "writer {writer} has no moment with {rounds:?}"
    );
    let written = newest * BLOCKS + done;
    ensure!(
        written >= flushed,
        "writer {writer}: {written} of {flushed} blocks"
    );
    Ok(())
}

/// Four steps of growth, each between writes of all ten; then all that was written is there.
fn by_writers(ctx: &Ctx, grow: &mut Grow<'_>) -> Result<()> {
    let dirs = (0..WRITERS)
        .map(|n| mounted(ctx, &format!("c{n}"), "512M"))
        .collect::<Result<Vec<PathBuf>>>()?;
    let stop = AtomicBool::new(false);
    let counts: Vec<_> = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let total = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["total"]) };
    let everybody_writes = || -> Result<()> {
        let before: Vec<_> = counts.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let started = Instant::now();
        while counts
            .iter()
            .zip(&before)
            .any(|(now, before)| now.load(Ordering::Relaxed) == *before)
        {
            ensure!(
                started.elapsed() < Duration::from_secs(60),
                "a writer hangs"
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let written = thread::scope(|scope| -> Result<Vec<u64>> {
        let writers: Vec<_> = (0_u64..)
            .zip(dirs.iter().zip(&counts))
            .map(|(n, (dir, done))| {
                let stop = &stop;
                scope.spawn(move || write(&dir.join("file"), n, stop, done))
            })
            .collect();
        let grown = (1..=4_u64).try_for_each(|step| {
            everybody_writes()?;
            let before = total()?;
            grow(step)?;
            let after = total()?;
            ensure!(after > before, "step {step}: {before}, then {after}");
            Ok(())
        });
        let ended = grown.and_then(|()| everybody_writes());
        stop.store(true, Ordering::Relaxed);
        let written = writers
            .into_iter()
            .map(|writer| writer.join().expect("no writer panics"))
            .collect();
        ended.and(written)
    })?;
    for dir in &dirs {
        witness("umount", &[text(dir)])?;
    }
    // From the devices, not from memory.
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    for (n, (dir, written)) in (0_u64..).zip(dirs.iter().zip(written)) {
        let name = format!("c{n}");
        witness(
            "e2fsck",
            &["-fn", &format!("/dev/mapper/dmthin-tank-ctr-{name}")],
        )?;
        ctx.ok(&["container", "mount", &name, text(dir)])?;
        verify(&dir.join("file"), n, written)?;
        ctx.ok(&["container", "umount", &name])?;
    }
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    ctx.ok(&["pool", "close", "tank"]).map(drop)
}

/// Four steps of growth in the midst of fio's passes in ten containers, each of which fio reads and compares at
/// its end; the last one once more, from the devices.
fn by_fio(ctx: &Ctx, grow: &mut Grow<'_>) -> Result<()> {
    let dirs = (0..WRITERS)
        .map(|n| mounted(ctx, &format!("c{n}"), "512M"))
        .collect::<Result<Vec<PathBuf>>>()?;
    let total = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["total"]) };
    for pass in 1..=4 {
        let before = total()?;
        for dir in &dirs {
            // That of the pass before the last one, so that this one's is seen to begin.
            let _ = fs::remove_file(dir.join(file_name(pass)));
        }
        thread::scope(|scope| {
            let writing = scope.spawn(|| fio(&dirs, pass, Pass::WriteAndVerify));
            let wrote = |dir: &PathBuf| {
                fs::metadata(dir.join(file_name(pass))).is_ok_and(|file| file.len() > 0)
            };
            let begun = within(60, || Ok(writing.is_finished() || dirs.iter().all(wrote)));
            let grown = begun.and_then(|begun| {
                ensure!(
                    begun && !writing.is_finished(),
                    "pass {pass} was not under way"
                );
                grow(pass)
            });
            // What fio says first: where it failed, nothing was under way.
            writing.join().expect("fio's thread does not panic")?;
            grown
        })?;
        ensure!(total()? > before, "pass {pass}: not grown");
    }
    for dir in &dirs {
        witness("umount", &[text(dir)])?;
    }
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    for (n, dir) in dirs.iter().enumerate() {
        let name = format!("c{n}");
        witness(
            "e2fsck",
            &["-fn", &format!("/dev/mapper/dmthin-tank-ctr-{name}")],
        )?;
        ctx.ok(&["container", "mount", &name, text(dir)])?;
    }
    fio(&dirs, 4, Pass::Verify)?;
    for dir in &dirs {
        witness("umount", &[text(dir)])?;
    }
    ensure!(status(ctx)?["live"]["mode"] == "rw");
    ctx.ok(&["pool", "close", "tank"]).map(drop)
}

fn files(ctx: &Ctx, under_load: fn(&Ctx, &mut Grow<'_>) -> Result<()>) -> Result<()> {
    make(ctx, &["--size", "512M", "--metadata-size", "16M"])?;
    under_load(ctx, &mut |_| {
        ctx.ok(&["pool", "grow", "--data", "+64M", "--metadata", "+4M"])
            .map(drop)
    })
}

/// Makes a loop device and its file so large.
pub(super) fn enlarge(path: &Path, node: &str, mib: u64) -> Result<()> {
    File::options().write(true).open(path)?.set_len(mib << 20)?;
    witness("losetup", &["-c", node]).map(drop)
}

fn devices(ctx: &Ctx) -> Result<()> {
    let (data, data_node) = &block_device(ctx, "disk0", 512)?;
    let (metadata, metadata_node) = &block_device(ctx, "disk1", 16)?;
    make(ctx, &["--data", data_node, "--metadata", metadata_node])?;
    by_fio(ctx, &mut |step| {
        enlarge(data, data_node, 512 + step * 64)?;
        enlarge(metadata, metadata_node, 16 + step * 4)?;
        ctx.ok(&["pool", "grow"]).map(drop)
    })?;
    witness("thin_check", &[metadata_node])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(data_node)?;
    detach(metadata_node)
}

fn volumes(ctx: &Ctx) -> Result<()> {
    let pv = volume_group(ctx, 1024)?;
    for (name, size) in [("data", "512M"), ("meta", "16M")] {
        witness("lvcreate", &["-qy", "-Wn", "-L", size, "-n", name, "vg"])?;
    }
    make(
        ctx,
        &["--data", "/dev/vg/data", "--metadata", "/dev/vg/meta"],
    )?;
    by_fio(ctx, &mut |_| {
        witness("lvextend", &["-q", "-L", "+64M", "vg/data"])?;
        witness("lvextend", &["-q", "-L", "+4M", "vg/meta"])?;
        ctx.ok(&["pool", "grow"]).map(drop)
    })?;
    witness("thin_check", &["/dev/vg/meta"])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    remove_group(&pv)
}

fn disk(ctx: &Ctx) -> Result<()> {
    let (path, node) = &block_device(ctx, "disk0", 704)?;
    make(ctx, &["--metadata-size", "16M", "--device", node])?;
    by_fio(ctx, &mut |step| {
        enlarge(path, node, 704 + step * 64)?;
        let metadata = format!("{}M", 16 + step * 4);
        ctx.ok(&["pool", "grow", "--metadata", &metadata]).map(drop)
    })?;
    check_disk(node, 32)?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(node)
}

/// The calls of a growth that change something, as `strace` writes them.
const STEPS: &[&str] = &[
    "ftruncate(",
    "fsync(",
    "fdatasync(",
    "LOOP_SET_CAPACITY",
    "DM_TABLE_LOAD",
    "DM_DEV_SUSPEND",
];

/// Which calls of a traced command are steps: each a name, and how many calls of that name came up to it.
fn steps_of(trace: &str) -> Vec<(&'static str, usize)> {
    let mut steps = Vec::new();
    for call in ["ftruncate", "fsync", "fdatasync", "pwrite64", "ioctl"] {
        let begins = format!("{call}(");
        let lines = trace.lines().filter(|line| line.contains(&begins));
        for (number, line) in (1..).zip(lines) {
            let on_disk = call == "pwrite64" && line.contains("</dev/");
            if on_disk || STEPS.iter().any(|step| line.contains(step)) {
                steps.push((call, number));
            }
        }
    }
    steps
}

fn strace<'a>(ctx: &'a Ctx, options: &[&'a str], args: &[&'a str]) -> Result<i32> {
    let root = ["pool-cli", "--root", text(&ctx.root)];
    Ok(run("strace", &[options, &root, args].concat())?.code)
}

/// Kills `pool grow` before each call that changes something, as `strace` has the signal there when the call
/// begins: after each `pool open` finds the pool as it was, or ends what was begun.
fn killed(ctx: &Ctx, args: &[&str], mut enlarge: impl FnMut() -> Result<()>) -> Result<()> {
    let web = mounted(ctx, "web", "512M")?;
    fs::write(web.join("file"), "kept")?;
    let total = || -> Result<u64> { number(&status(ctx)?["live"]["data"]["total"]) };
    let trace = ctx.dir.join("trace");
    enlarge()?;
    let calls = "trace=ftruncate,fsync,fdatasync,pwrite64,ioctl";
    let code = strace(ctx, &["-fy", "-o", text(&trace), "-e", calls], args)?;
    ensure!(code == 0, "strace ended with {code}");
    let steps = steps_of(&fs::read_to_string(&trace)?);
    let names: Vec<_> = steps.iter().map(|(name, _)| *name).collect();
    // A commit of the catalogue, and what the kernel is told.
    for name in ["fdatasync", "ioctl"] {
        ensure!(names.contains(&name), "no {name} in {steps:?}");
    }
    let (mut before, mut after) = (0, 0);
    for (call, number) in steps {
        let size = total()?;
        enlarge()?;
        let inject = format!("inject={call}:signal=KILL:when={number}");
        let code = strace(ctx, &["-f", "-o", "/dev/null", "-e", &inject], args)?;
        ensure!(code == 128, "{call} {number} was not killed: {code}");
        let info = witness("dmsetup", &["info", "dmthin-tank-pool"])?;
        ensure!(!info.contains("SUSPENDED"), "{call} {number}: {info}");
        fs::write(web.join("more"), format!("{call} {number}"))?;
        witness("sync", &["-f", text(&web)])?;
        ctx.ok(&["pool", "open", "tank"])?;
        let pool = status(ctx)?;
        let now = total()?;
        let grown = size + (4 << 20);
        ensure!(
            now == size || now == grown,
            "{call} {number}: {size}, then {now}"
        );
        ensure!(
            pool["live"]["data"]["total"] == pool["data"]["size"]
                && pool["live"]["metadata"]["total"] == pool["metadata"]["size"]
                && pool["live"]["mode"] == "rw",
            "{call} {number}: {pool}"
        );
        if now == size {
            before += 1;
            ctx.ok(args)?;
            ensure!(
                total()? == grown,
                "{call} {number}: not grown by the same again"
            );
        } else {
            after += 1;
        }
    }
    ensure!(before > 0 && after > 0, "{before} as before, {after} ended");
    ensure!(fs::read(web.join("file"))? == b"kept");
    ctx.ok(&["container", "umount", "web"])?;
    witness("e2fsck", &["-fn", "/dev/mapper/dmthin-tank-ctr-web"])?;
    ctx.ok(&["check"])?;
    ctx.ok(&["pool", "close", "tank"]).map(drop)
}

fn files_killed(ctx: &Ctx) -> Result<()> {
    make(ctx, &["--size", "512M", "--metadata-size", "16M"])?;
    let grow = ["pool", "grow", "--data", "+4M", "--metadata", "+4K"];
    killed(ctx, &grow, || Ok(()))
}

fn devices_killed(ctx: &Ctx) -> Result<()> {
    let (data, data_node) = &block_device(ctx, "disk0", 512)?;
    let (_, metadata_node) = &block_device(ctx, "disk1", 16)?;
    make(ctx, &["--data", data_node, "--metadata", metadata_node])?;
    let mut size = 512;
    killed(ctx, &["pool", "grow"], || {
        size += 4;
        enlarge(data, data_node, size)
    })?;
    witness("thin_check", &[metadata_node])?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(data_node)?;
    detach(metadata_node)
}

fn disk_killed(ctx: &Ctx) -> Result<()> {
    let (path, node) = &block_device(ctx, "disk0", 704)?;
    make(ctx, &["--metadata-size", "16M", "--device", node])?;
    let mut size = 704;
    killed(ctx, &["pool", "grow"], || {
        size += 4;
        enlarge(path, node, size)
    })?;
    check_disk(node, 16)?;
    ctx.ok(&["pool", "destroy", "tank"])?;
    detach(node)
}
