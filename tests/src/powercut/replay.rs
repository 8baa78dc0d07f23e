//! Builds the states of the disk from the log, one after the other, and has each looked at: in the guest.
//!
//! ```text
//! /dev/vm/replay          all entries before the flush
//!   `- pc-disk            a snapshot of it, for this state alone: the window's part, and what the check writes
//!        `- pc-state ...  the parts
//! ```

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use super::check;
use super::history::{self, Cut};
use super::layout::{DISK_MIB, Layout, map};
use super::log::{Entry, Kind, Log};
use super::plan::{self, Name, Parts};
use super::record::marks;

const CHUNK: u64 = 1 << 20;
const SNAPSHOT: &str = "/dev/mapper/pc-disk";

/// What came of a state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verdict {
    /// The state's name.
    pub state: String,
    /// What had returned, or was in flight.
    pub during: String,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// How long it took.
    pub millis: u64,
}

/// Does to a disk what entries say.
fn apply(log: &Log, entries: &[Entry], disk: &File) -> Result<()> {
    let mut buffer = Vec::new();
    for entry in entries {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if entry.kind == Kind::Discard
            && rustix::fs::fallocate(disk, punch, entry.start, entry.len).is_ok()
        {
            continue;
        }
        let mut done = 0;
        while done < entry.len {
            let len = CHUNK.min(entry.len.saturating_sub(done));
            buffer.clear();
            buffer.resize(usize::try_from(len)?, 0);
            match entry.kind {
                Kind::Write(at) => log.data(at.saturating_add(done), &mut buffer)?,
                Kind::Discard => {}
                Kind::Nothing => break,
            }
            disk.write_all_at(&buffer, entry.start.saturating_add(done))?;
            done = done.saturating_add(len);
        }
    }
    disk.sync_all()?;
    Ok(())
}

/// Looks at these states, in the order of the log; prints a verdict a line, as JSON. The disk has the entries
/// before `applied` already.
///
/// # Errors
/// Where no state can be built any more, as when one could not be cleared away.
pub fn replay(layout: Layout, states: &Path, mut applied: usize) -> Result<()> {
    let states: Vec<Name> = fs::read_to_string(states)?
        .lines()
        .map(str::parse)
        .collect::<Result<_>>()?;
    history::write_images(Path::new("/tmp/images"))?;
    fs::create_dir_all("/srv")?;
    let log = Log::open(File::open("/dev/vm/log")?)?;
    let replay = Replay {
        marks: marks(&log)?,
        windows: plan::windows(&log.entries),
        log,
        layout,
    };
    let disk = OpenOptions::new().write(true).open("/dev/vm/replay")?;
    for state in states {
        let entries = replay.log.entries.get(applied..state.at);
        let entries = entries.context("states are in the order of the log")?;
        apply(&replay.log, entries, &disk)?;
        applied = state.at;
        let verdict = replay.look(state)?;
        println!("{}", serde_json::to_string(&verdict)?);
    }
    Ok(())
}

#[derive(Debug)]
struct Replay {
    log: Log,
    marks: Vec<usize>,
    windows: Vec<(usize, usize)>,
    layout: Layout,
}

impl Replay {
    fn look(&self, state: Name) -> Result<Verdict> {
        let started = Instant::now();
        let mut windows = self.windows.iter();
        let turn = windows.position(|(at, _)| *at == state.at);
        let turn = turn.with_context(|| format!("no state begins at entry {}", state.at))?;
        let (_, until) = *self.windows.get(turn).context("it was found")?;
        let passed = self.marks.iter().filter(|mark| **mark < until).count();
        let mark = passed.checked_sub(1).context("before the first step")?;
        let cut = Cut::after_mark(mark);
        let ops = history::ops(self.layout);
        let during = match ops.get(cut.done).filter(|_| cut.begun) {
            Some(op) => format!("in {}", op.title()),
            None => {
                let last = cut.done.checked_sub(1).and_then(|n| ops.get(n));
                format!(
                    "after {}",
                    last.map_or_else(String::new, history::Op::title)
                )
            }
        };
        let table = format!(
            "0 {} snapshot /dev/vm/replay /dev/vm/cow N 8",
            DISK_MIB.saturating_mul(2048)
        );
        map("pc-disk", &table)?;
        if let Some(seed) = state.seed {
            let window = self.log.entries.get(state.at..until).unwrap_or_default();
            let disk = OpenOptions::new().write(true).open(SNAPSHOT)?;
            apply(&self.log, &plan::kept(window, seed), &disk)?;
        }
        self.layout.assemble(SNAPSHOT, history::stage(&ops, cut))?;
        let checked = check::check(self.layout, SNAPSHOT, &ops, cut, turn);
        check::clear(self.layout, checked.is_err())?;
        Ok(Verdict {
            state: state.to_string(),
            during,
            failed: checked.err().map(|error| format!("{error:#}")),
            millis: u64::try_from(started.elapsed().as_millis())?,
        })
    }
}

/// What a log holds, and the states of it that are looked at.
#[derive(Debug)]
pub struct Survey {
    /// All entries, writes, discards, flushes.
    pub counts: [usize; 4],
    /// Flushes at which the disk differs from the one before.
    pub boundaries: usize,
    /// States.
    pub states: Vec<Name>,
}

/// Chooses the states of this log from the first step on: each boundary as it is and so many parts, or a
/// sample of these.
///
/// # Errors
/// A file that is no log of a recording.
pub fn survey(log: &Path, parts: Parts, sample: Option<usize>, seed: u64) -> Result<Survey> {
    let log = Log::open(File::open(log)?)?;
    let first = *marks(&log)?.first().context("the log has no marks")?;
    let count = |wanted: &dyn Fn(&Entry) -> bool| log.entries.iter().filter(|e| wanted(e)).count();
    let states = plan::states(&log.entries, first.saturating_add(1), parts, sample, seed);
    let windows = plan::windows(&log.entries);
    Ok(Survey {
        counts: [
            log.entries.len(),
            count(&|entry| matches!(entry.kind, Kind::Write(_))),
            count(&|entry| entry.kind == Kind::Discard),
            count(&|entry| entry.flush),
        ],
        boundaries: windows.iter().filter(|(_, until)| *until > first).count(),
        states,
    })
}
