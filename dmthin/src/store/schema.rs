//! The tables, and how a file of an older format becomes one of ours.

use rusqlite::Connection;

use crate::store::error::{CorruptionKind, Outcome};

/// "DTC1": tells a catalogue from any other database.
pub(super) const APPLICATION_ID: i32 = 0x4454_4331;

/// New kinds of volumes. The condition on `kind` is part of the table, which is made anew for it; who makes
/// this step has foreign keys off, or what refers to the table would go with the old one.
///
/// Where the thin ids end that are given out, which moves when they are spent and others are found to be free;
/// the last one there is belongs to the mirror. And what makes a change of an image's names one of its row,
/// for the engine tells of those only ([`rows`](super::rows)).
const FORMAT_5: &str = "
CREATE TABLE volumes_anew (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    thin_id INTEGER NOT NULL UNIQUE CHECK (thin_id BETWEEN 0 AND 16777215),
    kind TEXT NOT NULL CHECK (kind IN ('base', 'layer', 'container', 'snapshot', 'data')),
    state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleting')),
    parent INTEGER REFERENCES volumes (id) ON DELETE SET NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    growing_to INTEGER CHECK (growing_to > size),
    fs TEXT NOT NULL,
    fs_uuid TEXT,
    created_at INTEGER NOT NULL,
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    made INTEGER NOT NULL DEFAULT 1 CHECK (made IN (0, 1)),
    mapped INTEGER CHECK (mapped >= 0)
) STRICT;
INSERT INTO volumes_anew (id, thin_id, kind, state, parent, size, growing_to, fs, fs_uuid,
        created_at, active, made, mapped)
    SELECT id, thin_id, kind, state, parent, size, growing_to, fs, fs_uuid,
        created_at, active, made, mapped
    FROM volumes;
-- No id is given twice, those of volumes that are gone included.
DELETE FROM sqlite_sequence WHERE name = 'volumes_anew';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'volumes_anew', seq FROM sqlite_sequence WHERE name = 'volumes';
DROP TABLE volumes;
ALTER TABLE volumes_anew RENAME TO volumes;
CREATE INDEX volumes_by_parent ON volumes (parent);
CREATE INDEX volumes_unsettled ON volumes (id) WHERE state != 'ready';
CREATE UNIQUE INDEX one_base_per_class ON volumes (fs, size)
    WHERE kind = 'base' AND state = 'ready';

CREATE TABLE data_volumes (
    volume INTEGER PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE snapshots (
    volume INTEGER PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    owner INTEGER NOT NULL REFERENCES volumes (id),
    name TEXT NOT NULL,
    UNIQUE (owner, name)
) STRICT;

ALTER TABLE pool ADD COLUMN thin_ids_end INTEGER NOT NULL DEFAULT 16777215
    CHECK (thin_ids_end BETWEEN 0 AND 16777215);

CREATE TRIGGER ref_added AFTER INSERT ON refs BEGIN
    UPDATE images SET imported_at = imported_at WHERE id = NEW.image;
END;
CREATE TRIGGER ref_moved AFTER UPDATE ON refs BEGIN
    UPDATE images SET imported_at = imported_at WHERE id IN (OLD.image, NEW.image);
END;
CREATE TRIGGER ref_removed AFTER DELETE ON refs BEGIN
    UPDATE images SET imported_at = imported_at WHERE id = OLD.image;
END;
";

/// Step n makes format n + 1 out of format n; an empty file is format 0.
pub(super) const STEPS: &[&str] = &[
    "
CREATE TABLE pool (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL,
    uuid TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    block_size INTEGER NOT NULL,
    low_water INTEGER NOT NULL,
    data_kind TEXT NOT NULL CHECK (data_kind IN ('file', 'device')),
    data_at TEXT NOT NULL,
    data_size INTEGER NOT NULL,
    metadata_kind TEXT NOT NULL CHECK (metadata_kind IN ('file', 'device')),
    metadata_at TEXT NOT NULL,
    metadata_size INTEGER NOT NULL,
    zeroing INTEGER NOT NULL CHECK (zeroing IN (0, 1)),
    base_size INTEGER NOT NULL,
    fs TEXT NOT NULL,
    mkfs_args TEXT NOT NULL,
    min_free_data INTEGER NOT NULL CHECK (min_free_data BETWEEN 0 AND 99),
    min_free_metadata INTEGER NOT NULL CHECK (min_free_metadata BETWEEN 0 AND 99),
    state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'destroying')),
    generation INTEGER NOT NULL CHECK (generation >= 0),
    pending_generation INTEGER CHECK (pending_generation = generation + 1),
    next_thin_id INTEGER NOT NULL CHECK (next_thin_id BETWEEN 0 AND 16777216)
) STRICT;

CREATE TABLE volumes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    thin_id INTEGER NOT NULL UNIQUE CHECK (thin_id BETWEEN 0 AND 16777215),
    kind TEXT NOT NULL CHECK (kind IN ('base', 'layer', 'container')),
    state TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleting')),
    parent INTEGER REFERENCES volumes (id) ON DELETE SET NULL,
    size INTEGER NOT NULL CHECK (size >= 0),
    growing_to INTEGER CHECK (growing_to > size),
    fs TEXT NOT NULL,
    fs_uuid TEXT,
    created_at INTEGER NOT NULL,
    active INTEGER NOT NULL CHECK (active IN (0, 1))
) STRICT;
CREATE INDEX volumes_by_parent ON volumes (parent);
CREATE INDEX volumes_unsettled ON volumes (id) WHERE state != 'ready';
CREATE UNIQUE INDEX one_base_per_class ON volumes (fs, size)
    WHERE kind = 'base' AND state = 'ready';

CREATE TABLE layers (
    volume INTEGER PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    chain_id TEXT NOT NULL UNIQUE,
    diff_id TEXT NOT NULL,
    parent_chain TEXT,
    tar_bytes INTEGER NOT NULL CHECK (tar_bytes >= 0),
    nr_entries INTEGER NOT NULL CHECK (nr_entries >= 0)
) STRICT;

CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    config_digest TEXT NOT NULL UNIQUE,
    manifest_digest TEXT,
    config BLOB NOT NULL,
    architecture TEXT NOT NULL,
    os TEXT NOT NULL,
    created TEXT,
    imported_at INTEGER NOT NULL
) STRICT;

CREATE TABLE image_layers (
    image INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),
    layer INTEGER NOT NULL REFERENCES layers (volume),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_by_layer ON image_layers (layer);

CREATE TABLE refs (
    name TEXT PRIMARY KEY,
    image INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_by_image ON refs (image);

CREATE TABLE containers (
    volume INTEGER PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    image INTEGER NOT NULL REFERENCES images (id),
    image_name TEXT NOT NULL
) STRICT;
CREATE INDEX containers_by_image ON containers (image);
",
    "
CREATE TABLE removals (
    volume INTEGER PRIMARY KEY REFERENCES volumes (id) ON DELETE CASCADE,
    name TEXT,
    since INTEGER NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    next_try INTEGER NOT NULL
) STRICT;
",
    "
ALTER TABLE pool ADD COLUMN data_start INTEGER CHECK (data_start > 0);
ALTER TABLE pool ADD COLUMN metadata_start INTEGER CHECK (metadata_start > 0);
ALTER TABLE pool ADD COLUMN existing_name TEXT;
ALTER TABLE pool ADD COLUMN existing_uuid TEXT;
ALTER TABLE pool ADD COLUMN overcommit INTEGER NOT NULL DEFAULT 1 CHECK (overcommit IN (0, 1));
ALTER TABLE pool ADD COLUMN foreign_ids INTEGER NOT NULL DEFAULT 0 CHECK (foreign_ids IN (0, 1));
ALTER TABLE volumes ADD COLUMN made INTEGER NOT NULL DEFAULT 1 CHECK (made IN (0, 1));
ALTER TABLE volumes ADD COLUMN mapped INTEGER CHECK (mapped >= 0);

ALTER TABLE pool ADD COLUMN when_full TEXT NOT NULL DEFAULT 'queue'
    CHECK (when_full IN ('queue', 'error'));

CREATE TABLE ballast (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    thin_id INTEGER NOT NULL CHECK (thin_id BETWEEN 0 AND 16777215),
    size INTEGER NOT NULL CHECK (size > 0),
    state TEXT NOT NULL CHECK (state IN ('filling', 'ready', 'releasing'))
) STRICT;
",
    "
ALTER TABLE removals ADD COLUMN image INTEGER REFERENCES images (id) ON DELETE SET NULL;
ALTER TABLE removals ADD COLUMN image_name TEXT;
ALTER TABLE removals ADD COLUMN final INTEGER NOT NULL DEFAULT 1 CHECK (final IN (0, 1));
",
    FORMAT_5,
];

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One of ours, up to date.
    Current,
    /// One of ours, to be migrated.
    Older,
    /// From a newer version.
    Newer(i32),
}

/// The format that `nr_steps` steps lead to.
pub(super) fn newest(steps: &[&str]) -> i32 {
    i32::try_from(steps.len()).unwrap_or(i32::MAX)
}

pub(super) fn format(db: &Connection, steps: &[&str]) -> Outcome<Format> {
    let application_id: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if application_id != APPLICATION_ID || version < 1 {
        return Err(CorruptionKind::NotACatalogue { application_id }.into());
    }
    Ok(match version.cmp(&newest(steps)) {
        std::cmp::Ordering::Less => Format::Older,
        std::cmp::Ordering::Equal => Format::Current,
        std::cmp::Ordering::Greater => Format::Newer(version),
    })
}

/// Takes the steps that are missing. Runs inside a write transaction: the version is read again
/// there, for another process may have migrated meanwhile.
pub(super) fn migrate(db: &Connection, steps: &[&str]) -> Outcome<()> {
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in steps.iter().skip(done) {
        db.execute_batch(step)?;
    }
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    if done < steps.len() {
        db.pragma_update(None, "user_version", newest(steps))?;
    }
    Ok(())
}
