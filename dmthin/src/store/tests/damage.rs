//! Files that are no catalogue any more. Each is named as such and none makes the library panic.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::prop_assert;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::store::tests::golden::golden_copy;
use crate::store::tests::{
    BASE_SIZE, FsType, Temp, checkpoint, container, image, ready_base, stack, variant,
};
use crate::store::{Catalogue, NewVolume, PoolState, StoreError};

fn damaged(contents: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalogue.db");
    fs::write(&path, contents).unwrap();
    (directory, path)
}

/// What is wrong, as the error says.
fn corruption(result: Result<impl std::fmt::Debug, StoreError>, file: &Path) -> String {
    match result {
        Err(StoreError::Corrupt { path, corruption }) => {
            assert_eq!(path, file);
            corruption.to_string()
        }
        other => panic!("not corrupt: {other:?}"),
    }
}

#[test]
fn what_is_no_catalogue_is_not_opened() {
    for (contents, text) in [
        (Vec::new(), "it is no catalogue (application id 0x00000000)"),
        (vec![0x5a; 8192], "it is not a database"),
        (b"SQLite format 3\0".to_vec(), "it is not a database"),
    ] {
        let (_directory, path) = damaged(&contents);
        assert_eq!(corruption(Catalogue::open(&path), &path), text);
        assert_eq!(fs::read(&path).unwrap(), contents, "left as it was");
    }
    let (directory, _) = damaged("");
    assert_eq!(
        corruption(Catalogue::open(directory.path()), directory.path()),
        "it is not a file"
    );
    let other = directory.path().join("other.db");
    Connection::open(&other)
        .unwrap()
        .execute_batch("PRAGMA application_id = 7; PRAGMA user_version = 1; CREATE TABLE t (a)")
        .unwrap();
    assert_eq!(
        corruption(Catalogue::open(&other), &other),
        "it is no catalogue (application id 0x00000007)"
    );
}

#[test]
fn a_truncated_file_is_not_opened() {
    let (_directory, path) = golden_copy(2);
    let length = fs::metadata(&path).unwrap().len();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    assert_eq!(
        corruption(Catalogue::open(&path), &path),
        "a page of it makes no sense"
    );
}

#[test]
fn a_bad_page_is_found_by_the_check_and_by_reading_it() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    let ids = stack(&catalogue, base, &[1, 2, 3]);
    checkpoint(&catalogue);
    let page: u64 = catalogue
        .lock()
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'layers'",
            (),
            |row| row.get::<_, u32>(0),
        )
        .unwrap()
        .into();
    let Temp {
        catalogue,
        directory: _directory,
    } = catalogue;
    let path = catalogue.path().to_owned();
    drop(catalogue);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xa5; 4096], (page - 1) * 4096).unwrap();
    drop(file);

    let catalogue = Catalogue::open(&path).unwrap();
    let found = corruption(catalogue.check(), &path);
    assert!(
        found.starts_with("Tree ") || found == "a page of it makes no sense",
        "{found}"
    );
    assert_eq!(
        corruption(catalogue.layers(), &path),
        "a page of it makes no sense"
    );
    // What does not lie on that page is still to be had.
    assert_eq!(catalogue.volume(ids[0]).unwrap().id, ids[0]);
}

#[test]
fn values_that_no_version_writes_are_named() {
    for (sql, text) in [
        (
            "UPDATE volumes SET fs = 'btrfs'",
            "volumes.fs holds \"btrfs\"",
        ),
        (
            "UPDATE volumes SET created_at = -1",
            "volumes.created_at holds -1",
        ),
        ("UPDATE pool SET name = '../x'", "pool.name holds \"../x\""),
        (
            "UPDATE pool SET block_size = 1000",
            "pool.block_size holds 1000",
        ),
        (
            "UPDATE pool SET mkfs_args = '[1]'",
            "pool.mkfs_args holds \"[1]\"",
        ),
        (
            "UPDATE layers SET chain_id = 'sha256:0'",
            "layers.chain_id holds \"sha256:0\"",
        ),
        ("UPDATE refs SET name = ''", "refs.name holds \"\""),
        (
            "UPDATE containers SET name = 'a/b'",
            "containers.name holds \"a/b\"",
        ),
        ("DELETE FROM pool", "it does not say which pool it is of"),
        (
            "PRAGMA ignore_check_constraints = ON; UPDATE volumes SET active = 2 WHERE id = 1; \
             PRAGMA ignore_check_constraints = OFF",
            "CHECK constraint failed in volumes",
        ),
        (
            "PRAGMA foreign_keys = OFF; DELETE FROM images",
            "containers refers to rows that are not there, 1 times",
        ),
    ] {
        let catalogue = Temp::new();
        let base = ready_base(&catalogue).id;
        let ids = stack(&catalogue, base, &[1]);
        let added = catalogue.add_image(&image(1, &ids, &["a:b"])).unwrap().id();
        catalogue.begin_container(&container("c", added)).unwrap();
        catalogue.check().unwrap();
        catalogue.sql(sql);
        assert_eq!(
            corruption(catalogue.check(), catalogue.path()),
            text,
            "{sql}"
        );
    }
}

#[test]
fn a_read_names_the_bad_value_too() {
    let catalogue = Temp::new();
    let base = ready_base(&catalogue).id;
    catalogue.sql("UPDATE volumes SET fs = 'btrfs'");
    assert_eq!(
        corruption(catalogue.volume(base), catalogue.path()),
        "volumes.fs holds \"btrfs\""
    );
    catalogue.sql("UPDATE pool SET uuid = 'x'");
    let error = catalogue.pool().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the catalogue {} is damaged: pool.uuid holds \"x\"; restore it from a copy",
            catalogue.path().display()
        )
    );
}

/// Reads everything there is and writes a little; errors only, never a panic.
fn use_all(path: &Path) -> Vec<StoreError> {
    let catalogue = match Catalogue::open(path) {
        Ok(catalogue) => catalogue,
        Err(error) => return vec![error],
    };
    [
        catalogue.check().err(),
        catalogue.pool().err(),
        catalogue.counts().err(),
        catalogue.all_volumes().err(),
        catalogue.unsettled().err(),
        catalogue.layers().err(),
        catalogue.images().err(),
        catalogue.containers().err(),
        catalogue.find_image("debian:12").err(),
        catalogue
            .set_pool_state(crate::store::PoolState::Destroying)
            .err(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_panic(
        at in any::<proptest::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 1..64),
        cut in proptest::option::weighted(0.1, any::<proptest::sample::Index>()),
    ) {
        let (_directory, path) = golden_copy(2);
        let mut contents = fs::read(&path).unwrap();
        let start = at.index(contents.len());
        for (old, new) in contents[start..].iter_mut().zip(&bytes) {
            *old = *new;
        }
        if let Some(cut) = cut {
            contents.truncate(cut.index(contents.len()));
        }
        fs::write(&path, contents).unwrap();
        for error in use_all(&path) {
            let variant = variant(&error);
            prop_assert!(
                matches!(
                    variant.as_str(),
                    "Corrupt" | "NewerFormat" | "Database" | "ImageNotFound" | "PoolTransition"
                ),
                "{error:?}"
            );
        }
    }
}

/// The engine takes an empty file for a new database and deletes its log, in which everything may be.
#[test]
fn an_emptied_file_keeps_its_log() {
    let fixture = Temp::new();
    let path = fixture.path().to_owned();
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    fixture.set_pool_state(PoolState::Ready).unwrap();
    fixture
        .begin_volume(NewVolume::Base {
            fs: FsType::Ext4,
            size: BASE_SIZE,
        })
        .unwrap();
    let before = std::fs::metadata(&log).unwrap().len();
    assert!(before > 0);
    drop(fixture.catalogue);
    std::fs::File::create(&path).unwrap();
    assert!(matches!(
        Catalogue::open(&path),
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(std::fs::metadata(&log).unwrap().len(), before);
}

/// A pool that was just made must not look half-made where its log is lost.
#[test]
fn a_ready_pool_is_ready_without_its_log() {
    let fixture = Temp::new();
    fixture.set_pool_state(PoolState::Ready).unwrap();
    let path = fixture.path().to_owned();
    drop(fixture.catalogue);
    for suffix in ["-wal", "-shm"] {
        let mut beside = path.clone().into_os_string();
        beside.push(suffix);
        std::fs::remove_file(beside).unwrap();
    }
    assert_eq!(
        Catalogue::open(&path).unwrap().pool().unwrap().state,
        PoolState::Ready
    );
}

/// A thin id that the pool has already is somebody's: its row goes, and the next volume meets it again.
#[test]
fn a_disowned_volume_gives_its_id_back() {
    let fixture = Temp::new();
    fixture.set_pool_state(PoolState::Ready).unwrap();
    let base = || {
        fixture
            .begin_volume(NewVolume::Base {
                fs: FsType::Ext4,
                size: BASE_SIZE,
            })
            .unwrap()
    };
    let first = base();
    fixture.disown(first.id).unwrap();
    assert!(!fixture.volume(first.id).unwrap().made);
    fixture.forget_volume(first.id).unwrap();
    let again = base();
    assert_eq!(again.thin_id, first.thin_id);
    // One that was made keeps its id for ever.
    fixture.forget_volume(again.id).unwrap();
    assert_ne!(base().thin_id, first.thin_id);
}
