//! The catalogue as rows, for its copy in the pool: all of them, or those that changed.
//!
//! What changed is told by the engine (`sqlite3_update_hook`), by table and row, and passed on when its transaction has
//! ended: until then whoever reads the row reads what it was. Of a table without row
//! ids the engine tells nothing: a trigger has an image's row told when its names change.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::types::{Value as Cell, ValueRef};

use crate::label::{Record, Value};
use crate::store::catalogue::Catalogue;
use crate::store::error::{CorruptionKind, Outcome, StoreError};
use crate::store::schema;

/// A table whose rows are kept.
pub(super) struct Kept {
    pub(super) name: &'static str,
    /// The column by which its rows are kept together.
    pub(super) key: &'static str,
    /// The tables whose rows have this column for their row id: a change of one is a change of these.
    pub(super) owners: &'static [&'static str],
}

const fn kept(name: &'static str, key: &'static str, owners: &'static [&'static str]) -> Kept {
    Kept { name, key, owners }
}

/// Every table, by its number in the copy: new ones are added at the end. Those that others refer to come
/// before them.
pub(super) const TABLES: &[Kept] = &[
    kept("pool", "one", &["pool"]),
    kept("volumes", "id", &["volumes"]),
    kept("layers", "volume", &["layers"]),
    kept("images", "id", &["images"]),
    kept("image_layers", "image", &["images"]),
    kept("refs", "image", &["images"]),
    // A name that goes over to another volume is an update of this key, of which the engine tells the new one
    // only; both volumes change with it.
    kept("containers", "volume", &["containers", "volumes"]),
    kept("ballast", "one", &["ballast"]),
    kept("removals", "volume", &["removals"]),
    kept("data_volumes", "volume", &["data_volumes", "volumes"]),
    kept("snapshots", "volume", &["snapshots"]),
];

/// Rows that changed, each by its table's name and its row id.
type Changed = BTreeSet<(String, i64)>;

#[derive(Debug, Default)]
struct Told {
    /// By the transaction that has not ended: whoever reads these rows meanwhile reads what was before.
    open: Changed,
    changed: Changed,
    is_stale: bool,
}

/// What was written by way of this catalogue since it was last told.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<Mutex<Told>>);

impl Changes {
    /// Has the engine tell of what it writes on a connection.
    pub(super) fn watch(&self, db: &mut Connection) -> Outcome<()> {
        let changes = self.clone();
        db.update_hook(Some(move |_, database: &str, table: &str, row| {
            if database == "main" {
                changes.told().open.insert((table.to_owned(), row));
            }
        }))?;
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, changed: Changed) {
        let mut told = self.told();
        if !told.is_stale {
            told.changed.extend(changed);
        }
    }

    /// The transaction has ended; where that failed nobody can say what of it is there.
    pub(super) fn ended(&self) {
        let open = std::mem::take(&mut self.told().open);
        self.add(open);
    }

    /// It was undone.
    pub(super) fn undone(&self) {
        self.told().open.clear();
    }

    fn take(&self) -> Changed {
        std::mem::take(&mut self.told().changed)
    }

    /// The pool went on without this catalogue: what it says is not to be told to the copy any more.
    pub(super) fn stop(&self) {
        *self.told() = Told {
            is_stale: true,
            ..Told::default()
        };
    }
}

/// Rows that changed, which come back to the catalogue's changes unless they were [`kept`](Self::kept).
#[derive(Debug)]
pub struct ChangedRows<'a> {
    catalogue: &'a Catalogue,
    changed: Changed,
}

impl ChangedRows<'_> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// As they are now; one that is gone is a record without rows.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        self.catalogue.read(|db| {
            let mut records = Vec::new();
            for (number, table) in (0_u8..).zip(TABLES) {
                let keys: BTreeSet<i64> = self
                    .changed
                    .iter()
                    .filter(|(name, _)| table.owners.contains(&name.as_str()))
                    .map(|(_, key)| *key)
                    .collect();
                for key in &keys {
                    let mut rows = Vec::new();
                    read(db, table, Some(*key), &mut |_, row| rows.push(row))?;
                    records.push(Record {
                        table: number,
                        key: *key,
                        rows,
                    });
                }
            }
            Ok(records)
        })
    }

    /// They are in the copy.
    pub fn kept(mut self) {
        self.changed.clear();
    }
}

impl Drop for ChangedRows<'_> {
    fn drop(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        self.catalogue.changes().add(changed);
    }
}

impl Catalogue {
    /// The number of the format that rows are of.
    #[must_use]
    pub fn format() -> u32 {
        u32::try_from(schema::newest(schema::STEPS)).unwrap_or(u32::MAX)
    }

    /// Whether the pool was found to have a thin id that this one was about to give out: it is an older one.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.changes().told().is_stale
    }

    /// What was written by way of this one since this was last asked; nothing once it [is
    /// stale](Self::is_stale).
    #[must_use]
    pub fn take_changes(&self) -> ChangedRows<'_> {
        ChangedRows {
            catalogue: self,
            changed: self.changes().take(),
        }
    }

    /// Every row there is.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn all_records(&self) -> Result<Vec<Record>, StoreError> {
        self.read(|db| {
            let mut records: Vec<Record> = Vec::new();
            for (number, table) in (0_u8..).zip(TABLES) {
                read(db, table, None, &mut |key, row| match records.last_mut() {
                    Some(last) if last.table == number && last.key == key => last.rows.push(row),
                    _ => records.push(Record {
                        table: number,
                        key,
                        rows: vec![row],
                    }),
                })?;
            }
            Ok(records)
        })
    }
}

/// The rows of a table, by key, or those of one key; each with its key.
fn read(
    db: &Connection,
    table: &Kept,
    only: Option<i64>,
    each: &mut dyn FnMut(i64, Vec<Value>),
) -> Outcome<()> {
    let Kept { name, key, .. } = table;
    let only_these = only.map_or_else(String::new, |_| format!("WHERE {key} = ?1"));
    let sql = format!("SELECT {key}, * FROM {name} {only_these} ORDER BY {key}");
    let mut statement = db.prepare_cached(&sql)?;
    let nr_columns = statement.column_count();
    let mut rows = statement.query(rusqlite::params_from_iter(only))?;
    while let Some(row) = rows.next()? {
        let mut values = Vec::new();
        for column in 1..nr_columns {
            values.push(match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) => Value::Number(n),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                // No column is of this type, and the tables are strict.
                ValueRef::Real(found) => {
                    return Err(CorruptionKind::Cell {
                        table: name,
                        column: key,
                        found: found.to_string(),
                    }
                    .into());
                }
            });
        }
        each(row.get(0)?, values);
    }
    Ok(())
}

/// A value as the engine takes it.
pub(super) fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Number(n) => Cell::Integer(n),
        Value::Text(text) => Cell::Text(text),
        Value::Bytes(bytes) => Cell::Blob(bytes),
    }
}
