//! What must hold after a reset, while nothing else happens; at its end the containers of the load are mounted.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::{self, BLOCKS, NAMED, block, mount_point, ok, place};
use super::told::{CONTAINERS, HANDS, Hand, Told, Who};
use crate::fio::{Pass, fio};
use crate::guest::harness::{run, witness};

/// What there was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Containers, each with a file system that was checked.
    pub containers: u64,
    /// How long `pool open` took, in milliseconds.
    pub open: u64,
}

fn json(args: &[&str]) -> Result<Value> {
    let command = ["--root", "/srv/root", "--json"];
    let output = run("pool-cli", &[&command[..], args].concat())?;
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("{}: {}{}", args.join(" "), output.stdout, output.stderr))
}

/// Looks at everything.
pub(super) fn check(told: &Told) -> Result<Found> {
    witness("thin_check", &["/srv/root/tank/metadata.img"]).context("before pool open")?;
    let started = Instant::now();
    ok(&["pool", "open", "tank"])?;
    let open = u64::try_from(started.elapsed().as_millis())?;
    let findings = json(&["check", "tank"])?;
    ensure!(
        findings["findings"].as_array().is_some_and(Vec::is_empty),
        "check: {findings}"
    );
    let names = containers()?;
    hands(told, &names)?;
    file_systems(&names)?;
    for container in 0..CONTAINERS {
        written(told, container).with_context(|| format!("c{container}"))?;
    }
    let [pass, _] = told.read(Who::Fio)?;
    if pass > 0 {
        fio(&load::mount_points(), pass, Pass::Verify)?;
    }
    Ok(Found {
        containers: u64::try_from(names.len())?,
        open,
    })
}

/// All there are, each ready.
fn containers() -> Result<Vec<String>> {
    let list = json(&["container", "list"])?;
    let list = list["containers"].as_array().context("no containers")?;
    list.iter()
        .map(|container| {
            ensure!(
                container["state"] == "ready",
                "after pool open: {container}"
            );
            Ok(container["name"].as_str().context("a name")?.to_owned())
        })
        .collect()
}

/// Of each hand there is what it told, or what its next verb makes of that; and nothing is there that nobody
/// made.
fn hands(told: &Told, names: &[String]) -> Result<()> {
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut lasting = 0;
    for name in names {
        if let Some((hand, number)) = name.strip_prefix('h').and_then(|n| n.split_once('-')) {
            found
                .entry(hand.parse()?)
                .or_default()
                .push(number.parse()?);
        } else {
            lasting += 1;
        }
    }
    ensure!(lasting == CONTAINERS, "{names:?}");
    for number in 0..HANDS {
        let [made, removed] = told.read(Who::Hand(number))?;
        let hand = Hand { made, removed };
        let mut there = found.remove(&number).unwrap_or_default();
        there.sort_unstable();
        let Some(now) = hand.found(&there) else {
            bail!("of hand {number}, which told {hand:?}, there are {there:?}");
        };
        told.write(Who::Hand(number), [now.made, now.removed])?;
    }
    ensure!(found.is_empty(), "containers of nobody: {found:?}");
    Ok(())
}

/// Each journal is replayed, then there is nothing to find; as many at a time as there are processors.
fn file_systems(names: &[String]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let one = || -> Result<()> {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let device = format!("/dev/mapper/dmthin-tank-ctr-{name}");
            let replayed = run("e2fsck", &["-p", &device])?;
            ensure!(
                [0, 1].contains(&replayed.code),
                "e2fsck -p of {name} ended with {}: {}{}",
                replayed.code,
                replayed.stdout,
                replayed.stderr
            );
            witness("e2fsck", &["-fn", &device])?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.map_err(|_| anyhow!("somebody panicked"))?
        })
    })
}

/// What a writer flushed is there, and the image's own file.
fn written(told: &Told, container: u64) -> Result<()> {
    let who = Who::Writer(container);
    let [number, named] = told.read(who)?;
    let dir = mount_point(container);
    fs::create_dir_all(&dir)?;
    let name = format!("c{container}");
    ok(&[
        "container",
        "mount",
        &name,
        dir.to_str().context("not UTF-8")?,
    ])?;
    ensure!(
        fs::read(dir.join("blob"))? == load::blob(),
        "the image's file"
    );
    let blocks = fs::read(dir.join("blocks"))?;
    let at = |number: u64| -> Result<&[u8]> {
        let start = usize::try_from(place(number))?;
        let end = start + block(container, number).len();
        blocks.get(start..end).context("the file is too short")
    };
    // The one after the last may be there already; it lies where the oldest one was.
    let next = number + 1;
    let begun = at(next)? == block(container, next);
    for back in 0..BLOCKS {
        // Those before the first one are alike.
        let wanted = number.saturating_sub(back);
        if begun && back == BLOCKS - 1 {
            break;
        }
        ensure!(
            at(number + BLOCKS - back)? == block(container, wanted),
            "block {wanted} of {number} that were flushed is not there"
        );
    }
    let text = fs::read_to_string(dir.join("named"))?;
    let now: u64 = text.parse().with_context(|| format!("named {text:?}"))?;
    ensure!(
        now == named || now == number && number % NAMED == 0,
        "named {now}, told {named} at block {number}"
    );
    told.write(who, [if begun { next } else { number }, now])
}
