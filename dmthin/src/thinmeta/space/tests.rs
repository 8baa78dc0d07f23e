#![allow(
    clippy::arithmetic_side_effects,
    reason = "the small numbers of a test"
)]

use proptest::prelude::*;

use super::*;
use crate::thinmeta::testing::{Leaves, Maker};

/// What each device has mapped: its block, and the data block.
type Model = BTreeMap<u64, BTreeMap<u64, u64>>;

fn thin(id: u64) -> ThinId {
    ThinId::new(id).unwrap()
}

/// Snapshots of snapshots, each with blocks written anew, as metadata and as a model.
fn pool(history: &[(usize, Vec<u64>)]) -> (Vec<u8>, Model) {
    let mut image: Vec<u8> = Vec::new();
    let mut model = Model::new();
    let mut trees: Vec<Leaves> = Vec::new();
    let mut next: u64 = 0;
    let mut maker = Maker::new(|block, bytes: &[u8; 4096]| {
        let at = usize::try_from(block).unwrap() * 4096;
        image.resize(image.len().max(at + 4096), 0);
        image[at..at + 4096].copy_from_slice(bytes);
    });
    for (id, (origin, writes)) in (0_u64..).zip(history) {
        let (mut tree, mut maps) = match trees.get(origin % trees.len().max(1)) {
            Some(tree) => {
                let origin = u64::try_from(origin % trees.len()).unwrap();
                (tree.clone(), model[&origin].clone())
            }
            None => Default::default(),
        };
        let writes = writes.iter().map(|block| {
            next += 1;
            (*block, next)
        });
        let writes: BTreeMap<u64, u64> = writes.collect();
        maker.map(&mut tree, &writes);
        maps.extend(writes);
        maker.device(id, &tree);
        model.insert(id, maps);
        trees.push(tree);
    }
    let used: BTreeSet<u64> = model.values().flat_map(BTreeMap::values).copied().collect();
    maker.finish(u64::try_from(used.len()).unwrap(), 1 << 24);
    (image, model)
}

fn metadata(image: &[u8]) -> Metadata<&[u8]> {
    Metadata::of_closed(image).unwrap().unwrap()
}

/// Who has each data block.
fn users(model: &Model) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut users: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (id, maps) in model {
        for data in maps.values() {
            users.entry(*data).or_default().insert(*id);
        }
    }
    users
}

fn number(count: usize) -> DataBlocks {
    DataBlocks::new(u64::try_from(count).unwrap())
}

/// Blocks that devices of the set have, and nobody of `all` who is not in it.
fn alone(
    users: &BTreeMap<u64, BTreeSet<u64>>,
    set: &[u64],
    all: impl Fn(u64) -> bool,
) -> DataBlocks {
    let own = |by: &&BTreeSet<u64>| {
        by.iter().any(|id| set.contains(id)) && by.iter().all(|id| set.contains(id) || !all(*id))
    };
    number(users.values().filter(own).count())
}

fn set(ids: &[u64]) -> BTreeSet<ThinId> {
    ids.iter().copied().map(thin).collect()
}

fn agrees(image: &[u8], model: &Model, sets: &[Vec<u64>]) {
    let users = users(model);
    let mut found = metadata(image);
    // No device in two of them.
    let mut taken = BTreeSet::new();
    let apart: Vec<Vec<u64>> = sets
        .iter()
        .map(|set| set.iter().copied().filter(|id| taken.insert(*id)).collect())
        .collect();
    let asked: Vec<_> = apart.iter().map(|ids| set(ids)).collect();
    let exclusives = found.exclusives(&asked).unwrap();
    assert_eq!(exclusives.mapped, number(users.len()));
    assert_eq!(exclusives.devices.len(), model.len());
    for (id, found) in &exclusives.devices {
        let id = u64::from(id.get());
        assert_eq!(*found, alone(&users, &[id], |_| true), "device {id}");
    }
    for (ids, by_sets) in apart.iter().zip(&exclusives.sets) {
        let told = alone(&users, ids, |_| true);
        assert_eq!(*by_sets, told, "{ids:?}");
        assert_eq!(found.exclusive(&set(ids)).unwrap(), told, "{ids:?}");
    }
    let asked: Vec<_> = sets.iter().map(|ids| set(ids)).collect();
    for (nth, union) in found.unions(&asked).unwrap().iter().enumerate() {
        let in_set = |by: &&BTreeSet<u64>, set: &Vec<u64>| by.iter().any(|id| set.contains(id));
        let mapped = users.values().filter(|by| in_set(by, &sets[nth]));
        let other = |by: &&BTreeSet<u64>| {
            let mut others = sets.iter().enumerate().filter(|(n, _)| *n != nth);
            others.any(|(_, set)| in_set(by, set))
        };
        let own = mapped.clone().filter(|by| !other(by));
        let told = Union {
            mapped: number(mapped.clone().count()),
            alone: number(own.count()),
        };
        assert_eq!(*union, told, "{sets:?}: {nth}");
    }
    let mut owned = BTreeMap::new();
    found
        .owners(&mut |found| {
            let twice = owned.insert(
                found.block.get(),
                (u64::from(found.owner.get()), found.shared),
            );
            assert_eq!(twice, None);
        })
        .unwrap();
    let told: BTreeMap<_, _> = users
        .iter()
        .map(|(block, by)| (*block, (*by.first().unwrap(), by.len() > 1)))
        .collect();
    assert_eq!(owned, told);
}

#[test]
fn subtrees_and_blocks_that_are_shared_are_nobodys_own() {
    let (image, model) = pool(&[
        // Three leaves, two snapshots that write in one of them, a snapshot of the first of these, and one
        // that nobody shares with.
        (0, (0..300).collect()),
        (0, vec![5, 6, 7]),
        (0, vec![5, 200]),
        (1, vec![7, 8]),
        (0, Vec::new()),
        (4, (0..300).collect()),
    ]);
    let users = users(&model);
    for (ids, blocks) in [
        (&[1_u64][..], 1),
        (&[1, 3], 5),
        (&[5], 300),
        (&[0, 4], 1),
        (&[0, 1, 2, 3, 4], 307),
    ] {
        assert_eq!(
            alone(&users, ids, |_| true),
            DataBlocks::new(blocks),
            "{ids:?}"
        );
    }
    agrees(
        &image,
        &model,
        &[vec![1, 3], vec![0, 4], vec![2, 5], vec![]],
    );
    agrees(&image, &model, &[vec![0, 1, 2, 3, 4], vec![1, 5], vec![5]]);
}

/// A set's two devices have a block in different leaves; one of the leaves another device has too. The
/// other way to the block made it the set's own once.
#[test]
fn what_another_has_below_a_shared_leaf_is_not_the_sets_own() {
    let (image, model) = pool(&[(0, vec![1, 2]), (0, vec![3]), (0, Vec::new())]);
    assert_eq!(alone(&users(&model), &[0, 1], |_| true), DataBlocks::new(1));
    agrees(&image, &model, &[vec![0, 1]]);
}

#[test]
fn a_stamp_is_that_of_metadata_that_have_not_moved_on() {
    let (mut image, model) = pool(&[(0, vec![1, 2, 3]), (0, vec![2])]);
    let stamp = metadata(&image).stamp().unwrap().unwrap();
    assert_eq!(stamp.used, DataBlocks::new(4));
    assert_eq!(stamp.transaction_id, TransactionId::new(1));
    assert_eq!(stamp.devices.len(), model.len());
    let mut held = metadata(&image);
    // The pool writes: its root is another block now, the held one is as it was.
    let at = 320;
    let (other, _) = pool(&[(0, vec![1, 2, 3, 4])]);
    assert_ne!(image[at..at + 8], other[at..at + 8]);
    assert!(held.stamp().unwrap().is_some());
    let total = held.devices().unwrap().len();
    assert_eq!(total, 2);
    drop(held);
    let roots = metadata(&image).roots();
    image[..4096].copy_from_slice(&other[..4096]);
    let mut held = Metadata::with_roots(&image[..], roots);
    assert_eq!(held.stamp().unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn who_has_what_is_what_a_model_says(
        history in prop::collection::vec((any::<usize>(), prop::collection::vec(0_u64..600, 0..300)), 1..9),
        sets in prop::collection::vec(prop::collection::vec(0_u64..9, 0..5), 0..4),
    ) {
        let (image, model) = pool(&history);
        agrees(&image, &model, &sets);
    }
}
