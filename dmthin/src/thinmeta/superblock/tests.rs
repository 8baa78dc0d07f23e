use proptest::prelude::*;

use super::*;

/// See fixtures/README.md: written by `thin_restore` from `pool.xml`.
const REAL: &[u8] = include_bytes!("../../../../fixtures/thinmeta/superblock.bin");

/// The real block with `bytes` put at `at`, its checksum made right again.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = REAL.to_vec();
    block
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..bytes.len()))
        .expect("inside the block")
        .copy_from_slice(bytes);
    let csum = crc32c(block.get(4..).expect("4096 bytes")) ^ CSUM_XOR;
    if let Some(head) = block.first_chunk_mut() {
        *head = csum.to_le_bytes();
    }
    block
}

fn kind(bytes: &[u8]) -> Kind {
    FirstBlock::decode(bytes).expect_err("corrupt").0
}

fn expected() -> Superblock {
    Superblock {
        needs_check: false,
        version: 2,
        transaction_id: TransactionId::new(42),
        held_root: None,
        data: SpaceMap {
            total: DataBlocks::new(1000),
            allocated: DataBlocks::new(13),
        },
        metadata: SpaceMap {
            total: MetaBlocks::new(2048),
            allocated: MetaBlocks::new(12),
        },
        data_mapping_root: MetaBlocks::new(7),
        device_details_root: MetaBlocks::new(6),
        block_size: BlockSize::from_sectors(Sectors::new(256)).expect("a block size"),
    }
}

#[test]
fn a_real_superblock_says_what_thin_dump_says() {
    assert_eq!(
        FirstBlock::read(&mut &*REAL).unwrap(),
        FirstBlock::Superblock(Box::new(expected()))
    );
}

#[test]
fn a_copy_gets_the_transaction_id_that_is_wanted() {
    let id = TransactionId::new(77);
    let (first, block) = FirstBlock::with_transaction(&mut &*REAL, id).unwrap();
    let wanted = Superblock {
        transaction_id: id,
        ..expected()
    };
    assert_eq!(first, FirstBlock::Superblock(Box::new(wanted)));
    assert_eq!(FirstBlock::decode(&block).unwrap(), first);
    let (empty, _) = FirstBlock::with_transaction(&mut &[0; 4096][..], id).unwrap();
    assert_eq!(empty, FirstBlock::Unformatted);
    let short = FirstBlock::with_transaction(&mut &REAL[..4095], id);
    assert!(matches!(short, Err(ReadError::Io(_))));
}

#[test]
fn flags_and_the_held_root_are_read() {
    let flagged = Superblock {
        needs_check: true,
        ..expected()
    };
    assert_eq!(
        FirstBlock::decode(&changed(FLAGS_AT, &[1])),
        Ok(FirstBlock::Superblock(Box::new(flagged)))
    );
    let held = Superblock {
        held_root: Some(MetaBlocks::new(30)),
        ..expected()
    };
    assert_eq!(
        FirstBlock::decode(&changed(HELD_ROOT_AT, &[30])),
        Ok(FirstBlock::Superblock(Box::new(held)))
    );
}

#[test]
fn an_empty_block_is_unformatted() {
    assert_eq!(FirstBlock::decode(&[0; BLOCK]), Ok(FirstBlock::Unformatted));
}

#[test]
fn each_broken_rule_is_named() {
    for (bytes, expected) in [
        (REAL[..4095].to_vec(), Kind::Short { found: 4095 }),
        (Vec::new(), Kind::Short { found: 0 }),
        (vec![0xff; BLOCK], Kind::Magic { found: u64::MAX }),
        (
            changed(BLOCKNR_AT, &[9]),
            Kind::BlockNumber {
                found: 9,
                expected: 0,
            },
        ),
        (changed(VERSION_AT, &[3]), Kind::Version { found: 3 }),
        (changed(VERSION_AT, &[0]), Kind::Version { found: 0 }),
        (changed(INCOMPAT_AT, &[4]), Kind::Incompatible { flags: 4 }),
        (
            changed(DATA_BLOCK_SIZE_AT, &[1, 1]),
            Kind::DataBlockSize { sectors: 257 },
        ),
        (
            changed(METADATA_BLOCK_SIZE_AT, &[16]),
            Kind::MetadataBlockSize { sectors: 16 },
        ),
        (
            changed(DATA_SPACE_MAP_AT, &[12, 0]),
            Kind::OverAllocated {
                at: 64,
                allocated: 13,
                total: 12,
            },
        ),
        (
            changed(DATA_MAPPING_ROOT_AT, &[0, 8]),
            Kind::Root {
                at: 320,
                block: 2048,
                total: 2048,
            },
        ),
    ] {
        assert_eq!(kind(&bytes), expected);
    }
    let mut flipped = REAL.to_vec();
    flipped[4095] ^= 1;
    assert!(matches!(
        kind(&flipped),
        Kind::Checksum {
            found: 0x6d58_0db8,
            ..
        }
    ));
    assert!(FirstBlock::decode(&[1; BLOCK]).unwrap_err().is_foreign());
    assert!(!FirstBlock::decode(&flipped).unwrap_err().is_foreign());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..5000), magic: bool, csum: bool) {
        // Past the first guards as well as into them.
        if magic && let Some(field) = bytes.get_mut(MAGIC_AT..40) {
            field.copy_from_slice(&MAGIC.to_le_bytes());
        }
        if csum && let Some(summed) = bytes.get(4..BLOCK) {
            let csum = crc32c(summed) ^ CSUM_XOR;
            if let Some(head) = bytes.first_chunk_mut() {
                *head = csum.to_le_bytes();
            }
        }
        if let Ok(FirstBlock::Superblock(sb)) = FirstBlock::decode(&bytes) {
            prop_assert!(sb.data_mapping_root < sb.metadata.total);
        }
    }

    #[test]
    fn one_changed_byte_is_noticed(at in 0_usize..BLOCK, flip in 1_u8..) {
        let mut bytes = REAL.to_vec();
        bytes[at] ^= flip;
        prop_assert!(FirstBlock::decode(&bytes).is_err());
    }
}
