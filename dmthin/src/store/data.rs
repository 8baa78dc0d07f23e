//! Data volumes: names of writable volumes that belong to no container; and what they have in common
//! with containers.

use rusqlite::{Connection, Params, Row};

use crate::ids::{FsType, VolumeId, VolumeKind, VolumeName, WritableName};
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::containers;
use crate::store::error::{Outcome, StoreError};
use crate::store::record::{DataVolumeRecord, VolumeRecord, WritableRecord};
use crate::store::row::{self, Cells, VOLUME, volume_key};
use crate::store::volumes;
use crate::units::Bytes;

fn data_volume(row: &Row<'_>) -> Outcome<DataVolumeRecord> {
    Ok(DataVolumeRecord {
        name: Cells::new(row, "data_volumes").text("name")?,
        volume: row::volume(row)?,
    })
}

fn joined(rest: &str) -> String {
    format!(
        "SELECT {VOLUME}, data_volumes.name AS name
         FROM data_volumes JOIN volumes ON volumes.id = data_volumes.volume {rest}"
    )
}

pub(super) fn all(db: &Connection) -> Outcome<Vec<DataVolumeRecord>> {
    matching(db, "", ())
}

fn matching(db: &Connection, rows: &str, params: impl Params) -> Outcome<Vec<DataVolumeRecord>> {
    let sql = joined(&format!("{rows} ORDER BY data_volumes.name"));
    row::all(db, &sql, params, data_volume)
}

fn find(db: &Connection, name: &VolumeName) -> Outcome<Option<DataVolumeRecord>> {
    let sql = joined("WHERE data_volumes.name = ?1");
    row::first(db, &sql, [name.as_str()], data_volume)
}

fn require(db: &Connection, name: &VolumeName) -> Outcome<DataVolumeRecord> {
    find(db, name)?.ok_or_else(|| StoreError::DataVolumeNotFound { name: name.clone() }.into())
}

/// A container or data volume by name.
pub(super) fn writable(db: &Connection, name: &WritableName) -> Outcome<WritableRecord> {
    let volume = match name {
        WritableName::Container(name) => containers::require(db, name)?.volume,
        WritableName::Data(name) => require(db, name)?.volume,
    };
    Ok(WritableRecord {
        name: name.clone(),
        volume,
    })
}

/// The container or data volume that this volume is, if it is one.
pub(super) fn writable_on(db: &Connection, id: VolumeId) -> Outcome<Option<WritableRecord>> {
    let found = writables(db, "WHERE volumes.id = ?1", [volume_key(id)?])?;
    Ok(found.into_iter().next())
}

fn writables(
    db: &Connection,
    rows: &str,
    params: impl Params + Copy,
) -> Outcome<Vec<WritableRecord>> {
    let containers = containers::matching(db, rows, params)?.into_iter();
    let containers = containers.map(|c| WritableRecord {
        name: WritableName::Container(c.name),
        volume: c.volume,
    });
    let data = matching(db, rows, params)?.into_iter();
    let data = data.map(|d| WritableRecord {
        name: WritableName::Data(d.name),
        volume: d.volume,
    });
    Ok(containers.chain(data).collect())
}

impl Catalogue {
    /// Writes the intent of a data volume, with the next thin id. The name is taken from now on.
    ///
    /// # Errors
    /// [`StoreError::DataVolumeExists`], [`StoreError::ThinIdsSpent`], [`StoreError::PoolDestroying`].
    pub fn begin_data_volume(
        &self,
        name: &VolumeName,
        fs: FsType,
        size: Bytes,
    ) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            if find(db, name)?.is_some() {
                return Err(StoreError::DataVolumeExists { name: name.clone() }.into());
            }
            let volume = volumes::insert(db, VolumeKind::Data, None, fs, size)?;
            row::run(
                db,
                "INSERT INTO data_volumes (volume, name) VALUES (?1, ?2)",
                (volume_key(volume.id)?, name.as_str()),
            )?;
            Ok(volume)
        })
    }

    /// A data volume by name, in state creating or ready.
    ///
    /// # Errors
    /// [`StoreError::DataVolumeNotFound`].
    pub fn data_volume(&self, name: &VolumeName) -> Result<DataVolumeRecord, StoreError> {
        self.read(|db| require(db, name))
    }

    /// All data volumes, by name, in state creating or ready.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn data_volumes(&self) -> Result<Vec<DataVolumeRecord>, StoreError> {
        self.read(all)
    }

    /// A container or data volume by name, in state creating or ready.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`], [`StoreError::DataVolumeNotFound`].
    pub fn writable(&self, name: &WritableName) -> Result<WritableRecord, StoreError> {
        self.read(|db| writable(db, name))
    }

    /// All containers, then all data volumes, each by name, in state creating or ready.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn writables(&self) -> Result<Vec<WritableRecord>, StoreError> {
        self.read(|db| writables(db, "", ()))
    }

    /// Those of [`writables`](Self::writables) whose device is handed out.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn active_writables(&self) -> Result<Vec<WritableRecord>, StoreError> {
        self.read(|db| writables(db, "WHERE volumes.active", ()))
    }

    /// Those of [`writables`](Self::writables) that are ready, and are to be larger.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn growing_writables(&self) -> Result<Vec<WritableRecord>, StoreError> {
        let rows = "WHERE volumes.growing_to IS NOT NULL AND volumes.state = 'ready'";
        self.read(|db| writables(db, rows, ()))
    }

    /// The container or data volume that a volume is, in state creating or ready; `None` where it is none.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn writable_on(&self, id: VolumeId) -> Result<Option<WritableRecord>, StoreError> {
        self.read(|db| writable_on(db, id))
    }
}
