//! Thin ids that are spent, and others that are free again.
//!
//! Ids rise and are not given twice, as long as there are any. When the end is near and the pool is
//! opened, nobody else can make or delete a device in it, and what it has is read anyway: the longest run of
//! ids of which neither pool nor catalogue has one is given out from then on, in order, each once.

use std::collections::BTreeSet;

use crate::graph::error::PoolError;
use crate::graph::pool::Pool;
use crate::graph::survey::owns_all_ids;
use crate::ids::ThinId;
use crate::store::PoolRecord;

/// With fewer ids left, free ones are looked for.
const FEW: u32 = 1 << 16;

/// The longest run of ids below `end` that are not taken: its first one, and the one after its last.
pub(crate) fn longest_gap(taken: &BTreeSet<ThinId>, end: ThinId) -> Option<(ThinId, ThinId)> {
    let mut longest: Option<(ThinId, ThinId)> = None;
    let mut begin = Some(ThinId::FIRST);
    for id in taken.range(..end).copied().chain([end]) {
        let Some(first) = begin else { break };
        if first < id && longest.is_none_or(|longest| len(longest) < len((first, id))) {
            longest = Some((first, id));
        }
        begin = id.next();
    }
    longest
}

const fn len((begin, end): (ThinId, ThinId)) -> u32 {
    end.get().saturating_sub(begin.get())
}

/// Those to be given out after `next` up to `end`, where these are few: the longest run, if it is longer.
fn better(
    next: Option<ThinId>,
    end: ThinId,
    taken: &BTreeSet<ThinId>,
    few: u32,
) -> Option<(ThinId, ThinId)> {
    let left = next.map_or(0, |next| len((next, end)));
    let gap = longest_gap(taken, ThinId::MIRROR).filter(|gap| len(*gap) > left);
    gap.filter(|_| left < few)
}

impl Pool {
    /// Whether free ids are to be looked for.
    pub(crate) fn wants_thin_ids(record: &PoolRecord) -> bool {
        let left = record
            .next_thin_id
            .map_or(0, |next| len((next, record.thin_ids_end)));
        left < FEW && owns_all_ids(record)
    }

    /// Finds ids that are free again, where few are left. The caller holds the whole pool, which has these
    /// devices.
    pub(crate) fn renew_thin_ids(
        &self,
        record: &PoolRecord,
        devices: &BTreeSet<ThinId>,
    ) -> Result<(), PoolError> {
        if !Self::wants_thin_ids(record) {
            return Ok(());
        }
        let volumes = self.catalogue().all_volumes()?;
        let ballast = self.catalogue().ballast()?;
        let taken = volumes
            .into_iter()
            .map(|volume| volume.thin_id)
            .chain(ballast.map(|ballast| ballast.thin_id))
            .chain(devices.iter().copied())
            .collect();
        let found = better(record.next_thin_id, record.thin_ids_end, &taken, FEW);
        if let Some((next, end)) = found {
            tracing::info!(%next, %end, "thin ids that are free again are given out from here on");
            self.catalogue().set_thin_ids(next, end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ThinId {
        ThinId::new(n).unwrap()
    }

    fn ids(ids: &[u64]) -> BTreeSet<ThinId> {
        ids.iter().map(|n| id(*n)).collect()
    }

    #[test]
    fn the_longest_run_is_the_first_of_that_length() {
        for (taken, end, gap) in [
            (&[][..], 8, Some((0, 8))),
            (&[0, 1, 2, 3, 4, 5, 6, 7], 8, None),
            (&[0, 3, 6], 8, Some((1, 3))),
            (&[0, 3, 6], 10, Some((7, 10))),
            (&[0, 1, 4, 7], 8, Some((2, 4))),
            (&[7], 8, Some((0, 7))),
            // What lies at the end and behind it is not given out anyway.
            (&[0, 8, 9], 8, Some((1, 8))),
            (&[], 0, None),
        ] {
            let gap = gap.map(|(begin, end)| (id(begin), id(end)));
            assert_eq!(longest_gap(&ids(taken), id(end)), gap, "{taken:?}");
        }
        let last = u64::from(ThinId::MAX.get());
        let taken = ids(&[last]);
        assert_eq!(longest_gap(&taken, ThinId::MIRROR), Some((id(0), id(last))));
    }

    #[test]
    fn ids_are_looked_for_when_few_are_left_and_more_are_free() {
        let taken = ids(&[5]);
        let rest = (id(6), ThinId::MIRROR);
        // More are left where they rise than are asked for.
        assert_eq!(better(Some(id(6)), id(20), &taken, 14), None);
        assert_eq!(better(Some(id(6)), id(20), &taken, 15), Some(rest));
        assert_eq!(better(None, ThinId::MIRROR, &taken, 1), Some(rest));
        // No run is longer than what is left.
        assert_eq!(better(Some(id(6)), ThinId::MIRROR, &taken, u32::MAX), None);
    }
}
