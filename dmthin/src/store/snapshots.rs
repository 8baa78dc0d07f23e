//! Snapshots: kept states of containers and data volumes, and volumes that take the place of another.

use rusqlite::{Connection, Row, named_params};

use crate::ids::{SnapshotName, VolumeId, VolumeKind, WritableName};
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::data;
use crate::store::error::{Outcome, StoreError};
use crate::store::record::{SnapshotRecord, VolumeRecord};
use crate::store::removals::Promise;
use crate::store::row::{self, Cells, VOLUME, volume_key};
use crate::store::volumes;

fn snapshot(row: &Row<'_>) -> Outcome<SnapshotRecord> {
    let cells = Cells::new(row, "snapshots");
    Ok(SnapshotRecord {
        name: cells.text("name")?,
        owner: VolumeId::new(cells.number("owner")?),
        volume: row::volume(row)?,
    })
}

fn joined(rest: &str) -> String {
    format!(
        "SELECT {VOLUME}, snapshots.name AS name, snapshots.owner AS owner
         FROM snapshots JOIN volumes ON volumes.id = snapshots.volume
         {rest} ORDER BY snapshots.volume"
    )
}

fn of(db: &Connection, owner: VolumeId) -> Outcome<Vec<SnapshotRecord>> {
    let sql = joined("WHERE snapshots.owner = ?1");
    row::all(db, &sql, [volume_key(owner)?], snapshot)
}

fn find(db: &Connection, owner: VolumeId, name: &SnapshotName) -> Outcome<Option<SnapshotRecord>> {
    Ok(of(db, owner)?.into_iter().find(|s| s.name == *name))
}

/// That a volume that is to go has no snapshots.
pub(super) fn refuse_any(db: &Connection, owner: VolumeId) -> Outcome<()> {
    let snapshots: Vec<_> = of(db, owner)?.into_iter().map(|s| s.name).collect();
    if snapshots.is_empty() {
        return Ok(());
    }
    match data::writable_on(db, owner)? {
        Some(of) => Err(StoreError::HasSnapshots {
            of: of.name,
            snapshots,
        }
        .into()),
        None => Ok(()),
    }
}

impl Catalogue {
    /// Writes the intent of a snapshot of a container or data volume, which is as large; without a
    /// name it goes by `s` and the number of its volume.
    ///
    /// # Errors
    /// [`StoreError::SnapshotExists`], [`StoreError::VolumeNotReady`],
    /// [`StoreError::ContainerNotFound`], [`StoreError::DataVolumeNotFound`],
    /// [`StoreError::ThinIdsSpent`], [`StoreError::PoolDestroying`].
    pub fn begin_snapshot(
        &self,
        of: &WritableName,
        name: Option<&SnapshotName>,
    ) -> Result<SnapshotRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            let owner = volumes::find_ready(db, data::writable(db, of)?.volume.id)?;
            let (fs, size) = (owner.fs, owner.size);
            let volume = volumes::insert(db, VolumeKind::Snapshot, Some(&owner), fs, size)?;
            let name = match name {
                Some(name) => name.clone(),
                None => SnapshotName::new(format!("s{}", volume.id))
                    .expect("a letter and at most twenty digits make a name"),
            };
            if find(db, owner.id, &name)?.is_some() {
                let of = of.clone();
                return Err(StoreError::SnapshotExists { of, name }.into());
            }
            row::run(
                db,
                "INSERT INTO snapshots (volume, owner, name) VALUES (:volume, :owner, :name)",
                named_params! {
                    ":volume": volume_key(volume.id)?,
                    ":owner": volume_key(owner.id)?,
                    ":name": name.as_str(),
                },
            )?;
            Ok(SnapshotRecord {
                name,
                owner: owner.id,
                volume,
            })
        })
    }

    /// The snapshots of a container or data volume, the oldest first, in state creating or ready.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`StoreError::DataVolumeNotFound`].
    pub fn snapshots(&self, of_name: &WritableName) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.read(|db| of(db, data::writable(db, of_name)?.volume.id))
    }

    /// All snapshots, the oldest first, in state creating or ready.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn all_snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.read(|db| row::all(db, &joined(""), (), snapshot))
    }

    /// A snapshot of a container or data volume.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::ContainerNotFound`],
    /// [`StoreError::DataVolumeNotFound`].
    pub fn snapshot(
        &self,
        of: &WritableName,
        name: &SnapshotName,
    ) -> Result<SnapshotRecord, StoreError> {
        self.read(|db| {
            let owner = data::writable(db, of)?.volume.id;
            find(db, owner, name)?.ok_or_else(|| {
                StoreError::SnapshotNotFound {
                    of: of.clone(),
                    name: name.clone(),
                }
                .into()
            })
        })
    }

    /// Whether a volume is what a container or a snapshot goes by, and not one that is to take the
    /// place of such a one.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn is_named(&self, id: VolumeId) -> Result<bool, StoreError> {
        self.read(|db| {
            let key = volume_key(id)?;
            let sql = "SELECT EXISTS (SELECT 1 FROM containers WHERE volume = ?1)
                OR EXISTS (SELECT 1 FROM snapshots WHERE volume = ?1)";
            Ok(db.query_row(sql, [key], |row| row.get(0))?)
        })
    }

    /// Writes the intent of a volume that is to take the place of another: a snapshot of `origin`, as
    /// large as the one that it replaces is or is to be. It has no name until
    /// [`replace`](Self::replace).
    ///
    /// # Errors
    /// [`StoreError::VolumeNotReady`] and [`StoreError::VolumeNotFound`] for either,
    /// [`StoreError::TooSmall`], [`StoreError::ThinIdsSpent`], [`StoreError::PoolDestroying`].
    pub fn begin_replacement(
        &self,
        of: VolumeId,
        origin: VolumeId,
    ) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            let of = volumes::find_ready(db, of)?;
            let origin = volumes::find_ready(db, origin)?;
            let size = of.growing_to.unwrap_or(of.size);
            if size < origin.size {
                let least = origin.size;
                return Err(StoreError::TooSmall { size, least }.into());
            }
            volumes::insert(db, of.kind, Some(&origin), origin.fs, size)
        })
    }

    /// Puts a volume in the place of another, of which it takes the name, the age and the snapshots, in
    /// one transaction: it is ready then, and the other one is being deleted. Gives both as they are then, the new one
    /// first.
    ///
    /// # Errors
    /// [`StoreError::VolumeTransition`], [`StoreError::VolumeNotReady`],
    /// [`StoreError::VolumeNotFound`].
    pub fn replace(
        &self,
        old: VolumeId,
        new: VolumeId,
    ) -> Result<(VolumeRecord, VolumeRecord), StoreError> {
        self.write(Durability::Durable, |db| {
            let gone = volumes::find_ready(db, old)?;
            volumes::make_ready(db, &volumes::find(db, new)?)?;
            let keys = (volume_key(new)?, volume_key(old)?);
            for sql in [
                "UPDATE containers SET volume = ?1 WHERE volume = ?2",
                "UPDATE data_volumes SET volume = ?1 WHERE volume = ?2",
                "UPDATE snapshots SET owner = ?1 WHERE owner = ?2",
                "UPDATE volumes SET created_at = (SELECT created_at FROM volumes WHERE id = ?2)
                 WHERE id = ?1",
            ] {
                row::run(db, sql, keys)?;
            }
            let gone = volumes::retire(db, &gone, Promise::Final)?;
            Ok((volumes::find(db, new)?, gone))
        })
    }

    /// As [`queue_removal`](Self::queue_removal), of a container or data volume and of all its snapshots,
    /// which cannot be taken back. Gives them as they are then, the snapshots after their owner, the
    /// youngest first.
    ///
    /// # Errors
    /// As of [`begin_deleting`](Self::begin_deleting).
    pub fn queue_removal_with_snapshots(
        &self,
        id: VolumeId,
    ) -> Result<Vec<VolumeRecord>, StoreError> {
        self.write(Durability::Durable, |db| {
            let mut gone = Vec::new();
            for snapshot in of(db, id)?.into_iter().rev() {
                gone.push(volumes::retire(db, &snapshot.volume, Promise::Final)?);
            }
            gone.insert(0, volumes::begin_deleting(db, id, Promise::Revocable)?);
            Ok(gone)
        })
    }
}
