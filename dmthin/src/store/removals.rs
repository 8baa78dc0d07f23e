//! Removals: the queue of volumes that are promised to go, with what is known of the tries so far.

use rusqlite::{Connection, Row, named_params};

use crate::ids::{ContainerName, VolumeId, VolumeKind};
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::containers;
use crate::store::error::{Outcome, StoreError};
use crate::store::record::{ContainerRecord, RemovalRecord, VolumeRecord};
use crate::store::row::{self, Cells, VOLUME, to_sql, volume_key};
use crate::store::state::VolumeState;
use crate::store::timestamp::Timestamp;
use crate::store::volumes;

fn removal(row: &Row<'_>) -> Outcome<RemovalRecord> {
    let cells = Cells::new(row, "removals");
    Ok(RemovalRecord {
        name: cells.text_or_null("name")?,
        since: cells.timestamp("since")?,
        attempts: cells.number("attempts")?,
        next_try: cells.timestamp("next_try")?,
        is_final: cells.raw("final")?,
        volume: row::volume(row)?,
    })
}

/// Whether a promised removal can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// As long as nothing of the volume is gone.
    Revocable,
    /// Its removal goes on at once, or there is nothing to go back to.
    Final,
}

/// Writes that a volume was promised to go, and what it was.
pub(super) fn insert(db: &Connection, volume: &VolumeRecord, promise: Promise) -> Outcome<()> {
    // What was never whole, and what nobody names, is nothing to go back to.
    let is_final = promise == Promise::Final
        || volume.state != VolumeState::Ready
        || volume.kind != VolumeKind::Container;
    row::run(
        db,
        "INSERT INTO removals (volume, name, image, image_name, since, attempts, next_try, final)
         SELECT :volume, containers.name, containers.image, containers.image_name, :since, 0, 0, :final
         FROM (SELECT 1) LEFT JOIN containers ON containers.volume = :volume",
        named_params! {
            ":volume": volume_key(volume.id)?,
            ":since": to_sql("a time", Timestamp::now().to_unix())?,
            ":final": is_final,
        },
    )
}

fn select(filter: &str) -> String {
    // The state alone makes a removal: a row of `removals` only tells more of it.
    format!(
        "SELECT {VOLUME}, removals.name AS name,
            coalesce(removals.since, volumes.created_at) AS since,
            coalesce(removals.attempts, 0) AS attempts, coalesce(removals.next_try, 0) AS next_try,
            coalesce(removals.final, 1) AS final
         FROM volumes LEFT JOIN removals ON removals.volume = volumes.id
         WHERE volumes.state = 'deleting' {filter} ORDER BY volumes.id"
    )
}

pub(super) fn all(db: &Connection) -> Outcome<Vec<RemovalRecord>> {
    row::all(db, &select(""), (), removal)
}

/// The removal of a volume that is to go to state `to`.
fn find(db: &Connection, id: VolumeId, to: VolumeState) -> Outcome<RemovalRecord> {
    let volume = volumes::find(db, id)?;
    let sql = select("AND volumes.id = ?1");
    row::first(db, &sql, [volume_key(id)?], removal)?.ok_or_else(|| {
        StoreError::VolumeTransition {
            id,
            from: volume.state,
            to: Some(to),
        }
        .into()
    })
}

impl Catalogue {
    /// As [`begin_deleting`](Self::begin_deleting), of a container that stays whole for now: until
    /// [`make_removal_final`](Self::make_removal_final) it can be taken back.
    ///
    /// # Errors
    /// As of [`begin_deleting`](Self::begin_deleting).
    pub fn queue_removal(&self, id: VolumeId) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            volumes::begin_deleting(db, id, Promise::Revocable)
        })
    }

    /// Records that a removal is about to destroy what the volume holds: it cannot be taken back
    /// from here on. One that is final already costs nothing.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], [`StoreError::VolumeTransition`] for one that is not deleting.
    pub fn make_removal_final(&self, id: VolumeId) -> Result<(), StoreError> {
        if self
            .read(|db| find(db, id, VolumeState::Deleting))?
            .is_final
        {
            return Ok(());
        }
        self.write(Durability::Durable, |db| {
            row::run(
                db,
                "UPDATE removals SET final = 1 WHERE volume = ?1",
                [volume_key(id)?],
            )
        })
    }

    /// Takes a removal back: the volume is a ready container of this name, with the image it had.
    ///
    /// # Errors
    /// [`StoreError::RemovalFinal`] where some of it may be gone, [`StoreError::RemovalOrphan`] where its
    /// image is, [`StoreError::ContainerExists`]; [`StoreError::VolumeNotFound`],
    /// [`StoreError::VolumeTransition`] for one that is not deleting.
    pub fn cancel_removal(
        &self,
        id: VolumeId,
        name: &ContainerName,
    ) -> Result<ContainerRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            if find(db, id, VolumeState::Ready)?.is_final {
                return Err(StoreError::RemovalFinal { id }.into());
            }
            containers::refuse_taken(db, name)?;
            let key = volume_key(id)?;
            let image: Option<i64> = db.query_row(
                "SELECT image FROM removals WHERE volume = ?1",
                [key],
                |row| row.get("image"),
            )?;
            let Some(image) = image else {
                return Err(StoreError::RemovalOrphan { id }.into());
            };
            row::run(
                db,
                "INSERT INTO containers (volume, name, image, image_name)
                 SELECT volume, :name, :image, image_name FROM removals WHERE volume = :volume",
                named_params! { ":volume": key, ":name": name.as_str(), ":image": image },
            )?;
            row::run(db, "DELETE FROM removals WHERE volume = ?1", [key])?;
            row::run(
                db,
                "UPDATE volumes SET state = 'ready', active = 1 WHERE id = ?1",
                [key],
            )?;
            containers::require(db, name)
        })
    }

    /// The volumes that are promised to go, by id.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn removals(&self) -> Result<Vec<RemovalRecord>, StoreError> {
        self.read(all)
    }

    /// Records a try that did not come to its end, and when the next one is due. Lazy: what a power
    /// cut loses of it is tried again sooner.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`]; [`StoreError::VolumeTransition`] for a volume that is not
    /// being deleted.
    pub fn put_off_removal(
        &self,
        id: VolumeId,
        next_try: Timestamp,
    ) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Lazy, |db| {
            let volume = find(db, id, VolumeState::Deleting)?.volume;
            row::run(
                db,
                "INSERT INTO removals (volume, name, since, attempts, next_try)
                 VALUES (:volume, NULL, :since, 1, :next_try)
                 ON CONFLICT (volume)
                 DO UPDATE SET attempts = attempts + 1, next_try = excluded.next_try",
                named_params! {
                    ":volume": volume_key(id)?,
                    ":since": to_sql("a time", volume.created_at.to_unix())?,
                    ":next_try": to_sql("a time", next_try.to_unix())?,
                },
            )?;
            Ok(volume)
        })
    }
}
