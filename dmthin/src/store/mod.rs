//! The catalogue: what a pool holds, by name, in one SQL file that several processes share.
//!
//! The kernel's thin pool is the truth for blocks, the catalogue is the truth for names. Every
//! operation of the library first writes its intent here, durably, then acts on the kernel, then
//! records the result; what a crash leaves between these steps is in [`Catalogue::unsettled`] and
//! is settled by looking at the kernel.
//!
//! # Invariants
//! - A write is done as a whole or not at all. Those of several threads may share a transaction and
//!   its flush. None outlives the calls of those who share it, so none is ever held across a call
//!   into the kernel.
//! - A write is on the disk when the call returns, except where its documentation says *lazy*:
//!   those are what recovery can derive again from the pool.
//! - Volume ids and thin ids rise and are never given twice.
//! - A volume changes state only as `state.rs` allows. A volume in state deleting has no
//!   layer and no container row: its chain id and its name are free.
//! - A catalogue is there whole or not at all: it is made under another name and renamed.
//!
//! # Format 5
//! `application_id` is `0x44544331` ("DTC1"), `user_version` is the format. All tables are
//! `STRICT`; sizes are bytes, times are unix seconds, digests are `sha256:` and 64 digits.
//!
//! | table | one row is | columns |
//! |---|---|---|
//! | `pool` | the pool (one row) | `name` `uuid` `created_at`, `block_size`, `low_water` (data blocks), `data_kind` `data_at` `data_size`, `metadata_kind` `metadata_at` `metadata_size` (kind `file`: a name beside the catalogue, `device`: a path or a dm name), `data_start` `metadata_start` (on a labelled disk), `existing_name` `existing_uuid` (another's thin-pool), `overcommit`, `foreign_ids`, `zeroing`, `base_size`, `fs`, `mkfs_args` (JSON array), `state`, `generation`, `pending_generation`, `next_thin_id` `thin_ids_end` (where the ids end that may be given; at it: all spent), `when_full` (`queue` `error`) |
//! | `volumes` | a thin device | `id`, `thin_id`, `kind` (`base` `layer` `container` `snapshot` `data`), `state` (`creating` `ready` `deleting`), `parent` (a volume), `size`, `fs`, `fs_uuid`, `created_at`, `active`, `made`, `mapped` |
//! | `layers` | a sealed layer | `volume`, `chain_id` (unique), `diff_id`, `parent_chain`, `tar_bytes`, `nr_entries` |
//! | `images` | an image | `id`, `config_digest` (unique), `manifest_digest`, `config` (the bytes), `architecture`, `os`, `created` (as the config says), `imported_at` |
//! | `image_layers` | a layer of an image | `image`, `position` (0 is the lowest), `layer` |
//! | `refs` | a name of an image | `name` (with its tag), `image` |
//! | `containers` | a container | `volume`, `name` (unique), `image`, `image_name` (at creation) |
//! | `data_volumes` | a data volume | `volume`, `name` (unique) |
//! | `snapshots` | a kept state | `volume`, `owner` (the volume of its container or data volume), `name` (unique for an owner) |
//! | `ballast` | the pool's ballast, if it has one | `thin_id`, `size`, `state` (`filling` `ready` `releasing`) |
//! | `removals` | what is known of a volume in state `deleting` | `volume`, `name` (its container's), `since`, `attempts`, `next_try` |
//!
//! The file is in WAL mode: `catalogue.db-wal` and `catalogue.db-shm` beside it are part of it.

mod ballast;
mod catalogue;
mod connection;
mod containers;
mod data;
mod error;
mod images;
mod layers;
mod pool;
mod rebuild;
mod record;
mod removals;
mod row;
mod rows;
mod schema;
mod snapshots;
mod state;
mod timestamp;
mod volumes;

#[cfg(test)]
mod tests;

pub use catalogue::Catalogue;
pub use error::{Corruption, StoreError};
pub use rebuild::{Anonymous, Dropped, LostImage, Rebuilding, Settled, UnknownThin};
pub use record::{
    AddedImage, BackingRecord, BallastRecord, Committed, ContainerRecord, Counts, DataVolumeRecord,
    ExistingPool, Guard, ImageRecord, LayerRecord, MovedPool, NewContainer, NewImage, NewPool,
    NewVolume, PoolRecord, RemovalRecord, RemovedImages, SealedLayer, SnapshotRecord, VolumeRecord,
    WritableRecord,
};
pub use rows::ChangedRows;
pub use state::{BallastState, GenerationCheck, PoolState, VolumeState, WhenFull};
pub use timestamp::Timestamp;
