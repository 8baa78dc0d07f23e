//! Every call of a verb that changes something, failing once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};

use super::super::harness::{Ctx, Test, run, text};
use super::going_back::{fork_by, rollback_by, snapshot_by, volume_by};
use super::sweep::{Verb, in_order};
use super::volumes::{commit_by, create_by, grow_by, images_by, remove_by};

/// The tests of this file.
pub(super) const TESTS: &[Test] = &[
    ("errors_of_container_create", |ctx| {
        create_by(ctx, fail_each)
    }),
    ("errors_of_container_rm", |ctx| remove_by(ctx, fail_each)),
    ("errors_of_container_grow", |ctx| grow_by(ctx, fail_each)),
    ("errors_of_container_fork", |ctx| fork_by(ctx, fail_each)),
    ("errors_of_container_snapshot_and_its_removal", |ctx| {
        snapshot_by(ctx, fail_each)
    }),
    ("errors_of_container_rollback", |ctx| {
        rollback_by(ctx, fail_each)
    }),
    ("errors_of_container_commit", |ctx| {
        commit_by(ctx, fail_each)
    }),
    ("errors_of_image_import_and_rm", |ctx| {
        images_by(ctx, fail_each)
    }),
    ("errors_of_volume_create_and_rm", |ctx| {
        volume_by(ctx, fail_each)
    }),
];

const CALLS: &[&str] = &[
    "fsync",
    "fdatasync",
    "write",
    "pwrite64",
    "ftruncate",
    "mknodat",
    "mknod",
    "unlink",
    "fsmount",
    "ioctl",
];

/// Calls that want room where they write.
const WRITES: &[&str] = &["write", "pwrite64"];

/// Requests of `ioctl` that change something, as `strace` writes them.
const REQUESTS: &[&str] = &[
    "DM_DEV_CREATE",
    "DM_DEV_REMOVE",
    "DM_DEV_RENAME",
    "DM_DEV_SUSPEND",
    "DM_TABLE_LOAD",
    "DM_TARGET_MSG",
    "LOOP_SET_CAPACITY",
    "BLKDISCARD",
    "EXT4_IOC_RESIZE_FS",
];

/// A call that is to fail: its name, how many of that name came up to it, and its line.
struct Call {
    name: &'static str,
    number: usize,
    line: String,
}

impl Call {
    /// What it is, and of which file, without its numbers: `ioctl(3</dev/mapper/control>, DM_DEV_CREATE`.
    fn kind(&self) -> String {
        let words = self.line.split([',', '"']).take(2);
        words
            .flat_map(str::chars)
            .filter(|letter| !letter.is_ascii_digit())
            .collect()
    }
}

fn strace(ctx: &Ctx, options: &[&str], args: &[&str]) -> Result<super::super::harness::Output> {
    let root = ["pool-cli", "-q", "--root", text(&ctx.root)];
    run("strace", &[options, &root, args].concat())
}

/// The calls of a trace that change something below `root`. `strace` counts those that it fails by process,
/// threads included.
fn calls_of(trace: &str, root: &str) -> Vec<Call> {
    let mut numbers = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else {
            continue;
        };
        let called = call.split_once('(').map_or("", |(name, _)| name.trim());
        let Some(name) = CALLS.iter().find(|name| **name == called) else {
            continue;
        };
        let number: &mut usize = numbers.entry((process, *name)).or_default();
        *number = number.saturating_add(1);
        let counts = match *name {
            "ioctl" => REQUESTS.iter().any(|request| call.contains(request)),
            name if WRITES.contains(&name) => call.contains(root),
            _ => true,
        };
        if counts {
            calls.push(Call {
                name,
                number: *number,
                line: call.to_owned(),
            });
        }
    }
    calls
}

/// Of a verb's calls so many, of kinds that are not alike; more take more time than CI has.
const MOST: usize = 8;

/// The first of each kind, spread over the verb, but all where `DMTHIN_ERRORS=all` says so.
fn chosen(mut calls: Vec<Call>) -> Vec<Call> {
    if std::env::var("DMTHIN_ERRORS").is_ok_and(|which| which == "all") {
        return calls;
    }
    let mut kinds = BTreeSet::new();
    calls.retain(|call| kinds.insert(call.kind()));
    let every = calls.len().div_ceil(MOST).max(1);
    calls.into_iter().step_by(every).collect()
}

/// Lets calls fail, one each time. The verb does it all the same, or says in a line what is wrong, with an exit
/// code of ours; what it leaves `pool open` settles, and the same again succeeds. What the catalogue's
/// disk did not take is no success.
fn fail_each(ctx: &Ctx, verb: &Verb<'_>) -> Result<()> {
    let args = verb.args;
    let trace = ctx.dir.join("trace");
    (verb.prepare)()?;
    let list = format!("trace={}", CALLS.join(","));
    let traced = strace(ctx, &["-fy", "-o", text(&trace), "-e", &list], args)?;
    ensure!(traced.code == 0, "{args:?}: {}", traced.stderr);
    ensure!((verb.is_done)()?, "{args:?} is not done");
    (verb.undo)()?;
    let calls = calls_of(&fs::read_to_string(&trace)?, text(&ctx.root));
    let one_of = |names: &[&str]| calls.iter().any(|call| names.contains(&call.name));
    ensure!(
        one_of(&["ioctl"]) && one_of(&["fsync", "fdatasync"]) && one_of(WRITES),
        "only {:?}",
        calls.iter().map(|call| &call.line).collect::<Vec<_>>()
    );
    let (all, calls) = (calls.len(), chosen(calls));
    println!("{args:?}: {} of {all} calls fail", calls.len());
    let (mut hit, mut failed, mut done) = (0_u32, 0_u32, 0_u32);
    for call in &calls {
        let told = || format!("{args:?} where {} fails", call.line);
        (verb.prepare)().with_context(told)?;
        let errno = match WRITES.contains(&call.name) {
            true => "ENOSPC",
            false => "EIO",
        };
        let inject = format!("inject={}:error={errno}:when={}", call.name, call.number);
        let output = strace(
            ctx,
            &["-fy", "-o", text(&trace), "-e", &list, "-e", &inject],
            args,
        )?;
        // The catalogue's log begins anew now and then, which is a call more or less: so it may be another that
        // failed, or none. And calls are counted in each thread: what tells of the error may have failed too.
        let traced = fs::read_to_string(&trace)?;
        let injected: Vec<_> = traced
            .lines()
            .filter(|line| line.ends_with("(INJECTED)"))
            .collect();
        let one_of = |part: &str| injected.iter().any(|line| line.contains(part));
        // What is in its log is promised; that the log is not folded into the file yet loses nothing.
        let (of_catalogue, mute) = (one_of("/catalogue.db-wal>"), one_of(" write(2<"));
        hit = hit.saturating_add(u32::from(!injected.is_empty()));
        let lines = output.stderr.lines();
        let lines = lines.filter(|line| !line.starts_with("hint: ")).count();
        ensure!(
            matches!(output.code, 0..=11 | 75) && (lines == usize::from(output.code != 0) || mute),
            "{}: {} {}",
            told(),
            output.code,
            output.stderr
        );
        // But what was promised is done where only giving back what it took the place of failed: that is queued.
        let queue = ctx.json(&["queue", "list"]).with_context(told)?;
        let queued = queue["queue"]
            .as_array()
            .is_some_and(|queue| !queue.is_empty());
        ensure!(
            output.code != 0 || !of_catalogue || queued,
            "{}: reported as done where {injected:?}",
            told()
        );
        if output.code == 0 {
            done = done.saturating_add(1);
            ctx.ok(&["queue", "run"]).with_context(told)?;
            ensure!((verb.is_done)()?, "{}: it is not done", told());
        } else {
            failed = failed.saturating_add(1);
            ctx.ok(&["pool", "open", "tank"]).with_context(told)?;
        }
        // A node that could not be removed stays, as others may have had it open: `gc` takes it.
        ctx.ok(&["gc"]).with_context(told)?;
        in_order(ctx).with_context(told)?;
        if !(verb.is_done)().with_context(told)? {
            ctx.ok(args).with_context(told)?;
            ensure!((verb.is_done)()?, "{}: not done again", told());
        }
        (verb.undo)().with_context(told)?;
    }
    ensure!(failed > 0, "{done} done, none failed");
    // One in eight may be none of that run's, as above; of less than eight, one.
    let least = calls.len().saturating_sub((calls.len() / 8).max(1));
    ensure!(
        usize::try_from(hit)? >= least,
        "only {hit} of {} calls failed",
        calls.len()
    );
    in_order(ctx)
}
