//! What the load has done, on a disk of its own: a sector each, written when the verb has returned and before
//! the next one begins. So what is found after a reset is what is told here, or one verb more.

use anyhow::Result;

use crate::sectors::Sectors;

/// Size of the disk, in MiB.
pub const DISK_MIB: u64 = 1;

/// Containers that live through all rounds, each with a writer, and written by fio.
pub(crate) const CONTAINERS: u64 = 10;
/// Hands that make and remove containers.
pub(crate) const HANDS: u64 = 8;

/// Who tells something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The writer of a container: the last block that was flushed, and the last name that a file got.
    Writer(u64),
    /// Fio: the last pass that it ended, all its files flushed.
    Fio,
    /// A hand: the last container that it made, and the last that it removed.
    Hand(u64),
}

impl Who {
    const fn sector(self) -> u64 {
        match self {
            Self::Writer(number) => number,
            Self::Fio => 64,
            Self::Hand(number) => number.saturating_add(128),
        }
    }
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Told(Sectors);

impl Told {
    /// Opens it; one that nobody wrote yet tells of nothing done.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self(Sectors::open("/dev/vm/told")?))
    }

    /// What somebody told last.
    pub(crate) fn read(&self, who: Who) -> Result<[u64; 2]> {
        let bytes: [u8; 16] = self.0.read(who.sector())?;
        let (first, second) = bytes.split_at(8);
        Ok([
            u64::from_le_bytes(first.try_into()?),
            u64::from_le_bytes(second.try_into()?),
        ])
    }

    /// Tells it.
    pub(crate) fn write(&self, who: Who, what: [u64; 2]) -> Result<()> {
        self.0
            .write(who.sector(), what.map(u64::to_le_bytes).as_flattened())
    }
}

/// What a hand does next, and which of its containers there are: it makes the next one, then removes the one
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hand {
    pub(crate) made: u64,
    pub(crate) removed: u64,
}

/// A verb of a hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Make(u64),
    Remove(u64),
}

impl Hand {
    pub(crate) const fn next(self) -> Verb {
        if self.made.saturating_sub(self.removed) < 2 {
            Verb::Make(self.made.saturating_add(1))
        } else {
            Verb::Remove(self.removed.saturating_add(1))
        }
    }

    pub(crate) const fn after(self, verb: Verb) -> Self {
        match verb {
            Verb::Make(made) => Self { made, ..self },
            Verb::Remove(removed) => Self { removed, ..self },
        }
    }

    /// Those there are; all have been made and none removed.
    pub(crate) fn containers(self) -> Vec<u64> {
        (self.removed.saturating_add(1)..=self.made).collect()
    }

    /// What it has done by what is found: all that it told, or the next verb too.
    pub(crate) fn found(self, containers: &[u64]) -> Option<Self> {
        [self, self.after(self.next())]
            .into_iter()
            .find(|hand| hand.containers() == containers)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hand, Verb};

    #[test]
    fn a_hand_makes_one_before_it_removes_another() {
        let mut hand = Hand {
            made: 0,
            removed: 0,
        };
        let mut done = Vec::new();
        for _ in 0..6 {
            done.push(hand.next());
            hand = hand.after(hand.next());
        }
        let (make, remove) = (Verb::Make, Verb::Remove);
        let expected = [make(1), make(2), remove(1), make(3), remove(2), make(4)];
        assert_eq!(done, expected);
        assert_eq!(hand.containers(), [3, 4]);
    }

    #[test]
    fn what_was_told_is_there_or_one_verb_more() {
        let hand = |made, removed| Hand { made, removed };
        // The next verb makes the fifth.
        assert_eq!(hand(4, 3).found(&[4]), Some(hand(4, 3)));
        assert_eq!(hand(4, 3).found(&[4, 5]), Some(hand(5, 3)));
        for wrong in [&[][..], &[5], &[3, 4], &[4, 6]] {
            assert_eq!(hand(4, 3).found(wrong), None, "{wrong:?}");
        }
        // The next verb removes the fourth.
        assert_eq!(hand(5, 3).found(&[4, 5]), Some(hand(5, 3)));
        assert_eq!(hand(5, 3).found(&[5]), Some(hand(5, 4)));
        for wrong in [&[4][..], &[], &[4, 5, 6], &[5, 6]] {
            assert_eq!(hand(5, 3).found(wrong), None, "{wrong:?}");
        }
    }
}
