#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "test helper"
)]

use std::path::Path;

use proptest::prelude::*;

use super::*;

fn label() -> Label {
    Label {
        sequence: 7,
        pool: "00112233445566778899aabbccddeeff".parse().unwrap(),
        name: PoolName::new("tank").unwrap(),
        device_size: Bytes::from_gib(2),
        catalogue: Area {
            start: CATALOGUE_START,
            len: CATALOGUE_LEN,
        },
        metadata: Area {
            start: Bytes::from_mib(65),
            len: Bytes::from_mib(128),
        },
        data: Area {
            start: Bytes::from_mib(193),
            len: Bytes::from_mib(1800),
        },
        block_size: BlockSize::DEFAULT,
    }
}

fn disk() -> File {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(Bytes::from_mib(70).get()).unwrap();
    disk
}

fn damage(disk: &File, at: Bytes, offset: u64) {
    let mut byte = [0];
    disk.read_exact_at(&mut byte, at.get() + offset).unwrap();
    disk.write_all_at(&[byte[0] ^ 0x40], at.get() + offset)
        .unwrap();
}

/// The fields by hand, at the offsets of the documentation.
#[test]
fn every_field_lies_where_the_table_says() {
    let block = label().encode();
    let mut by_hand = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| by_hand[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"DMTHINLB");
    put(8, &[1, 0, 0, 0]);
    put(16, &[7, 0, 0, 0, 0, 0, 0, 0]);
    put(24, &(0..16).map(|n| n * 0x11).collect::<Vec<u8>>());
    put(40, b"tank");
    for (at, mib) in [
        (72, 2048_u64),
        (80, 1),
        (88, 64),
        (96, 65),
        (104, 128),
        (112, 193),
        (120, 1800),
    ] {
        put(at, &(mib << 20).to_le_bytes());
    }
    put(128, &65_536_u64.to_le_bytes());
    let crc = !crc32c(&by_hand);
    by_hand[12..16].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(block, by_hand);
    assert_eq!(Label::decode(&block).unwrap(), label());
}

/// A label that version 1 wrote: later versions read it.
#[test]
fn the_kept_label_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/label/1.bin");
    let kept = std::fs::read(path).unwrap();
    assert_eq!(Label::decode(&kept).unwrap(), label());
}

#[test]
#[ignore = "writes fixtures/label/1.bin, which is made once"]
fn make_the_kept_label() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/label");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("1.bin"), label().encode()).unwrap();
}

fn kind(label: &Label) -> Kind {
    match Label::decode(&label.encode()) {
        Err(LabelError::Corrupt(Corrupt(kind))) => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn areas_that_overlap_or_lie_beyond_the_end_are_refused() {
    let place = |at, area| Kind::Place { at, area };
    let mut wrong = label();
    wrong.catalogue.start = Bytes::from_kib(512);
    assert_eq!(kind(&wrong), place(80, "the catalogue"));
    let mut wrong = label();
    wrong.metadata.start = Bytes::from_mib(64);
    assert_eq!(kind(&wrong), place(96, "the metadata"));
    let mut wrong = label();
    wrong.data.start = Bytes::new(u64::MAX - 4095);
    assert_eq!(kind(&wrong), place(112, "the data"));
    let mut wrong = label();
    wrong.data.len = Bytes::from_mib(1900);
    assert_eq!(kind(&wrong), place(112, "the data"));
    let mut wrong = label();
    wrong.data.len = Bytes::new(512);
    assert_eq!(kind(&wrong), place(112, "the data"));
}

#[test]
fn other_versions_and_features_are_refused() {
    let with = |at: usize, value: u32| {
        let mut block = *label().encode().first_chunk::<BLOCK>().unwrap();
        super::put(&mut block, at, &value.to_le_bytes());
        let crc = checksum(&block);
        super::put(&mut block, CRC_AT, &crc.to_le_bytes());
        Label::decode(&block).unwrap_err().to_string()
    };
    assert_eq!(
        with(VERSION_AT, 2),
        "the label is of version 2, this program knows version 1"
    );
    let not_sound = "the label is not sound: byte";
    assert_eq!(
        with(VERSION_AT, 0),
        format!("{not_sound} 8: the version is not one this version writes")
    );
    assert_eq!(
        with(INCOMPAT_AT, 1),
        format!("{not_sound} 136: the features is not one this version writes")
    );
}

#[test]
fn one_damaged_copy_is_no_harm_and_two_are_told() {
    let disk = disk();
    assert_eq!(read(&disk).unwrap(), None);
    write(&disk, &label()).unwrap();
    damage(&disk, LABEL_AT[0], 30);
    assert_eq!(read(&disk).unwrap(), Some(label()));
    damage(&disk, LABEL_AT[1], 30);
    assert!(matches!(
        read(&disk),
        Err(LabelError::Corrupt(Corrupt(Kind::Checksum { .. })))
    ));
}

/// Cut between the two writes, the first counts; cut within the first, the second.
#[test]
fn the_label_with_the_higher_sequence_counts() {
    let disk = disk();
    write(&disk, &label()).unwrap();
    let next = Label {
        sequence: 8,
        name: PoolName::new("other").unwrap(),
        ..label()
    };
    disk.write_all_at(&next.encode(), LABEL_AT[0].get())
        .unwrap();
    assert_eq!(read(&disk).unwrap(), Some(next));
    damage(&disk, LABEL_AT[0], 4000);
    assert_eq!(read(&disk).unwrap(), Some(label()));
}

#[test]
fn a_disk_that_ends_early_has_no_label() {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(4097).unwrap();
    assert_eq!(read(&disk).unwrap(), None);
}

fn copy(n: u8) -> CatalogueCopy {
    CatalogueCopy {
        closed: n.is_multiple_of(2),
        written: 1_700_000_000 + u64::from(n),
        content: vec![n; 10_000],
    }
}

#[test]
fn the_newest_whole_copy_is_read() {
    let disk = disk();
    assert!(matches!(read_copy(&disk, &label()), Err(CopyError::None)));
    for n in 1..6 {
        write_copy(&disk, &label(), &copy(n)).unwrap();
        assert_eq!(read_copy(&disk, &label()).unwrap(), copy(n));
    }
    // The fifth lies in the first slot. Torn, the fourth counts, and is not written over.
    damage(&disk, CATALOGUE_START, 4096 + 9999);
    assert_eq!(read_copy(&disk, &label()).unwrap(), copy(4));
    write_copy(&disk, &label(), &copy(6)).unwrap();
    assert_eq!(read_copy(&disk, &label()).unwrap(), copy(6));
    damage(&disk, CATALOGUE_START, 17);
    assert_eq!(read_copy(&disk, &label()).unwrap(), copy(4));
    write_copy(&disk, &label(), &copy(6)).unwrap();
    // Of another pool: not taken.
    let other = Label {
        pool: PoolUuid::from_bytes([9; 16]),
        ..label()
    };
    assert!(matches!(read_copy(&disk, &other), Err(CopyError::None)));
}

#[test]
fn a_catalogue_too_large_for_its_slot_is_refused() {
    let disk = disk();
    write_copy(&disk, &label(), &copy(1)).unwrap();
    let large = CatalogueCopy {
        content: vec![0; 32 << 20],
        ..copy(2)
    };
    assert!(matches!(
        write_copy(&disk, &label(), &large),
        Err(CopyError::TooLarge { .. })
    ));
    assert_eq!(read_copy(&disk, &label()).unwrap(), copy(1));
}

proptest! {
    /// Whichever byte is damaged, the label is refused, never read as something else.
    #[test]
    fn a_damaged_byte_is_noticed(at in 0_usize..4096, flip in 1_u8..=255) {
        let mut block = label().encode();
        block[at] ^= flip;
        prop_assert!(Label::decode(&block).is_err());
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(Label::decode(&bytes).is_err());
    }

    #[test]
    fn what_is_written_is_read(sequence in any::<u64>(), name in "[a-z0-9][a-z0-9_.-]{0,31}", mib in 300_u64..1 << 30) {
        let label = Label {
            sequence,
            name: PoolName::new(name).unwrap(),
            device_size: Bytes::from_mib(mib),
            data: Area { start: Bytes::from_mib(193), len: Bytes::from_mib(mib - 193) },
            ..label()
        };
        prop_assert_eq!(Label::decode(&label.encode()).unwrap(), label);
    }
}
