//! Removing what somebody holds: at once for its owner, whole when it is let go.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build;
use super::containers::{allocated, given_back, write_300_mb};
use super::harness::{Ctx, Test, eventually, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    (
        "removal_of_a_container_mounted_elsewhere",
        mounted_elsewhere,
    ),
    ("removal_of_an_open_device_gives_space_back", open_device),
    ("removal_under_a_loop_device", under_a_loop),
    ("removal_cycles_under_holders_leave_nothing", cycles),
    ("removal_can_leave_the_slow_part", slow_part_is_left),
    (
        "trim_of_an_unmounted_container_gives_space_back",
        trim_gives_space_back,
    ),
];

pub(super) const WEB: &str = "/dev/mapper/dmthin-tank-ctr-web";

/// A program that holds something until it is dropped.
pub(super) struct Holder(Child);

impl Holder {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn pool_with_image(ctx: &Ctx) -> Result<()> {
    ctx.pool("tank")?;
    let image = build::small_image(&ctx.dir, "demo:1")?;
    ctx.ok(&["image", "import", text(&image)]).map(drop)
}

pub(super) fn create(ctx: &Ctx, name: &str) -> Result<()> {
    ctx.ok(&["container", "create", "demo:1", "--name", name])
        .map(drop)
}

/// Holds a device open as its standard input.
pub(super) fn hold_open(device: &str) -> Result<Holder> {
    let node = File::open(device).with_context(|| device.to_owned())?;
    let sleep = Command::new("sleep").arg("1000").stdin(node).spawn()?;
    Ok(Holder(sleep))
}

/// Mounts a device where only a process of its own sees it.
pub(super) fn hold_mounted(device: &str, dir: &Path) -> Result<Holder> {
    let script = format!(
        "mount {device} {} && echo ready && exec sleep 1000",
        text(dir)
    );
    let mut child = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("no pipe")?;
    let holder = Holder(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "ready\n", "the mount elsewhere failed: {line:?}");
    Ok(holder)
}

/// Removes a container that is held: it must be quick and succeed, and leave the volume queued.
pub(super) fn remove_held(ctx: &Ctx, name: &str) -> Result<Value> {
    let started = Instant::now();
    let gone = remove_among_others(ctx, name)?;
    let took = started.elapsed();
    // An emulated machine takes a second for any command, and this is no matter of minutes.
    ensure!(took < Duration::from_secs(10), "rm took {took:?}");
    Ok(gone)
}

/// The same where many do so at once, and how long one takes says nothing: that it ends while the holder is
/// there, and tells that it is queued, says that it did not wait.
pub(super) fn remove_among_others(ctx: &Ctx, name: &str) -> Result<Value> {
    let gone = ctx.json(&["container", "rm", name])?;
    ensure!(gone["name"] == name && gone["removed"] == false, "{gone}");
    ctx.fails(&["container", "inspect", name], 3, name)?;
    Ok(gone)
}

pub(super) fn queue(ctx: &Ctx) -> Result<Vec<Value>> {
    let listed = ctx.json(&["queue", "list"])?;
    listed["queue"].as_array().cloned().context("no queue")
}

/// The holders that `who` tells, of one kind.
fn who(ctx: &Ctx, name: &str, kind: &str) -> Result<Vec<Value>> {
    let told = ctx.json(&["who", name])?;
    ensure!(
        told == ctx.json(&["container", "who", name])?,
        "the two spellings differ"
    );
    let holders = told["who"]["holders"].as_array().context("no holders")?;
    Ok(holders
        .iter()
        .filter(|holder| holder["kind"] == kind)
        .cloned()
        .collect())
}

/// Nothing but the base, the image's two layers and the pool's own devices, its and its catalogue's copy's, is left
/// of the pool.
pub(super) fn nothing_is_left(ctx: &Ctx) -> Result<()> {
    ensure!(queue(ctx)?.is_empty(), "the queue is not empty");
    let ids = thin_ids(ctx, "tank")?;
    ensure!(ids.split_whitespace().count() == 3, "thin ids {ids:?}");
    let own = ["dmthin-tank-mirror", "dmthin-tank-pool"];
    let devices = || witness("dmsetup", &["ls"]);
    let only_pool = || -> Result<bool> {
        let listed = devices()?;
        let mut names: Vec<_> = listed
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        names.sort_unstable();
        Ok(names == own)
    };
    ensure!(eventually(only_pool)?, "devices are left: {}", devices()?);
    let nodes: Vec<_> = fs::read_dir("/dev/mapper")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("dmthin-") && !own.contains(&name.as_str()))
        .collect();
    ensure!(nodes.is_empty(), "nodes are left: {nodes:?}");
    Ok(())
}

fn mounted_elsewhere(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let dir = ctx.mkdir("elsewhere")?;
    let holder = hold_mounted(WEB, &dir)?;
    let names_it = |mounts: Vec<Value>| -> Result<()> {
        let [mount] = mounts.as_slice() else {
            anyhow::bail!("{mounts:?}");
        };
        ensure!(
            mount["target"] == text(&dir)
                && mount["here"] == false
                && mount["processes"][0]["pid"] == holder.pid()
                && mount["processes"][0]["command"] == "sleep",
            "{mount}"
        );
        Ok(())
    };
    names_it(who(ctx, "web", "mount")?)?;
    remove_held(ctx, "web")?;
    // By the name it had, as long as no other container has it.
    names_it(who(ctx, "web", "mount")?)?;
    let queued = queue(ctx)?;
    ensure!(
        queued.len() == 1 && queued[0]["state"] == "held" && queued[0]["name"] == "web",
        "{queued:?}"
    );
    // The name is free, its device's too.
    create(ctx, "web")?;
    ensure!(
        who(ctx, "web", "mount")?.is_empty(),
        "the new one is not held"
    );
    let gone = ctx.json(&["container", "rm", "web"])?;
    ensure!(gone["removed"] == true, "{gone}");

    let pid = holder.pid().to_string();
    ctx.fails(&["pool", "close", "tank"], 5, &pid)?;
    ctx.ok(&["pool", "open", "tank"])?;
    // Often enough that the next try is not due before this is over, on a slow machine too.
    for _ in 0..5 {
        ensure!(ctx.ok(&["queue", "run"])?.ends_with("\theld\n"));
    }
    ctx.fails(&["queue", "run", "--wait=1"], 5, &pid)?;
    let queued = queue(ctx)?;
    ensure!(
        queued.len() == 1 && queued[0]["attempts"].as_u64() >= Some(6),
        "{queued:?}"
    );
    // Put off by a minute and more.
    ensure!(ctx.ok(&["queue", "run", "--due"])?.is_empty());
    drop(holder);
    ensure!(
        ctx.ok(&["queue", "run", "--wait=30"])?
            .ends_with("\tremoved\n")
    );
    nothing_is_left(ctx)
}

fn open_device(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let empty = allocated(ctx)?;
    create(ctx, "web")?;
    let mount = ctx.mkdir("mnt")?;
    ctx.ok(&["container", "mount", "web", text(&mount)])?;
    write_300_mb(&mount.join("big"))?;
    let full = allocated(ctx)?;
    ctx.ok(&["container", "umount", "web"])?;
    let holder = hold_open(WEB)?;
    let open = who(ctx, "web", "open_file")?;
    ensure!(
        open.iter().any(|o| o["process"]["pid"] == holder.pid()
            && o["process"]["command"] == "sleep"
            && o["path"]
                .as_str()
                .is_some_and(|path| path.starts_with("/dev/"))),
        "{open:?}"
    );
    let gone = remove_held(ctx, "web")?;
    let told = gone["holders"].as_array().context("no holders")?;
    ensure!(
        told.iter().any(|o| o["process"]["pid"] == holder.pid()),
        "{gone}"
    );
    // A second container, which is waited for in vain, and then is not held.
    create(ctx, "db")?;
    let other = hold_open("/dev/mapper/dmthin-tank-ctr-db")?;
    ctx.fails(
        &["container", "rm", "db", "--wait=1"],
        5,
        &other.pid().to_string(),
    )?;
    drop(other);
    create(ctx, "db")?;
    let mut waiting = Command::new("pool-cli")
        .args(["--root", text(&ctx.root), "container", "rm", "--wait", "db"])
        .stdout(Stdio::null())
        .spawn()?;
    ensure!(waiting.wait()?.success(), "rm --wait of a free one");
    drop(holder);
    ctx.ok(&["queue", "run", "--wait=60"])?;
    given_back(empty, full, allocated(ctx)?)?;
    nothing_is_left(ctx)
}

fn under_a_loop(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let node = witness("losetup", &["-f", "--show", WEB])?
        .trim()
        .to_owned();
    let tested = || -> Result<()> {
        let loops = who(ctx, "web", "loop")?;
        ensure!(loops.len() == 1 && loops[0]["node"] == node, "{loops:?}");
        remove_held(ctx, "web")?;
        // Its node is gone; the loop is found all the same.
        let loops = who(ctx, "web", "loop")?;
        ensure!(loops.len() == 1 && loops[0]["node"] == node, "{loops:?}");
        ctx.fails(&["pool", "close", "tank"], 5, &node)
    };
    let result = tested();
    witness("losetup", &["-d", &node])?;
    result?;
    ctx.ok(&["queue", "run", "--wait=30"])?;
    nothing_is_left(ctx)
}

fn cycles(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    let dir = ctx.mkdir("elsewhere")?;
    let mut holders = Vec::new();
    for turn in 0..20 {
        create(ctx, "web")?;
        holders.push(if turn % 5 == 0 {
            hold_mounted(WEB, &dir)?
        } else {
            hold_open(WEB)?
        });
        remove_held(ctx, "web")?;
        if turn == 10 {
            // Some go while others come.
            holders.drain(..5);
            ctx.ok(&["queue", "run"])?;
        }
    }
    let queued = queue(ctx)?;
    ensure!(
        queued.len() >= 15 && queued.iter().all(|removal| removal["name"] == "web"),
        "{} are queued",
        queued.len()
    );
    holders.clear();
    ctx.ok(&["queue", "run", "--wait=60"])?;
    nothing_is_left(ctx)
}

fn slow_part_is_left(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let gone = ctx.json(&["container", "rm", "web", "--queue"])?;
    ensure!(gone["removed"] == false, "{gone}");
    ensure!(!Path::new(WEB).exists(), "the node outlives the container");
    let queued = queue(ctx)?;
    ensure!(
        queued.len() == 1 && queued[0]["state"] == "waiting",
        "{queued:?}"
    );
    ensure!(ctx.ok(&["queue", "run", "--due"])?.ends_with("\tremoved\n"));
    nothing_is_left(ctx)?;
    // What an opening finds it removes as well.
    create(ctx, "web")?;
    ctx.ok(&["container", "rm", "web", "--queue"])?;
    ctx.ok(&["pool", "open", "tank"])?;
    nothing_is_left(ctx)
}

/// Bytes that `trim` says it trimmed of the first container.
fn trimmed(ctx: &Ctx, args: &[&str]) -> Result<u64> {
    let told = ctx.json(args)?;
    ensure!(told["trimmed"][0]["name"] == "web", "{told}");
    told["trimmed"][0]["trimmed"].as_u64().context("no number")
}

fn trim_gives_space_back(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    create(ctx, "web")?;
    let mount = ctx.mkdir("mnt")?;
    // As a virtual machine may have it: without `discard`.
    let use_it = || -> Result<u64> {
        witness("mount", &[WEB, text(&mount)])?;
        fs::write(mount.join("first"), "x")?;
        let empty = allocated(ctx)?;
        write_300_mb(&mount.join("big"))?;
        fs::remove_file(mount.join("big"))?;
        rustix::fs::syncfs(File::open(&mount)?)?;
        Ok(empty)
    };
    let empty = use_it()?;
    witness("umount", &[text(&mount)])?;
    let full = allocated(ctx)?;
    ensure!(trimmed(ctx, &["container", "trim", "web"])? >= 300 << 20);
    given_back(empty, full, allocated(ctx)?)?;
    ensure!(
        witness(
            "dmsetup",
            &[
                "info",
                "-c",
                "--noheadings",
                "-o",
                "open",
                "dmthin-tank-ctr-web"
            ]
        )?
        .trim()
            == "0",
        "the mount outlives the trim"
    );
    // And mounted, as one of all.
    let empty = use_it()?;
    let full = allocated(ctx)?;
    ensure!(trimmed(ctx, &["pool", "trim", "tank"])? >= 300 << 20);
    given_back(empty, full, allocated(ctx)?)?;
    ctx.ok(&["container", "trim", "--all"])?;
    ctx.ok(&["container", "umount", "web"])?;
    ctx.fails(&["container", "trim", "nobody"], 3, "nobody")
}
