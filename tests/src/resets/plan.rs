//! When the machine is reset, and how.

use std::fmt;
use std::time::Duration;

use crate::powercut::Random;

/// The shortest and the longest load before a reset, in milliseconds.
const LOAD: (u64, u64) = (200, 6000);

/// What resets the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Its own kernel, asked from within.
    Sysrq,
    /// The end of the process that it is.
    Kill,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sysrq => "sysrq-b",
            Self::Kill => "kill",
        })
    }
}

/// A reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By what.
    pub how: How,
    /// So long after the load began.
    pub after: Duration,
}

/// So many resets, by both in turns, at moments that the seed chooses.
#[must_use]
pub fn moments(rounds: usize, seed: u64) -> Vec<Moment> {
    let mut random = Random::new(seed);
    let (shortest, longest) = LOAD;
    [How::Sysrq, How::Kill]
        .into_iter()
        .cycle()
        .take(rounds)
        .map(|how| {
            let millis = random.below(longest.saturating_sub(shortest));
            Moment {
                how,
                after: Duration::from_millis(shortest.saturating_add(millis)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{How, moments};

    #[test]
    fn moments_are_the_same_by_the_same_seed_and_both_ways_take_turns() {
        let some = moments(100, 7);
        assert_eq!(some, moments(100, 7));
        assert_ne!(some, moments(100, 8));
        let killed = some.iter().filter(|moment| moment.how == How::Kill);
        assert_eq!(killed.count(), 50);
        let millis = some.iter().map(|moment| moment.after.as_millis());
        assert!(millis.clone().all(|millis| (200..6000).contains(&millis)));
        assert!(millis.clone().min() < Some(600) && millis.max() > Some(5500));
    }
}
