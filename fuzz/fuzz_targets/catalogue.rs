//! Catalogues in which any cell has any value.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use dmthin::ids::ContainerName;
use dmthin::store::{Catalogue, NewContainer};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rusqlite::{Connection, types};
use tempfile::TempDir;

const GOLDEN: &[u8] = include_bytes!("../../fixtures/store/4/catalogue.db");

static DIR: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().unwrap());

/// Every table with its columns.
static COLUMNS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let path = DIR.path().join("columns.db");
    fs::write(&path, GOLDEN).unwrap();
    let db = Connection::open(&path).unwrap();
    let mut select = db
        .prepare(
            "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'",
        )
        .unwrap();
    let rows = select.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
});

#[derive(Debug, Arbitrary)]
enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Edit {
    column: u8,
    /// Of as many rows as there are, every one where it is odd.
    all: bool,
    value: Value,
}

fn apply(path: &Path, edits: Vec<Edit>) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA ignore_check_constraints = 1; PRAGMA foreign_keys = 0")
        .unwrap();
    for edit in edits {
        let (table, column) = &COLUMNS[usize::from(edit.column) % COLUMNS.len()];
        let value = match edit.value {
            Value::Null => types::Value::Null,
            Value::Integer(n) => types::Value::Integer(n),
            Value::Text(text) => types::Value::Text(text),
            Value::Blob(bytes) => types::Value::Blob(bytes),
        };
        let first = format!(" WHERE \"{column}\" = (SELECT min(\"{column}\") FROM \"{table}\")");
        let filter = if edit.all { "" } else { &first };
        // What the table's types do not take was not written by anybody.
        let _ = db.execute(
            &format!("UPDATE \"{table}\" SET \"{column}\" = ?1{filter}"),
            [value],
        );
    }
}

fn read(catalogue: &Catalogue) {
    let _ = catalogue.check();
    let _ = catalogue.pool();
    let _ = catalogue.counts();
    let _ = catalogue.committed();
    let _ = catalogue.ballast();
    let _ = catalogue.unsettled();
    let _ = catalogue.layers();
    for image in catalogue.images().unwrap_or_default() {
        let _ = catalogue.image_layers(image.id);
        let _ = catalogue.image_config(image.id);
        let _ = catalogue.plan_images_removal(Some(image.id), &[]);
        let _ = catalogue.begin_container(&NewContainer {
            name: ContainerName::new("fuzz").unwrap(),
            image: image.id,
            image_name: "fuzz".to_owned(),
            size: None,
        });
    }
    for removal in catalogue.removals().unwrap_or_default() {
        let _ = catalogue.cancel_removal(removal.volume.id, &ContainerName::new("back").unwrap());
    }
    let _ = catalogue.containers();
    for volume in catalogue.all_volumes().unwrap_or_default() {
        let _ = catalogue.queue_removal(volume.id);
        let _ = catalogue.make_removal_final(volume.id);
        let _ = catalogue.forget_volume(volume.id);
    }
}

fuzz_target!(|edits: Vec<Edit>| {
    let path = DIR.path().join("catalogue.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
    fs::write(&path, GOLDEN).unwrap();
    apply(&path, edits);
    if let Ok(catalogue) = Catalogue::open(&path) {
        read(&catalogue);
    }
});
