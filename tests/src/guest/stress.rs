//! Thirty-two at a time do what they like, some are killed: at the end everything is settled, and nothing is
//! left of any kind.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::build::{Image, Layer};
use super::dice::Dice;
use super::growth::{make, number, status};
use super::harness::{Ctx, Output, Test, run, text, thin_ids, witness};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[("stress_of_32_at_a_time_leaves_nothing", stress)];

const HANDS: u64 = 32;
/// Verbs of each hand, where `DMTHIN_STRESS_VERBS` does not say otherwise.
const VERBS: u64 = 12;
const SEED: u64 = 0x5eed_0004;
/// Containers they quarrel about.
const NAMES: u64 = 24;
/// What is written to, as the command and its lists call it.
const WRITABLE: [(&str, &str); 2] = [("container", "containers"), ("volume", "volumes")];
/// One verb in so many is killed.
const KILLED: u64 = 16;

/// A verb and the exit codes that make sense of it among others; 75 always does.
fn verb(dice: &mut Dice, ctx: &Ctx, dir: &str) -> (Vec<String>, &'static [i32]) {
    let name = format!("c{}", dice.below(NAMES));
    let image = dice.below(3);
    let archive = ctx.dir.join(format!("img{image}.tar"));
    let image = format!("img{image}:1");
    let (other, snapshot) = (
        format!("c{}", dice.below(NAMES)),
        format!("s{}", dice.below(2)),
    );
    let volume = format!("v{}", dice.below(4));
    let committed = format!("img{}:1", dice.below(3));
    // Names end, and begin again, under everybody's hands.
    let (words, codes): (Vec<&str>, &[i32]) = match dice.below(43) {
        0..=4 => (
            vec!["container", "create", "demo:1", "--name", &name],
            &[0, 4, 6],
        ),
        5 => (
            vec!["container", "create", &image, "--name", &name],
            &[0, 3, 4, 6],
        ),
        6 => (vec!["container", "rm", &name], &[0, 3, 5]),
        7 => (vec!["container", "rm", &name, "--snapshots"], &[0, 3]),
        8 => (vec!["container", "rm", &name, "--queue"], &[0, 3, 5]),
        9 => (vec!["container", "rm", &name, "--wait=1"], &[0, 3, 5]),
        10..=12 => (vec!["container", "mount", &name, dir], &[0, 3, 5]),
        13 | 14 => (vec!["container", "umount", &name], &[0, 3, 5]),
        15 => (vec!["container", "grow", &name, "600M"], &[0, 3, 5]),
        16 | 17 => (vec!["image", "import", text(&archive)], &[0, 6]),
        18 => (vec!["image", "rm", &image], &[0, 3, 5]),
        19 => (vec!["queue", "run"], &[0, 5]),
        20 => (vec!["gc"], &[0, 1, 5]),
        21 => (vec!["container", "trim", &name], &[0, 3, 5]),
        22 => (vec!["pool", "status"], &[0]),
        23 => (vec!["container", "list"], &[0]),
        24 => (vec!["df"], &[0]),
        25 => (vec!["check"], &[0, 1]),
        26 | 27 => (
            vec!["container", "fork", &name, "--name", &other],
            &[0, 3, 4, 6],
        ),
        28 | 29 => (
            vec!["container", "snapshot", &name, &snapshot],
            &[0, 3, 4, 6],
        ),
        30 => (
            vec!["container", "snapshot-rm", &name, &snapshot],
            &[0, 3, 5],
        ),
        31 | 32 => (vec!["container", "rollback", &name, &snapshot], &[0, 3, 5]),
        33 => (vec!["container", "reset", &name], &[0, 3, 5]),
        34 => (vec!["container", "diff", &name], &[0, 3]),
        35 => (
            vec!["container", "commit", &name, "--name", &committed],
            &[0, 3, 6],
        ),
        36 => (vec!["image", "prune"], &[0]),
        37 | 38 => (vec!["volume", "create", &volume, "64M"], &[0, 4, 6]),
        39 => (
            vec!["volume", "snapshot", &volume, &snapshot],
            &[0, 3, 4, 6],
        ),
        40 => (vec!["volume", "rm", &volume, "--snapshots"], &[0, 3]),
        41 => (vec!["df", "-v"], &[0]),
        _ => (vec!["pool", "open", "tank"], &[0]),
    };
    (words.into_iter().map(str::to_owned).collect(), codes)
}

/// Runs a verb; kills it after so long where that is told, and then gives nothing.
fn perform(ctx: &Ctx, args: &[String], kill: Option<Duration>) -> Result<Option<Output>> {
    let mut child = Command::new("pool-cli")
        .args(["--root", text(&ctx.root), "-q"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(after) = kill {
        thread::sleep(after);
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    let output = child.wait_with_output()?;
    Ok(Some(Output {
        code: output.status.code().unwrap_or(128),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }))
}

/// Whether the answer makes sense, of a verb that others may have been killed before.
fn makes_sense(output: &Output, codes: &[i32]) -> bool {
    // What a kill left half-made is told, with the way out.
    let cut = output.code == 1
        && output
            .stderr
            .contains("hint: have it settled: pool-cli pool open");
    codes.contains(&output.code) || output.code == 75 || cut
}

fn semaphores() -> Result<usize> {
    Ok(fs::read_to_string("/proc/sysvipc/sem")?.lines().count())
}

fn import(ctx: &Ctx) -> Result<()> {
    for n in 0..3_u8 {
        let layer = Layer::new().file("file", &vec![n; 1 << 20]).bytes();
        Image::new(&format!("img{n}:1"), vec![layer])
            .write(&ctx.dir.join(format!("img{n}.tar")))?;
    }
    Ok(())
}

fn stress(ctx: &Ctx) -> Result<()> {
    let verbs: u64 = match std::env::var("DMTHIN_STRESS_VERBS") {
        Ok(number) => number.parse()?,
        Err(_) => VERBS,
    };
    make(ctx, &["--size", "3G"])?;
    import(ctx)?;
    ctx.ok(&["image", "rm", "demo:1"])?;
    let used = |ctx: &Ctx| -> Result<u64> { number(&status(ctx)?["live"]["data"]["used"]) };
    let before = used(ctx)?;
    let (had_semaphores, udev) = (semaphores()?, fs::exists("/run/udev/control")?);
    ctx.ok(&["image", "import", text(&ctx.dir.join("demo-1.tar"))])?;
    let counts: Mutex<BTreeMap<String, u64>> = Mutex::default();
    let senseless: Mutex<Vec<String>> = Mutex::default();
    let kills = Mutex::new(0_usize);
    let started = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let hands: Vec<_> = (1..=HANDS)
            .map(|hand| {
                let (counts, senseless, kills) = (&counts, &senseless, &kills);
                scope.spawn(move || -> Result<()> {
                    let mut dice = Dice::new(SEED.wrapping_mul(hand * 2 + 1));
                    let dir = ctx.mkdir(&format!("hand{hand}"))?;
                    for _ in 0..verbs {
                        let (args, codes) = verb(&mut dice, ctx, text(&dir));
                        let kill = (dice.below(KILLED) == 0)
                            .then(|| Duration::from_millis(dice.below(3000)));
                        let output = perform(ctx, &args, kill)?;
                        let what = args.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
                        let told = match &output {
                            Some(output) => format!("{what}: {}", output.code),
                            None => format!("{what}: killed"),
                        };
                        *counts.lock().expect("no panic").entry(told).or_default() += 1;
                        match output {
                            None => *kills.lock().expect("no panic") += 1,
                            Some(output) if !makes_sense(&output, codes) => {
                                // What `check` finds is on its output.
                                let Output { code, .. } = output;
                                let told =
                                    format!("{args:?}: {code} {}{}", output.stderr, output.stdout);
                                senseless.lock().expect("no panic").push(told);
                            }
                            // Somebody may unmount it meanwhile, and then it goes into the directory.
                            Some(_) => {
                                let _ = fs::write(dir.join("file"), vec![7; 256 << 10]);
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        hands
            .into_iter()
            .try_for_each(|hand| hand.join().expect("no hand panics"))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let done: u64 = counts.lock().expect("no panic").values().sum();
    println!(
        "{HANDS} x {verbs} verbs in {seconds:.0} s, {:.1} a second: {:?}",
        f64::from(u32::try_from(done)?) / seconds,
        counts.lock().expect("no panic")
    );
    let senseless = senseless.into_inner().expect("no panic");
    ensure!(senseless.is_empty(), "these make no sense: {senseless:#?}");
    let killed = kills.into_inner().expect("no panic");
    for hand in 1..=HANDS {
        // Several containers may lie one on the other there.
        while run(
            "umount",
            &["-A", text(&ctx.dir.join(format!("hand{hand}")))],
        )?
        .code
            == 0
        {}
    }
    settled(ctx)?;
    let now = semaphores()?;
    let may_be = if udev {
        had_semaphores + killed
    } else {
        had_semaphores
    };
    ensure!(
        now <= may_be,
        "{now} semaphores, {had_semaphores} before, {killed} kills"
    );
    all_goes(ctx)?;
    ensure!(
        used(ctx)? == before,
        "{before} bytes were used, then {}",
        used(ctx)?
    );
    Ok(())
}

/// One `pool open` settles everything: rows, volumes in the pool and devices are the same then.
fn settled(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["pool", "open", "tank"])?;
    let found = ctx.cli(&["check"])?;
    ensure!(found.code == 0, "{}{}", found.stdout, found.stderr);
    let rows = rows(ctx)?;
    let ids = thin_ids(ctx, "tank")?;
    let count = u64::try_from(ids.split_whitespace().count())?;
    ensure!(
        count == rows,
        "{count} volumes in the pool, {rows} in the catalogue: {ids}"
    );
    let suspended = witness(
        "dmsetup",
        &["info", "-c", "--noheadings", "-o", "name,suspended"],
    )?;
    ensure!(!suspended.contains("Suspended"), "{suspended}");
    let mounts = fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains("dmthin-"), "{mounts}");
    Ok(())
}

/// How many volumes of the pool the catalogue knows of: its base, layers, containers, data volumes, and snapshots.
fn rows(ctx: &Ctx) -> Result<u64> {
    let listed = |words: &[&str], key: &str| -> Result<Vec<Value>> {
        let list = ctx.json(words)?;
        Ok(list[key].as_array().context("no list")?.clone())
    };
    let mut rows = 1 + number(&status(ctx)?["layers"])?;
    for (noun, key) in WRITABLE {
        for item in listed(&[noun, "list"], key)? {
            let name = item["name"].as_str().context("no name")?;
            let snapshots = listed(&[noun, "snapshots", name], "snapshots")?;
            rows += 1 + u64::try_from(snapshots.len())?;
        }
    }
    Ok(rows)
}

/// Everything is removed but the base.
fn all_goes(ctx: &Ctx) -> Result<()> {
    for (noun, key) in WRITABLE {
        let listed = ctx.json(&[noun, "list"])?;
        for item in listed[key].as_array().context("no list")? {
            let name = item["name"].as_str().context("no name")?;
            ctx.ok(&[noun, "rm", name, "--snapshots"])?;
        }
    }
    let listed = ctx.json(&["image", "list"])?;
    for item in listed["images"].as_array().context("no list")? {
        ctx.ok(&["image", "rm", item["id"].as_str().context("no id")?])?;
    }
    ctx.ok(&["queue", "run"])?;
    ctx.ok(&["check"]).map(drop)
}
