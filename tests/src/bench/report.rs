//! Tables of what was measured, as Markdown that reads well on a terminal too.

use std::fmt;
use std::time::Duration;

use crate::bench::crowd::Crowd;
use crate::bench::machine::Machine;
use crate::bench::opening::Opening;
use crate::bench::samples::{Measured, Phase, Series};
use crate::bench::space::Space;

/// What was measured, and where.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What.
    pub measured: Measured,
}

/// Rows of cells, the first of them the heads; all but the first column to the right.
struct Table(Vec<Vec<String>>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(String::len).max().unwrap_or(0)
        };
        for (nr, row) in self.0.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                if column == 0 {
                    write!(f, "| {cell:width$} |")?;
                } else {
                    write!(f, " {cell:>width$} |")?;
                }
            }
            writeln!(f)?;
            if nr == 0 {
                for column in 0..row.len() {
                    let line = "-".repeat(width(column).max(2).saturating_sub(1));
                    if column == 0 {
                        write!(f, "| {line}- |")?;
                    } else {
                        write!(f, " {line}: |")?;
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn cells(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn ms(value: f64) -> String {
    format!("{value:.1}")
}

fn ratio(value: f64, floor: f64) -> String {
    if floor > 0.0 {
        format!("{:.2}", value / floor)
    } else {
        "-".to_owned()
    }
}

impl Report {
    /// How many times the floor's median the library's way up takes.
    #[must_use]
    pub fn up_ratio(&self) -> Option<f64> {
        let median = |at: usize| {
            let (_, samples) = self.measured.rounds.ways.get(at)?;
            Some(samples.up.total().percentile(50))
        };
        median(0)
            .filter(|floor| *floor > 0.0)
            .and_then(|floor| Some(median(1)? / floor))
    }

    /// How many times a container's making a commit takes, by their medians.
    #[must_use]
    pub fn commit_ratio(&self) -> Option<f64> {
        let median = |wanted: &str| {
            let mut steps = self.measured.commits.steps.iter();
            let (_, series) = steps.find(|(step, _)| step == wanted)?;
            Some(series.percentile(50))
        };
        let create = median("create").filter(|create| *create > 0.0)?;
        Some(median("commit")? / create)
    }

    /// How many times `tar` and a sync the import takes, by their medians.
    #[must_use]
    pub fn import_ratio(&self) -> Option<f64> {
        let tar = self.measured.tar.percentile(50);
        (tar > 0.0).then(|| self.measured.import.percentile(50) / tar)
    }

    fn rounds(&self) -> Table {
        let mut rows = vec![cells(&[
            "way", "up p50", "x floor", "up p99", "x floor", "down p50", "x floor", "down p99",
            "x floor",
        ])];
        let ways = &self.measured.rounds.ways;
        let Some((_, floor)) = ways.first() else {
            return Table(rows);
        };
        for (name, samples) in ways {
            let mut row = vec![name.clone()];
            for (phase, floor) in [(&samples.up, &floor.up), (&samples.down, &floor.down)] {
                let (total, floor) = (phase.total(), floor.total());
                for percent in [50, 99] {
                    let value = total.percentile(percent);
                    row.push(ms(value));
                    row.push(ratio(value, floor.percentile(percent)));
                }
            }
            rows.push(row);
        }
        Table(rows)
    }

    fn steps(&self) -> Table {
        let mut rows = vec![cells(&["way", "step", "p50", "p99"])];
        for (name, samples) in &self.measured.rounds.ways {
            for (phase, word) in [(&samples.up, "up"), (&samples.down, "down")] {
                let Phase { steps } = phase;
                for (step, series) in steps {
                    rows.push(vec![
                        name.clone(),
                        format!("{word}: {step}"),
                        ms(series.percentile(50)),
                        ms(series.percentile(99)),
                    ]);
                }
            }
        }
        Table(rows)
    }

    fn import(&self) -> Table {
        let tar = self.measured.tar.percentile(50);
        let mut rows = vec![cells(&["way", "median", "x tar", "fastest", "slowest"])];
        let both: [(&str, &Series); 2] = [
            ("tar -x, sync", &self.measured.tar),
            ("pool-cli image import", &self.measured.import),
        ];
        for (name, series) in both {
            let median = series.percentile(50);
            rows.push(vec![
                name.to_owned(),
                ms(median),
                ratio(median, tar),
                ms(series.percentile(0)),
                ms(series.percentile(100)),
            ]);
        }
        Table(rows)
    }

    fn removal(&self) -> Table {
        let mut rows = vec![cells(&["step", "p50", "p99"])];
        for (step, series) in &self.measured.removal.steps {
            let percentiles = [50, 99].map(|percent| ms(series.percentile(percent)));
            rows.push([vec![step.clone()], percentiles.to_vec()].concat());
        }
        Table(rows)
    }

    fn crowds(&self) -> Table {
        let mut rows = vec![cells(&[
            "way",
            "workers",
            "containers/s",
            "x one",
            "processors busy",
        ])];
        let crowds = &self.measured.crowds;
        for crowd in crowds {
            let one = crowds.iter().find(|c| c.way == crowd.way && c.workers == 1);
            rows.push(vec![
                crowd.way.clone(),
                crowd.workers.to_string(),
                ms(crowd.rate()),
                ratio(crowd.rate(), one.map_or(0.0, Crowd::rate)),
                format!("{} %", crowd.busy),
            ]);
        }
        Table(rows)
    }

    fn opening(opening: &Opening) -> Table {
        let millis = |took: Duration| ms(took.as_secs_f64() * 1000.0);
        Table(vec![
            cells(&["pool", "ms"]),
            vec!["closed".to_owned(), millis(opening.closed)],
            vec!["open".to_owned(), millis(opening.open)],
        ])
    }

    fn space(space: &Space) -> Table {
        let seconds = |took: Duration| ms(took.as_secs_f64());
        Table(vec![
            cells(&["asked", "s"]),
            vec!["first".to_owned(), seconds(space.first)],
            vec!["again".to_owned(), seconds(space.again)],
        ])
    }

    fn diffs(&self) -> Table {
        let mut rows = vec![cells(&[
            "change",
            "paths",
            "told",
            "container diff",
            "comparing",
            "walk",
            "x diff",
            "x comparing",
            "whole walk",
            "x diff",
            "thin_delta",
        ])];
        for case in &self.measured.diffs {
            let series = [&case.verb, &case.comparing, &case.walk, &case.whole_walk];
            let [verb, comparing, walk, whole] = series.map(|series| series.percentile(50));
            let known = |series: &Series, text: String| match series.is_empty() {
                true => "-".to_owned(),
                false => text,
            };
            rows.push(vec![
                case.change.clone(),
                case.paths.to_string(),
                case.told.to_string(),
                ms(verb),
                ms(comparing),
                ms(walk),
                ratio(walk, verb),
                ratio(walk, comparing),
                known(&case.whole_walk, ms(whole)),
                known(&case.whole_walk, ratio(whole, verb)),
                ms(case.thin_delta.percentile(50)),
            ]);
        }
        Table(rows)
    }

    fn diff_reads(&self) -> Table {
        let mut rows = vec![cells(&[
            "change",
            "paths",
            "way",
            "metadata nodes",
            "data reads",
        ])];
        for case in &self.measured.diffs {
            rows.push(vec![
                case.change.clone(),
                case.paths.to_string(),
                case.rung.clone(),
                case.metadata_nodes.to_string(),
                case.data_reads.to_string(),
            ]);
        }
        Table(rows)
    }

    fn commits(&self) -> Table {
        let mut rows = vec![cells(&["step", "p50", "x create", "p99"])];
        let steps = &self.measured.commits.steps;
        let create = steps.iter().find(|(step, _)| step == "create");
        let create = create.map_or(0.0, |(_, series)| series.percentile(50));
        for (step, series) in steps {
            rows.push(vec![
                step.clone(),
                ms(series.percentile(50)),
                ratio(series.percentile(50), create),
                ms(series.percentile(99)),
            ]);
        }
        Table(rows)
    }

    /// What was measured, with the titles that the page has for it.
    #[must_use]
    pub fn sections(&self) -> Vec<(&'static str, String)> {
        let [
            device,
            removal,
            crowds,
            slowly,
            opening,
            space,
            image,
            diff,
            commits,
        ] = TITLES;
        let is_slow = self.machine.flush_ms > 0;
        let measured = &self.measured;
        let mut sections = Vec::new();
        let rounds = measured.rounds.ways.first();
        if let Some((_, samples)) = rounds {
            let text = format!(
                "Up: snapshot, device, node, mounted. Down: unmounted, discarded, device gone, volume \
                 deleted. {} rounds, in which the ways take turns; ms.\n\n{}\n\
                 - raw ioctls: the calls into the kernel that this takes, in one loop, and no catalogue.\n\
                 - library: `Pool::create_container`, `mount_container`, `unmount_container`, \
                 `remove_container`, on a pool kept open; the commits of the catalogue are in it. It \
                 discards what the container changed, the other ways all of it.\n\
                 - dmsetup: one process each of dmsetup, mount, umount and blkdiscard a step.\n\
                 - pool-cli: one process a step.\n\n\
                 Step by step, ms:\n\n{}",
                samples.up.total().len(),
                self.rounds(),
                self.steps()
            );
            sections.push((device, text));
        }
        if !measured.removal.steps.is_empty() && !is_slow {
            let text = format!(
                "`Pool::remove_container` with `Removing::Queued` of a container whose device is there; one \
                 durable commit to the catalogue, and nothing else; and what is left for the queue; ms.\n\n{}",
                self.removal()
            );
            sections.push((removal, text));
        }
        if !measured.crowds.is_empty() {
            let text = format!(
                "Containers made and removed, unmounted, by so many threads; a second. To the end, but where \
                 the slow part is left to the queue, which runs afterwards, unmeasured. Raw ioctls discard \
                 nothing, as nothing was changed. More than all the processors nobody can use{}.\n\n{}",
                if is_slow {
                    "; what is left is the disk's time, which many can spend at once"
                } else {
                    ""
                },
                self.crowds()
            );
            sections.push((if is_slow { slowly } else { crowds }, text));
        }
        if let Some(found) = &measured.opening {
            let text = format!(
                "`Host::open_pool` of a pool with {} containers without devices, closed before and open \
                 already; ms. Loop devices, the thin-pool and two commits of its metadata are in the \
                 former.\n\n{}",
                found.volumes,
                Self::opening(found)
            );
            sections.push((opening, text));
        }
        if let Some(found) = &measured.space {
            let text = format!(
                "`Pool::space`, which `df -v` shows, of that pool, open: {} containers, each with a block of 64 KiB and a \
                 path of the tree to it that nobody else has; s. First with the page cache empty, which reads the \
                 whole of the metadata; then again, while nothing has changed.\n\n{}",
                found.volumes,
                Self::space(found)
            );
            sections.push((space, text));
        }
        if !measured.import.is_empty() {
            let text = format!(
                "{} entries, {} bytes of layers in a docker-archive, onto ext4 on the same pool, page \
                 cache empty; {} runs each in turns; ms. `tar` reads the layers out of the archive by a \
                 pipe, verifies nothing and knows no whiteouts. The most memory that an import had (VmHWM): \
                 {:.1} MiB.\n\n{}",
                measured.image_entries,
                measured.image_bytes,
                measured.import.len(),
                mebibytes(measured.import_peak),
                self.import()
            );
            sections.push((image, text));
        }
        if !measured.diffs.is_empty() {
            let text = format!(
                "What a mounted container changed of its image, page cache empty; ways in turns, medians; ms. \
                 The first image has the real one's tree and four copies of it below directories of their own, \
                 with files cut at 16 KiB; those of other sizes have empty files, a hundred in each directory.\n\n{}\n\
                 - container diff: `Pool::diff_container`, all of it: the container frozen for a moment, a private \
                 snapshot of either side, both compared, both snapshots removed.\n\
                 - comparing: the part of it from where both snapshots are there to the answer, a metadata snapshot \
                 included.\n\
                 - walk: `lstat` and `security.capability` of every path of both trees, a thread each, as drivers do that \
                 know nothing of blocks. It reads no content, and so is not exact. Both are mounted before.\n\
                 - whole walk: the library's last way, which is exact as the first, content read too; once.\n\
                 - thin_delta: one process, which tells the blocks and no path; its metadata snapshot is taken before.\n\n\
                 What was read:\n\n{}",
                self.diffs(),
                self.diff_reads()
            );
            sections.push((diff, text));
        }
        if !measured.commits.steps.is_empty() {
            let text = format!(
                "`Pool::commit_container` of a mounted container that has twelve bytes otherwise than its image, which is \
                 the large one of above, against `Pool::create_container` and nothing else; {} rounds, ms.\n\n{}",
                measured
                    .commits
                    .steps
                    .first()
                    .map_or(0, |(_, series)| series.len()),
                self.commits()
            );
            sections.push((commits, text));
        }
        sections
    }
}

/// The parts of the page, in their order.
pub(super) const TITLES: [&str; 9] = [
    "A container's device",
    "A removal that leaves the slow part to others",
    "Many at once",
    "Many at once, on a disk whose flushes take time",
    "Opening a pool of many volumes",
    "Who takes the room of a pool of many volumes",
    "An image",
    "What a container changed",
    "A commit",
];

fn mebibytes(bytes: u64) -> f64 {
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    f64::from(kib) / 1024.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        for (title, text) in self.sections() {
            write!(f, "\n\n## {title}\n\n{}", text.trim_end())?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests;
