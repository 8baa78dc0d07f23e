//! A catalogue made again out of what a pool has: its thin devices, and the rows of the copy in it.
//!
//! The pool is the truth for which devices there are, the copy for what they are called. In memory until
//! all is done:
//! - a row whose device is not in the pool goes; so does an image that lost a layer, unless a container of it
//!   is there;
//! - a device of which the copy has no row, or one that is not to be relied on (not ready yet, a layer of no
//!   image, a container of no image, a data volume without a name, a snapshot of nothing), becomes a container
//!   of its own, of an image without layers: nothing removes it but its owner.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, named_params, params_from_iter};

use crate::ids::{
    ContainerName, Digest, FsType, SnapshotName, ThinId, TransactionId, VolumeId, VolumeName,
    WritableName,
};
use crate::label::Record;
use crate::store::catalogue::{beside, empty_file, remove, sync};
use crate::store::connection::connect;
use crate::store::error::{CorruptionKind, Fault, Outcome, StoreError};
use crate::store::record::{NewPool, PoolRecord, VolumeRecord};
use crate::store::row::{self, Cells, VOLUME, to_sql, volume_key};
use crate::store::rows::{TABLES, cell};
use crate::store::timestamp::Timestamp;
use crate::store::{ballast, pool, schema};
use crate::units::Bytes;

/// A catalogue that is made again.
#[derive(Debug)]
pub struct Rebuilding {
    db: Connection,
    path: PathBuf,
    unreadable: u64,
}

/// Something that the copy has and the catalogue will not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Dropped {
    /// A container whose device is not in the pool.
    Container(ContainerName),
    /// A data volume whose device is not in the pool.
    Volume(VolumeName),
    /// A snapshot whose device is not in the pool.
    Snapshot {
        /// Its name.
        name: SnapshotName,
        /// What it is of, where that is known.
        of: Option<WritableName>,
    },
    /// An image that lost a layer: its names, or its digest where it has none.
    Image(String),
    /// Rows of the copy that no version writes.
    Rows(u64),
}

/// A thin device of which the catalogue does not know what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownThin {
    /// Its number.
    pub id: ThinId,
    /// Its length, where a row that is not relied on has it.
    pub size: Option<Bytes>,
}

/// What became of the copy's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What was dropped.
    pub dropped: Vec<Dropped>,
    /// Devices that have no row yet.
    pub unknown: Vec<UnknownThin>,
}

/// The image of what is known by nothing but its number.
#[derive(Debug, Clone, Copy)]
pub struct LostImage<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its configuration.
    pub config: &'a [u8],
    /// The digest of that.
    pub digest: Digest,
}

/// A thin device that becomes a container under a made-up name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anonymous {
    /// Its number.
    pub id: ThinId,
    /// How long it is to be.
    pub size: Bytes,
    /// The file system in it; that of the pool, where it has none that is known.
    pub fs: FsType,
    /// That file system's uuid.
    pub fs_uuid: Option<String>,
}

fn number(row: &Row<'_>) -> Outcome<i64> {
    Ok(row.get(0)?)
}

fn execute(db: &Connection, sql: &str) -> Outcome<()> {
    Ok(db.execute_batch(sql)?)
}

/// Rows that are not to be relied on: their devices are unknown.
const UNSURE: &str = "
    SELECT id FROM volumes WHERE state = 'creating'
    UNION SELECT id FROM volumes WHERE kind = 'layer' AND state = 'ready'
        AND id NOT IN (SELECT layer FROM image_layers WHERE layer IN (SELECT volume FROM layers))
    UNION SELECT id FROM volumes WHERE kind = 'container' AND state = 'ready'
        AND id NOT IN (SELECT volume FROM containers WHERE image IN (SELECT id FROM images))
    UNION SELECT id FROM volumes WHERE kind = 'data' AND state = 'ready'
        AND id NOT IN (SELECT volume FROM data_volumes)
    UNION SELECT id FROM volumes WHERE kind = 'snapshot' AND state = 'ready'
        AND id NOT IN (SELECT snapshots.volume FROM snapshots
            JOIN volumes AS owners ON owners.id = snapshots.owner
            WHERE owners.state = 'ready' AND (owners.id IN (SELECT volume FROM data_volumes)
                OR owners.id IN (SELECT volume FROM containers WHERE image IN (SELECT id FROM images))))";

/// Images that lost a layer, and have no container that is there.
const BROKEN_IMAGES: &str = "
    SELECT image FROM image_layers
    WHERE layer NOT IN (SELECT volume FROM layers JOIN volumes ON volumes.id = layers.volume
            WHERE volumes.thin_id IN (SELECT thin_id FROM present))
        AND image NOT IN (SELECT image FROM containers)";

/// What refers to nothing.
const ORPHANS: &str = "
    DELETE FROM layers WHERE volume NOT IN (SELECT id FROM volumes);
    DELETE FROM containers WHERE volume NOT IN (SELECT id FROM volumes)
        OR image NOT IN (SELECT id FROM images);
    DELETE FROM data_volumes WHERE volume NOT IN (SELECT id FROM volumes);
    DELETE FROM snapshots WHERE volume NOT IN (SELECT id FROM volumes)
        OR owner NOT IN (SELECT id FROM volumes);
    DELETE FROM removals WHERE volume NOT IN (SELECT id FROM volumes WHERE state = 'deleting');
    DELETE FROM image_layers WHERE image NOT IN (SELECT id FROM images)
        OR layer NOT IN (SELECT volume FROM layers);
    DELETE FROM refs WHERE image NOT IN (SELECT id FROM images);
    UPDATE removals SET image = NULL WHERE image NOT IN (SELECT id FROM images);
    UPDATE volumes SET parent = NULL WHERE parent NOT IN (SELECT id FROM volumes);";

impl Rebuilding {
    /// Begins with the rows of a copy, of the catalogue's format `format`, for a catalogue at `path`.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`]; or the engine's own troubles.
    pub fn begin(path: &Path, format: u32, records: Vec<Record>) -> Result<Self, StoreError> {
        let begin = || -> Outcome<Self> {
            let steps = usize::try_from(format)
                .ok()
                .and_then(|format| schema::STEPS.get(..format));
            let steps = steps.ok_or_else(|| StoreError::NewerFormat {
                path: path.to_owned(),
                found: i32::try_from(format).unwrap_or(i32::MAX),
                supported: schema::newest(schema::STEPS),
            })?;
            let db = Connection::open_in_memory()?;
            // Rows come before those that they refer to, and some refer to nothing.
            db.pragma_update(None, "foreign_keys", false)?;
            schema::migrate(&db, steps)?;
            let mut unreadable: u64 = 0;
            for record in records {
                let table = TABLES.get(usize::from(record.table));
                for values in record.rows {
                    let inserted = table.is_some_and(|table| {
                        let marks = vec!["?"; values.len()].join(", ");
                        let sql = format!("INSERT INTO {} VALUES ({marks})", table.name);
                        let values = values.into_iter().map(cell);
                        db.execute(&sql, params_from_iter(values)).is_ok()
                    });
                    unreadable = unreadable.saturating_add(u64::from(!inserted));
                }
            }
            schema::migrate(&db, schema::STEPS)?;
            execute(
                &db,
                "CREATE TEMP TABLE present (thin_id INTEGER PRIMARY KEY)",
            )?;
            Ok(Self {
                db,
                path: path.to_owned(),
                unreadable,
            })
        };
        begin().map_err(|fault| fault.at(path))
    }

    fn done<T>(&self, outcome: Outcome<T>) -> Result<T, StoreError> {
        outcome.map_err(|fault: Fault| fault.at(&self.path))
    }

    /// The pool as the copy has it, where it has it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where no version writes that.
    pub fn pool(&self) -> Result<Option<PoolRecord>, StoreError> {
        match pool::select(&self.db) {
            Err(Fault::Damage(CorruptionKind::NoPoolRow)) => Ok(None),
            found => self.done(found).map(Some),
        }
    }

    /// The volumes that there are so far.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let sql = format!("SELECT {VOLUME} FROM volumes ORDER BY id");
        self.done(row::all(&self.db, &sql, (), row::volume))
    }

    /// Thin ids that rows have, the ballast's among them.
    fn known(&self) -> Outcome<BTreeSet<ThinId>> {
        let sql = format!("SELECT {VOLUME} FROM volumes");
        let volumes = row::all(&self.db, &sql, (), row::volume)?;
        let ballast = ballast::select(&self.db)?;
        let ids = volumes.into_iter().map(|volume| volume.thin_id);
        Ok(ids.chain(ballast.map(|ballast| ballast.thin_id)).collect())
    }

    /// Brings the rows in line with the devices that the pool has, its mirror left out, and records the pool
    /// itself: as the copy has it where it does, else as `new` says; where it lies as `new` says.
    ///
    /// # Errors
    /// The engine's own troubles.
    pub fn settle(
        &mut self,
        new: &NewPool,
        generation: TransactionId,
        present: &BTreeSet<ThinId>,
    ) -> Result<Settled, StoreError> {
        let settled = self.settle_rows(new, generation, present);
        self.done(settled)
    }

    fn settle_rows(
        &self,
        new: &NewPool,
        generation: TransactionId,
        present: &BTreeSet<ThinId>,
    ) -> Outcome<Settled> {
        let db = &self.db;
        if row::first(db, "SELECT one FROM pool", (), number)?.is_none() {
            pool::insert(db, new)?;
        }
        pool::set_found(db, new, generation)?;
        for id in present {
            row::run(db, "INSERT INTO present VALUES (?1)", [id.get()])?;
        }
        let mut dropped = self.gone()?;
        execute(
            db,
            "DELETE FROM volumes WHERE kind IN ('container', 'data', 'snapshot')
                 AND thin_id NOT IN (SELECT thin_id FROM present);
             DELETE FROM ballast WHERE thin_id NOT IN (SELECT thin_id FROM present);",
        )?;
        execute(
            db,
            "DELETE FROM containers WHERE volume NOT IN (SELECT id FROM volumes)",
        )?;
        dropped.extend(self.broken_images()?);
        execute(
            db,
            &format!(
                "DELETE FROM images WHERE id IN ({BROKEN_IMAGES});
                 DELETE FROM image_layers WHERE image NOT IN (SELECT id FROM images);
                 DELETE FROM volumes WHERE thin_id NOT IN (SELECT thin_id FROM present)
                     AND id NOT IN (SELECT layer FROM image_layers);"
            ),
        )?;
        let unsure: BTreeMap<ThinId, Bytes> = row::all(
            db,
            &format!("SELECT {VOLUME} FROM volumes WHERE id IN ({UNSURE})"),
            (),
            row::volume,
        )?
        .into_iter()
        .map(|volume| (volume.thin_id, volume.size))
        .collect();
        execute(db, &format!("DELETE FROM volumes WHERE id IN ({UNSURE})"))?;
        execute(db, ORPHANS)?;
        if self.unreadable > 0 {
            dropped.push(Dropped::Rows(self.unreadable));
        }
        let known = self.known()?;
        let unknown = present.difference(&known).map(|id| UnknownThin {
            id: *id,
            size: unsure.get(id).copied(),
        });
        Ok(Settled {
            unknown: unknown.collect(),
            dropped,
        })
    }

    /// What has a name and no device in the pool.
    fn gone(&self) -> Outcome<Vec<Dropped>> {
        let gone = |columns: &str, joined: &str| {
            format!(
                "SELECT {columns} {joined} JOIN volumes ON volumes.id = it.volume
                 WHERE volumes.thin_id NOT IN (SELECT thin_id FROM present) ORDER BY name, it.volume"
            )
        };
        let sql = gone("it.name AS name", "FROM containers AS it");
        let mut dropped = row::all(&self.db, &sql, (), |row| {
            let name = Cells::new(row, "containers").text("name")?;
            Ok(Dropped::Container(name))
        })?;
        let sql = gone("it.name AS name", "FROM data_volumes AS it");
        dropped.extend(row::all(&self.db, &sql, (), |row| {
            let name = Cells::new(row, "data_volumes").text("name")?;
            Ok(Dropped::Volume(name))
        })?);
        let sql = gone(
            "it.name AS name, containers.name AS container, data_volumes.name AS data",
            "FROM snapshots AS it
             LEFT JOIN containers ON containers.volume = it.owner
             LEFT JOIN data_volumes ON data_volumes.volume = it.owner",
        );
        dropped.extend(row::all(&self.db, &sql, (), |row| {
            let cells = Cells::new(row, "snapshots");
            let container = cells.text_or_null("container")?;
            let data = cells.text_or_null("data")?;
            Ok(Dropped::Snapshot {
                name: cells.text("name")?,
                of: container
                    .map(WritableName::Container)
                    .or(data.map(WritableName::Data)),
            })
        })?);
        Ok(dropped)
    }

    fn broken_images(&self) -> Outcome<Vec<Dropped>> {
        let sql = format!(
            "SELECT coalesce((SELECT group_concat(name, ' ') FROM refs WHERE refs.image = images.id),
                 config_digest)
             FROM images WHERE id IN ({BROKEN_IMAGES}) ORDER BY id"
        );
        row::all(&self.db, &sql, (), |row| Ok(Dropped::Image(row.get(0)?)))
    }

    /// Makes containers of devices of which nothing is known but what they are told here; gives their names.
    ///
    /// # Errors
    /// The engine's own troubles.
    pub fn keep(
        &mut self,
        image: LostImage<'_>,
        found: &[Anonymous],
    ) -> Result<Vec<ContainerName>, StoreError> {
        let kept = self.keep_rows(image, found);
        self.done(kept)
    }

    fn keep_rows(&self, image: LostImage<'_>, found: &[Anonymous]) -> Outcome<Vec<ContainerName>> {
        let db = &self.db;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let now = to_sql("a time", Timestamp::now().to_unix())?;
        row::run(
            db,
            "INSERT OR IGNORE INTO images (config_digest, config, architecture, os, imported_at)
             VALUES (?1, ?2, '', '', ?3)",
            (image.digest.to_string(), image.config, now),
        )?;
        row::run(
            db,
            "INSERT OR IGNORE INTO refs SELECT ?1, id FROM images WHERE config_digest = ?2",
            (image.name, image.digest.to_string()),
        )?;
        let mut names = Vec::new();
        for thin in found {
            row::run(
                db,
                "INSERT INTO volumes (thin_id, kind, state, parent, size, fs, fs_uuid, created_at, active,
                    made)
                 VALUES (:thin_id, 'container', 'ready', NULL, :size, :fs, :fs_uuid, :now, 1, 1)",
                named_params! {
                    ":thin_id": thin.id.get(),
                    ":size": to_sql("a size", thin.size.get())?,
                    ":fs": thin.fs.as_str(),
                    ":fs_uuid": thin.fs_uuid,
                    ":now": now,
                },
            )?;
            let volume = db.last_insert_rowid();
            let name = self.free_name(thin.id)?;
            row::run(
                db,
                "INSERT INTO containers (volume, name, image, image_name)
                 SELECT ?1, ?2, id, ?3 FROM images WHERE config_digest = ?4",
                (volume, name.as_str(), image.name, image.digest.to_string()),
            )?;
            names.push(name);
        }
        Ok(names)
    }

    /// A name that no container has.
    fn free_name(&self, id: ThinId) -> Outcome<ContainerName> {
        let mut text = format!("lost-{id}");
        loop {
            let taken = row::first(
                &self.db,
                "SELECT 1 FROM containers WHERE name = ?1",
                [&text],
                number,
            )?;
            match (taken, ContainerName::new(text.clone())) {
                (None, Ok(name)) => return Ok(name),
                _ => text.push('x'),
            }
        }
    }

    /// Has no volume get an id up to this one: something beside the catalogue may still go by it.
    ///
    /// # Errors
    /// The engine's own troubles.
    pub fn pass_over(&mut self, last: VolumeId) -> Result<(), StoreError> {
        let passed = || {
            let last = volume_key(last)?;
            let db = &self.db;
            // There is no row before the first volume.
            row::run(
                db,
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'volumes', 0
                 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'volumes')",
                (),
            )?;
            row::run(
                db,
                "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'volumes'",
                [last],
            )
        };
        self.done(passed())
    }

    /// Has thin ids be given out from `next` on, up to `end`.
    ///
    /// # Errors
    /// The engine's own troubles.
    pub fn set_thin_ids(&mut self, next: ThinId, end: ThinId) -> Result<(), StoreError> {
        let set = pool::set_thin_ids(&self.db, next, end);
        self.done(set)
    }

    /// Every thin id that a row has, the ballast's among them.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn thin_ids(&self) -> Result<BTreeSet<ThinId>, StoreError> {
        self.done(self.known())
    }

    /// Writes it into a file beside the catalogue, flushed; gives that file, which is to be renamed.
    ///
    /// # Errors
    /// The file's own troubles: there is no file then.
    pub fn write(self) -> Result<PathBuf, StoreError> {
        let draft = beside(&self.path, ".rebuilt");
        // What a try left that was killed would be taken for this one's.
        let logs = ["-journal", "-wal", "-shm"];
        let made = logs
            .iter()
            .try_for_each(|log| remove(&beside(&draft, log)))
            .and_then(|()| empty_file(&draft))
            .and_then(|()| self.fill(&draft).map_err(|fault| fault.at(&draft)))
            .and_then(|()| sync(&draft));
        if made.is_err() {
            // What was wrong is worth more than a left-over draft, which the next try removes.
            let _ = remove(&draft);
        }
        made.map(|()| draft)
    }

    fn fill(&self, draft: &Path) -> Outcome<()> {
        let text = draft.to_str().ok_or_else(|| StoreError::PathNotUtf8 {
            path: draft.to_owned(),
        })?;
        self.db.execute("VACUUM INTO ?1", [text])?;
        let db = connect(draft)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.close().map_err(|(_, error)| error)?;
        Ok(())
    }
}
