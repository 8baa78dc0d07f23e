//! The catalogue as rows: what changed, all of it, and one made again of them.

mod named;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::ids::{FsType, ThinId, TransactionId};
use crate::label::{Record, Value};
use crate::store::connection::Durability;
use crate::store::error::Fault;
use crate::store::row;
use crate::store::rows::TABLES;
use crate::store::tests::{
    Temp, begin_layer, container, container_name, image, pool, ready_base, reference, stack,
};
use crate::store::{
    Anonymous, BackingRecord, Catalogue, Dropped, LostImage, NewPool, Rebuilding, Settled,
    StoreError, UnknownThin, VolumeState,
};
use crate::units::Bytes;

const IMAGE: LostImage<'static> = LostImage {
    name: "lost-found:latest",
    config: b"{}",
    digest: crate::ids::Digest::from_bytes([9; 32]),
};

fn id(n: u64) -> ThinId {
    ThinId::new(n).unwrap()
}

fn ids(range: impl IntoIterator<Item = u64>) -> BTreeSet<ThinId> {
    range.into_iter().map(id).collect()
}

/// A base (thin 0), two images of one (1) and two layers (1, 2), two containers (3, 4).
fn busy() -> Temp {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let layers = stack(&catalogue, base, &[1, 2]);
    catalogue
        .add_image(&image(1, &layers[..1], &["one:1"]))
        .unwrap();
    let second = catalogue
        .add_image(&image(2, &layers, &["two:1", "two:2"]))
        .unwrap()
        .id();
    for name in ["web", "db"] {
        let volume = catalogue.begin_container(&container(name, second)).unwrap();
        catalogue.set_ready_lazy(volume.id).unwrap();
    }
    catalogue
}

fn rebuild(records: Vec<Record>, present: &BTreeSet<ThinId>) -> (Rebuilding, Settled) {
    let path = Path::new("/r/tank/catalogue.db");
    let mut rebuilding = Rebuilding::begin(path, Catalogue::format(), records).unwrap();
    let settled = rebuilding
        .settle(&pool(), TransactionId::new(5), present)
        .unwrap();
    (rebuilding, settled)
}

/// Writes it, and opens it as `pool open` does.
fn opened(rebuilding: Rebuilding, place: &Temp) -> Catalogue {
    let path = place.directory.path().join("again.db");
    let draft = rebuilding.write().unwrap();
    Catalogue::place_draft(&path, &draft).unwrap();
    let catalogue = Catalogue::open(&path).unwrap();
    catalogue.check().unwrap();
    catalogue
}

/// For a catalogue beside the one that was lost.
fn again(from: &Temp, records: Vec<Record>, present: &BTreeSet<ThinId>) -> (Rebuilding, Settled) {
    let path = from.directory.path().join("again.db");
    let mut rebuilding = Rebuilding::begin(&path, Catalogue::format(), records).unwrap();
    let settled = rebuilding
        .settle(&pool(), TransactionId::new(5), present)
        .unwrap();
    (rebuilding, settled)
}

/// Tables that the copy does not have, each with the reason why not.
const NOT_KEPT: &[(&str, &str)] = &[(
    "sqlite_sequence",
    "the engine's own; numbers that are gone are passed over where a file goes by them",
)];

#[test]
fn every_table_is_kept_or_named_as_not_kept() {
    let catalogue = Temp::new();
    let db = catalogue.lock();
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table'";
    let mut statement = db.prepare(sql).unwrap();
    let names = statement.query_map((), |row| row.get(0)).unwrap();
    let names: BTreeSet<String> = names.map(Result::unwrap).collect();
    let kept = TABLES.iter().map(|table| table.name);
    let all: Vec<_> = kept.chain(NOT_KEPT.iter().map(|(name, _)| *name)).collect();
    let told: BTreeSet<String> = all.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(told.len(), all.len());
    assert_eq!(told, names);
}

/// What these verbs are told to have changed leads from the rows before to the rows after.
fn follows(catalogue: &Temp, verbs: &[(&str, &dyn Fn())]) {
    let mut state: BTreeMap<(u8, i64), Vec<Vec<Value>>> = BTreeMap::new();
    let mut follow = |what: &str, records: Vec<Record>| {
        assert!(!records.is_empty(), "{what} changed nothing");
        for record in records {
            let key = (record.table, record.key);
            if record.rows.is_empty() {
                state.remove(&key);
            } else {
                state.insert(key, record.rows);
            }
        }
        let found: Vec<_> = state
            .iter()
            .map(|((table, key), rows)| Record {
                table: *table,
                key: *key,
                rows: rows.clone(),
            })
            .collect();
        assert_eq!(found, catalogue.all_records().unwrap(), "{what}");
    };
    // Since it was opened, but for its making.
    catalogue.take_changes().kept();
    follow("all", catalogue.all_records().unwrap());
    for (what, verb) in verbs {
        verb();
        let changes = catalogue.take_changes();
        follow(what, changes.records().unwrap());
        changes.kept();
        assert!(catalogue.take_changes().is_empty(), "{what}");
    }
}

/// Whatever verbs did, the changes they are told to have made lead from the rows before to the rows after.
#[test]
fn changes_lead_from_what_was_to_what_is() {
    let catalogue = busy();
    let verbs: [(&str, &dyn Fn()); 9] = [
        ("untag", &|| catalogue.untag(&reference("two:2")).unwrap()),
        ("moved name", &|| {
            let layers = catalogue.image_layers(catalogue.images().unwrap()[0].id);
            let layers: Vec<_> = layers.unwrap().iter().map(|l| l.volume.id).collect();
            catalogue
                .add_image(&image(1, &layers, &["two:1", "one:2"]))
                .unwrap();
        }),
        ("container", &|| {
            let image = catalogue.images().unwrap()[1].id;
            catalogue.begin_container(&container("new", image)).unwrap();
        }),
        ("removal", &|| {
            let web = catalogue.container(&container_name("web")).unwrap();
            catalogue.queue_removal(web.volume.id).unwrap();
        }),
        ("gone", &|| {
            let removal = catalogue.removals().unwrap().remove(0);
            catalogue.make_removal_final(removal.volume.id).unwrap();
            catalogue.forget_volume(removal.volume.id).unwrap();
        }),
        ("others gone", &|| {
            for name in ["db", "new"] {
                let found = catalogue.container(&container_name(name)).unwrap();
                catalogue.begin_deleting(found.volume.id).unwrap();
                catalogue.forget_volume(found.volume.id).unwrap();
            }
        }),
        ("image gone", &|| {
            let image = catalogue.images().unwrap()[1].id;
            catalogue.remove_image(image).unwrap();
        }),
        ("ballast", &|| {
            catalogue.begin_ballast(Bytes::from_mib(1)).unwrap();
        }),
        ("settings", &|| catalogue.set_overcommit(false).unwrap()),
    ];
    follows(&catalogue, &verbs);
}

#[test]
fn changes_that_were_not_kept_come_again() {
    let catalogue = Temp::new();
    catalogue.take_changes().kept();
    catalogue.set_overcommit(false).unwrap();
    drop(catalogue.take_changes());
    let changes = catalogue.take_changes();
    let records = changes.records().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].table, records[0].key), (0, 1));
    changes.kept();
    assert!(catalogue.take_changes().is_empty());
}

/// Of two containers that were removed at once the copy had the second one's row as it was before: who wrote the first
/// was told of it before it was committed, and read it so.
#[test]
fn what_is_not_committed_is_not_told() {
    let catalogue = Temp::new();
    catalogue.take_changes().kept();
    let set = |db: &rusqlite::Connection| row::run(db, "UPDATE pool SET overcommit = 0", ());
    catalogue
        .write(Durability::Durable, |db| {
            set(db)?;
            assert!(catalogue.take_changes().is_empty());
            Ok(())
        })
        .unwrap();
    let changes = catalogue.take_changes();
    assert_eq!(changes.records().unwrap().len(), 1);
    changes.kept();
    // Nor is what was undone.
    let refused = catalogue.write(Durability::Durable, |db| {
        set(db)?;
        Err::<(), _>(Fault::Refused(StoreError::ThinIdsSpent))
    });
    assert!(matches!(refused, Err(StoreError::ThinIdsSpent)));
    assert!(catalogue.take_changes().is_empty());
}

/// A verb that met last week's catalogue in an open pool wrote that catalogue's rows over those of what was made since.
#[test]
fn a_catalogue_that_the_pool_went_on_without_tells_nothing_more() {
    for disown in [true, false] {
        let catalogue = busy();
        catalogue.take_changes().kept();
        let base = catalogue.all_volumes().unwrap()[0].id;
        assert!(!catalogue.is_stale());
        if disown {
            let layer = begin_layer(&catalogue, base);
            catalogue.disown(layer).unwrap();
            catalogue.forget_volume(layer).unwrap();
        } else {
            catalogue.begin_ballast(Bytes::from_mib(1)).unwrap();
            catalogue.disown_ballast().unwrap();
        }
        catalogue.set_overcommit(false).unwrap();
        assert!(catalogue.is_stale());
        assert!(catalogue.take_changes().is_empty());
    }
}

#[test]
fn of_all_rows_and_all_devices_it_is_made_as_it_was() {
    let catalogue = busy();
    let (rebuilding, settled) = again(&catalogue, catalogue.all_records().unwrap(), &ids(0..5));
    let nothing = Settled {
        dropped: Vec::new(),
        unknown: Vec::new(),
    };
    assert_eq!(settled, nothing);
    let again = opened(rebuilding, &catalogue);
    let mut expected = catalogue.pool().unwrap();
    // A pool that was found is ready, at the transaction id that it has.
    expected.state = crate::store::PoolState::Ready;
    expected.generation = TransactionId::new(5);
    assert_eq!(again.pool().unwrap(), expected);
    assert_eq!(again.containers().unwrap(), catalogue.containers().unwrap());
    assert_eq!(again.images().unwrap(), catalogue.images().unwrap());
    assert_eq!(again.layers().unwrap(), catalogue.layers().unwrap());
    assert_eq!(
        again.all_volumes().unwrap(),
        catalogue.all_volumes().unwrap()
    );
    for image in catalogue.images().unwrap() {
        let config = again.image_config(image.id).unwrap();
        assert_eq!(config, catalogue.image_config(image.id).unwrap());
        let layers = again.image_layers(image.id).unwrap();
        assert_eq!(layers, catalogue.image_layers(image.id).unwrap());
    }
}

#[test]
fn what_the_pool_has_not_is_dropped_and_what_the_copy_has_not_is_kept() {
    let catalogue = busy();
    let records = catalogue.all_records().unwrap();
    // Container `web` (3) is gone; 7 and 8 were made after the copy.
    let (mut rebuilding, settled) = again(&catalogue, records, &ids([0, 1, 2, 4, 7, 8]));
    assert_eq!(settled.dropped, [Dropped::Container(container_name("web"))]);
    let unknown = |n| UnknownThin {
        id: id(n),
        size: None,
    };
    assert_eq!(settled.unknown, [unknown(7), unknown(8)]);
    let found = |n, fs_uuid: Option<&str>| Anonymous {
        id: id(n),
        size: Bytes::from_mib(64),
        fs: FsType::Xfs,
        fs_uuid: fs_uuid.map(str::to_owned),
    };
    let names = rebuilding
        .keep(IMAGE, &[found(7, Some("u")), found(8, None)])
        .unwrap();
    assert_eq!(names, [container_name("lost-7"), container_name("lost-8")]);
    rebuilding.set_thin_ids(id(9), ThinId::MIRROR).unwrap();
    let again = opened(rebuilding, &catalogue);
    assert_eq!(again.pool().unwrap().next_thin_id, Some(id(9)));
    let lost = again.container(&container_name("lost-7")).unwrap();
    assert_eq!(lost.image_name, "lost-found:latest");
    assert_eq!(lost.volume.state, VolumeState::Ready);
    assert_eq!(lost.volume.parent, None);
    assert_eq!(lost.volume.size, Bytes::from_mib(64));
    assert_eq!(lost.volume.fs, FsType::Xfs);
    assert_eq!(lost.volume.fs_uuid.as_deref(), Some("u"));
    assert!(lost.volume.active && lost.volume.made);
    // None of them is ever removed by itself, or started from.
    assert_eq!(again.unsettled().unwrap(), []);
    let image = again.find_image("lost-found").unwrap();
    assert_eq!(again.image_layers(image.id).unwrap(), []);
    assert!(matches!(
        again.begin_container(&container("more", image.id)),
        Err(StoreError::ImageEmpty { .. })
    ));
    again.container(&container_name("db")).unwrap();
}

/// A layer that was being filled, a container that was being made, a layer whose image did not come to the copy:
/// recovery would remove them, which only what is known for sure may have happen to it.
#[test]
fn what_recovery_would_remove_is_kept_under_a_made_up_name() {
    let catalogue = busy();
    let base = catalogue.all_volumes().unwrap()[0].id;
    stack(&catalogue, base, &[7]);
    let image = catalogue.images().unwrap()[1].id;
    let mut large = container("large", image);
    large.size = Some(Bytes::from_gib(11));
    catalogue.begin_container(&large).unwrap();
    let records = catalogue.all_records().unwrap();
    let (_, settled) = again(&catalogue, records, &ids(0..7));
    assert_eq!(settled.dropped, []);
    let unknown = |n, gib| UnknownThin {
        id: id(n),
        size: Some(Bytes::from_gib(gib)),
    };
    assert_eq!(settled.unknown, [unknown(5, 10), unknown(6, 11)]);
}

#[test]
fn a_removal_that_was_promised_stays_one() {
    let catalogue = busy();
    let web = catalogue.container(&container_name("web")).unwrap();
    catalogue.begin_deleting(web.volume.id).unwrap();
    let records = catalogue.all_records().unwrap();
    let (rebuilding, settled) = again(&catalogue, records, &ids(0..5));
    assert_eq!(settled.unknown, []);
    let again = opened(rebuilding, &catalogue);
    let removals = again.removals().unwrap();
    assert_eq!(removals.len(), 1);
    assert_eq!(removals[0].name, Some(container_name("web")));
    assert_eq!(removals[0].volume.state, VolumeState::Deleting);
}

#[test]
fn an_image_that_lost_a_layer_goes_unless_a_container_of_it_is_there() {
    // Layer 2 is gone, of image `two`, which both containers are of.
    let catalogue = busy();
    let records = catalogue.all_records().unwrap();
    let (rebuilding, settled) = again(&catalogue, records.clone(), &ids([0, 1, 3]));
    assert_eq!(settled.dropped, [Dropped::Container(container_name("db"))]);
    assert_eq!(settled.unknown, []);
    let with = opened(rebuilding, &catalogue);
    assert_eq!(with.images().unwrap().len(), 2);
    with.container(&container_name("web")).unwrap();

    let (rebuilding, settled) = rebuild(records, &ids([0, 1]));
    let container = |name| Dropped::Container(container_name(name));
    assert_eq!(
        settled.dropped,
        [
            container("db"),
            container("web"),
            Dropped::Image("two:1 two:2".to_owned())
        ]
    );
    assert_eq!(rebuilding.thin_ids().unwrap(), ids([0, 1]));
}

#[test]
fn without_a_copy_every_device_is_unknown_and_the_pool_as_it_was_found() {
    let place = Temp::new();
    let (mut rebuilding, settled) = again(&place, Vec::new(), &ids([0, 3]));
    assert!(rebuilding.volumes().unwrap().is_empty());
    let unknown: Vec<_> = settled.unknown.iter().map(|thin| thin.id).collect();
    assert_eq!(unknown, [id(0), id(3)]);
    rebuilding.set_thin_ids(id(4), ThinId::MIRROR).unwrap();
    let again = opened(rebuilding, &place);
    let record = again.pool().unwrap();
    assert_eq!(record.uuid, pool().uuid);
    assert_eq!(record.data_size, pool().data_size);
    assert_eq!(record.state, crate::store::PoolState::Ready);
    assert_eq!(record.generation, TransactionId::new(5));
    assert_eq!(record.pending_generation, None);
}

#[test]
fn the_pool_lies_where_it_was_found() {
    let catalogue = busy();
    let new = NewPool {
        data: BackingRecord::Device {
            path: "/dev/other".into(),
        },
        data_size: Bytes::from_gib(101),
        ..pool()
    };
    let path = catalogue.directory.path().join("again.db");
    let records = catalogue.all_records().unwrap();
    let mut rebuilding = Rebuilding::begin(&path, Catalogue::format(), records).unwrap();
    assert_eq!(
        rebuilding.pool().unwrap().unwrap(),
        catalogue.pool().unwrap()
    );
    rebuilding
        .settle(&new, TransactionId::new(1), &ids(0..5))
        .unwrap();
    let record = rebuilding.pool().unwrap().unwrap();
    assert_eq!(record.data, new.data);
    assert_eq!(record.data_size, new.data_size);
    assert_eq!(record.metadata, pool().metadata);
    // A setting of its own.
    assert_eq!(record.mkfs_args, pool().mkfs_args);
}

#[test]
fn rows_that_no_version_writes_are_dropped_and_counted() {
    let catalogue = busy();
    let mut records = catalogue.all_records().unwrap();
    let text = |text: &str| Value::Text(text.to_owned());
    records.push(Record {
        table: 6,
        key: 4,
        rows: vec![vec![
            Value::Number(4),
            Value::Number(7),
            Value::Number(1),
            text("x"),
        ]],
    });
    records.push(Record {
        table: 1,
        key: 99,
        rows: vec![vec![Value::Number(99)]],
    });
    records.push(Record {
        table: 200,
        key: 1,
        rows: vec![Vec::new()],
    });
    let (_, settled) = rebuild(records, &ids(0..5));
    assert_eq!(settled.dropped, [Dropped::Rows(3)]);
    assert_eq!(settled.unknown, []);
}

#[test]
fn a_copy_of_a_later_format_is_refused_and_one_of_an_earlier_one_migrated() {
    let path = Path::new("/r/tank/catalogue.db");
    let later = Catalogue::format() + 1;
    assert!(matches!(
        Rebuilding::begin(path, later, Vec::new()),
        Err(StoreError::NewerFormat { .. })
    ));
    // Format 4 had no `thin_ids_end`.
    let catalogue = busy();
    let mut records = catalogue.all_records().unwrap();
    for record in records.iter_mut().filter(|record| record.table == 0) {
        record.rows[0].pop();
    }
    let mut rebuilding = Rebuilding::begin(path, 4, records).unwrap();
    let settled = rebuilding
        .settle(&pool(), TransactionId::new(5), &ids(0..5))
        .unwrap();
    assert_eq!(settled.dropped, []);
    assert_eq!(
        rebuilding.pool().unwrap().unwrap().thin_ids_end,
        ThinId::MIRROR
    );
}
