//! Removals: the queue of volumes that are promised to go, with what is known of the tries so far.

use rusqlite::{Connection, Row, named_params};

use crate::ids::VolumeId;
use crate::store::catalogue::{Catalogue, Durability};
use crate::store::error::{Outcome, StoreError};
use crate::store::record::{RemovalRecord, VolumeRecord};
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
        volume: row::volume(row)?,
    })
}

/// Writes that a volume was promised to go, and what it was called.
pub(super) fn insert(db: &Connection, volume: VolumeId) -> Outcome<()> {
    row::run(
        db,
        "INSERT INTO removals (volume, name, since, attempts, next_try)
         VALUES (:volume, (SELECT name FROM containers WHERE volume = :volume), :since, 0, 0)",
        named_params! {
            ":volume": volume_key(volume)?,
            ":since": to_sql("a time", Timestamp::now().to_unix())?,
        },
    )
}

pub(super) fn all(db: &Connection) -> Outcome<Vec<RemovalRecord>> {
    // The state alone makes a removal: a row of `removals` only tells more of it.
    let sql = format!(
        "SELECT {VOLUME}, removals.name AS name,
            coalesce(removals.since, volumes.created_at) AS since,
            coalesce(removals.attempts, 0) AS attempts, coalesce(removals.next_try, 0) AS next_try
         FROM volumes LEFT JOIN removals ON removals.volume = volumes.id
         WHERE volumes.state = 'deleting' ORDER BY volumes.id"
    );
    row::all(db, &sql, (), removal)
}

impl Catalogue {
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
            let volume = volumes::find(db, id)?;
            if volume.state != VolumeState::Deleting {
                return Err(StoreError::VolumeTransition {
                    id,
                    from: volume.state,
                    to: Some(VolumeState::Deleting),
                }
                .into());
            }
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
