//! Cuts a verb right after each of its steps, one after the other.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dmthin::store::{Catalogue, VolumeState};

use super::super::harness::{Ctx, Output, run, text, thin_ids_on, without_mirror, witness};
use super::super::mirror;

/// A verb to be cut, and what to expect of it.
pub(super) struct Verb<'a> {
    /// Its command.
    pub(super) args: &'a [&'a str],
    /// The step from which on it comes to its end, whatever cuts it; cut before that it never was.
    pub(super) from: &'static str,
    /// Makes things ready for it.
    pub(super) prepare: &'a dyn Fn() -> Result<()>,
    /// Whether it is done: fails where it is anything between done and never begun.
    pub(super) is_done: &'a dyn Fn() -> Result<bool>,
    /// Whether it can be repeated where it was never begun.
    pub(super) repeats: bool,
    /// Takes back what it did.
    pub(super) undo: &'a dyn Fn() -> Result<()>,
}

/// What is done to a verb.
pub(super) type How = fn(&Ctx, &Verb<'_>) -> Result<()>;

/// A file that outlives the tests, with the steps that were passed.
pub(super) fn record(ctx: &Ctx) -> PathBuf {
    ctx.shared.join("steps-passed")
}

/// Runs `pool-cli`, killed right after so many steps; gives those that it passed.
pub(super) fn cut(ctx: &Ctx, args: &[&str], after: Option<usize>) -> Result<(Output, Vec<String>)> {
    let told = ctx.dir.join("told");
    let _ = fs::remove_file(&told);
    let this = std::env::current_exe()?;
    let after = after.map(|after| after.to_string());
    let mut words = vec!["step", "--told", text(&told)];
    if let Some(after) = &after {
        words.extend(["--cut", after]);
    }
    words.extend(["--", "--root", text(&ctx.root)]);
    let output = run(text(&this), &[&words, args].concat())?;
    // One that ends before its first step tells none.
    let steps = fs::read_to_string(&told).unwrap_or_default();
    let mut record = OpenOptions::new()
        .create(true)
        .append(true)
        .open(record(ctx))?;
    record.write_all(steps.as_bytes())?;
    let steps = steps.lines().map(str::to_owned).collect();
    Ok((output, steps))
}

/// The steps of a verb that runs to its end.
pub(super) fn steps_of(ctx: &Ctx, args: &[&str]) -> Result<Vec<String>> {
    let (output, steps) = cut(ctx, args, None)?;
    ensure!(
        output.code == 0 && !steps.is_empty(),
        "{args:?} ended with {} after {steps:?}: {}",
        output.code,
        output.stderr
    );
    Ok(steps)
}

/// Cuts a verb right after the first time it passes a step.
pub(super) fn cut_at(ctx: &Ctx, args: &[&str], step: &str) -> Result<()> {
    for after in 1..100 {
        let (output, steps) = cut(ctx, args, Some(after))?;
        ensure!(output.code == 128, "{args:?} does not pass {step}");
        if steps.last().is_some_and(|last| last == step) {
            return Ok(());
        }
    }
    anyhow::bail!("{args:?} does not come to {step}")
}

/// Cuts a verb after so many of the steps that it is known to pass.
pub(in crate::guest) fn cut_after<S>(ctx: &Ctx, args: &[&str], steps: &[S]) -> Result<()>
where
    S: AsRef<str> + std::fmt::Debug,
{
    let (output, passed) = cut(ctx, args, Some(steps.len()))?;
    ensure!(
        output.code == 128
            && passed
                .iter()
                .map(String::as_str)
                .eq(steps.iter().map(AsRef::as_ref)),
        "{args:?} ended with {} after {passed:?}, not {steps:?}: {}",
        output.code,
        output.stderr
    );
    Ok(())
}

/// Cuts the verb right after each step that it passes. Each time `pool open` settles it, nothing is left
/// that does not belong, it is done or was never begun as its steps say, and the same again succeeds.
pub(super) fn sweep(ctx: &Ctx, verb: &Verb<'_>) -> Result<()> {
    let args = verb.args;
    (verb.prepare)()?;
    let steps = steps_of(ctx, args)?;
    ensure!((verb.is_done)()?, "{args:?} is not done");
    (verb.undo)()?;
    let settled = steps.iter().position(|step| step == verb.from);
    let settled = settled.with_context(|| format!("{args:?} passes {steps:?}"))?;
    for at in 0..steps.len() {
        let told = || format!("{args:?} cut after {:?}", &steps[..=at]);
        (verb.prepare)().with_context(told)?;
        cut_after(ctx, args, &steps[..=at])?;
        ctx.ok(&["pool", "open", "tank"]).with_context(told)?;
        in_order(ctx).with_context(told)?;
        let done = (verb.is_done)().with_context(told)?;
        ensure!(done == (at >= settled), "{}: done is {done}", told());
        if !done && verb.repeats {
            ctx.ok(args).with_context(told)?;
            ensure!((verb.is_done)()?, "{}: not done again", told());
        }
        (verb.undo)().with_context(told)?;
    }
    in_order(ctx)
}

/// The volumes of the pool `tank` by a reader of its metadata that is not ours.
fn ids_in_pool() -> Result<BTreeSet<u64>> {
    let metadata = witness("dmsetup", &["table", "dmthin-tank-pool"])?;
    let device = metadata.split(' ').nth(3).context("no table")?;
    let name = fs::read_to_string(format!("/sys/dev/block/{device}/uevent"))?;
    let name = name
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))
        .context("no name")?;
    let listed = thin_ids_on("dmthin-tank-pool", &format!("/dev/{name}"))?;
    let listed = without_mirror(&listed);
    listed
        .split_whitespace()
        .map(|id| Ok(id.parse()?))
        .collect()
}

/// That the pool `tank`, which is open, has nothing that is unsettled or does not belong.
pub(super) fn in_order(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["check"])?;
    let found = ids_in_pool()?;
    let catalogue = Catalogue::open(ctx.root.join("tank/catalogue.db"))?;
    let known: BTreeSet<u64> = catalogue
        .all_volumes()?
        .iter()
        .filter(|volume| volume.state == VolumeState::Ready)
        .map(|volume| volume.thin_id.get().into())
        .collect();
    let strange: Vec<_> = known.difference(&found).copied().collect();
    ensure!(strange.is_empty(), "not in the pool: {strange:?}");
    let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
    let ballast = usize::from(!pool["ballast"].is_null());
    ensure!(
        found.len() == known.len() + ballast,
        "the pool has {found:?}, the catalogue {known:?} and {ballast} ballast"
    );
    ensure!(
        pool["live"]["mode"] == "rw" && pool["live"]["needs_check"] == false,
        "{pool}"
    );
    let devices = witness(
        "dmsetup",
        &["info", "-c", "--noheadings", "-o", "name,suspended,uuid"],
    )?;
    ensure!(!devices.contains("Suspended"), "{devices}");
    let active = devices
        .lines()
        .filter(|line| line.contains("DMTHIN-"))
        .filter(|line| {
            !["-pool:", "-tmeta:", "-tdata:", "-mirror:"]
                .iter()
                .any(|part| line.contains(part))
        })
        .count();
    let with_device = catalogue.active_writables()?.len();
    ensure!(active == with_device, "{with_device} devices: {devices}");
    let files = fs::read_dir(ctx.root.join("tank"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".img"))
        .count();
    let loops = witness("losetup", &["-l", "-n", "-O", "BACK-FILE"])?;
    let ours = loops.lines().filter(|file| file.contains(text(&ctx.root)));
    ensure!(ours.count() == files, "{files} files: {loops}");
    // Another's thin-pool has no copy of the catalogue.
    if pool["mirror"].is_null() {
        return Ok(());
    }
    mirror::is_current(ctx)
}
