//! The file itself: made whole, opened as made, deleted, shared settings, limits.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, StatementStatus};
use tempfile::TempDir;

use crate::ids::{FsType, ThinId, TransactionId};
use crate::store::connection::Durability;
use crate::store::row;
use crate::store::schema::{self, Format};
use crate::store::tests::{Temp, assert_refused, checkpoint, image, pool, ready_base, variant};
use crate::store::{
    BackingRecord, Catalogue, GenerationCheck, NewVolume, PoolRecord, PoolState, StoreError,
    Timestamp, WhenFull,
};
use crate::units::{BlockSize, Bytes, DataBlocks, Percent};

fn names_in(directory: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_catalogue_is_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Catalogue>();
    is_shared::<StoreError>();
}

#[test]
fn the_pool_is_recorded_as_given_and_survives_a_reopening() {
    let before = Timestamp::now();
    let catalogue = Temp::new();
    let new = pool();
    let record = catalogue.pool().unwrap();
    assert!(record.created_at >= before && record.created_at <= Timestamp::now());
    let expected = PoolRecord {
        name: new.name,
        uuid: new.uuid,
        created_at: record.created_at,
        block_size: BlockSize::DEFAULT,
        low_water: DataBlocks::new(1024),
        data: new.data,
        data_size: Bytes::from_gib(100),
        metadata: new.metadata,
        metadata_size: Bytes::from_mib(128),
        zeroing: true,
        base_size: Bytes::from_gib(10),
        fs: FsType::Ext4,
        mkfs_args: new.mkfs_args,
        guard: new.guard,
        when_full: new.when_full,
        state: PoolState::Creating,
        generation: TransactionId::new(0),
        pending_generation: None,
        overcommit: true,
        foreign_ids: false,
        next_thin_id: Some(ThinId::new(0).unwrap()),
        thin_ids_end: ThinId::MIRROR,
    };
    assert_eq!(record, expected);
    assert_eq!(catalogue.reopened().pool().unwrap(), expected);
}

#[test]
fn sizes_grow_and_the_guard_is_set() {
    let catalogue = Temp::new();
    let was = catalogue.pool().unwrap();
    let gib = Bytes::from_gib;
    let sizes = |data, metadata| catalogue.set_pool_sizes(data, metadata, DataBlocks::new(9));
    let grown = sizes(gib(150), gib(1)).unwrap();
    assert_eq!(
        (grown.data_size, grown.metadata_size, grown.low_water),
        (gib(150), gib(1), DataBlocks::new(9))
    );
    for (data, metadata) in [(gib(149), gib(1)), (gib(150), Bytes::from_mib(1023))] {
        assert!(matches!(
            sizes(data, metadata),
            Err(StoreError::TooSmall { .. })
        ));
    }
    catalogue.set_base_size(gib(20)).unwrap();
    assert!(matches!(
        catalogue.set_base_size(gib(19)),
        Err(StoreError::TooSmall { least, .. }) if least == gib(20)
    ));
    let share = |n| Some(Percent::new(n).unwrap());
    catalogue.set_policy(share(50), None, None).unwrap();
    let queue = Some(WhenFull::Queue);
    catalogue.set_policy(None, share(7), queue).unwrap();
    let now = catalogue.reopened().pool().unwrap();
    assert_eq!(now.base_size, gib(20));
    assert_eq!(Some(now.guard.min_free_data), share(50));
    assert_eq!(Some(now.guard.min_free_metadata), share(7));
    assert_eq!(
        (was.when_full, now.when_full),
        (WhenFull::Error, WhenFull::Queue)
    );
    assert_eq!((now.generation, now.state), (was.generation, was.state));
}

#[test]
fn only_the_owner_may_read_any_of_its_files() {
    let catalogue = Temp::new();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    for name in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let found = fs::metadata(catalogue.directory.path().join(name)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o600, "{name}");
    }
}

#[test]
fn statements_are_kept_and_not_prepared_again() {
    let catalogue = Temp::new();
    let db = catalogue.lock();
    // Such a join is planned anew for each value bound, unless the catalogue forbids it.
    let select = "SELECT id FROM containers JOIN volumes ON id = volume WHERE name = ?1";
    let delete = "DELETE FROM refs WHERE name = ?1";
    for name in ["a", "b", "a"] {
        row::first(&db, select, [name], |_| Ok(())).unwrap();
        row::run(&db, delete, [name]).unwrap();
    }
    for sql in [select, delete] {
        let kept = db.prepare_cached(sql).unwrap();
        assert_eq!(kept.get_status(StatementStatus::Run), 3, "{sql}");
        assert_eq!(kept.get_status(StatementStatus::RePrepare), 0, "{sql}");
    }
}

#[test]
fn the_settings_that_make_a_commit_safe_are_on() {
    let catalogue = Temp::new();
    let text = |name: &str| -> String {
        catalogue
            .lock()
            .pragma_query_value(None, name, |row| row.get(0))
            .unwrap()
    };
    let number = |name: &str| -> i64 {
        catalogue
            .lock()
            .pragma_query_value(None, name, |row| row.get(0))
            .unwrap()
    };
    assert_eq!(text("journal_mode"), "wal");
    assert_eq!(number("foreign_keys"), 1);
    assert_eq!(number("trusted_schema"), 0);
    assert_eq!(number("busy_timeout"), 10_000);
    assert_eq!(number("application_id"), 0x4454_4331);
    assert_eq!(number("user_version"), 5);
    for (durability, synchronous) in [
        (Durability::Durable, 2_i64),
        (Durability::Lazy, 1),
        (Durability::Durable, 2),
    ] {
        let found: i64 = catalogue
            .write(durability, |db| {
                Ok(db.pragma_query_value(None, "synchronous", |row| row.get(0))?)
            })
            .unwrap();
        assert_eq!(found, synchronous, "{durability:?}");
    }
}

#[test]
fn creating_refuses_what_is_there_and_opening_what_is_not() {
    let catalogue = Temp::new();
    let path = catalogue.path().to_owned();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    assert_refused!(
        Catalogue::create(&path, &pool()),
        StoreError::CatalogueExists { path: p } if p == path,
        format!(
            "there is a catalogue at {} already: choose another pool name or destroy that pool",
            path.display()
        )
    );
    assert_eq!(catalogue.pool().unwrap().state, PoolState::Ready);

    let dangling = catalogue.directory.path().join("dangling");
    symlink("/nowhere/catalogue.db", &dangling).unwrap();
    assert!(matches!(
        Catalogue::create(&dangling, &pool()),
        Err(StoreError::CatalogueExists { .. })
    ));

    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("catalogue.db");
    assert_refused!(
        Catalogue::open(&missing),
        StoreError::NotFound { path } if path == missing,
        format!("there is no catalogue at {}: is the pool's name right?", missing.display())
    );
    assert_eq!(names_in(&directory), [""; 0]);
    assert!(matches!(
        Catalogue::create(directory.path().join("no/catalogue.db"), &pool()),
        Err(StoreError::Io { what: "create", .. })
    ));
}

#[test]
fn what_the_format_cannot_hold_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalogue.db");
    let mut new = pool();
    new.data_size = Bytes::new(1 << 63);
    assert_refused!(
        Catalogue::create(&path, &new),
        StoreError::TooLarge {
            what: "a size",
            value: 0x8000_0000_0000_0000
        },
        "a size of 9223372036854775808 is more than the catalogue can hold (2^63 - 1)"
    );
    let mut new = pool();
    let device = PathBuf::from(OsStr::from_bytes(b"/dev/\xff"));
    new.data = BackingRecord::Device {
        path: device.clone(),
    };
    assert_refused!(
        Catalogue::create(&path, &new),
        StoreError::PathNotUtf8 { path } if path == device,
        "the device path \"/dev/\\xFF\" is not UTF-8: use another link to the device"
    );
    assert_eq!(names_in(&directory), [""; 0]);
}

#[test]
fn a_draft_or_a_wal_of_an_earlier_catalogue_is_not_taken_up() {
    let catalogue = Temp::new();
    ready_base(&catalogue);
    let path = catalogue.path().to_owned();
    let Temp {
        catalogue,
        directory,
    } = catalogue;
    drop(catalogue);
    // A crash in the middle of a deletion, and one in the middle of a creation.
    assert!(
        fs::metadata(directory.path().join("catalogue.db-wal"))
            .unwrap()
            .len()
            > 0
    );
    fs::remove_file(&path).unwrap();
    fs::write(directory.path().join("catalogue.db.new"), "half a file").unwrap();

    let catalogue = Catalogue::create(&path, &pool()).unwrap();
    assert_eq!(catalogue.all_volumes().unwrap(), []);
    catalogue.check().unwrap();
    drop(catalogue);
    Catalogue::delete(&path).unwrap();
    assert_eq!(names_in(&directory), [""; 0]);
    Catalogue::delete(&path).unwrap();
}

#[test]
fn a_closed_catalogue_keeps_its_commits_in_the_wal() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue);
    let catalogue = catalogue.reopened();
    assert_eq!(catalogue.all_volumes().unwrap(), [base]);
    catalogue.check().unwrap();
}

#[test]
fn an_error_undoes_all_of_its_transaction() {
    let catalogue = Temp::new();
    let error = catalogue
        .write(Durability::Durable, |db| {
            db.execute("UPDATE pool SET next_thin_id = 99, state = 'ready'", ())?;
            Err::<(), _>(StoreError::PoolDestroying.into())
        })
        .unwrap_err();
    assert_eq!(variant(&error), "PoolDestroying");
    let record = catalogue.pool().unwrap();
    assert_eq!(record.state, PoolState::Creating);
    assert_eq!(record.next_thin_id, Some(ThinId::new(0).unwrap()));
}

#[test]
fn a_panic_in_a_transaction_undoes_it_and_leaves_the_catalogue_usable() {
    let catalogue = Temp::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        catalogue.write(Durability::Durable, |db| -> Result<(), _> {
            db.execute("UPDATE pool SET state = 'ready'", ())?;
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(catalogue.pool().unwrap().state, PoolState::Creating);
    catalogue.set_pool_state(PoolState::Ready).unwrap();
}

#[test]
fn pools_go_through_their_states_once() {
    let catalogue = Temp::new();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
    assert_refused!(
        catalogue.set_pool_state(PoolState::Creating),
        StoreError::PoolTransition {
            from: PoolState::Ready,
            to: PoolState::Creating
        },
        "the pool is ready and cannot become creating"
    );
    catalogue.set_pool_state(PoolState::Destroying).unwrap();
    assert_eq!(catalogue.pool().unwrap().state, PoolState::Destroying);
    assert_refused!(
        catalogue.begin_volume(NewVolume::Base {
            fs: FsType::Xfs,
            size: Bytes::from_gib(1)
        }),
        StoreError::PoolDestroying,
        "the pool is being destroyed: it takes no new volume"
    );
}

#[test]
fn a_generation_is_begun_sent_and_confirmed() {
    let id = TransactionId::new;
    let catalogue = Temp::new();
    assert_eq!(catalogue.begin_generation(id(0)).unwrap(), id(1));
    assert_eq!(catalogue.begin_generation(id(0)).unwrap(), id(1));
    let catalogue = catalogue.reopened();
    let record = catalogue.pool().unwrap();
    assert_eq!(
        (record.generation, record.pending_generation),
        (id(0), Some(id(1)))
    );
    assert_eq!(record.check_generation(id(0)), GenerationCheck::Match);
    assert_eq!(record.check_generation(id(1)), GenerationCheck::PendingDone);
    assert_refused!(
        catalogue.begin_generation(id(1)),
        StoreError::Generation { found, generation, pending: Some(_) }
            if found == id(1) && generation == id(0),
        "generation 1 does not belong to this catalogue, which is at 0 with 1 pending: the pool or \
         the catalogue was swapped or restored"
    );
    assert_refused!(
        catalogue.confirm_generation(id(0)),
        StoreError::Generation {
            pending: Some(_),
            ..
        },
        "generation 0 does not belong to this catalogue, which is at 0 with 1 pending: the pool or \
         the catalogue was swapped or restored"
    );
    catalogue.confirm_generation(id(1)).unwrap();
    catalogue.confirm_generation(id(1)).unwrap();
    let record = catalogue.pool().unwrap();
    assert_eq!(
        (record.generation, record.pending_generation),
        (id(1), None)
    );
    assert_refused!(
        catalogue.confirm_generation(id(2)),
        StoreError::Generation { pending: None, .. },
        "generation 2 does not belong to this catalogue, which is at 1: the pool or the catalogue \
         was swapped or restored"
    );
    assert_eq!(catalogue.begin_generation(id(1)).unwrap(), id(2));
}

#[test]
fn a_lock_held_too_long_is_busy_and_reading_goes_on() {
    let catalogue = Temp::new();
    catalogue
        .lock()
        .busy_timeout(Duration::from_millis(20))
        .unwrap();
    let other = Connection::open(catalogue.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_refused!(
        catalogue.set_pool_state(PoolState::Ready),
        StoreError::Busy { path } if path == catalogue.path(),
        format!(
            "the catalogue {} is locked by another process: try again",
            catalogue.path().display()
        )
    );
    assert_eq!(catalogue.pool().unwrap().state, PoolState::Creating);
    other.execute_batch("ROLLBACK").unwrap();
    catalogue.set_pool_state(PoolState::Ready).unwrap();
}

#[test]
fn a_full_disk_is_no_space_and_changes_nothing() {
    let catalogue = Temp::new();
    let pages: i64 = catalogue
        .lock()
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    catalogue
        .lock()
        .pragma_update(None, "max_page_count", pages)
        .unwrap();
    let mut new = image(1, &[], &["debian:12"]);
    new.config = vec![b' '; 100_000];
    assert_refused!(
        catalogue.add_image(&new),
        StoreError::NoSpace { path } if path == catalogue.path(),
        format!(
            "no space left for the catalogue {}: free some on its file system",
            catalogue.path().display()
        )
    );
    assert_eq!(catalogue.images().unwrap(), []);
    catalogue
        .lock()
        .pragma_update(None, "max_page_count", pages + 100)
        .unwrap();
    catalogue.add_image(&new).unwrap();
}

#[test]
fn an_older_format_is_migrated_once() {
    let catalogue = Temp::new();
    let record = catalogue.pool().unwrap();
    let mut steps = schema::STEPS.to_vec();
    steps.push("ALTER TABLE pool ADD COLUMN more TEXT");
    assert_eq!(
        schema::format(&catalogue.lock(), schema::STEPS).unwrap(),
        Format::Current
    );
    for _ in 0..2 {
        catalogue
            .write(Durability::Durable, |db| schema::migrate(db, &steps))
            .unwrap();
        assert_eq!(
            schema::format(&catalogue.lock(), &steps).unwrap(),
            Format::Current
        );
    }
    assert_eq!(catalogue.pool().unwrap(), record);
    checkpoint(&catalogue);
    let path = catalogue.path().to_owned();
    assert_refused!(
        Catalogue::open(&path),
        StoreError::NewerFormat {
            found: 6,
            supported: 5,
            ..
        },
        format!(
            "the catalogue {} has format 6, this version knows formats up to 5: use a newer version",
            path.display()
        )
    );
    catalogue.sql("PRAGMA user_version = 3");
    assert_eq!(
        schema::format(&catalogue.lock(), &steps).unwrap(),
        Format::Older
    );
}
