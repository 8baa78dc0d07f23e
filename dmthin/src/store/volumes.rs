//! Volumes: one row per thin device, from its intent until the kernel has deleted it.

use rusqlite::{Connection, named_params};

use crate::ids::{FsType, ImageId, ThinId, VolumeId, VolumeKind};
use crate::store::ballast;
use crate::store::catalogue::Catalogue;
use crate::store::connection::Durability;
use crate::store::error::{Outcome, StoreError};
use crate::store::pool;
use crate::store::record::{Committed, NewVolume, VolumeRecord};
use crate::store::removals::{self, Promise};
use crate::store::row::{self, Cells, VOLUME, to_sql, volume_key};
use crate::store::snapshots;
use crate::store::state::VolumeState;
use crate::store::timestamp::Timestamp;
use crate::units::Bytes;

pub(super) fn find(db: &Connection, id: VolumeId) -> Outcome<VolumeRecord> {
    row::first(
        db,
        &format!("SELECT {VOLUME} FROM volumes WHERE id = ?1"),
        [volume_key(id)?],
        row::volume,
    )?
    .ok_or_else(|| StoreError::VolumeNotFound { id }.into())
}

/// A volume that a snapshot can be taken of.
pub(super) fn find_ready(db: &Connection, id: VolumeId) -> Outcome<VolumeRecord> {
    let volume = find(db, id)?;
    match volume.state {
        VolumeState::Ready => Ok(volume),
        state => Err(StoreError::VolumeNotReady { id, state }.into()),
    }
}

/// Writes the intent of a new volume, with the next thin id.
pub(super) fn insert(
    db: &Connection,
    kind: VolumeKind,
    parent: Option<&VolumeRecord>,
    fs: FsType,
    size: Bytes,
) -> Outcome<VolumeRecord> {
    let (thin_id, made) = pool::take_thin_id(db)?;
    row::run(
        db,
        "INSERT INTO volumes (thin_id, kind, state, parent, size, fs, fs_uuid, created_at, active,
            made)
         VALUES (:thin_id, :kind, 'creating', :parent, :size, :fs, :fs_uuid, :created_at, 0,
            :made)",
        named_params! {
            ":thin_id": thin_id.get(),
            ":kind": kind.as_str(),
            ":parent": parent.map(|p| volume_key(p.id)).transpose()?,
            ":size": to_sql("a size", size.get())?,
            ":fs": fs.as_str(),
            ":fs_uuid": parent.and_then(|p| p.fs_uuid.as_deref()),
            ":created_at": to_sql("a time", Timestamp::now().to_unix())?,
            ":made": made,
        },
    )?;
    let sql = format!("SELECT {VOLUME} FROM volumes WHERE id = ?1");
    let inserted = row::first(db, &sql, [db.last_insert_rowid()], row::volume)?;
    Ok(inserted.ok_or(rusqlite::Error::QueryReturnedNoRows)?)
}

fn refuse_step(volume: &VolumeRecord, to: Option<VolumeState>) -> Outcome<()> {
    if VolumeState::is_step(Some(volume.state), to) {
        return Ok(());
    }
    Err(StoreError::VolumeTransition {
        id: volume.id,
        from: volume.state,
        to,
    }
    .into())
}

/// Makes a volume ready; the device of one that is written to is handed out from then on, in one with that. Its kind's own
/// conditions are the caller's.
pub(super) fn make_ready(db: &Connection, volume: &VolumeRecord) -> Outcome<()> {
    refuse_step(volume, Some(VolumeState::Ready))?;
    row::run(
        db,
        "UPDATE volumes SET state = 'ready', active = (kind IN ('container', 'data'))
         WHERE id = ?1",
        [volume_key(volume.id)?],
    )?;
    Ok(())
}

/// Volumes that are not being deleted and are snapshots of this one.
fn live_children(db: &Connection, id: VolumeId) -> Outcome<Vec<VolumeId>> {
    row::all(
        db,
        "SELECT id FROM volumes WHERE parent = ?1 AND state != 'deleting' ORDER BY id",
        [volume_key(id)?],
        |row| Cells::new(row, "volumes").number("id").map(VolumeId::new),
    )
}

fn images_of(db: &Connection, id: VolumeId) -> Outcome<Vec<ImageId>> {
    row::all(
        db,
        "SELECT DISTINCT image FROM image_layers WHERE layer = ?1 ORDER BY image",
        [volume_key(id)?],
        |row| {
            Cells::new(row, "image_layers")
                .number("image")
                .map(ImageId::new)
        },
    )
}

/// What needs a volume: live snapshots keep a base or a layer, images keep a layer. What is a
/// snapshot of another kind stands on its own.
pub(super) fn users(
    db: &Connection,
    volume: &VolumeRecord,
) -> Outcome<(Vec<VolumeId>, Vec<ImageId>)> {
    let children = match volume.kind {
        VolumeKind::Base | VolumeKind::Layer => live_children(db, volume.id)?,
        VolumeKind::Container | VolumeKind::Snapshot | VolumeKind::Data => Vec::new(),
    };
    Ok((children, images_of(db, volume.id)?))
}

/// Takes a volume out of the live set: its chain id and its name are free at once.
pub(super) fn retire(
    db: &Connection,
    volume: &VolumeRecord,
    promise: Promise,
) -> Outcome<VolumeRecord> {
    refuse_step(volume, Some(VolumeState::Deleting))?;
    let key = volume_key(volume.id)?;
    removals::insert(db, volume, promise)?;
    row::run(db, "DELETE FROM layers WHERE volume = ?1", [key])?;
    row::run(db, "DELETE FROM containers WHERE volume = ?1", [key])?;
    row::run(db, "DELETE FROM data_volumes WHERE volume = ?1", [key])?;
    row::run(db, "DELETE FROM snapshots WHERE volume = ?1", [key])?;
    row::run(
        db,
        "UPDATE volumes SET state = 'deleting', active = 0 WHERE id = ?1",
        [key],
    )?;
    find(db, volume.id)
}

pub(super) fn begin_deleting(
    db: &Connection,
    id: VolumeId,
    promise: Promise,
) -> Outcome<VolumeRecord> {
    let volume = find(db, id)?;
    let (children, images) = users(db, &volume)?;
    if !children.is_empty() || !images.is_empty() {
        return Err(StoreError::InUse {
            id,
            children,
            images,
        }
        .into());
    }
    snapshots::refuse_any(db, id)?;
    retire(db, &volume, promise)
}

pub(super) fn ready_base(
    db: &Connection,
    fs: FsType,
    size: Bytes,
) -> Outcome<Option<VolumeRecord>> {
    row::first(
        db,
        &format!(
            "SELECT {VOLUME} FROM volumes
             WHERE kind = 'base' AND state = 'ready' AND fs = ?1 AND size = ?2"
        ),
        (fs.as_str(), to_sql("a size", size.get())?),
        row::volume,
    )
}

impl Catalogue {
    /// Whether a volume has this thin id.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn has_thin_id(&self, id: ThinId) -> Result<bool, StoreError> {
        self.read(|db| {
            let sql = "SELECT id FROM volumes WHERE thin_id = ?1";
            let found = row::first(db, sql, [id.get()], |row| {
                Cells::new(row, "volumes").number("id")
            })?;
            Ok(found.is_some())
        })
    }

    /// Writes the intent of a base or a layer and gives it the next thin id. It starts in
    /// [`VolumeState::Creating`].
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`] and [`StoreError::VolumeNotReady`] for the parent,
    /// [`StoreError::TooSmall`] for less than the parent, [`StoreError::ThinIdsSpent`],
    /// [`StoreError::PoolDestroying`].
    pub fn begin_volume(&self, new: NewVolume) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| match new {
            NewVolume::Base { fs, size } => insert(db, VolumeKind::Base, None, fs, size),
            NewVolume::Layer { parent, size } => {
                let parent = find_ready(db, parent)?;
                if size < parent.size {
                    let least = parent.size;
                    return Err(StoreError::TooSmall { size, least }.into());
                }
                insert(db, VolumeKind::Layer, Some(&parent), parent.fs, size)
            }
        })
    }

    /// Records that a volume which is no layer holds what it should.
    ///
    /// # Errors
    /// [`StoreError::VolumeTransition`]; [`StoreError::LayerNotSealed`] for a layer;
    /// [`StoreError::BaseExists`] where another base of that class was first, and this one is to
    /// be deleted.
    pub fn set_ready(&self, id: VolumeId) -> Result<(), StoreError> {
        self.make_volume_ready(Durability::Durable, id)
    }

    /// As [`set_ready`](Self::set_ready), lazy: a power cut may undo it. Only for a volume that
    /// recovery can prove to be complete by the pool alone, as a snapshot is once its thin id is
    /// there; not for one that was filled.
    ///
    /// # Errors
    /// As [`set_ready`](Self::set_ready).
    pub fn set_ready_lazy(&self, id: VolumeId) -> Result<(), StoreError> {
        self.make_volume_ready(Durability::Lazy, id)
    }

    fn make_volume_ready(&self, durability: Durability, id: VolumeId) -> Result<(), StoreError> {
        self.write(durability, |db| {
            let volume = find(db, id)?;
            match volume.kind {
                VolumeKind::Layer => return Err(StoreError::LayerNotSealed { id }.into()),
                VolumeKind::Base if volume.state == VolumeState::Creating => {
                    if let Some(base) = ready_base(db, volume.fs, volume.size)? {
                        return Err(StoreError::BaseExists { volume: base.id }.into());
                    }
                }
                VolumeKind::Base
                | VolumeKind::Container
                | VolumeKind::Snapshot
                | VolumeKind::Data => {}
            }
            make_ready(db, &volume)
        })
    }

    /// Takes a volume out of the live set; the thin device is then to be deleted and the volume
    /// to be [forgotten](Self::forget_volume). A layer's chain id and a container's name are free
    /// at once. What was made of a container does not keep it, but for its own snapshots.
    ///
    /// # Errors
    /// [`StoreError::InUse`] for a base or layer with live snapshots or a layer of an image,
    /// [`StoreError::HasSnapshots`],
    /// [`StoreError::VolumeTransition`], [`StoreError::VolumeNotFound`].
    pub fn begin_deleting(&self, id: VolumeId) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            begin_deleting(db, id, Promise::Final)
        })
    }

    /// Drops the row of a volume whose thin device does not exist: one being deleted, or one that
    /// was never made. Its thin id is not given again. Lazy: a power cut may undo it, and recovery
    /// then finds no such device and forgets it again.
    ///
    /// # Errors
    /// [`StoreError::VolumeTransition`] for a ready volume, [`StoreError::VolumeNotFound`].
    pub fn forget_volume(&self, id: VolumeId) -> Result<(), StoreError> {
        self.write(Durability::Lazy, |db| {
            let volume = find(db, id)?;
            refuse_step(&volume, None)?;
            row::run(db, "DELETE FROM volumes WHERE id = ?1", [volume_key(id)?])?;
            if !volume.made {
                pool::take_back_thin_id(db, volume.thin_id)?;
            }
            Ok(())
        })
    }

    /// Gives a volume whose thin device is not made the next thin id: its own is somebody else's.
    ///
    /// # Errors
    /// [`StoreError::ThinIdsSpent`], [`StoreError::VolumeNotFound`].
    pub fn take_another_thin_id(&self, id: VolumeId) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            let volume = find(db, id)?;
            if !volume.made {
                let (thin_id, _) = pool::take_thin_id(db)?;
                row::run(
                    db,
                    "UPDATE volumes SET thin_id = ?1 WHERE id = ?2",
                    (thin_id.get(), volume_key(id)?),
                )?;
            }
            find(db, id)
        })
    }

    /// Records that the kernel made a volume's thin device. Lazy: a power cut may undo it, and the
    /// thin device is left to itself then.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn set_made(&self, id: VolumeId) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Lazy, |db| {
            let key = volume_key(id)?;
            row::run(db, "UPDATE volumes SET made = 1 WHERE id = ?1", [key])?;
            find(db, id)
        })
    }

    /// Records that a volume's thin id is another's: what is in the pool under it is not this volume's. Once
    /// it is forgotten the next one meets that id again, until the right catalogue is back. This one [is
    /// stale](Self::is_stale).
    ///
    /// # Errors
    /// [`StoreError::VolumeTransition`] for one that is ready.
    pub fn disown(&self, id: VolumeId) -> Result<(), StoreError> {
        self.changes().stop();
        self.write(Durability::Durable, |db| {
            let volume = find(db, id)?;
            if volume.state == VolumeState::Ready {
                let (from, to) = (volume.state, None);
                return Err(StoreError::VolumeTransition { id, from, to }.into());
            }
            let key = volume_key(id)?;
            row::run(db, "UPDATE volumes SET made = 0 WHERE id = ?1", [key])
        })
    }

    /// Records what a volume has mapped that is about to be sealed. Lazy: one whose number is not
    /// known counts in full.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn set_mapped(&self, id: VolumeId, mapped: Bytes) -> Result<(), StoreError> {
        self.write(Durability::Lazy, |db| {
            row::run(
                db,
                "UPDATE volumes SET mapped = ?1 WHERE id = ?2",
                (to_sql("a size", mapped.get())?, volume_key(id)?),
            )
        })
    }

    /// What the pool has promised to those who write in it, and what its images hold.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn committed(&self) -> Result<Committed, StoreError> {
        let sql = format!("SELECT {VOLUME} FROM volumes");
        self.read(|db| {
            let block = pool::select(db)?.block_size.to_bytes();
            let mut sum = Committed {
                writable: ballast::select(db)?.map_or(Bytes::ZERO, |ballast| ballast.size),
                ..Committed::default()
            };
            for volume in row::all(db, &sql, (), row::volume)? {
                let size = volume.growing_to.unwrap_or(volume.size);
                // A snapshot has all that it will have before it is ready.
                let sealed = match volume.kind {
                    VolumeKind::Base | VolumeKind::Layer => volume.state == VolumeState::Ready,
                    VolumeKind::Snapshot => true,
                    VolumeKind::Container | VolumeKind::Data => false,
                };
                let (part, size) = match volume.mapped.filter(|_| sealed) {
                    Some(mapped) => (&mut sum.sealed, mapped),
                    None => (&mut sum.writable, size),
                };
                *part = part.saturating_add(size.checked_round_up(block).unwrap_or(size));
            }
            Ok(sum)
        })
    }

    /// Records whether a volume's device is handed out, and so to be activated when the pool is
    /// opened; a container's is from when it is ready on, older versions said so later. Lazy: the devices themselves do not survive a power cut either, and a wish lost
    /// with it only leaves an activation to the next use.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotReady`] when activating what is not ready,
    /// [`StoreError::VolumeNotFound`].
    pub fn set_active(&self, id: VolumeId, active: bool) -> Result<(), StoreError> {
        self.write(Durability::Lazy, |db| {
            let volume = if active {
                find_ready(db, id)?
            } else {
                find(db, id)?
            };
            row::run(
                db,
                "UPDATE volumes SET active = ?1 WHERE id = ?2",
                (active, volume_key(volume.id)?),
            )?;
            Ok(())
        })
    }

    /// Writes the intent to grow the volume of a container, or a data volume; [`finish_growth`](Self::finish_growth) ends it.
    /// For the size that it has already there is nothing to be done, and nothing is written.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`] for less than it has, or than a growth that was cut may have given it;
    /// [`StoreError::Sealed`] for a base, layer or snapshot, [`StoreError::VolumeNotReady`],
    /// [`StoreError::VolumeNotFound`].
    pub fn begin_growth(&self, id: VolumeId, size: Bytes) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            let volume = find_ready(db, id)?;
            if !volume.kind.is_writable() {
                return Err(StoreError::Sealed { id }.into());
            }
            let least = volume.growing_to.unwrap_or(volume.size);
            if size < least {
                return Err(StoreError::TooSmall { size, least }.into());
            }
            if size > least {
                row::run(
                    db,
                    "UPDATE volumes SET growing_to = ?1 WHERE id = ?2",
                    (to_sql("a size", size.get())?, volume_key(id)?),
                )?;
            }
            find(db, id)
        })
    }

    /// Takes the intent of a growth back, before anything was done, to what it was before.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn undo_growth(&self, id: VolumeId, before: Option<Bytes>) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| {
            let volume = find(db, id)?;
            let before = before
                .map(|size| to_sql("a size", size.get()))
                .transpose()?;
            row::run(
                db,
                "UPDATE volumes SET growing_to = ?1 WHERE id = ?2",
                (before, volume_key(volume.id)?),
            )
        })
    }

    /// Records that a volume, its file system included, has the length it was grown to.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn finish_growth(&self, id: VolumeId) -> Result<VolumeRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            row::run(
                db,
                "UPDATE volumes SET size = growing_to, growing_to = NULL
                 WHERE id = ?1 AND growing_to IS NOT NULL",
                [volume_key(id)?],
            )?;
            find(db, id)
        })
    }

    /// Records the uuid of a volume's file system.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn set_fs_uuid(&self, id: VolumeId, fs_uuid: &str) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| {
            let volume = find(db, id)?;
            row::run(
                db,
                "UPDATE volumes SET fs_uuid = ?1 WHERE id = ?2",
                (fs_uuid, volume_key(volume.id)?),
            )?;
            Ok(())
        })
    }

    /// One volume.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn volume(&self, id: VolumeId) -> Result<VolumeRecord, StoreError> {
        self.read(|db| find(db, id))
    }

    /// The base of a file system and size, once it is ready.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn base(&self, fs: FsType, size: Bytes) -> Result<Option<VolumeRecord>, StoreError> {
        self.read(|db| ready_base(db, fs, size))
    }

    /// All volumes in any state, by id.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn all_volumes(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let sql = format!("SELECT {VOLUME} FROM volumes ORDER BY id");
        self.read(|db| row::all(db, &sql, (), row::volume))
    }

    /// The bases that are ready, by id.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn bases(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let rows = "WHERE kind = 'base' AND state = 'ready' ORDER BY id";
        let sql = format!("SELECT {VOLUME} FROM volumes {rows}");
        self.read(|db| row::all(db, &sql, (), row::volume))
    }

    /// The volumes that are being created or deleted, by id: after a crash, what recovery settles.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn unsettled(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        let sql = format!("SELECT {VOLUME} FROM volumes WHERE state != 'ready' ORDER BY id");
        self.read(|db| row::all(db, &sql, (), row::volume))
    }
}
