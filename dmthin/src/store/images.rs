//! Images: a config, an ordered stack of sealed layers, and names.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Row, named_params};

use crate::ids::{Digest, ImageId, ImageRef, VolumeId};
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::containers;
use crate::store::error::{Outcome, StoreError};
use crate::store::layers::{self, LAYER};
use crate::store::record::{
    AddedImage, ContainerRecord, ImageRecord, LayerRecord, NewImage, RemovedImages, SealedLayer,
    VolumeRecord,
};
use crate::store::removals::Promise;
use crate::store::row::{self, Cells, VOLUME, to_sql, volume_key};
use crate::store::timestamp::Timestamp;
use crate::store::volumes;

/// Fewer digits of a digest are no name.
const LEAST_DIGITS: usize = 4;

const IMAGE: &str = "id, config_digest, manifest_digest, architecture, os, created, imported_at";

fn not_found(id: ImageId) -> StoreError {
    StoreError::ImageNotFound {
        name: id.to_string(),
    }
}

/// An image id for the file. One too large was never given out.
pub(super) fn image_key(id: ImageId) -> Outcome<i64> {
    i64::try_from(id.get()).map_err(|_| not_found(id).into())
}

/// An image's row; its names are another table.
fn image(row: &Row<'_>) -> Outcome<ImageRecord> {
    let cells = Cells::new(row, "images");
    Ok(ImageRecord {
        id: ImageId::new(cells.number("id")?),
        config_digest: cells.text("config_digest")?,
        manifest_digest: cells.text_or_null("manifest_digest")?,
        architecture: cells.raw("architecture")?,
        os: cells.raw("os")?,
        created: cells.raw("created")?,
        imported_at: cells.timestamp("imported_at")?,
        names: Vec::new(),
    })
}

fn named(db: &Connection, mut image: ImageRecord) -> Outcome<ImageRecord> {
    image.names = row::all(
        db,
        "SELECT name FROM refs WHERE image = ?1 ORDER BY name",
        [image_key(image.id)?],
        |row| Cells::new(row, "refs").text("name"),
    )?;
    Ok(image)
}

pub(super) fn all(db: &Connection) -> Outcome<Vec<ImageRecord>> {
    let sql = format!("SELECT {IMAGE} FROM images ORDER BY id");
    row::all(db, &sql, (), image)?
        .into_iter()
        .map(|image| named(db, image))
        .collect()
}

pub(super) fn find(db: &Connection, id: ImageId) -> Outcome<ImageRecord> {
    let sql = format!("SELECT {IMAGE} FROM images WHERE id = ?1");
    let found = row::first(db, &sql, [image_key(id)?], image)?.ok_or_else(|| not_found(id))?;
    named(db, found)
}

/// The layers of an image, the lowest first.
pub(super) fn layers(db: &Connection, id: ImageId) -> Outcome<Vec<SealedLayer>> {
    row::all(
        db,
        &format!(
            "SELECT {VOLUME}, {LAYER} FROM image_layers
             JOIN layers ON layers.volume = image_layers.layer
             JOIN volumes ON volumes.id = layers.volume
             WHERE image_layers.image = ?1 ORDER BY image_layers.position"
        ),
        [image_key(id)?],
        layers::sealed,
    )
}

/// The name with its tag: `:latest` where it has neither tag nor digest. A colon before the last
/// slash is a port.
fn with_tag(name: &ImageRef) -> Outcome<ImageRef> {
    let text = name.as_str();
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains([':', '@']) {
        return Ok(name.clone());
    }
    ImageRef::new(format!("{text}:latest"))
        .map_err(|source| StoreError::ImageName { source }.into())
}

fn find_name(db: &Connection, name: &ImageRef) -> Outcome<Option<ImageId>> {
    row::first(
        db,
        "SELECT image FROM refs WHERE name = ?1",
        [name.as_str()],
        |row| Cells::new(row, "refs").number("image").map(ImageId::new),
    )
}

/// Images whose config or manifest digest begins with these digits.
fn find_digits(db: &Connection, digits: &str) -> Outcome<Vec<ImageRecord>> {
    let sql = format!(
        "SELECT {IMAGE} FROM images
         WHERE substr(config_digest, 8, length(?1)) = ?1
            OR substr(manifest_digest, 8, length(?1)) = ?1
         ORDER BY id"
    );
    row::all(db, &sql, [digits], image)
}

pub(super) fn digits_of(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() >= LEAST_DIGITS && digits.bytes().all(is_hex)).then_some(digits)
}

pub(super) fn find_text(db: &Connection, text: &str) -> Outcome<ImageRecord> {
    // What is no image name, or has no room for a tag, can still not be a name of an image.
    if let Ok(name) = ImageRef::new(text)
        && let Ok(name) = with_tag(&name)
        && let Some(id) = find_name(db, &name)?
    {
        return find(db, id);
    }
    let found = match digits_of(text) {
        Some(digits) => find_digits(db, digits)?,
        None => Vec::new(),
    };
    match <[ImageRecord; 1]>::try_from(found) {
        Ok([one]) => named(db, one),
        Err(none) if none.is_empty() => Err(StoreError::ImageNotFound {
            name: text.to_owned(),
        }
        .into()),
        Err(several) => Err(StoreError::ImageAmbiguous {
            name: text.to_owned(),
            images: several.iter().map(|image| image.config_digest).collect(),
        }
        .into()),
    }
}

/// Checks that these are sealed layers, each on the one before.
fn check_stack(db: &Connection, stack: &[VolumeId]) -> Outcome<()> {
    let mut below: Option<Digest> = None;
    for id in stack {
        let id = *id;
        volumes::find_ready(db, id)?;
        let layer = layers::by_volume(db, id)?
            .ok_or(StoreError::NotALayer { id })?
            .layer;
        if layer.parent_chain != below {
            return Err(StoreError::Lineage {
                id,
                expected: below,
                found: layer.parent_chain,
            }
            .into());
        }
        below = Some(layer.chain_id);
    }
    Ok(())
}

fn insert(db: &Connection, new: &NewImage) -> Outcome<ImageId> {
    row::run(
        db,
        "INSERT INTO images
            (config_digest, manifest_digest, config, architecture, os, created, imported_at)
         VALUES
            (:config_digest, :manifest_digest, :config, :architecture, :os, :created, :imported_at)",
        named_params! {
            ":config_digest": new.config_digest.to_string(),
            ":manifest_digest": new.manifest_digest.map(|digest| digest.to_string()),
            ":config": new.config,
            ":architecture": new.architecture,
            ":os": new.os,
            ":created": new.created,
            ":imported_at": to_sql("a time", Timestamp::now().to_unix())?,
        },
    )?;
    let key = db.last_insert_rowid();
    for (position, layer) in (0_i64..).zip(&new.layers) {
        row::run(
            db,
            "INSERT INTO image_layers (image, position, layer) VALUES (?1, ?2, ?3)",
            (key, position, volume_key(*layer)?),
        )?;
    }
    let id = row::first(db, "SELECT id FROM images WHERE id = ?1", [key], |row| {
        Cells::new(row, "images").number("id").map(ImageId::new)
    })?;
    Ok(id.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
}

/// The layers that nothing needs once these images and containers are gone, the topmost first. Nobody
/// else may use the images.
fn unneeded(
    db: &Connection,
    images: &[ImageId],
    containers: &[ContainerRecord],
) -> Outcome<Vec<VolumeRecord>> {
    let mut stacked = BTreeMap::new();
    for id in images {
        let mut left = containers::of_image(db, image_key(*id)?)?;
        left.retain(|name| !containers.iter().any(|goes| goes.name == *name));
        if !left.is_empty() {
            return Err(StoreError::ImageInUse { containers: left }.into());
        }
        for layer in layers(db, *id)? {
            stacked.insert(layer.volume.id, layer.volume);
        }
    }
    let mut gone: BTreeSet<VolumeId> = containers.iter().map(|c| c.volume.id).collect();
    let mut unneeded = Vec::new();
    // A layer is younger than the one it stands on, so that this goes top down: a layer that stays keeps
    // all below it, and so does a snapshot.
    for volume in stacked.into_values().rev() {
        let (children, users) = volumes::users(db, &volume)?;
        if users.iter().all(|user| images.contains(user))
            && children.iter().all(|child| gone.contains(child))
        {
            gone.insert(volume.id);
            unneeded.push(volume);
        }
    }
    Ok(unneeded)
}

/// Images that nobody uses, with the layers that nothing else needs, the topmost first.
fn plan_removal(db: &Connection, ids: &[ImageId]) -> Outcome<RemovedImages> {
    let images = ids.iter().map(|id| find(db, *id)).collect::<Outcome<_>>()?;
    Ok(RemovedImages {
        images,
        volumes: unneeded(db, ids, &[])?,
    })
}

fn remove(db: &Connection, ids: &[ImageId]) -> Outcome<RemovedImages> {
    let mut removed = plan_removal(db, ids)?;
    for id in ids {
        row::run(db, "DELETE FROM images WHERE id = ?1", [image_key(*id)?])?;
    }
    for volume in &mut removed.volumes {
        *volume = volumes::retire(db, volume, Promise::Final)?;
    }
    Ok(removed)
}

/// Gives an image a name, which is taken from the one that has it.
fn set_name(db: &Connection, name: &ImageRef, image: ImageId) -> Outcome<()> {
    row::run(
        db,
        "INSERT INTO refs (name, image) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET image = excluded.image",
        (with_tag(name)?.as_str(), image_key(image)?),
    )
}

fn add(db: &Connection, new: &NewImage) -> Outcome<AddedImage> {
    check_stack(db, &new.layers)?;
    let known = row::first(
        db,
        &format!("SELECT {IMAGE} FROM images WHERE config_digest = ?1"),
        [new.config_digest.to_string()],
        image,
    )?;
    let added = match known {
        None => AddedImage::Created(insert(db, new)?),
        Some(known) => {
            let stack = layers(db, known.id)?;
            if !stack
                .iter()
                .map(|layer| layer.volume.id)
                .eq(new.layers.iter().copied())
            {
                let config_digest = new.config_digest;
                return Err(StoreError::ImageDiffers { config_digest }.into());
            }
            AddedImage::Existing(known.id)
        }
    };
    for name in &new.names {
        set_name(db, name, added.id())?;
    }
    Ok(added)
}

impl Catalogue {
    /// Records an image over sealed layers and gives it its names, which are taken from the images
    /// that have them. The same config over the same layers is the same image.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], [`StoreError::VolumeNotReady`], [`StoreError::NotALayer`]
    /// and [`StoreError::Lineage`] for a layer that does not belong there,
    /// [`StoreError::ImageDiffers`], [`StoreError::ImageName`].
    pub fn add_image(&self, new: &NewImage) -> Result<AddedImage, StoreError> {
        self.write(Durability::Durable, |db| add(db, new))
    }

    /// As [`add_image`](Self::add_image), with a layer on top of `new.layers` that is
    /// [sealed](Self::seal_layer) in the same transaction: there is no layer without its image.
    ///
    /// # Errors
    /// Of both.
    pub fn seal_image(
        &self,
        top: VolumeId,
        layer: &LayerRecord,
        new: &NewImage,
    ) -> Result<AddedImage, StoreError> {
        let mut new = new.clone();
        new.layers.push(top);
        self.write(Durability::Durable, |db| {
            layers::seal(db, top, layer)?;
            add(db, &new)
        })
    }

    /// All images, in the order they came.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.read(all)
    }

    /// One image.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`].
    pub fn image(&self, id: ImageId) -> Result<ImageRecord, StoreError> {
        self.read(|db| find(db, id))
    }

    /// The image a user means: by name, with `:latest` where no tag is given, else by the digest
    /// of its config or manifest or at least four first digits of one.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`], [`StoreError::ImageAmbiguous`].
    pub fn find_image(&self, text: &str) -> Result<ImageRecord, StoreError> {
        self.read(|db| find_text(db, text))
    }

    /// The bytes of an image's config, as they were imported.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`].
    pub fn image_config(&self, id: ImageId) -> Result<Vec<u8>, StoreError> {
        self.read(|db| {
            row::first(
                db,
                "SELECT config FROM images WHERE id = ?1",
                [image_key(id)?],
                |row| Cells::new(row, "images").raw("config"),
            )?
            .ok_or_else(|| not_found(id).into())
        })
    }

    /// All images, in the order they came, each with its layers, the lowest first: all as they were at one
    /// moment, whoever removes some meanwhile.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn images_with_layers(&self) -> Result<Vec<(ImageRecord, Vec<SealedLayer>)>, StoreError> {
        self.read(|db| {
            let with_layers = |image: ImageRecord| {
                let layers = layers(db, image.id)?;
                Ok((image, layers))
            };
            all(db)?.into_iter().map(with_layers).collect()
        })
    }

    /// The layers of an image, the lowest first.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`].
    pub fn image_layers(&self, id: ImageId) -> Result<Vec<SealedLayer>, StoreError> {
        self.read(|db| {
            find(db, id)?;
            layers(db, id)
        })
    }

    /// Gives an image one name more, which is taken from the image that has it.
    ///
    /// # Errors
    /// [`StoreError::ImageNotFound`], [`StoreError::ImageName`].
    pub fn tag(&self, id: ImageId, name: &ImageRef) -> Result<ImageRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            find(db, id)?;
            set_name(db, name, id)?;
            find(db, id)
        })
    }

    /// Takes a name from its image, which stays without one where it has no other.
    ///
    /// # Errors
    /// [`StoreError::NameNotFound`], [`StoreError::ImageName`].
    pub fn untag_any(&self, name: &ImageRef) -> Result<ImageRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            let name = with_tag(name)?;
            let image = find_name(db, &name)?
                .ok_or_else(|| StoreError::NameNotFound { name: name.clone() })?;
            row::run(db, "DELETE FROM refs WHERE name = ?1", [name.as_str()])?;
            find(db, image)
        })
    }

    /// Takes one of several names from its image.
    ///
    /// # Errors
    /// [`StoreError::NameNotFound`], [`StoreError::LastName`], [`StoreError::ImageName`].
    pub fn untag(&self, name: &ImageRef) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| {
            let name = with_tag(name)?;
            let image = find_name(db, &name)?
                .ok_or_else(|| StoreError::NameNotFound { name: name.clone() })?;
            if find(db, image)?.names.len() == 1 {
                return Err(StoreError::LastName { name, image }.into());
            }
            row::run(db, "DELETE FROM refs WHERE name = ?1", [name.as_str()])?;
            Ok(())
        })
    }

    /// Removes an image with all its names. Layers that nothing else needs leave the live set, the
    /// topmost first; they are then to be deleted and forgotten.
    ///
    /// # Errors
    /// [`StoreError::ImageInUse`] with its containers, [`StoreError::ImageNotFound`].
    pub fn remove_image(&self, id: ImageId) -> Result<RemovedImages, StoreError> {
        self.write(Durability::Durable, |db| remove(db, &[id]))
    }

    /// As [`remove_image`](Self::remove_image), with `others` that still have neither name nor container.
    ///
    /// # Errors
    /// As of [`remove_image`](Self::remove_image).
    pub fn remove_images(
        &self,
        id: Option<ImageId>,
        others: &[ImageId],
    ) -> Result<RemovedImages, StoreError> {
        self.write(Durability::Durable, |db| {
            let ids = with_nameless(db, id, others)?;
            remove(db, &ids)
        })
    }

    /// The layers that nothing would need any more if these containers were removed, and then these images;
    /// the topmost first. Nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::ImageInUse`] with the containers that would be left.
    pub fn plan_removals(
        &self,
        images: &[ImageId],
        containers: &[ContainerRecord],
    ) -> Result<Vec<VolumeRecord>, StoreError> {
        self.read(|db| unneeded(db, images, containers))
    }

    /// What [`remove_images`](Self::remove_images) would take away now; nothing is changed.
    ///
    /// # Errors
    /// As of [`remove_image`](Self::remove_image).
    pub fn plan_images_removal(
        &self,
        id: Option<ImageId>,
        others: &[ImageId],
    ) -> Result<RemovedImages, StoreError> {
        self.read(|db| plan_removal(db, &with_nameless(db, id, others)?))
    }
}

/// An image, and those of the others that have neither name nor container by now.
fn with_nameless(
    db: &Connection,
    id: Option<ImageId>,
    others: &[ImageId],
) -> Outcome<Vec<ImageId>> {
    let mut ids: Vec<_> = id.into_iter().collect();
    for other in others {
        let sql = "SELECT id FROM images WHERE id = ?1
             AND id NOT IN (SELECT image FROM refs) AND id NOT IN (SELECT image FROM containers)";
        let nameless = row::first(db, sql, [image_key(*other)?], |row| {
            Cells::new(row, "images").number("id").map(ImageId::new)
        })?;
        ids.extend(nameless);
    }
    Ok(ids)
}
