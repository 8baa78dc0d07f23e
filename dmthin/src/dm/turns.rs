//! Turns at a pool.
//!
//! The commit of a message has the pool's metadata to itself (`drivers/md/dm-thin-metadata.c`,
//! `root_lock`), and a status takes that lock seven times, each time behind all who wait for it by
//! then. So threads take turns before they ask the kernel: one waits once, not eight times.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::DevNo;

/// A pool's turns.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<()>>);

impl Turns {
    /// Waits for a turn, which ends with the guard. Nothing else may be waited for meanwhile but the
    /// pool's answer.
    pub(super) fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turns at all pools.
#[derive(Debug, Default)]
pub(super) struct AllTurns(Mutex<HashMap<DevNo, Turns>>);

impl AllTurns {
    /// Those of the pool that this device is.
    pub(super) fn of(&self, pool: DevNo) -> Turns {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A number is another pool's when nobody has this one any more.
        all.retain(|dev, turns| *dev == pool || Arc::strong_count(&turns.0) > 1);
        all.entry(pool).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::AllTurns;
    use crate::ids::DevNo;

    #[test]
    fn one_pool_has_one_turn_at_a_time_and_another_its_own() {
        let all = AllTurns::default();
        let (one, same) = (all.of(DevNo::new(253, 1)), all.of(DevNo::new(253, 1)));
        let other = all.of(DevNo::new(253, 2));
        let turn = one.take();
        assert!(same.0.try_lock().is_err());
        assert!(other.0.try_lock().is_ok());
        drop(turn);
        assert!(same.0.try_lock().is_ok());
    }

    #[test]
    fn pools_that_nobody_has_are_forgotten() {
        let all = AllTurns::default();
        drop(all.of(DevNo::new(253, 1)));
        let kept = all.of(DevNo::new(253, 2));
        drop(all.of(DevNo::new(253, 3)));
        let known = || {
            let mut known: Vec<_> = all.0.lock().unwrap().keys().copied().collect();
            known.sort();
            known
        };
        assert_eq!(known(), [DevNo::new(253, 2), DevNo::new(253, 3)]);
        drop(kept);
        drop(all.of(DevNo::new(253, 4)));
        assert_eq!(known(), [DevNo::new(253, 4)]);
    }
}
