//! Which states of the disk are looked at.
//!
//! ```text
//!  entries   w w w F w w w w F w F
//!                  ^ at      ^ until
//! ```
//! At a flush all that stands before it is on the disk. What stands between it and the next one may be,
//! each write by itself, when the power goes right before that next one: so a state is what stands before
//! `at`, and a part of the window up to `until`. No part at all is a state too, the one that finds whatever
//! was promised before it was flushed.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};

use super::log::{Entry, Kind};

/// Writes larger than this may be torn at its multiples.
const PAGE: u64 = 4096;

/// A sequence of numbers that a seed makes (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }
}

/// A state of the disk, by name: `1234` is all before entry 1234, `1234.7` a part of the window after it
/// too, chosen by seed 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The flush.
    pub at: usize,
    /// What chooses the part.
    pub seed: Option<u64>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seed {
            None => write!(f, "{}", self.at),
            Some(seed) => write!(f, "{}.{seed}", self.at),
        }
    }
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (at, seed) = match text.split_once('.') {
            Some((at, seed)) => (at, Some(seed.parse().context("a seed is a number")?)),
            None => (text, None),
        };
        let at = at.parse().context("a state is ENTRY or ENTRY.SEED")?;
        Ok(Self { at, seed })
    }
}

/// The flushes, each with the next one (or the log's end), where the disk differs from the one before.
pub(crate) fn windows(entries: &[Entry]) -> Vec<(usize, usize)> {
    let flushes: Vec<usize> = (0..)
        .zip(entries)
        .filter(|(_, entry)| entry.flush)
        .map(|(n, _)| n)
        .chain([entries.len()])
        .collect();
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (n, at) in flushes.iter().enumerate() {
        let until = flushes.get(n.saturating_add(1)).unwrap_or(at);
        // The same disk at a later time: more was promised by then.
        if let Some((before, _)) = found.last()
            && !changes(entries, *before, *at)
        {
            found.pop();
        }
        found.push((*at, *until));
    }
    found
}

fn changes(entries: &[Entry], from: usize, to: usize) -> bool {
    let range = entries.get(from..to).unwrap_or_default();
    range.iter().any(|entry| entry.kind != Kind::Nothing)
}

/// How many states there are with a part of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// So many of each boundary.
    Each(u64),
    /// So many, spread over the log.
    InAll(usize),
}

/// Every window from entry `first` on as it is, and parts of those in which something is un-flushed; or
/// `sample` of all these.
pub(crate) fn states(
    entries: &[Entry],
    first: usize,
    parts: Parts,
    sample: Option<usize>,
    seed: u64,
) -> Vec<Name> {
    let mut random = Random::new(seed);
    let mut windows = windows(entries);
    windows.retain(|(_, until)| *until >= first);
    let droppable = |(at, until): &(usize, usize)| changes(entries, *at, *until);
    let count = windows.iter().filter(|window| droppable(window)).count();
    let (mut all, mut before) = (Vec::new(), 0_usize);
    for window in windows {
        let at = window.0;
        all.push(Name { at, seed: None });
        if !droppable(&window) {
            continue;
        }
        let nth = |n: usize, wanted: usize| n.saturating_mul(wanted).checked_div(count);
        let after = before.saturating_add(1);
        let here = match parts {
            Parts::Each(number) => number,
            Parts::InAll(wanted) => u64::from(nth(before, wanted) != nth(after, wanted)),
        };
        before = after;
        for _ in 0..here {
            let seed = Some(random.next() >> 32);
            all.push(Name { at, seed });
        }
    }
    let Some(sample) = sample.filter(|sample| *sample < all.len()) else {
        return all;
    };
    // One of each stretch of the log, so that no operation is left out.
    let stretch = |n: usize| n.saturating_mul(all.len()).checked_div(sample).unwrap_or(0);
    let picked: BTreeSet<Name> = (0..sample)
        .filter_map(|n| {
            let (from, to) = (stretch(n), stretch(n.saturating_add(1)));
            let width = u64::try_from(to.saturating_sub(from)).ok()?;
            let step = usize::try_from(random.below(width)).ok()?;
            all.get(from.saturating_add(step)).copied()
        })
        .collect();
    picked.into_iter().collect()
}

/// The part of a window that a seed keeps: entries, with what of each is kept. Few, half or most of them
/// by the seed; for half of the seeds large writes are torn.
pub(crate) fn kept(entries: &[Entry], seed: u64) -> Vec<Entry> {
    let mut random = Random::new(seed);
    let share = match random.below(3) {
        0 => 10,
        1 => 50,
        _ => 90,
    };
    let torn = random.below(2) == 0;
    let mut kept = Vec::new();
    for entry in entries {
        let whole = !torn || entry.kind == Kind::Discard || entry.fua;
        let piece = if whole { entry.len } else { PAGE };
        let mut done: u64 = 0;
        while done < entry.len {
            let start = entry.start.saturating_add(done);
            // The device's own pages, wherever the write begins.
            let to_page = piece.saturating_sub(if whole { 0 } else { start % PAGE });
            let len = to_page.min(entry.len.saturating_sub(done));
            if entry.fua || random.below(100) < share {
                let kind = match entry.kind {
                    Kind::Write(at) => Kind::Write(at.saturating_add(done)),
                    kind => kind,
                };
                kept.push(Entry {
                    start,
                    len,
                    kind,
                    ..*entry
                });
            }
            done = done.saturating_add(len);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{Name, Parts, kept, states, windows};
    use crate::powercut::log::{Entry, Kind};

    const WRITE: Entry = Entry {
        start: 1024,
        len: 8192,
        kind: Kind::Write(512),
        flush: false,
        fua: false,
    };
    const FLUSH: Entry = Entry {
        start: 0,
        len: 0,
        kind: Kind::Nothing,
        flush: true,
        fua: false,
    };

    #[test]
    fn a_window_reaches_to_the_next_flush_and_equal_disks_count_once() {
        let log = [WRITE, FLUSH, FLUSH, WRITE, WRITE, FLUSH, WRITE];
        assert_eq!(windows(&log), [(2, 5), (5, 7), (7, 7)]);
        // Nothing was un-flushed when the last one ended.
        let names: Vec<_> = states(&log, 0, Parts::Each(1), None, 1)
            .iter()
            .map(|name| (name.at, name.seed.is_some()))
            .collect();
        let expected = [(2, false), (2, true), (5, false), (5, true), (7, false)];
        assert_eq!(names, expected);
        assert_eq!(states(&log, 6, Parts::Each(0), None, 1).len(), 2);
    }

    #[test]
    fn a_sample_is_spread_over_the_log_and_the_same_by_the_same_seed() {
        let log = [WRITE, FLUSH].repeat(100);
        let some = states(&log, 0, Parts::Each(2), Some(10), 7);
        assert_eq!(some.len(), 10);
        assert_eq!(some, states(&log, 0, Parts::Each(2), Some(10), 7));
        assert_ne!(some, states(&log, 0, Parts::Each(2), Some(10), 8));
        for (n, name) in some.iter().enumerate() {
            let stretch = n * 20..=n * 20 + 21;
            assert!(stretch.contains(&(name.at + 2)), "{some:?}");
        }
    }

    #[test]
    fn so_many_parts_in_all_are_spread_over_the_log() {
        let log = [WRITE, FLUSH].repeat(100);
        let all = states(&log, 0, Parts::InAll(10), None, 7);
        let parts: Vec<_> = all.iter().filter(|name| name.seed.is_some()).collect();
        assert_eq!((all.len(), parts.len()), (110, 10));
        for (n, name) in parts.iter().enumerate() {
            assert!((n * 20..=n * 20 + 21).contains(&name.at), "{parts:?}");
        }
    }

    #[test]
    fn parts_are_of_the_window_torn_at_pages_and_the_same_by_the_same_seed() {
        let window = [WRITE; 20];
        let (mut torn, mut whole) = (0, 0);
        for seed in 0..100 {
            let part = kept(&window, seed);
            assert_eq!(part, kept(&window, seed));
            for entry in &part {
                let Kind::Write(at) = entry.kind else {
                    panic!("{entry:?}")
                };
                assert_eq!(at - 512, entry.start - 1024);
                match (entry.start, entry.len) {
                    (1024, 8192) => whole += 1,
                    (1024, 3072) | (4096, 4096) | (8192, 1024) => torn += 1,
                    _ => panic!("{entry:?}"),
                }
            }
        }
        assert!(torn > 500 && whole > 200, "{torn} torn, {whole} whole");
    }

    #[test]
    fn what_is_durable_by_itself_is_always_kept() {
        let fua = Entry { fua: true, ..WRITE };
        for seed in 0..20 {
            assert_eq!(kept(&[fua], seed), [fua]);
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["12", "12.7"] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
        assert!("x".parse::<Name>().is_err() && "1.x".parse::<Name>().is_err());
    }
}
