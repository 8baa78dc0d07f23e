//! Sizes chosen for a new pool, with the reasons.

use crate::label::{Area, CATALOGUE_LEN, CATALOGUE_START};
use crate::store::Guard;
use crate::units::{BlockSize, Bytes, DataBlocks, META_BLOCK_BYTES, MetaBlocks};

/// Metadata smaller than this is refused: the kernel's own minimum is 2 MiB
/// (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`).
pub(crate) const METADATA_MIN: Bytes = Bytes::from_mib(2);
/// More than this the kernel does not use: 255 bitmaps of 2^14 - 64 blocks of 4096 bytes
/// (`drivers/md/dm-thin-metadata.h`, `THIN_METADATA_MAX_SECTORS`).
pub(crate) const METADATA_MAX: Bytes = Bytes::new(255 * ((1 << 14) - 64) * 4096);
/// What one mapping takes in a densely filled btree, in the kernel's own formula.
const BYTES_PER_MAPPING: u64 = 48;
/// Snapshots scatter their mappings over half-filled nodes: room for that, in a sparse file at no
/// cost until it is used.
const SCATTER: u64 = 4;
/// A small pool still sees many snapshots.
const METADATA_FLOOR: Bytes = Bytes::from_mib(64);

/// Metadata for a pool of `data` bytes in blocks of `block_size`: four times the kernel's formula,
/// at least 64 MiB, at most what the kernel uses, in whole blocks of 4096 bytes.
pub(crate) fn metadata_size(data: Bytes, block_size: BlockSize) -> Bytes {
    let wanted = kernel_formula(data, block_size)
        .get()
        .saturating_mul(SCATTER);
    let clamped = Bytes::new(wanted).clamp(METADATA_FLOOR, METADATA_MAX);
    clamped
        .checked_round_up(Bytes::from_kib(4))
        .unwrap_or(METADATA_MAX)
}

/// The parts of a disk of `size` that a pool is to lie on whole, of which the metadata use only
/// `metadata` at first; `None` where it is too small for any data.
///
/// For metadata twice of what they begin with is kept, so that they can grow: where the data ends is
/// the disk's end, so that the data can grow as well when the disk does.
pub(crate) fn disk_areas(size: Bytes, metadata: Bytes) -> Option<(Area, Area)> {
    const UNIT: Bytes = Bytes::from_mib(1);
    let reserved = metadata
        .saturating_add(metadata)
        .min(METADATA_MAX.max(metadata));
    let metadata = Area {
        start: CATALOGUE_START.saturating_add(CATALOGUE_LEN),
        len: reserved.checked_round_up(UNIT)?,
    };
    let start = metadata.end()?;
    let len = data_room(size, start);
    (len > Bytes::ZERO).then_some((metadata, Area { start, len }))
}

/// What a disk of `size` has for data from `start` on, in whole blocks of 4096 bytes.
pub(crate) fn data_room(size: Bytes, start: Bytes) -> Bytes {
    let room = size.saturating_sub(start).get();
    Bytes::new(room.saturating_sub(room % 4096))
}

/// What the kernel's own documentation reckons for a pool whose every block is mapped once.
pub(crate) fn kernel_formula(data: Bytes, block_size: BlockSize) -> Bytes {
    let mappings = data_blocks(data, block_size).get();
    Bytes::new(mappings.saturating_mul(BYTES_PER_MAPPING))
}

/// Whole blocks in a data device: what the pool can hand out.
pub(crate) fn data_blocks(data: Bytes, block_size: BlockSize) -> DataBlocks {
    DataBlocks::new(
        data.get()
            .checked_div(block_size.to_bytes().get())
            .unwrap_or(0),
    )
}

/// Whole blocks in a metadata device.
pub(crate) fn metadata_blocks(metadata: Bytes) -> MetaBlocks {
    MetaBlocks::new(metadata.get() / META_BLOCK_BYTES)
}

/// Above the guard by this much: who is told can act before anything is refused.
const NOTICE_BEFORE_GUARD: u64 = 5;

/// Free blocks at which the kernel sends its one event: a fifth of the pool, more where the guard
/// begins to refuse before.
pub(crate) fn low_water(data: Bytes, block_size: BlockSize, guard: Guard) -> DataBlocks {
    let notice = u64::from(guard.min_free_data.get())
        .saturating_add(NOTICE_BEFORE_GUARD)
        .clamp(20, 99);
    blocks_of(data, block_size, notice)
}

/// So many hundredths of a pool, in blocks.
pub(crate) fn blocks_of(data: Bytes, block_size: BlockSize, hundredths: u64) -> DataBlocks {
    let blocks = data_blocks(data, block_size).get();
    DataBlocks::new(blocks.saturating_mul(hundredths) / 100)
}

#[cfg(test)]
mod tests {
    use crate::units::Percent;

    use super::*;

    #[test]
    fn metadata_follows_the_formula_between_its_bounds() {
        let block = BlockSize::DEFAULT;
        // 100 GiB in 64 KiB blocks: 1638400 mappings of 48 bytes, four times.
        assert_eq!(
            metadata_size(Bytes::from_gib(100), block),
            Bytes::new(314_572_800)
        );
        assert_eq!(
            metadata_size(Bytes::from_gib(1), block),
            Bytes::from_mib(64)
        );
        assert_eq!(
            metadata_size(Bytes::from_gib(1 << 20), block),
            Bytes::new(17_045_913_600)
        );
        let large = BlockSize::from_bytes(Bytes::from_mib(1)).unwrap();
        assert_eq!(
            metadata_size(Bytes::from_gib(1000), large),
            Bytes::new(196_608_000)
        );
    }

    #[test]
    fn notice_is_given_before_the_guard_refuses() {
        let low_water = |share| {
            let guard = Guard {
                min_free_data: Percent::new(share).unwrap(),
                min_free_metadata: Percent::TENTH,
            };
            low_water(Bytes::from_mib(6400), BlockSize::DEFAULT, guard).get() / 1024
        };
        assert_eq!([0, 10, 15, 30, 99].map(low_water), [20, 20, 20, 35, 99]);
    }

    #[test]
    fn a_disk_keeps_room_for_its_metadata_to_grow() {
        let mib = Bytes::from_mib;
        let area = |start, len| Area { start, len };
        assert_eq!(
            disk_areas(Bytes::new((1 << 30) + 5000), mib(64)),
            Some((
                area(mib(65), mib(128)),
                area(mib(193), Bytes::new((831 << 20) + 4096))
            ))
        );
        let (metadata, data) = disk_areas(Bytes::from_gib(1 << 20), METADATA_MAX).unwrap();
        assert_eq!(metadata, area(mib(65), mib(16257)));
        assert_eq!(data.start, mib(65 + 16257));
        assert_eq!(disk_areas(mib(193), mib(64)), None);
    }
}
