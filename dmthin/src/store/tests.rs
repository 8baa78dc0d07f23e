//! Tests of the catalogue as a whole, and what they are built from.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "test helper"
)]

mod backing;
mod ballast;
mod damage;
mod file;
mod golden;
mod images;
mod kept;
mod model;
mod rebuild;
mod removals;
mod sharing;
mod together;
mod volumes;

use std::ops::Deref;
use std::sync::MutexGuard;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::ids::{
    ContainerName, Digest, FsType, ImageId, ImageRef, PoolName, PoolUuid, ThinId, VolumeId,
};
use crate::store::connection::Writer;
use crate::store::{
    BackingRecord, Catalogue, Guard, LayerRecord, NewContainer, NewImage, NewPool, NewVolume,
    StoreError, VolumeRecord, WhenFull,
};
use crate::units::{BlockSize, Bytes, DataBlocks, Percent};

const BASE_SIZE: Bytes = Bytes::from_gib(10);
const BASE: NewVolume = NewVolume::Base {
    fs: FsType::Ext4,
    size: BASE_SIZE,
};

/// A catalogue in a directory of its own.
struct Temp {
    catalogue: Catalogue,
    directory: TempDir,
}

impl Deref for Temp {
    type Target = Catalogue;

    fn deref(&self) -> &Catalogue {
        &self.catalogue
    }
}

impl Deref for Writer {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.db
    }
}

impl Catalogue {
    /// The connection that writes.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.connections().writer()
    }
}

impl Temp {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let catalogue = Catalogue::create(directory.path().join("catalogue.db"), &pool()).unwrap();
        Self {
            catalogue,
            directory,
        }
    }

    fn reopened(self) -> Self {
        let path = self.path().to_owned();
        drop(self.catalogue);
        Self {
            catalogue: Catalogue::open(path).unwrap(),
            directory: self.directory,
        }
    }

    fn sql(&self, sql: &str) {
        self.lock().execute_batch(sql).unwrap();
    }
}

/// Moves all of the WAL into the file.
fn checkpoint(catalogue: &Catalogue) {
    let busy: i64 = catalogue
        .lock()
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))
        .unwrap();
    assert_eq!(busy, 0);
}

fn pool() -> NewPool {
    NewPool {
        name: PoolName::new("tank").unwrap(),
        uuid: PoolUuid::from_bytes([7; 16]),
        block_size: BlockSize::DEFAULT,
        low_water: DataBlocks::new(1024),
        data: BackingRecord::File {
            name: "data.img".to_owned(),
        },
        data_size: Bytes::from_gib(100),
        metadata: BackingRecord::Device {
            path: "/dev/vg/meta".into(),
        },
        metadata_size: Bytes::from_mib(128),
        zeroing: true,
        base_size: BASE_SIZE,
        fs: FsType::Ext4,
        mkfs_args: vec!["-m".to_owned(), "0 \"'\u{e9}".to_owned()],
        when_full: WhenFull::Error,
        guard: Guard {
            min_free_data: Percent::new(5).unwrap(),
            min_free_metadata: Percent::new(0).unwrap(),
        },
        overcommit: true,
        first_thin_id: ThinId::new(0).unwrap(),
    }
}

fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

fn layer(chain: u8, parent: Option<u8>) -> LayerRecord {
    LayerRecord {
        chain_id: digest(chain),
        diff_id: digest(chain ^ 0xff),
        parent_chain: parent.map(digest),
        tar_bytes: Bytes::new(u64::from(chain) * 1000),
        nr_entries: u64::from(chain),
    }
}

fn image(config: u8, layers: &[VolumeId], names: &[&str]) -> NewImage {
    NewImage {
        config_digest: digest(config),
        manifest_digest: None,
        config: format!("{{\"n\":{config}}}").into_bytes(),
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        created: Some("2024-01-02T03:04:05Z".to_owned()),
        layers: layers.to_vec(),
        names: names.iter().map(|name| reference(name)).collect(),
    }
}

fn reference(text: &str) -> ImageRef {
    ImageRef::new(text).unwrap()
}

fn container_name(text: &str) -> ContainerName {
    ContainerName::new(text).unwrap()
}

fn container(name: &str, image: ImageId) -> NewContainer {
    NewContainer {
        name: container_name(name),
        image,
        image_name: "debian:12".to_owned(),
        size: None,
    }
}

fn ready_base(catalogue: &Catalogue) -> VolumeRecord {
    let base = catalogue
        .begin_volume(NewVolume::Base {
            fs: FsType::Ext4,
            size: BASE_SIZE,
        })
        .unwrap();
    catalogue.set_ready(base.id).unwrap();
    catalogue.volume(base.id).unwrap()
}

/// A layer of the size of all bases and layers here.
fn as_long_as(parent: VolumeId) -> NewVolume {
    let size = BASE_SIZE;
    NewVolume::Layer { parent, size }
}

fn begin_layer(catalogue: &Catalogue, parent: VolumeId) -> VolumeId {
    catalogue.begin_volume(as_long_as(parent)).unwrap().id
}

/// Sealed layers with these chain ids, each on the one before.
fn stack(catalogue: &Catalogue, base: VolumeId, chains: &[u8]) -> Vec<VolumeId> {
    let mut below = (base, None);
    let mut ids = Vec::new();
    for chain in chains {
        let id = begin_layer(catalogue, below.0);
        catalogue.seal_layer(id, &layer(*chain, below.1)).unwrap();
        below = (id, Some(*chain));
        ids.push(id);
    }
    ids
}

/// The variant's name: tests that run many verbs compare these.
fn variant(error: &StoreError) -> String {
    let text = format!("{error:?}");
    let end = text
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(text.len());
    text[..end].to_owned()
}

/// Asserts the variant of an error with its fields, and what it says.
macro_rules! assert_refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?, $text:expr) => {
        match $result {
            Err(error) => {
                assert_eq!(error.to_string(), $text);
                let shown = format!("{error:?}");
                assert!(matches!(error, $pattern $(if $guard)?), "{shown}");
            }
            Ok(done) => panic!("done instead of refused: {done:?}"),
        }
    };
}
use assert_refused;
