//! What must hold after a power cut at any moment: in the guest, on a throw-away copy of the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::history::{self, Act, Cut, Facts, Op};
use super::layout::{Layout, Stage, unmap};
use crate::guest::build::digest;
use crate::guest::harness::{Output, run, text, witness};

/// What a command may take; it takes two seconds or so under emulation.
const PATIENCE: Duration = Duration::from_secs(180);

fn cli(args: &[&str]) -> Result<Output> {
    let child = Command::new("pool-cli")
        .args(["--root", "/srv/root", "-q"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_child(&child);
    let (ended, end) = channel::<()>();
    let watch = thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let output = child.wait_with_output()?;
    drop(ended);
    watch.join().ok().context("the watch panicked")?;
    Ok(Output {
        code: output.status.code().unwrap_or(128),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn ok(args: &[&str]) -> Result<()> {
    let output = cli(args)?;
    ensure!(
        output.code == 0,
        "pool-cli {} ended with {}: {}",
        args.join(" "),
        output.code,
        output.stderr.trim()
    );
    Ok(())
}

fn json(args: &[&str]) -> Result<Value> {
    let output = cli(&[&["--json"], args].concat())?;
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("{}: {}{}", args.join(" "), output.stdout, output.stderr))
}

/// Looks at everything; the parts of `disk` are assembled. An error says what is not as it must be. Of the
/// images `turn` says which one is read.
pub(crate) fn check(layout: Layout, disk: &str, ops: &[Op], cut: Cut, turn: usize) -> Result<()> {
    witness("mount", &["/dev/mapper/pc-state", "/srv"]).context("the state's file system")?;
    if cut.done > 0 {
        witness("thin_check", &[layout.metadata()]).context("before pool open")?;
        ok(&["pool", "open", "tank"])?;
    } else if cli(&["pool", "open", "tank"])?.code != 0 {
        return made_anew(ops);
    }
    no_findings()?;
    let mut found = sizes()?;
    containers(&mut found)?;
    volumes(&mut found)?;
    let images = names(&json(&["image", "list"])?["images"])?;
    read_image(&images, ops, cut, turn, &mut found)?;
    let wrong = history::wrong(ops, cut, &found);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    usable(layout, disk, &images)?;
    ok(&["pool", "close", "tank"])?;
    witness("thin_check", &[layout.metadata()]).context("after pool close")?;
    Ok(())
}

/// A pool of which the making was cut: what there is goes, and it is made.
fn made_anew(ops: &[Op]) -> Result<()> {
    let destroyed = cli(&["pool", "destroy", "tank"])?;
    ensure!(
        [0, 3].contains(&destroyed.code),
        "pool destroy of a pool half made ended with {}: {}",
        destroyed.code,
        destroyed.stderr.trim()
    );
    let Some(Act::Cli(create)) = ops.first().map(|op| &op.act) else {
        bail!("the history begins with no command")
    };
    ok(create)?;
    no_findings()?;
    ok(&["pool", "close", "tank"])
}

fn no_findings() -> Result<()> {
    let found = json(&["check", "tank"])?;
    ensure!(
        found["findings"].as_array().is_some_and(Vec::is_empty),
        "check: {found}"
    );
    Ok(())
}

/// What the catalogue says, which the kernel must agree with.
fn sizes() -> Result<Facts> {
    let status = json(&["pool", "status", "tank"])?;
    let pool = &status["pool"];
    for part in ["data", "metadata"] {
        let sizes = [&pool["live"][part]["total"], &pool[part]["size"]].map(Value::as_u64);
        ensure!(
            sizes[0] == sizes[1],
            "the kernel has {part} of {:?} bytes, the catalogue of {:?}",
            sizes[0],
            sizes[1]
        );
    }
    let sizes = [
        ("pool data", &pool["data"]["size"]),
        ("pool metadata", &pool["metadata"]["size"]),
        ("pool base", &pool["base_size"]),
    ];
    Ok(sizes
        .map(|(name, size)| (name.to_owned(), size.to_string()))
        .into())
}

fn names(images: &Value) -> Result<Vec<String>> {
    let images = images.as_array().context("no images")?;
    let names = images.iter().filter_map(|image| image["names"].as_array());
    names
        .flatten()
        .map(|name| Ok(name.as_str().context("a name")?.to_owned()))
        .collect()
}

/// The files below a directory: those of the image, and those that were written since.
fn tree(root: &Path) -> Result<(String, BTreeMap<String, String>)> {
    let (mut tree, mut written) = (BTreeMap::new(), BTreeMap::new());
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = text(path.strip_prefix(root)?).to_owned();
            if path.is_dir() {
                tree.insert(format!("{name}/"), Vec::new());
                dirs.push(path);
            } else if name.starts_with("written-") {
                written.insert(name, digest(&fs::read(path)?));
            } else {
                tree.insert(name, fs::read(path)?);
            }
        }
    }
    Ok((history::tree_digest(&tree), written))
}

/// What a container holds.
fn content(name: &str) -> Result<(String, BTreeMap<String, String>)> {
    let dir = format!("/mnt/{name}");
    fs::create_dir_all(&dir)?;
    ok(&["container", "mount", name, &dir])?;
    let tree = tree(Path::new(&dir)).with_context(|| format!("files of {name}"))?;
    ok(&["container", "umount", name])?;
    Ok(tree)
}

fn fsck(name: &str) -> Result<()> {
    let device = format!("/dev/mapper/dmthin-tank-ctr-{name}");
    witness("e2fsck", &["-fn", &device]).map(drop)
}

fn containers(found: &mut Facts) -> Result<()> {
    let list = json(&["container", "list"])?;
    for container in list["containers"].as_array().context("no containers")? {
        let name = container["name"].as_str().context("a name")?;
        ensure!(
            container["state"] == "ready",
            "after pool open: {container}"
        );
        // The journal of one that was written first.
        let (tree, written) = content(name)?;
        fsck(name)?;
        snapshots("container", name, found)?;
        found.insert(
            format!("container {name}"),
            format!("{} {tree}", container["size"]),
        );
        for (file, digest) in written {
            found.insert(format!("file {name}/{file}"), digest);
        }
    }
    Ok(())
}

fn volumes(found: &mut Facts) -> Result<()> {
    let list = json(&["volume", "list"])?;
    for volume in list["volumes"].as_array().context("no volumes")? {
        let name = volume["name"].as_str().context("a name")?;
        witness(
            "e2fsck",
            &["-fn", &format!("/dev/mapper/dmthin-tank-vol-{name}")],
        )?;
        snapshots("volume", name, found)?;
        found.insert(format!("volume {name}"), volume["size"].to_string());
    }
    Ok(())
}

fn snapshots(noun: &str, of: &str, found: &mut Facts) -> Result<()> {
    let list = json(&[noun, "snapshots", of])?;
    for snapshot in list["snapshots"].as_array().context("no snapshots")? {
        let name = snapshot["name"].as_str().context("a name")?;
        found.insert(format!("snapshot {noun} {of}/{name}"), String::new());
    }
    Ok(())
}

/// What is sealed is read through a container made of it, before that is written at all: one image of
/// those that are there, by turns.
fn read_image(
    images: &[String],
    ops: &[Op],
    cut: Cut,
    turn: usize,
    found: &mut Facts,
) -> Result<()> {
    for image in images {
        let name = format!("image {image}");
        let known = history::known(ops, cut, &name);
        found.insert(name, known.unwrap_or_else(|| "unknown".to_owned()));
    }
    let Some(image) = turn.checked_rem(images.len()).and_then(|n| images.get(n)) else {
        return Ok(());
    };
    ok(&["container", "create", image, "--name", "new"])?;
    fsck("new")?;
    let (tree, written) = content("new")?;
    let fact = history::image_fact(&tree, &written);
    found.insert(format!("image {image}"), fact);
    Ok(())
}

/// The pool takes what it takes on any day.
fn usable(layout: Layout, disk: &str, images: &[String]) -> Result<()> {
    if images.is_empty() {
        ok(&["image", "import", "/tmp/images/a-1.tar"])?;
        ok(&["container", "create", "a:1", "--name", "new"])?;
    }
    ok(&["container", "rm", "new"])?;
    layout.enlarge(disk, Stage::Checked)?;
    ok(&[&["pool", "grow", "tank"], layout.grow_again_options()].concat())?;
    let sizes = sizes()?;
    ensure!(
        sizes["pool data"] == (832_u64 << 20).to_string()
            && sizes["pool metadata"] == (24_u64 << 20).to_string(),
        "not grown: {sizes:?}"
    );
    Ok(())
}

/// Takes everything away again, the disk too, whatever became of it.
pub(crate) fn clear(layout: Layout, failed: bool) -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if target.starts_with("/mnt/") {
            run("umount", &[target])?;
        }
    }
    let mounted = mounts.contains(" /srv ");
    let ours = |listed: &str| listed.contains("dmthin-");
    if mounted && failed {
        cli(&["pool", "close", "tank"])?;
    }
    if ours(&witness("dmsetup", &["ls"])?) {
        for pass in ["ctr|layer|base|vol|snap|mirror|ballast", "pool"] {
            let script = format!(
                "for d in $(dmsetup ls | awk '{{print $1}}' | grep -E '^dmthin-.*({pass})'); do \
                 dmsetup resume $d; dmsetup remove --retry $d; done"
            );
            run("sh", &["-c", &script])?;
        }
    }
    if mounted {
        run("umount", &["/srv"])?;
    }
    unmap(&[layout.names(), vec!["pc-disk"]].concat())?;
    let left = witness("dmsetup", &["ls"])?;
    ensure!(
        !ours(&left) && !left.contains("pc-"),
        "cannot be cleared away: {left}"
    );
    Ok(())
}
