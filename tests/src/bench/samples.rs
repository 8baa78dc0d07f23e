//! What was measured, as it travels from the guest to the host, and its percentiles.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::bench::crowd::Crowd;
use crate::bench::diff::DiffCase;
use crate::bench::opening::Opening;
use crate::bench::space::Space;

/// Microseconds, one sample per round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series(Vec<u64>);

impl Series {
    /// Adds a sample.
    pub fn push(&mut self, took: Duration) {
        self.0
            .push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// The sample that so many percent of all are no larger than (nearest rank), in milliseconds;
    /// 0 of none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = sorted.len().saturating_mul(percent).div_ceil(100);
        let micros = sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0);
        Duration::from_micros(micros).as_secs_f64() * 1000.0
    }

    /// How many samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sums of the samples of each round.
    fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_add(*more);
        }
    }
}

/// A half of a round, step by step in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Each step's name and times.
    pub steps: Vec<(String, Series)>,
}

impl Phase {
    /// Runs a step and notes its time.
    pub(super) fn step<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let value = step()?;
        let took = started.elapsed();
        match self.steps.iter_mut().find(|(known, _)| known == name) {
            Some((_, series)) => series.push(took),
            None => {
                let mut series = Series::default();
                series.push(took);
                self.steps.push((name.to_owned(), series));
            }
        }
        Ok(value)
    }

    /// The whole half, round by round.
    #[must_use]
    pub fn total(&self) -> Series {
        let mut total = Series::default();
        for (_, series) in &self.steps {
            total.add(series);
        }
        total
    }
}

/// Both halves of one way's rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// From nothing to mounted.
    pub up: Phase,
    /// From mounted to nothing.
    pub down: Phase,
}

/// The rounds of every way to bring a container's device up and down; the floor first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rounds {
    /// A way's name and its samples.
    pub ways: Vec<(String, Samples)>,
}

/// All that was measured in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Containers' devices.
    pub rounds: Rounds,
    /// Removals that leave the slow part to others, and what they are made of.
    pub removal: Phase,
    /// Containers made and removed by many at once.
    pub crowds: Vec<Crowd>,
    /// A pool of many volumes is opened.
    pub opening: Option<Opening>,
    /// Who takes the room of that pool.
    pub space: Option<Space>,
    /// `tar -x` and a sync, one sample per run.
    pub tar: Series,
    /// `pool-cli image import`, one sample per run.
    pub import: Series,
    /// Bytes of the image's layers.
    pub image_bytes: u64,
    /// Entries in the image's layers.
    pub image_entries: u64,
    /// The most memory that an import had, in bytes.
    pub import_peak: u64,
    /// What a container changed of its image.
    pub diffs: Vec<DiffCase>,
    /// Commits, and the making of containers.
    pub commits: Phase,
}

#[cfg(test)]
mod tests {
    use super::{Phase, Series};
    use std::time::Duration;

    fn series(millis: &[u64]) -> Series {
        let mut series = Series::default();
        for ms in millis {
            series.push(Duration::from_millis(*ms));
        }
        series
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let of = |n: u64, percent| {
            let mut millis: Vec<u64> = (1..=n).collect();
            millis.reverse();
            series(&millis).percentile(percent)
        };
        assert!((of(200, 50) - 100.0).abs() < 1e-9);
        assert!((of(200, 99) - 198.0).abs() < 1e-9);
        assert!((of(3, 50) - 2.0).abs() < 1e-9);
        assert!((of(1, 99) - 1.0).abs() < 1e-9);
        assert!(series(&[]).percentile(50).abs() < 1e-9);
    }

    #[test]
    fn a_phase_sums_its_steps_round_by_round() {
        let phase = Phase {
            steps: vec![
                ("a".to_owned(), series(&[1, 20])),
                ("b".to_owned(), series(&[300, 4000])),
            ],
        };
        assert_eq!(phase.total(), series(&[301, 4020]));
    }

    #[test]
    fn steps_keep_their_order_and_a_failed_one_counts_nothing() {
        let mut phase = Phase::default();
        for _ in 0..2 {
            phase.step("second", || Ok(())).unwrap();
            phase.step("first", || Ok(())).unwrap();
        }
        let failed: anyhow::Result<()> = phase.step("first", || anyhow::bail!("no"));
        failed.unwrap_err();
        let lens: Vec<_> = phase
            .steps
            .iter()
            .map(|(n, s)| (n.as_str(), s.len()))
            .collect();
        assert_eq!(lens, [("second", 2), ("first", 2)]);
    }
}
