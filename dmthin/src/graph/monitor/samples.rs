//! How full a pool was lately, and from that when it will be full.
//!
//! A monitor keeps the last samples and writes them to a file beside the catalogue, so that `pool
//! status` can tell. They are worth nothing: a file that is damaged or gone is no error, and none is
//! flushed to disk.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::graph::report::{TimeToFull, Usage};
use crate::store::Timestamp;
use crate::units::Bytes;

/// So many are kept.
const KEPT: usize = 120;
/// Older ones say nothing of now.
const WINDOW: u64 = 3600;
/// A shorter time says nothing of the next hour.
const SPAN_LEAST: u64 = 10;
/// Further ahead nobody believes it.
const HORIZON: u64 = 30 * 86_400;

/// What was in use at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) data: Bytes,
    pub(crate) metadata: Bytes,
}

/// The last samples, by time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Samples(VecDeque<Sample>);

impl Samples {
    /// Adds one, later than the last by a second at least; what is too old goes.
    pub(crate) fn push(&mut self, sample: Sample) {
        // A clock that was put back makes all of it worthless.
        if self.0.back().is_some_and(|last| last.at > sample.at) {
            self.0.clear();
        }
        if self.0.back().is_some_and(|last| last.at == sample.at) {
            self.0.pop_back();
        }
        self.0.push_back(sample);
        let oldest = sample.at.to_unix().saturating_sub(WINDOW);
        while self.0.len() > KEPT
            || self
                .0
                .front()
                .is_some_and(|first| first.at.to_unix() < oldest)
        {
            self.0.pop_front();
        }
    }

    /// When the pool will be full, if it goes on as it did.
    pub(crate) fn time_to_full(&self, data: Usage, metadata: Usage) -> TimeToFull {
        TimeToFull {
            data: self.time_left(data, |sample| sample.data),
            metadata: self.time_left(metadata, |sample| sample.metadata),
        }
    }

    /// The least-squares line through the samples, and when it reaches the end.
    fn time_left(&self, usage: Usage, used: impl Fn(&Sample) -> Bytes) -> Option<Duration> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        if last.at.to_unix().saturating_sub(first.at.to_unix()) < SPAN_LEAST {
            return None;
        }
        let origin = (first.at.to_unix(), used(first).get());
        let count = i128::try_from(self.0.len()).ok()?;
        let (mut t, mut u, mut tt, mut tu) = (0_i128, 0_i128, 0_i128, 0_i128);
        for sample in &self.0 {
            let time = i128::from(sample.at.to_unix()).checked_sub(i128::from(origin.0))?;
            let value = i128::from(used(sample).get()).checked_sub(i128::from(origin.1))?;
            t = t.checked_add(time)?;
            u = u.checked_add(value)?;
            tt = tt.checked_add(time.checked_mul(time)?)?;
            tu = tu.checked_add(time.checked_mul(value)?)?;
        }
        // The slope is rise over run, both times the number of samples squared.
        let rise = count.checked_mul(tu)?.checked_sub(t.checked_mul(u)?)?;
        let run = count.checked_mul(tt)?.checked_sub(t.checked_mul(t)?)?;
        if rise <= 0 {
            return None;
        }
        let left = i128::from(usage.total.saturating_sub(usage.used).get());
        let seconds = u64::try_from(left.checked_mul(run)?.checked_div(rise)?).ok()?;
        (seconds <= HORIZON).then(|| Duration::from_secs(seconds))
    }

    /// Those of a file; none where there is none to be read.
    pub(crate) fn load(path: &Path) -> Self {
        let mut samples = Self::default();
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let mut numbers = line.split(' ').map(str::parse::<u64>);
            let (Some(Ok(at)), Some(Ok(data)), Some(Ok(metadata))) =
                (numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            samples.push(Sample {
                at: Timestamp::from_unix(at),
                data: Bytes::new(data),
                metadata: Bytes::new(metadata),
            });
        }
        samples
    }

    /// Writes them, so that a reader sees the old ones or the new ones.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let text: String = self
            .0
            .iter()
            .map(|s| format!("{} {} {}\n", s.at.to_unix(), s.data.get(), s.metadata.get()))
            .collect();
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, mib: u64) -> Sample {
        Sample {
            at: Timestamp::from_unix(at),
            data: Bytes::from_mib(mib),
            metadata: Bytes::from_mib(1),
        }
    }

    fn samples(of: impl IntoIterator<Item = (u64, u64)>) -> Samples {
        let mut samples = Samples::default();
        of.into_iter()
            .for_each(|(at, mib)| samples.push(sample(at, mib)));
        samples
    }

    fn data_left(samples: &Samples, used: u64) -> Option<u64> {
        let of = |used| Usage {
            used: Bytes::from_mib(used),
            total: Bytes::from_mib(1000),
        };
        let told = samples.time_to_full(of(used), of(1));
        assert_eq!(told.metadata, None, "it did not grow");
        told.data.map(|left| left.as_secs())
    }

    #[test]
    fn the_line_through_the_samples_is_followed_to_the_end() {
        // 2 MiB a second, exactly.
        let even = samples((0..60).map(|n| (1000 + n, 100 + 2 * n)));
        assert_eq!(data_left(&even, 218), Some(391));
        // The same with noise that is the same on both sides.
        let noisy = samples((0..60).map(|n| (1000 + n, 100 + 2 * n + 3 * (n % 2))));
        let left = data_left(&noisy, 221).unwrap();
        assert!((380..=400).contains(&left), "{left}");
    }

    #[test]
    fn nothing_is_told_of_what_shrinks_rests_or_was_seen_too_shortly() {
        assert_eq!(data_left(&Samples::default(), 1), None);
        assert_eq!(data_left(&samples([(5, 1), (14, 100)]), 100), None);
        assert_eq!(data_left(&samples([(5, 1), (15, 100)]), 100), Some(90));
        assert_eq!(data_left(&samples([(5, 100), (50, 100)]), 100), None);
        assert_eq!(data_left(&samples([(5, 100), (50, 50)]), 50), None);
        // A mebibyte an hour: full in 999 hours.
        assert_eq!(data_left(&samples([(0, 0), (3600, 1)]), 1), None);
    }

    #[test]
    fn old_ones_go_and_a_clock_put_back_begins_anew() {
        let many = samples((0..10_000).map(|n| (n, n)));
        assert_eq!((many.0.len(), many.0[0].at.to_unix()), (KEPT, 9880));
        let apart = samples([(0, 1), (4000, 2)]);
        assert_eq!(apart, samples([(4000, 2)]));
        assert_eq!(samples([(100, 1), (50, 2)]), samples([(50, 2)]));
        assert_eq!(samples([(100, 1), (100, 2)]), samples([(100, 2)]));
    }

    #[test]
    fn a_file_gives_back_what_was_saved_and_damage_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage");
        assert_eq!(Samples::load(&path), Samples::default());
        let saved = samples([(1, 10), (2, 20)]);
        saved.save(&path).unwrap();
        assert_eq!(Samples::load(&path), saved);
        fs::write(&path, b"1 2\nx y z\n2 3 4\n\xff").unwrap();
        assert_eq!(Samples::load(&path), Samples::default());
        fs::write(&path, b"1 2\nx y z\n7 1048576 1048576\n").unwrap();
        assert_eq!(Samples::load(&path), samples([(7, 1)]));
    }
}
