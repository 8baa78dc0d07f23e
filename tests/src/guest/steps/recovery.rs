//! Recovery of everything at once, cut at each of its own steps.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use dmthin::graph::Step;

use super::super::build::{Image, two_layers};
use super::super::harness::{Ctx, Test, text, witness};
use super::sweep::{cut, cut_after, in_order, record};
use super::volumes::pool_with_image;

/// The tests of this file. The last one is about all that ran before it.
pub(super) const TESTS: &[Test] = &[
    ("steps_of_recovery_in_an_open_pool", |ctx| {
        recovery(ctx, true)
    }),
    ("steps_of_recovery_in_a_closed_pool", |ctx| {
        recovery(ctx, false)
    }),
    ("steps_of_two_openings_at_once", together),
    ("steps_are_all_passed", all_passed),
];

const OPEN: [&str; 3] = ["pool", "open", "tank"];
const SET: [&str; 6] = [
    "pool",
    "set",
    "--on-full",
    "error",
    "--min-free-data",
    "20%",
];

fn create(name: &str) -> [&str; 5] {
    ["container", "create", "demo:1", "--name", name]
}

/// What a number of cut verbs leave.
fn mess(ctx: &Ctx) -> Result<()> {
    pool_with_image(ctx)?;
    for name in ["web", "old"] {
        ctx.ok(&create(name))?;
    }
    let image = Image::new("other:1", two_layers()).write(&ctx.dir.join("other.tar"))?;
    cut_after(
        ctx,
        &["image", "import", text(&image)],
        &["I1", "I2", "I3", "I4", "I5", "I6", "I1"],
    )?;
    cut_after(
        ctx,
        &["pool", "ballast", "make", "--size", "8M"],
        &["A1", "A2"],
    )?;
    cut_after(ctx, &["container", "grow", "web", "96M"], &["G1", "G2"])?;
    cut_after(ctx, &["container", "rm", "old"], &["D1", "D3", "K5", "D4"])?;
    cut_after(ctx, &create("new"), &["C1", "C2"])?;
    cut_after(ctx, &["check"], &["L1", "L2"])?;
    cut_after(ctx, &SET, &["S1"])
}

/// That all of it is settled as it was promised.
fn is_settled(ctx: &Ctx) -> Result<()> {
    in_order(ctx)?;
    let list = ctx.json(&["container", "list"])?["containers"].clone();
    let list: Vec<_> = list
        .as_array()
        .context("no list")?
        .iter()
        .map(|one| {
            (
                one["name"].as_str(),
                one["size"].as_u64(),
                one["state"].as_str(),
            )
        })
        .collect();
    let expected = [("new", 64_u64 << 20), ("web", 96 << 20)];
    let expected: Vec<_> = expected
        .map(|(name, size)| (Some(name), Some(size), Some("ready")))
        .into();
    ensure!(list == expected, "{list:?}");
    let pool = ctx.json(&["pool", "status", "tank"])?["pool"].clone();
    ensure!(
        pool["live"]["on_full"] == "error_if_no_space" && pool["ballast"].is_null(),
        "{pool}"
    );
    for name in ["new", "web"] {
        witness(
            "e2fsck",
            &["-fn", &format!("/dev/mapper/dmthin-tank-ctr-{name}")],
        )?;
    }
    Ok(())
}

/// Recovery is cut after its first step, and again after what is first then, so often until nothing is left
/// to cut; where it comes to the same step twice it is let go one further.
fn recovery(ctx: &Ctx, in_open_pool: bool) -> Result<()> {
    mess(ctx)?;
    if in_open_pool {
        witness("dmsetup", &["suspend", "dmthin-tank-ctr-web"])?;
    } else {
        ctx.ok(&["pool", "close", "tank"])?;
    }
    let mut passed = BTreeSet::new();
    let (mut after, mut last) = (1_usize, Vec::new());
    for _ in 0..100 {
        let (output, steps) = cut(ctx, &OPEN, Some(after))?;
        passed.extend(steps.iter().cloned());
        if output.code != 128 {
            ensure!(output.code == 0, "{after}: {}", output.stderr);
            break;
        }
        if steps == last {
            after = after.saturating_add(1);
        }
        last = steps;
    }
    let least = ["A7", "D7", "O4", "G4", "L3", "O5"];
    // An opening that is cut before the transaction id has moved on moves it on later.
    let own = if in_open_pool {
        ["O3", "E4"]
    } else {
        ["O2", "T3"]
    };
    for step in least.iter().chain(&own) {
        ensure!(passed.contains(*step), "{step} is not in {passed:?}");
    }
    is_settled(ctx)
}

/// Two openings at once settle what one would.
fn together(ctx: &Ctx) -> Result<()> {
    mess(ctx)?;
    ctx.ok(&["pool", "close", "tank"])?;
    std::thread::scope(|scope| -> Result<()> {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| ctx.ok(&OPEN))).collect();
        for one in both {
            one.join().expect("no opening panics")?;
        }
        Ok(())
    })?;
    is_settled(ctx)
}

/// Steps that no test passes, each with the reason.
const NOT_PASSED: &[(&str, &str)] = &[(
    "R4",
    "metadata that are nearly full take minutes to make; it is as E2, which is cut",
)];

fn all_passed(ctx: &Ctx) -> Result<()> {
    let passed = fs::read_to_string(record(ctx)).context("the others of these tests run first")?;
    let passed: BTreeSet<&str> = passed.lines().collect();
    let missing: Vec<_> = Step::ALL
        .iter()
        .map(|step| step.id())
        .filter(|id| !passed.contains(id))
        .collect();
    let excused: Vec<_> = NOT_PASSED.iter().map(|(id, _)| *id).collect();
    ensure!(missing == excused, "not passed: {missing:?}");
    Ok(fs::remove_file(record(ctx))?)
}
