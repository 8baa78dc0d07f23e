//! Containers: names of writable volumes.

use rusqlite::{Connection, Params, Row, named_params};

use crate::ids::{ContainerName, ImageId, VolumeKind};
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::error::{Outcome, StoreError};
use crate::store::images;
use crate::store::pool;
use crate::store::record::{ContainerRecord, NewContainer, VolumeRecord};
use crate::store::row::{self, Cells, VOLUME, volume_key};
use crate::store::volumes;

fn container(row: &Row<'_>) -> Outcome<ContainerRecord> {
    let cells = Cells::new(row, "containers");
    Ok(ContainerRecord {
        name: cells.text("name")?,
        image: ImageId::new(cells.number("image")?),
        image_name: cells.raw("image_name")?,
        volume: row::volume(row)?,
    })
}

fn joined(rest: &str) -> String {
    format!(
        "SELECT {VOLUME}, containers.name AS name, containers.image AS image,
            containers.image_name AS image_name
         FROM containers JOIN volumes ON volumes.id = containers.volume {rest}"
    )
}

pub(super) fn all(db: &Connection) -> Outcome<Vec<ContainerRecord>> {
    matching(db, "", ())
}

/// Those whose row and whose volume's row are such, by name.
pub(super) fn matching(
    db: &Connection,
    rows: &str,
    params: impl Params,
) -> Outcome<Vec<ContainerRecord>> {
    let sql = joined(&format!("{rows} ORDER BY containers.name"));
    row::all(db, &sql, params, container)
}

/// The containers of an image, by name.
pub(super) fn of_image(db: &Connection, image: i64) -> Outcome<Vec<ContainerName>> {
    row::all(
        db,
        "SELECT name FROM containers WHERE image = ?1 ORDER BY name",
        [image],
        |row| Cells::new(row, "containers").text("name"),
    )
}

fn find(db: &Connection, name: &ContainerName) -> Outcome<Option<ContainerRecord>> {
    let sql = joined("WHERE containers.name = ?1");
    row::first(db, &sql, [name.as_str()], container)
}

pub(super) fn require(db: &Connection, name: &ContainerName) -> Outcome<ContainerRecord> {
    find(db, name)?.ok_or_else(|| StoreError::ContainerNotFound { name: name.clone() }.into())
}

pub(super) fn refuse_taken(db: &Connection, name: &ContainerName) -> Outcome<()> {
    match find(db, name)? {
        Some(_) => Err(StoreError::ContainerExists { name: name.clone() }.into()),
        None => Ok(()),
    }
}

impl Catalogue {
    /// Writes the intent of a container: a snapshot of its image's top layer, with the next thin
    /// id. The name is taken from now on.
    ///
    /// # Errors
    /// [`StoreError::ContainerExists`], [`StoreError::ImageNotFound`], [`StoreError::ImageEmpty`],
    /// [`StoreError::TooSmall`] for less than the top layer, [`StoreError::ThinIdsSpent`],
    /// [`StoreError::PoolDestroying`].
    pub fn begin_container(&self, new: &NewContainer) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            refuse_taken(db, &new.name)?;
            let image = images::find(db, new.image)?;
            let top = images::layers(db, new.image)?
                .pop()
                .ok_or(StoreError::ImageEmpty {
                    config_digest: image.config_digest,
                })?
                .volume;
            let base_size = pool::select(db)?.base_size;
            let size = new.size.unwrap_or(top.size.max(base_size));
            if size < top.size {
                let least = top.size;
                return Err(StoreError::TooSmall { size, least }.into());
            }
            let volume = volumes::insert(db, VolumeKind::Container, Some(&top), top.fs, size)?;
            row::run(
                db,
                "INSERT INTO containers (volume, name, image, image_name)
                 VALUES (:volume, :name, :image, :image_name)",
                named_params! {
                    ":volume": volume_key(volume.id)?,
                    ":name": new.name.as_str(),
                    ":image": images::image_key(new.image)?,
                    ":image_name": new.image_name,
                },
            )?;
            Ok(volume)
        })
    }

    /// Writes the intent of a container that is a snapshot of another one, which is as large and of the
    /// same image. The name is taken from now on.
    ///
    /// # Errors
    /// [`StoreError::ContainerExists`], [`StoreError::VolumeNotReady`] for what it is made of,
    /// [`StoreError::ContainerNotFound`], [`StoreError::ThinIdsSpent`],
    /// [`StoreError::PoolDestroying`].
    pub fn begin_fork(
        &self,
        of: &ContainerName,
        name: &ContainerName,
    ) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            refuse_taken(db, name)?;
            let of = require(db, of)?;
            let origin = volumes::find_ready(db, of.volume.id)?;
            let (fs, size) = (origin.fs, origin.size);
            let volume = volumes::insert(db, VolumeKind::Container, Some(&origin), fs, size)?;
            row::run(
                db,
                "INSERT INTO containers (volume, name, image, image_name)
                 SELECT :volume, :name, image, image_name FROM containers WHERE volume = :origin",
                named_params! {
                    ":volume": volume_key(volume.id)?,
                    ":name": name.as_str(),
                    ":origin": volume_key(origin.id)?,
                },
            )?;
            Ok(volume)
        })
    }

    /// A container by name, in state creating or ready.
    ///
    /// # Errors
    /// [`StoreError::ContainerNotFound`].
    pub fn container(&self, name: &ContainerName) -> Result<ContainerRecord, StoreError> {
        self.read(|db| require(db, name))
    }

    /// All containers, by name, in state creating or ready.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>, StoreError> {
        self.read(all)
    }
}
