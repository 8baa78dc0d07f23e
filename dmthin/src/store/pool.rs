//! The one row about the pool, and the generation that pairs it with the pool's superblock.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::{Connection, named_params};
use rustix::fs::FallocateFlags;

use crate::ids::{ThinId, TransactionId};
use crate::store::catalogue::Catalogue;
use crate::store::connection::{self, Durability};
use crate::store::error::{CorruptionKind, Outcome, StoreError};
use crate::store::record::{
    BackingRecord, Counts, ExistingPool, Guard, MovedPool, NewPool, PoolRecord,
};
use crate::store::row::{self, Cells, generation_key, to_sql};
use crate::store::state::{PoolState, WhenFull};
use crate::store::timestamp::Timestamp;
use crate::units::{BlockSize, Bytes, DataBlocks, Percent};

/// What the write-ahead log grows to before it is begun anew, and half as much: a page has a frame's header.
const RESERVE: u64 = 3 << 19;

/// Kind, place and start of a backing.
type BackingColumns<'a> = (&'static str, &'a str, Option<i64>);

fn backing_columns(backing: &BackingRecord) -> Outcome<BackingColumns<'_>> {
    Ok(match backing {
        BackingRecord::File { name } => ("file", name, None),
        BackingRecord::Device { path } => ("device", path_text(path)?, None),
        BackingRecord::Part { path, start } => {
            let start = to_sql("an offset", start.get())?;
            ("device", path_text(path)?, Some(start))
        }
        BackingRecord::ThinPool(existing) => ("device", existing.name.as_str(), None),
    })
}

fn path_text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| {
        let path = path.to_owned();
        StoreError::PathNotUtf8 { path }.into()
    })
}

fn backing(
    cells: &Cells<'_>,
    kind: &'static str,
    at: &'static str,
    start: &'static str,
) -> Outcome<BackingRecord> {
    let place: String = cells.raw(at)?;
    let existing: Option<String> = cells.raw("existing_name")?;
    let start = cells.number_or_null(start)?.map(Bytes::new);
    match (cells.raw::<String>(kind)?.as_str(), start, existing) {
        ("file", None, None) => Ok(BackingRecord::File { name: place }),
        ("device", None, None) => Ok(BackingRecord::Device { path: place.into() }),
        ("device", Some(start), None) => Ok(BackingRecord::Part {
            path: place.into(),
            start,
        }),
        ("device", None, Some(_)) => Ok(BackingRecord::ThinPool(ExistingPool {
            name: cells.text("existing_name")?,
            uuid: cells
                .raw::<Option<String>>("existing_uuid")?
                .map(|_| cells.text("existing_uuid"))
                .transpose()?,
        })),
        _ => Err(cells.bad(kind)),
    }
}

fn percent(cells: &Cells<'_>, column: &'static str) -> Outcome<Percent> {
    Percent::new(cells.number(column)?).map_err(|_| cells.bad(column))
}

pub(super) fn insert(db: &Connection, new: &NewPool) -> Outcome<()> {
    let (data_kind, data_at, data_start) = backing_columns(&new.data)?;
    let (metadata_kind, metadata_at, metadata_start) = backing_columns(&new.metadata)?;
    let existing = match &new.data {
        BackingRecord::ThinPool(existing) => Some(existing),
        _ => None,
    };
    row::run(
        db,
        "INSERT INTO pool (one, name, uuid, created_at, block_size, low_water,
            data_kind, data_at, data_start, data_size,
            metadata_kind, metadata_at, metadata_start, metadata_size,
            zeroing, base_size, fs, mkfs_args, min_free_data, min_free_metadata,
            existing_name, existing_uuid, overcommit, foreign_ids,
            state, generation, pending_generation, next_thin_id, when_full)
         VALUES (1, :name, :uuid, :created_at, :block_size, :low_water,
            :data_kind, :data_at, :data_start, :data_size,
            :metadata_kind, :metadata_at, :metadata_start, :metadata_size,
            :zeroing, :base_size, :fs, :mkfs_args, :min_free_data, :min_free_metadata,
            :existing_name, :existing_uuid, :overcommit, :foreign_ids,
            'creating', 0, NULL, :next_thin_id, :when_full)",
        named_params! {
            ":name": new.name.as_str(),
            ":uuid": new.uuid.to_string(),
            ":created_at": to_sql("a time", Timestamp::now().to_unix())?,
            ":block_size": to_sql("a block size", new.block_size.to_bytes().get())?,
            ":low_water": to_sql("a low-water mark", new.low_water.get())?,
            ":data_kind": data_kind,
            ":data_at": data_at,
            ":data_start": data_start,
            ":data_size": to_sql("a size", new.data_size.get())?,
            ":metadata_kind": metadata_kind,
            ":metadata_at": metadata_at,
            ":metadata_start": metadata_start,
            ":metadata_size": to_sql("a size", new.metadata_size.get())?,
            ":zeroing": new.zeroing,
            ":base_size": to_sql("a size", new.base_size.get())?,
            ":fs": new.fs.as_str(),
            ":mkfs_args": serde_json::Value::from(new.mkfs_args.clone()).to_string(),
            ":min_free_data": new.guard.min_free_data.get(),
            ":min_free_metadata": new.guard.min_free_metadata.get(),
            ":when_full": new.when_full.as_str(),
            ":existing_name": existing.map(|existing| existing.name.as_str()),
            ":existing_uuid": existing.and_then(|existing| Some(existing.uuid.as_ref()?.as_str())),
            ":overcommit": new.overcommit,
            ":foreign_ids": existing.is_some(),
            ":next_thin_id": new.first_thin_id.get(),
        },
    )?;
    Ok(())
}

pub(super) fn select(db: &Connection) -> Outcome<PoolRecord> {
    row::first(db, "SELECT * FROM pool", (), |row| {
        let cells = Cells::new(row, "pool");
        let mkfs_args: String = cells.raw("mkfs_args")?;
        let end = cells.thin_id("thin_ids_end")?;
        // One past the last, the end, is written when the last one is taken.
        let next = ThinId::new(cells.number("next_thin_id")?).ok();
        Ok(PoolRecord {
            name: cells.text("name")?,
            uuid: cells.text("uuid")?,
            created_at: cells.timestamp("created_at")?,
            block_size: BlockSize::from_bytes(cells.bytes("block_size")?)
                .map_err(|_| cells.bad("block_size"))?,
            low_water: DataBlocks::new(cells.number("low_water")?),
            data: backing(&cells, "data_kind", "data_at", "data_start")?,
            data_size: cells.bytes("data_size")?,
            metadata: backing(&cells, "metadata_kind", "metadata_at", "metadata_start")?,
            metadata_size: cells.bytes("metadata_size")?,
            zeroing: cells.raw("zeroing")?,
            base_size: cells.bytes("base_size")?,
            fs: cells.text("fs")?,
            mkfs_args: serde_json::from_str(&mkfs_args).map_err(|_| cells.bad("mkfs_args"))?,
            guard: Guard {
                min_free_data: percent(&cells, "min_free_data")?,
                min_free_metadata: percent(&cells, "min_free_metadata")?,
            },
            when_full: cells.text("when_full")?,
            overcommit: cells.raw("overcommit")?,
            foreign_ids: cells.raw("foreign_ids")?,
            state: cells.text("state")?,
            generation: TransactionId::new(cells.number("generation")?),
            pending_generation: cells
                .number_or_null("pending_generation")?
                .map(TransactionId::new),
            next_thin_id: next.filter(|next| *next < end),
            thin_ids_end: end,
        })
    })?
    .ok_or_else(|| CorruptionKind::NoPoolRow.into())
}

/// Records where a pool on a disk is now, and what it is called there.
pub(super) fn set_moved(db: &Connection, moved: &MovedPool) -> Outcome<()> {
    set_disk(db, &moved.disk)?;
    row::run(
        db,
        "UPDATE pool SET name = ?1, foreign_ids = max(foreign_ids, ?2)",
        (moved.name.as_str(), moved.foreign_ids),
    )
}

fn set_disk(db: &Connection, path: &Path) -> Outcome<()> {
    row::run(
        db,
        "UPDATE pool SET data_at = ?1, metadata_at = ?1 WHERE data_start IS NOT NULL",
        [path_text(path)?],
    )
}

/// Takes the next thin id, for good once the transaction is committed, and whether it is surely
/// ours: nobody else makes ids in the pool.
pub(super) fn take_thin_id(db: &Connection) -> Outcome<(ThinId, bool)> {
    let pool = select(db)?;
    if pool.state == PoolState::Destroying {
        return Err(StoreError::PoolDestroying.into());
    }
    let id = pool.next_thin_id.ok_or(StoreError::ThinIdsSpent)?;
    row::run(
        db,
        "UPDATE pool SET next_thin_id = ?1",
        [id.get().saturating_add(1)],
    )?;
    Ok((id, !pool.foreign_ids))
}

/// Has the thin ids from `next` on be given out, up to `end`.
pub(super) fn set_thin_ids(db: &Connection, next: ThinId, end: ThinId) -> Outcome<()> {
    row::run(
        db,
        "UPDATE pool SET next_thin_id = ?1, thin_ids_end = ?2",
        (next.get(), end.get()),
    )
}

/// Records of a pool that is made known again where it lies now and which transaction id it has; it is ready.
pub(super) fn set_found(db: &Connection, new: &NewPool, generation: TransactionId) -> Outcome<()> {
    for (half, backing, size) in [
        ("data", &new.data, new.data_size),
        ("metadata", &new.metadata, new.metadata_size),
    ] {
        let (kind, at, start) = backing_columns(backing)?;
        row::run(
            db,
            &format!(
                "UPDATE pool SET {half}_kind = ?1, {half}_at = ?2, {half}_start = ?3, {half}_size = ?4"
            ),
            (kind, at, start, to_sql("a size", size.get())?),
        )?;
    }
    row::run(
        db,
        "UPDATE pool SET state = 'ready', generation = ?1, pending_generation = NULL",
        [generation_key(generation)?],
    )
}

/// Has the last id that was taken be the next one again, where all are ours to give: the pool has it, and
/// this catalogue is an older one. Where others give ids, theirs are passed over.
pub(super) fn take_back_thin_id(db: &Connection, id: ThinId) -> Outcome<()> {
    row::run(
        db,
        "UPDATE pool SET next_thin_id = ?1
         WHERE next_thin_id = ?1 + 1 AND foreign_ids = 0 AND existing_name IS NULL",
        [id.get()],
    )
}

impl Catalogue {
    /// The pool as recorded.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn pool(&self) -> Result<PoolRecord, StoreError> {
        self.read(select)
    }

    /// How much of everything there is, in one consistent view.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|db| {
            let counts = row::first(
                db,
                "SELECT (SELECT count(*) FROM images) AS nr_images,
                    (SELECT coalesce(sum(size), 0) FROM containers JOIN volumes ON id = volume)
                        AS containers_size,
                    (SELECT coalesce(sum(size), 0) FROM data_volumes JOIN volumes ON id = volume)
                        AS data_size,
                    count(*) FILTER (WHERE state = 'ready' AND kind = 'base') AS nr_bases,
                    count(*) FILTER (WHERE state = 'ready' AND kind = 'layer') AS nr_layers,
                    count(*) FILTER (WHERE state = 'ready' AND kind = 'container')
                        AS nr_containers,
                    count(*) FILTER (WHERE state = 'ready' AND kind = 'container' AND active)
                        AS nr_active,
                    count(*) FILTER (WHERE state = 'ready' AND kind = 'snapshot')
                        AS nr_snapshots,
                    count(*) FILTER (WHERE state = 'ready' AND kind = 'data') AS nr_data,
                    count(*) FILTER (WHERE state = 'creating') AS nr_creating,
                    count(*) FILTER (WHERE state = 'deleting') AS nr_deleting
                FROM volumes",
                (),
                |row| {
                    let cells = Cells::new(row, "volumes");
                    Ok(Counts {
                        nr_images: cells.number("nr_images")?,
                        nr_bases: cells.number("nr_bases")?,
                        nr_layers: cells.number("nr_layers")?,
                        nr_containers: cells.number("nr_containers")?,
                        nr_active: cells.number("nr_active")?,
                        nr_snapshots: cells.number("nr_snapshots")?,
                        nr_data: cells.number("nr_data")?,
                        nr_creating: cells.number("nr_creating")?,
                        nr_deleting: cells.number("nr_deleting")?,
                        containers_size: cells.bytes("containers_size")?,
                        data_size: cells.bytes("data_size")?,
                    })
                },
            )?;
            Ok(counts.unwrap_or_default())
        })
    }

    /// Puts the pool into another state.
    ///
    /// # Errors
    /// [`StoreError::PoolTransition`].
    pub fn set_pool_state(&self, to: PoolState) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| {
            let from = select(db)?.state;
            if !from.may_become(to) {
                return Err(StoreError::PoolTransition { from, to }.into());
            }
            row::run(db, "UPDATE pool SET state = ?1", [to.as_str()])?;
            Ok(())
        })?;
        // Without its log it would say that the pool is half made, which `pool destroy` clears away.
        match to {
            PoolState::Ready => {
                self.reserve();
                self.fold()
            }
            PoolState::Creating | PoolState::Destroying => Ok(()),
        }
    }

    /// Copies the write-ahead log into the file, as far as no reader needs it: the file alone is the
    /// catalogue then, should the log be lost.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn fold(&self) -> Result<(), StoreError> {
        let fold = || -> Outcome<()> {
            // One of its own: others may be in the middle of a transaction on the one that writes.
            let db = connection::attach(self.path())?;
            db.pragma_update(None, "synchronous", "FULL")?;
            Ok(db.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()))?)
        };
        fold().map_err(|fault| fault.at(self.path()))
    }

    /// Has the file system keep room for the write-ahead log, so that removals go on when it is full. One that
    /// cannot is no error.
    pub fn reserve(&self) {
        let mut log = OsString::from(self.path());
        log.push("-wal");
        // Not the file itself: closing a descriptor of it would drop the engine's locks.
        let kept = OpenOptions::new().write(true).open(&log).and_then(|file| {
            Ok(rustix::fs::fallocate(
                &file,
                FallocateFlags::KEEP_SIZE,
                0,
                RESERVE,
            )?)
        });
        if let Err(error) = kept {
            tracing::debug!(log = %log.display(), %error, "no room is kept for it");
        }
    }

    /// Records how long the pool's data and metadata devices are to be, and its low-water mark: the
    /// intent of a growth, which the next opening fulfils where it was cut. They never shrink.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`], [`StoreError::TooLarge`].
    pub fn set_pool_sizes(
        &self,
        data: Bytes,
        metadata: Bytes,
        low_water: DataBlocks,
    ) -> Result<PoolRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            let pool = select(db)?;
            for (size, least) in [(data, pool.data_size), (metadata, pool.metadata_size)] {
                if size < least {
                    return Err(StoreError::TooSmall { size, least }.into());
                }
            }
            row::run(
                db,
                "UPDATE pool SET data_size = ?1, metadata_size = ?2, low_water = ?3",
                (
                    to_sql("a size", data.get())?,
                    to_sql("a size", metadata.get())?,
                    to_sql("a low-water mark", low_water.get())?,
                ),
            )?;
            select(db)
        })
    }

    /// Records the size of the base volume that new images stand on. It never shrinks.
    ///
    /// # Errors
    /// [`StoreError::TooSmall`], [`StoreError::TooLarge`].
    pub fn set_base_size(&self, size: Bytes) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| {
            let least = select(db)?.base_size;
            if size < least {
                return Err(StoreError::TooSmall { size, least }.into());
            }
            let size = to_sql("a size", size.get())?;
            row::run(db, "UPDATE pool SET base_size = ?1", [size])
        })
    }

    /// Records what must stay free and what a full pool does; what is left out stays.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn set_policy(
        &self,
        min_free_data: Option<Percent>,
        min_free_metadata: Option<Percent>,
        when_full: Option<WhenFull>,
    ) -> Result<PoolRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            row::run(
                db,
                "UPDATE pool SET min_free_data = coalesce(?1, min_free_data),
                    min_free_metadata = coalesce(?2, min_free_metadata),
                    when_full = coalesce(?3, when_full)",
                (
                    min_free_data.map(Percent::get),
                    min_free_metadata.map(Percent::get),
                    when_full.map(WhenFull::as_str),
                ),
            )?;
            select(db)
        })
    }

    /// Records whether more may be promised than there is.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn set_overcommit(&self, overcommit: bool) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| {
            row::run(db, "UPDATE pool SET overcommit = ?1", [overcommit])
        })
    }

    /// Has the thin ids from `next` on be given out, up to `end`. The caller has proven that the pool has none
    /// of them, and keeps others from making one meanwhile.
    ///
    /// # Errors
    /// The file's own troubles.
    pub fn set_thin_ids(&self, next: ThinId, end: ThinId) -> Result<(), StoreError> {
        self.write(Durability::Durable, |db| set_thin_ids(db, next, end))
    }

    /// Records the path of the disk that the pool lies on whole.
    ///
    /// # Errors
    /// [`StoreError::PathNotUtf8`].
    pub fn set_disk(&self, path: &Path) -> Result<PoolRecord, StoreError> {
        self.write(Durability::Durable, |db| {
            set_disk(db, path)?;
            select(db)
        })
    }

    /// Records that the pool is about to go from transaction id `from` to the one returned, which
    /// is then to be sent to the pool and confirmed here. Idempotent until confirmed.
    ///
    /// # Errors
    /// [`StoreError::Generation`] where `from` is not the recorded generation.
    pub fn begin_generation(&self, from: TransactionId) -> Result<TransactionId, StoreError> {
        self.write(Durability::Durable, |db| {
            let pool = select(db)?;
            if from != pool.generation {
                return Err(StoreError::Generation {
                    found: from,
                    generation: pool.generation,
                    pending: pool.pending_generation,
                }
                .into());
            }
            let pending = from.next().ok_or(StoreError::TooLarge {
                what: "a generation",
                value: from.get(),
            })?;
            row::run(
                db,
                "UPDATE pool SET pending_generation = ?1",
                [generation_key(pending)?],
            )?;
            Ok(pending)
        })
    }

    /// Records that the pool has the transaction id that was pending. Lazy: a power cut may undo
    /// it, and the pool's transaction id then says so again ([`GenerationCheck::PendingDone`]).
    /// Confirming the recorded generation once more changes nothing.
    ///
    /// [`GenerationCheck::PendingDone`]: super::GenerationCheck::PendingDone
    ///
    /// # Errors
    /// [`StoreError::Generation`] where it is not the pending one.
    pub fn confirm_generation(&self, reached: TransactionId) -> Result<(), StoreError> {
        self.write(Durability::Lazy, |db| {
            let pool = select(db)?;
            match pool.pending_generation {
                None if reached == pool.generation => Ok(()),
                Some(pending) if reached == pending => {
                    row::run(
                        db,
                        "UPDATE pool SET generation = ?1, pending_generation = NULL",
                        [generation_key(reached)?],
                    )?;
                    Ok(())
                }
                pending => Err(StoreError::Generation {
                    found: reached,
                    generation: pool.generation,
                    pending,
                }
                .into()),
            }
        })
    }
}
