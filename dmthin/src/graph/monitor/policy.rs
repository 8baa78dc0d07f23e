//! What a monitor is to do, and the arithmetic of it: nothing here touches a pool.

use std::str::FromStr;
use std::time::Duration;

use crate::graph::report::Usage;
use crate::units::{Bytes, GrowthPercent, Percent};

/// Where the kernel's own monitor of thin pools, dmeventd, begins too: growing a pool that is half
/// empty is a mistake in the settings.
const THRESHOLD_LEAST: u64 = 50;
/// How far before the guard the pool is grown, in hundredths.
const BEFORE_GUARD: u64 = 5;

/// What becomes of writers when the pool has no more room and cannot grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// Their writes fail at once.
    Error,
    /// Their writes wait as long as the kernel's `no_space_timeout`, and fail then.
    Queue,
    /// The containers' devices are suspended at the red line, before the pool is full, and go on when
    /// there is room again: nobody sees an error, however long it takes.
    Freeze,
}

/// A word that is none of [`OnFull`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not what a full pool does: error, queue or freeze")]
pub struct OnFullError(pub String);

impl OnFull {
    const ALL: [Self; 3] = [Self::Error, Self::Queue, Self::Freeze];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Queue => "queue",
            Self::Freeze => "freeze",
        }
    }
}

impl FromStr for OnFull {
    type Err = OnFullError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| OnFullError(text.to_owned()))
    }
}

/// What a monitor is to do for a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorPolicy {
    /// Share in use from which data and metadata are grown; none: never. A guard that would refuse
    /// before makes it less.
    pub autoextend_threshold: Option<Percent>,
    /// By how much they are grown.
    pub autoextend_percent: GrowthPercent,
    /// The data are not grown beyond this.
    pub max_size: Option<Bytes>,
    /// The metadata are not grown beyond this.
    pub max_metadata_size: Option<Bytes>,
    /// The longest time between two looks, whatever the kernel says.
    pub net: Duration,
    /// What becomes of writers in a full pool; none: as `pool set` has it.
    pub on_full: Option<OnFull>,
    /// Share left at which the ballast is let go, and containers are held if they are to be.
    pub red_line: Percent,
    /// Whether the LVM volumes below the pool may be extended.
    pub lvextend: bool,
}

impl Default for MonitorPolicy {
    fn default() -> Self {
        Self {
            autoextend_threshold: Percent::new(80).ok(),
            autoextend_percent: GrowthPercent::FIFTH,
            max_size: None,
            max_metadata_size: None,
            net: Duration::from_secs(30),
            on_full: None,
            red_line: Percent::new(5).unwrap_or(Percent::TENTH),
            lvextend: false,
        }
    }
}

impl MonitorPolicy {
    /// The share in use at which a space is grown whose guard keeps `min_free`, in hundredths.
    pub(crate) fn threshold(&self, min_free: Percent) -> Option<u64> {
        let before_guard = 100_u64
            .saturating_sub(u64::from(min_free.get()))
            .saturating_sub(BEFORE_GUARD);
        let threshold = u64::from(self.autoextend_threshold?.get());
        Some(threshold.min(before_guard).max(THRESHOLD_LEAST))
    }

    /// The size that a space of this usage is to have, if it is to grow: so much that it is below the
    /// threshold then.
    pub(crate) fn target(&self, size: Bytes, usage: Usage, min_free: Percent) -> Option<Bytes> {
        let threshold = self.threshold(min_free)?;
        if !reaches(usage, threshold) {
            return None;
        }
        let more = size.saturating_add(self.autoextend_percent.of(size));
        let enough = u128::from(usage.used.get())
            .saturating_mul(100)
            .checked_div(u128::from(threshold))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .map_or(more, Bytes::new);
        // One mebibyte more: the threshold is reached, not passed, at the very share.
        Some(more.max(enough.saturating_add(Bytes::from_mib(1))))
    }

    /// Whether less than the red line's share is left.
    pub(crate) fn is_red(&self, usage: Usage) -> bool {
        usage.total.saturating_sub(usage.used) < self.red_line.of(usage.total)
    }
}

/// Whether so many hundredths of a space are in use.
pub(crate) fn reaches(usage: Usage, hundredths: u64) -> bool {
    let used = u128::from(usage.used.get()).saturating_mul(100);
    usage.total > Bytes::ZERO
        && used >= u128::from(usage.total.get()).saturating_mul(u128::from(hundredths))
}

/// The highest of the steps that a space has reached: people are told of each once.
pub(crate) fn step(usage: Usage) -> u64 {
    let steps = [100, 95, 90, 85, 80];
    steps
        .into_iter()
        .find(|hundredths| reaches(usage, *hundredths))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(used: u64, total: u64) -> Usage {
        Usage {
            used: Bytes::from_mib(used),
            total: Bytes::from_mib(total),
        }
    }

    fn percent(n: u64) -> Percent {
        Percent::new(n).unwrap()
    }

    #[test]
    fn the_pool_grows_before_the_guard_refuses() {
        let policy = MonitorPolicy::default();
        let thresholds = [0, 10, 15, 20, 44, 60, 99].map(|n| policy.threshold(percent(n)));
        assert_eq!(thresholds, [80, 80, 80, 75, 51, 50, 50].map(Some));
        let never = MonitorPolicy {
            autoextend_threshold: None,
            ..policy
        };
        assert_eq!(never.threshold(Percent::TENTH), None);
        let full = usage(100, 100);
        assert_eq!(never.target(full.total, full, Percent::TENTH), None);
    }

    #[test]
    fn growth_is_by_the_percentage_and_at_least_enough() {
        let policy = MonitorPolicy::default();
        let target = |used, total| {
            let usage = usage(used, total);
            policy.target(usage.total, usage, Percent::TENTH)
        };
        assert_eq!(target(799, 1000), None);
        assert_eq!(target(800, 1000), Some(Bytes::from_mib(1200)));
        // 1000 of 1200 would be over the threshold at once.
        assert_eq!(target(1000, 1000), Some(Bytes::from_mib(1251)));
        let grown = usage(1000, 1251);
        assert_eq!(policy.target(grown.total, grown, Percent::TENTH), None);
    }

    #[test]
    fn red_is_below_the_share_and_steps_are_reached_exactly() {
        let policy = MonitorPolicy::default();
        assert!(!policy.is_red(usage(95, 100)));
        assert!(policy.is_red(usage(96, 100)));
        let steps = [0, 79, 80, 84, 85, 90, 95, 99, 100].map(|used| step(usage(used, 100)));
        assert_eq!(steps, [0, 0, 80, 80, 85, 90, 95, 95, 100]);
        assert_eq!(step(usage(0, 0)), 0);
    }
}
