//! Between SQL values and our types. What comes out of a file is checked, never trusted.

use std::str::FromStr;

use rusqlite::types::{FromSql, Type, ValueRef};
use rusqlite::{Connection, Params, Row};

use crate::ids::{ThinId, TransactionId, VolumeId};
use crate::store::error::{CorruptionKind, Fault, Outcome, StoreError};
use crate::store::record::VolumeRecord;
use crate::store::timestamp::Timestamp;
use crate::units::Bytes;

impl From<CorruptionKind> for Fault {
    fn from(kind: CorruptionKind) -> Self {
        Self::Damage(kind)
    }
}

/// A row of a table, read by column name.
pub(super) struct Cells<'a> {
    row: &'a Row<'a>,
    table: &'static str,
}

impl<'a> Cells<'a> {
    pub(super) fn new(row: &'a Row<'a>, table: &'static str) -> Self {
        Self { row, table }
    }

    /// The error for a value that no version writes.
    pub(super) fn bad(&self, column: &'static str) -> Fault {
        let found = match self.row.get_ref(column) {
            Ok(ValueRef::Text(text)) => format!("{:?}", String::from_utf8_lossy(text)),
            Ok(ValueRef::Integer(n)) => n.to_string(),
            Ok(other) => match other.data_type() {
                Type::Null => "nothing",
                Type::Blob => "bytes",
                _ => "a value of the wrong type",
            }
            .to_owned(),
            Err(error) => return error.into(),
        };
        CorruptionKind::Cell {
            table: self.table,
            column,
            found,
        }
        .into()
    }

    /// A value as it is.
    pub(super) fn raw<T: FromSql>(&self, column: &'static str) -> Outcome<T> {
        self.row.get(column).map_err(|_| self.bad(column))
    }

    /// A text that reads as `T`.
    pub(super) fn text<T: FromStr>(&self, column: &'static str) -> Outcome<T> {
        self.raw::<String>(column)?
            .parse()
            .map_err(|_| self.bad(column))
    }

    /// A text that reads as `T`, or nothing.
    pub(super) fn text_or_null<T: FromStr>(&self, column: &'static str) -> Outcome<Option<T>> {
        self.raw::<Option<String>>(column)?
            .map(|text| text.parse().map_err(|_| self.bad(column)))
            .transpose()
    }

    /// A thin id.
    pub(super) fn thin_id(&self, column: &'static str) -> Outcome<ThinId> {
        ThinId::new(self.number(column)?).map_err(|_| self.bad(column))
    }

    /// A number from zero up.
    pub(super) fn number(&self, column: &'static str) -> Outcome<u64> {
        u64::try_from(self.raw::<i64>(column)?).map_err(|_| self.bad(column))
    }

    /// A number from zero up, or nothing.
    pub(super) fn number_or_null(&self, column: &'static str) -> Outcome<Option<u64>> {
        self.raw::<Option<i64>>(column)?
            .map(|n| u64::try_from(n).map_err(|_| self.bad(column)))
            .transpose()
    }

    pub(super) fn bytes(&self, column: &'static str) -> Outcome<Bytes> {
        self.number(column).map(Bytes::new)
    }

    pub(super) fn timestamp(&self, column: &'static str) -> Outcome<Timestamp> {
        self.number(column).map(Timestamp::from_unix)
    }
}

/// A number for the file.
pub(super) fn to_sql(what: &'static str, value: u64) -> Outcome<i64> {
    i64::try_from(value).map_err(|_| StoreError::TooLarge { what, value }.into())
}

/// A volume id for the file. One too large was never given out.
pub(super) fn volume_key(id: VolumeId) -> Outcome<i64> {
    i64::try_from(id.get()).map_err(|_| StoreError::VolumeNotFound { id }.into())
}

pub(super) fn generation_key(id: TransactionId) -> Outcome<i64> {
    to_sql("a generation", id.get())
}

// Every statement is kept prepared: to parse one takes longer than to run it, and a verb has twenty.

/// All rows, each through `read`.
pub(super) fn all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    let mut statement = db.prepare_cached(sql)?;
    statement.query_and_then(params, read)?.collect()
}

/// The first row through `read`, or `None`.
pub(super) fn first<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&Row<'_>) -> Outcome<T>,
) -> Outcome<Option<T>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// Runs a statement that gives no rows.
pub(super) fn run(db: &Connection, sql: &str, params: impl Params) -> Outcome<()> {
    db.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

/// The columns [`volume`] reads, for `SELECT`.
pub(super) const VOLUME: &str = "volumes.id AS id, volumes.thin_id AS thin_id, \
     volumes.kind AS kind, volumes.state AS state, volumes.parent AS parent, \
     volumes.size AS size, volumes.growing_to AS growing_to, volumes.fs AS fs, volumes.fs_uuid AS fs_uuid, \
     volumes.created_at AS created_at, volumes.active AS active, \
     volumes.made AS made, volumes.mapped AS mapped";

pub(super) fn volume(row: &Row<'_>) -> Outcome<VolumeRecord> {
    let cells = Cells::new(row, "volumes");
    Ok(VolumeRecord {
        id: VolumeId::new(cells.number("id")?),
        thin_id: cells.thin_id("thin_id")?,
        kind: cells.text("kind")?,
        state: cells.text("state")?,
        parent: cells.number_or_null("parent")?.map(VolumeId::new),
        size: cells.bytes("size")?,
        growing_to: cells.number_or_null("growing_to")?.map(Bytes::new),
        fs: cells.text("fs")?,
        fs_uuid: cells.raw("fs_uuid")?,
        created_at: cells.timestamp("created_at")?,
        active: cells.raw("active")?,
        made: cells.raw("made")?,
        mapped: cells.number_or_null("mapped")?.map(Bytes::new),
    })
}
