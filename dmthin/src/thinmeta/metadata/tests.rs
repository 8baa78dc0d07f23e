#![allow(
    clippy::arithmetic_side_effects,
    reason = "offsets in a fixture of known size"
)]

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;
use crate::crc32c::crc32c;

// See fixtures/README.md: the kernel's metadata, and what thin_ls and thin_dump say of them.
const HELD: u64 = 712;
const HELD_LS: &str = include_str!("../../../../fixtures/thinmeta/pool/held.ls");
const LIVE_LS: &str = include_str!("../../../../fixtures/thinmeta/pool/live.ls");

fn unpack(bytes: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut unpacked).unwrap();
    unpacked
}

static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    unpack(include_bytes!(
        "../../../../fixtures/thinmeta/pool/metadata.img.gz"
    ))
});
static HELD_XML: LazyLock<String> = LazyLock::new(|| {
    let bytes = include_bytes!("../../../../fixtures/thinmeta/pool/held.xml.gz");
    String::from_utf8(unpack(bytes)).unwrap()
});

type Found<'a> = Metadata<&'a [u8]>;

fn live(image: &[u8]) -> Result<Found<'_>, ReadError> {
    Ok(Metadata::of_closed(image)?.expect("formatted"))
}

fn held(image: &[u8]) -> Result<Found<'_>, ReadError> {
    let (total, data_total) = (MetaBlocks::new(1024), DataBlocks::new(16384));
    Metadata::of_snapshot(image, MetaBlocks::new(HELD), total, data_total)
}

fn thin(id: u64) -> ThinId {
    ThinId::new(id).unwrap()
}

/// The rows of `thin_ls`: id, mapped, exclusive, transaction, made, snapshotted.
fn rows(listed: &str) -> Vec<[u64; 6]> {
    let row = |line: &str| {
        let cells: Vec<u64> = line
            .split_whitespace()
            .map(|cell| cell.parse().unwrap())
            .collect();
        cells.try_into().unwrap()
    };
    listed.lines().map(row).collect()
}

/// The runs that `thin_dump` tells, by device, times left out.
fn dumped() -> BTreeMap<ThinId, Vec<[u64; 3]>> {
    let mut devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut last = None;
    for line in HELD_XML.lines() {
        let number = |name: &str| -> u64 {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        };
        let mut push = |begin, data, len| {
            let runs: &mut Vec<_> = devices.entry(last.unwrap()).or_default();
            runs.push([number(begin), number(data), len]);
        };
        if line.contains("<device ") {
            last = Some(thin(number("dev_id")));
            devices.entry(thin(number("dev_id"))).or_default();
        } else if line.contains("<range_mapping ") {
            push("origin_begin", "data_begin", number("length"));
        } else if line.contains("<single_mapping ") {
            push("origin_block", "data_block", 1);
        }
    }
    devices
}

/// The same mappings a block at a time: however the runs are cut, these are the same.
fn blocks<'a>(runs: impl IntoIterator<Item = &'a [u64; 3]>) -> Vec<(u64, u64)> {
    runs.into_iter()
        .flat_map(|[begin, data, len]| (0..*len).map(move |n| (begin + n, data + n)))
        .collect()
}

fn plain(runs: Vec<Run>) -> Vec<[u64; 3]> {
    runs.iter()
        .map(|run| [run.begin.get(), run.data.get(), run.len.get()])
        .collect()
}

/// What only `set` has mapped, counted from the dump block by block.
fn counted(set: &BTreeSet<ThinId>) -> u64 {
    let mut users: HashMap<u64, (bool, bool)> = HashMap::new();
    for (id, runs) in &dumped() {
        for (_, data) in blocks(runs) {
            let (inside, outside) = users.entry(data).or_default();
            *(if set.contains(id) { inside } else { outside }) = true;
        }
    }
    let count = users
        .values()
        .filter(|user| **user == (true, false))
        .count();
    u64::try_from(count).unwrap()
}

#[test]
fn devices_are_those_of_thin_ls_now_and_in_the_snapshot() {
    for (mut found, listed, transaction) in [
        (held(&IMAGE).unwrap(), HELD_LS, 7),
        (live(&IMAGE).unwrap(), LIVE_LS, 8),
    ] {
        assert_eq!(found.transaction_id(), TransactionId::new(transaction));
        assert_eq!(found.block_size(), BlockSize::DEFAULT);
        let devices = found.devices().unwrap();
        assert_eq!(devices.len(), 265);
        let rows = rows(listed);
        assert_eq!(rows.len(), devices.len());
        let mut all = found.exclusives(&[]).unwrap().devices;
        for (device, [id, mapped, exclusive, transaction, created, snapshotted]) in
            devices.iter().zip(rows)
        {
            let expected = ThinDevice {
                id: thin(id),
                mapped: DataBlocks::new(mapped),
                transaction_id: TransactionId::new(transaction),
                created,
                snapshotted,
            };
            assert_eq!(*device, expected);
            let alone = found.exclusive(&[device.id].into()).unwrap();
            assert_eq!(alone, DataBlocks::new(exclusive), "{device:?}");
            assert_eq!(all.remove(&device.id), Some(alone), "{device:?}");
        }
        assert!(all.is_empty(), "{all:?} are no devices");
    }
}

#[test]
fn the_snapshot_has_what_the_pool_has_left_behind() {
    let ids = |mut found: Found<'_>| -> Vec<u32> {
        let devices = found.devices().unwrap();
        devices
            .iter()
            .map(|device| device.id.get())
            .take(6)
            .collect()
    };
    assert_eq!(ids(held(&IMAGE).unwrap()), [0, 1, 2, 5, 9, 1000]);
    assert_eq!(ids(live(&IMAGE).unwrap()), [0, 1, 2, 5, 30, 1000]);
}

#[test]
fn mappings_are_those_of_thin_dump() {
    let mut found = held(&IMAGE).unwrap();
    let dumped = dumped();
    assert_eq!(dumped.len(), 265);
    for id in [0, 1, 2, 5, 9, 1259].map(thin) {
        let runs = plain(found.runs(id).unwrap().unwrap());
        let expected = dumped.get(&id).unwrap();
        assert_eq!(blocks(&runs), blocks(expected), "{id}");
        // thin_dump begins a run anew where the time differs.
        assert!(runs.len() <= expected.len());
        let apart = |pair: &[[u64; 3]]| {
            let ([begin, data, len], [next, next_data, _]) = (pair[0], pair[1]);
            begin + len != next || data + len != next_data
        };
        assert!(runs.windows(2).all(apart), "runs that could be one");
    }
    let mapped = |id| blocks(dumped.get(&thin(id)).unwrap()).len();
    assert_eq!((mapped(0), mapped(9), mapped(5)), (1000, 10, 0));
    assert_eq!(found.runs(thin(30)).unwrap(), None);
}

#[test]
fn what_a_set_gives_back_is_more_than_its_devices_alone() {
    let mut found = held(&IMAGE).unwrap();
    let all: Vec<u64> = (0..1300).collect();
    for ids in [
        &[0, 1][..],
        &[1, 2],
        &[0, 2],
        &[0, 1, 2],
        &[9, 1],
        &[4],
        &[],
        &all,
    ] {
        let set: BTreeSet<_> = ids.iter().copied().map(thin).collect();
        assert_eq!(
            found.exclusive(&set).unwrap().get(),
            counted(&set),
            "{ids:?}"
        );
    }
    // In numbers, lest both sides count nothing.
    let two: BTreeSet<_> = [0, 1].map(thin).into();
    assert!(counted(&two) > 59 + 5);
    let every: BTreeSet<_> = all.iter().copied().map(thin).collect();
    let superblock = match FirstBlock::decode(&IMAGE).unwrap() {
        FirstBlock::Superblock(superblock) => superblock,
        FirstBlock::Unformatted => panic!("formatted"),
    };
    // The pool's own count, of which a snapshot that is held keeps what has gone since.
    assert_eq!(
        live(&IMAGE).unwrap().exclusive(&every).unwrap().get() + 10,
        superblock.data.allocated.get()
    );
}

#[test]
fn a_copy_of_the_trees_has_all_that_is_in_them() {
    for mut found in [held(&IMAGE).unwrap(), live(&IMAGE).unwrap()] {
        let mut copy = vec![0; IMAGE.len()];
        let mut last = None;
        let mut count = 0;
        let written = found.copy_to(|block, bytes| {
            block_of(&mut copy, block.get()).copy_from_slice(bytes);
            last = Some(block);
            count += 1;
            Ok(())
        });
        assert_eq!(written.unwrap().unwrap(), MetaBlocks::new(count));
        // A copy that is cut has no superblock, and is not taken for one.
        assert_eq!(last, Some(MetaBlocks::ZERO));
        assert!((10..100).contains(&count), "{count}");
        let mut copied = live(&copy).unwrap();
        assert_eq!(copied.transaction_id(), found.transaction_id());
        assert_eq!(copied.devices().unwrap(), found.devices().unwrap());
        for id in [0, 1, 2, 5, 1000, 1259].map(thin) {
            assert_eq!(copied.runs(id).unwrap(), found.runs(id).unwrap(), "{id}");
        }
        let FirstBlock::Superblock(first) = FirstBlock::decode(&copy).unwrap() else {
            panic!("formatted");
        };
        assert_eq!((first.needs_check, first.held_root), (false, None));
        assert_eq!(first.data.total, DataBlocks::new(16384));
    }
}

#[test]
fn damaged_trees_are_not_copied() {
    let (_, child) = roots(&IMAGE);
    let mut image = IMAGE.clone();
    block_of(&mut image, child)[100] ^= 1;
    let mut nr_written = 0;
    let copied = held(&image).unwrap().copy_to(|_, _| {
        nr_written += 1;
        Ok(())
    });
    assert!(matches!(copied, Err(ReadError::Damage(_))));
    assert_eq!(nr_written, 0);
    let full = held(&IMAGE)
        .unwrap()
        .copy_to(|_, _| Err(std::io::ErrorKind::StorageFull.into()));
    assert_eq!(
        full.unwrap().unwrap_err().kind(),
        std::io::ErrorKind::StorageFull
    );
}

/// Blocks that `new` has mapped, and not to what `old` has there, from the dump block by block.
fn told_changed(new: u64, old: u64) -> Vec<u64> {
    let dumped = dumped();
    let maps = |id| -> HashMap<_, _> { blocks(&dumped[&thin(id)]).into_iter().collect() };
    let (new, old) = (maps(new), maps(old));
    let differs = |(block, data): (&u64, &u64)| (old.get(block) != Some(data)).then_some(*block);
    let mut changed: Vec<_> = new.iter().filter_map(differs).collect();
    changed.sort_unstable();
    changed
}

fn changed_blocks(found: &mut Metadata<impl ReadAt>, new: u64, old: u64) -> Vec<u64> {
    let spans = found.changed(thin(new), thin(old)).unwrap().unwrap();
    let joined = |pair: &[Span]| pair[0].begin.checked_add(pair[0].len) == Some(pair[1].begin);
    assert!(!spans.windows(2).any(joined), "spans that could be one");
    spans
        .iter()
        .flat_map(|span| (0..span.len.get()).map(|n| span.begin.get() + n))
        .collect()
}

#[test]
fn what_a_snapshot_changed_is_what_the_dumps_differ_in() {
    let mut found = held(&IMAGE).unwrap();
    let ids = [0, 1, 2, 5, 9, 1000, 1001, 1130, 1259];
    let mut sizes = Vec::new();
    for new in ids {
        for old in ids {
            let changed = changed_blocks(&mut found, new, old);
            assert_eq!(changed, told_changed(new, old), "{new} against {old}");
            sizes.push(changed.len());
        }
    }
    // In numbers, lest both sides count nothing: an equal pair, a small change, a device alone.
    assert!(sizes.contains(&0) && sizes.contains(&1000));
    assert!(sizes.iter().any(|size| (1..100).contains(size)));
    assert_eq!(found.changed(thin(0), thin(30)).unwrap(), None);
    assert_eq!(found.changed(thin(30), thin(0)).unwrap(), None);
}

#[test]
fn what_two_devices_have_otherwise_is_what_the_dumps_differ_in_both_ways() {
    let mut found = held(&IMAGE).unwrap();
    let dumped = dumped();
    let mut kinds = BTreeSet::new();
    for [old, new] in [[0, 1], [1, 0], [0, 1000], [1000, 0], [1259, 9], [5, 5]] {
        let maps = |id| -> HashMap<_, _> { blocks(&dumped[&thin(id)]).into_iter().collect() };
        let (was, is) = (maps(old), maps(new));
        let all: BTreeSet<u64> = was.keys().chain(is.keys()).copied().collect();
        let told: Vec<_> = all
            .into_iter()
            .filter(|block| was.get(block) != is.get(block))
            .map(|block| (block, was.contains_key(&block), is.contains_key(&block)))
            .collect();
        let runs = found.changed_runs(thin(old), thin(new)).unwrap().unwrap();
        let of_run = |run: &ChangedRun| {
            let run = *run;
            (0..run.len.get()).map(move |n| (run.begin.get() + n, run.old, run.new))
        };
        let changed: Vec<_> = runs.iter().flat_map(of_run).collect();
        assert_eq!(changed, told, "{new} against {old}");
        kinds.extend(changed.into_iter().map(|(_, old, new)| (old, new)));
    }
    assert_eq!(kinds.len(), 3);
    assert_eq!(found.changed_runs(thin(0), thin(30)).unwrap(), None);
}

/// Counts the blocks that are read of it.
struct Counted<'a>(&'a [u8], std::cell::Cell<u32>);

impl ReadAt for &Counted<'_> {
    fn read_exact_at(&self, buf: &mut [u8], at: u64) -> std::io::Result<()> {
        self.1.set(self.1.get() + 1);
        self.0.read_exact_at(buf, at)
    }
}

#[test]
fn what_two_devices_share_is_not_read() {
    let image = Counted(&IMAGE, std::cell::Cell::default());
    let (total, data_total) = (MetaBlocks::new(1024), DataBlocks::new(16384));
    let mut found =
        Metadata::of_snapshot(&image, MetaBlocks::new(HELD), total, data_total).unwrap();
    let mut reads = |new, old| {
        let before = image.1.get();
        found.changed(thin(new), thin(old)).unwrap().unwrap();
        image.1.get() - before
    };
    // Down the tree of devices twice, and to the depth of each of its own: nothing of it is different.
    let same = reads(0, 0);
    assert_eq!(same, 8);
    assert_eq!(found.nodes_read(), u64::from(image.1.get()));
    let mut reads = |new, old| {
        let before = image.1.get();
        found.changed(thin(new), thin(old)).unwrap().unwrap();
        image.1.get() - before
    };
    // Both trees of 1000 mappings have an inner node and some leaves, of which some are shared.
    let alone = reads(0, 5);
    assert!(reads(1, 0) < alone + 4, "{} and {alone}", reads(1, 0));
}

fn block_of(image: &mut [u8], block: u64) -> &mut [u8] {
    let at = usize::try_from(block).unwrap() * 4096;
    &mut image[at..at + 4096]
}

/// Puts bytes into a node, its checksum made right again.
fn put(image: &mut [u8], block: u64, at: usize, bytes: &[u8]) {
    let node = block_of(image, block);
    node[at..at + bytes.len()].copy_from_slice(bytes);
    let csum = crc32c(&node[4..]) ^ 121_107;
    node[..4].copy_from_slice(&csum.to_le_bytes());
}

/// Root, and first child, of the held tree of mappings.
fn roots(image: &[u8]) -> (u64, u64) {
    let root = held(image).unwrap().roots.mappings.get();
    let mut copy = image.to_vec();
    let node = block_of(&mut copy, root);
    let max = usize::try_from(u32::from_le_bytes(node[20..24].try_into().unwrap())).unwrap();
    (root, number(node, 32 + 8 * max))
}

fn damage(image: &[u8]) -> Damage {
    match held(image).unwrap().devices().unwrap_err() {
        ReadError::Damage(damage) => damage,
        error => panic!("{error}"),
    }
}

#[test]
fn each_broken_rule_is_named_with_its_block() {
    let (root, child) = roots(&IMAGE);
    let mut short = IMAGE.clone();
    short[usize::try_from(child).unwrap() * 4096 + 100] ^= 1;
    let found = damage(&short);
    assert_eq!(found.block, MetaBlocks::new(child));
    assert!(matches!(found.kind(), Kind::Checksum { .. }), "{found}");
    let values = 32 + 8 * 252;
    let cases: [(u64, usize, &[u8], Kind); 11] = [
        (child, 8, &[9, 0], Kind::BlockNumber { found: 9 }),
        (root, 4, &[3], Kind::Flags { found: 3 }),
        (
            child,
            16,
            &[253, 0],
            Kind::Entries {
                found: 253,
                most: 252,
            },
        ),
        (
            child,
            24,
            &[16],
            Kind::ValueSize {
                found: 16,
                expected: 8,
            },
        ),
        (child, 20, &[255, 1], Kind::TooLong { max_entries: 511 }),
        (root, 16, &[0], Kind::Empty),
        (root, 40, &[0; 8], Kind::Order { entry: 1 }),
        (
            root,
            32,
            &[1],
            Kind::KeyRange {
                found: 0,
                begin: 1,
                end: Some(number(&IMAGE[usize::try_from(root).unwrap() * 4096..], 40)),
            },
        ),
        (
            root,
            values,
            &[0, 4, 0, 0],
            Kind::Child {
                entry: 0,
                block: 1024,
                total: 1024,
            },
        ),
        (root, values, &root.to_le_bytes(), Kind::Cycle),
        (
            child,
            32 + 8,
            &1000_u64.to_le_bytes(),
            Kind::Order { entry: 2 },
        ),
    ];
    for (block, at, bytes, kind) in cases {
        let mut image = IMAGE.clone();
        put(&mut image, block, at, bytes);
        assert_eq!(*damage(&image).kind(), kind);
    }
}

#[test]
fn what_is_no_snapshot_or_cut_short_is_refused() {
    let (total, data) = (MetaBlocks::new(1024), DataBlocks::new(16384));
    let at = |block| Metadata::of_snapshot(&IMAGE[..], MetaBlocks::new(block), total, data);
    assert!(matches!(at(HELD + 1), Err(ReadError::Corrupt(_))));
    // The pool's own superblock is read in the same way.
    assert!(at(0).is_ok());
    assert!(matches!(
        at(5000),
        Err(ReadError::Block { block, .. }) if block == MetaBlocks::new(5000)
    ));
    let small = Metadata::of_snapshot(&IMAGE[..], MetaBlocks::new(HELD), MetaBlocks::new(2), data);
    assert!(matches!(small, Err(ReadError::Corrupt(_))));
    assert!(Metadata::of_closed(&[0; 8192][..]).unwrap().is_none());
    // Fewer data blocks than are mapped.
    let few = DataBlocks::new(3);
    let mut few = Metadata::of_snapshot(&IMAGE[..], MetaBlocks::new(HELD), total, few).unwrap();
    let error = few.runs(thin(0)).unwrap_err();
    assert!(error.to_string().contains("data block 3 of 3"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is written into a node whose checksum is then right again, the walk ends, with the
    /// devices or with an error.
    #[test]
    fn damaged_trees_never_panic_and_never_go_on_for_ever(
        changes in prop::collection::vec((0_usize..1024, 0_usize..4088, prop_oneof![
            (0_u64..1100).prop_map(u64::to_le_bytes),
            any::<[u8; 8]>(),
        ]), 1..6),
        header: bool,
    ) {
        let mut image = IMAGE.clone();
        let roots = held(&IMAGE).unwrap().roots;
        let known = [roots.mappings.get(), roots.details.get(), super::tests::roots(&IMAGE).1];
        for (pick, at, bytes) in changes {
            // The trees' upper blocks more often than the hundreds that nothing leads to.
            let block = known.get(pick % 6).copied().unwrap_or(u64::try_from(pick).unwrap());
            let at = if header { 4 + at % 44 } else { at.max(4) };
            if block != 0 && block != HELD {
                put(&mut image, block, at, &bytes);
            }
        }
        let mut found = held(&image).unwrap();
        let _ = found.devices();
        let _ = found.exclusive(&[thin(0), thin(2)].into());
        let _ = found.exclusives(&[[thin(0), thin(2)].into(), [thin(1)].into()]);
        let _ = found.unions(&[[thin(0), thin(2)].into(), [thin(1), thin(2)].into()]);
        let _ = found.owners(&mut |_| ());
        let _ = found.stamp();
        let _ = found.runs(thin(1));
        let _ = found.changed(thin(1), thin(0));
        let _ = found.changed(thin(1000), thin(9));
    }

    #[test]
    fn a_set_gives_back_what_the_dump_says(ids in prop::collection::btree_set(prop_oneof![Just(0_u64), Just(1), Just(2), Just(5), Just(9), 1000_u64..1260], 0..6)) {
        let set: BTreeSet<_> = ids.into_iter().map(thin).collect();
        prop_assert_eq!(held(&IMAGE).unwrap().exclusive(&set).unwrap().get(), counted(&set));
    }
}
