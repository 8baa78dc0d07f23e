//! States of pools and volumes, their legal transitions, and the rule that pairs a catalogue with
//! its pool. Pure: nothing here touches the file.

use std::fmt;
use std::str::FromStr;

use crate::ids::IdError;
use crate::ids::TransactionId;

macro_rules! state {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal,
     { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Its word in the catalogue and on the screen.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(IdError {
                        what: $what,
                        text: text.to_owned(),
                        rule: $rule,
                    }),
                }
            }
        }
    };
}

state! {
    /// How far a pool is.
    PoolState, "a state of a pool", "creating, ready or destroying",
    {
        /// Being made: its devices or its base may not be there yet.
        Creating = "creating",
        /// In use.
        Ready = "ready",
        /// Being taken apart; takes no new volume.
        Destroying = "destroying",
    }
}

state! {
    /// How far a volume is.
    VolumeState, "a state of a volume", "creating, ready or deleting",
    {
        /// Its intent is written; the thin device may or may not exist.
        Creating = "creating",
        /// The thin device exists and holds what it should.
        Ready = "ready",
        /// Gone for the user; the thin device may still exist.
        Deleting = "deleting",
    }
}

state! {
    /// What becomes of a write that finds no free block in the pool.
    WhenFull, "what a full pool does", "queue or error",
    {
        /// It waits for space, as long as the kernel's `no_space_timeout`, 60 s by default.
        Queue = "queue",
        /// It fails at once.
        Error = "error",
    }
}

state! {
    /// How far a ballast is.
    BallastState, "a state of a ballast", "filling, ready or releasing",
    {
        /// Its intent is written; it may keep less than it should.
        Filling = "filling",
        /// It keeps what it should.
        Ready = "ready",
        /// To be deleted.
        Releasing = "releasing",
    }
}

impl PoolState {
    /// Whether a pool in this state may be put into `to`.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Creating, Self::Ready | Self::Destroying) | (Self::Ready, Self::Destroying)
        )
    }
}

impl VolumeState {
    /// Whether a volume may go from one state to another; `None` is no volume, before and after.
    #[must_use]
    pub const fn is_step(from: Option<Self>, to: Option<Self>) -> bool {
        matches!(
            (from, to),
            (None, Some(Self::Creating))
                | (
                    Some(Self::Creating),
                    Some(Self::Ready | Self::Deleting) | None
                )
                | (Some(Self::Ready), Some(Self::Deleting))
                | (Some(Self::Deleting), None)
        )
    }
}

/// Whether a pool and a catalogue belong together, by the transaction id in the pool's superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationCheck {
    /// They do. A pending generation, if any, has not reached the pool.
    Match,
    /// The pending generation has reached the pool: [`Catalogue::confirm_generation`] is due.
    ///
    /// [`Catalogue::confirm_generation`]: super::Catalogue::confirm_generation
    PendingDone,
    /// One of them was restored, swapped or written by something else: do not write to either.
    Mismatch {
        /// The pool's transaction id.
        found: TransactionId,
        /// The catalogue's generation.
        expected: TransactionId,
    },
}

impl GenerationCheck {
    /// Compares the pool's transaction id with what the catalogue expects.
    #[must_use]
    pub fn new(
        found: TransactionId,
        generation: TransactionId,
        pending: Option<TransactionId>,
    ) -> Self {
        if found == generation {
            Self::Match
        } else if Some(found) == pending {
            Self::PendingDone
        } else {
            Self::Mismatch {
                found,
                expected: generation,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: [PoolState; 3] = [PoolState::Creating, PoolState::Ready, PoolState::Destroying];
    const VOLUME: [VolumeState; 3] = [
        VolumeState::Creating,
        VolumeState::Ready,
        VolumeState::Deleting,
    ];

    #[test]
    fn pools_change_state_by_this_table() {
        for (from, row) in POOL.into_iter().zip([
            // creating, ready, destroying
            [false, true, true],
            [false, false, true],
            [false, false, false],
        ]) {
            for (to, legal) in POOL.into_iter().zip(row) {
                assert_eq!(from.may_become(to), legal, "{from} to {to}");
            }
        }
    }

    #[test]
    fn volumes_change_state_by_this_table() {
        let all = [None, Some(VOLUME[0]), Some(VOLUME[1]), Some(VOLUME[2])];
        for (from, row) in all.into_iter().zip([
            // none, creating, ready, deleting
            [false, true, false, false],
            [true, false, true, true],
            [false, false, false, true],
            [true, false, false, false],
        ]) {
            for (to, legal) in all.into_iter().zip(row) {
                assert_eq!(VolumeState::is_step(from, to), legal, "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn states_are_read_as_they_are_shown() {
        for state in POOL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for state in VOLUME {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("Ready".parse::<VolumeState>().is_err());
        assert!("deleting".parse::<PoolState>().is_err());
    }

    #[test]
    fn generations_pair_by_this_table() {
        let id = TransactionId::new;
        let mismatch = |found, expected| GenerationCheck::Mismatch {
            found: id(found),
            expected: id(expected),
        };
        for (found, generation, pending, verdict) in [
            (5, 5, None, GenerationCheck::Match),
            (5, 5, Some(6), GenerationCheck::Match),
            (6, 5, Some(6), GenerationCheck::PendingDone),
            (6, 5, None, mismatch(6, 5)),
            (7, 5, Some(6), mismatch(7, 5)),
            (4, 5, None, mismatch(4, 5)),
            (4, 5, Some(6), mismatch(4, 5)),
            (0, 1, None, mismatch(0, 1)),
        ] {
            assert_eq!(
                GenerationCheck::new(id(found), id(generation), pending.map(id)),
                verdict,
                "{found} {generation} {pending:?}"
            );
        }
    }
}
