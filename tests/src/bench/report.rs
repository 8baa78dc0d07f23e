//! Tables of what was measured, as Markdown that reads well on a terminal too.

use std::fmt::{self, Write as _};

use crate::bench::crowd::Crowd;
use crate::bench::samples::{Measured, Phase, Series};

/// The machine that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// How the guest was run.
    pub accel: String,
    /// Its processors.
    pub cpus: u8,
    /// Its memory.
    pub memory: String,
    /// Whether udevd ran in it.
    pub udev: bool,
    /// The host's load average before and after, as it says itself.
    pub load: [String; 2],
}

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

    /// The whole page, with the command that made it.
    #[must_use]
    pub fn page(&self, command: &str) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "# Benchmarks\n\n\
             Made by `{command}`: do not edit. All numbers are of one boot of one machine; compare \
             them with each other only.\n\n{self}"
        );
        page
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        let [before, after] = &machine.load;
        let rounds = self.measured.rounds.ways.first();
        let rounds = rounds.map_or(0, |(_, samples)| samples.up.total().len());
        writeln!(
            f,
            "Guest: Linux {}, {}, {} processors, {} of memory, {} udevd; pool files on an ext4 of a \
             virtio disk.\nHost: load average {before} before, {after} after.\n",
            machine.kernel,
            machine.accel,
            machine.cpus,
            machine.memory,
            if machine.udev { "with" } else { "without" },
        )?;
        writeln!(f, "## A container's device\n")?;
        writeln!(
            f,
            "Up: snapshot, device, node, mounted. Down: unmounted, discarded, device gone, volume \
             deleted. {rounds} rounds, in which the ways take turns; ms.\n\n{}",
            self.rounds()
        )?;
        writeln!(
            f,
            "- raw ioctls: the calls into the kernel that this takes, in one loop, and no catalogue.\n\
             - library: `Pool::create_container`, `mount_container`, `unmount_container`, \
             `remove_container`, on a pool kept open; the commits of the catalogue are in it.\n\
             - dmsetup: one process each of dmsetup, mount, umount and blkdiscard a step.\n\
             - pool-cli: one process a step.\n"
        )?;
        writeln!(f, "Step by step, ms:\n\n{}", self.steps())?;
        writeln!(
            f,
            "## A removal that leaves the slow part to others\n\n\
             `Pool::remove_container` with `Removing::Queued` of a container whose device is there; one \
             durable commit to the catalogue, and nothing else; and what is left for the queue; ms.\n\n{}",
            self.removal()
        )?;
        writeln!(
            f,
            "## Many at once\n\n\
             Containers made and removed, unmounted, by so many threads; a second. To the end, but where \
             the slow part is left to the queue, which runs afterwards, unmeasured. More than all the \
             processors nobody can use.\n\n{}",
            self.crowds()
        )?;
        writeln!(f, "## An image\n")?;
        writeln!(
            f,
            "{} entries, {} bytes of layers in a docker-archive, onto ext4 on the same pool, page \
             cache empty; {} runs each in turns; ms. `tar` reads the layers out of the archive by a \
             pipe, verifies nothing and knows no whiteouts.\n\n{}",
            self.measured.image_entries,
            self.measured.image_bytes,
            self.measured.import.len(),
            self.import()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Machine, Report};
    use crate::bench::crowd::Crowd;
    use crate::bench::samples::{Measured, Phase, Rounds, Samples, Series};

    fn series(millis: &[u64]) -> Series {
        let mut series = Series::default();
        for ms in millis {
            series.push(Duration::from_millis(*ms));
        }
        series
    }

    fn samples(up: &[u64], down: &[u64]) -> Samples {
        let phase = |name: &str, millis: &[u64]| Phase {
            steps: vec![(name.to_owned(), series(millis))],
        };
        Samples {
            up: phase("a", up),
            down: phase("b", down),
        }
    }

    fn report() -> Report {
        Report {
            machine: Machine {
                kernel: "6.1.0".to_owned(),
                accel: "tcg".to_owned(),
                cpus: 2,
                memory: "2G".to_owned(),
                udev: false,
                load: ["0.10".to_owned(), "1.20".to_owned()],
            },
            measured: Measured {
                rounds: Rounds {
                    ways: vec![
                        ("raw ioctls".to_owned(), samples(&[10, 20, 40], &[4, 4, 4])),
                        ("library".to_owned(), samples(&[25, 26, 80], &[8, 6, 4])),
                    ],
                },
                removal: Phase {
                    steps: vec![("rm".to_owned(), series(&[7, 9, 30]))],
                },
                crowds: [(1, 10), (16, 2)]
                    .map(|(workers, seconds)| Crowd {
                        way: "library".to_owned(),
                        workers,
                        pairs: 96,
                        took: Duration::from_secs(seconds),
                        busy: 90,
                    })
                    .into(),
                tar: series(&[2000, 1000, 3000]),
                import: series(&[3500, 2500, 9000]),
                image_bytes: 100,
                image_entries: 7,
            },
        }
    }

    #[test]
    fn ratios_are_of_medians() {
        let report = report();
        assert!((report.up_ratio().unwrap() - 1.3).abs() < 1e-9);
        assert!((report.import_ratio().unwrap() - 1.75).abs() < 1e-9);
        let mut none = report;
        none.measured = Measured::default();
        assert_eq!((none.up_ratio(), none.import_ratio()), (None, None));
    }

    #[test]
    fn the_page_has_the_tables() {
        let page = report().page("scripts/bench");
        for line in [
            "# Benchmarks",
            "Made by `scripts/bench`: do not edit. All numbers are of one boot of one machine; \
             compare them with each other only.",
            "Host: load average 0.10 before, 1.20 after.",
            "| way        | up p50 | x floor | up p99 | x floor | down p50 | x floor | down p99 | x floor |",
            "| ---------- | -----: | ------: | -----: | ------: | -------: | ------: | -------: | ------: |",
            "| raw ioctls |   20.0 |    1.00 |   40.0 |    1.00 |      4.0 |    1.00 |      4.0 |    1.00 |",
            "| library    |   26.0 |    1.30 |   80.0 |    2.00 |      6.0 |    1.50 |      8.0 |    2.00 |",
            "| library    | down: b |  6.0 |  8.0 |",
            "| rm   | 9.0 | 30.0 |",
            "| library |       1 |          9.6 |  1.00 |            90 % |",
            "| library |      16 |         48.0 |  5.00 |            90 % |",
            "| tar -x, sync          | 2000.0 |  1.00 |  1000.0 |  3000.0 |",
            "| pool-cli image import | 3500.0 |  1.75 |  2500.0 |  9000.0 |",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\nis not in\n{page}");
        }
    }
}
