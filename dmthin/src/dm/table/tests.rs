use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn dev(text: &str) -> DevNo {
    text.parse().expect("a device number")
}

/// Parses and prints a line's parameters by its target.
fn reprint(target: &str, params: &str) -> Result<String, LineError> {
    Ok(match target {
        ThinPoolTable::TARGET => ThinPoolTable::parse(params)?.to_string(),
        ThinTable::TARGET => ThinTable::parse(params)?.to_string(),
        LinearTable::TARGET => LinearTable::parse(params)?.to_string(),
        ErrorTable::TARGET => ErrorTable::parse(params)?.to_string(),
        FlakeyTable::TARGET => FlakeyTable::parse(params)?.to_string(),
        _ => panic!("a fixture with the unknown target {target}"),
    })
}

#[test]
fn every_fixture_line_prints_as_it_was_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tables");
    for kernel in ["6.1", "6.12", "new"] {
        let text = fs::read_to_string(dir.join(kernel)).unwrap();
        let mut seen = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(4, ' ');
            let target = fields.nth(2).unwrap();
            let params = fields.next().unwrap_or_default();
            seen.push(target);
            match reprint(target, params) {
                Ok(printed) => assert_eq!(printed, params.trim_end(), "{kernel}: {line}"),
                Err(LineError::Withheld { word, .. }) => assert_eq!(word, params.trim_end()),
                Err(e) => panic!("{kernel}: {line}: {e}"),
            }
        }
        for target in ["thin-pool", "thin", "linear", "error", "flakey"] {
            assert!(seen.contains(&target), "{kernel} has no {target} line");
        }
    }
}

#[test]
fn a_pool_line_is_taken_apart() {
    let line = "253:1 7:0 128 32768 3 skip_block_zeroing error_if_no_space from_the_future ";
    let table = ThinPoolTable {
        metadata: dev("253:1"),
        data: dev("7:0"),
        block_size: BlockSize::DEFAULT,
        low_water: DataBlocks::new(32_768),
        features: PoolFeatures {
            skip_block_zeroing: true,
            error_if_no_space: true,
            unknown: vec!["from_the_future".to_owned()],
            ..PoolFeatures::default()
        },
    };
    assert_eq!(ThinPoolTable::parse(line).as_ref(), Ok(&table));
    assert_eq!(table.to_string(), line.trim_end());
    let all = "read_only ignore_discard no_discard_passdown";
    let table = ThinPoolTable::parse(&format!("1:1 2:2 256 0 3 {all}")).unwrap();
    assert_eq!(
        table.to_string(),
        "1:1 2:2 256 0 3 ignore_discard no_discard_passdown read_only"
    );
    assert_eq!(
        ThinPoolTable::parse("1:1 2:2 128 0").unwrap().features,
        PoolFeatures::default()
    );
}

#[test]
fn a_thin_line_is_taken_apart() {
    let table = ThinTable {
        pool: dev("254:0"),
        id: ThinId::MAX,
        external_origin: None,
    };
    assert_eq!(ThinTable::parse("254:0 16777215").as_ref(), Ok(&table));
    assert_eq!(table.to_string(), "254:0 16777215");
    let table = ThinTable::parse("254:0 5 7:9").unwrap();
    assert_eq!(table.external_origin, Some(dev("7:9")));
    for word in ["Fail", "-"] {
        assert_eq!(
            ThinTable::parse(word),
            Err(LineError::Withheld {
                target: "thin",
                word: word.to_owned()
            })
        );
    }
}

#[test]
fn broken_lines_name_the_field() {
    let missing = |target, field, line: &str| LineError::Missing {
        target,
        field,
        line: line.to_owned(),
    };
    let invalid = |target, field, found: &str, line: &str| LineError::Invalid {
        target,
        field,
        found: found.to_owned(),
        line: line.to_owned(),
    };
    for (target, line, error) in [
        ("thin-pool", "", missing("thin-pool", "metadata device", "")),
        (
            "thin-pool",
            "/dev/sda 7:0 128 0 0",
            invalid(
                "thin-pool",
                "metadata device",
                "/dev/sda",
                "/dev/sda 7:0 128 0 0",
            ),
        ),
        (
            "thin-pool",
            "7:1 7:0 129 0 0",
            invalid("thin-pool", "block size", "129", "7:1 7:0 129 0 0"),
        ),
        (
            "thin-pool",
            "7:1 7:0 128 0 2 read_only",
            missing("thin-pool", "feature argument", "7:1 7:0 128 0 2 read_only"),
        ),
        (
            "thin-pool",
            "7:1 7:0 128 0 0 read_only",
            LineError::Trailing {
                target: "thin-pool",
                found: "read_only".to_owned(),
                line: "7:1 7:0 128 0 0 read_only".to_owned(),
            },
        ),
        (
            "thin",
            "254:0 16777216",
            invalid("thin", "device id", "16777216", "254:0 16777216"),
        ),
        (
            "linear",
            "254:0 +8",
            invalid("linear", "offset", "+8", "254:0 +8"),
        ),
        (
            "error",
            "7:0",
            LineError::Trailing {
                target: "error",
                found: "7:0".to_owned(),
                line: "7:0".to_owned(),
            },
        ),
        (
            "flakey",
            "7:0 0 1 4294967296",
            invalid(
                "flakey",
                "down interval",
                "4294967296",
                "7:0 0 1 4294967296",
            ),
        ),
    ] {
        assert_eq!(reprint(target, line), Err(error), "{target} {line}");
    }
}

fn any_dev() -> impl Strategy<Value = DevNo> {
    (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| DevNo::new(major, minor))
}

fn any_features() -> impl Strategy<Value = PoolFeatures> {
    (
        any::<[bool; 5]>(),
        prop::collection::vec("x_[a-z]{1,9}", 0..3),
    )
        .prop_map(|(set, unknown)| {
            let [
                skip_block_zeroing,
                ignore_discard,
                no_discard_passdown,
                read_only,
                error_if_no_space,
            ] = set;
            PoolFeatures {
                skip_block_zeroing,
                ignore_discard,
                no_discard_passdown,
                read_only,
                error_if_no_space,
                unknown,
            }
        })
}

proptest! {
    #[test]
    fn pool_lines_come_back(
        metadata in any_dev(),
        data in any_dev(),
        blocks_of_64k in 1_u64..=16_384,
        low_water in any::<u64>(),
        features in any_features(),
    ) {
        let table = ThinPoolTable {
            metadata,
            data,
            block_size: BlockSize::from_sectors(Sectors::new(blocks_of_64k.saturating_mul(128))).unwrap(),
            low_water: DataBlocks::new(low_water),
            features,
        };
        prop_assert_eq!(ThinPoolTable::parse(&table.to_string()), Ok(table));
    }

    #[test]
    fn thin_lines_come_back(
        pool in any_dev(),
        id in 0_u64..1 << 24,
        external_origin in prop::option::of(any_dev()),
    ) {
        let table = ThinTable { pool, id: ThinId::new(id).unwrap(), external_origin };
        prop_assert_eq!(ThinTable::parse(&table.to_string()), Ok(table));
    }

    #[test]
    fn flakey_and_linear_lines_come_back(
        device in any_dev(),
        offset in any::<u64>().prop_map(Sectors::new),
        up_seconds in any::<u32>(),
        down_seconds in any::<u32>(),
        features in prop::collection::vec("[a-z_0-9]{1,12}", 0..6),
    ) {
        let linear = LinearTable { device, offset };
        prop_assert_eq!(LinearTable::parse(&linear.to_string()), Ok(linear));
        let flakey = FlakeyTable { device, offset, up_seconds, down_seconds, features };
        prop_assert_eq!(FlakeyTable::parse(&flakey.to_string()), Ok(flakey));
    }

    #[test]
    fn no_text_panics(params in "([0-9]{1,10}|[0-9]{1,5}:[0-9]{1,5}|-|[a-z_]{1,9}|\\PC{0,4}| ){0,12}") {
        for target in ["thin-pool", "thin", "linear", "error", "flakey"] {
            if let Ok(printed) = reprint(target, &params) {
                prop_assert_eq!(reprint(target, &printed), Ok(printed.clone()));
            }
        }
    }
}
