//! What `check` finds and what `gc` makes of it: plain records.

use std::path::PathBuf;

use serde::Serialize;

use crate::graph::error::PoolError;
use crate::graph::lossy;
use crate::ids::{DevNo, DmName, PoolName, ThinId, VolumeId};
use crate::units::Bytes;

/// What does not belong, or is not there, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A pool whose making or destroying was cut.
    HalfMadePool,
    /// A pool that cannot be looked at, as its catalogue cannot be read.
    DamagedPool,
    /// Catalogue and pool are not at the same transaction id.
    Unpaired,
    /// A device that was never given a table.
    Husk,
    /// A device of a volume that no row is of.
    StrayDevice,
    /// A device of ours whose pool is not under this root.
    DeviceOfNoPool,
    /// A device of ours whose pool is open under another root.
    DeviceOfOtherRoot,
    /// A device whose input and output wait.
    Suspended,
    /// A row in state `creating`, and nobody makes it.
    HalfMade,
    /// A row in state `deleting`, and nobody holds or removes it.
    QueuedRemoval,
    /// A row in state `deleting` that somebody holds, as by a mount.
    HeldRemoval,
    /// A sealed layer that no image has.
    LayerOfNoImage,
    /// A thin id in the pool that no row knows.
    UnknownThin,
    /// A row whose thin id is not in the pool: its data are lost.
    MissingThin,
    /// A container whose device was handed out and is not there.
    MissingDevice,
    /// A loop device on a file of the pool that the pool does not use.
    StrayLoop,
    /// A record of a layer's tar, and no layer.
    StrayRecord,
    /// A node of one of our names that leads nowhere or to another device.
    StrayNode,
    /// The copy of the catalogue in the pool does not have all that the catalogue has.
    StaleMirror,
}

impl FindingKind {
    /// All of them that a pool can have.
    pub(crate) const OF_POOL: &[Self] = &[
        Self::HalfMadePool,
        Self::Unpaired,
        Self::Husk,
        Self::StrayDevice,
        Self::Suspended,
        Self::HalfMade,
        Self::QueuedRemoval,
        Self::HeldRemoval,
        Self::LayerOfNoImage,
        Self::UnknownThin,
        Self::MissingThin,
        Self::MissingDevice,
        Self::StrayLoop,
        Self::StrayRecord,
        Self::StrayNode,
        Self::StaleMirror,
    ];

    /// The word for it, as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HalfMadePool => "half-made-pool",
            Self::DamagedPool => "damaged-pool",
            Self::Unpaired => "unpaired",
            Self::Husk => "husk",
            Self::StrayDevice => "stray-device",
            Self::DeviceOfNoPool => "device-of-no-pool",
            Self::DeviceOfOtherRoot => "device-of-other-root",
            Self::Suspended => "suspended",
            Self::HalfMade => "half-made",
            Self::QueuedRemoval => "queued-removal",
            Self::HeldRemoval => "held-removal",
            Self::LayerOfNoImage => "layer-of-no-image",
            Self::UnknownThin => "unknown-thin",
            Self::MissingThin => "missing-thin",
            Self::MissingDevice => "missing-device",
            Self::StrayLoop => "stray-loop",
            Self::StrayRecord => "stray-record",
            Self::StrayNode => "stray-node",
            Self::StaleMirror => "stale-mirror",
        }
    }

    /// Whether data are lost or not to be trusted: no cleaning helps.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        matches!(self, Self::DamagedPool | Self::Unpaired | Self::MissingThin)
    }

    /// Whether it belongs where it is, and is told only so that nobody wonders.
    #[must_use]
    pub const fn is_notice(self) -> bool {
        matches!(self, Self::DeviceOfOtherRoot)
    }
}

/// What `gc` does about something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Remedy {
    /// Takes it away.
    Remove,
    /// Ends what was begun.
    Finish,
    /// Lets its input and output go on.
    Resume,
    /// Makes the device.
    Activate,
    /// Nothing: it is not safe, or not ours to do.
    Keep,
}

/// Something that does not belong, or is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The same in a sentence.
    pub text: String,
    /// What `gc` does about it.
    pub remedy: Remedy,
    /// Its pool, where it has one.
    pub pool: Option<PoolName>,
    /// Its volume in the catalogue.
    pub volume: Option<VolumeId>,
    /// Its id in the pool.
    pub thin_id: Option<ThinId>,
    /// Its dm device.
    pub device: Option<DmName>,
    /// The number of its device.
    pub devno: Option<DevNo>,
    /// Its node.
    #[serde(serialize_with = "lossy::option")]
    pub node: Option<PathBuf>,
}

impl Finding {
    pub(crate) const fn new(
        kind: FindingKind,
        remedy: Remedy,
        pool: Option<PoolName>,
        text: String,
    ) -> Self {
        Self {
            kind,
            text,
            remedy,
            pool,
            volume: None,
            thin_id: None,
            device: None,
            devno: None,
            node: None,
        }
    }
}

/// What `check` found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    /// All of it, pool by pool.
    pub findings: Vec<Finding>,
    /// Pools on which a command works: what it is making or removing there was left out.
    pub in_work: Vec<PoolName>,
}

impl Findings {
    /// That nothing was found.
    ///
    /// # Errors
    /// [`PoolError::Damaged`] where data are lost, else [`PoolError::Findings`].
    pub fn require_clean(&self) -> Result<(), PoolError> {
        verdict(self.findings.iter())
    }
}

fn verdict<'a>(findings: impl Iterator<Item = &'a Finding> + Clone) -> Result<(), PoolError> {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let findings = findings.filter(|finding| !finding.kind.is_notice());
    let damaged = findings
        .clone()
        .filter(|finding| finding.kind.is_damage())
        .count();
    match (damaged, findings.count()) {
        (0, 0) => Ok(()),
        (0, found) => Err(PoolError::Findings {
            found: count(found),
        }),
        (damaged, _) => Err(PoolError::Damaged {
            found: count(damaged),
        }),
    }
}

/// What became of something in a run of `gc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What its remedy says was done.
    Done,
    /// It would be: this was a dry run.
    Planned,
    /// It was left as it is.
    Kept,
    /// It was tried in vain.
    Failed,
}

/// Something in a run of `gc`.
#[derive(Debug, Serialize)]
pub struct Collected {
    /// What it is.
    #[serde(flatten)]
    pub finding: Finding,
    /// What became of it.
    pub outcome: Outcome,
    /// What went wrong.
    pub problem: Option<String>,
    /// The same, to act on.
    #[serde(skip)]
    pub error: Option<PoolError>,
}

/// A run of `gc`.
#[derive(Debug, Default, Serialize)]
pub struct Collection {
    /// What was found, in the order it was worked off.
    pub collected: Vec<Collected>,
    /// Pools on which a command works: they were left alone.
    pub in_work: Vec<PoolName>,
    /// Bytes that came back to the pools; in a dry run, that would.
    pub bytes: Bytes,
}

impl Collection {
    /// That all was done, or would be.
    ///
    /// # Errors
    /// What failed first; else [`PoolError::PoolBusy`] for a pool that was left alone,
    /// [`PoolError::Damaged`] or [`PoolError::Findings`] for what was kept.
    pub fn require_done(&mut self) -> Result<(), PoolError> {
        let failed = self.collected.iter_mut().find_map(|item| item.error.take());
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(name) = self.in_work.first() {
            return Err(PoolError::PoolBusy {
                name: name.clone(),
                users: vec!["another command".to_owned()],
            });
        }
        let kept = self
            .collected
            .iter()
            .filter(|item| item.outcome == Outcome::Kept);
        verdict(kept.map(|item| &item.finding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::code::ErrorCode;

    fn finding(kind: FindingKind) -> Finding {
        Finding::new(kind, Remedy::Keep, None, String::new())
    }

    fn collected(kind: FindingKind, outcome: Outcome, error: Option<PoolError>) -> Collected {
        Collected {
            finding: finding(kind),
            outcome,
            problem: None,
            error,
        }
    }

    #[test]
    fn words_are_those_of_json() {
        for kind in [
            FindingKind::HalfMadePool,
            FindingKind::Husk,
            FindingKind::DamagedPool,
            FindingKind::DeviceOfOtherRoot,
            FindingKind::LayerOfNoImage,
            FindingKind::StrayNode,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn damage_is_told_before_all_else() {
        let code = |kinds: &[FindingKind]| {
            let findings = Findings {
                findings: kinds.iter().copied().map(finding).collect(),
                in_work: Vec::new(),
            };
            findings.require_clean().map_err(|error| error.code())
        };
        assert_eq!(code(&[]), Ok(()));
        assert_eq!(code(&[FindingKind::DeviceOfOtherRoot]), Ok(()));
        assert_eq!(
            code(&[FindingKind::DamagedPool]),
            Err(ErrorCode::NeedsCheck)
        );
        assert_eq!(code(&[FindingKind::Husk]), Err(ErrorCode::Failure));
        assert_eq!(
            code(&[FindingKind::Husk, FindingKind::MissingThin]),
            Err(ErrorCode::NeedsCheck)
        );
    }

    #[test]
    fn a_run_ends_with_what_failed_else_with_what_was_kept() {
        let busy = || PoolError::PoolBusy {
            name: PoolName::new("tank").unwrap(),
            users: Vec::new(),
        };
        let code = |items: Vec<Collected>| {
            let mut run = Collection {
                collected: items,
                ..Collection::default()
            };
            run.require_done().map_err(|error| error.code())
        };
        let kind = FindingKind::StrayLoop;
        assert_eq!(code(vec![collected(kind, Outcome::Done, None)]), Ok(()));
        assert_eq!(code(vec![collected(kind, Outcome::Planned, None)]), Ok(()));
        assert_eq!(
            code(vec![collected(kind, Outcome::Kept, None)]),
            Err(ErrorCode::Failure)
        );
        let items = vec![
            collected(FindingKind::MissingThin, Outcome::Kept, None),
            collected(kind, Outcome::Failed, Some(busy())),
        ];
        assert_eq!(code(items), Err(ErrorCode::Busy));
    }
}
