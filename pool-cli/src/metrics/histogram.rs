//! How long things took, in buckets that never change.

use std::time::Duration;

/// Upper ends of the buckets, in seconds as they are told: from a look, which takes a millisecond, to a
/// queue that gives terabytes back.
const ENDS: [(&str, Duration); 10] = [
    ("0.001", Duration::from_millis(1)),
    ("0.005", Duration::from_millis(5)),
    ("0.025", Duration::from_millis(25)),
    ("0.1", Duration::from_millis(100)),
    ("0.5", Duration::from_millis(500)),
    ("2.5", Duration::from_millis(2500)),
    ("10", Duration::from_secs(10)),
    ("60", Duration::from_secs(60)),
    ("300", Duration::from_secs(300)),
    ("1800", Duration::from_secs(1800)),
];

/// Times, counted.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Those of a bucket are not in the next one.
    buckets: [u64; ENDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    pub(super) fn observe(&mut self, took: Duration) {
        let bucket = ENDS.iter().zip(&mut self.buckets);
        if let Some((_, bucket)) = bucket.into_iter().find(|((_, end), _)| took <= *end) {
            *bucket = bucket.saturating_add(1);
        }
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(took);
    }

    /// The end of each bucket with how many took no longer, the last with all.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let ends = ENDS.iter().zip(&self.buckets);
        let below = ends.scan(0_u64, |below, ((end, _), count)| {
            *below = below.saturating_add(*count);
            Some((*end, *below))
        });
        below.chain([("+Inf", self.count)])
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) const fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_has_those_below_it_too() {
        let mut times = Histogram::default();
        for millis in [1, 2, 500, 501, 5_000_000] {
            times.observe(Duration::from_millis(millis));
        }
        let told: Vec<_> = times.cumulative().collect();
        assert_eq!(
            told,
            [
                ("0.001", 1),
                ("0.005", 2),
                ("0.025", 2),
                ("0.1", 2),
                ("0.5", 3),
                ("2.5", 4),
                ("10", 4),
                ("60", 4),
                ("300", 4),
                ("1800", 4),
                ("+Inf", 5)
            ]
        );
        assert_eq!(
            (times.count(), times.sum()),
            (5, Duration::from_millis(5_001_004))
        );
    }

    #[test]
    fn the_ends_are_told_as_they_are_and_in_order() {
        assert!(ENDS.is_sorted_by_key(|(_, end)| *end));
        for (told, end) in ENDS {
            assert_eq!(told, end.as_secs_f64().to_string());
        }
    }
}
