//! What happens in a history, made up from a seed.

use dmthin::ioctl::Errno;

/// Numbers that follow from a seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than this.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        let nr = self.below(u64::try_from(choices.len()).unwrap());
        choices[usize::try_from(nr).unwrap()]
    }
}

/// A verb. What its number means, of those that there are, is found when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    CreatePool,
    Import(u64),
    RemoveImage(u64),
    Tag {
        image: u64,
        name: u64,
    },
    Untag(u64),
    Prune,
    Create {
        image: u64,
        larger: bool,
    },
    Fork(u64),
    Remove {
        container: u64,
        queued: bool,
    },
    Commit(u64),
    Diff(u64),
    Reset(u64),
    MakeVolume,
    RemoveVolume(u64),
    /// Of a container or volume, as these are.
    Grow(u64),
    Snapshot(u64),
    RemoveSnapshot(u64),
    Rollback(u64),
    RunQueue,
    Cancel(u64),
    MakeBallast,
    ReleaseBallast,
    GrowPool {
        data: bool,
        metadata: bool,
    },
    GrowBase,
    BackUp,
    Check,
    Collect,
    Reopen,
    /// Of a catalogue that is lost, or torn.
    Rebuild {
        torn: bool,
    },
}

/// Where something goes wrong, counted in calls, messages or steps of the verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    CutBefore(u64),
    CutAfter(u64),
    CutAtStep(u64),
    Error(u64, Errno),
    Commit(u64),
}

/// What a cut takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The process.
    Process,
    /// The machine's power, and perhaps commits that were not flushed.
    Power { lazy: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accident {
    pub(crate) mishap: Mishap,
    pub(crate) loss: Loss,
}

impl Accident {
    /// Whether the pool may take no more changes after it.
    pub(crate) fn may_degrade(&self) -> bool {
        matches!(self.mishap, Mishap::Commit(_))
    }
}

/// What somebody else does to a container's device before a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    Writes(u64),
    /// Mounts it and makes a file.
    Saves(u64),
    Holds(u64),
    LetsGo,
}

#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) guest: Option<Guest>,
    pub(crate) verb: Verb,
    pub(crate) accident: Option<Accident>,
    /// What befalls the openings after it.
    pub(crate) again: Vec<Accident>,
}

const ERRORS: [Errno; 3] = [Errno::IO, Errno::NOMEM, Errno::NOSPC];

fn accident(random: &mut Random, calls: u64) -> Accident {
    let at = random.below(calls);
    let mishap = match random.below(8) {
        0 | 1 => Mishap::CutBefore(at),
        2 | 3 => Mishap::CutAfter(at),
        4 | 5 => Mishap::CutAtStep(at),
        6 => Mishap::Error(at, random.of(&ERRORS)),
        _ => Mishap::Commit(random.below(calls.div_ceil(8))),
    };
    let loss = match random.below(4) {
        0 | 1 => Loss::Process,
        2 => Loss::Power { lazy: false },
        _ => Loss::Power { lazy: true },
    };
    Accident { mishap, loss }
}

/// Calls that change something which a verb makes, about.
fn calls(verb: Verb) -> u64 {
    match verb {
        Verb::CreatePool | Verb::Reopen | Verb::Rebuild { .. } | Verb::GrowBase => 24,
        Verb::Import(_) | Verb::Commit(_) | Verb::Diff(_) => 30,
        Verb::Reset(_) | Verb::Rollback(_) => 18,
        Verb::Create { larger: false, .. } | Verb::Fork(_) | Verb::Snapshot(_) => 6,
        Verb::Tag { .. } | Verb::Untag(_) => 1,
        _ => 12,
    }
}

fn verb(random: &mut Random) -> Verb {
    let which = random.below(64);
    match random.below(50) {
        0..4 => Verb::Import(which),
        4 => Verb::RemoveImage(which),
        5 | 6 => Verb::Tag {
            image: which,
            name: random.below(2),
        },
        7 => Verb::Untag(which),
        8 => Verb::Prune,
        9..15 => Verb::Create {
            image: which,
            larger: random.one_in(3),
        },
        15 | 16 => Verb::Fork(which),
        17..21 => Verb::Remove {
            container: which,
            queued: random.one_in(3),
        },
        21 | 22 => Verb::Commit(which),
        23 => Verb::Diff(which),
        24 | 25 => Verb::Reset(which),
        26 | 27 => Verb::MakeVolume,
        28 => Verb::RemoveVolume(which),
        29 | 30 => Verb::Grow(which),
        31..34 => Verb::Snapshot(which),
        34 => Verb::RemoveSnapshot(which),
        35..38 => Verb::Rollback(which),
        38 => Verb::RunQueue,
        39 => Verb::Cancel(which),
        40 => random.of(&[Verb::MakeBallast, Verb::MakeBallast, Verb::ReleaseBallast]),
        41 => Verb::GrowPool {
            data: random.one_in(2),
            metadata: random.one_in(2),
        },
        42 => Verb::GrowBase,
        43 => Verb::BackUp,
        44 => Verb::Check,
        45 => Verb::Collect,
        46 | 47 => Verb::Rebuild {
            torn: random.one_in(2),
        },
        _ => Verb::Reopen,
    }
}

/// The history of a seed: a pool is made, an image imported, then up to five verbs, half of which something
/// befalls.
pub(crate) fn history(seed: u64) -> Vec<Act> {
    let mut random = Random::new(seed);
    let nr = 3 + random.below(4);
    let mut acts = Vec::new();
    for at in 0..=nr {
        let verb = match at {
            0 => Verb::CreatePool,
            1 => Verb::Import(random.below(64)),
            _ => verb(&mut random),
        };
        let befalls = if at == 0 {
            random.one_in(6)
        } else {
            random.one_in(2)
        };
        let accident = befalls.then(|| accident(&mut random, calls(verb)));
        let mut again = Vec::new();
        while accident.is_some() && again.len() < 2 && random.one_in(3) {
            again.push(self::accident(&mut random, 16));
        }
        let guest = match random.below(12) {
            0 | 1 => Some(Guest::Writes(random.below(64))),
            2 | 3 => Some(Guest::Saves(random.below(64))),
            4 => Some(Guest::Holds(random.below(64))),
            5 => Some(Guest::LetsGo),
            _ => None,
        };
        acts.push(Act {
            guest,
            verb,
            accident,
            again,
        });
    }
    acts
}
