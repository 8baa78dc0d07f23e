//! What a device of a running pool has changed, read without a snapshot of the metadata, which would take four
//! commits of the pool.
//!
//! A block that is in use as of the last commit is not written before the next one is done
//! (`drivers/md/persistent-data/dm-space-map-metadata.c:sm_metadata_new_block` looks for one that is free in
//! both). So what is read between two looks at block 0 that find it the same is of one moment: the ways to the
//! roots of the devices' trees, a few blocks. Below the roots nothing is written while nobody writes to
//! the devices.
//!
//! Two commits may leave block 0 as it was, and a block on the way written anew. What is read is checked as any
//! other is, so this takes a block that is again one of the kind that was looked for; but it is why this
//! is only for who loses nothing by a wrong answer, as who discards what is going to be deleted.

use crate::ids::ThinId;
use crate::thinmeta::device::{BlockReader, ReadAt};
use crate::thinmeta::metadata::{Metadata, Span};
use crate::thinmeta::superblock::{BLOCK, ReadError};
use crate::thinmeta::walk::Tree;
use crate::units::MetaBlocks;

/// A commit takes longer than the ways, so that more than a few are hardly ever needed.
const TRIES: u32 = 16;

fn first_block<D: ReadAt + ?Sized>(device: &D) -> Result<Box<[u8; BLOCK]>, ReadError> {
    let mut reader = BlockReader::new(device);
    Ok(Box::new(*reader.read(MetaBlocks::ZERO)?))
}

impl<'a, D: ReadAt + ?Sized> Metadata<&'a D> {
    /// As [`changed`](Self::changed) of the last commit of a pool that runs, for a device that nobody
    /// writes to. `None` too where commits follow each other too fast.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn changed_while_running(
        device: &'a D,
        id: ThinId,
        origin: ThinId,
    ) -> Result<Option<Vec<Span>>, ReadError> {
        for _ in 0..TRIES {
            let before = first_block(device)?;
            let found = Self::with_trees(device, [origin, id]);
            if first_block(device)? != before {
                continue;
            }
            return match found? {
                Some((mut metadata, trees)) => metadata.changed_between(trees).map(Some),
                None => Ok(None),
            };
        }
        Ok(None)
    }

    fn with_trees(
        device: &'a D,
        [origin, id]: [ThinId; 2],
    ) -> Result<Option<(Self, [Tree; 2])>, ReadError> {
        let Some(mut metadata) = Self::of_closed(device)? else {
            return Ok(None);
        };
        let trees = metadata.trees_of(origin, id)?;
        Ok(trees.map(|trees| (metadata, trees)))
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "small numbers of a test")]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::io;

    use super::*;
    use crate::thinmeta::testing::{Leaves, Maker};
    use crate::units::DataBlocks;

    /// Metadata in which device 1 is a snapshot of device 0 with these blocks written since.
    fn image(written: &[u64]) -> Vec<u8> {
        let mut image = vec![0; 64 * BLOCK];
        let mut maker = Maker::new(|at, block: &[u8; BLOCK]| {
            let at = usize::try_from(at).unwrap() * BLOCK;
            image[at..at + BLOCK].copy_from_slice(block);
        });
        let mut tree = Leaves::default();
        maker.map(&mut tree, &(0..600).map(|key| (key, key)).collect());
        maker.device(0, &tree);
        let changes: BTreeMap<_, _> = written.iter().map(|key| (*key, 1000 + key)).collect();
        maker.map(&mut tree, &changes);
        maker.device(1, &tree);
        maker.finish(700 + written[0], 2000);
        image
    }

    fn ids() -> [ThinId; 2] {
        [1, 0].map(|id| ThinId::new(id).unwrap())
    }

    fn spans(written: &[u64]) -> Vec<Span> {
        let span = |begin: &u64| Span {
            begin: DataBlocks::new(*begin),
            len: DataBlocks::new(1),
        };
        written.iter().map(span).collect()
    }

    type IsBefore = fn(u32) -> bool;

    /// A pool that commits before each look at block 0 of these numbers, one metadata after the other.
    struct Running {
        committed: [Vec<u8>; 2],
        commits_at: IsBefore,
        now: Cell<usize>,
        looks: Cell<u32>,
    }

    impl Running {
        fn new(commits_at: IsBefore) -> Self {
            Self {
                committed: [image(&[5, 300]), image(&[7, 500])],
                commits_at,
                now: Cell::new(0),
                looks: Cell::new(0),
            }
        }
    }

    impl ReadAt for Running {
        fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
            if at == 0 {
                self.looks.set(self.looks.get() + 1);
                if (self.commits_at)(self.looks.get()) {
                    self.now.set(1 - self.now.get());
                }
            }
            self.committed[self.now.get()].read_exact_at(buf, at)
        }
    }

    #[test]
    fn metadata_that_stand_still_are_told_as_those_of_a_closed_pool() {
        let [id, origin] = ids();
        let image = image(&[5, 300]);
        let found = Metadata::changed_while_running(&image[..], id, origin).unwrap();
        assert_eq!(found, Some(spans(&[5, 300])));
        let mut closed = Metadata::of_closed(&image[..]).unwrap().unwrap();
        assert_eq!(found, closed.changed(id, origin).unwrap());
        let nobody = ThinId::new(9).unwrap();
        let found = Metadata::changed_while_running(&image[..], nobody, origin).unwrap();
        assert_eq!(found, None);
    }

    #[test]
    fn what_was_read_across_a_commit_is_read_again() {
        let [id, origin] = ids();
        let cases: [(IsBefore, [u64; 2]); 3] = [
            // With the trees found, before the second look.
            (|look| look == 3, [7, 500]),
            // Between the first look and the way.
            (|look| look == 2, [7, 500]),
            (|look| look == 3 || look == 5, [5, 300]),
        ];
        for (commits_at, last) in cases {
            let running = Running::new(commits_at);
            let found = Metadata::changed_while_running(&running, id, origin).unwrap();
            assert_eq!(found, Some(spans(&last)));
            assert_eq!(running.looks.get() % 3, 0);
            assert!(running.looks.get() > 3);
        }
    }

    #[test]
    fn a_pool_that_commits_without_end_is_given_up() {
        let [id, origin] = ids();
        let running = Running::new(|look| look % 3 == 0);
        let found = Metadata::changed_while_running(&running, id, origin).unwrap();
        assert_eq!(found, None);
        assert_eq!(running.looks.get(), 3 * TRIES);
    }

    /// A superblock that is being written is read in part anew, in part as it was.
    #[test]
    fn a_torn_superblock_is_an_error_only_if_it_stays() {
        let [id, origin] = ids();
        let torn = |image: &mut Vec<u8>| image[100] ^= 1;
        let mut running = Running::new(|look| look == 3);
        torn(&mut running.committed[0]);
        let found = Metadata::changed_while_running(&running, id, origin).unwrap();
        assert_eq!(found, Some(spans(&[7, 500])));
        let mut running = Running::new(|_| false);
        torn(&mut running.committed[0]);
        let found = Metadata::changed_while_running(&running, id, origin);
        assert!(matches!(found, Err(ReadError::Corrupt(_))), "{found:?}");
    }
}
