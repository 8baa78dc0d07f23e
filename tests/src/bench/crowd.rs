//! Containers made and removed by many at once.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use dmthin::graph::{CreateContainer, Pool, QueueRound, Removing};
use dmthin::ids::ContainerName;
use serde::{Deserialize, Serialize};

use crate::bench::floor::{Floor, Origin};
use crate::bench::samples::Phase;

/// How many work at once.
const WORKERS: [u64; 3] = [1, 4, 16];
/// How many containers they make and remove together.
const PAIRS: u64 = 96;
/// The first of the workers' thin ids and names.
const FIRST_FLOOR: u64 = 3;

/// So many workers, and the time they took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    /// How they did it.
    pub way: String,
    /// How many they were.
    pub workers: u64,
    /// Containers made and removed by all of them.
    pub pairs: u64,
    /// From the first's begin to the last's end.
    pub took: Duration,
    /// How much of all processors' time was spent meanwhile, in hundredths.
    pub busy: u64,
}

/// Time of all processors since the boot, in ticks: worked, and in all.
fn processors() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let total = stat.lines().next().context("/proc/stat is empty")?;
    let ticks = total.split_whitespace().skip(1).map(str::parse);
    let ticks: Vec<u64> = ticks.collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, ...: `man 5 proc_stat`.
    let [_, _, _, idle, iowait, ..] = *ticks.as_slice() else {
        bail!("/proc/stat says {total:?}");
    };
    let all: u64 = ticks.iter().sum();
    Ok((all - idle - iowait, all))
}

impl Crowd {
    /// Containers made and removed in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let pairs = u32::try_from(self.pairs).map_or(0.0, f64::from);
        pairs / self.took.as_secs_f64()
    }
}

/// Runs one job for each worker, all at once.
fn crowd<J>(way: &str, jobs: Vec<J>) -> Result<Crowd>
where
    J: FnMut() -> Result<()> + Send,
{
    let workers = u64::try_from(jobs.len())?;
    let each = PAIRS / workers;
    let (worked_before, all_before) = processors()?;
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .into_iter()
            .map(|mut job| scope.spawn(move || (0..each).try_for_each(|_| job())))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.map_err(|_| anyhow!("a worker panicked"))?
        })
    })?;
    let took = started.elapsed();
    let (worked, all) = processors()?;
    Ok(Crowd {
        way: way.to_owned(),
        workers,
        pairs: each * workers,
        took,
        busy: (worked - worked_before) * 100 / (all - all_before).max(1),
    })
}

fn raw(origin: &Origin, workers: u64) -> Result<Crowd> {
    let jobs = (0..workers)
        .map(|nr| {
            let mut floor = Floor::new(origin.clone(), FIRST_FLOOR + nr)?;
            Ok(move || {
                let mut phase = Phase::default();
                floor.make(&mut phase)?;
                floor.remove(&mut phase)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    crowd("raw ioctls", jobs)
}

fn library(pool: &Pool, image: &str, workers: u64, how: Removing) -> Result<Crowd> {
    let jobs = (0..workers)
        .map(|nr| {
            let name = ContainerName::new(format!("worker{nr}"))?;
            let new = CreateContainer {
                image: image.to_owned(),
                name: Some(name.clone()),
                size: None,
            };
            Ok(move || {
                pool.create_container(&new)?;
                pool.remove_container(&name, how)?;
                Ok(())
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let way = match how {
        Removing::Queued => "library, rm --queue",
        _ => "library",
    };
    crowd(way, jobs)
}

/// Each number of workers, by both ways.
pub(super) fn measure(pool: &Pool, image: &str, origin: &Origin) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    for workers in WORKERS {
        crowds.push(raw(origin, workers)?);
        crowds.push(library(pool, image, workers, Removing::Now)?);
        crowds.push(library(pool, image, workers, Removing::Queued)?);
        pool.run_queue(QueueRound::All)?;
    }
    Ok(crowds)
}
