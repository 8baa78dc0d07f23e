//! Which parts of a volume a removal has to discard.
//!
//! A discard of what a volume shares with others gives nothing back, and costs the kernel's one worker of
//! the pool as much as one that does (`drivers/md/dm-thin.c`, `passdown_double_checking_shared_status`).
//! Most of a container is its image's. So the pool's metadata are asked what it has changed, where
//! that is worth its four commits, and else all of it is discarded: too much is only slow, too
//! little would keep the host's room.
//!
//! A snapshot of the metadata is one at a time and takes four commits of the pool: two before it is made, one
//! by each of its two messages (`drivers/md/dm-thin.c:process_reserve_metadata_snap_mesg`,
//! `dm-thin-metadata.c:__reserve_metadata_snap`). So threads that ask while one of them has it wait for the
//! next one, which answers all of them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::graph::error::PoolError;
use crate::graph::live::Live;
use crate::ids::ThinId;
use crate::store::{StoreError, VolumeRecord};
use crate::thinmeta::Span;
use crate::units::{Bytes, DataBlocks};

/// Mapped blocks from which on the metadata are asked: below, a discard of all of them takes less.
const WORTH_ASKING: DataBlocks = DataBlocks::new(1024);

/// Shared blocks that take the kernel as long as one more call does.
const BLOCKS_PER_CALL: u64 = 16;

/// Bytes of a volume that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) begin: Bytes,
    pub(crate) len: Bytes,
}

/// A thin device and the one that it is a snapshot of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    thin: ThinId,
    origin: ThinId,
}

/// What has changed; `None` where that is not known.
type Answer = Option<Vec<Span>>;

#[derive(Debug)]
struct Question {
    pair: Pair,
    answer: Arc<OnceLock<Answer>>,
}

#[derive(Debug, Default)]
struct Asked {
    // Nobody answers these yet.
    questions: Vec<Question>,
    // Somebody has gone to answer others.
    answering: bool,
}

/// What the threads of this process ask a pool's metadata.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: Mutex<Asked>,
    answered: Condvar,
}

impl Questions {
    // Nothing is half done when it is let go.
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this answered by one reading that begins after it was asked, with all that is asked meanwhile:
    /// by `read` of this thread, or of another, of which the error is its own. What `read` does not answer
    /// is not known.
    fn ask<E>(
        &self,
        pair: Pair,
        read: impl FnOnce(&[Pair]) -> Result<Vec<Answer>, E>,
    ) -> Result<Answer, E> {
        let answer = Arc::default();
        let mut asked = self.asked();
        asked.questions.push(Question {
            pair,
            answer: Arc::clone(&answer),
        });
        while asked.answering && answer.get().is_none() {
            let woken = self.answered.wait(asked);
            asked = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if answer.get().is_none() {
            asked.answering = true;
            let round = Round {
                of: self,
                questions: std::mem::take(&mut asked.questions),
            };
            drop(asked);
            round.answer(read)?;
        }
        Ok(answer.get().cloned().flatten())
    }
}

/// Questions that are answered together, whatever comes of it.
#[derive(Debug)]
struct Round<'a> {
    of: &'a Questions,
    questions: Vec<Question>,
}

impl Round<'_> {
    fn answer<E>(&self, read: impl FnOnce(&[Pair]) -> Result<Vec<Answer>, E>) -> Result<(), E> {
        let pairs: Vec<Pair> = self.questions.iter().map(|asked| asked.pair).collect();
        for (question, answer) in self.questions.iter().zip(read(&pairs)?) {
            question.answer.get_or_init(|| answer);
        }
        Ok(())
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        for question in &self.questions {
            question.answer.get_or_init(|| None);
        }
        self.of.asked().answering = false;
        self.of.answered.notify_all();
    }
}

impl Live<'_> {
    /// What of a volume that nobody writes to any more is to be discarded.
    pub(crate) fn parts_to_discard(
        &self,
        volume: &VolumeRecord,
        mapped: Bytes,
        size: Bytes,
    ) -> Vec<Part> {
        let whole = Part {
            begin: Bytes::ZERO,
            len: size,
        };
        match self.changed_parts(volume, mapped, size) {
            Ok(Some(parts)) => parts,
            Ok(None) => vec![whole],
            Err(error) => {
                tracing::debug!(volume = %volume.id, %error, "all of it is discarded");
                vec![whole]
            }
        }
    }

    /// What a volume has not in common with the one it is a snapshot of; `None` where that is not to be
    /// asked.
    fn changed_parts(
        &self,
        volume: &VolumeRecord,
        mapped: Bytes,
        size: Bytes,
    ) -> Result<Option<Vec<Part>>, PoolError> {
        let block_size = self.record().block_size;
        if mapped < WORTH_ASKING.to_bytes_saturating(block_size)
            || self.record().existing().is_some()
        {
            return Ok(None);
        }
        let Some(origin) = self.origin(volume)? else {
            return Ok(None);
        };
        let pair = Pair {
            thin: volume.thin_id,
            origin,
        };
        let spans = self.pool().questions().ask(pair, |pairs| {
            let all = self.try_read_metadata(|metadata| {
                let changed = |pair: &Pair| metadata.changed(pair.thin, pair.origin);
                pairs.iter().map(changed).collect::<Result<Vec<_>, _>>()
            })?;
            Ok::<_, PoolError>(all.unwrap_or_default())
        })?;
        // A device may end within a block.
        let part = |span: Span| {
            let begin = span.begin.to_bytes_saturating(block_size).min(size);
            let len = span.len.to_bytes_saturating(block_size);
            let len = len.min(size.saturating_sub(begin));
            Part { begin, len }
        };
        let calls = u64::try_from(spans.as_ref().map_or(0, Vec::len)).unwrap_or(u64::MAX);
        let worth = DataBlocks::new(calls.saturating_mul(BLOCKS_PER_CALL));
        Ok(spans
            .filter(|_| worth.to_bytes_saturating(block_size) <= mapped)
            .map(|spans| spans.into_iter().map(part).collect()))
    }

    /// The thin device that a volume is a snapshot of, where that is there still.
    fn origin(&self, volume: &VolumeRecord) -> Result<Option<ThinId>, PoolError> {
        let Some(parent) = volume.parent else {
            return Ok(None);
        };
        match self.pool().catalogue().volume(parent) {
            Ok(parent) => Ok(parent.made.then_some(parent.thin_id)),
            Err(StoreError::VolumeNotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::{Answer, Pair, Questions};
    use crate::ids::ThinId;
    use crate::thinmeta::Span;
    use crate::units::DataBlocks;

    fn pair(thin: u64) -> Pair {
        let id = |id| ThinId::new(id).unwrap();
        Pair {
            thin: id(thin),
            origin: id(0),
        }
    }

    fn answer(pair: &Pair) -> Answer {
        Some(vec![Span {
            begin: DataBlocks::new(pair.thin.get().into()),
            len: DataBlocks::new(1),
        }])
    }

    /// Sixteen threads that removed containers at a time had one of them read, and all others discard their
    /// whole images, which the pool's one worker did one after the other.
    #[test]
    fn who_asks_while_another_reads_is_answered_by_the_next_reading() {
        let (questions, rounds) = (Questions::default(), AtomicUsize::new(0));
        let (begun, begins) = channel();
        let (go_on, goes_on) = channel::<()>();
        thread::scope(|scope| {
            let (questions, rounds) = (&questions, &rounds);
            let first = scope.spawn(move || {
                questions.ask(pair(1), |pairs| {
                    begun.send(()).unwrap();
                    goes_on.recv().unwrap();
                    Ok::<_, ()>(pairs.iter().map(answer).collect())
                })
            });
            begins.recv().unwrap();
            let others: Vec<_> = (2..=16)
                .map(|thin| {
                    let read = move |pairs: &[Pair]| {
                        rounds.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, ()>(pairs.iter().map(answer).collect())
                    };
                    (thin, scope.spawn(move || questions.ask(pair(thin), read)))
                })
                .collect();
            while questions.asked().questions.len() < 15 {
                thread::yield_now();
            }
            go_on.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Ok(answer(&pair(1))));
            for (thin, other) in others {
                assert_eq!(other.join().unwrap(), Ok(answer(&pair(thin))));
            }
        });
        assert_eq!(rounds.into_inner(), 1);
    }

    #[test]
    fn a_reading_that_fails_leaves_the_others_without_an_answer_and_the_next_one_works() {
        let questions = Questions::default();
        assert_eq!(questions.ask(pair(1), |_| Err("no")), Err("no"));
        let none = questions.ask(pair(1), |_| Ok::<_, ()>(Vec::new()));
        assert_eq!(none, Ok(None));
        let some = questions.ask(pair(2), |pairs| {
            Ok::<_, ()>(pairs.iter().map(answer).collect())
        });
        assert_eq!(some, Ok(answer(&pair(2))));
    }
}
