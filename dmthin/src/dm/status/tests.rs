use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn reprint(target: &str, params: &str) -> Result<String, LineError> {
    Ok(match target {
        "thin-pool" => PoolStatus::parse(params)?.to_string(),
        "thin" => ThinStatus::parse(params)?.to_string(),
        "linear" | "error" | "flakey" => SilentStatus::parse(params)?.to_string(),
        _ => panic!("a fixture with the unknown target {target}"),
    })
}

#[test]
fn every_fixture_line_prints_as_it_was_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/status");
    for kernel in ["6.1", "6.12", "new"] {
        let text = fs::read_to_string(dir.join(kernel)).unwrap();
        let mut seen = String::new();
        for line in text.lines() {
            let mut fields = line.splitn(4, ' ');
            let target = fields.nth(2).unwrap();
            let params = fields.next().unwrap_or_default();
            assert_eq!(
                reprint(target, params).as_deref(),
                Ok(params.trim_end()),
                "{kernel}: {line}"
            );
            seen.push_str(&format!("{target} {params}\n"));
        }
        // The states that matter are all there, so that a regeneration cannot lose one unseen.
        for state in [
            "thin-pool Fail",
            "thin Fail",
            " rw ",
            " ro ",
            " out_of_data_space ",
            " needs_check ",
            " ignore_discard ",
            " no_discard_passdown ",
            " error_if_no_space ",
            "thin 0 -",
            "linear",
            "error",
            "flakey",
        ] {
            assert!(seen.contains(state), "{kernel} has no line with {state:?}");
        }
    }
}

fn working() -> WorkingPool {
    WorkingPool {
        transaction_id: TransactionId::new(7),
        used_metadata: MetaBlocks::new(114),
        total_metadata: MetaBlocks::new(1024),
        used_data: DataBlocks::new(4),
        total_data: DataBlocks::new(1025),
        held_root: Some(MetaBlocks::new(30)),
        mode: PoolMode::Rw,
        discard: DiscardMode::DiscardPassdown,
        on_full: OnFull::QueueIfNoSpace,
        needs_check: false,
        metadata_low_water: Some(MetaBlocks::new(256)),
        unknown: Vec::new(),
    }
}

#[test]
fn a_pool_line_is_taken_apart() {
    let parse = |line: &str| match PoolStatus::parse(line) {
        Ok(PoolStatus::Working(pool)) => *pool,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(
        parse("7 114/1024 4/1025 30 rw discard_passdown queue_if_no_space - 256 "),
        working()
    );
    assert_eq!(
        parse("7 114/1024 4/1025 - ro ignore_discard error_if_no_space needs_check"),
        WorkingPool {
            held_root: None,
            mode: PoolMode::Ro,
            discard: DiscardMode::IgnoreDiscard,
            on_full: OnFull::ErrorIfNoSpace,
            needs_check: true,
            metadata_low_water: None,
            ..working()
        }
    );
    assert_eq!(
        parse(
            "7 114/1024 4/1025 30 out_of_data_space no_discard_passdown queue_if_no_space - 256 x 9"
        ),
        WorkingPool {
            mode: PoolMode::OutOfDataSpace,
            discard: DiscardMode::NoDiscardPassdown,
            unknown: vec!["x".to_owned(), "9".to_owned()],
            ..working()
        }
    );
    assert_eq!(PoolStatus::parse("Fail"), Ok(PoolStatus::Fail));
    assert_eq!(PoolStatus::parse("Error "), Ok(PoolStatus::Error));
}

#[test]
fn a_thin_line_is_taken_apart() {
    for (line, status) in [
        (
            "0 -",
            ThinStatus::Working {
                mapped: Sectors::ZERO,
                highest: None,
            },
        ),
        (
            "512 12927",
            ThinStatus::Working {
                mapped: Sectors::new(512),
                highest: Some(Sectors::new(12_927)),
            },
        ),
        ("-", ThinStatus::Unbound),
        ("Fail", ThinStatus::Fail),
        ("Error", ThinStatus::Error),
    ] {
        assert_eq!(ThinStatus::parse(line), Ok(status), "{line}");
    }
}

#[test]
fn broken_lines_name_the_field() {
    for (line, field) in [
        ("", "transaction id"),
        ("7", "metadata usage"),
        ("7 1/2 3/4 - rw discard_passdown", "no-space behaviour"),
        (
            "7 1/2 3/4 - rw discard_passdown queue_if_no_space",
            "needs_check flag",
        ),
    ] {
        assert_eq!(
            PoolStatus::parse(line),
            Err(LineError::Missing {
                target: "thin-pool status",
                field,
                line: line.to_owned()
            })
        );
    }
    for (line, field, found) in [
        ("x", "transaction id", "x"),
        ("7 1 3/4", "metadata usage", "1"),
        ("7 1/2 3/-4", "data usage", "3/-4"),
        ("7 1/2 3/4 held", "held metadata root", "held"),
        ("7 1/2 3/4 - rx", "mode", "rx"),
        ("Failed", "transaction id", "Failed"),
        (
            "7 1/2 3/4 - rw discard_passdown queue_if_no_space - soon",
            "metadata low water mark",
            "soon",
        ),
    ] {
        assert_eq!(
            PoolStatus::parse(line),
            Err(LineError::Invalid {
                target: "thin-pool status",
                field,
                found: found.to_owned(),
                line: line.to_owned()
            })
        );
    }
    assert_eq!(
        ThinStatus::parse("0 - 1"),
        Err(LineError::Trailing {
            target: "thin status",
            found: "1".to_owned(),
            line: "0 - 1".to_owned()
        })
    );
}

fn any_pool() -> impl Strategy<Value = WorkingPool> {
    (
        any::<[u64; 5]>(),
        prop::option::of(any::<u64>()),
        prop::sample::select(vec![PoolMode::Rw, PoolMode::Ro, PoolMode::OutOfDataSpace]),
        prop::sample::select(vec![
            DiscardMode::DiscardPassdown,
            DiscardMode::NoDiscardPassdown,
            DiscardMode::IgnoreDiscard,
        ]),
        prop::sample::select(vec![OnFull::ErrorIfNoSpace, OnFull::QueueIfNoSpace]),
        any::<bool>(),
        prop::option::of((any::<u64>(), prop::collection::vec("[!-~]{1,8}", 0..3))),
    )
        .prop_map(|(n, held, mode, discard, on_full, needs_check, tail)| {
            let (low_water, unknown) = tail.map_or((None, Vec::new()), |(n, u)| (Some(n), u));
            WorkingPool {
                transaction_id: TransactionId::new(n[0]),
                used_metadata: MetaBlocks::new(n[1]),
                total_metadata: MetaBlocks::new(n[2]),
                used_data: DataBlocks::new(n[3]),
                total_data: DataBlocks::new(n[4]),
                held_root: held.map(MetaBlocks::new),
                mode,
                discard,
                on_full,
                needs_check,
                metadata_low_water: low_water.map(MetaBlocks::new),
                unknown,
            }
        })
}

proptest! {
    #[test]
    fn pool_lines_come_back(pool in any_pool()) {
        let status = PoolStatus::Working(Box::new(pool));
        prop_assert_eq!(PoolStatus::parse(&status.to_string()), Ok(status));
    }

    #[test]
    fn thin_lines_come_back(mapped in any::<u64>(), highest in prop::option::of(any::<u64>())) {
        let status = ThinStatus::Working {
            mapped: Sectors::new(mapped),
            highest: highest.map(Sectors::new),
        };
        prop_assert_eq!(ThinStatus::parse(&status.to_string()), Ok(status));
    }

    #[test]
    fn no_text_panics(line in "([0-9]{1,21}(/[0-9]{1,21})?|-|rw|discard_passdown|queue_if_no_space|Fail|\\PC{0,4}| ){0,14}") {
        for target in ["thin-pool", "thin", "linear"] {
            if let Ok(printed) = reprint(target, &line) {
                prop_assert_eq!(reprint(target, &printed), Ok(printed.clone()));
            }
        }
    }
}
