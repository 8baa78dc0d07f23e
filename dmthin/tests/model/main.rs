//! Random histories of verbs on the model of the kernel, cut and failed anywhere.
//!
//! A history is a pool's making and up to five verbs (`plan.rs`). Before or after any call to the kernel that
//! changes something, or at any step, the process can be cut off, with the machine's power or without;
//! any call can fail, and the commit of any message, of which the kernel says nothing. Then the pool is
//! opened, which is cut too, up to two times. What must hold then is in `world.rs`.
//!
//! `DMTHIN_MODEL_SEED` runs the history of one seed, `DMTHIN_MODEL_HISTORIES` so many. A history that fails is
//! told with its seed, and with those of its acts that it takes.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

mod archive;
mod beside;
mod kernel;
mod log;
mod plan;
mod steps;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use dmthin::graph::PoolError;
use dmthin::model::{Cut, Fault};

use crate::archive::Image;
use crate::log::Log;
use crate::plan::{Accident, Act, Loss, Mishap, Verb, history};
use crate::world::{Made, World};

/// In a plain run.
const HISTORIES: u64 = 200;
/// More calls than the opening of a pool with one container makes.
const OPENING_CALLS: u64 = 40;
/// The most histories that are tried to find a shorter one.
const SHORTER_TRIES: u32 = 200;

type Checked<T> = Result<T, String>;

/// How something ended that something may befall.
enum Ended {
    Well,
    Failed(String),
    Cut,
}

/// Runs it, and has the accident happen.
fn befall(
    world: &mut World,
    accident: Option<Accident>,
    does: impl FnOnce(&World) -> Result<(), PoolError>,
) -> Ended {
    let mishap = accident.map(|accident| accident.mishap);
    let (mut fault, mut cut_at) = (None, None);
    match mishap {
        Some(Mishap::CutBefore(at)) => fault = Some(Fault::CutBefore(at)),
        Some(Mishap::CutAfter(at)) => fault = Some(Fault::CutAfter(at)),
        Some(Mishap::Error(at, errno)) => fault = Some(Fault::Error(at, errno)),
        Some(Mishap::Commit(at)) => fault = Some(Fault::Commit(at)),
        Some(Mishap::CutAtStep(at)) => cut_at = Some((at, world.model.clone())),
        None => {}
    }
    world.model.plan(fault);
    steps::begin(cut_at);
    let ended = catch_unwind(AssertUnwindSafe(|| does(world)));
    world.model.plan(None);
    steps::begin(None);
    match ended {
        Ok(Ok(())) => Ended::Well,
        Ok(Err(error)) => Ended::Failed(World::error(&error)),
        Err(panic) if panic.is::<Cut>() => {
            world.restart();
            world.model.revive();
            if let Some(Loss::Power { lazy }) = accident.map(|accident| accident.loss) {
                world.let_go();
                world.model.lose_power();
                if lazy {
                    steps::lose_lazy();
                }
            }
            Ended::Cut
        }
        Err(panic) => resume_unwind(panic),
    }
}

fn act(world: &mut World, act: &Act) -> Checked<()> {
    if let Some(guest) = act.guest {
        world.visit(guest)?;
    }
    let Some(task) = world.task(act.verb)? else {
        return Ok(());
    };
    let before = world.seen.clone();
    let ended = befall(world, act.accident, &task.does);
    match (&ended, act.accident) {
        (Ended::Failed(error), None) => return Err(format!("refused: {error}")),
        (Ended::Well, None) => {
            world.expect(&task.outcomes())?;
            if act.verb == Verb::CreatePool {
                steps::watch(Some(Log::new(world.catalogue())));
            }
            return Ok(());
        }
        _ => {}
    }
    if act.verb == Verb::CreatePool && !world.is_made() {
        world.make_again()?;
        steps::watch(Some(Log::new(world.catalogue())));
        return world.expect(&task.outcomes());
    }
    if act.verb == Verb::CreatePool {
        steps::watch(Some(Log::new(world.catalogue())));
    }
    let mut accidents = act.accident.iter().chain(&act.again);
    let may_be_degraded = accidents.any(Accident::may_degrade);
    for again in &act.again {
        if may_be_degraded {
            world.mend()?;
        }
        befall(world, Some(*again), World::open);
    }
    if may_be_degraded {
        world.mend()?;
    }
    world
        .open()
        .map_err(|error| format!("not opened: {}", World::error(&error)))?;
    let after = world.settled(task.after);
    let expected = match ended {
        Ended::Well => vec![after],
        Ended::Failed(_) | Ended::Cut => {
            let halfway = task.halfway.map(|seen| world.settled(seen));
            let either = [world.settled(before), after];
            either.into_iter().chain(halfway).collect()
        }
    };
    world.expect(&expected)?;
    world.open_again()?;
    world.expect(&expected)?;
    world.check()
}

fn run(acts: &[Act], images: &[Image], made: &Made) -> Checked<()> {
    match acts {
        // To make each its own would take a fifth of the time.
        [first, ..] if first.accident.is_none() => run_in(&mut World::with(made, images), acts, 1),
        _ => run_in(&mut World::new(images), acts, 0),
    }
}

/// Runs the acts from this one on.
fn run_in(world: &mut World, acts: &[Act], from: usize) -> Checked<()> {
    let model = world.model.clone();
    let _entered = model.enter();
    steps::watch(None);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        if from > 0 {
            world.open().map_err(|error| World::error(&error))?;
            steps::watch(Some(Log::new(world.catalogue())));
        }
        for (nr, act_) in acts.iter().enumerate().skip(from) {
            act(world, act_).map_err(|error| format!("act {nr}: {error}"))?;
        }
        world
            .end()
            .map_err(|error| format!("after the end: {error}"))
    }));
    steps::watch(None);
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Leaves out acts, and what befalls them, as long as the history fails.
fn shorter(
    mut acts: Vec<Act>,
    mut problem: String,
    images: &[Image],
    made: &Made,
) -> (Vec<Act>, String) {
    let mut tries = SHORTER_TRIES;
    let mut changed = true;
    while changed && tries > 0 {
        changed = false;
        for nr in (0..acts.len()).rev() {
            let mut without = acts.clone();
            let mut plain = acts.clone();
            plain[nr].accident = None;
            plain[nr].guest = None;
            plain[nr].again.clear();
            let mut candidates = Vec::new();
            if nr > 0 {
                without.remove(nr);
                candidates.push(without);
            }
            if acts[nr].accident.is_some() || acts[nr].guest.is_some() {
                candidates.push(plain);
            }
            for candidate in candidates {
                tries = tries.saturating_sub(1);
                if let Err(found) = run(&candidate, images, made) {
                    (acts, problem) = (candidate, found);
                    changed = true;
                    break;
                }
            }
        }
    }
    (acts, problem)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// An opening was killed after it had made a container's device and before it gave that a table. The next one
/// took the device for active, and left the container without one that works.
#[test]
fn an_opening_that_was_cut_at_any_call_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let images = archive::images(dir.path());
    let made = World::make().unwrap();
    let plain = |verb| Act {
        guest: None,
        verb,
        accident: None,
        again: Vec::new(),
    };
    let cut = |at, loss| Accident {
        mishap: Mishap::CutBefore(at),
        loss,
    };
    for at in 0..OPENING_CALLS {
        let create = Verb::Create {
            image: 0,
            larger: false,
        };
        let reopen = Act {
            accident: Some(cut(0, Loss::Power { lazy: false })),
            again: vec![cut(at, Loss::Process)],
            ..plain(Verb::Reopen)
        };
        let acts = [Verb::CreatePool, Verb::Import(0), create].map(plain);
        let acts = [&acts[..], &[reopen]].concat();
        let ran = tracing::subscriber::with_default(steps::Ears, || run(&acts, &images, &made));
        ran.unwrap_or_else(|problem| panic!("cut before call {at}: {problem}"));
    }
}

#[test]
fn whatever_befalls_a_verb_the_next_opening_settles() {
    let dir = tempfile::tempdir().unwrap();
    let images = archive::images(dir.path());
    let made = World::make().unwrap();
    let seeds = match number("DMTHIN_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DMTHIN_MODEL_HISTORIES").unwrap_or(HISTORIES),
    };
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let started = Instant::now();
    thread::scope(|scope| {
        // Some wait at any time: for the threads of an import, or before they try again.
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) * 4 {
            scope.spawn(|| {
                tracing::subscriber::with_default(steps::Ears, || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end || !failed.lock().unwrap().is_empty() {
                            break;
                        }
                        let acts = history(seed);
                        if let Err(problem) = run(&acts, &images, &made) {
                            let (acts, problem) = shorter(acts, problem, &images, &made);
                            failed.lock().unwrap().push((seed, acts, problem));
                        }
                    }
                });
            });
        }
    });
    let count = seeds.end - seeds.start;
    println!(
        "{count} histories in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    if let Some((seed, acts, problem)) = failed.into_inner().unwrap().first() {
        let acts: Vec<_> = acts.iter().map(|act| format!("  {act:?}")).collect();
        panic!(
            "{problem}\nDMTHIN_MODEL_SEED={seed}, as short as it gets:\n{}",
            acts.join("\n")
        );
    }
}
