#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::as_conversions,
    reason = "test helper"
)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const NONCE: Nonce = *b"0123456789abcdef";

fn pool() -> PoolUuid {
    PoolUuid::from_bytes([7; 16])
}

fn record(table: u8, key: i64, name: &str) -> Record {
    Record {
        table,
        key,
        rows: vec![vec![
            Value::Number(key),
            Value::Text(name.to_owned()),
            Value::Null,
            Value::Bytes(vec![0, 255]),
        ]],
    }
}

fn gone(table: u8, key: i64) -> Record {
    Record {
        table,
        key,
        rows: Vec::new(),
    }
}

fn encoded(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        record.encode(&mut bytes).unwrap();
    }
    bytes
}

/// A half of these rows and this log, with room for some more blocks.
fn half(rows: &[Record], log: &[(u64, &[Record])]) -> (HalfHeader, Vec<u8>) {
    let rows = encoded(rows);
    let header = HalfHeader {
        pool: pool(),
        epoch: 3,
        format: 5,
        length: Bytes::new(rows.len() as u64),
        rows_crc: !crc32c(&rows),
        extent: Bytes::from_kib(64),
        written: 100,
        nonce: NONCE,
    };
    let mut bytes = header.encode();
    bytes.extend(&rows);
    bytes.resize(header.log_at().unwrap().get() as usize, 0);
    for (sequence, records) in log {
        let block = LogBlock::encode(&NONCE, *sequence, 100 + sequence, &encoded(records));
        bytes.extend(block.unwrap());
    }
    bytes.resize(header.extent.get() as usize, 0);
    (header, bytes)
}

#[test]
fn blocks_have_the_documented_form() {
    let superblock = mirror_superblock(pool());
    assert_eq!(superblock.len(), 4096);
    assert_eq!(&superblock[..12], b"DMTHINMR\x01\0\0\0");
    assert_eq!(superblock[16..32], [7; 16]);
    assert_eq!(superblock[32..], [0; 4064]);
    assert_eq!(mirror_of(&superblock), Ok(pool()));

    let (header, bytes) = half(&[record(1, 2, "a")], &[(9, &[gone(1, 2)])]);
    assert_eq!(&bytes[..12], b"DMTHINMH\x05\0\0\0");
    assert_eq!(bytes[16..32], [7; 16]);
    assert_eq!(bytes[32..40], 3_u64.to_le_bytes());
    assert_eq!(bytes[56..64], 65_536_u64.to_le_bytes());
    assert_eq!(bytes[64..72], 100_u64.to_le_bytes());
    assert_eq!(bytes[72..88], NONCE);
    assert_eq!(HalfHeader::decode(&bytes, pool()), Some(header));
    // Table, key, one row of four values: 2, "a", nothing, two bytes.
    let row = b"\x01\x02\0\0\0\0\0\0\0\x01\0\x04\x01\x02\0\0\0\0\0\0\0\x02\x01\0\0\0a\0\x03\x02\0\0\0\0\xff";
    assert_eq!(bytes[40..48], (row.len() as u64).to_le_bytes());
    assert_eq!(bytes[4096..4096 + row.len()], row[..]);

    let log = &bytes[8192..12_288];
    assert_eq!(&log[..12], b"DMTHINMF\x0b\0\0\0");
    assert_eq!(log[16..32], NONCE);
    assert_eq!(log[32..40], 9_u64.to_le_bytes());
    assert_eq!(log[40..48], 109_u64.to_le_bytes());
    assert_eq!(&log[48..59], b"\x01\x02\0\0\0\0\0\0\0\0\0");
    assert_eq!(log[59..], [0; 4037]);
}

#[test]
fn a_log_changes_rows_in_the_order_of_its_sequence() {
    let (header, bytes) = half(
        &[
            record(1, 1, "one"),
            record(1, 2, "two"),
            record(2, 1, "other table"),
        ],
        // Two writers may come to their places in any order.
        &[
            (2, &[record(1, 1, "newest"), gone(1, 2)]),
            (1, &[record(1, 1, "newer"), record(1, 3, "three")]),
        ],
    );
    assert_eq!(
        header.replay(&bytes),
        Some(Replayed {
            records: vec![
                record(1, 1, "newest"),
                record(1, 3, "three"),
                record(2, 1, "other table"),
            ],
            written: 102,
            nr_log_blocks: 2,
        })
    );
}

#[test]
fn a_block_of_the_log_that_was_lost_does_not_lose_those_after_it() {
    let log: [(u64, &[Record]); 3] = [
        (1, &[record(1, 1, "a")]),
        (2, &[record(1, 2, "b")]),
        (3, &[record(1, 3, "c")]),
    ];
    let (header, mut bytes) = half(&[], &log);
    bytes[4096 + 4096..4096 + 8192].fill(0);
    let found = header.replay(&bytes).unwrap();
    assert_eq!(found.records, [record(1, 1, "a"), record(1, 3, "c")]);
    assert_eq!(found.nr_log_blocks, 2);
}

#[test]
fn nothing_of_another_epoch_counts() {
    let (header, mut bytes) = half(&[], &[(1, &[record(1, 1, "a")])]);
    let other = LogBlock::encode(b"another epoch's!", 2, 0, &encoded(&[gone(1, 1)])).unwrap();
    bytes[8192..12_288].copy_from_slice(&other);
    assert_eq!(header.replay(&bytes).unwrap().records, [record(1, 1, "a")]);
    let other = PoolUuid::from_bytes([8; 16]);
    assert_eq!(HalfHeader::decode(&bytes, other), None);
}

#[test]
fn a_mirror_of_a_later_version_is_told_from_one_that_is_damaged() {
    let mut later: Block = *mirror_superblock(pool()).first_chunk().unwrap();
    put(&mut later, INCOMPATIBLE_AT, &4_u32.to_le_bytes());
    let newer = MirrorError::Newer {
        version: 1,
        features: 4,
    };
    assert_eq!(mirror_of(&sealed(later)), Err(newer));
    // What need not be understood.
    let mut later: Block = *mirror_superblock(pool()).first_chunk().unwrap();
    put(&mut later, 32, &[1, 0, 0, 0, 1]);
    assert_eq!(mirror_of(&sealed(later)), Ok(pool()));
    put(&mut later, 32, &[2]);
    assert_eq!(mirror_of(&later), Err(MirrorError::NotSound));
    assert_eq!(mirror_of(&[]), Err(MirrorError::NotSound));
}

#[test]
fn what_does_not_fit_is_not_written() {
    assert!(LogBlock::encode(&NONCE, 1, 0, &[0; LOG_ROOM]).is_some());
    assert_eq!(LogBlock::encode(&NONCE, 1, 0, &[0; LOG_ROOM + 1]), None);
    let many = Record {
        rows: vec![Vec::new(); 65_536],
        ..gone(1, 1)
    };
    assert_eq!(many.encode(&mut Vec::new()), None);
}

#[test]
fn a_header_whose_places_make_no_sense_is_none() {
    let (header, _) = half(&[record(1, 1, "a")], &[]);
    for extent in [0, 4096, 4097, u64::MAX, HALF_LEN.get() + 4096] {
        let header = HalfHeader {
            extent: Bytes::new(extent),
            ..header
        };
        assert_eq!(
            HalfHeader::decode(&header.encode(), pool()),
            None,
            "{extent}"
        );
    }
    let header = HalfHeader {
        length: Bytes::new(u64::MAX),
        ..header
    };
    assert_eq!(HalfHeader::decode(&header.encode(), pool()), None);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Number),
        "[a-z]{0,9}".prop_map(Value::Text),
        vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (0_u8..4, -2_i64..5, vec(vec(value(), 0..4), 0..3))
        .prop_map(|(table, key, rows)| Record { table, key, rows });
    vec(record, 0..8)
}

proptest! {
    #[test]
    fn records_read_as_they_were_written(records in records()) {
        prop_assert_eq!(Record::decode_all(&encoded(&records)), Some(records));
    }

    /// Whatever bytes: no panic, and what is understood is what those bytes say.
    #[test]
    fn bytes_are_records_or_not(bytes in vec(any::<u8>(), 0..200)) {
        if let Some(records) = Record::decode_all(&bytes) {
            prop_assert_eq!(encoded(&records), bytes);
        }
    }

    /// A volume that lost its end, as what was not flushed: a prefix of the log, or nothing.
    #[test]
    fn any_prefix_is_what_was_written_until_then(
        rows in records(),
        log in vec(records(), 0..5),
        cut in 0_usize..65_537,
    ) {
        let numbered: Vec<(u64, &[Record])> = (1..).zip(log.iter().map(Vec::as_slice)).collect();
        let (header, bytes) = half(&rows, &numbered);
        let log_at = header.log_at().unwrap().get() as usize;
        let found = header.replay(&bytes[..cut]);
        if cut < 4096 + header.length.get() as usize {
            prop_assert_eq!(found, None);
        } else {
            let whole = cut.saturating_sub(log_at) / 4096;
            let (header, bytes) = half(&rows, &numbered[..whole.min(log.len())]);
            prop_assert_eq!(found, header.replay(&bytes));
        }
    }

    /// A damaged byte costs what it is in and never makes anything up: the header, all of a half's rows, or
    /// one block of the log.
    #[test]
    fn any_damaged_byte_loses_what_it_is_in(
        rows in records(),
        log in vec(records(), 1..5),
        at in 0_usize..32_768,
        flip in 1_u8..=255,
    ) {
        let numbered: Vec<(u64, &[Record])> = (1..).zip(log.iter().map(Vec::as_slice)).collect();
        let (header, mut bytes) = half(&rows, &numbered);
        bytes[at] ^= flip;
        let log_at = header.log_at().unwrap().get() as usize;
        let rows_end = 4096 + header.length.get() as usize;
        if at < 4096 {
            prop_assert_eq!(HalfHeader::decode(&bytes, pool()), None);
        } else if at < rows_end {
            prop_assert_eq!(header.replay(&bytes), None);
        } else {
            let hit = (at >= log_at).then(|| (at - log_at) / 4096);
            let left: Vec<_> = numbered
                .iter()
                .enumerate()
                .filter(|(place, _)| Some(*place) != hit)
                .map(|(_, block)| *block)
                .collect();
            let (header, expected) = half(&rows, &left);
            let (found, expected) = (header.replay(&bytes), header.replay(&expected));
            prop_assert_eq!(
                found.map(|found| found.records),
                expected.map(|expected| expected.records)
            );
        }
    }
}
