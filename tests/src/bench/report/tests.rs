//! The tables, and the ratios in them.

use std::time::Duration;

use super::{Machine, Report, TITLES};
use crate::bench::crowd::Crowd;
use crate::bench::diff::DiffCase;
use crate::bench::opening::Opening;
use crate::bench::samples::{Measured, Phase, Rounds, Samples, Series};
use crate::bench::space::Space;

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
            in_memory: false,
            flush_ms: 0,
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
            opening: Some(Opening {
                volumes: 10_000,
                closed: Duration::from_millis(900),
                open: Duration::from_millis(400),
            }),
            space: Some(Space {
                volumes: 10_000,
                first: Duration::from_millis(2500),
                again: Duration::from_millis(100),
            }),
            tar: series(&[2000, 1000, 3000]),
            import: series(&[3500, 2500, 9000]),
            image_bytes: 100,
            image_entries: 7,
            import_peak: 31 << 20,
            diffs: vec![
                DiffCase {
                    change: "12 bytes".to_owned(),
                    paths: 60_000,
                    told: 1,
                    rung: "blocks".to_owned(),
                    metadata_nodes: 12,
                    data_reads: 34,
                    verb: series(&[20, 10, 40]),
                    comparing: series(&[4, 5, 6]),
                    walk: series(&[1000, 900, 1100]),
                    whole_walk: series(&[8000]),
                    thin_delta: series(&[50]),
                },
                DiffCase {
                    change: "12 bytes".to_owned(),
                    walk: series(&[3]),
                    verb: series(&[2]),
                    ..DiffCase::default()
                },
            ],
            commits: Phase {
                steps: vec![
                    ("create".to_owned(), series(&[10, 20])),
                    ("commit".to_owned(), series(&[50, 70])),
                ],
            },
        },
    }
}

#[test]
fn ratios_are_of_medians() {
    let report = report();
    assert!((report.up_ratio().unwrap() - 1.3).abs() < 1e-9);
    assert!((report.import_ratio().unwrap() - 1.75).abs() < 1e-9);
    assert!((report.commit_ratio().unwrap() - 5.0).abs() < 1e-9);
    let mut none = report;
    none.measured = Measured::default();
    assert_eq!((none.up_ratio(), none.import_ratio()), (None, None));
    assert_eq!(none.commit_ratio(), None);
    assert_eq!(none.sections(), []);
}

#[test]
fn what_was_measured_has_its_tables() {
    let report = report();
    let titles = |report: &Report| -> Vec<_> {
        let sections = report.sections();
        sections.iter().map(|(title, _)| *title).collect()
    };
    let slowly = "Many at once, on a disk whose flushes take time";
    let mut all = TITLES.to_vec();
    all.retain(|title| *title != slowly);
    assert_eq!(titles(&report), all);
    let mut slow = report.clone();
    slow.machine.flush_ms = 5;
    slow.measured.opening = None;
    assert!(titles(&slow).contains(&slowly) && !titles(&slow).contains(&"Many at once"));
    assert!(slow.to_string().contains("dm-delay holds for 5 ms."));
    let text = report.to_string();
    for line in [
        "Guest: Linux 6.1.0, tcg, 2 processors, 2G of memory, without udevd; pool files on an ext4 of a \
             disk of its own. Host: load average 0.10 before, 1.20 after.",
        "## Many at once",
        "| way        | up p50 | x floor | up p99 | x floor | down p50 | x floor | down p99 | x floor |",
        "| ---------- | -----: | ------: | -----: | ------: | -------: | ------: | -------: | ------: |",
        "| raw ioctls |   20.0 |    1.00 |   40.0 |    1.00 |      4.0 |    1.00 |      4.0 |    1.00 |",
        "| library    |   26.0 |    1.30 |   80.0 |    2.00 |      6.0 |    1.50 |      8.0 |    2.00 |",
        "| library    | down: b |  6.0 |  8.0 |",
        "| rm   | 9.0 | 30.0 |",
        "| library |       1 |          9.6 |  1.00 |            90 % |",
        "| library |      16 |         48.0 |  5.00 |            90 % |",
        "| closed | 900.0 |",
        "| open   | 400.0 |",
        "| tar -x, sync          | 2000.0 |  1.00 |  1000.0 |  3000.0 |",
        "| pool-cli image import | 3500.0 |  1.75 |  2500.0 |  9000.0 |",
        "| 12 bytes | 60000 |    1 |           20.0 |       5.0 | 1000.0 |  50.00 |      200.00 |     8000.0 | 400.00 |       50.0 |",
        "| 12 bytes |     0 |    0 |            2.0 |       0.0 |    3.0 |   1.50 |           - |          - |      - |        0.0 |",
        "| 12 bytes | 60000 | blocks |             12 |         34 |",
        "| commit | 50.0 |     5.00 | 70.0 |",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }
    assert!(text.contains("(VmHWM): 31.0 MiB."), "{text}");
}
