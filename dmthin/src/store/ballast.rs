//! The ballast: one volume that stands for nothing but the room it takes.

use rusqlite::Connection;

use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::error::{Outcome, StoreError};
use crate::store::pool::{take_back_thin_id, take_thin_id};
use crate::store::record::BallastRecord;
use crate::store::row::{self, Cells, to_sql};
use crate::store::state::BallastState;
use crate::units::Bytes;

pub(super) fn select(db: &Connection) -> Outcome<Option<BallastRecord>> {
    row::first(db, "SELECT * FROM ballast", (), |row| {
        let cells = Cells::new(row, "ballast");
        Ok(BallastRecord {
            thin_id: cells.thin_id("thin_id")?,
            size: cells.bytes("size")?,
            state: cells.text("state")?,
        })
    })
}

impl Catalogue {
    /// The pool's ballast.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn ballast(&self) -> Result<Option<BallastRecord>, StoreError> {
        self.read(select)
    }

    /// Records that a ballast is about to be filled, under a thin id of its own.
    ///
    /// # Errors
    /// [`StoreError::BallastExists`]; [`StoreError::ThinIdsSpent`], [`StoreError::PoolDestroying`].
    pub fn begin_ballast(&self, size: Bytes) -> Result<BallastRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            if select(db)?.is_some() {
                return Err(StoreError::BallastExists.into());
            }
            let new = BallastRecord {
                thin_id: take_thin_id(db)?.0,
                size,
                state: BallastState::Filling,
            };
            row::run(
                db,
                "INSERT INTO ballast VALUES (1, ?1, ?2, ?3)",
                (
                    new.thin_id.get(),
                    to_sql("a size", size.get())?,
                    new.state.as_str(),
                ),
            )?;
            Ok(new)
        })
    }

    /// Puts the ballast into another state. From `releasing` there is no way back.
    ///
    /// # Errors
    /// [`StoreError::BallastNotFound`] where there is none, or one that is being released.
    pub fn set_ballast(&self, to: BallastState) -> Result<BallastRecord, StoreError> {
        self.write(Durability::Durable, |db| match select(db)? {
            Some(found) if found.state == to || found.state != BallastState::Releasing => {
                row::run(db, "UPDATE ballast SET state = ?1", [to.as_str()])?;
                Ok(BallastRecord { state: to, ..found })
            }
            _ => Err(StoreError::BallastNotFound.into()),
        })
    }

    /// Forgets a ballast whose thin id is another's, as [`disown`](Self::disown) does of a volume.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn disown_ballast(&self) -> Result<(), StoreError> {
        self.changes().stop();
        self.write(Durability::Durable, |db| {
            if let Some(ballast) = select(db)? {
                take_back_thin_id(db, ballast.thin_id)?;
            }
            row::run(db, "DELETE FROM ballast", ())
        })
    }

    /// Forgets the ballast, which is gone from the pool. Lazy: a power cut may bring the row back,
    /// and then it is deleted once more.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn forget_ballast(&self) -> Result<(), StoreError> {
        self.write(Durability::Lazy, |db| {
            row::run(db, "DELETE FROM ballast", ())
        })
    }
}
