//! What costs too much to be asked at each look: what each volume takes, and what does not belong.
//!
//! The pool's metadata are read for it, through a metadata snapshot. So that is done rarely, and only
//! where something has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::graph::finding::FindingKind;
use crate::graph::monitor::{MonitorOp, Operation};
use crate::graph::pool::Pool;
use crate::graph::volumes::VolumeUsage;
use crate::ids::{ThinId, TransactionId};
use crate::units::DataBlocks;

/// The volumes are not read more often.
const VOLUMES_EVERY: Duration = Duration::from_secs(600);
/// What does not belong is not looked for more often.
const CHECK_EVERY: Duration = Duration::from_secs(3600);

/// What is to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// What each volume takes.
    pub volumes: bool,
    /// What does not belong.
    pub orphans: bool,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// What each volume takes; none where that was not asked for, or failed.
    pub volumes: Option<Vec<VolumeUsage>>,
    /// How much there is of each kind of what does not belong; as above.
    pub orphans: Option<BTreeMap<FindingKind, u64>>,
    /// What was done for it.
    pub operations: Vec<Operation>,
}

impl Measured {
    /// Takes over what was measured anew.
    pub fn update(&mut self, newer: Self) {
        self.volumes = newer.volumes.or(self.volumes.take());
        self.orphans = newer.orphans.or(self.orphans.take());
        self.operations = newer.operations;
    }
}

impl Pool {
    /// Measures; what fails is logged and left out, for it is worth no alarm of its own.
    #[must_use]
    pub fn measure(&self, what: Measure) -> Measured {
        let mut measured = Measured::default();
        if what.volumes {
            let (volumes, operation) =
                Operation::timed(MonitorOp::ReadVolumes, || self.volume_usage());
            measured.operations.push(operation);
            measured.volumes = volumes
                .inspect_err(|error| tracing::debug!(%error, "the volumes cannot be read"))
                .ok();
        }
        if what.orphans {
            let (found, operation) = Operation::timed(MonitorOp::Check, || self.check());
            measured.operations.push(operation);
            measured.orphans = found
                .inspect_err(|error| tracing::debug!(%error, "the pool cannot be checked"))
                .ok()
                .map(|(findings, _)| {
                    let mut counts: BTreeMap<_, u64> =
                        FindingKind::OF_POOL.iter().map(|kind| (*kind, 0)).collect();
                    for finding in findings {
                        let count = counts.entry(finding.kind).or_default();
                        *count = count.saturating_add(1);
                    }
                    counts
                });
        }
        measured
    }
}

/// What tells that volumes may take something else than before: the pool's transaction id, its blocks in
/// use, and which volumes there are.
pub(super) type State = (TransactionId, DataBlocks, BTreeSet<ThinId>);

/// When something was measured last, and what the pool was like.
#[derive(Debug, Default)]
pub(super) struct Due {
    volumes: Option<(Instant, State)>,
    checked: Option<Instant>,
}

impl Due {
    /// What is due, which counts as done from now on.
    pub(super) fn ask(&mut self, state: State, now: Instant) -> Option<Measure> {
        let over = |since: Instant, every| now.saturating_duration_since(since) >= every;
        let volumes = self
            .volumes
            .as_ref()
            .is_none_or(|(since, seen)| *seen != state && over(*since, VOLUMES_EVERY));
        let orphans = self.checked.is_none_or(|since| over(since, CHECK_EVERY));
        if volumes {
            self.volumes = Some((now, state));
        }
        if orphans {
            self.checked = Some(now);
        }
        (volumes || orphans).then_some(Measure { volumes, orphans })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(used: u64, ids: &[u64]) -> State {
        let ids = ids.iter().map(|id| ThinId::new(*id).unwrap()).collect();
        (TransactionId::new(3), DataBlocks::new(used), ids)
    }

    #[test]
    fn volumes_are_read_again_when_something_changed_and_time_is_over() {
        let mut due = Due::default();
        let begin = Instant::now();
        let mut ask = |seconds, state| {
            let due = due.ask(state, begin + Duration::from_secs(seconds));
            due.map(|due| (due.volumes, due.orphans))
        };
        assert_eq!(ask(0, state(1, &[1])), Some((true, true)));
        assert_eq!(ask(599, state(2, &[1])), None);
        assert_eq!(ask(600, state(2, &[1])), Some((true, false)));
        // Nothing changed since.
        assert_eq!(ask(3599, state(2, &[1])), None);
        assert_eq!(ask(3600, state(2, &[1])), Some((false, true)));
        // Another volume of the same size in place of one.
        assert_eq!(ask(3601, state(2, &[2])), Some((true, false)));
        assert_eq!(ask(7200, state(2, &[2])), Some((false, true)));
    }

    #[test]
    fn what_was_not_measured_anew_stays() {
        let mut measured = Measured {
            volumes: Some(Vec::new()),
            orphans: None,
            operations: Vec::new(),
        };
        measured.update(Measured {
            orphans: Some([(FindingKind::Husk, 1)].into()),
            ..Measured::default()
        });
        assert_eq!(measured.volumes, Some(Vec::new()));
        assert_eq!(measured.orphans, Some([(FindingKind::Husk, 1)].into()));
    }
}
