//! Many containers that come and go, by several hands at a time: nothing of any kind is left of them.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context, Result, ensure};

use super::containers::allocated;
use super::harness::{Ctx, Test, eventually, run, text, witness};
use super::removal::{
    Holder, create, hold_mounted, hold_open, nothing_is_left, pool_with_image, queue,
    remove_among_others,
};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("cycles_of_200_held_containers_leave_nothing", held),
    ("cycles_of_100_written_containers_give_space_back", written),
];

/// How many work at a time.
const HANDS: usize = 8;

/// Something that has a container's device, until it is dropped.
enum Hold {
    Process(#[expect(dead_code, reason = "it is there to be dropped")] Holder),
    Loop(String),
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Self::Loop(node) = self {
            let _ = run("losetup", &["-d", node]);
        }
    }
}

/// The three ways to hold a device, in turns.
fn hold(ctx: &Ctx, name: &str, turn: usize) -> Result<Hold> {
    let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
    Ok(match turn % 3 {
        0 => Hold::Process(hold_open(&node)?),
        1 => Hold::Process(hold_mounted(&node, &ctx.mkdir(name)?)?),
        _ => {
            let told = witness("losetup", &["-f", "--show", &node])?;
            Hold::Loop(told.trim().to_owned())
        }
    })
}

/// Runs so many hands, each by its number.
fn hands(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        running
            .into_iter()
            .try_for_each(|hand| hand.join().expect("no hand panics"))
    })
}

/// Names below a directory and one level further.
fn names(dir: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Ok(below) = fs::read_dir(&path) {
            found.extend(below.flatten().map(|entry| entry.path()));
        }
        found.insert(path);
    }
    Ok(found)
}

/// All that a container can leave outside of the pool.
#[derive(Debug, PartialEq)]
pub(super) struct Outside {
    devices: String,
    loops: String,
    mounts: String,
    semaphores: usize,
    block_nodes: BTreeSet<PathBuf>,
    mapper: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
}

impl Outside {
    /// As it is now.
    pub(super) fn now() -> Result<Self> {
        let is_dm = |path: &PathBuf| text(path).starts_with("/dev/dm-");
        Ok(Self {
            devices: witness(
                "dmsetup",
                &["info", "-c", "--noheadings", "-o", "name,uuid"],
            )?,
            loops: witness("losetup", &["-ln", "-O", "BACK-FILE"])?,
            mounts: fs::read_to_string("/proc/mounts")?,
            semaphores: fs::read_to_string("/proc/sysvipc/sem")?.lines().count(),
            block_nodes: names("/dev")?.into_iter().filter(is_dm).collect(),
            mapper: names("/dev/mapper")?,
            links: names("/dev/dmthin").unwrap_or_default(),
        })
    }

    /// That all is as it was.
    pub(super) fn is_still(&self) -> Result<()> {
        ensure!(
            eventually(|| Ok(Self::now()? == *self))?,
            "before {self:?}\nafter {:?}",
            Self::now()?
        );
        Ok(())
    }
}

/// That the pool has nothing but its image, by its own word and by the kernel's.
fn only_the_image(ctx: &Ctx) -> Result<()> {
    nothing_is_left(ctx)?;
    ensure!(ctx.ok(&["container", "list", "-q"])?.is_empty());
    let found = ctx.json(&["check"])?["findings"].clone();
    ensure!(found.as_array().is_some_and(Vec::is_empty), "{found}");
    Ok(())
}

fn held(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let outside = Outside::now()?;
    let most = std::sync::atomic::AtomicUsize::new(0);
    hands(HANDS, |hand| {
        let mut before = None;
        for turn in 0..200 / HANDS {
            // The same few names again and again, each time another volume.
            let name = format!("c{hand}");
            create(ctx, &name)?;
            let holder = hold(ctx, &name, hand + turn)?;
            remove_among_others(ctx, &name)?;
            // The one before goes when the next is removed already: the queue is never empty.
            before = Some(holder);
            if hand == 0 && turn % 8 == 7 {
                ctx.ok(&["queue", "run"])?;
                let queued = queue(ctx)?.len();
                most.fetch_max(queued, std::sync::atomic::Ordering::Relaxed);
            }
        }
        drop(before);
        Ok(())
    })?;
    let most = most.into_inner();
    ensure!(most >= HANDS - 1, "at most {most} were held at a time");
    ctx.ok(&["queue", "run", "--wait=120"])?;
    only_the_image(ctx)?;
    outside.is_still()
}

/// Bytes that the pool's metadata file takes.
fn metadata(ctx: &Ctx) -> Result<u64> {
    Ok(fs::metadata(ctx.root.join("tank/metadata.img"))?.blocks() << 9)
}

/// 100 containers of 4 MiB each, all there at a time, then all removed.
fn written(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let outside = Outside::now()?;
    let (empty, small) = (allocated(ctx)?, metadata(ctx)?);
    let (there, measured) = (Barrier::new(HANDS + 1), Barrier::new(HANDS + 1));
    let mut full = Ok(0);
    thread::scope(|scope| -> Result<()> {
        let running = scope.spawn(|| {
            hands(HANDS, |hand| {
                let names: Vec<_> = (hand..100)
                    .step_by(HANDS)
                    .map(|n| format!("c{n}"))
                    .collect();
                let made = names.iter().try_for_each(|name| write(ctx, name));
                there.wait();
                measured.wait();
                made?;
                names.iter().try_for_each(|name| {
                    let gone = ctx.json(&["container", "rm", name])?;
                    ensure!(gone["removed"] == true, "{gone}");
                    Ok(())
                })
            })
        });
        there.wait();
        full = allocated(ctx);
        measured.wait();
        running.join().expect("no hand panics")
    })?;
    let full = full?;
    ensure!(full - empty >= 400 << 20, "{full} after {empty}");
    let after = allocated(ctx)?;
    ensure!(
        after <= empty + empty / 100,
        "{after} bytes, {empty} before"
    );
    // The metadata's file keeps what it ever took: the kernel uses those blocks again, and discards none.
    let kept = metadata(ctx)?;
    ensure!(
        (small..24 << 20).contains(&kept),
        "{kept} of metadata, {small} before"
    );
    only_the_image(ctx)?;
    outside.is_still()
}

/// Makes a container and writes into it, mounted as a virtual machine may: without `discard`.
fn write(ctx: &Ctx, name: &str) -> Result<()> {
    create(ctx, name)?;
    let dir = ctx.mkdir(name)?;
    let node = format!("/dev/mapper/dmthin-tank-ctr-{name}");
    witness("mount", &[&*node, text(&dir)])?;
    let mut file = File::create(dir.join("file")).context(node)?;
    file.write_all(&[0x5a; 4 << 20])?;
    drop(file);
    witness("umount", &[text(&dir)]).map(drop)
}
