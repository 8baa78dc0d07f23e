//! Sealed layers: what a layer's volume holds, found by the digest of the stack.

use rusqlite::{Connection, Row, named_params};

use crate::ids::{Digest, VolumeId, VolumeKind};
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::error::{Fault, Outcome, StoreError};
use crate::store::images;
use crate::store::record::{LayerRecord, SealedLayer};
use crate::store::row::{self, Cells, VOLUME, to_sql, volume_key};
use crate::store::volumes;

/// The columns [`sealed`] reads, beside those of the volume.
pub(super) const LAYER: &str = "layers.chain_id AS chain_id, layers.diff_id AS diff_id, \
     layers.parent_chain AS parent_chain, layers.tar_bytes AS tar_bytes, \
     layers.nr_entries AS nr_entries";

pub(super) fn sealed(row: &Row<'_>) -> Outcome<SealedLayer> {
    let cells = Cells::new(row, "layers");
    Ok(SealedLayer {
        volume: row::volume(row)?,
        layer: LayerRecord {
            chain_id: cells.text("chain_id")?,
            diff_id: cells.text("diff_id")?,
            parent_chain: cells.text_or_null("parent_chain")?,
            tar_bytes: cells.bytes("tar_bytes")?,
            nr_entries: cells.number("nr_entries")?,
        },
    })
}

fn joined(rest: &str) -> String {
    format!(
        "SELECT {VOLUME}, {LAYER} FROM layers JOIN volumes ON volumes.id = layers.volume {rest}"
    )
}

pub(super) fn all(db: &Connection) -> Outcome<Vec<SealedLayer>> {
    row::all(db, &joined("ORDER BY volumes.id"), (), sealed)
}

pub(super) fn by_volume(db: &Connection, id: VolumeId) -> Outcome<Option<SealedLayer>> {
    let key = volume_key(id)?;
    row::first(db, &joined("WHERE layers.volume = ?1"), [key], sealed)
}

fn by_chain(db: &Connection, chain_id: &Digest) -> Outcome<Option<SealedLayer>> {
    let key = chain_id.to_string();
    row::first(db, &joined("WHERE layers.chain_id = ?1"), [key], sealed)
}

/// Seals a layer that is being made.
pub(super) fn seal(db: &Connection, id: VolumeId, layer: &LayerRecord) -> Outcome<()> {
    let volume = volumes::find(db, id)?;
    if volume.kind != VolumeKind::Layer {
        return Err(StoreError::NotALayer { id }.into());
    }
    volumes::make_ready(db, &volume)?;
    let below = match volume.parent {
        Some(parent) => by_volume(db, parent)?.map(|below| below.layer.chain_id),
        None => None,
    };
    if below != layer.parent_chain {
        return Err(StoreError::Lineage {
            id,
            expected: layer.parent_chain,
            found: below,
        }
        .into());
    }
    if let Some(first) = by_chain(db, &layer.chain_id)? {
        return Err(StoreError::LayerExists {
            chain_id: layer.chain_id,
            volume: first.volume.id,
        }
        .into());
    }
    row::run(
        db,
        "INSERT INTO layers (volume, chain_id, diff_id, parent_chain, tar_bytes, nr_entries)
         VALUES (:volume, :chain_id, :diff_id, :parent_chain, :tar_bytes, :nr_entries)",
        named_params! {
            ":volume": volume_key(id)?,
            ":chain_id": layer.chain_id.to_string(),
            ":diff_id": layer.diff_id.to_string(),
            ":parent_chain": layer.parent_chain.map(|chain| chain.to_string()),
            ":tar_bytes": to_sql("a size", layer.tar_bytes.get())?,
            ":nr_entries": to_sql("a number of entries", layer.nr_entries)?,
        },
    )?;
    Ok(())
}

/// The layer that these digits mean: of its chain id, else of its diff id.
fn by_digits(db: &Connection, digits: &str) -> Outcome<Vec<SealedLayer>> {
    for column in ["chain_id", "diff_id"] {
        let sql = joined(&format!(
            "WHERE substr(layers.{column}, 8, length(?1)) = ?1 ORDER BY volumes.id"
        ));
        let found = row::all(db, &sql, [digits], sealed)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn find_text(db: &Connection, text: &str) -> Outcome<SealedLayer> {
    let found = match images::digits_of(text) {
        Some(digits) => by_digits(db, digits)?,
        None => Vec::new(),
    };
    let name = text.to_owned();
    match <[SealedLayer; 1]>::try_from(found) {
        Ok([one]) => Ok(one),
        Err(none) if none.is_empty() => match images::find_text(db, text) {
            Ok(image) => images::layers(db, image.id)?
                .pop()
                .ok_or_else(|| StoreError::LayerNotFound { name }.into()),
            Err(Fault::Refused(StoreError::ImageNotFound { .. })) => {
                Err(StoreError::LayerNotFound { name }.into())
            }
            Err(error) => Err(error),
        },
        Err(several) => Err(StoreError::LayerAmbiguous {
            name,
            layers: several.iter().map(|layer| layer.layer.chain_id).collect(),
        }
        .into()),
    }
}

impl Catalogue {
    /// Records that a layer's volume is complete, verified and on the disk: it becomes ready and
    /// is found by its chain id from now on.
    ///
    /// # Errors
    /// [`StoreError::LayerExists`] where another volume with that chain id was sealed first, and
    /// this one is to be deleted; [`StoreError::Lineage`] where the volume is a snapshot of
    /// something else than the layer goes on; [`StoreError::NotALayer`],
    /// [`StoreError::VolumeTransition`], [`StoreError::VolumeNotFound`].
    pub fn seal_layer(&self, id: VolumeId, layer: &LayerRecord) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| seal(db, id, layer))
    }

    /// The sealed layer with this chain id.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn layer_by_chain(&self, chain_id: &Digest) -> Result<Option<SealedLayer>, StoreError> {
        self.read(|db| by_chain(db, chain_id))
    }

    /// The layer a user means: by its chain id, its diff id, at least four first digits of one, or an image
    /// whose top layer it is.
    ///
    /// # Errors
    /// [`StoreError::LayerNotFound`], [`StoreError::LayerAmbiguous`], [`StoreError::ImageAmbiguous`].
    pub fn find_layer(&self, text: &str) -> Result<SealedLayer, StoreError> {
        self.read(|db| find_text(db, text))
    }

    /// All sealed layers, by volume id.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn layers(&self) -> Result<Vec<SealedLayer>, StoreError> {
        self.read(all)
    }
}
